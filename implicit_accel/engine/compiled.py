"""Compiled programs, kept in memory for later calls of the same process.

JAX finds what it has compiled by the identity of Python functions, and these are made anew for
every grid. Here a program is found by its content, see `traced_digest`: another grid of the same
shape, with other learning rates, seeds or steps, compiles nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

from implicit_accel.content import traced_digest

# A program takes about a megabyte of memory.
_MOST_KEPT = 32


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
        call: Takes the arguments that it was compiled for, or others of their shapes.
        seconds: Spent in tracing and, if it was not kept, lowering and compiling it.
    """

    call: Callable[..., Any]
    seconds: float


_kept: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
_lock = threading.Lock()


def compile_once(jitted: Any, arguments: tuple[Any, ...], context: Hashable) -> Compiled:
    """Compiles a function, unless the same program was compiled for the same context before.

    Args:
        jitted: What ``jax.jit`` returned.
        arguments: Arrays on their devices.
        context: What the compiled program depends on beside its content: the devices.
    """
    began = time.perf_counter()
    traced = jitted.trace(*arguments)
    digest = traced_digest(traced)
    # The digest knows no names: what is recorded under others, and classes of users, are in these.
    structures = jax.tree.structure(arguments), jax.tree.structure(traced.out_info)
    key = None if digest is None else (digest, structures, context)
    with _lock:
        call = None if key is None else _kept.pop(key, None)
    if call is None:
        call = traced.lower().compile()
    if key is not None:
        with _lock:
            _kept[key] = call
            while len(_kept) > _MOST_KEPT:
                _kept.popitem(last=False)
    return Compiled(call, time.perf_counter() - began)


def forget_compiled() -> None:
    """Removes all kept programs: what is trained next is compiled."""
    with _lock:
        _kept.clear()
