"""Figures of a sweep: one function per figure, results in, matplotlib Figure out."""

from __future__ import annotations

import functools
import re
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from implicit_accel.errors import UserError
from implicit_accel.figure_files import png_metadata
from implicit_accel.files import atomic_path, printable
from implicit_accel.panels import Canvas, Panel, Size, Title, compose, heading
from implicit_accel.results import (
    ALONG,
    OWN_RATE,
    STEPS,
    by_model,
    coordinate_label,
    coordinate_labels,
    first_unique,
    layer_width,
    model_coordinates,
    model_labels,
    observed,
    shown_values,
    trained,
    varying,
)
from implicit_accel.stability import STABILITY_OF, threshold
from implicit_accel.statistics import (
    BEST_BY_WORDS,
    at_best,
    best_learning_rates,
    bounded,
    compares_final,
    final_excess,
    resolved,
    summarise,
    usable,
    valid_steps,
)

# As many runs are drawn as thin lines, more as a band.
_THIN_LINES = 5

# Okabe & Ito's palette, safe for colour-blind readers; line styles distinguish more lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_PANEL = ("loss_name", "optimizer", "weight_decay", "init", "init_std")

FORMATS = ("png", "pdf")


def _panels(results: xr.Dataset, without: Collection[str] = ()) -> Iterator[tuple[str, list[int]]]:
    """Models that belong in one panel, with its title.

    Linear networks in a panel differ in depth and width; of other models all are in one, or those
    of one loss. Coordinates in ``without`` have no panels of their own: something else shows them.
    """
    names = [
        name for name in (_PANEL if _is_linear(results) else _PANEL[:1])
        if name in results.coords and name not in without
    ]  # fmt: skip
    labels = coordinate_labels(results, names)
    varied = [n for n in names if len(set(labels[n])) > 1]
    groups: dict[tuple[str, ...], list[int]] = {}
    for m in range(results.sizes["model"]):
        groups.setdefault(tuple(labels[n][m] for n in names), []).append(m)
    for models in groups.values():
        m = models[0]
        words = []
        for name in names:
            if name == "loss_name" and _is_linear(results):
                exponent = str(results[name].values[m]).removeprefix("l")
                words.append(rf"$\ell_{{{exponent}}}$ loss")
            elif name in varied or name == "loss_name":
                words.append(plain(labels[name][m]))
        yield ", ".join(filter(None, words)), models


def _is_linear(results: xr.Dataset) -> bool:
    return "axes" not in results.attrs


def plain(label: str) -> str:
    """A label that starts no formula, and that no legend leaves out."""
    return label.replace("$", r"\$").lstrip("_")


def plain_labels(labels: Iterable[str]) -> dict[str, str]:
    """The `plain` labels of different ones, which stay different: they are keys of figures."""
    # Matplotlib leaves labels that begin with an underscore out of legends; a space hides it.
    return first_unique(
        {label: [plain(label), f" {label}".replace("$", r"\$")] for label in labels}
    )


@dataclass(frozen=True)
class Options:
    """Options of every figure of results.

    Attributes:
        ax: An Axes to draw into, in the place of a new figure.
        size: Of a new figure: ``screen``, ``page`` (6.8 inches wide), ``column`` (3.4), or a width
            and a height in inches.
        title: Text; True for the usual one (on screen), False or None for none.
        hue: The model coordinate that decides the colour; line styles distinguish the others.
        x: What lies along the axis.
    """

    ax: Any = None
    size: Size = "screen"
    title: Title = True
    hue: str | None = None
    x: str = "learning_rate"

    def checked(self, results: xr.Dataset) -> Options:
        """These options, if the results have what they name.

        Raises:
            UserError: If they do not; the message lists what there is.
        """
        names = model_coordinates(results)
        if self.hue is not None and self.hue not in names:
            raise UserError(f"hue {self.hue!r}: choose from {', '.join(names) or 'no coordinate'}")
        if self.x not in ("learning_rate", *names):
            raise UserError(f"x {self.x!r}: choose from {', '.join(('learning_rate', *names))}")
        if self.hue == self.x:
            raise UserError(f"hue and x are both {self.x!r}: give different ones")
        return self


def _line_labels(
    results: xr.Dataset, *, x: str = "learning_rate", hue: str | None = None
) -> list[str]:
    """What legends call each model: by what neither the axis along x nor a panel shows."""
    if not _is_linear(results):
        names = _determining(results)
        shown = {*names, "depth"} if x == "learning_rate" else {*names} - {x}
        return list(map(plain, model_labels(results, shown)))
    labels = []
    several = len({layer_width(h) for h in results["hidden_widths"].values.tolist()} - {"-"}) > 1
    colours = coordinate_labels(results, [hue])[hue] if hue in _PANEL else [""] * len(results.model)
    rows = zip(results["depth"].values, results["hidden_widths"].values, colours, strict=True)
    for depth, hidden, colour in rows:
        width = layer_width(str(hidden))
        no_width = depth == 1 or x == "hidden_widths" or (x == "depth" and not several)
        words = [
            "" if x == "depth" else f"depth {depth}", "" if no_width else f"width {width}",
            plain(colour),
        ]  # fmt: skip
        labels.append(", ".join(filter(None, words)))
    return labels


def _determining(results: xr.Dataset) -> list[str]:
    """What models differ in, less the hyper-parameters of configurations.

    A configuration's number stands for these, for which legends have no room.
    """
    names = varying(results)
    return [name for name in names if results[name].attrs.get(ALONG) not in names]


def _figure(
    results: xr.Dataset,
    title: str,
    draw: Callable[[Axes, list[int]], None],
    *,
    rule: str,
    options: Options,
    panel_size: tuple[float, float] = (4.4, 3.4),
    is_tall: bool = False,
    are_legends_below: bool = False,
) -> Any:
    """A row (or grid) of panels under one title, or one panel in an Axes, see `compose`.

    Args:
        results: By model.
        title: Of the figure.
        draw: Draws some models.
        rule: By which rule the learning rates that are shown were chosen: below the title.
        options: The caller's.
        panel_size: In inches.
        is_tall: Whether panels keep their height at any width.
        are_legends_below: Whether legends are below panels on screen too.
    """
    shown = {name for name in (options.x, options.hue) if name}
    panels = [
        Panel(name, lambda ax, models=models: draw(ax, models))
        for name, models in _panels(results, shown)
    ]
    # The dataset's name is text: a dollar sign in it starts no formula.
    name = printable(str(results.attrs["title"]), 160)
    return compose(
        panels, ax=options.ax, size=options.size, title=options.title, panel_size=panel_size,
        heading=heading((title, rule), len(panels), name), is_tall=is_tall,
        are_legends_below=are_legends_below, is_text=True,
    )  # fmt: skip


def _styles(results: xr.Dataset, models: list[int], options: Options) -> list[dict[str, Any]]:
    """How the lines of a panel look.

    Linear networks take one colour after another. Other models have the colour of the first
    coordinate in which models differ, and the line style of all others. With a ``hue`` all models
    have its colour, the same in every panel.
    """
    names = [name for name in varying(results) if name != options.x]
    if options.hue is None and (_is_linear(results) or not names):
        return [_style(i % len(COLOURS), i // len(COLOURS)) for i in range(len(models))]
    first = names[:1] if options.hue is None else [options.hue]
    others = [name for name in names if name not in first]
    labels = coordinate_labels(results, [*first, *others])
    if _is_linear(results) and "hidden_widths" in labels:  # 4 and 4x4 are one width
        labels["hidden_widths"] = list(map(str, shown_values(results, "hidden_widths")))

    def ranks(names: Sequence[str], among: Sequence[int]) -> list[int]:
        rows = {m: tuple(labels[n][m] for n in names) for m in [*among, *models]}
        places = {row: rank for rank, row in enumerate(dict.fromkeys(rows[m] for m in among))}
        return [places[rows[m]] for m in models]

    everywhere = range(results.sizes["model"])
    colours = ranks(first, models if options.hue is None else everywhere)
    looks = [_style(*look) for look in zip(colours, ranks(others, models), strict=True)]
    values = dict.fromkeys(labels[first[0]])
    if options.hue is None or len(values) <= len(COLOURS):
        return looks
    # More values than distinguishable colours: shades, from the first value to the last.
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(values)))
    return [{**look, "color": shades[c]} for look, c in zip(looks, colours, strict=True)]


def _style(colour: int, line: int = 0) -> dict[str, Any]:
    return {
        "linewidth": 1.2,
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": _STYLES[line % len(_STYLES)],
    }


# A legend of more entries would leave no room for the curves.
_MOST_LABELLED = 27


def draw_legend(ax: Axes, marks: Sequence[Line2D] = ()) -> None:
    """A legend of the lines, unless they are many, and of what marks mean, if there are any."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > _MOST_LABELLED:
        handles, labels = [], []
    handles, labels = [*handles, *marks], [*labels, *(str(mark.get_label()) for mark in marks)]
    if not handles:
        return
    ax.legend(
        handles, labels, fontsize=7.5, framealpha=0.85, edgecolor="none", borderpad=0.2,
        ncols=1 + len(handles) // 9,
    )  # fmt: skip


def legend_mark(label: str, **style: Any) -> Line2D:
    """What a legend shows of a mark."""
    return Line2D([], [], color="0.4", linestyle="none", label=label, **style)


# Thin lines behind a median; how far above all medians a panel goes for them.
_SINGLE_RUN = "single run"
_ABOVE = 10


def _log_axes(ax: Axes, x: np.ndarray, *, log_x: bool = True) -> None:
    """Makes both axes logarithmic around x and what is drawn; also if nothing is to be seen.

    A single run that shoots up leaves the panel. Where losses are negative, y stays linear; x does
    without ``log_x``.
    """
    _x_axis(ax, x, log=log_x)
    if any((np.asarray(line.get_ydata(), float) < 0).any() for line in ax.get_lines()):
        return
    single, others = [np.zeros(0)], [np.zeros(0)]
    for line in ax.get_lines():
        drawn = np.asarray(line.get_ydata(), float)
        kept = drawn[(drawn > 1e-290) & (drawn < 1e290)]  # room for margins
        (single if line.get_gid() == _SINGLE_RUN else others).append(kept)
    drawn, highest = np.concatenate(single), np.concatenate(others).max(initial=0)
    if highest > 0:
        drawn = drawn[drawn <= _ABOVE * highest]
    drawn = np.concatenate([drawn, *others])
    low, high = (drawn.min(), drawn.max()) if drawn.size else (0.1, 1.0)
    margin = max((high / low) ** 0.05, 1.1)
    # Limits before scales: choosing limits by itself, matplotlib would stumble over no data.
    ax.set_ylim(low / margin, high * margin)
    ax.set_yscale("log")


def _x_axis(ax: Axes, x: np.ndarray, *, log: bool) -> None:
    """Gives an axis limits around x, and its scale."""
    if not log:
        margin = 0.05 * (x.max() - x.min()) or 0.5
        ax.set_xlim(x.min() - margin, x.max() + margin)
        return
    margin = max((x.max() / x.min()) ** 0.03, 1.1)
    ax.set_xlim(x.min() / margin, x.max() * margin)
    ax.set_xscale("log")
    if x.max() < 80 * x.min():  # Matplotlib's own would label every tick, one over the other
        few_ticks(ax.xaxis)


def few_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, as many as have room."""
    low, high = axis.get_view_interval()
    if high < 2 * low:  # as good as linear
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    elif high < 8 * low:  # powers of ten would leave a tick or none
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    else:
        axis.set_major_locator(LogLocator(subs=(1,) if high > 80 * low else (1, 2, 5)))
    axis.set_major_formatter(lambda x, _: f"{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def _band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quartiles and median over the first axis; no interpolation among infinities."""
    low, high = np.quantile(curves, [0.25, 0.75], axis=0, method="inverted_cdf")
    return low, np.median(curves, axis=0), high


# What a model's excess loss is predicted to be: its number, a learning rate, steps.
Predicted = Callable[[int, float, np.ndarray], np.ndarray]


def plot_excess_loss(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    predicted: Predicted | None = None,
    hue: str | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """Excess loss against step, each model at its best learning rate.

    Lines are medians over seeds; behind them a thin line for each of a few, of more the quartiles'
    band; dashed, the target. Runs that diverge before
    they reach the target are left out (the table counts them); one that diverges later stays at
    its last value. Where half of the runs have diverged, the line ends in a cross. Of a median that
    oscillates all along, the line is the running median over a tenth of a decade of steps, and the
    median itself is behind it. Nothing is drawn
    below what the precision resolves, a dotted line where it is reached. Thin dashed lines in black
    are predictions, where there are some.

    Args:
        results: Results of any axes.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        predicted: From a model's number, a learning rate and steps, what is predicted.
        hue: The coordinate that decides the colour, see `Options`.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `Options`.
        title: Text, or None for none, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If an option is not allowed, or the results need more panels than ``ax`` is.
    """
    results = by_model(results)
    options = Options(ax=ax, size=size, title=title, hue=hue).checked(results)
    best, labels = best_learning_rates(results, best_by), _line_labels(results, hue=hue)
    steps = results["step"].values
    diverged = results["divergence_step"].values

    def draw(ax: Axes, models: list[int]) -> None:
        marks = {}
        for m, style in zip(models, _styles(results, models, options), strict=True):
            label = labels[m]
            if best[m] < 0:
                ax.plot([], [], label=f"{label}: diverges at every rate", **style)
                continue
            # The median run has diverged once half of the runs have.
            end = np.median(np.where(np.isnan(diverged[m, best[m]]), np.inf, diverged[m, best[m]]))
            shown = (steps > 0) & (steps < end)  # a log axis has no place for step 0
            curves = shown_runs(results, m, int(best[m]))[:, shown]
            middle = np.median(curves, axis=0)
            label += _rate_label(results, best[m])
            if _oscillates(middle):
                ax.plot(steps[shown], middle, color=style["color"], linewidth=0.5, alpha=0.3,
                        gid=_SINGLE_RUN)  # fmt: skip
                curves = np.array([_running_median(steps[shown], curve) for curve in curves])
                middle, label = _running_median(steps[shown], middle), f"{label}, running median"
            _draw_spread(ax, steps[shown], curves, style)
            ax.plot(steps[shown], middle, label=label, **style)
            if np.isfinite(end) and shown.any():
                ax.plot(steps[shown][-1], middle[-1], "x", color=style["color"])
                marks["x"] = legend_mark("half of the runs diverged", marker="x")
            if predicted is not None:
                rate = float(results["learning_rate"].values[best[m]])
                _draw_predicted(ax, steps[steps > 0], predicted(m, rate, steps[steps > 0]))
        for target in dict.fromkeys(
            float(np.median(results["target"].isel(model=m))) for m in models
        ):
            if np.isfinite(target) and target != 0:  # 0 is what older results hold without one
                ax.axhline(target, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
                ax.text(0.01, target, "target", fontsize=7, color="0.4", va="bottom",
                        transform=ax.get_yaxis_transform())  # fmt: skip
        _mark_resolution(ax, results, models)
        _log_axes(ax, steps[steps > 0])
        ax.set_xlabel("step")
        ax.set_ylabel(r"excess loss $L - L^*$" if _knows_optimum(results) else "loss $L$")
        draw_legend(ax, [*marks.values()])

    what = "Excess loss" if _knows_optimum(results) else "Loss"
    words = f"{what} at each model's best learning rate"
    return _figure(results, words, draw, rule=f"({BEST_BY_WORDS[best_by]})", options=options)


# A curve whose ways up and down, in log loss, are together so many times its range oscillates; and
# the decades of steps over which its running median is taken, to both sides.
_OSCILLATING = 10.0
_HALF_WINDOW = 0.05


def _oscillates(curve: np.ndarray) -> bool:
    """Whether a curve goes up and down all along, past the edge of stability."""
    kept = np.log(curve[np.isfinite(curve) & (curve > 0)])
    return len(kept) > 2 and float(np.abs(np.diff(kept)).sum()) > _OSCILLATING * np.ptp(kept) > 0


def _running_median(steps: np.ndarray, curve: np.ndarray) -> np.ndarray:
    places = np.log10(steps)
    first = np.searchsorted(places, places - _HALF_WINDOW, side="left")
    last = np.searchsorted(places, places + _HALF_WINDOW, side="right")
    return np.array([np.median(curve[i:j]) for i, j in zip(first, last, strict=True)])


def _draw_predicted(ax: Axes, steps: np.ndarray, curve: np.ndarray) -> None:
    """A predicted curve, over the measured one that it should hide."""
    known = np.isfinite(curve)
    if known.any():
        named = "predicted" in ax.get_legend_handles_labels()[1]
        ax.plot(
            steps[known], curve[known], color="black", linewidth=0.8, linestyle=(0, (3, 3)),
            label=None if named else "predicted",
        )  # fmt: skip


def _rate_label(results: xr.Dataset, rate: int) -> str:
    value = results["learning_rate"].values[rate]
    return rf", $\eta$ = {value:.3g}" if np.isfinite(value) else ""


def shown_runs(results: xr.Dataset, m: int, rate: int) -> np.ndarray:
    """Excess losses (seed, step) of the runs that a curve is made of, see `plot_excess_loss`."""
    runs = results.isel(model=m, learning_rate=rate)
    curves = resolved(runs).values
    diverged = np.isfinite(runs["divergence_step"].values)
    reached = np.isfinite(runs["steps_to_target"].values)
    kept = reached | ~diverged
    curves = curves[kept] if kept.any() else curves
    return pd.DataFrame(np.where(np.isfinite(curves), curves, np.nan)).ffill(axis=1).to_numpy()


def _knows_optimum(results: xr.Dataset) -> bool:
    """Whether excess losses are above a known optimum; without one they are the losses."""
    return bool(results.attrs.get("is_optimum_known", True))


def _mark_resolution(ax: Axes, results: xr.Dataset, models: list[int]) -> None:
    """Draws the least excess loss that the precision resolves, if a line lies on it."""
    floor = float(np.median(results["resolution"].isel(model=models[0])))
    if floor > 0 and any(
        (np.asarray(line.get_ydata(), float) <= floor).any() for line in ax.get_lines()
    ):
        label = f"below: rounding ({results.attrs['precision']})"
        ax.axhline(floor, color="0.4", linewidth=0.8, linestyle=":", label=label)


def plot_learning_rates(
    results: xr.Dataset,
    *,
    x: str = "learning_rate",
    best_by: str = "stable",
    hue: str | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """Final excess loss against learning rate or another axis; where it ends, the median diverges.

    Rings mark the rates that `summarise` chooses by the same rule; one on the top edge marks a rate
    at which the median run has diverged by the last step. Crosses on the top edge mark rates at
    which more than a tenth of the runs counts as diverged, see `best_learning_rates`. Against
    another axis every model is at its own best rate.

    Args:
        results: Results of any axes.
        x: The axis: ``learning_rate`` or a coordinate of the models, e.g. ``"momentum"``.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        hue: The coordinate that decides the colour, see `Options`.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `Options`.
        title: Text, or None for none, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If an option is not allowed, or the results need more panels than ``ax`` is.
    """
    results = by_model(results)
    options = Options(ax=ax, size=size, title=title, hue=hue, x=x).checked(results)
    what = "excess loss" if _knows_optimum(results) else "loss"
    return _plot_against(
        results, final_excess(results), best_by, options, name=f"Final {what}",
        ylabel=f"{what} after {results.attrs['num_steps']:,} steps", is_loss=True,
    )  # fmt: skip


def plot_steps_to_target(
    results: xr.Dataset,
    *,
    x: str = "learning_rate",
    best_by: str = "stable",
    hue: str | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """Steps to the target against learning rate or another axis, as in `plot_learning_rates`.

    With ``best_by="stable"`` unstable runs count as never there, as in the table. A ring on the top
    edge marks a best rate at which the median run misses the target.

    Args:
        results: Results of any axes.
        x: The axis: ``learning_rate`` or a coordinate of the models, e.g. ``"momentum"``.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        hue: The coordinate that decides the colour, see `Options`.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `Options`.
        title: Text, or None for none, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If an option is not allowed, or the results need more panels than ``ax`` is.
    """
    results = by_model(results)
    options = Options(ax=ax, size=size, title=title, hue=hue, x=x).checked(results)
    steps = np.maximum(valid_steps(results, stable=best_by == "stable"), 1)
    return _plot_against(
        results, steps, best_by, options, name="Steps to target", ylabel="steps to target",
        without=": not reached",
    )  # fmt: skip


def _plot_against(
    results: xr.Dataset,
    values: np.ndarray,
    best_by: str,
    options: Options,
    *,
    name: str,
    ylabel: str,
    without: str = "",
    is_loss: bool = False,
) -> Any:
    """A figure of values (model, learning_rate, seed) against the axis ``options.x``.

    Args:
        results: By model.
        values: What is drawn.
        best_by: What makes a learning rate the best.
        options: Of the figure.
        name: Of the values, in the title.
        ylabel: Beside the axis.
        without: What ends the label of a line that has no value.
        is_loss: Whether values are losses, below some of which the precision resolves nothing.
    """

    def draw(ax: Axes, models: list[int]) -> None:
        marks = _draw_against(ax, results, models, values, best_by, options, without=without)
        if is_loss:
            _mark_resolution(ax, results, models)
        ax.set_ylabel(ylabel)
        draw_legend(ax, marks)

    return _figure(
        results, f"{name} against {axis_words(options.x)}", draw,
        rule=_best_words(best_by, options.x), options=options, are_legends_below=True,
    )  # fmt: skip


def axis_words(x: str) -> str:
    """What an axis is called."""
    return plain({"hidden_widths": "width"}.get(x, x.replace("_", " ")))


def _best_words(best_by: str, x: str) -> str:
    """The rule below a title: at which rates lines are, or which rate is marked."""
    which = "best rate" if x == "learning_rate" else "each at its best rate"
    return f"({which}: {BEST_BY_WORDS[best_by]})"


# What a cross in a figure against the learning rate means, by the rule for the best one.
_DIVERGING = {"stable": "unstable", "target": "diverges before the target", "final": "diverges"}


@dataclass(frozen=True)
class _Line:
    """Values of a model at its learning rates, or of several along another axis.

    Attributes:
        label: In the legend.
        places: (T,) positions among the axis' values.
        values: (T, seed).
        diverging: (T,) where more than a tenth of the runs counts as diverged.
        best: Position of the best learning rate among the axis' values; −1 for none.
        at_best: (seed,) values there.
    """

    label: str
    places: np.ndarray
    values: np.ndarray
    diverging: np.ndarray
    best: int
    at_best: np.ndarray


def _lines(
    results: xr.Dataset, models: list[int], values: np.ndarray, best_by: str, options: Options
) -> list[tuple[int, _Line]]:
    """The lines of a panel, each with the number of a model that has its look.

    Args:
        results: By model.
        models: Of the panel.
        values: (model, learning_rate, seed).
        best_by: What makes a learning rate the best.
        options: Of the figure.
    """
    best, fine = best_learning_rates(results, best_by), usable(results, best_by)
    labels = _line_labels(results, x=options.x, hue=options.hue)
    if options.x == "learning_rate":
        tried = trained(results)
        if OWN_RATE in results.coords:
            places = np.searchsorted(_rates(results), results[OWN_RATE].values)
            return [
                (m, _Line(labels[m], places[[m]], values[m], ~fine[m],
                          int(places[m]) if best[m] >= 0 else -1, values[m, 0]))
                for m in models
            ]  # fmt: skip
        return [
            (m, _Line(labels[m], np.flatnonzero(tried[m]), values[m][tried[m]],
                      ~fine[m][tried[m]], int(best[m]), values[m, best[m]]))
            for m in models
        ]  # fmt: skip
    own = at_best(best, values)
    diverging = np.where(best < 0, True, ~fine[np.arange(len(best)), best])
    along = axis_values(results, options.x)[1]
    groups = [
        group[np.argsort(along[group], kind="stable")]
        for group in alike(results, models, [options.x])
    ]
    return [
        (group[-1], _Line(labels[group[-1]], along[group], own[group], diverging[group], -1,
                          np.zeros(0)))
        for group in groups
    ]  # fmt: skip


def alike(results: xr.Dataset, models: Sequence[int], without: Sequence[str]) -> list[np.ndarray]:
    """Models grouped by all coordinates but some.

    A model to which another coordinate does not apply (hidden widths, to a single layer) is in each
    group that it fits.

    Args:
        results: By model.
        models: Numbers of some models.
        without: Coordinates in which models of a group may differ.

    Returns:
        The models' numbers.
    """
    names = varying(results, without=without)
    values = {name: shown_values(results, name) for name in names}
    rows = {m: tuple(str(values[name][m]) for name in names) for m in models}

    def fit(row: tuple[str, ...], other: tuple[str, ...]) -> bool:
        return all(a in ("-", b) for a, b in zip(row, other, strict=True))

    whole = [row for row in dict.fromkeys(rows.values())
             if not any(row != other and fit(row, other) for other in rows.values())]  # fmt: skip
    return [np.array([m for m in models if fit(rows[m], row)], int) for row in whole]


def axis_values(results: xr.Dataset, x: str) -> tuple[list[Any], np.ndarray]:
    """A coordinate's values, numbers in ascending order, and each model's position among them."""
    values = shown_values(results, x)
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) for value in distinct):
        distinct.sort()
    return distinct, np.array([distinct.index(value) for value in values])


def axis_names(results: xr.Dataset, x: str) -> list[str]:
    """What ticks call the `axis_values`."""
    values, places = axis_values(results, x)
    if all(isinstance(value, int | float) for value in values):
        return [f"{value:.6g}" for value in values]
    labels = coordinate_labels(results, [x])[x]
    found = places.tolist()
    return [plain(labels[found.index(i)]) or "none" for i in range(len(values))]


def _is_geometric(values: np.ndarray) -> bool:
    """Whether a logarithmic axis spaces values more evenly than a linear one."""
    if not (values > 0).all() or len(values) < 2:
        return False
    if len(values) == 2:
        return bool(values[1] > 20 * values[0])
    spread = [np.std(gaps) / np.mean(gaps) for gaps in (np.diff(np.log(values)), np.diff(values))]
    return bool(spread[0] < spread[1])


def _draw_against(
    ax: Axes,
    results: xr.Dataset,
    models: list[int],
    values: np.ndarray,
    best_by: str,
    options: Options,
    *,
    without: str = "",
) -> list[Line2D]:
    """Values (model, learning_rate, seed) against an axis, as far as there is anything to see.

    A line's label ends with ``without`` if its median has no value anywhere.

    Returns:
        What the legend shows of the marks.
    """
    is_rate = options.x == "learning_rate"
    names = list(_rates(results)) if is_rate else axis_values(results, options.x)[0]
    is_number = all(isinstance(name, int | float) and np.isfinite(name) for name in names)
    x = np.array(names if is_number else range(len(names)), float)
    log_x = is_rate or (is_number and _is_geometric(x))
    found = _lines(results, models, values, best_by, options)
    styles = _styles(results, [m for m, _ in found], options)
    lines = [line for _, line in found]
    seen = np.zeros(len(x), bool)
    marks: dict[str, Line2D] = {}
    for line, style in zip(lines, styles, strict=True):
        curves = line.values.T
        middle = np.median(curves, axis=0)
        known = np.isfinite(middle)
        seen[line.places] |= known
        style = {**style, "marker": "o", "markersize": 2.5}
        _draw_spread(ax, x[line.places], np.where(known, curves, np.nan), style)
        ax.plot(
            x[line.places], np.where(known, middle, np.nan),
            label=line.label + ("" if known.any() else without), **style,
        )  # fmt: skip
        if line.best >= 0:
            seen[line.best] = True
            height = np.median(line.at_best)
            if np.isfinite(height):
                ax.plot(x[line.best], height, color=style["color"], **_RING)
            marks["best"] = legend_mark("best rate", **_RING)
    shown = np.flatnonzero(seen)
    # One rate more on both sides: where a line ends is seen only if there is something beyond.
    ends = (max(shown[0] - 1, 0), shown[-1] + 2) if is_rate and len(shown) else (0, len(x))
    _log_axes(ax, x[slice(*ends)], log_x=log_x)
    ax.set_xlabel(r"learning rate $\eta$" if is_rate else axis_words(options.x))
    if not is_number:
        words = axis_names(results, options.x)
        ax.set_xticks(x, words, rotation=30 if max(map(len, words)) > _LEVEL_TICKS else 0)
    elif not log_x and len(x) <= _MOST_TICKS:
        ax.set_xticks(x, [f"{value:g}" for value in x])
    on_edge = {"clip_on": False, "transform": ax.get_xaxis_transform()}
    for position, (line, style) in enumerate(zip(lines, styles, strict=True)):
        height = 1.0 - 0.035 * position
        if line.best >= 0 and not np.isfinite(np.median(line.at_best)):
            (ring,) = ax.plot(x[line.best], height, color=style["color"], **_RING, **on_edge)
            ring.set_in_layout(False)
        bad = line.places[line.diverging & (line.places >= ends[0]) & (line.places < ends[1])]
        (crosses,) = ax.plot(
            x[bad], np.full(len(bad), height), "x", markersize=3.5, color=style["color"], **on_edge
        )
        # Unclipped and perhaps empty, it would confuse the layout.
        crosses.set_in_layout(False)
        if len(bad):
            marks["x"] = legend_mark(_DIVERGING[best_by], marker="x", markersize=3.5)
    return list(marks.values())


# A best rate's mark.
_RING: Mapping[str, Any] = {"marker": "o", "markersize": 8, "fillstyle": "none"}

# As many values of an axis have a tick each, and names up to so many letters lie level.
_MOST_TICKS = 8
_LEVEL_TICKS = 8


def _draw_spread(ax: Axes, x: np.ndarray, curves: np.ndarray, style: Mapping[str, Any]) -> None:
    """What is behind a median of (run, T) curves: a thin line for each of a few, else a band."""
    if len(curves) < 2:
        return
    if len(curves) <= _THIN_LINES:
        for curve in np.where(np.isfinite(curves), curves, np.nan):
            ax.plot(x, curve, color=style["color"], linewidth=0.5, alpha=0.3, gid=_SINGLE_RUN)
        return
    low, middle, high = _band(np.where(np.isnan(curves), np.inf, curves))
    low, high = (np.where(np.isfinite(middle), c, np.nan) for c in (low, high))
    # A quartile that diverged leaves the panel.
    ax.fill_between(x, low, np.minimum(high, 1e300), alpha=0.2, linewidth=0, color=style["color"])


def _rates(results: xr.Dataset) -> np.ndarray:
    """Learning rates as places on an axis: one that is not known is at 1."""
    if OWN_RATE in results.coords:  # each model has one rate
        return np.unique(results[OWN_RATE].values)
    return np.nan_to_num(results["learning_rate"].values, nan=1.0)


def plot_speed_up(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    baseline: Mapping[str, object] | None = None,
    hue: str | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """Each model's comparison with its baseline, with 95 % intervals, or the range of few seeds.

    Compared are steps to the target or, with ``best_by="final"``, final excess losses, see
    `summarise`. Arrows are bounds: one of the two models did not reach the target within the run's
    steps, or what the precision resolves.

    Args:
        results: Results of any axes.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        baseline: What models are compared with, see `summarise`.
        hue: The coordinate that decides the colour, see `Options`.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `Options`.
        title: Text, or None for none, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: As `summarise`, or if an option is not allowed, or the results need more panels
            than ``ax`` is.
    """
    results = by_model(results)
    options = Options(ax=ax, size=size, title=title, hue=hue).checked(results)
    table = summarise(results, best_by=best_by, baseline=baseline)
    final, labels = compares_final(table), _line_labels(results, hue=hue)
    wanted = table.attrs["baseline"] or {"depth": 1}
    words = (
        coordinate_label(name, value, results[name].values.tolist() if name in results else ())
        for name, value in wanted.items()
    )
    base = plain(", ".join(words))
    if final:
        what = "How many times lower the final excess loss is"
        xlabel = f"final excess loss of {base} over the model's"
    else:
        what = f"How many times fewer steps than {base}"
        xlabel = f"speed-up over {base}: slower | faster"
    if wanted == {"depth": 1} and not final:
        what = "How many times fewer steps than one layer"

    def draw(ax: Axes, models: list[int]) -> None:
        rows = zip(models, _styles(results, models, options), strict=True)
        _draw_comparisons(ax, table, [(m, style["color"]) for m, style in rows], final=final)
        ax.set_yticks(range(len(models)), [labels[m] for m in models], fontsize=8)
        ax.set_xlabel(xlabel)

    rule = f"(best learning rates: {BEST_BY_WORDS[best_by]})"
    most = max(len(models) for _, models in _panels(results, [hue] if hue else ()))
    return _figure(
        results, what, draw, rule=rule, options=options, is_tall=True,
        panel_size=(4.4, max(2.6, 0.9 + 0.24 * most)),
    )  # fmt: skip


# Around a number that lies on a line.
_TEXT_HALO = (withStroke(linewidth=2, foreground="white"),)


def _draw_comparisons(
    ax: Axes, table: pd.DataFrame, models: list[tuple[int, str]], *, final: bool
) -> None:
    """A row per model, each with its colour: its ratio to its baseline, see `plot_speed_up`."""
    ax.axvline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_xscale("log")
    shown = [0.5, 2.0]
    intervals = []
    compared = "final_ratio" if final else "speed_up"
    for position, (m, colour) in enumerate(models):
        row = table.iloc[m]
        value, bound = bounded(table, m)
        if not (np.isfinite(value) and value > 0):
            words = "no baseline" if not row["baseline"] else "diverged" if final else "not reached"
            ax.annotate(words, (1, position), fontsize=7.5, va="center", ha="center",
                        color=colour, backgroundcolor="white")  # fmt: skip
            continue
        marker = {"": "o", ">": ">", "<": "<"}[bound]
        ax.plot(value, position, marker=marker, color=colour, markersize=6)
        ends = np.array([row[f"{compared}_low"], row[f"{compared}_high"]], float)
        shown.append(value)
        if not bound and not np.isnan(ends).any():
            shown += [end for end in ends if 0 < end < np.inf]
            intervals.append((position, ends, colour))
        text = f"{'≥ ' if bound == '>' else '≤ ' if bound == '<' else ''}{value:.3g}×"
        ax.annotate(text, (value, position), xytext=(0, 7), textcoords="offset points",
                    fontsize=7.5, ha="center", path_effects=_TEXT_HALO)  # fmt: skip
    ax.set_ylim(len(models) - 0.4, -0.6)
    limits = (min(shown) / 1.3, max(shown) * 1.3)
    ax.set_xlim(*limits)
    for position, ends, colour in intervals:
        inside = np.clip(ends, *limits)
        ax.plot(inside, [position] * 2, color=colour, linewidth=2, solid_capstyle="butt")
        _draw_arrows(ax, ends, position, colour)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(shown) < 50 * min(shown) else (1,)))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_arrows(ax: Axes, ends: np.ndarray, place: float, colour: str) -> None:
    """Arrow heads on the edges of a panel, where an interval's ends lie beyond them."""
    left, right = ax.get_xlim()
    for end in ends[_is_open(ends, log=ax.get_xscale() == "log")]:
        edge, marker = (right, ">") if end > 0 else (left, "<")
        ax.plot(edge, place, marker, color=colour, markersize=5, clip_on=False)


def _is_open(ends: np.ndarray, *, log: bool) -> np.ndarray:
    """Whether the ends of intervals have no place on an axis: infinite, or not above 0 on a log."""
    return np.isinf(ends) | ((ends <= 0) & log)


# Around a mark that lies on lines.
_HALO = (withStroke(linewidth=4, foreground="white"),)

# A quantity whose values differ by more is drawn on a logarithmic axis.
_LINEAR_SPAN = 100.0


def plot_observable(
    results: xr.Dataset,
    name: str,
    *,
    reference: Callable[[xr.Dataset], float] | None = None,
    reference_label: str = "",
    best_by: str = "stable",
    hue: str | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
    title: Title = True,
) -> Canvas:
    """Something that was recorded along the runs, each model at its best learning rate.

    Lines are medians over seeds, as long as half of the runs have not diverged; behind them a thin
    line per seed or, of more than five seeds, a band between the quartiles. Crosses mark where
    runs diverge. Axes are logarithmic where what is drawn spans decades.

    Args:
        results: Results of any axes.
        name: A variable over the steps or the steps of observation.
        reference: For each model a dashed line in its colour is drawn at the height that this
            gives for its runs, e.g. ``lambda runs: 2 / float(runs["learning_rate"])``; NaN for
            none.
        reference_label: What the legend calls these lines, as matplotlib text.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        hue: The coordinate that decides the colour, see `Options`.
        ax: Where it is drawn, in the place of a new figure; for results that need one panel.
        size: Of a new figure, see `Options`.
        title: Text, or None for none, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If results have no such curves; the message lists those there are. Also if an
            option is not allowed, or the results need more panels than ``ax`` is.
    """
    results = by_model(results)
    options = Options(ax=ax, size=size, title=title, hue=hue).checked(results)
    curves = {n: v.dims[-1] for n, v in results.data_vars.items() if v.dims[-1] in STEPS}
    if name not in curves:
        raise UserError(f"{name!r} was not recorded: there are {', '.join(map(str, curves))}")
    steps = results[curves[name]].values
    best, labels = best_learning_rates(results, best_by), _line_labels(results, hue=hue)

    def draw(ax: Axes, models: list[int]) -> None:
        marks = []
        for m, style in zip(models, _styles(results, models, options), strict=True):
            label = labels[m]
            if best[m] < 0:
                ax.plot([], [], label=f"{label}: diverges at every rate", **style)
                continue
            runs = results.isel(model=m, learning_rate=best[m])
            ends = np.nan_to_num(runs["divergence_step"].values, nan=np.inf)
            label += _rate_label(results, best[m])
            if _draw_runs(ax, steps, runs[name].values.astype(float), ends, label, style):
                marks = [legend_mark("a run diverges", marker="x", markeredgewidth=2)]
            if reference is not None:
                height = reference(runs)
                ax.axhline(height, color=style["color"], linewidth=0.8, linestyle=(0, (4, 3)))
        if reference is not None and reference_label:
            ax.plot([], [], color="0.4", linewidth=0.8, linestyle=(0, (4, 3)),
                    label=reference_label)  # fmt: skip
        _scales(ax, steps)
        ax.set_xlabel("step")
        words = plain(str(results[name].attrs.get("long_name", name.replace("_", " "))))
        ax.set_ylabel(textwrap.fill(words, 36))
        draw_legend(ax, marks)

    what = plain(name.replace("_", " ")).capitalize()
    what = f"{what} at each model's best learning rate"
    return _figure(
        results, what, draw, rule=f"({BEST_BY_WORDS[best_by]})", options=options,
        are_legends_below=reference is not None,
    )  # fmt: skip


def _draw_runs(
    ax: Axes,
    steps: np.ndarray,
    curves: np.ndarray,
    ends: np.ndarray,
    label: str,
    style: dict[str, Any],
) -> bool:
    """Draws a model's (seed, step) curves, see `plot_observable`; runs diverge at their ends.

    Returns:
        Whether a cross marks where one diverges.
    """
    going_on = np.isfinite(curves) & (steps < ends[:, None])
    curves = np.where(going_on, curves, np.nan)
    several = len(curves) > 1
    # Medians are over all seeds: once half of them have diverged, there is none.
    kept = 2 * going_on.sum(axis=0) > len(curves)
    low, middle, high = _band(np.where(going_on, curves, np.inf)[:, kept])
    if len(curves) <= _THIN_LINES:
        _draw_spread(ax, steps, curves, style)
    elif several:
        high = np.where(np.isfinite(high), high, middle)
        ax.fill_between(steps[kept], low, high, alpha=0.2, linewidth=0, color=style["color"])
    ax.plot(steps[kept], middle, label=label, **style)
    is_marked = False
    for curve, seen, end in zip(curves, going_on, ends, strict=True):
        if np.isfinite(end) and seen.any():
            last = np.flatnonzero(seen)[-1]
            ax.plot(
                steps[last], curve[last], "x", color=style["color"], markersize=8,
                markeredgewidth=2, zorder=4, path_effects=_HALO,
            )  # fmt: skip
            is_marked = True
    return is_marked


def _scales(ax: Axes, steps: np.ndarray) -> None:
    """Makes an axis logarithmic where what lies along it spans decades."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() > _LINEAR_SPAN * drawn.min():
        ax.set_yscale("log")
    # Steps at equal distances span decades too: only records that are densest at the start are
    # made for a logarithmic axis.
    if len(steps) > 2 and steps[-1] > _LINEAR_SPAN and np.median(steps) < steps[-1] / 10:
        ax.set_xscale("log")
        ax.set_xlim(left=max(steps[0], steps[1] if steps[0] == 0 else 0))


class Interval(Protocol):
    """A named number with the ends of its interval (NaN if it has none), and a note."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def note(self) -> str: ...  # noqa: D102


def plot_effects(
    series: Mapping[str, Sequence[Interval]],
    *,
    xlabel: str,
    title: Title = None,
    reference: float = 1.0,
    log: bool = True,
    remark: Callable[[Any], str] | None = None,
    hollow: Callable[[Any], bool] | None = None,
    hollow_is: str = "",
    ax: Canvas | None = None,
    size: Size = "screen",
) -> Canvas:
    """Effects with their 95 % intervals, one row each: a forest plot.

    Behind an interval a pale bar spans what the halves of the learning rates' grid give alone, of
    effects that have ``halves``. One that is a ``bound`` is an arrow. An interval with an infinite
    end, or on a logarithmic axis one at 0, reaches to the edge of the panel, with an arrow there.

    Args:
        series: Label → effects, as many in each; those at one position share a row, which has the
            first one's name. In the place of one without a value its note is written. A series
            named after a depth ("depth 2") has that depth's colour.
        xlabel: What the effects measure.
        title: Of the figure, or of ``ax``.
        reference: Where a line marks "no effect".
        log: Whether the axis is logarithmic; effects that are not above 0 are then left out.
        remark: What is written beside each effect, at the right.
        hollow: Which effects have a hollow mark.
        hollow_is: What the legend calls these.
        ax: Where it is drawn, in the place of a new figure.
        size: Of a new figure, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If there is no such size, or ``ax`` is no Axes.
    """
    columns = [list(effects) for effects in series.values()]
    names = [effect.name for effect in columns[0]]
    height = 1.3 + 0.19 * len(names) * (1 + len(columns))

    everything = [effect for effects in columns for effect in effects]
    halved = any(getattr(effect, "halves", ()) for effect in everything)
    is_bound = any(getattr(effect, "bound", "") for effect in everything)
    some_hollow = hollow is not None and any(map(hollow, everything))

    def draw(ax: Axes) -> None:
        _draw_effects(
            ax, columns, list(series), names, reference, log=log, remark=remark, hollow=hollow
        )
        ax.set_xlabel(xlabel)
        if halved:
            ax.plot([], [], color="0.4", linewidth=6, alpha=0.25, label="halves of the rates' grid")
        if is_bound:
            ax.plot([], [], ">", color="0.4", markersize=4.5, label="bound")
        if some_hollow:
            ax.plot([], [], "o", color="0.4", markersize=4.5, label=hollow_is, **_HOLLOW)

    return compose(
        [Panel("", draw)], ax=ax, size=size, title=title, panel_size=(7.6, height),
        margins=(0.0, 0.0), grid="x", is_tall=True,
        legend=len(columns) * (len(columns) > 1) + halved + is_bound + some_hollow,
    )  # fmt: skip


# The mark of an effect that is not comparable with the others.
_HOLLOW: Mapping[str, Any] = {"markerfacecolor": "white", "zorder": 3}


def _draw_effects(
    ax: Axes,
    columns: Sequence[Sequence[Interval]],
    labels: Sequence[str],
    names: Sequence[str],
    reference: float,
    *,
    log: bool,
    remark: Callable[[Any], str] | None,
    hollow: Callable[[Any], bool] | None,
) -> None:
    """A row for each name, with an interval of each column, see `plot_effects`."""
    ax.axvline(reference, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    if log:
        ax.set_xscale("log")
    shown = [reference]
    beyond: list[tuple[np.ndarray, float, str]] = []
    for number, (label, effects) in enumerate(zip(labels, columns, strict=True)):
        depth = re.fullmatch(r"depth ([1-9])", label)
        colour = COLOURS[((int(depth[1]) - 1) if depth else number) % len(COLOURS)]
        places = np.arange(len(effects)) + (number - (len(columns) - 1) / 2) * 0.62 / len(columns)
        values = np.array([effect.value for effect in effects], float)
        ends = np.array([(effect.low, effect.high) for effect in effects], float)
        drawn = np.isfinite(values) & ((values > 0) | (not log))
        bounds = np.array([getattr(effect, "bound", "") or "o" for effect in effects])
        # The first has the series' name; intervals are drawn later, below hollow marks.
        is_hollow = np.array([hollow is not None and hollow(effect) for effect in effects], bool)
        for marker, empty in dict.fromkeys([("o", False), *zip(bounds, is_hollow, strict=True)]):
            chosen = drawn & (bounds == marker) & (is_hollow == empty)
            named = label if (marker, empty) == ("o", False) else "_others"
            ax.plot(
                values[chosen], places[chosen], marker, color=colour, markersize=4.5, label=named,
                **(_HOLLOW if empty else {}),
            )  # fmt: skip
        for place, effect in zip(places, effects, strict=True):
            if remark is not None and np.isfinite(effect.value):
                ax.annotate(remark(effect), (1.01, place), xycoords=("axes fraction", "data"),
                            fontsize=7, color=colour, va="center")  # fmt: skip
        for place, effect in zip(places[~drawn], np.array(effects, object)[~drawn], strict=True):
            words = effect.note.split("; ")[-1] or "no value"
            ax.annotate(
                words, (0.99, place), xycoords=("axes fraction", "data"), fontsize=7, color=colour,
                va="center", ha="right", path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
        for place, effect in zip(places[drawn], np.array(effects, object)[drawn], strict=True):
            halves = [half for half in getattr(effect, "halves", ()) if 0 < half < np.inf]
            if halves:  # behind the interval
                ax.hlines(place, min(halves), max(halves), color=colour, linewidth=6, alpha=0.25)
                shown += halves
        is_open = _is_open(ends, log=log)
        valid = drawn & np.isfinite(ends).all(axis=1) & ~is_open.any(axis=1)
        ax.hlines(places[valid], *ends[valid].T, color=colour, linewidth=1.6)
        leaving = drawn & ~np.isnan(ends).any(axis=1) & is_open.any(axis=1)
        beyond += [(ends[i], places[i], colour) for i in np.flatnonzero(leaving)]
        shown += [*values[drawn], *ends[valid].ravel(), *ends[leaving][~is_open[leaving]]]
    low, high = min(shown), max(shown)
    if log:
        ax.set_xlim(low / 1.25, high * 1.25)
        narrow, wide = high < 5 * low, high > 80 * low
        subs = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if narrow else (1,) if wide else (1, 2, 5)
        ax.xaxis.set_major_locator(LogLocator(subs=subs))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if beyond and not log:  # finite ends of these intervals have not widened the axis yet
        margin = 0.05 * (high - low) or 1.0
        ax.set_xlim(low - margin, high + margin)
    for ends, place, colour in beyond:
        ax.hlines(place, *np.clip(ends, *ax.get_xlim()), color=colour, linewidth=1.6)
        _draw_arrows(ax, ends, place, colour)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)


def plot_curves(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    xlabel: str,
    ylabel: str,
    title: Title = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Canvas | None = None,
    size: Size = "screen",
) -> Canvas:
    """Curves on logarithmic axes: medians over runs, behind them few runs' own or quartiles.

    Args:
        panels: Title → label → (x, curves), with x of shape (T,) and curves (runs, T). What is not
            finite or not above 0 is left out.
        xlabel: Below every panel.
        ylabel: Beside the first panel of a row.
        title: Of the figure, or of ``ax``.
        styles: Label → matplotlib's options of its line, a colour among them, which are not the
            usual ones.
        ax: Where it is drawn, in the place of a new figure; for one panel.
        size: Of a new figure, see `Options`.

    Returns:
        The figure, or ``ax`` if it is given.

    Raises:
        UserError: If there is no such size, or there are more panels than ``ax`` is.
    """
    # One legend, below, where all panels have the same lines.
    shared = len(panels) > 1 and len({tuple(lines) for lines in panels.values()}) == 1
    longest = max((len(label) for lines in panels.values() for label in lines), default=0)

    def draw(ax: Axes, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        everywhere = []
        for position, (label, (x, curves)) in enumerate(lines.items()):
            valid = np.where(np.isfinite(curves), curves, np.inf)
            middle = np.median(np.asarray(valid, float), axis=0)
            drawn = (x > 0) & (middle > 0) & np.isfinite(middle)
            usual = _style(position % len(COLOURS), position // len(COLOURS))
            style = {**usual, **(styles or {}).get(label, {})}
            _draw_spread(ax, x[drawn], np.asarray(valid, float)[:, drawn], style)
            ax.plot(x, np.where(drawn, middle, np.nan), label=label, **style)
            everywhere.append(x[x > 0])
        _log_axes(ax, np.concatenate(everywhere))
        ax.set_xlabel(xlabel)
        if not shared:
            draw_legend(ax)

    return compose(
        [Panel(name, functools.partial(draw, lines=lines)) for name, lines in panels.items()],
        ax=ax, size=size, title=title, panel_size=(4.0, 3.2), margins=(0.4, 0.4), ylabel=ylabel,
        legend=(2 if longest > _LONG_LABEL else 4) if shared else 0,
    )  # fmt: skip


# Legends below panels have fewer columns with labels of more letters.
_LONG_LABEL = 24


def save_figures(
    results: xr.Dataset,
    folder: Path,
    *,
    best_by: str = "stable",
    baseline: Mapping[str, object] | None = None,
    formats: tuple[str, ...] = FORMATS,
    predicted: Predicted | None = None,
    size: Size = "screen",
) -> list[Path]:
    """Draws every figure into a folder, as bitmap and vector graphics; returns their paths.

    Args:
        results: Results of any axes.
        folder: Where the files go; it is made if it is not there.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        baseline: What models are compared with, see `summarise`. Where there is nothing to compare
            with, that figure is left out, except of linear networks.
        formats: Of the files.
        predicted: Excess losses to draw beside those measured.
        size: Of the figures, see `Options`.

    Raises:
        UserError: As `summarise`, or if there is no such size.
    """
    figures = {
        "excess_loss": plot_excess_loss(results, best_by=best_by, predicted=predicted, size=size),
        "learning_rates": plot_learning_rates(results, best_by=best_by, size=size),
        "steps_to_target": plot_steps_to_target(results, best_by=best_by, size=size),
    }
    if baseline or _is_linear(results):
        figures["speed_up"] = plot_speed_up(results, best_by=best_by, baseline=baseline, size=size)
    for name in observed(results):
        figures[name] = plot_observable(
            results, name, best_by=best_by, size=size,
            reference=functools.partial(threshold, name) if name in STABILITY_OF else None,
            reference_label="stability threshold",
        )  # fmt: skip
    return write_figures(figures, folder, formats)


def write_figures(
    figures: Mapping[str, Figure], folder: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Writes figures by their names into a folder, made if it is not there; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        for extension in formats:
            path = folder / f"{name}.{extension}"
            with atomic_path(path) as temporary, warnings.catch_warnings():
                # A name may be in a script that the font lacks: boxes stand for it.
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                noted = png_metadata(figure) if extension == "png" else None
                figure.savefig(temporary, dpi=160, format=extension, metadata=noted)
            paths.append(path)
    return paths
