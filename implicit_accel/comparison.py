"""Several sweeps side by side: models matched by their labels, and what else differs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.results import STEPS, by_model, model_coordinates, model_labels, varying
from implicit_accel.statistics import (
    at_best,
    best_learning_rates,
    final_excess,
    ratio_of_medians,
    summarise,
    valid_steps,
)

# As many values of a setting are listed; of more their number and their range are told.
_LISTED = 6

# Attributes of results that say nothing of what was asked for, or the same in fewer words.
_UNTOLD = ("format", "axes", "is_stand_in", "source", "num_outputs")


def common_labels(
    runs: Mapping[str, xr.Dataset], *, without: Collection[str] = ()
) -> dict[str, list[str]]:
    """Labels that models of several sweeps have in common.

    They tell what differs between the models of any of the sweeps, and the depth. What is the same
    within each of them, even if not in all, belongs to the sweep: a sweep with Adam and one with
    gradient descent have models of the same labels.

    Args:
        runs: Results of any axes, by name.
        without: Coordinates that labels do not tell.

    Returns:
        For each name its models' labels.
    """
    names = {"depth"}.union(*(varying(results) for results in runs.values()))
    return {name: model_labels(results, names - {*without}) for name, results in runs.items()}


def compare(
    runs: Mapping[str, xr.Dataset],
    *,
    best_by: str = "target",
    baseline: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The summaries of several sweeps in one table, models matched by `common_labels`.

    Args:
        runs: Results of any axes, by name; at least one.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        baseline: What models are compared with within their sweep, see `summarise`.

    Returns:
        A row per sweep and model: ``run``, its name; the columns of `summarise`; and
        ``over_first``, with ``over_first_low`` and ``over_first_high``: how many times fewer steps
        (or, with ``best_by="final"``, how many times lower a final excess loss) than in the first
        sweep that has the model, with the bootstrap interval over seeds. It is 1 in that sweep, inf
        where the model arrives in the other one only, 0 where in the first only, NaN where in none.

    Raises:
        UserError: As `summarise`, or if there is no sweep.
    """
    if not runs:
        raise UserError("nothing to compare: give at least one run")
    first: dict[str, np.ndarray] = {}
    tables = []
    for name, labels in common_labels(runs).items():
        results = by_model(runs[name])
        table = summarise(results, best_by=best_by, baseline=baseline)
        common = dict(zip(table["model"], labels, strict=True))
        table["baseline"] = [common.get(base, "") for base in table["baseline"]]
        table["model"] = labels
        best = best_learning_rates(results, best_by)
        final = best_by == "final"
        values = (
            final_excess(results) if final else valid_steps(results, stable=best_by == "stable")
        )
        for m, (label, own) in enumerate(zip(labels, at_best(best, values), strict=True)):
            there = first.setdefault(label, own)
            if there is own:
                ratio = (1.0 if np.isfinite(np.median(own)) else math.nan, math.nan, math.nan)
            else:
                found = ratio_of_medians(there, own, least=0 if final else 1)
                ratio = found.value, found.low, found.high
            table.loc[m, ["over_first", "over_first_low", "over_first_high"]] = ratio
        table.insert(0, "run", name)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs = tables[0].attrs
    return whole


def of_run(table: pd.DataFrame, run: str) -> pd.DataFrame:
    """One sweep's summary out of a table of `compare`."""
    return table.loc[table["run"] == run].reset_index(drop=True)


def with_ends(
    table: pd.DataFrame, m: int, name: str, ends: tuple[str, str] = ("_low", "_high")
) -> tuple[float, float, float]:
    """A column's value in a row, and the ends of its interval."""
    value, low, high = (float(table[f"{name}{end}"].iloc[m]) for end in ("", *ends))
    return value, low, high


def differences(runs: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """What differs between the settings of several sweeps, as their results tell it.

    Args:
        runs: Results of any axes, by name.

    Returns:
        A row per setting that differs, a column per sweep: text, ``-`` where it has none.
    """
    told = {name: _settings(results) for name, results in runs.items()}
    settings = dict.fromkeys(setting for own in told.values() for setting in own)
    rows = {s: [own.get(s, "-") for own in told.values()] for s in settings}
    rows = {s: row for s, row in rows.items() if len(set(row)) > 1}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*told], dtype=object)


def _settings(results: xr.Dataset) -> dict[str, str]:
    """All settings of a sweep, in words."""
    told = {n: str(v) for n, v in results.attrs.items() if n not in _UNTOLD}
    if fingerprint := told.pop("dataset_fingerprint", ""):
        told["data"] = fingerprint[:12]
    results = by_model(results)
    for name in (*model_coordinates(results), "learning_rate", "seed"):
        told[name] = _values(results[name].values.tolist())
    recorded = [str(n) for n, v in results.data_vars.items() if v.dims[-1:] == STEPS[1:]]
    return told | {"recorded": ", ".join(recorded) or "-"}


def _values(values: Sequence[object]) -> str:
    """Values of a setting: all of few, their number and range of many."""
    different = list(dict.fromkeys(values))
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in different]
    if len(shown) <= _LISTED:
        return ", ".join(dict.fromkeys(shown))
    return f"{len(shown)}, from {shown[0]} to {shown[-1]}"
