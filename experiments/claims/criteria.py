"""Claims and how they are judged: criteria that are fixed before looking.

A claim's experiment yields *effects*, each a number with a 95 % interval over seeds. A criterion
says where that number should lie; what the interval leaves open is not decided. Verdicts of a
claim's parts are put together: all reproduced, none, or partly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.statistics import valid_steps

_RESAMPLES = 1000


class Verdict(StrEnum):
    """What became of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Effect:
    """A number that a claim is about.

    Attributes:
        name: What it is, e.g. "Ethanol, ℓ4, depth 2".
        value: Its estimate.
        low: Lower end of its 95 % interval over seeds; NaN if there is none.
        high: Upper end.
        unit: Behind the number, e.g. "×", or a plural, e.g. " steps".
        note: What else must be known, e.g. a rate at the edge of the grid.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = "×"
    note: str = ""

    def __str__(self) -> str:
        """Value and interval, as text."""
        if math.isnan(self.value):
            return "no value"
        number = _number(self.value)
        text = number + (self.unit.removesuffix("s") if number == "1" else self.unit)
        if not (math.isnan(self.low) or math.isnan(self.high)):
            text += f" [{_number(self.low)}, {_number(self.high)}]"
        return text


def _number(value: float) -> str:
    """Three digits, large ones in full; the sign for what never happens."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def above(effect: Effect, threshold: float) -> Verdict:
    """Judges "the effect is larger than the threshold" by its interval.

    Without an interval (a number that does not depend on a seed) the value decides.
    """
    low, high = _ends(effect)
    if math.isnan(effect.value):
        return Verdict.NOT_REPRODUCED
    if low > threshold:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if high <= threshold else Verdict.PARTLY


def below(effect: Effect, threshold: float) -> Verdict:
    """Judges "the effect is smaller than the threshold", see `above`."""
    low, high = _ends(effect)
    if math.isnan(effect.value):
        return Verdict.NOT_REPRODUCED
    if high < threshold:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if low >= threshold else Verdict.PARTLY


def within(effect: Effect, low: float, high: float) -> Verdict:
    """Judges "the effect lies in this range", ends included, see `above`."""
    bottom, top = _ends(effect)
    if math.isnan(effect.value) or top < low or bottom > high:
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if low <= bottom and top <= high else Verdict.PARTLY


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts; parts that were not tested do not count."""
    tested = {v for v in verdicts if v != Verdict.NOT_TESTED}
    if not tested:
        return Verdict.NOT_TESTED
    return tested.pop() if len(tested) == 1 else Verdict.PARTLY


Part = tuple[Effect, Verdict]
"""A part of a criterion: what was measured, and the verdict on it."""


def verdict_of(parts: Sequence[Part]) -> Verdict:
    """The verdict on a claim of several parts, see `together`."""
    return together([verdict for _, verdict in parts])


def shortfall(parts: Sequence[Part], why: str = "") -> str:
    """What keeps a claim from being reproduced, as sentences; empty if nothing does.

    Args:
        parts: Of its criterion.
        why: The reason, as far as it is known.
    """
    missing = []
    for words, verdict in (
        ("Not as claimed", Verdict.NOT_REPRODUCED),
        ("Not decided by its interval", Verdict.PARTLY),
    ):
        found = [f"{effect.name} ({effect})" for effect, v in parts if v == verdict]
        missing += [f" {words}: {'; '.join(found)}."] if found else []
    return "".join([*missing, f" {why or 'Why, we do not know.'}"]) if missing else ""


def any_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim that may hold under one reading or another; the best one's."""
    order = (Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED)
    return next((v for v in order if v in verdicts), Verdict.NOT_TESTED)


def _ends(effect: Effect) -> tuple[float, float]:
    low = effect.value if math.isnan(effect.low) else effect.low
    high = effect.value if math.isnan(effect.high) else effect.high
    return low, high


def median_of(name: str, values: np.ndarray, *, unit: str = "×", note: str = "") -> Effect:
    """The median over seeds, with the percentile bootstrap's 95 % interval.

    Args:
        name: Of the effect.
        values: One per seed; infinities are allowed (a run that never arrives).
        unit: Behind the number.
        note: What else must be known.
    """
    values = np.asarray(values, float)
    value = float(np.median(values))
    if len(values) < 2:
        return Effect(name, value, unit=unit, note=note)
    rng = np.random.default_rng(0)
    medians = np.median(values[rng.integers(len(values), size=(_RESAMPLES, len(values)))], axis=1)
    # Drawn values: between a number and infinity there is no interpolating.
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    return Effect(name, value, float(low), float(high), unit=unit, note=note)


def share_of(name: str, happened: np.ndarray, *, note: str = "") -> Effect:
    """How often something happened, in per cent, with Wilson's 95 % interval.

    Args:
        name: Of the effect.
        happened: Booleans, one per seed.
        note: What else must be known.
    """
    test = scipy.stats.binomtest(int(np.sum(happened)), len(happened))
    interval = test.proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    return Effect(name, 100 * float(np.mean(happened)), low, high, unit=" %", note=note)


@dataclass(frozen=True)
class Finding:
    """What an experiment showed.

    Attributes:
        verdict: On the claim.
        effects: The numbers; the first is the claim's headline.
        summary: What was seen, in a few sentences; where the verdict differs from the source,
            why, or that we do not know.
        sensitivity: The choices that the verdict depends on, or that it was seen not to.
        caveats: What else a reader must know.
        tables: Title → data frame.
        figures: File name → matplotlib figure; the first is shown beside the number.
    """

    verdict: Verdict
    effects: tuple[Effect, ...]
    summary: str
    sensitivity: str = ""
    caveats: tuple[str, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of the literature, with the experiment that judges it.

    Attributes:
        id: As in the list of claims, e.g. ``P3b``.
        statement: In our words.
        source: Who says so, where, and how well that is known.
        setting: What is run.
        criterion: By what it is judged, with its tolerance and the reason for it.
        test: Runs the experiment in a laboratory (see `experiments.claims.laboratory`).
        paper_hours: About what the sources' full lengths take on 2 CPU cores: the time at standard
            scale times how many times more there is to train.

    Raises:
        UserError: If a text is empty, or the hours are not a number above 0.
    """

    id: str
    statement: str
    source: str
    setting: str
    criterion: str
    test: Callable[[Any], Finding]
    paper_hours: float

    def __post_init__(self) -> None:
        if not 0 < self.paper_hours < math.inf:
            raise UserError(f"claim {self.id}: paper_hours must be a number above 0")
        for name in ("id", "statement", "source", "setting", "criterion"):
            if not getattr(self, name).strip():
                raise UserError(f"claim {self.id}: {name} is empty")


def chosen_speed_up(
    baseline: np.ndarray,
    steps: np.ndarray,
    *,
    num_steps: int,
    usable: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Ratio of median steps to a target, each side at its own best learning rate.

    The interval is the percentile bootstrap over seeds, and every resample chooses the rates
    anew: what the choice of the rate adds to the uncertainty is in it. A run that does not arrive
    within T steps counts as T: then the ratio is a bound (see `compare`).

    Args:
        baseline: (L, S) steps of the model compared with, inf where a run did not arrive.
        steps: (L', S') steps of the model.
        num_steps: T.
        usable: For each side (L,) booleans, which rates may be chosen; all by default.
        seed: Of the resampling.

    Returns:
        Ratio, and the ends of its 95 % interval (NaN with fewer than two seeds).
    """
    rng = np.random.default_rng(seed)
    masks = usable or (np.ones(len(baseline), bool), np.ones(len(steps), bool))
    sides = []
    for values, mask in zip((baseline, steps), masks, strict=True):
        kept = np.maximum(np.minimum(values[mask], num_steps), 1)
        kept = kept if len(kept) else np.full((1, values.shape[1]), float(num_steps))
        S = kept.shape[1]
        draws = rng.integers(S, size=(_RESAMPLES, S))
        best = np.median(kept, axis=1).min()
        resampled = np.stack([np.median(kept[:, draw], axis=1).min() for draw in draws])
        sides.append((best, resampled))
    (base, base_draws), (own, own_draws) = sides
    if min(baseline.shape[1], steps.shape[1]) < 2:
        return float(base / own), math.nan, math.nan
    low, high = np.quantile(base_draws / own_draws, [0.025, 0.975])
    return float(base / own), float(low), float(high)


# More than this share of diverging runs makes a learning rate unusable.
_MOST_DIVERGED = 0.1


def steps_to_level(results: xr.Dataset, model: int, share: float) -> np.ndarray:
    """The first recorded steps whose excess loss is a share of the zero map's or less.

    As exact as the records are dense, unlike a sweep's own steps to its target.

    Args:
        results: A sweep's.
        model: Number of the model.
        share: Of the zero map's excess loss.

    Returns:
        (learning_rate, seed) steps, inf where a run does not get there.
    """
    level = share * float(results["zero_loss"][model] - results["optimum"][model])
    below = results["excess_loss"].values[model] <= level
    steps = results["step"].values
    return np.where(below.any(axis=-1), steps[np.argmax(below, axis=-1)], np.inf)


def compare(
    results: xr.Dataset,
    model: int,
    base: int,
    *,
    name: str,
    base_results: xr.Dataset | None = None,
    share: float | None = None,
) -> Effect:
    """The speed-up of a model over another, each at its own best learning rate.

    Args:
        results: A sweep's.
        model: Number of the model.
        base: Number of the model compared with.
        name: Of the effect.
        base_results: Where that one is, if in another sweep (with as many steps).
        share: The target, as a share of the zero map's excess loss (see `steps_to_level`), if it
            is not the sweep's own.

    Returns:
        The effect. Its note says what makes it a bound, whether a rate lay at the edge of the
        grid, and what every second learning rate alone would have given.
    """
    sides = ((base_results if base_results is not None else results, base), (results, model))
    num_steps = int(results.attrs["num_steps"])
    steps, usable, notes = [], [], []
    for (run, m), who in zip(sides, ("baseline", "model"), strict=True):
        values = valid_steps(run)[m] if share is None else steps_to_level(run, m, share)
        lost = np.isfinite(run["divergence_step"].values[m]) & ~np.isfinite(values)
        mask = lost.mean(axis=1) <= _MOST_DIVERGED
        steps.append(values)
        usable.append(mask)
        medians = np.where(mask, np.median(values, axis=1), np.inf)
        if not np.isfinite(medians).any():
            notes.append(f"the {who} never reached the target: a bound")
        elif len(medians) > 1:
            place = int(np.argmin(medians))
            edge = {0: "lowest", len(medians) - 1: "highest"}.get(place)
            # A higher rate that diverges bounds the choice from above: that is no edge.
            if edge:
                notes.append(f"the {who}'s best rate is the {edge} of the grid")
    if not any(np.isfinite(s[mask]).any() for s, mask in zip(steps, usable, strict=True)):
        return Effect(name, math.nan, note="neither reached the target")
    value, low, high = chosen_speed_up(
        steps[0], steps[1], num_steps=num_steps, usable=(usable[0], usable[1])
    )
    if all(len(s) >= 6 for s in steps):
        halves = [
            chosen_speed_up(
                steps[0][i::2], steps[1][i::2], num_steps=num_steps,
                usable=(usable[0][i::2], usable[1][i::2]),
            )[0]
            for i in (0, 1)
        ]  # fmt: skip
        notes.append(f"every second rate alone: {halves[0]:.3g}× and {halves[1]:.3g}×")
    return Effect(name, value, low, high, note="; ".join(notes))
