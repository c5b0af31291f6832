"""Claims put to the test: one after another here, or side by side in workers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from threadpoolctl import threadpool_limits

from implicit_accel.errors import DataError
from implicit_accel.experiments import cli, compilation
from implicit_accel.experiments.claims.criteria import Claim
from implicit_accel.experiments.claims.toolkit.findings import load_finding, save_finding
from implicit_accel.experiments.claims.toolkit.laboratory import Laboratory, Scale
from implicit_accel.experiments.claims.toolkit.registry import find_claims
from implicit_accel.experiments.workers import Hear, in_workers
from implicit_accel.progress import ProgressBars

_PROGRESS, _LOG = "progress", "log"

Done = Callable[[Claim, float], None]
"""Told a claim whose finding is saved, and the seconds that it took just now."""


@dataclass(frozen=True)
class Setup:
    """What claims are tested with.

    Attributes:
        scale: How long.
        folder: Of the reproduction; a claim gets a folder in it.
        data_dir: Where the data are, see `Laboratory`.
        download: Whether what is missing may be downloaded.
        compilation_cache: See `compilation.keep_programs`.
    """

    scale: Scale
    folder: Path
    data_dir: str | None
    download: bool
    compilation_cache: str | None

    def prepare(self) -> None:
        """Readies a process, before JAX compiles there; to do it again changes nothing.

        Raises:
            UserError: If the cache for programs is no folder.
        """
        compilation.keep_programs(self.compilation_cache)
        # Claims' own matrices are small: BLAS's threads would wait for each other more than work.
        threadpool_limits(1, user_api="blas")


def examine(
    claim: Claim,
    setup: Setup,
    *,
    log: Callable[[str], object],
    progress: Callable[[int, int], None],
) -> None:
    """Runs a claim's experiment, as far as its results are not there, and writes its folder.

    Args:
        claim: The claim.
        setup: What it is tested with.
        log: Given lines that tell what is going on.
        progress: Told (done, total) of what is being made.
    """
    lab = Laboratory(
        scale=setup.scale,
        folder=setup.folder / claim.id,
        shared=setup.folder,
        data_dir=setup.data_dir,
        download=setup.download,
        log=log,
        progress=progress,
    )
    began = time.monotonic()
    finding = claim.test(lab)
    seconds = time.monotonic() - began
    try:
        earlier = load_finding(claim, lab.folder, setup.scale.value)
    except DataError:
        earlier = None  # it is written again below
    if not lab.trained and earlier is not None:
        seconds = earlier.seconds
    save_finding(claim, finding, lab.folder, setup.scale.value, seconds)


def examine_all(
    claims: Sequence[Claim], setup: Setup, *, num_workers: int, console: Console, done: Done
) -> None:
    """Examines claims: in their order in this process, or the longest first in several workers.

    Args:
        claims: Which.
        setup: What they are tested with.
        num_workers: Processes, see `in_workers`; 1 is this one, which has been readied.
        console: Where bars and notes are shown.
        done: Told each claim that is done.

    Raises:
        UserError, ProgramError, OSError: Whatever ends one of them.
    """
    if num_workers == 1:
        for claim in claims:
            began = time.monotonic()
            with cli.progress_bar(console, claim.id) as report:
                examine(claim, setup, log=console.print, progress=report)
            done(claim, time.monotonic() - began)
        return
    known = {claim.id: claim for claim in claims}
    with ProgressBars(console) as bars:

        def hear(name: str, kind: str, said: Any) -> None:
            if kind == _PROGRESS:
                bars(name, *said)
            else:
                console.print(said)

        def finished(name: str, seconds: float) -> None:
            bars.rest(name)
            done(known[name], seconds)

        in_workers(
            functools.partial(_examine, setup),
            sorted(known, key=lambda name: -known[name].minutes),
            num_workers=num_workers,
            hear=hear,
            done=finished,
        )


def _examine(setup: Setup, name: str, tell: Hear) -> float:
    """In a worker."""
    setup.prepare()
    (claim,) = (claim for claim in find_claims() if claim.id == name)
    began = time.monotonic()
    examine(
        claim,
        setup,
        log=lambda line: tell(_LOG, line),
        progress=lambda done, total: tell(_PROGRESS, (done, total)),
    )
    return time.monotonic() - began
