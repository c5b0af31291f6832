"""What the claims of theory share: predictions as tables, crossings of levels, one layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd

import implicit_accel as ia
from implicit_accel.claims.context import Context
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import Model, SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface

SOURCE = "This project's prediction"
COHEN_2021 = "Cohen, Kaur, Li, Kolter & Talwalkar 2021 (edge of stability)"

# Part of what stored predictions are known by: raise it when they come out otherwise.
VERSION = 2


def flows(
    lab: Context, problem: Problem, config: SweepConfig, shares: Sequence[float]
) -> pd.DataFrame:
    """The gradient flows of a grid's models, to the lowest of some targets or the runs' end.

    Args:
        lab: Where the table is kept.
        problem: What is fitted.
        config: The grid; its learning rates and target do not matter.
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
        predicted = predict(problem, config, whichever_first=True, progress=lab.tell("flows"))
        for m, found in enumerate(predicted.models):
            for seed, path in enumerate(found.paths):
                for share in shares:
                    time = path.time_to(found.target * share / min(shares))
                    sharpness = path.largest_sharpness(time)
                    rows.append((m, seed, share, time, sharpness))
        return pd.DataFrame(rows, columns=["model", "seed", "share", "time", "sharpness"])

    return lab.table("flows", known_by(problem, config, tuple(shares)), make)


def known_by(problem: Problem, config: SweepConfig, *parts: object) -> tuple[object, ...]:
    """What a table depends on that theory makes for a grid."""
    return (LinearSweep(problem, config).identity.code(), *parts, VERSION)


def theory_problems(lab: Context) -> dict[str, Problem]:
    """The problems that theory is held against: the real data's, where they are here.

    One shows that it works; at the papers' lengths it is held against the stand-in as well.
    """
    return dict(list(lab.problems().items())[: lab.pick(1, 2, None)])


def where(table: pd.DataFrame, chosen: Any) -> pd.DataFrame:
    """The rows for which something holds."""
    return table.iloc[np.flatnonzero(np.asarray(chosen, bool))].reset_index(drop=True)


def split(table: pd.DataFrame, *by: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows by the values of some columns, in the order of their first appearance."""
    for key, rows in table.groupby(list(by), sort=False):
        values: Any = key
        yield tuple(values), rows.reset_index(drop=True)


def shape_of(model: Model) -> str:
    """A model's start, depth and width, in words."""
    init, std = model.initialiser.key
    start = init.replace("_", "-") + ("" if std is None else f" {std:g}")
    width = f", width {model.hidden_widths[0]}" if model.hidden_widths else ""
    return f"depth {model.depth}{width}, {start}"


def crossings(steps: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """When curves first come down to a level, between recorded steps too.

    Args:
        steps: (T,) recorded steps.
        values: (…, T) above 0; not finite from a divergence on.
        level: Above 0.

    Returns:
        (…) steps, by interpolation of the logarithm; inf where a curve does not.
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
    """(seed, k, d) end-to-end matrices that a grid of one model starts from."""
    products = []
    for layers in drawn(problem, config):
        product = layers.weights[0]
        for W in layers.weights[1:]:
            product = W @ product
        products.append(product)
    return np.stack(products)


def drawn(problem: Problem, config: SweepConfig) -> list[ia.Layers]:
    """The networks that a grid of one model starts from, by seed."""
    (model,) = config.models
    return [
        model.initialiser.draw(
            problem.num_features, model.hidden_widths, problem.num_outputs, bias=False, seed=seed
        )
        for seed in config.seeds
    ]


def one_layer_task(problem: Problem, loss: Loss, starts: np.ndarray) -> tuple[LossTask, Any, float]:
    """One layer on a problem with one output, for a rule of one's own.

    Args:
        problem: What is fitted.
        loss: ℓp.
        starts: (seed, d) initial weights, by seed from 0 on.

    Returns:
        A task whose loss is ``L − L*``, over vectors w in a basis of its own; the loss as a
        function of w alone; and the zero predictor's excess loss.
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
