"""Where runs and steps go: shares, pieces, blocks, segments. Pure numpy, nothing is computed here.

Runs: a *share* is one process's part of them, a *piece* what is on the devices at a time (which
bounds memory), a *block* what is stepped together. Steps: a *segment* is what one compiled call
does, between two looks at the clock. None of it changes what comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# A segment of steps between two looks at the clock: about this many operations, a second or some on
# each kind of device, so that a grid of any size reports, checkpoints and stops without delay.
_SEGMENT_OPERATIONS, _SEGMENT_OPERATIONS_CPU = 1e13, 2e11

# A block's working set should stay in a core's own cache (L2: 1 MiB on current processors); beyond
# 256 runs the loop around a step is paid for.
_CACHE_BYTES = 2**20
_LARGEST_BLOCK = 256


@dataclass(frozen=True)
class Share:
    """A process's share of a grid: every count-th run of each program, from index on.

    Attributes:
        index: Which share, 0 … count − 1.
        count: Of how many.
    """

    index: int = 0
    count: int = 1

    def members(self, num_runs: int) -> np.ndarray:
        """Numbers of the runs."""
        return np.arange(self.index, num_runs, self.count)


WHOLE = Share()


def largest_block(
    *, num_parameters: int, num_rows: int, platform: str, itemsize: int
) -> int | None:
    """The most runs that should be stepped together on one device; None for all.

    On a CPU few enough that parameters, gradients and updates, and the residuals of the rows of a
    step, stay in cache.

    Args:
        num_parameters: Of one run.
        num_rows: Rows whose residuals a step computes.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
        itemsize: Bytes of a number.
    """
    if platform != "cpu":
        return None
    working_set = (3 * num_parameters + num_rows) * itemsize
    return min(_LARGEST_BLOCK, max(4, _CACHE_BYTES // working_set))


def split_evenly(count: int, largest: int | None, parts: int) -> tuple[int, int]:
    """Deals runs to parts (pieces × devices), and each part's to equally full blocks.

    Args:
        count: Runs.
        largest: The most in a block, or None.
        parts: The number of parts.

    Returns:
        Blocks per part, and runs per block: together enough for all of them.
    """
    per_part = max(1, math.ceil(count / parts))
    blocks = 1 if largest is None else math.ceil(per_part / largest)
    return blocks, math.ceil(per_part / blocks)


def segment_length(
    num_steps: int,
    *,
    operations_per_step: float = 0,
    platform: str = "cpu",
    least_segments: int = 50,
    least_steps: int = 200,
) -> int:
    """Steps run between two reports of progress.

    Long enough that starting a segment costs nothing, short enough for a bar that moves and a
    checkpoint that is not overdue. It depends on the grid alone, not on how fast the machine is:
    where segments end is part of what a resumed run repeats. Losses 0 … T are T + 1 evaluations;
    the last segment's surplus steps leave every state as it is.

    Args:
        num_steps: T.
        operations_per_step: Of all runs together.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
        least_segments: Where the least number of steps allows it.
        least_steps: The fewest steps in a segment that is not a second's work.
    """
    evaluations = num_steps + 1
    a_segment = _SEGMENT_OPERATIONS_CPU if platform == "cpu" else _SEGMENT_OPERATIONS
    by_work = min(evaluations * operations_per_step / a_segment, evaluations)
    segments = max(min(least_segments, evaluations // least_steps), by_work)
    return math.ceil(evaluations / max(1, math.ceil(segments)))


def most_records(record_steps: np.ndarray, num_steps: int, length: int, begin: int = 0) -> int:
    """The most records in a segment, of all segments that end where those from ``begin`` do.

    Earlier segments count as well: where training goes on after a break must not change the
    compiled program.

    Args:
        record_steps: Increasing step numbers.
        num_steps: T.
        length: Steps in a segment.
        begin: The first step of one.
    """
    edges = np.unique([0, *range(begin % length, num_steps + 1, length), num_steps + 1])
    return max(1, int(np.max(np.diff(np.searchsorted(record_steps, edges)))))


def slots(steps: np.ndarray, recorded: np.ndarray, num_records: int) -> np.ndarray:
    """Where each step's record goes; ``num_records`` for steps that have none.

    Args:
        steps: (S,) the steps of a segment.
        recorded: Those that are recorded, increasing.
        num_records: The most there are in any segment.
    """
    where = np.where(np.isin(steps, recorded), np.searchsorted(recorded, steps), num_records)
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


def lay_out(members: np.ndarray, largest: int | None, pieces: int, num_devices: int) -> np.ndarray:
    """(pieces, blocks, block size) numbers of the runs, −1 where there is none.

    Neighbours go to different devices: learning rates that diverge lie together, and what they
    leave idle is shared. A device's blocks follow one another.

    Args:
        members: The runs.
        largest: The most in a block, or None.
        pieces: How many.
        num_devices: How many.
    """
    per_device, B = split_evenly(len(members), largest, pieces * num_devices)
    numbers = np.full(pieces * per_device * num_devices * B, -1)
    numbers[: len(members)] = members
    dealt = numbers.reshape(pieces, per_device * B, num_devices).transpose(0, 2, 1)
    return dealt.reshape(pieces, num_devices * per_device, B)


def pack(alive: np.ndarray, num_devices: int) -> np.ndarray:
    """The order that moves each device's live runs to its first blocks, (blocks, B) places."""
    flat = alive.reshape(num_devices, -1)
    order = np.argsort(~flat, axis=1, kind="stable")
    return order.reshape(alive.shape).astype(np.int32)


def reorder(a: np.ndarray, order: np.ndarray, num_devices: int) -> np.ndarray:
    """What the program does to the runs, for an array of theirs on the host."""
    flat, places = a.reshape(num_devices, -1), order.reshape(num_devices, -1)
    return np.take_along_axis(flat, places, axis=1).reshape(a.shape)


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
