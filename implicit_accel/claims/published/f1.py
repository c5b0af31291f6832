"""F1: standard deviations from layer-wise initialisations."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure, Range, Scaled
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.published.bands import (
    DEPTHS,
    FAST,
    Scans,
    band,
    band_runs,
    bands_figure,
    fewest_steps,
    share_of_shallow,
)
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.theory.laws import plateau_exponent

LAYER_WISE = {"init": ("layer-wise",), "depth": DEPTHS}
LAW = plateau_exponent(DEPTHS[0])


def run(context: Context) -> Found:
    """Steps over four decades of standard deviations, from both initialisations."""
    runs = band_runs(context)
    return Found(runs=runs, figures={"layer_wise_starts": bands_figure(runs, "layer-wise")})


def slowing(scans: Scans, depth: int, std: float) -> Effect:
    """How many times the fewest steps a standard deviation takes; a bound where it never converges.

    Args:
        scans: Of both initialisations.
        depth: The depth.
        std: One end of the range.
    """
    scan = scans["layer-wise", depth]
    end = int(np.argmin(np.abs(scan.stds - std)))

    def measure(seeds: np.ndarray) -> float:
        middle = scan.medians(seeds)
        fewest = float(middle.min())
        return min(middle[end], scan.num_steps) / fewest if math.isfinite(fewest) else math.nan

    middle = scan.medians()
    effect = resampled(measure, scan.num_seeds, least=1, most=scan.num_steps / float(middle.min()))
    if math.isfinite(middle[end]):
        return effect
    return replace(effect, bound=">", note=f"never within {scan.num_steps:,.0f} steps")


def exponent(scans: Scans, depth: int) -> Effect:
    """The steps' power of the standard deviation, over the range's lowest decade.

    NaN where half of the seeds miss the target at one of its standard deviations.
    """
    scan = scans["layer-wise", depth]
    lowest = scan.stds <= 10.01 * scan.stds[0]

    def measure(seeds: np.ndarray) -> float:
        middle = scan.medians(seeds)[lowest]
        if lowest.sum() < 2 or not np.isfinite(middle).all():
            return math.nan
        return float(np.polyfit(np.log(scan.stds[lowest]), np.log(middle), 1)[0])

    return resampled(measure, scan.num_seeds, unit="")


CLAIM = Claim(
    id="F1",
    statement="From layer-wise Gaussian initialisations a band of standard deviations converges in "
    "a few hundred iterations. Outside it convergence slows by orders of magnitude, and at depth 8 "
    "the band is narrow.",
    source=PAPER_2019,
    is_changed=True,
    run=run,
    choices=("depth",),
    measures=(
        Measure("band", band, LAYER_WISE),
        Measure("depth 8's band over depth 3's", share_of_shallow, {"init": ("layer-wise",)}),
        Measure(
            "steps over the fewest", slowing,
            {"depth": DEPTHS, "std": Scaled((1e-2, 1), (1e-4, 1), (1e-4, 1))},
        ),
        Measure("exponent of the steps", exponent, {"depth": DEPTHS[:1]}),
        Measure("fewest steps", fewest_steps, LAYER_WISE),
        Measure(f"band of {FAST // 3} steps", partial(band, limit=FAST // 3), LAYER_WISE),
    ),
    checks=(
        Check("band", low=0.0),
        Check("steps over the fewest", low=100.0, why="orders of magnitude: two"),
        Check(
            "exponent of the steps", high=0.0, size=Range(LAW - 0.1, LAW + 0.1, closed=True),
            why="the slowing must not depend on where the range ends",
        ),
        Check("depth 8's band over depth 3's", high=0.5),
    ),
    explained_by=("T6",),
    minutes=4.2,
    paper_hours=8.0,
)  # fmt: skip
