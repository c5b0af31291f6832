"""Observables: against numpy's eigenvalues, finite differences, optax's updates, closed forms."""

import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.flatten_util import ravel_pytree
from marks import param
from oracles import loss_and_gradient, random_layers

from implicit_accel import Optimizer, UserError
from implicit_accel.data.problems import Problem
from implicit_accel.eigenvalues import BASIS, MOST_PRODUCTS, largest_eigenvalue, safe_norm
from implicit_accel.linear import Initialiser, Layers, Loss, gas_like, make_problem
from implicit_accel.linear import observables as linear
from implicit_accel.linear.networks import layer_shapes, pad
from implicit_accel.linear.objectives import OBJECTIVES, reduce
from implicit_accel.observables import (
    OBSERVABLES,
    Point,
    excess_loss,
    gradient_norm,
    held_out_loss,
    loss,
    parameter_norm,
    parse,
    preconditioned_sharpness,
    preconditioner,
    scaled_sharpness,
    sharpness,
    stability_threshold,
)

TOLERANCES = {"float32": 1e-4, "float64": 1e-6}
precisions = pytest.mark.parametrize("dtype", TOLERANCES)


def make_point(parameters, value_and_grad, **fields) -> Point:
    defaults = {
        "held_out_loss": None,
        "trainable": jax.tree.map(lambda _: True, parameters),
        "opt_state": (),
        "hyper": {},
        "data": None,
        "loss_optimum": 0.0,
        "step": 0,
    }
    return Point(parameters, parameters, value_and_grad, **(defaults | fields))


def quadratic_point(A, x, **fields) -> Point:
    """The loss ``xᵀ A x / 2``, x in two leaves."""
    A = jnp.asarray(A)
    x = jnp.asarray(x, A.dtype)
    parameters = {"a": x[:1], "b": x[1:]}
    return make_point(
        parameters,
        jax.value_and_grad(lambda t: (v := ravel_pytree(t)[0]) @ A @ v / 2),
        **fields,
    )


# --- Eigenvalues ---------------------------------------------------------------------------------


def matrix_with(rng, spectrum):
    Q, _ = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))
    return (Q * spectrum) @ Q.T


def hard_matrices(rng, n=60):
    gaussian = rng.standard_normal((n, n))
    spread = np.logspace(-9, 0, n)
    return {
        "zero": np.zeros((n, n)),
        "gaussian": (gaussian + gaussian.T) / 2,
        "wishart": gaussian @ gaussian.T,
        "condition": matrix_with(rng, spread),
        "tiny": 1e-12 * matrix_with(rng, spread),
        "large": 1e12 * matrix_with(rng, spread),
        "negative": -matrix_with(rng, np.linspace(1, 2, n)),
        "minus identity": -np.eye(n),
        "repeated": matrix_with(rng, np.r_[np.ones(5), np.linspace(-1, 0.9, n - 5)]),
        "close": matrix_with(rng, np.r_[1, 1 - 1e-5, np.linspace(-1, 0.9, n - 2)]),
        "saddle": matrix_with(rng, np.r_[1, -1, np.zeros(n - 2)]),
        "saddles": matrix_with(rng, np.r_[np.ones(20), -np.ones(20), np.zeros(n - 40)]),
        "nearly concave": matrix_with(rng, np.r_[0.01, np.linspace(-1, -0.5, n - 1)]),
        "rank one": np.outer(gaussian[0], gaussian[0]),
    }


@precisions
def test_largest_eigenvalues_of_many_matrices_at_once(rng, dtype):
    cases = hard_matrices(rng)
    matrices = np.stack(list(cases.values())).astype(dtype)
    expected = np.linalg.eigvalsh(matrices.astype(np.float64))[:, -1]

    def block(matrices):
        present = jnp.ones(matrices.shape[-1], bool)
        return jax.vmap(lambda A: largest_eigenvalue(lambda v: A @ v, present, A.dtype))(matrices)

    def record(_, recorded):
        nothing = jnp.zeros(len(cases), dtype), jnp.zeros(len(cases), jnp.int32)
        return None, lax.cond(recorded, block, lambda _: nothing, jnp.asarray(matrices))

    with jax.enable_x64(dtype == "float64"):
        schedule = jnp.array([False, True])
        values, counts = jax.jit(lambda s: lax.scan(record, None, s)[1])(schedule)
        values, counts = np.asarray(values[1]), np.asarray(counts[1])
    assert values.dtype == dtype
    for name, value, count, exact in zip(cases, values, counts, expected, strict=True):
        assert value == pytest.approx(exact, rel=TOLERANCES[dtype], abs=0), name
        assert 0 < count <= MOST_PRODUCTS, name


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_ends_at_once(n, bad):
    value, count = _of_matrix(jnp.eye(n).at[1, 2].set(bad), jnp.ones(n, bool))
    assert math.isnan(value)
    assert count <= BASIS


@jax.jit
def _of_matrix(A, present):
    return largest_eigenvalue(lambda v: A @ v, present, A.dtype)


@given(
    n=st.sampled_from([1, 7, 16, 17, 30]),
    seed=st.integers(0, 99),
    sign=st.sampled_from([-1, 0, 1]),
)
def test_absent_coordinates_do_not_count(n, seed, sign):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A = sign * A @ A.T - np.eye(n) if sign else A + A.T
    present = rng.random(n) < 0.5
    masked = np.where(np.outer(present, present), A, 0)
    with jax.enable_x64(True):
        value, _ = _of_matrix(masked, present)
    inner = A[np.ix_(present, present)]
    exact = np.linalg.eigvalsh(inner)[-1] if present.any() else 0.0
    assert float(value) == pytest.approx(exact, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30, math.inf])
def test_safe_norm(size):
    assert float(safe_norm(jnp.array([3.0, -4.0]) * size)) == pytest.approx(5 * size, rel=1e-6)


# --- Sharpness of networks -----------------------------------------------------------------------


def network_point(problem, p, layers, dtype, *, kind="collapsed", active=None, trainable=None):
    reduction = reduce(problem, Loss(p), OBJECTIVES[kind], bias=bool(layers.biases))
    data = jax.tree.map(lambda a: jnp.asarray(a, dtype), reduction.data)
    active = np.ones(layers.depth, bool) if active is None else active

    def value_and_grad(layers):
        value, _, gradient = reduction.objective.value_and_grad(layers, data, active)
        return value, gradient

    layers = jax.tree.map(lambda a: jnp.asarray(a, dtype), reduction.to_basis(layers))
    fields = {} if trainable is None else {"trainable": trainable}
    return make_point(layers, value_and_grad, hyper={"active": active}, **fields)


def compiled_sharpness(point):
    def at(q):
        return scaled_sharpness(replace(point, parameters=q, trained=q), 1.0)

    return jax.jit(at)(point.parameters)


def hessian(layers, problem, p):
    """Central differences of the gradient by hand."""
    sizes = np.cumsum([W.size for W in layers.weights])[:-1]

    def gradient(theta):
        parts = zip(np.split(theta, sizes), layers.weights, strict=True)
        moved = Layers(tuple(part.reshape(W.shape) for part, W in parts))
        _, g = loss_and_gradient(moved, problem.features, problem.targets, p, scale=1 / p)
        return np.concatenate([a.ravel() for a in g.weights])

    theta, step = np.concatenate([W.ravel() for W in layers.weights]), 1e-5
    rows = [gradient(theta + step * e) - gradient(theta - step * e) for e in np.eye(len(theta))]
    H = np.stack(rows) / (2 * step)
    return (H + H.T) / 2


def ill_conditioned(rng, d, n=150):
    """Features with covariance eigenvalues from 1 to 1e-9."""
    U, _, Vt = np.linalg.svd(rng.standard_normal((n, d)), full_matrices=False)
    X = (U * np.logspace(0, -4.5, d)) @ Vt * math.sqrt(n)
    return Problem.from_arrays(X, X @ rng.standard_normal(d) + 0.3 * rng.standard_normal(n))


@pytest.mark.parametrize(
    ("p", "d", "hidden", "kind", "start"),
    [
        param(2, 128, (), "spectral", ("near_zero", 0.01)),
        (2, 128, (1,), "spectral", ("near_zero", 0.01)),
        param(4, 128, (1,), "collapsed", ("identity", 0.1)),
        (4, 16, (16,), "collapsed", ("balanced", 1.0)),
        (4, 6, (3,), "moments", ("balanced", 1.0)),
        param(2.5, 16, (8, 8), "collapsed", ("near_zero", 0.3)),
        param(2, 16, (4, 4, 4), "collapsed", ("orthogonal", math.nan)),
    ],
)
def test_sharpness_of_networks(rng, p, d, hidden, kind, start):
    problem = ill_conditioned(rng, d)
    layers = Initialiser(*start).draw(d, hidden, 1, bias=False, seed=1)
    exact = np.linalg.eigvalsh(hessian(layers, problem, p))[-1]
    for dtype, tolerance in TOLERANCES.items():
        with jax.enable_x64(dtype == "float64"):
            point = network_point(problem, p, layers, dtype, kind=kind)
            value, _ = compiled_sharpness(point)
        assert float(value) == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_few_products_for_the_ethanol_like_problem(depth):
    problem = make_problem(gas_like(num_rows=400))
    layers = Initialiser("near_zero", 0.01).draw(
        problem.num_features, (1,) * (depth - 1), 1, bias=False, seed=0
    )
    point = network_point(problem, 2, layers, "float32", kind="spectral")
    _, count = compiled_sharpness(point)
    assert count <= 24


@pytest.mark.parametrize(("bias", "start"), [param(False, 1e-3), (True, 0.5)])
def test_padding_changes_no_observable(rng, bias, start):
    X = rng.standard_normal((30, 6))
    problem = Problem.from_arrays(X, X @ rng.standard_normal((6, 2)) + rng.standard_normal((30, 2)))
    layers = random_layers(rng, 6, (3,), 2, bias=bias, std=start)
    shapes = layer_shapes(6, (5, 4, 7), 2)
    padded, active = pad(layers, shapes)
    ones = jax.tree.map(np.ones_like, layers)
    true = pad(ones, shapes)[0]
    trainable = Layers(
        tuple(a & (W != 0) for a, W in zip(active, true.weights, strict=True)),
        tuple(a & (b != 0) for a, b in zip(active, true.biases, strict=False)),
    )
    optimum = rng.standard_normal((2, 6))
    with jax.enable_x64(True):
        points = [
            network_point(problem, 4, layers, "float64"),
            network_point(problem, 4, padded, "float64", active=active, trainable=trainable),
        ]
        functions = parse(linear.OBSERVABLES, linear.OBSERVABLES)

        def observe(parameters, point):
            here = replace(point, parameters=parameters, data=SimpleNamespace(optimum=optimum))
            return {name: f(here) for name, f in functions.items()}

        expected, actual = (
            jax.tree.map(float, jax.jit(lambda q, point=point: observe(q, point))(point.parameters))
            for point in points
        )
    assert actual == pytest.approx(expected, rel=1e-6)
    assert not any(map(math.isnan, expected.values()))


# --- Preconditioned sharpness --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adam", {"b1": 0.0}),
        ("adam", {"b1": 0.0, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}),
        ("adamw", {"b1": 0.0, "b2": 0.99}),
        ("rmsprop", {}),
        ("rmsprop", {"decay": 0.5, "eps": 0.1, "eps_in_sqrt": False, "initial_scale": 1.0}),
        ("rmsprop", {"centered": True}),
        ("adagrad", {}),
        ("adagrad", {"initial_accumulator_value": 0.0, "eps": 0.1}),
    ],
)
def test_preconditioners_are_what_optax_divides_by(rng, name, settings):
    learning_rate = 0.1
    optimizer = Optimizer(name, tuple(settings.items())).build(learning_rate)
    with jax.enable_x64(True):
        parameters = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(4)}
        state, gradient, updates = optimizer.init(parameters), parameters, parameters
        for _ in range(3):
            gradient = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), parameters)
            updates, state = optimizer.update(gradient, state, parameters)
        expected = jax.tree.map(lambda g, u: -learning_rate * g / u, gradient, updates)
        actual = preconditioner(state, **settings)
    for leaf in parameters:
        np.testing.assert_allclose(actual[leaf], expected[leaf], rtol=1e-12)


def test_adadelta_preconditions_by_both_moments():
    state = optax.ScaleByAdaDeltaState(e_g=jnp.array([3.0]), e_x=jnp.array([0.0]))
    assert float(preconditioner((state,), eps=1.0)[0]) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "end_to_end"])
def test_others_have_no_preconditioner(name):
    state = Optimizer(name).build(0.1).init({"w": jnp.zeros((2, 2))})
    assert preconditioner(state) is None


def test_two_preconditioners_are_refused():
    chain = optax.chain(optax.scale_by_rms(), optax.scale_by_adam())
    with pytest.raises(ValueError, match="2 preconditioners"):
        preconditioner(chain.init(jnp.zeros(2)))


@pytest.mark.parametrize("n", [6, param(40)])
def test_preconditioned_sharpness(rng, n):
    A = rng.standard_normal((n, n))
    A = A + A.T
    nu, count, b2, eps = rng.random(n) ** 2, 7, 0.9, 1e-3
    split = {"a": nu[:1], "b": nu[1:]}
    P = np.sqrt(nu / (1 - b2**count)) + eps
    frozen = rng.random(n) < 0.3
    kept = np.ix_(~frozen, ~frozen)
    with jax.enable_x64(True):
        state = optax.ScaleByAdamState(jnp.int32(count), split, split)
        trainable = {"a": ~frozen[:1], "b": ~frozen[1:]}
        point = quadratic_point(A, np.ones(n), opt_state=(state, ()), trainable=trainable)
        value = preconditioned_sharpness(b2=b2, eps=eps, b1=0.5)(point)
        plain = preconditioned_sharpness()(replace(point, opt_state=()))
    exact = np.linalg.eigvalsh((A / np.sqrt(np.outer(P, P)))[kept])[-1]
    assert float(value) == pytest.approx(exact, rel=1e-6)
    assert float(plain) == pytest.approx(np.linalg.eigvalsh(A[kept])[-1], rel=1e-6)


def test_adam_has_no_preconditioner_before_its_first_step():
    point = quadratic_point(jnp.eye(3), np.ones(3))
    state = optax.adam(0.1).init(point.parameters)
    value = OBSERVABLES["preconditioned_sharpness"].observable(replace(point, opt_state=state))
    assert math.isnan(value)


def test_entries_that_adagrad_has_never_moved_count_as_frozen():
    state = optax.ScaleByRssState({"a": jnp.array([0.0]), "b": jnp.array([4.0, 9.0])})
    point = quadratic_point(jnp.diag(jnp.array([100.0, 6.0, 6.0])), np.ones(3), opt_state=state)
    assert float(preconditioned_sharpness(eps=0.0)(point)) == pytest.approx(3.0)


# --- Thresholds ----------------------------------------------------------------------------------


def spectral_radius(transformation, curvature, momentum):
    """Of one step of optax on ``curvature w²/2``, linear in the weight and the momentum.

    ``momentum`` is the name that the first state of the chain gives the latter.
    """
    head, *tail = transformation.init(jnp.zeros(()))
    if momentum == "mu":  # the second moment is at its limit, where no bias is left to correct
        head = head._replace(nu=jnp.ones(()), count=jnp.int32(2**30))

    def step(w, m):
        state = (head._replace(**{momentum: m}), *tail)
        updates, (new, *_) = transformation.update(curvature * w, state, w)
        return w + updates, getattr(new, momentum)

    # Small, so that the squares of the gradients do not move a second moment.
    small = 1e-4
    columns = [step(*map(jnp.float64, small * e)) for e in np.eye(2)]
    return max(abs(np.linalg.eigvals(np.array(columns).T / small)))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
def test_thresholds_are_where_the_linear_recursion_loses_stability(name, beta):
    rate = 0.3
    if name == "adam":
        # A b2 so near to 1 freezes the second moment, in comparison with the margin below.
        transformation, momentum = optax.adam(rate, beta, 1 - 1e-7, eps=0.0), "mu"
    else:
        transformation = optax.sgd(rate, momentum=beta, nesterov=name == "nesterov")
        momentum = "trace"
    threshold = stability_threshold(name, rate, beta)
    with jax.enable_x64(True):
        below, above = (
            spectral_radius(transformation, factor * threshold, momentum)
            for factor in (0.999, 1.001)
        )
    assert below < 1 < above


def test_thresholds_without_momentum_are_those_of_momentum_zero():
    for name in ("sgd", "rmsprop", "adagrad", "adadelta"):
        assert stability_threshold(name, 0.5) == 4.0
    for name in ("momentum", "nesterov", "adam", "adamw"):
        assert stability_threshold(name, 0.5, 0.0) == 4.0
    with pytest.raises(UserError, match="sgd, momentum"):
        stability_threshold("end_to_end", 0.5)


# --- The others ----------------------------------------------------------------------------------


def test_losses_and_norms():
    A = np.diag([2.0, 4.0, 6.0])
    trainable = {"a": True, "b": np.array([True, False])}
    point = quadratic_point(A, [3.0, 1.0, 5.0], trainable=trainable, loss_optimum=0.5)
    assert float(loss(point)) == 86.0
    assert float(excess_loss(point)) == 85.5
    assert float(gradient_norm(point)) == pytest.approx(math.hypot(6, 4))
    assert float(parameter_norm(point)) == pytest.approx(math.sqrt(10))
    assert float(sharpness(point)) == pytest.approx(4.0)
    assert math.isnan(held_out_loss(point))
    held = replace(point, held_out_loss=lambda t: t["a"][0])
    assert float(held_out_loss(held)) == 3.0


def test_frozen_entries_may_hold_anything():
    point = quadratic_point(
        np.eye(3), [3.0, 4.0, math.inf], trainable={"a": True, "b": np.array([True, False])}
    )
    assert float(parameter_norm(point)) == 5.0


def linear_point(layers, optimum):
    return make_point(
        jax.tree.map(jnp.asarray, layers),
        lambda _: (jnp.zeros(()), layers),
        hyper={"active": jnp.ones(layers.depth, bool)},
        data=SimpleNamespace(optimum=optimum),
    )


def test_linear_observables_against_their_definitions(rng):
    layers, optimum = random_layers(rng, 4, (3, 5), 2), rng.standard_normal((2, 4))
    W1, W2, W3 = layers.weights
    W = W3 @ W2 @ W1
    with jax.enable_x64(True):
        point = linear_point(layers, optimum)
        values = {n: float(f(point)) for n, f in parse(_LINEAR, linear.OBSERVABLES).items()}
    gaps = (W2.T @ W2 - W1 @ W1.T, W3.T @ W3 - W2 @ W2.T)
    assert values == pytest.approx(
        {
            "end_to_end_norm": np.sqrt((W**2).sum()),
            "imbalance": max(np.sqrt((g**2).sum()) for g in gaps),
            "layer_norm": min(np.sqrt(((V @ V.T) ** 2).sum()) for V in layers.weights),
            "alignment": (W * optimum).sum() / np.sqrt((W**2).sum() * (optimum**2).sum()),
        }
    )


_LINEAR = ("end_to_end_norm", "imbalance", "layer_norm", "alignment")


def test_alignment_at_its_ends():
    W = np.array([[3.0, 4.0]])
    for optimum, expected in ((2 * W, 1), (-W, -1), (0 * W, 0), ([[4.0, -3.0]], 0)):
        value = linear.alignment(linear_point(Layers((W,)), optimum))
        assert float(value) == pytest.approx(expected, abs=1e-6)
    assert float(linear.alignment(linear_point(Layers((0 * W,)), W))) == 0


def test_parse():
    assert parse(["sharpness", "loss"], OBSERVABLES) == {"sharpness": sharpness, "loss": loss}
    assert parse([], OBSERVABLES) == {}
    with pytest.raises(UserError, match=r"'imbalance'.*excess_loss.*sharpness"):
        parse(["imbalance"], OBSERVABLES)
    with pytest.raises(UserError, match="twice"):
        parse(["loss", "loss"], OBSERVABLES)
