"""Laws, oracles and averaged descent: against direct simulation and closed forms."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from test_flow import problem_of

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.eigenvalues import third_derivative
from implicit_accel.theory import laws
from implicit_accel.theory.central import central_flow, touching_steps
from implicit_accel.theory.flow import MOST_GRADIENTS, Enough, Stack, follow, most_gradients_of
from implicit_accel.theory.oracle import scale_by_inverse_sharpness
from implicit_accel.theory.surface import make_surface


def updated(rule, gradient, params, state=None) -> Any:
    """What a transformation makes of a gradient, as an array or a tree of them."""
    return rule.update(gradient, rule.init(params) if state is None else state, params)[0]


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_the_contraction_is_the_best_of_all_rates(depth):
    """On the quadratic that whitened ℓ2 is near its optimum: one direction along w, one across."""
    rates = np.linspace(0.01, 2 / depth, 4001)
    factors = np.maximum(abs(1 - rates * depth), abs(1 - rates))
    assert factors.min() == pytest.approx(laws.contraction(depth), abs=1e-3)
    assert rates[factors.argmin()] == pytest.approx(2 / (depth + 1), rel=1e-2)


def test_steps_at_the_optimum_are_those_of_the_contraction():
    for depth, steps in ((3, 7.8), (8, 21.5)):
        assert laws.steps_at_the_optimum(depth, 0.5, 1e-5) == pytest.approx(steps, abs=0.05)
    assert laws.steps_at_the_optimum(1, 0.5, 1e-5) == 0


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_the_plateau_s_length_follows_its_exponent(depth):
    """Equal scalars: a' = a^{N−1} from s to 1 takes (s^{−(N−2)} − 1)/(N−2)."""
    lengths = [(s ** -(depth - 2) - 1) / (depth - 2) for s in (1e-3, 1e-4)]
    slope = math.log(lengths[1] / lengths[0]) / math.log(0.1)
    assert slope == pytest.approx(laws.plateau_exponent(depth), abs=0.01)


@settings(max_examples=examples(10), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans(), st.booleans())
def test_parts_of_the_rule_are_those_of_its_formula(seed, depth, rate, projection):
    rng = np.random.default_rng(seed)
    w, G = rng.standard_normal((2, 1, 4))
    size = np.linalg.norm(w)
    expected = G
    if projection:
        expected = expected + (depth - 1) * (w @ G.T) / size**2 * w
    if rate:
        expected = size ** (2 - 2 / depth) * expected
    with jax.enable_x64(True):
        rule = linear.scale_by_end_to_end(depth, rate=rate, projection=projection)
        found = updated(rule, jnp.asarray(G), jnp.asarray(w))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_parts_are_settings_of_the_optimizer_and_zero_stays_zero():
    optimizer = ia.Optimizer("end_to_end", (("depth", 2.0), ("projection", False)))
    rule = optimizer.build(0.5)
    w, G = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 2.0]])
    moved = updated(rule, G, w)
    np.testing.assert_allclose(moved, -0.5 * 5 * G, rtol=1e-6)
    still = updated(rule, G, jnp.zeros_like(w))
    assert not np.any(still)
    with pytest.raises(ia.UserError, match="true or false"):
        ia.Optimizer("end_to_end", (("rate", 1.0),))


def test_the_oracle_divides_by_the_largest_eigenvalue(rng):
    A = rng.standard_normal((6, 6))
    A = A @ A.T

    def loss(params):
        x = jnp.concatenate([params["a"], params["b"]])
        return x @ jnp.asarray(A) @ x / 2

    with jax.enable_x64(True):
        rule = scale_by_inverse_sharpness(loss)
        params = {"a": jnp.ones(2), "b": jnp.ones(4)}
        gradient = jax.grad(loss)(params)
        moved = updated(rule, gradient, params)
        top = np.linalg.eigvalsh(A)[-1]
        np.testing.assert_allclose(moved["b"], gradient["b"] / top, rtol=1e-6)
        with pytest.raises(ValueError, match="needs the parameters"):
            rule.update(gradient, rule.init(params))
        flat = scale_by_inverse_sharpness(lambda p: jnp.sum(p))
        still = updated(flat, jnp.ones(3), jnp.ones(3))
        np.testing.assert_array_equal(still, np.ones(3))


def test_the_oracle_in_a_chain_converges_where_a_constant_rate_cannot():
    """A quartic's curvature falls on the way down: the oracle's rate grows."""
    chain = optax.chain(
        scale_by_inverse_sharpness(lambda x: jnp.sum(x**4)), optax.scale_by_learning_rate(1.0)
    )
    x = jnp.array([2.0])
    state = chain.init(x)
    for _ in range(20):
        step, state = chain.update(4 * x**3, state, x)
        x = x + jnp.asarray(step)
    # Each step takes a third of x away: 4x³/12x².
    assert float(x[0]) == pytest.approx(2 * (2 / 3) ** 20, rel=1e-3)


def test_the_third_derivative_is_the_eigenvalue_s_gradient(rng):
    A, u0 = rng.standard_normal((3, 3)), rng.standard_normal(3)

    def loss(x):
        return jnp.sum(jnp.sin(jnp.asarray(A) @ x)) + jnp.sum(x**4)

    with jax.enable_x64(True):
        x = jnp.asarray(u0)
        _, vectors = np.linalg.eigh(np.asarray(jax.hessian(loss)(x)))
        found = third_derivative(loss, x, jnp.asarray(vectors[:, -1]))

        def top(z):
            return np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(jnp.asarray(z))))[-1]

        expected = [
            (top(u0 + 1e-5 * e) - top(u0 - 1e-5 * e)) / 2e-5 for e in np.eye(3)
        ]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def valley(x):
    """Sharp along y, sharper the further along x; the loss falls with x."""
    return (4 + x[0]) * x[1] ** 2 / 2 - 0.001 * x[0]


def test_averaged_descent_is_the_central_flow():
    """At η = 0.4 the edge is λ = 5, where swings of y hold x back at 1."""
    rate, steps = 0.4, 4000
    start = np.array([0.98, 0.04])
    path = central_flow(lambda x: valley(x), start, rate, steps)
    x = start
    points = []
    for _ in range(steps + 1):
        points.append(x)
        x = x - rate * np.array([x[1] ** 2 / 2 - 0.001, (4 + x[0]) * x[1]])
    points = np.array(points)
    late = slice(2000, None)
    assert path.sharpness[late] == pytest.approx(5, rel=1e-3)
    # Held where y² = 0.002: the variance; and so is the mean of the descent's own y².
    assert path.variance[late] == pytest.approx(0.002, rel=1e-2)
    assert np.mean(points[late, 1] ** 2) == pytest.approx(0.002, rel=0.03)
    measured = np.mean([valley(p) for p in points[late]])
    swings = np.mean(path.averaged[late] - path.excess[late])
    assert swings == pytest.approx(0.005, rel=0.01)  # σ²/η
    assert np.mean(path.averaged[late]) == pytest.approx(measured, rel=0.05)
    assert np.mean(points[late, 0]) == pytest.approx(1, abs=0.05)


def test_a_target_is_touched_between_two_steps_of_the_central_flow():
    rate, start = 0.4, np.array([0.98, 0.04])
    whole = central_flow(lambda x: valley(x), start, rate, 700)
    part = central_flow(lambda x: valley(x), start, rate, 700, until=0.002)
    np.testing.assert_array_equal(part.averaged, whole.averaged[: len(part.averaged)])
    assert len(part.averaged) < 700
    assert part.averaged.min() <= 0.002
    least, most = touching_steps(lambda x: valley(x), start, rate, 700, 0.002)
    assert (whole.excess[: int(least)] > 0.002).all()
    assert whole.excess[int(least)] <= 0.002
    assert (whole.averaged[: int(most)] > 0.002).all()
    assert whole.averaged[int(most)] <= 0.002
    assert touching_steps(lambda x: valley(x), start, rate, 50, -1.0) == (np.inf, np.inf)


def test_below_the_edge_the_central_flow_is_the_gradient_flow(rng):
    problem = problem_of(rng, d=3)
    surface = make_surface(problem, linear.Loss(4))
    layers = [linear.Initialiser("identity", 0.1).draw(3, (2,), 1, bias=False, seed=0)]
    stack = Stack(layers, surface.rotation)
    (path,) = follow(stack, surface, Enough(1e-3 * surface.zero_excess, 100), tolerance=1e-6)
    rate = 0.05 / path.largest_sharpness()
    loss, theta = stack.traced(surface, stack.initial[0])
    found = central_flow(loss, theta, rate, 200)
    assert (found.variance == 0).all()
    expected = path.excess_at(rate * np.arange(201))
    np.testing.assert_allclose(found.excess, expected, rtol=0.02)
    with pytest.raises(ia.UserError, match="substeps"):
        central_flow(loss, theta, rate, 10, substeps=1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("p", [2, 3, 4])
def test_a_traced_loss_is_the_surface_s(rng, p, bias):
    problem = problem_of(rng, d=4, k=2)
    surface = make_surface(problem, linear.Loss(p), bias=bias)
    layers = [linear.Initialiser("pytorch").draw(4, (3,), 2, bias=bias, seed=0)]
    stack = Stack(layers, surface.rotation)
    point = surface.at(stack.end_to_end(stack.initial))
    loss, theta = stack.traced(surface, stack.initial[0])
    gradient = stack.gradient(stack.initial, point.gradient)[0]
    with jax.enable_x64(True):
        assert float(loss(jnp.asarray(theta))) == pytest.approx(point.excess[0], rel=1e-9)
        found = np.asarray(jax.grad(loss)(jnp.asarray(theta)))
    assert len(theta) == (4 * 3 + 3 * 2 + (5 if bias else 0))
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(gradient), rel=1e-9)


def test_a_flow_ends_where_a_sharpness_is_exceeded(rng):
    problem = problem_of(rng, d=3)
    surface = make_surface(problem, linear.Loss(2))
    layers = [linear.Initialiser("near_zero", 0.1).draw(3, (1,), 1, bias=False, seed=0)]
    stack = Stack(layers, surface.rotation)
    target = 1e-3 * surface.zero_excess
    (whole,) = follow(stack, surface, Enough(target, 100))
    level = 0.7 * whole.largest_sharpness()
    (cut,) = follow(stack, surface, Enough(target, 100, sharpness=level))
    assert cut.ended == "sharp"
    assert cut.sharpness[-2] <= level < cut.sharpness[-1]
    assert cut.time[-1] <= whole.time[-1]
    loss, theta = stack.traced(surface, cut.last)
    with jax.enable_x64(True):
        top = np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(jnp.asarray(theta))))[-1]
    assert top == pytest.approx(cut.sharpness[-1], rel=1e-3)


def test_a_flow_whose_plateau_outlasts_float64_s_steps_has_a_path():
    problem = linear.Problem.from_arrays(np.eye(4) * 2, np.array([1.0, 0.5, 0.2, 0.1]))
    surface = make_surface(problem, linear.Loss(2))
    layers = [linear.Initialiser("near_zero", 0.01).draw(4, (1,) * 7, 1, bias=False, seed=s)
              for s in range(6)]  # fmt: skip
    stack = Stack(layers, surface.rotation)
    paths = follow(stack, surface, Enough(0.1 * surface.zero_excess, 1))
    for path in paths:
        assert (np.diff(path.time) > 0).all()
        assert path.time_to(0.1 * surface.zero_excess) > 0
    assert any(np.isfinite(path.time_to(0.1 * surface.zero_excess)) for path in paths)


def test_large_networks_are_followed_with_fewer_gradients(rng):
    problem = problem_of(rng, d=3)
    surface = make_surface(problem, linear.Loss(2))

    def most(width):
        layers = [linear.Initialiser("near_zero").draw(3, (width,), 1, bias=False, seed=0)]
        return most_gradients_of(Stack(layers, surface.rotation), surface)

    assert most(1) == MOST_GRADIENTS
    assert most(10**6) < MOST_GRADIENTS
