"""The TensorFlow tutorial's network at its own rate, and weight decay's part in it: P6 and T11."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import median_of
from implicit_accel.data.mnist import ImageData
from implicit_accel.images.networks import TutorialCNN
from implicit_accel.images.task import ClassifierConfig
from implicit_accel.theory.decay import (
    initial_decay,
    momentum_time,
    product_penalty,
    single_penalty,
)

RATE, STD = 0.01, 0.1  # the tutorial's

# At which step weight decay's law is held against what was measured, and how near it must be to
# be called the cause.
LAW_STEP, LAW_FACTOR = 1_000, 1.25

Pair = tuple[xr.Dataset, xr.Dataset]


NETWORKS = {
    "original": TutorialCNN(),
    "overparameterised": TutorialCNN(True, "product"),
}


def tutorial(
    lab: Context, network: TutorialCNN, *, num_steps: int, evaluate_every: int
) -> ClassifierConfig:
    """The tutorial's training of a network, as long as asked for."""
    return ClassifierConfig(
        network,
        num_steps=num_steps,
        num_train=lab.pick(256, 55_000, None),
        num_validation=lab.pick(0, 0, 5_000),
        num_test=lab.pick(20, 200, 2_000),
        num_fixed=lab.pick(20, 500, 2_000),
        evaluate_every=evaluate_every,
        window=lab.pick(2, 10, 10),
        batch_size=lab.pick(16, 64, 64),
    )


def published_length(lab: Context, data: ImageData) -> Pair:
    """The original's runs, and the overparameterised network's, over the published figure."""
    config = {
        "num_steps": lab.pick(8, 8_594, 8_594), "evaluate_every": lab.pick(2, 100, 100),
    }  # fmt: skip
    original, deeper = (
        lab.classifiers(
            data, tutorial(lab, network, **config), rates=(RATE,), num_seeds=lab.pick(1, 1, 5),
            stds=(STD,) if network.overparameterised else None,
        )
        for network in NETWORKS.values()
    )  # fmt: skip
    return original, deeper


def curves_of(results: xr.Dataset, measure: str) -> np.ndarray:
    """(seed, step or evaluation) values at the first rate and start."""
    return results[measure].values[0, 0].astype(float)


def _times(results: xr.Dataset) -> np.ndarray:
    """Flow time of every evaluation, from the rates and the momentum alone."""
    steps = results["evaluation_step"].values
    decay = float(results.attrs["rate_decay"])
    epochs = np.arange(int(steps[-1])) // int(results.attrs["epoch_steps"])
    momentum = 0.9  # of `Optimizer("momentum")`
    return momentum_time(RATE * decay**epochs, momentum)[steps]


def predicted_penalty(network: TutorialCNN, std: float, seed: int, times: np.ndarray,
                      weight_decay: float) -> np.ndarray:  # fmt: skip
    """½ ‖·‖² of the end-to-end dense matrices and biases, if weight decay alone acts on them.

    Args:
        network: Overparameterised with the product regularised, or not overparameterised.
        std: Of the new factors.
        seed: Of the start.
        times: (K,) see `momentum_time`.
        weight_decay: λ.

    Returns:
        (K,) penalties.
    """
    total = np.zeros(len(times))
    for layer in network.draw(std, seed).dense:
        total += single_penalty(float(np.sum(layer.bias**2)) / 2, times, weight_decay)
        if len(layer.factors) == 2:
            total += product_penalty(*layer.factors, times, weight_decay)
        else:
            start = float(np.sum(layer.factors[0] ** 2)) / 2
            total += single_penalty(start, times, weight_decay)
    return total


def _predicted(results: xr.Dataset, network: TutorialCNN) -> np.ndarray:
    """(seed, evaluation) penalties that the law gives."""
    times, decay = _times(results), float(results.attrs["weight_decay"])
    seeds = results["seed"].values
    return np.stack([predicted_penalty(network, STD, int(s), times, decay) for s in seeds])


@dataclass(frozen=True)
class Decay:
    """Weight decay, predicted and measured.

    Attributes:
        predicted: By network, (seed, evaluation) penalties.
        measured: The same.
        steps: Of the evaluations.
        faster: How many times faster than a single matrix's the first product decays at the start.
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
        """Predicted over measured, by network."""
        i = self.at
        return [
            median_of(
                f"{name}: predicted over measured penalty after {self.steps[i]:,} steps",
                self.predicted[name][:, i] / self.measured[name][:, i], unit="", least=0.0,
                note=f"left of the start: {self._left(self.predicted[name])} % predicted, "
                f"{self._left(self.measured[name])} % measured",
            )
            for name in NETWORKS
        ]  # fmt: skip

    def _left(self, penalties: np.ndarray) -> str:
        return f"{100 * np.median(penalties[:, self.at] / penalties[:, 0]):.3g}"

    @property
    def explains(self) -> bool:
        """Whether the law is near what was measured, for both networks."""
        return all(1 / LAW_FACTOR <= e.value <= LAW_FACTOR for e in self.effects)

    def table(self, weight_decay: float) -> pd.DataFrame:
        """Both as parts of the loss, at steps about twice as far each time."""
        last = len(self.steps) - 1
        wanted = sorted({*(min(2**k, last) for k in range(12)), last})
        return pd.DataFrame(
            [
                {"step": self.steps[i]}
                | {
                    f"{name}, {how}": weight_decay * float(np.median(values[name][:, i]))
                    for name in NETWORKS
                    for how, values in (("law", self.predicted), ("measured", self.measured))
                }
                for i in wanted
            ]
        )


def decay_of(pair: Pair) -> Decay:
    """Weight decay's part in what `published_length` trains."""
    both = dict(zip(NETWORKS, pair, strict=True))
    first = NETWORKS["overparameterised"].draw(STD, 0).dense[0]
    return Decay(
        {name: _predicted(results, NETWORKS[name]) for name, results in both.items()},
        {name: curves_of(results, "end_to_end_penalty") for name, results in both.items()},
        pair[0]["evaluation_step"].values,
        initial_decay(*first.factors),
    )
