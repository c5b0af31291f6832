"""T13: steps to a target past the edge of stability."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import draw_agreement, make_figure
from implicit_accel.claims.estimators import median, share
from implicit_accel.claims.published.theory import (
    COHEN_2021,
    SOURCE,
    drawn,
    known_by,
    split,
    theory_problems,
    where,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.central import central_flow
from implicit_accel.theory.flow import Stack
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface

DEPTHS, FACTORS = (2, 3), (1.1, 1.4, 2.0, 3.0)
"""Learning rates, over the largest stable one."""
TARGETS = (0.3, 0.1, 0.03)
ALLOWANCE = 0.2
WINDOW = 25
"""Steps over which measured losses are averaged."""

WITHIN, AVERAGED = "first touches in the predicted range", "averaged loss: predicted over measured"


def cells(context: Context, problem: Problem, depth: int) -> pd.DataFrame:
    """A row for each rate, seed and target: steps that are predicted and measured on ℓ2.

    ``least`` and ``most`` are the predicted range of the first touch, ``touched`` is the measured
    one. ``averaged`` is the first step at which the mean loss of `WINDOW` steps is at the target.
    """
    config = SweepConfig(
        depths=(depth,), losses=(Loss(2),), learning_rates=(1.0,), records_per_decade=10**5,
        num_seeds=context.pick(1, 5, 10), num_steps=context.pick(100, 3000, 5000),
    )  # fmt: skip

    def make() -> pd.DataFrame:
        (model,) = predict(problem, replace(config, records_per_decade=150)).models
        edge = float(np.median(model.largest_rates))
        surface = make_surface(problem, Loss(2))
        stack = Stack(drawn(problem, config), surface.rotation)
        report, rows = context.reporter("central flows"), []
        factors = context.pick(FACTORS[:1], FACTORS, FACTORS)
        for number, factor in enumerate(factors):
            rate = float(f"{edge * factor:.4g}")
            for seed, initial in enumerate(stack.initial):
                report((number + seed / len(stack.initial)) / len(factors))
                lowest = min(TARGETS) * surface.zero_excess
                loss, theta = stack.traced(surface, initial)
                path = central_flow(loss, theta, rate, config.num_steps, until=lowest)
                for target in TARGETS:
                    level = target * surface.zero_excess
                    least, most = first_at(path.excess, level), first_at(path.averaged, level)
                    rows.append((factor, rate, seed, target, least, most))
        columns = ["factor", "rate", "seed", "target", "least", "most"]
        return pd.DataFrame(rows, columns=columns)

    table = context.table("central", known_by(problem, config, FACTORS, TARGETS), make)
    rates = tuple(dict.fromkeys(table["rate"]))
    results = context.sweep(problem, replace(config, learning_rates=rates))
    zero = float(results["zero_loss"][0] - results["optimum"][0])
    measured = []
    for row in table.to_dict("records"):
        curve = results["excess_loss"].values[0, rates.index(row["rate"]), int(row["seed"])]
        # Recorded are all of the first 10⁵ steps.
        curve = np.where(np.isfinite(curve), curve, np.inf)
        mean = np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")
        level = row["target"] * zero
        measured.append((first_at(curve, level), first_at(mean, level) + WINDOW // 2))
    touched, averaged = np.array(measured).T
    return table.assign(depth=depth, touched=touched, averaged=averaged)


def first_at(curve: np.ndarray, level: float) -> float:
    """The first index at or below a level; inf if there is none."""
    below = np.nonzero(curve <= level)[0]
    return float(below[0]) if below.size else math.inf


def run(context: Context) -> Found:
    """Rates past the edge at depths 2 and 3, on ℓ2."""
    runs = {
        name: pd.concat(
            [cells(context, problem, depth) for depth in context.pick(DEPTHS[:1], DEPTHS, DEPTHS)],
            ignore_index=True,
        )
        for name, problem in theory_problems(context).items()
    }
    figure, axes = make_figure(1, 1, title="Averaged loss past the edge of stability, ℓ2")
    both = pd.concat(runs.values(), ignore_index=True)
    series = {
        f"{factor:g} × edge": (rows["averaged"], rows["most"])
        for (factor,), rows in split(both, "factor")
    }
    draw_agreement(axes[0, 0], series, xlabel="steps measured", ylabel="steps predicted")
    return Found(
        runs=runs,
        tables={"Medians": medians(runs)},
        facts={"allowance": round(100 * ALLOWANCE), "window": WINDOW},
        figures={"agreement": figure},
    )


def medians(runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Median steps over seeds, a row for each problem, depth, factor and target."""
    rows = []
    for problem, table in runs.items():
        for (depth, factor, target), own in split(table, "depth", "factor", "target"):
            names = ("least", "most", "touched", "averaged")
            steps = {name: float(np.median(own[name])) for name in names}
            row = {"problem": problem, "depth": depth, "rate over the edge": factor}
            rows.append({**row, "target (%)": 100 * target, **steps})
    return pd.DataFrame(rows)


def within(table: pd.DataFrame, factor: float) -> Effect | None:
    """How often the first touch is in the predicted range, with an allowance at its ends."""
    own = where(table, table["factor"] == factor)
    if not len(own):
        return None
    touched, least, most = (own[name].to_numpy() for name in ("touched", "least", "most"))
    inside = (touched >= (1 - ALLOWANCE) * least) & (touched <= (1 + ALLOWANCE) * most)
    return share(inside, note=f"{len(own)} touches")


def averaged(table: pd.DataFrame, depth: int, factor: float) -> Effect | None:
    """The median of predicted over measured steps of averaged losses, where both get there."""
    own = where(table, (table["depth"] == depth) & (table["factor"] == factor))
    if not len(own):
        return None
    predicted, measured = own["most"].to_numpy(), own["averaged"].to_numpy()
    both = np.isfinite(predicted) & np.isfinite(measured)
    return median(predicted[both] / measured[both], note=f"{int(both.sum())} runs")


CLAIM = Claim(
    id="T13",
    is_theory=True,
    statement="Past the edge of stability, gradient descent on ℓ2 first touches a target between "
    "the steps at which the central flow's own and averaged losses reach it.",
    source=f"{SOURCE}; {COHEN_2021}; Cohen et al. 2024 (central flows)",
    run=run,
    valid="for full-batch gradient descent on ℓ2 that oscillates along one direction",
    measures=(
        Measure(WITHIN, within, {"factor": FACTORS}),
        Measure(AVERAGED, averaged, {"depth": DEPTHS, "factor": FACTORS}),
    ),
    checks=(
        Check(WITHIN, {"factor": 1.1}, low=80.0, closed=True),
        Check(WITHIN, {"factor": 1.4}, low=80.0, closed=True),
    ),
    minutes=6.0,
    paper_hours=1.0,
)
