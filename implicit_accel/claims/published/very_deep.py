"""Networks of depths 4 and 8, and when they first move: what P5a and P5b share."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.drawing import (
    colour_of,
    draw_seeds,
    make_figure,
    untangle,
)
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import median_of, model_number
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss

IDENTITY_STEPS = 24_000
"""At standard scale, of identity starts and the one layer beside them, which takes 19,000."""

PAPERS_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)


def deep_rates(lab: Context, init: str) -> tuple[float, ...]:
    """The paper's highest for what stays stuck, where lower ones move later; else finer ones."""
    fine = parse_learning_rates(["log:1e-4:1:19"])
    return lab.pick(PAPERS_RATES[4:8], *[PAPERS_RATES[6:] if init == "near_zero" else fine] * 2)


def deep_run(lab: Context, problem: Problem, init: str) -> xr.Dataset:
    """Depths 4 and 8 from an initialisation, ℓ2 and ℓ4, on one problem: its results.

    What is stuck is watched for as long as the paper says that it is; from the identity networks
    have arrived long before.
    """
    longest = 100_000 if init == "near_zero" else IDENTITY_STEPS
    config = SweepConfig(
        depths=(4, 8), losses=(Loss(2), Loss(4)), inits=(init,),
        learning_rates=deep_rates(lab, init),
        num_seeds=lab.pick(2, 5, 20),
        num_steps=lab.pick(300, longest, 1_000_000),
    )  # fmt: skip
    return lab.sweep(problem, config)


def deep_runs(lab: Context, init: str) -> dict[str, xr.Dataset]:
    """Depths 4 and 8 from an initialisation, on every problem: results by its name."""
    return lab.on_problems(lambda own, problem: deep_run(own, problem, init))


def first_moves(results: xr.Dataset, model: int) -> tuple[np.ndarray, float]:
    """Each seed's first step with a tenth of the excess loss gone, at the rate with the earliest.

    Of the first recorded loss, which at identity initialisations is not the zero predictor's. Runs
    that diverge before half of it is gone do not count as moving. Where none moves, the rate is the
    highest at which none diverges.
    """
    excess = results["excess_loss"].values[model]
    steps = results["step"].values
    initial = excess[..., :1]
    moved, halved = excess <= 0.9 * initial, excess <= 0.5 * initial
    when = np.where(moved.any(-1) & halved.any(-1), steps[np.argmax(moved, -1)], np.inf)
    best = int(np.argmin(np.median(when, axis=1)))
    if np.isinf(np.median(when[best])):
        calm = np.isnan(results["divergence_step"].values[model]).all(axis=1)
        best = int(np.flatnonzero(calm)[-1]) if calm.any() else 0
    return when[best], float(results["learning_rate"].values[best])


# (problem, loss, depth) → the median first move over seeds, and the rate it is at.
Moves = dict[tuple[str, str, int], tuple[Effect, float]]


def moves(lab: Context, init: str) -> Moves:
    """First moves on every problem, from an initialisation."""
    found = {}
    for name, results in deep_runs(lab, init).items():
        for loss in ("l2", "l4"):
            for depth in (4, 8):
                m = model_number(results, loss_name=loss, depth=depth)
                when, rate = first_moves(results, m)
                label = f"{name}, ℓ{loss[1:]}, depth {depth}: first move"
                found[name, loss, depth] = (
                    median_of(label, when, unit=" steps", note=f"rate {rate:g}"), rate
                )  # fmt: skip
    return found


def identity_figure(lab: Context, one: xr.Dataset) -> Figure:
    """Curves on the first problem: from the identity, from near zero, and one layer.

    Args:
        lab: The laboratory.
        one: One layer's runs on that problem.
    """
    name, problem = lab.first_problem()
    starts = {init: deep_run(lab, problem, init) for init in ("near_zero", "identity")}
    figure, axes = make_figure(
        1, 2, title=f"Very deep networks on {name}, each at the rate with the lowest last loss"
    )
    for ax, loss in zip(axes[0], ("l2", "l4"), strict=True):
        steps = starts["near_zero"]["step"].values
        ax.set(xscale="log", yscale="log", xlim=(max(steps[1], 1), steps[-1]), xlabel="step",
               title=rf"$\ell_{loss[1:]}$")  # fmt: skip
        lines = [(one, 1, "one layer", "-")]
        lines += [(starts["identity"], n, f"depth {n}, identity", "-") for n in (4, 8)]
        lines += [(starts["near_zero"], n, f"depth {n}, near zero", ":") for n in (4, 8)]
        for results, depth, label, line in lines:
            excess = results["excess_loss"].values[
                model_number(results, loss_name=loss, depth=depth)
            ].astype(float)  # fmt: skip
            excess = np.where(np.isfinite(excess), excess, np.inf)
            best = int(np.argmin(np.median(excess[..., -1], axis=1)))
            style = {"color": colour_of(depth), "linestyle": line}
            draw_seeds(ax, results["step"].values, excess[best], label=label, style=style)
        ax.set_ylim(top=3 * float(starts["identity"]["excess_loss"].sel(step=0).max()))
        untangle(ax)
    axes[0, 0].set_ylabel(r"excess loss $L - L^*$")
    return figure
