"""Writing files whole or not at all, sealing them, and showing text from outside."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PARTIAL = ".partial-"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, then moves it into place.

    A reader sees the old file or the whole new one; after an error the old one is still there, and
    once this has returned, the new one outlives a loss of power.
    """
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f"{_PARTIAL}{path.stem}-", suffix=path.suffix
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


def remove_partial(folder: Path, *, deep: bool = True) -> None:
    """Removes what writers that were killed have left in a folder.

    Args:
        folder: The folder; it need not exist.
        deep: Whether also in the folders in it.
    """
    for path in (folder.rglob if deep else folder.glob)(f"{_PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


# The last bytes of a sealed file: the SHA-256 of all before them. HDF5 and zip files may be
# followed by other bytes.
_SEAL = "\nsha256:{}\n"
_SEAL_SIZE = len(_SEAL.format("0" * 64))


def seal(path: Path) -> None:
    """Ends a file with the SHA-256 of its bytes."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_SEAL.format(digest).encode())


def is_sealed(path: Path) -> bool:
    """Whether a file is as `seal` left it: to be asked before anything is made of its bytes.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - _SEAL_SIZE
        file.seek(0)
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        return file.read() == _SEAL.format(digest.hexdigest()).encode()


def seal_of(path: Path) -> str:
    """The SHA-256 that `seal` wrote at a file's end; empty if there is no such file or seal.

    The bytes before it are not read: `is_sealed` verifies them.
    """
    before, after = _SEAL.encode().split(b"{}")
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _SEAL_SIZE, 0))
            end = file.read()
    except OSError:
        return ""
    digest = end.removeprefix(before).removesuffix(after)
    sealed = len(end) == _SEAL_SIZE and before + digest + after == end and digest.isalnum()
    return digest.decode() if sealed else ""


def is_printable(text: object) -> bool:
    """Whether this is text that can be shown: not empty, one line, no control characters."""
    return isinstance(text, str) and bool(text) and text.isprintable()


def printable(text: str, longest: int = 80) -> str:
    """Text from outside (a file's name, a column's) so that it can be shown as one short line.

    Line breaks, control characters (a terminal would obey them), marks that reverse the direction
    of writing and bytes that are no text become U+FFFD.
    """
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text[: longest + 1])
    return shown if len(text) <= longest else shown[: longest - 1] + "…"
