"""F1: standard deviations from layer-wise initialisations."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from experiments.claims.criteria import (
    Cause,
    Claim,
    Effect,
    Finding,
    Part,
    above,
    below,
    judge,
    shortfall,
)
from experiments.claims.toolkit.bands import (
    DEPTHS,
    FAST,
    INITIALISATIONS,
    SETTING,
    Bands,
    iterations,
    iterations_figure,
    measure_bands,
)
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import median_of
from experiments.claims.toolkit.sources import PAPER_2019
from implicit_accel.theory.laws import plateau_exponent


def _share(bands: Bands) -> Effect:
    """Depth 8's band as a share of depth 3's."""
    wide, narrow = ((bands.widths["near_zero", d], bands.draws["near_zero", d]) for d in DEPTHS)
    shares = narrow[1] / np.maximum(wide[1], 1e-9)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Effect(
        f"{bands.name}: depth 8's band as a share of depth 3's",
        narrow[0] / wide[0] if wide[0] else math.nan,
        float(low),
        float(high),
        unit="",
        note=f"{narrow[0]:.2g} against {wide[0]:.2g} decades",
    )


def _slower(bands: Bands, depth: int) -> list[Effect]:
    """How many times the fewest steps the two ends of the range take."""
    stds, steps = iterations(bands.runs["near_zero"], depth)
    fewest = steps[int(np.argmin(np.median(steps, axis=1)))]
    # Seeds that do not even reach the target at the best standard deviation say nothing here.
    valid = np.isfinite(fewest)
    label = f"{bands.name}, depth {depth}: steps at std {{:.2g}} over the fewest"
    return [
        median_of(label.format(stds[end]), steps[end][valid] / fewest[valid])
        if valid.any()
        else Effect(label.format(stds[end]), math.nan)
        for end in (0, -1)
    ]


def _narrower(results: xr.Dataset, depth: int, most: int) -> float:
    stds, steps = iterations(results, depth)
    return float(np.sum(np.median(steps, axis=1) <= most) * math.log10(stds[1] / stds[0]))


def _judge(bands: Bands, share: Effect, slower: dict[int, list[Effect]]) -> list[Part]:
    parts = []
    for depth, ends in slower.items():
        band = bands.effect("near_zero", depth)
        parts += [above(band, 0.0), *(above(e, 100.0) for e in ends)]
    return [*parts, below(share, 0.5)]


def _below_the_band(results: xr.Dataset) -> str:
    """How the steps grow as the standard deviation falls, as text."""
    stds, steps = iterations(results, DEPTHS[0])
    middle = np.median(steps, axis=1)
    decade = int(np.argmin(np.abs(stds - 10 * stds[0])))
    if not np.isfinite(middle[[0, decade]]).all() or decade == 0:
        return ""
    return (
        f"Below the band depth 3 slows down gently: from std {stds[decade]:.2g} to {stds[0]:.2g} "
        f"its steps grow {middle[0] / middle[decade]:.2g} times, so that the factor depends on "
        "where the range ends."
    )


def _bands_in_words(bands: Bands) -> str:
    return "; ".join(
        f"depth {r['depth']}: at most {FAST:,} steps for stds {r['band']} "
        f"({r['band (decades)']:.2g} decades), fewest {r['fewest steps']:.0f} at "
        f"{r['best std']:.2g}"
        for r in bands.table.to_dict("records")
        if r["start"] == INITIALISATIONS["near_zero"]
    )


def _test(lab: Laboratory) -> Finding:
    bands = measure_bands(lab)
    layer_wise = bands.runs["near_zero"]
    share, slower = _share(bands), {depth: _slower(bands, depth) for depth in DEPTHS}
    parts = _judge(bands, share, slower)
    ends = [(depth, effect) for depth, effects in slower.items() for effect in effects]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(
            *(bands.effect("near_zero", d) for d in DEPTHS),
            share,
            *(effect for _, effect in ends),
        ),
        summary=f"{_bands_in_words(bands)}. At the ends of the range, ∞ for never: "
        + "; ".join(f"{e.name.split(': ', 1)[1]} {e} (depth {d})" for d, e in ends)
        + f". Depth 8's band is {share} of depth 3's."
        + shortfall(verdict, _below_the_band(layer_wise)),
        cause=Cause(
            ("T6",),
            "Below the band the steps grow as the standard deviation to the power "
            f"−(N−2), {10 ** -plateau_exponent(3):g} times a decade at depth 3 and "
            f"{10 ** -plateau_exponent(8):,} times at depth 8: gently at the one, like a wall at "
            "the other, which is why depth 8's band is narrow.",
        ),
        sensitivity="The band's width in decades depends on what counts as fast; with "
        f"{FAST // 3} steps instead of {FAST:,} it is "
        + ", ".join(f"{_narrower(layer_wise, d, FAST // 3):.2g} (depth {d})" for d in DEPTHS)
        + " decades.",
        caveats=(
            f"Steps are capped at {lab.pick(200, 30_000, 10**6):,}; the paper's cap is 10⁶. The "
            "layer-wise range was widened downwards after a first look.",
        ),
        tables={"Bands": bands.table},
        figures={"iterations": iterations_figure(bands.name, bands.runs)},
    )


CLAIM = Claim(
    id="F1",
    statement="From a layer-wise Gaussian start a band of standard deviations converges in a "
    "few hundred iterations; outside it convergence slows by orders of magnitude, and at "
    "depth 8 the band is narrow.",
    source=PAPER_2019,
    setting=f"{SETTING} Depths 3 and 8.",
    criterion=f"At both depths some standard deviation converges within {FAST:,} steps, and "
    "both ends of the range take 100 times the fewest steps or never reach the target; depth 8's "
    "band spans at most half of depth 3's decades.",
    test=_test,
    paper_hours=5.0,
)
