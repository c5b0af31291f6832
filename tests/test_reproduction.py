"""The reproduction: that its experiments measure what they say, and that the program runs."""

import json
import re
import threading
import time

import jax
import numpy as np
import pytest
import xarray as xr
from oracles import loss_and_gradient
from pages import read_page
from programs import expect_usage_error, replaced, run
from test_statistics import INF, made

from implicit_accel import Optimizer
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.published import f3, rules, student, very_deep
from implicit_accel.data.problems import make_problem
from implicit_accel.devices import num_cores
from implicit_accel.errors import DataError
from implicit_accel.linear import (
    Initialiser,
    Layers,
    Loss,
    Problem,
    SweepConfig,
    gas_like,
    run_sweep,
)
from implicit_accel.linear.sweep import train
from implicit_accel.store.folder import RunFolder
from implicit_accel.theory.balance import balancedness

IDS = [
    *("P0", "P1", "P2", "P3a", "P3b", "P4a", "P4b", "P5a", "P5b", "P6", "P7", "P8"),
    *("F1", "F2", "F3", "F4", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "R1"),
    *("C1", "N1", "M1", "H1"),
    *(f"T{number}" for number in range(1, 14) if number != 10),
]


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Without any data but the stand-ins."""
    monkeypatch.delenv("IMPLICIT_ACCEL_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Context(Scale.SMOKE, tmp_path / "X", tmp_path, data_dir=str(tmp_path))


def test_every_claim_is_there_once_and_says_how_it_is_judged():
    claims = load_collection().claims
    assert [c.id for c in claims] == IDS
    assert all(claim.checks for claim in claims)


def decaying(*speeds: float, steps: int = 1000) -> xr.Dataset:
    """Two models whose excess losses halve after these numbers of steps, two rates, three seeds."""
    step = np.arange(steps + 1)
    curves = np.stack([[[0.5 ** (step / s)] * 3, [0.5 ** (step / (4 * s))] * 3] for s in speeds])
    results = made(np.full((2, 2, 3), INF), curves[..., -1])
    results = results.drop_vars(["loss", "excess_loss", "step"])
    axes = ("model", "learning_rate", "seed", "step")
    return results.assign(
        excess_loss=(axes, curves), loss=(axes, curves), zero_loss=("model", [2.0, 2.0]),
        step=step,
    )  # fmt: skip


def test_speed_ups_where_the_target_is_reached_and_where_it_is_not():
    # Both reach 10 % of 1: the ratio of half-lives.
    effect = student.speed_up_to_common(decaying(200, 50), 1, 0)
    assert effect.value == pytest.approx(4, rel=0.02)
    # 1000 steps at half-lives of 2000 and 500 reach 71 % and 25 %: 71 % is what both reach.
    effect = student.speed_up_to_common(decaying(2000, 500), 1, 0)
    assert effect.value == pytest.approx(4, rel=0.02)
    assert "to 0.707" in effect.note
    effect = student.speed_up_to_common(decaying(500, 2000), 1, 0)
    assert effect.value == pytest.approx(0.25, rel=0.02)


def test_the_first_move():
    results = decaying(100, 50, steps=400)
    when, rate = very_deep.first_moves(results, 0)
    # 0.5^(t/100) <= 0.9 from t = 15.2 on.
    assert when.tolist() == [16, 16, 16]
    assert rate == results["learning_rate"].values[0]
    results["excess_loss"] = results["excess_loss"] * 0 + 1
    assert very_deep.first_moves(results, 0)[0].tolist() == [INF] * 3


def test_the_rule_starts_where_the_network_does(context):
    problem = make_problem(gas_like())
    config = SweepConfig(
        depths=(2,), hidden_widths=(3,), losses=(Loss(4),), inits=("balanced",), init_stds=(0.02,),
        learning_rates=(1e-3, 1e-2), num_seeds=2, num_steps=30, precision="float64",
    )  # fmt: skip
    rule = rules.emulated(context, problem, config)
    for i, rate in enumerate(config.learning_rates):
        for seed in range(2):
            start = Initialiser("balanced", 0.02).draw(
                problem.num_features, (3,), 1, bias=False, seed=seed
            )
            w = Layers((start.weights[1] @ start.weights[0],))
            alone = train(
                problem, w, learning_rates=[rate], num_steps=30, loss=Loss(4), precision="float64",
                optimizer=Optimizer("end_to_end", (("depth", 2),)),
            )  # fmt: skip
            expected = alone.excess_loss[0][rule.step.values]
            np.testing.assert_allclose(rule.excess_loss.values[0, i, seed], expected, rtol=1e-10)


def test_balance_along_a_trajectory_against_plain_gradient_descent(context):
    run_ = f3.trajectory(context, "near_zero", 3, 0.1, 0.05)
    problem = make_problem(gas_like(), scaling="whiten")
    layers = Initialiser("near_zero", 0.1).draw(
        problem.num_features, (32, 32), 1, bias=False, seed=1
    )
    X, Y = problem.features, problem.targets
    steps = run_["observation_step"].values
    for t in range(int(steps[-1]) + 1):
        if t in steps:
            imbalance, scale = balancedness(Layers(layers.weights))
            now = run_.sel(seed=1, observation_step=t)
            assert float(now["imbalance"]) == pytest.approx(float(imbalance), rel=2e-3)
            assert float(now["layer_norm"]) == pytest.approx(float(scale), rel=2e-3)
        _, gradient = loss_and_gradient(layers, X, Y, 2, scale=0.5)
        layers = Layers(
            tuple(W - 0.05 * G for W, G in zip(layers.weights, gradient.weights, strict=True))
        )


def test_results_are_reused_and_damage_is_made_good(context):
    problem = Problem.from_arrays(np.eye(3), np.array([1.0, 2.0, 3.0]))
    config = SweepConfig(depths=(1,), learning_rates=(0.1,), num_seeds=1, num_steps=20)
    first = context.sweep(problem, config)
    (path,) = context.folder.glob("*/results.nc")
    other = Context(Scale.SMOKE, context.shared / "Y", context.shared)
    assert other.sweep(problem, config).identical(first)
    assert not other.trained
    path.write_bytes(path.read_bytes()[:-40])
    notes = []
    other.log = notes.append
    assert other.sweep(problem, config).identical(first)
    assert "made again" in notes[0]
    context.sweep(
        problem, SweepConfig(depths=(1,), learning_rates=(0.2,), num_seeds=1, num_steps=20)
    )
    assert len(context.trained) == 2


def test_side_by_side_is_one_after_another(context):
    """The same numbers in the same order, whatever trains where; a report goes from 0 to all."""
    problem = Problem.from_arrays(np.eye(3), np.array([1.0, 2.0, 3.0]))
    configs = [
        SweepConfig(depths=(depth,), learning_rates=(rate, 0.2), num_seeds=3, num_steps=200)
        for depth in (1, 2)
        for rate in (0.05, 0.1, 0.15)
    ]
    done = []
    context.progress = lambda now, total: done.append(now / total)
    together = context.sweeps(problem, configs)
    assert max(done) == pytest.approx(1)
    assert len(context.trained) == len(configs)
    for config, found in zip(configs, together, strict=True):
        alone = run_sweep(problem, config)
        assert set(found["depth"].values.tolist()) == set(config.depths)
        np.testing.assert_allclose(found["excess_loss"], alone["excess_loss"], rtol=1e-5, atol=1e-7)
    again = Context(Scale.SMOKE, context.shared / "Y", context.shared)
    assert all(
        a.identical(b) for a, b in zip(again.sweeps(problem, configs), together, strict=True)
    )
    assert not again.trained


def test_side_by_side_each_has_a_device_and_more_wait(context):
    seen = context.side_by_side([lambda own: own.devices] * 9)
    assert all(len(devices) == 1 for devices in seen)
    assert {d for devices in seen for d in devices} <= set(jax.local_devices())
    context.devices = jax.local_devices()[:1]
    at_once = threading.Semaphore(1)

    def alone(own):
        assert at_once.acquire(blocking=False)
        time.sleep(0.01)
        at_once.release()
        return own.devices

    assert context.side_by_side([alone] * 3) == [(jax.local_devices()[0],)] * 3


def test_side_by_side_one_failure_ends_all(context):
    """The first that fails is told of; the others end at their next report, or never begin."""
    reports, begun = [], []

    def fails(_):
        time.sleep(0.05)
        raise DataError("broken")

    def endless(own):
        begun.append(own)
        while True:
            own.progress(len(reports), 10**9)
            reports.append(own)
            time.sleep(0.001)

    with pytest.raises(DataError, match="broken"):
        context.side_by_side([endless, fails, *[endless] * 20])
    assert reports
    assert len(begun) <= len(jax.local_devices())


@pytest.mark.parametrize("change", ["rows", "arrays", "labels", "split"])
def test_no_problem_is_served_the_results_of_another(context, change):
    """What the data are is part of what results are known by."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 9)), rng.standard_normal(30)
    config = SweepConfig(depths=(1,), learning_rates=(0.1,), num_seeds=1, num_steps=20)
    first, second = {
        "rows": lambda: (Problem.from_arrays(X, y), Problem.from_arrays(X[:, :3], y)),
        "arrays": lambda: (Problem.from_arrays(X, y), Problem.from_arrays(1.5 * X, y)),
        "labels": lambda: (Problem.from_arrays(X, y), Problem.from_arrays(X, y[::-1])),
        "split": lambda: tuple(
            make_problem(gas_like(), held_out_fraction=0.2, split_seed=seed) for seed in (0, 1)
        ),
    }[change]()
    served = [context.sweep(problem, config) for problem in (first, second)]
    assert len(context.trained) == 2
    for problem, results in zip((first, second), served, strict=True):
        assert results.attrs["num_features"] == problem.num_features
        alone = train(
            problem, Initialiser("near_zero", 0.01).draw(
                problem.num_features, (), 1, bias=False, seed=0
            ), learning_rates=[0.1], num_steps=20, loss=Loss(2),
        )  # fmt: skip
        np.testing.assert_allclose(
            results.excess_loss.values[0, 0, 0], alone.excess_loss[0][results.step.values],
            rtol=1e-4,
        )  # fmt: skip


def test_runs_from_other_weights_are_other_results(context):
    problem = Problem.from_arrays(np.eye(2), np.array([1.0, 2.0]))
    config = SweepConfig(depths=(1,), learning_rates=(0.1,), num_seeds=2, num_steps=20)
    weights = np.array([[[0.5, 0.25]], [[1.0, 2.0]]])
    context.sweep(problem, config)
    results = context.sweep(problem, config, initial=weights)
    # Half the mean squared residual: 1/4 of the sum over two rows of (w - y)².
    np.testing.assert_allclose(
        results.excess_loss.values[0, 0, :, 0], [(0.5**2 + 1.75**2) / 4, 0], atol=1e-6
    )
    assert results.identical(context.sweep(problem, config, initial=weights))
    context.sweep(problem, config, initial=2 * weights)
    assert len(context.trained) == 3


def test_what_cannot_be_reproduced_is_a_usage_error(tmp_path):
    expect_usage_error(run("reproduce", "--claims", "P3b,P9", cwd=tmp_path), "'P9'", "P3b", "S7")
    expect_usage_error(run("reproduce", "--claims", "", cwd=tmp_path), "empty")
    for workers, words in ((0, "positive"), (10_000, "from 1 to")):
        refused = run("reproduce", "--claims", "P7,S4", "--workers", workers, cwd=tmp_path)
        expect_usage_error(refused, "--workers", str(workers), words)
    cache = ["--compilation_cache", __file__]
    refused = run("reproduce", "--claims", "P7,S4", *cache, cwd=tmp_path)
    expect_usage_error(refused, "--compilation_cache", "is no folder")
    assert list(tmp_path.iterdir()) == []


REPRODUCED = ["--claims", "p7,S4", "--scale", "smoke", "--data_dir", "."]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Two claims, by two workers where there are two cores: the working folder and the end."""
    folder = tmp_path_factory.mktemp("reproduced")
    result = run("reproduce", *REPRODUCED, "--workers", min(2, num_cores()), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def effects(folder):
    """Each claim's effects."""
    found = {c: json.loads((folder / c / "finding.json").read_text()) for c in ("P7", "S4")}
    return {c: [effect["value"] for effect in f["finding"]["effects"]] for c, f in found.items()}


@pytest.mark.nightly
def test_one_worker_finds_what_several_find(reproduced, tmp_path):
    cwd, several = reproduced
    alone = run("reproduce", *REPRODUCED, "--workers", 1, "--output_dir", "out", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    for result in (several, alone):
        assert re.search("2 claims in .* min", result.stderr)
    expected, found = effects(cwd / "outputs" / "reproduction-smoke"), effects(tmp_path / "out")
    for claim, numbers in found.items():
        assert numbers
        np.testing.assert_allclose(
            np.array(numbers, float), np.array(expected[claim], float), rtol=1e-3
        )


def test_the_program_reproduces_reuses_and_reports(reproduced):
    cwd, result = reproduced
    arguments = REPRODUCED
    assert "smoke: no verdicts" in result.stdout
    for shown in (result.stdout, result.stderr):
        assert not re.search("as claimed|undecided|opposite|not tested here", shown)
    assert "S4" in result.stdout
    assert "integral" in result.stdout
    folder = cwd / "outputs" / "reproduction-smoke"
    report = (folder / "REPORT.md").read_text()
    assert "stand-in" in report
    assert "smoke: no verdicts" in report
    page = read_page((folder / "report.html").read_text())
    for text in (report, page.text):
        assert not re.search("as claimed|undecided|Opposite to", text)
    for image in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (folder / image).is_file()
    assert page.pictures
    finding = json.loads((folder / "P7" / "finding.json").read_text())
    assert {judged["direction"] for judged in finding["finding"]["verdict"]["parts"]} == {
        "as claimed"
    }
    trained = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nc")}
    assert trained
    with RunFolder(folder).locked():
        expect_usage_error(run("reproduce", *arguments, cwd=cwd), "another process is at work")
    (folder / "P7" / "finding.json").write_text("{")
    left = [folder / ".partial-REPORT-abcd_123.md", folder / "S4" / ".partial-gains-abcd_123.png"]
    left.append(folder / ".sweep-0123456789ab.lock")
    mine = folder / "mine" / ".partial-1"
    mine.parent.mkdir()
    for path in (*left, mine):
        path.touch()
    again = run("reproduce", *arguments, cwd=cwd)
    assert again.returncode == 0, again.stderr
    again_found = json.loads((folder / "P7" / "finding.json").read_text())
    assert again_found | {"seconds": 0} == finding | {"seconds": 0}
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nc")} == trained
    assert (folder / "REPORT.md").read_text().count("## ") == report.count("## ")
    assert not any(path.exists() for path in left)
    assert mine.exists()
    # What cannot be written is named, and what was there stays.
    (folder / "S4" / "gains.png").unlink()
    (folder / "S4" / "gains.png").mkdir()
    refused = run("reproduce", *replaced(arguments, "--claims", "S4"), cwd=cwd)
    assert refused.returncode == 1
    assert "gains.png" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nc")} == trained


def test_the_papers_scale_says_what_it_will_cost_before_it_starts(tmp_path):
    result = run("reproduce", "--scale", "paper", "--claims", "P7", "--estimate", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "hours" in result.stdout
    assert "P7" in result.stdout
    assert list(tmp_path.iterdir()) == []
