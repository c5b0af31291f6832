"""F2: standard deviations from balanced initialisations."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from experiments.claims.criteria import (
    Cause,
    Claim,
    Effect,
    Finding,
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
from implicit_accel.theory.laws import contraction, steps_at_the_optimum


def _gain(bands: Bands, depth: int) -> Effect:
    """By how many decades balance widens the band."""
    more = bands.draws["balanced", depth] - bands.draws["near_zero", depth]
    low, high = np.quantile(more, [0.025, 0.975])
    value = bands.widths["balanced", depth] - bands.widths["near_zero", depth]
    note = f"{bands.effect('balanced', depth)} against {bands.effect('near_zero', depth)}"
    label = f"{bands.name}, depth {depth}: balanced band minus layer-wise"
    return Effect(label, value, float(low), float(high), unit=" decades", note=note)


def _fewest(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Each depth's fewest steps, of the seeds that reach the target at both depths."""
    three, eight = (
        steps[int(np.argmin(np.median(steps, axis=1)))]
        for _, steps in (iterations(results, depth) for depth in DEPTHS)
    )
    both = np.isfinite(three) & np.isfinite(eight)
    return three[both], eight[both]


def _cost_of_depth(bands: Bands, init: str) -> Effect:
    """The fewest steps of depth 8 over those of depth 3."""
    three, eight = _fewest(bands.runs[init])
    label = f"{bands.name}, {INITIALISATIONS[init]}: fewest steps at depth 8 over depth 3"
    if not len(three):
        return Effect(label, math.nan)
    note = f"{np.median(eight):.0f} against {np.median(three):.0f}"
    return median_of(label, eight / three, note=note)


def _law(depth: int) -> float:
    return steps_at_the_optimum(depth, 0.5, 1e-5)


def _test(lab: Laboratory) -> Finding:
    bands = measure_bands(lab)
    gained = [_gain(bands, depth) for depth in DEPTHS]
    cost, layer_wise_cost = (_cost_of_depth(bands, init) for init in ("balanced", "near_zero"))
    parts = [*(above(e, 0.0) for e in gained), below(cost, 1.25)]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*gained, cost, layer_wise_cost),
        summary="Balance widens the band by "
        + " and ".join(f"{e} (depth {d})" for e, d in zip(gained, DEPTHS, strict=True))
        + f". At their best, depth 8 needs {cost} the steps of depth 3 ({cost.note}); from "
        f"layer-wise starts {layer_wise_cost}."
        + shortfall(
            verdict,
            "That depth should not hurt at all we read from the paper's figure, where both numbers "
            "are small.",
        ),
        cause=Cause(
            ("T6",),
            "Near the optimum a balanced network of depth N has the preconditioner's "
            "condition number N, so that a step leaves (N−1)/(N+1) of the distance at best: "
            f"{contraction(3):.3g} at depth 3, {contraction(8):.3g} at depth 8. To the target that "
            f"makes {_law(3):.3g} and {_law(8):.3g} steps, {_law(8) / _law(3):.3g} times as many: "
            "balance makes depth harmless, not free.",
        ),
        sensitivity="The layer-wise standard deviation is that of every layer, the balanced one "
        "that of the end-to-end matrix: their decades are counted alike, but are not the same "
        "quantity. Counted by the end-to-end matrix a layer-wise band is wider by the depth.",
        caveats=(f"Steps are capped at {lab.pick(200, 30_000, 10**6):,}; the paper's cap is 10⁶.",),
        tables={"Bands": bands.table},
        figures={"iterations": iterations_figure(bands.name, bands.runs)},
    )


CLAIM = Claim(
    id="F2",
    statement="A balanced start widens the band, and depth no longer hurts.",
    source=PAPER_2019,
    setting=f"As F1, from balanced starts. {SETTING}",
    criterion=f"At both depths the band (at most {FAST:,} steps) spans more decades than from "
    "layer-wise starts; the fewest steps of depth 8 are below 1.25 times those of depth 3, "
    "with the interval (a quarter: less than the distance between two rates of the grid).",
    test=_test,
    paper_hours=5.0,
)
