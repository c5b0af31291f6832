"""Criteria and intervals: a planted effect is found, a planted absence is not made one."""

import dataclasses
import math
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pages import read_page
from test_statistics import INF, NAN, made

from implicit_accel import DataError, UserError
from implicit_accel.claims import published as claims
from implicit_accel.claims.api import Claim, Found
from implicit_accel.claims.collection import Collection, load_collection
from implicit_accel.claims.criteria import (
    Cause,
    Direction,
    Finding,
    Outcome,
    Range,
    Size,
    above,
    answer,
    below,
    could_be,
    failed_checks,
    judge,
    within,
)
from implicit_accel.claims.effects import Design, Effect, Key, Kind
from implicit_accel.claims.estimators import compare, median, share
from implicit_accel.claims.findings import (
    load_finding,
    load_findings,
    save_finding,
    save_findings,
)
from implicit_accel.claims.report.render import write_report

YES, OPEN, NO = Direction.AS_CLAIMED, Direction.UNDECIDED, Direction.OPPOSITE
NEVER = Effect("never", INF, INF, INF)


def named(name: str, values) -> Effect:
    return dataclasses.replace(median(values), name=name)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (above(Effect("e", 2, 1.5, 2.5), 1), YES),
        (above(Effect("e", 2, 0.9, 2.5), 1), OPEN),
        (above(Effect("e", 0.5, 0.4, 0.9), 1), NO),
        (above(Effect("e", 0.5, 0.4, 1), 1), NO),
        (above(Effect("e", 2), 1), YES),
        (above(Effect("e", NAN), 1), OPEN),
        (above(NEVER, 1), YES),
        (above(Effect("e", 5, 2, INF), 1), YES),
        (below(NEVER, 1), NO),
        (below(Effect("e", 0.5, 0.4, 0.9), 1), YES),
        (below(Effect("e", 0.9, 0.8, 1.1), 1), OPEN),
        (below(Effect("e", 2, 1.5, 2.5), 1), NO),
        (below(Effect("e", 1), 1), NO),
        (within(Effect("e", 1, 0.9, 1.1), 0.8, 1.25), YES),
        (within(Effect("e", 1, 0.8, 1.25), 0.8, 1.25), YES),
        (within(Effect("e", 1.2, 1.1, 1.4), 0.8, 1.25), OPEN),
        (within(Effect("e", 2, 1.5, 2.5), 0.8, 1.25), NO),
    ],
)
def test_a_direction_follows_from_its_criterion(part, expected):
    (judged,) = judge([part]).parts
    assert judged.direction == expected
    assert judged.size == Size.NOT_COMPARABLE


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (12, 80, Size.AS_CLAIMED),
        (2, 8, Size.SMALLER),
        (120, 300, Size.LARGER),
        (8, 12, Size.UNDECIDED),
    ],
)
def test_a_size_is_judged_apart_from_the_direction(low, high, expected):
    verdict = judge([above(Effect("e", (low + high) / 2, low, high), 1, size=Range(10, 100))])
    assert verdict.directions == {YES}
    assert verdict.parts[0].size == expected
    assert verdict.holds == (expected == Size.AS_CLAIMED)


def test_many_parts_are_judged_by_intervals_that_hold_together():
    """Where nothing is planted, some of twelve 95 % intervals misses in half of the draws."""
    wrong = {1: 0, 12: 0}
    for draw in range(200):
        values = np.exp(np.random.default_rng(draw).standard_normal((12, 20)))
        effects = [named(f"e{i}", v) for i, v in enumerate(values)]
        wrong[12] += not judge([above(e, 1.0) for e in effects]).directions <= {OPEN}
        wrong[1] += any(not judge([above(e, 1.0)]).directions <= {OPEN} for e in effects)
    assert wrong[12] <= 20
    assert wrong[1] >= 60


def test_a_planted_effect_passes_and_few_seeds_decide_nothing_at_a_level():
    planted = np.full(20, 2.0)
    parts = [above(named(f"e{i}", planted), 1.0) for i in range(12)]
    assert judge(parts).directions == {YES}
    # 12 parts need 99.6 % each; the range of eight values holds the median with 99.2 %.
    parts = [above(named(f"e{i}", planted[:8]), 1.0) for i in range(12)]
    assert judge(parts).directions == {OPEN}
    few = named("few", np.array([1.5, 2.0, 2.5]))
    assert math.isnan(few.confidence)
    assert str(few) == "2× (1.5 to 2.5 over 3 seeds)"
    assert str(named("effect", np.array([2.0]))) == "2× (one seed)"
    every = share(np.ones(30, bool))
    assert (every.value, every.high, every.design.kind) == (100, 100, Kind.SHARE)
    assert judge([above(every, 85)]).directions == {YES}


@pytest.mark.parametrize(
    ("part", "parts", "met"),
    [
        # A hundredfold speed-up, where runs end at 4.4 times the faster model's steps.
        (above(Effect("e", 4, design=Design(Kind.SPEED_UP, 10, 0.2, 4.4)), 100), 1, False),
        (above(Effect("e", 4, design=Design(Kind.SPEED_UP, 10, 0.2, 440)), 100), 1, True),
        # More than nine in ten, of thirty; Wilson's interval of 30 of 30 begins at 88.6 %.
        (above(Effect("e", 90, design=Design(Kind.SHARE, 30, 0, 100)), 90), 1, False),
        (above(Effect("e", 90, design=Design(Kind.SHARE, 100, 0, 100)), 90), 4, True),
        # Eight seeds bear 99.2 %, one of twelve parts needs 99.6 %.
        (above(Effect("e", 2, design=Design(Kind.MEDIAN, 8)), 1), 12, False),
        (above(Effect("e", 2, design=Design(Kind.MEDIAN, 20)), 1), 12, True),
        (within(Effect("e", 1), 0.9, 1.1), 1, True),
        (below(Effect("e", 1, design=Design(Kind.VALUE, 1, 2.0)), 1.5), 1, False),
    ],
)
def test_what_no_data_can_meet_is_no_criterion(part, parts, met):
    assert (YES in could_be(part, parts)) == met
    assert (NO in could_be(part, parts)) == (part.effect.design.seeds != 8)


def test_comparison_at_each_models_own_best_rate():
    steps = [[[100, 110, 120], [200, 210, 220], [INF] * 3], [[60, 70, 80], [10, 11, 12], [5] * 3]]
    diverged = [[[NAN] * 3] * 3, [[NAN] * 3, [NAN] * 3, [NAN, NAN, NAN]]]
    results = made(steps, np.full((2, 3, 3), 0.01), diverged=diverged)
    effect = compare(results, 1, 0)
    assert effect.value == pytest.approx(110 / 5)
    assert "the model's best rate is the highest of the grid" in effect.note
    assert "the baseline's best rate is the lowest" in effect.note


def test_rates_at_which_runs_are_lost_are_not_chosen():
    steps = [[[100, 110, 120]] * 2, [[60, 70, 80], [1, 1, INF]]]
    diverged = [[[NAN] * 3] * 2, [[NAN] * 3, [NAN, NAN, 7]]]
    results = made(steps, np.full((2, 2, 3), 0.01), diverged=diverged)
    assert compare(results, 1, 0).value == pytest.approx(110 / 70)


def test_what_never_reaches_the_target_is_a_bound_and_neither_is_nothing():
    never = [[[INF] * 3] * 2, [[50] * 3] * 2]
    results = made(never, np.full((2, 2, 3), 0.5))
    effect = compare(results, 1, 0)
    assert effect.value == pytest.approx(1000 / 50)
    assert "the baseline never reached the target: a bound" in effect.note
    assert str(effect).startswith(">20×")
    neither = made(np.full((2, 2, 3), INF), np.full((2, 2, 3), 0.5))
    effect = compare(neither, 1, 0)
    assert math.isnan(effect.value)
    assert judge([above(effect, 1)]).directions == {OPEN}


def test_who_arrives_at_the_very_last_step_has_arrived():
    # Rates that do not arrive count with as many steps; the first of them is not the one chosen.
    steps = [[[INF] * 3, [1000] * 3], [[50] * 3] * 2]
    effect = compare(made(steps, np.full((2, 2, 3), 0.5)), 1, 0)
    assert effect.value == pytest.approx(1000 / 50)
    assert effect.bound == ""
    assert str(effect) == "20× (20 to 20 over 3 seeds)"
    assert "the baseline's best rate is the highest of the grid" in effect.note


def claim(**changes) -> Claim:
    values = {
        "id": "X1", "statement": "Depth <b>helps</b> | always.", "source": "Somebody & Co.",
        "run": lambda _: Found(), "minutes": 1.0, "paper_hours": 1.0,
        "is_theory": changes.get("id", "X1").startswith("T"),
    }  # fmt: skip
    return Claim(**(values | changes))


def finding() -> Finding:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    effect = Effect("speed-up <i>", 2.0, 0.5, 3.0, halves=(1.5, 2.5), confidence=NAN,
                    note="a & b")  # fmt: skip
    verdict = judge([above(effect, 1.0, size=Range(10)), below(Effect("b", -INF), 3)])
    return Finding(
        verdict,
        (
            Effect("speed-up <i>", 2.0, 1.5, NAN, note="a & b"),
            Effect("none", NAN),
            Effect("never", INF, 20_000.0, INF, unit=" steps"),
        ),
        summary='<script>alert("x")</script>', ran="none", criterion="any",
        cause=Cause(("T<4>",), "B<c>ause."),
        sensitivity="*much*", caveats=("<img src=x>",),
        tables={"A <table>": pd.DataFrame({"n<a>me": ["<td>", "b|c"], "v": [1.5, INF]})},
        figures={"a_figure": figure},
    )  # fmt: skip


def test_findings_are_stored_and_read_back(tmp_path):
    saved = save_finding(claim(), finding(), tmp_path / "X1", "standard", 3.5)
    loaded = load_finding(claim(), tmp_path / "X1", "standard")
    assert loaded is not None
    assert (loaded.seconds, loaded.figures) == (3.5, saved.figures)
    assert loaded.answer.outcome == Outcome.INCONCLUSIVE
    assert str(loaded.answer.primary) == str(saved.answer.primary) == "2× (one seed)"
    assert loaded.finding.cause == saved.finding.cause
    kept = [(*(j.part.effect for j in f.verdict.parts), *f.effects)
            for f in (loaded.finding, saved.finding)]  # fmt: skip
    for a, b in zip(*kept, strict=True):
        np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))
    answers = [[(j.direction, j.size, j.part.claimed, j.part.size) for j in f.verdict.parts]
               for f in (loaded.finding, saved.finding)]  # fmt: skip
    assert answers[0] == answers[1]
    assert loaded.finding.tables["A <table>"].to_numpy().tolist() == [["<td>", 1.5], ["b|c", INF]]
    assert load_finding(claim(), tmp_path / "X1", "smoke") is None
    assert load_finding(claim(id="X2"), tmp_path / "X1", "standard") is None
    assert load_finding(claim(), tmp_path / "nowhere", "standard") is None
    path = tmp_path / "X1" / "finding.json"
    endless = path.read_text().replace('"seconds": 3.5', '"seconds": NaN')
    for damaged in ("", "[]", "{", '{"format": "implicit_accel finding 4"}', endless):
        path.write_text(damaged)
        with pytest.raises(DataError, match="damaged"):
            load_finding(claim(), tmp_path / "X1", "standard")


def test_all_findings_are_stored_in_one_file_too(tmp_path):
    entries = [
        save_finding(claim(id=i), finding(), tmp_path / i, "standard", 1) for i in ("X1", "Y1")
    ]
    save_findings(entries, tmp_path / "findings.json", "standard")
    loaded = load_findings(tmp_path / "findings.json")
    assert list(loaded) == ["X1", "Y1"]
    for found in loaded.values():
        assert [j.direction for j in found.verdict.parts] == [OPEN, YES]
        assert [e.name for e in found.effects] == [e.name for e in finding().effects]
    for damaged in ("", "[]", '{"format": "another"}'):
        (tmp_path / "findings.json").write_text(damaged)
        with pytest.raises(DataError, match=r"damaged|of another version"):
            load_findings(tmp_path / "findings.json")


def test_a_report_takes_in_no_file_from_elsewhere(tmp_path):
    save_finding(claim(), finding(), tmp_path / "X1", "standard", 3.5)
    (tmp_path / "private").write_text("secret")
    path = tmp_path / "X1" / "finding.json"
    path.write_text(path.read_text().replace('"a_figure.png"', '"../private", "a_figure.png"'))
    (tmp_path / "X1" / "a_figure.png").unlink()
    (tmp_path / "X1" / "a_figure.png").symlink_to(tmp_path / "private")
    loaded = load_finding(claim(), tmp_path / "X1", "standard")
    assert loaded is not None
    assert loaded.figures == ()


def test_a_markdown_report_shows_everything_as_text(tmp_path):
    entry = save_finding(claim(), finding(), tmp_path / "X1", "standard", 3.5)
    write_report([entry], tmp_path, title="All <claims>", preamble=["One & two."],
                 collection=Collection("t"))  # fmt: skip
    markdown = (tmp_path / "REPORT.md").read_text()
    assert "Depth \\<b>helps\\</b> \\| always." in markdown
    assert "![X1: a figure](X1/a_figure.png)" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| [X1]")]
    assert rows == [
        "| [X1](#x1) | Depth \\<b>helps\\</b> \\| always. | inconclusive "
        "| speed-up \\<i>: 2× (one seed) |  | source read |"
    ]


def test_the_parts_that_hold_are_counted():
    good, left = Effect("g", 2.0), Effect("o", 1, 0.9, 2)
    eleven = judge([*[above(good, 1)] * 11, above(left, 1)])
    assert eleven.num_held == 11
    assert not eleven.holds
    assert judge([above(good, 1)] * 3).holds
    assert not judge([above(good, 1, size=Range(10, 20)), above(good, 1)]).holds


def primary(value, low, high, *, halves=(), **at) -> Effect:
    at = {"problem": "A", "choice": "as chosen", **at}
    return Effect("", value, low, high, halves=halves).keyed(Key.of("speed-up", **at))


def other(value, low, high, **at) -> Effect:
    return primary(value, low, high, **at)


HELD, FAILED, ACROSS = (2.0, 1.5, 2.5), (0.5, 0.4, 0.6), (1.1, 0.9, 1.3)


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (HELD, [], Outcome.CONFIRMED),
        (HELD, [HELD, HELD], Outcome.CONFIRMED),
        # The sign flips with one of the choices, or its interval crosses.
        (HELD, [FAILED], Outcome.CONFIRMED_IF),
        (HELD, [HELD, ACROSS], Outcome.CONFIRMED_IF),
        (HELD, [FAILED, FAILED, HELD], Outcome.CONFIRMED_IF),
        (HELD, [FAILED, FAILED], Outcome.INCONCLUSIVE),
        (ACROSS, [HELD, HELD], Outcome.INCONCLUSIVE),
        (FAILED, [], Outcome.CONTRADICTED),
        (FAILED, [FAILED, ACROSS], Outcome.CONTRADICTED),
        (FAILED, [HELD], Outcome.INCONCLUSIVE),
        ((NAN, NAN, NAN), [HELD], Outcome.NOT_TESTABLE),
    ],
)
def test_outcomes_of_planted_effects(own, others, expected):
    effect = primary(*own)
    effects = [effect, *(other(*e, choice=f"choice {n}") for n, e in enumerate(others))]
    found = answer(above(effect, 1.0), effects)
    assert found.outcome == expected
    assert len(found.choices) == len(others)
    failing = [n for n, e in enumerate(others) if e != HELD]
    assert found.failing == tuple(f"choice {n}" for n in failing)
    if expected == Outcome.CONFIRMED_IF:
        assert str(found) == f"confirmed if not: {', '.join(found.failing)}"


def test_only_what_differs_in_one_choice_is_the_same_effect_by_another():
    effect = primary(2.0, 1.5, 2.5, depth=2, halves=(1.8, 0.9))
    effects = [
        effect,
        other(0.5, 0.4, 0.6, depth=3),  # another part of the claim
        other(0.5, 0.4, 0.6, depth=2, problem="B", choice="float64"),  # two choices at once
        other(0.7, 0.6, 0.8, depth=2, problem="B"),
        other(NAN, NAN, NAN, depth=2, choice="float64"),
        Effect("", 0.1).keyed(Key.of("another measure", problem="C", choice="as chosen", depth=2)),
    ]
    found = answer(above(effect, 1.0), effects)
    assert [name for name, _, _ in found.choices] == [
        "B", "first half of the learning rates", "second half of the learning rates",
    ]  # fmt: skip
    assert found.failing == ("B", "second half of the learning rates")
    assert found.span == (0.7, 2.0)
    by_depth = answer(above(effect, 1.0), effects, choices=("depth",))
    assert next(name for name, _, _ in by_depth.choices) == "depth 3"


def test_a_claim_of_existence_is_not_contradicted_and_an_untestable_one_has_no_other_outcome():
    effect = primary(*FAILED)
    assert answer(above(effect, 1.0), [effect], exists=True).outcome == Outcome.INCONCLUSIVE
    found = answer(above(effect, 1.0), [effect], untestable="the loss is not known")
    assert str(found) == "not testable: the loss is not known"
    assert answer(None, [effect]).outcome == Outcome.NOT_TESTABLE
    held = primary(*HELD)
    effects = [held, other(*FAILED, choice="float64")]
    assert str(answer(above(held, 1.0), effects, condition="p is 4")) == "confirmed if p is 4"


def test_a_precision_that_flips_the_sign_is_never_confirmed(rng):
    """Planted runs in which depth wins in float32 and loses in float64, by many seeds."""
    wins, loses = (named("", x) for x in (rng.normal(2, 0.1, 20), rng.normal(0.6, 0.1, 20)))
    at = {"problem": "A"}
    effects = [
        wins.keyed(Key.of("speed-up", **at, choice="as chosen")),
        loses.keyed(Key.of("speed-up", **at, choice="float64")),
    ]
    for effect in effects:
        found = answer(above(effect, 1.0), effects)
        assert found.outcome in (Outcome.CONFIRMED_IF, Outcome.INCONCLUSIVE)


def test_effects_read_as_numbers_do():
    assert str(Effect("e", 0.4567, 0.4, 0.5)) == "0.457× [0.4, 0.5]"
    assert str(Effect("e", 73_564.4, 24_736, INF, unit=" steps")) == "73,564 steps [24,736, ∞]"
    assert str(Effect("e", 12.0)) == "12×"
    assert str(Effect("e", 1.0, unit=" steps")) == "1 step"
    assert str(Effect("e", NAN)) == "no value"


def test_what_falls_short_is_named():
    good, bad, open_ = Effect("good", 2.0), Effect("bad", 0.5, 0.4, 0.6), Effect("open", 1, 0.9, 2)
    verdict = judge([above(effect, 1) for effect in (good, bad, open_)])
    text = failed_checks(verdict)
    assert "Opposite to what is claimed: bad (0.5× [0.4, 0.6])." in text
    assert "Not decided: open (1× [0.9, 2])." in text
    assert "good" not in text
    assert text.endswith("Why, we do not know.")
    assert failed_checks(verdict, "Because.").endswith("Because.")
    assert failed_checks(judge([above(good, 1)]), "Because.") == ""
    small = judge([above(good, 1, size=Range(10))])
    assert "Smaller than claimed: good (2×)." in failed_checks(small)


@pytest.mark.parametrize("verdicts", [True, False])
def test_a_report_judges_or_shows_no_trace_of_a_verdict(tmp_path, verdicts):
    effects = Effect("bad", 0.5, 0.4, 0.6), Effect("good", 3.0)
    verdict = judge([above(e, 1) for e in effects])
    found = dataclasses.replace(
        finding(), effects=effects, verdict=verdict, summary="Seen." + failed_checks(verdict),
        sensitivity="Nothing.",
    )  # fmt: skip
    entry = save_finding(claim(), found, tmp_path / "X1", "smoke", 3.5)
    write_report(
        [entry], tmp_path, title="t", preamble=["p"], collection=Collection("t"), verdicts=verdicts
    )
    page = read_page((tmp_path / "report.html").read_text())
    for text in ((tmp_path / "REPORT.md").read_text(), page.text):
        # What a verdict is said with: the word, its values, and the sentences that explain it.
        for trace in ("outcome", "contradicted", "Opposite to", "Seen."):
            assert (trace in text) == verdicts, trace
        # What ran, and the headline.
        assert "any" in text
        assert "bad: 0.5×" in text
        if not verdicts:
            assert "good: 3×" in text


def test_claims_say_what_they_are():
    with pytest.raises(UserError, match="statement is empty"):
        claim(statement=" ")


CLAIM_FILE = """
from implicit_accel.claims.api import Claim, Found
CLAIM = Claim(
    id={id!r}, statement="s", source="s", run=lambda _: Found(), minutes=1.0, paper_hours=1.0,
)
"""


@pytest.fixture
def claim_file(tmp_path, monkeypatch):
    """Puts a module with some text on the claims' path; it is forgotten afterwards."""
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(f"implicit_accel.claims.published.{name}", None)
        if hasattr(claims, name):
            delattr(claims, name)


def test_a_claim_is_added_by_its_file_alone_and_takes_its_place(claim_file):
    before = [c.id for c in load_collection().claims]
    for name in ("P10", "P2b", "S8"):
        claim_file(name.lower(), CLAIM_FILE.format(id=name))
    claim_file("helper", "raise AssertionError('not a claim, not imported')")
    ids = [c.id for c in load_collection().claims]
    assert [i for i in ids if i in before] == before
    assert ids.index("P2b") == ids.index("P2") + 1
    assert ids.index("P10") == ids.index("P8") + 1  # by number: after P8, before F1
    assert ids[ids.index("S7") + 1] == "S8"


@pytest.mark.parametrize("text", ["", "CLAIM = 3", CLAIM_FILE.format(id="S9")])
def test_a_file_named_after_a_claim_holds_it(claim_file, text):
    claim_file("s8", text)
    with pytest.raises(UserError, match=r"s8\.py: CLAIM must be the claim S8"):
        load_collection()
