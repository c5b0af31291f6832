"""Laws for near-zero and balanced initialisation: steps as a function of depth and scale.

Arora, Cohen, Golowich & Hu (2019) measure both: the fewest steps of balanced networks on whitened
features, and how training slows down as a layer-wise initialisation becomes smaller.
"""

from __future__ import annotations

import math


def contraction(depth: int) -> float:
    """The least factor by which a step shrinks the distance to the optimum: ``(N−1)/(N+1)``.

    For a single row w the end-to-end rule's preconditioner ``‖w‖^{2−2/N} (I + (N−1) Pr_w)`` has the
    eigenvalue ``N ‖w‖^{2−2/N}`` along w and ``‖w‖^{2−2/N}`` across it: the condition number N. With
    whitened features ℓ2's own Hessian is a multiple of the identity, so that near the optimum no
    other factor counts, and the best fixed learning rate leaves ``(κ−1)/(κ+1)``, κ = N.

    Args:
        depth: N ≥ 1.
    """
    return (depth - 1) / (depth + 1)


def steps_at_the_optimum(depth: int, start: float, target: float) -> float:
    """Steps from one excess loss to another at that contraction: 0 at depth 1.

    Args:
        depth: N.
        start: Excess loss at which it begins.
        target: Excess loss to be reached.
    """
    if depth == 1:
        return 0.0
    return math.log(start / target) / (-2 * math.log(contraction(depth)))


def plateau_exponent(depth: int) -> int:
    """The exponent −(N−2) with which the plateau's length depends on the layers' std s.

    Near zero every layer grows at a rate proportional to the product of the others, ``s^{N−1}``,
    and has to grow by its own size s: ``s / s^{N−1}``. At depth 2 the growth is exponential, and
    the length depends on s by its logarithm alone.
    """
    return -(depth - 2)
