"""The pure training step of any model, and its scan over the steps of a segment.

A *program* is what the compiled code of some runs depends on. Its runs are laid out in *blocks*:
within a block the step is vmapped, the scan over steps runs inside the block, so that its state
stays in cache, and blocks are spread over devices.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from implicit_accel.errors import UserError
from implicit_accel.observables import Observable, Point

# A run has diverged once its loss exceeds this multiple of the larger of its first loss' size and
# the scale of the loss, or is not a number. Catapults that recover stay far below it.
DIVERGENCE_FACTOR = 1e6

# Names under which losses are recorded. After divergence a loss counts as infinite, since a run
# must not become the best by diverging; every other quantity is then undefined, NaN.
LOSSES = frozenset({"loss", "excess_loss", "held_out_loss"})

Params = Any
Data = Any
Values = Mapping[str, Any]


class Evaluation(NamedTuple):
    """What a task says of some parameters on a batch.

    Attributes:
        loss: What is minimised, a scalar; it decides whether a run has diverged.
        gradient: Its gradient, with the structure of the parameters.
        excess: What is recorded and compared with the target: the loss above its optimum.
        aux: Further scalars to record, by name.
    """

    loss: jax.Array
    gradient: Params
    excess: jax.Array
    aux: dict[str, jax.Array]


class Task(ABC):
    """What is trained: pure functions of a pytree of parameters, traced under jit and vmap.

    Everything but the parameters' structure may depend on the hyper-parameters ``hp``, a mapping
    from names to traced numbers (or to whatever a program has fixed).

    Attributes:
        is_random: Whether `evaluate` needs a key (dropout, noise).
        has_held_out: Whether there are data for `held_out_loss`.
    """

    is_random: bool = False
    has_held_out: bool = False

    @abstractmethod
    def evaluate(self, params: Params, batch: Data, hp: Values, key: Any) -> Evaluation:
        """Loss, gradient and what is recorded.

        Args:
            params: The parameters.
            batch: The data, or a mini-batch of them.
            hp: Hyper-parameters.
            key: For randomness; a function of the run's seed and the step. None where the task
                needs none, and where it is evaluated for an observable.
        """

    def init(self, hp: Values) -> Params:
        """Initial parameters of a run; only for groups that do not provide them."""
        raise TypeError(f"{type(self).__name__} starts from parameters that are given, not {hp}")

    def take(self, data: Data, rows: jax.Array | None) -> Data:
        """The mini-batch of these rows; all that is trained on for None."""
        if rows is not None:
            raise TypeError(f"{type(self).__name__} is trained on the full batch")
        return data

    def loss(self, params: Params, batch: Data, hp: Values, key: Any) -> Any:
        """The loss alone, for optimizers which evaluate it along a line; see `evaluate`."""
        return self.evaluate(params, batch, hp, key).loss

    def key(self, hp: Values, step: Any) -> Any:
        """The key of a step, for `evaluate`; only where ``is_random``."""
        return jax.random.fold_in(jax.random.key(hp["seed"]), step)

    def model(self, params: Params) -> Any:
        """The pytree that users know as the model; ``params`` are its trained arrays."""
        return params

    def trained(self, model: Any) -> Params:
        """The inverse of `model`."""
        return model

    def reference_loss(self, data: Data) -> Any:  # noqa: ARG002
        """Scale of the loss; lower bound for the divergence threshold over its factor."""
        return 0.0

    def optimum(self, data: Data) -> Any:  # noqa: ARG002
        """L*, the smallest loss there is, or 0 where it is not known."""
        return 0.0

    def trainable(self, hp: Values) -> Any | None:  # noqa: ARG002
        """Booleans that broadcast to the parameters' leaves, False where frozen; None for all."""
        return None

    def held_out_loss(self, params: Params, data: Data, hp: Values) -> Any:  # noqa: ARG002
        """Loss on the held-out data, if there are any."""
        raise TypeError(f"{type(self).__name__} has no held-out data")


class Hyper(NamedTuple):
    """What distinguishes the runs of a program; traced, one row each.

    Attributes:
        values: Hyper-parameters by name.
        target: Excess loss at which a run has reached its target.
        order: Number of the order in which the run takes mini-batches; 0 without these.
    """

    values: dict[str, Any]
    target: Any
    order: Any


class RunState(NamedTuple):
    """A run between two steps; one row for each run.

    Attributes:
        params: Parameters.
        opt_state: The optimizer's state.
        limit: Loss above which the run counts as diverged; set at step 0.
        steps_to_target: First step whose excess loss is at the target or below; −1 before that.
        divergence_step: First step whose loss is above the limit or not a number; −1 before that.
    """

    params: Params
    opt_state: Any
    limit: Any
    steps_to_target: Any
    divergence_step: Any


@dataclass(frozen=True)
class Program:
    """What the compiled code of some runs depends on.

    Attributes:
        task: What is trained.
        optimizer: Makes the optax transformation from the hyper-parameters.
        fixed: Hyper-parameters that are the same for all runs and may be anything.
        initialises: Whether runs start from `Task.init`, in the program, or from given states.
        aux: Names of what `Task.evaluate` records beside the excess loss.
        is_entrywise: Whether the optimizer moves every entry by that entry's own gradients alone,
            or what is frozen has no gradient: then it may see what is frozen, and a pass over the
            gradient is saved.
        losses: Names, beyond `LOSSES`, of recorded quantities that are losses.
    """

    task: Task
    optimizer: Callable[[Values], optax.GradientTransformation]
    fixed: Values = field(default_factory=dict)
    initialises: bool = False
    aux: tuple[str, ...] = ()
    is_entrywise: bool = False
    losses: frozenset[str] = frozenset()

    def undefined(self, name: str) -> float:
        """What is recorded of a quantity from a run's divergence on."""
        return jnp.inf if name in LOSSES | self.losses else jnp.nan

    def visible(self, mask: Any | None, tree: Any) -> Any:
        """The tree with zeros in the place of what is frozen: no optimizer shall see it."""
        if mask is None or self.is_entrywise:
            return tree
        return jax.tree.map(lambda m, a: jnp.where(m, a, jnp.zeros_like(a)), mask, tree)

    def values(self, hyper: Hyper) -> dict[str, Any]:
        """All hyper-parameters of a run."""
        return {**self.fixed, **hyper.values}

    def start(self, params: Params, hyper: Hyper) -> tuple[Params, Any]:
        """A run's first parameters and optimizer state.

        Args:
            params: What the run starts from, if not from `Task.init`.
            hyper: Its configuration.
        """
        values = self.values(hyper)
        if self.initialises:
            like = params
            params = jax.tree.map(lambda a, b: a.astype(b.dtype), self.task.init(values), like)
        mask = self.task.trainable(values)
        return params, _raw_keys(self.optimizer(values).init(self.visible(mask, params)))

    def update(
        self, gradient: Params, opt_state: Any, params: Params, values: Values, **extra: Any
    ) -> tuple[Params, Any]:
        """The optimizer's update and its next state.

        Args:
            gradient: Zero where frozen, see `visible`.
            opt_state: From `start` or the update before.
            params: As the optimizer sees them.
            values: The run's hyper-parameters.
            **extra: What some optimizers need besides, by optax's names: ``value``, ``grad`` and
                ``value_fn`` (plateau schedules, Polyak's step, line searches). Others ignore them.
        """
        optimizer = optax.with_extra_args_support(self.optimizer(values))
        takes = inspect.signature(optimizer.update).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in takes):
            extra = {p.name: extra[p.name] for p in takes if p.name in extra}
        kinds = jax.eval_shape(optimizer.init, params)
        updates, new = optimizer.update(gradient, _typed_keys(opt_state, kinds), params, **extra)
        return updates, _raw_keys(new)


_KEY_KINDS = ("threefry2x32", "rbg", "unsafe_rbg")


def _is_key(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _raw_keys(tree: Any) -> Any:
    """Typed JAX keys as plain numbers, which can be stored like any other state."""
    return jax.tree.map(lambda a: jax.random.key_data(a) if _is_key(a) else a, tree)


def _typed_keys(tree: Any, kinds: Any) -> Any:
    """The inverse of `_raw_keys`, for a state with these types."""

    def one(kind: Any, a: Any) -> Any:
        if not _is_key(kind):
            return a
        # JAX gives no name for the implementation of a type alone.
        impl = next(n for n in _KEY_KINDS if jax.random.key(0, impl=n).dtype == kind.dtype)
        return jax.random.wrap_key_data(a, impl=impl)

    return jax.tree.map(one, kinds, tree)


def train_step(
    program: Program,
    state: RunState,
    hyper: Hyper,
    data: Data,
    rows: jax.Array | None,
    step: Any,
    num_steps: Any,
) -> tuple[RunState, dict[str, jax.Array]]:
    """One step of one run: evaluate, take note, update.

    Steps count updates: the loss of step t is that after t updates, so a run of T steps has
    losses 0 … T, and at step T (or once diverged) the state is left as it is.

    Args:
        program: Static.
        state: The run after ``step`` updates.
        hyper: The run's configuration.
        data: The task's arrays.
        rows: (n,) numbers of the mini-batch's rows; None for the full batch.
        step: t.
        num_steps: T.

    Returns:
        The state after one more update, and what is recorded at t (`Program.undefined` for a
        diverged run).
    """
    task, values = program.task, program.values(hyper)
    batch = task.take(data, rows)
    key = task.key(values, step) if task.is_random else None
    now = task.evaluate(state.params, batch, values, key)
    # The size of the first loss: a likelihood's may be negative, or 0 by chance.
    start_limit = DIVERGENCE_FACTOR * jnp.maximum(jnp.abs(now.loss), task.reference_loss(data))
    limit = jnp.where(step == 0, start_limit, state.limit)
    running = state.divergence_step < 0
    # A comparison with NaN is false: written this way round, NaN diverges and reaches no target.
    valid = (now.loss <= limit) & jnp.isfinite(now.loss)
    divergence_step = jnp.where(running & ~valid, step, state.divergence_step)
    running &= valid
    reaches = running & (state.steps_to_target < 0) & (now.excess <= hyper.target)

    mask = task.trainable(values)

    def value_fn(params: Params) -> Any:
        if mask is not None:  # the optimizer sees zeros where parameters are frozen
            params = jax.tree.map(jnp.where, mask, params, state.params)
        return task.loss(params, batch, values, key)

    gradient = program.visible(mask, now.gradient)
    updates, opt_state = program.update(
        gradient, state.opt_state, program.visible(mask, state.params), values,
        value=now.loss, grad=gradient, value_fn=value_fn,
    )  # fmt: skip
    moved = optax.apply_updates(state.params, updates)
    moves = running & (step < num_steps)

    def where_moves(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, old)

    if mask is None:
        params = where_moves(moved, state.params)
    else:
        params = jax.tree.map(
            lambda m, new, old: jnp.where(moves & m, new, old), mask, moved, state.params
        )
    state = RunState(
        params=params,
        opt_state=where_moves(opt_state, state.opt_state),
        limit=limit,
        steps_to_target=jnp.where(reaches, step, state.steps_to_target),
        divergence_step=divergence_step,
    )
    records = {"excess_loss": now.excess} | {name: now.aux[name] for name in program.aux}
    return state, {
        name: jnp.where(running, a, program.undefined(name)) for name, a in records.items()
    }


@dataclass(frozen=True)
class Watch:
    """Observables that are evaluated at the same steps.

    Attributes:
        observables: By name.
        num_records: The most of these steps in a segment.
    """

    observables: Mapping[str, Observable]
    num_records: int


class Schedule(NamedTuple):
    """The steps of one segment.

    Attributes:
        steps: (S,) step numbers t.
        slots: (S,) where step t's record goes; one past the last slot of the segment if nowhere.
        watch_slots: For each watch (S,) the same.
        watched: For each watch (S,) whether it is evaluated.
        num_steps: T.
        batches: For each program (orders, S, n) rows of the mini-batches, or None.
    """

    steps: Any
    slots: Any
    watch_slots: tuple[Any, ...]
    watched: tuple[Any, ...]
    num_steps: Any
    batches: tuple[Any, ...]


def observe(
    program: Program,
    observables: Mapping[str, Observable],
    state: RunState,
    hyper: Hyper,
    data: Data,
    step: Any,
) -> dict[str, jax.Array]:
    """Observables of one run; `Program.undefined` from its divergence on.

    A loss that is not a number counts as infinite.

    Raises:
        UserError: If one of them is not a single number.
    """
    task, values = program.task, program.values(hyper)

    def value_and_grad(params: Params) -> tuple[jax.Array, Params]:
        found = task.evaluate(task.trained(params), task.take(data, None), values, None)
        return found.loss, found.gradient

    def held_out_loss(params: Params) -> Any:
        return task.held_out_loss(task.trained(params), data, values)

    mask = task.trainable(values)
    point = Point(
        parameters=task.model(state.params),
        trained=state.params,
        value_and_grad=value_and_grad,
        held_out_loss=held_out_loss if task.has_held_out else None,
        trainable=jax.tree.map(lambda _: True, state.params) if mask is None else mask,
        opt_state=state.opt_state,
        hyper=values,
        data=data,
        loss_optimum=task.optimum(data),
        step=step,
    )
    dtype = state.limit.dtype
    found = {name: _scalar(name, f(point), dtype) for name, f in observables.items()}
    running = state.divergence_step < 0
    return {
        name: jnp.where(running & ~jnp.isnan(value), value, program.undefined(name))
        for name, value in found.items()
    }


def _scalar(name: str, value: Any, dtype: Any) -> jax.Array:
    leaves = jax.tree.leaves(value)
    if not jax.tree_util.all_leaves([value]) or [jnp.shape(a) for a in leaves] != [()]:
        found = jax.tree.map(jnp.shape, value)
        raise UserError(f"record: {name} must return one number, not what has shapes {found}")
    return jnp.asarray(value, dtype)


Records = dict[str, jax.Array]


def _no_records(
    program: Program, size: int, names: tuple[str, ...], num_runs: int, dtype: Any
) -> Records:
    """Room for records; what is not to be kept goes to one more slot, the last."""
    return {name: jnp.full((size + 1, num_runs), program.undefined(name), dtype) for name in names}


def _put(records: Records, now: Records, slot: Any) -> Records:
    return {
        name: lax.dynamic_update_index_in_dim(records[name], now[name], slot, 0) for name in records
    }


def run_block(
    program: Program,
    number: int,
    num_records: int,
    watches: tuple[Watch, ...],
    state: RunState,
    hyper: Hyper,
    data: Data,
    schedule: Schedule,
) -> tuple[RunState, tuple[Records, ...]]:
    """A segment of a block of B runs.

    Args:
        program: Static.
        number: Of the program, among those that are run together.
        num_records: R, the most recorded steps in a segment.
        watches: Static; what else is recorded.
        state: With a leading axis B.
        hyper: Likewise.
        data: The task's arrays.
        schedule: The segment.

    Returns:
        States, and for the steps and every watch the records (R, B) by name.
    """
    B, dtype = hyper.target.shape[0], hyper.target.dtype
    batches = schedule.batches[number]

    empty = (
        _no_records(program, num_records, ("excess_loss", *program.aux), B, dtype),
        *(_no_records(program, w.num_records, tuple(w.observables), B, dtype) for w in watches),
    )

    def one_step(state: RunState, hyper: Hyper, step: Any, position: Any) -> Any:
        rows = None if batches is None else batches[hyper.order, position]
        return train_step(program, state, hyper, data, rows, step, schedule.num_steps)

    step_block = jax.vmap(one_step, in_axes=(0, 0, None, None))

    def watch_block(watch: Watch, state: RunState, step: Any) -> Records:
        return jax.vmap(lambda s, h: observe(program, watch.observables, s, h, data, step))(
            state, hyper
        )

    def body(carry: Any, now: tuple[Any, ...]) -> tuple[Any, None]:
        state, records = carry
        step, position, slot, watch_slots, watched = now
        seen = [
            # The condition is the same for the whole block: a true branch, not a select.
            lax.cond(
                is_watched,
                lambda r, watch=watch, at=at: _put(r, watch_block(watch, state, step), at),
                lambda r: r,
                record,
            )
            for watch, record, at, is_watched in zip(
                watches, records[1:], watch_slots, watched, strict=True
            )
        ]
        state, recorded = step_block(state, hyper, step, position)
        return (state, (_put(records[0], recorded, slot), *seen)), None

    def begun(state: RunState) -> RunState:
        """The states with what step 0 makes; only that goes through a branch, which copies."""
        made = (state.params if program.initialises else None, state.opt_state)
        if not jax.tree.leaves(made):
            return state

        def fresh(params: Params) -> tuple[Params | None, Any]:
            params, opt_state = jax.vmap(program.start)(params, hyper)
            return params if program.initialises else None, opt_state

        params, opt_state = lax.cond(
            schedule.steps[0] == 0, lambda: fresh(state.params), lambda: made
        )
        return state._replace(
            params=params if program.initialises else state.params, opt_state=opt_state
        )

    def train(state: RunState) -> tuple[RunState, tuple[Records, ...]]:
        state = begun(state)
        positions = jnp.arange(len(schedule.steps))
        steps = (
            schedule.steps, positions, schedule.slots, schedule.watch_slots, schedule.watched
        )  # fmt: skip
        (state, records), _ = lax.scan(body, (state, empty), steps)
        return state, jax.tree.map(lambda a: a[:-1], records)

    # A block whose every run has diverged (or is padding) costs nothing any more.
    return lax.cond(
        jnp.any(state.divergence_step < 0),
        train,
        lambda state: (state, jax.tree.map(lambda a: a[:-1], empty)),
        state,
    )


def run_programs(
    programs: tuple[Program, ...],
    num_records: int,
    watches: tuple[tuple[Watch, ...], ...],
    states: tuple[RunState, ...],
    hypers: tuple[Hyper, ...],
    orders: tuple[jax.Array, ...],
    data: tuple[Data, ...],
    schedule: Schedule,
) -> tuple[tuple[RunState, ...], tuple[Hyper, ...], tuple[tuple[Records, ...], ...]]:
    """A segment of every program's runs, on one device; blocks along the leading axis.

    ``orders`` (blocks, B) gives the place, counted over this device's blocks, from which each run
    is taken before the segment.
    """
    new_states, new_hypers, records = [], [], []
    for number in range(len(programs)):

        def take(a: jax.Array, order: jax.Array = orders[number]) -> jax.Array:
            return a.reshape(-1, *a.shape[2:])[order]

        state, hyper = jax.tree.map(take, (states[number], hypers[number]))

        def run(block: tuple[RunState, Hyper], number: int = number) -> Any:
            return run_block(
                programs[number], number, num_records, watches[number], *block, data[number],
                schedule,
            )  # fmt: skip

        new_state, recorded = lax.map(run, (state, hyper))
        new_states.append(new_state)
        new_hypers.append(hyper)
        records.append(recorded)
    return tuple(new_states), tuple(new_hypers), tuple(records)
