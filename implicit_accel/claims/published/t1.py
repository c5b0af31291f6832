"""T1: predicted against measured steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import COLOURS, draw_agreement, make_figure
from implicit_accel.claims.estimators import level_of, resampled
from implicit_accel.claims.published.theory import (
    COHEN_2021,
    SOURCE,
    crossings,
    flows,
    split,
    theory_problems,
    where,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

TARGETS = (0.5, 0.1)


def run(context: Context) -> Found:
    """Steps to two targets of networks of several shapes, losses and rates."""
    exponents = context.pick((2.0, 4.0), (2.0, 3.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))
    cells = pd.concat([
        predictions(context, problem, p, name)
        for name, problem in theory_problems(context).items() for p in exponents
    ])  # fmt: skip
    error, steps = cells["error"].to_numpy(), cells["predicted"].to_numpy()
    groups = (["problem"], ["p"], ["target"], ["init", "depth", "width"])
    columns = {"predictions": "size", "median error (%)": median, "within 10 % (%)": within_10}
    return Found(
        runs={"all problems": cells},
        facts={
            "missed": int(np.sum(np.isinf(error))),
            "num_short": int(np.sum(steps < 30)),
            "short": within_10(error[steps < 30]),
            "long": within_10(error[steps >= 100]),
        },
        tables={
            f"Errors by {', '.join(by)}": cells.groupby(by)["error"].agg(**columns).reset_index()
            for by in groups
        },
        figures={"predicted_and_measured": draw(cells)},
    )  # fmt: skip


def predictions(context: Context, problem: Problem, p: float, name: str) -> pd.DataFrame:
    """Predicted and measured steps and the error in per cent, a row for each run and target.

    Runs are included if ηλ stays below 2 and the prediction is within the run's length. Measured
    steps and error are infinite where a run misses its target.
    """

    def grid(rates: tuple[float, ...]) -> SweepConfig:
        return SweepConfig(
            depths=context.pick((1, 2), (1, 2, 3, 4), (1, 2, 3, 4)),
            hidden_widths=context.pick((1,), (1, 10), (1, 10, 64)),
            inits=context.pick(("identity",), *[("near_zero", "identity", "orthogonal")] * 2),
            init_stds=(0.01,), losses=(Loss(p),), learning_rates=rates,
            num_seeds=context.pick(2, 3, 10), num_steps=context.pick(200, 5_000, 100_000),
        )  # fmt: skip

    predicted = flows(context, problem, grid((1.0,)), TARGETS)
    edges = 2 / predicted.loc[predicted["share"] == min(TARGETS), "sharpness"]
    low, high = float(edges.min()) / 4, float(edges.max())
    rates = tuple(float(f"{r:.4g}") for r in np.geomspace(low, high, context.pick(3, 7, 15)))
    config = grid(rates)
    results = context.sweep(problem, config)
    tables = []
    for (m, target), rows in split(predicted, "model", "share"):
        excess, level = results["excess_loss"].values[m], level_of(results, m, target)
        measured = crossings(results["step"].values, excess, level)
        model = config.models[m]
        tables += [
            pd.DataFrame({
                "problem": name, "p": p, "init": model.initialiser.name, "depth": model.depth,
                "width": model.hidden_widths[0] if model.hidden_widths else 0, "target": target,
                "seed": rows["seed"], "share of the edge": rate * rows["sharpness"] / 2,
                "predicted": rows["time"] / rate, "measured": measured[r],
            })
            for r, rate in enumerate(rates)
        ]  # fmt: skip
    cells = pd.concat(tables, ignore_index=True)
    with np.errstate(divide="ignore"):
        error = 100 * np.abs(cells["predicted"] / np.maximum(cells["measured"], 1e-300) - 1)
    cells["error"] = np.where(np.isfinite(cells["measured"]), error, np.inf)
    is_in_run = (cells["predicted"] > 0) & (cells["predicted"] <= config.num_steps)
    return where(cells, is_in_run & (cells["share of the edge"] < 1))


def median(errors: np.ndarray) -> float:
    """The median, also if some errors are infinite."""
    return float(np.quantile(errors, 0.5, method="inverted_cdf"))


def within_10(errors: np.ndarray) -> float:
    """The share of errors of at most 10 %, in per cent; NaN without errors."""
    return 100 * float(np.mean(errors <= 10)) if len(errors) else np.nan


def over_seeds(cells: pd.DataFrame, estimate: Callable[[np.ndarray], float]) -> Effect:
    """A statistic of the errors of all predictions, with its interval over seeds."""
    errors = [rows["error"].to_numpy() for _, rows in split(cells, "seed")]
    note = f"{len(cells):,} predictions"

    def of_seeds(seeds: np.ndarray) -> float:
        return estimate(np.concatenate([errors[i] for i in seeds]))

    return resampled(of_seeds, len(errors), unit=" %", note=note)


def draw(cells: pd.DataFrame) -> Figure:
    """Predicted against measured steps, and their ratio against the share of the edge."""
    figure, axes = make_figure(1, 2, title="Steps to a target, predicted by the gradient flow")
    left, right = axes[0]
    series = {f"ℓ{p:g}": rows for (p,), rows in split(cells, "p")}
    draw_agreement(
        left, {loss: (rows["measured"], rows["predicted"]) for loss, rows in series.items()},
        xlabel="steps measured", ylabel="steps predicted",
    )  # fmt: skip
    for colour, rows in zip(COLOURS, series.values(), strict=False):
        ratio = rows["predicted"] / rows["measured"]
        right.plot(rows["share of the edge"], ratio, ".", color=colour, alpha=0.4)
    right.axhline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    right.set(xlabel="largest ηλ before the target, over 2", ylabel="predicted over measured",
              ylim=(0.5, 1.5), xlim=(0, 1))  # fmt: skip
    return figure


CLAIM = Claim(
    id="T1",
    is_theory=True,
    statement="The gradient flow's time over the learning rate predicts the steps to a target.",
    source=f"{SOURCE}; {COHEN_2021}",
    run=run,
    valid="below the edge of stability; past it nothing is predicted",
    measures=(
        Measure("median error of the predicted steps", lambda cells: over_seeds(cells, median)),
        Measure("predictions within 10 %", lambda cells: over_seeds(cells, within_10)),
    ),
    checks=(
        Check("median error of the predicted steps", high=2.0),
        Check("predictions within 10 %", low=95.0),
    ),
    minutes=3.4,
    paper_hours=4.0,
)
