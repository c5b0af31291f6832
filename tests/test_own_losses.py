"""Claims whose tasks have losses of their own: C1, N1, M1, H1."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from test_statistics import made

import implicit_accel as ia
from implicit_accel.claims.published import c1, h1, m1
from implicit_accel.claims.published.own_losses import make_fit
from implicit_accel.linear import Loss, optimum
from implicit_accel.results import by_model


def test_optima_are_those_of_other_methods(rng):
    X, y = rng.standard_normal((60, 4)), rng.standard_normal(60)
    logistic = c1.classes_of("random", X, y, 2)
    signs = np.where(np.argsort(np.argsort(y)) < 30, -1.0, 1.0)
    found = scipy.optimize.minimize(
        lambda w: np.logaddexp(0, -signs * (X @ w)).mean(), np.zeros(4), tol=1e-12
    )
    assert logistic.optimum == pytest.approx(found.fun, rel=1e-8)
    assert logistic.zero_loss == pytest.approx(np.log(2))
    labels = y[:, None]
    fourth = make_fit("l4", X, labels, lambda out, own: Loss(4).mean(out - own))
    assert fourth.optimum == pytest.approx(optimum("l4", X, labels).loss, rel=1e-9)


def test_separable_classes_have_no_smallest_loss():
    X, y = c1.separable_rows()
    assert c1.classes_of("separable", X, y, 2).optimum == 0.0


def test_a_network_is_the_product_of_its_layers(rng):
    X, y = rng.standard_normal((12, 5)), rng.standard_normal(12)
    fit = c1.classes_of("random", X, y, 3)
    task = fit.task(0.3)
    layers = task.init(jax.random.key(1), {"depth": 3})
    assert [np.shape(W) for W in layers] == [(5, 3), (3, 3), (3, 3)]
    outputs = X.astype(np.float32)
    for W in layers:  # layer by layer, as a network computes
        outputs = outputs @ np.asarray(W)
    chosen = np.argmax(fit.labels, axis=1)
    shifted = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    expected = -shifted[np.arange(12), chosen].mean()
    assert float(task.loss(layers, (X, fit.labels))) == pytest.approx(expected, rel=1e-5)
    assert np.bincount(chosen).tolist() == [4, 4, 4]


@settings(max_examples=examples(10), deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6))
def test_shampoo_without_memory_makes_singular_values_one(seed, rows, columns):
    """With L = G Gᵀ and R = Gᵀ G the update is U Vᵀ of the gradient's G = U S Vᵀ.

    For well-conditioned gradients: the ridge shrinks what is small.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        U, _, Vt = np.linalg.svd(rng.standard_normal((rows, columns)), full_matrices=False)
        G = U * rng.uniform(0.1, 10, len(Vt)) @ Vt
        transformation = m1.scale_by_shampoo(decay=0.0, ridge=1e-12)
        update, _ = transformation.update(jnp.asarray(G), transformation.init(jnp.asarray(G)))
        np.testing.assert_allclose(np.asarray(update), U @ Vt, atol=1e-5)


def test_shampoo_follows_its_averages():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        transformation = m1.scale_by_shampoo(decay=0.7, ridge=0.0)
        state = transformation.init(jnp.zeros((3, 3)))
        L, R = np.zeros((3, 3)), np.zeros((3, 3))
        G = update = np.zeros((3, 3))
        for _ in range(4):
            G = rng.standard_normal((3, 3))
            update, state = transformation.update(jnp.asarray(G), state)
            L, R = 0.7 * L + 0.3 * G @ G.T, 0.7 * R + 0.3 * G.T @ G

        def root(A):
            """The inverse fourth root, by two square roots of scipy's."""
            half: Any = scipy.linalg.sqrtm(scipy.linalg.sqrtm(A))
            return np.linalg.inv(half.real)

        np.testing.assert_allclose(np.asarray(update), root(L) @ G @ root(R), rtol=1e-6, atol=1e-9)


def test_held_out_losses_are_those_at_the_target():
    # The second rate is the best one; a run of the third never reaches the target.
    steps = [[[400.0, 400], [99, 9], [np.inf, 9]]]
    runs = made(steps, np.full((1, 3, 2), 0.05), depths=(1,), rates=(0.1, 0.2, 0.4))
    times = np.array([0, 9, 99, 999])
    curves = np.stack([np.geomspace(1, 1e-3, 4), np.geomspace(2, 2e-3, 4)])
    held_out = np.broadcast_to(curves, (1, 3, 2, 4))
    runs = runs.assign(
        held_out_loss=(("model", "learning_rate", "seed", "observation_step"), held_out)
    ).assign_coords(observation_step=times)
    np.testing.assert_allclose(h1.held_out_losses(runs, 0), [1e-2, 2e-1])
    lower = h1.held_out_losses(runs, 0, part=0.5)  # the first rate
    exact = [np.exp(np.interp(np.log(401), np.log1p(times), np.log(c))) for c in curves]
    np.testing.assert_allclose(lower, exact)
    never = runs.assign(steps_to_target=np.inf * runs["steps_to_target"])
    assert np.isnan(h1.held_out_losses(never, 0)).all()


def test_one_layer_learns_all_singular_values_alike():
    """With all entries its error falls alike along every singular vector, up to the start's."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((m1.SIZE,) * 2))[0] for _ in range(2))
    solution = U[:, :4] * m1.SINGULAR_VALUES @ V[:4]
    task = m1.make_task(np.ones((m1.SIZE,) * 2), solution, "all")
    runs = ia.sweep(
        task, axes={"depth": ia.static(1, 3), "learning_rate": (0.02,), "seed": (0, 1)},
        optimizer=partial(m1.optimizer_of, m1.GD), num_steps=4000, target=0.005,
        record={f"s{i}": partial(m1.progress_of, i, U, V) for i in range(4)},
    )  # fmt: skip
    one, three = (m1.learning_times(by_model(runs), depth) for depth in (1, 3))
    assert one is not None
    assert three is not None
    # A tenth is missing after ln 10 / (η/Σσ²) steps; the start shifts that by a few per cent.
    expected = np.log(10) / (0.02 / np.sum(np.square(m1.SINGULAR_VALUES)))
    np.testing.assert_allclose(one, expected, rtol=0.05)
    assert (np.diff(three, axis=0) > 0).all()
