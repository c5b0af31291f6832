"""Downloads published archives and files into the cache.

Everything that arrives from outside is bounded in size, checked before it is kept, and never
unpacked outside the cache, unpickled or executed.
"""

import contextlib
import hashlib
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import pooch
import requests  # what pooch downloads with: needed here for the names of its errors

from implicit_accel.data.fetch import (
    DATA_DIR_VARIABLE,
    MAX_FILE_BYTES,
    Archive,
    FileSet,
    Progress,
    cache_folder,
    join_names,
    mebibytes,
    one_line,
)
from implicit_accel.errors import DataError
from implicit_accel.files import atomic_path, printable

MAX_ARCHIVE_BYTES = 64 * 2**20
"""The largest archive that is downloaded (the official ones have up to 15 MiB)."""

MAX_RATIO = 100
"""The largest compression ratio of an archive's member (text of numbers stays below 10)."""

TIMEOUT_S = 30.0
"""Seconds without an answer, or without a further byte, after which a try is given up."""

TRIES = 4
"""How often a download is tried before it counts as failed."""

FIRST_WAIT_S = 1.0
"""Seconds between the first try and the second; each further wait doubles."""


def download(
    archive: Archive,
    check: Callable[[Mapping[str, bytes]], None],
    *,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Downloads an archive and places its members, once they are checked, in the cache.

    An archive with the published checksum is good. One with another may have been packed anew,
    which must not lock users out: then each member with a known checksum must have it. The archive
    itself is never kept, and each file is moved into place whole, so a failure or another process
    at the same work leaves no damaged file.

    Args:
        archive: What to download.
        check: Gets each member's bytes by name and raises DataError where they are not good.
        cache_dir: The cache; by default the user's cache folder for this package.
        progress: Called with the bytes received and all of them.

    Returns:
        The folder that now holds ``archive.members``.

    Raises:
        DataError: No connection, no answer in time, not a zip archive, or unusable contents. The
            message says how to get the files by hand.
    """

    def get(url: str, folder: Path) -> dict[str, bytes]:
        # Nameless and in the cache: a full disk shows early, and nothing is left behind.
        with tempfile.TemporaryFile(dir=folder) as file:
            _download_to(file, url, progress)
            members = _read_members(file, archive.members)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != archive.sha256:
                _check_digests(archive, members)
            return members

    return _place(archive, (archive.url,), get, check, cache_dir)


def download_files(
    files: FileSet,
    check: Callable[[Mapping[str, bytes]], None],
    *,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Downloads files that each have an address, and places them, once checked, in the cache.

    All of them come from one server; where a server fails, or what it sends is not good, the next
    one is asked for all of them.

    Args:
        files: What to download.
        check: Gets each file's bytes by name and raises DataError where they are not good.
        cache_dir: The cache; by default the user's cache folder for this package.
        progress: Called with the bytes received and all of them, from the server's first file on.

    Returns:
        The folder that now holds ``files.members``.

    Raises:
        DataError: No server has sent usable files. The message says how to get them by hand.
    """

    def get(url: str, folder: Path) -> dict[str, bytes]:
        contents: dict[str, bytes] = {}
        for name in files.members:
            before = sum(map(len, contents.values()))
            with tempfile.TemporaryFile(dir=folder) as file:
                _download_to(file, f"{url.rstrip('/')}/{name}", _counting_from(before, progress))
                file.seek(0)
                contents[name] = file.read(MAX_FILE_BYTES + 1)
            if len(contents[name]) > MAX_FILE_BYTES:
                raise DataError(f"{name} is longer than {mebibytes(MAX_FILE_BYTES)}")
        return contents

    return _place(files, files.urls, get, check, cache_dir)


def _counting_from(before: int, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, /: progress(before + done, None if total is None else before + total)


def _place(
    source: Archive | FileSet,
    urls: Sequence[str],
    get: Callable[[str, Path], dict[str, bytes]],
    check: Callable[[Mapping[str, bytes]], None],
    cache_dir: Path | str | None,
) -> Path:
    """Gets the members from the first address that has good ones, and moves them into place."""
    folder = cache_folder(cache_dir) / source.folder
    unpack = "unpack" if isinstance(source, Archive) else "put"
    by_hand = (
        f"By hand: download it from {source.page}, {unpack} {join_names(source.members)} into a "
        f"folder and name that folder as data_dir or in {DATA_DIR_VARIABLE}."
    )
    failures: list[tuple[str, Exception]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for url in urls:
            try:
                files = get(url, folder)
                check(files)
                break
            except (requests.RequestException, ValueError) as error:  # ValueError: also DataError
                failures.append((url, error))
        else:
            reasons = "; ".join(f"{url}: {_reason(error)}".rstrip(".") for url, error in failures)
            raise DataError(f"Could not download {reasons}. {by_hand}") from failures[-1][1]
        for name, data in files.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(data)
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
                progressbar=_Transfer(file, progress),  # pyright: ignore[reportArgumentType]
                chunk_size=2**16,
                timeout=TIMEOUT_S,
                hooks={"response": [lambda a, **_: answers.enter_context(a), _check_redirect]},
            )
            try:
                get(url, file, None)
                return
            except requests.RequestException as error:
                if attempt == TRIES - 1 or not _is_passing(error):
                    raise
        time.sleep(FIRST_WAIT_S * 2**attempt)


def _check_redirect(answer: requests.Response, **_: object) -> None:
    """Called with every answer, also with those that point elsewhere."""
    if not answer.is_redirect:
        return
    here = urlsplit(answer.url)
    there = urlsplit(urljoin(answer.url, answer.headers["location"]))
    if here.scheme == "https" and there.scheme == "http":
        raise DataError("it was redirected from https to http, which anybody could alter")
    if there.scheme in ("http", "https") and there.hostname != here.hostname:
        raise DataError(
            f"it was redirected to another server, {there.hostname}, which is not trusted"
        )


class _Transfer:
    """Stands where pooch expects a progress bar: bounds the size, passes the progress on."""

    def __init__(self, file: BinaryIO, progress: Progress | None) -> None:
        self.total = 0  # set by pooch; 0 where it is not known
        self._file = file
        self._progress = progress
        self._finished = False

    def update(self, _: int) -> None:
        if self._finished:  # after reset pooch reports the total once more
            return
        # What pooch reports is the size asked for; an answer in small chunks, or one that is
        # unpacked on the way, has another.
        done = self._file.tell()
        if max(done, self.total) > MAX_ARCHIVE_BYTES:
            raise DataError(f"it is longer than {mebibytes(MAX_ARCHIVE_BYTES)}")
        if self._progress is not None:
            self._progress(done, self.total if done <= self.total else None)

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
    """Reads the named top-level members of a zip archive and ignores all others."""
    # pooch.Unzip bounds no size, selects members by prefix and logs to the console.
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
        RuntimeError,  # also for a compression that zipfile does not know
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
    # In pieces: read in one call, zipfile unpacks up to 2 GiB before it cuts off what the
    # archive's directory does not promise. The CRC is checked at the end.
    with archive.open(info) as member:
        return b"".join(iter(lambda: member.read(2**16), b""))


def _check_digests(archive: Archive, members: Mapping[str, bytes]) -> None:
    for name, known in archive.digests.items():
        found = hashlib.sha256(members[name]).hexdigest()
        if found != known:
            raise DataError(f"{name} is not the published file (SHA-256 {found}, not {known})")


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
        case _:
            text = one_line(error)
    return printable(" ".join(text.split()), 200)  # a server may say anything
