"""F2: standard deviations from balanced initialisations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, above, below, judge, shortfall
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.published.bands import (
    DEPTHS,
    FAST,
    INITIALISATIONS,
    SETTING,
    Bands,
    bands_figure,
    measure_bands,
)
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.theory.laws import contraction, steps_at_the_optimum

# The fewest steps of depth 8 over those of depth 3 by the laws of the optimum, whatever the target.
LAW = math.log(contraction(DEPTHS[0])) / math.log(contraction(DEPTHS[1]))

_SHARE, _TOLERANCE = 0.5, 1.25


def _gain(bands: Bands, depth: int) -> Effect:
    """By how many decades balance widens the band."""
    balanced, layer_wise = (bands.grids[init, depth] for init in ("balanced", "near_zero"))
    note = f"{balanced.band():.3g} against {layer_wise.band():.3g}"
    span = math.log10(balanced.stds[-1] / balanced.stds[0])
    return resampled(
        f"{bands.name}, depth {depth}: balanced band minus layer-wise",
        lambda seeds: balanced.band(seeds) - layer_wise.band(seeds),
        bands.num_seeds, unit=" decades", note=note, least=-span, most=span,
    )  # fmt: skip


def _cost_of_depth(bands: Bands, init: str, over: float = 1.0, words: str = "") -> Effect:
    """The fewest steps of depth 8 over those of depth 3, over a number."""
    three, eight = (bands.grids[init, depth] for depth in DEPTHS)

    def measure(seeds: np.ndarray) -> float:
        fewest = three.medians(seeds).min()
        return float(eight.medians(seeds).min() / fewest / over) if np.isfinite(fewest) else np.nan

    label = f"{bands.name}, {INITIALISATIONS[init]}: fewest steps at depth 8 over depth 3{words}"
    note = f"{eight.medians().min():.0f} against {three.medians().min():.0f}"
    most = three.num_steps / float(three.medians().min()) / over
    return resampled(label, measure, bands.num_seeds, note=note, unit="", least=0, most=most)


@dataclass(frozen=True)
class Effects:
    """What F2 is judged by.

    Attributes:
        gains: By how many decades balance widens the band, by depth.
        share: Depth 8's balanced band over depth 3's.
        cost: The fewest steps of depth 8 over depth 3's, over the law's ratio.
    """

    gains: dict[int, Effect]
    share: Effect
    cost: Effect


def measure(bands: Bands) -> Effects:
    """The claim's effects."""
    return Effects(
        {depth: _gain(bands, depth) for depth in DEPTHS},
        bands.share("balanced"),
        _cost_of_depth(bands, "balanced", LAW, f", over the law's {LAW:.3g}"),
    )


def parts(found: Effects) -> list[Part]:
    """The criterion."""
    return [
        *(above(gain, 0.0) for gain in found.gains.values()),
        above(found.share, _SHARE),
        below(found.cost, _TOLERANCE),
    ]


def _law(depth: int) -> float:
    return steps_at_the_optimum(depth, 0.5, 1e-5)


def _test(lab: Context) -> Finding:
    bands = measure_bands(lab)
    found = measure(bands)
    cost, layer_wise_cost = (_cost_of_depth(bands, init) for init in ("balanced", "near_zero"))
    layer_wise_share = bands.share("near_zero")
    verdict = judge(parts(found))
    return Finding(
        verdict=verdict,
        effects=(*found.gains.values(), found.share, found.cost, cost, layer_wise_cost),
        summary="Balance widens the band by "
        + " and ".join(f"{e} (depth {d})" for d, e in found.gains.items())
        + f". Depth 8's band is {found.share} of depth 3's, from layer-wise starts "
        f"{layer_wise_share}. At their best, depth 8 needs {cost} times the steps of depth 3 "
        f"({cost.note}), {found.cost} of what the condition numbers 3 and 8 alone make of it; from "
        f"layer-wise starts {layer_wise_cost} times ({layer_wise_cost.note})." + shortfall(verdict),
        cause=Cause(
            ("T6",),
            "Near the optimum a balanced network of depth N has the preconditioner's "
            "condition number N, so that a step leaves (N−1)/(N+1) of the distance at best: "
            f"{contraction(3):.3g} at depth 3, {contraction(8):.3g} at depth 8. To the target that "
            f"makes {_law(3):.3g} and {_law(8):.3g} steps, {LAW:.3g} times as many: "
            "balance makes depth harmless, not free.",
        ),
        sensitivity="The layer-wise standard deviation is that of every layer, the balanced one "
        "that of the end-to-end matrix: their decades are counted alike, but are not the same "
        "quantity. Counted by the end-to-end matrix, whose size goes as the standard deviation to "
        "the power of the depth, the layer-wise bands are "
        + " and ".join(
            f"{depth * bands.effect('near_zero', depth).value:.2g} decades (depth {depth})"
            for depth in DEPTHS
        )
        + ": as wide as the whole range of balanced starts that was tried, or wider. By that count "
        "it is not shown that balance widens the band. The balanced bands reach to an end of the "
        "range, so that their widths are lower bounds.",
        caveats=(
            f"Steps are capped at {bands.num_steps:,.0f}; the paper's cap is 10⁶. What depth may "
            "cost is judged against the law since a first criterion, that it cost at most a "
            "quarter, was seen to contradict it. Rates that fewer than nine of ten seeds survive "
            "were excluded after a look at intervals in which a single seed did.",
        ),
        tables={"Bands": bands.table()},
        figures={"balanced_starts": bands_figure(bands, "balanced")},
    )


CLAIM = Claim(
    id="F2",
    statement="A balanced start widens the band, and depth no longer hurts.",
    source=PAPER_2019,
    setting=f"As F1, from balanced starts. {SETTING}",
    criterion=f"At both depths the band (at most {FAST:,} steps) spans more decades than from "
    f"layer-wise starts. Depth no longer hurts: depth 8's band spans above {_SHARE:g} of depth 3's "
    "decades (F1 calls it narrow below that), and its fewest steps over depth 3's are below "
    f"{_TOLERANCE:g} times the ratio {LAW:.3g} that their condition numbers near the optimum give. "
    "That much any start pays, so that only what comes on top can be the start's fault; a quarter "
    "is less than the distance between two rates of the grid.",
    test=_test,
    minutes=0.05,
    paper_hours=8.0,
)
