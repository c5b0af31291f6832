"""Wrong types and shapes of arrays are found in the tests."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError, jaxtyped
from oracles import random_layers, random_problem
from typechecking import check

from implicit_accel.intervals import ModelRuns, of_median
from implicit_accel.linear.end_to_end import end_to_end_gradient
from implicit_accel.linear.losses import Loss, optimum
from implicit_accel.linear.networks import Layers, predict
from implicit_accel.theory import flow, surface
from implicit_accel.theory.central import CentralPath

ONES = np.ones(3)
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
        lambda: CentralPath(ONES, ONES, ONES, ONES, np.ones(2)),
    ],
)
def test_arrays_of_a_wrong_type_or_shape_are_found(call):
    with pytest.raises(TypeCheckError):
        call()


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_the_arrays_of_a_flow_have_the_annotated_shapes(rng, monkeypatch, p, bias):
    for owner in (flow.Stack, flow.Path, surface.Point, surface._Diagonal, surface._Rows):
        for name, function in list(vars(owner).items()):
            if inspect.isfunction(function):
                monkeypatch.setattr(owner, name, jaxtyped(function, typechecker=check))
    problem = random_problem(rng, n=20, d=4, k=2)
    networks = [random_layers(rng, 4, (3,), 2, bias=bias) for _ in range(2)]
    ground = surface.make_surface(problem, Loss(p), bias=bias)
    stack = flow.Stack(networks, ground.rotation)
    enough = flow.Enough(0.9 * ground.zero_excess, 10)
    for path in flow.follow(stack, ground, enough):
        assert path.excess_at(path.time) == pytest.approx(path.excess)
    with pytest.raises(TypeCheckError):
        ground.at(stack.end_to_end(stack.initial)[:, 0])
    with pytest.raises(TypeCheckError):
        stack.gradient(stack.initial, np.ones((1, 2, 3)))
