"""Puts several finished runs side by side, without training.

    python -m experiments.compare outputs/gas outputs/abalone
    python -m experiments.compare outputs/gas-* --best_by final --csv all.csv --latex table.tex

Models are matched by the coordinates that differ within any of the runs. What is the same within
each run but not in all of them is listed first. The folder of the figures also gets
comparison.html, one page with tables and figures, to read in a browser.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr
from absl import flags
from rich.console import Console
from rich.table import Table

from implicit_accel import summary
from implicit_accel.comparison import compare, differences, of_run, with_ends
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli
from implicit_accel.exports import csv_text, save_text
from implicit_accel.figure_files import COMPARISON_FIGURES, remove_figures
from implicit_accel.files import atomic_path, printable
from implicit_accel.latex import to_latex
from implicit_accel.loading import load_run
from implicit_accel.statistics import BEST_BY_WORDS, compares_final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "comparison.html"

_CAPTIONS = {
    "steps_to_target": "Steps to the target: medians and quartiles over seeds",
    "final_excess": "Final excess loss: medians and quartiles over seeds",
    "speed_up": "How many times fewer steps than the run's own baseline",
    "final_ratio": "How many times lower a final excess loss than the run's own baseline",
    "over_first": "Each model over the same model in {first}",
    "excess_loss": "Excess loss of each model at its best learning rate",
}
"""Of the figures on the page, by the names of `COMPARISON_FIGURES`."""

_GROUPS = cli.FlagGroups()
_FIGURES = flags.DEFINE_string(
    "figures_dir",
    "outputs/comparison",
    f"Where the figures and {PAGE_FILE} go; those of an earlier comparison are replaced.",
)
_FORMATS = cli.define_formats()
_CSV = flags.DEFINE_string("csv", None, "File for the whole table: a row per run and model.")
_LATEX = flags.DEFINE_string("latex", None, "File for the printed table as LaTeX (booktabs).")
_BEST_BY = cli.define_best_by()
_GROUPS.add("Flags", _BEST_BY, _FIGURES, _FORMATS, _CSV, _LATEX)


def load(folders: list[str]) -> dict[str, xr.Dataset]:
    """Runs by their names, see `run_names`.

    Raises:
        UserError: If there are none, one is given twice, or one is no run.
    """
    if not folders:
        raise UserError("no runs: give the output folders of sweeps, like outputs/gas outputs/csv")
    paths = [Path(folder) for folder in folders]
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{path} is given twice")
    return dict(zip(run_names(places), map(load_run, paths), strict=True))


def run_names(places: Sequence[Path]) -> list[str]:
    """Names for runs: the last parts of their paths, as many of each as it needs to be unique.

    Args:
        places: Different absolute paths.

    Returns:
        Different names, each one printable line.
    """
    names = []
    for place in places:
        endings = [place.parts[-count:] for count in range(1, len(place.parts) + 1)]
        unique = (e for e in endings if sum(other.parts[-len(e) :] == e for other in places) == 1)
        names.append(str(Path(*next(unique, place.parts))))
    return _short_lines(names, 80)


def _short_lines(texts: Sequence[str], longest: int) -> list[str]:
    """Texts from outside as short printable lines; different texts stay different.

    Characters that cannot be printed are escaped as in Python, and so is the backslash. Of long
    texts the middle is left out, as far as they still differ.
    """
    lines = [
        "".join(
            c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode()
            for c in text
        )
        for text in texts
    ]
    while True:
        half = longest // 2
        short = [x if len(x) <= longest else f"{x[: half - 1]}…{x[-half:]}" for x in lines]
        if len(set(short)) == len(set(lines)):
            return short
        longest *= 2


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `compare` as it is shown: text, a model's runs below each other."""
    rows = []
    for run in dict.fromkeys(table["run"]):
        own = of_run(table, run)
        for m in range(len(own)):
            model, *cells = summary.cells(own, m)
            rows.append([model, run, *cells[:4], _over_first(own, m)])
    headings = summary.columns(table)
    better = "times lower" if compares_final(table) else "times fewer steps"
    columns = [headings[0], "run", *headings[1:5], f"{better}\nthan in {table['run'].iloc[0]}"]
    shown = pd.DataFrame(rows, columns=pd.Index(columns), dtype=object)
    order = {model: place for place, model in enumerate(dict.fromkeys(table["model"]))}
    return shown.sort_values("model", key=lambda models: models.map(order), kind="stable")


def _over_first(own: pd.DataFrame, m: int) -> str:
    """How the first run and this one compare, in words where only one of them arrives."""
    value, low, high = with_ends(own, m, "over_first")
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "only this one arrives"
    return "only that one arrives" if value == 0 else summary.with_interval(value, low, high)


def print_differences(table: pd.DataFrame, console: Console) -> None:
    """What differs between the runs' settings."""
    if table.empty:
        console.print("The runs' settings are the same.")
        return
    shown = Table(title="What differs between the runs", title_justify="left")
    for name in ("setting", *table):
        shown.add_column(str(name))
    for setting, row in table.iterrows():
        shown.add_row(str(setting), *_short_lines(list(map(str, row)), 60))
    console.print(shown)


def print_side_by_side(table: pd.DataFrame, title: str, console: Console) -> None:
    """The runs of each model below each other."""
    shown = Table(title=title)
    shown.title_justify = "left"
    for name in table:
        shown.add_column(str(name), justify="left" if name in ("model", "run") else "right")
    last = None
    for row in table.itertuples(index=False):
        if row[0] != last:
            shown.add_section()
        shown.add_row("" if row[0] == last else row[0], *row[1:])
        last = row[0]
    console.print(shown)


def write_page(
    path: Path, runs: Mapping[str, xr.Dataset], table: pd.DataFrame, figures: Mapping[str, Figure]
) -> None:
    """Writes the page of a comparison, atomically.

    Args:
        path: The page's.
        runs: Results of any axes, by name.
        table: What `compare` made of them.
        figures: What `comparison_figures` drew of them.
    """
    from implicit_accel.pages.comparison import page

    own = {name: of_run(table, name) for name in runs}
    program, *words = cli.command("compare")
    text = page(
        side_by_side(table),
        title="Comparison of " + (" and ".join(runs) if len(runs) < 4 else f"{len(runs)} runs"),
        rule=f"{_title()}.",
        differing=differences(runs) if len(runs) > 1 else None,
        answers={name: summary.answers(each) for name, each in own.items()},
        notes={name: summary.caption(each) for name, each in own.items()},
        figures={_CAPTIONS[name].format(first=next(iter(runs))): f for name, f in figures.items()},
        command=" ".join([program, *(shlex.quote(printable(word, 4096)) for word in words)]),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _title() -> str:
    """Of the table."""
    rule = BEST_BY_WORDS[_BEST_BY.value]
    return f"The runs side by side, each model at its best learning rate ({rule})"


def main(folders: list[str]) -> None:
    """Loads, compares, prints, draws."""
    formats = cli.formats(_FORMATS)
    runs = load(folders)
    table = compare(runs, best_by=_BEST_BY.value)
    console = cli.make_console()
    if len(runs) > 1:
        print_differences(differences(runs), console)
    shown = side_by_side(table)
    print_side_by_side(shown, _title(), console)
    for name in runs:
        for sentence in summary.answers(of_run(table, name)):
            console.print(f"→ {name}: {sentence}", soft_wrap=True)
    written = []
    if _CSV.value:
        written.append(save_text(csv_text(table), Path(_CSV.value)))
    if _LATEX.value:
        written.append(save_text(to_latex(shown, caption=f"{_title()}."), Path(_LATEX.value)))
    names = ", ".join(map(str, written))
    if not formats:
        if names:
            console.print(names)
        return
    figures = Path(_FIGURES.value)
    # Imported here: errors and --help come half a second sooner without matplotlib.
    from implicit_accel.comparison_plots import comparison_figures
    from implicit_accel.plotting import write_figures

    drawn = comparison_figures(runs, table, best_by=_BEST_BY.value)
    try:
        paths = write_figures(drawn, figures, formats)
        remove_figures(figures, COMPARISON_FIGURES, keep=paths)
        write_page(figures / PAGE_FILE, runs, table, drawn)
    except OSError as error:
        raise UserError(f"{figures}: cannot write figures there ({error.strerror})") from None
    made = f"{PAGE_FILE} and {len(paths)} figures in {figures}"
    console.print(made + (f"; {names}" if names else ""))


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "", takes="RUN")
