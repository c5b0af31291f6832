"""A task over the product of some axes, as an experiment for the engine."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from implicit_accel import observables as observables_module
from implicit_accel.content import UnidentifiedError, content_digest, program_digest
from implicit_accel.engine.chunks import (
    PRECISIONS,
    Group,
    Recording,
    cast,
    precision_context,
)
from implicit_accel.engine.layout import MiniBatches, largest_block, spaced_steps
from implicit_accel.engine.step import BestBy, Hyper, Program, RunState, Values, observe, train_step
from implicit_accel.errors import UserError
from implicit_accel.experiment import RATES, SEEDS, Axes, Experiment, Functions, Identity, Plan
from implicit_accel.names import check_recorded_names
from implicit_accel.observables import Observable, Point
from implicit_accel.optimizers import Optimizer
from implicit_accel.results import ALONG, FORMAT, QUANTITIES, STEPS, Metric
from implicit_accel.tasks.axes import (
    Column,
    check_axes_precision,
    fixed_parts,
    hyper_parameters,
    places_of,
    read_axes,
)
from implicit_accel.tasks.loss_task import (
    BoundTask,
    Initial,
    LossTask,
    Named,
    arguments_of,
    call,
    check_same_fixed,
    initial,
    is_held,
    run_key,
)
from implicit_accel.tasks.parameters import check_keep

MakeOptimizer = (
    Callable[..., optax.GradientTransformation] | optax.GradientTransformation | Optimizer
)

# Recorded numbers of a grid, which are held in memory: 8 GiB in float32.
_MOST_RECORDS = 2**31

# Names, which no user can give, of what is evaluated on all rows beside training.
_FULL = "full:"
_FULL_LOSS = f"{_FULL}excess_loss"

# The setting that says by what the best parameters are chosen, and what it says of the loss.
_BEST, _LOSS = "best_params", "loss"

_STEP = jax.ShapeDtypeStruct((), np.int32)

# What JAX raises where Python needs the number behind a traced value.
_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class TaskSweep(Experiment):
    """A task over the product of some axes; the arguments are those of `implicit_accel.sweep`.

    Raises:
        UserError: If something that was asked for is not allowed.
    """

    def __init__(
        self,
        task: LossTask,
        *,
        axes: Mapping[str, Any],
        optimizer: MakeOptimizer,
        num_steps: int,
        batch_size: int | None = None,
        target: float | Metric | None = None,
        keep: Literal["final", "best"] | None = None,
        record: Mapping[str, Observable] | Sequence[str] = (),
        records_per_decade: int = 150,
        observations_per_decade: int = 30,
        record_every: int | Sequence[int] | None = None,
        precision: str = "float32",
        largest_block: int | None = None,
    ) -> None:
        if not isinstance(task, LossTask):
            raise UserError(f"task: give what from_loss makes, not {type(task).__name__}")
        self.task, self.precision, self.num_steps = task, precision, num_steps
        read = read_axes(axes)
        given, self._static = read.axes, read.static
        self._behind, self._together = read.behind, read.together
        # The results' dimensions; inside, a run always has a seed.
        self._names = tuple(given)
        self._axes = given if SEEDS in given else given | {SEEDS: (0,)}
        # Hyper-parameters that are no axes of the run in the folder, but have one value each.
        self._constants: dict[str, Any] = {}
        # Axes of the run in the folder, with one value each, that were not given.
        self._hidden: tuple[str, ...] = ()
        self._reads: set[str] = set()
        self._given_optimizer = optimizer
        self._optimizer = self._maker(optimizer)
        self._batch_size, self._largest_block = batch_size, largest_block
        self._metric = target if isinstance(target, Metric) else None
        self._target = self._own_target = None if isinstance(target, Metric) else target
        self.keep = keep
        self._records = records_per_decade, observations_per_decade
        self._record_every = record_every
        self._observables = _read_observables(record, task)
        self._aux: dict[str, tuple[str, ...]] = {}
        self._computed: Functions | None = None
        # By what training carries each run's best parameters along; None where it does not.
        self._best_by: BestBy | None = None
        if keep == "best":
            metric = self._metric
            self._best_by = BestBy(metric.name, float(metric.best)) if metric else BestBy(_LOSS)
        self._check()

    def _check(self) -> None:
        counts = {
            "num_steps": self.num_steps,
            "records_per_decade": self._records[0],
            "observations_per_decade": self._records[1],
        }
        counts |= {} if self._batch_size is None else {"batch_size": self._batch_size}
        counts |= {} if self._largest_block is None else {"largest_block": self._largest_block}
        for what, value in counts.items():
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not (whole and 1 <= value < 2**31 - 2**20):
                raise UserError(f"{what} {value!r}: it must be a whole number from 1 to about 2e9")
        if self._batch_size is not None and self._batch_size > self.task.num_rows:
            raise UserError(
                f"batch_size {self._batch_size}: there are {self.task.num_rows} rows; take fewer"
            )
        # NumPy's numbers are none that JSON has.
        self.num_steps = int(self.num_steps)
        self._batch_size = None if self._batch_size is None else int(self._batch_size)
        self._records = int(self._records[0]), int(self._records[1])
        self._record_every = _read_record_every(self._record_every, self.num_steps)
        check_keep(self.keep)
        _check_target(self._target, self.task)
        if self._target is not None:
            self._target = self._own_target = float(self._target)
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
        self.task.check_precision(self.precision)
        distinct = {name: column.distinct for name, column in self._columns.items()}
        check_axes_precision(distinct, self._static, self.precision)
        check_recorded_names("record", self._observables, {*self._axes, *self._columns})
        kept = sum(map(len, self.recording.all)) * self.num_runs
        if kept > _MOST_RECORDS:
            raise UserError(
                f"{self.num_runs:,} runs with so many records are more than {_MOST_RECORDS:,} "
                "numbers to keep: ask for fewer records or runs"
            )

    @property
    def axes(self) -> Axes:
        """See `Experiment.axes`."""
        return self._axes

    @property
    def _columns(self) -> dict[str, Column]:
        """The hyper-parameters along the axes."""
        return hyper_parameters(self._axes, self._together)

    @property
    def is_stochastic(self) -> bool:
        """Whether a step's loss is one draw of many: of a mini-batch, or with randomness."""
        return self._batch_size is not None or self.task.is_random

    @property
    def _epoch_steps(self) -> int:
        return self.task.num_rows // self._batch_size if self._batch_size else 1

    @property
    def loss_steps(self) -> np.ndarray:
        """(R,) the steps of ``loss``: evaluations at ends of epochs where training is stochastic.

        On all rows an evaluation costs about a third of an epoch of training: more would dominate.
        """
        if not self.is_stochastic:
            return spaced_steps(self.num_steps, self._records[0])
        ends = spaced_steps(self.num_steps // self._epoch_steps, self._records[0])
        return np.unique([*(ends * self._epoch_steps), self.num_steps])

    @property
    def recording(self) -> Recording:
        """See `Experiment.recording`."""
        full = (self.loss_steps,) if self.is_stochastic else ()
        observed = (self.observation_steps,) if self._is_observed else ()
        steps = spaced_steps(self.num_steps, self._records[0])
        return Recording(steps, full + observed, self._candidates)

    @property
    def _candidates(self) -> np.ndarray | None:
        """See `Recording.candidates`."""
        if self._best_by is None:
            return None
        if self._best_by.name in {*self._observables, "held_out_loss"}:
            return self.observation_steps[:-1]
        if not self.is_stochastic:
            return self.loss_steps[:-1]
        # The last end of an epoch depends on T, as T does itself.
        ends = spaced_steps(self.num_steps // self._epoch_steps, self._records[0])
        return np.unique([0, *ends[:-1]]) * self._epoch_steps

    @property
    def observation_steps(self) -> np.ndarray:
        """The steps of held-out losses and observables, increasing; the last is ``num_steps``."""
        every = self._record_every
        if every is None:
            return spaced_steps(self.num_steps, self._records[1])
        chosen = range(0, self.num_steps, every) if isinstance(every, int) else every
        return np.unique([*chosen, self.num_steps])

    @property
    def _is_observed(self) -> bool:
        return bool(self._observables) or self.task.held_out is not None

    @property
    def identity(self) -> Identity:
        """See `Experiment.identity`.

        What functions compute is decided by the program that JAX makes of them, and for an ``init``
        on the host by the values that it returns, not by their text.

        Raises:
            UserError: If the functions' content cannot be read.
        """
        settings = {
            "task": self.task.name,
            "batch_size": self._batch_size,
            "target": self._target,
            "records_per_decade": self._records[0],
            "observations_per_decade": self._records[1],
            "precision": self.precision,
            "record": sorted(self._observables),
            "static": sorted(self._static),
            "optimum": self.task.optimum,
            "reference_loss": self.task.reference_loss,
        }
        if self._best_by is not None:
            by = self._best_by
            settings[_BEST] = [by.name] if by.value is None else [by.name, by.value]
        if self._record_every is not None:
            every = self._record_every
            settings["record_every"] = every if isinstance(every, int) else list(every)
        if self._computed is None:
            self._computed = self._functions()
        return Identity(
            settings, self._axes, self.num_steps, self.task.fingerprint(),
            functions=self._computed,
        )  # fmt: skip

    def _functions(self) -> Functions:
        programs: dict[str, dict[str, str]] = {}
        initial_values: dict[str, str] = {}
        for fixed in self._fixed_values(self._axes):
            key = json.dumps(fixed, sort_keys=True)
            group = self._group(self._axes, fixed, "cpu")
            with self._explained():
                for name, digest in self._program_digests(group).items():
                    programs.setdefault(name, {})[key] = digest
            if self.task.initialises_on_host:
                assert isinstance(group.runs, _Runs)
                initial_values |= group.runs.digests(fixed)
        return Functions(jax.__version__, programs, self._written(), initial_values)

    def _program_digests(self, group: Group) -> dict[str, str]:
        """Digests of what a group's program computes in a step, by what it is of."""
        program, task = group.program, group.program.task
        assert isinstance(task, BoundTask)
        found = {}
        with precision_context(self.precision) as dtype:
            state = group.state(dtype)
            hyper = self._one_hyper(group, dtype)
            values = hyper.values
            data = cast(group.data, dtype)
            size = None if group.batches is None else group.batches.batch_size
            rows = None if size is None else jax.ShapeDtypeStruct((size,), np.int32)
            params, carried = state.params, state.model_state

            def everything(values: Any) -> Any:
                return program.fixed | values

            def evaluate(params: Any, data: Any, values: Any, rows: Any, carried: Any) -> Any:
                hp = everything(values)
                key = task.key(hp, 1) if task.is_random else None
                trained, evaluated = (task.at(carried, train=train) for train in (True, False))
                drawn = trained.value_and_gradient(params, task.take(data, rows), hp, key)
                if not self.is_stochastic:
                    return drawn
                return drawn, evaluated.value_and_gradient(params, data["train"], hp, None)

            def held_out(params: Any, data: Any, values: Any, carried: Any) -> Any:
                evaluated = task.at(carried, train=False)
                return evaluated.held_out_loss(params, data, everything(values))

            found["loss"] = program_digest(evaluate, params, data, values, rows, carried)
            if task.has_held_out:
                found["held-out loss"] = program_digest(held_out, params, data, values, carried)
            # A host's is known by its values, see `Functions.initial`.
            found["init"] = content_digest(
                program_digest(lambda v: task.init(everything(v)), values)
                if program.initialises else "on the host",
                _leaves_held(task.fixed),
            )  # fmt: skip

            def update(state: Any, hyper: Hyper, gradient: Any) -> Any:
                # In place of the loss, which has a digest of its own.
                return given.start(state.params, state.model_state, hyper)[2], given.update(
                    gradient, state.opt_state, state.params, everything(hyper.values),
                    value=state.limit, grad=gradient,
                    value_fn=lambda p: sum(jnp.sum(a) for a in jax.tree.leaves(p)),
                )  # fmt: skip

            given = dataclasses.replace(program, initialises=False)
            found["optimizer"] = program_digest(update, state, hyper, params)
            for name, observable in self._observables.items():
                found[f"record {name}"] = program_digest(
                    lambda s, h, d, t, f={name: observable}: observe(program, f, s, h, d, t),
                    state, hyper, data, _STEP,
                )  # fmt: skip
        found["trainable"] = content_digest(str(task.mask))
        return found

    def _written(self) -> dict[str, str]:
        """Digests of the content of the user's functions; empty where it cannot be read."""
        parts = {
            "loss": self.task.loss,
            "held-out loss": self.task.loss,
            "init": self.task.init,
            "optimizer": self._given_optimizer,
            "trainable": self.task.trainable,
        } | {f"record {name}": f for name, f in self._observables.items()}

        parts |= {
            f"{name} {label}": value
            for name, values in self._behind.items() for label, value in values.items()
        }  # fmt: skip

        def digest(value: Any) -> str:
            try:
                return content_digest(value)
            except (UnidentifiedError, RecursionError):
                return ""

        return {name: digest(value) for name, value in parts.items()}

    def _one_hyper(self, group: Group, dtype: np.dtype) -> Hyper:
        _, hyper = group.runs(np.zeros(1, int))
        return jax.tree.map(lambda a: a[0], cast(hyper, dtype))

    def adapted_to(self, stored: Identity) -> Experiment:
        """See `Experiment.adapted_to`.

        Another order of the axes is no other run. An axis with one value that only one of the two
        has is none either, as long as the functions compute the same; nor is another target where
        every loss that decides it is kept.
        """
        other = copy.copy(self)
        # A number that is traced there stays so: its program reads it, and is another.
        was_static = {*stored.settings.get("static", ())}
        new = [
            n for n, v in self._axes.items()
            if n not in stored.axes and len(v) == 1 and n not in self._together
        ]  # fmt: skip
        # Text that is no static axis's is a configuration.
        old = [
            n for n, v in stored.axes.items()
            if n not in self._axes and len(v) == 1
            and (n in was_static or not isinstance(v[0], str))
        ]  # fmt: skip
        other._constants = {name: self._axes[name][0] for name in new}
        kept = {n: v for n, v in self._axes.items() if n not in new}
        kept |= {name: stored.axes[name] for name in old}
        # In the order of the run in the folder, in which its parts are numbered.
        order = [n for n in stored.axes if n in kept]
        other._axes = {n: kept[n] for n in dict.fromkeys((*order, *kept))}
        other._static = self._static - {*new} | ({*old} & was_static)
        other._hidden = tuple(old)
        if self._metric is not None:
            other._target = other._own_target = stored.settings.get("target")
        elif self._keeps_every_loss and stored.settings.get("target") != self._target:
            other._target = stored.settings.get("target")
        if self.keep != "best":
            # Carried along there, which rounds otherwise; here they are left alone.
            other._best_by = self._stored_best_by(stored)
        other._aux, other._computed = {}, None
        return other if not (new or old) or stored.computes(other.identity) else self

    def _stored_best_by(self, stored: Identity) -> BestBy | None:
        """By what a stored run carries its best parameters along; None if it does not."""
        given = stored.settings.get(_BEST)
        if not isinstance(given, list) or not 1 <= len(given) <= 2 or not isinstance(given[0], str):
            return None
        value = given[1] if len(given) == 2 else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return BestBy(given[0], value) if value is None or is_number else None

    @property
    def _keeps_every_loss(self) -> bool:
        """Whether every loss by which the target can be reached is recorded."""
        return self.is_stochastic or len(self.loss_steps) == self.num_steps + 1

    def view(self, results: xr.Dataset, stored: Identity) -> xr.Dataset:
        """See `Experiment.view`."""
        # The file has the dimensions of the call that wrote it.
        named = json.loads(results.attrs["axes"])
        surplus = [name for name in named if name not in stored.axes]
        results = results.isel(dict.fromkeys(surplus, 0), drop=True)
        results = results.assign_attrs(
            axes=json.dumps([name for name in named if name in stored.axes])
        )
        for name, values in stored.axes.items():
            if name not in results.dims:
                results = _expanded(results, name, values[0])
        return self._retargeted(self._renamed(super().view(results, stored)))

    def judged(self, results: xr.Dataset) -> xr.Dataset:
        """See `Experiment.judged`; by the target's metric."""
        return results if self._metric is None else self._metric.judge(results)

    @property
    def result_axes(self) -> Axes:
        """See `Experiment.result_axes`."""
        found = {n: self._axes.get(n, (self._constants.get(n),)) for n in self._names}
        return found | {n: tuple(range(len(self._axes[n]))) for n in self._together}

    def _fixed_values(self, axes: Axes) -> list[dict[str, Any]]:
        """Every combination of values that a program is made for."""
        parts = fixed_parts(axes, self._static, self._together)
        return [
            {name: value for part in chosen for name, value in part.items()}
            for chosen in itertools.product(*parts)
        ]

    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:  # noqa: ARG002
        """See `Experiment.plan`."""
        groups, places = [], []
        shape = [len(values) for values in axes.values()]
        numbers_of = np.arange(math.prod(shape)).reshape(shape)
        columns = hyper_parameters(axes, self._together)
        for fixed in self._fixed_values(axes):
            index = [places_of(name, columns, fixed) for name in axes]
            groups.append(self._group(axes, fixed, platform))
            places.append(numbers_of[np.ix_(*index)].reshape(-1))
        return Plan(axes, tuple(groups), tuple(places))

    def _group(self, axes: Axes, fixed: dict[str, Any], platform: str) -> Group:
        columns = hyper_parameters(axes, self._together)
        free = {
            name: tuple(values[i] for i in places_of(name, columns, fixed))
            for name, values in axes.items() if name not in fixed
        }  # fmt: skip
        num_runs = math.prod(len(values) for values in free.values())
        everything = {
            name: self._behind.get(name, {}).get(value, value)
            for name, value in (fixed | self._constants).items() if name not in self._hidden
        }  # fmt: skip
        traced = hyper_parameters(free, self._together)
        runs = _Runs(
            self.task, free, {n: c for n, c in traced.items() if n not in fixed}, everything,
            None if self.is_stochastic else self._target, self._reads,
        )  # fmt: skip
        with self._explained():
            initial = runs.structure()
        mask = _read_mask(self.task.trainable, initial.trained)
        task = BoundTask(self.task, initial.fixed, mask, self._reads, initial.state_fixed)
        num_parameters, num_carried = (
            sum(math.prod(a.shape) for a in jax.tree.leaves(tree))
            for tree in (initial.trained, initial.model_state)
        )
        rows = self._batch_size or self.task.num_rows
        group = Group(
            program=Program(
                task,
                self._optimizer,
                fixed=everything,
                initialises=not self.task.initialises_on_host,
                losses=frozenset({_FULL_LOSS}),
            ),
            data=self.task.arrays(),
            num_runs=num_runs,
            runs=runs,
            shapes=initial.arrays,
            operations=6.0 * num_parameters * max(rows, 1),
            platform=platform,
            largest_block=self._largest_block
            or largest_block(
                num_parameters=num_parameters + num_carried,
                num_rows=rows,
                platform=platform,
                itemsize=np.dtype(self.precision).itemsize,
            ),
            batches=None
            if self._batch_size is None
            else MiniBatches(self.task.num_rows, self._batch_size, axes[SEEDS]),
        )
        key = json.dumps(fixed, sort_keys=True)
        if key not in self._aux:
            with self._explained():
                self._aux[key] = self._trace(group)
            self._check_reads()
        aux = self._aux[key]
        recorded = {*aux, *self._observables} | ({"held_out_loss"} if task.has_held_out else set())
        if self._metric is not None and self._metric.name not in recorded:
            name, there = self._metric.name, ", ".join(sorted(recorded)) or "none"
            raise UserError(f"target: metric {name!r} is not recorded; there is {there}")
        # Where training is stochastic, what the loss returns beside it is that of all rows as well.
        program = dataclasses.replace(
            group.program,
            aux=() if self.is_stochastic else aux,
            best_by=self._recorded_best(aux),
        )
        return dataclasses.replace(
            group, program=program, observables=self._watched(group, aux)
        )  # fmt: skip

    def _recorded_best(self, aux: tuple[str, ...]) -> BestBy | None:
        """By what the best parameters are chosen, by the name that it has among the records."""
        by = self._best_by
        if by is None:
            return None
        if by.name == _LOSS:
            return BestBy(_FULL_LOSS if self.is_stochastic else "excess_loss")
        is_full = self.is_stochastic and by.name in aux
        return dataclasses.replace(by, name=f"{_FULL}{by.name}") if is_full else by

    def _trace(self, group: Group) -> tuple[str, ...]:
        """Traces all that training does; the names of what the loss returns beside it.

        Raises:
            UserError: If a function of the user's returns something else than it must.
        """
        program, task = group.program, group.program.task
        assert isinstance(task, BoundTask)
        with precision_context(self.precision) as dtype:
            state = group.state(dtype)
            hyper = self._one_hyper(group, dtype)
            size = None if group.batches is None else group.batches.batch_size
            rows = None if size is None else jax.ShapeDtypeStruct((size,), np.int32)
            data = cast(group.data, dtype)

            def evaluate(state: RunState, data: Any, hyper: Hyper, rows: Any) -> Any:
                hp = program.values(hyper)
                key = task.key(hp, 0) if task.is_random else None
                trained = task.at(state.model_state, train=True)
                return trained.evaluate(state.params, task.take(data, rows), hp, key).aux

            found = jax.eval_shape(evaluate, state, data, hyper, rows)
            for name, a in found.items():
                if a.shape != ():
                    raise UserError(
                        f"loss: what it returns beside the loss must be named scalars: {name!r}"
                    )
            check_recorded_names(
                "what the loss returns beside the loss,", found,
                {*self._axes, *self._columns, *self._observables},
            )  # fmt: skip

            def step(state: Any, hyper: Hyper, data: Any, rows: Any, t: Any) -> Any:
                return (
                    train_step(program, state, hyper, data, rows, t, t)[0],
                    observe(program, self._noted, state, hyper, data, t),
                )

            jax.eval_shape(step, state, hyper, data, rows, _STEP)
            if self.is_stochastic:
                self._trace_full(task, state, data, hyper, program)
        return tuple(found)

    def _trace_full(
        self, task: BoundTask, state: RunState, data: Any, hyper: Hyper, program: Program
    ) -> None:
        def full(state: RunState, data: Any, hyper: Hyper) -> Any:
            evaluated = task.at(state.model_state, train=False)
            return evaluated.evaluate_all(state.params, data, program.values(hyper))

        try:
            jax.eval_shape(full, state, data, hyper)
        except Exception as error:  # whatever the user's function raises without a key
            if not task.is_random or isinstance(error, UserError | jax.errors.JAXTypeError):
                raise
            raise UserError(
                "loss: it fails without a key. At the ends of epochs it is evaluated on all rows "
                f"with key=None, without randomness ({type(error).__name__}: {error})"
            ) from error

    def _check_reads(self) -> None:
        """Makes sure that every axis is read by something, once all programs have been traced."""
        if len(self._aux) < len(self._fixed_values(self._axes)):
            return
        reads = set(self._reads)
        if self.reads_seed:
            reads.add(SEEDS)
        given = [n for n in self._names if n not in self._together]
        given += [n for n, column in self._columns.items() if column.axis in self._together]
        unread = [n for n in given if n not in reads and n not in self._hidden]
        if not unread:
            return
        name = unread[0]
        if name == SEEDS:
            advice = "init takes neither key nor seed, so that all seeds give the same run"
        elif isinstance(self._given_optimizer, optax.GradientTransformation):
            advice = (
                "the optimizer is made already; give a function that makes it, like "
                f"lambda hp: optax.sgd(hp[{name!r}])"
            )
        else:
            known = ", ".join(sorted(reads)) or "none"
            advice = f"the functions read {known}; is the name right?"
        raise UserError(f"axis {name}: nothing reads it, its values would train one run ({advice})")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what JAX raises of traced numbers into a message that names the way out."""
        try:
            yield
        except (TypeError, IndexError) as error:
            # Some of these errors have no type of their own.
            words = str(error)
            is_traced = "concrete value" in words or ("unhashable" in words and "Tracer" in words)
            if not isinstance(error, _NOT_TRACEABLE) and not is_traced:
                raise
            free = [n for n in self._columns if n not in self._static and n != SEEDS]
            raise UserError(
                "a function needs the value of a number that is traced (as a shape, a count, in a "
                f"branch). Numbers along {', '.join(free) or 'no axis'} are traced: mark the axis "
                "as ia.static(…), in the shell name=static:8:16, which makes a program for each "
                "value; of parameters and data use jnp.where or jax.lax.cond instead "
                f"({str(error).partition('.')[0]})"
            ) from error

    def _watched(self, group: Group, aux: tuple[str, ...]) -> tuple[Mapping[str, Observable], ...]:
        """What is evaluated at each of the recording's steps beside losses."""
        watched: list[Mapping[str, Observable]] = []
        if self.is_stochastic:
            task = group.program.task
            assert isinstance(task, BoundTask)

            def full(point: Point) -> tuple[Any, dict[str, Any]]:
                evaluated = task.evaluated_at(point)
                return evaluated.evaluate_all(point.trained, point.data, point.hyper)

            watched.append(
                {_FULL_LOSS: lambda point: full(point)[0]}
                | {f"{_FULL}{n}": lambda point, n=n: full(point)[1][n] for n in aux}
            )
        if self._is_observed:
            held_out = {"held_out_loss": observables_module.held_out_loss}
            watched.append((held_out if self.task.held_out is not None else {}) | self._noted)
        return tuple(watched)

    @property
    def _noted(self) -> dict[str, Observable]:
        """The observables, which note what hyper-parameters they read."""

        def noting(observable: Observable) -> Observable:
            return lambda point: observable(
                dataclasses.replace(point, hyper=Named(point.hyper, self._reads))
            )

        return {name: noting(observable) for name, observable in self._observables.items()}

    def _maker(self, optimizer: MakeOptimizer) -> Callable[[Values], optax.GradientTransformation]:
        if isinstance(optimizer, Optimizer):
            if RATES not in self._columns:
                raise UserError(f"optimizer {optimizer.name} needs an axis learning_rate")

            def named(values: Values) -> optax.GradientTransformation:
                hp = Named(values, self._reads)
                return optimizer.build(hp["learning_rate"], hp.get("weight_decay"))

            return named
        if isinstance(optimizer, optax.GradientTransformation):
            return lambda hp: optimizer  # noqa: ARG005
        if not callable(optimizer):
            raise UserError("optimizer: give an optax transformation, or a function that makes one")

        def made(values: Values) -> optax.GradientTransformation:
            hp = Named(values, self._reads)
            key = {"key": run_key(values[SEEDS], "optimizer")} if self._takes_key else {}
            try:
                found = optimizer(hp, **key)
            except TypeError as error:
                if isinstance(error, jax.errors.JAXTypeError) or "Tracer" in str(error):
                    raise
                raise UserError(
                    f"optimizer: it fails when given the hyper-parameters by name ({error}); write "
                    "it like lambda hp: optax.sgd(hp['learning_rate'])"
                ) from error
            if not isinstance(found, optax.GradientTransformation):
                raise UserError(
                    f"optimizer: it must return an optax transformation, not {type(found).__name__}"
                )
            return found

        return made

    @property
    def reads_seed(self) -> bool:
        """Whether runs of several seeds differ; otherwise an axis of seeds is refused."""
        draws = arguments_of(self.task.init).keys() & {"key", "seed"}
        return bool(draws) or self.is_stochastic or self._takes_key

    @property
    def _takes_key(self) -> bool:
        """Whether the function that makes the optimizer takes a key."""
        given = self._given_optimizer
        is_made = isinstance(given, Optimizer | optax.GradientTransformation)
        return not is_made and "key" in arguments_of(given)  # pyright: ignore[reportArgumentType]

    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """See `Experiment.label`."""
        names = tuple(self._axes)
        reached, diverged = arrays["steps_to_target"], arrays["divergence_step"]
        kept = _FULL_LOSS if self.is_stochastic else "excess_loss"
        excess, optimum = arrays[kept], self.task.optimum or 0.0
        # Without a known optimum no excess loss is too small to be resolved.
        known = self.task.optimum is not None
        smallest = float(np.finfo(self.precision).eps) if known else 0.0
        values: dict[str, Any] = {
            "loss": (excess + optimum).astype(excess.dtype),
            "excess_loss": excess,
            "steps_to_target": np.where(reached < 0, np.inf, reached),
            "divergence_step": np.where(diverged < 0, np.nan, diverged),
            "optimum": optimum,
            "target": math.nan if self._target is None else self._target,
            "resolution": smallest * max(self.task.reference_loss or 0.0, abs(optimum)),
            "step": self.loss_steps,
        }
        if self.is_stochastic:
            values["batch_loss"] = (arrays["excess_loss"] + optimum).astype(excess.dtype)
            values["batch_step"] = self.recording.steps
        observed = self._observables.keys() | {"held_out_loss"}
        if self._is_observed:
            values["observation_step"] = self.observation_steps
        labelled: dict[str, Any] = {}
        for name, a in values.items():
            quantity = QUANTITIES[name]
            dims = quantity.over(names) if np.ndim(a) else ()
            labelled[name] = (dims, a, quantity.attributes)
        for name, a in arrays.items():
            shown = name.removeprefix(_FULL)
            if shown not in values:
                dim = "observation_step" if name in observed else "step"
                about = QUANTITIES[name].attributes if name in QUANTITIES else {
                    "long_name": shown, "undefined": "NaN"
                }  # fmt: skip
                labelled[shown] = ((*names, dim), a, about)
        for name in names:
            values_along = self._axes[name]
            a = np.array(range(len(values_along)) if name in self._together else values_along)
            labelled[name] = (name, a.astype(int) if a.dtype.kind == "b" else a)
        attributes = {
            "format": FORMAT,
            "axes": json.dumps(names),
            "title": self.task.name,
            "dataset_fingerprint": self.task.fingerprint(),
            "num_steps": self.num_steps,
            "num_rows": self.task.num_rows,
            "batch_size": self._batch_size or 0,
            "precision": self.precision,
            "is_optimum_known": int(known),
        }
        if isinstance(self._given_optimizer, Optimizer):
            given = self._given_optimizer
            attributes["optimizer"] = ", ".join(filter(None, (given.name, given.settings_text)))
        if self.is_stochastic:
            attributes["evaluated"] = f"on all {self.task.num_rows:,} rows without randomness, " + (
                f"every {self._epoch_steps:,} steps" if self._epoch_steps > 1 else "now and then"
            )
        coordinates = {*names, *STEPS} & labelled.keys()
        results = xr.Dataset(labelled, attrs=attributes).set_coords(coordinates)
        return self._retargeted(self._renamed(results))

    def _renamed(self, results: xr.Dataset) -> xr.Dataset:
        """Results with this call's dimensions, in their order, and nothing else."""
        for name, value in self._constants.items():
            results = _expanded(results, name, value)
        absent = [n for n in (SEEDS, *self._hidden) if n in results.dims and n not in self._names]
        results = results.isel(dict.fromkeys(absent, 0), drop=True)
        rest = [d for d in STEPS if d in results.dims]
        results = results.transpose(*self._names, *rest).assign_coords(self._configurations())
        return results.assign_attrs(axes=json.dumps(self._names))

    def _configurations(self) -> dict[str, Any]:
        """Coordinates along the axes of configurations: their numbers and hyper-parameters."""
        found: dict[str, Any] = {n: range(len(self._axes[n])) for n in self._together}
        for name, column in self._columns.items():
            if column.axis in self._together:
                a = np.array(column.values)
                a = a.astype(int) if a.dtype.kind == "b" else a
                found[name] = (column.axis, a, {ALONG: column.axis})
        return found

    def _retargeted(self, results: xr.Dataset) -> xr.Dataset:
        """Results with the steps to the own target, where these can be had of the losses."""
        own = math.nan if self._own_target is None else self._own_target
        same = np.array_equal(results["target"].values, own, equal_nan=True)
        if same and not self.is_stochastic:
            return results
        excess = results["excess_loss"]
        # In training's precision, as the program compares them.
        below = (excess <= excess.dtype.type(own)) & np.isfinite(excess)
        first = below.argmax("step").values
        steps = np.where(below.any("step").values, results["step"].values[first], np.inf)
        attributes = QUANTITIES["target"].attributes
        return results.assign(
            steps_to_target=(results["steps_to_target"].dims, steps,
                             results["steps_to_target"].attrs),
            target=((), own, attributes),
        )  # fmt: skip


def _expanded(results: xr.Dataset, name: str, value: Any) -> xr.Dataset:
    """Results with one more axis of one value, the last, over which every run's quantities are."""
    runs = json.loads(results.attrs["axes"])

    def expand(variable: xr.DataArray) -> xr.DataArray:
        if {d for d in variable.dims if d not in STEPS} != set(runs):
            return variable
        return variable.expand_dims({name: [value]}).transpose(*runs, name, ...)

    wide = xr.Dataset({n: expand(v) for n, v in results.data_vars.items()})
    wide = wide.assign_coords({n: results[n] for n in STEPS if n in results.coords})
    return wide.assign_attrs(results.attrs | {"axes": json.dumps([*runs, name])})


def _leaves_held(fixed: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(fixed) if is_held(leaf)]


def _check_target(target: Any, task: LossTask) -> None:
    """Makes sure that a target is one; it may be negative where losses may.

    Raises:
        UserError: If it is not.
    """
    if target is None:
        return
    if isinstance(target, str | Mapping):
        raise UserError(
            f"target {target!r}: a task's is an excess loss like 1e-3, not a text or a share; by "
            "another quantity it is ia.Metric('accuracy', target=0.95, best=1)"
        )
    is_number = isinstance(target, int | float | np.number) and not isinstance(target, bool)
    if not (is_number and math.isfinite(target) and (target > 0 or task.optimum is None)):
        raise UserError(
            f"target {target!r}: it must be an excess loss above 0"
            + ("" if task.optimum is not None else " (a loss, where no optimum is given)")
            + ", or None"
        )


@dataclass(frozen=True)
class _Runs:
    """Initial parameters and hyper-parameters of a group's runs, numbered along its free axes.

    Attributes:
        task: What is trained.
        free: The axes.
        columns: The traced hyper-parameters along them.
        fixed: The other hyper-parameters.
        target: Excess loss, or None.
        reads: Where the names of the hyper-parameters that are read are noted.
    """

    task: LossTask
    free: Axes
    columns: dict[str, Column]
    fixed: dict[str, Any]
    target: float | None
    reads: set[str]

    def __call__(self, numbers_: np.ndarray) -> tuple[Any, Hyper]:
        # Without a free axis there is one run, along none.
        sizes = [len(values) for values in self.free.values()] or [1]
        at = dict(zip(self.free, np.unravel_index(numbers_, sizes), strict=False))
        values = self._at(at)
        goal = -math.inf if self.target is None else self.target
        hyper = Hyper(
            values, np.full(len(numbers_), goal, float), at[SEEDS].astype(np.int32)
        )  # fmt: skip
        if not self.task.initialises_on_host:
            return None, hyper
        given = [n for n in self.free if n in self._init_reads]
        distinct, inverse = np.unique(
            np.stack([at[n] for n in given]), axis=1, return_inverse=True
        )  # fmt: skip
        first = self.structure()
        drawn = []
        for place in distinct.T:
            own = self._draw(dict(zip(given, place, strict=True)))
            check_same_fixed((first.fixed, first.state_fixed), (own.fixed, own.state_fixed))
            drawn.append(own.arrays)
        shapes = {str(jax.tree.map(np.shape, params)) for params in drawn}
        if len(shapes) > 1:
            raise UserError(
                "init: the parameters' shapes differ between runs; mark the axis that decides them "
                "as ia.static(…)"
            )
        return jax.tree.map(lambda *a: np.stack(a)[inverse.reshape(-1)], *drawn), hyper

    def _at(self, places: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The traced hyper-parameters at places along the axes, the first of all others."""
        return {
            name: _numbers(name, column.values)[places.get(column.axis, 0)]
            for name, column in self.columns.items()
        }

    @property
    def _init_reads(self) -> set[str]:
        """The axes by which initial parameters on the host may differ."""
        return set(self.free) if "hp" in arguments_of(self.task.init) else {SEEDS}

    def _draw(self, places: Mapping[str, int]) -> Initial:
        """What ``init`` returns on the host at some places of the axes, the first of all others."""
        hp = {n: value.item() for n, value in self._at(places).items()}
        named = Named({**self.fixed, **hp}, self.reads)
        # What JAX draws must not depend on training's precision; NumPy's numbers do not.
        with jax.enable_x64(False):
            return Initial.of(self.task, call(self.task.init, seed=int(hp[SEEDS]), hp=named))

    def digests(self, fixed: Mapping[str, Any]) -> dict[str, str]:
        """Digests of all initial parameters that ``init`` returns on the host.

        Args:
            fixed: Values along the axes that a program is made for.
        """
        given = [n for n in self.free if n in self._init_reads]
        found = {}
        for places in itertools.product(*(range(len(self.free[n])) for n in given)):
            arrays = self._draw(dict(zip(given, places, strict=True))).arrays
            at = {n: self.free[n][i] for n, i in zip(given, places, strict=True)}
            leaves = [np.asarray(a) for a in jax.tree.leaves(arrays)]
            digest = content_digest(str(jax.tree.structure(arrays)), leaves)
            found[json.dumps(at | dict(fixed), sort_keys=True)] = digest
        return found

    def structure(self) -> Initial:
        """What runs start from, arrays as shapes, and what of it is fixed.

        Raises:
            UserError: If what is fixed differs between runs.
        """
        reads: set[str] = set()
        if self.task.initialises_on_host:
            drawn = self._draw({})
            return drawn.with_arrays(
                jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), drawn.arrays)
            )
        values = self._at({})
        traced: list[Initial] = []

        def start(hp: dict[str, Any]) -> Any:
            traced.append(Initial.of(self.task, initial(self.task, {**self.fixed, **hp}, reads)))
            return traced[0].arrays

        arrays = jax.eval_shape(start, values)
        self.reads.update(reads)
        # Initial parameters are computed in single precision, whatever training's is.
        read = {n: column.distinct for n, column in self.columns.items() if n in reads}
        check_axes_precision(read, frozenset(), "float32", "the single precision of init")
        found = traced[0].with_arrays(arrays)
        if not _leaves_held(found.fixed):
            return found
        held = iter(self._held())
        return found._replace(
            fixed=jax.tree.map(lambda a: next(held) if is_held(a) else a, found.fixed)
        )

    def _held(self) -> list[np.ndarray]:
        """The arrays of a traced ``init`` that are not trained: the same ones for every run."""
        sizes = [len(values) for values in self.free.values()] or [1]
        at = np.unravel_index(np.arange(math.prod(sizes)), sizes)
        values = self._at(dict(zip(self.free, at, strict=False)))

        def held(hp: dict[str, Any]) -> list[Any]:
            found = initial(self.task, {**self.fixed, **hp}, self.reads)
            return _leaves_held(Initial.of(self.task, found).fixed)

        with jax.enable_x64(False):
            found = jax.jit(jax.vmap(held))(cast(values, np.dtype("float32")))
        arrays = [np.asarray(a) for a in found]
        check_same_fixed([a[:1].repeat(len(a), axis=0) for a in arrays], arrays)
        return [a[0] for a in arrays]


def _numbers(name: str, values: Sequence[Any]) -> np.ndarray:
    """An axis's numbers as they are traced; their type is that of all the axis's values.

    Only seeds are without sign: a difference of others may be negative.
    """
    return np.asarray(values, np.uint32 if name == SEEDS else None)


def _read_observables(
    record: Mapping[str, Observable] | Sequence[str], task: LossTask
) -> dict[str, Observable]:
    table = observables_module.OBSERVABLES
    if isinstance(record, str):
        record = [name.strip() for name in record.split(",")]
    if callable(record):
        raise UserError("record: give observables by name, like {'size': function}")
    if not isinstance(record, Mapping):
        record = observables_module.parse(record, table)
    for name, observable in record.items():
        if not callable(observable):
            raise UserError(f"record: the value of {name!r} must be a function of a Point")
    if "held_out_loss" in record and task.held_out is None:
        raise UserError("record: held_out_loss needs a task with held_out data")
    # It is recorded wherever there are held-out data.
    return {name: f for name, f in record.items() if name != "held_out_loss"}


def _read_record_every(given: Any, num_steps: int) -> int | tuple[int, ...] | None:
    """The steps between observations, or those of the observations, as JSON has them."""
    if given is None:
        return None

    def is_whole(value: Any) -> bool:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)

    if is_whole(given) and 1 <= given <= num_steps:
        return int(given)
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str):
        steps = list(given)
        if steps and all(is_whole(step) and 0 <= step <= num_steps for step in steps):
            return tuple(sorted({int(step) for step in steps}))
    raise UserError(
        f"record_every {given!r}: give a number of steps from 1 to num_steps = {num_steps}, or "
        f"steps from 0 to {num_steps}"
    )


def _read_mask(trainable: Any, trained: Any) -> Any:
    """Booleans in the parameters' structure from those of a prefix of it."""
    if trainable is None:
        return None
    leaves = jax.tree.leaves(trainable)
    if callable(trainable) or not all(isinstance(flag, bool | np.bool_) for flag in leaves):
        raise UserError(
            "trainable: give true or false in the shape of the parameters, or of a prefix of it"
        )
    try:
        return jax.tree.map(
            lambda flag, part: jax.tree.map(lambda _: bool(flag), part), trainable, trained
        )
    except ValueError as error:
        raise UserError(f"trainable does not fit the parameters: {error}") from None
