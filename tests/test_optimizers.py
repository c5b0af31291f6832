"""optax by name: its defaults, and ten steps of each against PyTorch."""

import inspect
import itertools
from typing import Any

import jax
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples, param
from oracles import random_layers, random_problem

from implicit_accel import OPTIMIZERS, Optimizer, UserError
from implicit_accel.linear import Loss, train
from implicit_accel.optimizers import _KINDS, parse_settings

SCHEDULES = ("warmup", "silver", "excess_loss", "normalized", "polyak", "line_search")
OPTAX_OWN = [name for name in OPTIMIZERS if name not in ("end_to_end", *SCHEDULES)]


@pytest.mark.parametrize("name", OPTAX_OWN)
def test_defaults_are_optax_s_own(name):
    signature = inspect.signature(_KINDS[name].build).parameters
    for key, value in _KINDS[name].settings.items():
        if key == "momentum":  # optax's sgd has none by default; 0.9 is the field's convention
            assert value == 0.9
        else:
            assert signature[key].default == value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_optimizers_that_commute_with_rotations_say_so(name):
    """From W V, with gradients G V, three steps end at V times where those from W with G do."""
    transformation = optax.with_extra_args_support(Optimizer(name).build(0.1, 0.3))
    rng = np.random.default_rng(0)
    W, *gradients = rng.standard_normal((4, 2, 5))
    V, _ = np.linalg.qr(rng.standard_normal((5, 5)))

    def final(rotation):
        params = jax.numpy.asarray(W @ rotation)
        state = transformation.init(params)
        for G in gradients:
            update, state = transformation.update(
                G @ rotation, state, params, excess=0.7,
                value_fn=lambda p: jax.numpy.sum(p**2),
            )  # fmt: skip
            params = optax.apply_updates(params, update)
        return np.asarray(params)

    commutes = np.allclose(final(V), final(np.eye(5)) @ V, rtol=1e-4, atol=1e-5)
    assert commutes == Optimizer(name).is_equivariant


def torch_optimizer(torch, name, parameters, rate, decay):
    """PyTorch's optimizer of the same formula, at the settings that `matched` gives ours."""
    o = torch.optim
    return {
        "sgd": lambda: o.SGD(parameters, lr=rate, weight_decay=decay),
        "momentum": lambda: o.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay),
        "nesterov": lambda: o.SGD(
            parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
        ),
        # PyTorch adds ε outside the root, optax inside: both negligible against the accumulator.
        "adagrad": lambda: o.Adagrad(
            parameters, lr=rate, initial_accumulator_value=0.1, eps=1e-12, weight_decay=decay
        ),
        "adadelta": lambda: o.Adadelta(parameters, lr=rate, rho=0.9, eps=1e-6, weight_decay=decay),
        "rmsprop": lambda: o.RMSprop(parameters, lr=rate, alpha=0.9, eps=1e-8, weight_decay=decay),
        "adam": lambda: o.Adam(parameters, lr=rate, weight_decay=decay),
        "adamw": lambda: o.AdamW(parameters, lr=rate, weight_decay=decay),
    }[name]()


MATCHED = {"adagrad": (("eps", 1e-12),), "rmsprop": (("eps_in_sqrt", False),)}


def combinations():
    """Each optimizer with each decay, loss and activation: one or two in every run."""
    for name, *rest in itertools.product(OPTAX_OWN, (0.0, 0.1), (2, 4), ("identity", "relu")):
        # Weight decay, which some apply in their own way, is in it.
        is_first = rest == [0.1, 4, "identity"]
        in_every_run = is_first or (rest == [0.0, 2, "relu"] and name in ("sgd", "adam"))
        yield param(name, *rest, nightly=not in_every_run)


@pytest.mark.parametrize(("name", "decay", "p", "activation"), list(combinations()))
def test_ten_steps_against_torch(rng, name, decay, p, activation):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    problem = random_problem(rng, n=40, d=5, k=2, mean=0.3)
    layers = random_layers(rng, 5, (4, 3), 2, bias=True)
    rate = 0.5 if name == "adadelta" else 0.02 if p == 2 else 0.001
    X, Y = (torch.tensor(a) for a in (problem.features, problem.targets))
    weights = [torch.tensor(W, requires_grad=True) for W in layers.weights]
    biases = [torch.tensor(b, requires_grad=True) for b in layers.biases]
    optimizer = torch_optimizer(torch, name, [*weights, *biases], rate, decay)
    losses = []
    for _ in range(11):
        h = X
        for j, (W, b) in enumerate(zip(weights, biases, strict=True)):
            h = torch.nn.functional.linear(h, W, b)
            h = torch.relu(h) if activation == "relu" and j < 2 else h
        loss = ((h - Y).abs() ** p).mean() / p
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if len(losses) < 11:
            optimizer.step()

    result = train(
        problem, layers, learning_rates=[rate], num_steps=10, loss=Loss(p), activation=activation,
        optimizer=Optimizer(name, MATCHED.get(name, ())), weight_decay=decay,
    )  # fmt: skip
    np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9)
    final = jax.tree.map(lambda a: a[0], result.layers)
    for ours, theirs in zip([*final.weights, *final.biases], [*weights, *biases], strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-7, atol=1e-10)


def slow_factor(name, t, gradient, excess, loss, theta):
    """The factor on the learning rate at step t, straight from its definition."""
    norm = np.linalg.norm(gradient)
    if name == "warmup":
        return min(1.0, (t + 1) / 5)
    if name == "silver":
        valuation = 0
        while (t + 1) % 2 ** (valuation + 1) == 0:
            valuation += 1
        return 1 + (1 + np.sqrt(2)) ** (valuation - 1)
    if name == "excess_loss":
        return (excess[t] / excess[0]) ** -0.5
    if name == "normalized":
        return 1 / (np.sqrt(t + 1) * norm)
    if name == "polyak":
        return excess[t] / norm**2
    found: Any = scipy.optimize.minimize_scalar(
        lambda s: loss(theta - s * gradient), bounds=(0, 1e3 / norm), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    return found.x


SLOW_RATES = {"warmup": 0.02, "silver": 0.01, "excess_loss": 0.02, "normalized": 0.3,
              "polyak": 0.5, "line_search": 0.8}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("depth", [1, param(2)])
def test_schedules_against_a_slow_loop(rng, name, depth):
    """Twelve steps of ℓ4 regression in NumPy, float64, with numerical gradients of the layers."""
    problem = random_problem(rng, n=40, d=5, k=1, mean=0.3)
    layers = random_layers(rng, 5, (1,) * (depth - 1), 1)
    X, y = problem.features, problem.targets[:, 0]

    def loss(theta):
        w = theta[:5] * np.prod(theta[5:])
        return np.mean((X @ w - y) ** 4) / 4

    def gradient(theta):
        scalars = theta[5:]
        w = theta[:5] * np.prod(scalars)
        of_w = X.T @ (X @ w - y) ** 3 / len(y)
        of_scalars = [np.prod(np.delete(scalars, j)) * (of_w @ theta[:5]) for j in
                      range(len(scalars))]  # fmt: skip
        return np.concatenate([of_w * np.prod(scalars), of_scalars])

    theta = np.concatenate([np.asarray(W, float).ravel() for W in layers.weights])
    own = (("steps", 5.0),) if name == "warmup" else ()
    result = train(
        problem, layers, learning_rates=[SLOW_RATES[name]], num_steps=12, loss=Loss(4),
        optimizer=Optimizer(name, own),
    )  # fmt: skip
    optimum = float(result.loss[0, 0] - result.excess_loss[0, 0])
    losses, excess = [], []
    for t in range(13):
        losses.append(loss(theta))
        excess.append(losses[-1] - optimum)
        g = gradient(theta)
        theta = theta - SLOW_RATES[name] * slow_factor(name, t, g, excess, loss, theta) * g
    rtol = 1e-5 if name == "line_search" else 1e-9
    np.testing.assert_allclose(result.loss[0], losses, rtol=rtol)


@given(seed=st.integers(0, 2**16), depth=st.integers(1, 3), p=st.sampled_from([2, 3, 4]))
@settings(max_examples=examples(5), deadline=None)
def test_a_line_search_never_raises_the_loss(seed, depth, p):
    """Also from near zero, where a deep network's loss along the gradient has several minima."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, n=30, d=5)
    layers = random_layers(rng, 5, (1,) * (depth - 1), 1, std=0.05)
    result = train(
        problem, layers, learning_rates=[0.5, 0.8, 1.0], num_steps=40, loss=Loss(p),
        optimizer=Optimizer("line_search"),
    )  # fmt: skip
    assert np.all(np.diff(result.loss, axis=1) <= 1e-9 * result.loss[:, :-1])


@pytest.mark.parametrize("name", ["normalized", "polyak", "line_search"])
def test_padding_has_no_part_in_the_gradient_s_norm_or_in_the_line(rng, name):
    problem, layers = random_problem(rng), random_layers(rng, 4, (2,), 1)
    arguments = {
        "learning_rates": [SLOW_RATES[name]], "num_steps": 12, "loss": Loss(4),
        "optimizer": Optimizer(name),
    }  # fmt: skip
    plain = train(problem, layers, **arguments)
    padded = train(problem, layers, padded_to=(3, 4), **arguments)
    np.testing.assert_allclose(padded.loss, plain.loss, rtol=1e-6)


def test_settings_reach_the_optimizer(rng):
    problem, layers = random_problem(rng), random_layers(rng, 4, (), 1)

    def final(*settings):
        optimizer = Optimizer("momentum", settings)
        return train(problem, layers, learning_rates=[0.01], num_steps=9, optimizer=optimizer).loss

    assert not np.allclose(final(), final(("momentum", 0.5)))
    plain = train(problem, layers, learning_rates=[0.01], num_steps=9).loss
    np.testing.assert_allclose(final(("momentum", 0.0)), plain, rtol=1e-12)


def test_a_traced_rate_gives_the_bits_of_a_number():
    params, gradient = np.array([[1.0, -2.0], [0.3, 0.7]], np.float32)

    def step(rate):
        transformation = Optimizer("adam").build(rate)
        update, _ = transformation.update(gradient, transformation.init(params), params)
        return optax.apply_updates(params, update)

    traced = jax.jit(step)(np.float32(0.013))
    assert np.array_equal(traced, jax.jit(lambda: step(0.013))())


def test_settings_are_parsed():
    parsed = parse_settings(["adam:b1=0.8", "adam:nesterov=True", "momentum:momentum=0.5"])
    assert parsed == {
        "adam": (("b1", 0.8), ("nesterov", True)), "momentum": (("momentum", 0.5),)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam", "write optimizer:setting=value"),
        ("adam:b1", "write optimizer:setting=value"),
        ("adamax:b1=0.9", "'adamax': choose from sgd"),
        ("adam:b1=much", "'much' is not a number"),
    ],
)
def test_bad_settings_are_refused_when_read(text, message):
    with pytest.raises(UserError, match=message):
        parse_settings([text])


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("adams", ("b1", 0.9), "'adams': choose from sgd"),
        ("adam", ("beta", 0.9), "no setting 'beta': it has b1"),
        ("sgd", ("momentum", 0.9), "none: it has no settings"),
        ("adam", ("nesterov", 1.0), "must be true or false"),
        ("adam", ("b1", True), "must be a number"),
        ("adam", ("b1", 1.0), "below 1"),
        ("adam", ("eps", 0.0), "> 0"),
        ("adam", ("b2", float("nan")), ">= 0"),
        ("end_to_end", ("depth", 0), "whole number >= 1"),
        ("end_to_end", ("depth", 2.5), "whole number >= 1"),
        ("end_to_end", ("depth", 1e4), "at most 1000"),
    ],
)
def test_bad_settings_are_refused(name, setting, message):
    with pytest.raises(UserError, match=message):
        Optimizer(name, (setting,))


def test_a_setting_given_twice_is_refused():
    with pytest.raises(UserError, match="twice"):
        Optimizer("adam", (("b1", 0.8), ("b1", 0.9)))
