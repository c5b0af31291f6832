"""What a sweep of any model has to tell: its axes, how it is laid out, what its results are called.

`implicit_accel.sweep` trains experiments, `implicit_accel.store` makes them safe; neither knows
what is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from implicit_accel.engine.train import Group, GroupResult, Recording

Axes = dict[str, tuple[Any, ...]]
"""Names of a grid's axes and the values along them: numbers or text, each once."""

OwnRates = tuple[tuple[float, ...], ...]
"""Each model's own learning rates, where models are not all trained at the same ones. A model is a
combination of the other axes' values but the seed's, the last axis fastest."""

RATES, SEEDS = "learning_rate", "seed"


@dataclass(frozen=True)
class Plan:
    """A grid laid out for training.

    Attributes:
        axes: Of the grid.
        groups: Its runs, by the program that trains them.
        places: For each group the numbers of its runs in the grid, counted in the order of the
            axes, the last one fastest; each run that is to be trained is in one group.
    """

    axes: Axes
    groups: tuple[Group, ...]
    places: tuple[np.ndarray, ...]

    def only(self, runs: Sequence[int] | np.ndarray) -> Plan:
        """The plan of some of the grid's runs, by number; the others are not trained."""
        groups, places = [], []
        for group, where in zip(self.groups, self.places, strict=True):
            kept = np.flatnonzero(np.isin(where, runs))
            if len(kept):
                groups.append(_some_of(group, kept))
                places.append(where[kept])
        return Plan(self.axes, tuple(groups), tuple(places))


def _some_of(group: Group, kept: np.ndarray) -> Group:
    def runs(numbers: np.ndarray) -> Any:
        return group.runs(kept[numbers])

    return dataclasses.replace(group, num_runs=len(kept), runs=runs)


def chosen_runs(axes: Axes, rates: OwnRates) -> np.ndarray:
    """Which runs of a grid are at a learning rate of their model's own.

    Args:
        axes: Of the grid, ``learning_rate`` among them.
        rates: Each model's own.

    Returns:
        Booleans over the axes.
    """
    others = [name for name in axes if name not in (RATES, SEEDS)]
    sizes = [len(axes[name]) for name in others]
    chosen = np.array([[rate in own for rate in axes[RATES]] for own in rates])
    order = [*others, RATES, *([SEEDS] if SEEDS in axes else [])]
    seeds = [len(axes[SEEDS])] if SEEDS in axes else []
    chosen = chosen.reshape(*sizes, len(axes[RATES]), *[1] * len(seeds))
    chosen = np.broadcast_to(chosen, (*sizes, len(axes[RATES]), *seeds))
    return chosen.transpose([order.index(name) for name in axes])


@dataclass(frozen=True)
class Identity:
    """What an experiment's results depend on.

    Attributes:
        settings: All settings by their names, as JSON has them, but for axes and steps. Of one
            that is an object again, a run may be given more entries.
        axes: The grid's axes, of which a run may be given more values.
        num_steps: T, of which it may be given more.
        fingerprint: Of the data's contents.
        rates: Each model's own learning rates where they are searched for, which finds more of
            them; None where every model is trained at all of the axis.
    """

    settings: dict[str, Any]
    axes: Axes
    num_steps: int
    fingerprint: str
    rates: OwnRates | None = None

    def __post_init__(self) -> None:
        # As it comes back from a file, so that both can be compared.
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))

    @classmethod
    def of(cls, stored: Any) -> Identity:
        """Reads what `as_json` made.

        Raises:
            ValueError: If it is something else.
        """
        try:
            settings, axes = dict(stored["settings"]), dict(stored["axes"])
            num_steps, fingerprint = stored["num_steps"], stored["fingerprint"]
            kept = {name: tuple(values) for name, values in axes.items()}
            rates = stored.get("rates")
            rates = rates if rates is None else tuple(tuple(own) for own in rates)
        except (AttributeError, TypeError, KeyError, ValueError):
            raise ValueError("no identity") from None
        if (
            not isinstance(fingerprint, str)
            or not is_count(num_steps)
            or not all(map(are_values, kept.values()))
            or not (rates is None or _are_own_rates(rates, kept))
        ):
            raise ValueError("no identity")
        return cls(settings, kept, num_steps, fingerprint, rates)

    def rates_by_model(self) -> dict[tuple[Any, ...], tuple[float, ...]]:
        """Models' own learning rates, by their values along the other axes."""
        models = itertools.product(*(v for n, v in self.axes.items() if n not in (RATES, SEEDS)))
        return dict(zip(models, self.rates or (), strict=self.rates is not None))

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON gives them back."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.rates is None:  # as runs without a search have always been written
            del content["rates"]
        return content

    def code(self) -> str:
        """A short digest; it does not depend on what rates a search finds."""
        content = self.as_json()
        if self.rates is not None:
            del content["axes"][RATES]
            content["rates"] = "searched for"
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def differences(self, wanted: Identity, *, may_extend: bool = True) -> list[str]:
        """What keeps a run with this identity from becoming the wanted one, in words.

        Args:
            wanted: The identity asked for.
            may_extend: Whether more steps and more values along the axes are no difference.
        """
        here = {"data": self.fingerprint[:12]} | self.settings
        there = {"data": wanted.fingerprint[:12]} | wanted.settings
        found = [
            _difference(name, here.get(name), there.get(name))
            for name in dict.fromkeys([*there, *here])
            if not _may_become(here.get(name), there.get(name), may_extend=may_extend)
        ]
        searched = [identity.rates is not None for identity in (self, wanted)]
        if searched[0] != searched[1]:
            words = ["searched for (auto)" if s else "a grid" for s in searched]
            found.append(_difference("learning_rates", *words))
        for name in dict.fromkeys([*wanted.axes, *self.axes]):
            if name == RATES and any(searched):
                continue
            old, new = self.axes.get(name, ()), wanted.axes.get(name, ())
            extends = may_extend and old and set(old) <= set(new)
            if old != new and not extends:
                found.append(_difference(name, old, new))
        fewer = wanted.num_steps < self.num_steps
        if fewer or (wanted.num_steps > self.num_steps and not may_extend):
            found.append(_difference("num_steps", self.num_steps, wanted.num_steps))
        return found


def _may_become(old: Any, new: Any, *, may_extend: bool) -> bool:
    if may_extend and isinstance(old, dict) and isinstance(new, dict):
        return all(new[key] == old[key] for key in old.keys() & new.keys())
    return old == new


def _difference(name: str, old: object, new: object) -> str:
    return f"{name}: {_show(old)} there, {_show(new)} asked for"


def _show(value: object) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return shown if len(shown) <= 80 else f"{shown[:60]} … ({len(shown)} characters)"


def is_count(value: object) -> bool:
    """Whether this is a whole number from 1 up that fits 32 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def are_values(values: Sequence[object]) -> bool:
    """Whether these can be an axis's: numbers or text, one or more, each once."""
    return (
        len(values) > 0
        and all(isinstance(v, str | int | float) and v == v for v in values)
        and len(set(values)) == len(values)
    )


def _are_own_rates(rates: OwnRates, axes: Axes) -> bool:
    """Whether each model of a grid has rates of its own, and together they are the axis."""
    models = math.prod(len(v) for name, v in axes.items() if name not in (RATES, SEEDS))
    every = {rate for own in rates for rate in own}
    return len(rates) == models and RATES in axes and every == set(axes[RATES])


class Experiment(ABC):
    """A grid of runs, whatever is trained.

    Attributes:
        num_steps: T, updates per run.
        precision: ``float32`` or ``float64``.
    """

    num_steps: int
    precision: str

    @property
    @abstractmethod
    def axes(self) -> Axes:
        """The grid's axes, in the order of the results' dimensions."""

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """What the results depend on."""

    @property
    @abstractmethod
    def recording(self) -> Recording:
        """At which steps what is kept."""

    @abstractmethod
    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:
        """Lays out a part of the grid.

        Args:
            axes: The part's: some of the values of each axis.
            platform: Of the devices; it decides how many runs are stepped together, not what
                comes out.
            planned_steps: The number of steps to plan for: a part that goes on must be laid out
                as it was.
        """

    @abstractmethod
    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The labelled results.

        Args:
            arrays: What `assemble` gives for the whole grid.
        """

    @property
    def num_runs(self) -> int:
        """Runs of the whole grid."""
        return math.prod(len(values) for values in self.axes.values())


class AtOwnRates(Experiment):
    """An experiment whose models are trained at learning rates of their own.

    Args:
        grid: The experiment with all of them along its axis ``learning_rate``.
        rates: Each model's own; together they are the axis.

    Raises:
        ValueError: If they are not.
    """

    def __init__(self, grid: Experiment, rates: OwnRates) -> None:
        if not _are_own_rates(rates, grid.axes):
            raise ValueError("the models' own learning rates must together be the axis")
        self.grid, self.rates = grid, rates
        self.num_steps, self.precision = grid.num_steps, grid.precision

    @property
    def axes(self) -> Axes:
        """See `Experiment.axes`."""
        return self.grid.axes

    @property
    def identity(self) -> Identity:
        """See `Experiment.identity`."""
        return dataclasses.replace(self.grid.identity, rates=self.rates)

    @property
    def recording(self) -> Recording:
        """See `Experiment.recording`."""
        return self.grid.recording

    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:
        """See `Experiment.plan`."""
        return self.grid.plan(axes, platform=platform, planned_steps=planned_steps)

    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """See `Experiment.label`; losses of runs that are not trained are NaN."""
        return self.grid.label(arrays)

    @property
    def num_runs(self) -> int:
        """Runs that are trained."""
        return int(chosen_runs(self.axes, self.rates).sum())


def assemble(
    axes: Axes, parts: Sequence[tuple[Plan, Sequence[GroupResult]]]
) -> dict[str, np.ndarray]:
    """Puts the results of a grid's parts together.

    Args:
        axes: Of the whole grid.
        parts: Plans of disjoint parts that make it up, with the results of their groups. Parts
            may hold runs of a larger grid; those are left out. Runs in none are not trained:
            their records are NaN.

    Returns:
        What was recorded, by name, over the axes (and records): ``excess_loss`` and so on,
        ``steps_to_target`` and ``divergence_step``, −1 for never.
    """
    shape = tuple(len(values) for values in axes.values())
    whole: dict[str, np.ndarray] = {}
    for plan, results in parts:
        # Positions in the whole grid of the part's values, −1 for those that are not in it.
        where = [
            np.array([_position(values, v) for v in plan.axes[name]])
            for name, values in axes.items()
        ]
        sizes = [len(w) for w in where]
        for places, result in zip(plan.places, results, strict=True):
            index = np.stack(
                [w[i] for w, i in zip(where, np.unravel_index(places, sizes), strict=True)]
            )
            wanted = (index >= 0).all(axis=0)
            for name, a in result.arrays.items():
                if name not in whole:
                    # What a group does not record is not a number there.
                    fill = np.nan if a.dtype.kind == "f" else -1
                    whole[name] = np.full((*shape, *a.shape[1:]), fill, a.dtype)
                whole[name][tuple(index[:, wanted])] = a[wanted]
    return whole


def _position(values: Sequence[Any], value: Any) -> int:
    return values.index(value) if value in values else -1
