"""Several processes, on one machine or many, that share a sweep through its output folder.

JAX's distributed service is used for what it is good at: finding the cluster (SLURM, Open MPI,
TPU slices, or the flags below) and letting the processes find each other. After that it is shut
down: the runs of a grid never talk to each other, and a service that keeps watching would end
every process when one dies. Each process trains its share, saves its checkpoints in the output
folder and is done; process 0 waits for the others' last ones, puts them together and writes the
results. A process that dies is noticed by the file that it no longer touches; checkpoints are
kept, and the same command trains only what is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from absl import flags

from implicit_accel.engine.layout import Share
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli

COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Address host:port of process 0, for several processes; found by itself under SLURM, Open MPI "
    "and on TPU slices.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")

# Seconds between two signs of life, and without one until a process counts as dead.
_BEAT = 2.0
PATIENCE = 30.0


def is_one_of_many() -> bool:
    """Whether flags or a launcher say that there are other processes."""
    return NUM_PROCESSES.value is not None or _launched_as_one_of_many()


def _launched_as_one_of_many() -> bool:
    """Whether a launcher that JAX knows started this process as one of several."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return (tasks.isdigit() and int(tasks) > 1) or "," in hosts


def join() -> Share:
    """Finds the other processes; returns which share of the grid is this one's.

    Raises:
        UserError: If the flags are incomplete or out of range, or the others cannot be reached.
    """
    given = {
        "coordinator_address": COORDINATOR.value,
        "num_processes": NUM_PROCESSES.value,
        "process_id": PROCESS_ID.value,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not _launched_as_one_of_many():
            return Share()
        given = {}
    elif missing:
        raise UserError(f"several processes need --{missing[0]} as well")
    elif not 0 <= given["process_id"] < given["num_processes"]:
        raise UserError(
            f"--process_id {given['process_id']}: must be at least 0 and below --num_processes "
            f"{given['num_processes']}"
        )
    elif not re.fullmatch(r".+:\d{1,5}", COORDINATOR.value or ""):
        raise UserError(f"--coordinator_address {COORDINATOR.value!r}: write host:port")
    # Not needed, and its signal handler would keep SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**given, initialization_timeout=120, shutdown_timeout_seconds=60)
        share = Share(jax.process_index(), jax.process_count())
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the other processes could not be reached ({reason})") from None
    return share


def _life_file(folder: Path, process: Share) -> Path:
    return folder / f"process{process.index}of{process.count}.alive"


@contextlib.contextmanager
def sign_of_life(folder: Path, process: Share) -> Iterator[None]:
    """Touches this process's file every two seconds while it lasts, if there are others."""
    if process.count == 1:
        yield
        return
    path = _life_file(folder, process)
    done = threading.Event()

    def beat() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):  # a folder deleted meanwhile shows when writing
                path.write_text(str(time.time()))
            done.wait(_BEAT)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def wait_for_others(
    folder: Path,
    process: Share,
    unfinished: Callable[[], Sequence[int]],
    report: Callable[[str], object],
    stop: Callable[[], object],
) -> None:
    """Waits until the other processes have finished their shares (process 0).

    Args:
        folder: Where signs of life are.
        process: This one.
        unfinished: Tells which processes have not finished.
        report: Told what is being waited for.
        stop: Called every second; ends the waiting by raising.

    Raises:
        ProgramError: If a process shows no sign of life for half a minute before it has finished.
    """
    beats: dict[int, tuple[str, float]] = {}
    told: list[int] = []
    while waiting := list(unfinished()):
        now = time.monotonic()
        for other in waiting:
            # What counts is when this process saw the file change: clocks may differ.
            try:
                beat = _life_file(folder, Share(other, process.count)).read_text()
            except OSError:
                beat = ""
            if other not in beats or beats[other][0] != beat:
                beats[other] = (beat, now)
        lost = [other for other in waiting if now - beats[other][1] > PATIENCE]
        if lost:
            raise cli.ProgramError(
                f"process {', '.join(map(str, lost))} of {process.count} ended before its share "
                "was finished. Nothing that was saved is lost: the same command trains only what "
                "is missing"
            )
        if waiting != told:
            report(f"waiting for process {', '.join(map(str, waiting))}")
            told = waiting
        time.sleep(min(_BEAT, 1.0))
        stop()


def add_flags(groups: cli.FlagGroups) -> None:
    """Lists these flags in a program's help."""
    groups.add("Several processes", COORDINATOR, NUM_PROCESSES, PROCESS_ID)
