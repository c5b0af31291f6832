"""The end-to-end rule on one layer, with and without its network's imbalance: T5's and P1's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.claims.context import Context
from implicit_accel.claims.published.theory import (
    crossings,
    drawn,
    end_to_end_starts,
    known_by,
    one_layer_task,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.optimizers import Optimizer


@dataclass(frozen=True)
class Pair:
    """Networks and a rule on one layer that is to emulate them, from the same matrices.

    Attributes:
        steps: (T,) recorded steps.
        network: (seed, T) excess losses.
        rule: (seed, T) the rule's.
        zero_excess: The zero predictor's excess loss.
    """

    steps: np.ndarray
    network: np.ndarray
    rule: np.ndarray
    zero_excess: float

    def to_share(self, share: float) -> np.ndarray:
        """(2, seed) steps of the network and of the rule to a share of the zero excess loss."""
        level = share * self.zero_excess
        return np.stack([crossings(self.steps, c, level) for c in (self.network, self.rule)])

    def log_ratio(self) -> np.ndarray:
        """(seed, T) the decimal logarithm of the losses' ratio; inf where either diverged."""
        least = 1e-9 * self.zero_excess  # below it there is rounding alone
        with np.errstate(invalid="ignore"):
            logs = [np.log10(np.maximum(c, least)) for c in (self.network, self.rule)]
            return np.where(np.isfinite(logs[0]) & np.isfinite(logs[1]), logs[0] - logs[1], np.inf)


def ratios(network: np.ndarray, rule: np.ndarray) -> np.ndarray:
    """(seed,) the network's steps over the rule's; no seed is left out.

    inf where the network misses the target, 0 where only the rule does. Where both do, nothing
    shows that they coincide, and the seed counts against it. 1 where both are there initially.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where((network == 0) & (rule == 0), 1.0, network / rule)
    return np.where(np.isfinite(network), np.nan_to_num(found, nan=np.inf, posinf=np.inf), np.inf)


def emulated(context: Context, problem: Problem, config: SweepConfig) -> xr.Dataset:
    """The paper's rule on one layer, from the end-to-end matrices that a network starts from.

    Args:
        context: Where it runs.
        problem: What is fitted.
        config: The network's grid, of one model.

    Returns:
        Results of one layer, over the grid's rates and seeds.
    """
    (model,) = config.models
    optimizer = Optimizer("end_to_end", (("depth", float(model.depth)),))
    rule = replace(config, depths=(1,), hidden_widths=(1,), optimizers=(optimizer,))
    return context.sweep(problem, rule, initial=end_to_end_starts(problem, config))


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
            linear.scale_by_unbalanced_end_to_end(c),
            optax.scale_by_learning_rate(hp["learning_rate"]),
        )

    runs = ia.sweep(
        task, axes={"learning_rate": config.learning_rates, "seed": range(config.num_seeds)},
        optimizer=rule, num_steps=config.num_steps, precision="float64",
    )  # fmt: skip
    return runs["step"].values, runs["excess_loss"].values[0]


def rule_curves(
    context: Context, problem: Problem, config: SweepConfig, *, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The end-to-end rule on one layer, from networks of width 1; kept as a table.

    Args:
        context: Where the table is kept.
        problem: What is fitted.
        config: The networks' grid, of one model and one learning rate; the rule trains in float64.
        balanced: Whether it is the paper's rule, which supposes balance, or the one with the
            conserved differences.

    Returns:
        Steps, and (seed, step) excess losses.
    """
    differences = conserved(problem, config)
    differences = 0 * differences if balanced else differences

    def make() -> pd.DataFrame:
        steps, curves = _curves(problem, config, differences)
        return pd.DataFrame({"step": steps, **{str(s): c for s, c in enumerate(curves)}})

    table = context.table("rule", known_by(problem, config, balanced), make)
    return table["step"].to_numpy(), table.drop(columns="step").to_numpy().T
