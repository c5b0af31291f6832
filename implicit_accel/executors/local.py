"""Training on this process's devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from implicit_accel.engine.chunks import Chunk, ChunkState, Device, Group, first_step
from implicit_accel.engine.layout import sizes_on
from implicit_accel.engine.train import Trainer, step_operations, steps_in_segment
from implicit_accel.executors import Job, OnMessage, Update, describe_devices

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LocalExecutor:
    """Trains as many chunks together as fit the memory, on all devices.

    Args:
        devices: All local ones by default; none for work that is not trained.
        memory_limit: Bytes that states and records may take on all devices together; a single chunk
            is trained in any case. No limit by default.
    """

    def __init__(
        self, devices: Sequence[Device] | None = None, memory_limit: int | None = None
    ) -> None:
        self._devices = list(jax.local_devices() if devices is None else devices)
        self._memory_limit = memory_limit

    @property
    def platform(self) -> str:
        """See `Executor.platform`."""
        return self._devices[0].platform

    @property
    def description(self) -> dict[str, Any]:
        """See `Executor.description`."""
        return describe_devices(self._devices)

    def train(
        self,
        job: Job,
        chunks: Sequence[Chunk],
        reached: Mapping[Chunk, ChunkState],
        *,
        keep_leaves: bool = True,
    ) -> Iterator[Update]:
        """See `Executor.train`."""
        experiment, groups = job.experiment, job.plan(self.platform).groups
        calls = self._calls(groups, chunks, reached, job)
        trainer = Trainer(
            groups,
            job.counts,
            calls,
            num_steps=experiment.num_steps,
            recording=experiment.recording,
            precision=experiment.precision,
            devices=self._devices,
        )
        before = 0
        for call in calls:
            for segment in trainer.train(call, reached, keep_leaves=keep_leaves):
                yield Update(before + segment.done, segment.is_last, segment.states)
            runs = sum(chunk.size(groups[chunk.group].num_runs) for chunk in call)
            before += runs * experiment.num_steps

    def _calls(
        self,
        groups: Sequence[Group],
        chunks: Sequence[Chunk],
        reached: Mapping[Chunk, ChunkState],
        job: Job,
    ) -> list[list[Chunk]]:
        """Chunks that are trained together.

        They go on at the same step, fit the memory, and make a second's work for each device.
        """
        experiment = job.experiment
        length = steps_in_segment(groups, job.counts, experiment.num_steps)
        most_work = sizes_on(self.platform).segment * len(self._devices) / length
        by_step: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            step = first_step(reached.get(chunk), experiment.num_steps)
            by_step.setdefault(step, []).append(chunk)
        sizes = [self._run_bytes(group, job) for group in groups]
        calls: list[list[Chunk]] = []
        for same_step in by_step.values():
            held, work = math.inf, math.inf
            for chunk in same_step:
                size = chunk.members(groups[chunk.group]).size * sizes[chunk.group]
                operations = step_operations(groups, [chunk])
                is_over = self._memory_limit is not None and held + size > self._memory_limit
                if not calls or is_over or work + operations > most_work:
                    calls.append([])
                    held, work = 0, 0
                calls[-1].append(chunk)
                held, work = held + size, work + operations
        return calls

    def _run_bytes(self, group: Group, job: Job) -> int:
        """Bytes of a run in training: its state, twice more while it is stepped, and records."""
        experiment = job.experiment
        lengths = [len(steps) for steps in experiment.recording.all]
        state = group.state_bytes(experiment.precision)
        return 3 * state + 2 * group.record_bytes(lengths, experiment.precision)

    def map(
        self,
        function: Callable[[_Item, OnMessage], _Result],
        items: Sequence[_Item],
        on_message: Callable[[_Item, Any], None],
    ) -> Iterator[tuple[_Item, _Result]]:
        """See `Executor.map`; one after another."""
        for item in items:
            yield item, function(item, lambda message, item=item: on_message(item, message))
