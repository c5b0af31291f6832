"""What the article's text takes from the findings, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import implicit_accel
from implicit_accel import intervals
from implicit_accel.claims.api import Claim
from implicit_accel.claims.collection import Collection
from implicit_accel.claims.context import Scale
from implicit_accel.claims.criteria import Direction, Judged, Size
from implicit_accel.claims.describe import where
from implicit_accel.claims.effects import Kind
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.report import view
from implicit_accel.claims.report.story import ANSWER, chapters_of
from implicit_accel.errors import DataError

_LONGEST = 20_000


def check(scale: str, entries: Sequence[Entry], claims: Sequence[Claim], folder: Path) -> None:
    """Makes sure that an article can be written.

    Args:
        scale: Of the reproduction.
        entries: Its claims.
        claims: All that the article covers.
        folder: The reproduction's, for messages.

    Raises:
        DataError: If the scale gives no verdicts, or claims are missing.
    """
    scales = [s.value for s in Scale if s.has_verdicts]
    if scale not in scales:
        raise DataError(
            f"{folder}: made at scale {scale[:40]!r}, which has no verdicts to write of; "
            f"an article needs {' or '.join(scales)}: python -m experiments.reproduce"
        )
    there = {entry.claim.id for entry in entries}
    missing = [claim.id for claim in claims if claim.id not in there]
    if missing:
        asked = "" if scale == Scale.STANDARD else f" --scale {scale}"
        raise DataError(
            f"{folder}: no finding on {', '.join(missing)}; an article covers all claims. Make "
            f"them: python -m experiments.reproduce --claims {','.join(missing)}{asked} "
            f"--output_dir {folder}"
        )


def fill(scale: str, entries: Sequence[Entry], collection: Collection) -> dict[str, Any]:
    """The data of an article: strings, and lists and dictionaries of them.

    Args:
        scale: Of the reproduction.
        entries: Its claims, in order.
        collection: That they are of.

    Returns:
        What ``article.json`` holds.
    """
    designs = [effect.design for entry in entries for effect in entry.finding.effects]
    seeds = [design.seeds for design in designs if design.kind != Kind.VALUE] or [1]
    groups = {k: [e for e in entries if e.claim.id.startswith(k)] for k in collection.sources}
    chapters = {
        chapter.heading: list(map(_text, chapter.paragraphs))
        for chapter in chapters_of(entries, collection.story)
    }
    return {
        "version": implicit_accel.__version__,
        "scale": _text(scale),
        "confidence": f"{100 * intervals.CONFIDENCE:g} %",
        "fewest": str(intervals.MIN_SEEDS),
        "most_diverged": f"{100 * intervals.MOST_DIVERGED:g} %",
        "minutes": f"{sum(entry.seconds for entry in entries) / 60:,.0f}",
        "fewest_seeds": str(min(seeds)),
        "most_seeds": str(max(seeds)),
        "answer": chapters.pop(ANSWER, []),
        "story": [{"heading": h, "paragraphs": words} for h, words in chapters.items()],
        "questions": [
            [question, [e.claim.id for e in own]]
            for question, own in view.by_question(entries, collection).items()
        ],
        "groups": [
            {
                "source": collection.sources[letter],
                "is_theory": all(e.claim.is_theory for e in own),
                "ids": [e.claim.id for e in own],
            }
            for letter, own in groups.items()
            if own
        ],
        "tally": {
            name: {kind: str(count) for kind, count in _counts(own).items()}
            for name, own in {"all": entries, **groups}.items()
        },
        "claims": {entry.claim.id: _claim(entry) for entry in entries},
        "remembered": [
            {"fact": known.fact, "claims": list(known.claims), "depends": known.hinges}
            for known in collection.recollections
        ],
    }


def _counts(entries: Sequence[Entry]) -> dict[str, int]:
    laws = sum(entry.claim.is_theory for entry in entries)
    return {"claims": len(entries) - laws, "laws": laws, **view.tally(entries)}


def _claim(entry: Entry) -> dict[str, Any]:
    claim, finding = entry.claim, entry.finding
    sections = view.sections(entry, verdicts=True)
    return {
        "statement": _text(claim.statement),
        "source": _text(claim.source),
        "ran": _text(sections.get("What we ran", "")),
        "criterion": _text(sections.get("Criterion", "")),
        "outcome": view.LAW if claim.is_theory else entry.answer.outcome.value,
        "answer": _text(claim.valid if claim.is_theory else entry.answer),
        "measured": _text(view.headline(entry)),
        "choices": _text(entry.answer.span_words),
        "evidence": _text(entry.evidence),
        "saw": _text(finding.summary),
        "why": "" if finding.cause is None else _text(finding.cause.why),
        "caveats": [_text(caveat) for caveat in finding.caveats],
        "parts": [_part(judged) for judged in finding.verdict.parts],
        "figures": [
            [f"{claim.id}/{path.name}", _text(finding.captions[path.stem])]
            for path in figures_of(entry)
        ],
    }


def figures_of(entry: Entry) -> list[Path]:
    """The figures of a claim that an article shows: those with a caption of their own.

    They are drawings where there are some, and pictures in a folder of published findings.
    """
    found = []
    for figure in entry.figures:
        for path in (figure.with_suffix(".pdf"), figure):
            if figure.stem in entry.finding.captions and path.is_file() and not path.is_symlink():
                found.append(path)
                break
    return found


def _part(judged: Judged) -> dict[str, Any]:
    part = judged.part
    unit = part.effect.unit
    return {
        "name": _text(part.effect.name),
        "text": _text(part.effect),
        "claimed": _text(where(part.claimed, unit)),
        "claimed_size": "" if part.size is None else _text(where(part.size, unit)),
        "direction": str(judged.direction),
        "size": str(judged.size),
        "holds": judged.direction == Direction.AS_CLAIMED
        and judged.size in (Size.AS_CLAIMED, Size.NOT_COMPARABLE),
    }


def _text(value: object) -> str:
    """Text for the article: what no printer has a sign for becomes U+FFFD, line ends a space."""
    words = " ".join(str(value).split("\n"))
    return "".join(c if c.isprintable() else "\ufffd" for c in words[:_LONGEST])
