"""The plateau law: against the whole flow, other integrators, and what it conserves."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from test_flow import problem_of

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.flow import Enough, Stack, follow
from implicit_accel.theory.plateau import escape_time
from implicit_accel.theory.surface import make_surface


def linear_time(surface, layers, share):
    """The linear problem, layer by layer in the plain coordinates, by SciPy."""
    gradient = surface.at(np.zeros((1, *surface.shape))).gradient[0]
    weights = [np.asarray(W, float) for W in layers.weights]
    if surface.rotation is not None:
        weights[0] = weights[0] @ surface.rotation
    shapes = [W.shape for W in weights]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def split(theta):
        return [theta[i:j].reshape(s) for i, j, s in zip(ends, ends[1:], shapes, strict=False)]

    def chain(matrices, size):
        found = np.eye(size)
        for W in matrices:
            found = W @ found
        return found

    def field(_, theta):
        W = split(theta)
        return -np.concatenate([
            (chain(W[j + 1 :], shapes[j][0]).T @ gradient @ chain(W[:j], shapes[0][1]).T).ravel()
            for j in range(len(W))
        ])  # fmt: skip

    def arrived(_, theta):
        W = chain(split(theta), shapes[0][1])
        return -float((W * gradient).sum()) - share * surface.zero_excess

    arrived.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    start = np.concatenate([W.ravel() for W in weights])
    if arrived(0, start) >= 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # deep ones explode soon after
        found = solve_ivp(field, (0, 1e8), start, "DOP853", events=arrived, rtol=1e-11, atol=1e-14)
    assert found.t_events is not None
    return found.t_events[0][0]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 3])
def test_against_another_integrator(rng, depth, width):
    surface = make_surface(problem_of(rng, d=3), Loss(4))
    for seed in range(4):
        layers = Initialiser("near_zero", 0.2).draw(
            3, (width,) * (depth - 1), 1, bias=False, seed=seed
        )
        found = escape_time(surface, layers, 0.05)
        assert found == pytest.approx(linear_time(surface, layers, 0.05), rel=1e-6)


@pytest.mark.parametrize(("depth", "width", "tolerance"), [
    (2, 1, 0.02), (3, 1, 0.02), (4, 1, 0.02), (2, 4, 0.02), (3, 4, 0.02),
])  # fmt: skip
def test_the_whole_flow_moves_when_the_law_says(rng, depth, width, tolerance):
    problem = problem_of(rng, d=4, decay=0.5)
    surface = make_surface(problem, Loss(2))
    share = 0.02
    networks = [
        Initialiser("near_zero", 0.01).draw(4, (width,) * (depth - 1), 1, bias=False, seed=s)
        for s in range(5)
    ]
    enough = Enough((1 - share) * surface.zero_excess, 1)
    paths = follow(Stack(networks, surface.rotation), surface, enough)
    found = np.array([path.time_to(enough.target) for path in paths])
    law = np.array([escape_time(surface, layers, share) for layers in networks])
    np.testing.assert_allclose(law, found, rtol=tolerance)


def test_depth_8_has_a_time_although_nobody_will_see_it(rng):
    surface = make_surface(problem_of(rng), Loss(2))
    layers = Initialiser("near_zero", 0.01).draw(5, (1,) * 7, 1, bias=False, seed=0)
    assert 1e8 < escape_time(surface, layers) < 1e20


def test_networks_that_never_move(rng):
    surface = make_surface(problem_of(rng), Loss(2))
    zero = np.zeros((1, 1))
    assert escape_time(surface, linear.Layers((np.zeros((1, 5)), zero))) == math.inf
    assert escape_time(surface, linear.Layers((np.ones((1, 5)), zero, zero))) == math.inf
    beyond = -10 * surface.at(np.zeros((1, 1, 5))).gradient[0]
    if surface.rotation is not None:
        beyond = beyond @ surface.rotation.T
    assert escape_time(surface, linear.Layers((beyond,))) == 0
    with pytest.raises(ia.UserError, match="share"):
        escape_time(surface, linear.Layers((np.ones((1, 5)),)), 2.0)
    two = make_surface(problem_of(rng, k=2), Loss(2))
    with pytest.raises(ia.UserError, match="one output"):
        escape_time(two, linear.Layers((np.ones((2, 5)),)))
