"""What the claims of theory measure with."""

import math

import numpy as np
import optax
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from test_flow import problem_of
from test_reproduction import context  # noqa: F401 - a fixture

from implicit_accel import summarise, sweep
from implicit_accel.claims.estimators import share
from implicit_accel.claims.published import (
    bursts,
    contest,
    t1,
    t2,
    t3,
    t5,
    t6,
    t7,
    t9,
)
from implicit_accel.claims.published.plateaus import escapes
from implicit_accel.claims.published.rules import conserved
from implicit_accel.claims.published.theory import (
    crossings,
    flows,
    one_layer_task,
    split,
    where,
)
from implicit_accel.errors import DataError
from implicit_accel.intervals import ModelRuns
from implicit_accel.linear import Loss, SweepConfig, Target, run_sweep
from implicit_accel.theory.flow import Enough, Stack, follow
from implicit_accel.theory.plateau import escape_time
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface


@settings(max_examples=examples(20), deadline=None)
@given(st.floats(2, 200), st.floats(0.02, 0.99), st.floats(0.1, 10))
def test_crossings_of_an_exponential_are_exact_between_records(half_life, share, scale):
    steps = np.array([0, 1, 2, 5, 11, 30, 100, 300, 1000])
    curves = scale * 0.5 ** (steps / half_life)
    exact = -half_life * math.log2(share)
    found = crossings(steps, np.stack([curves, np.full(9, scale)]), share * scale)
    assert found[0] == pytest.approx(exact if exact <= 1000 else math.inf, rel=1e-6)
    assert found[1] == math.inf


def test_crossings_at_the_start_and_of_what_diverges():
    steps = np.array([0, 10, 20])
    curves = np.array([[0.5, 0.4, 0.3], [2.0, np.inf, np.inf], [2.0, np.inf, 0.5]])
    found = crossings(steps, curves, 1.0)
    assert found[0] == 0
    assert found[1] == np.inf
    assert 10 <= found[2] <= 20


def test_tables_are_made_once_and_known_by_what_they_depend_on(context):  # noqa: F811
    made = []

    def make():
        made.append(1)
        return pd.DataFrame({"x": [1.0, math.inf, math.nan, 1 / 3], "name": ["a", "b", "c", "d"]})

    first = context.table("t", (1, "a"), make)
    again = context.table("t", (1, "a"), make)
    pd.testing.assert_frame_equal(first, again)
    assert first["x"][3] == 1 / 3
    assert made == [1]
    context.table("t", (1, "b"), make)
    assert made == [1, 1]
    assert len(context.trained) == 2
    (path,) = [p for p in context.folder.glob("t-*.csv") if p.name == context.trained[0]]
    path.write_text("")
    with pytest.raises(DataError, match="damaged"):
        context.table("t", (1, "a"), make)


def test_rows_are_chosen_and_split_in_their_order():
    table = pd.DataFrame({"a": ["y", "x", "y"], "b": [1, 2, 3]})
    assert [(key, rows["b"].tolist()) for key, rows in split(table, "a")] == [
        (("y",), [1, 3]), (("x",), [2])
    ]  # fmt: skip
    assert where(table, table["b"] > 1)["a"].tolist() == ["x", "y"]


def test_a_share_of_nothing_has_no_value():
    assert math.isnan(share(np.zeros(0, bool)).value)


def test_flows_are_those_of_a_prediction(context, rng):  # noqa: F811
    problem = problem_of(rng, d=3)
    config = SweepConfig(depths=(2,), losses=(Loss(4),), num_seeds=2, num_steps=5000,
                         init_stds=(0.3,))  # fmt: skip
    found = flows(context, problem, config, (0.5, 0.1))
    (model,) = predict(problem, config).models
    at = where(found, found["share"] == 0.1)
    np.testing.assert_allclose(at["time"], model.times, rtol=1e-3)
    np.testing.assert_allclose(2 / at["sharpness"], model.largest_rates, rtol=1e-3)
    assert (where(found, found["share"] == 0.5)["time"].to_numpy() < at["time"].to_numpy()).all()


def test_a_flow_may_end_at_whatever_comes_first(rng):
    problem = problem_of(rng, d=3)
    surface = make_surface(problem, Loss(2))
    config = SweepConfig(depths=(2,), losses=(Loss(2),), num_seeds=1)
    (model,) = config.models
    layers = [model.initialiser.draw(3, (1,), 1, bias=False, seed=0)]
    stack = Stack(layers, surface.rotation)
    target = 0.1 * surface.zero_excess
    (whole,) = follow(stack, surface, Enough(target, 1000))
    (near,) = follow(stack, surface, Enough(target, 1000, whichever_first=True))
    assert near.time_to(target) == pytest.approx(whole.time_to(target))
    assert near.time[-1] < whole.time[-1]
    (short,) = follow(stack, surface, Enough(target, 1, whichever_first=True))
    assert short.time_to(target) == math.inf
    assert short.time[-1] < near.time[-1]


def test_escapes_are_the_plateau_law_s(context, rng):  # noqa: F811
    problem = problem_of(rng, d=3)
    config = SweepConfig(depths=(3,), losses=(Loss(2),), num_seeds=3)
    (model,) = config.models
    surface = make_surface(problem, Loss(2))
    expected = [
        escape_time(surface, model.initialiser.draw(3, (1, 1), 1, bias=False, seed=s), 0.01)
        for s in range(3)
    ]
    np.testing.assert_allclose(escapes(context, problem, config), expected)


def test_one_layer_as_a_task_is_the_sweep_s_own(rng):
    problem = problem_of(rng, d=4)
    starts = rng.standard_normal((2, 4))
    for p in (2, 3, 4):
        task, excess, zero = one_layer_task(problem, Loss(p), starts)
        runs = sweep(
            task, axes={"learning_rate": (0.05,), "seed": (0, 1)}, num_steps=50,
            optimizer=lambda hp: optax.sgd(hp["learning_rate"]), precision="float64",
        )  # fmt: skip
        surface = make_surface(problem, Loss(p))
        assert zero == surface.zero_excess
        X, y = problem.features, problem.targets[:, 0]
        for seed, w in enumerate(starts):
            for _ in range(50):
                r = X @ w - y
                w = w - 0.05 * X.T @ (np.sign(r) * np.abs(r) ** (p - 1)) / len(y)
            r = X @ w - y
            lost = float(surface.at(np.zeros((1, 1, 4))).excess[0]) - zero
            assert lost == pytest.approx(0, abs=1e-9)
            end = float(runs["excess_loss"].values[0, seed, -1])
            optimum = np.mean(np.abs(y) ** p) / p - zero
            assert end == pytest.approx(np.mean(np.abs(r) ** p) / p - optimum, rel=1e-8)
        assert callable(excess)


def test_the_conserved_differences_are_those_of_the_layers(rng):
    problem = problem_of(rng, d=3)
    config = SweepConfig(depths=(3,), num_seeds=2, losses=(Loss(2),))
    (model,) = config.models
    for seed, found in enumerate(conserved(problem, config)):
        first, *rest = model.initialiser.draw(3, (1, 1), 1, bias=False, seed=seed).weights
        expected = [float(np.squeeze(W)) ** 2 - float(np.sum(first**2)) for W in rest]
        np.testing.assert_allclose(found, expected)


def test_where_a_rate_first_fails():
    holds = np.array([[True, True, False], [True, False, False], [True, True, False]])
    assert t2.first_failing(holds).tolist() == [3, 1, 0]


def test_the_share_of_close_predictions_is_that_of_all_seeds_together():
    cells = pd.DataFrame({"seed": [0, 0, 1, 1], "error": [1.0, 11.0, 2.0, math.inf]})
    assert t1.over_seeds(cells, t1.within_10).value == 50
    # Half of the errors are at most 2; an infinite one is larger than any number.
    assert t1.over_seeds(cells, t1.median).value == 2


def test_instability_is_interpolated_between_observations():
    sharpness = [[1.0, 3.0, 5.0], [3.0, 3.0, 3.0], [1.0, math.nan, 5.0], [1.0, 1.0, 1.0]]
    results = xr.Dataset(
        {"sharpness": (("model", "learning_rate", "seed", "observation"), [[sharpness]])},
        {"learning_rate": [1.0], "observation_step": ("observation", [0, 10, 30])},
    )
    assert t3.first_above(results, 0, 0) == 5  # λ = 2, half way from 1 to 3
    assert t3.first_above(results, 0, 1) == 0
    assert t3.first_above(results, 0, 2) == math.inf  # diverged before
    assert t3.first_above(results, 0, 3) == math.inf


def test_a_seed_is_compared_at_its_worst_target_that_both_reach():
    network = xr.Dataset({"zero_loss": ("model", [1.0]), "optimum": ("model", [0.0])})
    steps = np.arange(101)
    fast = 0.9 ** (2.0 * steps)
    slow_in_the_end = np.where(steps <= 3, 0.9 ** (2.0 * steps), 0.9 ** (steps + 3.0))
    never = np.ones(101)
    curves = {
        t5.NETWORK: (steps, np.stack([fast, fast, fast])),
        t5.RULE: (steps, np.stack([0.9**steps, slow_in_the_end, never])),
        t5.PAPERS_RULE: (steps, np.stack([never, never, never])),
    }
    effect = t5.network_over_rule(network, curves, t5.RULE)
    halved = math.log(0.2) / math.log(0.9)
    assert effect.note == "2 of 3 seeds"
    assert effect.value == pytest.approx((0.5 + halved / 2 / (halved - 3)) / 2)
    assert math.isnan(t5.network_over_rule(network, curves, t5.PAPERS_RULE).value)


def test_runs_that_follow_the_laws_differ_from_them_by_nothing():
    steps = np.arange(2000)
    balanced = {
        depth: (0.7 * ((depth - 1) / (depth + 1)) ** (2.0 * steps))[None, None, None]
        for depth in t6.DEPTHS
    }
    stds = np.array([0.5, 0.7, 1.0])
    # At depth 3 steps are as 1/σ: the loss falls to 1e-5 in 100/σ steps.
    near_zero = np.stack([1e-5 ** (steps * std / 100) for std in stds])[:, None, None]
    trained = {
        init: {
            depth: xr.Dataset(
                {"excess_loss": (("model", "learning_rate", "seed", "step"), runs)},
                {"step": steps, "init_std": ("model", stds[: len(runs)])},
            )
            for depth, runs in of.items()
        }
        for init, of in (("balanced", balanced), ("near_zero", {3: near_zero}))
    }
    for depth in t6.DEPTHS:
        assert t6.contraction_over_law(trained, depth).value == pytest.approx(1)
    assert t6.excess_exponent(trained, 3).value == pytest.approx(0)
    assert t6.ratio_of_steps(trained).value == pytest.approx(1)


def test_bursts_and_what_goes_before_them():
    loss = np.array([[4.0, 3, 2, 2.5, 2.4, 1, 1.5, 1], [4, 3, 2, 1.9, 1.8, 1.7, 1.6, 1.5]])
    strain = np.array([[0.5, 0.9, 1.1, 1.2, 0.5, 0.5, 0.9, 0.9], [0.5] * 8])
    assert np.argwhere(bursts.starts(loss)).tolist() == [[0, 3], [0, 6]]
    assert t7.at_edge(loss, strain, "bursts").tolist() == [True, True]
    assert t7.at_edge(loss, strain, "calm runs").tolist() == [True]
    assert t7.at_edge(loss, 0 * strain, "bursts").tolist() == [False, False]
    long = np.full((1, 30), 1.5)
    falling = np.linspace(2, 1, 30)[None]
    assert t7.at_edge(falling, long, "calm runs").tolist() == [False]
    assert t7.longest(np.array([0, 1, 1, 0, 1, 1, 1], bool)) == 3
    assert t7.longest(np.zeros(4, bool)) == 0


def test_speed_ups_of_the_parts_are_ratios_of_fewest_steps():
    steps = dict(
        zip(t9.METHODS, (1200.0, 400.0, 600.0, 200.0, 190.0, 100.0, 75.0, 50.0), strict=True)
    )
    kept = np.zeros((3, 3), bool)
    # At the rate with the fewest median steps, a run diverges.
    sides = {
        method: ModelRuns(
            np.array([0.1, 0.2, 0.4]), np.array([[2 * n] * 3, [n] * 3, [n / 2, n / 2, np.inf]]),
            kept | [[False] * 3, [False] * 3, [False, False, True]], 5000.0,
        )
        for method, n in steps.items()
    }  # fmt: skip
    runs = {(4.0, 2): sides}
    rule, parts = (m.estimate(runs, p=4.0, depth=2) for m in t9.CLAIM.measures[:2])
    assert rule is not None
    assert rule.value == pytest.approx(190 / 200)
    assert parts is not None
    assert parts.value == pytest.approx(3 * 2 / 6)
    found = {method: t9.speed_up(runs, 4.0, 2, method) for method in t9.METHODS}
    assert [e.value for e in found.values()] == pytest.approx([1200 / n for n in steps.values()])
    assert found["network"].note == "190 steps"


def test_the_curve_of_a_method_is_that_of_the_median_seed_until_the_target():
    steps = np.array([0, 1, 2, 4, 8, 16])
    excess = 2.0 ** -(np.array([0.5, 1.0, 2.0])[:, None] * steps)[None]
    runs, (x, curve) = contest.reached(1 / 16, steps, excess, np.array([0.1]))
    np.testing.assert_allclose(runs.steps, [[8, 4, 2]])
    assert x is steps
    np.testing.assert_allclose(curve, [[1, 1 / 2, 1 / 4, 1 / 16, np.nan, np.nan]])


def test_an_edge_beyond_the_search_is_infinite_and_counts(context):  # noqa: F811
    """One layer on ℓ2 is stable up to 2/λ exactly, from any start."""
    _, problem = context.first_problem()
    measured = t2.largest_rates(context, problem, 2.0, 1)
    assert measured is not None
    monotone, reached = measured
    assert ((monotone > 0.5) & (monotone < 2)).all()
    assert (reached >= monotone).all()
    config = SweepConfig(depths=(1,), losses=(Loss(2),), num_seeds=2, num_steps=3000)
    edge = float(np.median(2 / flows(context, problem, config, (0.1,))["sharpness"]))
    for factor, beyond in ((0.25, math.inf), (100.0, 0.0)):
        assert (t2.bisect(context, problem, config, factor * edge, 0) == beyond).all()
    effect = t2.over_seeds(np.array([1.2, math.inf]))
    assert math.isnan(effect.value)
    assert effect.note == "no limit found (1 of 2 seeds)"


def test_predicted_and_measured_agree_in_the_summary_of_a_sweep(rng):
    """The whole way once: steps of a sweep's table, and the flow's."""
    problem = problem_of(rng, d=3)
    config = SweepConfig(
        depths=(1, 2), losses=(Loss(4),), inits=("identity",), learning_rates=(0.002,),
        num_seeds=3, num_steps=20_000, target=Target(0.1, relative=True),
    )  # fmt: skip
    runs = run_sweep(problem, config)
    measured = summarise(runs)["steps_to_target"].to_numpy(float)
    found = predict(problem, config).table()["steps"].to_numpy(float)
    np.testing.assert_allclose(found, measured, rtol=0.03, atol=2)
