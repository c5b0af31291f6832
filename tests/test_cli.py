"""What the programs make of text from outside: flags, names of files and columns."""

import errno
import io
import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from marks import param
from programs import REPOSITORY, expect_usage_error, run
from test_statistics import AXES, general, made

import implicit_accel as ia
from implicit_accel import UserError, load_run, summarise
from implicit_accel.experiments import cli
from implicit_accel.experiments.user_task import parse_axis
from implicit_accel.fields import parse_bytes
from implicit_accel.linear.config import parse_learning_rates

HOSTILE = "<script>$x_&\x1b[31m\u202e"
SMALL = ["--num_steps", "20", "--num_seeds", "1", "--learning_rates", "0.1", "--losses", "l2"]


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("500 MiB", 500 * 2**20), ("1.5k", 1536), ("7", 7)]
)
def test_sizes_are_read(text, size):
    assert cli.parse_bytes(text) == size
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("number", "size"), [(7, 7), (1.5e3, 1500), (np.int64(2**40), 2**40), (np.float32(8), 8)]
)
def test_sizes_may_be_numbers(number, size):
    found = parse_bytes(number)
    assert (found, type(found)) == (size, int)


@pytest.mark.parametrize("text", ["", "GiB", "4TiB", "nan", "inf", "-1", "0", "1e-9", "4GiBGiB"])
def test_bad_sizes_are_refused(text):
    with pytest.raises(UserError, match="--memory_limit"):
        cli.parse_bytes(text)
    with pytest.raises(UserError, match=r"^'"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("x=0.5:1:2", "x", (0.5, 1, 2)),
        (" x = 1 : 2 ", "x", (1, 2)),
        ("x=10:1e3:1.0", "x", (10, 1e3, 1.0)),
        ("x=-3:+4:.5", "x", (-3, 4, 0.5)),
        ("x=1_000", "x", (1000,)),  # as --learning_rates takes it
        ("x=\u0663:007", "x", (3, 7)),
        ("x=log:0.1:1:3", "x", (0.1, 0.316228, 1.0)),
        ("x=log:1:8:4", "x", (1.0, 2.0, 4.0, 8.0)),
        ("flag=true:false", "flag", (True, False)),
        ("flag=FALSE", "flag", (False,)),
        ("act=tanh:relu", "act", ("tanh", "relu")),
        ("scale=log:linear", "scale", ("log", "linear")),
        ("w=static:8:16", "w", ia.static(8, 16)),
        ("w= static : 8", "w", ia.static(8)),
        ("w=static:8:0.5", "w", ia.static(8, 0.5)),
        ("w=static:log:1:4:3", "w", ia.static(1.0, 2.0, 4.0)),
        ("w=static:true:False", "w", ia.static(True, False)),
        ("w=static", "w", ("static",)),
        ("w=static:moving", "w", ("static", "moving")),
        ("w=log:static", "w", ("log", "static")),
        ("w=static:8:relu", None, "no mixture"),
        ("w=static:true:8", None, "no mixture"),
        ("w=8:static:16", None, "no mixture"),
        ("w=static:inf", None, "inf is not a finite number"),
        ("w=static:log:1:2", None, "log"),
        ("w=static:", None, "write name=value:value"),
        ("hidden=64x32:8", None, "no mixture"),
        ("hidden=64x32:8x8", "hidden", ("64x32", "8x8")),
        ("x=1:tanh", None, "no mixture"),
        ("x=true:1", None, "no mixture"),
        ("x=true:tanh", None, "no mixture"),
        ("x=0.5:log:0.1:1:3", None, "no mixture"),
        ("x=nan", None, "nan is not a finite number"),
        ("x=1:-inf", None, "-inf is not a finite number"),
        ("x=1e999", None, "1e999 is not a finite number"),
        ("x=" + "1" * 5000, None, "is not a finite number"),
        ("x=0x10", None, "write 0x10 in decimals"),
        ("x=1:0b1", None, "write 0b1 in decimals"),
        ("=1", None, "write name=value:value"),
        (" =1", None, "write name=value:value"),
        ("x", None, "write name=value:value"),
        ("x=", None, "write name=value:value"),
        ("x=1::2", None, "write name=value:value"),
        ("a b=1", None, "'a b' is no name"),
        ("1x=1", None, "'1x' is no name"),
        ("x-y=1", None, "'x-y' is no name"),
    ],
)
def test_axes_are_read(text, name, values):
    if name is None:
        with pytest.raises(UserError) as error:
            parse_axis(text)
        assert str(error.value).startswith("--axes '")
        assert values in str(error.value)
        return
    found = parse_axis(text)
    assert found == (name, values)
    listed: list[Any] = [v.values if isinstance(v, ia.static) else v for v in (found[1], values)]
    assert [type(value) for value in listed[0]] == [type(value) for value in listed[1]]


@pytest.mark.parametrize(
    "text", ["log:1:2", "log:2:1:3", "log:0:1:3", "log:1:2:1", "log:1:2:3:4", "log:-1:1:3",
             "log:1e-3:inf:3", "log:nan:1:3", "log:1:2:99999999", "log:0x1:2:3", "log:1:2:3.0"],
)  # fmt: skip
def test_log_ranges_of_axes_have_the_errors_of_learning_rates(text):
    errors = []
    for read in (lambda: parse_axis(f"x={text}"), lambda: parse_learning_rates([text])):
        with pytest.raises(UserError) as error:
            read()
        errors.append(str(error.value))
    assert errors[0] == f"--axes 'x={text}': " + errors[1].replace("learning rate", "value")


# Every form that absl takes.
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--losses", "l2", "--losses", "l4"], ["--losses is given twice: write --losses l2,l4"]),
        (["--losses=l2, l4", "-losses", "l4"], ["--losses is given twice: write --losses l2,l4"]),
        (["--losses=l2"] * 3, ["--losses is given 3 times: write --losses l2"]),
        (["--losses=", "--losses=l2"], ["--losses is given twice: write --losses l2"]),
        (["--num_steps", "5", "--num_steps=50"], ["--num_steps is given twice", "(5 or 50)"]),
        (["--learning_rates", "-0.1", "--learning_rates", "1"], ["--learning_rates -0.1,1"]),
        (["--bias", "--nobias"], ["--bias is given twice: give it once (true or false)"]),
        (["-bias", "--bias=true"], ["--bias is given twice: give it once (true)"]),
        (["--output_dir", "--bias", "--output_dir", "x"], ["--output_dir is given twice"]),
        (["--precision=float64", "--precision", "float64"], ["--precision is given twice"]),
    ],
)
def test_a_flag_given_twice_is_refused(tmp_path, arguments, words):
    expect_usage_error(run("sweep", *arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("plot", "--run"),
        ("compare", "--csv"),
        ("predict", "--output"),
        ("reproduce", "--output_dir"),
        ("article", "--sources"),
    ],
)
def test_no_program_takes_the_last_of_two_flags(program, flag):
    expect_usage_error(run(program, f"{flag}=1", flag, "1"), f"{flag} is given twice")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--depths", "0", "--", "--depths", "1"], "unexpected '--depths'"),
        (["--output_dir", "--losses", "--losses", "l2", "--depths", "0"], "depth 0"),
        (["--flagfile", "{file}", "--losses", "l2", "--flagfile={file}", "--depths=0"], "depth 0"),
    ],
)
def test_what_is_no_second_flag(tmp_path, arguments, words):
    (tmp_path / "flags").write_text("--losses=l4\n--num_steps=5\n--num_steps=6\n")
    file = str(tmp_path / "flags")
    given = [argument.replace("{file}", file) for argument in arguments]
    expect_usage_error(run("sweep", *given, cwd=tmp_path), words)


def test_the_command_line_overrides_a_file_of_flags(tmp_path):
    (tmp_path / "flags").write_text("--losses=l4\n--num_steps=500\n--depths=1\n")
    flags = ["--flagfile", tmp_path / "flags", *SMALL, "--output_dir", tmp_path / "run"]
    result = run("sweep", *flags)
    assert result.returncode == 0, result.stderr
    runs = load_run(tmp_path / "run")
    assert runs.attrs["num_steps"] == 20
    assert runs["loss_name"].values.tolist() == ["l2"]
    assert runs["depth"].values.tolist() == [1]


TASK = """
import jax
import jax.numpy as jnp
import numpy as np
import implicit_accel as ia

def start(key, hp):
    drawn = 0 * jax.random.normal(key)
    return {"w": hp["scale"] * jnp.where(hp["flag"], 1.0, 3.0) + hp["offset"] + drawn}

task = ia.from_loss(lambda params, batch: params["w"] ** 2, init=start, data=np.ones((2, 1)))
"""


def test_axes_accumulate(tmp_path):
    (tmp_path / "model.py").write_text(TASK)
    flags = ["--task", tmp_path / "model.py:task", "--num_steps=2", "--learning_rates=0.1"]
    axes = ["--axes", "scale=log:1:4:3,flag=true:False", "--axes=offset=-1"]
    result = run("sweep", *flags, "--num_seeds=1", *axes, "--output_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    runs = load_run(tmp_path / "run")
    assert runs["scale"].values.tolist() == [1.0, 2.0, 4.0]
    # Along flag: true, then false.
    first = runs["loss"].isel(step=0, seed=0, learning_rate=0, offset=0)
    assert first.dims == ("scale", "flag")
    for scale in (1.0, 2.0, 4.0):
        np.testing.assert_allclose(first.sel(scale=scale)[0], (scale - 1) ** 2)
        np.testing.assert_allclose(first.sel(scale=scale)[1], (3 * scale - 1) ** 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--axes", "scale=1:2", "--axes", "scale=3"], "--axes: scale is given twice"),
        (["--axes", "scale=1:2,scale=3"], "--axes: scale is given twice"),
        (["--axes", "seed=1:2"], "--axes: seed is an axis already"),
        (["--axes", "scale=log:1:2"], "log:low:high:count"),
        (["--axes", "scale=1:small"], "no mixture"),
        (["--axes", "a b=1"], "'a b' is no name"),
        (["--axes", "scale=nan"], "nan is not a finite number"),
        (["--axes", "scale=1,"], "write name=value:value"),
    ],
)
def test_bad_axes(tmp_path, arguments, words):
    (tmp_path / "model.py").write_text(TASK)
    expect_usage_error(run("sweep", "--task", tmp_path / "model.py:task", *arguments), words)


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
    assert "depth 2 ends at an excess loss 2.6× lower than depth 1" in final


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_none(width):
    table = summarise(made(np.full((2, 1, 3), 10), [[[0.26] * 3], [[0.1] * 3]]))
    file = io.StringIO()
    cli.print_summary(table, "made", cli.Console(file=file, width=width))
    text = file.getvalue()
    assert "…" not in text
    for row in table["model"]:
        assert f"│ {row} " in text
    lines = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    assert all(len(line) <= width for line in lines)
    heading = next(line for line in lines if "model" in line)
    is_said = "Too wide for this terminal" in " ".join(text.split())
    assert is_said == (heading.count("┃") < 8)
    assert (width < 80) <= is_said
    assert "1 (baseline)" in text or width < 80


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


NOWHERE = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "relative"}
ODD = {"PYTHONWARNINGS": "error", "COLUMNS": "1", "TERM": "dumb", "LC_ALL": "xx_YY.x"}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_PLATFORMS": "nonsense"}, "JAX_PLATFORMS"),
        param(NOWHERE | ODD | {"MPLBACKEND": "nonsense"}, ""),
        param({"MPLBACKEND": "nonsense"}, ""),
        param(NOWHERE, ""),
        param(ODD, ""),
    ],
)
def test_odd_environments(tmp_path, environment, words):
    flags = ["--depths", "1", "--formats", "png", "--output_dir", tmp_path / "run"]
    result = run("sweep", *SMALL, *flags, **environment)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr
    assert result.returncode == len(errors) == bool(words)
    assert words in "".join(errors)


@pytest.mark.parametrize("closed", [param(">&-"), param("2>&-"), param("<&-"), "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    flags = f"--output_dir {tmp_path} --depths 1 --formats none "
    command = f"{sys.executable} -m experiments.sweep {flags}"
    assert shell(command + " ".join(SMALL) + closed.rjust(len(closed) + 1)).returncode == 0
    assert (tmp_path / "results.nc").exists()
