"""P4b: Adam, with and without depth."""

from __future__ import annotations

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, above, judge, shortfall
from implicit_accel.claims.estimators import effects_table
from implicit_accel.claims.published.optimizer_grid import (
    LENGTHENED,
    against,
    optimizer_curves,
    optimizer_figure,
    optimizer_runs,
)
from implicit_accel.claims.published.sources import PAPER_2018


def _test(lab: Context) -> Finding:
    name, runs = optimizer_runs(lab)
    over_depth = [against(runs, ("Adam", 1), ("gradient descent", d), f"{name}: ") for d in (2, 3)]
    with_depth = [against(runs, ("Adam", d), ("Adam", 1), f"{name}: ") for d in (2, 3)]
    others = [
        against(runs, (label, d), (label, 1), "")
        for label in ("momentum", "Nesterov")
        for d in (2, 3)
    ]
    parts = [above(e, 1.0) for e in (*over_depth, *with_depth)]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*over_depth, *with_depth),
        summary=f"Speed-ups of Adam on one layer over gradient descent: at depth 2 "
        f"{over_depth[0]}, at depth 3 {over_depth[1]}. Of Adam with depth over Adam on one layer: "
        f"depth 2 {with_depth[0]}, depth 3 {with_depth[1]}." + shortfall(verdict),
        sensitivity="Depth with other methods: " + "; ".join(f"{e.name} {e}" for e in others) + ".",
        caveats=("That the paper says so is known from memory.", LENGTHENED),
        tables={"Adam and depth": effects_table([*over_depth, *with_depth, *others])},
        figures={"optimizers": optimizer_figure(name, runs)},
        curves=optimizer_curves(name, runs),
    )


CLAIM = Claim(
    id="P4b",
    statement="Adam beats overparameterised gradient descent, and Adam with depth beats Adam.",
    source=f"{PAPER_2018} (from memory)",
    setting="As P4a.",
    criterion="Four speed-ups lie above 1, with their intervals: Adam on one layer over "
    "gradient descent at depths 2 and 3, and Adam at depths 2 and 3 over Adam on one layer.",
    test=_test,
    minutes=0.08,
    paper_hours=1.1,
)
