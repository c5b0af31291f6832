"""Files and folders that somebody else made, with right checksums: refused, or harmless."""

import base64
import io
import json
import os
import resource
import zipfile
import zlib

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from programs import run
from rich.table import Table
from test_folder import identity, write_run
from test_statistics import general

from implicit_accel import DataError, UserError, load_run
from implicit_accel.experiments import compilation
from implicit_accel.experiments.cli import make_console
from implicit_accel.exports import csv_text
from implicit_accel.files import load_json, open_plain, seal
from implicit_accel.netcdf import load_netcdf, save_netcdf
from implicit_accel.pages.sweep import page
from implicit_accel.store.chunks import ChunkFile
from implicit_accel.store.folder import RunFolder

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


# --- folders ---


def test_nothing_is_written_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("checkpoints", "figures", ".replaced"):
        path = tmp_path / name.strip(".")
        path.mkdir()
        (path / name).symlink_to(elsewhere)
        folder = RunFolder(path)
        with pytest.raises(UserError, match="is a link to another folder"), folder.locked():
            pass
        with pytest.raises(UserError, match="is a link to another folder"):
            folder.check(identity(), overwrite=True)
    assert not any(elsewhere.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path, secret):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(secret)
    with pytest.raises(UserError, match="is a link"), RunFolder(tmp_path / "run").locked():
        pass
    assert secret.read_bytes() == SECRET * 100


def test_files_of_a_run_that_are_links_are_replaced_and_not_followed(tmp_path, secret):
    folder = write_run(tmp_path / "run", identity())
    for name in ("results.nc", "config.json", "summary.csv", "figures/excess_loss.png"):
        (folder.path / name).unlink()
        (folder.path / name).symlink_to(secret)
    assert folder.finished() is None
    results = general({"width": (1, 2), "seed": (0, 1)})
    folder.finish(results, {}, identity())
    assert secret.read_bytes() == SECRET * 100
    assert not (folder.path / "results.nc").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["../precious.txt", "/etc/passwd", "figures/../../precious.txt", "figures/..", "figures/",
     "notes.txt", "figures/a/b.png", "figures/notes.txt", "", 3, None, ["figures/a.png"]],
)  # fmt: skip
def test_a_list_names_no_other_files(tmp_path, name):
    (tmp_path / "precious.txt").write_text("mine")
    folder = write_run(tmp_path / "run", identity())
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "figures" / "notes.txt").write_text("mine")
    (folder.path / ".files.json").write_text(json.dumps([name, "figures/sharpness.pdf"]))
    assert folder.listed() == ("figures/sharpness.pdf",)
    folder.keep(())
    assert (tmp_path / "precious.txt").exists()
    assert (folder.path / "notes.txt").exists()
    assert (folder.path / "summary.csv").exists()
    assert not (folder.path / "figures" / "sharpness.pdf").exists()


def test_a_figure_that_is_a_link_is_not_shown(tmp_path, secret):
    link, figure = tmp_path / "a.png", tmp_path / "b.png"
    link.symlink_to(secret)
    figure.write_bytes(b"\x89PNG")
    text = page(
        general({"width": (1, 2), "seed": (0, 1)}), command="", versions={},
        best_by="target", figures=[link, figure],
    )  # fmt: skip
    assert base64.b64encode(SECRET * 100).decode()[:40] not in text
    assert base64.b64encode(b"\x89PNG").decode() in text


def test_no_text_gives_the_terminal_orders():
    stream = io.StringIO()
    console = make_console()
    console.file = stream
    table = Table("a\x1b[2Jb")
    table.add_row("c\x07\x9b31md")
    console.print("one\x1b]0;title\x07\ntwo \u202e", table)
    assert all(c.isprintable() or c == "\n" for c in stream.getvalue())
    assert "one\ufffd]0;title\ufffd\ntwo \ufffd" in stream.getvalue()


def test_no_cell_is_a_formula():
    table = pd.DataFrame(
        {
            "=1+1": ["@SUM(A1)", "-", "x"],
            "b": ["+1", "-2+3", "=cmd|' /C calc'!A0"],
            "c": [-1.5, 2, 3],
        }
    )
    text = csv_text(table)
    assert pd.read_csv(io.StringIO(text)).to_dict("list") == {
        "'=1+1": ["'@SUM(A1)", "-", "x"], "b": ["+1", "'-2+3", "'=cmd|' /C calc'!A0"],
        "c": [-1.5, 2, 3],
    }  # fmt: skip
    plain = pd.DataFrame({"c": [-1.5, 2, 3], "d": ["a", "b", "c"]})
    assert csv_text(plain) == plain.to_csv(index=False)


def test_a_cache_that_others_can_write_to_is_refused(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="other users can write there"):
        compilation.keep_programs(str(folder))


def test_what_lies_behind_links_in_a_replaced_run_is_not_touched(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("0-0-0.000001.npz", "manifest.json", "holiday.png"):
        (victim / name).write_text("mine")
    for name in ("checkpoints", "figures"):
        folder = write_run(tmp_path / f"run-{name}", identity())
        (folder.path / ".replaced").mkdir()
        (folder.path / ".replaced" / name).symlink_to(victim)
        for overwrite in (False, True):
            with pytest.raises(UserError, match="is a link"), folder.locked():
                folder.prepare(identity(bias=overwrite), overwrite=overwrite)
    assert {p.name: p.read_text() for p in victim.iterdir()} == dict.fromkeys(
        ("0-0-0.000001.npz", "manifest.json", "holiday.png"), "mine"
    )


def test_a_run_is_removed_without_the_files_of_others(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    (folder.path / "mynotes.txt").write_text("mine")
    (folder.checkpoints / "best.npz").write_text("mine")
    folder.remove()
    left = {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*") if p.is_file()}
    assert left == {"mynotes.txt", "checkpoints/best.npz"}
    alone = write_run(tmp_path / "alone", identity())
    alone.remove()
    assert not alone.path.exists()


@pytest.mark.parametrize("name", ["config", "figures_dir"])
def test_plot_writes_through_no_link_and_over_no_file_that_is_not_listed(tmp_path, name):
    results = general({"width": (1, 2), "seed": (0, 1)}, observed=True)
    run_folder, victim = tmp_path / "run", tmp_path / "victim"
    run_folder.mkdir()
    victim.mkdir()
    (victim / "sharpness.pdf").write_text("mine")
    RunFolder(run_folder).finish(results, {}, identity())
    flags = ["--run", run_folder, "--formats", "png,pdf"]
    if name == "config":
        (run_folder / "config.json").unlink()
        (run_folder / "figures").symlink_to(victim)
        words = "is a link to another folder"
    else:
        flags += ["--figures_dir", victim]
        words = "would be replaced (sharpness.pdf)"
    result = run("plot", *flags)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert [p.name for p in victim.iterdir() if p.name[0] != "."] == ["sharpness.pdf"]
    assert (victim / "sharpness.pdf").read_text() == "mine"


def test_attributes_are_few_and_short(path):
    for value in (
        np.array(["a", "b"], object), np.arange(2000), np.array([b"x" * 9] * 2),
        np.zeros(3, [("a", "i4")]),
    ):  # fmt: skip
        with h5py.File(path, "r+") as file:
            dtype = h5py.string_dtype() if value.dtype == object else value.dtype
            file.attrs.create("odd", value, dtype=dtype)
        seal(path)
        with pytest.raises(DataError, match="the attribute odd is unusual"):
            load_netcdf(path)
        with h5py.File(path, "r+") as file:
            del file.attrs["odd"]
    with h5py.File(path, "r+") as file:
        for i in range(101):
            file.attrs[f"a{i}"] = i
    seal(path)
    with pytest.raises(DataError, match=r"10\d attributes"):
        load_netcdf(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.assign_attrs(activation=[1, 2]), "activation is no single value"),
        (lambda r: r.assign(excess_loss=r["excess_loss"] * np.nan), "no run was trained"),
        (lambda r: r.assign_coords(learning_rate=[1e-320]), "learning_rate holds numbers"),
    ],
)
def test_results_that_could_not_be_shown_are_refused(tmp_path, change, words):
    axes = {"width": (1, 2), "learning_rate": (0.1,), "seed": (0, 1)}
    results = change(general(axes))
    RunFolder(tmp_path).finish(results, {}, identity())
    with pytest.raises(DataError, match=words):
        load_run(tmp_path)


@pytest.mark.parametrize("record", [5, [[1]], [3], {"a": 1}])
def test_settings_that_no_run_has_are_no_run(tmp_path, record):
    folder = write_run(tmp_path / "run", identity(record=record))
    assert folder.stored() is None
