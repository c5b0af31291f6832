"""F1: standard deviations from layer-wise initialisations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import (
    Cause,
    Finding,
    Part,
    Range,
    above,
    below,
    judge,
    shortfall,
)
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.published.bands import (
    DEPTHS,
    FAST,
    INITIALISATIONS,
    SETTING,
    Bands,
    Grid,
    bands_figure,
    measure_bands,
)
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.theory.laws import plateau_exponent

# "Orders of magnitude": two.
_SLOWER = 100.0


def _end(bands: Bands, depth: int, end: int) -> Effect:
    """How many times the fewest steps one end of the range takes; a bound where it never arrives.

    Args:
        bands: Steps.
        depth: Of the networks.
        end: 0 for the lower end, −1 for the upper.
    """
    grid = bands.grids["near_zero", depth]

    def measure(seeds: np.ndarray) -> float:
        middle = grid.medians(seeds)
        # At the best standard deviation most seeds arrive: else nothing is to be compared with.
        fewest = float(middle.min())
        return min(middle[end], grid.num_steps) / fewest if math.isfinite(fewest) else math.nan

    middle = grid.medians()
    never = not math.isfinite(middle[end])
    note = f"at least: never within {grid.num_steps:,.0f} steps" if never else ""
    name = f"{bands.name}, depth {depth}: steps at std {grid.stds[end]:.2g} over the fewest"
    most = grid.num_steps / float(middle.min())
    return resampled(name, measure, bands.num_seeds, note=note, least=1, most=most)


def slope_below(grid: Grid, seeds: np.ndarray | None = None) -> float:
    """The steps' exponent in the standard deviation, over the range's lowest decade.

    NaN where half of some seeds do not arrive.
    """
    lowest = grid.stds <= 10.01 * grid.stds[0]
    middle = grid.medians(seeds)[lowest]
    if lowest.sum() < 2 or not np.isfinite(middle).all():
        return math.nan
    return float(np.polyfit(np.log(grid.stds[lowest]), np.log(middle), 1)[0])


@dataclass(frozen=True)
class Effects:
    """What F1 is judged by.

    Attributes:
        bands: Their widths in decades, by depth.
        ends: Steps at the range's two ends over the fewest, by depth.
        slope: The steps' exponent below depth 3's band.
        share: Depth 8's band over depth 3's.
    """

    bands: dict[int, Effect]
    ends: dict[int, tuple[Effect, Effect]]
    slope: Effect
    share: Effect

    @property
    def all(self) -> tuple[Effect, ...]:
        """The bands first."""
        ends = (effect for pair in self.ends.values() for effect in pair)
        return *self.bands.values(), self.share, *ends, self.slope


def measure(bands: Bands) -> Effects:
    """The claim's effects."""
    grid = bands.grids["near_zero", DEPTHS[0]]
    return Effects(
        {depth: bands.effect("near_zero", depth) for depth in DEPTHS},
        {depth: (_end(bands, depth, 0), _end(bands, depth, -1)) for depth in DEPTHS},
        resampled(
            f"{bands.name}, depth {DEPTHS[0]}: exponent of the steps in the standard deviation "
            "over the range's lowest decade",
            lambda seeds: slope_below(grid, seeds), bands.num_seeds, unit="",
        ),
        bands.share("near_zero"),
    )  # fmt: skip


def parts(found: Effects) -> list[Part]:
    """The criterion."""
    law = plateau_exponent(DEPTHS[0])
    return [
        *(above(band, 0.0) for band in found.bands.values()),
        *(above(end, _SLOWER) for ends in found.ends.values() for end in ends),
        below(found.slope, 0.0, Range(law - 0.1, law + 0.1, closed=True)),
        below(found.share, 0.5),
    ]


def _decades_at_most(grid: Grid, most: int) -> float:
    """Decades in which it takes so many steps or fewer."""
    # The limit's place in the formula is taken by the scale of the steps.
    scaled = grid.medians() * FAST / most
    return Grid(grid.stds, scaled[:, None, None], grid.rates[:1], grid.num_steps).band()


def _bands_in_words(bands: Bands) -> str:
    return "; ".join(
        f"depth {r['depth']}: at most {FAST:,} steps for stds {r['band']} "
        f"({r['band (decades)']:.2g} decades), fewest {r['fewest steps']:.0f} at "
        f"{r['best std']:.2g}"
        for r in bands.table().to_dict("records")
        if r["start"] == INITIALISATIONS["near_zero"]
    )


def _test(lab: Context) -> Finding:
    bands = measure_bands(lab)
    found = measure(bands)
    verdict = judge(parts(found))
    ends = [(depth, effect) for depth, pair in found.ends.items() for effect in pair]
    return Finding(
        verdict=verdict,
        effects=found.all,
        summary=f"{_bands_in_words(bands)}. At the ends of the range: "
        + "; ".join(
            f"{e.name.split(': ', 1)[1]} {'at least ' if e.note else ''}{e} (depth {d})"
            for d, e in ends
        )
        + f". Depth 8's band is {found.share} of depth 3's. Over the range's lowest decade depth "
        f"3's steps grow with the power {found.slope} of the standard deviation."
        + shortfall(verdict),
        cause=Cause(
            ("T6",),
            "Below the band the steps grow as the standard deviation to the power "
            f"−(N−2), {10 ** -plateau_exponent(3):g} times a decade at depth 3 and "
            f"{10 ** -plateau_exponent(8):,} times at depth 8 (measured at depth 3: the power "
            f"{found.slope} over the lowest decade): gently at the one, like a wall at "
            "the other, which would make depth 8's band as narrow as it is. Depth 8's own power "
            "was not measured: its steps leave the runs' length too soon.",
        ),
        sensitivity="How much slower the lower end is depends on where the range ends: that is why "
        "the power is judged as well. The bands' widths depend on what counts as fast; with "
        f"{FAST // 3} steps instead of {FAST:,} they are "
        + ", ".join(
            f"{_decades_at_most(bands.grids['near_zero', d], FAST // 3):.2g} (depth {d})"
            for d in DEPTHS
        )
        + " decades.",
        caveats=(
            f"Steps are capped at {bands.num_steps:,.0f}; the paper's cap is 10⁶. The range was "
            "widened downwards twice, after looks at narrower ones, and rates that fewer than nine "
            "of ten seeds survive were excluded after a look at intervals in which a single one "
            "did.",
        ),
        tables={"Bands": bands.table()},
        figures={"layer_wise_starts": bands_figure(bands, "near_zero")},
    )


CLAIM = Claim(
    id="F1",
    statement="From a layer-wise Gaussian start a band of standard deviations converges in a "
    "few hundred iterations; outside it convergence slows by orders of magnitude, and at "
    "depth 8 the band is narrow.",
    source=PAPER_2019,
    setting=f"{SETTING} Depths 3 and 8.",
    criterion=f"At both depths a band of standard deviations (its width above 0 decades) converges "
    f"within {FAST:,} steps, and both ends of the range take more than {_SLOWER:.0f} times the "
    "fewest steps, where a median run that never arrives counts as the runs' length; depth 8's "
    "band spans less than half of depth 3's decades. Over the range's lowest decade depth 3's "
    "steps grow as the standard deviation falls (exponent below 0; in size within 0.1 of the "
    "plateau law's −1), so that the slowing down does not hang on where the range ends.",
    test=_test,
    minutes=4.2,
    paper_hours=8.0,
)
