import json
import re
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel import UserError, select, summarise
from implicit_accel.results import FORMAT, by_model, model_labels
from implicit_accel.statistics import (
    best_learning_rates,
    bounded,
    final_excess,
    is_unstable,
    ratio_of_medians,
    valid_steps,
)
from implicit_accel.summary import answers

INF, NAN = np.inf, np.nan


def made(steps, final, *, diverged=None, depths=(1, 2), rates=None) -> xr.Dataset:
    """A sweep's results from (model, learning rate, seed) arrays."""
    steps, final = np.asarray(steps, float), np.asarray(final, float)
    M, L, S = steps.shape
    diverged = np.full(steps.shape, NAN) if diverged is None else np.asarray(diverged, float)
    curve = np.stack([np.ones_like(final), final], axis=-1)
    # No final loss is above it, so that what has not diverged is stable.
    target = final[np.isfinite(final)].max(initial=0.1)
    return xr.Dataset(
        {
            "loss": (("model", "learning_rate", "seed", "step"), curve + 1),
            "excess_loss": (("model", "learning_rate", "seed", "step"), curve),
            "steps_to_target": (("model", "learning_rate", "seed"), steps),
            "divergence_step": (("model", "learning_rate", "seed"), diverged),
            "optimum": ("model", np.ones(M)),
            "target": ("model", np.full(M, target)),
            "resolution": ("model", np.full(M, 1e-7)),
        },
        {
            "learning_rate": np.array(rates or [10.0**i for i in range(L)]),
            "seed": np.arange(S), "step": [0, 1000],
            "loss_name": ("model", ["l2"] * M), "depth": ("model", list(depths)),
            "hidden_widths": ("model", ["-" if d == 1 else "1" for d in depths]),
            "init": ("model", ["near_zero"] * M), "init_std": ("model", [0.01] * M),
            "optimizer": ("model", ["sgd"] * M), "weight_decay": ("model", [0.0] * M),
        },
        {"num_steps": 1000, "title": "made", "precision": "float32"},
    )  # fmt: skip


def general(axes: dict[str, tuple], *, seed: int = 0, observed: bool = False) -> xr.Dataset:
    """Results of runs over any axes, with random numbers."""
    rng = np.random.default_rng(seed)
    names, shape = tuple(axes), tuple(map(len, axes.values()))
    curve = (*names, "step")
    excess = rng.uniform(0.01, 1, (*shape, 5)).cumprod(axis=-1)
    steps = rng.integers(1, 100, shape).astype(float)
    steps[rng.uniform(size=shape) < 0.2] = INF
    diverged = np.where(rng.uniform(size=shape) < 0.1, 30.0, NAN)
    excess[np.isfinite(diverged), 3:] = INF
    variables = {
        "loss": (curve, excess + 0.5), "excess_loss": (curve, excess),
        "steps_to_target": (names, steps), "divergence_step": (names, diverged),
        "optimum": ((), 0.5), "zero_loss": ((), 2.0), "resolution": ((), 1e-7),
        "target": (names[:1], np.full(shape[:1], 0.1)),
    }  # fmt: skip
    coordinates = {**axes, "step": [0, 10, 20, 50, 100]}
    if observed:
        coordinates["observation_step"] = [0, 50, 100]
        variables["sharpness"] = ((*names, "observation_step"), rng.uniform(1, 30, (*shape, 3)))
    attributes = {"format": FORMAT, "title": "made", "num_steps": 100, "precision": "float32"}
    return xr.Dataset(
        variables,
        {name: np.array(values) for name, values in coordinates.items()},
        attributes | {"axes": json.dumps(names)},
    )


AXES = {
    "learning_rate": (0.1, 1.0),
    "seed": (0, 1, 2),
    "width_scale": (0.5, 1.0, 2.0),
    "optimizer": ("sgd", "adam"),
}


@st.composite
def some_axes(draw) -> dict[str, tuple]:
    """Some of the axes, in any order."""
    names = draw(st.permutations(sorted(AXES)))
    return {name: AXES[name] for name in names[: draw(st.integers(0, 4))]}


@given(axes=some_axes(), seed=st.integers(0, 99))
def test_every_run_has_its_place_by_model(axes, seed):
    runs = general(axes, seed=seed, observed=True)
    found = by_model(runs)
    assert by_model(found) is found
    assert found["excess_loss"].dims == ("model", "learning_rate", "seed", "step")
    assert found["sharpness"].dims == ("model", "learning_rate", "seed", "observation_step")
    assert found["target"].sizes["model"] == found.sizes["model"]
    for name in ("learning_rate", "seed"):
        assert len(found[name]) == len(axes.get(name, (0,)))
    for m in range(found.sizes["model"]):
        one = found.isel(model=m)
        at = {name: one[name].item() for name in axes if name not in ("learning_rate", "seed")}
        for name in ("excess_loss", "steps_to_target", "divergence_step", "sharpness"):
            own = runs[name].sel(at)
            there = [d for d in one[name].dims if d in own.dims]
            np.testing.assert_array_equal(one[name].squeeze(), own.transpose(*there).squeeze())


@given(axes=some_axes(), seed=st.integers(0, 99), best_by=st.sampled_from(["target", "final"]))
def test_a_model_s_row_is_that_of_a_sweep_of_it_alone(axes, seed, best_by):
    runs = general(axes, seed=seed)
    table = summarise(runs, best_by=best_by)
    assert len(table) == np.prod([len(v) for n, v in axes.items() if n in AXES and n[0] in "wo"])
    assert set(table["baseline"]) == {""}
    assert answers(table) == []
    for m in range(len(table)):
        row: Any = table.iloc[m]
        named = {name: row[name] for name in axes if name not in ("learning_rate", "seed")}
        alone: Any = summarise(select(runs, **named), best_by=best_by).iloc[0]
        assert row.drop("model").equals(alone.drop("model"))
        assert model_labels(runs)[m] == row["model"]


def test_labels_of_any_axes():
    assert model_labels(general(AXES))[:3] == [
        "width_scale 0.5, sgd", "width_scale 0.5, adam", "width_scale 1, sgd",
    ]  # fmt: skip
    assert model_labels(general({"seed": (0, 1), "momentum": (0.9,)})) == ["momentum 0.9"]
    assert model_labels(general({"seed": (0, 1)})) == ["model"]


def test_a_baseline_is_equal_in_all_else():
    runs = general(AXES)
    table = summarise(runs, baseline={"width_scale": 1})
    assert table["baseline"].tolist() == ["width_scale 1, " + o for o in table["optimizer"]]
    best, steps = best_learning_rates(runs), valid_steps(runs)
    for m, base in ((0, 2), (1, 3), (4, 2), (5, 3)):
        expected = np.median(steps[base, best[base]]) / np.median(steps[m, best[m]])
        np.testing.assert_allclose(table["speed_up"][m], expected)
    both = summarise(runs, baseline={"width_scale": 2.0, "optimizer": "adam"})
    assert set(both["baseline"]) == {"width_scale 2, adam"}
    with pytest.raises(UserError, match=r"no model has width_scale = 3: there are 0.5, 1.0, 2.0"):
        summarise(runs, baseline={"width_scale": 3})
    with pytest.raises(UserError, match=r"'width' is no model coordinate: width_scale, optimizer"):
        summarise(runs, baseline={"width": 1})


def test_a_single_layer_is_the_baseline_of_every_width():
    widths = made(np.ones((3, 1, 2)), np.ones((3, 1, 2)), depths=(1, 2, 2))
    widths["hidden_widths"] = ("model", ["-", "1", "4"])
    assert set(summarise(widths)["baseline"]) == {"depth 1"}
    assert summarise(widths, baseline={"hidden_widths": "4"})["baseline"].tolist() == [
        "", "depth 2, width 4", "depth 2, width 4",
    ]  # fmt: skip


def test_what_depends_on_seeds_is_shown_by_its_median():
    runs = general({"seed": (0, 1, 2), "width_scale": (1.0, 2.0)})
    runs["resolution"] = ("seed", [0.1, 0.2, 0.7])
    runs["excess_loss"] = runs["excess_loss"] * 0
    assert summarise(runs)["resolution"].tolist() == [0.2, 0.2]
    np.testing.assert_allclose(final_excess(runs)[1, 0], [0.1, 0.2, 0.7])


def test_rates_chosen_by_the_final_loss_are_compared_by_it():
    """Depth 2 takes longer to the target at its best rate, and ends 2.6 times lower."""
    steps = [[[50, 50, 50]], [[110, 100, 90]]]
    final = [[[0.026, 0.026, 0.026]], [[0.01, 0.011, 0.009]]]
    results = made(steps, final)
    table = summarise(results, best_by="final")
    (sentence,) = answers(table)
    assert (
        "depth 2 ends at an excess loss 2.6× lower than depth 1 (2.36 to 2.89 over 3 seeds)"
        in sentence
    )
    assert "speed_up" not in table
    assert table["final_ratio"].tolist() == [1, pytest.approx(2.6)]
    row = table.to_dict("records")[1]
    assert row["final_ratio_low"] == pytest.approx(26 / 11)
    assert row["final_ratio_high"] == pytest.approx(26 / 9)
    (by_target,) = answers(summarise(results))
    assert "Depth does not help" in by_target


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        ([0.1] * 3, [0.2] * 3, "Depth does not help: .* loss 2× higher than depth 1 .*2 to 2"),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], "No clear difference: depth 2 ends at .* 1× that of"),
        ([INF] * 3, [0.2] * 3, "depth 2 ends at a finite loss and depth 1 diverges"),
        ([0.1] * 3, [INF] * 3, "depth 1 ends at a finite loss and every deeper model diverges"),
        ([INF] * 3, [INF] * 3, "Neither depth 1 nor any deeper model ends at a finite loss"),
        ([0.1] * 3, [1e-9] * 3, r"excess loss at least 1e\+06× lower than depth 1"),
        ([1e-9] * 3, [0.1] * 3, r"Depth does not help: .* at least 1e\+06× higher than depth 1"),
        ([1e-9] * 3, [1e-8] * 3, "No clear difference: depth 2 ends at an excess loss 1×"),
    ],
)
def test_final_losses_in_words(base, own, words):
    diverged = np.where(np.isinf([[base], [own]]), 5, NAN)
    results = made(np.full((2, 1, 3), 10), [[base], [own]], diverged=diverged)
    (sentence,) = answers(summarise(results, best_by="final"))
    assert re.search(words, sentence)


@given(
    base=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=9),
    factor=st.floats(0.01, 100),
)
def test_ratios_of_final_losses_scale(base, factor):
    base = np.array(base)
    found = ratio_of_medians(base * factor, base)
    assert found.value == pytest.approx(factor)
    assert found.low <= found.value <= found.high


def test_the_best_rate_has_the_fewest_steps_or_the_smallest_final_loss():
    steps = [[[90, 80, 70], [50, 40, 60], [INF, INF, 5]]]
    results = made(steps, [[[1, 1, 1], [3, 3, 3], [2, 2, 2]]], depths=[1])
    assert best_learning_rates(results, "target") == [1]
    assert best_learning_rates(results, "final") == [0]
    with pytest.raises(UserError, match="choose from stable, target, final"):
        best_learning_rates(results, "luck")


def test_ties_and_unreached_targets_go_by_the_other_measure():
    never = [[[INF] * 3, [INF] * 3]]
    results = made(never, [[[2, 2, 2], [1, 1, 1]]], depths=[1])
    assert best_learning_rates(results, "target") == [1]
    tied = made([[[9, 9, 9], [5, 5, 5]]], [[[1, 1, 1], [1, 1, 1]]], depths=[1])
    assert best_learning_rates(tied, "final") == [1]


def test_divergence_before_the_target_disqualifies_a_rate():
    steps = [[[50, 50, 50], [10, 10, INF]]]
    final = [[[1, 1, 1], [0.1, 0.1, INF]]]
    diverged = [[[NAN] * 3, [NAN, NAN, 7]]]
    results = made(steps, final, diverged=diverged, depths=[1])
    for best_by in ("target", "stable", "final"):
        assert best_learning_rates(results, best_by) == [0]


def test_a_run_that_is_above_the_target_again_is_not_stable():
    """It reaches the target in the fewest steps, and does not diverge."""
    results = made([[[50, 50, 50], [10, 10, 10]]], [[[1, 1, 1], [1, 1, 1]]], depths=[1])
    assert best_learning_rates(results, "stable") == [1]
    results["excess_loss"].values[0, 1, :, -1] = 1.001
    results["excess_loss"].values[0, 1, 0, -1] = 1 + 1e-7  # rounding
    assert is_unstable(results).tolist() == [[[False] * 3, [False, True, True]]]
    assert valid_steps(results, stable=True).tolist() == [[[50] * 3, [10, INF, INF]]]
    assert best_learning_rates(results, "stable") == [0]
    assert best_learning_rates(results, "target") == [1]
    row = summarise(results, baseline={"depth": 1}).iloc[0]
    assert (row["speed_up"], row["first_touch_speed_up"]) == (1, 1)


def test_divergence_after_the_target_does_not_unless_stability_is_asked_for():
    results = made(
        [[[50, 50, 50], [10, 10, 10]]], [[[1, 1, 1], [INF, INF, INF]]],
        diverged=[[[NAN] * 3, [99, 99, 99]]], depths=[1],
    )  # fmt: skip
    assert best_learning_rates(results, "target") == [1]
    assert best_learning_rates(results, "stable") == [0]
    assert best_learning_rates(results, "final") == [0]


def test_all_diverged_reads_sensibly():
    everywhere = np.full((2, 2, 3), INF)
    results = made(everywhere, everywhere, diverged=np.ones((2, 2, 3)))
    table = summarise(results)
    assert np.isnan(table["best_learning_rate"]).all()
    assert set(table["grid_edge"]) == {""}
    assert table["num_diverged"].tolist() == [6, 6]
    assert np.isnan(table["speed_up"][1])
    assert np.isinf(table["final_excess"]).all()
    assert not np.isnan(table[["final_excess_q25", "steps_to_target_q75"]].to_numpy()).any()


@pytest.mark.parametrize(("best", "edge"), [(0, "low"), (1, ""), (2, "high")])
def test_the_grid_s_edges_are_named(best, edge):
    steps = np.full((1, 3, 2), 50.0)
    steps[0, best] = 10
    table = summarise(made(steps, np.ones((1, 3, 2)), depths=[1]))
    assert list(table["grid_edge"]) == [edge]
    single = summarise(made(steps[:, :1], np.ones((1, 1, 2)), depths=[1]))
    assert list(single["grid_edge"]) == ["only"]


def test_a_row_of_the_summary():
    table = summarise(
        made([[[100, 120, 140]], [[50, 60, 70]]], [[[1, 2, 3]], [[4, 5, 6]]], rates=[0.5])
    )
    row = table.iloc[1]
    assert row["model"] == "depth 2"
    assert row["baseline"] == "depth 1"
    assert row["best_learning_rate"] == 0.5
    assert (row["final_excess_q25"], row["final_excess"], row["final_excess_q75"]) == (4, 5, 6)
    assert row["speed_up"] == 2.0
    assert 1.4 <= row["speed_up_low"] <= 2 <= row["speed_up_high"] <= 2.8
    assert (row["num_reached"], row["num_seeds"], row["num_diverged"]) == (3, 3, 0)


def test_without_a_single_layer_there_is_no_baseline():
    table = summarise(made(np.ones((2, 1, 2)), np.ones((2, 1, 2)), depths=[2, 3]))
    assert set(table["baseline"]) == {""}
    assert np.isnan(table["speed_up"]).all()


def test_bounds():
    never, there = [[INF] * 4], [[100.0] * 4]
    one = np.ones((2, 1, 4))
    model_only = summarise(made([never, there], one))
    assert bounded(model_only, 1) == (10.0, ">")  # over 1000 steps against 100
    baseline_only = summarise(made([there, never], one))
    assert bounded(baseline_only, 1) == (0.1, "<")
    neither = summarise(made([never, never], one))
    assert np.isnan(bounded(neither, 1)[0])


def test_intervals_with_infinities():
    some = np.array([100, 110, INF, 120, 105])
    found = ratio_of_medians(some, np.full(5, 50.0))
    assert found.value == pytest.approx(110 / 50)
    assert found.low < found.value <= found.high == INF
    never = ratio_of_medians(np.full(3, INF), np.full(3, INF))
    assert (never.low, never.high) == (0, INF)
    at_once = ratio_of_medians(np.zeros(3), np.zeros(3), least=1)
    assert (at_once.value, at_once.low, at_once.high) == (1, 1, 1)
    alone = ratio_of_medians(np.ones(1), np.ones(1))
    assert np.isnan([alone.low, alone.high]).all()


@given(
    baseline=st.lists(st.floats(1, 1e6), min_size=2, max_size=9),
    factor=st.floats(0.01, 100),
)
def test_speed_up_scales(baseline, factor):
    steps = np.array(baseline)
    found = ratio_of_medians(steps * max(1, factor), steps * max(1, 1 / factor), least=1)
    assert found.value == pytest.approx(factor, rel=1e-6)
    assert found.low <= found.value <= found.high


def test_intervals_cover_a_planted_effect():
    """Of 300 draws with a true ratio of 2, about 95 % of the intervals hold it."""
    rng, covered, excluded = np.random.default_rng(0), 0, 0
    for _ in range(300):
        baseline, steps = 200 * rng.lognormal(0, 0.3, 30), 100 * rng.lognormal(0, 0.3, 30)
        found = ratio_of_medians(baseline, steps)
        covered += found.low <= 2 <= found.high
        excluded += found.low > 1
    assert covered / 300 > 0.9
    assert excluded / 300 > 0.99


def test_the_table_s_interval_holds_what_choosing_the_rate_leaves_open():
    """Eight equal rates and no effect: the rate that is best by luck declares no speed-up."""
    rng, declared = np.random.default_rng(2), 0
    for _ in range(60):
        steps = rng.lognormal(5, 0.3, (2, 8, 12))
        row = summarise(made(steps, np.ones(steps.shape))).iloc[1]
        declared += not row["speed_up_low"] <= 1 <= row["speed_up_high"]
    assert declared / 60 <= 0.07


def test_few_seeds_have_a_range_and_no_percentage():
    """The extreme ratios of pairs, in the table and in words."""
    results = made([[[40, 50, 60]], [[10, 20, 25]]], np.ones((2, 1, 3)))
    table = summarise(results)
    assert table.loc[1, ["speed_up", "speed_up_low", "speed_up_high"]].tolist() == [2.5, 1.6, 6]
    (sentence,) = answers(table)
    assert sentence.startswith(
        "depth 2 needs 2.5× fewer steps than depth 1 (1.6 to 6 over 3 seeds)"
    )


def test_a_range_of_few_seeds_holds_the_other_half_of_the_grid():
    """Steps are 1000 over the rate up to the largest stable one, which the grid meets or misses."""
    rates = 2.0 ** np.arange(8)

    def at_edge(last):
        return np.where(rates <= rates[last], 1000 / rates, INF)[:, None] * np.ones((8, 3))

    steps = np.stack([at_edge(4), at_edge(5)])
    row = summarise(made(steps, np.ones(steps.shape))).loc[1]
    # The best rates are in different halves: on one half the deeper model loses its best rate,
    # on the other the single layer does.
    ends = row[["speed_up_low", "speed_up", "speed_up_high"]].tolist()
    np.testing.assert_allclose(ends, [1, 2, 4], rtol=0.01)
    (sentence,) = answers(summarise(made(steps, np.ones(steps.shape))))
    assert "(−75 % to +0 % over 3 seeds and half grids)" in sentence


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        (
            [90, 100, 120],
            [95, 107, 114],
            "depth 2 needs 7 % more steps than depth 1 (−21 % to +27 %",
        ),
        (
            [100, 110, 120],
            [95, 88, 130],
            "depth 2 needs 14 % fewer steps than depth 1 (−27 % to +30 %",
        ),
        ([50, 60, 70], [50, 60, 70], "depth 2 needs as many steps as depth 1 (−29 % to +40 %"),
        ([40, 50, 60], [30, 48, INF], "depth 2 needs 4 % fewer steps than depth 1 (−50 % to +∞"),
    ],
)
def test_a_difference_that_is_not_clear_is_said_in_percent(base, own, words):
    """Ratios of medians, and the extreme ratios of pairs: 95/120 and 114/90."""
    (sentence,) = answers(summarise(made([[base], [own]], np.ones((2, 1, 3)))))
    assert sentence.startswith(f"No clear difference: {words} over 3 seeds)")


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        (
            [10, 10, 10],
            [20, 20, 20],
            "Depth does not help: the best deeper model, depth 2, needs 2×",
        ),
        ([INF] * 3, [20, 20, 20], "depth 1 did not: at least 50× fewer steps"),
        ([20, 20, 20], [INF] * 3, "depth 1 reached the target and no deeper model did"),
        ([INF] * 3, [INF] * 3, "Neither depth 1 nor any deeper model reached the target"),
    ],
)
def test_steps_in_words(base, own, words):
    (sentence,) = answers(summarise(made([[base], [own]], np.ones((2, 1, 3)))))
    assert words in sentence


def test_an_absent_effect_is_rarely_declared():
    rng = np.random.default_rng(1)
    declared = 0
    for _ in range(300):
        found = ratio_of_medians(*rng.lognormal(5, 0.3, (2, 30)))
        declared += not found.low <= 1 <= found.high
    assert declared / 300 < 0.08


def test_rounding_decides_nothing_and_is_not_passed_for_a_loss():
    # Below the resolution, 1e-7, nothing is smaller than anything: the fewest steps decide.
    results = made([[[9, 9, 9], [5, 5, 5]]], [[[-1e-9] * 3, [5e-8] * 3]], depths=[1])
    assert best_learning_rates(results, "final") == [1]
    (row,) = summarise(results).to_dict("records")
    assert row["final_excess"] == row["final_excess_q25"] == row["resolution"] == 1e-7
    above = made([[[9, 9, 9], [5, 5, 5]]], [[[2e-7] * 3, [3e-7] * 3]], depths=[1])
    assert best_learning_rates(above, "final") == [0]


@given(
    damaged=st.lists(st.sampled_from(["diverges", "never", "fine"]), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_diverged_runs_touch_nobody_else(damaged, seed):
    """What one model's runs do changes no other model's row, and never wins."""
    rng = np.random.default_rng(seed)
    steps, final = rng.uniform(1, 900, (2, 2, 2)), rng.uniform(0.01, 0.09, (2, 2, 2))
    diverged = np.full(steps.shape, NAN)
    alone = summarise(made(steps, final, depths=(1, 2))).iloc[0]
    for (rate, run), what in zip(np.ndindex(2, 2), damaged, strict=True):
        if what != "fine":
            steps[1, rate, run] = INF
        if what == "diverges":
            final[1, rate, run], diverged[1, rate, run] = INF, 3
    table = summarise(made(steps, final, diverged=diverged, depths=(1, 2)))
    own = [name for name in table.columns if name != "model"]
    assert table.iloc[0][own].equals(alone[own])
    assert table.iloc[1]["num_diverged"] == damaged.count("diverges")
    text = ["model", "loss_name", "hidden_widths", "init", "optimizer", "grid_edge", "baseline"]
    numbers = table.iloc[1].drop([*text, "best_learning_rate"])
    assert not numbers.isna()[["final_excess", "steps_to_target", "num_diverged"]].any()
    fine = [x == "fine" for x in damaged]
    if all(fine[:2]) or all(fine[2:]):
        assert np.isfinite(table.iloc[1]["steps_to_target"])
