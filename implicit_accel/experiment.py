"""What a sweep of any model has to tell: its axes, how it is laid out, what its results are called.

`implicit_accel.sweep` trains experiments, `implicit_accel.store` makes them safe; neither knows
what is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
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


@dataclass(frozen=True)
class Plan:
    """A grid laid out for training.

    Attributes:
        axes: Of the grid.
        groups: Its runs, by the program that trains them.
        places: For each group the numbers of its runs in the grid, counted in the order of the
            axes, the last one fastest; each run of the grid is in one group.
    """

    axes: Axes
    groups: tuple[Group, ...]
    places: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Identity:
    """What an experiment's results depend on.

    Attributes:
        settings: All settings by their names, as JSON has them, but for axes and steps. Of one
            that is an object again, a run may be given more entries.
        axes: The grid's axes, of which a run may be given more values.
        num_steps: T, of which it may be given more.
        fingerprint: Of the data's contents.
    """

    settings: dict[str, Any]
    axes: Axes
    num_steps: int
    fingerprint: str

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
        except (TypeError, KeyError, ValueError):
            raise ValueError("no identity") from None
        if (
            not isinstance(fingerprint, str)
            or not is_count(num_steps)
            or not all(map(are_values, kept.values()))
        ):
            raise ValueError("no identity")
        return cls(settings, kept, num_steps, fingerprint)

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON gives them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def code(self) -> str:
        """A short digest."""
        text = json.dumps(self.as_json(), sort_keys=True)
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
        for name in dict.fromkeys([*wanted.axes, *self.axes]):
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


def assemble(
    axes: Axes, parts: Sequence[tuple[Plan, Sequence[GroupResult]]]
) -> dict[str, np.ndarray]:
    """Puts the results of a grid's parts together.

    Args:
        axes: Of the whole grid.
        parts: Plans of disjoint parts that make it up, with the results of their groups. Parts
            may hold runs of a larger grid; those are left out.

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
