"""Tables as LaTeX, for a paper."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Any

import pandas as pd

from implicit_accel import summary
from implicit_accel.errors import UserError
from implicit_accel.files import printable

# What is a command to LaTeX, or missing from its usual fonts.
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "∞": r"$\infty$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$",
        "ℓ": r"$\ell$", "†": r"$\dagger$", "η": r"$\eta$", "λ": r"$\lambda$",
    }
)  # fmt: skip

# Columns that hold the ends of an interval, or quartiles, about the column without the ending.
_ENDS = (("_low", "_high"), ("_q25", "_q75"))


def to_latex(table: pd.DataFrame, *, caption: str | None = None, label: str = "") -> str:
    r"""A table in the style of the package booktabs, which the document has to load.

    Whatever cells and caption hold is text: nothing in them is a command.

    Args:
        table: From `summarise`, shown as the programs print it; or any other, whose numbers get
            three significant digits, and whose columns ``x_low`` and ``x_high``, or ``x_q25`` and
            ``x_q75``, become an interval behind the column ``x``.
        caption: Above the table; for a summary what was run, unless given.
        label: What ``\ref`` refers to.

    Returns:
        A ``table`` environment.

    Raises:
        UserError: If the table has no columns, or the label holds what no label can.
    """
    if not len(table.columns):
        raise UserError("a table without columns: give one of summarise, or of your own")
    if not re.fullmatch(r"[\w:.+ -]*", label, re.ASCII):
        raise UserError(f"label {label!r}: write letters, digits, spaces and :.+-_")
    headings, rows = _shown(table)
    if caption is None:
        caption = summary.caption(table) if summary.is_summary(table) else ""
    losses = table["loss_name"].tolist() if "loss_name" in table else [""] * len(rows)
    lines = [r"\begin{table}", r"  \centering"]
    lines += [rf"  \caption{{{escaped(caption)}}}"] if caption else []
    lines += [rf"  \label{{{label}}}"] if label else []
    lines += [rf"  \begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", r"    \toprule"]
    lines += [_row(map(_heading, headings)), r"    \midrule"]
    for m, row in enumerate(rows):
        if m and losses[m] != losses[m - 1]:
            lines.append(r"    \midrule")
        lines.append(_row(map(escaped, row)))
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    shown = printable(text, 1000).translate(_ESCAPES)
    # Two hyphens would be a dash; after a line's end a bracket or a star belongs to \\.
    shown = re.sub("-(?=-)", "-{}", shown)
    return "{}" + shown if shown.startswith(("[", "*")) else shown


def _heading(name: str) -> str:
    """A heading of one line or of several."""
    lines = [escaped(line.strip()) for line in name.split("\n")]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _shown(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings, and rows of cells."""
    if summary.is_summary(table):
        return summary.columns(table), [summary.cells(table, m) for m in range(len(table))]
    ends = {f"{name}{end}" for name in table for pair in _ENDS for end in pair}
    names = [str(name) for name in table if name not in ends]
    return names, [[_cell(row, name) for name in names] for row in table.to_dict("records")]


def _cell(row: dict[Hashable, Any], name: str) -> str:
    pairs = (tuple(f"{name}{end}" for end in pair) for pair in _ENDS)
    ends = next((pair for pair in pairs if set(pair) <= {*row}), ())
    return summary.with_interval(row[name], *(float(row[end]) for end in ends))
