"""Reading the results of a run, of whatever family of models."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from implicit_accel import results as general
from implicit_accel.errors import DataError
from implicit_accel.linear import results as linear
from implicit_accel.results import RESULTS_FILE, load_results


def load_run(folder: str | Path) -> xr.Dataset:
    """Reads a run's results into memory.

    The file's checksum is verified first, since the HDF5 library may crash or never return on
    damaged bytes. It must be the one that ``config.json`` beside the file records, if there is one.

    Args:
        folder: The run's folder, or its ``results.nc``.

    Returns:
        The labelled results, see `implicit_accel.results`.

    Raises:
        DataError: If there are none, the file is damaged, it is not one of ours, or not that of
            the run in the folder.
    """
    path = Path(folder)
    try:
        path = path / RESULTS_FILE if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no such file; give the output folder of a sweep")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    results = load_results(path)
    # A sweep of linear networks needs to name no axes.
    reason = (general if "axes" in results.attrs else linear).invalid(results)
    if reason:
        raise DataError(f"{path}: not a sweep's results ({reason})")
    return results
