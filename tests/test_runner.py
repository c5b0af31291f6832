"""Claims as items of an executor: shared results, files of other machines, the data they need."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from rich.console import Console

from implicit_accel import UserError
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.context import Context, Scale
from implicit_accel.executors.dask import DaskExecutor, local_workers
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiments.claim_runner import Setup, find_data, run_claims
from implicit_accel.linear import Problem, SweepConfig

# The quickest claims, of two groups.
QUICK = [claim for claim in load_collection().claims if claim.id in ("T8", "P3b")]


@dataclass(frozen=True)
class Trained:
    """A grid that two claims want, on a worker."""

    shared: Path

    def __call__(self, name, on_message):  # noqa: ARG002
        context = Context(Scale.SMOKE, self.shared / name, self.shared)
        problem = Problem.from_arrays(np.eye(3), np.array([1.0, 2.0, 3.0]))
        config = SweepConfig(depths=(1, 2), learning_rates=(0.1, 0.2), num_seeds=3, num_steps=3000)
        return context.sweep(problem, config)["loss"].values, list(context.trained)


def test_the_same_results_are_trained_once_whichever_worker_is_first(tmp_path):
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        found = dict(DaskExecutor(client).map(Trained(tmp_path), ["X", "Y"], print))
    assert sorted(len(trained) for _, trained in found.values()) == [0, 1]
    np.testing.assert_array_equal(found["X"][0], found["Y"][0])
    assert not list(tmp_path.glob(".*.lock"))


@dataclass(frozen=True)
class KilledOnce:
    """Ends its worker from outside at the first try."""

    folder: Path

    def __call__(self, name, on_message):  # noqa: ARG002
        mark = self.folder / name
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return name


@pytest.mark.nightly
def test_a_killed_worker_s_claim_is_run_again(tmp_path):
    with local_workers(1) as client:
        found = list(DaskExecutor(client).map(KilledOnce(tmp_path), ["X"], print))
    assert found == [("X", "X")]


def files_of(folder: Path) -> dict[str, bytes]:
    """Findings and figures; times of running are not among them."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*.png")
        if p.is_file()
    }


def run(setup: Setup, executor, claims=QUICK) -> list[str]:
    setup.folder.mkdir(exist_ok=True)
    return [claim.id for claim, _ in run_claims(claims, setup, executor, Console(quiet=True))]


def setup_in(folder: Path, **changes) -> Setup:
    return Setup(Scale.SMOKE, folder, None, False, "none", **changes)


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """Claims run on stand-ins."""
    monkeypatch.delenv("IMPLICIT_ACCEL_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.nightly
def test_workers_without_the_folder_return_the_claims_files(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    assert sorted(run(setup_in(here), LocalExecutor())) == ["P3b", "T8"]
    # The worker, a thread of this process, is told that it does not see the folder.
    monkeypatch.setattr("implicit_accel.experiments.claim_runner._is_shared", lambda _: False)
    assert sorted(run(setup_in(there), LocalExecutor())) == ["P3b", "T8"]
    assert files_of(here) == files_of(there)
    assert {p.name for p in there.rglob("*") if p.is_file()} == {
        p.name for p in here.rglob("*") if p.is_file()
    }


def test_workers_with_other_data_are_refused(tmp_path):
    setup = setup_in(tmp_path / "run")
    context = setup.context(QUICK[0], tmp_path)
    found = find_data(context)
    quickest = [claim for claim in load_collection().claims if claim.id == "F2"]
    assert run(setup_in(tmp_path / "run", data=found), LocalExecutor(), quickest) == ["F2"]
    other = (*found[:2], "mnist 0123456789ab")
    with pytest.raises(
        UserError, match=r"other data.*mnist a stand-in.*mnist 0123456789ab.*data_dir"
    ):
        run(setup_in(tmp_path / "run", data=other), LocalExecutor())
