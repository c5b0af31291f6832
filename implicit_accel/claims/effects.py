"""Effects: numbers that claims are about, each with its interval and the key it is found by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from implicit_accel.intervals import CONFIDENCE, Interval

Coordinate = str | int | float

# How labels write a coordinate, where it is not "name value".
_WORDS: Mapping[str, Callable[[Any], str]] = {
    "problem": str,
    "method": str,
    "station": str,
    "choice": str,
    "hidden": lambda widths: f"[{', '.join(widths.split('x'))}]" if widths != "-" else "[]",
    "end": lambda _: "at the end",
    "p": lambda p: f"ℓ{p:g}",
    "init": lambda init: f"{init} initialisation",
    "share": lambda share: f"to {100 * share:.3g} %",
    "horizon": lambda steps: f"after {steps:,} steps",
}


@dataclass(frozen=True)
class Key:
    """What an effect is found by: a measure, and coordinates.

    Attributes:
        measure: What is measured, e.g. ``speed-up``.
        at: Names and values of coordinates: problem, p, depth, width …
    """

    measure: str
    at: tuple[tuple[str, Coordinate], ...] = ()

    @classmethod
    def of(cls, measure: str, /, **coordinates: Coordinate) -> Key:
        """A key with these coordinates, in this order."""
        return cls(measure, tuple(coordinates.items()))

    def matches(self, measure: str, coordinates: Mapping[str, Coordinate]) -> bool:
        """Whether it is of this measure and has at least these coordinates."""
        return measure == self.measure and set(coordinates.items()) <= set(self.at)


def label(key: Key) -> str:
    """A key in words, e.g. "Ethanol, ℓ4, depth 2: speed-up"; without a measure its coordinates."""
    words = [_WORDS[name](value) if name in _WORDS else f"{name} {value}" for name, value in key.at]
    return ": ".join(filter(None, (", ".join(words), key.measure)))


class Kind(StrEnum):
    """How an effect is estimated, which decides what its interval can be."""

    VALUE = "value"  # depends on no seed
    MEDIAN = "median"
    SHARE = "share"
    MEASURE = "measure"
    SPEED_UP = "speed-up"


@dataclass(frozen=True)
class Design:
    """What an experiment could have found.

    Attributes:
        kind: Of the estimate.
        seeds: How many it is over.
        least: The smallest value that this experiment could have shown.
        most: The largest: e.g. the runs' length over the faster model's steps, for a speed-up.
    """

    kind: Kind = Kind.VALUE
    seeds: int = 1
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Effect:
    """A number that a claim is about.

    Attributes:
        name: What it is, e.g. "Ethanol, ℓ4, depth 2".
        value: Its estimate.
        low: Lower end of its interval; NaN if there is none.
        high: Upper end.
        unit: Behind the number, e.g. "×", or a plural, e.g. " steps".
        note: What else must be known, e.g. a rate at the edge of the grid.
        confidence: Of the interval; NaN if low and high are the range of fewer than six seeds.
        design: What the experiment could have found.
        halves: What the two halves of the grid of learning rates give, each alone.
        bound: ``>`` or ``<`` if a speed-up is only a bound, as it is larger or smaller; else empty.
        key: What it is found by.
        at: The interval at any confidence. Not stored.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = "×"
    note: str = ""
    confidence: float = CONFIDENCE
    design: Design = Design()
    halves: tuple[float, ...] = ()
    bound: str = ""
    key: Key | None = None
    at: Callable[[float], Interval] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """Value and interval, as text; with ``<`` or ``>`` before what is only a bound."""
        if math.isnan(self.value):
            return "no value"
        number = format_number(self.value)
        text = self.bound + number + (self.unit.removesuffix("s") if number == "1" else self.unit)
        if math.isnan(self.low) or math.isnan(self.high):
            return text
        ends = format_number(self.low), format_number(self.high)
        if math.isnan(self.confidence):
            if self.design.seeds == 1:
                return f"{text} (one seed)"
            return f"{text} ({ends[0]} to {ends[1]} over {self.design.seeds} seeds)"
        return f"{text} [{ends[0]}, {ends[1]}]"

    def keyed(self, key: Key) -> Effect:
        """The same effect, found by a key and named after it."""
        return replace(self, key=key, name=label(key))

    @property
    def bare(self) -> str:
        """As text, without its interval."""
        return str(replace(self, low=math.nan, high=math.nan))

    @property
    def inverse(self) -> Effect:
        """The reciprocal, which makes a slow-down a speed-up."""
        value, low, high = (1 / v if v else math.inf for v in (self.value, self.high, self.low))
        halves = tuple(1 / half for half in self.halves if half > 0)
        bound = {">": "<", "<": ">"}.get(self.bound, "")
        return replace(self, value=value, low=low, high=high, halves=halves, bound=bound, at=None)

    def ends(self, confidence: float) -> tuple[float, float]:
        """Where the effect may lie; its value, if it has no interval."""
        if self.at is not None:
            found = self.at(confidence)
            return found.low, found.high
        low = self.value if math.isnan(self.low) else self.low
        high = self.value if math.isnan(self.high) else self.high
        return low, high


def format_number(value: float) -> str:
    """Three digits, large ones in full, and ∞."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def matching(effects: Iterable[Effect], measure: str, at: Mapping[str, Coordinate]) -> list[Effect]:
    """The effects of a measure that have at least some coordinates, see `Key.matches`."""
    return [e for e in effects if e.key is not None and e.key.matches(measure, at)]


def coordinates_by_measure(effects: Iterable[Effect]) -> dict[str, set[str]]:
    """The names of the coordinates that the effects of each measure have."""
    found: dict[str, set[str]] = {}
    for effect in effects:
        if effect.key is not None:
            found.setdefault(effect.key.measure, set()).update(name for name, _ in effect.key.at)
    return found


def short_labels(effects: Sequence[Effect]) -> list[str]:
    """What distinguishes effects, in words: coordinates that they do not share, and the measure.

    Args:
        effects: With keys; those without are called by their names.
    """
    keys = [effect.key for effect in effects if effect.key is not None]
    if len(keys) < len(effects):
        return [effect.name for effect in effects]
    shared = set.intersection(*(set(key.at) for key in keys)) if len(keys) > 1 else set()
    measures = {key.measure for key in keys}
    found = []
    for key in keys:
        at = tuple(pair for pair in key.at if pair not in shared)
        found.append(label(Key(key.measure if len(measures) > 1 or not at else "", at)))
    return found
