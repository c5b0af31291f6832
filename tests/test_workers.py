"""Tasks side by side in processes: all are done, what fails ends all, nobody is left behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel import Problem, SweepConfig
from implicit_accel.devices import num_cores
from implicit_accel.errors import DataError
from implicit_accel.experiments import workers
from implicit_accel.experiments.claims.toolkit.laboratory import Laboratory, Scale
from implicit_accel.experiments.cli import ProgramError
from implicit_accel.experiments.workers import in_workers, split_cores

several = pytest.mark.skipif(num_cores() < 2, reason="needs two cores")


class UnspeakableError(Exception):
    """Cannot be made from what it is printed as."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def place(task, tell):
    tell("note", task)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return os.getpid(), cores, jax.local_device_count()


def meet(folder, task, _):
    """Returns when the other tasks are here as well."""
    (folder / task).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)


def misbehave(folder, task, tell):
    if task == "endless":
        (folder / "endless").write_text(str(os.getpid()))
        while True:
            tell("still here", None)
            time.sleep(0.05)
    while not (folder / "endless").is_file():
        time.sleep(0.01)
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise {"data": DataError("broken file"), "odd": UnspeakableError(1, 2)}[task]


def trained(shared, task, _):
    lab = Laboratory(Scale.SMOKE, shared / task, shared)
    problem = Problem.from_arrays(np.eye(3), np.array([1.0, 2.0, 3.0]))
    config = SweepConfig(depths=(1, 2), learning_rates=(0.1, 0.2), num_seeds=3, num_steps=3000)
    return lab.sweep(problem, config)["loss"].values, lab.trained


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended has a number until somebody asks how.
    state = Path(f"/proc/{pid}/stat")
    return not state.is_file() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def work_through(work, tasks, num_workers, *, hear=lambda *_: None):
    found = {}
    in_workers(work, tasks, num_workers=num_workers, hear=hear, done=found.__setitem__)
    return found


@given(st.data())
def test_every_core_is_one_workers(data):
    cores = data.draw(st.sets(st.integers(0, 200), min_size=1, max_size=40))
    number = data.draw(st.integers(1, len(cores)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
        shares = split_cores(number)
        with pytest.raises(ValueError, match="workers"):
            split_cores(len(cores) + 1)
    assert len(shares) == number
    assert sorted(core for share in shares for core in share) == sorted(cores)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@several
def test_each_task_is_done_once_by_a_worker_with_cores_and_devices_of_its_own():
    heard = []
    found = work_through(place, list("abcde"), 2, hear=lambda *said: heard.append(said))
    assert set(found) == set("abcde")
    assert sorted(heard) == [(task, "note", task) for task in "abcde"]
    homes = {pid: (cores, devices) for pid, cores, devices in found.values()}
    assert 1 <= len(homes) <= 2
    assert os.getpid() not in homes
    for cores, devices in homes.values():
        assert devices == len(cores)
        assert cores < os.sched_getaffinity(0)
    assert len(set.union(*(cores for cores, _ in homes.values()))) == sum(
        len(cores) for cores, _ in homes.values()
    )


@several
def test_they_are_at_work_at_the_same_time(tmp_path):
    assert set(work_through(functools.partial(meet, tmp_path), ["a", "b"], 2)) == {"a", "b"}


def test_more_workers_than_tasks_are_not_started(monkeypatch):
    monkeypatch.setattr(workers, "split_cores", lambda n: [[] for _ in range(n)])
    (pid,) = {pid for pid, _, _ in work_through(place, ["a"], 3).values()}
    assert pid != os.getpid()


@several
@pytest.mark.parametrize(
    ("task", "error", "says"),
    [
        ("data", DataError, "broken file"),
        ("odd", RuntimeError, "1 and 2"),
        ("killed", ProgramError, "exit code -9.*killed"),
    ],
)
def test_one_that_fails_ends_the_others(tmp_path, task, error, says):
    heard = []
    with pytest.raises(error, match=says) as raised:
        work_through(
            functools.partial(misbehave, tmp_path), ["endless", task], 2,
            hear=lambda *said: heard.append(said),
        )  # fmt: skip
    assert {name for name, *_ in heard} <= {"endless"}
    if error is not ProgramError:  # where it was raised can be read
        notes = getattr(raised.value, "__notes__", [])
        assert "in misbehave" in "".join([str(raised.value), *notes])
    assert not lives(int((tmp_path / "endless").read_text()))


def test_workers_end_with_who_started_them(tmp_path):
    """However that ends: here it is killed."""
    code = (
        "import functools, sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_workers import misbehave, work_through\n"
        "work_through(functools.partial(misbehave, pathlib.Path(sys.argv[2])), ['endless'], 1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, Path(__file__).parent, tmp_path])
    told, end = tmp_path / "endless", time.monotonic() + 60
    while not (told.is_file() and told.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    worker = int(told.read_text())
    assert lives(worker)
    process.kill()
    process.wait()
    while lives(worker):
        assert time.monotonic() < end
        time.sleep(0.02)


@several
def test_the_same_results_are_trained_once_whoever_comes_first(tmp_path):
    found = work_through(functools.partial(trained, tmp_path), ["X", "Y"], 2)
    assert sorted(len(names) for _, names in found.values()) == [0, 1]
    (first, _), (second, _) = found.values()
    np.testing.assert_array_equal(first, second)
    assert not list(tmp_path.glob(".*.lock"))
