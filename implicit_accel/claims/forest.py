"""Forest plots: ratios with their intervals, a row each, as a figure and as a table of a page."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from implicit_accel.claims.effects import Effect
from implicit_accel.plotting import COLOURS, plot_effects

# Letters in a line of an axis' title.
_TITLE_WIDTH = 52


@dataclass(frozen=True)
class Forest:
    """Ratios with their intervals about a line at 1, on a logarithmic axis.

    Attributes:
        series: Label → effects, as many in each; those at one position share a row, which has the
            first one's name.
        title: Of the figure: what it shows.
        xlabel: What the ratios are.
        sides: What a ratio below 1 means, and what one above 1 does.
        curves: For each row the title of the finding's curves that it was measured on; empty if it
            has none.
        remarks: Label → what is written beside each of its effects.
        remarks_are: What remarks say, in words.
    """

    series: Mapping[str, Sequence[Effect]]
    title: str
    xlabel: str
    sides: tuple[str, str] = ("slower", "faster")
    curves: tuple[str, ...] = ()
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks_are: str = ""

    def figure(self) -> Figure:
        """As a figure, for print."""
        beside = {
            id(effect): words
            for label, effects in self.series.items()
            for effect, words in zip(effects, self.remarks.get(label, ()), strict=False)
        }
        everything = [effect for effects in self.series.values() for effect in effects]
        keys = {
            "pale: halves of the grid of rates": any(effect.halves for effect in everything),
            "arrows: bounds": any(effect.bound for effect in everything),
            f"right: {self.remarks_are}": bool(self.remarks_are),
        }
        # Beside long names the axis is narrow: its title comes in lines.
        lines = [
            *textwrap.wrap(self.xlabel, _TITLE_WIDTH),
            f"{self.sides[0]} | {self.sides[1]}",
            *textwrap.wrap("; ".join(key for key, needed in keys.items() if needed), _TITLE_WIDTH),
        ]
        return plot_effects(
            self.series,
            title=self.title,
            xlabel="\n".join(lines),
            remark=lambda effect: beside.get(id(effect), ""),
        )


def table(forest: Forest, links: Sequence[str] = ()) -> str:
    """A forest plot as a table of a page: readable by a screen reader, and at any width.

    Args:
        forest: What is shown.
        links: For each row an address, or an empty text.

    Returns:
        HTML; whatever comes from effects is escaped.
    """
    labels, columns = list(forest.series), list(forest.series.values())
    looks = [
        _Look(
            _colour(label, number) if len(columns) > 1 else _colour("", 0),
            len(columns) > 1,
            forest.remarks.get(label, ()),
        )
        for number, label in enumerate(labels)
    ]
    axis = _Axis.around(effect for effects in columns for effect in effects)
    hrefs = [*links, *[""] * len(columns[0])]
    rows = "".join(
        _row(row, effects, hrefs[row], axis, looks)
        for row, effects in enumerate(zip(*columns, strict=True))
    )
    keys = "".join(
        f'<span class="key"><i style="background:{look.colour}"></i>{escape(label)}</span>'
        for look, label in zip(looks, labels, strict=True)
        if label
    )
    beside = f" ({forest.remarks_are})" if forest.remarks_are else ""
    left, right = map(escape, forest.sides)
    ticks = "".join(
        f'<span style="left:{axis.place(tick):.2f}%">{tick:g}×</span>' for tick in axis.ticks
    )
    return (
        f'<table class="forest"><caption>{escape(forest.title)}'
        + (f'<span class="keys">{keys}</span>' if keys else "")
        + '</caption><thead><tr><th scope="col">comparison</th>'
        f'<th scope="col" class="track"><span class="sides" style="left:{axis.place(1):.2f}%">'
        f"<span>{left}</span><span>{right}</span></span></th>"
        f'<th scope="col">{escape(forest.xlabel + beside)}</th></tr></thead><tbody>{rows}</tbody>'
        f'<tfoot><tr aria-hidden="true"><td></td><td class="track ticks">{ticks}</td><td></td></tr>'
        "</tfoot></table>"
    )


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis across a column, which has 100 %."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, effects: Iterable[Effect]) -> _Axis:
        shown = [1.0]
        for effect in effects:
            shown += [v for v in (effect.value, effect.low, effect.high, *effect.halves)
                      if 0 < v < math.inf]  # fmt: skip
        # Room at both sides, so that a line at 1 always has them.
        low, high = min(*shown, 1 / 1.5) / 1.15, max(*shown, 1.5) * 1.15
        decades = math.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 3.5 else (1.0,)
        ticks = LogLocator(subs=subs).tick_values(low, high)
        return cls(low, high, tuple(float(t) for t in ticks if low < t < high))

    def place(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return 100 * math.log(inside / self.low) / math.log(self.high / self.low)


_ROW, _TOP = 16, 4


@dataclass(frozen=True)
class _Look:
    """How a series is drawn: its colour, whether its values bear it too, and its remarks."""

    colour: str
    keyed: bool
    remarks: Sequence[str]


def _row(
    row: int, effects: Sequence[Effect], href: str, axis: _Axis, looks: Sequence[_Look]
) -> str:
    name = escape(effects[0].name)
    name = f'<a href="{escape(href)}">{name}</a>' if href else name
    height = 2 * _TOP + _ROW * len(effects)
    one = f"{axis.place(1):.2f}%"
    marks = [f'<line class="one" x1="{one}" x2="{one}" y1="0" y2="{height}"/>']
    values = []
    for number, (effect, look) in enumerate(zip(effects, looks, strict=True)):
        marks.append(_marks(effect, _TOP + _ROW * (number + 0.5), look.colour, axis))
        key = f'<i style="background:{look.colour}"></i>' if look.keyed else ""
        known = math.isfinite(effect.value) and effect.value > 0
        shown = str(effect) if known else effect.note.split(";")[0] or str(effect)
        if known and row < len(look.remarks):
            shown = f"{shown} {look.remarks[row]}".rstrip()
        values.append(f'<span class="value">{key}{escape(shown)}</span>')
    return (
        f'<tr><th scope="row">{name}</th><td class="track">'
        f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(marks)}</svg></td>'
        f"<td>{''.join(values)}</td></tr>"
    )


def _marks(effect: Effect, y: float, colour: str, axis: _Axis) -> str:
    """An effect's bar of halves, interval and value; an arrow for one that is a bound."""
    if not (math.isfinite(effect.value) and effect.value > 0):
        return ""

    def line(low: float, high: float, width: float, opacity: float) -> str:
        return (
            f'<line x1="{axis.place(low):.2f}%" x2="{axis.place(high):.2f}%" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}"/>'
        )

    halves = [half for half in effect.halves if 0 < half < math.inf]
    drawn = line(min(halves), max(halves), 9, 0.25) if halves else ""
    if effect.low > 0 and not math.isnan(effect.high):
        drawn += line(effect.low, effect.high, 2.5, 1)
    at = f"{axis.place(effect.value):.2f}%"
    if effect.bound:
        arrow = "▶" if effect.bound == ">" else "◀"
        return (
            f'{drawn}<text x="{at}" y="{y}" fill="{colour}" text-anchor="middle" '
            f'dominant-baseline="central" font-size="12">{arrow}</text>'
        )
    return f'{drawn}<circle cx="{at}" cy="{y}" r="4.5" fill="{colour}"/>'


def _colour(label: str, number: int) -> str:
    """A series' colour; that of its depth, if it is named after one."""
    depth = re.fullmatch(r"depth ([1-9])", label)
    return COLOURS[(int(depth[1]) - 1 if depth else number) % len(COLOURS)]
