"""The report on a set of claims, as Markdown and as one self-contained web page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from implicit_accel.experiments.claims.criteria import Direction, Size
from implicit_accel.experiments.claims.toolkit.findings import ANSWERS, Entry
from implicit_accel.experiments.claims.toolkit.sources import RECOLLECTED
from implicit_accel.experiments.claims.toolkit.story import Chapter, tell
from implicit_accel.files import atomic_path

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
            markdown(entries, folder, title=title, preamble=preamble, verdicts=verdicts),
        ),
        (PAGE_FILE, page(entries, title=title, preamble=preamble, verdicts=verdicts)),
    ):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def columns(verdicts: bool) -> list[str]:
    """The columns of the overview."""
    return ["claim", "statement", *(ANSWERS if verdicts else ()), "effect [95 % interval]"]


def headline(entry: Entry) -> str:
    """The effect that a claim is about, with its name; empty if it has none."""
    effects = entry.finding.effects
    return f"{effects[0].name}: {effects[0]}" if effects else ""


def _facts(entry: Entry, verdicts: bool) -> list[tuple[str, str]]:
    """(name, text) of what is said on a claim."""
    claim, finding = entry.claim, entry.finding
    judged = [
        ("What we saw", finding.summary),
        ("Why", "" if finding.cause is None else str(finding.cause)),
        ("Sensitive to", finding.sensitivity),
    ]
    unjudged = [("Effects", "; ".join(f"{e.name}: {e}" for e in finding.effects))]
    facts = [
        ("Source", claim.source),
        ("What we ran", claim.setting),
        ("Criterion", claim.criterion),
        *(judged if verdicts else unjudged),
    ]
    return [(name, text) for name, text in facts if text]


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
            shown = chapter.figure.relative_to(folder).as_posix()
            lines += [f"![{_text(chapter.caption)}]({shown})", ""]
    lines += [line for text in preamble for line in (text, "")]
    names = columns(verdicts)
    lines += ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for entry in entries:
        claim = entry.claim
        cells = [f"[{claim.id}](#{claim.id.lower()})", _cell(claim.statement)]
        cells += [f"**{_cell(a)}**" if a else "" for a in entry.answers] if verdicts else []
        lines += ["| " + " | ".join([*cells, _cell(headline(entry))]) + " |"]
    for entry in entries:
        lines += _markdown_section(entry, folder, verdicts)
    recollected = recollections(entries)
    if recollected is not None:
        lines += ["", f"## {_FROM_MEMORY}", ""]
        lines += _markdown_table(recollected)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_section(entry: Entry, folder: Path, verdicts: bool) -> list[str]:
    claim, finding = entry.claim, entry.finding
    lines = ["", f"## {claim.id}", "", f"**{_text(claim.statement)}**", ""]
    if verdicts:
        named = zip(ANSWERS, entry.answers, strict=True)
        lines += [" · ".join(f"{name}: **{_text(a)}**" for name, a in named if a), ""]
    for name, text in _facts(entry, verdicts):
        lines += [f"*{name}.* {_text(text)}", ""]
    lines += [f"* {_text(caveat)}" for caveat in finding.caveats]
    lines += [""] if finding.caveats else []
    for path in entry.figures:
        shown = path.relative_to(folder).as_posix()
        lines += [f"![{claim.id}: {path.stem.replace('_', ' ')}]({shown})", ""]
    for name, table in finding.tables.items():
        lines += [f"{_text(name)}:", "", *_markdown_table(table), ""]
    return lines


def _markdown_table(table: pd.DataFrame) -> list[str]:
    return [
        "| " + " | ".join(map(_cell, table.columns)) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in table.to_numpy().tolist()),
    ]


_FROM_MEMORY = "What is known from memory only"


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


def _text(value: object) -> str:
    """Text that Markdown shows as it is."""
    shown = _shown(value).replace("\\", "\\\\")
    for mark in "*_`<[":
        shown = shown.replace(mark, "\\" + mark)
    return shown.replace("\n", " ")


def _cell(value: object) -> str:
    return _text(value).replace("|", "\\|")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #57606a;
  --line: #d0d7de; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #9198a1;
  --line: #30363d; --card: #161b22; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.8rem, 4vw, 3rem); max-width: 76rem;
  font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { line-height: 1.2; } h2 { margin: 2.5rem 0 0.3rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem; }
a { color: inherit; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.7rem 0.35rem 0;
  border-bottom: 1px solid var(--line); }
.verdict { display: inline-block; white-space: nowrap; padding: 0 0.5em; border-radius: 1em;
  font-size: 0.88em; color: #fff; background: #57606a; }
.held { background: #116329; } .mixed { background: #7d4e00; } .failed { background: #a40e26; }
.known { background: #0b4f8a; }
.claim { display: grid; gap: 1.5rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 60rem) { .claim { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.chapter { display: grid; gap: 0.5rem 1.5rem; align-items: start; }
@media (min-width: 60rem) { .chapter { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }
.chapter h3 { margin: 0.8rem 0 0.2rem; } figcaption { font-size: 0.88rem; color: var(--soft); }
.number { font-size: 1.7rem; font-weight: 600; line-height: 1.2; overflow-wrap: anywhere; }
figure { margin: 0 0 1rem; } img { max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px; }
dt { font-weight: 600; margin-top: 0.6rem; } dd { margin: 0; }
@media (max-width: 40rem) { .overview thead { display: none; }
  .overview tr { display: grid; grid-template-columns: 3rem minmax(0, 1fr);
    border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
  .overview td { border: 0; padding: 0.1rem 0; grid-column: 2; }
  .overview td:first-child { grid-column: 1; grid-row: 1 / span 5; } }
details { margin: 0.8rem 0; } summary { cursor: pointer; }
"""


def page(
    entries: Sequence[Entry], *, title: str, preamble: Sequence[str], verdicts: bool = True
) -> str:
    """The report as one web page that needs no other file; whatever it shows is escaped."""
    head = "".join(f"<th>{name}</th>" for name in columns(verdicts))
    rows = "".join(_row(entry, verdicts) for entry in entries)
    sections = "".join(_section(entry, verdicts) for entry in entries)
    recollected = recollections(entries)
    memory = "" if recollected is None else f"<h2>{_FROM_MEMORY}</h2>{_table(recollected)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_safe(title)}</h1>"
        + "".join(map(_chapter, tell(entries) if verdicts else ()))
        + "".join(f'<p class="soft">{_safe(text)}</p>' for text in preamble)
        + f'<div class="scroll"><table class="overview"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f"{sections}{memory}</body></html>\n"
    )


def _chapter(chapter: Chapter) -> str:
    figure = "" if chapter.figure is None else _image(chapter.figure, chapter.caption)
    caption = f"<figcaption>{_safe(chapter.caption)}</figcaption>" if figure else ""
    sentences = _safe(" ".join(chapter.sentences))
    return (
        f'<section class="chapter"><div><h3>{_safe(chapter.question)}</h3><p>{sentences}</p></div>'
        + (f"<figure>{figure}{caption}</figure>" if figure else "")
        + "</section>"
    )


def _image(path: Path, words: str) -> str:
    """A figure's bytes as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{_attribute(words)}">'


def _row(entry: Entry, verdicts: bool) -> str:
    claim = entry.claim
    link = f'<a href="#{_attribute(claim.id)}">{_safe(claim.id)}</a>'
    cells = [link, _safe(claim.statement)]
    cells += _badges(entry) if verdicts else []
    cells += [_safe(headline(entry))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _section(entry: Entry, verdicts: bool) -> str:
    claim, finding = entry.claim, entry.finding
    number = ""
    if finding.effects:
        effect = finding.effects[0]
        number = (
            f'<div class="number">{_safe(effect)}</div><div class="soft">{_safe(effect.name)}'
            + (f"<br>{_safe(effect.note)}" if effect.note else "")
            + "</div>"
        )
    facts = "".join(
        f"<dt>{_safe(name)}</dt><dd>{_safe(text)}</dd>" for name, text in _facts(entry, verdicts)
    )
    caveats = "".join(f"<li>{_safe(caveat)}</li>" for caveat in finding.caveats)
    figures = "".join(
        f"<figure>{_image(path, f'{claim.id}: {path.stem.replace(chr(95), chr(32))}')}</figure>"
        for path in entry.figures
    )
    tables = "".join(
        f"<details><summary>{_safe(name)}</summary>{_table(table)}</details>"
        for name, table in finding.tables.items()
    )
    badge = " ".join(_badges(entry)) if verdicts else ""
    return (
        f'<h2 id="{_attribute(claim.id)}">{_safe(claim.id)} {badge}</h2>'
        f"<p><strong>{_safe(claim.statement)}</strong></p>"
        f'<div class="claim"><div>{number}<dl>{facts}</dl>'
        + (f"<ul>{caveats}</ul>" if caveats else "")
        + f"</div><div>{figures}</div></div>{tables}"
    )


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{_safe(c)}</th>" for c in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(_shown(v))}</td>" for v in row) + "</tr>"
        for row in table.to_numpy().tolist()
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _badges(entry: Entry) -> list[str]:
    """The three answers, coloured by how they stand to the claim."""
    verdict = entry.finding.verdict
    directions = {j.direction.value for j in verdict.parts}
    sizes = {j.size.value for j in verdict.parts} - {Size.NOT_COMPARABLE.value}
    tones = [_tone(directions), _tone(sizes), "known" if entry.finding.cause else ""]
    return [
        f'<span class="verdict {tone}">{_safe(text)}</span>' if text else ""
        for tone, text in zip(tones, entry.answers, strict=True)
    ]


def _tone(answers: set[str]) -> str:
    if answers == {Direction.AS_CLAIMED.value}:
        return "held"
    if not answers:
        return ""
    return "failed" if Direction.AS_CLAIMED.value not in answers and len(answers) == 1 else "mixed"


def _safe(value: object) -> str:
    return html.escape(str(value), quote=False)


def _attribute(value: str) -> str:
    return html.escape(value, quote=True)
