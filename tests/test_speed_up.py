"""The formula for depth's speed-up at stable rates, against closed forms and plain loops."""

import numpy as np
import pytest
from oracles import random_problem

from implicit_accel import Optimizer, UserError
from implicit_accel.data.problems import Problem
from implicit_accel.linear import Loss, SweepConfig
from implicit_accel.linear.networks import Layers
from implicit_accel.theory.flow import Enough, Path, Stack, follow
from implicit_accel.theory.predict import stack_of
from implicit_accel.theory.speed_up import (
    is_predicted,
    predict_speed_up,
    stable_rate,
    start_up_edge,
)
from implicit_accel.theory.surface import make_surface


def config(p: float, depth: int, **changes) -> SweepConfig:
    given = {"losses": (Loss(p),), "depths": (depth,), "num_seeds": 3, "num_steps": 2000}
    return SweepConfig(**(given | changes))


def path(time, sharpness) -> Path:
    time, sharpness = np.asarray(time, float), np.asarray(sharpness, float)
    falling = np.exp(-time)
    return Path(time, falling, falling**2, sharpness, "time", 0.0, np.zeros(1))


def test_the_stable_rate_is_a_fixed_point():
    """Λ(t) = 1 + t up to t = 9: η (1 + H η) = 2 is a quadratic equation."""
    growing = path(np.linspace(0, 9, 1000), np.linspace(1, 10, 1000))
    for H in (0, 3, 5):
        expected = 2.0 if H == 0 else (-1 + np.sqrt(1 + 8 * H)) / (2 * H)
        assert stable_rate(growing, H) == pytest.approx(expected, rel=1e-6)
    # Sharpness that falls again leaves the limit of its peak.
    peaked = path([0, 1, 2, 3], [1, 4, 1, 1])
    assert stable_rate(peaked, 10**6) == pytest.approx(0.5)
    assert stable_rate(path([0, 1], [0, 0]), 10) == np.inf


def plain_edge(X, y, p, w, rates):
    """The last rate before the first at which sixty steps of plain gradient descent blow up."""

    def loss(w):
        return np.mean(np.abs(X @ w - y) ** p) / p

    best = loss(np.linalg.lstsq(X, y, rcond=None)[0])  # near the optimum: the limit is 10 times
    edge = rates[0]
    for rate in rates:
        v = w.copy()
        limit = 10 * max(loss(v), loss(np.zeros_like(v)))
        for _ in range(60):
            r = X @ v - y
            v = v - rate * X.T @ (np.abs(r) ** (p - 1) * np.sign(r)) / len(y)
            if not loss(v) - best <= limit:
                return edge
        edge = rate
    return edge


@pytest.mark.parametrize("p", [3, 4, 6])
def test_the_start_up_edge_is_that_of_a_plain_loop(rng, p):
    problem = random_problem(rng, n=60, d=3)
    X, y = problem.features, problem.targets[:, 0]
    surface = make_surface(problem, Loss(p))
    w = 0.1 * rng.standard_normal(3)
    rotated = w if surface.rotation is None else w @ surface.rotation
    (edge,) = start_up_edge(surface, Stack([Layers((rotated[None],), ())], None))
    rates = edge * np.geomspace(0.5, 2, 201)
    assert edge == pytest.approx(plain_edge(X, y, p, w, rates), rel=0.04)


def test_on_a_quadratic_the_edge_is_two_over_the_sharpness(rng):
    problem = random_problem(rng, n=50, d=4)
    model = config(2, 2).models[0]
    found = predict_speed_up(problem, model, config(2, 2))
    X = problem.features
    assert found.one_layer_rate == pytest.approx(2 / np.linalg.eigvalsh(X.T @ X / len(X))[-1])


def test_the_parts_are_the_flows(rng):
    """Both flows begin at one end-to-end matrix, and S is the ratio of their steps."""
    problem = random_problem(rng, n=50, d=4)
    asked = config(4, 2)
    (model,) = asked.models
    found = predict_speed_up(problem, model, asked)
    surface = make_surface(problem, Loss(4))
    stack = stack_of(problem, surface, model, asked, asked.seeds)
    target = asked.target.absolute(surface.zero_excess)
    one = Stack([Layers((W,), ()) for W in stack.end_to_end(stack.initial)], None)
    for own, times in ((stack, found.time), (one, found.one_layer_time)):
        paths = follow(own, surface, Enough(target, asked.num_steps))
        assert times == pytest.approx([p.time_to(target) for p in paths])
    expected = (found.one_layer_time / found.one_layer_rate) / (found.time / found.rate)
    assert found.values == pytest.approx(expected)
    assert found.value == np.median(expected)


@pytest.mark.parametrize("bias", [False, True])
def test_a_rescaled_problem_has_the_same_speed_up(rng, bias):
    """Rates scale with the labels, steps do not; initial weights are scaled with them."""
    problem = random_problem(rng, n=60, d=3, mean=0.2)
    scaled = Problem.from_arrays(problem.features, 4 * problem.targets)
    # Depth 2: both layers' weights twice as large make a product four times as large.
    pair = [
        predict_speed_up(q, c.models[0], c).value
        for q, c in (
            (problem, config(4, 2, bias=bias, init_stds=(0.1,))),
            (scaled, config(4, 2, bias=bias, init_stds=(0.2,))),
        )
    ]
    if not bias:  # biases begin at zero, and do not scale with the first layer
        assert pair[0] == pytest.approx(pair[1], rel=0.03)
    assert all(np.isfinite(pair))


def test_only_networks_under_gradient_descent_have_one(rng):
    problem = random_problem(rng)
    asked = config(4, 1)
    with pytest.raises(UserError, match="that of a deeper network"):
        predict_speed_up(problem, asked.models[0], asked)
    adam = config(4, 2, optimizers=(Optimizer("adam"),))
    with pytest.raises(UserError, match="under gradient descent"):
        predict_speed_up(problem, adam.models[0], adam)
    mixed = config(4, 2, depths=(1, 2, 3), optimizers=(Optimizer("sgd"), Optimizer("adam")))
    assert [m.depth for m in mixed.models if is_predicted(m, mixed)] == [2, 3]
