"""W7: models of one's own, against the ``jit(vmap(scan))`` that a user would write instead.

    python -m benchmarks.own_models mlp --held_out --by hand

One contender in a process of its own: a first call, compilation included, then calls with other
learning rates. Both record the same losses at the same steps, and both print their last ones, which
`benchmarks.run` holds against each other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import implicit_accel as ia
from implicit_accel.engine.layout import batch_order, spaced_steps

ROWS, HELD_OUT_ROWS, BATCH_SIZE = 1024, 512, 16
NUM_SEEDS, NUM_RATES, CALLS = 4, 8, 4
OBSERVE_EVERY = 64  # an epoch


@dataclass(frozen=True)
class Model:
    """A user's model.

    Attributes:
        init: Returns the parameters that a key draws.
        loss: Of parameters and a batch (images, labels): the mean cross-entropy.
        num_steps: Updates of a run.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    num_steps: int


def _weights(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) * (2 / np.prod(shape[:-1])) ** 0.5


def _init_mlp(key: jax.Array) -> Any:
    a, b, c = jax.random.split(key, 3)
    return {"a": _weights(a, 64, 64), "b": _weights(b, 64, 64), "c": _weights(c, 64, 10)}


def _mlp_loss(params: Any, batch: Any) -> jax.Array:
    images, labels = batch
    hidden = jax.nn.relu(images.reshape(len(images), 64) @ params["a"])
    logits = jax.nn.relu(hidden @ params["b"]) @ params["c"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _init_cnn(key: jax.Array) -> Any:
    a, b, c = jax.random.split(key, 3)
    return {
        "a": _weights(a, 3, 3, 1, 8), "b": _weights(b, 3, 3, 8, 16), "c": _weights(c, 256, 10)
    }  # fmt: skip


def _cnn_loss(params: Any, batch: Any) -> jax.Array:
    images, labels = batch
    layout = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(images, params["a"], (1, 1), "SAME", dimension_numbers=layout)
    x = lax.conv_general_dilated(
        jax.nn.relu(x), params["b"], (2, 2), "SAME", dimension_numbers=layout
    )
    logits = jax.nn.relu(x).reshape(len(images), 256) @ params["c"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


MODELS = {"mlp": Model(_init_mlp, _mlp_loss, 640), "cnn": Model(_init_cnn, _cnn_loss, 320)}


def _data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((ROWS + HELD_OUT_ROWS, 8, 8, 1)).astype(np.float32)
    labels = (np.abs(images[:, :2, :5, 0]).sum(axis=1).argmax(axis=1)).astype(np.int32)
    return (images[:ROWS], labels[:ROWS]), (images[ROWS:], labels[ROWS:])


def _by_sweep(model: Model, *, held_out: bool) -> Callable[[np.ndarray], np.ndarray]:
    train, held = _data()
    task = ia.from_loss(
        model.loss, init=model.init, data=train, held_out=held if held_out else None
    )

    def call(rates: np.ndarray) -> np.ndarray:
        results = ia.sweep(
            task,
            axes={"learning_rate": rates.tolist(), "seed": range(NUM_SEEDS)},
            optimizer=lambda hp: optax.sgd(hp["learning_rate"]),
            num_steps=model.num_steps,
            batch_size=BATCH_SIZE,
            record_every=OBSERVE_EVERY,
        )
        return results["loss"].values[..., -1]

    return call


def _by_hand(model: Model, *, held_out: bool) -> Callable[[np.ndarray], np.ndarray]:
    """One ``jit(vmap(scan))`` over all runs, with the same records."""
    train, held = _data()
    per_epoch, num_steps = ROWS // BATCH_SIZE, model.num_steps
    epochs = range(num_steps // per_epoch + 1)
    rows = np.stack(
        [
            np.concatenate([batch_order(seed, e, ROWS) for e in epochs])[: (num_steps + 1) * 16]
            for seed in range(NUM_SEEDS)
        ]
    ).reshape(NUM_SEEDS, num_steps + 1, BATCH_SIZE)
    steps = np.arange(num_steps + 1)
    full = np.isin(steps, [*(spaced_steps(num_steps // per_epoch, 150) * per_epoch), num_steps])
    observed = steps % OBSERVE_EVERY == 0

    @jax.jit
    def sweep(rates: Any, rows: Any, keys: Any, train: Any, held: Any) -> Any:
        def start(key: Any) -> Any:
            return model.init(key)

        params = jax.vmap(start)(keys)

        def step(params: Any, now: Any) -> Any:
            own, is_full, is_observed = now

            def one(params: Any, rate: Any, own: Any) -> Any:
                batch = jax.tree.map(lambda a: a[own], train)
                loss, gradient = jax.value_and_grad(model.loss)(params, batch)
                return loss, jax.tree.map(lambda p, g: p - rate * g, params, gradient)

            nothing = jnp.full(len(rates), jnp.nan)
            of_all = lax.cond(
                is_full, lambda p: jax.vmap(lambda q: model.loss(q, train))(p),
                lambda _: nothing, params,
            )  # fmt: skip
            of_held = nothing
            if held_out:
                of_held = lax.cond(
                    is_observed, lambda p: jax.vmap(lambda q: model.loss(q, held))(p),
                    lambda _: nothing, params,
                )  # fmt: skip
            losses, params = jax.vmap(one)(params, rates, own)
            return params, (losses, of_all, of_held)

        return lax.scan(step, params, (rows, full, observed))[1]

    run_key = jax.vmap(lambda seed: ia.run_key(seed, "init"))(
        jnp.arange(NUM_SEEDS, dtype=np.uint32)
    )

    def call(rates: np.ndarray) -> np.ndarray:
        # Runs in the order of the axes: every rate with every seed.
        seeds = np.tile(np.arange(NUM_SEEDS), len(rates))
        own = np.repeat(rates.astype(np.float32), NUM_SEEDS)
        recorded = sweep(own, rows[seeds].transpose(1, 0, 2), run_key[seeds], train, held)
        _, of_all, _ = jax.tree.map(np.asarray, recorded)
        return of_all[-1].reshape(len(rates), NUM_SEEDS)

    return call


CONTENDERS = {"sweep": _by_sweep, "hand": _by_hand}


def _rates(call: int) -> np.ndarray:
    return np.geomspace(0.003, 0.03, NUM_RATES) * 1.05**call


def main() -> None:
    """One contender; its seconds and last losses as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--held_out", action="store_true")
    parser.add_argument("--by", choices=CONTENDERS, required=True)
    given = parser.parse_args()
    if given.by == "sweep":
        ia.use_cpu_devices()
    call = CONTENDERS[given.by](MODELS[given.model], held_out=given.held_out)
    seconds, losses = [], np.zeros(0)
    for number in range(CALLS):
        began = time.perf_counter()
        losses = call(_rates(number))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({
        "cold": seconds[0], "warm": statistics.median(seconds[1:]), "losses": losses.tolist(),
    }))  # fmt: skip


CASES = {
    f"{model}, mini-batches of {BATCH_SIZE}{', held-out loss' * held_out}": (
        [model, "--held_out"] if held_out else [model]
    )
    for model in MODELS
    for held_out in (False, True)
}
"""Arguments of a contender's process, by what is trained."""


if __name__ == "__main__":
    main()
