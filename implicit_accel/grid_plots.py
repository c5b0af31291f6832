"""Figures of whole grids: a heat map over two axes, and how much each axis explains."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from implicit_accel.errors import UserError
from implicit_accel.files import printable
from implicit_accel.panels import Canvas, Panel, Size, Title, compose, heading
from implicit_accel.plotting import (
    COLOURS,
    alike,
    axis_names,
    axis_values,
    axis_words,
    draw_legend,
    few_ticks,
    legend_mark,
    plain,
)
from implicit_accel.results import (
    RUN,
    by_model,
    coordinate_labels,
    model_coordinates,
    observed,
    trained,
    varying,
)
from implicit_accel.statistics import (
    BEST_BY_WORDS,
    best_learning_rates,
    counts_as_diverged,
    explained_shares,
    final_excess,
    valid_steps,
)

# Panels of a heat map; names along an axis, and cells with their number written in.
_MOST_PANELS = 12
_MOST_TICKS = 12
_MOST_NUMBERS = 30

# A colour bar's share of a panel's width, and cells without a number.
_BAR = 0.05
_EMPTY = "0.9"

# What a cross means, by the rule for the best rate.
_UNSTABLE = {
    "stable": "half of the runs are unstable",
    "target": "half of the runs diverge before the target",
    "final": "half of the runs diverge",
}

# Below this share of the scale a number in a cell is white; and letters below x that have room.
_DARK = 0.55
_LEVEL = 40

# What has more than this between its largest and smallest cell has a logarithmic scale.
_LINEAR_SPAN = 10.0


def plot_heatmap(
    results: xr.Dataset,
    *,
    x: str,
    y: str,
    value: str = "steps_to_target",
    best_by: str = "stable",
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """A quantity over two axes: medians over seeds as colours.

    Cells in which the median run does not reach the target are grey with a circle, those in which
    at least half of the runs diverge grey with a cross, and what was not trained is white. Unless
    the learning rate is one of the axes, each model is at its own best rate. The values of other
    axes have a panel each.

    Args:
        results: Results of any axes.
        x: ``learning_rate`` or a coordinate of the models.
        y: Another one.
        value: ``steps_to_target``, ``final_excess``, or the name of something that was recorded
            along the runs (``held_out_loss``, an observable), at the last step.
        best_by: What makes a learning rate the best, see `best_learning_rates`; it also decides
            which runs count as diverged and which as having reached the target.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `plotting.Options`.
        title: Text, or None for none, see `plotting.Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If there is no such axis or quantity, or the results need more panels than
            ``ax`` is, or more than 12.
    """
    runs = by_model(results)
    for name, axis in (("x", x), ("y", y)):
        allowed = ("learning_rate", *model_coordinates(runs))
        if axis not in allowed:
            raise UserError(f"{name} {axis!r}: choose from {', '.join(allowed)}")
    if x == y:
        raise UserError(f"x and y are both {x!r}: give two axes")
    values, words = _values(runs, value, best_by)
    cells = np.where(trained(runs), np.median(values, axis=2), np.nan)
    diverging = np.mean(counts_as_diverged(runs, best_by), axis=2) >= 0.5
    marks = np.where(diverging | (value != "steps_to_target"), "x", "o")
    best, shown = best_learning_rates(runs, best_by), []
    for models in alike(runs, range(runs.sizes["model"]), [x, y]):
        grid = _Grid.of(runs, models, best, x, y)
        shown.append((_panel_name(runs, models, (x, y)), grid, grid.fill(cells, np.nan),
                      grid.fill(marks, "")))  # fmt: skip
    if len(shown) > _MOST_PANELS:
        raise UserError(
            f"{len(shown)} panels, {_MOST_PANELS} at most: select models, or give other axes"
        )
    unstable = _UNSTABLE[best_by if value == "steps_to_target" else "final"]
    # One scale: in every panel a colour is the same number.
    norm = _norm(np.concatenate([numbers.ravel() for _, _, numbers, _ in shown]))

    def panel(name: str, grid: _Grid, numbers: np.ndarray, kinds: np.ndarray) -> Panel:
        return Panel(
            name, lambda ax: _draw_heatmap(ax, grid, numbers, kinds, norm, words, unstable)
        )

    rates = "" if "learning_rate" in (x, y) else f"; best rate: {BEST_BY_WORDS[best_by]}"
    lines = (
        f"{words[0].upper()}{words[1:]} over {axis_words(x)} and {axis_words(y)}",
        f"(medians over seeds{rates})",
    )
    return compose(
        [panel(*each) for each in shown], ax=ax, size=size, title=title, grid="none",
        heading=heading(lines, len(shown), printable(str(runs.attrs["title"]), 160)),
        are_legends_below=True, is_text=True,
    )  # fmt: skip


def _values(runs: xr.Dataset, value: str, best_by: str) -> tuple[np.ndarray, str]:
    """A quantity over (model, learning_rate, seed), inf where it has no value; and its name."""
    if value == "steps_to_target":
        return np.maximum(valid_steps(runs, stable=best_by == "stable"), 1), "steps to target"
    if value == "final_excess":
        is_excess = bool(runs.attrs.get("is_optimum_known", True))
        return final_excess(runs), "final excess loss" if is_excess else "final loss"
    names = [name for name in ("held_out_loss",) if name in runs] + observed(runs)
    if value not in names:
        allowed = ", ".join(("steps_to_target", "final_excess", *names))
        raise UserError(f"value {value!r}: choose from {allowed}")
    last = runs[value].transpose(*RUN, ...).values[..., -1].astype(float)
    is_ended = np.isfinite(runs["divergence_step"].transpose(*RUN).values) | ~np.isfinite(last)
    words = str(runs[value].attrs.get("long_name", value.replace("_", " ")))
    return np.where(is_ended, np.inf, last), plain(words)


def _panel_name(runs: xr.Dataset, models: np.ndarray, axes: tuple[str, str]) -> str:
    """The values of the other axes, of models that have the same of all that apply to them."""
    labels = coordinate_labels(runs, varying(runs, without=axes))
    own = [next((labels[n][m] for m in models[::-1] if labels[n][m]), "") for n in labels]
    # Which follow from the axes: widths of every layer, where depth is one.
    same = [len({labels[n][m] for m in models} - {""}) < 2 for n in labels]
    return plain(", ".join(name for name, kept in zip(own, same, strict=True) if name and kept))


@dataclass(frozen=True)
class _Grid:
    """Where the cells of a heat map are in an array by (model, learning_rate).

    Attributes:
        axes: What lies along x, and along y.
        names: What ticks call their values.
        model: (y, x) numbers of models; −1 for none.
        rate: (y, x) positions of learning rates; −1 for none.
    """

    axes: tuple[str, str]
    names: tuple[list[str], list[str]]
    model: np.ndarray
    rate: np.ndarray

    @classmethod
    def of(cls, runs: xr.Dataset, models: np.ndarray, best: np.ndarray, x: str, y: str) -> _Grid:
        """The cells of some models; ``best`` are all models' best rates."""
        rates = runs["learning_rate"].values
        order = np.argsort(rates, kind="stable")
        names, along = [], []
        for axis in (x, y):
            if axis == "learning_rate":
                names.append([f"{rate:.3g}" for rate in rates[order]])
                along.append(np.argsort(order)[None, :].repeat(len(models), axis=0))
            else:
                names.append(axis_names(runs, axis))
                along.append(axis_values(runs, axis)[1][models][:, None])
        shape = len(names[1]), len(names[0])
        model, rate = np.full(shape, -1), np.full(shape, -1)
        has_rates = "learning_rate" in (x, y)
        for i, m in enumerate(models):
            for r in range(len(rates)) if has_rates else [int(best[m])]:
                column, row = (place[i, r if place.shape[1] > 1 else 0] for place in along)
                # Without a usable rate all diverge: any rate's cell says so.
                model[row, column], rate[row, column] = m, max(r, 0)
        return cls((x, y), (names[0], names[1]), model, rate)

    def fill(self, values: np.ndarray, missing: Any) -> np.ndarray:
        """(y, x) from (model, learning_rate)."""
        return np.where(self.model < 0, missing, values[self.model, self.rate])


def _norm(cells: np.ndarray) -> Normalize:
    """The scale of colours: logarithmic where cells span a decade."""
    known = cells[np.isfinite(cells)]
    low, high = (known.min(), known.max()) if known.size else (1.0, 1.0)
    if low > 0 and high > _LINEAR_SPAN * low:
        return LogNorm(low, high)
    # A single value needs a scale too.
    return Normalize(low, high if high > low else low + (abs(low) or 1.0))


def _draw_heatmap(
    ax: Axes,
    grid: _Grid,
    numbers: np.ndarray,
    kinds: np.ndarray,
    norm: Normalize,
    words: str,
    unstable: str,
) -> None:
    """Cells (y, x) with their colours, or with the mark of their kind where they are infinite."""
    colours = colormaps["viridis"]
    ax.pcolormesh(np.where(np.isinf(numbers), 0.0, np.nan), cmap=ListedColormap([_EMPTY]))
    mesh = ax.pcolormesh(np.ma.masked_invalid(numbers), norm=norm, cmap=colours)
    marks = []
    for kind, meaning in (("o", "target not reached"), ("x", unstable)):
        rows, columns = np.nonzero(np.isinf(numbers) & (kinds == kind))
        ax.plot(columns + 0.5, rows + 0.5, kind, color="0.4", markersize=4, fillstyle="none")
        if len(rows):
            marks.append(legend_mark(meaning, marker=kind, markersize=4, fillstyle="none"))
    if numbers.size <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
            number = float(numbers[row, column])
            dark = float(norm(number)) < _DARK
            ax.text(column + 0.5, row + 0.5, _short(number), ha="center", va="center", fontsize=7,
                    color="white" if dark else "black")  # fmt: skip
    for axis, names, title in zip((ax.xaxis, ax.yaxis), grid.names, grid.axes, strict=True):
        every = -(-len(names) // _MOST_TICKS)
        axis.set_ticks(np.arange(len(names))[::every] + 0.5, names[::every])
        axis.set_label_text(r"learning rate $\eta$" if title == "learning_rate" else
                            axis_words(title))  # fmt: skip
    if sum(map(len, grid.names[0])) > _LEVEL:
        ax.tick_params(axis="x", labelrotation=90)
    bar = ax.inset_axes((1.03, 0, _BAR, 1))
    figure = ax.get_figure(root=True)
    assert figure is not None
    colour_bar = figure.colorbar(mesh, cax=bar)
    colour_bar.set_label(textwrap.fill(words, 32), fontsize=8)
    bar.tick_params(labelsize=7)
    if isinstance(norm, LogNorm):
        few_ticks(bar.yaxis)
    draw_legend(ax, marks)


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def plot_importance(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """How much of the variance of log steps to the target each axis alone explains.

    A bar for each axis a is S_a = Var_a(E[log T | a]) / Var(log T), see
    `statistics.explained_shares`; the last one is what only several axes together explain.

    Args:
        results: Results of any axes, a full grid.
        best_by: With ``stable`` unstable runs count as missing the target.
        ax: Where it is drawn, in the place of a new figure.
        size: Of a new figure, see `plotting.Options`.
        title: Text, or None for none, see `plotting.Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If the grid is not full, or all runs take equally many steps.
    """
    runs = by_model(results)
    shares = explained_shares(runs, best_by=best_by)
    rest = shares["interactions"]
    own = shares.drop("interactions").sort_values(ascending=False)
    names = [*map(axis_words, own.index.astype(str)), "interactions"]
    heights = 100 * np.array([*own, rest])

    def draw(ax: Axes) -> None:
        places = range(len(names))
        bars = ax.barh(places, heights, 0.7, color=[COLOURS[0]] * len(own) + ["0.7"])
        ax.bar_label(bars, [f"{height:.0f} %" for height in heights], padding=2, fontsize=7.5)
        ax.set_yticks(places, names, fontsize=8)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_xlim(0, 1.15 * max(heights))
        ax.set_xlabel("share of the variance of log steps, %")

    counted = "runs that miss the target" + (" or are unstable" if best_by == "stable" else "")
    missed = f"{shares.attrs['num_missed']:,} of {shares.attrs['num_runs']:,}"
    lines = (
        "What decides the steps to the target",
        f"({counted} count with their whole length: {missed})",
    )
    return compose(
        [Panel("", draw)], ax=ax, size=size, title=title, panel_size=(4.8, 1 + 0.3 * len(names)),
        margins=(0.0, 0.6), grid="x", is_tall=True, is_text=True,
        heading=heading(lines, 1, printable(str(runs.attrs["title"]), 160)),
    )  # fmt: skip
