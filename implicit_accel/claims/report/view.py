"""What a report says about claims, as plain values, for every template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_accel.claims.collection import Collection
from implicit_accel.claims.criteria import Direction, Judged, Size
from implicit_accel.claims.describe import where
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import ANSWERS, Entry, with_scores

FROM_MEMORY = "What is known from memory only"


@dataclass(frozen=True)
class Tally:
    """Outcomes of some claims, counted.

    Attributes:
        claims: Claims.
        whole: Those with the claimed direction in every part.
        replicated: Those that hold in direction and size.
        parts: Their parts.
        held: Parts as claimed,
        opposite: opposite,
        undecided: and undecided, in direction.
        sized: Parts with a claimed size.
        size_held: Those which have it.
        explained: Claims with a cause.
    """

    claims: int
    whole: int
    replicated: int
    parts: int
    held: int
    opposite: int
    undecided: int
    sized: int
    size_held: int
    explained: int

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Tally:
        """Counts."""
        findings = [entry.finding for entry in entries]
        parts = [judged for found in findings for judged in found.verdict.parts]
        directions = Counter(judged.direction for judged in parts)
        sizes = Counter(j.size for j in parts if j.size != Size.NOT_COMPARABLE)
        return cls(
            claims=len(entries),
            whole=sum(f.verdict.directions == {Direction.AS_CLAIMED} for f in findings),
            replicated=sum(f.verdict.holds for f in findings),
            parts=len(parts),
            held=directions[Direction.AS_CLAIMED],
            opposite=directions[Direction.OPPOSITE],
            undecided=directions[Direction.UNDECIDED],
            sized=sum(sizes.values()),
            size_held=sizes[Size.AS_CLAIMED],
            explained=sum(found.cause is not None for found in findings),
        )


def by_question(entries: Sequence[Entry], collection: Collection) -> dict[str, list[Entry]]:
    """The claims under the questions that they answer; claims of none come last.

    Args:
        entries: The claims, in the order that they keep within a question.
        collection: Says which answers what.
    """
    found: dict[str, list[Entry]] = {question: [] for question in collection.questions}
    for entry in entries:
        found.setdefault(collection.place(entry.claim)[0], []).append(entry)
    return {question: own for question, own in found.items() if own}


def columns(verdicts: bool) -> list[str]:
    """The columns of the overview."""
    return ["claim", "statement", *(ANSWERS if verdicts else ()), "effect [95 % interval]"]


def main_effect(entry: Entry) -> Effect | None:
    """The effect that a claim is about: the first that is judged, or else the first."""
    judged = [part.part.effect for part in entry.finding.verdict.parts]
    return next(iter((*judged, *entry.finding.effects)), None)


def headline(entry: Entry) -> str:
    """The effect that a claim is about, with its name; empty if it has none."""
    effect = main_effect(entry)
    return "" if effect is None else f"{effect.name}: {effect}"


ORIGIN = ("Source", "What we ran", "Criterion")
"""The sections that say what a claim is; the others, what was found."""


def sections(entry: Entry, verdicts: bool) -> dict[str, str]:
    """The text on a claim by its headings."""
    claim, finding = entry.claim, entry.finding
    judged = {
        "What we saw": finding.summary,
        "Why": "" if finding.cause is None else str(finding.cause),
        "Sensitive to": finding.sensitivity,
    }
    unjudged = {"Effects": "; ".join(f"{e.name}: {e}" for e in finding.effects)}
    origin = (claim.source, finding.ran, finding.criterion)
    found = dict(zip(ORIGIN, origin, strict=True)) | (judged if verdicts else unjudged)
    return {name: text for name, text in found.items() if text}


def caption(entry: Entry, figure: Path, verdicts: bool) -> str:
    """What is seen in a claim's figure, in a sentence."""
    if not verdicts:
        return f"{figure.stem.replace('_', ' ').capitalize()}: {headline(entry)}"
    return entry.finding.captions.get(figure.stem) or entry.claim.statement


def parts_table(parts: Sequence[Judged]) -> pd.DataFrame:
    """The parts of a criterion with their answers, a row each."""
    return pd.DataFrame(
        [
            {
                "part": judged.part.effect.name,
                "measured": str(judged.part.effect),
                "claimed": where(judged.part.claimed, judged.part.effect.unit),
                "direction": str(judged.direction),
                "claimed size": ""
                if judged.part.size is None
                else where(judged.part.size, judged.part.effect.unit),
                "size": "" if judged.part.size is None else str(judged.size),
            }
            for judged in parts
        ]
    )


def recollections(entries: Sequence[Entry], collection: Collection) -> pd.DataFrame | None:
    """What some of these claims take from memory, and what depends on it; None if nothing."""
    there = [entry.claim.id for entry in entries]
    rows = [
        {
            "fact": known.fact,
            "claims": ", ".join(i for i in there if i in known.claims),
            "what depends on it": known.hinges,
        }
        for known in collection.recollections
        if set(known.claims) & set(there)
    ]
    return pd.DataFrame(rows) if rows else None


def shown(value: object) -> str:
    """A table's cell as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")
    return "" if value is None else str(value)


def rows(table: pd.DataFrame) -> list[list[str]]:
    """A table's cells as text."""
    return [list(map(shown, row)) for row in table.to_numpy().tolist()]


# --- answers in a word, for tallies and filters ---


def _one_of(answers: set[str], none: str) -> str:
    """The answer that all parts have; "partly as claimed" or "mixed" where they differ."""
    if not answers:
        return none
    if len(answers) == 1:
        return next(iter(answers))
    return "partly as claimed" if Direction.AS_CLAIMED.value in answers else "mixed"


def _direction(entry: Entry) -> str:
    return _one_of({j.direction.value for j in entry.finding.verdict.parts}, "not tested")


def _size(entry: Entry) -> str:
    sizes = {j.size.value for j in entry.finding.verdict.parts}
    return _one_of(sizes - {Size.NOT_COMPARABLE.value}, "none claimed")


def _cause(entry: Entry) -> str:
    if entry.finding.cause is not None:
        return "explained"
    return entry.answers[2] or "nothing to explain"


KINDS: Mapping[str, Callable[[Entry], str]] = {
    "direction": _direction,
    "size": _size,
    "cause": _cause,
}
"""Answers in a word, by what is asked."""

TONES = {
    Direction.AS_CLAIMED.value: "held",
    "explained": "known",
    "partly as claimed": "mixed",
    "mixed": "mixed",
    Size.SMALLER.value: "failed",
    Size.LARGER.value: "mixed",
    Direction.OPPOSITE.value: "failed",
    Direction.UNDECIDED.value: "open",
    "unexplained": "open",
    "none claimed": "none",
    "nothing to explain": "none",
    "not tested": "none",
}
"""How each answer is coloured, in the order of a tally."""


def claim_view(
    entry: Entry, entries: Sequence[Entry], collection: Collection, verdicts: bool
) -> dict[str, Any]:
    """All that is said about a claim, for a template.

    Args:
        entry: The claim.
        entries: All claims of the report.
        collection: That they are of.
        verdicts: Whether it judges.
    """
    claim, finding = entry.claim, entry.finding
    kinds = {name: kind(entry) for name, kind in KINDS.items()} if verdicts else {}
    direction, size, cause = entry.answers
    answers = dict(zip(ANSWERS, (direction, size, cause), strict=True)) if verdicts else {}
    effect = main_effect(entry)
    note = "" if effect is None or not effect.note else f"; {effect.note}"
    return {
        "id": claim.id,
        "statement": claim.statement,
        "answers": answers,
        "tones": {name: TONES[kind] for name, kind in kinds.items()},
        "kinds": kinds | {"source": collection.made_by(claim), "topic": collection.place(claim)[1]},
        "cause_with_scores": with_scores(cause, entries) if verdicts else "",
        "headline": headline(entry),
        "number": "" if effect is None else str(effect),
        "number_is": "" if effect is None else effect.name + note,
        "why": "" if finding.cause is None or not verdicts else finding.cause.why,
        "explained_by": () if finding.cause is None or not verdicts else finding.cause.claims,
        "sections": sections(entry, verdicts),
        "caveats": finding.caveats,
        "parts": parts_table(finding.verdict.parts) if verdicts else pd.DataFrame(),
        "tables": dict(finding.tables),
        "figures": [(path, caption(entry, path, verdicts)) for path in entry.figures],
    }
