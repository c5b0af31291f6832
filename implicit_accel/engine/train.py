"""Training of chunks, in one compiled program.

A `Trainer` compiles all groups of a grid into one program, which trains chunks together: on each
device some of their blocks, for some steps. Between segments a chunk's runs that have not diverged
are moved to its first blocks if that frees one; a block without any is skipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from threadpoolctl import threadpool_limits

from implicit_accel.engine.chunks import (
    Chunk,
    ChunkState,
    Device,
    Group,
    GroupResult,
    Recording,
    Timing,
    cast,
    chunks_of,
    first_step,
    precision_context,
    undefined,
)
from implicit_accel.engine.compiled import compile_once
from implicit_accel.engine.layout import (
    Pace,
    deal,
    dispatch_capacity,
    pack,
    record_indices,
    segment_length,
    steps_in_dispatch,
)
from implicit_accel.engine.step import Best, Hyper, Params, RunState, Schedule, run_programs
from implicit_accel.errors import UserError

_AXIS = "block"

# Seconds after which progress is reported within a segment.
_REPORT_AFTER = 1.0


@dataclass(frozen=True)
class Segment:
    """What a `Trainer` yields after a segment, or within one that takes long.

    Attributes:
        done: Run-steps done by the chunks that are trained together.
        is_last: Whether they are finished.
        states: Returns the chunks' states; good until the next is yielded.
    """

    done: int
    is_last: bool
    states: Callable[[], dict[Chunk, ChunkState]]


def step_operations(groups: Sequence[Group], chunks: Sequence[Chunk]) -> float:
    """Floating-point operations of a step of some chunks."""
    return sum(c.size(groups[c.group].num_runs) * groups[c.group].operations for c in chunks)


class Trainer:
    """The compiled program of some groups, and the training of their chunks by it.

    The program has one shape for all calls, so that it is compiled once. Neither this shape nor the
    number of devices, from two up, nor which chunks share a call, changes the bits of a result. For
    one device XLA compiles along another path, which may round otherwise.

    Args:
        groups: Whose runs are trained.
        counts: The number of chunks of each.
        calls: The chunks of each call to come, or of calls that are as large.
        num_steps: T, updates per run.
        recording: At which steps what is kept.
        precision: ``float32`` or ``float64``.
        devices: Devices to spread the blocks over; all local ones by default.

    Raises:
        ValueError: If there are no groups.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        counts: Sequence[int],
        calls: Sequence[Sequence[Chunk]],
        *,
        num_steps: int,
        recording: Recording,
        precision: str = "float32",
        devices: Sequence[Device] | None = None,
    ) -> None:
        if not groups:
            raise ValueError("no groups to train")
        self._groups, self._precision = groups, precision
        self._num_steps, self._recording = num_steps, recording
        self._devices = list(jax.local_devices() if devices is None else devices)
        self._length = steps_in_segment(groups, counts, num_steps)
        self._capacity = dispatch_capacity([g.batches for g in groups if g.batches is not None])
        self._pace = Pace()
        self._block_sizes = [
            Chunk(g, 0, count).members(group).shape[1]
            for g, (group, count) in enumerate(zip(groups, counts, strict=True))
        ]
        # Blocks of each group on a device.
        self._num_blocks = [
            max(1, *(math.ceil(n / len(self._devices)) for n in self._total_blocks(g, calls)))
            for g in range(len(groups))
        ]
        self._program: _Program | None = None

    def _total_blocks(self, group: int, calls: Sequence[Sequence[Chunk]]) -> list[int]:
        """Blocks of a group in each call."""
        return [
            sum(len(c.members(self._groups[group])) for c in call if c.group == group)
            for call in calls
        ]

    def train(
        self,
        chunks: Sequence[Chunk],
        reached: Mapping[Chunk, ChunkState],
        *,
        keep_leaves: bool = True,
    ) -> Iterator[Segment]:
        """Trains chunks together; training stops when the consumer stops iterating.

        Args:
            chunks: Chunks which go on at the same step, see `first_step`.
            reached: The states of those that have been begun.
            keep_leaves: Whether the states of finished chunks have leaves.

        Yields:
            After every segment; the last one's states are finished.

        Raises:
            ValueError: If the chunks do not go on at the same step, do not fit the program, or have
                recorded something else.
        """
        begins = {first_step(reached.get(chunk), self._num_steps) for chunk in chunks}
        if len(begins) != 1:
            raise ValueError(f"chunks that go on at different steps: {sorted(begins)}")
        (begin,) = begins
        needed = (sum(self._total_blocks(g, [chunks])) for g in range(len(self._groups)))
        if any(
            n > own * len(self._devices) for n, own in zip(needed, self._num_blocks, strict=True)
        ):
            raise ValueError("the call is larger than those that the program was made for")
        dtype = np.dtype(self._precision)
        running = [
            _RunningChunk(c, self._groups[c.group], self._recording, dtype, reached.get(c))
            for c in chunks
        ]
        began = time.perf_counter()
        with precision_context(self._precision):
            if self._program is None:
                self._program = _Program(
                    self._groups,
                    self._devices,
                    self._block_sizes,
                    self._num_blocks,
                    dtype,
                )
            program = self._program
            compiled = program.compile_seconds
            program.load(running)
        run_steps = sum(chunk.num_runs for chunk in running) * self._num_steps
        work = step_operations(self._groups, chunks)
        first, reported = begin, 0.0
        while first <= self._num_steps:
            # Where segments end does not depend on where this call began.
            last = min((first // self._length + 1) * self._length, self._num_steps + 1)
            with precision_context(self._precision):
                end = first + self._dispatch(program, first, last)
                if end == last:
                    program.pack()
            first = end
            compiling = program.compile_seconds - compiled
            training = time.perf_counter() - began - compiling
            if end < last and training - reported < _REPORT_AFTER:
                continue
            reported = training
            is_last = end > self._num_steps

            def states(
                end: int = end, seconds: tuple[float, float] = (compiling, training)
            ) -> dict[Chunk, ChunkState]:
                found = {}
                for chunk in running:
                    share = step_operations(self._groups, [chunk.chunk]) / work
                    found[chunk.chunk] = chunk.state(
                        program.leaves(chunk) if keep_leaves or end <= self._num_steps else (),
                        end,
                        self._num_steps,
                        [share * each for each in seconds],
                    )
                return found

            share = 1 if is_last else end / (self._num_steps + 1)
            yield Segment(round(run_steps * share), is_last, states)

    def _dispatch(self, program: _Program, first: int, last: int) -> int:
        """Dispatches the program once, from a step on but not beyond another; returns its steps."""
        most = min(last - first, self._capacity, self._pace.steps)
        count = steps_in_dispatch(first, most, self._recording.all)
        inside = [(steps >= first) & (steps < first + count) for steps in self._recording.all]
        schedule = self._schedule(first, count, inside)
        began, compiled = time.perf_counter(), program.compile_seconds
        program.store(program.run(schedule), inside)
        seconds = time.perf_counter() - began - (program.compile_seconds - compiled)
        # Short dispatches, at the ends of segments, say little about long ones.
        if count == most == self._pace.steps:
            self._pace.note(count, seconds)
        return count

    def _schedule(self, first: int, count: int, inside: Sequence[np.ndarray]) -> Schedule:
        steps = np.arange(first, first + self._capacity, dtype=np.int32)
        return Schedule(
            first=np.int32(first),
            count=np.int32(count),
            num_steps=np.int32(self._num_steps),
            record_indices=tuple(
                record_indices(steps, recorded[now])
                for recorded, now in zip(self._recording.all, inside, strict=True)
            ),
            batches=tuple(
                None
                if g.batches is None
                else np.pad(
                    g.batches.rows(first, count), ((0, 0), (0, self._capacity - count), (0, 0))
                )
                for g in self._groups
            ),
            is_candidate=None
            if self._recording.candidates is None
            else np.isin(steps, self._recording.candidates),
        )


def steps_in_segment(groups: Sequence[Group], counts: Sequence[int], num_steps: int) -> int:
    """Steps of a segment, of T, for groups with so many chunks.

    They depend on the grid alone: between segments runs change blocks.
    """
    first = [Chunk(g, 0, count) for g, count in enumerate(counts)]
    return segment_length(
        num_steps,
        operations_per_step=max(step_operations(groups, [chunk]) for chunk in first),
        platform=groups[0].platform,
    )


class _RunningChunk:
    """A chunk in training, on the host: where its runs are, and what is recorded of them.

    Attributes:
        chunk: Which.
        group: Its group.
        num_runs: Runs.
        members: (blocks, block size) places of the runs among the chunk's, −1 where there is none.
        begun: Its stored state; None if it begins.
    """

    def __init__(
        self,
        chunk: Chunk,
        group: Group,
        recording: Recording,
        dtype: np.dtype,
        begun: ChunkState | None,
    ) -> None:
        self.chunk, self.group = chunk, group
        self.num_runs = chunk.size(group.num_runs)
        self.members = chunk.members(group)
        self._recording = recording
        self._result = _empty_result(group, self.num_runs, recording, dtype)
        self.begun = begun
        if begun is not None:
            self.begun = begun.laid_out(self.members)
            self.members = self.begun.members
            _restore(group.names(), self._result, recording, begun)

    def inputs(self, dtype: np.dtype) -> tuple[RunState, Hyper]:
        """States and hyper-parameters, (blocks, block size, …) numpy arrays."""
        state, hyper = _inputs(self.group, self.chunk, self.members, dtype)
        if self.begun is not None:
            state = jax.tree.unflatten(jax.tree.structure(state), self.begun.leaves)
        return state, hyper

    def write(self, name: str, inside: np.ndarray, values: np.ndarray) -> None:
        """Writes a dispatch's records, (blocks, R, block size), into the rows of their runs."""
        columns = np.flatnonzero(inside)
        if len(columns) == 0:
            return
        rows = values[:, : len(columns)].transpose(0, 2, 1)
        real = self.members >= 0
        target = self._result.records[name]
        target[self.members[real], columns[0] : columns[-1] + 1] = rows[real]

    def note(self, steps_to_target: np.ndarray, divergence_step: np.ndarray) -> None:
        """Notes what the states say, (blocks, block size)."""
        real = self.members >= 0
        self._result.steps_to_target[self.members[real]] = steps_to_target[real]
        self._result.divergence_step[self.members[real]] = divergence_step[real]

    def state(
        self, leaves: Sequence[np.ndarray], next_step: int, num_steps: int, seconds: Sequence[float]
    ) -> ChunkState:
        """Its state, ``seconds`` of compilation and training after it went on."""
        before = Timing() if self.begun is None else self.begun.timing
        return ChunkState(
            num_steps=num_steps,
            next_step=next_step,
            steps=self._recording.all,
            members=self.members,
            leaves=tuple(leaves),
            result=self._result,
            timing=Timing(
                before.compile_seconds + seconds[0],
                before.train_seconds + seconds[1],
                1,
                self.num_runs * num_steps,
            ),
        )


class _Program:
    """The compiled program of a grid, and the runs that are on the devices."""

    def __init__(
        self,
        groups: Sequence[Group],
        devices: Sequence[Device],
        block_sizes: Sequence[int],
        num_blocks: Sequence[int],
        dtype: np.dtype,
    ) -> None:
        mesh = jax.make_mesh(
            (len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices
        )
        self._groups, self._devices, self._dtype = groups, tuple(devices), dtype
        self._block_sizes, self._num_blocks = block_sizes, num_blocks
        self.compile_seconds = 0.0
        self._spread = NamedSharding(mesh, PartitionSpec(_AXIS))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        programs = tuple(g.program for g in groups)
        watches = tuple(g.observables for g in groups)
        self._data = jax.device_put(tuple(cast(g.data, dtype) for g in groups), self._everywhere)
        self._jitted = jax.jit(
            jax.shard_map(
                lambda *arguments: run_programs(programs, watches, *arguments),
                mesh=mesh,
                in_specs=(*[PartitionSpec(_AXIS)] * 2, *[PartitionSpec()] * 2),
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            ),
            donate_argnums=0,
        )
        self._compiled: Callable[..., Any] | None = None
        self._chunks: list[_RunningChunk] = []
        # For each chunk the places of its blocks among those of all devices.
        self._places: list[np.ndarray] = []
        self._states: tuple[RunState, ...] = ()
        self._hypers: tuple[Hyper, ...] = ()

    def load(self, chunks: Sequence[_RunningChunk]) -> None:
        """Puts chunks on the devices, in place of those that were there."""
        self._chunks = list(chunks)
        self._places = [np.zeros(0, int)] * len(chunks)
        states, hypers = [], []
        # Initial weights may be drawn through a QR decomposition: with one thread it has the same
        # bits on machines with other numbers of cores.
        with threadpool_limits(1, user_api="blas"):
            for g in range(len(self._groups)):
                own = [k for k, chunk in enumerate(chunks) if chunk.chunk.group == g]
                counts = [len(chunks[k].members) for k in own]
                places = deal(counts, len(self._devices), self._num_blocks[g])
                for k, where in zip(own, places, strict=True):
                    self._places[k] = where
                state, hyper = self._gathered(g, own)
                states.append(state)
                hypers.append(hyper)
        self._put(tuple(states), tuple(hypers))

    def _gathered(self, g: int, own: Sequence[int]) -> Any:
        """States and hyper-parameters of a group's chunks, by number, at their places."""
        # Padding blocks hold copies of a run that count as diverged before they start.
        group, empty = self._groups[g], np.full((1, self._block_sizes[g]), -1)
        total = self._num_blocks[g] * len(self._devices)
        padding = _inputs(group, Chunk(0, 0, group.num_runs), empty, self._dtype)
        whole = jax.tree.map(lambda a: np.repeat(a, total, axis=0), padding)
        for k in own:
            inputs = self._chunks[k].inputs(self._dtype)
            for target, values in zip(jax.tree.leaves(whole), jax.tree.leaves(inputs), strict=True):
                target[self._places[k]] = values
        return whole

    def _put(self, states: Any, hypers: Any) -> None:
        self._states = jax.device_put(states, self._spread)
        self._hypers = jax.device_put(hypers, self._spread)

    def run(self, schedule: Schedule) -> Any:
        """Takes some steps; returns what is recorded."""
        arguments = (
            self._states, self._hypers, self._data, jax.device_put(schedule, self._everywhere)
        )  # fmt: skip
        if self._compiled is None:
            self._compiled, self.compile_seconds = compile_once(
                self._jitted, arguments, self._devices
            )
        self._states, records = self._compiled(*arguments)
        return records

    def store(self, records: Any, inside: Sequence[np.ndarray]) -> None:
        """Hands each chunk what has been recorded of its runs."""
        for g, (state, recorded) in enumerate(zip(self._states, records, strict=True)):
            own = [k for k, chunk in enumerate(self._chunks) if chunk.chunk.group == g]
            for where, by_name in zip(inside, recorded, strict=True):
                for name, values in by_name.items():
                    on_host = np.asarray(values)
                    for k in own:
                        self._chunks[k].write(name, where, on_host[self._places[k]])
            ends = (np.asarray(state.steps_to_target), np.asarray(state.divergence_step))
            for k in own:
                self._chunks[k].note(*(a[self._places[k]] for a in ends))

    def pack(self) -> None:
        """Moves the live runs of chunks to their first blocks, of chunks where that frees one."""
        alive = [np.asarray(state.divergence_step) < 0 for state in self._states]
        orders = {}
        for k, chunk in enumerate(self._chunks):
            order = pack(alive[chunk.chunk.group][self._places[k]])
            if order is not None:
                orders[k] = order
        if not orders:
            return
        states, hypers = jax.tree.map(np.array, (self._states, self._hypers))
        for k, order in orders.items():
            chunk, places = self._chunks[k], self._places[k]
            chunk.members = _reordered(chunk.members, order)
            for leaf in jax.tree.leaves((states[chunk.chunk.group], hypers[chunk.chunk.group])):
                leaf[places] = _reordered(leaf[places], order)
        self._put(states, hypers)

    def leaves(self, chunk: _RunningChunk) -> list[np.ndarray]:
        """The leaves of a chunk's states, (blocks, block size, …) on the host."""
        places = self._places[self._chunks.index(chunk)]
        return [
            np.asarray(leaf)[places] for leaf in jax.tree.leaves(self._states[chunk.chunk.group])
        ]


def _reordered(blocks: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Runs of (blocks, block size, …) in another order, (blocks × block size,)."""
    return blocks.reshape(-1, *blocks.shape[2:])[order].reshape(blocks.shape)


def _inputs(
    group: Group, chunk: Chunk, members: np.ndarray, dtype: np.dtype
) -> tuple[RunState, Hyper]:
    """Initial states and hyper-parameters of a chunk, (blocks, block size, …) numpy arrays."""
    blocks, B = members.shape
    # Padding is a copy of the first run that counts as diverged before it starts.
    numbers = chunk.runs(group.num_runs)[np.maximum(members.reshape(-1), 0)]
    initial, hyper = group.runs(numbers)

    def arrange(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.reshape(blocks, B, *a.shape[1:]))

    def zeros(leaf: Any) -> np.ndarray:
        return np.zeros((blocks, B, *leaf.shape), leaf.dtype)

    shapes = group.state(dtype)
    like = shapes.params, shapes.model_state
    found = [np.shape(a)[1:] for a in jax.tree.leaves(initial)]
    if initial is not None and found != [leaf.shape for leaf in jax.tree.leaves(like)]:
        raise UserError(
            "init: the parameters' shapes differ between runs; mark the axis that decides them as "
            "ia.static(…)"
        )
    params, model_state = (
        jax.tree.map(zeros, like)
        if initial is None
        else group.program.split(jax.tree.map(arrange, cast(initial, dtype)))
    )
    state = RunState(
        params=params,
        opt_state=jax.tree.map(zeros, shapes.opt_state),
        model_state=model_state,
        best=None
        if shapes.best is None
        else Best(
            np.full((blocks, B), np.inf, dtype),
            jax.tree.map(lambda leaf: undefined(zeros(leaf).shape, leaf.dtype), shapes.best.kept),
        ),
        limit=np.zeros((blocks, B), dtype),
        steps_to_target=np.full((blocks, B), -1, np.int32),
        divergence_step=np.where(members < 0, 0, -1).astype(np.int32),
    )
    return state, jax.tree.map(arrange, cast(hyper, dtype))


def _restore(
    names: Sequence[Sequence[str]], empty: GroupResult, recording: Recording, old: ChunkState
) -> None:
    """Fills in what a chunk has recorded, at the steps that are still asked for."""
    if empty.records.keys() != old.result.records.keys() or len(recording.all) != len(old.steps):
        raise ValueError("the chunk has recorded something else")
    for recorded, new, was in zip(names, recording.all, old.steps, strict=True):
        passed = was[was < old.next_step]
        both, here, there = np.intersect1d(new, passed, return_indices=True)
        if not np.array_equal(both, new[new < old.next_step]):
            raise ValueError("the chunk lacks records of steps that it has passed")
        for name in recorded:
            empty.records[name][:, here] = old.result.records[name][:, there]
    empty.steps_to_target[:] = old.result.steps_to_target
    empty.divergence_step[:] = old.result.divergence_step


def _empty_result(group: Group, count: int, recording: Recording, dtype: np.dtype) -> GroupResult:
    return GroupResult(
        records={
            name: np.full((count, len(steps)), group.program.undefined(name), dtype)
            for names, steps in zip(group.names(), recording.all, strict=True)
            for name in names
        },
        steps_to_target=np.full(count, -1, np.int64),
        divergence_step=np.full(count, -1, np.int64),
    )


def train(
    groups: Sequence[Group], *, num_steps: int, recording: Recording, **options: Any
) -> list[tuple[GroupResult, Params]]:
    """Trains groups to the end, in one call, see `Trainer`.

    Returns:
        For each group its result and its final parameters, leading axis C; with a state the pair
        (parameters, state).
    """
    counts = [1] * len(groups)
    chunks = chunks_of(counts)
    trainer = Trainer(groups, counts, [chunks], num_steps=num_steps, recording=recording, **options)
    (*_, last) = trainer.train(chunks, {})
    found = []
    for chunk, state in last.states().items():
        states = state.in_order(groups[chunk.group], options.get("precision", "float32"))
        found.append((state.result, groups[chunk.group].program.kept(states)))
    return found
