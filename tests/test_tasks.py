"""Models of users on the engine: held against loops of their own, killed, resumed, extended."""

import itertools
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from compilations import count_compilations
from marks import param
from models import EXAMPLE, MODELS, follow, sweep_in_folder
from oracles import random_problem
from programs import expect_usage_error, forked, run, started

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.engine.layout import MiniBatches
from implicit_accel.experiments.user_task import load_configurations, parse_axis

RATES = tuple(np.geomspace(1e-3, 0.1, 8))


def sweep(name, **changes):
    task, optimizer, axes, batch_size = MODELS[name]()
    given: dict[str, Any] = {
        "axes": {"learning_rate": RATES, "seed": range(4), **axes}, "optimizer": optimizer,
        "num_steps": 60, "batch_size": batch_size, "precision": "float64",
    }  # fmt: skip
    return ia.sweep(task, **(given | changes))


@pytest.mark.parametrize("name", [param(name, nightly=name == "equinox") for name in MODELS])
def test_a_user_s_model_follows_a_loop_of_its_own_in_one_compilation(name):
    found = []
    assert count_compilations(lambda: found.append(sweep(name))) == 1
    (runs,) = found
    further = MODELS[name]()[2]
    ((axis, values),) = further.items()
    assert runs["loss"].dims == ("learning_rate", "seed", axis, "step")
    for rate, seed, value in ((0, 0, 0), (3, 2, 1), (7, 3, 1)):
        hp = {"learning_rate": RATES[rate], "seed": seed, axis: values[value]}
        drawn, full = follow(name, hp, 60, "float64")
        run = runs.isel({"learning_rate": rate, "seed": seed, axis: value})
        # Its initial weights are drawn in single precision, compiled here and there.
        tolerance = 1e-6 if name == "tanh_network" else 1e-9
        expected = full[runs["step"].values]
        np.testing.assert_allclose(run["loss"], expected, rtol=tolerance, err_msg=str(hp))
        if "batch_loss" in runs:
            expected = drawn[runs["batch_step"].values]
            np.testing.assert_allclose(run["batch_loss"], expected, rtol=tolerance, err_msg=str(hp))
    assert ("batch_loss" in runs) == (name != "logistic")


def test_single_precision_starts_from_the_same_weights():
    one, two = (sweep("tanh_network", precision=p) for p in ("float32", "float64"))
    np.testing.assert_allclose(one["loss"][..., 0], two["loss"][..., 0], rtol=1e-6)


# --- what a run must not depend on ---------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize(
    "options", [param({"devices": jax.local_devices()[:1]}), {"largest_block": 3}], ids=str
)
def test_devices_and_blocks_change_results_by_rounding_alone(options):
    whole, other = sweep("equinox"), sweep("equinox", **options)
    np.testing.assert_allclose(other["loss"], whole["loss"], rtol=1e-10)


@pytest.mark.parametrize(
    "options", [{"memory_limit": 1}, param({"devices": jax.local_devices()[:3]})], ids=str
)
def test_memory_and_the_number_of_devices_change_no_bit(options):
    assert sweep("equinox", **options).identical(sweep("equinox"))


def test_a_run_is_the_same_whatever_the_grid_around_it():
    whole = sweep("equinox")
    axes = {"b1": (0.9,), "seed": (3, 1), "learning_rate": (RATES[5],)}
    few = sweep("equinox", axes=axes)
    picked = whole["loss"].sel(b1=[0.9], seed=[3, 1]).isel(learning_rate=[5])
    np.testing.assert_allclose(few["loss"], picked.transpose(*few["loss"].dims), rtol=1e-10)


def test_mini_batches_depend_on_the_seed_alone_and_fill_epochs():
    batches = MiniBatches(num_rows=23, batch_size=5, seeds=(7, 8))
    rows = batches.rows(0, 12)
    assert rows.shape == (2, 12, 5)
    for start, length in ((0, 3), (2, 7), (5, 6)):
        np.testing.assert_array_equal(batches.rows(start, length), rows[:, start : start + length])
    for epoch in range(3):
        seen = rows[0, 4 * epoch : 4 * epoch + 4].ravel()
        assert len(set(seen)) == 20
    assert not np.array_equal(rows[0], rows[1])
    alone = replace(batches, seeds=(8,))
    np.testing.assert_array_equal(alone.rows(0, 12)[0], rows[1])


# --- what stays as it is -------------------------------------------------------------------------


class Clipped(ia.Optimizer):
    """Gradient descent after clipping by the norm over all parameters."""

    @property
    def is_entrywise(self):
        return False

    def build(self, learning_rate, weight_decay=None):
        decay = optax.add_decayed_weights(0.0 if weight_decay is None else weight_decay)
        return optax.chain(decay, optax.clip_by_global_norm(0.1), optax.sgd(learning_rate))


def test_frozen_padding_does_not_reach_the_optimizer(rng):
    """Depth 1 trains alike whether or not deeper networks share its program."""
    problem = random_problem(rng)
    losses = {}
    for depths in ((1,), (1, 2, 3)):
        config = linear.SweepConfig(
            depths=depths, losses=(linear.Loss(4),), optimizers=(Clipped("sgd"),), init_stds=(0.5,),
            learning_rates=(0.01, 0.1), num_seeds=2, num_steps=50, precision="float64",
            weight_decays=(0.1,),
        )  # fmt: skip
        results = linear.run_sweep(problem, config)
        losses[depths] = ia.select(results, depth=1)["excess_loss"].values
    np.testing.assert_allclose(losses[1, 2, 3], losses[(1,)], rtol=1e-12)


def test_what_is_not_trainable_stays_and_is_not_seen():
    X = np.eye(3)
    seen = {}

    def loss(params, batch):
        return jnp.sum((batch @ params["a"] - 1) ** 2) + 1e6 * jnp.sum(params["b"])

    task = ia.from_loss(
        loss, init=lambda seed: {"a": np.full(3, 0.5), "b": np.ones(2) * seed}, data=X,
        trainable={"a": True, "b": False},
    )  # fmt: skip
    for name, mask in (("frozen", task), ("free", replace(task, trainable=None))):
        runs = ia.sweep(
            mask, axes={"learning_rate": (0.1,)}, num_steps=5, precision="float64",
            optimizer=lambda hp: optax.chain(
                optax.clip_by_global_norm(1.0), optax.sgd(hp["learning_rate"])
            ),
            record={"b": lambda point: point.parameters["b"].sum()},
        )  # fmt: skip
        seen[name] = runs
    assert (seen["frozen"]["b"] == 0).all()
    assert seen["free"]["b"][0, -1] != 0
    # Clipped by the norm of a's gradient alone, which 1e6 would drown.
    assert seen["frozen"]["loss"][0, 1] < seen["frozen"]["loss"][0, 0] - 0.1


# --- axes ----------------------------------------------------------------------------------------


def quadratic(**changes):
    def loss(params, batch, hp):
        return jnp.mean((params["w"] * batch - 1) ** 2) * hp.get("scale", 1.0)

    arguments: dict[str, Any] = {
        "init": lambda seed: {"w": np.array(float(seed))}, "data": np.ones((4, 1)), "name": "square"
    }  # fmt: skip
    return ia.from_loss(loss, **(arguments | changes))


def test_words_and_static_values_are_programs_of_one_call():
    width = ia.static(1, 2, 5)
    rules = {"sgd": optax.sgd, "adam": optax.adam}

    def loss(params, batch):
        return jnp.sum(params["w"]) ** 2 * jnp.mean(batch)

    def init(key, hp):  # noqa: ARG001
        return {"w": jnp.ones(hp["width"])}

    task = ia.from_loss(loss, init=init, data=np.ones((2, 1)))
    runs = ia.sweep(
        task, axes={"optimizer": ("sgd", "adam"), "learning_rate": (0.01, 0.02), "width": width},
        optimizer=lambda hp: rules[hp["optimizer"]](hp["learning_rate"]), num_steps=3,
    )  # fmt: skip
    assert runs["loss"].dims == ("optimizer", "learning_rate", "width", "step")
    np.testing.assert_allclose(runs["loss"][..., 0], np.broadcast_to([1, 4, 25], (2, 2, 3)))
    # w ← w − 2 η Σ w: a step of gradient descent multiplies the sum by 1 − 2 η width.
    for rate, size in itertools.product((0.01, 0.02), (1, 2, 5)):
        found = runs["loss"].sel(optimizer="sgd", learning_rate=rate, width=size).values
        np.testing.assert_allclose(
            found, (size * (1 - 2 * rate * size) ** np.arange(4)) ** 2, rtol=1e-5
        )


def test_a_grid_of_static_values_alone():
    task = ia.from_loss(
        lambda params, batch: jnp.sum(params["w"]) ** 2 * jnp.mean(batch),
        init=lambda hp: {"w": jnp.ones(hp["width"])}, data=np.ones((2, 1)),
    )  # fmt: skip
    runs = ia.sweep(task, axes={"width": ia.static(1, 3)}, optimizer=optax.sgd(0.01), num_steps=1)
    assert runs["loss"].dims == ("width", "step")
    np.testing.assert_allclose(runs["loss"], [[1, 0.98**2], [9, (3 * 0.94) ** 2]], rtol=1e-5)


def test_targets_divergence_and_the_summary_of_any_axis():
    runs = ia.sweep(
        quadratic(), optimizer=ia.Optimizer("sgd"), num_steps=400, target=1e-4, precision="float64",
        axes={"learning_rate": (0.01, 0.1, 3.0), "seed": (0, 2), "scale": (1.0, 2.0)},
    )  # fmt: skip
    # From w = 0 and 2 the error is 1 in size and shrinks by 1 − 2 η s a step.
    for rate, scale in itertools.product((0.01, 0.1), (1.0, 2.0)):
        exact = np.log(1e-4 / scale) / (2 * np.log(1 - 2 * rate * scale))
        steps = runs["steps_to_target"].sel(learning_rate=rate, scale=scale).values
        np.testing.assert_array_equal(steps, np.ceil(exact))
    assert np.isinf(runs["steps_to_target"].sel(learning_rate=3.0)).all()
    # (1 − 2 η s)² per step, until the loss exceeds 10⁶ times the first.
    growth = (1 - 2 * 3.0 * 1.0) ** 2
    expected = np.floor(np.log(1e6) / np.log(growth)) + 1
    assert (runs["divergence_step"].sel(learning_rate=3.0, scale=1.0) == expected).all()
    table = ia.summarise(runs, baseline={"scale": 1.0})
    ratio = dict(zip(table["scale"], table["speed_up"], strict=True))
    assert ratio[1.0] == 1
    assert ratio[2.0] > 1.5


def test_observables_are_those_of_the_recorded_parameters():
    runs = ia.sweep(
        quadratic(held_out=np.full((2, 1), 3.0)), optimizer=ia.Optimizer("sgd"), num_steps=30,
        axes={"learning_rate": (0.01, 0.1), "seed": (2,)}, precision="float64",
        record=("sharpness", "gradient_norm", "parameter_norm"),
    )  # fmt: skip
    steps = runs["observation_step"].values
    for rate in (0.01, 0.1):
        w = 1 + (1 - 2 * rate) ** steps
        at = runs.sel(learning_rate=rate, seed=2)
        np.testing.assert_allclose(at["parameter_norm"], w, rtol=1e-12)
        np.testing.assert_allclose(at["gradient_norm"], 2 * np.abs(w - 1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(at["sharpness"], np.full(len(steps), 2.0), rtol=1e-9)
        np.testing.assert_allclose(at["held_out_loss"], (3 * w - 1) ** 2, rtol=1e-12)


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_killed_and_resumed_to_the_same_bits(tmp_path):
    folder = tmp_path / "killed"
    kills = 0
    for _ in range(30):
        before = {p.name for p in folder.glob("checkpoints/*.npz")}
        with started(sweep_in_folder, folder) as (process, _):
            while process.exitcode is None:
                new = {p.name for p in folder.glob("checkpoints/*.npz")} - before
                if new and kills < 3:
                    process.kill()
                process.join(0.002)
        if process.exitcode == 0:
            break
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 2
    assert forked(sweep_in_folder, tmp_path / "straight").returncode == 0
    killed, straight = (ia.load_run(tmp_path / name) for name in ("killed", "straight"))
    assert killed.identical(straight)


def test_a_run_grows_along_any_axis_and_trains_only_what_is_new(tmp_path):
    task = quadratic()
    small = {"learning_rate": (0.01, 0.1), "seed": (0, 2), "scale": (1.0,)}
    large = {"learning_rate": (0.1, 0.05, 0.01), "seed": (0, 1, 2), "scale": (1.0, 2.0)}

    def train(axes, num_steps=40, **options):
        seen = []
        runs = ia.sweep(
            task, axes=axes, optimizer=ia.Optimizer("sgd"), num_steps=num_steps,
            precision="float64", target=1e-3,
            progress=lambda done, total: seen.append((done, total)), **options,
        )  # fmt: skip
        return runs, seen

    begun, _ = train(small, folder=tmp_path / "run")
    again, trained = train(small, folder=tmp_path / "run")
    assert trained == []
    assert again.identical(begun)
    grown, trained = train(large, num_steps=60, folder=tmp_path / "run")
    # 4 runs go on for 20 steps more, 14 are new.
    assert {total for _, total in trained} == {18 * 60}
    assert min(done for done, _ in trained) > 4 * 40
    assert trained == sorted(trained)
    assert trained[-1][0] == 18 * 60
    straight, _ = train(large, num_steps=60)
    for name in straight.data_vars:
        np.testing.assert_allclose(grown[name], straight[name], rtol=1e-12, err_msg=str(name))
    with pytest.raises(ia.UserError, match=r"learning_rate: .* there, 0.1 here"):
        train(small | {"learning_rate": (0.1,)}, folder=tmp_path / "run")


def test_another_program_or_other_data_are_another_run(tmp_path):
    def train(task, **options: Any):
        given: dict[str, Any] = {"optimizer": ia.Optimizer("sgd")} | options
        return ia.sweep(
            task, axes={"learning_rate": (0.1,)}, num_steps=5, folder=tmp_path / "run",
            **given,
        )  # fmt: skip

    train(quadratic())
    with pytest.raises(ia.UserError, match=r"optimizer: computes something else .*overwrite=True"):
        train(quadratic(), optimizer=ia.Optimizer("momentum"))
    with pytest.raises(ia.UserError, match="data: "):
        train(quadratic(data=np.full((4, 1), 2.0)))
    train(quadratic(data=np.full((4, 1), 2.0)), overwrite=True)
    assert float(ia.load_run(tmp_path / "run")["loss"][0, 0]) == 1.0


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": {"learning_rate": ()}}, "axis learning_rate: give one value or more"),
        ({"axes": {"learning_rate": (0.1, 0.1)}}, "each once"),
        ({"axes": {"learning_rate": (float("nan"),)}}, "not finite"),
        ({"axes": {"learning_rate": (0.1, None)}}, "must be numbers, true"),
        ({"axes": {"learning_rate": (0.1,), "x": [[1]]}}, "must be numbers, true"),
        ({"axes": {"learning_rate": (0.1,), "x": np.ones((2, 2))}}, "must be numbers, true"),
        ({"axes": {"learning_rate": (0.1,), "x": (10**30,)}}, "too large"),
        ({"axes": {"step": (1,)}}, "axis 'step'"),
        ({"axes": {"a b": (1,)}}, "axis 'a b'"),
        ({"axes": {"learning_rate": "0.1"}}, "give a list"),
        ({"axes": {"learning_rate": (-0.1,)}}, "learning_rate: give numbers above 0"),
        ({"axes": {"learning_rate": (0.1,), "seed": (-1,)}}, "axis seed"),
        ({"axes": {"seed": (1,)}}, "needs an axis learning_rate"),
        ({"num_steps": 0}, "num_steps 0"),
        ({"num_steps": 2.5}, "num_steps 2.5"),
        ({"batch_size": 5}, "there are 4 rows"),
        ({"target": float("nan")}, "target nan"),
        ({"target": "1%"}, "an excess loss like 1e-3, not a text or a share"),
        ({"target": -1.0, "task": quadratic(optimum=0.0)}, "target -1.0"),
        ({"precision": "bfloat16"}, "choose from float32, float64"),
        ({"record": ("flatness",)}, "flatness"),
        ({"record": ("held_out_loss",)}, "held_out data"),
        ({"record": {"a b": lambda point: point.step}}, "must be a name"),
        ({"record": {"w": lambda point: point.parameters}}, "w must return one number"),
        ({"record": {"w": lambda point: jnp.ones(2)}}, "w must return one number"),
        ({"optimizer": 3}, "optimizer: give an optax transformation"),
        ({"optimizer": optax.sgd}, r"write it like lambda hp: optax.sgd"),
        ({"optimizer": lambda hp: None}, "must return an optax transformation, not NoneType"),
        ({"record": lambda point: 1.0}, "record: give observables by name"),
        ({"task": 3}, "give what from_loss makes"),
        ({"optimizer": lambda hp: optax.sgd(hp["rate"])}, "hyper-parameter 'rate', which is no"),
        ({"task": quadratic(init=lambda hp: {"w": hp["size"]})}, "hyper-parameter 'size'"),
    ],
)
def test_bad_sweeps_are_refused(changes, words):
    given: dict[str, Any] = {
        "task": quadratic(), "axes": {"learning_rate": (0.1,)}, "optimizer": ia.Optimizer("sgd"),
        "num_steps": 3,
    }  # fmt: skip
    with pytest.raises(ia.UserError, match=words):
        ia.sweep(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": lambda params: params}, r"it must take \(params, batch\) first"),
        ({"loss": lambda params, batch, rate: 0.0}, "takes 'rate'"),
        ({"loss": 3}, "give a function"),
        ({"init": lambda key, seed: 0.0}, "both key and seed"),
        ({"init": lambda shape: 0.0}, "takes 'shape'"),
        ({"data": (np.ones(3), np.ones(4))}, "are no rows"),
        ({"data": np.float64(1.0)}, "are no rows"),
        ({"data": np.array(["a"])}, "give numbers"),
        ({"data": np.array([np.inf])}, "not finite"),
        ({"optimum": float("nan")}, "optimum nan"),
        ({"init": lambda key: {"w": jnp.arange(3)}}, "has type int32 and would not be trained"),
        ({"init": lambda key: {"w": jnp.ones(3, complex)}}, "has type complex64"),
        ({"init": lambda key: {"w": jnp.ones(3, jnp.bfloat16)}}, "has type bfloat16"),
        ({"init": lambda key: {"w": 1.0}}, "would not be trained; write jnp.array"),
        ({"init": lambda key: {"w": jnp.ones(()), "b": [0.0]}}, r"\['b'\]\[0\] is no array"),
        ({"init": lambda key: {"w": "a"}}, "nothing to train"),
        ({"init": lambda **named: {"w": jnp.ones(())}}, r"takes \* or \*\* arguments"),
        ({"loss": lambda params, batch, **named: 0.0}, r"takes \* or \*\* arguments"),
        ({"loss": lambda params, batch: (params["w"], {})}, "a tuple of 2; .* use has_aux=True"),
        ({"loss": lambda params, batch: None}, "must return one number, not NoneType"),
        ({"loss": lambda params, batch: params["w"] * 1j}, "must return one number"),
        ({"loss": lambda params, batch: jnp.array(1)}, "must return a floating number"),
        ({"loss": lambda params, batch: params["w"], "has_aux": True}, "must return .loss, dict"),
        ({"loss": lambda params, batch: (params["w"], {"a": "b"}), "has_aux": True}, "named numb"),
        ({"trainable": {"w": "no"}}, "trainable: give true or false"),
        ({"trainable": lambda path: True}, "trainable: give true or false"),
        ({"loss": lambda params, batch: params["w"] * jnp.ones(2)}, "must return one number"),
        ({"trainable": {"x": True}}, "trainable does not fit"),
    ],
)  # fmt: skip
def test_bad_tasks_are_refused(changes, words):
    given: dict[str, Any] = {
        "loss": lambda params, batch: jnp.sum(params["w"] * batch) ** 2,
        "init": lambda key: {"w": jax.random.normal(key)}, "data": np.ones((4, 1)),
    }  # fmt: skip

    def sweep_it():
        task = ia.from_loss(**(given | changes))
        axes = {"learning_rate": (0.1,)}
        return ia.sweep(task, axes=axes, optimizer=ia.Optimizer("sgd"), num_steps=3)

    with pytest.raises(ia.UserError, match=words):
        sweep_it()


def test_a_comparison_shows_that_optimizers_differ():
    task = ia.from_loss(lambda w, _: jnp.sum(w**2), init=lambda: jnp.ones(2), data=np.zeros(1))
    optimizers = {"a": ia.Optimizer("sgd"), "b": ia.Optimizer("momentum", (("momentum", 0.5),))}
    runs = {
        name: ia.sweep(task, axes={"learning_rate": [0.1]}, optimizer=optimizer, num_steps=2)
        for name, optimizer in optimizers.items()
    }
    found = ia.differences(runs)
    assert found.loc["optimizer"].tolist() == ["sgd", "momentum, momentum=0.5"]


# --- from the shell ------------------------------------------------------------------------------

SHORT = ("--num_steps", 20, "--learning_rates", "0.01,0.1", "--num_seeds", 2)


def test_the_program_trains_a_task_out_of_a_file(tmp_path):
    place = f"{EXAMPLE}:task"
    flags = ("--task", place, "--task_optimizer", "optimizer", "--axes", "width_scale=0.5:1")
    result = run("sweep", *flags, *SHORT, "--batch_size", 50, "--record",
                 "sharpness,held_out_loss", "--output_dir", tmp_path / "run")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "width_scale 0.5" in result.stdout
    runs = ia.load_run(tmp_path / "run")
    assert dict(runs.sizes) | {"observation_step": 0} == {
        "learning_rate": 2, "seed": 2, "width_scale": 2, "step": 5, "batch_step": 21,
        "observation_step": 0,
    }  # fmt: skip
    assert np.isfinite(runs["sharpness"]).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--task", "nowhere.py:task"), ("no file",)),
        (("--task", "task"), ("file.py:name",)),
        (("--task", f"{EXAMPLE}:nothing"), ("no nothing",)),
        (("--task", f"{EXAMPLE}:WARM_UP"), ("is no task",)),
        (("--task", f"{EXAMPLE}:task", "--depths", "1"), ("--depths goes with a dataset",)),
        (("--task", f"{EXAMPLE}:task", "--axes", "width"), ("name=value:value",)),
        (("--task", f"{EXAMPLE}:task", "--target", "10%"), ("excess loss like 1e-3",)),
        (("--batch_size", "3"), ("goes with --task",)),
        (("--metric", "accuracy:1"), ("goes with --task",)),
        (("--draws", "3"), ("--draws goes with --task",)),
        (("--configurations", "runs.csv"), ("--configurations goes with --task",)),
        (("--task", f"{EXAMPLE}:task", "--metric", "accuracy:1"), ("give the value to reach",)),
        (
            ("--task", f"{EXAMPLE}:task", "--metric", "accuracy", "--target", "0.9"),
            ("write the name and the best possible value",),
        ),
        (("--task", f"{EXAMPLE}:task", "--draws", "3"), ("give --axes to draw from",)),
        (
            ("--task", f"{EXAMPLE}:task", "--axes", "width_scale=uniform:0:1"),
            ("width_scale is a range; give --draws",),
        ),
        (
            ("--task", f"{EXAMPLE}:task", "--configurations", "nowhere.csv", "--draws", "3"),
            ("--draws: put it into the table",),
        ),
        (
            (
                "--task",
                f"{EXAMPLE}:task",
                "--draws",
                "2",
                "--learning_rates",
                "auto",
                "--axes",
                "learning_rate=log_uniform:0.1:1",
            ),
            ("learning_rate is an axis already",),
        ),
    ],
)
def test_bad_flags_for_tasks(flags, words):
    expect_usage_error(run("sweep", *flags), *words)


def decaying(folder: Path) -> tuple[str, str]:
    """The flag of a task of ``size`` entries, each of which a step multiplies by 1 − η scale."""
    (folder / "decaying.py").write_text(
        "import jax.numpy as jnp\nimport implicit_accel as ia\n"
        "def init(seed, hp):\n    return jnp.ones(hp['size']) + 0 * seed\n"
        "def loss(w, _, hp):\n    return hp['scale'] * jnp.sum(w ** 2) / 2\n"
        "task = ia.from_loss(loss, init=init, data=jnp.zeros(1))\n"
    )
    return "--task", f"{folder}/decaying.py:task"


def expected_losses(runs):
    """The last losses by configuration."""
    size, scale, rate = (runs[n].values for n in ("size", "scale", "learning_rate"))
    return size * scale / 2 * (1 - rate * scale) ** (2 * runs.attrs["num_steps"])


FEW = ("--num_steps", 9, "--num_seeds", 1, "--formats", "none")


def test_the_program_trains_the_configurations_of_a_table(tmp_path):
    table = pd.DataFrame({"learning_rate": [0.1, 0.3], "static:size": [2, 3], "scale": [1.0, 2.0]})
    table.to_csv(tmp_path / "runs.csv", index=False)
    flags = ("--configurations", tmp_path / "runs.csv", "--output_dir", tmp_path / "run")
    result = run("sweep", *decaying(tmp_path), *FEW, *flags)
    assert result.returncode == 0, result.stderr
    runs = ia.load_run(tmp_path / "run")
    assert runs["size"].values.tolist() == [2, 3]
    np.testing.assert_allclose(runs["loss"].values[0, :, -1], expected_losses(runs), rtol=1e-5)


@pytest.mark.nightly
def test_the_program_s_random_search_can_be_extended(tmp_path):
    axes = "learning_rate=log_uniform:0.01:0.4,size=static:2:3,scale=uniform:1:2"
    flags = ("--axes", axes, "--output_dir", tmp_path / "run")
    first, more = [], []
    for number, found in ((2, first), (5, more)):
        result = run("sweep", *decaying(tmp_path), *FEW, *flags, "--draws", number)
        assert result.returncode == 0, result.stderr
        runs = ia.load_run(tmp_path / "run")
        np.testing.assert_allclose(runs["loss"].values[0, :, -1], expected_losses(runs), rtol=1e-5)
        assert ((runs["learning_rate"] >= 0.01) & (runs["learning_rate"] <= 0.4)).all()
        assert ((runs["scale"] >= 1) & (runs["scale"] <= 2)).all()
        found += runs["loss"].values[0].tolist()
    assert more[:2] == first
    assert len(more) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a table"), ("scale\n", "one row or more"), ("a,b\n1,\n", "a value for every"),
        ("a b\n1\n", "'a b' is no name"), ("fixed:width\n1\n", "is no name"),
        ("a,a\n1,2\n", "'a.1' is no name"), ("a;b\n1;2\n", "'a;b' is no name"),
    ],
)  # fmt: skip
def test_bad_tables_of_configurations_are_refused(tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ia.UserError, match=words):
        load_configurations(str(tmp_path / "runs.csv"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("x=uniform:1:0", "lower one first"), ("x=log_uniform:1", "two bounds"),
     ("x=log_uniform:0:1", "above 0"), ("x=uniform:1:2:3", "two bounds")],
)  # fmt: skip
def test_bad_ranges_are_refused(text, words):
    with pytest.raises(ia.UserError, match=words):
        parse_axis(text)
    assert parse_axis("x=uniform:relu") == ("x", ("uniform", "relu"))


@pytest.mark.nightly
def test_a_program_s_runs_are_judged_by_a_metric(tmp_path):
    """The accuracy is step / 10, so that its target of 0.45 is reached at step 5."""
    (tmp_path / "made.py").write_text(
        "import jax.numpy as jnp\nimport implicit_accel as ia\n"
        "def init(seed):\n    return {'w': jnp.ones(2), 'n': jnp.zeros(())}\n"
        "def loss(p, _):\n"
        "    return jnp.sum(p['w'] ** 2) - p['n'], {'accuracy': p['n'] / 10}\n"
        "def optimizer(hp):\n"
        "    import optax\n"
        "    return optax.multi_transform({'w': optax.sgd(hp['learning_rate']), "
        "'n': optax.sgd(1.0)}, {'w': 'w', 'n': 'n'})\n"
        "task = ia.from_loss(loss, init=init, data=jnp.zeros(3), has_aux=True)\n"
    )
    flags = (
        "--task", f"{tmp_path}/made.py:task", "--task_optimizer", "optimizer", "--num_steps", "10",
        "--learning_rates", "0.1", "--num_seeds", "1", "--output_dir", tmp_path / "run",
        "--formats", "none", "--target", "0.45", "--metric", "accuracy:1",
    )  # fmt: skip
    for _ in range(2):  # trained, then read
        result = run("sweep", *flags)
        assert result.returncode == 0, result.stderr
        table = pd.read_csv(tmp_path / "run" / "summary.csv")
        assert table["steps_to_target"].tolist() == [5]
    # The folder keeps the losses.
    np.testing.assert_allclose(
        ia.load_run(tmp_path / "run").loss.values.squeeze(), 2 * 0.8 ** (2.0 * np.arange(11))
        - np.arange(11), rtol=1e-5,
    )  # fmt: skip


def test_a_task_that_ends_python_is_no_success(tmp_path):
    (tmp_path / "a.py").write_text("import sys\nsys.exit(0)\n")
    expect_usage_error(run("sweep", "--task", f"{tmp_path}/a.py:task"), "cannot be run (SystemExit")
    (tmp_path / "b.py").write_text(
        "import sys\nimport jax.numpy as jnp\nimport implicit_accel as ia\n"
        "task = ia.from_loss(lambda w, b: sys.exit(0), init=lambda key: jnp.ones(2), data=None)\n"
    )
    result = run("sweep", "--task", f"{tmp_path}/b.py:task", *SHORT, "--output_dir", tmp_path / "r")
    assert result.returncode == 1
    assert "ended Python (sys.exit) before there were results" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_parameters_of_a_run_are_those_of_a_loop(precision):
    """Two layers by momentum on mini-batches of all rows, with a mask that is not trained."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)

    def init(key):
        return {"W": jax.random.normal(key, (3,)), "mask": np.array([True, False, True])}

    def loss(params, batch):
        rows, labels = batch
        return jnp.mean((rows @ (params["W"] * params["mask"]) - labels) ** 2)

    task = ia.from_loss(loss, init=init, data=(X, y))
    settings = {
        "optimizer": lambda hp: optax.sgd(hp["learning_rate"], momentum=0.5), "num_steps": 20,
        "precision": precision,
    }  # fmt: skip
    axes = {"learning_rate": (0.05, 0.1), "seed": (3, 4)}
    runs = ia.sweep(task, axes=axes, keep="final", **settings)
    found = runs.ia.params(learning_rate=0.05, seed=3)
    with jax.enable_x64(precision == "float64"):
        data = tuple(a.astype(precision) for a in (X, y))
        last = float(loss(found, data))
    assert last == pytest.approx(float(runs.loss.values[0, 0, -1]), rel=1e-6)
    w = np.asarray(init(ia.run_key(3, "init"))["W"], float)
    velocity = np.zeros(3)
    for _ in range(20):
        kept = np.array([1, 0, 1])
        gradient = 2 * kept * (X.T @ (X @ (w * kept) - y)) / 12
        velocity = 0.5 * velocity + gradient
        w = w - 0.05 * velocity
    tolerance = 1e-5 if precision == "float32" else 1e-12
    np.testing.assert_allclose(found["W"], w, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(found["mask"], [True, False, True])


def test_parameters_differ_in_shape_along_static_axes():
    task = ia.from_loss(
        lambda p, _: jnp.sum(p**2), init=lambda hp: jnp.ones(hp["size"]), data=np.zeros(1)
    )
    runs = ia.sweep(
        task, axes={"size": ia.static(4, 5), "learning_rate": [0.25, 5.0]},
        optimizer=ia.Optimizer("sgd"), num_steps=50, keep="final",
    )  # fmt: skip
    for size in (4, 5):
        found = runs.ia.params(size=size)
        np.testing.assert_allclose(found[0], np.full(size, 0.5**50))
        assert np.isnan(found[1]).all()  # diverged
    with pytest.raises(ia.UserError, match="differ in shape"):
        runs.ia.params(learning_rate=0.25)
