"""Tasks of users, each with a slow and obvious loop to hold it against."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_accel as ia
from implicit_accel.engine.layout import batch_order
from implicit_accel.experiments.compilation import keep_programs

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "my_model.py"


def example():
    spec = importlib.util.spec_from_file_location("my_model", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tanh_network():
    """The documentation's own: task, optimizer, further axis, size of mini-batches."""
    module = example()
    return module.task, module.optimizer, {"width_scale": (0.5, 1.0)}, 50


def logistic():
    """Multinomial regression with three classes, full batch, momentum, an axis in the loss."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((90, 4))
    labels = np.argmax(X @ rng.standard_normal((4, 3)) + rng.gumbel(size=(90, 3)), axis=1)

    def loss(params, batch, hp):
        features, classes = batch
        logits = features @ params["W"] + params["b"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()
        return entropy + hp["ridge"] * jnp.sum(params["W"] ** 2), {"entropy": entropy}

    def init(seed):
        return {"W": np.random.default_rng(seed).standard_normal((4, 3)), "b": np.zeros(3)}

    task = ia.from_loss(
        loss, init=init, data=(X, labels), reference_loss=np.log(3), has_aux=True, name="logistic"
    )
    return task, ia.Optimizer("momentum"), {"ridge": (0.0, 0.01)}, None


def equinox_network():
    """An Equinox module with dropout; its activation and dropout rate are fixed leaves."""
    eqx: Any = pytest.importorskip("equinox")
    rng = np.random.default_rng(2)
    X = rng.standard_normal((80, 3))
    Y = np.stack([np.tanh(X[:, 0]), X[:, 1] ** 2], axis=1)

    class Network(eqx.Module):
        first: Any
        last: Any
        dropout: Any

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.first, self.last = eqx.nn.Linear(3, 8, key=a), eqx.nn.Linear(8, 2, key=b)
            self.dropout = eqx.nn.Dropout(0.2)

        def __call__(self, x, key):
            h = jax.nn.gelu(self.first(x))
            h = self.dropout(h, key=key, inference=key is None)
            return self.last(h)

    def loss(model, batch, key):
        features, labels = batch
        outputs = jax.vmap(lambda x: model(x, key))(features)
        return jnp.mean((outputs - labels) ** 2)

    task = ia.from_loss(loss, init=lambda key: Network(key), data=(X, Y), name="equinox")

    def optimizer(hp):
        return optax.adamw(hp["learning_rate"], b1=hp["b1"])

    return task, optimizer, {"b1": (0.8, 0.9)}, 20


MODELS = {
    "tanh_network": tanh_network, "logistic": logistic, "equinox": equinox_network
}  # fmt: skip


def stream(seed: int, name: bytes) -> jax.Array:
    """The key of a run's stream: the name's letters, as a number, folded into the seed's key."""
    return jax.random.fold_in(jax.random.key(np.uint32(seed)), int.from_bytes(name, "big"))


def follow(
    name: str, hp: dict[str, Any], num_steps: int, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """The losses 0 … T of one run, step by step in a Python loop over a jitted update.

    Returns:
        What training saw, of mini-batches and with randomness; and on all rows, without it.
    """
    task, optimizer, _, batch_size = MODELS[name]()
    with jax.enable_x64(dtype == "float64"):
        if name == "logistic":
            model = task.init(hp["seed"])
        else:
            arguments = {"key": stream(hp["seed"], b"init"), "hp": hp}
            names = {"tanh_network": ("key", "hp"), "equinox": ("key",)}[name]
            with jax.enable_x64(False):
                make_model = task.init if name == "equinox" else jax.jit(task.init)
                model = make_model(**{n: arguments[n] for n in names})
        is_array = lambda a: hasattr(a, "dtype")  # noqa: E731
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype) if is_array(a) else None, model)
        rest = jax.tree.map(lambda a: None if is_array(a) else a, model)
        data = jax.tree.map(
            lambda a: jnp.asarray(a, dtype if a.dtype.kind == "f" else np.int32), task.data
        )
        if isinstance(optimizer, ia.Optimizer):
            rule = optimizer.build(hp["learning_rate"])
        else:
            rule = optimizer(hp)
        takes = {"logistic": {"hp": hp}, "tanh_network": {}, "equinox": {"key": None}}[name]

        def value(params, batch, key):
            whole = jax.tree.map(
                lambda a, b: b if a is None else a, params, rest, is_leaf=lambda a: a is None
            )
            given = takes | ({"key": key} if "key" in takes else {})
            found = task.loss(whole, batch, **given)
            return found[0] if task.has_aux else found

        @jax.jit
        def update(params, state, batch, key):
            loss, gradient = jax.value_and_grad(value)(params, batch, key)
            updates, state = rule.update(gradient, state, params)
            return loss, optax.apply_updates(params, updates), state

        on_all = jax.jit(lambda params: value(params, data, None))
        state, losses, full = rule.init(params), [], []
        per_epoch = task.num_rows // (batch_size or task.num_rows)
        for step in range(num_steps + 1):
            rows = np.arange(task.num_rows)
            if batch_size is not None:
                epoch, within = divmod(step, per_epoch)
                order = batch_order(hp["seed"], epoch, task.num_rows)
                rows = order[within * batch_size : (within + 1) * batch_size]
            batch = jax.tree.map(lambda a, rows=rows: a[rows], data)
            key = jax.random.fold_in(stream(hp["seed"], b"loss"), step)
            full.append(float(on_all(params)))
            loss, params, state = update(params, state, batch, key)
            losses.append(float(loss))
    return np.array(losses), np.array(full)


def sweep_in_folder(folder: str) -> None:
    """Trains a task in a process of its own, with as many checkpoints as can be."""
    jax.config.update("jax_num_cpu_devices", 2)
    keep_programs()  # as programs do: each process would compile for seconds
    task, optimizer, axes, batch_size = tanh_network()
    axes = {"learning_rate": np.geomspace(1e-3, 0.1, 8), "seed": range(4), **axes}
    ia.sweep(
        task, axes=axes, optimizer=optimizer, num_steps=4000, batch_size=batch_size, folder=folder,
        checkpoint_every=0.0,
    )  # fmt: skip
