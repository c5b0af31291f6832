"""Initialisers by their statistics and defining properties."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel import UserError
from implicit_accel.linear import INITIALISERS, Initialiser


def kolmogorov_smirnov(values, distribution, args=()):
    """p-value."""
    _, p_value = scipy.stats.kstest(values, distribution, args=args)
    return p_value


def draw(name, d, hidden, k, seed=0, std=0.1, bias=True):
    return Initialiser(name, std).draw(d, hidden, k, bias=bias, seed=seed)


def test_near_zero_is_gaussian():
    layers = draw("near_zero", 200, (100,), 50, std=0.01)
    for W in layers.weights:
        assert kolmogorov_smirnov(W.ravel() / 0.01, "norm") > 0.01
    assert all((b == 0).all() for b in layers.biases)


def test_identity_is_a_perturbed_rectangular_identity():
    near, eye = draw("near_zero", 6, (9, 4), 2), draw("identity", 6, (9, 4), 2)
    for a, b in zip(near.weights, eye.weights, strict=True):
        np.testing.assert_allclose(b - a, np.eye(*a.shape), atol=1e-15)


@pytest.mark.parametrize("hidden", [(), (1,), (7, 3), (20, 20)])
def test_orthogonal_has_orthonormal_rows_or_columns(hidden):
    for W in draw("orthogonal", 10, hidden, 2).weights:
        short = W if W.shape[0] <= W.shape[1] else W.T
        np.testing.assert_allclose(short @ short.T, np.eye(len(short)), atol=1e-12)


def test_orthogonal_is_uniform():
    """Haar: a 3 × 3 orthogonal matrix's entries are uniform on (−1, 1), signs included."""
    entries = [draw("orthogonal", 3, (), 3, seed=s).weights[0] for s in range(400)]
    for i, j in [(0, 0), (1, 2), (2, 2)]:
        values = np.array([W[i, j] for W in entries])
        assert kolmogorov_smirnov(values, "uniform", (-1, 2)) > 0.01


def test_pytorch_default_is_uniform_by_fan_in():
    layers = draw("pytorch", 64, (400,), 300)
    for W, b in zip(*layers, strict=True):
        bound = 1 / np.sqrt(W.shape[1])
        for values in (W.ravel(), b):
            assert kolmogorov_smirnov(values, "uniform", (-bound, 2 * bound)) > 0.01


def test_pytorch_default_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    theirs = torch.nn.Linear(50, 2000)
    ours = draw("pytorch", 50, (), 2000)
    for a, b in ((theirs.weight, ours.weights[0]), (theirs.bias, ours.biases[0])):
        assert kolmogorov_smirnov(a.detach().numpy().ravel(), b.ravel()) > 0.01


@given(
    d=st.integers(1, 8), k=st.integers(1, 3), extra=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_balanced_is_balanced_and_multiplies_to_the_draw(d, k, extra, seed):
    hidden = [min(d, k) + e for e in extra]
    weights = draw("balanced", d, hidden, k, seed=seed).weights
    for first, second in itertools.pairwise(weights):
        np.testing.assert_allclose(second.T @ second, first @ first.T, atol=1e-13)
    product = weights[0]
    for W in weights[1:]:
        product = W @ product
    single = draw("balanced", d, [], k, seed=seed).weights[0]
    np.testing.assert_allclose(product, single, atol=1e-13)


def test_balanced_needs_wide_enough_layers():
    with pytest.raises(UserError, match="hidden width 1 is below the rank 2"):
        draw("balanced", 5, (3, 1), 2)


@pytest.mark.parametrize("name", INITIALISERS)
def test_seeds(name):
    a, b, c = (draw(name, 5, (4, 4), 3, seed=s) for s in (1, 1, 2))
    for part, same, other in zip(a, b, c, strict=True):
        for x, y, z in zip(part, same, other, strict=True):
            assert np.array_equal(x, y)
            assert not np.array_equal(x, z) or not x.any()
    assert Initialiser(name, 0.1).draw(5, (), 1, bias=False, seed=0).biases == ()
    if name != "balanced":  # layers of one network are independent draws
        assert not np.allclose(a.weights[1][:3], a.weights[2])


def test_another_std_rescales_the_same_draw():
    small, large = draw("near_zero", 5, (2,), 1, std=0.01), draw("near_zero", 5, (2,), 1, std=0.1)
    for a, b in zip(small.weights, large.weights, strict=True):
        np.testing.assert_allclose(10 * a, b)


def test_bad_initialisers_are_refused():
    with pytest.raises(UserError, match=r"'xavier': choose from near_zero, identity"):
        Initialiser("xavier")
    for std in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="number >= 0"):
            Initialiser("near_zero", std)
    assert np.isnan(Initialiser("pytorch", 3.0).std)
