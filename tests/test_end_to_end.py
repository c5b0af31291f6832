"""The end-to-end rule: against its formula, and against the deep networks that it stands for."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from oracles import gradient_descent, loss_and_gradient, random_layers, random_problem

from implicit_accel import Optimizer
from implicit_accel.linear import (
    Initialiser,
    Layers,
    Loss,
    SweepConfig,
    run_sweep,
    scale_by_end_to_end,
    train,
)


def power(A, exponent):
    """A^x of a positive semi-definite A; A⁰ is the identity whatever A is."""
    values, vectors = np.linalg.eigh(A)
    values = np.where(values > 1e-13 * max(values.max(), 1e-300), values, 0)
    return vectors * values**exponent @ vectors.T


def formula(W, G, N, matrix_power=power):
    """Arora, Cohen & Hazan (2018), equation 10, term by term."""
    return sum(
        matrix_power(W @ W.T, (j - 1) / N) @ G @ matrix_power(W.T @ W, (N - j) / N)
        for j in range(1, N + 1)
    )


def single_output_formula(w, g, N):
    """The same for one row, claim 2."""
    norm = np.linalg.norm(w)
    projection = (w @ g.T).item() / norm**2 * w if norm > 0 else 0 * g
    return norm ** (2 - 2 / N) * (g + (N - 1) * projection)


@functools.partial(jax.jit, static_argnums=2)
def compiled_rule(W, G, N, weight_decay):
    transformation: Any = scale_by_end_to_end(N, weight_decay)
    return transformation.update(G, transformation.init(W), W)[0]


def rule(W, G, N, weight_decay=0.0):
    with jax.enable_x64(True):
        return np.asarray(compiled_rule(W, G, N, weight_decay))


def end_to_end(weights):
    product = weights[0]
    for W in weights[1:]:
        product = W @ product
    return product


SHAPES = [(1, 1), (1, 6), (2, 2), (2, 6), (6, 2), (6, 1), (4, 4)]


# --- The formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_formula(rng, shape, N):
    W, G = rng.standard_normal((2, *shape))
    np.testing.assert_allclose(rule(W, G, N), formula(W, G, N), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("N", [2, 3])
def test_against_scipy_s_fractional_powers(rng, N):
    W, G = rng.standard_normal((2, 4, 4))
    expected = formula(W, G, N, scipy.linalg.fractional_matrix_power)
    np.testing.assert_allclose(rule(W, G, N), expected, rtol=1e-9)


@pytest.mark.parametrize("N", [2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 3), (3, 6), (6, 3)])
def test_rank_deficient_matrices(rng, shape, N):
    W = rng.standard_normal((shape[0], 1)) @ rng.standard_normal((1, shape[1]))
    G = rng.standard_normal(shape)
    # A singular value of ε instead of 0 becomes ε^{2/N}.
    np.testing.assert_allclose(rule(W, G, N), formula(W, G, N), atol=50 * 2.2e-16 ** (2 / N))


@pytest.mark.parametrize("N", [2, 3, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_singular_matrices(rng, shape, N):
    G = rng.standard_normal(shape)
    assert not rule(np.zeros(shape), G, N).any()
    W = np.zeros(shape)
    W[0, 0] = 2.0
    expected = np.zeros(shape)
    # ‖W‖^{2−2/N} along its row and its column, N times that where they cross.
    expected[0], expected[:, 0] = 2 ** (2 - 2 / N) * G[0], 2 ** (2 - 2 / N) * G[:, 0]
    expected[0, 0] *= N
    np.testing.assert_allclose(rule(W, G, N), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(formula(W, G, N), expected, rtol=1e-12, atol=1e-14)


@given(
    N=st.sampled_from([1, 2, 3, 8]),
    d=st.sampled_from([1, 5]),
    exponent=st.integers(-12, 3),
    seed=st.integers(0, 1000),
)
def test_one_row_against_the_single_output_form(N, d, exponent, seed):
    rng = np.random.default_rng(seed)
    w, g = 10.0**exponent * rng.standard_normal((1, d)), rng.standard_normal((1, d))
    expected = single_output_formula(w, g, N)
    np.testing.assert_allclose(rule(w, g, N), expected, rtol=1e-11, atol=0)
    # One row among zero rows goes through the decomposition of a matrix.
    W, G = np.zeros((2, 3, d + 2))
    W[1, :d], G[1, :d] = w, g
    among = rule(W, G, N)[1, :d]
    # Singular values that are 0 but for rounding have powers down to ε^(2/N), see the rule.
    tolerance = max(1e-11, 100 * np.finfo(float).eps ** (2 / N)) * np.abs(expected).max()
    np.testing.assert_allclose(among, expected[0], rtol=1e-11, atol=tolerance)


@given(N=st.sampled_from([2, 3]), seed=st.integers(0, 1000), shape=st.sampled_from(SHAPES))
def test_symmetries(N, seed, shape):
    """Rotations of inputs and outputs, transposition, homogeneity, linearity in the gradient."""
    rng = np.random.default_rng(seed)
    W, G, other = rng.standard_normal((3, *shape))
    Q, _ = np.linalg.qr(rng.standard_normal((shape[0],) * 2))
    V, _ = np.linalg.qr(rng.standard_normal((shape[1],) * 2))
    plain = rule(W, G, N)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(rule(Q @ W @ V, Q @ G @ V, N), Q @ plain @ V)
    close(rule(W.T, G.T, N), plain.T)
    close(rule(3 * W, G, N), 3 ** (2 - 2 / N) * plain)
    close(rule(W, G + other, N), plain + rule(W, other, N))
    # It is a positive semi-definite preconditioner: never uphill.
    assert np.sum(G * plain) >= -1e-9


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_vectors_in_float32(size):
    w, g = np.array([[3, -4]], np.float32) * np.float32(size), np.array([[1, 2]], np.float32)
    transformation: Any = scale_by_end_to_end(2)
    update, _ = transformation.update(g, transformation.init(w), w)
    expected = 5 * size * (g - np.array([[3, -4]]) / 5)
    assert update.dtype == np.float32
    np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_float32_stays_near_float64(rng):
    W, G = rng.standard_normal((2, 3, 5)).astype(np.float32)
    transformation: Any = scale_by_end_to_end(3, np.float64(0.1))
    for x64 in (False, True):
        with jax.enable_x64(x64):
            update, _ = transformation.update(jnp.asarray(G), optax.EmptyState(), jnp.asarray(W))
            assert update.dtype == np.float32
            np.testing.assert_allclose(update, rule(W, G, 3) + 0.3 * W, rtol=1e-4, atol=1e-5)


# --- As an optax transformation ------------------------------------------------------------------


def test_a_tree_of_matrices_and_biases_mapped_and_compiled(rng):
    params: Any = {"a": rng.standard_normal((3, 2, 4)), "b": (rng.standard_normal((3, 4)),)}
    gradients = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)
    rates, decays = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.5, 1.0])

    @jax.jit
    @jax.vmap
    def step(params, gradients, rate, decay):
        chain: Any = optax.chain(scale_by_end_to_end(3, decay), optax.scale_by_learning_rate(rate))
        updates, _ = chain.update(gradients, chain.init(params), params)
        return optax.apply_updates(params, updates)

    with jax.enable_x64(True):
        new = step(params, gradients, rates, decays)
    for i in range(3):
        W, G, b, g = (
            t[i] for t in (params["a"], gradients["a"], params["b"][0], gradients["b"][0])
        )
        matrix = W - rates[i] * (formula(W, G, 3) + 3 * decays[i] * W)
        np.testing.assert_allclose(new["a"][i], matrix, rtol=1e-11)
        np.testing.assert_allclose(new["b"][0][i], b - rates[i] * (g + decays[i] * b), rtol=1e-12)


def test_misuse_is_refused():
    bad_depths: Any = (0, -1, 1.5)
    for depth in bad_depths:
        with pytest.raises(ValueError, match="whole number >= 1"):
            scale_by_end_to_end(depth)
    transformation: Any = scale_by_end_to_end(2)
    with pytest.raises(ValueError, match="needs the parameters"):
        transformation.update(np.ones((1, 2)), optax.EmptyState())
    kernel = np.ones((3, 3, 1, 2))
    with pytest.raises(ValueError, match="reshape the parameter"):
        transformation.update(kernel, optax.EmptyState(), kernel)


# --- Against deep networks -----------------------------------------------------------------------


def gradient_of(weights, problem, p):
    X, Y = problem.features, problem.targets
    _, gradient = loss_and_gradient(Layers(tuple(weights)), X, Y, p, scale=1 / p)
    return gradient.weights


def both_ways(problem, layers, N, p, rate, num_steps, weight_decay=0.0):
    """End-to-end matrices of the deep network and of the rule after some steps."""
    _, deep = gradient_descent(
        layers, problem.features, problem.targets, p, scale=1 / p, learning_rate=rate,
        num_steps=num_steps, weight_decay=weight_decay,
    )  # fmt: skip
    W = end_to_end(layers.weights)
    for _ in range(num_steps):
        (G,) = gradient_of([W], problem, p)
        W = W - rate * rule(W, G, N, weight_decay)
    return end_to_end(deep.weights), W


def balanced(N, k, d=4, width=5, std=0.5):
    return Initialiser("balanced", std).draw(d, (width,) * (N - 1), k, bias=False, seed=3)


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("N", [2, 3, 4])
def test_a_balanced_network_is_emulated(rng, N, k, p, decay):
    """The error is η² per step, and η over a stretch of time that is fixed as η N_steps."""
    problem, layers = random_problem(rng, k=k), balanced(N, k)

    def error(rate, num_steps):
        deep, single = both_ways(problem, layers, N, p, rate, num_steps, decay)
        return np.linalg.norm(deep - single)

    rate = 2.0**-8 if p == 2 else 2.0**-10
    assert error(rate, 1) / error(rate / 2, 1) == pytest.approx(4, rel=0.1)
    assert error(rate, 64) / error(rate / 2, 128) == pytest.approx(2, rel=0.15)
    # It says something: the matrix has moved far more than that.
    moved, _ = both_ways(problem, layers, N, p, rate, 64, decay)
    assert np.linalg.norm(moved - end_to_end(layers.weights)) > 20 * error(rate, 64)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("N", [2, 3, 4])
def test_an_unbalanced_network_is_not(rng, N, k):
    problem, layers = random_problem(rng, k=k), random_layers(rng, 4, (5,) * (N - 1), k)

    def velocity_error(rate):
        deep, single = both_ways(problem, layers, N, 2, rate, 1)
        return np.linalg.norm(deep - single) / rate

    start = end_to_end(layers.weights)
    (G,) = gradient_of([start], problem, 2)
    speed = np.linalg.norm(formula(start, G, N))
    assert velocity_error(1e-3) > 0.1 * speed
    assert velocity_error(1e-5) == pytest.approx(velocity_error(1e-6), rel=1e-2)


def test_hidden_width_does_not_matter_from_a_balanced_start(rng):
    problem = random_problem(rng)
    narrow, wide = (balanced(3, 1, width=h) for h in (1, 20))
    for layers in (narrow, wide):
        deep, single = both_ways(problem, layers, 3, 2, 1e-3, 50)
        np.testing.assert_allclose(deep, single, rtol=1e-2)


def test_on_a_deep_network_each_matrix_stands_for_a_product(rng):
    """Depth 2 of the rule on a balanced network of 2 matrices is a network of 4."""
    problem, four = random_problem(rng), balanced(4, 1, width=3)
    W1, W2, W3, W4 = four.weights
    two = Layers((W2 @ W1, W4 @ W3))

    def error(rate, num_steps):
        _, deep = gradient_descent(
            four, problem.features, problem.targets, 2, scale=0.5, learning_rate=rate,
            num_steps=num_steps,
        )  # fmt: skip
        result = train(
            problem, two, learning_rates=[rate], num_steps=num_steps,
            optimizer=Optimizer("end_to_end", (("depth", 2),)),
        )  # fmt: skip
        products = (deep.weights[1] @ deep.weights[0], deep.weights[3] @ deep.weights[2])
        return max(
            np.linalg.norm(a - b[0]) for a, b in zip(products, result.layers.weights, strict=True)
        )

    assert error(0.01, 50) / error(0.005, 100) == pytest.approx(2, rel=0.2)


# --- As an optimizer of sweeps -------------------------------------------------------------------


@pytest.mark.parametrize(("k", "hidden", "bias"), [(1, (), True), (3, (), False), (3, (2,), True)])
def test_reductions_and_padding_stay_exact(rng, k, hidden, bias):
    problem = random_problem(rng, k=k, mean=0.3)
    layers = random_layers(rng, 4, hidden, k, bias=bias)

    def final(**changes):
        return train(
            problem, layers, learning_rates=[0.02, 0.1], num_steps=60, weight_decay=0.01,
            optimizer=Optimizer("end_to_end", (("depth", 3),)), **changes,
        )  # fmt: skip

    plain = final(objective="layerwise")
    assert (plain.loss[:, -1] < 0.9 * plain.loss[:, 0]).all()
    for changes in ({"objective": "spectral"}, {"objective": "compressed", "padded_to": (6, 6)}):
        other = final(**changes)
        np.testing.assert_allclose(other.loss, plain.loss, rtol=1e-9)
        for a, b in zip(jax.tree.leaves(other.layers), jax.tree.leaves(plain.layers), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("N", [1, 2, 3])
def test_a_sweep_over_rates_against_a_loop(rng, N, p):
    problem = random_problem(rng)
    X, Y = problem.features, problem.targets
    rates, decays = (0.003, 0.01, 0.03), (0.0, 0.2)
    config = SweepConfig(
        depths=(1,), losses=(Loss(p),), optimizers=(Optimizer("end_to_end", (("depth", N),)),),
        inits=("near_zero",), init_stds=(0.3,), weight_decays=decays, learning_rates=rates,
        num_seeds=2, num_steps=80, precision="float64",
    )  # fmt: skip
    results = run_sweep(problem, config)
    start = Initialiser("near_zero", 0.3)
    for m, decay in enumerate(decays):
        for i, rate in enumerate(rates):
            for seed in range(2):
                (w,) = start.draw(4, (), 1, bias=False, seed=seed).weights
                losses = []
                for _ in range(81):
                    loss, gradient = loss_and_gradient(Layers((w,)), X, Y, p, scale=1 / p)
                    losses.append(loss)
                    step = single_output_formula(w, gradient.weights[0], N)
                    w = (1 - rate * decay * N) * w - rate * step
                trained = results.loss.values[m, i, seed]
                recorded = np.asarray(losses)[results.step.values]
                np.testing.assert_allclose(trained, recorded, rtol=1e-9)
