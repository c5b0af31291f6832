"""The axes of a grid, as users give them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from implicit_accel.content import UnidentifiedError, content_digest
from implicit_accel.errors import UserError
from implicit_accel.experiment import RATES, SEEDS, Axes
from implicit_accel.files import is_printable
from implicit_accel.names import check_axis_names

_MOST_PROGRAMS = 1000

# Labels are cells of tables and entries of legends.
_LONGEST_LABEL = 100

# JAX computes whole numbers in 32 bits; results hold them in 64.
_WHOLE = (-(2**31), 2**31 - 1)
_HELD = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class static:  # noqa: N801 - reads like a function where it is used
    """Values of an axis that are fixed in a program of their own: ``static(1, 2, 3)``.

    For what a traced number cannot do: shape an array, count layers, choose a branch. Values may be
    anything: functions, tuples, dictionaries, None. The task's functions get the value itself, and
    results its label: a function's name, or the value as text, ``(64, 64)``. To choose the labels,
    give the axis a dictionary instead: ``{"tanh": jnp.tanh, "none": lambda x: x}``.
    """

    values: tuple[Any, ...]
    labels: tuple[str, ...] | None = field(default=None, repr=False)

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "labels", None)

    @classmethod
    def labelled(cls, values: Iterable[Any], labels: Iterable[str] | None) -> static:
        """Values with their labels, each value's own; those of `static` without."""
        made = cls(*values)
        object.__setattr__(made, "labels", None if labels is None else tuple(labels))
        return made


class together:  # noqa: N801 - reads like a function where it is used
    """Values of an axis along which several hyper-parameters vary together.

    ``axes={"configuration": together(learning_rate=[0.1, 0.3], momentum=[0.9, 0.0])}`` trains these
    two configurations, and not their product. In results the axis counts them from 0, and the
    hyper-parameters are coordinates along it.

    Args:
        runs: The configurations: a sequence of dictionaries with the same names, or a data frame
            with a column per hyper-parameter.
        values: Instead, the values of each hyper-parameter, as along an axis, all as many. They may
            be repeated; no configuration may.

    Raises:
        UserError: If configurations have different names, or both or nothing is given.
    """

    def __init__(self, runs: Any = None, /, **values: Any) -> None:
        if (runs is None) == (not values):
            raise UserError(
                "together: give configurations, like [{'learning_rate': 0.1, 'momentum': 0.9}], or "
                "lists of values by name, like learning_rate=[0.1, 0.3]"
            )
        self.values: dict[str, Any] = values if runs is None else _columns(runs)

    def __repr__(self) -> str:
        """The values by name."""
        return f"together({', '.join(f'{name}={v!r}' for name, v in self.values.items())})"


def _columns(runs: Any) -> dict[str, Any]:
    """The values of each hyper-parameter in a list of configurations, or in a data frame."""
    if hasattr(runs, "columns") and hasattr(runs, "iloc"):
        if len(set(runs.columns)) < len(runs.columns):
            raise UserError("together: two columns of the data frame have one name")
        return {name: list(runs[name]) for name in runs.columns}
    rows: list[Any] = list(runs) if isinstance(runs, list | tuple) else []
    if not rows or not all(isinstance(row, Mapping) and row for row in rows):
        raise UserError(
            "together: give a list of configurations, like [{'learning_rate': 0.1}], or a data "
            "frame with a column per hyper-parameter"
        )
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise UserError(
                f"together: configuration {number} has {_listed(row)}, and 0 has "
                f"{_listed(rows[0])}; give all the same hyper-parameters"
            )
    return {name: _column(name, [row[name] for row in rows]) for name in rows[0]}


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _column(name: object, values: list[Any]) -> list[Any] | static:
    """One hyper-parameter's values, marked as static if one of them is."""
    given = [value.values if isinstance(value, static) else (value,) for value in values]
    if any(len(own) != 1 for own in given):
        raise UserError(f"axis {name}: a configuration has one value, static(value)")
    whole = [value for (value,) in given]
    return static(*whole) if any(isinstance(value, static) for value in values) else whole


@dataclass(frozen=True)
class GridAxes:
    """The axes of a grid in the form in which runs are stored.

    Attributes:
        axes: Values by the axes' names: numbers, truth values, words; for values of other kinds
            their labels; for configurations the JSON of each, hyper-parameters by name.
        static: Names of the hyper-parameters that programs are made for.
        behind: The values behind labels, by hyper-parameter and label.
        together: Names of the axes of configurations.
    """

    axes: Axes
    static: frozenset[str]
    behind: dict[str, dict[str, Any]] = field(default_factory=dict)
    together: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Column:
    """A hyper-parameter's values along its axis.

    Attributes:
        axis: The axis's name.
        values: One for each place along it; repeated where several vary together.
    """

    axis: str
    values: tuple[Any, ...]

    @property
    def distinct(self) -> tuple[Any, ...]:
        """Its different values."""
        return tuple(dict.fromkeys(self.values))


def hyper_parameters(axes: Axes, together: Iterable[str]) -> dict[str, Column]:
    """The hyper-parameters of a grid by name.

    Args:
        axes: The grid's, see `GridAxes`.
        together: Which of them are axes of configurations.
    """
    found: dict[str, Column] = {}
    for axis, values in axes.items():
        if axis not in together:
            found[axis] = Column(axis, values)
            continue
        configurations = [json.loads(text) for text in values]
        for name in configurations[0]:
            found[name] = Column(axis, tuple(own[name] for own in configurations))
    return found


def _plain(value: Any) -> Any:
    """A scalar of a library's own kind as Python's."""
    is_scalar = isinstance(value, np.generic | jax.Array | np.ndarray) and value.ndim == 0
    return value.item() if is_scalar else value


def _typed(name: str, values: tuple[Any, ...], *, is_static: bool) -> tuple[Any, ...]:
    """The values of an axis in its one type, which is decided by all of them.

    Learning rates are fractions. Other numbers are fractions if one of them is, else whole; truth
    values and words are each by themselves. What is static keeps its type, value by value.

    Raises:
        UserError: If a value has no type, does not fit it, or types are mixed.
    """
    is_number = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
    is_word = [isinstance(v, str) for v in values]
    is_truth = [isinstance(v, bool) for v in values]
    if not all(map(any, zip(is_number, is_word, is_truth, strict=True))):
        raise UserError(
            f"axis {name}: values must be numbers, true or false, or text; mark others as "
            'ia.static(…), or name them: {"label": value, …}'
        )
    if any(is_word) and not all(is_word):
        raise UserError(f"axis {name}: values must be all text or all numbers, not both")
    if any(is_truth) and not all(is_truth):
        raise UserError(f"axis {name}: true and false are no numbers; give them alone")
    if all(is_word) or all(is_truth):
        return values
    for v in values:
        if isinstance(v, float) and not math.isfinite(v):
            raise UserError(f"axis {name}: a value is not finite, or too large")
    is_whole = all(isinstance(v, int) for v in values)
    if name == RATES or not (is_whole or is_static):
        try:
            return tuple(map(float, values))
        except OverflowError:
            raise UserError(f"axis {name}: a value is not finite, or too large") from None
    low, high = _HELD if is_static else _WHOLE
    if name != SEEDS and not all(low <= v <= high for v in values):
        raise UserError(
            f"axis {name}: a whole number is too large, it does not fit "
            f"{64 if is_static else 32} bits; write it as a fraction, like 1.5e10"
        )
    return values


def fixed_parts(
    axes: Axes, fixed: Iterable[str], together: Iterable[str]
) -> list[list[dict[str, Any]]]:
    """What programs are made for, by axis: each axis's different values of what is static.

    Args:
        axes: The grid's, see `GridAxes`.
        fixed: Names of the hyper-parameters that programs are made for.
        together: Which axes are of configurations.

    Returns:
        For each axis its different combinations of such values, by hyper-parameter; one of nothing
        where an axis has none. A program is made for each element of the product.
    """
    columns = hyper_parameters(axes, together)
    parts = []
    for axis, values in axes.items():
        own = {n: c.values for n, c in columns.items() if c.axis == axis and n in fixed}
        rows = [tuple(column[i] for column in own.values()) for i in range(len(values))]
        # By type, too: 1 and True are equal, and are trained by different programs.
        distinct = {tuple((type(v), v) for v in row): row for row in rows}
        parts.append([dict(zip(own, row, strict=True)) for row in distinct.values()])
    return parts


def places_of(axis: str, columns: Mapping[str, Column], fixed: Mapping[str, Any]) -> list[int]:
    """The places along an axis whose static values are these, see `fixed_parts`."""
    count = next(len(column.values) for column in columns.values() if column.axis == axis)
    own = {n: c.values for n, c in columns.items() if c.axis == axis and n in fixed}
    return [
        i for i in range(count)
        if all(type(v[i]) is type(fixed[n]) and v[i] == fixed[n] for n, v in own.items())
    ]  # fmt: skip


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _label(value: Any, *, is_part: bool = False) -> str:
    """A value as text: a function by its name, a container by its values; empty if it has none."""
    if isinstance(value, str):
        return repr(value) if is_part else value
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if type(value) in (tuple, list):
        parts = [_label(part, is_part=True) for part in value]
        ends = "[]" if isinstance(value, list) else "()"
        listed = ", ".join(parts) + ("," if isinstance(value, tuple) and len(parts) == 1 else "")
        return ends[0] + listed + ends[1] if all(parts) else ""
    if type(value) is dict:
        pairs = [(repr(k), _label(v, is_part=True)) for k, v in value.items()]
        return (
            "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
            if all(dict(pairs).values())
            else ""
        )
    name = getattr(value, "__name__", "")
    return name if isinstance(name, str) and name != "<lambda>" else ""


def _labels(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    """A label for each value of an axis; different values have different ones.

    Raises:
        UserError: If a value has none, or two have the same.
    """
    advice = 'name the values: {"label": value, …}'
    found = []
    for value in values:
        try:
            label = _label(value)
        except RecursionError:
            label = ""
        if not (is_printable(label) and len(label) <= _LONGEST_LABEL):
            raise UserError(
                f"axis {name}: a value of type {type(value).__name__} has no name or short text "
                f"for tables and files; {advice}"
            )
        found.append(label)
    first: dict[str, Any] = {}
    for label, value in zip(found, values, strict=True):
        if not _is_same(first.setdefault(label, value), value):
            raise UserError(f"axis {name}: two values have the label {label!r}; {advice}")
    return tuple(found)


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    try:
        return type(a) is type(b) and content_digest(a) == content_digest(b)
    except (UnidentifiedError, RecursionError):
        return False


def read_values(name: str, given: Any) -> tuple[tuple[Any, ...], bool, dict[str, Any]]:
    """A hyper-parameter's values, which may be repeated.

    Args:
        name: Of the hyper-parameter.
        given: A sequence of plain values, `static`, or values by their labels.

    Returns:
        Plain values in their one type, or labels; whether programs are made for them; and what is
        behind labels, by label.

    Raises:
        UserError: If they are not allowed.
    """
    if isinstance(given, Mapping):
        for label in given:
            if not (is_printable(label) and len(label) <= _LONGEST_LABEL):
                raise UserError(
                    f"axis {name}: {label!r} is no label; labels are text of one line, at most "
                    f"{_LONGEST_LABEL} characters"
                )
        return tuple(given), True, dict(given)
    is_static = isinstance(given, static)
    values = given.values if is_static else given
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise UserError(f"axis {name}: give a list of values, not {values!r}")
    values = tuple(map(_plain, values))
    labels = given.labels if isinstance(given, static) else None
    if is_static and (labels is not None or not all(map(_is_plain, values))):
        labels = _labels(name, values) if labels is None else labels
        return labels, True, dict(zip(labels, values, strict=True))
    typed = _typed(name, values, is_static=is_static)
    return typed, is_static or any(isinstance(value, str) for value in typed), {}


def _configurations(
    axis: str, given: together
) -> tuple[dict[str, tuple[Any, ...]], frozenset[str], dict[str, dict[str, Any]]]:
    """The columns of an axis of configurations, the static ones, and what is behind labels."""
    check_axis_names(given.values)
    if SEEDS in given.values:
        raise UserError(
            f"axis {axis}: seed cannot vary with other hyper-parameters; give an axis of its own, "
            "seed=range(…), by which every configuration is repeated"
        )
    columns: dict[str, tuple[Any, ...]] = {}
    fixed, behind = set(), {}
    for name, values in given.values.items():
        columns[name], is_static, values_behind = read_values(name, values)
        fixed |= {name} if is_static else set()
        behind |= {name: values_behind} if values_behind else {}
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UserError(f"axis {axis}: give as many values of each, one or more, not {listed}")
    return columns, frozenset(fixed), behind


def read_axes(axes: Mapping[str, Any]) -> GridAxes:
    """Axes as tuples of plain values, and what else there is to know of them.

    Raises:
        UserError: If a name is taken, or values are not allowed.
    """
    check_axis_names(axes)
    read: Axes = {}
    fixed: set[str] = set()
    behind: dict[str, dict[str, Any]] = {}
    taken = set(axes)
    for name, given in axes.items():
        if isinstance(given, together):
            columns, is_static, values_behind = _configurations(name, given)
            if both := taken & columns.keys():
                raise UserError(f"axis {name}: {min(both)} is along another axis already")
            taken |= columns.keys()
            fixed |= is_static
            behind |= values_behind
            plain = tuple(
                json.dumps(dict(zip(columns, row, strict=True)), sort_keys=True)
                for row in zip(*columns.values(), strict=True)
            )
            first = {text: number for number, text in reversed([*enumerate(plain)])}
            for number, text in enumerate(plain):
                if first[text] != number:
                    raise UserError(
                        f"axis {name}: configurations {first[text]} and {number} are the same; "
                        "give each once"
                    )
        else:
            plain, is_static, values_behind = read_values(name, given)
            if not plain or len(set(plain)) < len(plain):
                raise UserError(f"axis {name}: give one value or more, each once")
            fixed |= {name} if is_static else set()
            behind |= {name: values_behind} if values_behind else {}
        read[name] = plain
    configurations = frozenset(n for n, given in axes.items() if isinstance(given, together))
    _check_special(read, fixed, configurations)
    return GridAxes(read, frozenset(fixed), behind, configurations)


def _check_special(axes: Axes, fixed: set[str], together: frozenset[str]) -> None:
    """Makes sure that learning rates and seeds are some, and programs not too many."""
    columns = hyper_parameters(axes, together)
    rates = columns[RATES].values if RATES in columns else (1.0,)
    if RATES in fixed or not all(isinstance(rate, float) and rate > 0 for rate in rates):
        raise UserError("axis learning_rate: give numbers above 0, not marked static")
    seeds = axes.get(SEEDS, (0,))
    if SEEDS in fixed or any(type(s) is not int or not 0 <= s < 2**32 for s in seeds):
        raise UserError("axis seed: give whole numbers from 0 up, below 2^32")
    if math.prod(map(len, fixed_parts(axes, fixed, together))) > _MOST_PROGRAMS:
        raise UserError(f"more than {_MOST_PROGRAMS} programs: make fewer of the values static")


def check_axes_precision(axes: Axes, fixed: frozenset[str], precision: str, what: str = "") -> None:
    """Makes sure that an axis's numbers differ in training's precision.

    Args:
        axes: The axes.
        fixed: Those of them that are not traced.
        precision: In which numbers are traced.
        what: What the message calls it, where not ``precision`` decides.

    Raises:
        UserError: If two of them are one number in the precision, or one overflows or vanishes.
    """
    # JAX flushes subnormal numbers to 0 on some devices.
    tiny = float(np.finfo(precision).tiny)
    if not what:
        what, advice = precision, ", or use precision float64" if precision == "float32" else ""
    else:
        advice = ""
    for name, values in axes.items():
        if name in fixed or not isinstance(values[0], float):
            continue
        with np.errstate(over="ignore", under="ignore"):
            rounded = np.array(values).astype(precision).tolist()
        first: dict[float, float] = {}
        for v, r in zip(values, rounded, strict=True):
            if not math.isfinite(r) or (v != 0 and abs(r) < tiny):
                raise UserError(
                    f"axis {name}: {v!r} is beyond what {what} holds; rescale it{advice}"
                )
            if r in first:
                raise UserError(
                    f"axis {name}: {first[r]!r} and {v!r} are one number in {what}; leave one "
                    f"out{advice}"
                )
            first[r] = v
