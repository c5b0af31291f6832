"""Redraws the figures and the page of a finished run, without training.

In the run's own folder it writes summary.csv as well, so that all files there follow one --best_by.

python -m experiments.plot --run outputs/gas_like
python -m experiments.plot --run outputs/gas_like --formats svg --best_by final
python -m experiments.plot --run outputs/gas_like --size column --figures_dir paper
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from implicit_accel.errors import UserError
from implicit_accel.experiments import cli
from implicit_accel.experiments.predictions import save_table
from implicit_accel.experiments.sweep_page import command_of, write_page
from implicit_accel.figure_files import SWEEP_FIGURES
from implicit_accel.loading import load_run
from implicit_accel.plotting import save_figures
from implicit_accel.results import (
    FIGURES_FOLDER,
    PAGE_FILE,
    PREDICTION_FILE,
    SUMMARY_FILE,
    observed,
)
from implicit_accel.statistics import summarise
from implicit_accel.store.folder import RunFolder

_GROUPS = cli.FlagGroups()
_RUN = flags.DEFINE_string("run", None, "Output folder of a sweep.")
_FIGURES = flags.DEFINE_string(
    "figures_dir",
    None,
    "Where figures and page go; the run's own figures/ and folder unless given. Figures of an "
    "earlier call are replaced, in whatever format.",
)
_FORMATS = cli.define_formats()
_BEST_BY = cli.define_best_by()
_SIZE = flags.DEFINE_enum(
    "size", "screen", ("screen", "page", "column"),
    "page and column are for a paper: 6.8 and 3.4 inches wide, without titles.",
)  # fmt: skip
_GROUPS.add("Flags", _RUN, _FIGURES, _FORMATS, _SIZE, _BEST_BY)


def main() -> None:
    """Loads, prints the table, draws."""
    if _RUN.value is None:
        raise UserError("--run is missing: give the output folder of a sweep")
    formats = cli.formats(_FORMATS)
    results = load_run(_RUN.value)
    console = cli.make_console()
    table = summarise(results, best_by=_BEST_BY.value)
    cli.print_summary(table, results.attrs["title"], console)
    if not formats:
        return
    run = Path(_RUN.value)
    folder = run if run.is_dir() else run.parent
    figures = Path(_FIGURES.value) if _FIGURES.value else folder / FIGURES_FOLDER
    page = (figures if _FIGURES.value else folder) / PAGE_FILE
    names = (*SWEEP_FIGURES, *observed(results))
    planned = [page, *(figures / f"{name}.{ending}" for name in names for ending in formats)]
    has_summary = not _FIGURES.value and RunFolder(folder).finished() is not None
    if has_summary:
        planned.append(folder / SUMMARY_FILE)
    # A folder of its own has a list of its files as well: names of observables are a file's, and
    # must not choose what is replaced.
    own = RunFolder(folder if not _FIGURES.value else figures)
    try:
        own.path.mkdir(parents=True, exist_ok=True)
        with own.locked():
            own.announce(planned)
            paths = save_figures(
                results, figures, best_by=_BEST_BY.value, formats=formats, size=_SIZE.value
            )
            command = command_of(folder)
            write_page(results, page, command=command, figures=paths, best_by=_BEST_BY.value)
            made = [*paths, page]
            if has_summary:
                save_table(table, folder / SUMMARY_FILE)
                made += [folder / SUMMARY_FILE, folder / PREDICTION_FILE]
            own.keep(made)
    except OSError as error:
        raise UserError(f"{figures}: cannot write figures there ({error.strerror})") from None
    console.print(f"{len(paths)} figures in {figures}, {page}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
