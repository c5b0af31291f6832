"""Training of all runs of a grid, in one compiled program.

The runs of a grid come in *groups*, one for each program. All groups go through one compiled call,
made once for every segment of steps and every piece of the grid. Between segments the runs that
have not diverged are moved to the first blocks: a block without any is skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from implicit_accel.engine.layout import (
    WHOLE,
    MiniBatches,
    Share,
    lay_out,
    most_records,
    pack,
    reorder,
    segment_length,
    slots,
    split_evenly,
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
        runs: Gives the initial parameters (None if the program makes them) and the
            hyper-parameters of some of the runs, by number: numpy arrays with a leading axis as
            long as the argument.
        shapes: The parameters of one run: a pytree of anything with a ``shape``.
        operations: About how many floating-point operations a step of one run takes.
        largest_block: The most runs that are stepped together; None for no bound.
        observables: For each of the training's `Recording.observed`, what is evaluated.
        batches: How mini-batches are taken; None for the full batch.
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
    """Trajectories of a group's runs; C of them.

    Attributes:
        records: By name (C, R): ``excess_loss``, L − L*, and whatever else is recorded; from a
            run's divergence on losses are inf, other quantities NaN.
        steps_to_target: (C,) steps, −1 if the target was not reached.
        divergence_step: (C,) step, −1 if the run did not diverge.
        params: Final parameters, leading axis C; None if not kept.
    """

    records: dict[str, np.ndarray]
    steps_to_target: np.ndarray
    divergence_step: np.ndarray
    params: Params | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All but the parameters, by name."""
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
        num_pieces: Pieces that the grid was run in, to bound memory.
        num_segments: Segments that the steps were run in, for progress.
        run_steps: Runs × steps.
    """

    compile_seconds: float = 0
    train_seconds: float = 0
    num_pieces: int = 0
    num_segments: int = 0
    run_steps: int = 0


class Piece(NamedTuple):
    """A piece of a grid between two segments, on the host.

    Attributes:
        next_step: The first step not evaluated yet; T + 1 once the piece is finished.
        members: For each group (blocks, block size) numbers of its runs, −1 where there is none.
        states: For each group the runs' states, leading axes (blocks, block size).
    """

    next_step: int
    members: tuple[np.ndarray, ...]
    states: tuple[RunState, ...]


@dataclass(frozen=True)
class Snapshot:
    """Training between two segments: all that is needed to go on, for these steps or more.

    Attributes:
        num_steps: T.
        steps: The steps of every kind of record, see `Recording.all`.
        num_devices: How many devices the runs were laid out for.
        pieces: The pieces of the grid; None for those not begun.
        results: For each group, what is recorded up to here.
        timing: What it cost up to here.
    """

    num_steps: int
    steps: tuple[np.ndarray, ...]
    num_devices: int
    pieces: tuple[Piece | None, ...]
    results: tuple[GroupResult, ...]
    timing: Timing

    @property
    def is_finished(self) -> bool:
        """Whether every run has been trained to T."""
        return all(p is not None and p.next_step > self.num_steps for p in self.pieces)


@dataclass(frozen=True)
class Segment:
    """What training says after a segment.

    Attributes:
        done: Run-steps done.
        total: All of them.
        is_last: Whether nothing is left to do.
        snapshot: Takes a snapshot; its arrays are training's own and good until the next segment.
    """

    done: int
    total: int
    is_last: bool
    snapshot: Callable[[], Snapshot]


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


class Training:
    """The training of every run of some groups, in one compiled program.

    Args:
        groups: What to train.
        num_steps: T, updates per run.
        recording: At which steps what is kept.
        precision: ``float32`` or ``float64``.
        devices: Devices to spread the runs over; all local ones by default.
        memory_limit: Bytes that states and records may take on all devices together; the grid
            is run in as many equal pieces as that needs. No limit by default.
        share: Which runs to train; the others' results stay empty (see `merge`).
        keep_params: Whether the final parameters are returned.
        keep_states: Whether the states of finished pieces are kept, as `Segment.snapshot` needs.
        resume: A snapshot of the same groups and share to go on from, of as many steps or fewer.
            On as many devices the results are those of an undisturbed training, to the bit; on
            others, or with more steps than before, to rounding.

    Raises:
        ValueError: If there are no groups, or the snapshot is not one of theirs.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        num_steps: int,
        recording: Recording,
        precision: str = "float32",
        devices: Sequence[Device] | None = None,
        memory_limit: int | None = None,
        share: Share = WHOLE,
        keep_params: bool = False,
        keep_states: bool = False,
        resume: Snapshot | None = None,
    ) -> None:
        if not groups:
            raise ValueError("no groups to train")
        if resume is not None and resume.num_steps > num_steps:
            raise ValueError(f"{resume.num_steps} steps are done already, {num_steps} asked for")
        self._groups, self._share, self._precision = groups, share, precision
        self._num_steps, self._recording = num_steps, recording
        self._keep_params, self._keep_states = keep_params, keep_states or keep_params
        self._devices = list(jax.local_devices() if devices is None else devices)
        counts = [len(share.members(g.num_runs)) for g in groups]
        self._length = segment_length(
            num_steps,
            operations_per_step=sum(c * g.operations for g, c in zip(groups, counts, strict=True)),
            platform=self._devices[0].platform,
        )
        dtype = np.dtype(precision)
        results = [_empty_result(g, recording, dtype) for g in groups]
        if resume is None:
            num_pieces = 1
            if memory_limit is not None:
                records = [most_records(s, num_steps, self._length) for s in recording.all]
                with precision_context(precision):
                    sizes = [_run_bytes(g, records, dtype) for g in groups]
                num_pieces = _count_pieces(groups, counts, sizes, len(self._devices), memory_limit)
            self._pieces: list[Piece | None] = [None] * num_pieces
            self._laid_out_for, self._spent = len(self._devices), Timing()
        else:
            self._pieces = list(resume.pieces)
            results = [
                _restore(group.names(), empty, recording, old, resume)
                for group, empty, old in zip(groups, results, resume.results, strict=True)
            ]
            self._laid_out_for, self._spent = resume.num_devices, resume.timing
        self.results: list[GroupResult] = results
        begins = [_first_step(piece, num_steps, resume) for piece in self._pieces]
        self._starts = [range(begin, num_steps + 1, self._length) for begin in begins]
        # Every segment's records fit the largest one's: the program is the same for all.
        self._num_records = tuple(
            max(most_records(s, num_steps, self._length, b) for b in begins) for s in recording.all
        )
        num_segments = sum(map(len, self._starts))
        self.timing = dataclasses.replace(
            self._spent,
            num_pieces=len(self._pieces),
            num_segments=self._spent.num_segments + num_segments,
            run_steps=sum(counts) * num_steps,
        )

    def run(self) -> None:
        """Trains to the end."""
        for _ in self.segments():
            pass

    def segments(self) -> Iterator[Segment]:
        """Trains segment by segment; whoever stops asking stops training.

        Yields:
            After every segment. When the last one has been, `results` are complete.
        """
        if not any(self._starts):
            return
        began = time.perf_counter()
        with precision_context(self._precision) as dtype:
            device = _Devices(self._groups, self._devices, self._num_records, dtype)
        total = self.timing.run_steps
        covered = sum(starts.start for starts in self._starts)
        all_steps = len(self._pieces) * (self._num_steps + 1)
        to_go = sum(map(len, self._starts))
        for p, starts in enumerate(self._starts):
            runs = None
            for start in starts:
                with precision_context(self._precision):
                    runs = device.load(*self._load(p)) if runs is None else runs
                    runs, records = device.run(runs, self._schedule(start))
                self._store(runs, records, start)
                end = min(start + self._length, self._num_steps + 1)
                covered += end - start
                to_go -= 1
                self._note_time(began, device.compile_seconds)

                def snapshot(p: int = p, end: int = end, runs: _Runs = runs) -> Snapshot:
                    self._keep(p, end, runs)
                    return Snapshot(
                        self._num_steps, self._recording.all, self._laid_out_for,
                        tuple(self._pieces), tuple(self.results), self.timing,
                    )  # fmt: skip

                if end > self._num_steps and self._keep_states:
                    self._keep(p, end, runs)
                yield Segment(round(total * covered / all_steps), total, to_go == 0, snapshot)
        if self._keep_params:
            self.results = [
                dataclasses.replace(result, params=self._final_params(g))
                for g, result in enumerate(self.results)
            ]

    def _note_time(self, began: float, compile_seconds: float) -> None:
        self.timing = dataclasses.replace(
            self.timing,
            compile_seconds=self._spent.compile_seconds + compile_seconds,
            train_seconds=self._spent.train_seconds
            + (time.perf_counter() - began)
            - compile_seconds,
        )

    def _load(self, p: int) -> tuple[tuple[np.ndarray, ...], tuple[RunState, ...] | None]:
        """A piece's members and, if it was begun, its states."""
        begun = self._pieces[p]
        if begun is not None:
            return begun.members, begun.states
        layouts = (
            lay_out(
                self._share.members(g.num_runs), g.largest_block, len(self._pieces),
                self._laid_out_for,
            )
            for g in self._groups
        )  # fmt: skip
        return tuple(layout[p] for layout in layouts), None

    def _keep(self, p: int, next_step: int, runs: _Runs) -> None:
        self._pieces[p] = Piece(next_step, runs.members, jax.tree.map(np.asarray, runs.states))

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

    def _store(self, runs: _Runs, records: Any, start: int) -> None:
        """Writes what a segment has recorded, and what the states of finished runs have noted."""
        inside = self._inside(start)
        for result, members, state, recorded in zip(
            self.results, runs.members, runs.states, records, strict=True
        ):
            for where, by_name in zip(inside, recorded, strict=True):
                for name, values in by_name.items():
                    _write(result.records[name], members, where, values)
            if start + self._length > self._num_steps:
                real = members.reshape(-1) >= 0
                rows = members.reshape(-1)[real]
                result.steps_to_target[rows] = _flat(state.steps_to_target)[real]
                result.divergence_step[rows] = _flat(state.divergence_step)[real]

    def _final_params(self, group: int) -> Params:
        """The parameters of a group's runs, in the order of their numbers."""
        pieces = [p for p in self._pieces if p is not None]
        numbers = np.concatenate([p.members[group].reshape(-1) for p in pieces])
        order = np.argsort(numbers)[np.count_nonzero(numbers < 0) :]
        params = (p.states[group].params for p in pieces)
        return jax.tree.map(lambda *a: np.concatenate([_flat(x) for x in a])[order], *params)


def _first_step(piece: Piece | None, num_steps: int, resume: Snapshot | None) -> int:
    """The step at which a piece goes on; T + 1 if there is nothing left to do."""
    if piece is None or resume is None:
        return 0
    if piece.next_step > num_steps:
        return num_steps + 1
    # A piece that finished an earlier, smaller T has made T updates and evaluated step T; that
    # step is evaluated once more, which changes nothing, and then updated from.
    return min(piece.next_step, resume.num_steps)


class _Runs(NamedTuple):
    """A piece on the devices: members on the host, states and hyper-parameters there."""

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

    def load(self, members: tuple[np.ndarray, ...], reached: tuple[RunState, ...] | None) -> _Runs:
        """Puts a piece on the devices, in its initial states unless others are given."""
        # Laid out for another number of devices: blocks without runs fill the last one.
        members = tuple(
            np.pad(m, ((0, -len(m) % self._count), (0, 0)), constant_values=-1) for m in members
        )
        inputs = [_inputs(g, m, self._dtype) for g, m in zip(self._groups, members, strict=True)]
        states = tuple(state for state, _ in inputs)
        if reached is not None:
            states = jax.tree.map(lambda a, b: np.concatenate([a, b[len(a) :]]), reached, states)
        return _Runs(
            members,
            jax.device_put(states, self._spread),
            jax.device_put(tuple(hyper for _, hyper in inputs), self._spread),
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


def _inputs(group: Group, members: np.ndarray, dtype: np.dtype) -> tuple[RunState, Hyper]:
    """Initial states and hyper-parameters of a piece, (blocks, block size, …) numpy arrays."""
    blocks, B = members.shape
    flat = members.reshape(-1)
    # Padding is a copy of the first run that counts as diverged before it starts.
    params, hyper = group.runs(np.where(flat < 0, 0, flat))

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
    return state, jax.tree.map(arrange, cast(hyper, dtype))


def _restore(
    names: Sequence[Sequence[str]],
    empty: GroupResult,
    recording: Recording,
    old: GroupResult,
    resume: Snapshot,
) -> GroupResult:
    """Results to go on with: what a snapshot recorded, at the steps that are still asked for."""
    if empty.records.keys() != old.records.keys() or len(recording.all) != len(resume.steps):
        raise ValueError("the snapshot has recorded something else")
    for recorded, new, was in zip(names, recording.all, resume.steps, strict=True):
        both, here, there = np.intersect1d(new, was, return_indices=True)
        if not np.array_equal(both, new[new <= resume.num_steps]):
            raise ValueError("the snapshot lacks records of steps that it has passed")
        for name in recorded:
            empty.records[name][:, here] = old.records[name][:, there]
    empty.steps_to_target[:] = old.steps_to_target
    empty.divergence_step[:] = old.divergence_step
    return empty


def _empty_result(group: Group, recording: Recording, dtype: np.dtype) -> GroupResult:
    C = group.num_runs
    return GroupResult(
        records={
            name: np.full((C, len(steps)), group.program.undefined(name), dtype)
            for names, steps in zip(group.names(), recording.all, strict=True)
            for name in names
        },
        steps_to_target=np.full(C, -1, np.int64),
        divergence_step=np.full(C, -1, np.int64),
    )


def merge(shares: Sequence[Sequence[GroupResult]]) -> list[GroupResult]:
    """Puts together the results of all shares of a grid, in the order of their indices."""
    merged = []
    for parts in zip(*shares, strict=True):
        whole = GroupResult.of({name: np.array(a) for name, a in parts[0].arrays.items()})
        for index, part in enumerate(parts):
            mine = Share(index, len(parts)).members(len(whole.steps_to_target))
            for name, a in part.arrays.items():
                whole.arrays[name][mine] = a[mine]
        merged.append(whole)
    return merged


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


def _run_bytes(group: Group, num_records: Sequence[int], dtype: np.dtype) -> int:
    """Device memory of a run: its state, twice more while moved and stepped, and its records."""
    held = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(group.state(dtype))
    )
    kept = sum(
        (size + 1) * len(names) for names, size in zip(group.names(), num_records, strict=True)
    )
    return 3 * held + 2 * kept * dtype.itemsize


def _count_pieces(
    groups: Sequence[Group],
    counts: Sequence[int],
    sizes: Sequence[int],
    num_devices: int,
    memory_limit: int,
) -> int:
    """The fewest equal pieces that fit the limit; at the most as many as have a run per device."""

    def held(pieces: int) -> int:
        total = 0
        for g, count, size in zip(groups, counts, sizes, strict=True):
            blocks, B = split_evenly(count, g.largest_block, pieces * num_devices)
            total += blocks * B * num_devices * size
        return total

    most = max(1, *(math.ceil(count / num_devices) for count in counts))
    # What one piece would hold, shared out, is a lower bound of their number.
    pieces = min(most, max(1, held(1) // memory_limit))
    while pieces < most and held(pieces) > memory_limit:
        pieces += 1
    return pieces


def train(groups: Sequence[Group], **options: Any) -> tuple[list[GroupResult], Timing]:
    """Trains to the end, see `Training`.

    Returns:
        One result per group, and what it cost.
    """
    training = Training(groups, **options)
    training.run()
    return training.results, training.timing
