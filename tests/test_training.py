"""The fast paths against layer-by-layer float64, and what a run's result must not depend on."""

import itertools

import jax
import numpy as np
import pytest
from compilations import count_compilations
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marks import examples, param
from oracles import gradient_descent, random_layers, random_problem

from implicit_accel import Optimizer, UserError
from implicit_accel.linear import Layers, Loss, Problem, Target, optimum, train
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.objectives import Moments, choose
from implicit_accel.sweep import run_sweep


def assert_layers_close(actual: Layers, expected: Layers, **tolerance):
    for part, wanted in zip(actual, expected, strict=True):
        for a, b in zip(part, wanted, strict=True):
            np.testing.assert_allclose(a, b, **tolerance)


CASES = [
    # In every run each objective with and without biases, and each network.
    param(objective, p, bias, hidden, k, nightly=bias != (hidden == (1, 1)))
    for (objective, p), bias, (hidden, k) in itertools.product(
        [
            ("spectral", 2),
            ("compressed", 2),
            ("moments", 4),
            ("moments", 6),
            ("collapsed", 2),
            ("collapsed", 4),
            ("collapsed", 3),
            ("collapsed", 2.5),
            ("layerwise", 2),
            ("layerwise", 4),
        ],
        [False, True],
        [((), 1), ((1, 1), 1), ((5, 3), 2)],
    )
]


@pytest.mark.parametrize(("objective", "p", "bias", "hidden", "k"), CASES)
def test_every_objective_follows_layer_by_layer_descent(rng, objective, p, bias, hidden, k):
    # A mean in features and labels exercises the terms that vanish for standardised data.
    problem = random_problem(rng, k=k, mean=0.4)
    layers = random_layers(rng, 4, hidden, k, bias=bias)
    rate, steps = 0.02 if p < 6 else 1e-5, 25
    losses, final = gradient_descent(
        layers, problem.features, problem.targets, p,
        scale=1 / p, learning_rate=rate, num_steps=steps,
    )  # fmt: skip
    result = train(
        problem, layers, learning_rates=[rate], num_steps=steps, loss=Loss(p), objective=objective
    )
    np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9)
    trained = jax.tree.map(lambda a: a[0], result.layers)
    assert_layers_close(trained, final, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 8), (8, 8), (40, 1)])
def test_few_rows_or_one_feature(rng, bias, shape):
    n, d = shape
    problem = random_problem(rng, n=n, d=d)
    layers = random_layers(rng, d, (2,), 1, bias=bias)
    for p in (2, 4):
        losses, _ = gradient_descent(
            layers, problem.features, problem.targets, p, scale=1 / p,
            learning_rate=1e-3, num_steps=10,
        )  # fmt: skip
        result = train(problem, layers, learning_rates=[1e-3], num_steps=10, loss=Loss(p))
        np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9)


def test_rank_deficient_features(rng):
    X = rng.standard_normal((30, 3))
    problem = Problem.from_arrays(np.hstack([X, X[:, :1], X @ [[1.0], [1], [0]]]), X[:, 0] ** 3)
    layers = random_layers(rng, 5, (2,), 1)
    losses, _ = gradient_descent(
        layers, problem.features, problem.targets, 2, scale=0.5, learning_rate=0.05, num_steps=50
    )
    for objective in ("spectral", "compressed", "collapsed"):
        result = train(problem, layers, learning_rates=[0.05], num_steps=50, objective=objective)
        np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9, err_msg=objective)
        assert (result.excess_loss > 0).all()


@pytest.mark.parametrize("bias", [False, True])
def test_relu_follows_backpropagation_by_hand(rng, bias):
    problem = random_problem(rng, k=2)
    layers = random_layers(rng, 4, (6, 5), 2, bias=bias)
    losses, final = gradient_descent(
        layers, problem.features, problem.targets, 4, scale=0.25,
        learning_rate=0.02, num_steps=25, activation="relu",
    )  # fmt: skip
    result = train(
        problem, layers, learning_rates=[0.02], num_steps=25, loss=Loss(4), activation="relu"
    )
    np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9)
    assert_layers_close(jax.tree.map(lambda a: a[0], result.layers), final, rtol=1e-7)


def test_weight_decay_and_plain_convention(rng):
    problem = random_problem(rng)
    layers = random_layers(rng, 4, (3,), 1, bias=True)
    losses, _ = gradient_descent(
        layers, problem.features, problem.targets, 2, scale=1.0,
        learning_rate=0.03, num_steps=20, weight_decay=0.1,
    )  # fmt: skip
    result = train(
        problem, layers, learning_rates=[0.03], num_steps=20, loss=Loss(2, "plain"),
        weight_decay=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(result.loss[0], losses, rtol=1e-9)


@settings(max_examples=examples(4))
@given(
    seed=st.integers(0, 2**16),
    hidden=st.lists(st.integers(1, 5), max_size=3),
    extra=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    k=st.integers(1, 2),
    bias=st.booleans(),
    name=st.sampled_from(
        [
            "sgd",
            "momentum",
            "adam",
            "adagrad",
            "adadelta",
            "rmsprop",
            "adamw",
            "silver",
            "excess_loss",
            "normalized",
            "polyak",
        ]
    ),
    activation=st.sampled_from(["identity", "relu"]),
    decay=st.sampled_from([0.0, 0.05]),
)
def test_padding_changes_no_trajectory(seed, hidden, extra, k, bias, name, activation, decay):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, k=k)
    layers = random_layers(rng, 4, hidden, k, bias=bias)
    arguments = {
        "learning_rates": [0.01], "num_steps": 12, "loss": Loss(4), "weight_decay": decay,
        "optimizer": Optimizer(name), "activation": activation,
    }  # fmt: skip
    plain = train(problem, layers, **arguments)
    padded = train(problem, layers, padded_to=extra, **arguments)
    np.testing.assert_allclose(padded.loss, plain.loss, rtol=1e-10)
    assert_layers_close(padded.layers, plain.layers, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [2, 4])
def test_float32_agrees_with_float64(rng, p):
    problem = random_problem(rng, n=200, d=10)
    layers = random_layers(rng, 10, (1, 1), 1, std=0.3)
    arguments = {"learning_rates": [0.01, 0.03], "num_steps": 300, "loss": Loss(p)}
    exact = train(problem, layers, precision="float64", **arguments)
    single = train(problem, layers, precision="float32", **arguments)
    assert single.loss.dtype == np.float32 or single.excess_loss.dtype == np.float32
    np.testing.assert_allclose(single.loss, exact.loss, rtol=2e-4)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_excess_loss_keeps_its_digits_in_float32(rng, p):
    """Near the optimum a difference of float32 losses is noise of 1e-7; the excess is not."""
    X = rng.standard_normal((200, 3))
    problem = Problem.from_arrays(X, X @ [[1.0], [-2], [0.5]] + rng.standard_normal((200, 1)))
    best = optimum(Loss(p), problem.features, problem.targets)
    near = Layers((np.float32(best.weights + 1e-4 * rng.standard_normal((1, 3))),))
    arguments = {"learning_rates": [1e-9], "num_steps": 1, "loss": Loss(p)}
    exact = train(problem, near, precision="float64", **arguments)
    single = train(problem, near, precision="float32", **arguments)
    assert exact.excess_loss[0, 0] < 3e-7 * exact.loss[0, 0]
    np.testing.assert_allclose(single.excess_loss[0, 0], exact.excess_loss[0, 0], rtol=0.02)


def test_losses_are_numbered_by_updates(rng):
    problem = random_problem(rng)
    layers = random_layers(rng, 4, (), 1)
    residuals = problem.features @ layers.weights[0].T - problem.targets
    for steps in (1, 3, 250, 401):  # one segment and several
        result = train(problem, layers, learning_rates=[0.01], num_steps=steps)
        assert result.loss.shape == (1, steps + 1)
        assert result.loss[0, 0] == pytest.approx(np.mean(residuals**2) / 2, rel=1e-12)
        final = problem.features @ result.layers.weights[0][0].T - problem.targets
        assert result.loss[0, -1] == pytest.approx(np.mean(final**2) / 2, rel=1e-9)


def test_steps_to_target_is_the_first_step_at_or_below_it(rng):
    problem = random_problem(rng)
    layers = random_layers(rng, 4, (1,), 1)
    result = train(
        problem, layers, learning_rates=[0.001, 0.03, 0.1], num_steps=700, target=Target(0.02)
    )
    for i in range(3):
        below = np.flatnonzero(result.excess_loss[i] <= 0.02)
        assert result.steps_to_target[i] == (below[0] if len(below) else -1)
    assert -1 in result.steps_to_target
    assert (result.steps_to_target > 0).any()


def test_divergence_is_recorded_and_stays_alone(rng):
    problem = random_problem(rng)
    layers = random_layers(rng, 4, (2,), 1)
    rates = [0.01, 5.0, 0.02, 1e6, 0.03]
    result = train(problem, layers, learning_rates=rates, num_steps=300, loss=Loss(4))
    assert (result.divergence_step >= 0).tolist() == [False, True, False, True, False]
    for i in (1, 3):
        step = result.divergence_step[i]
        assert np.isfinite(result.loss[i, :step]).all()
        assert np.isposinf(result.loss[i, step:]).all()
        assert result.steps_to_target[i] == -1
    alone = train(problem, layers, learning_rates=[0.01, 0.02, 0.03], num_steps=300, loss=Loss(4))
    np.testing.assert_allclose(result.loss[[0, 2, 4]], alone.loss, rtol=1e-12)


def test_divergence_step_against_the_definition(rng):
    problem = random_problem(rng)
    layers = random_layers(rng, 4, (), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        losses, _ = gradient_descent(
            layers, problem.features, problem.targets, 2, scale=0.5,
            learning_rate=3.0, num_steps=300,
        )  # fmt: skip
    limit = 1e6 * max(losses[0], np.mean(problem.targets**2) / 2)
    expected = np.flatnonzero(~(losses <= limit))[0]
    result = train(problem, layers, learning_rates=[3.0], num_steps=300)
    assert result.divergence_step[0] == expected


def test_wrong_shapes_are_named(rng):
    problem = random_problem(rng)
    with pytest.raises(UserError, match=r"for 4 features and 1 outputs they must be"):
        train(problem, random_layers(rng, 3, (), 1), learning_rates=[0.1], num_steps=1)
    layers = random_layers(rng, 4, (2,), 1)
    with pytest.raises(UserError, match="biases must be vectors"):
        train(
            problem, Layers(layers.weights, (np.zeros(1), np.zeros(1))),
            learning_rates=[0.1], num_steps=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="does not hold"):
        train(
            problem, layers, learning_rates=[0.1], num_steps=1, loss=Loss(4), objective="spectral"
        )


def test_objectives_are_chosen_by_what_they_allow():
    abalone = {"n": 4177, "d": 10, "bias": False}

    def name(p, activation="identity", *, equivariant=True, **shape):
        chosen = choose(
            Loss(p), activation=activation, equivariant=equivariant, **(abalone | shape)
        )
        return chosen.name

    assert name(2) == "spectral"
    assert name(2, equivariant=False) == "compressed"
    assert name(3) == "collapsed"
    assert name(2, "relu") == name(4, "relu") == "layerwise"
    assert name(4) == name(4, equivariant=False) == name(4, d=20) == "moments"
    assert name(4, d=30) == name(4, d=128, n=2565) == name(8) == name(4, n=100) == "collapsed"
    assert name(6, d=3, bias=True) == "moments"


@settings(max_examples=examples(3))
@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(60, 3), (5, 3), (40, 1), (9, 9)]),
    hidden=st.lists(st.integers(1, 4), max_size=2),
    extra=st.none() | st.lists(st.integers(1, 6), min_size=1, max_size=3),
    k=st.integers(1, 2),
    p=st.sampled_from([4, 6]),
    bias=st.booleans(),
    name=st.sampled_from(["sgd", "momentum", "adam", "adagrad", "rmsprop", "end_to_end"]),
    decay=st.sampled_from([0.0, 0.05]),
)
def test_the_form_in_monomials_is_the_loss(
    seed, shape, hidden, extra, k, p, bias, name, decay
):  # fmt: skip
    """Against the rows, with all that may be done to a network."""
    assume(name != "end_to_end" or not (bias or decay))
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, n=shape[0], d=shape[1], k=k, mean=0.4)
    layers = random_layers(rng, shape[1], hidden, k, bias=bias)
    arguments = {
        "learning_rates": [1e-3, 1e3], "num_steps": 12, "loss": Loss(p), "weight_decay": decay,
        "optimizer": Optimizer(name), "padded_to": extra,
    }  # fmt: skip
    rows, form = (
        train(problem, layers, objective=objective, **arguments)
        for objective in ("collapsed", "moments")
    )
    np.testing.assert_allclose(form.loss, rows.loss, rtol=1e-8)
    np.testing.assert_allclose(form.excess_loss, rows.excess_loss, rtol=1e-7, atol=1e-12)
    finite = np.isfinite(rows.loss).all(axis=1)
    for a, b in zip(jax.tree.leaves(form.layers), jax.tree.leaves(rows.layers), strict=True):
        np.testing.assert_allclose(a[finite], b[finite], rtol=1e-6, atol=1e-9)


def test_correlated_features_lose_no_digits_in_the_form(rng):
    """In float32, with a condition number of 1e6: as near to float64 as on the rows."""
    shared = rng.standard_normal((300, 1))
    problem = Problem.from_arrays(
        shared + 1e-3 * rng.standard_normal((300, 4)), shared + rng.standard_t(3, (300, 1))
    )
    layers = random_layers(rng, 4, (2,), 1)
    arguments = {"learning_rates": [1e-4], "num_steps": 500, "loss": Loss(4)}
    exact = train(problem, layers, objective="collapsed", **arguments).excess_loss
    errors = [
        np.max(np.abs(found.excess_loss / exact - 1))
        for kind in ("collapsed", "moments")
        for found in [train(problem, layers, objective=kind, precision="float32", **arguments)]
    ]
    assert errors[1] < 2 * errors[0] + 1e-6


def test_a_sweep_is_the_same_by_the_form_and_by_the_rows(rng, monkeypatch):
    """Both chunks' freezing of diverged runs and models of several depths included."""
    problem = random_problem(rng, n=400, d=3)
    config = SweepConfig(
        losses=(Loss(4),), depths=(1, 2, 3), learning_rates=(0.003, 0.03, 1.0), num_seeds=3,
        num_steps=300, precision="float64",
    )  # fmt: skip
    form = run_sweep(problem, config)
    monkeypatch.setattr(Moments, "pays", classmethod(lambda *_, **__: False))
    rows = run_sweep(problem, config)
    assert np.isfinite(rows["divergence_step"]).any()
    for name in ("steps_to_target", "divergence_step"):
        np.testing.assert_array_equal(form[name], rows[name])
    # Just before a run diverges, rounding grows.
    np.testing.assert_allclose(form["excess_loss"], rows["excess_loss"], rtol=1e-5)


# --- What a grid's results must not depend on ----------------------------------------------------


def small_config(**changes) -> SweepConfig:
    settings = {
        "depths": (1, 2, 3), "hidden_widths": (1, 3), "inits": ("near_zero", "orthogonal"),
        "init_stds": (0.3,), "losses": (Loss(2), Loss(4)),
        "optimizers": (Optimizer("sgd"), Optimizer("adam")), "learning_rates": (0.01, 0.03, 50.0),
        "num_seeds": 3, "num_steps": 30, "precision": "float64",
    }  # fmt: skip
    return SweepConfig(**(settings | changes))


def runs(results) -> dict:
    """Every run of a sweep by what defines it."""
    table = {}
    names = ("loss_name", "depth", "hidden_widths", "init", "init_std", "optimizer")
    for m, rate, seed in itertools.product(
        *(range(results.sizes[x]) for x in results.loss.dims[:3])
    ):
        model = (str(results[name].values[m]) for name in names)
        place = (float(results.learning_rate.values[rate]), int(results.seed.values[seed]))
        key = (*model, *place)
        table[key] = (
            results.excess_loss.values[m, rate, seed],
            results.steps_to_target.values[m, rate, seed],
            results.divergence_step.values[m, rate, seed],
        )
    return table


def assert_same_runs(some: dict, others: dict, *, rtol=1e-9, count=None):
    shared = some.keys() & others.keys()
    assert len(shared) == (len(some) if count is None else count)
    for key in shared:
        for a, b in zip(some[key], others[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14, err_msg=str(key))


@pytest.fixture(scope="module")
def reference_runs():
    problem = random_problem(np.random.default_rng(7))
    return problem, run_sweep(problem, small_config())


def test_seeds_give_the_same_run_whatever_the_grid_around_them(reference_runs):
    problem, results = reference_runs
    whole = runs(results)
    part = small_config(
        depths=(3,), losses=(Loss(4),), optimizers=(Optimizer("adam"),), inits=("near_zero",),
        learning_rates=(50.0, 0.03), num_seeds=2,
    )  # fmt: skip
    few = runs(run_sweep(problem, part))
    assert_same_runs(few, whole, count=2 * 2 * 2)


@settings(max_examples=examples(4))
@given(order=st.randoms(use_true_random=False))
def test_order_of_the_grid_does_not_matter(reference_runs, order):
    problem, results = reference_runs

    def shuffled(values):
        return tuple(order.sample(values, len(values)))

    config = small_config(
        depths=shuffled((1, 2)), hidden_widths=shuffled((1, 3)),
        losses=shuffled((Loss(2), Loss(4))),
        optimizers=(Optimizer("sgd"),), learning_rates=shuffled((0.01, 0.03, 50.0)),
        inits=("near_zero",),
    )  # fmt: skip
    assert_same_runs(runs(run_sweep(problem, config)), runs(results), count=2 * 3 * 3 * 3)


@pytest.mark.parametrize(
    ("num_devices", "memory_limit"), [param(2, 1), param(3, None), (4, 60_000)]
)
def test_devices_and_memory_change_no_bit(reference_runs, num_devices, memory_limit):
    problem, results = reference_runs
    again = run_sweep(
        problem, small_config(), devices=jax.local_devices()[:num_devices],
        memory_limit=memory_limit,
    )  # fmt: skip
    timing = again.ia.timing
    assert again.identical(results)
    # Two chunks of each of the programs, of which there is one for every loss and optimizer.
    assert timing.num_chunks == 2 * 4
    assert timing.run_steps == again["steps_to_target"].size * 30


@pytest.mark.nightly
def test_on_one_device_memory_changes_no_bit(reference_runs):
    """XLA partitions what it compiles for several devices, and does not for one."""
    problem, results = reference_runs
    limited, free = (
        run_sweep(
            problem, small_config(), devices=jax.local_devices()[:1], memory_limit=limit
        )
        for limit in (60_000, None)
    )  # fmt: skip
    assert limited.identical(free)
    assert_same_runs(runs(free), runs(results))


def test_a_rerun_is_bit_identical(reference_runs):
    problem, results = reference_runs
    again = run_sweep(problem, small_config())
    assert results.identical(again)


def test_compilations_are_counted_right(rng):
    """One program for a whole grid, by JAX's own count."""
    problem = random_problem(rng, n=31)
    config = small_config(precision="float32")
    assert count_compilations(lambda: run_sweep(problem, config)) == 1


def test_progress_reaches_the_total(rng):
    seen = []
    run_sweep(
        random_problem(rng),
        SweepConfig(learning_rates=(0.1,), num_seeds=2, num_steps=900),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (6 * 2 * 900, 6 * 2 * 900)


def test_held_out_loss_is_the_loss_of_the_weights_at_that_step(rng):
    whole = random_problem(rng, n=40, k=2)
    X, Y = whole.features, whole.targets
    problem = Problem("split", "split", X[:30], Y[:30], X[30:], Y[30:])
    for activation, p, bias in itertools.product(("identity", "relu"), (2, 4), (False, True)):
        layers = random_layers(rng, 4, (3,), 2, bias=bias)
        result = train(
            problem, layers, learning_rates=[0.02], num_steps=7, loss=Loss(p), activation=activation
        )
        final = jax.tree.map(lambda a: a[0], result.layers)
        for step, weights in ((0, layers), (7, final)):
            h = X[30:] @ weights.weights[0].T + (weights.biases[0] if bias else 0)
            h = np.maximum(h, 0) if activation == "relu" else h
            out = h @ weights.weights[1].T + (weights.biases[1] if bias else 0)
            expected = np.mean(np.abs(out - Y[30:]) ** p) / p
            assert result.held_out_loss[0, step] == pytest.approx(expected, rel=1e-9)
