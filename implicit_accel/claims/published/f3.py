"""F3: balancedness along the trajectory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import colour_of, draw_seeds, make_figure
from implicit_accel.claims.estimators import median
from implicit_accel.claims.published.bands import DEPTHS, INITIALISATIONS, band_grid, band_runs
from implicit_accel.claims.published.sources import PAPER_2019

SMALL = 0.1
"""Small beside the smallest layer."""

Runs = dict[tuple[str, int], xr.Dataset]
"""(initialisation, depth) → imbalance and layer norm over (seed, observation_step)."""

LAYER_WISE = {"init": ("layer-wise",), "depth": DEPTHS}


def run(context: Context) -> Found:
    """Runs from the smallest standard deviations whose median run converges, at the best rates."""
    ((name, scans),) = band_runs(context).items()
    initialisers = {init: initialiser for initialiser, init in INITIALISATIONS.items()}
    runs: Runs = {}
    for (init, depth), scan in scans.items():
        converges = np.flatnonzero(np.isfinite(scan.medians()))
        chosen = converges[0] if len(converges) else 0
        std, rate = float(scan.stds[chosen]), float(scan.rates[scan.best()[chosen]])
        runs[init, depth] = trajectory(context, initialisers[init], depth, std, rate)
    return Found(runs={name: runs}, figures={"balance": balance_figure(name, runs)})


def trajectory(
    context: Context, initialiser: str, depth: int, std: float, rate: float
) -> xr.Dataset:
    """Imbalance and layer norm along the runs of one network, over (seed, observation_step)."""
    _, problem = context.first_problem("whiten")
    config = replace(
        band_grid(context, initialiser), depths=(depth,), init_stds=(std,), learning_rates=(rate,),
        num_seeds=context.pick(2, 10, 30), num_steps=context.pick(100, 10_000, 200_000),
        record=("imbalance", "layer_norm"),
    )  # fmt: skip
    return context.sweep(problem, config).isel(model=0, learning_rate=0)


def relative_imbalance(results: xr.Dataset) -> np.ndarray:
    """(seed, T) the largest imbalance between neighbours over the smallest layer's norm."""
    return results["imbalance"].values / results["layer_norm"].values


def largest(runs: Runs, init: str, depth: int) -> Effect:
    """The largest relative imbalance of the trajectory."""
    results = runs[init, depth]
    return median(relative_imbalance(results).max(axis=1), unit="", note=_setting(results))


def last(runs: Runs, init: str, depth: int) -> Effect:
    """The relative imbalance at the last step."""
    results = runs[init, depth]
    return median(relative_imbalance(results)[:, -1], unit="", note=_setting(results))


def growth(runs: Runs, init: str, depth: int) -> Effect:
    """The largest imbalance of the trajectory over the first one."""
    imbalance = runs[init, depth]["imbalance"].values
    return median(imbalance.max(axis=1) / imbalance[:, 0], note=_setting(runs[init, depth]))


def _setting(results: xr.Dataset) -> str:
    std, rate = float(results["init_std"]), float(results["learning_rate"])
    return f"standard deviation {std:.2g}, rate {rate:.2g}"


def balance_figure(name: str, runs: Runs) -> Figure:
    """Relative imbalance along the trajectories, a panel for each initialisation."""
    title = f"Imbalance over the smallest layer's norm along the trajectory, whitened {name}"
    inits = tuple(INITIALISATIONS.values())
    figure, axes = make_figure(1, len(inits), title=title, size=(4.6, 3.4))
    shares = np.concatenate([relative_imbalance(results).ravel() for results in runs.values()])
    shares = shares[(shares > 0) & np.isfinite(shares)]
    # The first imbalances of balanced initialisations are rounding errors.
    low = max(shares.min(), 1e-8) / 2
    for ax, init in zip(axes[0], inits, strict=True):
        own = {depth: results for (kind, depth), results in runs.items() if kind == init}
        last_step = max(int(results["observation_step"][-1]) for results in own.values())
        ax.set(xscale="log", yscale="log", xlim=(1, last_step), ylim=(low, shares.max() * 2),
               xlabel="step")  # fmt: skip
        ax.axhline(SMALL, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_title(f"{init} initialisation", fontsize=10)
        for depth, results in own.items():
            draw_seeds(
                ax, results["observation_step"].values, relative_imbalance(results),
                label=f"depth {depth}, std {float(results['init_std']):.2g}",
                style={"color": colour_of(depth)},
            )  # fmt: skip
    axes[0, 0].set_ylabel(
        r"$\max_j \|W_{j+1}^T W_{j+1} - W_j W_j^T\|_F\, /\, \min_j \|W_j W_j^T\|_F$"
    )
    return figure


CLAIM = Claim(
    id="F3",
    statement="Balance persists along the trajectory.",
    source=PAPER_2019,
    run=run,
    choices=("depth",),
    measures=(
        Measure("largest relative imbalance", largest, {"init": ("balanced",), "depth": DEPTHS}),
        Measure("largest imbalance over the first", growth, LAYER_WISE),
        Measure("last relative imbalance", last, LAYER_WISE),
    ),
    checks=(
        Check("largest relative imbalance", high=SMALL, why="small beside the smallest layer"),
        Check("largest imbalance over the first", high=2.0, why="it never doubles"),
    ),
    minutes=0.1,
    paper_hours=5.1,
)
