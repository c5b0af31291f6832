"""A loss as a function of the end-to-end matrix alone, for many matrices at once, in float64 numpy.

It is the loss of linear networks of every depth. The arrays are those of the exact reductions with
which networks are trained (`linear.objectives`), with the same optimum and excess loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from typing_extensions import override

from implicit_accel.data.problems import Problem
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.objectives import (
    Collapsed,
    Compressed,
    Objective,
    Reduction,
    Spectral,
    reduce,
)


@dataclass(frozen=True)
class Point:
    """The surface at B matrices.

    Attributes:
        excess: (B,) ``L − L*``.
        gradient: (B, k, d') ``∇L(W_e)``.
        curvature: The derivatives that `Surface.curve` uses.
    """

    excess: Float[np.ndarray, " B"]
    gradient: Float[np.ndarray, "B k d"]
    curvature: Float[np.ndarray, "B ..."]


class Surface(ABC):
    """A loss over end-to-end matrices W of shape (k, d'), with d' = d, or d + 1 with biases.

    With biases W is ``[W_e, b_e]`` and the last feature is the constant 1.

    Attributes:
        rotation: (d, d) change of the features' basis, ``W_1 → W_1 V``, or None.
        zero_excess: Excess loss of predicting zero.
        shape: (k, d').
        resolution: Excess losses below it are float64's rounding.
        is_quadratic: Whether its Hessian is the same everywhere.
        multiplications: In the gradient at one matrix.
    """

    is_quadratic: bool = False

    def __init__(self, reduction: Reduction, shape: tuple[int, int]) -> None:
        self.rotation = reduction.rotation
        self.zero_excess = reduction.zero_excess
        self.shape = shape
        eps = float(np.finfo(np.float64).eps)
        self.resolution = eps * float(reduction.data.zero_loss)
        self.multiplications = math.prod(shape)

    @abstractmethod
    def at(self, W: Float[np.ndarray, "B k d"]) -> Point:
        """The surface at matrices (B, k, d')."""

    @abstractmethod
    def gradient(self, W: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        """The gradient of `Surface.at` alone, which takes half the work."""

    @abstractmethod
    def curve(self, point: Point, V: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        """The Hessian at a point, applied to directions V, both (B, k, d')."""

    @abstractmethod
    def hessians(self, point: Point) -> Float[np.ndarray, "B kd kd"]:
        """The Hessian itself, (B, k d', k d')."""

    @abstractmethod
    def traced(self, W: Float[jax.Array, "k d"]) -> Float[jax.Array, ""]:
        """``L − L*`` at one matrix (k, d'), up to rounding, for JAX to differentiate."""


class _Diagonal(Surface):
    """ℓ2 in the features' eigenbasis: ``c ‖W S − T‖²``."""

    is_quadratic = True

    def __init__(self, reduction: Reduction) -> None:
        data = reduction.data
        super().__init__(reduction, data.targets.shape)
        self._rows, self._targets = data.rows, data.targets
        self._scale = reduction.objective.loss.scale / data.targets.shape[0]

    @override
    def at(self, W: Float[np.ndarray, "B k d"]) -> Point:
        along = W * self._rows - self._targets
        excess = self._scale * np.sum(along * along, axis=(1, 2))
        return Point(excess, 2 * self._scale * along * self._rows, np.zeros(len(W)))

    @override
    def gradient(self, W: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        return 2 * self._scale * (W * self._rows - self._targets) * self._rows

    @override
    def curve(self, point: Point, V: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        return 2 * self._scale * self._rows**2 * V

    @override
    def hessians(self, point: Point) -> Float[np.ndarray, "B kd kd"]:
        diagonal = np.tile(2 * self._scale * self._rows**2, self.shape[0])
        return np.broadcast_to(np.diag(diagonal), (len(point.excess), *2 * (len(diagonal),)))

    @override
    def traced(self, W: Float[jax.Array, "k d"]) -> Float[jax.Array, ""]:
        return self._scale * jnp.sum((W * self._rows - self._targets) ** 2)


class _Rows(Surface):
    """Any p, on the rows of the reduction: ``mean φ(W Xᵀ − Yᵀ)``."""

    def __init__(self, reduction: Reduction, *, bias: bool) -> None:
        data = reduction.data
        X = np.hstack([data.rows, data.ones[:, None]]) if bias else data.rows
        super().__init__(reduction, (data.targets.shape[0], X.shape[1]))
        self._X, self._targets = np.ascontiguousarray(X), data.targets
        self._residuals, self._offset = data.residuals, float(data.offset)
        self._loss = reduction.objective.loss
        self._num_entries = reduction.objective.num_entries
        self.multiplications = 2 * self.shape[0] * X.size

    @override
    def at(self, W: Float[np.ndarray, "B k d"]) -> Point:
        r = self._residuals_at(W)
        if self._loss.is_even:
            excess = self._loss.excess(r, self._residuals).sum(axis=(1, 2)) / self._num_entries
        else:
            excess = self._loss.penalty(r).sum(axis=(1, 2)) / self._num_entries - self._offset
        return Point(excess, self._slope(r), self._loss.curvature(r) / self._num_entries)

    @override
    def gradient(self, W: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        return self._slope(self._residuals_at(W))

    def _residuals_at(self, W: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k n"]:
        k, d = self.shape
        return _times(W.reshape(-1, d), self._X.T).reshape(len(W), k, -1) - self._targets

    def _slope(self, residuals: Float[np.ndarray, "B k n"]) -> Float[np.ndarray, "B k d"]:
        slopes = self._loss.derivative(residuals) / self._num_entries
        return _times(slopes.reshape(-1, slopes.shape[-1]), self._X).reshape(-1, *self.shape)

    @override
    def curve(self, point: Point, V: Float[np.ndarray, "B k d"]) -> Float[np.ndarray, "B k d"]:
        k, d = self.shape
        moved = _times(V.reshape(-1, d), self._X.T).reshape(len(V), k, -1) * point.curvature
        return _times(moved.reshape(-1, moved.shape[-1]), self._X).reshape(V.shape)

    @override
    def hessians(self, point: Point) -> Float[np.ndarray, "B kd kd"]:
        k, d = self.shape
        found = np.zeros((len(point.excess), k, d, k, d))
        for b, weights in enumerate(point.curvature):
            for i in range(k):
                found[b, i, :, i, :] = (self._X.T * weights[i]) @ self._X
        return found.reshape(len(found), k * d, k * d)

    @override
    def traced(self, W: Float[jax.Array, "k d"]) -> Float[jax.Array, ""]:
        r = W @ self._X.T - self._targets
        if self._loss.is_even:
            return jnp.sum(self._loss.excess(r, self._residuals)) / self._num_entries
        return jnp.sum(self._loss.penalty(r)) / self._num_entries - self._offset


def _times(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix product, row by row for few rows.

    BLAS takes as long for two rows together as for four one by one.
    """
    return rows @ matrix if len(rows) > 3 else np.stack([row @ matrix for row in rows])


def make_surface(problem: Problem, loss: Loss, *, bias: bool = False) -> Surface:
    """The surface of a problem.

    Args:
        problem: The problem.
        loss: ℓp.
        bias: Whether a constant may be added.

    Raises:
        UserError: If float64 does not hold the loss, or does not resolve its optimum.
    """
    return surface_of(lambda kind: reduce(problem, loss, kind, bias=bias), loss, bias=bias)


def surface_of(
    reduced: Callable[[type[Objective]], Reduction], loss: Loss, *, bias: bool = False
) -> Surface:
    """The surface of a problem, from reductions that may exist already.

    A reduction is expensive, since it computes the optimum.

    Args:
        reduced: Returns the reduction to a kind of objective.
        loss: ℓp.
        bias: Whether a constant may be added.
    """
    if loss.p == 2 and not bias:
        return _Diagonal(reduced(Spectral))
    return _Rows(reduced(Compressed if loss.p == 2 else Collapsed), bias=bias)
