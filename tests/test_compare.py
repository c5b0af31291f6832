"""Several runs side by side."""

import io
import math
import shutil
from base64 import b64decode
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from browser import NARROW, WIDE, needs_browser, visit
from hypothesis import given
from hypothesis import strategies as st
from marks import param
from pages import read_page
from PIL import Image
from programs import as_module, forked
from test_statistics import INF, NAN, general, made

import implicit_accel as ia
from implicit_accel import UserError, compare, differences, linear
from implicit_accel.comparison import common_labels
from implicit_accel.comparison_plots import comparison_figures
from implicit_accel.plotting import plot_effects, plot_speed_up

LOW = np.full((2, 1, 3), 0.05)


def run(*arguments, cwd):
    return forked(as_module, "implicit_accel.experiments.compare", *arguments, cwd=cwd)


@pytest.fixture
def pair():
    return {
        "sgd": made([[[200, 210, 220]], [[50, 60, 70]]], LOW),
        "adam": made([[[20, 30, 40]], [[INF] * 3]], LOW).assign_coords(
            optimizer=("model", ["adam"] * 2)
        ),
    }


def test_models_are_matched_by_what_differs_within_runs(pair):
    table = compare(pair)
    assert table["model"].tolist() == ["depth 1", "depth 2"] * 2
    assert table["baseline"].tolist() == ["depth 1"] * 4
    np.testing.assert_allclose(table["speed_up"], [1, 3.5, 1, 0])
    np.testing.assert_allclose(table["over_first"], [1, 1, 7, 0])
    low, high = (table[f"over_first_{end}"].iloc[2] for end in ("low", "high"))
    assert 200 / 40 <= low <= 7 <= high <= 220 / 20
    assert differences(pair).T.to_dict("list") == {"optimizer": ["sgd", "adam"]}


def test_the_range_over_another_run_holds_both_halves_of_the_grid_of_rates():
    """The other run's best rate is in one half: on the other half it needs 90 steps."""
    rates = np.array([[[100] * 3] * 6])
    steps = np.where(np.arange(6)[None, :, None] == 2, 50, 90) * np.ones((1, 1, 3))
    low = np.full((1, 6, 3), 0.05)
    a, b = (made(own, low, depths=(1,)) for own in (rates, steps))
    row = compare({"a": a, "b": b}).iloc[1]
    found = row[["over_first", "over_first_low", "over_first_high"]].tolist()
    np.testing.assert_allclose(found, [2, 100 / 90, 2])


def test_a_run_s_rows_are_its_own_summary(pair):
    table = compare(pair)
    for name, results in pair.items():
        rows = np.flatnonzero(table["run"].to_numpy() == name)
        expected = ia.summarise(results)
        own = table.iloc[rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(own.loc[:, list(expected.columns)], expected)


def test_labels_tell_losses_where_one_run_has_several():
    both = general({"loss_name": ("l2", "l4"), "depth": (1, 2), "seed": (0, 1)})
    one = general({"loss_name": ("l2",), "depth": (1, 2), "seed": (0, 1)})
    labels = common_labels({"both": both, "one": one})
    assert labels["one"] == ["l2, depth 1", "l2, depth 2"] == labels["both"][:2]
    found = compare({"both": both, "one": one})
    assert found["model"].tolist().count("l2, depth 1") == 2
    assert found["model"].tolist().count("l4, depth 1") == 1
    assert differences({"both": both, "one": one}).loc["loss_name"].tolist() == ["l2, l4", "l2"]


def test_who_arrives_nowhere_has_no_ratio():
    runs = {"a": made(np.full((2, 1, 3), INF), LOW), "b": made([[[5] * 3], [[INF] * 3]], LOW)}
    np.testing.assert_equal(compare(runs)["over_first"].tolist(), [NAN, NAN, INF, NAN])
    with pytest.raises(UserError, match="at least one run"):
        compare({})


def test_figures_have_a_colour_for_each_run(pair):
    figures = comparison_figures(pair, compare(pair))
    assert list(figures) == ["steps_to_target", "speed_up", "over_first", "excess_loss"]
    (ax,) = figures["steps_to_target"].axes
    points = {line.get_label(): line for line in ax.get_lines() if line.get_marker() == "o"}
    assert list(points) == ["sgd", "adam"]
    np.testing.assert_allclose(np.asarray(points["sgd"].get_xdata()), [210, 60])
    np.testing.assert_allclose(np.asarray(points["adam"].get_xdata()), [30])
    assert [text.get_text() for text in ax.texts] == ["not reached"]
    assert [ax.get_title() for ax in figures["excess_loss"].axes] == ["depth 1", "depth 2"]
    final = comparison_figures(pair, compare(pair, best_by="final"), best_by="final")
    assert list(final)[:2] == ["final_excess", "final_ratio"]


# --- intervals in figures ---


@dataclass(frozen=True)
class Ratio:
    value: float
    low: float = NAN
    high: float = NAN
    name: str = "ratio"
    note: str = ""


def segments(ax) -> list[tuple[float, float, float]]:
    """The horizontal lines of a panel: their height and ends."""
    found = [line for collection in ax.collections for line in collection.get_segments()]
    found += [
        np.asarray(line.get_xydata()) for line in ax.get_lines() if len(line.get_xdata()) == 2
    ]
    return [(a[1], a[0], b[0]) for a, b in found if a[1] == b[1] and a[0] != b[0]]


def arrows(ax) -> set[tuple[str, float, float]]:
    """The arrow heads of a panel: their direction and place."""
    return {
        (str(line.get_marker()), x, y)
        for line in ax.get_lines() if line.get_marker() in ("<", ">")
        for x, y in np.asarray(line.get_xydata())
    }  # fmt: skip


@given(
    log=st.booleans(),
    effects=st.lists(
        st.tuples(
            st.floats(0.1, 10), st.sampled_from([0.5, 0.0, -1.0, -INF, NAN]),
            st.sampled_from([2.0, INF, NAN]),
        ),
        min_size=1, max_size=5,
    ),
)  # fmt: skip
def test_an_interval_without_an_end_reaches_the_edge_of_the_panel(log, effects):
    rows = [Ratio(v, v * low if low > 0 else low, v * high) for v, low, high in effects]
    figure = plot_effects({"": rows}, title="", xlabel="", log=log)
    (ax,) = figure.axes
    left, right = ax.get_xlim()
    expected, heads = [], set()
    for place, row in enumerate(rows):
        if math.isnan(row.low) or math.isnan(row.high):
            continue
        opens = row.low == -INF or (log and row.low <= 0)
        expected.append((place, left if opens else row.low, right if row.high == INF else row.high))
        heads |= {("<", left, place)} if opens else set()
        heads |= {(">", right, place)} if row.high == INF else set()
        # Whatever is finite lies inside.
        for inside in (row.value, row.low, row.high):
            if math.isfinite(inside) and (inside > 0 or not log):
                assert left < inside < right
    assert sorted(segments(ax)) == sorted(expected)
    assert arrows(ax) == heads


def test_finite_intervals_are_drawn_between_their_ends():
    rows = [Ratio(2, 1, 3), Ratio(0.5, 0.4, 0.8), Ratio(4)]
    (ax,) = plot_effects({"": rows}, title="", xlabel="").axes
    assert segments(ax) == [(0, 1, 3), (1, 0.4, 0.8)]
    assert arrows(ax) == set()
    np.testing.assert_allclose(ax.get_xlim(), (0.4 / 1.25, 4 * 1.25))


def test_a_comparison_with_runs_that_never_arrive_has_an_arrow():
    # Of three seeds one never reaches the target: the range of ratios has no upper end.
    runs = {
        "a": made([[[100, 200, INF]], [[50, 60, 70]]], LOW),
        "b": made([[[20, 30, 40]], [[5, 6, 7]]], LOW),
    }
    (ax,) = plot_speed_up(runs["a"]).axes
    (head,) = [(x, y) for marker, x, y in arrows(ax) if marker == ">"]
    assert head == (ax.get_xlim()[1], 1)
    (segment,) = segments(ax)
    assert segment[2] == head[0]
    assert segment[1] == pytest.approx(100 / 70)
    (ax,) = comparison_figures(runs, compare(runs))["speed_up"].axes
    assert len(arrows(ax)) == 1


def test_without_a_common_model_only_what_there_is_is_drawn():
    runs = {"$x_": general({"width_scale": (1, 2)}), "y": general({"momentum": (0.1, 0.2)})}
    figures = comparison_figures(runs, compare(runs))
    assert list(figures) == ["steps_to_target", "excess_loss"]
    for figure in figures.values():
        figure.canvas.draw()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    problem = linear.Problem.from_arrays(rng.standard_normal((30, 3)), rng.standard_normal((30, 1)))
    for name, rates in (("one", (0.05, 0.1)), ("two", (0.1, 0.2))):
        config = linear.SweepConfig(
            losses=(linear.Loss(2),),
            depths=(1, 2),
            learning_rates=rates,
            num_seeds=2,
            num_steps=60,
        )
        linear.run_sweep(problem, config, folder=place / name)
    return place


def test_the_program_prints_draws_and_writes(folders, tmp_path):
    result = run(
        folders / "one", folders / "two", "--figures_dir", tmp_path / "figures", "--formats",
        "svg,pdf", "--csv", tmp_path / "all.csv", "--latex", tmp_path / "all.tex", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for word in ("learning_rate", "0.05, 0.1", "0.1, 0.2", "depth 2", "times fewer steps"):
        assert word in result.stdout
    table = pd.read_csv(tmp_path / "all.csv", keep_default_na=False)
    assert table["run"].tolist() == ["one", "one", "two", "two"]
    expected = compare({n: ia.load_run(folders / n) for n in ("one", "two")})
    np.testing.assert_allclose(table["steps_to_target"].astype(float), expected["steps_to_target"])
    assert (tmp_path / "all.tex").read_text().count(r"\\") >= 5
    drawn = sorted(p.name for p in (tmp_path / "figures").iterdir())
    names = ["excess_loss", "over_first", "speed_up", "steps_to_target"]
    figures = [f"{name}.{extension}" for name in names for extension in ("pdf", "svg")]
    assert drawn == ["comparison.html", *figures]
    ElementTree.parse(tmp_path / "figures" / "speed_up.svg")


# --- the page ---

HOSTILE = "<img src=x onerror=alert(1)>&"


@pytest.fixture(scope="module")
def comparison(folders, tmp_path_factory):
    """The page of two runs, one of which has a hostile name."""
    place = tmp_path_factory.mktemp("page")
    shutil.copytree(folders / "two", place / "runs" / HOSTILE)
    result = run(
        folders / "one", place / "runs" / HOSTILE, "--formats", "pdf", "--figures_dir", place,
        cwd=place,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "comparison.html" in result.stdout
    return place / "comparison.html"


def test_the_page_has_the_tables_and_the_figures(folders, comparison):
    text = comparison.read_text()
    seen = read_page(text)
    assert seen.unbalanced == []
    assert HOSTILE in seen.text
    assert all("onerror" not in attributes for _, attributes in seen.elements)
    assert all("src" not in found or found["src"].startswith("data:") for _, found in seen.elements)
    runs = {"one": ia.load_run(folders / "one"), HOSTILE: ia.load_run(folders / "two")}
    one, two = (ia.summarise(each)["steps_to_target"][0] for each in runs.values())
    assert f"{one / two:.3g} [" in seen.text
    for words in ("learning_rate", "0.05, 0.1", "0.1, 0.2", "--formats pdf"):
        assert words in seen.text
    sizes = []
    for address in seen.pictures:
        with Image.open(io.BytesIO(b64decode(address.partition("base64,")[2]))) as drawn:
            sizes.append(drawn.size)
    assert len(sizes) == len(comparison_figures(runs, compare(runs)))
    assert min(min(size) for size in sizes) > 150
    captions = [found["alt"] for name, found in seen.elements if name == "img"]
    assert captions[2] == "Each model over the same model in one"
    assert len(text) < 2_000_000


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [param(WIDE, False), (NARROW, True)])
def test_the_page_in_a_browser(comparison, size, dark):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with visit(comparison, size=size, dark=dark) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        widths = "[...document.images].map((image) => image.naturalWidth)"
        assert min(seen.page.evaluate(widths)) > 0
        rows = seen.page.locator("table").first.locator("tbody tr")
        assert rows.count() == 4
        found = axe.Axe().run(seen.page).response["violations"]
        serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []


def test_two_folders_of_one_name_are_told_apart(folders, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "one").symlink_to(folders / "two")
    # A link is the folder that it leads to: "two".
    result = run(folders / "one", tmp_path / "x" / "one", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "two" in result.stdout


def test_long_names_that_begin_alike_are_different_runs(folders, tmp_path):
    places = [tmp_path / ("width-" * 15 + end) for end in ("4", "8", "8\x1b[2J")]
    for place, name in zip(places, ("one", "two", "two"), strict=True):
        shutil.copytree(folders / name, place)
    result = run(*places, "--csv", "all.csv", "--formats", "none", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert "width-8" in result.stdout
    table = pd.read_csv(tmp_path / "all.csv")
    assert len(table) == 6
    assert len(set(table["run"])) == 3
    expected = [ia.summarise(ia.load_run(folders / n))["steps_to_target"] for n in ("one", "two")]
    np.testing.assert_allclose(table["steps_to_target"][:4], np.concatenate(expected))
    assert str(table["run"].iloc[-1]).endswith(r"width-8\x1b[2J")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no runs: give the output folders"),
        (["one", "one"], "given twice"),
        (["one", "three"], "no such file"),
        (["one", "--formats", "gif"], "choose from png, pdf, svg"),
        (["one", "--best_by", "luck"], "best_by"),
        (["one", "--csv", "nowhere/all.csv"], "cannot be written"),
        (["one", "--figures_dir", "one/results.nc"], "cannot write figures"),
    ],
)
def test_bad_input_is_one_line(folders, arguments, words):
    result = run(*arguments, cwd=folders)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
