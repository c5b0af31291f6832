"""Tasks side by side in processes, each on cores of its own.

What Python does, and what XLA compiles, uses one core: with a task for each, none waits for the
other.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from implicit_accel.devices import num_cores, use_cpu_devices
from implicit_accel.experiments.cli import ProgramError

Hear = Callable[[str, Any], None]
"""Called with the kind of a message and what it says."""

_Task = TypeVar("_Task")

_DONE, _FAILED = "done", "failed"


def split_cores(num_workers: int) -> list[list[int]]:
    """This process's cores, a share for each worker; shares without cores where none are told.

    Raises:
        ValueError: If there are no workers, or more than cores.
    """
    if not 1 <= num_workers <= num_cores():
        raise ValueError(f"{num_workers} workers on {num_cores()} cores")
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(num_workers)]
    cores = sorted(os.sched_getaffinity(0))
    ends = [len(cores) * n // num_workers for n in range(num_workers + 1)]
    return [cores[start:end] for start, end in itertools.pairwise(ends)]


def in_workers(
    work: Callable[[_Task, Hear], Any],
    tasks: Sequence[_Task],
    *,
    num_workers: int,
    hear: Callable[[_Task, str, Any], None],
    done: Callable[[_Task, Any], None],
) -> None:
    """Works through tasks in their order, each as soon as a worker is free.

    A worker ends with this process, however that ends: at the latest when it next says something.

    Args:
        work: Called in a worker with a task and with what takes its messages; found again by its
            module and name. JAX has a device for each of the worker's cores there.
        tasks: Any that can be pickled.
        num_workers: Processes, at most one per core.
        hear: Told a task's messages, in this thread.
        done: Told what it returned.

    Raises:
        ProgramError: If a worker is killed.
        Exception: What the first that fails raises; the others are ended then.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(tasks)
    workers: dict[Connection, Any] = {}
    busy: dict[Connection, _Task] = {}

    def next_task(connection: Connection) -> None:
        busy.pop(connection, None)
        if waiting:
            busy[connection] = waiting.popleft()
            connection.send(busy[connection])

    try:
        for cores in split_cores(num_workers)[: len(waiting)]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, theirs, cores), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
            next_task(ours)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                task = busy[connection]
                try:
                    kind, said = connection.recv()
                except (EOFError, ConnectionError):
                    workers[connection].join()
                    raise ProgramError(
                        f"a worker was ended from outside (exit code "
                        f"{workers[connection].exitcode}), at {task}. What was saved is kept: the "
                        "same command goes on from there; fewer workers need less memory"
                    ) from None
                if kind == _FAILED:
                    raise said
                if kind == _DONE:
                    done(task, said)
                    next_task(connection)
                else:
                    hear(task, kind, said)
    finally:
        for process in workers.values():
            process.kill()
        for process in workers.values():
            process.join()


def _serve(work: Callable[[Any, Hear], Any], connection: Connection, cores: Sequence[int]) -> None:
    """A worker: takes tasks until there are none."""
    # The terminal's Ctrl-C goes to every process of its group; who started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, cores)
    use_cpu_devices(len(cores) or 1)
    sending = threading.Lock()

    def tell(kind: str, said: Any) -> None:
        with sending:
            connection.send((kind, said))

    with contextlib.suppress(EOFError, ConnectionError):  # nobody listens any more
        while True:
            task = connection.recv()
            try:
                found = work(task, tell)
            except Exception as error:
                tell(_FAILED, _sendable(error))
            else:
                tell(_DONE, found)


def _sendable(error: Exception) -> Exception:
    """An error that can be pickled, with where it was raised as a note."""
    told = "".join(traceback.format_exception(error))
    error.add_note(told)
    try:
        pickle.loads(pickle.dumps(error))  # our own
    except Exception:
        return RuntimeError(told)
    return error
