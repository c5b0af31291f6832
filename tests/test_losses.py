import mpmath
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_problem

from implicit_accel import UserError
from implicit_accel.linear import Loss, Problem, SweepConfig, optimum, run_sweep
from implicit_accel.linear.sweep import LinearSweep

EXPONENTS = [2, 2.5, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["l1", "l1.99", "lnan", "linf", "l", "4", "", "l-2", "l2x"])
def test_bad_losses_are_refused(text):
    with pytest.raises(UserError, match=r"p must be|write an l"):
        Loss.parse(text)
    with pytest.raises(UserError, match="paper, plain"):
        Loss(2, "mine")


def test_losses_are_told_apart_by_their_names():
    names = [Loss(p).name for p in (2, 4.0, 2.5, 2.1, 2.0000001, 1e300)]
    assert names == ["l2", "l4", "l2.5", "l2.1", "l2.0000001", "l1e+300"]


@given(p=st.floats(2, 1e308))
def test_names_are_read_back(p):
    assert Loss.parse(Loss(p).name) == Loss(p)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("convention", ["paper", "plain"])
def test_penalty_and_derivatives_by_definition(rng, p, convention):
    loss = Loss(p, convention)
    r = np.concatenate([rng.standard_normal(50), [0.0]])
    scale = 1 / p if convention == "paper" else 1
    np.testing.assert_allclose(loss.penalty(r), scale * np.abs(r) ** p, rtol=1e-12)
    np.testing.assert_allclose(
        loss.derivative(r), scale * p * np.sign(r) * np.abs(r) ** (p - 1), rtol=1e-12
    )
    r, step = r[np.abs(r) > 0.01], 1e-6
    slope = (loss.derivative(r + step) - loss.derivative(r - step)) / (2 * step)
    np.testing.assert_allclose(loss.curvature(r), slope, rtol=1e-4)


@given(
    r=st.floats(-10, 10), r_star=st.floats(-10, 10), p=st.sampled_from([2, 4, 6, 8]),
    convention=st.sampled_from(["paper", "plain"]),
)  # fmt: skip
def test_excess_is_the_bregman_divergence(r, r_star, p, convention):
    loss = Loss(p, convention)
    expected = loss.penalty(r) - loss.penalty(r_star) - loss.derivative(r_star) * (r - r_star)
    size = max(abs(r), abs(r_star)) ** p
    assert loss.excess(r, r_star) == pytest.approx(expected, rel=1e-9, abs=1e-9 * size + 1e-300)
    assert loss.excess(r, r_star) >= -1e-12 * size


@pytest.mark.parametrize("bias", [False, True])
def test_l2_optimum_is_least_squares(rng, bias):
    problem = random_problem(rng, n=60, d=7, k=2, mean=0.5)
    X, Y = problem.features, problem.targets
    design = np.hstack([X, np.ones((60, 1))]) if bias else X
    solution, *_ = np.linalg.lstsq(design, Y)
    best = optimum(Loss(2), X, Y, bias=bias)
    assert best.loss == pytest.approx(np.mean((design @ solution - Y) ** 2) / 2, rel=1e-12)
    np.testing.assert_allclose(best.weights, solution[:7].T, rtol=1e-8)
    if bias:
        np.testing.assert_allclose(best.bias, solution[7], rtol=1e-8)


@pytest.mark.parametrize("p", [2.5, 3, 4, 5, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_lp_optimum_against_a_general_minimiser(rng, p, bias):
    problem = random_problem(rng, n=60, d=3, mean=0.5)
    X, Y = problem.features, problem.targets
    loss = Loss(p)
    design = np.hstack([X, np.ones((60, 1))]) if bias else X
    found = scipy.optimize.minimize(
        lambda w: np.mean(np.abs(design @ w - Y[:, 0]) ** p) / p,
        np.zeros(design.shape[1]),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    best = optimum(loss, X, Y, bias=bias)
    assert best.loss <= found.fun * (1 + 1e-12)
    assert best.loss == pytest.approx(found.fun, rel=1e-7)
    assert best.error <= 1e-12 * best.loss
    # Stationary: the gradient vanishes against the size of what it is summed from.
    slopes = loss.derivative(best.residuals)
    assert np.abs(design.T @ slopes).max() < 1e-9 * np.abs(slopes).sum()
    np.testing.assert_allclose(
        best.residuals, X @ best.weights.T + best.bias - Y, rtol=1e-6, atol=1e-9
    )


@given(
    seed=st.integers(0, 2**16), p=st.sampled_from(EXPONENTS), size=st.sampled_from([1e-6, 1, 1e6])
)
def test_nothing_beats_the_optimum(seed, p, size):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, n=25, d=3)
    X, Y = problem.features, problem.targets * size
    loss = Loss(p)
    best = optimum(loss, X, Y)
    for scale in (1e-6, 1e-3, 1.0):
        W = best.weights * (1 + scale * rng.standard_normal(best.weights.shape))
        assert loss.mean(X @ W.T - Y) >= best.loss * (1 - 1e-12)


@pytest.mark.parametrize("p", [2, 3, 4])
def test_exactly_solvable_and_degenerate_problems(rng, p):
    X = rng.standard_normal((5, 8))
    assert optimum(Loss(p), X, rng.standard_normal((5, 1))).loss < 1e-25  # n < d
    X = rng.standard_normal((30, 3))
    Y = X @ rng.standard_normal((3, 1))
    assert optimum(Loss(p), X, Y).loss < 1e-25  # noiseless
    doubled = optimum(Loss(p), np.hstack([X, X]), Y + 1)
    single = optimum(Loss(p), X, Y + 1)
    assert doubled.loss == pytest.approx(single.loss, rel=1e-10)
    assert optimum(Loss(p), np.zeros((30, 2)), Y).loss == pytest.approx(Loss(p).mean(Y))


@pytest.mark.parametrize("p", [3, 4, 6])
def test_ill_conditioned_features(rng, p):
    """A condition number of 10⁵ (10¹⁰ of XᵀX, as in the Ethanol data) costs no digits."""
    U, _ = np.linalg.qr(rng.standard_normal((100, 6)))
    V, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    Y = U @ np.ones((6, 1)) + 0.1 * rng.standard_t(3, (100, 1))
    good = optimum(Loss(p), U, Y)
    bad = optimum(Loss(p), U * np.geomspace(1, 1e-5, 6) @ V, Y)
    assert bad.loss == pytest.approx(good.loss, rel=1e-10)


def _precise_optimum(p, X, y):
    """The smallest mean |X w - y|^p / p with 60 digits, by Newton's method from least squares."""
    with mpmath.workdps(60):
        A, b = mpmath.matrix(X.tolist()), mpmath.matrix(y.tolist())
        w = mpmath.lu_solve(A.T * A, A.T * b)

        def sums(w, q):
            return sum(abs(r) ** q for r in A * w - b)

        q = mpmath.mpf(2)
        while q < p:
            q = min(q * mpmath.mpf("1.5"), mpmath.mpf(p))
            for _ in range(200):
                r = A * w - b
                gradient = A.T * mpmath.matrix([mpmath.sign(v) * abs(v) ** (q - 1) for v in r])
                weights = mpmath.diag([(q - 1) * abs(v) ** (q - 2) for v in r])
                step = mpmath.lu_solve(A.T * weights * A, gradient)
                while sums(w - step, q) > sums(w, q):
                    step = step / 2
                w = w - step
                if mpmath.norm(step) < mpmath.mpf(10) ** -25 * mpmath.norm(w):
                    break
            else:
                raise AssertionError("no optimum found")
        return float(sums(w, p) / (p * len(y)))


@pytest.mark.parametrize("p", [5, 50, 64, 100, 300, 77.5])
@pytest.mark.parametrize("size", [1.0, 0.3])
def test_large_exponents_against_60_digits(rng, p, size):
    X = rng.standard_normal((15, 2))
    y = size * (X @ [1.0, -2.0] + rng.standard_normal(15))
    best = optimum(Loss(p), X, y[:, None])
    assert best.loss == pytest.approx(_precise_optimum(p, X, y), rel=1e-12)
    assert best.error <= 1e-12 * best.loss


@pytest.mark.parametrize(
    ("p", "size", "precision"),
    [
        (1000, 9, "float64"), (1000, 0.1, "float64"), (1e300, 2, "float64"),
        (50, 9, "float32"), (100, 0.1, "float32"),
    ],
)  # fmt: skip
def test_losses_beyond_the_precision_are_refused(rng, p, size, precision):
    X = rng.standard_normal((20, 2))
    Y = size * rng.uniform(0.9, 1, (20, 1))
    with pytest.raises(UserError, match=f"{precision} does not hold"):
        Loss(p).check_range(Y, precision)
    if precision == "float64":
        with pytest.raises(UserError, match="choose a smaller exponent"):
            optimum(Loss(p), X, Y)
    config = SweepConfig(losses=(Loss(p),), precision=precision)
    with pytest.raises(UserError, match="choose a smaller exponent"):
        LinearSweep(Problem.from_arrays(X, Y[:, 0]), config)


def test_runs_of_a_large_exponent_arrive_or_diverge(rng):
    X = rng.uniform(-0.3, 0.3, (40, 3))
    y = X @ [0.5, -0.3, 0.2] + rng.uniform(-1, 1, 40)
    config = SweepConfig(
        depths=(1, 2), losses=(Loss(50),), learning_rates=(1e-3, 1e10), num_seeds=1, num_steps=300,
    )  # fmt: skip
    results = run_sweep(Problem.from_arrays(X, y), config)
    excess = results["excess_loss"].to_numpy()
    assert not np.isnan(excess).any()
    stayed = results["divergence_step"].isnull().to_numpy()
    assert np.isfinite(excess[..., -1]).tolist() == stayed.tolist()
    assert stayed[:, 0].all()
    assert not stayed[:, 1].any()
