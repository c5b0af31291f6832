"""How much depth gains at stable learning rates: a formula that needs no training.

A network of depth N and one layer start from the same end-to-end weights. Their gradient flows
reach the target at times t_N and t_1. At a learning rate η a step covers a time η of the flow, so
that with the largest stable rates η_N and η_1 the speed-up of depth is

    S = (t_1/η_1) / (t_N/η_N).

* η_N is the largest rate with ``η Λ(Hη) ≤ 2``, where Λ(t) is the largest sharpness of the deep flow
  up to time t and H the number of steps of a run: the run must be stable to its last step.
* η_1 is the *start-up edge*: the largest rate at which some sixty real gradient steps of one layer
  do not blow up. It is not 2/λ(0): on |r|^p a step contracts up to (p − 1) times that rate, and
  then λ falls, as the residuals do.

By hand, for depth 2 and small initial weights: S ≈ ½ (2/η_1)/λ(one layer, at the target).

The formula is one of gradient descent below the edge of stability. It fails on ℓ2, where training
past the edge survives, and where the target is reached in fewer than about twenty steps, which no
flow resolves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from implicit_accel.data.problems import Problem
from implicit_accel.errors import UserError
from implicit_accel.linear.config import Model, SweepConfig
from implicit_accel.linear.networks import Layers
from implicit_accel.theory.flow import Enough, Path, Stack, follow
from implicit_accel.theory.predict import stack_of
from implicit_accel.theory.surface import Surface, make_surface

_START_UP_STEPS = 60
# Blown up: a loss above this multiple of the first one, or of the zero predictor's.
_BLOWN_UP = 10.0
# Rates that are tried, in units of 2/λ(0), with ratios of 1.03.
_TRIED = np.geomspace(0.5, 32.0, 142)


@dataclass(frozen=True)
class PredictedSpeedUp:
    """The formula's parts for one model, by seed.

    Attributes:
        model: The deep model.
        rate: (seed,) η_N, the largest stable learning rate up to the run's last step.
        one_layer_rate: (seed,) η_1, the start-up edge of one layer.
        time: (seed,) t_N, the flow's time to the target; inf where it is not reached.
        one_layer_time: (seed,) t_1.
    """

    model: Model
    rate: Float[np.ndarray, " seeds"]
    one_layer_rate: Float[np.ndarray, " seeds"]
    time: Float[np.ndarray, " seeds"]
    one_layer_time: Float[np.ndarray, " seeds"]

    @property
    def values(self) -> Float[np.ndarray, " seeds"]:
        """(seed,) S; NaN where neither flow reaches the target."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.one_layer_time / self.one_layer_rate) / (self.time / self.rate)

    @property
    def value(self) -> float:
        """The median of S over seeds."""
        return float(np.median(self.values))


def predict_speed_up(problem: Problem, model: Model, config: SweepConfig) -> PredictedSpeedUp:
    """The speed-up of a deep linear network over one layer, each at its largest stable rate.

    Args:
        problem: What is fitted: features (n, d) and labels (n, k).
        model: One of ``config.models``, trained by gradient descent without weight decay.
        config: Its seeds, target and number of steps; the learning rates do not matter.

    Raises:
        UserError: If the model is one layer, or no gradient flow describes it.
    """
    if model.depth < 2:
        raise UserError("a speed-up over one layer is that of a deeper network")
    if not is_predicted(model, config):
        raise UserError(
            "the speed-up is predicted for linear networks under gradient descent without decay"
        )
    surface = make_surface(problem, model.loss, bias=config.bias)
    deep = stack_of(problem, surface, model, config, config.seeds)
    one = _one_layer(deep, bias=config.bias)
    target = config.target.absolute(surface.zero_excess)
    enough = Enough(target, config.num_steps)
    paths, single = follow(deep, surface, enough), follow(one, surface, enough)
    return PredictedSpeedUp(
        model,
        rate=np.array([stable_rate(path, config.num_steps) for path in paths]),
        one_layer_rate=start_up_edge(surface, one),
        time=np.array([path.time_to(target) for path in paths]),
        one_layer_time=np.array([path.time_to(target) for path in single]),
    )


def is_predicted(model: Model, config: SweepConfig) -> bool:
    """Whether there is a formula: for deep linear networks, gradient descent and no decay."""
    return (
        model.depth > 1
        and model.optimizer.name == "sgd"
        and not model.weight_decay
        and config.activation == "identity"
    )


def _one_layer(deep: Stack, *, bias: bool) -> Stack:
    """One layer with each network's initial end-to-end weights, in the surface's basis."""
    products = deep.end_to_end(deep.initial)
    if bias:  # the last feature is the constant 1
        return Stack([Layers((W[:, :-1],), (W[:, -1],)) for W in products], None)
    return Stack([Layers((W,), ()) for W in products], None)


def stable_rate(path: Path, num_steps: int) -> float:
    """The largest learning rate η with ``η Λ(η · num_steps) ≤ 2``; inf without curvature.

    Λ(t) does not decrease, so that the left-hand side rises with η, and bisection finds the root.
    """
    highest = path.largest_sharpness(0.0)
    low, high = 2 / max(path.largest_sharpness(), 1e-300), 2 / max(highest, 1e-300)
    if not np.isfinite(high) or high > 1e299:
        high = 4 * low if low < 1e299 else np.inf
    if not np.isfinite(high):
        return np.inf
    for _ in range(60):
        middle = np.sqrt(low * high)
        if middle * path.largest_sharpness(middle * num_steps) <= 2:
            low = middle
        else:
            high = middle
    return float(low)


def start_up_edge(surface: Surface, one: Stack) -> Float[np.ndarray, " seeds"]:
    """(seed,) the largest rate at which one layer's first steps do not blow up.

    All rates are tried at once, for sixty steps, in float64. A loss blows up above ten times the
    larger of its first value and the zero predictor's. On a quadratic the edge is 2/λ exactly.

    Args:
        surface: The loss surface.
        one: One layer for each seed, see `Stack`.
    """
    W = one.end_to_end(one.initial)
    point = surface.at(W)
    hessians = surface.hessians(point)
    units = 2 / np.array([max(np.linalg.eigvalsh(H)[-1], 1e-300) for H in hessians])
    if surface.is_quadratic:
        return units
    edges = []
    for start, unit, excess in zip(W, units, point.excess, strict=True):
        rates = unit * _TRIED
        moving = np.repeat(start[None], len(rates), axis=0)
        limit = _BLOWN_UP * max(float(excess), surface.zero_excess)
        survives = np.ones(len(rates), bool)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(_START_UP_STEPS):
                moving = moving - rates[:, None, None] * surface.gradient(moving)
                survives &= surface.at(moving).excess <= limit  # NaN does not survive
                moving[~survives] = start
        first = int(np.argmin(survives)) if not survives.all() else len(rates)
        edges.append(rates[max(first - 1, 0)])
    return np.array(edges)
