"""Learning rates past the edge of stability: where they begin, and that tables mark them."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marks import examples
from oracles import loss_and_gradient, random_problem
from test_statistics import INF, NAN, general, made

import implicit_accel as ia
from implicit_accel import Optimizer, summarise
from implicit_accel.experiments.compare import side_by_side
from implicit_accel.linear import Loss, SweepConfig, Target, run_sweep
from implicit_accel.linear.config import parse_learning_rates
from implicit_accel.linear.networks import Layers
from implicit_accel.pages.explorer import payload
from implicit_accel.results import save_results
from implicit_accel.stability import is_past_edge
from implicit_accel.summary import caption, cells
from implicit_accel.theory.predict import edge_rates
from implicit_accel.theory.surface import make_surface

THRESHOLDS = {
    "sgd": (Optimizer("sgd"), 2.0),
    "momentum": (Optimizer("momentum", (("momentum", 0.8),)), 2 + 2 * 0.8),
    "nesterov": (Optimizer("nesterov"), (2 + 2 * 0.9) / (1 + 2 * 0.9)),
}


def flatten(layers: Layers) -> np.ndarray:
    return np.concatenate([W.ravel() for W in layers.weights])


def sharpness(layers: Layers, problem: ia.linear.Problem, p: float) -> float:
    """The Hessian by central differences of the hand-written gradient, and its eigenvalues."""
    X, Y = problem.features, problem.targets
    shapes = [W.shape for W in layers.weights]
    ends = np.cumsum([a * b for a, b in shapes])[:-1]

    def gradient(flat):
        parts = np.split(flat, ends)
        moved = Layers(tuple(a.reshape(s) for a, s in zip(parts, shapes, strict=True)))
        return flatten(loss_and_gradient(moved, X, Y, p, scale=1 / p)[1])

    theta = flatten(layers)
    rows = [gradient(theta + e) - gradient(theta - e) for e in 1e-5 * np.eye(len(theta))]
    hessian = np.stack(rows) / 2e-5
    return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])


def descend(
    layers: Layers, problem: ia.linear.Problem, p: float, rate: float, goal: float, most: int
):
    """Sharpness of gradient descent before every step, until it is at the goal or diverges."""
    found = []
    for _ in range(most):
        loss, gradient = loss_and_gradient(
            layers, problem.features, problem.targets, p, scale=1 / p
        )  # fmt: skip
        if not goal < loss < 1e6:
            break
        found.append(sharpness(layers, problem, p))
        moved = zip(layers.weights, gradient.weights, strict=True)
        layers = Layers(tuple(W - rate * G for W, G in moved))
    return np.array(found)


def start(config: SweepConfig, problem: ia.linear.Problem, seed: int) -> Layers:
    (model,) = config.models
    return model.initialiser.draw(
        problem.num_features, model.hidden_widths, problem.num_outputs, bias=False, seed=seed
    )


def verdict(runs: xr.Dataset, **arguments: Any) -> bool | None:
    return is_past_edge(runs.isel(model=0, learning_rate=0), **arguments)


# --- the edge ---


@pytest.mark.parametrize("name", THRESHOLDS)
@settings(max_examples=examples(3), deadline=None)
@given(seed=st.integers(0, 999))
def test_one_layer_on_l2_has_its_edge_in_closed_form(name, seed):
    """The Hessian of mean r²/2 is XᵀX/n everywhere."""
    optimizer, threshold = THRESHOLDS[name]
    problem = random_problem(np.random.default_rng(seed), n=20, d=3)
    edge = threshold / float(np.linalg.eigvalsh(problem.features.T @ problem.features / 20)[-1])
    factors = (0.5, 0.95, 1.05, 1.5)
    config = SweepConfig(
        depths=(1,), losses=(Loss(2),), optimizers=(optimizer,), num_steps=8, num_seeds=2,
        learning_rates=tuple(factor * edge for factor in factors),
        target=Target(1e-6, relative=True),
    )  # fmt: skip
    results = run_sweep(problem, config)
    for end in ("low", "high"):
        np.testing.assert_allclose(results[f"edge_rate_{end}"], edge, rtol=1e-3)
    found = [verdict(results.isel(learning_rate=[i])) for i in range(4)]
    assert found == [False, False, True, True]


@pytest.mark.parametrize("p", [2, 4])
def test_the_edge_of_two_layers_is_that_of_a_trajectory_of_tiny_steps(rng, p):
    problem = random_problem(rng, n=20, d=3)
    config = SweepConfig(
        depths=(2,), hidden_widths=(2,), losses=(Loss(p),), init_stds=(0.4,), num_seeds=3,
        learning_rates=(1e-3,), num_steps=10_000, target=Target(0.2, relative=True),
        precision="float64",
    )  # fmt: skip
    results = run_sweep(problem, config)
    goal = float(results["target"][0] + results["optimum"][0])
    edges = []
    for seed in config.seeds:
        layers = start(config, problem, seed)
        step = 0.02 / sharpness(layers, problem, p)
        along = descend(layers, problem, p, step, goal, 10_000)
        assert len(along) < 10_000
        edges.append(2 / along.max())
    assert float(results["edge_rate_low"][0]) == pytest.approx(np.median(edges), rel=0.01)
    assert float(results["edge_rate_high"][0]) >= float(results["edge_rate_low"][0])


@pytest.mark.nightly
def test_a_rate_whose_run_is_too_short_to_get_there_does_not_pass_the_edge(rng):
    """From near zero sharpness grows; a rate passes the edge if its T steps lead so far."""
    problem = random_problem(rng, n=20, d=3)
    fine = 1e-2
    config = SweepConfig(
        depths=(3,), losses=(Loss(2),), init_stds=(0.1,), num_seeds=1, num_steps=500,
        learning_rates=(1e-3,), target=Target(0.1, relative=True), precision="float64",
    )  # fmt: skip
    longer = run_sweep(problem, config)
    goal = float(longer["target"][0] + longer["optimum"][0])
    along = descend(start(config, problem, 0), problem, 2, fine, goal, 20_000)
    time = fine * np.arange(len(along))
    arrival = time[-1] + fine
    assert arrival < 100
    # Of a length in which the rate at the edge comes a third of the way.
    T = int(arrival / (2 / along.max()) / 3)
    assert T >= 2
    results = run_sweep(problem, replace(config, num_steps=T))
    low, high = (float(results[f"edge_rate_{end}"][0]) for end in ("low", "high"))
    assert low > 1.2 * float(longer["edge_rate_low"][0])

    def passes(rate, last):
        return bool((along[time <= last] > 2 / rate).any())

    for rate in low * np.array([0.3, 0.6, 0.9, 0.97]):
        assert not passes(rate, min(T * rate, arrival))
    assert passes(1.03 * low, min(T * 1.03 * low, arrival))
    assert low <= high
    for rate in high * np.array([1.03, 1.5, 1.9]):  # the first step is always taken
        assert passes(rate, max(0, min((T - 1) * rate, arrival - rate)))
    edge = float(longer["edge_rate_high"][0])
    for rate in edge * np.array([1.03, 1.5, 1.9]):
        assert passes(rate, max(0, arrival - rate))


@settings(max_examples=examples(3), deadline=None)
@given(seed=st.integers(0, 999), p=st.sampled_from([2, 4]), depth=st.sampled_from([1, 2, 3]))
def test_flags_are_those_of_gradient_descent_itself(seed, p, depth):
    """Below and above the edge, against sharpness before every step of the run itself."""
    problem = random_problem(np.random.default_rng(seed), n=15, d=2)
    config = SweepConfig(
        depths=(depth,), losses=(Loss(p),), init_stds=(0.1,), num_seeds=1, first_seed=seed,
        learning_rates=(1e-3,), num_steps=300, precision="float64",
        target=Target(0.2, relative=True),
    )  # fmt: skip
    probe = run_sweep(problem, config)
    low, high = (float(probe[f"edge_rate_{end}"][0]) for end in ("low", "high"))
    assume(np.isfinite(low))
    goal = float(probe["target"][0] + probe["optimum"][0])
    for rate in (0.25 * low, 0.5 * low, 1.2 * high, 2 * high):
        if np.isinf(rate):
            continue
        results = run_sweep(problem, replace(config, learning_rates=(rate,)))
        along = descend(start(config, problem, seed), problem, p, rate, goal, 300)
        passes = bool((rate * along > 2).any())
        assert verdict(results) is passes
        assert passes or rate < low
        # Descent may jump over the flow where it escapes from near zero, but not at small rates.
        assert not passes or rate > 0.3 * low


def test_what_has_no_gradient_flow_has_no_edge(rng):
    problem = random_problem(rng)
    changes: tuple[dict[str, Any], ...] = (
        {"optimizers": (Optimizer("adam"),)}, {"weight_decays": (0.1,)}, {"activation": "relu"},
    )  # fmt: skip
    for arguments in changes:
        config = SweepConfig(
            depths=(2,), losses=(Loss(2),), learning_rates=(1e-3,), num_seeds=1, num_steps=5,
            **arguments,
        )  # fmt: skip
        results = run_sweep(problem, config)
        assert np.isnan(results["edge_rate_low"].values).all()
        assert np.isnan(results["edge_rate_high"].values).all()
        assert pd.isna(summarise(results)["past_edge"]).to_numpy().all()


def test_networks_too_large_to_be_followed_are_not_even_drawn(rng):
    surface = make_surface(random_problem(rng), Loss(2))

    def draw(_model, _seed):
        raise AssertionError

    config = SweepConfig(depths=(3,), hidden_widths=(2000,), losses=(Loss(2),))
    assert np.isnan(edge_rates(config, lambda _: surface, draw)).all()


def test_a_flow_that_float64_does_not_hold_costs_no_finished_run(rng):
    surface = make_surface(random_problem(rng), Loss(2))

    def draw(_model, _seed):
        return Layers((np.full((1, 4), np.nan), np.full((1, 1), np.nan)))

    config = SweepConfig(depths=(2,), losses=(Loss(2),))
    assert np.isnan(edge_rates(config, lambda _: surface, draw)).all()


# --- the promise ---


@settings(max_examples=examples(3), deadline=None)
@given(seed=st.integers(0, 999), p=st.sampled_from([2, 4]), depth=st.sampled_from([1, 2, 3]))
def test_below_the_edge_float32_and_float64_agree_to_rounding(seed, p, depth):
    problem = random_problem(np.random.default_rng(seed), n=40, d=3)
    config = SweepConfig(
        depths=(depth,), losses=(Loss(p),), init_stds=(0.1,), num_seeds=2, first_seed=seed,
        learning_rates=(1e-3,), num_steps=600, target=Target(0.2, relative=True),
    )  # fmt: skip
    edge = float(run_sweep(problem, config)["edge_rate_low"][0])
    assume(np.isfinite(edge))
    rates = tuple(share * edge for share in (0.2, 0.5, 0.7, 0.9))
    single, exact = (
        run_sweep(problem, replace(config, learning_rates=rates, precision=precision))
        for precision in ("float32", "float64")
    )
    stable = [i for i in range(4) if verdict(exact.isel(learning_rate=[i])) is False]
    assert 0 in stable
    for i in stable:
        for s in range(2):
            at = {"model": 0, "learning_rate": i, "seed": s}
            end = float(exact["steps_to_target"][at])
            assert float(single["steps_to_target"][at]) == pytest.approx(end, abs=1)
            until = exact["step"].values <= end
            np.testing.assert_allclose(
                single["loss"][at].values[until], exact["loss"][at].values[until], rtol=1e-3
            )


@pytest.fixture(scope="module")
def planted() -> dict[str, xr.Dataset]:
    """Ethanol's stand-in, which has its dynamics on l2, at a grid of 60 rates."""
    problem = ia.linear.make_problem(ia.linear.gas_like())
    config = SweepConfig(
        depths=(2,), losses=(Loss(2),), num_seeds=3, num_steps=400,
        learning_rates=parse_learning_rates(["log:0.002:0.4:60"]),
    )  # fmt: skip
    return {
        precision: run_sweep(problem, replace(config, precision=precision))
        for precision in ("float32", "float64")
    }


def test_a_best_rate_past_the_edge_depends_on_precision_and_is_marked(planted):
    steps = []
    for precision, other in (("float32", "float64"), ("float64", "float32")):
        results = planted[precision]
        table: Any = summarise(results, best_by="target")
        assert table["past_edge"].tolist() == [True]
        steps.append(float(table["steps_to_target"][0]))
        assert cells(table, 0)[1].endswith(" †")
        assert "† past the edge of stability" in caption(table)
        assert f"--precision {other}" in caption(table)
        best = float(table["best_learning_rate"][0])
        nearest = int(np.abs(results["learning_rate"].values - best / 2).argmin())
        half: Any = summarise(results.isel(learning_rate=[nearest]))
        assert half["past_edge"].tolist() == [False]
        assert "†" not in caption(half) + cells(half, 0)[1]
    assert abs(steps[0] - steps[1]) > 0.05 * min(steps)


def test_every_rate_below_the_edge_takes_the_same_steps(planted):
    edge = float(planted["float64"]["edge_rate_low"][0])
    below = planted["float64"]["learning_rate"].values < edge
    single, exact = (runs["steps_to_target"].values[0][below] for runs in planted.values())
    assert below.sum() > 30
    there = np.isfinite(single) & np.isfinite(exact)
    assert there.any()
    assert np.abs(single[there] - exact[there]).max() <= 1
    beyond = planted["float64"]["learning_rate"].values > 1.5 * edge
    single, exact = (runs["steps_to_target"].values[0][beyond] for runs in planted.values())
    there = np.isfinite(single) & np.isfinite(exact)
    assert np.abs(single[there] - exact[there]).max() > 5


# --- what decides ---


def linear(losses, *, reached=INF) -> xr.Dataset:
    """Runs of gradient descent on a linear network with these losses, (seed, step)."""
    losses = np.atleast_2d(losses)
    runs = made(
        np.full((1, 1, len(losses)), float(reached)), losses[None, None, :, -1], depths=(1,)
    )
    runs = runs.drop_dims("step").assign_coords(step=np.arange(losses.shape[1]))
    for name in ("loss", "excess_loss"):
        runs[name] = (("model", "learning_rate", "seed", "step"), losses[None, None])
    return runs.assign_attrs({"activation": "identity", "num_steps": losses.shape[1] - 1})


def test_a_rise_of_the_loss_proves_that_gradient_descent_is_past_the_edge():
    rises, falls = linear([4, 3, 3.1, 2]), linear([4, 3, 2, 1])
    assert verdict(rises) is True
    assert verdict(falls) is None
    assert verdict(linear([4, 3, INF, INF])) is True
    # After the target it does not count, unless final losses are compared.
    later = linear([4, 3, 2, 2.5], reached=2)
    assert verdict(later) is None
    assert verdict(later, best_by="final") is True
    # Momentum, decay and kinks let the loss rise below the edge, and a user's task may do anything.
    for change in (
        {"optimizer": ("model", ["momentum"])}, {"weight_decay": ("model", [0.1])},
    ):  # fmt: skip
        assert verdict(rises.assign_coords(change)) is None
    assert verdict(rises.assign_attrs(activation="relu")) is None
    assert verdict(rises.assign_attrs(axes='["model", "learning_rate", "seed"]')) is None


@pytest.mark.parametrize(("precision", "tiny"), [("float32", 1e-5), ("float64", 1e-12)])
def test_rounding_is_no_rise(precision, tiny):
    for factor, expected in ((0.5, None), (2, True)):
        runs = linear([4, 1, 1 + 4 * factor * tiny, 0.5]).assign_attrs(precision=precision)
        assert verdict(runs) is expected


def test_medians_over_seeds_are_past_the_edge_if_half_of_the_seeds_are():
    rises, falls = [4, 3, 3.1, 2], [4, 3, 2, 1]
    assert verdict(linear([rises, rises, falls, falls])) is True
    assert verdict(linear([rises, falls, falls])) is None
    assert verdict(predicted(linear([rises, falls, falls]), 2, 3)) is None


def predicted(runs: xr.Dataset, low: float, high: float) -> xr.Dataset:
    return runs.assign(edge_rate_low=("model", [low]), edge_rate_high=("model", [high]))


def test_predictions_decide_what_losses_do_not():
    falls = linear([4, 3, 2, 1])  # at a rate of 1
    assert verdict(predicted(falls, 2, 3)) is False
    assert verdict(predicted(falls, 0.3, 0.5)) is True
    assert verdict(predicted(falls, 0.5, 2)) is None
    assert verdict(predicted(falls, 1.01, 2)) is None
    assert verdict(predicted(falls, 0.5, 0.99)) is None
    assert verdict(predicted(falls, INF, INF)) is False
    assert verdict(predicted(falls, NAN, NAN)) is None
    # The prediction ends at the target.
    assert verdict(predicted(falls, 2, 3), best_by="final") is None
    assert verdict(predicted(falls, 0.3, 0.5), best_by="final") is True
    assert verdict(predicted(linear([4, 3, 3.1, 2]), 2, 3)) is True


def observed(values, *, optimizer="sgd", name="sharpness", every=1, **arguments) -> xr.Dataset:
    """Runs at a rate of 1 with a sharpness at every, or every other, step."""
    runs = linear(np.linspace(4, 1, 5), **arguments)
    runs = runs.assign_coords(optimizer=("model", [optimizer]), observation_step=range(0, 5, every))
    dims = ("model", "learning_rate", "seed", "observation_step")
    runs[name] = (dims, np.array(values, float)[None, None, None, ::every])
    return runs


def test_recorded_sharpness_decides():
    assert verdict(observed([1, 2.1, 1, 1, 1])) is True
    assert verdict(observed([1, 1.9, 1, 1, 1])) is False
    assert verdict(observed([1, 2.001, 1, 1, 1])) is None
    # Not recorded at every step it proves only that the edge is passed.
    assert verdict(observed([1, 1, 2.1, 1, 1], every=2)) is True
    assert verdict(observed([1, 1, 1.9, 1, 1], every=2)) is None
    # Up to the target: step 2 is the last one that is taken, from what step 1 reached.
    assert verdict(observed([1, 1, 2.1, 1, 1], reached=2)) is False
    assert verdict(observed([1, 1, 2.1, 1, 1], reached=2), best_by="final") is True
    assert verdict(observed([1, 1, 1, 1, 2.1])) is False
    # More than a prediction, which is no proof.
    assert verdict(predicted(observed([1, 1, 1, 1, 1]), 0.3, 0.5)) is False
    assert verdict(observed([1, NAN, 1, 1, 1])) is None


@pytest.mark.parametrize(
    ("optimizer", "name", "edge"),
    [
        ("momentum", "sharpness", 3.8),
        ("adam", "preconditioned_sharpness", 38),
        ("rmsprop", "preconditioned_sharpness", 2),
    ],
)
def test_each_optimizer_has_its_own_threshold(optimizer, name, edge):
    for factor, expected in ((0.95, False), (1.05, True)):
        runs = observed(np.full(5, factor * edge), optimizer=optimizer, name=name)
        assert verdict(runs) is expected
    assert verdict(observed(np.full(5, 99.0), optimizer="adam")) is None
    unknown = runs.assign_coords(optimizer=("model", ["my own"]))
    assert verdict(unknown) is None
    for damaged in ("", "[1]", json.dumps({optimizer: {"momentum": "a"}}), 3):
        assert verdict(runs.assign_attrs(optimizer_settings=damaged)) is None


def test_settings_of_optimizers_change_the_threshold(rng):
    """Momentum's is (2 + 2β)/η: at β = 0.5 it is 3, at the default of 0.9 it is 3.8."""
    config = SweepConfig(
        depths=(1,), losses=(Loss(2),), learning_rates=(1.0,), num_seeds=1, num_steps=4,
        optimizers=(Optimizer("momentum", (("momentum", 0.5),)),), record=("sharpness",),
        target=Target(1e-9),
    )  # fmt: skip
    X = rng.standard_normal((30, 2))
    X *= np.sqrt(3.4 / np.linalg.eigvalsh(X.T @ X / 30)[-1])
    problem = ia.linear.Problem.from_arrays(X, X @ [[1.0], [1.0]])
    results = run_sweep(problem, config)
    np.testing.assert_allclose(results["sharpness"][0, 0, 0], 3.4, rtol=1e-3)
    assert verdict(results) is True
    assert verdict(results.assign_attrs(optimizer_settings="{}")) is False
    named = results.assign_coords(optimizer_settings=("model", ["momentum=0.8"]))
    assert verdict(named) is False
    assert verdict(named.assign_coords(optimizer_settings=("model", ["momentum=0.5"]))) is True


# --- the table ---


def test_the_mark_stands_beside_the_one_for_the_grid_s_edge(tmp_path):
    runs = linear([4, 3, 3.1, 2], reached=3)
    table: Any = summarise(runs)
    assert cells(table, 0)[1] == "1 * †"
    assert caption(table).index("* at the edge of the grid") < caption(table).index("† past")
    latex = ia.to_latex(table)
    assert r"1 * $\dagger$" in latex
    assert "†" not in latex
    table.to_csv(tmp_path / "summary.csv", index=False)
    read = pd.read_csv(tmp_path / "summary.csv")
    assert read["past_edge"].tolist() == [True]
    assert cells(read.fillna({"baseline": ""}), 0)[1] == "1 * †"
    older = table.drop(columns="past_edge")
    assert cells(older, 0)[1] == "1 *"
    assert "†" not in caption(older)


def test_the_unknown_is_an_empty_cell(tmp_path):
    table: Any = summarise(general({"seed": (0, 1), "scale": (0.5, 1.0)}))
    assert str(table["past_edge"].dtype) == "boolean"
    table.to_csv(tmp_path / "summary.csv", index=False)
    read: Any = pd.read_csv(tmp_path / "summary.csv")
    assert read["past_edge"].isna().all()
    assert "†" not in caption(table)
    hopeless: Any = summarise(made(np.full((1, 1, 2), INF), np.full((1, 1, 2), INF), depths=(1,)))
    assert hopeless["past_edge"].isna().all()


def test_pages_and_comparisons_show_it(planted):
    summary = payload(planted["float32"])["summary"]
    assert summary["rows"][0][1].endswith(" †")
    assert "† past the edge" in summary["caption"]
    compared = side_by_side(ia.compare(planted))
    assert [rate.endswith(" †") for rate in compared["best learning rate"]] == [True, True]


def test_results_without_the_prediction_are_read(planted, tmp_path):
    older = planted["float32"].drop_vars(["edge_rate_low", "edge_rate_high"])
    save_results(older, tmp_path)
    runs = ia.load_run(tmp_path)
    # Far past the edge the loss rises, which needs no prediction.
    beyond = 2 * float(planted["float32"]["edge_rate_high"][0])
    place = int(np.abs(runs["learning_rate"].values - beyond).argmin())
    assert summarise(runs.isel(learning_rate=[place]))["past_edge"].tolist() == [True]
    assert verdict(runs.isel(learning_rate=[0])) is None
    forged = planted["float32"].assign(edge_rate_low=("model", [-1.0]))
    save_results(forged, tmp_path)
    with pytest.raises(ia.DataError, match="edge_rate_low holds numbers"):
        ia.load_run(tmp_path)
