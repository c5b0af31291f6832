"""From a table with names, types and gaps to a data set of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from implicit_accel.data.dataset import NUMBER, Dataset, quoted
from implicit_accel.data.problems import Preparation, Problem, make_problem
from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import shown
from implicit_accel.files import printable

MISSING = ("refuse", "drop")
"""What becomes of rows with gaps."""

MAX_LEVELS = 1000
"""The most different values of a column that is encoded as one-hot columns."""


def problem_from_frame(
    frame: pd.DataFrame,
    target: str | Sequence[str],
    *,
    drop: str | Sequence[str] = (),
    one_hot: str | Sequence[str] = (),
    missing: str = "refuse",
    name: str = "frame",
    scaling: str = Preparation.scaling,
    held_out_fraction: float = Preparation.held_out_fraction,
    split_seed: int = Preparation.split_seed,
) -> Problem:
    """A regression problem from a pandas data frame.

    Args:
        frame: The rows; its index is not used.
        target: The column to predict, or several.
        drop: Columns to leave out.
        one_hot: Columns to encode: a column of zeros and ones for each of their values.
        missing: What becomes of rows with gaps: ``refuse`` or ``drop``.
        name: What to call the data.
        scaling: See `make_problem`.
        held_out_fraction: See `make_problem`.
        split_seed: See `make_problem`.

    Returns:
        The problem; all columns but those named are features.

    Raises:
        UserError: If a setting is out of range, or a column is named that is not there.
        DataError: If a column is not numeric, constant, or has gaps or infinities.
    """
    columns = Columns(target, drop, one_hot, missing)
    dataset = columns.dataset(frame, name=name, label=name, title=name, source="a data frame")
    return make_problem(
        dataset, scaling=scaling, held_out_fraction=held_out_fraction, split_seed=split_seed
    )


@dataclass(frozen=True)
class Columns:
    """What becomes of the columns of a table.

    Attributes:
        targets: The columns to predict. All that are not named are features.
        drop: Columns to leave out.
        one_hot: Columns to encode, see `problem_from_frame`.
        missing: One of `MISSING`.
        decimal: The decimal mark of numbers that are still text.
        prefix: Of these settings' names in messages: ``--csv_`` in the shell.

    Raises:
        UserError: If no target is named, one is dropped or encoded, or ``missing`` is out of range.
    """

    targets: str | Sequence[str]
    drop: str | Sequence[str] = ()
    one_hot: str | Sequence[str] = ()
    missing: str = "refuse"
    decimal: str = "."
    prefix: str = ""

    def __post_init__(self) -> None:
        for what in ("targets", "drop", "one_hot"):
            given = getattr(self, what)
            if not isinstance(given, str | list | tuple):
                raise UserError(f"{what}: names of columns are needed, not {type(given).__name__}")
            listed = (given,) if isinstance(given, str) else given
            # Blanks at the ends of names are no part of them.
            object.__setattr__(self, what, tuple(str(name).strip() for name in listed))
        if self.missing not in MISSING:
            raise UserError(f"{self.prefix}missing {self.missing!r}: write {' or '.join(MISSING)}")
        if not self.targets:
            raise UserError(f"name the column to predict ({self.prefix}target)")
        if both := {*self.targets} & {*self.drop, *self.one_hot}:
            raise UserError(
                f"column {quoted(min(both))} is a target: it can be neither left out nor encoded"
            )
        if both := {*self.drop} & {*self.one_hot}:
            raise UserError(f"column {quoted(min(both))} is to be left out and to be encoded")
        if len(set(self.targets)) < len(self.targets):
            raise UserError(f"{self.prefix}target names a column twice")

    def dataset(
        self, frame: pd.DataFrame, *, name: str, label: str, title: str, source: str
    ) -> Dataset:
        """A data set from a table.

        Args:
            frame: The rows. Blanks at the ends of columns' names do not count.
            name: The data set's.
            label: What messages begin with.
            title: The data set's, but for its targets.
            source: Where the data are from.

        Raises:
            DataError: If a column is unnamed, named twice, not there, not numeric, constant, or
                has gaps or infinities; there is no feature, or only one row. Rows are counted
                from 1.
        """
        if not isinstance(frame, pd.DataFrame):
            raise UserError(f"{label}: a pandas DataFrame is needed, not {type(frame).__name__}")
        frame = frame.reset_index(drop=True)
        names = self._names(frame, label)  # with their positions
        for what, wanted in (
            ("target", self.targets), ("drop", self.drop), ("one_hot", self.one_hot)
        ):  # fmt: skip
            for each in wanted:
                if each not in names:
                    raise DataError(
                        f"{label} has no column {quoted(each)} ({self.prefix}{what}); its columns "
                        f"are {_listed([*names])}."
                    )
        others = {*self.targets, *self.drop}
        features = [each for each in names if each not in others]
        if not features:
            raise DataError(f"{label} has only the target column; at least one feature is needed.")
        columns = {each: frame.iloc[:, names[each]] for each in (*features, *self.targets)}
        notes = []
        if self.missing == "drop":
            gaps = np.any([column.isna().to_numpy() for column in columns.values()], axis=0)
            columns = {each: column[~gaps] for each, column in columns.items()}
            if gaps.any():
                notes.append(f"{gaps.sum():,} of {len(gaps):,} rows have gaps and are left out")
        num_rows = len(columns[features[0]])
        if num_rows < 2:
            raise DataError(f"{label} has {num_rows} rows of data; at least 2 are needed.")
        arrays: dict[str, np.ndarray] = {}
        for each in features:
            encoded = self._encoded(columns[each], each, label)
            if clash := [new for new in encoded if (new != each and new in names) or new in arrays]:
                raise DataError(
                    f"{label}: there is a column {quoted(clash[0])} already; rename it."
                )
            arrays |= encoded
        named = printable(" and ".join(self.targets))
        return Dataset(
            name=name,
            features=np.column_stack(list(arrays.values())),
            targets=np.column_stack([self._numbers(columns[t], t, label) for t in self.targets]),
            feature_names=tuple(arrays),
            target_names=tuple(self.targets),
            source=f"{source}, target {named}",
            title=f"{title} ({named})",
            notes=tuple(notes),
        )

    def _encoded(self, column: pd.Series, name: str, label: str) -> dict[str, np.ndarray]:
        """A column as numbers: itself, or a column for each value in the order of their texts."""
        if name not in self.one_hot:
            return {name: self._numbers(column, name, label)}
        where = f"{label}: column {quoted(name)}"
        if column.isna().any():
            row = column.index[int(np.argmax(column.isna()))] + 1
            raise DataError(
                f"{where} has a gap in data row {row}; fill it, or leave out such rows "
                f"({self.prefix}missing drop)."
            )
        texts = column.map(lambda value: str(value).strip())
        levels = sorted(set(texts))
        if not 2 <= len(levels) <= MAX_LEVELS:
            raise DataError(
                f"{where} has {len(levels):,} different values, and {self.prefix}one_hot takes 2 "
                f"to {MAX_LEVELS:,}; leave it out ({self.prefix}drop)."
            )
        return {f"{name}={level}": (texts == level).to_numpy(np.float64) for level in levels}

    def _numbers(self, column: pd.Series, name: str, label: str) -> np.ndarray:
        """A column's values as float64, all of them finite and not all equal."""
        # A column that pandas leaves as it is (text, truth values, huge integers) is converted.
        is_number = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"
        converted = column if is_number else column.map(self._number)
        numbers = np.asarray(converted, dtype=np.float64)
        where, is_target = f"{label}: column {quoted(name)}", name in self.targets
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            value, row = column.iloc[bad[0]], column.index[bad[0]] + 1
            if pd.api.types.is_scalar(value) and pd.isna(value):
                what, way = "a gap", f"leave out such rows ({self.prefix}missing drop)"
            elif is_target:
                what, way = quoted(shown(value)), "correct it"
            else:
                what = quoted(shown(value))
                way = (
                    f"correct it, encode the column ({self.prefix}one_hot) or leave it out "
                    f"({self.prefix}drop)"
                )
            raise DataError(f"{where} has {what} in data row {row}, no finite number: {way}.")
        if numbers.min() == numbers.max():
            way = "choose another target" if is_target else f"leave it out ({self.prefix}drop)"
            raise DataError(
                f"{where} is constant ({numbers[0]:g}), so it cannot be standardised: {way}."
            )
        return numbers

    def _names(self, frame: pd.DataFrame, label: str) -> dict[str, int]:
        """The columns' names, without blanks at their ends, and their positions."""
        names: dict[str, int] = {}
        for column, given in enumerate(frame.columns, start=1):
            name = str(given).strip()
            if not name and str(column) in self.drop:
                name = str(column)
            if not name:
                raise DataError(
                    f"{label}: column {column} has no name in the header; give it one, or leave "
                    f"the column out ({self.prefix}drop {column})."
                )
            if name in names:
                raise DataError(
                    f"{label}: the header names column {quoted(name)} twice; rename one."
                )
            names[name] = column - 1
        return names

    def _number(self, value: object) -> float:
        """A number that pandas has left as text; NaN if it is none."""
        try:
            text = str(value)
        except ValueError:  # a whole number of more than 4300 digits
            return np.nan
        if self.decimal == ",":
            # A point would separate thousands.
            text = text.replace(".", "?").replace(",", ".")
        return float(text) if re.fullmatch(NUMBER, text) else np.nan


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 20
    return ", ".join(map(quoted, names[:20])) + (f" and {more} more" if more > 0 else "")
