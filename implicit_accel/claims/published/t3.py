"""T3: when a learning rate becomes unstable, and what happens then."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key
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
from implicit_accel.plotting import plot_curves
from implicit_accel.theory.central import central_flow
from implicit_accel.theory.flow import Stack
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface


def run(context: Context) -> Found:
    """Rates about the edge of stability: the step of instability, divergence, averaged losses."""
    problems = theory_problems(context)
    cells = pd.concat([
        runs_about_the_edge(context, problem, p, depth).assign(problem=name, p=p, depth=depth)
        for name, problem in problems.items()
        for p in context.pick((2.0,), (2.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))
        for depth in context.pick((2,), (2, 3), (2, 3, 4))
    ])  # fmt: skip
    unstable = where(cells, np.isfinite(cells["predicted"]) & (cells["predicted"] > 0))
    steps = [
        median((rows["measured"] / rows["predicted"]).to_numpy(), note=f"{len(rows)} runs").keyed(
            Key.of("step of instability", problem=problem, p=p, depth=depth)
        )
        for (problem, p, depth), rows in split(unstable, "problem", "p", "depth")
    ]
    diverged = where(unstable, np.isfinite(unstable["diverged"]))
    delay = median((diverged["diverged"] / diverged["predicted"]).to_numpy())
    figure, averaged = averaged_losses(context, *next(iter(problems.items())))
    return Found(
        effects=(*steps, *correct_fates(unstable), delay.keyed(Key.of("step of divergence")),
                 *averaged),
        facts={"num_unstable": len(unstable)},
        figures={"instability": draw(unstable), "central_flow": figure},
    )  # fmt: skip


def runs_about_the_edge(context: Context, problem: Problem, p: float, depth: int) -> pd.DataFrame:
    """Runs at rates from half to twice the largest stable one, a row for each rate and seed.

    The columns ``predicted`` and ``measured`` are the steps at which ηλ first exceeds 2,
    ``diverged`` is the step of divergence, and ``then`` the predicted fate of the median seed.
    """

    def grid(rates: tuple[float, ...]) -> SweepConfig:
        return SweepConfig(
            depths=(depth,), losses=(Loss(p),), learning_rates=rates,
            num_seeds=context.pick(2, 5, 20), num_steps=context.pick(300, 20_000, 100_000),
            record=("sharpness",), observations_per_decade=100,
        )  # fmt: skip

    def make() -> pd.DataFrame:
        (model,) = predict(problem, grid((1.0,))).models
        edge = float(np.median(model.largest_rates))
        factors = np.geomspace(0.5, 2, context.pick(3, 9, 17))
        rates = tuple(float(f"{edge * factor:.4g}") for factor in factors)
        found = predict(problem, grid(rates))
        rows = []
        for rate in rates:
            steps = found.models[0].instability(rate)
            then = found.then(0, rate) if np.median(steps) < found.config.num_steps else ""
            for seed, step in enumerate(steps):
                predicted = step if step < found.config.num_steps else math.inf
                rows.append((rate, seed, predicted, then or "nothing"))
        return pd.DataFrame(rows, columns=["learning rate", "seed", "predicted", "then"])

    table = context.table("instability", known_by(problem, grid((1.0,)), context.scale), make)
    rates = tuple(sorted(set(table["learning rate"])))
    results = context.sweep(problem, grid(rates))
    places = [(rate, seed) for rate in range(len(rates)) for seed in results["seed"].values]
    return table.assign(  # the table's order is that of the results
        measured=[first_above(results, *place) for place in places],
        diverged=results["divergence_step"].values[0].ravel(),
    )


def first_above(results: xr.Dataset, rate: int, seed: int) -> float:
    """The first step with ηλ above 2, interpolated between observations; inf if there is none."""
    steps, values = results["observation_step"].values, results["sharpness"].values[0, rate, seed]
    edge = 2 / float(results["learning_rate"][rate])
    above = np.flatnonzero(np.isfinite(values) & (values > edge))
    ended = np.flatnonzero(~np.isfinite(values))
    if not above.size or (ended.size and ended[0] < above[0]):
        return math.inf
    i = int(above[0])
    return float(np.interp(edge, values[i - 1 : i + 1], steps[i - 1 : i + 1])) if i else 0.0


def correct_fates(unstable: pd.DataFrame) -> list[Effect]:
    """How often a predicted fate is correct, for ℓ2 and for the other losses."""
    diverged, is_square = np.isfinite(unstable["diverged"].to_numpy()), unstable["p"] == 2
    found = []
    for fate, loss in (("oscillates", "ℓ2"), ("diverges", "p > 2"), ("oscillates", "p > 2")):
        own = diverged[(unstable["then"] == fate) & (is_square == (loss == "ℓ2"))]
        effect = share(own == (fate == "diverges"), note=f"{len(own):,} runs")
        found.append(effect.keyed(Key.of("correct predictions", loss=loss, predicted=fate)))
    return found


def averaged_losses(context: Context, name: str, problem: Problem) -> tuple[Figure, list[Effect]]:
    """ℓ2 at depth 3 above the largest stable rate: the measured loss, and the central flow's."""
    steps = context.pick(50, 1000, 3000)
    config = SweepConfig(depths=(3,), losses=(Loss(2),), learning_rates=(1.0,), num_seeds=1)
    (model,) = predict(problem, config).models
    edge = float(np.median(model.largest_rates))
    factors = (1.2, 2.0, 3.5)
    rates = tuple(float(f"{edge * factor:.4g}") for factor in factors)
    config = replace(config, learning_rates=rates, num_steps=steps, records_per_decade=10**5)
    measured = context.sweep(problem, config)["excess_loss"].values[0, :, 0]
    surface = make_surface(problem, Loss(2))
    stack = Stack(drawn(problem, config), surface.rotation)
    loss, theta = stack.traced(surface, stack.initial[0])
    window, x = max(steps // 20, 10), np.arange(steps + 1)
    panels, effects = {}, []
    for rate, factor, curve in zip(rates, factors, measured, strict=True):
        path = central_flow(loss, theta, rate, steps)
        mean = np.convolve(curve, np.ones(window) / window, "valid")
        panels[f"η = {rate:g}, {factor:g} × edge"] = {
            "measured": (x, curve[None]),
            f"mean of {window} steps": (x[: len(mean)] + window // 2, mean[None]),
            "central flow": (x, path.averaged[None]),
        }
        ratio = float(path.averaged[-window:].mean() / mean[-1])
        effects.append(Effect("", ratio).keyed(Key.of("averaged loss", factor=factor)))
    title = f"Above the edge of stability: ℓ2, depth 3, {name}"
    styles = {"measured": {"color": "0.75", "linewidth": 0.6}}
    figure = plot_curves(panels, title=title, xlabel="step", ylabel="excess loss", styles=styles)
    return figure, effects


def draw(unstable: pd.DataFrame) -> Figure:
    """Measured steps of instability and of divergence against the predicted step."""
    figure, axes = make_figure(1, 2, title="When ηλ exceeds 2, and when runs diverge")
    columns = {"measured": "step at which ηλ exceeds 2", "diverged": "step of divergence"}
    for ax, (column, ylabel) in zip(axes[0], columns.items(), strict=True):
        series = {
            f"ℓ{p:g}, depth {depth}": (rows["predicted"], rows[column])
            for (p, depth), rows in split(unstable, "p", "depth")
        }
        draw_agreement(ax, series, xlabel="predicted step of instability", ylabel=ylabel)
    return figure


CLAIM = Claim(
    id="T3",
    is_theory=True,
    statement="The gradient flow predicts the step at which a learning rate becomes unstable, and "
    "what happens then.",
    source=f"{SOURCE}; {COHEN_2021}; Chen & Bruna 2023 (flip bifurcation); Damian, Nichani & Lee "
    "2023, Cohen et al. 2024 (self-stabilisation, central flows)",
    run=run,
    valid="for full-batch gradient descent, until the run diverges",
    checks=(Check("step of instability", low=0.95, high=1.05, closed=True),),
    minutes=5.2,
    paper_hours=2.0,
)
