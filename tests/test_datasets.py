"""Data sets: parsing, every kind of damage, the known facts, and the stand-in's spectrum."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from marks import examples

from implicit_accel.data import download, fetch
from implicit_accel.data.sources import abalone, csv_file, gas
from implicit_accel.errors import DataError, UserError
from implicit_accel.linear import (
    Dataset,
    gas_like,
    load_abalone,
    load_csv,
    load_gas,
    make_problem,
    problem_from_frame,
)

REAL = os.environ.get(fetch.DATA_DIR_VARIABLE, "")
needs_gas = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "gas" / "batch1.dat").is_file()),
    reason=f"needs the real files: set {fetch.DATA_DIR_VARIABLE}",
)
needs_abalone = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "abalone" / "abalone.data").is_file()),
    reason=f"needs the real files: set {fetch.DATA_DIR_VARIABLE}",
)

BATCHES = range(1, 11)
FUZZ = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Neither the user's data folder nor the user's cache nor the network."""
    monkeypatch.delenv(fetch.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(
        fetch.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "user-cache" / name)
    )

    def refuse(*_):
        raise AssertionError("a test tried to download")

    monkeypatch.setattr(download, "_download_to", refuse)


@pytest.fixture
def small_facts(monkeypatch):
    """As if the official files were small: a row per gas in each batch, two rows of abalone."""
    monkeypatch.setattr(gas, "_GAS_ROWS", (6,) * 10)
    monkeypatch.setattr(gas, "_GAS_CLASS_1_ROWS", (1,) * 10)
    monkeypatch.setattr(gas, "_GAS_CLASS_ROWS", (10,) * 6)
    monkeypatch.setattr(abalone, "_ABALONE_ROWS", 2)


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text
    assert text.isprintable()
    return text


def gas_line(gas_class: int = 1, batch: int = 1) -> str:
    rng = np.random.default_rng(100 * batch + gas_class)
    values = rng.normal(size=128)
    concentration = 10 * batch + gas_class
    fields = " ".join(f"{i}:{v:.6f}" for i, v in enumerate(values, start=1))
    return f"{gas_class};{concentration:.6f} {fields}"


def gas_text(batch: int) -> str:
    return "".join(gas_line(c, batch) + " \n" for c in (2, 1, 3, 4, 5, 6))


def write_gas(folder: Path, batches: Iterable[int] = BATCHES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for batch in batches:
        (folder / f"batch{batch}.dat").write_text(gas_text(batch))
    return folder


ABALONE = "M,0.455,0.365,0.095,0.514,0.2245,0.101,0.15,15\nI,0.3,0.2,0.1,0.5,0.2,0.1,0.2,7\n"


class TestDataset:
    @staticmethod
    def make(features, targets, **changes):
        names = {"feature_names": ("a", "b"), "target_names": ("y",), **changes}
        return Dataset(name="x", features=features, targets=targets, source="s", title="t", **names)

    def test_arrays_are_frozen_copies(self):
        features = np.ones((3, 2), dtype=np.float32)
        data = self.make(features, np.ones((3, 1)))
        features[0, 0] = 5
        assert data.features.dtype == np.float64
        assert data.features[0, 0] == 1
        with pytest.raises(ValueError, match="read-only"):
            data.features[0, 0] = 2
        with pytest.raises(FrozenInstanceError):
            data.name = "y"  # pyright: ignore[reportAttributeAccessIssue]

    @pytest.mark.parametrize(
        ("features", "targets", "words"),
        [
            (np.ones(3), np.ones((3, 1)), "features have shape"),
            (np.ones((3, 2)), np.ones(3), "targets have shape"),
            (np.ones((1, 2)), np.ones((1, 1)), "at least 2 rows"),
            (np.ones((3, 0)), np.ones((3, 1)), "1 column"),
            (np.ones((3, 3)), np.ones((3, 1)), "2 feature names for 3"),
            (np.ones((3, 2)), np.ones((4, 1)), "3 rows of features but 4"),
            (np.array([[1, 2], [3, np.nan]]), np.ones((2, 1)), "feature 'b' is nan in data row 2"),
            (np.ones((3, 2)), np.full((3, 1), np.inf), "target 'y' is inf in data row 1"),
        ],
    )
    def test_validation(self, features, targets, words):
        with pytest.raises(DataError, match=words) as error:
            self.make(features, targets)
        message(error)

    def test_fingerprint(self):
        x, y = np.arange(6.0).reshape(3, 2), np.arange(3.0)[:, None]
        assert self.make(x, y).fingerprint == self.make(np.asfortranarray(x), y).fingerprint
        assert len(self.make(x, y).fingerprint) == 64
        assert self.make(x, y).fingerprint != self.make(x, y + 1).fingerprint
        assert self.make(x, y).fingerprint != self.make(x[:, ::-1], y).fingerprint
        swapped = self.make(x[:, :1], x, feature_names=("a",), target_names=("y", "z"))
        assert swapped.fingerprint != self.make(x, x[:, :1]).fingerprint


@pytest.mark.usefixtures("small_facts")
class TestGas:
    @pytest.mark.parametrize(("name", "gas_class"), gas.GAS_NAMES.items())
    def test_each_gas(self, tmp_path, name, gas_class):
        data = load_gas(gas_name=name, data_dir=write_gas(tmp_path))
        assert data.features.shape == (10, 128)
        np.testing.assert_array_equal(data.targets[:, 0], [10 * b + gas_class for b in BATCHES])
        first = [float(f.split(":")[1]) for f in gas_line(gas_class, 1).split()[1:]]
        np.testing.assert_array_equal(data.features[0], first)
        assert data.feature_names[:9:8] == ("sensor1_feature1", "sensor2_feature1")
        assert data.feature_names[-1] == "sensor16_feature8"
        assert name.capitalize() in data.title
        assert "CC BY 4.0" in data.source
        assert "research" in data.source
        assert not data.is_stand_in

    def test_batches(self, tmp_path):
        write_gas(tmp_path / "gas", [2, 3])
        data = load_gas(batches=(3, 2), data_dir=tmp_path)
        np.testing.assert_array_equal(data.targets[:, 0], [31, 21])
        assert data.title == "Gas Sensor (Ethanol, batches 3,2)"
        batches: Any = np.array([3, 2])
        assert load_gas(batches=batches, data_dir=tmp_path).title == data.title

    def test_windows_line_ends(self, tmp_path):
        write_gas(tmp_path)
        plain = load_gas(data_dir=tmp_path).fingerprint
        for path in tmp_path.glob("*.dat"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert load_gas(data_dir=tmp_path).fingerprint == plain

    @pytest.mark.parametrize("batches", [(), (0,), (11,), (1, 1), (1.0,), (True, 2), ("1",)])
    def test_bad_batches(self, batches):
        with pytest.raises(UserError, match="from 1 to 10") as error:
            load_gas(batches=batches)
        message(error)

    def test_unknown_gas(self):
        with pytest.raises(UserError, match="'neon' is unknown; choose from ethanol, ethylene"):
            load_gas(gas_name="neon")

    def test_missing_batches(self, tmp_path):
        write_gas(tmp_path, [1, 3])
        with pytest.raises(DataError, match=r"lacks batch2\.dat, batch4\.dat: .*--gas_batches"):
            load_gas(batches=(1, 2, 3, 4), data_dir=tmp_path)

    def test_too_few_rows(self, tmp_path):
        with pytest.raises(DataError, match="hold 1 rows of ethanol"):
            load_gas(batches=(1,), data_dir=write_gas(tmp_path))

    def test_truncated_file(self, tmp_path):
        path = write_gas(tmp_path) / "batch4.dat"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        assert load_gas(data_dir=tmp_path).features.shape == (10, 128)  # no ethanol is missing
        with pytest.raises(DataError, match=r"batch4\.dat has 5 rows in all, the official file 6"):
            load_gas(gas_name="acetone", data_dir=tmp_path)
        path.write_text(gas_line(2) + "\n")
        with pytest.raises(DataError, match=r"batch4\.dat has 0 ethanol rows, .* file 1") as error:
            load_gas(data_dir=tmp_path)
        message(error)

    def test_wrong_classes(self, tmp_path):
        path = write_gas(tmp_path) / "batch4.dat"
        path.write_text(path.read_text().replace("\n5;", "\n6;"))
        with pytest.raises(DataError, match="have 9 rows of acetone, the official files 10"):
            load_gas(gas_name="acetone", data_dir=tmp_path)
        assert len(load_gas(gas_name="acetone", batches=(3, 4, 5), data_dir=tmp_path).targets) == 2

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            (" 128:", " 129:", "feature 128 should be"),
            (" 5:", " 6:", "feature 5 should be"),
            (" 5:", " five:", "'five:.*' where feature 5 should be"),
            (" 128:", "", "127 features"),
            (" 128:", " 128:1 129:", "129 features"),
            ("1;", "7;", "class from 1 to 6"),
            ("1;", "1.0;", "class from 1 to 6"),
            ("1;", "1 ", "129 features"),
            ("1;", "1;nan", "concentration 'nan.*' is not a finite number"),
            (" 7:", " 7:x", "feature 7 is 'x.*', not a finite"),
            (" 7:", " 7:1_0", "feature 7 is"),
            (" 7:", " 7:0x1", "feature 7 is"),
            (" 7:", " 7:inf 7:", "129 features"),
            (" 7:", "  7:", "single spaces"),
            (" 7:", " 7:1e999 7:", "129 features"),
            (" 7:", "\x0b7:", "single spaces"),
            (" 7:", " 7:\u0663", "feature 7 is"),
        ],
    )
    def test_bad_line(self, tmp_path, old, new, words):
        path = write_gas(tmp_path) / "batch2.dat"
        lines = path.read_text().split("\n")
        lines[1] = lines[1].replace(old, new, 1)
        path.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(DataError, match=rf"batch2\.dat, line 2: .*{words}") as error:
            load_gas(data_dir=tmp_path)
        message(error)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"\n", "line 1: 0 features"),
            (gas_line().encode() + b"\n\n" + gas_line().encode(), "line 2: 0 features"),
            (b"\x89PNG\r\n\x1a\n\0\0", "line 1: not UTF-8 text"),
            (gas_line().encode() + b"\n\xff", r"line 2: not UTF-8 text \(byte 0xff\)"),
            (b"\0" * 100, "line 1: 0 features"),
            (gas_line().replace(".", "9" * 400 + ".", 1).encode(), "too large to be finite"),
            (b"x" * 2000, "longer than"),
        ],
    )
    def test_bad_file(self, tmp_path, monkeypatch, content, words):
        if content.startswith(b"x"):
            monkeypatch.setattr(fetch.read_file, "__defaults__", (1000,))
        (write_gas(tmp_path) / "batch1.dat").write_bytes(content)
        with pytest.raises(DataError, match=words) as error:
            load_gas(data_dir=tmp_path)
        assert "batch1.dat" in message(error)

    def test_download_then_cache(self, tmp_path, monkeypatch):
        served = serve_zip(monkeypatch, {f"batch{b}.dat": gas_text(b) for b in BATCHES})
        first = load_gas(cache_dir=tmp_path / "cache")
        monkeypatch.undo()
        assert served == [gas.GAS_URL]
        assert len(list((tmp_path / "cache" / "gas").iterdir())) == 10
        assert first.features.shape == (10, 128)

    def test_second_load_uses_the_cache(self, tmp_path, monkeypatch):
        served = serve_zip(monkeypatch, {f"batch{b}.dat": gas_text(b) for b in BATCHES})
        first = load_gas(cache_dir=tmp_path)
        second = load_gas(cache_dir=tmp_path)
        load_gas(gas_name="toluene", batches=(5, 6), cache_dir=tmp_path)
        assert first.fingerprint == second.fingerprint
        assert len(served) == 1

    def test_other_contents_than_the_published_ones_are_not_kept(self, tmp_path, monkeypatch):
        members = {f"batch{b}.dat": gas_text(b) for b in BATCHES}
        known = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in members.items()}
        serve_zip(monkeypatch, members)
        monkeypatch.setattr(gas, "GAS_DIGESTS", known | {"batch3.dat": "0" * 64})
        with pytest.raises(DataError, match=r"batch3\.dat is not the published file.*By hand"):
            load_gas(cache_dir=tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        # An archive that was packed anew is known by its members.
        monkeypatch.setattr(gas, "GAS_DIGESTS", known)
        assert load_gas(cache_dir=tmp_path).features.shape == (10, 128)

    def test_incomplete_download_is_not_kept(self, tmp_path, monkeypatch):
        members = {f"batch{b}.dat": gas_text(b) for b in BATCHES}
        members["batch9.dat"] = gas_line() + "\n"
        serve_zip(monkeypatch, members)
        with pytest.raises(DataError, match=r"batch9\.dat has 1 rows in all.*By hand") as error:
            load_gas(cache_dir=tmp_path)
        message(error)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_bad_address(self):
        with pytest.raises(UserError, match="no download address"):
            load_gas(url="file:///etc/passwd")

    @FUZZ
    @given(st.data())
    def test_any_bytes(self, tmp_path, data):
        write_gas(tmp_path, [2])
        (tmp_path / "batch1.dat").write_bytes(mutated(data, gas_text(1).encode()))
        with suppress(DataError):
            assert load_gas(batches=(1, 2), data_dir=tmp_path).features.shape == (2, 128)


def serve_zip(monkeypatch, members: dict[str, str]) -> list[str]:
    """Puts an archive in the place of the network; returns the addresses asked for."""
    served = []

    def serve(file: io.BytesIO, url: str, _progress: object) -> None:
        served.append(url)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(name, text)

    monkeypatch.setattr(download, "_download_to", serve)
    monkeypatch.setattr(gas, "GAS_DIGESTS", {})  # these are not the published files
    monkeypatch.setattr(abalone, "ABALONE_DIGESTS", {})
    return served


def mutated(data: st.DataObject, valid: bytes) -> bytes:
    """Random bytes, or valid ones with a few pieces replaced."""
    if data.draw(st.booleans()):
        return data.draw(st.binary(max_size=300))
    content = bytearray(valid)
    pieces = st.binary(max_size=3) | st.sampled_from(
        [b"\n", b" ", b"nan", b"1e999", b"_", b":", b";", b",", b'"', b"\r", b"\0", b"-"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = start + data.draw(st.integers(0, 3))
        content[start:stop] = data.draw(pieces)
    return bytes(content)


@pytest.mark.usefixtures("small_facts")
class TestAbalone:
    @staticmethod
    def load(tmp_path, text):
        (tmp_path / "abalone.data").write_text(text)
        return load_abalone(data_dir=tmp_path)

    def test_values(self, tmp_path):
        data = self.load(tmp_path, ABALONE)
        np.testing.assert_array_equal(
            data.features[0], [0, 0, 1, 0.455, 0.365, 0.095, 0.514, 0.2245, 0.101, 0.15]
        )
        np.testing.assert_array_equal(data.features[1, :3], [0, 1, 0])
        np.testing.assert_array_equal(data.targets, [[15], [7]])
        assert data.feature_names[:4] == ("sex_F", "sex_I", "sex_M", "length")

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("I,", "X,", "line 2: sex is 'X' instead of F, I, M"),
            ("I,", "", "line 2: 8 fields instead of 9"),
            ("I,0.3", "I,nan", "line 2: length is 'nan', not a finite number"),
            ("0.455", "1e999", "line 1: a number too large"),
            (",7\n", ",7.5\n", "line 2: rings is '7.5', not a whole number"),
            ("I,", "M,0.455,0.365,0.095,0.514,0.2245,0.101,0.15,15\nI,", "has 3 rows, .* file 2"),
        ],
    )
    def test_damage(self, tmp_path, old, new, words):
        with pytest.raises(DataError, match=words) as error:
            self.load(tmp_path, ABALONE.replace(old, new))
        message(error)

    def test_download_then_cache(self, tmp_path, monkeypatch):
        served = serve_zip(monkeypatch, {"abalone.data": ABALONE, "abalone.names": "text"})
        first = load_abalone(cache_dir=tmp_path)
        assert load_abalone(cache_dir=tmp_path).fingerprint == first.fingerprint
        assert served == [abalone.ABALONE_URL]
        assert [path.name for path in (tmp_path / "abalone").iterdir()] == ["abalone.data"]

    def test_bad_download(self, tmp_path, monkeypatch):
        serve_zip(monkeypatch, {"abalone.data": ABALONE[:50]})
        with pytest.raises(DataError, match=r"abalone\.data, line 2: .*By hand"):
            load_abalone(cache_dir=tmp_path)

    @FUZZ
    @given(st.data())
    def test_any_bytes(self, tmp_path, data):
        (tmp_path / "abalone.data").write_bytes(mutated(data, ABALONE.encode()))
        with suppress(DataError):
            assert load_abalone(data_dir=tmp_path).features.shape == (2, 10)


class TestCsv:
    @staticmethod
    def load(tmp_path, content: str | bytes, target="y"):
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_csv(path, target)

    def test_values(self, tmp_path):
        data = self.load(tmp_path, "a,y,b c\n1,2,3.5\n4,-5e1,0.1\n\n")
        np.testing.assert_array_equal(data.features, [[1, 3.5], [4, 0.1]])
        np.testing.assert_array_equal(data.targets, [[2], [-50]])
        assert data.feature_names == ("a", "b c")
        assert data.target_names == ("y",)
        assert data.title == "table (y)"

    @pytest.mark.parametrize(
        "text",
        ["\ufeffa,y\n1,2\n3,4\n", "a,y\r\n1,2\r\n3,4", '"a","y"\n"1","2"\n3,4', "a, y\n1, 2\n3, 4"],
    )
    def test_dialects(self, tmp_path, text):
        data = self.load(tmp_path, text)
        np.testing.assert_array_equal(data.features, [[1], [3]])
        assert data.feature_names == ("a",)

    def test_widest_range(self, tmp_path):
        data = self.load(tmp_path, "a,y\n1.7e308,.5\n-1.7e308,4\n")
        assert data.features[0, 0] == 1.7e308

    def test_huge_integers(self, tmp_path):
        data = self.load(tmp_path, "a,y\n1,123456789012345678901234567890\n2,4\n")
        assert data.targets[0, 0] == 123456789012345678901234567890.0

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "is empty"),
            ("\n\n", "not a table"),
            ("a,y\n", "0 rows"),
            ("a,y\n1,2\n", "1 rows of data; at least 2"),
            ("a,b\n1,2\n3,4\n", r"no column 'y' \(target\); its columns are 'a', 'b'"),
            ("y\n1\n2\n", "only the target"),
            ("a,y,a\n1,2,3\n3,4,5\n", "names column 'a' twice"),
            ("a,y, a\n1,2,3\n3,4,5\n", "names column 'a' twice"),
            (",a,y\n1,2,3\n3,4,5\n", r"column 1 has no name.*\(drop 1\)"),
            ("a,y\n1,2\nred,4\n", "column 'a' has 'red' in data row 2"),
            ("a,y\nTrue,2\nFalse,4\n", "column 'a' has 'True' in data row 1"),
            ("a,y\n1_0,2\n3,4\n", "column 'a' has '1_0'"),
            ("a,y\n1+2j,2\n3,4\n", "column 'a' has"),
            ("a,y\n2020-01-01,2\n3,4\n", "column 'a' has '2020-01-01'"),
            ("a,y\n1,2\n,4\n", "column 'a' has a gap in data row 2"),
            ("a,y\n1,2\n3\n", "column 'y' has a gap in data row 2"),
            ("a,y\n1,NaN\n3,4\n", "column 'y' has a gap in data row 1"),
            ("a,y\n1,2\n3,-inf\n", "column 'y' has '-inf' in data row 2"),
            ("a,y\n1,2\n3,1e999\n", "column 'y' has '(inf|1e999)' in data row 2"),
            ("a,y\n1,2\n1,4\n", "column 'a' is constant"),
            ("a,y\n1,2\n3,2\n", "column 'y' is constant"),
            ("a,y\n0,2,3\n1,5,6\n", "not a table .*Expected 2 fields in line 2, saw 3"),
            (",".join(f"c{i}" for i in range(30)) + "\n", "'c19' and 10 more"),
            ("a,y\n1,2\n4,5,6\n", "not a table .*Expected 2 fields in line 3, saw 3"),
            (b"a,y\n1,2\n\xff,3\n", "column 'a' has 'ÿ' in data row 2"),
            (b"PK\x03\x04\x00\x00", "an archive or a spreadsheet"),
            (b"a\0,y\n1,2\n", "null characters"),
            ("a;y\n1,5;2\n2.5;3\n", r"1,5 and 2\.5: say what the decimal mark is \(decimal"),
            ("a;y\n1,500;2\n2,500;3\n", "1,500, which may be a fraction or thousands"),
            ("a;y\n1.500;2\n2.500;3\n", "1.500, which may be a fraction or thousands"),
            ('a,y\n"1,500",2\n"2,500",3\n', "column 'a' has '1,500' in data row 1"),
            ("1,2\n3,4\n", r"read without names: header yes.* no column 'y'.* are '1', '2'"),
        ],
    )
    def test_damage(self, tmp_path, text, words):
        with pytest.raises(DataError, match=words) as error:
            self.load(tmp_path, text)
        assert "table.csv" in message(error)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (",".join(f"c{i}" for i in range(10_000)) + "\n" + "1\n" * 2000, "can fill"),
            ('"\n"' + ",a" * 10_000 + "\n" + "1\n" * 2000, "can fill"),
            ("," * 10**6 + "\n1\n", "1,000,001 columns; at most 20,000"),
        ],
    )
    def test_a_small_file_makes_no_huge_table(self, tmp_path, content, words):
        with pytest.raises(DataError, match=words) as error:
            self.load(tmp_path, content)
        message(error)

    def test_blank_lines_and_many_columns_are_allowed(self, tmp_path):
        assert self.load(tmp_path, "a,y\n1,2\n3,4\n" + "\n" * 5000).features.shape == (2, 1)
        rows = [",".join(str(i * k) for i in range(1, 3001)) for k in (1, 2)]
        wide = ",".join(["y", *(f"c{i}" for i in range(2, 3001))]) + "\n" + "\n".join(rows)
        assert self.load(tmp_path, wide).features.shape == (2, 2999)

    @pytest.mark.parametrize(
        "name",
        ["<script>", "$x$ $", "a\nb\tc", "\x1b[31mred", "\u202eright to left", "\udcff", "x" * 240],
    )
    def test_names_can_be_shown(self, tmp_path, name):
        path = tmp_path / f"{name}.csv"
        path.write_text("a,y\n1,2\n3,4\n")
        data = load_csv(path, "y")
        for text in (data.title, data.source):
            assert text.isprintable()
            assert len(text) < 200
        if name.isprintable() and len(name) < 50:
            assert name in data.title

    def test_a_target_s_name_can_be_shown(self, tmp_path):
        data = self.load(tmp_path, 'a,"\x1b$y\n\u202e"\n1,2\n3,4\n', "\x1b$y\n\u202e")
        assert data.title == "table (\ufffd$y\ufffd\ufffd)"
        assert data.source.isprintable()

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read: No such file") as error:
            load_csv(tmp_path / "nothing.csv", "y")
        message(error)

    def test_addresses_are_not_opened(self):
        with pytest.raises(DataError, match="cannot be read"):
            load_csv("http://127.0.0.1:9/x.csv", "y")

    def test_length_bound(self, tmp_path, monkeypatch):
        monkeypatch.setattr(csv_file, "MAX_CSV_BYTES", 5)
        with pytest.raises(DataError, match="longer than"):
            self.load(tmp_path, "a,y\n1,2\n3,4\n")

    @FUZZ
    @given(st.data())
    def test_any_bytes(self, tmp_path, data):
        content = mutated(data, b"a,y,b\n1,2.5,3\n4,5e1,-6\n7,8,9\n")
        try:
            table = self.load(tmp_path, content)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.isfinite(table.features).all()


def number(value, decimal):
    return f"{value:.6g}".replace(".", decimal)


ROWS = np.random.default_rng(3).standard_normal((12, 3)).round(3)

# Formats of public data files: what is written before the rows, the encoding, the delimiter, the
# decimal mark, a function from a row's number and its cells to more cells, and the options.
FORMATS = {
    "semicolons and decimal commas": ("a;b;y\n", "utf-8", ";", ",", None, {}),
    "semicolons and quoted names": ('"a";"b";"y"\n', "utf-8", ";", ".", None, {}),
    "tabs": ("a\tb\ty\n", "utf-8", "\t", ".", None, {}),
    "blanks without a header": ("", "utf-8", "   ", ".", None, {"target": "3"}),
    "names with trailing blanks": ('"a ","b  ","y "\n', "utf-8", ",", ".", None, {"target": "y "}),
    "a second target": (
        "a,b,y,z\n", "utf-8", ",", ".", lambda i, row: [*row, str(i)], {"drop": ["z"]},
    ),
    "an id": (
        "id,a,b,y\n", "utf-8", ",", ".", lambda i, row: [f"n{i}", *row], {"drop": ["id"]},
    ),
    "an index without a name": (
        ",a,b,y\n", "utf-8", ",", ".", lambda i, row: [str(i), *row], {"drop": ["1"]},
    ),
    "gaps": (
        "a,b,y\n?,1,2\n1,NA,2\n1,,3\n", "utf-8", ",", ".", None, {"missing": "drop"},
    ),
    "Latin-1": ("größe,b,y\n", "latin-1", ",", ".", None, {}),
    "a byte-order mark": ("a,b,y\r\n", "utf-8-sig", ",", ".", None, {}),
    "UTF-16": ("a,b,y\n", "utf-16", ",", ".", None, {}),
}  # fmt: skip


def file_of(rows, case):
    before, encoding, delimiter, decimal, change, options = case
    lines = []
    for i, row in enumerate(rows):
        cells = [number(value, decimal) for value in row]
        lines.append(delimiter.join(change(i, cells) if change else cells))
    return (before + "\n".join(lines) + "\n").encode(encoding), {"target": "y"} | options


class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_public_formats_are_read_right(self, tmp_path, name):
        path = tmp_path / "table.csv"
        content, options = file_of(ROWS, FORMATS[name])
        path.write_bytes(content)
        data = load_csv(path, **options)
        np.testing.assert_array_equal(data.features, ROWS[:, :2])
        np.testing.assert_array_equal(data.targets, ROWS[:, 2:])

    @FUZZ
    @given(st.data())
    def test_whatever_is_written_is_read_back(self, tmp_path, data):
        """Any dialect, numbers that need no dialect's help, with and without a header."""
        delimiter = data.draw(st.sampled_from([",", ";", "\t", "|", " "]))
        decimal = data.draw(st.sampled_from([".", ","] if delimiter != "," else ["."]))
        cell = st.floats(-1e6, 1e6).map(lambda v: float(f"{v:.6g}"))
        rows = data.draw(st.lists(st.tuples(cell, cell, cell), min_size=3, max_size=9))
        rows = np.array([*rows, (0.25, -0.5, 0.75)])
        assume((rows.min(axis=0) < rows.max(axis=0)).all())
        header = data.draw(st.booleans())
        case = (
            delimiter.join("aby") + "\n" if header else "",
            "utf-8",
            delimiter,
            decimal,
            None,
            {},
        )
        path = tmp_path / "table.csv"
        path.write_bytes(file_of(rows, case)[0])
        table = load_csv(path, "y" if header else "3")
        np.testing.assert_array_equal(np.hstack([table.features, table.targets]), rows)

    def test_what_was_taken_is_said(self, tmp_path):
        path = tmp_path / "table.csv"
        for name, words in {
            "semicolons and decimal commas": "separated by semicolons, decimal comma, names in",
            "blanks without a header": "separated by blanks, decimal point, no names",
            "gaps": "3 of 15 rows have gaps and are left out",
            "Latin-1": "text in Windows-1252",
            "UTF-16": "text in UTF-16",
        }.items():
            content, options = file_of(ROWS, FORMATS[name])
            path.write_bytes(content)
            assert words in "; ".join(load_csv(path, **options).notes)
        path.write_text("a,y\n1,2\n3,4\n")
        assert load_csv(path, "y").notes == ()

    def test_given_dialects_are_not_guessed(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("a;y\n1,500;2\n2,500;3\n")
        assert load_csv(path, "y", decimal=",").features.ravel().tolist() == [1.5, 2.5]
        with pytest.raises(DataError, match="has '1,500'"):
            load_csv(path, "y", decimal=".")
        path.write_text("a;y\n1.500;2\n2.500;3\n")
        assert load_csv(path, "y", decimal=".").features.ravel().tolist() == [1.5, 2.5]
        with pytest.raises(DataError, match=r"has '1\.500'"):
            load_csv(path, "y", decimal=",")
        path.write_text("2019,2020\n1,2\n3,5\n")
        assert load_csv(path, "2020", header="yes").targets.ravel().tolist() == [2, 5]
        assert len(load_csv(path, "2", header="no").targets) == 3
        path.write_text("a b;y\n1;2\n3;5\n")
        assert load_csv(path, "y", delimiter="semicolon").feature_names == ("a b",)
        path.write_text("a\ty\n1\t2\t3\n")
        with pytest.raises(DataError, match="separated by tab"):
            load_csv(path, "y", delimiter="tab")
        wrong: Any = ({"delimiter": ";"}, {"decimal": ";"}, {"header": "?"}, {"missing": "?"})
        for options in wrong:
            with pytest.raises(UserError, match="write"):
                load_csv(path, "y", **options)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("M,3,2\nF,5,7\nM,9,1\n", "'M' and 2 in the first line: say whether"),
            ("a;b\n1;5\n" + "2;6\n" * 250 + "1.234;7\n", "1.234, which may be"),
            ("a\tb\n1.234\t5.678\n2.345\t6.789\n", "1.234, which may be"),
            ("a b\n1.234 5.678\n2.345 6,789\n", "6,789 and 1.234"),
            ("a;b\n0.5;1\n1,5;2\n", "1,5 and 0.5"),
        ],
    )
    def test_what_is_doubtful_is_refused(self, tmp_path, text, words):
        path = tmp_path / "table.csv"
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            load_csv(path, "b")

    def test_gaps_and_bare_points_are_no_names(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("?,3,1\n2,5,7\n4,9,1\n6,1,4\n")
        data = load_csv(path, "3", missing="drop")
        assert data.targets.ravel().tolist() == [7, 1, 4]
        path.write_text("1. 2. 3.\n2. 3. 5.\n4. 4. 7.\n")
        assert load_csv(path, "3").targets.ravel().tolist() == [3, 5, 7]
        path.write_text("a;y\n0,5;1\n1,234;2\n")  # a certain fraction elsewhere decides
        assert load_csv(path, "y").features.ravel().tolist() == [0.5, 1.234]

    def test_categories_are_texts(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("a,y\n01,1\n1,2\n1.10,3\n1.1,4\nTrue,5\nTRUE,6\n")
        assert load_csv(path, "y", one_hot="a").features.shape == (6, 6)
        path.write_text("x,x=y,t\ny=1,1,1\nb,2,2\ny=1,1,3\n")
        with pytest.raises(DataError, match="there is a column 'x=y=1' already"):
            load_csv(path, "t", one_hot=["x", "x=y"])

    def test_a_pipe_is_no_table(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(DataError, match="cannot be read: it is a pipe"):
            load_csv(tmp_path / "pipe.csv", "y")

    def test_odd_frames_are_refused(self):
        frame: Any = pd.DataFrame({"a": [1, 2], "y": [1, 2]})
        odd = pd.DataFrame({"a": [10**5000, 1], "y": [1, 2]})
        arrays = pd.DataFrame({"a": [np.ones(2), 1], "y": [1, 2]})
        for bad in (odd, arrays):
            with pytest.raises(DataError, match="column 'a' has"):
                problem_from_frame(bad, "y")
        for call in (
            lambda: problem_from_frame(frame["a"], "y"),
            lambda: problem_from_frame(frame, 5),  # pyright: ignore[reportArgumentType]
            lambda: problem_from_frame(frame, ["y", "y"]),
            lambda: problem_from_frame(frame, "y", drop="a", one_hot="a"),
        ):
            with pytest.raises(UserError):
                call()

    def test_text_columns_are_encoded(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("sex,a,y\nM,1,2\nF,2,3\n I,4,5\nM,7,1\n")
        with pytest.raises(DataError, match=r"'M' in data row 1.*\(one_hot\).*\(drop\)"):
            load_csv(path, "y")
        data = load_csv(path, "y", one_hot=["sex"])
        assert data.feature_names == ("sex=F", "sex=I", "sex=M", "a")
        expected = [[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 4], [0, 0, 1, 7]]
        np.testing.assert_array_equal(data.features, expected)
        path.write_text("sex,sex=F,y\nM,1,2\nF,2,3\n")
        with pytest.raises(DataError, match="a column 'sex=F' already"):
            load_csv(path, "y", one_hot=["sex"])
        path.write_text("sex,a,y\nM,1,2\n,2,3\n")
        with pytest.raises(DataError, match=r"gap in data row 2.*missing drop"):
            load_csv(path, "y", one_hot=["sex"])
        path.write_text("n,a,y\n" + "".join(f"n{i},{i},{-i}\n" for i in range(1001)))
        with pytest.raises(DataError, match=r"1,001 different values.*\(drop\)"):
            load_csv(path, "y", one_hot=["n"])

    def test_several_targets(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("a,y,z\n1,2,3\n3,5,7\n")
        data = load_csv(path, ["z", "y"])
        np.testing.assert_array_equal(data.targets, [[3, 2], [7, 5]])
        assert data.target_names == ("z", "y")
        assert data.title == "table (z and y)"
        wrong: Any = ({"drop": ["y"]}, {"one_hot": ["y"]})
        for options in wrong:
            with pytest.raises(UserError, match="'y' is a target"):
                load_csv(path, "y", **options)
        with pytest.raises(DataError, match=r"no column 'b' \(drop\)"):
            load_csv(path, "y", drop=["b"])

    @pytest.mark.parametrize("value", ["1.7e308", "1e160"])
    @pytest.mark.parametrize("scaling", ["standard", "whiten"])
    def test_a_huge_number_makes_no_column_of_zeros(self, tmp_path, value, scaling):
        path = tmp_path / "table.csv"
        path.write_text(f"a,b,y\n1,2,3\n2,{value},4\n3,1,7\n")
        with pytest.raises(DataError, match=r"column 'b' holds numbers up to .*squares overflow"):
            make_problem(load_csv(path, "y"), scaling=scaling)

    def test_a_data_frame_is_a_problem(self):
        frame = pd.DataFrame(ROWS, columns=["a", "b ", "y"], index=[7] * 12)
        frame["kind"] = pd.Categorical(["p", "q", "r"] * 4)
        frame["whole"] = pd.array([*range(11), None], "Int64")
        with pytest.raises(DataError, match=r"'whole' has a gap in data row 12.*\(missing drop\)"):
            problem_from_frame(frame, "y", one_hot="kind")
        problem = problem_from_frame(frame, "y", one_hot="kind", missing="drop", scaling="center")
        kinds = np.array([[i % 3 == k for k in range(3)] for i in range(11)], float)
        X = np.column_stack([ROWS[:11, :2], kinds, np.arange(11)])
        np.testing.assert_allclose(problem.features, X - X.mean(axis=0), atol=1e-15)
        np.testing.assert_allclose(problem.targets, ROWS[:11, 2:] - ROWS[:11, 2:].mean())
        assert problem_from_frame(frame, ["y", "a"], drop=["kind", "whole"]).num_outputs == 2


class TestGasLike:
    def test_spectrum_and_correlations(self):
        data = gas_like()
        x, y = data.features, data.targets[:, 0]
        n = len(x)
        assert x.shape == (2565, 128)
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-13)
        np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-12)
        np.testing.assert_allclose((y.mean(), y.std()), (0, 1), atol=1e-12)
        file = Path(fetch.__file__).parent / "gas_spectrum.csv"
        _, eigenvalues, correlations = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
        found, vectors = np.linalg.eigh(x.T @ x / n)
        np.testing.assert_allclose(found[::-1], eigenvalues, rtol=1e-6)
        scores = x @ vectors[:, ::-1] / np.sqrt(found[::-1])
        np.testing.assert_allclose(np.abs(scores.T @ y) / n, np.abs(correlations), atol=1e-8)

    @pytest.mark.parametrize("seed", range(4))
    def test_tails(self, seed):
        data = gas_like(seed=seed)
        x, y = data.features, data.targets[:, 0]
        residual = y - x @ np.linalg.lstsq(x, y)[0]
        kurtosis = [np.mean(v**4) / np.mean(v**2) ** 2 for v in (residual, y)]
        assert 120 < kurtosis[0] < 185  # real rows: 153
        assert 3.5 < kurtosis[1] < 8  # real rows: 5.6
        np.testing.assert_allclose(residual.var(), 0.1, atol=1e-3)

    def test_seed(self):
        assert gas_like(seed=3).fingerprint == gas_like(seed=3).fingerprint
        assert gas_like(seed=3).fingerprint != gas_like(seed=4).fingerprint

    @pytest.mark.parametrize("num_rows", [131, 1000])
    def test_other_sizes(self, num_rows):
        x = gas_like(num_rows=num_rows).features
        assert x.shape == (num_rows, 128)
        np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-12)

    def test_says_that_it_is_a_stand_in(self):
        data = gas_like(num_rows=200)
        assert data.is_stand_in
        assert "not real data" in data.title
        assert "not measured data" in data.source

    @pytest.mark.parametrize("num_rows", [130, 0, -5, 200.5, "200", True, None])
    def test_bad_num_rows(self, num_rows):
        with pytest.raises(UserError, match="num_rows") as error:
            gas_like(num_rows=num_rows)
        message(error)

    @pytest.mark.parametrize("seed", [-1, 0.5, None])
    def test_bad_seed(self, seed):
        with pytest.raises(UserError, match="seed"):
            gas_like(seed=seed)


@needs_gas
class TestRealGas:
    def test_ethanol(self):
        data = load_gas(data_dir=REAL)
        assert data.features.shape == (2565, 128)
        np.testing.assert_allclose(data.targets.mean(), 114.95029239766082, rtol=1e-14)
        np.testing.assert_allclose(data.targets.std(ddof=1), 86.6375, atol=5e-5)
        np.testing.assert_allclose(data.features[:, 0].mean(), 58539.106296842, rtol=1e-12)

    def test_another_gas_lacks_rows(self):
        with pytest.raises(DataError, match=r"batch7\.dat has 649 rows in all.* 3613") as error:
            load_gas(gas_name="acetone", data_dir=REAL)
        message(error)

    def test_another_gas_with_complete_batches(self):
        data = load_gas(gas_name="acetone", batches=(1, 2, 3), data_dir=REAL)
        assert data.features.shape[0] > 100

    def test_folder_from_the_environment(self, monkeypatch):
        monkeypatch.setenv(fetch.DATA_DIR_VARIABLE, REAL)
        assert len(load_gas(batches=(1,)).targets) == 90


@needs_abalone
def test_real_abalone():
    data = load_abalone(data_dir=REAL)
    assert data.features.shape == (4177, 10)
    np.testing.assert_allclose(data.targets.mean(), 9.93368446, atol=5e-9)
    np.testing.assert_allclose(data.targets.std(ddof=1), 3.22416903, atol=5e-9)
    np.testing.assert_array_equal(data.features[:, :3].sum(axis=1), 1)
