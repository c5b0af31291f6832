"""Abalone (UCI 1)."""

import re
from collections.abc import Mapping
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
from implicit_accel.errors import DataError

ABALONE_URL = "https://archive.ics.uci.edu/static/public/1/abalone.zip"
ABALONE_PAGE = "https://archive.ics.uci.edu/dataset/1/abalone"
ABALONE_SHA256 = "755a6a67c5b266961a3f149ea13be2cfb6e6c727e48cee3c83bc0b4526210ee4"
ABALONE_DIGESTS = {
    "abalone.data": "de37cdcdcaaa50c309d514f248f7c2302a5f1f88c168905eba23fe2fbc78449f",
}

_ABALONE_ROWS = 4177
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
_ABALONE_LINE = re.compile(
    rf"([{_SEXES}])" + rf",({NUMBER})" * len(_ABALONE_MEASURES) + r",([0-9]+)[ \t\r]*"
)


def load_abalone(
    *,
    data_dir: Path | str | None = None,
    url: str | None = ABALONE_URL,
    cache_dir: Path | str | None = None,
    progress: fetch.Progress | None = None,
) -> Dataset:
    """Loads Abalone (UCI 1): rings, which show the age, from sex and seven measures.

    Licence: CC BY 4.0; cite W. Nash et al., Abalone, UCI Machine Learning Repository (1994).

    Args:
        data_dir: Folder with ``abalone/abalone.data`` or ``abalone.data``, looked in first.
        url: Address of the official zip archive, used where no folder has the file;
            None for no download.
        cache_dir: Folder that keeps a download; by default the user's cache.
        progress: Called with the bytes received and all of them.

    Returns:
        Features (4177, 10): sex one-hot (F, I, M), three lengths and four weights, in the file's
        units (200 mm and 200 g). Target (4177, 1): the number of rings.

    Raises:
        UserError: A folder that does not exist.
        DataError: A missing, damaged or incomplete file, or a failed download.
        NotHereError: The file is not here and there is to be no download.
    """
    name = "abalone.data"
    archive = fetch.Archive(
        "abalone", (name,), url or ABALONE_URL, ABALONE_PAGE, ABALONE_SHA256, ABALONE_DIGESTS
    )

    def check(files: Mapping[str, bytes]) -> None:
        _parse_abalone(files[name], name)

    folder = fetch.locate(archive, [name], data_dir=data_dir, cache_dir=cache_dir) or download(
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


def _parse_abalone(data: bytes, label: str) -> np.ndarray:
    """Returns (4177, 11): F, I, M, seven measures, rings."""
    rows = parse_lines(data, label, _ABALONE_LINE, _explain_abalone)
    if len(rows) != _ABALONE_ROWS:
        raise DataError(
            f"{label} has {len(rows)} rows, the official file {_ABALONE_ROWS}: get the original "
            f"from {ABALONE_PAGE}."
        )
    return finite(
        [[float(sex == s) for s in _SEXES] + list(map(float, rest)) for sex, *rest in rows], label
    )


def _explain_abalone(line: str) -> str:
    sex, *fields = line.strip().split(",")
    if len(fields) != len(_ABALONE_MEASURES) + 1:
        return f"{len(fields) + 1} fields instead of {len(_ABALONE_MEASURES) + 2}"
    if sex not in tuple(_SEXES):
        return f"sex is {quoted(sex)} instead of {', '.join(_SEXES)}"
    for name, value in zip(_ABALONE_MEASURES, fields, strict=False):
        if not re.fullmatch(NUMBER, value):
            return f"{name} is {quoted(value)}, not a finite number"
    return f"rings is {quoted(fields[-1])}, not a whole number"


SOURCE = DatasetSource("abalone", "Abalone (UCI)", load_abalone, {"data_dir": DATA_DIR})
