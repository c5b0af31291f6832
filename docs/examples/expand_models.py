"""Six small models whose layers may be expanded: a task and the layers for each.

    python -m experiments.expand --task docs/examples/expand_models.py:mlp --where 'hidden.kernel'

Data come from generators and from Python's own documentation, so that nothing is downloaded.
"""

from __future__ import annotations

import math
import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_accel as ia
from implicit_accel import linear

ROWS = 256
CONTEXT, CHARACTERS = 24, "abcdefghijklmnopqrstuvwxyz .,()'\"=_\n"


def _glorot(key, *shape):
    """Fan-in initialisation; the last axis are the outputs."""
    return jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))


def _digits(rows):
    """Generated digits, pooled to 8 × 8 pixels, with their classes."""
    data = ia.images.mnist_like()
    images = data.train_images[:rows, 2:26, 2:26].astype(np.float32) / 255
    pooled = images.reshape(rows, 8, 3, 8, 3).mean(axis=(2, 4))
    return (pooled - pooled.mean()) / pooled.std(), data.train_labels[:rows].astype(int)


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _convolve(x, kernel):
    """A 3 × 3 convolution as one product of matrices: XLA's batched ones are slow on CPUs."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _pool(x):
    """Means of 2 × 2 pixels, flattened."""
    rows, height, width, channels = x.shape
    return (
        x.reshape(rows, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4)).reshape(rows, -1)
    )


def mlp():
    """A perceptron on 64 pixels: layers of 32 and 10."""
    images, labels = _digits(ROWS)

    def init(key):
        a, b = jax.random.split(key)
        return {
            "hidden": {"kernel": _glorot(a, 64, 32), "bias": jnp.zeros(32)},
            "out": {"kernel": _glorot(b, 32, 10), "bias": jnp.zeros(10)},
        }

    def loss(params, batch):
        x, own = batch
        h = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        return _cross_entropy(h @ params["out"]["kernel"] + params["out"]["bias"], own)

    return ia.from_loss(loss, init=init, data=(images.reshape(ROWS, -1), labels), name="mlp")


def cnn():
    """Two convolutions and a dense layer on 8 × 8 pixels."""
    images, labels = _digits(ROWS // 2)

    def init(key):
        a, b, c = jax.random.split(key, 3)
        return {
            "conv1": _glorot(a, 3, 3, 1, 6),
            "conv2": _glorot(b, 3, 3, 6, 8),
            "out": _glorot(c, 128, 10),
        }

    def loss(params, batch):
        x, own = batch
        h = jax.nn.relu(_convolve(x[..., None], params["conv1"]))
        h = jax.nn.relu(_convolve(h, params["conv2"]))
        return _cross_entropy(_pool(h) @ params["out"], own)

    return ia.from_loss(loss, init=init, data=(images, labels), name="cnn")


def resnet():
    """A stem and two residual blocks on 8 × 8 pixels, without normalisation."""
    images, labels = _digits(ROWS // 2)

    def init(key):
        keys = jax.random.split(key, 6)
        blocks = [
            {
                "first": _glorot(keys[2 * i], 3, 3, 6, 6),
                "second": _glorot(keys[2 * i + 1], 3, 3, 6, 6),
            }
            for i in range(2)
        ]
        return {
            "stem": _glorot(keys[4], 3, 3, 1, 6),
            "blocks": blocks,
            "out": _glorot(keys[5], 96, 10),
        }

    def loss(params, batch):
        x, own = batch
        h = _convolve(x[..., None], params["stem"])
        for block in params["blocks"]:
            inner = jax.nn.relu(_convolve(jax.nn.relu(h), block["first"]))
            h = h + 0.5 * _convolve(inner, block["second"])
        return _cross_entropy(_pool(jax.nn.relu(h)) @ params["out"], own)

    return ia.from_loss(loss, init=init, data=(images, labels), name="resnet")


def transformer():
    """Two layers of attention on characters of Python's documentation; it predicts the next one."""
    text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    places = [CHARACTERS.index(c) for c in text.lower()[:40_000] if c in CHARACTERS]
    rows = np.array(places[: ROWS // 4 * (CONTEXT + 1)], np.int32).reshape(-1, CONTEXT + 1)
    size, heads = 16, 2

    def init(key):
        keys = iter(jax.random.split(key, 11))

        def layer():
            return {
                "query": _glorot(next(keys), size, size), "key": _glorot(next(keys), size, size),
                "value": _glorot(next(keys), size, size), "up": _glorot(next(keys), size, 2 * size),
                "down": 0.5 * _glorot(next(keys), 2 * size, size),
            }  # fmt: skip

        return {
            "embedding": 0.5 * jax.random.normal(next(keys), (len(CHARACTERS) + CONTEXT, size)),
            "layers": [layer(), layer()],
        }

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def attend(x, layer):
        q, k, v = (
            (x @ layer[name]).reshape(*x.shape[:2], heads, -1) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(size // heads)
        mask = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)

    def loss(params, batch):
        table = params["embedding"]
        x = table[batch[:, :-1]] + table[len(CHARACTERS) :]
        for layer in params["layers"]:
            x = x + attend(norm(x), layer)
            x = x + jax.nn.relu(norm(x) @ layer["up"]) @ layer["down"]
        logits = norm(x) @ table[: len(CHARACTERS)].T
        return _cross_entropy(logits, batch[:, 1:])

    return ia.from_loss(loss, init=init, data=rows, name="transformer")


def tabular():
    """A tanh perceptron with a Huber loss, on the stand-in for the Gas Sensor (Ethanol) data."""
    problem = linear.make_problem(linear.gas_like())
    rows = problem.features[:ROWS].astype(np.float32)
    labels = problem.targets[:ROWS].astype(np.float32)

    def init(key):
        a, b = jax.random.split(key)
        return {
            "hidden": {"kernel": _glorot(a, rows.shape[1], 32), "bias": jnp.zeros(32)},
            "out": {"kernel": _glorot(b, 32, 1), "bias": jnp.zeros(1)},
        }

    def loss(params, batch):
        x, own = batch
        h = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        errors = h @ params["out"]["kernel"] + params["out"]["bias"] - own
        return optax.losses.huber_loss(errors, delta=0.5).mean()

    return ia.from_loss(loss, init=init, data=(rows, labels), name="tabular")


def lora():
    """A frozen layer with an adapter of rank 4; the adapter's first matrix may be expanded."""
    rng = np.random.default_rng(0)
    frozen = rng.standard_normal((32, 16)).astype(np.float32) / math.sqrt(32)
    shift = rng.standard_normal((32, 4)) @ rng.standard_normal((4, 16)) / 16
    rows = rng.standard_normal((ROWS, 32)).astype(np.float32)
    labels = (rows @ (frozen + shift) + 0.1 * rng.standard_normal((ROWS, 16))).astype(np.float32)

    def init(key):
        return {"down": _glorot(key, 32, 4), "up": jnp.zeros((4, 16))}

    def loss(params, batch):
        x, own = batch
        return jnp.mean((x @ frozen + x @ params["down"] @ params["up"] - own) ** 2) / 2

    return ia.from_loss(loss, init=init, data=(rows, labels), name="lora")


WHERE = {
    "mlp": r"hidden\.kernel",
    "cnn": r"conv2",
    "resnet": r"blocks\..*",
    "transformer": r"layers\..*\.(up|down)",
    "tabular": r"hidden\.kernel",
    "lora": r"down",
}
"""The layers that are expanded on the page of results."""
