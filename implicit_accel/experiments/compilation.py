"""Compiled programs: cached from one process to the next by JAX, and counted.

An entry of the cache is machine code: no other user may write to its folder.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import flags

from implicit_accel.data.fetch import cache_folder
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli

MAX_BYTES = 256 * 2**20
"""Largest size of the cache's folder; a sweep's program has about 100 KiB."""

_OFF = "none"

_FOLDER = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder that keeps compiled programs for later runs, which then start seconds sooner; the "
    "user's cache unless given. none: compile always. It holds machine code: no other "
    "user may write there.",
)


def add_flags(groups: cli.FlagGroups, heading: str = "Machine") -> None:
    """Lists the flag in a program's help."""
    groups.add(heading, _FOLDER)


def asked_for() -> str | None:
    """Returns the flag's value."""
    return _FOLDER.value


def keep_programs(asked: str | None = None) -> None:
    """Sets JAX's compilation cache; to be called before JAX first compiles.

    A cache that is set in JAX's own way (``JAX_COMPILATION_CACHE_DIR``) is left alone, unless a
    folder is given.

    Args:
        asked: The folder, or ``none`` to compile always; the user's cache unless given.

    Raises:
        UserError: If ``asked`` is no folder, or other users can write to it.
    """
    if asked == _OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if asked is None and jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = _make_folder(asked)
    if folder is None:
        return
    _remove_orphans(folder)
    # JAX warns when an entry cannot be read or written, and compiles: the result is the same.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": MAX_BYTES,  # JAX needs filelock for it
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_enable_xla_caches": _OFF,  # these would grow without bound
    }.items():
        jax.config.update(name, value)


def _make_folder(asked: str | None) -> Path | None:
    """Makes the cache's folder, for this user alone; None if it cannot or must not be used."""
    try:
        if asked is not None and not asked.strip():
            raise ValueError("no name")
        folder = cache_folder() / "compiled" if asked is None else cache_folder(asked)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder):
            return folder
    except (FileExistsError, ValueError):  # a file, no path, or ~unknown
        if asked is None:
            return None
        raise UserError(f"--compilation_cache {asked!r} is no folder; name one, or none") from None
    except OSError:
        return None
    if asked is None:
        return None
    raise UserError(
        f"--compilation_cache {asked}: other users can write there, and what they wrote would be "
        "run: empty it and take their right (chmod go-w), name a folder of your own, or none"
    )


def _is_private(folder: Path) -> bool:
    """Whether no other user can write to a folder."""
    found = folder.stat()
    return not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & 0o022
    )


def _remove_orphans(folder: Path) -> None:
    """Removes entries that were not written to the end, because of a signal or a full disk.

    JAX writes an entry and then a second file with the time of its last use. Without the second
    file, JAX before 0.12 stores no further program in the folder (jax#39880), and no JAX replaces
    the part of an entry that was written. Two kinds of good entries are removed as well, and
    compiled again: one that another process is just writing, and those that JAX stored in this
    folder without a limit of size, which have no second file.
    """
    with contextlib.suppress(OSError):
        for entry in folder.glob(f"*-{'[0-9a-f]' * 64}-cache"):  # JAX's names, and no other file's
            if not Path(f"{str(entry).removesuffix('-cache')}-atime").exists():
                entry.unlink(missing_ok=True)


@dataclass
class ProgramCount:
    """Number of programs that a process used.

    Attributes:
        requested: All programs.
        cached: Those of them that were in the cache.
    """

    requested: int = 0
    cached: int = 0

    @property
    def compiled(self) -> int:
        """Those that XLA compiled."""
        return self.requested - self.cached

    def __str__(self) -> str:
        """``1 compilation``, ``1 program from the compilation cache``, or both."""

        def some(count: int, what: str) -> str:
            return f"{count} {what}{'' if count == 1 else 's'}"

        parts = [some(self.compiled, "compilation")] if self.compiled or not self.cached else []
        if self.cached:
            parts.append(f"{some(self.cached, 'program')} from the compilation cache")
        return ", ".join(parts)


@contextlib.contextmanager
def counted_programs() -> Iterator[ProgramCount]:
    """Counts programs by JAX's own events, until it is left."""
    count = ProgramCount()

    def on_duration(event: str, duration_secs: float, **_: object) -> None:  # noqa: ARG001
        # JAX records this event also for a program from the cache.
        count.requested += event == "/jax/core/compile/backend_compile_duration"

    def on_event(event: str, **_: object) -> None:
        count.cached += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
        jax.monitoring.unregister_event_listener(on_event)
