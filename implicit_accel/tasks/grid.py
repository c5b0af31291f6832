"""A task over the product of some axes, as an experiment for the engine."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

from implicit_accel import observables as observables_module
from implicit_accel.engine.layout import MiniBatches, largest_block, spaced_steps
from implicit_accel.engine.step import Evaluation, Hyper, Program, Values, observe, train_step
from implicit_accel.engine.train import (
    PRECISIONS,
    Group,
    Recording,
    cast,
    precision_context,
)
from implicit_accel.errors import UserError
from implicit_accel.experiment import Axes, Experiment, Identity, Plan
from implicit_accel.observables import Observable
from implicit_accel.optimizers import Optimizer
from implicit_accel.results import FORMAT, QUANTITIES, STEPS
from implicit_accel.tasks.axes import RESERVED, read_axes
from implicit_accel.tasks.loss_task import BoundTask, LossTask, Named, call, initial, split

MakeOptimizer = (
    Callable[[Values], optax.GradientTransformation] | optax.GradientTransformation | Optimizer
)


# Recorded numbers of a grid, which are held in memory: 8 GiB in float32.
_MOST_RECORDS = 2**31


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
        target: float | None = None,
        record: Mapping[str, Observable] | Sequence[str] = (),
        records_per_decade: int = 150,
        observations_per_decade: int = 30,
        precision: str = "float32",
        largest_block: int | None = None,
    ) -> None:
        if not isinstance(task, LossTask):
            raise UserError(f"task: give what from_loss makes, not {type(task).__name__}")
        self.task, self.precision, self.num_steps = task, precision, num_steps
        self._axes, self._static = read_axes(axes)
        self._optimizer = _maker(optimizer, self._axes)
        self._batch_size, self._target, self._largest_block = batch_size, target, largest_block
        self._records = records_per_decade, observations_per_decade
        self._observables = _read_observables(record, task)
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
        if self._target is not None and not (math.isfinite(self._target) and self._target > 0):
            raise UserError(f"target {self._target!r}: it must be an excess loss above 0, or None")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
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
    def recording(self) -> Recording:
        """See `Experiment.recording`."""
        steps, observed = (spaced_steps(self.num_steps, n) for n in self._records)
        held_out = (steps,) if self.task.held_out is not None else ()
        return Recording(steps, held_out + ((observed,) if self._observables else ()))

    @property
    def identity(self) -> Identity:
        """See `Experiment.identity`.

        What functions compute is told by the program that JAX makes of them, not by their text.
        """
        settings = {
            "task": self.task.name,
            "batch_size": self._batch_size,
            "target": self._target,
            "records_per_decade": self._records[0],
            "observations_per_decade": self._records[1],
            "precision": self.precision,
            "record": sorted(self._observables),
            "programs": {
                json.dumps(fixed): self._program_code(self._group(self._axes, fixed, "cpu"))
                for fixed in self._fixed_values(self._axes)
            },
        }
        return Identity(settings, self._axes, self.num_steps, self.task.fingerprint())

    def _program_code(self, group: Group) -> str:
        """A digest of what a group's program computes in a step."""
        with precision_context(self.precision) as dtype:
            state = group.state(dtype)
            _, hyper = group.runs(np.zeros(1, int))
            hyper = jax.tree.map(lambda a: a[0], cast(hyper, dtype))
            size = None if group.batches is None else group.batches.batch_size
            rows = None if size is None else jax.ShapeDtypeStruct((size,), np.int32)
            data = cast(group.data, dtype)

            def step(state: Any, hyper: Hyper, data: Any, rows: Any) -> Any:
                return (
                    group.program.start(state.params, hyper),
                    train_step(group.program, state, hyper, data, rows, 0, 1),
                    observe(group.program, self._observables, state, hyper, data, 0),
                )

            # The arguments' values, which are not in it, are told by axes and fingerprint.
            jaxpr = jax.make_jaxpr(step)(state, hyper, data, rows)
        digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode())
        for constant in jaxpr.consts:
            digest.update(np.asarray(constant).tobytes())
        if self.task.initialises_on_host:
            code = getattr(self.task.init, "__code__", None)
            digest.update(b"" if code is None else code.co_code + repr(code.co_names).encode())
        return digest.hexdigest()[:16]

    def _fixed_values(self, axes: Axes) -> list[dict[str, Any]]:
        """Every combination of values that a program is made for."""
        names = [name for name in axes if name in self._static]
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(axes[name] for name in names))
        ]

    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:  # noqa: ARG002
        """See `Experiment.plan`."""
        groups, places = [], []
        shape = [len(values) for values in axes.values()]
        numbers_of = np.arange(math.prod(shape)).reshape(shape)
        for fixed in self._fixed_values(axes):
            index = tuple(
                axes[name].index(fixed[name]) if name in fixed else slice(None) for name in axes
            )
            groups.append(self._group(axes, fixed, platform))
            places.append(numbers_of[index].reshape(-1))
        return Plan(axes, tuple(groups), tuple(places))

    def _group(self, axes: Axes, fixed: dict[str, Any], platform: str) -> Group:
        free = {name: values for name, values in axes.items() if name not in fixed}
        num_runs = math.prod(len(values) for values in free.values())
        runs = _Runs(self.task, free, fixed, self._target)
        trained, rest = runs.structure()
        mask = _read_mask(self.task.trainable, trained)
        task = BoundTask(self.task, rest, mask)
        num_parameters = sum(math.prod(a.shape) for a in jax.tree.leaves(trained))
        rows = self._batch_size or self.task.num_rows
        seeds = tuple(axes.get("seed", (0,)))
        group = Group(
            program=Program(
                task,
                self._optimizer,
                fixed=fixed,
                initialises=not self.task.initialises_on_host,
            ),
            data=self.task.arrays(),
            num_runs=num_runs,
            runs=runs,
            shapes=trained,
            operations=6.0 * num_parameters * max(rows, 1),
            largest_block=self._largest_block
            or largest_block(
                num_parameters=num_parameters,
                num_rows=rows,
                platform=platform,
                itemsize=np.dtype(self.precision).itemsize,
            ),
            observables=self._watched(),
            batches=None
            if self._batch_size is None
            else MiniBatches(self.task.num_rows, self._batch_size, seeds),
        )
        return _with_aux(group, self.precision)

    def _watched(self) -> tuple[Mapping[str, Observable], ...]:
        """What is evaluated at each of the recording's steps beside losses."""
        held_out: Mapping[str, Observable] = {"held_out_loss": observables_module.held_out_loss}
        watched = (held_out,) if self.task.held_out is not None else ()
        return (*watched, self._observables) if self._observables else watched

    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """See `Experiment.label`."""
        names = tuple(self._axes)
        reached, diverged = arrays["steps_to_target"], arrays["divergence_step"]
        excess = arrays["excess_loss"]
        smallest = float(np.finfo(self.precision).eps)
        values: dict[str, Any] = {
            "loss": (excess + self.task.optimum).astype(excess.dtype),
            "excess_loss": excess,
            "steps_to_target": np.where(reached < 0, np.inf, reached),
            "divergence_step": np.where(diverged < 0, np.nan, diverged),
            "optimum": self.task.optimum,
            "target": self._target or 0.0,
            "resolution": smallest * max(self.task.reference_loss, self.task.optimum),
            "step": self.recording.steps,
        }
        if self._observables:
            values["observation_step"] = self.recording.observed[-1]
        labelled: dict[str, Any] = {}
        for name, a in values.items():
            quantity = QUANTITIES[name]
            dims = quantity.over(names) if np.ndim(a) else ()
            labelled[name] = (dims, a, quantity.attributes)
        for name, a in arrays.items():
            if name not in values:
                dim = "observation_step" if name in self._observables else "step"
                labelled[name] = ((*names, dim), a, {"long_name": name, "diverged": "inf"})
        for name in names:
            a = np.array(self._axes[name])
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
        }
        coordinates = {*names, *STEPS} & labelled.keys()
        return xr.Dataset(labelled, attrs=attributes).set_coords(coordinates)


@dataclass(frozen=True)
class _Runs:
    """Initial parameters and hyper-parameters of a group's runs, numbered along its free axes."""

    task: LossTask
    free: Axes
    fixed: dict[str, Any]
    target: float | None

    def __call__(self, numbers_: np.ndarray) -> tuple[Any, Hyper]:
        # Without a free axis there is one run, along none.
        sizes = [len(values) for values in self.free.values()] or [1]
        at = dict(zip(self.free, np.unravel_index(numbers_, sizes), strict=False))
        values = {name: _numbers(self.free[name])[at[name]] for name in self.free}
        order = at.get("seed", np.zeros(len(numbers_), int))
        values.setdefault("seed", np.zeros(len(numbers_), np.uint32))
        goal = -math.inf if self.target is None else self.target
        hyper = Hyper(values, np.full(len(numbers_), goal), order.astype(np.int32))
        if not self.task.initialises_on_host:
            return None, hyper
        names = list(values)
        distinct, inverse = np.unique(
            np.stack([np.asarray(values[n], float) for n in names if n != "learning_rate"]),
            axis=1, return_index=True, return_inverse=True,
        )[1:]  # fmt: skip
        drawn = [
            split(self._draw({name: values[name][i].item() for name in names}))[0] for i in distinct
        ]
        inverse = inverse.reshape(-1)
        return jax.tree.map(lambda *a: np.stack(a)[inverse], *drawn), hyper

    def _draw(self, hp: dict[str, Any]) -> Any:
        return call(self.task.init, seed=int(hp["seed"]), hp={**self.fixed, **hp})

    def structure(self) -> tuple[Any, Any]:
        """The parameters of one run, as shapes, and what of them is fixed."""
        found: list[Any] = []
        values = {n: _numbers(self.free[n])[0] for n in self.free}
        values.setdefault("seed", np.uint32(0))
        if self.task.initialises_on_host:
            trained, rest = split(self._draw({n: v.item() for n, v in values.items()}))
            return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), trained), rest

        def start(hp: dict[str, Any]) -> Any:
            trained, rest = split(initial(self.task, {**self.fixed, **hp}))
            found.append(rest)
            return trained

        return jax.eval_shape(start, values), found[0]


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """An axis's numbers, floating ones in float64; seeds are whole and below 2³²."""
    a = np.asarray(values)
    return a.astype(np.uint32) if a.dtype.kind in "iu" and a.min() >= 0 else a


def _with_aux(group: Group, precision: str) -> Group:
    """The group with the names of what its loss returns beside the loss."""
    with precision_context(precision) as dtype:
        state = group.state(dtype)
        _, hyper = group.runs(np.zeros(1, int))
        hyper = jax.tree.map(lambda a: a[0], cast(hyper, dtype))
        values = group.program.values(hyper)
        data = cast(group.data, dtype)

        def evaluate(params: Any) -> Evaluation:
            task = group.program.task
            key = jax.random.key(0) if task.is_random else None
            return task.evaluate(params, task.take(data, None), values, key)

        found = jax.eval_shape(evaluate, state.params)
    for name, a in found.aux.items():
        if a.shape != () or not str(name).isidentifier() or name in ("loss", "excess_loss"):
            raise UserError(
                f"loss: what it returns beside the loss must be named scalars: {name!r}"
            )
    program = dataclasses.replace(group.program, aux=tuple(found.aux))
    return dataclasses.replace(group, program=program)


def _maker(
    optimizer: MakeOptimizer, axes: Axes
) -> Callable[[Values], optax.GradientTransformation]:
    if isinstance(optimizer, Optimizer):
        if "learning_rate" not in axes:
            raise UserError(f"optimizer {optimizer.name} needs an axis learning_rate")
        return lambda hp: optimizer.build(hp["learning_rate"], hp.get("weight_decay"))
    if isinstance(optimizer, optax.GradientTransformation):
        return lambda hp: optimizer  # noqa: ARG005
    if not callable(optimizer):
        raise UserError("optimizer: give an optax transformation, or a function that makes one")
    return lambda hp: optimizer(Named(hp))


def _read_observables(
    record: Mapping[str, Observable] | Sequence[str], task: LossTask
) -> dict[str, Observable]:
    table = observables_module.OBSERVABLES
    if not isinstance(record, Mapping):
        record = observables_module.parse(record, table)
    for name, observable in record.items():
        if not str(name).isidentifier() or name in RESERVED or not callable(observable):
            raise UserError(f"record: {name!r} must be a name, and its value a function of a Point")
    if "held_out_loss" in record and task.held_out is None:
        raise UserError("record: held_out_loss needs a task with held_out data")
    # It is recorded wherever there are held-out data, at every step that is.
    return {name: f for name, f in record.items() if name != "held_out_loss"}


def _read_mask(trainable: Any, trained: Any) -> Any:
    """Booleans in the parameters' structure from those of a prefix of it."""
    if trainable is None:
        return None
    try:
        return jax.tree.map(
            lambda flag, part: jax.tree.map(lambda _: bool(flag), part), trainable, trained
        )
    except ValueError as error:
        raise UserError(f"trainable does not fit the parameters: {error}") from None
