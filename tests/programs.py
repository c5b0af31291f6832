"""Starts the programs as a user does, and faster: from a process that has their imports ready."""

import contextlib
import functools
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--num_steps", "300", "--num_seeds", "2", "--learning_rates", "0.003,0.03,3"]
# Where it does not matter what is trained: a third of the compilation.
TINY = [*SMALL, "--losses", "l4", "--depths", "1,2"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ready"])


@functools.cache
def _start_server() -> None:
    """Starts the process that forks: before Python 3.13 it finds modules by PYTHONPATH only."""
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), inherited])
    )
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if inherited is not None:
            os.environ["PYTHONPATH"] = inherited


def _call(
    main: Callable[..., object],
    arguments: Sequence[str],
    folder: str,
    environment: dict[str, str],
    outputs: Sequence[Path],
) -> None:
    """In the new process: its folder, environment and two output streams, then the function."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((1, 2), outputs, strict=True):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    main(*arguments)


def as_module(name: str, *arguments: str) -> None:
    """``python -m name arguments``, in the process that calls it."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path.cwd()), *filter(None, paths)]
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def started(
    main: Callable[..., object],
    *arguments: object,
    cwd: str | Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[BaseProcess, list[Path]]]:
    """Calls a function in a process of its own.

    Args:
        main: Found again by its module and name.
        arguments: Texts, or what becomes one.
        cwd: The working folder; this one by default.
        environment: All of it; this one by default. What is read on import has been read.

    Yields:
        The process, and the files of its two output streams. At the end it is killed.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="forked-") as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        everything = dict(os.environ) if environment is None else environment
        where = (str(cwd or Path.cwd()), everything, files)
        _start_server()
        process = _context.Process(target=_call, args=(main, words, *where))
        process.start()
        try:
            yield process, files
        finally:
            process.kill()
            process.join()


def forked(
    main: Callable[..., object], *arguments: object, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Calls a function in a process of its own, and waits for its end.

    Args:
        main: As for `started`.
        arguments: As for `started`.
        timeout: In seconds.
        options: For `started`.
    """
    words = [main.__name__, *map(str, arguments)]
    with started(main, *arguments, **options) as (process, files):
        process.join(timeout)
        if process.exitcode is None:
            raise subprocess.TimeoutExpired(words, timeout)
        printed = [file.read_text() for file in files]
    return subprocess.CompletedProcess(words, process.exitcode, *printed)


def run(program, *arguments, cwd=None, **environment):
    """A program's end; a sweep draws only if it is told what: that takes most of a small one.

    With variables of the environment of its own it is started from nothing.
    """
    if program == "sweep" and "--formats" not in arguments:
        arguments = ("--formats", "none", *arguments)
    inherited = {k: v for k, v in os.environ.items() if k != "IMPLICIT_ACCEL_DATA_DIR"}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), inherited.get("PYTHONPATH")]))
    everything = inherited | {"PYTHONPATH": paths} | environment
    name, folder = f"experiments.{program}", cwd or REPOSITORY
    if not environment:
        return forked(as_module, name, *arguments, cwd=folder, environment=everything)
    return subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)], cwd=folder, env=everything,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def replaced(flags, *changes):
    """Flags, written ``--name value``, with these in place of those of the same names."""
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    values |= dict(zip(changes[::2], changes[1::2], strict=True))
    return [word for flag in values.items() for word in flag]


def expect_usage_error(result, *words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
