"""A grid of configurations, trained at once: `SweepConfig` in, labelled results out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr

from implicit_accel.data.problems import Problem
from implicit_accel.engine.training import (
    WHOLE,
    AfterSegment,
    Device,
    Group,
    GroupResult,
    Hyper,
    Program,
    Progress,
    Share,
    Snapshot,
    Timing,
    train_groups,
)
from implicit_accel.errors import UserError
from implicit_accel.linear.config import Model, SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.networks import Layers, layer_shapes, pad
from implicit_accel.linear.objectives import Reduction, choose_kind, reduce
from implicit_accel.linear.planning import largest_block, merge_shapes, plan_groups
from implicit_accel.linear.results import label_results
from implicit_accel.optimizers import Optimizer


@dataclass(frozen=True)
class Plan:
    """A grid laid out for training.

    Attributes:
        problem: What to fit.
        config: The grid.
        groups: Its configurations, by the program that trains them.
        models: For each group, the numbers of its models in ``config.models``; the group's runs
            are numbered (model, learning rate, seed).
        reductions: For each group, what it minimises.
    """

    problem: Problem
    config: SweepConfig
    groups: tuple[Group, ...]
    models: tuple[tuple[int, ...], ...]
    reductions: tuple[Reduction, ...]


def _configurations(
    config: SweepConfig,
    models: Sequence[Model],
    reduction: Reduction,
    shapes: tuple[tuple[int, int], ...],
    problem: Problem,
) -> Callable[[np.ndarray], tuple[Layers, Hyper]]:
    """Initial layers and hyper-parameters of a group's runs, numbered (model, rate, seed)."""
    rates, seeds = np.asarray(config.learning_rates), config.seeds
    d, k = problem.num_features, problem.num_outputs
    target = config.target.absolute(reduction.zero_excess)
    grid = (len(models), len(rates), len(seeds))

    def configurations(numbers: np.ndarray) -> tuple[Layers, Hyper]:
        which, rate, seed = np.unravel_index(numbers, grid)
        starts, inverse = np.unique(np.stack([which, seed]), axis=1, return_inverse=True)
        padded = []
        for m, s in starts.T:
            layers = models[m].initialiser.draw(
                d, models[m].hidden_widths, k, bias=config.bias, seed=seeds[s]
            )
            padded.append(pad(reduction.enter(layers), shapes))
        inverse = inverse.reshape(-1)
        # In the precision of training before the runs are multiplied out: half the bytes to move.
        stacked = jax.tree.map(
            lambda *a: np.stack(a).astype(config.precision)[inverse], *(p for p, _ in padded)
        )
        decays = np.array([m.weight_decay for m in models])
        hyper = Hyper(
            learning_rate=rates[rate],
            weight_decay=decays[which],
            target=np.full(len(numbers), target),
            active=np.stack([a for _, a in padded])[inverse],
        )
        return stacked, hyper

    return configurations


def plan_sweep(
    problem: Problem,
    config: SweepConfig,
    *,
    platform: str = "cpu",
    planned_steps: int | None = None,
) -> Plan:
    """Decides which runs share a program and prepares what each program minimises.

    Args:
        problem: What to fit.
        config: The grid.
        platform: Of the devices, ``cpu``, ``gpu`` or ``tpu``; it decides how many runs are
            stepped together, not their order.
        planned_steps: The number of steps to plan for, if not the grid's: a grid that goes on
            must be laid out as it was.

    Returns:
        The plan, for `train_plan` and `assemble`.
    """
    models = config.models
    families: dict[Hashable, list[int]] = {}
    kinds = {}
    for i, model in enumerate(models):
        kind = choose_kind(
            model.loss, activation=config.activation, equivariant=model.optimizer.is_equivariant
        )
        kinds[i] = (kind, model.loss)
        families.setdefault((kind, model.loss, model.optimizer), []).append(i)
    reductions = {
        (kind, loss): reduce(
            problem, loss, kind=kind, bias=config.bias, activation=config.activation
        )
        for kind, loss in dict.fromkeys(kinds.values())
    }
    runs_per_model = len(config.learning_rates) * config.num_seeds
    d, k = problem.num_features, problem.num_outputs
    groups, group_models, group_reductions = [], [], []
    for numbers in families.values():
        reduction = reductions[kinds[numbers[0]]]
        counts: dict[tuple[int, ...], int] = {}
        for i in numbers:
            hidden = models[i].hidden_widths
            counts[hidden] = counts.get(hidden, 0) + runs_per_model
        layerwise = reduction.objective.kind == "layerwise"
        for shapes_together in plan_groups(
            counts,
            num_steps=planned_steps or config.num_steps,
            d=d,
            k=k,
            rows_per_step=len(problem.features) if layerwise else 0,
        ):
            inside = tuple(i for i in numbers if models[i].hidden_widths in shapes_together)
            shapes = layer_shapes(d, merge_shapes(shapes_together, k), k)
            count = len(inside) * runs_per_model
            program = Program(
                objective=reduction.objective,
                optimizer=models[inside[0]].optimizer,
                decays=any(models[i].weight_decay > 0 for i in inside),
                shapes=shapes,
                bias=config.bias,
            )
            block = largest_block(
                num_parameters=sum(a * b for a, b in shapes),
                num_rows=reduction.data.targets.shape[1],
                platform=platform,
                itemsize=np.dtype(config.precision).itemsize,
            )
            chosen = [models[i] for i in inside]
            configurations = _configurations(config, chosen, reduction, shapes, problem)
            groups.append(Group(program, reduction.data, count, configurations, block))
            group_models.append(inside)
            group_reductions.append(reduction)
    return Plan(problem, config, tuple(groups), tuple(group_models), tuple(group_reductions))


def run_sweep(
    problem: Problem,
    config: SweepConfig,
    *,
    devices: Sequence[Device] | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, Timing]:
    """Trains the whole grid on a problem, in one compiled program.

    Args:
        problem: What to fit.
        config: The grid.
        devices: Devices to spread the runs over; all local ones by default.
        memory_limit: Bytes that states and records may take; no limit by default.
        progress: Called with (configuration-steps done, all of them) now and then.

    Returns:
        Labelled results, see `implicit_accel.results`, and what they cost.

    Raises:
        UserError: If an initialiser does not fit the hidden widths.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    plan = plan_sweep(problem, config, platform=devices[0].platform)
    trained, timing = train_plan(
        plan, devices=devices, memory_limit=memory_limit, progress=progress
    )
    return assemble(config, [(plan, trained)]), timing


def train_plan(
    plan: Plan,
    *,
    share: Share = WHOLE,
    devices: Sequence[Device] | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    resume: Snapshot | None = None,
    after_segment: AfterSegment | None = None,
) -> tuple[list[GroupResult], Timing]:
    """Trains one process's share of a grid.

    The other arguments are those of `run_sweep`, and ``resume`` and ``after_segment`` those of
    `train_groups`.

    Returns:
        Results in the order of the plan's groups, for `assemble`; those of several shares have to
        be put together first (`merge`). And what they cost.
    """
    return train_groups(
        plan.groups,
        num_steps=plan.config.num_steps,
        record_steps=plan.config.record_steps,
        precision=plan.config.precision,
        devices=devices,
        memory_limit=memory_limit,
        share=share,
        progress=progress,
        resume=resume,
        after_segment=after_segment,
    )


def assemble(
    config: SweepConfig, parts: Sequence[tuple[Plan, Sequence[GroupResult]]]
) -> xr.Dataset:
    """Labels results, see `implicit_accel.results`.

    Args:
        config: The grid.
        parts: Plans of grids that make it up, with the results of their groups. They differ in
            their learning rates and seeds.

    Returns:
        The labelled results of the whole grid.
    """
    grid = (len(config.learning_rates), config.num_seeds)
    whole: dict[int, GroupResult] = {}
    reductions: dict[int, Reduction] = {}
    for plan, trained in parts:
        rates, seeds = plan.config.learning_rates, plan.config.seeds
        place = np.ix_(
            [config.learning_rates.index(rate) for rate in rates],
            [config.seeds.index(seed) for seed in seeds],
        )
        runs = len(rates) * len(seeds)
        for models, reduction, result in zip(plan.models, plan.reductions, trained, strict=True):
            for position, i in enumerate(models):
                if i not in whole:
                    empty = (np.empty((*grid, *a.shape[1:]), a.dtype) for a in result.arrays)
                    whole[i] = GroupResult.of(empty)
                    reductions[i] = reduction
                rows = slice(position * runs, (position + 1) * runs)
                for target, a in zip(whole[i].arrays, result.arrays, strict=True):
                    target[place] = a[rows].reshape(len(rates), len(seeds), *a.shape[1:])
    order = range(len(config.models))
    return label_results(
        parts[0][0].problem, config, [whole[i] for i in order], [reductions[i] for i in order]
    )


@dataclass(frozen=True)
class Trajectory:
    """What `train` returns; L learning rates, T steps.

    Attributes:
        loss: (L, T + 1) training losses; inf from a run's divergence on.
        excess_loss: (L, T + 1) L − L*.
        held_out_loss: (L, T + 1), or (L, 0) without held-out rows.
        steps_to_target: (L,), −1 where the target was not reached.
        divergence_step: (L,), −1 where the run did not diverge.
        layers: Final parameters, with a leading axis L.
    """

    loss: np.ndarray
    excess_loss: np.ndarray
    held_out_loss: np.ndarray
    steps_to_target: np.ndarray
    divergence_step: np.ndarray
    layers: Layers


def train(
    problem: Problem,
    layers: Layers,
    *,
    learning_rates: Sequence[float],
    num_steps: int,
    loss: Loss = Loss(2),
    optimizer: Optimizer = Optimizer("sgd"),
    weight_decay: float = 0.0,
    activation: str = "identity",
    target: Target = Target(0.1, relative=True),
    precision: str = "float64",
    objective: str = "auto",
    padded_to: Sequence[int] | None = None,
) -> Trajectory:
    """Trains one network from given weights, at several learning rates at once.

    Args:
        problem: What to fit, see `Problem.from_arrays`.
        layers: Initial weights, W_j of shape (h_j, h_{j−1}), and biases or none.
        learning_rates: η's.
        num_steps: T.
        loss: What is minimised.
        optimizer: By what.
        weight_decay: λ.
        activation: Between layers.
        target: For ``steps_to_target``.
        precision: ``float32`` or ``float64``.
        objective: ``auto`` for the cheapest exact one, or one of `reductions.KINDS`.
        padded_to: Hidden widths of a larger network to embed this one in; changes nothing but
            rounding.

    Returns:
        Every step's losses and the final weights.

    Raises:
        UserError: If a shape or a value does not fit.
    """
    d, k = problem.num_features, problem.num_outputs
    layers = Layers(
        tuple(np.asarray(W, np.float64) for W in layers.weights),
        tuple(np.asarray(b, np.float64) for b in layers.biases),
    )
    hidden = tuple(W.shape[0] for W in layers.weights[:-1])
    expected = layer_shapes(d, hidden, k)
    shapes = tuple(W.shape for W in layers.weights)
    if shapes != expected:
        raise UserError(
            f"weights have shapes {shapes}: for {d} features and {k} outputs "
            f"they must be {expected}"
        )
    if layers.biases and tuple(b.shape for b in layers.biases) != tuple(s[:1] for s in expected):
        raise UserError("biases must be vectors as long as their layers' outputs")
    # Borrow the grid's own checks of ranges and names.
    config = SweepConfig(
        depths=(layers.depth,),
        hidden_widths=(hidden,) if len(hidden) > 1 else (hidden[0] if hidden else 1,),
        losses=(loss,),
        optimizers=(optimizer,),
        weight_decays=(weight_decay,),
        learning_rates=tuple(learning_rates),
        num_seeds=1,
        num_steps=num_steps,
        precision=precision,
        bias=bool(layers.biases),
        activation=activation,
    )
    kind = objective
    if objective == "auto":
        kind = choose_kind(loss, activation=activation, equivariant=optimizer.is_equivariant)
    reduction = reduce(problem, loss, kind=kind, bias=config.bias, activation=activation)
    embedding = hidden if padded_to is None else merge_shapes([hidden, tuple(padded_to)], k)
    padded, active = pad(reduction.enter(layers), layer_shapes(d, embedding, k))
    rates = np.asarray(config.learning_rates)

    def configurations(numbers: np.ndarray) -> tuple[Layers, Hyper]:
        def repeat(a: np.ndarray) -> np.ndarray:
            return np.repeat(np.asarray(a)[None], len(numbers), axis=0)

        goal = target.absolute(reduction.zero_excess)
        hyper = Hyper(
            rates[numbers], repeat(np.array(weight_decay)), repeat(np.array(goal)), repeat(active)
        )
        return jax.tree.map(repeat, padded), hyper

    program = Program(
        reduction.objective, optimizer, weight_decay > 0, layer_shapes(d, embedding, k),
        config.bias,
    )  # fmt: skip
    (result,), _ = train_groups(
        [Group(program, reduction.data, len(rates), configurations)],
        num_steps=num_steps,
        record_steps=np.arange(num_steps + 1),
        precision=precision,
        devices=jax.local_devices()[:1],
        keep_layers=True,
    )
    assert result.layers is not None
    final = [
        reduction.leave(_cut(jax.tree.map(lambda a, i=i: a[i], result.layers), expected))
        for i in range(len(rates))
    ]
    return Trajectory(
        loss=result.excess_loss + reduction.optimum.loss,
        excess_loss=result.excess_loss,
        held_out_loss=result.held_out_loss,
        steps_to_target=result.steps_to_target,
        divergence_step=result.divergence_step,
        layers=jax.tree.map(lambda *a: np.stack(a), *final),
    )


def _cut(layers: Layers, shapes: Sequence[tuple[int, int]]) -> Layers:
    """Takes a network out of its padding."""
    return Layers(
        tuple(W[: s[0], : s[1]] for W, s in zip(layers.weights, shapes, strict=False)),
        tuple(b[: s[0]] for b, s in zip(layers.biases, shapes, strict=False)),
    )
