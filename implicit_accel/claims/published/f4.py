"""F4: a fully connected ReLU network from a balanced initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure, Scaled
from implicit_accel.claims.estimators import median, resampled
from implicit_accel.claims.plots import Lines
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.images.networks import FullyConnected
from implicit_accel.images.task import FULLY_CONNECTED

STDS: Scaled[Any] = Scaled((0.01, 0.1), *[(1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4)] * 2)
INITS = {"layer-wise": "near_zero", "balanced": "balanced"}
SPREAD = "spread of the last loss over standard deviations"
BEST = "last loss at the best standard deviation"

Runs = Mapping[str, xr.Dataset]
"""By the initialisation."""


def run(context: Context) -> Found:
    """Trains the network from both initialisations, over standard deviations."""
    data = context.mnist()
    config = replace(
        FULLY_CONNECTED, num_steps=context.pick(20, 5_500, 6_000),
        num_train=context.pick(500, 55_000, None), num_validation=context.pick(0, 5_000, 0),
        num_test=context.pick(200, 2_000, None), window=context.pick(10, 50, 50),
    )  # fmt: skip
    options = {"rates": (0.01,), "num_seeds": context.pick(2, 6, 20), "stds": STDS.at(context)}
    runs = {
        name: context.classifiers(data, replace(config, network=FullyConnected(init)), **options)
        for name, init in INITS.items()
    }
    return Found(runs={data.title: runs}, facts={"data": data})


def spread(losses: np.ndarray) -> float:
    """The largest median of last losses (std, seed) over the smallest.

    Infinite if half of the runs diverge at some standard deviation, NaN if at all of them.
    """
    middle = np.median(losses, axis=1)
    return float(middle.max() / middle.min()) if np.isfinite(middle).any() else math.nan


def best(losses: np.ndarray) -> float:
    """The smallest median of last losses (std, seed)."""
    return float(np.median(losses, axis=1).min())


def ratio(of: Callable[[np.ndarray], float], runs: Runs) -> Effect:
    """A statistic of the layer-wise last losses over that of the balanced ones.

    Seeds are resampled; each resample chooses the best and the worst standard deviations anew.
    """
    losses = [runs[init]["cross_entropy"].values[0, :, :, -1] for init in INITS]

    def resample(seeds: np.ndarray) -> float:
        layer_wise, balanced = (of(each[:, seeds]) for each in losses)
        if math.isinf(balanced):  # the balanced runs diverge: no less than the others
            return math.nan if math.isinf(layer_wise) else 0.0
        return layer_wise / balanced

    note = "layer-wise {:.3g}, balanced {:.3g}".format(*map(of, losses))
    return resampled(resample, losses[0].shape[1], note=note, least=0.0)


def last(variable: str, runs: Runs, init: str, std: float) -> Effect:
    """The last value of a recorded variable at a standard deviation."""
    return median(runs[init][variable].sel(init_std=std).values[0, :, -1], unit="", least=0.0)


CLAIM = Claim(
    id="F4",
    statement="A fully connected ReLU network trains better from a balanced initialisation, over "
    "standard deviations.",
    source=PAPER_2019,
    is_changed=True,
    run=run,
    measures=(
        Measure(SPREAD, partial(ratio, spread)),
        Measure(BEST, partial(ratio, best)),
        Measure("last loss", partial(last, "cross_entropy"), {"init": tuple(INITS), "std": STDS}),
        Measure("test error", partial(last, "test_error"), {"init": tuple(INITS), "std": STDS}),
    ),
    checks=(Check(SPREAD, low=1.0), Check(BEST, low=1.0)),
    plots={
        "last_loss": Lines(
            "last loss", x="std", lines="init", title="784-128-32-10 with ReLU, after 10 epochs",
            xlabel="initial standard deviation", ylabel="last training loss", xscale="log",
            reference=None,
        )
    },
    minutes=5.8,
    paper_hours=0.14,
)  # fmt: skip
