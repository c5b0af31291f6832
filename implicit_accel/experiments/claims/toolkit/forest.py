"""Forest plots: ratios with their intervals, a row each, as a figure and as a table of a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from implicit_accel.experiments.claims.criteria import Effect
from implicit_accel.plotting import COLOURS, plot_effects


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
        remark: What is written beside each effect of the figure.
    """

    series: Mapping[str, Sequence[Effect]]
    title: str
    xlabel: str
    sides: tuple[str, str] = ("slower", "faster")
    curves: tuple[str, ...] = ()
    remark: Callable[[Effect], str] | None = field(default=None, compare=False)

    def figure(self) -> Figure:
        """As a figure, for print."""
        xlabel = f"{self.xlabel}: {' | '.join(self.sides)}"
        return plot_effects(self.series, title=self.title, xlabel=xlabel, remark=self.remark)


def table(forest: Forest, links: Sequence[str] = ()) -> str:
    """A forest plot as a table of a page: readable by a screen reader, and at any width.

    Args:
        forest: What is shown.
        links: For each row an address, or an empty text.

    Returns:
        HTML; whatever comes from effects is escaped.
    """
    columns = list(forest.series.values())
    axis = _Axis.around(effect for effects in columns for effect in effects)
    hrefs = [*links, *[""] * len(columns[0])]
    rows = "".join(
        _row(effects, href, axis, len(columns) > 1)
        for effects, href in zip(zip(*columns, strict=True), hrefs, strict=False)
    )
    keys = "".join(
        f'<span class="key"><i style="background:{_colour(i)}"></i>{escape(label)}</span>'
        for i, label in enumerate(forest.series)
        if label
    )
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
        f'<th scope="col">{escape(forest.xlabel)}</th></tr></thead><tbody>{rows}</tbody>'
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


def _row(effects: Sequence[Effect], href: str, axis: _Axis, keyed: bool) -> str:
    name = escape(effects[0].name)
    name = f'<a href="{escape(href)}">{name}</a>' if href else name
    height = 2 * _TOP + _ROW * len(effects)
    marks = [f'<line class="one" x1="{axis.place(1):.2f}%" x2="{axis.place(1):.2f}%" '
             f'y1="0" y2="{height}"/>']  # fmt: skip
    values = []
    for number, effect in enumerate(effects):
        colour = _colour(number)
        marks.append(_marks(effect, _TOP + _ROW * (number + 0.5), colour, axis))
        key = f'<i style="background:{colour}"></i>' if keyed else ""
        known = math.isfinite(effect.value) and effect.value > 0
        shown = str(effect) if known else effect.note.split(";")[0] or str(effect)
        values.append(f'<span class="value">{key}{escape(shown)}</span>')
    return (
        f'<tr><th scope="row">{name}</th><td class="track">'
        f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(marks)}</svg></td>'
        f"<td>{''.join(values)}</td></tr>"
    )


def _marks(effect: Effect, y: float, colour: str, axis: _Axis) -> str:
    """An effect's bar of halves, interval and value."""
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
    return f'{drawn}<circle cx="{axis.place(effect.value):.2f}%" cy="{y}" r="4.5" fill="{colour}"/>'


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
