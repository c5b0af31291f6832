"""Learning rates that are found, not guessed: a coarse grid, then closer looks where it matters.

A model's *figure* is what its learning rate is chosen by: the median over seeds of its steps to the
target, or of its final excess loss. `next_rates` looks at a model's figures at the rates tried so
far and names those that may lower the least of them by more than a tolerance, until there are none.
It knows nothing but the results: a search that was broken off, or is given more seeds, goes on from
what there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.experiment import AtOwnRates, Experiment, OwnRates
from implicit_accel.results import by_model, trained
from implicit_accel.statistics import best_learning_rates, final_excess, usable, valid_steps

TOLERANCE = 0.01
"""How much lower a figure may be at another rate, as a share of it, for the search to be over."""

MOST_NEW = 2
"""How many rates a round adds to a model's, where it looks more closely."""

MOST_ROUNDS = 60

# Multiples of a stable rate that is known about, and rates where nothing is known.
_MULTIPLES = (0.7, 1.4, 2.8)
_WIDE = (-4.0, 0.0, 9)  # decades from, to, and how many

# The ratio by which a search moves outwards, and that to smaller rates where all runs diverge.
_OUTWARDS, _DOWNWARDS = 2.0, 4.0

# Past the edge of stability figures jump, and have several valleys. Between the best rate and so
# many times as much neighbours are no further apart than in this ratio: hardly one is narrower.
_SCAN, _SCAN_REACH = 1.25, 4.0
_LEAST, _LARGEST = 1e-12, 1e12


def coarse_rates(stable: float = math.nan) -> tuple[float, ...]:
    """A model's first learning rates, in equal ratios; `next_rates` goes on from there.

    Args:
        stable: About the largest rate at which it is stable, see `predict.early_stable_rates`;
            NaN if nothing is known.

    Returns:
        From 0.7 to 2.8 times it, or from 1e-4 to 1, with three digits.
    """
    if math.isfinite(stable) and _LEAST < stable < _LARGEST:
        return tuple(_rounded(multiple * stable, 3) for multiple in _MULTIPLES)
    return tuple(_rounded(rate, 3) for rate in np.logspace(*_WIDE))


def next_rates(
    results: xr.Dataset,
    *,
    best_by: str = "target",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
) -> tuple[float, ...]:
    """The learning rates to try next, of all models together; see `next_own_rates`.

    Returns:
        Increasing rates, none of which every model has been tried at; empty once every model's
        best is settled.

    Raises:
        UserError: As `next_own_rates` does.
    """
    own = next_own_rates(results, best_by=best_by, tolerance=tolerance, most=most)
    return _together(own)


def next_own_rates(
    results: xr.Dataset,
    *,
    best_by: str = "target",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
) -> OwnRates:
    """The learning rates to try next, for each model.

    * Where a model's best is the smallest or largest of its rates, further outwards; to smaller
      rates where all of them diverge. Unless figures there no longer depend on the rate.
    * Else between its best and the neighbours on both sides, as far as the figure may be lower
      there by more than the tolerance (and, of steps, by more than one). How much lower it may be
      is told by the slopes beyond: on log axes a valley is about convex, so that it lies above the
      continuations of its chords. Next to a rate at which runs diverge there is no chord on that
      side. Where neighbours are closer than the tolerance, or agree in all digits that rates are
      rounded to, the search is over, however rough the valley.

    Args:
        results: Results of any axes; models may have been tried at different rates.
        best_by: What makes a learning rate the best, see `statistics.best_learning_rates`.
        tolerance: A share of the figure, of the rate too.
        most: How many rates are added to a model's at a time.

    Returns:
        Increasing rates for each model; none where its best is settled.

    Raises:
        UserError: If there are no learning rates, or an argument is not allowed.
    """
    if not (math.isfinite(tolerance) and 0 < tolerance < 1):
        raise UserError(f"tolerance {tolerance!r}: it must be a number above 0 and below 1")
    if not most >= 1:
        raise UserError(f"most {most!r}: it must be 1 or more")
    runs = by_model(results)
    if np.isnan(runs["learning_rate"].values).any():
        raise UserError("the results have no axis learning_rate: there is none to search along")
    return tuple(curve.next_rates(tolerance, most) for curve in _curves(runs, best_by))


@dataclass(frozen=True)
class _Curve:
    """A model's figure at its learning rates, L of them.

    Attributes:
        rates: (L,) increasing.
        figures: (L,) the logarithms of figures; inf where it has none (runs diverge).
        best: The position of the best rate; −1 if all diverge.
        unit: What figures are counted in: 1 step, or 0 for losses.
    """

    rates: np.ndarray
    figures: np.ndarray
    best: int
    unit: float

    def next_rates(self, tolerance: float, most: int) -> tuple[float, ...]:
        """See `next_own_rates`."""
        digits = max(3, 1 + math.ceil(-math.log10(tolerance)))
        found = {_rounded(rate, digits) for rate in self._wanted(tolerance, most)}
        found = {rate for rate in found if _LEAST <= rate <= _LARGEST}
        return tuple(sorted(found - set(self.rates.tolist())))

    def _wanted(self, tolerance: float, most: int) -> list[float]:
        if self.best < 0 or not math.isfinite(self.figures[self.best]):
            return [self.rates[0] / _DOWNWARDS**k for k in range(1, most + 1)]
        b, last = self.best, len(self.rates) - 1
        enough = max(math.log1p(tolerance), math.log1p(self.unit / math.exp(self.figures[b])))
        is_flat = b in (0, last) and self._is_plateau(b, enough)
        # Next to a rate at which runs diverge the best is between the two, or will be.
        if 0 < b < last or (b == 0 < last and math.isinf(self.figures[1])):
            further = self._unreached() or self._unscanned()
        else:
            further = [] if is_flat else self._outwards(most)
        if not further and b == 0 and not is_flat:
            further = self._outwards(most)
        if further:
            return further
        gains = {
            k: self.possible_gain(k)
            for k in range(last)
            if self.rates[k + 1] > self.rates[k] * (1 + tolerance) * (1 + 1e-9)
        }
        sides = sorted((k for k in gains if gains[k] > enough), key=lambda k: -gains[k])[:most]
        each = most // max(1, len(sides))
        return [rate for k in sides for rate in self._between(k, each)]

    def _outwards(self, most: int) -> list[float]:
        """Rates beyond the best, which is the smallest or the largest."""
        b, last = self.best, len(self.rates) - 1
        ratios = [1 / _OUTWARDS] * (b == 0) + [_OUTWARDS] * (b == last)
        each = max(1, min(most, 2) // len(ratios))
        return [self.rates[b] * ratio**k for ratio in ratios for k in range(1, each + 1)]

    def _unreached(self) -> list[float]:
        """A larger rate, if none has been tried beyond which nothing is to be expected."""
        reached = self.rates[-1] * math.sqrt(_OUTWARDS) >= self.rates[self.best] * _SCAN_REACH
        if reached or not np.isfinite(self.figures[self.best :]).all():
            return []
        return [self.rates[-1] * _OUTWARDS]

    def _unscanned(self) -> list[float]:
        """Rates between the best and the next without a figure, where neighbours are far apart."""
        wanted: list[float] = []
        for k in range(self.best, len(self.rates) - 1):
            far = self.rates[k] >= self.rates[self.best] * _SCAN_REACH
            if far or not math.isfinite(self.figures[k]):
                break
            parts = math.ceil(math.log(self.rates[k + 1] / self.rates[k]) / math.log(_SCAN) - 0.1)
            wanted += self._between(k, parts - 1)
        return wanted

    def _between(self, k: int, count: int) -> list[float]:
        """Rates between rates k and k + 1, in equal ratios."""
        return np.geomspace(self.rates[k], self.rates[k + 1], max(count, 0) + 2)[1:-1].tolist()

    def _is_plateau(self, end: int, enough: float) -> bool:
        """Whether the three figures at an end of the rates are the same."""
        there = self.figures[:3] if end == 0 else self.figures[-3:]
        return len(there) == 3 and bool(np.ptp(there) <= enough)

    def possible_gain(self, k: int) -> float:
        """By how much the curve may lie below the best figure between rates k and k + 1.

        Where it is convex, it lies above the continuation of its chord on either side. A chord that
        is steeper than it should be beside the next says that the curve is not convex there, and
        does not count. Beside the best rate anything is possible where there is no chord.
        """
        width = math.log(self.rates[k + 1] / self.rates[k])
        before, between, behind = (self._slope(j) for j in (k - 1, k, k + 1))
        left, right = float(self.figures[k]), float(self.figures[k + 1])
        if before is not None and between is not None and before > between:
            before = None
        if behind is not None and between is not None and behind < between:
            behind = None
        if before is None and k not in (self.best - 1, self.best):
            return -math.inf
        lines = []  # heights at the interval's left end, and slopes
        if before is not None:
            lines.append((left, before))
        if behind is not None:
            lines.append((right - behind * width, behind))
        if not lines:
            return math.inf
        places = [0.0, width]
        if len(lines) == 2 and before != behind:
            (a, s), (c, t) = lines
            places.append(min(max((c - a) / (s - t), 0.0), width))
        lowest = min(max(a + slope * place for a, slope in lines) for place in places)
        return float(self.figures[self.best]) - lowest

    def _slope(self, k: int) -> float | None:
        """Of the chord between rates k and k + 1; None if there is none."""
        if not 0 <= k < len(self.rates) - 1 or not np.isfinite(self.figures[k : k + 2]).all():
            return None
        run = math.log(self.rates[k + 1] / self.rates[k])
        return float((self.figures[k + 1] - self.figures[k]) / run)


def _curves(runs: xr.Dataset, best_by: str) -> list[_Curve]:
    rates, tried, fine = runs["learning_rate"].values, trained(runs), usable(runs, best_by)
    best, by_steps, figures = _figures(runs, best_by)
    curves = []
    for m in range(runs.sizes["model"]):
        own = np.flatnonzero(tried[m])
        own = own[np.argsort(rates[own])]
        if not len(own):
            raise UserError("a model has no learning rates yet: begin with coarse_rates")
        # Where every rate has runs that diverge, the best of them is no place to search around.
        counts = np.where(fine[m, own], figures[m, own], np.inf)
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(counts, np.finfo(float).tiny))
        place = int(np.flatnonzero(own == best[m])[0]) if best[m] >= 0 else -1
        curves.append(_Curve(rates[own], logs, place, 1.0 if by_steps[m] else 0.0))
    return curves


def _figures(runs: xr.Dataset, best_by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the best rates, whether figures are steps, and figures (model, rate)."""
    best = best_learning_rates(runs, best_by)
    steps = np.median(valid_steps(runs, stable=best_by == "stable"), axis=2)
    final = np.median(final_excess(runs), axis=2)
    reached = np.isfinite(steps[np.arange(len(best)), best])
    by_steps = reached & (best_by != "final") & (best >= 0)
    figures = np.where(by_steps[:, None], np.maximum(steps, 1), final)
    return best, by_steps, figures


@dataclass(frozen=True)
class Round:
    """What a round of a search did.

    Attributes:
        added: Each model's new learning rates.
        best: Each model's best rate after it; NaN if all diverge.
        figure: Each model's median steps to the target at it, or its final excess loss where the
            target is not reached or rates are chosen by that; inf if all rates diverge.
    """

    added: OwnRates
    best: tuple[float, ...]
    figure: tuple[float, ...]


def history(
    results: xr.Dataset, rounds: Sequence[OwnRates], *, best_by: str = "target"
) -> tuple[Round, ...]:
    """How a search came to its results, round by round.

    Args:
        results: Of all rounds.
        rounds: The learning rates that each of them added, for each model.
        best_by: What makes a learning rate the best.
    """
    runs = by_model(results)
    rates = runs["learning_rate"].values
    tried = np.zeros((runs.sizes["model"], len(rates)), bool)
    found = []
    for added in rounds:
        tried |= np.array([np.isin(rates, own) for own in added])
        best, _, figures = _figures(_at(runs, tried), best_by)
        rows = range(len(best))
        found.append(
            Round(
                tuple(tuple(map(float, own)) for own in added),
                tuple(float(rates[best[m]]) if best[m] >= 0 else math.nan for m in rows),
                tuple(float(figures[m, best[m]]) if best[m] >= 0 else math.inf for m in rows),
            )
        )
    return tuple(found)


def _at(runs: xr.Dataset, tried: np.ndarray) -> xr.Dataset:
    """Results, by model, as if models had been trained at some of their rates alone."""
    kept = xr.DataArray(tried, dims=("model", "learning_rate"))
    return runs.assign(
        excess_loss=runs["excess_loss"].where(kept),
        steps_to_target=runs["steps_to_target"].where(kept, np.inf),
        divergence_step=runs["divergence_step"].where(kept),
    )


def at_own_rates(grid_of: Callable[[tuple[float, ...]], Experiment], rates: OwnRates) -> AtOwnRates:
    """The experiment that trains each model at its own learning rates.

    Args:
        grid_of: Gives the experiment that trains all models at given rates.
        rates: Each model's.
    """
    return AtOwnRates(grid_of(_together(rates)), rates)


def search(
    grid_of: Callable[[tuple[float, ...]], Experiment],
    run: Callable[[AtOwnRates], xr.Dataset],
    first: OwnRates,
    *,
    best_by: str = "target",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
    most_rounds: int = MOST_ROUNDS,
) -> tuple[xr.Dataset, tuple[Round, ...]]:
    """Trains, asks for the next learning rates and extends the run until each best is settled.

    Args:
        grid_of: Gives the experiment that trains all models at given rates.
        run: Trains an experiment and returns its results; one that holds another's runs should
            train only what is new, as `implicit_accel.run` does with a folder.
        first: Each model's rates to begin with, see `coarse_rates`.
        best_by: What makes a learning rate the best.
        tolerance: See `next_own_rates`.
        most: See `next_own_rates`.
        most_rounds: After which it ends in any case.

    Returns:
        The results of all rounds, and how they came about.

    Raises:
        UserError: If an argument is not allowed.
    """
    rates, rounds = first, [first]
    results = run(at_own_rates(grid_of, rates))
    for _ in range(most_rounds):
        new = next_own_rates(results, best_by=best_by, tolerance=tolerance, most=most)
        if not any(new):
            break
        rounds.append(new)
        rates = joined(rates, new)
        results = run(at_own_rates(grid_of, rates))
    return results, history(results, rounds, best_by=best_by)


def joined(rates: OwnRates, more: OwnRates) -> OwnRates:
    """Each model's learning rates and more of them, increasing."""
    return tuple(tuple(sorted({*a, *b})) for a, b in zip(rates, more, strict=True))


def _together(rates: OwnRates) -> tuple[float, ...]:
    return tuple(sorted({rate for own in rates for rate in own}))


def _rounded(rate: float, digits: int) -> float:
    """So that rates are the same on every machine, and read well in tables and labels."""
    return float(f"{rate:.{digits}g}")
