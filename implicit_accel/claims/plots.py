"""Plots of effects, which a claim declares: by their keys, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from implicit_accel.claims import forest
from implicit_accel.claims.api import AS_CHOSEN, First
from implicit_accel.claims.drawing import colour_of, legend, make_figure
from implicit_accel.claims.effects import (
    Coordinate,
    Effect,
    Key,
    coordinates_by_measure,
    label,
    matching,
    short_labels,
)
from implicit_accel.errors import UserError
from implicit_accel.plotting import COLOURS

# An axis with at most this many values has a tick at each.
_MOST_TICKS = 8


def of_measure(effects: Sequence[Effect], measure: str, **at: Coordinate | First) -> list[Effect]:
    """The effects of a measure at some coordinates; `FIRST` is that of the first effect.

    Raises:
        UserError: If there are none of the measure.
    """
    measures = coordinates_by_measure(effects)
    if measure not in measures:
        raise UserError(
            f"a plot of {measure!r}, which is not measured; there are {', '.join(measures)}"
        )
    first = matching(effects, measure, {})[0]
    fixed = {n: coordinate(first, n) if isinstance(v, First) else v for n, v in at.items()}
    return matching(effects, measure, fixed)


def coordinate(effect: Effect, name: str) -> Coordinate:
    """An effect's coordinate.

    Raises:
        UserError: If it has none of this name.
    """
    at = {} if effect.key is None else dict(effect.key.at)
    if name not in at:
        raise UserError(f"a plot over {name!r}; the effects' coordinates are {', '.join(at)}")
    return at[name]


@dataclass(frozen=True)
class Lines:
    """Effects of a measure against a coordinate, a line for each value of another one.

    Attributes:
        measure: Its name.
        x: The coordinate along the axis.
        lines: The coordinate that distinguishes lines; depths have colours of their own.
        title: Of the figure.
        xlabel: Of the axis.
        ylabel: What the effects are.
        at: Coordinates of the effects that are shown; all by default.
        scale: ``log`` or ``linear``, of the effects.
        xscale: The same of the axis along ``x``.
        reference: Where a dashed line is drawn, or None.
    """

    measure: str
    x: str
    lines: str
    title: str
    xlabel: str
    ylabel: str
    at: Mapping[str, Coordinate] = field(default_factory=dict)
    scale: str = "log"
    xscale: str = "linear"
    reference: float | None = 1.0

    def __call__(self, effects: Sequence[Effect]) -> Figure:
        """The figure; an effect without a value is left out."""
        chosen = [e for e in of_measure(effects, self.measure, **self.at) if np.isfinite(e.value)]
        figure, axes = make_figure(1, 1, title=self.title, size=(5.6, 4.0))
        ax = axes[0, 0]
        if self.reference is not None:
            ax.axhline(self.reference, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        for number, value in enumerate(dict.fromkeys(coordinate(e, self.lines) for e in chosen)):
            own = [e for e in chosen if coordinate(e, self.lines) == value]
            colour = (
                colour_of(int(value)) if self.lines == "depth" else COLOURS[number % len(COLOURS)]
            )
            places = [coordinate(e, self.x) for e in own]
            middle = np.array([e.value for e in own])
            low, high = np.array([_ends(e) for e in own]).T
            ax.errorbar(
                places, middle, yerr=[middle - low, high - middle], fmt="o-", color=colour,
                markersize=4.5, linewidth=1.6, elinewidth=1.2, capsize=2,
                label=label(Key("", ((self.lines, value),))),
            )  # fmt: skip
        ax.set(xscale=self.xscale, yscale=self.scale, xlabel=self.xlabel, ylabel=self.ylabel)
        places = sorted({coordinate(e, self.x) for e in chosen}, key=float)
        if self.xscale == "linear" and len(places) <= _MOST_TICKS:
            ax.set_xticks([float(x) for x in places], [f"{x:g}" for x in places])
        if self.scale == "log":
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        if chosen:
            legend(ax)
        return figure


@dataclass(frozen=True)
class Forest:
    """Effects of a measure as a forest plot, a series for each value of a coordinate.

    Attributes:
        measure: Its name.
        title: Of the figure: what it shows.
        xlabel: What the effects are.
        series: The coordinate that distinguishes series; one series if empty.
        at: Coordinates of the effects that are shown; all by default.
        sides: What an effect below 1 means, and what one above 1 does.
    """

    measure: str
    title: str
    xlabel: str
    series: str = ""
    at: Mapping[str, Coordinate | First] = field(default_factory=dict)
    sides: tuple[str, str] = ("slower", "faster")

    def __call__(self, effects: Sequence[Effect]) -> forest.Forest:
        """The forest plot."""
        chosen = of_measure(effects, self.measure, **self.at)
        values = list(dict.fromkeys(coordinate(e, self.series) for e in chosen if self.series))
        series = {}
        for value in values or [""]:
            own = [e for e in chosen if not values or coordinate(e, self.series) == value]
            names = short_labels(own)
            title = label(Key("", ((self.series, value),))) if values else ""
            series[title] = tuple(replace(e, name=n) for e, n in zip(own, names, strict=True))
        return forest.Forest(series, title=self.title, xlabel=self.xlabel, sides=self.sides)


@dataclass(frozen=True)
class Choices:
    """A primary effect as chosen and by other choices, as a forest plot: a specification curve.

    Shown are the first problem's effects by every choice, and those of other problems as chosen;
    what has no value is left out.

    Attributes:
        measure: Its name.
        title: Of the figure: what it shows.
        xlabel: What the effects are.
        at: Coordinates of the effects that are shown; all by default.
        sides: What an effect below 1 means, and what one above 1 does.
    """

    measure: str
    title: str
    xlabel: str
    at: Mapping[str, Coordinate] = field(default_factory=dict)
    sides: tuple[str, str] = ("slower", "faster")

    def __call__(self, effects: Sequence[Effect]) -> forest.Forest:
        """The forest plot."""
        chosen = of_measure(effects, self.measure, **self.at)
        is_chosen = [coordinate(e, "choice") == AS_CHOSEN for e in chosen]
        own = [e for e, primary in zip(chosen, is_chosen, strict=True) if primary]
        first = coordinate(own[0], "problem")
        others = [
            e for e, primary in zip(chosen, is_chosen, strict=True)
            if not primary and coordinate(e, "problem") == first
        ]  # fmt: skip
        rows = [
            replace(e, name=str(coordinate(e, name)))
            for e, name in [
                (own[0], "choice"), *((e, "choice") for e in others),
                *((e, "problem") for e in own[1:]),
            ]
            if np.isfinite(e.value)
        ]  # fmt: skip
        return forest.Forest(
            {"": tuple(rows)}, title=self.title, xlabel=self.xlabel, sides=self.sides
        )


def _ends(effect: Effect) -> tuple[float, float]:
    """The ends of an effect's interval; its value in place of one that is missing or infinite."""
    low, high = (end if np.isfinite(end) else effect.value for end in (effect.low, effect.high))
    return low, high
