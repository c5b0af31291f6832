"""Gradient flow of linear networks from their actual initial weights, with its sharpness.

Gradient descent with a small learning rate η follows the flow ``θ' = −∇L(θ)``: after t/η steps it
is where the flow is at time t, to first order in η. So the time at which the flow reaches a loss,
divided by η, predicts the number of steps. It holds for learning rates with ηλ < 2, where λ is the
largest eigenvalue of the Hessian along the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from scipy.interpolate import CubicHermiteSpline

from implicit_accel.errors import UserError
from implicit_accel.linear.networks import Layers
from implicit_accel.theory import stabilised
from implicit_accel.theory.surface import Point, Surface

# Bounds on the gradients of networks that are integrated together, and on their multiplications; a
# pass over the parameters is limited by memory and costs as much as _PASS multiplications for each.
MOST_GRADIENTS = 40_000
_MOST_WORK, _PASS = 1e12, 20


def most_gradients_of(stack: Stack, surface: Surface) -> int:
    """The bound on a flow's work, as a number of gradients."""
    networks, parameters = stack.initial.shape
    work = networks * (_PASS * parameters + surface.multiplications)
    return int(min(MOST_GRADIENTS, _MOST_WORK / work))


# Numbers of products after which convergence is tested: from the eigenvector of the previous point
# three are usually enough.
_LANCZOS_CHECKS = (3, 5, 8)
_LANCZOS_CYCLES = 10


class Stack:
    """The layers of B networks of one shape as one array, (B, parameters).

    With biases a layer is ``[[W_j, b_j], [0, 1]]``, so that a network with biases is a product of
    matrices as well. Its last row is not trained; the last layer has no such row.

    Args:
        networks: B networks of one shape.
        rotation: (d, d) change of the features' basis, or None.
    """

    def __init__(
        self, networks: Sequence[Layers], rotation: Float[np.ndarray, "d d"] | None = None
    ) -> None:
        stacked = [_augmented(layers, rotation) for layers in networks]
        self.shapes = [W.shape for W in stacked[0]]
        self.initial = np.stack([np.concatenate([W.ravel() for W in w]) for w in stacked])
        trained = [np.ones(shape, bool) for shape in self.shapes]
        if networks[0].biases:
            for mask in trained[:-1]:
                mask[-1] = False
        self._trained = np.concatenate([mask.ravel() for mask in trained])
        self._all_trained = bool(self._trained.all())
        self._ends = np.cumsum([0, *(a * b for a, b in self.shapes)])

    def layers(self, theta: Float[np.ndarray, "B parameters"]) -> list[np.ndarray]:
        """Views of the layers, (B, h_j, h_{j−1})."""
        return [
            theta[:, start:end].reshape(len(theta), *shape)
            for start, end, shape in zip(self._ends, self._ends[1:], self.shapes, strict=False)
        ]

    def sizes(self, theta: Float[np.ndarray, "B parameters"]) -> Float[np.ndarray, "B N"]:
        """Norms of the layers, (B, N)."""
        parts = np.add.reduceat(theta * theta, self._ends[:-1], axis=1)
        return np.sqrt(parts)

    def suffixes(self, weights: list[np.ndarray]) -> list[np.ndarray]:
        """``S_j = W_N ⋯ W_{j+1}`` for j = 0 … N; S_0 is the end-to-end matrix."""
        k = self.shapes[-1][0]
        found = [np.broadcast_to(np.eye(k), (len(weights[0]), k, k))]
        for W in reversed(weights):
            found.append(found[-1] @ W)
        return found[::-1]

    def _masked(self, parts: list[np.ndarray]) -> np.ndarray:
        flat = np.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)
        return self.subset(flat)

    def end_to_end(self, theta: Float[np.ndarray, "B parameters"]) -> Float[np.ndarray, "B k d"]:
        """End-to-end matrices, (B, k, d')."""
        return self.suffixes(self.layers(theta))[0]

    def gradient(
        self, theta: Float[np.ndarray, "B parameters"], slope: Float[np.ndarray, "B k d"]
    ) -> Float[np.ndarray, "B parameters"]:
        """The loss's gradient in the layers, ``∇_j = S_jᵀ ∇L P_{j−1}ᵀ`` with P_j = W_j ⋯ W_1.

        Args:
            theta: (B, parameters).
            slope: (B, k, d') the gradient ∇L in the end-to-end matrix.
        """
        weights = self.layers(theta)
        suffixes = self.suffixes(weights)
        parts, before = [], slope
        for j, W in enumerate(weights):
            parts.append(suffixes[j + 1].mT @ before)
            before = before @ W.mT
        return self._masked(parts)

    def product(
        self, theta: Float[np.ndarray, "B parameters"], surface: Surface, point: Point
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The Hessian in the layers, as a function of directions (B, parameters).

        The derivative of `gradient` along V, by the product rule.
        """
        weights = self.layers(theta)
        S = self.suffixes(weights)
        Q = [point.gradient]
        for W in weights:
            Q.append(Q[-1] @ W.mT)
        N = len(weights)

        def apply(direction: np.ndarray) -> np.ndarray:
            V = self.layers(self.subset(direction))
            dS: list[np.ndarray] = [np.zeros_like(S[N])]
            for j in range(N - 1, -1, -1):
                dS.append(dS[-1] @ weights[j] + S[j + 1] @ V[j])
            dS = dS[::-1]
            dQ, parts = surface.curve(point, dS[0]), []
            for j in range(N):
                parts.append(dS[j + 1].mT @ Q[j] + S[j + 1].mT @ dQ)
                dQ = dQ @ weights[j].mT + Q[j] @ V[j].mT
            return self._masked(parts)

        return apply

    def subset(self, theta: Float[np.ndarray, "B parameters"]) -> Float[np.ndarray, "B parameters"]:
        """The array with zeros at entries that are not trained."""
        return theta if self._all_trained else theta * self._trained

    def traced(
        self, surface: Surface, theta: Float[np.ndarray, " parameters"]
    ) -> tuple[Callable[[jax.Array], jax.Array], Float[np.ndarray, " trained"]]:
        """One network's loss as a JAX function of its trained parameters.

        Args:
            surface: The loss surface.
            theta: (parameters,) the network.

        Returns:
            ``L − L*`` as a function of its trained parameters, and these.
        """
        trained = np.flatnonzero(self._trained)

        def loss(x: jax.Array) -> jax.Array:
            flat = x if self._all_trained else jnp.asarray(theta).at[trained].set(x)
            W = jnp.eye(self.shapes[0][1])
            for start, end, shape in zip(self._ends, self._ends[1:], self.shapes, strict=False):
                W = flat[start:end].reshape(shape) @ W
            return surface.traced(W)

        return loss, theta[trained]


def _augmented(layers: Layers, rotation: np.ndarray | None) -> list[np.ndarray]:
    weights = [np.asarray(W, np.float64) for W in layers.weights]
    if rotation is not None:
        weights[0] = weights[0] @ rotation
    if not layers.biases:
        return weights
    found = []
    for j, (W, b) in enumerate(zip(weights, layers.biases, strict=True)):
        affine = np.hstack([W, np.asarray(b, np.float64)[:, None]])
        if j + 1 < len(weights):
            affine = np.vstack([affine, np.eye(1, affine.shape[1], affine.shape[1] - 1)])
        found.append(affine)
    return found


def largest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray],
    start: Float[np.ndarray, "B n"],
    tolerance: float = 1e-3,
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B n"]]:
    """The largest eigenvalue of B symmetric matrices, by restarted Lanczos from a good guess.

    `observables.sharpness` computes the same inside compiled programs. Here the eigenvector of the
    previous point is the guess, so that a few products are enough.

    Args:
        product: (B, n) → (B, n).
        start: (B, n), not zero.
        tolerance: Of the residual, relative to the eigenvalue; the value's error is about the
            square of it.

    Returns:
        Values (B,) and unit vectors (B, n).
    """
    B, n = start.shape
    m = min(_LANCZOS_CHECKS[-1], n)
    vector = start / np.linalg.norm(start, axis=1, keepdims=True)
    values = np.zeros(B)
    for _ in range(_LANCZOS_CYCLES):
        basis = np.zeros((m, B, n))
        images = np.zeros((m, B, n))
        basis[0] = vector
        for j in range(m):
            images[j] = product(basis[j])
            if j + 1 == m or j + 1 in _LANCZOS_CHECKS:
                values, vector, residual = _ritz(basis[: j + 1], images[: j + 1])
                if np.all(residual <= tolerance * np.abs(values)):
                    return values, vector
            if j + 1 == m:
                break
            left = images[j].copy()
            for _again in range(2):
                left -= np.einsum("ib,ibn->bn", np.einsum("ibn,bn->ib", basis[: j + 1], left),
                                  basis[: j + 1])  # fmt: skip
            norm = np.linalg.norm(left, axis=1, keepdims=True)
            size = np.linalg.norm(images[j], axis=1, keepdims=True)
            # An invariant subspace is not extended: its further basis vectors are zero.
            basis[j + 1] = np.where(norm > 1e-12 * size, left / np.where(norm > 0, norm, 1), 0)
    return values, vector


def _ritz(basis: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest Ritz values (B,), their unit vectors (B, n) and residuals' norms (B,).

    Of bases (m, B, n) and their images under the matrices.
    """
    projected = np.einsum("ibn,jbn->bij", basis, images)
    ritz, modes = np.linalg.eigh((projected + projected.mT) / 2)
    # A zero vector of the basis is an eigenvector of value 0 that is none.
    real = np.einsum("ibn,ibn->bi", basis, basis)
    weight = np.einsum("bij,bi->bj", modes**2, real)
    ritz = np.where(weight > 0.5, ritz, -np.inf)
    top = np.argmax(ritz, axis=1)
    values = np.take_along_axis(ritz, top[:, None], 1)[:, 0]
    mode = np.take_along_axis(modes, top[:, None, None], 2)[:, :, 0]
    vector = np.einsum("bi,ibn->bn", mode, basis)
    residual = np.einsum("bi,ibn->bn", mode, images) - values[:, None] * vector
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    return values, vector, np.linalg.norm(residual, axis=1)


@dataclass(frozen=True)
class Path:
    """One network's gradient flow.

    Attributes:
        time: (T,) increasing, from 0; in units of learning rate × steps.
        excess: (T,) ``L − L*``, not increasing.
        speed: (T,) ``‖∇_θ L‖²``, at which it falls.
        sharpness: (T,) the largest eigenvalue λ of the loss's Hessian in the parameters.
        ended: Reason for the end: ``time``, as `Enough` says; ``sharp``, the sharpness exceeds its
            limit; ``precision``, the excess loss is below float64's resolution; ``work``, the bound
            on gradients; ``stuck``, the gradient is zero.
        imbalance: Of the last point: the largest change of ``‖W_{j+1}‖² − ‖W_j‖²``, which the flow
            conserves, relative to the larger of the norms.
        last: (parameters,) where it ends, as in `Stack`.
    """

    time: Float[np.ndarray, " T"]
    excess: Float[np.ndarray, " T"]
    speed: Float[np.ndarray, " T"]
    sharpness: Float[np.ndarray, " T"]
    ended: str
    imbalance: float
    last: Float[np.ndarray, " parameters"]

    def _log_excess(self) -> CubicHermiteSpline:
        return CubicHermiteSpline(self.time, np.log(self.excess), -self.speed / self.excess)

    def excess_at(self, time: Num[np.ndarray, "*times"]) -> Float[np.ndarray, "*times"]:
        """``L − L*`` at times; NaN after the end."""
        if len(self.time) == 1:
            return np.where(np.asarray(time) == 0, self.excess[0], np.nan)
        inside = np.clip(time, 0, self.time[-1])
        return np.where(
            np.asarray(time) <= self.time[-1], np.exp(self._log_excess()(inside)), np.nan
        )

    def time_to(self, excess: float) -> float:
        """When the excess loss is first at or below a value; inf if it is not before the end."""
        below = np.flatnonzero(self.excess <= excess)
        if not below.size:
            return np.inf
        i = int(below[0])
        if i == 0:
            return 0.0
        piece = CubicHermiteSpline(
            self.time[i - 1 : i + 1],
            np.log(self.excess[i - 1 : i + 1] / excess),
            -self.speed[i - 1 : i + 1] / self.excess[i - 1 : i + 1],
        )
        roots = piece.roots(extrapolate=False)
        return float(roots[0]) if roots.size else float(self.time[i])

    def largest_sharpness(self, time: float = np.inf) -> float:
        """The largest λ up to a time."""
        before = self.sharpness[self.time <= time]
        ends = [float(np.interp(time, self.time, self.sharpness))] if np.isfinite(time) else []
        return float(max([*before, *ends]))

    def first_above(self, level: float) -> float:
        """When λ first exceeds a level; inf if it does not before the end."""
        above = np.flatnonzero(self.sharpness > level)
        if not above.size:
            return np.inf
        i = int(above[0])
        if i == 0:
            return 0.0
        t, s = self.time[i - 1 : i + 1], self.sharpness[i - 1 : i + 1]
        return float(np.interp(level, s, t))


@dataclass(frozen=True)
class Enough:
    """Stopping criterion of a flow: the target is reached, and no stable rate has steps left.

    A learning rate η is stable while ηλ stays below ``threshold``. So at time t only rates below
    ``threshold / max λ`` are stable, and they have taken all their steps once
    ``t > num_steps · threshold / max λ``.

    Attributes:
        target: Excess loss, above 0.
        num_steps: Of the longest run that is to be predicted.
        threshold: Of the optimizer, 2 for gradient descent; per unit of the flow's time.
        sharpness: A flow also ends as soon as its sharpness exceeds this.
        whichever_first: Whether one of the two conditions is enough to end a flow.
    """

    target: float
    num_steps: int
    threshold: float = 2.0
    sharpness: float = np.inf
    whichever_first: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.target) and self.target > 0):
            raise UserError(f"target {self.target:g}: the excess loss must be above 0")


def follow(
    stack: Stack,
    surface: Surface,
    enough: Enough,
    *,
    tolerance: float = 1e-4,
    most_gradients: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Path]:
    """Integrates the gradient flows of B networks of one shape.

    The integrator is that of `stabilised`, with a step size of its own for each network, such that
    the estimated error of a step stays below ``tolerance`` of each layer's norm.

    Args:
        stack: The networks.
        surface: The loss surface.
        enough: The stopping criterion.
        tolerance: Of a step's error.
        most_gradients: Bound on the work of one flow; by default `MOST_GRADIENTS`, or fewer for
            large networks.
        progress: Called with the share of flows that have ended, now and then.

    Returns:
        A path for each network.
    """
    most = most_gradients_of(stack, surface) if most_gradients is None else most_gradients
    return _Follower(stack, surface, enough, tolerance, most, progress).run()


class _Follower:
    """The state of `follow`: arrays of the networks whose flows have not ended."""

    def __init__(
        self,
        stack: Stack,
        surface: Surface,
        enough: Enough,
        tolerance: float,
        most_gradients: int,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.stack, self.surface, self.enough = stack, surface, enough
        self.tolerance, self.most = tolerance, most_gradients
        self.progress = progress
        self.theta = stack.initial.copy()
        B = len(self.theta)
        self.alive = np.arange(B)
        self.time = np.zeros(B)
        self.gradients = 0
        self.records: list[list[np.ndarray]] = [[] for _ in range(B)]
        self.ended = ["time"] * B
        self.first = self.differences(self.theta)
        self.imbalance = np.zeros(B)
        self.last = self.theta.copy()
        rng = np.random.default_rng(0)
        self.vector = stack.subset(rng.standard_normal(self.theta.shape))
        self.scale = stack.sizes(self.theta)
        self.floor = 1e-3 * self.scale.max(axis=1, keepdims=True)
        self.most_sharp = np.zeros(B)
        self.size = np.zeros(B)

    def differences(self, theta: np.ndarray) -> np.ndarray:
        """``‖W_{j+1}‖² − ‖W_j‖²``."""
        return np.diff(self.stack.sizes(theta) ** 2, axis=1)

    def field(self, theta: np.ndarray) -> np.ndarray:
        """``−∇_θ L``."""
        slope = self.surface.gradient(self.stack.end_to_end(theta))
        return -self.stack.gradient(theta, slope)

    def evaluate(self, indices: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, ...]:
        """Excess losses, fields and sharpnesses at the current parameters."""
        theta = self.theta[indices]
        point = self.surface.at(self.stack.end_to_end(theta))
        gradient = self.stack.gradient(theta, point.gradient)
        if len(self.stack.shapes) == 1 and self.surface.is_quadratic and self.records[0]:
            return point.excess, -gradient, self.sharp[indices]  # a constant Hessian
        # With a little of another direction, since products never leave the orthogonal complement
        # of an eigenvector that the previous one lacks.
        vector = self.vector[indices]
        other = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-300)
        value, found = largest_eigenvalue(
            self.stack.product(theta, self.surface, point), vector + 0.03 * other
        )
        self.vector[indices] = found
        return point.excess, -gradient, value

    def record(self, rows: np.ndarray, excess: np.ndarray, slope: np.ndarray) -> None:
        """Appends the current points of some networks to their paths."""
        speeds = np.einsum("bn,bn->b", slope[rows], slope[rows])
        values_of_rows = np.stack([self.time[rows], excess[rows], speeds, self.sharp[rows]], axis=1)
        for row, values in zip(rows, values_of_rows, strict=True):
            self.records[self.alive[row]].append(values)

    def keep(self, kept: np.ndarray) -> None:
        """Keeps these networks, whose flows have not ended."""
        for name in ("theta", "alive", "time", "vector", "scale", "floor", "most_sharp", "size",
                     "excess", "slope", "sharp", "first"):  # fmt: skip
            setattr(self, name, getattr(self, name)[kept])

    def finish(self) -> None:
        """Ends the flows that meet a stopping criterion."""
        horizon = self.enough.num_steps * self.enough.threshold
        with np.errstate(divide="ignore"):
            no_steps_left = self.time >= np.where(
                self.most_sharp > 0, horizon / self.most_sharp, np.inf
            )
        reached = self.excess <= self.enough.target
        speed = np.einsum("bn,bn->b", self.slope, self.slope)
        reasons = {
            "sharp": self.sharp > self.enough.sharpness,
            "time": no_steps_left | reached
            if self.enough.whichever_first
            else no_steps_left & reached,
            "precision": self.excess <= 2 * self.surface.resolution,
            "stuck": speed <= 1e-300,
            "work": np.full(len(self.alive), self.gradients >= self.most),
        }
        over = np.zeros(len(self.alive), bool)
        for reason, holds in reasons.items():
            for row in np.flatnonzero(holds & ~over):
                self.ended[self.alive[row]] = reason
            over |= holds
        if over.any():
            change = np.abs(self.differences(self.theta) - self.first).max(axis=1, initial=0)
            largest = self.stack.sizes(self.theta).max(axis=1) ** 2
            rows = self.alive[over]
            self.imbalance[rows] = (change / np.maximum(largest, 1e-300))[over]
            self.last[rows] = self.theta[over]
            self.keep(~over)

    def run(self) -> list[Path]:
        """Integrates until all flows have ended."""
        self.excess, self.slope, self.sharp = self.evaluate()
        self.most_sharp = np.maximum(self.sharp, 0)
        self.record(np.arange(len(self.alive)), self.excess, self.slope)
        speed = np.linalg.norm(self.slope, axis=1)
        size = np.linalg.norm(self.theta, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.minimum(0.01 * size / speed, 0.25 / np.maximum(np.abs(self.sharp), 1e-300))
        self.size = np.where(np.isfinite(guess), guess, 1.0)
        self.finish()
        while len(self.alive):
            self.step()
            self.finish()
            if self.progress is not None:
                self.progress(1 - len(self.alive) / len(self.records))
        return [self._path(b) for b in range(len(self.records))]

    def step(self) -> None:
        """One attempt at a step, which each network accepts or repeats with a smaller size."""
        self.size = np.minimum(self.size, stabilised.longest_step(self.sharp))
        stages = stabilised.stages_for(float(np.max(self.size * np.maximum(self.sharp, 0))))
        with np.errstate(over="ignore", invalid="ignore"):
            after = stabilised.step(self.field, self.theta, self.slope, self.size, stages)
            slope = self.field(after)
            error = stabilised.error(self.theta, self.slope, after, slope, self.size)
            share = self.stack.sizes(error) / np.maximum(self.scale, self.floor)
            worst = share.max(axis=1) / self.tolerance
        self.gradients += stages + 1
        worst = np.where(np.isfinite(worst), worst, 1e3)
        accepted = worst <= 1
        rows = np.flatnonzero(accepted)
        factor = np.clip(0.8 * np.maximum(worst, 1e-10) ** (-1 / 3), 0.1, 5.0)
        if rows.size:
            self.time[rows] += self.size[rows]
            self.theta[rows] = after[rows]
            self.excess[rows], self.slope[rows], self.sharp[rows] = self.evaluate(rows)
            self.most_sharp = np.maximum(self.most_sharp, self.sharp)
            self.scale = np.maximum(self.scale, self.stack.sizes(self.theta))
            self.record(rows, self.excess, self.slope)
        self.size = self.size * factor

    def _path(self, b: int) -> Path:
        points = np.array(self.records[b])
        # After a plateau of 10¹² the first steps of the escape are below float64's resolution of
        # the time.
        advanced = np.append(np.diff(points[:, 0]) > 0, True)
        time, excess, speed, sharpness = points[advanced].T
        # An excess loss below its resolution is a rounding error, and may be negative.
        excess = np.maximum(np.minimum.accumulate(excess), self.surface.resolution)
        imbalance = float(self.imbalance[b])
        return Path(time, excess, speed, sharpness, self.ended[b], imbalance, self.last[b])
