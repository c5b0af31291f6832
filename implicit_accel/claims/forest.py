"""Forest plots: ratios with their intervals, a row each, as a figure and as a table of a page."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from implicit_accel.claims.effects import Effect
from implicit_accel.panels import Size
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

    def figure(self, size: Size = "screen") -> Figure:
        """As a figure, of a size as in `plotting.Options`; for a paper without its title."""
        beside = {
            id(effect): words
            for label, effects in self.series.items()
            for effect, words in zip(effects, self.remarks.get(label, ()), strict=False)
        }
        # What most effects have in common: others are not comparable with them.
        usual = Counter(filter(None, beside.values())).most_common(1)
        common = usual[0][0] if usual else ""
        # Beside long names the axis is narrow: its title comes in lines.
        lines = [
            *textwrap.wrap(self.xlabel, _TITLE_WIDTH),
            f"{self.sides[0]} | {self.sides[1]}",
            *textwrap.wrap(f"right: {self.remarks_are}" if self.remarks_are else "", _TITLE_WIDTH),
        ]
        return plot_effects(
            self.series,
            title=self.title if size == "screen" else None,
            xlabel="\n".join(lines),
            remark=lambda effect: beside.get(id(effect), ""),
            hollow=lambda effect: beside.get(id(effect), "") not in ("", common),
            hollow_is=f"not {common}",
            size=size,
        )


def forest_view(forest: Forest, links: Sequence[str] = ()) -> dict[str, Any]:
    """A forest plot as plain values for a page's template, places in per cent of the axis.

    Args:
        forest: What is shown.
        links: For each row an address, or an empty text.
    """
    columns = list(forest.series.values())
    colours = [_colour(own, number, len(columns)) for number, own in enumerate(columns)]
    axis = _Axis.around(effect for effects in columns for effect in effects)
    hrefs = [*links, *[""] * len(columns[0])]
    remarks = [forest.remarks.get(label, ()) for label in forest.series]
    rows = []
    for row, effects in enumerate(zip(*columns, strict=True)):
        marks, values = [], []
        for number, (effect, colour) in enumerate(zip(effects, colours, strict=True)):
            marks += _marks(effect, _TOP + _ROW * (number + 0.5), colour, axis)
            remark = remarks[number][row] if row < len(remarks[number]) else ""
            text = _text(effect, remark)
            values.append({"text": text, "colour": colour if len(columns) > 1 else ""})
        height = 2 * _TOP + _ROW * len(effects)
        rows.append({
            "name": effects[0].name, "href": hrefs[row], "height": height, "marks": marks,
            "texts": values,
        })  # fmt: skip
    return {
        "title": forest.title,
        "heading": forest.xlabel + (f" ({forest.remarks_are})" if forest.remarks_are else ""),
        "sides": forest.sides,
        "one": axis.place(1),
        "legend": [
            {"label": label, "colour": colour}
            for label, colour in zip(forest.series, colours, strict=True)
            if label
        ],
        "rows": rows,
        "ticks": [{"place": axis.place(tick), "text": f"{tick:g}×"} for tick in axis.ticks],
    }


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

    def place(self, value: float) -> str:
        """Per cent of the axis."""
        inside = min(max(value, self.low), self.high)
        return f"{100 * math.log(inside / self.low) / math.log(self.high / self.low):.2f}"


_ROW, _TOP = 16, 4


def _is_shown(effect: Effect) -> bool:
    return math.isfinite(effect.value) and effect.value > 0


def _text(effect: Effect, remark: str) -> str:
    if not _is_shown(effect):
        return effect.note or str(effect)
    return f"{effect} {remark}".rstrip()


def _marks(effect: Effect, y: float, colour: str, axis: _Axis) -> list[dict[str, Any]]:
    """An effect's bar of halves, interval and value; an arrow for one that is a bound."""
    if not _is_shown(effect):
        return []

    def line(low: float, high: float, width: float, opacity: float) -> dict[str, Any]:
        return {"low": axis.place(low), "high": axis.place(high), "width": width, "y": y,
                "opacity": opacity, "colour": colour}  # fmt: skip

    halves = [half for half in effect.halves if 0 < half < math.inf]
    lines = [line(min(halves), max(halves), 9, 0.25)] if halves else []
    if effect.low > 0 and not math.isnan(effect.high):
        lines.append(line(effect.low, effect.high, 2.5, 1))
    arrow = {">": "▶", "<": "◀"}.get(effect.bound, "")
    return [{"lines": lines, "at": axis.place(effect.value), "y": y, "colour": colour,
             "arrow": arrow}]  # fmt: skip


def _colour(effects: Sequence[Effect], number: int, num_series: int) -> str:
    """A series' colour: that of its depth, if it has one and there are several series."""
    depths = {dict(effect.key.at).get("depth") if effect.key else None for effect in effects}
    depth = next(iter(depths)) if len(depths) == 1 and num_series > 1 else None
    return COLOURS[(depth - 1 if isinstance(depth, int) else number) % len(COLOURS)]
