"""What the article's text takes from the findings, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import implicit_accel
from implicit_accel import intervals
from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Scale
from implicit_accel.claims.criteria import Direction, Judged, Range, Size, Verdict
from implicit_accel.claims.effects import Effect, Kind
from implicit_accel.claims.findings import Entry
from implicit_accel.claims.published.sources import RECOLLECTED
from implicit_accel.errors import DataError

_LONGEST = 20_000

GROUPS = {
    "P": "Arora, Cohen & Hazan 2018",
    "F": "Arora, Cohen, Golowich & Hu 2019",
    "S": "Levy & Wang 2024",
    "T": "Theory",
}
"""By the first letter of a claim's id: who makes it."""


def check(scale: str, entries: Sequence[Entry], claims: Sequence[Claim], folder: Path) -> None:
    """Makes sure that an article can be written.

    Args:
        scale: Of the reproduction.
        entries: Its claims.
        claims: All that the article tells of.
        folder: The reproduction's, for messages.

    Raises:
        DataError: If the scale gives no verdicts, or claims are missing.
    """
    scales = [s.value for s in Scale if s.has_verdicts]
    if scale not in scales:
        raise DataError(
            f"{folder}: made at scale {scale[:40]!r}, which has no verdicts to write of; "
            f"an article needs {' or '.join(scales)}: python -m experiments.reproduce"
        )
    there = {entry.claim.id for entry in entries}
    missing = [claim.id for claim in claims if claim.id not in there]
    if missing:
        asked = "" if scale == Scale.STANDARD else f" --scale {scale}"
        raise DataError(
            f"{folder}: no finding on {', '.join(missing)}; an article tells of all claims. Make "
            f"them: python -m experiments.reproduce --claims {','.join(missing)}{asked} "
            f"--output_dir {folder}"
        )


def fill(scale: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """The data of an article: strings, and lists and dictionaries of them.

    Args:
        scale: Of the reproduction.
        entries: Its claims, in order.

    Returns:
        What ``article.json`` holds; `typeset` adds what depends on the text.
    """
    designs = [effect.design for entry in entries for effect in entry.finding.effects]
    seeds = [design.seeds for design in designs if design.kind != Kind.VALUE] or [1]
    return {
        "version": implicit_accel.__version__,
        "scale": _text(scale),
        "confidence": f"{100 * intervals.CONFIDENCE:g} %",
        "fewest": str(intervals.MIN_SEEDS),
        "most_diverged": f"{100 * intervals.MOST_DIVERGED:g} %",
        "minutes": f"{sum(entry.seconds for entry in entries) / 60:,.0f}",
        "fewest_seeds": str(min(seeds)),
        "most_seeds": str(max(seeds)),
        "groups": [
            {"letter": letter, "who": who, "ids": [e.claim.id for e in own]}
            for letter, who in GROUPS.items()
            if (own := [e for e in entries if e.claim.id.startswith(letter)])
        ],
        "tally": {
            "literature": _tally([e for e in entries if not e.claim.id.startswith("T")]),
            **{k: _tally([e for e in entries if e.claim.id.startswith(k)]) for k in GROUPS},
        },
        "claims": {entry.claim.id: _claim(entry) for entry in entries},
        "remembered": [
            {"fact": known.fact, "claims": list(known.claims), "hinges": known.hinges}
            for known in RECOLLECTED
        ],
    }


def overall(verdict: Verdict) -> str:
    """One answer on the direction of a whole claim; "mixed" if its parts disagree."""
    return str(next(iter(verdict.directions))) if len(verdict.directions) == 1 else "mixed"


def _tally(entries: Sequence[Entry]) -> dict[str, str]:
    """How many claims and parts there are, and what became of them."""
    parts = [judged for entry in entries for judged in entry.finding.verdict.parts]
    directions = Counter(judged.direction for judged in parts)
    sizes = Counter(j.size for j in parts if j.size != Size.NOT_COMPARABLE)
    whole = [e for e in entries if e.finding.verdict.directions == {Direction.AS_CLAIMED}]
    return {
        "claims": str(len(entries)),
        "whole": str(len(whole)),
        "replicated": str(sum(entry.finding.verdict.holds for entry in entries)),
        "parts": str(len(parts)),
        "held": str(directions[Direction.AS_CLAIMED]),
        "opposite": str(directions[Direction.OPPOSITE]),
        "undecided": str(directions[Direction.UNDECIDED]),
        "sized": str(sum(sizes.values())),
        "size_held": str(sizes[Size.AS_CLAIMED]),
        "explained": str(sum(entry.finding.cause is not None for entry in entries)),
    }


def _claim(entry: Entry) -> dict[str, Any]:
    claim, finding = entry.claim, entry.finding
    direction, size, cause = map(_text, entry.answers)
    return {
        "statement": _text(claim.statement),
        "source": _text(claim.source),
        "setting": _text(claim.setting),
        "criterion": _text(claim.criterion),
        "overall": overall(finding.verdict),
        "direction": direction,
        "size": size,
        "cause": cause,
        "why": "" if finding.cause is None else _text(finding.cause.why),
        "caveats": [_text(caveat) for caveat in finding.caveats],
        "effects": _effects(entry),
        "parts": [_part(judged) for judged in finding.verdict.parts],
    }


def _effects(entry: Entry) -> list[dict[str, str]]:
    """The finding's effects, then others that are judged; each with its answers, if judged."""
    judged = {j.part.effect.name: j for j in entry.finding.verdict.parts}
    effects = {e.name: e for e in entry.finding.effects}
    effects |= {name: j.part.effect for name, j in judged.items() if name not in effects}
    return [
        {
            **_effect(effect),
            "direction": str(judged[name].direction) if name in judged else "",
            "size": str(judged[name].size) if name in judged else "",
        }
        for name, effect in effects.items()
    ]


def _effect(effect: Effect) -> dict[str, str]:
    alone = Effect("", effect.value, unit=effect.unit)
    return {
        "name": _text(effect.name),
        "text": _text(effect).replace("-", "−"),
        "alone": _text(alone).replace("-", "−"),
    }


def _part(judged: Judged) -> dict[str, Any]:
    part = judged.part
    return {
        **_effect(part.effect),
        "claimed": _range(part.claimed, part.effect.unit),
        "claimed_size": "" if part.size is None else _range(part.size, part.effect.unit),
        "direction": str(judged.direction),
        "size": str(judged.size),
        "holds": judged.direction == Direction.AS_CLAIMED
        and judged.size in (Size.AS_CLAIMED, Size.NOT_COMPARABLE),
    }


def _range(where: Range, unit: str) -> str:
    """A range as a table shows it, e.g. "> 1×" or "0.8 to 1.25×"."""
    low, high = (Effect("", end, unit="") for end in (where.low, where.high))
    if math.isfinite(where.low) and math.isfinite(where.high):
        return f"{low} to {high}{_text(unit)}"
    above, below = ("≥", "≤") if where.closed else (">", "<")
    if math.isfinite(where.low):
        return f"{above} {low}{_text(unit)}"
    return f"{below} {high}{_text(unit)}" if math.isfinite(where.high) else "any"


def _text(value: object) -> str:
    """Text for the article: what no printer has a sign for becomes U+FFFD, line ends a space."""
    words = " ".join(str(value).split("\n"))
    return "".join(c if c.isprintable() else "\ufffd" for c in words[:_LONGEST])
