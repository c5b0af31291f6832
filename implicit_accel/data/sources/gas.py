"""Gas Sensor Array Drift at Different Concentrations (UCI 270)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from implicit_accel.data import fetch
from implicit_accel.data.dataset import (
    DATA_DIR,
    NUMBER,
    Dataset,
    DatasetSource,
    download,
    finite,
    parse_lines,
    quoted,
)
from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import Field, each, items_of, plain

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

GAS_SHA256 = "98fe3a30981a222dd4518fbcc3dddd45d5c0ce9b03ef6dc6fe5cf7a04cfbff5e"

# Of the other two files no checksum is known but that of the archive.
GAS_DIGESTS = {
    "batch1.dat": "6b62f3e71b90f95dd9c2157fa91ffce32571faa7f474dd52f29a4ae769144625",
    "batch2.dat": "4ea9490068457badf9efd0c22f359fbfce12c208cdd440526b97ac91d31b9002",
    "batch3.dat": "aabf06bf8b8200740156235dc59458e06d99aa8faba4d6764a22c6b6c2674ff4",
    "batch4.dat": "ffc87c5146001bbe8ce90c4b2f7dad5b390ca3079f51b559032df53ffe5ff0af",
    "batch5.dat": "dcad4939c300a6c7d9f41b9470a9253eecc0ebc5c2c4e940d8ae20b8fc4240d0",
    "batch6.dat": "297d3a8b594dee4e2f4d7d2c4f5c485939fa708c10b5a11ed5cce95e05049afb",
    "batch8.dat": "58146b3e2dd68b125b2d5432cdd4968ec1fff47464ceb04282382181932d49be",
    "batch9.dat": "51f368ae8dee5d285be7f2029770e10eb12f342578830bc40ea852db19d19c9b",
}

NUM_FEATURES = 128
"""16 sensors with 8 features each."""

# What the official files hold: rows per batch 1..10, in all and of class 1, and rows per class.
_GAS_ROWS = (445, 1244, 1586, 161, 197, 2300, 3613, 294, 470, 3600)
_GAS_CLASS_1_ROWS = (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)
_GAS_CLASS_ROWS = (2565, 2926, 1641, 1936, 3009, 1833)

_GAS_LINE = re.compile(
    rf"([1-6]);({NUMBER})"
    + "".join(rf" {i}:({NUMBER})" for i in range(1, NUM_FEATURES + 1))
    + r"[ \t\r]*"
)


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
    Chemometrics and Intelligent Context Systems 130 (2014). Licence: CC BY 4.0.

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
        progress: Called with the bytes received and all of them.

    Returns:
        Features (n, 128): 16 sensors with 8 features each. Target (n, 1): concentration in ppmv.

    Raises:
        UserError: Unknown gas, bad batches, or a folder that does not exist.
        DataError: Missing, damaged or incomplete files, or a failed download.
        NotHereError: The files are not here and there is to be no download.
    """
    if gas_name not in GAS_NAMES:
        raise UserError(f"gas_name {gas_name!r} is unknown; choose from {', '.join(GAS_NAMES)}.")
    batches = tuple(map(plain, items_of("gas batches", batches)))
    if (
        not batches
        or len(set(batches)) < len(batches)
        or not all(type(b) is int and b in GAS_BATCHES for b in batches)
    ):
        raise UserError(
            f"gas batches {list(batches)} are not usable; give one or more different whole numbers "
            "from 1 to 10, such as 1,2,3."
        )
    archive = fetch.Archive(
        "gas", tuple(map(_batch_file, GAS_BATCHES)), url or GAS_URL, GAS_PAGE, GAS_SHA256,
        GAS_DIGESTS,
    )  # fmt: skip
    folder = fetch.locate(
        archive,
        [_batch_file(batch) for batch in batches],
        data_dir=data_dir,
        cache_dir=cache_dir,
        advice="Or choose among the batches there are, such as --gas_batches 1,2,3.",
    ) or download(archive, _check_gas_archive, cache_dir, progress, allowed=url is not None)

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


def _batch_file(batch: int) -> str:
    return f"batch{batch}.dat"


def _parse_gas(data: bytes, label: str) -> np.ndarray:
    """Returns (rows, 130): class, concentration, features 1 to 128."""
    rows = parse_lines(data, label, _GAS_LINE, _explain_gas)
    return finite([list(map(float, row)) for row in rows], label)


def _explain_gas(line: str) -> str:
    head, *fields = line.split()[: NUM_FEATURES + 2] or [""]
    if len(fields) != NUM_FEATURES:
        count = len(line.split()) - 1
        return f"{max(count, 0)} features 'i:value' instead of {NUM_FEATURES}"
    gas_class, separator, concentration = head.partition(";")
    if not separator or gas_class not in map(str, GAS_NAMES.values()):
        return f"starts with {quoted(head)} instead of 'class;concentration', class from 1 to 6"
    if not re.fullmatch(NUMBER, concentration):
        return f"concentration {quoted(concentration)} is not a finite number"
    for i, field in enumerate(fields, start=1):
        index, _, value = field.partition(":")
        if index != str(i):
            return f"field {quoted(field)} where feature {i} should be"
        if not re.fullmatch(NUMBER, value):
            return f"feature {i} is {quoted(value)}, not a finite number"
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


SOURCE = DatasetSource(
    "gas",
    "Gas Sensor Array Drift at Different Concentrations (UCI), one gas of it",
    lambda gas_name, gas_batches, data_dir, progress: load_gas(
        gas_name=gas_name, batches=gas_batches, data_dir=data_dir, progress=progress
    ),
    {
        "data_dir": DATA_DIR,
        "gas_name": Field("ethanol", "Which gas.", choices=tuple(GAS_NAMES)),
        "gas_batches": Field(
            tuple(map(str, GAS_BATCHES)),
            "Batches of the gas data to use, in order of time.",
            parse=each(int),
            write=sorted,  # their order changes nothing but the order of the rows
        ),
    },
)
