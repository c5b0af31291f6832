"""Results for other programs: nothing is lost on the way, nothing becomes a command."""

import builtins
import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import AXES, INF, NAN, general, made, some_axes

import implicit_accel as ia
from implicit_accel import UserError, save_tidy, summarise, to_latex, to_rliable, to_tidy
from implicit_accel.latex import escaped


@given(axes=some_axes(), seed=st.integers(0, 99))
@pytest.mark.parametrize("what", ["runs", "trajectories", "observations"])
def test_a_tidy_table_holds_every_value_in_its_place(what, axes, seed):
    runs = general(axes, seed=seed, observed=True)
    table = to_tidy(runs, what)
    step = {"runs": [], "trajectories": ["step"], "observations": ["observation_step"]}[what]
    sizes = [len(v) for v in axes.values()] + [runs.sizes[s] for s in step]
    assert len(table) == np.prod(sizes)
    names = {
        "runs": ("steps_to_target", "divergence_step"),
        "trajectories": ("loss", "excess_loss"),
        "observations": ("sharpness",),
    }[what]
    for row in table.to_dict("records"):
        at = {name: row[name] for name in (*axes, *step)}
        for name in names:
            np.testing.assert_equal(row[name], runs[name].sel(at).item())
        if what == "runs":
            last = runs["excess_loss"].sel(at).isel(step=-1).item()
            np.testing.assert_equal(row["final_excess_loss"], last)
            assert row["optimum"] == runs["optimum"].item()


@given(axes=some_axes(), seed=st.integers(0, 99))
def test_a_csv_file_gives_back_the_same_numbers(tmp_path_factory, axes, seed):
    runs = general(axes, seed=seed)
    path = save_tidy(runs, tmp_path_factory.mktemp("tidy") / "runs.csv", "trajectories")
    table = to_tidy(runs, "trajectories")
    with path.open(newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == table.columns.tolist()
    assert len(rows) == len(table)
    for name, *cells in zip(heading, *rows, strict=True):
        for cell, value in zip(cells, table[name], strict=True):
            found = cell if isinstance(value, str) else float(cell or NAN)
            np.testing.assert_equal(found, value)


def test_runs_that_were_not_trained_have_no_row():
    runs = made([[[5, 6], [7, 8]], [[1, 2], [3, 4]]], np.full((2, 2, 2), 0.1))
    for name in ("loss", "excess_loss"):
        runs[name][1, 0] = NAN
    table = to_tidy(runs)
    assert table["steps_to_target"].tolist() == [5, 6, 7, 8, 3, 4]
    assert table["model"].unique().tolist() == ["depth 1", "depth 2"]


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    runs = made([[[5]]], [[[0.1]]], depths=[1])
    with pytest.raises(UserError, match="choose from runs, trajectories, observations"):
        to_tidy(runs, "rows")
    with pytest.raises(UserError, match="nothing was observed"):
        to_tidy(runs, "observations")
    with pytest.raises(UserError, match=r"must end in \.csv or \.parquet"):
        save_tidy(runs, tmp_path / "runs.xls")
    with pytest.raises(UserError, match="cannot be written"):
        save_tidy(runs, tmp_path / "nowhere" / "runs.csv")
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pyarrow":
            raise ImportError
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install pyarrow"):
        save_tidy(runs, tmp_path / "runs.parquet")
    assert list(tmp_path.iterdir()) == []


# --- LaTeX ---

# What stands for a character, in the text of a document; the characters that LaTeX would obey.
_BACK = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    **{f"\\{c}": c for c in "&%$#_{}"},
}  # fmt: skip


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_latex_shows_text_as_it_is(text):
    found = escaped(text)
    token = re.compile("|".join(map(re.escape, [*_BACK, "{}"])))
    rest = token.sub("", found)
    assert not set(rest) & set("\\&%$#_{}~^<>|")  # nothing is left that would be obeyed
    assert not found.startswith(("[", "*"))
    assert "--" not in found
    assert token.sub(lambda m: _BACK.get(m.group(), ""), found) == text


def cells_of(latex: str) -> list[list[str]]:
    """The cells of each row of a LaTeX table."""
    rows = [line.strip() for line in latex.splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\) & ", row.removesuffix(r" \\")) for row in rows]


def test_a_summary_as_latex():
    steps = [[[200, 210, 220]], [[50, 60, 70]]]
    results = made(steps, np.full((2, 1, 3), 0.05), rates=[0.01])
    latex = to_latex(summarise(results), label="tab:depth")
    heading, *rows = cells_of(latex)
    assert {len(row) for row in (heading, *rows)} == {7}
    assert [row[0] for row in rows] == ["depth 1", "depth 2"]
    assert rows[1][4].startswith("3.5 ")  # 210 / 60
    assert heading[4].endswith("(range)}")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:depth}"):
        assert latex.count(part) == 1
    opened = re.findall(r"\\begin\{(\w+)\}", latex)
    assert opened == re.findall(r"\\end\{(\w+)\}", latex)[::-1] == ["table", "tabular"]


def test_a_rule_sets_losses_apart_and_any_table_shows_its_intervals():
    runs = general({"loss_name": ("l2", "l4"), "depth": (1, 2), "seed": (0, 1)})
    assert to_latex(summarise(runs)).count(r"\midrule") == 2
    table = pd.DataFrame({
        "who & what": ["a_b", "c"], "share": [0.1234, INF], "share_low": [0.1, NAN],
        "share_high": [0.2, NAN], "n": [3, 4],
    })  # fmt: skip
    assert cells_of(to_latex(table, caption="50 %")) == [
        [r"who \& what", "share", "n"], [r"a\_b", "0.123 [0.1, 0.2]", "3"], ["c", r"$\infty$", "4"],
    ]  # fmt: skip
    assert r"\caption{50 \%}" in to_latex(table, caption="50 %")
    assert "caption" not in to_latex(table)
    for label in ("}\\input{x", "a\nb", "%"):
        with pytest.raises(UserError, match="letters, digits"):
            to_latex(table, label=label)
    with pytest.raises(UserError, match="without columns"):
        to_latex(pd.DataFrame())


# --- rliable ---


def test_scores_are_speed_ups_by_algorithm_seed_and_problem():
    steps = [[[100, 200, 300]], [[50, INF, 100]]]
    one = made(steps, np.full((2, 1, 3), 0.05))
    other = made(np.array(steps) * 2, np.full((2, 1, 3), 0.05))
    scores = to_rliable({"gas": one, "abalone": other})
    assert list(scores) == ["depth 1", "depth 2"]
    np.testing.assert_allclose(scores["depth 1"], np.array([[2, 1, 2 / 3]] * 2).T)
    np.testing.assert_allclose(scores["depth 2"], np.array([[4, 0, 2]] * 2).T)
    logs = to_rliable(one, score="log_steps")
    np.testing.assert_allclose(10 ** -logs["depth 2"][:, 0], [50, 1000, 100])


def test_a_problem_is_a_loss_too():
    axes = {"loss_name": ("l2", "l4"), "depth": (1, 2, 3), "seed": (0, 1, 2, 3)}
    scores = to_rliable(general(axes), score="log_steps")
    assert {label: found.shape for label, found in scores.items()} == {
        f"depth {depth}": (4, 2) for depth in (1, 2, 3)
    }


def test_scores_that_nobody_can_compute_are_refused():
    never = made(np.full((2, 1, 3), INF), np.full((2, 1, 3), 0.5))
    fine = made(np.full((2, 1, 3), 9), np.full((2, 1, 3), 0.05))
    with pytest.raises(UserError, match="does not reach the target"):
        to_rliable(never)
    with pytest.raises(UserError, match="was not trained on b"):
        to_rliable({"a": fine, "b": ia.select(fine, depth=1)})
    with pytest.raises(UserError, match="numbers of seeds differ"):
        to_rliable({"a": fine, "b": fine.isel(seed=[0])})
    with pytest.raises(UserError, match="has no baseline"):
        to_rliable(general(AXES))
    with pytest.raises(UserError, match="choose from speed_up, log_steps"):
        to_rliable(fine, score="steps")
