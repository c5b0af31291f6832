"""The one entry: a grid of runs in, labelled results out.

`sweep` is for any task, `run_sweep` for deep linear networks, `run` for every experiment there is.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import xarray as xr

from implicit_accel import rates
from implicit_accel.accessor import attach
from implicit_accel.data.problems import Problem
from implicit_accel.engine.chunks import (
    Chunk,
    ChunkState,
    Device,
    Group,
    Timing,
    chunks_of,
    cut,
    gather,
)
from implicit_accel.errors import DataError, UserError
from implicit_accel.executors import Executor, Job
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiment import RATES, SEEDS, Experiment, assemble
from implicit_accel.fields import Allowed, Field, parse_bytes
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.loading import load_run
from implicit_accel.observables import Observable
from implicit_accel.progress import default_bar
from implicit_accel.rates import auto
from implicit_accel.results import Metric
from implicit_accel.store.folder import RunFolder
from implicit_accel.store.interrupt import deferred_interrupt
from implicit_accel.store.training import StoredTraining, fits
from implicit_accel.tasks.axes import static, together
from implicit_accel.tasks.grid import MakeOptimizer, TaskSweep
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.tasks.parameters import (
    Parameters,
    Part,
    check_memory,
    part_of,
    run_bytes,
    wanted_places,
)

Progress = Callable[[int, int], object]

TRAINED_AGAIN = "not recorded in the run that is there: all of it is trained again"

_CHECKPOINT_EVERY = Field(
    60.0,
    "Seconds between checkpoints.",
    one="checkpoint_every",
    allowed=Allowed("a number of seconds >= 0", numbers.Real, (0, math.inf)),
)


def sweep(
    task: LossTask,
    *,
    axes: Mapping[str, Iterable[Any] | static | together | auto],
    optimizer: MakeOptimizer,
    num_steps: int,
    batch_size: int | None = None,
    target: float | Metric | None = None,
    keep: Literal["final", "best"] | None = None,
    record: Mapping[str, Observable] | Sequence[str] = (),
    records_per_decade: int = 150,
    observations_per_decade: int = 30,
    record_every: int | Sequence[int] | None = None,
    precision: str = "float32",
    largest_block: int | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: float = 60.0,
    devices: Sequence[Device] | None = None,
    memory_limit: float | str | None = None,
    client: Any = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Trains a task over the product of some axes, in one compiled program.

    Args:
        task: What to train, see `from_loss`.
        axes: The grid: values by name. ``seed`` decides initial parameters, mini-batches and
            randomness; where it is missing it is 0. Numbers are traced: they change neither the
            program nor the number of compilations. Text, and what `static` marks, is fixed in a
            program of its own for every value, all in the same compiled call. Static values may be
            anything; a dictionary of values is static too, and its keys are their labels in
            results. `together` and `random` make an axis along which several hyper-parameters vary
            at once. Learning rates may be `auto`: then each combination of the other axes gets
            rates that are searched for.
        optimizer: A function that makes an optax transformation from the hyper-parameters (the
            values along the axes by name), and from ``key``, a JAX key of the run's own, if it
            takes that; an `Optimizer`; or, where no axis is for it, a transformation.
        num_steps: T, updates per run.
        batch_size: Rows in a mini-batch; the full batch by default.
        target: Excess loss at which a run has reached its target; a loss where the task's optimum
            is not known. With mini-batches or randomness the loss of all rows counts, see
            `from_loss`. Or a `Metric`: the results are then judged by it, see `Metric.judge`, and
            so is the search for learning rates. The folder keeps the losses too.
        keep: Which parameters of every run ``runs.ia.params()`` returns. ``final`` are those after
            the last step, NaN where the run diverged. With a folder they are read from it, also
            of a run that was trained without ``keep``. ``best`` are those with the lowest ``loss``
            among the recorded steps, or with the best value of the target's metric. Training
            carries them along, so that the folder of a run without this does not have them. With
            mini-batches the last end of an epoch counts only if it is step T.
        record: Observables to record along the way, by name, or names of those that
            `observables.OBSERVABLES` holds.
        records_per_decade: How many steps' losses are kept, evenly spaced on a log axis.
        observations_per_decade: The same for held-out losses and observables.
        record_every: Instead: so many steps from one of these to the next, or their steps. The last
            step is always among them.
        precision: ``float32`` or ``float64``.
        largest_block: The most runs that are stepped together on a device; by default as many as
            keep their state in a core's cache, and all of them on an accelerator.
        folder: The run's own folder, which makes it safe, see `run`.
        overwrite: Whether a run with other settings in the folder may be replaced.
        checkpoint_every: Seconds between checkpoints.
        devices: Devices to spread the runs over; all local ones by default.
        memory_limit: Bytes that states and records may take, and the parameters that are kept; a
            number or a size like ``4GiB``; no limit by default.
        client: A Dask ``distributed.Client`` whose workers train the runs, see `run`.
        progress: A progress callback, see `run`; False for no bar.

    Returns:
        Over (axes …, step) ``loss`` and ``excess_loss``, over (axes …) ``steps_to_target`` (inf:
        not reached) and ``divergence_step`` (NaN: did not diverge), and what is recorded over
        (axes …, observation_step); with mini-batches or randomness ``batch_loss`` over (axes …,
        batch_step). From a run's divergence on losses are inf, other quantities NaN.

    Raises:
        UserError: If something that was asked for is not allowed.
    """

    def grid_of(values: Any) -> TaskSweep:
        return TaskSweep(
            task,
            axes=axes if values is None else {**axes, RATES: values},
            optimizer=optimizer,
            num_steps=num_steps,
            batch_size=batch_size,
            target=target,
            record=record,
            records_per_decade=records_per_decade,
            observations_per_decade=observations_per_decade,
            record_every=record_every,
            precision=precision,
            largest_block=largest_block,
            keep=keep,
        )

    if not isinstance(axes, Mapping):
        raise UserError(
            "axes: give values by name, like {'learning_rate': [0.1], 'seed': range(3)}"
        )
    found = axes.get(RATES)
    if isinstance(found, auto):
        return run_searched(
            grid_of, found, folder=folder, overwrite=overwrite, checkpoint_every=checkpoint_every,
            devices=devices, memory_limit=memory_limit, client=client, progress=progress,
        )  # fmt: skip
    return run(
        grid_of(None), folder=folder, overwrite=overwrite, checkpoint_every=checkpoint_every,
        devices=devices, memory_limit=memory_limit, client=client, progress=progress,
    )  # fmt: skip


def run_searched(
    grid_of: Callable[[tuple[float, ...]], Experiment],
    searched: auto,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: float = 60.0,
    devices: Sequence[Device] | None = None,
    memory_limit: float | str | None = None,
    client: Any = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Trains an experiment at learning rates that are searched for, each model's own.

    Args:
        grid_of: Returns the experiment that trains all models at given rates.
        searched: The search.
        folder: As in `run`. The search goes on from the rates that the run there has.
        overwrite: As in `run`; so are the rest.
        checkpoint_every: Seconds between checkpoints.
        devices: Devices to spread the runs over.
        memory_limit: Bytes that may be taken.
        client: A Dask client.
        progress: A progress callback, or False for no bar.

    Returns:
        Labelled results, NaN where a model was not trained at a rate; ``runs.ia.timing`` is what
        all rounds cost.

    Raises:
        UserError: As `run`.
    """
    timing: Timing | None = None
    with nullcontext(folder) if folder is not None else TemporaryDirectory() as place:
        path = Path(place)

        def train(experiment: Experiment) -> xr.Dataset:
            nonlocal timing
            results = run(
                experiment, folder=path, overwrite=overwrite and timing is None,
                checkpoint_every=checkpoint_every, devices=devices, memory_limit=memory_limit,
                client=client, progress=progress,
            )  # fmt: skip
            timing = results.ia.timing
            return results

        grid = grid_of(searched.first)
        models = math.prod(len(v) for n, v in grid.axes.items() if n not in (RATES, SEEDS))
        first = (searched.first,) * models
        begun = RunFolder(path).stored()
        if begun is not None and not overwrite:
            wanted = rates.at_own_rates(grid_of, first).identity.rates_by_model()
            known = begun.rates_by_model()
            first = tuple(known.get(model, own) for model, own in wanted.items())
        results, _ = rates.search(
            grid_of, train, first, best_by=searched.best_by, tolerance=searched.tolerance
        )
    # That of the last round is what all chunks cost, earlier rounds' too.
    attach(results, timing=timing)
    return results


def run_sweep(
    problem: Problem,
    config: SweepConfig,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: float = 60.0,
    devices: Sequence[Device] | None = None,
    memory_limit: float | str | None = None,
    client: Any = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Trains a grid of deep linear networks on a problem, in one compiled program.

    Args:
        problem: What to fit.
        config: The grid.
        folder: The run's own folder, which makes it safe, see `run`.
        overwrite: Whether a run with other settings in the folder may be replaced.
        checkpoint_every: Seconds between checkpoints.
        devices: Devices to spread the runs over; all local ones by default.
        memory_limit: Bytes that states and records may take, a number or a size like ``4GiB``; no
            limit by default.
        client: A Dask ``distributed.Client`` whose workers train the runs, see `run`.
        progress: A progress callback, see `run`; False for no bar.

    Returns:
        Labelled results, see `implicit_accel.results`; ``runs.ia.timing`` is what they cost.

    Raises:
        UserError: If an initialiser does not fit the hidden widths.
    """
    return run(
        LinearSweep(problem, config), folder=folder, overwrite=overwrite,
        checkpoint_every=checkpoint_every, devices=devices, memory_limit=memory_limit,
        client=client, progress=progress,
    )  # fmt: skip


def run(
    experiment: Experiment,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: float = 60.0,
    devices: Sequence[Device] | None = None,
    memory_limit: float | str | None = None,
    client: Any = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Trains an experiment.

    Args:
        experiment: What to train.
        folder: The run's own folder. With it the run is safe: it keeps checkpoints, from which the
            same call goes on, to the bit; a call with more steps, or more values along any axis,
            trains only what is new; one with nothing new trains nothing. With more observables all
            is trained again, which a warning says. Ctrl-C ends training after
            a checkpoint; once more ends it at once.
        overwrite: Whether a run with other settings in the folder may be replaced; it is kept
            until the new one has its first checkpoint.
        checkpoint_every: Seconds between checkpoints.
        devices: Devices to spread the runs over; all local ones by default.
        memory_limit: Bytes that states and records may take, and the parameters that are kept; a
            number or a size like ``4GiB``; no limit by default.
        client: A Dask ``distributed.Client`` whose workers train the runs, in place of this
            process's devices; the results have the bits of two or more CPU devices. It needs the
            extra ``cluster``.
        progress: Called with (run-steps done, all of them) now and then, like `progress_bar`; a
            context manager is entered while there is training. By default a call that lasts shows
            a bar in a terminal or a notebook, and nothing elsewhere; False for none.

    Returns:
        Labelled results; ``runs.ia.timing`` is what they cost. Of an experiment with
        `Experiment.keep`, ``runs.ia.params()`` are the parameters.

    Raises:
        UserError: If the folder holds something else, another process is at work there, or
            ``memory_limit`` or ``checkpoint_every`` is not allowed.
    """
    checkpoint_every = _CHECKPOINT_EVERY.value("checkpoint_every", checkpoint_every)
    limit = None if memory_limit is None else _read_memory_limit(memory_limit)
    executor: Executor
    if client is None:
        executor = LocalExecutor(devices, limit)
    elif devices is not None or memory_limit is not None:
        raise UserError("devices and memory_limit are of this process: leave them out with client")
    else:
        from implicit_accel.executors.dask import DaskExecutor

        executor = DaskExecutor(client, checkpoint_every)

    callback: Progress | None
    if progress is None or progress is True:
        callback = default_bar()
    else:
        callback = None if progress is False else progress
        if callback is not None and not callable(callback):
            raise UserError(
                f"progress {progress!r}: give a function of (done, total), like progress_bar(), or "
                "False for none"
            )

    def report(done: int, total: int) -> None:
        if callback is not None:
            callback(done, total)

    with callback if isinstance(callback, AbstractContextManager) else nullcontext():
        if folder is None:
            results, timing, parts = _run_in_memory(experiment, executor, report, limit)
        else:
            place = RunFolder(Path(folder))
            if not overwrite and (begun := place.stored()) is not None:
                experiment = experiment.adapted_to(begun)
            results, timing = _run_in(
                place, experiment, executor, report, overwrite=overwrite,
                checkpoint_every=checkpoint_every,
            )  # fmt: skip
            results = experiment.judged(results)
            parts = ()
            if experiment.keep is not None:
                parts = _stored_parts(place, experiment, executor.platform, limit)
    attach(results, timing=timing)
    if experiment.keep is not None:
        attach(results, params=Parameters(experiment.result_axes, parts))
    return results


def _read_memory_limit(given: float | str) -> int:
    try:
        return parse_bytes(given)
    except UserError as error:
        raise UserError(f"memory_limit: {error}") from None


def _run_in_memory(
    experiment: Experiment, executor: Executor, report: Progress, limit: int | None
) -> tuple[xr.Dataset, Timing, tuple[Part, ...]]:
    (added,) = experiment.rounds_after(())
    plan = experiment.plan_round(added, executor.platform)
    counts = cut(plan.groups, experiment.num_steps, experiment.recording, experiment.precision)
    chunks = chunks_of(counts)
    states: dict[Chunk, ChunkState] = {}
    parts: list[Part] = []
    keeps = experiment.keep is not None
    if keeps:
        check_memory(
            sum(g.num_runs * run_bytes(g, experiment.precision) for g in plan.groups), limit
        )
    total = experiment.num_runs * experiment.num_steps
    job = Job(experiment, added, tuple(counts))
    for update in executor.train(job, chunks, {}, keep_leaves=keeps):
        if update.is_due:
            states |= update.states()
            # Of the states in training only the parameters are kept, and not the optimizer's.
            for chunk, state in states.items():
                if state.is_finished and state.leaves:
                    parts.append(part_of(experiment, plan, chunk, state))
                    states[chunk] = dataclasses.replace(state, leaves=())
        report(update.done, total)
    arrays = assemble(experiment.axes, [(plan, gather(plan.groups, states))])
    timing = Timing.total(state.timing for state in states.values())
    results = experiment.label(arrays)
    try:
        results = experiment.judged(results)
    except UserError as error:  # what has been trained is not lost
        warnings.warn(f"{error}; the results are judged by the loss", stacklevel=4)
    return results, timing, tuple(parts)


def _stored_parts(
    folder: RunFolder, experiment: Experiment, platform: str, limit: int | None
) -> tuple[Part, ...]:
    """The parameters that an experiment keeps, from the chunks of a finished run that covers it.

    Raises:
        UserError: If they are not there, or do not fit the memory limit.
    """
    manifest = folder.manifest()
    gone = UserError(
        f"{folder.path}: the run's parameters cannot be read from its checkpoints, which are gone, "
        "damaged or another run's: train it again (overwrite=True)"
    )
    if manifest is None or not manifest.identity.covers(experiment.identity):
        raise gone
    plans = [experiment.plan_round(added, platform) for added in manifest.rounds]
    if not fits(plans, manifest.counts):
        raise gone
    parts: list[Part] = []
    num_bytes = 0
    for number, (plan, counts) in enumerate(zip(plans, manifest.counts, strict=True)):
        for chunk in chunks_of(counts):
            wanted = (wanted_places(experiment, plan, chunk) >= 0).all(axis=0).sum()
            if not wanted:
                continue
            group: Group = plan.groups[chunk.group]
            num_bytes += int(wanted) * run_bytes(group, experiment.precision)
            check_memory(num_bytes, limit)
            file = folder.chunk_file(manifest, number, chunk)
            state = file.newest(chunk, group, experiment.precision)
            if state is None or not state.is_finished or state.num_steps != experiment.num_steps:
                raise gone
            parts.append(part_of(experiment, plan, chunk, state))
    return tuple(parts)


def _run_in(
    folder: RunFolder,
    experiment: Experiment,
    executor: Executor,
    report: Progress,
    *,
    overwrite: bool,
    checkpoint_every: float,
) -> tuple[xr.Dataset, Timing]:
    identity, stored = experiment.identity, folder.finished()
    if not overwrite and stored is not None and stored.covers(identity):
        try:
            return experiment.view(load_run(folder.path), stored), Timing()
        except DataError:  # damaged, or another run's: below they are made from the checkpoints
            if stored != identity or folder.manifest() is None:
                raise
    if not overwrite and (begun := folder.stored()) and (lacking := begun.lacks(identity)):
        warnings.warn(f"{', '.join(lacking)}: {TRAINED_AGAIN}", stacklevel=4)
        overwrite = True
    folder.check(identity, overwrite=overwrite)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.path}: {error.strerror}; choose another folder") from None
    with folder.locked(), deferred_interrupt() as is_interrupted:
        folder.prepare(identity, overwrite=overwrite)
        training = StoredTraining(
            folder, experiment, executor, checkpoint_every=checkpoint_every,
            wanted=is_interrupted, warn=lambda message: warnings.warn(message, stacklevel=5),
        )  # fmt: skip
        for state in training.train():
            report(state.done, state.total)
            if is_interrupted():
                raise KeyboardInterrupt(f"saved in {folder.path}: the same call goes on")
        results, timing = training.results()
        folder.finish(results, training.about(timing), identity)
    return results, timing
