"""Training of the runs of a grid, chunk by chunk, in one compiled program.

The runs of a grid come in *groups*, one for each kind of step; a group's runs are cut into
*chunks*. A `Trainer` compiles all groups into one program, which trains as many chunks in a call as
it is given: on each device blocks of runs, for a segment of steps. Between segments the runs that
have not diverged are moved to the first blocks; a block without any is skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from threadpoolctl import threadpool_limits

from implicit_accel.engine.layout import (
    MiniBatches,
    block_size,
    count_chunks,
    lay_out,
    most_records,
    pack,
    reorder,
    segment_length,
    slots,
)
from implicit_accel.engine.step import (
    Hyper,
    Params,
    Program,
    RunState,
    Schedule,
    Watch,
    run_programs,
)
from implicit_accel.observables import Observable

PRECISIONS = ("float32", "float64")

_AXIS = "run"

Device = Any  # jax.Device is a variable to type checkers


@dataclass(frozen=True)
class Group:
    """Runs that share a program.

    Attributes:
        program: Static part.
        data: The task's arrays (numpy; floating ones in float64).
        num_runs: C.
        runs: Returns the initial parameters (None if the program makes them) and the
            hyper-parameters of some of the runs, by number: numpy arrays with a leading axis as
            long as the argument.
        shapes: The parameters of one run: a pytree of anything with a ``shape``.
        operations: About how many floating-point operations a step of one run takes.
        largest_block: The most runs that are stepped together; None for no bound.
        observables: For each of the training's `Recording.observed`, what is evaluated.
        batches: How mini-batches are taken; None for the full batch.
        platform: Of the devices that it is laid out for.
    """

    program: Program
    data: Any
    num_runs: int
    runs: Callable[[np.ndarray], tuple[Params | None, Hyper]]
    shapes: Params
    operations: float
    largest_block: int | None = None
    observables: tuple[Mapping[str, Observable], ...] = ()
    batches: MiniBatches | None = None
    platform: str = "cpu"

    @property
    def block(self) -> int:
        """Runs that are stepped together, B."""
        return block_size(
            self.num_runs,
            largest=self.largest_block,
            operations=self.operations,
            platform=self.platform,
        )

    def state(self, dtype: np.dtype) -> RunState:
        """Shapes and types of one run's state."""
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(tuple(a.shape), dtype), self.shapes)
        _, hyper = self.runs(np.zeros(1, int))
        hyper = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), cast(hyper, dtype)
        )
        scalar, count = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), np.int32)
        params, opt_state = jax.eval_shape(self.program.start, params, hyper)
        return RunState(params, opt_state, scalar, count, count)

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Names of what is recorded: at the steps, and at those of each of `observables`."""
        return (("excess_loss", *self.program.aux), *map(tuple, self.observables))

    def state_bytes(self, precision: str) -> int:
        """Bytes of a run's state."""
        with precision_context(precision) as dtype:
            leaves = jax.tree.leaves(self.state(dtype))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    def record_bytes(self, num_records: Sequence[int], precision: str) -> int:
        """Bytes of a run's records, if there are so many of each kind."""
        kinds = zip(self.names(), num_records, strict=True)
        return sum(len(names) * size for names, size in kinds) * np.dtype(precision).itemsize


@dataclass(frozen=True)
class Recording:
    """At which steps something is kept; all increasing, in [0, T].

    Attributes:
        steps: (R,) those of losses.
        observed: Those of each of a group's `Group.observables`.
    """

    steps: np.ndarray
    observed: tuple[np.ndarray, ...] = ()

    @property
    def all(self) -> tuple[np.ndarray, ...]:
        """Steps of losses, then of observables."""
        return (self.steps, *self.observed)


@dataclass(frozen=True)
class GroupResult:
    """Trajectories of a group's runs, or of some of them; C in all.

    Attributes:
        records: By name (C, R): ``excess_loss``, L − L*, and whatever else is recorded; from a
            run's divergence on losses are inf, other quantities NaN.
        steps_to_target: (C,) steps, −1 if the target was not reached.
        divergence_step: (C,) step, −1 if the run did not diverge.
    """

    records: dict[str, np.ndarray]
    steps_to_target: np.ndarray
    divergence_step: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All of them, by name."""
        ends = {"steps_to_target": self.steps_to_target, "divergence_step": self.divergence_step}
        return self.records | ends

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> GroupResult:
        """The inverse of `arrays`."""
        records = dict(arrays)
        return cls(
            steps_to_target=records.pop("steps_to_target"),
            divergence_step=records.pop("divergence_step"),
            records=records,
        )


@dataclass(frozen=True)
class Timing:
    """What training cost.

    Attributes:
        compile_seconds: Tracing, lowering and compiling the program.
        train_seconds: Everything after that.
        num_chunks: Chunks that the grid was cut into.
        run_steps: Runs × steps.
    """

    compile_seconds: float = 0
    train_seconds: float = 0
    num_chunks: int = 0
    run_steps: int = 0

    @classmethod
    def total(cls, timings: Iterable[Timing]) -> Timing:
        """The sum of some chunks' timings."""
        fields = [dataclasses.astuple(timing) for timing in timings]
        return cls(*map(sum, zip(*fields, strict=True)))


@dataclass(frozen=True, order=True)
class Chunk:
    """Runs of one group that are trained by one call and stored together: every count-th.

    Attributes:
        group: Number of the group.
        index: Which of the group's chunks, 0 … count − 1.
        count: The number of these.
    """

    group: int
    index: int
    count: int

    def runs(self, num_runs: int) -> np.ndarray:
        """Numbers of the runs in their group, which has so many."""
        return np.arange(self.index, num_runs, self.count)


@dataclass(frozen=True)
class ChunkState:
    """A chunk between two segments: all that is needed to go on, for these steps or more.

    Attributes:
        num_steps: T.
        next_step: The first step not evaluated yet; T + 1 once the chunk is finished.
        steps: The steps of every kind of record, see `Recording.all`.
        leaves: Of the runs' `RunState`, each with a leading axis of runs; empty if not kept.
        result: What is recorded up to here.
        timing: What it cost up to here.
    """

    num_steps: int
    next_step: int
    steps: tuple[np.ndarray, ...]
    leaves: tuple[np.ndarray, ...]
    result: GroupResult
    timing: Timing

    @property
    def is_finished(self) -> bool:
        """Whether its runs have been trained to T."""
        return self.next_step > self.num_steps


def first_step(state: ChunkState | None, num_steps: int) -> int:
    """The step at which a chunk goes on to T = ``num_steps``; T + 1 if nothing is left to do.

    Raises:
        ValueError: If it has been trained further.
    """
    if state is None:
        return 0
    if state.num_steps > num_steps:
        raise ValueError(f"{state.num_steps} steps are done already, {num_steps} asked for")
    if state.next_step > num_steps:
        return num_steps + 1
    # A chunk that finished an earlier, smaller T has made T updates and evaluated step T; that
    # step is evaluated once more, which changes nothing, and then updated from.
    return min(state.next_step, state.num_steps)


def cut(groups: Sequence[Group], num_steps: int, recording: Recording, precision: str) -> list[int]:
    """The number of chunks of each group."""
    lengths = [len(steps) for steps in recording.all]
    return [
        count_chunks(
            g.num_runs,
            g.block,
            run_operations=g.operations * num_steps,
            run_bytes=g.state_bytes(precision) + g.record_bytes(lengths, precision),
            platform=g.platform,
        )
        for g in groups
    ]


def chunks_of(counts: Sequence[int]) -> list[Chunk]:
    """All chunks of groups that have so many."""
    return [Chunk(g, index, count) for g, count in enumerate(counts) for index in range(count)]


def gather(groups: Sequence[Group], states: Mapping[Chunk, ChunkState]) -> list[GroupResult]:
    """The groups' results, of all of their chunks."""
    found: list[GroupResult] = []
    for number, group in enumerate(groups):
        parts = {chunk: state.result for chunk, state in states.items() if chunk.group == number}
        whole: dict[str, np.ndarray] = {}
        for chunk, result in parts.items():
            for name, a in result.arrays.items():
                if name not in whole:
                    whole[name] = np.empty((group.num_runs, *a.shape[1:]), a.dtype)
                whole[name][chunk.runs(group.num_runs)] = a
        found.append(GroupResult.of(whole))
    return found


@dataclass(frozen=True)
class Segment:
    """What a call of a `Trainer` yields after a segment.

    Attributes:
        done: Run-steps done by the call's chunks.
        is_last: Whether they are finished.
        states: Returns the chunks' states; good until the next segment.
    """

    done: int
    is_last: bool
    states: Callable[[], dict[Chunk, ChunkState]]


@contextlib.contextmanager
def precision_context(precision: str) -> Iterator[np.dtype]:
    """Enables 64-bit arithmetic in JAX while it lasts, if asked for; gives the numpy type."""
    with jax.enable_x64(precision == "float64"):
        yield np.dtype(precision)


def cast(tree: Any, dtype: np.dtype) -> Any:
    """Floating arrays in the precision of training, whole numbers in 32 bits, booleans as such."""

    def one(a: Any) -> np.ndarray:
        a = np.asarray(a)
        if a.dtype.kind in "iu" and a.dtype.itemsize > 4:
            return a.astype(np.int32)
        return a.astype(dtype, copy=False) if a.dtype.kind == "f" else a

    return jax.tree.map(one, tree)


class Trainer:
    """The compiled program of some groups, and the training of their chunks by it.

    The program has one shape for all calls, so that it is compiled once. Neither this shape nor the
    number of devices, nor which chunks share a call, changes the bits of a result.

    Args:
        groups: Whose runs are trained.
        calls: The chunks of each call to come, or of calls that are as large.
        num_steps: T, updates per run.
        recording: At which steps what is kept.
        precision: ``float32`` or ``float64``.
        devices: Devices to spread the runs over; all local ones by default.

    Raises:
        ValueError: If there are no groups.
    """

    def __init__(
        self,
        groups: Sequence[Group],
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
        self._length = segment_length(
            num_steps,
            operations_per_step=max((_operations(groups, chunks) for chunks in calls), default=0),
            platform=self._devices[0].platform,
        )
        self._num_records = tuple(most_records(s, self._length) for s in recording.all)
        self._num_blocks = [
            max(1, *(self._blocks_for(g, chunks) for chunks in calls)) if calls else 1
            for g in range(len(groups))
        ]
        self._program: _Devices | None = None

    def _blocks_for(self, number: int, chunks: Sequence[Chunk]) -> int:
        """Blocks that a group needs on each device."""
        runs = len(_runs_of(number, self._groups[number], chunks))
        return math.ceil(math.ceil(runs / len(self._devices)) / self._groups[number].block)

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
            ValueError: If the chunks do not go on at the same step, do not fit the program's shape,
                or have recorded something else.
        """
        begins = {first_step(reached.get(chunk), self._num_steps) for chunk in chunks}
        if len(begins) != 1:
            raise ValueError(f"chunks that go on at different steps: {sorted(begins)}")
        (begin,) = begins
        call = _Call(self._groups, chunks, self._recording, np.dtype(self._precision), reached)
        members = tuple(
            lay_out(call.counts[g], group.block, blocks, len(self._devices))
            for g, (group, blocks) in enumerate(zip(self._groups, self._num_blocks, strict=True))
        )
        began = time.perf_counter()
        with precision_context(self._precision) as dtype:
            if self._program is None:
                self._program = _Devices(self._groups, self._devices, self._num_records, dtype)
            program = self._program
            compiled = program.compile_seconds
            runs = program.load(members, call)
        total = call.num_runs * self._num_steps
        for start in range(begin, self._num_steps + 1, self._length):
            with precision_context(self._precision):
                runs, records = program.run(runs, self._schedule(start))
            end = min(start + self._length, self._num_steps + 1)
            is_last = end > self._num_steps
            call.store(runs, records, self._inside(start), is_last=is_last)
            compiling = program.compile_seconds - compiled
            spent = Timing(compiling, time.perf_counter() - began - compiling, 0, total)

            def states(
                runs: _Runs = runs, end: int = end, spent: Timing = spent, kept: bool = keep_leaves
            ) -> dict[Chunk, ChunkState]:
                is_kept = kept or end <= self._num_steps
                return call.states(runs if is_kept else None, end, self._num_steps, spent)

            done = round(total * end / (self._num_steps + 1))
            yield Segment(total if is_last else done, is_last, states)

    def _inside(self, start: int) -> list[np.ndarray]:
        """For every kind of record, which of its steps lie in a segment."""
        end = start + self._length
        return [(steps >= start) & (steps < end) for steps in self._recording.all]

    def _schedule(self, start: int) -> Schedule:
        steps = np.arange(start, start + self._length, dtype=np.int32)
        where = [
            slots(steps, recorded[inside], size)
            for recorded, inside, size in zip(
                self._recording.all, self._inside(start), self._num_records, strict=True
            )
        ]
        return Schedule(
            steps=steps,
            slots=where[0],
            watch_slots=tuple(where[1:]),
            watched=tuple(
                w < size for w, size in zip(where[1:], self._num_records[1:], strict=True)
            ),
            num_steps=np.int32(self._num_steps),
            batches=tuple(
                None if g.batches is None else g.batches.rows(start, self._length)
                for g in self._groups
            ),
        )


def _runs_of(number: int, group: Group, chunks: Sequence[Chunk]) -> np.ndarray:
    """The runs of a group that are in some chunks, chunk after chunk."""
    runs = [chunk.runs(group.num_runs) for chunk in chunks if chunk.group == number]
    return np.concatenate([np.zeros(0, int), *runs])


def _operations(groups: Sequence[Group], chunks: Sequence[Chunk]) -> float:
    """Floating-point operations of a step of some chunks."""
    sizes = (len(chunk.runs(groups[chunk.group].num_runs)) for chunk in chunks)
    return sum(
        size * groups[chunk.group].operations for size, chunk in zip(sizes, chunks, strict=True)
    )


class _Call:
    """Chunks that are trained together, on the host: their runs, and what is recorded of them.

    The runs of a group are counted by *rows*: chunk after chunk, in the order of the call.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        chunks: Sequence[Chunk],
        recording: Recording,
        dtype: np.dtype,
        reached: Mapping[Chunk, ChunkState],
    ) -> None:
        self.groups, self.chunks = groups, chunks
        self.runs = [_runs_of(g, group, chunks) for g, group in enumerate(groups)]
        self.counts = [len(runs) for runs in self.runs]
        self.num_runs = sum(self.counts)
        self._recording = recording
        self._before = {chunk: reached[chunk] for chunk in chunks if chunk in reached}
        self._rows: dict[Chunk, slice] = {}
        filled = [0] * len(groups)
        for chunk in chunks:
            begin = filled[chunk.group]
            filled[chunk.group] += len(chunk.runs(groups[chunk.group].num_runs))
            self._rows[chunk] = slice(begin, filled[chunk.group])
        self._results = [
            _empty_result(group, count, recording, dtype)
            for group, count in zip(groups, self.counts, strict=True)
        ]
        for chunk, state in self._before.items():
            _restore(groups[chunk.group].names(), self._of(chunk), recording, state)

    def _of(self, chunk: Chunk) -> GroupResult:
        """A chunk's result: views of the group's."""
        arrays = self._results[chunk.group].arrays
        return GroupResult.of({name: a[self._rows[chunk]] for name, a in arrays.items()})

    def begun_leaves(self, group: int) -> list[np.ndarray] | None:
        """The leaves of the states of a group's runs, by row; None if they have not begun."""
        parts = [
            self._before[c].leaves for c in self.chunks if c.group == group and c in self._before
        ]
        return [np.concatenate(leaf) for leaf in zip(*parts, strict=True)] if parts else None

    def store(
        self, runs: _Runs, records: Any, inside: Sequence[np.ndarray], *, is_last: bool
    ) -> None:
        """Writes what a segment has recorded, and at last what the states have noted."""
        for result, members, state, recorded in zip(
            self._results, runs.members, runs.states, records, strict=True
        ):
            for where, by_name in zip(inside, recorded, strict=True):
                for name, values in by_name.items():
                    _write(result.records[name], members, where, values)
            if is_last:
                real = members.reshape(-1) >= 0
                rows = members.reshape(-1)[real]
                result.steps_to_target[rows] = _flat(state.steps_to_target)[real]
                result.divergence_step[rows] = _flat(state.divergence_step)[real]

    def states(
        self, runs: _Runs | None, next_step: int, num_steps: int, spent: Timing
    ) -> dict[Chunk, ChunkState]:
        """The chunks' states, without leaves if there are no runs."""
        leaves: list[list[np.ndarray]] = [[] for _ in self.groups]
        if runs is not None:
            leaves = list(map(_by_row, runs.members, runs.states))
        work = _operations(self.groups, self.chunks)
        found = {}
        for chunk in self.chunks:
            rows = self._rows[chunk]
            share = _operations(self.groups, [chunk]) / work
            before = self._before[chunk].timing if chunk in self._before else Timing()
            found[chunk] = ChunkState(
                num_steps=num_steps,
                next_step=next_step,
                steps=self._recording.all,
                leaves=tuple(leaf[rows] for leaf in leaves[chunk.group]),
                result=self._of(chunk),
                timing=Timing(
                    before.compile_seconds + share * spent.compile_seconds,
                    before.train_seconds + share * spent.train_seconds,
                    1,
                    (rows.stop - rows.start) * num_steps,
                ),
            )
        return found


def _by_row(members: np.ndarray, state: RunState) -> list[np.ndarray]:
    """The leaves of a state, (blocks, block size, …) on devices, as (rows, …) on the host."""
    flat = members.reshape(-1)
    order = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
    return [_flat(leaf)[order] for leaf in jax.tree.leaves(state)]


class _Runs(NamedTuple):
    """Runs on the devices: rows on the host, states and hyper-parameters there.

    Attributes:
        members: For each group (blocks, block size) rows of its runs, −1 where there is none.
        states: For each group the runs' states, leading axes (blocks, block size).
        hypers: Likewise.
    """

    members: tuple[np.ndarray, ...]
    states: Any
    hypers: Any


class _Devices:
    """The compiled program of a grid, and the moves of its runs to and from the devices."""

    def __init__(
        self,
        groups: Sequence[Group],
        devices: Sequence[Device],
        num_records: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        mesh = jax.make_mesh(
            (len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices
        )
        self._groups, self._count, self._dtype = groups, len(devices), dtype
        self.compile_seconds = 0.0
        self._spread = NamedSharding(mesh, PartitionSpec(_AXIS))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        programs = tuple(g.program for g in groups)
        watches = tuple(
            tuple(itertools.starmap(Watch, zip(g.observables, num_records[1:], strict=True)))
            for g in groups
        )
        self._data = jax.device_put(tuple(cast(g.data, dtype) for g in groups), self._everywhere)
        self._jitted = jax.jit(
            jax.shard_map(
                lambda *arguments: run_programs(programs, num_records[0], watches, *arguments),
                mesh=mesh,
                in_specs=(*[PartitionSpec(_AXIS)] * 3, *[PartitionSpec()] * 2),
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            ),
            donate_argnums=(0, 1),
        )
        self._compiled: Callable[..., Any] | None = None

    def load(self, members: tuple[np.ndarray, ...], call: _Call) -> _Runs:
        """Puts runs on the devices, in their initial states or as far as they have come."""
        states, hypers = [], []
        # Initial weights may be drawn through a QR decomposition: with one thread it has the same
        # bits on machines with other numbers of cores.
        with threadpool_limits(1, user_api="blas"):
            for g, group in enumerate(self._groups):
                state, hyper = _inputs(
                    group, members[g], call.runs[g], call.begun_leaves(g), self._dtype
                )
                states.append(state)
                hypers.append(hyper)
        return _Runs(
            members,
            jax.device_put(tuple(states), self._spread),
            jax.device_put(tuple(hypers), self._spread),
        )

    def run(self, runs: _Runs, schedule: Schedule) -> tuple[_Runs, Any]:
        """Runs a segment; live runs are moved to the first blocks before it."""
        orders = tuple(pack(np.asarray(s.divergence_step) < 0, self._count) for s in runs.states)
        members = tuple(
            reorder(m, order, self._count) for m, order in zip(runs.members, orders, strict=True)
        )
        arguments = (
            runs.states,
            runs.hypers,
            jax.device_put(orders, self._spread),
            self._data,
            jax.device_put(schedule, self._everywhere),
        )
        if self._compiled is None:
            before = time.perf_counter()
            self._compiled = self._jitted.lower(*arguments).compile()
            self.compile_seconds = time.perf_counter() - before
        states, hypers, records = self._compiled(*arguments)
        return _Runs(members, states, hypers), records


def _inputs(
    group: Group,
    members: np.ndarray,
    numbers: np.ndarray,
    begun: Sequence[np.ndarray] | None,
    dtype: np.dtype,
) -> tuple[RunState, Hyper]:
    """States and hyper-parameters of a call's runs, (blocks, block size, …) numpy arrays.

    Args:
        group: The runs'.
        members: (blocks, block size) rows.
        numbers: (rows,) the runs' numbers in their group.
        begun: (rows, …) leaves of the states that the runs have reached; None if they begin.
        dtype: Of training.
    """
    blocks, B = members.shape
    flat = members.reshape(-1)
    is_run = flat >= 0
    # Padding is a copy of a run that counts as diverged before it starts.
    padded = np.zeros(len(flat), int)
    padded[is_run] = numbers[flat[is_run]]
    params, hyper = group.runs(padded)

    def arrange(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.reshape(blocks, B, *a.shape[1:]))

    def zeros(leaf: Any) -> np.ndarray:
        return np.zeros((blocks, B, *leaf.shape), leaf.dtype)

    shapes = group.state(dtype)
    state = RunState(
        params=jax.tree.map(zeros, shapes.params)
        if params is None
        else jax.tree.map(arrange, cast(params, dtype)),
        opt_state=jax.tree.map(zeros, shapes.opt_state),
        limit=np.zeros((blocks, B), dtype),
        steps_to_target=np.full((blocks, B), -1, np.int32),
        divergence_step=np.where(members < 0, 0, -1).astype(np.int32),
    )
    if begun is not None:
        leaves, structure = jax.tree.flatten(state)
        for leaf, by_row in zip(leaves, begun, strict=True):
            leaf.reshape(-1, *leaf.shape[2:])[is_run] = by_row[flat[is_run]]
        state = jax.tree.unflatten(structure, leaves)
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


def _flat(blocks: Any) -> np.ndarray:
    """(blocks, block size, …) on devices → (runs, …) on the host."""
    array = np.asarray(blocks)
    return array.reshape(-1, *array.shape[2:])


def _write(target: np.ndarray, members: np.ndarray, inside: np.ndarray, values: jax.Array) -> None:
    """Writes a segment's records, (blocks, R, block size), into the rows of their runs."""
    columns = np.flatnonzero(inside)
    if len(columns) == 0:
        return
    rows = np.asarray(values)[:, : len(columns)].transpose(0, 2, 1)
    real = members >= 0
    target[members[real], columns[0] : columns[-1] + 1] = rows[real]


def train(
    groups: Sequence[Group], *, num_steps: int, recording: Recording, **options: Any
) -> list[tuple[GroupResult, Params]]:
    """Trains groups to the end, in one call, see `Trainer`.

    Returns:
        For each group its result and its final parameters, leading axis C.
    """
    chunks = chunks_of([1] * len(groups))
    trainer = Trainer(groups, [chunks], num_steps=num_steps, recording=recording, **options)
    (*_, last) = trainer.train(chunks, {})
    found = []
    for chunk, state in last.states().items():
        with precision_context(options.get("precision", "float32")) as dtype:
            structure = jax.tree.structure(groups[chunk.group].state(dtype))
        found.append((state.result, jax.tree.unflatten(structure, state.leaves).params))
    return found
