"""Effects measured on results: numbers, each with its 95 % interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from experiments.claims.criteria import Effect
from implicit_accel.statistics import valid_steps

_RESAMPLES = 1000


def model_number(results: xr.Dataset, **coordinates: object) -> int:
    """The number of the one model with these coordinates."""
    chosen = np.ones(results.sizes["model"], bool)
    for name, value in coordinates.items():
        chosen &= results[name].values == value
    (number,) = np.flatnonzero(chosen)
    return int(number)


def effects_table(effects: list[Effect]) -> pd.DataFrame:
    """Effects as rows."""
    return pd.DataFrame([{"effect": e.name, "value": str(e), "remarks": e.note} for e in effects])


def median_of(name: str, values: np.ndarray, *, unit: str = "×", note: str = "") -> Effect:
    """The median over seeds, with the percentile bootstrap's 95 % interval.

    Args:
        name: Of the effect.
        values: One per seed; infinities are allowed (a run that never reaches the target).
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
        happened: Booleans, one per seed; without any there is no value.
        note: What else must be known.
    """
    if not len(happened):
        return Effect(name, math.nan, unit=" %", note=note or "there are none")
    test = scipy.stats.binomtest(int(np.sum(happened)), len(happened))
    interval = test.proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    return Effect(name, 100 * float(np.mean(happened)), low, high, unit=" %", note=note)


def resampled(
    name: str,
    measure: Callable[[np.ndarray], float],
    repeats: int,
    *,
    unit: str = "×",
    note: str = "",
) -> Effect:
    """A measure of some repeats, with the percentile bootstrap's interval over all of them."""
    draws = np.random.default_rng(0).integers(repeats, size=(500, repeats))
    low, high = np.quantile([measure(draw) for draw in draws], [0.025, 0.975])
    value = measure(np.arange(repeats))
    return Effect(name, value, float(low), float(high), unit=unit, note=note)


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
    anew: what the choice of the rate adds to the uncertainty is in it. A run that does not reach
    the target within T steps counts as T: then the ratio is a bound (see `compare`).

    Args:
        baseline: (L, S) steps of the model compared with, inf where a run did not reach the target.
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


def level_of(results: xr.Dataset, model: int, share: float) -> float:
    """An excess loss, as a share of the zero predictor's."""
    return share * float(results["zero_loss"][model] - results["optimum"][model])


def steps_to_level(results: xr.Dataset, model: int, share: float) -> np.ndarray:
    """The first recorded steps whose excess loss is a share of the zero predictor's or less.

    As exact as the records are dense, unlike a sweep's own steps to its target.

    Args:
        results: A sweep's.
        model: Number of the model.
        share: Of the zero predictor's excess loss.

    Returns:
        (learning_rate, seed) steps, inf where a run does not get there.
    """
    below = results["excess_loss"].values[model] <= level_of(results, model, share)
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
        share: The target, as a share of the zero predictor's excess loss (see `steps_to_level`),
            if it is not the sweep's own.

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
