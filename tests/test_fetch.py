"""Fetching: the search order, and every way in which a download can go wrong."""

import gzip
import io
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from requests.adapters import HTTPAdapter

from implicit_accel.data import download, fetch
from implicit_accel.errors import DataError, UserError

PAGE = "https://example.org/page"
NAMES = ("a.dat", "b.dat")
GOOD = {"a.dat": b"good a\n", "b.dat": b"good b\n"}


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Neither the user's data folder nor the user's cache nor a proxy."""
    monkeypatch.delenv(fetch.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(
        fetch.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "user-cache" / name)
    )
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)


def archive(url="http://localhost/x.zip"):
    return fetch.Archive("thing", NAMES, url, PAGE)


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def assert_one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text.isprintable()  # so it is one line
    assert 0 < len(text) < 700
    return text


class TestLocate:
    def test_nothing_anywhere(self):
        assert fetch.locate(archive(), NAMES) is None

    def test_order(self, tmp_path, monkeypatch):
        cache = fill(tmp_path / "cache" / "thing", *NAMES)
        find = lambda data_dir=None: fetch.locate(  # noqa: E731
            archive(), NAMES, data_dir=data_dir, cache_dir=tmp_path / "cache"
        )
        assert find() == cache
        variable = fill(tmp_path / "variable", *NAMES)
        monkeypatch.setenv(fetch.DATA_DIR_VARIABLE, str(variable))
        assert find() == variable
        given_dir = fill(tmp_path / "given", *NAMES)
        assert find(given_dir) == given_dir
        assert find(str(given_dir)) == given_dir
        subfolder = fill(given_dir / "thing", *NAMES)
        assert find(given_dir) == subfolder
        assert find(fill(tmp_path / "empty")) == variable

    def test_default_cache(self, tmp_path):
        folder = fill(tmp_path / "user-cache" / "implicit_accel" / "thing", *NAMES)
        assert fetch.locate(archive(), NAMES) == folder

    def test_only_what_is_needed(self, tmp_path):
        fill(tmp_path, "a.dat")
        assert fetch.locate(archive(), ["a.dat"], data_dir=tmp_path) == tmp_path

    def test_some_files(self, tmp_path):
        fill(tmp_path / "thing", "a.dat")
        with pytest.raises(DataError, match=r"lacks b\.dat: .*example\.org.*Do this\.$") as error:
            fetch.locate(archive(), NAMES, data_dir=tmp_path, advice="Do this.")
        assert_one_line(error)

    def test_incomplete_cache_is_passed_over(self, tmp_path):
        fill(tmp_path / "thing", "a.dat")
        assert fetch.locate(archive(), NAMES, cache_dir=tmp_path) is None

    @pytest.mark.parametrize("name", ["nowhere", "a\0b", "~no-such-user-here/x"])
    def test_no_such_folder(self, tmp_path, name):
        folder = name if name.startswith("~") else tmp_path / name
        with pytest.raises(UserError) as error:
            fetch.locate(archive(), NAMES, data_dir=folder)
        assert_one_line(error)

    def test_no_such_folder_in_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv(fetch.DATA_DIR_VARIABLE, str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=fetch.DATA_DIR_VARIABLE):
            fetch.locate(archive(), NAMES)

    def test_empty_variable_is_unset(self, monkeypatch):
        monkeypatch.setenv(fetch.DATA_DIR_VARIABLE, "")
        assert fetch.locate(archive(), NAMES) is None

    def test_folder_that_may_not_be_entered(self, tmp_path, monkeypatch):
        def refuse(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "is_file", refuse)
        with pytest.raises(DataError, match="Permission denied") as error:
            fetch.locate(archive(), NAMES, data_dir=tmp_path)
        assert_one_line(error)


class TestReadFile:
    def test_reads(self, tmp_path):
        (tmp_path / "x").write_bytes(b"abc")
        assert fetch.read_file(tmp_path / "x", 3) == b"abc"

    @pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"abcd", "longer than")])
    def test_length(self, tmp_path, content, words):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=words) as error:
            fetch.read_file(tmp_path / "x", 3)
        assert_one_line(error)

    def test_memory_is_taken_for_what_is_there(self, tmp_path):
        (tmp_path / "x").write_bytes(b"abc")
        tracemalloc.start()
        try:
            fetch.read_file(tmp_path / "x", 2**28)
            assert tracemalloc.get_traced_memory()[1] < 2**23
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("name", ["nothing", "", "a\0b"])
    def test_unreadable(self, tmp_path, name):
        with pytest.raises(DataError, match="cannot be read") as error:
            fetch.read_file(f"{tmp_path}/{name}")
        assert_one_line(error)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "x.zip", "ftp://a/b", "http://", "http://["]
)
def test_address_must_be_http(url):
    with pytest.raises(UserError, match="no download address") as error:
        archive(url)
    assert_one_line(error)


# --- downloads from a server on this machine ---


def zip_bytes(members: Mapping[str, bytes] = GOOD, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def encrypted_zip() -> bytes:
    data = bytearray(zip_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            data[at + offset] |= 1
    return bytes(data)


def duplicate_zip() -> bytes:
    return zip_bytes({"a.dat": b"1", "b.dat": b"2", "c.dat": b"3"}).replace(b"c.dat", b"a.dat")


def lying_zip() -> bytes:
    """Declares fewer bytes than the member unpacks to."""
    data = bytearray(zip_bytes({"a.dat": b"x" * 4000, "b.dat": b"y"}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.find(signature) + offset, 10)
    return bytes(data)


Route = Callable[[BaseHTTPRequestHandler], None]


def send(body: bytes, status: int = 200, **headers: str) -> Route:
    def route(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return route


@pytest.fixture
def serve():
    """Starts a server that answers the requests in turn, the last answer again and again."""
    release = threading.Event()
    started = []

    def start(*routes: Route):
        requested = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requested.append(self.path)
                with suppress(OSError):
                    routes[min(len(requested), len(routes)) - 1](self)

            def log_message(self, format, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.release = release  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/x.zip", requested

    yield start
    release.set()
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def check_good(files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        if not data.startswith(b"good"):
            raise DataError(f"{name}, line 1: not good")


def download_into(url: str, cache: Path, **options) -> Path:
    return download.download(archive(url), check_good, cache_dir=cache, **options)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download(serve, tmp_path, capfd):
    url, requested = serve(send(zip_bytes(GOOD | {"../evil.dat": b"x", "readme": b"y"})))
    folder = download_into(url, tmp_path)
    assert folder == tmp_path / "thing"
    assert {name: (folder / name).read_bytes() for name in NAMES} == GOOD
    assert files_below(tmp_path) == sorted(NAMES)
    assert fetch.locate(archive(url), NAMES, cache_dir=tmp_path) == folder
    assert len(requested) == 1
    assert capfd.readouterr() == ("", "")


def test_download_replaces_a_damaged_cache(serve, tmp_path):
    fill(tmp_path / "thing", "a.dat")
    download_into(serve(send(zip_bytes()))[0], tmp_path)
    assert (tmp_path / "thing" / "a.dat").read_bytes() == GOOD["a.dat"]


@pytest.mark.parametrize("told", [True, False])
def test_progress(serve, tmp_path, told):
    body = zip_bytes({n: b"good" + os.urandom(100_000) for n in NAMES}, zipfile.ZIP_STORED)

    def untold(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(body)

    calls = []
    url, _ = serve(send(body) if told else untold)
    download_into(url, tmp_path, progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert len(done) > 2
    assert {t for _, t in calls} == ({len(body)} if told else {None})
    assert done[-1] == len(body)


def test_retries(serve, tmp_path):
    broken = send(zip_bytes()[:50], Content_Length="5000")
    url, requested = serve(send(b"", 502), broken, send(zip_bytes()))
    download_into(url, tmp_path)
    assert len(requested) == 3


def test_a_broken_download_is_started_again_from_nothing(serve, tmp_path, monkeypatch):
    read, received = download._read_members, []

    def note(file, names):
        file.seek(0)
        received.append(file.read())
        return read(file, names)

    monkeypatch.setattr(download, "_read_members", note)
    longer = zip_bytes()[:-5] + os.urandom(300_000)
    url, requested = serve(send(longer, Content_Length="400000"), send(zip_bytes()))
    download_into(url, tmp_path)
    assert received == [zip_bytes()]
    assert len(requested) == 2


def test_an_answer_in_small_chunks(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 2**17)
    body = zip_bytes()

    def chunked(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")

    calls = []
    url, _ = serve(chunked)
    download_into(url, tmp_path, progress=lambda done, _: calls.append(done))
    assert calls[-1] == len(body)


def test_an_answer_that_swells_on_the_way(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 2**17)
    url, requested = serve(send(gzip.compress(b"\0" * 2**23), Content_Encoding="gzip"))
    with pytest.raises(DataError, match=r"longer than 0\.125 MiB") as error:
        download_into(url, tmp_path)
    assert_one_line(error)
    assert files_below(tmp_path) == []
    assert len(requested) == 1


def test_a_failed_download_leaves_the_cache_as_it_was(serve, tmp_path):
    url, _ = serve(send(zip_bytes()), send(zip_bytes({"a.dat": b"good", "b.dat": b"bad"})))
    download_into(url, tmp_path)
    with pytest.raises(DataError, match="not good"):
        download_into(url, tmp_path)
    assert {name: (tmp_path / "thing" / name).read_bytes() for name in NAMES} == GOOD


def test_a_link_in_the_archive_is_no_link_in_the_cache(serve, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("a.dat")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "good/../../secret")
        file.writestr("b.dat", "good b")
    folder = download_into(serve(send(buffer.getvalue()))[0], tmp_path)
    assert not (folder / "a.dat").is_symlink()
    assert (folder / "a.dat").read_text() == "good/../../secret"


_FETCH = """
import sys
from implicit_accel.data.download import download
from implicit_accel.data.fetch import Archive
archive = Archive("thing", ("a.dat", "b.dat"), sys.argv[1], "https://example.org/page")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(8):
    download(archive, lambda files: None, cache_dir=sys.argv[2])
"""


def test_two_processes_at_once(serve, tmp_path):
    body = zip_bytes({name: data * 100_000 for name, data in GOOD.items()}, zipfile.ZIP_STORED)
    url, requested = serve(send(body))
    command = [sys.executable, "-c", _FETCH, url, str(tmp_path / "cache")]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[1])
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    seen = set()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        for path in (tmp_path / "cache" / "thing").glob("[ab].dat"):
            seen.add(hash(path.read_bytes()))
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert seen <= {hash(data * 100_000) for data in GOOD.values()}
    assert files_below(tmp_path) == sorted(NAMES)
    assert len(requested) == 16


def test_two_downloads_at_once(serve, tmp_path):
    url, _ = serve(send(zip_bytes()))
    threads = [threading.Thread(target=download_into, args=(url, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files_below(tmp_path) == sorted(NAMES)


BAD_BODIES = {
    "web page": (b"<!DOCTYPE html><html></html>", "web page instead of a zip"),
    "empty": (b"", "no sound zip"),
    "text": (b"hello" * 100, "no sound zip"),
    "truncated": (zip_bytes()[:-30], "no sound zip"),
    "missing member": (zip_bytes({"a.dat": b"good"}), "'b.dat' 0 times"),
    "member elsewhere": (zip_bytes({"../a.dat": b"good", "x/b.dat": b"good"}), "'a.dat' 0 times"),
    "absolute names": (zip_bytes({"/a.dat": b"good", "C:\\b.dat": b"good"}), "'a.dat' 0 times"),
    "member twice": (duplicate_zip(), "'a.dat' 2 times"),
    "encrypted": (encrypted_zip(), "'a.dat' in the zip archive is encrypted"),
    "unexpected method": (zip_bytes(method=zipfile.ZIP_BZIP2), "unexpected way"),
    "bomb": (zip_bytes({"a.dat": b"good" * 10**6, "b.dat": b"good"}), "would unpack"),
    "false length": (lying_zip(), "no sound zip|would unpack"),
    "bad contents": (zip_bytes({"a.dat": b"good", "b.dat": b"bad"}), r"b\.dat, line 1: not good"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_archive(serve, tmp_path, case):
    body, words = BAD_BODIES[case]
    url, requested = serve(send(body))
    with pytest.raises(DataError, match=words) as error:
        download_into(url, tmp_path)
    text = assert_one_line(error)
    assert url in text
    assert PAGE in text
    assert "a.dat, b.dat" in text
    assert files_below(tmp_path) == []
    assert len(requested) == 1


def test_damaged_member(serve, tmp_path):
    body = bytearray(zip_bytes(method=zipfile.ZIP_STORED))
    body[body.find(b"good")] ^= 1
    with pytest.raises(DataError, match="CRC"):
        download_into(serve(send(bytes(body)))[0], tmp_path)
    assert files_below(tmp_path) == []


def stall(request: BaseHTTPRequestHandler) -> None:
    send(b"PK", Content_Length="1000")(request)
    request.server.release.wait(10)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("route", "words", "tries"),
    [
        (send(b"", 404), "answered 404", 1),
        (send(b"", 503), "answered 503", 2),
        (send(b"PK", Content_Length="1000"), "broke off", 2),
        (stall, r"no answer within 0\.1 s", 2),
        (send(b"", 302, Location="file:///etc/hostname"), r"not http\(s\)", 1),
        (send(b"", 302, Location="ftp://127.0.0.1/x.zip"), r"not http\(s\)", 1),
        (send(b"", 302, Location="/x.zip"), "redirects", 1),
        (send(b"x" * 2**18), "longer than 0.125 MiB", 1),
        (send(zip_bytes(), Content_Length="many"), "Could not download", 1),
    ],
)
def test_bad_answer(serve, tmp_path, monkeypatch, route, words, tries):
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 2**17)
    url, requested = serve(route)
    with pytest.raises(DataError, match=words) as error:
        download_into(url, tmp_path)
    assert PAGE in assert_one_line(error)
    assert files_below(tmp_path) == []
    assert len(requested) == tries or "redirects" in words


def test_redirect_to_http(serve, tmp_path):
    good, _ = serve(send(zip_bytes()))
    url, _ = serve(send(b"", 302, Location=good))
    assert files_below(download_into(url, tmp_path)) == sorted(NAMES)


def test_redirect_to_another_server(serve, tmp_path):
    """By another name: the given address is 127.0.0.1."""
    url, requested = serve(send(b"", 302, Location="http://localhost:9/x.zip"))
    archive = fetch.Archive("a", ("x",), url, PAGE)
    with pytest.raises(DataError, match="redirected to another server, localhost"):
        download.download(archive, lambda _: None, cache_dir=tmp_path)
    assert len(requested) == 1


def test_an_archive_that_is_longer_than_it_says_takes_little_memory(serve, tmp_path):
    """Half a megabyte that unpacks to 512 MiB, of which the directory promises 1000 bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("x", "w", force_zip64=True) as member:
            for _ in range(2**9):
                member.write(bytes(2**20))
        packed.filelist[0].file_size = 1000
    url, _ = serve(send(content.getvalue()))
    archive = fetch.Archive("a", ("x",), url, PAGE)
    tracemalloc.start()
    with pytest.raises(DataError, match="no sound zip archive"):
        download.download(archive, lambda _: None, cache_dir=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_redirect_from_https_to_http(tmp_path, monkeypatch):
    asked = []

    def answer(_self, request, **_):
        asked.append(request.url)
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.headers["Location"] = "http://example.org/x.zip"
        response.raw = io.BytesIO()
        return response

    monkeypatch.setattr(HTTPAdapter, "send", answer)
    with pytest.raises(DataError, match="redirected from https to http") as error:
        download_into("https://example.org/x.zip", tmp_path)
    assert PAGE in assert_one_line(error)
    assert asked == ["https://example.org/x.zip"]


def test_no_name_service(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DataError, match="no connection to the server") as error:
        download_into("http://archive.example/x.zip", tmp_path)
    text = assert_one_line(error)
    assert f"By hand: download it from {PAGE}, unpack a.dat, b.dat into a folder" in text
    assert fetch.DATA_DIR_VARIABLE in text
    assert asked == ["archive.example"] * 2


def test_words_of_a_server_are_not_obeyed(serve, tmp_path):
    def route(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 404 \x1b[2Jgone" + b"x" * 5000 + b"\r\n\r\n")

    with pytest.raises(DataError, match="answered 404") as error:
        download_into(serve(route)[0], tmp_path)
    assert_one_line(error)


def test_no_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    with pytest.raises(DataError, match="no connection to the server") as error:
        download_into(f"http://127.0.0.1:{port}/x.zip", tmp_path)
    assert_one_line(error)


def test_cache_is_a_file(serve, tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(DataError, match="cannot be written") as error:
        download_into(serve(send(zip_bytes()))[0], tmp_path / "cache")
    assert_one_line(error)


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_placing(serve, tmp_path, monkeypatch, point, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(*((os, "fsync") if point == "fsync" else (Path, "replace")), fail)
    expected = DataError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        download_into(serve(send(zip_bytes()))[0], tmp_path)
    assert files_below(tmp_path) == []


@settings(max_examples=examples(50), deadline=None)
@given(st.data())
def test_any_bytes_for_an_archive(data):
    body = bytearray(zip_bytes(method=data.draw(st.sampled_from([0, 8]))))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        body = bytearray(data.draw(st.binary(max_size=200)))
    with suppress(DataError):
        assert set(download._read_members(io.BytesIO(body), NAMES)) == set(NAMES)


def test_errors_of_requests_are_not_retried_in_vain():
    assert not download._is_passing(requests.exceptions.InvalidURL())
