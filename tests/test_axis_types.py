"""The types of axes' values: one rule for the whole axis and for all of its extensions."""

from typing import Any

import extensions
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import param

import implicit_accel as ia
from implicit_accel.tasks.axes import read_axes


def square(**arguments: Any):
    """The loss (w − shift)² from w = 0."""
    given: dict[str, Any] = {
        "loss": lambda params, batch, hp: jnp.mean((params["w"] - hp["shift"]) ** 2) + 0 * batch[0],
        "init": lambda key: {"w": jnp.zeros(())}, "data": np.ones(2),
    }  # fmt: skip
    return ia.from_loss(**(given | arguments))


def sgd(hp):
    return optax.sgd(hp["learning_rate"])


@pytest.mark.parametrize("number", [param(n, nightly=n > 2) for n in range(6)])
def test_an_extended_folder_equals_a_fresh_one(tmp_path, number):
    """A share of ``python -m tests.extensions``."""
    assert extensions.problems(7_000 + number, tmp_path / "run") == []


def test_a_learning_rate_of_1_is_a_fraction():
    task = ia.from_loss(
        lambda p, b: jnp.mean((p["w"] - 3) ** 2) / 2 + 0 * b[0], data=np.ones(2),
        init=lambda key: {"w": jnp.zeros(())},
    )  # fmt: skip
    for rates in ([1], [1.0], np.array([1])):
        runs = ia.sweep(task, axes={"learning_rate": rates}, optimizer=sgd, num_steps=2)
        # One step of rate 1 goes to the minimum.
        np.testing.assert_array_equal(runs["loss"][0], [4.5, 0, 0])
        assert np.isnan(runs["divergence_step"]).all()


def test_whole_numbers_have_a_sign():
    runs = ia.sweep(
        square(loss=lambda p, b, hp: (p["w"] - (hp["shift"] - 1)) ** 2 + 0 * b[0]),
        axes={"shift": [0, 3]}, optimizer=optax.sgd(0.1), num_steps=1,
    )  # fmt: skip
    np.testing.assert_allclose(runs["loss"], [[1, 0.64], [4, 4 * 0.64]], rtol=1e-6)


def test_a_negative_power_of_ten():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0]
    task = ia.from_loss(
        lambda p, b: jnp.mean((b[0] @ p["w"] - b[1]) ** 2),
        init=lambda seed: {"w": np.random.default_rng(seed).standard_normal(4)}, data=(X, y),
    )  # fmt: skip
    runs = ia.sweep(
        task, axes={"k": [1, 2, 3]}, num_steps=30,
        optimizer=lambda hp: optax.chain(
            optax.add_decayed_weights(10.0 ** -hp["k"]), optax.sgd(0.05)
        ),
    )  # fmt: skip
    for k in (1, 2, 3):
        w = np.random.default_rng(0).standard_normal(4)
        for _ in range(30):
            w = w - 0.05 * (2 / 60 * X.T @ (X @ w - y) + 10.0**-k * w)
        expected = np.mean((X @ w - y) ** 2)
        np.testing.assert_allclose(runs["loss"].sel(k=k)[-1], expected, rtol=1e-4)


def test_a_whole_number_among_fractions_is_one_of_them(tmp_path):
    def last(shifts, folder):
        return ia.sweep(
            square(), axes={"shift": shifts}, optimizer=optax.sgd(0.1), num_steps=16, folder=folder
        )["loss"].sel(shift=1)[-1]

    last_of_fresh = 0.8 ** (2 * 16)
    ia.sweep(square(), axes={"shift": [0.5, 1.5]}, optimizer=optax.sgd(0.1), num_steps=16,
             folder=tmp_path)  # fmt: skip
    for folder in (tmp_path, None):
        np.testing.assert_allclose(last([0.5, 1.5, 1], folder), last_of_fresh, rtol=1e-4)


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ([1, 2], [1, 2, 0.5], "shift: whole numbers there, fractions here"),
        ([1, 2], [1.0, 2.0, 3.0], "shift: whole numbers there, fractions here"),
        ([0.0, 1.0], [False, True], "shift: fractions there, truth values here"),
    ],
)
def test_another_type_is_another_run(tmp_path, there, here, words):
    def train(values):
        ia.sweep(
            square(), axes={"shift": values}, optimizer=optax.sgd(0.1), num_steps=2, folder=tmp_path
        )

    train(there)
    with pytest.raises(ia.UserError, match=words):
        train(here)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (
            {"t": [1_600_000_000_000]},
            "axis t: a whole number is too large, it does not fit 32 bits",
        ),
        ({"t": [-(2**31) - 1]}, "does not fit 32 bits"),
        ({"t": [1e300]}, r"1e\+300 is beyond what float32 holds; rescale it, or use precision f"),
        ({"t": [1e-50, 1.0]}, "1e-50 is beyond what float32 holds"),
        ({"t": [0.01, 0.0100000001]}, "0.01 and 0.0100000001 are one number in float32"),
        ({"t": ["a", 1]}, "all text or all numbers"),
        ({"t": [True, 2]}, "true and false are no numbers"),
        ({"learning_rate": [True]}, "learning_rate: give numbers above 0"),
        ({"seed": [1.0]}, "axis seed: give whole numbers"),
        ({"seed": [2**32]}, "axis seed: give whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(axes, words):
    task = square(loss=lambda p, b, hp: (p["w"] - hp["t"]) ** 2 + 0 * b[0])
    with pytest.raises(ia.UserError, match=words):
        ia.sweep(task, axes=axes, optimizer=optax.sgd(0.1), num_steps=2)


def test_close_values_are_told_apart_in_double_precision():
    runs = ia.sweep(
        square(), axes={"shift": [0.01, 0.0100000001, 1e-50]}, optimizer=optax.sgd(0.5),
        num_steps=1, precision="float64",
    )  # fmt: skip
    np.testing.assert_allclose(runs["loss"][:, 0], [0.01**2, 0.0100000001**2, 1e-100], rtol=1e-12)


@pytest.mark.parametrize(
    ("data", "precision", "words"),
    [
        (
            np.array([1_600_000_000_000]),
            "float32",
            "data: .*do not fit 32 bits; make them floating",
        ),
        (np.array([2**63], np.uint64), "float32", "do not fit 32 bits"),
        (np.array([1e300]), "float32", "too large for float32; rescale it, or use precision fl"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, precision, words):
    with pytest.raises(ia.UserError, match=words):
        ia.sweep(
            square(data=data), axes={"shift": [1.0]}, optimizer=optax.sgd(0.1), num_steps=1,
            precision=precision,
        )  # fmt: skip


def test_large_whole_numbers_as_fractions():
    """The loss (a t / 10¹² − 1)² at a = 1/2, t = 1.6 · 10¹²."""
    task = ia.from_loss(
        lambda p, b: jnp.mean((p["a"] * b / 1e12 - 1) ** 2), data=np.full(3, 1_600_000_000_000.0),
        init=lambda key: {"a": jnp.array(0.5)},
    )  # fmt: skip
    runs = ia.sweep(task, axes={"learning_rate": [1e-9]}, optimizer=sgd, num_steps=1)
    np.testing.assert_allclose(runs["loss"][0, 0], 0.04, rtol=1e-5)


def test_the_rule_of_types():
    read = read_axes(
        {"learning_rate": [1, 2], "a": [1, 2.5], "b": [1, 2], "c": ("x",), "d": ia.static(3, 2.5),
         "e": [True, False], "f": np.arange(2), "g": jnp.arange(2.0), "seed": range(2)}
    )  # fmt: skip
    kinds = {name: [type(v) for v in values] for name, values in read.axes.items()}
    assert kinds == {
        "learning_rate": [float, float], "a": [float, float], "b": [int, int], "c": [str],
        "d": [int, float], "e": [bool, bool], "f": [int, int], "g": [float, float],
        "seed": [int, int],
    }  # fmt: skip
    assert read.static == {"c", "d"}
