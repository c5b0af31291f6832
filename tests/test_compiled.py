"""Within a process nothing is compiled twice, and no program is taken for another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import count_compilations
from oracles import random_problem

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.engine import compiled
from implicit_accel.engine.compiled import compile_once, forget_compiled

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((40, 3)), rng.standard_normal(40)


def make_task(factor=1.0, **options):
    """A task whose functions are made anew, with a constant in a closure."""

    def loss(w, batch):
        x, y = batch
        return factor * jnp.mean((x @ w - y) ** 2)

    given: dict[str, Any] = {"init": lambda key: jax.random.normal(key, (3,)), "data": (X, Y)}
    return ia.from_loss(loss, **(given | options))


def sweep(task, **changes):
    given: dict[str, Any] = {
        "axes": {"learning_rate": (0.01, 0.1), "seed": (0, 1)}, "num_steps": 50,
        "optimizer": lambda hp: optax.sgd(hp["learning_rate"]),
    }  # fmt: skip
    return ia.sweep(task, **(given | changes))


OTHERS = {
    "rates": {"axes": {"learning_rate": (0.02, 0.3), "seed": (0, 1)}},
    "seeds": {"axes": {"learning_rate": (0.01, 0.1), "seed": (5, 9)}},
    "more steps": {"num_steps": 700},
    "fewer steps": {"num_steps": 7},
    "target": {"target": 0.9},
    "records": {"records_per_decade": 3},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_another_grid_of_the_same_shape_compiles_nothing(name, batch_size):
    sweep(make_task(), batch_size=batch_size)
    found = []

    def again():
        found.append(sweep(make_task(), batch_size=batch_size, **OTHERS[name]))

    assert count_compilations(again, forget=False) == 0
    assert count_compilations(again) == 1
    assert found[0].identical(found[1])


def test_another_linear_grid_compiles_nothing():
    problem = random_problem(np.random.default_rng(1), n=31)

    def train(rates, steps):
        config = linear.SweepConfig(learning_rates=rates, num_seeds=2, num_steps=steps)
        return linear.run_sweep(problem, config)

    assert count_compilations(lambda: train((0.01, 0.1), 300)) == 1
    assert count_compilations(lambda: train((0.02, 3.0), 250), forget=False) == 0


def test_a_constant_in_a_closure_makes_another_program():
    for factor in (1.0, 2.0):
        found = sweep(make_task(factor))
        forget_compiled()
        assert found.identical(sweep(make_task(factor)))


def test_records_keep_their_names():
    """Programs that compute the same under other names."""

    def recording(first, second):
        return sweep(
            make_task(), record={first: lambda p: p.trained[0], second: lambda p: p.trained[1]}
        )

    there, here = recording("a", "b"), recording("b", "a")
    np.testing.assert_array_equal(there["a"], here["b"])
    np.testing.assert_array_equal(there["b"], here["a"])
    assert not np.array_equal(there["a"], there["b"])


def test_programs_that_call_back_are_compiled_each_time():
    scale = [1.0]

    def loss(w, batch):
        factor = jax.pure_callback(
            lambda: np.float32(scale[0]), jax.ShapeDtypeStruct((), np.float32),
            vmap_method="broadcast_all",
        )  # fmt: skip
        return jax.lax.stop_gradient(factor) * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    def train():
        return sweep(ia.from_loss(loss, init=lambda key: jax.random.normal(key, (3,)), data=(X, Y)))

    first = train()
    scale[0] = 2.0
    np.testing.assert_allclose(train()["loss"][..., 0], 2 * first["loss"][..., 0], rtol=1e-6)


def test_the_programs_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(compiled, "_MOST_KEPT", 2)
    forget_compiled()

    def call(size):
        return compile_once(jax.jit(lambda x: 2 * x), (jnp.ones(size),), ()).call

    a, b = call(1), call(2)
    assert call(1) is a
    call(3)
    assert call(1) is a
    assert call(2) is not b
    assert compile_once(jax.jit(lambda x: 2 * x), (jnp.ones(1),), "other device").call is not a
