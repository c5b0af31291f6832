"""The report's first page: what it tells is in the findings, and nothing else."""

import math
import re
from pathlib import Path
from typing import Any

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


STABLE, SLOWER = "speed-up at stable rates", "slow-down at stable rates"
OVER_DEPTH = "speed-up of a warm-up on one layer over depth 2"
OVER_DEPTH_BY = "speed-up of a schedule on one layer over depth 2"
OF_DEPTH = "speed-up of depth 2 with the same schedule"
OVER_ONE = "speed-up over one layer at a constant rate"


OVER_ONE_LAYER = (
    (11.0123, 4.0, "line search", 1),
    (3.1123, 4.0, "constant rate", 2),
    (3.2123, 6.0, "constant rate", 2),
    (4.1123, 4.0, "warm-up, 300 steps", 1),
    (4.2123, 6.0, "warm-up, 300 steps", 1),
)


def everything() -> list[Entry]:
    common = "speed-up to the common target"
    chosen: dict[str, Any] = {"choice": "as chosen"}
    on_grid = "at the horizon, learning rates of the paper's grid"
    return [
        entry("P0", measured(3.0123, STABLE, 2.9, 3.1, depth=2, **chosen),
              measured(2.0123, STABLE, 1.9, 2.1, depth=2, choice="float64")),
        entry("P3a", measured(1.0123, SLOWER, depth=2, **chosen),
              measured(1.1123, SLOWER, depth=2, choice="float64")),
        entry(
            "P3b", measured(7.0123, STABLE, depth=2, choice=on_grid),
            measured(2.9123, STABLE, depth=2, choice="the authors' figure"),
            figures=("speed_up.png",),
        ),
        entry("P6", measured(9.0123, "speed-up", method="regularised sum"),
              measured(1.2123, "speed-up", method="cross-entropy"),
              figures=("training_loss.png",)),
        entry(
            "R1", measured(1.5123, OVER_DEPTH, 1.4, 1.6, **chosen),
            measured(1.6123, OVER_DEPTH, 1.5, 1.7, choice="float64"),
            measured(0.8123, OVER_DEPTH, 0.8, 0.9, choice="target 6 %"),
            measured(28.0123, OVER_DEPTH_BY, 27, 29, method="line search", share=0.1),
            measured(19.0123, OVER_DEPTH_BY, 18, 20, method="line search", share=0.06),
            measured(1.7123, OF_DEPTH, p=4.0, method="Nesterov"),
            *(
                measured(value, OVER_ONE, p=p, method=method, depth=depth)
                for value, p, method, depth in OVER_ONE_LAYER
            ),
            figures=("curves.png",),
        ),
        entry("S1", measured(96.0123, "one layer lowest", **chosen),
              measured(0.5123, "one layer lowest", choice="one more learning rate, 5e-2")),
        entry(
            "S7", measured(3.0123, common, station="the paper's setting", depth=2),
            measured(5.0123, common, station="the paper's setting, whitened", depth=2),
            measured(0.0123, common, station="the student project's setting", depth=2),
            figures=("stations.png",),
        ),
        entry("T9", measured(0.9923, "rule over network", 0.9, 1.1, depth=2),
              figures=("taken_apart.png",)),
    ]  # fmt: skip


def test_an_answer_seven_questions_five_figures_and_every_number_from_a_finding():
    chapters = chapters_of(everything(), STORY)
    assert chapters[0].heading == ANSWER
    assert len(chapters) == 8
    # How much, why, and what it depends on.
    assert len(chapters[0].paragraphs) == 3
    assert [c.figure.stem for c in chapters if c.figure] == [
        "speed_up", "curves", "stations", "taken_apart", "training_loss",
    ]  # fmt: skip
    assert all(c.caption for c in chapters if c.figure)
    text = " ".join(" ".join(c.paragraphs) for c in chapters)
    for number in ("3.01× [2.9, 3.1]", "2.01 to 3.01×", "7.01×", "2.91×", "1.01×", "1.01 to 1.11×",
                   "1.11×", "1.51× [1.4, 1.6]", "0.812× [0.8, 0.9]", "28×", "19×", "1.71×",
                   "3.11×", "3.21×", "4.11×", "4.21×",
                   "96×", "0.512×", "5.01×", "0.0123×", "0.992× [0.9, 1.1]", "9.01×",
                   "1.21×"):  # fmt: skip
        assert number in text, number
    # The law is none of the claims: of the others one has its sign flipped by a choice.
    assert "Of 7 claims 5 are confirmed, 2 on a condition, 0 contradicted" in text
    # No number but the papers' years, p > 2, ℓ2 and ℓ4, settings, and what the findings hold.
    bare = re.sub(
        r"[\d.]+ to [\d.]+×|[\d.]+×( \[[\d., ]+\])?|ℓ\d|\(20\d\d\)|depth 2|p > 2|\b[A-Z]\d+\b|"
        r"300 steps|up to 0\.01|5e-2|(to|To) (10|6) %|float64", "", text,
    )  # fmt: skip
    assert set(re.findall(r"\d+", bare)) == {"7", "5", "2", "0"}


def test_what_was_not_found_is_left_out():
    assert chapters_of([], STORY) == ()
    assert chapters_of([entry("P7", Effect("e", 1.0))], STORY) == ()
    chapters = chapters_of([e for e in everything() if e.claim.id != "S7"], STORY)
    assert not any("student project see" in c.heading for c in chapters)


def test_an_answer_that_the_outcomes_contradict_is_left_out():
    deeper = entry("R1", measured(0.5, OVER_DEPTH, 0.4, 0.6, choice="as chosen"))
    others = [e for e in everything() if e.claim.id != "R1"]
    assert ANSWER not in [c.heading for c in chapters_of([deeper, *others], STORY)]


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
    assert rows["ℓ4, depth 2"] == 3.0123
    assert claims == ("P3a", "P0", "P3b", "R1", "S7")


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
