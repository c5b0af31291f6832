"""Where data files lie: the user's folders or the cache (`download` fills it)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import platformdirs

from implicit_accel.errors import DataError, UserError
from implicit_accel.files import open_plain

DATA_DIR_VARIABLE = "IMPLICIT_ACCEL_DATA_DIR"
"""The environment variable that names a folder with data files."""

MAX_FILE_BYTES = 64 * 2**20
"""The largest data file that is read (the largest official one has about 6 MB)."""


class Progress(Protocol):
    """Called while a download runs, so that a program can draw a bar."""

    def __call__(self, bytes_done: int, bytes_total: int | None, /) -> None:
        """Take the bytes received so far and, where known, the bytes in all."""


@dataclass(frozen=True)
class Archive:
    """A published zip archive of data files.

    Attributes:
        folder: The subfolder in which the files lie in a data folder or in the cache.
        members: The archive's members that are used, all at its top level.
        url: Address of the zip archive, http or https.
        page: The page from which a person gets the files by hand.
        sha256: Digest of the archive as it was published; empty if it is not known.
        digests: SHA-256 of members, as far as they are known, by name. They decide where the
            archive was packed anew.

    Raises:
        UserError: The address is not an http(s) one.
    """

    folder: str
    members: tuple[str, ...]
    url: str
    page: str
    sha256: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the address."""
        _check_url(self.url)


@dataclass(frozen=True)
class FileSet:
    """Published data files that each have an address of their own, on one or more servers.

    Attributes:
        folder: The subfolder in which the files lie in a data folder or in the cache.
        members: The names of the files.
        urls: Addresses, http or https, below which the files are; tried in this order.
        page: The page from which a person gets the files by hand.

    Raises:
        UserError: There is no address, or one is not http(s).
    """

    folder: str
    members: tuple[str, ...]
    urls: tuple[str, ...]
    page: str

    def __post_init__(self) -> None:
        """Checks the addresses."""
        if not self.urls:
            raise UserError("No download address is given: give at least one.")
        for url in self.urls:
            _check_url(url)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(
            f"{url!r} is no download address: give one that starts with https:// or http://."
        )


def locate(
    archive: Archive | FileSet,
    names: Sequence[str],
    *,
    endings: Sequence[str] = ("",),
    data_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
    advice: str = "",
) -> Path | None:
    """Finds the folder that holds the files, looking nowhere but on this machine.

    The order is ``data_dir``, the folder named by ``IMPLICIT_ACCEL_DATA_DIR``, the cache. In each,
    ``<place>/<archive.folder>`` comes before ``<place>`` itself. In the first two a folder that
    holds some of the files is taken to be the source, so the missing ones are an error, not a
    reason to mix sources; a cache with gaps is passed over, since it can be filled again.

    Args:
        archive: What the files belong to.
        names: The files needed.
        endings: A file also counts with one of these at the end of its name, such as ".gz".
        data_dir: A folder to look in first.
        cache_dir: The cache; by default the user's cache folder for this package.
        advice: A closing sentence for the error about missing files.

    Returns:
        The folder that holds all of ``names``, or None.

    Raises:
        UserError: ``data_dir`` or the variable's folder does not exist.
        DataError: A folder holds only some of the files, or cannot be read.
    """
    for asked_for, place in (
        ("data_dir", data_dir),
        (DATA_DIR_VARIABLE, os.environ.get(DATA_DIR_VARIABLE) or None),
    ):
        if place is None:
            continue
        root = _expand(place)
        if not _check_path(root, Path.is_dir):
            raise UserError(
                f"{asked_for}: there is no folder {str(root)!r}; name an existing folder that "
                f"holds {join_names(names)} (or a subfolder {archive.folder!r} with them)."
            )
        for folder in (root / archive.folder, root):
            missing = _missing(folder, names, endings)
            if not missing:
                return folder
            if len(missing) < len(names):
                raise DataError(
                    f"{folder} lacks {join_names(missing)}: get the original from {archive.page} "
                    f"and put it into that folder.{advice and ' '}{advice}"
                )
    cache = cache_folder(cache_dir)
    for folder in (cache / archive.folder, cache):
        if not _missing(folder, names, endings):
            return folder
    return None


def not_here(archive: Archive | FileSet) -> str:
    """What to say when files are not on this machine and must not be downloaded."""
    return (
        f"{archive.folder}: its files are not on this machine. Get them from {archive.page} and "
        f"put them in a folder {archive.folder}/ below --data_dir."
    )


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """Returns the folder that keeps downloaded files: ``cache_dir``, or the user's cache."""
    if cache_dir is None:
        cache_dir = platformdirs.user_cache_dir("implicit_accel")
    return _expand(cache_dir)


def read_file(path: Path | str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Reads a whole file, unless it is absurdly long.

    Raises:
        DataError: The file is missing, unreadable, empty or longer than ``max_bytes``.
    """
    path = _expand(path)
    try:
        with open_plain(path, follow=True) as file:
            # In pieces: asked for all at once, Python would set aside max_bytes for any file.
            data = bytearray()
            while len(data) <= max_bytes and (piece := file.read(2**20)):
                data += piece
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"{str(path)!r} cannot be read: {one_line(error)}.") from error
    if not data:
        raise DataError(f"{path} is empty: get the original file again.")
    if len(data) > max_bytes:
        raise DataError(
            f"{path} is longer than {mebibytes(max_bytes)}: this is not the file that was meant."
        )
    return bytes(data)


def with_ending(path: Path, endings: Sequence[str]) -> Path | None:
    """The first of the path's variants, one for each ending, that is a file; None if none is."""
    variants = (path.with_name(path.name + ending) for ending in endings)
    return next((v for v in variants if _check_path(v, Path.is_file)), None)


def _missing(folder: Path, names: Sequence[str], endings: Sequence[str]) -> list[str]:
    return [name for name in names if with_ending(folder / name, endings) is None]


def _check_path(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except OSError as error:  # such as a folder that may not be entered
        raise DataError(f"{path} cannot be looked at: {one_line(error)}.") from error


def _expand(path: Path | str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~unknown
        raise UserError(f"{str(path)!r} is no path: {one_line(error)}.") from error


def one_line(error: Exception) -> str:
    """An error in one line without its Python names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split()).rstrip(".")


def join_names(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)


def mebibytes(num_bytes: int) -> str:
    """A size in a sentence."""
    return f"{num_bytes / 2**20:g} MiB"
