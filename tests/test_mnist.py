"""Images: the idx format byte by byte, gzip, the search for the files, downloads, the stand-in."""

import gzip
import hashlib
import threading
import zlib
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from implicit_accel.data import download, fetch
from implicit_accel.data import mnist as images
from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like, read_idx, unpack_gzip
from implicit_accel.errors import DataError, UserError


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


HAND_MADE = bytes.fromhex("00000803 00000002 00000001 00000003 010203 0405ff")


class TestReadIdx:
    def test_by_hand(self):
        np.testing.assert_array_equal(read_idx(HAND_MADE), [[[1, 2, 3]], [[4, 5, 255]]])
        assert read_idx(HAND_MADE).dtype == np.uint8

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "within the header"),
            (HAND_MADE[:3], "within the header"),
            (HAND_MADE[:15], "within the header"),
            (b"\x1f\x8b" + HAND_MADE[2:], "starts with 1f8b"),
            (HAND_MADE[:2] + b"\x0d" + HAND_MADE[3:], "type 0x0d"),
            (HAND_MADE[:3] + b"\0" + HAND_MADE[4:], "0 dimensions"),
            (HAND_MADE[:3] + b"\xff" + HAND_MADE[4:], "255 dimensions"),
            (HAND_MADE[:-1], r"has 5 values.*\(2, 1, 3\), which has 6"),
            (HAND_MADE + b"\0", "has 7 values"),
            (b"\0\0\x08\x04" + b"\xff" * 16, "has 0 values"),
            (b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, "is empty"),
            (b"\0\0\x08\x01" + b"\0" * 4, "is empty"),
        ],
    )
    def test_damaged(self, data, words):
        with pytest.raises(DataError, match=f"(?s)^the file.*{words}") as error:
            read_idx(data, "the file")
        assert "\n" not in str(error.value)

    @given(
        st_numpy.arrays(
            np.uint8, st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=5), fill=st.nothing()
        )
    )
    def test_round_trip(self, array):
        result = read_idx(idx_bytes(array))
        assert result.shape == array.shape
        np.testing.assert_array_equal(result, array)

    @given(st.data())
    def test_any_bytes(self, data):
        body = bytearray(HAND_MADE)
        for _ in range(data.draw(st.integers(0, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            body = HAND_MADE[: data.draw(st.integers(0, 20))] + data.draw(st.binary(max_size=40))
        with suppress(DataError):
            # What is read says all that the bytes say.
            assert idx_bytes(read_idx(bytes(body))) == bytes(body)


# Without the time: processes that share the tests compare their names, and data are part of them.
PACKED = gzip.compress(b"abc", mtime=0)


class TestUnpackGzip:
    def test_exact_length(self):
        assert unpack_gzip(gzip.compress(b"abc" * 1000), 3000) == b"abc" * 1000

    def test_bomb_is_not_unpacked(self):
        bomb = gzip.compress(bytes(50_000_000))
        assert len(bomb) < 100_000
        with pytest.raises(DataError, match="more than the 1000 bytes"):
            unpack_gzip(bomb, 1000)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (PACKED[:-1], "damaged gzip.*ended before"),
            (PACKED[:5], "damaged gzip.*ended before"),
            (PACKED + b"x", "damaged gzip"),
            (PACKED[:-8] + bytes(8), "damaged gzip"),
            (zlib.compress(b"abc"), "damaged gzip"),
            (b"hello", "damaged gzip"),
        ],
    )
    def test_damaged(self, data, words):
        with pytest.raises(DataError, match=words):
            unpack_gzip(data, 100)

    def test_members_are_joined(self):
        """As RFC 1952 has it; zeros may follow."""
        assert unpack_gzip(PACKED * 2 + b"\0\0", 6) == b"abcabc"
        with pytest.raises(DataError, match="more than the 5 bytes"):
            unpack_gzip(PACKED * 2, 5)

    @given(st.data())
    def test_any_bytes(self, data):
        body = bytearray(gzip.compress(b"0123456789" * 5, mtime=0))
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        with suppress(DataError):
            assert len(unpack_gzip(bytes(body), 50)) <= 50


# --- files of the official names, with a few made-up images ---


@pytest.fixture
def contents(monkeypatch, rng) -> dict[str, bytes]:
    """Four small files that count as the official ones; no cache, folder or proxy of the user's."""
    shapes = [(12, 28, 28), (12,), (5, 28, 28), (5,)]
    files = {
        name: idx_bytes(rng.integers(0, 10, shape).astype(np.uint8))
        for name, shape in zip(images.MNIST_FILES, shapes, strict=True)
    }
    known = {
        name: images.IdxFile(shape, hashlib.sha256(files[name]).hexdigest())
        for name, shape in zip(files, shapes, strict=True)
    }
    monkeypatch.setattr(images, "MNIST_FILES", known)
    monkeypatch.delenv(fetch.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    return files


def assert_read(data: ImageData, contents: dict[str, bytes]) -> None:
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    for array, file in zip(arrays, contents.values(), strict=True):
        np.testing.assert_array_equal(array, read_idx(file))
    assert not data.is_stand_in


@pytest.mark.parametrize("folder", ["mnist", "."])
@pytest.mark.parametrize("packed", [4, 2, 0])
def test_files_may_be_unpacked(tmp_path, contents, folder, packed):
    (tmp_path / folder).mkdir(exist_ok=True)
    for i, (name, body) in enumerate(contents.items()):
        ending, body = (".gz", gzip.compress(body)) if i < packed else ("", body)
        (tmp_path / folder / f"{name}{ending}").write_bytes(body)
    assert_read(load_mnist(data_dir=tmp_path), contents)


def test_a_missing_file(tmp_path, contents):
    for name, body in list(contents.items())[1:]:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte: .*github"):
        load_mnist(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: gzip.compress(body[:-1]), "has 9407 values"),
        (lambda body: gzip.compress(body + b"\0"), "more than the 9424 bytes"),
        (lambda body: gzip.compress(body[:-1] + b"\xff"), "differs from the official file"),
        (lambda body: gzip.compress(b"\0\0\x08\x01" + body[4:8] + body[16:28]), r"shape \(12,\)"),
        (lambda body: gzip.compress(body)[:-9], "ended before"),
        (lambda _: b"<html>", "no idx file"),
        (lambda _: b"", "is empty"),
    ],
)
def test_a_damaged_file(tmp_path, contents, change, words):
    bodies = {name: gzip.compress(body) for name, body in contents.items()}
    first = next(iter(bodies))
    bodies[first] = change(contents[first])
    for name, body in bodies.items():
        (tmp_path / f"{name}.gz").write_bytes(body)
    with pytest.raises(DataError, match=words) as error:
        load_mnist(data_dir=tmp_path)
    assert first in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def serve():
    """Starts a server of files by name (an integer is an answer's status)."""
    started = []

    def start(files):
        requested = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requested.append(self.path)
                body = files.get(self.path.rpartition("/")[2], 404)
                self.send_response(200 if isinstance(body, bytes) else body)
                body = body if isinstance(body, bytes) else b""
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/data/", requested

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def packed(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(body) for name, body in contents.items()}


def test_download(serve, tmp_path, contents):
    files = packed(contents)
    url, requested = serve(files)
    calls = []
    data = load_mnist(
        urls=(url,), cache_dir=tmp_path, progress=lambda done, total: calls.append((done, total))
    )
    assert_read(data, contents)
    assert requested == [f"/data/{name}" for name in files]
    assert {path.name: path.read_bytes() for path in (tmp_path / "mnist").iterdir()} == files
    assert calls[-1] == (sum(map(len, files.values())),) * 2
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    # the cache serves the second time
    assert_read(load_mnist(urls=(url,), cache_dir=tmp_path), contents)
    assert len(requested) == 4


@pytest.mark.parametrize("fault", [404, b"<html>", "other", "cut"])
def test_the_second_server_is_asked(serve, tmp_path, contents, fault):
    good, last = packed(contents), "t10k-labels-idx1-ubyte.gz"
    if fault == "other":
        fault = gzip.compress(contents[last[:-3]][:-1] + b"\xff")
    elif fault == "cut":
        fault = good[last][:-4]
    first, _ = serve(good | {last: fault})
    second, requested = serve(good)
    # without the slash at the end
    data = load_mnist(urls=(first, second.removesuffix("/")), cache_dir=tmp_path)
    assert_read(data, contents)
    assert len(requested) == 4


def test_no_server_has_good_files(serve, tmp_path, contents):
    good = packed(contents)
    first, _ = serve({})
    second, _ = serve(good | {"t10k-labels-idx1-ubyte.gz": b"x" * 100})
    with pytest.raises(DataError, match=r"answered 404.*no idx file.*By hand") as error:
        load_mnist(urls=(first, second), cache_dir=tmp_path)
    assert first in str(error.value)
    assert second in str(error.value)
    assert images.MNIST_PAGE in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_a_long_answer_is_cut(serve, tmp_path, contents, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    url, _ = serve(packed(contents) | {"train-images-idx3-ubyte.gz": b"x" * 1001})
    with pytest.raises(DataError, match="longer than"):
        load_mnist(urls=(url,), cache_dir=tmp_path)


@pytest.mark.parametrize("urls", [(), ("file:///etc/",), ("https://a.org/", "x")])
@pytest.mark.usefixtures("contents")
def test_addresses_must_be_http(urls):
    with pytest.raises(UserError, match=r"[Nn]o download address"):
        load_mnist(urls=urls)


def test_real_mnist(data_dir):
    data = load_mnist(data_dir=data_dir)
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    # counts of the digits, as published with the data
    assert np.bincount(data.train_labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert np.bincount(data.test_labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert data.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # the mean and standard deviation that PyTorch's examples normalise with
    assert data.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert data.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


# --- the data themselves ---


def test_image_data_is_checked():
    good = mnist_like(num_train=10, num_test=10)
    assert not good.train_images.flags.writeable
    for changes, words in (
        ({"train_images": good.train_images.astype(int)}, "train images are int64"),
        ({"test_images": good.test_images[:, :27]}, r"test images are uint8 of shape \(10, 27, 28"),
        ({"test_images": good.test_images[:0]}, "at least 1"),
        ({"test_labels": good.test_labels[:9]}, r"test labels are uint8 of shape \(9,\)"),
        ({"train_labels": np.full(10, 10, np.uint8)}, "train label 1 is 10"),
    ):
        with pytest.raises(DataError, match=words):
            replace(good, **changes)


def test_fingerprint_tells_data_apart():
    data = mnist_like(num_train=20, num_test=10)
    assert data.fingerprint == mnist_like(num_train=20, num_test=10).fingerprint
    swapped = replace(data, train_labels=data.train_labels[::-1])
    others = [mnist_like(num_train=20, num_test=11), mnist_like(num_train=20, num_test=10, seed=1)]
    assert len({d.fingerprint for d in (data, swapped, *others)}) == 4


def test_stand_in():
    data = mnist_like(num_train=1000, num_test=200)
    assert data.is_stand_in
    assert "not real data" in data.title
    assert np.bincount(data.train_labels).tolist() == [100] * 10
    # Dark background and bright strokes.
    assert 0.5 < np.mean(data.train_images == 0) < 0.9
    assert data.train_images.max() > 250
    # Strokes lie within the image.
    assert data.train_images[:, [0, -1]].mean() < 0.1 * data.train_images.mean()
    assert len(np.unique(data.train_images.reshape(1000, -1), axis=0)) == 1000


def test_stand_in_can_be_learnt_but_not_from_a_line_per_class():
    data = mnist_like(num_train=3000, num_test=500)
    X = np.column_stack([data.train_images.reshape(3000, -1) / 255, np.ones(3000)])
    T = np.column_stack([data.test_images.reshape(500, -1) / 255, np.ones(500)])
    W = np.linalg.solve(X.T @ X + 10 * np.eye(785), X.T @ np.eye(10)[data.train_labels])
    linear_error = np.mean((T @ W).argmax(1) != data.test_labels)
    assert 0.15 < linear_error < 0.6


@pytest.mark.parametrize(
    "bad", [{"num_train": 9}, {"num_test": 0}, {"seed": -1}, {"seed": 1.5}, {"num_train": True}]
)
def test_stand_in_arguments(bad):
    with pytest.raises(UserError, match="whole number"):
        mnist_like(**bad)
