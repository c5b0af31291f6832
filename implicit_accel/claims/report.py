"""The report on a set of claims: as Markdown here, as a web page in `claims.page`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from implicit_accel.claims.findings import ANSWERS, Entry, with_scores
from implicit_accel.claims.page import page
from implicit_accel.claims.story import tell
from implicit_accel.claims.words import (
    FROM_MEMORY,
    columns,
    facts,
    headline,
    recollections,
    shown,
)
from implicit_accel.files import atomic_path, printable_lines

MARKDOWN_FILE = "REPORT.md"
PAGE_FILE = "report.html"


def write_report(
    entries: Sequence[Entry],
    folder: Path,
    *,
    title: str,
    preamble: Sequence[str],
    verdicts: bool = True,
) -> None:
    """Writes ``REPORT.md`` and ``report.html`` into a folder, atomically.

    Args:
        entries: The claims, in order.
        folder: The folder that the figures' folders are in.
        title: Of the report.
        preamble: Paragraphs that say what was run, when and on what.
        verdicts: Whether it judges. Without, it shows what ran and every effect, and none of the
            sentences that are about a verdict.
    """
    for name, text in (
        (
            MARKDOWN_FILE,
            printable_lines(
                markdown(entries, folder, title=title, preamble=preamble, verdicts=verdicts)
            ),
        ),
        (PAGE_FILE, page(entries, title=title, preamble=preamble, verdicts=verdicts)),
    ):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def markdown(
    entries: Sequence[Entry],
    folder: Path,
    *,
    title: str,
    preamble: Sequence[str],
    verdicts: bool = True,
) -> str:
    """The report as Markdown, see `write_report`; figures by their paths below the folder."""
    lines = [f"# {title}", ""]
    for chapter in tell(entries) if verdicts else ():
        lines += [f"**{_text(chapter.question)}** {_text(' '.join(chapter.sentences))}", ""]
        if chapter.figure is not None:
            path = chapter.figure.relative_to(folder).as_posix()
            lines += [f"![{_text(chapter.caption)}]({path})", ""]
    lines += [line for text in preamble for line in (text, "")]
    names = columns(verdicts)
    lines += ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for entry in entries:
        claim = entry.claim
        cells = [f"[{claim.id}](#{claim.id.lower()})", _cell(claim.statement)]
        direction, size, cause = entry.answers
        shown = (direction, size, with_scores(cause, entries)) if verdicts else ()
        cells += [f"**{_cell(a)}**" if a else "" for a in shown]
        lines += ["| " + " | ".join([*cells, _cell(headline(entry))]) + " |"]
    for entry in entries:
        lines += _markdown_section(entry, folder, verdicts)
    recollected = recollections(entries)
    if recollected is not None:
        lines += ["", f"## {FROM_MEMORY}", ""]
        lines += _markdown_table(recollected)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_section(entry: Entry, folder: Path, verdicts: bool) -> list[str]:
    claim, finding = entry.claim, entry.finding
    lines = ["", f"## {claim.id}", "", f"**{_text(claim.statement)}**", ""]
    if verdicts:
        named = zip(ANSWERS, entry.answers, strict=True)
        lines += [" · ".join(f"{name}: **{_text(a)}**" for name, a in named if a), ""]
    for name, text in facts(entry, verdicts):
        lines += [f"*{name}.* {_text(text)}", ""]
    lines += [f"* {_text(caveat)}" for caveat in finding.caveats]
    lines += [""] if finding.caveats else []
    for path in entry.figures:
        place = path.relative_to(folder).as_posix()
        lines += [f"![{claim.id}: {path.stem.replace('_', ' ')}]({place})", ""]
    for name, table in finding.tables.items():
        lines += [f"{_text(name)}:", "", *_markdown_table(table), ""]
    return lines


def _markdown_table(table: pd.DataFrame) -> list[str]:
    return [
        "| " + " | ".join(map(_cell, table.columns)) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in table.to_numpy().tolist()),
    ]


def _text(value: object) -> str:
    """Text that Markdown shows as it is."""
    text = shown(value).replace("\\", "\\\\")
    for mark in "*_`<[":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")


def _cell(value: object) -> str:
    return _text(value).replace("|", "\\|")
