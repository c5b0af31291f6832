"""The pure training step, its scan over steps, and the one program that trains a whole grid.

A *group* is a set of configurations that share a program: objective, optimizer and (padded)
layer shapes. Its configurations are laid out in *blocks*; within a block the step is vmapped,
the scan over steps runs inside the block, so that its state stays in cache, and blocks are
spread over devices. All groups of a grid go through one compiled program, called once for every
*segment* of steps (where progress is reported) and every *piece* of the grid (which bounds
memory). Between segments the runs that have not diverged are moved to the first blocks: a block
without any is skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from implicit_accel.linear.networks import Layers
from implicit_accel.linear.objectives import Data, Objective
from implicit_accel.linear.planning import segment_length, split_evenly, step_operations
from implicit_accel.optimizers import Optimizer

# A run whose loss exceeds this multiple of the larger of its first loss and the zero map's has
# diverged, as has one whose loss is not a number. Catapults that recover stay far below it.
DIVERGENCE_FACTOR = 1e6

_AXIS = "configuration"


class Hyper(NamedTuple):
    """What distinguishes the configurations of a group; traced, one row each.

    Attributes:
        learning_rate: η.
        weight_decay: λ.
        target: Excess loss at which a run has arrived.
        active: (N,) booleans, False for the identity layers that pad a shallower network.
    """

    learning_rate: Any
    weight_decay: Any
    target: Any
    active: Any


class RunState(NamedTuple):
    """A run between two steps; one row for each configuration.

    Attributes:
        layers: Parameters.
        opt_state: The optimizer's state.
        limit: Loss above which the run counts as diverged; set at step 0.
        steps_to_target: First step whose excess loss is at the target or below; −1 before that.
        divergence_step: First step whose loss is above the limit or not a number; −1 before that.
    """

    layers: Layers
    opt_state: Any
    limit: Any
    steps_to_target: Any
    divergence_step: Any


@dataclass(frozen=True)
class Program:
    """The static part of a group: what the compiled code depends on.

    Attributes:
        objective: What is minimised.
        optimizer: By what.
        decays: Whether any configuration has weight decay.
        shapes: Layer shapes (h_j, h_{j−1}), padded.
        bias: Whether the networks have biases.
    """

    objective: Objective
    optimizer: Optimizer
    decays: bool
    shapes: tuple[tuple[int, int], ...]
    bias: bool

    def transformation(self, hyper: Hyper) -> optax.GradientTransformation:
        """The optimizer at one configuration's learning rate and weight decay."""
        decay = hyper.weight_decay if self.decays else None
        return self.optimizer.build(hyper.learning_rate, decay)


def train_step(
    program: Program, state: RunState, hyper: Hyper, data: Data, step: Any, num_steps: Any
) -> tuple[RunState, jax.Array]:
    """One step of one run: evaluate, take note, update.

    Steps count updates: the loss of step t is that after t updates, so a run of T steps has
    losses 0 … T, and at step T (or once diverged) the state is left as it is.

    Args:
        program: Static.
        state: The run after ``step`` updates.
        hyper: The run's configuration.
        data: The objective's arrays.
        step: t.
        num_steps: T.

    Returns:
        The state after one more update, and the excess loss at t (inf for a diverged run).
    """
    loss, excess, gradient = program.objective.value_and_grad(state.layers, data, hyper.active)
    limit = jnp.where(step == 0, DIVERGENCE_FACTOR * jnp.maximum(loss, data.zero_loss), state.limit)
    running = state.divergence_step < 0
    # A comparison with NaN is false: written this way round, NaN diverges and never arrives.
    sound = (loss <= limit) & jnp.isfinite(loss)
    divergence_step = jnp.where(running & ~sound, step, state.divergence_step)
    running &= sound
    arrives = running & (state.steps_to_target < 0) & (excess <= hyper.target)
    steps_to_target = jnp.where(arrives, step, state.steps_to_target)

    updates, opt_state = program.transformation(hyper).update(
        gradient, state.opt_state, state.layers
    )
    moves = running & (step < num_steps)

    moved = Layers(*optax.apply_updates(state.layers, updates))  # pyright: ignore

    def where_active(new: tuple[Any, ...], old: tuple[Any, ...]) -> tuple[Any, ...]:
        pairs = enumerate(zip(new, old, strict=True))
        return tuple(jnp.where(moves & hyper.active[j], a, b) for j, (a, b) in pairs)

    layers = Layers(
        where_active(moved.weights, state.layers.weights),
        where_active(moved.biases, state.layers.biases),
    )
    state = RunState(
        layers=layers,
        opt_state=jax.tree.map(
            lambda new, old: jnp.where(moves, new, old), opt_state, state.opt_state
        ),
        limit=limit,
        steps_to_target=steps_to_target,
        divergence_step=divergence_step,
    )
    return state, jnp.where(running, excess, jnp.inf)


class Schedule(NamedTuple):
    """The steps of one segment.

    Attributes:
        steps: (S,) step numbers t.
        slots: (S,) where step t's record goes; one past the last slot of the segment if nowhere.
        recorded: (S,) whether it is recorded.
        num_steps: T.
    """

    steps: Any
    slots: Any
    recorded: Any
    num_steps: Any


def _run_block(
    program: Program,
    num_records: int,
    state: RunState,
    hyper: Hyper,
    data: Data,
    schedule: Schedule,
) -> tuple[RunState, jax.Array, jax.Array]:
    """A segment of a block: (B, …) states in and out, (R, B) excess and held-out losses out."""
    has_held_out = data.held_out_rows.shape[0] > 0
    B, dtype = hyper.learning_rate.shape[0], hyper.learning_rate.dtype
    nothing = jnp.full((num_records + 1, B), jnp.inf, dtype)
    held_nothing = nothing if has_held_out else jnp.zeros((0, B), dtype)
    step_block = jax.vmap(
        lambda state, hyper, step: train_step(
            program, state, hyper, data, step, schedule.num_steps
        ),
        in_axes=(0, 0, None),
    )
    held_out_block = jax.vmap(
        lambda state, hyper: program.objective.held_out_loss(state.layers, data, hyper.active)
    )

    def body(carry: Any, now: tuple[Any, Any, Any]) -> tuple[Any, None]:
        state, excess, held_out = carry
        step, slot, recorded = now
        if has_held_out:
            # The condition is the same for the whole block: a true branch, not a select.
            losses = lax.cond(
                recorded,
                lambda: held_out_block(state, hyper).astype(dtype),
                lambda: jnp.full((B,), jnp.inf, dtype),
            )
            losses = jnp.where(state.divergence_step < 0, losses, jnp.inf)
            held_out = lax.dynamic_update_index_in_dim(held_out, losses, slot, 0)
        state, now_excess = step_block(state, hyper, step)
        excess = lax.dynamic_update_index_in_dim(excess, now_excess, slot, 0)
        return (state, excess, held_out), None

    def train(state: RunState) -> tuple[RunState, jax.Array, jax.Array]:
        fresh = jax.vmap(lambda s, h: program.transformation(h).init(s.layers))(state, hyper)
        starts = schedule.steps[0] == 0
        opt_state = jax.tree.map(
            lambda new, old: jnp.where(starts, new, old), fresh, state.opt_state
        )
        carry = (state._replace(opt_state=opt_state), nothing, held_nothing)
        (state, excess, held_out), _ = lax.scan(
            body, carry, (schedule.steps, schedule.slots, schedule.recorded)
        )
        return state, excess[:-1], held_out[:-1]

    # A block whose every run has diverged (or is padding) costs nothing any more.
    return lax.cond(
        jnp.any(state.divergence_step < 0),
        train,
        lambda state: (state, nothing[:-1], held_nothing[:-1]),
        state,
    )


def _run_groups(
    programs: tuple[Program, ...],
    num_records: int,
    states: tuple[RunState, ...],
    hypers: tuple[Hyper, ...],
    orders: tuple[jax.Array, ...],
    data: tuple[Data, ...],
    schedule: Schedule,
) -> tuple[tuple[RunState, ...], tuple[Hyper, ...], tuple[tuple[jax.Array, jax.Array], ...]]:
    """A segment of every group, on one device; blocks along the leading axis.

    ``orders`` (blocks, B) gives the place, counted over this device's blocks, from which each run
    is taken before the segment.
    """
    new_states, new_hypers, records = [], [], []
    for program, unordered, order, arrays in zip(
        programs, zip(states, hypers, strict=True), orders, data, strict=True
    ):

        def take(a: jax.Array, order: jax.Array = order) -> jax.Array:
            return a.reshape(-1, *a.shape[2:])[order]

        state, hyper = jax.tree.map(take, unordered)

        def run(
            block: tuple[RunState, Hyper], program: Program = program, arrays: Data = arrays
        ) -> tuple[RunState, jax.Array, jax.Array]:
            return _run_block(program, num_records, *block, arrays, schedule)

        new_state, excess, held_out = lax.map(run, (state, hyper))
        new_states.append(new_state)
        new_hypers.append(hyper)
        records.append((excess, held_out))
    return tuple(new_states), tuple(new_hypers), tuple(records)


@dataclass(frozen=True)
class Group:
    """Configurations that share a program.

    Attributes:
        program: Static part.
        data: The objective's arrays (numpy, float64).
        num_configurations: C.
        configurations: Gives the padded initial layers and the hyper-parameters of some of the
            configurations, by number: numpy arrays with a leading axis as long as the argument.
        largest_block: The most configurations that are stepped together; None for no bound.
    """

    program: Program
    data: Data
    num_configurations: int
    configurations: Callable[[np.ndarray], tuple[Layers, Hyper]]
    largest_block: int | None = None


@dataclass(frozen=True)
class Share:
    """A process's part of a grid: every count-th configuration of each group, from index on.

    Attributes:
        index: Which part, 0 … count − 1.
        count: Of how many.
    """

    index: int = 0
    count: int = 1

    def members(self, num_configurations: int) -> np.ndarray:
        """Numbers of the configurations."""
        return np.arange(self.index, num_configurations, self.count)


WHOLE = Share()


@dataclass(frozen=True)
class GroupResult:
    """Trajectories of a group's configurations; C of them, R records.

    Attributes:
        excess_loss: (C, R) L − L*, inf from a run's divergence on.
        held_out_loss: (C, R), or (C, 0) without held-out rows.
        steps_to_target: (C,) steps, −1 if the target was not reached.
        divergence_step: (C,) step, −1 if the run did not diverge.
        layers: Final parameters, leading axis C, in the reduction's basis; None if not kept.
    """

    excess_loss: np.ndarray
    held_out_loss: np.ndarray
    steps_to_target: np.ndarray
    divergence_step: np.ndarray
    layers: Layers | None = None

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> GroupResult:
        """The inverse of `arrays`."""
        excess_loss, held_out_loss, steps_to_target, divergence_step = arrays
        return cls(excess_loss, held_out_loss, steps_to_target, divergence_step)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All but the layers, in the order of the fields."""
        return self.excess_loss, self.held_out_loss, self.steps_to_target, self.divergence_step


@dataclass(frozen=True)
class Timing:
    """What a call of `train_groups` cost.

    Attributes:
        compile_seconds: Tracing, lowering and compiling the program.
        train_seconds: Everything after that.
        num_pieces: Parts that the grid was run in, to bound memory.
        num_segments: Parts that the steps were run in, for progress.
        configuration_steps: Runs × steps.
    """

    compile_seconds: float = 0
    train_seconds: float = 0
    num_pieces: int = 0
    num_segments: int = 0
    configuration_steps: int = 0


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
        record_steps: (R,) steps whose losses are kept.
        num_devices: How many devices the runs were laid out for.
        pieces: The pieces of the grid; None for those not begun.
        results: For each group, what is recorded up to here.
        timing: What it cost up to here.
    """

    num_steps: int
    record_steps: np.ndarray
    num_devices: int
    pieces: tuple[Piece | None, ...]
    results: tuple[GroupResult, ...]
    timing: Timing

    @property
    def is_finished(self) -> bool:
        """Whether every run has been trained to T."""
        return all(p is not None and p.next_step > self.num_steps for p in self.pieces)


Progress = Callable[[int, int], None]

# Called after every segment with a function that takes a snapshot, and whether it was the last
# segment. The snapshot's arrays are training's own: they are good until the call returns.
AfterSegment = Callable[[Callable[[], Snapshot], bool], None]

Device = Any  # jax.Device is a variable to type checkers


@contextlib.contextmanager
def precision_context(precision: str) -> Iterator[np.dtype]:
    """Enables 64-bit arithmetic in JAX while it lasts, if asked for; gives the numpy type."""
    with jax.enable_x64(precision == "float64"):
        yield np.dtype(precision)


def train_groups(
    groups: Sequence[Group],
    *,
    num_steps: int,
    record_steps: np.ndarray,
    precision: str = "float32",
    devices: Sequence[Device] | None = None,
    memory_limit: int | None = None,
    share: Share = WHOLE,
    keep_layers: bool = False,
    progress: Progress | None = None,
    resume: Snapshot | None = None,
    after_segment: AfterSegment | None = None,
) -> tuple[list[GroupResult], Timing]:
    """Trains every configuration of every group, in one compiled program.

    Args:
        groups: What to train.
        num_steps: T, updates per run.
        record_steps: Increasing step numbers in [0, T] whose losses are kept.
        precision: ``float32`` or ``float64``.
        devices: Devices to spread the configurations over; all local ones by default.
        memory_limit: Bytes that states and records may take on all devices together; the grid
            is run in as many equal pieces as that needs. No limit by default.
        share: Which configurations to train; the others' results stay empty (see `merge`).
        keep_layers: Whether to return the final parameters.
        progress: Called with (configuration-steps done, all of them) after every segment.
        resume: A snapshot of a call with the same groups and share to go on from, and as many
            steps or fewer. On as many devices the results are those of an undisturbed call, to
            the bit; on others, or with more steps than before, to rounding.
        after_segment: Called after every segment, see `AfterSegment`; what it raises ends training.

    Returns:
        One result per group, and what it cost, with what led to the snapshot.

    Raises:
        ValueError: If there are no groups, or the snapshot is not one of this grid's.
    """
    if not groups:
        raise ValueError("no groups to train")
    if resume is not None and resume.num_steps > num_steps:
        raise ValueError(f"{resume.num_steps} steps are done already, {num_steps} asked for")
    devices = list(jax.local_devices() if devices is None else devices)
    counts = [len(share.members(g.num_configurations)) for g in groups]
    length = segment_length(
        num_steps,
        operations_per_step=sum(c * _operations(g) for g, c in zip(groups, counts, strict=True)),
        platform=devices[0].platform,
    )
    with precision_context(precision) as dtype:
        if resume is None:
            records = _largest_segment(record_steps, num_steps, length)
            num_pieces = _count_pieces(groups, counts, records, len(devices), memory_limit, dtype)
            pieces: list[Piece | None] = [None] * num_pieces
            results = [_empty_result(g, len(record_steps), dtype) for g in groups]
            laid_out_for, spent = len(devices), Timing()
        else:
            pieces = list(resume.pieces)
            results = [
                _restore(_empty_result(g, len(record_steps), dtype), record_steps, old, resume)
                for g, old in zip(groups, resume.results, strict=True)
            ]
            laid_out_for, spent = resume.num_devices, resume.timing
        begins = [_first_step(piece, num_steps, resume) for piece in pieces]
        # Every segment's records fit the largest one's: the program is the same for all.
        num_records = max(_largest_segment(record_steps, num_steps, length, b) for b in begins)
        segments = [range(begin, num_steps + 1, length) for begin in begins]
        to_go = num_segments = sum(map(len, segments))
        timing = dataclasses.replace(
            spent,
            num_pieces=len(pieces),
            num_segments=spent.num_segments + num_segments,
            configuration_steps=sum(counts) * num_steps,
        )
        engine = _Engine(groups, devices, num_records, dtype)
        began = time.perf_counter()

        def timed() -> Timing:
            return dataclasses.replace(
                timing,
                compile_seconds=spent.compile_seconds + engine.compile_seconds,
                train_seconds=spent.train_seconds
                + time.perf_counter()
                - began
                - engine.compile_seconds,
            )

        def snapshot() -> Snapshot:
            return Snapshot(
                num_steps, record_steps, laid_out_for, tuple(pieces), tuple(results), timed()
            )

        total = sum(counts) * num_steps
        covered, all_steps = sum(begins), len(pieces) * (num_steps + 1)
        for p, starts in enumerate(segments):
            if not starts:
                continue
            begun = pieces[p]
            members, states, hypers = (
                engine.load(begun.members, begun.states)
                if begun is not None
                else engine.load(
                    tuple(_layout(g, share, len(pieces), laid_out_for)[p] for g in groups)
                )
            )
            for start in starts:
                inside = (record_steps >= start) & (record_steps < start + length)
                schedule = _schedule(start, length, record_steps[inside], num_records, num_steps)
                members, states, hypers, records = engine.run(members, states, hypers, schedule)
                for result, member, (excess, held_out) in zip(
                    results, members, records, strict=True
                ):
                    _store(result.excess_loss, member, inside, excess)
                    _store(result.held_out_loss, member, inside, held_out)
                end = min(start + length, num_steps + 1)
                if end > num_steps:
                    _store_ends(results, members, states)
                covered += end - start
                if progress is not None:
                    progress(round(total * covered / all_steps), total)
                if after_segment is not None:

                    def snapshot_here(
                        p: int = p, end: int = end, members: Any = members, states: Any = states
                    ) -> Snapshot:
                        pieces[p] = Piece(end, members, jax.tree.map(np.asarray, states))
                        return snapshot()

                    to_go -= 1
                    after_segment(snapshot_here, to_go == 0)
            if after_segment is not None or keep_layers:
                pieces[p] = Piece(num_steps + 1, members, jax.tree.map(np.asarray, states))
        if keep_layers:
            results = [
                dataclasses.replace(
                    result, layers=_final_layers([p for p in pieces if p is not None], g)
                )
                for g, result in enumerate(results)
            ]
        return results, timed()


def _operations(group: Group) -> int:
    """About how many floating-point operations a step of one of the group's runs takes."""
    return step_operations(
        num_parameters=sum(a * b for a, b in group.program.shapes),
        rows_size=group.data.rows.size,
        num_outputs=group.data.targets.shape[0],
        rows_per_step=len(group.data.rows) if group.program.objective.kind == "layerwise" else 0,
    )


def _first_step(piece: Piece | None, num_steps: int, resume: Snapshot | None) -> int:
    """The step at which a piece goes on; T + 1 if there is nothing left to do."""
    if piece is None or resume is None:
        return 0
    if piece.next_step > num_steps:
        return num_steps + 1
    # A piece that finished an earlier, smaller T has made T updates and evaluated step T; that
    # step is evaluated once more, which changes nothing, and then updated from.
    return min(piece.next_step, resume.num_steps)


def _largest_segment(record_steps: np.ndarray, num_steps: int, length: int, begin: int = 0) -> int:
    """The most records in a segment, of all segments that end where those from ``begin`` do.

    Earlier segments count as well: where training goes on after a break must not change the
    compiled program.
    """
    edges = np.unique([0, *range(begin % length, num_steps + 1, length), num_steps + 1])
    return max(1, int(np.max(np.diff(np.searchsorted(record_steps, edges)))))


class _Engine:
    """The compiled program of a grid, and the moves of its runs to and from the devices."""

    def __init__(
        self,
        groups: Sequence[Group],
        devices: Sequence[Device],
        num_records: int,
        dtype: np.dtype,
    ) -> None:
        mesh = jax.make_mesh(
            (len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices
        )
        self.groups, self.num_devices, self.dtype = groups, len(devices), dtype
        self.compile_seconds = 0.0
        self._spread = NamedSharding(mesh, PartitionSpec(_AXIS))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        programs = tuple(g.program for g in groups)
        self._data = jax.device_put(
            tuple(jax.tree.map(lambda a: np.asarray(a, dtype), g.data) for g in groups),
            self._everywhere,
        )
        self._jitted = jax.jit(
            jax.shard_map(
                lambda *arguments: _run_groups(programs, num_records, *arguments),
                mesh=mesh,
                in_specs=(*[PartitionSpec(_AXIS)] * 3, *[PartitionSpec()] * 2),
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            ),
            donate_argnums=(0, 1),
        )
        self._compiled: Callable[..., Any] | None = None

    def load(
        self, members: tuple[np.ndarray, ...], reached: tuple[RunState, ...] | None = None
    ) -> tuple[tuple[np.ndarray, ...], Any, Any]:
        """Puts a piece on the devices: members, states (initial unless given), hyper-parameters."""
        # Laid out for another number of devices: blocks without runs fill the last one.
        members = tuple(
            np.pad(m, ((0, -len(m) % self.num_devices), (0, 0)), constant_values=-1)
            for m in members
        )
        inputs = [
            _piece_inputs(g, m, self.dtype) for g, m in zip(self.groups, members, strict=True)
        ]
        states = tuple(state for state, _ in inputs)
        if reached is not None:
            states = jax.tree.map(lambda a, b: np.concatenate([a, b[len(a) :]]), reached, states)
        return (
            members,
            jax.device_put(states, self._spread),
            jax.device_put(tuple(hyper for _, hyper in inputs), self._spread),
        )

    def run(
        self, members: tuple[np.ndarray, ...], states: Any, hypers: Any, schedule: Schedule
    ) -> tuple[tuple[np.ndarray, ...], Any, Any, Any]:
        """Runs a segment; live runs are moved to the first blocks before it."""
        orders = tuple(_pack(np.asarray(s.divergence_step) < 0, self.num_devices) for s in states)
        members = tuple(
            _reorder(m, order, self.num_devices) for m, order in zip(members, orders, strict=True)
        )
        arguments = (
            states,
            hypers,
            jax.device_put(orders, self._spread),
            self._data,
            jax.device_put(schedule, self._everywhere),
        )
        if self._compiled is None:
            before = time.perf_counter()
            self._compiled = self._jitted.lower(*arguments).compile()
            self.compile_seconds = time.perf_counter() - before
        states, hypers, records = self._compiled(*arguments)
        return members, states, hypers, records


def _restore(
    empty: GroupResult, record_steps: np.ndarray, old: GroupResult, resume: Snapshot
) -> GroupResult:
    """Results to go on with: what a snapshot recorded, at the steps that are still asked for."""
    both, here, there = np.intersect1d(record_steps, resume.record_steps, return_indices=True)
    if not np.array_equal(both, record_steps[record_steps <= resume.num_steps]):
        raise ValueError("the snapshot lacks records of steps that it has passed")
    empty.excess_loss[:, here] = old.excess_loss[:, there]
    if empty.held_out_loss.shape[1]:
        empty.held_out_loss[:, here] = old.held_out_loss[:, there]
    empty.steps_to_target[:] = old.steps_to_target
    empty.divergence_step[:] = old.divergence_step
    return empty


def _store_ends(
    results: Sequence[GroupResult], members: Sequence[np.ndarray], states: Sequence[RunState]
) -> None:
    """Writes what the states of finished runs have noted."""
    for result, member, state in zip(results, members, states, strict=True):
        real = member.reshape(-1) >= 0
        where = member.reshape(-1)[real]
        result.steps_to_target[where] = _flat(state.steps_to_target)[real]
        result.divergence_step[where] = _flat(state.divergence_step)[real]


def _final_layers(pieces: Sequence[Piece], group: int) -> Layers:
    """The parameters of a group's runs, in the order of their numbers."""
    numbers = np.concatenate([p.members[group].reshape(-1) for p in pieces])
    order = np.argsort(numbers)[np.count_nonzero(numbers < 0) :]
    layers = (p.states[group].layers for p in pieces)
    return jax.tree.map(lambda *a: np.concatenate([_flat(x) for x in a])[order], *layers)


def _flat(blocks: Any) -> np.ndarray:
    """(blocks, block size, …) on devices → (configurations, …) on the host."""
    array = np.asarray(blocks)
    return array.reshape(-1, *array.shape[2:])


def merge(shares: Sequence[Sequence[GroupResult]]) -> list[GroupResult]:
    """Puts together the results of all shares of a grid, in the order of their indices."""
    merged = []
    for parts in zip(*shares, strict=True):
        whole = GroupResult.of(np.array(a) for a in parts[0].arrays)
        for index, part in enumerate(parts):
            mine = Share(index, len(parts)).members(len(whole.steps_to_target))
            for target, a in zip(whole.arrays, part.arrays, strict=True):
                target[mine] = a[mine]
        merged.append(whole)
    return merged


def _empty_result(group: Group, num_records: int, dtype: np.dtype) -> GroupResult:
    C = group.num_configurations
    held_out = num_records if len(group.data.held_out_rows) else 0
    return GroupResult(
        excess_loss=np.full((C, num_records), np.inf, dtype),
        held_out_loss=np.full((C, held_out), np.inf, dtype),
        steps_to_target=np.full(C, -1, np.int64),
        divergence_step=np.full(C, -1, np.int64),
    )


def _store(target: np.ndarray, member: np.ndarray, inside: np.ndarray, records: jax.Array) -> None:
    """Writes a segment's records, (blocks, R, block size), into the rows of their runs."""
    columns = np.flatnonzero(inside)
    if target.shape[1] == 0 or len(columns) == 0:
        return
    rows = np.asarray(records)[:, : len(columns)].transpose(0, 2, 1)
    real = member >= 0
    target[member[real], columns[0] : columns[-1] + 1] = rows[real]


def _pack(alive: np.ndarray, num_devices: int) -> np.ndarray:
    """The order that moves each device's live runs to its first blocks, (blocks, B) places."""
    flat = alive.reshape(num_devices, -1)
    order = np.argsort(~flat, axis=1, kind="stable")
    return order.reshape(alive.shape).astype(np.int32)


def _reorder(a: np.ndarray, order: np.ndarray, num_devices: int) -> np.ndarray:
    """What the program does to the runs, for an array of theirs on the host."""
    flat, places = a.reshape(num_devices, -1), order.reshape(num_devices, -1)
    return np.take_along_axis(flat, places, axis=1).reshape(a.shape)


def _schedule(
    start: int, length: int, recorded: np.ndarray, num_records: int, num_steps: int
) -> Schedule:
    steps = np.arange(start, start + length, dtype=np.int32)
    is_recorded = np.isin(steps, recorded)
    slots = np.where(is_recorded, np.searchsorted(recorded, steps), num_records)
    return Schedule(steps, slots.astype(np.int32), is_recorded, np.int32(num_steps))


def state_shapes(program: Program, dtype: np.dtype) -> RunState:
    """Shapes and types of one run's state."""
    weights = tuple(jax.ShapeDtypeStruct(s, dtype) for s in program.shapes)
    biases = tuple(jax.ShapeDtypeStruct(s[:1], dtype) for s in program.shapes)
    layers = Layers(weights, biases if program.bias else ())
    scalar, count = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), np.int32)
    hyper = Hyper(scalar, scalar, scalar, jax.ShapeDtypeStruct((len(weights),), np.bool_))
    opt_state = jax.eval_shape(lambda h, x: program.transformation(h).init(x), hyper, layers)
    return RunState(layers, opt_state, scalar, count, count)


def _run_bytes(program: Program, num_records: int, dtype: np.dtype) -> int:
    """Device memory of a run: its state, twice more while moved and stepped, and its records."""
    state = jax.tree.leaves(state_shapes(program, dtype))
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in state)
    return 3 * held + 2 * (num_records + 1) * dtype.itemsize


def _count_pieces(
    groups: Sequence[Group],
    counts: Sequence[int],
    num_records: int,
    num_devices: int,
    memory_limit: int | None,
    dtype: np.dtype,
) -> int:
    """The fewest equal pieces that fit the limit; at the most as many as have a run per device."""
    if memory_limit is None:
        return 1
    per_run = [_run_bytes(g.program, num_records, dtype) for g in groups]

    def held(pieces: int) -> int:
        total = 0
        for g, count, size in zip(groups, counts, per_run, strict=True):
            blocks, B = split_evenly(count, g.largest_block, pieces * num_devices)
            total += blocks * B * num_devices * size
        return total

    most = max(1, *(math.ceil(count / num_devices) for count in counts))
    # What one piece would hold, shared out, is a lower bound of their number.
    pieces = min(most, max(1, held(1) // memory_limit))
    while pieces < most and held(pieces) > memory_limit:
        pieces += 1
    return pieces


def _layout(group: Group, share: Share, pieces: int, num_devices: int) -> np.ndarray:
    """(pieces, blocks, block size) numbers of the configurations, −1 where there is none.

    Neighbours go to different devices: learning rates that diverge lie together, and what they
    leave idle is shared. A device's blocks follow one another.
    """
    members = share.members(group.num_configurations)
    per_device, B = split_evenly(len(members), group.largest_block, pieces * num_devices)
    numbers = np.full(pieces * per_device * num_devices * B, -1)
    numbers[: len(members)] = members
    dealt = numbers.reshape(pieces, per_device * B, num_devices).transpose(0, 2, 1)
    return dealt.reshape(pieces, num_devices * per_device, B)


def _piece_inputs(group: Group, members: np.ndarray, dtype: np.dtype) -> tuple[RunState, Hyper]:
    """Initial states and hyper-parameters of a piece, (blocks, block size, …) numpy arrays."""
    blocks, B = members.shape
    flat = members.reshape(-1)
    # Padding is a copy of the first configuration that counts as diverged before it starts.
    layers, hyper = group.configurations(np.where(flat < 0, 0, flat))

    def arrange(a: np.ndarray) -> np.ndarray:
        a = np.asarray(a)
        kind = a.dtype if a.dtype == np.bool_ else dtype
        return np.ascontiguousarray(a.astype(kind, copy=False).reshape(blocks, B, *a.shape[1:]))

    shapes = state_shapes(group.program, dtype)
    opt_state = jax.tree.map(
        lambda leaf: np.zeros((blocks, B, *leaf.shape), leaf.dtype), shapes.opt_state
    )
    state = RunState(
        layers=jax.tree.map(arrange, layers),
        opt_state=opt_state,
        limit=np.zeros((blocks, B), dtype),
        steps_to_target=np.full((blocks, B), -1, np.int32),
        divergence_step=np.where(members < 0, 0, -1).astype(np.int32),
    )
    return state, jax.tree.map(arrange, hyper)
