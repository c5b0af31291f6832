"""Depths 1 to 3 at width 1, each at rates of its own: what P0, P3a and P3b share."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import compare, model_number
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import plot_excess_loss
from implicit_accel.results import select

_TARGET = 0.1


def depth_runs(lab: Context) -> dict[str, xr.Dataset]:
    """Depths 1 to 3, width 1, both losses, on every problem: results by its name."""
    config = SweepConfig(
        depths=(1, 2, 3),
        losses=(Loss(2), Loss(4)),
        num_seeds=lab.pick(2, 20, 40),
        num_steps=lab.pick(300, 20_000, 200_000),
    )
    return lab.on_problems(lambda own, problem: own.tuned(problem, config))


def speed_ups(
    runs: dict[str, xr.Dataset], loss: str, depths: tuple[int, ...], *, inverse: bool = False
) -> list[Effect]:
    """The speed-ups of these depths over one layer, problem by problem.

    Args:
        runs: From `depth_runs`.
        loss: Its name, e.g. ``l4``.
        depths: The depths.
        inverse: Whether one layer's speed-up over them is wanted: how many times slower they are.
    """
    return [
        _compared(results, loss, depth, name, inverse=inverse)
        for name, results in runs.items()
        for depth in depths
    ]


def _compared(results: xr.Dataset, loss: str, depth: int, name: str, *, inverse: bool) -> Effect:
    pair = [model_number(results, loss_name=loss, depth=d) for d in (depth, 1)]
    model, base = reversed(pair) if inverse else pair
    label = f"{name}, ℓ{loss[1:]}, depth {depth}" + (": times slower" if inverse else "")
    quantity = quantity_of(name, loss, depth, inverse=inverse)
    return compare(results, model, base, name=label, quantity=quantity)


def quantity_of(name: str, loss: str, depth: int, *, inverse: bool = False) -> str:
    """What these speed-ups are called wherever they are measured, see `Effect.quantity`."""
    what = "slow-down" if inverse else "speed-up"
    return f"{what}, {name}, {loss}, depth {depth}, near zero 0.01, width 1, to {_TARGET:.0%}"


def elsewhere(effects: list[Effect]) -> str:
    """The same on the other problems, where there are any, as text."""
    if not effects:
        return ""
    return "Other problems: " + "; ".join(f"{e.name} {e}" for e in effects) + "."


def depth_curves(
    runs: dict[str, xr.Dataset], loss: str, depths: tuple[int, ...] = (1, 2, 3)
) -> dict[str, Curves]:
    """What the page lets one explore of these runs, problem by problem."""
    return {
        f"{name}, ℓ{loss[1:]}, each depth at rates that were searched for": Curves(
            results.isel(
                model=np.flatnonzero(
                    (results["loss_name"].values == loss) & np.isin(results["depth"].values, depths)
                )
            )
        )
        for name, results in runs.items()
    }


def depth_figure(runs: dict[str, xr.Dataset], loss: str) -> dict[str, Figure]:
    """The excess losses on the first problem, by the figure's name."""
    name, results = next(iter(runs.items()))
    chosen = select(results, loss_name=loss)
    return {f"excess_loss_{name.lower().replace('-', '_')}": plot_excess_loss(chosen)}
