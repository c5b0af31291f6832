"""Names to arrays: the data sets of the experiments, validated, in their raw scale.

``load_gas`` and ``load_abalone`` read the official UCI files (from a folder, the cache or the
official address, see ``fetch``), ``load_csv`` reads a user's own table, and ``gas_like`` makes a
stand-in for the gas data that needs no file at all.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special

from implicit_accel.data import fetch
from implicit_accel.errors import DataError, NotHereError, UserError
from implicit_accel.files import printable

GAS_NAMES = {
    "ethanol": 1,
    "ethylene": 2,
    "ammonia": 3,
    "acetaldehyde": 4,
    "acetone": 5,
    "toluene": 6,
}
"""The gases and their class numbers in the files.

Class 1 is Ethanol in the publications that use the data, although UCI's own table of counts swaps
it with Acetone; the class number is what selects.
"""

GAS_BATCHES = tuple(range(1, 11))
GAS_URL = (
    "https://archive.ics.uci.edu/static/public/270/"
    "gas+sensor+array+drift+dataset+at+different+concentrations.zip"
)
GAS_PAGE = (
    "https://archive.ics.uci.edu/dataset/270/"
    "gas+sensor+array+drift+dataset+at+different+concentrations"
)
ABALONE_URL = "https://archive.ics.uci.edu/static/public/1/abalone.zip"
ABALONE_PAGE = "https://archive.ics.uci.edu/dataset/1/abalone"

MAX_CSV_BYTES = 2**30
"""The longest table that ``load_csv`` reads."""

MAX_CSV_COLUMNS = 20_000
"""The most columns that ``load_csv`` reads."""

# pandas fills short lines up, so that a small file could make a huge table. In a table without gaps
# a field takes at least two bytes; blank lines are the reason to let small tables pass.
_FEW_CELLS = 10**7

# What the official files hold: rows per batch 1..10, in all and of class 1, and rows per class.
_GAS_ROWS = (445, 1244, 1586, 161, 197, 2300, 3613, 294, 470, 3600)
_GAS_CLASS_1_ROWS = (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)
_GAS_CLASS_ROWS = (2565, 2926, 1641, 1936, 3009, 1833)
_ABALONE_ROWS = 4177

_GAS_FEATURES = 128  # 16 sensors with 8 features each
_SEXES = "FIM"
_ABALONE_MEASURES = (
    "length",
    "diameter",
    "height",
    "whole_weight",
    "shucked_weight",
    "viscera_weight",
    "shell_weight",
)

# Python's float() also takes "nan", "1_0" and digits of other scripts, so a pattern decides.
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_GAS_LINE = re.compile(
    rf"([1-6]);({_NUMBER})"
    + "".join(rf" {i}:({_NUMBER})" for i in range(1, _GAS_FEATURES + 1))
    + r"[ \t\r]*"
)
_ABALONE_LINE = re.compile(
    rf"([{_SEXES}])" + rf",({_NUMBER})" * len(_ABALONE_MEASURES) + r",([0-9]+)[ \t\r]*"
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A regression data set in its raw scale.

    Attributes:
        name: Short name: "gas", "abalone", "gas_like" or "csv".
        features: Float64 array (n, d), read-only.
        targets: Float64 array (n, k), read-only.
        feature_names: The d columns of ``features``.
        target_names: The k columns of ``targets``, with units where known.
        source: One line: where the data are from, their licence and what to cite.
        title: A short label for figures and tables.
        is_stand_in: Whether the data are generated in place of measured ones.

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


def load_gas(
    *,
    gas_name: str = "ethanol",
    batches: Sequence[int] = GAS_BATCHES,
    data_dir: Path | str | None = None,
    url: str | None = GAS_URL,
    cache_dir: Path | str | None = None,
    progress: fetch.Progress | None = None,
) -> Dataset:
    """Loads one gas of "Gas Sensor Array Drift at Different Concentrations" (UCI 270).

    The UCI page asks that the data be used for research and that the papers be cited:
    A. Vergara et al., Sensors and Actuators B 166 (2012), and I. Rodriguez-Lujan et al.,
    Chemometrics and Intelligent Laboratory Systems 130 (2014). Licence: CC BY 4.0.

    What the chosen gas and batches need is checked against the official counts: for Ethanol its
    rows in each batch, for another gas each batch's rows in all (and, with all ten batches, the
    gas's rows).

    Args:
        gas_name: One of ``GAS_NAMES``.
        batches: Which of the batches 1 to 10 to take, in this order.
        data_dir: Folder with ``gas/batch1.dat`` or ``batch1.dat`` and so on, looked in first.
        url: Address of the official zip archive, used where no folder has the files;
            None for no download.
        cache_dir: Folder that keeps a download; by default the user's cache.
        progress: Told how far a download is.

    Returns:
        Features (n, 128): 16 sensors with 8 features each. Target (n, 1): concentration in ppmv.

    Raises:
        UserError: Unknown gas, bad batches, or a folder that does not exist.
        DataError: Missing, damaged or incomplete files, or a failed download.
        NotHereError: The files are not here and there is to be no download.
    """
    if gas_name not in GAS_NAMES:
        raise UserError(f"gas_name {gas_name!r} is unknown; choose from {', '.join(GAS_NAMES)}.")
    batches = tuple(batches)
    if (
        not batches
        or len(set(batches)) < len(batches)
        or not all(type(b) is int and b in GAS_BATCHES for b in batches)
    ):
        raise UserError(
            f"gas batches {list(batches)} are not usable; give one or more different whole numbers "
            "from 1 to 10, such as 1,2,3."
        )
    archive = fetch.Archive("gas", tuple(map(_batch_file, GAS_BATCHES)), url or GAS_URL, GAS_PAGE)
    folder = fetch.locate(
        archive,
        [_batch_file(batch) for batch in batches],
        data_dir=data_dir,
        cache_dir=cache_dir,
        advice="Or choose among the batches there are, such as --gas_batches 1,2,3.",
    ) or _download(archive, _check_gas_archive, cache_dir, progress, allowed=url is not None)

    tables = {}
    for batch in batches:
        path = folder / _batch_file(batch)
        tables[batch] = _parse_gas(fetch.read_file(path), str(path))
    _check_gas_rows(tables, gas_name, str(folder))
    table = np.concatenate(list(tables.values()))
    rows = table[table[:, 0] == GAS_NAMES[gas_name]]
    if len(rows) < 2:
        raise DataError(
            f"Gas batches {','.join(map(str, batches))} hold {len(rows)} rows of {gas_name}, at "
            "least 2 are needed: choose more batches or another gas."
        )
    subset = "" if set(batches) == set(GAS_BATCHES) else f", batches {','.join(map(str, batches))}"
    return Dataset(
        name="gas",
        features=rows[:, 2:],
        targets=rows[:, 1:2],
        feature_names=tuple(f"sensor{s}_feature{f}" for s in range(1, 17) for f in range(1, 9)),
        target_names=("concentration (ppmv)",),
        source=(
            "UCI Gas Sensor Array Drift at Different Concentrations, doi 10.24432/C5MK6M, "
            f"CC BY 4.0, {gas_name}{subset}; for research use, cite Vergara et al. (2012) and "
            "Rodriguez-Lujan et al. (2014)"
        ),
        title=f"Gas Sensor ({gas_name.capitalize()}{subset})",
    )


def load_abalone(
    *,
    data_dir: Path | str | None = None,
    url: str | None = ABALONE_URL,
    cache_dir: Path | str | None = None,
    progress: fetch.Progress | None = None,
) -> Dataset:
    """Loads Abalone (UCI 1): rings, which tell the age, from sex and seven measures.

    Licence: CC BY 4.0; cite W. Nash et al., Abalone, UCI Machine Learning Repository (1994).

    Args:
        data_dir: Folder with ``abalone/abalone.data`` or ``abalone.data``, looked in first.
        url: Address of the official zip archive, used where no folder has the file;
            None for no download.
        cache_dir: Folder that keeps a download; by default the user's cache.
        progress: Told how far a download is.

    Returns:
        Features (4177, 10): sex one-hot (F, I, M), three lengths and four weights, in the file's
        units (200 mm and 200 g). Target (4177, 1): the number of rings.

    Raises:
        UserError: A folder that does not exist.
        DataError: A missing, damaged or incomplete file, or a failed download.
        NotHereError: The file is not here and there is to be no download.
    """
    name = "abalone.data"
    archive = fetch.Archive("abalone", (name,), url or ABALONE_URL, ABALONE_PAGE)

    def check(files: Mapping[str, bytes]) -> None:
        _parse_abalone(files[name], name)

    folder = fetch.locate(archive, [name], data_dir=data_dir, cache_dir=cache_dir) or _download(
        archive, check, cache_dir, progress, allowed=url is not None
    )
    path = folder / name
    table = _parse_abalone(fetch.read_file(path), str(path))
    return Dataset(
        name="abalone",
        features=table[:, :-1],
        targets=table[:, -1:],
        feature_names=(*(f"sex_{sex}" for sex in _SEXES), *_ABALONE_MEASURES),
        target_names=("rings",),
        source="UCI Abalone, doi 10.24432/C55C7W, CC BY 4.0; cite Nash et al. (1994)",
        title="Abalone",
    )


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
    _decode(data, label)
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
            raise DataError(f"{label}: the header names column {_show(name)} twice; rename one.")
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


def gas_like(*, num_rows: int = 2565, seed: int = 0) -> Dataset:
    """Generates a stand-in for the Ethanol data: same spectrum, no measured row in it.

    With everything standardised, the eigenvalues λ of XᵀX/n and the correlation ρ of the label
    with each principal component equal those of the 2565 Ethanol rows (package file
    ``data/gas_spectrum.csv``, ρ up to sign). They determine full-batch training on the square loss
    from a rotation-invariant initialisation. Other losses see the distributions too, which are
    imitated only roughly:

        X = Z diag(√λ) Vᵀ,   y = Z ρ + √(1 - |ρ|²) e,   [1 Z e]ᵀ[1 Z e] = n I,

    with V orthogonal such that every feature has variance 1, and heavy-tailed Z and e.

    Args:
        num_rows: The number of rows n, more than 130.
        seed: Same seed, same data.

    Returns:
        Features (n, 128) and target (n, 1), both with mean 0 and standard deviation 1.

    Raises:
        UserError: ``num_rows`` or ``seed`` is not a whole number in its range.
    """
    if not _is_int(num_rows) or num_rows <= _GAS_FEATURES + 2:
        raise UserError(
            f"gas_like: num_rows is {num_rows!r}; it must be a whole number above "
            f"{_GAS_FEATURES + 2}, such as 2565."
        )
    if not _is_int(seed) or seed < 0:
        raise UserError(f"gas_like: seed is {seed!r}; it must be a whole number from 0 up.")
    eigenvalues, correlations = _gas_spectrum()
    rng = np.random.Generator(np.random.PCG64(seed))
    scores, residual = _heavy_tailed_orthogonal(rng, num_rows)
    features = scores @ _loadings(rng, eigenvalues).T
    label = scores @ correlations + np.sqrt(1 - correlations @ correlations) * residual
    return Dataset(
        name="gas_like",
        features=features,
        targets=label[:, None],
        feature_names=tuple(f"feature{i}" for i in range(1, _GAS_FEATURES + 1)),
        target_names=("label (standardised)",),
        source=(
            "generated stand-in, not measured data: it shares the spectrum of the Ethanol rows of "
            "UCI Gas Sensor Array Drift (doi 10.24432/C5MK6M, CC BY 4.0)"
        ),
        title="gas_like (embedded stand-in for Ethanol, not real data)",
        is_stand_in=True,
    )


def _download(
    archive: fetch.Archive,
    check: Callable[[Mapping[str, bytes]], None],
    cache_dir: Path | str | None,
    progress: fetch.Progress | None,
    *,
    allowed: bool,
) -> Path:
    if not allowed:
        raise NotHereError(fetch.not_here(archive))
    # Imported where needed: a fifth of a second that most runs can do without.
    from implicit_accel.data.download import download

    return download(archive, check, cache_dir=cache_dir, progress=progress)


def _batch_file(batch: int) -> str:
    return f"batch{batch}.dat"


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


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _decode(data: bytes, label: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{label}, line {line}: not UTF-8 text (byte {data[error.start]:#04x}); save the file "
            "as UTF-8."
        ) from error


def _parse_lines(
    data: bytes, label: str, pattern: re.Pattern[str], explain: Callable[[str], str]
) -> list[tuple[str, ...]]:
    """Returns the pattern's groups for each line; ``explain`` says why a line does not match."""
    lines = _decode(data, label).split("\n")
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


def _finite(rows: list[list[float]], label: str) -> np.ndarray:
    table = np.array(rows)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:  # only digits and exponents got here, so a value overflowed
        raise DataError(
            f"{label}, line {bad[0] + 1}: a number too large to be finite; get the original file "
            "again."
        )
    return table


def _parse_gas(data: bytes, label: str) -> np.ndarray:
    """Returns (rows, 130): class, concentration, features 1 to 128."""
    rows = _parse_lines(data, label, _GAS_LINE, _explain_gas)
    return _finite([list(map(float, row)) for row in rows], label)


def _explain_gas(line: str) -> str:
    head, *fields = line.split()[: _GAS_FEATURES + 2] or [""]
    if len(fields) != _GAS_FEATURES:
        count = len(line.split()) - 1
        return f"{max(count, 0)} features 'i:value' instead of {_GAS_FEATURES}"
    gas_class, separator, concentration = head.partition(";")
    if not separator or gas_class not in map(str, GAS_NAMES.values()):
        return f"starts with {_show(head)} instead of 'class;concentration', class from 1 to 6"
    if not re.fullmatch(_NUMBER, concentration):
        return f"concentration {_show(concentration)} is not a finite number"
    for i, field in enumerate(fields, start=1):
        index, _, value = field.partition(":")
        if index != str(i):
            return f"field {_show(field)} where feature {i} should be"
        if not re.fullmatch(_NUMBER, value):
            return f"feature {i} is {_show(value)}, not a finite number"
    return "fields are not separated by single spaces"


def _check_gas_archive(files: Mapping[str, bytes]) -> None:
    tables = {b: _parse_gas(files[_batch_file(b)], _batch_file(b)) for b in GAS_BATCHES}
    for gas_name in GAS_NAMES:
        _check_gas_rows(tables, gas_name, "the archive")


def _check_gas_rows(tables: Mapping[int, np.ndarray], gas_name: str, place: str) -> None:
    """Checks the numbers of rows that ``gas_name`` needs, and no others."""
    gas_class = GAS_NAMES[gas_name]
    official = _GAS_CLASS_1_ROWS if gas_class == 1 else _GAS_ROWS
    what = "ethanol rows" if gas_class == 1 else "rows in all"
    for batch, table in tables.items():
        found = np.count_nonzero(table[:, 0] == 1) if gas_class == 1 else len(table)
        if found != official[batch - 1]:
            raise DataError(
                f"{place}: {_batch_file(batch)} has {found} {what}, the official file "
                f"{official[batch - 1]}, so it is not complete for {gas_name}: get the original "
                f"from {GAS_PAGE}, or choose other batches with --gas_batches."
            )
    if len(tables) == len(GAS_BATCHES):
        found = sum(int(np.count_nonzero(t[:, 0] == gas_class)) for t in tables.values())
        expected = _GAS_CLASS_ROWS[gas_class - 1]
        if found != expected:
            raise DataError(
                f"{place}: the ten batches have {found} rows of {gas_name}, the official files "
                f"{expected}: get the originals from {GAS_PAGE}."
            )


def _parse_abalone(data: bytes, label: str) -> np.ndarray:
    """Returns (4177, 11): F, I, M, seven measures, rings."""
    rows = _parse_lines(data, label, _ABALONE_LINE, _explain_abalone)
    if len(rows) != _ABALONE_ROWS:
        raise DataError(
            f"{label} has {len(rows)} rows, the official file {_ABALONE_ROWS}: get the original "
            f"from {ABALONE_PAGE}."
        )
    return _finite(
        [[float(sex == s) for s in _SEXES] + list(map(float, rest)) for sex, *rest in rows], label
    )


def _explain_abalone(line: str) -> str:
    sex, *fields = line.strip().split(",")
    if len(fields) != len(_ABALONE_MEASURES) + 1:
        return f"{len(fields) + 1} fields instead of {len(_ABALONE_MEASURES) + 2}"
    if sex not in tuple(_SEXES):
        return f"sex is {_show(sex)} instead of {', '.join(_SEXES)}"
    for name, value in zip(_ABALONE_MEASURES, fields, strict=False):
        if not re.fullmatch(_NUMBER, value):
            return f"{name} is {_show(value)}, not a finite number"
    return f"rings is {_show(fields[-1])}, not a whole number"


def _show(text: str) -> str:
    """Quotes a piece of a damaged file: one short line, whatever it holds."""
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _list(names: Sequence[str]) -> str:
    more = len(names) - 20
    return ", ".join(map(_show, names[:20])) + (f" and {more} more" if more > 0 else "")


def _numeric_column(column: pd.Series, name: str, label: str) -> np.ndarray:
    # A column that pandas leaves as it is (text, truth values, huge integers) is converted here.
    values = column if column.dtype.kind in "iuf" else column.map(_to_number)
    numbers = np.asarray(values, dtype=np.float64)
    where = f"{label}: column {_show(name)}"
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        value = column.iloc[row]
        what = "a gap" if pd.isna(value) else _show(str(value))
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
    return float(text) if re.fullmatch(_NUMBER, text) else np.nan


def _gas_spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Returns the 128 eigenvalues (summing to exactly 128) and label correlations."""
    file = resources.files("implicit_accel") / "data" / "gas_spectrum.csv"
    with file.open("r", encoding="utf-8") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    # the file's seven digits leave the trace, the number of features, 4e-8 off
    return table[:, 1] * (len(table) / table[:, 1].sum()), table[:, 2]


def _heavy_tailed_orthogonal(
    rng: np.random.Generator, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores Z (n, 128) and residual e (n,) with [1 Z e]ᵀ[1 Z e] = n I, exactly.

    Each column holds the n evenly spaced quantiles of a Student t in random order, so that its
    tails do not depend on the luck of the draw; QR then makes the columns orthogonal.
    """
    # Degrees of freedom: such that the columns have the kurtosis (3 for a normal) of the 2565 real
    # rows: 3.6 in the first score, a median of 38 in the others (5 to 850), 153 in the residual.
    # 2565 quantiles of a t have 3.5 at df = 14, 38 at df = 2.5 and 166 at df = 1.8, which QR, here
    # last in turn, lowers to about 150. The label gets 4 to 7, median 5.2; the real one has 5.6.
    levels = (np.arange(num_rows) + 0.5) / num_rows
    columns = [np.ones(num_rows)]
    for df, count in ((14, 1), (2.5, _GAS_FEATURES - 1), (1.8, 1)):
        quantiles = scipy.special.stdtrit(df, levels)
        columns += [rng.permutation(quantiles) for _ in range(count)]
    q, r = np.linalg.qr(np.column_stack(columns))
    q *= np.sqrt(num_rows) * np.sign(np.diag(r))  # QR leaves the signs to the library
    return q[:, 1:-1], q[:, -1]


def _loadings(rng: np.random.Generator, eigenvalues: np.ndarray) -> np.ndarray:
    """Returns L = V diag(√λ) with V random orthogonal and every row of L of unit length.

    Rotating two rows of L keeps LᵀL = diag(λ), and if one is shorter and the other longer than 1,
    some rotation gives one of them unit length (after P. Davies and N. Higham, BIT 40, 2000).
    """
    d = len(eigenvalues)
    loadings = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.sqrt(eigenvalues)
    for _ in range(d - 1):
        # The shortest row gets unit length at the longest one's cost; the lengths' squares sum to
        # d, so each step settles a row for good and the last step settles two.
        squares = np.einsum("ij,ij->i", loadings, loadings)
        short, long = int(np.argmin(squares)), int(np.argmax(squares))
        below, above = 1 - squares[short], squares[long] - 1
        # |cos t short - sin t long|² = 1 is above tan²t - 2 product tan t - below = 0
        product = loadings[short] @ loadings[long]
        root = np.copysign(np.sqrt(product**2 + above * below), product)
        if root == 0:
            break
        tangent = -below / (product + root)
        cosine = 1 / np.hypot(1, tangent)
        sine = cosine * tangent
        loadings[[short, long]] = (
            cosine * loadings[short] - sine * loadings[long],
            sine * loadings[short] + cosine * loadings[long],
        )
    return loadings
