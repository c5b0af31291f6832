"""Where claims are tested: datasets, scales, and results that are trained once and then reused."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import xarray as xr

from implicit_accel.data.datasets import Dataset, gas_like, load_abalone, load_gas
from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.engine.training import Group, Hyper
from implicit_accel.errors import DataError, NotHereError
from implicit_accel.images.classifiers import ClassifierConfig, train_classifiers
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.networks import Layers
from implicit_accel.linear.objectives import Reduction
from implicit_accel.linear.sweep import Plan, assemble, plan_sweep, train_plan
from implicit_accel.results import load_netcdf, save_netcdf
from implicit_accel.store.checkpoints import Checkpoints, Keeper

_T = TypeVar("_T")

# Part of what stored results are known by: raise it when the same configuration trains otherwise.
_GENERATION = 1

# Seconds; a sweep of the paper's length takes hours.
_CHECKPOINT_EVERY = 60.0


# Claims share the data, which none of them changes: they are read once.
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


def _starting_from(plan: Plan, initial: np.ndarray) -> Plan:
    """The plan with (seed, k, d) one-layer weights in place of what its models draw."""

    def started(group: Group, reduction: Reduction) -> Group:
        weights = np.stack([reduction.enter(Layers((W,))).weights[0] for W in initial])

        def configurations(numbers: np.ndarray) -> tuple[Layers, Hyper]:
            layers, hyper = group.configurations(numbers)
            chosen = weights[numbers % len(initial)].astype(plan.config.precision)  # seeds go last
            return layers._replace(weights=(chosen,)), hyper

        return replace(group, configurations=configurations)

    groups = tuple(map(started, plan.groups, plan.reductions))
    return replace(plan, groups=groups)


class Scale(StrEnum):
    """How much is run."""

    SMOKE = "smoke"
    STANDARD = "standard"
    PAPER = "paper"

    @property
    def has_verdicts(self) -> bool:
        """Whether enough is run to judge by."""
        return self is not Scale.SMOKE


@dataclass
class Laboratory:
    """What a claim's experiment works with.

    Attributes:
        scale: How much is run.
        folder: The claim's own folder.
        shared: Where other claims' folders are: what they have trained is used again.
        data_dir: Where the data may be.
        download: Whether data may be downloaded.
        log: Told what is done.
        progress: Makes a function that is told (done, total) of something named.
        trained: What was trained anew: names of files.
    """

    scale: Scale
    folder: Path
    shared: Path
    data_dir: str | None = None
    download: bool = False
    log: Callable[[str], object] = lambda _: None
    progress: Callable[[int, int], None] | None = None
    trained: list[str] = field(default_factory=list)

    def pick(self, smoke: _T, standard: _T, paper: _T) -> _T:
        """The value for this scale."""
        return {Scale.SMOKE: smoke, Scale.STANDARD: standard, Scale.PAPER: paper}[self.scale]

    def gas(self) -> Dataset:
        """The Ethanol data; the embedded stand-in, which says that it is one, without them."""
        return _gas(self.data_dir, self.download)

    def abalone(self) -> Dataset | None:
        """The Abalone data; None without them."""
        return _abalone(self.data_dir, self.download)

    def mnist(self) -> ImageData:
        """MNIST; the generated stand-in, which says that it is one, without it."""
        return _mnist(self.data_dir, self.download)

    def problems(self, scaling: str = "standard") -> dict[str, Problem]:
        """The regression problems there are, by the names that reports use.

        Ethanol first (or only its stand-in, where the data are missing), Abalone if it is here, and
        the stand-in beside the real data.
        """
        gas = self.gas()
        found = {} if gas.is_stand_in else {"Ethanol": make_problem(gas, scaling=scaling)}
        abalone = self.abalone()
        if abalone is not None:
            found["Abalone"] = make_problem(abalone, scaling=scaling)
        found["stand-in"] = make_problem(gas_like(), scaling=scaling)
        if gas.is_stand_in:  # then it takes Ethanol's place
            found = {"stand-in": found.pop("stand-in")} | found
        if self.scale is Scale.SMOKE:  # the first two show that several work
            found = dict(list(found.items())[:2])
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
        key = f"{problem.title} {problem.scaling} {problem.fingerprint} {config}"
        if initial is not None:
            key += f" from {hashlib.sha256(initial.astype('<f8').tobytes()).hexdigest()}"

        def train() -> xr.Dataset:
            plan = plan_sweep(problem, config, platform=jax.default_backend())
            if initial is not None:
                plan = _starting_from(plan, initial)
            code = hashlib.sha256(key.encode()).hexdigest()[:12]
            unit = Checkpoints(self.folder / "checkpoints", f"sweep-{code}", key)
            unit.folder.mkdir(parents=True, exist_ok=True)
            sizes = [group.num_configurations for group in plan.groups]
            trained, _ = train_plan(
                plan,
                progress=self.progress,
                resume=unit.newest(plan.groups, sizes, config.precision),
                after_segment=Keeper(unit, _CHECKPOINT_EVERY, on_last=False),
            )
            for path in unit.paths():
                path.unlink()
            unit.folder.rmdir()
            return assemble(config, [(plan, trained)])

        return self.stored("sweep", key, train)

    def classifiers(
        self,
        data: ImageData,
        config: ClassifierConfig,
        *,
        rates: Sequence[float],
        num_seeds: int,
        stds: Sequence[float] | None = None,
    ) -> xr.Dataset:
        """A grid of image classifiers, see `train_classifiers`: trained, or read."""
        key = f"{data.fingerprint} {config} {tuple(rates)} {num_seeds} {stds}"

        def train() -> xr.Dataset:
            return train_classifiers(
                data,
                config,
                learning_rates=rates,
                stds=stds,
                seeds=range(num_seeds),
                progress=self.progress,
            )

        return self.stored("classifiers", key, train)

    def stored(self, name: str, key: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A labelled dataset, made once for a key and read afterwards.

        Args:
            name: What its file's name begins with.
            key: All that it depends on, as text.
            make: Makes it.
        """
        known_by = f"{_GENERATION} {jax.default_backend()} {name} {key}"
        code = hashlib.sha256(known_by.encode()).hexdigest()[:12]
        file_name = f"{name}-{code}.nc"
        for path in sorted(self.shared.glob(f"*/{file_name}")):
            try:
                return load_netcdf(path)
            except DataError as error:
                self.log(f"{error}: made again")
        dataset = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_netcdf(dataset, self.folder / file_name)
        self.trained.append(file_name)
        return dataset
