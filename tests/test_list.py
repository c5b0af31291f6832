"""The list of finished runs."""

import json

import pytest
from programs import TINY, expect_usage_error
from programs import run as program


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = program("sweep", *TINY, "--formats", "none", "--output_dir", str(folder / "a" / "one"))
    assert made.returncode == 0, made.stderr
    return folder


def test_runs_are_listed_with_settings_date_and_answer(runs):
    found = program("list", str(runs), str(runs / "a"))  # each once
    assert found.returncode == 0, found.stderr
    written = json.loads((runs / "a" / "one" / "config.json").read_text())["written"]
    lines = found.stdout.splitlines()
    assert lines[0] == f"{runs / 'a' / 'one'}  {written[:10]} {written[11:16]}"
    assert lines[2] == "  depth 1, depth 2; 3 learning rates; 2 seeds; 300 steps"
    assert lines[3].startswith("  → Neither depth 1 nor any deeper model reached the target")
    assert lines[-1] == "1 run"


def test_damaged_runs_and_missing_folders_have_a_line(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.nc").write_bytes(b"CDF")
    found = program("list", str(tmp_path))
    assert found.returncode == 0
    assert "cannot be read: " in found.stdout
    assert found.stdout.splitlines()[-1] == "1 run"
    expect_usage_error(program("list", str(tmp_path / "none")), "there is no such folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert program("list", str(empty)).stdout == "0 runs\n"
