"""Confidence intervals. The measured coverage of the nominal 95 % intervals is 93–98 %.

Every function takes the confidence as an argument, so that the parts of a claim can be tested
together (`simultaneous`). With fewer than `MIN_SEEDS` seeds, the range is reported instead of a
confidence interval, and `Interval.confidence` is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special  # scipy.stats has the same, and takes a second to import
from jaxtyping import Bool, Float, Int, Num

# With fewer values than this even their range is no 95 % interval of the median: the median lies
# outside with probability 2^(1−n), which is 6 % at n = 5.
MIN_SEEDS = 6

CONFIDENCE = 0.95

_RESAMPLES = 2000
_SPLITS = 101

# A learning rate is usable if at most this share of its runs diverges before the target.
MOST_DIVERGED = 0.1
_MOST_DIVERGED_QUANTILE = float(scipy.special.ndtri(MOST_DIVERGED))


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end; −inf where there are too few data for this confidence.
        high: Upper end; inf likewise.
        confidence: Of the interval; NaN if the ends are the range of too few seeds.
    """

    value: float
    low: float
    high: float
    confidence: float


def simultaneous(parts: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each interval with which all of several hold jointly (Bonferroni)."""
    return 1 - (1 - confidence) / max(parts, 1)


def of_median(values: Num[np.ndarray, " seeds"], confidence: float = CONFIDENCE) -> Interval:
    """The median's interval from order statistics, interpolated (Hettmansperger & Sheather 1986).

    It assumes nothing about the distribution. Values may be infinite, for runs that do not reach
    the target.

    Args:
        values: One per seed, at least one.
        confidence: Between 0 and 1.

    Returns:
        The median with its interval; with fewer than `MIN_SEEDS` values their range.
    """
    x = np.sort(np.asarray(values, float))
    n, value = len(x), float(np.median(x))
    if n < MIN_SEEDS:
        return Interval(value, float(x[0]), float(x[-1]), math.nan)
    # coverage[d-1]: probability that the median lies between the d-th value and the d-th last.
    d = np.arange(1, n // 2 + 1)
    coverage = 1 - 2 * scipy.special.bdtr(d - 1, n, 0.5)
    enough = np.flatnonzero(coverage >= confidence)
    if not len(enough):
        return Interval(value, -math.inf, math.inf, confidence)
    k = int(enough[-1])
    if k + 1 == len(d):
        return Interval(value, float(x[k]), float(x[n - 1 - k]), confidence)
    share = (coverage[k] - confidence) / (coverage[k] - coverage[k + 1])
    inwards = (n - d[k]) * share / (d[k] + (n - 2 * d[k]) * share)
    low = _between(x[k], x[k + 1], inwards)
    high = _between(x[n - 1 - k], x[n - 2 - k], inwards)
    return Interval(value, low, high, confidence)


def _between(outer: float, inner: float, inwards: float) -> float:
    """Interpolates between two order statistics; an infinite outer one stays as it is."""
    if outer == inner or math.isinf(outer):
        return float(outer)
    return float((1 - inwards) * outer + inwards * inner)


def of_share(happened: Bool[np.ndarray, " seeds"], confidence: float = CONFIDENCE) -> Interval:
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
        size: How many seeds were resampled; with fewer than `MIN_SEEDS`, intervals are the draws'
            range.
    """

    value: float
    draws: Float[np.ndarray, " resamples"]
    size: int

    def at(self, confidence: float = CONFIDENCE) -> Interval:
        """The percentile interval, widened to contain the estimate.

        The quantiles are those of a t-distribution, mapped to a normal's: plain percentiles are too
        narrow with few seeds (Hesterberg 2015, "expanded percentiles").

        Args:
            confidence: Between 0 and 1.
        """
        if self.size < MIN_SEEDS:
            low, high = float(self.draws.min()), float(self.draws.max())
            return Interval(self.value, low, high, math.nan)
        n = self.size
        t = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * math.sqrt(n / (n - 1))
        tails = float(scipy.special.ndtr(-t)), float(scipy.special.ndtr(t))
        # inverted_cdf returns one of the draws: interpolating between a number and inf gives NaN.
        low, high = (
            float(np.quantile(np.where(np.isnan(self.draws), end, self.draws), tail,
                              method="inverted_cdf"))
            for end, tail in zip((-np.inf, np.inf), tails, strict=True)
        )  # fmt: skip
        return Interval(self.value, min(low, self.value), max(high, self.value), confidence)


def of_measure(measure: Callable[[Int[np.ndarray, " repeats"]], float], repeats: int) -> Bootstrap:
    """A statistic of some repeats with its bootstrap.

    Args:
        measure: Takes the numbers of the chosen repeats, returns a number (or ±inf).
        repeats: Number of repeats.
    """
    rng = np.random.default_rng(0)
    draws = [measure(rng.integers(repeats, size=repeats)) for _ in range(_RESAMPLES // 2)]
    return Bootstrap(measure(np.arange(repeats)), np.array(draws), repeats)


@dataclass(frozen=True)
class ModelRuns:
    """The runs of a model at every learning rate, for a comparison with another model.

    Attributes:
        rates: (L,) learning rates, ascending.
        steps: (L, S) steps to the target, by rate and seed; inf for runs that do not reach it.
        diverged_before_target: (L, S) whether a run diverged before it reached the target.
        num_steps: T, the runs' length; runs that do not reach the target count with T.
    """

    rates: Float[np.ndarray, " L"]
    steps: Float[np.ndarray, "L S"]
    diverged_before_target: Bool[np.ndarray, "L S"]
    num_steps: float

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.steps.shape[1]

    @property
    def capped(self) -> Float[np.ndarray, "L S"]:
        """(L, S) steps, at least 1 and at most the runs' length.

        Runs that miss the target are censored at ``nextafter(num_steps)``, so that ties favour
        rates at which runs reach it at the last step.
        """
        reached = np.isfinite(self.steps)
        return np.where(
            reached, np.clip(self.steps, 1, self.num_steps), np.nextafter(self.num_steps, np.inf)
        )

    @property
    def divergence_log_rates(self) -> Float[np.ndarray, " S"]:
        """(S,) log rate at which each seed begins to diverge.

        It is midway between the smallest rate at which the seed diverges and the rate below that.
        The grid is continued by its last step at both ends, for seeds that diverge at every rate or
        at none.
        """
        log_rates = np.log(self.rates)
        L = len(log_rates)
        beyond = 2 * log_rates[-1] - log_rates[-2] if L > 1 else log_rates[-1] + 1
        edges = np.concatenate([log_rates, [beyond]])
        below = edges[0] - (edges[-1] - edges[-2])
        midpoints = edges - np.diff(edges, prepend=below) / 2
        diverged = self.diverged_before_target
        first = np.where(diverged.any(axis=0), diverged.argmax(axis=0), L)
        return midpoints[first]

    def usable(self, seeds: Int[np.ndarray, "B n"]) -> Bool[np.ndarray, "B L"]:
        """Which rates may be chosen: those at which at most a tenth of the runs diverges.

        The share of diverged runs among a few seeds would admit or exclude a rate by a single run.
        So the log rate at which a seed begins to diverge is taken as normally distributed over
        seeds, with mean μ and standard deviation σ of the choosing ones. A rate η is usable if

            Φ((log η − μ) / σ) ≤ 0.1,  that is  log η ≤ μ + Φ⁻¹(0.1) σ.

        Args:
            seeds: (B, n) sets of seeds that choose.

        Returns:
            (B, L) booleans.
        """
        begins = self.divergence_log_rates[seeds]
        spread = begins.std(axis=1, ddof=1) if seeds.shape[1] > 1 else np.zeros(len(seeds))
        largest = begins.mean(axis=1) + _MOST_DIVERGED_QUANTILE * spread
        return np.log(self.rates)[None] <= largest[:, None] + 1e-9

    def best(
        self, seeds: Int[np.ndarray, "B n"], allowed: Bool[np.ndarray, "B L"] | None = None
    ) -> Int[np.ndarray, " B"]:
        """The usable rates with the fewest median steps.

        Args:
            seeds: (B, n) sets of seeds that choose.
            allowed: (B, L) further restriction of the rates; all by default.

        Returns:
            (B,) positions of rates; −1 where none is usable.
        """
        usable = self.usable(seeds)
        usable = usable if allowed is None else usable & allowed
        medians = np.where(usable, np.median(self.capped[:, seeds], axis=2).T, np.inf)
        return np.where(usable.any(axis=1), np.argmin(medians, axis=1), -1)

    def steps_at(
        self, best: Int[np.ndarray, " B"], seeds: Int[np.ndarray, "B n"]
    ) -> Float[np.ndarray, "B n"]:
        """(B, n) steps of sets of seeds at positions of rates, T where the position is −1."""
        return np.where((best < 0)[:, None], self.num_steps, self.capped[best[:, None], seeds])

    @property
    def all_seeds(self) -> Int[np.ndarray, "1 S"]:
        """(1, S) all seeds, as a set that chooses."""
        return np.arange(self.num_seeds)[None]

    @property
    def steps_at_best_rate(self) -> Float[np.ndarray, " S"]:
        """(S,) steps at the rate that all seeds choose."""
        return self.steps_at(self.best(self.all_seeds), self.all_seeds)[0]

    def half(self, parity: int) -> ModelRuns:
        """The runs at every second rate, from the first (0) or the second (1) on."""
        chosen = slice(parity, None, 2)
        return ModelRuns(
            self.rates[chosen],
            self.steps[chosen],
            self.diverged_before_target[chosen],
            self.num_steps,
        )


def speed_up(base: ModelRuns, model: ModelRuns) -> float:
    """Median steps of one model over another's, each at its own best learning rate.

    Each half of the seeds is evaluated at the rate that the other half chooses: steps at a rate
    chosen by the same seeds would be biased downwards. The value is the median over random halves.
    Fewer than `MIN_SEEDS` seeds are not split.

    Args:
        base: The model compared with.
        model: The model; its seeds and rates need not be the base's.

    Returns:
        The ratio, above 1 if the model needs fewer steps.
    """
    if min(base.num_seeds, model.num_seeds) < MIN_SEEDS:
        return float(np.median(base.steps_at_best_rate) / np.median(model.steps_at_best_rate))
    rng = np.random.default_rng(0)
    return _cross_fitted(base, rng) / _cross_fitted(model, rng)


def of_speed_up(base: ModelRuns, model: ModelRuns) -> Bootstrap:
    """The speed-up of a model over another, resampled about its cross-fitted value.

    Every resample of the seeds determines the usable rates and chooses the best one anew, from all
    rates or from every second one. So the interval includes the uncertainty from the seeds, from
    the choice of the rate and from the grid's resolution. With fewer than `MIN_SEEDS` seeds the
    draws are the ratios of all pairs of seeds.

    Args:
        base: The model compared with.
        model: The model; its seeds and rates need not be the base's.
    """
    value, seeds = speed_up(base, model), min(base.num_seeds, model.num_seeds)
    if seeds < MIN_SEEDS:
        ratios = base.steps_at_best_rate[:, None] / model.steps_at_best_rate[None, :]
        return Bootstrap(value, ratios.ravel(), seeds)
    rng = np.random.default_rng(1)
    drawn = [_resampled(runs, rng) for runs in (base, model)]
    return Bootstrap(value, value * drawn[0] / drawn[1], seeds)


def _cross_fitted(runs: ModelRuns, rng: np.random.Generator) -> float:
    """Median steps, each half of the seeds at the rate that the other half chooses."""
    S = runs.num_seeds
    order = np.argsort(rng.random((_SPLITS, S)), axis=1)
    halves = order[:, : S // 2], order[:, S // 2 :]
    steps = [
        runs.steps_at(runs.best(choosing), evaluated)
        for choosing, evaluated in (halves, halves[::-1])
    ]
    return float(np.median(np.median(np.concatenate(steps, axis=1), axis=1)))


def _resampled(runs: ModelRuns, rng: np.random.Generator) -> Float[np.ndarray, " resamples"]:
    """(resamples,) median steps at the best rate of resampled seeds, over those of all seeds."""
    L, S = len(runs.rates), runs.num_seeds
    drawn = rng.integers(S, size=(_RESAMPLES, S))
    # 0 and 1: every second rate, from the first or the second on; 2: all rates. Few rates are not
    # thinned.
    grid = rng.integers(3, size=_RESAMPLES) if L >= MIN_SEEDS else np.full(_RESAMPLES, 2)
    allowed = (grid[:, None] == 2) | (np.arange(L)[None] % 2 == grid[:, None])
    steps = runs.steps_at(runs.best(drawn, allowed), drawn)
    return np.median(steps, axis=1) / np.median(runs.steps_at_best_rate)
