"""A run's folder: what was asked for, the parts it is trained in, who is at work there.

A run is trained in *parts*, each a grid of its own in one compiled call. The first call makes one;
learning rates or seeds that are asked for later become further ones, so that only the new runs are
trained; raising the number of steps lets every part go on from its end. ``checkpoints/`` holds the
parts' snapshots and ``manifest.json``, which says what they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from implicit_accel.engine.training import Share
from implicit_accel.errors import UserError
from implicit_accel.fields import fields_of
from implicit_accel.files import remove_partial
from implicit_accel.linear.config import SweepConfig
from implicit_accel.results import (
    CONFIG_FILE,
    FIGURES_FOLDER,
    FORMAT,
    RESULTS_FILE,
    SUMMARY_FILE,
    save_json,
)
from implicit_accel.store.checkpoints import Checkpoints

CHECKPOINTS_FOLDER = "checkpoints"
_REPLACED_FOLDER = "replaced"
_MANIFEST_FILE = "manifest.json"
_LOCK_FILE = ".lock"

# Settings of which a run may be given more.
_EXTENDABLE = {name for name, field in fields_of(SweepConfig).items() if field.may_grow}

_MOST_SHARES = 100_000

# A run's own files. The checkpoints are the first to be set aside and the last to be put back: as
# long as they are not in their place, a broken move is begun again.
_OWN = (CHECKPOINTS_FOLDER, RESULTS_FILE, SUMMARY_FILE, CONFIG_FILE, FIGURES_FOLDER)


class ForeignFolderError(UserError):
    """The folder holds files, and they are not a run's."""


@dataclass(frozen=True)
class Part:
    """A grid that is trained in one compiled call.

    Attributes:
        learning_rates: η's.
        first_seed: The least seed.
        num_seeds: How many.
        planned_steps: T when the part was first planned: which architectures share a program
            depends on it, and must not change when the part goes on.
        num_shares: In how many shares it is trained, one process each.

    Raises:
        UserError: If a value is not allowed.
    """

    learning_rates: tuple[float, ...]
    first_seed: int
    num_seeds: int
    planned_steps: int
    num_shares: int

    def __post_init__(self) -> None:
        self.config(SweepConfig(num_steps=self.planned_steps))  # makes every check but one
        if not (isinstance(self.num_shares, int) and 1 <= self.num_shares <= _MOST_SHARES):
            raise UserError(f"number of shares {self.num_shares}: must be from 1 to {_MOST_SHARES}")

    def config(self, whole: SweepConfig) -> SweepConfig:
        """The part's own grid, of the whole run's."""
        return dataclasses.replace(
            whole,
            learning_rates=self.learning_rates,
            first_seed=self.first_seed,
            num_seeds=self.num_seeds,
        )


@dataclass(frozen=True)
class Identity:
    """What a run's results depend on.

    Attributes:
        settings: All settings by their names, as JSON has them.
        dataset_fingerprint: Of the dataset's contents.
    """

    settings: dict[str, Any]
    dataset_fingerprint: str

    @classmethod
    def of(cls, stored: Any) -> Identity:
        """Reads what `dataclasses.asdict` made.

        Raises:
            ValueError: If it is something else.
        """
        try:
            settings, fingerprint = stored["settings"], stored["dataset_fingerprint"]
        except (TypeError, KeyError):
            raise ValueError("no identity") from None
        if not isinstance(settings, dict) or not isinstance(fingerprint, str):
            raise ValueError("no identity")
        return cls(settings, fingerprint)

    def code(self) -> str:
        """A short digest."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def differences(self, wanted: Identity, *, may_extend: bool = True) -> list[str]:
        """What keeps a run with this identity from becoming the wanted one, in words.

        Args:
            wanted: The identity asked for.
            may_extend: Whether more steps, learning rates and seeds are no difference.
        """
        here = {"data": self.dataset_fingerprint[:12]} | self.settings
        there = {"data": wanted.dataset_fingerprint[:12]} | wanted.settings
        return [
            f"{name}: {_show(here.get(name))} there, {_show(there.get(name))} asked for"
            for name in dict.fromkeys([*there, *here])
            if here.get(name) != there.get(name)
            and not (may_extend and _extends(name, here.get(name), there.get(name)))
        ]


def _extends(name: str, old: Any, new: Any) -> bool:
    try:
        if name not in _EXTENDABLE:
            return False
        return set(old) <= set(new) if isinstance(new, list) else int(old) <= int(new)
    except (TypeError, ValueError, OverflowError):
        return False


def _show(value: object) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= 80 else f"{shown[:60]} … ({len(shown)} characters)"


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
    def begin(
        cls, identity: Identity, config: SweepConfig, num_shares: int, environment: str
    ) -> Manifest:
        """A new run's: one part."""
        part = Part(
            config.learning_rates, config.first_seed, config.num_seeds, config.num_steps, num_shares
        )
        return cls(identity, (part,), environment)

    def extended(self, wanted: Identity, config: SweepConfig, num_shares: int) -> Manifest:
        """The manifest with parts for the learning rates and seeds that are new."""
        old_rates = {rate for part in self.parts for rate in part.learning_rates}
        end = max(part.first_seed + part.num_seeds for part in self.parts)
        new_rates = tuple(r for r in config.learning_rates if r not in old_rates)
        kept_rates = tuple(r for r in config.learning_rates if r in old_rates)
        new_seeds = config.seeds.stop - end
        parts = list(self.parts)
        if new_rates:
            parts.append(
                Part(new_rates, config.first_seed, config.num_seeds, config.num_steps, num_shares)
            )
        if new_seeds > 0:
            parts.append(Part(kept_rates, end, new_seeds, config.num_steps, num_shares))
        return dataclasses.replace(self, identity=wanted, parts=tuple(parts))

    def units(self) -> list[tuple[int, Share]]:
        """The work there is: (number of the part, share of it)."""
        return [
            (k, Share(i, part.num_shares))
            for k, part in enumerate(self.parts)
            for i in range(part.num_shares)
        ]


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
            parts = tuple(
                Part(**(part | {"learning_rates": tuple(map(float, part["learning_rates"]))}))
                for part in stored["parts"]
            )
            identity = Identity.of(stored["identity"])
            return Manifest(identity, parts, str(stored["environment"])) if parts else None
        except (KeyError, TypeError, ValueError, OverflowError, UserError):
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
                f"--output_dir {self.path}: {error.strerror}; choose another folder"
            ) from None
        if _REPLACED_FOLDER in names:
            return  # an overwriting that was broken off: `settle` looks again
        stored = self.stored()
        visible = {name for name in names if not name.startswith(".")}
        if stored is None:
            if visible - {CHECKPOINTS_FOLDER} or self._has_foreign_checkpoints():
                raise ForeignFolderError(
                    f"--output_dir {self.path} holds files that are not a run's: choose an empty "
                    "folder"
                )
            return
        if overwrite:
            return
        changed = stored.differences(wanted)
        if changed:
            raise UserError(
                f"--output_dir {self.path} holds a run with other settings "
                f"({'; '.join(changed)}): choose another folder, or --overwrite to replace it"
            )
        if self.manifest() is None:
            raise UserError(
                f"--output_dir {self.path} holds a finished run whose {CHECKPOINTS_FOLDER}/ are "
                "gone, so that it cannot go on: choose another folder, or --overwrite to train it "
                "anew"
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
                f"--output_dir {self.path}: another process is at work there; wait until it ends, "
                "or choose another folder"
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

    def _put_back(self) -> None:
        replaced = self.path / _REPLACED_FOLDER
        for name in reversed(_OWN):
            if (replaced / name).exists():
                _remove(self.path / name)  # the beginning of a run that saved nothing
                (replaced / name).replace(self.path / name)
        replaced.rmdir()

    def forget_replaced(self) -> None:
        """Removes the run that was replaced."""
        replaced = self.path / _REPLACED_FOLDER
        if replaced.exists():
            for name in _OWN:
                _remove(replaced / name)
            replaced.rmdir()

    def save_manifest(self, manifest: Manifest) -> None:
        """Writes ``checkpoints/manifest.json``, atomically."""
        content = {"format": FORMAT} | dataclasses.asdict(manifest)
        save_json(content, self.checkpoints / _MANIFEST_FILE)

    def unit(self, manifest: Manifest, part: int, share: Share) -> Checkpoints:
        """The snapshots of one share of a part."""
        name = f"part{part}-{share.index}of{share.count}"
        about: dict[str, Any] = {"part": dataclasses.asdict(manifest.parts[part])}
        fixed = {k: v for k, v in manifest.identity.settings.items() if k not in _EXTENDABLE}
        about |= {"settings": fixed, "data": manifest.identity.dataset_fingerprint}
        return Checkpoints(self.checkpoints, name, json.dumps(about, sort_keys=True))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
