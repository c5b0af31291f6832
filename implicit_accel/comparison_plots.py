"""Figures of several sweeps side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.comparison import common_labels, of_run, with_ends
from implicit_accel.plotting import plain_labels, plot_curves, plot_effects, shown_runs
from implicit_accel.results import by_model
from implicit_accel.statistics import (
    BEST_BY_WORDS,
    best_learning_rates,
    bounded,
    compares_final,
)

# More panels than this are no figure any more.
_MOST_PANELS = 12


@dataclass(frozen=True)
class _Row:
    """A number with its interval, see `plotting.Interval`."""

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = "not in this run"


def comparison_figures(
    runs: Mapping[str, xr.Dataset], table: pd.DataFrame, *, best_by: str = "stable"
) -> dict[str, Figure]:
    """The figures of a comparison, a colour for each sweep.

    Args:
        runs: Results of any axes, by name.
        table: What `compare` made of them.
        best_by: What makes a learning rate the best, as the table has it.

    Returns:
        By their names: ``steps_to_target`` (or ``final_excess``, where learning rates are chosen by
        it), ``speed_up`` (or ``final_ratio``) over each sweep's own baselines, ``over_first`` and
        ``excess_loss``; without those for which there is nothing to draw.
    """
    final = compares_final(table)
    models = list(dict.fromkeys(table["model"]))
    names, words = plain_labels(runs), plain_labels(models)
    measured = "final_excess" if final else "steps_to_target"
    compared = "final_ratio" if final else "speed_up"
    better = "times lower" if final else "times fewer steps"
    rule = f"\n(best learning rates: {BEST_BY_WORDS[best_by]})"

    def reached(own: pd.DataFrame, m: int) -> _Row:
        quartiles = with_ends(own, m, measured, ("_q25", "_q75"))
        return _Row("", *quartiles, note="diverged" if final else "not reached")

    def over_baseline(own: pd.DataFrame, m: int) -> _Row:
        if own["baseline"].iloc[m] in ("", own["model"].iloc[m]):
            return _Row("", note="baseline" if own["baseline"].iloc[m] else "no baseline")
        value, bound = bounded(own, m)
        if bound:
            return _Row("", note=f"{bound} {value:.3g}×")
        return _Row("", *with_ends(own, m, compared), note="not reached")

    def over_first(own: pd.DataFrame, m: int) -> _Row:
        value, low, high = with_ends(own, m, "over_first")
        only = {math.inf: "arrives only here", 0.0: "does not arrive"}
        return _Row("", value, low, high, note=only.get(value, "does not arrive"))

    def rows(of: Callable[[pd.DataFrame, int], _Row], shown: list[str]) -> dict[str, list[_Row]]:
        series = {}
        for run in runs:
            own = of_run(table, run)
            places = {model: m for m, model in enumerate(own["model"])}
            found = [of(own, places[s]) if s in places else _Row("") for s in shown]
            named = zip(shown, found, strict=True)
            series[names[run]] = [
                _Row(words[s], row.value, row.low, row.high, row.note) for s, row in named
            ]
        return series

    smallest = float(np.nanmin([*table[measured].replace(np.inf, np.nan), np.inf]))
    figures = {
        measured: plot_effects(
            rows(reached, models),
            title=f"{_words(measured).capitalize()}: medians and quartiles over seeds{rule}",
            xlabel=_words(measured),
            reference=smallest if 0 < smallest < np.inf else 1.0,
        )
    }
    compare_to = dict.fromkeys(zip(table["model"], table["baseline"], strict=True))
    deeper = list(dict.fromkeys(model for model, base in compare_to if base not in ("", model)))
    if deeper:
        figures[compared] = plot_effects(
            rows(over_baseline, deeper),
            title=f"How many {better} than the sweep's own baseline{rule}",
            xlabel="worse | better than the baseline",
        )
    again = [model for model in models if (table["model"] == model).sum() > 1]
    if again:
        name = names[next(iter(runs))]
        figures["over_first"] = plot_effects(
            rows(over_first, again),
            title=f"How many {better} than the same model in {name}{rule}",
            xlabel=f"worse | better than in {name}",
        )
    if len(models) <= _MOST_PANELS:
        figures["excess_loss"] = _curves(runs, models, best_by)
    return figures


def _words(name: str) -> str:
    return {"final_excess": "final excess loss", "steps_to_target": "steps to target"}[name]


def _curves(runs: Mapping[str, xr.Dataset], models: list[str], best_by: str) -> Figure:
    """A panel per model, a line per sweep, each at its own best learning rate."""
    # Where a sweep lacks a model, its line is empty, so that each keeps its colour.
    empty = np.ones(1), np.full((1, 1), np.nan)
    names, words = plain_labels(runs), plain_labels(models)
    panels = {words[model]: {names[name]: empty for name in runs} for model in models}
    for name, labels in common_labels(runs).items():
        results = by_model(runs[name])
        best = best_learning_rates(results, best_by)
        steps = results["step"].values.astype(float)
        for m, label in enumerate(labels):
            if best[m] >= 0:
                curves = shown_runs(results, m, int(best[m]))
                panels[words[label]][names[name]] = steps, curves
    return plot_curves(
        panels,
        title="Excess loss, each model at its best learning rate in each sweep\n"
        f"({BEST_BY_WORDS[best_by]})",
        xlabel="step",
        ylabel=r"excess loss $L - L^*$",
    )
