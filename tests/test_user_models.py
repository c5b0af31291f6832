"""Any pytree, any optax transformation: supported as in a plain loop, or refused in a line."""

import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import param
from models import stream

import implicit_accel as ia

eqx: Any = pytest.importorskip("equinox")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype(np.float32)
y = (X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.standard_normal(60)).astype(np.float32)
NUM_STEPS = 12


def mse(params, batch):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def normal(key):
    return {"w": jax.random.normal(key, (4,))}


def task(loss=mse, init=normal, **options: Any):
    return ia.from_loss(loss, init=init, data=(X, y), **options)


def sgd(hp):
    return optax.sgd(hp["learning_rate"])


def train(made=None, **options: Any):
    given: dict[str, Any] = {
        "axes": {"learning_rate": [0.02, 0.05], "seed": [0, 3]}, "optimizer": sgd,
        "num_steps": NUM_STEPS, "records_per_decade": 1000, "precision": "float64",
    }  # fmt: skip
    return ia.sweep(made or task(), **(given | options))


def follow(given, seed, *, frozen=None):
    """Losses of a plain loop which gives the rule all that optax documents."""
    with jax.enable_x64(False):
        start = normal(stream(seed, b"init"))["w"]
    with jax.enable_x64(True):
        params: Any = {"w": jnp.asarray(start, float)}
        data = jnp.asarray(X, float), jnp.asarray(y, float)
        free = jnp.ones(4, bool) if frozen is None else ~frozen
        rule: Any = optax.with_extra_args_support(given)
        kinds = [p.kind for p in inspect.signature(rule.update).parameters.values()]

        @jax.jit
        def step(params, state):
            loss, gradient = jax.value_and_grad(mse)(params, data)
            gradient = {"w": jnp.where(free, gradient["w"], 0)}
            fixed = params["w"]

            def value_fn(p):
                return mse({"w": jnp.where(free, p["w"], fixed)}, data)

            seen = {"w": jnp.where(free, fixed, 0)}
            extra = {"value": loss, "grad": gradient, "value_fn": value_fn}
            extra = extra if inspect.Parameter.VAR_KEYWORD in kinds else {}
            updates, state = rule.update(gradient, state, seen, **extra)
            moved: Any = optax.apply_updates(params, updates)
            return loss, {"w": jnp.where(free, moved["w"], fixed)}, state

        state, losses = rule.init({"w": jnp.where(free, params["w"], 0)}), []
        for _ in range(NUM_STEPS + 1):
            loss, params, state = step(params, state)
            losses.append(float(loss))
    return np.array(losses)


# --- optimizers ----------------------------------------------------------------------------------

RULES = {
    "reduce_on_plateau": lambda rate: optax.chain(
        optax.sgd(rate), optax.contrib.reduce_on_plateau(patience=1, rtol=0.5)
    ),
    "polyak_sgd": lambda rate: optax.polyak_sgd(max_learning_rate=10 * rate),
    "lbfgs": lambda rate: optax.chain(optax.lbfgs(memory_size=3), optax.scale(10 * rate)),
    "backtracking": lambda rate: optax.chain(
        optax.sgd(10 * rate), optax.scale_by_backtracking_linesearch(max_backtracking_steps=8)
    ),
    "sam": lambda rate: optax.contrib.sam(optax.sgd(rate), optax.sgd(0.01), sync_period=2),
    "lookahead_free": lambda rate: optax.apply_if_finite(optax.adam(rate), 3),
}


@pytest.mark.parametrize("name", [param(name, nightly=name == "lbfgs") for name in RULES])
def test_rules_that_need_the_loss_follow_a_plain_loop(name):
    rule = RULES[name]
    runs = train(optimizer=lambda hp: rule(hp["learning_rate"]))
    for rate in (0.02, 0.05):
        for seed in (0, 3):
            found = runs["loss"].sel(learning_rate=rate, seed=seed)
            np.testing.assert_allclose(found, follow(rule(rate), seed), rtol=1e-6, err_msg=name)


def test_a_line_search_sees_frozen_parameters_as_they_are():
    frozen = np.array([False, True, False, False])

    def loss(params, batch):
        w = jnp.stack([params["a"], params["b"], *params["c"]])
        return mse({"w": w}, batch)

    def init(seed):
        with jax.enable_x64(False):
            w = np.asarray(normal(stream(seed, b"init"))["w"], float)
        return {"a": w[0], "b": w[1], "c": w[2:]}

    rule = RULES["lbfgs"]
    runs = train(
        task(loss, init, trainable={"a": True, "b": False, "c": True}),
        optimizer=lambda hp: rule(hp["learning_rate"]),
    )
    expected = follow(rule(0.05), 3, frozen=frozen)
    np.testing.assert_allclose(runs["loss"].sel(learning_rate=0.05, seed=3), expected, rtol=1e-6)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_optimizers_with_keys_in_their_states(tmp_path, impl):
    def noisy(hp, seed):
        key = jax.random.key(seed, impl=impl)
        return optax.noisy_sgd(hp["learning_rate"], eta=0.01, key=key)

    # JAX's rbg draws other numbers in a batch than for a run alone.
    alone = {"largest_block": 1} if impl == "rbg" else {}
    runs = train(optimizer=lambda hp: noisy(hp, 5), folder=tmp_path, checkpoint_every=0, **alone)
    for seed in (0, 3):
        found = runs["loss"].sel(learning_rate=0.05, seed=seed)
        np.testing.assert_allclose(
            found, follow(noisy({"learning_rate": 0.05}, 5), seed), rtol=1e-6
        )
    longer = train(
        optimizer=lambda hp: noisy(hp, 5), folder=tmp_path, num_steps=NUM_STEPS + 3, **alone
    )
    np.testing.assert_allclose(longer["loss"][..., : NUM_STEPS + 1], runs["loss"], rtol=1e-6)


def test_an_optimizer_has_a_key_of_its_own():
    runs = train(optimizer=lambda hp, key: optax.noisy_sgd(hp["learning_rate"], eta=0.01, key=key))
    for seed in (0, 3):
        rule = optax.noisy_sgd(0.05, eta=0.01, key=stream(seed, b"opti"))
        found = runs["loss"].sel(learning_rate=0.05, seed=seed)
        np.testing.assert_allclose(found, follow(rule, seed), rtol=1e-6)


# --- pytrees -------------------------------------------------------------------------------------


def test_an_equinox_network_arrives_whole_in_an_observable():
    def loss(model, batch):
        return jnp.mean((jax.vmap(model)(batch[0])[:, 0] - batch[1]) ** 2)

    made = task(loss, lambda key: eqx.nn.MLP(4, 1, 8, 1, activation=jnp.tanh, key=key))
    runs = train(
        made,
        record={
            "again": lambda point: loss(point.parameters, point.data["train"]),
            "through": lambda point: point.value_and_grad(point.parameters)[0],
            "slope": lambda point: optax.tree.norm(point.value_and_grad(point.parameters)[1]),
            "size": lambda point: optax.tree.norm(point.trained),
        } | {name: ia.observables.OBSERVABLES[name].observable
             for name in ("gradient_norm", "parameter_norm")},
    )  # fmt: skip
    at = runs["loss"].sel(step=runs["observation_step"].values).values
    for name, expected in (
        ("again", at), ("through", at),
        ("slope", runs["gradient_norm"]), ("size", runs["parameter_norm"]),
    ):  # fmt: skip
        np.testing.assert_allclose(runs[name], expected, rtol=1e-6, err_msg=name)


class Masked(eqx.Module):
    """A linear model with a mask, a counter and a function, none of which is trained."""

    w: Any
    mask: Any
    power: Any
    link: Any

    def __call__(self, rows):
        return self.link(rows @ jnp.where(self.mask, self.w, 0.0)) ** self.power


@pytest.mark.parametrize("on_host", [False, True])
def test_masks_and_counters_are_kept_as_they_are(on_host):
    mask = np.array([True, False, True, True])

    def model(w):
        return Masked(w, jnp.asarray(mask), jnp.array(1), jnp.tanh)

    def init(key):
        return model(normal(key)["w"])

    def init_on_host(seed):
        return model(normal(stream(seed, b"init"))["w"])

    made = task(lambda m, b: jnp.mean((m(b[0]) - b[1]) ** 2), init_on_host if on_host else init)
    runs = train(made, record={"masked": lambda point: jnp.sum(~point.parameters.mask)})
    assert (runs["masked"] == 1).all()
    w = np.asarray(normal(stream(3, b"init"))["w"], float)
    for step in range(NUM_STEPS + 1):
        outputs = np.tanh(X @ np.where(mask, w, 0))
        found = runs["loss"].sel(learning_rate=0.05, seed=3)[step]
        np.testing.assert_allclose(found, np.mean((outputs - y) ** 2), rtol=1e-5)
        slope = 2 / 60 * X.T @ ((outputs - y) * (1 - outputs**2))
        w = w - 0.05 * np.where(mask, slope, 0)


@pytest.mark.parametrize(
    ("init", "words"),
    [
        (lambda key: {"w": jnp.ones(4), "m": jax.random.bernoulli(key, 0.5, (40,))},
         "what is not trained .* differs between runs"),
        (lambda seed: {"w": np.ones(4), "m": np.arange(4) > seed}, "differs between runs"),
        (lambda seed: {"w": np.ones(4), "f": [jnp.tanh, jnp.sin][seed % 2]}, "differs between"),
        (lambda seed: {"w": np.ones(4 + seed)}, "shapes differ between runs"),
        (lambda key: {"w": jnp.ones(4, jnp.bfloat16)}, r"\['w'\] has type bfloat16; parameters"),
        (lambda key: {"w": jnp.ones(4, jnp.float16)}, "has type float16"),
        (lambda key: {"w": jnp.ones(4), "z": jnp.ones(2, complex)}, "has type complex64"),
        (lambda key: {"w": jnp.ones(4), "k": jax.random.key(0)}, "has type key<fry>"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_in_a_line(init, words):
    with pytest.raises(ia.UserError, match=words):
        train(task(init=init), axes={"learning_rate": [0.1], "seed": [0, 1]})


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("bfloat16", "float32"), ("float16", "float64"), ("float32", "float64")],
)
def test_a_loss_may_compute_in_another_precision(kind, precision):
    def loss(params, batch):
        found = mse(params, batch)
        return found.astype(kind), {"also": found.astype(kind)}

    runs = train(task(loss, has_aux=True), precision=precision)
    w = np.asarray(normal(stream(0, b"init"))["w"], float)
    expected = np.mean((X @ w - y) ** 2)
    tolerance = {"bfloat16": 1e-2, "float16": 1e-3}.get(kind, 1e-5)
    for name in ("loss", "also"):
        np.testing.assert_allclose(runs[name].sel(seed=0)[:, 0], expected, rtol=tolerance)
    assert runs["loss"].dtype == precision


def test_numbers_that_init_reads_must_fit_single_precision():
    made = task(lambda p, b: p["w"] ** 2 + 0 * b[1][0],
                lambda key, hp: {"w": jnp.ones(()) * hp["eps"]})  # fmt: skip
    for values in ([1e-60, 1.0], [1e60], [1.0, 1.000000001]):
        with pytest.raises(ia.UserError, match="the single precision of init"):
            train(made, axes={"eps": values}, optimizer=optax.sgd(0.1))
    assert train(made, axes={"eps": [1e-9, 1.0]}, optimizer=optax.sgd(0.1)).sizes["eps"] == 2


def test_inner_jits_take_hyper_parameters_of_all_kinds():
    @jax.jit
    def inner(params, batch, hp):
        scale = {"a": 1.0, "b": 2.0}[hp["word"]] * hp["size"]
        return scale * hp["x"] * mse(params, batch)

    axes = {"seed": [0], "word": ["a", "b"], "size": ia.static(1, 3), "x": [0.5, 0.9]}
    runs = train(task(inner), axes=axes, optimizer=optax.sgd(0.01), num_steps=1)
    first = runs["loss"].isel(seed=0, step=0)
    unit = float(first.sel(word="a", size=1, x=0.5)) / 0.5
    for word, size, x in (("b", 3, 0.9), ("a", 3, 0.5), ("b", 1, 0.9)):
        expected = unit * {"a": 1, "b": 2}[word] * size * x
        np.testing.assert_allclose(first.sel(word=word, size=size, x=x), expected, rtol=1e-6)


def test_a_loss_may_change_its_batch_as_a_jax_array():
    def loss(params, batch):
        return mse(params, (batch[0].at[:, 3].set(0.0), batch[1]))

    runs = train(task(loss), batch_size=None)
    w = np.asarray(normal(stream(0, b"init"))["w"], float)
    without = X * [1, 1, 1, 0]
    expected = np.mean((without @ w - y) ** 2)
    np.testing.assert_allclose(runs["loss"].sel(seed=0)[:, 0], expected, rtol=1e-6)


# --- axes and their readers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": optax.sgd(0.1)}, "axis learning_rate: nothing reads it.*lambda hp:"),
        ({"axes": {"learning_rate": [0.1], "learning_rat": [1.0, 2.0]}},
         "axis learning_rat: nothing reads it.*read learning_rate"),
        ({"axes": {"learning_rate": [0.1], "word": ["a"]}}, "axis word: nothing reads it"),
        ({"made": task(init=lambda hp: {"w": jnp.ones(4)})},
         "axis seed: nothing reads it.*neither key nor seed"),
    ],
)  # fmt: skip
def test_an_axis_that_nothing_reads_is_refused(options, words):
    options = dict(options)
    with pytest.raises(ia.UserError, match=words):
        train(options.pop("made", None), **options)


READERS: dict[str, dict[str, Any]] = {
    "loss": {"made": task(lambda p, b, hp: hp["x"] * mse(p, b))},
    "init": {"made": task(init=lambda key, hp: {"w": hp["x"] * jax.random.normal(key, (4,))})},
    "host init": {"made": task(init=lambda seed, hp: {"w": np.full(4, hp["x"] + seed)})},
    "optimizer": {"optimizer": lambda hp: optax.sgd(hp["learning_rate"] * hp["x"])},
    "schedule": {
        "optimizer": lambda hp: optax.sgd(lambda step: hp["learning_rate"] * hp["x"] ** step)
    },
    "observable": {"record": {"seen": lambda point: point.hyper["x"]}},
    "inner jit": {"made": task(jax.jit(lambda p, b, hp: hp["x"] * mse(p, b)))},
    "whole mapping": {"made": task(lambda p, b, hp: sum(jax.tree.leaves(hp)) * mse(p, b))},
    "default": {"made": task(lambda p, b, hp: hp.get("x", 1.0) * mse(p, b))},
}


@pytest.mark.parametrize("where", READERS)
def test_an_axis_that_something_reads_is_none_of_these(where):
    options = dict(READERS[where])
    axes = {"learning_rate": [0.02], "seed": [0], "x": [0.5, 0.9]}
    runs = train(options.pop("made", None), axes=axes, **options)
    assert runs.sizes["x"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": lambda hp: optax.sgd(optax.cosine_decay_schedule(0.1, hp["x"]))},
        {"made": task(lambda p, b, hp: mse(p, b) if hp["x"] else 2 * mse(p, b))},
        {"made": task(lambda p, b, hp: mse(p, b) + jnp.ones(hp["x"]).sum())},
        {"made": task(lambda p, b, hp: mse(p, b) + sum(1.0 for _ in range(hp["x"])))},
        {"made": task(init=lambda key, hp: {"w": jnp.ones(hp["x"])})},
        {"made": task(lambda p, b, hp: mse(p, b) * float(np.asarray(hp["x"])))},
        {"record": {"a": lambda point: 1.0 if point.hyper["x"] > 1 else 0.0}},
        {"made": task(lambda p, b, hp: {4: 1.0, 5: 2.0}[hp["x"]] * mse(p, b))},
    ],
)
def test_a_traced_number_that_python_needs_is_answered_by_static(options):
    options = dict(options)
    with pytest.raises(ia.UserError, match=r"Numbers along x.* are traced: .*ia\.static"):
        train(
            options.pop("made", None), axes={"x": [4, 5]}, **{"optimizer": optax.sgd(0.1)} | options
        )


# --- Ctrl-C --------------------------------------------------------------------------------------

# What a shell starts in the background, these tests perhaps, ignores the signal.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
import test_user_models as t
print("begun", flush=True)
seen = []
def progress(done, total):
    seen.append(done)
    if len(seen) == 5:
        print("training", flush=True)
runs = t.train(num_steps=int(sys.argv[2]), folder=sys.argv[1], checkpoint_every=1e9,
               records_per_decade=10, progress=progress)
print("ended after", seen[0], flush=True)
"""


def test_ctrl_c_in_python_saves_before_it_ends(tmp_path):
    code = PROGRAM.format(tests=str(Path(__file__).parent))
    steps = "1000000"

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run"), steps], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    with start() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        assert process.stdout.readline() == "training\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        words = process.stderr.read()
        process.wait()
    assert "KeyboardInterrupt: saved in" in words
    assert list((tmp_path / "run" / "checkpoints").glob("*.npz"))
    with start() as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    # It goes on where it was: the first report is not that of a first segment.
    first = int(out.split("ended after ")[1])
    assert first > 4 * int(steps) / 50
    assert os.path.exists(tmp_path / "run" / "results.nc")  # noqa: PTH110
