"""The page of a comparison: what differs between runs, their models side by side, and figures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby

import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.pages import shell
from implicit_accel.pages.explorer import safe

# As sharp as the figures of a sweep's page, at a tenth of a megabyte each.
_DPI = 110


def page(
    shown: pd.DataFrame,
    *,
    title: str,
    rule: str,
    differing: pd.DataFrame | None,
    answers: Mapping[str, Sequence[str]],
    notes: Mapping[str, str],
    figures: Mapping[str, Figure],
    command: str,
) -> str:
    """A web page of a comparison that needs no other file.

    Args:
        shown: The models side by side, as text: a model's rows below each other, and the model and
            the run in the first two columns.
        title: Of the page.
        rule: What the table shows, in a sentence.
        differing: What differs between the runs' settings, see `comparison.differences`; None for
            a single run.
        answers: The answer of each run, in sentences, by the run's name.
        notes: What each run's row rests on, see `summary.caption`.
        figures: By their captions.
        command: What makes the page, for the reader to copy.

    Returns:
        HTML; whatever comes from runs is escaped.
    """
    said = "".join(
        f'<p class="answer"><strong>{safe(run)}</strong>: {safe(" ".join(sentences))}</p>'
        for run, sentences in answers.items()
        if sentences
    )
    rows = shown.astype(str).to_numpy().tolist()
    # A model is named once, for all of its runs.
    groups = [list(rows_of) for _, rows_of in groupby(rows, key=lambda row: row[0])]
    models = "".join(_group(group) for group in groups)
    body = (
        f"<h1>{safe(title)}</h1>{said}"
        f"<h2>Models side by side</h2>{_table(shown.columns, models, rule)}"
        + "".join(f'<p class="soft">{safe(run)}: {safe(text)}</p>' for run, text in notes.items())
        + ("" if differing is None else _differences(differing))
        + (f"<h2>Figures</h2>{''.join(map(_figure, figures.items()))}" if figures else "")
        + f'<h2>Command</h2><pre tabindex="0">{safe(command)}</pre>'
    )
    return shell.document(title, body)


def _group(rows: Sequence[Sequence[str]]) -> str:
    """The rows of one model."""
    model = f'<th scope="rowgroup" rowspan="{len(rows)}">{safe(rows[0][0])}</th>'
    lines = [
        f'<th scope="row">{safe(run)}</th>' + "".join(f"<td>{safe(cell)}</td>" for cell in cells)
        for _, run, *cells in rows
    ]
    return f"<tbody><tr>{model}{'</tr><tr>'.join(lines)}</tr></tbody>"


def _differences(differing: pd.DataFrame) -> str:
    heading = "<h2>What differs between the runs</h2>"
    if differing.empty:
        return f"{heading}<p>The runs' settings are the same.</p>"
    rows = "".join(
        f'<tr><th scope="row">{safe(setting)}</th>'
        + "".join(f"<td>{safe(cell)}</td>" for cell in row)
        + "</tr>"
        for setting, row in zip(differing.index, differing.to_numpy().tolist(), strict=True)
    )
    names = ("setting", *differing.columns)
    return heading + _table(names, f"<tbody>{rows}</tbody>", "Settings, a column for each run")


def _table(head: Sequence[object] | pd.Index, bodies: str, caption: str) -> str:
    names = "".join(f'<th scope="col">{safe(name)}</th>' for name in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{safe(caption)}"><table>'
        f"<caption>{safe(caption)}</caption><thead><tr>{names}</tr></thead>{bodies}</table></div>"
    )


def _figure(named: tuple[str, Figure]) -> str:
    caption, figure = named
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A name may be in a script that the font lacks: boxes stand for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(data, format="png", dpi=_DPI)
    return shell.picture(data.getvalue(), caption)
