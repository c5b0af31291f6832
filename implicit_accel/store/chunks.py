"""Chunks on disk: whole, verified, the last two versions kept.

A chunk's file is an .npz file without compression and without pickles, written beside its place and
renamed. Its SHA-256 follows it in the file, and is verified before anything is made of the bytes: a
file that was cut short or damaged on disk is passed over, and the version before it used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import struct
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import jax
import numpy as np

from implicit_accel.engine.chunks import (
    Chunk,
    ChunkState,
    Group,
    GroupResult,
    Timing,
    precision_context,
)
from implicit_accel.experiment import is_count
from implicit_accel.files import atomic_path, open_plain, parse_json, seal, seal_of

_KEPT = 2
_ABOUT = "about"
_RESULT, _LEAF, _STEPS, _MEMBERS = "result_", "leaf_", "steps_", "members"

# What reading raises where a file's checksum fits but not its contents: somebody else wrote it.
_INVALID_FILE_ERRORS = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, EOFError,
    MemoryError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChunkFile:
    """The stored versions of a chunk.

    Attributes:
        folder: Where they lie.
        name: What their files' names begin with.
        identity: A text that identifies the chunk: only files with the same are loaded.
    """

    folder: Path
    name: str
    identity: str

    def paths(self) -> list[Path]:
        """The files, the newest first."""
        pattern = re.compile(re.escape(self.name) + r"\.(\d{6,12})\.npz")
        numbered = [(pattern.fullmatch(p.name), p) for p in self.folder.glob(f"{self.name}.*.npz")]
        return [p for _, p in sorted(((int(m[1]), p) for m, p in numbered if m), reverse=True)]

    def save(self, state: ChunkState) -> None:
        """Writes a version, atomically, then removes all but the last two.

        Raises:
            OSError: If it cannot be written; those before it are still there.
        """
        about = {
            "identity": self.identity,
            "num_steps": state.num_steps,
            "next_step": state.next_step,
            "num_leaves": len(state.leaves),
            "num_recordings": len(state.steps),
            "timing": dataclasses.asdict(state.timing),
        }
        arrays = {f"{_STEPS}{i}": np.asarray(steps) for i, steps in enumerate(state.steps)}
        arrays |= {f"{_RESULT}{name}": a for name, a in state.result.arrays.items()}
        arrays |= {f"{_LEAF}{i}": leaf for i, leaf in enumerate(state.leaves)}
        arrays[_MEMBERS] = state.members
        arrays[_ABOUT] = np.array(json.dumps(about))
        earlier = self.paths()
        number = int(earlier[0].name.split(".")[-2]) + 1 if earlier else 1
        path = self.folder / f"{self.name}.{number:06d}.npz"
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
            seal(temporary)
        for old in self.paths()[_KEPT:]:
            old.unlink(missing_ok=True)

    def newest(self, chunk: Chunk, group: Group, precision: str) -> ChunkState | None:
        """The newest version that is whole and of this identity; None if there is none.

        Args:
            chunk: The chunk.
            group: Its group.
            precision: Of training.
        """
        for about, arrays in self._verified():
            try:
                state = _read(about, arrays)
            except _INVALID_FILE_ERRORS:
                continue
            if _fits(state, len(chunk.runs(group.num_runs)), group, precision):
                return state
        return None

    def is_finished(self, num_steps: int) -> bool:
        """Whether the newest whole version has made this many steps."""
        for about, _ in self._verified():
            return about.get("num_steps") == num_steps and about.get("next_step") == num_steps + 1
        return False

    def _verified(self) -> Iterator[tuple[dict[str, Any], Mapping[str, np.ndarray]]]:
        """The contents of the whole files of this identity, the newest first."""
        for path in self.paths():
            with contextlib.suppress(OSError), open_plain(path) as file:
                if not seal_of(file):
                    continue
                try:
                    arrays = _load_arrays(file)
                    about = dict(parse_json(str(arrays[_ABOUT])))
                except _INVALID_FILE_ERRORS:
                    continue
                if about.get("identity") == self.identity:
                    yield about, arrays


class CheckpointSchedule:
    """When the states of chunks in training are saved.

    They are due every ``every`` seconds, but no sooner than keeps the time spent on writing below
    two per cent of the whole. With ``every = 0`` they always are.

    Args:
        every: Seconds.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._due = time.monotonic() + every

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._due

    def note_saving(self, began: float) -> None:
        """Notes that states have been saved, beginning at this ``time.monotonic()``."""
        after = time.monotonic()
        self._due = after + (max(self._every, 50 * (after - began)) if self._every else 0)


def _load_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """Loads what `numpy.savez` wrote.

    The arrays of such a file are not compressed, so that together they are shorter than the file. A
    forged one is not believed: neither its directory nor what its arrays say of their shapes.

    Raises:
        ValueError: If it is not one of these.
        zipfile.BadZipFile: If it is no zip archive.
    """
    left = file.seek(0, os.SEEK_END)
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                raise ValueError(f"{entry.filename} does not fit into its file")
            with archive.open(entry) as content:
                name = entry.filename.removesuffix(".npy")
                arrays[name] = _load_array(content, entry.file_size)
    return arrays


def _load_array(content: IO[bytes], size: int) -> np.ndarray:
    """Loads an array in NumPy's format, which has so many bytes with its header."""
    major, _ = np.lib.format.read_magic(content)
    if major != 1:
        raise ValueError("another version of NumPy's format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(content)
    num_bytes = size - content.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != num_bytes:
        raise ValueError("an array that is not as long as it says")
    data = bytearray(content.read())  # a bytearray can be written to, bytes cannot
    if len(data) != num_bytes:
        raise ValueError("an array that is cut off")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _read(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ChunkState:
    """Puts a chunk's state together again, whatever it is."""
    timing = about["timing"]
    if not all(type(value) in (int, float) and 0 <= value < 1e18 for value in timing.values()):
        raise ValueError("timings must be numbers")
    stored = {n.removeprefix(_RESULT): arrays[n] for n in arrays if n.startswith(_RESULT)}
    return ChunkState(
        num_steps=about["num_steps"],
        next_step=about["next_step"],
        steps=tuple(arrays[f"{_STEPS}{i}"] for i in range(about["num_recordings"])),
        members=arrays[_MEMBERS],
        leaves=tuple(arrays[f"{_LEAF}{i}"] for i in range(about["num_leaves"])),
        result=GroupResult.of(stored),
        timing=Timing(**timing),
    )


def _fits(state: ChunkState, num_runs: int, group: Group, precision: str) -> bool:
    """Whether a state has the numbers, shapes and types that training makes for so many runs."""
    if not is_count(state.num_steps) or not is_count(state.next_step):
        return False
    if state.next_step > state.num_steps + 1:
        return False
    if any(s.ndim != 1 or s.dtype.kind != "i" or np.any(s[1:] <= s[:-1]) for s in state.steps):
        return False
    with precision_context(precision) as dtype:
        expected = jax.tree.leaves(group.state(dtype))
    places = np.sort(state.members, axis=None)
    if state.members.ndim != 2 or places.dtype.kind != "i":
        return False
    if not np.array_equal(places[places >= 0], np.arange(num_runs)) or places[0] < -1:
        return False
    leaves = [((*state.members.shape, *x.shape), np.dtype(x.dtype)) for x in expected]
    return [(a.shape, a.dtype) for a in state.leaves] == leaves and _result_fits(
        state.result, state.steps, num_runs, group.names(), precision
    )


def _result_fits(
    result: GroupResult,
    steps: Sequence[np.ndarray],
    num_runs: int,
    names: Sequence[Sequence[str]],
    precision: str,
) -> bool:
    if len(steps) != len(names):
        return False
    ends = (result.steps_to_target, result.divergence_step)
    expected = {
        name: (num_runs, len(kept))
        for recorded, kept in zip(names, steps, strict=True)
        for name in recorded
    }
    return (
        all(a.shape == (num_runs,) and a.dtype == np.int64 for a in ends)
        and {name: a.shape for name, a in result.records.items()} == expected
        and all(a.dtype == precision for a in result.records.values())
    )
