"""Puts results into the documents: python docs/publish.py outputs/reproduction [outputs/gas].

The report, its figures and its findings go to docs/reproduction. The answer goes into README.md and
the site's home, with five rows of results in README.md; the main comparison by its choices and the
table of a sweep go to docs/explanation. Figures are reduced to 256 colours, which their few need.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from implicit_accel import load_run, summarise
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.findings import load_entries
from implicit_accel.claims.report.story import ANSWER, chapters_of, picture
from implicit_accel.claims.report.view import choices_table
from implicit_accel.summary import caption, cells, columns

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reproduction"

_FIGURE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
MAIN = "P0"
"""The claim whose comparison is shown by its choices."""
PLACES = {
    "home": "docs/index.md",
    "choices": "docs/explanation/which_speed_up.md",
    "sweep": "docs/explanation/results.md",
}
"""Documents other than README.md, by the comments' names."""


def publish(source: Path) -> None:
    """Copies what is shown of a reproduction.

    Args:
        source: Its folder, with REPORT.md and findings.json.
    """
    report = (source / "REPORT.md").read_text()
    shown = sorted(set(_FIGURE.findall(report)))
    for old in TARGET.rglob("*.png"):
        old.unlink()
    for name in shown:
        (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
        reduce_colours(source / name, TARGET / name)
    (TARGET / "REPORT.md").write_text(report)
    _publish_findings(source)
    for name, text in texts(source).items():
        _replace(name, text)
    _publish_outcomes(source)


def reduce_colours(source: Path, target: Path) -> None:
    """Copies a bitmap with 256 colours, and with what is noted in it, see `figure_files.structure`.

    Args:
        source: A PNG file.
        target: Where the copy goes.
    """
    noted = PngInfo()
    with Image.open(source) as drawn:
        colours = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        if "Description" in drawn.info:
            noted.add_itxt("Description", drawn.info["Description"])
    colours.save(target, optimize=True, pnginfo=noted)


def texts(source: Path) -> dict[str, str]:
    """What the documents show of a reproduction, by the comments' names.

    Args:
        source: The reproduction's folder.
    """
    claims = load_collection()
    _, entries = load_entries(source, claims.claims)
    answer = next(c for c in chapters_of(entries, claims.story) if c.heading == ANSWER)
    (main,) = (entry for entry in entries if entry.claim.id == MAIN)
    forest, measured_by = picture(entries, claims.picture)
    shown = next(iter(forest.series.values()))
    words = "\n\n".join(_escaped(paragraph) for paragraph in answer.paragraphs)
    return {
        "answer": words,
        "home": words,
        "rows": _table(
            ("against one layer", "its steps over the model's \\[95 %]", "claim"),
            ((e.name, str(e), c) for e, c in zip(shown, measured_by, strict=True)),
        ),
        "choices": _table(
            ("choice", "speed-up \\[95 %]"),
            ((n, measured) for n, measured, _ in choices_table(main).to_numpy().tolist()),
        ),
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_escaped, row))} |" for row in rows)])


def _publish_outcomes(source: Path) -> None:
    """Writes the outcome of every claim into the list of what changed."""
    _, entries = load_entries(source, load_collection().claims)
    outcomes = {e.claim.id: _escaped(str(e.answer)) for e in entries if not e.claim.is_theory}
    path = TARGET / "CHANGES.md"
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| ["):
            cells = line.split(" | ")
            cells[2] = outcomes[cells[0].removeprefix("| [").split("]")[0]]
            lines[i] = " | ".join(cells)
    path.write_text("\n".join(lines) + "\n")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[").replace("|", "\\|")


def _publish_findings(source: Path) -> None:
    """Writes the findings without indentation: a line for each claim, which a diff can show."""
    stored = json.loads((source / "findings.json").read_text())
    findings = [
        json.dumps(each, ensure_ascii=False, separators=(",", ":"))
        for each in stored.pop("findings")
    ]
    opening = json.dumps(stored)[:-1] + ', "findings": ['
    text = opening + "\n" + ",\n".join(findings) + "\n]}\n"
    (TARGET / "findings.json").write_text(text)


def publish_sweep(run: Path) -> None:
    """Writes a finished sweep's table into the documents."""
    results = load_run(run)
    table = summarise(results)
    names = [name.replace("\n", " ") for name in columns(table)]
    rows = [names, ["---", *["---:"] * (len(names) - 1)]]
    rows += [cells(table, m) for m in range(len(table))]
    lines = ["| " + " | ".join(cell.replace("[", "\\[") for cell in row) + " |" for row in rows]
    _replace("sweep", "\n".join([*lines, "", f"{results.attrs['title']}. {caption(table)}"]))


def _replace(name: str, text: str) -> None:
    """Puts a text between the two comments with a name, in the document that has them."""
    document, mark = ROOT / PLACES.get(name, "README.md"), f"<!-- {name} -->"
    before, _, after = document.read_text().split(mark)
    document.write_text(f"{before}{mark}\n{text}\n{mark}{after}")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
    for run in sys.argv[2:]:
        publish_sweep(Path(run))
