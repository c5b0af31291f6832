"""Predictions of sweeps, held against sweeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
from marks import param
from programs import expect_usage_error, run
from test_flow import problem_of

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.experiments.predictions import as_text
from implicit_accel.theory.predict import LARGEST_STABLE, PAST_EDGE, predict

CONFIG = {"num_seeds": 3, "num_steps": 3000, "precision": "float64"}


@pytest.mark.parametrize(
    ("p", "optimizer"), [(2, "sgd"), (4, "sgd"), param(4, "momentum"), param(4, "nesterov")]
)
def test_steps_to_the_target_in_the_stable_region(rng, p, optimizer):
    problem = problem_of(rng, d=4, decay=0.5)
    given = {"losses": (linear.Loss(p),), "depths": (1, 2, 3), "inits": ("identity",),
             "init_stds": (0.1,), "optimizers": (ia.Optimizer(optimizer),)}  # fmt: skip
    edges = predict(problem, linear.SweepConfig(**CONFIG, **given))
    edge = min(float(m.largest_rates.min()) for m in edges.models)
    # Momentum's memory of 1/(1 − β) steps must be short beside the fastest direction's time.
    slower = 1 if optimizer == "sgd" else 100
    given |= {
        "num_seeds": 3,
        "num_steps": 20_000 if slower == 1 else 400_000,
        "precision": "float64",
    }
    config = linear.SweepConfig(learning_rates=(edge / 40 / slower, edge / 20 / slower), **given)
    predicted = predict(problem, config)
    runs = linear.run_sweep(problem, config)
    for m, prediction in enumerate(predicted.models):
        for r, rate in enumerate(config.learning_rates):
            measured = runs["steps_to_target"].values[m, r]
            found = prediction.steps(rate)
            np.testing.assert_allclose(found, measured, rtol=0.06, atol=2 * slower)
    beside = predicted.beside(runs)
    assert np.abs(beside["error"].to_numpy(float)).max() < 0.06
    assert set(beside["note"]) == {""}


def test_the_edge_is_where_one_layer_on_l2_begins_to_diverge(rng):
    problem = problem_of(rng, d=3)
    top = np.linalg.eigvalsh(problem.features.T @ problem.features / 40)[-1]
    for name, edge in (("sgd", 2 / top), ("momentum", 3.8 / top), ("nesterov", 3.8 / 2.8 / top)):
        config = linear.SweepConfig(
            depths=(1,), losses=(linear.Loss(2),), optimizers=(ia.Optimizer(name),),
            learning_rates=(0.98 * edge, 1.02 * edge), target=linear.Target(1e-9, relative=True),
            **CONFIG,
        )  # fmt: skip
        (prediction,) = predict(problem, config).models
        np.testing.assert_allclose(prediction.largest_rates, edge, rtol=1e-4)
        runs = linear.run_sweep(problem, config)
        diverged = np.isfinite(runs["divergence_step"].values[0])
        assert not diverged[0].any()
        assert diverged[1].all()


def test_the_table_compares_with_one_layer_and_says_what_has_no_prediction(rng):
    problem = problem_of(rng, d=3, decay=0.7)
    config = linear.SweepConfig(
        depths=(1, 2), losses=(linear.Loss(2),), inits=("identity",), init_stds=(0.1,),
        optimizers=(ia.Optimizer("sgd"), ia.Optimizer("adam")), learning_rates=(1e-3, 1e-2, 1e3),
        **CONFIG,
    )  # fmt: skip
    predicted = predict(problem, config)
    table = predicted.table()
    rows = table.to_dict("records")
    flowing = [row for row in rows if not row["note"]]
    assert [row["depth"] for row in flowing] == [1, 2]
    assert all(row["best_rate"] <= row["largest_stable_rate"] for row in flowing)
    assert flowing[0]["speed_up"] == 1
    assert flowing[1]["speed_up"] == flowing[0]["steps"] / flowing[1]["steps"]
    notes = [row["note"] for row in rows if row["note"]]
    assert len(notes) == 2
    assert all("adam: it follows no gradient flow" in note for note in notes)
    runs = linear.run_sweep(problem, config)
    beside = predicted.beside(runs)
    assert np.isfinite(beside["error"].to_numpy(float)).sum() == 2
    relu = linear.SweepConfig(depths=(2,), activation="relu", losses=(linear.Loss(2),), **CONFIG)
    assert "relu" in predict(problem, relu).models[0].reason
    decays = linear.SweepConfig(
        depths=(1,), weight_decays=(0.1,), losses=(linear.Loss(2),), **CONFIG
    )
    assert "weight decay" in predict(problem, decays).models[0].reason


def test_past_the_edge_nothing_is_predicted(rng):
    problem = problem_of(rng, d=3)
    config = linear.SweepConfig(
        depths=(1,), losses=(linear.Loss(4),), learning_rates=(1e-3,), num_seeds=2, num_steps=50
    )
    (prediction,) = predict(problem, config).models
    rate = 1.5 * float(prediction.largest_rates.max())
    assert np.isnan(prediction.steps(rate)).all()
    assert (prediction.instability(rate) < prediction.times / rate).all()
    past = linear.SweepConfig(
        depths=(1,), losses=(linear.Loss(4),), learning_rates=(rate,), num_seeds=2, num_steps=50
    )
    runs = linear.run_sweep(problem, past)
    (row,) = predict(problem, past).beside(runs).to_dict("records")
    expected = PAST_EDGE if math.isfinite(row["learning_rate"]) else "every run diverged"
    assert row["note"] == expected
    edge = float(np.median(prediction.largest_rates))
    grid = replace(past, learning_rates=(0.05 * edge, 1.05 * edge), num_steps=3000)
    runs = linear.run_sweep(problem, grid)
    rows = predict(problem, grid).beside(runs).to_dict("records")
    assert [row["note"] for row in rows] == [PAST_EDGE, LARGEST_STABLE]
    assert rows[0]["learning_rate"] == 1.05 * edge
    assert rows[1]["learning_rate"] == 0.05 * edge
    assert np.isnan(rows[0]["error"])
    assert abs(rows[1]["error"]) < 0.2


def test_progress_rises_to_the_whole(rng):
    problem = problem_of(rng, d=3)
    config = linear.SweepConfig(
        depths=(1, 2), losses=(linear.Loss(2),), optimizers=(ia.Optimizer("momentum"),), **CONFIG
    )
    shares: list[float] = []
    predict(problem, config, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_program_predicts_and_a_sweep_puts_it_beside(tmp_path):
    flags = ["--num_seeds", "2", "--depths", "1,2", "--losses", "l2", "--num_steps", "400"]
    path = tmp_path / "table.csv"
    result = run("predict", *flags, "--at", "0.01,100", "--output", str(path))
    assert result.returncode == 0, result.stderr
    assert "past the edge" in result.stdout
    assert "depth 2" in path.read_text()
    out = tmp_path / "run"
    rates = ["--learning_rates", "0.005,0.01,0.02"]
    result = run("sweep", *flags, *rates, "--predict", "--output_dir", str(out))
    assert result.returncode == 0, result.stderr
    assert "Predicted and measured" in result.stdout
    assert (out / "prediction.csv").exists()
    again = run("sweep", *flags, *rates, "--predict", "--output_dir", str(out))
    assert "Predicted and measured" in again.stdout


def test_numbers_of_any_size_are_read_at_a_glance():
    assert as_text(12_345.6, ",.0f") == "12,346"
    assert as_text(3e12, ",.0f") == "3e+12"
    assert (as_text(math.inf), as_text(math.nan)) == ("never", "-")


def test_bad_flags(tmp_path):
    expect_usage_error(run("predict", "--at", "0"), "learning rate")
    expect_usage_error(run("predict", "--target", "0"), "target")
    example = ["--task", "docs/examples/my_model.py:task", "--output_dir", tmp_path / "x"]
    expect_usage_error(run("sweep", *example), "'width_scale', which is no axis")
    axes = ["--axes", "width_scale=1:2"]
    expect_usage_error(run("sweep", *example, *axes, "--predict"), "linear networks")


@pytest.mark.parametrize(
    ("p", "share", "expected"),
    [param(2, 1.1, {"oscillates"}), (4, 0.53, {"diverges", "undecided"})],
)
def test_what_happens_past_the_edge_is_predicted(p, share, expected):
    """Sharpness grows slowly into the edge: ℓ2 then oscillates on two layers, ℓ4 does not."""
    problem = linear.make_problem(linear.gas_like())
    config = linear.SweepConfig(
        depths=(2,), losses=(linear.Loss(p),), learning_rates=(1.0,), num_seeds=3, num_steps=17_000
    )  # fmt: skip
    found = predict(problem, config)
    rate = share * float(np.median(found.models[0].largest_rates))
    config = replace(config, learning_rates=(rate,))
    found = predict(problem, config)
    assert found.then(0, rate) in expected
    after = found.models[0].instability(rate)
    runs = linear.run_sweep(problem, config)
    diverged = runs["divergence_step"].values[0, 0]
    assert np.isfinite(diverged).all() == (p == 4)
    if p == 4:
        assert ((diverged > after) & (diverged < 1.2 * after + 100)).all()
    assert found.then(0, rate / 1000) == ""  # it does not get there
    assert found.then(0, rate * 1000) == ""  # it begins far beyond


def test_nothing_is_predicted_past_the_edge_of_what_has_none():
    problem = linear.make_problem(linear.gas_like())
    momentum = linear.SweepConfig(depths=(2,), losses=(linear.Loss(2),),
                              optimizers=(ia.Optimizer("momentum"),), **CONFIG)  # fmt: skip
    assert predict(problem, momentum).then(0, 10.0) == ""
    rough = linear.SweepConfig(depths=(2,), losses=(linear.Loss(3),), **CONFIG)
    assert predict(problem, rough).then(0, 10.0) == ""


def test_what_cannot_be_predicted_is_said_in_a_word(rng):
    problem = problem_of(rng, d=3)

    def note(**changes):
        config = linear.SweepConfig(
            **(
                {"depths": (2,), "losses": (linear.Loss(2),), "num_seeds": 2, "num_steps": 50}
                | changes
            )
        )
        (row,) = predict(problem, config).table().to_dict("records")
        return row["note"]

    assert "cannot move" in note(init_stds=(0.0,))
    assert "below what float64 resolves" in note(target=linear.Target(1e-40))
    assert "too many" in note(hidden_widths=(10**6,), num_seeds=10)
    assert "more than the grid's 2 steps" in note(num_steps=2)
    assert PAST_EDGE in note(learning_rates=(1e6,))
    assert note(num_steps=20_000) == ""
