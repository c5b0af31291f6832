"""From a claim and a context to a finding: run, measure, judge, describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from implicit_accel.claims import text as texts
from implicit_accel.claims.api import Claim, Found, Measure, Scaled
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, Verdict, failed_checks, judge
from implicit_accel.claims.describe import criterion_in_words, grids_in_words
from implicit_accel.claims.effects import Coordinate, Effect, Key, coordinates_by_measure
from implicit_accel.errors import UserError


def evaluate(claim: Claim, context: Context) -> Finding:
    """Runs a claim's experiment and judges it.

    Args:
        claim: The claim.
        context: What it is run with.

    Raises:
        UserError: If a check or the text does not fit what is measured, or two effects have one
            key.
    """
    context = dataclasses.replace(context, grids=[])
    found = claim.run(context)
    first = next(iter(found.runs), "")
    effects = [*found.effects, *measured(claim.measures, found, context)]
    _check_keys(claim, effects)
    parts = judged_parts(claim, effects, first)
    verdict = judge(parts)
    facts = {"first": first, "scale": context.scale.value, **found.facts}
    text = texts.render(claim.id, claim.text, effects, facts, verdict=verdict)
    return _written(claim, context, found, effects, verdict, text, first)


def measured(measures: Sequence[Measure], found: Found, context: Context) -> list[Effect]:
    """The effects of some measures, problem by problem, in the order of the measures.

    Args:
        measures: The measures.
        found: What they are evaluated on.
        context: Says at which scale.
    """
    effects = []
    for measure in measures:
        for problem, own in found.runs.items():
            for coordinates in _combinations(measure, context):
                effect = measure.estimate(own, **coordinates)
                if effect is not None:
                    key = Key.of(measure.name, problem=problem, **coordinates)
                    effects.append(effect.keyed(key))
    return effects


def _combinations(measure: Measure, context: Context) -> list[dict[str, Coordinate]]:
    found: list[dict[str, Coordinate]] = [{}]
    for name, values in measure.over.items():
        chosen = values.at(context) if isinstance(values, Scaled) else values
        found = [{**one, name: value} for one in found for value in chosen]
    return found


def judged_parts(claim: Claim, effects: Sequence[Effect], first: str) -> list[Part]:
    """What a claim's checks judge, in their order.

    Args:
        claim: The claim.
        effects: Its effects.
        first: The name of the first problem.

    Raises:
        UserError: If a check names a measure or a coordinate that no effect has.
    """
    coordinates = coordinates_by_measure(effects)
    for check in claim.checks:
        if check.measure not in coordinates:
            there = ", ".join(coordinates) or "none"
            raise UserError(
                f"claim {claim.id}: a check of {check.measure!r}, which is not measured; measures: "
                f"{there}"
            )
        if unknown := set(check.at) - coordinates[check.measure]:
            there = ", ".join(sorted(coordinates[check.measure])) or "none"
            raise UserError(
                f"claim {claim.id}: a check of {check.measure!r} at {', '.join(sorted(unknown))}; "
                f"the measure's coordinates are {there}"
            )
    return [
        Part(effect, check.claimed, check.size)
        for check in claim.checks
        for effect in check.chosen(effects, first)
    ]


def _check_keys(claim: Claim, effects: Sequence[Effect]) -> None:
    keys = [effect.key for effect in effects]
    if None in keys or len(set(keys)) < len(keys):
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        raise UserError(f"claim {claim.id}: effects need keys of their own: {', '.join(twice)}")


def _unmeasured(claim: Claim, effects: Sequence[Effect], first: str) -> str:
    """Names the checks of what was not measured, such as data that are missing."""
    missing = [c for c in claim.checks if not c.chosen(effects, first)]
    return f" Not measured: {criterion_in_words(missing, effects, first)}" if missing else ""


def _written(
    claim: Claim,
    context: Context,
    found: Found,
    effects: Sequence[Effect],
    verdict: Verdict,
    text: dict[str, str],
    first: str,
) -> Finding:
    # Tables are shown also where too little was run to judge.
    shown = verdict if context.scale.has_verdicts else Verdict()
    section = {name: texts.paragraph(body) for name, body in text.items()}
    ran = " ".join(filter(None, (grids_in_words(context.grids), section.get("What we ran", ""))))
    criterion = " ".join(
        filter(None, (criterion_in_words(claim.checks, effects, first), section.get("Criterion")))
    )
    why = section.get("Why", "")
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        ran=ran,
        criterion=criterion,
        summary=section.get("What we saw", _in_a_sentence(effects))
        + failed_checks(verdict, section.get("If a check fails", ""))
        + _unmeasured(claim, effects, first),
        cause=Cause(claim.explained_by, why) if claim.explained_by and why else None,
        sensitivity=section.get("Sensitive to", ""),
        caveats=tuple(texts.items(text.get("Caveats", ""))),
        tables={**tables_of(effects, shown), **found.tables},
        figures={**found.figures, **{name: plot(effects) for name, plot in claim.plots.items()}},
        captions=_captions(claim, text.get("Captions", "")),
        curves=found.curves,
    )


def _captions(claim: Claim, section: str) -> dict[str, str]:
    found = {}
    for item in texts.items(section):
        name, colon, words = item.partition(": ")
        if not colon:
            raise UserError(
                f"claim {claim.id}: the caption {item!r} of its text names no figure; write "
                "* file: words"
            )
        found[name] = words
    return found


def _in_a_sentence(effects: Sequence[Effect]) -> str:
    return "; ".join(f"{effect.name}: {effect}" for effect in effects) + "."


def tables_of(effects: Sequence[Effect], verdict: Verdict) -> dict[str, pd.DataFrame]:
    """Effects as tables, one for each measure: a row with the coordinates for each.

    Args:
        effects: With keys.
        verdict: Says which are judged, and how.
    """
    judged = {judged.part.effect.key: str(judged.direction) for judged in verdict.parts}
    rows: dict[str, list[dict[str, Any]]] = {}
    for effect in effects:
        assert effect.key is not None
        row = {
            **dict(effect.key.at),
            "value": str(effect),
            "direction": judged.get(effect.key, ""),
            "halves of the grid": ", ".join(f"{h:.3g}{effect.unit}" for h in effect.halves),
            "remarks": effect.note,
        }
        rows.setdefault(effect.key.measure, []).append(row)
    tables = {}
    for measure, own in rows.items():
        table = pd.DataFrame(own)
        optional = ("direction", "halves of the grid", "remarks")
        empty = [c for c in optional if not any(table[c].tolist())]
        tables[measure[:1].upper() + measure[1:]] = table.drop(columns=empty)
    return tables
