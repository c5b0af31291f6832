"""What claims are about, and who made them: how a report is divided."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_accel.claims.findings import Entry

# A question, a short name for it, and the claims that answer it.
_QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "What does the loss do?": ("loss", ("P0", "P3a", "P3b", "P8", "S1", "S4", "S7")),
    "What does the initialisation do?": (
        "initialisation",
        ("P5a", "P5b", "F1", "F2", "F3", "S2"),
    ),
    "What does the optimizer do?": ("optimizer", ("P4a", "P4b", "S3")),
    "What about non-linear networks?": ("non-linear networks", ("P6", "F4", "S5", "S6")),
    "What does theory say?": (
        "theory",
        ("P1", "P2", "P7", *(f"T{number}" for number in range(1, 12))),
    ),
}
_OTHER = ("What else is there?", "other")

_SOURCES = {
    "P": "Arora, Cohen & Hazan 2018",
    "F": "Arora et al. 2019",
    "S": "Levy & Wang 2024",
    "T": "this project's theory",
}


def by_question(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The claims under the questions that they answer; claims of none come last.

    Args:
        entries: The claims, in the order that they keep within a question.
    """
    found = {question: [e for e in entries if _place(e)[0] == question] for question in _QUESTIONS}
    found[_OTHER[0]] = [e for e in entries if _place(e) == _OTHER]
    return {question: own for question, own in found.items() if own}


def topic(entry: Entry) -> str:
    """The short name of the question that a claim is about."""
    return _place(entry)[1]


def made_by(entry: Entry) -> str:
    """Who made a claim, in a few words."""
    return _SOURCES.get(entry.claim.id[:1], "others")


def _place(entry: Entry) -> tuple[str, str]:
    for question, (name, claims) in _QUESTIONS.items():
        if entry.claim.id in claims:
            return question, name
    return _OTHER
