"""Gradient flows: against closed forms, other integrators, gradient descent, what is conserved."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from oracles import random_layers
from scipy.integrate import solve_ivp
from test_observables import hessian

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import Loss
from implicit_accel.theory import stabilised
from implicit_accel.theory.flow import Enough, Stack, follow, largest_eigenvalue
from implicit_accel.theory.surface import make_surface


def problem_of(rng, n=40, d=5, k=1, decay=0.3):
    X = rng.standard_normal((n, d)) * decay ** np.arange(d)
    return linear.Problem.from_arrays(
        X, X @ rng.standard_normal((d, k)) + rng.standard_normal((n, k))
    )


def flow(problem, loss, layers, **options):
    surface = make_surface(problem, loss, bias=bool(layers[0].biases))
    share = options.pop("share", 0.1)
    enough = Enough(share * surface.zero_excess, options.pop("num_steps", 1000))
    return surface, follow(Stack(layers, surface.rotation), surface, enough, **options)


# --- The integrator ------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, 3, 10, 57])
def test_a_step_is_of_second_order_and_stable_over_its_interval(stages):
    def amplification(z):
        y = np.ones((len(z), 1))
        return stabilised.step(lambda u: z[:, None] * u, y, z[:, None] * y, np.ones(len(z)), stages)

    small = np.array([1e-2, 5e-3])
    errors = np.abs(amplification(-small)[:, 0] - np.exp(-small))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)  # a local error of third order
    interval = np.linspace(0.3, 0.653 * stages**2 * 0.95 - 0.7, 400)
    assert np.abs(amplification(-interval)).max() < 1
    assert stabilised.stages_for(0.653 * stages**2 * 0.9 - 0.7) <= stages


@pytest.mark.nightly
def test_a_stiff_nonlinear_flow_against_scipy(rng):
    problem, loss = problem_of(rng, decay=0.2), Loss(4)
    layers = [Initialiser("near_zero", 0.3).draw(5, (2,), 1, bias=False, seed=s) for s in (0, 1)]
    surface, paths = flow(problem, loss, layers, tolerance=1e-7, share=1e-3)
    stack = Stack(layers, surface.rotation)
    for b, path in enumerate(paths):

        def field(_, theta):
            W2, W1 = theta[-2:][None], theta[:-2].reshape(2, 5)
            r = (W2 @ W1)[0] @ problem.features.T - problem.targets[:, 0]
            G = (r**3) @ problem.features / len(r)
            return -np.concatenate([np.outer(W2[0], G).ravel(), W1 @ G])

        exact = solve_ivp(field, (0, path.time[-1]), stack.initial[b], method="Radau",
                          rtol=1e-10, atol=1e-12, dense_output=True)  # fmt: skip
        times = np.geomspace(1e-3, 1, 30) * path.time[-1]
        theta = exact.sol(times).T
        W = np.einsum("ti,tij->tj", theta[:, -2:], theta[:, :-2].reshape(-1, 2, 5))
        r = W @ problem.features.T - problem.targets[:, 0]
        expected = (r**4).mean(axis=1) / 4 - linear.optimum(loss, problem.features,
                                                        problem.targets).loss  # fmt: skip
        np.testing.assert_allclose(path.excess_at(times), expected, rtol=1e-4)


# --- Closed forms --------------------------------------------------------------------------------


def test_one_layer_on_l2_is_a_sum_of_exponentials(rng):
    problem = problem_of(rng, decay=0.4)
    layers = [Initialiser("near_zero", 0.1).draw(5, (), 1, bias=False, seed=3)]
    surface, (path,) = flow(problem, Loss(2), layers, share=1e-3, tolerance=1e-6)
    X, y = problem.features, problem.targets[:, 0]
    values, vectors = np.linalg.eigh(X.T @ X / len(y))
    gap = vectors.T @ (layers[0].weights[0][0] - np.linalg.lstsq(X, y, rcond=None)[0])
    times = np.linspace(0, path.time[-1], 50)
    expected = 0.5 * (values * gap**2 * np.exp(-2 * np.outer(times, values))).sum(axis=1)
    np.testing.assert_allclose(path.excess_at(times), expected, rtol=2e-4)
    np.testing.assert_allclose(path.sharpness, values[-1], rtol=1e-5)
    target = 1e-3 * surface.zero_excess
    exact = times[np.argmax(expected <= target)]
    assert path.time_to(target) == pytest.approx(exact, abs=times[1])


def test_two_layers_on_whitened_features_grow_as_a_sigmoid(rng):
    """Balanced along the label's direction: s' = 2 s (σ − s), Saxe et al. 2014, equation 8."""
    X = np.linalg.qr(rng.standard_normal((50, 4)))[0] * math.sqrt(50)
    direction = np.array([0.6, 0.8, 0, 0])
    problem = linear.Problem.from_arrays(X, 3.0 * X @ direction)
    start = 1e-3
    root = math.sqrt(start)
    layers = [linear.Layers((root * direction[None], np.array([[root]])))]
    _, (path,) = flow(problem, Loss(2), layers, share=1e-4, tolerance=1e-7)
    times = np.linspace(0, path.time[-1], 60)
    growth = np.exp(2 * 3.0 * times)
    s = 3.0 * growth / (growth - 1 + 3.0 / start)
    expected = (3 - s) ** 2 / 2
    shown = expected > 1e-4
    np.testing.assert_allclose(path.excess_at(times)[shown], expected[shown], rtol=2e-3)


# --- Properties ----------------------------------------------------------------------------------


@settings(max_examples=examples(10), deadline=None)
@given(
    seed=st.integers(0, 10**6), depth=st.integers(1, 4), width=st.integers(1, 3),
    p=st.sampled_from([2, 2.5, 3, 4, 6]), k=st.integers(1, 2), bias=st.booleans(),
)  # fmt: skip
def test_a_flow_loses_and_conserves(seed, depth, width, p, k, bias):
    rng = np.random.default_rng(seed)
    problem = problem_of(rng, n=25, d=3, k=k)
    hidden = (max(width, 1),) * (depth - 1)
    layers = [random_layers(rng, 3, hidden, k, bias=bias, std=0.4)]
    _, (path,) = flow(problem, Loss(p), layers, num_steps=50, share=0.3)
    assert (np.diff(path.excess) <= 0).all()
    assert (np.diff(path.time) > 0).all()
    assert path.imbalance < 2e-3 or bias  # of weights alone: a layer's bias is part of its norm


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_time_rescales_with_the_loss(rng, factor):
    """One layer and its labels times c: ℓp's gradient grows as c^(p−1), so time as c^(2−p)."""
    problem = problem_of(rng)
    scaled = linear.Problem.from_arrays(problem.features, factor * problem.targets)
    layers = Initialiser("near_zero", 0.1).draw(5, (), 1, bias=False, seed=0)
    larger = linear.Layers((factor * layers.weights[0],))
    _, (path,) = flow(problem, Loss(4), [layers])
    _, (other,) = flow(scaled, Loss(4), [larger])
    target = 0.1 * make_surface(problem, Loss(4)).zero_excess
    expected = path.time_to(target) * factor**-2
    assert other.time_to(target * factor**4) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("p", "hidden", "k", "bias"), [
    (2, (), 1, False), (2, (3,), 2, False), (4, (2, 2), 1, False), (3, (3,), 2, True),
    (2, (2,), 1, True),
])  # fmt: skip
def test_gradient_and_sharpness_against_differences_and_numpy(rng, p, hidden, k, bias):
    problem, loss = problem_of(rng, k=k), Loss(p)
    layers = random_layers(rng, 5, hidden, k, bias=bias, std=0.7)
    surface = make_surface(problem, loss, bias=bias)
    stack = Stack([layers], surface.rotation)
    theta = stack.initial
    point = surface.at(stack.end_to_end(theta))
    gradient = stack.gradient(theta, point.gradient)
    trained = stack.subset(np.ones_like(theta))
    for i in np.flatnonzero(trained[0])[:12]:
        moved = [theta + sign * 1e-6 * np.eye(theta.shape[1])[i] for sign in (1, -1)]
        ahead, behind = (surface.at(stack.end_to_end(t)).excess[0] for t in moved)
        assert gradient[0, i] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4, abs=1e-8)
    value, _ = largest_eigenvalue(
        stack.product(theta, surface, point),
        stack.subset(rng.standard_normal(theta.shape)),
        tolerance=1e-5,
    )
    if not bias:
        exact = np.linalg.eigvalsh(hessian(layers, problem, p))[-1]
        assert value[0] == pytest.approx(exact, rel=1e-6)
    columns = [
        stack.product(theta, surface, point)(np.eye(theta.shape[1])[i][None])[0]
        for i in np.flatnonzero(trained[0])
    ]
    dense = np.array(columns)[:, trained[0] > 0]
    np.testing.assert_allclose(dense, dense.T, atol=1e-10 * np.abs(dense).max())
    assert value[0] == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-6)


def test_hessians_of_the_surface_are_its_products(rng):
    for p, bias in ((2, False), (4, False), (3, True)):
        problem = problem_of(rng, k=2)
        surface = make_surface(problem, Loss(p), bias=bias)
        W = rng.standard_normal((3, *surface.shape))
        V = rng.standard_normal((3, *surface.shape))
        point = surface.at(W)
        dense = np.einsum("bij,bj->bi", surface.hessians(point), V.reshape(3, -1))
        np.testing.assert_allclose(surface.curve(point, V).reshape(3, -1), dense, rtol=1e-10)


# --- Gradient descent follows it -----------------------------------------------------------------


@pytest.mark.parametrize(("p", "hidden"), [(2, (1,)), (4, ()), (4, (3,)), (3, (1, 1))])
def test_descent_with_ever_smaller_rates_follows_the_flow(rng, p, hidden):
    problem = problem_of(rng, decay=0.6)
    layers = Initialiser("near_zero", 0.5).draw(5, hidden, 1, bias=False, seed=2)
    surface, (path,) = flow(problem, Loss(p), [layers], tolerance=1e-7)
    target = 0.1 * surface.zero_excess
    time = path.time_to(target)
    edge = 2 / path.largest_sharpness(time)
    errors = []
    for rate in (edge / 8, edge / 16, edge / 32):
        run = linear.train(
            problem, layers, learning_rates=[rate], num_steps=round(1.3 * time / rate) + 10,
            loss=Loss(p),
        )  # fmt: skip
        reached = int(run.steps_to_target[0])
        before, after = np.log(run.excess_loss[0][[reached - 1, reached]] / target)
        errors.append((reached - after / (after - before)) * rate / time - 1)
    assert abs(errors[0]) < 0.1
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.1)


# --- Where it ends -------------------------------------------------------------------------------


def test_what_cannot_move_or_go_further_is_said(rng):
    problem = problem_of(rng)
    still = linear.Layers((np.zeros((1, 5)), np.zeros((1, 1))))
    _, (path,) = flow(problem, Loss(2), [still])
    assert (path.ended, len(path.time)) == ("stuck", 1)
    assert path.time_to(1e-3) == math.inf
    layers = Initialiser("near_zero", 0.1).draw(5, (), 1, bias=False, seed=0)
    _, (path,) = flow(problem, Loss(2), [layers], share=1e-18)
    assert path.ended == "precision"
    _, (path,) = flow(problem, Loss(2), [layers], share=1e-9, most_gradients=30)
    assert path.ended == "work"
    with pytest.raises(ia.UserError, match="above 0"):
        Enough(0.0, 10)
