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


@pytest.mark.nightly
def test_an_equinox_cnn():
    eqx: Any = pytest.importorskip("equinox")
    images, labels = RNG.standard_normal((8, 1, 6, 6)), np.arange(8) % 2

    class Network(eqx.Module):
        convolution: Any
        last: Any

        def __init__(self, key):
            first, last = jax.random.split(key)
            self.convolution = eqx.nn.Conv2d(1, 2, 3, key=first)
            self.last = eqx.nn.Linear(2, 2, key=last)

        def __call__(self, x):
            return self.last(jax.nn.relu(self.convolution(x)).mean(axis=(1, 2)))

    def loss(model, batch):
        logits = jax.vmap(model)(batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    runs = sweep(
        ia.from_loss(loss, init=Network, data=(images, labels)),
        {"learning_rate": [0.1, 0.5], "seed": [0, 4]},
        lambda hp: optax.sgd(hp["learning_rate"], momentum=0.9),
    )
    rule = optax.sgd(0.5, momentum=0.9)
    with jax.enable_x64(False):
        model = Network(stream(4, b"init"))
    with jax.enable_x64(True):
        trained, fixed = eqx.partition(model, eqx.is_inexact_array)
        trained = jax.tree.map(lambda a: jnp.asarray(a, float), trained)
        state = rule.init(trained)
        for step in range(NUM_STEPS + 1):
            value, slope = jax.value_and_grad(
                lambda t: loss(eqx.combine(t, fixed), (jnp.asarray(images), labels))
            )(trained)
            found = runs["loss"].sel(learning_rate=0.5, seed=4)[step]
            np.testing.assert_allclose(found, value, rtol=1e-7)
            updates, state = rule.update(slope, state)
            trained = optax.apply_updates(trained, updates)


@pytest.mark.nightly
def test_a_character_transformer():
    """One layer of attention that predicts the next character of a repeated text."""
    text = "to be or not to be "
    letters = sorted({*text})
    codes = np.array([letters.index(c) for c in text * 2])
    windows = np.stack([codes[i : i + 7] for i in range(19)])

    def init(key):
        shapes = {"embed": (len(letters), 8), "place": (6, 8), "qkv": (3, 8, 8), "out": (8, 8)}
        keys = jax.random.split(key, len(shapes))
        return {
            n: jax.random.normal(k, s) / 3 for (n, s), k in zip(shapes.items(), keys, strict=True)
        }

    def loss(params, batch):
        x = params["embed"][batch[:, :-1]] + params["place"]
        q, k, v = (x @ W for W in params["qkv"])
        scores = jnp.where(jnp.tri(6, dtype=bool), q @ k.swapaxes(-1, -2), -jnp.inf)
        x = x + jax.nn.softmax(scores) @ v @ params["out"]
        logits = x @ params["embed"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    runs = sweep(
        ia.from_loss(loss, init=init, data=windows),
        {"learning_rate": [0.01, 0.05], "seed": [0, 3]}, lambda hp: optax.adam(hp["learning_rate"]),
    )  # fmt: skip
    expected = follow(lambda p, b, _: loss(p, b), init, optax.adam(0.05), seed=3, data=windows)
    found = runs["loss"].sel(learning_rate=0.05, seed=3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.nightly
def test_widths_and_depths_that_shape_arrays():
    def init(key, hp):
        sizes = [3, *[hp["width"]] * (hp["depth"] - 1), 1]
        keys = jax.random.split(key, hp["depth"])
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [jax.random.normal(k, (a, b)) / np.sqrt(a) for k, a, b in pairs]

    def loss(params, batch):
        h = batch[0]
        for W in params[:-1]:
            h = jnp.tanh(h @ W)
        return jnp.mean((h @ params[-1] - batch[1][:, None]) ** 2)

    runs = sweep(
        ia.from_loss(loss, init=init, data=(X, y)),
        {"width": ia.static(2, 4), "depth": ia.static(1, 2, 3), "learning_rate": [0.05, 0.1],
         "seed": [1]},
        lambda hp: optax.sgd(hp["learning_rate"]),
    )  # fmt: skip
    for width in (2, 4):
        for depth in (1, 2, 3):
            found = runs["loss"].sel(width=width, depth=depth, learning_rate=0.1, seed=1)
            expected = follow(
                lambda p, b, _: loss(p, b),
                lambda key, w=width, n=depth: init(key, {"width": w, "depth": n}),
                optax.sgd(0.1), seed=1,
            )  # fmt: skip
            np.testing.assert_allclose(found, expected, rtol=1e-8)
