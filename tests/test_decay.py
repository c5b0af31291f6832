"""The decay of a product's penalty: against descent on the penalty alone, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

from implicit_accel.claims.published import t11
from implicit_accel.errors import UserError
from implicit_accel.theory.decay import (
    initial_decay,
    momentum_time,
    product_penalty,
    single_penalty,
)


def descended(W1, W2, rates, momentum, weight_decay):
    """½ ‖W_2 W_1‖² before the first step and after each of momentum descent's."""
    V1, V2 = np.zeros_like(W1), np.zeros_like(W2)
    found = [np.sum((W2 @ W1) ** 2) / 2]
    for rate in rates:
        P = W2 @ W1
        V1 = momentum * V1 + weight_decay * W2.T @ P
        V2 = momentum * V2 + weight_decay * P @ W1.T
        W1, W2 = W1 - rate * V1, W2 - rate * V2
        found.append(np.sum((W2 @ W1) ** 2) / 2)
    return np.array(found)


@settings(max_examples=examples(5), deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(6, 4, 3), (3, 5, 2), (4, 4, 4), (2, 5, 6), (1, 1, 1)]),
    st.floats(0.2, 2.0),
    st.sampled_from([0.0, 0.5]),
)
def test_the_law_is_what_slow_descent_does(seed, shape, size, momentum):
    d, h, k = shape
    rng = np.random.default_rng(seed)
    W1, W2 = rng.standard_normal((h, d)), size * rng.standard_normal((k, h))
    decay = 0.05
    fastest = np.linalg.norm(W1, 2) ** 2 + np.linalg.norm(W2, 2) ** 2
    # Three times as long as the fastest direction takes to fall e-fold, in steps so small that
    # they are the flow's.
    rates = np.full(round(1000 / (1 - momentum)), 0.003 * (1 - momentum) ** 2 / (decay * fastest))
    rates[300:] *= 0.95
    measured = descended(W1, W2, rates, momentum, decay)
    seen = np.r_[0 : len(rates) : 50, len(rates)]
    predicted = product_penalty(W1, W2, momentum_time(rates, momentum)[seen], decay)
    assert predicted[0] == pytest.approx(measured[0], rel=1e-10)
    assert measured[-1] < 0.99 * measured[0]
    np.testing.assert_allclose(predicted, measured[seen], rtol=0.03)


def test_the_law_at_the_tutorial_s_rate_on_its_second_layer():
    """10 × 512 and 10 × 10 from a standard deviation of 0.1; λ = 5e-4, η = 0.01, μ = 0.9."""
    rng = np.random.default_rng(0)
    W1, W2 = 0.1 * rng.standard_normal((10, 512)), 0.1 * rng.standard_normal((10, 10))
    rates = 0.01 * 0.95 ** (np.arange(3000) // 859)
    measured = descended(W1, W2, rates, 0.9, 5e-4)
    seen = slice(None, None, 100)
    predicted = product_penalty(W1, W2, momentum_time(rates, 0.9)[seen], 5e-4)
    assert measured[-1] < 0.3 * measured[0]
    np.testing.assert_allclose(predicted, measured[seen], rtol=0.02)


def test_equal_scalars_have_a_closed_form():
    """w_1 = w_2 = w: w' = −λw³, so that w² = w_0²/(1 + 2λw_0²τ)."""
    times = np.array([0.0, 1.0, 10.0, 1e4])
    found = product_penalty(np.full((1, 1), 1.5), np.full((1, 1), 1.5), times, 0.1)
    np.testing.assert_allclose(found, (1.5**2 / (1 + 0.2 * 1.5**2 * times)) ** 2 / 2, rtol=1e-12)


def test_a_single_matrix_decays_exponentially():
    W = np.arange(6.0).reshape(2, 3)
    rates = np.full(500, 0.01)
    times = momentum_time(rates, 0.9)
    V, found = np.zeros_like(W), [np.sum(W**2) / 2]
    for rate in rates:
        V = 0.9 * V + 0.005 * W
        W = W - rate * V
        found.append(np.sum(W**2) / 2)
    np.testing.assert_allclose(single_penalty(found[0], times, 0.005), found, rtol=0.01)


def test_time_under_momentum():
    """The displacement under a constant gradient, by the recursion itself."""
    rates = np.array([0.1, 0.2, 0.05, 0.05])
    trace, at, expected = 0.0, 0.0, [0.0]
    for rate in rates:
        trace = 0.8 * trace + 1
        at += rate * trace
        expected.append(at)
    np.testing.assert_allclose(momentum_time(rates, 0.8), expected, rtol=1e-14)
    np.testing.assert_allclose(momentum_time(rates, 0.0)[1:], np.cumsum(rates), rtol=1e-14)


def test_the_first_decay():
    rng = np.random.default_rng(1)
    W1, W2 = 0.1 * rng.standard_normal((80, 400)), 0.1 * rng.standard_normal((80, 80))
    found = initial_decay(W1, W2)
    assert found == pytest.approx(0.01 * (400 + 2 * 80 + 80 + 2), rel=0.05)
    start, after = product_penalty(W1, W2, np.array([0.0, 1e-4]), 1.0)
    assert found == pytest.approx(-np.log(after / start) / 2e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: momentum_time([0.1], 1.0), "momentum 1"),
        (lambda: momentum_time([-0.1], 0.5), ">= 0"),
        (lambda: momentum_time(np.full((1, 1), 0.1), 0.5), "a row"),
        (lambda: product_penalty(np.eye(2), np.eye(3), np.zeros(1), 0.1), "have no product"),
        (lambda: initial_decay(np.zeros(2), np.eye(2)), "have no product"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_t11_trains_what_its_law_describes():
    rng = np.random.default_rng(3)
    W1, W2 = rng.standard_normal((4, 6)), rng.standard_normal((3, 4))
    expected = descended(W1, W2, np.full(30, 0.01), 0.9, 5e-4)
    np.testing.assert_allclose(t11.shrink(W1, W2, 30), expected, rtol=1e-12)


def test_t11_compares_descent_with_the_law_seed_by_seed():
    times = momentum_time(np.full(20, t11.RATE), t11.MOMENTUM)
    measured, predicted, initial = t11.decayed(0.3, 2, times)
    assert measured.shape == predicted.shape == (2, 21)
    np.testing.assert_allclose(predicted, measured, rtol=1e-3)
    # The first change of the penalty is the initial decay's, in units of a single matrix's.
    short = momentum_time(np.full(1, 1e-3), 0.0)
    _, law, _ = t11.decayed(0.3, 2, short)
    single = single_penalty(1.0, short, t11.WEIGHT_DECAY)
    np.testing.assert_allclose(
        np.log(law[:, 1] / law[:, 0]) / np.log(single[1]), initial, rtol=1e-3
    )
