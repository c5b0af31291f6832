"""Wrong types and shapes of arrays are found in the tests."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from implicit_accel.intervals import ModelRuns, of_median
from implicit_accel.linear.end_to_end import end_to_end_gradient
from implicit_accel.linear.losses import Loss, optimum
from implicit_accel.linear.networks import Layers, predict
from implicit_accel.theory.surface import Point

RUNS = ModelRuns(np.ones(2), np.ones((2, 3)), np.zeros((2, 3), bool), 9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: of_median(np.ones((2, 3))),
        lambda: of_median(np.array(["1", "2"])),
        lambda: dataclasses.replace(RUNS, rates=np.ones(3)),
        lambda: dataclasses.replace(RUNS, diverged_before_target=np.zeros((2, 3))),
        lambda: RUNS.usable(np.arange(3)),
        lambda: optimum(Loss(2), np.ones((3, 2)), np.ones((4, 1))),
        lambda: predict(Layers((np.ones((1, 2)),)), np.ones(2)),
        lambda: end_to_end_gradient(jnp.ones((1, 2)), jnp.ones((2, 1)), 2),
        lambda: Point(np.ones(2), np.ones((3, 1, 4)), np.ones(2)),
    ],
)
def test_arrays_of_a_wrong_type_or_shape_are_found(call):
    with pytest.raises(TypeCheckError):
        call()
