"""P3a: depth on ℓ2."""

from __future__ import annotations

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Range, above, judge, shortfall
from implicit_accel.claims.estimators import effects_table
from implicit_accel.claims.published.depth_grid import (
    depth_curves,
    depth_figure,
    depth_runs,
    elsewhere,
    speed_ups,
)
from implicit_accel.claims.published.sources import PAPER_2018

# "Slightly": less than twice the steps.
_SLIGHTLY = Range(1.0, 2.0)


def _test(lab: Context) -> Finding:
    runs = depth_runs(lab)
    effects = speed_ups(runs, "l2", (2, 3), inverse=True)
    first = effects[:2]
    verdict = judge([above(e, 1.0, size=_SLIGHTLY) for e in first])
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary=f"On ℓ2 one layer is faster than depth 2 by {first[0]} and than depth 3 by "
        f"{first[1]}."
        + shortfall(
            verdict,
            "Depth 3 spends its time on the plateau near zero, which the start's size sets (T4).",
        ),
        cause=Cause(
            ("T1", "T4"),
            "On ℓ2 the sharpness of one layer is constant, so that its rate is not held back by "
            "its first steps; depth adds the time on the plateau and a condition number.",
        ),
        sensitivity=elsewhere(effects[2:]),
        caveats=(
            "A run counts as there when it first touches the target. Depth 3's best rate for that "
            "lies past the edge of stability (T3): its loss swings, and is above the target again "
            "most of the time after.",
        ),
        tables={"Slow-downs": effects_table(effects)},
        figures=depth_figure(runs, "l2"),
        curves=depth_curves(runs, "l2"),
    )


CLAIM = Claim(
    id="P3a",
    statement="On ℓ2, deeper is slightly slower.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="Depths 1 to 3, width 1, ℓ2, near-zero start (std 0.01), each depth at rates that are "
    "searched for; steps to 10 % of the zero predictor's excess loss.",
    criterion="One layer's speed-up over depths 2 and 3 lies above 1 (direction) and below 2 "
    "('slightly', size), with the intervals.",
    test=_test,
    minutes=0.1,
    paper_hours=1.9,
)
