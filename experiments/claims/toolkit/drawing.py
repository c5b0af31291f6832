"""Figures of the claims of theory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from implicit_accel.plotting import COLOURS


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


def legend(ax: Axes, **options: Any) -> None:
    """A small legend, if there is anything to tell apart."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7.5, framealpha=0.85, edgecolor="none", **options)
