"""The report on a set of claims, as Markdown and as one self-contained web page."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.claims.criteria import Claim, Effect, Finding, Verdict
from implicit_accel.errors import DataError
from implicit_accel.files import atomic_path
from implicit_accel.results import save_json

FINDING_FILE = "finding.json"
MARKDOWN_FILE = "REPORT.md"
PAGE_FILE = "report.html"

_FORMAT = "implicit_accel finding 2"
_BITMAP_DPI = 110

_NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class Entry:
    """A claim with what was found, as the report shows it.

    Attributes:
        claim: The claim.
        finding: What was found; its figures are not kept here.
        figures: Files of the figures, the first beside the number.
        seconds: What the experiment took when its results were made.
    """

    claim: Claim
    finding: Finding
    figures: tuple[Path, ...]
    seconds: float


def save_finding(claim: Claim, finding: Finding, folder: Path, scale: str, seconds: float) -> Entry:
    """Writes a claim's figures (PNG and PDF), tables (CSV) and finding into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for name, figure in finding.figures.items():
        assert isinstance(figure, Figure)
        for extension in ("png", "pdf"):
            path = folder / f"{name}.{extension}"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=_BITMAP_DPI, format=extension)
        figures.append(folder / f"{name}.png")
    for title, table in finding.tables.items():
        with atomic_path(folder / f"{_file_name(title)}.csv") as temporary:
            table.to_csv(temporary, index=False)
    stored = {
        "format": _FORMAT,
        "claim": claim.id,
        "scale": scale,
        "seconds": seconds,
        "verdict": finding.verdict.value,
        "effects": [_finite(asdict(effect)) for effect in finding.effects],
        "summary": finding.summary,
        "explained": finding.explained,
        "sensitivity": finding.sensitivity,
        "caveats": list(finding.caveats),
        "tables": {title: _json_table(table) for title, table in finding.tables.items()},
        "figures": [path.name for path in figures],
    }
    save_json(stored, folder / FINDING_FILE)
    return Entry(claim, finding, tuple(figures), seconds)


def load_finding(claim: Claim, folder: Path, scale: str) -> Entry | None:
    """Reads what `save_finding` wrote at this scale; None if there is nothing.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / FINDING_FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        if stored["format"] != _FORMAT or stored["scale"] != scale or stored["claim"] != claim.id:
            return None
        finding = Finding(
            verdict=Verdict(stored["verdict"]),
            effects=tuple(
                Effect(
                    str(effect["name"]),
                    *(math.nan if effect[k] is None else float(effect[k]) for k in _NUMBERS),
                    unit=str(effect["unit"]),
                    note=str(effect["note"]),
                )
                for effect in stored["effects"]
            ),
            summary=str(stored["summary"]),
            explained=str(stored["explained"]),
            sensitivity=str(stored["sensitivity"]),
            caveats=tuple(map(str, stored["caveats"])),
            tables={
                str(title): pd.DataFrame(table["data"], columns=table["columns"]).replace(
                    {"inf": math.inf, "-inf": -math.inf}
                )
                for title, table in stored["tables"].items()
            },
        )
        figures = [folder / Path(str(name)).name for name in stored["figures"]]
        seconds = float(stored["seconds"])
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds} seconds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); run the claim again") from None
    # The page carries the figures' bytes: a link might bring in a file that is none of them.
    plain = tuple(f for f in figures if f.is_file() and not f.is_symlink())
    return Entry(claim, finding, plain, seconds)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: None stands for NaN, a text for infinity."""
    return {k: _json_number(v) if isinstance(v, float) else v for k, v in values.items()}


def _json_number(value: float) -> float | str | None:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if math.isnan(value) else value


def _json_table(table: pd.DataFrame) -> dict[str, Any]:
    rows = [
        [_json_number(v) if isinstance(v, float) else v for v in row]
        for row in table.to_numpy().tolist()
    ]
    return {"columns": list(map(str, table.columns)), "data": rows}


def _file_name(title: str) -> str:
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split()
    return "_".join(words)


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


def headline(entry: Entry) -> str:
    """The effect that a claim is about, with its name; empty if it has none."""
    effects = entry.finding.effects
    return f"{effects[0].name}: {effects[0]}" if effects else ""


def _facts(entry: Entry, verdicts: bool) -> list[tuple[str, str]]:
    """(name, text) of what is said on a claim."""
    claim, finding = entry.claim, entry.finding
    judged = [
        ("What we saw", finding.summary),
        ("Explained by", finding.explained),
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
    lines = [f"# {title}", "", *(line for text in preamble for line in (text, ""))]
    columns = ["claim", "statement", *(["verdict"] if verdicts else []), "effect [95 % interval]"]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for entry in entries:
        claim = entry.claim
        cells = [f"[{claim.id}](#{claim.id.lower()})", _cell(claim.statement)]
        cells += [f"**{entry.finding.verdict.value}**"] if verdicts else []
        lines += ["| " + " | ".join([*cells, _cell(headline(entry))]) + " |"]
    for entry in entries:
        lines += _markdown_section(entry, folder, verdicts)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_section(entry: Entry, folder: Path, verdicts: bool) -> list[str]:
    claim, finding = entry.claim, entry.finding
    lines = ["", f"## {claim.id}", "", f"**{_text(claim.statement)}**", ""]
    lines += [f"Verdict: **{finding.verdict.value}**.", ""] if verdicts else []
    for name, text in _facts(entry, verdicts):
        lines += [f"*{name}.* {_text(text)}", ""]
    lines += [f"* {_text(caveat)}" for caveat in finding.caveats]
    lines += [""] if finding.caveats else []
    for path in entry.figures:
        shown = path.relative_to(folder).as_posix()
        lines += [f"![{claim.id}: {path.stem.replace('_', ' ')}]({shown})", ""]
    for name, table in finding.tables.items():
        lines += [f"{_text(name)}:", ""]
        lines += ["| " + " | ".join(map(_cell, table.columns)) + " |"]
        lines += ["|" + " --- |" * len(table.columns)]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.to_numpy().tolist()]
        lines += [""]
    return lines


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
.reproduced { background: #116329; } .partly { background: #7d4e00; }
.not-reproduced { background: #a40e26; }
.claim { display: grid; gap: 1.5rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 60rem) { .claim { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.number { font-size: 1.7rem; font-weight: 600; line-height: 1.2; overflow-wrap: anywhere; }
figure { margin: 0 0 1rem; } img { max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px; }
dt { font-weight: 600; margin-top: 0.6rem; } dd { margin: 0; }
@media (max-width: 40rem) { .overview thead { display: none; }
  .overview tr { display: grid; grid-template-columns: 3rem minmax(0, 1fr);
    border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
  .overview td { border: 0; padding: 0.1rem 0; grid-column: 2; }
  .overview td:first-child { grid-column: 1; grid-row: 1 / span 3; } }
details { margin: 0.8rem 0; } summary { cursor: pointer; }
"""


def page(
    entries: Sequence[Entry], *, title: str, preamble: Sequence[str], verdicts: bool = True
) -> str:
    """The report as one web page that needs no other file; whatever it shows is escaped."""
    columns = ["claim", "statement", *(["verdict"] if verdicts else []), "effect [95 % interval]"]
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(_row(entry, verdicts) for entry in entries)
    sections = "".join(_section(entry, verdicts) for entry in entries)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_safe(title)}</h1>"
        + "".join(f'<p class="soft">{_safe(text)}</p>' for text in preamble)
        + f'<div class="scroll"><table class="overview"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f"{sections}</body></html>\n"
    )


def _row(entry: Entry, verdicts: bool) -> str:
    claim = entry.claim
    link = f'<a href="#{_attribute(claim.id)}">{_safe(claim.id)}</a>'
    cells = [link, _safe(claim.statement)]
    cells += [_badge(entry.finding.verdict)] if verdicts else []
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
        f'<figure><img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" '
        f'alt="{_attribute(claim.id)}: {_attribute(path.stem.replace("_", " "))}"></figure>'
        for path in entry.figures
    )
    tables = "".join(
        f"<details><summary>{_safe(name)}</summary>{_table(table)}</details>"
        for name, table in finding.tables.items()
    )
    badge = _badge(finding.verdict) if verdicts else ""
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


def _badge(verdict: Verdict) -> str:
    name = verdict.value
    return f'<span class="verdict {_attribute(name.replace(" ", "-"))}">{_safe(name)}</span>'


def _safe(value: object) -> str:
    return html.escape(str(value), quote=False)


def _attribute(value: str) -> str:
    return html.escape(value, quote=True)
