"""Datasets are found: one file more is one dataset more."""

import json
import sys

import numpy as np
import pytest
from programs import as_module, forked

from implicit_accel import UserError, load_run
from implicit_accel.data import sources
from implicit_accel.data.dataset import DatasetSource
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.fields import Field
from implicit_accel.linear import Dataset

# All that somebody writes for a dataset of theirs.
PENDULUM = '''
"""Periods of pendulums."""

import numpy as np

from implicit_accel.data.dataset import Dataset, DatasetSource
from implicit_accel.fields import Field


def load(pendulum_rows, progress):
    lengths = np.linspace(0.1, 2, pendulum_rows)[:, None]
    return Dataset(
        name="pendulum", features=np.hstack([lengths, lengths**2]), targets=lengths**0.5,
        feature_names=("length (m)", "its square"), target_names=("period",),
        source="made", title="Pendulums",
    )


SOURCE = DatasetSource(
    "pendulum", "periods of pendulums", load, {"pendulum_rows": Field(30, "How many pendulums.")}
)
'''


def program(folder, *arguments):
    """`python -m experiments.sweep` of somebody whose datasets lie in a folder of their own."""
    sources.__path__.append(folder)
    as_module("implicit_accel.experiments.sweep", *arguments)


def sweep(folder, *arguments):
    return forked(program, folder, *arguments, cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("mine")
    (made / "periods.py").write_text(PENDULUM)
    return made


def test_a_module_in_a_folder_is_a_dataset_of_the_program(folder):
    result = sweep(
        folder, "--dataset", "pendulum", "--pendulum_rows", "40", "--num_steps", "20",
        "--num_seeds", "1", "--learning_rates", "0.1", "--losses", "l2", "--depths", "1",
        "--output_dir", "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert load_run(folder / "run").attrs["title"] == "Pendulums"
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["dataset"]["num_rows"] == 40
    settings = config["identity"]["settings"]
    assert settings["dataset"] == "pendulum"
    assert settings["pendulum_rows"] == 40


def test_its_options_are_documented_under_data(folder):
    text = sweep(folder, "--help").stdout
    data = text[text.index("\nData:") : text.index("\nModels:")]
    assert "periods of pendulums" in data
    assert "--pendulum_rows  (default: 30)\n      How many pendulums." in data
    assert "abalone|csv|gas|gas_like|pendulum" in data.replace(" ", "").replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pendulum_rows", "5"], "--pendulum_rows goes with --dataset pendulum, not gas_like"),
        (
            ["--dataset", "pendulum", "--data_dir", "."],
            "--data_dir goes with --dataset abalone or gas, not pendulum",
        ),
        (["--csv_path", "x"], "--csv_path goes with --dataset csv, not gas_like"),
    ],
)
def test_options_of_another_dataset_are_refused(folder, arguments, message):
    result = sweep(folder, *arguments)
    assert result.returncode == 2
    assert result.stderr.strip() == f"error: {message}"


def test_what_is_there():
    found = find_sources()
    assert {"gas", "abalone", "csv", "gas_like"} <= set(found)
    assert set(options_of(found)) == {
        "data_dir", "gas_name", "gas_batches", "csv_path", "csv_target", "csv_delimiter",
        "csv_decimal", "csv_header", "csv_drop", "csv_one_hot", "csv_missing",
    }  # fmt: skip
    assert isinstance(found["gas_like"].load(progress=lambda *_: None), Dataset)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "odd declares no dataset"),
        ("from implicit_accel.data.sources.gas import SOURCE", "'gas' already"),
    ],
)
def test_modules_that_do_not_fit_are_refused(tmp_path, monkeypatch, text, words):
    (tmp_path / "odd.py").write_text(text)
    (tmp_path / "_helpers.py").write_text("raise SystemError")
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "implicit_accel.data.sources.odd", raising=False)
    with pytest.raises(UserError, match=words):
        find_sources()
    monkeypatch.delitem(sys.modules, "implicit_accel.data.sources.odd")


def nothing(**_):
    return Dataset("x", np.ones((2, 1)), np.ones((2, 1)), ("a",), ("y",), "s", "t")


def test_sources_may_share_an_option_but_not_differ_in_it():
    shared = Field(1, "Shared.")
    one = DatasetSource("one", "h", nothing, {"size": shared})
    two = DatasetSource("two", "h", nothing, {"size": shared})
    assert options_of({"one": one, "two": two}) == {"size": shared}
    other = DatasetSource("other", "h", nothing, {"size": Field(2, "Shared.")})
    with pytest.raises(UserError, match="'other' declares --size otherwise"):
        options_of({"one": one, "other": other})


@pytest.mark.parametrize("name", ["", "Gas", "../x", "a b", "1x"])
def test_names_are_words(name):
    with pytest.raises(UserError, match="is no name"):
        DatasetSource(name, "h", nothing)
    with pytest.raises(UserError, match="is no name"):
        DatasetSource("x", "h", nothing, {name: Field(1, "h")})
