"""Puts results into the documents: python docs/publish.py outputs/reproduction [outputs/gas].

The report, a page for each claim, its figures and its findings go to docs/reproduction. The answer
goes into README.md and the site's home, with five rows of results in README.md; the main comparison
by its choices and the table of a sweep go to docs/explanation. Figures are reduced to 256 colours,
which their few need.

What is committed is enough to write the texts again: python docs/publish.py docs/reproduction.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from implicit_accel import load_run, summarise
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.findings import load_entries
from implicit_accel.claims.report.render import MARKDOWN_FILE, markdown_pages
from implicit_accel.claims.report.story import ANSWER, chapters_of, picture
from implicit_accel.claims.report.view import choices_table
from implicit_accel.summary import caption, cells, columns

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reproduction"

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
        source: Its folder, with REPORT.md and findings.json; of `TARGET` only the texts are
            written again.
    """
    written = pages(source)
    if source.resolve() != TARGET.resolve():
        _publish_figures(source)
        _publish_findings(source)
    for old in TARGET.glob("*/index.md"):
        old.unlink()
    for name, text in written.items():
        (TARGET / name).parent.mkdir(exist_ok=True)
        (TARGET / name).write_text(text)
    for name, text in texts(source).items():
        _replace(name, text)
    _publish_outcomes(source)


def pages(source: Path) -> dict[str, str]:
    """The overview and a page for each claim and law, by their paths below `TARGET`.

    Args:
        source: The reproduction's folder. The paragraphs on what was run, when and on what are
            those of its REPORT.md, above the first table.
    """
    claims = load_collection()
    _, entries = load_entries(source, claims.claims)
    above, _, _ = (source / MARKDOWN_FILE).read_text().partition("\n| ")
    paragraphs = map(str.strip, above.split("\n\n"))
    # Title, story and figures begin otherwise.
    preamble = [text for text in paragraphs if text and not text.startswith(("#", "**", "!["))]
    return markdown_pages(entries, source, title=claims.title, preamble=preamble, collection=claims)


def _publish_figures(source: Path) -> None:
    """Copies the figures of all claims, in place of those of an earlier report."""
    _, entries = load_entries(source, load_collection().claims)
    for old in TARGET.rglob("*.png"):
        old.unlink()
    for figure in (path for entry in entries for path in entry.figures):
        copy = TARGET / figure.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        reduce_colours(figure, copy)


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
    links = [f"[{claim}](docs/reproduction/{claim}/index.md)" for claim in measured_by]
    return {
        "answer": words,
        "home": words,
        "rows": _table(
            ("against one layer", "its steps over the model's \\[95 %]", "claim"),
            (
                (_escaped(e.name), _escaped(str(e)), link)
                for e, link in zip(shown, links, strict=True)
            ),
        ),
        "choices": _table(
            ("choice", "speed-up \\[95 %]"),
            (map(_escaped, row[:2]) for row in choices_table(main).to_numpy().tolist()),
        ),
    }


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


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
