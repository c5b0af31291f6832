"""W6: one sweep of a given size in a fresh process, its time and its peak memory as JSON.

``python -m benchmarks.growth`` is called by `benchmarks.run` with a JSON description.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main() -> None:
    """Argument: {"p", "rows", "configurations", "steps", "hidden", "memory_limit"}."""
    case = json.loads(sys.argv[1])
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    import numpy as np

    from implicit_accel.linear import Loss, SweepConfig, gas_like, make_problem, run_sweep

    count = case["configurations"]
    num_rates = max(r for r in range(1, 101) if count % r == 0)
    hidden = case["hidden"]
    problem = make_problem(gas_like(num_rows=case["rows"]))
    config = SweepConfig(
        depths=(len(hidden) + 1,),
        hidden_widths=(hidden[0] if hidden else 1,),
        inits=("pytorch",),
        losses=(Loss(case["p"]),),
        learning_rates=tuple(np.geomspace(1e-6, 1e-4, num_rates + 1)[1:].tolist()),
        num_seeds=count // num_rates,
        num_steps=case["steps"],
        records_per_decade=case.get("records_per_decade", 20),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    timing = run_sweep(problem, config, memory_limit=case.get("memory_limit")).ia.timing
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": timing.train_seconds,
                "compile_seconds": timing.compile_seconds,
                "chunks": timing.num_chunks,
                "per_configuration_step": timing.train_seconds / timing.run_steps,
                "peak_bytes": peak,
                "bytes_before": before,
            }
        )
    )


if __name__ == "__main__":
    main()
