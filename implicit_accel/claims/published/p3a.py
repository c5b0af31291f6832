"""P3a: depth on ℓ2."""

from __future__ import annotations

from implicit_accel.claims.api import AS_CHOSEN, FIRST, Check, Claim, Context, Found, Measure, Range
from implicit_accel.claims.plots import Choices
from implicit_accel.claims.published.depth_grid import SLOW_DOWN, depth_curves, depth_figure
from implicit_accel.claims.published.rivals import (
    DEPTH_CHOICES,
    STABLE_SLOW_DOWN,
    first_touch_slow_down,
    first_touches,
    rivals,
    slow_down_by_choice,
)
from implicit_accel.claims.published.sources import PAPER_2018


def run(context: Context) -> Found:
    """Depths 1 to 3 on every problem."""
    runs = rivals(context)
    touching = first_touches(runs)
    return Found(runs=runs, figures=depth_figure(touching, 2), curves=depth_curves(touching, 2))


OVER = {"p": (2,), "depth": (2, 3)}

CLAIM = Claim(
    id="P3a",
    statement="On ℓ2, deeper is slightly slower.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    is_changed=True,
    run=run,
    condition="learning rates stay below the edge of stability; past it rounding decides",
    measures=(
        Measure(STABLE_SLOW_DOWN, slow_down_by_choice, {**OVER, "choice": DEPTH_CHOICES}),
        Measure(SLOW_DOWN, first_touch_slow_down, OVER),
    ),
    checks=tuple(
        Check(
            STABLE_SLOW_DOWN, at={"problem": FIRST, "choice": AS_CHOSEN, "depth": depth}, low=1.0,
            size=Range(1.0, 2.0), why="'slightly': less than twice the steps",
        )
        for depth in (2, 3)
    ),
    plots={
        "choices": Choices(
            STABLE_SLOW_DOWN, title="Depth 2 against one layer on ℓ2, by choice", at={"depth": 2},
            xlabel="steps of depth 2 over those of one layer", sides=("depth faster", "slower"),
        )
    },
    explained_by=("T1", "T4"),
    minutes=0.1,
    paper_hours=1.9,
)  # fmt: skip
