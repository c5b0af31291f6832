"""Searches for learning rates, on curves whose best is known and on networks."""

from __future__ import annotations

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from programs import replaced
from programs import run as program
from test_fixtures import falls

import implicit_accel as ia
from implicit_accel import rates as rates_module
from implicit_accel.errors import UserError
from implicit_accel.experiment import AtOwnRates, chosen_runs
from implicit_accel.intervals import of_share
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.rates import coarse_rates, history, joined, next_own_rates, next_rates, search
from implicit_accel.results import by_model, trained
from implicit_accel.statistics import best_learning_rates, summarise
from implicit_accel.summary import cells, columns
from implicit_accel.sweep import run


def made(curves, own, *, num_seeds=3) -> xr.Dataset:
    """Results of models whose (steps, diverges) are functions of the rate; every seed the same."""
    rates = sorted({rate for rates in own for rate in rates})
    shape = (len(curves), len(rates), num_seeds)
    steps, diverged = np.full(shape, np.inf), np.full(shape, np.nan)
    excess = np.full((*shape, 2), np.nan)
    for m, (curve, tried) in enumerate(zip(curves, own, strict=True)):
        for r, rate in enumerate(rates):
            if rate in tried:
                count, diverges = curve(rate)
                excess[m, r] = [1, np.inf if diverges else 0.01]
                steps[m, r] = np.inf if diverges else count
                diverged[m, r] = 5 if diverges else np.nan
    runs = ("model", "learning_rate", "seed")
    return xr.Dataset(
        {
            "excess_loss": ((*runs, "step"), excess),
            "steps_to_target": (runs, steps),
            "divergence_step": (runs, diverged),
            **{n: ("model", np.full(len(curves), 1e-9)) for n in ("resolution", "optimum")},
            "target": ("model", np.full(len(curves), 0.1)),
        },
        {
            "learning_rate": rates, "seed": range(num_seeds), "step": [0, 10**6],
            "depth": ("model", np.arange(len(curves)) + 1),
        },
        {"num_steps": 10**6},
    )  # fmt: skip


def found(curves, first, **options):
    """The end of a search over synthetic curves: results, each model's rates, rounds."""
    own, rounds = first, [first]
    for _ in range(100):
        results = made(curves, own)
        new = next_own_rates(results, **options)
        assert next_rates(results, **options) == tuple(sorted({r for rates in new for r in rates}))
        if not any(new):
            return results, own, rounds
        for old, added in zip(own, new, strict=True):
            assert not set(old) & set(added)
        rounds.append(new)
        own = joined(own, new)
    raise AssertionError("the search does not end")


def best_steps(results) -> np.ndarray:
    return summarise(results)["steps_to_target"].to_numpy()


places = st.floats(-6, 1).map(lambda decade: 10.0**decade)


def valley(best, curvature):
    return lambda rate: (round(30_000 * math.cosh(curvature * math.log(rate / best))), False)


def edge(last):
    return lambda rate: (math.ceil(10_000 * last / rate), rate > last)


def wedge(best, steepness):
    def curve(rate):
        x = math.log(rate / best)
        return round(20_000 * math.exp(max(-x, steepness * x))), False

    return curve


@given(best=places, curvature=st.floats(0.5, 4))
def test_the_bottom_of_a_smooth_valley_is_found(best, curvature):
    results, own, rounds = found([valley(best, curvature)], (coarse_rates(),))
    assert best_steps(results) <= 30_000 * 1.01
    assert summarise(results)["grid_edge"].tolist() == [""]
    assert len(own[0]) < 60
    assert len(rounds) < 25


@given(last=places)
def test_the_edge_at_which_runs_diverge_is_found(last):
    results, own, _ = found([edge(last)], (coarse_rates(),))
    assert best_steps(results) <= 10_000 * 1.015  # three digits of the rate
    assert summarise(results)["grid_edge"].tolist() == [""]
    assert len(own[0]) < 60


@given(best=places, steepness=st.floats(1, 8))
def test_the_point_of_a_wedge_is_found(best, steepness):
    results, _, _ = found([wedge(best, steepness)], (coarse_rates(best),))
    assert best_steps(results) <= 20_000 * 1.015


@pytest.mark.nightly
@given(best=st.lists(places, min_size=2, max_size=4))
def test_models_are_searched_apart(best):
    """The rates proposed together are those proposed for each model alone."""
    curves = [valley(best[0], 1.0), *map(edge, best[1:])]
    first = tuple(map(coarse_rates, best))
    _, together, _ = found(curves, first)
    for m, curve in enumerate(curves):
        _, (alone,), _ = found([curve], (first[m],))
        assert together[m] == alone


@given(tolerance=st.sampled_from([0.1, 0.03, 0.01, 0.003, 0.001]), last=places)
def test_a_smaller_tolerance_is_finer(tolerance, last):
    results, _, _ = found([edge(last)], (coarse_rates(last),), tolerance=tolerance)
    assert best_steps(results) <= 10_000 * (1 + 2 * tolerance) + 1


@given(
    lines=st.lists(st.tuples(st.floats(-3, 3), st.floats(-5, 5)), min_size=1, max_size=6),
    logs=st.lists(st.integers(-60, 60), min_size=2, max_size=9, unique=True),
)
def test_no_convex_curve_improves_by_more_than_its_bound(lines, logs):
    """A maximum of lines is convex; its minimum over an interval is sought on a fine grid."""

    def f(x):
        return np.max([slope * x + offset for slope, offset in lines], axis=0)

    x = np.sort(np.array(logs)) / 10
    best = int(np.argmin(f(x)))
    curve = rates_module._Curve(np.exp(x), f(x), best, 1.0)
    for k in range(len(x) - 1):
        improvement = f(x[best]) - np.min(f(np.linspace(x[k], x[k + 1], 501)))
        bound = curve.upper_bound_on_improvement(k)
        if k in (best - 1, best):
            assert improvement <= bound + 1e-9
        else:  # a convex curve has its minimum beside the best rate: here it can only be equal
            assert improvement <= 1e-9


def test_the_bound_on_improvement_is_where_the_chords_meet():
    # The continued chords -x - 1 and x - 1 meet at x = 0, one below the best figure.
    curve = rates_module._Curve(
        np.exp([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0, 1.0]), 1, 1.0
    )
    assert curve.upper_bound_on_improvement(1) == pytest.approx(1)
    # Beyond the last rate there is no chord: the left one falls to -2 at x = 1.
    curve = rates_module._Curve(np.exp([-2.0, -1.0, 1.0]), np.array([1.0, 0.0, math.inf]), 1, 1.0)
    assert curve.upper_bound_on_improvement(1) == pytest.approx(2)


def test_a_second_valley_past_a_jump_is_found():
    """As past the edge of stability: the better valley is behind a hill, half an octave wide."""

    def curve(rate):
        behind = 0.25 < rate < 0.36
        return (
            round(250 * 0.3 / rate) if behind else round(400 * max(0.1 / rate, rate / 0.1)),
            rate > 0.5,
        )

    results, _, _ = found([curve], (coarse_rates(0.08),))
    assert best_steps(results) <= 75 / 0.36 * 1.02


def test_where_every_rate_diverges_smaller_ones_are_tried_but_not_for_ever():
    results, own, _ = found([lambda _: (1, True), edge(1e-9)], ((0.1, 1.0), (0.1, 1.0)))
    assert best_learning_rates(results).tolist()[0] == -1
    assert 1e-12 <= min(own[0]) < 1e-10
    assert best_steps(results)[1] <= 10_000 * 1.015


def test_where_the_rate_does_not_matter_the_search_ends():
    results, own, _ = found([lambda _: (500, False)], (coarse_rates(),))
    assert own == (coarse_rates(),)
    assert best_steps(results) == [500]


def test_one_rate_is_enough_to_begin_with():
    results, _, _ = found([edge(0.2)], ((0.001,),))
    assert best_steps(results) <= 10_000 * 1.015


def test_rates_are_short_and_of_the_scale_that_is_known():
    assert coarse_rates(0.0274) == (0.0192, 0.0384, 0.0767)
    wide = coarse_rates()
    assert wide[0] == 1e-4
    assert wide[-1] == 1
    assert coarse_rates(math.inf) == wide
    _, own, _ = found([edge(0.123456)], (wide,))
    assert all(float(f"{rate:.3g}") == rate for rate in own[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"most": 0}, "most"),
        ({"best_by": "luck"}, "best_by"),
    ],
)
def test_what_is_not_allowed_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        next_rates(made([edge(0.1)], ((0.01, 0.1),)), **options)


def test_results_without_rates_are_refused():
    results = made([edge(0.1)], ((0.01,),))
    with pytest.raises(UserError, match="no axis learning_rate"):
        next_rates(results.assign_coords(learning_rate=[np.nan]))
    with pytest.raises(UserError, match="coarse_rates"):
        next_rates(made([edge(0.1)] * 2, ((0.01,), ())))


def test_the_history_tells_each_rounds_best():
    curves = [edge(0.2), valley(0.01, 1.0)]
    results, _, rounds = found(curves, (coarse_rates(),) * 2)
    told = history(results, rounds)
    assert [r.added for r in told] == rounds
    own = ((), ())
    for r in told:
        own = joined(own, r.added)
        table = summarise(made(curves, own))
        assert list(r.figure) == table["steps_to_target"].tolist()
        assert list(r.best) == table["best_learning_rate"].tolist()


@given(st.data())
def test_the_probability_of_divergence_is_wilsons(data):
    count = data.draw(st.integers(1, 200))
    happened = data.draw(st.integers(0, count))
    # The shares p at which the one seen is 1.96 standard deviations away: a quadratic's roots.
    z, share = scipy.stats.norm.ppf(0.975), happened / count
    a, b, c = 1 + z**2 / count, -(2 * share + z**2 / count), share**2
    root = np.sqrt(max(b**2 - 4 * a * c, 0))
    found = of_share(np.arange(count) < happened)
    assert (found.low, found.high) == pytest.approx(
        ((-b - root) / (2 * a), (-b + root) / (2 * a)), abs=1e-9
    )


def test_the_table_tells_how_often_runs_diverge_at_the_chosen_rate():
    results = made([edge(0.1)], ((0.01, 0.1),), num_seeds=20)
    diverged, steps = results["divergence_step"].values, results["steps_to_target"].values
    diverged[0, 1, :5] = 10**5  # later than the target
    diverged[0, 1, 5:7], steps[0, 1, 5:7] = 10, np.inf  # before it
    by_target = summarise(results, best_by="target")
    row = by_target.iloc[0]
    assert row["best_learning_rate"] == 0.1
    ends = scipy.stats.binomtest(2, 20).proportion_ci(method="wilson")
    names = ["diverged_share", "diverged_share_low", "diverged_share_high"]
    assert row[names].tolist() == pytest.approx([0.1, ends.low, ends.high])
    assert row["num_diverged_later"] == 5
    assert cells(by_target, 0)[5] == "2 of 20 (5 of 20)"
    assert columns(by_target)[5] == "runs that diverged\nat this rate before\n(after) the target"
    by_stable = summarise(results)
    stable = by_stable.iloc[0]
    assert (stable["best_learning_rate"], stable["diverged_share"]) == (0.01, 0)
    assert cells(by_stable, 0)[5] == "0 of 20"
    assert columns(by_stable)[5] == "unstable runs\nat this rate"


def test_runs_that_were_not_trained_count_nowhere():
    results = made([edge(0.2), edge(0.05)], ((0.1, 0.15), (0.02, 0.04, 0.3)))
    assert trained(results).sum(axis=1).tolist() == [2, 3]
    table = summarise(results)
    assert table["num_runs"].tolist() == [6, 9]
    assert table["grid_edge"].tolist() == ["high", ""]
    assert table["num_diverged"].tolist() == [0, 3]


# --- with training ---

CONFIG = ia.linear.SweepConfig(
    depths=(1, 2), losses=(ia.linear.Loss(2),), num_seeds=2, num_steps=1000, records_per_decade=10
)


def linear(config=CONFIG):
    return LinearSweep(ia.linear.make_problem(ia.linear.gas_like()), config)


def planned(devices):
    """A whole grid and a plan of some of its runs, trained; and which runs they are."""
    sweep = linear(ia.linear.SweepConfig(
        depths=(1, 2), num_seeds=2, num_steps=300, learning_rates=(0.001, 0.01, 0.05)
    ))  # fmt: skip
    own = ((0.001,), (0.01, 0.05), (0.001, 0.01), (0.05,))
    whole, some = (run(e, devices=devices) for e in (sweep, AtOwnRates(sweep, own)))
    return whole, some, chosen_runs(sweep.axes, own)


def test_a_plan_of_some_runs_trains_them_to_the_same_bits():
    whole, some, chosen = planned(jax.devices())
    for name in ("excess_loss", "steps_to_target", "divergence_step"):
        np.testing.assert_array_equal(some[name].values[chosen], whole[name].values[chosen])
    assert np.isnan(some["loss"].values[~chosen]).all()
    assert (trained(some) == chosen.all(axis=2)).all()


def test_a_plan_on_one_device_trains_to_rounding():
    """Blocks of other sizes may round otherwise, which a loss that rises multiplies."""
    whole, some, chosen = planned(jax.devices()[:1])
    ours, theirs = (r["excess_loss"].values[chosen] for r in (some, whole))
    stable = falls(theirs)
    assert stable.mean() > 0.5
    np.testing.assert_allclose(ours[stable], theirs[stable], rtol=1e-4)
    for name in ("steps_to_target", "divergence_step"):
        ours, theirs = (r[name].values[chosen][stable] for r in (some, whole))
        np.testing.assert_array_equal(ours, theirs)


def test_a_search_in_a_folder_extends_its_run(tmp_path):
    sweep, asked = linear(), []

    def train(experiment):
        asked.append(experiment.num_runs)
        return run(experiment, folder=tmp_path)

    first = (coarse_rates(0.02), coarse_rates(0.002))
    results, rounds = search(sweep.at_learning_rates, train, first)
    assert asked == sorted(set(asked))
    assert not any(next_own_rates(results))
    assert rounds[0].added == first
    rates = results["learning_rate"].values
    own = tuple(tuple(rates[row].tolist()) for row in trained(results))
    again = run(rates_module.at_own_rates(sweep.at_learning_rates, own), folder=tmp_path)
    assert again.ia.timing.run_steps == 0
    xr.testing.assert_identical(by_model(again), by_model(results))


SMALL = [
    "--learning_rates",
    "auto",
    "--losses",
    "l2",
    "--num_steps",
    "600",
    "--num_seeds",
    "2",
    "--depths",
    "1,2",
]


def stored(folder):
    return xr.load_dataset(folder / "results.nc", engine="h5netcdf")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with a finished search, for tests to copy, and the end of its program."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    result = program("sweep", *SMALL, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_the_program_finds_rates_and_a_second_call_trains_nothing(searched, tmp_path):
    folder, first = shutil.copytree(searched[0], tmp_path / "run"), searched[1]
    assert "edge of the grid" not in first.stdout
    about = json.loads((folder / "config.json").read_text())
    assert about["identity"]["rates"]
    rounds = about["search"]["rounds"]
    assert len(rounds) > 1
    own = [sorted({r for one in rounds for r in one["added"][m]}) for m in range(2)]
    assert own == about["identity"]["rates"]
    before = sorted(p.name for p in (folder / "checkpoints").iterdir())
    again = program("sweep", *SMALL, "--output_dir", folder)
    assert "was already in" in again.stdout
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == before
    assert program("plot", "--run", folder).returncode == 0

    explicit = program(
        "sweep", *replaced(SMALL, "--learning_rates", "0.01"), "--output_dir", folder
    )
    assert explicit.returncode == 2
    assert "searched for (auto) there, a grid here" in explicit.stderr


def test_a_search_goes_on_where_it_was_broken_off(searched, tmp_path):
    """As after a kill in any round: some rounds are finished, the last is begun or not."""
    whole, part = searched[0], shutil.copytree(searched[0], tmp_path / "part")
    manifest_file = part / "checkpoints" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    kept = 2
    for number in range(kept, len(manifest["rounds"])):
        for path in (part / "checkpoints").glob(f"{number}-*"):
            path.unlink()
    rounds = json.loads((part / "config.json").read_text())["search"]["rounds"][: kept + 1]
    own = [sorted({r for one in rounds for r in one["added"][m]}) for m in range(2)]
    for name in ("rounds", "counts"):
        manifest[name] = manifest[name][: kept + 1]
    manifest["identity"]["rates"] = own
    manifest["identity"]["axes"]["learning_rate"] = sorted({r for rates in own for r in rates})
    manifest_file.write_text(json.dumps(manifest))
    for name in ("config.json", "results.nc"):
        (part / name).unlink()
    assert program("sweep", *SMALL, "--output_dir", part).returncode == 0
    xr.testing.assert_identical(stored(part), stored(whole))


def test_more_seeds_go_on_from_the_rates_there_are(searched, tmp_path):
    shutil.copytree(searched[0], tmp_path, dirs_exist_ok=True)
    before = stored(tmp_path)
    more = program("sweep", *replaced(SMALL, "--num_seeds", "3"), "--output_dir", tmp_path)
    assert more.returncode == 0, more.stderr
    after = stored(tmp_path).sel(learning_rate=before["learning_rate"])
    was = trained(before)
    for seed in range(2):
        a, b = (r["steps_to_target"].values[..., seed][was] for r in (before, after))
        np.testing.assert_array_equal(a, b)
    assert trained(after)[was].all()
    assert not any(next_own_rates(stored(tmp_path)))


def test_what_a_search_cannot_do_is_said(tmp_path):
    flags = replaced(SMALL, "--learning_rates", "auto,0.1")
    refused = program("sweep", *flags, "--output_dir", tmp_path / "run")
    assert refused.returncode == 2
    assert "alone" in refused.stderr


def quadratic_runs(axis, **options):
    """Gradient descent with momentum on a quadratic, whose fewest steps a fine grid finds."""
    task = ia.from_loss(
        lambda w, curvatures: 0.5 * jnp.sum(curvatures * w**2),
        init=lambda key: jax.random.normal(key, (8,)), data=np.geomspace(0.05, 1, 8), optimum=0.0,
    )  # fmt: skip
    return ia.sweep(
        task, axes={"momentum": (0.0, 0.8), "learning_rate": axis, "seed": range(3)},
        optimizer=lambda hp: optax.sgd(hp["learning_rate"], momentum=hp["momentum"]),
        num_steps=400, target=1e-3, **options,
    )  # fmt: skip


def test_rates_of_any_task_are_searched_for(tmp_path):
    found = quadratic_runs(ia.auto(tolerance=0.02))
    grid = quadratic_runs(np.geomspace(0.05, 4, 150))
    best, finest = (
        np.where(np.isfinite(r.divergence_step), np.inf, r.steps_to_target)
        for r in (found, grid)
    )  # fmt: skip
    fewest, least = (np.nanmin(np.median(b, axis=2), axis=1) for b in (best, finest))
    assert (fewest <= 1.05 * least).all()
    calls = []
    kept = quadratic_runs(ia.auto(tolerance=0.02), folder=tmp_path / "run")
    again = quadratic_runs(
        ia.auto(tolerance=0.02), folder=tmp_path / "run", progress=lambda *done: calls.append(done)
    )
    for other in (kept, again):
        np.testing.assert_array_equal(other.loss.values, found.loss.values)
    assert not calls  # nothing is left to train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"best_by": "luck"}, "choose from stable, target, final"),
        ({"tolerance": 0}, "above 0 and below 1"),
        ({"first": (0.1, -1)}, "learning rates above 0"),
        ({"first": "log"}, "learning rates above 0"),
    ],
)
def test_a_search_of_another_kind_is_refused(arguments, message):
    with pytest.raises(ia.UserError, match=message):
        ia.auto(**arguments)


def test_negative_losses_are_searched_like_positive_ones():
    """Losses without a known optimum: an offset changes neither the best rate nor the search."""
    found = []
    for offset in (0.0, -1.0):
        task = ia.from_loss(
            lambda w, curvatures, offset=offset: 0.5 * jnp.sum(curvatures * w**2) + offset,
            init=lambda key: jax.random.normal(key, (4,)), data=np.geomspace(0.1, 1, 4),
        )  # fmt: skip
        runs = ia.sweep(
            task, axes={"learning_rate": ia.auto("final", 0.1, first=(0.01, 0.1)), "seed": (0, 1)},
            optimizer=ia.Optimizer("sgd"), num_steps=20, precision="float64",
        )  # fmt: skip
        found += ia.summarise(runs, best_by="final")["best_learning_rate"].tolist()
    # By the contraction |1 − ηλ| of the largest and smallest curvature the best is 2/1.1 or a bit
    # lower.
    assert all(1.2 < rate < 2 for rate in found)
