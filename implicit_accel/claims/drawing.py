"""Figures of claims: panels, one colour per depth, a thin line for each seed, labels at ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from implicit_accel.plotting import COLOURS, few_ticks

# What `label_end` writes.
_END = "end of a line"

# Around text that lies on lines.
_HALO = withStroke(linewidth=2.5, foreground="white")


def colour_of(depth: int) -> str:
    """A depth's colour: that of figures of sweeps whose depths are 1, 2, 3, … of one width."""
    return COLOURS[min(depth, len(COLOURS) - 1) - 1]


def make_figure(
    rows: int, columns: int, *, title: str, size: tuple[float, float] = (4.2, 3.4)
) -> tuple[Figure, np.ndarray]:
    """A figure of panels, and its axes (rows, columns)."""
    figure = Figure(figsize=(size[0] * columns + 0.3, size[1] * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure, axes


def draw_agreement(
    ax: Axes, series: Mapping[str, tuple[Any, Any]], *, xlabel: str, ylabel: str
) -> None:
    """Pairs of numbers above 0 about the diagonal, on logarithmic axes."""
    everything: list[np.ndarray] = []
    for number, (label, pair) in enumerate(series.items()):
        x, y = (np.asarray(a, float) for a in pair)
        shown = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
        if not shown.any():
            continue
        ax.plot(
            x[shown], y[shown], "o", markersize=3, alpha=0.5, markeredgewidth=0,
            color=COLOURS[number % len(COLOURS)], label=f"{label} ({shown.sum()})",
        )  # fmt: skip
        everything += [x[shown], y[shown]]
    values = np.concatenate(everything) if everything else np.zeros(0)
    values = values if len(values) else np.ones(1)
    ends = values.min() / 1.3, values.max() * 1.3
    ax.plot(ends, ends, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=xlabel, ylabel=ylabel)
    legend(ax)


def draw_seeds(
    ax: Axes, x: np.ndarray, curves: np.ndarray, *, label: str, style: Mapping[str, Any]
) -> None:
    """A thin line for each seed, and their median with its label at its end.

    Args:
        ax: With its scales and limits set: labels go by them.
        x: (T,) places.
        curves: (seed, T); what is not finite is left out. Medians are over all seeds: not finite is
            larger than any number.
        label: Beside the median's end, in its colour; empty for none.
        style: Of the lines, e.g. colour and line style.
    """
    shown = np.where(np.isfinite(curves), curves, np.nan)
    for curve in shown:
        ax.plot(x, curve, **{**style, "linewidth": 0.5, "alpha": 0.45})
    middle = np.median(np.where(np.isfinite(curves), curves, np.inf), axis=0)
    middle = np.where(np.isfinite(middle), middle, np.nan)
    ax.plot(x, middle, **{"linewidth": 1.5, **style})
    known = np.flatnonzero(np.isfinite(middle) & (x >= ax.get_xlim()[0]) & (x <= ax.get_xlim()[1]))
    if label and len(known):
        label_end(ax, float(x[known[-1]]), float(middle[known[-1]]), label, str(style["color"]))


def untangle(ax: Axes, gap: float = 9.0) -> None:
    """Moves the texts beside lines' ends apart, up and down, until no two are on one another.

    Args:
        ax: Complete: its limits set, everything drawn.
        gap: Points that two texts are apart, from middle to middle.
    """
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # places are known only then
    box = ax.get_window_extent()
    at_edge, inside = [], []
    for text in ax.texts:
        if isinstance(text, Annotation):
            x, y = ax.transData.transform(text.xy) * 72 / figure.dpi
            if x > (box.x1 - 1 - 0.25 * box.width) * 72 / figure.dpi:
                at_edge.append((y, text))
            elif text.get_gid() == _END:
                inside.append((x, y, text))
    _move_apart(at_edge, gap)
    # Lines that end before the edge are a heap where they end together.
    inside.sort(key=lambda each: each[0])
    while inside:
        together = [each for each in inside if each[0] < inside[0][0] + gap]
        _move_apart([(y, text) for _, y, text in together], gap)
        inside = inside[len(together) :]


def _move_apart(texts: list[tuple[float, Annotation]], gap: float) -> None:
    """Of a heap of texts, with the heights where they belong, in points."""
    texts = sorted(texts, key=lambda pair: pair[0])
    wanted = np.array([y for y, _ in texts])
    # Each is as near as may be to where it belongs: pushed up by the ones below, then all of a
    # heap moved down by half of that.
    raised = wanted.copy()
    for i in range(1, len(raised)):
        raised[i] = max(raised[i], raised[i - 1] + gap)
    lowered = wanted.copy()
    for i in range(len(lowered) - 2, -1, -1):
        lowered[i] = min(lowered[i], lowered[i + 1] - gap)
    for place, y, (_, text) in zip((raised + lowered) / 2, wanted, texts, strict=True):
        text.set_verticalalignment("center")
        text.xyann = (4, place - y)


def label_end(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Text at a line's end: outside of the axes where the line ends at their edge."""
    ax.annotate(
        text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5,
        color=colour, annotation_clip=False, path_effects=[_HALO], gid=_END,
    )  # fmt: skip


def legend(ax: Axes, **options: Any) -> None:
    """A small legend, if there is anything to distinguish."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7.5, framealpha=0.85, edgecolor="none", **options)


def draw_dots(
    ax: Axes,
    rows: Sequence[tuple[str, np.ndarray, str]],
    *,
    xlabel: str,
    recorded: Mapping[int, float] | None = None,
) -> None:
    """Values as dots, a row for each group, with a bar at the median; a logarithmic axis.

    Args:
        ax: Where.
        rows: (label, values above 0, colour); what is not finite is left out.
        xlabel: What the values are.
        recorded: Row → what a notebook recorded, drawn as a diamond.
    """
    rng = np.random.default_rng(0)
    for place, (_, values, colour) in enumerate(rows):
        x = np.asarray(values, float)
        x = x[np.isfinite(x) & (x > 0)]
        heights = place + rng.uniform(-0.28, 0.28, len(x))
        ax.plot(x, heights, "o", color=colour, markersize=2.2, alpha=0.45, markeredgewidth=0)
        if len(x):
            ax.vlines(np.median(x), place - 0.38, place + 0.38, color=colour, linewidth=2)
    for place, value in (recorded or {}).items():
        ax.plot(value, place, "D", color="black", markersize=5, markerfacecolor="white", zorder=4)
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(xlabel)
    few_ticks(ax.xaxis)
