"""The prose of a claim: Markdown with placeholders, which are filled in from its findings.

A text has sections with the headings in `SECTIONS`, each of them optional. Placeholders are those
of Jinja2: ``{{ effect("speed-up", depth=2) }}`` is an effect with its interval, and its attributes
are those of `Effect` (``.value``, ``.bare``, ``.note``); an experiment's facts are variables by
their names. A placeholder whose effect was not measured, since a data set or a depth is missing,
becomes "no value"; one that names nothing the claim measures is an error. The filter ``listed``
writes several effects, ``sig`` a number with three digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from implicit_accel.claims.effects import (
    Coordinate,
    Effect,
    coordinates_by_measure,
    format_number,
    matching,
    short_labels,
)
from implicit_accel.errors import UserError

SECTIONS = (
    "What we ran", "Criterion", "What we saw", "If a check fails", "Why", "Sensitive to",
    "Caveats", "Captions",
)  # fmt: skip
"""*What we ran* and *Criterion* are put behind what is generated; *If a check fails* behind the
checks that failed; *Caveats* and *Captions* (``* file: words``) are lists."""

_HEADING = re.compile(r"^## +(.+?) *$", re.MULTILINE)
_ITEM = re.compile(r"^\*(?: +|$)", re.MULTILINE)

# What an expression in a placeholder may raise.
_NO_VALUE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def render(
    claim: str, text: str, effects: Sequence[Effect], facts: Mapping[str, Any], **more: Any
) -> dict[str, str]:
    """A claim's text by its sections, with the placeholders filled in.

    Args:
        claim: The claim's id, for errors.
        text: The Markdown.
        effects: The claim's effects.
        facts: Its other values.
        **more: Further variables.

    Raises:
        UserError: If a heading is unknown, or a placeholder names nothing.
    """
    known = coordinates_by_measure(effects)

    def chosen(measure: str, **coordinates: Coordinate) -> list[Effect]:
        if measure not in known:
            raise UserError(
                f"claim {claim}: its text names {measure!r}, which is not measured; there are "
                f"{', '.join(sorted(known)) or 'no measures'}"
            )
        if unknown := set(coordinates) - known[measure]:
            raise UserError(
                f"claim {claim}: its text asks for {measure!r} at {', '.join(sorted(unknown))}; "
                f"the measure's coordinates are {', '.join(sorted(known[measure])) or 'none'}"
            )
        return matching(effects, measure, coordinates)

    def effect(measure: str, **coordinates: Coordinate) -> Effect:
        return next(iter(chosen(measure, **coordinates)), Effect("", math.nan))

    functions = {"effect": effect, "effects": chosen, "all_effects": list(effects)}
    return sections(
        claim, fill_in(f"claim {claim}: its text", text, {**facts, **more, **functions})
    )


def fill_in(what: str, text: str, values: Mapping[str, Any]) -> str:
    """A text with its placeholders filled in. It can run nothing but what is handed to it.

    Args:
        what: What it is, for errors.
        text: With placeholders.
        values: Variables and functions by name.

    Raises:
        UserError: If a placeholder names nothing, or has no value.
    """
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"listed": listed, "number": format_number, "sig": _significant}
    try:
        return environment.from_string(text).render(values)
    except UserError:
        raise
    except (jinja2.TemplateError, *_NO_VALUE) as error:
        raise UserError(f"{what} cannot be filled in ({error})") from None


def by_heading(text: str) -> list[tuple[str, str]]:
    """The headings of a text in their order, each with what is below it."""
    _, *parts = _HEADING.split(text)
    return list(zip(parts[::2], parts[1::2], strict=True))


def sections(claim: str, text: str) -> dict[str, str]:
    """The sections of a text by their headings, without line breaks.

    Raises:
        UserError: If a heading is unknown or occurs twice.
    """
    found: dict[str, str] = {}
    for heading, body in by_heading(text):
        if heading not in SECTIONS or heading in found:
            raise UserError(
                f"claim {claim}: the heading {heading!r} of its text is unknown or repeated; use "
                f"each of {', '.join(SECTIONS)} at most once"
            )
        found[heading] = body.strip()
    return found


def paragraph(text: str) -> str:
    """A section as one paragraph."""
    return " ".join(text.split())


def items(text: str) -> list[str]:
    """A section as a list; those that a placeholder left empty are dropped."""
    return [words for part in _ITEM.split(text) if (words := paragraph(part))]


def listed(effects: Sequence[Effect]) -> str:
    """Effects as text, each with what distinguishes it from the others."""
    names = short_labels(effects)
    return "; ".join(f"{name}: {e}" for name, e in zip(names, effects, strict=True))


def _significant(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+0" in text and abs(value) < 1e6 else text
