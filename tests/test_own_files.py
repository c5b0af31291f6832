"""A run's folder shows this run alone: no file of an earlier, a shorter or another one.

And each table, figure and page names the rule by which learning rates were chosen.
"""

import base64
import html
import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from marks import param
from programs import expect_usage_error, run, visible
from test_statistics import INF, NAN, made

from implicit_accel import compare, summarise, to_latex
from implicit_accel.accessor import PLOTS
from implicit_accel.experiments.cli import _FORMATS
from implicit_accel.experiments.sweep_page import with_best_by, write_page
from implicit_accel.figure_files import COMPARISON_FIGURES, FIGURE_FORMATS, SWEEP_FIGURES
from implicit_accel.summary import caption

FEW = [
    "--learning_rates", "0.01,0.1", "--num_seeds", "1", "--depths", "1,2", "--losses", "l2",
    "--record", "gradient_norm",
]  # fmt: skip
NAMES = (*SWEEP_FIGURES, "gradient_norm")

RULES = {
    "target": "first to the target",
    "stable": "fewest steps to the target among stable runs",
    "final": "smallest final excess loss",
}

# A user's own files among the figures; the first two are named much like those of the run.
MINE = ("excess_loss_annotated.png", "speed_up.png.bak", "notes.txt")


def train(folder, *arguments, num_steps=50):
    few = [*FEW]
    for name in arguments:  # instead of that of the few
        if name in few:
            del few[few.index(name) : few.index(name) + 2]
    result = run("sweep", *few, "--num_steps", num_steps, "--output_dir", folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run without figures, for tests to copy."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder)
    return folder


def write_mine(figures):
    for name in MINE:
        (figures / name).write_bytes(b"\x89PNG mine")


def bytes_of(figures):
    return {path.name: path.read_bytes() for path in figures.iterdir()}


def embedded(page):
    """The pictures in a page."""
    text = page.read_text(encoding="utf-8")
    return [base64.b64decode(d) for d in re.findall(r"data:image/png;base64,([\w+/=]+)", text)]


def command_on(page):
    """The command that a page shows to readers without JavaScript; with it, it is the same."""
    text = page.read_text(encoding="utf-8")
    (shown,) = re.findall(r"<noscript><pre>(.*?)</pre>", text)
    (told,) = {json.loads(f'"{c}"') for c in re.findall(r'"command": "((?:[^"\\]|\\.)*)"', text)}
    assert html.unescape(shown) == told
    return told


def caption_on(page):
    """The caption of the table that is shown at first: those by other rules are hidden."""
    text = page.read_text(encoding="utf-8")
    parts = re.split(r"<div data-rule=\"\w+\"( hidden)?>", text)
    # Behind each part's beginning: whether it is hidden, and its content.
    captions = {
        hidden: re.findall(r"<caption>(.*?)</caption>", content)
        for hidden, content in zip(parts[1::2], parts[2::2], strict=True)
        if "<caption>" in content
    }
    (shown,) = captions[None]
    return html.unescape(shown)


def test_names_and_formats_are_those_that_programs_draw():
    assert FIGURE_FORMATS == _FORMATS
    assert SWEEP_FIGURES == PLOTS


@pytest.mark.nightly
def test_an_extended_run_shows_no_figure_of_the_shorter_one(tmp_path):
    folder = tmp_path / "run"
    figures, page = folder / "figures", folder / "report.html"
    train(folder, "--formats", "png,svg")
    write_mine(figures)
    short = bytes_of(figures)
    assert {*short} == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")} | {*MINE}
    assert sorted(embedded(page)) == sorted(short[f"{name}.png"] for name in NAMES)
    # Extended, in another format: neither beside the new figures nor in the page is an old one.
    train(folder, "--formats", "pdf", num_steps=200)
    assert {p.name for p in figures.iterdir()} == {f"{name}.pdf" for name in NAMES} | {*MINE}
    assert embedded(page) == []
    text = page.read_text(encoding="utf-8")
    for content in short.values():
        assert base64.b64encode(content).decode() not in text
    # Back to PNG: those of the extended run.
    train(folder, "--formats", "png", num_steps=200)
    drawn = bytes_of(figures)
    assert {*drawn} == {f"{name}.png" for name in NAMES} | {*MINE}
    assert sorted(embedded(page)) == sorted(drawn[f"{name}.png"] for name in NAMES)
    assert not {*embedded(page)} & {*short.values()}
    # No figures: the user's files alone are left.
    train(folder, num_steps=210)
    assert {p.name for p in figures.iterdir()} == {*MINE}
    assert {name: (figures / name).read_bytes() for name in MINE} == dict.fromkeys(
        MINE, b"\x89PNG mine"
    )
    assert visible(folder) == ["checkpoints", "config.json", "figures", "results.nc", "summary.csv"]
    # Overwritten: as above.
    train(folder, "--formats", "svg", num_steps=210)
    train(folder, "--overwrite")
    assert {p.name for p in figures.iterdir()} == {*MINE}


def test_no_folder_is_left_without_figures(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    train(tmp_path / "run", "--formats", "svg")
    train(tmp_path / "run", num_steps=60)
    assert visible(tmp_path / "run") == ["checkpoints", "config.json", "results.nc", "summary.csv"]


def test_predictions_are_of_the_run_that_is_there(tmp_path):
    path = tmp_path / "run" / "prediction.csv"
    train(tmp_path / "run", "--predict", "--best_by", "final")
    assert set(pd.read_csv(path)["best_by"]) == {"final"}
    first = path.read_bytes()
    train(tmp_path / "run")  # the same results: what was predicted of them stays
    assert path.read_bytes() == first
    train(tmp_path / "run", num_steps=60)
    assert not path.exists()
    train(tmp_path / "run", "--predict", num_steps=60)
    assert path.exists()
    train(tmp_path / "run", "--overwrite", "--bias", num_steps=60)
    assert not path.exists()


def test_results_of_another_run_are_not_shown_as_this_one_s(trained, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    shutil.copytree(trained, mine)
    train(other, "--learning_rates", "0.02,0.2")
    own = (mine / "results.nc").read_bytes()
    shutil.copy(other / "results.nc", mine / "results.nc")
    foreign = (mine / "results.nc").read_bytes()
    assert foreign != own
    for program, *arguments in (("plot", "--run", mine), ("compare", mine, other)):
        before = (mine / "summary.csv").read_bytes()
        result = run(program, *arguments, "--formats", "svg", cwd=tmp_path)
        expect_usage_error(result, "results.nc", "config.json", "another run", "--overwrite")
        assert (mine / "summary.csv").read_bytes() == before
        assert not (mine / "figures").exists()
    # The run's command makes them from its checkpoints.
    result = train(mine)
    assert "There are checkpoints: the results are made from them" in result.stdout
    assert "0 compilations" in result.stdout
    assert (mine / "results.nc").read_bytes() == own
    # Without checkpoints they are refused, or trained again.
    (mine / "results.nc").write_bytes(foreign)
    shutil.rmtree(mine / "checkpoints")
    result = run("sweep", *FEW, "--num_steps", "50", "--output_dir", mine)
    expect_usage_error(result, "results.nc", "config.json", "another run", "--overwrite")
    assert (mine / "results.nc").read_bytes() == foreign
    train(mine, "--overwrite")
    assert (mine / "results.nc").read_bytes() == own
    # Folders from before seals were recorded, and results alone, are read as ever.
    config = json.loads((mine / "config.json").read_text())
    del config["results_sha256"]
    (mine / "config.json").write_text(json.dumps(config))
    (tmp_path / "alone").mkdir()
    shutil.copy(mine / "results.nc", tmp_path / "alone" / "results.nc")
    for folder in (mine, tmp_path / "alone"):
        result = run("plot", "--run", folder, "--formats", "none")
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("best_by", [param(rule, nightly=rule != "stable") for rule in RULES])
def test_the_rule_is_recorded_wherever_rates_are_shown(trained, tmp_path, best_by):
    folder, page = tmp_path / "run", tmp_path / "run" / "report.html"
    shutil.copytree(trained, folder)
    config = (folder / "config.json").read_bytes()
    # A finished run, shown again by another rule: in the page's command, that rule.
    shown = train(folder, "--best_by", best_by, "--formats", "svg")
    words = " ".join(shown.stdout.split())
    assert [rule for rule, said in RULES.items() if said in words] == [best_by]
    assert set(pd.read_csv(folder / "summary.csv")["best_by"]) == {best_by}
    assert f"Best learning rate: {RULES[best_by]}" in caption_on(page)
    command = shlex.split(command_on(page).removeprefix("python -m "))
    chosen = [word for word in command if "best_by" in word]
    assert chosen == ([] if best_by == "stable" else [f"--best_by={best_by}"])
    assert (folder / "config.json").read_bytes() == config
    # Redrawn by yet another one.
    other = {"target": "stable", "stable": "final", "final": "target"}[best_by]
    result = run("plot", "--run", folder, "--best_by", other, "--formats", "pdf")
    assert result.returncode == 0, result.stderr
    assert set(pd.read_csv(folder / "summary.csv")["best_by"]) == {other}
    assert f"Best learning rate: {RULES[other]}" in caption_on(page)
    assert {p.suffix for p in (folder / "figures").iterdir()} == {".pdf"}


def test_the_rule_in_a_typed_command_is_replaced():
    program = "python -m experiments.sweep"
    for typed, best_by, expected in (
        (["--depths=1"], "stable", ["--depths=1"]),
        (["--depths=1"], "target", ["--depths=1", "--best_by=target"]),
        (["--best_by=stable", "--bias"], "target", ["--best_by=target", "--bias"]),
        (["-best_by=stable"], "final", ["-best_by=final"]),
        (["--best_by", "stable", "--bias"], "final", ["--best_by", "final", "--bias"]),
        (["--bias", "--best_by"], "final", ["--bias", "--best_by", "final"]),
        (["--best_by=stable", "--best_by", "stable"], "final", ["--best_by=final"]),
        (["--flagfile=x"], "target", ["--flagfile=x", "--best_by=target"]),
        (["--best_by=stable", "--flagfile", "x"], "final",
         ["--flagfile", "x", "--best_by=final"]),
        (["--bias", "--"], "final", ["--bias", "--best_by=final", "--"]),
        (["--csv_target=--best_by"], "stable", ["--csv_target=--best_by"]),
    ):  # fmt: skip
        assert with_best_by([program, *typed], best_by) == [program, *expected]
    assert with_best_by([], "stable") == []


@pytest.fixture
def results():
    """Two models; depth 2 is best at rate 1 by target, at 0.1 by stable and 0.01 by final."""
    steps = [[[300] * 3] * 3, [[200] * 3, [100] * 3, [50] * 3]]
    final = [[[0.02] * 3] * 3, [[0.01] * 3, [0.05] * 3, [INF] * 3]]
    diverged = [[[NAN] * 3] * 3, [[NAN] * 3, [NAN] * 3, [60] * 3]]  # after the target
    return made(steps, final, diverged=diverged, rates=[0.01, 0.1, 1.0])


def test_tables_of_one_run_by_two_rules_are_told_apart(results, tmp_path):
    found = {}
    for best_by, words in RULES.items():
        table = summarise(results, best_by=best_by)
        assert table["best_by"].tolist() == [best_by] * 2
        assert compare({"a": results}, best_by=best_by)["best_by"].tolist() == [best_by] * 2
        found[best_by] = table["best_learning_rate"].iloc[1]
        for text in (caption(table), to_latex(table), repr(results.ia.summary(best_by=best_by))):
            said = [rule for rule, other in RULES.items() if f"Best learning rate: {other}" in text]
            assert said == [best_by]
        path = tmp_path / f"{best_by}.html"
        write_page(results, path, command=[], figures=[], best_by=best_by)
        assert words in caption_on(path)
        term = f"compares models at their own best learning rates ({words})"
        # It is shown, and those of other rules are hidden.
        assert f'<span data-rule="{best_by}">{term}' in path.read_text(encoding="utf-8")
        assert command_on(path) == ""
    assert found == {"target": 1.0, "stable": 0.1, "final": 0.01}
    # A table from before the rule was recorded names none.
    older = summarise(results).drop(columns="best_by")
    assert "Best learning rate" not in caption(older)


def test_figures_and_table_of_a_notebook_mark_the_same_rates(results):
    for best_by in RULES:
        table = results.ia.summary(best_by=best_by).table
        for what in ("learning_rates", "steps_to_target"):
            (ax,) = results.ia.plot(what, best_by=best_by).axes
            rings = [line for line in ax.get_lines() if line.get_fillstyle() == "none"]
            marked = [float(np.asarray(ring.get_xdata())[0]) for ring in rings]
            assert marked == table["best_learning_rate"].tolist()


@pytest.mark.nightly
def test_a_page_elsewhere_shows_what_was_drawn_for_it(trained, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "paper"
    shutil.copytree(trained, folder)
    elsewhere.mkdir()
    write_mine(elsewhere)

    def draw(*arguments):
        result = run("plot", "--run", folder, "--figures_dir", elsewhere, *arguments)
        assert result.returncode == 0, result.stderr

    draw("--formats", "png,pdf")
    short = bytes_of(elsewhere)
    # Of all PNG files there, the page shows those that were drawn for it.
    assert sorted(embedded(elsewhere / "report.html")) == sorted(short[f"{n}.png"] for n in NAMES)
    train(folder, num_steps=60)
    draw("--formats", "svg", "--best_by", "stable")
    there = bytes_of(elsewhere)
    hidden = {".files.json", ".lock"}
    assert {*there} - hidden == {f"{name}.svg" for name in NAMES} | {*MINE, "report.html"}
    assert embedded(elsewhere / "report.html") == []
    assert command_on(elsewhere / "report.html").endswith(" --best_by=stable")
    assert all(there[name] == b"\x89PNG mine" for name in MINE)
    # The run's own folder is as the sweep left it.
    assert set(pd.read_csv(folder / "summary.csv")["best_by"]) == {"target"}
    assert visible(folder) == ["checkpoints", "config.json", "results.nc", "summary.csv"]


def test_a_table_beside_results_alone_is_a_user_s(trained, tmp_path):
    """No run's folder: figures and page may be drawn there, other files are not the program's."""
    (tmp_path / "alone").mkdir()
    shutil.copy(trained / "results.nc", tmp_path / "alone" / "results.nc")
    (tmp_path / "alone" / "summary.csv").write_text("mine")
    result = run("plot", "--run", tmp_path / "alone", "--formats", "svg")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "alone" / "summary.csv").read_text() == "mine"


@pytest.mark.nightly
def test_a_comparison_shows_no_figure_of_an_earlier_one(tmp_path):
    for name, rates in (("one", "0.01"), ("two", "0.1")):
        train(tmp_path / name, "--learning_rates", rates)

    def drawn(*arguments):
        result = run(
            "compare", *arguments, "--figures_dir", tmp_path / "figures",
            "--csv", tmp_path / "all.csv", "--latex", tmp_path / "all.tex", cwd=tmp_path,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return {p.name for p in (tmp_path / "figures").iterdir()}, result.stdout

    both = ("steps_to_target", "speed_up", "over_first", "excess_loss")
    names, _ = drawn("one", "two", "--formats", "png,svg")
    assert names == {f"{name}.{kind}" for name in both for kind in ("png", "svg")}
    assert {*both} < {*COMPARISON_FIGURES}
    write_mine(tmp_path / "figures")
    # One run, by the final loss: other figures, in another format.
    names, shown = drawn("one", "--formats", "pdf", "--best_by", "final")
    single = ("final_excess", "final_ratio", "excess_loss")
    assert names == {f"{name}.pdf" for name in single} | {*MINE}
    assert RULES["final"] in " ".join(shown.split())
    assert set(pd.read_csv(tmp_path / "all.csv")["best_by"]) == {"final"}
    assert RULES["final"] in (tmp_path / "all.tex").read_text()
