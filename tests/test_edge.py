"""What happens past the edge of stability."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

import implicit_accel as ia
from implicit_accel.theory.edge import flip


@settings(max_examples=examples(10), deadline=None)
@given(st.floats(0.5, 5), st.floats(-2, 2), st.floats(-2, 2))
def test_one_dimension_is_the_known_formula(curvature, third, fourth):
    def loss(x):
        return curvature * x[0] ** 2 / 2 + third * x[0] ** 3 / 6 + fourth * x[0] ** 4 / 24

    found = flip(loss, np.zeros(1))
    assert found.sharpness == pytest.approx(curvature)
    assert found.coefficient == pytest.approx(3 * third**2 / curvature - fourth, abs=1e-9)


def descent(gradient, start, rate, steps):
    x = np.asarray(start, float)
    for _ in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):
            x = x - rate * gradient(x)
        if not np.all(np.isfinite(x)):
            return None
    return x


@pytest.mark.parametrize(("a", "oscillates"), [(-1.0, True), (1.0, False)])
def test_its_sign_tells_oscillation_from_divergence(a, oscillates):
    """A fast direction whose neighbour bends with it: the H⁻¹ term takes part."""

    def loss(x):
        return x[0] ** 2 + 0.25 * x[1] ** 2 + 0.1 * x[0] ** 2 * x[1] + a * x[0] ** 4 / 6

    def gradient(x):
        return np.array([
            2 * x[0] + 0.2 * x[0] * x[1] + 2 * a * x[0] ** 3 / 3, 0.5 * x[1] + 0.1 * x[0] ** 2
        ])  # fmt: skip

    found = flip(loss, np.zeros(2))
    assert (found.coefficient > 0) == oscillates
    assert found.outcome == ("oscillates" if oscillates else "diverges")
    end = descent(gradient, [0.02, 0.0], 1.02 * 2 / found.sharpness, 20_000)
    assert (end is not None and np.abs(end).max() < 2) == oscillates


def test_a_quadratic_has_neither_and_a_maximum_no_edge():
    found = flip(lambda x: jnp.sum(x**2), np.zeros(3))
    assert found == (0.0, 0.0, pytest.approx(2.0))
    assert found.outcome == "undecided"
    with pytest.raises(ia.UserError, match="no positive curvature"):
        flip(lambda x: -jnp.sum(x**2), np.zeros(2))
