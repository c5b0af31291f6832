"""Observables of deep linear networks, whose parameters are `Layers`.

They are functions of the layers, without data. Each costs about as much as the products of
neighbouring layers that it computes, for thin networks much less than a training step. Padded
networks (see `networks.pad`) give the same values as the networks in them, up to rounding.

Biases are ignored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from implicit_accel import observables
from implicit_accel.eigenvalues import safe_norm
from implicit_accel.linear.networks import end_to_end
from implicit_accel.observables import Entry, Point
from implicit_accel.results import by_model
from implicit_accel.theory.balance import balancedness


def end_to_end_norm(point: Point) -> Float[jax.Array, ""]:
    """``‖W_e‖_F`` with ``W_e = W_N ⋯ W_1``; Arora, Cohen & Hazan (2018)."""
    return safe_norm(_end_to_end(point))


def imbalance(point: Point) -> Float[jax.Array, ""]:
    """``max_j ‖W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ‖_F``, 0 for a single layer; see `balancedness`."""
    return _balancedness(point)[0]


def layer_norm(point: Point) -> Float[jax.Array, ""]:
    """``min_j ‖W_j W_jᵀ‖_F``, what to compare the imbalance with; see `balancedness`."""
    return _balancedness(point)[1]


def alignment(point: Point) -> Float[jax.Array, ""]:
    """Cosine ``⟨W_e, W*⟩_F / (‖W_e‖_F ‖W*‖_F)`` with the optimum's matrix, 0 if either is zero.

    W* is ``point.data.optimum``, (k, d), in the basis of W_1's columns.
    """
    return jnp.sum(_unit(_end_to_end(point)) * _unit(jnp.asarray(point.data.optimum)))


def _end_to_end(point: Point) -> jax.Array:
    return end_to_end(point.parameters)[0]


def _balancedness(point: Point) -> tuple[jax.Array, jax.Array]:
    # A difference of products: it needs the bits that accelerators drop by default.
    with jax.default_matmul_precision("highest"):
        return balancedness(point.parameters, point.hyper["active"])


def _unit(W: jax.Array) -> jax.Array:
    norm = safe_norm(W)
    return W / jnp.where(norm == 0, 1, norm)


# Losses are always recorded.
_RECORDED = ("loss", "excess_loss", "held_out_loss")

OBSERVABLES: dict[str, Entry] = {
    **{name: e for name, e in observables.OBSERVABLES.items() if name not in _RECORDED},
    "end_to_end_norm": Entry(end_to_end_norm, "norm of the end-to-end matrix"),
    "imbalance": Entry(imbalance, "largest imbalance of neighbouring layers"),
    "layer_norm": Entry(layer_norm, "smallest norm of a layer's W W^T"),
    "alignment": Entry(alignment, "cosine between the end-to-end matrix and the optimum's"),
}

NORM, EFFECTIVE_RATE = "end_to_end_norm", "effective_learning_rate"


def has_effective_rate(results: xr.Dataset) -> bool:
    """Whether the end-to-end matrices of some results have an effective learning rate.

    These are deep linear networks of one output, trained by gradient descent. Other optimizers
    scale steps by their own state, and several outputs have a matrix of rates.
    """
    runs = by_model(results)
    return bool(
        is_deep_linear(runs)
        and int(runs.attrs.get("num_outputs", 1)) == 1
        and (runs["optimizer"] == "sgd").all()
        and np.isfinite(runs["learning_rate"]).all()
    )


def is_deep_linear(results: xr.Dataset) -> bool:
    """Whether results are those of linear networks, one of them with several layers."""
    runs = by_model(results)
    return bool(
        "axes" not in runs.attrs
        and runs.attrs.get("activation", "identity") == "identity"
        and (runs["depth"] > 1).any()
    )


def effective_rate(runs: xr.Dataset) -> xr.DataArray:
    """``η ‖W_e‖^(2 − 2/N)``, by which gradient flow of balanced layers moves the end-to-end matrix.

    Arora, Cohen & Hazan (2018), claim 2; for a single layer it is η. Along W_e it is N times that.

    Args:
        runs: Results by model, with recorded norms of the end-to-end matrix.

    Returns:
        The dimensions of the norm.
    """
    rate = runs["learning_rate"] * runs[NORM] ** (2 - 2 / runs["depth"])
    return rate.assign_attrs(long_name="effective learning rate η‖w‖^(2 − 2/N)")
