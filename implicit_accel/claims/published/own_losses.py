"""Deep linear networks as tasks with any loss of the outputs, for C1 and N1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import xarray as xr
from jax.flatten_util import ravel_pytree

import implicit_accel as ia
from implicit_accel.claims.api import Context, Effect
from implicit_accel.claims.estimators import model_number, side_of, speed_up
from implicit_accel.intervals import ModelRuns
from implicit_accel.tasks.loss_task import LossTask

Penalty = Callable[[jax.Array, jax.Array], jax.Array]
"""The mean loss of outputs (n, k), given labels (n, k)."""


@dataclass(frozen=True)
class Fit:
    """What is fitted, by which loss.

    Attributes:
        name: Of the problem.
        features: (n, d).
        labels: (n, k).
        penalty: The loss.
        optimum: L*, of the best linear map; 0 for separable classes.
        zero_loss: The zero predictor's.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    penalty: Penalty
    optimum: float
    zero_loss: float

    def task(self, init_std: float) -> LossTask:
        """Networks from near zero, whose hidden layers are as wide as the output.

        The axis ``depth`` is the number of layers.
        """
        d, k = self.features.shape[1], self.labels.shape[1]
        penalty = self.penalty

        def init(key: jax.Array, hp: Any) -> list[jax.Array]:
            widths = (d, *[k] * hp["depth"])
            keys = jax.random.split(key, hp["depth"])
            shapes = zip(keys, widths[:-1], widths[1:], strict=True)
            return [init_std * jax.random.normal(own, (m, n)) for own, m, n in shapes]

        def loss(layers: list[jax.Array], batch: Any) -> jax.Array:
            rows, labels = batch
            product = layers[0]
            for layer in layers[1:]:
                product = product @ layer
            return penalty(rows @ product, labels)

        return ia.from_loss(
            loss, init=init, data=(self.features, self.labels), optimum=self.optimum,
            reference_loss=self.zero_loss, name=self.name,
        )  # fmt: skip


def make_fit(name: str, features: np.ndarray, labels: np.ndarray, penalty: Penalty) -> Fit:
    """A fit, with the optimum of its convex loss."""
    with jax.enable_x64(True):
        zero = float(penalty(jnp.zeros_like(labels, float), jnp.asarray(labels, float)))
    optimum = _minimum(features, labels, penalty)
    # Newton's method halves the loss of separable classes with every step, and has no end.
    return Fit(name, features, labels, penalty, optimum if optimum > 1e-6 * zero else 0.0, zero)


def _minimum(features: np.ndarray, labels: np.ndarray, penalty: Penalty) -> float:
    """The smallest loss of a linear map: Newton's method with a small ridge, in float64."""
    with jax.enable_x64(True):
        X, Y = jnp.asarray(features, float), jnp.asarray(labels, float)
        flat, unflatten = ravel_pytree(jnp.zeros((X.shape[1], Y.shape[1])))

        def value(w: Any) -> jax.Array:
            return penalty(X @ unflatten(w), Y)

        derivatives = jax.jit(lambda w: (value(w), jax.grad(value)(w), jax.hessian(value)(w)))
        lowest, w = math.inf, np.asarray(flat)
        for _ in range(60):
            loss, gradient, hessian = map(np.asarray, derivatives(w))
            if not loss < lowest - 1e-12 * abs(loss):
                break
            lowest = float(loss)
            ridge = 1e-12 * max(np.trace(hessian), np.finfo(float).tiny)
            step = scipy.linalg.solve(hessian + ridge * np.eye(len(w)), gradient, assume_a="pos")
            rate = 1.0
            while rate > 1e-6 and not float(value(w - rate * step)) < lowest:
                rate /= 2
            w = w - rate * step
    return lowest


def train(
    context: Context, fit: Fit, *, rates: np.ndarray, share: float = 0.1, init_std: float = 0.01,
    depths: tuple[int, ...] = (1, 2, 3), **settings: Any,
) -> xr.Dataset:  # fmt: skip
    """Gradient descent on a fit, over depths and learning rates.

    Args:
        context: Trains.
        fit: What is fitted.
        rates: Learning rates.
        share: The target, as a share of the zero predictor's excess loss.
        init_std: Of every layer.
        depths: Of the networks.
        **settings: ``num_seeds``, ``num_steps``, and others of `ia.sweep`.
    """
    seeds = range(settings.pop("num_seeds"))
    results = context.task(
        fit.task(init_std),
        axes={
            "depth": ia.static(*depths), "learning_rate": [float(f"{r:.4g}") for r in rates],
            "seed": seeds,
        },
        optimizer=ia.Optimizer("sgd"), target=share * (fit.zero_loss - fit.optimum), **settings,
    )  # fmt: skip
    zero = np.full(results.sizes["model"], fit.zero_loss)
    return results.assign(zero_loss=("model", zero))


def side(
    results: xr.Dataset, depth: int, share: float | None = None, rule: str = "stable"
) -> ModelRuns:
    """A depth's runs for a comparison, see `side_of`."""
    return side_of(results, model_number(results, depth=depth), share, rule)


def gain(
    results: xr.Dataset, depth: int, share: float | None = None, rule: str = "stable"
) -> Effect:
    """The speed-up of a depth over one layer."""
    return speed_up(*(side(results, n, share, rule) for n in (1, depth)))
