"""Random streams of one seed are separate: initialisation, loss, optimizer, mini-batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import stream

import implicit_accel as ia

SIZE = 400


def train(loss, init, **options: Any):
    given: dict[str, Any] = {
        "axes": {"learning_rate": [1e-9], "seed": range(6)}, "num_steps": 2,
        "optimizer": lambda hp: optax.sgd(hp["learning_rate"]),
    }  # fmt: skip
    return ia.sweep(ia.from_loss(loss, init=init, data=np.ones(2)), **(given | options))


def test_the_loss_s_noise_is_not_the_initial_weights():
    """Their correlation, which children of one key would make 1."""

    def init(key):
        _, b = jax.random.split(key)
        return {"w": jax.random.normal(b, (SIZE,))}

    def loss(params, batch, key):
        drawn = jnp.zeros(SIZE) if key is None else jax.random.normal(key, (SIZE,))
        return jnp.corrcoef(drawn + 1e-9 * params["w"], params["w"])[0, 1] + 0 * jnp.sum(batch)

    runs = train(loss, init)
    first = runs["batch_loss"].isel(batch_step=0).values.ravel()
    assert len(first) == 6
    assert np.abs(first).max() < 5 / SIZE**0.5


def test_an_optimizer_s_noise_is_not_the_initial_weights():
    def init(key):
        return {"w": jax.random.normal(jax.random.split(key)[1], (SIZE,))}

    def move(hp, key):
        noise = jax.random.normal(jax.random.split(key)[1], (SIZE,))

        def update(updates, state, params=None):
            del updates, params
            return {"w": noise + hp["learning_rate"]}, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    runs = train(
        lambda p, b: jnp.sum(p["w"]) + 0 * jnp.sum(b), init, optimizer=move,
        record={"w": lambda point: jnp.dot(point.parameters["w"], point.parameters["w"])},
    )  # fmt: skip
    # |w + n|² is |w|² + |n|² where they are independent, and 4 |w|² where they are the same.
    start, after = (runs["w"].isel(observation_step=i).values for i in (0, 1))
    assert np.all(np.abs(after / start - 2) < 0.6)


def test_streams_are_those_of_the_documentation():
    keys = {
        name: jax.random.key_data(ia.run_key(7, name)) for name in ("init", "loss", "optimizer")
    }
    for name, letters in (("init", b"init"), ("loss", b"loss"), ("optimizer", b"opti")):
        np.testing.assert_array_equal(keys[name], jax.random.key_data(stream(7, letters)))
    with pytest.raises(KeyError):
        ia.run_key(7, "batches")


def test_no_stream_is_a_near_relative_of_the_seed_s_own_key():
    """None is the seed's key, among its first thousand children, or among another stream's."""
    for seed in (0, 1, 2**32 - 1):
        own = jax.random.key(np.uint32(seed))
        roots = [own, *(ia.run_key(seed, name) for name in ("init", "loss", "optimizer"))]
        seen = set()
        for root in roots:
            family = [root[None], jax.random.split(root, 1000)]
            for keys in family:
                for data in np.asarray(jax.random.key_data(keys)):
                    assert tuple(data) not in seen
                    seen.add(tuple(data))


def test_a_seed_alone_decides_each_stream():
    def init(key):
        return {"w": jax.random.normal(key, (4,))}

    def loss(params, batch, key):
        noise = 0.0 if key is None else jax.random.normal(key)
        return noise + jnp.sum(params["w"] ** 2) + 0 * jnp.sum(batch)

    few = train(loss, init, axes={"learning_rate": [0.1], "seed": [5, 3]})
    many = train(loss, init, axes={"seed": range(6), "learning_rate": [0.2, 0.1]})
    expected = many["batch_loss"].sel(learning_rate=[0.1], seed=[5, 3])
    np.testing.assert_allclose(
        few["batch_loss"], expected.transpose(*few["batch_loss"].dims), rtol=1e-5
    )
