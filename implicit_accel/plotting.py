"""Figures of a sweep: one function per figure, results in, matplotlib Figure out."""

from __future__ import annotations

import functools
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from implicit_accel.errors import UserError
from implicit_accel.files import atomic_path, printable
from implicit_accel.results import (
    ALONG,
    OWN_RATE,
    STEPS,
    by_model,
    coordinate_label,
    coordinate_labels,
    first_unique,
    model_labels,
    observed,
    trained,
    varying,
)
from implicit_accel.stability import STABILITY_OF, threshold
from implicit_accel.statistics import (
    BEST_BY_WORDS,
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


# Characters of a title that have room above a panel, and of one above panels side by side.
_TITLE_WIDTH = 58


def _panels(results: xr.Dataset) -> Iterator[tuple[str, list[int]]]:
    """Models that belong in one panel, with its title.

    Linear networks in a panel differ in depth and width; of other models all are in one, or those
    of one loss.
    """
    names = [n for n in (_PANEL if _is_linear(results) else _PANEL[:1]) if n in results.coords]
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


def _line_labels(results: xr.Dataset) -> list[str]:
    """What legends call each model."""
    if not _is_linear(results):
        return list(map(plain, model_labels(results, _determining(results))))
    labels = []
    for depth, hidden in zip(results["depth"].values, results["hidden_widths"].values, strict=True):
        widths = set(str(hidden).split("x"))
        width = widths.pop() if len(widths) == 1 else hidden
        labels.append("depth 1" if depth == 1 else f"depth {depth}, width {width}")
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
    panel_size: tuple[float, float] = (4.4, 3.4),
) -> Figure:
    """A row (or grid) of panels under one title, with one legend per panel.

    Args:
        results: By model.
        title: Of the figure.
        draw: Draws some models.
        rule: By which rule the learning rates that are shown were chosen: below the title.
        panel_size: In inches.
    """
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
    above = [line for text in (title, rule) for line in textwrap.wrap(text, _TITLE_WIDTH * columns)]
    figure.suptitle("\n".join([*above, name]), fontsize=10, parse_math=False, usetex=False)
    return figure


def _styles(results: xr.Dataset, models: list[int]) -> list[dict[str, Any]]:
    """How the lines of a panel look.

    Linear networks take one colour after another. Other models have the colour of the first
    coordinate in which models differ, and the line style of all others.
    """
    names = varying(results)
    if _is_linear(results) or not names:
        return [_style(i % len(COLOURS), i // len(COLOURS)) for i in range(len(models))]

    labels = coordinate_labels(results, names)

    def ranks(names: Sequence[str]) -> list[int]:
        rows = [tuple(labels[n][m] for n in names) for m in models]
        places = {row: rank for rank, row in enumerate(dict.fromkeys(rows))}
        return [places[row] for row in rows]

    return [_style(*look) for look in zip(ranks(names[:1]), ranks(names[1:]), strict=True)]


def _style(colour: int, line: int = 0) -> dict[str, Any]:
    return {
        "linewidth": 1.2,
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": _STYLES[line % len(_STYLES)],
    }


# A legend of more entries would leave no room for the curves.
_MOST_LABELLED = 27


def _legend(ax: Axes) -> None:
    handles, _ = ax.get_legend_handles_labels()
    if 0 < len(handles) <= _MOST_LABELLED:
        ax.legend(
            fontsize=7.5, framealpha=0.85, edgecolor="none", borderpad=0.2,
            ncols=1 + len(handles) // 9,
        )  # fmt: skip


# Thin lines behind a median; how far above all medians a panel goes for them.
_SINGLE_RUN = "single run"
_ABOVE = 10


def _log_axes(ax: Axes, x: np.ndarray) -> None:
    """Makes both axes logarithmic around x and what is drawn; also if nothing is to be seen.

    A single run that shoots up leaves the panel. Where losses are negative, y stays linear.
    """
    if any((np.asarray(line.get_ydata(), float) < 0).any() for line in ax.get_lines()):
        margin = max((x.max() / x.min()) ** 0.03, 1.1)
        ax.set_xlim(x.min() / margin, x.max() * margin)
        ax.set_xscale("log")
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
    margin = max((x.max() / x.min()) ** 0.03, 1.1)
    ax.set_xlim(x.min() / margin, x.max() * margin)
    ax.set_xscale("log")
    ax.set_yscale("log")
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
    results: xr.Dataset, *, best_by: str = "stable", predicted: Predicted | None = None
) -> Figure:
    """Excess loss against step, each model at its best learning rate.

    Lines are medians over seeds; behind them a thin line for each of a few, of more the quartiles'
    band; dashed, the target. Runs that diverge before
    they reach the target are left out (the table counts them); one that diverges later stays at
    its last value. Where half of the runs have diverged, the line ends in a cross. Nothing is drawn
    below what the precision resolves, a dotted line where it is reached. Thin dashed lines in black
    are predictions, where there are some.
    """
    results = by_model(results)
    best, labels = best_learning_rates(results, best_by), _line_labels(results)
    steps = results["step"].values
    diverged = results["divergence_step"].values

    def draw(ax: Axes, models: list[int]) -> None:
        for m, style in zip(models, _styles(results, models), strict=True):
            label = labels[m]
            if best[m] < 0:
                ax.plot([], [], label=f"{label}: diverges at every rate", **style)
                continue
            # The median run has diverged once half of the runs have.
            end = np.median(np.where(np.isnan(diverged[m, best[m]]), np.inf, diverged[m, best[m]]))
            shown = (steps > 0) & (steps < end)  # a log axis has no place for step 0
            curves = shown_runs(results, m, int(best[m]))[:, shown]
            middle = np.median(curves, axis=0)
            _draw_spread(ax, steps[shown], curves, style)
            ax.plot(steps[shown], middle, label=label + _rate_label(results, best[m]), **style)
            if np.isfinite(end) and shown.any():
                ax.plot(steps[shown][-1], middle[-1], "x", color=style["color"])
            if predicted is not None:
                rate = float(results["learning_rate"].values[best[m]])
                _draw_predicted(ax, steps[steps > 0], predicted(m, rate, steps[steps > 0]))
        target = float(np.median(results["target"].isel(model=models[0])))
        if np.isfinite(target) and target != 0:  # 0 is what older results hold without one
            ax.axhline(target, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
            ax.text(0.01, target, "target", fontsize=7, color="0.4", va="bottom",
                    transform=ax.get_yaxis_transform())  # fmt: skip
        _mark_resolution(ax, results, models)
        _log_axes(ax, steps[steps > 0])
        ax.set_xlabel("step")
        ax.set_ylabel(r"excess loss $L - L^*$" if _knows_optimum(results) else "loss $L$")
        _legend(ax)

    what = "Excess loss" if _knows_optimum(results) else "Loss"
    title = f"{what} at each model's best learning rate"
    return _figure(results, title, draw, rule=f"({BEST_BY_WORDS[best_by]})")


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


def plot_learning_rates(results: xr.Dataset, *, best_by: str = "stable") -> Figure:
    """Final excess loss against learning rate; where it ends, the median run diverges.

    Rings mark the rates that `summarise` chooses by the same rule; one on the top edge marks a rate
    at which the median run has diverged by the last step. Crosses on the top edge mark rates at
    which more than a tenth of the runs counts as diverged, see `best_learning_rates`.
    """
    results = by_model(results)
    final = final_excess(results)
    what = "excess loss" if _knows_optimum(results) else "loss"

    def draw(ax: Axes, models: list[int]) -> None:
        _draw_against_rates(ax, results, models, final, best_by)
        _mark_resolution(ax, results, models)
        ax.set_ylabel(f"{what} after {results.attrs['num_steps']:,} steps")
        _legend(ax)

    title = f"Final {what} against learning rate"
    return _figure(results, title, draw, rule=_marks(best_by))


def _marks(best_by: str) -> str:
    """What marks in figures against the learning rate mean."""
    diverging = {"stable": "runs are unstable", "target": "runs diverge before the target"}.get(
        best_by, "runs diverge"
    )
    return f"(○: best, {BEST_BY_WORDS[best_by]}; ×: {diverging})"


def plot_steps_to_target(results: xr.Dataset, *, best_by: str = "stable") -> Figure:
    """Steps to the target against learning rate, marked as in `plot_learning_rates`.

    With ``best_by="stable"`` unstable runs count as never there, as in the table. A ring on the top
    edge marks a best rate at which the median run misses the target.
    """
    results = by_model(results)
    steps = valid_steps(results, stable=best_by == "stable")

    def draw(ax: Axes, models: list[int]) -> None:
        _draw_against_rates(
            ax, results, models, np.maximum(steps, 1), best_by, without=": not reached"
        )
        ax.set_ylabel("steps to target")
        _legend(ax)

    return _figure(results, "Steps to target against learning rate", draw, rule=_marks(best_by))


def _draw_against_rates(
    ax: Axes,
    results: xr.Dataset,
    models: list[int],
    values: np.ndarray,
    best_by: str,
    *,
    without: str = "",
) -> None:
    """Values (model, learning_rate, seed) against the rates, as far as there is anything to see.

    A model's label ends with ``without`` if its median has no value at any rate.
    """
    tried, styles = trained(results), _styles(results, models)
    rates_of = [_rates(results, m) for m in range(len(tried))]
    best, fine = best_learning_rates(results, best_by), usable(results, best_by)
    labels = _line_labels(results)
    seen = np.zeros(tried.shape[1], bool)
    for m, style in zip(models, styles, strict=True):
        own, label = rates_of[m][tried[m]], labels[m]
        curves = values[m][tried[m]].T
        middle = np.median(curves, axis=0)
        known = np.isfinite(middle)
        seen[tried[m]] |= known
        label += "" if known.any() else without
        style = {**style, "marker": "o", "markersize": 2.5}
        _draw_spread(ax, own, np.where(known, curves, np.nan), style)
        ax.plot(own, np.where(known, middle, np.nan), label=label, **style)
        if best[m] >= 0:
            seen[best[m]] = True
            height = np.median(values[m, best[m]])
            if np.isfinite(height):
                ax.plot(rates_of[m][best[m]], height, color=style["color"], **_RING)
    shown = np.flatnonzero(seen)
    # One rate more on both sides: where a line ends is seen only if there is something beyond.
    ends = (max(shown[0] - 1, 0), shown[-1] + 2) if len(shown) else (0, len(seen))
    _log_axes(ax, np.concatenate([rates_of[m][slice(*ends)] for m in models]))
    ax.set_xlabel(r"learning rate $\eta$")
    on_edge = {"clip_on": False, "transform": ax.get_xaxis_transform()}
    for position, (m, style) in enumerate(zip(models, styles, strict=True)):
        height = 1.0 - 0.035 * position
        if best[m] >= 0 and not np.isfinite(np.median(values[m, best[m]])):
            (ring,) = ax.plot(
                rates_of[m][best[m]], height, color=style["color"], **_RING, **on_edge
            )
            ring.set_in_layout(False)
        bad = np.zeros(len(seen), bool)
        bad[slice(*ends)] = (tried[m] & ~fine[m])[slice(*ends)]
        (crosses,) = ax.plot(
            rates_of[m][bad], np.full(bad.sum(), height), "x", markersize=3.5,
            color=style["color"], **on_edge,
        )  # fmt: skip
        # Unclipped and perhaps empty, it would confuse the layout.
        crosses.set_in_layout(False)


# A best rate's mark.
_RING: Mapping[str, Any] = {"marker": "o", "markersize": 8, "fillstyle": "none"}


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


def _rates(results: xr.Dataset, m: int) -> np.ndarray:
    """A model's learning rates as places on an axis: one that is not known is at 1."""
    if OWN_RATE in results.coords:
        return results[OWN_RATE].values[[m]]
    return np.nan_to_num(results["learning_rate"].values, nan=1.0)


def plot_speed_up(
    results: xr.Dataset, *, best_by: str = "stable", baseline: Mapping[str, object] | None = None
) -> Figure:
    """Each model's comparison with its baseline, with 95 % intervals, or the range of few seeds.

    Compared are steps to the target or, with ``best_by="final"``, final excess losses, see
    `summarise`. Arrows are bounds: one of the two models did not reach the target within the run's
    steps, or what the precision resolves.
    """
    results = by_model(results)
    table = summarise(results, best_by=best_by, baseline=baseline)
    final, labels = compares_final(table), _line_labels(results)
    wanted = table.attrs["baseline"] or {"depth": 1}
    words = (
        coordinate_label(name, value, results[name].values.tolist() if name in results else ())
        for name, value in wanted.items()
    )
    base = plain(", ".join(words))
    if final:
        title = "How many times lower the final excess loss is"
        xlabel = f"final excess loss of {base} over the model's"
    else:
        title = f"How many times fewer steps than {base}"
        xlabel = f"speed-up over {base}: slower | faster"
    if wanted == {"depth": 1} and not final:
        title = "How many times fewer steps than one layer"

    def draw(ax: Axes, models: list[int]) -> None:
        rows = zip(models, _styles(results, models), strict=True)
        _draw_comparisons(ax, table, [(m, style["color"]) for m, style in rows], final=final)
        ax.set_yticks(range(len(models)), [labels[m] for m in models], fontsize=8)
        ax.set_xlabel(xlabel)

    rule = f"(best learning rates: {BEST_BY_WORDS[best_by]})"
    return _figure(results, title, draw, rule=rule, panel_size=(4.4, 2.6))


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
                    fontsize=7.5, ha="center")  # fmt: skip
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
) -> Figure:
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

    Returns:
        The figure.

    Raises:
        UserError: If results have no such curves; the message lists those there are.
    """
    results = by_model(results)
    curves = {n: v.dims[-1] for n, v in results.data_vars.items() if v.dims[-1] in STEPS}
    if name not in curves:
        raise UserError(f"{name!r} was not recorded: there are {', '.join(map(str, curves))}")
    steps = results[curves[name]].values
    best, labels = best_learning_rates(results, best_by), _line_labels(results)

    def draw(ax: Axes, models: list[int]) -> None:
        for m, style in zip(models, _styles(results, models), strict=True):
            label = labels[m]
            if best[m] < 0:
                ax.plot([], [], label=f"{label}: diverges at every rate", **style)
                continue
            runs = results.isel(model=m, learning_rate=best[m])
            ends = np.nan_to_num(runs["divergence_step"].values, nan=np.inf)
            label += _rate_label(results, best[m])
            _draw_runs(ax, steps, runs[name].values.astype(float), ends, label, style)
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
        _legend(ax)

    title = plain(name.replace("_", " ")).capitalize()
    title = f"{title} at each model's best learning rate"
    return _figure(results, title, draw, rule=f"({BEST_BY_WORDS[best_by]})")


def _draw_runs(
    ax: Axes,
    steps: np.ndarray,
    curves: np.ndarray,
    ends: np.ndarray,
    label: str,
    style: dict[str, Any],
) -> None:
    """Draws a model's (seed, step) curves, see `plot_observable`; runs diverge at their ends."""
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
    for curve, seen, end in zip(curves, going_on, ends, strict=True):
        if np.isfinite(end) and seen.any():
            last = np.flatnonzero(seen)[-1]
            ax.plot(
                steps[last], curve[last], "x", color=style["color"], markersize=8,
                markeredgewidth=2, zorder=4, path_effects=_HALO,
            )  # fmt: skip


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
    title: str,
    xlabel: str,
    reference: float = 1.0,
    log: bool = True,
    remark: Callable[[Any], str] | None = None,
) -> Figure:
    """Effects with their 95 % intervals, one row each: a forest plot.

    Behind an interval a pale bar spans what the halves of the learning rates' grid give alone, of
    effects that have ``halves``. One that is a ``bound`` is an arrow. An interval with an infinite
    end, or on a logarithmic axis one at 0, reaches to the edge of the panel, with an arrow there.

    Args:
        series: Label → effects, as many in each; those at one position share a row, which has the
            first one's name. In the place of one without a value its note is written. A series
            named after a depth ("depth 2") has that depth's colour.
        title: Of the figure.
        xlabel: What the effects measure.
        reference: Where a line marks "no effect".
        log: Whether the axis is logarithmic; effects that are not above 0 are then left out.
        remark: What is written beside each effect, at the right.

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
    beyond: list[tuple[np.ndarray, float, str]] = []
    for number, (label, effects) in enumerate(zip(series, columns, strict=True)):
        depth = re.fullmatch(r"depth ([1-9])", label)
        colour = COLOURS[((int(depth[1]) - 1) if depth else number) % len(COLOURS)]
        places = np.arange(len(effects)) + (number - (len(columns) - 1) / 2) * 0.62 / len(columns)
        values = np.array([effect.value for effect in effects], float)
        ends = np.array([(effect.low, effect.high) for effect in effects], float)
        drawn = np.isfinite(values) & ((values > 0) | (not log))
        bounds = np.array([getattr(effect, "bound", "") or "o" for effect in effects])
        for marker in dict.fromkeys(["o", *bounds[drawn]]):
            chosen = drawn & (bounds == marker)
            named = label if marker == "o" else "_arrows"
            ax.plot(
                values[chosen], places[chosen], marker, color=colour, markersize=4.5, label=named
            )
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
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Curves on logarithmic axes: medians over runs, behind them few runs' own or quartiles.

    Args:
        panels: Title → label → (x, curves), with x of shape (T,) and curves (runs, T). What is not
            finite or not above 0 is left out.
        title: Of the figure.
        xlabel: Below every panel.
        ylabel: Beside the first panel of a row.
        styles: Label → matplotlib's options of its line, a colour among them, which are not the
            usual ones.

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
            valid = np.where(np.isfinite(curves), curves, np.inf)
            middle = np.median(np.asarray(valid, float), axis=0)
            drawn = (x > 0) & (middle > 0) & np.isfinite(middle)
            usual = _style(position % len(COLOURS), position // len(COLOURS))
            style = {**usual, **(styles or {}).get(label, {})}
            _draw_spread(ax, x[drawn], np.asarray(valid, float)[:, drawn], style)
            ax.plot(x, np.where(drawn, middle, np.nan), label=label, **style)
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


SIZES: Mapping[str, float] = {"screen": 0.0, "page": 6.8, "column": 3.4}
"""Widths of figures in inches: as they are drawn, and those of a paper's page and column."""

# A panel's height over its width, and sizes of text in a paper, in points.
_PANEL_RATIO = 0.72
_PAPER_TEXT = 8.0


def fitted(figure: Figure, size: str) -> Figure:
    """A figure of panels, fitted to a paper: without its title, panels below each other if narrow.

    Args:
        figure: From one of this module's functions, with a title above its panels; it is changed.
        size: One of `SIZES`.

    Returns:
        The same figure.

    Raises:
        UserError: If there is no such size.
    """
    if size not in SIZES:
        raise UserError(f"size {size!r}: choose from {', '.join(SIZES)}")
    width = SIZES[size]
    if not width:
        return figure
    panels = [ax for ax in figure.axes if ax.get_visible()]
    for ax in figure.axes:
        if ax not in panels:
            ax.remove()
    columns = 1 if size == "column" else min(len(panels), 2)
    rows = -(-len(panels) // columns)
    grid = GridSpec(rows, columns, figure=figure)
    for ax, place in zip(panels, grid, strict=False):  # pyright: ignore[reportArgumentType]
        ax.set_subplotspec(place)
    figure.set_size_inches(width, rows * _PANEL_RATIO * width / columns)
    figure.suptitle("").set_in_layout(False)
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_fontsize(min(text.get_fontsize(), _PAPER_TEXT))
    for ax in panels:
        ax.tick_params(labelsize=_PAPER_TEXT - 1)
    return figure


def save_figures(
    results: xr.Dataset,
    folder: Path,
    *,
    best_by: str = "stable",
    baseline: Mapping[str, object] | None = None,
    formats: tuple[str, ...] = FORMATS,
    predicted: Predicted | None = None,
    size: str = "screen",
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
        size: One of `SIZES`, see `fitted`.

    Raises:
        UserError: As `summarise`, or if there is no such size.
    """
    figures = {
        "excess_loss": plot_excess_loss(results, best_by=best_by, predicted=predicted),
        "learning_rates": plot_learning_rates(results, best_by=best_by),
        "steps_to_target": plot_steps_to_target(results, best_by=best_by),
    }
    if baseline or _is_linear(results):
        figures["speed_up"] = plot_speed_up(results, best_by=best_by, baseline=baseline)
    for name in observed(results):
        figures[name] = plot_observable(
            results, name, best_by=best_by,
            reference=functools.partial(threshold, name) if name in STABILITY_OF else None,
            reference_label="stability threshold",
        )  # fmt: skip
    sized = {name: fitted(figure, size) for name, figure in figures.items()}
    return write_figures(sized, folder, formats)


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
                figure.savefig(temporary, dpi=160, format=extension)
            paths.append(path)
    return paths
