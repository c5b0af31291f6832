"""The figure of an expansion report: steps against learning rates, and speed-ups."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from implicit_accel.expansion import ORIGINAL, ExpandReport
from implicit_accel.plotting import COLOURS, few_ticks
from implicit_accel.results import trained
from implicit_accel.statistics import valid_steps

_TICKS = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_HALF_COLOURS = (COLOURS[0], COLOURS[4])


def plot_expansion(report: ExpandReport, *, title: str | None = None) -> Figure:
    """A row of two panels for each optimizer.

    On the left are median steps to the target against the learning rate, of the original, of the
    expanded variants and, in grey, of the controls, on the first half of the rows. On the right are
    speed-ups over the original with their intervals, on both halves; an arrow is a bound.

    Args:
        report: From `expand_report`.
        title: Above the panels; none by default.
    """
    optimizers = list(dict.fromkeys(report.table["optimizer"]))
    variants = len(dict.fromkeys(report.table["variant"]))
    height = max(2.6, 0.9 + 0.22 * variants)
    figure = Figure(figsize=(6.8, height * len(optimizers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(optimizers), 2, squeeze=False, gridspec_kw={"width_ratios": (1.1, 1)}
    )  # fmt: skip
    for row, optimizer in zip(axes, optimizers, strict=True):
        _draw_rates(row[0], report, optimizer)
        _draw_speed_ups(row[1], report, optimizer)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower right", ncols=2, fontsize=7.5, frameon=False
    )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_rates(ax: Axes, report: ExpandReport, optimizer: str) -> None:
    results = report.runs[optimizer, 1]
    names = results["variant"].values.tolist()
    expanded = [a.variant for a in report.answers if a.optimizer == optimizer]
    rates, tried = results["learning_rate"].values, trained(results)
    medians = np.median(valid_steps(results, stable=True), axis=2)
    colours = dict(zip(expanded, COLOURS[1:], strict=False)) | {ORIGINAL: COLOURS[0]}
    for m, name in enumerate(names):
        own = tried[m] & np.isfinite(medians[m])
        style = {"color": colours[name], "linewidth": 1.6, "zorder": 3} if name in colours else {
            "color": "0.75", "linewidth": 0.8,
        }  # fmt: skip
        label = name if name in colours else "controls" if m == len(names) - 1 else None
        ax.plot(rates[own], medians[m, own], ".-", markersize=4, label=label, **style)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="steps to the target")
    few_ticks(ax.xaxis)
    few_ticks(ax.yaxis)
    ax.set_title(optimizer, fontsize=9)
    ax.legend(fontsize=7, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_speed_ups(ax: Axes, report: ExpandReport, optimizer: str) -> None:
    rows = [r for r in report.table.to_dict("records") if r["optimizer"] == optimizer]
    names = [n for n in dict.fromkeys(r["variant"] for r in rows) if n != ORIGINAL]
    for half, colour in zip((1, 2), _HALF_COLOURS, strict=True):
        own = {r["variant"]: r for r in rows if r["half"] == half}
        for place, name in enumerate(names):
            value, low, high = (float(own[name][c]) for c in ("speed_up", "low", "high"))
            y = place + (0.14 if half == 2 else -0.14)
            if np.isnan(value):
                continue
            label = f"half {half} of the rows" if place == 0 else None
            # An arrow at the bound, where only one of the two reaches the target.
            at, marker = (
                (low, ">") if value == np.inf else (high, "<") if value == 0 else (value, "o")
            )
            ax.plot([at], [y], marker, color=colour, markersize=3.5, label=label)
            if marker == "o":
                ax.plot([max(low, 1e-3), high], [y, y], color=colour, linewidth=1.2)
    ax.axvline(1, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=7.5)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xscale="log", xlabel="speed-up over the original")
    few = [x for x in _TICKS if ax.get_xlim()[0] <= x <= ax.get_xlim()[1]]
    ax.set_xticks(few, [f"{x:g}×" for x in few])
    ax.xaxis.set_minor_formatter(lambda *_: "")
    ax.spines[["top", "right"]].set_visible(False)
