"""Parameters of a task's runs, over the axes of their sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from implicit_accel.engine.chunks import (
    Chunk,
    ChunkState,
    Group,
    best_params,
    final_params,
    undefined,
)
from implicit_accel.engine.step import is_key
from implicit_accel.errors import UserError
from implicit_accel.experiment import Axes, Experiment, Plan, positions
from implicit_accel.tasks.loss_task import BoundTask, check_same_fixed

KEEP = ("final", "best")
"""Which of a run's parameters a sweep may return."""


def check_keep(keep: object) -> None:
    """Makes sure that this names parameters, or is None.

    Raises:
        UserError: If it does not.
    """
    if keep is not None and keep not in KEEP:
        raise UserError(f"keep {keep!r}: choose from {', '.join(KEEP)}, or None")


def run_bytes(group: Group, precision: str) -> int:
    """Bytes of a run's parameters."""
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(group.shapes))
    return numbers * np.dtype(precision).itemsize


def check_memory(num_bytes: int, limit: int | None) -> None:
    """Makes sure that parameters fit the memory limit.

    Raises:
        UserError: If they do not.
    """
    if limit is not None and num_bytes > limit:
        raise UserError(
            f"keep: the runs' parameters take {num_bytes:,} bytes, above memory_limit {limit:,}: "
            "train in a folder and ask for fewer values along the axes, or raise the limit"
        )


@dataclass(frozen=True)
class Part:
    """Parameters of some of the runs, C of them, which share a program.

    Attributes:
        places: (axes, C) positions of the runs along the sweep's axes.
        kept: What is kept of them, see `Program.kept`, leading axis C; `undefined` where a run has
            none.
        task: The program's.
    """

    places: np.ndarray
    kept: Any
    task: BoundTask

    def only(self, chosen: Mapping[int, int]) -> Part:
        """The runs at some positions, by the axes' numbers."""
        own = np.ones(self.places.shape[1], bool)
        for axis, position in chosen.items():
            own &= self.places[axis] == position
        return Part(self.places[:, own], jax.tree.map(lambda a: a[own], self.kept), self.task)

    def is_like(self, other: Part) -> bool:
        """Whether both are of one shape, with the same in what is not trained."""
        mine, others = (jax.tree.map(lambda a: a.shape[1:], part.kept) for part in (self, other))
        fixed = [(part.task.fixed, part.task.state_fixed) for part in (self, other)]
        if mine != others or self.task is other.task:
            return mine == others
        try:
            check_same_fixed(*fixed)
        except UserError:
            return False
        return True


def wanted_places(experiment: Experiment, plan: Plan, chunk: Chunk) -> np.ndarray:
    """(axes, C) positions of a chunk's runs along an experiment's axes, −1 where it has not one."""
    numbers = plan.places[chunk.group][chunk.runs(plan.groups[chunk.group].num_runs)]
    return positions(experiment.axes, plan.axes, numbers)


def part_of(experiment: Experiment, plan: Plan, chunk: Chunk, state: ChunkState) -> Part:
    """The parameters that an experiment keeps of a finished chunk.

    Args:
        experiment: With `Experiment.keep`.
        plan: Of the chunk's round.
        chunk: The chunk.
        state: Its state, with leaves.
    """
    group = plan.groups[chunk.group]
    taken = {"final": final_params, "best": best_params}[experiment.keep or "final"]
    places = wanted_places(experiment, plan, chunk)
    wanted = (places >= 0).all(axis=0)
    kept = jax.tree.map(lambda a: a[wanted], taken(state, group, experiment.precision))
    by_name = dict(zip(experiment.axes, places[:, wanted], strict=True))
    # An axis of the results that is none of the stored run has one value.
    none = np.zeros(int(wanted.sum()), int)
    shown = [by_name.get(name, none) for name in experiment.result_axes]
    task = group.program.task
    assert isinstance(task, BoundTask)
    return Part(np.array(shown, int).reshape(len(shown), -1), kept, task)


@dataclass(frozen=True)
class Parameters:
    """Parameters of a sweep's runs.

    Attributes:
        axes: Of the sweep, in the order of the results' dimensions.
        parts: All runs.
    """

    axes: Axes
    parts: tuple[Part, ...]

    def at(self, coordinates: Mapping[str, Any]) -> Any:
        """The parameters of the runs that have these coordinates.

        Args:
            coordinates: A value for some of the axes.

        Returns:
            A pytree like the one that ``init`` returns, whose arrays have the other axes of the
            sweep in front, in their order. NaN (whole numbers of a state: 0) where a run was not
            trained, or has none.

        Raises:
            UserError: If there are no such runs, or their parameters have different shapes.
        """
        names = list(self.axes)
        places = {n: self._position(n, value) for n, value in coordinates.items()}
        chosen = {names.index(n): place for n, place in places.items()}
        parts = [part.only(chosen) for part in self.parts]
        parts = [part for part in parts if part.places.shape[1]]
        if not parts:
            raise UserError("params: no run was trained there")
        if not all(parts[0].is_like(part) for part in parts):
            raise UserError(
                "params: the parameters differ in shape, or in what is not trained, along "
                f"{' or '.join(self._differing(parts, chosen))}; give a value of it, like "
                "params(name=value)"
            )
        rest = [k for k in range(len(names)) if k not in chosen]
        sizes = tuple(len(self.axes[names[k]]) for k in rest)

        def gather(*leaves: np.ndarray) -> np.ndarray:
            whole = undefined((*sizes, *leaves[0].shape[1:]), leaves[0].dtype)
            for part, leaf in zip(parts, leaves, strict=True):
                if rest:
                    whole[tuple(part.places[rest])] = leaf
                else:
                    whole[...] = leaf[0]
            return whole

        kept = jax.tree.map(gather, *(part.kept for part in parts))
        own = {id(leaf) for leaf in jax.tree.leaves(kept)}

        def spread(leaf: Any) -> Any:
            """What is not trained is the same for all runs."""
            if id(leaf) in own or not hasattr(leaf, "dtype") or is_key(leaf):
                return leaf
            return np.broadcast_to(leaf, (*sizes, *np.shape(leaf)))

        return jax.tree.map(spread, parts[0].task.whole(kept))

    def _position(self, name: str, value: Any) -> int:
        if name not in self.axes:
            raise UserError(f"params: {name} is no axis; there is {', '.join(self.axes) or 'none'}")
        values = self.axes[name]
        found = [i for i, v in enumerate(values) if np.ndim(value) == 0 and v == value]
        if not found:
            there = ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
            raise UserError(f"params: no run has {name} = {value!r}; there is {there}")
        return found[0]

    def _differing(self, parts: list[Part], chosen: Mapping[int, int]) -> Iterator[str]:
        """The names of the axes along which parameters differ."""
        alike = [part.places for part in parts if parts[0].is_like(part)]
        others = [part.places for part in parts if not parts[0].is_like(part)]
        for k, name in enumerate(self.axes):
            here, there = (np.concatenate([p[k] for p in own]) for own in (alike, others))
            if k not in chosen and not np.isin(here, there).any():
                yield name
