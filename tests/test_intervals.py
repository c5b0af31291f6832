"""Coverage of intervals where the true value is known."""

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from marks import param

from implicit_accel.intervals import (
    MIN_SEEDS,
    MOST_DIVERGED,
    ModelRuns,
    of_measure,
    of_median,
    of_share,
    of_speed_up,
    simultaneous,
)

INF = math.inf


def covers(hits: int, draws: int) -> bool:
    """Whether so many hits are what a coverage of 93 to 98 % gives, within four deviations."""
    slack = 4 * math.sqrt(0.05 * 0.95 / draws)
    return 0.93 - slack <= hits / draws <= 0.98 + slack


@pytest.mark.parametrize("seeds", [6, 7, 8, 10, 20, 30, 100])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_medians_are_covered_whatever_the_distribution(seeds, spread):
    rng = np.random.default_rng(seeds)
    draws = np.exp(spread * rng.standard_normal((2000, seeds)))
    found = [of_median(x) for x in draws]
    assert covers(sum(i.low <= 1 <= i.high for i in found), 2000)


def test_a_medians_interval_is_that_of_order_statistics():
    """SciPy's has whole order statistics: of eight, [x2, x7] with 93.0 %, the range with 99.2 %."""
    x = np.arange(1.0, 9.0)
    for confidence in (0.9296875, 0.9921875):
        found = of_median(x, confidence)
        whole = scipy.stats.quantile_test(x, q=4).confidence_interval(confidence - 1e-9)
        assert (found.low, found.high) == pytest.approx((whole.low, whole.high))
    assert x[0] < of_median(x).low < x[1]
    wide = of_median(x, 0.9999)
    assert (wide.low, wide.high) == (-INF, INF)


@given(st.lists(st.floats(-1e6, 1e6), min_size=MIN_SEEDS, max_size=40), st.floats(0.5, 0.96))
def test_an_interval_holds_its_median_and_widens_with_confidence(values, confidence):
    x = np.array(values)
    found, wider = of_median(x, confidence), of_median(x, (1 + confidence) / 2)
    assert found.low <= found.value <= found.high
    assert wider.low <= found.low
    assert found.high <= wider.high


def test_what_never_happens_is_a_value_and_few_seeds_have_a_range():
    x = np.array([3.0, 1.0, INF, INF, INF, INF, INF, INF])
    found = of_median(x)
    assert (found.value, found.high) == (INF, INF)
    assert found.low >= 1
    few = of_median(x[:3])
    assert (few.value, few.low, few.high) == (3, 1, INF)
    assert math.isnan(few.confidence)


@pytest.mark.parametrize("seeds", [1, 7, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_shares_have_wilson_s_interval(seeds, confidence):
    for count in range(seeds + 1):
        found = of_share(np.arange(seeds) < count, confidence)
        ours = scipy.stats.binomtest(count, seeds).proportion_ci(confidence, method="wilson")
        assert found.value == pytest.approx(count / seeds)
        np.testing.assert_allclose([found.low, found.high], [ours.low, ours.high], atol=1e-12)


@pytest.mark.parametrize("seeds", [30, 100, 200])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_shares_are_covered(seeds, share):
    """Exactly: by the binomial distribution's probabilities of every count."""
    covered = 0.0
    for count in range(seeds + 1):
        found = of_share(np.arange(seeds) < count)
        covered += (found.low <= share <= found.high) * scipy.stats.binom.pmf(count, seeds, share)
    # Counts are whole numbers: no interval covers exactly 95 %.
    assert 0.93 <= covered <= 0.98


@pytest.mark.parametrize("seeds", [10, param(30), param(100)])
def test_ratios_of_spreads_are_covered(seeds):
    rng = np.random.default_rng(seeds)
    hits = 0
    for _ in range(150):
        a, b = 2 * rng.standard_normal((4, seeds)), rng.standard_normal((4, seeds))

        def ratio(chosen: np.ndarray, a: np.ndarray = a, b: np.ndarray = b) -> float:
            spreads = [np.std(x[:, chosen], axis=1, ddof=1).mean() for x in (a, b)]
            return float(spreads[0] / spreads[1])

        found = of_measure(ratio, seeds).at()
        hits += found.low <= 2 <= found.high
    assert covers(hits, 150)


def model(rng, seeds, *, steps, edge, noise, offset=0.0) -> ModelRuns:
    """Steps fall with the rate until a seed diverges, each at a rate of its own about 1.

    Args:
        rng: For the draws.
        seeds: How many.
        steps: Median steps at rate 1.
        edge: Standard deviation of the logarithm of the rates at which seeds begin to diverge.
        noise: That of the steps'.
        offset: Shifts the grid, whose steps are 2 % about the best rate and 10 % elsewhere.
    """
    best = edge * scipy.stats.norm.ppf(MOST_DIVERGED)
    logs = np.union1d(np.arange(-3, 1.2, 0.1), np.arange(-10, 11) * 0.02 + best) + offset
    rates = np.exp(logs)
    lost = rates[:, None] > np.exp(edge * rng.standard_normal(seeds))
    values = steps / rates[:, None] * np.exp(noise * rng.standard_normal(seeds))
    return ModelRuns(rates, np.where(lost, INF, values), lost, 1e6)


@pytest.mark.parametrize(
    ("seeds", "edge", "noise"),
    [(10, 0.1, 0.1), param(20, 0.1, 0.3), param(30, 0.2, 0.05)],
)
def test_speed_ups_are_covered_with_the_choice_of_the_rate_in_them(seeds, edge, noise):
    rng = np.random.default_rng(seeds)
    hits, draws, least = 0, 50, scipy.stats.norm.ppf(MOST_DIVERGED)
    truth = 4 * math.exp(0.05 * least - edge * least)
    values = []
    for _ in range(draws):
        shifts = rng.uniform(0, 0.02, size=2)
        base = model(rng, seeds, steps=1000, edge=edge, noise=noise, offset=shifts[0])
        deep = model(rng, seeds, steps=250, edge=0.05, noise=0.1, offset=shifts[1])
        found = of_speed_up(base, deep).at()
        values.append(found.value / truth)
        hits += found.low <= truth <= found.high
    assert covers(hits, draws)
    assert np.median(values) == pytest.approx(1, abs=0.06)


def test_usable_rates_are_those_at_which_a_tenth_diverges_by_a_normal_fit():
    rng = np.random.default_rng(4)
    rates = np.geomspace(0.01, 1, 30)
    thresholds = 0.2 * np.exp(0.3 * rng.standard_normal(9))
    runs = ModelRuns(rates, np.ones((30, 9)), rates[:, None] > thresholds, 1e6)
    begins = []
    for threshold in thresholds:
        below, above = rates[rates <= threshold].max(), rates[rates > threshold].min()
        begins.append(math.log(math.sqrt(below * above)))
    for seeds in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 5, 7]):
        own = [begins[s] for s in seeds]
        share = scipy.stats.norm.cdf(
            np.log(rates), statistics.fmean(own), max(statistics.stdev(own), 1e-12)
        )
        assert runs.usable(np.array([seeds]))[0].tolist() == (share <= MOST_DIVERGED).tolist()


def test_a_model_that_never_diverges_may_take_any_rate_and_one_that_always_does_none():
    rates, steps = np.array([0.1, 0.2, 0.4]), np.ones((3, 8))
    for diverged, usable in ((False, [True] * 3), (True, [False] * 3)):
        runs = ModelRuns(rates, steps, np.full((3, 8), diverged), 10)
        assert runs.usable(runs.all_seeds)[0].tolist() == usable
        assert runs.best(runs.all_seeds).tolist() == [0 if not diverged else -1]


def test_no_lucky_rate_wins_and_none_is_hopeless():
    """Where rates are alike but for noise, the best of many looks better than it is."""
    rates, never = np.geomspace(0.1, 1, 40), np.zeros((40, 12), bool)
    even = ModelRuns(rates, np.full((40, 12), 1000.0), never, 1e6)
    plain, fair = [], []
    for draw in range(12):
        steps = 1000 * np.exp(np.random.default_rng(draw).standard_normal((40, 12)))
        plain.append(1000 / np.median(steps, axis=1).min())
        fair.append(of_speed_up(even, ModelRuns(rates, steps, never, 1e6)).value)
    assert np.exp(np.mean(np.log(plain))) > 1.9
    assert abs(np.mean(np.log(fair))) < 4 * 0.3 / math.sqrt(12)
    lost = ModelRuns(rates, np.full((40, 12), INF), ~never, 1e6)
    assert of_speed_up(even, lost).value == pytest.approx(1000 / 1e6)


def test_parts_together():
    assert simultaneous(1) == pytest.approx(0.95)
    assert simultaneous(10) == pytest.approx(0.995)
