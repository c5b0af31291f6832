"""What a claim is written with: see ``docs/howto/writing_claims.md`` for one page on it.

A claim *runs* an experiment, *measures* effects on the runs, and *checks* where some of them lie.
What was run and the criterion are described from these, so that text and numbers cannot differ;
the remaining prose is Markdown, in ``text/<id>.md`` beside the claim's module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd

from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import CHOICES, Range
from implicit_accel.claims.effects import Coordinate, Effect, Key, matching
from implicit_accel.errors import UserError

T_co = TypeVar("T_co", covariant=True)

AS_CHOSEN = "as chosen"
"""The coordinate ``choice`` of a primary effect which is measured by other choices too."""

ID = re.compile(r"([A-Za-z]+)([0-9]+)([a-z]?)")
"""The form of a claim's id: letters, a number, and perhaps a small letter."""


@dataclass(frozen=True)
class Scaled(Generic[T_co]):
    """A setting that depends on how much is run, see ``Context.scale``."""

    smoke: T_co
    standard: T_co
    paper: T_co

    def at(self, context: Context) -> T_co:
        """The value at the context's scale."""
        return context.pick(self.smoke, self.standard, self.paper)


class First:
    """The coordinate ``problem`` of the first problem that was run, see ``FIRST``."""


FIRST = First()


@dataclass(frozen=True)
class Measure:
    """An effect for each combination of some coordinates.

    Attributes:
        name: What is measured, e.g. ``speed-up``; the key's ``Key.measure``.
        estimate: Called with the runs of a problem and the coordinates by name; returns the
            effect, see ``claims.estimators``, or None where it is not defined.
        over: Names and values of the coordinates, in the order of the effects. They may be scaled.
    """

    name: str
    estimate: Callable[..., Effect | None]
    over: Mapping[str, Sequence[Coordinate] | Scaled[Sequence[Coordinate]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Check:
    """Where effects of a measure should lie, with their intervals, if the claim is right.

    Attributes:
        measure: Its name.
        at: Coordinates of the effects that are checked; all effects of the measure if empty. Those
            by another choice (coordinate ``choice``, not "as chosen") only if it is among them.
        low: They lie above this,
        high: and below this;
        closed: or at them.
        size: The range of the size that is claimed; None if the claim names no size.
        why: The reason for the tolerance, a clause behind the range, if it needs one.
    """

    measure: str
    at: Mapping[str, Coordinate | First] = field(default_factory=dict)
    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    size: Range | None = None
    why: str = ""

    @property
    def claimed(self) -> Range:
        """Where the effects should lie."""
        return Range(self.low, self.high, self.closed)

    def chosen(self, effects: Sequence[Effect], first: str) -> list[Effect]:
        """The effects that it checks.

        Args:
            effects: All, with keys.
            first: The name of the first problem.
        """
        at: dict[str, Coordinate] = {
            name: first if isinstance(value, First) else value for name, value in self.at.items()
        }
        found = matching(effects, self.measure, at)
        if "choice" in at:
            return found
        return [e for e in found if e.key and dict(e.key.at).get("choice", AS_CHOSEN) == AS_CHOSEN]


@dataclass(frozen=True)
class Found:
    """What a claim's experiment returns.

    Attributes:
        runs: What measures are evaluated on, by the problem's name, the first problem first.
        effects: Effects with keys that are measured already, if any; they come before the others.
        facts: Further values that the claim's text uses, by name.
        tables: Title → data frame.
        figures: File name → matplotlib figure or ``Forest``; the first is the claim's picture.
        curves: Title → results that the page lets its reader explore, see ``claims.curves``.
    """

    runs: Mapping[str, Any] = field(default_factory=dict)
    effects: Sequence[Effect] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)


Plot = Callable[[Sequence[Effect]], Any]
"""Draws effects; returns a figure or a ``Forest``. See ``claims.plots``."""


@dataclass(frozen=True)
class Claim:
    """A claim, with the experiment that tests it.

    Attributes:
        id: As in the list of claims, e.g. ``P3b``; its module is named after it.
        statement: In our words.
        source: The publication, the place in it, and how well that is known.
        run: The experiment.
        measures: Evaluated on what it returns.
        checks: The criterion.
        plots: File name → plot of the effects, behind the experiment's own figures.
        explained_by: The claims of theory that explain what is seen, e.g. ``("T5",)``; the text
            says how, in its section *Why*.
        primary: The one effect that the claim is about, and where it should lie; the first that
            ``checks`` judge by default.
        is_theory: Whether it is a law of this project's: claims of others may be explained by it,
            and it has an error and a range of validity instead of an outcome.
        choices: Coordinates of the primary effect that are choices and not part of the claim, see
            ``criteria.answer``.
        exists: Whether it claims that something exists, so that a search without success
            contradicts nothing.
        untestable: Why it cannot be tested, if it cannot.
        condition: On what it is confirmed if some choices fail, in words: "the loss is ℓ4".
        is_read: Whether its source was read; otherwise it is remembered. None without a source
            beside this project.
        is_changed: Whether its criterion or grid was changed after a first look.
        valid: Of a law: where it holds, in a few words.
        text: The Markdown text, with placeholders, see ``claims.text``.
        minutes: About what it takes at standard scale on one core, after the claims that have
            results in common with it.
        paper_hours: About what the sources' full lengths take on 2 CPU cores: the time at standard
            scale times how many times more there is to train.

    Raises:
        UserError: If the id has another form, a text is empty, or a time is not above 0.
    """

    id: str
    statement: str
    source: str
    run: Callable[[Context], Found]
    measures: tuple[Measure, ...] = ()
    checks: tuple[Check, ...] = ()
    plots: Mapping[str, Plot] = field(default_factory=dict)
    explained_by: tuple[str, ...] = ()
    primary: Check | None = None
    is_theory: bool = False
    choices: tuple[str, ...] = CHOICES
    exists: bool = False
    untestable: str = ""
    condition: str = ""
    is_read: bool | None = True
    is_changed: bool = False
    valid: str = ""
    text: str = ""
    minutes: float = 1.0
    paper_hours: float = 1.0

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise UserError(
                f"claim {self.id!r}: an id is letters, a number and perhaps a small letter, like "
                "P3b"
            )
        for name in ("minutes", "paper_hours"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"claim {self.id}: {name} must be a number above 0")
        if not isinstance(self.plots, Mapping):
            raise UserError(f"claim {self.id}: plots must be a mapping from file names to plots")
        for name in ("statement", "source"):
            if not getattr(self, name).strip():
                raise UserError(f"claim {self.id}: {name} is empty")


__all__ = [
    "AS_CHOSEN", "FIRST", "ID", "Check", "Claim", "Context", "Effect", "Found", "Key", "Measure",
    "Plot", "Range", "Scaled",
]  # fmt: skip
