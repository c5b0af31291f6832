"""Theory's functions: against closed forms, naive numpy and the dynamics that they describe."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import gradient_descent, loss_and_gradient, random_layers, random_problem

from implicit_accel import Optimizer, UserError
from implicit_accel.linear import (
    Initialiser,
    Layers,
    Loss,
    Problem,
    Target,
    scale_by_end_to_end,
    train,
)
from implicit_accel.theory.balance import balancedness
from implicit_accel.theory.induced import induced_dynamics
from implicit_accel.theory.regulariser import (
    closed_curve,
    closed_curve_integral,
    end_to_end_field,
    line_integral,
    loss_gradient,
    ray_coefficients,
)

# --- Balancedness --------------------------------------------------------------------------------


def test_balancedness_against_the_definition(rng):
    layers = random_layers(rng, 4, (3, 5), 2, bias=True)
    W1, W2, W3 = layers.weights
    gaps = (W2.T @ W2 - W1 @ W1.T, W3.T @ W3 - W2 @ W2.T)
    imbalance, scale = balancedness(layers)
    assert imbalance == pytest.approx(max(math.sqrt((g**2).sum()) for g in gaps))
    assert scale == pytest.approx(min(math.sqrt(((W @ W.T) ** 2).sum()) for W in layers.weights))


def test_balancedness_of_many_networks_at_once(rng):
    networks = [random_layers(rng, 4, (3, 5), 2) for _ in range(6)]
    stacked = jax.tree.map(lambda *a: np.stack(a).reshape(2, 3, *a[0].shape), *networks)
    expected = np.array([balancedness(n) for n in networks]).T.reshape(2, 2, 3)
    np.testing.assert_allclose(balancedness(stacked), expected)
    with jax.enable_x64(True):
        on_device = jax.tree.map(jnp.asarray, stacked)
        mapped = jax.jit(jax.vmap(jax.vmap(balancedness)))(on_device)
        np.testing.assert_allclose(mapped, expected)


def test_a_single_layer_is_balanced():
    assert balancedness(Layers((np.array([[3.0, 4.0]]),))) == (0.0, 25.0)


def test_gradient_descent_keeps_the_imbalance_to_second_order(rng):
    """Per step it changes by η², so over a fixed stretch of time by η."""
    problem = random_problem(rng)
    layers = Initialiser("balanced", 0.5).draw(4, (3, 3), 1, bias=False, seed=0)
    assert balancedness(layers)[0] < 1e-15

    def final(rate, num_steps):
        _, moved = gradient_descent(
            layers, problem.features, problem.targets, 2, scale=0.5, learning_rate=rate,
            num_steps=num_steps,
        )  # fmt: skip
        return balancedness(moved)

    imbalance, scale = final(0.01, 100)
    assert 0 < imbalance < 0.02 * scale
    assert imbalance / final(0.005, 200)[0] == pytest.approx(2, rel=0.1)


# --- The line integral ---------------------------------------------------------------------------


@given(N=st.sampled_from([1, 2, 3, 5]), seed=st.integers(0, 100))
def test_the_field_is_the_end_to_end_rule(N, seed):
    w, g = np.random.default_rng(seed).standard_normal((2, 4))
    rule: Any = scale_by_end_to_end(N)
    with jax.enable_x64(True):
        expected, _ = rule.update(jnp.asarray(g)[None], rule.init(w), jnp.asarray(w)[None])
    np.testing.assert_allclose(end_to_end_field(lambda _: g, N)(w), expected[0], rtol=1e-12)
    at_zero = end_to_end_field(lambda _: g, N)(np.zeros(4))
    assert np.array_equal(at_zero, g if N == 1 else np.zeros(4))


@pytest.mark.parametrize("p", [2, 3, 4])
def test_the_gradient_of_a_problem(rng, p):
    problem, w = random_problem(rng), rng.standard_normal(4)
    layers = Layers((w[None],))
    _, expected = loss_and_gradient(layers, problem.features, problem.targets, p, scale=1 / p)
    gradient = loss_gradient(Loss(p), problem)(w)
    np.testing.assert_allclose(gradient, expected.weights[0][0], rtol=1e-12)


@given(angle=st.floats(0.1, 6), seed=st.integers(0, 100), d=st.integers(2, 6))
def test_the_curve_is_a_sector(angle, seed, d):
    rng = np.random.default_rng(seed)
    curve = closed_curve(rng.standard_normal(d), rng.standard_normal(d), 0.3, 2.0, angle)
    h = 1e-6
    for segment, following in zip(curve, (*curve[1:], curve[0]), strict=True):
        np.testing.assert_allclose(segment.point(1), following.point(0), atol=1e-14)
        for t in (0.2, 0.9):
            slope = (segment.point(t + h) - segment.point(t - h)) / (2 * h)
            np.testing.assert_allclose(segment.velocity(t), slope, atol=1e-7)
    for k, radius in ((1, 0.3), (3, 2.0)):
        for t in (0, 0.4, 1):
            assert np.linalg.norm(curve[k].point(t)) == pytest.approx(radius)


def test_the_curve_of_the_paper():
    curve = closed_curve(np.array([0.0, 5.0]), np.array([1.0, 1.0]), 0.5, 2.0)
    corners = [segment.point(0) for segment in curve]
    np.testing.assert_allclose(corners, [[0, -2], [0, -0.5], [0, 0.5], [0, 2]], atol=1e-15)
    np.testing.assert_allclose(curve[1].point(0.5), [0.5, 0], atol=1e-15)


@pytest.mark.parametrize("angle", [math.pi, math.pi / 2, 5.0])
def test_line_integrals_with_known_values(rng, angle):
    a, b = rng.standard_normal((2, 3))
    curve = closed_curve(a, b, 0.4, 1.5, angle)
    # A rotation's is twice the area that is enclosed; the outer arc runs from a towards b.
    e = a / np.linalg.norm(a)
    o = (b - (b @ e) * e) / np.linalg.norm(b - (b @ e) * e)
    value, error = line_integral(lambda w: (w @ e) * o - (w @ o) * e, curve)
    assert value == pytest.approx(angle * (1.5**2 - 0.4**2), rel=1e-13)
    assert error < 1e-11
    # A gradient's is zero.
    A = rng.standard_normal((3, 3))
    value, error = line_integral(lambda w: (A + A.T) @ w + np.cos(w) * np.exp(np.sin(w)), curve)
    assert abs(value) < max(error, 1e-13)
    assert error < 1e-10


@pytest.mark.parametrize("N", [1, 2, 3, 4, 8])
def test_a_constant_gradient(N):
    """−2 ‖g‖ (N / (3 − 2/N) − 1) (R^{3−2/N} − r^{3−2/N}): nothing for N = 1 and N = 2."""
    g, r, R = np.array([1.0, -2.0, 2.0]), 0.5, 2.0
    q = 3 - 2 / N
    expected = -2 * 3 * (N / q - 1) * (R**q - r**q)
    value, error = line_integral(
        end_to_end_field(lambda _: g, N), closed_curve(-g, np.array([1.0, 0, 0]), r, R)
    )
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-13)
    analytic = closed_curve_integral([0, 3], [0, -3], N, r, R)
    assert analytic == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert error < 1e-10
    assert (abs(value) < 1e-12) == (N <= 2)


@pytest.mark.parametrize("N", [1, 2, 3, 5])
@pytest.mark.parametrize("angle", [math.pi / 2, math.pi])
def test_a_quadratic(rng, N, angle):
    """L = wᵀAw/2 − b·w between eigenvectors of A, or between opposite directions."""
    values, r, R = np.array([3.0, 1.0]), 0.5, 2.0
    V, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    A, b = (V * values) @ V.T, rng.standard_normal(2)
    e, o = V.T
    start = o if angle == math.pi / 2 else -e
    field = end_to_end_field(lambda w: A @ w - b, N)
    value, error = line_integral(field, closed_curve(e, o, r, R, angle))

    def coefficients(unit):
        return [0, -b @ unit, unit @ A @ unit / 2]

    analytic = closed_curve_integral(coefficients(start), coefficients(e), N, r, R)
    assert value == pytest.approx(analytic, rel=1e-12, abs=1e-13)
    assert error < 1e-10
    if N == 2 and angle == math.pi / 2:  # the quadratic part alone: (λ₁ − λ₂)/2 · (R³ − r³)/3
        assert value == pytest.approx((3 - 1) / 2 * (R**3 - r**3) / 3, rel=1e-12)
    if N == 1 or (N == 2 and angle == math.pi):
        assert abs(value) < 1e-12


@pytest.mark.parametrize("p", [2, 4, 6])
@pytest.mark.parametrize("convention", ["paper", "plain"])
def test_a_problem_s_loss_along_a_ray(rng, p, convention):
    problem, loss = random_problem(rng, mean=0.4), Loss(p, convention)
    direction = rng.standard_normal(4)
    coefficients = ray_coefficients(loss, problem, direction)
    for t in (-0.7, 0.0, 1.3):
        w = t * direction / np.linalg.norm(direction)
        expected = loss.mean(problem.features @ w - problem.targets[:, 0])
        assert np.polynomial.polynomial.polyval(t, coefficients) == pytest.approx(expected)


@given(
    N=st.integers(1, 6),
    p=st.sampled_from([2, 4]),
    angle=st.sampled_from([math.pi, 1.0, 4.0]),
    radii=st.tuples(st.floats(0.05, 0.5), st.floats(0.6, 2.0)),
    seed=st.integers(0, 100),
)
def test_a_problem_s_loss(N, p, angle, radii, seed):
    rng = np.random.default_rng(seed)
    problem, loss = random_problem(rng, mean=0.4), Loss(p)
    gradient = loss_gradient(loss, problem)
    e, o = -gradient(np.zeros(4)), rng.standard_normal(4)
    r, R = radii
    curve = closed_curve(e, o, r, R, angle)
    value, error = line_integral(end_to_end_field(gradient, N), curve)
    start, end = (ray_coefficients(loss, problem, u) for u in (curve[0].point(0), e))
    analytic = closed_curve_integral(start, end, N, r, R)
    size = max(1, *np.abs(start), *np.abs(end)) * max(1, R**6)
    assert value == pytest.approx(analytic, rel=1e-9, abs=1e-11 * size)
    assert abs(value - analytic) <= error + 1e-12 * size


def test_l4_has_no_regulariser_at_depth_2_and_l2_needs_another_angle(rng):
    problem = random_problem(rng, mean=0.4)
    for p, angle, zero in ((2, math.pi, True), (2, math.pi / 2, False), (4, math.pi, False)):
        gradient = loss_gradient(Loss(p), problem)
        curve = closed_curve(-gradient(np.zeros(4)), np.ones(4), 0.1, 1.0, angle)
        value, error = line_integral(end_to_end_field(gradient, 2), curve)
        assert (abs(value) < 1e-12) == zero
        assert error < 1e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [0, 1], 0.0, 1.0), "0 < inner < outer"),
        (([1, 0], [0, 1], 2.0, 1.0), "0 < inner < outer"),
        (([1, 0], [0, 1], 1.0, math.nan), "0 < inner < outer"),
        (([1, 0], [0, 1], 1.0, 2.0, 7.0), "below 2 pi"),
        (([0, 0], [0, 1], 1.0, 2.0), "direction is zero"),
        (([1, 1], [2, 2], 1.0, 2.0), "parallel"),
        (([1, 1], [0, 0], 1.0, 2.0), "parallel"),
    ],
)
def test_bad_curves_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        closed_curve(*arguments)


def test_losses_without_a_formula_are_refused(rng):
    with pytest.raises(UserError, match="no polynomial"):
        ray_coefficients(Loss(3), random_problem(rng), np.ones(4))
    with pytest.raises(UserError, match="2 outputs"):
        ray_coefficients(Loss(2), random_problem(rng, k=2), np.ones(4))
    with pytest.raises(UserError, match="2 outputs"):
        loss_gradient(Loss(2), random_problem(rng, k=2))


# --- Depth 2 with a scalar -----------------------------------------------------------------------


def scalar_run(problem, p, rate, num_steps, w1, omega):
    """w(t), the loss's gradients at them and ω(t) of gradient descent on L(ω w₁)."""
    gradient = loss_gradient(Loss(p), problem)
    points, gradients, scalars = [omega * w1], [], [omega]
    for _ in range(num_steps):
        g = gradient(omega * w1)
        w1, omega = w1 - rate * omega * g, omega - rate * w1 @ g
        gradients.append(g)
        points.append(omega * w1)
        scalars.append(omega)
    return np.array(points), np.array(gradients), np.array(scalars)


def induced_step(dynamics, points, gradients, w1):
    """Every w(t+1) from the true w(t) and gradients."""
    past = dynamics.mu @ gradients
    return points[:-1] - dynamics.rho[:, None] * gradients - past - np.outer(dynamics.start, w1)


@pytest.mark.parametrize("p", [2, 4])
def test_the_exact_induced_dynamics(rng, p):
    problem, w1 = random_problem(rng), 0.3 * rng.standard_normal(4)
    points, gradients, scalars = scalar_run(problem, p, 0.05, 60, w1, -0.6)
    dynamics = induced_dynamics(scalars, 0.05, exact=True)
    np.testing.assert_allclose(
        induced_step(dynamics, points, gradients, w1), points[1:], rtol=1e-12, atol=1e-13
    )
    assert (np.triu(dynamics.mu) == 0).all()


def test_the_induced_dynamics_are_the_recursion_unrolled(rng):
    """Against μ(t, τ) = −γ(t) ρ(τ) Π (1 − γ(s)), with γ = η (w₁·∇)/ω from its definition."""
    problem, w1, rate = random_problem(rng), 0.3 * rng.standard_normal(4), 0.05
    points, gradients, scalars = scalar_run(problem, 2, rate, 12, w1, 0.6)
    dynamics = induced_dynamics(scalars, rate)
    rho = rate * scalars[:-1] ** 2
    gamma = [
        rate * (w / omega) @ g / omega
        for w, g, omega in zip(points[:-1], gradients, scalars[:-1], strict=True)
    ]
    np.testing.assert_allclose(dynamics.rho, rho)
    for t in range(12):
        for tau in range(t):
            product = math.prod(1 - gamma[s] for s in range(tau + 1, t))
            assert dynamics.mu[t, tau] == pytest.approx(-gamma[t] * rho[tau] * product)
        start = gamma[t] * math.prod(1 - g for g in gamma[:t]) * 0.6
        assert dynamics.start[t] == pytest.approx(start)


@pytest.mark.parametrize("p", [2, 4])
def test_the_induced_dynamics_drop_second_order_terms(rng, p):
    """Over a fixed stretch of time the error of a step falls as η²."""
    problem, w1 = random_problem(rng), 0.3 * rng.standard_normal(4)

    def errors(rate, num_steps):
        points, gradients, scalars = scalar_run(problem, p, rate, num_steps, w1, 0.6)
        predicted = induced_step(induced_dynamics(scalars, rate), points, gradients, w1)
        error = np.linalg.norm(predicted - points[1:], axis=1)
        # The first step has no past: its error is the dropped term, η² ω (w₁·∇) ∇.
        dropped = rate**2 * 0.6 * abs(w1 @ gradients[0]) * np.linalg.norm(gradients[0])
        assert error[0] == pytest.approx(dropped, rel=1e-6)
        return error.max(), np.linalg.norm(np.diff(points, axis=0), axis=1).max()

    (coarse, moved), (fine, _) = errors(2.0**-9, 200), errors(2.0**-10, 400)
    assert coarse / fine == pytest.approx(4, rel=0.05)
    assert coarse < 0.1 * moved


def test_momentum_is_positive_while_the_scalar_grows():
    growing = induced_dynamics(np.array([0.1, 0.2, 0.4, 0.5]), 0.1)
    assert (growing.mu[np.tril_indices(3, -1)] > 0).all()
    opposite = induced_dynamics(-np.array([0.1, 0.2, 0.4, 0.5]), 0.1)
    np.testing.assert_array_equal(growing.mu, opposite.mu)


def test_a_scalar_of_zero_has_only_exact_dynamics():
    scalars = np.array([0.0, 0.1, 0.3])
    with pytest.raises(UserError, match="use exact"):
        induced_dynamics(scalars, 0.1)
    assert np.isfinite(induced_dynamics(scalars, 0.1, exact=True).mu).all()


# --- The two-point example -----------------------------------------------------------------------


def test_depth_speeds_up_the_two_point_example():
    """Inputs (1, 0) and (0, 1), labels y₁ = 30 and y₂ = 1, ℓ4: each at its best rate of a grid."""
    problem = Problem.from_arrays(np.eye(2), np.array([30.0, 1.0]))
    rates = np.geomspace(1e-4, 0.02, 61)
    start = np.array([[0.01, 0.01]])
    scalar = np.sqrt(np.linalg.norm(start))
    models = {
        "one": (Layers((start,)), Optimizer("sgd")),
        "rule": (Layers((start,)), Optimizer("end_to_end", (("depth", 2),))),
        "two": (Layers((start / scalar, np.array([[scalar]]))), Optimizer("sgd")),
    }
    fewest, best = {}, {}
    for name, (layers, optimizer) in models.items():
        result = train(
            problem, layers, learning_rates=list(rates), num_steps=5000, loss=Loss(4),
            optimizer=optimizer, target=Target(1e-3),  # y₂ alone is worth 1/8
        )  # fmt: skip
        steps = np.where(result.steps_to_target < 0, np.inf, result.steps_to_target)
        fewest[name], best[name] = steps.min(), rates[steps.argmin()]
    # One layer's rate is capped by the large label: w₁ overshoots by more than itself beyond
    # η = 2 n / y₁^{p−2}. The small label then takes of the order of y₁² steps.
    assert 0.5 < best["one"] / (4 / 30**2) < 1
    assert fewest["one"] > 30**2
    assert fewest["rule"] < fewest["one"] / 5
    assert fewest["two"] < fewest["one"] / 5
