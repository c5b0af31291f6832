"""Predictions as tables, level crossings and one-layer tasks, shared by the claims of theory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.claims.context import Context
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface

SOURCE = "This project's prediction"
COHEN_2021 = "Cohen, Kaur, Li, Kolter & Talwalkar 2021 (edge of stability)"

# Part of the name of stored predictions: raise it when their values change.
VERSION = 2


def flows(
    context: Context, problem: Problem, config: SweepConfig, shares: Sequence[float]
) -> pd.DataFrame:
    """Gradient-flow times to some targets, and the largest sharpness on the way.

    The flows end at the lowest target or at the end of the runs.

    Args:
        context: Keeps the table.
        problem: What is fitted.
        config: The grid; its learning rates and target have no influence.
        shares: Targets, as shares of the zero predictor's excess loss.

    Returns:
        A row for each model (by number), seed and share: the flow's ``time`` to it (inf: not
        within the runs' steps at any stable rate) and the largest ``sharpness`` up to there.
    """
    config = replace(
        config, target=Target(min(shares), relative=True), learning_rates=(1.0,), record=()
    )

    def make() -> pd.DataFrame:
        rows = []
        predicted = predict(
            problem, config, whichever_first=True, progress=context.reporter("flows")
        )
        for m, found in enumerate(predicted.models):
            for seed, path in enumerate(found.paths):
                for share in shares:
                    time = path.time_to(found.target * share / min(shares))
                    sharpness = path.largest_sharpness(time)
                    rows.append((m, seed, share, time, sharpness))
        return pd.DataFrame(rows, columns=["model", "seed", "share", "time", "sharpness"])

    return context.table("flows", known_by(problem, config, tuple(shares)), make)


def known_by(problem: Problem, config: SweepConfig, *parts: object) -> tuple[object, ...]:
    """What a table of predictions for a grid depends on, for `Context.table`."""
    return (LinearSweep(problem, config).identity.code(), *parts, VERSION)


def theory_problems(context: Context) -> dict[str, Problem]:
    """The problems on which theory is tested, by name: one at smoke scale, all at paper scale."""
    return dict(list(context.problems().items())[: context.pick(1, 2, None)])


def where(table: pd.DataFrame, chosen: Any) -> pd.DataFrame:
    """The rows at which a Boolean array is true."""
    return table.iloc[np.flatnonzero(np.asarray(chosen, bool))].reset_index(drop=True)


def split(table: pd.DataFrame, *by: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows grouped by some columns, in the order of first appearance."""
    for key, rows in table.groupby(list(by), sort=False):
        values: Any = key
        yield tuple(values), rows.reset_index(drop=True)


def crossings(steps: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """The steps at which curves first reach a level, interpolated between recorded steps.

    Args:
        steps: (T,) recorded steps.
        values: (…, T) positive values; not finite after a divergence.
        level: Above 0.

    Returns:
        (…) steps, interpolated in the logarithm of the values; inf where the level is not reached.
    """
    below = values <= level
    first = np.argmax(below, axis=-1)
    before = np.maximum(first - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values / level)
        high, low = (np.take_along_axis(logs, i[..., None], -1)[..., 0] for i in (before, first))
        share = np.where(high > low, high / (high - low), 0.0)
    found = steps[before] + np.clip(np.nan_to_num(share), 0, 1) * (steps[first] - steps[before])
    return np.where(below.any(axis=-1), np.where(first == 0, steps[0], found), np.inf)


def end_to_end_starts(problem: Problem, config: SweepConfig) -> np.ndarray:
    """(seed, k, d) initial end-to-end matrices of a grid of one model."""
    products = []
    for layers in drawn(problem, config):
        product = layers.weights[0]
        for W in layers.weights[1:]:
            product = W @ product
        products.append(product)
    return np.stack(products)


def drawn(problem: Problem, config: SweepConfig) -> list[linear.Layers]:
    """The initial networks of a grid of one model, by seed."""
    (model,) = config.models
    return [
        model.initialiser.draw(
            problem.num_features, model.hidden_widths, problem.num_outputs, bias=False, seed=seed
        )
        for seed in config.seeds
    ]


def one_layer_task(problem: Problem, loss: Loss, starts: np.ndarray) -> tuple[LossTask, Any, float]:
    """One layer on a problem with one output, as a task for custom optimizers.

    Args:
        problem: What is fitted.
        loss: ℓp.
        starts: (seed, d) initial weights of seeds 0, 1, …

    Returns:
        The task, whose loss is ``L − L*`` of a vector w in a rotated basis; the loss as a function
        of w; and the zero predictor's excess loss.
    """
    surface = make_surface(problem, loss)
    starts = starts if surface.rotation is None else starts @ surface.rotation

    def excess(w: jax.Array) -> jax.Array:
        return surface.traced(w[None])

    def init(seed: int) -> np.ndarray:
        return starts[seed]

    task = ia.from_loss(
        lambda w, batch: excess(w),  # noqa: ARG005 - the surface has the rows
        init=init, data=np.zeros((1, 1)), reference_loss=surface.zero_excess, name="one layer",
    )  # fmt: skip
    return task, excess, surface.zero_excess
