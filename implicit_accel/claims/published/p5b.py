"""P5b: very deep networks from the identity."""

from __future__ import annotations

import xarray as xr

from implicit_accel.claims.api import FIRST, Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import compare, median, model_number
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.very_deep import (
    IDENTITY_STEPS,
    deep_rates,
    deep_run,
    first_moves,
    identity_figure,
)
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

Runs = tuple[xr.Dataset, xr.Dataset]
"""Depths 4 and 8 from the identity, and one layer from near zero."""


def run(context: Context) -> Found:
    """Depths 4 and 8 from the identity and one layer on every problem; near zero on the first."""
    config = SweepConfig(
        depths=(1,), losses=(Loss(2), Loss(4)), learning_rates=deep_rates(context, "identity"),
        num_seeds=context.pick(2, 8, 20),
        num_steps=context.pick(300, IDENTITY_STEPS, 1_000_000),
    )  # fmt: skip
    deep = context.on_problems(lambda own, problem: deep_run(own, problem, "identity"))
    one = context.on_problems(lambda own, problem: own.sweep(problem, config))
    first, problem = context.first_problem()
    near_zero = deep_run(context, problem, "near_zero")
    return Found(
        runs={name: (deep[name], one[name]) for name in deep},
        figures={"very_deep": identity_figure(first, one[first], deep[first], near_zero)},
        curves={f"{first}, depths 4 and 8 from the identity": Curves(deep[first])},
    )


def speed_up(runs: Runs, p: int, depth: int) -> Effect:
    """The deep network's speed-up over one layer."""
    deep, one = runs
    loss = f"l{p}"
    return compare(
        deep, model_number(deep, loss_name=loss, depth=depth), model_number(one, loss_name=loss),
        base_results=one,
    )  # fmt: skip


def first_move(runs: Runs, p: int, depth: int) -> Effect:
    """The median first step with a tenth of the excess loss gone, see `first_moves`."""
    deep, _ = runs
    steps, rate = first_moves(deep, model_number(deep, loss_name=f"l{p}", depth=depth))
    return median(steps, unit=" steps", note=f"rate {rate:g}")


CLAIM = Claim(
    id="P5b",
    statement="From the identity, depths 4 and 8 move at once and are faster than one layer.",
    source=f"{PAPER_2018} (from memory)",
    is_read=False,
    is_changed=True,
    run=run,
    choices=("problem", "p", "depth"),
    measures=(
        Measure("speed-up over one layer", speed_up, {"p": (4, 2), "depth": (4, 8)}),
        Measure("first move", first_move, {"p": (2, 4), "depth": (4, 8)}),
    ),
    checks=(
        Check(
            "first move", {"problem": FIRST}, high=1000.0,
            why="a hundredth of the steps that the source gives for a start near zero",
        ),
        Check("speed-up over one layer", {"problem": FIRST, "p": 4}, low=1.0),
    ),
    minutes=2.5,
    paper_hours=1.7,
)  # fmt: skip
