"""What a sweep of any model has: its axes, how it is laid out, what its results are called.

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

from implicit_accel.engine.chunks import Group, GroupResult, Recording
from implicit_accel.errors import DataError
from implicit_accel.files import printable

Axes = dict[str, tuple[Any, ...]]
"""Names of a grid's axes and the values along them: numbers or text, each once."""

OwnRates = tuple[tuple[float, ...], ...]
"""Each model's own learning rates, where models are not all trained at the same ones. A model is a
combination of the other axes' values but the seed's, the last axis fastest."""

RATES, SEEDS = "learning_rate", "seed"

# The setting that lists the observables.
_RECORD = "record"


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


@dataclass(frozen=True)
class Round:
    """Runs that one call added to a grid: they are compiled into one program.

    Attributes:
        axes: Some of the values of each of the grid's axes.
        planned_steps: T when the round was planned: which runs share a program may depend on it,
            and must not change when the round goes on.
        runs: Numbers of the runs, increasing, counted in the order of these axes, the last one
            fastest; None for all.

    Raises:
        ValueError: If a value is not allowed.
    """

    axes: Axes
    planned_steps: int
    runs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not all(map(are_values, self.axes.values())):
            raise ValueError("axes of a round must be values, each once")
        if not is_count(self.planned_steps):
            raise ValueError("steps of a round must be a whole number from 1 up")
        if self.runs is not None and not _are_places(self.runs, self._grid_size):
            raise ValueError("runs of a round must be numbers of runs of its grid, increasing")

    @property
    def _grid_size(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def as_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, stored: Any, axes: Axes) -> Round:
        """Reads a round of a grid with these axes.

        Raises:
            ValueError: If it is not one.
        """
        own = {name: tuple(values) for name, values in dict(stored["axes"]).items()}
        if list(own) != list(axes) or any(not set(own[n]) <= set(axes[n]) for n in axes):
            raise ValueError("not a round of this grid")
        runs = stored["runs"]
        return cls(own, stored["planned_steps"], runs if runs is None else tuple(runs))

    @classmethod
    def smallest(cls, axes: Axes, chosen: np.ndarray, planned_steps: int) -> Round:
        """The round of chosen runs of a grid, booleans over its axes, in the smallest box."""
        kept_axes, box = {}, chosen
        for k, (name, values) in enumerate(axes.items()):
            others = tuple(j for j in range(chosen.ndim) if j != k)
            kept = np.flatnonzero(chosen.any(axis=others))
            kept_axes[name] = tuple(values[i] for i in kept)
            box = box.take(kept, axis=k)
        runs = None if box.all() else tuple(np.flatnonzero(box).tolist())
        return cls(kept_axes, planned_steps, runs)

    def covers(self, axes: Axes) -> np.ndarray:
        """Which runs of a grid, booleans over its axes, are among this round's."""
        chosen = np.zeros(self._grid_size, bool)
        chosen[slice(None) if self.runs is None else np.array(self.runs, int)] = True
        chosen = chosen.reshape([len(values) for values in self.axes.values()])
        for k, (name, values) in enumerate(axes.items()):
            own = self.axes[name]
            # A place behind the last stands for values that the round does not have.
            places = [own.index(v) if v in own else len(own) for v in values]
            padded = np.insert(chosen, len(own), False, axis=k)
            chosen = padded.take(places, axis=k)
        return chosen


def _are_places(runs: tuple[Any, ...], size: int) -> bool:
    whole = all(isinstance(run, int) and not isinstance(run, bool) for run in runs)
    return (
        whole
        and len(runs) > 0
        and runs[0] >= 0
        and runs[-1] < size
        and all(a < b for a, b in itertools.pairwise(runs))
    )


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


def rates_by_model(
    axes: Axes, rates: OwnRates
) -> dict[frozenset[tuple[str, Any]], tuple[float, ...]]:
    """Models' own learning rates, by their values along the other axes with these axes' names."""
    others = [name for name in axes if name not in (RATES, SEEDS)]
    models = (
        frozenset(zip(others, values, strict=True))
        for values in itertools.product(*(axes[name] for name in others))
    )
    return dict(zip(models, rates, strict=True))


@dataclass(frozen=True)
class Functions:
    """What a user's functions compute.

    Attributes:
        jax: The version of JAX that made the programs; digests of two versions do not compare.
        programs: Digests of the programs, by what they are of (``loss``, ``init``, ``optimizer``,
            ``record``) and for which fixed hyper-parameters; a run may be given more.
        written: Digests of the Python functions' content by what they are of, empty where it cannot
            be read, and those of values behind labels by axis and label. They decide where versions
            of JAX differ.
        initial: Digests of the initial parameters that ``init`` returned on the host, by the values
            that it was given; a run may be given more.
    """

    jax: str
    programs: dict[str, dict[str, str]]
    written: dict[str, str]
    initial: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, stored: Any) -> Functions:
        """Reads what `dataclasses.asdict` made.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: If it is something else.
        """
        programs = {str(k): dict(v) for k, v in dict(stored["programs"]).items()}
        written, initial = dict(stored["written"]), dict(stored["initial"])
        texts = [*written.values(), *initial.values(), *(t for p in programs.values() for t in p)]
        if not isinstance(stored["jax"], str) or not all(isinstance(t, str) for t in texts):
            raise ValueError("no functions")
        return cls(stored["jax"], programs, written, initial)

    def differences(self, wanted: Functions) -> list[str]:
        """What is not computed as it was, in words."""
        found = []
        gone = (name for name in self.programs if not name.startswith(_RECORD))
        for name in dict.fromkeys((*wanted.programs, *gone)):
            there, here = self.programs.get(name, {}), wanted.programs.get(name, {})
            if self.jax == wanted.jax:
                common = there.keys() & here.keys()
                # Without a common program there is nothing that vouches for the functions.
                is_new = name.startswith(_RECORD) and not there
                if not is_new and (not common or any(there[key] != here[key] for key in common)):
                    found.append(f"{name}: computes something else than there")
            elif not self.written.get(name) or self.written[name] != wanted.written.get(name):
                found.append(
                    f"{name}: JAX {self.jax} compiled the one there, here it is {wanted.jax}, and "
                    "its code is not the same (or cannot be read, or another Python compiled it)"
                )
        if self.jax != wanted.jax:
            # Values behind labels; a run may be given more of them.
            further = (self.written.keys() & wanted.written.keys()) - self.programs.keys()
            found += [
                f"{name}: its code is not the same, or cannot be read"
                for name in sorted(further - wanted.programs.keys())
                if not self.written[name] or self.written[name] != wanted.written[name]
            ]
        if other := _other_initial(self.initial, wanted.initial):
            found.append(f"init: returns other initial parameters than there, for {_show(other)}")
        return found


def _other_initial(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Values for which two functions return different initial parameters; empty without any.

    An ``init`` that is not given a hyper-parameter returns the same for all of its values.
    """
    if not (there and here):
        return ""
    keys = [{key: json.loads(key) for key in digests} for digests in (there, here)]
    names = set.intersection(*(set(values) for by in keys for values in by.values()))

    def projected(digests: Mapping[str, str], by: Mapping[str, Any]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for key, digest in digests.items():
            at = json.dumps({n: by[key][n] for n in sorted(names)})
            found.setdefault(at, set()).add(digest)
        return found

    old, new = projected(there, keys[0]), projected(here, keys[1])
    return next((at for at in new if at in old and old[at] != new[at]), "")


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
        functions: What a user's functions compute; None for models of the project's own.
    """

    settings: dict[str, Any]
    axes: Axes
    num_steps: int
    fingerprint: str
    rates: OwnRates | None = None
    functions: Functions | None = None

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
            recorded = settings.get(_RECORD, [])
            if not isinstance(recorded, list) or not all(isinstance(n, str) for n in recorded):
                raise ValueError("not a list of names")
            num_steps, fingerprint = stored["num_steps"], stored["fingerprint"]
            kept = {name: tuple(values) for name, values in axes.items()}
            rates = stored.get("rates")
            rates = rates if rates is None else tuple(tuple(own) for own in rates)
            functions = stored.get("functions")
            functions = functions if functions is None else Functions.of(functions)
        except (AttributeError, TypeError, KeyError, ValueError):
            raise ValueError("no identity") from None
        if (
            not isinstance(fingerprint, str)
            or not is_count(num_steps)
            or not all(map(are_values, kept.values()))
            or not (rates is None or _are_own_rates(rates, kept))
        ):
            raise ValueError("no identity")
        return cls(settings, kept, num_steps, fingerprint, rates, functions)

    def rates_by_model(self) -> dict[frozenset[tuple[str, Any]], tuple[float, ...]]:
        """See `rates_by_model`; empty where models have no rates of their own."""
        return {} if self.rates is None else rates_by_model(self.axes, self.rates)

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON gives them back."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        # As runs without them have always been written.
        for name in ("rates", "functions"):
            if getattr(self, name) is None:
                del content[name]
        return content

    def code(self) -> str:
        """A short digest; it does not depend on what rates a search finds."""
        content = self.as_json()
        if self.rates is not None:
            del content["axes"][RATES]
            content["rates"] = "searched for"
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def computes(self, wanted: Identity) -> bool:
        """Whether at most values along the same axes and steps differ from the wanted one's."""
        if self.axes.keys() != wanted.axes.keys():
            return False
        axes = {
            name: tuple(dict.fromkeys((*wanted.axes[name], *values)))
            for name, values in self.axes.items()
        }
        return not self.differences(dataclasses.replace(wanted, axes=axes, num_steps=2**31 - 1))

    def covers(self, wanted: Identity) -> bool:
        """Whether a finished run with this identity holds all of the wanted runs' results.

        They may be some of the values along its axes, in any order, with fewer observables.
        """
        if self.rates is not None or wanted.rates is not None:
            return self == wanted
        settings, recorded = dict(wanted.settings), self.settings.get(_RECORD, ())
        if set(settings.get(_RECORD, ())) <= set(recorded):
            settings[_RECORD] = recorded
        return (
            self.num_steps == wanted.num_steps
            and self.computes(dataclasses.replace(wanted, settings=settings))
            and all(set(wanted.axes[name]) <= set(values) for name, values in self.axes.items())
        )

    def lacks(self, wanted: Identity) -> tuple[str, ...]:
        """The wanted run's observables which this one has not, if nothing else differs.

        They are evaluated during training: the wanted run is trained anew, and has all that this
        one has.
        """
        there, here = (identity.settings.get(_RECORD, ()) for identity in (self, wanted))
        settings = wanted.settings | {_RECORD: there}
        if not set(there) < set(here) or self.differences(
            dataclasses.replace(wanted, settings=settings)
        ):
            return ()
        return tuple(name for name in here if name not in there)

    def differences(self, wanted: Identity, *, may_extend: bool = True) -> list[str]:
        """What keeps a run with this identity from becoming the wanted one, in words.

        Args:
            wanted: The identity asked for.
            may_extend: Whether more steps and more values along the axes are no difference.
        """
        if (self.functions is None) != (wanted.functions is None):
            return ["it is of another kind of model, or was stored by an earlier version"]
        found = [] if self.fingerprint == wanted.fingerprint else ["data: other values than there"]
        changed = [
            name
            for name in dict.fromkeys([*wanted.settings, *self.settings])
            if not _may_become(
                self.settings.get(name), wanted.settings.get(name), may_extend=may_extend
            )
        ]
        found += [
            _difference(name, self.settings.get(name), wanted.settings.get(name))
            for name in changed
        ]
        # With other shapes or types any functions make another program.
        is_remade = bool(found) and not {"precision", "batch_size", "static"}.isdisjoint(changed)
        is_remade |= self.fingerprint != wanted.fingerprint
        if self.functions is not None and wanted.functions is not None and not is_remade:
            found += self.functions.differences(wanted.functions)
        searched = [identity.rates is not None for identity in (self, wanted)]
        if searched[0] != searched[1]:
            words = ["searched for (auto)" if s else "a grid" for s in searched]
            found.append(_difference("learning_rates", *words))
        for name in dict.fromkeys([*wanted.axes, *self.axes]):
            if name == RATES and any(searched):
                continue
            old, new = self.axes.get(name, ()), wanted.axes.get(name, ())
            # Python's 1, 1.0 and True are equal, and are trained by different programs.
            typed = [[(_kind(v) if name != RATES else "", v) for v in vs] for vs in (old, new)]
            extends = may_extend and old and set(typed[0]) <= set(typed[1])
            kinds = [{kind for kind, _ in values} for values in typed]
            if may_extend and old and new and len(kinds[1]) == 1 and kinds[0] != kinds[1]:
                was, now = (" and ".join(sorted(k)) for k in kinds)
                found.append(f"{name}: {was} there, {now} here, which another program trains")
            elif typed[0] != typed[1] and not extends:
                found.append(_difference(name, old, new))
        fewer = wanted.num_steps < self.num_steps
        if fewer or (wanted.num_steps > self.num_steps and not may_extend):
            found.append(_difference("num_steps", self.num_steps, wanted.num_steps))
        # Names and values are a file's, and may be anything.
        return [printable(words, 400) for words in found]


def _kind(value: Any) -> str:
    """The type of an axis's value, in words."""
    if isinstance(value, bool):
        return "truth values"
    return {int: "whole numbers", float: "fractions", str: "words"}[type(value)]


def _may_become(old: Any, new: Any, *, may_extend: bool) -> bool:
    if may_extend and isinstance(old, dict) and isinstance(new, dict):
        return all(new[key] == old[key] for key in old.keys() & new.keys())
    return old == new


def _difference(name: str, old: object, new: object) -> str:
    return f"{name}: {_show(old)} there, {_show(new)} here"


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
        rates: Each model's own learning rates; None where all are trained at all of the axis.
        keep: Which parameters are returned beside the results, ``final`` or ``best``, or None. Only
            sweeps of tasks have some.
    """

    num_steps: int
    precision: str
    rates: OwnRates | None = None
    keep: str | None = None

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
        """Lays out a grid of some of the values of each axis.

        Args:
            axes: These values.
            platform: Of the devices; it decides how many runs are stepped together, which changes
                results by rounding alone.
            planned_steps: See `Round`.
        """

    def plan_round(self, added: Round, platform: str) -> Plan:
        """Lays out a round's runs."""
        plan = self.plan(added.axes, platform=platform, planned_steps=added.planned_steps)
        return plan if added.runs is None else plan.only(added.runs)

    def rounds_after(self, rounds: Sequence[Round]) -> tuple[Round, ...]:
        """The rounds with one more if some of the runs that are to be trained are in none."""
        axes = self.axes
        new = np.ones([len(values) for values in axes.values()], bool)
        if self.rates is not None:
            new = chosen_runs(axes, self.rates)
        for earlier in rounds:
            new = new & ~earlier.covers(axes)
        if not new.any():
            return tuple(rounds)
        return (*rounds, Round.smallest(axes, new, self.num_steps))

    @abstractmethod
    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """The labelled results.

        Args:
            arrays: What `assemble` gives for the whole grid.
        """

    def adapted_to(self, stored: Identity) -> Experiment:  # noqa: ARG002
        """This experiment, as a stored run would have it which differs only in form.

        Args:
            stored: Of the run in the folder.
        """
        return self

    def view(self, results: xr.Dataset, stored: Identity) -> xr.Dataset:
        """This experiment's results out of a finished run that covers it, see `Identity.covers`.

        Args:
            results: The run's.
            stored: Its identity.

        Raises:
            DataError: If the results are not those of the run with this identity.
        """
        sizes = {name: len(values) for name, values in stored.axes.items()}
        if any(results.sizes.get(name, size) != size for name, size in sizes.items()):
            raise DataError("the results are not those of the run that config.json describes")
        places = {
            name: [stored.axes[name].index(value) for value in values]
            for name, values in self.axes.items()
            if values != stored.axes[name]
        }
        recorded = (set(i.settings.get(_RECORD, ())) for i in (stored, self.identity))
        results = results.drop_vars(set.difference(*recorded) & {*results.data_vars})
        if not any("observation_step" in v.dims for v in results.data_vars.values()):
            results = results.drop_vars("observation_step", errors="ignore")
        return results.isel(places) if places else results

    def judged(self, results: xr.Dataset) -> xr.Dataset:
        """Results as they are returned, judged by the metric of their target.

        Args:
            results: What `label` or `view` returned.

        Raises:
            UserError: If the quantity's values do not fit its target.
        """
        return results

    @property
    def result_axes(self) -> Axes:
        """The axes of the results, which may lack some of `axes` with one value, or have more."""
        return self.axes

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
        self.grid = grid
        self.rates = rates
        self.num_steps, self.precision, self.keep = grid.num_steps, grid.precision, grid.keep

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

    def adapted_to(self, stored: Identity) -> Experiment:
        """See `Experiment.adapted_to`."""
        grid = self.grid.adapted_to(stored)
        assert self.rates is not None
        own = rates_by_model(self.axes, self.rates)
        models = rates_by_model(grid.axes, self.rates)
        return AtOwnRates(grid, tuple(own[model] for model in models))

    def view(self, results: xr.Dataset, stored: Identity) -> xr.Dataset:
        """See `Experiment.view`."""
        return self.grid.view(results, stored)

    def judged(self, results: xr.Dataset) -> xr.Dataset:
        """See `Experiment.judged`."""
        return self.grid.judged(results)

    @property
    def result_axes(self) -> Axes:
        """See `Experiment.result_axes`."""
        return self.grid.result_axes

    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """See `Experiment.label`; losses of runs that are not trained are NaN."""
        return self.grid.label(arrays)

    @property
    def num_runs(self) -> int:
        """Runs that are trained."""
        assert self.rates is not None
        return int(chosen_runs(self.axes, self.rates).sum())


def assemble(
    axes: Axes, rounds: Sequence[tuple[Plan, Sequence[GroupResult]]]
) -> dict[str, np.ndarray]:
    """Puts the results of a grid's rounds together.

    Args:
        axes: Of the whole grid.
        rounds: Plans of rounds, which share no run, with the results of their groups. Rounds may
            hold runs of a larger grid; those are left out. Runs in none are not trained: their
            records are NaN.

    Returns:
        What was recorded, by name, over the axes (and records): ``excess_loss`` and so on,
        ``steps_to_target`` and ``divergence_step``, −1 for never.
    """
    shape = tuple(len(values) for values in axes.values())
    whole: dict[str, np.ndarray] = {}
    for plan, results in rounds:
        for places, result in zip(plan.places, results, strict=True):
            index = positions(axes, plan.axes, places)
            wanted = (index >= 0).all(axis=0)
            for name, a in result.arrays.items():
                if name not in whole:
                    # What a group does not record is not a number there.
                    fill = np.nan if a.dtype.kind == "f" else -1
                    whole[name] = np.full((*shape, *a.shape[1:]), fill, a.dtype)
                whole[name][tuple(index[:, wanted])] = a[wanted]
    return whole


def positions(axes: Axes, own: Axes, runs: np.ndarray) -> np.ndarray:
    """Where runs of a grid are in another grid.

    Args:
        axes: The other grid's.
        own: The grid's, of the same names in the same order.
        runs: (C,) numbers of its runs, counted in the order of its axes, the last one fastest.

    Returns:
        (axes, C) positions along the other grid's axes, −1 for values that it does not have.
    """
    where = [
        np.array([_position(values, v) for v in own[name]]) for name, values in axes.items()
    ]  # fmt: skip
    at = np.unravel_index(runs, [len(w) for w in where])
    return np.stack([w[i] for w, i in zip(where, at, strict=True)])


def _position(values: Sequence[Any], value: Any) -> int:
    return values.index(value) if value in values else -1
