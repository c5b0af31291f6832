"""What a sweep of linear networks will show, before anything is trained.

One gradient flow for each network gives the time at which it reaches the target and its sharpness
on the way (`theory.flow`). Gradient descent at a rate η takes ``time / η`` steps wherever ηλ stays
below 2 up to the target (Cohen et al. 2021, "Gradient Descent on Neural Networks Typically Occurs
at the Edge of Stability"); beyond that nothing is predicted, and this is said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from implicit_accel.data.problems import Problem
from implicit_accel.errors import UserError
from implicit_accel.executors import Executor
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.linear.config import Model, SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.networks import Layers, layer_shapes
from implicit_accel.linear.results import labels_of
from implicit_accel.observables import stability_threshold
from implicit_accel.optimizers import Optimizer
from implicit_accel.results import by_model, trained
from implicit_accel.statistics import best_learning_rates, valid_steps
from implicit_accel.theory.central import touching_steps
from implicit_accel.theory.edge import flip
from implicit_accel.theory.flow import Enough, Path, Stack, follow
from implicit_accel.theory.surface import Surface, make_surface

# Optimizers whose small steps follow the gradient flow.
FLOWING = ("sgd", "momentum", "nesterov")

PAST_EDGE = "past the edge of stability: no prediction"
LARGEST_STABLE = "at the largest stable rate of the grid"

_MOST_PARAMETERS = 20_000_000
_MOST_FOR_HESSIAN = 2_000
_NEAR_THE_EDGE = 2.0
_MOST_FOR_CENTRAL_FLOW = 300
_LONGEST_CENTRAL_PATH = 5_000

# Flows for `edge_rates`, which every sweep pays for. At this tolerance of a step edges differ from
# those at 1e-6 by some 0.5 %, where networks escape from near zero by up to 5 %; at `follow`'s own
# it takes two to three times as long.
_EDGE_TOLERANCE = 3e-3
# Multiplications that the flows of a model may take: 0.5 s, over which there is no prediction.
_EDGE_WORK = 6e8
# Those of a gradient for which further networks are followed, at most that many.
_EDGE_SEEDS, _FOR_MORE_SEEDS = 5, 2e5
# Times looked at within a step.
_EDGE_POINTS = 16
_NO_EDGE = np.array([np.nan, np.nan])
# What calling NumPy for a gradient takes, and a pass over a parameter, in multiplications.
_CALL, _PASS = 5e4, 20


def momentum_of(optimizer: Optimizer) -> float:
    """β, 0 for gradient descent."""
    settings = {"momentum": 0.0 if optimizer.name == "sgd" else 0.9} | dict(optimizer.settings)
    return float(settings["momentum"])


@dataclass(frozen=True)
class ModelPrediction:
    """What one model will do from each of its seeds.

    Attributes:
        model: The model.
        label: Its name in tables.
        paths: Its gradient flows, one for each seed; empty if nothing is predicted.
        target: Excess loss to be reached.
        reason: Why nothing is predicted; empty otherwise.
    """

    model: Model
    label: str
    paths: tuple[Path, ...]
    target: float
    reason: str = ""

    @property
    def step_time(self) -> float:
        """The flow's time in a step of unit learning rate, ``1/(1 − β)`` with momentum β."""
        return 1 / (1 - momentum_of(self.model.optimizer))

    @property
    def threshold(self) -> float:
        """λ times the learning rate above which steps diverge."""
        optimizer = self.model.optimizer
        return float(stability_threshold(optimizer.name, 1.0, momentum_of(optimizer)))

    @property
    def times(self) -> np.ndarray:
        """(seed,) the flow's time to the target; inf where it is not reached."""
        return np.array([path.time_to(self.target) for path in self.paths])

    @property
    def largest_rates(self) -> np.ndarray:
        """(seed,) the largest rate at which steps are stable up to the target."""
        sharpest = [p.largest_sharpness(t) for p, t in zip(self.paths, self.times, strict=True)]
        with np.errstate(divide="ignore"):
            return self.threshold / np.maximum(np.array(sharpest), 0.0)

    def steps(self, learning_rate: float) -> np.ndarray:
        """(seed,) steps to the target; NaN past the edge of stability."""
        steps = np.ceil(self.times / (learning_rate * self.step_time))
        return np.where(learning_rate <= self.largest_rates, steps, np.nan)

    def instability(self, learning_rate: float) -> np.ndarray:
        """(seed,) the step at which ηλ first exceeds the threshold; inf if it does not."""
        level = self.threshold / learning_rate
        times = np.array([path.first_above(level) for path in self.paths])
        return times / (learning_rate * self.step_time)

    def excess(self, learning_rate: float, steps: np.ndarray) -> np.ndarray:
        """(seed, step) excess losses; NaN from the instability on."""
        curves = np.stack([p.excess_at(steps * learning_rate * self.step_time) for p in self.paths])
        return np.where(steps < self.instability(learning_rate)[:, None], curves, np.nan)

    def typical(self, learning_rate: float) -> tuple[float, float]:
        """Medians over seeds of `steps` and `instability`.

        Steps are NaN unless the rate is stable up to the target for most of the seeds; one past the
        edge counts as never.
        """
        steps, after = self.steps(learning_rate), self.instability(learning_rate)
        past = np.isnan(steps)
        usable = 2 * np.count_nonzero(past) < len(steps)
        median = float(np.median(np.where(past, np.inf, steps))) if usable else math.nan
        return median, float(np.median(after))

    def best_rate(self, learning_rates: Sequence[float]) -> float:
        """The largest of some rates that is stable for the median seed; NaN if none is."""
        edge = float(np.median(self.largest_rates))
        stable = [rate for rate in learning_rates if rate <= edge]
        return max(stable, default=math.nan)


@dataclass(frozen=True)
class Predictions:
    """Of every model of a grid.

    Attributes:
        problem: What is fitted.
        config: The grid.
        models: One prediction each, in the order of ``config.models``.
    """

    problem: Problem
    config: SweepConfig
    models: tuple[ModelPrediction, ...]

    def table(self) -> pd.DataFrame:
        """A row per model.

        Returns:
            The model's label, ``loss``, ``depth``, ``largest_stable_rate`` (medians over seeds),
            ``best_rate`` of the grid, ``steps`` to the target at it, ``speed_up`` over depth 1
            (its steps over the model's, each at its best), ``flow_time`` to the target,
            ``unstable_after`` (the step at which the best rate passes the edge, inf: not within
            the grid's steps) and ``note``.
        """
        rows = []
        for prediction in self.models:
            row: dict[str, object] = {
                "model": prediction.label,
                "loss": prediction.model.loss.name,
                "depth": prediction.model.depth,
            }
            numbers = dict.fromkeys(
                ("largest_stable_rate", "best_rate", "steps", "flow_time", "unstable_after"),
                math.nan,
            )
            note = prediction.reason
            if not note:
                rate = prediction.best_rate(self.config.learning_rates)
                numbers["largest_stable_rate"] = float(np.median(prediction.largest_rates))
                numbers["flow_time"] = float(np.median(prediction.times))
                numbers["best_rate"] = rate
                if math.isfinite(rate):
                    steps = np.ceil(prediction.times / (rate * prediction.step_time))
                    numbers["steps"] = float(np.median(steps))
                    after = prediction.typical(rate)[1]
                    within = after <= self.config.num_steps
                    numbers["unstable_after"] = after if within else math.inf
                note = _note(prediction, rate, numbers["steps"], self.config)
            rows.append(row | numbers | {"speed_up": math.nan, "note": note})
        table = pd.DataFrame(rows)
        for m, base in enumerate(self._bases()):
            if base is not None:
                steps = table["steps"].to_numpy(float)
                with np.errstate(divide="ignore", invalid="ignore"):
                    table.loc[m, "speed_up"] = steps[base] / steps[m]
        return table

    def beside(self, runs: xr.Dataset, *, best_by: str = "stable") -> pd.DataFrame:
        """Predicted beside measured, each model at the best rate that was measured.

        Where that is past the edge of stability there is no prediction for it; a second row then
        shows the model at the largest rate of the grid that is predicted to be stable.

        Args:
            runs: Results of this grid.
            best_by: What made a rate the best.

        Returns:
            A row or two per model: ``learning_rate``; ``predicted_steps``, ``measured_steps`` to
            the target (medians over seeds) and ``error``, predicted over measured − 1;
            ``largest_stable_rate``; ``predicted_instability`` and ``measured_divergence``, the
            steps at which ηλ passes the threshold and runs diverge (medians, inf: not within the
            run); and ``note``.

        Raises:
            UserError: If the results are of another grid.
        """
        runs = by_model(runs)
        if runs.sizes["model"] != len(self.models):
            raise UserError("the results are of another grid than the predictions")
        best, rates = best_learning_rates(runs, best_by), runs["learning_rate"].values.tolist()
        tried = trained(runs)
        rows = []
        for m, prediction in enumerate(self.models):
            place = int(best[m])
            row = self._row(runs, m, place)
            rows.append(row)
            own = [rate for rate, there in zip(rates, tried[m], strict=True) if there]
            stable = math.nan if prediction.reason else prediction.best_rate(own)
            if row["note"] == PAST_EDGE and math.isfinite(stable):
                second = self._row(runs, m, rates.index(stable))
                rows.append(second | {"note": LARGEST_STABLE})
        return pd.DataFrame(rows)

    def _row(self, runs: xr.Dataset, m: int, place: int) -> dict[str, object]:
        """A model at a rate's place in the grid, −1 for none; see `beside`."""
        prediction = self.models[m]
        found: dict[str, float] = dict.fromkeys(
            ("learning_rate", "predicted_steps", "measured_steps", "error",
             "largest_stable_rate", "predicted_instability", "measured_divergence"), math.nan,
        )  # fmt: skip
        note = prediction.reason
        if place < 0:
            note = note or "every run diverged"
        else:
            found["learning_rate"] = float(runs["learning_rate"].values[place])
            found["measured_steps"] = float(np.median(valid_steps(runs)[m, place]))
            ends = runs["divergence_step"].values[m, place]
            ends = np.where(np.isnan(ends), np.inf, ends)
            found["measured_divergence"] = float(np.median(ends))
        if not note:
            found.update(self._at(prediction, found["learning_rate"]))
            note = PAST_EDGE if math.isnan(found["predicted_steps"]) else ""
            if found["measured_steps"] > 0 and math.isfinite(found["measured_steps"]):
                found["error"] = found["predicted_steps"] / found["measured_steps"] - 1
        return {"model": prediction.label, **found, "note": note}

    def then(self, m: int, learning_rate: float) -> str:
        """What happens where a model's rate passes the edge of stability.

        By the flip bifurcation's coefficient where the flow of the median seed gets there, see
        `edge.Flip`.

        Returns:
            ``oscillates``, ``diverges`` or ``undecided``; nothing where it does not get there or
            begins far beyond it, for momentum (the coefficient is gradient descent's, near the
            edge), for losses without a fourth derivative (2 < p < 4) and for networks of more than
            2 000 parameters.
        """
        prediction = self.models[m]
        p = prediction.model.loss.p
        if prediction.reason or momentum_of(prediction.model.optimizer) or 2 < p < 4:
            return ""
        after = prediction.instability(learning_rate)
        seed = int(np.argsort(after)[(len(after) - 1) // 2])
        if not np.isfinite(after[seed]):
            return ""
        model = prediction.model
        surface = make_surface(self.problem, model.loss, bias=self.config.bias)
        stack = stack_of(self.problem, surface, model, self.config, [self.config.seeds[seed]])
        if stack.initial.shape[1] > _MOST_FOR_HESSIAN:
            return ""
        level = prediction.threshold / learning_rate
        enough = Enough(prediction.target, self.config.num_steps, sharpness=level)
        (path,) = follow(stack, surface, enough)
        if path.ended != "sharp" or path.sharpness[-1] > _NEAR_THE_EDGE * level:
            return ""
        return flip(*stack.traced(surface, path.last)).outcome

    def past_edge(self, m: int, learning_rate: float) -> tuple[float, float]:
        """Between which steps a rate past the edge of stability first touches the target.

        For the median seed of gradient descent where it oscillates, by the central flow, see
        `central.touching_steps`; the path ends after 5 000 steps.

        Returns:
            Two steps, inf where the path ends before; NaN for rates that do not oscillate and for
            networks of more than 300 parameters, whose Hessians take too long.
        """
        if self.then(m, learning_rate) != "oscillates":
            return math.nan, math.nan
        prediction = self.models[m]
        after = prediction.instability(learning_rate)
        seed = int(np.argsort(after)[(len(after) - 1) // 2])
        surface = make_surface(self.problem, prediction.model.loss, bias=self.config.bias)
        stack = stack_of(
            self.problem, surface, prediction.model, self.config, [self.config.seeds[seed]]
        )
        if stack.initial.shape[1] > _MOST_FOR_CENTRAL_FLOW:
            return math.nan, math.nan
        loss, theta = stack.traced(surface, stack.initial[0])
        steps = min(self.config.num_steps, _LONGEST_CENTRAL_PATH)
        return touching_steps(loss, theta, learning_rate, steps, prediction.target)

    def curve(self, m: int, learning_rate: float, steps: np.ndarray) -> np.ndarray:
        """Median excess losses of a model at a rate; NaN where nothing is predicted.

        Of the seeds at which the rate is stable up to the target, if they are most.
        """
        prediction = self.models[m]
        if prediction.reason:
            return np.full(len(steps), np.nan)
        usable = prediction.largest_rates >= learning_rate
        if 2 * np.count_nonzero(usable) <= len(usable):
            return np.full(len(steps), np.nan)
        curves = prediction.excess(learning_rate, steps)[usable]
        known = np.isfinite(curves).sum(axis=0) * 2 > len(curves)
        middle = np.median(np.where(np.isnan(curves), 0.0, curves), axis=0)
        return np.where(known, middle, np.nan)

    def _at(self, prediction: ModelPrediction, rate: float) -> dict[str, float]:
        steps, after = prediction.typical(rate)
        return {
            "predicted_steps": steps,
            "largest_stable_rate": float(np.median(prediction.largest_rates)),
            "predicted_instability": after if after <= self.config.num_steps else math.inf,
        }

    def _bases(self) -> list[int | None]:
        """For each model, the single layer that it is compared with."""

        def rest(model: Model) -> tuple[object, ...]:
            return model.loss, model.optimizer, model.weight_decay

        def start(model: Model) -> object:
            return model.initialiser.key

        found: list[int | None] = []
        for prediction in self.models:
            singles = [
                i
                for i, other in enumerate(self.models)
                if other.model.depth == 1 and rest(other.model) == rest(prediction.model)
            ]
            same = [i for i in singles if start(self.models[i].model) == start(prediction.model)]
            found.append((same or singles or [None])[0])
        return found


def _note(prediction: ModelPrediction, rate: float, steps: float, config: SweepConfig) -> str:
    ends = {path.ended for path in prediction.paths}
    if np.isinf(prediction.times).any():
        if "stuck" in ends:
            return "the gradient is zero at the start: this network cannot move"
        if "precision" in ends:
            return "the target is below what float64 resolves"
        return "the target is further than the flow was followed"
    if math.isnan(rate):
        return f"every rate of the grid is {PAST_EDGE}"
    return "" if steps <= config.num_steps else f"more than the grid's {config.num_steps:,} steps"


@dataclass(frozen=True)
class _Flow:
    """A gradient flow that models share: what distinguishes it from others of a sweep."""

    loss: Loss
    hidden_widths: tuple[int, ...]
    initialiser: Hashable
    threshold: float


@dataclass(frozen=True)
class _FlowWork:
    """Follows the flows of a sweep, wherever an executor wants it."""

    problem: Problem
    config: SweepConfig
    surfaces: Mapping[Loss, Surface]
    models: Mapping[_Flow, Model]
    whichever_first: bool

    def __call__(self, flow: _Flow, on_message: Callable[[float], None]) -> tuple[Path, ...]:
        """The paths of a flow, by seed; its messages are shares of the work that are done."""
        surface = self.surfaces[flow.loss]
        enough = Enough(
            self.config.target.absolute(surface.zero_excess),
            self.config.num_steps,
            flow.threshold,
            whichever_first=self.whichever_first,
        )
        # The threads of BLAS decide the order of additions, and are as many as there are cores.
        with threadpool_limits(1, user_api="blas"):
            return flow_of(
                self.problem, surface, self.models[flow], self.config, enough, progress=on_message
            )


def predict(
    problem: Problem,
    config: SweepConfig,
    *,
    whichever_first: bool = False,
    executor: Executor | None = None,
    progress: Callable[[float], None] | None = None,
) -> Predictions:
    """Predicts a sweep without training it.

    Args:
        problem: What is fitted.
        config: The grid: its models, seeds, target, rates and number of steps.
        whichever_first: Whether flows end at the target, or where no stable rate has steps left:
            cheaper, but without what happens afterwards, or how far it would be.
        executor: Where flows are followed; in this process by default.
        progress: Called with the share of the work that is done.

    Returns:
        A prediction per model. Adaptive optimizers, activations and weight decay have none, and
        say so.

    Raises:
        UserError: If float64 does not hold a loss or its optimum, or an initialiser does not fit.
    """
    surfaces = {
        loss: make_surface(problem, loss, bias=config.bias)
        for loss in dict.fromkeys(model.loss for model in config.models)
    }
    empty, flows = [], {}
    for model, label in zip(config.models, labels_of(config), strict=True):
        target = config.target.absolute(surfaces[model.loss].zero_excess)
        prediction = ModelPrediction(model, label, (), target, _no_flow(model, problem, config))
        empty.append(prediction)
        if not prediction.reason:
            flows.setdefault(_flow_of_model(prediction), model)
    work = _FlowWork(problem, config, surfaces, flows, whichever_first)
    shares = dict.fromkeys(flows, 0.0)

    def report(flow: _Flow, share: float) -> None:
        shares[flow] = share
        if progress is not None:
            progress(sum(shares.values()) / len(shares))

    paths: dict[_Flow, tuple[Path, ...]] = {}
    # Flows are computed by NumPy, not on devices.
    for flow, found in (executor or LocalExecutor(())).map(work, list(flows), report):
        paths[flow] = found
        report(flow, 1.0)
    models = (
        p if p.reason else dataclasses.replace(p, paths=paths[_flow_of_model(p)]) for p in empty
    )
    return Predictions(problem, config, tuple(models))


def _flow_of_model(prediction: ModelPrediction) -> _Flow:
    model = prediction.model
    # Momentum changes the scale of time, and with it how far a flow is followed.
    threshold = prediction.threshold * prediction.step_time
    return _Flow(model.loss, model.hidden_widths, model.initialiser.key, threshold)


def _no_flow(model: Model, problem: Problem, config: SweepConfig) -> str:
    """Why no flow of a model is followed; empty if one is."""
    if reason := _no_prediction(model, config):
        return reason
    shapes = layer_shapes(problem.num_features, model.hidden_widths, problem.num_outputs)
    size = sum(a * b for a, b in shapes) * config.num_seeds
    if size > _MOST_PARAMETERS:
        return f"{size:,} parameters over all seeds are too many"
    return ""


def early_stable_rates(problem: Problem, config: SweepConfig) -> tuple[float, ...]:
    """The largest stable learning rate of one layer at the zero predictor, for each model.

    A product with the data, where `predict` follows flows: a scale to begin a search with. Deeper
    networks' own rates are of its order.

    Args:
        problem: What is fitted.
        config: The grid.

    Returns:
        A rate for each of ``config.models``; NaN for optimizers that follow no gradient flow.
    """
    X, Y = problem.features, problem.targets
    sharpest: dict[object, float] = {}
    rates = []
    for model in config.models:
        if model.optimizer.name not in FLOWING:
            rates.append(math.nan)
            continue
        if model.loss not in sharpest:
            weights = model.loss.curvature(Y) / Y.size
            hessians = [(X * weights[:, [k]]).T @ X for k in range(Y.shape[1])]
            sharpest[model.loss] = max(float(np.linalg.eigvalsh(H)[-1]) for H in hessians)
        optimizer = model.optimizer
        threshold = float(stability_threshold(optimizer.name, 1.0, momentum_of(optimizer)))
        sharpness = sharpest[model.loss]
        rates.append(threshold / sharpness if sharpness > 0 else math.nan)
    return tuple(rates)


def edge_rates(
    config: SweepConfig,
    surface: Callable[[Loss], Surface],
    draw: Callable[[Model, int], Layers],
) -> np.ndarray:
    """The learning rates from which a grid's models pass the edge of stability.

    They are those of the models' gradient flows, up to the target or the grid's last step. At rates
    below the first ηλ stays below the optimizer's threshold. Above the second it exceeds the
    threshold at least two steps before the target. Between them this depends on where the last step
    begins: networks that escape from near zero in few steps jump over the sharpest part.

    Every sweep pays for it, unlike for `predict`. Flows are therefore followed roughly, only to the
    target, and for at most five seeds: for one where a gradient is costly.

    Args:
        config: The grid; its learning rates do not matter.
        surface: What networks with a loss descend on.
        draw: A model's initial weights for a seed.

    Returns:
        (model, 2), medians over the seeds followed. Inf if no rate passes the edge, NaN if that is
        not known: for adaptive optimizers, activations and weight decay, which follow no gradient
        flow, and for networks too large to be followed.
    """
    found: dict[object, np.ndarray] = {}
    rates = []
    for model in config.models:
        if _no_prediction(model, config):
            rates.append(_NO_EDGE)
            continue
        momentum = momentum_of(model.optimizer)
        threshold = float(stability_threshold(model.optimizer.name, 1.0, momentum))
        key = (model.loss, model.hidden_widths, model.initialiser.key, threshold, momentum)
        if key not in found:
            found[key] = _edge_rates(config, surface(model.loss), model, draw)
        rates.append(found[key])
    return np.stack(rates)


def _edge_rates(
    config: SweepConfig,
    surface: Surface,
    model: Model,
    draw: Callable[[Model, int], Layers],
) -> np.ndarray:
    """A model's `edge_rates`."""
    k, d = surface.shape[0], surface.shape[1] - config.bias
    parameters = sum(a * b for a, b in layer_shapes(d, model.hidden_widths, k))
    cost = _PASS * parameters + surface.multiplications
    count = int(np.clip(_FOR_MORE_SEEDS // cost, 1, min(_EDGE_SEEDS, config.num_seeds)))
    most_gradients = int(_EDGE_WORK / (_CALL + count * cost))
    if most_gradients < 100:
        return _NO_EDGE
    target = config.target.absolute(surface.zero_excess)
    pace = ModelPrediction(model, "", (), target)
    enough = Enough(
        target, config.num_steps, pace.threshold * pace.step_time, whichever_first=True
    )  # fmt: skip
    # Numbers that float64 does not hold end a prediction, and must not cost finished runs.
    try:
        with np.errstate(all="ignore"):
            stack = Stack([draw(model, s) for s in config.seeds[:count]], surface.rotation)
            paths = follow(
                stack, surface, enough, tolerance=_EDGE_TOLERANCE, most_gradients=most_gradients
            )
    except (UserError, ValueError, ArithmeticError):
        return _NO_EDGE
    return np.median([_edges_of(pace, path, config.num_steps) for path in paths], axis=0)


def _edges_of(pace: ModelPrediction, path: Path, num_steps: int) -> np.ndarray:
    """One flow's `edge_rates`."""
    arrival = path.time_to(pace.target)
    if arrival == 0:
        return np.array([np.inf, np.inf])
    if math.isinf(arrival) and path.ended == "work":
        return _NO_EDGE
    end = min(arrival, float(path.time[-1]))
    numbers = np.arange(len(path.time))
    between = np.arange(0, len(path.time) - 1 + 1e-9, 1 / _EDGE_POINTS)
    times = np.append(np.interp(between, numbers, path.time), end)
    times = times[times <= end]
    sharpness = np.interp(times, path.time, path.sharpness)
    edges = np.full(len(times), np.inf)
    np.divide(pace.threshold, sharpness, out=edges, where=sharpness > 0)
    # A rate is at a time t if its steps, as many as the grid's, lead so far.
    low = np.maximum(edges, times / (num_steps * pace.step_time))
    # It takes a step there unless that comes after its last, or one from before leads to the
    # target: rates up to twice as large do if two steps are left to it. Where the flow was not
    # followed to the target, that may come right after its end.
    if path.ended == "time":
        arrival = end
    with np.errstate(divide="ignore", invalid="ignore"):
        high = np.where(
            times > 0, np.maximum(edges, times / ((num_steps - 1) * pace.step_time)), edges
        )
    skipped = (times > 0) & (2 * high * pace.step_time > arrival - times)
    return np.array([low.min(), np.where(skipped, np.inf, high).min()])


def flow_of(
    problem: Problem,
    surface: Surface,
    model: Model,
    config: SweepConfig,
    enough: Enough,
    progress: Callable[[float], None] | None = None,
) -> tuple[Path, ...]:
    """The gradient flows of a model from the weights that a sweep starts it from, by seed."""
    stack = stack_of(problem, surface, model, config, config.seeds)
    return tuple(follow(stack, surface, enough, progress=progress))


def stack_of(
    problem: Problem, surface: Surface, model: Model, config: SweepConfig, seeds: Sequence[int]
) -> Stack:
    """A model's networks as a sweep starts them, in the surface's basis."""
    networks: list[Layers] = [
        model.initialiser.draw(
            problem.num_features, model.hidden_widths, problem.num_outputs,
            bias=config.bias, seed=seed,
        )
        for seed in seeds
    ]  # fmt: skip
    return Stack(networks, surface.rotation)


def _no_prediction(model: Model, config: SweepConfig) -> str:
    """Why a model has no prediction; empty if it has one."""
    if config.activation != "identity":
        return f"no prediction for networks with {config.activation}: flows are of linear networks"
    if model.optimizer.name not in FLOWING:
        return f"no prediction for {model.optimizer.name}: it follows no gradient flow"
    if model.weight_decay:
        return "no prediction with weight decay"
    return ""
