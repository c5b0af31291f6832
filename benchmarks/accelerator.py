"""Everything to measure on one accelerator, in one call: ``python -m benchmarks.accelerator``.

Rates of this project's workloads, what launching a step alone allows, the matrix rate at the
workloads' shapes, whether float32 products keep their 24 bits (no TF32), what other algorithms for
them would save and cost, and one run of the paper's length. It runs on a CPU as well, where
``--scale smoke`` tries the path.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import limits
from benchmarks.contenders import ours
from benchmarks.run import prepare_data, spread
from benchmarks.workloads import WORKLOADS
from implicit_accel.experiments import cli
from implicit_accel.files import save_json
from implicit_accel.linear import Initialiser, Loss, Problem, train

_GROUPS = cli.FlagGroups()
_SCALE = flags.DEFINE_enum("scale", "full", ("smoke", "full"), "smoke only tries the path.")
_REPEATS = flags.DEFINE_integer("timings", 3, "Timings of each workload.", lower_bound=1)
_GROUPS.add("Flags", _SCALE, _REPEATS)


def product_error() -> float:
    """Largest relative error of a float32 product on this device, against float64 on the host."""
    import jax

    from implicit_accel.linear.networks import matmul

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 512, 512)).astype(np.float32)
    exact = a.astype(np.float64) @ b
    return float(np.linalg.norm(np.asarray(jax.jit(matmul)(a, b)) - exact) / np.linalg.norm(exact))


# Ways to compute a float32 product: in float32, or as a sum of three or six narrower ones.
_ALGORITHMS = ("F32_F32_F32", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6")


def algorithm(name: str, length: int, blocks: Sequence[int]) -> dict[str, Any]:
    """An algorithm's matrix rate at W3's shapes, and its errors against float64.

    Args:
        name: Of a `jax.lax.DotAlgorithmPreset`.
        length: Steps that are timed together.
        blocks: Numbers of runs to try.

    Returns:
        ``flops``; ``product_error``, of one product; and ``trajectory_error``, the largest relative
        error of the excess losses of ℓ4 on a two-layer network, over 200 steps. Or ``unsupported``.
    """
    import jax

    from implicit_accel.linear import networks

    usual = networks.PRECISION
    networks.PRECISION = getattr(jax.lax.DotAlgorithmPreset, name)
    jax.clear_caches()
    try:
        return {
            "flops": max(limits.gemm_rate(2565, 128, block, length) for block in blocks),
            "product_error": product_error(),
            "trajectory_error": trajectory_error(),
        }
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # what a backend does not have
        return {"unsupported": str(error).partition("\n")[0][:200]}
    finally:
        networks.PRECISION = usual
        jax.clear_caches()


def trajectory_error() -> float:
    """See `algorithm`; at a small rate, at which the loss falls and rounding does not grow."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 20))
    problem = Problem.from_arrays(X, X @ rng.standard_normal(20) + rng.standard_normal(500))
    layers = Initialiser("identity", 0.1).draw(20, (1,), 1, bias=False, seed=0)
    single, exact = (
        train(
            problem, layers, learning_rates=[1e-3], num_steps=200, loss=Loss(4),
            precision=precision, objective="collapsed",
        ).excess_loss
        for precision in ("float32", "float64")
    )  # fmt: skip
    return float(np.max(np.abs(single / exact - 1)))


def main() -> None:
    """Measures, prints, writes accelerator.json."""
    import jax

    folder = Path(str(flags.FLAGS["output_dir"].value))
    folder.mkdir(parents=True, exist_ok=True)
    console = cli.make_console()
    limits.num_devices()
    smoke = _SCALE.value == "smoke"
    report: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "count": jax.local_device_count(),
        "float32_product_error": product_error(),
        "steps_per_second_of_an_empty_loop": limits.loop_rate(2000 if smoke else 20_000),
    }
    blocks = (64,) if smoke else (128, 384, 1152, 4608)
    for name, rows in (("W3", 2565), ("W4", 128)):
        length = 2 if smoke else 50
        rates = [limits.gemm_rate(rows, 128, block, length) for block in blocks]
        report[f"matrix_flops_{name}"] = max(rates)
    report["algorithms"] = {
        name: algorithm(name, 2 if smoke else 50, blocks) for name in _ALGORITHMS
    }
    with tempfile.TemporaryDirectory() as scratch:
        paths, report["data"] = prepare_data(Path(scratch))
        for name, workload in WORKLOADS.items():
            if smoke:
                workload.steps["e"] = 20
            run = ours(workload, paths[0])
            timings = [run() for _ in range(_REPEATS.value)]
            rates = [steps / seconds for steps, seconds in timings]
            report[name] = spread(rates) | {"configurations": workload.num_configurations}
            report[name]["steps_per_second"] = spread(rates)["median"] / workload.num_configurations
        paper = WORKLOADS["W3"]
        paper.steps["e"] = 50 if smoke else 100_000
        steps, seconds = ours(paper, paths[0])()
        report["paper_scale"] = {"configuration_steps": steps, "seconds": seconds}
    save_json(report, folder / "accelerator.json")
    for key, value in report.items():
        console.print(f"{key}: {value}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
