"""Deep linear (and ReLU) networks as a task for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from implicit_accel.engine.step import Evaluation, Task, Values
from implicit_accel.linear.networks import Layers
from implicit_accel.linear.objectives import Data, Objective
from implicit_accel.linear.planning import step_operations


@dataclass(frozen=True)
class LinearTask(Task):
    """Networks of one padded architecture under one objective.

    A run's hyper-parameters are, beside the optimizer's ``learning_rate`` and ``weight_decay``,
    ``active``, (N,) booleans, False for the identity layers that pad a shallower network, and
    ``widths``, (N + 1,) the true sizes of the layers' inputs and outputs.

    Attributes:
        objective: What is minimised.
        shapes: Layer shapes (h_j, h_{j−1}), padded.
        bias: Whether the networks have biases.
        is_padded: Whether any network is smaller than the shapes.
        is_narrower: Whether any is narrower in a layer that it has, so that parts of layers are
            frozen, and not only whole layers.
        has_held_out: Whether the data have held-out rows.
    """

    objective: Objective
    shapes: tuple[tuple[int, int], ...]
    bias: bool
    is_padded: bool
    is_narrower: bool = True
    has_held_out: bool = False

    @override
    def evaluate(self, params: Layers, batch: Data, hp: Values, key: Any) -> Evaluation:
        loss, excess, gradient = self.objective.value_and_grad(params, batch, hp["active"])
        return Evaluation(loss, gradient, excess, {})

    @override
    def reference_loss(self, data: Data) -> Any:
        """Loss of the zero predictor."""
        return data.zero_loss

    @override
    def optimum(self, data: Data) -> Any:
        return data.offset

    @override
    def held_out_loss(self, params: Layers, data: Data, hp: Values) -> Any:
        return self.objective.held_out_loss(params, data, hp["active"])

    @override
    def trainable(self, hp: Values) -> Layers | None:
        """Booleans in the shape of the layers, False for padding."""
        if not self.is_padded:
            return None
        weights, biases = [], []
        for j, (out, inputs) in enumerate(self.shapes):
            if not self.is_narrower:
                weights.append(jnp.broadcast_to(hp["active"][j], (out, inputs)))
                biases.append(jnp.broadcast_to(hp["active"][j], (out,)))
                continue
            row = hp["active"][j] & (jnp.arange(out) < hp["widths"][j + 1])
            weights.append(row[:, None] & (jnp.arange(inputs) < hp["widths"][j]))
            biases.append(row)
        return Layers(tuple(weights), tuple(biases) if self.bias else ())

    @property
    def layers(self) -> Layers:
        """Arrays of the parameters' shapes."""
        weights = tuple(jax.ShapeDtypeStruct(s, np.float64) for s in self.shapes)
        biases = tuple(jax.ShapeDtypeStruct(s[:1], np.float64) for s in self.shapes)
        return Layers(weights, biases if self.bias else ())

    def operations(self, data: Data) -> int:
        """About how many floating-point operations a step of one run takes."""
        return step_operations(
            num_parameters=sum(a * b for a, b in self.shapes),
            # A product with a form's matrix is one instead of two with the rows.
            rows_size=data.rows.size + data.moments.size // (2 * len(data.targets)),
            num_outputs=data.targets.shape[0],
            rows_per_step=self.objective.rows_per_step(len(data.rows)),
        )


def padded_widths(shape: Sequence[tuple[int, int]], num_layers: int) -> np.ndarray:
    """(num_layers + 1,) sizes of a network's layers, its outputs' number repeated at the end.

    Args:
        shape: The network's own layer shapes.
        num_layers: Layers of the network that it is padded to.
    """
    sizes = [shape[0][1], *(out for out, _ in shape)]
    return np.array(sizes + [sizes[-1]] * (num_layers + 1 - len(sizes)), np.int32)
