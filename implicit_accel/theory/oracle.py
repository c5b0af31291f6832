"""Gradient descent at a learning rate in inverse proportion to the current sharpness.

Depth acts as a learning rate that grows with ``‖w‖``. The largest stable rate at each step is a
constant over the sharpness of that step, ``η_t = c/λ(w_t)``: a bound on the gain of adaptive rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

_FIRST_ITERATIONS, _ITERATIONS = 100, 2


class InverseSharpnessState(NamedTuple):
    """State of `scale_by_inverse_sharpness`.

    Attributes:
        direction: The last estimate of the Hessian's first eigenvector, flat, of norm 1.
    """

    direction: jax.Array


def scale_by_inverse_sharpness(loss: Callable[[Any], jax.Array]) -> optax.GradientTransformation:
    """Divides the gradient by the Hessian's eigenvalue of largest magnitude.

    With ``optax.scale_by_learning_rate(c)`` after it, gradient descent at ``η_t = c/λ(w_t)``; c
    below 2 is stable as long as λ does not grow. The power method finds λ, two products of the
    Hessian with a vector at each step from the last step's eigenvector, a hundred at the start.

    Args:
        loss: A smooth function of the parameters, in JAX.

    Returns:
        A pair of pure functions; ``update`` needs the parameters. Gradients stay as they are where
        the Hessian is zero.

    Raises:
        ValueError: In use, if there are no parameters.
    """

    def iterate(params: Any, direction: jax.Array, times: int) -> tuple[jax.Array, jax.Array]:
        flat, unravel = ravel_pytree(params)
        _, product = jax.linearize(jax.grad(lambda x: loss(unravel(x))), flat)

        def once(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            u, _size = carry
            image = product(u)
            size = jnp.linalg.norm(image)
            return jnp.where(size > 0, image / jnp.where(size > 0, size, 1), u), size

        return jax.lax.fori_loop(0, times, once, (direction, jnp.zeros((), flat.dtype)))

    def init(params: optax.Params) -> InverseSharpnessState:
        flat, _ = ravel_pytree(params)
        start = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
        return InverseSharpnessState(
            iterate(params, start / jnp.linalg.norm(start), _FIRST_ITERATIONS)[0]
        )

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, InverseSharpnessState]:
        if params is None:
            raise ValueError("the oracle needs the parameters: update(g, state, params)")
        direction, size = iterate(params, state.direction, _ITERATIONS)
        size = jnp.where(size > 0, size, 1)
        return jax.tree.map(lambda g: g / size, updates), InverseSharpnessState(direction)

    return optax.GradientTransformation(init, update)
