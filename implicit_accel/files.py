"""Writing files whole or not at all, opening only plain ones, sealing, and text from outside."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from implicit_accel.errors import UserError

PARTIAL = ".partial-"
"""What the names of files begin with while they are being written."""

# With the eight characters of `tempfile`.
_PARTIAL_NAME = re.compile(re.escape(PARTIAL) + r".*-[a-z0-9_]{8}(\.[a-z0-9]+)?")

MAX_JSON_BYTES = 16 * 2**20
"""The longest JSON file that is read."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, then moves it into place.

    A reader sees the old file or the whole new one; after an error the old one is still there, and
    once this has returned, the new one outlives a loss of power.
    """
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f"{PARTIAL}{path.stem}-", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp's files are private; a result is as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # its folder may be gone, or no longer writable
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder, which need not exist."""
    for path in folder.glob(f"{PARTIAL}*"):
        if path.is_file() and _PARTIAL_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def open_plain(path: Path, max_bytes: int | None = None, *, follow: bool = False) -> BinaryIO:
    """Opens a file for reading if it is a regular one.

    A run's folder may come from a stranger: a symbolic link in it could lead to any file of the
    reader, and a pipe or a device would never end. Neither is opened.

    Args:
        path: The file.
        max_bytes: The most bytes that it may have; any number without it.
        follow: Whether a symbolic link is followed, for files that the user names.

    Raises:
        OSError: If the file cannot be read, is no regular file, or is too long.
    """
    # Opening a pipe would wait for a writer without O_NONBLOCK. Windows has neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
        flags |= getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            is_folder = stat.S_ISDIR(status.st_mode)
            what = "it is a folder" if is_folder else "it is a pipe or a device, not a regular file"
            raise OSError(errno.EISDIR if is_folder else errno.EINVAL, what, str(path))
        if max_bytes is not None and status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it is longer than {max_bytes / 2**20:g} MiB", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def refuse_link(folder: Path) -> None:
    """Makes sure that what is written in a folder stays where the user looks for it.

    Raises:
        UserError: If the folder is a symbolic link.
    """
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to another folder, in which nothing is written: remove the link, "
            "or choose another folder"
        )


def remove_empty(*folders: Path) -> None:
    """Removes folders, in this order, of which nothing is left; others stay as they are."""
    for folder in folders:
        with contextlib.suppress(OSError):  # there are files in it, or there is no such folder
            folder.rmdir()


def load_json(path: Path, *, follow: bool = False) -> Any:
    """Reads a JSON file, see `open_plain`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, or nested too deeply.
    """
    with open_plain(path, MAX_JSON_BYTES, follow=follow) as file:
        return parse_json(file.read(MAX_JSON_BYTES))


def save_json(content: dict[str, Any] | list[Any], path: Path) -> None:
    """Writes a JSON file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON from outside.

    Raises:
        ValueError: If it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


# The last bytes of a sealed file: the SHA-256 of all before them. HDF5 and zip files may be
# followed by other bytes.
_SEAL = "\nsha256:{}\n"
_SEAL_SIZE = len(_SEAL.format("0" * 64))


def seal(path: Path) -> str:
    """Ends a file with the SHA-256 of its bytes, which detects damage; returns it."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_SEAL.format(digest).encode())
    return digest


def seal_of(file: BinaryIO) -> str:
    """The SHA-256 that `seal` wrote at a file's end; empty if there is none, or it does not fit.

    Args:
        file: The open file, which is at its beginning afterwards.
    """
    left = max(file.seek(0, os.SEEK_END) - _SEAL_SIZE, 0)
    digest = hashlib.sha256()
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    fits = file.read() == _SEAL.format(digest.hexdigest()).encode()
    file.seek(0)
    return digest.hexdigest() if fits else ""


def is_printable(text: object) -> bool:
    """Whether this is text that can be shown: not empty, one line, no control characters."""
    return isinstance(text, str) and bool(text) and text.isprintable()


def printable(text: str, longest: int = 80) -> str:
    """Text from outside (a file's name, a column's) so that it can be shown as one short line.

    Line breaks, control characters (commands to a terminal), marks that reverse the direction
    of writing and bytes that are no text become U+FFFD.
    """
    shown = _printable_line(text[: longest + 1])
    return shown if len(text) <= longest else shown[: longest - 1] + "…"


# Not printable by Unicode's definition, and harmless.
_SPACES = "\u00a0\u2009\u202f"


def printable_lines(text: str) -> str:
    """The same for a text of any length, whose line breaks stay."""
    return "\n".join(map(_printable_line, text.split("\n")))


def _printable_line(line: str) -> str:
    return "".join(c if c.isprintable() or c in _SPACES else "\ufffd" for c in line)
