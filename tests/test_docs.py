"""What the documents say is there, is there."""

import importlib.util
import json
import re
from pathlib import Path

from browser import needs_browser, visit
from PIL import Image
from programs import run
from test_explorer import decaying

from implicit_accel.claims.collection import load_collection
from implicit_accel.experiments.sweep_page import write_page

REPOSITORY = Path(__file__).parents[1]


def test_every_test_that_a_promise_names_exists():
    there = set()
    for path in (REPOSITORY / "tests").glob("test_*.py"):
        there |= {path.stem, *re.findall(r"^\s*def (test_\w+)", path.read_text(), re.MULTILINE)}
    text = (REPOSITORY / "docs" / "trust.md").read_text()
    named = set(re.findall(r"\btest_\w+", text))
    assert len(named) > 40
    assert named - there == set()


def module_at(name: str):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_the_findings_say():
    publish = module_at("publish")
    for name, text in publish.texts(REPOSITORY / "docs/reproduction").items():
        shown = (REPOSITORY / publish.PLACES.get(name, "README.md")).read_text()
        _, block, _ = shown.split(f"<!-- {name} -->")
        assert block.strip() == text, "run python docs/publish.py"


def test_the_claims_pages_say_what_the_findings_say():
    publish = module_at("publish")
    written = publish.pages(publish.TARGET)
    there = {p.relative_to(publish.TARGET).as_posix() for p in publish.TARGET.glob("*/index.md")}
    assert there == {*written} - {"REPORT.md"}
    for name, text in written.items():
        assert (publish.TARGET / name).read_text() == text, "run python docs/publish.py"


def test_every_claim_has_a_page_that_is_titled_and_linked():
    folder = REPOSITORY / "docs/reproduction"
    stored = json.loads((folder / "findings.json").read_text())["findings"]
    overview = (folder / "REPORT.md").read_text()
    statements = {claim.id: claim.statement for claim in load_collection().claims}
    linked = re.findall(r"^\| \[(\w+)\]\((\w+)/index\.md\) \|", overview, re.MULTILINE)
    assert linked == [(name, name) for name in statements]
    assert len(overview) < 80_000
    for found in stored:
        name = found["claim"]
        page = (folder / name / "index.md").read_text()
        title, _, rest = page.partition("\n")
        words = title.removeprefix(f"# {name}: ").replace("\\", "")
        assert statements[name].startswith(words)
        assert len(words) > 20
        effect = found["finding"]["verdict"]["parts"][0]["part"]["effect"]
        assert f"{effect['value']:.3g}" in rest, name
        shown = re.findall(r"^!\[[^]]*\]\(([^)]+)\)", rest, re.MULTILINE)
        assert shown == found["figures"]


def test_every_speed_up_in_the_readme_is_a_finding():
    """One value for one quantity: no number with × stands outside what is filled in."""
    shown = (REPOSITORY / "README.md").read_text()
    for name in ("answer", "rows"):
        before, _, after = shown.split(f"<!-- {name} -->")
        shown = before + after
    assert re.findall(r"[\d.]+×", shown) == []


def test_the_picture_of_a_page_is_small():
    committed = module_at("page_picture").TARGET
    with Image.open(committed) as picture:
        assert min(picture.size) >= 900
    assert committed.stat().st_size < 150_000


@needs_browser
def test_a_page_s_picture_can_be_taken_again(tmp_path):
    page, target = tmp_path / "report.html", tmp_path / "page.png"
    write_page(decaying(), page, command=[], figures=[], best_by="stable")
    module_at("page_picture").take(page, target, visit)
    with Image.open(target) as picture:
        assert picture.size == (1280, 1000)
        assert len(picture.getcolors() or ()) > 10


def test_the_reference_is_that_of_the_declarations(monkeypatch):
    module = module_at("reference")
    # Forked instead of started from nothing, which takes ten times as long.
    monkeypatch.setattr(
        module, "_help_of", lambda programs: {p: run(p, "--help").stdout for p in programs}
    )
    shown = (REPOSITORY / "docs" / "reference.md").read_text()
    assert shown == module.reference(), "run python docs/reference.py"


# Things are which and that, functions return and programs print: words of another language.
_OLD_WORDS = re.compile(
    r"\b(who|whoever|everyone|nobody|told|tells?|hears|forgets|bears?|obeys?|obeying|settles?|settled"
    r"|hopeless|gets by|knowing nothing)\b(?!\()",
    re.IGNORECASE,
)


def test_the_language_is_that_of_the_field():
    """In code and documents; findings quote what was published."""
    files = [
        path
        for folder, endings in (("implicit_accel", ("py", "js", "md")), ("docs", ("py", "md")))
        for ending in endings
        for path in (REPOSITORY / folder).rglob(f"*.{ending}")
        if "reproduction" not in path.parts
    ]
    files += [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    assert len(files) > 150
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _OLD_WORDS.search(line)
    ]
    assert found == []
