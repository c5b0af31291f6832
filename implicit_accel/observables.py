"""What is measured at recorded steps: pure functions of one run's state.

An observable maps a `Point` to a scalar. It is evaluated inside the compiled program, mapped over
a block of runs, so that it can cost what a model costs and need not leave the device. In units of
a training step's work:

======================== ==========================================================================
observable               cost
======================== ==========================================================================
loss, excess_loss        1, shared among these three
gradient_norm            ..
held_out_loss            the forward pass of the held-out rows
parameter_norm           nothing to speak of
sharpness                1 for the gradient and about 1 for each Hessian–vector product: n of them
                         for n ≤ 16 entries, otherwise a multiple of 12, usually 12 to 36 and at
                         most 144. Each product comes with 4 passes over 17 vectors of n entries,
                         which are held meanwhile, every twelfth with the eigendecomposition of a
                         16 × 16 matrix: together some 100 steps where a step takes microseconds
preconditioned_sharpness likewise
======================== ==========================================================================

Sources: Cohen, Kaur, Li, Kolter & Talwalkar (2021), "Gradient Descent on Neural Networks Typically
Occurs at the Edge of Stability", for sharpness; Cohen et al. (2022), "Adaptive Gradient Methods at
the Edge of Stability", for preconditioned sharpness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from implicit_accel.eigenvalues import largest_eigenvalue, safe_norm
from implicit_accel.errors import UserError


@dataclass(frozen=True)
class Point:
    """One run at one recorded step. It is made inside the traced function, and is no pytree.

    Attributes:
        parameters: The model, whole: a pytree of arrays, with whatever else ``init`` put in it
            (functions, masks, counters).
        trained: Its floating arrays alone, the same pytree with None in place of all else.
        value_and_grad: The full-batch training loss and its gradient as functions of either,
            evaluated with the run's state and without randomness; the gradient may be non-zero at
            frozen entries.
        held_out_loss: Loss on held-out data as a function of the parameters; None without any.
        trainable: Pytree like ``trained`` of booleans that broadcast to each leaf (Python's,
            scalars or full arrays, also traced): False for entries that training leaves alone.
        opt_state: The optax optimizer's state.
        hyper: Hyper-parameters by name, numbers traced.
        data: The task's arrays.
        loss_optimum: L*, 0 where it is not known.
        step: Updates so far.
        state: The state that the run carries, as ``init`` returned it; None for tasks without.
    """

    parameters: Any
    trained: Any
    value_and_grad: Callable[[Any], tuple[jax.Array, Any]]
    held_out_loss: Callable[[Any], jax.Array] | None
    trainable: Any
    opt_state: Any
    hyper: Mapping[str, Any]
    data: Any
    loss_optimum: Any
    step: Any
    state: Any = None


Observable = Callable[[Point], Float[jax.Array, ""]]


class Entry(NamedTuple):
    """An observable as users choose it.

    Attributes:
        observable: The function.
        description: One line for help texts and plots' labels.
    """

    observable: Observable
    description: str


def parse(names: Iterable[str], table: Mapping[str, Entry]) -> dict[str, Observable]:
    """The observables of these names, in this order.

    Raises:
        UserError: If a name is not in the table, or is given twice.
    """
    chosen: dict[str, Observable] = {}
    for name in names:
        if name not in table:
            raise UserError(f"observable {name!r}: choose from {', '.join(table)}")
        if name in chosen:
            raise UserError(f"observable {name}: it is given twice")
        chosen[name] = table[name].observable
    return chosen


# --- Losses and norms ----------------------------------------------------------------------------


def loss(point: Point) -> Float[jax.Array, ""]:
    """The training loss L."""
    return point.value_and_grad(point.trained)[0]


def excess_loss(point: Point) -> Float[jax.Array, ""]:
    """``L − L*``, as a difference: below L*'s last digits it is rounding."""
    return loss(point) - point.loss_optimum


def held_out_loss(point: Point) -> Float[jax.Array, ""]:
    """The loss on held-out data; NaN without any."""
    if point.held_out_loss is None:
        return jnp.full_like(loss(point), jnp.nan)
    return point.held_out_loss(point.trained)


def gradient_norm(point: Point) -> Float[jax.Array, ""]:
    """``‖∇L‖₂`` over the trainable entries."""
    return _trainable_norm(point, point.value_and_grad(point.trained)[1])


def parameter_norm(point: Point) -> Float[jax.Array, ""]:
    """``‖θ‖₂`` over the trainable entries."""
    return _trainable_norm(point, point.trained)


def _trainable_norm(point: Point, tree: Any) -> jax.Array:
    entries, _ = ravel_pytree(tree)
    return safe_norm(jnp.where(_trainable(point), entries, 0))


def _trainable(point: Point) -> Bool[jax.Array, " n"]:
    """(n,) booleans for the n entries of the parameters."""
    full = jax.tree.map(
        lambda a, t: jnp.broadcast_to(t, jnp.shape(a)), point.trained, point.trainable
    )
    return ravel_pytree(full)[0]


# --- Sharpness -----------------------------------------------------------------------------------


def sharpness(point: Point) -> Float[jax.Array, ""]:
    """The largest eigenvalue of the training loss's Hessian, restricted to trainable entries.

    Cohen et al. (2021). It is the algebraically largest: negative at a strict maximum. See
    `eigenvalues.largest_eigenvalue` for its accuracy; NaN where the Hessian is not finite.
    """
    return scaled_sharpness(point, 1.0)[0]


def preconditioned_sharpness(**settings: Any) -> Observable:
    """Makes the observable λ_max(P^{−1/2} H P^{−1/2}), equal to that of P^{−1} H.

    Cohen et al. (2022). P is the diagonal by which an adaptive optimizer divides its (averaged)
    gradient, as the moments stand in its state, that is without the coming step's gradient:

    * Adam, AdamW: ``√(ν̂ + eps_root) + eps`` with ``ν̂ = ν / (1 − b2^t)``, undefined at step 0,
      where the observable is NaN;
    * RMSProp: ``√(ν + eps)``, ``√ν + eps`` unless ``eps_in_sqrt``; with ν − μ² for ν if centred;
    * AdaGrad: ``√(Σ g² + eps)``; entries without any gradient so far do not move and count as
      frozen;
    * AdaDelta: ``√(E[g²] + eps) / √(E[Δ²] + eps)``.

    It is the identity, and the observable sharpness, if the state holds none of these.

    Args:
        settings: The optimizer's own, by optax's names and with optax's defaults; those that have
            no part in P are allowed and ignored.
    """

    def observable(point: Point) -> jax.Array:
        diagonal = preconditioner(point.opt_state, **settings)
        if diagonal is None:
            return sharpness(point)
        P, _ = ravel_pytree(diagonal)
        return scaled_sharpness(point, 1 / jnp.sqrt(P))[0]

    return observable


def scaled_sharpness(point: Point, scale: Any) -> tuple[Float[jax.Array, ""], Int[jax.Array, ""]]:
    """The largest eigenvalue of S H S, and the number of Hessian–vector products it took.

    The products are forward over reverse (Pearlmutter 1994): the gradient's derivative along v.

    Args:
        point: Where.
        scale: Diagonal of S, that broadcasts to the flat parameters; entries at which it is 0
            count as frozen.
    """
    theta, unravel = ravel_pytree(point.trained)
    scale = jnp.where(_trainable(point), scale, 0).astype(theta.dtype)

    def gradient(flat: jax.Array) -> jax.Array:
        return ravel_pytree(point.value_and_grad(unravel(flat))[1])[0]

    # Linearised once: the products do not evaluate the gradient again.
    _, hessian = jax.linearize(gradient, theta)

    def product(v: jax.Array) -> jax.Array:
        # Selected rather than multiplied, so that whatever the frozen entries hold stays there.
        return jnp.where(scale == 0, 0, scale * hessian(scale * v))

    return largest_eigenvalue(product, scale != 0, theta.dtype)


def preconditioner(opt_state: Any, **settings: Any) -> Any:
    """The diagonal of P that the state of an adaptive optimizer holds.

    Args:
        opt_state: The state of any optax chain.
        settings: The optimizer's ``b2``, ``eps`` and so on, as in `preconditioned_sharpness`.

    Returns:
        Pytree like the parameters; None if no part of the chain has a preconditioner.

    Raises:
        ValueError: If several have one.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: type(node) in _PRECONDITIONERS)
    states = [node for node in nodes if type(node) in _PRECONDITIONERS]
    if len(states) > 1:
        raise ValueError(f"the optimizer has {len(states)} preconditioners, which do not commute")
    return _PRECONDITIONERS[type(states[0])](states[0], **settings) if states else None


def _adam(
    state: optax.ScaleByAdamState,
    *,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    **_: Any,
) -> Any:
    # At step 0 this is 0/0, as it should be.
    corrected = optax.tree.bias_correction(state.nu, b2, state.count)
    return jax.tree.map(lambda v: jnp.sqrt(v + eps_root) + eps, corrected)


def _root(mean_square: Any, eps: Any, eps_in_sqrt: bool) -> jax.Array:
    return jnp.sqrt(mean_square + eps) if eps_in_sqrt else jnp.sqrt(mean_square) + eps


def _rms(
    state: optax.ScaleByRmsState, *, eps: Any = 1e-8, eps_in_sqrt: bool = True, **_: Any
) -> Any:
    return jax.tree.map(lambda v: _root(v, eps, eps_in_sqrt), state.nu)


def _standard_deviation(
    state: optax.ScaleByRStdDevState, *, eps: Any = 1e-8, eps_in_sqrt: bool = True, **_: Any
) -> Any:
    return jax.tree.map(lambda m, v: _root(v - jnp.square(m), eps, eps_in_sqrt), state.mu, state.nu)


def _adagrad(state: optax.ScaleByRssState, *, eps: Any = 1e-7, **_: Any) -> Any:
    return jax.tree.map(
        lambda v: jnp.where(v > 0, jnp.sqrt(v + eps), jnp.inf), state.sum_of_squares
    )


def _adadelta(state: optax.ScaleByAdaDeltaState, *, eps: Any = 1e-6, **_: Any) -> Any:
    return jax.tree.map(lambda g, x: jnp.sqrt(g + eps) / jnp.sqrt(x + eps), state.e_g, state.e_x)


# Optax's own states, found by type wherever a chain holds them.
_PRECONDITIONERS: dict[type, Callable[..., Any]] = {
    optax.ScaleByAdamState: _adam,
    optax.ScaleByRmsState: _rms,
    optax.ScaleByRStdDevState: _standard_deviation,
    optax.ScaleByRssState: _adagrad,
    optax.ScaleByAdaDeltaState: _adadelta,
}


_THRESHOLDS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda _: 2.0,
    "momentum": lambda beta: 2 + 2 * beta,
    "nesterov": lambda beta: (2 + 2 * beta) / (1 + 2 * beta),
    "adagrad": lambda _: 2.0,
    "adadelta": lambda _: 2.0,
    "rmsprop": lambda _: 2.0,
    "adam": lambda beta: (2 + 2 * beta) / (1 - beta),
    "adamw": lambda beta: (2 + 2 * beta) / (1 - beta),
}


def stability_threshold(optimizer: str, learning_rate: Any, momentum: Any = 0.9) -> Any:
    """The curvature above which an optimizer's steps along an eigenvector diverge.

    On the quadratic ``λ w²/2`` the step is a linear recursion, whose spectral radius exceeds 1
    where λ is above

    * ``2/η`` for gradient descent,
    * ``(2 + 2β)/η`` for heavy-ball momentum,
    * ``(2 + 2β)/((1 + 2β) η)`` for Nesterov's (Cohen et al. 2021, section 2 and appendix B),
    * ``(2 + 2β₁)/((1 − β₁) η)`` for Adam and AdamW without decay, whose momentum is an average,
      with λ the preconditioned sharpness and P held fixed (Cohen et al. 2022); ``2/η`` for the
      adaptive optimizers without momentum.

    Args:
        optimizer: Its name, as in `optimizers.OPTIMIZERS`.
        learning_rate: η.
        momentum: β, or Adam's b1; ignored by optimizers without momentum.

    Returns:
        The threshold, in the units of sharpness or preconditioned sharpness.

    Raises:
        UserError: If no threshold is known for the optimizer.
    """
    if optimizer not in _THRESHOLDS:
        raise UserError(
            f"optimizer {optimizer!r}: a stability threshold is known for {', '.join(_THRESHOLDS)}"
        )
    return _THRESHOLDS[optimizer](momentum) / learning_rate


OBSERVABLES: dict[str, Entry] = {
    "loss": Entry(loss, "training loss L"),
    "excess_loss": Entry(excess_loss, "training loss above the optimum's, L - L*"),
    "held_out_loss": Entry(held_out_loss, "loss on the held-out rows"),
    "gradient_norm": Entry(gradient_norm, "norm of the training loss's gradient"),
    "parameter_norm": Entry(parameter_norm, "norm of the parameters"),
    "sharpness": Entry(sharpness, "largest eigenvalue of the training loss's Hessian"),
    "preconditioned_sharpness": Entry(
        preconditioned_sharpness(),
        "largest eigenvalue of the Hessian, preconditioned as the optimizer does",
    ),
}
