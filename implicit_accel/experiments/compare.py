"""Puts several finished runs side by side, without training.

    python -m experiments.compare outputs/gas outputs/abalone
    python -m experiments.compare outputs/gas-* --best_by final --csv all.csv --latex table.tex

Models are matched by their labels: by what differs within the runs. What is the same within each
run but not in all of them is listed first.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import xarray as xr
from absl import flags
from rich.console import Console
from rich.table import Table

from implicit_accel import summary
from implicit_accel.comparison import compare, differences, of_run, with_ends
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli
from implicit_accel.exports import save_text
from implicit_accel.files import printable
from implicit_accel.latex import to_latex
from implicit_accel.loading import load_run
from implicit_accel.statistics import compares_final

_GROUPS = cli.FlagGroups()
_FIGURES = flags.DEFINE_string("figures_dir", "outputs/comparison", "Where the figures go.")
_FORMATS = cli.define_formats()
_CSV = flags.DEFINE_string("csv", None, "File for the whole table: a row per run and model.")
_LATEX = flags.DEFINE_string("latex", None, "File for the printed table as LaTeX (booktabs).")
_BEST_BY = cli.define_best_by()
_GROUPS.add("Flags", _BEST_BY, _FIGURES, _FORMATS, _CSV, _LATEX)


def load(folders: list[str]) -> dict[str, xr.Dataset]:
    """Runs by their folders' names; by the whole paths where two have one name.

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
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return {printable(name): load_run(path) for name, path in zip(names, paths, strict=True)}


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
        shown.add_row(str(setting), *(printable(str(value), 60) for value in row))
    console.print(shown)


def print_side_by_side(table: pd.DataFrame, console: Console) -> None:
    """The runs of each model below each other."""
    shown = Table(title="The runs side by side, each model at its best learning rate")
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


def main(folders: list[str]) -> None:
    """Loads, compares, prints, draws."""
    formats = cli.formats(_FORMATS)
    runs = load(folders)
    table = compare(runs, best_by=_BEST_BY.value)
    console = cli.make_console()
    if len(runs) > 1:
        print_differences(differences(runs), console)
    shown = side_by_side(table)
    print_side_by_side(shown, console)
    for name in runs:
        for sentence in summary.answers(of_run(table, name)):
            console.print(f"→ {name}: {sentence}", soft_wrap=True)
    written = []
    if _CSV.value:
        written.append(save_text(table.to_csv(index=False), Path(_CSV.value)))
    if _LATEX.value:
        written.append(save_text(to_latex(shown), Path(_LATEX.value)))
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
    except OSError as error:
        raise UserError(f"{figures}: cannot write figures there ({error.strerror})") from None
    console.print(f"{len(paths)} figures in {figures}" + (f"; {names}" if names else ""))


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "", takes="RUN")
