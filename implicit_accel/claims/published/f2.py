"""F2: standard deviations from balanced initialisations."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.published.bands import (
    DEPTHS,
    INITIALISATIONS,
    Scans,
    band,
    band_runs,
    bands_figure,
    share_of_shallow,
)
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.theory.laws import contraction, steps_at_the_optimum

LAW = math.log(contraction(DEPTHS[0])) / math.log(contraction(DEPTHS[1]))
"""Depth 8's fewest steps over depth 3's by the laws of the optimum, whatever the target."""

INITS = tuple(INITIALISATIONS.values())


def run(context: Context) -> Found:
    """F1's runs: steps over four decades of standard deviations, from both initialisations."""
    runs = band_runs(context)
    return Found(
        runs=runs,
        facts={
            "law": LAW,
            "contractions": [contraction(depth) for depth in DEPTHS],
            "law_steps": [steps_at_the_optimum(depth, 0.5, 1e-5) for depth in DEPTHS],
        },
        figures={"balanced_starts": bands_figure(runs, "balanced")},
    )


def gain(scans: Scans, depth: int) -> Effect:
    """The balanced band's width minus the layer-wise one's."""
    balanced, layer_wise = (scans[init, depth] for init in ("balanced", "layer-wise"))
    span = math.log10(balanced.stds[-1] / balanced.stds[0])
    return resampled(
        lambda seeds: balanced.band(seeds) - layer_wise.band(seeds), balanced.num_seeds,
        unit=" decades", note=f"{balanced.band():.3g} against {layer_wise.band():.3g}",
        least=-span, most=span,
    )  # fmt: skip


def cost_of_depth(scans: Scans, init: str, over: float = 1.0) -> Effect:
    """The fewest steps of depth 8 over those of depth 3, divided by a number."""
    three, eight = (scans[init, depth] for depth in DEPTHS)

    def measure(seeds: np.ndarray) -> float:
        fewest = three.medians(seeds).min()
        return float(eight.medians(seeds).min() / fewest / over) if np.isfinite(fewest) else np.nan

    note = f"{eight.medians().min():.0f} against {three.medians().min():.0f}"
    most = three.num_steps / float(three.medians().min()) / over
    return resampled(measure, three.num_seeds, note=note, unit="", least=0, most=most)


CLAIM = Claim(
    id="F2",
    statement="A balanced initialisation widens the band, and depth no longer hurts.",
    source=PAPER_2019,
    is_changed=True,
    run=run,
    choices=("depth",),
    measures=(
        Measure("gain of the balanced band", gain, {"depth": DEPTHS}),
        Measure("depth 8's band over depth 3's", share_of_shallow, {"init": INITS}),
        Measure(
            "cost of depth over the law's", partial(cost_of_depth, over=LAW),
            {"init": ("balanced",)},
        ),
        Measure("cost of depth", cost_of_depth, {"init": INITS}),
        Measure("band", band, {"init": INITS, "depth": DEPTHS}),
    ),
    checks=(
        Check("gain of the balanced band", low=0.0),
        Check(
            "depth 8's band over depth 3's", {"init": "balanced"}, low=0.5,
            why="F1 calls it narrow below that",
        ),
        Check(
            "cost of depth over the law's", high=1.25,
            why="a quarter is less than the distance between two rates of the grid",
        ),
    ),
    explained_by=("T6",),
    minutes=0.05,
    paper_hours=8.0,
)  # fmt: skip
