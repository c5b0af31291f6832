"""No regulariser gives the end-to-end rule: line integrals of its field, in float64 numpy.

Source: Arora, Cohen & Hazan (2018), "On the Optimization of Deep Networks: Implicit Acceleration
by Overparameterization", theorem 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.integrate
from jaxtyping import Float

from implicit_accel.data.problems import Problem
from implicit_accel.errors import UserError
from implicit_accel.linear.losses import Loss

Field = Callable[[Float[np.ndarray, " d"]], Float[np.ndarray, " d"]]


@dataclass(frozen=True)
class Segment:
    """A smooth piece of a curve, t in [0, 1].

    Attributes:
        point: t → w(t), of shape (d,).
        velocity: t → dw/dt, of shape (d,).
    """

    point: Callable[[float], Float[np.ndarray, " d"]]
    velocity: Callable[[float], Float[np.ndarray, " d"]]


def loss_gradient(loss: Loss, problem: Problem) -> Field:
    """``∇L(w) = Xᵀ φ'(X w − y) / n`` of a problem with one output.

    Raises:
        UserError: If the problem has several outputs.
    """
    X, y = problem.features, _labels(problem)
    return lambda w: X.T @ loss.derivative(X @ w - y) / len(y)


def end_to_end_field(gradient: Field, depth: int) -> Field:
    """``F(w) = ‖w‖^{2−2/N} (∇L(w) + (N−1) Pr_w ∇L(w))``, along which a deep network descends.

    Args:
        gradient: ∇L.
        depth: N ≥ 1.

    Returns:
        F; at w = 0 it is 0, for N = 1 the gradient everywhere.
    """

    def field(w: np.ndarray) -> np.ndarray:
        g, norm = gradient(w), float(np.linalg.norm(w))
        if norm == 0:
            return g if depth == 1 else np.zeros_like(g)
        unit = w / norm
        return norm ** (2 - 2 / depth) * (g + (depth - 1) * (unit @ g) * unit)

    return field


def closed_curve(
    direction: Sequence[float] | Float[np.ndarray, " d"],
    other: Sequence[float] | Float[np.ndarray, " d"],
    inner_radius: float,
    outer_radius: float,
    angle: float = math.pi,
) -> tuple[Segment, ...]:
    """A sector between two circles about the origin, run round once.

    With e the unit vector of ``direction`` and e' that at ``angle`` from it towards ``other``:
    straight from R e' to r e', on the circle of radius r to r e, straight to R e, on the circle of
    radius R back to R e'. For the angle π, e' = −e, it is the curve of Arora, Cohen & Hazan
    (2018), theorem 2, where e points along −∇L(0).

    Args:
        direction: (d,), not 0.
        other: (d,), not parallel to it; what is orthogonal to ``direction`` is used.
        inner_radius: r > 0.
        outer_radius: R > r.
        angle: Between the two rays, in (0, 2π) radians.

    Returns:
        The four segments.

    Raises:
        UserError: If an argument is out of range.
    """
    if not 0 < inner_radius < outer_radius < math.inf:
        raise UserError(f"radii {inner_radius:g} and {outer_radius:g}: must be 0 < inner < outer")
    if not 0 < angle < 2 * math.pi:
        raise UserError(f"angle {angle:g}: must be above 0 and below 2 pi")
    first = np.asarray(direction, np.float64)
    second = np.asarray(other, np.float64)
    if not np.linalg.norm(first) > 0:
        raise UserError("the curve's direction is zero: give a vector that is not")
    e = first / np.linalg.norm(first)
    across = second - (second @ e) * e
    if not np.linalg.norm(across) > 1e-8 * np.linalg.norm(second):
        raise UserError("the curve's two directions are parallel: they must span a plane")
    # Twice, so that it is orthogonal to rounding even where the two are nearly parallel.
    across -= (across @ e) * e
    o = across / np.linalg.norm(across)

    def ray(theta: float, start: float, end: float) -> Segment:
        unit = math.cos(theta) * e + math.sin(theta) * o
        return Segment(lambda t: (start + (end - start) * t) * unit, lambda _: (end - start) * unit)

    def arc(radius: float, start: float, end: float) -> Segment:
        def point(t: float) -> np.ndarray:
            theta = start + (end - start) * t
            return radius * (math.cos(theta) * e + math.sin(theta) * o)

        def velocity(t: float) -> np.ndarray:
            theta = start + (end - start) * t
            return (end - start) * radius * (math.cos(theta) * o - math.sin(theta) * e)

        return Segment(point, velocity)

    r, R = inner_radius, outer_radius
    return ray(angle, R, r), arc(r, angle, 0), ray(0, r, R), arc(R, 0, angle)


def line_integral(field: Field, curve: Sequence[Segment]) -> tuple[float, float]:
    """``∮ F(w) · dw`` by adaptive Gauss–Kronrod quadrature of each segment, in float64.

    It is 0 for every closed curve if, and only if, F is the gradient of some function.

    Args:
        field: F.
        curve: Segments, one after the other.

    Returns:
        The integral, and the quadrature's bound of its error, the sum over the segments.
    """
    values, errors = [], []
    for segment in curve:

        def integrand(t: float, segment: Segment = segment) -> float:
            return float(field(segment.point(t)) @ segment.velocity(t))

        # Full output keeps the remarks on rounding, which the error estimate covers, from becoming
        # warnings: a segment's integral may be 0, of which no relative precision can be had.
        value, error, *_ = scipy.integrate.quad(
            integrand, 0, 1, epsabs=0, epsrel=1e-12, limit=50, full_output=1
        )
        values.append(value)
        errors.append(error)
    return math.fsum(values), math.fsum(errors)


def ray_coefficients(
    loss: Loss, problem: Problem, direction: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " powers"]:
    """Coefficients of the polynomial ``t ↦ L(t e)`` for an even p.

    ``L(t e) = Σ_m t^m scale · C(p, m) · mean((X e)^m (−y)^{p−m})``, m = 0 … p.

    Args:
        loss: ℓp with p an even integer.
        problem: With one output.
        direction: (d,), of which e is the unit vector.

    Returns:
        (p + 1,) coefficients, that of t⁰ first.

    Raises:
        UserError: If L is no polynomial or the problem has several outputs.
    """
    if not loss.is_even:
        raise UserError(f"loss {loss.name} is no polynomial of the weights: choose l2, l4, l6 …")
    p, y = int(loss.p), _labels(problem)
    along = problem.features @ (direction / np.linalg.norm(direction))
    return np.array(
        [loss.scale * math.comb(p, m) * np.mean(along**m * (-y) ** (p - m)) for m in range(p + 1)]
    )


def closed_curve_integral(
    start: Sequence[float] | Float[np.ndarray, " powers"],
    end: Sequence[float] | Float[np.ndarray, " powers"],
    depth: int,
    inner_radius: float,
    outer_radius: float,
) -> float:
    """The line integral of `end_to_end_field` along `closed_curve`, for a polynomial loss.

    Let ``D(ρ) = L(ρ e) − L(ρ e')`` and ``α = 2 − 2/N``. On the rays only ``N ρ^α ∂L/∂ρ`` counts, on
    an arc, where the projection is orthogonal to the motion, only ``ρ^α`` times the loss's
    increase. Together

    ``∮ F·dw = ∫_r^R N ρ^α D'(ρ) dρ − R^α D(R) + r^α D(r) = (N−1) ∫_r^R ρ² d(ρ^{−2/N} D(ρ))``,

    and a term ``c_m ρ^m`` of D gives ``c_m (N m / q − 1) (R^q − r^q)`` with ``q = m + 2 − 2/N``.
    The integral vanishes for all radii only if D is a multiple of ``ρ^{2/N}``. So a non-zero
    ∇L(0), which gives D a linear term, is enough for N ≥ 3; for N = 2 the linear term gives
    nothing, as ``F = ∇(‖w‖ g·w)`` for a constant gradient g. On opposite rays, e' = −e, even
    terms cancel: with ℓ2 and N = 2 that integral is 0, and another angle is needed.

    Args:
        start: Coefficients c_m of L along e', that of ρ⁰ first, see `ray_coefficients`.
        end: Likewise along e.
        depth: N ≥ 1.
        inner_radius: r.
        outer_radius: R.

    Returns:
        The integral, exact but for rounding.
    """
    N, alpha = depth, 2 - 2 / depth
    terms = []
    for m, (at_start, at_end) in enumerate(zip(start, end, strict=True)):
        if m == 0:
            continue  # L(0), which both rays share
        q = m + alpha
        # N m − q, factored: exactly 0 for a single layer, and for N = 2 and m = 1.
        factor = (N - 1) * (N * m - 2) / (N * q)
        terms.append(factor * (at_end - at_start) * (outer_radius**q - inner_radius**q))
    return math.fsum(terms)


def _labels(problem: Problem) -> Float[np.ndarray, " n"]:
    if problem.num_outputs != 1:
        raise UserError(f"the problem has {problem.num_outputs} outputs: one is needed here")
    return problem.targets[:, 0]
