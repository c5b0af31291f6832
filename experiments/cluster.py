"""Several processes, on one machine or many, that share a sweep through its output folder.

JAX's distributed service is used for what it is good at: finding the cluster (SLURM, Open MPI,
TPU slices, or the flags below) and letting the processes find each other. After that it is shut
down: the runs of a grid never talk to each other, and a service that keeps watching would end
every process when one dies. Each process trains its share, writes it to ``shares/`` in the output
folder and is done; process 0 waits for the others' files, puts them together and writes the
results. A process that dies is noticed by the file that it no longer touches; finished shares are
kept, and the same command trains only what is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import flags

from experiments import cli
from implicit_accel import shares
from implicit_accel.errors import UserError
from implicit_accel.training import GroupResult, Share

COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Address host:port of process 0, for several processes; found by itself under SLURM, Open MPI "
    "and on TPU slices.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")

SHARES_FOLDER = "shares"

# Seconds between two signs of life, and without one until a process counts as dead.
_BEAT = 2.0
_PATIENCE = 30.0


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


def _result_file(folder: Path, share: Share) -> Path:
    return folder / SHARES_FOLDER / f"{share.index}-of-{share.count}.npz"


def _life_file(folder: Path, share: Share) -> Path:
    return folder / SHARES_FOLDER / f"{share.index}-of-{share.count}.alive"


@contextlib.contextmanager
def sign_of_life(folder: Path, share: Share) -> Iterator[None]:
    """Touches this process's file every two seconds while it lasts, if there are others."""
    if share.count == 1:
        yield
        return
    path = _life_file(folder, share)
    path.parent.mkdir(parents=True, exist_ok=True)
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
        path.unlink(missing_ok=True)


def finished_share(folder: Path, share: Share, identity: str) -> list[GroupResult] | None:
    """The share's results if an earlier call of the same command finished it."""
    return shares.load(_result_file(folder, share), identity)


def save_share(folder: Path, share: Share, identity: str, results: list[GroupResult]) -> None:
    """Writes the share's results to the output folder, atomically."""
    path = _result_file(folder, share)
    path.parent.mkdir(parents=True, exist_ok=True)
    shares.save(results, path, identity)


def collect(
    folder: Path, share: Share, identity: str, report: Callable[[str], object]
) -> list[GroupResult]:
    """Waits for the other processes' shares and puts all together (process 0).

    Args:
        folder: The output folder.
        share: This process's share.
        identity: Of the run.
        report: Told what is being waited for.

    Returns:
        The whole grid's results.

    Raises:
        ProgramError: If a process shows no sign of life for half a minute before it has finished.
    """
    everyone = [Share(i, share.count) for i in range(share.count)]
    found: dict[int, list[GroupResult]] = {}
    beats: dict[int, tuple[str, float]] = {}
    while True:
        for other in everyone:
            if other.index not in found:
                results = finished_share(folder, other, identity)
                if results is not None:
                    found[other.index] = results
        waiting = [other for other in everyone if other.index not in found]
        if not waiting:
            break
        now = time.monotonic()
        for other in waiting:
            # What counts is when this process saw the file change: clocks may differ.
            try:
                beat = _life_file(folder, other).read_text()
            except OSError:
                beat = ""
            if beats.get(other.index, ("", 0.0))[0] != beat or other.index not in beats:
                beats[other.index] = (beat, now)
        lost = [o.index for o in waiting if now - beats[o.index][1] > _PATIENCE]
        if lost:
            raise cli.ProgramError(
                f"process {', '.join(map(str, lost))} of {share.count} ended before its share was "
                f"finished. Finished shares are kept in {folder / SHARES_FOLDER}: the same command "
                "trains only what is missing"
            )
        report(f"waiting for process {', '.join(str(o.index) for o in waiting)}")
        time.sleep(min(_BEAT, 1.0))
    return shares.merge([found[other.index] for other in everyone])


def remove_shares(folder: Path, share: Share) -> None:
    """Removes the share files once the results are written."""
    for i in range(share.count):
        _result_file(folder, Share(i, share.count)).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a sign of life may still be there for a moment
        (folder / SHARES_FOLDER).rmdir()


def add_flags(groups: cli.FlagGroups) -> None:
    """Lists these flags in a program's help."""
    groups.add("Several processes", COORDINATOR, NUM_PROCESSES, PROCESS_ID)
