"""A stabilised explicit integrator for gradient flows, for many of them at once.

Gradient flow of a network is stiff: the fastest direction relaxes in ``1/λ``, the target may be
10⁵ such times away. An explicit Runge–Kutta method follows it at the price of gradient descent. The
second-order Runge–Kutta–Chebyshev method (Sommeijer, Shampine & Verwer 1997, "RKC: an explicit
solver for parabolic PDEs") spends its s stages on stability along the negative real axis, where a
gradient flow's Jacobian ``−∇²L`` has its spectrum: a step may be ``0.65 s²/λ`` long. That is the
square root of gradient descent's cost, with products of matrices and vectors only, for networks of
any size. Beside gradients it needs the largest eigenvalue λ, which is computed anyway.

No maintained Python library has such a method. The implicit ones of SciPy, which the tests hold
this one against, factorise a matrix of the parameters' size for each flow by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

# Damping of the stability polynomial, without which the fastest modes would not decay.
_DAMPING = 2 / 13
# A step uses 95 % of the stability interval ``β(s) ≈ 2/3 (s² − 1)(1 − 2/15 damping)``, since the
# eigenvalue is that of the step's beginning.
_INTERVAL = 0.95 * 2 / 3 * (1 - 2 / 15 * _DAMPING)
MOST_STAGES = 400


def stages_for(step_times_eigenvalue: float) -> int:
    """How many stages make a step stable, 2 or more."""
    return max(2, math.ceil(math.sqrt(step_times_eigenvalue / _INTERVAL + 1)))


def longest_step(eigenvalue: np.ndarray) -> np.ndarray:
    """The longest stable step for an eigenvalue, in at most `MOST_STAGES` stages."""
    with np.errstate(divide="ignore"):
        return _INTERVAL * (MOST_STAGES**2 - 1) / np.maximum(eigenvalue, 0.0)


@functools.cache
def _coefficients(s: int) -> tuple[float, list[tuple[float, float, float, float]]]:
    """``μ̃_1``, and ``(μ_j, ν_j, μ̃_j, γ̃_j)`` for j = 2 … s."""
    w0 = 1 + _DAMPING / s**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, s + 1):
        ddT.append(4 * dT[-1] + 2 * w0 * ddT[-1] - ddT[-2])
        dT.append(2 * T[-1] + 2 * w0 * dT[-1] - dT[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = dT[s] / ddT[s]
    b = [ddT[j] / dT[j] ** 2 if j >= 2 else ddT[2] / dT[2] ** 2 for j in range(s + 1)]
    rows = []
    for j in range(2, s + 1):
        mu, nu = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        rows.append((mu, nu, mu_tilde, -(1 - b[j - 1] * T[j - 1]) * mu_tilde))
    return b[1] * w1, rows


def step(
    field: Callable[[np.ndarray], np.ndarray],
    y: np.ndarray,
    slope: np.ndarray,
    size: np.ndarray,
    stages: int,
) -> np.ndarray:
    """One step of ``y' = field(y)`` for B systems at once.

    Args:
        field: (B, n) → (B, n).
        y: (B, n).
        slope: ``field(y)``.
        size: (B,) each system's own step.
        stages: s ≥ 2, enough for the stiffest, see `stages_for`.

    Returns:
        (B, n), of second order.
    """
    h = size[:, None]
    first, rows = _coefficients(stages)
    before, now = y, y + first * h * slope
    for mu, nu, mu_tilde, gamma_tilde in rows:
        after = (1 - mu - nu) * y + mu * now + nu * before
        after += h * (mu_tilde * field(now) + gamma_tilde * slope)
        before, now = now, after
    return now


def error(
    y: np.ndarray, slope: np.ndarray, y_next: np.ndarray, slope_next: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """The step's estimated local error, (B, n), of third order; same source, section 3."""
    return 0.8 * (y - y_next) + 0.4 * size[:, None] * (slope + slope_next)
