"""The report as one web page that needs no other file.

It opens with the answer, then all verdicts as a table to search, then the claims, by question.
Everything in it is there without scripts as well; whatever comes from claims and findings is
escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from implicit_accel.claims import forest
from implicit_accel.claims.criteria import Direction, Judged, Range, Size
from implicit_accel.claims.findings import ANSWERS, Entry
from implicit_accel.claims.published.pictures import QUALITIES, Quality, picture
from implicit_accel.claims.questions import by_question, made_by, topic
from implicit_accel.claims.story import Chapter, answer, tell
from implicit_accel.claims.words import (
    FROM_MEMORY,
    caption,
    columns,
    facts,
    first_sentence,
    headline,
    recollections,
    shown,
)
from implicit_accel.pages.explorer import assets, explorer, read_asset, script_element
from implicit_accel.pages.shell import document

LIMIT = 4_000_000
"""Bytes that a page should stay below."""


def page(
    entries: Sequence[Entry],
    *,
    title: str,
    preamble: Sequence[str],
    verdicts: bool = True,
    limit: int = LIMIT,
) -> str:
    """The report as one web page.

    Args:
        entries: The claims, in order.
        title: Of the report.
        preamble: Paragraphs that say what was run, when and on what.
        verdicts: Whether it judges.
        limit: Bytes to stay below. Figures lose colours and resolution until it does, which the
            page says; nothing is left out, so that a page may be larger in the end.

    Returns:
        HTML.
    """
    text = ""
    for quality in QUALITIES:
        text = _Page(entries, verdicts, quality).document(title, preamble)
        if len(text.encode()) <= limit:
            break
    return text


class _Page:
    """A page whose figures have some quality."""

    def __init__(self, entries: Sequence[Entry], verdicts: bool, quality: Quality) -> None:
        self.entries = entries
        self.verdicts = verdicts
        self.quality = quality
        self.pictured = False

    def document(self, title: str, preamble: Sequence[str]) -> str:
        groups = by_question(self.entries)
        anchors = {question: f"question-{number}" for number, question in enumerate(groups, 1)}
        opening = self._opening() if self.verdicts else ""
        places = [
            *([("answer", "The answer")] if opening else []),
            ("verdicts", "All verdicts" if self.verdicts else "All effects"),
            *((anchors[question], question) for question in groups),
            ("about", "About this report"),
        ]
        links = "".join(f'<li><a href="#{a}">{escape(words)}</a></li>' for a, words in places)
        sections = "".join(
            f'<section id="{anchors[question]}"><h2>{escape(question)}</h2>'
            + "".join(map(self._claim, own))
            + "</section>"
            for question, own in groups.items()
        )
        body = (
            '<a class="skip" href="#verdicts">To the table of all claims</a>'
            f"<header><h1>{escape(title)}</h1></header>"
            f'<nav aria-label="Parts of the report"><ol>{links}</ol></nav>'
            f"{opening}{self._overview()}{sections}{self._about(preamble)}"
        )
        explored = any(entry.curves for entry in self.entries)
        needed = assets() if explored else script_element(read_asset("state.js"))
        own = f"<style>{_asset('report.css')}</style>{script_element(_asset('report.js'))}"
        return document(title, body, assets=needed + own)

    # --- the opening ---

    def _opening(self) -> str:
        if not self.entries:
            return ""
        found = answer(self.entries)
        told = ""
        if found is not None:
            sentences = "".join(f'<p class="answer">{escape(s)}</p>' for s in found.sentences)
            links = [f"#{_anchor(claim)}" for claim in found.claims]
            told = (
                f'<div class="opening"><div>{sentences}</div>'
                f"<figure>{forest.table(found.forest, links)}</figure></div>"
            )
        chapters = "".join(map(self._chapter, tell(self.entries)))
        story = (
            "<details><summary>The whole story, in five questions and four figures</summary>"
            f"{chapters}</details>"
            if chapters
            else ""
        )
        return (
            f'<section id="answer"><h2>The answer</h2>{told}'
            f"<h3>What became of {len(self.entries)} claims</h3>{self._tally()}{story}</section>"
        )

    def _tally(self) -> str:
        """A bar for each of the three answers; its parts lead to the claims that they count."""
        bars = []
        for name in ANSWERS:
            answers = [kind(entry) for entry in self.entries if (kind := _KINDS[name])(entry)]
            parts = [(k, answers.count(k)) for k in _TONES if k in answers]
            shares = "".join(
                f'<a class="{_TONES[k]}" style="flex-grow:{n}" '
                f'href="#verdicts&amp;{name}={k.replace(" ", "%20")}">'
                f"<strong>{n}</strong> {k}</a>"
                for k, n in parts
            )
            bars.append(f'<dt>{name.capitalize()}</dt><dd class="bar">{shares}</dd>')
        return f'<dl class="tally">{"".join(bars)}</dl>'

    def _chapter(self, chapter: Chapter) -> str:
        sentences = escape(" ".join(chapter.sentences))
        figure = "" if chapter.figure is None else self._image(chapter.figure, chapter.caption)
        return (
            f'<div class="chapter"><div><h4>{escape(chapter.question)}</h4><p>{sentences}</p></div>'
            f"{figure}</div>"
        )

    # --- the table ---

    def _overview(self) -> str:
        names = columns(self.verdicts)
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        rows = "".join(map(self._row, self.entries))
        heading = "All verdicts" if self.verdicts else "All effects"
        kinds: dict[str, Callable[[Entry], str]] = dict(_KINDS) if self.verdicts else {}
        kinds |= {"source": made_by, "topic": topic}
        choices = "".join(self._choice(name, kind) for name, kind in kinds.items())
        return (
            f'<section id="verdicts"><h2>{heading}</h2>'
            '<form class="filters scripted" aria-label="Which claims the table shows">'
            f'{choices}<div><label for="filter-words">words</label>'
            '<input id="filter-words" type="search" name="words" autocomplete="off"></div>'
            '<button type="reset">Show all</button>'
            '<button type="button" data-csv="verdicts.csv">Download as CSV</button>'
            '<p role="status"></p></form>'
            f'<table class="overview" data-sortable><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></section>"
        )

    def _choice(self, name: str, kind: Callable[[Entry], str]) -> str:
        values = dict.fromkeys(filter(None, map(kind, self.entries)))
        options = "".join(f"<option>{escape(value)}</option>" for value in values)
        return (
            f'<div><label for="filter-{name}">{name}</label>'
            f'<select id="filter-{name}" name="{name}"><option value="">all</option>{options}'
            "</select></div>"
        )

    def _row(self, entry: Entry) -> str:
        kinds = {name: kind(entry) for name, kind in _KINDS.items()} if self.verdicts else {}
        kinds |= {"source": made_by(entry), "topic": topic(entry)}
        marks = "".join(f' data-{name}="{escape(value)}"' for name, value in kinds.items())
        claim = entry.claim
        names = columns(self.verdicts)
        answers = entry.answers if self.verdicts else ()
        texts = [escape(claim.statement), *map(_badge, answers, _tones(entry))]
        cells = zip(names[1:], [*texts, escape(headline(entry))], strict=True)
        link = f'<a href="#{_anchor(claim.id)}">{escape(claim.id)}</a>'
        return (
            f'<tr{marks}><th scope="row">{link}</th>'
            + "".join(f'<td data-label="{escape(n)}">{cell}</td>' for n, cell in cells)
            + "</tr>"
        )

    # --- a claim ---

    def _claim(self, entry: Entry) -> str:
        claim = entry.claim
        anchor = _anchor(claim.id)
        return (
            f'<article class="claim" id="{anchor}" aria-labelledby="{anchor}-title">'
            f'<h3 id="{anchor}-title"><a href="#{anchor}" aria-label="Link to claim '
            f'{escape(claim.id)}">{escape(claim.id)}</a> {escape(claim.statement)}</h3>'
            f"{self._lead(entry)}{self._figures(entry)}{self._explorer(entry)}"
            f"{self._folded(entry)}</article>"
        )

    def _lead(self, entry: Entry) -> str:
        """The answers, the number and the reason."""
        finding = entry.finding
        lines = []
        if self.verdicts:
            named = zip(ANSWERS, entry.answers, _tones(entry), strict=True)
            lines.append(
                '<p class="answers">'
                + " ".join(f"<span>{n} {_badge(a, tone)}</span>" for n, a, tone in named if a)
                + "</p>"
            )
        if finding.effects:
            effect = finding.effects[0]
            note = f"; {effect.note}" if effect.note else ""
            lines.append(
                f'<p><span class="number">{escape(str(effect))}</span> '
                f'<span class="soft">{escape(effect.name + note)}</span></p>'
            )
        if self.verdicts and finding.cause is not None:
            shown_by = ", ".join(map(self._link, finding.cause.claims))
            why = escape(first_sentence(finding.cause.why))
            lines.append(f'<p class="why"><strong>Why:</strong> {why} ({shown_by})</p>')
        return f'<div class="lead">{"".join(lines)}</div>'

    def _link(self, claim: str) -> str:
        """A claim's name, as a link if the claim is here."""
        there = any(claim == entry.claim.id for entry in self.entries)
        return f'<a href="#{_anchor(claim)}">{escape(claim)}</a>' if there else escape(claim)

    def _figures(self, entry: Entry) -> str:
        drawn = "".join(self._figure(entry, path) for path in entry.figures)
        return f'<div class="pictures">{drawn}</div>' if drawn else ""

    def _figure(self, entry: Entry, path: Path) -> str:
        rows = entry.forests.get(path.stem)
        if rows is not None:
            key = f"#{_anchor(entry.claim.id)}"
            links = [
                f"{key}&of={_quoted(title)}" if title in entry.curves else ""
                for title in rows.curves
            ]
            return f'<figure class="wide">{forest.table(rows, links)}</figure>'
        return self._image(path, caption(entry, path, self.verdicts))

    def _image(self, path: Path, caption: str) -> str:
        drawn = picture(path, self.quality)
        self.pictured = True
        words = escape(caption)
        wide = ' class="wide"' if drawn.width > _WIDE * drawn.height else ""
        return (
            f'<figure{wide}><img src="{drawn.address}" alt="{words}" width="{drawn.width}" '
            f'height="{drawn.height}"><figcaption>{words}</figcaption></figure>'
        )

    def _explorer(self, entry: Entry) -> str:
        if not entry.curves:
            return ""
        return explorer(_anchor(entry.claim.id), entry.curves, command="", table=False)

    def _folded(self, entry: Entry) -> str:
        """What a reader unfolds: all that was said, run, judged and tabulated."""
        finding = entry.finding
        told = dict(facts(entry, self.verdicts))
        saw = {name: told[name] for name in told if name not in _ORIGIN}
        origin = {name: told[name] for name in _ORIGIN}
        caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in finding.caveats)
        parts = [
            ("What we saw", _list(saw)),
            ("Source, setting and criterion", _list(origin)),
            ("How it was judged", _judged(finding.verdict.parts) if self.verdicts else ""),
            ("Caveats", f"<ul>{caveats}</ul>" if caveats else ""),
            *((name, _table(table, name)) for name, table in finding.tables.items()),
        ]
        command = f"python -m experiments.reproduce --claims {entry.claim.id}"
        return (
            "".join(
                f"<details><summary>{escape(name)}</summary>{content}</details>"
                for name, content in parts
                if content
            )
            + f'<p class="again"><code>{escape(command)}</code> '
            f'<button class="scripted" type="button" data-copy="{escape(command)}" '
            f'aria-label="Copy the command of claim {escape(entry.claim.id)}">Copy</button></p>'
        )

    # --- the end ---

    def _about(self, preamble: Sequence[str]) -> str:
        said = [*preamble, str(self.quality)] if self.pictured else preamble
        recollected = recollections(self.entries)
        memory = (
            ""
            if recollected is None
            else f"<h3>{FROM_MEMORY}</h3>{_table(recollected, FROM_MEMORY)}"
        )
        return (
            '<section id="about"><h2>About this report</h2>'
            + "".join(f"<p>{escape(text)}</p>" for text in said)
            + f"{memory}</section>"
        )


_ORIGIN = ("Source", "What we ran", "Criterion")

# Width over height from which a figure takes the page's whole width.
_WIDE = 1.7


def _asset(name: str) -> str:
    """A style or a script of this page."""
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")


def _anchor(claim: str) -> str:
    """A claim's element, and the first word of the addresses of its states."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in claim) or "claim"


def _list(texts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in texts.items())
    return f"<dl>{items}</dl>" if items else ""


def _table(table: pd.DataFrame, name: str) -> str:
    head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(shown(v))}</td>" for v in row) + "</tr>"
        for row in table.to_numpy().tolist()
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _judged(parts: Sequence[Judged]) -> str:
    rows = [
        {
            "part": judged.part.effect.name,
            "measured": str(judged.part.effect),
            "claimed": _range(judged.part.claimed),
            "direction": str(judged.direction),
            "claimed size": "" if judged.part.size is None else _range(judged.part.size),
            "size": "" if judged.part.size is None else str(judged.size),
        }
        for judged in parts
    ]
    return _table(pd.DataFrame(rows), "How it was judged") if rows else ""


def _range(where: Range) -> str:
    if where.low == -float("inf"):
        return f"below {where.high:g}"
    if where.high == float("inf"):
        return f"above {where.low:g}"
    return f"{where.low:g} to {where.high:g}"


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


_KINDS: dict[str, Callable[[Entry], str]] = {
    "direction": _direction,
    "size": _size,
    "cause": _cause,
}

# How each answer is coloured, in the order of a tally.
_TONES = {
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


def _tones(entry: Entry) -> list[str]:
    return [_TONES[kind(entry)] for kind in _KINDS.values()]


def _badge(text: str, tone: str) -> str:
    return f'<span class="verdict {tone}">{escape(text)}</span>' if text else ""


def _quoted(text: str) -> str:
    """Text in an address's state."""
    return quote(text, safe="")
