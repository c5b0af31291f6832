"""Gradient flows on ℓ4 by an implicit method, for features of any condition number.

`implicit_accel.theory.flow` computes flows of networks of any shape from gradients alone. It takes
the square root of gradient descent's steps, and it needs the optimum. With raw features those
steps are too many, and with few rows the optimum is 0. Here a network is a vector and at most one
scalar, whose Hessian of 129 × 129 is cheap: a flow takes about a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from implicit_accel.data.problems import Problem
from implicit_accel.errors import UserError
from implicit_accel.linear.networks import Layers

# Relative error of a step. The tests compare the flows with gradient descent at small rates.
_TOLERANCE = 1e-3
_PER_DECADE = 40
# Points at which the Hessian's eigenvalues are computed.
_NUM_HESSIANS = 8


@dataclass(frozen=True)
class Flow:
    """One network's gradient flow on ``mean r⁴ / 4``.

    Attributes:
        time: (T,) increasing, above 0: learning rate × steps.
        loss: (T,) not increasing.
        sharpness: The largest eigenvalue of the loss's Hessian along the flow. Gradient descent
            follows the flow at learning rates below 2 / sharpness.
    """

    time: np.ndarray
    loss: np.ndarray
    sharpness: float


class _Units:
    """The loss ``ℓ⁴ L̂(v, s)`` of the weights ``V = φ v`` and ``S = σ s``.

    In these units the zero map has loss 1 and one layer there has sharpness 1, so that tolerances
    mean the same for every problem. With features ``√κ A`` and labels ``ℓ b``, ``φ σ √κ = ℓ``. The
    unit of time is ``φ²/ℓ⁴`` for the vector, and the scalar's pace is ``φ²/σ²``.
    """

    def __init__(self, problem: Problem, *, deep: bool) -> None:
        X, y = problem.features, problem.targets[:, 0]
        self.n, self.deep = len(y), deep
        label = float(np.mean(y**4) / 4) ** 0.25
        self.b = y / label
        curvature = float(np.linalg.eigvalsh(3 * (X.T * self.b**2) @ X / self.n)[-1])
        self.A = X / np.sqrt(curvature)
        scalar = np.sqrt(label) if deep else 1.0
        vector = label / scalar / np.sqrt(curvature)
        self.loss = label**4
        self.time = vector**2 / self.loss
        self.weights = np.array([vector] * X.shape[1] + [scalar] * deep)
        self.pace = (vector / self.weights) ** 2

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, float]:
        """Vector and scalar."""
        return (theta[:-1], float(theta[-1])) if self.deep else (theta, 1.0)

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """(n,)."""
        v, s = self.split(theta)
        return s * (self.A @ v) - self.b

    def losses(self, points: np.ndarray) -> np.ndarray:
        """(T,) L̂ at points (parameters, T)."""
        vectors, scalars = (points[:-1], points[-1]) if self.deep else (points, 1.0)
        return np.mean((self.A @ vectors * scalars - self.b[:, None]) ** 4, axis=0) / 4

    def field(self, _: float, theta: np.ndarray) -> np.ndarray:
        """The weights' derivative by time."""
        v, s = self.split(theta)
        slope = self.A.T @ self.residuals(theta) ** 3 / self.n
        return -self.pace * (np.append(s * slope, v @ slope) if self.deep else slope)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Of L̂."""
        v, s = self.split(theta)
        r = self.residuals(theta)
        q = 3 * r * r / self.n
        H = s * s * (self.A.T * q) @ self.A
        if not self.deep:
            return H
        along = self.A @ v
        column = (self.A.T @ (r**3 / self.n + s * q * along))[:, None]
        return np.block([[H, column], [column.T, np.full((1, 1), q @ along**2)]])

    def jacobian(self, _: float, theta: np.ndarray) -> np.ndarray:
        """Of the field."""
        return -self.pace[:, None] * self.hessian(theta)

    def sharpness(self, theta: np.ndarray) -> float:
        """The largest eigenvalue of the loss's Hessian, in the problem's units."""
        H = self.loss * self.hessian(theta) / np.outer(self.weights, self.weights)
        return float(np.linalg.eigvalsh(H)[-1])


def follow_l4(problem: Problem, layers: Layers, *, most: float, lowest: float) -> Flow:
    """Computes the gradient flow of one layer, or of one layer and a scalar.

    Args:
        problem: With one output.
        layers: (1, d), or (1, d) and (1, 1), without biases.
        most: The time of its end, over the inverse of one layer's sharpness at the zero map (for
            the deeper network also divided by the labels' size, ``(mean y⁴ / 4)^¼``).
        lowest: The loss at which it ends earlier.

    Raises:
        UserError: If the network or the problem has another shape.
    """
    shapes = [W.shape for W in layers.weights]
    d = problem.num_features
    if problem.num_outputs != 1 or shapes not in ([(1, d)], [(1, d), (1, 1)]) or layers.biases:
        raise UserError(f"layers of shapes {shapes}: one layer of one output, or it and a scalar")
    units = _Units(problem, deep=len(shapes) == 2)

    def reached(_: float, theta: np.ndarray) -> float:
        return float(np.mean(units.residuals(theta) ** 4) / 4 - lowest / units.loss)

    reached.terminal = True  # type: ignore[attr-defined] - SciPy reads this attribute
    first = 1e-3
    times = np.geomspace(first, most, int(_PER_DECADE * np.log10(most / first)))
    found = solve_ivp(
        units.field, (0, most), np.concatenate([W.ravel() for W in layers.weights]) / units.weights,
        method="BDF", jac=units.jacobian, events=reached, t_eval=times,
        rtol=_TOLERANCE, atol=1e-2 * _TOLERANCE / np.sqrt(d),
    )  # fmt: skip
    points = found.y.T[:: max(1, found.y.shape[1] // _NUM_HESSIANS)]
    return Flow(
        time=found.t * units.time,
        loss=np.minimum.accumulate(units.losses(found.y)) * units.loss,
        sharpness=max((units.sharpness(theta) for theta in points), default=np.nan),
    )
