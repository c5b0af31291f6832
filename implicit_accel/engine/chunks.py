"""What is trained: groups of runs that share a program, the chunks that they are cut into, results.

A chunk is what is stored, extended, searched, sent to a worker and held in memory as one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from implicit_accel.engine.layout import MiniBatches, chunk_shape, count_chunks, efficient_block
from implicit_accel.engine.step import Best, Hyper, Params, Program, RunState
from implicit_accel.observables import Observable

PRECISIONS = ("float32", "float64")

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
            long as the argument. With a state the parameters are a pair, see `Task.has_state`.
        shapes: The parameters of one run: a pytree of anything with a ``shape``; with a state the
            pair, whose second has ``dtype`` as well.
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
        """About how many runs are stepped together."""
        if self.largest_block is None:
            return self.num_runs
        return efficient_block(self.largest_block, self.operations, self.platform)

    def state(self, dtype: np.dtype) -> RunState:
        """Shapes and types of one run's state."""
        params, model_state = self.program.split(self.shapes)
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(tuple(a.shape), dtype), params)
        model_state = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(tuple(a.shape), cast(np.empty(0, a.dtype), dtype).dtype),
            model_state,
        )
        _, hyper = self.runs(np.zeros(1, int))
        hyper = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), cast(hyper, dtype)
        )
        scalar, count = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), np.int32)
        params, model_state, opt_state = jax.eval_shape(
            self.program.start, params, model_state, hyper
        )
        start = RunState(params, opt_state, model_state, None, scalar, count, count)
        if self.program.best_by is None:
            return start
        return start._replace(best=Best(scalar, self.program.kept(start)))

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
        candidates: Those among which the best parameters are chosen, beside T; None where these are
            not kept. They must not depend on T, so that a run which goes on keeps its best.
    """

    steps: np.ndarray
    observed: tuple[np.ndarray, ...] = ()
    candidates: np.ndarray | None = None

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

    @property
    def run_steps_per_second(self) -> float:
        """Of training, without compilation; NaN where nothing was trained."""
        return self.run_steps / self.train_seconds if self.train_seconds else math.nan

    @classmethod
    def total(cls, timings: Iterable[Timing]) -> Timing:
        """The sum of some chunks' timings."""
        fields = [dataclasses.astuple(timing) for timing in timings]
        return cls(*map(sum, zip(*fields, strict=True)))


@dataclass(frozen=True, order=True)
class Chunk:
    """Runs of one group that are trained by one call and stored together: every count-th.

    Its blocks and all that happens to them depend on the grid alone: a chunk's results have the
    same bits on devices of a kind, two or more, whatever else is trained beside it.

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

    def size(self, num_runs: int) -> int:
        """The number of runs, of a group that has so many."""
        return len(range(self.index, num_runs, self.count))

    def members(self, group: Group) -> np.ndarray:
        """(blocks, block size) places of the runs among the chunk's, −1 where there is none."""
        blocks, B = chunk_shape(group.num_runs, self.count, group.block)
        places = np.full(blocks * B, -1)
        size = self.size(group.num_runs)
        places[:size] = np.arange(size)
        return places.reshape(blocks, B)


@dataclass(frozen=True)
class ChunkState:
    """A chunk between two segments: all that is needed to go on, for these steps or more.

    Attributes:
        num_steps: T.
        next_step: The first step not evaluated yet; T + 1 once the chunk is finished.
        steps: The steps of every kind of record, see `Recording.all`.
        members: (blocks, block size) places of the runs among the chunk's, −1 where there is none.
        leaves: Of the runs' `RunState`, leading axes (blocks, block size); empty if not kept.
        result: What is recorded up to here.
        timing: What it cost up to here.
    """

    num_steps: int
    next_step: int
    steps: tuple[np.ndarray, ...]
    members: np.ndarray
    leaves: tuple[np.ndarray, ...]
    result: GroupResult
    timing: Timing

    @property
    def is_finished(self) -> bool:
        """Whether its runs have been trained to T."""
        return self.next_step > self.num_steps

    def laid_out(self, members: np.ndarray) -> ChunkState:
        """The state in blocks of another shape, where it has one: as another platform has them."""
        if self.members.shape == members.shape:
            return self
        order = np.argsort(self.members.reshape(-1), kind="stable")
        order = order[np.count_nonzero(self.members < 0) :]
        # A padding place holds some run, and counts as diverged.
        source = order[np.maximum(members.reshape(-1), 0)]
        leaves = [
            leaf.reshape(-1, *leaf.shape[2:])[source].reshape(*members.shape, *leaf.shape[2:])
            for leaf in self.leaves
        ]
        # The last leaf of a `RunState` is the step of divergence.
        leaves[-1] = np.where(members < 0, 0, leaves[-1]).astype(leaves[-1].dtype)
        return dataclasses.replace(self, members=members, leaves=tuple(leaves))

    def in_order(self, group: Group, precision: str) -> RunState:
        """The states in the order of the chunk's runs, numpy arrays with one leading axis."""
        with precision_context(precision) as dtype:
            structure = jax.tree.structure(group.state(dtype))
        order = np.argsort(self.members.reshape(-1))[np.count_nonzero(self.members < 0) :]
        leaves = [leaf.reshape(-1, *leaf.shape[2:])[order] for leaf in self.leaves]
        return jax.tree.unflatten(structure, leaves)


def best_params(state: ChunkState, group: Group, precision: str) -> Params:
    """A finished chunk's best parameters, leading axis the runs; NaN where a run has none."""
    best_by, states = group.program.best_by, state.in_order(group, precision)
    assert best_by is not None
    assert states.best is not None
    # Step T is no candidate in training: a run that goes on may not record it.
    last = best_by.score(state.result.records[best_by.name][:, -1])
    return _choose(last < states.best.score, group.program.kept(states), states.best.kept)


def final_params(state: ChunkState, group: Group, precision: str) -> Params:
    """A finished chunk's final parameters, leading axis the runs; NaN where a run diverged."""
    kept = group.program.kept(state.in_order(group, precision))
    nothing = jax.tree.map(lambda a: undefined(a.shape, a.dtype), kept)
    return _choose(state.result.divergence_step < 0, kept, nothing)


def _choose(chosen: np.ndarray, first: Params, second: Params) -> Params:
    """The first of two trees of arrays for the chosen runs, along the leading axis."""

    def choose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, first, second)


def undefined(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """What stands for missing parameters: NaN, and zeros for whole numbers."""
    is_floating = np.issubdtype(dtype, np.floating)
    return np.full(shape, np.nan if is_floating else 0, dtype)


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
        whole: dict[str, np.ndarray] = {}
        for chunk, state in states.items():
            if chunk.group != number:
                continue
            for name, a in state.result.arrays.items():
                if name not in whole:
                    whole[name] = np.empty((group.num_runs, *a.shape[1:]), a.dtype)
                whole[name][chunk.runs(group.num_runs)] = a
        found.append(GroupResult.of(whole))
    return found


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
