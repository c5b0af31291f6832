"""The end-to-end update rule: the update of a deep linear network's end-to-end matrix.

Under gradient flow from a balanced initialisation, the end-to-end matrix of a depth-N linear
network has an update rule of its own (Arora, Cohen & Hazan 2018, theorem 1), here as an optax
transformation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Float

from implicit_accel.linear.networks import matmul


def scale_by_end_to_end(
    depth: float, weight_decay: ArrayLike = 0.0, *, rate: bool = True, projection: bool = True
) -> optax.GradientTransformation:
    """Preconditions gradients as if each matrix were a product of N linear layers.

    With ``optax.scale_by_learning_rate(eta)`` after it this is, for every matrix W,
    ``W ← (1 − ηλN) W − η Σ_{j=1..N} [W Wᵀ]^{(j−1)/N} ∇L(W) [Wᵀ W]^{(N−j)/N}``,
    Arora, Cohen & Hazan (2018), equation 10; for a single row w
    ``w ← (1 − ηλN) w − η ‖w‖^{2−2/N} (∇L(w) + (N−1) Pr_w ∇L(w))``, their claim 2.

    The parameters may hold several matrices: then each moves as if it were a product of N. In a
    deep network of n matrices this emulates one of n N, balanced within each product.

    Vectors and scalars (biases) are not products of matrices: they move as by plain gradient
    descent, ``b ← (1 − ηλ) b − η ∂L/∂b``.

    For a single row the rule has two parts, an adaptive learning rate ``‖w‖^{2−2/N}`` and a
    projection ``∇L + (N−1) Pr_w ∇L``; each can be used alone. For a matrix with several rows the
    parts are those of the matrix as one long vector.

    Args:
        depth: N, a whole number ≥ 1; 1 is plain gradient descent.
        weight_decay: λ of the gradient ``λ W_j`` that is added in every one of the N layers; it
            may be traced.
        rate: Whether to use the adaptive learning rate.
        projection: Whether to use the projection.

    Returns:
        A stateless pair of pure functions; ``update`` needs the parameters. Both may be jitted,
        and vmapped over parameters, gradients and λ.

    Raises:
        ValueError: If the depth is not a whole number ≥ 1; in use, if there are no parameters or
            a parameter has more than two axes.
    """
    if depth < 1 or depth != int(depth):
        raise ValueError(f"depth {depth} of the end-to-end rule: it must be a whole number >= 1")
    num_layers = int(depth)

    def rule(G: Float[Any, "*shape"], W: Float[Any, "*shape"]) -> Float[Any, "*shape"]:
        if W.ndim > 2:
            raise ValueError(
                f"the end-to-end rule is for matrices and vectors, not for shape {W.shape}: "
                "reshape the parameter to (outputs, inputs)"
            )
        decay = jnp.asarray(weight_decay, W.dtype)
        if W.ndim < 2:
            return G + decay * W
        moved = end_to_end_gradient(W, G, num_layers) if rate and projection else part(G, W)
        return moved + num_layers * decay * W

    def part(G: Float[Any, "k d"], W: Float[Any, "k d"]) -> Float[Any, "k d"]:
        size, unit = _norm_and_unit(W)
        if rate:
            return size ** (2 - 2 / num_layers) * G
        return G + (num_layers - 1) * jnp.sum(unit * G) * unit if projection else G

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("the end-to-end rule needs the parameters: update(g, state, params)")
        return jax.tree.map(rule, updates, params)

    return optax.stateless(update)


def scale_by_unbalanced_end_to_end(conserved: ArrayLike) -> optax.GradientTransformation:
    """Preconditions a vector's gradient as a network of width 1 that is not balanced.

    Let ``w = (Π_j a_j) w_1`` with a vector w_1 and scalars a_1 … a_{N−1}. Gradient flow,
    ``w_1' = −(Π a) ∇L`` and ``a_j' = −(Π_{i≠j} a_i) w_1·∇L``, conserves ``c_j = a_j² − ‖w_1‖²``,
    and with ``q = ‖w_1‖²``

    ``w' = (Π a) w_1' + w_1 Σ_j a_j' Π_{i≠j} a_i``
    ``= −Π_j (q + c_j) ∇L − (Σ_j q Π_{i≠j} (q + c_i)) Pr_w ∇L``,

    where q is the root of ``q Π_j (q + c_j) = ‖w‖²`` that is not below any −c_j; for N = 2
    ``q = (√(c² + 4‖w‖²) − c)/2``. So the update depends on w alone. For a balanced initialisation
    the c_j are 0 and the rule is `scale_by_end_to_end`. For a small Gaussian one they are small but
    not 0, and without them the rule leaves the plateau too early.

    Args:
        conserved: (N − 1,) the c_j; it may be traced.

    Returns:
        A stateless pair of pure functions for parameters that are vectors or single rows;
        ``update`` needs the parameters. With ``optax.scale_by_learning_rate`` after it.

    Raises:
        ValueError: If the constants are no vector; in use, if there are no parameters or one is
            neither a vector nor a row.
    """
    c = jnp.asarray(conserved)
    if c.ndim != 1:
        raise ValueError(f"conserved differences of shape {c.shape}: give one for each scalar")

    def rule(G: Float[Any, "*shape"], w: Float[Any, "*shape"]) -> Float[Any, "*shape"]:
        if w.ndim not in (1, 2) or (w.ndim == 2 and w.shape[0] != 1):
            raise ValueError(f"this rule is for vectors and single rows, not for shape {w.shape}")
        norm, unit = _norm_and_unit(w)
        squares, q = _conserved_squares(norm, c.astype(w.dtype))
        others = [jnp.prod(jnp.delete(squares, j)) for j in range(len(c))]
        along = jnp.sum(unit * G) * unit
        return jnp.prod(squares) * G + q * sum(others, jnp.zeros_like(q)) * along

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("the end-to-end rule needs the parameters: update(g, state, params)")
        return jax.tree.map(rule, updates, params)

    return optax.stateless(update)


def _conserved_squares(
    norm: Float[jax.Array, ""], c: Float[jax.Array, " scalars"]
) -> tuple[Float[jax.Array, " scalars"], Float[jax.Array, ""]]:
    """``a_j² = q + c_j`` and q itself, from ``‖w‖``.

    With ``q = m + y``, m the least q allowed, all factors are at least y, so ``y ≤ ‖w‖^{2/N}``. In
    log y the logarithm of the product is convex and rises, and Newton's method from that bound
    comes down to the root without passing it.
    """
    if len(c) == 0:
        return c, norm**2
    floor = jnp.maximum(0, -jnp.min(c))
    offsets = jnp.append(c, 0) + floor
    wanted = 2 * jnp.log(jnp.where(norm > 0, norm, 1))

    def closer(_: Any, s: jax.Array) -> jax.Array:
        factors = offsets + jnp.exp(s)
        slope = jnp.sum(jnp.exp(s) / factors)
        return s - (jnp.sum(jnp.log(factors)) - wanted) / slope

    s = jax.lax.fori_loop(0, _NEWTON_STEPS, closer, wanted / len(offsets))
    factors = offsets + jnp.where(norm > 0, jnp.exp(s), 0)
    return factors[:-1], factors[-1]


# In the worst case, a root far below the initial bound, each step gains a factor of N in the
# logarithm.
_NEWTON_STEPS = 30


def end_to_end_gradient(
    W: Float[Any, "k d"], G: Float[Any, "k d"], depth: int
) -> Float[Any, "k d"]:
    """``Σ_{j=1..N} [W Wᵀ]^{(j−1)/N} G [Wᵀ W]^{(N−j)/N}``, with X⁰ the identity for every X.

    Let ``W = U S Vᵀ`` be the thin decomposition of a W with no more rows than columns (the
    others are transposed, which reverses the sum) and ``a_i = s_i^{2/N}``. In the basis (U, V)
    the sum multiplies entry (i, l) by ``Σ_j a_i^{j−1} a_l^{N−j}``; beyond V's columns, in the null
    space of W, only j = N is left, ``a_i^{N−1}``. Taking that part out of all columns gives

    ``U (diag(a^{N−1}) H + (D ∘ H V) Vᵀ)`` with ``H = Uᵀ G`` and
    ``D_il = Σ_{j=1..N−1} a_i^{j−1} a_l^{N−j}``,

    where no basis of the null space is needed and D ≥ 0 is a sum without cancellation. Columns of
    V that belong to s_l = 0, which are not unique, are multiplied by D_il = 0.

    Powers below 1 of singular values that are 0 but for rounding are rounding to that power: for a
    rank-deficient W with k > 1 the error is of the order ε^{2/N}, as the rule itself is no
    smoother there.

    Args:
        W: The matrix, (k, d).
        G: The loss's gradient at W, (k, d).
        depth: N ≥ 1.

    Returns:
        (k, d), of W's type.
    """
    if depth == 1:
        return G
    if W.shape[0] > W.shape[1]:
        return end_to_end_gradient(W.T, G.T, depth).T
    U, s, Vt = _thin_svd(W)
    # Columns a⁰ … a^{N−1}, with 0⁰ = 1.
    powers = s[:, None] ** (2 * jnp.arange(depth, dtype=s.dtype) / depth)
    D = matmul(powers[:, :-1], powers[:, :0:-1].T)
    H = matmul(U.T, G)
    return matmul(U, powers[:, -1:] * H + matmul(D * matmul(H, Vt.T), Vt))


def _thin_svd(
    W: Float[Any, "k d"],
) -> tuple[Float[jax.Array, "k k"], Float[jax.Array, " k"], Float[Any, "k d"]]:
    """U (k, k), s (k,) and Vᵀ (k, d) of a (k, d) matrix with k ≤ d."""
    if W.shape[0] > 1:
        U, s, Vt = jnp.linalg.svd(W, full_matrices=False)
        return U, s, Vt
    # One row is its own decomposition.
    norm, unit = _norm_and_unit(W)
    return jnp.ones_like(W[:, :1]), norm[None], unit


def _norm_and_unit(
    W: Float[Any, "*shape"],
) -> tuple[Float[jax.Array, ""], Float[jax.Array, "*shape"]]:
    """``‖W‖_F`` and ``W/‖W‖_F``, 0 for W = 0."""
    # Scaled by the largest entry, as squares of small numbers would underflow to w = 0, a saddle
    # point that gradient descent never leaves.
    size = jnp.max(jnp.abs(W))
    size = jnp.where(size > 0, size, 1)
    norm = jnp.linalg.norm(W / size)
    return size * norm, W / size / jnp.where(norm > 0, norm, 1)
