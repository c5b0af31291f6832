"""Runs that carry a state beside their parameters: as in a plain loop, kept, and never trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import stream

import implicit_accel as ia
from implicit_accel.engine.layout import batch_order
from implicit_accel.engine.train import train as train_groups
from implicit_accel.expansion import Settings, variant_task
from implicit_accel.tasks.grid import TaskSweep

eqx: Any = pytest.importorskip("equinox")

# Features far from zero: without running statistics no evaluation is right.
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 3)) + np.array([5.0, -9.0, 0.0])
y = np.sin(X[:, 0] - 5) + (X[:, 1] + 9) / 2
TRAIN, HELD_OUT = (X[:48], y[:48]), (X[48:], y[48:])
NUM_STEPS = 12


def sgd(hp):
    return optax.sgd(hp["learning_rate"])


def sweep(task, **options: Any):
    given: dict[str, Any] = {
        "axes": {"learning_rate": [0.05, 0.1], "seed": [0, 3]}, "optimizer": sgd,
        "num_steps": NUM_STEPS, "records_per_decade": 1000, "observations_per_decade": 1000,
        "precision": "float64",
    }  # fmt: skip
    return ia.sweep(task, **(given | options))


# --- batch normalisation -------------------------------------------------------------------------


def batch_norm_init(key):
    """Variables in Flax's manner: parameters, and ``batch_stats`` with a counter."""
    first, last = jax.random.split(key)
    params = {
        "dense": {"kernel": jax.random.normal(first, (3, 6))},
        "norm": {"scale": jnp.ones(6), "bias": jnp.zeros(6)},
        "head": {"kernel": jax.random.normal(last, (6,))},
    }
    return params, {"norm": {"mean": jnp.zeros(6), "var": jnp.ones(6)}, "count": jnp.array(0)}


def batch_norm_loss(params, state, batch, train, momentum=0.8):
    rows, labels = batch
    hidden = rows @ params["dense"]["kernel"]
    mean, var = state["norm"]["mean"], state["norm"]["var"]
    if train:
        mean, var = hidden.mean(axis=0), hidden.var(axis=0)
        state = {
            "norm": {
                "mean": momentum * state["norm"]["mean"] + (1 - momentum) * mean,
                "var": momentum * state["norm"]["var"] + (1 - momentum) * var,
            },
            "count": state["count"] + 1,
        }
    hidden = (hidden - mean) / jnp.sqrt(var + 1e-5)
    hidden = hidden * params["norm"]["scale"] + params["norm"]["bias"]
    return jnp.mean((hidden @ params["head"]["kernel"] - labels) ** 2), state


def batch_norm(loss=batch_norm_loss, **options: Any):
    given = {"init": batch_norm_init, "data": TRAIN, "held_out": HELD_OUT, "has_state": True}
    return ia.from_loss(loss, **(given | options))


def follow_batch_norm(seed, rate, num_steps):
    """The network in NumPy, its gradient by hand, on mini-batches of 16 rows.

    Returns:
        Losses 0 … T: of mini-batches with their own statistics; with running statistics of all
        rows, and of held-out rows; and of these with the initial statistics.
    """
    params, _ = batch_norm_init(stream(seed, b"init"))
    W, scale, bias, v = (np.asarray(a, float) for a in (
        params["dense"]["kernel"], params["norm"]["scale"], params["norm"]["bias"],
        params["head"]["kernel"],
    ))  # fmt: skip
    mean, var, losses = np.zeros(6), np.ones(6), []
    for step in range(num_steps + 1):
        epoch, within = divmod(step, 3)
        chosen = batch_order(seed, epoch, 48)[16 * within : 16 * within + 16]
        rows, labels = TRAIN[0][chosen], TRAIN[1][chosen]

        def evaluated(batch, mean, var, W=W, scale=scale, bias=bias, v=v):
            hidden = (batch[0] @ W - mean) / np.sqrt(var + 1e-5) * scale + bias
            return np.mean((hidden @ v - batch[1]) ** 2)

        hidden = rows @ W
        own, std = hidden.mean(axis=0), np.sqrt(hidden.var(axis=0) + 1e-5)
        normal = (hidden - own) / std
        errors = (normal * scale + bias) @ v - labels
        losses.append((
            np.mean(errors**2), evaluated(TRAIN, mean, var), evaluated(HELD_OUT, mean, var),
            evaluated(HELD_OUT, np.zeros(6), np.ones(6)),
        ))  # fmt: skip
        slope = 2 / 16 * errors[:, None] * v
        through = slope * scale
        through = through - through.mean(axis=0) - normal * (through * normal).mean(axis=0)
        mean, var = 0.8 * mean + 0.2 * own, 0.8 * var + 0.2 * hidden.var(axis=0)
        v = v - rate * 2 / 16 * errors @ (normal * scale + bias)
        W = W - rate * rows.T @ through / std
        scale, bias = scale - rate * (slope * normal).sum(axis=0), bias - rate * slope.sum(axis=0)
    return np.array(losses).T


def count_of(point):
    return point.state["count"]


def test_batch_norm_on_mini_batches_follows_a_plain_loop():
    runs = sweep(
        batch_norm(), batch_size=16,
        record={"count": count_of, "through": lambda point: point.value_and_grad(point.trained)[0]},
    )  # fmt: skip
    for rate in (0.05, 0.1):
        for seed in (0, 3):
            found = runs.sel(learning_rate=rate, seed=seed)
            seen, on_all, held_out, without = follow_batch_norm(seed, rate, NUM_STEPS)
            np.testing.assert_allclose(found["batch_loss"], seen, rtol=1e-9)
            np.testing.assert_allclose(found["loss"], on_all[found["step"].values], rtol=1e-9)
            np.testing.assert_allclose(found["held_out_loss"], held_out, rtol=1e-9)
            np.testing.assert_allclose(found["through"], on_all, rtol=1e-9)
            # What running statistics are for.
            assert without[-1] > 10 * held_out[-1]
    # One update of the statistics for each step, whatever was evaluated in between.
    assert (runs["count"] == runs["observation_step"]).all()


class Network(eqx.Module):
    """Equinox's own batch normalisation."""

    first: Any
    norm: Any
    last: Any

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.first, self.last = eqx.nn.Linear(3, 6, key=a), eqx.nn.Linear(6, "scalar", key=b)
        self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="ema")

    def __call__(self, x, state):
        hidden, state = self.norm(self.first(x), state)
        return self.last(jnp.tanh(hidden)), state


def equinox_loss(model, state, batch, train):
    model = eqx.nn.inference_mode(model, value=not train)
    each = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    outputs, state = each(batch[0], state)
    return jnp.mean((outputs - batch[1]) ** 2), state


def test_an_equinox_module_with_its_own_state_follows_a_plain_loop():
    def start(key):
        return eqx.nn.make_with_state(Network)(key)

    def statistic(point):
        # Set twice: Equinox allows it once for each state.
        point.state.set(point.parameters.norm.ema_state_index,
                        point.state.get(point.parameters.norm.ema_state_index))  # fmt: skip
        return jnp.zeros(())

    task = ia.from_loss(equinox_loss, init=start, data=TRAIN, held_out=HELD_OUT, has_state=True)
    runs = sweep(
        task, axes={"learning_rate": [0.02], "seed": [0, 3]}, precision="float32", num_steps=3,
        record={"a": statistic, "b": statistic},
    )  # fmt: skip
    train, held_out = (tuple(jnp.asarray(a, jnp.float32) for a in b) for b in (TRAIN, HELD_OUT))
    slopes = eqx.filter_value_and_grad(equinox_loss, has_aux=True)
    model, state = start(stream(3, b"init"))
    found = runs.sel(learning_rate=0.02, seed=3)
    for step in range(4):
        expected, _ = equinox_loss(model, state, held_out, False)
        (loss, state), slope = slopes(model, state, train, True)
        np.testing.assert_allclose(found["loss"][step], loss, rtol=1e-4)
        np.testing.assert_allclose(found["held_out_loss"][step], expected, rtol=1e-4)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.02 * g, slope))


# --- other states --------------------------------------------------------------------------------


def test_an_average_of_the_parameters_is_what_is_evaluated():
    rows, labels = TRAIN[0] - [5, -9, 0], TRAIN[1]

    def loss(params, state, batch, hp, train):
        average = jax.tree.map(
            lambda a, w: hp["decay"] * a + (1 - hp["decay"]) * w, state["average"], params
        )
        used = params if train else state["average"]
        value = jnp.mean((batch[0] @ used["w"] - batch[1]) ** 2)
        return value, ({"average": average, "name": "ema"}, {"size": jnp.sum(used["w"] ** 2)})

    def init(key):
        params = {"w": jax.random.normal(key, (3,))}
        return params, {"average": params, "name": "ema"}

    task = ia.from_loss(
        loss, init=init, data=(rows, labels), held_out=(rows, labels), has_aux=True, has_state=True
    )
    axes = {"learning_rate": [0.1], "seed": [0, 3], "decay": [0.5, 0.9]}
    apart = {"apart": lambda point: jnp.sum(point.state["average"]["w"] - point.parameters["w"])}
    runs = sweep(task, axes=axes, record=apart)
    for seed in (0, 3):
        for decay in (0.5, 0.9):
            found = runs.sel(learning_rate=0.1, seed=seed, decay=decay)
            w = average = np.asarray(init(stream(seed, b"init"))[0]["w"], float)
            for step in range(NUM_STEPS + 1):
                for name, expected in {
                    "loss": np.mean((rows @ w - labels) ** 2),  # the full batch's, as trained on
                    "size": np.sum(w**2),
                    "held_out_loss": np.mean((rows @ average - labels) ** 2),
                    "apart": np.sum(average - w),
                }.items():
                    np.testing.assert_allclose(
                        found[name][step], expected, rtol=1e-9, atol=1e-12, err_msg=name
                    )
                average = decay * average + (1 - decay) * w
                w = w - 0.1 * 2 / 48 * rows.T @ (rows @ w - labels)


def test_hidden_units_keys_and_functions_are_carried():
    """A recurrent network which reads a series, one number in a step, with noise of its own."""

    def init(seed):
        a, b, key = jax.random.split(stream(seed, b"init"), 3)
        params = {"W": jax.random.normal(a, (4, 4)) / 2, "v": jax.random.normal(b, (4,)) / 2}
        state = {"hidden": jnp.zeros(4), "place": jnp.array(0), "key": key, "act": jnp.tanh}
        return params, state

    def loss(params, state, batch, train):
        key, own = jax.random.split(state["key"])
        noise = jax.random.normal(own, (4,), jnp.float32) / 10 if train else 0.0
        place = state["place"] % len(batch[1])
        inputs = params["W"] @ state["hidden"] + batch[1][place] + noise
        hidden = state["act"](inputs)
        after = state | {"hidden": hidden, "place": place + 1, "key": key}
        return (hidden @ params["v"] - batch[0][place, 2]) ** 2, after

    runs = sweep(ia.from_loss(loss, init=init, data=TRAIN, held_out=HELD_OUT, has_state=True))
    for seed in (0, 3):
        params, state = init(seed)
        W, v = np.asarray(params["W"], float), np.asarray(params["v"], float)
        hidden, key = np.zeros(4), state["key"]
        found = runs.sel(learning_rate=0.1, seed=seed)
        for step in range(NUM_STEPS + 1):
            key, own = jax.random.split(key)
            noise = np.asarray(jax.random.normal(own, (4,)) / 10, float)
            on_others = np.tanh(W @ hidden + HELD_OUT[1][step]) @ v - HELD_OUT[0][step, 2]
            after = np.tanh(W @ hidden + TRAIN[1][step] + noise)
            error = after @ v - TRAIN[0][step, 2]
            np.testing.assert_allclose(found["loss"][step], error**2, rtol=1e-6)
            np.testing.assert_allclose(found["held_out_loss"][step], on_others**2, rtol=1e-6)
            W = W - 0.1 * 2 * error * np.outer(v * (1 - after**2), hidden)
            v, hidden = v - 0.1 * 2 * error * after, after


def test_a_loss_without_state_knows_when_it_is_evaluated():
    def loss(params, batch, train):
        assert isinstance(train, bool)
        return jnp.mean((batch[1] - params["c"]) ** 2) + (7.0 if train else 0.0)

    task = ia.from_loss(
        loss, init=lambda: {"c": jnp.zeros(())}, data=TRAIN, held_out=HELD_OUT
    )  # fmt: skip
    runs = sweep(task, axes={"learning_rate": [0.1]}, batch_size=48, record=("parameter_norm",))
    c = (1 - 0.8**NUM_STEPS) * TRAIN[1].mean()
    last = runs.isel(learning_rate=0)
    np.testing.assert_allclose(last["loss"][-1], np.mean((TRAIN[1] - c) ** 2))
    np.testing.assert_allclose(last["batch_loss"][-1], np.mean((TRAIN[1] - c) ** 2) + 7)
    np.testing.assert_allclose(last["held_out_loss"][-1], np.mean((HELD_OUT[1] - c) ** 2))


# --- what happens to a run -----------------------------------------------------------------------


def test_interrupted_and_extended_runs_go_on_with_their_state(tmp_path):
    options = {"batch_size": 16, "num_steps": 1000, "record": {"count": count_of}}
    straight = sweep(batch_norm(), folder=tmp_path / "straight", **options)

    def interrupt(done, total):
        if done > total // 3:
            raise RuntimeError("the power fails")

    folder = {"folder": tmp_path / "run", "checkpoint_every": 0}
    with pytest.raises(RuntimeError, match="power"):
        sweep(batch_norm(), progress=interrupt, **folder, **options)
    assert list(tmp_path.glob("run/checkpoints/*.npz"))
    seen: list[Any] = []
    resumed = sweep(
        batch_norm(), progress=lambda done, total: seen.append(done / total), **folder, **options
    )
    assert 1 / 3 < seen[0] < 1, seen
    assert resumed.identical(straight)
    # Another way of averaging is another run; more steps are the same one.
    with pytest.raises(ia.UserError, match="loss"):
        sweep(
            batch_norm(lambda p, s, b, train: batch_norm_loss(p, s, b, train, momentum=0.7)),
            **folder, **options,
        )  # fmt: skip
    more = sweep(batch_norm(), **folder, **options | {"num_steps": 1010})
    found = more["held_out_loss"].sel(learning_rate=0.05, seed=3)
    expected = follow_batch_norm(3, 0.05, 1010)[2][found["observation_step"].values]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.nightly
def test_states_travel_to_the_workers_of_a_cluster():
    distributed: Any = pytest.importorskip("distributed")
    # A worker that is a thread of this process; it would count all memory here as its own.
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0
    )
    with cluster, distributed.Client(cluster) as client:
        there = sweep(batch_norm(), batch_size=16, client=client)
    here = sweep(batch_norm(), batch_size=16)
    for name in here.variables:
        assert there[name].values.tobytes() == here[name].values.tobytes(), name


def diverging():
    """Parameters that each step multiplies by 1 − η, and a state that counts the steps."""

    def loss(params, state, batch):
        return jnp.sum(params["w"] ** 2) / 2 + 0 * batch[1][0], {"steps": state["steps"] + 1}

    return ia.from_loss(
        loss, init=lambda key: ({"w": jax.random.normal(key, (2,))}, {"steps": jnp.zeros(())}),
        data=TRAIN, has_state=True,
    )  # fmt: skip


def test_a_diverged_run_keeps_its_state():
    rates = [0.1, 4.0, 0.2, 3.0, 6.0]
    experiment = TaskSweep(
        diverging(), axes={"learning_rate": rates, "seed": [0, 1]}, optimizer=sgd, num_steps=20,
        largest_block=2,
    )  # fmt: skip
    (added,) = experiment.rounds_after(())
    (group,) = experiment.plan_round(added, "cpu").groups
    # Blocks of two on three devices: there is padding, and live runs are moved together.
    ((result, (_, state)),) = train_groups(
        [group], num_steps=20, recording=experiment.recording, devices=jax.local_devices()[:3]
    )
    growth = np.abs(1 - np.repeat(rates, 2))
    # The loss grows by the square of it, and the limit is 10⁶ times the first, or 1.
    assert (result.divergence_step > 0).tolist() == (growth > 1).tolist()
    moved = np.where(growth > 1, result.divergence_step, 20)
    assert state["steps"].tolist() == moved.tolist()


def test_the_last_parameters_come_with_their_state():
    axes = {"learning_rate": [0.5], "seed": [3]}
    runs = ia.sweep(diverging(), axes=axes, optimizer=sgd, num_steps=5, keep="final")
    params, state = runs.ia.params(learning_rate=0.5, seed=3)
    w = np.asarray(jax.random.normal(stream(3, b"init"), (2,)))
    np.testing.assert_allclose(params["w"], w * 0.5**5, rtol=1e-6)
    assert state.keys() == {"steps"}
    assert state["steps"] == 5
    assert state["steps"].dtype == np.float32


@pytest.mark.parametrize("keep", ["final", "best"])
def test_kept_parameters_come_with_their_state(keep):
    """The target moves after six steps: the best parameters are those just before."""

    def loss(params, state, batch):
        aim = jnp.where(state["count"] < 6, 1.0, -1.0)
        return jnp.mean(batch * (params - aim) ** 2), {"count": state["count"] + 1}

    task = ia.from_loss(
        loss,
        init=lambda: (jnp.zeros(2), {"count": jnp.array(0)}),
        data=np.ones((4, 1)),
        has_state=True,
    )
    rates = [0.05, 0.1]
    runs = sweep(task, axes={"configuration": ia.together(learning_rate=rates)}, keep=keep)
    params, state = runs.ia.params()
    for place, rate in enumerate(rates):
        w, seen = 0.0, []
        for step in range(NUM_STEPS + 1):
            aim = 1 if step < 6 else -1
            seen.append(((w - aim) ** 2, w, step))
            w -= rate * (w - aim)  # two entries share the mean
        _, kept, count = seen[-1] if keep == "final" else min(seen)
        np.testing.assert_allclose(params[place], kept, rtol=1e-9)
        assert state["count"][place] == count
    one, _ = runs.ia.params(configuration=1)
    np.testing.assert_array_equal(one, params[1])


def test_expanded_models_keep_their_state():
    settings = Settings("dense.*", (2,), "identity", None, "dense", "io")
    expanded = variant_task(batch_norm(), settings, NUM_STEPS)
    key = stream(3, b"init")
    params, state = expanded.init(key=key, hp={"variant": "depth 2"})
    assert len(params["dense"]["kernel"].factors) == 2
    value, after = expanded.loss(params, state, TRAIN, train=True)
    plain, expected = batch_norm_loss(*batch_norm_init(key), TRAIN, True)
    np.testing.assert_allclose(value, plain, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


# --- errors --------------------------------------------------------------------------------------


def one(key):
    return {"w": jax.random.normal(key, (3,))}, {"mean": jnp.zeros(3), "n": jnp.array(0)}


def fitted(returned):
    """A linear model's loss, and what it returns of a state."""

    def loss(params, state, batch):
        return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2), returned(state)

    return loss


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda s: {"n": s["n"]}, r"has nothing at \['mean'\]"),
        (lambda s: s | {"var": s["mean"]}, r"which has nothing at \['var'\]"),
        (lambda s: (s["mean"], s["n"]), r"has nothing at \['mean'\]"),
        (lambda s: None, r"has nothing at \['mean'\]"),
        (lambda s: s | {"mean": s["mean"][:2]}, r"\['mean'\] it has shape \(2,\) .* not .*\(3,\)"),
        (lambda s: s | {"mean": s["mean"].mean()}, r"\['mean'\] it has shape \(\)"),
        (lambda s: s | {"n": s["n"] + 1.0}, r"\['n'\] .* type float32, not .* type int32"),
        (lambda s: s | {"mean": s["mean"].astype(jnp.float16)}, r"\['mean'\] .* float16, not"),
        (lambda s: s | {"mean": 0.0}, r"\['mean'\] it has 0.0 that is no array, not"),
    ],
)  # fmt: skip
def test_a_state_that_is_not_like_the_one_before_is_refused(returned, words):
    task = batch_norm(fitted(returned), init=one)
    with pytest.raises(
        ia.UserError, match="loss: the state that it returns must be like.*" + words
    ):
        sweep(task, precision="float32")


def test_types_of_a_state_are_those_of_training():
    task = batch_norm(fitted(lambda s: s | {"mean": s["mean"].astype(jnp.float32)}), init=one)
    with pytest.raises(ia.UserError, match=r"\['mean'\] .* float32, not .* float64"):
        sweep(task)


@pytest.mark.parametrize(
    ("init", "words"),
    [
        (lambda key: one(key)[0], r"with has_state it must return \(params, state\), not dict"),
        (lambda key: (*one(key), 3), "not a tuple of 3"),
        (lambda key: (one(key)[0], {"n": 0}), r"\['n'\] it has 1 that is no array, in place of 0"),
        (lambda key: (one(key)[0], {"n": jnp.ones(1, jnp.bfloat16)}), r"\['n'\] has type bfloat16"),
        (lambda key: (one(key)[0], {"n": jnp.zeros(1, complex)}), r"\['n'\] has type complex64"),
        (lambda seed: ({"w": np.ones(3)}, {"n": np.ones(1 + seed)}), "shapes differ between runs"),
        (lambda seed: ({"w": np.ones(3)}, {"n": 0, "s": str(seed)}), "differs between runs"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_state_is_refused(init, words):
    def count(state):
        return {**state, "n": state["n"] + (0 if "s" in state else 1)}

    with pytest.raises(ia.UserError, match=words):
        sweep(batch_norm(fitted(count), init=init), axes={"learning_rate": [0.1], "seed": [0, 1]})


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (lambda p, s, b: jnp.sum(p["w"]), {}, r"it must return \(loss, state\), not an array"),
        (lambda p, s, b: (jnp.sum(p["w"]), s, {}), {}, r"\(loss, state\), not a tuple of 3"),
        (lambda p, s, b: (jnp.sum(p["w"]), s), {"has_aux": True},
         r"with has_state and has_aux it must return \(loss, \(state, dictionary\)\)"),
        (lambda p, s, b: (jnp.sum(p["w"]), (s, 3.0)), {"has_aux": True}, r"\(state, dictionary\)"),
        (lambda p, b: jnp.sum(p["w"]), {}, r"it must take \(params, state, batch\) first"),
        (lambda p, b, train: jnp.sum(p["w"]), {}, r"it must take \(params, state, batch\) first"),
        (lambda p, s, b: (jnp.sum(p["w"]), s), {"has_state": False}, "takes 'b'.*has_state=True"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_fit_a_state_is_refused(loss, options, words):
    with pytest.raises(ia.UserError, match=words):
        sweep(batch_norm(loss, **{"init": one} | options))
