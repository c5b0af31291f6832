"""A run's folder: its settings, its chunks, the files made of its results, and its lock.

The first call trains a *round* of chunks; values that are asked for later along any axis become
another round, so that only the new runs are trained. With more steps every chunk goes on from its
end. ``checkpoints/`` holds the chunks and ``manifest.json``, which lists their rounds.

A folder may hold a user's own files, and it may come from a stranger. Only what is listed is
removed or replaced: chunks by their names, what is made of the results in ``.files.json``. No link
to another folder is followed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
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
from implicit_accel.figure_files import FIGURE_FORMATS, SWEEP_FIGURES, figure_files
from implicit_accel.files import (
    PARTIAL,
    is_printable,
    load_json,
    printable,
    refuse_link,
    remove_empty,
    remove_partial,
    save_json,
)
from implicit_accel.results import (
    CONFIG_FILE,
    FIGURES_FOLDER,
    FORMAT,
    PAGE_FILE,
    PREDICTION_FILE,
    RESULTS_FILE,
    RESULTS_SEAL,
    SUMMARY_FILE,
    recorded_seal,
    save_results,
)
from implicit_accel.store.chunks import ChunkFile

CHECKPOINTS_FOLDER = "checkpoints"
_REPLACED_FOLDER = ".replaced"
_MANIFEST_FILE = "manifest.json"
_LOCK_FILE = ".lock"
_LIST_FILE = ".files.json"

_MOST_CHUNKS = 1_000_000
# How chunks are stored; other versions' are not read.
LAYOUT = 2

# What is made of a run's results, beside its figures.
_DERIVED = (SUMMARY_FILE, PREDICTION_FILE, PAGE_FILE)

# What a run always has. The checkpoints are the first to be set aside and the last to be put back:
# as long as they are not in their place, a broken move is begun again.
_OWN = (CHECKPOINTS_FOLDER, RESULTS_FILE, CONFIG_FILE, _LIST_FILE)

# The files in checkpoints/, also those of earlier versions.
_CHUNK_NAME = re.compile(r"\d{1,9}-\d{1,9}-\d{1,9}\.\d{6,12}\.npz")
_OLD_NAME = re.compile(r"part[\w-]+\.\d{6,}\.npz|process\w+\.alive")

# Of a file system that has no locks of the kind that ends with its owner.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)

# Seconds after which a lock file without a write is left over.
_LEFT_OVER = 10.0


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
    """A run's output folder, see the module.

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
            return Manifest(identity, rounds, counts, printable(str(stored["environment"]), 200))
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
            foreign = self._foreign_checkpoints()
        except OSError as error:
            raise UserError(
                f"the run's folder (--output_dir) {self.path}: {error.strerror}; choose another"
            ) from None
        self.refuse_links()
        if _REPLACED_FOLDER in names:
            return  # an overwriting that was broken off: `prepare` looks again
        stored = self.stored()
        visible = {name for name in names if not name.startswith(".")}
        if stored is None:
            if self._has_old_checkpoints() and not overwrite:
                raise UserError(
                    f"{self.path} holds the checkpoints of an earlier version of this package, "
                    "which cannot go on: choose another folder, or replace them (overwrite=True, "
                    "--overwrite in the shell)"
                )
            if own := sorted(visible - {CHECKPOINTS_FOLDER}) or foreign:
                raise ForeignFolderError(
                    f"{self.path} holds files that are not a run's ({_shown(own)}): choose an "
                    "empty folder"
                )
            return
        if overwrite:
            if foreign:
                raise ForeignFolderError(
                    f"{self.checkpoints} holds files that are not the run's ({_shown(foreign)}): "
                    "move them, or choose another folder"
                )
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

    def _foreign_checkpoints(self) -> list[str]:
        """The names in ``checkpoints/`` that no run has."""
        if not self.checkpoints.is_dir():
            return [CHECKPOINTS_FOLDER] if os.path.lexists(self.checkpoints) else []
        return sorted(p.name for p in self.checkpoints.iterdir() if not _is_checkpoint(p))

    def refuse_links(self) -> None:
        """Makes sure that what is written in the folder stays in it.

        Raises:
            UserError: If one of its own folders is a link.
        """
        own = (CHECKPOINTS_FOLDER, FIGURES_FOLDER)
        replaced = (f"{_REPLACED_FOLDER}/{name}" for name in own)
        # The outer one first: what is behind a link is not looked at.
        for name in (_REPLACED_FOLDER, *own, *replaced):
            refuse_link(self.path / name)

    @contextlib.contextmanager
    def locked(self, *, patience: float = 0) -> Iterator[None]:
        """Keeps other processes out while it lasts; the lock ends with its owner, however it ends.

        Where the file system has no locks, the lock is the file itself, which outlives a computer
        that goes down.

        Args:
            patience: Seconds to wait for the lock.

        Raises:
            UserError: If another process has it, or a folder of the run's is a link.
        """
        path = self.path / _LOCK_FILE
        self.refuse_links()
        if path.is_symlink():
            raise UserError(f"{path} is a link: remove it")
        if _has_locks(self.path):
            lock = filelock.FileLock(path, timeout=patience)
        else:
            _remove_left_over(path)
            lock = filelock.SoftFileLock(path, timeout=patience)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{self.path}: another process is at work there; wait until it ends, or choose "
                f"another folder (if none is, on no computer, remove {path})"
            ) from None
        try:
            yield
        finally:
            remove_empty(self.checkpoints)
            # Remove the lock if the folder is otherwise empty. A process that waits for it sees
            # that its file has no name any more, and begins again.
            if {p.name for p in self.path.iterdir()} <= {_LOCK_FILE, _LIST_FILE}:
                (self.path / _LIST_FILE).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            lock.release()

    def prepare(self, wanted: Identity, *, overwrite: bool) -> None:
        """Clears up after processes that were killed, and sets aside what is to be replaced.

        What is replaced lies in ``.replaced/`` until the new run has its first checkpoint
        (`forget_replaced`). If that moment never came, it is put back first: so this may be called
        again, by several processes in turn. Call it with the folder locked.

        Raises:
            UserError: See `check`.
        """
        self.remove_partial()
        if (self.path / _REPLACED_FOLDER).exists():
            if any(map(_is_chunk, self.checkpoints.glob("*.npz"))):
                self.forget_replaced()
            else:
                self._put_back()
        self.check(wanted, overwrite=overwrite)
        stored = self.stored()
        goes_on = stored is None or (stored != self.finished() and not stored.differences(wanted))
        if overwrite and (not goes_on or self._has_old_checkpoints()):
            replaced = self.path / _REPLACED_FOLDER
            replaced.mkdir()
            names = [name for name in (*_OWN, *self.listed()) if (self.path / name).exists()]
            for name in names:
                _move(self.path, replaced, name)
            remove_empty(self.path / FIGURES_FOLDER)

    def remove_partial(self) -> None:
        """Removes what writers that were killed have left. Call it with the folder locked."""
        for folder in (self.path, self.checkpoints, self.path / FIGURES_FOLDER):
            remove_partial(folder)

    def _put_back(self) -> None:
        replaced = self.path / _REPLACED_FOLDER
        for name in _derived_in(replaced):
            _move(replaced, self.path, name)
        remove_empty(replaced / FIGURES_FOLDER)
        for name in reversed(_OWN):
            if (replaced / name).exists():
                self._remove_own(self.path / name)  # the beginning of a run that saved nothing
                _move(replaced, self.path, name)
        replaced.rmdir()

    def forget_replaced(self) -> None:
        """Removes the run that was replaced."""
        replaced = self.path / _REPLACED_FOLDER
        if replaced.exists():
            for name in (*_OWN, *_derived_in(replaced)):
                self._remove_own(replaced / name)
            remove_empty(replaced / FIGURES_FOLDER)
            replaced.rmdir()

    @staticmethod
    def _remove_own(path: Path) -> None:
        """Removes a run's file, or its folder of checkpoints unless it holds other files."""
        if path.name == CHECKPOINTS_FOLDER and path.is_dir() and not path.is_symlink():
            for each in path.iterdir():
                if _is_checkpoint(each):
                    each.unlink()
            remove_empty(path)
        else:
            path.unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        """Removes the chunks: the run cannot go on, and its results stay."""
        self._remove_own(self.checkpoints)

    def remove(self) -> None:
        """Removes the run. Other files in its folder stay, and then the folder as well."""
        self.refuse_links()
        for name in (*self.listed(), *_OWN):
            self._remove_own(self.path / name)
        remove_empty(self.path / FIGURES_FOLDER, self.path)

    def listed(self) -> tuple[str, ...]:
        """The files that are made of the run's results: names relative to the folder.

        A run from before there was a list has those that go by names which the programs give.
        """
        stored = self._read_json(self.path / _LIST_FILE)
        if isinstance(stored, list):
            return tuple(dict.fromkeys(name for name in stored if _may_be_listed(name)))
        finished = self.finished()
        if finished is None:
            return ()
        figures = figure_files(self.path / FIGURES_FOLDER, figure_names(finished))
        derived = [name for name in _DERIVED if os.path.lexists(self.path / name)]
        return (*derived, *(f"{FIGURES_FOLDER}/{path.name}" for path in figures))

    def announce(self, files: Iterable[Path]) -> None:
        """Lists files of the folder which are about to be written. Call it with the folder locked.

        Raises:
            UserError: If one is there and not listed: it is the user's own.
        """
        listed = self.listed()
        new = [name for name in map(self._relative, files) if name not in listed]
        if own := [name for name in new if os.path.lexists(self.path / name)]:
            raise UserError(
                f"{self.path} holds files that are not the run's, and would be replaced "
                f"({_shown(own)}): move them, or choose another folder"
            )
        if new:
            save_json([*listed, *new], self.path / _LIST_FILE)

    def keep(self, files: Iterable[Path]) -> None:
        """Removes all listed files but these. Call it with the folder locked."""
        self._keep(files, self.listed())

    def _keep(self, files: Iterable[Path], listed: Collection[str]) -> None:
        names = dict.fromkeys(map(self._relative, files))
        kept = [name for name in names if (self.path / name).exists()]
        for path in (self.path / name for name in listed if name not in kept):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
        remove_empty(self.path / FIGURES_FOLDER)
        if sorted(kept) != sorted(listed) or not (self.path / _LIST_FILE).exists():
            save_json(sorted(kept), self.path / _LIST_FILE)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

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
        before, listed = recorded_seal(self.path), self.listed()
        (self.path / CONFIG_FILE).unlink(missing_ok=True)
        seal = save_results(results, self.path)
        if seal != before:
            self._keep(made, listed)
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


def figure_names(identity: Identity) -> tuple[str, ...]:
    """The names of the figures that a run with this identity has."""
    recorded = identity.settings.get("record", ())
    if not isinstance(recorded, list | tuple):
        recorded = ()
    return (*SWEEP_FIGURES, *(name for name in recorded if isinstance(name, str)))


def _is_chunk(path: Path) -> bool:
    return _CHUNK_NAME.fullmatch(path.name) is not None


def _is_checkpoint(path: Path) -> bool:
    """Whether a file in ``checkpoints/`` is a run's, of this version or an earlier one."""
    name = path.name
    is_partial = name.startswith(PARTIAL)
    known = name == _MANIFEST_FILE or _is_chunk(path) or _OLD_NAME.fullmatch(name) or is_partial
    return bool(known) and (path.is_symlink() or not path.is_dir())


def _may_be_listed(name: object) -> bool:
    """Whether a listed name is one of a file that the programs write."""
    if not is_printable(name) or name in _DERIVED:
        return name in _DERIVED
    folder, _, file = str(name).rpartition("/")
    path = PurePosixPath(file)
    is_plain = file not in ("", ".", "..") and path.name == file and len(file.encode()) < 200
    return folder in ("", FIGURES_FOLDER) and is_plain and path.suffix[1:] in FIGURE_FORMATS


def _has_locks(folder: Path) -> bool:
    """Whether the file system has locks that end with their owner."""
    try:
        import fcntl
    except ImportError:  # Windows, whose files can always be locked
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


def _remove_left_over(lock: Path) -> None:
    """Removes a lock file that was written where files can be locked: it says nothing of an owner.

    One that is the lock itself names its owner from the first moment on.
    """
    with contextlib.suppress(OSError):
        status = lock.stat()
        if status.st_size == 0 and time.time() - status.st_mtime > _LEFT_OVER:
            lock.unlink()


def _derived_in(folder: Path) -> list[str]:
    """What is there of the files that are made of a run's results."""
    files = [*folder.glob("*"), *(folder / FIGURES_FOLDER).glob("*")]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if _may_be_listed(name)]


def _move(source: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(exist_ok=True)
    (source / name).replace(target / name)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name) for name in names[:3]) + more
