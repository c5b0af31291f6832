"""A user's own table of numbers, as spreadsheets and other programs write it."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_accel.data import fetch
from implicit_accel.data.dataset import Dataset, DatasetSource, quoted
from implicit_accel.data.frames import MISSING, Columns
from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import Field
from implicit_accel.files import printable

MAX_CSV_BYTES = 2**30
"""The longest table that ``load_csv`` reads."""

MAX_CSV_COLUMNS = 20_000
"""The most columns that ``load_csv`` reads."""

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "blanks": " "}
"""What may stand between two values of a line; ``blanks`` are any number of them, or of tabs."""

HEADERS = ("auto", "yes", "no")
"""Whether the first line has the columns' names; ``auto``: unless it has numbers only."""

# pandas fills short lines up, so that a small file could make a huge table. In a table without gaps
# a field takes at least two bytes; blank lines are the reason to let small tables pass.
_FEW_CELLS = 10**7

# Lines that decide what separates values, and characters of a line that are looked at.
_SNIFFED_LINES, _SNIFFED_CHARACTERS = 200, 2**20

# Numbers with each decimal mark, and numbers whose mark may separate thousands instead.
_NUMBERS = {
    mark: re.compile(rf"[+-]?([0-9]+[{mark}]?[0-9]*|[{mark}][0-9]+)([eE][+-]?[0-9]+)?")
    for mark in (".", ",")
}
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}([.,][0-9]{3})+")
# Numbers with each mark behind all others, which are a whole field but for quotes.
_MARKED = {
    mark: re.compile(
        rf"""(?<![^\s;|"'])[+-]?[0-9.,]*[{mark}][0-9]+(?:[eE][+-]?[0-9]+)?(?![^\s;|"'])"""
    )
    for mark in (".", ",")
}
_GAPS = ("", "?", "NA", "N/A", "nan", "NaN", "null", "NULL")


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
        delimiter: A name of `DELIMITERS`.
        decimal: ``.`` or ``,``.
        header: Whether the first line has names.
    """

    delimiter: str
    decimal: str
    header: bool

    def __str__(self) -> str:
        """In words."""
        mark = "point" if self.decimal == "." else "comma"
        names = "names in the first line" if self.header else "no names: columns are 1, 2, …"
        plural = "" if self.delimiter == "blanks" else "s"
        return f"separated by {self.delimiter}{plural}, decimal {mark}, {names}"


_USUAL = Dialect("comma", ".", header=True)


def load_csv(
    path: Path | str,
    target: str | Sequence[str],
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: str = "auto",
    drop: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    missing: str = "refuse",
) -> Dataset:
    """Loads a table of numbers.

    What separates values, the decimal mark and whether there is a header are found out unless they
    are given; ``notes`` of the result says what was taken. Text is UTF-8, UTF-16 with a byte-order
    mark, or else Windows-1252. Empty fields, ``?``, ``NA`` and the like are gaps.

    Args:
        path: The file.
        target: The column to predict, or several. All others are features.
        delimiter: A name of `DELIMITERS`.
        decimal: ``.`` or ``,``.
        header: One of `HEADERS`. Without names, columns are called 1, 2, ….
        drop: Columns to leave out.
        one_hot: Columns to encode: a column of zeros and ones for each of their values.
        missing: What becomes of rows with gaps: ``refuse`` or ``drop``.

    Returns:
        Features (n, d) in the file's order, targets (n, k).

    Raises:
        UserError: An option is out of range.
        DataError: The file is missing, unreadable, too long or not a table; a column is unnamed,
            named twice, not numeric, constant, or has gaps or infinities; there is no such column,
            no feature, or only one row. Rows are counted from 1 below the header.
    """
    columns = Columns(target, drop, one_hot, missing)
    return _load(path, columns, delimiter=delimiter, decimal=decimal, header=header)


def _load(
    path: Path | str,
    columns: Columns,
    *,
    delimiter: str | None,
    decimal: str | None,
    header: str,
) -> Dataset:
    for option, value, allowed in (
        ("delimiter", delimiter, (None, *DELIMITERS)),
        ("decimal", decimal, (None, ".", ",")),
        ("header", header, HEADERS),
    ):
        if value not in allowed:
            names = ", ".join(str(each) for each in allowed if each is not None)
            raise UserError(f"{columns.prefix}{option} {value!r}: write one of {names}")
    label = str(path)
    text, notes = _decode(fetch.read_file(path, MAX_CSV_BYTES), label)
    dialect = _sniff(text, label, columns.prefix, delimiter, decimal, header)
    if dialect != _USUAL:
        notes.append(str(dialect))
    frame = _parse(text.encode(), dialect, label, columns)
    if not dialect.header:
        label += f" (read without names: {columns.prefix}header yes takes them from the first line)"
    dataset = dataclasses.replace(columns, decimal=dialect.decimal).dataset(
        frame, name="csv", label=label, title=printable(Path(path).stem),
        source=f"user's file {printable(Path(path).name)}",
    )  # fmt: skip
    return dataclasses.replace(dataset, notes=(*notes, *dataset.notes))


def _decode(data: bytes, label: str) -> tuple[str, list[str]]:
    """A file's text, and what is unusual about its encoding.

    Raises:
        DataError: If it is not text.
    """
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{label} is no text but an archive or a spreadsheet; export it as CSV.")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    notes = [] if encoding == "utf-8-sig" else ["text in UTF-16"]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text, notes = data.decode("cp1252", errors="replace"), ["text in Windows-1252"]
    if "\0" in text:
        raise DataError(f"{label} is not text: it holds null characters; export the table as CSV.")
    return text, notes


# --- dialects ---


def _sniff(
    text: str, label: str, prefix: str, delimiter: str | None, decimal: str | None, header: str
) -> Dialect:
    """Finds out how a table is written, as far as that is not given.

    Raises:
        DataError: If numbers are written with both decimal marks.
    """
    found = {
        name: _first_rows(text, DELIMITERS[name])
        for name in DELIMITERS
        if delimiter in (None, name)
    }
    chosen = max(found, key=lambda name: _plausibility(found[name]))
    rows = [[cell.strip().strip('"') for cell in row] for row in found[chosen]]
    if decimal is None:
        decimal = "." if chosen == "comma" else _decimal_mark(text, label, prefix)
    if header != "auto" or not rows:
        return Dialect(chosen, decimal, header != "no")
    kinds = {bool(_NUMBERS[decimal].fullmatch(c)): c for c in rows[0] if c not in _GAPS}
    if len(kinds) == 2:
        raise DataError(
            f"{label} has {quoted(kinds[False])} and {kinds[True]} in the first line: say whether "
            f"these are names ({prefix}header yes) or values ({prefix}header no)"
        )
    return Dialect(chosen, decimal, False in kinds or not kinds)


def _decimal_mark(text: str, label: str, prefix: str) -> str:
    """The decimal mark of a table that commas do not separate.

    Raises:
        DataError: If that is not certain.
    """
    found: dict[str, str] = {}
    is_certain: dict[str, bool] = {}
    for mark, pattern in _MARKED.items():
        for match in pattern.finditer(text):
            is_certain[mark] = not _THOUSANDS.fullmatch(match[0])
            if is_certain[mark]:
                found[mark] = match[0]
                break
            found.setdefault(mark, match[0])
    if len(found) == 2:
        what = f"{found[',']} and {found['.']}"
    elif not all(is_certain.values()):
        what = f"{next(iter(found.values()))}, which may be a fraction or thousands"
    else:
        return next(iter(found), ".")
    raise DataError(
        f"{label} has {what}: say what the decimal mark is ({prefix}decimal , or {prefix}decimal "
        ".); marks between thousands cannot be read"
    )


def _first_rows(text: str, delimiter: str) -> list[list[str]]:
    """The first lines that are not blank, separated."""
    lines = io.StringIO(text[:_SNIFFED_CHARACTERS])
    reader = (
        (line.split() for line in lines)
        if delimiter == " "
        else csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    )
    rows: list[list[str]] = []
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(row)
            if len(rows) == _SNIFFED_LINES:
                break
    except csv.Error:  # a field that is too long
        return rows
    # The last line may be cut off.
    return rows[:-1] if len(text) > _SNIFFED_CHARACTERS and len(rows) > 1 else rows


def _plausibility(rows: list[list[str]]) -> tuple[bool, float, int]:
    """How well a delimiter explains the first rows: the larger, the better."""
    lengths = {len(row) for row in rows}
    is_table = len(lengths) == 1 and lengths != {1}
    below = [cell.strip() for row in (rows[1:] or rows) for cell in row]
    numbers = sum(c in _GAPS or any(n.fullmatch(c) for n in _NUMBERS.values()) for c in below)
    # Where no delimiter makes a table, the one that the first line has most often.
    return is_table, numbers / max(len(below), 1) if is_table else 0.0, len(rows[0]) if rows else 0


def _parse(data: bytes, dialect: Dialect, label: str, columns: Columns) -> pd.DataFrame:
    """The table as pandas reads it, with its columns' names; columns to encode are text.

    Raises:
        DataError: If it is no table.
    """
    delimiter = DELIMITERS[dialect.delimiter]
    options: Any = {
        "sep": r"\s+" if delimiter == " " else delimiter,
        "skipinitialspace": True,
        "encoding": "utf-8",
    }
    first = re.compile(rb"\s*[^\r\n]*").match(data)
    line = first[0] if first else b""
    separators = len(line.split()) - 1 if delimiter == " " else line.count(delimiter.encode())
    _check_cells(data, 1 + separators, label)
    try:
        # Bytes, not the path: pandas would also open addresses and unpack archives.
        # Two lines, since pandas would take a first field without a name for row labels.
        head = pd.read_csv(
            io.BytesIO(data), header=None, nrows=2, dtype=str, na_filter=False, **options
        )
        _check_cells(data, head.shape[1], label)
        names = [str(name) for name in head.iloc[0]]
        if not dialect.header:
            names = [str(1 + column) for column in range(len(names))]
        encoded: Any = {k: str for k, name in enumerate(names) if name.strip() in columns.one_hot}
        frame = pd.read_csv(
            io.BytesIO(data), low_memory=False, decimal=dialect.decimal, na_values=["?"],
            header=0 if dialect.header else None, names=range(len(names)), index_col=False,
            dtype=encoded, **options,
        )  # fmt: skip
    except DataError:
        raise
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{label} is not a table of values separated by {dialect.delimiter} ({reason}); every "
            f"line needs as many fields as the first one, and {columns.prefix}delimiter names what "
            "separates them."
        ) from error
    frame.columns = names
    return frame


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


# --- the source ---


def _load_by_flags(
    csv_path: str | None,
    csv_target: tuple[str, ...],
    csv_delimiter: str | None,
    csv_decimal: str | None,
    csv_header: str,
    csv_drop: tuple[str, ...],
    csv_one_hot: tuple[str, ...],
    csv_missing: str,
    progress: fetch.Progress,
) -> Dataset:
    del progress  # nothing is downloaded
    if csv_path is None or not csv_target:
        raise UserError("--dataset csv needs --csv_path and --csv_target")
    columns = Columns(csv_target, csv_drop, csv_one_hot, csv_missing, prefix="--csv_")
    return _load(csv_path, columns, delimiter=csv_delimiter, decimal=csv_decimal, header=csv_header)


def _one_or_all(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names


# The rows are part of a run's identity; the file's place and how it is written are not.
SOURCE = DatasetSource(
    "csv",
    "your own file",
    _load_by_flags,
    {
        "csv_path": Field(None, "Your file: a table of numbers.", write=None),
        "csv_target": Field(
            (),
            "The column of your file to predict, or several.",
            write=_one_or_all,
            may_be_empty=True,
        ),
        "csv_delimiter": Field(
            None,
            f"What separates values ({', '.join(DELIMITERS)}); found out unless given.",
            write=None,
        ),
        "csv_decimal": Field(
            None, "Decimal mark, a point or a comma; found out unless given.", write=None
        ),
        "csv_header": Field(
            "auto",
            "Whether the first line has the columns' names. auto: unless it has numbers only. "
            "Without names, columns are called 1, 2, ….",
            choices=HEADERS,
            write=None,
        ),
        "csv_drop": Field((), "Columns to leave out.", may_be_empty=True, write=None),
        "csv_one_hot": Field(
            (),
            "Columns of text to encode: a column of zeros and ones for each of their values.",
            may_be_empty=True,
            write=None,
        ),
        "csv_missing": Field(
            "refuse",
            "What becomes of rows with gaps (empty fields, ?, NA).",
            choices=MISSING,
            write=None,
        ),
    },
)
