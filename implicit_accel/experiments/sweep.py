r"""Trains a model over a whole grid at once and compares how fast it trains.

    python -m experiments.sweep
    python -m experiments.sweep --dataset gas --losses l2,l4 --depths 1,2,3
    python -m experiments.sweep --dataset abalone --optimizers sgd,adam \
        --learning_rates log:1e-4:0.5:20 --num_seeds 10 --num_steps 5000
    python -m experiments.sweep --dataset csv --csv_path my.csv --csv_target price
    python -m experiments.sweep --task my_model.py:task --axes width_scale=0.5:1:2

The grid is the product of all the lists. Every run of it is trained in one compiled program;
the output folder gets results.nc, summary.csv, config.json, figures/ and report.html, a page to
explore the results in.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import pandas as pd
import xarray as xr
from rich.console import Console

from implicit_accel import rates
from implicit_accel.devices import num_cores, use_cpu_devices
from implicit_accel.engine.chunks import Timing
from implicit_accel.errors import DataError, UserError
from implicit_accel.executors import Executor
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiment import RATES, Experiment, Identity
from implicit_accel.experiments import cli, compilation
from implicit_accel.experiments import executor as executors
from implicit_accel.experiments.predictions import predictions, print_beside, save_table
from implicit_accel.experiments.settings import (
    BEST_BY,
    CHECKPOINT_EVERY,
    DEVICES,
    FORMATS,
    GROUPS,
    MEMORY_LIMIT,
    OUTPUT_DIR,
    OVERWRITE,
    PREDICT,
    Asked,
    apply_quick,
    build,
)
from implicit_accel.experiments.stopping import watched_signals
from implicit_accel.figure_files import SWEEP_FIGURES
from implicit_accel.loading import load_run
from implicit_accel.rates import next_own_rates
from implicit_accel.results import (
    CONFIG_FILE,
    FIGURES_FOLDER,
    PAGE_FILE,
    PREDICTION_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
    model_labels,
    observed,
)
from implicit_accel.statistics import summarise
from implicit_accel.store.folder import RunFolder, figure_names
from implicit_accel.store.training import StoredTraining
from implicit_accel.sweep import TRAINED_AGAIN
from implicit_accel.theory.predict import Predictions

_GO_ON = "stopped at a checkpoint: the same command goes on from there"

# What --devices may ask of a CPU with fewer cores.
_MOST_CPU_DEVICES = 16

_OUTPUTS = Path("outputs")

# Seconds to wait for another process that redraws the same run.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Target:
    """A run's folder, and what becomes of what is there.

    Attributes:
        folder: The run's.
        asked: What is asked for, as the folder has it.
        overwrite: Whether what is there is replaced.
        is_finished: Whether the folder holds what is asked for.
    """

    folder: RunFolder
    asked: Asked
    overwrite: bool
    is_finished: bool


def choose_target(asked: Asked, log: Console) -> Target:
    """Decides where a run is trained, and whether it has been already.

    Raises:
        UserError: If the folder holds something else.
    """
    overwrite, folder = OVERWRITE.value, choose_folder(asked)
    begun = None if overwrite else folder.stored()
    if begun is not None:
        asked = asked.adapted_to(begun)
    identity = asked.experiment().identity
    if begun is not None and (lacking := begun.lacks(identity)):
        log.print(f"{', '.join(lacking)}: {TRAINED_AGAIN}", soft_wrap=True)
        overwrite = True
    finished = not overwrite and is_finished(folder, asked)
    if not finished:
        folder.check(identity, overwrite=overwrite)
    return Target(folder, asked, overwrite, finished)


def choose_folder(asked: Asked) -> RunFolder:
    """The run's folder: the one asked for, or one in ``outputs/``.

    Without ``--output_dir``, a run that this command goes on with is looked for; a new one gets
    a folder of its own, so that two runs do not meet in one.
    """
    if OUTPUT_DIR.value:
        return RunFolder(Path(OUTPUT_DIR.value))
    identity = asked.experiment().identity

    def can_hold(folder: RunFolder, *, empty: bool) -> bool:
        stored = folder.stored()
        return empty if stored is None else not stored.differences(identity)

    plain = RunFolder(_OUTPUTS / asked.name)
    is_usual = asked.usual is None or not asked.usual.differences(identity)
    if is_usual and can_hold(plain, empty=True):
        return plain
    others = (RunFolder(path) for path in sorted(_OUTPUTS.glob(f"{asked.name}-*")))
    new = RunFolder(_OUTPUTS / f"{asked.name}-{identity.code()}")
    return next((folder for folder in others if can_hold(folder, empty=False)), new)


def local_executor() -> LocalExecutor:
    """This process's devices and memory, as far as the flags allow.

    Raises:
        UserError: If there are fewer devices than asked for.
    """
    devices = jax.local_devices()
    if DEVICES.value is not None and DEVICES.value > len(devices):
        raise UserError(f"--devices {DEVICES.value}: this process has {len(devices)}")
    devices = devices[: DEVICES.value]
    if MEMORY_LIMIT.value is not None:
        return LocalExecutor(devices, cli.parse_bytes(MEMORY_LIMIT.value))
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    available = stats["bytes_limit"] * len(devices) if stats else cli.host_memory()
    return LocalExecutor(devices, int(0.6 * available))


def derived_files(folder: RunFolder, names: Iterable[str]) -> list[Path]:
    """What the flags have written of a run, apart from its results.

    Args:
        folder: The run's.
        names: Of its figures.
    """
    files = [folder.path / SUMMARY_FILE]
    if PREDICT.value:
        files.append(folder.path / PREDICTION_FILE)
    if formats := cli.formats(FORMATS):
        drawn = [f"{name}.{ending}" for name in names for ending in formats]
        files += [folder.path / PAGE_FILE, *(folder.path / FIGURES_FOLDER / n for n in drawn)]
    return files


def report_results(
    results: xr.Dataset, folder: RunFolder, predicted: Predictions | None, command: Sequence[str]
) -> tuple[pd.DataFrame, list[Path]]:
    """Writes a run's summary, and its figures and page if formats are given.

    Figures and a page that this call does not draw anew are removed: they may show a shorter run,
    or rates chosen by another rule.

    Args:
        results: The run's.
        folder: The run's, locked.
        predicted: Predictions to write and to draw, if any.
        command: What made the results.

    Returns:
        The table, and the files written.
    """
    best_by = BEST_BY.value
    folder.announce(derived_files(folder, (*SWEEP_FIGURES, *observed(results))))
    table = summarise(results, best_by=best_by)
    save_table(table, folder.path / SUMMARY_FILE)
    made = [folder.path / SUMMARY_FILE]
    if predicted is not None:
        beside = predicted.beside(results, best_by=best_by).assign(best_by=best_by)
        save_table(beside, folder.path / PREDICTION_FILE)
        made.append(folder.path / PREDICTION_FILE)
    curve = None if predicted is None else predicted.curve
    if not (formats := cli.formats(FORMATS)):
        folder.keep([*made, folder.path / PREDICTION_FILE])
        return table, made
    # Imported here: errors and --help come half a second sooner without matplotlib.
    from implicit_accel.experiments.sweep_page import write_page
    from implicit_accel.plotting import save_figures

    drawn = save_figures(
        results, folder.path / FIGURES_FOLDER, best_by=best_by, formats=formats, predicted=curve
    )
    page = folder.path / PAGE_FILE
    write_page(
        results, page, command=command, figures=drawn, best_by=best_by,
        predicted=curve,
    )  # fmt: skip
    made += [*drawn, page]
    # Predictions do not depend on the rule, and stay as long as the results do.
    folder.keep([*made, folder.path / PREDICTION_FILE])
    return table, made


def print_results(
    table: pd.DataFrame, results: xr.Dataset, predicted: Predictions | None, title: str,
    console: Console,
) -> None:  # fmt: skip
    """The table, and the predictions beside it where they were asked for."""
    cli.print_summary(table, title, console)
    if predicted is not None:
        print_beside(predicted.beside(results, best_by=BEST_BY.value), console)


def is_finished(folder: RunFolder, asked: Asked) -> bool:
    """Whether the folder holds what is asked for, whatever rates a search has found."""
    stored, identity = folder.finished(), asked.experiment().identity
    if stored is None:
        return False
    if asked.search is None:
        return stored.covers(identity)
    return not stored.differences(identity, may_extend=False)


def show_finished(
    folder: RunFolder, asked: Asked, predicted: Predictions | None, console: Console
) -> bool:
    """Prints a finished run's table and redraws its figures.

    Of a run that holds more than the flags name, or had another target, only the table is printed:
    the folder's files go on showing the run as it was trained.

    Returns:
        False if its results are damaged or another run's and there are checkpoints to make them
        from, or its search is not over: by another --best_by.
    """
    try:
        results = load_run(folder.path)
    except DataError as error:
        if folder.manifest() is None:
            raise
        made = "There are checkpoints: the results are made from them."
        console.print(f"{error}. {made}", soft_wrap=True)
        return False
    judge = asked.experiment().judged
    if asked.search is not None and any(next_own_rates(judge(results), best_by=BEST_BY.value)):
        return False
    stored = folder.finished()
    if asked.search is None and stored is not None:
        wanted = asked.experiment().view(results, stored)
        if not wanted.identical(results):
            wanted = judge(wanted)
            table = summarise(wanted, best_by=BEST_BY.value)
            print_results(table, wanted, predicted, asked.title, console)
            what = (
                "From the run in {}, whose files show it as it was trained, with all of its runs."
            )
            console.print(f"\n{what.format(folder.path)}", soft_wrap=True)
            return True
    results = judge(results)
    if not os.access(folder.path, os.W_OK):
        print_results(summarise(results, best_by=BEST_BY.value), results, predicted, asked.title,
                      console)  # fmt: skip
        console.print(f"\nFrom {folder.path}, which cannot be written: its files stay as they are.")
        return True
    with cli.output_folder(folder.path), folder.locked(patience=_PATIENCE):
        folder.remove_partial()
        # Its settings are those asked for; its own configuration says how.
        from implicit_accel.experiments.sweep_page import command_of

        command = command_of(folder.path) or cli.command("sweep")
        table, _ = report_results(results, folder, predicted, command)
    print_results(table, results, predicted, asked.title, console)
    console.print(f"\nThis run was already in {folder.path}; --overwrite trains it again.")
    return True


def train(
    experiment: Experiment, folder: RunFolder, executor: Executor, log: Console, title: str
) -> StoredTraining:
    """Trains what is missing in the folder.

    Raises:
        Stopped: If a signal asked for it; the state is saved.
    """
    with watched_signals(log.print) as stop:
        # Workers on this machine must be ended in order.
        stop.is_training = not isinstance(executor, LocalExecutor)
        training = StoredTraining(
            folder,
            experiment,
            executor,
            checkpoint_every=CHECKPOINT_EVERY.value,
            wanted=stop,
            log=log.print,
        )
        with cli.progress_bar(log, title, "compiling …") as report:
            for progress in training.train():
                stop.is_training = True
                report(progress.done, progress.total)
                stop.raise_if_requested(_GO_ON)
    return training


def search(
    asked: Asked, folder: RunFolder, executor: Executor, log: Console, begun: Identity | None
) -> tuple[StoredTraining, dict[str, object]]:
    """Trains round after round until every model's best learning rate is found.

    Args:
        asked: With a search.
        folder: The run's, locked.
        executor: What trains.
        log: For progress.
        begun: Of the run to go on with.

    Returns:
        The training of all rounds, and what to say of them in ``config.json``.
    """
    assert asked.search is not None
    trained: list[StoredTraining] = []

    def run(experiment: Experiment) -> xr.Dataset:
        title = f"round {len(trained) + 1}"
        trained.append(train(experiment, folder, executor, log, title))
        return experiment.judged(trained[-1].results()[0])

    first = asked.search.first(begun)
    assert first.rates is not None
    results, _ = rates.search(asked.search.grid_of, run, first.rates, best_by=BEST_BY.value)
    # Of earlier calls too.
    rounds = rates.history(results, trained[-1].rates_by_round, best_by=BEST_BY.value)
    about = {
        "best_by": BEST_BY.value,
        "tolerance": rates.TOLERANCE,
        "models": model_labels(results),
        "rounds": [dataclasses.asdict(r) for r in rounds],
    }
    return trained[-1], {"search": about}


def describe(asked: Asked, experiment: Experiment, executor: Executor) -> str:
    """What is about to be trained, in two lines."""
    device = executor.description
    lengths = " x ".join(
        f"{len(values):,} {name.replace('_', ' ')}{'s' if len(values) > 1 else ''}"
        for name, values in experiment.axes.items()
        if name != RATES or asked.search is None
    )
    if asked.search is None:
        lengths += " ="
    else:
        lengths += ", at learning rates that are searched for: first"
    return (
        f"{asked.title}: {asked.described}\n"
        f"{lengths} {experiment.num_runs:,} runs of {experiment.num_steps:,} steps on "
        f"{device['count']} {device['platform']} device{'s' if device['count'] > 1 else ''}"
    )


def train_and_report(
    target: Target, executor: Executor, predicted: Predictions | None, console: Console,
    log: Console,
) -> None:  # fmt: skip
    """Trains in the locked folder, writes results, figures and page, and prints the table."""
    asked, folder = target.asked, target.folder
    manifest = folder.manifest()
    begun = None if manifest is None else manifest.identity
    experiment = asked.experiment(begun)
    log.print(describe(asked, experiment, executor))
    found: dict[str, object] = {}
    with compilation.counted_programs() as programs:
        if asked.search is None:
            training = train(experiment, folder, executor, log, "training")
        else:
            training, found = search(asked, folder, executor, log, begun)
    results, timing = training.results()
    command = cli.command("sweep")
    about = {"command": command, "compilations": programs.compiled} | asked.about | found
    about |= training.about(timing)
    try:
        judged = experiment.judged(results)
    except UserError:  # the metric does not fit; what has been trained is not lost
        folder.finish(results, about, training.identity)
        raise
    table, made = report_results(judged, folder, predicted, command)
    folder.finish(results, about, training.identity, made=made)
    print_results(table, judged, predicted, asked.title, console)
    console.print(f"\n{costs(programs, timing)}\n{where(folder)}", soft_wrap=True)


def main() -> None:
    """Flags, configuration, library, table."""
    left_out = apply_quick()
    check_machine_flags()
    console, log = cli.make_console(), cli.make_console(stderr=True)
    # One host-platform device per core: each runs its own blocks of runs in its cache. More may be
    # set, to try what several devices do; but not without bound. Before a task's file is run, which
    # may compute.
    asked = DEVICES.value and min(DEVICES.value, max(num_cores(), _MOST_CPU_DEVICES))
    use_cpu_devices(asked)
    target = choose_target(build(log), log)
    folder = target.folder
    predicted = predictions(target.asked.grid, log) if PREDICT.value else None
    if not (target.is_finished and show_finished(folder, target.asked, predicted, console)):
        train_in(target, predicted, console, log)
    if left_out:
        console.print(left_out, soft_wrap=True)


def train_in(
    target: Target, predicted: Predictions | None, console: Console, log: Console
) -> None:  # fmt: skip
    """Prepares and locks the folder, and trains in it."""
    folder = target.folder
    compilation.keep_programs(compilation.asked_for())
    with cli.output_folder(folder.path), folder.locked():
        identity = target.asked.experiment().identity
        folder.prepare(identity, overwrite=target.overwrite)
        folder.announce(derived_files(folder, figure_names(identity)))
        with executors.opened(log, local_executor, seconds=CHECKPOINT_EVERY.value) as executor:
            train_and_report(target, executor, predicted, console, log)


def check_machine_flags() -> None:
    """Makes sure that the flags which are read late can be.

    Raises:
        UserError: If one is not allowed.
    """
    cli.formats(FORMATS)
    executors.check_flags()
    if MEMORY_LIMIT.value is not None:
        cli.parse_bytes(MEMORY_LIMIT.value)
    elsewhere = executors.WORKERS.value is not None or executors.SCHEDULER.value is not None
    for holder in (DEVICES, MEMORY_LIMIT):
        if elsewhere and holder.value is not None:
            raise UserError(
                f"--{holder.name} is of this process: leave it out with --workers and --scheduler"
            )


def costs(programs: compilation.ProgramCount, timing: Timing) -> str:
    """What training took, in a line."""
    rate = timing.run_steps / timing.train_seconds if timing.train_seconds else 0
    return (
        f"{programs} ({timing.compile_seconds:.1f} s), training {timing.train_seconds:.1f} s: "
        f"{rate:,.0f} run-steps/s."
    )


def where(folder: RunFolder) -> str:
    """What lies where, in a line."""
    predicted = (PREDICTION_FILE,) if PREDICT.value else ()
    drawn = (f"{FIGURES_FOLDER}/", PAGE_FILE) if cli.formats(FORMATS) else ()
    files = (RESULTS_FILE, SUMMARY_FILE, CONFIG_FILE, *predicted, *drawn)
    return f"{folder.path}: {', '.join(files)}"


if __name__ == "__main__":
    cli.run(main, GROUPS, __doc__ or "")
