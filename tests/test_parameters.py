"""The parameters that a sweep returns, what it cost, and targets by any metric."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import param

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.files import seal
from implicit_accel.store.folder import RunFolder

RNG = np.random.default_rng(5)
X = RNG.standard_normal((16, 3))
Y = X @ [1.0, -1.0, 0.5] + 0.3 * RNG.standard_normal(16)
RATES, SEEDS, MOMENTUM = (0.05, 0.6, 2.5), (0, 1), 0.95


def init(seed):
    return {
        "w": np.random.default_rng(seed).standard_normal(3), "mask": np.array([True, False, True])
    }  # fmt: skip


def mse(params, batch):
    rows, labels = batch
    return jnp.mean((rows @ jnp.where(params["mask"], params["w"], 0.0) - labels) ** 2)


TASK = ia.from_loss(mse, init=init, data=(X, Y))


def train(task=TASK, **changes: Any):
    given: dict[str, Any] = {
        "axes": {"learning_rate": RATES, "seed": SEEDS}, "num_steps": 30, "precision": "float64",
        "optimizer": lambda hp: optax.sgd(hp["learning_rate"], momentum=MOMENTUM),
    }  # fmt: skip
    return ia.sweep(task, **(given | changes))


def loss_of(w):
    return np.mean((X @ (w * [1, 0, 1]) - Y) ** 2)


def follow(rate, seed, num_steps):
    """The parameters before each step of gradient descent with momentum, and their losses."""
    w, velocity, path = init(seed)["w"], np.zeros(3), []
    for _ in range(num_steps + 1):
        path.append(w)
        kept = np.array([1, 0, 1])
        velocity = MOMENTUM * velocity + 2 * kept * (X.T @ (X @ (w * kept) - Y)) / len(Y)
        w = w - rate * velocity
    return np.array(path), np.array([loss_of(w) for w in path])


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A run that keeps its best parameters; it is given more steps, then more seeds."""
    folder = tmp_path_factory.mktemp("run") / "best"
    short = train(keep="best", folder=folder, num_steps=19)
    train(keep="best", folder=folder)
    return folder, short


def test_best_and_final_parameters_are_those_of_a_loop(extended):
    folder, short = extended
    chosen = {19: set(), 30: set()}
    for num_steps, runs in ((19, short), (30, train(keep="best", folder=folder))):
        steps = runs["step"].values
        assert len(steps) == num_steps + 1  # all are recorded
        best = runs.ia.params()
        assert best["w"].shape == (3, 2, 3)
        for r, rate in enumerate(RATES):
            for s, seed in enumerate(SEEDS):
                path, losses = follow(rate, seed, num_steps)
                where = int(np.argmin(losses))
                chosen[num_steps].add((r, where))
                np.testing.assert_allclose(best["w"][r, s], path[where], rtol=1e-9)
                assert loss_of(best["w"][r, s]) == pytest.approx(float(runs.loss[r, s].min()))
    # Momentum overshoots. What was best at the last step stays the best of the longer run.
    assert (1, 19) in chosen[19] & chosen[30]
    assert (0, 14) in chosen[19] & chosen[30]
    # At the largest rate all runs diverge.
    diverged = np.isfinite(runs["divergence_step"].values)
    assert diverged[2].all()
    assert not diverged[:2].any()
    last = train(keep="final", folder=folder)
    np.testing.assert_array_equal(np.isnan(last.ia.params()["w"]).all(axis=-1), diverged)
    one = last.ia.params(seed=1, learning_rate=runs.learning_rate.values[0])
    np.testing.assert_allclose(one["w"], follow(RATES[0], 1, 30)[0][-1], rtol=1e-9)
    np.testing.assert_array_equal(one["mask"], [True, False, True])
    assert last.ia.params(seed=0)["mask"].shape == (3, 3)
    assert last.ia.timing.run_steps == 0  # it was there


def test_parameters_have_the_same_bits_after_extension(extended):
    folder, _ = extended
    axes = {"learning_rate": RATES, "seed": (*SEEDS, 2, 3)}
    more, whole = train(keep="best", folder=folder, axes=axes), train(keep="best", axes=axes)
    assert more.ia.params()["w"].tobytes() == whole.ia.params()["w"].tobytes()
    assert more.identical(whole)
    assert whole.ia.timing.run_steps == 12 * 30
    assert whole.ia.timing.run_steps_per_second > 0
    # Without the parameters, and some of the runs in another order, nothing is trained.
    calls = []
    few = {"seed": (3, 1), "learning_rate": RATES[:2]}
    some = train(folder=folder, axes=few, progress=lambda *done: calls.append(done), keep="best")
    assert not calls
    expected = whole.ia.params()["w"][:2][:, [3, 1]].transpose(1, 0, 2)
    assert some.ia.params()["w"].tobytes() == np.ascontiguousarray(expected).tobytes()
    plain = train(folder=folder, axes=axes)
    assert plain.identical(more)


def test_final_parameters_need_no_other_training(tmp_path):
    runs = train(folder=tmp_path / "run")
    kept = train(folder=tmp_path / "run", keep="final")
    assert kept.identical(runs)
    in_memory = train(keep="final")
    assert in_memory.ia.params()["w"].tobytes() == kept.ia.params()["w"].tobytes()
    alone = train(axes={"learning_rate": RATES[1:2], "seed": [1]}, keep="final")
    alone, found = (r.ia.params(learning_rate=RATES[1], seed=1) for r in (alone, in_memory))
    np.testing.assert_allclose(found["w"], alone["w"], rtol=1e-12)
    with pytest.raises(ia.UserError, match="best_params: None there, loss here"):
        train(folder=tmp_path / "run", keep="best")
    # Files that are not whole, are no parameters of this run, or are gone.
    place = RunFolder(tmp_path / "run")
    files = sorted(place.checkpoints.glob("*.npz"))
    forge(files[0])
    with pytest.raises(ia.UserError, match="cannot be read from its checkpoints"):
        train(folder=tmp_path / "run", keep="final")
    assert train(folder=tmp_path / "run").identical(runs)
    place.remove_checkpoints()
    with pytest.raises(ia.UserError, match="train it again"):
        train(folder=tmp_path / "run", keep="final")


def forge(path: Path) -> None:
    """Gives a chunk parameters of another shape, under a right checksum."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays["leaf_0"] = arrays["leaf_0"][..., :1]
    for old in path.parent.glob(f"{path.name.split('.')[0]}.*.npz"):
        np.savez(old, **arrays)  # pyright: ignore[reportArgumentType]
        seal(old)


def classifier(**options: Any):
    """Logistic regression that returns its accuracy beside the loss."""

    def loss(params, batch):
        rows, labels = batch
        margins = (rows @ params + options.get("offset", 0.0)) * labels
        return jnp.mean(jnp.log1p(jnp.exp(-margins))), {"accuracy": jnp.mean(margins > 0)}

    labels = np.where(Y > 0, 1.0, -1.0)
    return ia.from_loss(
        loss, init=lambda key: 0.5 * jax.random.normal(key, (3,)), data=(X, labels), has_aux=True
    )


ACCURACY = ia.Metric("accuracy", target=0.9, best=1)


@pytest.mark.parametrize("batch_size", [param(None), 4])
def test_runs_are_judged_by_the_metric_of_the_target(batch_size, tmp_path):
    options: dict[str, Any] = {
        "axes": {"learning_rate": (0.02, 0.5), "seed": range(3)}, "num_steps": 24,
        "optimizer": ia.Optimizer("sgd"), "batch_size": batch_size,
        "records_per_decade": 150 if batch_size else 8,
    }  # fmt: skip
    plain = train(classifier(), **options)
    assert plain.accuracy.dims[-1] == "step"
    runs = train(classifier(), target=ACCURACY, keep="best", **options)
    labels = np.where(Y > 0, 1.0, -1.0)
    accuracy, steps = plain.accuracy.values, plain.step.values
    reached = np.full(accuracy.shape[:2], np.inf)
    for run in np.ndindex(*reached.shape):
        at = np.flatnonzero(accuracy[run] >= 0.9)
        reached[run] = steps[at[0]] if len(at) else np.inf
    np.testing.assert_array_equal(runs.steps_to_target, reached)
    np.testing.assert_allclose(runs.excess_loss, 1 - accuracy, atol=1e-12)
    assert ia.summarise(runs)["target"].item() == pytest.approx(0.1, abs=1e-5)
    # The best parameters are those of the first step with the largest accuracy.
    best = runs.ia.params()
    own = np.mean((best @ X.T) * labels > 0, axis=-1)
    np.testing.assert_allclose(own, accuracy.max(axis=-1))
    judged = ia.Metric("accuracy", target=0.9, best=1).judge(plain)
    np.testing.assert_array_equal(judged.steps_to_target, reached)
    # A run by a target of the loss is judged without training, and extended with that target.
    options["folder"] = tmp_path / "run"
    stored = train(classifier(), target=0.5, **options)
    unmoved = train(
        classifier(), target=ACCURACY, progress=lambda *_: pytest.fail("trained"), **options
    )
    np.testing.assert_array_equal(unmoved.steps_to_target, reached)
    options["axes"] = {"learning_rate": (0.02, 0.5), "seed": range(6)}
    train(classifier(), target=ACCURACY, **options)
    whole = train(classifier(), target=0.5, **options)
    options |= {"axes": {"learning_rate": (0.02, 0.5), "seed": (3, 4, 5)}, "folder": None}
    others = train(classifier(), target=0.5, **options)
    for part in (stored, others):
        np.testing.assert_array_equal(
            whole.steps_to_target.sel(seed=part.seed), part.steps_to_target
        )


def test_rates_are_searched_for_by_the_metric_of_the_target(tmp_path):
    """The metric's target is reached at step ⌈1/rate⌉, whatever the loss does."""
    task = ia.from_loss(lambda w, _: jnp.sum(w**2), init=lambda: jnp.ones(1), data=np.zeros(1))

    def progress(point):
        return jnp.minimum(point.step * point.hyper["learning_rate"], 1.0)

    runs = ia.sweep(
        task, axes={"learning_rate": ia.auto(tolerance=0.2, first=(0.01, 0.1))},
        optimizer=optax.sgd(0.0), record={"progress": progress}, record_every=1, num_steps=60,
        target=ia.Metric("progress", target=0.999, best=1), keep="final", folder=tmp_path / "run",
    )  # fmt: skip
    steps = runs.steps_to_target.values
    rates = runs.learning_rate.values
    np.testing.assert_array_equal(
        steps, np.where(np.ceil(0.999 / rates) <= 60, np.ceil(0.999 / rates), np.inf)
    )
    assert steps.min() == 1
    assert runs.ia.params(learning_rate=0.1).tolist() == [1.0]
    assert runs.ia.timing.run_steps == len(rates) * 60
    # The folder keeps the losses.
    assert "progress" in ia.load_run(tmp_path / "run")
    np.testing.assert_array_equal(ia.load_run(tmp_path / "run").loss, 1.0)


def test_a_metric_that_does_not_fit_loses_no_results():
    options: dict[str, Any] = {"num_steps": 2, "optimizer": ia.Optimizer("sgd")}
    with pytest.warns(UserWarning, match="all runs are at the target 0.9 before training"):
        runs = train(classifier(), target=ia.Metric("accuracy", 0.9, best=0.0), **options)
    assert runs.loss.shape == (3, 2, 3)
    with pytest.raises(ia.UserError, match="'depth' is not recorded; there is accuracy"):
        train(classifier(), target=ia.Metric("depth", 0.9, best=1), **options)


def test_parameters_of_several_shapes_are_returned_one_by_one():
    task = ia.from_loss(
        lambda p, _: jnp.sum(p["f"](p["w"]) ** 2),
        init=lambda hp: {
            "w": jnp.ones(hp["width"]), "f": {"same": abs, "other": jnp.square}[hp["function"]]
        },
        data=np.zeros(1),
    )  # fmt: skip
    runs = ia.sweep(
        task, axes={"width": ia.static(1, 2), "function": ("same", "other"), "rate": (0.25, 0.125)},
        optimizer=lambda hp: optax.sgd(hp["rate"]), num_steps=1, keep="final",
    )  # fmt: skip
    found = runs.ia.params(width=2, function="same")
    assert found["f"] is abs
    np.testing.assert_allclose(found["w"], [[0.5, 0.5], [0.75, 0.75]])  # w − 2 η w
    np.testing.assert_allclose(runs.ia.params(width=1, function="other", rate=0.125)["w"], [0.5])
    with pytest.raises(ia.UserError, match="along width; give a value"):
        runs.ia.params(function="same")
    with pytest.raises(ia.UserError, match="along function; give a value"):
        runs.ia.params(width=1, rate=0.25)
    with pytest.raises(ia.UserError, match="no run has width = 3; there is 1, 2"):
        runs.ia.params(width=3)
    with pytest.raises(ia.UserError, match="depth is no axis; there is width, function, rate"):
        runs.ia.params(depth=3)
    with pytest.raises(ia.UserError, match="ask the dataset that sweep"):
        runs.isel(rate=0).ia.params()
    with pytest.raises(ia.UserError, match="not the dataset that sweep"):
        _ = runs.isel(rate=0).ia.timing


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": "last"}, "choose from final, best, or None"),
        ({"keep": "final", "memory_limit": 100}, "take 144 bytes, above memory_limit 100"),
        ({"target": {"accuracy": 0.95}}, r"ia\.Metric\('accuracy', target=0\.95, best=1\)"),
        ({"target": ia.Metric("accuracy", 0.9, 1)}, "not recorded; there is none"),
    ],
)
def test_what_cannot_be_kept_or_judged_is_refused_before_training(changes, words):
    with pytest.raises(ia.UserError, match=words):
        train(progress=lambda *_: pytest.fail("trained"), **changes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("accuracy", 1, 1.0), "must differ"),
        (("accuracy", "0.9", 1), "target must be a finite number"),
        (("accuracy", 0.9, float("inf")), "best must be a finite number"),
        (("", 0.9, 1), "give the name"),
    ],
)
def test_a_metric_has_two_different_numbers(values, words):
    with pytest.raises(ia.UserError, match=words):
        ia.Metric(*values)


def test_experiments_without_parameters_of_a_user_keep_none():
    rng = np.random.default_rng(0)
    problem = linear.Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))
    config = linear.SweepConfig(depths=(1,), learning_rates=(0.01,), num_seeds=1, num_steps=5)
    runs = linear.run_sweep(problem, config)
    timing = runs.ia.timing
    assert runs.ia.timing == timing
    assert timing.run_steps == 5 * runs.sizes["model"]
    with pytest.raises(ia.UserError, match="none were kept"):
        runs.ia.params()
