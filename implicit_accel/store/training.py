"""The training of an experiment in its folder: units, snapshots, going on, results."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence

import jax
import xarray as xr

from implicit_accel.engine.layout import WHOLE, Share
from implicit_accel.engine.train import Device, Segment, Snapshot, Timing, Training, merge
from implicit_accel.experiment import Experiment, Identity, OwnRates, Plan, assemble
from implicit_accel.store.checkpoints import Keeper
from implicit_accel.store.folder import CHECKPOINTS_FOLDER, Manifest, Part, RunFolder, Unit


def _never() -> bool:
    return False


def _silent(_: str) -> None:
    pass


class StoredTraining:
    """The training of an experiment in a folder, which is settled and kept locked meanwhile.

    Args:
        folder: The run's.
        experiment: What to train.
        devices: This process's.
        process: Which of the processes that share the work this is.
        memory_limit: Bytes for runs in training; None for no bound.
        checkpoint_every: Seconds between snapshots, see `Keeper`.
        wanted: Tells whether a snapshot is asked for now.
        log: Called with what is done.
        warn: Called with what differs from where the run was begun; ``log`` unless given.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Experiment,
        *,
        devices: Sequence[Device],
        process: Share = WHOLE,
        memory_limit: int | None = None,
        checkpoint_every: float = 60.0,
        wanted: Callable[[], bool] = _never,
        log: Callable[[str], object] = _silent,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        self._folder, self._experiment, self._process = folder, experiment, process
        self._devices, self._memory_limit = devices, memory_limit
        self._every, self._wanted, self._log = checkpoint_every, wanted, log
        self._warn = warn or log
        self._manifest = self._open_manifest()
        self._plans = [self._plan(part) for part in self._manifest.parts]
        self._units = self._manifest.units()

    def _plan(self, part: Part) -> Plan:
        plan = self._experiment.plan(
            part.axes, platform=self._devices[0].platform, planned_steps=part.planned_steps
        )
        return plan if part.runs is None else plan.only(part.runs)

    @property
    def identity(self) -> Identity:
        """Of the run."""
        return self._manifest.identity

    @property
    def rounds(self) -> tuple[OwnRates, ...]:
        """See `Manifest.rounds`."""
        return self._manifest.rounds()

    @property
    def units(self) -> list[Unit]:
        """This process's work."""
        return self._units[self._process.index :: self._process.count]

    def title(self, unit: Unit) -> str:
        """What a progress bar says of a unit."""
        if len(self._units) == self._process.count:
            return "training"
        return f"training part {unit.part + 1} of {len(self._plans)}"

    def train(self, unit: Unit) -> Iterator[Segment]:
        """Trains a unit from its last snapshot on, keeping snapshots.

        Yields:
            After every segment; a snapshot that was wanted has been saved by then.

        Raises:
            UserError: If another process is at the unit.
        """
        checkpoints = self._folder.checkpoints_of(self._manifest, unit)
        if checkpoints.is_finished(self._experiment.num_steps):
            return
        with self._folder.locked(f"{CHECKPOINTS_FOLDER}/{checkpoints.name}.lock"):
            training = self._resume(unit)
            keeper = Keeper(checkpoints, self._every, wanted=self._wanted)
            for segment in training.segments():
                keeper(segment)
                if keeper.num_saved and self._process.index == 0:
                    self._folder.forget_replaced()
                yield segment

    def _resume(self, unit: Unit) -> Training:
        snapshot = self._newest(unit)
        if snapshot is not None:
            reached = [
                0 if p is None else min(p.next_step, snapshot.num_steps) for p in snapshot.pieces
            ]
            done = sum(reached) / len(reached) / self._experiment.num_steps
            self._log(f"going on from a checkpoint at {done:.1%} of {self.title(unit)}")
            try:
                return self._training(unit, snapshot)
            except ValueError:  # a file that is whole, but not what training writes
                snapshot = None
        if snapshot is None and self._folder.checkpoints_of(self._manifest, unit).paths():
            self._log("no checkpoint can be read: beginning again")
        return self._training(unit, None)

    def _training(self, unit: Unit, resume: Snapshot | None) -> Training:
        return Training(
            self._plans[unit.part].groups,
            num_steps=self._experiment.num_steps,
            recording=self._experiment.recording,
            precision=self._experiment.precision,
            devices=self._devices,
            memory_limit=self._memory_limit,
            share=unit.share,
            keep_states=True,
            resume=resume,
        )

    def _newest(self, unit: Unit) -> Snapshot | None:
        groups = self._plans[unit.part].groups
        sizes = [len(unit.share.members(group.num_runs)) for group in groups]
        checkpoints = self._folder.checkpoints_of(self._manifest, unit)
        return checkpoints.newest(groups, sizes, self._experiment.precision)

    def unfinished_processes(self) -> list[int]:
        """Which other processes have work left."""
        processes = [k % self._process.count for k in range(len(self._units))]
        return sorted(
            {
                process
                for process, unit in zip(processes, self._units, strict=True)
                if process
                and not self._folder.checkpoints_of(self._manifest, unit).is_finished(
                    self._experiment.num_steps
                )
            }
        )

    def results(self) -> tuple[xr.Dataset, Timing]:
        """The whole grid's results, of all finished units, and what they cost together."""
        parts, timings = [], []
        for number, plan in enumerate(self._plans):
            newest = (self._newest(unit) for unit in self._units if unit.part == number)
            snapshots = [snapshot for snapshot in newest if snapshot is not None]
            parts.append((plan, merge([snapshot.results for snapshot in snapshots])))
            timings += [snapshot.timing for snapshot in snapshots]
        names = (f.name for f in dataclasses.fields(Timing))
        together = Timing(**{name: sum(getattr(t, name) for t in timings) for name in names})
        return self._experiment.label(assemble(self._experiment.axes, parts)), together

    def about(self, timing: Timing) -> dict[str, object]:
        """On what the run was trained, and how fast, for ``config.json``."""
        packages = ("implicit-accel", "jax", "jaxlib", "optax", "numpy", "scipy", "xarray")
        return {
            "versions": {"python": platform.python_version()}
            | {name.replace("-", "_"): importlib.metadata.version(name) for name in packages},
            "device": {
                "platform": self._devices[0].platform,
                "kind": self._devices[0].device_kind,
                "count": len(self._devices),
                "machine": platform.machine(),
            },
            "timing": {
                "compile_seconds": round(timing.compile_seconds, 3),
                "train_seconds": round(timing.train_seconds, 3),
                "run_steps": timing.run_steps,
                "pieces": timing.num_pieces,
                "segments": timing.num_segments,
            },
        }

    def _open_manifest(self) -> Manifest:
        """What was begun, with parts for what is new; process 0 writes it."""
        count, kind = len(self._devices), self._devices[0].device_kind
        environment = (
            f"JAX {jax.__version__}, {count} {kind} device{'s' if count > 1 else ''} a process, "
            f"{platform.machine()}"
        )
        identity = self._experiment.identity
        begun = self._folder.manifest()
        self._folder.checkpoints.mkdir(exist_ok=True)
        if begun is None:
            manifest = Manifest.begin(identity, self._process.count, environment)
        else:
            manifest = begun.extended(identity, self._process.count)
            if begun.environment != environment:
                self._warn(
                    f"this run was begun with {begun.environment}; it goes on with {environment}, "
                    "and its results are the same to rounding"
                )
        if manifest != begun and self._process.index == 0:
            self._folder.save_manifest(manifest)
        return manifest
