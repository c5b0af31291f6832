"""Bands of standard deviations that converge fast: what F1, F2 and F3 share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.drawing import colour_of, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import resampled
from implicit_accel.intervals import MOST_DIVERGED
from implicit_accel.linear.config import SweepConfig, Target, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import valid_steps

SETTING = (
    "Whitened features, labels with unit cross-covariance, ℓ2, hidden width 32, standard "
    "deviations from 1e-4 to 1, each at its own best learning rate; steps to an excess loss of "
    "1e-5."
)

# "A few hundred iterations or fewer", with room for what "a few" means.
FAST = 1000

DEPTHS = (3, 8)

# Initialiser → what reports call it.
INITIALISATIONS = {"near_zero": "layer-wise", "balanced": "balanced"}

# Balanced, and layer-wise below where depth 8 converges, steps are a smooth function of the
# standard deviation; depth 8's layer-wise band is half a decade, and has to be resolved.
_COARSE, _BELOW, _FINE = "log:1e-4:1:13", "log:1e-4:1e-2:7", "log:1e-2:1:13"


def band_grid(lab: Context, init: str) -> SweepConfig:
    """Standard deviations over four decades; near-zero's upper end is where every rate diverges."""
    usual = [_COARSE] if init == "balanced" else [_BELOW, _FINE]
    finer = [text.replace(":13", ":25").replace(":7", ":13") for text in usual]
    stds = parse_learning_rates(lab.pick(["log:1e-2:1:3"], usual, finer))
    return SweepConfig(
        depths=DEPTHS,
        hidden_widths=(32,),
        inits=(init,),
        init_stds=tuple(dict.fromkeys(stds)),
        losses=(Loss(2),),
        learning_rates=parse_learning_rates(
            [lab.pick("log:1e-2:1:3", "log:1e-4:1:13", "log:1e-4:1:25")]
        ),
        num_seeds=lab.pick(2, 8, 20),
        num_steps=lab.pick(200, 10_000, 1_000_000),
        target=Target(1e-5),
    )


@dataclass(frozen=True)
class Grid:
    """Steps to convergence of one depth from one kind of start.

    Attributes:
        stds: (S,) standard deviations, ascending.
        steps: (S, L, seed) steps, inf where a run did not converge.
        rates: (L,) learning rates.
        num_steps: The runs' length.
    """

    stds: np.ndarray
    steps: np.ndarray
    rates: np.ndarray
    num_steps: float

    @property
    def num_seeds(self) -> int:
        """How many."""
        return self.steps.shape[2]

    def medians(self, seeds: np.ndarray | None = None) -> np.ndarray:
        """(S,) median steps over some seeds, or all, each at the rate that is best with them."""
        chosen = self.steps if seeds is None else self.steps[..., seeds]
        return np.median(chosen, axis=2).min(axis=1)

    def best(self) -> np.ndarray:
        """(S,) numbers of the rates with the fewest median steps."""
        return np.argmin(np.median(self.steps, axis=2), axis=1)

    def at_best(self) -> np.ndarray:
        """(S, seed) steps at the best rates."""
        return self.steps[np.arange(len(self.stds)), self.best()]

    def band(self, seeds: np.ndarray | None = None) -> float:
        """Decades of standard deviations that converge fast, see `fast_band`."""
        return fast_band(self.stds, self.medians(seeds))[0]


def grid_of(results: xr.Dataset, depth: int) -> Grid:
    """One depth's part of a sweep's results over standard deviations.

    Rates at which more than a tenth of the runs are lost are no choice, as in every comparison of
    the project: resamples of the seeds would otherwise find the one that gets away with such a
    rate. Lost is who diverges or bounces for good: does not converge, but does at a lower rate.
    """
    chosen = np.flatnonzero(results["depth"].values == depth)
    steps = valid_steps(results)[chosen]
    converges = np.isfinite(steps)
    lost = ~converges & np.maximum.accumulate(converges, axis=1)
    unusable = np.mean(lost, axis=2, keepdims=True) > MOST_DIVERGED
    return Grid(
        results["init_std"].values[chosen], np.where(unusable, np.inf, steps),
        results["learning_rate"].values, float(results.attrs["num_steps"]),
    )  # fmt: skip


def fast_band(stds: np.ndarray, steps: np.ndarray) -> tuple[float, str]:
    """Decades of standard deviations that converge fast; and from where to where, as text.

    Between neighbours of which one is fast the band ends where the steps' logarithm, which is
    interpolated, crosses the limit; halfway to one that never converges.

    Args:
        stds: (S,) ascending, not necessarily at equal ratios.
        steps: (S,) steps; inf for never.
    """
    fast = steps <= FAST
    if not fast.any():
        return 0.0, "none"
    x = np.log10(stds)
    decades, edges = 0.0, []
    for i, width in enumerate(np.diff(x)):
        if fast[i] and fast[i + 1]:
            decades += width
        elif fast[i] or fast[i + 1]:
            inner, outer = (i, i + 1) if fast[i] else (i + 1, i)
            share = 0.5
            if math.isfinite(steps[outer]):
                share = math.log(FAST / steps[inner]) / math.log(steps[outer] / steps[inner])
            decades += share * width
            edges.append(x[inner] + share * (x[outer] - x[inner]))
    ends = [words for words, end in (("lower", 0), ("upper", -1)) if fast[end]]
    beyond = f", where the range ends ({' and '.join(ends)} end)" if ends else ""
    low = stds[0] if fast[0] else 10 ** edges[0]
    high = stds[-1] if fast[-1] else 10 ** edges[-1]
    return float(decades), f"{low:.2g} to {high:.2g}{beyond}"


# (initialiser, depth) → steps.
Grids = dict[tuple[str, int], Grid]


@dataclass(frozen=True)
class Bands:
    """What F1, F2 and F3 share.

    Attributes:
        name: Of the problem.
        grids: Steps by initialiser and depth.
    """

    name: str
    grids: Grids

    @property
    def num_seeds(self) -> int:
        """The same for all."""
        return next(iter(self.grids.values())).num_seeds

    @property
    def num_steps(self) -> float:
        """The runs' length, the same for all."""
        return next(iter(self.grids.values())).num_steps

    def effect(self, init: str, depth: int) -> Effect:
        """A band's width."""
        grid = self.grids[init, depth]
        label = f"{self.name}, {INITIALISATIONS[init]}, depth {depth}: band"
        span = math.log10(grid.stds[-1] / grid.stds[0])
        note = fast_band(grid.stds, grid.medians())[1]
        return resampled(
            label, grid.band, self.num_seeds, unit=" decades", note=note, least=0, most=span
        )

    def share(self, init: str) -> Effect:
        """Depth 8's band as a share of depth 3's; there is none where that is empty."""
        wide, narrow = (self.grids[init, depth] for depth in DEPTHS)

        def measure(seeds: np.ndarray) -> float:
            of = wide.band(seeds)
            return narrow.band(seeds) / of if of else math.nan

        label = f"{self.name}, {INITIALISATIONS[init]}: depth 8's band as a share of depth 3's"
        note = f"{narrow.band():.3g} against {wide.band():.3g} decades"
        return resampled(label, measure, self.num_seeds, unit="", note=note, least=0)

    def table(self) -> pd.DataFrame:
        """A row for each initialiser and depth."""
        rows = []
        for (init, depth), grid in self.grids.items():
            middle = grid.medians()
            decades, ends = fast_band(grid.stds, middle)
            rows.append(
                {"start": INITIALISATIONS[init], "depth": depth, "band (decades)": decades,
                 "band": ends, "fewest steps": middle.min(),
                 "best std": grid.stds[int(np.argmin(middle))],
                 "steps at the lowest std": middle[0], "steps at the highest std": middle[-1]}
            )  # fmt: skip
        return pd.DataFrame(rows)


def measure_bands(lab: Context) -> Bands:
    """Trains both grids, or reads them."""
    name, problem = lab.first_problem("whiten")
    grids: Grids = {}
    runs = lab.sweeps(problem, [band_grid(lab, init) for init in INITIALISATIONS])
    for init, results in zip(INITIALISATIONS, runs, strict=True):
        grids |= {(init, depth): grid_of(results, depth) for depth in DEPTHS}
    return Bands(name, grids)


def bands_figure(bands: Bands, init: str) -> Figure:
    """Steps against standard deviations from one kind of start, a panel for each depth.

    The other kind's medians are thin and grey; the axes are the same in both kinds' figures. What
    never converges is on a line above the runs' length.
    """
    title = f"Steps to an excess loss of 1e-5, {INITIALISATIONS[init]} start, whitened {bands.name}"
    figure, axes = make_figure(1, len(DEPTHS), title=title, size=(4.4, 3.7))
    cap = bands.num_steps
    fewest = min(float(grid.medians().min()) for grid in bands.grids.values())
    stds = np.concatenate([grid.stds for grid in bands.grids.values()])
    low = min(fewest, FAST) / 2
    ceiling = cap * (cap / low) ** 0.09
    (other,) = set(INITIALISATIONS) - {init}
    for ax, depth in zip(axes[0], DEPTHS, strict=True):
        ax.set(xscale="log", yscale="log", xlim=(stds.min() / 1.2, stds.max() * 1.2),
               ylim=(low, ceiling * (cap / low) ** 0.07))  # fmt: skip
        ax.axhspan(cap, ax.get_ylim()[1], color="0.93", linewidth=0)
        ax.text(0.5, ceiling * 1.12, f"not within {cap:,.0f} steps", fontsize=7.5, color="0.35",
                ha="center", va="bottom", transform=ax.get_yaxis_transform())  # fmt: skip
        ax.axhline(FAST, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.text(0.5, FAST * 1.08, f"fast: {FAST:,} steps", fontsize=7.5, color="0.35",
                ha="center", va="bottom", transform=ax.get_yaxis_transform())  # fmt: skip
        behind = bands.grids[other, depth]
        _draw_medians(ax, behind, ceiling, INITIALISATIONS[other], "0.6", 0.8)
        grid = bands.grids[init, depth]
        colour = colour_of(depth)
        for steps in grid.at_best().T:
            ax.plot(grid.stds, np.where(steps <= cap, steps, ceiling), color=colour,
                    linewidth=0.5, alpha=0.45)  # fmt: skip
        _draw_medians(ax, grid, ceiling, INITIALISATIONS[init], colour, 1.6)
        ax.set_title(f"depth {depth}", fontsize=10, color=colour)
        kinds = "of every layer (layer-wise), of the product (balanced)"
        ax.set_xlabel(f"initial standard deviation\n{kinds}", fontsize=8.5)
    axes[0, 0].set_ylabel("steps at the best rate")
    return figure


def _draw_medians(
    ax: Axes, grid: Grid, ceiling: float, label: str, colour: str, width: float
) -> None:
    """Medians over seeds as a line, on the ceiling where half of the seeds never arrive."""
    middle = grid.medians()
    arrives = np.isfinite(middle)
    ax.plot(grid.stds, np.where(arrives, middle, ceiling), color=colour, linewidth=width)
    ax.plot(grid.stds[arrives], middle[arrives], "o", color=colour, markersize=1 + 1.5 * width)
    ax.plot(grid.stds[~arrives], np.full(np.sum(~arrives), ceiling), "^", color=colour,
            markersize=2 + 1.5 * width)  # fmt: skip
    # At the lower end, where lines are far apart: above a falling line, below the ceiling.
    height, offset = (middle[0], 9) if arrives[0] else (ceiling, -11)
    ax.annotate(label, (grid.stds[0], height), xytext=(4, offset), textcoords="offset points",
                fontsize=8, va="center", color=colour)  # fmt: skip
