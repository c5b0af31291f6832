"""Configurations drawn at random, for axes along which hyper-parameters vary together."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from implicit_accel.errors import UserError
from implicit_accel.tasks.axes import read_values, static, together

# Draws are rounded to a millionth of their range, far above what differs between machines.
_PLACES = 6

# Draws for each configuration that is asked for, before values are found to have no more of them.
_MOST_TRIES = 200


@dataclass(frozen=True)
class uniform:  # noqa: N801 - reads like a function where it is used
    """Numbers between two others, for `random`: ``uniform(0, 0.99)``.

    Raises:
        UserError: If the bounds are not finite numbers, the lower one first.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds("uniform", self.low, self.high)

    def value(self, share: float) -> float:
        """The number at a share, from 0 to 1, of the range."""
        span = self.high - self.low
        rounded = round(self.low + share * span, _digits(span))
        return float(min(max(rounded, self.low), self.high))


@dataclass(frozen=True)
class log_uniform:  # noqa: N801 - reads like a function where it is used
    """Numbers above 0 whose logarithms are uniform, for `random`: ``log_uniform(1e-4, 1e-1)``.

    Raises:
        UserError: If the bounds are not finite numbers above 0, the lower one first.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds("log_uniform", self.low, self.high)
        if self.low <= 0:
            raise UserError(f"log_uniform({self.low}, {self.high}): give bounds above 0")

    def value(self, share: float) -> float:
        """The number at a share, from 0 to 1, of the range."""
        span = math.log(self.high) - math.log(self.low)
        found = math.exp(math.log(self.low) + share * span)
        rounded = float(f"{found:.{_digits(min(max(span, 1e-12), 1.0))}g}")
        return float(min(max(rounded, self.low), self.high))


def _digits(span: float) -> int:
    """The decimal places of numbers that are rounded to about 10^-`_PLACES` of a span."""
    return _PLACES - math.floor(math.log10(span) + 1e-9)


def _check_bounds(name: str, low: Any, high: Any) -> None:
    are_numbers = all(
        isinstance(end, numbers.Real) and not isinstance(end, bool) and math.isfinite(end)
        for end in (low, high)
    )
    if not (are_numbers and low < high and math.isfinite(high - low)):
        raise UserError(f"{name}({low!r}, {high!r}): give two finite numbers, the lower one first")


def random(num: int, /, *, seed: int = 0, **values: Any) -> together:
    """Configurations drawn at random, the values of an axis: a random search.

    ``axes={"configuration": random(20, learning_rate=log_uniform(1e-4, 1e-1), width=static(8, 64)),
    "seed": range(3)}``. The first configurations of a longer draw are the same, so that a search in
    a folder goes on with a larger ``num``. All configurations are different.

    Args:
        num: How many.
        seed: Of the draw, a whole number from 0 up. The runs' seeds are an axis of their own.
        values: For each hyper-parameter `uniform` or `log_uniform`, whose numbers are rounded to
            about six digits, or the values among which it is drawn, as along an axis.

    Returns:
        The configurations, see `together`.

    Raises:
        UserError: If an argument is not allowed, or there are not so many configurations.
    """
    for what, given, least in (("num", num, 1), ("seed", seed, 0)):
        if (
            not (isinstance(given, numbers.Integral) and not isinstance(given, bool))
            or given < least
        ):
            advice = "; seeds of runs are an axis of their own" if what == "seed" else ""
            raise UserError(
                f"random: {what} {given!r}: give a whole number from {least} up{advice}"
            )
    if not values:
        raise UserError(
            "random: give the hyper-parameters, like learning_rate=log_uniform(1e-4, 1)"
        )
    spaces = {name: _space(name, given) for name, given in values.items()}
    shares = [_shares(int(seed), name) for name in spaces]
    found: dict[tuple[Any, ...], None] = {}
    for drawn in itertools.islice(zip(*shares, strict=True), _MOST_TRIES * int(num)):
        row = (space.at(share) for space, share in zip(spaces.values(), drawn, strict=True))
        found.setdefault(tuple(row))
        if len(found) == num:
            break
    else:
        raise UserError(
            f"random: {num} configurations were asked for, and there are {len(found)} of these "
            "values; ask for fewer, or give the values as axes, whose product is trained"
        )
    columns = dict(zip(spaces, zip(*found, strict=True), strict=True))
    return together(**{name: space.column(columns[name]) for name, space in spaces.items()})


@dataclass(frozen=True)
class _Space:
    """What a hyper-parameter is drawn from.

    Attributes:
        at: Returns what is drawn at a share of the range: a number, or a value's place.
        column: Returns the values of several draws, as along an axis.
    """

    at: Callable[[float], Any]
    column: Callable[[tuple[Any, ...]], Any]


def _space(name: str, given: Any) -> _Space:
    if isinstance(given, uniform | log_uniform):
        return _Space(given.value, list)
    typed, is_static, behind = read_values(name, given)
    if not typed or len(set(typed)) < len(typed):
        raise UserError(f"axis {name}: give one value or more, each once")
    values = [behind.get(value, value) for value in typed]
    labels = typed if behind else None

    def column(places: tuple[int, ...]) -> Any:
        chosen = [values[place] for place in places]
        if not is_static:
            return chosen
        return static.labelled(chosen, None if labels is None else [labels[p] for p in places])

    return _Space(lambda share: min(int(share * len(values)), len(values) - 1), column)


def _shares(seed: int, name: str) -> Iterator[float]:
    """Uniform numbers from 0 up, below 1; a stream for each name.

    Of NumPy's generators only the bits are the same in all of its versions.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, *name.encode()]))
    while True:
        yield (int(bits.random_raw()) >> 11) * 2.0**-53
