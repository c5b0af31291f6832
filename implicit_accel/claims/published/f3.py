"""F3: balancedness along the trajectory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Part, below, judge, shortfall
from implicit_accel.claims.drawing import colour_of, draw_seeds, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table, median_of
from implicit_accel.claims.published.bands import (
    INITIALISATIONS,
    Bands,
    Grid,
    band_grid,
    measure_bands,
)
from implicit_accel.claims.published.sources import PAPER_2019

# Small beside the smallest layer.
_SMALL = 0.1


def _trajectory(lab: Context, init: str, depth: int, std: float, rate: float) -> xr.Dataset:
    """Imbalance along the runs of one network, over (seed, observation_step)."""
    _, problem = lab.first_problem("whiten")
    config = replace(
        band_grid(lab, init), depths=(depth,), init_stds=(std,), learning_rates=(rate,),
        num_seeds=lab.pick(2, 10, 30), num_steps=lab.pick(100, 10_000, 200_000),
        record=("imbalance", "layer_norm"),
    )  # fmt: skip
    return lab.sweep(problem, config).isel(model=0, learning_rate=0)


def _smallest(grid: Grid) -> tuple[float, float]:
    """The smallest standard deviation whose median run converges, and its best rate."""
    works = np.flatnonzero(np.isfinite(grid.medians()))
    chosen = works[0] if len(works) else 0
    return float(grid.stds[chosen]), float(grid.rates[grid.best()[chosen]])


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

    @property
    def share(self) -> np.ndarray:
        """(seed, T) imbalance over the smallest layer's norm."""
        return self.results["imbalance"].values / self.results["layer_norm"].values


def _train(lab: Context, bands: Bands) -> list[_Run]:
    runs = []
    for (init, depth), grid in bands.grids.items():
        std, rate = _smallest(grid)
        runs.append(_Run(init, depth, std, rate, _trajectory(lab, init, depth, std, rate)))
    return runs


def _measure(name: str, runs: list[_Run]) -> tuple[list[Effect], list[Effect], list[Effect]]:
    """Balance that stays, imbalance that is conserved, and what that is beside the layers."""
    small, conserved, ends = [], [], []
    for run in runs:
        imbalance, share = run.results["imbalance"].values, run.share
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


def _parts(small: list[Effect], conserved: list[Effect]) -> list[Part]:
    """The criterion."""
    return [*(below(e, _SMALL) for e in small), *(below(e, 2.0) for e in conserved)]


def _draw(name: str, runs: list[_Run]) -> Figure:
    title = f"Imbalance over the smallest layer's norm along the trajectory, whitened {name}"
    figure, axes = make_figure(1, len(INITIALISATIONS), title=title, size=(4.6, 3.4))
    shares = np.concatenate([run.share.ravel() for run in runs])
    shares = shares[(shares > 0) & np.isfinite(shares)]
    # From balanced starts rounding makes the first ones: no need to see all of it.
    low = max(shares.min(), 1e-8) / 2
    for ax, (init, words) in zip(axes[0], INITIALISATIONS.items(), strict=True):
        steps = runs[0].results["observation_step"].values
        ax.set(xscale="log", yscale="log", xlim=(1, steps[-1]), ylim=(low, shares.max() * 2),
               xlabel="step")  # fmt: skip
        ax.axhline(_SMALL, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        limit = f"{_SMALL:g}" + (": the criterion" if init == "balanced" else "")
        ax.text(0.99, _SMALL * 1.1, limit, fontsize=7.5, color="0.35",
                ha="right", va="bottom", transform=ax.get_yaxis_transform())  # fmt: skip
        for run in runs:
            if run.init == init:
                ax.set_title(f"{words} start", fontsize=10)
                draw_seeds(
                    ax, run.results["observation_step"].values, run.share,
                    label=f"depth {run.depth}, std {run.std:.2g}",
                    style={"color": colour_of(run.depth)},
                )  # fmt: skip
    axes[0, 0].set_ylabel(
        r"$\max_j \|W_{j+1}^T W_{j+1} - W_j W_j^T\|_F\, /\, \min_j \|W_j W_j^T\|_F$"
    )
    return figure


def _test(lab: Context) -> Finding:
    bands = measure_bands(lab)
    runs = _train(lab, bands)
    small, conserved, ends = _measure(bands.name, runs)
    effects = [*small, *conserved, *ends]
    layerwise = [run for run in runs if run.init != "balanced"]
    verdict = judge(_parts(small, conserved))
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e}" for e in effects) + "." + shortfall(verdict),
        sensitivity="From layer-wise starts the imbalance is there from the first step and stays: "
        "it is small against the layers in the end only if they grow far beyond their start.",
        caveats=(
            f"Steps are capped at {bands.num_steps:,.0f}; the paper's cap is 10⁶.",
            "The paper's statement is of small starts, and of the imbalance beside the smallest "
            "layer. Layer-wise starts are judged by what is conserved, as the smallest that "
            "converge within the cap are not small; beside the smallest layer they end at "
            + " and ".join(
                f"{e} (depth {run.depth})" for run, e in zip(layerwise, ends, strict=True)
            )
            + ".",
        ),
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
    minutes=0.1,
    paper_hours=5.1,
)
