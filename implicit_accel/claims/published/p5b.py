"""P5b: very deep networks from the identity."""

from __future__ import annotations

import xarray as xr

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, above, below, judge, shortfall
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import compare, effects_table, model_number
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.very_deep import (
    IDENTITY_STEPS,
    deep_rates,
    deep_runs,
    identity_figure,
    moves,
)
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

_CASES = tuple((loss, depth) for loss in ("l2", "l4") for depth in (4, 8))


def _one_layer(lab: Context) -> dict[str, xr.Dataset]:
    """One layer from near zero, on every problem: results by its name."""
    config = SweepConfig(
        depths=(1,),
        losses=(Loss(2), Loss(4)),
        learning_rates=deep_rates(lab, "identity"),
        num_seeds=lab.pick(2, 8, 20),
        num_steps=lab.pick(300, IDENTITY_STEPS, 1_000_000),
    )
    return lab.on_problems(lambda own, problem: own.sweep(problem, config))


def _measure(deep: dict[str, xr.Dataset], one: dict[str, xr.Dataset]) -> list[Effect]:
    """The deep networks against one layer, problem by problem."""
    return [
        compare(
            results,
            model_number(results, loss_name=loss, depth=depth),
            model_number(one[name], loss_name=loss),
            base_results=one[name],
            name=f"{name}, ℓ{loss[1:]}, depth {depth}",
        )
        for name, results in deep.items()
        for loss, depth in _CASES
    ]


def _test(lab: Context) -> Finding:
    first_moves = moves(lab, "identity")
    deep, one, first = deep_runs(lab, "identity"), _one_layer(lab), next(iter(lab.problems()))
    effects = _measure(deep, one)
    on_first = [first_moves[first, loss, depth][0] for loss, depth in _CASES]
    l4 = [e for e in effects[:4] if "ℓ4" in e.name]
    parts = [*(below(e, 1000) for e in on_first), *(above(e, 1.0) for e in l4)]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*l4, *(e for e in effects if e not in l4)),
        summary=f"On {first} networks that start near the identity first move after "
        + ", ".join(f"{e} ({e.name.split(',', 1)[1].split(':')[0].strip()})" for e in on_first)
        + ". Against one layer on ℓ4: "
        + ", ".join(f"{e.name.rsplit(', ', 1)[1]} {e}" for e in l4)
        + "."
        + shortfall(verdict),
        sensitivity="Others: " + "; ".join(f"{e.name} {e}" for e in effects if e not in l4) + ".",
        caveats=(
            "With width 1 the identity start has one large weight, on the first feature; the one "
            "layer compared with starts near zero. After a first look at the paper's ten rates "
            "finer ones took their place.",
        ),
        tables={
            "Speed-up over one layer": effects_table(effects),
            "First moves from the identity": effects_table([e for e, _ in first_moves.values()]),
        },
        figures={"very_deep": identity_figure(lab, one[first])},
        captions={
            "very_deep": f"From the identity depths 4 and 8 move at once; on ℓ4 depth 4 is {l4[0]} "
            "as fast as one layer. Thin lines are single seeds; one that diverges leaves the axes."
        },
        curves={
            f"{name}, depths 4 and 8 from the identity": Curves(results)
            for name, results in list(deep.items())[:1]
        },
    )


CLAIM = Claim(
    id="P5b",
    statement="From the identity, depths 4 and 8 move at once and are faster than one layer.",
    source=f"{PAPER_2018} (from memory)",
    setting="As P5a from identity starts, and one layer from near zero, with 19 learning rates "
    "from 1e-4 to 1.",
    criterion="A tenth of the excess loss is gone within 1,000 steps (a hundredth of what near "
    "zero is said to take) at both depths and losses, and the speed-ups over one layer on ℓ4 "
    "lie above 1.",
    test=_test,
    minutes=2.5,
    paper_hours=1.7,
)
