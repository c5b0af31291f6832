"""What happens past the edge of stability, and the map of when depth helps."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

import implicit_accel as ia
from implicit_accel.theory.edge import flip
from implicit_accel.theory.map import power_law_problem, speed_up_map


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


def test_power_law_problems_have_their_spectrum():
    problem = power_law_problem(1.5, num_rows=64, num_features=8)
    values = np.linalg.eigvalsh(problem.features.T @ problem.features / 64)[::-1]
    np.testing.assert_allclose(values, np.arange(1, 9) ** -1.5, rtol=1e-10)
    assert np.mean(problem.targets**2) == pytest.approx(1)
    with pytest.raises(ia.UserError, match="decay"):
        power_law_problem(-1)
    with pytest.raises(ia.UserError, match="features"):
        power_law_problem(1, num_rows=3, num_features=4)


def test_the_map_predicts_what_a_sweep_measures():
    problem = power_law_problem(1.0, num_rows=64, num_features=6)
    shares: list[float] = []
    found = speed_up_map(
        [(1.0, problem)], exponents=(2, 4), depths=(2,), init_stds=(0.3,), targets=(0.05,),
        progress=shares.append,
    )  # fmt: skip
    assert shares == [0.5, 1.0]
    assert (found["speed_up"].sel(depth=1) == 1).all()
    # One layer's Hessian on ℓ2, c · mean r², is 2c times the covariance, whose largest eigenvalue
    # is 1.
    square = float(found["largest_rate"].sel(p=2, depth=1).squeeze())
    assert square == pytest.approx(1 / ia.Loss(2).scale, rel=1e-6)
    for p in (2, 4):
        for depth in (1, 2):
            config = ia.SweepConfig(
                depths=(depth,), losses=(ia.Loss(p),), init_stds=(0.3,), num_seeds=3,
                num_steps=20_000, target=ia.Target(0.05, relative=True), precision="float64",
            )  # fmt: skip
            (prediction,) = ia.predict(problem, config).models
            # At a tenth of each seed's largest stable rate: ten times the map's steps.
            rates = tuple(0.1 * prediction.largest_rates * (1, 1.001, 0.999))  # each once
            runs, _ = ia.run_sweep(problem, replace(config, learning_rates=rates))
            measured = np.diagonal(runs["steps_to_target"].values[0])
            predicted = prediction.times / np.array(rates)
            np.testing.assert_allclose(measured, predicted, rtol=0.05, atol=2)
            cell = float(found["steps"].sel(p=p, depth=depth).squeeze())
            steps = np.median(prediction.times / prediction.largest_rates)
            assert cell == pytest.approx(steps)
            largest = float(found["largest_rate"].sel(p=p, depth=depth).squeeze())
            assert largest == pytest.approx(np.median(prediction.largest_rates))
