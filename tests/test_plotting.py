"""What the figures show, read back from matplotlib's own objects."""

import itertools
import warnings
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import xarray as xr
from marks import param
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_statistics import AXES, INF, NAN, general, made

from implicit_accel import UserError, summarise
from implicit_accel.grid_plots import plot_heatmap, plot_importance
from implicit_accel.panels import fitted
from implicit_accel.plotting import (
    plot_curves,
    plot_effects,
    plot_excess_loss,
    plot_learning_rates,
    plot_observable,
    plot_speed_up,
    plot_steps_to_target,
    save_figures,
)
from implicit_accel.statistics import explained_shares


def heights(line) -> list[float]:
    return np.asarray(line.get_ydata(), float).tolist()


def lines(ax: Axes) -> dict[str, Any]:
    return {str(line.get_label()): line for line in ax.get_lines()}


@pytest.fixture
def results():
    steps = [[[200, 210, 220], [100, 110, 120]], [[50, 60, 70], [INF, INF, INF]]]
    final = [[[0.3, 0.4, 0.5], [0.2, 0.2, 0.2]], [[0.05, 0.06, 0.07], [INF, INF, INF]]]
    diverged = [[[NAN] * 3] * 2, [[NAN] * 3, [5, 6, 7]]]
    return made(steps, final, diverged=diverged, rates=[0.01, 0.1])


def test_excess_loss_is_drawn_at_the_best_rate(results):
    figure = plot_excess_loss(results)
    (ax,) = figure.axes
    assert ax.get_xscale() == ax.get_yscale() == "log"
    drawn = lines(ax)
    assert drawn[r"depth 1, $\eta$ = 0.1"].get_ydata()[-1] == pytest.approx(0.2)
    assert drawn[r"depth 2, width 1, $\eta$ = 0.01"].get_ydata()[-1] == pytest.approx(0.06)
    assert "made" in figure.get_suptitle()


def test_a_single_run_that_shoots_up_leaves_the_panel(results):
    """All else keeps its place; what rises a little is seen whole."""
    usual = plot_excess_loss(results, best_by="target").axes[0].get_ylim()
    for spike, seen in ((1e6, False), (1.0, True)):
        changed = results.copy(deep=True)
        changed["excess_loss"].values[0, 1, 0, 1] = spike
        high = plot_excess_loss(changed, best_by="target").axes[0].get_ylim()[1]
        assert bool(high > spike) is seen
        assert high >= usual[1] or not seen
        assert high < 1e3


def test_final_loss_ends_where_runs_diverge(results):
    (ax,) = plot_learning_rates(results).axes
    drawn = lines(ax)
    np.testing.assert_allclose(drawn["depth 1"].get_xdata(), [0.01, 0.1])
    np.testing.assert_allclose(drawn["depth 2, width 1"].get_ydata(), [0.06, NAN])
    crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert [np.asarray(c.get_xdata()).tolist() for c in crosses] == [[], [0.1]]


def test_steps_are_drawn_where_reached(results):
    (ax,) = plot_steps_to_target(results).axes
    np.testing.assert_allclose(lines(ax)["depth 2, width 1"].get_ydata(), [60, NAN])


@pytest.fixture
def rates_by_rule():
    """A model whose best rate is 1 by target, 0.1 by stable and 0.01 by final; with its results."""
    steps = [[[200] * 3, [100] * 3, [50] * 3]]
    final = [[[0.01] * 3, [0.05] * 3, [INF] * 3]]
    diverged = [[[NAN] * 3, [NAN] * 3, [60] * 3]]  # after the target
    results = made(steps, final, diverged=diverged, rates=[0.01, 0.1, 1.0], depths=[1])
    return results, {"target": 1.0, "stable": 0.1, "final": 0.01}


def rings(ax: Axes) -> list[Any]:
    return [line for line in ax.get_lines() if line.get_fillstyle() == "none"]


@pytest.mark.parametrize("best_by", ["target", "stable", "final"])
@pytest.mark.parametrize("plot", [plot_learning_rates, plot_steps_to_target])
def test_figures_mark_the_rates_of_the_table(rates_by_rule, plot, best_by):
    results, expected = rates_by_rule
    assert summarise(results, best_by=best_by)["best_learning_rate"].tolist() == [expected[best_by]]
    (ax,) = plot(results, best_by=best_by).axes
    (ring,) = rings(ax)
    assert np.asarray(ring.get_xdata()).tolist() == [expected[best_by]]
    low, high = ax.get_xlim()
    assert low < expected[best_by] < high
    # The final loss at rate 1 is infinite: the mark is on the top edge.
    on_edge = plot is plot_learning_rates and best_by == "target"
    (place,) = ring.get_transform().transform(ring.get_xydata())
    assert bool(place[1] == pytest.approx(ax.bbox.y1)) is on_edge
    values = {
        plot_learning_rates: {"stable": 0.05, "final": 0.01},
        plot_steps_to_target: {"target": 50, "stable": 100, "final": 200},
    }[plot]
    if not on_edge:
        assert heights(ring) == [values[best_by]]


def test_a_mark_on_the_top_edge_leaves_the_panel_as_it_is(rates_by_rule):
    results, _ = rates_by_rule
    low, high = plot_learning_rates(results, best_by="target").axes[0].get_ylim()
    assert low < 0.01
    assert 0.05 < high < 0.1


RULES = {
    "target": "first to the target",
    "stable": "fewest steps to the target among stable runs",
    "final": "smallest final excess loss",
}


@pytest.mark.parametrize("best_by", RULES)
def test_titles_name_the_rule(rates_by_rule, observed, best_by):
    results, _ = rates_by_rule
    figures = [
        plot(results, best_by=best_by)
        for plot in (plot_excess_loss, plot_learning_rates, plot_steps_to_target, plot_speed_up)
    ]
    figures.append(plot_observable(observed, "sharpness", best_by=best_by))
    for figure in figures:
        title = " ".join(figure.get_suptitle().split())
        assert [rule for rule, words in RULES.items() if words in title] == [best_by]


@pytest.mark.parametrize("best_by", RULES)
@pytest.mark.parametrize("loss_names", [("l2",), param(("l2", "l4")), ("l2", "l3", "l4")])
def test_titles_are_no_wider_than_their_figures(best_by, loss_names):
    runs = general({"loss_name": loss_names, "depth": (1, 2), "seed": (0, 1)})
    figures = [
        plot(runs, best_by=best_by)
        for plot in (plot_excess_loss, plot_learning_rates, plot_steps_to_target)
    ]
    figures.append(plot_speed_up(runs, best_by=best_by, baseline={"depth": 1}))
    for figure in figures:
        figure.canvas.draw()
        (suptitle,) = figure.texts
        assert suptitle.get_window_extent().width <= figure.bbox.width


def test_speed_up_shows_value_and_interval(results):
    (ax,) = plot_speed_up(results).axes
    assert "1.83×" in [t.get_text() for t in ax.texts]
    spans = [np.asarray(line.get_xdata(), float) for line in ax.get_lines()]
    (ends,) = [x for x in spans if len(x) == 2 and x[0] != x[1]]
    assert ends[0] < 110 / 60 < ends[1]


@pytest.mark.parametrize(
    "worst", ["all diverged", "never reached", "one seed", "zero excess", "smallest numbers"]
)
def test_extreme_results_are_drawn_without_a_warning(tmp_path, worst):
    seeds = 1 if worst == "one seed" else 3
    steps, final = np.full((2, 2, seeds), INF), np.ones((2, 2, seeds))
    diverged = None
    if worst == "all diverged":
        final, diverged = steps, np.zeros((2, 2, seeds))
    if worst == "zero excess":
        final = np.zeros((2, 2, seeds))
    if worst == "smallest numbers":
        final = np.full((2, 2, seeds), 1e-320)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figures(made(steps, final, diverged=diverged), tmp_path, formats=("png", "svg"))
    assert len(list(tmp_path.iterdir())) == 8


def test_files_are_what_they_claim(results, tmp_path):
    paths = save_figures(results, tmp_path / "new", formats=("png", "pdf", "svg"))
    assert {p.suffix for p in paths} == {".png", ".pdf", ".svg"}
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    for path in paths:
        assert path.read_bytes().startswith(start[path.suffix])


NAMES = [
    r"<script>$1 & co_x^2 $\frac$", "$", r"\$", r"\\$x\$$", "--><script>alert(1)</script>",
    "]]><script/>", "a_b & c", "line\nbreak\r\x0b", "\x1b[31m\0\x7f", "\u202ereversed", "שלום",
    "数据", "\udcff", "\ufffe", "x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_from_data_are_shown_as_they_are(results, name):
    results.attrs["title"] = name
    text = plot_excess_loss(results).get_suptitle().rsplit("\n", 1)[1]
    assert text.isprintable()
    assert len(text) <= 160
    if name.isprintable() and len(name) < 100:
        assert text == name


@pytest.mark.parametrize("part", [NAMES[:3], NAMES[3:7], NAMES[7:]])
def test_names_from_data_are_text_not_markup(results, tmp_path, part):
    results.attrs["title"] = "".join(part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figures(results, tmp_path, formats=("svg", "pdf"))
    for path in tmp_path.glob("*.svg"):
        tags = {element.tag.split("}")[-1] for element in ElementTree.parse(path).iter()}
        assert "svg" in tags
        assert "script" not in tags


def test_names_are_no_tex_even_where_tex_is_used(results):
    with matplotlib.rc_context({"text.usetex": True}):
        (suptitle,) = plot_excess_loss(results).texts
    assert not suptitle.get_usetex()
    assert not suptitle.get_parse_math()


def test_rounding_is_not_drawn():
    results = made([[[9, 9, 9]]], [[[3e-9, -1e-9, 0]]], depths=[1])
    for figure in (plot_excess_loss(results), plot_learning_rates(results)):
        (ax,) = figure.axes
        drawn = lines(ax)
        assert drawn["below: rounding (float32)"].get_ydata()[0] == 1e-7
        (curve,) = [line for name, line in drawn.items() if name.startswith("depth 1")]
        assert np.min(curve.get_ydata()) == 1e-7
    above = made([[[9, 9, 9]]], [[[3e-6] * 3]], depths=[1])
    assert not any("rounding" in name for name in lines(plot_excess_loss(above).axes[0]))


def test_figures_of_any_axes(tmp_path):
    runs = general(AXES, observed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = [p.name for p in save_figures(runs, tmp_path, formats=("png",))]
        save_figures(general({"momentum": (0.5, 0.9)}), tmp_path, formats=("svg",))
        save_figures(general({}), tmp_path, formats=("svg",), best_by="final")
        compared = save_figures(
            runs, tmp_path, formats=("png",), best_by="final", baseline={"optimizer": "sgd"}
        )
    standard = ["excess_loss.png", "learning_rates.png", "steps_to_target.png"]
    assert names == [*standard, "sharpness.png"]
    assert [p.name for p in compared] == [*standard, "speed_up.png", "sharpness.png"]
    (ax,) = plot_learning_rates(runs).axes
    drawn = {name: line for name, line in lines(ax).items() if name.startswith("width")}
    assert list(drawn) == [
        f"width_scale {w}, {o}" for w in ("0.5", "1", "2") for o in AXES["optimizer"]
    ]
    assert len({line.get_color() for line in drawn.values()}) == 3
    for name, line in drawn.items():
        assert line.get_linestyle() == ("-" if "sgd" in name else "--")


def test_losses_have_a_panel_each_whatever_they_are_called():
    runs = general({"loss_name": ("$", "_x^{", r"\$"), "width_scale": (1.0, 2.0)})
    figure = plot_excess_loss(runs)
    assert [ax.get_title() for ax in figure.axes] == [r"\$", "x^{", r"\\$"]
    assert all(len(ax.get_legend_handles_labels()[1]) >= 2 for ax in figure.axes)
    figure.canvas.draw()


def test_what_was_chosen_by_is_what_is_drawn():
    results = made(np.full((2, 1, 3), 10), [[[0.26] * 3], [[0.1] * 3]])
    (ax,) = plot_speed_up(results, best_by="final").axes
    assert "2.6×" in [t.get_text() for t in ax.texts]
    assert ax.get_xlabel() == "final excess loss of depth 1 over the model's"


@pytest.fixture
def observed():
    runs = general({"learning_rate": (0.1, 0.2), "seed": (0, 1, 2), "width_scale": (1, 2)})
    runs["steps_to_target"] = xr.where(runs.learning_rate == 0.2, 5.0, 9.0).broadcast_like(
        runs["steps_to_target"]
    )
    runs["divergence_step"] = runs["divergence_step"] * NAN
    runs = runs.assign_coords(observation_step=[0, 25, 50, 75, 100])
    heights = np.array([[1, 2, 3, 10, 10], [1, 3, 5, 10, 10], [1, 4, 9, 300, INF]])
    heights = np.broadcast_to(heights[None, :, None], (2, 3, 2, 5))
    runs["sharpness"] = (("learning_rate", "seed", "width_scale", "observation_step"), heights)
    runs["divergence_step"][:, 2, 1] = 60
    return runs


def test_an_observable_is_drawn_to_the_step_of_divergence(observed):
    figure = plot_observable(
        observed,
        "sharpness",
        reference=lambda runs: 2 / float(runs["learning_rate"]),
        reference_label=r"$2/\eta$",
    )
    (ax,) = figure.axes
    drawn = lines(ax)
    for width in (1, 2):
        line = drawn[rf"width_scale {width}, $\eta$ = 0.2"]
        np.testing.assert_array_equal(line.get_ydata(), [1, 3, 5, 10, 10])
    assert r"$2/\eta$" in drawn
    assert [heights(line) for line in ax.get_lines()].count(
        [10, 10]
    ) == 2  # 2 / 0.2, once per model
    (cross,) = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert (np.asarray(cross.get_xdata()).tolist(), heights(cross)) == ([50], [9])
    thin = [line for line in ax.get_lines() if line.get_linewidth() == 0.5]
    assert len(thin) == 6
    assert ax.get_yscale() == "log"  # one run of width 1 rises to 300
    assert ax.get_xscale() == "linear"
    with pytest.raises(UserError, match="'flatness' was not recorded: there are loss, excess_loss"):
        plot_observable(observed, "flatness")


def test_many_seeds_are_a_band():
    runs = general({"seed": tuple(range(9))}, observed=True)
    (ax,) = plot_observable(runs, "sharpness").axes
    assert len(ax.collections) == 1
    assert not [line for line in ax.get_lines() if line.get_linewidth() == 0.5]
    (ax,) = plot_observable(made([[[5, 6]]], [[[0.1, 0.1]]], depths=[1]), "loss").axes
    assert "depth 1, $\\eta$ = 1" in lines(ax)


@pytest.mark.parametrize(("size", "width", "rows"), [("column", 3.4, 4), ("page", 6.8, 2)])
def test_figures_fit_a_paper(size, width, rows):
    """Every panel is inside, none over another, and nothing is written above them."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).ravel()
    for number, ax in enumerate(axes):
        ax.plot([1, 2], [1, 3], label=f"line {number}")
        ax.set(xlabel="step", ylabel="loss", title=f"panel {number}", xscale="log")
        ax.legend()
        ax.set_visible(number < 4)
    figure.suptitle("A title that is long enough for two lines of a narrow figure")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fitted(figure, size)
        found.canvas.draw()
    assert found.get_size_inches()[0] == width
    boxes = [ax.get_position() for ax in found.axes]
    assert len(boxes) == 4
    assert len({round(box.y0, 3) for box in boxes}) == rows
    for a, b in itertools.combinations(boxes, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    assert found.get_suptitle() == ""
    for ax in found.axes:
        box: Any = ax.get_tightbbox()
        assert box.x1 <= found.bbox.x1 + 1
        assert float(ax.title.get_fontsize()) <= 8
    assert fitted(figure, "screen") is figure
    with pytest.raises(UserError, match="choose from screen, page, column"):
        fitted(figure, "poster")


MOMENTA = {
    "learning_rate": (0.1, 1.0), "seed": (0, 1, 2), "momentum": (0.9, 0.5), "optimizer": ("a", "b"),
}  # fmt: skip

EFFECTS: Any = {
    "depth 2": [SimpleNamespace(name="a", value=2.0, low=1.0, high=3.0, note="")] * 2,
    "depth 3": [SimpleNamespace(name="b", value=NAN, low=NAN, high=NAN, note="none")] * 2,
}
CURVES = {"one": {"line": (np.arange(1, 9), np.full((3, 8), 0.5))}}

# Every function, with what it draws in one panel.
PLOTS = {
    "excess loss": lambda **o: plot_excess_loss(general(MOMENTA), **o),
    "learning rates": lambda **o: plot_learning_rates(general(MOMENTA), **o),
    "steps": lambda **o: plot_steps_to_target(general(MOMENTA), x="momentum", **o),
    "speed-up": lambda **o: plot_speed_up(general(MOMENTA), baseline={"momentum": 0.5}, **o),
    "observable": lambda **o: plot_observable(general(MOMENTA, observed=True), "sharpness", **o),
    "heat map": lambda **o: plot_heatmap(
        general({n: v for n, v in MOMENTA.items() if n != "optimizer"}),
        x="learning_rate", y="momentum", **o,
    ),
    "importance": lambda **o: plot_importance(general(MOMENTA), **o),
    "effects": lambda **o: plot_effects(EFFECTS, xlabel="x", **o),
    "curves": lambda **o: plot_curves(CURVES, xlabel="x", ylabel="y", **o),
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_figures_are_drawn_into_an_axes_of_a_users(name):
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic("AB")
    assert PLOTS[name](ax=axes["B"], title="my words") is axes["B"]
    assert axes["B"].get_title() == "my words"
    assert axes["B"].has_data()
    assert not axes["A"].has_data()
    assert figure.get_suptitle() == ""
    figure.canvas.draw()
    with pytest.raises(UserError, match="size is of a new figure"):
        PLOTS[name](ax=axes["A"], size="column")
    with pytest.raises(UserError, match="ax is a Figure: give an Axes"):
        PLOTS[name](ax=figure)


@pytest.mark.parametrize("size", ["page", "column"])
@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_fits_a_paper(name, size):
    figure = PLOTS[name](size=size)
    assert figure.get_suptitle() == ""
    width = {"page": 6.8, "column": 3.4}[size]
    assert figure.get_size_inches()[0] == width
    figure.canvas.draw()  # warnings are errors: of a layout that is not applied, too
    for ax in figure.axes:
        assert ax.get_window_extent().width > 0.4 * figure.dpi * 3.4


@pytest.mark.parametrize("name", ["excess loss", "effects"])
def test_a_figure_has_the_size_and_title_asked_for(name):
    assert PLOTS[name](size=(5.0, 3.0)).get_size_inches().tolist() == [5.0, 3.0]
    assert PLOTS[name](title="$x^2$").get_suptitle() == "$x^2$"
    assert PLOTS[name](title="words", size="column").get_suptitle() == "words"
    assert PLOTS[name](title=None).get_suptitle() == PLOTS[name](title=False).get_suptitle() == ""


@pytest.mark.parametrize("size", [(1, 2, 3), (0.1, 3), ("a", 3), (NAN, 3), (3, 1e6), "poster", 7])
def test_sizes_that_no_figure_has_are_refused(size):
    with pytest.raises(UserError, match="screen, page, column"):
        plot_excess_loss(general(MOMENTA), size=size)


def test_results_of_several_panels_do_not_fit_an_axes():
    runs = general({"loss_name": ("l2", "l4"), "seed": (0, 1)})
    with pytest.raises(UserError, match=r"2 panels \('l2', 'l4'\), ax is one"):
        plot_excess_loss(runs, ax=Figure().subplots())
    # What decides the colour, or lies along the axis, has no panels.
    (ax,) = plot_excess_loss(runs, hue="loss_name").axes
    assert len(ax.get_legend_handles_labels()[0]) >= 2
    assert len(plot_steps_to_target(runs, x="loss_name").axes) == 1


@pytest.mark.parametrize("hue", ["momentum", "optimizer"])
def test_hue_decides_the_colour(hue):
    (ax,) = plot_learning_rates(general(MOMENTA), hue=hue).axes
    colours = {}
    for name, line in lines(ax).items():
        for value in ("momentum 0.5", "momentum 0.9") if hue == "momentum" else ("a", "b"):
            if value in name.split(", "):
                colours.setdefault(value, set()).add(line.get_color())
    assert [len(own) for own in colours.values()] == [1, 1]
    assert len(set.union(*colours.values())) == 2
    with pytest.raises(UserError, match="hue 'depth': choose from momentum, optimizer"):
        plot_learning_rates(general(MOMENTA), hue="depth")


def test_more_values_than_colours_have_shades():
    runs = general({"width_scale": tuple(range(1, 13)), "seed": (0, 1)})
    (ax,) = plot_excess_loss(runs, hue="width_scale").axes
    named = [line for name, line in lines(ax).items() if name.startswith("width")]
    assert len({to_hex(line.get_color()) for line in named}) == 12


@pytest.mark.parametrize(
    ("plot", "value"), [(plot_steps_to_target, "steps"), (plot_learning_rates, "final")]
)
def test_values_over_any_axis_are_those_of_the_table(plot, value):
    """Against another axis than the learning rate, each model is at its best one."""
    runs = general(MOMENTA, seed=3)
    table = summarise(runs, best_by="final")
    (ax,) = plot(runs, x="momentum", best_by="final").axes
    assert ax.get_xlabel() == "momentum"
    column = {"steps": "steps_to_target", "final": "final_excess"}[value]
    for optimizer in ("a", "b"):
        own: Any = table[table["optimizer"] == optimizer]
        own = own.sort_values("momentum")
        drawn = next(line for n, line in lines(ax).items() if n.split(":")[0] == optimizer)
        assert np.asarray(drawn.get_xdata()).tolist() == [0.5, 0.9]
        expected = own[column].replace(INF, NAN)
        np.testing.assert_allclose(np.asarray(drawn.get_ydata(), float), expected)
    with pytest.raises(UserError, match="x 'seed': choose from learning_rate, momentum"):
        plot(runs, x="seed")


def test_one_layer_is_on_the_lines_of_all_widths():
    steps = np.arange(1.0, 6).reshape(5, 1, 1).repeat(3, axis=2) * 10
    runs = made(steps, np.full((5, 1, 3), 0.05), depths=(1, 2, 2, 3, 3))
    runs["hidden_widths"] = ("model", ["-", "4", "8", "4x4", "8x8"])
    (ax,) = plot_steps_to_target(runs, x="depth").axes
    drawn = {name: heights(line) for name, line in lines(ax).items() if name.startswith("width")}
    assert drawn == {"width 4": [10, 20, 40], "width 8": [10, 30, 50]}


def test_an_oscillating_median_is_drawn_as_its_running_median():
    steps = np.unique(np.geomspace(1, 1e4, 300).astype(int))
    runs = general({"seed": (0, 1, 2)}).isel(step=[0] * len(steps)).assign_coords(step=steps)
    noisy = np.where(np.arange(len(steps)) % 2, 0.9, 0.1)
    for curve, shown in ((noisy, "running median"), (1 / np.sqrt(steps), "depth")):
        runs["excess_loss"] = (("seed", "step"), np.tile(curve, (3, 1)))
        runs["divergence_step"] = runs["divergence_step"] * NAN
        (ax,) = plot_excess_loss(runs).axes
        (line,) = [own for n, own in lines(ax).items() if "target" not in n and n[0] != "_"]
        name = str(line.get_label())
        assert ("running median" in name) is (shown == "running median")
        late = steps > 1000  # where windows hold several records
        if shown == "running median":
            window = [
                np.median(curve[np.abs(np.log10(steps / step)) <= 0.05]) for step in steps[late]
            ]
            np.testing.assert_allclose(np.asarray(line.get_ydata())[late], window)
        else:
            np.testing.assert_allclose(line.get_ydata(), curve)


def test_marks_are_explained_beside_the_lines(results):
    ax: Any = plot_steps_to_target(results, ax=Figure().subplots())
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["depth 1", "depth 2, width 1", "best rate", "unstable"]
    figure = plot_steps_to_target(results)
    (ax,) = figure.axes
    figure.canvas.draw()
    # Below the panel, the legend hides no line.
    assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0 + 1


def heat(ax: Axes) -> np.ndarray:
    mesh: Any = ax.collections[-1]
    return np.asarray(mesh.get_array().filled(NAN))


def test_cells_of_a_heat_map_are_medians():
    runs = general({**MOMENTA, "optimizer": ("a",)}, seed=5)
    steps = runs["steps_to_target"].values[..., 0]  # (learning_rate, seed, momentum)
    (ax,) = plot_heatmap(runs, x="learning_rate", y="momentum", best_by="target").axes
    middle = np.median(steps, axis=1).T[::-1]  # momentum ascends: 0.5, 0.9
    np.testing.assert_allclose(heat(ax), np.where(np.isfinite(middle), middle, NAN))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0.5", "0.9"]
    marked = sum(len(np.asarray(line.get_xdata())) for line in ax.get_lines())
    assert marked == np.isinf(middle).sum()
    (ax,) = plot_heatmap(runs, x="momentum", y="learning_rate", value="final_excess").axes
    final = np.median(runs["excess_loss"].values[..., 0, -1], axis=1)[:, ::-1]
    np.testing.assert_allclose(heat(ax), np.where(np.isfinite(final), final, NAN))


def test_cells_without_a_rate_axis_are_at_the_best_rates(results):
    (ax,) = plot_heatmap(results, x="depth", y="loss_name").axes
    np.testing.assert_allclose(heat(ax), [[110, 60]])


def test_a_heat_map_marks_what_has_no_number(results):
    ax: Any
    (ax,) = plot_heatmap(results, x="learning_rate", y="depth", best_by="target").axes
    np.testing.assert_allclose(heat(ax), [[210, 110], [60, NAN]])
    (cross,) = [line for line in ax.get_lines() if len(np.asarray(line.get_xdata()))]
    assert (cross.get_marker(), cross.get_xydata().tolist()) == ("x", [[1.5, 1.5]])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["half of the runs diverge before the target"]
    draw: Any = plot_heatmap
    for wrong in ({"x": "seed"}, {"y": "learning_rate"}, {"value": "speed"}):
        with pytest.raises(UserError):
            draw(results, **{"x": "learning_rate", "y": "depth", **wrong})


def test_other_axes_have_panels_with_one_scale():
    runs = general(MOMENTA)
    figure = plot_heatmap(runs, x="learning_rate", y="momentum")
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    limits = {(m.norm.vmin, m.norm.vmax) for ax in figure.axes for m in ax.collections[-1:]}
    assert len(limits) == 1
    many = general({**MOMENTA, "width_scale": tuple(range(1, 8))})
    with pytest.raises(UserError, match="14 panels, 12 at most"):
        plot_heatmap(many, x="learning_rate", y="momentum")


def planted(effects: dict[str, tuple[float, ...]], interaction: float = 0.0) -> xr.Dataset:
    """Runs whose log steps are sums of their axes' effects."""
    runs = general({name: tuple(range(1, len(own) + 1)) for name, own in effects.items()})
    grids = np.meshgrid(*effects.values(), indexing="ij")
    logs = 2 + sum(grids) + interaction * grids[0] * grids[1]
    runs["steps_to_target"] = (tuple(effects), np.exp(logs))
    runs["divergence_step"] = runs["divergence_step"] * NAN
    return runs


def test_importance_of_an_additive_grid_is_each_effects_variance():
    effects = {"learning_rate": (-1.0, 0.0, 1.0), "width_scale": (0.0, 0.5), "seed": (0.0, 0.1)}
    shares: Any = explained_shares(planted(effects), best_by="target")
    whole = sum(np.var(own) for own in effects.values())
    for name, own in effects.items():
        assert shares[name] == pytest.approx(np.var(own) / whole)
    assert shares["interactions"] == pytest.approx(0, abs=1e-12)
    assert shares.attrs == {"num_missed": 0, "num_runs": 12}
    (ax,) = plot_importance(planted(effects), best_by="target").axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["learning rate", "width scale", "seed", "interactions"]
    widths = [bar.get_width() for bar in ax.patches]  # pyright: ignore[reportAttributeAccessIssue]
    named = ("learning_rate", "width_scale", "seed")
    expected = [float(100 * np.var(effects[n]) / whole) for n in named]
    np.testing.assert_allclose(widths, [*expected, 0], atol=1e-9)


def test_importance_of_a_pure_interaction_is_no_axis():
    effects = {"learning_rate": (-1.0, 1.0), "width_scale": (-1.0, 1.0)}
    runs = planted(effects)
    runs["steps_to_target"] = runs["steps_to_target"].dims, np.exp([[3.0, 1.0], [1.0, 3.0]])
    shares = explained_shares(runs, best_by="target")
    assert shares.to_dict() == pytest.approx(
        {"width_scale": 0, "learning_rate": 0, "interactions": 1}
    )


def test_importance_needs_a_full_grid_and_differences():
    runs = planted({"learning_rate": (0.0, 1.0), "width_scale": (0.0, 1.0)})
    hole = runs.copy(deep=True)
    hole["excess_loss"][0, 0] = NAN
    with pytest.raises(UserError, match="full grid"):
        plot_importance(hole)
    runs["steps_to_target"][:] = INF
    with pytest.raises(UserError, match="equally many steps"):
        plot_importance(runs)
    with pytest.raises(UserError, match="no axis has several values"):
        plot_importance(general({}))
