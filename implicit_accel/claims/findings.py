"""What was found about a claim, on disk: figures, tables and JSON files that are read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.codec import decode, encode
from implicit_accel.claims.criteria import Answer, Finding, Part, answer
from implicit_accel.claims.curves import load_curves, save_curves
from implicit_accel.claims.effects import Kind, matching
from implicit_accel.claims.forest import Forest
from implicit_accel.errors import DataError
from implicit_accel.exports import csv_text
from implicit_accel.figure_files import png_metadata
from implicit_accel.files import atomic_path, load_json, refuse_link, save_json

FINDING_FILE = "finding.json"
FINDINGS_FILE = "findings.json"

_FORMAT = "implicit_accel finding 4"
_BITMAP_DPI = 110

# What reading a damaged file ends in.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)


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
    def primary(self) -> Part | None:
        """The effect that the claim is about, with where it should lie; None if not measured."""
        check, finding = self.claim.primary, self.finding
        if check is None:
            return finding.verdict.parts[0].part if finding.verdict.parts else None
        problems = (dict(e.key.at).get("problem") for e in finding.effects if e.key is not None)
        first = next((str(problem) for problem in problems if problem is not None), "")
        found = check.chosen(finding.effects, first)
        return Part(found[0], check.claimed, check.size) if found else None

    @property
    def answer(self) -> Answer:
        """The claim's outcome."""
        claim = self.claim
        return answer(
            self.primary, self.finding.effects, choices=claim.choices,
            untestable=claim.untestable, exists=claim.exists, condition=claim.condition,
        )  # fmt: skip

    @property
    def evidence(self) -> str:
        """Source, criterion, seeds and data sets that the outcome rests on, in words."""
        claim, found = self.claim, self.primary
        words = []
        if claim.is_read is not None and not claim.is_theory:
            words.append("source read" if claim.is_read else "from memory")
        if claim.is_changed:
            words.append("criterion or grid changed after a look")
        if found is not None and found.effect.design.kind != Kind.VALUE:
            seeds = found.effect.design.seeds
            words.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
        if found is not None and (key := found.effect.key) is not None:
            own = matching(self.finding.effects, key.measure, {})
            problems = {dict(e.key.at).get("problem") for e in own if e.key is not None} - {None}
            if problems:
                words.append(f"{len(problems)} data set{'s' if len(problems) > 1 else ''}")
        return ", ".join(words)


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
                noted = png_metadata(figure) if extension == "png" else None
                figure.savefig(temporary, dpi=_BITMAP_DPI, format=extension, metadata=noted)
        figures.append(folder / f"{name}.png")
    for title, table in finding.tables.items():
        with atomic_path(folder / f"{_file_name(title)}.csv") as temporary:
            temporary.write_text(csv_text(table), encoding="utf-8")
    curves = save_curves(finding.curves, folder)
    entry = Entry(claim, finding, tuple(figures), seconds, forests, curves)
    save_json(_stored(entry, scale), folder / FINDING_FILE)
    return entry


@dataclass(frozen=True)
class _Stored:
    """A file's content: what was found, at which scale, in how many seconds, with which figures."""

    format: str
    claim: str
    scale: str
    seconds: float
    finding: Finding
    figures: tuple[str, ...]
    forests: Mapping[str, Forest]


def _stored(entry: Entry, scale: str) -> dict[str, Any]:
    figures = tuple(path.name for path in entry.figures)
    return encode(
        _Stored(
            _FORMAT, entry.claim.id, scale, entry.seconds, entry.finding, figures, entry.forests
        )
    )


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
        _check_format(stored, path)
        found = [decode(_Stored, each) for each in stored["findings"]]
        return {each.claim: each.finding for each in found}
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({error}); run the claims again") from None


def _check_format(stored: dict[str, Any], path: Path) -> None:
    if stored["format"] != _FORMAT:
        raise DataError(
            f"{path}: of another version ({stored['format']}, not {_FORMAT}); run the claims again "
            "in this folder, which trains nothing that is there"
        )


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
        _check_format(stored, path)
        by_id = {str(each["claim"]): each for each in stored["findings"]}
        scales = sorted({str(each["scale"]) for each in by_id.values()})
        if len(scales) != 1:
            raise ValueError(f"{' and '.join(scales) or 'no'} scale")
        wanted = [claim for claim in claims if claim.id in by_id]
        return scales[0], tuple(_entry(c, by_id[c.id], folder / c.id) for c in wanted)
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({error}); run the claims again") from None


def _entry(claim: Claim, stored: dict[str, Any], folder: Path) -> Entry:
    found: _Stored = decode(_Stored, stored)
    if not 0 <= found.seconds < math.inf:
        raise ValueError(f"{found.seconds} seconds")
    figures = [folder / Path(name).name for name in found.figures]
    # A report carries the figures' bytes: a link might bring in a file that is none of them.
    plain = tuple(f for f in figures if f.is_file() and not f.is_symlink())
    curves = load_curves(folder)
    return Entry(claim, found.finding, plain, found.seconds, found.forests, curves)


def _file_name(title: str) -> str:
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split()
    return "_".join(words)
