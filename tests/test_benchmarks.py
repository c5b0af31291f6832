"""The benchmarks' own arithmetic, and that all contenders do the same work."""

import jax
import numpy as np
import pytest

from benchmarks.contenders import _jax_step, ours
from benchmarks.run import against_limits, fit_cost, spread
from benchmarks.workloads import WORKLOADS, Workload, initial_weights
from implicit_accel import Optimizer
from implicit_accel.linear import Layers, Loss, Problem, train


def test_the_cost_model_finds_planted_constants():
    def case(rows, configurations=1000, steps=600):
        per_step = 2e-7 + 3e-9 * rows
        return {
            "rows": rows, "configurations": configurations, "steps": steps,
            "per_configuration_step": per_step, "seconds": configurations * steps * per_step,
        }  # fmt: skip

    cost = fit_cost(
        {
            "rows, ℓ4 width 1": [case(n) for n in (500, 1500, 5000)],
            "configurations, ℓ4 width 1": [case(2565, 10), case(2565, 1000, 1000)],
        }
    )
    assert cost["alpha_seconds"] == pytest.approx(2e-7)
    assert cost["beta_seconds_per_row"] == pytest.approx(3e-9)
    assert cost["predicted_seconds"] == pytest.approx(cost["measured_seconds"])


def test_a_run_at_the_limit_has_reached_all_of_it():
    machine = {
        "gemm_w3": 1e11, "gemm_w3_torch": 5e10, "gemm_w4": 1e11, "cache_bandwidth_thin": 1e11,
        "cache_bandwidth_wide": 1e11, "memory_bandwidth": 1e10, "adam_rate": 1e9,
    }  # fmt: skip
    rate = 1e11 / (4 * 2565 * 128)  # two products of 2565 × 128 a step, a product and a sum each
    results = {"W3": {"configuration_steps_per_second": {"e": spread([rate])}}}
    assert against_limits(results, machine)["W3"]["share"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["W3", "W4", "W5-Adam"])
@pytest.mark.parametrize("collapsed", [True, False])
def test_contenders_train_alike(rng, name, collapsed):
    workload = WORKLOADS[name]
    X = rng.standard_normal((40, 6)).astype(np.float32)
    y = rng.standard_normal(40).astype(np.float32)
    weights = [W[0] for W in initial_weights(6, workload.hidden[-1], 1)]
    step = _jax_step(workload, X, y, collapsed=collapsed)
    _, losses = step(weights, np.float32(1e-2), 20)
    result = train(
        Problem.from_arrays(X, y), Layers(tuple(weights)), learning_rates=[1e-2], num_steps=20,
        loss=Loss(workload.p), optimizer=Optimizer(workload.optimizer),
    )  # fmt: skip
    np.testing.assert_allclose(losses, result.loss[0, :20], rtol=2e-4)


def test_our_contender_runs_the_whole_workload(tmp_path, rng, monkeypatch):
    # Within the tests JAX has started already, with this many devices.
    monkeypatch.setattr("benchmarks.contenders.NUM_CORES", jax.local_device_count())
    path = tmp_path / "data.npz"
    np.savez(path, features=rng.standard_normal((40, 6)), targets=rng.standard_normal(40))
    workload = Workload("W", "small", 4, ((), (1,), (1, 1)), 3, 2, "sgd", {"e": 50})
    steps, seconds = ours(workload, path)()
    assert steps == 3 * 3 * 2 * 50
    assert seconds > 0
