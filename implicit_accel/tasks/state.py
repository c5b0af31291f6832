"""The state that a loss carries from step to step beside the parameters.

Its arrays are carried: running averages, counters, hidden units, JAX keys. Everything else in its
pytree (functions, names) is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from implicit_accel.content import UnidentifiedError, content_digest
from implicit_accel.engine.step import is_key, key_of_kind
from implicit_accel.errors import UserError


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a pytree is an array, of JAX or NumPy."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf of a pytree is a floating array."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_same_leaf(a: Any, b: Any) -> bool:
    """Whether two leaves are the same: arrays by their numbers, functions by their content."""
    if is_array(a) or is_array(b):
        return np.array_equal(a, b)
    try:
        return bool(a is b or a == b) or content_digest(a) == content_digest(b)
    except (UnidentifiedError, TypeError, ValueError):
        return False


@dataclass(frozen=True)
class _KeyType:
    """Stands among what is fixed where the state has a typed JAX key, carried as plain numbers."""

    dtype: Any


def split_state(state: Any) -> tuple[Any, Any]:
    """A state's arrays, typed keys as plain numbers, and all else; None in the others' places.

    Raises:
        UserError: If an array is of a type that is not supported.
    """
    leaves: Any = jax.tree_util.tree_leaves_with_path(state)
    for path, leaf in leaves:
        if is_array(leaf) and not _is_supported(leaf.dtype):
            raise UserError(
                f"init: the state's array at {_place(path)} has type {leaf.dtype}; a state has "
                "arrays of float32 or float64, whole numbers, booleans and JAX keys"
            )

    def carried(leaf: Any) -> Any:
        if not is_array(leaf):
            return None
        return jax.random.key_data(leaf) if is_key(leaf) else leaf

    def fixed(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        return _KeyType(leaf.dtype) if is_key(leaf) else None

    return jax.tree.map(carried, state), jax.tree.map(fixed, state)


def _is_supported(dtype: Any) -> bool:
    if jnp.issubdtype(dtype, jnp.floating):
        return dtype.itemsize >= 4
    kinds = (jnp.integer, jnp.bool, jax.dtypes.prng_key)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def join_state(carried: Any, fixed: Any) -> Any:
    """The inverse of `split_state`."""

    def one(array: Any, rest: Any) -> Any:
        if array is None:
            return rest
        return key_of_kind(rest, array) if isinstance(rest, _KeyType) else array

    return jax.tree.map(one, carried, fixed, is_leaf=lambda leaf: leaf is None)


def check_returned_state(given: Any, returned: Any) -> None:
    """Makes sure that the state which a loss returns is like the one that it was given.

    Raises:
        UserError: If its structure, or the shape or type of an array, is another, or something that
            is no array has changed. It says where.
    """
    words = "loss: the state that it returns must be like the one that it is given"
    before, after = (
        {_place(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (given, returned)
    )
    if lacking := [place for place in before if place not in after]:
        raise UserError(f"{words}, and has nothing at {lacking[0]}")
    if surplus := [place for place in after if place not in before]:
        raise UserError(f"{words}, which has nothing at {surplus[0]}")
    structures = jax.tree.structure(given), jax.tree.structure(returned)
    if structures[0] != structures[1]:
        raise UserError(f"{words}: it has the structure {structures[1]}, not {structures[0]}")
    for place, a in before.items():
        b = after[place]
        if not is_array(a):
            if is_array(b) or not is_same_leaf(a, b):
                raise UserError(
                    f"{words}: at {place} it has {_described(b)}, in place of "
                    f"{_described(a)}; write jnp.array(…) in init for a number that changes"
                )
        elif _described(a) != _described(b):
            raise UserError(f"{words}: at {place} it has {_described(b)}, not {_described(a)}")


def traced_without_mesh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of arrays, whose program JAX makes as if for one device.

    Within the training of several devices the types of traced arrays name these, and those of
    constants do not: `equinox.nn.State` then takes a constant for an array of another type.
    """
    kinds = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*kinds)
    found = core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def _place(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the top"


def _described(leaf: Any) -> str:
    """Shape and type as JAX has them, in which NumPy's 64 bits may be 32."""
    if not is_array(leaf):
        return f"{leaf!r:.40} that is no array"
    dtype = leaf.dtype if is_key(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype)
    return f"shape {leaf.shape} and type {dtype}"
