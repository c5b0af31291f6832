"""Labelled results of training runs: an xarray dataset, and a file on disk.

Runs differ in their axes: one dimension each (a learning rate, a seed, a width …), followed by
``step``. `by_model` gathers the axes that make up a model in one dimension: then every sweep's
results are ``model`` × ``learning_rate`` × ``seed`` × ``step``, with what distinguishes the models
as coordinates along ``model``. Statistics, tables and figures see results in this form.

`QUANTITIES` declares what results hold. What is particular to a family of models is declared with
the family.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import finite
from implicit_accel.files import is_printable, load_json, parse_json, printable
from implicit_accel.netcdf import load_netcdf, save_netcdf

FORMAT = "implicit_accel sweep 3"

RESULTS_FILE = "results.nc"
SUMMARY_FILE = "summary.csv"
CONFIG_FILE = "config.json"
PREDICTION_FILE = "prediction.csv"
FIGURES_FOLDER = "figures"
PAGE_FILE = "report.html"

# Key of ``config.json``: the SHA-256 with which the run's results.nc is sealed.
RESULTS_SEAL = "results_sha256"

# A model's runs, in results by model.
RUN = ("model", "learning_rate", "seed")

# Attribute of a hyper-parameter that varies with others along an axis: the axis.
ALONG = "along"

# In results by model: the learning rate of each model where rates vary along another axis, together
# with other hyper-parameters.
OWN_RATE = "own_learning_rate"

# Dimensions that are no axes: steps at which every loss is recorded, those, perhaps fewer, at which
# something else was observed, and those at which the loss of a mini-batch was kept.
STEPS = ("step", "observation_step", "batch_step")

# In a declaration's dimensions: every axis in its order, and some of the axes or none.
ALL_AXES = "axes"
SOME_AXES = "some axes"

_DTYPES = {"number": "iuf", "whole number": "iu", "text": "OU"}


@dataclass(frozen=True)
class Quantity:
    """What a variable or a coordinate of results holds.

    Attributes:
        name: In the dataset.
        dims: Its dimensions; `ALL_AXES` and `SOME_AXES` stand for those of the runs.
        long_name: What it is, in words.
        allowed: Whether each of its values may occur; an array of values in, booleans out.
        kind: ``number``, ``whole number`` or ``text``.
        units: Of the numbers, if any.
        special: A number that means something else, and what, e.g. ``("inf", "diverged")``.
        required: Whether results are incomplete without it.
        earlier_dims: Its dimensions in results of an earlier version.
    """

    name: str
    dims: tuple[str, ...]
    long_name: str
    allowed: Callable[[np.ndarray], Any]
    kind: str = "number"
    units: str = ""
    special: tuple[str, str] | None = None
    required: bool = True
    earlier_dims: tuple[str, ...] | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """What is written beside its values."""
        attributes = {"long_name": self.long_name}
        if self.units:
            attributes["units"] = self.units
        if self.special:
            number, meaning = self.special
            attributes[meaning] = number
        return attributes

    def over(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Its dimensions in runs with these axes; `SOME_AXES` stays as it is."""
        return _over(self.dims, axes)


def _over(dims: tuple[str, ...], axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(d for dim in dims for d in (axes if dim == ALL_AXES else (dim,)))


def declare(*quantities: Quantity) -> dict[str, Quantity]:
    """Quantities by their names."""
    return {quantity.name: quantity for quantity in quantities}


def is_curve(v: np.ndarray) -> Any:
    """Whether values along steps, the last axis, are numbers or inf, or the run's are all NaN.

    NaN is what is kept of a run that is not trained, see `trained`.
    """
    return (v > -np.inf) | np.isnan(v).all(axis=-1, keepdims=True)


def is_observed(v: np.ndarray) -> Any:
    """Whether values of an observable are allowed: numbers, or NaN where it is not defined."""
    return (v > -np.inf) | np.isnan(v)


def _finite(v: np.ndarray) -> Any:
    return (v >= 0) & (v < np.inf)


def _increasing(v: np.ndarray) -> Any:
    return (v >= 0) & np.all(v[1:] > v[:-1])


_UPDATES = "updates"
_DIVERGED = ("inf", "diverged")

QUANTITIES: Mapping[str, Quantity] = declare(
    Quantity("loss", (ALL_AXES, "step"), "training loss", is_curve, special=_DIVERGED),
    Quantity("excess_loss", (ALL_AXES, "step"), "excess training loss L - L*", is_curve,
             special=_DIVERGED),
    Quantity("held_out_loss", (ALL_AXES, "observation_step"), "loss on the held-out rows",
             is_curve, special=_DIVERGED, required=False, earlier_dims=(ALL_AXES, "step")),
    Quantity("batch_loss", (ALL_AXES, "batch_step"), "loss that training saw, of a mini-batch",
             is_curve, special=_DIVERGED, required=False),
    Quantity("steps_to_target", (ALL_AXES,), "steps to target", lambda v: v >= 0,
             units=_UPDATES, special=("inf", "never")),
    Quantity("divergence_step", (ALL_AXES,), "step of divergence",
             lambda v: np.isnan(v) | (v >= 0), units=_UPDATES, special=("NaN", "never")),
    Quantity("optimum", (SOME_AXES,), "L*, the smallest loss; 0 where it is not known",
             np.isfinite),
    Quantity("zero_loss", (SOME_AXES,), "loss of predicting zero", _finite, required=False),
    Quantity("target", (SOME_AXES,), "target excess loss",
             lambda v: np.isfinite(v) | np.isnan(v), special=("NaN", "none")),
    Quantity("resolution", (SOME_AXES,), "excess loss below which a trajectory is rounding",
             _finite),
    Quantity("learning_rate", ("learning_rate",), "learning rate",
             lambda v: (v > 1e-100) & (v < 1e100), required=False),
    Quantity("seed", ("seed",), "seed of the initial weights", lambda v: v >= 0,
             kind="whole number", required=False),
    Quantity("step", ("step",), "updates made before", lambda v: (v[0] == 0) & _increasing(v),
             kind="whole number", units=_UPDATES),
    Quantity("observation_step", ("observation_step",), "updates made before", _increasing,
             kind="whole number", units=_UPDATES, required=False),
    Quantity("batch_step", ("batch_step",), "updates made before", _increasing,
             kind="whole number", units=_UPDATES, required=False),
)  # fmt: skip


def quantities_table(quantities: Mapping[str, Quantity] = QUANTITIES) -> str:
    """What results hold, as a Markdown table."""
    lines = ["| name | over | holds | unit |", "|---|---|---|---|"]
    for quantity in quantities.values():
        holds = quantity.long_name
        if quantity.special:
            holds += " ({}: {})".format(*quantity.special)
        name = f"`{quantity.name}`" + ("" if quantity.required else " (optional)")
        lines.append(f"| {name} | {', '.join(quantity.dims)} | {holds} | {quantity.units} |")
    return "\n".join(lines) + "\n"


# --- models ---


def axes_of(runs: xr.Dataset) -> tuple[str, ...]:
    """The dimensions in which runs differ, in their order."""
    named = _named_axes(runs)
    if named is None:
        named = RUN if set(RUN) <= set(runs.dims) else [d for d in runs.dims if d not in STEPS]
    return tuple(str(axis) for axis in named if axis in runs.dims)


def _named_axes(runs: xr.Dataset) -> list[str] | None:
    """What the attribute ``axes`` names; None without a list of different names."""
    try:
        names = parse_json(runs.attrs["axes"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(is_printable(name) for name in names):
        return None
    return names if len(set(names)) == len(names) and not set(names) & set(STEPS) else None


def by_model(runs: xr.Dataset) -> xr.Dataset:
    """Results over model × learning_rate × seed × step, whatever the axes of the runs.

    Args:
        runs: Results. Those that have this form already are returned as they are.

    Returns:
        The same results. All axes but ``learning_rate`` and ``seed`` are stacked in ``model``, the
        last one fastest, and become coordinates along it; where one of these two is no axis, its
        dimension has length 1 (a rate of NaN: unknown). Learning rates along another axis, of
        configurations, are the coordinate ``own_learning_rate`` of the models. What is declared for
        some of the axes (``optimum``, ``target`` …) is there for every model.
    """
    axes = axes_of(runs)
    if axes == RUN:
        return runs
    stacked = [axis for axis in axes if axis not in RUN[1:]]
    sizes = {axis: runs.sizes[axis] for axis in stacked}
    variables = {
        str(name): _stack(variable.variable, sizes, each_run=_is_per_run(str(name)))
        for name, variable in runs.data_vars.items()
    }
    own_rate = "learning_rate" in runs.coords and {*runs["learning_rate"].dims} <= {*stacked}
    own_rate = own_rate and runs["learning_rate"].ndim > 0
    known = {*runs.coords} - ({"learning_rate"} if own_rate else set())
    coordinates: dict[str, Any] = {
        name: (name, np.atleast_1d(runs[name].values if name in known else missing))
        for name, missing in (("learning_rate", np.nan), ("seed", 0))
    }
    # An axis may do without a coordinate, and may have others along it.
    for name in dict.fromkeys((*stacked, *map(str, runs.coords))):
        coordinate = runs[name].variable
        if name == "learning_rate" and own_rate:
            coordinates[OWN_RATE] = _stack(coordinate, sizes, each_run=False)
            continue
        if name in STEPS or not (coordinate.dims or name in coordinates):
            coordinates[name] = coordinate
        elif name == "model" and name not in runs.coords:
            continue
        elif coordinate.dims and set(coordinate.dims) <= set(stacked):
            coordinates[name] = _stack(coordinate, sizes, each_run=False)
    return xr.Dataset(variables, coordinates, runs.attrs | {"axes": json.dumps(RUN)})


def _is_per_run(name: str) -> bool:
    return name not in QUANTITIES or ALL_AXES in QUANTITIES[name].dims


def _stack(variable: xr.Variable, sizes: Mapping[str, int], *, each_run: bool) -> xr.Variable:
    """A variable with these axes stacked in ``model``, then rates and seeds, then steps."""
    others = [d for d in variable.dims if d not in (*sizes, *RUN[1:])]
    rest = [d for d in RUN[1:] if each_run or d in variable.dims] + others
    whole = variable.set_dims(dict.fromkeys(rest, 1) | dict(sizes) | dict(variable.sizes))
    values = whole.transpose(*sizes, *rest).values
    values = values.reshape(math.prod(sizes.values()), *values.shape[len(sizes) :])
    return xr.Variable(("model", *rest), values, variable.attrs)


def trained(runs: xr.Dataset) -> np.ndarray:
    """(model, learning_rate) booleans: whether the model was trained at the rate.

    Models may have learning rates of their own. What a run that was not trained would have recorded
    is NaN.
    """
    first = by_model(runs)["excess_loss"].isel(step=0).transpose(*RUN).values
    return np.any(~np.isnan(first), axis=2)


def model_coordinates(runs: xr.Dataset) -> tuple[str, ...]:
    """The names of what distinguishes models, in the order in which tables show it."""
    coordinates = by_model(runs).coords.items()
    return tuple(str(name) for name, value in coordinates if value.dims == ("model",))


def observed(results: xr.Dataset) -> list[str]:
    """The names of the observables that were recorded along the runs, without held-out loss."""
    return [
        str(name)
        for name, variable in results.data_vars.items()
        if variable.dims[-1:] == ("observation_step",) and name not in QUANTITIES
    ]


def matching(runs: xr.Dataset, coordinates: Mapping[str, object]) -> np.ndarray:
    """The numbers of the models that have these coordinates, values of `model_coordinates`.

    Raises:
        DataError: If no model has them; the message lists the values there are.
    """
    runs = by_model(runs)
    names = model_coordinates(runs)
    chosen = np.ones(runs.sizes["model"], bool)
    for given, value in coordinates.items():
        name = OWN_RATE if given == "learning_rate" and OWN_RATE in names else given
        if name not in names:
            raise DataError(f"{name!r} is no model coordinate: {', '.join(names)}")
        values = runs[name].values.tolist()
        found = np.array([v == value for v in values], bool)
        if not found.any():
            there = ", ".join(map(str, dict.fromkeys(values)))
            raise DataError(f"no model has {name} = {value!r}: there are {there}")
        chosen &= found
    if not chosen.any():
        raise DataError(f"no model has all of {dict(coordinates)}")
    return np.flatnonzero(chosen)


def select(runs: xr.Dataset, **coordinates: object) -> xr.Dataset:
    """The models that have these coordinates, e.g. ``select(run, loss_name="l4", depth=2)``.

    Args:
        runs: Results.
        coordinates: Values of some of the `model_coordinates`.

    Returns:
        The results of these models, see `by_model`.

    Raises:
        DataError: If no model has them; the message lists the values there are.
    """
    return by_model(runs).isel(model=matching(runs, coordinates))


@dataclass(frozen=True)
class Metric:
    """A recorded quantity by which runs are judged, with a target: the ``target`` of `sweep`.

    ``Metric("accuracy", target=0.95, best=1)`` is reached at an accuracy of 0.95 or more,
    ``Metric("held_out_loss", target=0.2, best=0)`` at a loss of 0.2 or less.

    Attributes:
        name: What was recorded along the runs: ``held_out_loss``, an observable's name, or a name
            of what the loss returns beside it.
        target: The value to reach.
        best: The best possible value. The metric counts by its distance from it, so that smaller
            is better for a loss, and larger for an accuracy.

    Raises:
        UserError: If the two are not different finite numbers.
    """

    name: str
    target: float
    best: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UserError(f"metric {self.name!r}: give the name of what is recorded")
        for what in ("target", "best"):
            value = finite(getattr(self, what))
            if value is None:
                raise UserError(f"metric {self.name}: {what} must be a finite number")
            object.__setattr__(self, what, value)
        if self.target == self.best:
            raise UserError(f"metric {self.name}: target and best must differ")

    def judge(self, runs: xr.Dataset) -> xr.Dataset:
        """Results in which the metric takes the place of the excess loss.

        `summarise`, `compare` and the figures then choose learning rates by it.

        Args:
            runs: Results of any axes.

        Returns:
            The results with ``excess_loss``, the distance from the best value, ``steps_to_target``
            and ``target`` of the metric, at the steps at which it was recorded: steps are as exact
            as the records are dense.

        Raises:
            DataError: If it was not recorded; the message lists what was.
            UserError: If the metric passes the best value, or all runs are at the target from the
                start.
        """
        recorded = [
            str(name)
            for name, v in runs.data_vars.items()
            if v.dims[-1:] in (("observation_step",), ("step",))
            and name not in ("loss", "excess_loss")
        ]
        metric = self.name
        if metric not in recorded:
            raise DataError(
                f"metric {metric!r} was not recorded; there is {', '.join(recorded) or 'none'}"
            )
        values, target, best = runs[metric].astype(float), self.target, self.best
        # Values are in training's precision, and so is the target: 0.9 is no number of float32.
        slack = 1e-6 * max(abs(target), abs(best))
        if ((values - best) * np.sign(target - best) < -slack).any():
            raise UserError(
                f"metric {metric!r} passes {best:g}: give the best possible value as best"
            )
        distance, goal = abs(values - best), abs(target - best) + slack
        dims, along = distance.dims[:-1], distance.dims[-1]
        was_trained = runs["excess_loss"].isel(step=0, drop=True).notnull().transpose(*dims)
        # Losses are inf from a divergence on; other quantities are NaN there.
        distance = distance.where(np.isfinite(distance) | ~was_trained, np.inf)
        steps = runs[along].values
        below = (distance <= goal).values
        if steps[0] == 0 and below[..., 0][was_trained.values].all():
            raise UserError(
                f"metric {metric!r}: all runs are at the target {target:g} before training; is "
                f"{best:g} the best possible value?"
            )
        reached = np.where(below.any(axis=-1), steps[below.argmax(axis=-1)].astype(float), np.inf)
        found = runs.drop_dims({"step", "batch_step"} - {along}, errors="ignore")
        # Its place is taken by the steps of the metric.
        found = found.drop_vars({"step"} - {along}, errors="ignore")
        words = {"long_name": str(runs[metric].attrs.get("long_name", metric.replace("_", " ")))}
        curve = distance.rename({along: "step"} if along != "step" else {}).assign_coords(
            step=steps
        )
        quiet = xr.zeros_like(runs["target"])
        return found.assign(
            excess_loss=curve.assign_attrs(words), loss=curve,
            steps_to_target=(dims, reached, runs["steps_to_target"].attrs),
            target=quiet + goal, optimum=quiet, resolution=quiet,
        )  # fmt: skip


# What labels call a coordinate, if not by its name.
_WORDS = {
    "hidden_widths": "width", "init_std": "std", "weight_decay": "decay", OWN_RATE: "learning rate",
}  # fmt: skip

# Digits that distinguish any two double-precision numbers; labels have six where these suffice.
_ALL_DIGITS = 17


def varying(runs: xr.Dataset, *, without: Collection[str] = ()) -> list[str]:
    """The model coordinates that distinguish models, in their order.

    Hidden widths that follow from the depth and one width are left out.

    Args:
        runs: Results of any axes.
        without: Coordinates that do not count.
    """
    runs = by_model(runs)
    counted = [name for name in model_coordinates(runs) if name not in without]
    values = {name: runs[name].values.tolist() for name in counted}
    found = [name for name in counted if len(_distinct(name, values[name])) > 1]

    def num_models(names: Sequence[str]) -> int:
        rows = [
            tuple(_exact(values[name][m]) for name in names) for m in range(runs.sizes["model"])
        ]
        return len({*rows})

    if num_models(found) == num_models(counted):
        return found
    return [name for name in counted if name in found or num_models([name]) > 1]


def _distinct(name: str, values: Iterable[object]) -> set[Hashable]:
    """Different values; of hidden widths the different widths in them."""
    if name == "hidden_widths":  # 4 and 4x4 are one width, and - of single layers is none
        return {width for v in values if v != "-" for width in str(v).split("x")}
    return set(map(_exact, values))


def layer_width(hidden: object) -> Any:
    """The width of all hidden layers; their widths as text, where they differ or there are none."""
    if not isinstance(hidden, str):
        return hidden
    widths = set(hidden.split("x"))
    width = widths.pop() if len(widths) == 1 else hidden
    return int(width) if width.isdecimal() else width


def shown_values(runs: xr.Dataset, name: str) -> list[Any]:
    """Each model's coordinate, of results by model; of hidden layers the `layer_width`."""
    values = runs[name].values.tolist()
    return list(map(layer_width, values)) if name == "hidden_widths" else values


def _exact(value: object) -> Hashable:
    """Equal for values of one type and one representation; NaN equals itself."""
    value = value.item() if isinstance(value, np.generic) else value
    return type(value).__name__, repr(value)


def identity(value: object) -> Hashable:
    """Equal for equal values of a coordinate: numbers as numbers, booleans and text apart."""
    value = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and value == value else _exact(value)


def _is_none(value: object) -> bool:
    """Whether a model does not have this coordinate, as a single layer has no hidden widths."""
    return bool(value == "-" or value != value)


def coordinate_label(name: str, value: object, among: Iterable[object] = ()) -> str:
    """A model's coordinate in words: ``width_scale 0.5``, ``adam``; empty if it has none.

    Args:
        name: Of the coordinate.
        value: Of the coordinate.
        among: Values from which the label must differ.
    """
    values = {identity(v): v for v in (*among, value)}
    if len(values) > 1:
        return _value_labels(name, values)[identity(value)]
    if _is_none(value):
        return ""
    if isinstance(value, str):
        return f"{_WORDS[name]} {value}" if name in _WORDS else value
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{_WORDS.get(name, name)} {shown}"


_Key = TypeVar("_Key", bound=Hashable)


def first_unique(forms: Mapping[_Key, Sequence[str]]) -> dict[_Key, str]:
    """For each key the first of its texts that no other key has.

    Args:
        forms: For each key its possible texts, in the order of preference.

    Returns:
        Texts that differ, unless those at the end of two keys' forms are equal.
    """
    places = dict.fromkeys(forms, 0)
    while True:
        texts = {key: forms[key][place] for key, place in places.items()}
        counts = Counter(texts.values())
        longer = [
            key for key, text in texts.items()
            if counts[text] > 1 and places[key] + 1 < len(forms[key])
        ]  # fmt: skip
        if not longer:
            return texts
        for key in longer:
            places[key] += 1


def number_forms(value: float, digits: int) -> list[str]:
    """A number with that many significant digits, with one more, and so on until it is exact.

    More digits than make it exact are left out: 0.3, and not 0.29999999999999999.
    """
    counts = range(digits, _ALL_DIGITS + 1)
    exact = next((n for n in counts if float(f"{value:.{n}g}") == value), _ALL_DIGITS)
    return [f"{value:.{min(n, exact)}g}" for n in counts]


def _with_word(name: str, label: str) -> str:
    """A value's label, in front of it what the coordinate is called; empty if the label is."""
    word = _WORDS.get(name, name)
    return label if not label or label.startswith(f"{word} ") else f"{word} {label}"


def _quoted(name: str, value: object) -> str:
    """A value with its coordinate's name, in quotation marks if it is text."""
    return f"{name} {value!r}"


def _value_labels(name: str, values: Mapping[_Key, object]) -> dict[_Key, str]:
    """A coordinate's values in words, with enough digits to distinguish them."""

    def forms(value: object) -> list[str]:
        usual, full = coordinate_label(name, value), _quoted(name, value)
        if not isinstance(value, float) or not math.isfinite(value):
            return [usual, full]
        word = _WORDS.get(name, name)
        return [usual, *(f"{word} {text}" for text in number_forms(value, 7)), full]

    labels = {key: coordinate_label(name, value) for key, value in values.items()}
    if len({*labels.values()}) == len(values):
        return labels
    return first_unique({key: forms(value) for key, value in values.items()})


def coordinate_labels(runs: xr.Dataset, names: Iterable[str]) -> dict[str, list[str]]:
    """Every model's value of some coordinates in words; empty for a value that is none.

    Args:
        runs: Results of any axes.
        names: Some of the `model_coordinates`.

    Returns:
        By the coordinates' names, for each model a label. Different values have different labels,
        also those of two coordinates.
    """
    runs = by_model(runs)
    keys, forms = {}, {}
    for name in names:
        values = runs[name].values.tolist()
        keys[name] = [(name, _exact(value)) for value in values]
        distinct = dict(zip(keys[name], values, strict=True))
        for key, label in _value_labels(name, distinct).items():
            if label:
                forms[key] = [label, _with_word(name, label), _quoted(name, distinct[key])]
    labels = first_unique(forms)
    return {name: [labels.get(key, "") for key in own] for name, own in keys.items()}


def model_labels(runs: xr.Dataset, names: Collection[str] | None = None) -> list[str]:
    """A short label for each model.

    Args:
        runs: Results.
        names: Of the coordinates that it shows; unless given what differs between models, and
            always the depth.

    Returns:
        Labels that are equal if and only if all these coordinates are. They are for readers: where
        the usual words of two models are the same, they are lengthened, by digits, by the
        coordinates' names or by a number.
    """
    names = {*varying(runs), "depth"} if names is None else names
    return labels_across([runs], names)[0]


def labels_across(
    sweeps: Sequence[xr.Dataset], names: Collection[str], *, without: Collection[str] = ()
) -> list[list[str]]:
    """Labels that models of several sweeps have in common.

    Args:
        sweeps: Results of any axes.
        names: Of the coordinates that count; of a sweep that has none of these all do.
        without: Coordinates that never count.

    Returns:
        For each sweep its models' labels, which are equal if and only if the coordinates are, in
        whatever order a sweep has these. A value that is none (``-``, NaN) equals a coordinate that
        is missing, and 1 equals 1.0, unless one of the sweeps has both values.
    """
    sweeps = list(map(by_model, sweeps))
    columns: list[dict[str, list[Any]]] = []
    for runs in sweeps:
        there = [name for name in model_coordinates(runs) if name not in without]
        shown = [name for name in there if name in names] or there
        columns.append({name: runs[name].values.tolist() for name in shown})
    keys_of = {
        name: _matching_key([own[name] for own in columns if name in own])
        for name in dict.fromkeys(name for own in columns for name in own)
    }
    values: dict[str, dict[Hashable, Any]] = {name: {} for name in keys_of}
    for own in columns:
        for name, column in own.items():
            for value in column:
                values[name].setdefault(keys_of[name](value), value)
    words = {name: _value_labels(name, found) for name, found in values.items()}
    models: dict[Hashable, dict[str, Hashable]] = {}
    keys: list[list[Hashable]] = []
    for runs, own in zip(sweeps, columns, strict=True):
        keys.append([])
        for m in range(runs.sizes["model"]):
            row = {name: keys_of[name](column[m]) for name, column in own.items()}
            keys[-1].append(frozenset((n, key) for n, key in row.items() if key is not None))
            models.setdefault(keys[-1][-1], row)

    def usual(row: Mapping[str, Hashable]) -> str:
        return ", ".join(filter(None, (words[n][key] for n, key in row.items()))) or "model"

    def named(row: Mapping[str, Hashable]) -> str:
        shown = (_with_word(n, words[n][key]) for n, key in row.items())
        return ", ".join(filter(None, shown)) or "model"

    def full(row: Mapping[str, Hashable]) -> str:
        return ", ".join(_quoted(n, values[n][key]) for n, key in row.items()) or "model"

    labels = {key: usual(row) for key, row in models.items()}
    if len({*labels.values()}) < len(labels):
        forms = {key: (usual(row), named(row), full(row)) for key, row in models.items()}
        labels = _numbered(first_unique(forms))
    return [[labels[key] for key in own] for own in keys]


def _matching_key(columns: Sequence[Sequence[object]]) -> Callable[[object], Hashable]:
    """What makes two values of a coordinate one, given those of each sweep that has it."""

    def loosely(value: object) -> Hashable:
        return None if _is_none(value) else identity(value)

    exactly = any(len({*map(_exact, own)}) > len({*map(loosely, own)}) for own in columns)
    return _exact if exactly else loosely


def _numbered(texts: Mapping[_Key, str]) -> dict[_Key, str]:
    """The texts, with a number behind those that another key has."""
    taken, counts = {*texts.values()}, Counter(texts.values())
    found = dict(texts)
    for key, text in texts.items():
        number = 1
        while counts[text] > 1 and found[key] in taken:
            found[key] = f"{text} ({number})"
            number += 1
        taken.add(found[key])
    return found


# --- files ---


def save_results(results: xr.Dataset, folder: Path) -> str:
    """Writes ``results.nc`` into a folder, atomically; returns its checksum."""
    return save_netcdf(results, folder / RESULTS_FILE)


def recorded_seal(folder: Path) -> str:
    """The seal of ``results.nc`` that a run's ``config.json`` records; empty if it records none.

    Folders from before there was this record have none.
    """
    try:
        stored = load_json(folder / CONFIG_FILE)
        recorded = stored[RESULTS_SEAL] if stored["format"] == FORMAT else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return recorded if isinstance(recorded, str) else ""


def load_results(path: Path) -> xr.Dataset:
    """Reads into memory what `save_results` wrote, and nothing else.

    Raises:
        DataError: If the file is damaged, no program of ours wrote it, or it is a ``results.nc``
            beside the ``config.json`` of another run.
    """
    expected = recorded_seal(path.parent) if path.name == RESULTS_FILE else ""
    try:
        results, found = load_netcdf(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError as error:
        raise DataError(
            f"{path}: damaged, or not written by a sweep ({error}): train the run again, with "
            "--overwrite"
        ) from None
    if expected not in ("", found):
        raise DataError(
            f"{path}: not the results of the run that {CONFIG_FILE} beside it describes (the file "
            "was copied from another run, or replaced): give the run's command again, which makes "
            f"{RESULTS_FILE} from its checkpoints, or train the run again (overwrite=True, "
            "--overwrite in the shell)"
        )
    return results


# --- what is no results ---


def invalid(
    runs: xr.Dataset,
    declared: Mapping[str, Quantity] = QUANTITIES,
    axes: tuple[str, ...] | None = None,
) -> str:
    """Why a dataset is not the results of runs; empty if it is.

    Args:
        runs: The dataset, from anywhere.
        declared: What it must hold.
        axes: The axes of its runs; without them, it must name its axes itself, in its attribute
            ``axes`` (a JSON list), and have coordinates along them.
    """
    if str(runs.attrs.get("format")) != FORMAT:
        return f"expected format {FORMAT!r}"
    if not is_printable(runs.attrs.get("title")):
        return "no title"
    for name, value in runs.attrs.items():
        if np.ndim(value) or not isinstance(value, str | int | float | np.number | np.bool_):
            return f"the attribute {name} is no single value"
    num_steps = runs.attrs.get("num_steps")
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        return "no number of steps"
    along: list[str] = []
    if axes is None:
        named = _named_axes(runs)
        if named is None:
            return "no list of axes"
        axes = tuple(named)
        for reason in (_invalid_axis(runs, axis) for axis in axes):
            if reason:
                return reason
        # Hyper-parameters which vary together along an axis.
        along = [
            str(n)
            for n, c in runs.coords.items()
            if n not in axes and c.dims and c.dims == (c.attrs.get(ALONG),) and c.dims[0] in axes
        ]
        for reason in (_invalid_along(runs, name) for name in along):
            if reason:
                return reason
    for quantity in declared.values():
        if quantity.name == "learning_rate" and quantity.name in along:
            quantity = replace(quantity, dims=tuple(map(str, runs["learning_rate"].dims)))
        if reason := _invalid_quantity(runs, quantity, axes):
            return reason
    for name, coordinate in runs.coords.items():
        if coordinate.dims and name not in declared and name not in (*axes, *along):
            return f"{name} is no coordinate of these runs"
    for name, variable in runs.data_vars.items():
        over = [axes, *((*axes, step) for step in STEPS)]
        if name not in declared and not (variable.dtype.kind == "f" and variable.dims in over):
            return f"{name} is no curve over {', '.join(axes)}, step"
    if runs["step"].values[-1] != num_steps:
        return "the last step is missing"
    if np.isnan(runs["excess_loss"].values).all():
        return "no run was trained"
    if "observation_step" in runs.variables and runs["observation_step"].values[-1] > num_steps:
        return "observations after the last step"
    return ""


def _invalid_axis(runs: xr.Dataset, axis: str) -> str:
    if axis not in runs.coords or runs[axis].dims != (axis,):
        return f"no coordinate along {axis}"
    if reason := _invalid_values(runs, axis):
        return reason
    values = runs[axis].values
    return f"{axis} holds values twice" if len(set(values.tolist())) < len(values) else ""


def _invalid_values(runs: xr.Dataset, name: str) -> str:
    values = runs[name].values
    if not values.size or values.dtype.kind not in "iufOU":
        return f"{name} holds neither numbers nor text"
    if values.dtype.kind in "OU":
        return "" if all(map(is_printable, values)) else f"{name} holds what is no text"
    return "" if np.isfinite(values).all() else f"{name} holds numbers that are out of range"


def _invalid_along(runs: xr.Dataset, name: str) -> str:
    if not name.isidentifier() or name in (OWN_RATE, "model", "seed"):
        return f"{printable(name)} is no hyper-parameter"
    return _invalid_values(runs, name)


def _invalid_quantity(runs: xr.Dataset, quantity: Quantity, axes: tuple[str, ...]) -> str:
    name = quantity.name
    if name not in runs.variables and not quantity.required and name not in axes:
        return ""
    dims = quantity.over(axes)
    found = runs[name].dims if name in runs.variables else None
    # In the axes' order, some of them.
    some = tuple(axis for axis in axes if found and axis in found)
    allowed = [some if dims == (SOME_AXES,) else dims]
    if quantity.earlier_dims is not None:
        allowed.append(_over(quantity.earlier_dims, axes))
    if found not in allowed:
        return f"no {name} over {', '.join(dims)}"
    values = runs[name].values
    if values.dtype.kind not in _DTYPES[quantity.kind] or not values.size:
        return f"{name} holds no {'text' if quantity.kind == 'text' else 'numbers'}"
    if quantity.kind == "text":
        known = all(isinstance(v, str) for v in values.flat) and np.all(quantity.allowed(values))
        return "" if known else f"unknown {name}"
    return "" if np.all(quantity.allowed(values)) else f"{name} holds numbers that are out of range"
