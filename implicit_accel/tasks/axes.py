"""The axes of a grid, as users give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from implicit_accel.errors import UserError
from implicit_accel.experiment import RATES, SEEDS, Axes
from implicit_accel.names import check_axis_names

_MOST_PROGRAMS = 1000

# JAX computes whole numbers in 32 bits; results hold them in 64.
_WHOLE = (-(2**31), 2**31 - 1)
_HELD = (-(2**63), 2**63 - 1)


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


def _typed(name: str, values: tuple[Any, ...], *, is_static: bool) -> tuple[Any, ...]:
    """The values of an axis in its one type, which is decided by all of them.

    Learning rates are fractions. Other numbers are fractions if one of them is, else whole; truth
    values and words are each by themselves. What is static keeps its type, value by value.

    Raises:
        UserError: If a value has no type, does not fit it, or types are mixed.
    """
    is_number = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
    is_word = [isinstance(v, str) for v in values]
    is_truth = [isinstance(v, bool) for v in values]
    if not all(map(any, zip(is_number, is_word, is_truth, strict=True))):
        raise UserError(f"axis {name}: values must be numbers, true or false, or text")
    if any(is_word) and not all(is_word):
        raise UserError(f"axis {name}: values must be all text or all numbers, not both")
    if any(is_truth) and not all(is_truth):
        raise UserError(f"axis {name}: true and false are no numbers; give them alone")
    if all(is_word) or all(is_truth):
        return values
    for v in values:
        if isinstance(v, float) and not math.isfinite(v):
            raise UserError(f"axis {name}: a value is not finite, or too large")
    is_whole = all(isinstance(v, int) for v in values)
    if name == RATES or not (is_whole or is_static):
        try:
            return tuple(map(float, values))
        except OverflowError:
            raise UserError(f"axis {name}: a value is not finite, or too large") from None
    low, high = _HELD if is_static else _WHOLE
    if name != SEEDS and not all(low <= v <= high for v in values):
        raise UserError(
            f"axis {name}: a whole number is too large, it does not fit "
            f"{64 if is_static else 32} bits; write it as a fraction, like 1.5e10"
        )
    return values


def read_axes(axes: Mapping[str, Any]) -> tuple[Axes, frozenset[str]]:
    """Axes as tuples of plain values, and the names of those that programs are made for.

    Raises:
        UserError: If a name is taken, or values are not allowed.
    """
    check_axis_names(axes)
    read: Axes = {}
    fixed = set()
    for name, given in axes.items():
        is_static = isinstance(given, static)
        values = given.values if is_static else given
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise UserError(f"axis {name}: give a list of values, not {values!r}")
        plain = _typed(name, tuple(map(_plain, values)), is_static=is_static)
        if not plain or len(set(plain)) < len(plain):
            raise UserError(f"axis {name}: give one value or more, each once")
        if is_static or isinstance(plain[0], str):
            fixed.add(name)
        read[name] = plain
    rates = read.get(RATES, (1.0,))
    if RATES in fixed or not all(isinstance(rate, float) and rate > 0 for rate in rates):
        raise UserError("axis learning_rate: give numbers above 0, not marked static")
    seeds = read.get(SEEDS, (0,))
    if SEEDS in fixed or any(type(s) is not int or not 0 <= s < 2**32 for s in seeds):
        raise UserError("axis seed: give whole numbers from 0 up, below 2^32")
    if math.prod(len(read[name]) for name in fixed) > _MOST_PROGRAMS:
        raise UserError(f"more than {_MOST_PROGRAMS} programs: make fewer of the values static")
    return read, frozenset(fixed)


def check_axes_precision(axes: Axes, fixed: frozenset[str], precision: str, what: str = "") -> None:
    """Makes sure that an axis's numbers differ in training's precision.

    Args:
        axes: The axes.
        fixed: Those of them that are not traced.
        precision: In which numbers are traced.
        what: What the message calls it, where not ``precision`` decides.

    Raises:
        UserError: If two of them are one number in the precision, or one overflows or vanishes.
    """
    # JAX flushes subnormal numbers to 0 on some devices.
    tiny = float(np.finfo(precision).tiny)
    if not what:
        what, advice = precision, ", or use precision float64" if precision == "float32" else ""
    else:
        advice = ""
    for name, values in axes.items():
        if name in fixed or not isinstance(values[0], float):
            continue
        with np.errstate(over="ignore", under="ignore"):
            rounded = np.array(values).astype(precision).tolist()
        first: dict[float, float] = {}
        for v, r in zip(values, rounded, strict=True):
            if not math.isfinite(r) or (v != 0 and abs(r) < tiny):
                raise UserError(
                    f"axis {name}: {v!r} is beyond what {what} holds; rescale it{advice}"
                )
            if r in first:
                raise UserError(
                    f"axis {name}: {first[r]!r} and {v!r} are one number in {what}; leave one "
                    f"out{advice}"
                )
            first[r] = v
