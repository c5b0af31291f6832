"""Sweeps of deep linear networks: a `SweepConfig` as an experiment for the engine."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from typing_extensions import override

from implicit_accel.data.problems import Problem
from implicit_accel.engine.chunks import Group, GroupResult, Recording
from implicit_accel.engine.layout import largest_block
from implicit_accel.engine.step import Hyper, Program
from implicit_accel.engine.train import train as train_groups
from implicit_accel.errors import UserError
from implicit_accel.experiment import Axes, Experiment, Identity, Plan
from implicit_accel.linear.config import Model, SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.networks import Layers, layer_shapes, pad
from implicit_accel.linear.objectives import OBJECTIVES, Objective, Reduction, choose, reduce
from implicit_accel.linear.observables import OBSERVABLES
from implicit_accel.linear.planning import any_narrower, merge_shapes, plan_groups
from implicit_accel.linear.results import label_results
from implicit_accel.linear.task import LinearTask, padded_widths
from implicit_accel.observables import (
    Observable,
    held_out_loss,
    parse,
    preconditioned_sharpness,
)
from implicit_accel.optimizers import Optimizer
from implicit_accel.theory.predict import edge_rates
from implicit_accel.theory.surface import Surface, surface_of


def axes_of(config: SweepConfig) -> Axes:
    """The axes of a grid of linear networks."""
    return {
        "model": tuple(model.text for model in config.models),
        "learning_rate": config.learning_rates,
        "seed": tuple(config.seeds),
    }


class LinearSweep(Experiment):
    """A grid of deep linear networks on a problem.

    Its axes are ``model``, ``learning_rate`` and ``seed``. The settings of a model are one axis,
    since not all their combinations exist (a single layer has no hidden width).

    Args:
        problem: What to fit.
        config: The grid.
        settings: Further settings which identify the run, for JSON: how the problem was made.
        initial: (seed, k, d) initial weights of models of one layer, in place of their own
            initialisation.
        fingerprint: Of the data; by default that of the problem's arrays.

    Raises:
        UserError: If the precision cannot represent a loss, or float64 its optimum, or if the
            initial weights do not fit these models.
    """

    def __init__(
        self,
        problem: Problem,
        config: SweepConfig,
        settings: Mapping[str, Any] | None = None,
        *,
        initial: Float[np.ndarray, " ..."] | None = None,
        fingerprint: str = "",
    ) -> None:
        for loss in config.losses:
            loss.check_range(problem.targets, config.precision)
        self.problem, self.config = problem, config
        self.num_steps, self.precision = config.num_steps, config.precision
        self._settings = dict(settings or {})
        self._models = {model.text: model for model in config.models}
        self._initial = initial
        self._reductions: dict[tuple[type[Objective], Loss], Reduction] = {}
        self._edges: dict[str, np.ndarray] = {}
        self._fingerprint = fingerprint or problem.fingerprint
        if initial is not None:
            shape = (config.num_seeds, problem.num_outputs, problem.num_features)
            if initial.shape != shape or config.depths != (1,) or config.bias:
                raise UserError(
                    f"initial weights of shape {initial.shape}: they must be {shape}, for depth 1 "
                    "and no biases"
                )
            digest = hashlib.sha256(np.ascontiguousarray(initial, "<f8").tobytes())
            self._settings["initial"] = digest.hexdigest()

    @property
    @override
    def axes(self) -> Axes:
        return axes_of(self.config)

    @property
    @override
    def identity(self) -> Identity:
        settings = self._settings | self.config.settings()
        return Identity(settings, self.axes, self.num_steps, self._fingerprint)

    @property
    @override
    def recording(self) -> Recording:
        is_observed = self._has_held_out or self.config.record
        observed = (self.config.observation_steps,) if is_observed else ()
        return Recording(self.config.record_steps, observed)

    def _observables(self, optimizer: Optimizer) -> tuple[Mapping[str, Observable], ...]:
        """Held-out loss and observables, of which the recording has one series of steps."""
        chosen = parse(self.config.record, OBSERVABLES)
        if "preconditioned_sharpness" in chosen:
            settings = dict(optimizer.settings)
            chosen["preconditioned_sharpness"] = preconditioned_sharpness(**settings)
        held_out = {"held_out_loss": held_out_loss} if self._has_held_out else {}
        return (held_out | chosen,) if held_out or chosen else ()

    @property
    def _has_held_out(self) -> bool:
        return self.problem.held_out_features is not None

    def objective(self, model: Model) -> type[Objective]:
        """The cheapest exact way of computing a model's loss."""
        return choose(
            model.loss,
            activation=self.config.activation,
            equivariant=model.optimizer.is_equivariant,
            n=len(self.problem.features),
            d=self.problem.num_features,
            bias=self.config.bias,
        )

    def reduction(self, model: Model) -> Reduction:
        """The objective that a model minimises, with its data and basis."""
        return self._reduce(self.objective(model), model.loss)

    def _reduce(self, kind: type[Objective], loss: Loss) -> Reduction:
        if (kind, loss) not in self._reductions:
            self._reductions[kind, loss] = reduce(
                self.problem, loss, kind, bias=self.config.bias, activation=self.config.activation
            )
        return self._reductions[kind, loss]

    def at_learning_rates(self, rates: tuple[float, ...]) -> LinearSweep:
        """The same sweep at other learning rates; it shares what does not depend on them."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, learning_rates=rates)
        return other

    @override
    def plan(self, axes: Axes, *, platform: str = "cpu", planned_steps: int | None = None) -> Plan:
        models = [self._models[text] for text in axes["model"]]
        runs_per_model = len(axes["learning_rate"]) * len(axes["seed"])
        # Models of a family differ in architecture, initialisation and weight decay only, and these
        # are inputs of a padded program.
        families: dict[Hashable, list[int]] = {}
        for i, model in enumerate(models):
            family = (self.objective(model), model.loss, model.optimizer)
            families.setdefault(family, []).append(i)
        groups, places = [], []
        for family in families.values():
            for members in self._share_programs(
                [models[i] for i in family], runs_per_model, planned_steps or self.num_steps
            ):
                of_group = [family[j] for j in members]
                groups.append(self._group([models[i] for i in of_group], axes, platform))
                runs = np.arange(runs_per_model)
                places.append(np.concatenate([i * runs_per_model + runs for i in of_group]))
        return Plan(axes, tuple(groups), tuple(places))

    def _share_programs(
        self, models: Sequence[Model], runs_per_model: int, num_steps: int
    ) -> list[list[int]]:
        """Positions of the models of a family that share a padded program, for each program."""
        counts: dict[tuple[int, ...], int] = {}
        for model in models:
            hidden = model.hidden_widths
            counts[hidden] = counts.get(hidden, 0) + runs_per_model
        objective = self.reduction(models[0]).objective
        architectures = plan_groups(
            counts,
            num_steps=num_steps,
            d=self.problem.num_features,
            k=self.problem.num_outputs,
            rows_per_step=objective.rows_per_step(len(self.problem.features)),
        )
        return [
            [i for i, model in enumerate(models) if model.hidden_widths in together]
            for together in architectures
        ]

    def _group(self, models: Sequence[Model], axes: Axes, platform: str) -> Group:
        """Models that share a program, at all learning rates and seeds."""
        d, k = self.problem.num_features, self.problem.num_outputs
        hidden = [model.hidden_widths for model in models]
        reduction = self.reduction(models[0])
        task = LinearTask(
            reduction.objective,
            shapes=layer_shapes(d, merge_shapes(hidden, k), k),
            bias=self.config.bias,
            is_padded=len(set(hidden)) > 1,
            is_narrower=any_narrower(hidden, k),
            has_held_out=self._has_held_out,
        )
        decays = any(model.weight_decay > 0 for model in models)
        return _group(
            task,
            reduction,
            models[0].optimizer,
            decays=decays,
            num_runs=len(models) * len(axes["learning_rate"]) * len(axes["seed"]),
            runs=self._runs(models, axes, reduction, task),
            observables=self._observables(models[0].optimizer),
            block=largest_block(
                num_parameters=sum(a * b for a, b in task.shapes),
                num_rows=max(reduction.data.targets.shape[1], reduction.data.moments.shape[1]),
                platform=platform,
                itemsize=np.dtype(self.precision).itemsize,
            ),
            platform=platform,
        )

    def _runs(
        self, models: Sequence[Model], axes: Axes, reduction: Reduction, task: LinearTask
    ) -> Callable[[np.ndarray], tuple[Layers, Hyper]]:
        """A function that returns initial layers and hyper-parameters of some of a group's runs.

        Its indices are of three kinds:

        * the *number* of a run in the group, from 0;
        * its *positions* along the group's axes (model, learning rate, seed), of which the number
          is the row-major index;
        * its *draw*: initial weights depend on the model and the seed alone, so that the distinct
          pairs of these among the runs are drawn once and shared by all learning rates.
        """
        rates, seeds = np.asarray(axes["learning_rate"]), axes["seed"]
        target = self.config.target.absolute(reduction.zero_excess)
        decays = np.array([model.weight_decay for model in models])

        def runs(numbers: np.ndarray) -> tuple[Layers, Hyper]:
            model, rate, seed = np.unravel_index(numbers, (len(models), len(rates), len(seeds)))
            draws, draw_of_run = np.unique(np.stack([model, seed]), axis=1, return_inverse=True)
            drawn = [_embed(self._draw(models[m], seeds[s]), reduction, task) for m, s in draws.T]
            # Cast to training's precision before draws are repeated for the rates: half the bytes.
            layers = jax.tree.map(
                lambda *a: np.stack(a).astype(self.precision)[draw_of_run],
                *(network.layers for network in drawn),
            )
            active = np.stack([network.active for network in drawn])[draw_of_run]
            widths = np.stack([network.widths for network in drawn])[draw_of_run]
            return layers, _hyper(rates[rate], decays[model], target, active, widths)

        return runs

    def _draw(self, model: Model, seed: int) -> Layers:
        """Initial layers of a model, in the problem's own basis."""
        if self._initial is not None:
            return Layers((self._initial[self.config.seeds.index(seed)],))
        d, k = self.problem.num_features, self.problem.num_outputs
        return model.initialiser.draw(d, model.hidden_widths, k, bias=self.config.bias, seed=seed)

    @override
    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        models = self.config.models
        results = [
            GroupResult.of({name: a[m] for name, a in arrays.items()}) for m in range(len(models))
        ]
        reductions = [self.reduction(model) for model in models]
        return label_results(self.problem, self.config, results, reductions, self._edge_rates())

    def _edge_rates(self) -> np.ndarray:
        """(model, seed) rates at which runs pass the edge of stability, computed once."""
        if not self._edges:
            surfaces: dict[Loss, Surface] = {}

            def surface(loss: Loss) -> Surface:
                if loss not in surfaces:
                    surfaces[loss] = surface_of(
                        lambda kind: self._reduce(kind, loss), loss, bias=self.config.bias
                    )
                return surfaces[loss]

            rates = edge_rates(self.config, surface, self._draw)
            self._edges.update(zip(self._models, rates, strict=True))
        return np.stack([self._edges[model.text] for model in self.config.models])


class _Embedded(NamedTuple):
    """Layers in a reduction's basis, padded to a program's shapes.

    Attributes:
        layers: Padded layers.
        active: Which of the padded layers are the network's own.
        widths: Their widths before padding.
    """

    layers: Layers
    active: Bool[np.ndarray, " N"]
    widths: Int[np.ndarray, " N+1"]


def _embed(layers: Layers, reduction: Reduction, task: LinearTask) -> _Embedded:
    shapes = [W.shape for W in layers.weights]
    padded, active = pad(reduction.to_basis(layers), task.shapes)
    return _Embedded(padded, active, padded_widths(shapes, len(task.shapes)))


def _hyper(
    rates: np.ndarray, decays: np.ndarray, target: float, active: np.ndarray, widths: np.ndarray
) -> Hyper:
    values = {
        "learning_rate": rates, "weight_decay": decays, "active": active, "widths": widths
    }  # fmt: skip
    count = len(rates)
    return Hyper(values, np.full(count, target), np.zeros(count, np.int32))


def _group(
    task: LinearTask,
    reduction: Reduction,
    optimizer: Optimizer,
    *,
    decays: bool,
    num_runs: int,
    runs: Callable[[np.ndarray], tuple[Layers, Hyper]],
    observables: tuple[Mapping[str, Observable], ...] = (),
    block: int | None = None,
    platform: str = "cpu",
) -> Group:
    def transformation(hp: Mapping[str, Any]) -> Any:
        return optimizer.build(hp["learning_rate"], hp["weight_decay"] if decays else None)

    return Group(
        program=Program(task, transformation, is_entrywise=optimizer.is_entrywise),
        data=reduction.data,
        num_runs=num_runs,
        runs=runs,
        shapes=task.layers,
        operations=task.operations(reduction.data),
        largest_block=block,
        observables=observables,
        platform=platform,
    )


@dataclass(frozen=True)
class Trajectory:
    """The trajectories that `train` returns; L learning rates, T steps.

    Attributes:
        loss: (L, T + 1) training losses; inf from a run's divergence on.
        excess_loss: (L, T + 1) L − L*.
        held_out_loss: (L, T + 1), or (L, 0) without held-out rows.
        steps_to_target: (L,), −1 where the target was not reached.
        divergence_step: (L,), −1 where the run did not diverge.
        layers: Final parameters, with a leading axis L.
    """

    loss: Float[np.ndarray, "L steps"]
    excess_loss: Float[np.ndarray, "L steps"]
    held_out_loss: Float[np.ndarray, "L _"]
    steps_to_target: Int[np.ndarray, " L"]
    divergence_step: Int[np.ndarray, " L"]
    layers: Layers


def train(
    problem: Problem,
    layers: Layers,
    *,
    learning_rates: Sequence[float] | np.ndarray | str,
    num_steps: int,
    loss: Loss | str = Loss(2),
    optimizer: Optimizer | str = Optimizer("sgd"),
    weight_decay: float = 0.0,
    activation: str = "identity",
    target: Target | float | str = Target(0.1, relative=True),
    precision: str = "float64",
    objective: str = "auto",
    padded_to: Sequence[int] | None = None,
) -> Trajectory:
    """Trains one network from given weights, at several learning rates at once.

    Args:
        problem: What to fit, see `Problem.from_arrays`.
        layers: Initial weights, W_j of shape (h_j, h_{j−1}), and biases or none.
        learning_rates: η; these and the next settings in any form that `SweepConfig` takes.
        num_steps: T.
        loss: The loss to minimise.
        optimizer: The optimizer.
        weight_decay: λ.
        activation: Activation function between layers.
        target: Excess loss that counts for ``steps_to_target``.
        precision: ``float32`` or ``float64``.
        objective: ``auto`` for the cheapest exact one, or one of `objectives.OBJECTIVES`.
        padded_to: Hidden widths of a larger network in which this one is embedded; results change
            by rounding only.

    Returns:
        Every step's losses and the final weights.

    Raises:
        UserError: If a shape or a value does not fit.
    """
    layers = Layers(
        tuple(np.asarray(W, np.float64) for W in layers.weights),
        tuple(np.asarray(b, np.float64) for b in layers.biases),
    )
    expected = _checked_shapes(problem, layers)
    hidden = tuple(W.shape[0] for W in layers.weights[:-1])
    config = _checked(
        layers, hidden, learning_rates, num_steps, loss, optimizer, weight_decay, activation,
        precision, target,
    )  # fmt: skip
    (loss,), (optimizer,) = config.losses, config.optimizers
    num_steps, (weight_decay,) = config.num_steps, config.weight_decays
    if objective not in ("auto", *OBJECTIVES):
        raise UserError(f"objective {objective!r}: choose from auto, {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES.get(objective) or choose(
        loss, activation=activation, equivariant=optimizer.is_equivariant,
        n=len(problem.features), d=problem.num_features, bias=config.bias,
    )  # fmt: skip
    reduction = reduce(problem, loss, kind, bias=config.bias, activation=activation)
    num_outputs = problem.num_outputs
    embedding = hidden if padded_to is None else merge_shapes([hidden, (*padded_to,)], num_outputs)
    task = LinearTask(
        reduction.objective,
        shapes=layer_shapes(problem.num_features, embedding, num_outputs),
        bias=config.bias,
        is_padded=embedding != hidden,
        has_held_out=problem.held_out_features is not None,
    )
    network = _embed(layers, reduction, task)
    rates = np.asarray(config.learning_rates)
    goal = config.target.absolute(reduction.zero_excess)

    def runs(numbers: np.ndarray) -> tuple[Layers, Hyper]:
        def repeat(a: np.ndarray) -> np.ndarray:
            return np.repeat(np.asarray(a)[None], len(numbers), axis=0)

        decays = repeat(np.array(weight_decay))
        hyper = _hyper(rates[numbers], decays, goal, repeat(network.active), repeat(network.widths))
        return jax.tree.map(repeat, network.layers), hyper

    group = _group(
        task, reduction, optimizer, decays=weight_decay > 0, num_runs=len(rates), runs=runs,
        observables=({"held_out_loss": held_out_loss},) if task.has_held_out else (),
    )  # fmt: skip
    steps = np.arange(num_steps + 1)
    ((result, params),) = train_groups(
        [group],
        num_steps=num_steps,
        recording=Recording(steps, (steps,) if task.has_held_out else ()),
        precision=precision,
        devices=jax.local_devices()[:1],
    )
    final = [
        reduction.from_basis(_cut(jax.tree.map(lambda a, i=i: a[i], params), expected))
        for i in range(len(rates))
    ]
    excess = result.records["excess_loss"]
    return Trajectory(
        loss=excess + reduction.optimum.loss,
        excess_loss=excess,
        held_out_loss=result.records.get("held_out_loss", np.empty((len(rates), 0))),
        steps_to_target=result.steps_to_target,
        divergence_step=result.divergence_step,
        layers=jax.tree.map(lambda *a: np.stack(a), *final),
    )


def _checked_shapes(problem: Problem, layers: Layers) -> tuple[tuple[int, int], ...]:
    """The shapes of a network's layers.

    Raises:
        UserError: If they do not fit the problem or each other.
    """
    d, k = problem.num_features, problem.num_outputs
    expected = layer_shapes(d, tuple(W.shape[0] for W in layers.weights[:-1]), k)
    shapes = tuple(W.shape for W in layers.weights)
    if shapes != expected:
        raise UserError(
            f"weights have shapes {shapes}: for {d} features and {k} outputs "
            f"they must be {expected}"
        )
    if layers.biases and tuple(b.shape for b in layers.biases) != tuple(s[:1] for s in expected):
        raise UserError("biases must be vectors as long as their layers' outputs")
    return expected


def _checked(
    layers: Layers,
    hidden: tuple[int, ...],
    learning_rates: Any,
    num_steps: int,
    loss: Any,
    optimizer: Any,
    weight_decay: float,
    activation: str,
    precision: str,
    target: Any,
) -> SweepConfig:
    """The settings of `train` as a grid of one model, which reads and checks them."""
    return SweepConfig(
        depths=(layers.depth,),
        hidden_widths=(hidden,) if len(hidden) > 1 else (hidden[0] if hidden else 1,),
        losses=(loss,),
        optimizers=(optimizer,),
        weight_decays=(weight_decay,),
        learning_rates=learning_rates,
        num_seeds=1,
        num_steps=num_steps,
        precision=precision,
        bias=bool(layers.biases),
        activation=activation,
        target=target,
    )


def _cut(layers: Layers, shapes: Sequence[tuple[int, int]]) -> Layers:
    """The network of these shapes inside padded layers."""
    return Layers(
        tuple(W[: s[0], : s[1]] for W, s in zip(layers.weights, shapes, strict=False)),
        tuple(b[: s[0]] for b, s in zip(layers.biases, shapes, strict=False)),
    )
