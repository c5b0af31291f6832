"""The report's first page: what it tells is in the findings, and nothing else."""

import math
import re
from pathlib import Path

import pytest
from test_claims import claim

from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.criteria import Cause, Finding, above, judge
from implicit_accel.claims.effects import Effect, Key
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.report.story import ANSWER, chapters_of, picture
from implicit_accel.claims.report.view import recollections
from implicit_accel.errors import UserError

COLLECTION = load_collection()
STORY = COLLECTION.story


def entry(name: str, *effects: Effect, figures: tuple[str, ...] = ()) -> Entry:
    finding = Finding(
        judge([above(e, 1.0) for e in effects]), effects, summary="s", cause=Cause(("T1",), "Why.")
    )
    return Entry(claim(id=name), finding, tuple(Path(name) / f for f in figures), 1.0)


def measured(
    value: float, measure: str, low: float = math.nan, high: float = math.nan, **at
) -> Effect:
    return Effect("", value, low, high).keyed(Key.of(measure, **at))


def everything() -> list[Entry]:
    common = "speed-up to the common target"
    return [
        entry("P3a", measured(1.0123, "slow-down to 10 %", depth=2)),
        entry(
            "P3b", measured(7.0123, "speed-up at the horizon", depth=2, end=True),
            measured(4.0123, "speed-up to 10 %", depth=2), figures=("speed_up.png",),
        ),
        entry("P6", measured(9.0123, "speed-up", method="regularised sum"),
              figures=("training_loss.png",)),
        entry(
            "S7", measured(3.0123, common, station="the paper's setting", depth=2),
            measured(5.0123, common, station="the paper's setting, whitened", depth=2),
            measured(0.0123, common, station="the student project's setting", depth=2),
            figures=("stations.png",),
        ),
        entry("T9", measured(0.9923, "rule over network", 0.9, 1.1, depth=2),
              figures=("taken_apart.png",)),
    ]  # fmt: skip


def test_an_answer_five_questions_four_figures_and_every_number_from_a_finding():
    chapters = chapters_of(everything(), STORY)
    assert chapters[0].heading == ANSWER
    assert len(chapters) == 6
    assert len(chapters[0].paragraphs) == 3
    assert [c.figure.stem for c in chapters if c.figure] == [
        "speed_up", "stations", "taken_apart", "training_loss",
    ]  # fmt: skip
    assert all(c.caption for c in chapters if c.figure)
    text = " ".join(" ".join(c.paragraphs) for c in chapters)
    for number in ("7.01×", "4.01×", "1.01×", "3.01×", "5.01×", "0.0123×", "0.992× [0.9, 1.1]",
                   "9.01×"):  # fmt: skip
        assert number in text
    # Theory's own claim is none of the literature's.
    assert "Of 4 claims of the literature 3 have the claimed direction" in text
    assert "of their 7 parts 6 are as claimed, 1 opposite and 0 undecided" in text
    # No number but the papers' years, p > 2, ℓ2 and ℓ4, and what the findings hold.
    bare = re.sub(r"[\d.]+×( \[[\d., ]+\])?|ℓ\d|\(20\d\d\)|depth 2|p > 2|\b[A-Z]\d+\b", "", text)
    assert set(re.findall(r"\d+", bare)) == {"4", "3", "7", "6", "1", "0"}


def test_what_was_not_found_is_left_out():
    assert chapters_of([], STORY) == ()
    assert chapters_of([entry("P7", Effect("e", 1.0))], STORY) == ()
    chapters = chapters_of([e for e in everything() if e.claim.id != "S7"], STORY)
    assert not any("student project see" in c.heading for c in chapters)
    assert ANSWER not in [c.heading for c in chapters]  # it names the student project's number


def test_an_answer_that_the_verdicts_contradict_is_left_out():
    slower = entry("P3b", measured(0.5, "speed-up at the horizon", depth=2, end=True),
                   measured(0.5, "speed-up to 10 %", depth=2))  # fmt: skip
    others = [e for e in everything() if e.claim.id != "P3b"]
    assert ANSWER not in [c.heading for c in chapters_of([slower, *others], STORY)]


@pytest.mark.parametrize(
    "body", ["{{ x }}", "{{ effect('T9') }}", "{% if %}", "{{ ''.__class__.__mro__ }}"]
)
def test_a_section_that_cannot_be_filled_in_is_an_error(body):
    with pytest.raises(UserError, match="section 'One' of the story cannot be filled in"):
        chapters_of(everything(), f"## One\n{body}\n## Two\nText.")


def test_a_figure_that_no_claim_has_is_left_out():
    chapters = chapters_of(everything(), "## One\n![Words](nothing)\n## Two\n![W](T9/none)\nText.")
    assert [c.figure for c in chapters] == [None, None]


def test_the_picture_shows_speed_ups_with_their_claims():
    forest, claims = picture(everything(), COLLECTION.picture)
    rows = {e.name: e.value for e in forest.series[""]}
    assert rows["ℓ2, depth 2"] == pytest.approx(1 / 1.0123)  # a slow-down as a speed-up
    assert rows["ℓ4, depth 2"] == 4.0123
    assert claims == ("P3a", "P3b", "P3b", "S7")


def test_what_is_known_from_memory_is_listed_with_the_claims_that_use_it():
    known = recollections([entry("P4b"), entry("P7")], COLLECTION)
    assert known is not None
    assert [set(text.split(", ")) for text in known["claims"]][-2:] == [{"P7"}, {"P4b"}]
    assert recollections([entry("F1")], COLLECTION) is None
    ids = {claim.id for claim in load_collection().claims}
    assert {i for known in COLLECTION.recollections for i in known.claims} <= ids
    for found in load_collection().claims:  # nothing is remembered in a corner
        if "from memory" in found.source:
            assert any(found.id in known.claims for known in COLLECTION.recollections)
