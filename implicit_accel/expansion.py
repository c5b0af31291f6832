"""Should this layer be over-parameterised? A comparison with the controls that decide.

A layer as a product of matrices can train faster than the layer alone for reasons that have simpler
recipes: a warm-up of the learning rate, or a learning rate of the layer's own. So the original
gets these too, each at its own best learning rate, and a gain is called one only if no control
needs as few steps, and if it is left at equal time. Rows are split into two halves, each of which
is trained on by seeds of its own, and held out for the other: a gain must be there in both.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.expand import Where, collapse, expand, matching_paths, path_of
from implicit_accel.files import load_json, save_json
from implicit_accel.intervals import Interval, of_speed_up
from implicit_accel.optimizers import Optimizer
from implicit_accel.rates import auto
from implicit_accel.results import by_model, trained
from implicit_accel.schedules import scale_by_warmup
from implicit_accel.statistics import (
    at_best,
    best_learning_rates,
    counts_as_diverged,
    held_out_at,
    model_runs,
    valid_steps,
)
from implicit_accel.sweep import Progress, run, run_searched
from implicit_accel.tasks.axes import static
from implicit_accel.tasks.grid import TaskSweep
from implicit_accel.tasks.loss_task import Initial, LossTask, arguments_of, call

ORIGINAL, FROM_PRODUCT = "original", "original, from the product"
FACTORS = (1 / 16, 1 / 4, 4.0, 16.0)
"""Of the chosen layers' own learning rates, among the controls."""
WARMUPS = (0.005, 0.02, 0.1)
"""Lengths of warm-ups among the controls, as shares of the steps."""

EQUAL_TIME = "equal time"
"""The control of gains in steps that their steps' cost undoes."""

EQUIVALENT = 1.1
"""Within this factor in steps two variants count as equal."""

# Initial factors with another end-to-end matrix than the original's.
_CHANGES_THE_FUNCTION = ("gaussian", "product")
_TIMED_SECONDS, _TIMINGS = 0.3, 5


@dataclass(frozen=True)
class Settings:
    """What is expanded, and how; see `expand`.

    Attributes:
        where: Which leaves of the parameters.
        depths: Numbers of factors, each 2 or more.
        init: The initial factors.
        width: Between factors.
        kernel: How kernels are cut.
        layout: Of kernels.

    Raises:
        UserError: If there is no depth.
    """

    where: Where
    depths: tuple[int, ...] = (2,)
    init: str = "balanced"
    width: int | None = None
    kernel: str = "dense"
    layout: str = "io"

    def __post_init__(self) -> None:
        if not self.depths or len(set(self.depths)) < len(self.depths):
            raise UserError(f"depths {self.depths!r}: give one or more, each once")
        if not all(isinstance(d, int) and not isinstance(d, bool) and d >= 2 for d in self.depths):
            raise UserError(f"depths {self.depths!r}: give whole numbers of factors, 2 or more")

    @property
    def expanded(self) -> dict[str, int]:
        """The expanded variants' depths by name."""
        return {f"depth {depth}": depth for depth in self.depths}

    def controls(self, num_steps: int) -> dict[str, Control]:
        """The controls by name."""
        lengths = dict.fromkeys(max(2, round(share * num_steps)) for share in WARMUPS)
        found = {f"warm-up of {steps:,} steps": Control(warmup=steps) for steps in lengths}
        for factor in FACTORS:
            text = f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"
            found[f"layer's rate × {text}"] = Control(factor=factor)
        if self.init in _CHANGES_THE_FUNCTION:
            for name, depth in self.expanded.items():
                found[f"{FROM_PRODUCT} of {name}"] = Control(product_depth=depth)
        return found


@dataclass(frozen=True)
class Control:
    """A recipe for the original that needs no further parameters.

    Attributes:
        warmup: Steps over which the learning rate rises linearly; 1 for none.
        factor: Of the chosen layers' learning rate.
        product_depth: The chosen layers start at the product of so many fresh factors; 0 if they
            start as they are.
    """

    warmup: int = 1
    factor: float = 1.0
    product_depth: int = 0


@dataclass(frozen=True)
class Answer:
    """What is concluded for a depth and an optimizer.

    Attributes:
        optimizer: Its name.
        variant: The expanded variant.
        verdict: ``gain``, ``none``, ``slower`` or ``undecided``.
        removed_by: The control that needs as few steps, where there is one, or `EQUAL_TIME`.
        instead: The control with the fewest steps.
        speed_up: Of the variant over the original, half by half of the rows.
        instead_speed_up: Of that control over the original.
        cost: Seconds of a step over the original's; NaN where it was not measured.
    """

    optimizer: str
    variant: str
    verdict: str
    removed_by: str
    instead: str
    speed_up: tuple[Interval, ...]
    instead_speed_up: tuple[Interval, ...]
    cost: float

    @property
    def speed_up_in_time(self) -> tuple[Interval, ...]:
        """The speed-up in seconds of training, which is that in steps over the cost of a step."""
        return tuple(
            Interval(i.value / self.cost, i.low / self.cost, i.high / self.cost, i.confidence)
            for i in self.speed_up
        )

    @property
    def sentences(self) -> str:
        """The answer in words."""
        over = f"{self.variant}, {self.optimizer}: "
        if any(math.isnan(i.value) for i in self.speed_up):
            return f"{over}undecided. The original does not reach the target at a stable rate."
        counts = f"{in_words(self.speed_up)} the original's speed in steps"
        words = {
            "gain": f"gain. It has {counts}, and every control needs more steps.",
            "slower": f"slower. It has {counts}.",
            "undecided": f"undecided. It has {counts}.",
            "none": f"none. It has {counts}",
        }[self.verdict]
        if self.verdict == "none":
            words += {
                "": ".", EQUAL_TIME: ", and no control needs as few, but at equal time it is lost."
            }.get(self.removed_by, f"; {self.removed_by} needs as few steps.")  # fmt: skip
        if all(i.low > 1 for i in self.instead_speed_up):
            words += (
                f" Instead: {self.instead}, without further parameters, "
                f"{in_words(self.instead_speed_up)}."
            )
        time = f"A step takes {self.cost:.2f}× the time: {in_words(self.speed_up_in_time)} in time."
        return f"{over}{words} {time}"


def in_words(found: Sequence[Interval]) -> str:
    """Speed-ups on the halves of the rows, or bounds where only one variant reaches the target."""
    return " and ".join(
        f"at least {i.low:.2f}×" if i.value == math.inf
        else f"at most {i.high:.2f}×" if i.value == 0
        else f"{i.value:.2f}× [{i.low:.2f}, {i.high:.2f}]"
        for i in found
    )  # fmt: skip


@dataclass(frozen=True)
class ExpandReport:
    """What `expand_report` returns.

    Attributes:
        answers: One for each optimizer and depth.
        table: A row for each optimizer, half of the rows and variant: the best learning rate,
            median ``steps`` to the target (inf: not reached), ``speed_up`` over the original with
            its ends ``low`` and ``high``, the held-out loss at the target, and ``cost``, the
            seconds of a step over the original's (NaN where it is the same model).
        runs: Results by optimizer and half.
        paths: The leaves that were expanded.
        num_comparisons: Pairs of variants that were compared: among many, one in forty 95 %
            intervals lies above 1 without reason.
    """

    answers: tuple[Answer, ...]
    table: pd.DataFrame
    runs: Mapping[tuple[str, int], xr.Dataset]
    paths: tuple[str, ...]
    num_comparisons: int

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answers in words."""
        return tuple(answer.sentences for answer in self.answers)


def expand_report(
    task: LossTask,
    where: Where,
    *,
    num_steps: int,
    optimizers: Sequence[str | Optimizer] = ("sgd",),
    depths: Sequence[int] = (2,),
    init: str = "balanced",
    width: int | None = None,
    kernel: str = "dense",
    layout: str = "io",
    batch_size: int | None = None,
    num_seeds: int = 6,
    target: float | None = None,
    halves: bool = True,
    tolerance: float = 0.05,
    folder: str | Path | None = None,
    progress: Callable[[str], Progress] | bool | None = None,
) -> ExpandReport:
    """Compares a model with itself, chosen layers expanded, and with simpler recipes.

    Every variant has learning rates of its own, searched for among stable runs: those that reach
    the target, and at the last step are at or below it.

    Args:
        task: The model and its data, see `from_loss`.
        where: Which leaves of the parameters to expand, see `expand`.
        num_steps: T of every run.
        optimizers: Names of optimizers, or instances of `Optimizer`.
        depths: Numbers of factors.
        init: The initial factors, see `expand`; so are width, kernel and layout.
        width: Between factors.
        kernel: How kernels are cut.
        layout: Of kernels.
        batch_size: Rows in a mini-batch; the full batch by default.
        num_seeds: Seeds for each half of the rows; six or more have confidence intervals.
        target: The loss to reach (without halves, the excess loss if the task knows its optimum).
            By default the original's median at half of the steps, at the learning rate with its
            lowest last loss: each half of the rows then has its own.
        halves: Whether rows are split; otherwise all of them are trained on twice, by other seeds.
        tolerance: Of the search for learning rates.
        folder: Keeps the runs, and what a step costs: the same call goes on with what is there.
        progress: Called with the name of what is about to be trained; returns a progress callback
            for it. `progress_bar` does. By default there is a bar in a terminal or a notebook;
            False for none.

    Returns:
        The report.

    Raises:
        UserError: If an argument is not allowed, nothing matches ``where``, or the original's loss
            does not fall, so that there is no target.
    """
    if not isinstance(task, LossTask):
        raise UserError(f"task: give what from_loss makes, not {type(task).__name__}")
    if not isinstance(depths, Sequence):
        raise UserError(f"depths {depths!r}: give one or more, like (2, 3)")
    settings = Settings(where, tuple(depths), init, width, kernel, layout)
    for name, value in (("num_seeds", num_seeds), ("num_steps", num_steps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} {value!r}: it must be a whole number >= 1")
    auto(tolerance=tolerance)
    named = [o if isinstance(o, Optimizer) else Optimizer(o) for o in optimizers]
    if not named or len({o.name for o in named}) < len(named):
        raise UserError("optimizers: give one or more, each name once")
    paths = _check_expansion(task, settings)
    rows, answers, all_runs = [], [], {}
    for optimizer in named:
        timings: dict[str, float] = {}
        parts = list(_parts(task, num_seeds, halves=halves))
        compared = []
        for number, (part, seeds) in enumerate(parts):
            experiment = _Experiment(
                part, settings, optimizer, num_steps, batch_size, seeds, tolerance, number + 1,
                None if folder is None else Path(folder) / f"{optimizer.name}-half{number + 1}",
                progress,
            )  # fmt: skip
            goal = experiment.target() if target is None else target
            results = experiment.compare(goal)
            all_runs[optimizer.name, number + 1] = results
            compared.append(_speed_ups(results))
            if not timings:
                timings = experiment.costs(goal)
            for name, row in _rows(results, compared[-1]).items():
                cost = 1.0 if name == ORIGINAL else timings.get(name, math.nan)
                first = {"optimizer": optimizer.name, "half": number + 1, "variant": name}
                rows.append({**first, "target": goal, **row, "cost": cost})
        answers += _conclude(optimizer.name, settings, num_steps, compared, timings)
    comparisons = sum(len(depths) * (1 + len(settings.controls(num_steps))) for _ in all_runs)
    return ExpandReport(tuple(answers), pd.DataFrame(rows), all_runs, paths, comparisons)


def _check_expansion(task: LossTask, settings: Settings) -> tuple[str, ...]:
    """The leaves that match, after trying every depth on some initial parameters."""
    hp = {"variant": ORIGINAL, "learning_rate": 1.0, "seed": 0}
    try:
        found = call(task.init, key=jax.random.key(0), seed=0, hp=hp)
    except KeyError as error:
        raise UserError(f"{task.name}: init reads hp[{error}], which no axis has here") from None
    Initial.of(task, found)
    params = found[0] if task.has_state else found
    paths = matching_paths(params, settings.where)
    for depth in settings.depths:
        _expanded(params, settings, depth, jax.random.key(0))
    return paths


def _expanded(params: Any, settings: Settings, depth: int, key: jax.Array) -> Any:
    return expand(
        params, settings.where, depth, init=settings.init, key=key, width=settings.width,
        kernel=settings.kernel, layout=settings.layout,
    )  # fmt: skip


def _parts(task: LossTask, num_seeds: int, *, halves: bool) -> Iterator[tuple[LossTask, range]]:
    """The task on each half of its rows, with seeds of its own; the other half is held out."""
    rows = task.num_rows
    if halves and rows < 4:
        raise UserError(f"{rows} rows have no halves: give halves=False")
    order = np.random.default_rng(0).permutation(rows)
    for number in (0, 1):
        seeds = range(number * num_seeds, (number + 1) * num_seeds)
        if not halves:
            yield task, seeds
            continue
        own = np.sort(order[number::2]), np.sort(order[1 - number :: 2])
        data, other = (jax.tree.map(lambda a, r=r: a[r], task.data) for r in own)
        held_out = other if task.held_out is None else task.held_out
        # Half of the rows have another optimum, which is not known: losses are not excess losses.
        yield replace(task, data=data, held_out=held_out, optimum=None), seeds


@dataclass(frozen=True)
class _Experiment:
    """All variants on one half of the rows with one optimizer."""

    task: LossTask
    settings: Settings
    optimizer: Optimizer
    num_steps: int
    batch_size: int | None
    seeds: range
    tolerance: float
    half: int
    folder: Path | None
    progress: Callable[[str], Progress] | bool | None

    def target(self) -> float:
        """The original's median loss at half of the steps, at its best rate for the last loss.

        Raises:
            UserError: If it has not fallen by then.
        """
        searched = auto("final", max(self.tolerance, 0.1))
        results = self._search("target", (ORIGINAL,), searched, None)
        runs = by_model(results)
        best = int(best_learning_rates(runs, "final")[0])
        curves = runs["excess_loss"].values[0, best]
        middle = int(np.searchsorted(runs["step"].values, self.num_steps / 2))
        first, found = float(np.median(curves[:, 0])), float(np.median(curves[:, middle]))
        if best < 0 or not found < first:
            raise UserError(
                f"{self.task.name}: the original's loss does not fall within {self.num_steps // 2} "
                "steps at any learning rate; give more steps, or a target"
            )
        return found

    def compare(self, target: float) -> xr.Dataset:
        """All variants at learning rates that are searched for, by model."""
        names = (
            ORIGINAL, *self.settings.expanded, *self.settings.controls(self.num_steps)
        )  # fmt: skip
        return by_model(self._search("variants", names, auto("stable", self.tolerance), target))

    def costs(self, target: float) -> dict[str, float]:
        """Seconds of a step of each expanded variant over the original's; kept in the folder.

        Raises:
            UserError: If what the folder keeps is damaged.
        """
        if self.folder is None:
            return self._measured_costs(target)
        path = self.folder / "costs.json"
        kept = _load_costs(path) if path.exists() else {}
        if not kept.keys() >= self.settings.expanded.keys():
            kept |= self._measured_costs(target)
            save_json(kept, path)
        return kept

    def _measured_costs(self, target: float) -> dict[str, float]:
        """Costs by variant, timed in turn, so that a busy machine slows all of them."""
        names = (ORIGINAL, *self.settings.expanded)
        steps = min(self.num_steps, 20)
        seconds = dict.fromkeys(names, math.nan)
        for _ in range(8):  # until the original takes long enough to be timed
            seconds[ORIGINAL] = self._timed(ORIGINAL, steps, target)
            if seconds[ORIGINAL] > _TIMED_SECONDS or steps >= 10**5:
                break
            steps *= 4
        ratios: dict[str, list[float]] = {name: [] for name in names[1:]}
        for _ in range(_TIMINGS):
            base = self._timed(ORIGINAL, steps, target)
            for name, own in ratios.items():
                own.append(self._timed(name, steps, target) / base)
        # The first one of each also loads its program.
        return {name: float(np.median(own[1:])) for name, own in ratios.items()}

    def _timed(self, variant: str, steps: int, target: float) -> float:
        grid = self._grid((variant,), (1e-6,), target, num_steps=steps)
        return run(grid, progress=False).ia.timing.train_seconds

    def _search(
        self, name: str, variants: tuple[str, ...], searched: auto, target: float | None
    ) -> xr.Dataset:
        def grid_of(rates: tuple[float, ...]) -> TaskSweep:
            return self._grid(variants, rates, target)

        report = self.progress
        if callable(report):
            report = report(f"{self.optimizer.name}, half {self.half}: {name}")
        folder = None if self.folder is None else self.folder / name
        return run_searched(grid_of, searched, folder=folder, progress=report)

    def _grid(
        self, variants: tuple[str, ...], rates: tuple[float, ...], target: float | None,
        num_steps: int | None = None,
    ) -> TaskSweep:  # fmt: skip
        return TaskSweep(
            variant_task(self.task, self.settings, self.num_steps),
            axes={"variant": static(*variants), "learning_rate": rates, "seed": self.seeds},
            optimizer=variant_optimizer(self.optimizer, self.settings, self.num_steps),
            num_steps=self.num_steps if num_steps is None else num_steps,
            batch_size=self.batch_size, target=target,
        )  # fmt: skip


def _load_costs(path: Path) -> dict[str, float]:
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; remove it, and steps are timed again") from None
    is_read = isinstance(content, dict) and all(
        type(cost) is float and 0 < cost < math.inf for cost in content.values()
    )
    if not is_read:
        raise UserError(f"{path}: not the costs of steps; remove it, and they are timed again")
    return content


def variant_task(task: LossTask, settings: Settings, num_steps: int) -> LossTask:
    """The task with an axis ``variant``: its chosen layers expanded, or as they are."""
    depths, controls = settings.expanded, settings.controls(num_steps)

    def init(**given: Any) -> Any:
        found = call(task.init, **given)
        params, *state = found if task.has_state else (found,)
        variant = given["hp"]["variant"]
        depth = depths.get(variant) or controls.get(variant, Control()).product_depth
        if not depth:
            return found
        key = jax.random.key(given["seed"]) if "seed" in given else given["key"]
        key = jax.random.fold_in(key, 0x657870)  # apart from what the model itself draws
        made = _expanded(params, settings, depth, key)
        made = made if variant in depths else collapse(made)
        return (made, *state) if task.has_state else made

    def loss(params: Any, *state_and_batch: Any, **given: Any) -> Any:
        return task.loss(collapse(params), *state_and_batch, **given)

    own = "seed" if task.initialises_on_host else "key"
    _declare(init, (own, "hp"))
    offered = ("hp", "key", "train")
    taken = arguments_of(task.loss).items()
    # An argument with a default that nothing gives stays at it.
    _declare(loss, [n for n, p in taken if n in offered or p.default is inspect.Parameter.empty])
    return replace(task, init=init, loss=loss)


def _declare(function: Callable[..., Any], names: Sequence[str]) -> None:
    """Gives a function with ** arguments the names that callers look for."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]


def variant_optimizer(
    optimizer: Optimizer, settings: Settings, num_steps: int
) -> Callable[[Mapping[str, Any]], optax.GradientTransformation]:
    """Makes the optimizer of a variant: with its warm-up, and its layers' own learning rate."""
    controls = settings.controls(num_steps)

    def make(hp: Mapping[str, Any]) -> optax.GradientTransformation:
        control = controls.get(hp["variant"], Control())
        parts = [optimizer.build(hp["learning_rate"])]
        if control.warmup > 1:
            parts.append(scale_by_warmup(steps=control.warmup))
        if control.factor != 1:
            parts.append(scale_where(settings.where, control.factor))
        return optax.chain(*parts)

    return make


def scale_where(where: Where, factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of chosen leaves: a learning rate of their own.

    Args:
        where: Which leaves, see `expand`.
        factor: Of their updates.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        chosen = set(matching_paths(updates, where))
        scaled = jax.tree_util.tree_map_with_path(
            lambda keys, u: factor * u if path_of(keys) in chosen else u, updates
        )
        return scaled, state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]


def _speed_ups(results: xr.Dataset) -> Callable[[str, str], Interval]:
    """The speed-up of a variant over another, by name.

    It is 0 or infinite, with a bound, where only one of them reaches the target, and NaN where
    neither does.

    Compared are learning rates at which every seed is stable and reaches the target, or stable
    ones where there is none such. A resample of few seeds would otherwise choose rates at which
    the others diverge, and that would decide the interval.
    """
    names = results["variant"].values.tolist()
    steps, lost = valid_steps(results, stable=True), counts_as_diverged(results, "stable")
    is_stable = trained(results) & ~lost.any(axis=2)
    reaches = is_stable & np.isfinite(steps).all(axis=2)
    is_safe = np.where(reaches.any(axis=1, keepdims=True), reaches, is_stable)
    is_reached: Any = (np.isfinite(np.median(steps, axis=2)) & is_stable).any(axis=1)
    sides = [
        model_runs(
            results["learning_rate"].values[safe], steps[m, safe], lost[m, safe],
            float(results.attrs["num_steps"]),
        )
        for m, safe in enumerate(is_safe)
    ]  # fmt: skip

    def found(base: str, variant: str) -> Interval:
        pair = [sides[names.index(name)] for name in (base, variant)]
        first, second = (is_reached[names.index(name)] for name in (base, variant))
        if not (first or second) or not all(len(side.rates) for side in pair):
            return Interval(math.nan, math.nan, math.nan, math.nan)
        over = of_speed_up(*pair).at()
        # One that does not get there needs more than all steps, so that there is a bound alone.
        if not second:
            return Interval(0.0, 0.0, over.high, over.confidence)
        return over if first else Interval(math.inf, over.low, math.inf, over.confidence)

    return found


def _rows(
    results: xr.Dataset, speed_ups: Callable[[str, str], Interval]
) -> dict[str, dict[str, float]]:
    best = best_learning_rates(results, "stable")
    steps = at_best(best, valid_steps(results, stable=True))
    rows = {}
    for m, name in enumerate(results["variant"].values.tolist()):
        over = Interval(1.0, 1.0, 1.0, math.nan) if name == ORIGINAL else speed_ups(ORIGINAL, name)
        rate = float(results["learning_rate"][best[m]]) if best[m] >= 0 else math.nan
        held_out = math.nan
        if "held_out_loss" in results and best[m] >= 0:
            held_out = float(np.median(held_out_at(results, m, int(best[m]), steps[m])))
        rows[name] = {
            "learning_rate": rate, "steps": float(np.median(steps[m])), "speed_up": over.value,
            "low": over.low, "high": over.high, "held_out_loss": held_out,
        }  # fmt: skip
    return rows


def _conclude(
    optimizer: str,
    settings: Settings,
    num_steps: int,
    compared: Sequence[Callable[[str, str], Interval]],
    costs: Mapping[str, float],
) -> list[Answer]:
    """The answers of an optimizer, from the speed-ups of both halves."""
    controls = list(settings.controls(num_steps))
    over = {name: tuple(f(ORIGINAL, name) for f in compared) for name in controls}
    fastest = max(controls, key=lambda name: min(_known(i.value) for i in over[name]))
    answers = []
    for variant in settings.expanded:
        own = tuple(f(ORIGINAL, variant) for f in compared)
        # The control that comes closest, or is ahead: by it a gain is judged.
        rivals = {name: tuple(f(name, variant) for f in compared) for name in controls}
        # One that is not known has no stable run, or reaches the target no more than the variant.
        closest = min(
            controls,
            key=lambda name: min(math.inf if math.isnan(i.low) else i.low for i in rivals[name]),
        )
        verdict, removed_by = verdict_of(own, rivals[closest]), ""
        if verdict == "none" and all(i.low > 1 for i in own):
            removed_by = closest
        cost = costs.get(variant, math.nan)
        if verdict == "gain" and any(i.low <= cost for i in own):
            verdict, removed_by = "none", EQUAL_TIME
        answers.append(
            Answer(
                optimizer, variant, verdict, removed_by, fastest, own, over[fastest],
                cost,
            )
        )  # fmt: skip
    return answers


def _known(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def verdict_of(over_original: Sequence[Interval], over_control: Sequence[Interval]) -> str:
    """The verdict from a variant's speed-ups, on each half of the rows.

    Args:
        over_original: Over the original.
        over_control: Over the control that comes closest to the variant.

    Returns:
        ``gain`` if all intervals are above 1; ``none`` if only those over the original are, or
        they lie within `EQUIVALENT` of 1; ``slower`` if they are below 1; ``undecided`` otherwise,
        and where one is not known.
    """
    if all(i.low > 1 for i in over_original):
        return "gain" if all(i.low > 1 for i in over_control) else "none"
    if all(i.high < 1 for i in over_original):
        return "slower"
    if all(i.low >= 1 / EQUIVALENT and i.high <= EQUIVALENT for i in over_original):
        return "none"
    return "undecided"
