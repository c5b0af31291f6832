"""Balancedness of a linear network's layers, in numpy or JAX.

Source: Arora, Cohen, Golowich & Hu (2019), "A Convergence Analysis of Gradient Descent for Deep
Linear Neural Networks".
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float

from implicit_accel.linear.networks import Layers


def balancedness(
    layers: Layers, active: Bool[Any, "*runs N"] | None = None
) -> tuple[Float[Any, "*runs"], Float[Any, "*runs"]]:
    """The imbalance of neighbouring layers, and the norm to compare it with.

    Balanced means ``W_{j+1}ᵀ W_{j+1} = W_j W_jᵀ`` for j = 1 … N−1; gradient flow conserves the
    differences.

    Args:
        layers: Weights W_j of shape (…, h_j, h_{j−1}), with the same leading axes (runs, steps)
            in all layers; numpy arrays, or JAX's, also under jit and vmap. Biases are ignored.
        active: (…, N) booleans, False for the identity layers of a padded network (see
            `networks.pad`), which do not count; None if all do.

    Returns:
        ``max_j ‖W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ‖_F`` (0 for a single layer) and
        ``min_j ‖W_j W_jᵀ‖_F`` over all N layers, each of the leading axes' shape.
    """
    weights = layers.weights
    xp = weights[0].__array_namespace__()

    def norm(a: Any) -> Any:
        return xp.linalg.matrix_norm(a)

    outer = [W @ xp.matrix_transpose(W) for W in weights]
    inner = [xp.matrix_transpose(W) @ W for W in weights]
    norms = xp.stack([norm(a) for a in outer], axis=-1)
    # The first layer has no gap below it, and padding is at the end: a layer's gap is as active
    # as the layer.
    gaps = [norm(b - a) for a, b in zip(outer[:-1], inner[1:], strict=True)]
    gaps = xp.stack([xp.zeros_like(norms[..., 0]), *gaps], axis=-1)
    if active is not None:
        norms = xp.where(active, norms, xp.inf)
        gaps = xp.where(active, gaps, 0)
    return xp.max(gaps, axis=-1), xp.min(norms, axis=-1)
