"""P3a: depth on ℓ2."""

from __future__ import annotations

from implicit_accel.claims.api import FIRST, Check, Claim, Context, Found, Measure, Range
from implicit_accel.claims.published.depth_grid import (
    SLOW_DOWN,
    depth_curves,
    depth_figure,
    depth_runs,
    slow_down,
)
from implicit_accel.claims.published.sources import PAPER_2018


def run(context: Context) -> Found:
    """Depths 1 to 3 on every problem."""
    runs = depth_runs(context)
    return Found(runs=runs, figures=depth_figure(runs, 2), curves=depth_curves(runs, 2))


CLAIM = Claim(
    id="P3a",
    statement="On ℓ2, deeper is slightly slower.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    run=run,
    measures=(Measure(SLOW_DOWN, slow_down, {"p": (2,), "depth": (2, 3)}),),
    checks=(
        Check(
            SLOW_DOWN, at={"problem": FIRST}, low=1.0, size=Range(1.0, 2.0),
            why="'slightly': less than twice the steps",
        ),
    ),
    explained_by=("T1", "T4"),
    minutes=0.1,
    paper_hours=1.9,
)  # fmt: skip
