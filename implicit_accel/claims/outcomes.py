"""Criteria and outcomes as JSON for other programs, with a schema.

Unlike the findings, which this project reads again, this form is stable: a version is part of its
schema's address.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from implicit_accel.claims.context import Scale
from implicit_accel.claims.criteria import Direction, Judged, Outcome, Range, Size
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import Entry
from implicit_accel.files import save_json

OUTCOMES_FILE = "outcomes.json"

_NUMBER = {"type": ["number", "null"], "description": "null: unknown, or without a limit"}
_TEXT = {"type": "string"}


def _object(description: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_EFFECT = _object(
    "A number with its interval",
    measure={**_TEXT, "description": "what is measured"},
    coordinates={
        "type": "object",
        "description": "where: problem, p, depth …",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    value=_NUMBER,
    low=_NUMBER,
    high=_NUMBER,
    confidence={**_NUMBER, "description": "null: the interval is the range over seeds"},
    seeds={"type": "integer", "minimum": 1},
    unit=_TEXT,
    bound={"enum": ["", "<", ">"], "description": "whether the value is only a bound"},
    note=_TEXT,
)
_RANGE = _object(
    "Where the effect should lie", low=_NUMBER, high=_NUMBER, closed={"type": "boolean"}
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:implicit-accel:outcomes:2",
    "title": "Outcomes of claims",
    **_object(
        "Claims with their criteria and what was found",
        schema={"const": "urn:implicit-accel:outcomes:2"},
        scale={"enum": list(map(str, Scale))},
        claims={
            "type": "array",
            "items": _object(
                "A claim",
                id=_TEXT,
                statement=_TEXT,
                source=_TEXT,
                ran={**_TEXT, "description": "what was run, in words"},
                is_law={"type": "boolean", "description": "a law has no outcome"},
                outcome={"enum": [*map(str, Outcome), None]},
                condition={**_TEXT, "description": "of confirmed if, or why it is not testable"},
                primary={"anyOf": [_EFFECT, {"type": "null"}]},
                choices={
                    "type": "array",
                    "items": _object(
                        "The primary effect by another choice",
                        choice=_TEXT,
                        value=_NUMBER,
                        low=_NUMBER,
                        high=_NUMBER,
                        direction={"enum": list(map(str, Direction))},
                    ),
                },
                evidence=_TEXT,
                checks={
                    "type": "array",
                    "items": _object(
                        "A part of the criterion, with its outcome",
                        effect=_EFFECT,
                        claimed=_RANGE,
                        size={"anyOf": [_RANGE, {"type": "null"}]},
                        direction={"enum": list(map(str, Direction))},
                        size_is={"enum": list(map(str, Size))},
                    ),
                },
                effects={"type": "array", "items": _EFFECT},
                explained_by={"type": "array", "items": _TEXT},
            ),
        },
    ),
}  # fmt: skip
"""JSON Schema of the file."""


def save_outcomes(entries: Sequence[Entry], path: Path, scale: str) -> None:
    """Writes the outcomes of some claims, atomically; ``SCHEMA`` describes them.

    Args:
        entries: The claims.
        path: Of the file.
        scale: At which they were run.
    """
    claims = [_claim(entry) for entry in entries]
    save_json({"schema": SCHEMA["$id"], "scale": scale, "claims": claims}, path)


def _claim(entry: Entry) -> dict[str, Any]:
    claim, finding, answer = entry.claim, entry.finding, entry.answer
    return {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "ran": finding.ran,
        "is_law": claim.is_theory,
        "outcome": None if claim.is_theory else answer.outcome.value,
        "condition": answer.reason,
        "primary": None if answer.primary is None else _effect(answer.primary),
        "choices": [
            {
                "choice": name,
                "value": _number(effect.value),
                "low": _number(effect.low),
                "high": _number(effect.high),
                "direction": str(where),
            }
            for name, effect, where in answer.choices
        ],
        "evidence": entry.evidence,
        "checks": [_check(judged) for judged in finding.verdict.parts],
        "effects": [_effect(effect) for effect in finding.effects],
        "explained_by": [] if finding.cause is None else list(finding.cause.claims),
    }


def _check(judged: Judged) -> dict[str, Any]:
    part = judged.part
    return {
        "effect": _effect(part.effect),
        "claimed": _range(part.claimed),
        "size": None if part.size is None else _range(part.size),
        "direction": str(judged.direction),
        "size_is": str(judged.size),
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "measure": effect.name if effect.key is None else effect.key.measure,
        "coordinates": {} if effect.key is None else dict(effect.key.at),
        "value": _number(effect.value),
        "low": _number(effect.low),
        "high": _number(effect.high),
        "confidence": _number(effect.confidence),
        "seeds": effect.design.seeds,
        "unit": effect.unit.strip(),
        "bound": effect.bound,
        "note": effect.note,
    }


def _range(where: Range) -> dict[str, Any]:
    return {"low": _number(where.low), "high": _number(where.high), "closed": where.closed}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
