"""The axes of a grid, as users give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from implicit_accel.errors import UserError
from implicit_accel.experiment import Axes

_MOST_PROGRAMS = 1000

RESERVED = frozenset({"step", "observation_step", "model", "loss", "excess_loss", "optimum",
                       "target", "resolution", "steps_to_target", "divergence_step"})  # fmt: skip


@dataclass(frozen=True)
class static:  # noqa: N801 - reads like a function where it is used
    """Values of an axis that are fixed in a program of their own: ``static(1, 2, 3)``.

    For what a traced number cannot do: shape an array, count layers, choose a branch.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", tuple(values))


def _plain(value: Any) -> Any:
    """A scalar of a library's own kind as Python's."""
    is_scalar = isinstance(value, np.generic | jax.Array | np.ndarray) and value.ndim == 0
    return value.item() if is_scalar else value


def _is_beyond(number: float) -> bool:
    """Whether a number, or a whole one, is none that arrays can hold."""
    return abs(number) >= 2**63 if isinstance(number, int) else not math.isfinite(number)


def read_axes(axes: Mapping[str, Any]) -> tuple[Axes, frozenset[str]]:
    """Axes as tuples of plain values, and the names of those that programs are made for."""
    read: Axes = {}
    fixed = set()
    for name, given in axes.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise UserError(f"axis {name!r}: give it a name like learning_rate; not one of "
                            f"{', '.join(sorted(RESERVED))}")  # fmt: skip
        values = given.values if isinstance(given, static) else given
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise UserError(f"axis {name}: give a list of values, not {values!r}")
        plain = tuple(map(_plain, values))
        is_number = [isinstance(v, bool | int | float) for v in plain]
        if not all(
            isinstance(v, str) or number for v, number in zip(plain, is_number, strict=True)
        ):
            raise UserError(f"axis {name}: values must be numbers or text")
        if any(_is_beyond(v) for v, number in zip(plain, is_number, strict=True) if number):
            raise UserError(f"axis {name}: a value is not finite, or too large")
        if not plain or len(set(plain)) < len(plain):
            raise UserError(f"axis {name}: give one value or more, each once")
        if isinstance(given, static) or not all(is_number):
            fixed.add(name)
        read[name] = plain
    rates = read.get("learning_rate", (1.0,))
    if "learning_rate" in fixed or not all(rate > 0 for rate in rates):
        raise UserError("axis learning_rate: give numbers above 0, not marked static")
    seeds = read.get("seed", (0,))
    if "seed" in fixed or any(type(s) is not int or not 0 <= s < 2**32 for s in seeds):
        raise UserError("axis seed: give whole numbers from 0 up, below 2^32")
    if math.prod(len(read[name]) for name in fixed) > _MOST_PROGRAMS:
        raise UserError(f"more than {_MOST_PROGRAMS} programs: make fewer of the values static")
    return read, frozenset(fixed)
