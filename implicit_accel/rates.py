"""Search for each model's best learning rate: a coarse grid, refined around the best.

A model's *figure* (of merit) is the quantity by which its learning rate is chosen: the median over
seeds of its steps to the target, or of its final excess loss. From the figures at the rates trained
so far, `next_rates` proposes rates at which the figure may be lower than the smallest one by more
than a tolerance, until there are none. The search has no state beside the results, so that it
continues after an interruption, or with more seeds, from the results that there are.
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
from implicit_accel.statistics import (
    BEST_BY,
    best_learning_rates,
    final_excess,
    usable,
    valid_steps,
)

TOLERANCE = 0.01
"""The search ends once no rate can lower the best figure by more than this share of it."""

MOST_NEW = 2
"""How many rates a round adds to a model's between its best and the neighbours."""

MOST_ROUNDS = 60

# First rates: multiples of an estimate of the largest stable rate, or, without one, a log range
# (decades from and to, and the number of rates).
_MULTIPLES = (0.7, 1.4, 2.8)
_WIDE = (-4.0, 0.0, 9)

# Ratios of the next rates to the smallest or largest one: where that is the best, and where all
# runs diverge at every rate.
_OUTWARDS, _DOWNWARDS = 2.0, 4.0

# Past the edge of stability (ηλ > 2) the figure jumps and has several valleys. Up to _SCAN_REACH
# times the best rate, neighbouring rates lie no further apart than in the ratio _SCAN, which is
# narrower than nearly all valleys.
_SCAN, _SCAN_REACH = 1.25, 4.0
_LEAST, _LARGEST = 1e-12, 1e12


@dataclass(frozen=True)
class auto:  # noqa: N801 - reads like a function where it is used
    """Values of the axis ``learning_rate`` that are searched for: ``auto()``.

    Every model gets rates of its own, see `next_own_rates`. Where a combination of the other axes
    was not trained at a rate, its losses are NaN.

    Attributes:
        best_by: Rule for the best learning rate, see `statistics.best_learning_rates`.
        tolerance: A share of the figure, and of the rate; the search ends within it.
        first: Every model's first rates; from 1e-4 to 1 by default.

    Raises:
        UserError: If a value is not allowed.
    """

    best_by: str = "stable"
    tolerance: float = 0.05
    first: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.best_by not in BEST_BY:
            raise UserError(f"auto: best_by {self.best_by!r}: choose from {', '.join(BEST_BY)}")
        if not (isinstance(self.tolerance, int | float) and 0 < self.tolerance < 1):
            raise UserError(f"auto: tolerance {self.tolerance!r}: a number above 0 and below 1")
        try:
            first = tuple(sorted({float(rate) for rate in self.first}))
        except (TypeError, ValueError):
            first = (-1.0,)
        if not all(0 < rate < math.inf for rate in first):
            raise UserError(f"auto: first {self.first!r}: give learning rates above 0")
        object.__setattr__(self, "first", first or coarse_rates())


def coarse_rates(stable: float = math.nan) -> tuple[float, ...]:
    """A model's first learning rates, in equal ratios.

    Args:
        stable: An estimate of its largest stable rate, see `predict.early_stable_rates`; NaN if
            there is none.

    Returns:
        From 0.7 to 2.8 times the estimate, or from 1e-4 to 1, with three digits.
    """
    if math.isfinite(stable) and _LEAST < stable < _LARGEST:
        return tuple(_rounded(multiple * stable, 3) for multiple in _MULTIPLES)
    return tuple(_rounded(rate, 3) for rate in np.logspace(*_WIDE))


def next_rates(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
) -> tuple[float, ...]:
    """The learning rates to try next, of all models together; see `next_own_rates`.

    Returns:
        Increasing rates, each new to at least one model; empty once the search has ended for every
        model.

    Raises:
        UserError: As `next_own_rates` does.
    """
    own = next_own_rates(results, best_by=best_by, tolerance=tolerance, most=most)
    return _together(own)


def next_own_rates(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
) -> OwnRates:
    """The learning rates to try next, for each model; the first of these that apply.

    1. Smaller rates, where runs diverge at all rates.
    2. Where the best lies between other rates, or runs diverge at the next larger one: rates up to
       4 times the best, until neighbours are within a factor of 1.25. Past the edge of stability
       (ηλ > 2) the figure jumps, and a better valley may follow.
    3. Rates further outwards, where the best is the smallest or largest, unless the three outermost
       figures are equal within the tolerance.
    4. Rates between the best and its neighbours, and between further neighbours, wherever the
       figure may be lower than the best by more than the tolerance (and, of steps, by more than
       one). The bound follows from convexity: on log axes most valleys are about convex, and a
       convex curve lies above the continuation of its chords. Neighbours which are closer than the
       tolerance, or equal in all digits to which rates are rounded, are not refined.

    Args:
        results: Results of any axes; models may have been trained at different rates.
        best_by: Rule for the best learning rate, see `statistics.best_learning_rates`.
        tolerance: A share of the figure, and of the rate.
        most: The most rates to add to a model's; a scan (2) adds as many as it needs.

    Returns:
        Increasing rates for each model; none once its search has ended.

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
        figures: (L,) logarithms of the figures; inf where runs diverge.
        best: Position of the best rate; −1 if runs diverge at all rates.
        unit: The figure's smallest difference: 1 step, or 0 for losses.
    """

    rates: np.ndarray
    figures: np.ndarray
    best: int
    unit: float

    def next_rates(self, tolerance: float, most: int) -> tuple[float, ...]:
        """The rates to try next, rounded; none once the search has ended."""
        digits = max(3, 1 + math.ceil(-math.log10(tolerance)))
        proposed = {_rounded(rate, digits) for rate in self._propose(tolerance, most)}
        proposed = {rate for rate in proposed if _LEAST <= rate <= _LARGEST}
        return tuple(sorted(proposed - set(self.rates.tolist())))

    def _propose(self, tolerance: float, most: int) -> list[float]:
        """The rates to try next, by the rules of `next_own_rates`; some may be there already."""
        if self.best < 0 or not math.isfinite(self.figures[self.best]):
            return [self.rates[0] / _DOWNWARDS**k for k in range(1, most + 1)]
        # The smallest improvement of the log figure that matters: the tolerance, or one unit.
        relevant = max(
            math.log1p(tolerance), math.log1p(self.unit / math.exp(self.figures[self.best]))
        )
        if self._is_bounded_above() and (scan := self._extend_scan() or self._refine_scan()):
            return scan
        if self.best in (0, len(self.rates) - 1) and not self._is_plateau(relevant):
            return self._outwards(most)
        return self._between_neighbours(tolerance, relevant, most)

    def _is_bounded_above(self) -> bool:
        """Whether larger rates are worse: the best is inside, or beside a rate of divergence."""
        last = len(self.rates) - 1
        return 0 < self.best < last or (self.best == 0 < last and math.isinf(self.figures[1]))

    def _extend_scan(self) -> list[float]:
        """One larger rate, unless rates reach the end of the scan or runs diverge before it."""
        reached = self.rates[-1] * math.sqrt(_OUTWARDS) >= self.rates[self.best] * _SCAN_REACH
        if reached or not np.isfinite(self.figures[self.best :]).all():
            return []
        return [self.rates[-1] * _OUTWARDS]

    def _refine_scan(self) -> list[float]:
        """Rates in the gaps of the scan, from the best up to its end or to divergence."""
        proposed: list[float] = []
        for k in range(self.best, len(self.rates) - 1):
            is_outside = self.rates[k] >= self.rates[self.best] * _SCAN_REACH
            if is_outside or not math.isfinite(self.figures[k]):
                break
            # 0.1: rates are rounded, and a gap that is a little wider is left as it is.
            parts = math.ceil(math.log(self.rates[k + 1] / self.rates[k]) / math.log(_SCAN) - 0.1)
            proposed += self._between(k, parts - 1)
        return proposed

    def _is_plateau(self, relevant: float) -> bool:
        """Whether the three outermost figures at the best's end of the rates are equal."""
        outermost = self.figures[:3] if self.best == 0 else self.figures[-3:]
        return len(outermost) == 3 and bool(np.ptp(outermost) <= relevant)

    def _outwards(self, most: int) -> list[float]:
        """Rates beyond the best, which is the smallest or the largest or both."""
        b, last = self.best, len(self.rates) - 1
        ratios = [1 / _OUTWARDS] * (b == 0) + [_OUTWARDS] * (b == last)
        each = max(1, min(most, 2) // len(ratios))
        return [self.rates[b] * ratio**k for ratio in ratios for k in range(1, each + 1)]

    def _between_neighbours(self, tolerance: float, relevant: float, most: int) -> list[float]:
        """Rates between neighbours where the curve may fall below the best figure, best first."""
        improvements = {
            k: self.upper_bound_on_improvement(k)
            for k in range(len(self.rates) - 1)
            if self.rates[k + 1] > self.rates[k] * (1 + tolerance) * (1 + 1e-9)
        }
        gaps = [k for k in improvements if improvements[k] > relevant]
        gaps = sorted(gaps, key=lambda k: -improvements[k])[:most]
        each = most // max(1, len(gaps))
        return [rate for k in gaps for rate in self._between(k, each)]

    def _between(self, k: int, count: int) -> list[float]:
        """Rates between rates k and k + 1, in equal ratios."""
        return np.geomspace(self.rates[k], self.rates[k + 1], max(count, 0) + 2)[1:-1].tolist()

    def upper_bound_on_improvement(self, k: int) -> float:
        """By how much the curve may fall below the best figure between rates k and k + 1.

        Let f be the log figure as a function of the log rate x, with f_j = f(x_j), and

            s_j = (f_{j+1} − f_j) / (x_{j+1} − x_j)

        the slope of the chord over interval j. Outside its interval a chord of a convex function
        lies below it. So for x_k ≤ x ≤ x_{k+1}

            f(x) ≥ max(f_k + s_{k−1} (x − x_k), f_{k+1} + s_{k+1} (x − x_{k+1})),

        and with f* = min_j f_j the improvement f* − f(x) is at most f* minus the minimum over x of
        the right-hand side. A maximum of two lines is smallest at an end of the interval or where
        they cross.

        Chords of a convex function have increasing slopes. Where s_{k−1} > s_k or s_{k+1} < s_k
        the curve is not convex, and that chord's line is left out; likewise where a chord ends at a
        rate of divergence. The minimum of a convex curve lies in one of the two intervals at the
        best rate, so any other without the left line gets −inf. Those two get the bound of the line
        that is there, and inf without any.
        """
        slope_before, slope, slope_after = (self._slope(j) for j in (k - 1, k, k + 1))
        if slope_before is not None and slope is not None and slope_before > slope:
            slope_before = None
        if slope_after is not None and slope is not None and slope_after < slope:
            slope_after = None
        if slope_before is None and k not in (self.best - 1, self.best):
            return -math.inf
        width = math.log(self.rates[k + 1] / self.rates[k])
        lines = []  # of t = x − x_k: value at t = 0, slope
        if slope_before is not None:
            lines.append((float(self.figures[k]), slope_before))
        if slope_after is not None:
            lines.append((float(self.figures[k + 1]) - slope_after * width, slope_after))
        if not lines:
            return math.inf
        candidates = [0.0, width]
        if len(lines) == 2 and slope_before != slope_after:
            (a, s), (b, t) = lines
            candidates.append(min(max((b - a) / (s - t), 0.0), width))
        lower_bound = min(max(a + s * t for a, s in lines) for t in candidates)
        return float(self.figures[self.best]) - lower_bound

    def _slope(self, k: int) -> float | None:
        """Of the chord between rates k and k + 1; None if there is none."""
        if not 0 <= k < len(self.rates) - 1 or not np.isfinite(self.figures[k : k + 2]).all():
            return None
        run = math.log(self.rates[k + 1] / self.rates[k])
        return float((self.figures[k + 1] - self.figures[k]) / run)


def _curves(runs: xr.Dataset, best_by: str) -> list[_Curve]:
    """Each model's curve, at the rates at which it was trained."""
    rates, tried, is_usable = runs["learning_rate"].values, trained(runs), usable(runs, best_by)
    best, by_steps, figures = _figures(runs, best_by)
    curves = []
    for m in range(runs.sizes["model"]):
        own = np.flatnonzero(tried[m])
        own = own[np.argsort(rates[own])]
        if not len(own):
            raise UserError("a model has no learning rates yet: begin with coarse_rates")
        # Also where no rate is usable one of them is called the best. Without a figure there the
        # search turns to smaller rates instead of refining around it.
        counts = _above_zero(np.where(is_usable[m, own], figures[m, own], np.inf))
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(counts, np.finfo(float).tiny))
        position = int(np.flatnonzero(own == best[m])[0]) if best[m] >= 0 else -1
        curves.append(_Curve(rates[own], logs, position, 1.0 if by_steps[m] else 0.0))
    return curves


# Of the range of a model's figures: what the lowest becomes where some are negative.
_LOWEST = 0.05


def _above_zero(figures: np.ndarray) -> np.ndarray:
    """Figures of which logarithms exist: losses without a known optimum may be negative."""
    finite = figures[np.isfinite(figures)]
    if not len(finite) or finite.min() >= 0:
        return figures
    return figures - finite.min() + _LOWEST * (np.ptp(finite) or 1.0)


def _figures(runs: xr.Dataset, best_by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the best rates, whether the figure is steps (model,), figures (model, rate)."""
    best = best_learning_rates(runs, best_by)
    steps = np.median(valid_steps(runs, stable=best_by == "stable"), axis=2)
    final = np.median(final_excess(runs), axis=2)
    reached = np.isfinite(steps[np.arange(len(best)), best])
    by_steps = reached & (best_by != "final") & (best >= 0)
    figures = np.where(by_steps[:, None], np.maximum(steps, 1), final)
    return best, by_steps, figures


@dataclass(frozen=True)
class Round:
    """A round of a search.

    Attributes:
        added: Each model's new learning rates.
        best: Each model's best rate after the round; NaN if runs diverge at all rates.
        figure: Each model's median steps to the target at its best rate, or its median final excess
            loss if the target is not reached or rates are chosen by it; inf if runs diverge at all
            rates.
    """

    added: OwnRates
    best: tuple[float, ...]
    figure: tuple[float, ...]


def history(
    results: xr.Dataset, rounds: Sequence[OwnRates], *, best_by: str = "stable"
) -> tuple[Round, ...]:
    """The rounds of a search, with each model's best rate after every one.

    Args:
        results: Of all rounds.
        rounds: The learning rates that each round added, for each model.
        best_by: Rule for the best learning rate.
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
    """Results, by model, without the runs at rates that are not in ``tried`` (model, rate)."""
    kept = xr.DataArray(tried, dims=("model", "learning_rate"))
    return runs.assign(
        excess_loss=runs["excess_loss"].where(kept),
        steps_to_target=runs["steps_to_target"].where(kept, np.inf),
        divergence_step=runs["divergence_step"].where(kept),
    )


def at_own_rates(grid_of: Callable[[tuple[float, ...]], Experiment], rates: OwnRates) -> AtOwnRates:
    """The experiment that trains each model at its own learning rates.

    Args:
        grid_of: Returns the experiment that trains all models at given rates.
        rates: Each model's.
    """
    return AtOwnRates(grid_of(_together(rates)), rates)


def search(
    grid_of: Callable[[tuple[float, ...]], Experiment],
    run: Callable[[AtOwnRates], xr.Dataset],
    first: OwnRates,
    *,
    best_by: str = "stable",
    tolerance: float = TOLERANCE,
    most: int = MOST_NEW,
    most_rounds: int = MOST_ROUNDS,
) -> tuple[xr.Dataset, tuple[Round, ...]]:
    """Searches for each model's best learning rate: trains, adds rates, trains these.

    Args:
        grid_of: Returns the experiment that trains all models at given rates.
        run: Trains an experiment and returns its results. Experiments grow from round to round;
            `implicit_accel.run` with a folder trains only the new runs.
        first: Each model's first rates, see `coarse_rates`.
        best_by: Rule for the best learning rate, see `statistics.best_learning_rates`.
        tolerance: A share of the figure, and of the rate, see `next_own_rates`.
        most: The most rates that a round adds to a model's, see `next_own_rates`.
        most_rounds: The search ends after so many rounds in any case.

    Returns:
        The results of all rounds, and the rounds.

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
    """The union of each model's learning rates, increasing."""
    return tuple(tuple(sorted({*a, *b})) for a, b in zip(rates, more, strict=True))


def _together(rates: OwnRates) -> tuple[float, ...]:
    return tuple(sorted({rate for own in rates for rate in own}))


def _rounded(rate: float, digits: int) -> float:
    """The rate with a few significant digits: equal on every machine, and short in tables."""
    return float(f"{rate:.{digits}g}")
