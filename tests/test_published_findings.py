"""The findings of the published report: criteria that could have come out otherwise, and numbers
that agree with each other."""

import itertools
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


def test_the_same_quantity_agrees_wherever_it_is_measured():
    """Within the intervals: their overlap, since both have an error."""
    measured = {}
    for name, finding in FINDINGS.items():
        for effect in finding.effects:
            if effect.quantity and not math.isnan(effect.value):
                measured.setdefault(effect.quantity, []).append((name, effect))
    shared = {quantity: found for quantity, found in measured.items() if len(found) > 1}
    assert len(shared) >= 2
    for quantity, found in shared.items():
        for (one, a), (other, b) in itertools.combinations(found, 2):
            assert a.low <= b.high, f"{quantity}: {one} {a} and {other} {b}"
            assert b.low <= a.high, f"{quantity}: {one} {a} and {other} {b}"


def test_causes_are_claims_of_the_report():
    for name, finding in FINDINGS.items():
        if finding.cause is not None:
            assert set(finding.cause.claims) <= set(CLAIMS), name
