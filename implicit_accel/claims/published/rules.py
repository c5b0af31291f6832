"""The end-to-end rule that knows what its network conserves: what T5 shows, and P1 uses."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import implicit_accel as ia
from implicit_accel.claims.context import Context
from implicit_accel.claims.published.theory import (
    drawn,
    end_to_end_starts,
    known_by,
    one_layer_task,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig


def conserved(problem: Problem, config: SweepConfig) -> np.ndarray:
    """(seed, N − 1) the differences ``a_j² − ‖w_1‖²`` of networks of width 1."""
    found = []
    for layers in drawn(problem, config):
        first = float(np.sum(np.square(layers.weights[0])))
        found.append([float(W.item()) ** 2 - first for W in layers.weights[1:]])
    return np.array(found)


def _curves(
    problem: Problem, config: SweepConfig, differences: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and (seed, step) excess losses of the rule with these conserved differences."""
    (model,) = config.models
    starts = end_to_end_starts(problem, config)[:, 0]
    task, _, _ = one_layer_task(problem, model.loss, starts)
    table = np.asarray(differences)

    def rule(hp: Any) -> optax.GradientTransformation:
        c = jnp.asarray(table)[hp["seed"]]
        return optax.chain(
            ia.scale_by_unbalanced_end_to_end(c), optax.scale_by_learning_rate(hp["learning_rate"])
        )

    runs = ia.sweep(
        task, axes={"learning_rate": config.learning_rates, "seed": range(config.num_seeds)},
        optimizer=rule, num_steps=config.num_steps, precision="float64",
    )  # fmt: skip
    return runs["step"].values, runs["excess_loss"].values[0]


def rule_curves(
    lab: Context, problem: Problem, config: SweepConfig, *, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The end-to-end rule on one layer, from where networks of width 1 start; kept as a table.

    Args:
        lab: Where the table is kept.
        problem: What is fitted.
        config: The networks' grid, of one model and one learning rate; the rule trains in float64.
        balanced: Whether it is the paper's rule, which takes the start for balanced, or the one
            that knows the conserved differences.

    Returns:
        Steps, and (seed, step) excess losses.
    """
    differences = conserved(problem, config)
    differences = 0 * differences if balanced else differences

    def make() -> pd.DataFrame:
        steps, curves = _curves(problem, config, differences)
        return pd.DataFrame({"step": steps, **{str(s): c for s, c in enumerate(curves)}})

    table = lab.table("rule", known_by(problem, config, balanced), make)
    return table["step"].to_numpy(), table.drop(columns="step").to_numpy().T
