"""Claims and how they are judged: criteria that are fixed before looking.

A claim's experiment yields *effects*, each a number with a 95 % interval over seeds. A criterion
says where that number should lie; what the interval leaves open is not decided. Verdicts of a
claim's parts are put together: all reproduced, none, or partly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd

from implicit_accel.errors import UserError


class Verdict(StrEnum):
    """What became of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Effect:
    """A number that a claim is about.

    Attributes:
        name: What it is, e.g. "Ethanol, ℓ4, depth 2".
        value: Its estimate.
        low: Lower end of its 95 % interval over seeds; NaN if there is none.
        high: Upper end.
        unit: Behind the number, e.g. "×", or a plural, e.g. " steps".
        note: What else must be known, e.g. a rate at the edge of the grid.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = "×"
    note: str = ""

    def __str__(self) -> str:
        """Value and interval, as text."""
        if math.isnan(self.value):
            return "no value"
        number = _number(self.value)
        text = number + (self.unit.removesuffix("s") if number == "1" else self.unit)
        if not (math.isnan(self.low) or math.isnan(self.high)):
            text += f" [{_number(self.low)}, {_number(self.high)}]"
        return text


def _number(value: float) -> str:
    """Three digits, large ones in full; the sign for what never happens."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def above(effect: Effect, threshold: float) -> Verdict:
    """Judges "the effect is larger than the threshold" by its interval.

    Without an interval (a number that does not depend on a seed) the value decides.
    """
    low, high = _ends(effect)
    if math.isnan(effect.value):
        return Verdict.NOT_REPRODUCED
    if low > threshold:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if high <= threshold else Verdict.PARTLY


def below(effect: Effect, threshold: float) -> Verdict:
    """Judges "the effect is smaller than the threshold", see `above`."""
    low, high = _ends(effect)
    if math.isnan(effect.value):
        return Verdict.NOT_REPRODUCED
    if high < threshold:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if low >= threshold else Verdict.PARTLY


def within(effect: Effect, low: float, high: float) -> Verdict:
    """Judges "the effect lies in this range", ends included, see `above`."""
    bottom, top = _ends(effect)
    if math.isnan(effect.value) or top < low or bottom > high:
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if low <= bottom and top <= high else Verdict.PARTLY


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts; parts that were not tested do not count."""
    tested = {v for v in verdicts if v != Verdict.NOT_TESTED}
    if not tested:
        return Verdict.NOT_TESTED
    return tested.pop() if len(tested) == 1 else Verdict.PARTLY


Part = tuple[Effect, Verdict]
"""A part of a criterion: what was measured, and the verdict on it."""


def verdict_of(parts: Sequence[Part]) -> Verdict:
    """The verdict on a claim of several parts, see `together`."""
    return together([verdict for _, verdict in parts])


def shortfall(parts: Sequence[Part], why: str = "") -> str:
    """What keeps a claim from being reproduced, as sentences; empty if nothing does.

    Args:
        parts: Of its criterion.
        why: The reason, as far as it is known.
    """
    missing = []
    for words, verdict in (
        ("Not as claimed", Verdict.NOT_REPRODUCED),
        ("Not decided by its interval", Verdict.PARTLY),
    ):
        found = [f"{effect.name} ({effect})" for effect, v in parts if v == verdict]
        missing += [f" {words}: {'; '.join(found)}."] if found else []
    return "".join([*missing, f" {why or 'Why, we do not know.'}"]) if missing else ""


def any_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim that may hold under one variant or another; the best one's."""
    order = (Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED)
    return next((v for v in order if v in verdicts), Verdict.NOT_TESTED)


def _ends(effect: Effect) -> tuple[float, float]:
    low = effect.value if math.isnan(effect.low) else effect.low
    high = effect.value if math.isnan(effect.high) else effect.high
    return low, high


@dataclass(frozen=True)
class Finding:
    """What an experiment showed.

    Attributes:
        verdict: On the claim.
        effects: The numbers; the first is the claim's headline.
        summary: What was seen, in a few sentences; where the verdict differs from the source,
            why, or that we do not know.
        explained: Which of theory's claims (T…) explains what was seen, and how; empty if none.
        sensitivity: The choices that the verdict depends on, or that it was seen not to.
        caveats: What else a reader must know.
        tables: Title → data frame.
        figures: File name → matplotlib figure; the first is shown beside the number.
    """

    verdict: Verdict
    effects: tuple[Effect, ...]
    summary: str
    explained: str = ""
    sensitivity: str = ""
    caveats: tuple[str, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of the literature, with the experiment that judges it.

    Attributes:
        id: As in the list of claims, e.g. ``P3b``.
        statement: In our words.
        source: Who says so, where, and how well that is known.
        setting: What is run.
        criterion: By what it is judged, with its tolerance and the reason for it.
        test: Runs the experiment in a laboratory (see `experiments.claims.toolkit.laboratory`).
        paper_hours: About what the sources' full lengths take on 2 CPU cores: the time at standard
            scale times how many times more there is to train.

    Raises:
        UserError: If a text is empty, or the hours are not a number above 0.
    """

    id: str
    statement: str
    source: str
    setting: str
    criterion: str
    test: Callable[[Any], Finding]
    paper_hours: float

    def __post_init__(self) -> None:
        if not 0 < self.paper_hours < math.inf:
            raise UserError(f"claim {self.id}: paper_hours must be a number above 0")
        for name in ("id", "statement", "source", "setting", "criterion"):
            if not getattr(self, name).strip():
                raise UserError(f"claim {self.id}: {name} is empty")
