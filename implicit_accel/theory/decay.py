"""Weight decay of a product of two matrices, on which no other gradient acts.

Arora, Cohen & Hazan (2018) replace a network's dense matrices by products. If the penalty then is
the product's, ``λ/2 ‖W_2 W_1‖²``, its gradient reaches the product through both factors, and it
decays faster than a single matrix does, by about as much as the factors' squared singular values
are above 1. It is a function of λ, the learning rate, the momentum and the initial factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from implicit_accel.errors import UserError


def momentum_time(
    rates: Sequence[float] | Num[np.ndarray, " ..."], momentum: float
) -> Float[np.ndarray, " steps"]:
    """The time of gradient flow that corresponds to each step of momentum descent.

    A constant gradient g moves the weights by ``−g · η (1 − μ^{s+1})/(1 − μ)`` in step s: after a
    few steps by 1/(1 − μ) times what plain descent does.

    Args:
        rates: (T,) learning rates η of the steps, numbers from 0 up.
        momentum: μ, from 0 up and below 1; 0 for plain descent.

    Returns:
        (T + 1,) times, before the first step (0) and after each.

    Raises:
        UserError: If a value is not allowed.
    """
    rates = np.asarray(rates, float)
    if not (rates.ndim == 1 and np.isfinite(rates).all() and (rates >= 0).all()):
        raise UserError("learning rates must be a row of finite numbers >= 0")
    if not 0 <= momentum < 1:
        raise UserError(f"momentum {momentum:g}: it must be from 0 up and below 1")
    grown = (1 - momentum ** (1 + np.arange(len(rates)))) / (1 - momentum)
    return np.concatenate([[0.0], np.cumsum(rates * grown)])


def single_penalty(
    start: float, times: Num[np.ndarray, "*times"], weight_decay: float
) -> Float[np.ndarray, "*times"]:
    """½ ‖W‖² of a single matrix under its own decay: ``start · e^{−2λτ}``.

    Args:
        start: The penalty at time 0.
        times: τ, of any shape, see `momentum_time`.
        weight_decay: λ.
    """
    return start * np.exp(-2 * weight_decay * np.asarray(times, float))


def product_penalty(
    first: Num[np.ndarray, " ..."],
    second: Num[np.ndarray, " ..."],
    times: Num[np.ndarray, " K"],
    weight_decay: float,
) -> Float[np.ndarray, " K"]:
    """½ ‖W_2 W_1‖² along the gradient flow of λ/2 ‖W_2 W_1‖², in closed form.

    With ``A = W_1 W_1ᵀ`` and ``B = W_2ᵀ W_2`` the flow keeps ``C = A − B``, and
    ``B' = −λ(AB + BA)`` is a Riccati equation that B⁻¹ makes linear. In C's eigenbasis, with
    eigenvalues c, ``F = diag e^{−λcτ}`` and ``D = diag (1 − e^{−2λcτ})/c``,
    ``B(τ) = F (I + B_0 D)⁻¹ B_0 F``, and the penalty is ``½ tr(B² + CB)``.

    Args:
        first: (h, d) W_1 at time 0.
        second: (k, h) W_2 at time 0.
        times: (K,) times τ ≥ 0, see `momentum_time`.
        weight_decay: λ.

    Returns:
        (K,) penalties.

    Raises:
        UserError: If the factors' shapes do not fit.
    """
    A, B = _squares(first, second)
    # The smaller of the two is integrated: then few of C's eigenvalues are negative, and no large
    # numbers cancel.
    small, large = (B, A) if np.trace(B) <= np.trace(A) else (A, B)
    c, basis = np.linalg.eigh(large - small)
    start = basis.T @ small @ basis
    found = []
    for time in np.asarray(times, float):
        exponent = -2 * weight_decay * c * time
        near = np.abs(exponent) < 1e-12
        D = np.where(near, 2 * weight_decay * time, -np.expm1(exponent) / np.where(near, 1.0, c))
        F = np.exp(exponent / 2)
        now = np.linalg.solve(np.eye(len(c)) + start * D, start) * F[:, None] * F
        found.append((np.sum(now * now.T) + np.sum(c * np.diag(now))) / 2)
    return np.array(found)


def initial_decay(first: Num[np.ndarray, " ..."], second: Num[np.ndarray, " ..."]) -> float:
    """The initial decay of a product's penalty over that of a single matrix.

    ``(‖W_2ᵀ W_2 W_1‖² + ‖W_2 W_1 W_1ᵀ‖²) / ‖W_2 W_1‖²``. From Gaussian factors of variance s² that
    is about ``s² (d + 2h + k + 2)``.

    Args:
        first: (h, d) W_1.
        second: (k, h) W_2.

    Raises:
        UserError: If the factors' shapes do not fit.
    """
    A, B = _squares(first, second)
    AB = A @ B
    return float((np.sum(AB * B.T) + np.sum(AB * A.T)) / np.trace(AB))


def _squares(
    first: Num[np.ndarray, " ..."], second: Num[np.ndarray, " ..."]
) -> tuple[Float[np.ndarray, "h h"], Float[np.ndarray, "h h"]]:
    """W_1 W_1ᵀ and W_2ᵀ W_2, (h, h)."""
    W1, W2 = np.asarray(first, float), np.asarray(second, float)
    if W1.ndim != 2 or W2.ndim != 2 or W2.shape[1] != W1.shape[0]:
        raise UserError(f"factors of shapes {W1.shape} and {W2.shape} have no product W_2 W_1")
    return W1 @ W1.T, W2.T @ W2
