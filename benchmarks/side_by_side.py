"""Several small grids on all devices one after another, at once on a device each, in workers.

    python -m benchmarks.side_by_side
    python -m benchmarks.side_by_side --seeds 20 --repeats 9

The grids are the curves of ℓ4 regression by gradient descent, depths 1, 2, …, at two learning
rates. The first two ways run alternately in one process; then each grid runs as often in a worker
with a core of its own, all at the same time, of which the slowest counts. Median seconds, and the
ratios' medians and quartiles.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.table import Table

import implicit_accel as ia
from benchmarks.run import spread
from implicit_accel import linear
from implicit_accel.claims.context import Context, Scale
from implicit_accel.executors import OnMessage
from implicit_accel.executors.dask import DaskExecutor, local_workers
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

_SEEDS = flags.DEFINE_multi_integer("seeds", [3, 6, 20, 60], "Seeds of a grid.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 4_000, "Steps of a run.", lower_bound=1)
_RATES = (1e-3, 2e-3)


def seconds(configs: list[SweepConfig], *, at_once: bool) -> float:
    """What the grids take, in a folder of their own as claims have one."""
    problem = linear.make_problem(linear.gas_like())
    with tempfile.TemporaryDirectory() as folder:
        lab = Context(Scale.STANDARD, Path(folder) / "X", Path(folder))
        began = time.perf_counter()
        if at_once:
            lab.sweeps(problem, configs)
        else:
            for config in configs:
                lab.sweep(problem, config)
        return time.perf_counter() - began


def repeated(repeats: int, config: SweepConfig, _: OnMessage) -> list[float]:
    """A grid's seconds in a worker, without the first time."""
    return [seconds([config], at_once=False) for _ in range(repeats + 1)][1:]


def seconds_in_workers(configs: list[SweepConfig], repeats: int) -> list[float]:
    """What the slowest of the grids takes, a worker for each, by repeat."""
    with local_workers(len(configs)) as client:
        work = functools.partial(repeated, repeats)
        found = [taken for _, taken in DaskExecutor(client).map(work, configs, lambda *_: None)]
    return [max(taken) for taken in zip(*found, strict=True)]


def main(_: list[str]) -> None:
    """Times the three ways."""
    devices = ia.use_cpu_devices()
    table = Table(
        "runs of a grid", "one after another, s", "at once, s", "in workers, s",
        "at once, times as fast", "in workers, times as fast",
        title=f"{devices} grids of {_STEPS.value:,} steps on {devices} devices",
    )  # fmt: skip
    for seeds in _SEEDS.value:
        configs = [
            SweepConfig(
                depths=(depth,), losses=(Loss(4),), learning_rates=_RATES, num_seeds=seeds,
                num_steps=_STEPS.value,
            )
            for depth in range(1, devices + 1)
        ]  # fmt: skip
        taken: dict[bool, list[float]] = {False: [], True: []}
        for repeat in range(flags.FLAGS.repeats + 1):
            for at_once in (False, True) if repeat % 2 else (True, False):
                found = seconds(configs, at_once=at_once)
                if repeat:  # the first finds caches cold
                    taken[at_once].append(found)
        ways = [taken[False], taken[True], seconds_in_workers(configs, flags.FLAGS.repeats)]
        table.add_row(
            str(len(_RATES) * seeds),
            *(f"{statistics.median(way):.2f}" for way in ways),
            *(_times_as_fast(taken[False], way) for way in ways[1:]),
        )
    Console().print(table)


def _times_as_fast(usual: list[float], other: list[float]) -> str:
    ratio = spread([a / b for a, b in zip(usual, other, strict=True)])
    return f"{ratio['median']:.2f} [{ratio['q25']:.2f}, {ratio['q75']:.2f}]"


if __name__ == "__main__":
    app.run(main)
