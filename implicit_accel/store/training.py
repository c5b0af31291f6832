"""The training of an experiment in its folder: missing chunks, saving, results."""

from __future__ import annotations

import importlib.metadata
import operator
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xarray as xr

from implicit_accel.engine.chunks import (
    Chunk,
    ChunkState,
    Timing,
    chunks_of,
    cut,
    first_step,
    gather,
)
from implicit_accel.errors import UserError
from implicit_accel.executors import Executor, Job, environment
from implicit_accel.experiment import Experiment, Identity, OwnRates, Plan, assemble
from implicit_accel.store.chunks import CheckpointSchedule, ChunkFile
from implicit_accel.store.folder import Manifest, RunFolder


def _never() -> bool:
    return False


def _silent(_: str) -> None:
    pass


def fits(plans: Sequence[Plan], counts: Sequence[Sequence[int]]) -> bool:
    """Whether the groups of rounds can have so many chunks each."""
    sizes = [[group.num_runs for group in plan.groups] for plan in plans]
    return not any(
        len(own) != len(n) or any(map(operator.lt, own, n))
        for own, n in zip(sizes, counts, strict=True)
    )


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        done: Run-steps done, those of earlier calls too.
        total: All of them.
        chunks_done: Finished chunks.
        num_chunks: All of them.
    """

    done: int
    total: int
    chunks_done: int
    num_chunks: int


class StoredTraining:
    """The training of an experiment in a folder, which is prepared and kept locked meanwhile.

    Args:
        folder: The run's.
        experiment: What to train.
        executor: What trains it.
        checkpoint_every: Seconds between checkpoints, see `CheckpointSchedule`.
        wanted: Returns whether a checkpoint is asked for now.
        log: Called with what is done.
        warn: Called with what differs from where the run was begun; ``log`` unless given.

    Raises:
        UserError: If the folder's chunks are not those of the experiment.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Experiment,
        executor: Executor,
        *,
        checkpoint_every: float = 60.0,
        wanted: Callable[[], bool] = _never,
        log: Callable[[str], object] = _silent,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        self._folder, self._experiment, self._executor = folder, experiment, executor
        self._every, self._wanted = checkpoint_every, wanted
        self._log, self._warn = log, warn or log
        self._manifest, self._plans = self._open()
        self._chunks = [chunks_of(counts) for counts in self._manifest.counts]
        self._num_finished = 0

    @property
    def identity(self) -> Identity:
        """Of the run."""
        return self._manifest.identity

    @property
    def rates_by_round(self) -> tuple[OwnRates, ...]:
        """See `Manifest.rates_by_round`."""
        return self._manifest.rates_by_round()

    @property
    def num_chunks(self) -> int:
        """Chunks of the run."""
        return sum(map(len, self._chunks))

    def train(self) -> Iterator[Progress]:
        """Trains the missing chunks, and saves their states.

        Yields:
            Now and then; a checkpoint that was wanted has been saved by then.
        """
        steps = self._experiment.num_steps
        sizes = [sum(group.num_runs for group in plan.groups) * steps for plan in self._plans]
        done = 0
        for number, size in enumerate(sizes):
            for progress in self._train_round(number, size):
                yield progress._replace(done=done + progress.done, total=sum(sizes))
            done += size

    def _train_round(self, number: int, size: int) -> Iterator[Progress]:
        """Trains the missing chunks of a round, which has so many run-steps."""
        groups, num_steps = self._plans[number].groups, self._experiment.num_steps
        missing: list[Chunk] = []
        reached: dict[Chunk, ChunkState] = {}
        for chunk in self._chunks[number]:
            state = self._stored(number, chunk)
            if first_step(state, num_steps) <= num_steps:
                missing.append(chunk)
                if state is not None:
                    reached[chunk] = state
        left = sum(c.size(groups[c.group].num_runs) for c in missing) * num_steps
        self._num_finished += len(self._chunks[number]) - len(missing)
        if not missing:
            return
        self._report_start(number, missing, reached)
        job = Job(self._experiment, self._manifest.rounds[number], self._manifest.counts[number])
        schedule = CheckpointSchedule(self._every)
        for update in self._executor.train(job, missing, reached):
            if update.is_due or schedule.is_due or self._wanted():
                began = time.monotonic()
                for chunk, state in update.states().items():
                    self._file(number, chunk).save(state)
                    self._num_finished += state.is_finished
                    self._folder.forget_replaced()
                schedule.note_saving(began)
            yield Progress(size - left + update.done, size, self._num_finished, self.num_chunks)

    def _report_start(
        self, number: int, missing: list[Chunk], reached: dict[Chunk, ChunkState]
    ) -> None:
        """Logs where the training of a round goes on, if it has been begun."""
        num_steps, all_chunks = self._experiment.num_steps, self._chunks[number]
        steps = sum(first_step(reached.get(chunk), num_steps) for chunk in missing)
        steps += (len(all_chunks) - len(missing)) * num_steps
        if steps:
            share = steps / len(all_chunks) / num_steps
            self._log(f"going on from a checkpoint at {share:.1%}")
        elif any(self._file(number, chunk).paths() for chunk in missing):
            self._log("no checkpoint can be read: beginning again")

    def _file(self, number: int, chunk: Chunk) -> ChunkFile:
        return self._folder.chunk_file(self._manifest, number, chunk)

    def _stored(self, number: int, chunk: Chunk) -> ChunkState | None:
        group = self._plans[number].groups[chunk.group]
        return self._file(number, chunk).newest(chunk, group, self._experiment.precision)

    def results(self) -> tuple[xr.Dataset, Timing]:
        """The whole grid's results, of all finished chunks, and what they cost together.

        Raises:
            UserError: If a chunk has been lost since it was finished.
        """
        rounds, timings = [], []
        for number, plan in enumerate(self._plans):
            states = {chunk: self._stored(number, chunk) for chunk in self._chunks[number]}
            whole = {
                chunk: state
                for chunk, state in states.items()
                if state is not None and state.is_finished
            }
            if len(whole) < len(states):
                raise UserError(
                    f"{self._folder.path}: a finished chunk can no longer be read; the same call "
                    "trains it again"
                )
            rounds.append((plan, gather(plan.groups, whole)))
            timings += [state.timing for state in whole.values()]
        arrays = assemble(self._experiment.axes, rounds)
        return self._experiment.label(arrays), Timing.total(timings)

    def about(self, timing: Timing) -> dict[str, object]:
        """On what the run was trained, and how fast, for ``config.json``."""
        packages = ("implicit-accel", "jax", "jaxlib", "optax", "numpy", "scipy", "xarray")
        return {
            "versions": {"python": platform.python_version()}
            | {name.replace("-", "_"): importlib.metadata.version(name) for name in packages},
            "device": self._executor.description,
            "timing": {
                "compile_seconds": round(timing.compile_seconds, 3),
                "train_seconds": round(timing.train_seconds, 3),
                "run_steps": timing.run_steps,
                "chunks": timing.num_chunks,
            },
        }

    def _open(self) -> tuple[Manifest, list[Plan]]:
        """What was begun, with a round for what is new, and how its rounds are laid out."""
        experiment, kind = self._experiment, self._executor.platform
        here = environment(self._executor.description)
        begun = self._folder.manifest()
        self._folder.checkpoints.mkdir(exist_ok=True)
        if begun is not None and begun.environment != here:
            self._warn(
                f"this run was begun with {begun.environment}; it goes on with {here}, "
                "and its results are the same to rounding"
            )
        counts = [] if begun is None else list(begun.counts)
        rounds = experiment.rounds_after(() if begun is None else begun.rounds)
        plans = [experiment.plan_round(each, kind) for each in rounds]
        for plan in plans[len(counts) :]:
            recording, steps = experiment.recording, experiment.num_steps
            counts.append(tuple(cut(plan.groups, steps, recording, experiment.precision)))
        if not fits(plans, counts):
            raise UserError(
                f"{self._folder.path}: its manifest.json does not fit this run; replace the run "
                "(overwrite=True, --overwrite in the shell)"
            )
        manifest = Manifest(
            experiment.identity, rounds, tuple(counts), here if begun is None else begun.environment
        )
        if manifest != begun:
            self._folder.save_manifest(manifest)
        return manifest, plans
