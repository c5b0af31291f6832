"""S1 to S5: what is planted in results is found by a claim's own parts, what is absent is not."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from implicit_accel import gas_like
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.criteria import Direction, Size, judge
from implicit_accel.claims.published import bursts, records, s1, s2, s3, s4, s5, student

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


def directions(parts):
    return [judged.direction for judged in judge(parts).parts]


def test_s1_finds_what_is_consistent_and_what_differs(rng):
    """Also beside the parts of another dataset, by whose number the intervals are widened."""
    medians = [0.1, 0.2, 0.2, 0.2, 2.0, 1.0, 0.6]
    spread = [0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.6]
    planted = results_of(noisy(rng, medians, spread, 100), SEVEN)
    other = results_of(noisy(rng, [2.0, *medians[1:]], spread, 100), SEVEN)
    parts = [*s1._parts("Ethanol", planted), *s1._parts("Abalone", other)]
    assert directions(parts) == [AS_CLAIMED] * 6
    # Chance alone decides which network is lowest; nothing differs by a factor of two.
    absent = results_of(noisy(rng, [0.2] * 7, 0.05, 100), SEVEN)
    assert directions(s1._parts("Ethanol", absent)) == [OPPOSITE] * 3
    # The deeper ones are lowest in six of seven repeats, which is not consistently.
    assert directions(s1._parts("Abalone", absent))[0] != AS_CLAIMED


def test_s1_tells_what_widths_do_from_what_repeats_do(rng):
    repeats_alone = results_of(noisy(rng, [0.2] * 7, 0.6, 100), SEVEN)
    assert directions(s1._parts("Ethanol", repeats_alone))[1:] == [AS_CLAIMED, OPPOSITE]
    widths_alone = results_of(noisy(rng, [0.2, 0.2, 0.5, 1, 0.2, 0.5, 1], 0.02, 100), SEVEN)
    assert directions(s1._parts("Ethanol", widths_alone))[1:] == [OPPOSITE, AS_CLAIMED]


def of_three_starts(rng, spreads, medians):
    losses = np.concatenate(
        [noisy(rng, [m] * 5, s, 100) for s, m in zip(spreads, medians, strict=True)]
    )
    return results_of(losses, FIVE * 3, init=np.repeat(list(s2._INITS), 5))


def seen(edge):
    return bursts.Bursts(edge, edge)


def test_s2_finds_calmer_starts_the_lowest_of_them_and_bursts(rng):
    planted = of_three_starts(rng, (0.5, 0.1, 0.1), (0.4, 0.4, 0.2))
    edge = np.zeros((15, 30), bool)
    edge[[4, 9], :15] = True
    assert directions(s2._parts("both", planted, seen(edge)) * 2) == [AS_CLAIMED] * 8
    absent = of_three_starts(rng, (0.1, 0.5, 0.5), (0.2, 0.2, 0.4))
    found = directions(s2._parts("neither", absent, seen(np.zeros((15, 30), bool))))
    assert found[:3] == [OPPOSITE] * 3
    assert found[3] != AS_CLAIMED


def of_two_optimizers(rng, sgd, adam):
    losses = np.concatenate([noisy(rng, medians, 0.1, 100) for medians in (sgd, adam)])
    return results_of(losses, SEVEN * 2, optimizer=np.repeat(["sgd", "adam"], 7))


def test_s3_finds_who_is_ahead_and_who_bursts(rng):
    edge = np.zeros((14, 30), bool)
    edge[10:] = rng.random((4, 30)) < 0.8
    planted = of_two_optimizers(rng, [0.4] * 7, [0.3] + [0.2] * 6)
    verdict = judge(s3._parts(s3._measure("both", planted, seen(edge))) * 2)
    assert {judged.direction for judged in verdict.parts} == {AS_CLAIMED}
    assert verdict.parts[7].size == Size.AS_CLAIMED
    # Depth that helps Adam fivefold does not help it slightly.
    more = of_two_optimizers(rng, [1.5] * 7, [1.0] + [0.2] * 6)
    assert judge(s3._parts(s3._measure("more", more, seen(edge)))).parts[7].size == Size.LARGER
    absent = of_two_optimizers(rng, [0.2] * 7, [0.3] + [0.4] * 6)
    parts = s3._parts(s3._measure("neither", absent, seen(edge[::-1])))
    assert directions(parts) == [OPPOSITE] * 9


def of_powers(rng, gains):
    """One layer's excess loss is 0.4; depth 2's and 3's are that over the gains, by p."""
    medians = [m for gain in gains for m in (0.4, 0.4 / gain, 0.4 / gain)]
    losses = noisy(rng, medians, 0.05, 100)
    return results_of(
        losses, ("-", "10", "10x10") * 4, loss_name=np.repeat(["l2", "l3", "l4", "l5"], 3),
        optimum=0.0,
    )  # fmt: skip


def test_s4_finds_gains_that_grow_with_p(rng):
    assert directions(s4._parts(s4._measure("a", of_powers(rng, [1, 2, 3, 4])))) == [AS_CLAIMED] * 6
    assert directions(s4._parts(s4._measure("a", of_powers(rng, [4, 3, 2, 1])))) == [OPPOSITE] * 6
    # A gain that is as large on every loss is no larger for p > 2, however large.
    same = directions(s4._parts(s4._measure("a", of_powers(rng, [5, 5, 5, 5]))))
    assert AS_CLAIMED not in same


@pytest.mark.parametrize(
    ("linear", "sgd", "adam", "expected"),
    [
        (0.2, 0.2, 0.05, [AS_CLAIMED, AS_CLAIMED]),
        (0.2, 0.06, 0.05, [AS_CLAIMED, OPPOSITE]),
        (0.06, 0.2, 0.05, [OPPOSITE, AS_CLAIMED]),
    ],
)
def test_s5_finds_what_relu_and_what_adam_do(rng, linear, sgd, adam, expected):
    base = results_of(noisy(rng, [linear] * 7, 0.05, 30), SEVEN, optimizer="adam")
    losses = np.concatenate([noisy(rng, [m] * 7, 0.05, 30) for m in (sgd, adam)])
    relu = results_of(losses, SEVEN * 2, optimizer=np.repeat(["sgd", "adam"], 7))
    assert directions(s5._parts("data", base, relu)) == expected


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


def test_kept_runs_burst_at_the_edge_alone(tmp_path):
    """The runs that rise are trained again, and are those that were kept; the others are not."""
    lab = Context(Scale.SMOKE, tmp_path / "X", tmp_path, data_dir=str(tmp_path))
    config = student.protocol(
        lab, depths=(2,), inits=("orthogonal",), hidden_widths=(10,), num_seeds=2,
        learning_rates=(1e-4, 0.2), num_steps=40,
    )  # fmt: skip
    results = student.student_run(lab, small(), config)
    calm = results.isel(learning_rate=[0])
    found = bursts.kept_bursts(lab, small(), config, calm, 2)
    assert not found.rising.any()
    assert str(found) == "0 of 0"
    assert len(lab.trained) == 1
    steep = results.isel(learning_rate=[1])
    found = bursts.kept_bursts(lab, small(), config, steep, 2)
    assert found.rising.tolist() == [[True, True]]
    assert found.edge.tolist() == [[True, True]]
    assert len(lab.trained) == 2


def test_records_stand_beside_the_distribution_they_might_come_from():
    results = results_of(np.tile(np.linspace(0.2, 0.3, 11), (7, 1)), SEVEN)
    known = records.kept_rates((0.01,) * 6 + (0.05,), records.SEVEN, "orthogonal",
                               losses={"[10]": 0.25, "[1]": 0.4})  # fmt: skip
    table = records.beside(results, known)
    assert table["hidden"].tolist() == list(records.SEVEN)
    assert table["inside"].tolist() == ["yes", "no", "yes", "yes", "yes", "yes", "no"]
    assert table["repeats that keep it (%)"].tolist() == ["100"] * 6 + ["0"]
    words = records.agreement(table)
    assert "5 could be one of our repeats" in words
    assert "[1] (orthogonal" in words
    assert "rate 0.05; ours" in words
    # Networks that a smaller grid lacks are left out; of other data nothing is said.
    assert len(records.beside(results.isel(model=[0]), known)) == 1
    nothing = records.beside(results, (records.Record("[]", "near_zero"),))
    assert "No record" in records.agreement(nothing)


def test_the_largest_stable_rate_of_one_layer(rng):
    dataset = small()
    edge = student.largest_stable_rate(dataset)
    problem = student.make_problem(dataset, held_out_fraction=0.2)
    X = np.hstack([problem.features, np.ones((len(problem.features), 1))])

    def last(rate):
        w = rng.standard_normal(X.shape[1])
        for _ in range(3000):
            w = w - rate * 2 / len(X) * X.T @ (X @ w - problem.targets[:, 0])
        return np.abs(w).max()

    assert last(0.98 * edge) < 1e3
    assert last(1.02 * edge) > 1e6
