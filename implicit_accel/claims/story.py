"""The report's first page, for a reader who knows neither paper.

The answer in three sentences, then five questions with four figures.

Every number in it is an effect of a finding; what a finding does not hold is not told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from implicit_accel.claims.criteria import Direction, Size
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.forest import Forest


@dataclass(frozen=True)
class Chapter:
    """A question with its answer.

    Attributes:
        question: Its heading.
        sentences: The answer.
        figure: What shows it; None without.
        caption: What the figure shows, in a sentence.
    """

    question: str
    sentences: tuple[str, ...]
    figure: Path | None = None
    caption: str = ""


@dataclass(frozen=True)
class Answer:
    """What one should know who reads no further.

    Attributes:
        sentences: Three.
        forest: The speed-ups that they are about.
        claims: For each row of it the claim that measured it.
    """

    sentences: tuple[str, str, str]
    forest: Forest
    claims: tuple[str, ...]


def answer(entries: Sequence[Entry]) -> Answer | None:
    """When depth accelerates, and why.

    Args:
        entries: The claims of a report.

    Returns:
        The answer; None where these claims are not there, or did not come out as it says.
    """
    found = {entry.claim.id: entry for entry in entries}
    early, late = (_effect(found, "P3b", words) for words in ("ℓ4, depth 2", "times sooner"))
    slow = _effect(found, "P3a")
    theirs = _effect(found, "S7", "student project's setting, depth 2")
    rule = _effect(found, "T9")
    if early is None or late is None or slow is None or theirs is None or rule is None:
        return None
    faster, slower = found["P3b"].finding.verdict, found["P3a"].finding.verdict
    if {*faster.directions, *slower.directions} != {Direction.AS_CLAIMED}:
        return None
    if {judged.size for judged in faster.parts} != {Size.SMALLER} or theirs.value > 1:
        return None
    return Answer(
        (
            "With a loss that is steep far from its minimum, yes: on ℓ4 a network of depth 2 comes "
            f"to a tenth of the zero predictor's excess loss {_bare(early)} as fast as one layer, "
            f"and is {_bare(late)} sooner where one layer ends after the authors' million steps. "
            "Orders of magnitude, as was claimed, it is nowhere.",
            f"On ℓ2, no: there one layer is {_bare(slow)} as fast as depth 2. That, few steps and "
            "too small learning rates are why a student project could not confirm it: in its "
            f"setting depth 2 is {theirs} as fast as one layer.",
            "The cause is the learning rate. On ℓ4 the loss is sharpest at the start, which holds "
            "one layer's rate back for good, while a deep network's effective rate grows with its "
            f"weights: on Ethanol one layer with a rate that grows alike is as fast as depth 2 "
            f"({_bare(rule)}).",
        ),
        *_picture(found),
    )


# A row of the answer's picture: what it says, and the claim and the effect that it shows.
_ROWS = (
    ("ℓ2, depth 2", "P3a", "ℓ2, depth 2: times slower"),
    ("ℓ2, depth 3", "P3a", "ℓ2, depth 3: times slower"),
    ("ℓ4, depth 2", "P3b", "ℓ4, depth 2"),
    ("ℓ4, depth 3", "P3b", "ℓ4, depth 3"),
    ("ℓ4, depth 2, a million steps", "P3b", "GD, depth 2: times sooner"),
    ("ℓ4, depth 3, a million steps", "P3b", "GD, depth 3: times sooner"),
    ("the student project's setting, depth 2", "S7", "student project's setting, depth 2"),
    ("the student project's setting, depth 3", "S7", "student project's setting, depth 3"),
)


def _picture(found: dict[str, Entry]) -> tuple[Forest, tuple[str, ...]]:
    rows = [(name, claim, _effect(found, claim, words)) for name, claim, words in _ROWS]
    shown = [(name, claim, effect) for name, claim, effect in rows if effect is not None]
    effects = tuple(
        replace(_inverse(effect) if "slower" in effect.name else effect, name=name)
        for name, _, effect in shown
    )
    forest = Forest(
        {"": effects},
        title="Depth's speed-up over one layer, each at its own best learning rate",
        xlabel="times as fast",
    )
    return forest, tuple(claim for _, claim, _ in shown)


def _inverse(effect: Effect) -> Effect:
    """A slow-down as a speed-up."""
    halves = tuple(1 / half for half in effect.halves if half > 0)
    value, low, high = (1 / v if v else math.inf for v in (effect.value, effect.high, effect.low))
    return replace(effect, value=value, low=low, high=high, halves=halves, at=None)


def _bare(effect: Effect) -> str:
    """An effect without its interval."""
    return str(replace(effect, low=math.nan, high=math.nan))


def tell(entries: Sequence[Entry]) -> tuple[Chapter, ...]:
    """The story, as far as these claims tell it.

    Args:
        entries: The claims of a report.

    Returns:
        Its chapters in order; none if there is nothing to answer the first question with.
    """
    found = {entry.claim.id: entry for entry in entries}
    chapters = [
        Chapter("What was claimed?", _CLAIMED),
        _what_holds(found),
        _why_opposite(found),
        _what_depth_does(found),
        _a_network(found),
    ]
    told = tuple(chapter for chapter in chapters if chapter is not None and chapter.sentences)
    return told if len(told) > 1 else ()


_CLAIMED = (
    "A product of matrices is a matrix: stacking linear layers adds nothing that a single layer "
    "cannot express.",
    "Arora, Cohen & Hazan (2018) showed that it changes how gradient descent gets there: the "
    "product moves with a learning rate that grows with the weights and a memory of where it "
    "came from. On ℓp regression with p > 2 that made training faster, 'by orders of magnitude'; "
    "on ℓ2 slightly slower.",
    "Levy & Wang (2024) ran it again on the same data and could not confirm it: on Ethanol one "
    "layer did best.",
)


def _effect(found: dict[str, Entry], claim: str, words: str = "") -> Effect | None:
    """A claim's first effect whose name holds some words."""
    effects = found[claim].finding.effects if claim in found else ()
    return next((effect for effect in effects if words in effect.name), None)


def _figure(found: dict[str, Entry], claim: str, name: str) -> Path | None:
    figures = found[claim].figures if claim in found else ()
    return next((path for path in figures if path.stem.startswith(name)), None)


def _tally(found: dict[str, Entry]) -> str:
    """How many claims of others hold, part by part."""
    judged = {i: e.finding.verdict for i, e in found.items() if not i.startswith("T")}
    parts = Counter(j.direction for verdict in judged.values() for j in verdict.parts)
    whole = sum(v.directions == {Direction.AS_CLAIMED} for v in judged.values())
    return (
        f"Of {len(judged)} claims of the literature {whole} have the direction that was claimed in "
        f"every part; of their {sum(parts.values())} parts {parts[Direction.AS_CLAIMED]} are as "
        f"claimed, {parts[Direction.OPPOSITE]} opposite, {parts[Direction.UNDECIDED]} undecided."
    )


def _what_holds(found: dict[str, Entry]) -> Chapter | None:
    late, early = (_effect(found, "P3b", words) for words in ("times sooner", "ℓ4, depth 2"))
    slow = _effect(found, "P3a")
    if late is None or early is None or slow is None:
        return None
    whitened = [_effect(found, "S7", f"setting, whitened, depth {depth}") for depth in (2, 3)]
    scaled = " and ".join(f"{e} (depth {n})" for n, e in enumerate(whitened, 2) if e is not None)
    return Chapter(
        "What holds?",
        (
            "The direction, on standardised Ethanol data and both losses, and on ℓ4 the more the "
            "longer one trains. To a tenth of the zero predictor's excess loss depth 2 is "
            f"{early} as fast as one layer; at the loss that one layer has after the authors' "
            f"million steps it is {late} sooner, at the one of its rates that is there first.",
            f"On ℓ2 one layer is faster than depth 2, by {slow}.",
            "The size does not: a hundredfold ratio of steps is nowhere within a million steps, "
            "in our runs or in the authors' own figure.",
            *(
                (
                    "How the authors scaled their data is not known, and it matters: on whitened "
                    f"ones the speed-ups on ℓ4 are {scaled}.",
                )
                if scaled
                else ()
            ),
            _tally(found),
        ),
        _figure(found, "P3b", "speed_up"),
        "Depth's speed-up on ℓ4 against the target (left) and the horizon (right).",
    )


def _why_opposite(found: dict[str, Entry]) -> Chapter | None:
    theirs, papers = (
        _effect(found, "S7", f"{whose} setting, depth 2")
        for whose in ("the student project's", "the paper's")
    )
    if theirs is None or papers is None:
        return None
    why = found["S7"].finding.cause
    return Chapter(
        "Why did the student project see the opposite?",
        (
            "Each saw the direction that its own setting shows. In the student project's depth 2 "
            f"is {theirs} as fast as one layer, in the paper's {papers}.",
            "On Ethanol it compared depths on ℓ2, where from such starts depth hardly helps; over "
            "a hundred epochs, in which one layer's slow end is out of sight; and at first with "
            "learning rates that end below what its deeper networks bear.",
            *((f"Theory says so beforehand: {why.why}",) if why is not None else ()),
        ),
        _figure(found, "S7", "stations"),
        "From the student project's setting to the paper's, one change at a time.",
    )


def _what_depth_does(found: dict[str, Entry]) -> Chapter | None:
    rule = _effect(found, "T9")
    if rule is None:
        return None
    verdict = found["T9"].finding.verdict
    return Chapter(
        "What does depth really do?",
        (
            "On ℓ4 the loss is sharpest at the start: one layer's learning rate is bound by its "
            "first steps, and too small ever after. A deep network's effective rate begins small "
            "and grows with its weights, as the sharpness falls.",
            "On Ethanol at depth 2 the rule that does this to a single layer is as fast as the "
            f"network ({rule} of its speed), and an oracle that always uses the largest stable "
            "rate is hardly faster. How far that carries T9 tells, whose parts over depths and "
            f"data are {verdict.direction}.",
        ),
        _figure(found, "T9", "taken_apart"),
        "The end-to-end rule's parts alone and together, the network, and an oracle.",
    )


def _a_network(found: dict[str, Entry]) -> Chapter | None:
    faster = _effect(found, "P6")
    if faster is None:
        return None
    return Chapter(
        "And the convolutional network?",
        (
            "The published curves are met, and they show a sum of cross-entropy and weight decay. "
            "Where the product of the new factors is what is decayed, the sum falls faster "
            f"({faster}), because decay does; that the network learns faster for it is not seen.",
        ),
        _figure(found, "P6", ""),
        "The regularised sum with the authors' curves, and its two parts.",
    )
