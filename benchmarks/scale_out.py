"""What a cluster costs: chunks of a known length on more and more workers.

    python -m benchmarks.scale_out --seconds 1 --chunks_each 10

Each chunk sleeps and returns some kilobytes, by the path of training: tasks of `DaskExecutor`. The
workers are threads of this process, so that many of them fit two cores; scheduler, client and
workers share these cores, which is the worst case for the scheduler.
"""

from __future__ import annotations

import argparse
import functools
import logging
import time
from typing import Any

import dask.config
import numpy as np
from distributed import Client, LocalCluster

from implicit_accel.executors import OnMessage
from implicit_accel.executors.dask import SCHEDULER_SETTINGS, DaskExecutor


def sleep(seconds: float, num_bytes: int, _: int, on_message: OnMessage) -> np.ndarray:
    """A chunk: takes so long, and returns a state of so many bytes."""
    time.sleep(seconds)
    on_message(seconds)
    return np.zeros(num_bytes, np.uint8)


def measure(num_workers: int, num_chunks: int, seconds: float, num_bytes: int) -> float:
    """Wall-clock seconds of so many chunks on so many workers."""
    # Each worker would count this whole process's memory as its own, and pause.
    options: dict[str, Any] = {"processes": False, "dashboard_address": ":0", "memory_limit": 0}
    with dask.config.set(SCHEDULER_SETTINGS):
        cluster: Any = LocalCluster(
            n_workers=num_workers, threads_per_worker=1, silence_logs=logging.CRITICAL, **options
        )
    work = functools.partial(sleep, seconds, num_bytes)
    with cluster, Client(cluster) as client:
        executor = DaskExecutor(client)
        # The workers load what tasks need.
        list(executor.map(work, range(num_workers), lambda *_: None))
        began = time.perf_counter()
        found = list(executor.map(work, range(num_chunks), lambda *_: None))
        taken = time.perf_counter() - began
    if len(found) != num_chunks:
        raise AssertionError(f"{len(found)} of {num_chunks} chunks came back")
    return taken


def main() -> None:
    """Prints a line for each number of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a chunk")
    parser.add_argument("--chunks_each", type=int, default=10, help="chunks for each worker")
    parser.add_argument("--kilobytes", type=int, default=100, help="of a chunk's state")
    given = parser.parse_args()
    print("| workers | chunks | ideal, s | actual, s | efficiency | overhead per chunk, ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    ideal = given.chunks_each * given.seconds
    for workers in given.workers:
        chunks = workers * given.chunks_each
        actual = measure(workers, chunks, given.seconds, 1000 * given.kilobytes)
        # Of the client and the scheduler, which handle one chunk after another.
        overhead = 1000 * (actual - ideal) / chunks
        print(
            f"| {workers} | {chunks} | {ideal:.2f} | {actual:.2f} | {ideal / actual:.0%} "
            f"| {overhead:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
