"""What a regression data set is, how a source of one declares itself, and how files are read."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from implicit_accel.data import fetch
from implicit_accel.errors import DataError, NotHereError, UserError
from implicit_accel.fields import Field

NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""A pattern that decides what a number is: float() also takes "nan", "1_0" and other digits."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A regression data set in its raw scale.

    Attributes:
        name: Short name, its source's.
        features: Float64 array (n, d), read-only.
        targets: Float64 array (n, k), read-only.
        feature_names: The d columns of ``features``.
        target_names: The k columns of ``targets``, with units where known.
        source: One line: where the data are from, their licence and what to cite.
        title: A short label for figures and tables.
        is_stand_in: Whether the data are generated in place of measured ones.
        notes: What was done to make numbers of a file, where that is not obvious.

    Raises:
        DataError: Shapes or names do not fit together, fewer than 2 rows, or a value that is not
            finite.
    """

    name: str
    features: np.ndarray
    targets: np.ndarray
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    source: str
    title: str
    is_stand_in: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the arrays and makes them read-only."""
        for what in ("feature", "target"):
            names = tuple(getattr(self, f"{what}_names"))
            array = np.array(getattr(self, f"{what}s"), dtype=np.float64, order="C")
            array.setflags(write=False)
            if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
                raise DataError(
                    f"{self.name}: {what}s have shape {array.shape}; needed are at least 2 rows "
                    "and 1 column."
                )
            if len(names) != array.shape[1]:
                raise DataError(
                    f"{self.name}: {len(names)} {what} names for {array.shape[1]} {what} columns."
                )
            bad = np.argwhere(~np.isfinite(array))
            if bad.size:
                row, column = bad[0]
                raise DataError(
                    f"{self.name}: {what} {names[column]!r} is {array[row, column]} in data row "
                    f"{row + 1}; all values must be finite."
                )
            object.__setattr__(self, f"{what}s", array)
            object.__setattr__(self, f"{what}_names", names)
        if len(self.features) != len(self.targets):
            raise DataError(
                f"{self.name}: {len(self.features)} rows of features but {len(self.targets)} of "
                "targets."
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays' shapes and little-endian float64 bytes."""
        digest = hashlib.sha256()
        for array in (self.features, self.targets):
            digest.update(repr(array.shape).encode())
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class DatasetSource:
    """How a module of `implicit_accel.data.sources` says what it offers.

    Attributes:
        name: What the dataset is called: a word in lower case.
        help: One line: what it is.
        load: Loads it, given a value for each option by its name, and ``progress``, called with how
            far a download is (a `fetch.Progress`).
        options: The settings that are its own, by name. What they are written as is part of a
            run's identity.

    Raises:
        UserError: If a name is not such a word.
    """

    name: str
    help: str
    load: Callable[..., Dataset]
    options: Mapping[str, Field] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.options):
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                raise UserError(
                    f"dataset source {self.name!r}: {name!r} is no name; use a-z, 0-9 and _"
                )


DATA_DIR = Field(
    None,
    "Folder with the data files. Next places: $IMPLICIT_ACCEL_DATA_DIR, the user's cache, and "
    "then a download from UCI into the cache.",
    write=None,
)
"""The option ``data_dir`` of sources that read published files."""


def download(
    archive: fetch.Archive,
    check: Callable[[Mapping[str, bytes]], None],
    cache_dir: Path | str | None,
    progress: fetch.Progress | None,
    *,
    allowed: bool,
) -> Path:
    """Downloads an archive, where that is allowed; returns the folder with its members.

    Raises:
        NotHereError: If it is not allowed.
        DataError: If it fails.
    """
    if not allowed:
        raise NotHereError(fetch.not_here(archive))
    # Imported where needed: a fifth of a second that most runs can do without.
    from implicit_accel.data.download import download as fetch_archive

    return fetch_archive(archive, check, cache_dir=cache_dir, progress=progress)


def decode(data: bytes, label: str) -> str:
    """The text of a file.

    Raises:
        DataError: If it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{label}, line {line}: not UTF-8 text (byte {data[error.start]:#04x}); save the file "
            "as UTF-8."
        ) from error


def parse_lines(
    data: bytes, label: str, pattern: re.Pattern[str], explain: Callable[[str], str]
) -> list[tuple[str, ...]]:
    """Returns the pattern's groups for each line; ``explain`` says why a line does not match.

    Raises:
        DataError: If the file is empty, or a line does not match.
    """
    lines = decode(data, label).split("\n")
    if not lines[-1].strip():  # the last line's end
        lines.pop()
    if not lines:
        raise DataError(f"{label} is empty: get the original file again.")
    rows = []
    for number, line in enumerate(lines, start=1):
        match = pattern.fullmatch(line)
        if match is None:
            raise DataError(
                f"{label}, line {number}: {explain(line)}; get the original file again."
            )
        rows.append(match.groups())
    return rows


def finite(rows: list[list[float]], label: str) -> np.ndarray:
    """The table of rows that were read from lines.

    Raises:
        DataError: If a number is infinite.
    """
    table = np.array(rows)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:  # only digits and exponents got here, so a value overflowed
        raise DataError(
            f"{label}, line {bad[0] + 1}: a number too large to be finite; get the original file "
            "again."
        )
    return table


def quoted(text: str) -> str:
    """Quotes a piece of a damaged file: one short line, whatever it holds."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
