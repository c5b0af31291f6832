"""The one entry: a grid of runs in, labelled results out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import xarray as xr

from implicit_accel.data.problems import Problem
from implicit_accel.engine.train import Device, Timing, Training
from implicit_accel.experiment import Experiment, assemble
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.sweep import LinearSweep

Progress = Callable[[int, int], None]


def run(
    experiment: Experiment,
    *,
    devices: Sequence[Device] | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, Timing]:
    """Trains an experiment, in one compiled program."""
    devices = list(jax.local_devices() if devices is None else devices)
    plan = experiment.plan(
        experiment.axes, platform=devices[0].platform, planned_steps=experiment.num_steps
    )
    training = Training(
        plan.groups,
        num_steps=experiment.num_steps,
        recording=experiment.recording,
        precision=experiment.precision,
        devices=devices,
        memory_limit=memory_limit,
    )
    for segment in training.segments():
        if progress is not None:
            progress(segment.done, segment.total)
    arrays = assemble(experiment.axes, [(plan, training.results)])
    return experiment.label(arrays), training.timing


def run_sweep(problem: Problem, config: SweepConfig, **options: Any) -> tuple[xr.Dataset, Timing]:
    """Trains a grid of deep linear networks on a problem."""
    return run(LinearSweep(problem, config), **options)
