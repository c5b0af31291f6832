"""Learning-rate schedules and adaptive steps for gradient descent: the rivals of depth.

Depth acts as an effective learning rate that changes along the way. These change it explicitly, on
the parameters as they are: ``θ_{t+1} = θ_t − η s_t g_t`` with the gradient ``g_t`` and a factor
``s_t ≥ 0``. Each is an optax transformation that multiplies the gradient by its factor;
``optax.scale_by_learning_rate(η)`` belongs behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_SILVER = 1 + math.sqrt(2)

# The search along the gradient begins at a small share of the last step: the loss of a deep network
# may have a second minimum behind a maximum, and from afar that one would be found. It doubles at
# most so many times; then the bracket is halved until float32 does not resolve it any more.
_FIRST, _DOUBLINGS, _BISECTIONS = 1 / 64, 70, 25


def scale_by_warmup(steps: float) -> optax.GradientTransformation:
    """A linear warm-up: ``s_t = min(1, (t + 1)/W)``.

    Args:
        steps: W, at least 1; it may be traced.
    """
    return optax.scale_by_schedule(lambda count: jnp.minimum(1.0, (count + 1) / steps))


def scale_by_silver_steps() -> optax.GradientTransformation:
    """Silver steps: ``s_t = 1 + ρ^{ν(t+1) − 1}`` with ``ρ = 1 + √2``.

    ν(i) is the exponent of 2 in i. Most steps are short, and at powers of two they are ever longer;
    on smooth convex functions n of them converge faster than n constant ones (Altschuler & Parrilo
    2023, arXiv 2309.07879 and 2309.16530). As the longest step grows with the number of steps, the
    largest stable learning rate falls with it.
    """

    def factor(count: Any) -> Any:
        number = count + 1
        exponent = jax.lax.population_count((number & -number) - 1)
        return 1 + _SILVER ** (exponent - 1.0)

    return optax.scale_by_schedule(factor)


def scale_by_normalized(power: float = 0.5) -> optax.GradientTransformation:
    """Normalised gradients at a decreasing rate: ``s_t = (t + 1)^{−a} / ‖g_t‖``.

    Args:
        power: a; 0 for steps of constant length.
    """

    def unit(updates: optax.Updates, _params: Any) -> optax.Updates:
        norm = optax.tree.norm(updates)
        return optax.tree.scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), updates)

    return optax.chain(
        optax.stateless(unit), optax.scale_by_schedule(lambda count: (count + 1.0) ** -power)
    )


def scale_by_polyak_step() -> optax.GradientTransformationExtraArgs:
    """Polyak's step with a known optimum: ``s_t = (L_t − L*) / ‖g_t‖²``.

    ``update`` needs ``excess``, the loss above its optimum. It is optax's ``scale_by_polyak``
    without its bounds: that one makes no step where ‖g‖² is below 2e-16, as near zero in deep
    networks.

    Raises:
        KeyError: In use, without ``excess``.
    """

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        del params
        squared = optax.tree.norm(updates, squared=True)
        # Rounding may make the excess loss negative.
        excess = jnp.maximum(extra["excess"], 0)
        step = jnp.where(squared > 0, excess / jnp.where(squared > 0, squared, 1), 0)
        return optax.tree.scale(step, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


class FirstExcess(NamedTuple):
    """State of `scale_by_excess_loss`.

    Attributes:
        excess: The excess loss of the first step; −1 before it.
    """

    excess: jax.Array


def scale_by_excess_loss(power: float = 0.5) -> optax.GradientTransformationExtraArgs:
    """A rate that grows as the loss falls: ``s_t = ((L_t − L*)/(L_0 − L*))^{−a}``.

    On ℓp the curvature falls with the residuals, as ``L^{(p−2)/p}``: for p = 4 as ``L^{1/2}``.
    ``update`` needs ``excess``, the loss above its optimum.

    Args:
        power: a.

    Raises:
        KeyError: In use, without ``excess``.
    """

    def init(params: optax.Params) -> FirstExcess:
        return FirstExcess(jnp.full((), -1.0, jnp.result_type(*jax.tree.leaves(params))))

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, FirstExcess]:
        del params
        excess = extra["excess"]
        first = jnp.where(state.excess < 0, jnp.asarray(excess, state.excess.dtype), state.excess)
        tiny = jnp.finfo(first.dtype).tiny
        share = jnp.maximum(excess, tiny) / jnp.maximum(first, tiny)
        return optax.tree.scale(share**-power, updates), FirstExcess(first)

    return optax.GradientTransformationExtraArgs(init, update)


class LastStep(NamedTuple):
    """State of `scale_by_line_search`.

    Attributes:
        size: The last step's factor; 1 before it.
    """

    size: jax.Array


def scale_by_line_search() -> optax.GradientTransformationExtraArgs:
    """Exact line search: s_t is the first minimum of ``L(θ_t − s g_t)`` over s > 0.

    A small share of the last step is doubled until the loss rises there; then the sign of ``dL/ds``
    is bisected. A few Newton steps would be inexact on ℓp, and the errors grow. Steps of 0.8 times
    the exact ones (a learning rate of 0.8) converge faster than exact ones.

    ``update`` needs the parameters and ``value_fn``, the loss as a function of these. Each step
    evaluates ``value_fn`` some forty times. In a linear model this costs one product with the data,
    since residuals are linear in s; in others it is as many forward passes.

    Raises:
        ValueError: In use, without the parameters.
        KeyError: In use, without ``value_fn``.
    """

    def init(params: optax.Params) -> LastStep:
        return LastStep(jnp.ones((), jnp.result_type(*jax.tree.leaves(params))))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, LastStep]:
        if params is None:
            raise ValueError("the line search needs the parameters: update(g, state, params)")
        value_fn: Callable[[Any], Any] = extra["value_fn"]

        def falls(size: jax.Array) -> jax.Array:
            """Whether the loss still falls at this factor; not where it is NaN."""

            def along(s: jax.Array) -> Any:
                return value_fn(optax.tree.add_scale(params, -s, updates))

            return jax.jvp(along, (size,), (jnp.ones_like(size),))[1] < 0

        def is_open(bracket: tuple[Any, ...]) -> jax.Array:
            _, high, doublings = bracket
            return falls(high) & (doublings < _DOUBLINGS)

        def widen(bracket: tuple[Any, ...]) -> tuple[Any, ...]:
            _, high, doublings = bracket
            return high, 2 * high, doublings + 1

        def halve(_: Any, bracket: tuple[Any, Any]) -> tuple[Any, Any]:
            low, high = bracket
            middle = (low + high) / 2
            further = falls(middle)
            return jnp.where(further, middle, low), jnp.where(further, high, middle)

        begin = (jnp.zeros_like(state.size), _FIRST * state.size, 0)
        low, high, _doublings = jax.lax.while_loop(is_open, widen, begin)
        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
        size = (low + high) / 2
        # Without a gradient nothing falls, and the bracket would shrink to 0 for ever.
        kept = jnp.where(optax.tree.norm(updates) > 0, size, state.size)
        return optax.tree.scale(size, updates), LastStep(kept)

    return optax.GradientTransformationExtraArgs(init, update)
