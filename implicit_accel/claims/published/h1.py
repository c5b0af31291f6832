"""H1: held-out loss at equal training loss."""

from __future__ import annotations

from collections.abc import Mapping

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
from implicit_accel.claims.estimators import median, model_number, side_of
from implicit_accel.claims.plots import Choices
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import held_out_at

RATIO = "held-out loss over one layer's at equal training loss"
HELD_OUT = 0.2
SPLITS = Scaled((0,), (0, 1, 2), (0, 1, 2, 3, 4))
"""Seeds of the split into training and held-out rows."""
SMALL_RATES = "half of the best rates"
OTHER_SPLITS = {f"split {seed}": seed for seed in (1, 2, 3, 4)}
SHARES = {"target 30 %": 0.3, "target 6 %": 0.06}

Runs = Mapping[int, xr.Dataset]
"""Seed of the split → results."""


def problems(context: Context) -> dict[tuple[str, int], Problem]:
    """Ethanol or its stand-in, and Abalone if it is here, by name and seed of the split."""
    gas, abalone = context.gas(), context.abalone()
    datasets = {"stand-in" if gas.is_stand_in else "Ethanol": gas}
    if abalone is not None:
        datasets["Abalone"] = abalone
    return {
        (name, seed): make_problem(dataset, held_out_fraction=HELD_OUT, split_seed=seed)
        for number, (name, dataset) in enumerate(datasets.items())
        for seed in (SPLITS.at(context) if not number else (0,))
    }  # fmt: skip


def run(context: Context) -> Found:
    """Depths 1 to 3 on ℓ2 and ℓ4, at stable rates that are searched for."""
    config = SweepConfig(
        depths=(1, 2, 3), losses=(Loss(2), Loss(4)), num_seeds=context.pick(2, 6, 20),
        num_steps=context.pick(300, 20_000, 200_000),
    )  # fmt: skip
    runs: dict[str, dict[int, xr.Dataset]] = {}
    for (name, seed), problem in problems(context).items():
        trained = context.tuned(problem, config, best_by="stable", tolerance=0.03)
        runs.setdefault(name, {})[seed] = trained
    return Found(runs=runs)


def held_out_losses(
    results: xr.Dataset, model: int, share: float | None = None, part: float = 1.0
) -> np.ndarray:
    """(seed,) held-out losses at the first step at the target, at a model's best stable rate.

    Args:
        results: A sweep's.
        model: Number of the model.
        share: The target, if not the sweep's own.
        part: Of the best rate; the highest trained rate up to it is taken.

    Returns:
        The losses, interpolated in the logarithms of loss and step; NaN where a run does not reach
        the target.
    """
    found = side_of(results, model, share, "stable")
    best = int(found.best(found.all_seeds)[0])
    if best < 0:
        return np.full(found.num_seeds, np.nan)
    lower = np.flatnonzero(found.rates <= found.rates[best] * part)
    chosen = int(lower[-1]) if len(lower) else best
    rate = int(np.flatnonzero(results["learning_rate"].values == found.rates[chosen])[0])
    return held_out_at(results, model, rate, found.steps[chosen])


def ratio(runs: Runs, p: int, depth: int, choice: str) -> Effect | None:
    """The median held-out loss of a depth over one layer's, seed by seed."""
    results = runs.get(OTHER_SPLITS.get(choice, 0))
    if results is None:
        return None
    part = 0.5 if choice == SMALL_RATES else 1.0
    deep, one = (
        held_out_losses(
            results, model_number(results, loss_name=f"l{p}", depth=n), SHARES.get(choice), part
        )
        for n in (depth, 1)
    )
    ratios = deep / one
    return median(ratios[np.isfinite(ratios)], least=0)


CLAIM = Claim(
    id="H1",
    statement="At the same training loss depth 2 and one layer have the same held-out loss.",
    source="This project's question",
    is_read=None,
    run=run,
    choices=("problem", "choice", "p"),
    measures=(
        Measure(
            RATIO, ratio,
            {
                "p": (4, 2), "depth": (2, 3),
                "choice": (AS_CHOSEN, *SHARES, SMALL_RATES, *OTHER_SPLITS),
            },
        ),
    ),
    checks=(
        Check(
            RATIO, {"problem": FIRST, "p": 4, "depth": 2, "choice": AS_CHOSEN},
            low=0.95, high=1.05, closed=True,
        ),
    ),
    plots={
        "choices": Choices(
            RATIO, title="Held-out loss of depth 2 over one layer's on ℓ4, by choice",
            xlabel="held-out loss over one layer's", at={"p": 4, "depth": 2},
            sides=("lower", "higher"),
        ),
    },
    minutes=8.0,
    paper_hours=2.0,
)  # fmt: skip
