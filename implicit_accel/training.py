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
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from implicit_accel.networks import Layers
from implicit_accel.optimizers import Optimizer
from implicit_accel.planning import split_evenly
from implicit_accel.reductions import Data, Objective

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
    layers: Layers | None


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


Progress = Callable[[int, int], None]

Device = Any  # jax.Device is a variable to type checkers


def segment_length(num_steps: int, *, most_segments: int = 50, least_steps: int = 200) -> int:
    """Steps run between two reports of progress.

    Long enough that starting a segment costs nothing, short enough for a bar that moves. Losses
    0 … T are T + 1 evaluations; the last segment's surplus steps leave every state as it is.
    """
    segments = max(1, min(most_segments, (num_steps + 1) // least_steps))
    return math.ceil((num_steps + 1) / segments)


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
        share: Which configurations to train; the others' results stay empty (see `shares.merge`).
        keep_layers: Whether to return the final parameters.
        progress: Called with (configuration-steps done, all of them) after every segment.

    Returns:
        One result per group, and what it cost.

    Raises:
        ValueError: If there are no groups.
    """
    if not groups:
        raise ValueError("no groups to train")
    devices = list(jax.local_devices() if devices is None else devices)
    mesh = jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    length = segment_length(num_steps)
    starts = range(0, num_steps + 1, length)
    # Every segment's records fit the largest one's: the program is the same for all.
    edges = np.searchsorted(record_steps, [*starts, num_steps + 1])
    num_records = max(1, int(np.max(np.diff(edges))))
    with precision_context(precision) as dtype:
        counts = [len(share.members(g.num_configurations)) for g in groups]
        pieces = _count_pieces(groups, counts, num_records, len(devices), memory_limit, dtype)
        layouts = [_layout(g, share, pieces, len(devices)) for g in groups]
        results = [_empty_result(g, len(record_steps), dtype) for g in groups]

        spread = NamedSharding(mesh, PartitionSpec(_AXIS))
        everywhere = NamedSharding(mesh, PartitionSpec())
        programs = tuple(g.program for g in groups)
        data = jax.device_put(
            tuple(jax.tree.map(lambda a: np.asarray(a, dtype), g.data) for g in groups), everywhere
        )
        run = jax.jit(
            jax.shard_map(
                lambda *arguments: _run_groups(programs, num_records, *arguments),
                mesh=mesh,
                in_specs=(*[PartitionSpec(_AXIS)] * 3, *[PartitionSpec()] * 2),
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            ),
            donate_argnums=(0, 1),
        )
        compiled, compile_seconds = None, 0.0
        total = sum(counts) * num_steps
        done = 0
        kept: list[list[tuple[np.ndarray, Layers]]] = [[] for _ in groups]
        began = time.perf_counter()
        for piece in range(pieces):
            members = [layout[piece] for layout in layouts]
            inputs = [_piece_inputs(g, m, dtype) for g, m in zip(groups, members, strict=True)]
            states = jax.device_put(tuple(state for state, _ in inputs), spread)
            hypers = jax.device_put(tuple(hyper for _, hyper in inputs), spread)
            alive = [m >= 0 for m in members]
            for s, start in enumerate(starts):
                orders = [_pack(a, len(devices)) for a in alive]
                members = [
                    _reorder(m, order, len(devices))
                    for m, order in zip(members, orders, strict=True)
                ]
                recorded_here = record_steps[edges[s] : edges[s + 1]]
                schedule = _schedule(start, length, recorded_here, num_records, num_steps)
                arguments = (
                    states,
                    hypers,
                    jax.device_put(tuple(orders), spread),
                    data,
                    jax.device_put(schedule, everywhere),
                )
                if compiled is None:
                    before = time.perf_counter()
                    compiled = run.lower(*arguments).compile()
                    compile_seconds = time.perf_counter() - before
                states, hypers, records = compiled(*arguments)
                alive = [np.asarray(state.divergence_step) < 0 for state in states]
                for result, member, (excess, held_out) in zip(
                    results, members, records, strict=True
                ):
                    _store(result.excess_loss, member, edges[s : s + 2], excess)
                    _store(result.held_out_loss, member, edges[s : s + 2], held_out)
                if progress is not None:
                    done = round(total * (piece * len(starts) + s + 1) / (pieces * len(starts)))
                    progress(done, total)
            for g, (result, member, state) in enumerate(zip(results, members, states, strict=True)):
                real = member.reshape(-1) >= 0
                where = member.reshape(-1)[real]
                result.steps_to_target[where] = _flat(state.steps_to_target)[real]
                result.divergence_step[where] = _flat(state.divergence_step)[real]
                if keep_layers:
                    final = jax.tree.map(lambda a, real=real: _flat(a)[real], state.layers)
                    kept[g].append((where, final))
        timing = Timing(
            compile_seconds=compile_seconds,
            train_seconds=time.perf_counter() - began - compile_seconds,
            num_pieces=pieces,
            num_segments=len(starts),
            configuration_steps=total,
        )
    if keep_layers:
        results = [
            GroupResult(
                r.excess_loss, r.held_out_loss, r.steps_to_target, r.divergence_step, _join(parts)
            )
            for r, parts in zip(results, kept, strict=True)
        ]
    return results, timing


def _flat(blocks: Any) -> np.ndarray:
    """(blocks, block size, …) on devices → (configurations, …) on the host."""
    array = np.asarray(blocks)
    return array.reshape(-1, *array.shape[2:])


def _join(parts: list[tuple[np.ndarray, Layers]]) -> Layers:
    order = np.argsort(np.concatenate([where for where, _ in parts]))
    return jax.tree.map(lambda *a: np.concatenate(a)[order], *(layers for _, layers in parts))


def _empty_result(group: Group, num_records: int, dtype: np.dtype) -> GroupResult:
    C = group.num_configurations
    held_out = num_records if len(group.data.held_out_rows) else 0
    return GroupResult(
        excess_loss=np.full((C, num_records), np.inf, dtype),
        held_out_loss=np.full((C, held_out), np.inf, dtype),
        steps_to_target=np.full(C, -1, np.int64),
        divergence_step=np.full(C, -1, np.int64),
        layers=None,
    )


def _store(target: np.ndarray, member: np.ndarray, edges: np.ndarray, records: jax.Array) -> None:
    """Writes a segment's records, (blocks, R, block size), into the rows of their runs."""
    count = edges[1] - edges[0]
    if target.shape[1] == 0 or count == 0:
        return
    rows = np.asarray(records)[:, :count].transpose(0, 2, 1)
    real = member >= 0
    target[member[real], edges[0] : edges[1]] = rows[real]


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


def _state_shapes(program: Program, dtype: np.dtype) -> RunState:
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
    state = jax.tree.leaves(_state_shapes(program, dtype))
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

    shapes = _state_shapes(group.program, dtype)
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
