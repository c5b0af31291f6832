"""The plateau law: the escape time from a near-zero initialisation.

It is an integral over the layers' conserved quantities.

Near zero the loss is linear in the end-to-end matrix, ``L ≈ L(0) + ⟨∇L(0), W⟩``. With one output,
G = ‖∇L(0)‖ and v the first layer's component along −∇L(0)/G, the flow of a network of width 1 is

``dv/dt = G Π_j a_j``,  ``da_j/dt = G v Π_{i≠j} a_i``,

so that all differences of squares of (v, a_1, …, a_{N−1}) are conserved. Let u be the smallest of
them in magnitude: the others are ``√(u² + c_i)`` with constants c_i ≥ 0, and

``t = ∫ du / (G Π_i √(u² + c_i))``

runs from −|u(0)| if the product of all signs is negative (the product first shrinks to 0 and
changes its sign) and from |u(0)| otherwise. For other widths the same linear problem is integrated
numerically; with one hidden layer it has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.integrate
import scipy.optimize

from implicit_accel.errors import UserError
from implicit_accel.linear.networks import Layers
from implicit_accel.theory.surface import Surface


def escape_time(surface: Surface, layers: Layers, share: float = 0.01) -> float:
    """The flow's time at which the excess loss has fallen by a share of the zero predictor's.

    To first order: ``−⟨∇L(0), W_e⟩ = share · (L(0) − L*)``.

    Args:
        surface: With one output, without biases.
        layers: The network's initial weights.
        share: Small beside 1, so that the loss is still linear.

    Returns:
        The time; 0 if the initial loss is already lower, inf if it never falls so far. It is exact
        for the linear problem: by quadrature at width 1, in closed form at depths 1 and 2, and by
        integration (Dormand & Prince's method, to 10⁻⁹) at other widths.

    Raises:
        UserError: If there are several outputs or biases, or the share is no share.
    """
    if surface.shape[0] != 1 or layers.biases:
        raise UserError("the plateau law is for networks with one output and no biases")
    if not 0 < share < 1:
        raise UserError(f"share {share:g}: it must be between 0 and 1")
    gradient = surface.at(np.zeros((1, *surface.shape))).gradient[0, 0]
    G = float(np.linalg.norm(gradient))
    if G == 0:
        return math.inf
    level = share * surface.zero_excess / G
    first = np.asarray(layers.weights[0], np.float64)
    if surface.rotation is not None:
        first = first @ surface.rotation
    along = first @ (-gradient / G)
    rest = [np.asarray(W, np.float64) for W in layers.weights[1:]]
    if all(W.size == 1 for W in rest):
        return _width_one(np.array([along[0], *(W.item() for W in rest)]), G, level)
    if len(rest) == 1:
        return _one_hidden_layer(along, rest[0][0], G, level)
    return _any_width(along, rest, G, level)


def _width_one(x: np.ndarray, G: float, level: float) -> float:
    """From the numbers (v, a_1, …), until their product is the level."""
    if np.prod(x) >= level:
        return 0.0
    if len(x) == 1:
        return (level - x[0]) / G
    smallest = int(np.argmin(np.abs(x)))
    constants = np.delete(x, smallest) ** 2 - x[smallest] ** 2
    if np.count_nonzero(constants == 0) and x[smallest] == 0:
        return math.inf  # two numbers are zero: the gradients of all are zero
    sign = float(np.prod(np.sign(x[np.abs(x) > 0])))
    begin = math.copysign(abs(float(x[smallest])), sign)

    def log_product(u: float) -> float:
        return math.log(u) + 0.5 * float(np.sum(np.log(u * u + constants)))

    # Monotone in u > 0; at level^(1/N) the product is at least the level.
    top = level ** (1 / len(x))
    bottom = max(begin, 1e-300)
    solution = scipy.optimize.root_scalar(
        lambda s: log_product(math.exp(s)) - math.log(level),
        bracket=(math.log(bottom), math.log(top) + 1e-9),
    )
    end = float(solution.root)
    if begin < 0 and np.any(constants == 0):
        return math.inf  # it converges to the saddle point where two numbers are zero
    # The integrand is widest around 0, at scales of the roots of the constants: in sinh's argument
    # it is smooth over all of them.
    scale = max(math.sqrt(float(np.min(constants[constants > 0], initial=math.inf))), 1e-300)
    scale = scale if math.isfinite(scale) else max(abs(begin), 1e-300)

    def integrand(s: float) -> float:
        u = scale * math.sinh(s)
        logs = math.log(scale * math.cosh(s)) - 0.5 * float(np.sum(np.log(u * u + constants)))
        return math.exp(logs - math.log(G))

    low, high = math.asinh(begin / scale), math.asinh(math.exp(end) / scale)
    value, *_ = scipy.integrate.quad(integrand, low, high, epsrel=1e-10, limit=400, full_output=1)
    return float(value)


def _one_hidden_layer(u: np.ndarray, a: np.ndarray, G: float, level: float) -> float:
    """``u' = G a, a' = G u``: ``u·a = (‖u + a‖² e^{2Gt} − ‖u − a‖² e^{−2Gt}) / 4``."""
    if u @ a >= level:
        return 0.0
    plus, minus = float((u + a) @ (u + a)), float((u - a) @ (u - a))
    if plus == 0:
        return math.inf
    # A quadratic in e^{2Gt}, whose one positive root is above 1.
    root = (2 * level + math.sqrt(4 * level**2 + plus * minus)) / plus
    return math.log(root) / (2 * G)


def _any_width(u: np.ndarray, rest: Sequence[np.ndarray], G: float, level: float) -> float:
    """The linear problem with a first layer of one column, in time scaled to its own growth."""
    weights = [u[:, None], *rest]
    shapes = [W.shape for W in weights]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def split(theta: np.ndarray) -> list[np.ndarray]:
        return [theta[i:j].reshape(s) for i, j, s in zip(ends, ends[1:], shapes, strict=False)]

    def product(theta: np.ndarray) -> float:
        found = np.eye(1)
        for W in reversed(split(theta)):
            found = found @ W
        return float(found[0, 0])

    def field(_: float, y: np.ndarray) -> np.ndarray:
        layers = split(y[:-1])
        suffixes = [np.eye(1)]
        for W in reversed(layers[1:]):
            suffixes.append(suffixes[-1] @ W)
        suffixes, prefix, parts = suffixes[::-1], np.eye(1), []
        for S, W in zip(suffixes, layers, strict=True):
            parts.append((S.T @ prefix.T).ravel())
            prefix = W @ prefix
        slope = np.concatenate(parts)
        # In the integration variable the weights change by their own size per unit.
        pace = np.linalg.norm(y[:-1]) / max(float(np.linalg.norm(slope)), 1e-300)
        return np.append(pace * slope, pace / G)

    def reached(_: float, y: np.ndarray) -> float:
        return product(y[:-1]) - level

    reached.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    theta = np.concatenate([W.ravel() for W in weights])
    if product(theta) >= level:
        return 0.0
    found = scipy.integrate.solve_ivp(
        field, (0, 1000), np.append(theta, 0.0), events=reached, rtol=1e-9,
        atol=1e-12 * float(np.linalg.norm(theta)),
    )  # fmt: skip
    return float(found.y_events[0][0, -1]) if len(found.y_events[0]) else math.inf
