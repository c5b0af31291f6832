"""The rule's parts, the network, schedules and an oracle, all from the same weights: T9."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optax
import pandas as pd

import implicit_accel as ia
from implicit_accel.claims.context import Context
from implicit_accel.claims.published.rivals import SHARES_OF_STEP
from implicit_accel.claims.published.theory import (
    crossings,
    end_to_end_starts,
    flows,
    known_by,
    one_layer_task,
)
from implicit_accel.data.problems import Problem
from implicit_accel.intervals import ModelRuns
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.theory.oracle import scale_by_inverse_sharpness
from implicit_accel.theory.surface import make_surface

GD, RATE, PROJECTION, RULE, NETWORK, WARMUP, LINE_SEARCH, ORACLE = METHODS = (
    "gradient descent", "rate alone", "projection alone", "rule", "network", "warm-up",
    "line search", "oracle",
)  # fmt: skip
P = 4.0
TARGET = 0.1
FACTOR = 4.0
"""Rates range from the predicted edge of stability over this factor to the edge times it."""


def contest(context: Context, problem: Problem, depth: int) -> dict[str, Any]:
    """Trains each method from the network's end-to-end weights; returns what `reached` does."""
    longest = context.pick(300, 20_000, 300_000)
    base = SweepConfig(
        depths=(1,), losses=(Loss(P),), num_seeds=context.pick(2, 6, 20), num_steps=longest,
        learning_rates=(1.0,),
    )  # fmt: skip
    steps, rates = 0.0, {}
    for method, n in ((GD, 1), (NETWORK, depth)):
        table = flows(context, problem, replace(base, depths=(n,)), (TARGET,))
        edge = float(np.median(2 / table["sharpness"]))
        grid = np.geomspace(edge / FACTOR, FACTOR * edge, context.pick(3, 13, 37))
        rates[method] = tuple(float(f"{rate:.5g}") for rate in grid)
        # Long enough for the slowest seed at the lowest rate.
        times = np.nan_to_num(table["time"].to_numpy(float), nan=np.inf, posinf=np.inf)
        steps = max(steps, times.max() / (edge / FACTOR))
    # A warm-up allows higher rates than the first steps do.
    rates[WARMUP] = tuple(float(f"{FACTOR * rate:.5g}") for rate in rates[GD])
    rates[LINE_SEARCH] = SHARES_OF_STEP
    base = replace(base, num_steps=int(np.clip(1.5 * steps, 100, longest)))
    network = replace(base, depths=(depth,))
    starts = end_to_end_starts(problem, network)

    def rule(**switches: bool) -> Optimizer:
        return Optimizer("end_to_end", (("depth", float(depth)), *switches.items()))

    level = TARGET * make_surface(problem, Loss(P)).zero_excess
    found = {}
    for method, near, optimizer in (
        (GD, GD, Optimizer("sgd")), (RATE, NETWORK, rule(projection=False)),
        (PROJECTION, GD, rule(rate=False)), (RULE, NETWORK, rule()),
        (NETWORK, NETWORK, Optimizer("sgd")),
        (WARMUP, WARMUP, Optimizer("warmup")), (LINE_SEARCH, LINE_SEARCH, Optimizer("line_search")),
    ):  # fmt: skip
        config, initial = (network, None) if method == NETWORK else (base, starts)
        config = replace(config, learning_rates=rates[near], optimizers=(optimizer,))
        if method == LINE_SEARCH:  # a step costs some twenty times as much, and few are needed
            longest = context.pick(100, 2000, 20_000)
            config = replace(config, num_steps=min(config.num_steps, longest))
        results = context.sweep(problem, config, initial=initial)
        excess = results["excess_loss"].values[0]
        found[method] = reached(level, results["step"].values, excess, np.array(rates[near]))
    return found | {ORACLE: reached(level, *oracle(context, problem, network, starts))}


def oracle(
    context: Context, problem: Problem, config: SweepConfig, starts: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Steps and excess losses of one layer at the rate c/λ, for some values of c, and these."""
    shares = context.pick((1.0,), (0.5, 1.0, 1.5, 1.9), (0.5, 1.0, 1.5, 1.7, 1.9))
    steps = min(config.num_steps, context.pick(100, 8000, 30_000))

    def make() -> pd.DataFrame:
        task, excess, _ = one_layer_task(problem, Loss(P), starts[:, 0])
        scale = scale_by_inverse_sharpness(excess)
        runs = ia.sweep(
            task, axes={"learning_rate": shares, "seed": range(config.num_seeds)}, num_steps=steps,
            optimizer=lambda hp: optax.chain(
                scale, optax.scale_by_learning_rate(hp["learning_rate"])
            ),
        )  # fmt: skip
        curves = runs["excess_loss"].values.reshape(-1, runs.sizes["step"])
        columns = {str(i): curve for i, curve in enumerate(curves)}
        return pd.DataFrame({"step": runs["step"].values, **columns})

    table = context.table("oracle", known_by(problem, config, shares, steps), make)
    curves = table.drop(columns="step").to_numpy().T.reshape(len(shares), config.num_seeds, -1)
    return table["step"].to_numpy(), curves, np.array(shares)


def reached(
    level: float, steps: np.ndarray, excess: np.ndarray, rates: np.ndarray
) -> tuple[ModelRuns, tuple[np.ndarray, np.ndarray]]:
    """A method's runs to an excess loss, and the median seed's curve up to it at the best rate."""
    times = crossings(steps, excess, level)
    diverged = ~np.isfinite(times) & ~np.isfinite(excess[..., -1])
    runs = ModelRuns(rates, times, diverged, float(steps[-1]))
    rate = int(runs.best(runs.all_seeds)[0])
    seed = np.argsort(times[rate])[runs.num_seeds // 2]
    curve = np.where(steps <= 1.05 * times[rate, seed], excess[rate, seed], np.nan)
    return runs, (steps, curve[None])
