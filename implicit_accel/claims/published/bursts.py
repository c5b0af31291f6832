"""Bursts of the loss, and whether the edge of stability makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.published.student import deep_models, kept_losses, student_run
from implicit_accel.data.dataset import Dataset
from implicit_accel.linear.config import SweepConfig, parse_hidden_widths
from implicit_accel.observables import stability_threshold

SPIKE = 1.1
"""A loss that rises this far above the lowest before it bursts."""

BEFORE = 20
"""Steps before a burst within which the edge of stability must have been passed to make it."""

CRITERION = (
    f"a loss {100 * (SPIKE - 1):.0f} % above the lowest before it, with ηλ above 2 within "
    f"{BEFORE} steps before"
)

# Dense enough for records at every step of these short runs.
_EVERY_STEP = 1000


def starts(loss: np.ndarray) -> np.ndarray:
    """Where bursts begin.

    Args:
        loss: (run, step) training losses.

    Returns:
        (run, step) booleans: the loss first rises that far above its lowest.
    """
    high = loss > SPIKE * np.minimum.accumulate(loss, axis=1)
    return high & ~np.pad(high, ((0, 0), (1, 0)))[:, :-1]


def strained_before(begins: np.ndarray, strain: np.ndarray) -> np.ndarray:
    """Of each burst, whether the edge of stability was passed shortly before.

    Args:
        begins: (run, step) booleans, see `starts`.
        strain: (run, step) sharpness over the optimizer's threshold, ηλ/2 for gradient descent.

    Returns:
        (burst,) booleans, in the order of ``np.argwhere(begins)``.
    """
    return np.array(
        [(strain[run, max(at - BEFORE, 0) : at + 1] > 1).any() for run, at in np.argwhere(begins)],
        bool,
    )


def at_the_edge(loss: np.ndarray, strain: np.ndarray) -> np.ndarray:
    """(run,) booleans: some burst has the edge of stability before it; arguments as above."""
    begins = starts(loss)
    told = np.zeros(len(loss), bool)
    told[np.argwhere(begins)[strained_before(begins, strain), 0]] = True
    return told


def rises(results: xr.Dataset) -> np.ndarray:
    """(model, seed) booleans: the kept run's loss rises as in a burst, whatever the cause."""
    _, rates = kept_losses(results)
    curves = np.take_along_axis(results["loss"].values, rates[:, None, :, None], axis=1)[:, 0]
    return np.stack([starts(runs).any(axis=1) for runs in curves])


@dataclass(frozen=True)
class Bursts:
    """Which kept runs burst, in the first repeats.

    Attributes:
        rising: (model, seed) booleans, see `rises`.
        edge: (model, seed) booleans: those that rise with the edge of stability before.
    """

    rising: np.ndarray
    edge: np.ndarray

    def __str__(self) -> str:
        """How many of the rises are bursts."""
        return f"{self.edge.sum():,} of {self.rising.sum():,}"


def kept_bursts(
    lab: Context, dataset: Dataset, config: SweepConfig, results: xr.Dataset, repeats: int
) -> Bursts:
    """Trains again, with the sharpness at every step, what is kept and rises.

    The sharpness costs many times a step: it is measured for those networks alone whose kept runs
    rise, at the rates at which they do.

    Args:
        lab: Where it is done.
        dataset: What is fitted.
        config: The grid that gave the results, of one loss, its optimizers at their defaults.
        results: Its results.
        repeats: How many repeats, from the first on, are looked at.
    """
    _, kept = kept_losses(results)
    rising = rises(results)[:, :repeats]
    edge = np.zeros_like(rising)
    optimizers = {optimizer.name: optimizer for optimizer in config.optimizers}
    for m in deep_models(results):
        seeds = np.flatnonzero(rising[m])
        if not len(seeds):
            continue
        places = np.unique(kept[m, seeds])
        rates = results["learning_rate"].values[places]
        name = str(results["optimizer"].values[m])
        widths = parse_hidden_widths(str(results["hidden_widths"].values[m]))
        runs = student_run(lab, dataset, replace(
            config, depths=(int(results["depth"].values[m]),), optimizers=(optimizers[name],),
            hidden_widths=(widths,),
            inits=(str(results["init"].values[m]),), learning_rates=tuple(map(float, rates)),
            num_seeds=int(seeds[-1]) + 1, record=("preconditioned_sharpness",),
            records_per_decade=_EVERY_STEP, observations_per_decade=_EVERY_STEP,
        ))  # fmt: skip
        at = np.searchsorted(places, kept[m, seeds])
        threshold = stability_threshold(name, rates[at])
        strain = runs["preconditioned_sharpness"].values[0, at, seeds] / threshold[:, None]
        edge[m, seeds] = at_the_edge(runs["loss"].values[0, at, seeds], strain)
    return Bursts(rising, edge)
