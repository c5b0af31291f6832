"""S1 to S5: a claim's checks confirm an effect that is planted in results, and no absent one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from implicit_accel.claims.api import Claim, Effect, Found, Key
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.criteria import Direction, Judged, Size, judge
from implicit_accel.claims.evaluate import judged_parts, measured
from implicit_accel.claims.published import bursts, records, s1, s2, s3, s4, s5, student
from implicit_accel.linear import gas_like

INF = math.inf
SEVEN = ("-", "1", "10", "64", "1x1", "10x10", "64x64")
FIVE = ("-", "64", "1x1", "10x10", "64x64")
AS_CLAIMED, OPPOSITE = Direction.AS_CLAIMED, Direction.OPPOSITE


def results_of(
    last: np.ndarray,
    hidden: Sequence[str],
    *,
    init: str | np.ndarray = "orthogonal",
    optimizer: str | np.ndarray = "sgd",
    loss_name: str | np.ndarray = "l2",
    optimum: float = 0.01,
) -> xr.Dataset:
    """Runs at one rate by last losses (model, seed); a single coordinate goes for all models."""
    last = np.asarray(last, float)

    def of(values: str | np.ndarray | Sequence[str]) -> tuple[str, list[str]]:
        return "model", [values] * len(last) if isinstance(values, str) else list(values)

    curves = np.stack([np.ones_like(last), last], axis=-1)[:, None]
    axes = ("model", "learning_rate", "seed", "step")
    return xr.Dataset(
        {
            "loss": (axes, curves),
            "excess_loss": (axes, curves - optimum),
            "final_excess_loss": (axes[:3], curves[..., -1] - optimum),
            "resolution": ("model", np.full(len(last), 1e-12)),
            "optimum": ("model", np.full(len(last), optimum)),
            "zero_loss": ("model", np.ones(len(last))),
        },
        {
            "hidden_widths": of(hidden),
            "depth": ("model", [1 if h == "-" else 2 + h.count("x") for h in hidden]),
            "init": of(init),
            "optimizer": of(optimizer),
            "loss_name": of(loss_name),
            "learning_rate": [0.01],
            "step": [0, 100],
        },
    )


def noisy(rng, medians, spread, repeats):
    """(model, seed) losses about medians; the spread is that of the logarithm."""
    medians = np.asarray(medians, float)[:, None]
    spread = np.broadcast_to(np.asarray(spread, float), len(medians))[:, None]
    return medians * np.exp(spread * rng.standard_normal((len(medians), repeats)))


def small():
    """The stand-in's first features and rows."""
    gas = gas_like()
    return replace(
        gas, features=gas.features[:200, :6], targets=gas.targets[:200],
        feature_names=gas.feature_names[:6],
    )  # fmt: skip


def judged(claim: Claim, runs: dict, *effects: Effect) -> tuple[Judged, ...]:
    """The answers of a claim's checks on these runs and effects."""
    checked = {check.measure for check in claim.checks}
    measures = [measure for measure in claim.measures if measure.name in checked]
    found = measured(measures, Found(runs=runs), Context(Scale.STANDARD, Path(), Path()))
    return judge(judged_parts(claim, [*effects, *found], next(iter(runs)))).parts


def directions(claim: Claim, runs: dict, *effects: Effect) -> list[Direction]:
    return [answer.direction for answer in judged(claim, runs, *effects)]


def s1_directions(ethanol: xr.Dataset, abalone: xr.Dataset) -> list[Direction]:
    lowest = student.one_layer_lowest(ethanol)
    key = Key.of("one layer lowest", problem="Ethanol", choice=s1.AS_CHOSEN)
    return directions(s1.CLAIM, {"Ethanol": ethanol, "Abalone": abalone}, lowest.keyed(key))


def test_s1_finds_what_is_consistent_and_what_differs(rng):
    medians = [0.1, 0.2, 0.2, 0.2, 2.0, 1.0, 0.6]
    spread = [0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.6]
    planted = results_of(noisy(rng, medians, spread, 100), SEVEN)
    other = results_of(noisy(rng, [2.0, *medians[1:]], spread, 100), SEVEN)
    assert s1_directions(planted, other) == [AS_CLAIMED] * 6
    # Chance alone decides which network is lowest; nothing differs by a factor of two.
    absent = results_of(noisy(rng, [0.2] * 7, 0.05, 100), SEVEN)
    found = s1_directions(absent, absent)
    assert found[:3] == [OPPOSITE] * 3
    # The deeper ones are lowest in six of seven repeats, which is not consistently.
    assert found[3] != AS_CLAIMED


def test_s1_separates_spread_over_widths_from_spread_over_repeats(rng):
    repeats = results_of(noisy(rng, [0.2] * 7, 0.6, 100), SEVEN)
    widths = results_of(noisy(rng, [0.2, 0.2, 0.5, 1, 0.2, 0.5, 1], 0.02, 100), SEVEN)
    found = s1_directions(repeats, widths)
    assert found[1:3] == [AS_CLAIMED, OPPOSITE]
    assert found[4:] == [OPPOSITE, AS_CLAIMED]


def of_three_inits(rng, spreads, medians):
    losses = np.concatenate(
        [noisy(rng, [m] * 5, s, 100) for s, m in zip(spreads, medians, strict=True)]
    )
    return results_of(losses, FIVE * 3, init=np.repeat(s2.INITS, 5))


def with_bursts(results: xr.Dataset, bursts: np.ndarray) -> xr.Dataset:
    """Every rise of these (model, repeat) booleans is a burst."""
    dims = ("model", "repeat")
    return results.assign(rises=(dims, bursts), bursts=(dims, bursts))


def test_s2_finds_smaller_spreads_the_lowest_loss_and_bursts(rng):
    edge = np.zeros((15, 30), bool)
    edge[[4, 9], :15] = True
    planted = with_bursts(of_three_inits(rng, (0.5, 0.1, 0.1), (0.4, 0.4, 0.2)), edge)
    runs = {"Ethanol": planted, "Abalone": planted}
    assert directions(s2.CLAIM, runs) == [AS_CLAIMED] * 8
    absent = of_three_inits(rng, (0.1, 0.5, 0.5), (0.2, 0.2, 0.4))
    found = directions(s2.CLAIM, {"Ethanol": with_bursts(absent, np.zeros((15, 30), bool))})
    assert found[:3] == [OPPOSITE] * 3
    assert found[3] != AS_CLAIMED


def of_two_optimizers(rng, sgd, adam, bursts):
    losses = np.concatenate([noisy(rng, medians, 0.1, 100) for medians in (sgd, adam)])
    results = results_of(losses, SEVEN * 2, optimizer=np.repeat(["sgd", "adam"], 7))
    return with_bursts(results, bursts)


def test_s3_finds_which_optimizer_is_ahead_and_which_bursts(rng):
    edge = np.zeros((14, 30), bool)
    edge[10:] = rng.random((4, 30)) < 0.8
    planted = of_two_optimizers(rng, [0.4] * 7, [0.3] + [0.2] * 6, edge)
    answers = judged(s3.CLAIM, {"Ethanol": planted, "Abalone": planted})
    assert [answer.direction for answer in answers] == [AS_CLAIMED] * 18
    assert answers[7].size == Size.AS_CLAIMED
    # Depth that helps Adam fivefold does not help it slightly.
    more = of_two_optimizers(rng, [1.5] * 7, [1.0] + [0.2] * 6, edge)
    assert judged(s3.CLAIM, {"Ethanol": more})[7].size == Size.LARGER
    absent = of_two_optimizers(rng, [0.2] * 7, [0.3] + [0.4] * 6, edge[::-1])
    assert directions(s3.CLAIM, {"Ethanol": absent}) == [OPPOSITE] * 9


def test_s3_names_the_network_that_gains_least_from_adam(rng):
    sgd = [0.4, 0.4, 0.4, 0.3, 0.4, 0.4, 0.4]
    results = of_two_optimizers(rng, sgd, [0.2] * 7, np.zeros((14, 30), bool))
    assert s3.least_adam_gain(results).value == s3.adam_gain(results, "64").value


def of_powers(rng, gains):
    """One layer's excess loss is 0.4; depth 2's and 3's are that over the gains, by p."""
    medians = [m for gain in gains for m in (0.4, 0.4 / gain, 0.4 / gain)]
    losses = noisy(rng, medians, 0.05, 100)
    return results_of(
        losses, ("-", "10", "10x10") * 4, loss_name=np.repeat(["l2", "l3", "l4", "l5"], 3),
        optimum=0.0,
    )  # fmt: skip


def test_s4_finds_gains_that_grow_with_p(rng):
    def found(*gains: float) -> list[Direction]:
        return directions(s4.CLAIM, {"Abalone": of_powers(rng, gains)})

    assert found(1, 2, 3, 4) == [AS_CLAIMED] * 6
    assert found(4, 3, 2, 1) == [OPPOSITE] * 6
    # A gain that is as large on every loss is no larger for p > 2, however large.
    assert AS_CLAIMED not in found(5, 5, 5, 5)


@pytest.mark.parametrize(
    ("linear", "sgd", "adam", "expected"),
    [
        (0.2, 0.2, 0.05, [AS_CLAIMED, AS_CLAIMED]),
        (0.2, 0.06, 0.05, [AS_CLAIMED, OPPOSITE]),
        (0.06, 0.2, 0.05, [OPPOSITE, AS_CLAIMED]),
    ],
)
def test_s5_finds_the_gains_of_relu_and_of_adam(rng, linear, sgd, adam, expected):
    base = results_of(noisy(rng, [linear] * 7, 0.05, 30), SEVEN, optimizer="adam")
    losses = np.concatenate([noisy(rng, [m] * 7, 0.05, 30) for m in (sgd, adam)])
    relu = results_of(losses, SEVEN * 2, optimizer=np.repeat(["sgd", "adam"], 7))
    assert directions(s5.CLAIM, {"Ethanol": {"linear": base, "relu": relu}}) == expected


def test_what_a_repeat_keeps():
    results = results_of(np.full((2, 3), 0.5), ("-", "10"))
    results = results.isel(learning_rate=[0, 0]).assign_coords(learning_rate=[0.01, 0.1])
    results["loss"] = results["loss"].copy()
    results["loss"][:, 1] *= 1.1
    kept, rates = student.kept_losses(results)
    np.testing.assert_allclose(kept, 0.5)
    assert (rates == 0).all()
    results["loss"][0, 0, 1, -1] = INF  # diverged: the other rate is kept
    kept, rates = student.kept_losses(results)
    np.testing.assert_allclose(kept[0], [0.5, 0.55, 0.5])
    assert rates.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert student.at_highest_rates(results).value == pytest.approx(100 / 6)
    assert student.at_highest_rates(results, depth=2).value == 0
    assert student.at_highest_rates(results, 2).value == 100


def test_a_rise_is_a_burst_only_at_the_edge_of_stability():
    loss = np.tile(np.geomspace(1, 0.1, 61), (4, 1))
    loss[1:, 40] *= 3
    strain = np.full((4, 61), 0.9)
    strain[0, 30] = 1.2  # over the edge, and no rise
    strain[2, 30] = 1.2  # over the edge shortly before it
    strain[3, 10] = 1.2  # long before it
    assert np.argwhere(bursts.starts(loss)).tolist() == [[1, 40], [2, 40], [3, 40]]
    assert bursts.at_the_edge(loss, strain).tolist() == [False, False, True, False]
    # A rise that does not come above the lowest before is none.
    assert not bursts.starts(np.array([[1.0, 0.5, 0.54, 0.4]])).any()


def context_at(path: Path) -> Context:
    return Context(Scale.SMOKE, path / "X", path, data_dir=str(path))


def test_kept_runs_burst_at_the_edge_alone(tmp_path):
    """Only the kept runs whose loss rises are trained again."""
    context = context_at(tmp_path)
    config = student.protocol(
        context, depths=(2,), inits=("orthogonal",), hidden_widths=(10,), num_seeds=2,
        learning_rates=(1e-4, 0.2), num_steps=40,
    )  # fmt: skip
    results = student.student_run(context, small(), config)
    calm = results.isel(learning_rate=[0])
    found = bursts.with_bursts(context, small(), config, calm, 2)
    assert not found["rises"].any()
    assert len(context.trained) == 1
    steep = results.isel(learning_rate=[1])
    found = bursts.with_bursts(context, small(), config, steep, 2)
    assert found["rises"].values.tolist() == [[True, True]]
    assert found["bursts"].values.tolist() == [[True, True]]
    assert len(context.trained) == 2


def test_records_stand_beside_the_distribution_they_might_come_from():
    results = results_of(np.tile(np.linspace(0.2, 0.3, 11), (7, 1)), SEVEN)
    known = records.kept_rates((0.01,) * 6 + (0.05,), records.SEVEN, "orthogonal",
                               losses={"[10]": 0.25, "[1]": 0.4})  # fmt: skip
    table = records.beside(results, known)
    assert table["hidden"].tolist() == list(records.SEVEN)
    assert table["inside"].tolist() == ["yes", "no", "yes", "yes", "yes", "yes", "no"]
    assert table["repeats that keep it (%)"].tolist() == ["100"] * 6 + ["0"]
    words = records.agreement(table)
    assert "5 of these 7 records could be one of our repeats" in words
    assert "[1] (orthogonal, sgd, ℓ2); [64, 64] (orthogonal, sgd, ℓ2)." in words
    # Networks that a smaller grid lacks are left out; of other data nothing is said.
    assert len(records.beside(results.isel(model=[0]), known)) == 1
    nothing = records.beside(results, (records.Record("[]", "near_zero"),))
    assert "No record" in records.agreement(nothing)


def test_s1_measures_the_largest_stable_rate_of_one_layer(rng, tmp_path):
    dataset, context = small(), context_at(tmp_path)
    config = student.protocol(
        context, depths=(1,), num_seeds=1, learning_rates=(1e-3,), num_steps=2
    )
    results = student.student_run(context, dataset, config)
    edge = s1.rate_left(results).value * 1e-2
    problem = student.make_problem(dataset, held_out_fraction=0.2)
    X = np.hstack([problem.features, np.ones((len(problem.features), 1))])

    def last(rate):
        w = rng.standard_normal(X.shape[1])
        for _ in range(3000):
            w = w - rate * 2 / len(X) * X.T @ (X @ w - problem.targets[:, 0])
        return np.abs(w).max()

    assert last(0.98 * edge) < 1e3
    assert last(1.02 * edge) > 1e6
