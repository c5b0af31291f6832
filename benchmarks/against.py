"""Times this checkout beside another one, say the commit before a change.

    git worktree add ../before HEAD~1
    python -m benchmarks.against ../before
    python -m benchmarks.against ../before --workloads W3 --repeats 11

The two run the workloads alternately, each in processes of its own. A table: medians of
configuration-steps per second, the ratio's median and quartiles, and the most memory held.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks.run import Worker, prepare_data, spread
from benchmarks.workloads import WORKLOADS

# How fast a process is depends on where its memory happens to lie: several are timed.
_PAIRS = 4


def compare(name: str, path: Path, checkouts: list[Path], repeats: int) -> list[str]:
    """A row of the table."""
    rates: list[list[float]] = [[], []]
    memory = [0, 0]
    for _ in range(_PAIRS):
        workers = [Worker("e", WORKLOADS[name], path, checkout) for checkout in checkouts]
        for worker in workers:
            worker.run()  # the first finds caches and clocks cold
        for repeat in range(repeats):
            # Neither is always the second, which finds the machine warm.
            for which in ((0, 1), (1, 0))[repeat % 2]:
                rates[which].append(workers[which].run())
        memory = [max(m, w.peak_memory()) for m, w in zip(memory, workers, strict=True)]
        for worker in workers:
            worker.close()
    ratio = spread([here / there for here, there in zip(*rates, strict=True)])
    return [
        name,
        *(f"{statistics.median(values):,.0f}" for values in rates),
        f"{ratio['median']:.3f} [{ratio['q25']:.3f}, {ratio['q75']:.3f}]",
        *(f"{m / 2**20:,.0f}" for m in memory),
    ]


def main(arguments: list[str]) -> None:
    """Runs the comparison."""
    if len(arguments) != 2 or not Path(arguments[1], "benchmarks", "worker.py").is_file():
        raise app.UsageError("give the folder of another checkout of this project")
    if unknown := set(flags.FLAGS.workloads) - set(WORKLOADS):
        raise app.UsageError(f"no workload {min(unknown)}: there are {', '.join(WORKLOADS)}")
    table = Table("workload", "here, steps/s", "there", "here / there", "here, MiB", "there, MiB")
    with tempfile.TemporaryDirectory() as folder:
        paths, what = prepare_data(Path(folder))
        for name in (name for name in WORKLOADS if name in flags.FLAGS.workloads):
            checkouts = [Path.cwd(), Path(arguments[1])]
            table.add_row(*compare(name, paths[0], checkouts, flags.FLAGS.repeats))
    Console().print(what, table)


if __name__ == "__main__":
    app.run(main)
