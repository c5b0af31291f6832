"""P0 to P3: does depth accelerate lp regression, and does width matter?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from experiments.claims.laboratory import Laboratory
from implicit_accel.claims import (
    Claim,
    Effect,
    Finding,
    Verdict,
    above,
    below,
    compare,
    together,
    within,
)
from implicit_accel.grid import SweepConfig, parse_learning_rates
from implicit_accel.losses import Loss
from implicit_accel.plotting import plot_excess_loss
from implicit_accel.results import select

_PAPER = "Arora, Cohen & Hazan 2018"

# "Orders of magnitude", plural, taken at its word.
_ORDERS_OF_MAGNITUDE = 100.0


def model_number(results: xr.Dataset, **coordinates: object) -> int:
    """The number of the one model with these coordinates."""
    chosen = np.ones(results.sizes["model"], bool)
    for name, value in coordinates.items():
        chosen &= results[name].values == value
    (number,) = np.flatnonzero(chosen)
    return int(number)


def depth_grid(lab: Laboratory) -> SweepConfig:
    """Depths 1 to 3, width 1, both losses: what P0, P3a and P3b share."""
    return SweepConfig(
        depths=(1, 2, 3),
        losses=(Loss(2), Loss(4)),
        learning_rates=parse_learning_rates(
            [lab.pick("log:1e-3:1:7", "log:1e-3:3:43", "log:1e-4:5:97")]
        ),
        num_seeds=lab.pick(2, 10, 30),
        num_steps=lab.pick(300, 20_000, 200_000),
    )


def _speed_ups(lab: Laboratory, loss: str, depths: tuple[int, ...]) -> dict[str, list[Effect]]:
    """For every problem, the speed-up of these depths over one layer."""
    found = {}
    for name, problem in lab.problems().items():
        results = lab.sweep(problem, depth_grid(lab))
        base = model_number(results, loss_name=loss, depth=1)
        found[name] = [
            compare(
                results,
                model_number(results, loss_name=loss, depth=depth),
                base,
                name=f"{name}, ℓ{loss[1:]}, depth {depth}",
            )
            for depth in depths
        ]
    return found


def effects_table(effects: list[Effect]) -> pd.DataFrame:
    """Effects as rows."""
    return pd.DataFrame([{"effect": e.name, "value": str(e), "remarks": e.note} for e in effects])


def _figure(lab: Laboratory, loss: str) -> dict[str, object]:
    name, problem = next(iter(lab.problems().items()))
    results = select(lab.sweep(problem, depth_grid(lab)), loss_name=loss)
    return {f"excess_loss_{name.lower().replace('-', '_')}": plot_excess_loss(results)}


def _one_scalar(lab: Laboratory) -> Finding:
    found = _speed_ups(lab, "l4", (2,))
    effects = [effect for group in found.values() for effect in group]
    verdict = above(effects[0], 1.0)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary=f"Depth 2 with one hidden scalar against one layer, ℓ4: {effects[0]} as fast on "
        f"the first problem.",
        sensitivity="Other problems: " + "; ".join(f"{e.name} {e}" for e in effects[1:]) + ".",
        tables={"Speed-ups": effects_table(effects)},
        figures=_figure(lab, "l4"),
    )


def _l2(lab: Laboratory) -> Finding:
    found = _speed_ups(lab, "l2", (2, 3))
    effects = [effect for group in found.values() for effect in group]
    first = effects[:2]
    return Finding(
        verdict=together([below(e, 1.0) for e in first]),
        effects=tuple(effects),
        summary=f"On ℓ2 depth 2 is {first[0]} and depth 3 {first[1]} as fast as one layer.",
        sensitivity="Other problems: " + "; ".join(f"{e.name} {e}" for e in effects[2:]) + ".",
        tables={"Speed-ups": effects_table(effects)},
        figures=_figure(lab, "l2"),
    )


def _l4(lab: Laboratory) -> Finding:
    found = _speed_ups(lab, "l4", (2, 3))
    effects = [effect for group in found.values() for effect in group]
    first = effects[:2]
    faster = [above(e, 1.0) for e in first]
    far = [above(e, _ORDERS_OF_MAGNITUDE) for e in first]
    size = "of that size" if together(far) == Verdict.REPRODUCED else "far from orders of magnitude"
    verdict = together([*faster, *far])
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary=f"On ℓ4 depth 2 is {first[0]} and depth 3 {first[1]} as fast as one layer: {size}.",
        sensitivity="Other problems: " + "; ".join(f"{e.name} {e}" for e in effects[2:]) + ".",
        tables={"Speed-ups": effects_table(effects)},
        figures=_figure(lab, "l4"),
    )


def _width(lab: Laboratory) -> Finding:
    widths = lab.pick((1, 8), (1, 4, 16, 64), (1, 4, 16, 64, 256))
    name, problem = next(iter(lab.problems().items()))
    config = SweepConfig(
        depths=(2, 3),
        hidden_widths=widths,
        losses=(Loss(2), Loss(4)),
        learning_rates=parse_learning_rates(
            [lab.pick("log:3e-3:0.3:5", "log:1e-3:1:19", "log:1e-3:1:37")]
        ),
        num_seeds=lab.pick(2, 5, 20),
        num_steps=lab.pick(300, 20_000, 100_000),
    )
    results = lab.sweep(problem, config)
    effects = []
    for loss in ("l2", "l4"):
        for depth in (2, 3):

            def number(width: int, depth: int = depth, loss: str = loss) -> int:
                hidden = "x".join([str(width)] * (depth - 1))
                return model_number(results, loss_name=loss, depth=depth, hidden_widths=hidden)

            effects += [
                compare(
                    results, number(width), number(1),
                    name=f"{name}, ℓ{loss[1:]}, depth {depth}, width {width} against width 1",
                )
                for width in widths[1:]
            ]  # fmt: skip
    worst = max(effects, key=lambda e: abs(np.log(e.value)))
    return Finding(
        verdict=together([within(e, 0.8, 1.25) for e in effects]),
        effects=(worst, *(e for e in effects if e is not worst)),
        summary=f"The largest difference between widths: {worst.name}, {worst} as fast.",
        tables={"Width against width 1": effects_table(effects)},
        figures={"excess_loss": plot_excess_loss(results)},
    )


CLAIMS = (
    Claim(
        id="P0",
        statement="One extra scalar already speeds up ℓ4 regression.",
        source=f"{_PAPER} and its authors' blog post (read)",
        setting="Depth 2, hidden width 1, ℓ4, near-zero start (std 0.01), gradient descent, each "
        "depth at its own best learning rate; steps to 10 % of the zero map's excess loss.",
        criterion="The 95 % interval of the speed-up over one layer lies above 1: any gain that "
        "seeds and the choice of the rate do not explain.",
        test=_one_scalar,
    ),
    Claim(
        id="P2",
        statement="The hidden width does not matter.",
        source=f"{_PAPER} and its authors' blog post (read; details from memory)",
        setting="Depths 2 and 3, widths from 1 to wide, ℓ2 and ℓ4, each at its best learning rate.",
        criterion="Every width's speed-up over width 1 lies within 0.8 and 1.25, with its "
        "interval: a wider start is a larger one (its end-to-end matrix grows with the root of the "
        "width), which may shift the time of the first move by some per cent.",
        test=_width,
    ),
    Claim(
        id="P3a",
        statement="On ℓ2, deeper is slightly slower.",
        source=f"{_PAPER} and its authors' blog post (read)",
        setting="Depths 1 to 3, width 1, ℓ2, each depth at its own best learning rate; steps to "
        "10 % of the zero map's excess loss.",
        criterion="The intervals of the speed-ups of depths 2 and 3 over one layer lie below 1.",
        test=_l2,
    ),
    Claim(
        id="P3b",
        statement="On ℓ4, deeper is much faster, by orders of magnitude.",
        source=f"{_PAPER} and its authors' blog post (read)",
        setting="As P3a, with ℓ4.",
        criterion="Two parts for each of depths 2 and 3: the speed-up's interval lies above 1; and "
        "it lies above 100, two orders of magnitude being the least that the plural allows.",
        test=_l4,
    ),
)
