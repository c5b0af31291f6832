"""The flip bifurcation of gradient descent at the edge of stability (ηλ = 2).

Where ηλ passes 2 the map ``θ → θ − η ∇L(θ)`` loses a fixed point's stability in a flip: a cycle of
period 2 is born. With u the unit eigenvector of λ and H the Hessian, its first Lyapunov coefficient
(Kuznetsov, "Elements of Applied Bifurcation Theory", section 5.4, with ``A = I − ηH``,
``B = −η ∇³L`` and ``C = −η ∇⁴L``) is

``ℓ = η/6 · (3 ∇³L[u,u]ᵀ H⁻¹ ∇³L[u,u] − ∇⁴L[u,u,u,u])``,

in one dimension ``η/(6 f″) · (3 f‴² − f″ f⁗)`` (Chen & Bruna 2023). Where it is positive the cycle
exists beyond the edge and attracts: the loss oscillates. Where it is negative the cycle exists
below the edge and repels: runs that leave it blow up.

Every direction adds to the first term, flatter ones more, as the weights drift along it to where λ
is smaller. But a direction of eigenvalue μ responds at a rate of ``ημ = 2μ/λ`` a step: directions
much flatter than u respond only after a repelling cycle has diverged. So only directions that
respond within some steps are counted, unlike in the theorem, which is about the limit of the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from implicit_accel.eigenvalues import third_derivative
from implicit_accel.errors import UserError

# Third and fourth order must differ by this factor before either decides: a cycle whose coefficient
# nearly vanishes is so large that higher orders, left out here, decide.
_DECIDES = 2.0


class Flip(NamedTuple):
    """The flip bifurcation at a point.

    Attributes:
        third: ``3 ∇³L[u,u]ᵀ H⁻¹ ∇³L[u,u]``, which stabilises.
        fourth: ``∇⁴L[u,u,u,u]``, which destabilises if it is positive.
        sharpness: λ.
    """

    third: float
    fourth: float
    sharpness: float

    @property
    def coefficient(self) -> float:
        """``third − fourth``: positive for an attracting cycle, negative for a repelling one."""
        return self.third - self.fourth

    @property
    def outcome(self) -> str:
        """``oscillates``, ``diverges``, or ``undecided`` if both terms are of the same size."""
        if self.third > _DECIDES * self.fourth and self.third > 0:
            return "oscillates"
        return "diverges" if _DECIDES * self.third < self.fourth else "undecided"


def flip(
    loss: Callable[[Float[jax.Array, " n"]], Any],
    theta: Float[np.ndarray, " n"],
    *,
    least: float = 0.1,
) -> Flip:
    """The flip bifurcation, from the loss's third and fourth derivatives.

    Args:
        loss: A smooth function of a vector (n,), in JAX.
        theta: (n,) a minimum, or a point where the gradient is small along the fast directions.
        least: Directions whose eigenvalues are below this share of λ do not count: they respond
            too slowly.

    Returns:
        The bifurcation's terms, in float64. For a quadratic all but λ are 0, and the outcome at the
        edge is undecided.

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
        slope = np.asarray(third_derivative(loss, x, u))

        def along_u(s: jax.Array) -> jax.Array:
            return third_derivative(loss, x + s * u, u) @ u

        fourth = float(jax.jvp(along_u, (jnp.zeros(()),), (jnp.ones(()),))[1])
    counted = values > least * top
    shares = (vectors[:, counted].T @ slope) ** 2 / values[counted]
    return Flip(3 * float(shares.sum()), fourth, top)
