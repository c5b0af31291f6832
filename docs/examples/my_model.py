"""A model of one's own: a tanh network on the Huber loss, with clipping and a warm-up.

python -m experiments.sweep --task docs/examples/my_model.py:task --task_optimizer optimizer \
    --axes width_scale=0.5:1:2 --learning_rates log:1e-3:1:12 --batch_size 64 --num_steps 2000
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_accel as ia

WARM_UP, DECAY = 100, 2000

rng = np.random.default_rng(0)
X = rng.standard_normal((400, 6))
y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.standard_t(2, 400)


def init(key, hp):
    """Initial parameters: any pytree of arrays."""
    first, second = jax.random.split(key)
    return {
        "W1": hp["width_scale"] * jax.random.normal(first, (32, 6)) / 6**0.5,
        "b1": jnp.zeros(32),
        "W2": jax.random.normal(second, (32,)) / 32**0.5,
    }


def loss(params, batch):
    """What is minimised, on a batch of rows."""
    features, labels = batch
    hidden = jnp.tanh(features @ params["W1"].T + params["b1"])
    return optax.huber_loss(hidden @ params["W2"], labels).mean()


def optimizer(hp):
    """Any optax transformation, made of the hyper-parameters."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, WARM_UP, DECAY)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(lambda step: hp["learning_rate"] * schedule(step)),
    )


task = ia.from_loss(loss, init=init, data=(X[:300], y[:300]), held_out=(X[300:], y[300:]),
                    name="tanh_network")  # fmt: skip
