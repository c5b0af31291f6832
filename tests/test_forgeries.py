"""Files and folders that somebody else made, with right checksums: refused, or harmless."""

import io
import json
import os
import resource
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import xarray as xr

from implicit_accel import DataError
from implicit_accel.files import load_json, open_plain, seal
from implicit_accel.netcdf import load_netcdf, save_netcdf
from implicit_accel.store.chunks import ChunkFile

SECRET = b"words that are nobody else's business"


@pytest.fixture
def secret(tmp_path):
    """A file outside the folder that is read."""
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET * 100)
    return path


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "results.nc"
    values = np.random.default_rng(0).standard_normal((3, 4, 50))
    runs = {"loss": (("model", "seed", "step"), values), "name": ("model", ["a", "b", "ü"])}
    save_netcdf(xr.Dataset(runs, {"seed": range(4)}), path)
    return path


# --- results.nc ---


def external_storage(file, secret):
    file.create_dataset("x", (10,), "u1", external=[(str(secret), 0, 10)])


def external_link(file, secret):
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["x"] = np.arange(3)
    file["x"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "x")


def virtual(file, secret):
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["x"] = np.arange(3)
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "x", (3,))
    file.create_virtual_dataset("x", layout)


def virtual_behind_a_pipe(file, secret):
    os.mkfifo(secret.with_name("pipe"))
    layout = h5py.VirtualLayout((3,), "i8", maxshape=(None,))
    source = h5py.VirtualSource(str(secret.with_name("pipe")), "x", (3,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("x", layout)


def soft_link(file, _):
    file["x"] = h5py.SoftLink("/loss")


def group(file, _):
    file.create_group("x")["y"] = 1


def reference(file, _):
    file.create_dataset("x", data=file["loss"].ref, dtype=h5py.ref_dtype)


def huge(file, _):
    file.create_dataset("x", (2**40,), "f8", chunks=(2**10,), compression="gzip")


def huge_chunk(file, _):
    data = file.create_dataset("x", (8,), "f8", chunks=(2**26,), maxshape=(None,))
    data.id.write_direct_chunk((0,), b"\0")


def bomb(file, _):
    data = file.create_dataset("x", (2**20,), "u1", chunks=(2**20,), compression="gzip")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(64)) + packer.flush()
    data.id.write_direct_chunk((0,), packed)


def plug_in(file, _):
    file.create_dataset("x", (100,), "f8", chunks=(10,), compression="lzf")


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (external_storage, "x lies in another file"),
        (external_link, "x is a link"),
        (virtual, "x is made of arrays elsewhere"),
        (virtual_behind_a_pipe, "x is made of arrays elsewhere"),
        (soft_link, "x is a link"),
        (group, "x is no array"),
        (reference, "x holds neither numbers nor text"),
        (huge, "x would take far more memory"),
        (huge_chunk, "x would take far more memory"),
        (bomb, "x would take far more memory"),
        (plug_in, "x is packed in an unexpected way"),
    ],
)
def test_results_that_lead_elsewhere_are_refused_before_they_are_read(path, secret, forge, words):
    with h5py.File(path, "r+") as file:
        forge(file, secret)
    seal(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=words):
        load_netcdf(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_texts_are_counted_while_they_are_read(path, monkeypatch):
    found, _ = load_netcdf(path)
    assert found["name"].values.tolist() == ["a", "b", "ü"]
    monkeypatch.setattr("implicit_accel.netcdf._MAX_TEXT_BYTES", 3)
    with pytest.raises(DataError, match="name would take far more memory"):
        load_netcdf(path)


# --- checkpoints ---


def npy(shape, dtype="<f8", data=b""):
    header = io.BytesIO()
    about = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue() + data


ABOUT = {"identity": "whose", "num_steps": 5, "next_step": 6}


def archive(compression=zipfile.ZIP_STORED, about=None, **entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as zipped:
        array = io.BytesIO()
        np.save(array, np.array(about or json.dumps(ABOUT)))
        zipped.writestr("about.npy", array.getvalue())
        for name, data in entries.items():
            zipped.writestr(f"{name}.npy", data)
    return content.getvalue()


def stated_size(content, size):
    """The archive with another uncompressed size of its last entry in its directory."""
    place = content.rindex(b"PK\x01\x02") + 24
    return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


def overlapping(times):
    """An archive of many entries that are all the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        zipped.writestr("a.npy", npy((2**17,), data=bytes(2**20)))
        first = zipped.infolist()[0]
        zipped.filelist += [first] * times
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip",
        archive()[:-10],
        archive(about="[" * 10**5),
        archive(about="3"),
        archive(compression=zipfile.ZIP_DEFLATED, x=npy((10,), data=bytes(80))),
        archive(x=npy((2**40,), data=bytes(80))),
        archive(x=npy((-1,), data=bytes(80))),
        archive(x=npy((1,), "|O", data=b"cos\nsystem\n(S'false'\ntR.")),
        archive(x=b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
        archive(x=b"\x93NUMPY\x03\x00"),
        archive(x=b"other"),
        stated_size(archive(x=npy((10,), data=bytes(80))), 2**31),
        overlapping(1000),
    ],
)
def test_checkpoints_that_are_not_what_they_say_are_passed_over(tmp_path, content):
    whole, forged = tmp_path / "0-0-0.000001.npz", tmp_path / "0-0-0.000002.npz"
    for path, data in ((whole, archive()), (forged, content)):
        path.write_bytes(data)
        seal(path)
    file = ChunkFile(tmp_path, "0-0-0", "whose")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [about for about, _ in file._verified()] == [ABOUT]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_checkpoints_that_are_links_or_pipes_are_passed_over(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(archive())
    seal(elsewhere)
    (tmp_path / "0-0-0.000001.npz").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "0-0-0.000002.npz")
    assert not list(ChunkFile(tmp_path, "0-0-0", "whose")._verified())


# --- any file of a folder ---


def test_links_pipes_and_folders_are_not_opened(tmp_path, secret):
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("link", "symbolic link"), ("pipe", "pipe"), (".", "folder")):
        with pytest.raises(OSError, match=words):
            open_plain(tmp_path / name)
    with open_plain(tmp_path / "link", follow=True) as file:
        assert file.read(len(SECRET)) == SECRET
    with pytest.raises(OSError, match="longer than"):
        open_plain(secret, 10)


def test_json_is_parsed_or_no_value(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"[" * 10**6, b"{", b"\xff\xfe", b"1" * 10**5):
        path.write_bytes(content)
        with pytest.raises(ValueError):  # noqa: PT011  all of its kinds
            load_json(path)
