"""Snapshots of training on disk: whole, verified, the last two kept.

A snapshot is an .npz file without compression and without pickles, written beside its place and
renamed. Its SHA-256 follows it in the file, and is verified before anything is made of the bytes:
a file that was cut short or damaged on disk is passed over, and the one before it used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from implicit_accel.engine.step import RunState
from implicit_accel.engine.train import (
    Group,
    GroupResult,
    Piece,
    Segment,
    Snapshot,
    Timing,
    precision_context,
)
from implicit_accel.experiment import is_count
from implicit_accel.files import atomic_path, is_sealed, seal

_KEPT = 2
_ABOUT = "about"

# What reading raises where a file's checksum fits but not its contents: somebody else wrote it.
_NOT_OURS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The snapshots of one `Training`.

    Attributes:
        folder: Where they lie.
        name: What their files' names begin with.
        identity: A text that tells whose they are: only snapshots with the same are loaded.
    """

    folder: Path
    name: str
    identity: str

    def paths(self) -> list[Path]:
        """The files, the newest first."""
        pattern = re.compile(re.escape(self.name) + r"\.(\d{6,})\.npz")
        numbered = [(pattern.fullmatch(p.name), p) for p in self.folder.glob("*.npz")]
        return [p for _, p in sorted(((int(m[1]), p) for m, p in numbered if m), reverse=True)]

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, atomically, then removes all but the last two.

        Raises:
            OSError: If it cannot be written; those before it are still there.
        """
        arrays = dict(_arrays(snapshot))
        about = {
            "identity": self.identity,
            "num_steps": snapshot.num_steps,
            "num_devices": snapshot.num_devices,
            "next_steps": [None if p is None else p.next_step for p in snapshot.pieces],
            "num_groups": len(snapshot.results),
            "num_recordings": len(snapshot.steps),
            "timing": dataclasses.asdict(snapshot.timing),
            "is_finished": snapshot.is_finished,
        }
        arrays[_ABOUT] = np.array(json.dumps(about))
        earlier = self.paths()
        number = int(earlier[0].name.split(".")[-2]) + 1 if earlier else 1
        path = self.folder / f"{self.name}.{number:06d}.npz"
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
            seal(temporary)
        for old in self.paths()[_KEPT:]:
            old.unlink(missing_ok=True)

    def newest(
        self, groups: Sequence[Group], share_sizes: Sequence[int], precision: str
    ) -> Snapshot | None:
        """The newest snapshot that is whole and this identity's; None if there is none.

        Args:
            groups: What is trained.
            share_sizes: How many runs of each group are trained here.
            precision: Of training.
        """
        for about, arrays in self._verified():
            try:
                snapshot = _snapshot(arrays, about, groups, share_sizes, precision)
            except _NOT_OURS:
                continue
            if snapshot is not None:
                return snapshot
        return None

    def is_finished(self, num_steps: int) -> bool:
        """Whether the newest whole snapshot says that all runs made this many steps."""
        for about, _ in self._verified():
            return about.get("is_finished") is True and about.get("num_steps") == num_steps
        return False

    def _verified(self) -> Iterator[tuple[dict[str, Any], Mapping[str, np.ndarray]]]:
        """What the whole files of this identity hold, the newest first."""
        for path in self.paths():
            with contextlib.suppress(OSError):
                if not is_sealed(path):
                    continue
                with np.load(path, allow_pickle=False) as arrays:
                    try:
                        about = dict(json.loads(str(arrays[_ABOUT])))
                    except _NOT_OURS:
                        continue
                    if about.get("identity") == self.identity:
                        yield about, arrays


class Keeper:
    """Saves snapshots when they are due; called after every segment of training.

    A snapshot is due ``every`` seconds, but no sooner than keeps the time spent on writing below
    two per cent of the whole; after the last step; and when asked for. ``every = 0`` makes every
    segment's due, whatever it costs.

    Args:
        checkpoints: Where they go.
        every: Seconds.
        wanted: Tells whether one is asked for now.
        on_last: Whether the end of training is snapshotted.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: float,
        wanted: Callable[[], bool] = lambda: False,
        *,
        on_last: bool = True,
    ) -> None:
        self._checkpoints, self._every, self._wanted = checkpoints, every, wanted
        self._on_last = on_last
        self._due = time.monotonic() + every
        self.num_saved = 0

    def __call__(self, segment: Segment) -> None:
        """Takes a snapshot if one is due."""
        before = time.monotonic()
        if before < self._due and not (segment.is_last and self._on_last) and not self._wanted():
            return
        self._checkpoints.save(segment.snapshot())
        self.num_saved += 1
        after = time.monotonic()
        self._due = after + (max(self._every, 50 * (after - before)) if self._every else 0)


def _arrays(snapshot: Snapshot) -> Iterator[tuple[str, np.ndarray]]:
    for i, steps in enumerate(snapshot.steps):
        yield f"steps_{i}", np.asarray(steps)
    for g, result in enumerate(snapshot.results):
        for name, array in result.arrays.items():
            yield f"result_{g}_{name}", array
    for p, piece in enumerate(snapshot.pieces):
        if piece is None:
            continue
        for g, (members, state) in enumerate(zip(piece.members, piece.states, strict=True)):
            yield f"members_{p}_{g}", members
            for i, leaf in enumerate(jax.tree.leaves(state)):
                yield f"state_{p}_{g}_{i}", np.asarray(leaf)


def _snapshot(
    arrays: Mapping[str, np.ndarray],
    about: dict[str, Any],
    groups: Sequence[Group],
    share_sizes: Sequence[int],
    precision: str,
) -> Snapshot | None:
    """Puts a snapshot together again; None if it is not of these groups."""
    if about["num_groups"] != len(groups):
        return None
    pieces = _pieces(arrays, about, groups, share_sizes, precision)
    if not pieces:
        return None
    steps = tuple(arrays[f"steps_{i}"] for i in range(about["num_recordings"]))
    if any(s.ndim != 1 or s.dtype.kind != "i" or np.any(s[1:] <= s[:-1]) for s in steps):
        return None
    timing = about["timing"]
    if any(type(value) not in (int, float) for value in timing.values()):
        return None
    results = []
    for g, group in enumerate(groups):
        wanted = [name for names in group.names() for name in names]
        wanted += ["steps_to_target", "divergence_step"]
        prefix = f"result_{g}_"
        stored = {n.removeprefix(prefix): arrays[n] for n in arrays if n.startswith(prefix)}
        if sorted(stored) != sorted(wanted) or not _fits(group, stored, steps, precision):
            return None
        results.append(GroupResult.of(stored))
    return Snapshot(
        num_steps=about["num_steps"],
        steps=steps,
        num_devices=about["num_devices"],
        pieces=pieces,
        results=tuple(results),
        timing=Timing(**timing),
    )


def _pieces(
    arrays: Mapping[str, np.ndarray],
    about: dict[str, Any],
    groups: Sequence[Group],
    share_sizes: Sequence[int],
    precision: str,
) -> tuple[Piece | None, ...] | None:
    """A snapshot's pieces; None if they are not of these groups."""
    pieces: list[Piece | None] = []
    with precision_context(precision) as dtype:
        shapes = [group.state(dtype) for group in groups]
    for number in (about["num_steps"], about["num_devices"]):
        if not is_count(number):
            return None
    for p, next_step in enumerate(about["next_steps"]):
        if next_step is None:
            pieces.append(None)
            continue
        if not is_count(next_step) or next_step > about["num_steps"] + 1:
            return None
        members, states = [], []
        for g, expected in enumerate(shapes):
            members.append(arrays[f"members_{p}_{g}"])
            leaves, structure = jax.tree.flatten(expected)
            names = [f"state_{p}_{g}_{i}" for i in range(len(leaves))]
            stored = [arrays[name] for name in names if name in arrays]
            wanted = [((*members[-1].shape, *x.shape), np.dtype(x.dtype)) for x in leaves]
            if [(a.shape, a.dtype) for a in stored] != wanted:
                return None
            states.append(RunState(*jax.tree.unflatten(structure, stored)))
        pieces.append(Piece(next_step, tuple(members), tuple(states)))
    for g, (group, size) in enumerate(zip(groups, share_sizes, strict=True)):
        begun = [p.members[g].reshape(-1) for p in pieces if p is not None]
        numbers = np.concatenate([np.zeros(0, int), *begun])
        real = numbers[numbers >= 0]
        if real.dtype.kind != "i" or np.any(numbers < -1) or np.any(real >= group.num_runs):
            return None
        if len(np.unique(real)) < len(real) or (None not in pieces and len(real) != size):
            return None
    return tuple(pieces)


def _fits(
    group: Group,
    stored: Mapping[str, np.ndarray],
    steps: Sequence[np.ndarray],
    precision: str,
) -> bool:
    """Whether arrays have the shapes and types of a group's results."""
    names = group.names()
    if len(steps) != len(names):
        return False
    ends = all(
        stored[name].shape == (group.num_runs,) and stored[name].dtype == np.int64
        for name in ("steps_to_target", "divergence_step")
    )
    return ends and all(
        stored[name].shape == (group.num_runs, len(kept)) and stored[name].dtype == precision
        for recorded, kept in zip(names, steps, strict=True)
        for name in recorded
    )
