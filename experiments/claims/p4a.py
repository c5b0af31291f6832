"""P4a: depth against AdaGrad and AdaDelta."""

from __future__ import annotations

import xarray as xr

from experiments.claims.criteria import (
    Claim,
    Effect,
    Finding,
    above,
    judge,
    shortfall,
)
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table
from experiments.claims.toolkit.optimizer_grid import (
    LENGTHENED,
    against,
    optimizer_figure,
    optimizer_runs,
)
from experiments.claims.toolkit.sources import PAPER_2018

_RIVALS = (
    "AdaGrad",
    "AdaGrad (PyTorch's)",
    "AdaDelta (optax's and PyTorch's)",
    "AdaDelta (TensorFlow 1's)",
)


def _measure(runs: dict[str, xr.Dataset], depth: int, prefix: str = "") -> list[Effect]:
    """A depth by gradient descent against every rival on one layer."""
    own = ("gradient descent", depth)
    return [against(runs, own, (label, 1), prefix) for label in _RIVALS]


def _reason(limited: list[Effect], shallower: list[Effect]) -> str:
    """Why depth 3 does not beat them all, as text; empty if we do not know."""
    if any(judge([above(e, 1.0)]).holds for e in limited[2:]):
        return (
            "AdaDelta is at its best at rates far above those that the paper's grid is said to "
            "have: a grid for all optimizers does not do it justice."
        )
    if all(judge([above(e, 1.0)]).holds for e in shallower):
        return (
            "Depth 2 beats all of them; depth 3 loses its time on the plateau, with some "
            "starts more than with others."
        )
    return ""


def _test(lab: Laboratory) -> Finding:
    name, runs = optimizer_runs(lab)
    # The paper's rates end at 0.5 for every optimizer.
    low = {label: run.sel(learning_rate=run["learning_rate"] <= 0.5) for label, run in runs.items()}
    effects, limited = _measure(runs, 3, f"{name}: "), _measure(low, 3)
    shallower = _measure(runs, 2)
    parts = [above(e, 1.0) for e in effects]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="Speed-ups of depth 3 by gradient descent: "
        + "; ".join(f"over {r} {e}" for r, e in zip(_RIVALS, effects, strict=True))
        + ". With no rate above 0.5, where the paper's grid ends: "
        + "; ".join(f"{r} {e}" for r, e in zip(_RIVALS, limited, strict=True))
        + "."
        + shortfall(verdict, _reason(limited, shallower)),
        sensitivity="With depth 2 in its place: "
        + "; ".join(f"{r} {e}" for r, e in zip(_RIVALS, shallower, strict=True))
        + ". Each optimizer has a range of rates of its own.",
        caveats=(
            "What settings the paper's optimizers had beyond their framework's defaults is known "
            "from memory only.",
            LENGTHENED,
        ),
        tables={"Depth by gradient descent against one layer": effects_table(effects + shallower)},
        figures={"optimizers": optimizer_figure(name, runs)},
    )


CLAIM = Claim(
    id="P4a",
    statement="Depth 3 by gradient descent beats AdaGrad and AdaDelta on one layer.",
    source=f"{PAPER_2018}, authors' blog post (read)",
    setting="ℓ4, width 1, each optimizer with a range of learning rates of its own; AdaGrad "
    "and AdaDelta with the defaults of two frameworks each.",
    criterion="The speed-up of depth 3 by gradient descent over each of them on one layer "
    "lies above 1, with its interval.",
    test=_test,
    paper_hours=1.1,
)
