"""What the programs make of text from outside: flags, names of files and columns."""

import errno
import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from programs import REPOSITORY, expect_usage_error, run
from test_statistics import AXES, general, made

from implicit_accel import UserError, summarise
from implicit_accel.experiments import cli

HOSTILE = "<script>$x_&\x1b[31m\u202e"
SMALL = ["--num_steps", "20", "--num_seeds", "1", "--learning_rates", "0.1", "--losses", "l2"]


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("500 MiB", 500 * 2**20), ("1.5k", 1536), ("7", 7)]
)
def test_sizes_are_read(text, size):
    assert cli.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "4TiB", "nan", "inf", "-1", "0", "1e-9", "4GiBGiB"])
def test_bad_sizes_are_refused(text):
    with pytest.raises(UserError, match="--memory_limit"):
        cli.parse_bytes(text)


def test_an_error_is_one_line_that_no_terminal_obeys(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])

    def main():
        raise UserError(f"{HOSTILE}\nsecond {'x' * 10**6}")

    with pytest.raises(SystemExit) as end:
        cli.run(main, cli.FlagGroups(), "")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert line.startswith("error: <script>$x_&\ufffd[31m\ufffd second xxx")
    assert len(line) < 4100


def test_hostile_names_from_file_to_figure(tmp_path):
    table = tmp_path / f"{HOSTILE}\udcff.csv"
    rows = "\n".join(f"{i},{i * i % 7}" for i in range(30))
    table.write_text(f"{HOSTILE},$\\frac\n{rows}\n", encoding="utf-8")
    folder = tmp_path / "run\udcff"
    asked = ["--dataset", "csv", "--csv_path", table, "--csv_target", "$\\frac", *SMALL]
    result = run("sweep", *asked, "--output_dir", folder, "--formats", "png,pdf")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert "\u202e" not in result.stdout + result.stderr
    title = json.loads((folder / "config.json").read_text())["dataset"]["title"]
    assert title == "<script>$x_&\ufffd[31m\ufffd\ufffd ($\\frac)"
    drawn = run("plot", "--run", folder, "--formats", "svg")
    assert drawn.returncode == 0, drawn.stderr
    assert title in drawn.stdout
    for figure in (folder / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text()


def test_a_damaged_run_is_refused(tmp_path):
    (tmp_path / "results.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    expect_usage_error(run("plot", "--run", tmp_path), "damaged", "--overwrite")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"--flagfile=/dev/zero\n", "no such file"),
        (b"--flagfile={self}\n", "100 files"),
        (b"--flagfile={self}\n" * 2, "100 files"),
        (b"--losses=l2\n" + b"#" * 2**21, "at most 1048576 characters"),
        (b"\xff\xfe-\0-\0", "not a text file"),
        (b"--losses=l2\0\n", "not a text file"),
        (b"--flagfile=\0\n", "not a text file"),
        (b"--flagfile=~nobody_of_this_name/x\n", "not a text file"),
    ],
)
def test_files_with_flags_are_bounded_text(tmp_path, content, words):
    path = tmp_path / "flags"
    path.write_bytes(content.replace(b"{self}", bytes(path)))
    with pytest.raises(UserError, match=words):
        cli.check_flagfiles(["--num_steps=3", f"--flagfile={path}"])
    with pytest.raises(UserError, match=words):
        cli.check_flagfiles(["-flagfile", str(path)])


def test_a_device_with_flags_is_no_endless_reading(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        expect_usage_error(run("plot", f"--flagfile={path}"), "--flagfile", "no such file")


def test_files_with_flags_are_read(tmp_path):
    (tmp_path / "inner").write_text("# a comment\n--formats=gif\n")
    (tmp_path / "outer").write_text(f"--run=x\n--flagfile={tmp_path / 'inner'}\n")
    expect_usage_error(run("plot", f"--flagfile={tmp_path / 'outer'}"), "--formats", "gif")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory is full"),
        (type("OfArrays", (MemoryError,), {})(), "memory is full"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "--memory_limit"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "file"), "ulimit -n"),
        (OSError("Unable to open file (name = 'x', errno = 24, error message = ...)"), "ulimit -n"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory is full"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (ImportError("x.so: failed to map segment from shared object"), "memory is full"),
    ],
)
def test_a_limit_of_the_process_is_one_line(capsys, monkeypatch, error, words):
    monkeypatch.setattr(sys, "argv", ["program"])

    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main, cli.FlagGroups(), "")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line

    def indirectly():
        raise ValueError from error

    with pytest.raises(SystemExit):
        cli.run(indirectly, cli.FlagGroups(), "")


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("out of memory"), RuntimeError("x")])
def test_a_defect_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["program"])

    def main():
        raise error

    with pytest.raises(type(error)):
        cli.run(main, cli.FlagGroups(), "")


def printed(table) -> str:
    file = io.StringIO()
    cli.print_summary(table, "made", cli.Console(file=file, width=200))
    return file.getvalue()


def test_the_table_says_what_is_compared():
    results = made(np.full((2, 1, 3), 10), [[[0.26] * 3], [[0.1] * 3]])
    assert "speed-up over depth 1" in printed(summarise(results))
    final = printed(summarise(results, best_by="final"))
    assert "speed-up" not in final
    assert "final excess loss of depth 1" in final
    assert "depth 2 ends at an excess loss 2.6x lower than depth 1" in final


def test_the_table_of_any_axes():
    runs = general(AXES)
    assert "width_scale 0.5, adam" in printed(summarise(runs))
    compared = printed(summarise(runs, baseline={"width_scale": 1}))
    assert "speed-up over width_scale 1" in compared
    assert compared.count("1 (baseline)") == 2
    assert compared.count("→") == 2
    no_rates = printed(summarise(general({"momentum": (0.5, 0.9)}, seed=3)))
    assert "edge of the grid" not in no_rates


@pytest.mark.parametrize(
    ("limit", "words"), [("-n 8", "ulimit -n"), ("-v 1400000", "1,433,600,000 bytes")]
)
def test_a_sweep_under_a_limit_ends_in_one_line(tmp_path, limit, words):
    folder = tmp_path / "run"
    command = f"ulimit {limit}; exec {sys.executable} -m experiments.sweep --output_dir {folder} "
    done = subprocess.run(
        command + " ".join(SMALL), shell=True, capture_output=True, text=True, cwd=REPOSITORY,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line


def shell(command, **environment):
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=200,
        env=os.environ | environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirected", "words"), [(">/dev/full", "No space left"), ("| sleep 0", "Broken pipe")]
)
def test_output_that_goes_nowhere_is_one_line(redirected, words):
    # sleep ends long before the program writes.
    command = f"set -o pipefail; {sys.executable} -m experiments.plot --help {redirected}"
    done = shell(f"exec bash -c '{command}'")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot write to standard output")
    assert words in line


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_PLATFORMS": "nonsense"}, "JAX_PLATFORMS"),
        ({"MPLBACKEND": "nonsense"}, ""),
        ({"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "relative"}, ""),
        ({"PYTHONWARNINGS": "error", "COLUMNS": "1", "TERM": "dumb", "LC_ALL": "xx_YY.x"}, ""),
    ],
)
def test_odd_environments(tmp_path, environment, words):
    flags = ["--depths", "1", "--formats", "png", "--output_dir", tmp_path / "run"]
    result = run("sweep", *SMALL, *flags, **environment)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr
    assert result.returncode == len(errors) == bool(words)
    assert words in "".join(errors)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    command = f"{sys.executable} -m experiments.sweep --output_dir {tmp_path} --depths 1 "
    assert shell(command + " ".join(SMALL) + closed.rjust(len(closed) + 1)).returncode == 0
    assert (tmp_path / "results.nc").exists()
