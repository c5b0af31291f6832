"""Claims and how they are judged: criteria that are fixed before looking.

A claim's experiment yields *effects*, numbers with an interval over seeds. A criterion has *parts*:
each says in which range an effect should lie for the claim's direction, and in which for its size.
The first part is the *primary* one. A claim's *outcome* is that of the primary effect, over seeds
and over the choices by which it is measured (`answer`); the other parts are shown beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from implicit_accel.claims.effects import Effect, Key, Kind, format_number, label
from implicit_accel.errors import UserError
from implicit_accel.intervals import CONFIDENCE, of_median, of_share, simultaneous


class Direction(StrEnum):
    """Whether what was claimed is there."""

    AS_CLAIMED = "as claimed"
    OPPOSITE = "opposite"
    UNDECIDED = "undecided"


class Size(StrEnum):
    """Whether it is as large as was claimed."""

    AS_CLAIMED = "as claimed"
    SMALLER = "smaller"
    LARGER = "larger"
    UNDECIDED = "undecided"
    NOT_COMPARABLE = "not comparable"


class Outcome(StrEnum):
    """What became of a claim."""

    CONFIRMED = "confirmed"
    CONFIRMED_IF = "confirmed if"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True)
class Range:
    """Where an effect should lie, both ends included or both excluded."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False

    def place(self, low: float, high: float) -> str:
        """Where an interval lies: ``inside``, ``below``, ``above`` or ``across``."""
        # No end at infinity is a limit: "never" is larger than any number.
        if self.closed:
            inside = self.low <= low and high <= self.high
            beneath, beyond = high < self.low, low > self.high
        else:
            inside = (low > self.low or self.low == -math.inf) and (
                high < self.high or self.high == math.inf
            )
            beneath, beyond = high <= self.low > -math.inf, low >= self.high < math.inf
        return "inside" if inside else "below" if beneath else "above" if beyond else "across"


@dataclass(frozen=True)
class Part:
    """A part of a criterion.

    Attributes:
        effect: What was measured.
        claimed: Where it lies if the claim's direction is right.
        size: Where it lies if the claim's size is right; None if the claim names none.
    """

    effect: Effect
    claimed: Range
    size: Range | None = None


def above(effect: Effect, threshold: float, size: Range | None = None) -> Part:
    """The claim that an effect is larger than a threshold."""
    return Part(effect, Range(low=threshold), size)


def below(effect: Effect, threshold: float, size: Range | None = None) -> Part:
    """The claim that an effect is smaller than a threshold."""
    return Part(effect, Range(high=threshold), size)


def within(effect: Effect, low: float, high: float, size: Range | None = None) -> Part:
    """The claim that an effect lies in a range, ends included."""
    return Part(effect, Range(low, high, closed=True), size)


@dataclass(frozen=True)
class Judged:
    """A part with its answers.

    Attributes:
        part: The part.
        direction: Whether the effect lies where it was claimed to.
        size: Whether it is as large.
    """

    part: Part
    direction: Direction
    size: Size


@dataclass(frozen=True)
class Verdict:
    """The parts of a criterion with their answers.

    Attributes:
        parts: Empty if the claim was not tested.
    """

    parts: tuple[Judged, ...] = ()

    @property
    def num_held(self) -> int:
        """How many parts have the direction that was claimed."""
        return sum(judged.direction == Direction.AS_CLAIMED for judged in self.parts)

    @property
    def directions(self) -> frozenset[Direction]:
        """The different answers on direction."""
        return frozenset(judged.direction for judged in self.parts)

    @property
    def holds(self) -> bool:
        """Whether every part is as claimed, in direction and in size."""
        fine = {Size.AS_CLAIMED, Size.NOT_COMPARABLE}
        return self.directions == {Direction.AS_CLAIMED} and {j.size for j in self.parts} <= fine


_DIRECTIONS = {
    "inside": Direction.AS_CLAIMED,
    "below": Direction.OPPOSITE,
    "above": Direction.OPPOSITE,
    "across": Direction.UNDECIDED,
}
_SIZES = {
    "inside": Size.AS_CLAIMED,
    "below": Size.SMALLER,
    "above": Size.LARGER,
    "across": Size.UNDECIDED,
}


def judge(parts: Sequence[Part]) -> Verdict:
    """The verdict on a claim: its parts judged by intervals that hold together.

    With m parts each interval has the confidence 1 − 0.05/m (Bonferroni): then all of them hold
    with 95 %, whatever ties the effects together.

    Args:
        parts: Of the criterion; those without a value are undecided.
    """
    confidence = simultaneous(len(parts))
    judged = []
    for part in parts:
        if math.isnan(part.effect.value):
            judged.append(Judged(part, Direction.UNDECIDED, Size.NOT_COMPARABLE))
            continue
        ends = part.effect.ends(confidence)
        direction = _DIRECTIONS[part.claimed.place(*ends)]
        size = Size.NOT_COMPARABLE if part.size is None else _SIZES[part.size.place(*ends)]
        judged.append(Judged(part, direction, size))
    return Verdict(tuple(judged))


CHOICES = ("choice", "problem")
"""Coordinates of an effect that say how or on which data it is measured."""


@dataclass(frozen=True)
class Answer:
    """A claim's outcome, with what decides it.

    Attributes:
        outcome: Over seeds and choices.
        primary: The effect that the claim is about; None if nothing was judged.
        choices: The same effect by other choices: what was chosen, the effect, and where it lies.
        reason: Why it is not testable, or on what condition it is confirmed.
    """

    outcome: Outcome
    primary: Effect | None = None
    choices: tuple[tuple[str, Effect, Direction], ...] = ()
    reason: str = ""

    @property
    def failing(self) -> tuple[str, ...]:
        """The choices by which the effect does not lie in the claimed range."""
        return tuple(name for name, _, where in self.choices if where != Direction.AS_CLAIMED)

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest value over all choices; NaN without any."""
        found = [e.value for _, e, _ in self.choices if not math.isnan(e.value)]
        if self.primary is None or not found:
            return math.nan, math.nan
        return min(*found, self.primary.value), max(*found, self.primary.value)

    @property
    def range_words(self) -> str:
        """The span as text; empty without other choices."""
        low, high = self.span
        if self.primary is None or math.isnan(low):
            return ""
        return f"{format_number(low)} to {format_number(high)}{self.primary.unit}"

    @property
    def span_words(self) -> str:
        """The span as text, with what fails; empty without other choices."""
        words = self.range_words
        is_held = self.outcome in (Outcome.CONFIRMED, Outcome.CONFIRMED_IF)
        return f"{words}; not: {', '.join(self.failing)}" if is_held and self.failing else words

    def __str__(self) -> str:
        """The outcome in words, with its condition or reason."""
        if self.outcome == Outcome.CONFIRMED_IF:
            return f"{self.outcome} {self.reason or 'not: ' + ', '.join(self.failing)}"
        return f"{self.outcome}: {self.reason}" if self.reason else str(self.outcome)


def answer(
    part: Part | None,
    effects: Sequence[Effect],
    *,
    choices: Sequence[str] = CHOICES,
    untestable: str = "",
    exists: bool = False,
    condition: str = "",
) -> Answer:
    """The outcome of a claim: its primary effect over seeds and over choices.

    The primary effect is judged at its own 95 % interval. Other effects of the same measure which
    differ from it in one coordinate of ``choices`` measure the same by another choice; so do the
    halves of the grid of learning rates. The claim is

    * *confirmed* if the primary effect and all others lie in the claimed range,
    * *confirmed if* the primary effect does, and so do most of them; the answer names the others,
    * *contradicted* if the primary effect lies outside, and no choice puts it inside,
    * *inconclusive* otherwise: an interval crosses the range's end, or the choices disagree.

    Args:
        part: The primary effect with its range; None if it was not measured.
        effects: All of the claim's.
        choices: The coordinates that are choices, and not part of the claim.
        untestable: Why the claim cannot be tested, if it cannot.
        exists: Whether it claims that something exists: what was not found contradicts nothing.
        condition: On what it is confirmed if some choices fail, in words.
    """
    if part is None:
        return Answer(Outcome.NOT_TESTABLE, reason=untestable or "not measured here")
    primary = part.effect
    others = tuple(_by_choice(part, effects, choices))
    if untestable or math.isnan(primary.value):
        reason = untestable or primary.note or "no value"
        return Answer(Outcome.NOT_TESTABLE, primary, others, reason)
    own = _DIRECTIONS[part.claimed.place(*primary.ends(CONFIDENCE))]
    directions = [where for _, _, where in others]
    failing = sum(where != Direction.AS_CLAIMED for where in directions)
    # The primary effect is one of the choices.
    if own == Direction.AS_CLAIMED and 2 * failing <= 1 + len(directions):
        outcome = Outcome.CONFIRMED_IF if failing else Outcome.CONFIRMED
    elif own == Direction.OPPOSITE and Direction.AS_CLAIMED not in directions and not exists:
        outcome = Outcome.CONTRADICTED
    else:
        outcome = Outcome.INCONCLUSIVE
    reason = condition if outcome == Outcome.CONFIRMED_IF else ""
    return Answer(outcome, primary, others, reason)


def _by_choice(
    part: Part, effects: Sequence[Effect], choices: Sequence[str]
) -> Iterator[tuple[str, Effect, Direction]]:
    """The primary effect by other choices, as far as it has a value, each with where it lies."""
    primary = part.effect
    if primary.key is None:
        return
    at = dict(primary.key.at)
    for effect in effects:
        if effect.key is None or effect.key.measure != primary.key.measure:
            continue
        other = dict(effect.key.at)
        differs = [name for name in other.keys() | at.keys() if other.get(name) != at.get(name)]
        if len(differs) == 1 and differs[0] in choices and not math.isnan(effect.value):
            where = _DIRECTIONS[part.claimed.place(*effect.ends(CONFIDENCE))]
            own = tuple((name, value) for name, value in effect.key.at if name in differs)
            yield label(Key("", own)), effect, where
    for number, half in enumerate(primary.halves):
        name = f"{('first', 'second')[number]} half of the learning rates"
        effect = Effect(name, half, unit=primary.unit)
        yield name, effect, _DIRECTIONS[part.claimed.place(half, half)]


def could_be(part: Part, parts: int) -> frozenset[Direction]:
    """Which answers on direction the most telling data could bring about.

    A criterion is one only if it can be met and can be failed: by an effect planted anywhere
    between the least and the most that the experiment can show, the same for every seed.

    Args:
        part: Of a criterion.
        parts: How many parts it has.
    """
    design, confidence = part.effect.design, simultaneous(parts)
    ends = [design.least, design.most, part.claimed.low, part.claimed.high]
    finite = sorted({x for x in ends if math.isfinite(x)}) or [0.0]
    margin = 1 + max(abs(x) for x in finite)
    between = [(a + b) / 2 for a, b in itertools.pairwise(finite)]
    planted = [*finite, *between, finite[0] - margin, finite[-1] + margin]
    if design.kind == Kind.SHARE:
        counts = range(design.seeds + 1)
        samples = [of_share(np.arange(design.seeds) < count, confidence) for count in counts]
        intervals = [(100 * i.low, 100 * i.high) for i in samples]
    else:
        values = [x for x in planted if design.least <= x <= design.most]
        if design.kind == Kind.MEDIAN:
            samples = [of_median(np.full(design.seeds, x), confidence) for x in values]
            intervals = [(i.low, i.high) for i in samples]
        else:
            intervals = [(x, x) for x in values]
    return frozenset(_DIRECTIONS[part.claimed.place(*found)] for found in intervals)


def failed_checks(verdict: Verdict, why: str = "") -> str:
    """What keeps a claim from holding, as sentences; empty if nothing does.

    Args:
        verdict: From `judge`.
        why: The reason, as far as it is known.
    """
    confidence = simultaneous(len(verdict.parts))
    missing = []
    for words, chosen in (
        ("Opposite to what is claimed", lambda j: j.direction == Direction.OPPOSITE),
        ("Not decided", lambda j: j.direction == Direction.UNDECIDED),
        ("Smaller than claimed", lambda j: j.size == Size.SMALLER),
        ("Larger than claimed", lambda j: j.size == Size.LARGER),
    ):
        found = [_judged_by(j.part.effect, confidence) for j in verdict.parts if chosen(j)]
        missing += [f" {words}: {'; '.join(found)}."] if found else []
    return "".join([*missing, f" {why or 'Why, we do not know.'}"]) if missing else ""


def _judged_by(effect: Effect, confidence: float) -> str:
    """An effect, with the interval that it is judged by where that is another one."""
    low, high = effect.ends(confidence)
    if effect.at is None or (low, high) == (effect.low, effect.high):
        return f"{effect.name} ({effect})"
    return f"{effect.name} ({effect}; jointly {format_number(low)} to {format_number(high)})"


@dataclass(frozen=True)
class Cause:
    """Why what was seen is so.

    Attributes:
        claims: The claims of theory that show it, e.g. ``("T5",)``.
        why: In a few sentences.

    Raises:
        UserError: If either is empty.
    """

    claims: tuple[str, ...]
    why: str

    def __post_init__(self) -> None:
        if not self.claims or not self.why.strip():
            raise UserError("a cause names the claims that show it, and says how")

    def __str__(self) -> str:
        """The claims and the reason."""
        return f"{', '.join(self.claims)}. {self.why}"


@dataclass(frozen=True)
class Finding:
    """What an experiment showed.

    Attributes:
        verdict: On the claim.
        effects: The numbers; the headline is the first that is judged, or else the first.
        ran: What was run.
        criterion: By what it is judged, with its tolerance and the reason for it.
        summary: What was seen, in a few sentences; where the verdict differs from the source,
            why, or that we do not know.
        cause: Why, with the claims of theory (T…) that show it; None if it is unexplained.
        sensitivity: The choices that the verdict depends on, or that it was seen not to.
        caveats: What else a reader must know.
        tables: Title → data frame.
        figures: File name → matplotlib figure, or a forest plot (see `claims.forest`); the first
            is the claim's picture.
        captions: File name of a figure → what is seen in it, in a sentence; where there is none
            the claim's statement stands there.
        curves: Title → results that the page lets its reader explore, see `claims.curves`.
    """

    verdict: Verdict
    effects: tuple[Effect, ...]
    summary: str
    ran: str = ""
    criterion: str = ""
    cause: Cause | None = None
    sensitivity: str = ""
    caveats: tuple[str, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict, compare=False)
    captions: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict, compare=False)
