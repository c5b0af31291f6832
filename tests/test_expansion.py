"""Whether a layer should be over-parameterised: variants, controls, verdicts."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from programs import replaced
from programs import run as program

import implicit_accel as ia
from implicit_accel import expansion
from implicit_accel.expansion import (
    FROM_PRODUCT,
    ORIGINAL,
    Settings,
    scale_where,
    variant_optimizer,
    variant_task,
    verdict_of,
)
from implicit_accel.expansion_plots import plot_expansion
from implicit_accel.experiments.user_task import load_task
from implicit_accel.intervals import Interval
from implicit_accel.results import by_model
from implicit_accel.tasks.loss_task import call

TASK = """
import jax
import jax.numpy as jnp
import numpy as np
import implicit_accel as ia

rng = np.random.default_rng(0)
X = rng.standard_normal((24, 3)).astype(np.float32)
y = (X @ np.array([[1.0], [2.0], [-1.0]]) + 0.1 * rng.standard_normal((24, 1))).astype(np.float32)


def init(key):
    a, b = jax.random.split(key)
    return {"first": 0.5 * jax.random.normal(a, (3, 4)), "last": 0.5 * jax.random.normal(b, (4, 1))}


def loss(params, batch):
    rows, labels = batch
    return jnp.mean((jnp.tanh(rows @ params["first"]) @ params["last"] - labels) ** 2)


task = ia.from_loss(loss, init=init, data=(X, y), name="small")
"""


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(TASK)
    return load_task(f"{path}:task")[1]


def start(task, variant, seed=3) -> Any:
    hp = {"variant": variant}
    return call(task.init, key=jax.random.key(seed), hp=hp)


@pytest.mark.parametrize("init", ["balanced", "identity", "gaussian", "product"])
def test_variants_start_where_they_should(task, init):
    settings = Settings("first", (2, 3), init=init)
    varied = variant_task(task, settings, 100)
    batch = task.data
    original = float(task.loss(start(task, ORIGINAL), batch))
    assert float(varied.loss(start(varied, ORIGINAL), batch)) == original
    assert float(varied.loss(start(varied, "warm-up of 2 steps"), batch)) == original
    deep = start(varied, "depth 2")
    assert len(deep["first"].factors) == 2
    assert isinstance(deep["last"], jax.Array)
    if init in ("balanced", "identity"):
        assert float(varied.loss(deep, batch)) == pytest.approx(original, rel=1e-5)
        assert not any(FROM_PRODUCT in name for name in settings.controls(100))
    else:
        # The control is the original's structure, at the product's weights.
        control = start(varied, f"{FROM_PRODUCT} of depth 2")
        np.testing.assert_array_equal(control["first"], ia.collapse(deep)["first"])
        assert float(varied.loss(control, batch)) != pytest.approx(original, rel=1e-5)


def test_controls_change_learning_rates_and_nothing_else():
    """Against updates by hand: a warm-up of 5 steps, and a quarter of the layer's rate."""
    settings = Settings("first")
    make = variant_optimizer(ia.Optimizer("sgd"), settings, 50)
    names = list(settings.controls(50))
    assert names[:2] == ["warm-up of 2 steps", "warm-up of 5 steps"]  # 0.5 and 2 % are two steps
    gradients = {"first": jnp.ones((3, 4)), "last": jnp.full((4, 1), 2.0)}
    updates: Any
    for name, steps, factor in (
        (ORIGINAL, 1, 1), ("depth 2", 1, 1), (names[1], 5, 1), ("layer's rate × 1/4", 1, 0.25),
        ("layer's rate × 16", 1, 16),
    ):  # fmt: skip
        optimizer = make({"variant": name, "learning_rate": 0.1})
        state = optimizer.init(gradients)
        for step in range(7):
            updates, state = optimizer.update(gradients, state, gradients)
            rate = 0.1 * min(1, (step + 1) / steps)
            np.testing.assert_allclose(updates["first"], -rate * factor, rtol=1e-6)
            np.testing.assert_allclose(updates["last"], -2 * rate, rtol=1e-6)


def test_a_layer_s_own_rate_goes_by_its_path():
    scaled = scale_where(r"b\.\d", 3.0)
    updates: Any
    updates, _ = scaled.update({"a": jnp.ones(2), "b": [jnp.ones(2), jnp.ones(1)]}, ())
    np.testing.assert_array_equal(updates["a"], 1)
    np.testing.assert_array_equal(updates["b"][1], 3)


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95)


@pytest.mark.parametrize(
    ("over_original", "over_control", "verdict"),
    [
        ([(1.2, 1.4), (1.1, 1.9)], [(1.05, 1.2), (1.01, 1.3)], "gain"),
        ([(1.2, 1.4), (1.1, 1.9)], [(1.05, 1.2), (0.9, 1.3)], "none"),
        ([(1.2, 1.4), (0.9, 1.9)], [(1.05, 1.2), (1.1, 1.3)], "undecided"),
        ([(0.95, 1.05), (0.93, 1.08)], [(0.9, 1), (0.9, 1)], "none"),
        ([(0.3, 0.5), (0.2, 0.99)], [(0.3, 0.5), (0.2, 0.5)], "slower"),
        ([(0.3, 0.5), (math.nan, math.nan)], [(0.3, 0.5), (0.2, 0.5)], "undecided"),
    ],
)
def test_verdicts_of_planted_speed_ups(over_original, over_control, verdict):
    pairs = ([interval(*ends) for ends in all_ends] for all_ends in (over_original, over_control))
    assert verdict_of(*pairs) == verdict


def test_a_control_that_is_as_fast_removes_a_gain():
    """Planted steps: depth 2 needs half of the original's, a warm-up as many as depth 2."""
    settings = Settings("first")
    controls = list(settings.controls(1000))
    steps = dict.fromkeys([ORIGINAL, *controls], 100.0) | {"depth 2": 50.0, controls[1]: 50.0}

    def compared(base, variant):
        value = steps[base] / steps[variant]
        return Interval(value, 0.97 * value, 1.03 * value, 0.95)

    (answer,) = expansion._conclude("sgd", settings, 1000, [compared] * 2, {"depth 2": 1.3})
    assert (answer.verdict, answer.removed_by, answer.instead) == ("none", *[controls[1]] * 2)
    assert "none" in answer.sentences
    assert f"Instead: {controls[1]}" in answer.sentences
    assert "1.30× the time" in answer.sentences
    steps[controls[1]] = 80.0
    (answer,) = expansion._conclude("sgd", settings, 1000, [compared] * 2, {})
    assert answer.verdict == "gain"
    assert "every control needs more steps" in answer.sentences
    # A step that costs more than the gain in steps is worth undoes it.
    (answer,) = expansion._conclude("sgd", settings, 1000, [compared] * 2, {"depth 2": 1.9})
    assert answer.verdict == "gain"
    assert answer.speed_up_in_time[0].value == pytest.approx(2 / 1.9)
    (answer,) = expansion._conclude("sgd", settings, 1000, [compared] * 2, {"depth 2": 2.5})
    assert (answer.verdict, answer.removed_by) == ("none", expansion.EQUAL_TIME)
    assert "0.80×" in answer.sentences
    steps["depth 2"] = 200.0
    (answer,) = expansion._conclude("sgd", settings, 1000, [compared] * 2, {})
    assert answer.verdict == "slower"


def test_a_control_that_never_gets_there_removes_no_gain(task):
    """Planted steps, in results of real runs: what does not reach the target decides nothing."""
    settings = Settings("first")
    controls = list(settings.controls(60))
    results = by_model(ia.sweep(
        variant_task(task, settings, 60), num_steps=60, target=0.5,
        axes={"variant": ia.static(ORIGINAL, "depth 2", *controls), "learning_rate": [0.05, 0.1],
              "seed": [0, 1]},
        optimizer=variant_optimizer(ia.Optimizer("sgd"), settings, 60),
    ))  # fmt: skip
    names = results["variant"].values.tolist()

    def answer_of(**planted):
        steps = dict.fromkeys(names, 20.0) | {"depth 2": 5.0, controls[0]: math.inf}
        steps |= {name.replace("_", " "): value for name, value in planted.items()}
        shape = results["steps_to_target"].shape
        every = np.broadcast_to(np.array([steps[n] for n in names])[:, None, None], shape)
        own = results.assign(steps_to_target=(results["steps_to_target"].dims, every))
        found = expansion._speed_ups(own)
        return expansion._conclude("sgd", settings, 60, [found] * 2, {})[0]

    answer = answer_of()
    assert answer.verdict == "gain"
    assert [i.value for i in answer.speed_up] == [4, 4]
    # Nor does the original in its 60 steps, which bound its speed.
    answer = answer_of(original=math.inf)
    assert answer.verdict == "gain"
    assert all(i.value == math.inf and i.low > 1 for i in answer.speed_up)
    assert "at least" in answer.sentences
    answer = answer_of(depth_2=math.inf)
    assert answer.verdict == "slower"
    assert "at most" in answer.sentences
    # Nothing is known if neither does.
    answer = answer_of(original=math.inf, depth_2=math.inf)
    assert answer.verdict == "undecided"
    assert "does not reach" in answer.sentences


def test_a_report_s_steps_are_those_of_runs_by_hand(task, tmp_path):
    make = partial(
        ia.expand_report, task, "first", num_steps=60, num_seeds=2, tolerance=0.5, target=0.5,
        folder=tmp_path,
    )  # fmt: skip
    report = make()
    assert report.paths == ("first",)
    assert report.num_comparisons == 2 * (1 + 6)
    table = report.table.set_index(["half", "variant"])
    row: Any = table.loc[(2, "depth 2")]
    rate, steps, cost = (float(row[c]) for c in ("learning_rate", "steps", "cost"))
    assert cost > 0
    # The second half of the rows, by seeds of its own, in a loop.
    order = np.random.default_rng(0).permutation(24)
    own = np.sort(order[1::2])
    data = jax.tree.map(lambda a: a[own], task.data)
    reached = []
    for seed in (2, 3):
        params = task.init(ia.run_key(seed, "init"))
        U, s, Vt = np.linalg.svd(np.asarray(params["first"]), full_matrices=False)
        A, B, v = U * np.sqrt(s), np.sqrt(s)[:, None] * Vt, params["last"]
        weights = (jnp.asarray(A), jnp.asarray(B), v)

        def loss(w):
            return task.loss({"first": w[0] @ w[1], "last": w[2]}, data)

        for step in range(61):
            value, slope = jax.value_and_grad(loss)(weights)
            if value <= 0.5:
                reached.append(step)
                break
            weights = jax.tree.map(lambda w, g: w - rate * g, weights, slope)
    assert steps == np.median(reached)
    assert np.isfinite(row["held_out_loss"])
    pd.testing.assert_frame_equal(make().table, report.table)  # with the costs, which are kept
    (tmp_path / "sgd-half1" / "costs.json").write_text('{"depth 2": "fast"}')
    with pytest.raises(ia.UserError, match="costs of steps; remove it"):
        make()
    assert len(plot_expansion(report, title="small").axes) == 2


@pytest.mark.nightly
def test_targets_are_the_original_s_loss_halfway(task):
    report = ia.expand_report(task, "last", num_steps=20, num_seeds=1, tolerance=0.5, halves=False)
    targets = report.table["target"].to_numpy(float)
    assert len(set(targets)) == 2  # other seeds
    assert targets.max() < 2
    assert {a.verdict for a in report.answers} <= {"gain", "none", "slower", "undecided"}


def test_what_cannot_be_reported_is_explained(task):
    with pytest.raises(ia.UserError, match="matches none"):
        ia.expand_report(task, "nothing", num_steps=5)
    with pytest.raises(ia.UserError, match="each once"):
        ia.expand_report(task, "first", num_steps=5, depths=(2, 2))
    with pytest.raises(ia.UserError, match="num_seeds"):
        ia.expand_report(task, "first", num_steps=5, num_seeds=0)
    flat = ia.from_loss(
        lambda p, b: jnp.sum(p["w"] * 0) + jnp.mean(b), init=lambda: {"w": jnp.ones((2, 2))},
        data=np.ones(8, np.float32), name="flat",
    )  # fmt: skip
    with pytest.raises(ia.UserError, match="does not fall"):
        ia.expand_report(flat, "w", num_steps=5, num_seeds=1)
    few = ia.from_loss(task.loss, init=task.init, data=jax.tree.map(lambda a: a[:2], task.data))
    with pytest.raises(ia.UserError, match="no halves"):
        ia.expand_report(few, "first", num_steps=5)


def test_the_command_answers_and_refuses(tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text(TASK)
    # A target that is reached at once: the search for rates ends soon.
    flags = ["--task", f"{file}:task", "--where", "first", "--num_steps", "30", "--num_seeds", "1",
             "--target", "4", "--output_dir", str(tmp_path / "o"), "--formats", "png"]  # fmt: skip
    result = program("expand", *flags)
    assert result.returncode == 0, result.stderr
    assert "→ depth 2, sgd: " in result.stdout
    written = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"answer.txt", "expand.csv", "expand.png"} <= written
    for change, message in (
        (["--where", "x"], "matches none of the parameters: first, last"),
        (["--depths", "two"], "write whole numbers like 2,3"),
        (["--num_steps", "0"], "--num_steps"),
        (["--init", "zero"], "init"),
    ):
        bad = program("expand", *replaced(flags, *change))
        assert bad.returncode == 2
        assert message in bad.stderr
        assert len(bad.stderr.strip().splitlines()) == 1


@pytest.mark.nightly
def test_models_with_functions_in_them_are_reported(rng):
    eqx: Any = pytest.importorskip("equinox")
    X = rng.standard_normal((16, 3)).astype(np.float32)

    def loss(model, batch):
        return jnp.mean((jax.vmap(model)(batch)[:, 0] - batch.sum(axis=1)) ** 2)

    task = ia.from_loss(
        loss, init=lambda key: eqx.nn.MLP(3, 1, 4, 1, key=key), data=X, optimum=0.0, name="module"
    )
    report = ia.expand_report(
        task, r"layers\.0\.weight", num_steps=10, num_seeds=1, tolerance=0.5, target=1e-9
    )
    assert report.paths == ("layers.0.weight",)
    # The target is out of reach: that is no answer.
    (answer,) = report.answers
    assert answer.verdict == "undecided"
    assert "does not reach the target" in answer.sentences
    controls = [r for r in report.table.to_dict("records") if "warm-up" in str(r["variant"])]
    assert all(math.isnan(float(r["cost"])) for r in controls)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": ()}, "give one or more"),
        ({"optimizers": ("sgd", "sgd")}, "each name once"),
        ({"num_steps": "20"}, "num_steps"),
        ({"depths": 3}, "depths"),
        ({"depths": (1,)}, "2 or more"),
        ({"tolerance": "x"}, "tolerance"),
        ({"task": None}, "from_loss"),
    ],
)
def test_arguments_of_another_kind_are_explained(task, arguments, message):
    given: Any = {"task": task, "where": "first", "num_steps": 5} | arguments
    with pytest.raises(ia.UserError, match=message):
        ia.expand_report(**given)
