"""Layers as products of matrices, in the parameters of any model.

    params = expand(params, where=".*kernel", depth=2, key=key)
    value = loss(collapse(params), batch)

A chosen leaf becomes a `Product` of factors. The product is formed before it meets activations, so
that the extra work is that of the weights and not of the batch, and the network computes what it
did before. `collapse` returns the original structure at any time.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from implicit_accel.errors import UserError

Where = str | Callable[[str, Any], bool]
"""Which leaves: a regular expression for the whole dotted path, or a function of path and leaf."""

INITS = ("identity", "balanced", "gaussian", "product")
KERNELS = ("dense", "per_channel", "pointwise")
LAYOUTS = ("io", "oi")

# A path that is listed in an error; more of them are counted.
_MOST_LISTED = 8


@dataclass(frozen=True)
class Product:
    """A leaf as a product of factors.

    Attributes:
        factors: Stacks of matrices, the leftmost first; `jax.numpy.matmul` broadcasts them.
        base: An array of the leaf's shape to which the product is added, or None. Optimizers see
            it like any other leaf: mask it if it should not be trained.
        shape: The leaf's.
        form: How the leaf is cut into matrices, see `expand`.
    """

    factors: tuple[Float[jax.Array, " ..."], ...]
    base: Float[jax.Array, " ..."] | None
    shape: tuple[int, ...]
    form: str

    def collapse(self) -> Float[jax.Array, " ..."]:
        """The leaf: the product, and the base if there is one."""
        product = functools.reduce(jnp.matmul, self.factors)
        leaf = _from_matrices(product, self.shape, self.form)
        return leaf if self.base is None else self.base + leaf


jax.tree_util.register_dataclass(Product, ["factors", "base"], ["shape", "form"])


def is_product(node: Any) -> bool:
    """Whether a node of a pytree is a `Product`."""
    return isinstance(node, Product)


def collapse(params: Any) -> Any:
    """The parameters in their original structure, each product multiplied out.

    It is differentiable, so that a loss of the original parameters becomes one of the factors:
    ``loss(collapse(params), batch)``. Parameters without products are returned as they are.
    """
    return jax.tree.map(
        lambda node: node.collapse() if is_product(node) else node, params, is_leaf=is_product
    )


def matching_paths(params: Any, where: Where) -> tuple[str, ...]:
    """The dotted paths of the leaves that `expand` would replace.

    Args:
        params: A pytree: dictionaries, Flax variables, Equinox modules.
        where: See `Where`.

    Raises:
        UserError: If the expression is none, or nothing matches; the message lists the paths.
    """
    tree: Any = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_product)
    leaves = [(path_of(keys), leaf) for keys, leaf in tree]
    if callable(where):
        try:
            found = tuple(path for path, leaf in leaves if where(path, leaf))
        except TypeError as error:
            raise UserError(f"where: the function must take (path, leaf) ({error})") from None
    else:
        try:
            pattern = re.compile(where)
            found = tuple(path for path, _ in leaves if pattern.fullmatch(path))
        except (re.error, TypeError) as error:
            raise UserError(f"where {where!r}: not a regular expression ({error})") from None
    if not found:
        shown = ", ".join(path for path, _ in leaves[:_MOST_LISTED])
        more = len(leaves) - _MOST_LISTED
        raise UserError(
            f"where {where!r} matches none of the parameters: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
    return found


def path_of(keys: Any) -> str:
    """A leaf's dotted path from JAX's keys."""
    parts = []
    for key in keys:
        for name in ("key", "name", "idx"):
            if hasattr(key, name):
                parts.append(str(getattr(key, name)))
                break
        else:
            parts.append(str(key))
    return ".".join(parts)


def expand(
    params: Any,
    where: Where,
    depth: int = 2,
    *,
    init: str = "balanced",
    key: jax.Array | None = None,
    width: int | None = None,
    std: float | None = None,
    kernel: str = "dense",
    layout: str = "io",
    keep_base: bool = False,
) -> Any:
    """Replaces chosen leaves by products of ``depth`` factors.

    A matrix (a, b) becomes (a, h) (h, h) … (h, b). The kernel of a convolution, with its spatial
    axes first and then input and output channels c and o, is cut into matrices:

    * ``dense``: one of (k·k·c, o): a k × k convolution, then 1 × 1 ones.
    * ``per_channel``: one of (k·k, o) for each input channel.
    * ``pointwise``: one of (c, o) for each place in the kernel. The outer factors are the same at
      every place: 1 × 1, then k × k, then 1 × 1 convolutions (Guo, Alvarez & Salzmann 2020,
      "ExpandNets"). Of depth 3 or more.

    Initial factors:

    * ``balanced``: ``U S^(1/N)``, ``S^(1/N)``, …, ``S^(1/N) Vᵀ`` of the singular value
      decomposition. The function is that of the original, to rounding.
    * ``identity``: the leaf, and (semi-)orthogonal factors whose product is the identity. The
      function is that of the original, to the bit where no width is given.
    * ``gaussian``: independent entries of one standard deviation: ``std``, or such that the product
      has the mean square of the leaf. Another function.
    * ``product``: as layers are initialised one by one, with variances of one over the number of
      rows; the last factor is scaled to the leaf's mean square. Another function.

    Args:
        params: A pytree of a model's parameters, also of a trained one.
        where: Which leaves, see `Where`.
        depth: Number of factors N ≥ 2.
        init: The initial factors.
        key: For random factors: ``gaussian``, ``product``, and ``identity`` with a width.
        width: h; by default the smaller side of the matrix. Balanced factors cannot be wider:
            the directions that are added would never move.
        std: Of ``gaussian`` factors.
        kernel: How kernels are cut.
        layout: ``io`` where output channels are the last axis and input channels the one before
            (Flax, Haiku), ``oi`` where they are the first two (Equinox, PyTorch).
        keep_base: Whether the leaf stays as a base to which the product is added, which then starts
            at zero: the last factor is zero, the others are Gaussian (Hu et al. 2022, "LoRA"),
            whatever ``init`` is.

    Returns:
        The pytree with `Product` in place of these leaves.

    Raises:
        UserError: If nothing matches, a match is no matrix or kernel of floating numbers, or an
            argument is not allowed.
    """
    _check(depth, init, key, width, std, kernel, layout, keep_base=keep_base)
    chosen = matching_paths(params, where)
    own_keys = [None] * len(chosen) if key is None else jax.random.split(key, len(chosen))
    keys = dict(zip(chosen, own_keys, strict=True))
    settings = _Settings(depth, init, width, std, keep_base)

    def replaced(path: Any, leaf: Any) -> Any:
        name = path_of(path)
        if name not in keys:
            return leaf
        form = _form(name, leaf, kernel, layout)
        shared = form.startswith("pointwise")
        own: Any = jnp.asarray(leaf)
        # Decompositions and squares need single precision.
        matrices = _to_matrices(own.astype(jnp.promote_types(own.dtype, jnp.float32)), form)
        factors = _factors(name, matrices, settings, keys[name], shared=shared)
        factors = tuple(F.astype(own.dtype) for F in factors)
        return Product(factors, leaf if keep_base else None, tuple(leaf.shape), form)

    return jax.tree_util.tree_map_with_path(replaced, params, is_leaf=is_product)


@dataclass(frozen=True)
class _Settings:
    depth: int
    init: str
    width: int | None
    std: float | None
    keep_base: bool


def _is_key(key: Any) -> bool:
    """Whether it is one of JAX's keys, of either kind."""
    if not isinstance(key, jax.Array):
        return False
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return is_typed or (key.dtype == jnp.uint32 and key.shape == (2,))


def _check(
    depth: Any,
    init: str,
    key: Any,
    width: Any,
    std: Any,
    kernel: str,
    layout: str,
    *,
    keep_base: bool,
) -> None:
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 2:
        raise UserError(f"depth {depth!r}: a product has two factors or more")
    for what, value, allowed in (
        ("init", init, INITS), ("kernel", kernel, KERNELS), ("layout", layout, LAYOUTS)
    ):  # fmt: skip
        if value not in allowed:
            raise UserError(f"{what} {value!r}: choose from {', '.join(allowed)}")
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        raise UserError(f"width {width!r}: it must be a whole number >= 1")
    if std is not None and not (isinstance(std, int | float) and 0 < std < math.inf):
        raise UserError(f"std {std!r}: it must be a number above 0")
    if std is not None and (init != "gaussian" or keep_base):
        raise UserError(f"std is of init gaussian, not of {'keep_base' if keep_base else init}")
    if key is not None and not _is_key(key):
        raise UserError(f"key {key!r}: give one that jax.random.key makes, like jax.random.key(0)")
    if kernel == "pointwise" and depth < 3:
        raise UserError("pointwise kernels have depth 3 or more: 1 x 1, k x k and 1 x 1")
    is_random = init in ("gaussian", "product") or keep_base
    if key is None and (is_random or (init == "identity" and width is not None)):
        raise UserError(f"init {init}: give a key, like jax.random.key(0)")


def _form(name: str, leaf: Any, kernel: str, layout: str) -> str:
    """How a leaf is cut: ``matrix``, or the kernel's way and its layout."""
    if is_product(leaf):
        raise UserError(f"{name} is a product already; collapse the parameters first")
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or leaf.ndim < 2:
        shape = getattr(leaf, "shape", type(leaf).__name__)
        raise UserError(
            f"{name} ({shape}) is no matrix or kernel of floating numbers: choose others"
        )
    return "matrix" if leaf.ndim == 2 else f"{kernel} {layout}"


def _to_matrices(leaf: jax.Array, form: str) -> jax.Array:
    """The matrices of a leaf: (a, b), or a stack of them."""
    if form == "matrix":
        return leaf
    kind, layout = form.split()
    places_last = leaf if layout == "io" else jnp.moveaxis(leaf, (1, 0), (-2, -1))
    c, o = places_last.shape[-2:]
    places = places_last.reshape(-1, c, o)
    if kind == "dense":
        return places.reshape(-1, o)
    return jnp.swapaxes(places, 0, 1) if kind == "per_channel" else places


def _from_matrices(matrices: jax.Array, shape: tuple[int, ...], form: str) -> jax.Array:
    """The leaf of these matrices."""
    if form == "matrix":
        return matrices
    kind, layout = form.split()
    spatial, (c, o) = (shape[:-2], shape[-2:]) if layout == "io" else (shape[2:], shape[1::-1])
    if kind == "per_channel":
        matrices = jnp.swapaxes(matrices, 0, 1)
    leaf = matrices.reshape(*spatial, c, o)
    return leaf if layout == "io" else jnp.moveaxis(leaf, (-2, -1), (1, 0))


def _factors(
    name: str, leaf: jax.Array, settings: _Settings, key: jax.Array | None, *, shared: bool
) -> tuple[jax.Array, ...]:
    """The initial factors of a stack of matrices.

    With ``shared`` all factors but the second have no stack: they are the same for every matrix.
    """
    a, b = leaf.shape[-2:]
    width = settings.width or min(a, b)
    scaled_to_leaf = settings.init != "identity" and not settings.std and not settings.keep_base
    # While a program is traced, the values are not known.
    if scaled_to_leaf and not isinstance(leaf, Tracer) and not np.any(leaf):
        raise UserError(
            f"{name} is zero, and so would be the factors, which never move; give init identity, "
            "gaussian with a std, or keep_base"
        )
    if settings.keep_base or settings.init in ("gaussian", "product"):
        assert key is not None
        return _random(leaf, settings, width, key, shared=shared)
    if settings.init == "identity":
        return _identity(name, leaf, settings, width, key, shared=shared)
    if shared:
        raise UserError(f"{name}: pointwise kernels start from identity, gaussian or product")
    if width > min(a, b):
        raise UserError(
            f"{name} ({a} x {b}): balanced factors of width {width} would have directions that "
            f"never move; give at most {min(a, b)}, or another init"
        )
    if width < min(a, b):
        raise UserError(
            f"{name} ({a} x {b}): factors of width {width} cannot hold it; give no width, or init "
            "gaussian or product, or keep_base"
        )
    U, s, Vt = jnp.linalg.svd(leaf, full_matrices=False)
    root = s ** (1 / settings.depth)
    middle = root[..., None] * jnp.eye(width, dtype=leaf.dtype)
    last = root[..., None] * Vt
    return (U * root[..., None, :], *[middle] * (settings.depth - 2), last)


def _identity(
    name: str, leaf: jax.Array, settings: _Settings, width: int, key: Any, *, shared: bool
) -> tuple[jax.Array, ...]:
    a, b = leaf.shape[-2:]
    dtype = leaf.dtype
    if shared:  # 1 × 1, k × k, 1 × 1 …: the leaf in the middle
        if settings.width is not None:
            raise UserError(f"{name}: pointwise identity factors have no width of their own")
        outer = [jnp.eye(b, dtype=dtype)] * (settings.depth - 2)
        return (jnp.eye(a, dtype=dtype), leaf, *outer)
    if settings.width is None:
        # At the smaller side: (a, b) (b, b) … or (a, a) … (a, b).
        square = [jnp.eye(min(a, b), dtype=dtype)] * (settings.depth - 1)
        stack = [jnp.broadcast_to(M, (*leaf.shape[:-2], *M.shape)) for M in square]
        return (leaf, *stack) if b <= a else (*stack, leaf)
    if width < b:
        raise UserError(
            f"{name} ({a} x {b}): an identity of width {width} cannot pass its {b} outputs"
        )
    rows = jax.random.orthogonal(key, width).astype(dtype)[:b]  # (b, h) with orthonormal rows
    middle = [jnp.eye(width, dtype=dtype)] * (settings.depth - 2)
    stack = [jnp.broadcast_to(M, (*leaf.shape[:-2], *M.shape)) for M in (*middle, rows.T)]
    return (leaf @ rows, *stack)


def _random(
    leaf: jax.Array, settings: _Settings, width: int, key: jax.Array, *, shared: bool
) -> tuple[jax.Array, ...]:
    """Gaussian factors, whose product has the leaf's mean square unless a std is given."""
    a, b = leaf.shape[-2:]
    depth = settings.depth
    sizes = [a, *[width] * (depth - 1), b]
    batch = leaf.shape[:-2]
    stacks = [batch if not shared or j == 1 else () for j in range(depth)]
    shapes = [(*stacks[j], sizes[j], sizes[j + 1]) for j in range(depth)]
    drawn = [
        jax.random.normal(own, shape, leaf.dtype)
        for own, shape in zip(jax.random.split(key, depth), shapes, strict=True)
    ]
    scale = jnp.sqrt(jnp.mean(leaf**2))
    if settings.keep_base:
        stds = [1 / math.sqrt(rows) for rows in sizes[:-1]]
        return (*(s * g for s, g in zip(stds[:-1], drawn[:-1], strict=True)), 0 * drawn[-1])
    # An entry of the product sums over width^(N−1) paths.
    paths = float(width) ** (depth - 1)
    if settings.init == "gaussian":
        std = settings.std or (scale / math.sqrt(paths)) ** (1 / depth)
        return tuple(std * g for g in drawn)
    stds = [1 / math.sqrt(rows) for rows in sizes[:-1]]
    product = math.prod(stds[:-1]) * math.sqrt(paths)
    return (
        *(s * g for s, g in zip(stds[:-1], drawn[:-1], strict=True)),
        scale / product * drawn[-1],
    )


def weight_penalty(params: Any, on: str) -> Float[jax.Array, ""]:
    """Half the sum of the squares that weight decay shrinks, to be added to a loss times λ.

    The two are different penalties. On the product it is that of the original model; on the factors
    it is, at its minimum over factorisations, ``N/2`` times the sum of ``s^(2/N)`` over the
    singular values s (the Schatten-2/N quasi-norm), so that it favours low rank.

    Args:
        params: Parameters with products; leaves that are no products count as they are.
        on: ``product`` or ``factors``; a base counts with the product, and not with the factors.

    Raises:
        UserError: If ``on`` is neither.
    """
    if on not in ("product", "factors"):
        raise UserError(f"weight decay on {on!r}: choose from product, factors")

    def squares(node: Any) -> jax.Array:
        if not is_product(node):
            is_weight = hasattr(node, "dtype") and jnp.issubdtype(node.dtype, jnp.floating)
            return jnp.sum(node**2) if is_weight else jnp.zeros(())
        if on == "product":
            return jnp.sum(node.collapse() ** 2)
        return sum((jnp.sum(F**2) for F in node.factors), jnp.zeros(()))

    nodes = jax.tree.leaves(params, is_leaf=is_product)
    return sum(map(squares, nodes), jnp.zeros(())) / 2


@dataclass(frozen=True)
class Factorisation:
    """What has become of a product.

    Attributes:
        path: The leaf's.
        imbalance: The largest ``‖W_jᵀ W_j − W_{j+1} W_{j+1}ᵀ‖`` of neighbours over the largest
            ``‖W_j‖²``, Frobenius norms; NaN for stacks.
        effective_rank: ``(Σ s)² / Σ s²`` of the product's singular values, the largest of a stack.
    """

    path: str
    imbalance: float
    effective_rank: float


def factorisations(params: Any) -> tuple[Factorisation, ...]:
    """Balance and rank of every product in some parameters."""
    found = []
    for keys, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_product):
        if not is_product(node):
            continue
        factors = [np.asarray(F, float) for F in node.factors]
        imbalance = math.nan
        if all(F.ndim == 2 for F in factors):
            gaps = [np.linalg.norm(A.T @ A - B @ B.T) for A, B in itertools.pairwise(factors)]
            largest = max(np.linalg.norm(F) ** 2 for F in factors)
            imbalance = max(gaps) / largest if largest > 0 else 0.0
        s = np.linalg.svd(functools.reduce(np.matmul, factors), compute_uv=False)
        squares = (s**2).sum(axis=-1)
        ranks = np.where(squares > 0, s.sum(axis=-1) ** 2 / np.where(squares > 0, squares, 1), 0)
        found.append(Factorisation(path_of(keys), float(imbalance), float(np.max(ranks))))
    return tuple(found)
