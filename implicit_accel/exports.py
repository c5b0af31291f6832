"""Results for other programs: tidy tables, and the arrays that rliable expects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.comparison import common_labels
from implicit_accel.errors import UserError
from implicit_accel.files import atomic_path
from implicit_accel.results import OWN_RATE, RUN, by_model, model_coordinates, model_labels, trained
from implicit_accel.statistics import at_best, best_learning_rates, summarise, valid_steps

# What a row of a tidy table is, and the dimension that it has beside a run's.
_ROWS = {"runs": (), "trajectories": ("step",), "observations": ("observation_step",)}

_TRAINED = "trained"

SCORES = ("speed_up", "log_steps")


def to_tidy(runs: xr.Dataset, what: str = "runs") -> pd.DataFrame:
    """Results as a long table: a row per observation, a column per variable.

    Args:
        runs: Results of any axes.
        what: What has a row: ``runs`` (each trained run), ``trajectories`` (each run at each
            recorded step) or ``observations`` (each run at each step of observation).

    Returns:
        Columns ``model`` (its label), the model's coordinates, ``learning_rate``, ``seed`` and the
        step, if any; then the values by their names in the results. Of runs these are what is there
        once for each of them (``steps_to_target``, ``divergence_step``, ``target`` …), and
        ``final_loss``, ``final_excess_loss`` …, the last values along the steps. Never reached and
        diverged are inf, did not diverge is NaN, as in results.

    Raises:
        UserError: If ``what`` is unknown, or nothing was observed.
    """
    if what not in _ROWS:
        raise UserError(f"{what!r} has no rows: choose from {', '.join(_ROWS)}")
    runs = by_model(runs)
    dims = (*RUN, *_ROWS[what])
    if not set(dims) <= set(runs.dims):
        raise UserError("nothing was observed along these runs: record something (record=…)")
    if what == "runs":
        last = {
            f"final_{name}": runs[name].isel(step=-1, drop=True)
            for name, variable in runs.data_vars.items()
            if variable.dims == (*RUN, "step")
        }
        runs = runs.assign(last)
        names = [n for n, v in runs.data_vars.items() if set(v.dims) <= set(RUN)]
    else:
        names = [n for n, v in runs.data_vars.items() if v.dims == dims]
    coordinates = [name for name in model_coordinates(runs) if name != "model"]
    labels = np.array(model_labels(runs), object)
    # By the model's place while it is laid out: the same model may be there twice.
    values = runs[names].drop_vars("model", errors="ignore").assign_coords(model=range(len(labels)))
    values[_TRAINED] = RUN[:2], trained(runs)
    table = values.to_dataframe(dim_order=list(dims)).reset_index()
    table["model"] = labels[table["model"].to_numpy()]
    if OWN_RATE in coordinates:
        coordinates.remove(OWN_RATE)
        table["learning_rate"] = table[OWN_RATE]
    columns = ["model", *coordinates, *dims[1:], *names]
    return table.loc[table[_TRAINED], columns].reset_index(drop=True)


def save_tidy(runs: xr.Dataset, path: str | Path, what: str = "runs") -> Path:
    """Writes `to_tidy`'s table, atomically.

    Args:
        runs: Results of any axes.
        path: Of the file; its ending chooses the format: ``.csv``, or ``.parquet`` where pyarrow is
            installed. CSV gives every number in as few digits as identify it.
        what: What has a row.

    Returns:
        The path.

    Raises:
        UserError: If the ending is another, pyarrow is missing, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: the name of a table's file must end in .csv or .parquet")
    table = to_tidy(runs, what)
    if path.suffix == ".csv":
        return save_text(csv_text(table), path)
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path}: Parquet needs pyarrow: pip install pyarrow, or write a .csv"
        ) from None
    with _writing(path), atomic_path(path) as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)
    return path


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV which does nothing when a spreadsheet opens it.

    Text that a spreadsheet would take for a formula (a column's name from somebody's file, say)
    gets an apostrophe before it.
    """
    safe = table.rename(columns={name: _no_formula(name) for name in table.columns})
    for k, dtype in enumerate(table.dtypes):
        if dtype.kind == "O":
            column = table.iloc[:, k]
            known = {value: _no_formula(value) for value in column.unique()}
            if any(known[value] is not value for value in known):
                safe.isetitem(k, column.map(known))
    return safe.to_csv(index=False)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in tuple("=+-@\t\r") or value == "-":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def save_text(text: str, path: Path) -> Path:
    """Writes a text file, atomically; returns its path.

    Raises:
        UserError: If it cannot be written.
    """
    with _writing(path), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from None


def to_rliable(
    runs: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    score: str = "speed_up",
    best_by: str = "stable",
    baseline: Mapping[str, object] | None = None,
) -> dict[str, np.ndarray]:
    """Scores as the functions of rliable expect them, each model at its own best learning rates.

    Problems are the results that are given, and in each of them its losses (``loss_name``), in
    their order. Algorithms are the models, matched by what else differs between them, see
    `comparison.common_labels`.

    Args:
        runs: Results of any axes; or several, e.g. of one grid on several datasets, by name.
        score: Higher is better. ``speed_up``: the median steps to the target of the problem's
            baseline over the run's own, 0 for a run that does not reach it. ``log_steps``: −log10
            of the steps; a run that does not reach the target counts as if it did at the last step,
            which is the best that can be said of it. Reaching it at once counts as one step.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        baseline: What models are compared with, see `summarise`.

    Returns:
        For each algorithm its label and an array (seed, problem).

    Raises:
        UserError: If the score is unknown, an algorithm is missing from a problem, numbers of seeds
            differ, or a speed-up is asked for where a baseline does not reach the target.
    """
    if score not in SCORES:
        raise UserError(f"score {score!r}: choose from {', '.join(SCORES)}")
    named = {"": runs} if isinstance(runs, xr.Dataset) else dict(runs)
    scores: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for name, labels in common_labels(named, without=("loss_name",)).items():
        results = by_model(named[name])
        steps = at_best(best_learning_rates(results, best_by), _steps(results, best_by))
        table = summarise(results, best_by=best_by, baseline=baseline)
        losses = results["loss_name"].values if "loss_name" in results.coords else [""] * len(steps)
        own_labels = table["model"].tolist()
        for m, (label, loss) in enumerate(zip(labels, losses, strict=True)):
            problem = name, str(loss)
            words = _words(problem) or "the problem"
            if score == "log_steps":
                found = -np.log10(np.clip(steps[m], 1, results.attrs["num_steps"]))
            else:
                base = table["baseline"].iloc[m]
                if not base:
                    raise UserError(
                        f"{words}: {label} has no baseline to be compared with; "
                        "name one (baseline=…), or use the score 'log_steps'"
                    )
                reference = float(np.median(np.maximum(steps[own_labels.index(base)], 1)))
                if not np.isfinite(reference):
                    raise UserError(
                        f"{words}: {base} does not reach the target, so that "
                        "nothing has a speed-up over it; train longer, or use the score 'log_steps'"
                    )
                found = reference / np.maximum(steps[m], 1)
            scores.setdefault(label, {})[problem] = found
    problems = list(dict.fromkeys(p for of_label in scores.values() for p in of_label))
    for label, of_label in scores.items():
        if missing := [p for p in problems if p not in of_label]:
            words = ", ".join(map(_words, missing))
            raise UserError(f"{label} was not trained on {words}: leave it out")
    if len({len(found) for of_label in scores.values() for found in of_label.values()}) > 1:
        raise UserError("numbers of seeds differ between problems: give all the same")
    return {
        label: np.stack([of_label[p] for p in problems], axis=1)
        for label, of_label in scores.items()
    }


def _words(problem: tuple[str, str]) -> str:
    """A dataset's name and a loss, as far as there are some."""
    return " ".join(filter(None, problem))


def _steps(results: xr.Dataset, best_by: str) -> np.ndarray:
    return valid_steps(results, stable=best_by == "stable")
