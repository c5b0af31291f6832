"""Compiled programs: kept from one process to the next, and counted.

JAX hands every program that it compiles to a cache and asks there before it compiles. Its own
cache trusts what lies in its folder, keeps a damaged file for ever and writes in place; this one
writes files whole, with a checksum and for this kind of machine alone, and forgets those used
longest ago. Whatever goes wrong with it, a program is compiled as without it. An entry is
machine code: the folder must be nobody else's to write.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import flags

from implicit_accel.data.fetch import cache_folder
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli
from implicit_accel.files import atomic_path

MOST_BYTES = 256 * 2**20
"""How large the cache's folder may grow; a sweep's program has about 100 KiB."""

_OFF = "none"
_SUFFIX = ".program"

_FOLDER = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder that keeps compiled programs for later runs, which then start seconds sooner; the "
    "user's cache unless given. none: compile always. It holds machine code: let nobody else "
    "write there.",
)


def add_flags(groups: cli.FlagGroups, heading: str = "Machine") -> None:
    """Lists the flag in a program's help."""
    groups.add(heading, _FOLDER)


def asked_for() -> str | None:
    """What the flag says."""
    return _FOLDER.value


def keep_programs(asked: str | None = None) -> None:
    """Makes JAX keep compiled programs in a folder; to be called before it first compiles.

    A cache that JAX has been told of by itself (``JAX_COMPILATION_CACHE_DIR``) is left alone,
    unless a folder is asked for.

    Args:
        asked: The folder, or ``none`` to compile always; the user's cache unless given.

    Raises:
        UserError: If what is asked for is no folder.
    """
    if asked == _OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if asked is None and jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = _usable_folder(asked)
    if folder is None:
        return
    try:
        from jax._src import compilation_cache
    except ImportError:  # another JAX: do without
        return
    programs = Programs(folder)
    compilation_cache.get_file_cache = lambda path: (programs, path)  # pyright: ignore[reportAttributeAccessIssue]
    compilation_cache.reset_cache()
    # What cannot be read or kept is compiled as ever: nothing that the user needs to know.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_enable_xla_caches": _OFF,  # these would grow without bound
    }.items():
        jax.config.update(name, value)


def _usable_folder(asked: str | None) -> Path | None:
    folder = None
    with contextlib.suppress(OSError, ValueError):  # also UserError: ~nobody
        folder = cache_folder() / "compiled" if asked is None else cache_folder(asked)
        if folder.exists() and not folder.is_dir():
            folder = None
    if asked is not None and (folder is None or not asked.strip()):
        raise UserError(f"--compilation_cache {asked!r} is no folder; name one, or none")
    return folder if folder is None or asked is not None or _is_private(folder) else None


def _is_private(folder: Path) -> bool:
    """Whether nobody else can write in a folder (which may be yet to be made)."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & 0o022
    )


def _machine() -> str:
    """What a program's machine code may depend on beyond what JAX's own keys tell apart."""
    features = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        names = ("flags", "Features", "model name", "CPU part")
        features |= {line for line in lines if line.startswith(names)}
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    return "\n".join([*versions, *sorted(features)])


class Programs:
    """Compiled programs as sealed files; stands where JAX expects its own cache.

    Any number of processes may use a folder at once.

    Args:
        folder: Where they lie; it is made, for this user alone, when there is something to keep.
        most_bytes: How large the folder may grow.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = folder  # JAX's name for it
        self._most_bytes = most_bytes
        self._machine = _machine()

    def _file(self, key: str) -> tuple[Path, bytes]:
        """A key's path, and what its file begins with."""
        name = hashlib.sha256(f"{key}\n{self._machine}".encode()).hexdigest()
        return self._path / f"{name}{_SUFFIX}", f"{name}\n".encode()

    def get(self, key: str) -> bytes | None:
        """The program of this key; None if there is none, or none that is whole."""
        path, head = self._file(key)
        with contextlib.suppress(OSError):
            if not path.is_file():
                return None
            content = path.read_bytes()
            value = content[len(head) : -len(_digest(b""))]
            if content == head + value + _digest(head + value):
                with contextlib.suppress(OSError):
                    os.utime(path)  # it was of use
                return value
            path.unlink()  # damaged
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program, if that can be done."""
        path, head = self._file(key)
        with contextlib.suppress(OSError):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(head + value + _digest(head + value))
            self._forget()

    def _forget(self) -> None:
        """Removes the programs that were used longest ago, if there are too many."""
        found = []
        for path in self._path.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another process has removed it
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            left -= size


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class ProgramCount:
    """How a process came by its programs.

    Attributes:
        asked: Programs that it needed.
        kept: Those of them that the cache had.
    """

    asked: int = 0
    kept: int = 0

    @property
    def compiled(self) -> int:
        """Those that XLA compiled."""
        return self.asked - self.kept

    def __str__(self) -> str:
        """``1 compilation``, ``1 program from the compilation cache``, or both."""

        def some(count: int, what: str) -> str:
            return f"{count} {what}{'' if count == 1 else 's'}"

        parts = [some(self.compiled, "compilation")] if self.compiled or not self.kept else []
        if self.kept:
            parts.append(f"{some(self.kept, 'program')} from the compilation cache")
        return ", ".join(parts)


@contextlib.contextmanager
def counted_programs() -> Iterator[ProgramCount]:
    """Counts programs, by JAX's own events, while it lasts."""
    count, active = ProgramCount(), True

    def asked(event: str, duration_secs: float, **_: object) -> None:  # noqa: ARG001
        # JAX reports it also where the cache had the program.
        count.asked += active and event == "/jax/core/compile/backend_compile_duration"

    def kept(event: str, **_: object) -> None:
        count.kept += active and event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(asked)
    jax.monitoring.register_event_listener(kept)
    yield count
    active = False
