"""The TensorFlow tutorial's network at its own rate, and weight decay's part in it: P6 and T11."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from implicit_accel.claims.context import Context
from implicit_accel.claims.drawing import draw_seeds
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import median
from implicit_accel.data.mnist import ImageData
from implicit_accel.images.networks import TutorialCNN
from implicit_accel.images.task import ClassifierConfig
from implicit_accel.plotting import COLOURS
from implicit_accel.theory.decay import (
    initial_decay,
    momentum_time,
    product_penalty,
    single_penalty,
)

# The tutorial's.
RATE, STD, MOMENTUM = 0.01, 0.1, 0.9

# The step at which weight decay's law is compared with training, and the factor within which it
# must lie to be called the cause.
LAW_STEP, LAW_FACTOR = 1_000, 1.25

# Both are measured on a fixed set of training images, without dropout.
LOSSES = {"regularised sum": "fixed_regularised_loss", "cross-entropy": "fixed_cross_entropy"}

# What weight decay acts on in the overparameterised network, in place of the product.
READINGS = {"each factor": "factors", "the first factor": "first", "nothing": "none"}

Pair = tuple[xr.Dataset, xr.Dataset]
"""The original's runs, and the overparameterised network's."""

NETWORKS = {
    "original": TutorialCNN(),
    "overparameterised": TutorialCNN(True, "product"),
}


def train(
    context: Context,
    data: ImageData,
    network: TutorialCNN,
    *,
    num_steps: int,
    evaluate_every: int,
    rates: Sequence[float] = (RATE,),
    stds: Sequence[float] = (STD,),
) -> xr.Dataset:
    """The tutorial's training of a network.

    Args:
        context: What it is run with; says how many images and seeds there are.
        data: The images.
        network: What is trained.
        num_steps: Its length.
        evaluate_every: Steps between two evaluations.
        rates: Learning rates.
        stds: Standard deviations of the new factors, of an overparameterised network.
    """
    config = ClassifierConfig(
        network,
        num_steps=num_steps,
        num_train=context.pick(256, 55_000, None),
        num_validation=context.pick(0, 0, 5_000),
        num_test=context.pick(20, 200, 2_000),
        num_fixed=context.pick(20, 500, 2_000),
        evaluate_every=evaluate_every,
        window=context.pick(2, 10, 10),
        batch_size=context.pick(16, 64, 64),
    )
    return context.classifiers(
        data, config, rates=rates, num_seeds=context.pick(1, 1, 5),
        stds=stds if network.overparameterised else None,
    )  # fmt: skip


def published_length(context: Context, data: ImageData) -> Pair:
    """The original's runs, and the overparameterised network's, over the published figure."""
    steps, every = context.pick(8, 8_594, 8_594), context.pick(2, 100, 100)
    original, deeper = (
        train(context, data, network, num_steps=steps, evaluate_every=every)
        for network in NETWORKS.values()
    )
    return original, deeper


def readings(context: Context, data: ImageData, pair: Pair) -> dict[str, Pair]:
    """Both networks for fewer steps, by what weight decay acts on in the overparameterised one.

    Args:
        context: What it is run with.
        data: The images.
        pair: From `published_length`: its first steps are the reading "the product".
    """
    few, every = context.pick(4, 200, 8_594), context.pick(2, 20, 100)
    first, second = (r.sel(step=slice(few), evaluation_step=slice(few)) for r in pair)
    found = {"the product": (first, second)}
    for reading, value in READINGS.items():
        # The original has single matrices: for it all readings but "none" are the same.
        original = TutorialCNN(regularised="none" if value == "none" else "factors")
        first, second = (
            train(context, data, network, num_steps=few, evaluate_every=every)
            for network in (original, TutorialCNN(True, value))
        )
        found[reading] = first, second
    return found


def elsewhere(context: Context, data: ImageData) -> pd.DataFrame:
    """Last losses after fewer steps at other rates and initialisations, medians over seeds."""
    steps = context.pick(2, 100, 8_594)
    rates = context.pick((0.01,), (1e-3, 5e-2), (1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1))
    stds = context.pick((1e-2,), (1e-2, 0.5), (1e-3, 5e-3, 1e-2, 5e-2, 5e-1))
    grids = [(name, {"rates": rates}) for name in NETWORKS]
    tables = []
    for name, grid in [*grids, ("overparameterised", {"stds": stds})]:
        network = NETWORKS[name]
        results = train(context, data, network, num_steps=steps, evaluate_every=steps, **grid)
        last = results[list(LOSSES.values())].isel(evaluation_step=-1).median("seed")
        tables.append(last.to_dataframe().reset_index().assign(network=name))
    columns = ["network", "learning_rate", "init_std", "evaluation_step", *LOSSES.values()]
    return pd.concat(tables).filter(items=columns).set_axis([*columns[:4], *LOSSES], axis=1)


def curves_of(results: xr.Dataset, variable: str) -> np.ndarray:
    """(seed, step or evaluation) values at the first rate and standard deviation."""
    return results[variable].values[0, 0].astype(float)


def predicted_penalty(
    network: TutorialCNN, std: float, seed: int, times: np.ndarray, weight_decay: float
) -> np.ndarray:
    """½ ‖·‖² of the end-to-end dense matrices and biases, if weight decay alone acts on them.

    Args:
        network: Overparameterised with the product regularised, or not overparameterised.
        std: Of the new factors.
        seed: Of the initialisation.
        times: (K,) see `momentum_time`.
        weight_decay: λ.

    Returns:
        (K,) penalties.
    """
    total = np.zeros(len(times))
    for layer in network.draw(std, seed).dense:
        single = np.sum(layer.bias**2)
        if len(layer.factors) == 2:
            total += product_penalty(*layer.factors, times, weight_decay)
        else:
            single += np.sum(layer.factors[0] ** 2)
        total += single_penalty(float(single) / 2, times, weight_decay)
    return total


@dataclass(frozen=True)
class Decay:
    """Penalties under weight decay.

    Attributes:
        predicted: By network, (seed, evaluation) penalties by the law.
        measured: The same, in training.
        steps: Of the evaluations.
        faster: How many times faster the first product decays initially than a single matrix.
    """

    predicted: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    steps: np.ndarray
    faster: float

    @property
    def at(self) -> int:
        """The evaluation at which the law is judged."""
        return int(np.argmin(np.abs(self.steps - LAW_STEP)))

    @property
    def effects(self) -> list[Effect]:
        """Predicted over measured penalty, by network."""
        found = []
        for name in NETWORKS:
            both, i = (self.predicted[name], self.measured[name]), self.at
            left = [100 * np.median(penalties[:, i] / penalties[:, 0]) for penalties in both]
            note = "left of the initial: {:.3g} % predicted, {:.3g} % measured".format(*left)
            found.append(median(both[0][:, i] / both[1][:, i], unit="", note=note, least=0.0))
        return found

    @property
    def explains(self) -> bool:
        """Whether the law is near what was measured, for both networks."""
        return all(1 / LAW_FACTOR <= e.value <= LAW_FACTOR for e in self.effects)


def decay_of(pair: Pair) -> Decay:
    """The penalties of what `published_length` trains, and the law's."""
    steps, attributes = pair[0]["evaluation_step"].values, pair[0].attrs
    epochs = np.arange(int(steps[-1])) // int(attributes["epoch_steps"])
    rates = RATE * float(attributes["rate_decay"]) ** epochs
    times = momentum_time(rates, MOMENTUM)[steps]
    predicted, measured = {}, {}
    for (name, network), results in zip(NETWORKS.items(), pair, strict=True):
        predicted[name] = np.stack([
            predicted_penalty(network, STD, int(seed), times, float(attributes["weight_decay"]))
            for seed in results["seed"].values
        ])  # fmt: skip
        measured[name] = curves_of(results, "end_to_end_penalty")
    first = NETWORKS["overparameterised"].draw(STD, 0).dense[0]
    return Decay(predicted, measured, steps, initial_decay(*first.factors))


def draw_penalty(ax: Axes, decay: Decay, weight_decay: float) -> None:
    """Draws both networks' penalties, times λ, with what the law gives dashed.

    Args:
        ax: With its scales and limits set.
        decay: What is drawn.
        weight_decay: λ.
    """
    for (name, measured), colour in zip(decay.measured.items(), COLOURS, strict=False):
        draw_seeds(ax, decay.steps, weight_decay * measured, label=name, style={"color": colour})
        law = weight_decay * np.median(decay.predicted[name], axis=0)
        ax.plot(decay.steps, law, color="black", linewidth=0.9, linestyle=(0, (3, 3)))
