"""Where a program's work is done: in this process, in worker processes, or on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
from absl import flags
from rich.console import Console

from implicit_accel.devices import num_cores
from implicit_accel.errors import UserError
from implicit_accel.executors import Executor
from implicit_accel.experiments import cli

WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Worker processes on this machine, each with cores of its own, in place of this process. Needs "
    "the extra cluster.",
    lower_bound=1,
)
SCHEDULER = flags.DEFINE_string(
    "scheduler",
    None,
    "A Dask scheduler whose workers do the work: its address, like tcp://host:8786, or its "
    "scheduler file. Needs the extra cluster.",
)

# JAX's settings of the compilation cache, which worker processes on this machine share.
_CACHE_SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


def add_flags(groups: cli.FlagGroups) -> None:
    """Lists the flags in a program's help."""
    groups.add("Machine", WORKERS, SCHEDULER)


def check_flags() -> None:
    """Makes sure that the flags can be obeyed, as far as this process knows.

    Raises:
        UserError: If both are given, or there are fewer cores than workers.
    """
    if WORKERS.value is not None and SCHEDULER.value is not None:
        raise UserError("--workers starts workers here, --scheduler uses others': give one of them")
    if WORKERS.value is not None and WORKERS.value > num_cores():
        raise UserError(
            f"--workers {WORKERS.value}: choose from 1 to {num_cores()}, the cores there are"
        )


@contextlib.contextmanager
def opened(
    log: Console,
    local: Callable[[], Executor],
    *,
    workers: int | None = None,
    seconds: float = 60.0,
) -> Iterator[Executor]:
    """The executor that the flags ask for.

    Args:
        log: For the dashboard's address.
        local: Makes the one of this process.
        workers: Worker processes unless flags are given; None for this process.
        seconds: After which a worker hands over what it has.

    Raises:
        UserError: See `check_flags`; or if the cluster cannot be used.
    """
    check_flags()
    asked = WORKERS.value or workers
    if SCHEDULER.value is None and asked is None:
        yield local()
        return
    # Imported here: it is an extra, and takes a second.
    from implicit_accel.executors.dask import DaskExecutor, connected, local_workers

    cluster = (
        local_workers(asked, _cache_environment())
        if SCHEDULER.value is None and asked is not None
        else connected(str(SCHEDULER.value))
    )
    with cluster as client:
        log.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
        yield DaskExecutor(client, seconds)


def _cache_environment() -> dict[str, str]:
    values = {name: getattr(jax.config, name) for name in _CACHE_SETTINGS}
    return {name.upper(): str(value) for name, value in values.items() if value is not None}
