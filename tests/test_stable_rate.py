"""The largest stable learning rate, held against closed forms and plain loops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from programs import expect_usage_error, run

import implicit_accel as ia
from implicit_accel.stable_rates import critical_rate, judge

N = 3


def quadratic(H, starts, scale=1.0, slope=None):
    """scale · (θᵀHθ/2 + slopeᵀθ) from the start of each seed; all of them share a program."""
    slope = np.zeros(N) if slope is None else slope

    def loss(theta, batch):
        matrix, linear, factor = (part[0] for part in batch)
        return factor * (theta @ matrix @ theta / 2 + linear @ theta)

    return ia.from_loss(
        loss, init=lambda seed: np.asarray(starts[seed], np.float32),
        data=(np.asarray(H)[None], np.asarray(slope)[None], np.array([float(scale)])),
        name="quadratic",
    )  # fmt: skip


def estimate(task, optimizer: Any = "sgd", **options):
    given = {"precision": "float64", "num_steps": 0, "seeds": (0, 1)}
    return ia.stable_rate(task, optimizer, **(given | options))


def drawn(seed):
    """A random positive definite matrix, and a start for each of two seeds."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    H = (Q * rng.uniform(0.1, 10, N)) @ Q.T
    return (H + H.T) / 2, rng.standard_normal((2, N)).astype(np.float32).astype(float)


@settings(max_examples=examples(2), deadline=None)
@given(st.integers(0, 10**6))
def test_gradient_descent_on_a_quadratic_has_both_rates_in_closed_form(seed):
    H, starts = drawn(seed)
    values, vectors = np.linalg.eigh(H)
    found = estimate(quadratic(H, starts))
    for theta, critical, lanczos in zip(starts, found.critical, found.lanczos, strict=True):
        g = H @ theta
        np.testing.assert_allclose(critical, 2 * g @ g / (g @ H @ g), rtol=1e-3)
        np.testing.assert_allclose(lanczos, 2 / values[-1], rtol=1e-6)
    assert not found.is_lower_bound
    np.testing.assert_allclose(found.rate, 2 / values[-1], rtol=1e-6)
    # Along an eigenvector the critical rate is 2 over that eigenvalue.
    along = estimate(quadratic(H, [vectors[:, 0], vectors[:, 2]]))
    np.testing.assert_allclose(along.critical[:, 0], 2 / values[[0, 2]], rtol=2e-3)


def test_momentum_and_adam_have_their_thresholds():
    H, starts = drawn(1)
    heavy, adam = (estimate(quadratic(H, starts), name) for name in ("momentum", "adam"))
    sharpness = np.linalg.eigvalsh(H)[-1]
    np.testing.assert_allclose(heavy.lanczos[:, 0], (2 + 2 * 0.9) / sharpness, rtol=1e-6)
    for k, theta in enumerate(starts):
        g = H @ theta
        # Adam's first step divides the gradient by its size.
        P = np.abs(g) + 1e-8
        u = g / P
        preconditioned = np.linalg.eigvalsh(H / np.sqrt(np.outer(P, P)))[-1]
        np.testing.assert_allclose(adam.lanczos[k, 0], 38 / preconditioned, rtol=1e-5)
        np.testing.assert_allclose(adam.critical[k, 0], 2 * g @ u / (u @ H @ u), rtol=1e-3)


def descend(H, theta, rate, num_steps):
    losses = []
    for _ in range(num_steps + 1):
        losses.append(theta @ H @ theta / 2)
        theta = theta - rate * H @ theta
    return np.array(losses)


def test_the_rate_is_the_largest_that_a_plain_loop_survives():
    H, starts = drawn(3)
    found = estimate(quadratic(H, starts), num_steps=100)
    assert not found.is_lower_bound
    assert 1 < found.resolution < 1.2
    for seed, largest in enumerate(found.rates):
        following = found.tested[np.searchsorted(found.tested, largest) + 1]
        stable, unstable = (descend(H, starts[seed], r, 100) for r in (largest, following))
        assert stable.max() < 11 * stable[0]
        assert stable[-10:].mean() < stable[0] / 2
        assert unstable.max() > 11 * unstable[0] or unstable[-10:].mean() > unstable[0] / 2
    assert found.rate == min(found.rates)
    # The Hessian is the same along a training, whose records begin at the start.
    assert found.steps[0] == 0
    assert found.steps[-1] == 100
    np.testing.assert_allclose(found.lanczos, 2 / np.linalg.eigvalsh(H)[-1], rtol=1e-6)
    # Runs of 16 rates and two seeds, those that diverge not to their end.
    assert 100 < found.cost.gradients <= 18 * 2 * 100 + 50
    assert found.cost.products % N == 0


@settings(max_examples=examples(2), deadline=None)
@given(st.integers(0, 10**6), st.integers(-10, 10))
def test_a_loss_times_a_number_has_the_rate_over_it(seed, exponent):
    H, starts = drawn(seed)
    plain, scaled = (
        estimate(quadratic(H, starts, factor), num_steps=20) for factor in (1.0, 2.0**exponent)
    )
    np.testing.assert_allclose(scaled.rate * 2.0**exponent, plain.rate, rtol=1e-9)
    np.testing.assert_allclose(scaled.lanczos[:, 0] * 2.0**exponent, plain.lanczos[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(scaled.stable, plain.stable)


def test_seeds_at_once_are_seeds_one_by_one():
    H, starts = drawn(4)
    task = quadratic(H, starts)
    together = estimate(task, num_steps=20)
    for seed in (0, 1):
        alone = estimate(task, seeds=(seed,))
        np.testing.assert_allclose(together.critical[seed, 0], alone.critical[0, 0], rtol=1e-9)
        np.testing.assert_allclose(together.lanczos[seed, 0], alone.lanczos[0, 0], rtol=1e-9)


def test_a_loss_without_curvature_has_a_lower_bound():
    found = estimate(quadratic(np.zeros((N, N)), np.zeros((2, N)), slope=np.ones(N)), num_steps=10)
    assert found.is_lower_bound
    assert found.rate == found.tested[-1]
    assert np.isnan(found.resolution)
    assert np.isinf(found.critical[:, 0]).all()
    assert np.isinf(found.lanczos[:, 0]).all()


def test_steps_uphill_have_no_stable_rate():
    H, starts = drawn(5)

    def uphill(hp):
        return optax.sgd(-hp["learning_rate"])

    with pytest.raises(ia.UserError, match=r"no learning rate from .* lowers the loss within 10"):
        estimate(quadratic(H, starts), uphill, num_steps=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": 5}, "num_steps 5: it must be a whole number >= 10, or 0"),
        ({"num_steps": True}, "num_steps True"),
        ({"at": {"learning_rate": 1.0}}, "at: learning_rate is no further hyper-parameter"),
        ({"at": {"width": 2.0}}, "axis width: nothing reads it"),
        ({"seeds": ()}, "seed"),
        ({"optimizer": "sdg"}, "optimizer 'sdg': choose from"),
        ({"optimizer": optax.sgd(0.1)}, "axis learning_rate: nothing reads it"),
        ({"task": 3}, "task: give what from_loss makes"),
    ],
)
def test_what_is_not_allowed_is_refused_in_a_line(options, words):
    H, starts = drawn(6)
    given = {"task": quadratic(H, starts), "optimizer": "sgd"} | options
    with pytest.raises(ia.UserError, match=words):
        estimate(given.pop("task"), given.pop("optimizer"), **given)


def test_a_loss_that_is_not_finite_is_refused():
    H, starts = drawn(7)
    starts[1] = np.inf
    with pytest.raises(ia.UserError, match="not finite at the initial parameters of seed 1"):
        estimate(quadratic(H, starts))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda r: (r - 1) ** 2, 2.0),
        (lambda r: jnp.where(r < 5e-7, -r, 1.0), 5e-7),
        (lambda r: jnp.where(r < 3e6, -r, jnp.nan), 3e6),
        (lambda r: -r, np.inf),
        (lambda r: r, 0.0),
    ],
)
@pytest.mark.parametrize("guess", [1e-3, 1.0])
def test_the_critical_rate_of_a_known_line(loss, expected, guess):
    with jax.enable_x64(True):
        first = jnp.asarray(loss(jnp.zeros(())), float)
        found, passes = critical_rate(loss, first, jnp.asarray(guess))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert passes <= 70


def test_rates_are_judged_by_blow_ups_and_by_progress():
    steps = np.arange(11)
    falling = 10 - 0.9 * steps  # 10 to 1, the last tenth at 1.9 and 1.0
    catapult = np.where(steps == 2, 60.0, falling)
    blown = np.where(steps == 2, 200.0, falling)
    dead = np.full(11, 9.9)
    dead[0] = 10
    diverged = np.where(steps > 5, np.inf, 10.0)
    slow = 10 - 0.01 * steps

    def last(*curves):
        stable, positions = judge(np.array(curves, float)[:, None], steps)
        return stable[:, 0].tolist(), int(positions[0])

    assert last(slow, falling, catapult, dead) == ([True, True, True, False], 2)
    assert last(slow, falling, blown, falling) == ([True, True, False, True], 1)
    assert last(slow, falling, diverged, diverged) == ([True, True, False, False], 1)
    assert last(slow, falling) == ([True, True], 1)
    assert last(dead + 1, diverged)[1] == 0
    assert last(diverged, diverged) == ([False, False], -1)
    # A loss of another scale and level is judged alike.
    assert last(*(3 * a - 50 for a in (slow, falling, catapult, dead)))[1] == 2


TASK = """
import jax, jax.numpy as jnp, numpy as np
import implicit_accel as ia

def loss(theta, batch, hp):
    return jnp.mean(batch[0] * hp["stretch"]) * jnp.sum(theta ** 2) / 2

def bad(theta, batch):
    return jnp.log(-jnp.sum(theta ** 2))

def init(key):
    return 1 + jax.random.uniform(key, (2,))

task = ia.from_loss(loss, init=init, data=(np.ones(4),), name="bowl")
nan = ia.from_loss(bad, init=init, data=(np.ones(4),), name="nan")
"""


def test_the_program_prints_a_table_and_a_sentence(tmp_path):
    (tmp_path / "bowl.py").write_text(TASK)
    result = run(
        "predict", "--task", tmp_path / "bowl.py:task", "--axes", "stretch=4", "--num_seeds", "2",
        "--num_steps", "20", "--output", tmp_path / "table.csv",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "→ sgd, stretch 4: stable up to a learning rate of 0." in result.stdout
    assert "bowl: 4 rows" in result.stdout
    header, row = (tmp_path / "table.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(found["lanczos_rate"]) == pytest.approx(2 / 4)
    assert float(found["critical_rate"]) == pytest.approx(2 / 4, rel=2e-3)
    assert 0.4 < float(found["stable_rate"]) <= 0.6
    assert found["num_seeds"] == "2"


def test_bad_flags(tmp_path):
    (tmp_path / "bowl.py").write_text(TASK)
    place = ["--task", tmp_path / "bowl.py:task"]
    expect_usage_error(run("predict", *place, "--at", "0.1"), "--at")
    expect_usage_error(run("predict", *place, "--depths", "2"), "--depths has no part")
    nan = ["--task", tmp_path / "bowl.py:nan"]
    expect_usage_error(run("predict", *nan), "nan: the loss is not finite")
