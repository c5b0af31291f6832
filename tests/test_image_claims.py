"""The claims on images, P6, F4 and S6: on made-up curves and on short runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel.claims.collection import with_text
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.evaluate import evaluate
from implicit_accel.claims.published import f4, p6, s6, tutorial
from implicit_accel.claims.published.authors import authors_curves
from implicit_accel.images.networks import TutorialCNN
from implicit_accel.theory.decay import momentum_time


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Without any data but the stand-ins."""
    monkeypatch.delenv("IMPLICIT_ACCEL_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Context(Scale.SMOKE, tmp_path / "X", tmp_path, data_dir=str(tmp_path))


INF = math.inf
STEPS = np.arange(0.0, 1001, 25)


@given(st.floats(30, 3000), st.floats(0.05, 0.95))
def test_a_crossing_of_an_exponential_is_exact(half_life, level):
    """Between two records the loss is interpolated in its logarithm, which then is its own law."""
    found = p6.crossing(STEPS, 0.5 ** (STEPS / half_life), level)
    exact = half_life * math.log2(1 / level)
    if exact > 1000:
        assert found == np.inf
    else:
        assert found == pytest.approx(max(exact, 25), rel=1e-9)


def test_crossings_by_hand():
    steps = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    losses = np.array(
        [
            [8.0, 4.0, 6.0, 1.0, 2.0],  # what rises again does not count: 4 at 20 too
            [8.0, 4.0, 2.0, 2.0, 2.0],  # at the level itself
            [1.0, 0.5, 0.5, 0.5, 0.5],  # below from the start: not resolved
            [8.0, 8.0, 8.0, 8.0, 3.0],  # never
            [8.0, 4.0, np.inf, np.inf, np.inf],  # diverges before it
        ]
    )
    expected = [25.0, 20.0, 10.0, np.inf, np.inf]
    np.testing.assert_allclose(p6.crossing(steps, losses, 2.0), expected)


def made(half_life: float, measure: str = "fixed_cross_entropy") -> xr.Dataset:
    """Three seeds whose losses halve after so many steps."""
    curves = np.broadcast_to(0.5 ** (STEPS / half_life), (1, 1, 3, len(STEPS)))
    axes = ("learning_rate", "init_std", "seed", "evaluation_step")
    return xr.Dataset(
        {measure: (axes, curves)}, {"learning_rate": [0.01], "evaluation_step": STEPS}
    )


def test_speed_ups_are_ratios_of_steps_to_a_loss_that_both_reach():
    fast = p6.speed_up((made(400), made(100)), "fixed_cross_entropy")
    assert fast.value == pytest.approx(4, rel=1e-9)
    assert (fast.design.seeds, fast.design.most) == (3, 40)
    # Each side is known to a record, of 25 steps.
    assert (fast.low, fast.high) == pytest.approx((975 / 275, 1025 / 225), rel=1e-9)
    slow = p6.speed_up((made(100), made(400)), "fixed_cross_entropy")
    assert slow.value == pytest.approx(0.25, rel=1e-9)
    # No more than the evaluations resolve.
    most = p6.speed_up((made(400), made(1)), "fixed_cross_entropy")
    assert most.value == most.design.most


def sums(values: np.ndarray, ends: np.ndarray) -> xr.Dataset:
    axes = ("learning_rate", "init_std", "seed", "step")
    return xr.Dataset(
        {"regularised_loss": (axes, values[None, None, None])},
        {"learning_rate": [0.01], "step": ends},
    )


def test_distances_from_a_published_curve():
    curve = authors_curves("mnist_cnn")["overparameterised"]
    ends = np.arange(10, 8600, 10)
    middles = ends - 5.0
    log = np.interp(np.log(middles), np.log(curve["iteration"]), np.log10(curve["loss"]))
    same = p6.distance_from_published("overparameterised", sums(10**log, ends))
    assert same.value < 0.005
    double = p6.distance_from_published("overparameterised", sums(2 * 10**log, ends))
    assert double.value == pytest.approx(math.log10(2), abs=0.003)
    few = p6.distance_from_published("overparameterised", sums(np.ones(2), np.array([2, 4])))
    assert math.isnan(few.value)


def test_the_threshold_is_twice_the_scatter_and_tells_the_curves_apart():
    curves = authors_curves("mnist_cnn")
    log = np.log10(curves["overparameterised"]["loss"].to_numpy())
    windows = [log[max(0, i - 2) : i + 3] for i in range(len(log))]
    scatter = np.sqrt(np.mean([(x - np.median(w)) ** 2 for x, w in zip(log, windows, strict=True)]))
    assert scatter == pytest.approx(p6.NEAR / 2, abs=0.005)
    ends = curves["original"]["iteration"].to_numpy()
    other = p6.distance_from_published(
        "overparameterised", sums(curves["original"]["loss"].to_numpy(), ends)
    )
    assert other.value > 5 * p6.NEAR


def test_the_published_speed_up():
    assert p6.PUBLISHED.value == pytest.approx(8563 / 860, rel=0.03)


@pytest.mark.parametrize("deep", [False, True])
def test_the_predicted_penalty_against_descent_on_it_alone(deep):
    """In float64, with momentum: both dense layers and their biases."""
    network = TutorialCNN(deep, "product" if deep else "factors", (2, 3), 12)
    rates, decay, momentum = np.full(400, 0.01), 5e-3, 0.9
    layers = [[*layer.factors, layer.bias[:, None]] for layer in network.draw(0.1, 4).dense]
    velocities = [[np.zeros_like(a) for a in layer] for layer in layers]
    measured = []
    for step in range(401):
        products = [np.linalg.multi_dot([np.eye(len(a[-2])), *a[-2::-1]]) for a in layers]
        parts = [np.sum(P**2) + np.sum(a[-1] ** 2) for P, a in zip(products, layers, strict=True)]
        measured.append(sum(parts) / 2)
        for layer, velocity, P in zip(layers, velocities, products, strict=True):
            first, bias = layer[0], layer[-1]
            gradients = [layer[1].T @ P, P @ first.T, bias] if deep else [P, bias]
            for i, gradient in enumerate(gradients):
                velocity[i] = momentum * velocity[i] + decay * gradient
                if step < 400:
                    layer[i] = layer[i] - rates[step] * velocity[i]
    predicted = tutorial.predicted_penalty(network, 0.1, 4, momentum_time(rates, momentum), decay)
    assert measured[-1] < 0.8 * measured[0]
    np.testing.assert_allclose(predicted, measured, rtol=0.01)


def test_spreads_and_best_losses_by_hand():
    losses = np.array([[1.0, 2.0, 3.0], [0.5, 0.25, 0.125], [4.0, 4.0, np.inf]])
    assert f4.spread(losses) == 16
    assert f4.best(losses) == 0.25
    assert f4.spread(np.full((2, 3), np.inf)) != f4.spread(np.full((2, 3), np.inf))
    assert f4.spread(np.array([[1.0, 1.0, 1.0], [np.inf, np.inf, 1.0]])) == np.inf


def last_losses(layer_wise: np.ndarray, balanced: np.ndarray) -> dict[str, xr.Dataset]:
    """Runs with these last losses (std, seed), by initialisation."""
    stds = 0.01 * np.arange(1, len(layer_wise) + 1)
    axes = ("learning_rate", "init_std", "seed", "step")
    return {
        init: xr.Dataset({"cross_entropy": (axes, losses[None, ..., None])}, {"init_std": stds})
        for init, losses in (("layer-wise", layer_wise), ("balanced", balanced))
    }


def test_layer_wise_over_balanced_with_its_interval():
    rng = np.random.default_rng(0)
    noise = np.exp(0.01 * rng.standard_normal((2, 4, 6)))
    layer_wise = noise[0] * np.array([1.0, 0.1, 0.2, 0.4])[:, None]
    balanced = noise[1] * np.array([0.3, 0.2, 0.2, 0.2])[:, None]
    runs = last_losses(layer_wise, balanced)
    robust = f4.ratio(f4.spread, runs)
    assert robust.value == pytest.approx(10 / 1.5, rel=0.05)
    assert 1 < robust.low < robust.value < robust.high
    lowest = f4.ratio(f4.best, runs)
    assert lowest.value == pytest.approx(0.5, rel=0.05)
    assert lowest.high < 1
    balanced[0] = INF
    assert f4.ratio(f4.spread, last_losses(layer_wise, balanced)).value == 0
    assert f4.last("cross_entropy", runs, "layer-wise", 0.02).value == np.median(layer_wise[1])


def test_accuracies_by_epoch_and_their_falls():
    errors = np.array([[0.9, 0.1, 0.2], [0.9, 0.2, 0.205]])
    axes = ("learning_rate", "init_std", "seed", "evaluation_step")
    runs = xr.Dataset({"test_error": (axes, errors[None, None])}, {"learning_rate": [0.1]})
    assert s6.falls(s6.accuracies(runs)[0]).tolist() == [1, 0]  # half a point does not count
    assert s6.last_accuracy((runs, runs)).value == pytest.approx(79.75)
    effect = s6.by_epoch((runs, runs), "ours", 1)
    assert effect is not None
    assert effect.value == pytest.approx(85)
    assert s6.by_epoch((runs, runs), "ours", 3) is None
    recorded = s6.by_epoch((runs, runs), "notebook", 10)
    assert recorded is not None
    assert recorded.value == 97.4


@pytest.mark.nightly
@pytest.mark.parametrize("module", [f4, s6])
def test_each_runs_on_the_stand_in_and_nothing_is_made_twice(context, module):
    claim = with_text(module.CLAIM, Path(module.__file__).parent)
    finding = evaluate(claim, context)
    assert len(finding.verdict.parts) == len(claim.checks)
    assert all(np.isfinite(effect.value) for effect in finding.effects)
    assert any("generated images" in caveat for caveat in finding.caveats)
    made = list(context.trained)
    assert made
    evaluate(claim, context)
    assert context.trained == made
    for figure in finding.figures.values():
        for ax in figure.axes:
            assert ax.lines or ax.collections


def test_the_cause_is_named_only_where_the_law_holds():
    steps = np.array([0, 500, 1000])
    both = {name: np.array([[8.0, 4.0, 2.0]]) for name in tutorial.NETWORKS}
    decay = tutorial.Decay(both, both, steps, 36.0)
    assert decay.explains
    wrong = both | {"overparameterised": np.array([[8.0, 4.0, 3.0]])}
    assert not replace(decay, measured=wrong).explains
