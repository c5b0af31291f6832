"""Figures of a sweep: one function per figure, results in, matplotlib Figure out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.claims.criteria import Effect
from implicit_accel.files import atomic_path, printable
from implicit_accel.statistics import (
    best_learning_rates,
    bounded_speed_up,
    final_excess,
    resolved,
    summarise,
    valid_steps,
)

# Okabe & Ito's palette, safe for colour-blind readers; line styles tell more lines apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_PANEL = ("loss_name", "optimizer", "weight_decay", "init", "init_std")

FORMATS = ("png", "pdf")


def _panels(results: xr.Dataset) -> Iterator[tuple[str, list[int]]]:
    """Models that belong in one panel (they differ in depth and width), with its title."""
    varying = [n for n in _PANEL if len(set(map(str, results[n].values.tolist()))) > 1]
    groups: dict[tuple[str, ...], list[int]] = {}
    for m in range(results.sizes["model"]):
        groups.setdefault(tuple(str(results[n].values[m]) for n in _PANEL), []).append(m)
    for models in groups.values():
        m = models[0]
        p = str(results["loss_name"].values[m]).removeprefix("l")
        words = [rf"$\ell_{{{p}}}$ loss"]
        for name in varying:
            value = results[name].values[m]
            if name == "optimizer":
                words.append(str(value))
            elif name == "init":
                words.append(str(value).replace("_", " "))
            elif name == "init_std" and np.isfinite(value):
                words.append(f"std {value:g}")
            elif name == "weight_decay":
                words.append(f"decay {value:g}")
        yield ", ".join(words), models


def _line_label(results: xr.Dataset, m: int) -> str:
    depth, hidden = results["depth"].values[m], str(results["hidden_widths"].values[m])
    widths = set(hidden.split("x"))
    if depth == 1:
        return "depth 1"
    return f"depth {depth}, width {widths.pop() if len(widths) == 1 else hidden}"


def _figure(
    results: xr.Dataset,
    title: str,
    draw: Callable[[Axes, list[int]], None],
    *,
    panel_size: tuple[float, float] = (4.4, 3.4),
) -> Figure:
    """A row (or grid) of panels under one title, with one legend per panel."""
    panels = list(_panels(results))
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(panel_size[0] * columns, panel_size[1] * rows + 0.4), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, models) in zip(axes, panels, strict=False):
        draw(ax, models)
        ax.set_title(name, fontsize=10)
        ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    # The dataset's name is text: a dollar sign in it starts no formula.
    name = printable(str(results.attrs["title"]), 160)
    figure.suptitle(f"{title}\n{name}", fontsize=10, parse_math=False, usetex=False)
    return figure


def _style(position: int) -> dict[str, Any]:
    return {
        "linewidth": 1.2,
        "color": _COLOURS[position % len(_COLOURS)],
        "linestyle": _STYLES[position // len(_COLOURS) % len(_STYLES)],
    }


def _legend(ax: Axes) -> None:
    handles, _ = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            fontsize=7.5, framealpha=0.85, edgecolor="none", borderpad=0.2,
            ncols=1 + len(handles) // 9,
        )  # fmt: skip


def _log_axes(ax: Axes, x: np.ndarray) -> None:
    """Makes both axes logarithmic around x and what is drawn; also if nothing is to be seen."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    drawn = drawn[(drawn > 1e-290) & (drawn < 1e290)]  # room for margins
    low, high = (drawn.min(), drawn.max()) if drawn.size else (0.1, 1.0)
    margin = max((high / low) ** 0.05, 1.1)
    # Limits before scales: choosing limits by itself, matplotlib would stumble over no data.
    ax.set_ylim(low / margin, high * margin)
    margin = max((x.max() / x.min()) ** 0.03, 1.1)
    ax.set_xlim(x.min() / margin, x.max() * margin)
    ax.set_xscale("log")
    ax.set_yscale("log")


def _band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quartiles and median over the first axis; no interpolation among infinities."""
    low, high = np.quantile(curves, [0.25, 0.75], axis=0, method="inverted_cdf")
    return low, np.median(curves, axis=0), high


def plot_excess_loss(results: xr.Dataset, *, best_by: str = "target") -> Figure:
    """Excess loss against step, each model at its best learning rate.

    Lines are medians over seeds, bands the quartiles; dashed, the target. Runs that diverge before
    they arrive are left out (the table counts them); one that diverges later stays at its last
    value. Where half of the runs have diverged, the line ends in a cross. Nothing is drawn below
    what the precision resolves, a dotted line where it is reached.
    """
    best = best_learning_rates(results, best_by)
    steps = results["step"].values
    diverged = results["divergence_step"].values

    def draw(ax: Axes, models: list[int]) -> None:
        for position, m in enumerate(models):
            label = _line_label(results, m)
            if best[m] < 0:
                ax.plot([], [], label=f"{label}: diverges at every rate", **_style(position))
                continue
            # The median run has diverged once half of the runs have.
            end = np.median(np.where(np.isnan(diverged[m, best[m]]), np.inf, diverged[m, best[m]]))
            shown = (steps > 0) & (steps < end)  # a log axis has no place for step 0
            low, middle, high = _band(_shown_runs(results, m, int(best[m]))[:, shown])
            rate = results["learning_rate"].values[best[m]]
            ax.plot(
                steps[shown], middle, label=rf"{label}, $\eta$ = {rate:.3g}", **_style(position)
            )
            ax.fill_between(
                steps[shown], low, high, alpha=0.2, linewidth=0, color=_style(position)["color"]
            )
            if np.isfinite(end) and shown.any():
                ax.plot(steps[shown][-1], middle[-1], "x", color=_style(position)["color"])
        ax.axhline(
            results["target"].values[models[0]], color="0.4", linewidth=0.8, linestyle=(0, (4, 3))
        )
        _mark_resolution(ax, results, models)
        _log_axes(ax, steps[steps > 0])
        ax.set_xlabel("step")
        ax.set_ylabel(r"excess loss $L - L^*$")
        _legend(ax)

    return _figure(results, "Excess loss at each model's best learning rate", draw)


def _shown_runs(results: xr.Dataset, m: int, rate: int) -> np.ndarray:
    """Excess losses (seed, step) of the runs that a curve is made of, see `plot_excess_loss`."""
    curves = resolved(results, results["excess_loss"].values[:, rate])[m]
    diverged = np.isfinite(results["divergence_step"].values[m, rate])
    arrived = np.isfinite(results["steps_to_target"].values[m, rate])
    kept = arrived | ~diverged
    curves = curves[kept] if kept.any() else curves
    return pd.DataFrame(np.where(np.isfinite(curves), curves, np.nan)).ffill(axis=1).to_numpy()


def _mark_resolution(ax: Axes, results: xr.Dataset, models: list[int]) -> None:
    """Draws the least excess loss that the precision resolves, if a line lies on it."""
    floor = float(results["resolution"].values[models[0]])
    if any((np.asarray(line.get_ydata(), float) <= floor).any() for line in ax.get_lines()):
        label = f"below: rounding ({results.attrs['precision']})"
        ax.axhline(floor, color="0.4", linewidth=0.8, linestyle=":", label=label)


def plot_learning_rates(results: xr.Dataset) -> Figure:
    """Final excess loss against learning rate; where it ends, the median run diverges.

    Crosses on the top edge mark the rates at which at least one run diverged.
    """
    rates = results["learning_rate"].values
    final = final_excess(results)
    diverged = np.isfinite(results["divergence_step"].values)

    def draw(ax: Axes, models: list[int]) -> None:
        for position, m in enumerate(models):
            low, middle, high = _band(final[m].T)
            finite = np.isfinite(middle)
            style = _style(position)
            low, middle, high = (np.where(finite, c, np.nan) for c in (low, middle, high))
            label = _line_label(results, m)
            ax.plot(rates, middle, marker="o", markersize=2.5, label=label, **style)
            high = np.minimum(high, 1e300)  # a quartile that diverged leaves the panel
            ax.fill_between(rates, low, high, alpha=0.2, linewidth=0, color=style["color"])
        _mark_resolution(ax, results, models)
        _log_axes(ax, rates)
        ax.set_xlabel(r"learning rate $\eta$")
        for position, m in enumerate(models):
            bad = diverged[m].any(axis=1)
            height = 1.0 - 0.035 * position
            (crosses,) = ax.plot(
                rates[bad], np.full(bad.sum(), height), "x", markersize=3.5, clip_on=False,
                color=_style(position)["color"], transform=ax.get_xaxis_transform(),
            )  # fmt: skip
            # Unclipped and perhaps empty, it would confuse the layout.
            crosses.set_in_layout(False)
        ax.set_ylabel(f"excess loss after {results.attrs['num_steps']:,} steps")
        _legend(ax)

    return _figure(results, "Final excess loss against learning rate (×: runs diverge)", draw)


def plot_steps_to_target(results: xr.Dataset) -> Figure:
    """Steps to the target against learning rate, median and quartiles over seeds."""
    rates = results["learning_rate"].values
    steps = valid_steps(results)

    def draw(ax: Axes, models: list[int]) -> None:
        for position, m in enumerate(models):
            low, middle, high = (
                np.where(np.isfinite(c), np.maximum(c, 1), np.nan) for c in _band(steps[m].T)
            )
            style = _style(position)
            label = _line_label(results, m)
            label += "" if np.isfinite(middle).any() else ": not reached"
            ax.plot(rates, middle, marker="o", markersize=2.5, label=label, **style)
            ax.fill_between(rates, low, high, alpha=0.2, linewidth=0, color=style["color"])
        _log_axes(ax, rates)
        ax.set_xlabel(r"learning rate $\eta$")
        ax.set_ylabel("steps to target")
        _legend(ax)

    return _figure(results, "Steps to target against learning rate", draw)


def plot_speed_up(results: xr.Dataset, *, best_by: str = "target") -> Figure:
    """Speed-up over depth 1 in steps to target, with 95 % bootstrap intervals.

    Arrows are bounds: one of the two models did not arrive within the run's steps.
    """
    table = summarise(results, best_by=best_by)

    def draw(ax: Axes, models: list[int]) -> None:
        ax.axvline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xscale("log")
        shown = [0.5, 2.0]
        intervals = []
        for position, m in enumerate(models):
            row = table.iloc[m]
            colour = _style(position)["color"]
            value, bound = bounded_speed_up(table, m)
            if not np.isfinite(value):
                ax.annotate("not reached", (1, position), fontsize=7.5, va="center", ha="center",
                            color=colour, backgroundcolor="white")  # fmt: skip
                continue
            marker = {"": "o", ">": ">", "<": "<"}[bound]
            ax.plot(value, position, marker=marker, color=colour, markersize=6)
            ends = np.array([row["speed_up_low"], row["speed_up_high"]], float)
            shown.append(value)
            if not bound and not np.isnan(ends).any():
                shown += [end for end in ends if 0 < end < np.inf]
                intervals.append((position, ends, colour))
            text = f"{'≥ ' if bound == '>' else '≤ ' if bound == '<' else ''}{value:.3g}×"
            ax.annotate(text, (value, position), xytext=(0, 7), textcoords="offset points",
                        fontsize=7.5, ha="center")  # fmt: skip
        ax.set_yticks(range(len(models)), [_line_label(results, m) for m in models], fontsize=8)
        ax.set_ylim(len(models) - 0.4, -0.6)
        limits = (min(shown) / 1.3, max(shown) * 1.3)
        ax.set_xlim(*limits)
        for position, ends, colour in intervals:  # an end at 0 or infinity leaves the panel
            ends = np.clip(ends, *limits)
            ax.plot(ends, [position] * 2, color=colour, linewidth=2, solid_capstyle="butt")
        ax.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if max(shown) < 50 * min(shown) else (1,))
        )
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("speed-up over depth 1 (steps to target)")

    return _figure(
        results, "How many times fewer steps than one layer", draw, panel_size=(4.4, 2.6)
    )


def plot_effects(
    series: Mapping[str, Sequence[Effect]],
    *,
    title: str,
    xlabel: str,
    reference: float = 1.0,
    log: bool = True,
) -> Figure:
    """Effects with their 95 % intervals, one row each: a forest plot.

    Args:
        series: Label → effects, as many in each; those at one position share a row, which has the
            first one's name. In the place of one without a value its note is written.
        title: Of the figure.
        xlabel: What the effects measure.
        reference: Where a line marks "no effect".
        log: Whether the axis is logarithmic; effects that are not above 0 are then left out.

    Returns:
        The figure.
    """
    columns = [list(effects) for effects in series.values()]
    names = [effect.name for effect in columns[0]]
    figure = Figure(figsize=(7.6, 1.3 + 0.19 * len(names) * (1 + len(columns))))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.axvline(reference, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    if log:
        ax.set_xscale("log")
    shown = [reference]
    for number, (label, effects) in enumerate(zip(series, columns, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        places = np.arange(len(effects)) + (number - (len(columns) - 1) / 2) * 0.62 / len(columns)
        values = np.array([effect.value for effect in effects], float)
        ends = np.array([(effect.low, effect.high) for effect in effects], float)
        drawn = np.isfinite(values) & ((values > 0) | (not log))
        ax.plot(values[drawn], places[drawn], "o", color=colour, markersize=4.5, label=label)
        for place, effect in zip(places[~drawn], np.array(effects, object)[~drawn], strict=True):
            words = effect.note.split(";")[0] or "no value"
            ax.annotate(words, (reference, place), xytext=(4, 0), fontsize=7, color=colour,
                        textcoords="offset points", va="center")  # fmt: skip
        sound = drawn & np.isfinite(ends).all(axis=1) & ((ends > 0).all(axis=1) | (not log))
        ax.hlines(places[sound], *ends[sound].T, color=colour, linewidth=1.6)
        shown += [*values[drawn], *ends[sound].ravel()]
    low, high = min(shown), max(shown)
    if log:
        ax.set_xlim(low / 1.25, high * 1.25)
        narrow, wide = high < 5 * low, high > 80 * low
        subs = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if narrow else (1,) if wide else (1, 2, 5)
        ax.xaxis.set_major_locator(LogLocator(subs=subs))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(True, axis="x", alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(xlabel)
    if len(columns) > 1:
        figure.legend(loc="outside lower center", ncols=len(columns), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def plot_curves(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Curves on logarithmic axes: medians over runs, with their quartiles as bands.

    Args:
        panels: Title → label → (x, curves), with x of shape (T,) and curves (runs, T). What is not
            finite or not above 0 is left out.
        title: Of the figure.
        xlabel: Below every panel.
        ylabel: Beside the first panel of a row.

    Returns:
        The figure.
    """
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.0 * columns + 0.4, 3.2 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    # One legend, below, where all panels have the same lines.
    shared = len(panels) > 1 and len({tuple(lines) for lines in panels.values()}) == 1
    for place, ax in enumerate(axes.ravel()):
        if place >= len(panels):
            ax.set_visible(False)
            continue
        name = list(panels)[place]
        everywhere = []
        for position, (label, (x, curves)) in enumerate(panels[name].items()):
            sound = np.where(np.isfinite(curves), curves, np.inf)
            low, middle, high = _band(np.asarray(sound, float))
            drawn = (x > 0) & (middle > 0) & np.isfinite(middle)
            style = _style(position)
            low, middle, high = (np.where(drawn, c, np.nan) for c in (low, middle, high))
            ax.plot(x, middle, label=label, **style)
            ax.fill_between(
                x, low, np.minimum(high, 1e300), alpha=0.2, linewidth=0, color=style["color"]
            )
            everywhere.append(x[x > 0])
        _log_axes(ax, np.concatenate(everywhere))
        ax.set_title(name, fontsize=10)
        ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel(xlabel)
        if place % columns == 0:
            ax.set_ylabel(ylabel)
        if not shared:
            _legend(ax)
    if shared:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        ncols = 2 if max(map(len, labels)) > 24 else 4
        figure.legend(
            handles, labels, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False
        )
    figure.suptitle(title, fontsize=10)
    return figure


def save_figures(
    results: xr.Dataset,
    folder: Path,
    *,
    best_by: str = "target",
    formats: tuple[str, ...] = FORMATS,
) -> list[Path]:
    """Draws every figure into a folder, as bitmap and vector graphics; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "excess_loss": plot_excess_loss(results, best_by=best_by),
        "learning_rates": plot_learning_rates(results),
        "steps_to_target": plot_steps_to_target(results),
        "speed_up": plot_speed_up(results, best_by=best_by),
    }
    paths = []
    for name, figure in figures.items():
        for extension in formats:
            path = folder / f"{name}.{extension}"
            with atomic_path(path) as temporary, warnings.catch_warnings():
                # A name may be in a script that the font lacks: boxes stand for it.
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                figure.savefig(temporary, dpi=160, format=extension)
            paths.append(path)
    return paths
