"""Puts results into the documents: python docs/publish.py outputs/reproduction [outputs/gas].

The report, its figures and its findings go to docs/reproduction, the verdicts and the sentences on
S7 into README.md, the verdicts' answers into CHANGES.md, and the table of a sweep into README.md.
Figures are reduced to 256 colours, which their few need.
"""

import json
import re
import sys
from pathlib import Path

from PIL import Image

from implicit_accel import load_run, summarise
from implicit_accel.summary import caption, cells, columns

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reproduction"

_FIGURE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
_CELL_END = re.compile(r"(?<!\\)\|")
_SENTENCE = re.compile(r"\(\d\) (.*?\.)(?= \(\d\) |$)")


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
        with Image.open(source / name) as picture:
            colours = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        colours.save(TARGET / name, optimize=True)
    (TARGET / "REPORT.md").write_text(report)
    _publish_findings(source)
    rows = [line for line in report.splitlines() if line.startswith(("| [", "| claim", "| ---"))]
    table = "\n".join(rows[: 2 + sum(row.startswith("| [") for row in rows)])
    _replace("verdicts", table.replace("](#", "](docs/reproduction/REPORT.md#"))
    _publish_answers(rows)
    summary = json.loads((source / "S7" / "finding.json").read_text())["finding"]["summary"]
    found = [sentence.replace("[", "\\[") for sentence in _SENTENCE.findall(summary)]
    _replace("sentences", "\n".join(f"{i}. {text}" for i, text in enumerate(found, 1)))


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


def _publish_answers(rows: list[str]) -> None:
    """Writes the direction and the size of every verdict into the list of what changed."""
    answers = {}
    for row in rows:
        if row.startswith("| ["):
            claim, _, direction, size, *_ = (cell.strip() for cell in _CELL_END.split(row)[1:])
            answers[claim.split("]")[0]] = direction.strip("*"), size.strip("*")
    path = TARGET / "CHANGES.md"
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| ["):
            cells = _CELL_END.split(line)
            cells[3:5] = [f" {answer} " for answer in answers[cells[1].strip().split("]")[0]]]
            lines[i] = "|".join(cells)
    path.write_text("\n".join(lines) + "\n")


def publish_sweep(run: Path) -> None:
    """Writes a finished sweep's table into README.md."""
    results = load_run(run)
    table = summarise(results)
    names = [name.replace("\n", " ") for name in columns(table)]
    rows = [names, ["---", *["---:"] * (len(names) - 1)]]
    rows += [cells(table, m) for m in range(len(table))]
    lines = ["| " + " | ".join(cell.replace("[", "\\[") for cell in row) + " |" for row in rows]
    _replace("sweep", "\n".join([*lines, "", f"{results.attrs['title']}. {caption(table)}"]))


def _replace(name: str, text: str) -> None:
    """Puts a text between the two comments with a name in README.md."""
    readme, mark = ROOT / "README.md", f"<!-- {name} -->"
    before, _, after = readme.read_text().split(mark)
    readme.write_text(f"{before}{mark}\n{text}\n{mark}{after}")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
    for run in sys.argv[2:]:
        publish_sweep(Path(run))
