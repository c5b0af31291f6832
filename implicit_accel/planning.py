"""Which configurations share a program, and how many of them are stepped together.

These choices change how long a sweep takes, not what comes out of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from implicit_accel.networks import layer_shapes

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
