import json
import os

import h5netcdf
import h5py
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_problem
from test_statistics import AXES, general, some_axes

import implicit_accel as ia
from implicit_accel import DataError, Optimizer, load_run, select
from implicit_accel.files import atomic_path, save_json, seal
from implicit_accel.linear import Loss, SweepConfig, run_sweep
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.results import LINEAR_QUANTITIES, MODEL_COORDINATES
from implicit_accel.results import (
    QUANTITIES,
    model_coordinates,
    model_labels,
    quantities_table,
    save_results,
)

# Those of every sweep of linear networks.
DECLARED = tuple(name for name, quantity in MODEL_COORDINATES.items() if quantity.required)


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    config = SweepConfig(
        depths=(1, 2), hidden_widths=(1, 4), losses=(Loss(2), Loss(4)),
        optimizers=(Optimizer("sgd"), Optimizer("adam")), learning_rates=(0.01, 0.1, 100.0),
        num_seeds=2, num_steps=40,
    )  # fmt: skip
    return run_sweep(random_problem(np.random.default_rng(7)), config)


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


def test_what_is_declared_is_what_is_written(results):
    assert model_coordinates(results) == DECLARED
    for name, quantity in LINEAR_QUANTITIES.items():
        if name in results.variables:
            assert quantity.attributes.items() <= results[name].attrs.items()
        else:
            assert not quantity.required
    rows = quantities_table().splitlines()
    assert len(rows) == 2 + len(QUANTITIES)
    assert "| `steps_to_target` | axes | steps to target (inf: never) | updates |" in rows


def test_the_order_of_coordinates_outlives_a_file(results, tmp_path):
    save_results(results, tmp_path)
    assert model_coordinates(load_run(tmp_path)) == DECLARED


@given(axes=some_axes(), observed=st.booleans())
def test_results_of_any_axes_are_read_as_they_were(tmp_path_factory, axes, observed):
    runs = general(axes, observed=observed)
    folder = tmp_path_factory.mktemp("general")
    save_results(runs, folder)
    xr.testing.assert_identical(load_run(folder), runs)


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
    with pytest.raises(DataError, match="no such file"):
        load_run("a\0b")
    with pytest.raises(DataError, match="cannot be read"):
        load_run("x" * 5000)
    path = tmp_path / "results.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(DataError, match="not written by a sweep"):
        load_run(path)
    seal(path)
    with pytest.raises(DataError, match="not a sweep's results"):
        load_run(path)


def test_other_programs_can_read_the_file(results, tmp_path):
    save_results(results, tmp_path)
    with xr.open_dataset(tmp_path / "results.nc", engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored.load(), results)


def test_hdf5_never_sees_damaged_bytes(results, tmp_path, monkeypatch):
    save_results(results, tmp_path)
    content = bytearray((tmp_path / "results.nc").read_bytes())
    monkeypatch.setattr(xr, "open_dataset", None)
    monkeypatch.setattr(h5py, "File", None)
    for position in (0, 100, len(content) // 2, len(content) - 80, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        for bad in (damaged, content[:position], content + b"x", content[1:]):
            (tmp_path / "results.nc").write_bytes(bad)
            with pytest.raises(DataError, match="checksum does not fit"):
                load_run(tmp_path)


@given(content=st.binary(max_size=400))
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "results.nc"
    path.write_bytes(content)
    with pytest.raises(DataError, match="checksum does not fit"):
        load_run(path)
    seal(path)
    with pytest.raises(DataError, match="not a readable netCDF-4 file"):
        load_run(path)


def _set(name, value):
    def change(results):
        dims, values = results[name].dims, results[name].values.copy()
        if isinstance(value, str):
            values = values.astype(object)
        values.flat[0] = value
        return results.assign({name: (dims, values)})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.drop_vars("target"), "no target over model"),
        (lambda r: r.drop_vars("init"), "no init over model"),
        (lambda r: r.transpose(), "no loss over model, learning_rate, seed, step"),
        (lambda r: r.isel(seed=slice(0)), "holds no numbers"),
        (lambda r: r.isel(step=slice(1, None)), "step holds numbers that are out of range"),
        (lambda r: r.isel(step=slice(-1)), "the last step is missing"),
        (lambda r: r.isel(step=[0, 2, 1, 40]), "step holds numbers"),
        (lambda r: r.assign_coords(depth=r.depth.astype(float)), "depth holds no numbers"),
        (lambda r: r.assign(loss=r.loss.astype(str)), "loss holds no numbers"),
        (_set("loss", np.nan), "loss holds numbers"),
        (_set("excess_loss", -np.inf), "excess_loss holds numbers"),
        (_set("steps_to_target", np.nan), "steps_to_target holds numbers"),
        (_set("divergence_step", -1), "divergence_step holds numbers"),
        (_set("optimum", np.inf), "optimum holds numbers"),
        (_set("learning_rate", 0), "learning_rate holds numbers"),
        (_set("seed", -1), "seed holds numbers"),
        (_set("init_std", -1), "init_std holds numbers"),
        (_set("loss_name", "l"), "unknown loss"),
        (_set("loss_name", "$l2"), "unknown loss"),
        (_set("init", "$"), "unknown init"),
        (_set("optimizer", "<script>"), "unknown optimizer"),
        (_set("hidden_widths", "4"), "hidden widths that do not fit"),
        (_set("depth", 2), "hidden widths that do not fit"),
        (_set("hidden_widths", "4y"), "unknown hidden_widths"),
        (lambda r: r.assign_attrs(title="\x1b[31m"), "no title"),
        (lambda r: r.assign_attrs(title=3), "no title"),
        (lambda r: r.assign_attrs(num_steps=0), "no number of steps"),
        (lambda r: r.assign_attrs(num_steps="40"), "no number of steps"),
        (lambda r: r.assign_attrs(format="other"), "expected format"),
        (lambda r: r.assign_attrs(format=[1, 2]), "expected format"),
    ],
)
def test_a_forged_file_is_refused(results, tmp_path, change, reason):
    save_results(change(results.copy(deep=True)), tmp_path)
    with pytest.raises(DataError, match=f"not a sweep's results .*{reason}"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.assign_attrs(axes="[" * 10**5), "no list of axes"),
        (lambda r: r.assign_attrs(axes='["seed", "seed"]'), "no list of axes"),
        (lambda r: r.assign_attrs(axes='["seed", 1]'), "no list of axes"),
        (lambda r: r.assign_attrs(axes='["seed", "step"]'), "no list of axes"),
        (lambda r: r.assign_attrs(axes=3), "no list of axes"),
        (lambda r: r.assign_attrs(axes='["seed"]'), "no loss over seed, step"),
        (lambda r: r.assign_attrs(axes='["depth"]'), "no coordinate along depth"),
        (lambda r: r.drop_attrs(deep=False).assign_attrs(
            format=r.format, title="t", num_steps=100), "no loss over model"),
        (lambda r: r.drop_vars("optimizer"), "no coordinate along optimizer"),
        (lambda r: r.assign_coords(optimizer=["a", "a"]), "optimizer holds values twice"),
        (lambda r: r.assign_coords(optimizer=["a", "\x1b[31m"]), "optimizer holds what is no text"),
        (lambda r: r.assign_coords(width_scale=[1, 2, np.inf]), "width_scale holds numbers"),
        (lambda r: r.assign_coords(learning_rate=[0, 1.0]), "learning_rate holds numbers"),
        (lambda r: r.assign_coords(learning_rate=["a", "b"]), "learning_rate holds no numbers"),
        (lambda r: r.assign_coords(other=("seed", [1, 2, 3])), "other is no coordinate"),
        (lambda r: r.assign(loss=r.loss.transpose()), "no loss over learning_rate, seed"),
        (lambda r: r.assign(target=("far", [1.0])), "no target over some axes"),
        (lambda r: r.assign(target=np.inf), "target holds numbers"),
        (lambda r: r.assign(extra=("seed", [1.0, 2, 3])), "extra is no curve"),
        (lambda r: r.assign(extra=r.loss.astype(int)), "extra is no curve"),
        (lambda r: r.assign_coords(observation_step=[0, 50, 101]), "after the last step"),
        (lambda r: r.assign_coords(observation_step=[0, 0, 1]), "observation_step holds numbers"),
    ],
)  # fmt: skip
def test_a_forged_file_of_any_axes_is_refused(tmp_path, change, reason):
    runs = general(AXES, observed=True).where(lambda v: v < np.inf, 1.0)
    runs = runs.assign(divergence_step=runs.divergence_step * np.nan)
    runs = runs.assign(target=1.0, optimum=0.0, resolution=0.0, zero_loss=1.0)
    save_results(change(runs), tmp_path)
    with pytest.raises(DataError, match=f"not a sweep's results .*{reason}"):
        load_run(tmp_path)


def test_a_small_file_makes_no_huge_arrays(results, tmp_path):
    path = tmp_path / "results.nc"
    save_results(results, tmp_path)
    with h5netcdf.File(path, "r+") as file:
        file.dimensions["far"] = 2**40
        file.create_variable("huge", ("far",), "f8", chunks=(2**20,), compression="gzip")
    seal(path)
    with pytest.raises(DataError, match="far more memory than its file"):
        load_run(path)


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


def test_optimizers_and_losses_with_one_name_are_told_apart(tmp_path):
    """Momentum 0.5 and 0.9 on losses that are scaled by 1/2 or not, against a loop in NumPy."""
    problem = random_problem(np.random.default_rng(0))
    config = SweepConfig(
        depths=(1,), losses=(Loss(2, "paper"), Loss(2, "plain")), learning_rates=(0.01,),
        optimizers=(Optimizer("momentum"), Optimizer("momentum", (("momentum", 0.5),))),
        num_steps=20, num_seeds=1, precision="float64", records_per_decade=1000,
    )  # fmt: skip
    runs = run_sweep(problem, config, folder=tmp_path)
    labels = model_labels(load_run(tmp_path))
    assert len(set(labels)) == 4
    for convention, factor in (("paper", 1), ("plain", 2)):
        for settings, beta in (("-", 0.9), ("momentum=0.5", 0.5)):
            found = select(runs, loss_convention=convention, optimizer_settings=settings)
            X, Y = problem.features, problem.targets
            W = Initialiser("near_zero", 0.01).draw(
                X.shape[1], (), Y.shape[1], bias=False, seed=0
            ).weights[0]  # fmt: skip
            losses, velocity = [], np.zeros_like(W)
            for _ in range(21):
                residuals = X @ W.T - Y
                losses.append(factor * np.sum(residuals**2) / 2 / Y.size)
                velocity = beta * velocity + factor * residuals.T @ X / Y.size
                W = W - 0.01 * velocity
            np.testing.assert_allclose(found["loss"].values.ravel(), losses, rtol=1e-9)


def test_another_metric_takes_the_place_of_the_loss():
    """An accuracy and a held-out loss, planted: steps, stability and the best rate by each."""
    steps = np.array([0, 10, 100])
    dims = ("depth", "learning_rate", "seed", "observation_step")
    accuracy = np.array(
        [[[[0.1, 0.96, 0.97]] * 2, [[0.1, 0.99, 0.2]] * 2, [[0.1, 0.5, np.nan]] * 2]]
    )
    held_out = np.array([[[[2.0, 1.5, 0.4]] * 2, [[2.0, 0.5, 0.4]] * 2, [[2, 3, np.inf]] * 2]])
    runs = xr.Dataset(
        {
            "loss": ((*dims[:3], "step"), np.ones((1, 3, 2, 2))),
            "excess_loss": ((*dims[:3], "step"), np.ones((1, 3, 2, 2))),
            "steps_to_target": (dims[:3], np.full((1, 3, 2), np.inf)),
            "divergence_step": (dims[:3], np.array([[[np.nan] * 2] * 2 + [[50.0] * 2]])),
            "accuracy": (dims, accuracy), "held_out_loss": (dims, held_out),
            "optimum": ((), 0.0), "target": ((), 0.1), "resolution": ((), 1e-7),
        },
        {"depth": [1], "learning_rate": [0.1, 0.2, 0.4], "seed": [0, 1], "step": [0, 100],
         "observation_step": steps},
        {"axes": '["depth", "learning_rate", "seed"]', "num_steps": 100, "title": "planted"},
    )  # fmt: skip
    by_accuracy = ia.Metric("accuracy", target=0.95, best=1).judge(runs)
    np.testing.assert_array_equal(by_accuracy["steps_to_target"].values[0, :, 0], [10, 10, np.inf])
    # The second rate falls back below the target: the first one is the best stable one.
    assert ia.summarise(by_accuracy)["best_learning_rate"].tolist() == [0.1]
    assert ia.summarise(by_accuracy)["final_excess"].item() == pytest.approx(0.03)
    by_loss = ia.Metric("held_out_loss", target=0.5, best=0).judge(runs)
    np.testing.assert_array_equal(by_loss["steps_to_target"].values[0, :, 1], [100, 10, np.inf])
    assert ia.summarise(by_loss)["best_learning_rate"].tolist() == [0.2]
    with pytest.raises(ia.DataError, match="there is accuracy, held_out_loss"):
        ia.Metric("loss", target=1, best=0).judge(runs)


def test_a_metric_that_is_at_its_target_counts_in_training_s_precision():
    task = ia.from_loss(
        lambda w, _: jnp.sum(w**2), init=lambda: jnp.ones(2), data=np.zeros(4), held_out=np.ones(2)
    )
    runs = ia.sweep(
        task, axes={"learning_rate": ia.auto(first=(0.1, 0.2)), "scale": ia.static(1.0, 9.0)},
        optimizer=lambda hp: optax.sgd(hp["learning_rate"] / hp["scale"]), num_steps=12,
        target=0.5, record={"accuracy": lambda p: jnp.where(p.step < 5, 0.1, jnp.float32(0.9))},
        record_every=1,
    )  # fmt: skip
    judged = ia.Metric("accuracy", target=0.9, best=1).judge(runs)
    was_trained = ~np.isnan(runs.excess_loss.values[..., 0])
    assert not was_trained.all()
    assert (judged.steps_to_target.values[was_trained] == 5).all()
    # What was not trained stays so.
    np.testing.assert_array_equal(~np.isnan(judged.excess_loss.values[..., 0]), was_trained)
    with pytest.raises(ia.UserError, match="is 0 the best possible value"):
        ia.Metric("accuracy", target=0.95, best=0).judge(runs)
    with pytest.raises(ia.UserError, match=r"passes 0\.5"):
        ia.Metric("accuracy", target=0.2, best=0.5).judge(runs)
