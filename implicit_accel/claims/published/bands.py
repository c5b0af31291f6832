"""Bands of standard deviations that converge fast: what F1, F2 and F3 share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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

FAST = 1000
"""Steps: "a few hundred iterations or fewer", with room for what "a few" means."""

DEPTHS = (3, 8)

INITIALISATIONS = {"near_zero": "layer-wise", "balanced": "balanced"}
"""Initialiser → its name in reports, the coordinate ``init`` of effects."""

# Depth 8's layer-wise band is half a decade wide, and has to be resolved. Elsewhere the steps are
# a smooth function of the standard deviation.
_COARSE, _BELOW, _FINE = "log:1e-4:1:13", "log:1e-4:1e-2:7", "log:1e-2:1:13"


def band_grid(context: Context, initialiser: str) -> SweepConfig:
    """Standard deviations over four decades; with 1 every rate diverges from layer-wise ones."""
    usual = [_COARSE] if initialiser == "balanced" else [_BELOW, _FINE]
    finer = [text.replace(":13", ":25").replace(":7", ":13") for text in usual]
    stds = parse_learning_rates(context.pick(["log:1e-2:1:3"], usual, finer))
    return SweepConfig(
        depths=DEPTHS,
        hidden_widths=(32,),
        inits=(initialiser,),
        init_stds=tuple(dict.fromkeys(stds)),
        losses=(Loss(2),),
        learning_rates=parse_learning_rates(
            [context.pick("log:1e-2:1:3", "log:1e-4:1:13", "log:1e-4:1:25")]
        ),
        num_seeds=context.pick(2, 8, 20),
        num_steps=context.pick(200, 10_000, 1_000_000),
        target=Target(1e-5),
    )


@dataclass(frozen=True)
class Scan:
    """Steps to the target over standard deviations, for one depth and initialisation.

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
        """The number of seeds."""
        return self.steps.shape[2]

    def medians(self, seeds: np.ndarray | None = None) -> np.ndarray:
        """(S,) median steps over some seeds, or all, each at the rate that is best with them."""
        chosen = self.steps if seeds is None else self.steps[..., seeds]
        return np.median(chosen, axis=2).min(axis=1)

    def best(self) -> np.ndarray:
        """(S,) numbers of the rates with the fewest median steps."""
        return np.argmin(np.median(self.steps, axis=2), axis=1)

    def band(self, seeds: np.ndarray | None = None, limit: float = FAST) -> float:
        """Decades of standard deviations that converge fast, see `fast_band`."""
        return fast_band(self.stds, self.medians(seeds), limit)[0]


Scans = dict[tuple[str, int], Scan]
"""By initialisation, as reports call it, and depth."""


def scan_of(results: xr.Dataset, depth: int) -> Scan:
    """One depth's part of a sweep's results over standard deviations.

    A rate is excluded if more than `MOST_DIVERGED` of its runs fail, as in every comparison of
    speeds: a resample of the seeds may contain only those few that converge. A run fails if it
    does not converge, but does at a lower rate: it diverges or bounces.
    """
    chosen = np.flatnonzero(results["depth"].values == depth)
    steps = valid_steps(results)[chosen]
    converges = np.isfinite(steps)
    fails = ~converges & np.maximum.accumulate(converges, axis=1)
    unusable = np.mean(fails, axis=2, keepdims=True) > MOST_DIVERGED
    return Scan(
        results["init_std"].values[chosen], np.where(unusable, np.inf, steps),
        results["learning_rate"].values, float(results.attrs["num_steps"]),
    )  # fmt: skip


def fast_band(stds: np.ndarray, steps: np.ndarray, limit: float = FAST) -> tuple[float, str]:
    """Decades of standard deviations that converge fast; and from where to where, as text.

    Between neighbours of which one is fast the band ends where the steps' logarithm, which is
    interpolated, crosses the limit; halfway to one that never converges.

    Args:
        stds: (S,) ascending, not necessarily at equal ratios.
        steps: (S,) steps; inf for never.
        limit: The most steps that are called fast.
    """
    fast = steps <= limit
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
                share = math.log(limit / steps[inner]) / math.log(steps[outer] / steps[inner])
            decades += share * width
            edges.append(x[inner] + share * (x[outer] - x[inner]))
    ends = [words for words, end in (("lower", 0), ("upper", -1)) if fast[end]]
    beyond = f", where the range ends ({' and '.join(ends)} end)" if ends else ""
    low = stds[0] if fast[0] else 10 ** edges[0]
    high = stds[-1] if fast[-1] else 10 ** edges[-1]
    return float(decades), f"{low:.2g} to {high:.2g}{beyond}"


def band_runs(context: Context) -> dict[str, Scans]:
    """Both initialisations' scans, by the problem's name."""
    name, problem = context.first_problem("whiten")
    runs = context.sweeps(problem, [band_grid(context, init) for init in INITIALISATIONS])
    pairs = list(zip(INITIALISATIONS.values(), runs, strict=True))
    return {name: {(init, depth): scan_of(r, depth) for init, r in pairs for depth in DEPTHS}}


def band(scans: Scans, init: str, depth: int, limit: float = FAST) -> Effect:
    """The width of a band; its note says where it lies."""
    scan = scans[init, depth]
    return resampled(lambda seeds: scan.band(seeds, limit), scan.num_seeds, unit=" decades",
        note=fast_band(scan.stds, scan.medians(), limit)[1],
        least=0, most=math.log10(scan.stds[-1] / scan.stds[0]),
    )  # fmt: skip


def share_of_shallow(scans: Scans, init: str) -> Effect:
    """Depth 8's band as a share of depth 3's; NaN where that is empty."""
    wide, narrow = (scans[init, depth] for depth in DEPTHS)

    def measure(seeds: np.ndarray) -> float:
        of = wide.band(seeds)
        return narrow.band(seeds) / of if of else math.nan

    note = f"{narrow.band():.3g} against {wide.band():.3g} decades"
    return resampled(measure, wide.num_seeds, unit="", note=note, least=0)


def fewest_steps(scans: Scans, init: str, depth: int) -> Effect:
    """The fewest median steps of any standard deviation, which the note gives."""
    scan = scans[init, depth]
    at = scan.stds[int(np.argmin(scan.medians()))]
    return resampled(lambda seeds: float(scan.medians(seeds).min()), scan.num_seeds,
        unit=" steps", note=f"standard deviation {at:.2g}", least=1,
    )  # fmt: skip


def bands_figure(runs: dict[str, Scans], init: str) -> Figure:
    """Steps against standard deviations from one initialisation, a panel for each depth.

    The other initialisation's medians are thin and grey. The axes are the same for both. What
    never converges is on a line above the runs' length.
    """
    ((name, scans),) = runs.items()
    title = f"Steps to an excess loss of 1e-5, {init} initialisation, whitened {name}"
    figure, axes = make_figure(1, len(DEPTHS), title=title, size=(4.4, 3.7))
    cap = scans[init, DEPTHS[0]].num_steps
    stds = np.concatenate([scan.stds for scan in scans.values()])
    low = min(FAST, *(float(scan.medians().min()) for scan in scans.values())) / 2
    ceiling = cap * (cap / low) ** 0.09
    (other,) = set(INITIALISATIONS.values()) - {init}
    for ax, depth in zip(axes[0], DEPTHS, strict=True):
        ax.set(xscale="log", yscale="log", xlim=(stds.min() / 1.2, stds.max() * 1.2),
               ylim=(low, ceiling * (cap / low) ** 0.07))  # fmt: skip
        ax.axhspan(cap, ax.get_ylim()[1], color="0.93", linewidth=0)
        ax.axhline(FAST, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        limits = {ceiling * 1.12: f"not within {cap:,.0f} steps", FAST * 1.08: f"{FAST:,} steps"}
        for height, words in limits.items():
            ax.text(0.5, height, words, fontsize=7.5, color="0.35", ha="center", va="bottom",
                    transform=ax.get_yaxis_transform())  # fmt: skip
        _draw_medians(ax, scans[other, depth], ceiling, other, "0.6", 0.8)
        scan, colour = scans[init, depth], colour_of(depth)
        for steps in scan.steps[np.arange(len(scan.stds)), scan.best()].T:
            ax.plot(scan.stds, np.where(steps <= cap, steps, ceiling), color=colour,
                    linewidth=0.5, alpha=0.45)  # fmt: skip
        _draw_medians(ax, scan, ceiling, init, colour, 1.6)
        ax.set_title(f"depth {depth}", fontsize=10, color=colour)
        ax.set_xlabel("initial standard deviation", fontsize=8.5)
    axes[0, 0].set_ylabel("steps at the best rate")
    return figure


def _draw_medians(
    ax: Axes, scan: Scan, ceiling: float, label: str, colour: str, width: float
) -> None:
    """Medians over seeds as a line, on the ceiling where half of the seeds miss the target."""
    middle = scan.medians()
    reached = np.isfinite(middle)
    ax.plot(scan.stds, np.where(reached, middle, ceiling), color=colour, linewidth=width)
    ax.plot(scan.stds[reached], middle[reached], "o", color=colour, markersize=1 + 1.5 * width)
    ax.plot(scan.stds[~reached], np.full(np.sum(~reached), ceiling), "^", color=colour,
            markersize=2 + 1.5 * width)  # fmt: skip
    # At the lower end, where lines are far apart: above a falling line, below the ceiling.
    height, offset = (middle[0], 9) if reached[0] else (ceiling, -11)
    ax.annotate(label, (scan.stds[0], height), xytext=(4, offset), textcoords="offset points",
                fontsize=8, va="center", color=colour)  # fmt: skip
