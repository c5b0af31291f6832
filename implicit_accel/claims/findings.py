"""What was found about a claim, on disk: figures, tables and JSON files that are read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.criteria import (
    Cause,
    Direction,
    Finding,
    Judged,
    Part,
    Range,
    Size,
    Verdict,
)
from implicit_accel.claims.curves import load_curves, save_curves
from implicit_accel.claims.effects import Coordinate, Design, Effect, Key, Kind
from implicit_accel.claims.forest import Forest
from implicit_accel.errors import DataError
from implicit_accel.exports import csv_text
from implicit_accel.files import atomic_path, load_json, refuse_link, save_json

FINDING_FILE = "finding.json"
FINDINGS_FILE = "findings.json"

_FORMAT = "implicit_accel finding 4"
_BITMAP_DPI = 110

_NUMBERS = ("value", "low", "high")

# What reading a damaged file ends in.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)

ANSWERS = ("direction", "size", "cause")
"""What a verdict answers, in the order of `Entry.answers`."""


@dataclass(frozen=True)
class Entry:
    """A claim with what was found, as the report shows it.

    Attributes:
        claim: The claim.
        finding: What was found; its figures and curves are not kept here.
        figures: Files of the figures, the first beside the number.
        seconds: What the experiment took when its results were made.
        forests: Those of the figures that are forest plots, by the file's stem.
        curves: Title → what a page needs to let its reader explore results.
    """

    claim: Claim
    finding: Finding
    figures: tuple[Path, ...]
    seconds: float
    forests: Mapping[str, Forest] = field(default_factory=dict)
    curves: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[str, str, str]:
        """The verdict's direction, size and cause, in words; empty where nothing is to say."""
        finding = self.finding
        if finding.cause is not None:
            cause = ", ".join(finding.cause.claims)
        else:
            # What theory claims of itself is not explained by a claim of theory.
            own = self.claim.id.startswith("T")
            cause = "" if own or finding.verdict.holds else "unexplained"
        return finding.verdict.direction, finding.verdict.size, cause


def with_scores(cause: str, entries: Sequence[Entry]) -> str:
    """A cause, each claim of it with how many of its own parts are as claimed.

    Args:
        cause: Of `Entry.answers`.
        entries: The claims of a report; of others nothing is told.
    """
    verdicts = {entry.claim.id: entry.finding.verdict for entry in entries}
    return ", ".join(
        f"{name} ({verdicts[name].num_held} of {len(verdicts[name].parts)})"
        if name in verdicts and verdicts[name].parts
        else name
        for name in cause.split(", ")
    )


def save_finding(claim: Claim, finding: Finding, folder: Path, scale: str, seconds: float) -> Entry:
    """Writes a claim's figures (PNG and PDF), tables (CSV), curves and finding into its folder.

    Raises:
        UserError: If the folder is a link to another one.
    """
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures, forests = [], {}
    for name, drawn in finding.figures.items():
        if isinstance(drawn, Forest):
            forests[name] = drawn
        figure = drawn.figure() if isinstance(drawn, Forest) else drawn
        assert isinstance(figure, Figure)
        for extension in ("png", "pdf"):
            path = folder / f"{name}.{extension}"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=_BITMAP_DPI, format=extension)
        figures.append(folder / f"{name}.png")
    for title, table in finding.tables.items():
        with atomic_path(folder / f"{_file_name(title)}.csv") as temporary:
            temporary.write_text(csv_text(table), encoding="utf-8")
    curves = save_curves(finding.curves, folder)
    entry = Entry(claim, finding, tuple(figures), seconds, forests, curves)
    save_json(_stored(entry, scale), folder / FINDING_FILE)
    return entry


def _stored(entry: Entry, scale: str) -> dict[str, Any]:
    claim, finding = entry.claim, entry.finding
    return {
        "format": _FORMAT,
        "claim": claim.id,
        "scale": scale,
        "seconds": entry.seconds,
        "verdict": [_json_judged(judged) for judged in finding.verdict.parts],
        "effects": [_json_effect(effect) for effect in finding.effects],
        "ran": finding.ran,
        "criterion": finding.criterion,
        "summary": finding.summary,
        "cause": None if finding.cause is None else asdict(finding.cause),
        "sensitivity": finding.sensitivity,
        "caveats": list(finding.caveats),
        "tables": {title: _json_table(table) for title, table in finding.tables.items()},
        "figures": [path.name for path in entry.figures],
        "captions": dict(finding.captions),
        "forests": {name: _json_forest(forest) for name, forest in entry.forests.items()},
    }


def save_findings(entries: Sequence[Entry], path: Path, scale: str) -> None:
    """Writes what was found about all claims into one file, atomically: a list, as for each."""
    listed = [_stored(entry, scale) for entry in entries]
    save_json({"format": _FORMAT, "findings": listed}, path)


def load_findings(path: Path) -> dict[str, Finding]:
    """Reads what `save_findings` wrote, by the claim's id; figures are not part of it.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        stored = load_json(path)
        if stored["format"] != _FORMAT:
            raise ValueError(f"format {stored['format']!r}")
        return {str(each["claim"]): _finding(each) for each in stored["findings"]}
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({error}); run the claims again") from None


def load_finding(claim: Claim, folder: Path, scale: str) -> Entry | None:
    """Reads what `save_finding` wrote at this scale; None if there is nothing.

    Raises:
        DataError: If the file, or that of its curves, is damaged.
    """
    path = folder / FINDING_FILE
    if not path.is_file():
        return None
    try:
        stored = load_json(path)
        if stored["format"] != _FORMAT or stored["scale"] != scale or stored["claim"] != claim.id:
            return None
        return _entry(claim, stored, folder)
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({error}); run the claim again") from None


def load_entries(folder: Path, claims: Sequence[Claim]) -> tuple[str, tuple[Entry, ...]]:
    """Reads a whole reproduction: what `save_findings` wrote, with the figures in its folder.

    Args:
        folder: The reproduction's.
        claims: Which are wanted.

    Returns:
        The scale, and the claims that are there, in the order wanted.

    Raises:
        DataError: If there is no such file, or it is damaged, or its claims are of several scales.
    """
    path = folder / FINDINGS_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; name the folder of a reproduction, or make one: "
            "python -m experiments.reproduce"
        )
    try:
        stored = load_json(path)
        if stored["format"] != _FORMAT:
            raise ValueError(f"format {stored['format']!r}")
        by_id = {str(each["claim"]): each for each in stored["findings"]}
        scales = sorted({str(each["scale"]) for each in by_id.values()})
        if len(scales) != 1:
            raise ValueError(f"{' and '.join(scales) or 'no'} scale")
        wanted = [claim for claim in claims if claim.id in by_id]
        return scales[0], tuple(_entry(c, by_id[c.id], folder / c.id) for c in wanted)
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({error}); run the claims again") from None


def _entry(claim: Claim, stored: dict[str, Any], folder: Path) -> Entry:
    finding = _finding(stored)
    figures = [folder / Path(str(name)).name for name in stored["figures"]]
    seconds = float(stored["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{seconds} seconds")
    forests = {str(n): _forest(f) for n, f in stored.get("forests", {}).items()}
    # A report carries the figures' bytes: a link might bring in a file that is none of them.
    plain = tuple(f for f in figures if f.is_file() and not f.is_symlink())
    return Entry(claim, finding, plain, seconds, forests, load_curves(folder))


def _finding(stored: dict[str, Any]) -> Finding:
    return Finding(
        verdict=Verdict(tuple(map(_judged, stored["verdict"]))),
        effects=tuple(map(_effect, stored["effects"])),
        ran=str(stored["ran"]),
        criterion=str(stored["criterion"]),
        summary=str(stored["summary"]),
        cause=_cause(stored["cause"]),
        sensitivity=str(stored["sensitivity"]),
        caveats=tuple(map(str, stored["caveats"])),
        tables={
            str(title): pd.DataFrame(
                [[_cell(value) for value in row] for row in table["data"]], columns=table["columns"]
            )
            for title, table in stored["tables"].items()
        },
        # Findings that were stored before there were captions have none.
        captions={str(n): str(words) for n, words in stored.get("captions", {}).items()},
    )


def _json_forest(forest: Forest) -> dict[str, Any]:
    series = {
        label: [_json_effect(effect) for effect in effects]
        for label, effects in forest.series.items()
    }
    return {
        "series": series, "title": forest.title, "xlabel": forest.xlabel,
        "sides": list(forest.sides), "curves": list(forest.curves),
        "remarks": {label: list(words) for label, words in forest.remarks.items()},
        "remarks_are": forest.remarks_are,
    }  # fmt: skip


def _forest(stored: dict[str, Any]) -> Forest:
    left, right = stored["sides"]
    return Forest(
        {str(label): tuple(map(_effect, each)) for label, each in stored["series"].items()},
        title=str(stored["title"]),
        xlabel=str(stored["xlabel"]),
        sides=(str(left), str(right)),
        curves=tuple(map(str, stored["curves"])),
        remarks={str(n): tuple(map(str, words)) for n, words in stored["remarks"].items()},
        remarks_are=str(stored["remarks_are"]),
    )


def _json_effect(effect: Effect) -> dict[str, Any]:
    """All that is stored of an effect: JSON has no NaN and no infinity, see `_json_number`."""
    design = effect.design
    ends = map(_json_number, (design.least, design.most))
    return {
        "name": effect.name,
        **{name: _json_number(getattr(effect, name)) for name in _NUMBERS},
        "unit": effect.unit,
        "note": effect.note,
        "confidence": _json_number(effect.confidence),
        "design": [design.kind.value, design.seeds, *ends],
        "halves": [_json_number(value) for value in effect.halves],
        "quantity": effect.quantity,
        "bound": effect.bound,
        "key": None if effect.key is None else [effect.key.measure, dict(effect.key.at)],
    }


def _effect(stored: dict[str, Any]) -> Effect:
    kind, seeds, least, most = stored["design"]
    return Effect(
        str(stored["name"]),
        *(_number(stored[name]) for name in _NUMBERS),
        unit=str(stored["unit"]),
        note=str(stored["note"]),
        confidence=_number(stored["confidence"]),
        design=Design(Kind(kind), int(seeds), _number(least), _number(most)),
        halves=tuple(map(_number, stored["halves"])),
        quantity=str(stored["quantity"]),
        bound=str(stored["bound"]),
        key=_key(stored["key"]),
    )


def _key(stored: list[Any] | None) -> Key | None:
    if stored is None:
        return None
    measure, coordinates = stored
    allowed = {str(name): _coordinate(value) for name, value in coordinates.items()}
    return Key.of(str(measure), **allowed)


def _coordinate(value: Any) -> Coordinate:
    if not isinstance(value, str | int | float):
        raise TypeError(f"coordinate {value!r}")
    return value


def _json_judged(judged: Judged) -> dict[str, Any]:
    part = judged.part
    return {
        "effect": _json_effect(part.effect),
        "claimed": _json_range(part.claimed),
        "claimed_size": None if part.size is None else _json_range(part.size),
        "direction": judged.direction.value,
        "size": judged.size.value,
    }


def _judged(stored: dict[str, Any]) -> Judged:
    size = stored["claimed_size"]
    part = Part(
        _effect(stored["effect"]),
        _range(stored["claimed"]),
        None if size is None else _range(size),
    )
    return Judged(part, Direction(stored["direction"]), Size(stored["size"]))


def _json_range(where: Range) -> list[Any]:
    return [_json_number(where.low), _json_number(where.high), where.closed]


def _range(stored: list[Any]) -> Range:
    low, high, closed = stored
    return Range(_number(low), _number(high), bool(closed))


def _cause(stored: dict[str, Any] | None) -> Cause | None:
    return None if stored is None else Cause(tuple(map(str, stored["claims"])), str(stored["why"]))


def _number(stored: float | str | None) -> float:
    return math.nan if stored is None else float(stored)


def _cell(stored: Any) -> Any:
    return float(stored) if stored in ("inf", "-inf") else stored


def _json_number(value: float) -> float | str | None:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if math.isnan(value) else value


def _json_table(table: pd.DataFrame) -> dict[str, Any]:
    rows = [
        [_json_number(v) if isinstance(v, float) else v for v in row]
        for row in table.to_numpy().tolist()
    ]
    return {"columns": list(map(str, table.columns)), "data": rows}


def _file_name(title: str) -> str:
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split()
    return "_".join(words)
