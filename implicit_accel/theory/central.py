"""Past the edge of stability: the path that gradient descent oscillates about.

Where a learning rate η is past the edge, the weights swing along the Hessian's first eigenvector u
and the loss jumps up and down. A swing of variance σ² drives the weights down the sharpness, by the
loss's third derivative, and so holds λ at 2/η (Damian, Nichani & Lee 2023, "Self-Stabilization").
Averaged over the swings, the weights follow the central flow (Cohen et al. 2024, "Understanding
Optimization in Deep Learning with Central Flows")

``θ' = −η (∇L + σ²/2 ∇λ)``,

with the σ² ≥ 0 that keeps λ at or below 2/η: ``σ² = 2 ⟨∇λ, −∇L⟩/‖∇λ‖²`` at the edge where λ would
rise, and 0 below it. The averaged loss is the path's own plus ``λ σ²/2 = σ²/η``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from implicit_accel.eigenvalues import third_derivative
from implicit_accel.errors import UserError

_STEPS_TO_A_CALL = 100


@dataclass(frozen=True)
class CentralPath:
    """Averaged gradient descent.

    Attributes:
        excess: (T + 1,) the path's own loss.
        averaged: (T + 1,) with the swings' share, as in a moving average of the losses.
        sharpness: (T + 1,) λ along the path.
        variance: (T + 1,) σ², of the swings along the first eigenvector.
        second: (T + 1,) the second largest eigenvalue times η/2: the flow is for swings along one
            direction, and holds while this is below 1.
    """

    excess: Float[np.ndarray, " steps"]
    averaged: Float[np.ndarray, " steps"]
    sharpness: Float[np.ndarray, " steps"]
    variance: Float[np.ndarray, " steps"]
    second: Float[np.ndarray, " steps"]


def central_flow(
    loss: Callable[[Float[jax.Array, " n"]], Any],
    theta: Float[np.ndarray, " n"],
    learning_rate: float,
    num_steps: int,
    *,
    substeps: int = 4,
    until: float = -math.inf,
) -> CentralPath:
    """Follows the central flow of gradient descent, in float64.

    Euler's method with ``substeps`` to each step of gradient descent; the constraint on λ is set at
    each substep's end, to first order, so that it does not drift.

    Args:
        loss: ``L − L*``, a smooth function of a vector (n,), in JAX.
        theta: (n,) initial parameters.
        learning_rate: η.
        num_steps: T.
        substeps: At least 2: a substep must be stable at λ = 2/η.
        until: The path may end once its averaged loss is at or below this.

    Returns:
        The averaged path at steps 0 … T, or up to an earlier end.

    Raises:
        UserError: If there is no step, or too few substeps.
    """
    if num_steps < 1 or substeps < 2 or not 0 < learning_rate < math.inf:
        raise UserError(
            f"central flow of {num_steps} steps at rate {learning_rate:g} in {substeps} substeps: "
            "give a rate above 0, one step or more and two substeps or more"
        )
    edge = 2 / learning_rate
    h = learning_rate / substeps

    def evaluate(x: jax.Array) -> tuple[jax.Array, ...]:
        value, gradient = jax.value_and_grad(loss)(x)
        values, vectors = jnp.linalg.eigh(jax.hessian(loss)(x))
        slope = third_derivative(loss, x, vectors[:, -1])
        # λ minus the edge, one substep later and without swings; the swings remove it if positive.
        beyond = values[-1] - edge - h * slope @ gradient
        size = slope @ slope
        variance = 2 * jnp.maximum(beyond, 0) / (h * jnp.where(size > 0, size, jnp.inf))
        return value, gradient, slope, variance, values[-1], values[-2] if len(x) > 1 else 0 * value

    def substep(_: Any, x: jax.Array) -> jax.Array:
        _, gradient, slope, variance, *_ = evaluate(x)
        return x - h * (gradient + variance / 2 * slope)

    def step(x: jax.Array, _: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        value, _, _, variance, top, second = evaluate(x)
        recorded = value, value + top * variance / 2, top, variance, second / edge
        return jax.lax.fori_loop(0, substeps, substep, x), recorded

    length = min(num_steps + 1, _STEPS_TO_A_CALL)
    advance = jax.jit(lambda x: jax.lax.scan(step, x, None, length=length))
    parts: list[tuple[np.ndarray, ...]] = []
    with jax.enable_x64(True):
        x = jnp.asarray(theta, jnp.float64)
        while len(parts) * length <= num_steps:
            x, recorded = advance(x)
            parts.append(tuple(map(np.asarray, recorded)))
            if np.min(parts[-1][1]) <= until:
                break
    return CentralPath(*(np.concatenate(own)[: num_steps + 1] for own in zip(*parts, strict=True)))


def touching_steps(
    loss: Callable[[Float[jax.Array, " n"]], Any],
    theta: Float[np.ndarray, " n"],
    learning_rate: float,
    num_steps: int,
    target: float,
) -> tuple[float, float]:
    """Between which steps gradient descent past the edge first touches a target.

    The central path's own loss is a lower bound of the swinging one: its step at the target is the
    first bound. The averaged loss includes the swings, and its step is the second.

    Args:
        loss: As in `central_flow`.
        theta: (n,) initial parameters.
        learning_rate: η.
        num_steps: The longest path.
        target: Excess loss.

    Returns:
        Both steps; inf where the path does not get there.
    """
    path = central_flow(loss, theta, learning_rate, num_steps, until=target)
    first, second = (
        float(np.argmax(below)) if (below := curve <= target).any() else math.inf
        for curve in (path.excess, path.averaged)
    )
    return first, second
