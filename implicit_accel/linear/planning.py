"""Which configurations share a program, and how many of them are stepped together.

These choices change a sweep's duration, not its results.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from implicit_accel.linear.networks import layer_shapes

# Seconds that another program adds to compilation, and a core's parameters and floating-point
# operations per second: measured on two cores of an AMD EPYC (Zen 5).
_COMPILE_SECONDS = 0.3
_PARAMETERS_PER_SECOND = 1e10
_FLOPS_PER_SECOND = 1e11


def merge_shapes(shapes: Sequence[tuple[int, ...]], k: int) -> tuple[int, ...]:
    """The smallest hidden widths that all of some networks can be padded to.

    A shallower network's outputs travel through identity layers, which must hold k of them.
    """
    depth = max(len(s) for s in shapes)
    return tuple(max(s[j] if j < len(s) else k for s in shapes) for j in range(depth))


def any_narrower(shapes: Sequence[tuple[int, ...]], k: int) -> bool:
    """Whether one of some networks is padded within a layer that it has.

    A shallower network is padded by identities at the output's end. If all layers are as wide as
    the output, nothing else is added.
    """
    merged = merge_shapes(shapes, k)
    return any(
        width < merged[j] for s in shapes for j, width in enumerate((*s, k)) if j < len(merged)
    )


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
