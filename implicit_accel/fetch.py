"""Where data files come from: the user's folders, the cache, or the official address.

Everything that arrives from outside is bounded in size, checked before it is kept, and never
unpacked outside the cache, unpickled or executed.
"""

import contextlib
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

import pooch
import requests  # what pooch downloads with: needed here for the names of its errors

from implicit_accel.errors import DataError, UserError

DATA_DIR_VARIABLE = "IMPLICIT_ACCEL_DATA_DIR"
"""The environment variable that names a folder with data files."""

MAX_FILE_BYTES = 64 * 2**20
"""The largest data file that is read (the largest official one has about 6 MB)."""

MAX_ARCHIVE_BYTES = 256 * 2**20
"""The largest archive that is downloaded."""

MAX_RATIO = 100
"""The largest compression ratio of an archive's member (text of numbers stays below 10)."""

TIMEOUT_S = 30.0
"""Seconds without an answer, or without a further byte, after which a try is given up."""

TRIES = 4
"""How often a download is tried before it counts as failed."""

FIRST_WAIT_S = 1.0
"""Seconds between the first try and the second; each further wait doubles."""


class Progress(Protocol):
    """Called while a download runs, so that a program can draw a bar."""

    def __call__(self, bytes_done: int, bytes_total: int | None, /) -> None:
        """Take the bytes received so far and, where the server tells, the bytes in all."""


@dataclass(frozen=True)
class Archive:
    """A published zip archive of data files.

    Attributes:
        folder: The subfolder in which the files lie in a data folder or in the cache.
        members: The archive's members that are used, all at its top level.
        url: Address of the zip archive, http or https.
        page: The page from which a person gets the files by hand.

    Raises:
        UserError: The address is not an http(s) one.
    """

    folder: str
    members: tuple[str, ...]
    url: str
    page: str

    def __post_init__(self) -> None:
        """Checks the address."""
        try:
            parts = urlsplit(self.url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(
                f"{self.url!r} is no download address: give one that starts with https:// or "
                "http://."
            )


def locate(
    archive: Archive,
    names: Sequence[str],
    *,
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
                f"holds {_join(names)} (or a subfolder {archive.folder!r} with them)."
            )
        for folder in (root / archive.folder, root):
            missing = _missing(folder, names)
            if not missing:
                return folder
            if len(missing) < len(names):
                raise DataError(
                    f"{folder} lacks {_join(missing)}: get the original from {archive.page} and "
                    f"put it into that folder.{advice and ' '}{advice}"
                )
    cache = cache_folder(cache_dir)
    for folder in (cache / archive.folder, cache):
        if not _missing(folder, names):
            return folder
    return None


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """Returns the folder that keeps downloaded files: ``cache_dir``, or the user's cache."""
    return Path(pooch.os_cache("implicit_accel")) if cache_dir is None else _expand(cache_dir)


def read_file(path: Path | str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Reads a whole file, unless it is absurdly long.

    Raises:
        DataError: The file is missing, unreadable, empty or longer than ``max_bytes``.
    """
    path = _expand(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"{str(path)!r} cannot be read: {_reason(error)}.") from error
    if not data:
        raise DataError(f"{path} is empty: get the original file again.")
    if len(data) > max_bytes:
        raise DataError(
            f"{path} is longer than {_mebibytes(max_bytes)}: this is not the file that was meant."
        )
    return data


def download(
    archive: Archive,
    check: Callable[[Mapping[str, bytes]], None],
    *,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Downloads an archive and places its members, once they are checked, in the cache.

    No checksum is asked of the archive: a server that repacks its zip must not lock users out, so
    the contents are what counts. The archive itself is never kept, and each file is moved into
    place whole, so a failure or another process at the same work leaves no damaged file.

    Args:
        archive: What to download.
        check: Gets each member's bytes by name and raises DataError where they are not good.
        cache_dir: The cache; by default the user's cache folder for this package.
        progress: Told how far the download is.

    Returns:
        The folder that now holds ``archive.members``.

    Raises:
        DataError: No connection, no answer in time, not a zip archive, or unusable contents. The
            message says how to get the files by hand.
    """
    folder = cache_folder(cache_dir) / archive.folder
    by_hand = (
        f"By hand: download it from {archive.page}, unpack {_join(archive.members)} into a folder "
        f"and name that folder as data_dir or in {DATA_DIR_VARIABLE}."
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Nameless and in the cache: a full disk shows early, and nothing is left behind.
        with tempfile.TemporaryFile(dir=folder) as file:
            _download_to(file, archive.url, progress)
            files = _read_members(file, archive.members)
            check(files)
        for name, data in files.items():
            _place(folder / name, data)
    except (requests.RequestException, ValueError) as error:  # ValueError: also DataError
        reason = f"Could not download {archive.url}: {_reason(error)}"
        raise DataError(f"{reason.rstrip('.')}. {by_hand}") from error
    except OSError as error:
        raise DataError(f"The cache {folder} cannot be written: {_reason(error)}.") from error
    return folder


def _download_to(file: BinaryIO, url: str, progress: Progress | None) -> None:
    # pooch.retrieve logs to the console and has no retries, so pooch's downloader is used directly.
    for attempt in range(TRIES):
        file.seek(0)
        file.truncate()
        with contextlib.ExitStack() as answers:  # pooch leaves a broken-off answer open
            get = pooch.HTTPDownloader(
                progressbar=_Transfer(progress),  # pyright: ignore[reportArgumentType], too narrow
                chunk_size=2**16,
                timeout=TIMEOUT_S,
                hooks={"response": lambda answer, **_: answers.enter_context(answer)},
            )
            try:
                get(url, file, None)
                return
            except requests.RequestException as error:
                if attempt == TRIES - 1 or not _is_passing(error):
                    raise
        time.sleep(FIRST_WAIT_S * 2**attempt)


class _Transfer:
    """Stands where pooch expects a progress bar: bounds the size, passes the progress on."""

    def __init__(self, progress: Progress | None) -> None:
        self.total = 0  # set by pooch; 0 where the server does not tell
        self._progress = progress
        self._done = 0
        self._finished = False

    def update(self, num_bytes: int) -> None:
        if self._finished:  # after reset pooch reports the total once more
            return
        # pooch counts the last chunk as a full one
        self._done = min(self._done + num_bytes, self.total or self._done + num_bytes)
        if max(self._done, self.total) > MAX_ARCHIVE_BYTES:
            raise DataError(f"it is longer than {_mebibytes(MAX_ARCHIVE_BYTES)}")
        if self._progress is not None:
            self._progress(self._done, self.total or None)

    def reset(self) -> None:
        self._finished = True

    def close(self) -> None:
        pass


def _is_passing(error: requests.RequestException) -> bool:
    """Whether another try may help: not where the server says no, or the address is wrong."""
    if error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(
        error,
        requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError
        | requests.exceptions.ContentDecodingError,
    )


def _read_members(file: BinaryIO, names: Sequence[str]) -> dict[str, bytes]:
    """Reads the named top-level members of a zip archive; all else in it is left alone."""
    file.seek(0)
    if file.read(512).lstrip().startswith(b"<"):
        raise DataError("the server sent a web page instead of a zip archive; try again later")
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: _read_member(archive, name) for name in names}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # holds NotImplementedError: an unknown compression
        ValueError,
        IndexError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"what the server sent is no sound zip archive ({_reason(error)})"
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise DataError(f"the zip archive holds {name!r} {len(found)} times instead of once")
    info = found[0]
    if info.flag_bits & 1:
        raise DataError(f"{name!r} in the zip archive is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name!r} in the zip archive is compressed in an unexpected way")
    if info.file_size > min(MAX_FILE_BYTES, MAX_RATIO * info.compress_size):
        raise DataError(
            f"{name!r} in the zip archive would unpack from {info.compress_size} to "
            f"{info.file_size} bytes, more than a data file can"
        )
    return archive.read(info)  # reads no more than file_size, and checks its CRC


def _place(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whatever happens meanwhile."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not _check_path(folder / name, Path.is_file)]


def _check_path(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except OSError as error:  # such as a folder that may not be entered
        raise DataError(f"{path} cannot be looked at: {_reason(error)}.") from error


def _expand(path: Path | str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~somebody who does not exist
        raise UserError(f"{str(path)!r} is no path: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """An error in one line without its Python names."""
    match error:
        case requests.HTTPError() if error.response is not None:
            text = f"the server answered {error.response.status_code} {error.response.reason}"
        case requests.Timeout():
            text = f"no answer within {TIMEOUT_S:g} s"
        case requests.exceptions.InvalidSchema():
            text = "it was redirected to an address that is not http(s)"
        case requests.exceptions.ChunkedEncodingError():
            text = "the connection broke off"
        case requests.ConnectionError():
            text = (
                f"no answer within {TIMEOUT_S:g} s"
                if "timed out" in str(error).lower()
                else "no connection to the server"
            )
        case OSError(strerror=str(reason)):
            text = reason
        case _:
            text = str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _join(names: Sequence[str]) -> str:
    return ", ".join(names)


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:g} MiB"
