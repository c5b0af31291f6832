"""Grids in blocks of a few runs and many segments, some of whose runs diverge, soon or later.

What a run's results must not depend on is tested with these: their blocks are packed and freed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from models import MODELS
from oracles import random_problem

import implicit_accel as ia
from implicit_accel.engine.chunks import Chunk, ChunkState, Group, chunks_of
from implicit_accel.engine.train import Trainer
from implicit_accel.experiment import Axes, Experiment, Identity, Plan
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.tasks.grid import TaskSweep

BLOCK = 3
# Of a step of one run, so that there are many segments; the programs do far less.
OPERATIONS = 1e9


class SmallBlocks(Experiment):
    """An experiment whose groups have small blocks and short segments."""

    def __init__(self, inner: Experiment, block: int = BLOCK, operations: float = OPERATIONS):
        self.inner, self.block, self.operations = inner, block, operations
        self.num_steps, self.precision, self.rates = inner.num_steps, inner.precision, inner.rates

    @property
    def axes(self) -> Axes:
        return self.inner.axes

    @property
    def identity(self) -> Identity:
        return self.inner.identity

    @property
    def recording(self):
        return self.inner.recording

    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:
        plan = self.inner.plan(axes, platform=platform, planned_steps=planned_steps)
        groups = [
            dataclasses.replace(group, largest_block=self.block, operations=self.operations)
            for group in plan.groups
        ]
        return dataclasses.replace(plan, groups=tuple(groups))

    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        return self.inner.label(arrays)


def rates(low: float, high: float) -> tuple[float, ...]:
    """Learning rates in an order in which runs that diverge are among those that do not."""
    return tuple(np.geomspace(low, high, 8).reshape(2, 4).T.ravel())


def linear(**changes: Any) -> LinearSweep:
    """l2 and l4, by gradient descent, on rows of which some are held out."""
    rng = np.random.default_rng(3)
    problem = random_problem(rng)
    held_out = rng.standard_normal((5, 4)), rng.standard_normal((5, 1))
    problem = dataclasses.replace(
        problem, held_out_features=held_out[0], held_out_targets=held_out[1]
    )
    settings: dict[str, Any] = {
        "depths": (1, 3), "hidden_widths": (2,), "init_stds": (0.3,),
        "losses": (ia.linear.Loss(2), ia.linear.Loss(4)), "optimizers": (ia.Optimizer("sgd"),),
        "learning_rates": rates(0.1, 1.6), "num_seeds": 3, "num_steps": 120,
    }  # fmt: skip
    return LinearSweep(problem, ia.linear.SweepConfig(**(settings | changes)))


def relu() -> LinearSweep:
    return linear(
        activation="relu", losses=(ia.linear.Loss(4),), optimizers=(ia.Optimizer("momentum"),),
        precision="float64", record=("gradient_norm",), bias=True,
        learning_rates=rates(0.01, 0.3),
    )  # fmt: skip


def mini_batches() -> TaskSweep:
    """A tanh network that the program initialises, whose step sees some rows."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((90, 4))
    y = np.sin(2 * X[:, 0]) + X[:, 1]

    def init(key, hp):
        first, second = jax.random.split(key)
        W1 = hp["scale"] * jax.random.normal(first, (16, 4))
        return {"W1": W1, "W2": jax.random.normal(second, (16,)) / 4}

    def loss(params, batch):
        features, labels = batch
        return jnp.mean((jnp.tanh(features @ params["W1"].T) @ params["W2"] - labels) ** 2)

    return TaskSweep(
        ia.from_loss(loss, init=init, data=(X, y)), optimizer=ia.Optimizer("sgd"),
        axes={"learning_rate": rates(0.05, 1), "seed": range(3), "scale": (0.5, 1.0)},
        num_steps=120, batch_size=20, precision="float32",
    )  # fmt: skip


def dropout() -> TaskSweep:
    """An Equinox module which the host initialises, with dropout and mini-batches."""
    task, _, axes, batch_size = MODELS["equinox"]()
    return TaskSweep(
        task, axes={"learning_rate": rates(0.1, 5), "seed": range(3), **axes},
        optimizer=lambda hp: optax.sgd(hp["learning_rate"], hp["b1"]),
        num_steps=120, batch_size=batch_size, precision="float64",
    )  # fmt: skip


# Initial parameters from the host and from the program, full batches and mini-batches, dropout.
CASES = {
    "linear": linear, "relu": relu, "mini-batches": mini_batches, "dropout": dropout
}  # fmt: skip


class Case:
    """A grid, cut into chunks, each of which is trained alone, on two devices.

    Attributes:
        segments: After each segment the states of all chunks.
    """

    def __init__(self, name: str) -> None:
        self.experiment = SmallBlocks(CASES[name]())
        (self.round,) = self.experiment.rounds_after(())
        self.plan = self.experiment.plan_round(self.round, "cpu")
        self.groups = self.plan.groups
        self.counts = tuple(3 + g % 2 for g in range(len(self.groups)))
        self.chunks = chunks_of(self.counts)
        alone = self.trainer(2, [[chunk] for chunk in self.chunks])
        found = [self.train(alone, [chunk]) for chunk in self.chunks]
        self.segments = [functools.reduce(dict.__or__, states) for states in zip(*found)]  # noqa: B905

    @property
    def last(self) -> dict[Chunk, ChunkState]:
        return self.segments[-1]

    def trainer(
        self,
        num_devices: int,
        calls: Sequence[Sequence[Chunk]],
        groups: Sequence[Group] | None = None,
    ) -> Trainer:
        return Trainer(
            groups or self.groups, self.counts, calls, num_steps=self.experiment.num_steps,
            recording=self.experiment.recording, precision=self.experiment.precision,
            devices=jax.local_devices()[:num_devices],
        )  # fmt: skip

    @staticmethod
    def train(
        trainer: Trainer,
        chunks: Iterable[Chunk],
        reached: Mapping[Chunk, ChunkState] | None = None,
    ) -> list[dict[Chunk, ChunkState]]:
        """The chunks' states after each segment."""
        # However slow the machine is, nothing is reported within one.
        with mock.patch("implicit_accel.engine.train._REPORT_AFTER", math.inf):
            return [
                copy.deepcopy(segment.states())
                for segment in trainer.train(list(chunks), reached or {})
            ]


@functools.cache
def case(name: str) -> Case:
    return Case(name)


def assert_same_bits(
    some: Mapping[Chunk, ChunkState], others: Mapping[Chunk, ChunkState], *, leaves: bool = True
) -> None:
    """Whether states are equal to the bit, whatever they cost."""
    assert some.keys() == others.keys()
    for chunk, a in some.items():
        b = others[chunk]
        assert (a.num_steps, a.next_step) == (b.num_steps, b.next_step)
        assert a.members.tolist() == b.members.tolist()
        assert a.result.arrays.keys() == b.result.arrays.keys()
        for name, values in a.result.arrays.items():
            assert values.tobytes() == b.result.arrays[name].tobytes(), (chunk, name)
        if leaves:
            assert len(a.leaves) == len(b.leaves) > 0
            for x, y in zip(a.leaves, b.leaves, strict=True):
                assert x.tobytes() == y.tobytes(), chunk
