"""How runs are cut into chunks and blocks, and steps into segments and dispatches. Pure numpy.

A *chunk* is what is stored, moved and handed to a device as one; a *block* is what is stepped
together in a core's cache. Between *segments* of steps runs change blocks; a segment is one
*dispatch* of the compiled program, or several if it takes long. Only the size of a block changes
the order of additions, and with it the last bits of the results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np


class _Sizes(NamedTuple):
    """How large pieces of work should be on a kind of device; work in floating-point operations.

    Attributes:
        segment: A second or some.
        chunk: At least 5 to 10 s, so that storing and moving a chunk costs nothing.
        block_step: What a step of a block should be so that the loop around it costs nothing.
            Measured on a CPU: for ℓ4 on 2,565 × 128, blocks of 32 runs are as fast as blocks of
            128; for ℓ2, whose steps are a twentieth of that work, blocks of 64 are slower.
        fewest_chunks: In a grid, so that two cores share a small one.
        cache: Bytes of a block's working set. A core's own L2 has 1 MiB on current processors.
    """

    segment: float
    chunk: float
    block_step: float
    fewest_chunks: int
    cache: int


_ON_CPU = _Sizes(segment=2e11, chunk=2e11, block_step=3e7, fewest_chunks=2, cache=2**20)
_ON_ACCELERATOR = _Sizes(segment=1e13, chunk=1e14, block_step=3e10, fewest_chunks=1, cache=2**30)

# Beyond these many runs the loop around a step is paid for; a matrix product of fewer than these is
# slower for each of them.
_LARGEST_BLOCK, _SMALLEST_BLOCK = 256, 32
# A chunk has this many blocks where there are enough: as its runs diverge, its last blocks become
# free, and half a block is lost on average.
_BLOCKS_IN_CHUNK = 4
# Of a chunk's states and records.
_CHUNK_BYTES = 2**27
_POWERS_OF_TWO_BELOW = 64
# Of a dispatch of the compiled program: steps, numbers of mini-batches' rows, and records of each
# kind (R). They are part of the program's shape, so they do not depend on T or on what is recorded.
_MOST_STEPS, _MOST_ROWS, MOST_RECORDS = 2048, 2**21, 128


def sizes_on(platform: str) -> _Sizes:
    """The sizes for a platform: ``cpu``, ``gpu`` or ``tpu``."""
    return _ON_CPU if platform == "cpu" else _ON_ACCELERATOR


def largest_block(*, num_parameters: int, num_rows: int, platform: str, itemsize: int) -> int:
    """The most runs that should be stepped together on one device.

    Few enough that parameters, gradients and updates, and the residuals of the rows of a step,
    stay in a core's cache; on an accelerator, in a small share of its memory.

    Args:
        num_parameters: Of one run.
        num_rows: Rows whose residuals a step computes.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
        itemsize: Bytes of a number.
    """
    fits = sizes_on(platform).cache // ((3 * num_parameters + num_rows) * itemsize)
    return min(_LARGEST_BLOCK, max(4, fits)) if platform == "cpu" else max(_LARGEST_BLOCK, fits)


def efficient_block(largest: int, operations: float, platform: str) -> int:
    """The fewest runs that are stepped together without loss.

    Small blocks become free earlier as runs diverge, and are shared by more devices.

    Args:
        largest: The most runs in a block.
        operations: Floating-point operations of a step of one run.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
    """
    by_work = math.ceil(sizes_on(platform).block_step / max(1.0, operations))
    return min(largest, max(_SMALLEST_BLOCK, by_work))


def count_chunks(
    num_runs: int, block: int, *, run_operations: float, run_bytes: float, platform: str
) -> int:
    """Chunks that runs which share a program are cut into.

    A chunk has a few blocks, some seconds of work for one device, and stays small in memory. There
    are two chunks on a CPU at least, and a power of two of them where there are few, which devices
    share without rest.

    Args:
        num_runs: Runs that share a program.
        block: About how many of them are in a block.
        run_operations: Floating-point operations of all steps of a run.
        run_bytes: Bytes of a run's state and records.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
    """
    sizes = sizes_on(platform)
    blocks = math.ceil(num_runs / block)
    by_work = min(blocks, sizes.chunk / max(1.0, block * run_operations))
    by_bytes = max(1, int(_CHUNK_BYTES / max(1.0, block * run_bytes)))
    count = blocks / min(max(_BLOCKS_IN_CHUNK, by_work), by_bytes)
    if count >= _POWERS_OF_TWO_BELOW:
        return math.ceil(count)
    return min(num_runs, max(sizes.fewest_chunks, 2 ** round(math.log2(max(1, count)))))


def chunk_shape(num_runs: int, num_chunks: int, block: int) -> tuple[int, int]:
    """Blocks in a chunk, and runs in a block: equally full.

    Args:
        num_runs: Runs that share a program.
        num_chunks: Chunks that they are cut into.
        block: About how many runs are in a block.
    """
    largest_chunk = math.ceil(num_runs / num_chunks)
    blocks = math.ceil(largest_chunk / block)
    return blocks, math.ceil(largest_chunk / blocks)


def segment_length(
    num_steps: int,
    *,
    operations_per_step: float = 0,
    platform: str = "cpu",
    least_segments: int = 50,
    least_steps: int = 200,
) -> int:
    """Steps of a segment, after which runs that have not diverged are moved together.

    Long enough that moving them costs nothing, short enough that blocks are freed early. It depends
    on the grid alone, not on how fast the machine is: where segments end decides which runs share a
    block. Losses 0 … T are T + 1 evaluations.

    Args:
        num_steps: T.
        operations_per_step: Of a chunk.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
        least_segments: Where the least number of steps allows it.
        least_steps: The fewest steps in a segment that is not a second's work.
    """
    evaluations = num_steps + 1
    by_work = min(evaluations * operations_per_step / sizes_on(platform).segment, evaluations)
    segments = max(min(least_segments, evaluations // least_steps), by_work)
    return math.ceil(evaluations / max(1, math.ceil(segments)))


def dispatch_capacity(batches: Sequence[MiniBatches]) -> int:
    """S, the most steps of one dispatch of the compiled program.

    It does not depend on T: grids that differ in it share a program.

    Args:
        batches: How the groups that have any take mini-batches.
    """
    rows = sum(len(b.seeds) * b.batch_size for b in batches)
    return max(16, min(_MOST_STEPS, _MOST_ROWS // max(1, rows)))


def steps_in_dispatch(first: int, most: int, recorded: Sequence[np.ndarray]) -> int:
    """How many steps from ``first`` on, ``most`` at most, make no more records than fit.

    Args:
        first: Number of a step.
        most: At least 1.
        recorded: The recorded steps of each kind, increasing.
    """
    for steps in recorded:
        behind = np.searchsorted(steps, first) + MOST_RECORDS
        if behind < len(steps):
            most = min(most, int(steps[behind]) - first)
    return most


@dataclass
class Pace:
    """Sizes dispatches of the compiled program by the time that they take.

    Attributes:
        steps: Of the next dispatch.
    """

    # A dispatch ends soon, so that progress is reported and a stop is obeyed, and costs nothing.
    SECONDS: ClassVar[float] = 0.5
    MOST_GROWTH: ClassVar[int] = 128
    steps: int = 4

    def note(self, steps: int, seconds: float) -> None:
        """Notes what a dispatch took."""
        by_time = steps * self.SECONDS / max(seconds, 1e-9)
        self.steps = int(min(max(1, by_time), self.MOST_GROWTH * steps))


def record_indices(steps: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """The row of a dispatch's records to which each step's go; `MOST_RECORDS` if it has none.

    Args:
        steps: (S,) the steps of a dispatch.
        recorded: Those that are recorded, increasing.
    """
    where = np.where(np.isin(steps, recorded), np.searchsorted(recorded, steps), MOST_RECORDS)
    return where.astype(np.int32)


def spaced_steps(num_steps: int, per_decade: int) -> np.ndarray:
    """Step numbers from 0 to num_steps, evenly spaced on a log axis.

    But for the last, they do not depend on num_steps: a run that goes on keeps its records. Small
    steps, which lie further apart than that, are all among them.

    Args:
        num_steps: The last.
        per_decade: How many there are between a step and ten times it, where there are as many.
    """
    count = math.floor(per_decade * math.log10(max(1, num_steps))) + 1
    steps = np.round(10 ** (np.arange(count) / per_decade)).astype(np.int64)
    return np.unique([0, *steps[steps < num_steps], num_steps])


def deal(blocks: Sequence[int], num_devices: int, per_device: int) -> list[np.ndarray]:
    """Where each chunk's blocks go, of chunks that are trained together.

    All chunks' first blocks are dealt to the devices in turn, then their second ones and so on:
    later blocks become free as runs diverge, and every device has its share of them.

    Args:
        blocks: Blocks of each chunk.
        num_devices: How many.
        per_device: Places for blocks on a device, enough for all.

    Returns:
        For each chunk its blocks' places; device d has those from d × per_device on.
    """
    order = sorted((level, c) for c, count in enumerate(blocks) for level in range(count))
    places = [np.zeros(count, int) for count in blocks]
    for i, (level, c) in enumerate(order):
        places[c][level] = (i % num_devices) * per_device + i // num_devices
    return places


def pack(alive: np.ndarray) -> np.ndarray | None:
    """The order of a chunk's runs that frees blocks; None if there is none to free.

    Args:
        alive: (blocks, block size) which runs have not diverged.

    Returns:
        (blocks × block size,) the places from which runs are taken: live ones first.
    """
    needed = math.ceil(np.count_nonzero(alive) / alive.shape[1])
    if np.count_nonzero(alive.any(axis=1)) <= needed:
        return None
    return np.argsort(~alive.reshape(-1), kind="stable")


@dataclass(frozen=True)
class MiniBatches:
    """The orders in which runs take their rows; an epoch is as many mini-batches as are whole.

    An order is a function of the run's seed and the epoch alone: runs that differ in anything else
    see the same mini-batches.

    Attributes:
        num_rows: Rows that there are.
        batch_size: Rows in a mini-batch, n.
        seeds: The runs' seeds, each once; a run's `Hyper.order` is the position of its own.
    """

    num_rows: int
    batch_size: int
    seeds: tuple[int, ...]

    @property
    def epoch_steps(self) -> int:
        """Mini-batches in an epoch."""
        return self.num_rows // self.batch_size

    def rows(self, start: int, length: int) -> np.ndarray:
        """(seeds, S, n) rows of the mini-batches of S = ``length`` steps from ``start`` on."""
        n, per_epoch = self.batch_size, self.epoch_steps
        epochs = range(start // per_epoch, (start + length - 1) // per_epoch + 1)
        first = (start - epochs[0] * per_epoch) * n
        kept = per_epoch * n
        return np.stack(
            [
                np.concatenate([batch_order(seed, e, self.num_rows)[:kept] for e in epochs])[
                    first : first + length * n
                ].reshape(length, n)
                for seed in self.seeds
            ]
        ).astype(np.int32)


def batch_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """The order (num_rows,) in which an epoch takes the rows, by number."""
    # The 1 sets it apart from the initial weights' streams, which have two numbers.
    sequence = np.random.SeedSequence([seed, epoch, 1])
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_rows)
