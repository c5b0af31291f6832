"""What trains chunks: this process's devices (`local`), or the workers of a Dask cluster (`dask`).

An executor is given the chunks that are missing and yields their states. Which executor it is, and
how many devices (two or more on a CPU) or workers it has, changes no bit of the results.
"""

from __future__ import annotations

import platform as machine_platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax

from implicit_accel.engine.chunks import Chunk, ChunkState
from implicit_accel.experiment import Experiment, Plan, Round

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

OnMessage = Callable[[Any], None]
"""Called with what work says while it is done; it can be pickled."""


@dataclass(frozen=True)
class Job:
    """A round of an experiment's runs.

    Attributes:
        experiment: What is trained.
        round: Which of its runs.
        counts: The number of chunks of each of the plan's groups.
    """

    experiment: Experiment
    round: Round
    counts: tuple[int, ...]

    def plan(self, platform: str) -> Plan:
        """How the runs are laid out."""
        return self.experiment.plan_round(self.round, platform)


@dataclass(frozen=True)
class Update:
    """What an executor yields now and then.

    Attributes:
        done: Run-steps of the missing chunks that are done.
        is_due: Whether the states must be kept now: they are not offered again.
        states: Returns the states of some of the chunks; good until the next update.
    """

    done: int
    is_due: bool
    states: Callable[[], Mapping[Chunk, ChunkState]]


class Executor(Protocol):
    """Trains chunks, and does other work that is cut into items."""

    @property
    def platform(self) -> str:
        """Of the devices: ``cpu``, ``gpu`` or ``tpu``."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """The devices, for ``config.json``: ``platform``, ``kind``, ``count``, ``machine``."""
        ...

    def train(
        self,
        job: Job,
        chunks: Sequence[Chunk],
        reached: Mapping[Chunk, ChunkState],
        *,
        keep_leaves: bool = True,
    ) -> Iterator[Update]:
        """Trains chunks to the experiment's last step.

        Args:
            job: Whose chunks they are.
            chunks: Those that are not finished.
            reached: The states of those that have been begun.
            keep_leaves: Whether the states of finished chunks have leaves.

        Raises:
            UserError: If work cannot be done where it is to be done; it says why.
        """
        ...

    def map(
        self,
        function: Callable[[_Item, OnMessage], _Result],
        items: Sequence[_Item],
        on_message: Callable[[_Item, Any], None],
    ) -> Iterator[tuple[_Item, _Result]]:
        """Calls a function for each item, in any order.

        Args:
            function: Called with an item and with what takes its messages.
            items: Begun in this order.
            on_message: Called here with an item and a message.

        Yields:
            An item and what the function returned, as soon as it has.
        """
        ...


def describe_devices(devices: Sequence[Any]) -> dict[str, Any]:
    """See `Executor.description`."""
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "machine": machine_platform.machine(),
    }


def environment(description: Mapping[str, Any]) -> str:
    """What results depend on by rounding, in words."""
    return f"JAX {jax.__version__}, {description['kind']} devices, {description['machine']}"
