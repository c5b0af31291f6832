"""Several sweeps side by side: models matched by their coordinates, and what else differs."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.intervals import Interval
from implicit_accel.results import (
    STEPS,
    by_model,
    first_unique,
    identity,
    labels_across,
    model_coordinates,
    number_forms,
    varying,
)
from implicit_accel.statistics import (
    Sampled,
    at_best,
    best_learning_rates,
    final_excess,
    ratio_of_medians,
    sampled,
    speed_up,
    summarise,
)

# As many values of a setting are listed; of more there are their number and range.
_LISTED = 6

_FINGERPRINT = "dataset_fingerprint"

# Attributes of results that say nothing of what was asked for, or the same in fewer words.
_UNTOLD = ("format", "axes", "is_stand_in", "source", "num_outputs")


def common_labels(
    runs: Mapping[str, xr.Dataset], *, without: Collection[str] = ()
) -> dict[str, list[str]]:
    """Labels that models of several sweeps have in common, by which they are matched.

    Labels state what differs between the models of any of the sweeps, and the depth. What is the
    same within each of them, even if not in all, belongs to the sweep: a sweep with Adam and one
    with gradient descent have models of the same labels.

    Args:
        runs: Results of any axes, by name.
        without: Coordinates that are left out of the labels.

    Returns:
        For each name its models' labels. Two models have the same label if and only if they have
        the same values of all these coordinates, see `labels_across`.
    """
    names = {"depth"}.union(*(varying(results, without=without) for results in runs.values()))
    found = labels_across([*runs.values()], names, without=without)
    return dict(zip(runs, found, strict=True))


def compare(
    runs: Mapping[str, xr.Dataset],
    *,
    best_by: str = "stable",
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
        sweep that has the model, with its interval, see `statistics.speed_up`. It is 1 in that
        sweep, inf where the model reaches the target in the other one only, 0 where in the first
        only, NaN where in none.

    Raises:
        UserError: As `summarise`, or if there is no sweep.
    """
    if not runs:
        raise UserError("nothing to compare: give at least one run")
    first: dict[str, Sampled | np.ndarray] = {}
    tables = []
    for name, labels in common_labels(runs).items():
        results = by_model(runs[name])
        table = summarise(results, best_by=best_by, baseline=baseline)
        common = dict(zip(table["model"], labels, strict=True))
        table["baseline"] = [common.get(base, "") for base in table["baseline"]]
        table["model"] = labels
        best = best_learning_rates(results, best_by)
        # Steps, or final losses: what the rule's ratio is of.
        if best_by == "final":
            sides = list(at_best(best, final_excess(results)))
        else:
            sides = sampled(results, best, best_by)
        for m, (label, own) in enumerate(zip(labels, sides, strict=True)):
            found = _over(first.setdefault(label, own), own)
            ratio = found.value, found.low, found.high
            table.loc[m, ["over_first", "over_first_low", "over_first_high"]] = ratio
        table.insert(0, "run", name)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs = tables[0].attrs
    return whole


def _over(first: Sampled | np.ndarray, own: Sampled | np.ndarray) -> Interval:
    """A model over the same one of the first sweep: of steps, or of final losses."""
    if own is first:
        values = own.at_best if isinstance(own, Sampled) else own
        value = 1.0 if np.isfinite(np.median(values)) else math.nan
        return Interval(value, math.nan, math.nan, math.nan)
    if isinstance(first, Sampled) and isinstance(own, Sampled):
        return speed_up(first, own)
    return ratio_of_medians(np.asarray(first), np.asarray(own))


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
    """What differs between the settings of several sweeps, according to their results.

    Args:
        runs: Results of any axes, by name.

    Returns:
        A row per setting that differs, a column per sweep: text, ``-`` where it has none. Numbers
        have four digits, or as many as distinguish them; cells that differ have different texts.
    """
    found = {name: _settings(results) for name, results in runs.items()}
    rows = {}
    for setting in dict.fromkeys(setting for own in found.values() for setting in own):
        row = [own.get(setting, ("-",)) for own in found.values()]
        keys = [tuple(map(identity, values)) for values in row]
        if len(set(keys)) > 1:
            texts = _texts(setting, dict(zip(keys, row, strict=True)))
            rows["data" if setting == _FINGERPRINT else setting] = [texts[key] for key in keys]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*found], dtype=object)


def _settings(results: xr.Dataset) -> dict[str, tuple[object, ...]]:
    """The different values of every setting of a sweep, in their order."""
    settings: dict[str, tuple[object, ...]] = {
        name: (str(value),) for name, value in results.attrs.items() if name not in _UNTOLD
    }
    if fingerprint := results.attrs.get(_FINGERPRINT):
        del settings[_FINGERPRINT]
        settings[_FINGERPRINT] = (str(fingerprint),)  # behind the others
    results = by_model(results)
    for name in (*model_coordinates(results), "learning_rate", "seed"):
        values = results[name].values.tolist()
        settings[name] = tuple({identity(value): value for value in values}.values())
    recorded = [str(n) for n, v in results.data_vars.items() if v.dims[-1:] == STEPS[1:]]
    return settings | {"recorded": (", ".join(recorded) or "-",)}


def _texts(
    setting: str, columns: Mapping[tuple[Hashable, ...], Sequence[object]]
) -> dict[tuple[Hashable, ...], str]:
    """Different texts for different values of a setting.

    Args:
        setting: Its name.
        columns: The values by their identities.

    Returns:
        By the same keys all of few values, the number and range of many.
    """
    different = {identity(value): value for values in columns.values() for value in values}
    words = first_unique({key: _forms(setting, value) for key, value in different.items()})

    def forms(key: tuple[Hashable, ...]) -> list[str]:
        values = [words[own] for own in key]
        listed = ", ".join(values)
        # Texts that contain a comma are distinguished by their quotation marks.
        quoted = ", ".join(repr(different[own]) for own in key)
        if len(values) <= _LISTED:
            return [listed, quoted]
        short = f"{len(values)}, from {values[0]} to {values[-1]}"
        alike = [other for other in columns if len(other) == len(key)]
        first = next((i for i, own in enumerate(zip(*alike, strict=True)) if len({*own}) > 1), 0)
        return [short, f"{short}; value {first + 1} is {values[first]}", listed, quoted]

    return first_unique({key: forms(key) for key in columns})


def _forms(setting: str, value: object) -> list[str]:
    """A value in words, from the shortest."""
    if setting == _FINGERPRINT:
        return [str(value)[:12], str(value)]
    if isinstance(value, float) and math.isfinite(value):
        return [f"{value:.4g}", *number_forms(value, 5)]
    return [str(value), repr(value)]
