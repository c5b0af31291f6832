"""W8: ℓ4 on Abalone's 4,177 rows and 10 features, as a form in monomials and on the rows.

    python -m benchmarks.forms rows abalone.npz

One contender in a process of its own: a first sweep to compile, then the timed ones.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

from implicit_accel import use_cpu_devices
from implicit_accel.linear import Loss, Problem, SweepConfig, run_sweep
from implicit_accel.linear.objectives import Moments

FORMS = ("moments", "rows")
NUM_STEPS, SWEEPS = 3_000, 3


def main() -> None:
    """Arguments: the form, and the data. Prints seconds and steps to the target as JSON."""
    form, path = sys.argv[1:]
    use_cpu_devices()
    if form == "rows":
        Moments.pays = classmethod(lambda *_, **__: False)  # pyright: ignore[reportAttributeAccessIssue]
    data = np.load(path)
    problem = Problem.from_arrays(data["features"], data["targets"])
    config = SweepConfig(
        losses=(Loss(4),), depths=(1, 2, 3), learning_rates=tuple(np.geomspace(1e-4, 3e-2, 24)),
        num_seeds=16, num_steps=NUM_STEPS,
    )  # fmt: skip
    seconds, reached = [], np.zeros(0)
    for _ in range(1 + SWEEPS):
        began = time.perf_counter()
        results = run_sweep(problem, config)
        seconds.append(time.perf_counter() - began)
        reached = np.isfinite(results["steps_to_target"].values).mean(axis=(1, 2))
    print(json.dumps({"warm": statistics.median(seconds[1:]), "reached": reached.tolist()}))


if __name__ == "__main__":
    main()
