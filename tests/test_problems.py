import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel import DataError, UserError
from implicit_accel.linear import Dataset, Loss, Problem, gas_like, make_problem
from implicit_accel.linear.objectives import OBJECTIVES, Collapsed, reduce


def dataset(features, targets, name="made") -> Dataset:
    features, targets = np.asarray(features, float), np.asarray(targets, float)
    targets = targets[:, None] if targets.ndim == 1 else targets
    return Dataset(
        name=name, features=features, targets=targets, source="made for a test", title="Made",
        feature_names=tuple(f"x{i}" for i in range(features.shape[1])),
        target_names=tuple(f"y{i}" for i in range(targets.shape[1])),
    )  # fmt: skip


@pytest.fixture
def made(rng) -> Dataset:
    X = rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4)) + 5
    return dataset(X, X @ [1.0, 2, 3, 4] + rng.standard_normal(50))


def test_standard(made):
    problem = make_problem(made)
    for a in (problem.features, problem.targets):
        np.testing.assert_allclose(a.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(a.std(axis=0), 1, rtol=1e-12)


def test_whiten(made):
    problem = make_problem(made, scaling="whiten")
    n = len(problem.features)
    np.testing.assert_allclose(problem.features.T @ problem.features / n, np.eye(4), atol=1e-10)
    cross = problem.targets.T @ problem.features / n
    assert np.linalg.norm(cross) == pytest.approx(1)
    np.testing.assert_allclose(problem.targets.mean(axis=0), 0, atol=1e-12)


def test_whitening_drops_null_directions(made):
    doubled = dataset(np.hstack([made.features, made.features[:, :2]]), made.targets)
    problem = make_problem(doubled, scaling="whiten")
    assert problem.features.shape == (50, 4)


def test_center(made):
    problem = make_problem(made, scaling="center")
    np.testing.assert_allclose(problem.features, made.features - made.features.mean(axis=0))
    np.testing.assert_allclose(problem.targets, made.targets - made.targets.mean(axis=0))


@given(fraction=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_splits_partition_the_rows(fraction, seed):
    rows = np.arange(40.0)
    made = dataset(np.stack([rows, rows**2], axis=1), rows)
    problem = make_problem(made, scaling="center", held_out_fraction=fraction, split_seed=seed)
    assert problem.held_out_targets is not None
    assert len(problem.held_out_targets) == round(40 * fraction)
    together = np.concatenate([problem.targets, problem.held_out_targets])[:, 0]
    np.testing.assert_allclose(np.sort(together - together.min()), rows, atol=1e-9)


def test_held_out_rows_are_scaled_by_the_training_rows(made):
    whole = make_problem(made, held_out_fraction=0.3, split_seed=4)
    assert whole.held_out_features is not None
    np.testing.assert_allclose(whole.features.mean(axis=0), 0, atol=1e-12)
    assert np.abs(whole.held_out_features.mean(axis=0)).max() > 1e-3
    again = make_problem(made, held_out_fraction=0.3, split_seed=4)
    assert np.array_equal(whole.features, again.features)
    other = make_problem(made, held_out_fraction=0.3, split_seed=5)
    assert not np.array_equal(whole.features, other.features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "minmax"}, "choose from standard, whiten, center"),
        ({"held_out_fraction": 1.0}, "below 1"),
        ({"held_out_fraction": -0.1}, "at least 0"),
        ({"held_out_fraction": float("nan")}, "at least 0"),
        ({"held_out_fraction": 0.99}, "leaves 0|leaves 1"),
        ({"held_out_fraction": 1e-6}, "leaves 50 to train on and 0"),
        ({"held_out_fraction": 0.2, "split_seed": -1}, "split seed"),
    ],
)
def test_bad_settings_are_refused(made, arguments, message):
    with pytest.raises(UserError, match=message):
        make_problem(made, **arguments)


def test_constant_columns_are_named():
    X = np.stack([np.arange(5.0), np.full(5, 0.1)], axis=1)
    with pytest.raises(DataError, match="'x1' is constant"):
        make_problem(dataset(X, np.arange(5.0)))
    make_problem(dataset(X, np.arange(5.0)), scaling="center")
    with pytest.raises(DataError, match="'y0' is constant"):
        make_problem(dataset(X, np.ones(5)), scaling="center")
    with pytest.raises(DataError, match="every feature is constant"):
        make_problem(dataset(np.ones((5, 2)), np.arange(5.0)), scaling="whiten")


def test_own_arrays():
    problem = Problem.from_arrays(np.ones((3, 2)), np.arange(3.0))
    assert problem.targets.shape == (3, 1)
    assert (problem.num_features, problem.num_outputs) == (2, 1)


def test_fingerprints_tell_apart_what_is_trained_on(made):
    """Whatever changes an array, or where the rows end, changes the fingerprint; names do not."""
    X, Y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    edited = X.copy()
    edited[3, 1] += 1e-12
    problems = [
        Problem.from_arrays(X, Y),
        Problem.from_arrays(X[:3], Y[:3]),
        Problem.from_arrays(edited, Y),
        Problem.from_arrays(X, Y + 1),
        Problem.from_arrays(X.T.copy(), Y[:2]),
        *(make_problem(made, scaling=s) for s in ("standard", "whiten", "center")),
        *(make_problem(made, held_out_fraction=0.2, split_seed=s) for s in (0, 1)),
        make_problem(made, held_out_fraction=0.4),
    ]
    fingerprints = [problem.fingerprint for problem in problems]
    assert len(set(fingerprints)) == len(problems)
    assert "" not in fingerprints
    assert Problem.from_arrays(X.copy(), Y.copy(), name="other").fingerprint == fingerprints[0]
    assert make_problem(made, scaling="whiten").fingerprint == fingerprints[6]


def test_a_fingerprint_follows_its_arrays():
    problem = Problem.from_arrays(np.eye(2), np.ones(2))
    before = problem.fingerprint
    problem.targets[0] = 30.0
    assert problem.fingerprint != before


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.ones((3, 2)), np.ones(2), "shapes"),
        (np.ones(3), np.ones(3), "shapes"),
        (np.ones((0, 2)), np.ones((0, 1)), "shapes"),
        (np.ones((3, 0)), np.ones(3), "shapes"),
        (np.full((3, 2), np.nan), np.ones(3), "not finite"),
        (np.ones((3, 2)), np.zeros(3), "every training label is zero"),
    ],
)
def test_bad_arrays_are_refused(X, Y, message):
    with pytest.raises(DataError, match=message):
        Problem.from_arrays(X, Y)


def test_zero_excess_and_kinds():
    problem = make_problem(gas_like())
    for kind in ("spectral", "compressed", "collapsed"):
        reduction = reduce(problem, Loss(2), OBJECTIVES[kind])
        # Standardised labels: predicting zero has loss 1/2, the best map (1 − R²)/2, R² = 0.9.
        assert reduction.data.zero_loss == pytest.approx(0.5)
        assert reduction.zero_excess == pytest.approx(0.45, abs=0.001)
    with pytest.raises(ValueError, match="does not hold for l2 and activation"):
        reduce(problem, Loss(2), Collapsed, activation="relu")
