"""What a run's loss, its target, its divergence and its undefined values mean, for users' tasks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import stream

import implicit_accel as ia
from implicit_accel import linear, summary
from implicit_accel.engine.layout import batch_order
from implicit_accel.pages.explorer import payload
from implicit_accel.plotting import save_figures

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.standard_normal(60)
Z = 0.01 * RNG.standard_normal((200, 1))


def mse(params, batch):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def normal(key):
    return {"w": jax.random.normal(key, (4,))}


def sgd(hp):
    return optax.sgd(hp["learning_rate"])


def adam(hp):
    return optax.adam(hp["learning_rate"])


def nll(params, batch):
    """The negative log-likelihood of a Gaussian, which is negative where it is narrow."""
    scaled = (batch - params["m"]) / jnp.exp(params["s"])
    return jnp.mean(0.5 * scaled**2 + params["s"] + 0.9189385)


def likelihood(**options: Any):
    init = lambda key: {"m": jnp.zeros(1), "s": jnp.full(1, -3.0)}  # noqa: E731
    return ia.from_loss(nll, init=init, data=Z, **options)


def follow(rate, num_steps):
    """The likelihood's losses by a plain loop over optax."""
    rule = optax.adam(rate)
    params = {"m": jnp.zeros(1), "s": jnp.full(1, -3.0)}

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(nll)(params, Z.astype(np.float32))
        updates, state = rule.update(gradient, state, params)
        return loss, optax.apply_updates(params, updates), state

    state, losses = rule.init(params), []
    for _ in range(num_steps + 1):
        loss, params, state = step(params, state)
        losses.append(float(loss))
    return np.array(losses)


# --- losses that are not positive ----------------------------------------------------------------


def test_a_negative_loss_does_not_diverge_by_being_negative():
    runs = ia.sweep(
        likelihood(), axes={"learning_rate": [0.1]}, optimizer=adam, num_steps=300,
        records_per_decade=1000,
    )  # fmt: skip
    expected = follow(0.1, 300)
    assert expected.max() > 0 > expected[0]  # it crosses zero
    # Later the loss oscillates, and rounding grows.
    np.testing.assert_allclose(runs["loss"][0, :200], expected[:200], rtol=1e-3, atol=1e-4)
    assert np.isnan(runs["divergence_step"]).all()


@pytest.mark.parametrize("first", [0.0, -1e-12, 1e-12, -5.0])
def test_a_first_loss_near_zero_sets_no_low_limit(first):
    """The loss w from w = first rises to 0.1 and is no divergence; at 2 million it is one."""
    task = ia.from_loss(
        lambda p, b, hp: p["w"] * hp["sign"] + 0 * jnp.sum(b), data=np.ones(2),
        init=lambda key: {"w": jnp.array(first)},
    )  # fmt: skip
    runs = ia.sweep(
        task, axes={"sign": [-1.0], "learning_rate": [0.01, 1e6]}, num_steps=10,
        optimizer=lambda hp: optax.sgd(-hp["learning_rate"]),
    )  # fmt: skip
    small, large = runs["divergence_step"].values[0]
    assert np.isnan(small)
    # The loss rises by 10⁶ a step, to above 10⁶ times the larger of |first| and 1.
    assert large == (2 if abs(first) <= 1 else 5)


def test_a_task_s_own_scale_sets_the_limit():
    """From loss 1 at rates that multiply it by 4 a step it passes 10⁶ · scale."""
    for scale in (1.0, 1e3):
        task = ia.from_loss(
            lambda p, b: p["w"] ** 2 + 0 * jnp.sum(b), data=np.ones(2), reference_loss=scale,
            init=lambda key: {"w": jnp.array(1.0)},
        )  # fmt: skip
        runs = ia.sweep(task, axes={"learning_rate": [1.5]}, optimizer=sgd, num_steps=30)
        # w ← (1 − 2 · 1.5) w = −2 w: the loss is 4^t.
        expected = np.floor(np.log(1e6 * scale) / np.log(4)) + 1
        assert float(runs["divergence_step"][0]) == expected


def test_the_lowest_of_negative_losses_is_the_best():
    rates = [1e-4, 1e-3, 3e-3, 1e-2]
    runs = ia.sweep(likelihood(), axes={"learning_rate": rates}, optimizer=adam, num_steps=200)
    last = [follow(rate, 200)[-1] for rate in rates]
    assert np.argmin(last) == 3
    table = ia.summarise(runs, best_by="final")
    assert table["best_learning_rate"].tolist() == [1e-2]
    np.testing.assert_allclose(table["final_excess"], [last[3]], rtol=1e-3)
    assert "final loss" in summary.columns(table)[2]


def test_negative_losses_have_no_ratio_and_are_compared_in_words():
    task = ia.from_loss(
        lambda p, b, hp: nll(p, b) + hp["offset"], data=Z,
        init=lambda key: {"m": jnp.zeros(1), "s": jnp.full(1, -3.0)},
    )  # fmt: skip
    axes = {"learning_rate": [1e-3, 1e-2], "offset": [0.0, 0.5], "seed": [0, 1]}
    runs = ia.sweep(task, axes=axes, optimizer=adam, num_steps=100)
    table = ia.summarise(runs, best_by="final", baseline={"offset": 0.5})
    last = follow(1e-2, 100)[-1]
    assert table["final_ratio"].isna().tolist() == [True, False]
    (sentence,) = summary.answers(table)
    assert f"offset 0 ends at a loss of {last:.3g}"[:-1] in sentence
    assert f"offset 0.5 at {last + 0.5:.3g}"[:-1] in sentence
    assert "< " not in summary.cells(table, 0)[2]


def test_a_negative_target_is_one_where_the_optimum_is_not_known(tmp_path):
    runs = ia.sweep(
        likelihood(), axes={"learning_rate": [1e-2]}, optimizer=adam, num_steps=300, target=-2.5,
        folder=tmp_path,
    )  # fmt: skip
    expected = np.argmax(follow(1e-2, 300) <= -2.5)
    assert float(runs["steps_to_target"][0]) == expected
    assert ia.load_run(tmp_path).identical(runs)
    with pytest.raises(ia.UserError, match=r"target -2.5: it must be an excess loss above 0"):
        ia.sweep(likelihood(optimum=-4.0), axes={"learning_rate": [1e-2]}, optimizer=adam,
                 num_steps=3, target=-2.5)  # fmt: skip


def test_a_negative_optimum_is_one(tmp_path):
    runs = ia.sweep(
        likelihood(optimum=-4.0), axes={"learning_rate": [1e-2]}, optimizer=adam, num_steps=20,
        folder=tmp_path,
    )  # fmt: skip
    np.testing.assert_allclose(runs["excess_loss"][0], follow(1e-2, 20) + 4, rtol=1e-4)
    assert ia.load_run(tmp_path).identical(runs)


def test_negative_losses_are_drawn_and_explored(tmp_path):
    runs = ia.sweep(
        likelihood(), axes={"learning_rate": [1e-3, 1e-2], "seed": [0, 1]}, optimizer=adam,
        num_steps=100,
    )  # fmt: skip
    assert save_figures(runs, tmp_path, formats=("svg",))
    found = payload(runs)
    curve = found["quantities"][0]
    assert curve["words"] == "loss above the lowest of all runs"
    # The lowest is 0, and drawn at the smallest of the others, medians of two seeds among them.
    assert curve["log"]
    assert 0 < curve["low"] < 0.1
    # Without a target of their own: multiples of the start, a tenth of it at first.
    targets = found["targets"]
    assert not targets["own"]
    start = np.median(runs["loss"].values[..., 0]) - runs["loss"].values.min()
    np.testing.assert_allclose(targets["of"], [start], rtol=1e-4)


# --- mini-batches and randomness -----------------------------------------------------------------


def test_a_mini_batch_s_loss_is_not_the_loss():
    """At a rate that moves nothing, no run reaches what the whole data are far from."""
    task = ia.from_loss(mse, init=normal, data=(X, y))
    runs = ia.sweep(
        task, axes={"learning_rate": [1e-6], "seed": range(8)}, optimizer=sgd, num_steps=180,
        batch_size=1, target=0.01,
    )  # fmt: skip
    assert (runs["batch_loss"].min("batch_step") <= 0.01).sum() >= 3  # single rows do
    assert np.isinf(runs["steps_to_target"]).all()
    assert (runs["loss"] > 0.5).all()
    assert (runs["step"] % 60 == 0).all()
    for seed in range(8):
        w = np.asarray(normal(stream(seed, b"init"))["w"], float)
        start = np.mean((X @ w - y) ** 2)
        np.testing.assert_allclose(runs["loss"].sel(seed=seed)[0], start, rtol=2e-3)


@pytest.mark.parametrize("num_steps", [3, 40, 41])
def test_the_loss_of_all_rows_at_the_ends_of_epochs(num_steps):
    """Against a loop in NumPy: 7 of 60 rows a step, 8 steps an epoch, 4 rows left out."""
    task = ia.from_loss(mse, init=normal, data=(X, y), held_out=(X[:9], y[:9] + 1))
    runs = ia.sweep(
        task, axes={"learning_rate": [0.05], "seed": [3]}, optimizer=sgd, num_steps=num_steps,
        batch_size=7, target=0.5, precision="float64",
    )  # fmt: skip
    w = np.asarray(normal(stream(3, b"init"))["w"], float)
    full, held_out, drawn = [], [], []
    for step in range(num_steps + 1):
        full.append(np.mean((X @ w - y) ** 2))
        held_out.append(np.mean((X[:9] @ w - y[:9] - 1) ** 2))
        rows = batch_order(3, step // 8, 60)[step % 8 * 7 : step % 8 * 7 + 7]
        residuals = X[rows] @ w - y[rows]
        drawn.append(np.mean(residuals**2))
        w = w - 0.05 * 2 / 7 * X[rows].T @ residuals
    ends = sorted({*range(0, num_steps + 1, 8), num_steps})
    assert runs["step"].values.tolist() == ends
    run = runs.isel(learning_rate=0, seed=0)
    np.testing.assert_allclose(run["loss"], np.array(full)[ends], rtol=1e-6)
    expected = np.array(held_out)[runs["observation_step"].values]
    np.testing.assert_allclose(run["held_out_loss"], expected, rtol=1e-6)
    expected = np.array(drawn)[runs["batch_step"].values]
    np.testing.assert_allclose(run["batch_loss"], expected, rtol=1e-6)
    reached = [step for step in ends if full[step] <= 0.5]
    assert float(run["steps_to_target"]) == (reached[0] if reached else np.inf)
    table = ia.summarise(runs, best_by="final")
    np.testing.assert_allclose(table["final_excess"], [full[-1]], rtol=1e-6)
    assert "evaluated on all 60 rows without randomness, every 8 steps" in summary.caption(table)


def test_a_noisy_loss_reaches_no_target_by_luck():
    def noisy(params, batch, key):
        noise = 0.0 if key is None else 3 * jax.random.normal(key)
        return mse(params, batch) + noise

    runs = ia.sweep(
        ia.from_loss(noisy, init=normal, data=(X, y)), optimizer=sgd, num_steps=60, target=0.3,
        axes={"learning_rate": [1e-6], "seed": range(4)},
    )  # fmt: skip
    assert (runs["batch_loss"] < 0.3).any()
    assert np.isinf(runs["steps_to_target"]).all()
    assert float(runs["loss"].std("step").max()) < 1e-2


def test_a_loss_that_needs_its_key_is_refused_in_a_line():
    with pytest.raises(ia.UserError, match=r"loss: it fails without a key.*key=None"):
        ia.sweep(
            ia.from_loss(lambda p, b, key: mse(p, b) + jax.random.normal(key), init=normal,
                         data=(X, y)),
            axes={"learning_rate": [0.1]}, optimizer=sgd, num_steps=2,
        )  # fmt: skip


def test_auxiliary_values_of_mini_batches_are_those_of_all_rows():
    def loss(params, batch):
        return mse(params, batch), {"rows": 1.0 * len(batch[1])}

    runs = ia.sweep(
        ia.from_loss(loss, init=normal, data=(X, y), has_aux=True), optimizer=sgd, num_steps=24,
        axes={"learning_rate": [0.1]}, batch_size=5,
    )  # fmt: skip
    assert runs["rows"].values.tolist() == [[60.0] * 3]


# --- what is not defined -------------------------------------------------------------------------


def test_metrics_of_a_diverged_run_are_no_numbers():
    def loss(params, batch):
        return mse(params, batch), {"accuracy": jnp.exp(-mse(params, batch))}

    runs = ia.sweep(
        ia.from_loss(loss, init=normal, data=(X, y), held_out=(X, y), has_aux=True),
        axes={"learning_rate": [0.05, 50.0]}, optimizer=sgd, num_steps=30,
        record={"size": lambda point: jnp.sum(jnp.abs(point.parameters["w"]))},
    )  # fmt: skip
    assert np.isfinite(runs["divergence_step"].values).tolist() == [False, True]
    for name in ("accuracy", "size"):
        last = runs[name].isel({runs[name].dims[-1]: -1})
        assert np.isnan(last[1])
        assert float(last.idxmax("learning_rate")) == 0.05
    for name in ("loss", "excess_loss", "held_out_loss"):
        assert np.isinf(runs[name][1, -1])


def test_an_undefined_observable_is_no_number_and_a_loss_is_infinite():
    problem = linear.make_problem(linear.gas_like())
    config = linear.SweepConfig(
        depths=(1,), losses=(linear.Loss(2),), optimizers=(ia.Optimizer("adam"),), num_steps=5,
        learning_rates=(0.01,), num_seeds=1, record=("preconditioned_sharpness",),
    )  # fmt: skip
    runs = linear.run_sweep(problem, config)
    values = runs["preconditioned_sharpness"].values.ravel()
    # Adam's preconditioner is 0/0 before its first step.
    assert np.isnan(values[0])
    assert np.isfinite(values[1:]).all()


# --- no target -----------------------------------------------------------------------------------


def test_without_a_target_tables_say_so(tmp_path):
    runs = ia.sweep(
        ia.from_loss(mse, init=normal, data=(X, y)), optimizer=sgd, num_steps=10, folder=tmp_path,
        axes={"learning_rate": [0.05, 0.1], "seed": [0, 1]},
    )  # fmt: skip
    assert np.isnan(runs["target"])
    table = ia.summarise(runs)
    assert "No target." in summary.caption(table)
    assert "smallest final" in summary.caption(table)
    assert summary.cells(table, 0)[3] == "-"
    assert ia.load_run(tmp_path).identical(runs)
