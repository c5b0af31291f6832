"""Training on the workers of a Dask cluster: the bits of one process, failures of every part."""

import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, get_worker
from marks import param
from models import MODELS
from programs import SMALL, expect_usage_error, run

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.devices import num_cores
from implicit_accel.engine.chunks import chunks_of
from implicit_accel.errors import ProgramError, UserError
from implicit_accel.executors import dask
from implicit_accel.executors.dask import DaskExecutor, connected, local_workers, split_cores
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.linear import Problem, SweepConfig, run_sweep
from implicit_accel.store.folder import RunFolder

REPOSITORY = Path(__file__).parents[1]
TRACEBACK = "Traceback"


@pytest.fixture(scope="module")
def client():
    with local_workers(min(2, num_cores())) as opened:
        yield opened


@contextlib.contextmanager
def in_process(threads_per_worker: int = 1):
    """A cluster whose worker is a thread of this process."""
    # Each worker would count this whole process's memory as its own, and pause.
    options: dict[str, Any] = {"processes": False, "dashboard_address": ":0", "memory_limit": 0}
    cluster: Any = LocalCluster(n_workers=1, threads_per_worker=threads_per_worker, **options)
    with cluster, Client(cluster) as opened:
        yield cluster, opened


@pytest.fixture
def threads():
    with in_process() as opened:
        yield opened


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5))
    return Problem.from_arrays(X, X @ rng.standard_normal(5) + 0.1 * rng.standard_normal(60))


# At the largest rate every run diverges.
CONFIG = SweepConfig(
    depths=(1, 2), losses=(linear.Loss(2), linear.Loss(4)), learning_rates=(0.003, 0.03, 3.0),
    num_seeds=3, num_steps=1500,
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(problem):
    return run_sweep(problem, CONFIG)


def poll(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Waits until something holds, or fails if the process that is to bring it about ends."""
    end = time.monotonic() + 120
    while not (found := condition()):
        assert process is None or process.poll() is None, process and process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def live(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def assert_same_bits(results, expected):
    assert list(results.variables) == list(expected.variables)
    for name in expected.variables:
        found, wanted = results[name].values, expected[name].values
        assert found.dtype == wanted.dtype
        assert found.tobytes() == wanted.tobytes(), name


def tasks_left(client) -> int:
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_linear_sweep_has_the_bits_of_one_process(client, problem, undisturbed, seconds):
    """With 0 seconds a chunk changes its worker after every segment."""
    assert bool((undisturbed["divergence_step"].notnull()).any())
    reports = []
    results = run_sweep(
        problem, CONFIG, client=client, checkpoint_every=seconds,
        progress=lambda *report: reports.append(report),
    )  # fmt: skip
    timing = results.ia.timing
    assert_same_bits(results, undisturbed)
    total = 2 * 2 * 3 * 3 * CONFIG.num_steps
    assert timing.run_steps == total
    assert {whole for _, whole in reports} == {total}
    done = [run_steps for run_steps, _ in reports]
    assert done == sorted(done)
    assert done[-1] == total
    poll(lambda: tasks_left(client) == 0)


@pytest.mark.parametrize("name", [param("tanh_network"), "logistic"])
def test_tasks_made_of_closures(client, name):
    task, optimizer, axes, batch_size = MODELS[name]()
    options = {
        "axes": {"learning_rate": (0.01, 0.1), "seed": range(3), **axes},
        "optimizer": optimizer,
        "num_steps": 200,
        "batch_size": batch_size,
        "keep": "best",
    }
    found, alone = ia.sweep(task, client=client, **options), ia.sweep(task, **options)
    assert_same_bits(found, alone)
    for some, others in zip(
        jax.tree.leaves(found.ia.params()), jax.tree.leaves(alone.ia.params()), strict=True
    ):
        assert some.tobytes() == others.tobytes()


def test_a_task_in_files_that_the_workers_do_not_have(client, tmp_path, monkeypatch):
    (tmp_path / "own_helper.py").write_text("def squared(r):\n    return (r**2).mean()\n")
    (tmp_path / "own_task.py").write_text(
        "import numpy as np\n"
        "import implicit_accel as ia\n"
        "from own_helper import squared\n\n"
        "X = np.linspace(-1, 1, 24).reshape(12, 2) ** 3\n\n\n"
        "def loss(params, batch):\n"
        "    return squared(batch[0] @ params['w'] - batch[1])\n\n\n"
        "def init(seed):\n"
        "    return {'w': np.random.default_rng(seed).standard_normal(2)}\n\n\n"
        "task = ia.from_loss(loss, init=init, data=(X, X @ np.array([1.0, -2.0])))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module("own_task").task
    paths = client.run(lambda: list(sys.path))
    assert all(str(tmp_path) not in path for path in paths.values())
    options: dict[str, Any] = {
        "axes": {"learning_rate": (0.1, 0.5), "seed": (0, 1)},
        "optimizer": ia.Optimizer("sgd"),
        "num_steps": 300,
    }
    assert_same_bits(ia.sweep(task, client=client, **options), ia.sweep(task, **options))


def test_a_package_that_a_worker_lacks_is_named(client, tmp_path, monkeypatch):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "only_here.py").write_text("def work(item, on_message):\n    return item\n")
    monkeypatch.syspath_prepend(installed)
    work = importlib.import_module("only_here").work
    with pytest.raises(UserError, match=r"worker tcp.*only_here.*install the same packages"):
        list(DaskExecutor(client).map(work, [1], print))


def test_a_task_that_cannot_be_pickled_is_refused(client):
    lock = threading.Lock()

    def loss(params, batch):
        with lock:
            return jnp.mean((batch * params - 1) ** 2)

    task = ia.from_loss(loss, init=lambda seed: np.float64(seed), data=np.ones(3))
    with pytest.raises(UserError, match=r"cannot be sent to workers.*lock.*without"):
        ia.sweep(
            task, axes={"learning_rate": (0.1,)}, optimizer=ia.Optimizer("sgd"), num_steps=5,
            client=client,
        )  # fmt: skip


@pytest.mark.parametrize("option", [{"devices": jax.local_devices()}, {"memory_limit": "1GiB"}])
def test_what_is_of_this_process_does_not_go_with_a_client(client, problem, option):
    with pytest.raises(UserError, match="leave them out with client"):
        run_sweep(problem, CONFIG, client=client, **option)


def test_a_killed_worker_changes_no_bit(client, problem, undisturbed):
    pids = client.run(os.getpid)
    killed: list[int] = []

    def kill_once(done, total):
        if 0 < done < total and not killed:
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    results = run_sweep(problem, CONFIG, client=client, checkpoint_every=0, progress=kill_once)
    assert_same_bits(results, undisturbed)
    assert killed
    poll(lambda: len(client.run(os.getpid)) == len(pids))
    assert killed[0] not in client.run(os.getpid).values()


_CLIENT = """
import os, signal, sys
import numpy as np
from distributed import Client
sys.path.insert(0, sys.argv[1])
from test_cluster import CONFIG, finished_chunks
from implicit_accel.linear import Problem, run_sweep

with np.load(sys.argv[3]) as arrays:
    problem = Problem.from_arrays(arrays["X"], arrays["y"])

def die_in_the_middle(done, total):
    if finished_chunks(sys.argv[4]) and done < total:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with Client(sys.argv[2]) as client:
        run_sweep(problem, CONFIG, folder=sys.argv[4], client=client, checkpoint_every=0,
                  progress=die_in_the_middle)
"""


def finished_chunks(folder, num_steps=CONFIG.num_steps) -> dict[Any, tuple[Any, ...]]:
    """A run's finished chunks, each with the files that hold it."""
    store = RunFolder(Path(folder))
    manifest, found = store.manifest(), {}
    if manifest is None:
        return found
    for number, counts in enumerate(manifest.counts):
        for chunk in chunks_of(counts):
            file = store.chunk_file(manifest, number, chunk)
            if file.is_finished(num_steps):
                found[chunk] = tuple((p.name, p.stat().st_mtime_ns) for p in file.paths())
    return found


def test_a_killed_client_goes_on_and_trains_nothing_twice(
    client, problem, undisturbed, tmp_path, monkeypatch
):
    np.savez(tmp_path / "data.npz", X=problem.features, y=problem.targets)
    (tmp_path / "client.py").write_text(_CLIENT)
    words = ["client.py", Path(__file__).parent, client.scheduler.address, "data.npz", "run"]
    process = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, env=environment(), capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    stored = finished_chunks(tmp_path / "run")
    assert stored
    poll(lambda: tasks_left(client) == 0)
    trained, train = [], DaskExecutor.train

    def noted(self, job, chunks, reached, **options):
        trained.extend(chunks)
        return train(self, job, chunks, reached, **options)

    monkeypatch.setattr(DaskExecutor, "train", noted)
    results = run_sweep(problem, CONFIG, folder=tmp_path / "run", client=client)
    assert_same_bits(results, undisturbed)
    assert trained
    assert not set(trained) & set(stored)
    everything = finished_chunks(tmp_path / "run")
    assert set(everything) == set(trained) | set(stored)
    assert {chunk: everything[chunk] for chunk in stored} == stored


def environment(**own: str) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": paths} | own


def test_a_worker_of_another_version_is_refused(client, problem, monkeypatch):
    here = dict(dask.versions())
    other = tuple((here | {"jax": "0.0.1"}).items())
    monkeypatch.setattr(dask, "versions", lambda: other)
    trained = []
    with pytest.raises(UserError, match=rf"worker tcp.* has jax {here['jax']} \(the client 0.0.1"):
        run_sweep(problem, CONFIG, client=client, progress=lambda *report: trained.append(report))
    assert trained == []


def test_a_worker_with_two_threads_is_refused(problem):
    with (
        in_process(threads_per_worker=2) as (_, client),
        pytest.raises(UserError, match=r"worker .* has 2 threads.*--nthreads 1"),
    ):
        run_sweep(problem, CONFIG, client=client)


def test_a_worker_that_comes_later_is_checked_too(threads, monkeypatch):
    _, client = threads
    executor = DaskExecutor(client)
    monkeypatch.setattr(executor, "_check_workers", lambda: None)
    # Client and worker are one process here, and ask one after the other.
    answers = iter([(("jax", "0.0.1"),), (("jax", "0.0.2"),)])
    monkeypatch.setattr(dask, "versions", lambda: next(answers))
    with pytest.raises(UserError, match=r"worker .* has jax 0\.0\.2 \(the client 0\.0\.1\)"):
        list(executor.map(echo, [1], print))


def echo(item, on_message):
    on_message({"item": item, "array": np.arange(item)})
    return item**2


def misbehave(error, item, on_message):
    on_message(f"before {item}")
    raise error


class TwoPartsError(Exception):
    """Cannot be made from what it is printed as."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


class LocksError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


@pytest.mark.parametrize("name", ["local", "dask"])
def test_map_returns_results_and_messages_of_all_items(client, name):
    executor: Any = {"local": LocalExecutor(), "dask": DaskExecutor(client)}[name]
    messages = []
    found = dict(executor.map(echo, [3, 1, 2], lambda *message: messages.append(message)))
    assert found == {3: 9, 1: 1, 2: 4}
    assert sorted(item for item, _ in messages) == [1, 2, 3]
    for item, message in messages:
        assert message["item"] == item
        np.testing.assert_array_equal(message["array"], np.arange(item))
    poll(lambda: tasks_left(client) == 0)


@pytest.mark.parametrize("error", [KeyError("odd"), UserError("bad")], ids=["KeyError", "ours"])
def test_an_exception_is_raised_with_its_traceback_after_its_messages(client, error):
    work, messages = functools.partial(misbehave, error), []
    with pytest.raises(type(error), match=str(error)) as raised:
        list(DaskExecutor(client).map(work, [7], lambda *message: messages.append(message)))
    assert messages == [(7, "before 7")]
    assert "in misbehave" in "".join(traceback.format_exception(raised.value))
    poll(lambda: tasks_left(client) == 0)


@pytest.mark.parametrize("text", ["1 and 2", "held"])
def test_an_exception_that_cannot_be_pickled_is_raised_as_text(client, text):
    with pytest.raises(Exception, match=text):
        list(DaskExecutor(client).map(misbehave_oddly, [text], print))


def misbehave_oddly(item, on_message):
    misbehave({"1 and 2": TwoPartsError(1, 2), "held": LocksError("held")}[item], item, on_message)


def meet(folder, item, on_message):
    """Returns when two items are at work."""
    (folder / str(item)).touch()
    on_message(item)
    poll(lambda: len(list(folder.iterdir())) == 2)
    return get_worker().address


def test_a_worker_that_comes_later_is_used(threads, tmp_path):
    cluster, client = threads
    messages = []

    def grow(item, _):
        if not messages:
            cluster.scale(2)
        messages.append(item)

    found = dict(DaskExecutor(client).map(functools.partial(meet, tmp_path), [0, 1], grow))
    assert len(set(found.values())) == 2


def test_workers_in_one_process_train_the_same_bits(threads, problem, undisturbed):
    cluster, client = threads
    cluster.scale(3)
    client.wait_for_workers(3)
    assert_same_bits(run_sweep(problem, CONFIG, client=client), undisturbed)


def endless(folder, item, on_message):
    while True:
        try:
            on_message(item)
        except ProgramError:
            (folder / "ended").touch()
            raise
        time.sleep(0.02)


def test_what_is_given_up_ends_on_the_workers(client, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    with pytest.raises(EnoughError):
        list(DaskExecutor(client).map(functools.partial(endless, tmp_path), [1], stop))
    poll(lambda: (tmp_path / "ended").is_file())
    poll(lambda: tasks_left(client) == 0)


def test_a_lost_scheduler_ends_training(threads, problem):
    cluster, client = threads
    with pytest.raises(ProgramError, match="connection to the scheduler was lost"):
        run_sweep(
            problem, CONFIG, client=client, checkpoint_every=0, progress=lambda *_: cluster.close()
        )


@pytest.mark.parametrize("content", ["no JSON", "{}", "[]", '{"address": 7}'])
def test_a_damaged_scheduler_file_is_refused(tmp_path, content):
    path = tmp_path / "scheduler.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"no Dask scheduler answers at {path}"):
        connected(str(path)).__enter__()


@pytest.mark.parametrize(
    "scheduler", [param("tcp://127.0.0.1:9"), "missing/scheduler.json", "ftp://x:1"]
)
def test_a_scheduler_that_is_not_there_is_a_usage_error(tmp_path, scheduler):
    result = run(
        "sweep", *SMALL, "--scheduler", scheduler, "--output_dir", tmp_path / "run",
    )  # fmt: skip
    *_, line = result.stderr.strip().splitlines()
    assert result.returncode == 2
    assert TRACEBACK not in result.stderr
    assert line.startswith(f"error: no Dask scheduler answers at {scheduler}")


def test_flags_that_exclude_each_other_are_usage_errors(tmp_path):
    for words in (
        ("--workers", 1, "--scheduler", "tcp://127.0.0.1:9"),
        ("--workers", 1, "--devices", 1),
        ("--scheduler", "tcp://127.0.0.1:9", "--memory_limit", "1GiB"),
        ("--workers", num_cores() + 1),
        ("--workers", 0),
    ):
        result = run("sweep", *SMALL, *words, "--output_dir", tmp_path / "run")
        expect_usage_error(result, "workers")


def test_cores_are_divided_among_the_workers(monkeypatch):
    cores = {3, 5, 8, 9, 14}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    for number in range(1, 6):
        divided = split_cores(number)
        assert len(divided) == number
        assert sorted(core for own in divided for core in own) == sorted(cores)
        assert max(map(len, divided)) - min(map(len, divided)) <= 1
    with pytest.raises(UserError, match="1 to 5"):
        split_cores(6)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
def test_local_workers_have_cores_of_their_own(client):
    own = list(client.run(lambda: sorted(os.sched_getaffinity(0))).values())
    assert sorted(core for cores in own for core in cores) == sorted(os.sched_getaffinity(0))


# Of two chunks, the one with the last seed is never finished by a worker.
_HALF_ENDLESS = """
import time
import numpy as np
from distributed import get_worker
import implicit_accel as ia

def init(seed):
    try:
        get_worker()
    except ValueError:
        return np.float64(seed)
    while seed == 3:
        time.sleep(0.01)
    return np.float64(seed)

task = ia.from_loss(lambda w, batch: ((batch * w - 1) ** 2).mean(), init=init, data=np.ones(4))
"""


@pytest.mark.parametrize("to_all", [param(False, id="one"), param(True, nightly=False, id="group")])
def test_ctrl_c_ends_the_program_and_its_workers(tmp_path, request, to_all):
    """A terminal sends the signal to all processes of the program."""
    (tmp_path / "own.py").write_text(_HALF_ENDLESS)
    words = [
        "--task", tmp_path / "own.py:task", "--num_seeds", 4, "--learning_rates", 0.1,
        "--num_steps", 50, "--workers", min(2, num_cores()), "--output_dir", tmp_path / "run",
        "--formats", "none",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *map(str, words)], cwd=REPOSITORY,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    request.addfinalizer(process.kill)
    stored = poll(lambda: finished_chunks(tmp_path / "run", 50), process)
    assert len(stored) == 1
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= min(2, num_cores())
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert output == ""
    assert TRACEBACK not in errors
    assert errors.strip().splitlines()[-1].startswith("stopped at a checkpoint")
    poll(lambda: not live(children))
    assert finished_chunks(tmp_path / "run", 50) == stored
