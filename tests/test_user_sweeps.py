"""Sweeps as a user writes them, and the plain loop that each of their runs must follow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import stream

import implicit_accel as ia

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3))
y = np.sin(X[:, 0]) + X[:, 1]
NUM_STEPS = 8


def sweep(task, axes, optimizer, **options: Any):
    given = {"num_steps": NUM_STEPS, "records_per_decade": 1000, "precision": "float64"}
    return ia.sweep(task, axes=axes, optimizer=optimizer, **given | options)


def follow(loss, start, rule, *, seed, data=(X, y)):
    """Losses of a plain loop; ``loss(params, batch, key)``, the key that of the step."""
    with jax.enable_x64(False):
        params = jax.jit(start)(stream(seed, b"init"))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, float), params)
        batch = jax.tree.map(jnp.asarray, data)
        state, losses = rule.init(params), []

        @jax.jit
        def step(params, state, key):
            value, slope = jax.value_and_grad(loss)(params, batch, key)
            updates, state = rule.update(slope, state, params)
            return value, optax.apply_updates(params, updates), state

        for number in range(NUM_STEPS + 1):
            key = jax.random.fold_in(stream(seed, b"loss"), number)
            value, params, state = step(params, state, key)
            losses.append(float(value))
    return np.array(losses)


def tanh_init(key):
    first, last = jax.random.split(key)
    return {"W": jax.random.normal(first, (3, 5)), "v": jax.random.normal(last, (5,))}


def tanh_loss(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["W"]) @ params["v"] - batch[1]) ** 2)


OPTIMIZERS = {
    "sgd": optax.sgd, "adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop,
    "lion": optax.lion,
}  # fmt: skip


@pytest.mark.nightly
def test_optimizers_along_an_axis():
    runs = sweep(
        ia.from_loss(tanh_loss, init=tanh_init, data=(X, y)),
        {"optimizer": [*OPTIMIZERS], "learning_rate": [0.01, 0.1], "seed": [0, 2]},
        lambda hp: OPTIMIZERS[hp["optimizer"]](hp["learning_rate"]),
    )
    for name, make in OPTIMIZERS.items():
        found = runs["loss"].sel(optimizer=name, learning_rate=0.1, seed=2)
        expected = follow(lambda p, b, _: tanh_loss(p, b), tanh_init, make(0.1), seed=2)
        np.testing.assert_allclose(found, expected, rtol=1e-7, err_msg=name)


@pytest.mark.nightly
def test_a_schedule_made_of_hyper_parameters():
    def optimizer(hp):
        # With a peak of 1: optax compares the peak with 0 in Python.
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, 3, NUM_STEPS, hp["last"])
        return optax.sgd(lambda step: hp["learning_rate"] * shape(step))

    runs = sweep(
        ia.from_loss(tanh_loss, init=tanh_init, data=(X, y)),
        {"learning_rate": [0.05, 0.2], "last": [0.0, 0.01], "seed": [1]}, optimizer,
    )  # fmt: skip
    for rate in (0.05, 0.2):
        for last in (0.0, 0.01):
            found = runs["loss"].sel(learning_rate=rate, last=last, seed=1)
            rule = optimizer({"learning_rate": rate, "last": last})
            expected = follow(lambda p, b, _: tanh_loss(p, b), tanh_init, rule, seed=1)
            np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.nightly
def test_matrix_completion_by_depth():
    truth = RNG.standard_normal((6, 2)) @ RNG.standard_normal((2, 6))
    rows, columns = np.nonzero(RNG.random((6, 6)) < 0.6)
    data = (rows, columns, truth[rows, columns])

    def init(key, hp):
        keys = jax.random.split(key, hp["depth"])
        return [jnp.eye(6) / 2 + jax.random.normal(k, (6, 6)) / 10 for k in keys]

    def loss(params, batch):
        product = params[0]
        for factor in params[1:]:
            product = product @ factor
        return jnp.mean((product[batch[0], batch[1]] - batch[2]) ** 2)

    runs = sweep(
        ia.from_loss(loss, init=init, data=data),
        {"depth": ia.static(1, 2, 3), "learning_rate": [0.1, 0.3], "seed": [0, 5]},
        lambda hp: optax.sgd(hp["learning_rate"]),
    )
    for depth in (1, 2, 3):
        found = runs["loss"].sel(depth=depth, learning_rate=0.3, seed=5)
        expected = follow(
            lambda p, b, _: loss(p, b), lambda key, n=depth: init(key, {"depth": n}),
            optax.sgd(0.3), seed=5, data=data,
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.nightly
def test_batch_normalisation_with_dropout():
    """Variables in Flax's manner, whose dropout draws from the step's key."""

    def init(key):
        return tanh_init(key), {"batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}

    def loss(params, state, batch, key, train):
        hidden, stats = batch[0] @ params["W"], state["batch_stats"]
        mean, var = stats["mean"], stats["var"]
        if train:
            mean, var = hidden.mean(axis=0), hidden.var(axis=0)
            stats = {"mean": (stats["mean"] + mean) / 2, "var": (stats["var"] + var) / 2}
        hidden = jnp.tanh((hidden - mean) / jnp.sqrt(var + 1e-5))
        if train:
            hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
        return jnp.mean((hidden @ params["v"] - batch[1]) ** 2), {"batch_stats": stats}

    runs = sweep(
        ia.from_loss(loss, init=init, data=(X, y), has_state=True),
        {"learning_rate": [0.05, 0.1], "seed": [0, 2]}, lambda hp: optax.sgd(hp["learning_rate"]),
    )  # fmt: skip
    for seed in (0, 2):
        # What is trained on does not depend on the running statistics; what is evaluated does.
        start = init(stream(seed, b"init"))[1]
        expected = follow(
            lambda p, b, key, s=start: loss(p, s, b, key, True)[0], tanh_init, optax.sgd(0.1),
            seed=seed,
        )  # fmt: skip
        found = runs.sel(learning_rate=0.1, seed=seed)
        np.testing.assert_allclose(found["batch_loss"], expected, rtol=1e-7)
        with jax.enable_x64(False):
            params, _ = jax.jit(init)(stream(seed, b"init"))
        W, v = np.asarray(params["W"], float), np.asarray(params["v"], float)
        outputs = np.tanh(X @ W / np.sqrt(1 + 1e-5)) @ v
        np.testing.assert_allclose(found["loss"][0], np.mean((outputs - y) ** 2), rtol=1e-6)


def test_a_loss_that_is_no_number_at_the_start_of_some_runs():
    """Runs that begin where the loss is undefined have diverged at step 0; the others train."""

    def loss(params, batch):
        return jnp.mean((jnp.log(params["c"]) - batch[1]) ** 2)

    task = ia.from_loss(loss, init=lambda hp: {"c": jnp.ones(()) * hp["first"]}, data=(X, y))
    runs = sweep(task, {"first": [-1.0, 0.5, 2.0]}, optax.sgd(0.05))
    assert runs["divergence_step"].values[0] == 0
    assert np.isinf(runs["loss"].values[0]).all()
    for first in (0.5, 2.0):
        c = first
        for step in range(NUM_STEPS + 1):
            np.testing.assert_allclose(
                runs["loss"].sel(first=first)[step], np.mean((np.log(c) - y) ** 2), rtol=1e-9
            )
            c -= 0.05 * 2 * np.mean(np.log(c) - y) / c
