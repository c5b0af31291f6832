"""The results of a claim that the page lets its reader explore, and what is stored of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from implicit_accel.errors import DataError
from implicit_accel.files import load_json, save_json
from implicit_accel.pages.explorer import FORMAT, Published, explorer, payload
from implicit_accel.plotting import Predicted
from implicit_accel.results import by_model

CURVES_FILE = "curves.json"

_FORMAT = "implicit_accel curves 1"


@dataclass(frozen=True)
class Curves:
    """Results, and what is to be shown beside them.

    Attributes:
        results: A sweep's.
        predicted: Theory's curves, see `pages.explorer.payload`.
        published: Somebody's, e.g. the paper's authors'.
        best_by: What makes a learning rate the best, see `statistics.best_learning_rates`.
    """

    results: xr.Dataset
    predicted: Predicted | None = None
    published: tuple[Published, ...] = ()
    best_by: str = "target"


def joined(runs: Iterable[tuple[str, xr.Dataset]]) -> xr.Dataset:
    """Several sweeps' results as one's, each model at the learning rates that it was trained at.

    Args:
        runs: What each one's optimizer is to be called, and its results; of as many steps and
            seeds, recorded at the same steps.
    """
    named = [
        found.assign_coords(optimizer=("model", [name] * found.sizes["model"]))
        for name, found in ((name, by_model(run)) for name, run in runs)
    ]
    return xr.concat(
        named, "model", join="outer", coords="minimal", compat="override", data_vars="all",
        combine_attrs="override",
    )  # fmt: skip


def save_curves(curves: Mapping[str, Curves], folder: Path) -> dict[str, dict[str, Any]]:
    """Writes what a page needs of some results into a claim's folder; no file for none.

    Args:
        curves: Results by their titles.
        folder: The claim's.

    Returns:
        What is stored, by title: `pages.explorer.payload`.
    """
    path = folder / CURVES_FILE
    if not curves:
        path.unlink(missing_ok=True)
        return {}
    budget = max(_BUDGET // len(curves), _LEAST)
    known_by = {title: _known_by(shown, budget) for title, shown in curves.items()}
    payloads, earlier = {}, _earlier(path)
    for title, shown in curves.items():
        kept = earlier.get(known_by[title])
        payloads[title] = kept or payload(
            shown.results, predicted=shown.predicted, published=shown.published,
            best_by=shown.best_by, budget=budget,
        )  # fmt: skip
    stored = {"format": _FORMAT, "sha256": _digest(payloads), "known_by": known_by}
    save_json(stored | {"payloads": payloads}, path)
    return payloads


# Characters of JSON of a claim, and the least of each of its results: with those of all claims the
# page is as small as it should be.
_BUDGET, _LEAST = 90_000, 12_000


def load_curves(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads what `save_curves` wrote; empty if there is nothing, or another version's.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / CURVES_FILE
    if not path.is_file():
        return {}
    try:
        stored = load_json(path)
        payloads = dict(stored["payloads"])
        if stored["sha256"] != _digest(payloads):
            raise ValueError("its checksum does not fit its contents")
        # What another version has made its page could not show.
        formats = {stored["format"], *(found["format"] for found in payloads.values())}
        if not formats <= {_FORMAT, FORMAT}:
            return {}
        if payloads:
            explorer("curves", payloads)  # raises where one is not what the page shows
        return payloads
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); run the claim again") from None


def _known_by(shown: Curves, budget: int) -> str:
    """What a payload depends on; empty if that is not known, as of a function."""
    if shown.predicted is not None:
        return ""
    found = hashlib.sha256(f"{FORMAT} {shown.best_by} {budget}".encode())
    found.update(json.dumps(shown.results.attrs, sort_keys=True, default=str).encode())
    for name, variable in sorted(shown.results.variables.items(), key=lambda item: str(item[0])):
        values = variable.values
        found.update(f"{name} {variable.dims} {values.dtype} {values.shape}".encode())
        is_number = values.dtype.kind in "biuf"
        found.update(values.tobytes() if is_number else str(values.tolist()).encode())
    for curve in shown.published:
        found.update(curve.name.encode())
        found.update(np.asarray([curve.steps, curve.losses], float).tobytes())
    return found.hexdigest()


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    """The payloads that a file holds, by what they depend on: making them takes long."""
    try:
        payloads = load_curves(path.parent)
        known_by = load_json(path)["known_by"]
        return {known_by[title]: found for title, found in payloads.items() if known_by[title]}
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return {}  # it is written again


def _digest(payloads: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(payloads, sort_keys=True).encode()).hexdigest()
