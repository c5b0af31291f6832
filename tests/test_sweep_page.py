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
from implicit_accel.experiments.sweep_page import command_of, write_page
from implicit_accel.pages.explorer import Published, assets, explorer, payload
from implicit_accel.pages.shell import document

pytestmark = needs_browser

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


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(page, dark):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(page, dark=dark) as seen:
        found = axe.Axe().run(seen.page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in serious] == []


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
