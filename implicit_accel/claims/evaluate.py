"""From a claim and a context to a finding: run, measure, judge, describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from implicit_accel.claims import text as texts
from implicit_accel.claims.api import Check, Claim, Found, Measure, Scaled
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, Verdict, judge, shortfall
from implicit_accel.claims.describe import criterion_in_words, grids_in_words
from implicit_accel.claims.effects import Coordinate, Effect, Key


def evaluate(claim: Claim, context: Context) -> Finding:
    """Runs a claim's experiment and judges it.

    Args:
        claim: The claim.
        context: What it is run with.

    Raises:
        UserError: If the claim's text does not fit what it measures.
        ValueError: If two effects have one key, or a check names no measure of the claim.
    """
    if claim.test is not None:
        return claim.test(context)
    assert claim.run is not None
    context = dataclasses.replace(context, grids=[])
    found = claim.run(context)
    first = next(iter(found.runs), "")
    effects = [*found.effects, *measured(claim.measures, found, context)]
    _check_keys(effects)
    parts = judged_parts(claim.checks, effects, first)
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
        runs = list(found.runs.items())[: 1 if measure.is_first_only else None]
        for problem, own in runs:
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


def judged_parts(checks: Sequence[Check], effects: Sequence[Effect], first: str) -> list[Part]:
    """What some checks judge, in their order.

    Raises:
        ValueError: If a check names a measure that no effect has.
    """
    measures = {effect.key.measure for effect in effects if effect.key is not None}
    for check in checks:
        if check.measure not in measures:
            raise ValueError(f"a check of {check.measure!r}, which is not measured: {measures}")
    return [
        Part(effect, check.claimed, check.size)
        for check in checks
        for effect in check.chosen(effects, first)
    ]


def _check_keys(effects: Sequence[Effect]) -> None:
    keys = [effect.key for effect in effects]
    if None in keys or len(set(keys)) < len(keys):
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        raise ValueError(f"effects need keys of their own: {', '.join(twice)}")


def _written(
    claim: Claim,
    context: Context,
    found: Found,
    effects: Sequence[Effect],
    verdict: Verdict,
    text: dict[str, str],
    first: str,
) -> Finding:
    section = {name: texts.paragraph(body) for name, body in text.items()}
    ran = " ".join(filter(None, (grids_in_words(context.grids), section.get("What we ran", ""))))
    criterion = " ".join(
        filter(None, (criterion_in_words(claim.checks, effects, first), section.get("Criterion")))
    )
    why = section.get("Why", "")
    captions = dict(words.split(": ", 1) for words in texts.items(text.get("Captions", "")))
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        ran=ran,
        criterion=criterion,
        summary=section.get("What we saw", texts_of(effects))
        + shortfall(verdict, section.get("If a check fails", "")),
        cause=Cause(claim.explained_by, why) if claim.explained_by and why else None,
        sensitivity=section.get("Sensitive to", ""),
        caveats=tuple(texts.items(text.get("Caveats", ""))),
        tables={**tables_of(effects), **found.tables},
        figures={**found.figures, **{name: plot(effects) for name, plot in claim.plots.items()}},
        captions=captions,
        curves=found.curves,
    )


def texts_of(effects: Sequence[Effect]) -> str:
    """Effects as a sentence."""
    return "; ".join(f"{effect.name}: {effect}" for effect in effects) + "."


def tables_of(effects: Sequence[Effect]) -> dict[str, pd.DataFrame]:
    """Effects as tables, one for each measure: a row with the coordinates for each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for effect in effects:
        assert effect.key is not None
        row = {
            **dict(effect.key.at),
            "value": str(effect),
            "halves of the grid": ", ".join(f"{h:.3g}{effect.unit}" for h in effect.halves),
            "remarks": effect.note,
        }
        rows.setdefault(effect.key.measure, []).append(row)
    tables = {}
    for measure, own in rows.items():
        table = pd.DataFrame(own)
        empty = [c for c in ("halves of the grid", "remarks") if not any(table[c].tolist())]
        tables[measure[:1].upper() + measure[1:]] = table.drop(columns=empty)
    return tables
