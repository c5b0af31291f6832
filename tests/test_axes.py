"""Axes of values that are no numbers, and axes along which hyper-parameters vary together."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import implicit_accel as ia
from implicit_accel.plotting import plot_learning_rates
from implicit_accel.results import by_model, invalid, load_results, save_results
from implicit_accel.store.folder import RunFolder
from implicit_accel.tasks.axes import hyper_parameters, read_axes
from implicit_accel.tasks.grid import TaskSweep

STEPS = 6


def sgd(hp):
    return optax.sgd(hp["learning_rate"], hp.get("momentum"))


def train(loss, axes, init=lambda key: {"w": jnp.array(0.5)}, **options: Any):
    task = ia.from_loss(lambda p, b, hp: loss(p, hp) + 0 * b[0], init=init, data=np.ones(1))
    given = {"optimizer": sgd, "num_steps": STEPS} | options
    return ia.sweep(task, axes=axes, **given)


def bend(params, hp):
    return (hp["bend"](params["w"]) - 2.0) ** 2


def square(x):
    return x**2


def cube(x):
    return x**3


def shifted(params, hp):
    return (params["w"] - hp["shift"]) ** 2


def descend(loss, rate, momentum=0.0):
    """Losses of gradient descent from 0.5, by central differences in double precision."""
    w, velocity, losses = 0.5, 0.0, []
    for _ in range(STEPS + 1):
        losses.append(loss(w))
        velocity = momentum * velocity + (loss(w + 1e-6) - loss(w - 1e-6)) / 2e-6
        w -= rate * velocity
    return losses


def test_functions_are_values_and_their_names_labels(tmp_path):
    axes = {"bend": ia.static(square, cube), "learning_rate": [0.05, 0.1]}
    runs = train(bend, axes, folder=tmp_path)
    for f, rate in itertools.product((square, cube), (0.05, 0.1)):
        found = runs["loss"].sel(bend=f.__name__, learning_rate=rate)
        expected = descend(lambda w, f=f: (f(w) - 2) ** 2, rate)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert ia.load_run(tmp_path).identical(runs)
    assert ia.select(runs, bend="cube")["bend"].values.tolist() == ["cube"]
    assert set(ia.to_tidy(runs)["bend"]) == {"square", "cube"}
    # A word that the loss looks up makes the same program, and so the same run.
    words = train(
        lambda p, hp: bend(p, {"bend": {"square": square, "cube": cube}[hp["bend"]]}),
        axes | {"bend": ["square", "cube"]}, folder=tmp_path,
    )  # fmt: skip
    assert words.identical(runs)


def test_tuples_dictionaries_and_none_are_values():
    def loss(params, hp):
        scale = 1.0 if hp["clip"] is None else hp["clip"]
        return scale * jnp.sum((params["w"] - hp["config"]["goal"]) ** 2)

    runs = train(
        # JAX needs to compare what a compiled function does not trace.
        jax.jit(loss), init=lambda hp: {"w": jnp.zeros(hp["hidden"])},
        axes={
            "hidden": ia.static((2,), (2, 3)), "clip": ia.static(None, 0.5),
            "config": {"one": {"goal": 1.0, "rest": [1]}},
        },
        optimizer=optax.sgd(0.1), num_steps=1,
    )  # fmt: skip
    assert runs["hidden"].values.tolist() == ["(2,)", "(2, 3)"]
    assert runs["clip"].values.tolist() == ["None", "0.5"]
    for hidden, clip in itertools.product(("(2,)", "(2, 3)"), ("None", "0.5")):
        count, scale = {"(2,)": 2, "(2, 3)": 6}[hidden], {"None": 1, "0.5": 0.5}[clip]
        expected = count * scale * np.array([1.0, (1 - 0.2 * scale) ** 2])
        found = runs["loss"].sel(hidden=hidden, clip=clip, config="one")
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_final_params_of_a_run_with_a_label():
    axes = {"bend": {"mine": lambda w: w + 1}, "learning_rate": [0.25]}
    task = ia.from_loss(
        lambda p, b, hp: bend(p, hp) + 0 * b[0], init=lambda key: {"w": jnp.array(0.5)},
        data=np.ones(1),
    )  # fmt: skip
    found = ia.sweep(task, axes=axes, optimizer=sgd, num_steps=1, keep="final").ia.params()
    np.testing.assert_allclose(found["w"], [[0.5 + 0.25]], rtol=1e-6)


def test_what_is_behind_a_label_is_part_of_the_run(tmp_path):
    def run(**functions):
        return train(bend, {"bend": functions, "learning_rate": [0.05]}, folder=tmp_path)

    first = run(f=square)
    with pytest.raises(ia.UserError, match="loss: computes something else than there"):
        run(f=cube)
    with pytest.raises(ia.UserError, match="loss: computes something else than there"):
        run(f=cube, g=square)
    more = run(g=cube, f=lambda w: w**2)  # another text, the same program
    assert more["bend"].values.tolist() == ["g", "f"]
    np.testing.assert_array_equal(more["loss"].sel(bend="f"), first["loss"].sel(bend="f"))
    manifest = RunFolder(tmp_path).manifest()
    assert manifest is not None
    assert [added.axes["bend"] for added in manifest.rounds] == [("f",), ("g",)]
    assert run(g=cube, f=square).identical(more)


def test_another_jax_compares_the_code_behind_labels():
    def identity(**functions):
        task = ia.from_loss(lambda p, b, hp: bend(p, hp), init=lambda: {"w": jnp.array(0.5)},
                            data=np.ones(1))  # fmt: skip
        axes = {"bend": functions, "learning_rate": [0.05]}
        return TaskSweep(task, axes=axes, optimizer=sgd, num_steps=STEPS).identity

    here = identity(f=square)
    functions = here.functions
    assert functions is not None
    there = dataclasses.replace(here, functions=dataclasses.replace(functions, jax="0.1"))
    # The lambdas of the task are the same code each time.
    assert there.differences(here) == []
    assert there.differences(identity(f=square, g=cube)) == []
    (difference,) = there.differences(identity(f=cube))
    assert difference.startswith("bend f: its code is not the same")


def test_a_label_is_not_passed_where_a_call_leaves_its_axis_out(tmp_path):
    def loss(params, hp):
        return bend(params, {"bend": hp.get("bend", square)})

    runs = train(loss, {"bend": {"f": square}, "learning_rate": [0.05]}, folder=tmp_path)
    without = train(loss, {"learning_rate": [0.05]}, folder=tmp_path)
    np.testing.assert_array_equal(without["loss"], runs["loss"][0])
    assert without["loss"].dims == ("learning_rate", "step")


labels = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12)


@settings(max_examples=6, deadline=None)
@given(st.dictionaries(labels, st.integers(), min_size=1, max_size=4))
def test_labels_survive_files(tmp_path_factory, values):
    task = ia.from_loss(lambda p, b, hp: p["w"] * hp["x"], init=lambda: {"w": jnp.zeros(())},
                        data=np.ones(1))  # fmt: skip
    sweep = TaskSweep(task, axes={"x": values}, optimizer=optax.sgd(0.1), num_steps=1)
    shape = (len(values), 1)
    runs = sweep.label({
        "excess_loss": np.ones((*shape, 2), np.float32), "steps_to_target": np.full(shape, -1),
        "divergence_step": np.full(shape, -1),
    })  # fmt: skip
    folder = tmp_path_factory.mktemp("labels")
    save_results(runs, folder)
    loaded = load_results(folder / "results.nc")
    assert loaded["x"].values.tolist() == list(values)
    assert invalid(loaded) == ""


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.floats(allow_nan=False),
    st.text("ab", max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(values, st.tuples(values), st.dictionaries(st.text("ab"), values)),
                min_size=1, max_size=4))  # fmt: skip
def test_labels_are_unique_or_refused(given):
    try:
        read = read_axes({"x": ia.static(*given)})
    except ia.UserError as error:
        assert str(error).startswith("axis x: ")  # noqa: PT017
        return
    assert len(set(read.axes["x"])) == len(given)
    if behind := read.behind.get("x"):
        assert [repr(behind[label]) for label in read.axes["x"]] == list(map(repr, given))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([square, cube], r"axis x: .*mark others as ia\.static\(…\), or name them"),
        ([None, 1.0], "axis x: values must be numbers"),
        (ia.static(lambda x: x), r"axis x: a value of type function has no name.*\{\"label\": val"),
        (ia.static(functools.partial(square), None), "value of type partial has no name"),
        (ia.static((lambda x: x,)), "a value of type tuple has no name"),
        (ia.static("a" * 101, None), "a value of type str has no name or short text"),
        (ia.static("", None), "a value of type str has no name or short text"),
        (ia.static("None", None), "axis x: two values have the label 'None'; name the values"),
        (ia.static(square, square), "axis x: give one value or more, each once"),
        ({}, "axis x: give one value or more"),
        ({1: square}, "axis x: 1 is no label; labels are text"),
        ({"a\n": square}, r"axis x: 'a\\n' is no label"),
    ],
)  # fmt: skip
def test_labels_that_are_refused(values, words):
    with pytest.raises(ia.UserError, match=words):
        read_axes({"x": values})


CONFIGURATIONS = [
    {"learning_rate": 0.1, "momentum": 0.5, "shift": 3.0},
    {"learning_rate": 0.2, "momentum": 0.0, "shift": 1.0},
    {"learning_rate": 0.1, "momentum": 0.25, "shift": 1.0},
]


def init(seed):
    return {"w": np.array([0.5, 0.75][seed])}


def test_configurations_are_trained_and_not_their_product(tmp_path):
    runs = train(
        shifted, {"configuration": ia.together(CONFIGURATIONS), "seed": [0, 1]}, init=init,
        folder=tmp_path, target=1e-3,
    )  # fmt: skip
    assert runs["loss"].dims == ("configuration", "seed", "step")
    assert runs["configuration"].values.tolist() == [0, 1, 2]
    for number, own in enumerate(CONFIGURATIONS):
        one = runs.sel(configuration=number)
        assert {name: float(one[name]) for name in own} == own
        expected = descend(
            lambda w, own=own: (w - own["shift"]) ** 2, own["learning_rate"], own["momentum"]
        )
        np.testing.assert_allclose(one["loss"].sel(seed=0), expected, rtol=1e-4, atol=1e-9)
    # The same runs are part of the product, to the bit.
    grid = train(
        shifted, {name: sorted({own[name] for own in CONFIGURATIONS}) for name in CONFIGURATIONS[0]}
        | {"seed": [0, 1]}, init=init, target=1e-3,
    )  # fmt: skip
    at = {n: xr.DataArray([own[n] for own in CONFIGURATIONS], dims="c") for n in CONFIGURATIONS[0]}
    for name in ("loss", "steps_to_target"):
        np.testing.assert_array_equal(
            grid[name].sel(at).transpose("c", "seed", ...), runs[name]
        )  # fmt: skip
    assert ia.load_run(tmp_path).identical(runs)
    check_tables(runs)
    # A subset in another order is there.
    frame = pd.DataFrame(CONFIGURATIONS).iloc[::-1][:2]
    part = train(
        shifted, {"seed": [1], "configuration": ia.together(frame)}, init=init, folder=tmp_path,
        target=1e-3, progress=forbidden,
    )  # fmt: skip
    np.testing.assert_array_equal(part["loss"], runs["loss"].sel(seed=[1])[[2, 1]].transpose(
        "seed", "configuration", "step"))  # fmt: skip
    assert part["configuration"].values.tolist() == [0, 1]
    assert part["momentum"].values.tolist() == [0.25, 0.0]


def forbidden(done, total):  # noqa: ARG001
    raise AssertionError("nothing is to be trained")


def check_tables(runs):
    """Tables and figures have the configurations' own learning rates."""
    rates = [own["learning_rate"] for own in CONFIGURATIONS]
    table = ia.summarise(runs)
    assert table["best_learning_rate"].tolist() == rates
    assert table["momentum"].tolist() == [own["momentum"] for own in CONFIGURATIONS]
    assert len(set(table["model"])) == 3
    final = np.median(runs["excess_loss"][..., -1], axis=1)
    np.testing.assert_allclose(table["final_excess"], final, rtol=1e-6)
    tidy = ia.to_tidy(runs)
    assert tidy["learning_rate"].tolist() == np.repeat(rates, 2).tolist()
    assert tidy["configuration"].tolist() == [0, 0, 1, 1, 2, 2]
    assert ia.select(runs, learning_rate=0.1, shift=1.0)["configuration"].values.tolist() == [2]
    assert np.isnan(by_model(runs)["learning_rate"].values).all()
    figure = plot_learning_rates(runs)
    (ax,) = figure.axes
    handles: Any
    handles, names = ax.get_legend_handles_labels()
    assert names == ["configuration 0", "configuration 1", "configuration 2"]
    assert [float(line.get_xdata()[0]) for line in handles] == rates
    assert "configuration 0" in str(runs.ia.summary())
    forged = runs.assign_coords(
        momentum=runs["momentum"].copy(data=[0.5, np.inf, 0.0])
    )  # fmt: skip
    assert invalid(forged) == "momentum holds numbers that are out of range"


def test_configurations_with_static_values_share_programs(tmp_path):
    def loss(params, hp):
        return jnp.sum((hp["bend"](params["w"]) - hp["shift"]) ** 2)

    width = [2, 3, 2, 2]
    bends = [square, square, cube, square]
    shift = [1.0, 1.0, 2.0, 0.0]
    axes = {
        "configuration": ia.together(
            width=ia.static(*width), bend=ia.static(*bends), shift=shift
        ),
        "learning_rate": [0.01, 0.02],
    }  # fmt: skip

    def start(hp):
        return {"w": jnp.full(hp["width"], 0.5)}

    runs = train(loss, axes, init=start, folder=tmp_path)
    assert runs["loss"].dims == ("configuration", "learning_rate", "step")
    assert runs["bend"].values.tolist() == ["square", "square", "cube", "square"]
    assert runs["width"].values.tolist() == width
    for c, rate in itertools.product(range(4), (0.01, 0.02)):
        expected = descend(lambda w, c=c: (bends[c](w) - shift[c]) ** 2, rate)
        found = runs["loss"].sel(configuration=c, learning_rate=rate)
        np.testing.assert_allclose(found, width[c] * np.array(expected), rtol=1e-4)
    assert len(ia.select(runs, bend="square", width=2)["model"]) == 2


def draw(num):
    return ia.random(
        num, learning_rate=ia.log_uniform(1e-3, 1e-1), momentum=ia.uniform(0, 0.9), shift=[1, 2.5]
    )


def test_a_random_search_goes_on(tmp_path):
    def search(num, **options):
        axes = {"configuration": draw(num), "seed": [0, 1]}
        return train(shifted, axes, init=init, **options)

    first = search(3, folder=tmp_path)
    more = search(5, folder=tmp_path)
    manifest = RunFolder(tmp_path).manifest()
    assert manifest is not None
    assert [len(added.axes["configuration"]) for added in manifest.rounds] == [3, 2]
    assert more.isel(configuration=slice(3)).identical(first)
    assert search(3, folder=tmp_path, progress=forbidden).identical(first)
    # Of a scalar parameter, rounding does not depend on how runs are laid out.
    assert more.identical(search(5))


def test_an_interrupted_search_goes_on_to_the_bit(tmp_path):
    axes = {"configuration": draw(4), "seed": [0, 1]}
    options: dict[str, Any] = {"init": init, "num_steps": 4000, "largest_block": 2}

    def stop(done, total):
        if total / 4 < done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shifted, axes, folder=tmp_path, progress=stop, checkpoint_every=0.0, **options)
    assert RunFolder(tmp_path).finished() is None
    resumed = train(shifted, axes, folder=tmp_path, **options)
    assert resumed.identical(train(shifted, axes, **options))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**40))
def test_draws_are_reproducible(num, more, seed):
    spaces: dict[str, Any] = {
        "learning_rate": ia.log_uniform(1e-4, 1e-1), "momentum": ia.uniform(-1, 0.99),
        "width": ia.static(8, 16), "word": ["a", "b"],
    }  # fmt: skip

    def columns(num, **given):
        read = read_axes({"c": ia.random(num, seed=seed, **given)})
        found = hyper_parameters(read.axes, read.together)
        return {name: column.values for name, column in found.items()}

    short, long = columns(num, **spaces), columns(num + more, **spaces)
    assert short == {name: drawn[:num] for name, drawn in long.items()}
    # Further hyper-parameters leave the others' draws as they are.
    assert (
        columns(num, learning_rate=spaces["learning_rate"])["learning_rate"]
        == (short["learning_rate"])
    )
    assert all(1e-4 <= rate <= 1e-1 for rate in long["learning_rate"])
    assert all(-1 <= m <= 0.99 for m in long["momentum"])
    assert set(long["width"]) <= {8, 16}


def test_draws_have_their_distributions():
    read = read_axes({"c": ia.random(
        4000, learning_rate=ia.log_uniform(1e-4, 1e-2), momentum=ia.uniform(-1, 3), word=["a", "b"]
    )})  # fmt: skip
    found = hyper_parameters(read.axes, read.together)
    for name, low, high in (("learning_rate", -4, -2), ("momentum", -1, 3)):
        values = np.array(found[name].values)
        values = np.log10(values) if name == "learning_rate" else values
        # Quantiles of a uniform distribution; their standard error is below 0.8 % of the range.
        expected = low + (high - low) * np.linspace(0.1, 0.9, 9)
        quantiles = np.quantile(values, np.linspace(0.1, 0.9, 9))
        np.testing.assert_allclose(quantiles, expected, atol=0.035 * (high - low))
    assert abs(found["word"].values.count("a") / 4000 - 0.5) < 0.035


def test_draws_do_not_change():
    """Written down: with other draws no stored search would go on."""
    drawn = ia.random(2, seed=1, learning_rate=ia.log_uniform(1e-4, 1e-1), x=ia.uniform(0, 1))
    assert drawn.values == {"learning_rate": [0.0205343, 0.00239231], "x": [0.506385, 0.623188]}


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e300, 1e300), st.floats(1e-9, 1e9), st.floats(0, 1, exclude_max=True))
def test_draws_are_rounded_within_their_bounds(low, span, share):
    high = low + span
    if low < high:
        value = ia.uniform(low, high).value(share)
        assert low <= value <= high
        assert abs(value - (low + share * (high - low))) <= 1e-6 * (high - low) + abs(low) * 1e-15
    low = abs(low) + 1e-300
    high = low * (1 + span)
    if low < high < np.inf:
        assert low <= ia.log_uniform(low, high).value(share) <= high


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (ia.together, "together: give configurations, like"),
        (lambda: ia.together([]), "together: give a list of configurations"),
        (lambda: ia.together("ab"), "together: give a list of configurations"),
        (lambda: ia.together([{}]), "together: give a list of configurations"),
        (lambda: ia.together([1]), "together: give a list of configurations"),
        (lambda: ia.together([{"a": 1}], a=[1]), "together: give configurations"),
        (lambda: ia.together([{"a": 1}, {"b": 1}]), "configuration 1 has b, and 0 has a"),
        (lambda: ia.together([{"a": ia.static(1, 2)}]), "a configuration has one value"),
        (lambda: ia.together([{"a": {"b": 1}}]), r"axis a: values .*mark others as ia\.static"),
        (lambda: ia.together([{"a": 1}, {"a": 1}]), "configurations 0 and 1 are the same"),
        (lambda: ia.together(a=[1, 2], b=[1]), "as many values of each, one or more, not 2 of a"),
        (lambda: ia.together(a=[]), "as many values of each, one or more, not 0 of a"),
        (lambda: ia.together(seed=[1]), "axis c: seed cannot vary with other hyper-parameters"),
        (lambda: ia.together(a=[1, None]), "axis a: values must be numbers"),
        (lambda: ia.together(a=[1, np.nan]), "axis a: a value is not finite"),
        (lambda: ia.together(other=[1.0]), "axis c: other is along another axis already"),
        (lambda: ia.together(c=[1.0]), "axis c: c is along another axis already"),
        (lambda: ia.together(step=[1.0]), "axis 'step': results have a quantity"),
        (lambda: ia.together(learning_rate=[0.1, -0.1]), "axis learning_rate: give numbers above"),
        (lambda: ia.together(pd.DataFrame([[1, 2]], columns=["a", "a"])), "two columns of the dat"),
        (lambda: ia.random(0, a=[1]), "random: num 0: give a whole number from 1 up"),
        (lambda: ia.random(1, **{"seed": range(3), "a": [1]}), "seeds of runs are an axis"),
        (lambda: ia.random(2), "random: give the hyper-parameters"),
        (lambda: ia.random(3, a=[1, 2]), "3 configurations were asked for, and there are 2"),
        (lambda: ia.random(3, a=[1, 1]), "axis a: give one value or more, each once"),
        (lambda: ia.random(3, a=0.5), "axis a: give a list of values, not 0.5"),
        (lambda: ia.uniform(1, 0), r"uniform\(1, 0\): give two finite numbers"),
        (lambda: ia.uniform(0, np.inf), r"uniform\(0, inf\): give two finite numbers"),
        (lambda: ia.log_uniform(0, 1), r"log_uniform\(0, 1\): give bounds above 0"),
        (lambda: ia.log_uniform(*["a", 1]), r"log_uniform\('a', 1\): give two finite numbers"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(make, words):
    with pytest.raises(ia.UserError, match=words):
        read_axes({"c": make(), "other": [0.5]})


def test_configurations_are_an_axis_with_a_name():
    with pytest.raises(ia.UserError, match="axes: give values by name"):
        train(shifted, ia.together(learning_rate=[0.1], shift=[1.0]))


def test_what_no_function_reads_is_refused():
    with pytest.raises(ia.UserError, match="axis nothing: nothing reads it"):
        train(shifted, {"c": ia.together(learning_rate=[0.1], shift=[1.0], nothing=[2.0])})
