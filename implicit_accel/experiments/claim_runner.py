"""Runs claims: in this process, or as the items of an executor."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from threadpoolctl import threadpool_limits

from implicit_accel.claims.api import Claim
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.context import Context, Scale
from implicit_accel.claims.evaluate import evaluate
from implicit_accel.claims.findings import load_finding, save_finding
from implicit_accel.devices import FEWEST_CPU_DEVICES, num_cores
from implicit_accel.errors import DataError, ProgramError, UserError
from implicit_accel.executors import Executor, OnMessage
from implicit_accel.experiments import compilation
from implicit_accel.files import atomic_path
from implicit_accel.progress import ProgressBars

_PROGRESS, _LOG = "progress", "log"

# A file in the folder of a reproduction by which workers see that the folder is theirs too.
_SHARED_MARK = ".shared-by-workers"


@dataclass(frozen=True)
class Setup:
    """What claims are tested with.

    Attributes:
        scale: How long.
        folder: Of the reproduction; a claim gets a folder in it.
        data_dir: Where the data are, see `Context`.
        download: Whether what is missing may be downloaded.
        compilation_cache: See `compilation.keep_programs`.
        claims_from: A folder of a user's own claims; None for the project's.
        data: The data sets that were found here, see `find_data`, which workers must have as well;
            empty where they see the same files.
        mark: A text that the folder's mark holds, for workers.
    """

    scale: Scale
    folder: Path
    data_dir: str | None
    download: bool
    compilation_cache: str | None
    claims_from: str | None = None
    data: tuple[str, ...] = ()
    mark: str = ""

    def prepare(self) -> None:
        """Readies a process, before JAX compiles there; to do it again changes nothing.

        Raises:
            UserError: If the cache for programs is no folder.
        """
        compilation.keep_programs(self.compilation_cache)
        # Claims' own matrices are small: BLAS's threads would wait for each other more than work.
        threadpool_limits(1, user_api="blas")

    def context(
        self,
        claim: Claim,
        folder: Path,
        log: Callable[[str], object] = lambda _: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Context:
        """What a claim's experiment works with, in a folder like the reproduction's."""
        return Context(
            scale=self.scale,
            folder=folder / claim.id,
            shared=folder,
            data_dir=self.data_dir,
            download=self.download,
            log=log,
            progress=progress,
        )


@dataclass(frozen=True)
class Outcome:
    """What a claim's run returns.

    Attributes:
        seconds: That it took.
        files: The claim's files by their names in the reproduction's folder, where the worker that
            ran it does not see this folder; empty where it does.
    """

    seconds: float
    files: dict[str, bytes]


def find_data(context: Context) -> tuple[str, ...]:
    """The data sets that a context has, by their contents."""
    abalone, images = context.abalone(), context.mnist()
    return (
        f"gas {context.gas().fingerprint[:12]}",
        f"abalone {'missing' if abalone is None else abalone.fingerprint[:12]}",
        f"mnist {'a stand-in' if images.is_stand_in else images.fingerprint[:12]}",
    )


def run_claim(
    claim: Claim,
    setup: Setup,
    folder: Path,
    *,
    log: Callable[[str], object],
    progress: Callable[[int, int], None],
) -> None:
    """Runs a claim's experiment, as far as its results are not there, and writes its folder.

    Args:
        claim: The claim.
        setup: What it is tested with.
        folder: Of the reproduction.
        log: Given lines on what is being done.
        progress: Called with (done, total) of what is being made.
    """
    context = setup.context(claim, folder, log, progress)
    began = time.monotonic()
    try:
        finding = evaluate(claim, context)
    except (UserError, DataError, ProgramError, OSError):
        raise
    except Exception as error:
        if setup.claims_from is None:
            raise  # an error of this project's
        raise UserError(_in_own_code(claim, error, Path(setup.claims_from))) from error
    seconds = time.monotonic() - began
    try:
        earlier = load_finding(claim, context.folder, setup.scale.value)
    except DataError:
        earlier = None  # it is written again below
    if not context.trained and earlier is not None:
        seconds = earlier.seconds
    save_finding(claim, finding, context.folder, setup.scale.value, seconds)


def _in_own_code(claim: Claim, error: Exception, folder: Path) -> str:
    """What went wrong in a user's own module, and in which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).resolve().is_relative_to(folder.resolve())]
    where = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"claim {claim.id}: {where}{type(error).__name__}: {error}"


def run_claims(
    claims: Sequence[Claim], setup: Setup, executor: Executor, console: Console
) -> Iterator[tuple[Claim, float]]:
    """Runs claims on an executor, the longest first.

    Args:
        claims: Which.
        setup: What they are tested with.
        executor: Where they run.
        console: Where bars and notes are shown.

    Yields:
        A claim whose folder is written, and the seconds that it took just now.

    Raises:
        UserError, ProgramError, OSError: Whatever ends one of them.
    """
    known = {claim.id: claim for claim in claims}
    names = sorted(known, key=lambda name: -known[name].minutes)
    mark = setup.folder / _SHARED_MARK
    setup = dataclasses.replace(setup, folder=setup.folder.resolve(), mark=str(time.time_ns()))
    mark.write_text(setup.mark)
    with ProgressBars(console) as bars:

        def on_message(name: str, message: tuple[str, Any]) -> None:
            kind, said = message
            if kind == _PROGRESS:
                bars(name, *said)
            else:
                console.print(said)

        try:
            work = functools.partial(_run_item, setup)
            for name, outcome in executor.map(work, names, on_message):
                bars.rest(name)
                _write(outcome.files, setup.folder / name)
                yield known[name], outcome.seconds
        finally:
            mark.unlink(missing_ok=True)


def _run_item(setup: Setup, name: str, on_message: OnMessage) -> Outcome:
    """Runs a claim where the executor wants it, which may be another machine."""
    with contextlib.suppress(RuntimeError):  # a process that has computed keeps its devices
        jax.config.update("jax_num_cpu_devices", max(FEWEST_CPU_DEVICES, num_cores()))
    setup.prepare()
    (claim,) = (claim for claim in _claims(setup.claims_from, setup.mark) if claim.id == name)
    folder = setup.folder if _is_shared(setup) else _own_folder(setup.mark)
    found = find_data(setup.context(claim, folder)) if setup.data else ()
    if found != setup.data:
        raise UserError(
            f"a worker has other data ({', '.join(found)}) than this process "
            f"({', '.join(setup.data)}): put the same files there and name their folder by "
            "--data_dir or $IMPLICIT_ACCEL_DATA_DIR"
        )
    began = time.monotonic()
    run_claim(
        claim,
        setup,
        folder,
        log=lambda line: on_message((_LOG, line)),
        progress=lambda done, total: on_message((_PROGRESS, (done, total))),
    )
    seconds = time.monotonic() - began
    files = {} if folder == setup.folder else _read(folder / name)
    return Outcome(seconds, files)


def _is_shared(setup: Setup) -> bool:
    try:
        return (setup.folder / _SHARED_MARK).read_text() == setup.mark
    except OSError:
        return False


@functools.cache
def _claims(claims_from: str | None, _: str) -> tuple[Claim, ...]:
    """The claims, whose modules a worker runs once for all claims of a call."""
    return load_collection(claims_from).claims


@functools.cache
def _own_folder(_: str) -> Path:
    """A worker's own folder, for all claims of a call: they use each other's results again."""
    return Path(tempfile.mkdtemp(prefix="implicit-accel-"))


def _read(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _write(files: dict[str, bytes], folder: Path) -> None:
    """Writes files that a worker made, atomically, into a claim's folder."""
    for name, content in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"a worker returned a file outside the claim's folder: {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
