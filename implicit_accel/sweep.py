"""A grid of configurations, trained at once: `SweepConfig` in, labelled results out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import jax
import numpy as np
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.initialisers import Initialiser
from implicit_accel.losses import Loss
from implicit_accel.networks import ACTIVATIONS, Layers, layer_shapes, pad
from implicit_accel.optimizers import Optimizer
from implicit_accel.problems import Problem
from implicit_accel.reductions import Reduction, choose_kind, reduce
from implicit_accel.results import label_results
from implicit_accel.training import (
    Group,
    GroupResult,
    Hyper,
    Program,
    Progress,
    Timing,
    train_groups,
)

PRECISIONS = ("float32", "float64")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Target:
    """The excess loss at which a run has arrived.

    Attributes:
        value: The excess loss L − L*, or, if relative, its share of the zero map's excess loss
            (the loss of predicting 0, which near-zero initialisation starts from).
        relative: Which of the two.

    Raises:
        UserError: If the value is not a number above 0, or a share not below 1.
    """

    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise UserError(f"target {self.value:g}: the target excess loss must be above 0")
        if self.relative and self.value >= 1:
            raise UserError(f"target {100 * self.value:g}%: a relative target must be below 100%")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads ``1e-5`` (an excess loss) or ``10%`` (of the zero map's).

        Raises:
            UserError: If the text is neither.
        """
        relative = text.endswith("%")
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            raise UserError(
                f"target {text!r}: write an excess loss like 1e-5, or a share like 10%"
            ) from None
        return cls(value / 100, True) if relative else cls(value)

    def absolute(self, zero_excess: float) -> float:
        """The target as an excess loss, for a problem whose zero map has this excess loss."""
        return self.value * zero_excess if self.relative else self.value

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


def parse_learning_rates(items: Sequence[str]) -> tuple[float, ...]:
    """Reads numbers and log ranges, e.g. ``["log:1e-5:0.5:24"]`` or ``["0.1", "0.2"]``.

    ``log:low:high:count`` is ``count`` rates from low to high in equal ratios.

    Returns:
        The rates, in the order given.

    Raises:
        UserError: If an item has another form.
    """
    rates: list[float] = []
    for item in items:
        try:
            if item.startswith("log:"):
                low_text, high_text, count_text = item.removeprefix("log:").split(":")
                low, high, count = float(low_text), float(high_text), int(count_text)
                if not (0 < low < high < math.inf and 2 <= count <= 100_000):
                    raise ValueError
                # Six digits are ample for a learning rate, and read well in tables and labels.
                rates += [float(f"{rate:.6g}") for rate in np.geomspace(low, high, count)]
            else:
                rates.append(float(item))
        except ValueError:
            raise UserError(
                f"learning rate {item!r}: write numbers above 0, or log:low:high:count with "
                "0 < low < high and count >= 2"
            ) from None
    return tuple(rates)


HiddenWidths = int | tuple[int, ...]


def parse_hidden_widths(item: str) -> HiddenWidths:
    """Reads ``10`` (every hidden layer, at every depth) or ``64x32`` (a depth-3 network's).

    Raises:
        UserError: If the item has another form.
    """
    try:
        widths = tuple(int(part) for part in item.split("x"))
    except ValueError:
        raise UserError(
            f"hidden width {item!r}: write a whole number like 10, or one per hidden layer "
            "like 64x32"
        ) from None
    return widths[0] if len(widths) == 1 else widths


@dataclass(frozen=True)
class Model:
    """One row of the summary: everything of a configuration but learning rate and seed.

    Attributes:
        hidden_widths: Widths of the hidden layers; empty for a single layer.
        initialiser: How the weights start.
        loss: What is minimised.
        optimizer: By what.
        weight_decay: λ.
    """

    hidden_widths: tuple[int, ...]
    initialiser: Initialiser
    loss: Loss
    optimizer: Optimizer
    weight_decay: float = 0.0

    @property
    def depth(self) -> int:
        """Number of weight matrices N."""
        return len(self.hidden_widths) + 1

    @property
    def hidden(self) -> str:
        """The hidden widths as text, ``10x10``; ``-`` for a single layer."""
        return "x".join(map(str, self.hidden_widths)) or "-"

    @property
    def key(self) -> Hashable:
        """Equal for models that train alike."""
        return (
            self.hidden_widths, self.initialiser.key, self.loss, self.optimizer, self.weight_decay
        )  # fmt: skip


@dataclass(frozen=True)
class SweepConfig:
    """A grid: the product of its fields, without repetitions.

    A single layer has no hidden width, and some initialisers have no standard deviation: such
    combinations that are the same model are trained once.

    Attributes:
        depths: Numbers of weight matrices.
        hidden_widths: A width for all hidden layers, or a tuple of one network's own.
        inits: Names of initialisers.
        init_stds: Their standard deviations.
        losses: Losses.
        optimizers: Optimizers with their settings.
        weight_decays: λ's.
        learning_rates: η's.
        num_seeds: Seeds 0 … num_seeds − 1.
        num_steps: Updates per run.
        target: Excess loss at which a run has arrived.
        num_records: About how many steps' losses are kept, evenly spaced on a log axis.
        precision: ``float32`` or ``float64``.
        bias: Whether layers have biases.
        activation: Between layers.

    Raises:
        UserError: If a field is empty, repeats itself or holds a value that is not allowed.
    """

    depths: tuple[int, ...] = (1, 2, 3)
    hidden_widths: tuple[HiddenWidths, ...] = (1,)
    inits: tuple[str, ...] = ("near_zero",)
    init_stds: tuple[float, ...] = (0.01,)
    losses: tuple[Loss, ...] = (Loss(2), Loss(4))
    optimizers: tuple[Optimizer, ...] = (Optimizer("sgd"),)
    weight_decays: tuple[float, ...] = (0.0,)
    learning_rates: tuple[float, ...] = field(
        default_factory=lambda: parse_learning_rates(["log:1e-3:1:25"])
    )
    num_seeds: int = 5
    num_steps: int = 20_000
    target: Target = Target(0.1, relative=True)
    num_records: int = 400
    precision: str = "float32"
    bias: bool = False
    activation: str = "identity"

    def __post_init__(self) -> None:
        lists = {
            "depths": self.depths,
            "hidden widths": self.hidden_widths,
            "inits": self.inits,
            "init stds": self.init_stds,
            "losses": self.losses,
            "optimizers": self.optimizers,
            "weight decays": self.weight_decays,
            "learning rates": self.learning_rates,
        }
        for name, values in lists.items():
            if not values:
                raise UserError(f"{name}: the list is empty, give at least one")
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                shown = getattr(repeated[0], "name", repeated[0])
                raise UserError(f"{name}: {shown} is given twice")
        _check_all("depth", self.depths, lambda v: v >= 1, "a whole number >= 1")
        widths = itertools.chain(*(w if isinstance(w, tuple) else (w,) for w in self.hidden_widths))
        _check_all("hidden width", widths, lambda v: v >= 1, "a whole number >= 1")
        _check_all("learning rate", self.learning_rates, lambda v: v > 0, "a number above 0")
        _check_all("weight decay", self.weight_decays, lambda v: v >= 0, "a number >= 0")
        _check_all("number of seeds", [self.num_seeds], lambda v: v >= 1, "a whole number >= 1")
        _check_all(
            "number of steps",
            [self.num_steps],
            lambda v: 1 <= v < 2**31 - 2**20,
            "a whole number from 1 to about 2e9",
        )
        _check_all("number of records", [self.num_records], lambda v: v >= 2, "at least 2")
        for name, value, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in allowed:
                raise UserError(f"{name} {value!r}: choose from {', '.join(allowed)}")
        for widths in self.hidden_widths:
            if isinstance(widths, tuple) and len(widths) + 1 not in self.depths:
                text = "x".join(map(str, widths))
                raise UserError(
                    f"hidden widths {text} make a network of depth {len(widths) + 1}, "
                    f"which is not among the depths {', '.join(map(str, self.depths))}"
                )
        _ = self.models  # validates initialisers and that something is left to train

    @property
    def seeds(self) -> range:
        """The seeds of the initial weights."""
        return range(self.num_seeds)

    @property
    def models(self) -> tuple[Model, ...]:
        """The distinct models, in the order in which the fields list them."""
        models: dict[Hashable, Model] = {}
        for loss, optimizer, decay, init, std, depth, widths in itertools.product(
            self.losses,
            self.optimizers,
            self.weight_decays,
            self.inits,
            self.init_stds,
            self.depths,
            self.hidden_widths,
        ):
            if isinstance(widths, int):
                hidden = (widths,) * (depth - 1)
            elif len(widths) == depth - 1:
                hidden = widths
            else:
                continue
            model = Model(hidden, Initialiser(init, std), loss, optimizer, decay)
            models.setdefault(model.key, model)
        if not models:
            raise UserError("the grid is empty: no hidden widths fit the depths")
        return tuple(models.values())

    @property
    def record_steps(self) -> np.ndarray:
        """Increasing step numbers whose losses are kept: 0, …, num_steps."""
        return spaced_steps(self.num_steps, self.num_records)


def _check_all(
    name: str, values: Iterable[_T], allowed: Callable[[_T], bool], what: str
) -> None:
    for value in values:
        if not allowed(value) or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"{name} {value}: must be {what}")


def spaced_steps(num_steps: int, count: int) -> np.ndarray:
    """At most about ``count`` step numbers from 0 to num_steps, evenly spaced on a log axis.

    All of them if they are few enough.
    """
    if num_steps < count:
        return np.arange(num_steps + 1)
    # Small steps coincide after rounding: ask for more until enough are distinct.
    points = count
    while True:
        steps = np.unique(np.round(np.geomspace(1, num_steps, points)).astype(np.int64))
        if len(steps) >= count - 1:
            return np.concatenate([[0], steps])
        points += count


# --- Which configurations share a program -------------------------------------------------------

# Seconds that another scan adds to compilation, and what a core does in a second: measured on
# two cores of an AMD EPYC (Zen 5). They choose between equal results, not between results.
_COMPILE_SECONDS = 0.35
_PARAMETERS_PER_SECOND = 3e9
_FLOPS_PER_SECOND = 1e11


def merge_shapes(
    shapes: Sequence[tuple[int, ...]], k: int
) -> tuple[int, ...]:
    """The smallest hidden widths that all of some networks can be padded to.

    A shallower network's outputs travel through identity layers, which must hold k of them.
    """
    depth = max(len(s) for s in shapes)
    return tuple(max(s[j] if j < len(s) else k for s in shapes) for j in range(depth))


def plan_groups(
    counts: dict[tuple[int, ...], int],
    *,
    num_steps: int,
    d: int,
    k: int,
    rows_per_step: int = 0,
) -> list[list[tuple[int, ...]]]:
    """Decides which architectures share a padded program.

    Padding costs arithmetic, a program of its own costs compilation: architectures are merged,
    the most profitable pair first, while that lowers the estimated sum. Small grids end up as
    one program, large ones as one per architecture.

    Args:
        counts: Configurations of each architecture, by hidden widths.
        num_steps: Steps per run.
        d: Features.
        k: Outputs.
        rows_per_step: Rows that pass through every layer (0 where layers are collapsed first).

    Returns:
        The groups, each a list of hidden widths.
    """

    def seconds(group: list[tuple[int, ...]]) -> float:
        shapes = layer_shapes(d, merge_shapes(group, k), k)
        parameters = sum(a * b for a, b in shapes)
        a_step = parameters / _PARAMETERS_PER_SECOND
        a_step += 6 * rows_per_step * parameters / _FLOPS_PER_SECOND
        return sum(counts[s] for s in group) * num_steps * a_step

    groups = [[shape] for shape in counts]
    while len(groups) > 1:
        gains = {
            (a, b): _COMPILE_SECONDS
            + seconds(groups[a])
            + seconds(groups[b])
            - seconds(groups[a] + groups[b])
            for a, b in itertools.combinations(range(len(groups)), 2)
        }
        (a, b), gain = max(gains.items(), key=lambda item: item[1])
        if gain <= 0:
            break
        groups[a] += groups.pop(b)
    return groups


# A block's state should stay in a core's own cache; more than 32 configurations gain nothing.
_CACHE_BYTES = 2**19
_LARGEST_BLOCK = 32


def choose_block_size(
    count: int, num_parameters: int, *, num_devices: int, platform: str, itemsize: int
) -> int:
    """Configurations stepped together on one device.

    On a CPU few enough that their parameters and updates stay in cache, elsewhere all of them.
    Blocks come out equally full, and as many for each device.
    """
    largest = _LARGEST_BLOCK if platform == "cpu" else count
    if platform == "cpu":
        largest = min(largest, max(4, _CACHE_BYTES // (3 * num_parameters * itemsize)))
    blocks_per_device = math.ceil(count / (largest * num_devices))
    return math.ceil(count / (blocks_per_device * num_devices))


@dataclass(frozen=True)
class _Member:
    """A group's place in the grid: which models it holds, and how its runs are numbered."""

    models: tuple[int, ...]
    reduction: Reduction


def _member_configurations(
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
        stacked = jax.tree.map(lambda *a: np.stack(a)[inverse], *(p for p, _ in padded))
        decays = np.array([m.weight_decay for m in models])
        hyper = Hyper(
            learning_rate=rates[rate],
            weight_decay=decays[which],
            target=np.full(len(numbers), target),
            active=np.stack([a for _, a in padded])[inverse],
        )
        return stacked, hyper

    return configurations


def _make_groups(
    problem: Problem, config: SweepConfig, num_devices: int, platform: str
) -> tuple[list[Group], list[_Member]]:
    models = config.models
    families: dict[Hashable, list[int]] = {}
    kinds = {}
    for i, model in enumerate(models):
        kind = choose_kind(
            model.loss, activation=config.activation, linear_optimizer=model.optimizer.is_linear
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
    groups, members = [], []
    for numbers in families.values():
        reduction = reductions[kinds[numbers[0]]]
        counts: dict[tuple[int, ...], int] = {}
        for i in numbers:
            hidden = models[i].hidden_widths
            counts[hidden] = counts.get(hidden, 0) + runs_per_model
        layerwise = reduction.objective.kind == "layerwise"
        for group in plan_groups(
            counts,
            num_steps=config.num_steps,
            d=d,
            k=k,
            rows_per_step=len(problem.features) if layerwise else 0,
        ):
            inside = tuple(i for i in numbers if models[i].hidden_widths in group)
            shapes = layer_shapes(d, merge_shapes(group, k), k)
            count = len(inside) * runs_per_model
            program = Program(
                objective=reduction.objective,
                optimizer=models[inside[0]].optimizer,
                decays=any(models[i].weight_decay > 0 for i in inside),
                shapes=shapes,
                bias=config.bias,
                block_size=choose_block_size(
                    count,
                    sum(a * b for a, b in shapes),
                    num_devices=num_devices,
                    platform=platform,
                    itemsize=np.dtype(config.precision).itemsize,
                ),
            )
            chosen = [models[i] for i in inside]
            configurations = _member_configurations(config, chosen, reduction, shapes, problem)
            groups.append(Group(program, reduction.data, count, configurations))
            members.append(_Member(inside, reduction))
    return groups, members


def run_sweep(
    problem: Problem,
    config: SweepConfig,
    *,
    devices: Sequence[jax.Device] | None = None,
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
    groups, members = _make_groups(problem, config, len(devices), devices[0].platform)
    trained, timing = train_groups(
        groups,
        num_steps=config.num_steps,
        record_steps=config.record_steps,
        precision=config.precision,
        devices=devices,
        memory_limit=memory_limit,
        progress=progress,
    )
    models = config.models
    grid = (len(config.learning_rates), config.num_seeds)
    parts: list[GroupResult | None] = [None] * len(models)
    reductions: list[Reduction | None] = [None] * len(models)
    for member, result in zip(members, trained, strict=True):
        for position, i in enumerate(member.models):
            rows = slice(position * math.prod(grid), (position + 1) * math.prod(grid))
            parts[i] = GroupResult(
                *(
                    a[rows].reshape(*grid, *a.shape[1:])
                    for a in (
                        result.excess_loss,
                        result.held_out_loss,
                        result.steps_to_target,
                        result.divergence_step,
                    )
                ),
                layers=None,
            )
            reductions[i] = member.reduction
    results = label_results(
        problem,
        config,
        [p for p in parts if p is not None],
        [r for r in reductions if r is not None],
    )
    return results, timing


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
    loss: Loss = Loss(2),  # noqa: B008 (frozen)
    optimizer: Optimizer = Optimizer("sgd"),  # noqa: B008 (frozen)
    weight_decay: float = 0.0,
    activation: str = "identity",
    target: Target = Target(0.1, relative=True),  # noqa: B008 (frozen)
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
            f"weights have shapes {shapes}: for {d} features and {k} outputs they must be {expected}"
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
        kind = choose_kind(loss, activation=activation, linear_optimizer=optimizer.is_linear)
    reduction = reduce(problem, loss, kind=kind, bias=config.bias, activation=activation)
    embedding = hidden if padded_to is None else merge_shapes([hidden, tuple(padded_to)], k)
    padded, active = pad(reduction.enter(layers), layer_shapes(d, embedding, k))
    rates = np.asarray(config.learning_rates)

    def configurations(numbers: np.ndarray) -> tuple[Layers, Hyper]:
        def repeat(a: np.ndarray) -> np.ndarray:
            return np.repeat(np.asarray(a)[None], len(numbers), axis=0)

        goal = target.absolute(reduction.zero_excess)
        hyper = Hyper(rates[numbers], repeat(np.array(weight_decay)), repeat(np.array(goal)), repeat(active))
        return jax.tree.map(repeat, padded), hyper

    program = Program(
        reduction.objective, optimizer, weight_decay > 0, layer_shapes(d, embedding, k),
        config.bias, len(rates),
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
