"""The end-to-end rule from starts that are not balanced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from oracles import random_problem

from implicit_accel import linear
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.regulariser import loss_gradient


def moved(rule, gradient, w) -> np.ndarray:
    return np.asarray(rule.update(gradient, rule.init(w), w)[0])


def parts(w1, a):
    """The direction in which the product moves, layer by layer: what the rule must give."""

    def direction(gradient):
        product = np.prod(a)
        along = w1 @ gradient
        others = [np.prod(np.delete(a, j)) for j in range(len(a))]
        return product**2 * gradient + sum(o**2 for o in others) * along * w1

    return direction


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(-3, 1))
def test_the_rule_is_the_product_s_motion(seed, depth, exponent):
    rng = np.random.default_rng(seed)
    w1 = 10.0**exponent * rng.standard_normal(4)
    a = 10.0 ** rng.uniform(-3, 1, depth - 1) * rng.choice([-1, 1], depth - 1)
    gradient = rng.standard_normal(4)
    with jax.enable_x64(True):
        rule = linear.scale_by_unbalanced_end_to_end(a**2 - w1 @ w1)
        w = jnp.asarray(np.prod(a) * w1)
        found = moved(rule, jnp.asarray(gradient), w)
    expected = parts(w1, a)(gradient)
    # A factor that is a difference of nearly equal squares has lost what they share.
    lost = 1e-16 * max(w1 @ w1, (a**2).max(initial=0)) / min(w1 @ w1, (a**2).min(initial=np.inf))
    np.testing.assert_allclose(found, expected, rtol=1e-9 + 10 * lost, atol=1e-300)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_balanced_it_is_the_rule_of_the_paper(rng, depth):
    w, G = (jnp.asarray(rng.standard_normal(6), jnp.float32) for _ in range(2))
    ours = linear.scale_by_unbalanced_end_to_end(np.zeros(depth - 1))
    theirs = linear.scale_by_end_to_end(depth)
    expected = moved(theirs, G[None], w[None])[0]
    np.testing.assert_allclose(moved(ours, G, w), expected, rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_it_emulates_a_network_from_near_zero(rng, depth):
    """Steps to a tenth of the zero predictor's excess loss, within 1 %."""
    problem, loss = random_problem(rng, n=40, d=5), Loss(4)
    gradient = loss_gradient(loss, problem)
    best = linear.optimum(loss, problem.features, problem.targets).loss
    rate, steps = 1e-4, 40_000
    layers = Initialiser("near_zero", 0.1).draw(5, (1,) * (depth - 1), 1, bias=False, seed=1)
    run = linear.train(problem, layers, learning_rates=[rate], num_steps=steps, loss=loss)
    w1, a = layers.weights[0][0], np.array([W.item() for W in layers.weights[1:]])
    X, y = jnp.asarray(problem.features), jnp.asarray(problem.targets[:, 0])
    with jax.enable_x64(True):
        X, y = jnp.asarray(problem.features), jnp.asarray(problem.targets[:, 0])
        rule = optax.chain(
            linear.scale_by_unbalanced_end_to_end(a**2 - w1 @ w1),
            optax.scale_by_learning_rate(rate),
        )

        def value(w):
            return jnp.mean((X @ w - y) ** 4) / 4

        def step(w, _):
            loss_now, g = jax.value_and_grad(value)(w)
            update, _ = rule.update(g, rule.init(w), w)
            return w + update, loss_now

        start = jnp.asarray(np.prod(a) * w1)
        np.testing.assert_allclose(jax.grad(value)(start), gradient(np.asarray(start)), rtol=1e-9)
        _, losses = jax.lax.scan(step, start, None, length=steps)
    target = 0.1 * (loss.mean(problem.targets) - best)
    ours = int(np.argmax(np.asarray(losses) - best <= target))
    theirs = int(np.argmax(run.excess_loss[0] <= target))
    assert theirs > 100
    assert ours == pytest.approx(theirs, rel=0.01)


def test_bad_arguments():
    with pytest.raises(ValueError, match="one for each scalar"):
        linear.scale_by_unbalanced_end_to_end(np.zeros((1, 1)))
    rule = linear.scale_by_unbalanced_end_to_end(np.zeros(1))
    with pytest.raises(ValueError, match="single rows"):
        rule.update(jnp.ones((2, 2)), rule.init(jnp.ones((2, 2))), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)))
