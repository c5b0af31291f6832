"""What happens at the edge of stability: the flip bifurcation of gradient descent.

Where ηλ passes 2 the map ``θ → θ − η ∇L(θ)`` loses a fixed point's stability in a flip: a cycle of
period 2 is born. With u the unit eigenvector of λ and H the Hessian, its first Lyapunov coefficient
(Kuznetsov, "Elements of Applied Bifurcation Theory", section 5.4, with ``A = I − ηH``,
``B = −η ∇³L`` and ``C = −η ∇⁴L``) is

``ℓ = η/6 · (3 ∇³L[u,u]ᵀ H⁻¹ ∇³L[u,u] − ∇⁴L[u,u,u,u])``,

in one dimension ``η/(6 f″) · (3 f‴² − f″ f⁗)`` (Chen & Bruna 2023). Where it is positive the cycle
exists beyond the edge and attracts: the loss oscillates. Where it is negative the cycle exists
below the edge and repels: runs that leave it blow up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_accel.errors import UserError


def flip_coefficient(
    loss: Callable[[jax.Array], Any], theta: np.ndarray, *, least: float = 1e-8
) -> tuple[float, float]:
    """The sign that tells oscillation from divergence, and the sharpness.

    Args:
        loss: A smooth function of a vector (n,), in JAX.
        theta: (n,) a minimum, or a point where the gradient is small along the fast directions.
        least: Eigenvalues of the Hessian below this share of λ do not count: along them nothing
            moves in the time of a cycle.

    Returns:
        ``3 ∇³L[u,u]ᵀ H⁻¹ ∇³L[u,u] − ∇⁴L[u,u,u,u]`` (positive: stable oscillation, negative: runs
        blow up, zero: neither in this order, as for a quadratic) and λ, in float64.

    Raises:
        UserError: If the Hessian has no positive eigenvalue there.
    """
    with jax.enable_x64(True):
        x = jnp.asarray(theta, jnp.float64)
        values, vectors = np.linalg.eigh(np.asarray(jax.hessian(loss)(x)))
        top = float(values[-1])
        if not top > 0:
            raise UserError("the loss has no positive curvature here: there is no edge to pass")
        u = jnp.asarray(vectors[:, -1])

        def gradient(s: jax.Array) -> jax.Array:
            return jax.grad(loss)(x + s * u)

        def along(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
            return lambda s: jax.jvp(f, (s,), (jnp.ones_like(s),))[1]

        second = along(along(gradient))
        zero = jnp.zeros(())
        third, fourth = np.asarray(second(zero)), float(along(second)(zero) @ u)
    counted = values > least * top
    shares = (vectors[:, counted].T @ third) ** 2 / values[counted]
    return float(3 * shares.sum() - fourth), top
