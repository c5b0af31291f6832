"""The recipes for clusters: one is run, of the others is checked what they submit."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from programs import REPOSITORY, run

RECIPES = REPOSITORY / "docs" / "howto" / "cluster"
_FLAGS = [
    "--formats", "none", "--learning_rates", "0.01,0.1", "--num_seeds", "2", "--num_steps", "300",
]  # fmt: skip

# A task in a file which no worker can read.
_TASK = """
import numpy as np
import implicit_accel as ia

X = np.linspace(-1, 1, 24).reshape(12, 2) ** 3
task = ia.from_loss(
    lambda w, batch: ((batch[0] @ w - batch[1]) ** 2).mean(),
    init=lambda seed: np.random.default_rng(seed).standard_normal(2),
    data=(X, X @ np.array([1.0, -2.0])),
)
"""


@pytest.mark.nightly
def test_two_hosts_train_a_task_whose_file_they_do_not_have(tmp_path):
    (tmp_path / "own.py").write_text(_TASK)
    task = ["--task", tmp_path / "own.py:task", *_FLAGS]
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.run(
        ["sh", RECIPES / "two_hosts.sh", tmp_path / "cluster", *map(str, task)], timeout=200,
        env=os.environ | {"PYTHONPATH": paths, "PATH": programs}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    for host in ("host1", "host2"):
        assert "Registered to" in (tmp_path / "cluster" / host / "log").read_text()
    alone = run("sweep", *task, "--output_dir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    with (
        xr.open_dataset(tmp_path / "cluster" / "run" / "results.nc", engine="h5netcdf") as found,
        xr.open_dataset(tmp_path / "alone" / "results.nc", engine="h5netcdf") as expected,
    ):
        assert list(found.variables) == list(expected.variables)
        for name in expected.variables:
            np.testing.assert_array_equal(found[name].values, expected[name].values)


def test_a_slurm_job_has_one_core_and_one_thread():
    spec = importlib.util.spec_from_file_location("slurm", RECIPES / "slurm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.make_cluster(queue="long", scheduler_options={"dashboard_address": ":0"}) as made:
        lines = made.job_script().splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    # -n is short for --ntasks.
    assert {"-n 1", "--cpus-per-task=1", "--mem=4G", "-t 04:00:00", "-p long"} <= directives
    (command,) = (line.split() for line in lines if "dask_worker" in line)
    assert command[command.index("--nthreads") + 1] == "1"
    # Of options that are given twice the last one counts.
    assert command[len(command) - command[::-1].index("--memory-limit")] == "0"


def test_the_kubernetes_workers_have_one_thread_and_the_schedulers_image():
    manifest = yaml.safe_load((RECIPES / "kubernetes.yaml").read_text())
    assert manifest["apiVersion"] == "kubernetes.dask.org/v1"
    assert manifest["kind"] == "DaskCluster"
    parts = manifest["spec"]
    (worker,) = parts["worker"]["spec"]["containers"]
    (scheduler,) = parts["scheduler"]["spec"]["containers"]
    assert worker["image"] == scheduler["image"]
    assert worker["args"][worker["args"].index("--nthreads") + 1] == "1"
    assert worker["args"][0] == "dask-worker"
    assert worker["resources"]["limits"]["cpu"] == "1"
    service = parts["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == manifest["metadata"]["name"]
    named = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == named
    for probe in ("readinessProbe", "livenessProbe"):
        assert scheduler[probe]["httpGet"]["port"] in named
