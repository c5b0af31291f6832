"""T8: stability thresholds of momentum and Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import COLOURS, legend, make_figure
from implicit_accel.claims.estimators import median
from implicit_accel.claims.published.theory import COHEN_2021, theory_problems
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.observables import stability_threshold
from implicit_accel.optimizers import Optimizer

MOMENTA = (0.5, 0.9, 0.95)


Ratios = dict[tuple[str, float], np.ndarray]
"""(method, beta) → measured values over the threshold, one for each seed."""


def run(context: Context) -> Found:
    """Largest stable rates with momentum, and Adam's preconditioned sharpness."""
    runs, curves = {}, {}
    for name, problem in theory_problems(context).items():
        own: Ratios = {("sgd", 0.0): largest_rate(context, problem, Optimizer("sgd"), 0.0)}
        for method in ("momentum", "nesterov"):
            for beta in MOMENTA:
                optimizer = Optimizer(method, (("momentum", beta),))
                own[method, beta] = largest_rate(context, problem, optimizer, beta)
        for beta in context.pick((0.9,), (0.5, 0.9), MOMENTA):
            own["adam", beta], curve = adam_sharpness(context, problem, beta)
            curves[f"{name}, β₁ = {beta:g}"] = curve
        runs[name] = own
    return Found(runs=runs, figures={"adam": draw(curves)})


def largest_rate(
    context: Context, problem: Problem, optimizer: Optimizer, beta: float
) -> np.ndarray:
    """(seed,) largest rates without divergence of one layer on ℓ2, over the threshold.

    The sharpness of one layer on ℓ2 is constant.
    """
    X = problem.features
    top = float(np.linalg.eigvalsh(X.T @ X / len(X))[-1])
    edge = float(stability_threshold(optimizer.name, 1.0, beta)) / top
    shares = np.geomspace(0.8, 1.25, context.pick(9, 46, 181))
    config = SweepConfig(
        depths=(1,), losses=(Loss(2),), optimizers=(optimizer,), num_seeds=context.pick(2, 12, 12),
        learning_rates=tuple(float(f"{edge * s:.6g}") for s in shares),
        num_steps=context.pick(2000, 20_000, 20_000),
    )  # fmt: skip
    results = context.sweep(problem, config)
    diverged = np.isfinite(results["divergence_step"].values[0])
    first = np.where(diverged.any(axis=0), diverged.argmax(axis=0), -1)
    rates = results["learning_rate"].values
    return np.where(first > 0, np.sqrt(rates[first] * rates[first - 1]), math.nan) / edge


def adam_sharpness(
    context: Context, problem: Problem, beta: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Preconditioned sharpness of networks of depth 2 trained with Adam, over the threshold.

    Returns:
        (seed,) medians over the second half of the run; and steps with medians over seeds.
    """
    steps = context.pick(300, 10_000, 30_000)
    config = SweepConfig(
        depths=(2,), hidden_widths=(10,), inits=("orthogonal",), losses=(Loss(2),),
        optimizers=(Optimizer("adam", (("b1", beta),)),), learning_rates=(1e-3,),
        num_seeds=context.pick(2, 12, 12), num_steps=steps, record=("preconditioned_sharpness",),
        observations_per_decade=100,
    )  # fmt: skip
    results = context.sweep(problem, config)
    edge = float(stability_threshold("adam", 1e-3, beta))
    ratios = results["preconditioned_sharpness"].values[0, 0] / edge
    times = results["observation_step"].values
    return np.median(ratios[:, times >= steps / 2], axis=1), (times, np.median(ratios, axis=0))


def over_threshold(ratios: Ratios, method: str, beta: float) -> Effect | None:
    """The median over seeds; None for an optimizer that was not run."""
    return median(ratios[method, beta]) if (method, beta) in ratios else None


def draw(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Adam's preconditioned sharpness over its threshold."""
    title = "Adam's preconditioned sharpness over its threshold"
    figure, axes = make_figure(1, 1, title=title, size=(5.4, 3.6))
    ax = axes[0, 0]
    for colour, (label, (steps, values)) in zip(COLOURS, curves.items(), strict=False):
        shown = (steps > 0) & np.isfinite(values)
        ax.plot(steps[shown], values[shown], color=colour, label=label)
    ax.axhline(1, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="over the threshold")
    legend(ax)
    return figure


CLAIM = Claim(
    id="T8",
    is_theory=True,
    statement="The thresholds of momentum, Nesterov's momentum and Adam are (2+2β)/η, "
    "(2+2β)/((1+2β)η) and, preconditioned, (2+2β₁)/((1−β₁)η).",
    source=f"{COHEN_2021}; Cohen et al. 2022 (adaptive optimizers)",
    run=run,
    valid="along an eigenvector of a quadratic, full batch",
    measures=(
        Measure("measured over threshold", over_threshold,
                {"method": ("sgd", "momentum", "nesterov", "adam"), "beta": (0.0, *MOMENTA)}),
    ),
    checks=(Check("measured over threshold", low=0.95, high=1.05, closed=True),),
    minutes=0.8,
    paper_hours=0.2,
)  # fmt: skip
