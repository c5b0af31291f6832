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
_COMPILE_SECONDS = 0.35
_PARAMETERS_PER_SECOND = 3e9
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


# A block's state should stay in a core's own cache; more than 32 configurations gain nothing.
_CACHE_BYTES = 2**19
_LARGEST_BLOCK = 32


def choose_block_size(
    count: int, num_parameters: int, *, num_devices: int, platform: str, itemsize: int
) -> int:
    """Configurations stepped together on one device.

    On a CPU few enough that their parameters and updates stay in cache, elsewhere all of them.
    Blocks come out equally full, and as many for each device.
    """
    largest = _LARGEST_BLOCK if platform == "cpu" else count
    if platform == "cpu":
        largest = min(largest, max(4, _CACHE_BYTES // (3 * num_parameters * itemsize)))
    blocks_per_device = math.ceil(count / (largest * num_devices))
    return math.ceil(count / (blocks_per_device * num_devices))
