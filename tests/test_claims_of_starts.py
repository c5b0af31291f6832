"""Claims about starts: a planted effect passes each criterion, a planted absence fails it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from implicit_accel.claims.api import Claim, Found
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.criteria import Direction, Judged, Size, Verdict, judge
from implicit_accel.claims.drawing import colour_of
from implicit_accel.claims.effects import Coordinate
from implicit_accel.claims.estimators import median
from implicit_accel.claims.evaluate import judged_parts, measured
from implicit_accel.claims.published import f1, f2, f3, p1, p2, p5a
from implicit_accel.claims.published.bands import Scan, Scans, fast_band, scan_of
from implicit_accel.claims.published.rules import Pair, ratios
from implicit_accel.claims.published.theory import end_to_end_starts
from implicit_accel.data.problems import make_problem
from implicit_accel.linear import Loss, SweepConfig, gas_like

INF = math.inf


def judged(verdict: Verdict, measure: str, **at: Coordinate) -> list[Judged]:
    """The parts about a measure, at some coordinates."""
    keys = [(j, j.part.effect.key) for j in verdict.parts]
    found = [j for j, key in keys if key is not None and key.matches(measure, at)]
    assert found, (measure, at)
    return found


def answers(verdict: Verdict, measure: str, **at: Coordinate) -> set[Direction]:
    """The directions of the parts about a measure."""
    return {j.direction for j in judged(verdict, measure, **at)}


def sizes(verdict: Verdict, measure: str, **at: Coordinate) -> set[Size]:
    """The sizes of the parts about a measure."""
    return {j.size for j in judged(verdict, measure, **at)}


def verdict_on(claim: Claim, runs: Any) -> Verdict:
    """A claim's verdict on the runs of one problem."""
    context = Context(Scale.STANDARD, Path("unused"), Path("unused"))
    effects = measured(claim.measures, Found(runs={"x": runs}), context)
    return judge(judged_parts(claim, effects, "x"))


# P1


def pair(rng, *, slower=1.0, later=0.0, factor=1.0, seeds=12) -> Pair:
    """A network that stays on a plateau, then decays, and a rule.

    The network decays ``slower`` times as slowly, starts ``later`` (in steps), and its loss is
    a factor of what that makes.
    """
    steps = np.unique(np.round(np.geomspace(1, 30_000, 600))).astype(int)
    start = 4000 * np.exp(0.3 * rng.standard_normal((seeds, 1)))

    def curve(start, slower):
        return 1 / (1 + np.exp((steps - start) / (500 * slower)))

    network = factor * curve(start + later, slower)
    rule = curve(start, 1.0)
    return Pair(steps, np.minimum(network, 1.0), rule, float(np.max(rule)))


def meeting(rng, power: float) -> dict[float, Pair]:
    """Pairs at falling rates whose losses come together as the rate to a power."""
    found = {}
    for rate in p1.RATES:
        # In time, steps times rate: the same curve at every rate.
        steps = np.unique(np.round(np.geomspace(1, 4 / rate, 700))).astype(int)
        rule = np.exp(-steps * rate)[None] * np.ones((12, 1))
        apart = 100 * rate**power * (1 + 0.05 * rng.standard_normal((12, 1)))
        found[rate] = Pair(steps, rule * np.exp(apart), rule, 1.0)
    return found


def runs_of_p1(rng, power=1.0, knowing=None, **planted) -> p1.Runs:
    """All that P1 compares: paper's rule, rule with imbalance, and the balanced control."""
    runs: p1.Runs = {}
    for p, depth in ((p, depth) for p in (2, 4) for depth in (2, 3)):
        for width in (1, 100):
            runs[p1.PAPERS, p, depth, width, 1e-3] = pair(rng, **planted)
        runs[p1.IMBALANCE, p, depth, 1, 1e-3] = pair(rng, **(knowing or {}))
        for rate, found in meeting(rng, power).items():
            runs[p1.BALANCED, p, depth, 1, rate] = found
    return runs


def test_p1_holds_where_the_rule_is_the_network(rng):
    verdict = verdict_on(p1.CLAIM, runs_of_p1(rng, slower=1.002))
    assert len(verdict.parts) == 36
    assert verdict.holds


@pytest.mark.parametrize(
    ("planted", "measure", "at"),
    [
        ({"slower": 1.3}, "steps after the plateau", {}),
        ({"later": 1500.0}, "steps to half", {"method": p1.PAPERS}),
        ({"factor": 0.8}, "distance", {"method": p1.PAPERS}),
        ({"power": 0.0}, "power of the rate", {}),
        ({"power": 2.0}, "power of the rate", {}),
        ({"knowing": {"later": 1500.0}}, "steps to half", {"method": p1.IMBALANCE}),
    ],
)
def test_p1_fails_where_they_part(rng, planted, measure, at):
    verdict = verdict_on(p1.CLAIM, runs_of_p1(rng, **planted))
    assert not verdict.holds
    assert answers(verdict, measure, **at) == {Direction.OPPOSITE}


def test_p1_tells_the_plateau_from_what_follows(rng):
    verdict = verdict_on(p1.CLAIM, runs_of_p1(rng, later=1500.0))
    assert answers(verdict, "steps after the plateau") == {Direction.AS_CLAIMED}
    assert answers(verdict, "steps to half", method=p1.PAPERS) == {Direction.OPPOSITE}


def test_p1_leaves_out_no_seed():
    ours = np.array([2.0, INF, 3.0, INF, 0.0])
    theirs = np.array([1.0, 5.0, INF, INF, 0.0])
    assert ratios(ours, theirs).tolist() == [2.0, INF, 0.0, INF, 1.0]
    few = median(ratios(np.full(12, INF), np.full(12, INF)))
    assert few.value == INF


def test_the_order_in_the_rate_is_the_planted_one(rng):
    for power in (0.5, 1.0, 2.0):
        found = p1.order_in_the_rate(runs_of_p1(rng, power), 2, 3)
        assert found.value == pytest.approx(power, abs=0.15)


# P2


@pytest.mark.parametrize(("depth", "width"), [(2, 16), (3, 4), (3, 64)])
def test_matched_initialisations_have_end_to_end_matrices_of_one_norm(depth, width):
    problem = make_problem(gas_like())

    def norm(init: str, width: int) -> float:
        _, std = p2.initialiser(init, depth, width)
        config = SweepConfig(
            depths=(depth,), hidden_widths=(width,), losses=(Loss(2),), init_stds=(std,),
            num_seeds=400,
        )  # fmt: skip
        return float(np.sqrt(np.mean(np.square(end_to_end_starts(problem, config)))))

    assert norm("same-norm", width) == pytest.approx(norm("same-norm", 1), rel=0.15)
    # At one standard deviation it grows with the root of the width for every further layer.
    grown = norm("same-std", width) / norm("same-std", 1)
    assert grown == pytest.approx(width ** ((depth - 1) / 2), rel=0.15)


@pytest.mark.parametrize("depth", [2, 3])
def test_balanced_initialisations_are_one_matrix_at_every_width(depth):
    problem = make_problem(gas_like())
    kind, std = p2.initialiser("balanced", depth, 1)
    products = []
    for width in (1, 10):
        assert p2.initialiser("balanced", depth, width) == (kind, std)
        config = SweepConfig(
            depths=(depth,), hidden_widths=(width,), inits=(kind,), init_stds=(std,),
            losses=(Loss(2),), num_seeds=2,
        )  # fmt: skip
        products.append(end_to_end_starts(problem, config))
    np.testing.assert_allclose(*products, rtol=1e-10)


def widths(rng, faster: dict[str, float]) -> p2.Runs:
    """Results in which widths above 1 are so much faster, by initialisation."""
    rates = np.geomspace(1e-3, 0.1, 8)
    found = {}
    for init in p2.INITS:
        for depth in (2, 3):
            for width in (1, 10, 100):
                speed = 1.0 if width == 1 else faster.get(init, 1.0)
                noise = np.exp(0.02 * rng.standard_normal((2, 8, 24)))
                steps = np.round(30 / rates[None, :, None] / speed * noise)
                lost = np.full(steps.shape, np.nan)
                steps[:, -1], lost[:, -1] = INF, 5.0
                axes = ("model", "learning_rate", "seed")
                hidden = "x".join([str(width)] * (depth - 1))
                found[init, depth, width] = xr.Dataset(
                    {
                        "steps_to_target": (axes, steps), "divergence_step": (axes, lost),
                        "excess_loss": ((*axes, "step"), np.ones((*steps.shape, 1))),
                    },
                    coords={
                        "model": [0, 1], "learning_rate": rates, "seed": range(24),
                        "loss_name": ("model", ["l2", "l4"]),
                        "hidden_widths": ("model", [hidden] * 2),
                    },
                    attrs={"num_steps": 40_000},
                )  # fmt: skip
    return found


def test_p2_holds_where_widths_are_alike(rng):
    verdict = verdict_on(p2.CLAIM, widths(rng, {}))
    assert len(verdict.parts) == 24
    assert verdict.holds


@pytest.mark.parametrize("init", p2.INITS)
def test_p2_fails_for_the_initialisation_with_which_width_matters(rng, init):
    runs = widths(rng, {init: 2.0})
    verdict = verdict_on(p2.CLAIM, runs)
    for other in p2.INITS:
        expected = Direction.OPPOSITE if other == init else Direction.AS_CLAIMED
        assert answers(verdict, "speed-up over width 1", init=other) == {expected}
        speed = 2.0 if other == init else 1.0
        assert p2.largest(runs, other, 3).value == pytest.approx(speed, rel=0.05)


# P5a


def planted_moves(rng, middle: float, deep: float = INF) -> p5a.Runs:
    """300 trained seeds of each network, whose median first moves are planted."""

    def moves(middle: float) -> p5a.Moves:
        return p5a.Moves(middle * np.exp(rng.standard_normal(300)), 0.1, 1e9)

    medians = {4: middle, 8: deep}
    return {
        (method, p, depth): moves(medians[depth])
        for method in (p5a.BEST, p5a.LAW)
        for p in (2, 4)
        for depth in (4, 8)
    }


def test_p5a_holds_where_its_numbers_are_typical(rng):
    verdict = verdict_on(p5a.CLAIM, planted_moves(rng, 65_000))
    assert len(verdict.parts) == 6
    assert verdict.holds


@pytest.mark.parametrize(("middle", "size"), [(65.0, Size.SMALLER), (1e8, Size.LARGER)])
def test_p5a_fails_where_no_seed_is_near_the_number(rng, middle, size):
    verdict = verdict_on(p5a.CLAIM, planted_moves(rng, middle))
    assert answers(verdict, "seeds that have moved", depth=4) == {Direction.OPPOSITE}
    assert sizes(verdict, "first move") == {size}


def test_p5a_fails_where_depth_8_moves(rng):
    verdict = verdict_on(p5a.CLAIM, planted_moves(rng, 65_000, deep=90_000))
    assert answers(verdict, "seeds that have moved", depth=8) == {Direction.OPPOSITE}


def test_p5a_size_and_direction_are_two_answers(rng):
    verdict = verdict_on(p5a.CLAIM, planted_moves(rng, 200_000))
    assert verdict.directions == {Direction.AS_CLAIMED}
    assert sizes(verdict, "first move") == {Size.LARGER}


def test_p5a_trained_moves_are_compared_with_the_laws_up_to_the_runs_length():
    law = p5a.Moves(np.array([100.0, 200.0, 5000.0, 300.0]), 0.1)
    # The third seed moves after the runs' length of 1000 steps, the fourth never.
    trained = p5a.Moves(np.array([110.0, 220.0, INF, INF]), 0.1, 1000)
    runs = {(p5a.BEST, 2, 4): trained, (p5a.LAW, 2, 4): law}
    found = p5a.trained_over_law(runs, 2, 4)
    assert found is not None
    assert found.value == pytest.approx(1.1)  # the median of 1.1, 1.1, 1 and 1000/300
    assert p5a.trained_over_law({**runs, (p5a.BEST, 2, 4): law}, 2, 4) is None
    assert p5a.rate_of_number(runs, 2, 4).value == pytest.approx(250 * 0.1 / 65_000)


# F1, F2, F3


def scan(rng, steps: np.ndarray, stds: np.ndarray, cap=10_000.0) -> Scan:
    """Two rates, of which the second is three times as slow; eight seeds."""
    noise = np.exp(0.03 * rng.standard_normal((len(stds), 2, 8)))
    found = steps[:, None, None] * np.array([1.0, 3.0])[None, :, None] * noise
    return Scan(stds, np.where(found <= cap, found, INF), np.array([0.1, 0.03]), cap)


STDS = np.geomspace(1e-4, 1, 25)


def planted_scans(rng, *, power=-1.0, wall=-6.0, balanced=(14.0, 38.0), hurts=0.0) -> Scans:
    """Layer-wise: steps fall with a power below 0.07, and rise beyond; balanced: nearly flat."""

    def layer_wise(fewest, power, centre):
        x = np.log10(STDS / centre)
        return fewest * 10 ** np.clip(np.where(x < 0, power * x, 6 * x), None, 10)

    return {
        ("layer-wise", 3): scan(rng, layer_wise(10, power, 0.07), STDS),
        ("layer-wise", 8): scan(rng, layer_wise(70, wall, 0.1), STDS),
        ("balanced", 3): scan(rng, balanced[0] * STDS**-0.05, STDS),
        ("balanced", 8): scan(
            rng, np.where(10 ** (4 * hurts - 4) > STDS, INF, balanced[1] * STDS**-0.1), STDS
        ),
    }


def test_f1_holds_for_a_band_between_slow_ends(rng):
    scans = planted_scans(rng)
    verdict = verdict_on(f1.CLAIM, scans)
    assert len(verdict.parts) == 8
    assert verdict.holds
    assert f1.exponent(scans, 3).value == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize(
    ("planted", "measure", "at"),
    [
        ({"power": 0.0}, "steps over the fewest", {"depth": 3, "std": 1e-4}),
        ({"power": 0.2}, "exponent of the steps", {}),
        ({"wall": -0.3}, "depth 8's band over depth 3's", {}),
        ({"wall": -0.3}, "steps over the fewest", {"depth": 8, "std": 1e-4}),
    ],
)
def test_f1_fails_where_it_is_planted_to(rng, planted, measure, at):
    verdict = verdict_on(f1.CLAIM, planted_scans(rng, **planted))
    assert answers(verdict, measure, **at) == {Direction.OPPOSITE}


def test_f1_fails_without_a_band_and_without_a_slow_upper_end(rng):
    scans = planted_scans(rng)
    never = scan(rng, np.full(len(STDS), 2000.0), STDS)
    flat = scan(rng, np.full(len(STDS), 200.0), STDS)
    without = verdict_on(f1.CLAIM, scans | {("layer-wise", 3): never})
    assert Direction.AS_CLAIMED not in answers(without, "band", depth=3)
    level = verdict_on(f1.CLAIM, scans | {("layer-wise", 8): flat})
    assert answers(level, "steps over the fewest", depth=8, std=1) == {Direction.OPPOSITE}


def test_f1_an_end_that_never_converges_is_a_bound(rng):
    scans = planted_scans(rng)
    assert f1.slowing(scans, 3, 1.0).bound == ">"
    assert f1.slowing(scans, 3, 1.0).value == pytest.approx(1000, rel=0.2)
    # 0.0001 is 10^2.85 times below the best standard deviation, at a power of −1.
    assert not f1.slowing(scans, 3, 1e-4).bound
    assert f1.slowing(scans, 3, 1e-4).value == pytest.approx(700, rel=0.2)


def test_f1_slopes_of_another_power_are_no_size_of_the_laws(rng):
    verdict = verdict_on(f1.CLAIM, planted_scans(rng, power=-0.6))
    assert sizes(verdict, "exponent of the steps") == {Size.LARGER}


def test_f2_holds_where_depth_costs_what_the_condition_numbers_say(rng):
    assert math.isclose(f2.LAW, math.log(0.5) / math.log(7 / 9))
    verdict = verdict_on(f2.CLAIM, planted_scans(rng))
    assert len(verdict.parts) == 4
    assert verdict.holds


def test_f2_fails_where_depth_hurts(rng):
    cost = "cost of depth over the law's"
    dear = verdict_on(f2.CLAIM, planted_scans(rng, balanced=(14.0, 200.0)))
    assert answers(dear, cost) == {Direction.OPPOSITE}
    narrow = verdict_on(f2.CLAIM, planted_scans(rng, hurts=0.7))
    assert answers(narrow, "depth 8's band over depth 3's") == {Direction.OPPOSITE}
    cheap = verdict_on(f2.CLAIM, planted_scans(rng, balanced=(14.0, 14.0)))
    assert answers(cheap, cost) == {Direction.AS_CLAIMED}


def test_f2_fails_where_balance_widens_nothing(rng):
    scans = planted_scans(rng)
    same = {("balanced", depth): scans["layer-wise", depth] for depth in (3, 8)}
    verdict = verdict_on(f2.CLAIM, scans | same)
    assert Direction.AS_CLAIMED not in answers(verdict, "gain of the balanced band")


def test_rates_at_which_most_seeds_fail_are_not_chosen():
    # One of eight converges at the higher rate, at half of the steps; the others diverge.
    steps = np.stack([np.full(8, 14.0), np.where(np.arange(8) == 0, 7.0, INF)])
    axes = ("model", "learning_rate", "seed")
    lost = np.where(np.isfinite(steps), np.nan, 3.0)
    results = xr.Dataset(
        {"steps_to_target": (axes, steps[None]), "divergence_step": (axes, lost[None])},
        coords={
            "model": [0], "learning_rate": [0.5, 1.0], "seed": range(8),
            "depth": ("model", [3]), "init_std": ("model", [0.1]),
        },
        attrs={"num_steps": 100},
    )  # fmt: skip
    found = scan_of(results, 3)
    assert found.medians(np.zeros(8, int)).tolist() == [14.0]


def test_bands_end_where_the_steps_cross_the_limit():
    stds = np.array([1e-3, 1e-2, 1e-1, 1.0])
    decades, ends = fast_band(stds, np.array([10_000.0, 100.0, 10.0, INF]))
    assert decades == pytest.approx(0.5 + 1 + 0.5)
    assert ends == "0.0032 to 0.32"
    # With a limit of 100 steps the lower edge is the standard deviation 0.01.
    assert fast_band(stds, np.array([10_000.0, 100.0, 10.0, INF]), 100)[0] == pytest.approx(1.5)
    decades, ends = fast_band(stds, np.array([10.0, 100.0, 2000.0, INF]))
    assert decades == pytest.approx(1 + math.log(10) / math.log(20))
    assert ends.startswith("0.001 to")
    assert ends.endswith("lower end)")
    assert fast_band(stds, np.full(4, INF)) == (0.0, "none")


def imbalance(rng, share: float, growth: float) -> xr.Dataset:
    """Ten seeds whose imbalance is at most a share of the layers' norm, and grows by a factor."""
    steps = np.arange(20)
    curve = np.geomspace(1, growth, 20)[None] * np.exp(0.02 * rng.standard_normal((10, 1)))
    axes = ("seed", "observation_step")
    norm = np.full((10, 20), curve.max() / share)
    return xr.Dataset(
        {"imbalance": (axes, curve), "layer_norm": (axes, norm)},
        coords={"observation_step": steps, "init_std": 0.01, "learning_rate": 0.1},
    )


@pytest.mark.parametrize(
    ("share", "growth", "small", "conserved"),
    [
        (0.05, 1.02, Direction.AS_CLAIMED, Direction.AS_CLAIMED),
        (0.5, 1.02, Direction.OPPOSITE, Direction.AS_CLAIMED),
        (0.05, 4.0, Direction.AS_CLAIMED, Direction.OPPOSITE),
    ],
)
def test_f3_by_planted_imbalance(rng, share, growth, small, conserved):
    runs = {
        (init, depth): imbalance(rng, share, growth)
        for init in ("balanced", "layer-wise")
        for depth in (3, 8)
    }
    verdict = verdict_on(f3.CLAIM, runs)
    assert len(verdict.parts) == 4
    assert answers(verdict, "largest relative imbalance", init="balanced") == {small}
    assert answers(verdict, "largest imbalance over the first", init="layer-wise") == {conserved}
    # The last of a growing curve is its largest: at the planted share, up to the seeds' spread.
    assert f3.last(runs, "layer-wise", 3).value == pytest.approx(share, rel=0.1)


def test_depths_have_colours_of_their_own():
    colours = [colour_of(depth) for depth in (1, 2, 3, 4, 8)]
    assert len(set(colours)) == 5
