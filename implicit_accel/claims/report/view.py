"""What a report says about claims, as plain values, for every template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_accel.claims.collection import Collection
from implicit_accel.claims.criteria import Judged, Outcome
from implicit_accel.claims.describe import where
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import Entry

FROM_MEMORY = "What is known from memory only"


def tally(entries: Sequence[Entry]) -> dict[str, int]:
    """How many claims have each outcome; laws have none."""
    found = Counter(entry.answer.outcome for entry in entries if not entry.claim.is_theory)
    return {outcome.value: found[outcome] for outcome in Outcome}


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


EFFECT = "effect [95 % interval]"
COLUMNS = ("claim", "statement", "outcome", EFFECT, "over choices", "evidence")
LAW_COLUMNS = ("law", "statement", "error or ratio [95 % interval]", "where it holds")
EFFECT_COLUMNS = ("claim", "statement", EFFECT)
LAW = "law"
"""In the place of an outcome: a law has an error, and a range in which it holds."""


def main_effect(entry: Entry) -> Effect | None:
    """The effect that a claim is about: the primary one, or else the first."""
    if entry.primary is not None:
        return entry.primary.effect
    return next(iter(entry.finding.effects), None)


def headline(entry: Entry) -> str:
    """The effect that a claim is about, with its name; empty if it has none."""
    effect = main_effect(entry)
    return "" if effect is None else f"{effect.name}: {effect}"


def overview(entry: Entry) -> list[str]:
    """A claim's row under `COLUMNS`, a law's under `LAW_COLUMNS`."""
    claim, answer = entry.claim, entry.answer
    if claim.is_theory:
        return [claim.id, claim.statement, headline(entry), claim.valid]
    row = [claim.id, claim.statement, str(answer), headline(entry)]
    return [*row, answer.span_words, entry.evidence]


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


TONES = {
    Outcome.CONFIRMED.value: "held",
    Outcome.CONFIRMED_IF.value: "mixed",
    Outcome.CONTRADICTED.value: "failed",
    Outcome.INCONCLUSIVE.value: "open",
    Outcome.NOT_TESTABLE.value: "none",
    LAW: "known",
}
"""How each outcome is coloured, in the order of a tally."""


def choices_table(entry: Entry) -> pd.DataFrame:
    """The primary effect as chosen and by other choices, a row each; empty without others."""
    answer = entry.answer
    if answer.primary is None or not answer.choices:
        return pd.DataFrame()
    rows = [("as chosen", answer.primary, "")]
    rows += [(name, effect, str(where)) for name, effect, where in answer.choices]
    return pd.DataFrame(
        [{"choice": n, "measured": str(effect), "against the claim": w} for n, effect, w in rows]
    )


def claim_view(entry: Entry, collection: Collection, verdicts: bool) -> dict[str, Any]:
    """All that is said about a claim, for a template.

    Args:
        entry: The claim.
        collection: That it is of.
        verdicts: Whether it judges.
    """
    claim, finding, answer = entry.claim, entry.finding, entry.answer
    outcome = LAW if claim.is_theory else answer.outcome.value
    effect = main_effect(entry)
    note = "" if effect is None or not effect.note else f"; {effect.note}"
    kinds = {"outcome": outcome} if verdicts else {}
    return {
        "id": claim.id,
        "statement": claim.statement,
        "title": claim.statement.partition(". ")[0].removesuffix("."),
        "is_law": claim.is_theory,
        "outcome": (LAW if claim.is_theory else str(answer)) if verdicts else "",
        "tone": TONES[outcome],
        "kinds": kinds | {"source": collection.made_by(claim), "topic": collection.place(claim)[1]},
        "row": overview(entry),
        "headline": headline(entry),
        "number": "" if effect is None else str(effect),
        "number_is": "" if effect is None else effect.name + note,
        "over_choices": answer.span_words if verdicts else "",
        "evidence": entry.evidence,
        "valid": claim.valid,
        "why": "" if finding.cause is None or not verdicts else finding.cause.why,
        "explained_by": () if finding.cause is None or not verdicts else finding.cause.claims,
        "sections": sections(entry, verdicts),
        "caveats": finding.caveats,
        "choices": choices_table(entry) if verdicts else pd.DataFrame(),
        "parts": parts_table(finding.verdict.parts) if verdicts else pd.DataFrame(),
        "tables": dict(finding.tables),
        "figures": [(path, caption(entry, path, verdicts)) for path in entry.figures],
    }
