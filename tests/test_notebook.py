"""What a notebook shows, and what prepares one."""

import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO

import jax
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from rich.console import Console
from test_statistics import general, made

import implicit_accel as ia
from implicit_accel import UserError, linear
from implicit_accel.progress import ProgressBar, default_bar
from implicit_accel.statistics import summarise


class Page(HTMLParser):
    """The text of each element, by its tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.text.setdefault(tag, []).append("")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text[self.open[-1]][-1] += data


@pytest.fixture
def results():
    return made([[[200, 210, 220]], [[50, 60, 70]]], np.full((2, 1, 3), 0.05), rates=[0.01])


def test_a_summary_says_what_the_table_holds(results):
    summary = results.ia.summary()
    assert summary.table.equals(summarise(results))
    page = Page(summary._repr_html_())
    assert page.open == []
    assert page.text["strong"] == summary.answers
    assert page.text["strong"][0].startswith("depth 2 needs 3.5× fewer steps than depth 1")
    assert page.text["caption"] == ["made"]
    assert page.text["th"][-2:] == ["depth 1", "depth 2"]
    assert len(page.text["td"]) == 2 * 6
    assert all(sentence in str(summary) for sentence in summary.answers)
    assert r"\toprule" in summary.to_latex()


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "</table><img src=x onerror=y>", "&"]
)
def test_names_are_text(text):
    runs = general({"activation": (text, "tanh"), "seed": (0, 1)})
    runs.attrs["title"] = text
    page = Page(runs.ia.summary(baseline={"activation": text})._repr_html_())
    assert not {"script", "img"} & set(page.text)
    assert page.text["caption"] == [text]
    assert text in page.text["th"]


def test_figures_are_those_of_the_sweep_and_show_themselves(results):
    for what in ("excess_loss", "learning_rates", "steps_to_target", "speed_up"):
        figure = results.ia.plot(what)
        assert "made" in figure.get_suptitle()
        assert figure._repr_png_().startswith(b"\x89PNG")
    runs = general({"seed": (0, 1)}, observed=True)
    assert runs.ia.plot("sharpness").get_suptitle().startswith("Sharpness")
    with pytest.raises(UserError, match=r"choose from excess_loss, .*, sharpness"):
        runs.ia.plot("flatness")
    with pytest.raises(
        UserError, match=r"'colour' is no option .* choose from x, best_by, hue, size"
    ):
        runs.ia.plot("steps_to_target", colour="momentum")


def test_figures_of_grids_are_asked_of_the_results():
    runs = general({"learning_rate": (0.1, 1.0), "seed": (0, 1), "momentum": (0.5, 0.9)})
    for figure in (
        runs.ia.plot_heatmap(x="learning_rate", y="momentum", size="column"),
        runs.ia.plot_importance(title=None),
        runs.ia.plot("steps_to_target", x="momentum", hue=None),
    ):
        assert figure._repr_png_().startswith(b"\x89PNG")
    ax = Figure().subplots()
    assert runs.ia.plot("excess_loss", ax=ax, title="mine") is ax
    assert ax.get_title() == "mine"


def test_other_datasets_hold_no_results():
    for ask in (xr.Dataset().ia.summary, xr.Dataset({"loss": 1.0}).ia.plot):
        with pytest.raises(UserError, match="does not hold a sweep's results"):
            ask()


def bar(**options) -> tuple[ProgressBar, StringIO]:
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=100, force_jupyter=False)
    return ProgressBar("training", console=console, **options), file


def test_a_bar_shows_the_share_and_rests_when_all_is_done():
    shown, file = bar()
    assert file.getvalue() == ""
    shown(0, 8)
    shown(2, 8)
    shown(8, 8)
    assert "100%" in file.getvalue()
    assert file.getvalue().endswith("\x1b[?25h")  # the cursor is back
    shown(1, 4)  # of further work
    shown.stop()
    assert "25%" in file.getvalue()


def test_what_comes_before_the_first_report_is_shown_at_once():
    shown, file = bar()
    with shown:
        assert "compiling …" in file.getvalue()
        assert "training" not in file.getvalue()
        shown(1, 2)
    assert "training" in file.getvalue()
    shown, file = bar()
    with shown:
        pass
    # Of results that were only read, the line is erased.
    assert file.getvalue().rstrip().endswith("\x1b[2K")
    shown, file = bar(before=None)
    with shown:
        pass
    assert file.getvalue() == ""


def test_a_bar_rests_when_training_is_broken_off():
    shown, file = bar()

    class Breaking(ProgressBar):
        def __call__(self, done, total):
            super().__call__(done, total)
            raise KeyboardInterrupt

    shown.__class__ = Breaking
    with pytest.raises(KeyboardInterrupt):
        small_sweep(progress=shown)
    assert file.getvalue().endswith("\x1b[?25h")


def small_sweep(**options):
    config = linear.SweepConfig(depths=(1,), learning_rates=(0.01,), num_seeds=1, num_steps=5)
    rng = np.random.default_rng(0)
    problem = linear.Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))
    return linear.run_sweep(problem, config, **options)


def test_calls_that_last_show_a_bar_by_themselves(monkeypatch, capsys):
    assert default_bar(Console(file=StringIO())) is None
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=100, force_jupyter=False)
    short = default_bar(console)
    assert short is not None
    with short:
        short(1, 2)
    assert file.getvalue() == ""
    monkeypatch.setattr("implicit_accel.progress._LASTING", 0.0)
    bars = []
    monkeypatch.setattr(
        sys.modules["implicit_accel.sweep"],
        "default_bar",
        lambda: bars.append(default_bar(console)) or bars[-1],
    )
    small_sweep(progress=False)
    assert not bars
    with pytest.raises(ia.UserError, match="progress 3: give a function"):
        small_sweep(progress=3)
    small_sweep()
    assert len(bars) == 1
    assert "100%" in file.getvalue()
    assert file.getvalue().rstrip().endswith("\x1b[2K")  # the line is erased
    # In a pipe there is none.
    monkeypatch.undo()
    monkeypatch.setattr("implicit_accel.progress._LASTING", 0.0)
    small_sweep()
    assert capsys.readouterr() == ("", "")


def test_cpu_devices_are_counted_before_anything_is_computed():
    code = """
import implicit_accel as ia, jax
assert ia.use_cpu_devices(3) == 3 == len(jax.devices())
assert ia.use_cpu_devices(3) == 3
try:
    ia.use_cpu_devices(2)
except ia.UserError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert found.stderr == ""
    assert found.stdout.startswith("too late for 2 CPU devices: JAX has computed before, on 3")
    assert "Restart" in found.stdout
    jax.devices()
    with pytest.raises(UserError, match="at least 1"):
        ia.use_cpu_devices(0)
