"""A user's own table of numbers."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_accel.data import fetch
from implicit_accel.data.dataset import NUMBER, Dataset, DatasetSource, decode, quoted
from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import Field
from implicit_accel.files import printable

MAX_CSV_BYTES = 2**30
"""The longest table that ``load_csv`` reads."""

MAX_CSV_COLUMNS = 20_000
"""The most columns that ``load_csv`` reads."""

# pandas fills short lines up, so that a small file could make a huge table. In a table without gaps
# a field takes at least two bytes; blank lines are the reason to let small tables pass.
_FEW_CELLS = 10**7


def load_csv(path: Path | str, target: str) -> Dataset:
    """Loads a table of numbers: comma-separated, UTF-8, names in the first line.

    Args:
        path: The file.
        target: The column to predict; all others are features.

    Returns:
        Features (n, columns - 1) in the file's order, target (n, 1).

    Raises:
        DataError: The file is missing, unreadable, too long, not UTF-8 or not a table; a column
            is unnamed, named twice, not numeric, constant, or has gaps or infinities; there is no
            such target, no feature, or only one row. Rows are counted from 1 below the header.
    """
    data = fetch.read_file(path, MAX_CSV_BYTES)
    label = str(path)
    decode(data, label)
    first = re.compile(rb"\s*[^\r\n]*").match(data)
    _check_cells(data, 1 + data.count(b",", 0, first.end() if first else 0), label)
    try:
        # Bytes, not the path: pandas would also open addresses and unpack archives.
        # Two lines, since pandas would take a first field without a name for row labels.
        header = pd.read_csv(io.BytesIO(data), header=None, nrows=2, dtype=str, na_filter=False)
        _check_cells(data, header.shape[1], label)
        frame = pd.read_csv(io.BytesIO(data), low_memory=False)
    except DataError:
        raise
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{label} is not a table of comma-separated values ({reason}); every line needs as "
            "many fields as the header."
        ) from error
    names = [str(name).strip() for name in header.iloc[0]]
    seen = set()
    for column, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{label}: column {column} has no name in the header; give it one.")
        if name in seen:
            raise DataError(f"{label}: the header names column {quoted(name)} twice; rename one.")
        seen.add(name)
    if target not in names:
        raise DataError(f"{label} has no column {target!r}; its columns are {_list(names)}.")
    if len(names) < 2:
        raise DataError(f"{label} has only the target column; at least one feature is needed.")
    if len(frame) < 2:
        raise DataError(f"{label} has {len(frame)} rows of data; at least 2 are needed.")
    columns = {name: _numeric_column(frame.iloc[:, i], name, label) for i, name in enumerate(names)}
    targets = columns.pop(target)
    shown = printable(target)
    return Dataset(
        name="csv",
        features=np.column_stack(list(columns.values())),
        targets=targets[:, None],
        feature_names=tuple(columns),
        target_names=(target,),
        source=f"user's file {printable(Path(path).name)}, target {shown}",
        title=f"{printable(Path(path).stem)} ({shown})",
    )


def _check_cells(data: bytes, num_columns: int, label: str) -> None:
    """Refuses what would be a far larger table than the file can hold."""
    if num_columns > MAX_CSV_COLUMNS:
        raise DataError(f"{label} has {num_columns:,} columns; at most {MAX_CSV_COLUMNS:,} work.")
    lines = data.count(b"\n") + data.count(b"\r") + 1
    if num_columns * lines > max(_FEW_CELLS, len(data)):
        raise DataError(
            f"{label} has {num_columns:,} columns and about {lines:,} lines, more than its "
            f"{len(data):,} bytes can fill: every line needs as many fields as the header."
        )


def _list(names: Sequence[str]) -> str:
    more = len(names) - 20
    return ", ".join(map(quoted, names[:20])) + (f" and {more} more" if more > 0 else "")


def _numeric_column(column: pd.Series, name: str, label: str) -> np.ndarray:
    # A column that pandas leaves as it is (text, truth values, huge integers) is converted here.
    values = column if column.dtype.kind in "iuf" else column.map(_to_number)
    numbers = np.asarray(values, dtype=np.float64)
    where = f"{label}: column {quoted(name)}"
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        value = column.iloc[row]
        what = "a gap" if pd.isna(value) else quoted(str(value))
        raise DataError(
            f"{where} has {what} in data row {row + 1}, where a finite number is needed; fill, "
            "encode or remove it."
        )
    if numbers.min() == numbers.max():
        raise DataError(
            f"{where} is constant ({numbers[0]:g}), so it cannot be standardised; remove it."
        )
    return numbers


def _to_number(value: object) -> float:
    text = str(value)
    return float(text) if re.fullmatch(NUMBER, text) else np.nan


def _load(csv_path: str | None, csv_target: str | None, progress: fetch.Progress) -> Dataset:
    del progress  # nothing is downloaded
    if csv_path is None or csv_target is None:
        raise UserError("--dataset csv needs --csv_path and --csv_target")
    return load_csv(csv_path, csv_target)


SOURCE = DatasetSource(
    "csv",
    "your own file",
    _load,
    {
        # The contents are part of a run's identity, their place is not.
        "csv_path": Field(None, "Your file: a header line, then numbers.", write=None),
        "csv_target": Field(None, "The column of your file to predict."),
    },
)
