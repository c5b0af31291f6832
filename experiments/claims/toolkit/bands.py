"""Bands of standard deviations that converge fast: what F1, F2 and F3 share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from experiments.claims.criteria import Effect
from experiments.claims.toolkit.laboratory import Laboratory
from implicit_accel.linear.config import SweepConfig, Target, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import plot_curves
from implicit_accel.statistics import valid_steps

SETTING = (
    "Whitened features, labels with unit cross-covariance, ℓ2, hidden width 32, each standard "
    "deviation at its own best learning rate; steps to an excess loss of 1e-5."
)

# "A few hundred iterations or fewer", with room for what "a few" means.
FAST = 1000

DEPTHS = (3, 8)

# Initialiser → what reports call it.
INITIALISATIONS = {"near_zero": "layer-wise", "balanced": "balanced"}


def band_grid(lab: Laboratory, init: str) -> SweepConfig:
    """Standard deviations over decades; near-zero's end is where every rate diverges."""
    stds = "log:1e-3:1:13" if init == "balanced" else "log:1e-3:1:19"
    few = "log:1e-2:1:3"
    return SweepConfig(
        depths=DEPTHS,
        hidden_widths=(32,),
        inits=(init,),
        init_stds=parse_learning_rates([lab.pick(few, stds, stds.replace(":1:", ":3:"))]),
        losses=(Loss(2),),
        learning_rates=parse_learning_rates(
            [lab.pick("log:1e-2:1:3", "log:1e-4:1:13", "log:1e-4:1:25")]
        ),
        num_seeds=lab.pick(2, 3, 10),
        num_steps=lab.pick(200, 30_000, 1_000_000),
        target=Target(1e-5),
    )


def iterations(results: xr.Dataset, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps to convergence at each standard deviation's best rate.

    Returns:
        Standard deviations (S,), and steps (S, seed), inf where a run did not converge.
    """
    chosen = np.flatnonzero(results["depth"].values == depth)
    steps = valid_steps(results)[chosen]
    best = np.argmin(np.median(steps, axis=2), axis=1)
    return results["init_std"].values[chosen], steps[np.arange(len(chosen)), best]


def fast_band(stds: np.ndarray, steps: np.ndarray) -> tuple[float, str]:
    """Decades of standard deviations that converge fast, by interpolation; and its ends."""
    middle = np.median(steps, axis=1)
    fast = np.flatnonzero(middle <= FAST)
    if not len(fast):
        return 0.0, "none"
    spacing = math.log10(stds[1] / stds[0])
    at_end = [words for words, end in (("lower", 0), ("upper", len(stds) - 1)) if end in fast]
    beyond = f", where the range ends ({' and '.join(at_end)} end)" if at_end else ""
    return len(fast) * spacing, f"{stds[fast[0]]:.2g} to {stds[fast[-1]]:.2g}{beyond}"


@dataclass(frozen=True)
class Bands:
    """What F1 and F2 share; keys are (initialiser, depth).

    Attributes:
        name: Of the problem.
        runs: Results by initialiser.
        table: A row for each.
        widths: Decades.
        draws: Decades in each of 500 resamples of the seeds, the same ones for all.
        ends: From where to where, as text.
    """

    name: str
    runs: dict[str, xr.Dataset]
    table: pd.DataFrame
    widths: dict[tuple[str, int], float]
    draws: dict[tuple[str, int], np.ndarray]
    ends: dict[tuple[str, int], str]

    def effect(self, init: str, depth: int) -> Effect:
        """A band's width with its interval over seeds."""
        label = f"{self.name}, {INITIALISATIONS[init]}, depth {depth}: band"
        low, high = np.quantile(self.draws[init, depth], [0.025, 0.975])
        return Effect(
            label, self.widths[init, depth], float(low), float(high), unit=" decades",
            note=self.ends[init, depth],
        )  # fmt: skip


def measure_bands(lab: Laboratory) -> Bands:
    """Trains both grids, or reads them, and measures their bands."""
    name, problem = lab.first_problem("whiten")
    runs, rows, widths, drawn, where = {}, [], {}, {}, {}
    rng = np.random.default_rng(0)
    resamples = rng.integers(band_grid(lab, "balanced").num_seeds, size=(500, lab.pick(2, 3, 10)))
    for init in ("near_zero", "balanced"):
        runs[init] = lab.sweep(problem, band_grid(lab, init))
        for depth in DEPTHS:
            stds, steps = iterations(runs[init], depth)
            key = init, depth
            widths[key], where[key] = fast_band(stds, steps)
            drawn[key] = np.array([fast_band(stds, steps[:, d])[0] for d in resamples])
            middle = np.median(steps, axis=1)
            rows.append(
                {"start": INITIALISATIONS[init], "depth": depth, "band (decades)": widths[key],
                 "band": where[key], "fewest steps": middle.min(),
                 "best std": stds[int(np.argmin(middle))], "steps at the lowest std": middle[0],
                 "steps at the highest std": middle[-1]}
            )  # fmt: skip
    return Bands(name, runs, pd.DataFrame(rows), widths, drawn, where)


def iterations_figure(name: str, runs: dict[str, xr.Dataset]) -> Figure:
    """Steps against standard deviations, a panel for each initialiser."""
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for init, results in runs.items():
        panel = panels.setdefault(f"{INITIALISATIONS[init]} start", {})
        for depth in DEPTHS:
            stds, steps = iterations(results, depth)
            panel[f"depth {depth}"] = (stds, steps.T)
    return plot_curves(
        panels, title=f"Steps to an excess loss of 1e-5 at the best rate, whitened {name}",
        xlabel="initial standard deviation", ylabel="steps",
    )  # fmt: skip
