"""R1: depth against a schedule on one layer."""

from __future__ import annotations

from implicit_accel.claims.api import (
    AS_CHOSEN,
    FIRST,
    Check,
    Claim,
    Context,
    Found,
    Measure,
)
from implicit_accel.claims.plots import Choices, Forest
from implicit_accel.claims.published.rivals import (
    BY_CHOICE,
    FROM_PRODUCT,
    METHODS,
    OTHER_WARMUPS,
    POWERS,
    against_depth,
    against_one_layer,
    curves_figure,
    gain_of_depth,
    rivals,
    schedule_over_depth,
    table_of_steps,
)

OVER_DEPTH = "speed-up of a warm-up on one layer over depth 2"
OVER_ONE_LAYER = "speed-up over one layer at a constant rate"
SCHEDULE_OVER_DEPTH = "speed-up of a schedule on one layer over depth 2"
OF_DEPTH = "speed-up of depth 2 with the same schedule"


def run(context: Context) -> Found:
    """Every method on every problem, at learning rates that are searched for."""
    runs = rivals(context)
    return Found(
        runs=runs,
        tables={"Steps at the best stable learning rate": table_of_steps(runs)},
        figures={"curves": curves_figure(runs)},
    )


CLAIM = Claim(
    id="R1",
    statement="On ℓ4 one layer with a linear warm-up needs no more steps than depth 2.",
    source="This project's question, after a prototype",
    is_read=None,
    is_changed=True,
    run=run,
    condition="runs are stable, and the target is 10 % or higher and takes more steps than the "
    "warm-up",
    measures=(
        Measure(OVER_DEPTH, against_depth, {"choice": (*BY_CHOICE, FROM_PRODUCT, *OTHER_WARMUPS)}),
        Measure(
            OVER_ONE_LAYER, against_one_layer, {"p": POWERS, "method": METHODS, "depth": (1, 2)}
        ),
        Measure(
            SCHEDULE_OVER_DEPTH, schedule_over_depth, {"method": METHODS[1:], "share": (0.1, 0.06)}
        ),
        Measure(OF_DEPTH, gain_of_depth, {"p": POWERS, "method": METHODS}),
    ),
    checks=(Check(OVER_DEPTH, at={"problem": FIRST, "choice": AS_CHOSEN}, low=1.0),),
    plots={
        "choices": Choices(
            OVER_DEPTH, title="Warm-up on one layer over depth 2, by choice",
            xlabel="steps of depth 2 over one layer's with warm-up",
        ),
        "schedules": Forest(
            SCHEDULE_OVER_DEPTH, title="One layer with a schedule against depth 2, ℓ4",
            series="share", xlabel="steps of depth 2 over one layer's with schedule",
        ),
        "methods": Forest(
            OVER_ONE_LAYER, title="Schedules and depth on ℓ4", at={"p": 4.0}, series="depth",
            xlabel="speed-up over one layer at a constant rate",
        ),
        "depth_beside_schedule": Forest(
            OF_DEPTH, title="What depth 2 adds to a schedule on ℓ4", at={"p": 4.0},
            xlabel="speed-up of depth 2 over one layer, same schedule",
        ),
    },
    minutes=30.0,
    paper_hours=8.0,
)  # fmt: skip
