"""Bursts of the loss, and whether the edge of stability precedes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.published.student import deep_models, kept_losses, student_run
from implicit_accel.data.dataset import Dataset
from implicit_accel.linear.config import SweepConfig, parse_hidden_widths
from implicit_accel.observables import stability_threshold

SPIKE = 1.1
"""A burst begins where the loss rises to this multiple of the lowest loss before it."""

BEFORE = 20
"""The edge of stability explains a burst if it was passed within this many steps before."""

FACTS = {"rise": round(100 * (SPIKE - 1)), "before": BEFORE}
"""These numbers, for a claim's text."""

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
    """Whether the edge of stability was passed shortly before each burst.

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
    """(run,) booleans: the edge of stability precedes some burst; arguments as above."""
    begins = starts(loss)
    found = np.zeros(len(loss), bool)
    found[np.argwhere(begins)[strained_before(begins, strain), 0]] = True
    return found


def with_bursts(
    context: Context, dataset: Dataset, config: SweepConfig, results: xr.Dataset, repeats: int
) -> xr.Dataset:
    """Adds to results which kept runs burst, in the first repeats.

    Kept runs whose loss rises are trained again with the sharpness at every step. The other runs
    are not, since the sharpness costs many times a step.

    Args:
        context: Where it is done.
        dataset: What is fitted.
        config: The grid that gave the results, of one loss, its optimizers at their defaults.
        results: Its results.
        repeats: How many repeats, from the first on.

    Returns:
        The results with (model, repeat) booleans: ``rises``, the loss rises as in a burst, and
        ``bursts``, the edge of stability precedes the rise. One layer has no bursts.
    """
    _, kept = kept_losses(results)
    curves = np.take_along_axis(results["loss"].values, kept[:, None, :, None], axis=1)[:, 0]
    rises = np.stack([starts(runs).any(axis=1) for runs in curves[:, :repeats]])
    edge = np.zeros_like(rises)
    optimizers = {optimizer.name: optimizer for optimizer in config.optimizers}
    for m in deep_models(results):
        seeds = np.flatnonzero(rises[m])
        if not len(seeds):
            continue
        places = np.unique(kept[m, seeds])
        rates = results["learning_rate"].values[places]
        name = str(results["optimizer"].values[m])
        widths = parse_hidden_widths(str(results["hidden_widths"].values[m]))
        runs = student_run(context, dataset, replace(
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
    dims = ("model", "repeat")
    return results.assign(rises=(dims, rises), bursts=(dims, edge))
