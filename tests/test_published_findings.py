"""The findings of the published report: criteria that could have come out otherwise, and numbers
that agree with each other."""

import math
from pathlib import Path

import pytest

from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.criteria import Direction, Size, could_be
from implicit_accel.claims.findings import load_findings

FINDINGS = load_findings(Path(__file__).parents[1] / "docs" / "reproduction" / "findings.json")

CLAIMS = {claim.id: claim for claim in load_collection().claims}


def test_every_claim_was_judged():
    assert set(FINDINGS) == set(CLAIMS)
    for name, finding in FINDINGS.items():
        assert finding.verdict.parts, name
        assert finding.effects, name


@pytest.mark.parametrize("name", FINDINGS)
def test_every_part_could_have_been_met_and_failed(name):
    """By what its experiment can show at most and at least, at the parts' joint confidence."""
    parts = FINDINGS[name].verdict.parts
    for judged in parts:
        if math.isnan(judged.part.effect.value):
            continue  # nothing arrived: undecided, and the report says so
        possible = could_be(judged.part, len(parts))
        assert Direction.AS_CLAIMED in possible, judged.part.effect.name
        assert Direction.OPPOSITE in possible, judged.part.effect.name


@pytest.mark.parametrize("name", FINDINGS)
def test_every_answer_follows_from_the_interval_stored(name):
    """A part is never more certain than its own 95 % interval, which is within the joint one."""
    for judged in FINDINGS[name].verdict.parts:
        effect = judged.part.effect
        if math.isnan(effect.low) or judged.direction == Direction.UNDECIDED:
            continue
        where = judged.part.claimed.place(effect.low, effect.high)
        assert (where == "inside") == (judged.direction == Direction.AS_CLAIMED), effect.name
        if judged.size in (Size.SMALLER, Size.LARGER, Size.AS_CLAIMED):
            assert judged.part.size is not None


# The same quantities under other names: claim, measure and coordinates of either.
SAME = [
    (
        ("P0", "speed-up to 10 %", {"problem": "Ethanol", "p": 4, "depth": 2}),
        ("S7", "speed-up to the common target", {"station": "the paper's setting", "depth": 2}),
    ),
    (
        ("P3b", "speed-up to 10 %", {"problem": "Ethanol", "p": 4, "depth": 3}),
        ("S7", "speed-up to the common target", {"station": "the paper's setting", "depth": 3}),
    ),
]


def measured(claim: str, measure: str, at: dict):
    (found,) = [e for e in FINDINGS[claim].effects if e.key and e.key.matches(measure, at)]
    return found


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_quantity_agrees_wherever_it_is_measured(one, other):
    """Within the intervals: their overlap, since both have an error."""
    a, b = measured(*one), measured(*other)
    assert a.low <= b.high
    assert b.low <= a.high


def test_effects_with_one_key_agree():
    """Between claims, too: P0 and P3b measure one speed-up on the same runs."""
    found = {}
    for name, finding in FINDINGS.items():
        for effect in finding.effects:
            if effect.key is not None:
                found.setdefault(effect.key, []).append((name, effect))
    shared = [effects for effects in found.values() if len(effects) > 1]
    assert shared
    for effects in shared:
        assert len({(e.value, e.low, e.high) for _, e in effects}) == 1, effects


def test_causes_are_claims_of_the_report():
    for name, finding in FINDINGS.items():
        if finding.cause is not None:
            assert set(finding.cause.claims) <= set(CLAIMS), name
