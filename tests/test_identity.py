"""What is the same run: stored results are returned only for what computed them."""

import functools
import json
import sys
import threading
from typing import Any

import changes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.content import UnidentifiedError, content_digest, program_digest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.standard_normal(60)


def mse(params, batch):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def normal(key):
    return {"w": jax.random.normal(key, (4,))}


def sgd(hp):
    return optax.sgd(hp["learning_rate"])


def train(folder=None, task=None, **options: Any):
    given: dict[str, Any] = {
        "axes": {"learning_rate": [0.05], "seed": [0, 1]}, "optimizer": sgd, "num_steps": 20,
        "folder": folder,
    }  # fmt: skip
    return ia.sweep(task or ia.from_loss(mse, init=normal, data=(X, y)), **(given | options))


def num_trained(folder, task=None, **options: Any) -> int:
    """How many run-steps a call trains."""
    totals = set()
    train(folder, task, progress=lambda _, total: totals.add(total), **options)
    return sum(totals)


# --- another run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", changes.PLACES, ids=lambda place: place.name)
def test_a_constant_changed_anywhere_is_another_run(tmp_path, place):
    """A share of ``python -m tests.changes``."""
    assert changes.problems(place, range(2), seed=1, folder=tmp_path / "run") == []


def scaled(scale):
    def init(seed):
        return {"w": scale * np.random.default_rng(seed).standard_normal(4)}

    return ia.from_loss(mse, init=init, data=(X, y))


def first_losses(scale, seeds):
    """By NumPy."""
    starts = (scale * np.random.default_rng(seed).standard_normal(4) for seed in seeds)
    return [np.mean((X @ w - y) ** 2) for w in starts]


def test_a_host_init_is_known_by_its_values(tmp_path):
    np.testing.assert_allclose(
        train(tmp_path, scaled(0.1))["loss"][0, :, 0], first_losses(0.1, (0, 1)), rtol=1e-5
    )
    for seeds in ((0, 1), (0, 1, 2, 3), (1,)):
        with pytest.raises(ia.UserError, match=r"init: returns other .*overwrite=True"):
            train(tmp_path, scaled(5.0), axes={"learning_rate": [0.05], "seed": seeds})
    more = {"learning_rate": [0.05], "seed": [0, 1, 2, 3]}
    np.testing.assert_allclose(
        train(tmp_path, scaled(0.1), axes=more)["loss"][0, :, 0], first_losses(0.1, range(4)),
        rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(
        train(tmp_path, scaled(5.0), overwrite=True)["loss"][0, :, 0], first_losses(5.0, (0, 1)),
        rtol=1e-5,
    )  # fmt: skip


def test_a_host_init_that_takes_a_hyper_parameter_later_is_another(tmp_path):
    axes = {"learning_rate": [0.05], "seed": [0, 1], "s": [1.0, 2.0]}

    def loss(params, batch, hp):
        return hp["s"] * mse(params, batch)

    def init(seed):
        return {"w": np.random.default_rng(seed).standard_normal(4)}

    def init_with_s(seed, hp):
        return {"w": hp["s"] * np.random.default_rng(seed).standard_normal(4)}

    train(tmp_path, ia.from_loss(loss, init=init, data=(X, y)), axes=axes)
    with pytest.raises(ia.UserError, match="init: returns other initial parameters"):
        train(tmp_path, ia.from_loss(loss, init=init_with_s, data=(X, y)), axes=axes)


def test_initial_parameters_on_the_host_may_depend_on_the_learning_rate():
    def init(seed, hp):
        return {"w": np.full(4, hp["learning_rate"] + seed)}

    runs = train(
        task=ia.from_loss(mse, init=init, data=(X, y)),
        axes={"learning_rate": [0.05, 0.1], "seed": [0, 1]},
    )
    for rate, seed in ((0.05, 0), (0.1, 1), (0.1, 0)):
        expected = np.mean((X @ np.full(4, rate + seed) - y) ** 2)
        found = runs["loss"].sel(learning_rate=rate, seed=seed)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_swapped_hyper_parameters_are_another_run(tmp_path):
    axes = {"a": [0.1, 0.2], "b": [0.3], "learning_rate": [0.05]}

    def task(first, second):
        def loss(params, batch, hp):
            return mse(params, batch) * hp[first] + hp[second] * jnp.sum(params["w"] ** 2)

        return ia.from_loss(loss, init=normal, data=(X, y))

    train(tmp_path, task("a", "b"), axes=axes)
    with pytest.raises(ia.UserError, match="loss: computes something else"):
        train(tmp_path, task("b", "a"), axes=axes)


def test_what_cannot_be_identified_is_refused_with_a_folder_only(tmp_path):
    lock = threading.Lock()

    def on_host(w):
        with lock:
            return np.asarray(w)

    def loss(params, batch):
        shape = jax.ShapeDtypeStruct((4,), jnp.float32)
        w = jax.lax.stop_gradient(params["w"])
        return mse(params, batch) + jnp.sum(
            jax.pure_callback(on_host, shape, w, vmap_method="expand_dims")
        )

    task = ia.from_loss(loss, init=normal, data=(X, y))
    with pytest.raises(
        ia.UserError, match=r"_thread.lock .*content cannot be read.*without folder"
    ):
        train(tmp_path / "run", task, num_steps=2)
    assert not (tmp_path / "run").exists()
    assert np.isfinite(train(None, task, num_steps=2)["loss"]).all()


def with_ridge(params, batch, hp):
    return mse(params, batch) + hp["ridge"] * jnp.sum(params["w"] ** 2)


OTHERS = {
    "loss": {"task": ia.from_loss(lambda p, b: 2 * mse(p, b), init=normal, data=(X, y))},
    "init": {"task": ia.from_loss(mse, init=lambda key: {"w": jnp.full(4, 5.0)}, data=(X, y))},
    "optimizer": {"optimizer": lambda hp: optax.adam(hp["learning_rate"])},
}


@pytest.mark.parametrize("axes", [{"learning_rate": [0.05]}, {"learning_rate": [0.05, 0.1]}])
@pytest.mark.parametrize("part", OTHERS)
def test_an_axis_left_out_vouches_for_no_function(tmp_path, part, axes):
    """Other functions, in the folder of a run with one axis of one value more."""
    task = ia.from_loss(with_ridge, init=normal, data=(X, y))
    train(tmp_path, task, axes={"learning_rate": [0.05], "ridge": [0.5]})
    with pytest.raises(ia.UserError, match=r"ridge: 0\.5 there"):
        train(tmp_path, **OTHERS[part], axes=axes)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (ia.static(1.0, 2.0), [1.0, 2.0]),
        ([1.0, 2.0], ia.static(1.0, 2.0)),
        (ia.static(1.0, 2.0), [1.0, 2.0, 3.0]),
        ([True, False], ia.static(True, False)),
        (ia.static(1, 2.0), ia.static(1.0, 2)),
    ],
    ids=str,
)
def test_static_and_traced_axes_are_different_programs(tmp_path, there, here):
    def task(factor):
        def loss(params, batch, hp):
            return with_ridge(params, batch, {"ridge": factor * hp["ridge"]})

        return ia.from_loss(loss, init=normal, data=(X, y))

    train(tmp_path, task(0.1), axes={"learning_rate": [0.05], "ridge": there})
    for factor in (5.0, 0.1):
        with pytest.raises(ia.UserError, match=r"static: |ridge: "):
            train(tmp_path, task(factor), axes={"learning_rate": [0.05], "ridge": here})


def test_a_traced_init_and_one_on_the_host_are_different(tmp_path):
    host = scaled(1.0)
    for name, (there, here) in {"a": (None, host), "b": (host, None)}.items():
        train(tmp_path / name, there)
        with pytest.raises(ia.UserError, match="init: computes something else"):
            train(tmp_path / name, here)


def test_a_step_in_an_observable_is_part_of_it(tmp_path):
    def record(threshold):
        return {"a": lambda point: jnp.where(point.step > threshold, 1.0, 2.0)}

    train(tmp_path, record=record(2))
    with pytest.raises(ia.UserError, match="record a: computes something else"):
        train(tmp_path, record=record(4))


def behind_a_callback(on_host):
    def loss(params, batch):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        value = jax.pure_callback(
            lambda w: np.float32(on_host(w)), shape, jax.lax.stop_gradient(params["w"][0]),
            vmap_method="sequential",
        )  # fmt: skip
        return mse(params, batch) + value

    return ia.from_loss(loss, init=normal, data=(X, y))


class Wrapped:
    def __init__(self, function, k):
        functools.update_wrapper(self, function)
        self.k = k

    def __call__(self, w):
        return w * self.k


class Table(dict):
    k = 1.0


def table(k):
    made = Table()
    made.k = k
    return made


def scaled_by(made, w):
    return made.k * w


def make_modules(monkeypatch, tmp_path, value):
    """A package of the user's with a constant in a submodule, as if it had been edited."""
    for name in [n for n in sys.modules if n.startswith("users_package")]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / f"code{value}" / "users_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from users_package import sub\n")
    (folder / "sub.py").write_text(f"SCALE = {value}\ndef scale(w):\n    return SCALE * w\n")
    monkeypatch.syspath_prepend(folder.parent)
    import users_package  # pyright: ignore[reportMissingImports]

    return users_package


CALLBACKS = {
    "submodule": lambda value, package: lambda w: package.sub.SCALE * w,
    "function of a submodule": lambda value, package: lambda w: package.sub.scale(w),
    "module in a default": lambda value, package: lambda w, sub=package.sub: sub.SCALE * w,
    "wrapper object": lambda value, package: Wrapped(abs, value),
    "dictionary with attributes": lambda value, package: functools.partial(scaled_by, table(value)),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_are_known_by_all_that_they_read(tmp_path, monkeypatch, name):
    def task(value):
        package = make_modules(monkeypatch, tmp_path, value)
        return behind_a_callback(CALLBACKS[name](float(value), package))

    train(tmp_path / "run", task(1), num_steps=2)
    with pytest.raises(ia.UserError, match="loss: computes something else"):
        train(tmp_path / "run", task(2), num_steps=2)


def importing(w):
    from users_package import sub  # pyright: ignore[reportMissingImports]

    return sub.SCALE * w


HIDDEN = 1.0


@pytest.mark.parametrize(
    ("on_host", "words"),
    [
        (
            lambda w: globals()["HIDDEN"] * w,
            "uses globals, and what it reads by it cannot be known",
        ),
        (lambda w: getattr(changes, "SCALE", 1.0) * w, "uses getattr"),
        (importing, "users_package is imported inside a function"),
    ],
)
def test_what_is_read_by_name_is_refused(tmp_path, monkeypatch, on_host, words):
    for name in [n for n in sys.modules if n.startswith("users_package")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ia.UserError, match=words):
        train(tmp_path, behind_a_callback(on_host), num_steps=2)


# --- the same run --------------------------------------------------------------------------------


def test_a_renamed_function_is_no_other_run(tmp_path):
    @jax.jit
    def one(w, features):
        return features @ w

    @jax.jit
    def another_name(weights, rows):
        return rows @ weights

    def task(predict):
        def loss(params, batch):
            return jnp.mean((predict(params["w"], batch[0]) - batch[1]) ** 2)

        return ia.from_loss(loss, init=normal, data=(X, y))

    begun = train(tmp_path, task(one))
    assert num_trained(tmp_path, task(another_name)) == 0
    assert train(tmp_path, task(another_name)).identical(begun)


def test_a_subset_of_a_finished_run_is_returned_without_training(tmp_path):
    axes = {"learning_rate": [0.01, 0.05, 0.1], "seed": range(4)}
    whole = train(tmp_path, axes=axes)
    few = {"seed": [3, 1], "learning_rate": [0.1]}
    assert num_trained(tmp_path, axes=few) == 0
    some = train(tmp_path, axes=few)
    expected = whole.sel(seed=[3, 1], learning_rate=[0.1]).transpose("seed", "learning_rate", ...)
    np.testing.assert_array_equal(some["loss"], expected["loss"])
    assert some["loss"].dims == ("seed", "learning_rate", "step")
    assert num_trained(tmp_path, axes=axes) == 0  # the folder still holds all of it


def test_a_linear_sweep_s_subset_is_returned_without_training(tmp_path):
    problem = linear.make_problem(linear.gas_like())

    def sweep(**changed):
        config = linear.SweepConfig(**({"num_steps": 5, "depths": (1, 2), "num_seeds": 3,
                                    "learning_rates": (0.01, 0.1, 1.0)} | changed))  # fmt: skip
        seen = []
        runs = linear.run_sweep(
            problem, config, folder=tmp_path, progress=lambda *at: seen.append(at)
        )
        return runs, bool(seen)

    whole, trained = sweep()
    assert trained
    some, trained = sweep(depths=(2,), learning_rates=(1.0, 0.01), num_seeds=2)
    assert not trained
    expected = whole.isel(model=whole["depth"].values == 2, learning_rate=[2, 0], seed=[0, 1])
    assert some["excess_loss"].equals(expected["excess_loss"])


def test_another_order_of_the_axes_is_no_other_run(tmp_path):
    one = {"learning_rate": [0.05], "seed": [0, 1], "s": [1.0, 2.0]}
    other = {"s": [1.0, 2.0, 3.0], "seed": [0, 1, 2], "learning_rate": [0.05, 0.1]}

    def loss(params, batch, hp):
        return hp["s"] * mse(params, batch)

    task = ia.from_loss(loss, init=normal, data=(X, y))
    train(tmp_path, task, axes=one)
    grown, fresh = train(tmp_path, task, axes=other), train(None, task, axes=other)
    assert grown["loss"].dims == fresh["loss"].dims == ("s", "seed", "learning_rate", "step")
    np.testing.assert_allclose(grown["loss"], fresh["loss"], rtol=1e-5)
    # Read again from what was written.
    np.testing.assert_array_equal(train(tmp_path, task, axes=other)["loss"], grown["loss"])
    assert num_trained(tmp_path, task, axes=one) == 0


@pytest.mark.parametrize("extra", [{"seed": [0]}, {"opt": ["sgd"]}, {"ridge": [0.5]}], ids=str)
def test_an_axis_with_one_value_is_no_other_run(tmp_path, extra):
    def loss(params, batch, hp):
        return mse(params, batch) + hp.get("ridge", 0.5) * jnp.sum(params["w"] ** 2)

    def optimizer(hp):
        assert hp.get("opt", "sgd") == "sgd"
        return sgd(hp)

    task = ia.from_loss(loss, init=normal, data=(X, y))
    plain, wide = {"learning_rate": [0.05, 0.1]}, {"learning_rate": [0.05, 0.1], **extra}

    def losses(folder, axes):
        return train(folder, task, axes=axes, optimizer=optimizer)["loss"]

    begun = losses(tmp_path / "a", plain)
    ((name, _),) = extra.items()
    with_axis = losses(tmp_path / "a", wide)
    assert with_axis.dims == ("learning_rate", name, "step")
    np.testing.assert_array_equal(with_axis.isel({name: 0}), begun)
    assert num_trained(tmp_path / "a", task, axes=wide, optimizer=optimizer) == 0
    # It goes on, too.
    more = wide | {"learning_rate": [0.05, 0.1, 0.02]}
    np.testing.assert_allclose(
        losses(tmp_path / "a", more), losses(None, more), rtol=1e-5, atol=1e-6
    )
    if name != "ridge":  # a traced number and one that is written down are two programs
        begun = losses(tmp_path / "b", wide)
        np.testing.assert_array_equal(losses(tmp_path / "b", plain), begun.isel({name: 0}))


def test_axes_of_one_value_come_and_go_in_one_folder(tmp_path):
    """Each call returns what a fresh one does, whatever the file had been written for."""

    def loss(params, batch, hp):
        return mse(params, batch) + 0.5 * jnp.sum(params["w"] ** 2) * (hp.get("w", "a") == "a")

    task = ia.from_loss(loss, init=normal, data=(X, y))
    rates = {"learning_rate": [0.05]}
    more = {"learning_rate": [0.05, 0.1]}
    calls: list[dict[str, Any]] = [
        rates, more | {"w": ["a"]}, more | {"w": ["a"]}, more, {"w": ["a"], **more},
        more | {"learning_rate": [0.1, 0.05, 0.2]}, {"seed": [0], **more}, rates | {"w": ["a"]},
    ]  # fmt: skip
    for axes in calls:
        found, fresh = train(tmp_path, task, axes=axes), train(None, task, axes=axes)
        assert found["loss"].dims == fresh["loss"].dims
        assert {*found.coords} == {*fresh.coords}
        np.testing.assert_allclose(found["loss"], fresh["loss"], rtol=1e-5)


def test_numpy_s_numbers_are_settings(tmp_path):
    options: dict[str, Any] = {
        "batch_size": np.int64(7), "target": np.float32(0.5), "records_per_decade": np.int32(20),
        "observations_per_decade": np.uint8(5), "num_steps": np.int64(20),
    }  # fmt: skip
    begun = train(tmp_path, **options)
    assert num_trained(tmp_path, **options) == 0
    plain = {name: value.item() for name, value in options.items()}
    assert train(tmp_path, **plain).identical(begun)


@pytest.mark.parametrize("changed", [{"batch_size": 7}, {"precision": "float64"}])
def test_a_setting_alone_accuses_no_function(tmp_path, changed):
    train(tmp_path)
    with pytest.raises(ia.UserError) as error:
        train(tmp_path, **changed)
    assert next(iter(changed)) in str(error.value)
    assert "computes something else" not in str(error.value)


@pytest.mark.parametrize("name", ["optimum", "reference_loss"])
def test_an_optimum_is_named(tmp_path, name):
    train(tmp_path)
    options: dict[str, Any] = {name: 0.001}
    with pytest.raises(ia.UserError, match=rf"settings \({name}: None there, 0.001 here\)"):
        train(tmp_path, ia.from_loss(mse, init=normal, data=(X, y), **options))


@pytest.mark.parametrize("batch_size", [None, 7])
def test_another_target_is_no_other_run_where_every_loss_is_kept(tmp_path, batch_size):
    task = ia.from_loss(mse, init=normal, data=(X, y))

    def steps(folder, target, **options):
        runs = train(folder, task, target=target, batch_size=batch_size, **options)
        return runs["steps_to_target"].values, float(runs["target"])

    first, _ = steps(tmp_path, 1.0)
    assert num_trained(tmp_path, task, target=0.3, batch_size=batch_size) == 0
    again, target = steps(tmp_path, 0.3)
    np.testing.assert_array_equal(again, steps(None, 0.3)[0])
    assert target == 0.3
    assert (again > first).all()
    assert np.isnan(steps(tmp_path, None)[1])
    # It goes on, to more steps and more rates.
    more: dict[str, Any] = {"num_steps": 40, "axes": {"learning_rate": [0.05, 0.1], "seed": [0, 1]}}
    np.testing.assert_array_equal(steps(tmp_path, 0.2, **more)[0], steps(None, 0.2, **more)[0])


def test_another_target_is_another_run_where_losses_are_missing(tmp_path):
    options: dict[str, Any] = {"num_steps": 50, "records_per_decade": 5}
    train(tmp_path, target=1.0, **options)
    with pytest.raises(ia.UserError, match=r"target: 1.0 there, 0.3 here"):
        train(tmp_path, target=0.3, **options)


def test_fewer_observables_are_no_other_run(tmp_path):
    train(tmp_path, record=("gradient_norm", "parameter_norm"))
    for record in (("parameter_norm",), ()):
        assert num_trained(tmp_path, record=record) == 0
        found, fresh = train(tmp_path, record=record), train(None, record=record)
        assert {*found.variables} == {*fresh.variables}


def test_more_observables_are_computed_by_training_again(tmp_path):
    begun = train(tmp_path, record=("gradient_norm",))
    with pytest.warns(UserWarning, match=r"parameter_norm: not recorded .* trained again"):
        more = train(tmp_path, record=("gradient_norm", "parameter_norm"))
    for name in begun.variables:
        np.testing.assert_allclose(more[name], begun[name], rtol=1e-6)
    expected = train(None, record=("parameter_norm",))["parameter_norm"]
    np.testing.assert_allclose(more["parameter_norm"], expected, rtol=1e-6)
    with pytest.raises(ia.UserError, match=r"record: .*optimizer: computes something else"):
        train(tmp_path, record=("gradient_norm", "parameter_norm", "sharpness"),
              optimizer=lambda hp: optax.adam(hp["learning_rate"]))  # fmt: skip


def rewrite(folder, change) -> None:
    """Edits what the folder's files say of the run."""
    for path in (folder / "config.json", folder / "checkpoints" / "manifest.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def as_of_another_jax(content) -> None:
    functions = content["identity"]["functions"]
    functions["jax"] = "0.1.2"
    for programs in functions["programs"].values():
        for key in programs:
            programs[key] = "0" * 16
    if "environment" in content:
        content["environment"] = "JAX 0.1.2, 1 cpu device a process, x86_64"


def test_an_upgrade_of_jax_is_no_other_run_as_long_as_the_functions_stay(tmp_path):
    begun = train(tmp_path)
    rewrite(tmp_path, as_of_another_jax)
    assert num_trained(tmp_path) == 0
    assert train(tmp_path).identical(begun)
    with pytest.raises(ia.UserError, match=r"loss: JAX 0.1.2 compiled .*code is not the same"):
        train(tmp_path, ia.from_loss(lambda p, b: 2 * mse(p, b), init=normal, data=(X, y)))
    with pytest.warns(UserWarning, match=r"begun with JAX 0.1.2.*goes on with JAX"):
        train(tmp_path, num_steps=25)


# --- digests -------------------------------------------------------------------------------------


def test_programs_are_told_apart_by_every_constant_and_by_nothing_else():
    table = np.arange(3.0)

    def f(x):
        return jax.jit(lambda v: v * table)(x)

    def renamed(argument):
        return jax.jit(lambda w: w * table)(argument)

    def other(x):
        return jax.jit(lambda v: v * np.array([0.0, 1.0, 2.0 + 1e-6]))(x)

    x = np.ones(3, np.float32)
    assert program_digest(f, x) == program_digest(renamed, x)
    assert program_digest(f, x) != program_digest(lambda x: table.astype("f4") * x, x)
    assert program_digest(f, x) != program_digest(other, x)
    # Arguments that are not used have no part; whose value is used where has.
    assert program_digest(lambda a: a["x"] + 1, {"x": x}) == program_digest(
        lambda a: a["x"] + 1, {"x": x, "y": x}
    )
    assert program_digest(lambda a: a["x"], {"x": x, "y": x}) != program_digest(
        lambda a: a["y"], {"x": x, "y": x}
    )


def test_content_covers_what_a_function_depends_on():
    def make(constant, default=1.0):
        def helper(x):
            return x + constant

        def f(x, y=default):
            return helper(x) * y

        return f

    same, other = make(1.0), make(2.0)
    assert content_digest(make(1.0)) == content_digest(same)
    for changed in (other, make(1.0, 3.0), functools.partial(same, y=2.0), make(1)):
        assert content_digest(changed) != content_digest(same)
    loop: list[Any] = [1]
    loop.append(loop)
    assert content_digest(loop) == content_digest(loop)
    assert content_digest({1, 2, 3}) == content_digest({3, 1, 2})
    with pytest.raises(UnidentifiedError, match="generator"):
        content_digest(i for i in range(3))
