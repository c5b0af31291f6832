"""A run's folder: what was asked for, the parts it is trained in, who is at work there.

A run is trained in *parts*, each a grid of its own in one compiled call. The first call makes one;
values that are asked for later along any axis become further ones, so that only the new runs are
trained; raising the number of steps lets every part go on from its end. ``checkpoints/`` holds the
parts' snapshots and ``manifest.json``, which says what they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import xarray as xr

from implicit_accel.engine.layout import Share
from implicit_accel.errors import UserError
from implicit_accel.experiment import (
    RATES,
    SEEDS,
    Axes,
    Identity,
    OwnRates,
    are_values,
    chosen_runs,
    is_count,
)
from implicit_accel.figure_files import SWEEP_FIGURES, figure_files, remove_figures
from implicit_accel.files import remove_partial, seal_of
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
    save_json,
    save_results,
)
from implicit_accel.store.checkpoints import Checkpoints

CHECKPOINTS_FOLDER = "checkpoints"
_REPLACED_FOLDER = "replaced"
_MANIFEST_FILE = "manifest.json"
_LOCK_FILE = ".lock"

_MOST_SHARES = 100_000

# What is made of a run's results, beside its figures.
_DERIVED = (SUMMARY_FILE, PREDICTION_FILE, PAGE_FILE)

# A run's own files, beside its figures. The checkpoints are the first to be set aside and the last
# to be put back: as long as they are not in their place, a broken move is begun again.
_OWN = (CHECKPOINTS_FOLDER, RESULTS_FILE, CONFIG_FILE, *_DERIVED)


class ForeignFolderError(UserError):
    """The folder holds files, and they are not a run's."""


@dataclass(frozen=True)
class Part:
    """A grid that is trained in one compiled call.

    Attributes:
        axes: Its own, some of the values of each of the run's.
        planned_steps: T when the part was first planned: which runs share a program may depend on
            it, and must not change when the part goes on.
        num_shares: In how many shares it is trained, one process each.
        runs: Numbers of those of the grid's runs that are trained, increasing, counted in the order
            of the axes, the last one fastest; None for all.

    Raises:
        ValueError: If a value is not allowed.
    """

    axes: Axes
    planned_steps: int
    num_shares: int
    runs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not all(map(are_values, self.axes.values())):
            raise ValueError("axes of a part must be values, each once")
        if not (is_count(self.planned_steps) and is_count(self.num_shares)):
            raise ValueError("steps and shares of a part must be whole numbers from 1 up")
        if self.num_shares > _MOST_SHARES:
            raise ValueError(f"a part has at most {_MOST_SHARES} shares")
        if self.runs is not None and not _are_places(self.runs, self.size):
            raise ValueError("runs of a part must be numbers of runs of its grid, increasing")

    @property
    def size(self) -> int:
        """Runs of its grid."""
        return math.prod(len(values) for values in self.axes.values())

    def as_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        content = dataclasses.asdict(self)
        if self.runs is None:  # as parts of whole grids have always been written
            del content["runs"]
        return content

    def covers(self, axes: Axes) -> np.ndarray:
        """Which runs of a grid, booleans over its axes, are among this part's."""
        chosen = np.zeros(self.size, bool)
        chosen[slice(None) if self.runs is None else np.array(self.runs, int)] = True
        chosen = chosen.reshape([len(values) for values in self.axes.values()])
        for k, (name, values) in enumerate(axes.items()):
            own = self.axes[name]
            # A place behind the last stands for values that the part does not have.
            places = [own.index(v) if v in own else len(own) for v in values]
            padded = np.insert(chosen, len(own), False, axis=k)
            chosen = padded.take(places, axis=k)
        return chosen

    @classmethod
    def of(cls, stored: Any, axes: Axes) -> Part:
        """Reads a part of a run with these axes.

        Raises:
            ValueError: If it is not one.
        """
        own = {name: tuple(values) for name, values in dict(stored["axes"]).items()}
        if list(own) != list(axes) or any(not set(own[n]) <= set(axes[n]) for n in axes):
            raise ValueError("not a part of this grid")
        runs = stored.get("runs")
        return cls(
            own,
            stored["planned_steps"],
            stored["num_shares"],
            runs if runs is None else tuple(runs),
        )


def _are_places(runs: tuple[Any, ...], size: int) -> bool:
    whole = all(isinstance(run, int) and not isinstance(run, bool) for run in runs)
    return (
        whole
        and len(runs) > 0
        and runs[0] >= 0
        and runs[-1] < size
        and all(a < b for a, b in itertools.pairwise(runs))
    )


@dataclass(frozen=True)
class Unit:
    """What one process trains at a time: a share of a part.

    Attributes:
        part: Number of the part.
        share: Which of its shares.
    """

    part: int
    share: Share


@dataclass(frozen=True)
class Manifest:
    """What a run's checkpoints are.

    Attributes:
        identity: Of the run.
        parts: In the order in which they were asked for.
        environment: On what the run was begun, for people.
    """

    identity: Identity
    parts: tuple[Part, ...]
    environment: str

    @classmethod
    def begin(cls, identity: Identity, num_shares: int, environment: str) -> Manifest:
        """A new run's: one part."""
        empty = cls(identity, (), environment)
        if identity.rates is not None:
            return empty.extended(identity, num_shares)
        part = Part(identity.axes, identity.num_steps, num_shares)
        return dataclasses.replace(empty, parts=(part,))

    def extended(self, wanted: Identity, num_shares: int) -> Manifest:
        """The manifest with parts for what is new along the axes.

        What there is and what is wanted are boxes; their difference is cut axis by axis: new
        values of one, with the old values of those before it and all of those after it. Where
        models have rates of their own neither is a box: what is new is one part, of some runs of
        the smallest box around them.
        """
        parts = list(self.parts)
        if wanted.rates is not None:
            new = chosen_runs(wanted.axes, wanted.rates)
            for part in parts:
                new = new & ~part.covers(wanted.axes)
            if new.any():
                parts.append(_smallest_part(wanted, new, num_shares))
            return dataclasses.replace(self, identity=wanted, parts=tuple(parts))
        box: Axes = {}
        rest = dict(wanted.axes)
        for name, values in wanted.axes.items():
            old = {value for part in self.parts for value in part.axes[name]}
            del rest[name]
            new = tuple(value for value in values if value not in old)
            if new:
                axes = box | {name: new} | rest
                parts.append(Part(axes, wanted.num_steps, num_shares))
            box[name] = tuple(value for value in values if value in old)
        return dataclasses.replace(self, identity=wanted, parts=tuple(parts))

    def rounds(self) -> tuple[OwnRates, ...]:
        """The learning rates that each part has added to each model's, of parts that add some."""
        axes = self.identity.axes
        seeds = tuple(k for k, name in enumerate(axes) if name == SEEDS)
        rates = [name for name in axes if name != SEEDS].index(RATES)
        seen = np.zeros((), bool)
        found = []
        for part in self.parts:
            tried = np.moveaxis(np.any(part.covers(axes), axis=seeds), rates, -1)
            tried = tried.reshape(-1, len(axes[RATES]))
            new, seen = tried & ~seen, tried | seen
            added = tuple(
                tuple(rate for rate, is_new in zip(axes[RATES], row, strict=True) if is_new)
                for row in new
            )
            if any(added):
                found.append(added)
        return tuple(found)

    def units(self) -> list[Unit]:
        """The work there is."""
        return [
            Unit(k, Share(i, part.num_shares))
            for k, part in enumerate(self.parts)
            for i in range(part.num_shares)
        ]


def _smallest_part(identity: Identity, new: np.ndarray, num_shares: int) -> Part:
    """The part of these runs of a grid, booleans over its axes, in the smallest box."""
    axes, box = {}, new
    for k, (name, values) in enumerate(identity.axes.items()):
        kept = np.flatnonzero(new.any(axis=tuple(j for j in range(new.ndim) if j != k)))
        axes[name] = tuple(values[i] for i in kept)
        box = box.take(kept, axis=k)
    runs = tuple(np.flatnonzero(box).tolist())
    return Part(axes, identity.num_steps, num_shares, runs)


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
            if stored["format"] != FORMAT:
                return None
            identity = Identity.of(stored["identity"])
            parts = tuple(Part.of(part, identity.axes) for part in stored["parts"])
            return Manifest(identity, parts, str(stored["environment"])) if parts else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def stored(self) -> Identity | None:
        """The identity of the run in the folder, finished or begun; None if there is none."""
        manifest = self.manifest()
        return manifest.identity if manifest else self.finished()

    @staticmethod
    def _read_json(path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
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
            raise UserError(
                f"{self.path} holds a finished run whose {CHECKPOINTS_FOLDER}/ are gone, so that "
                "it cannot go on: choose another folder, or replace the run (overwrite=True, "
                "--overwrite in the shell)"
            )

    def _has_foreign_checkpoints(self) -> bool:
        return self.checkpoints.exists() and (
            not self.checkpoints.is_dir()
            or any(
                p.suffix not in (".npz", ".lock", ".alive", ".json") and p.name[0] != "."
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
        if overwrite and not goes_on:
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
        seal = seal_of(save_results(results, self.path))
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
            "parts": [part.as_json() for part in manifest.parts],
            "environment": manifest.environment,
        }
        save_json(content, self.checkpoints / _MANIFEST_FILE)

    def checkpoints_of(self, manifest: Manifest, unit: Unit) -> Checkpoints:
        """The snapshots of a unit."""
        name = f"part{unit.part}-{unit.share.index}of{unit.share.count}"
        about = {
            "part": manifest.parts[unit.part].as_json(),
            # What a run may be given more of, a part never is.
            "settings": {
                name: value
                for name, value in manifest.identity.settings.items()
                if not isinstance(value, dict)
            },
            "data": manifest.identity.fingerprint,
        }
        return Checkpoints(self.checkpoints, name, json.dumps(about, sort_keys=True))


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
