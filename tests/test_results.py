import contextlib
import json
import os

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_problem

from implicit_accel import DataError, Loss, Optimizer, SweepConfig, load_run, run_sweep, select
from implicit_accel.files import atomic_path
from implicit_accel.results import model_labels, save_json, save_results


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    config = SweepConfig(
        depths=(1, 2), hidden_widths=(1, 4), losses=(Loss(2), Loss(4)),
        optimizers=(Optimizer("sgd"), Optimizer("adam")), learning_rates=(0.01, 0.1, 100.0),
        num_seeds=2, num_steps=40,
    )  # fmt: skip
    return run_sweep(random_problem(np.random.default_rng(7)), config)[0]


def test_everything_is_named(results):
    assert results.loss.dims == ("model", "learning_rate", "seed", "step")
    assert dict(results.sizes) == {"model": 12, "learning_rate": 3, "seed": 2, "step": 41}
    assert results.attrs["num_rows"] == 30
    assert float(results.excess_loss.sel(learning_rate=0.1, seed=1, step=40)[0]) >= 0


def test_loss_is_optimum_plus_excess(results):
    np.testing.assert_allclose(results.loss, results.excess_loss + results.optimum, rtol=1e-5)
    diverged = np.isfinite(results.divergence_step.values)
    assert diverged.any()
    assert np.isposinf(results.loss.values[diverged][:, -1]).all()
    assert np.isfinite(results.loss.values[~diverged]).all()


def test_a_round_trip_keeps_everything(results, tmp_path):
    save_results(results, tmp_path)
    xr.testing.assert_identical(load_run(tmp_path), results)
    xr.testing.assert_identical(load_run(tmp_path / "results.nc"), results)
    assert [p.name for p in tmp_path.iterdir()] == ["results.nc"]


def test_models_are_selected_by_name(results):
    chosen = select(results, loss_name="l4", depth=2, optimizer="adam")
    assert chosen.sizes["model"] == 2
    assert set(chosen.hidden_widths.values) == {"1", "4"}
    with pytest.raises(DataError, match="no model has depth = 7: there are 1, 2"):
        select(results, depth=7)
    with pytest.raises(DataError, match="'width' is no model coordinate"):
        select(results, width=1)


def test_labels_tell_models_apart(results):
    labels = model_labels(results)
    assert len(set(labels)) == len(labels)
    assert labels[0] == "l2, depth 1, sgd"
    assert "l4, depth 2, width 4, adam" in labels
    assert model_labels(select(results, loss_name="l2", optimizer="sgd", hidden_widths="-")) == [
        "depth 1"
    ]


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_run(tmp_path)
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="not a sweep's results"):
        load_run(tmp_path)


@given(content=st.binary(max_size=400))
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "results.nc"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable netCDF-4 file"):
        load_run(path)


@given(data=st.data())
def test_damaged_results_are_read_or_refused(results, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(save_results(results.isel(model=[0], seed=[0]), folder).read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    del content[cut:]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "results.nc").write_bytes(content)
    with contextlib.suppress(DataError):
        assert load_run(folder).attrs["format"]


def test_atomic_writing_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_is_json(tmp_path):
    save_json({"a": [1, "ü"]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, "ü"]}
