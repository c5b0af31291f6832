"""The largest eigenvalue of a symmetric matrix that is known by its products alone.

The method is Lanczos' with full orthogonalisation and thick restarts (Wu & Simon 2000,
"Thick-restart Lanczos method for large symmetric eigenvalue problems"), written as a
Rayleigh–Ritz method: the projected matrix is formed from the coefficients that the
orthogonalisation computes anyway, so that a restart is nothing special. It is made for many small
problems at once, in one compiled program: every loop is bounded, and nothing depends on a random
number or on the scale of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Vectors of the basis; spaces of fewer dimensions are treated by forming the matrix.
BASIS = 16
# Ritz vectors that a restart keeps; the top one's neighbours are what its convergence waits for.
KEPT = 4
CYCLES = 12

# Jacobi's method converges quadratically; six are usual.
_SWEEPS = 15

MOST_PRODUCTS = CYCLES * (BASIS - KEPT)


class _Basis(NamedTuple):
    """Orthonormal rows v_0 … v_BASIS, zeros where there are none, and what follows from them.

    Attributes:
        vectors: (BASIS + 1, n), the last of which continues the Krylov space.
        projected: (BASIS, BASIS), ``v_i · A v_j``.
        length: Norm of the part of ``A v_{BASIS−1}`` outside the space.
        value: The largest Ritz value.
        residual: ``‖A u − value u‖`` of its Ritz vector u: an eigenvalue is no further away.
        size: Estimate of ‖A‖₂, the largest magnitude of a Ritz value.
        cycles: How often the basis has been filled.
    """

    vectors: jax.Array
    projected: jax.Array
    length: jax.Array
    value: jax.Array
    residual: jax.Array
    size: jax.Array
    cycles: jax.Array


def safe_norm(x: jax.Array) -> jax.Array:
    """``‖x‖₂`` over all entries, a scalar, whose squares neither overflow nor vanish."""
    largest = jnp.max(jnp.abs(x), initial=0.0)
    # Infinities are left to speak for themselves: divided by themselves they would become NaN.
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.sqrt(jnp.sum(jnp.square(x / unit)))


def largest_eigenvalue(
    product: Callable[[jax.Array], jax.Array], present: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """The largest (algebraic) eigenvalue of a symmetric matrix restricted to some coordinates.

    Args:
        product: v ↦ A v for v of shape (n,), zero wherever ``present`` is False.
        present: (n,) booleans, the coordinates that count; may be traced.
        dtype: The floating point type of v.

    Returns:
        The eigenvalue: NaN if A is not finite, 0 if no coordinate is present; and how many
        products were computed, at most `MOST_PRODUCTS`. A residual of 10⁻⁷ (float64) or 3·10⁻⁵
        (float32) relative to the eigenvalue ends the iteration, or one of 10 units of rounding
        relative to ‖A‖₂, below which nothing is resolved. The error is about that squared, of a
        cluster's width where several eigenvalues lie that close, and never above the residual but
        for such a cluster. Where the bound ends the iteration, the value is too small.
    """
    n = present.size
    if n <= BASIS:
        matrix = jax.vmap(product)(jnp.eye(n, dtype=dtype))
        return _eigh(matrix, present)[0][-1], jnp.int32(n)

    start = jnp.where(present, jax.random.normal(jax.random.key(0), (n,), dtype), 0)
    zero, infinite = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    # The first cycle has Ritz vectors as well, all of them zero.
    vectors = jnp.zeros((BASIS + 1, n), dtype).at[KEPT].set(start / _positive(safe_norm(start)))
    projected = jnp.zeros((BASIS, BASIS), dtype)
    basis = _Basis(vectors, projected, zero, zero, infinite, zero, jnp.int32(0))
    eps = jnp.finfo(dtype).eps
    tolerance = 1e-7 if eps < 1e-10 else 3e-5

    def goes_on(b: _Basis) -> jax.Array:
        allowed = jnp.maximum(tolerance * jnp.abs(b.value), 10 * eps * b.size)
        return (b.residual > allowed) & (b.cycles < CYCLES)  # False for NaN

    # Orthogonality is worth nothing in the fewer bits that accelerators like to multiply with.
    with jax.default_matmul_precision("highest"):
        basis = lax.while_loop(goes_on, lambda b: _cycle(product, b), basis)
    return basis.value, basis.cycles * (BASIS - KEPT)


def _cycle(product: Callable[[jax.Array], jax.Array], basis: _Basis) -> _Basis:
    """Fills the basis, and keeps the top Ritz vectors and the vector that continues them."""

    def extend(j: Any, state: tuple[jax.Array, jax.Array, Any]) -> tuple[jax.Array, ...]:
        vectors, projected, _ = state
        w = product(vectors[j])
        coefficients = vectors @ w
        once = w - coefficients @ vectors
        twice = once - (vectors @ once) @ vectors
        projected = projected.at[j].set(coefficients[:BASIS]).at[:, j].set(coefficients[:BASIS])
        # "Twice is enough" (Kahan; Parlett 1998, section 6.9): what the second time takes almost
        # all of was rounding, and the space is invariant.
        length = safe_norm(twice)
        length = jnp.where(length <= 0.1 * safe_norm(once), 0, length)
        following = jnp.where(length == 0, 0, twice / _positive(length))
        return vectors.at[j + 1].set(following), projected, length

    vectors, projected, length = lax.fori_loop(
        KEPT, BASIS, extend, (basis.vectors, basis.projected, basis.length)
    )
    present = jnp.sum(jnp.square(vectors[:BASIS]), axis=1) > 0.5
    values, rotation = _eigh(projected, present)
    top = values[-KEPT:]
    ritz = rotation[:, -KEPT:].T @ vectors[:BASIS]
    return _Basis(
        vectors=jnp.zeros_like(vectors).at[:KEPT].set(ritz).at[KEPT].set(vectors[-1]),
        projected=jnp.zeros_like(projected).at[:KEPT, :KEPT].set(jnp.diag(top)),
        length=length,
        value=top[-1],
        residual=length * jnp.abs(rotation[-1, -1]),
        size=jnp.max(jnp.abs(projected)),
        cycles=basis.cycles + 1,
    )


def _eigh(matrix: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ascending eigenvalues and eigenvectors, those of absent coordinates first."""
    finite = jnp.all(jnp.isfinite(matrix))
    matrix = jnp.where(finite, matrix, 0)
    # Rows of absent coordinates are zero. As eigenvalues these could be the largest ones; minus
    # the norm of the largest row sum never is.
    bound = jnp.max(jnp.sum(jnp.abs(matrix), axis=1), initial=0.0)
    values, vectors = jacobi(matrix - jnp.diag(jnp.where(present, 0, bound)))
    return jnp.where(finite, values, jnp.nan), vectors


def jacobi(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ascending eigenvalues, and eigenvectors as columns, of a small symmetric matrix.

    Jacobi's method, with n/2 rotations at once in Brent & Luk's order (1985): nothing but
    elementwise operations, which vectorise over runs. LAPACK's routine, called for many matrices
    from two devices of one CPU, waits for threads that wait for it, for ever.

    Args:
        matrix: (n, n), finite.
    """
    size = matrix.shape[0]
    n = size + size % 2
    if n == 0:
        return matrix[0], matrix
    # One more coordinate, if need be, below all eigenvalues: the first one, which is cut off.
    bound = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    below = jnp.where(bound > 0, -2 * bound, -1)
    A = jnp.pad(matrix, (0, n - size)).at[size:, size:].set(below)
    half = n // 2
    order = np.array([0, half, *range(1, half - 1), *range(half + 1, n), half - 1])
    order = order if half > 1 else np.arange(n)
    eps = jnp.finfo(matrix.dtype).eps

    def turn(x: jax.Array, c: jax.Array, s: jax.Array) -> jax.Array:
        """Rotates row i and row i + n/2 of x."""
        top, bottom = x[:half], x[half:]
        return jnp.concatenate([c * top - s * bottom, s * top + c * bottom])

    def rotate(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        A, rows = state
        i = np.arange(half)
        across = A[i, i + half]
        ratio = (A[i + half, i + half] - A[i, i]) / (2 * jnp.where(across == 0, 1, across))
        t = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.sqrt(1 + ratio * ratio))
        t = jnp.where(across == 0, 0, t)
        c = (1 / jnp.sqrt(1 + t * t))[:, None]
        s = t[:, None] * c
        A = turn(turn(A, c, s).T, c, s)
        return A[order][:, order], turn(rows, c, s)[order]

    def sweep(state: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        A, rows, count = state
        A, rows = lax.fori_loop(0, max(n - 1, 1), rotate, (A, rows))
        return A, rows, count + 1

    def goes_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        A, _, count = state
        off = jnp.max(jnp.abs(A - jnp.diag(jnp.diag(A))))
        return (off > eps * jnp.max(jnp.abs(jnp.diag(A)))) & (count < _SWEEPS)

    A, rows, _ = lax.while_loop(goes_on, sweep, (A, jnp.eye(n, dtype=A.dtype), jnp.int32(0)))
    ascending = jnp.argsort(jnp.diag(A))[n - size :]
    return jnp.diag(A)[ascending], rows[ascending].T[:size]


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


def third_derivative(loss: Callable[[jax.Array], Any], x: jax.Array, u: jax.Array) -> jax.Array:
    """``∇³L[u, u]``, for an eigenvector u of the Hessian the gradient of its eigenvalue.

    Args:
        loss: A smooth function of a vector (n,).
        x: (n,) where.
        u: (n,) unit vector.

    Returns:
        (n,).
    """

    def gradient(s: jax.Array) -> jax.Array:
        return jax.grad(loss)(x + s * u)

    def slope(s: jax.Array) -> jax.Array:
        return jax.jvp(gradient, (s,), (jnp.ones_like(s),))[1]

    zero = jnp.zeros((), x.dtype)
    return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))[1]
