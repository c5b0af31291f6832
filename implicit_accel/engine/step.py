"""The pure training step of any model, and its loop over the steps of a dispatch.

A *program* is what the compiled code of some runs depends on. Its runs are laid out in *blocks*:
within a block the step is vmapped, the loop over steps runs inside the block, so that its state
stays in cache, and blocks are spread over devices.
"""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from implicit_accel.engine.layout import MOST_RECORDS
from implicit_accel.errors import UserError
from implicit_accel.observables import Observable, Point

# A run has diverged once its loss exceeds this multiple of the larger of its first loss' size and
# the scale of the loss, or is not a number. Catapults that recover stay far below it.
DIVERGENCE_FACTOR = 1e6

# Names of recorded losses. From divergence on they are infinite, so that statistics rank a diverged
# run last; every other quantity is NaN.
LOSSES = frozenset({"loss", "excess_loss", "held_out_loss"})

Params = Any
Data = Any
Values = Mapping[str, Any]


class Evaluation(NamedTuple):
    """Loss, gradient and recorded quantities of some parameters on a batch.

    Attributes:
        loss: What is minimised, a scalar; divergence is decided by it.
        gradient: Its gradient, with the structure of the parameters.
        excess: What is recorded and compared with the target: the loss above its optimum.
        aux: Further scalars to record, by name.
        model_state: The state after the evaluation; () for tasks without.
    """

    loss: jax.Array
    gradient: Params
    excess: jax.Array
    aux: dict[str, jax.Array]
    model_state: Any = ()


class Task(ABC):
    """What is trained: pure functions of a pytree of parameters, traced under jit and vmap.

    Everything but the parameters' structure may depend on the hyper-parameters ``hp``, a mapping
    from names to traced numbers (or to whatever a program has fixed).

    Attributes:
        is_random: Whether `evaluate` needs a key (dropout, noise).
        has_held_out: Whether there are data for `held_out_loss`.
        has_state: Whether runs carry a state beside their parameters (running averages). Then
            initial parameters are a pair (parameters, state) everywhere.
        state: The state to which `at` has bound the task, as the user's pytree; None without.
    """

    is_random: bool = False
    has_held_out: bool = False
    has_state: bool = False
    state: Any = None

    def at(self, model_state: Any, *, train: bool) -> Task:  # noqa: ARG002
        """The task with a run's state, from which the functions below compute.

        Args:
            model_state: Arrays; () for tasks without state.
            train: Whether it is a step of training; False for evaluations along the way.
        """
        return self

    @abstractmethod
    def evaluate(self, params: Params, batch: Data, hp: Values, key: Any) -> Evaluation:
        """Loss, gradient and recorded quantities.

        Args:
            params: The parameters.
            batch: The data, or a mini-batch of them.
            hp: Hyper-parameters.
            key: For randomness; a function of the run's seed and the step. None where the task
                needs none, and where it is evaluated for an observable.
        """

    def init(self, hp: Values) -> Params:
        """Initial parameters of a run, see `has_state`; for groups that do not provide them."""
        raise TypeError(f"{type(self).__name__} needs initial parameters: it makes none from {hp}")

    def take(self, data: Data, rows: jax.Array | None) -> Data:
        """The mini-batch of these rows; all training data for None."""
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
        """The user's pytree; ``params`` are its trained arrays."""
        return params

    def trained(self, model: Any) -> Params:
        """The inverse of `model`."""
        return model

    def reference_loss(self, data: Data) -> Any:  # noqa: ARG002
        """Scale of the loss; lower bound for the divergence threshold over its factor."""
        return 0.0

    def optimum(self, data: Data) -> Any:  # noqa: ARG002
        """L*, the smallest possible loss, or 0 where it is not known."""
        return 0.0

    def trainable(self, hp: Values) -> Any | None:  # noqa: ARG002
        """Booleans that broadcast to the parameters' leaves, False where frozen; None for all."""
        return None

    def held_out_loss(self, params: Params, data: Data, hp: Values) -> Any:  # noqa: ARG002
        """Loss on the held-out data, if there are any."""
        raise TypeError(f"{type(self).__name__} has no held-out data")


class Hyper(NamedTuple):
    """The configuration of a run, in which it may differ from others of its program; traced.

    Attributes:
        values: Hyper-parameters by name.
        target: Excess loss at which a run has reached its target.
        order: Number of the order in which the run takes mini-batches; 0 without these.
    """

    values: dict[str, Any]
    target: Any
    order: Any


class Best(NamedTuple):
    """What is kept of a run at the step with the best score.

    Attributes:
        score: Smaller is better; inf before the first step that counts.
        kept: See `Program.kept`; undefined before the first step that counts.
    """

    score: Any
    kept: Any


@dataclass(frozen=True)
class BestBy:
    """By what a run's best parameters are chosen.

    Attributes:
        name: Of a recorded quantity.
        value: Its best possible value; None for a loss, of which less is better.
    """

    name: str
    value: float | None = None

    def score(self, recorded: Any) -> Any:
        """The score of recorded values: the loss, or the distance from the best value."""
        return recorded if self.value is None else abs(recorded - self.value)


class RunState(NamedTuple):
    """A run between two steps; one row for each run.

    Attributes:
        params: Parameters.
        opt_state: The optimizer's state.
        model_state: What the task carries from step to step beside the parameters; () for tasks
            without state.
        best: The best parameters; None where they are not kept.
        limit: Loss above which the run counts as diverged; set at step 0.
        steps_to_target: First step whose excess loss is at the target or below; −1 before that.
        divergence_step: First step whose loss is above the limit or not a number; −1 before that.
    """

    params: Params
    opt_state: Any
    model_state: Any
    best: Best | None
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
        initialises: Whether the program draws initial parameters by `Task.init`; otherwise they are
            given.
        aux: Names of what `Task.evaluate` records beside the excess loss.
        is_entrywise: Whether the optimizer moves every entry by that entry's own gradients alone,
            or frozen entries have no gradient. Then frozen entries need no masking, which saves a
            pass over the gradient.
        losses: Names, beyond `LOSSES`, of recorded quantities that are losses.
        best_by: By what best parameters are chosen; None where they are not kept.
    """

    task: Task
    optimizer: Callable[[Values], optax.GradientTransformation]
    fixed: Values = field(default_factory=dict)
    initialises: bool = False
    aux: tuple[str, ...] = ()
    is_entrywise: bool = False
    losses: frozenset[str] = frozenset()
    best_by: BestBy | None = None

    def undefined(self, name: str) -> float:
        """The value that is recorded of a quantity from a run's divergence on."""
        return jnp.inf if name in LOSSES | self.losses else jnp.nan

    def mask_frozen(self, mask: Any | None, tree: Any) -> Any:
        """Zero frozen entries before the optimizer sees them.

        Otherwise optimizers which normalise by all entries' gradients (clipping by the global norm,
        trust ratios) would depend on the frozen ones.
        """
        if mask is None or self.is_entrywise:
            return tree
        return jax.tree.map(lambda m, a: jnp.where(m, a, jnp.zeros_like(a)), mask, tree)

    def values(self, hyper: Hyper) -> dict[str, Any]:
        """All hyper-parameters of a run."""
        return {**self.fixed, **hyper.values}

    def kept(self, state: RunState) -> Any:
        """What may be kept of a run: its parameters; with a state the pair of both."""
        return (state.params, state.model_state) if self.task.has_state else state.params

    def split(self, initial: Any) -> tuple[Params, Any]:
        """The parameters and the state that a run starts from, of what a `Group` provides."""
        return initial if self.task.has_state else (initial, ())

    def start(self, params: Params, model_state: Any, hyper: Hyper) -> tuple[Params, Any, Any]:
        """A run's initial parameters, model state and optimizer state.

        Args:
            params: Initial parameters; if the program draws them, anything of their shapes and
                types.
            model_state: The same of the state.
            hyper: The run's configuration.
        """
        values = self.values(hyper)
        if self.initialises:
            params, model_state = jax.tree.map(
                lambda a, b: a.astype(b.dtype),
                self.split(self.task.init(values)), (params, model_state),
            )  # fmt: skip
        mask = self.task.trainable(values)
        opt_state = raw_keys(self.optimizer(values).init(self.mask_frozen(mask, params)))
        return params, model_state, opt_state

    def update(
        self, gradient: Params, opt_state: Any, params: Params, values: Values, **extra: Any
    ) -> tuple[Params, Any]:
        """The optimizer's update and its next state.

        Args:
            gradient: Zero where frozen, see `mask_frozen`.
            opt_state: From `start` or the update before.
            params: Zero where frozen, likewise.
            values: The run's hyper-parameters.
            **extra: Further arguments of some optimizers, by optax's names: ``value``, ``grad`` and
                ``value_fn`` (plateau schedules, Polyak's step, line searches), and ``excess``, the
                loss above its optimum. Others ignore them.
        """
        optimizer = optax.with_extra_args_support(self.optimizer(values))
        # The wrapper leaves a transformation with extra arguments as it is: some take a few of
        # these by name and have no **kwargs for the others.
        takes = inspect.signature(optimizer.update).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in takes):
            extra = {p.name: extra[p.name] for p in takes if p.name in extra}
        kinds = jax.eval_shape(optimizer.init, params)
        updates, new = optimizer.update(gradient, _typed_keys(opt_state, kinds), params, **extra)
        return updates, raw_keys(new)


_KEY_KINDS = ("threefry2x32", "rbg", "unsafe_rbg")


def is_key(a: Any) -> bool:
    """Whether an array is one of typed JAX keys."""
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def raw_keys(tree: Any) -> Any:
    """Typed JAX keys as plain numbers, which can be stored like any other state."""
    return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, tree)


def key_of_kind(kind: Any, data: Any) -> jax.Array:
    """The key of a type, or of that of an array of keys, from its numbers."""
    # JAX gives no name for the implementation of a type alone.
    impl = next(n for n in _KEY_KINDS if jax.random.key(0, impl=n).dtype == kind.dtype)
    return jax.random.wrap_key_data(data, impl=impl)


def _typed_keys(tree: Any, kinds: Any) -> Any:
    """The inverse of `raw_keys`, for a state with these types."""
    return jax.tree.map(lambda k, a: key_of_kind(k, a) if is_key(k) else a, kinds, tree)


def train_step(
    program: Program,
    state: RunState,
    hyper: Hyper,
    data: Data,
    rows: jax.Array | None,
    step: Any,
    num_steps: Any,
) -> tuple[RunState, dict[str, jax.Array]]:
    """One step of one run: evaluates, records, updates.

    Steps count updates: the loss of step t is that after t updates, so a run of T steps has
    losses 0 … T. At step T, and from divergence on, parameters and model state stay the same.

    Args:
        program: Static.
        state: The run after ``step`` updates.
        hyper: The run's configuration.
        data: The task's arrays.
        rows: (n,) numbers of the mini-batch's rows; None for the full batch.
        step: t.
        num_steps: T.

    Returns:
        The state after one more update, and the values recorded at t (`Program.undefined` for a
        diverged run).
    """
    task = program.task.at(state.model_state, train=True)
    values = program.values(hyper)
    batch = task.take(data, rows)
    key = task.key(values, step) if task.is_random else None
    now = task.evaluate(state.params, batch, values, key)
    # The size of the first loss: a likelihood's may be negative, or 0 by chance.
    initial_limit = DIVERGENCE_FACTOR * jnp.maximum(jnp.abs(now.loss), task.reference_loss(data))
    limit = jnp.where(step == 0, initial_limit, state.limit)
    running = state.divergence_step < 0
    # Comparisons with NaN are false: written this way round, a NaN loss counts as diverged, and a
    # NaN excess loss does not reach the target.
    valid = (now.loss <= limit) & jnp.isfinite(now.loss)
    divergence_step = jnp.where(running & ~valid, step, state.divergence_step)
    running &= valid
    reaches = running & (state.steps_to_target < 0) & (now.excess <= hyper.target)

    mask = task.trainable(values)

    # optax's line searches refuse arguments that neither they nor this function take.
    def value_fn(params: Params, excess: Any = None) -> Any:  # noqa: ARG001
        if mask is not None:  # the optimizer's parameters are zero where they are frozen
            params = jax.tree.map(jnp.where, mask, params, state.params)
        return task.loss(params, batch, values, key)

    gradient = program.mask_frozen(mask, now.gradient)
    updates, opt_state = program.update(
        gradient, state.opt_state, program.mask_frozen(mask, state.params), values,
        value=now.loss, excess=now.excess, grad=gradient, value_fn=value_fn,
    )  # fmt: skip
    moved = optax.apply_updates(state.params, updates)
    # At T and after divergence the state is kept by a select: under vmap a branch would evaluate
    # both sides too.
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
        model_state=where_moves(now.model_state, state.model_state),
        best=state.best,
        limit=limit,
        steps_to_target=jnp.where(reaches, step, state.steps_to_target),
        divergence_step=divergence_step,
    )
    records = {"excess_loss": now.excess} | {name: now.aux[name] for name in program.aux}
    return state, {
        name: jnp.where(running, a, program.undefined(name)) for name, a in records.items()
    }


Watch = Mapping[str, Observable]
"""Observables by name which are recorded at the same steps."""


class Schedule(NamedTuple):
    """The steps of one dispatch of the compiled program: S of them at most.

    Attributes:
        first: Number of the first step.
        count: How many steps are taken, 1 … S.
        num_steps: T.
        record_indices: For losses, and for each watch, (S,) the row of the dispatch's records to
            which each step's values go; R (a dummy row) if they are not recorded.
        batches: For each program (orders, S, n) rows of the mini-batches; None for full batches.
        is_candidate: (S,) whether the best parameters may be those of the step; None where they are
            not kept.
    """

    first: Any
    count: Any
    num_steps: Any
    record_indices: tuple[Any, ...]
    batches: tuple[Any, ...]
    is_candidate: Any = None


def observe(
    program: Program,
    observables: Mapping[str, Observable],
    state: RunState,
    hyper: Hyper,
    data: Data,
    step: Any,
) -> dict[str, jax.Array]:
    """Observables of one run; `Program.undefined` from its divergence on.

    A loss that is NaN counts as infinite.

    Raises:
        UserError: If one of them is not a single number.
    """
    task = program.task.at(state.model_state, train=False)
    values = program.values(hyper)

    def value_and_grad(params: Params) -> tuple[jax.Array, Params]:
        found = task.evaluate(task.trained(params), task.take(data, None), values, None)
        return found.loss, found.gradient

    def held_out_loss(params: Params) -> Any:
        return task.held_out_loss(task.trained(params), data, values)

    mask = task.trainable(values)

    def point() -> Point:
        return Point(
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
            state=task.state,
        )

    dtype = state.limit.dtype
    # A point for each: Equinox invalidates a state in place once it has been set.
    found = {name: _scalar(name, f(point()), dtype) for name, f in observables.items()}
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


def _empty_records(program: Program, names: tuple[str, ...], num_runs: int, dtype: Any) -> Records:
    """Records before a dispatch, (R + 1, B) by name; R is `MOST_RECORDS`.

    The last row is a dummy: every step writes to some row, and steps that are not recorded write to
    that one. This spares a branch in every step, which on a GPU waits for its condition.
    """
    shape = (MOST_RECORDS + 1, num_runs)
    return {name: jnp.full(shape, program.undefined(name), dtype) for name in names}


def _without_dummy(records: tuple[Records, ...]) -> tuple[Records, ...]:
    return jax.tree.map(lambda a: a[:-1], records)


def _write(records: Records, values: Records, record_index: Any) -> Records:
    """The records with a step's values, (B,) by name, in one row."""
    return {
        name: lax.dynamic_update_index_in_dim(records[name], values[name], record_index, 0)
        for name in records
    }


@dataclass(frozen=True)
class _Block:
    """B runs which are stepped together, and what stays the same during a dispatch.

    Attributes:
        program: Static.
        watches: Static; what is recorded beside losses.
        hyper: Configurations, with a leading axis B.
        data: The task's arrays.
        batches: (orders, S, n) rows of the dispatch's mini-batches; None for the full batch.
        num_steps: T.
    """

    program: Program
    watches: tuple[Watch, ...]
    hyper: Hyper
    data: Data
    batches: Any
    num_steps: Any

    def empty_records(self) -> tuple[Records, ...]:
        """Records of losses and of every watch."""
        num_runs, dtype = self.hyper.target.shape[0], self.hyper.target.dtype
        kinds = (("excess_loss", *self.program.aux), *map(tuple, self.watches))
        return tuple(_empty_records(self.program, names, num_runs, dtype) for names in kinds)

    def initialise(self, state: RunState, first: Any) -> RunState:
        """The states with initial parameters and optimizer states, if the ``first`` step is 0.

        Only what step 0 makes goes through the branch, since XLA may copy what leaves one: the
        optimizer's state, and parameters and model state if the program draws them.
        """
        made_by_program = self.program.initialises
        given = state.params, state.model_state
        at_step_0 = (given if made_by_program else None, state.opt_state)
        if not jax.tree.leaves(at_step_0):
            return state

        def start() -> tuple[tuple[Params, Any] | None, Any]:
            *made, opt_state = jax.vmap(self.program.start)(*given, self.hyper)
            return tuple(made) if made_by_program else None, opt_state

        made, opt_state = lax.cond(first == 0, start, lambda: at_step_0)
        params, model_state = made if made_by_program else given
        return state._replace(params=params, opt_state=opt_state, model_state=model_state)

    def step(self, state: RunState, step: Any, position: Any) -> tuple[RunState, Records]:
        """`train_step` of every run.

        Args:
            state: After ``step`` updates.
            step: t.
            position: Of the step in the dispatch.
        """

        def one_run(state: RunState, hyper: Hyper) -> tuple[RunState, Records]:
            rows = None if self.batches is None else self.batches[hyper.order, position]
            return train_step(self.program, state, hyper, self.data, rows, step, self.num_steps)

        return jax.vmap(one_run)(state, self.hyper)

    def observe(
        self,
        watch: Watch,
        records: Records,
        state: RunState,
        step: Any,
        record_index: Any,
        is_recorded: Any,
    ) -> Records:
        """A watch's records, with this step's observables if it is one of the watch's steps."""

        def one_run(state: RunState, hyper: Hyper) -> Records:
            return observe(self.program, watch, state, hyper, self.data, step)

        def with_this_step(records: Records) -> Records:
            return _write(records, jax.vmap(one_run)(state, self.hyper), record_index)

        # Observables may cost many steps' work. The condition is one for the whole block, outside
        # vmap, so that it stays a branch: inside, vmap would turn it into a select, which
        # evaluates both sides at every step.
        return lax.cond(is_recorded, with_this_step, lambda records: records, records)

    def keep_best(
        self,
        state: RunState,
        kept: Any,
        records: Records,
        record_index: Any,
        is_candidate: Any,
    ) -> RunState:
        """The states with these parameters as the best, of runs whose score they improve.

        Args:
            state: The states.
            kept: What may be kept of the step.
            records: Those that hold what the best is chosen by.
            record_index: The step's row.
            is_candidate: Whether the step counts.
        """
        best_by, best = self.program.best_by, state.best
        assert best_by is not None
        assert best is not None
        recorded = records[best_by.name]
        score = best_by.score(lax.dynamic_index_in_dim(recorded, record_index, keepdims=False))
        # False where the score is undefined.
        is_better = is_candidate & (score < best.score)

        def choose(new: Any, old: Any) -> Any:
            return jnp.where(is_better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return state._replace(best=jax.tree.map(choose, Best(score, kept), best))


def run_block(
    block: _Block, state: RunState, schedule: Schedule
) -> tuple[RunState, tuple[Records, ...]]:
    """The steps of a dispatch for a block of B runs.

    Args:
        block: The runs.
        state: Their states, with a leading axis B.
        schedule: The steps.

    Returns:
        States, and for losses and every watch the records (R, B) by name.
    """
    empty, best_by = block.empty_records(), block.program.best_by

    def one_step(position: Any, carry: Any) -> Any:
        state, (losses, *observed) = carry
        step = schedule.first + position
        # Without the wrapping of negative indices that of_kind[position] would add to every step.
        loss_index, *indices = (
            lax.dynamic_index_in_dim(of_kind, position, keepdims=False)
            for of_kind in schedule.record_indices
        )
        # Before the update: what is recorded at t is of the parameters after t updates.
        observed = [
            block.observe(watch, records, state, step, index, index < MOST_RECORDS)
            for watch, records, index in zip(block.watches, observed, indices, strict=True)
        ]
        kept = block.program.kept(state)
        state, values = block.step(state, step, position)
        losses = _write(losses, values, loss_index)
        if best_by is not None:
            kinds = zip((losses, *observed), (loss_index, *indices), strict=True)
            records, index = next((r, i) for r, i in kinds if best_by.name in r)
            is_candidate = lax.dynamic_index_in_dim(schedule.is_candidate, position, keepdims=False)
            state = block.keep_best(state, kept, records, index, is_candidate)
        return state, (losses, *observed)

    def train(state: RunState) -> tuple[RunState, tuple[Records, ...]]:
        state = block.initialise(state, schedule.first)
        # The number of steps is traced: dispatches of any length share one compiled program.
        state, records = lax.fori_loop(0, schedule.count, one_step, (state, empty))
        return state, _without_dummy(tuple(records))

    def skip(state: RunState) -> tuple[RunState, tuple[Records, ...]]:
        return state, _without_dummy(empty)

    # Blocks are mapped one after the other, without vmap, so that this too is a true branch: a
    # block of which every run has diverged (or is padding) takes no time.
    return lax.cond(jnp.any(state.divergence_step < 0), train, skip, state)


def run_programs(
    programs: tuple[Program, ...],
    watches: tuple[tuple[Watch, ...], ...],
    states: tuple[RunState, ...],
    hypers: tuple[Hyper, ...],
    data: tuple[Data, ...],
    schedule: Schedule,
) -> tuple[tuple[RunState, ...], tuple[tuple[Records, ...], ...]]:
    """A dispatch's steps of every program's runs, on one device; blocks along the leading axis."""

    def run_program(
        program: Program,
        watches: tuple[Watch, ...],
        state: RunState,
        hyper: Hyper,
        data: Data,
        batches: Any,
    ) -> tuple[RunState, tuple[Records, ...]]:
        def run(runs: tuple[RunState, Hyper]) -> tuple[RunState, tuple[Records, ...]]:
            block = _Block(program, watches, runs[1], data, batches, schedule.num_steps)
            return run_block(block, runs[0], schedule)

        return lax.map(run, (state, hyper))

    each = zip(programs, watches, states, hypers, data, schedule.batches, strict=True)
    new_states, records = zip(*itertools.starmap(run_program, each), strict=True)
    return new_states, records
