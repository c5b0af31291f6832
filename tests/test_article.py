"""The article: every number and verdict in it is a finding's, whatever the findings are."""

import dataclasses
import io
import itertools
import math
import re
import sys
from functools import cache
from pathlib import Path

import pypdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import examples
from matplotlib.figure import Figure
from programs import expect_usage_error, run

from implicit_accel.claims.collection import load_collection
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
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.findings import (
    FINDINGS_FILE,
    Entry,
    load_entries,
    save_finding,
    save_findings,
)
from implicit_accel.claims.report.article.fill import check, figures_of, fill
from implicit_accel.claims.report.article.typeset import (
    PAGES_FILE,
    TEXT_FILE,
    own_sources,
    typeset,
)
from implicit_accel.errors import DataError, UserError

COLLECTION = load_collection()
CLAIMS = COLLECTION.claims
TEXT = own_sources()[TEXT_FILE].decode()

FIGURES = ("P0/loss.pdf", "P3b/speed_up.pdf", "S7/stations.pdf")


def part(effect: Effect, direction=Direction.AS_CLAIMED, size=Size.NOT_COMPARABLE) -> Judged:
    return Judged(Part(effect, Range(low=1.0), Range(low=100.0)), direction, size)


def findings(direction=Direction.AS_CLAIMED, size=Size.NOT_COMPARABLE) -> dict[str, Finding]:
    """A finding on every claim; no two numbers agree."""
    numbers = itertools.count(101)
    found = {}
    for claim in CLAIMS:
        effects = [Effect(f"{claim.id} {i}", v, v - 0.5, v + 0.5)
                   for i, v in enumerate((next(numbers), next(numbers)))]  # fmt: skip
        stems = [f.split("/")[1][:-4] for f in FIGURES if f.startswith(f"{claim.id}/")]
        found[claim.id] = Finding(
            Verdict(tuple(part(e, direction, size) for e in effects)), tuple(effects),
            f"Seen: {effects[0]}.", ran=f"{claim.id} ran.", criterion=f"{claim.id} is judged.",
            cause=Cause(("T1",), f"Because of {effects[1]}."), caveats=(f"{claim.id} is small.",),
            captions=dict.fromkeys(stems, f"{claim.id} is drawn."),
        )  # fmt: skip
    return found


@cache
def drawing() -> bytes:
    buffer = io.BytesIO()
    Figure(figsize=(2, 1)).savefig(buffer, format="pdf")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reproduction's folder with the figures that the text shows."""
    path = tmp_path_factory.mktemp("reproduction")
    for name in FIGURES:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(drawing())
        (path / name).with_suffix(".png").write_bytes(b"a bitmap")
    return path


def entries(found: dict[str, Finding], folder: Path) -> list[Entry]:
    drawn = {c.id: [f for f in FIGURES if f.startswith(f"{c.id}/")] for c in CLAIMS}
    return [
        Entry(c, found[c.id], tuple((folder / f).with_suffix(".png") for f in drawn[c.id]), 60.0)
        for c in CLAIMS
    ]


def read(pages: bytes) -> str:
    """The pages' text without spaces and hyphens, which lines end with or not."""
    reader = pypdf.PdfReader(io.BytesIO(pages))
    return squeezed(" ".join(page.extract_text() for page in reader.pages))


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u00ad\u2010-]+", "", text)


def article(found: dict[str, Finding], folder: Path, sources=None) -> str:
    listed = entries(found, folder)
    return read(
        typeset(fill("standard", listed, COLLECTION), listed, sources or own_sources())[PAGES_FILE]
    )


# ------------------------------------------------------------------------------------- the text


def prose() -> str:
    """The text without what is no number of ours: what is marked, strings, names, references."""
    text = re.sub(r"//[^\n]*", "", TEXT)
    text = re.sub(r"#?\bsaid\[[^\]]*\]", "", text)
    text = re.sub(r'"[^"]*"', "", text)
    text = re.sub(r"@\w+", "", text)
    text = re.sub(r"\$[^$]*\$", "", text)  # formulas
    text = re.sub(r"level: 2|claim P\d+a?", "", text)
    return re.sub(r"#[a-zA-Z][\w.-]*", "", text)


def test_no_digit_in_a_sentence_is_typed_by_hand():
    layout = r"width: \d+%"
    assert re.findall(r".{0,40}\d.{0,20}", re.sub(layout, "", prose())) == []
    # In formulas there are exponents of the rule, and a factor of its part; no results.
    formulas = re.findall(r"\$([^$]*)\$", TEXT)
    assert {d for f in formulas for d in re.findall(r"\d+", re.sub(r"said\[.*?\]", "", f))} == {
        "1", "2",
    }  # fmt: skip


def test_no_sentence_loses_its_semicolon():
    # After an expression Typst takes it for the expression's end, and does not show it.
    assert re.findall(r".{20}(?:#[\w.-]+|[)\]]);", TEXT) == []


# ---------------------------------------------------------------------------------- the numbers


def test_every_claim_is_there_with_what_was_found(folder):
    found = findings()
    text = article(found, folder)
    for claim in CLAIMS:
        one = found[claim.id]
        assert text.count(squeezed(claim.statement)) >= 2, claim.id  # in the table and the results
        for words in (one.summary, one.ran, one.criterion, *one.caveats, *one.captions.values()):
            assert squeezed(words) in text, words
        assert squeezed(f"Because of {one.effects[1]}.") in text


def test_another_number_in_the_findings_is_another_number_on_the_pages(folder):
    found = findings()
    before = article(found, folder)
    found["F2"] = dataclasses.replace(found["F2"], summary="Seen: 7.65× [6.54, 8.76].")
    after = article(found, folder)
    assert "7.65×[6.54,8.76]" in after
    assert "7.65" not in before


def is_judged(claim) -> bool:
    """Whether its outcome is that of its first part: else the planted effects lack its primary."""
    return not (claim.is_theory or claim.primary or claim.untestable)


def test_counts_are_those_of_the_outcomes(folder):
    found = findings()
    # One claim of two sources fails by its primary effect, one by another effect.
    for claim in ("P3b", "S7"):
        low = dataclasses.replace(found[claim].effects[0], value=0.5, low=0.4, high=0.6)
        parts = [part(low, Direction.OPPOSITE), part(found[claim].effects[1])]
        found[claim] = dataclasses.replace(found[claim], verdict=Verdict(tuple(parts)))
    second = found["P0"].effects[1]
    found["P0"] = dataclasses.replace(
        found["P0"],
        verdict=Verdict((part(found["P0"].effects[0]), part(second, Direction.OPPOSITE))),
    )
    judged = [c.id for c in CLAIMS if is_judged(c)]
    others = sum(not c.is_theory for c in CLAIMS) - len(judged)
    text = article(found, folder).replace("’", "'")
    assert f"{len(judged) - 2}claimsareconfirmed,0onacondition,2contradicted,0inconcl" in text
    assert f"inconclusiveand{others}nottestable" in text
    for words, letter in (("originalpaper's", "P"), ("studentproject's", "S")):
        number = sum(c.id.startswith(letter) for c in CLAIMS)
        held = sum(i.startswith(letter) for i in judged) - 1
        assert re.search(f"{words}{number}(claims|itis){held}", text)
    # The table of exceptions names what was checked and is not as claimed.
    assert text.count(squeezed(second.name)) == 1
    assert squeezed(found["P4b"].effects[1].name) not in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.5, 2.5, "confirmed"), (0.5, 0.9, "contradicted"), (0.5, 2.5, "inconclusive")],
)
def test_outcomes_follow_the_primary_effect(low, high, expected, folder):
    found = {}
    for name, one in findings().items():
        parts = [part(Effect(f"{name} x", (low + high) / 2, low, high))]
        found[name] = dataclasses.replace(one, verdict=Verdict(tuple(parts)))
    text = article(found, folder)
    # What a search did not find contradicts nothing.
    number = sum(is_judged(c) and not c.exists for c in CLAIMS)
    number += expected != "contradicted" and sum(c.exists for c in CLAIMS)
    words = {"confirmed": f"{number}claimsareconfirmed", "contradicted": f"{number}contradicted",
             "inconclusive": f"{number}inconclusive"}  # fmt: skip
    assert [outcome for outcome, shown in words.items() if shown in text] == [expected]


def test_a_claim_without_parts_is_not_tested(folder):
    found = findings()
    found["P3b"] = Finding(Verdict(), (Effect("e", math.nan),), "no value")
    assert "nottestable:notmeasuredhere" in article(found, folder)


# ---------------------------------------------------------------------------- text from outside

_SIGNS = "#$*_@<>[]{}()\\\"'`~/=-+^&%!?;:,.| abcXYZ019ℓλη×−∞‖₁é"
_NAMES = st.lists(st.text(_SIGNS, min_size=1, max_size=40), min_size=1, max_size=8)


@settings(
    max_examples=examples(4),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=_NAMES)
def test_names_from_findings_are_text_and_never_markup(names, folder):
    found = findings()
    effects = [Effect(f"<{name}>", 1.0, 0.5, 2.0) for name in names]
    parts = [part(e, Direction.UNDECIDED) for e in effects]
    found["P1"] = dataclasses.replace(
        found["P1"],
        verdict=Verdict((*found["P1"].verdict.parts, *parts)),
        cause=Cause(("T1",), f"({names[0]})"),
        caveats=(f"({names[-1]})",),
    )
    text = article(found, folder)
    for name in names:
        assert squeezed(f"<{name}>") in text
    for told in (names[0], names[-1]):
        assert squeezed(f"({told})") in text


def test_what_is_no_sign_is_replaced(folder):
    found = findings()
    strange = Cause(("T1",), 'A bell\x07, a turn\u202e, half a sign\ud800, a line\n#panic("no").')
    found["P1"] = dataclasses.replace(found["P1"], cause=strange)
    assert 'Abell�,aturn�,halfasign�,aline#panic("no").' in article(found, folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('#read("/etc/hostname")', "file not found"),
        ('#read("../secret")', "would escape the project root"),
        ('#import "@preview/cetz:0.3.0"', "asks for a package"),
        ("#let = 1", "expected pattern"),
        ('#result("P99")', "claim P99, which was not read"),
    ],
)
def test_a_text_that_asks_for_what_it_may_not_have_is_an_error(line, message, folder):
    sources = own_sources()
    sources[TEXT_FILE] = f"{TEXT}\n{line}\n".encode()
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        article(findings(), folder, sources)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------- folder, program


def test_the_same_findings_give_the_same_bytes_and_all_that_the_pages_are_made_of(folder):
    listed = entries(findings(), folder)
    once, again = (
        typeset(fill("standard", listed, COLLECTION), listed, own_sources()) for _ in range(2)
    )
    assert once == again
    assert set(once) == {
        PAGES_FILE, *own_sources(), "article.json", *(f"figures/{f}" for f in FIGURES)
    }  # fmt: skip
    reader = pypdf.PdfReader(io.BytesIO(once[PAGES_FILE]))
    assert reader.metadata is not None
    assert reader.metadata.title is not None
    assert reader.metadata.title.startswith("[Re]")
    assert reader.metadata.creation_date is None
    assert 6 <= len(reader.pages) <= 20


def test_a_figure_that_is_a_link_is_not_shown_and_a_damaged_one_is_an_error(folder, tmp_path):
    for name in FIGURES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(drawing())
    one = tmp_path / FIGURES[0]
    one.write_bytes(b"%PDF-1.7 and no more")
    with pytest.raises(UserError, match="PDF"):
        article(findings(), tmp_path)
    one.unlink()
    one.symlink_to(folder / FIGURES[0])
    text = article(findings(), tmp_path)
    assert "P0isdrawn" not in text
    assert "P3bisdrawn" in text


def test_without_typst_it_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(UserError, match=r"pip install 'implicit-accel\[article\]'"):
        article(findings(), folder)


def test_what_an_article_cannot_be_written_of(folder):
    listed = entries(findings(), folder)
    check("paper", listed, CLAIMS, folder)
    with pytest.raises(DataError, match="scale 'smoke', which has no verdicts"):
        check("smoke", listed, CLAIMS, folder)
    first, last = CLAIMS[0].id, CLAIMS[-1].id
    asked = f"no finding on {first}, {last}.*--claims {first},{last} --scale paper"
    with pytest.raises(DataError, match=asked):
        check("paper", listed[1:-1], CLAIMS, folder)


def test_reading_a_reproduction_whole(tmp_path):
    saved = [
        save_finding(claim, dataclasses.replace(f, figures={"curve": Figure()}),
                     tmp_path / claim.id, "standard", 2.0)
        for claim, f in zip(CLAIMS[:3], findings().values(), strict=False)
    ]  # fmt: skip
    path = tmp_path / FINDINGS_FILE
    save_findings(saved, path, "standard")
    scale, read_again = load_entries(tmp_path, CLAIMS)
    assert scale == "standard"
    assert [(e.claim, e.finding.effects, e.figures, e.seconds) for e in read_again] == [
        (e.claim, e.finding.effects, e.figures, e.seconds) for e in saved
    ]
    saved_text = path.read_text()
    for damaged in (
        "{", "[]", saved_text.replace('"standard"', '"paper"', 1), saved_text[:-9],
        '{"format": "implicit_accel finding 4", "findings": []}',
    ):  # fmt: skip
        path.write_text(damaged)
        with pytest.raises(DataError, match="damaged"):
            load_entries(tmp_path, CLAIMS)
    path.unlink()
    with pytest.raises(DataError, match=r"no such file.*experiments\.reproduce"):
        load_entries(tmp_path, CLAIMS)


def test_the_program_writes_and_keeps_what_an_author_has_written(folder, tmp_path):
    save_findings(entries(findings(), folder), folder / FINDINGS_FILE, "standard")
    output = tmp_path / "article"
    arguments = ["--reproduction", folder, "--output_dir", output]
    result = run("article", *arguments)
    assert result.returncode == 0, result.stderr
    listed = entries(findings(), folder)
    made = typeset(fill("standard", listed, COLLECTION), listed, own_sources())
    assert {name: (output / name).read_bytes() for name in made} == made
    text = output / TEXT_FILE
    text.write_text(text.read_text().replace("= Discussion", "= Afterthoughts"))
    mine = text.read_bytes()
    expect_usage_error(run("article", *arguments), str(text), "--sources", "--overwrite")
    result = run("article", *arguments, "--sources", output)
    assert result.returncode == 0, result.stderr
    assert text.read_bytes() == mine
    assert "Afterthoughts" in read((output / PAGES_FILE).read_bytes())
    text.write_text("#let = 1")
    left = (output / PAGES_FILE).read_bytes()
    expect_usage_error(run("article", *arguments, "--sources", output), "expected pattern")
    assert (output / PAGES_FILE).read_bytes() == left


def test_the_program_says_what_is_missing(folder, tmp_path):
    output = ["--output_dir", tmp_path / "article"]
    expect_usage_error(run("article", "--reproduction", tmp_path, *output), FINDINGS_FILE)
    save_findings(entries(findings(), folder)[:-2], tmp_path / FINDINGS_FILE, "standard")
    missing = run("article", "--reproduction", tmp_path, *output)
    left_out = [claim.id for claim in CLAIMS[-2:]]
    expect_usage_error(
        missing, f"no finding on {', '.join(left_out)}", f"--claims {','.join(left_out)}"
    )
    assert not (tmp_path / "article").exists()


def test_published_findings_have_pictures_in_place_of_drawings():
    published = Path(__file__).parents[1] / "docs" / "reproduction"
    _, entries = load_entries(published, load_collection().claims)
    found = {entry.claim.id: figures_of(entry) for entry in entries}
    assert {path.suffix for paths in found.values() for path in paths} == {".png"}
    assert [path.stem for path in found["P0"]][:1] == ["loss"]
