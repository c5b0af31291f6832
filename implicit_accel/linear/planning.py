"""Which configurations share a program, and how many of them are stepped together.

These choices change how long a sweep takes, not what comes out of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from implicit_accel.linear.networks import layer_shapes

# Seconds that another scan adds to compilation, and what a core does in a second: measured on
# two cores of an AMD EPYC (Zen 5).
_COMPILE_SECONDS = 0.3
_PARAMETERS_PER_SECOND = 1e10
_FLOPS_PER_SECOND = 1e11


def merge_shapes(shapes: Sequence[tuple[int, ...]], k: int) -> tuple[int, ...]:
    """The smallest hidden widths that all of some networks can be padded to.

    A shallower network's outputs travel through identity layers, which must hold k of them.
    """
    depth = max(len(s) for s in shapes)
    return tuple(max(s[j] if j < len(s) else k for s in shapes) for j in range(depth))


def plan_groups(
    counts: dict[tuple[int, ...], int],
    *,
    num_steps: int,
    d: int,
    k: int,
    rows_per_step: int = 0,
) -> list[list[tuple[int, ...]]]:
    """Decides which architectures share a padded program.

    Padding costs arithmetic, a program of its own costs compilation: architectures are merged,
    the most profitable pair first, while that lowers the estimated sum. Small grids end up as
    one program, large ones as one per architecture.

    Args:
        counts: Configurations of each architecture, by hidden widths.
        num_steps: Steps per run.
        d: Features.
        k: Outputs.
        rows_per_step: Rows that pass through every layer (0 where layers are collapsed first).

    Returns:
        The groups, each a list of hidden widths.
    """

    def seconds(group: list[tuple[int, ...]]) -> float:
        shapes = layer_shapes(d, merge_shapes(group, k), k)
        parameters = sum(a * b for a, b in shapes)
        a_step = parameters / _PARAMETERS_PER_SECOND
        a_step += 6 * rows_per_step * parameters / _FLOPS_PER_SECOND
        return sum(counts[s] for s in group) * num_steps * a_step

    groups = [[shape] for shape in counts]
    while len(groups) > 1:
        gains = {
            (a, b): _COMPILE_SECONDS
            + seconds(groups[a])
            + seconds(groups[b])
            - seconds(groups[a] + groups[b])
            for a, b in itertools.combinations(range(len(groups)), 2)
        }
        (a, b), gain = max(gains.items(), key=lambda item: item[1])
        if gain <= 0:
            break
        groups[a] += groups.pop(b)
    return groups


# A block's working set should stay in a core's own cache (L2: 1 MiB on current processors); beyond
# 256 configurations the loop around a step is paid for.
_CACHE_BYTES = 2**20
_LARGEST_BLOCK = 256


def largest_block(
    *, num_parameters: int, num_rows: int, platform: str, itemsize: int
) -> int | None:
    """The most configurations that should be stepped together on one device; None for all.

    On a CPU few enough that parameters, gradients and updates, and the residuals of the
    objective's rows, stay in cache.

    Args:
        num_parameters: Of one network, padded.
        num_rows: Rows whose residuals a step computes.
        platform: The devices', ``cpu``, ``gpu`` or ``tpu``.
        itemsize: Bytes of a number.
    """
    if platform != "cpu":
        return None
    working_set = (3 * num_parameters + num_rows) * itemsize
    return min(_LARGEST_BLOCK, max(4, _CACHE_BYTES // working_set))


def split_evenly(count: int, largest: int | None, parts: int) -> tuple[int, int]:
    """Deals configurations to parts (pieces × devices), and each part's to equally full blocks.

    Args:
        count: Configurations.
        largest: The most in a block, or None.
        parts: The number of parts.

    Returns:
        Blocks per part, and configurations per block: together enough for all of them.
    """
    share = max(1, math.ceil(count / parts))
    blocks = 1 if largest is None else math.ceil(share / largest)
    return blocks, math.ceil(share / blocks)


# A segment of steps between two looks at the clock: about this many operations, a second or some on
# each kind of device, so that a grid of any size reports, checkpoints and stops without delay.
_SEGMENT_OPERATIONS, _SEGMENT_OPERATIONS_CPU = 1e13, 2e11


def step_operations(
    *, num_parameters: int, rows_size: int, num_outputs: int, rows_per_step: int
) -> int:
    """About how many floating-point operations a step of one run takes.

    Args:
        num_parameters: Of the network, padded.
        rows_size: Numbers in the objective's rows.
        num_outputs: k.
        rows_per_step: Rows that pass through every layer (0 where layers are collapsed first).
    """
    return 10 * num_parameters + 4 * num_outputs * rows_size + 6 * rows_per_step * num_parameters


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
        least_steps: The fewest steps in a segment, but for the last.
    """
    evaluations = num_steps + 1
    a_segment = _SEGMENT_OPERATIONS_CPU if platform == "cpu" else _SEGMENT_OPERATIONS
    by_work = evaluations * operations_per_step / a_segment
    segments = min(max(least_segments, by_work), evaluations // least_steps)
    return math.ceil(evaluations / max(1, math.ceil(segments)))
