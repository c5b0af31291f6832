"""Training on the workers of a Dask cluster: processes of this machine, of others, of a queue.

Dask places the tasks, notices lost workers and takes new ones in. A task trains one chunk for some
seconds and returns its state, which is stored here before the next task goes on from it: whatever
happens to workers, no more than these seconds of each are lost. Workers need no file in common with
this process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import logging
import os
import platform
import queue
import signal
import sys
import sysconfig
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax

from implicit_accel.devices import FEWEST_CPU_DEVICES, num_cores
from implicit_accel.engine.chunks import Chunk, ChunkState, Device
from implicit_accel.engine.train import Trainer
from implicit_accel.errors import ProgramError, UserError
from implicit_accel.executors import Job, OnMessage, Update, describe_devices
from implicit_accel.files import load_json

try:
    import cloudpickle
    import dask.config
    from distributed import (
        Client,
        Future,
        KilledWorker,
        LocalCluster,
        Worker,
        WorkerPlugin,
        get_worker,
    )
    from distributed.client import ClosedClientError, FutureCancelledError
except ImportError:
    raise UserError(
        "a cluster needs the package distributed: pip install 'implicit-accel[cluster]'"
    ) from None

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Seconds between two looks at messages and at whether the caller wants to stop.
_TICK = 0.05
# Seconds between two messages of a task on how far it is.
_REPORT_EVERY = 0.5
# Seconds to wait for a first worker: queues of clusters take their time, and say so themselves.
_PATIENCE = 600.0
_CONNECT_SECONDS = 10.0
# Workers lost in a row, without any task finished, after which it is no accident.
_MOST_LOSSES = 30

# By default Dask sends a worker its next task in advance, where it waits although another worker is
# idle. With this, 4 workers on chunks of a second are busy 98 % of the time, without it 81 %
# (benchmarks/scale_out.py).
SCHEDULER_SETTINGS = {"distributed.scheduler.worker-saturation": 1.0}
# Dask's workers look at their threads a hundred times a second: 4 % of a core that is computing.
_WORKER_SETTINGS = {"distributed.worker.profile.enabled": False}

# A program holds the state of one call: workers that are threads of a process take turns.
_TRAINING = threading.Lock()

# Packages that workers have installed if they have this one.
_INSTALLED = ("implicit_accel", "experiments")


def versions() -> tuple[tuple[str, str], ...]:
    """What must be the same where a chunk is trained and where it is stored, with versions."""
    packages = ("implicit-accel", "jax", "jaxlib", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return (("Python", platform.python_version()), *found.items())


@dataclass(frozen=True)
class _Payload:
    """What tasks of a kind have in common, pickled.

    Attributes:
        content: The pickle.
        versions: Of the software that made it.
    """

    content: bytes
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, value: Any, what: str) -> _Payload:
        """Pickles functions by what they contain, so that workers need no file of the user's.

        Raises:
            UserError: If it cannot be pickled.
        """
        try:
            with _pickled_by_value(_modules_of_user()):
                content = cloudpickle.dumps(value)
        except Exception as error:  # whatever the user's objects raise
            raise UserError(
                f"{what} cannot be sent to workers ({type(error).__name__}: {error}): let its "
                "functions take what they need as arguments or from modules, without open files, "
                "locks or devices"
            ) from error
        return cls(content, versions())


@functools.lru_cache(maxsize=4)
def _load(payload: _Payload) -> Any:
    """The value of a payload, on a worker; kept for the next task.

    Raises:
        UserError: If the worker cannot be used, or lacks a package.
    """
    worker = get_worker()
    # Here too: workers may come after those of the beginning have been checked.
    check_worker(payload.versions, worker)
    try:
        return cloudpickle.loads(payload.content)
    except ImportError as error:
        raise _missing_package(worker.address, error) from None


def _missing_package(address: str, error: ImportError) -> UserError:
    return UserError(
        f"worker {address} cannot import what it needs ({error}): install the same packages there"
    )


def _modules_of_user() -> list[ModuleType]:
    """Modules that are no installed package: files which workers do not have."""
    standard = sysconfig.get_path("stdlib")
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and name != "__main__" and name.split(".")[0] not in _INSTALLED:
            is_installed = {"site-packages", "dist-packages"} & {*Path(path).parts}
            if not is_installed and not path.startswith(standard):
                found.append(module)
    return found


@contextlib.contextmanager
def _pickled_by_value(modules: Sequence[ModuleType]) -> Iterator[None]:
    """Makes cloudpickle send the functions of these modules, instead of their names."""
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def check_worker(wanted: Sequence[tuple[str, str]], dask_worker: Worker) -> None:
    """Makes sure that a worker computes as the client would. Dask passes it by this name.

    Raises:
        UserError: If one of its packages has another version, or it has several threads.
    """
    here, address = dict(versions()), dask_worker.address
    other = [f"{n} {here[n]} (the client {version})" for n, version in wanted if here[n] != version]
    if other:
        raise UserError(f"worker {address} has {', '.join(other)}: install the same versions there")
    threads = dask_worker.state.nthreads
    if threads != 1:
        raise UserError(
            f"worker {address} has {threads} threads: a worker uses one device, so start workers "
            "with --nthreads 1, one for each core or accelerator"
        )


def _devices() -> list[Device]:
    """A worker's devices: one accelerator; on a CPU two, which share its core.

    Raises:
        UserError: If the worker has computed with one CPU device before.
    """
    with contextlib.suppress(RuntimeError):  # it has computed before
        jax.config.update("jax_num_cpu_devices", FEWEST_CPU_DEVICES)
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices[:1]
    if len(devices) < FEWEST_CPU_DEVICES:
        raise UserError(
            f"worker {get_worker().address} has computed with JAX for others, on one CPU device, "
            "which rounds otherwise: restart it"
        )
    return devices[:FEWEST_CPU_DEVICES]


def _describe_worker() -> dict[str, Any]:
    """A worker's device; a worker uses one."""
    return describe_devices(_devices())


@functools.lru_cache(maxsize=2)
def _trainer(payload: _Payload) -> Trainer:
    """The program of a job on this worker, compiled at its first chunk."""
    job: Job = _load(payload)
    devices = _devices()
    groups = job.plan(devices[0].platform).groups
    chunks = [Chunk(g, 0, count) for g, count in enumerate(job.counts)]
    return Trainer(
        groups,
        job.counts,
        [[chunk] for chunk in chunks],
        num_steps=job.experiment.num_steps,
        recording=job.experiment.recording,
        precision=job.experiment.precision,
        devices=devices,
    )


def _train_chunk(
    payload: _Payload, chunk: Chunk, reached: ChunkState | None, seconds: float, topic: str,
    *, keep_leaves: bool,
) -> ChunkState:  # fmt: skip
    """A task: trains a chunk for so many seconds, or to its end."""
    trainer, task = _trainer(payload), _RunningTask(topic)
    began = said = time.monotonic()
    states = {} if reached is None else {chunk: reached}
    with _TRAINING:
        for segment in trainer.train([chunk], states, keep_leaves=keep_leaves):
            now = time.monotonic()
            if now - said >= _REPORT_EVERY:
                task.say((chunk, segment.done))
                said = now
            if segment.is_last or now - began >= seconds or task.is_cancelled:
                return segment.states()[chunk]
    raise AssertionError("a chunk in training has a last segment")


def _call(payload: _Payload, item: Any, number: int, topic: str) -> Any:
    """A task: calls a function with an item."""
    function, task = _load(payload), _RunningTask(topic)

    def on_message(message: Any) -> None:
        if task.is_cancelled:
            raise ProgramError("the client has ended: nothing takes the results of this task")
        task.say((number, message))

    return function(item, on_message)


class _RunningTask:
    """The task that this thread of a worker runs.

    Args:
        topic: Of its messages.
    """

    def __init__(self, topic: str) -> None:
        self._worker, self._topic = get_worker(), topic
        self._key = self._worker.get_current_task()

    def say(self, message: Any) -> None:
        """Sends a message to the client."""
        # Dask itself would send few types.
        self._worker.log_event(self._topic, cloudpickle.dumps(message))

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has given it up, or has ended: Dask cannot stop its thread."""
        state = self._worker.state.tasks.get(self._key)
        return state is None or state.state == "cancelled"


class PinToCores(WorkerPlugin):
    """Gives each worker process of this machine cores of its own.

    Args:
        cores: For each worker, by its name.
    """

    def __init__(self, cores: Mapping[int, Sequence[int]]) -> None:
        self._cores = dict(cores)

    def setup(self, worker: Any) -> None:
        """Called in a worker when it starts, before JAX does."""
        cores = self._cores.get(worker.name)
        if not cores or not hasattr(os, "sched_setaffinity"):
            return
        # Each thread has an affinity of its own, and those of the worker run already.
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def split_cores(num_workers: int) -> list[list[int]]:
    """This process's cores, some for each worker; none where the system has no affinities.

    Raises:
        UserError: If there are no workers, or more than cores.
    """
    cores = num_cores()
    if not 1 <= num_workers <= cores:
        raise UserError(f"{num_workers} workers: choose from 1 to {cores}, the cores there are")
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(num_workers)]
    available = sorted(os.sched_getaffinity(0))
    ends = [cores * n // num_workers for n in range(num_workers + 1)]
    return [available[start:end] for start, end in itertools.pairwise(ends)]


@contextlib.contextmanager
def local_workers(
    num_workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[Client]:
    """Worker processes on this machine, each with cores of its own, while the context lasts.

    Args:
        num_workers: How many.
        environment: Their environment variables beside this process's own.

    Raises:
        UserError: If there are no workers, or more than cores.
    """
    cores = split_cores(num_workers)
    with dask.config.set(SCHEDULER_SETTINGS):
        cluster: Any = LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            # Large sweeps take most of the memory: a worker must not be restarted for that.
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            env=dict(environment or {}),
            config=_WORKER_SETTINGS,
        )
    with cluster, Client(cluster) as client:
        client.register_plugin(PinToCores(dict(enumerate(cores))))
        cluster.sync(_block_interrupts)
        cluster.scale(num_workers)
        client.wait_for_workers(num_workers)
        yield client


async def _block_interrupts() -> None:
    """Keeps a terminal's Ctrl-C from the workers that Dask's thread, which runs this, will start.

    A terminal sends it to all processes. Workers end with the client, and would print tracebacks.
    """
    if hasattr(signal, "pthread_sigmask"):
        # Processes inherit the mask. Python starts this tracker with the first one, and would then
        # clear the mask.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


class DaskExecutor:
    """Trains chunks on the workers of a cluster, one at a time on each.

    Args:
        client: Connected to the cluster.
        seconds: After which a task returns what it has, to be stored: what is lost at most with a
            worker.

    Raises:
        UserError: If no worker comes, or one has other versions or several threads.
    """

    def __init__(self, client: Client, seconds: float = 60.0) -> None:
        self._client, self._seconds = client, seconds
        self._description: dict[str, Any] | None = None

    @property
    def platform(self) -> str:
        """See `Executor.platform`."""
        return self.description["platform"]

    @property
    def description(self) -> dict[str, Any]:
        """See `Executor.description`; the count is that of the workers there are now."""
        if self._description is None:
            self._check_workers()
            self._description = self._client.submit(_describe_worker, pure=False).result()
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return self._description | {"count": len(workers)}

    def _check_workers(self) -> None:
        """Waits for a first worker, and checks those that are there."""
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise UserError(
                f"no worker came to {self._address} within {_PATIENCE:.0f} s: start some with "
                "dask worker"
            ) from None
        found: Any = self._client.run(check_worker, versions(), on_error="return")
        for address, error in found.items():
            if isinstance(error, ImportError):
                raise _missing_package(address, error)
            # One that was lost meanwhile is none.
            if error is not None and not isinstance(error, OSError):
                raise error

    @property
    def _address(self) -> str:
        return str(self._client.scheduler.address if self._client.scheduler else "the scheduler")

    def train(
        self,
        job: Job,
        chunks: Sequence[Chunk],
        reached: Mapping[Chunk, ChunkState],
        *,
        keep_leaves: bool = True,
    ) -> Iterator[Update]:
        """See `Executor.train`."""
        groups = job.plan(self.platform).groups
        payload = _Payload.of(job, "the experiment")
        steps = job.experiment.num_steps
        sizes = {chunk: chunk.size(groups[chunk.group].num_runs) for chunk in chunks}
        state_of, done = dict(reached), dict.fromkeys(chunks, 0)

        def report(chunk: Chunk, run_steps: int) -> None:
            # A chunk whose worker was lost is trained again from its state: that is no progress.
            done[chunk] = max(done[chunk], run_steps)

        def submit(chunk: Chunk) -> tuple[Any, ...]:
            state = state_of.get(chunk)
            # Chunks that have been begun come first: finished ones need no further states.
            named = {"keep_leaves": keep_leaves, "priority": int(state is not None)}
            return _train_chunk, (chunk, state, self._seconds), named

        for chunk, state in reached.items():
            report(chunk, sizes[chunk] * min(state.next_step, steps))

        with _Tasks(self._client, payload, submit) as tasks:
            tasks.add(chunks)
            for chunk, state in tasks.results():
                for message in tasks.messages():
                    report(*message)
                if chunk is not None:
                    report(chunk, sizes[chunk] * min(state.next_step, steps))
                    if state.is_finished:
                        state_of.pop(chunk, None)
                    else:
                        state_of[chunk] = state
                        tasks.add([chunk])
                new = {} if chunk is None else {chunk: state}
                yield Update(sum(done.values()), chunk is not None, lambda new=new: new)

    def map(
        self,
        function: Callable[[_Item, OnMessage], _Result],
        items: Sequence[_Item],
        on_message: Callable[[_Item, Any], None],
    ) -> Iterator[tuple[_Item, _Result]]:
        """See `Executor.map`."""
        self._check_workers()
        payload = _Payload.of(function, "the work")

        def submit(number: int) -> tuple[Any, ...]:
            return _call, (items[number], number), {}

        with _Tasks(self._client, payload, submit) as tasks:
            tasks.add(range(len(items)))
            for number, result in tasks.results():
                for said, message in tasks.messages():
                    on_message(items[said], message)
                if number is not None:
                    yield items[number], result


class _Tasks:
    """Tasks on a cluster that share a payload, with what they say and return.

    Args:
        client: Of the cluster.
        payload: Passed to each task first; its topic last.
        submit: Returns, for the key of a task, its function, arguments and named arguments.
    """

    def __init__(
        self, client: Client, payload: _Payload, submit: Callable[[Any], tuple[Any, ...]]
    ) -> None:
        self._client, self._submit = client, submit
        self._topic = f"implicit-accel-{uuid.uuid4().hex}"
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._keys: dict[Future, Any] = {}
        self._losses = 0
        self._payload = self._send(_same, payload)

    def __enter__(self) -> _Tasks:
        self._client.subscribe_topic(self._topic, lambda event: self._said.put(event[1]))
        return self

    def __exit__(self, *_: object) -> None:
        # What is queued or running is given up, however this ends; what was returned is stored.
        with contextlib.suppress(ClosedClientError):  # the scheduler is gone
            self._client.cancel([*self._keys, self._payload], force=True)
            self._client.unsubscribe_topic(self._topic)

    def add(self, keys: Sequence[Any]) -> None:
        """Submits tasks; earlier ones come first."""
        for key in keys:
            function, arguments, named = self._submit(key)
            future = self._send(function, self._payload, *arguments, self._topic, **named)
            self._keys[future] = key

    def _send(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future:
        with warnings.catch_warnings():
            # Data and states are part of tasks on purpose: a worker that comes later, or again, has
            # them from the scheduler.
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(function, *arguments, **named, pure=False)

    def messages(self) -> Iterator[Any]:
        """What tasks have said since this was called last."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield cloudpickle.loads(self._said.get_nowait())

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Keys of finished tasks with what they returned; (None, None) now and then.

        Raises:
            ProgramError: If the cluster is gone, or loses workers again and again.
            Exception: What a task raised.
        """
        while self._keys:
            ended = [future for future in self._keys if future.done()]
            if self._client.status != "running":
                raise ProgramError(
                    "the connection to the scheduler was lost. Finished chunks are kept: the same "
                    "command goes on from there"
                )
            if not ended:
                time.sleep(_TICK)
            # Messages are taken before a task that fails ends all.
            yield None, None
            for future in ended:
                key = self._keys.pop(future)
                try:
                    result = future.result()
                except (KilledWorker, FutureCancelledError) as error:
                    self._lose(key, error)
                    continue
                self._losses = 0
                yield key, result

    def _lose(self, key: Any, error: Exception) -> None:
        """Submits a task again whose workers were lost."""
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise ProgramError(
                f"workers are lost as often as they begin ({error}): they may need more memory. "
                "Finished chunks are kept: the same command goes on from there"
            ) from None
        self.add([key])


@contextlib.contextmanager
def connected(scheduler: str) -> Iterator[Client]:
    """A client of a running scheduler, while the context lasts.

    Args:
        scheduler: Its address, or a scheduler file.

    Raises:
        UserError: If it does not answer.
    """
    path = Path(scheduler)
    try:
        address = load_json(path, follow=True)["address"] if path.is_file() else scheduler
        client = Client(address, timeout=_CONNECT_SECONDS)
    # A file may hold anything; no scheduler is an OSError.
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no Dask scheduler answers at {scheduler} ({reason}): start one with dask scheduler, "
            "and give its address, like tcp://host:8786, or its scheduler file"
        ) from None
    with client:
        yield client


def _same(payload: _Payload) -> _Payload:
    return payload
