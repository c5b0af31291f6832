"""Labels: equal for equal models, different for different ones, whatever the coordinates."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import NAN, general

import implicit_accel as ia
from implicit_accel import compare, differences, linear, summarise, to_rliable, to_tidy
from implicit_accel.comparison import common_labels
from implicit_accel.comparison_plots import comparison_figures
from implicit_accel.experiments.compare import run_names
from implicit_accel.pages.explorer import payload
from implicit_accel.plotting import plain_labels, plot_excess_loss, plot_speed_up
from implicit_accel.results import coordinate_labels, model_labels, save_results

CLOSE = 0.01, math.nextafter(0.01, 1), 0.01000001, 0.1 + 0.2, 0.3, 0.9999995, 0.9999999, 1e300
TEXTS = "-", "", "a", "b", "a, b", "x a", "x", "y 1", "1", "nan", "True", "model", "x 'a'"
VALUES = st.one_of(
    st.sampled_from(CLOSE),
    st.sampled_from(TEXTS),
    st.sampled_from([0, 1, 2, 1.0, 2.0, True, False, NAN, 2**53, 2.0**53, 2**53 + 1, 10**6, 1e6]),
    st.floats(allow_nan=True, allow_infinity=True).filter(bool),
    st.text(max_size=3),
)


def same(a, b) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))


def models(rows, names) -> xr.Dataset:
    """A dataset of these models, whose coordinates keep the type of every value."""
    columns = {}
    for name, *values in zip(names, *rows, strict=True):
        columns[name] = np.empty(len(rows), object)
        columns[name][:] = values
    return xr.Dataset(coords={name: ("model", values) for name, values in columns.items()})


@st.composite
def some_models(draw):
    """The names of coordinates and some models' values."""
    names = draw(st.sampled_from([("x",), ("x", "y"), ("y", "hidden_widths"), ("depth", "x", "y")]))
    row = st.tuples(*(VALUES for _ in names))
    return names, draw(st.lists(row, min_size=1, max_size=8))


@given(some_models())
def test_labels_are_equal_if_and_only_if_coordinates_are(found):
    names, rows = found
    labels = model_labels(models(rows, names))
    assert all(labels)
    for (one, own), (other, its) in itertools.combinations(zip(rows, labels, strict=True), 2):
        assert (own == its) == all(map(same, one, other)), (one, other, own)


@given(some_models())
def test_a_value_s_label_is_its_alone(found):
    names, rows = found
    labels = coordinate_labels(models(rows, names), names)
    shown = [
        (name, row[i], label)
        for i, name in enumerate(names)
        for row, label in zip(rows, labels[name], strict=True)
    ]
    for (name, one, own), (axis, other, its) in itertools.combinations(shown, 2):
        if name == axis:
            assert (own == its) == same(one, other)
        elif own or its:
            assert own != its


@pytest.mark.parametrize(
    ("coordinates", "labels"),
    [
        ({"init_std": (0.01, 0.1)}, ["std 0.01", "std 0.1"]),
        ({"init_std": (0.01, 0.01000001, 0.1)}, ["std 0.01", "std 0.01000001", "std 0.1"]),
        ({"ema": (0.9999995, 0.9999999, 0.9)}, ["ema 0.9999995", "ema 0.9999999", "ema 0.9"]),
        ({"ema": (0.3, 0.1 + 0.2)}, ["ema 0.3", "ema 0.30000000000000004"]),
        ({"x": (1000000, 1e6)}, ["x 1000000", "x 1e+06"]),
        ({"x": (1, 1.0)}, ["x 1", "x 1.0"]),
        ({"x": (1, True)}, ["x 1", "x True"]),
        ({"x": ("-", "a")}, ["model", "a"]),
        ({"x": ("-", "")}, ["x '-'", "x ''"]),
        ({"x": ("-", NAN)}, ["x '-'", "x nan"]),
        ({"x": ("a", "-"), "y": ("-", "a")}, ["x a", "y a"]),
        ({"x": ("a, b", "a"), "y": ("-", "b")}, ["x a, b", "x a, y b"]),
        ({"x": ("a, y b", "a"), "y": ("-", "b")}, ["a, y b", "a, b"]),
        ({"x": ("adam", "sgd"), "depth": (2, 2)}, ["adam, depth 2", "sgd, depth 2"]),
        ({"hidden_widths": ("4", "4x4"), "x": (1, 1)}, ["width 4", "width 4x4"]),
        ({"hidden_widths": ("4", "4x4"), "depth": (2, 3)}, ["depth 2", "depth 3"]),
    ],
)
def test_labels_are_only_as_long_as_they_must_be(coordinates, labels):
    rows = [*zip(*coordinates.values(), strict=True)]
    assert model_labels(models(rows, tuple(coordinates))) == labels


# Values as a sweep holds them: of one type in each coordinate.
COLUMNS = st.one_of(
    st.lists(st.sampled_from([0.5, 1.0, *CLOSE]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True),
)


def same_model(one: dict, other: dict) -> bool:
    """Whether coordinates are the same; to have none is to be without it."""
    one, other = ({n: v for n, v in given.items() if v != "-"} for given in (one, other))
    return one.keys() == other.keys() and all(
        isinstance(one[n], str) == isinstance(other[n], str) and one[n] == other[n] for n in one
    )


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["x", "y"]), COLUMNS, min_size=1), min_size=1, max_size=3
    )
)
def test_no_model_is_dropped_or_merged_in_a_comparison(sweeps):
    # Every sweep has different models, so that all of its coordinates count.
    sweeps = [{**axes, "z": [1, 2]} for axes in sweeps]
    runs = {
        str(i): general({**{n: tuple(v) for n, v in axes.items()}, "seed": (0, 1)}, seed=i)
        for i, axes in enumerate(sweeps)
    }
    differing = {name for axes in sweeps for name, values in axes.items() if len(values) > 1}
    rows = []
    for i, axes in enumerate(sweeps):
        for values in itertools.product(*axes.values()):
            row = dict(zip(axes, values, strict=True))
            rows.append((str(i), {n: v for n, v in row.items() if n in differing}))
    table = compare(runs)
    assert table["run"].tolist() == [run for run, _ in rows]
    labels = table["model"].tolist()
    for (a, b), (own, its) in zip(
        itertools.combinations(rows, 2), itertools.combinations(labels, 2), strict=True
    ):
        assert (own == its) == same_model(a[1], b[1])
    # The first sweep that has a model is the one that others are compared with.
    for m, (run, row) in enumerate(rows):
        first = next(k for k, (_, other) in enumerate(rows) if same_model(row, other))
        own, its = table["steps_to_target"].iloc[[m, first]].tolist()
        if rows[first][0] != run and math.isfinite(own) and math.isfinite(its):
            assert table["over_first"].iloc[m] == pytest.approx(max(its, 1) / max(own, 1))


@given(
    x=COLUMNS, y=COLUMNS, losses=st.lists(st.sampled_from(["a", "b c", "c"]), min_size=1,
                                          unique=True)
)  # fmt: skip
def test_rliable_has_an_algorithm_for_every_model(x, y, losses):
    axes = {"loss_name": tuple(losses), "x": tuple(x), "seed": (0, 1, 2), "y": tuple(y)}
    # Joined, these names and losses would be one problem: "p b" with "c" and "p" with "b c".
    runs = {"p": general(axes), "p b": general(axes, seed=1)}
    for results in runs.values():  # no run diverges: then every model has a best rate
        results["divergence_step"][:] = NAN
        results["excess_loss"] = results["excess_loss"].clip(max=1.0)
    scores = to_rliable(runs, score="log_steps", best_by="target")
    assert len(scores) == len(x) * len(y)
    expected = np.concatenate(
        [
            -np.log10(np.clip(r["steps_to_target"].values, 1, 100)).transpose(1, 3, 2, 0)
            for r in runs.values()
        ],
        axis=-1,
    )  # (x, y, seed, problem)
    for found, own in zip(scores.values(), expected.reshape(-1, 3, 2 * len(losses)), strict=True):
        np.testing.assert_allclose(found, own)


def test_losses_alone_are_problems_and_no_algorithms():
    (scores,) = to_rliable(
        general({"loss_name": ("l2", "l4"), "seed": (0, 1)}), score="log_steps"
    ).values()
    assert scores.shape == (2, 2)


STDS = 0.3, 0.30000001


@pytest.fixture(scope="module")
def close_runs():
    """Two sweeps of initialisations whose standard deviations agree in six digits."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    problem = linear.Problem.from_arrays(X, X @ [[1.0], [-1.0], [0.5]])

    def run(stds, rates):
        config = linear.SweepConfig(
            losses=(linear.Loss(2),), depths=(1, 2), init_stds=stds, learning_rates=rates,
            num_seeds=2, num_steps=200, target=linear.Target(0.1, relative=True),
        )  # fmt: skip
        return linear.run_sweep(problem, config)

    return {"both": run(STDS, (0.1,)), "one": run((STDS[1], 0.4), (0.2,))}


def test_models_that_look_alike_are_compared_with_themselves(close_runs):
    table: Any = compare(close_runs)
    assert len(table) == 8
    both = table[table["run"] == "both"]
    assert both["model"].nunique() == 4
    again = table[(table["run"] == "one") & table["model"].isin(both["model"])]
    assert again["init_std"].tolist() == [STDS[1]] * 2
    steps = {n: r["steps_to_target"].values[:, 0] for n, r in close_runs.items()}
    where = {
        (run, r["depth"].values[m], r["init_std"].values[m]): np.median(steps[run][m])
        for run, r in close_runs.items() for m in range(4)
    }  # fmt: skip
    for depth, ratio in zip(again["depth"], again["over_first"], strict=True):
        expected = where["both", depth, STDS[1]] / where["one", depth, STDS[1]]
        assert math.isfinite(expected)
        assert ratio == pytest.approx(expected)
    new = table[(table["run"] == "one") & (table["init_std"] == 0.4)]
    assert (new["over_first"] == 1).all()
    # Depth 1 with the same standard deviation, not with the one that looks like it.
    summary: Any = summarise(close_runs["both"])
    for _, row in summary.iterrows():
        (base,) = summary[summary["model"] == row["baseline"]].to_dict("records")
        assert (base["depth"], base["init_std"]) == (1, row["init_std"])


def test_models_that_look_alike_have_rows_panels_and_boxes_of_their_own(close_runs):
    results = close_runs["both"]
    assert len(set(to_tidy(results)["model"])) == 4
    scores = to_rliable(results)
    assert len(scores) == 4
    titles = [ax.get_title() for ax in plot_excess_loss(results).axes]
    assert titles == ["$\\ell_{2}$ loss, std 0.3", "$\\ell_{2}$ loss, std 0.30000001"]
    page = payload(results)
    assert len({model["label"] for model in page["models"]}) == 4
    axes = {axis["name"]: axis for axis in page["axes"]}
    assert axes["init_std"]["values"] == ["std 0.3", "std 0.30000001"]
    expected = [STDS.index(std) for std in results["init_std"].values]
    assert axes["init_std"]["of"] == expected
    for m, model in enumerate(page["models"]):
        assert expected[model["baseline"]] == expected[m]
        assert results["depth"].values[model["baseline"]] == 1
    figures = comparison_figures(close_runs, compare(close_runs))
    assert len(figures["excess_loss"].axes) == 6
    panels = {ax.get_title(): len(ax.get_lines()) for ax in figures["excess_loss"].axes}
    assert len(panels) == 6


def test_a_user_s_models_of_close_numbers_are_compared_with_themselves(tmp_path):
    """On a quadratic whose curvature depends on them; gradient descent's steps are known."""
    emas = {"a": (0.9999995, 0.9999999), "b": (0.9999999, 0.99999985)}
    rates = {"a": 0.05, "b": 0.1}
    target = 1e-3

    def curvature(ema):
        return (1 - ema) * 1e7

    def steps(ema, rate):
        c, n, w = curvature(ema), 0, 1.0
        while c * w**2 / 2 > target:
            n, w = n + 1, w * (1 - rate * c)
        return n

    task = ia.from_loss(
        lambda w, batch, hp: curvature(hp["ema"]) * w**2 / 2 + 0 * batch.sum(),
        init=lambda seed: np.ones(()), data=np.zeros((2, 1)), optimum=0.0, name="quadratic",
    )  # fmt: skip
    runs = {}
    for name, rate in rates.items():
        axes = {"learning_rate": (rate,), "seed": (0, 1), "ema": emas[name]}
        found = ia.sweep(
            task, axes=axes, optimizer=ia.Optimizer("sgd"), num_steps=200, target=target,
            precision="float64", records_per_decade=1000,
        )  # fmt: skip
        (tmp_path / name).mkdir()
        save_results(found, tmp_path / name)
        runs[name] = ia.load_run(tmp_path / name)
    table = compare(runs)
    assert table["model"].tolist() == [
        "ema 0.9999995", "ema 0.9999999", "ema 0.9999999", "ema 0.99999985",
    ]  # fmt: skip
    expected = steps(emas["a"][1], 0.05) / steps(emas["b"][0], 0.1)
    assert expected < 5  # steps of the two models of one sweep differ more
    assert steps(emas["a"][1], 0.05) > 4 * steps(emas["a"][0], 0.05)
    np.testing.assert_allclose(table["over_first"], [1, 1, expected, 1])
    scores = to_rliable(runs["a"], score="log_steps")
    np.testing.assert_allclose(
        [10 ** -float(found[0, 0]) for found in scores.values()],
        [steps(ema, 0.05) for ema in emas["a"]],
    )


def test_an_axis_of_close_numbers_has_a_box_for_each():
    emas = 0.9999995, 0.9999999
    runs = general({"ema": emas, "seed": (0, 1, 2), "optimizer": ("sgd", "adam")})
    page = payload(runs, baseline={"ema": emas[0]})
    (axis,) = [axis for axis in page["axes"] if axis["name"] == "ema"]
    assert axis["values"] == ["ema 0.9999995", "ema 0.9999999"]
    assert axis["of"] == [0, 0, 1, 1]
    assert [model["baseline"] for model in page["models"]] == [0, 1, 0, 1]
    label = plot_speed_up(runs, baseline={"ema": emas[1]}).axes[0].get_xlabel()
    assert "ema 0.9999999" in label


def test_coordinates_with_one_label_have_boxes_of_their_own():
    page = payload(general({"x": ("a", "b"), "y": ("a", "c"), "seed": (0,)}))
    values = [value for axis in page["axes"] for value in axis["values"]]
    assert values == ["x a", "b", "y a", "c"]


def test_the_order_of_axes_and_whole_numbers_do_not_matter():
    runs = {
        "a": general({"x": (1, 2), "y": ("p", "q"), "seed": (0,)}),
        "b": general({"y": ("q", "p"), "seed": (0,), "x": (2.0, 1.0)}),
    }
    labels = common_labels(runs)
    assert labels["a"] == ["x 1, p", "x 1, q", "x 2, p", "x 2, q"]
    assert labels["b"] == ["x 2, q", "x 1, q", "x 2, p", "x 1, p"]


# --- names of runs ---

PARTS = st.one_of(
    st.sampled_from(
        ["gas", "run", "…", "a" * 90, "a" * 89 + "b", "a\nb", "a\\nb", "\udcff", "\x1b"]
    ),
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=200).filter(
        lambda part: part not in (".", "..")
    ),
)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map(tuple), min_size=1, unique=True))
def test_different_paths_have_different_printable_names(paths):
    names = run_names([Path("/", *parts) for parts in paths])
    assert len(set(names)) == len(paths)
    assert all(name.isprintable() for name in names)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/out/gas", "/out/abalone"], ["gas", "abalone"]),
        (["/a/gas", "/b/gas", "/b/csv"], ["a/gas", "b/gas", "csv"]),
        (["/x/a/gas", "/y/a/gas"], ["x/a/gas", "y/a/gas"]),
        (["/gas", "/a/gas", "/"], ["/gas", "a/gas", "/"]),
        (["/a/x\n", "/a/\\"], [r"x\n", r"\\"]),
        (["/" + "a" * 200], ["a" * 39 + "…" + "a" * 40]),
        (["/" + "a" * 79 + "bcd", "/" + "a" * 79 + "bce"],
         ["a" * 39 + "…" + "a" * 37 + "bcd", "a" * 39 + "…" + "a" * 37 + "bce"]),
        (["/" + c.join(["x" * 60] * 2) for c in "ab"], [c.join(["x" * 60] * 2) for c in "ab"]),
    ],
)  # fmt: skip
def test_names_are_the_last_parts_that_differ(paths, names):
    assert run_names([Path(path) for path in paths]) == names


# --- settings ---


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ((0.01,), (0.01000001,), ["0.01", "0.01000001"]),
        ((0.123456,), (0.123457,), ["0.123456", "0.123457"]),
        ((0.1, 0.12345), (0.1, 0.12346), ["0.1, 0.12345", "0.1, 0.12346"]),
        (("a, b",), ("a", "b"), ["'a, b'", "'a', 'b'"]),
        (("1",), (1,), ["'1'", "1"]),
        ((0.25,), (0.5,), ["0.25", "0.5"]),
    ],
)
def test_settings_that_differ_are_shown_to_differ(one, other, shown):
    runs = {"a": general({"x": one, "seed": (0,)}), "b": general({"x": other, "seed": (0,)})}
    assert differences(runs).loc["x"].tolist() == shown


def test_a_whole_number_is_the_same_setting_in_either_type():
    runs = {"a": general({"x": (1, 2)}), "b": general({"x": (1.0, 2.0)})}
    assert differences(runs).empty


def test_many_values_of_which_one_differs_are_shown_to_differ():
    one = tuple(np.geomspace(0.001, 1, 9).tolist())
    other = (*one[:4], 0.05, *one[5:])
    third = (*one[:4], 0.05, *one[5:7], 0.5, one[8])
    runs = {
        name: general({"learning_rate": rates, "seed": (0,)})
        for name, rates in (("a", one), ("b", other), ("c", third))
    }
    row = differences({n: runs[n] for n in "ab"}).loc["learning_rate"].tolist()
    assert row == [
        "9, from 0.001 to 1; value 5 is 0.03162", "9, from 0.001 to 1; value 5 is 0.05",
    ]  # fmt: skip
    assert len(set(differences(runs).loc["learning_rate"])) == 3
    assert differences({"a": runs["a"], "again": runs["a"]}).empty


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9, unique=True),
       st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9, unique=True))  # fmt: skip
def test_differences_are_empty_if_and_only_if_settings_are_the_same(one, other):
    runs = {
        name: general({"x": tuple(values), "seed": (0,)})
        for name, values in (("a", one), ("b", other))
    }
    table = differences(runs)
    assert table.empty == (one == other)
    assert all(len(set(row)) > 1 for row in table.to_numpy())


@given(st.lists(st.text("_a$ \\", max_size=4), min_size=1, max_size=5, unique=True))
def test_labels_in_figures_stay_different(labels):
    found = plain_labels(labels)
    assert list(found) == labels
    assert len(set(found.values())) == len(labels)
    assert not any(label.startswith("_") for label in found.values())


def test_runs_and_models_whose_names_differ_in_an_underscore_are_all_drawn():
    axes = {"x": ("a", "_a"), "seed": (0, 1)}
    runs = {"gas": general(axes), "_gas": general(axes, seed=1), "__gas": general(axes, seed=2)}
    figures = comparison_figures(runs, compare(runs))
    assert len(figures["excess_loss"].axes) == 2
    for ax in figures["excess_loss"].axes:
        lines = {str(line.get_label()) for line in ax.get_lines()}
        assert len([label for label in lines if label.strip(" _") == "gas"]) == 3
    (ax,) = figures["steps_to_target"].axes
    assert len([line for line in ax.get_lines() if line.get_marker() == "o"]) == 3
    assert len({tick.get_text() for tick in ax.get_yticklabels()}) == 2
