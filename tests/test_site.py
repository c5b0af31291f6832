"""The documentation site's sources: links, tutorials, the reference; what its recipes say works.

What only the built site shows is checked by `python -m tests.built_site`.
"""

import dataclasses
import functools
import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

import implicit_accel
from implicit_accel.claims import api
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.evaluate import evaluate
from implicit_accel.data.dataset import Dataset, DatasetSource
from implicit_accel.linear import initialisers

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"

PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = [p for p in PAGES if p.parent.name == "tutorials" and p.name != "index.md"]

_MARKDOWN = MarkdownIt().enable("table")


def tokens(path: Path):
    """What a document is made of, the contents of its paragraphs included."""
    for token in _MARKDOWN.parse(re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.S)):
        yield token
        yield from token.children or ()


@functools.cache
def anchors(path: Path) -> set[str]:
    """What behind a # leads somewhere: headings as GitHub and MyST name them, labels."""
    listed, found = list(tokens(path)), set()
    for opening, heading in itertools.pairwise(listed):
        if opening.type == "heading_open":
            words = "".join(t.content for t in heading.children or ())
            found.add(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    return found | set(re.findall(r"^\(([\w-]+)\)=$", path.read_text(), re.MULTILINE))


def links(path: Path) -> set[str]:
    """Where a document's links and images lead, less those to the outside."""
    found = {t.attrs["href"] for t in tokens(path) if t.type == "link_open"}
    found |= {t.attrs["src"] for t in tokens(path) if t.type == "image"}
    # On GitHub, where README.md is shown, its releases are beside the repository's files.
    found -= {"../../releases"} if path == REPOSITORY / "README.md" else set()
    return {str(target) for target in found if not re.match(r"[a-z]+:", str(target))}


@pytest.mark.parametrize(
    "path", [REPOSITORY / "README.md", *PAGES], ids=lambda p: str(p.relative_to(REPOSITORY))
)
def test_links_lead_to_files_and_headings(path):
    for target in links(path):
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_a_broken_link_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page, and more\n\n[a](b.md#c) [d](#a-page-and-more) ![e](f.png)\n\n(x)=\n")
    assert links(page) == {"b.md#c", "#a-page-and-more", "f.png"}
    assert anchors(page) == {"a-page-and-more", "x"}


def test_the_index_names_every_tutorial():
    index = (DOCS / "tutorials" / "index.md").read_text()
    named = {"five_minutes", "own_data", "own_model", "reading_an_outcome", "own_claim",
             "theory_and_measurement", "after_a_run"}  # fmt: skip
    assert {p.stem for p in TUTORIALS} == named
    (tree,) = re.findall(r"```{toctree}\n.*?```", index, re.DOTALL)
    for name in named:
        assert f"({name}.md)" in index
        assert f"\n{name}\n" in tree


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorials_are_notebooks_whose_python_is_all_run(path):
    text = path.read_text()
    assert text.startswith("---\njupytext:\n")
    assert "kernelspec:" in text
    cells = re.findall(r"```{code-cell} ipython3\n(.*?)```", text, re.DOTALL)
    assert len(cells) >= 5
    for cell in cells:
        compile(re.sub(r"^(\s*)%", r"\1pass  # %", cell, flags=re.MULTILINE), path.name, "exec")
    # Code that is shown as Python is a cell: nothing in a tutorial goes untried.
    assert "```python" not in text


def entries() -> dict[str, str]:
    """What the reference documents, with the directive by which."""
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    found = re.findall(r"^\.\. auto(\w+):: (\S+)$", text, re.MULTILINE)
    assert len({name for _, name in found}) == len(found)
    return {name: kind for kind, name in found}


def test_the_reference_has_every_public_name():
    there, index = entries(), (DOCS / "api" / "index.md").read_text()
    spaces = {
        "": implicit_accel,
        "linear.": implicit_accel.linear,
        "images.": implicit_accel.images,
    }
    for space, module in spaces.items():
        for name in {*module.__all__} - {"__version__", "linear", "images"}:
            assert f"implicit_accel.{space}{name}" in there, name
            assert f"`{space}{name}`" in index, name


def test_what_the_reference_documents_is_what_it_says():
    kinds = {"class": lambda a: isinstance(a, type), "function": callable,
             "exception": lambda a: issubclass(a, Exception)}  # fmt: skip
    for name, kind in entries().items():
        module, _, last = name.rpartition(".")
        documented = getattr(importlib.import_module(module), last)
        assert kinds.get(kind, lambda _: True)(documented), name


def recipe(heading: str) -> str:
    """The first Python block below a heading of the guide to adding things."""
    text = (DOCS / "howto" / "adding.md").read_text()
    section = text[text.index(f"## {heading}\n") :]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:1]
    return code


def run_recipe(heading: str, **names):
    made = dict(names)
    exec(recipe(heading), made)
    return made


def test_the_recipe_for_a_dataset_makes_one():
    source = run_recipe("A dataset")["SOURCE"]
    assert isinstance(source, DatasetSource)
    data = source.load(friedman_rows=50)
    assert isinstance(data, Dataset)
    assert data.features.shape == (50, 10)


def test_the_recipe_for_an_initialiser_makes_one():
    made = run_recipe("An initialiser", **vars(initialisers))
    layers = made["_zero_last"](((3, 5), (1, 3)), 0.1, 4)
    usual = initialisers.Initialiser("near_zero", 0.1).draw(5, (3,), 1, bias=False, seed=4)
    assert np.array_equal(layers.weights[0], usual.weights[0])
    assert not layers.weights[1].any()


def test_the_page_on_claims_has_one_that_judges(tmp_path, monkeypatch):
    monkeypatch.delenv("IMPLICIT_ACCEL_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = (DOCS / "howto" / "writing_claims.md").read_text()
    code, own_task = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (words,) = re.findall(r"```markdown\n(.*?)```", page, re.DOTALL)

    def judged(code: str, **changes):
        made = {}
        exec(code, made)
        claim = dataclasses.replace(made["CLAIM"], **changes)
        return evaluate(claim, Context(Scale.SMOKE, tmp_path / "A1", tmp_path, str(tmp_path)))

    finding = judged(code, text=words)
    (part,) = finding.verdict.parts
    assert part.part.effect == finding.effects[0]
    assert part.part.effect.name == "stand-in, width 10: speed-up"
    assert finding.caveats == ("Only two widths were compared.",)
    assert "on stand-in" in finding.summary
    finding = judged(own_task)
    (part,) = finding.verdict.parts
    assert part.part.effect.value > 1
    assert list(finding.figures) == ["speed_ups"]
    assert "target 0.001" in finding.ran
    # Every concept in its table is there.
    for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE):
        assert hasattr(api, name), name
