"""The report's first page: Markdown with placeholders, filled in from the findings of all claims.

A section whose findings are not there, or did not come out as its sentences say, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from implicit_accel.claims.collection import Row
from implicit_accel.claims.criteria import Answer
from implicit_accel.claims.effects import Coordinate, Effect, matching
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.forest import Forest
from implicit_accel.claims.report.view import tally
from implicit_accel.claims.text import by_heading, fill_in

ANSWER = "The answer"

_FIGURE = re.compile(r"^!\[(?P<caption>[^]]*)\]\((?P<path>[^)]*)\)$", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """A section of the story.

    Attributes:
        heading: A question, or `ANSWER`.
        paragraphs: Text.
        figure: The bitmap that shows it; None without.
        caption: What the figure shows, in a sentence.
    """

    heading: str
    paragraphs: tuple[str, ...]
    figure: Path | None = None
    caption: str = ""


class _LeftOutError(Exception):
    """Ends a section: it needs what is not there."""


def chapters_of(entries: Sequence[Entry], story: str) -> tuple[Chapter, ...]:
    """The story, as far as some claims' findings fill it in.

    Args:
        entries: The claims of a report.
        story: The Markdown, see `Collection.story`.

    Returns:
        Its sections in order; none where a single one could be filled in.

    Raises:
        UserError: If a section cannot be filled in for a reason other than missing findings.
    """
    chapters = [
        chapter
        for heading, body in by_heading(story)
        if (chapter := _chapter(heading, body, entries)) is not None
    ]
    return tuple(chapters) if len(chapters) > 1 else ()


def _chapter(heading: str, body: str, entries: Sequence[Entry]) -> Chapter | None:
    found = {entry.claim.id: entry for entry in entries}

    def finding(claim: str) -> Entry:
        if claim not in found:
            raise _LeftOutError
        return found[claim]

    def effect(claim: str, measure: str, **at: Coordinate) -> Effect:
        for e in matching(finding(claim).finding.effects, measure, at):
            return e
        raise _LeftOutError

    def outcome(claim: str) -> Answer:
        return finding(claim).answer

    def only_if(condition: bool) -> str:
        if not condition:
            raise _LeftOutError
        return ""

    def why(claim: str) -> str:
        cause = finding(claim).finding.cause
        return "" if cause is None else cause.why

    names = {"effect": effect, "outcome": outcome, "only_if": only_if, "why": why,
             "has": found.__contains__, "tally": tally(entries),
             "claims": sum(not e.claim.is_theory for e in entries)}  # fmt: skip
    try:
        filled = fill_in(f"the section {heading!r} of the story", body, names)
    except _LeftOutError:
        return None
    shown = _FIGURE.search(filled)
    words = _FIGURE.sub("", filled)
    paragraphs = tuple(" ".join(p.split()) for p in re.split(r"\n\s*\n", words) if p.strip())
    if shown is None:
        return Chapter(heading, paragraphs)
    claim, _, name = shown["path"].partition("/")
    figures = finding(claim).figures if claim in found else ()
    figure = next((path for path in figures if path.stem == name), None)
    return Chapter(heading, paragraphs, figure, shown["caption"] if figure else "")


def picture(entries: Sequence[Entry], wanted: Sequence[Row]) -> tuple[Forest, tuple[str, ...]]:
    """The speed-ups that the answer is about.

    Args:
        entries: The claims of a report.
        wanted: The rows, see `Collection.picture`.

    Returns:
        The forest plot, and for each row the claim that measured it.
    """
    found = {entry.claim.id: entry.finding.effects for entry in entries}
    rows, claims = [], []
    for row in wanted:
        for effect in matching(found.get(row.claim, ()), row.measure, row.at)[:1]:
            shown = effect.inverse if row.is_slow_down else effect
            rows.append(replace(shown, name=row.name))
            claims.append(row.claim)
    title = "Depth's speed-up over one layer, each at its own best learning rate"
    return Forest({"": tuple(rows)}, title=title, xlabel="speed-up"), tuple(claims)
