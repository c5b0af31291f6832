"""The report on a set of claims, as Markdown and as one web page, from one set of templates.

The page opens with the answer, then all verdicts as a table to search, then the claims, by
question. Everything in it is there without scripts as well; whatever comes from claims and findings
is escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from implicit_accel.claims.collection import Collection
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.forest import Forest, forest_view
from implicit_accel.claims.report import view
from implicit_accel.claims.report.pictures import QUALITIES, Picture, Quality, picture
from implicit_accel.claims.report.story import ANSWER, chapters_of
from implicit_accel.claims.report.story import picture as answer_forest
from implicit_accel.files import atomic_path, printable_lines
from implicit_accel.pages.explorer import assets, explorer, read_asset, script_element
from implicit_accel.pages.shell import document

MARKDOWN_FILE = "REPORT.md"
PAGE_FILE = "report.html"

LIMIT = 4_000_000
"""Bytes that a page should stay below."""


def write_report(
    entries: Sequence[Entry],
    folder: Path,
    *,
    title: str,
    preamble: Sequence[str],
    collection: Collection,
    verdicts: bool = True,
) -> None:
    """Writes ``REPORT.md`` and ``report.html`` into a folder, atomically.

    Args:
        entries: The claims, in order.
        folder: The folder that the figures' folders are in.
        title: Of the report.
        preamble: Paragraphs that say what was run, when and on what.
        collection: That the claims are of.
        verdicts: Whether it judges. Without, it shows what ran and every effect, and none of the
            sentences that are about a verdict.
    """
    same = {
        "title": title, "preamble": preamble, "collection": collection, "verdicts": verdicts
    }  # fmt: skip
    text = markdown(entries, folder, **same)
    for name, content in ((MARKDOWN_FILE, text), (PAGE_FILE, page(entries, **same))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def markdown(
    entries: Sequence[Entry],
    folder: Path,
    *,
    title: str,
    preamble: Sequence[str],
    collection: Collection,
    verdicts: bool = True,
) -> str:
    """The report as Markdown, see `write_report`; figures by their paths below the folder."""
    return _overview(entries, folder, title, preamble, collection, verdicts=verdicts, split=False)


def markdown_pages(
    entries: Sequence[Entry],
    folder: Path,
    *,
    title: str,
    preamble: Sequence[str],
    collection: Collection,
) -> dict[str, str]:
    """The report as an overview and a page for each claim and law, for a site.

    Args:
        entries: The claims, in order, at a scale that has verdicts.
        folder: The folder that the figures' folders are in.
        title: Of the report.
        preamble: Paragraphs that say what was run, when and on what.
        collection: That the claims are of.

    Returns:
        Markdown by its path below the folder: ``REPORT.md``, ``P0/index.md``, …
    """
    ids = {entry.claim.id for entry in entries}
    pages = {MARKDOWN_FILE: _overview(entries, folder, title, preamble, collection, split=True)}
    for entry in entries:
        claim = view.claim_view(entry, collection, verdicts=True)
        pages[f"{entry.claim.id}/index.md"] = _filled(
            "claim_page.md", claim=claim, ids=ids, base=folder / entry.claim.id
        )
    return pages


def _overview(
    entries: Sequence[Entry],
    folder: Path,
    title: str,
    preamble: Sequence[str],
    collection: Collection,
    *,
    verdicts: bool = True,
    split: bool,
) -> str:
    """The report's first page, with all claims below the tables unless it is split."""
    return _filled(
        "report.md", title=title, preamble=preamble, verdicts=verdicts, split=split, base=folder,
        columns=view.COLUMNS if verdicts else view.EFFECT_COLUMNS, law_columns=view.LAW_COLUMNS,
        story=chapters_of(entries, collection.story) if verdicts else (),
        claims=[view.claim_view(entry, collection, verdicts) for entry in entries],
        recollected=view.recollections(entries, collection), from_memory=view.FROM_MEMORY,
    )  # fmt: skip


def _filled(template: str, **names: object) -> str:
    """A Markdown template, filled in; ``base`` is the folder that the text will be in."""
    filters = {
        "md": _text,
        "cell": _cell,
        "md_table": _markdown_table,
        "below": lambda path, base: path.relative_to(base).as_posix(),
    }
    filled = _environment(filters).get_template(template).render(names)
    return printable_lines(filled.rstrip() + "\n")


def _environment(filters: dict[str, Callable[..., Any]]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("implicit_accel.claims.report"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


def _text(value: object) -> str:
    """Text that Markdown shows as it is."""
    text = view.shown(value).replace("\\", "\\\\")
    for mark in "*_`<[":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")


def _cell(value: object) -> str:
    return _text(value).replace("|", "\\|")


def _markdown_table(table: pd.DataFrame) -> str:
    lines = [map(_cell, table.columns), ["---"] * len(table.columns)]
    lines += [map(_cell, row) for row in table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(
    entries: Sequence[Entry],
    *,
    title: str,
    preamble: Sequence[str],
    collection: Collection,
    verdicts: bool = True,
    limit: int = LIMIT,
) -> str:
    """The report as one web page.

    Args:
        entries: The claims, in order.
        title: Of the report.
        preamble: Paragraphs that say what was run, when and on what.
        collection: That the claims are of.
        verdicts: Whether it judges.
        limit: Bytes to stay below. Figures lose colours and resolution until it does, which the
            page says; nothing is left out, so that a page may be larger in the end.

    Returns:
        HTML.
    """
    text = ""
    for quality in QUALITIES:
        text = _page(entries, title, preamble, collection, verdicts, quality)
        if len(text.encode()) <= limit:
            break
    return text


def _page(
    entries: Sequence[Entry],
    title: str,
    preamble: Sequence[str],
    collection: Collection,
    verdicts: bool,
    quality: Quality,
) -> str:
    pictured: list[Path] = []

    def drawn(path: Path) -> Picture:
        pictured.append(path)
        return picture(path, quality)

    filters = {"picture": drawn, "rows": view.rows, "anchor": _anchor, "quoted": quote}
    claims = {entry.claim.id: _claim(entry, collection, verdicts) for entry in entries}
    groups = {
        question: [claims[entry.claim.id] for entry in own]
        for question, own in view.by_question(entries, collection).items()
    }
    chapters = chapters_of(entries, collection.story) if verdicts else ()
    forest, measured_by = answer_forest(entries, collection.picture)
    kinds = dict.fromkeys(name for claim in claims.values() for name in claim["kinds"])
    places = [
        *([("answer", ANSWER)] if verdicts and entries else []),
        ("verdicts", "All outcomes" if verdicts else "All effects"),
        *((f"question-{number}", question) for number, question in enumerate(groups, 1)),
        ("about", "About this report"),
    ]
    body = _environment(filters).get_template("page.html").render(
        title=title, preamble=preamble, verdicts=verdicts,
        columns=view.COLUMNS if verdicts else view.EFFECT_COLUMNS,
        claims=list(claims.values()), ids=set(claims), groups=groups, places=places,
        answer=next((c for c in chapters if c.heading == ANSWER), None),
        answer_forest=forest_view(forest, [f"#{_anchor(claim)}" for claim in measured_by])
        if measured_by
        else None,
        chapters=[chapter for chapter in chapters if chapter.heading != ANSWER],
        tally=_tally(list(claims.values())) if verdicts else {}, tones=view.TONES,
        choices={
            name: [v for v in dict.fromkeys(c["kinds"][name] for c in claims.values()) if v]
            for name in kinds
        },
        recollected=view.recollections(entries, collection), from_memory=view.FROM_MEMORY,
        is_pictured=lambda: bool(pictured), quality=quality,
    )  # fmt: skip
    is_explored = any(entry.curves for entry in entries)
    needed = assets() if is_explored else script_element(read_asset("state.js"))
    own = f"<style>{_asset('report.css')}</style>{script_element(_asset('report.js'))}"
    return document(title, body, assets=needed + own)


def _claim(entry: Entry, collection: Collection, verdicts: bool) -> dict[str, Any]:
    """A claim for the page's template."""
    claim = view.claim_view(entry, collection, verdicts)
    anchor, sections = _anchor(entry.claim.id), claim["sections"]
    return claim | {
        "saw": [(n, text) for n, text in sections.items() if n not in view.ORIGIN],
        "origin": [(n, text) for n, text in sections.items() if n in view.ORIGIN],
        "forests": {
            name: forest_view(
                forest,
                [
                    f"#{anchor}&of={quote(title, safe='')}" if title in entry.curves else ""
                    for title in forest.curves
                ],
            )
            for name, forest in entry.forests.items()
        },
        # HTML of the library's own, which has escaped what it was given.
        "explorer": _markup(explorer(anchor, entry.curves, command="", table=False))
        if entry.curves
        else "",
    }


def _markup(html: str) -> Any:
    return Markup(html)  # noqa: S704 - escaped by the explorer


def _tally(claims: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Outcomes with the numbers of claims, in the order of `view.TONES`."""
    outcomes = [claim["kinds"]["outcome"] for claim in claims]
    return {outcome: outcomes.count(outcome) for outcome in view.TONES if outcome in outcomes}


def forest_html(forest: Forest, links: Sequence[str] = ()) -> str:
    """A forest plot as a table of a page; whatever comes from effects is escaped."""
    template = _environment({}).get_template("forest.html")
    return str(template.module.forest_plot(forest_view(forest, links)))  # pyright: ignore


def _anchor(claim: str) -> str:
    """A claim's element, and the first word of the addresses of its states."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in claim) or "claim"


def _asset(name: str) -> str:
    """A style or a script of this page."""
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")
