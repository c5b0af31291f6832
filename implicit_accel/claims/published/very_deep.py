"""Networks of depths 4 and 8, and when they first move: what P5a and P5b share."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.drawing import colour_of, draw_seeds, make_figure, untangle
from implicit_accel.claims.estimators import model_number
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss

IDENTITY_STEPS = 24_000
"""At standard scale, for identity initialisations and for one layer, which takes 19,000."""

PAPERS_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)


def deep_rates(context: Context, init: str) -> tuple[float, ...]:
    """The paper's highest rates from near zero, where lower ones move later; else finer ones."""
    fine = parse_learning_rates(["log:1e-4:1:19"])
    return context.pick(PAPERS_RATES[4:8], *[PAPERS_RATES[6:] if init == "near_zero" else fine] * 2)


def deep_run(context: Context, problem: Problem, init: str) -> xr.Dataset:
    """The results of depths 4 and 8 on ℓ2 and ℓ4 from an initialisation.

    From near zero the runs are as long as the paper says that networks are stuck. From the
    identity they reach the target long before.
    """
    longest = 100_000 if init == "near_zero" else IDENTITY_STEPS
    config = SweepConfig(
        depths=(4, 8), losses=(Loss(2), Loss(4)), inits=(init,),
        learning_rates=deep_rates(context, init),
        num_seeds=context.pick(2, 5, 20),
        num_steps=context.pick(300, longest, 1_000_000),
    )  # fmt: skip
    return context.sweep(problem, config)


def first_moves(results: xr.Dataset, model: int) -> tuple[np.ndarray, float]:
    """Each seed's first step with a tenth of the excess loss gone, and the rate: the earliest's.

    The excess loss is compared with the first recorded one, which at identity initialisations is
    not the zero predictor's. Runs that diverge before half of it is gone do not count as moving.
    If most runs move at no rate, the rate is the highest at which none diverges.
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


def identity_figure(
    name: str, one: xr.Dataset, identity: xr.Dataset, near_zero: xr.Dataset
) -> Figure:
    """Curves on one problem: one layer, and depths 4 and 8 from both initialisations.

    Args:
        name: The problem's.
        one: One layer's runs.
        identity: Deep networks' runs from the identity.
        near_zero: Deep networks' runs from near zero.
    """
    figure, axes = make_figure(
        1, 2, title=f"Very deep networks on {name}, each at the rate with the lowest last loss"
    )
    lines = [(one, 1, "one layer", "-")]
    lines += [(identity, n, f"depth {n}, identity", "-") for n in (4, 8)]
    lines += [(near_zero, n, f"depth {n}, near zero", ":") for n in (4, 8)]
    for ax, loss in zip(axes[0], ("l2", "l4"), strict=True):
        steps = near_zero["step"].values
        ax.set(xscale="log", yscale="log", xlim=(max(steps[1], 1), steps[-1]), xlabel="step",
               title=rf"$\ell_{loss[1:]}$")  # fmt: skip
        for results, depth, label, line in lines:
            model = model_number(results, loss_name=loss, depth=depth)
            excess = results["excess_loss"].values[model].astype(float)
            excess = np.where(np.isfinite(excess), excess, np.inf)
            best = int(np.argmin(np.median(excess[..., -1], axis=1)))
            style = {"color": colour_of(depth), "linestyle": line}
            draw_seeds(ax, results["step"].values, excess[best], label=label, style=style)
        ax.set_ylim(top=3 * float(identity["excess_loss"].sel(step=0).max()))
        untangle(ax)
    axes[0, 0].set_ylabel(r"excess loss $L - L^*$")
    return figure
