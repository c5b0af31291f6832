"""optax by name: its defaults, and ten steps of each against PyTorch."""

import inspect
import itertools

import jax
import numpy as np
import optax
import pytest
from marks import param
from oracles import random_layers, random_problem

from implicit_accel import OPTIMIZERS, Loss, Optimizer, UserError, train
from implicit_accel.optimizers import _KINDS, parse_settings

OPTAX_OWN = [name for name in OPTIMIZERS if name != "end_to_end"]


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
    transformation = Optimizer(name).build(0.1, 0.3)
    rng = np.random.default_rng(0)
    W, *gradients = rng.standard_normal((4, 2, 5))
    V, _ = np.linalg.qr(rng.standard_normal((5, 5)))

    def final(rotation):
        params = jax.numpy.asarray(W @ rotation)
        state = transformation.init(params)
        for G in gradients:
            update, state = transformation.update(G @ rotation, state, params)
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
