"""Writing files whole or not at all, and what may be shown of text from outside."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to, then moves it into place.

    A reader sees the old file or the whole new one; after an error the old one is still there.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
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
    finally:
        temporary.unlink(missing_ok=True)


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
