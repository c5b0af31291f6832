"""The dynamics that a scalar second layer induces in one layer, in float64 numpy.

Source: Arora, Cohen & Hazan (2018), section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from implicit_accel.errors import UserError


class InducedDynamics(NamedTuple):
    """The update of w = ω w₁ in terms of the loss's gradients at w alone.

    ``w(t+1) = w(t) − rho(t) ∇L(w(t)) − Σ_{τ<t} mu(t, τ) ∇L(w(τ)) − start(t) w₁(0)``

    Attributes:
        rho: (T,), the adaptive learning rate.
        mu: (T, T), strictly lower triangular: the momentum. Positive while ``|ω|`` grows.
        start: (T,), coefficient of the initial vector; small for near-zero initialisation.
    """

    rho: Float[np.ndarray, " T"]
    mu: Float[np.ndarray, "T T"]
    start: Float[np.ndarray, " T"]


def induced_dynamics(
    scalars: Num[np.ndarray, " steps"], learning_rate: float, *, exact: bool = False
) -> InducedDynamics:
    """The coefficients of a run of gradient descent on ``L(ω w₁)``.

    One step is ``w₁ ← w₁ − η ω ∇`` and ``ω ← ω − η w₁·∇``, so that
    ``w(t+1) = w − η ω² ∇ − η (w₁·∇) w₁ + η² ω (w₁·∇) ∇``. Arora, Cohen & Hazan (2018), section 3,
    drop the last term, with ``ρ = η ω²`` and ``γ = η (w₁·∇)/ω``:
    ``w(t+1) ≈ (1 − γ(t)) w(t) − ρ(t) ∇L(w(t))``. Unrolled, w(t) is a sum of past gradients, and
    ``μ(t, τ) = −γ(t) ρ(τ) Π_{s=τ+1..t−1} (1 − γ(s))``. Because ``1 − γ(t) = ω(t+1)/ω(t)``, the
    product telescopes:

    ``ρ(t) = η ω(t)²``, ``μ(t, τ) = η (ω(t+1) − ω(t)) ω(τ)² / ω(τ+1)``.

    Without that approximation one ω(τ) in either is ω(τ+1):
    ``ρ(t) = η ω(t) ω(t+1)``, ``μ(t, τ) = η (ω(t+1) − ω(t)) ω(τ)``. In both forms w₁(0) has the
    coefficient ``−(ω(t+1) − ω(t))``, which the paper neglects as well.

    Args:
        scalars: (T + 1,) ω(0) … ω(T), none of them 0 unless ``exact``.
        learning_rate: η.
        exact: Whether to keep the term of second order in η.

    Returns:
        The coefficients of T steps. One step's error is, unless ``exact``,
        ``η² |ω (w₁·∇)| ‖∇‖`` and terms of second order from the earlier ones.

    Raises:
        UserError: If the approximate form would divide by 0.
    """
    omega = np.asarray(scalars, np.float64)
    now, then = omega[:-1], omega[1:]
    if not exact and not np.all(omega):
        raise UserError("a scalar is exactly 0, where the approximation divides by it: use exact")
    rho = learning_rate * now * (then if exact else now)
    weights = learning_rate * now if exact else rho / then
    mu = np.tril(np.outer(then - now, weights), -1)
    return InducedDynamics(rho, mu, now - then)
