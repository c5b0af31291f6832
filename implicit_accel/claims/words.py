"""What a report says of a claim, whatever form the report has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from implicit_accel.claims.findings import ANSWERS, Entry
from implicit_accel.claims.published.sources import RECOLLECTED

FROM_MEMORY = "What is known from memory only"

# Longer than this is no caption.
_LONGEST = 240


def columns(verdicts: bool) -> list[str]:
    """The columns of the overview."""
    return ["claim", "statement", *(ANSWERS if verdicts else ()), "effect [95 % interval]"]


def headline(entry: Entry) -> str:
    """The effect that a claim is about, with its name; empty if it has none."""
    effects = entry.finding.effects
    return f"{effects[0].name}: {effects[0]}" if effects else ""


def facts(entry: Entry, verdicts: bool) -> list[tuple[str, str]]:
    """(name, text) of what is said on a claim."""
    claim, finding = entry.claim, entry.finding
    judged = [
        ("What we saw", finding.summary),
        ("Why", "" if finding.cause is None else str(finding.cause)),
        ("Sensitive to", finding.sensitivity),
    ]
    unjudged = [("Effects", "; ".join(f"{e.name}: {e}" for e in finding.effects))]
    told = [
        ("Source", claim.source),
        ("What we ran", finding.ran or claim.setting),
        ("Criterion", finding.criterion or claim.criterion),
        *(judged if verdicts else unjudged),
    ]
    return [(name, text) for name, text in told if text]


def caption(entry: Entry, figure: Path, verdicts: bool) -> str:
    """What is seen in a claim's figure, in a sentence."""
    if not verdicts:
        return f"{figure.stem.replace('_', ' ').capitalize()}: {headline(entry)}"
    return entry.finding.captions.get(figure.stem) or first_sentence(entry.finding.summary)


def first_sentence(text: str) -> str:
    """A text's first sentence, or of a long one its first part."""
    found = re.match(r"(?:\(1\) )?(.+?[.!?])(?=\s+[^a-z]|$)", text.strip(), re.DOTALL)
    sentence = found[1] if found else text.strip()
    for mark in ("; ", ": "):
        if len(sentence) > _LONGEST and mark in sentence:
            sentence = sentence.split(mark)[0] + "."
    return sentence


def recollections(entries: Sequence[Entry]) -> pd.DataFrame | None:
    """What some of these claims take from memory, and what hinges on it; None if nothing."""
    there = [entry.claim.id for entry in entries]
    rows = [
        {
            "fact": known.fact,
            "claims": ", ".join(i for i in there if i in known.claims),
            "what hinges on it": known.hinges,
        }
        for known in RECOLLECTED
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
