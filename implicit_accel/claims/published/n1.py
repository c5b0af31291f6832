"""N1: depth on ℓ4 with mini-batches."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import xarray as xr

from implicit_accel.claims.api import (
    AS_CHOSEN,
    FIRST,
    Check,
    Claim,
    Context,
    Effect,
    Found,
    Measure,
    Scaled,
)
from implicit_accel.claims.plots import Lines
from implicit_accel.claims.published.own_losses import gain, make_fit, train
from implicit_accel.data.problems import Problem
from implicit_accel.linear.losses import Loss

SPEED_UP = "speed-up at stable rates"
BATCHES = Scaled((128,), (8, 32, 128), (8, 32, 128, 512))
CHOSEN = 128
FIRST_TOUCH = "first to the target"
SHARES = {"target 30 %": 0.3, "target 6 %": 0.06}
CHOICES = (AS_CHOSEN, *SHARES, FIRST_TOUCH)

Runs = dict[int, xr.Dataset]
"""Batch size → results."""


def runs_of(context: Context, name: str, problem: Problem) -> Runs:
    """Depths 1 and 2 at every batch size."""

    def penalty(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return Loss(4).mean(outputs - labels)

    fit = make_fit(name, problem.features, problem.targets, penalty)
    return {
        batch: train(
            context, fit, depths=(1, 2), rates=np.geomspace(1e-4, 1, context.pick(6, 61, 121)),
            num_seeds=context.pick(2, 6, 20), num_steps=context.pick(200, 200_000, 1_000_000),
            batch_size=batch,
        )
        for batch in BATCHES.at(context)
    }  # fmt: skip


def run(context: Context) -> Found:
    """Mini-batches of several sizes."""
    problems = context.problems()
    trained = context.side_by_side(
        partial(runs_of, name=name, problem=problem) for name, problem in problems.items()
    )
    return Found(runs=dict(zip(problems, trained, strict=True)))


def speed_up(runs: Runs, batch: int, choice: str) -> Effect | None:
    """The speed-up of depth 2 over one layer in steps, by a choice."""
    if batch not in runs:
        return None
    rule = "target" if choice == FIRST_TOUCH else "stable"
    return gain(runs[batch], 2, SHARES.get(choice), rule)


CLAIM = Claim(
    id="N1",
    statement="The acceleration of depth 2 on ℓ4 survives mini-batches.",
    source="This project's question",
    is_read=None,
    is_changed=True,
    run=run,
    choices=("problem", "choice", "batch"),
    condition="the data are Ethanol's, and a batch has 128 rows",
    measures=(
        Measure(SPEED_UP, speed_up, {"batch": BATCHES, "choice": CHOICES}),
    ),
    checks=(Check(SPEED_UP, {"problem": FIRST, "batch": CHOSEN, "choice": AS_CHOSEN}, low=1.0),),
    plots={
        "batches": Lines(
            SPEED_UP, at={"choice": AS_CHOSEN}, x="batch", lines="problem",
            title="Depth 2 over one layer on ℓ4, by batch size", xlabel="rows in a batch",
            ylabel="speed-up at stable rates",
        ),
    },
    minutes=6.0,
    paper_hours=2.0,
)  # fmt: skip
