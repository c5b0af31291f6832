"""The page of a sweep in a real browser: what moves, what it says, and that it says what is so."""

import csv
import io
import re
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr
from browser import NARROW, WIDE, needs_browser, visit
from marks import param
from test_explorer import BURST, decaying

from implicit_accel import summarise
from implicit_accel.experiments.sweep_page import command_of, with_flag, write_page
from implicit_accel.pages.explorer import Published, assets, explorer, payload
from implicit_accel.pages.shell import document
from implicit_accel.statistics import BEST_BY_WORDS
from implicit_accel.summary import answers

pytestmark = needs_browser

# What the page calls the rules, and the rate that each finds best in `two_losses`.
RULES = {
    "stable": ("stable", 0.05), "target": ("first to the target", 0.1),
    "final": ("final loss", 0.02),
}  # fmt: skip

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """As anybody may read them: from the file."""
    path = tmp_path_factory.mktemp("run") / "results.nc"
    decaying().to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        return stored.load()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    command = ["python -m experiments.sweep", "--csv_path=my file.csv"]
    write_page(results, path, command=command, figures=[], best_by="stable")
    return path


def two_losses() -> xr.Dataset:
    """Two losses with depths 1 and 2, whose best learning rate depends on the rule.

    Rate 0.1 is first at the target, and above it again at the end; 0.05 is the first of the others;
    0.02 ends lower. 0.3 diverges.
    """
    both = []
    for name, shift in (("l2", 1.0), ("l4", 3.0)):
        runs = decaying(depths=(1, 2), rates=(0.005, 0.02, 0.05, 0.1, 0.3), seeds=3)
        runs["excess_loss"].values[:, :3, :, -1] = np.array([1e-2, 1e-4, 1e-3])[:, None]
        runs["excess_loss"].values[:, 3, :, -1] = 0.5
        runs["excess_loss"].values[:] **= 1 / shift
        runs["excess_loss"].values[:, 4, :, 4:] = np.inf
        target = 0.1 ** (1 / shift)
        both.append(
            runs.assign(target=("model", [target] * 2), zero_loss=("model", [1 + 10 * target] * 2))
            .assign_coords(loss_name=("model", [name] * 2))
        )  # fmt: skip
    found = xr.concat(
        both, "model", data_vars="minimal", coords="minimal", combine_attrs="override"
    )
    norm = np.linspace(0.1, 1.0, found.sizes["step"])
    shape = [found.sizes[d] for d in ("model", "learning_rate", "seed")]
    return found.assign(
        end_to_end_norm=(
            ("model", "learning_rate", "seed", "observation_step"),
            np.broadcast_to(norm, (*shape, len(norm))),
        )
    ).assign_coords(observation_step=found["step"].values)  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A page of `two_losses`, without the norm, and one with it."""
    folder = tmp_path_factory.mktemp("both")
    recorded = two_losses()
    plain = recorded.drop_vars(["end_to_end_norm", "observation_step"])
    for name, results in (("plain", plain), ("recorded", recorded)):
        write_page(
            results, folder / f"{name}.html", command=["python -m experiments.sweep"], figures=[],
            best_by="stable",
        )  # fmt: skip
    return folder


@contextmanager
def opened(path, **how):
    """A page whose charts are drawn."""
    with visit(path, **how) as seen:
        seen.page.wait_for_selector(".chart svg .mark-line path", state="attached")
        seen.page.wait_for_function("document.querySelectorAll('.explorer .said li').length > 0")
        yield seen


def lines(seen, chart: int = 0) -> list[str]:
    """The paths drawn in a chart."""
    paths = seen.page.locator(".chart").nth(chart).locator("svg .mark-line path")
    return [p.get_attribute("d") or "" for p in paths.all()]


def cells(seen) -> dict[str, list[str]]:
    """The explorer's table: the curve's name and its row."""
    rows = seen.page.locator(".explorer .charts ~ .scroll tbody tr").all()
    return {
        r.locator("th").inner_text().strip(): [c.inner_text() for c in r.locator("td").all()]
        for r in rows
    }


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text.replace(",", ""))]


def slide(seen, name: str, value: int) -> None:
    seen.page.get_by_label(name, exact=True).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value
    )


def download(seen) -> list[dict[str, str]]:
    with seen.page.expect_download() as begun:
        seen.page.get_by_role("button", name="Download").click()
    text = begun.value.path().read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("size", [param(WIDE), NARROW])
def test_numbers_are_the_results_own(page, results, size):
    table = summarise(results)
    with opened(page, size=size) as seen:
        shown = cells(seen)
        assert list(shown) == ["depth 1", "depth 2", "depth 3"]
        for m, (rate, steps, ratio, final, diverged) in enumerate(shown.values()):
            row = table.iloc[m]
            assert numbers(rate) == [row["best_learning_rate"]]
            names = ("", "_q25", "_q75")
            assert numbers(steps) == [row[f"steps_to_target{n}"] for n in names]
            assert numbers(final) == pytest.approx([row[f"final_excess{n}"] for n in names], 5e-3)
            assert diverged == "0 of 7"
            if m:
                ends = [row[f"speed_up{n}"] for n in ("", "_low", "_high")]
                assert numbers(ratio) == [float(f"{v:.3g}") for v in ends]
        said = seen.page.locator(".said").inner_text()
        row = table.iloc[1]
        ends = [1 / row[f"speed_up{n}"] for n in ("", "_high", "_low")]
        words = "Depth 2 needs {:.3g}× the steps of depth 1 [{:.3g}, {:.3g}]".format(*ends)
        assert words.lower() in said.lower()
        # Nothing is wider than the window.
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_a_slider_moves_the_curves_and_the_numbers(page, results):
    with opened(page) as seen:
        at_best = lines(seen)
        slide(seen, "Learning rate η", 0)
        assert lines(seen) != at_best
        steps = np.median(results["steps_to_target"].values[:, 0], axis=-1)
        shown = cells(seen)
        assert [numbers(row[0])[0] for row in shown.values()] == [0.01] * 3
        for row, expected in zip(shown.values(), steps, strict=True):
            assert row[1] == "never" if np.isinf(expected) else numbers(row[1])[0] == expected
        # At the last rate runs diverge: marked where the line ends, counted, and said.
        slide(seen, "Learning rate η", 4)
        assert [row[-1] for row in cells(seen).values()] == ["7 of 7"] * 3
        assert "7 of 7 runs diverge" in seen.page.locator(".said").inner_text()
        marks = seen.page.locator(".chart").first.locator("svg .mark-symbol path")
        assert marks.count() == 3
        seen.page.get_by_role("button", name="best rates").click()
        assert lines(seen) == at_best


def test_keys_move_a_slider_and_read_a_chart(page, results):
    with opened(page) as seen:
        slider = seen.page.get_by_label("Target excess loss ε", exact=True)
        before = slider.input_value()
        slider.focus()
        seen.page.keyboard.press("ArrowRight")
        assert int(slider.input_value()) == int(before) + 1
        said = seen.page.locator(".said").inner_text()
        assert "excess loss of 0.1 " not in said
        assert slider.get_attribute("aria-valuetext") in said
        chart = seen.page.locator(".chart").first
        chart.focus()
        seen.page.keyboard.press("ArrowLeft")
        tip = seen.page.locator(".tip").first.inner_text()
        assert tip.startswith("step 400")
        final = np.median(results["excess_loss"].values[0, 3, :, -1].clip(1e-7))
        assert numbers(tip.split("depth 1: ")[1])[0] == pytest.approx(final, rel=6e-3)
        seen.page.keyboard.press("Escape")
        assert seen.page.locator(".tip").first.is_hidden()


def test_the_target_can_be_dragged(page):
    with opened(page) as seen:
        seen.page.locator(".chart svg").first.scroll_into_view_if_needed()
        box = seen.page.locator(".chart svg").first.bounding_box()
        rule = seen.page.locator(".chart").first.locator("svg .mark-rule.role-mark line").first
        at = rule.bounding_box()
        x, y = at["x"] + 40, at["y"] + at["height"] / 2
        before = seen.page.get_by_label("Target excess loss ε", exact=True).input_value()
        seen.page.mouse.move(x, y)
        seen.page.mouse.down()
        seen.page.mouse.move(x, y - box["height"] / 5, steps=5)
        seen.page.mouse.up()
        after = seen.page.get_by_label("Target excess loss ε", exact=True).input_value()
        assert int(after) < int(before)  # upwards is easier


def test_the_pointer_reads_the_place_it_is_over(page, results):
    """Over the tick of step 100 it reads the recorded step nearest to 100."""
    with opened(page) as seen:
        chart = seen.page.locator(".chart").first
        chart.locator("svg").scroll_into_view_if_needed()
        tick = chart.locator("svg .role-axis-label text", has_text=re.compile("^100$")).first
        at, box = tick.bounding_box(), chart.locator("svg").bounding_box()
        seen.page.mouse.move(at["x"] + at["width"] / 2, box["y"] + box["height"] / 2)
        tip = seen.page.locator(".tip").first
        step = results["step"].values
        near = step[np.abs(np.log(np.maximum(step, 0.1) / 100)) < 0.03]
        assert numbers(tip.inner_text())[0] in near
        beside = tip.bounding_box()
        assert (
            beside["x"] + beside["width"] < at["x"] + at["width"] / 2
        )  # not over what it tells of
        assert beside["x"] + beside["width"] > at["x"] - 30


def test_a_state_has_a_link(page):
    with opened(page) as seen:
        slide(seen, "Learning rate η", 1)
        slide(seen, "Target excess loss ε", 5)
        seen.page.get_by_role("checkbox", name="depth 3").uncheck()
        second = seen.page.get_by_label("Second chart", exact=True)
        second.select_option("speed-up against the target")
        seen.page.get_by_role("checkbox", name="linear steps").check()
        seen.page.wait_for_function("location.hash.includes('linear_step=1')")
        address = seen.page.evaluate("location.hash")
        drawn, second, shown = lines(seen), lines(seen, 1), cells(seen)
    with opened(page, fragment=address[1:]) as seen:
        seen.page.wait_for_function("document.querySelectorAll('.charts ~ .scroll tr').length == 3")
        assert lines(seen) == drawn
        assert lines(seen, 1) == second
        assert cells(seen) == shown
        assert not seen.page.get_by_role("checkbox", name="depth 3").is_checked()
        assert seen.page.get_by_role("checkbox", name="linear steps").is_checked()
        # An address of another state, while the page is open.
        seen.page.evaluate("location.hash = '#sweep&lr=0.05&off=nobody|depth 1&target=x&view=_'")
        seen.page.wait_for_function("!document.querySelector('.said').innerText.includes('0.02')")
        assert list(cells(seen)) == ["depth 2", "depth 3"]


def test_the_csv_is_what_is_drawn(page, results):
    with opened(page) as seen:
        slide(seen, "Learning rate η", 2)
        rows = download(seen)
        drawn = [r for r in rows if r["chart"] == "excess_loss against step"]
        assert {r["curve"] for r in drawn} == {"depth 1", "depth 2", "depth 3"}
        for m in range(3):
            own = [r for r in drawn if r["curve"] == f"depth {m + 1}"]
            assert {r["learning_rate"] for r in own} == {"0.05"}
            assert [int(r["x"]) for r in own] == results["step"].values.tolist()
            middle = np.median(results["excess_loss"].values[m, 2], axis=0).clip(1e-7)
            np.testing.assert_allclose([float(r["y"]) for r in own], middle, rtol=4e-3)
        (burst,) = [r for r in drawn if r["x"] == str(BURST) and r["curve"] == "depth 1"]
        assert float(burst["y"]) == pytest.approx(40, rel=4e-3)
        other = [r for r in rows if r["chart"].startswith("steps to target")]
        steps = np.median(results["steps_to_target"].values, axis=2)
        assert len(other) == np.isfinite(steps).sum()
        for r in other:
            m, rate = int(r["curve"][-1]) - 1, float(r["x"])
            assert float(r["y"]) == steps[m, results["learning_rate"].values.tolist().index(rate)]


def test_predicting_first_tells_nothing(page):
    with opened(page) as seen:
        assert seen.page.locator("p.answer").first.is_visible()
        seen.page.get_by_role("checkbox", name="predict first").check()
        assert list(cells(seen)) == ["depth 1"]
        assert seen.page.locator("p.answer").first.is_hidden()
        assert "depth 2" not in seen.page.locator(".said").inner_text()
        assert len(lines(seen)) == 1
        # In the answers' place it says what is kept back, and how a prediction is had.
        card = seen.page.locator(".explorer > .card")
        assert "depth 2, depth 3" in card.inner_text()
        assert "--predict" in card.locator("code").inner_text()
        assert seen.page.locator("h2", has_text="Numbers").is_hidden()
        seen.page.get_by_role("button", name="Show the others").click()
        assert list(cells(seen)) == ["depth 1", "depth 2", "depth 3"]
        assert seen.page.locator("p.answer").first.is_visible()


def test_single_seeds_published_curves_and_theory(results, tmp_path):
    def predicted(m, rate, steps):
        return np.exp(-rate * steps) / (m + 1)

    found = payload(
        results, predicted=predicted, published=[Published(EVIL, [1, 10, 100], [0.9, 0.5, 0.1])]
    )
    path = tmp_path / "page.html"
    parts = explorer("a", {"one": found, EVIL: found}, command="make it")
    path.write_text(document(EVIL, parts, assets=assets()), encoding="utf-8")
    with opened(path) as seen:
        kinds = [r["line"] for r in download(seen)]
        assert {"median", "predicted", "published"} == set(kinds)
        assert len(lines(seen)) == 7  # three models, measured and predicted, and the published one
        seen.page.get_by_role("checkbox", name="theory").uncheck()
        seen.page.get_by_role("checkbox", name="published curves").uncheck()
        seen.page.get_by_role("checkbox", name="single seeds").check()
        assert len(lines(seen)) == 3 + 3 * 7
        seen.page.get_by_label("Results", exact=True).select_option(EVIL)
        seen.page.wait_for_function("location.hash.includes('of=')")
        # What comes from data is text everywhere.
        assert seen.page.locator("img").count() == 0
        assert seen.page.locator(".chart svg text", has_text="<img").count() == 1
        seen.page.locator(".chart").first.focus()
        seen.page.keyboard.press("ArrowLeft")
        assert seen.page.locator(".tip").first.is_visible()


def test_charts_say_what_they_show(page):
    with opened(page) as seen:
        drawing = seen.page.locator(".chart [role=graphics-document]").first
        words = drawing.get_attribute("aria-label") or ""
        assert "depth 1 goes from 1 to" in words
        assert "To reach an excess loss of 0.1" in words
        slide(seen, "Learning rate η", 4)
        later = drawing.get_attribute("aria-label") or ""
        assert "where it diverges" in later


def test_the_command_can_be_copied(page):
    with opened(page) as seen:
        code = seen.page.locator(".command code").inner_text()
        assert code == "python -m experiments.sweep '--csv_path=my file.csv'"
        seen.page.get_by_role("button", name="Copy the command").click()
        seen.page.wait_for_function(
            "[...document.querySelectorAll('[role=status]')].some(e => e.textContent == "
            "'command copied')"
        )


def test_print_shows_what_is_folded(page):
    with opened(page) as seen:
        assert seen.page.locator("details dl").is_hidden()
        seen.page.emulate_media(media="print")
        seen.page.wait_for_function("document.querySelector('details').open")
        assert seen.page.locator("details dl").is_visible()
        assert seen.page.locator(".explorer .panel").is_hidden()
        assert seen.page.locator(".chart svg").first.is_visible()


def test_without_javascript_there_is_the_table(page, results):
    with visit(page, javascript=False) as seen:
        text = seen.page.locator("body").inner_text()
        assert "takes JavaScript" in text
        for label in ("depth 1", "depth 2", "depth 3"):
            assert seen.page.get_by_role("row", name=re.compile(f"^{label}")).count() == 1
        assert "python -m experiments.sweep" in text
    part = explorer("a", {"one": payload(results)})
    assert part.split("<noscript>")[1].count("<tr>") == 4


@pytest.mark.parametrize(
    ("dark", "fragment"),
    [
        (False, ""), (True, ""), (False, "present=1"), (False, "beside=l2&view=reason&predict=1"),
        param(True, "present=2&rule=final"), param(True, "beside=l2&view=reason&predict=1"),
    ],
)  # fmt: skip
def test_axe_finds_nothing_serious(both, dark, fragment):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(both / "plain.html", dark=dark, fragment=f"sweep&loss=l4&{fragment}") as seen:
        found = axe.Axe().run(seen.page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in serious] == []


def test_a_switch_chooses_the_rule(both):
    results = two_losses()
    drawn: list[str] = []
    with opened(both / "plain.html", fragment="sweep&loss=l4") as seen:
        for rule, (words, expected) in RULES.items():
            seen.page.get_by_role("radio", name=words, exact=True).check(force=True)
            table = summarise(results, best_by=rule)
            of_l4 = table[table["loss_name"] == "l4"]
            assert of_l4["best_learning_rate"].tolist() == [expected] * 2
            shown = cells(seen)
            assert [numbers(row[0]) for row in shown.values()] == [[expected]] * 2
            steps = [numbers(row[1])[0] for row in shown.values()]
            assert steps == of_l4["steps_to_target"].tolist()
            # Whatever names a rule names this one, and no other.
            titles = seen.page.locator("figcaption").all_inner_texts()
            captions = seen.page.locator("caption:visible").all_inner_texts()
            assert len(titles) == 2
            assert len(captions) == 1
            for text in (*titles, *captions):
                assert [r for r, w in BEST_BY_WORDS.items() if w in text] == [rule]
            said = seen.page.locator("p.answer:visible").all_inner_texts()
            assert said == answers(table)
            command = seen.page.locator(".tools code").inner_text()
            assert command.endswith("sweep" if rule == "stable" else f" --best_by={rule}")
            drawn = lines(seen)
        seen.page.wait_for_function("location.hash.includes('rule=final')")
        address = seen.page.evaluate("location.hash")
    with opened(both / "plain.html", fragment=address[1:]) as seen:
        assert seen.page.get_by_role("radio", name="final loss").is_checked()
        assert lines(seen) == drawn
        # The arrow keys switch it, too.
        seen.page.get_by_role("radio", name="final loss").focus()
        seen.page.keyboard.press("ArrowLeft")
        assert [numbers(row[0]) for row in cells(seen).values()] == [[0.1]] * 2


def figures(seen) -> list[dict[str, float]]:
    """Where the visible charts are."""
    boxes = [f.bounding_box() for f in seen.page.locator(".charts figure").all()]
    return [box for box in boxes if box is not None]


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_two_losses_stand_side_by_side(both, size):
    page = both / "plain.html"
    alone = {}
    for loss in ("l2", "l4"):
        with opened(page, size=size, fragment=f"sweep&loss={loss}") as seen:
            alone[loss] = lines(seen)
    with opened(page, size=size, fragment="sweep&loss=l4") as seen:
        seen.page.get_by_label("side by side with", exact=True).select_option("l2")
        seen.page.wait_for_function("document.querySelectorAll('.chart svg').length == 4")
        assert [lines(seen, 0), lines(seen, 1)] == [alone["l4"], alone["l2"]]
        one, two, *_ = figures(seen)
        if size == WIDE:
            assert one["y"] == two["y"]
            assert one["x"] + one["width"] <= two["x"]
        else:
            assert one["x"] == two["x"]
            assert one["y"] + one["height"] <= two["y"]
        axes = [
            chart.locator(".role-axis").filter(has_text=re.compile("step$")).all_text_contents()
            for chart in seen.page.locator(".chart").all()[:2]
        ]
        assert axes[0] == axes[1] != []
        names = [f"{loss}: depth {depth}" for loss in ("l4", "l2") for depth in (1, 2)]
        assert list(cells(seen)) == names
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        seen.page.get_by_label("Loss", exact=True).select_option("l2")  # they change places
        assert [lines(seen, 0), lines(seen, 1)] == [alone["l2"], alone["l4"]]
        seen.page.wait_for_function("location.hash.includes('beside=l4')")


def drawn_width(seen) -> float:
    """How far the first chart's curves reach, in pixels."""
    return seen.page.evaluate(
        "Math.max(0, ...[...document.querySelector('.chart').querySelectorAll('.mark-line path')]"
        ".map((path) => path.getBBox().width))"
    )


def test_playing_ends_at_the_picture_from_before(page):
    button = re.compile("Play|Pause|Go on")
    with opened(page) as seen:
        drawing = seen.page.locator(".chart svg").first
        whole = drawing.inner_html()
        widest = drawn_width(seen)
        seen.page.get_by_role("button", name=button).focus()
        seen.page.keyboard.press("Space")
        seen.page.wait_for_function("document.querySelector('.bar').innerText.includes('Pause')")
        seen.page.keyboard.press("Space")
        part = drawing.inner_html()
        # The curves end before the axis does.
        assert drawn_width(seen) < 0.9 * widest
        seen.page.wait_for_timeout(150)
        assert drawing.inner_html() == part  # paused
        # Without motion, each press draws a piece.
        seen.page.emulate_media(reduced_motion="reduce")
        pictures = [part]
        for _ in range(5):
            seen.page.get_by_role("button", name="Go on").click()
            pictures.append(drawing.inner_html())
            assert drawn_width(seen) <= widest
            seen.page.wait_for_timeout(50)
            assert drawing.inner_html() == pictures[-1]
            if pictures[-1] == whole:
                break
        assert pictures[-1] == whole
        assert len(set(pictures)) == len(pictures)
        assert seen.page.get_by_role("button", name="Play").is_visible()


def test_one_chart_fills_the_screen(both):
    with opened(both / "plain.html", fragment="sweep&loss=l4") as seen:
        seen.page.get_by_role("button", name="Present").press("Enter")
        headline = seen.page.locator(".headline")
        said = headline.inner_text()
        assert "With l4: " in said
        assert "depth 2" in said
        svg = seen.page.locator(".chart svg:visible")
        seen.page.wait_for_function(
            "document.querySelector('.chosen svg').getBoundingClientRect().height > 500"
        )
        assert svg.count() == 1
        assert svg.bounding_box()["width"] > 0.9 * WIDE[0]
        assert seen.page.locator(".panel").is_hidden()
        # Nothing behind it is reached by the keyboard.
        assert seen.page.locator("h1").evaluate("e => e.inert")
        seen.page.wait_for_function("location.hash.includes('present=1')")
        seen.page.get_by_role("button", name="Other chart").click()
        assert "learning rate" in seen.page.locator("figcaption:visible").inner_text()
        seen.page.keyboard.press("Escape")
        assert headline.is_hidden()
        assert seen.page.locator(".panel").is_visible()
        assert seen.page.locator("[inert]").count() == 0
        assert seen.page.evaluate("document.activeElement.textContent") == "Present"
        seen.page.wait_for_function("!location.hash.includes('present')")
    with opened(both / "plain.html", fragment="sweep&loss=l4&present=1&predict=1") as seen:
        assert seen.page.locator(".headline").inner_text() == "What do you expect?"


# Boxes of the labels, ticks and unstable rates' crosses of every chart.
BOXES = """() => [...document.querySelectorAll('.chart svg')].map((svg) => {
  const boxes = (selector) => [...svg.querySelectorAll(selector)]
    .map((e) => e.getBoundingClientRect())
    .filter((b) => b.width > 0).map((b) => [b.left, b.right, b.top, b.bottom]);
  return {
    words: boxes('.role-mark.mark-text text, .role-axis-label text, .role-axis-title text'),
    crosses: boxes('.crosses_drawn path'),
  };
})"""


def covered(boxes: list[list[float]]) -> list[tuple[int, int]]:
    """Pairs of boxes that overlap; a text is lower than its box, by three pixels and more."""
    return [
        (i, j)
        for j, b in enumerate(boxes)
        for i, a in enumerate(boxes[:j])
        if min(a[1], b[1]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[2], b[2]) > 3
    ]


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_no_label_covers_another(both, size):
    with opened(both / "plain.html", size=size, fragment="sweep&loss=l4") as seen:
        crosses = 0
        for state in ("loss=l4", "loss=l4&rule=target", "loss=l2&rule=final", "loss=l4&beside=l2",
                      "loss=l4&view=speed_up", "loss=l4&lr=0.3", "loss=l4&present=2"):  # fmt: skip
            seen.page.evaluate("state => { location.hash = '#sweep&' + state }", state)
            seen.page.wait_for_timeout(150)
            charts = seen.page.evaluate(BOXES)
            assert charts
            for chart in charts:
                assert covered(chart["words"]) == [], state
                assert covered(chart["crosses"]) == [], state
                crosses += len(chart["crosses"])
        assert crosses > 10


def test_the_reason_is_drawn_where_it_was_recorded(both):
    """At depth 2 the rate times the norm, at depth 1 the rate alone."""
    with opened(both / "recorded.html", fragment="sweep&loss=l4") as seen:
        rows = [r for r in download(seen) if r["chart"] == "effective_learning_rate against step"]
        by_depth = {depth: [r for r in rows if r["curve"] == f"depth {depth}"] for depth in (1, 2)}
        norm = np.linspace(0.1, 1.0, len(by_depth[2]))
        assert {r["learning_rate"] for r in rows} == {"0.05"}
        np.testing.assert_allclose([float(r["y"]) for r in by_depth[1]], 0.05, rtol=4e-3)
        np.testing.assert_allclose([float(r["y"]) for r in by_depth[2]], 0.05 * norm, rtol=4e-3)
    with opened(both / "plain.html", fragment="sweep&loss=l4&view=reason") as seen:
        card = seen.page.locator("figure .card:visible")
        command = card.locator("code").inner_text()
        assert command == "python -m experiments.sweep --record=end_to_end_norm"
        assert "not recorded" in seen.page.locator("figcaption").nth(1).inner_text()


def test_the_target_is_reset_to_the_run_s_own(both):
    with opened(both / "plain.html", fragment="sweep&loss=l4") as seen:
        button = seen.page.get_by_role("button", name="reset to 10 %")
        own = lines(seen, 1)
        assert button.get_attribute("aria-disabled") == "true"
        slide(seen, "Target excess loss ε", 2)
        assert lines(seen, 1) != own
        assert button.get_attribute("aria-disabled") == "false"
        button.click()
        assert lines(seen, 1) == own


def test_a_flag_is_added_to_a_command():
    program = "python -m experiments.sweep"
    for typed, expected in (
        ([], ["--record=norm"]),
        ([program, "--bias"], [program, "--bias", "--record=norm"]),
        ([program, "--record=a"], [program, "--record=a,norm"]),
        ([program, "-record", "a,b", "--bias"], [program, "-record", "a,b,norm", "--bias"]),
        ([program, "--", "x"], [program, "--record=norm", "--", "x"]),
        ([program, "--record_x=1"], [program, "--record_x=1", "--record=norm"]),
    ):
        assert with_flag(typed, "record", "norm") == expected
    assert with_flag([program, "--predict"], "predict") == [program, "--predict"]
    assert with_flag([program], "predict") == [program, "--predict"]


def test_the_command_of_a_run_is_its_own_or_none(tmp_path):
    assert command_of(tmp_path) == []
    config = tmp_path / "config.json"
    for text, expected in {
        '{"command": ["python -m experiments.sweep", "--seed=1"]}': 2,
        '{"command": "rm"}': 0, '{"command": [1]}': 0, '{"command": ["\\u0007"]}': 0,
        "[1]": 0, "{": 0,
    }.items():  # fmt: skip
        config.write_text(text)
        assert len(command_of(tmp_path)) == expected
