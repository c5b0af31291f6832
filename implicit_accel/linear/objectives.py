"""Exact reductions: the cheapest objective with the same training trajectory.

A linear network's loss depends on its weights through the end-to-end map alone, so each step
first multiplies the layers (`networks.end_to_end`) and only then touches the data. What the data
part costs depends on the loss and on the optimizer:

========== ========================== ==================================== ====================
objective  holds for                  what is computed a step              cost (k outputs)
========== ========================== ==================================== ====================
spectral   p = 2, equivariant rule    a diagonal, after rotating W_1       O(k d)
compressed p = 2                      d rows (S Vᵀ of X = U S Vᵀ) for n     2 products d × d × k
moments    even p ≥ 4, few features   a form in monomials of the weights    k products q × q
collapsed  any p                      the n rows                           2 products n × d × k
layerwise  any network (ReLU)         the n rows through every layer       O(n · parameters)
========== ========================== ==================================== ====================

All of them are exact up to rounding; q is the number of monomials of degree p/2 in d + 1 variables
(d + 2 with a bias). An equivariant optimizer commutes
with rotations of the features: gradient descent, momentum and the end-to-end rule do, the adaptive
optimizers, which scale entry by entry, do not.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from typing_extensions import override

from implicit_accel.data.problems import Problem
from implicit_accel.linear.losses import Loss, Optimum, optimum
from implicit_accel.linear.networks import Layers, end_to_end, matmul, predict


class Data(NamedTuple):
    """The arrays that an objective needs, as they travel to the device.

    Attributes:
        rows: (m, d) matrix of the reduced problem; (d,) its diagonal for ``spectral``.
        columns: (d, m) its transpose, stored beside it: a step multiplies by both, and for a few
            runs reordering the data takes longer than multiplying.
        ones: (m,) factor of the bias in each row; (d,) feature means for ``spectral``.
        targets: (k, m); for ``spectral`` with a bias a last column, (k, d + 1), for the mean.
        residuals: (k, m) residuals at the optimum, or (k, 1) zeros where they vanish.
        moments: (k, q, q) matrix of the form of ``moments``, or (k, 0, 0).
        offset: L*, the loss minus the excess loss.
        zero_loss: Loss of the zero predictor.
        optimum: (k, d) the optimum's matrix, in the basis of ``rows``; zeros where not known.
        held_out_rows: (h, d) held-out features, h = 0 without a split.
        held_out_targets: (h, k).
    """

    rows: Any
    columns: Any
    ones: Any
    targets: Any
    residuals: Any
    moments: Any
    offset: Any
    zero_loss: Any
    optimum: Any
    held_out_rows: Any
    held_out_targets: Any


@dataclass(frozen=True)
class Objective(ABC):
    """The training loss: a pure function of the parameters and `Data`, static under jit.

    There is a class for each way of computing it; `choose` returns the cheapest exact one.

    Attributes:
        loss: The ℓp loss.
        activation: The network's activation.
        num_entries: n · k of the full problem, the mean's divisor.
    """

    loss: Loss
    activation: str
    num_entries: int

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        """Whether it is exact, for an optimizer that commutes with rotations of the features."""

    @classmethod
    def pays(cls, loss: Loss, *, n: int, d: int, bias: bool) -> bool:  # noqa: ARG003
        """Whether it is cheaper than those behind it in `OBJECTIVES`, for n rows of d features."""
        return True

    @classmethod
    @abstractmethod
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        """The arrays that its data part needs."""

    @abstractmethod
    def value_and_grad(
        self, layers: Layers, data: Data, active: Any
    ) -> tuple[jax.Array, jax.Array, Layers]:
        """Loss, excess loss L − L* and the loss's gradient.

        Args:
            layers: One network's parameters.
            data: The arrays.
            active: (N,) booleans, which layers are not padding.

        Returns:
            Two scalars, and the gradient in the shape of ``layers``.
        """

    def held_out_loss(self, layers: Layers, data: Data, active: Any) -> jax.Array:  # noqa: ARG002
        """Loss on the held-out rows, a scalar."""
        W, b = end_to_end(layers)
        outputs = matmul(data.held_out_rows, W.T)
        outputs = outputs if b is None else outputs + b
        return self.loss.mean(outputs - data.held_out_targets)

    def rows_per_step(self, num_rows: int) -> int:  # noqa: ARG002
        """Rows that pass through every layer in a step; 0 where the layers are collapsed first."""
        return 0


class Arrays(NamedTuple):
    """The arrays into which an `Objective` turns a problem; shapes as in `Data`.

    Attributes:
        rows: Matrix of the reduced problem, or its diagonal.
        ones: Factors of the bias, one for each row.
        targets: Targets of the reduced problem.
        residuals: Residuals at the optimum.
        rotation: (d, d) orthogonal V with ``W_1 → W_1 V``, or None for no change of basis.
        moments: Of `Moments`; None otherwise.
    """

    rows: np.ndarray
    ones: np.ndarray
    targets: np.ndarray
    residuals: np.ndarray
    rotation: np.ndarray | None = None
    moments: np.ndarray | None = None


class _Collapsing(Objective):
    """Objectives that depend on the end-to-end map alone."""

    @override
    def value_and_grad(
        self,
        layers: Layers,
        data: Data,
        active: Any,
    ) -> tuple[jax.Array, jax.Array, Layers]:
        # The chain of layers is differentiated by JAX, the data part by hand: one product for
        # the residuals, one for the gradient, the elementwise work between them fused.
        (W, b), pull_back = jax.vjp(end_to_end, layers)
        value, excess, W_bar, b_bar = self.data_part(W, b, data)
        (gradient,) = pull_back((W_bar, b_bar))
        return value, excess, gradient

    @abstractmethod
    def data_part(
        self, W: jax.Array, b: jax.Array | None, data: Data
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """Loss, excess loss, and the loss's gradient in W and b."""


class Spectral(_Collapsing):
    """p = 2 in the features' eigenbasis: a diagonal."""

    name = "spectral"

    @classmethod
    @override
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        return loss.p == 2 and activation == "identity" and equivariant

    @classmethod
    @override
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        rows, ones, targets, rotation = _spectrum(X, Y, bias=bias)
        return Arrays(rows, ones, targets, np.zeros((Y.shape[1], 1)), rotation)

    @override
    def data_part(
        self, W: jax.Array, b: jax.Array | None, data: Data
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """Loss, excess loss, and the loss's gradient in W and b.

        With ``X = U S Vᵀ + 1 mᵀ`` (m = 0 without a bias) and W in the basis V, the excess loss is
        ``c (‖W S/√n − UᵀY/√n‖² + ‖W m + b − ȳ‖²)``, a sum of squares.
        """
        d = W.shape[-1]
        scale = self.loss.scale / W.shape[0]  # the mean over outputs
        along = W * data.rows - data.targets[:, :d]
        excess = jnp.sum(along * along)
        W_bar = along * data.rows
        b_bar = None
        if b is not None:
            across = W @ data.ones + b - data.targets[:, d]
            excess = excess + jnp.sum(across * across)
            W_bar = W_bar + across[:, None] * data.ones
            b_bar = 2 * scale * across
        excess = scale * excess
        return excess + data.offset, excess, 2 * scale * W_bar, b_bar


class Collapsed(_Collapsing):
    """Any p, on all n rows: ``mean φ(W Xᵀ + b 1ᵀ − Yᵀ)``."""

    name = "collapsed"

    @classmethod
    @override
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        return activation == "identity"

    @classmethod
    @override
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        return Arrays(X, np.ones(len(X)), Y.T, best.residuals.T)

    @override
    def data_part(
        self, W: jax.Array, b: jax.Array | None, data: Data
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        residuals = _residuals(W, b, data)
        slopes = self.loss.derivative(residuals) / self.num_entries
        W_bar = matmul(slopes, data.rows)
        b_bar = None if b is None else slopes @ data.ones
        if self.loss.is_even:
            excess = _sum_rows(self.loss.excess(residuals, data.residuals)) / self.num_entries
            return excess + data.offset, excess, W_bar, b_bar
        value = _sum_rows(self.loss.penalty(residuals)) / self.num_entries
        return value, value - data.offset, W_bar, b_bar


class Compressed(Collapsed):
    """p = 2 on d rows that say the same as n."""

    name = "compressed"

    @classmethod
    @override
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        return loss.p == 2 and activation == "identity"

    @classmethod
    @override
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        return Arrays(*_compress(X, Y, bias=bias), np.zeros((Y.shape[1], 1)))


class Moments(_Collapsing):
    """Even p ≥ 4 as a quadratic form in monomials, whose cost does not depend on n.

    With the design matrix ``[X 1] = √n Q R`` (QᵀQ = 1/n · identity), the optimum's residuals r* and
    ``v = R (w − w*)``, a row's residual is ``q_iᵀ v + r*_i = x̃_iᵀ u`` with ``x̃ = (q, r*)`` and
    ``u = (v, 1)``. By the multinomial theorem ``(x̃ᵀu)^(p/2) = φ(x̃)ᵀ z(u)``, where z are the
    monomials of degree p/2 and φ the same of x̃ with their multinomial coefficients, so that

        mean |r|^p = zᵀ M z,   M = (1/n) Σ_i φ(x̃_i) φ(x̃_i)ᵀ.

    The monomial 1 stands for the optimum's own loss: without its entry of M the form is the excess
    loss, each of whose terms vanishes at the optimum. Rows q of unit covariance keep M
    well-conditioned where the features are correlated.
    """

    name = "moments"

    @classmethod
    @override
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        return loss.is_even and loss.p >= 4 and activation == "identity"

    @classmethod
    @override
    def pays(cls, loss: Loss, *, n: int, d: int, bias: bool) -> bool:
        # Measured at n = 4177: 6.7 times as fast with 10 features, 1.9 times with 20, slower with
        # 30. The data part of `Collapsed` takes 2 n d multiply-adds for each output, this one q².
        return num_monomials(d + bias + 1, round(loss.p) // 2) ** 2 <= 0.7 * n * d

    @classmethod
    @override
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        n, d = X.shape
        design = np.hstack([X, np.ones((n, 1))]) if bias else X
        U, s, Vt = scipy.linalg.svd(design, full_matrices=False)
        kept = s > s[0] * max(design.shape) * np.finfo(np.float64).eps
        Q, R = U[:, kept] * math.sqrt(n), s[kept, None] * Vt[kept] / math.sqrt(n)
        solution = np.hstack([best.weights, best.bias[:, None]]) if bias else best.weights
        moments = []
        for residuals in best.residuals.T:
            powers, coefficients = _monomials(Q.shape[1] + 1, round(loss.p) // 2)
            phi = np.column_stack([Q, residuals])[:, powers].prod(axis=2) * coefficients
            moments.append(phi.T @ phi / n)
            moments[-1][-1, -1] = 0.0  # the last monomial is 1
        ones = R[:, -1] if bias else np.zeros(len(R))
        return Arrays(
            R[:, :d], ones, solution @ R.T, np.zeros((Y.shape[1], 1)), moments=np.array(moments)
        )

    @override
    def data_part(
        self, W: jax.Array, b: jax.Array | None, data: Data
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        v = _residuals(W, b, data)
        powers, _ = _monomials(v.shape[1] + 1, round(self.loss.p) // 2)

        def monomials(v: jax.Array) -> jax.Array:
            u = jnp.concatenate([v, jnp.ones((len(v), 1), v.dtype)], axis=1)
            return functools.reduce(operator.mul, [u[:, column] for column in powers.T])

        z, pull_back = jax.vjp(monomials, v)
        scale = self.loss.scale / len(v)  # the mean over outputs
        slopes = scale * jnp.stack([matmul(M, z_k) for M, z_k in zip(data.moments, z, strict=True)])
        excess = jnp.sum(slopes * z)
        (v_bar,) = pull_back(2 * slopes)
        b_bar = None if b is None else v_bar @ data.ones
        return excess + data.offset, excess, matmul(v_bar, data.rows), b_bar


def num_monomials(variables: int, degree: int) -> int:
    """Monomials of a degree in so many variables."""
    return math.comb(variables + degree - 1, degree)


@functools.cache
def _monomials(variables: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The variables of each monomial, (q, degree), and its multinomial coefficient, (q,).

    The last one is the power of the last variable.
    """
    powers = np.array([*itertools.combinations_with_replacement(range(variables), degree)])
    counts = [np.unique(row, return_counts=True)[1] for row in powers]
    coefficients = [math.factorial(degree) / math.prod(map(math.factorial, c)) for c in counts]
    return powers, np.array(coefficients)


class Layerwise(Objective):
    """Any network: the n rows pass through every layer."""

    name = "layerwise"

    @classmethod
    @override
    def holds(cls, loss: Loss, *, activation: str, equivariant: bool) -> bool:
        return True

    @classmethod
    @override
    def arrays(
        cls, loss: Loss, X: np.ndarray, Y: np.ndarray, best: Optimum, *, bias: bool
    ) -> Arrays:
        return Collapsed.arrays(loss, X, Y, best, bias=bias)

    @override
    def value_and_grad(
        self, layers: Layers, data: Data, active: Any
    ) -> tuple[jax.Array, jax.Array, Layers]:
        def full_loss(layers: Layers) -> jax.Array:
            outputs = predict(layers, data.rows, activation=self.activation, active=active)
            penalties = self.loss.penalty(outputs.T - data.targets)
            return jnp.sum(penalties) / self.num_entries

        value, gradient = jax.value_and_grad(full_loss)(layers)
        return value, value - data.offset, gradient

    @override
    def held_out_loss(self, layers: Layers, data: Data, active: Any) -> jax.Array:
        outputs = predict(layers, data.held_out_rows, activation=self.activation, active=active)
        return self.loss.mean(outputs - data.held_out_targets)

    @override
    def rows_per_step(self, num_rows: int) -> int:
        return num_rows


def _residuals(W: jax.Array, b: jax.Array | None, data: Data) -> jax.Array:
    """(k, m) residuals of an affine map on the rows of the reduced problem."""
    residuals = matmul(W, data.columns) - data.targets
    return residuals if b is None else residuals + b[:, None] * data.ones


def _sum_rows(a: jax.Array) -> jax.Array:
    """The sum of a (k, m) array with m large."""
    # As a product with ones: XLA's CPU backend does not vectorise a reduction of the last axis,
    # which would cost a tenth of the step.
    return jnp.sum(matmul(a, jnp.ones(a.shape[-1], a.dtype)))


# The cheapest first.
OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (Spectral, Compressed, Moments, Collapsed, Layerwise)
}


def choose(
    loss: Loss, *, activation: str, equivariant: bool, n: int, d: int, bias: bool
) -> type[Objective]:
    """The cheapest objective that is exact, see the module's table.

    Args:
        loss: The loss.
        activation: The network's activation.
        equivariant: Whether the optimizer commutes with rotations of the features.
        n: Rows.
        d: Features.
        bias: Whether the network has biases.
    """
    return next(
        kind
        for kind in OBJECTIVES.values()
        if kind.holds(loss, activation=activation, equivariant=equivariant)
        and kind.pays(loss, n=n, d=d, bias=bias)
    )


@dataclass(frozen=True)
class Reduction:
    """An objective, its arrays and how a network's first layer enters it.

    Attributes:
        objective: The function to minimise.
        data: Its arrays, float64 numpy.
        optimum: The optimum of the full problem; its loss is 0 by convention for ReLU networks,
            whose true optimum is not known.
        rotation: (d, d) orthogonal V with ``W_1 → W_1 V``, or None for no change of basis.
    """

    objective: Objective
    data: Data
    optimum: Optimum
    rotation: np.ndarray | None = None

    @property
    def zero_excess(self) -> float:
        """Excess loss of the zero predictor, the natural unit of a target."""
        return float(self.data.zero_loss) - self.optimum.loss

    def to_basis(self, layers: Layers) -> Layers:
        """Carries initial weights into the reduction's basis."""
        return self._rotate(layers, self.rotation)

    def from_basis(self, layers: Layers) -> Layers:
        """Carries trained weights back to the features' own basis."""
        return self._rotate(layers, None if self.rotation is None else self.rotation.T)

    @staticmethod
    def _rotate(layers: Layers, rotation: np.ndarray | None) -> Layers:
        if rotation is None:
            return layers
        first = np.asarray(layers.weights[0], np.float64) @ rotation
        return layers._replace(weights=(first, *layers.weights[1:]))


def reduce(
    problem: Problem,
    loss: Loss,
    kind: type[Objective],
    *,
    bias: bool = False,
    activation: str = "identity",
) -> Reduction:
    """Builds the arrays of an objective, in float64.

    Args:
        problem: The full problem.
        loss: The loss.
        kind: The objective's class, from `choose`; a costlier one than that serves as a check.
        bias: Whether the networks have biases.
        activation: The networks' activation.

    Returns:
        The reduction.

    Raises:
        ValueError: If the kind does not hold for the loss or the activation.
    """
    if not kind.holds(loss, activation=activation, equivariant=True):
        raise ValueError(
            f"objective {kind.name!r} does not hold for {loss.name} and activation {activation!r}"
        )
    X, Y = problem.features, problem.targets
    n, k = Y.shape
    if activation == "identity":
        best = optimum(loss, X, Y, bias=bias)
    else:
        best = Optimum(0.0, np.zeros((k, X.shape[1])), np.zeros(k), np.zeros_like(Y), math.inf)
    rows, ones, targets, residuals, rotation, moments = kind.arrays(loss, X, Y, best, bias=bias)

    def to_basis(a: np.ndarray) -> np.ndarray:
        return a if rotation is None else a @ rotation

    held_out = problem.held_out_features
    held_out_targets = problem.held_out_targets
    data = Data(
        rows=rows,
        columns=rows.T,
        ones=ones,
        targets=targets,
        residuals=residuals,
        moments=np.zeros((k, 0, 0)) if moments is None else moments,
        offset=np.float64(best.loss),
        zero_loss=np.float64(loss.mean(Y)),
        optimum=to_basis(best.weights),
        held_out_rows=np.zeros((0, X.shape[1])) if held_out is None else to_basis(held_out),
        held_out_targets=np.zeros((0, k)) if held_out_targets is None else held_out_targets,
    )
    return Reduction(kind(loss, activation, n * k), data, best, rotation)


def _spectrum(
    X: np.ndarray, Y: np.ndarray, *, bias: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Diagonal, feature means, targets and basis of the spectral objective."""
    n, d = X.shape
    mean = X.mean(axis=0) if bias else np.zeros(d)
    U, s, Vt = scipy.linalg.svd(X - mean, full_matrices=n < d)
    V = Vt.T
    diagonal = np.zeros(d)
    diagonal[: len(s)] = s / math.sqrt(n)
    projections = np.zeros((Y.shape[1], d))
    projections[:, : len(s)] = Y.T @ U[:, : len(s)] / math.sqrt(n)
    # Along a null direction the loss is constant: entries that are rounding errors are set to 0.
    null = diagonal <= diagonal[0] * max(n, d) * np.finfo(np.float64).eps
    diagonal[null] = 0.0
    projections[:, null] = 0.0
    targets = np.hstack([projections, Y.mean(axis=0)[:, None]]) if bias else projections
    return diagonal, mean @ V, targets, V


def _compress(
    X: np.ndarray, Y: np.ndarray, *, bias: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, bias column and targets of the compressed objective.

    With [X 1] = U S Vᵀ, cut at its rank, the part of Y outside U's range is the optimum's
    residual, and ``‖U S Vᵀ w − Y‖² = ‖S Vᵀ w − UᵀY‖² + ‖Y − U UᵀY‖²``. (A QR decomposition would
    do for features of full rank; otherwise its Q has columns outside that range.)
    """
    design = np.hstack([X, np.ones((len(X), 1))]) if bias else X
    U, s, Vt = scipy.linalg.svd(design, full_matrices=False)
    kept = s > s[0] * max(design.shape) * np.finfo(np.float64).eps
    rows = s[kept, None] * Vt[kept]
    ones = rows[:, -1] if bias else np.zeros(len(rows))
    return rows[:, : X.shape[1]], ones, Y.T @ U[:, kept]
