"""The page of the reproduction: what it holds, and what it does in a browser."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
from base64 import b64decode

import numpy as np
import pytest
from browser import NARROW, WIDE, needs_browser, playwright, visit
from marks import param
from matplotlib.figure import Figure
from pages import read_page
from PIL import Image, ImageChops
from test_claims import claim, finding
from test_reproduction import decaying

from implicit_accel import DataError, UserError
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.criteria import Cause, Finding, Range, above, judge
from implicit_accel.claims.curves import CURVES_FILE, Curves
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import load_finding, save_finding
from implicit_accel.claims.forest import Forest
from implicit_accel.claims.report.pictures import QUALITIES, picture
from implicit_accel.claims.report.render import forest_html, page
from implicit_accel.claims.report.view import by_question, caption

COLLECTION = load_collection()

expect = playwright.expect

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def drawn(noise: int = 0) -> Figure:
    figure = Figure(figsize=(5, 2.5))
    ax = figure.subplots()
    ax.plot([1, 2, 4], label="depth 2")
    if noise:
        ax.imshow(np.random.default_rng(0).random((noise, noise, 3)))
    return figure


def some_finding(*values: float, cause: bool = True, **changes: object) -> Finding:
    """One whose parts claim to be above 1 and, in size, above 10."""
    effects = tuple(Effect(f"part {i}", v, v / 1.2, v * 1.2) for i, v in enumerate(values))
    found = Finding(
        judge([above(e, 1.0, size=Range(10)) for e in effects]),
        effects,
        summary=f"Seen: {effects[0]}. And more.",
        cause=Cause(("T1",), "The rate is bound. And more.") if cause else None,
        caveats=("A caveat.",),
        figures={"a_figure": drawn()},
    )
    return dataclasses.replace(found, **changes)  # pyright: ignore[reportArgumentType]


def explorable():
    """Two models at two rates, with the steps after which a tenth is left."""
    results = decaying(200, 50)
    below = results["excess_loss"].values <= 0.1
    steps = np.where(below.any(axis=-1), below.argmax(axis=-1), np.inf)
    return results.assign(steps_to_target=(("model", "learning_rate", "seed"), steps))


def made(folder):
    """A report of claims of all kinds, one of them hostile, one with curves."""
    results = explorable()
    rows = (Effect("first station", 4.0, 3.0, 5.0), Effect(HOSTILE, 0.5, 0.4, 0.7))
    stations = Forest(
        {"depth 2": rows},
        title="Stations",
        xlabel="ratio",
        curves=("one run", ""),
        remarks={"depth 2": ("to 10 %", "")},
        remarks_are="a long word " * 9,
    )
    findings = {
        "P3b": some_finding(
            20.0, curves={"one run": Curves(results), HOSTILE: Curves(results)},
            figures={"a_figure": drawn(), "stations": stations},
        ),
        "P0": some_finding(5.0, 20.0),
        "S1": some_finding(0.5, 0.4, cause=False),
        "F1": some_finding(3.0, 0.2, cause=False),
        "T1": some_finding(30.0, cause=False),
        "X1": finding(),
    }  # fmt: skip
    return [
        save_finding(
            claim(id=name) if name == "X1" else claim(id=name, statement=f"{name} is so & so."),
            found, folder / name, "standard", 1.0,
        )
        for name, found in findings.items()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(
        page(made(folder), title="All <claims>", preamble=["One & two."], collection=COLLECTION)
    )
    return path


def test_everything_is_text_and_all_of_it_is_there(report):
    html = report.read_text()
    found = read_page(html)
    assert found.unbalanced == []
    for words in (
        "Depth <b>helps</b> | always.", "speed-up <i>", '<script>alert("x")</script>', "*much*",
        "<img src=x>", "A <table>", "n<a>me", "<td>", "T<4>", "a & b", "All <claims>", "One & two.",
        "P0 is so & so.", "any", "Somebody & Co.", HOSTILE,
    ):  # fmt: skip
        assert words in found.text, words
    # Its own pictures, one for each finding, and nobody else's; nothing comes from elsewhere.
    assert len(found.pictures) == 6
    assert all(address.startswith("data:image/") for address in found.pictures)
    links = [has[n] for _, has in found.elements for n in ("src", "href") if n in has]
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not any(name in ("b", "i") and "style" not in has for name, has in found.elements)
    assert not any("onerror" in has for _, has in found.elements)
    # What scripts read ends no script, and holds the hostile title as it is.
    data = [json.loads(s) for s in found.scripts if s.startswith("{")]
    assert [name for name, _ in data[0]["results"]] == ["one run", HOSTILE]
    ids = [has["id"] for _, has in found.elements if "id" in has]
    assert len(ids) == len(set(ids))
    # Every link leads to a part of the page.
    for name, has in found.elements:
        if name == "a":
            assert has["href"][1:].split("&")[0] in ids


def test_claims_are_grouped_headed_and_linked(report):
    html = report.read_text().split("</main>")[0]
    questions = re.findall(r"<h2>(.*?)</h2>", html)
    assert questions == [
        "The answer", "All outcomes", "What does the loss do?", "What does the initialisation do?",
        "What does theory say?", "What else is there?", "About this report",
    ]  # fmt: skip
    assert "python -m experiments.reproduce --claims P3b" in html
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", html)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    # The forest's row leads to the state of the explorer that shows it.
    assert 'href="#P3b&amp;of=one%20run">first station</a>' in html


def test_every_claim_has_a_question_and_a_source(tmp_path):
    entries = [
        save_finding(c, some_finding(2.0), tmp_path / c.id, "standard", 1)
        for c in load_collection().claims[:1]
    ]
    entries = [dataclasses.replace(entries[0], claim=c) for c in load_collection().claims]
    grouped = by_question(entries, COLLECTION)
    assert list(grouped) == [*COLLECTION.questions]  # none is left over
    assert sorted(e.claim.id for own in grouped.values() for e in own) == sorted(
        c.id for c in load_collection().claims
    )
    assert "others" not in [COLLECTION.made_by(e.claim) for e in entries]


def test_tallies_count_claims_not_parts(report):
    (bar,) = re.findall(r"<dd class=\"bar\">(.*?)</dd>", report.read_text())
    counts = {kind: int(n) for n, kind in re.findall(r"<strong>(\d+)</strong> ([a-z ]+)<", bar)}
    # The first parts of P3b, P0 and F1 are above 1, S1's is below; X1's interval crosses.
    assert counts == {"confirmed": 3, "contradicted": 1, "inconclusive": 1, "law": 1}


def test_without_verdicts_nothing_is_judged(tmp_path):
    html = page(made(tmp_path), title="t", preamble=["p"], collection=COLLECTION, verdicts=False)
    text = read_page(html).text
    for trace in ("as claimed", "undecided", "direction", "Seen:", "The rate is bound"):
        assert trace not in text
    assert "All effects" in text
    assert "part 0: 20×" in text


def test_an_empty_report_and_hostile_ids():
    assert "<tbody></tbody>" in page([], title="t", preamble=[], collection=COLLECTION)
    for hostile in ('"><script>', "../P1", "P", ""):
        with pytest.raises(UserError, match="an id is letters, a number"):
            claim(id=hostile)


def test_a_figure_keeps_its_size_and_loses_colours_in_a_declared_way(tmp_path):
    path = tmp_path / "noise.png"
    drawn(noise=200).savefig(path)
    pictures = [picture(path, quality) for quality in QUALITIES]
    sizes = [len(each.address) for each in pictures]
    assert sizes == sorted(sizes, reverse=True)
    assert {(p.width, p.height) for p in pictures} == {(500, 250)}
    # 256 colours of a line drawing are all of it.
    drawn().savefig(path)
    kept = Image.open(io.BytesIO(b64decode(picture(path, QUALITIES[0]).address.split(",")[1])))
    apart = ImageChops.difference(kept.convert("RGB"), Image.open(path).convert("RGB"))
    assert max(high for _, high in apart.getextrema()) < 24  # pyright: ignore


def test_a_page_stays_below_its_limit_and_says_what_that_cost(tmp_path):
    found = some_finding(2.0, figures={"noise": drawn(noise=200)})
    entry = save_finding(claim(), found, tmp_path, "standard", 1)

    def sized(limit: int) -> tuple[int, str]:
        html = page([entry], title="t", preamble=[], collection=COLLECTION, limit=limit)
        return len(html.encode()), html

    whole, html = sized(10**9)
    assert "256 colours each, at full resolution" in html
    smaller, html = sized(whole - 1)
    assert smaller < whole
    least, html = sized(1)  # cannot be met: it has the least that there is, and all of it
    assert least < smaller
    assert str(QUALITIES[-1]) in html
    assert "50 % of their resolution" in html
    assert read_page(html).text.count("A caveat.") == 1
    assert len(read_page(html).pictures) == 1


def test_what_is_stored_of_curves_is_read_back_or_refused(tmp_path):
    (saved, *_) = made(tmp_path)
    loaded = load_finding(saved.claim, tmp_path / "P3b", "standard")
    assert loaded is not None
    assert loaded.curves == saved.curves
    np.testing.assert_equal(loaded.forests["stations"].series["depth 2"],
                            saved.forests["stations"].series["depth 2"])  # fmt: skip
    assert loaded.forests["stations"].curves == ("one run", "")
    assert page([loaded], title="t", preamble=[], collection=COLLECTION) == page(
        [saved], title="t", preamble=[], collection=COLLECTION
    )
    path = tmp_path / "P3b" / CURVES_FILE
    whole = path.read_text()
    for damaged in ("", "[]", "{}", whole.replace('"num_steps": 1000', '"num_steps": 1001')):
        assert damaged != whole
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"curves\.json: damaged"):
            load_finding(saved.claim, tmp_path / "P3b", "standard")
    # Another version's are not shown, and are no damage.
    (other := json.loads(whole))["format"] = "implicit_accel curves 0"
    path.write_text(json.dumps(other))
    loaded = load_finding(saved.claim, tmp_path / "P3b", "standard")
    assert loaded is not None
    assert loaded.curves == {}
    # A finding without curves leaves none behind.
    save_finding(saved.claim, some_finding(2.0), tmp_path / "P3b", "standard", 1.0)
    assert not path.exists()


def test_captions_say_what_is_seen(tmp_path):
    found = some_finding(2.0, captions={"a_figure": "The line falls."})
    entry = save_finding(claim(), found, tmp_path, "standard", 1)
    assert caption(entry, entry.figures[0], True) == "The line falls."
    plain = dataclasses.replace(entry, finding=some_finding(2.0))
    assert caption(plain, entry.figures[0], True) == entry.claim.statement
    assert entry.claim.statement not in caption(plain, entry.figures[0], False)


def test_a_forests_marks_lie_where_their_numbers_are():
    effects = (Effect("a", 4.0, 2.0, 8.0, halves=(3.0, 5.0)), Effect("b", 0.25, 0.2, np.inf),
               Effect("never", np.nan, note="never; really"))  # fmt: skip
    html = forest_html(Forest({"": effects}, title="t", xlabel="x"))
    assert read_page(html).unbalanced == []
    at = [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"', html)]
    (one,) = set(re.findall(r'class="one" x1="([\d.]+)%"', html))
    # Equal ratios are equal distances: a quarter and four lie as far from one.
    assert at[0] - float(one) == pytest.approx(float(one) - at[1], abs=0.02)
    (low, high), *_ = [
        tuple(map(float, x))
        for x in re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%"[^>]*stroke-width="2.5"', html)
    ]
    assert at[0] - low == pytest.approx(high - at[0], abs=0.02)
    assert html.count("<circle") == 2
    assert ">never<" in html


# --- in a browser ---


def shown(page) -> list[str]:
    return page.locator("table.overview tbody tr:visible th").all_inner_texts()


@needs_browser
@pytest.mark.parametrize("size", [param(WIDE), NARROW])
def test_the_table_is_filtered_and_its_state_has_a_link(report, size):
    with visit(report, size=size) as opened:
        page = opened.page
        everyone = ["P3b", "P0", "S1", "F1", "T1", "X1"]
        assert shown(page) == everyone
        page.get_by_label("outcome", exact=True).select_option("contradicted")
        assert shown(page) == ["S1"]
        assert page.evaluate("location.hash") == "#verdicts&outcome=contradicted"
        assert page.get_by_role("status").first.inner_text() == "1 of 6 claims"
        page.get_by_role("button", name="Show all").click()
        page.wait_for_function("location.hash === '#verdicts'")
        assert shown(page) == everyone
        page.get_by_label("words").fill("P0 so")
        assert shown(page) == ["P0"]
        # A part of the tally leads to the claims that it counts.
        page.get_by_role("link", name="3 confirmed").click()
        # The browser reports the new address after the click, in an event of its own.
        expect(page.get_by_label("words")).to_have_value("")
        assert shown(page) == ["P3b", "P0", "F1"]
        assert page.get_by_label("words").input_value() == ""
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
    with visit(report, size=size, fragment="verdicts&outcome=confirmed&sort=-claim") as opened:
        assert shown(opened.page) == ["F1", "P0", "P3b"]
        assert opened.page.get_by_label("outcome").input_value() == "confirmed"
    with visit(report, size=size, fragment="verdicts&outcome=%3Cb%3E&sort=nothing") as opened:
        assert shown(opened.page) == everyone


@needs_browser
def test_the_table_is_sorted_by_keyboard_and_downloaded(report):
    with visit(report) as opened:
        page = opened.page
        head = page.get_by_role("button", name="effect [95 % interval]")
        head.focus()
        page.keyboard.press("Enter")
        # By the number, not as text: 0.5, 2, 3, 5, 20, 30.
        assert shown(page) == ["S1", "X1", "F1", "P0", "P3b", "T1"]
        page.keyboard.press("Enter")
        assert shown(page)[0] == "T1"
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
        page.get_by_label("source").select_option("others")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as CSV").click()
        text = download.value.path().read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text)))
        cells = page.locator("table.overview tbody tr:visible").locator("th, td")
        heads = page.locator("table.overview thead th").all_inner_texts()
        assert lines == [heads, cells.all_inner_texts()]
        assert lines[1][1] == "Depth <b>helps</b> | always."


@needs_browser
def test_a_command_is_copied_by_one_click(report):
    with visit(report) as opened:
        page = opened.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy the command of claim P0").click()
        page.wait_for_function("document.body.innerText.includes('Copied')")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == "python -m experiments.reproduce --claims P0"


@needs_browser
@pytest.mark.parametrize("javascript", [True, False])
def test_print_opens_what_is_folded(report, javascript):
    with visit(report, javascript=javascript, media="print") as opened:
        caveat = opened.page.locator("#P0 li", has_text="A caveat.")
        # Without scripts the element stays closed: what counts is what is drawn.
        assert caveat.bounding_box()["height"] > 0  # pyright: ignore[reportOptionalSubscript]
        assert opened.page.locator("nav").is_hidden()
    with visit(report, javascript=javascript) as opened:
        assert opened.page.locator("#P0 li", has_text="A caveat.").is_hidden()


@needs_browser
def test_without_scripts_everything_can_be_read(report):
    with visit(report, javascript=False, size=NARROW) as opened:
        page = opened.page
        assert len(shown(page)) == 6
        assert page.locator(".filters").is_hidden()
        page.locator("#P0 summary", has_text="Caveats").click()
        assert page.locator("#P0 li", has_text="A caveat.").is_visible()


@needs_browser
@pytest.mark.parametrize(
    ("dark", "size"), [(False, WIDE), param(False, NARROW), param(True, WIDE), (True, NARROW)]
)
def test_nothing_stands_in_the_way_of_a_reader(report, dark, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visit(report, dark=dark, size=size) as opened:
        opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        opened.page.wait_for_timeout(300)
        found = axe.run(opened.page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [
            (v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"]) for v in serious
        ] == []


@needs_browser
@pytest.mark.parametrize("size", [WIDE, param(NARROW)])
def test_a_row_of_a_forest_shows_its_curves_and_the_slider_moves_them(report, size):
    with visit(report, size=size) as opened:
        page = opened.page
        page.get_by_role("link", name="first station").click()
        part = page.locator("#P3b-explorer")
        rows = part.get_by_role("row")
        # Half-lives of 200 and 50 steps at rate 1, four times that at 10: a tenth is left after
        # log₂ 10 half-lives, at the first whole step then.
        steps = {rate: [first_step(h * f) for h in (200, 50)] for rate, f in ((1, 1), (10, 4))}
        assert steps == {1: [665, 167], 10: [2658, 665]}
        for row, number in zip(("depth 1", "depth 2"), steps[1], strict=True):
            expect(rows.filter(has_text=row).first).to_contain_text(f"{number} steps")
        drawn = part.locator("figure svg").first.inner_html()
        part.get_by_role("slider", name="Learning rate").focus()
        page.keyboard.press("End")
        expect(rows.filter(has_text="depth 1").first).to_contain_text("never")  # beyond 1000 steps
        expect(rows.filter(has_text="depth 2").first).to_contain_text(f"{steps[10][1]} steps")
        assert part.locator("figure svg").first.inner_html() != drawn
        page.wait_for_function("location.hash.includes('lr=10')")
        link = page.evaluate("location.hash.slice(1)")
    with visit(report, size=size, fragment=link) as opened:
        row = opened.page.locator("#P3b-explorer").get_by_role("row").filter(has_text="depth 2")
        expect(row.first).to_contain_text("665 steps")


def first_step(half_life: float) -> int:
    """When a tenth is left of what halves after so many steps."""
    return math.ceil(half_life * math.log2(10))
