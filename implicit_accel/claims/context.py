"""What claims are run with: data, a scale, and results that are trained once and then reused."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import filelock
import jax
import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel import rates
from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.engine.chunks import Device
from implicit_accel.errors import DataError, NotHereError
from implicit_accel.experiment import Experiment, Identity, OwnRates
from implicit_accel.files import atomic_path
from implicit_accel.images.task import ClassifierConfig, ImageSweep
from implicit_accel.linear import Dataset, gas_like, load_abalone, load_gas
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.results import RESULTS_FILE, Metric, by_model, load_results
from implicit_accel.store.folder import CHECKPOINTS_FOLDER, RunFolder
from implicit_accel.sweep import run
from implicit_accel.tasks.grid import TaskSweep
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.theory.predict import early_stable_rates

_T = TypeVar("_T")

# Part of the names of stored results: raise it when the same configuration trains otherwise.
_GENERATION = 3


# Claims share the data, and none of them changes them: they are read once.
@functools.cache
def _gas(data_dir: str | None, download: bool) -> Dataset:
    try:
        return load_gas(data_dir=data_dir) if download else load_gas(data_dir=data_dir, url=None)
    except NotHereError:
        return gas_like()


@functools.cache
def _abalone(data_dir: str | None, download: bool) -> Dataset | None:
    try:
        if download:
            return load_abalone(data_dir=data_dir)
        return load_abalone(data_dir=data_dir, url=None)
    except NotHereError:
        return None


@functools.cache
def _mnist(data_dir: str | None, download: bool) -> ImageData:
    try:
        if download:
            return load_mnist(data_dir=data_dir)
        return load_mnist(data_dir=data_dir, urls=None)
    except NotHereError:
        return mnist_like()


class _CancelledError(Exception):
    """Ends a training at its next report, since another one has failed or the program ends."""


class Scale(StrEnum):
    """How much is run."""

    SMOKE = "smoke"
    STANDARD = "standard"
    PAPER = "paper"

    @property
    def has_verdicts(self) -> bool:
        """Whether enough is run to judge by."""
        return self is not Scale.SMOKE


@dataclass(frozen=True)
class Grid:
    """A grid that a claim has trained or read.

    Attributes:
        problem: The title of the data.
        config: The grid; None for a task of the user's own, which has axes.
        rates: Learning rates of each model; none if they were searched for.
        num_seeds: Seeds.
        stds: Standard deviations of an image network's own, if it has an axis for these.
        axes: Values by name, of a task of the user's own.
        num_steps: Its steps.
        target: Its target, if it has one.
    """

    problem: str
    config: SweepConfig | ClassifierConfig | None
    rates: tuple[float, ...] = ()
    num_seeds: int = 1
    stds: tuple[float, ...] = ()
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    num_steps: int = 0
    target: float | Metric | None = None


@dataclass
class Context:
    """What a claim's experiment is run with.

    Attributes:
        scale: How much is run.
        folder: The claim's own folder.
        shared: The folder of the claims' folders: what any claim has trained is reused.
        data_dir: Where the data may be.
        download: Whether data may be downloaded.
        log: Called with a line on what is being done.
        progress: Progress callback, called with (done, total).
        trained: Names of the folders and tables that were made, not read.
        announced: What `reporter` has logged; it is logged once.
        grids: The grids that were trained or read, in their order.
        devices: Where it trains; on all devices if it is not said.
    """

    scale: Scale
    folder: Path
    shared: Path
    data_dir: str | None = None
    download: bool = False
    log: Callable[[str], object] = lambda _: None
    progress: Callable[[int, int], None] | None = None
    trained: list[str] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)
    grids: list[Grid] = field(default_factory=list)
    devices: Sequence[Device] | None = None

    def pick(self, smoke: _T, standard: _T, paper: _T) -> _T:
        """The value for this scale."""
        return {Scale.SMOKE: smoke, Scale.STANDARD: standard, Scale.PAPER: paper}[self.scale]

    def side_by_side(self, trainings: Iterable[Callable[[Context], _T]]) -> list[_T]:
        """Trains several things at once, each on a device of its own.

        This is faster for grids of a few runs each: a step of six runs reads as many data as one of
        sixty, and runs that are spread over devices make each device read them all.

        Args:
            trainings: Called with a context that trains on one device. They share no sweep and no
                table.

        Returns:
            What they return, in their order.

        Raises:
            Exception: That of the first which fails; the others end at their next report.
        """
        waiting = list(trainings)
        free: queue.SimpleQueue[Device] = queue.SimpleQueue()
        devices = jax.local_devices() if self.devices is None else self.devices
        for device in devices:
            free.put(device)
        shares, cancelled, reporting = [0.0] * len(waiting), threading.Event(), threading.Lock()

        def train(number: int, training: Callable[[Context], _T]) -> _T:
            def report(done: int, total: int) -> None:
                if cancelled.is_set():
                    raise _CancelledError
                with reporting:  # progress callbacks need not be thread-safe
                    shares[number] = done / total
                    if self.progress is not None:
                        self.progress(round(1000 * sum(shares) / len(shares)), 1000)

            device = free.get()
            try:
                return training(replace(self, devices=(device,), progress=report))
            finally:
                free.put(device)

        with ThreadPoolExecutor(len(devices)) as pool:
            futures = [pool.submit(train, *each) for each in enumerate(waiting)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = [f for f in futures if f.done() and f.exception() is not None]
                return [future.result() for future in failed or futures]
            except BaseException:  # one has failed, or an interrupt: it ends all
                cancelled.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def gas(self) -> Dataset:
        """The Ethanol data, or the embedded stand-in, which is labelled as such."""
        return _gas(self.data_dir, self.download)

    def abalone(self) -> Dataset | None:
        """The Abalone data, or None."""
        return _abalone(self.data_dir, self.download)

    def mnist(self) -> ImageData:
        """MNIST, or the generated stand-in, which is labelled as such."""
        return _mnist(self.data_dir, self.download)

    def problems(self, scaling: str = "standard") -> dict[str, Problem]:
        """The regression problems, by the names that reports use.

        Ethanol first (or its stand-in, where the data are missing), and Abalone if it is here; at
        the scale ``paper`` the stand-in beside the real data as well.
        """
        gas = self.gas()
        found = {"stand-in" if gas.is_stand_in else "Ethanol": make_problem(gas, scaling=scaling)}
        abalone = self.abalone()
        if abalone is not None:
            found["Abalone"] = make_problem(abalone, scaling=scaling)
        if self.scale is Scale.PAPER:
            found.setdefault("stand-in", make_problem(gas_like(), scaling=scaling))
        return found

    def first_problem(self, scaling: str = "standard") -> tuple[str, Problem]:
        """Ethanol, or its stand-in where the data are missing, with its name."""
        return next(iter(self.problems(scaling).items()))

    def sweep(
        self, problem: Problem, config: SweepConfig, *, initial: np.ndarray | None = None
    ) -> xr.Dataset:
        """A grid's results: trained, or read if any claim has trained them before.

        Args:
            problem: What is fitted.
            config: The grid.
            initial: (seed, k, d) weights that its models, which then are of one layer, start
                from in place of their own initialisation.
        """
        # Results are labelled by the title and the scaling; the fingerprint stands for the arrays.
        labels = {"title": problem.title, "scaling": problem.scaling}
        self.grids.append(Grid(problem.title, config, config.learning_rates, config.num_seeds))
        return self._run("sweep", LinearSweep(problem, config, labels, initial=initial))

    def sweeps(self, problem: Problem, configs: Sequence[SweepConfig]) -> list[xr.Dataset]:
        """Several grids' results, trained side by side."""

        def run_steps(c: SweepConfig) -> int:
            return len(c.models) * len(c.learning_rates) * c.num_seeds * c.num_steps

        # The longest first, so that none trains alone in the end.
        order = sorted(range(len(configs)), key=lambda n: -run_steps(configs[n]))
        trained = self.side_by_side(lambda own, n=n: own.sweep(problem, configs[n]) for n in order)
        found = dict(zip(order, trained, strict=True))
        return [found[number] for number in range(len(configs))]

    def on_problems(self, training: Callable[[Context, Problem], _T]) -> dict[str, _T]:
        """Calls a training with every problem, side by side; returns the results by problem."""
        problems = self.problems()
        found = self.side_by_side(lambda own, p=p: training(own, p) for p in problems.values())
        return dict(zip(problems, found, strict=True))

    def tuned(
        self,
        problem: Problem,
        config: SweepConfig,
        *,
        best_by: str = "target",
        tolerance: float = rates.TOLERANCE,
    ) -> xr.Dataset:
        """A grid's results at learning rates that are searched for, each model's own.

        Args:
            problem: What is fitted.
            config: The grid; its learning rates do not matter.
            best_by: Rule for the best learning rate, see ``statistics.best_learning_rates``.
            tolerance: Of the search, see ``rates.next_own_rates``.

        Returns:
            The results; a model is NaN at others' rates, see ``implicit_accel.results.trained``.
        """
        labels = {"title": problem.title, "scaling": problem.scaling}
        self.grids.append(Grid(problem.title, config, (), config.num_seeds))
        sweep = LinearSweep(problem, config, labels)
        first = tuple(map(rates.coarse_rates, early_stable_rates(problem, config)))
        asked = rates.at_own_rates(sweep.at_learning_rates, first).identity
        is_first_touch = (best_by, tolerance) == ("target", rates.TOLERANCE)
        kind = "tuned" if is_first_touch else f"tuned-{best_by}-{tolerance:g}"
        run_name = self._run_name(kind, asked)
        with self._alone_at(run_name):
            return self._tuned_once(
                run_name, asked, sweep, first, {"best_by": best_by, "tolerance": tolerance}
            )

    def _tuned_once(
        self,
        run_name: str,
        asked: Identity,
        sweep: LinearSweep,
        first: OwnRates,
        search: Mapping[str, Any],
    ) -> xr.Dataset:
        for folder in self._folders(run_name):
            stored = RunFolder(folder).finished()
            if stored is None or stored.differences(asked, may_extend=False):
                continue
            # An interrupted search leaves checkpoints, and is resumed below.
            if not (folder / CHECKPOINTS_FOLDER).exists():
                kept = self._read(folder)
                if kept is not None:
                    return kept
            elif stored.rates is not None and folder.parent == self.folder:
                first = stored.rates
        folder = self.folder / run_name

        def train(experiment: Experiment) -> xr.Dataset:
            shown = self.progress or False
            return run(experiment, folder=folder, progress=shown, devices=self.devices)

        # At the smoke scale one round shows that everything works.
        results, rounds = rates.search(
            sweep.at_learning_rates,
            train,
            first,
            most_rounds=self.pick(1, *[rates.MOST_ROUNDS] * 2),
            **search,
        )
        self.log(f"{self.folder.name}: learning rates found in {len(rounds)} rounds")
        RunFolder(folder).remove_checkpoints()
        self.trained.append(run_name)
        return results

    def classifiers(
        self,
        data: ImageData,
        config: ClassifierConfig,
        *,
        rates: Sequence[float],
        num_seeds: int,
        stds: Sequence[float] | None = None,
    ) -> xr.Dataset:
        """A grid of image classifiers, see ``train_classifiers``: trained, or read."""
        seeds = range(num_seeds)
        self.grids.append(Grid(data.title, config, (*rates,), num_seeds, (*(stds or ()),)))
        experiment = ImageSweep(data, config, learning_rates=rates, stds=stds, seeds=seeds)
        return self._run("classifiers", experiment)

    def task(
        self,
        task: LossTask,
        *,
        axes: Mapping[str, Any],
        optimizer: Any,
        num_steps: int,
        **settings: Any,
    ) -> xr.Dataset:
        """Results of a task of the claim's own over some axes, trained or read, see ``ia.sweep``.

        Args:
            task: What is trained, see ``ia.from_loss``.
            axes: Values by name.
            optimizer: Makes the optax transformation.
            num_steps: T.
            **settings: Further arguments of ``ia.sweep`` that say what is trained.

        Returns:
            The results over (model, learning_rate, seed, step), see ``results.by_model``.
        """
        experiment = TaskSweep(
            task, axes=axes, optimizer=optimizer, num_steps=num_steps, **settings
        )
        shown = {name: values for name, values in experiment.axes.items() if name in axes}
        self.grids.append(
            Grid(task.name, None, axes=shown, num_steps=num_steps, target=settings.get("target"))
        )
        return by_model(self._run("task", experiment))

    def reporter(self, what: str) -> Callable[[float], None]:
        """A progress callback for a computation that is no training.

        Args:
            what: Is being computed, for the log.

        Returns:
            A function of the share that is done.
        """

        def report(share: float) -> None:
            if self.progress is not None:
                self.progress(round(1000 * share), 1000)

        if what not in self.announced:
            self.announced.add(what)
            self.log(f"{self.folder.name}: {what}")
        return report

    def table(self, name: str, known_by: object, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table that takes long to compute: computed once, and read afterwards.

        Args:
            name: Part of its file's name.
            known_by: All that it depends on; what prints alike shares a table.
            make: Returns it; its columns are numbers and texts that are not empty.
        """
        code = hashlib.sha256(f"{_GENERATION} {known_by}".encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{code}.csv"
        if not path.is_file():
            table = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                table.to_csv(temporary, index=False)
            self.trained.append(path.name)
        try:
            return pd.read_csv(path)
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error}); delete it") from None

    def _run(self, name: str, experiment: Experiment) -> xr.Dataset:
        """An experiment's results: trained once in a folder of its own, and read afterwards."""
        run_name = self._run_name(name, experiment.identity)
        with self._alone_at(run_name):
            return self._run_once(run_name, experiment)

    def _run_once(self, run_name: str, experiment: Experiment) -> xr.Dataset:
        for folder in self._folders(run_name):
            if RunFolder(folder).finished() == experiment.identity:
                kept = self._read(folder)
                if kept is not None:
                    return experiment.judged(kept)
        folder = self.folder / run_name
        shown = self.progress or False
        results = run(experiment, folder=folder, progress=shown, devices=self.devices)
        # The results are kept; checkpoints are not needed any more.
        RunFolder(folder).remove_checkpoints()
        self.trained.append(run_name)
        return results

    def _folders(self, run_name: str) -> list[Path]:
        """The claims' folders for a run, without links to folders elsewhere."""
        found = sorted(self.shared.glob(f"*/{run_name}"))
        return [path for path in found if not path.is_symlink() and not path.parent.is_symlink()]

    @contextlib.contextmanager
    def _alone_at(self, run_name: str) -> Iterator[None]:
        """Makes other claims wait that need the same results, in any process."""
        self.shared.mkdir(parents=True, exist_ok=True)
        path = self.shared / f".{run_name}.lock"
        with filelock.FileLock(path):
            try:
                yield
            finally:
                # Waiting processes see that the file has no name any more, and create it again.
                path.unlink()

    def _run_name(self, name: str, identity: Identity) -> str:
        known_by = f"{_GENERATION} {jax.default_backend()} {identity.code()}"
        return f"{name}-{hashlib.sha256(known_by.encode()).hexdigest()[:12]}"

    def _read(self, folder: Path) -> xr.Dataset | None:
        """A finished run's results; None if they are damaged, and then they are removed."""
        try:
            return load_results(folder / RESULTS_FILE)
        except DataError as error:
            self.log(f"{error}: made again")
            RunFolder(folder).remove()
            return None
