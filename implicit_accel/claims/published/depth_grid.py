"""Depths 1 to 3 at width 1, each at learning rates of its own: what P0, P3a and P3b share."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Context, Effect
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import compare, model_number
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import plot_excess_loss
from implicit_accel.results import select

SPEED_UP, SLOW_DOWN = "speed-up to 10 %", "slow-down to 10 %"
"""Measures: to 10 % of the zero predictor's excess loss."""


def depth_runs(context: Context) -> dict[str, xr.Dataset]:
    """Depths 1 to 3, width 1, both losses, on every problem: results by its name."""
    config = SweepConfig(
        depths=(1, 2, 3), losses=(Loss(2), Loss(4)), num_seeds=context.pick(2, 20, 40),
        num_steps=context.pick(300, 20_000, 200_000),
    )  # fmt: skip
    return context.on_problems(lambda own, problem: own.tuned(problem, config))


def speed_up(results: xr.Dataset, p: int, depth: int) -> Effect:
    """The speed-up of a depth over depth 1."""
    return compare(results, *_pair(results, p, depth))


def _pair(results: xr.Dataset, p: int, depth: int) -> tuple[int, int]:
    model, base = (model_number(results, loss_name=f"l{p}", depth=n) for n in (depth, 1))
    return model, base


def depth_curves(
    runs: dict[str, xr.Dataset], p: int, depths: tuple[int, ...] = (1, 2, 3)
) -> dict[str, Curves]:
    """Explorer curves of these runs, problem by problem."""
    found = {}
    for name, results in runs.items():
        chosen = (results["loss_name"].values == f"l{p}") & np.isin(results["depth"].values, depths)
        title = f"{name}, ℓ{p}, each depth at rates that were searched for"
        found[title] = Curves(results.isel(model=np.flatnonzero(chosen)))
    return found


def depth_figure(runs: dict[str, xr.Dataset], p: int) -> dict[str, Figure]:
    """The excess losses on the first problem, by the figure's name."""
    name, results = next(iter(runs.items()))
    chosen = select(results, loss_name=f"l{p}")
    return {
        f"excess_loss_{name.lower().replace('-', '_')}": plot_excess_loss(chosen, best_by="target")
    }
