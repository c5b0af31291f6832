"""What the documents say is there, is there."""

import importlib.util
import re
from pathlib import Path

from programs import run

REPOSITORY = Path(__file__).parents[1]


def test_every_test_that_a_promise_names_exists():
    there = set()
    for path in (REPOSITORY / "tests").glob("test_*.py"):
        there |= {path.stem, *re.findall(r"^\s*def (test_\w+)", path.read_text(), re.MULTILINE)}
    text = (REPOSITORY / "docs" / "trust.md").read_text()
    named = set(re.findall(r"\btest_\w+", text))
    assert len(named) > 40
    assert named - there == set()


def test_the_readme_shows_the_verdicts_of_the_report():
    report = (REPOSITORY / "docs" / "reproduction" / "REPORT.md").read_text()
    verdicts = [line for line in report.splitlines() if line.startswith("| [")]
    assert len(verdicts) == 34
    shown = (REPOSITORY / "README.md").read_text()
    for line in verdicts:
        assert line.replace("](#", "](docs/reproduction/REPORT.md#") in shown


def test_the_reference_is_that_of_the_declarations(monkeypatch):
    path = REPOSITORY / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Forked instead of started from nothing, which takes ten times as long.
    monkeypatch.setattr(
        module, "_help_of", lambda programs: {p: run(p, "--help").stdout for p in programs}
    )
    shown = (REPOSITORY / "docs" / "reference.md").read_text()
    assert shown == module.reference(), "run python docs/reference.py"
