"""A run's folder: its settings, its chunks and its lock.

The first call trains a *round* of chunks; values that are asked for later along any axis become
another round, so that only the new runs are trained. With more steps every chunk goes on from its
end. ``checkpoints/`` holds the chunks and ``manifest.json``, which lists their rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import xarray as xr

from implicit_accel.engine.chunks import Chunk
from implicit_accel.errors import UserError
from implicit_accel.experiment import (
    RATES,
    SEEDS,
    Identity,
    OwnRates,
    Round,
    is_count,
)
from implicit_accel.figure_files import SWEEP_FIGURES, figure_files, remove_figures
from implicit_accel.files import load_json, remove_partial, save_json
from implicit_accel.results import (
    CONFIG_FILE,
    FIGURES_FOLDER,
    FORMAT,
    PAGE_FILE,
    PREDICTION_FILE,
    RESULTS_FILE,
    RESULTS_SEAL,
    SUMMARY_FILE,
    observed,
    recorded_seal,
    save_results,
)
from implicit_accel.store.chunks import ChunkFile

CHECKPOINTS_FOLDER = "checkpoints"
_REPLACED_FOLDER = "replaced"
_MANIFEST_FILE = "manifest.json"
_LOCK_FILE = ".lock"

_MOST_CHUNKS = 1_000_000
# How chunks are stored; other versions' are not read.
LAYOUT = 2

# What is made of a run's results, beside its figures.
_DERIVED = (SUMMARY_FILE, PREDICTION_FILE, PAGE_FILE)

# A run's own files, beside its figures. The checkpoints are the first to be set aside and the last
# to be put back: as long as they are not in their place, a broken move is begun again.
_OWN = (CHECKPOINTS_FOLDER, RESULTS_FILE, CONFIG_FILE, *_DERIVED)


class ForeignFolderError(UserError):
    """The folder holds files, and they are not a run's."""


@dataclass(frozen=True)
class Manifest:
    """What a run's chunks are.

    Attributes:
        identity: Of the run.
        rounds: In the order in which they were added.
        counts: For each round the number of chunks of each of its groups.
        environment: On what the run was begun, for people.

    Raises:
        ValueError: If a round has no chunks, or more than there may be.
    """

    identity: Identity
    rounds: tuple[Round, ...]
    counts: tuple[tuple[int, ...], ...]
    environment: str

    def __post_init__(self) -> None:
        if len(self.rounds) != len(self.counts) or not all(self.counts):
            raise ValueError("each round must have chunks")
        if not all(is_count(n) and n <= _MOST_CHUNKS for counts in self.counts for n in counts):
            raise ValueError(f"a group has from 1 to {_MOST_CHUNKS} chunks")

    def rates_by_round(self) -> tuple[OwnRates, ...]:
        """The learning rates that each round added to each model's, of rounds that added some."""
        axes = self.identity.axes
        seeds = tuple(k for k, name in enumerate(axes) if name == SEEDS)
        rates = [name for name in axes if name != SEEDS].index(RATES)
        seen = np.zeros((), bool)
        found = []
        for added in self.rounds:
            tried = np.moveaxis(np.any(added.covers(axes), axis=seeds), rates, -1)
            tried = tried.reshape(-1, len(axes[RATES]))
            new, seen = tried & ~seen, tried | seen
            own = tuple(
                tuple(rate for rate, is_new in zip(axes[RATES], row, strict=True) if is_new)
                for row in new
            )
            if any(own):
                found.append(own)
        return tuple(found)


class RunFolder:
    """A run's output folder. Nothing in it but a run's own files is ever touched.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS_FOLDER

    def finished(self) -> Identity | None:
        """The identity of the finished run in the folder; None if there is none."""
        stored = self._read_json(self.path / CONFIG_FILE)
        try:
            if stored["format"] != FORMAT or not (self.path / RESULTS_FILE).is_file():
                return None
            return Identity.of(stored["identity"])
        except (KeyError, TypeError, ValueError):
            return None

    def manifest(self) -> Manifest | None:
        """What has been begun in the folder; None if nothing has."""
        stored = self._read_json(self.checkpoints / _MANIFEST_FILE)
        try:
            if stored["format"] != FORMAT or stored["layout"] != LAYOUT:
                return None
            identity = Identity.of(stored["identity"])
            rounds = tuple(Round.of(each, identity.axes) for each in stored["rounds"])
            counts = tuple(map(tuple, stored["counts"]))
            return Manifest(identity, rounds, counts, str(stored["environment"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def stored(self) -> Identity | None:
        """The identity of the run in the folder, finished or begun; None if there is none."""
        manifest = self.manifest()
        return manifest.identity if manifest else self.finished()

    @staticmethod
    def _read_json(path: Path) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return load_json(path)
        return None

    def check(self, wanted: Identity, *, overwrite: bool) -> None:
        """Makes sure that the wanted run may be trained in the folder.

        Raises:
            ForeignFolderError: If it holds files that are not a run's.
            UserError: If it holds another run, and must not be overwritten.
        """
        try:
            names = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise UserError(
                f"the run's folder (--output_dir) {self.path}: {error.strerror}; choose another"
            ) from None
        if _REPLACED_FOLDER in names:
            return  # an overwriting that was broken off: `settle` looks again
        stored = self.stored()
        visible = {name for name in names if not name.startswith(".")}
        if stored is None:
            if self._has_old_checkpoints() and not overwrite:
                raise UserError(
                    f"{self.path} holds the checkpoints of an earlier version of this package, "
                    "which cannot go on: choose another folder, or replace them (overwrite=True, "
                    "--overwrite in the shell)"
                )
            if visible - {CHECKPOINTS_FOLDER} or self._has_foreign_checkpoints():
                raise ForeignFolderError(
                    f"{self.path} holds files that are not a run's: choose an empty folder"
                )
            return
        if overwrite:
            return
        changed = stored.differences(wanted)
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings ({'; '.join(changed)}): choose "
                "another folder, or replace the run (overwrite=True, --overwrite in the shell)"
            )
        if self.manifest() is None:
            old = self._has_old_checkpoints()
            what = "are an earlier version's" if old else "are gone"
            raise UserError(
                f"{self.path} holds a finished run whose {CHECKPOINTS_FOLDER}/ {what}, so that "
                "it cannot go on: choose another folder, or replace the run (overwrite=True, "
                "--overwrite in the shell)"
            )

    def _has_old_checkpoints(self) -> bool:
        stored = self._read_json(self.checkpoints / _MANIFEST_FILE)
        return isinstance(stored, dict) and "parts" in stored and "identity" in stored

    def _has_foreign_checkpoints(self) -> bool:
        return self.checkpoints.exists() and (
            not self.checkpoints.is_dir()
            or any(
                p.suffix not in (".npz", ".json") and p.name[0] != "."
                for p in self.checkpoints.iterdir()
            )
        )

    @contextlib.contextmanager
    def locked(self, name: str = _LOCK_FILE, *, patience: float = 0) -> Iterator[None]:
        """Keeps other processes out while it lasts; the lock ends with its owner, however it ends.

        Args:
            name: What is locked: a file in the folder.
            patience: Seconds to wait for it.

        Raises:
            UserError: If another process has it.
        """
        lock = filelock.FileLock(self.path / name, timeout=patience)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{self.path}: another process is at work there; wait until it ends, or choose "
                "another folder"
            ) from None
        try:
            yield
        finally:
            # Where nothing came of it, no trace stays. Whoever waits for the lock sees that its
            # file has no name any more, and begins again.
            path = self.path / name
            with contextlib.suppress(OSError):
                self.checkpoints.rmdir()
            if [p.name for p in path.parent.iterdir()] == [path.name]:
                path.unlink()
            lock.release()

    def settle(self, wanted: Identity, *, overwrite: bool) -> None:
        """Clears up after processes that were killed, and sets aside what is to be replaced.

        What is replaced lies in ``replaced/`` until the new run has its first snapshot
        (`forget_replaced`). If that moment never came, it is put back first: so this may be called
        again, by several processes in turn. Call it with the folder locked.
        """
        remove_partial(self.path)
        if (self.path / _REPLACED_FOLDER).exists():
            if any(self.checkpoints.glob("*.npz")):
                self.forget_replaced()
            else:
                self._put_back()
        self.check(wanted, overwrite=overwrite)
        stored = self.stored()
        goes_on = stored is None or (stored != self.finished() and not stored.differences(wanted))
        if overwrite and (not goes_on or self._has_old_checkpoints()):
            replaced = self.path / _REPLACED_FOLDER
            replaced.mkdir()
            for name in _OWN:
                if (self.path / name).exists():
                    (self.path / name).replace(replaced / name)
            figures = figure_files(self.path / FIGURES_FOLDER, _figure_names(stored))
            _move_figures(figures, self.path, replaced)

    def _put_back(self) -> None:
        replaced = self.path / _REPLACED_FOLDER
        _move_figures(sorted((replaced / FIGURES_FOLDER).glob("*")), replaced, self.path)
        for name in reversed(_OWN):
            if (replaced / name).exists():
                _remove(self.path / name)  # the beginning of a run that saved nothing
                (replaced / name).replace(self.path / name)
        replaced.rmdir()

    def forget_replaced(self) -> None:
        """Removes the run that was replaced."""
        replaced = self.path / _REPLACED_FOLDER
        if replaced.exists():
            for name in (*_OWN, FIGURES_FOLDER):
                _remove(replaced / name)
            replaced.rmdir()

    def finish(
        self,
        results: xr.Dataset,
        about: dict[str, Any],
        identity: Identity,
        *,
        made: Collection[Path] = (),
    ) -> None:
        """Writes a run's results and, last, ``config.json``, without which it is not finished.

        A summary, predictions, figures or a page that were made of other results are removed.

        Args:
            results: Labelled results.
            about: What else to say of the run.
            identity: Of the run.
            made: Files that have just been made of these results.
        """
        before = recorded_seal(self.path)
        (self.path / CONFIG_FILE).unlink(missing_ok=True)
        seal = save_results(results, self.path)
        if seal != before:
            for name in _DERIVED:
                if (path := self.path / name) not in made:
                    path.unlink(missing_ok=True)
            names = (*SWEEP_FIGURES, *observed(results))
            remove_figures(self.path / FIGURES_FOLDER, names, keep=made)
        written = datetime.now(UTC).isoformat(timespec="seconds")
        content = {
            "format": FORMAT, "written": written, "identity": identity.as_json(),
            RESULTS_SEAL: seal,
        }  # fmt: skip
        save_json(content | about, self.path / CONFIG_FILE)

    def save_manifest(self, manifest: Manifest) -> None:
        """Writes ``checkpoints/manifest.json``, atomically."""
        content = {
            "format": FORMAT,
            "identity": manifest.identity.as_json(),
            "layout": LAYOUT,
            "rounds": [added.as_json() for added in manifest.rounds],
            "counts": manifest.counts,
            "environment": manifest.environment,
        }
        save_json(content, self.checkpoints / _MANIFEST_FILE)

    def chunk_file(self, manifest: Manifest, number: int, chunk: Chunk) -> ChunkFile:
        """Where a chunk of a round is stored.

        Args:
            manifest: The run's.
            number: Of the round.
            chunk: The chunk.
        """
        about = {
            "round": manifest.rounds[number].as_json(),
            "chunk": dataclasses.asdict(chunk),
            # What a run may be given more of, a round never is.
            "settings": {
                name: value
                for name, value in manifest.identity.settings.items()
                if not isinstance(value, dict)
            },
            "data": manifest.identity.fingerprint,
        }
        name = f"{number}-{chunk.group}-{chunk.index}"
        return ChunkFile(self.checkpoints, name, json.dumps(about, sort_keys=True))


def _figure_names(identity: Identity | None) -> tuple[str, ...]:
    """The names of the figures that a run with this identity has."""
    recorded = () if identity is None else identity.settings.get("record", ())
    if not isinstance(recorded, list | tuple):
        recorded = ()
    return (*SWEEP_FIGURES, *(name for name in recorded if isinstance(name, str)))


def _move_figures(paths: Sequence[Path], source: Path, target: Path) -> None:
    """Moves files from one folder's ``figures/`` to another's; removes the first if empty."""
    if paths:
        (target / FIGURES_FOLDER).mkdir(exist_ok=True)
    for path in paths:
        path.replace(target / FIGURES_FOLDER / path.name)
    with contextlib.suppress(OSError):  # other files are in it, or there is none
        (source / FIGURES_FOLDER).rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
