"""Deep linear (and ReLU) networks: parameters, forward pass, end-to-end map, padding.

Layer j computes ``h_j = W_j h_{j−1} + b_j``, with W_j of shape (outputs, inputs), so that the
end-to-end matrix of a linear network is ``W_e = W_N ⋯ W_1`` as in Arora, Cohen & Hazan (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

ACTIVATIONS = ("identity", "relu")

# No TF32 or bfloat16 passes on accelerators: trajectories over 10⁵ steps need all 24 bits.
PRECISION = jax.lax.Precision.HIGHEST


class Layers(NamedTuple):
    """A network's parameters.

    Attributes:
        weights: Matrices W_1 … W_N; W_j has shape (h_j, h_{j−1}), h_0 = d and h_N = k.
        biases: Vectors b_1 … b_N of shape (h_j,), or empty for a network without biases.
    """

    weights: tuple[Any, ...]
    biases: tuple[Any, ...] = ()

    @property
    def depth(self) -> int:
        """The number of weight matrices, N."""
        return len(self.weights)


def layer_shapes(d: int, hidden_widths: Sequence[int], k: int) -> tuple[tuple[int, int], ...]:
    """Shapes (h_j, h_{j−1}) of the weight matrices of a network d → hidden widths → k."""
    widths = (d, *hidden_widths, k)
    return tuple((widths[j + 1], widths[j]) for j in range(len(widths) - 1))


def matmul(a: Any, b: Any) -> jax.Array:
    """Matrix product in the full precision of its operands' type."""
    return jnp.matmul(a, b, precision=PRECISION)


def end_to_end(
    layers: Layers,
) -> tuple[Float[jax.Array, "k d"], Float[jax.Array, " k"] | None]:
    """The affine map that a linear network computes.

    ``W_e = W_N ⋯ W_1`` and ``b_e = b_N + W_N b_{N−1} + … + W_N ⋯ W_2 b_1``, multiplied from the
    output's side: with few outputs every product is then a thin one.

    Args:
        layers: The network's parameters.

    Returns:
        W_e of shape (k, d), and b_e of shape (k,), None for a network without biases.
    """
    product = layers.weights[-1]
    bias = layers.biases[-1] if layers.biases else None
    for j in range(layers.depth - 2, -1, -1):
        if bias is not None:
            bias = bias + matmul(product, layers.biases[j])
        product = matmul(product, layers.weights[j])
    return product, bias


def predict(
    layers: Layers,
    features: Float[Any, "n d"],
    *,
    activation: str = "identity",
    active: Bool[Any, " N"] | None = None,
) -> Float[jax.Array, "n k"]:
    """The network's outputs, computed layer by layer.

    Args:
        layers: The network's parameters.
        features: (n, d).
        activation: Applied after every layer but the last: ``identity`` or ``relu``.
        active: (N,) booleans, False for the identity layers of a padded network (see `pad`),
            which are passed without an activation.

    Returns:
        (n, k).
    """
    h = features
    for j, W in enumerate(layers.weights):
        h = matmul(h, W.T)
        if layers.biases:
            h = h + layers.biases[j]
        if activation == "relu" and j + 1 < layers.depth:
            rectified = jax.nn.relu(h)
            # The last true layer of a padded network is its output and stays linear.
            h = rectified if active is None else jnp.where(active[j + 1], rectified, h)
    return h


def pad(layers: Layers, shapes: Sequence[tuple[int, int]]) -> tuple[Layers, Bool[np.ndarray, " N"]]:
    """Embeds a network in larger layer shapes without changing what it computes.

    Narrower layers are filled with zeros, which receive zero gradients and stay zero under every
    optimizer here. Missing layers become identities at the output's end and are marked as not
    active: they must not be trained.

    Args:
        layers: The network's parameters (numpy).
        shapes: The larger network's layer shapes, see `layer_shapes`.

    Returns:
        The padded parameters, and (N,) booleans, True for layers that are trained.
    """
    weights, biases = [], []
    k = layers.weights[-1].shape[0]
    for j, shape in enumerate(shapes):
        W = np.zeros(shape)
        b = np.zeros(shape[0])
        if j < layers.depth:
            source = layers.weights[j]
            W[: source.shape[0], : source.shape[1]] = source
            if layers.biases:
                b[: source.shape[0]] = layers.biases[j]
        else:
            W[:k, :k] = np.eye(k)
        weights.append(W)
        biases.append(b)
    active = np.arange(len(shapes)) < layers.depth
    return Layers(tuple(weights), tuple(biases) if layers.biases else ()), active
