"""F3: balancedness along the trajectory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.claims.criteria import Claim, Effect, Finding, below, judge, shortfall
from experiments.claims.toolkit.bands import (
    DEPTHS,
    INITIALISATIONS,
    band_grid,
    iterations,
    measure_bands,
)
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table, median_of, model_number
from experiments.claims.toolkit.sources import PAPER_2019
from implicit_accel.plotting import plot_curves
from implicit_accel.statistics import valid_steps


def _trajectory(lab: Laboratory, init: str, depth: int, std: float, rate: float) -> xr.Dataset:
    """Imbalance along the runs of one network, over (seed, observation_step)."""
    _, problem = lab.first_problem("whiten")
    config = replace(
        band_grid(lab, init), depths=(depth,), init_stds=(std,), learning_rates=(rate,),
        num_seeds=lab.pick(2, 5, 30), num_steps=lab.pick(100, 20_000, 200_000),
        record=("imbalance", "layer_norm"),
    )  # fmt: skip
    return lab.sweep(problem, config).isel(model=0, learning_rate=0)


def _smallest(results: xr.Dataset, depth: int) -> tuple[float, float]:
    """The smallest standard deviation whose median run converges, and its best rate."""
    stds, steps = iterations(results, depth)
    works = np.flatnonzero(np.isfinite(np.median(steps, axis=1)))
    std = float(stds[works[0] if len(works) else 0])
    medians = np.median(
        valid_steps(results)[model_number(results, depth=depth, init_std=std)], axis=1
    )
    return std, float(results["learning_rate"].values[int(np.argmin(medians))])


@dataclass(frozen=True)
class _Run:
    """Imbalance along the runs of one network.

    Attributes:
        init: Its initialiser.
        depth: Its depth.
        std: Of its initialiser.
        rate: Learning rate.
        results: Imbalance and layer norms over (seed, observation_step).
    """

    init: str
    depth: int
    std: float
    rate: float
    results: xr.Dataset


def _train(lab: Laboratory, grids: dict[str, xr.Dataset]) -> list[_Run]:
    runs = []
    for init in INITIALISATIONS:
        for depth in DEPTHS:
            std, rate = _smallest(grids[init], depth)
            runs.append(_Run(init, depth, std, rate, _trajectory(lab, init, depth, std, rate)))
    return runs


def _measure(name: str, runs: list[_Run]) -> tuple[list[Effect], list[Effect], list[Effect]]:
    """Balance that stays, imbalance that is conserved, and what that is beside the layers."""
    small, conserved, ends = [], [], []
    for run in runs:
        imbalance, scale = run.results["imbalance"].values, run.results["layer_norm"].values
        share = imbalance / scale
        label = f"{name}, {INITIALISATIONS[run.init]}, depth {run.depth}, std {run.std:.2g}"
        if run.init == "balanced":
            title = f"{label}: largest imbalance over the smallest layer's norm"
            small.append(median_of(title, share.max(axis=1), unit=""))
        else:
            grown = imbalance.max(axis=1) / imbalance[:, 0]
            conserved.append(median_of(f"{label}: largest imbalance over the first", grown))
            title = f"{label}: imbalance over the smallest layer's norm at the end"
            ends.append(median_of(title, share[:, -1], unit=""))
    return small, conserved, ends


def _draw(name: str, runs: list[_Run]) -> Figure:
    panels = {}
    for run in runs:
        steps = run.results["observation_step"].values
        panels[
            f"{INITIALISATIONS[run.init]}, depth {run.depth}, std {run.std:.2g}, "
            f"$\\eta$ = {run.rate:.3g}"
        ] = {
            r"$\max_j \|W_{j+1}^T W_{j+1} - W_j W_j^T\|_F$": (
                steps,
                run.results["imbalance"].values,
            ),
            r"$\min_j \|W_j W_j^T\|_F$": (steps, run.results["layer_norm"].values),
        }
    return plot_curves(
        panels,
        title=f"Balance along the trajectory, whitened {name}",
        xlabel="step",
        ylabel="Frobenius norm",
    )


def _test(lab: Laboratory) -> Finding:
    bands = measure_bands(lab)
    runs = _train(lab, bands.runs)
    small, conserved, ends = _measure(bands.name, runs)
    effects = [*small, *conserved, *ends]
    parts = [*(below(e, 0.1) for e in small), *(below(e, 2.0) for e in conserved)]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e}" for e in effects) + "." + shortfall(verdict),
        sensitivity="From layer-wise starts the imbalance is there from the first step and stays: "
        "it is small against the layers in the end only if they grow far beyond their start.",
        caveats=(f"Steps are capped at {lab.pick(200, 30_000, 10**6):,}; the paper's cap is 10⁶.",),
        tables={"Balance": effects_table(effects)},
        figures={"balance": _draw(bands.name, runs)},
    )


CLAIM = Claim(
    id="F3",
    statement="Balance persists along the trajectory.",
    source=PAPER_2019,
    setting="As F1 and F2, from the smallest standard deviations that converge, at their best "
    "rates.",
    criterion="From balanced starts the largest imbalance between neighbours stays below a "
    "tenth of the smallest layer's norm all along; from layer-wise starts, which are not "
    "balanced, it never doubles; at both depths.",
    test=_test,
    paper_hours=5.1,
)
