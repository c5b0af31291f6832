"""Results of one process's share of a grid: on disk, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from implicit_accel.files import atomic_path
from implicit_accel.training import GroupResult, Share

_ARRAYS = ("excess_loss", "held_out_loss", "steps_to_target", "divergence_step")


def merge(shares: Sequence[Sequence[GroupResult]]) -> list[GroupResult]:
    """Puts together the results of all shares of a grid, in the order of their indices."""
    merged = []
    for parts in zip(*shares, strict=True):
        arrays = []
        for name in _ARRAYS:
            whole = np.array(getattr(parts[0], name))
            for index, part in enumerate(parts):
                mine = Share(index, len(parts)).members(len(whole))
                whole[mine] = getattr(part, name)[mine]
            arrays.append(whole)
        merged.append(GroupResult(*arrays, layers=None))
    return merged


def save(results: Sequence[GroupResult], path: Path, identity: str) -> None:
    """Writes results to an .npz file, atomically, with a text that tells whose they are."""
    arrays = {
        f"{name}_{g}": getattr(result, name) for g, result in enumerate(results) for name in _ARRAYS
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        count = np.array(len(results))
        np.savez_compressed(file, identity=np.array(identity), count=count, **arrays)


def load(path: Path, identity: str) -> list[GroupResult] | None:
    """Reads what `save` wrote; None if it is not there, damaged or another's."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["identity"]) != identity:
                return None
            return [
                GroupResult(*(stored[f"{name}_{g}"] for name in _ARRAYS), layers=None)
                for g in range(int(stored["count"]))
            ]
    except Exception:  # damaged bytes make numpy and zipfile raise almost anything
        return None
