"""Intervals that keep their promise: 93 to 98 % of those called 95 % hold what they estimate.

Every kind takes the confidence that is asked for, so that claims of several parts can be judged
together (`simultaneous`). Fewer than `FEWEST` seeds bear no percentage: for those there is their
range, and `of_median` says so by `Interval.confidence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special  # scipy.stats has the same, and takes a second to import

# With fewer values than this not even their whole range is a 95 % interval of the median: it
# misses with probability 2^(1−n), 6 % at five.
FEWEST = 6

CONFIDENCE = 0.95

_RESAMPLES = 2000
_SPLITS = 101

# A learning rate is usable if no more than this share of the runs diverges before the target.
MOST_DIVERGED = 0.1
_LOWEST_TENTH = float(scipy.special.ndtri(MOST_DIVERGED))


@dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie.

    Attributes:
        value: The estimate.
        low: Lower end; −inf where the data bear no interval of this confidence.
        high: Upper end, inf likewise.
        confidence: Of the interval; NaN if the ends are the values' range, for want of seeds.
    """

    value: float
    low: float
    high: float
    confidence: float


def simultaneous(parts: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several intervals that all hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(parts, 1)


def of_median(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The median's interval from order statistics, interpolated (Hettmansperger & Sheather 1986).

    It supposes nothing of the distribution; infinities (runs that never arrive) are values like
    others.

    Args:
        values: One per seed, at least one.
        confidence: Between 0 and 1.

    Returns:
        The median with its interval. With fewer than `FEWEST` values their range.
    """
    x = np.sort(np.asarray(values, float))
    n, value = len(x), float(np.median(x))
    if n < FEWEST:
        return Interval(value, float(x[0]), float(x[-1]), math.nan)
    # held[d-1]: how often the median lies between the d-th value and the d-th from the end.
    d = np.arange(1, n // 2 + 1)
    held = 1 - 2 * scipy.special.bdtr(d - 1, n, 0.5)
    enough = np.flatnonzero(held >= confidence)
    if not len(enough):
        return Interval(value, -math.inf, math.inf, confidence)
    k = int(enough[-1])
    if k + 1 == len(d):
        return Interval(value, float(x[k]), float(x[n - 1 - k]), confidence)
    share = (held[k] - confidence) / (held[k] - held[k + 1])
    inwards = (n - d[k]) * share / (d[k] + (n - 2 * d[k]) * share)
    low = _between(x[k], x[k + 1], inwards)
    high = _between(x[n - 1 - k], x[n - 2 - k], inwards)
    return Interval(value, low, high, confidence)


def _between(outer: float, inner: float, inwards: float) -> float:
    """Between two order statistics; from infinity there is no way inwards."""
    if outer == inner or math.isinf(outer):
        return float(outer)
    return float((1 - inwards) * outer + inwards * inner)


def of_share(happened: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """How often something happened, with Wilson's interval (J. Am. Stat. Assoc. 22, 1927).

    ``(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`` of a share p of n, with z the normal
    distribution's quantile.

    Args:
        happened: Booleans, at least one.
        confidence: Between 0 and 1.
    """
    # scipy.stats.binomtest has this interval, but its import adds 0.36 s to a sweep of 4.2 s.
    n, share = len(happened), float(np.mean(happened))
    z = float(scipy.special.ndtri((1 + confidence) / 2))
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    # Where it never or always happened that end is exact, whatever rounding makes of it.
    return Interval(share, low if share > 0 else 0.0, high if share < 1 else 1.0, confidence)


@dataclass(frozen=True)
class Bootstrap:
    """An estimate with its resamples, drawn once for intervals of every confidence.

    Attributes:
        value: The estimate.
        draws: (resamples,) estimates; NaN draws widen both ends.
        size: How many seeds were resampled. Of fewer than `FEWEST` the draws' range is told.
    """

    value: float
    draws: np.ndarray
    size: int

    def at(self, confidence: float = CONFIDENCE) -> Interval:
        """The percentile interval, which holds the estimate in any case.

        The quantiles asked for are moved outwards, as a t-distribution's are beyond a normal's:
        without that, a bootstrap of few seeds is too narrow (Hesterberg 2015, "expanded
        percentiles").

        Args:
            confidence: Between 0 and 1.
        """
        if self.size < FEWEST:
            low, high = float(self.draws.min()), float(self.draws.max())
            return Interval(self.value, low, high, math.nan)
        n = self.size
        t = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * math.sqrt(n / (n - 1))
        tails = float(scipy.special.ndtr(-t)), float(scipy.special.ndtr(t))
        # Drawn values: between a number and infinity there is no interpolating.
        low, high = (
            float(np.quantile(np.where(np.isnan(self.draws), end, self.draws), tail,
                              method="inverted_cdf"))
            for end, tail in zip((-np.inf, np.inf), tails, strict=True)
        )  # fmt: skip
        return Interval(self.value, min(low, self.value), max(high, self.value), confidence)


def of_measure(measure: Callable[[np.ndarray], float], repeats: int) -> Bootstrap:
    """Any measure of some repeats, resampled.

    Args:
        measure: Of the chosen repeats, by number, to a number (or ±inf).
        repeats: How many there are.
    """
    rng = np.random.default_rng(0)
    draws = [measure(rng.integers(repeats, size=repeats)) for _ in range(_RESAMPLES // 2)]
    return Bootstrap(measure(np.arange(repeats)), np.array(draws), repeats)


@dataclass(frozen=True)
class Side:
    """A model in a comparison, at every learning rate.

    Attributes:
        rates: (L,) learning rates, ascending.
        steps: (L, S) steps to the target, by rate and seed; inf where a run does not get there.
        lost: (L, S) booleans: runs that diverged before they got there.
        num_steps: T, the runs' length: what runs that do not get there count as.
    """

    rates: np.ndarray
    steps: np.ndarray
    lost: np.ndarray
    num_steps: float

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.steps.shape[1]

    @property
    def capped(self) -> np.ndarray:
        """(L, S) steps, at least 1 and at most the runs' length.

        Who does not arrive counts as arriving a hair later: of rates that a choice would otherwise
        have to call equal, those at which runs arrive at their very last step are better.
        """
        arrives = np.isfinite(self.steps)
        return np.where(
            arrives, np.clip(self.steps, 1, self.num_steps), np.nextafter(self.num_steps, np.inf)
        )

    def usable(self, seeds: np.ndarray) -> np.ndarray:
        """Which rates may be chosen: those at which a tenth of the runs diverges, or fewer.

        A count of a few runs would admit a rate or not by a single seed. Where along the rates
        each seed begins to diverge is taken as normally distributed in the rate's logarithm; its
        lowest tenth is the largest usable rate.

        Args:
            seeds: (B, n) sets of seeds that choose.

        Returns:
            (B, L) booleans.
        """
        logs = np.log(self.rates)
        last = 2 * logs[-1] - logs[-2] if len(logs) > 1 else logs[-1] + 1
        edges = np.concatenate([logs, [last]])
        halfway = edges - np.diff(edges, prepend=edges[0] - (edges[-1] - edges[-2])) / 2
        first = np.where(self.lost.any(axis=0), self.lost.argmax(axis=0), len(logs))
        begins = halfway[first][seeds]
        spread = begins.std(axis=1, ddof=1) if seeds.shape[1] > 1 else np.zeros(len(seeds))
        largest = begins.mean(axis=1) + _LOWEST_TENTH * spread
        return logs[None] <= largest[:, None] + 1e-9

    def best(self, seeds: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """The usable rates with the fewest median steps.

        Args:
            seeds: (B, n) sets of seeds that choose.
            allowed: (B, L) which rates there are; all by default.

        Returns:
            (B,) rates' numbers; −1 where none is usable.
        """
        usable = self.usable(seeds)
        usable = usable if allowed is None else usable & allowed
        medians = np.where(usable, np.median(self.capped[:, seeds], axis=2).T, np.inf)
        return np.where(usable.any(axis=1), np.argmin(medians, axis=1), -1)

    def at(self, best: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """(B, n) steps of sets of seeds at chosen rates, T where none was."""
        return np.where((best < 0)[:, None], self.num_steps, self.capped[best[:, None], seeds])

    @property
    def everyone(self) -> np.ndarray:
        """(1, S) all seeds, as a set that chooses."""
        return np.arange(self.num_seeds)[None]

    @property
    def at_best(self) -> np.ndarray:
        """(S,) steps at the rate that all seeds choose."""
        return self.at(self.best(self.everyone), self.everyone)[0]

    def half(self, parity: int) -> Side:
        """The side with every second rate alone, from the first or from the second on."""
        chosen = slice(parity, None, 2)
        return Side(self.rates[chosen], self.steps[chosen], self.lost[chosen], self.num_steps)


def speed_up(base: Side, model: Side) -> float:
    """Median steps of one model over another's, each at its own best learning rate.

    Half of the seeds choose the rate by which the other half is judged, and the other way round: a
    rate that is lucky with the seeds it was chosen by gains nothing. The value is the median over
    random halvings. Fewer than `FEWEST` seeds all choose, and are judged.

    Args:
        base: The model compared with.
        model: The model; its seeds and rates need not be the base's.

    Returns:
        The ratio, above 1 if the model is faster.
    """
    if min(base.num_seeds, model.num_seeds) < FEWEST:
        return float(np.median(base.at_best) / np.median(model.at_best))
    rng = np.random.default_rng(0)
    return _cross_fitted(base, rng) / _cross_fitted(model, rng)


def of_speed_up(base: Side, model: Side) -> Bootstrap:
    """The speed-up of a model over another, resampled about its cross-fitted value.

    Every resample decides anew which rates are usable, chooses anew, and takes all rates, every
    second, or every other second one: what seeds, choice and the grid's resolution leave open is
    in it. Of fewer than `FEWEST` seeds the draws are the ratios that pairs of seeds give.

    Args:
        base: The model compared with.
        model: The model; its seeds and rates need not be the base's.
    """
    value, seeds = speed_up(base, model), min(base.num_seeds, model.num_seeds)
    if seeds < FEWEST:
        ratios = base.at_best[:, None] / model.at_best[None, :]
        return Bootstrap(value, ratios.ravel(), seeds)
    rng = np.random.default_rng(1)
    drawn = [_resampled(side, rng) for side in (base, model)]
    return Bootstrap(value, value * drawn[0] / drawn[1], seeds)


def _cross_fitted(side: Side, rng: np.random.Generator) -> float:
    """Median steps, each half of the seeds at the rate that the other half chooses."""
    S = side.num_seeds
    order = np.argsort(rng.random((_SPLITS, S)), axis=1)
    halves = order[:, : S // 2], order[:, S // 2 :]
    judged = [side.at(side.best(chooser), judge) for chooser, judge in (halves, halves[::-1])]
    return float(np.median(np.median(np.concatenate(judged, axis=1), axis=1)))


def _resampled(side: Side, rng: np.random.Generator) -> np.ndarray:
    """(resamples,) median steps at the best rate of resampled seeds, over those of all seeds."""
    L, S = len(side.rates), side.num_seeds
    drawn = rng.integers(S, size=(_RESAMPLES, S))
    # 0 and 1: every second rate from there on; 2: all.
    grid = rng.integers(3, size=_RESAMPLES) if L >= FEWEST else np.full(_RESAMPLES, 2)
    allowed = (grid[:, None] == 2) | (np.arange(L)[None] % 2 == grid[:, None])
    return np.median(side.at(side.best(drawn, allowed), drawn), axis=1) / np.median(side.at_best)
