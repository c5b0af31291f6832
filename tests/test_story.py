"""The report's first page: what it tells is in the findings, and nothing else."""

import re
from pathlib import Path

from test_claims import claim

from implicit_accel.claims.criteria import Cause, Finding, above, judge
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.published.sources import RECOLLECTED
from implicit_accel.claims.registry import find_claims
from implicit_accel.claims.report import recollections
from implicit_accel.claims.story import tell


def entry(name: str, *effects: Effect, figures: tuple[str, ...] = ()) -> Entry:
    finding = Finding(
        judge([above(e, 1.0) for e in effects]), effects, summary="s", cause=Cause(("T1",), "Why.")
    )
    return Entry(claim(id=name), finding, tuple(Path(name) / f for f in figures), 1.0)


def everything() -> list[Entry]:
    return [
        entry("P3a", Effect("Ethanol, ℓ2, depth 2: times slower", 1.0123)),
        entry(
            "P3b", Effect("Ethanol, ℓ4, GD, depth 2: times sooner at", 7.0123),
            Effect("Ethanol, ℓ4, depth 2", 4.0123), figures=("speed_up.png",),
        ),
        entry("P6", Effect("MNIST, sum", 9.0123), figures=("training_loss.png",)),
        entry(
            "S7", Effect("Ethanol, the paper's setting, depth 2", 3.0123),
            Effect("Ethanol, the student project's setting, depth 2", 0.0123),
            figures=("stations.png",),
        ),
        entry("T9", Effect("rule", 0.9923, 0.9, 1.1), figures=("taken_apart.png",)),
    ]  # fmt: skip


def test_five_questions_four_figures_and_every_number_from_a_finding():
    chapters = tell(everything())
    assert len(chapters) == 5
    assert [c.figure.stem for c in chapters if c.figure] == [
        "speed_up", "stations", "taken_apart", "training_loss",
    ]  # fmt: skip
    text = " ".join(" ".join(c.sentences) for c in chapters)
    for number in ("7.01×", "4.01×", "1.01×", "3.01×", "0.0123×", "0.992× [0.9, 1.1]", "9.01×"):
        assert number in text
    assert "5 claims" not in text  # theory's own claim is none of the literature's
    assert "Of 4 claims of the literature 3 have the direction" in text
    assert "of their 6 parts 5 are as claimed, 1 opposite, 0 undecided" in text
    # No number but the papers' years, p > 2, ℓ2 and ℓ4, and what the findings hold.
    bare = re.sub(r"[\d.]+×( \[[\d., ]+\])?|ℓ\d|\(20\d\d\)|depth 2|p > 2|\b[A-Z]\d+\b", "", text)
    assert set(re.findall(r"\d+", bare)) == {"4", "3", "6", "5", "1", "0"}


def test_what_was_not_found_is_not_told():
    assert tell([]) == ()
    assert tell([entry("P7", Effect("e", 1.0))]) == ()
    chapters = tell([e for e in everything() if e.claim.id != "S7"])
    assert not any("student project see" in c.question for c in chapters)


def test_what_is_known_from_memory_is_listed_with_the_claims_that_use_it():
    known = recollections([entry("P4b"), entry("P7")])
    assert known is not None
    assert [set(text.split(", ")) for text in known["claims"]][-2:] == [{"P7"}, {"P4b"}]
    assert recollections([entry("F1")]) is None
    ids = {claim.id for claim in find_claims()}
    assert {i for known in RECOLLECTED for i in known.claims} <= ids
    for found in find_claims():  # nothing is remembered in a corner
        if "from memory" in found.source:
            assert any(found.id in known.claims for known in RECOLLECTED)
