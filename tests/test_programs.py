"""The programs as a user runs them: files, exit codes, messages."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from programs import (
    REPOSITORY,
    SMALL,
    TINY,
    as_module,
    expect_usage_error,
    forked,
    replaced,
    run,
    visible,
)

from implicit_accel import load_run


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("sweep", ["--depths", "0"]),
        ("compare", ["--help"]),
        ("plot", ["nowhere"]),
    ],
)
def test_a_forked_program_is_the_started_one(tmp_path, program, arguments):
    name = f"experiments.{program}"
    started = subprocess.run(
        [sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=False,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    again = forked(as_module, name, *arguments, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (started.returncode, started.stdout)
    assert again.stderr == started.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    flags = ["--held_out_fraction", "0.2", "--formats", "png,pdf", "--compilation_cache", "none"]
    result = run("sweep", *SMALL, "--output_dir", folder, *flags)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_sweep_writes_an_output_folder_that_explains_itself(finished):
    folder, result = finished
    assert visible(folder) == [
        "checkpoints", "config.json", "figures", "report.html", "results.nc", "summary.csv"
    ]  # fmt: skip
    names = {p.name for p in (folder / "figures").iterdir()}
    figures = ("excess_loss", "learning_rates", "steps_to_target", "speed_up")
    assert names == {f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")}
    config = json.loads((folder / "config.json").read_text())
    assert config["identity"]["num_steps"] == 300
    assert config["compilations"] == 1
    assert config["dataset"]["is_stand_in"] is True
    assert {"jax", "optax", "numpy", "implicit_accel", "python"} <= config["versions"].keys()
    assert config["device"]["platform"] == "cpu"
    results = load_run(folder)
    assert "held_out_loss" in results
    assert results.sizes["learning_rate"] == 3
    assert "1 compilation" in result.stdout


def test_the_table_says_what_the_csv_says(finished):
    folder, result = finished
    table = pd.read_csv(folder / "summary.csv")
    assert len(table) == 6
    for _, row in table.iterrows():
        (line,) = [x for x in result.stdout.splitlines() if x.startswith(f"│ {row['model']} ")]
        assert f"{row['best_learning_rate']:.3g}" in line
        assert f"{row['num_diverged']} of {row['num_runs']}" in line
    assert set(table["grid_edge"].fillna("")) <= {"", "low", "high"}


def test_the_stand_in_says_so_everywhere(finished):
    folder, result = finished
    assert "stand-in" in result.stdout
    assert "stand-in" in load_run(folder).attrs["title"]


def test_a_finished_run_is_not_trained_again(finished):
    folder, _ = finished
    before = (folder / "results.nc").stat().st_mtime_ns
    again = run("sweep", *SMALL, "--output_dir", folder, "--held_out_fraction", "0.2")
    assert again.returncode == 0
    assert "already" in again.stdout
    assert (folder / "results.nc").stat().st_mtime_ns == before


def sweep_of_a_reader(*arguments):
    """The program of a user without the right to write anywhere."""
    os.access = lambda *_: False
    as_module("experiments.sweep", *arguments)


def test_a_finished_run_in_a_folder_that_cannot_be_written_is_shown(finished):
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    flags = ("--formats", "png", *SMALL, "--output_dir", folder, "--held_out_fraction", "0.2")
    result = forked(sweep_of_a_reader, *flags, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert "which cannot be written: its files stay as they are" in result.stdout
    assert "learning rate" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_another_run_in_the_folder_is_left_alone_unless_told(finished, tmp_path):
    folder, _ = finished
    other = ["--output_dir", folder, *SMALL, "--held_out_fraction", "0.2", "--bias"]
    expect_usage_error(run("sweep", *other), "bias: False there, True here", "--overwrite")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    for flag in ([], ["--overwrite"]):
        expect_usage_error(run("sweep", "--output_dir", foreign, *flag), "that are not a run's")
    assert (foreign / "thesis.tex").read_text() == "precious"


def test_a_quick_answer_says_what_it_leaves_out_and_is_gone_on_from(tmp_path):
    words = ["--losses", "l2", "--num_steps", "200", "--output_dir", tmp_path]

    def train(*more):
        result = run("sweep", *words, *more)
        assert result.returncode == 0, result.stderr
        return load_run(tmp_path), result

    quick, result = train("--quick")
    assert result.stdout.strip().splitlines()[-1] == (
        "Quick: depths 1, 2 of 1, 2, 3. The same command without --quick trains the rest."
    )
    assert quick["depth"].values.tolist() == [1, 2]
    whole, result = train()
    assert "Quick" not in result.stdout
    assert whole["depth"].values.tolist() == [1, 2, 3]
    assert whole["excess_loss"].isel(model=[0, 1]).identical(quick["excess_loss"])


def test_a_run_is_extended_and_only_what_is_new_is_trained(tmp_path):
    def trained(steps, rates, seeds, folder):
        result = run(
            "sweep", "--num_steps", steps, "--learning_rates", rates, "--num_seeds", seeds,
            "--precision", "float64", "--losses", "l4", "--output_dir", tmp_path / folder,
            "--compilation_cache", "none",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return load_run(tmp_path / folder), result

    trained(300, "0.003,3", 2, "grown")
    more_steps, result = trained(500, "0.003,3", 2, "grown")
    assert "going on from a checkpoint at 60.0%" in result.stderr
    straight, _ = trained(500, "0.003,3", 2, "straight")
    xr.testing.assert_allclose(more_steps, straight, rtol=1e-9)
    grown, result = trained(500, "0.03,0.003,3", 3, "grown")
    # One round more, nothing else: the new rate for all seeds, the new seed for the old rates.
    assert result.stdout.count("1 compilation (") == 1
    manifest = json.loads((tmp_path / "grown" / "checkpoints" / "manifest.json").read_text())
    first, second = manifest["rounds"]
    models = len(first["axes"]["model"])
    assert first["runs"] is None
    assert first["axes"] == {**second["axes"], "learning_rate": [0.003, 3.0], "seed": [0, 1]}
    assert len(second["runs"]) == models * (3 + 2)
    whole, _ = trained(500, "0.03,0.003,3", 3, "whole")
    xr.testing.assert_allclose(grown, whole, rtol=1e-9)
    np.testing.assert_array_equal(grown["divergence_step"], whole["divergence_step"])
    old = grown["excess_loss"].sel(learning_rate=[0.003, 3], seed=[0, 1])
    assert old.identical(more_steps["excess_loss"])


def test_the_same_command_goes_on_in_the_default_folder(tmp_path):
    other = ["--learning_rates", "0.01", "--num_seeds", "1", "--depths", "1,2"]
    assert run("sweep", *other, "--num_steps", "100", cwd=tmp_path).returncode == 0
    assert run("sweep", *other, "--num_steps", "200", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs").iterdir()
    assert load_run(folder).attrs["num_steps"] == 200
    # Fewer steps are another run.
    assert run("sweep", *other, "--num_steps", "50", cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "outputs").iterdir())) == 2


@pytest.mark.nightly
def test_a_run_is_put_together_again_from_its_checkpoints(tmp_path):
    arguments = [*TINY, "--output_dir", tmp_path / "run"]
    assert run("sweep", *arguments).returncode == 0
    results = tmp_path / "run" / "results.nc"
    before = results.read_bytes()
    for damage in (lambda: results.write_bytes(before[:1000]), results.unlink):
        damage()
        again = run("sweep", *arguments)
        assert again.returncode == 0, again.stderr
        assert results.read_bytes() == before
        assert "0 compilations" in again.stdout


def test_overwriting(tmp_path):
    arguments = [*TINY, "--output_dir", tmp_path / "run"]
    assert run("sweep", *arguments).returncode == 0
    arguments += ["--compilation_cache", "none"]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    arguments = replaced(arguments, "--depths", "1")
    result = run("sweep", *arguments, "--overwrite", "--formats", "png")
    assert result.returncode == 0, result.stderr
    assert load_run(tmp_path / "run").sizes["model"] == 1
    assert visible(tmp_path / "run") == [
        "checkpoints", "config.json", "figures", "notes.txt", "report.html", "results.nc",
        "summary.csv",
    ]  # fmt: skip
    trained_again = run("sweep", *arguments, "--overwrite")
    assert "1 compilation" in trained_again.stdout


def test_plot_redraws_without_training(finished, tmp_path):
    folder, _ = finished
    figures = tmp_path / "figures"
    result = run("plot", "--run", folder, "--figures_dir", figures, "--formats", "svg")
    assert result.returncode == 0, result.stderr
    assert len(list(figures.glob("*.svg"))) == 4
    assert visible(figures) == sorted(["report.html", *(p.name for p in figures.glob("*.svg"))])
    assert "depth 2" in result.stdout


def test_help_reads_like_documentation():
    for program, flag in (("sweep", "--learning_rates"), ("plot", "--run")):
        result = run(program, "--help")
        assert result.returncode == 0
        assert flag in result.stdout
        assert result.stderr == ""


def test_own_csv(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    table["price"] = X @ [1, 2, 3] + rng.standard_normal(60)
    path = tmp_path / "my.csv"
    table.to_csv(path, index=False)
    result = run(
        "sweep", "--dataset", "csv", "--csv_path", path, "--csv_target", "price", *SMALL,
        "--optimizers", "sgd,adam,adamw", "--optimizer_settings", "adam:b1=0.8",
        "--weight_decays", "0,0.1", "--inits", "identity,pytorch", "--hidden_widths", "2,4x3",
        "--losses", "l3", "--bias", "--precision", "float64", "--memory_limit", "1MiB",
        "--output_dir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    results = load_run(tmp_path / "run")
    # 3 optimizers x 2 decays x 2 inits x (1; 2; 2x2; 4x3)
    assert results.sizes["model"] == 3 * 2 * 2 * 4
    assert results.loss.dtype == np.float64


def make_csv(folder, text):
    path = folder / "my.csv"
    path.write_text(text)
    return path


CSV_ERRORS = {
    "text": ("a,y\n1,2\nx,3\n4,5\n", ["'a'", "x"]),
    "gap": ("a,y\n1,2\n,3\n4,5\n", ["'a'"]),
    "one row": ("a,y\n1,2\n", ["1 row"]),
    "constant": ("a,b,y\n1,7,2\n2,7,3\n3,7,5\n", ["'b'", "constant"]),
    "no target": ("a,b\n1,2\n2,3\n", ["'y'", "'a', 'b'"]),
}


@pytest.mark.parametrize("what", CSV_ERRORS)
def test_bad_csv(tmp_path, what):
    text, words = CSV_ERRORS[what]
    result = run(
        "sweep", "--dataset", "csv", "--csv_path", make_csv(tmp_path, text), "--csv_target", "y",
        cwd=tmp_path,
    )  # fmt: skip
    expect_usage_error(result, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["my.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "iris"], ["--dataset", "gas_like", "abalone"]),
        (["--datset", "gas"], ["datset"]),
        (["--learning_rates", "1e-3", "1e-2"], ["unexpected '1e-2'", "commas"]),
        (["--learning_rates", ""], ["learning rates", "empty"]),
        (["--learning_rates", "0.1,,0.2"], ["log:low:high:count"]),
        (["--learning_rates", "-0.1"], ["-0.1", "above 0"]),
        (["--depths", "1,two"], ["--depths", "'two'", "whole number"]),
        (["--depths", "2,2"], ["2 is given twice"]),
        (["--losses", "l1.5"], ["--losses", "1.5", ">= 2"]),
        (["--inits", "xavier"], ["'xavier'", "near_zero"]),
        (["--init_stds", "small"], ["--init_stds", "'small'"]),
        (["--optimizers", "lion"], ["'lion'", "adamw"]),
        (["--optimizer_settings", "adam:b1=0.8"], ["adam is not among --optimizers"]),
        (["--num_seeds", "0"], ["seeds", ">= 1"]),
        (["--num_steps", "many"], ["num_steps", "many"]),
        (["--target", "lots"], ["target 'lots'", "10%"]),
        (["--precision", "float16"], ["float32", "float64"]),
        (["--activation", "tanh"], ["identity", "relu"]),
        (["--scaling", "minmax"], ["standard", "whiten", "center"]),
        (["--held_out_fraction", "1.5"], ["held-out fraction"]),
        (["--memory_limit", "huge"], ["--memory_limit", "4GiB"]),
        (["--memory_limit", "0"], ["--memory_limit", "at least one byte"]),
        (["--checkpoint_every", "nan"], ["--checkpoint_every", "nan", "non-negative"]),
        (["--checkpoint_every", "-1"], ["--checkpoint_every", "-1", "non-negative"]),
        (["--checkpoint_every", "often"], ["--checkpoint_every", "often"]),
        (["--held_out_fraction", "nan"], ["held_out_fraction", "nan"]),
        (["--learning_rates", "nan"], ["learning rate nan"]),
        (["--weight_decays", "inf"], ["weight decay inf"]),
        (["--init_stds", "nan"], ["init std nan"]),
        (["--target", "nan"], ["target nan"]),
        (["--csv_path", "a.csv"], ["--dataset csv"]),
        (["--gas_name", "toluene"], ["--gas_name goes with --dataset gas"]),
        (["--devices", "1000"], ["--devices 1000"]),
        (["--hidden_widths", "64x32"], ["depth 2", "hidden widths fits"]),
        (["--workers", "0"], ["--workers", "positive"]),
        (["--workers", "1", "--scheduler", "tcp://a:1"], ["--workers", "--scheduler", "one of"]),
        (["--workers", "1", "--devices", "1"], ["--devices", "leave it out"]),
        (["--dataset", "csv"], ["needs --csv_path and --csv_target"]),
        (["--dataset", "csv", "--csv_path", "no.csv", "--csv_target", "y"], ["no.csv"]),
        (["--dataset", "gas", "--data_dir", "nowhere"], ["nowhere"]),
        (["--dataset", "gas", "--gas_batches", "11"], ["11"]),
        (["--output_dir", "/proc/nowhere"], ["/proc/nowhere", "cannot write"]),
        (["--output_dir", "a" * 300], ["--output_dir", "too long"]),
        (["--records_per_decade", "2000000000"], ["records per decade"]),
    ],
)  # fmt: skip
def test_bad_flags(tmp_path, arguments, words):
    expect_usage_error(run("sweep", *arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_runs_with_other_settings_do_not_meet(tmp_path):
    folders = set()
    for changes in ([], ["--num_seeds", "1"], ["--learning_rates", "0.003,0.03,3.0"]):
        result = run("sweep", *replaced(TINY, *changes), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        folders |= {p.name for p in (tmp_path / "outputs").iterdir()}
    # 3 and 3.0 are the same learning rate: the third run is the first.
    assert len(folders) == 2
    assert all(name.startswith("gas_like-") for name in folders)


def test_another_measure_of_best_redraws_a_finished_run(tmp_path):
    arguments = [*TINY, "--output_dir", tmp_path / "run"]
    assert run("sweep", *arguments).returncode == 0
    summary = tmp_path / "run" / "summary.csv"
    trained = (tmp_path / "run" / "results.nc").read_bytes()
    summary.unlink()
    assert run("sweep", *arguments, "--best_by", "final").returncode == 0
    assert len(pd.read_csv(summary)) == 2
    assert (tmp_path / "run" / "results.nc").read_bytes() == trained


def test_bad_plot_flags(tmp_path):
    expect_usage_error(run("plot"), "--run is missing")
    expect_usage_error(run("plot", "--run", tmp_path), "no such file")
    expect_usage_error(run("plot", "--run", tmp_path, "--formats", "bmp"), "bmp", "png, pdf, svg")
    expect_usage_error(run("plot", "--run", tmp_path, "--formats", "none,svg"), "stands alone")


def test_truncated_gas_batch(tmp_path):
    folder = tmp_path / "gas"
    folder.mkdir()
    values = " ".join(f"{i}:{i}.5" for i in range(1, 129))
    (folder / "batch1.dat").write_text(f"1;10.000000 {values}\n1;20.000000 1:2.5 2:3\n")
    result = run(
        "sweep", "--dataset", "gas", "--data_dir", tmp_path, "--gas_batches", "1", cwd=tmp_path
    )
    expect_usage_error(result, "batch1.dat", "2")
    result = run("sweep", "--dataset", "gas", "--data_dir", tmp_path, cwd=tmp_path)
    expect_usage_error(result, "batch2.dat", "--gas_batches")
    assert [p.name for p in tmp_path.iterdir()] == ["gas"]
