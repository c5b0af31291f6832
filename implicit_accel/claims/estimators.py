"""Effects measured on results: numbers, each with its interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from implicit_accel import intervals, statistics
from implicit_accel.claims.effects import Design, Effect, Kind
from implicit_accel.errors import DataError
from implicit_accel.intervals import Interval, ModelRuns
from implicit_accel.results import matching, trained
from implicit_accel.statistics import counts_as_diverged, valid_steps


def model_number(results: xr.Dataset, **coordinates: object) -> int:
    """The number of the one model with these coordinates.

    Raises:
        DataError: If there is none, or several; the message lists the values there are.
    """
    numbers = matching(results, coordinates)
    if len(numbers) > 1:
        raise DataError(f"{len(numbers)} models have {coordinates}: give more coordinates")
    return int(numbers[0])


def _effect(at: Callable[[float], Interval], unit: str, note: str, design: Design) -> Effect:
    """An effect with its 95 % interval, and with what gives any other."""
    found = at(intervals.CONFIDENCE)
    return Effect(
        "", found.value, found.low, found.high, unit=unit, note=note,
        confidence=found.confidence, design=design, at=at,
    )  # fmt: skip


def median(
    values: np.ndarray, *, unit: str = "×", note: str = "",
    least: float = -math.inf, most: float = math.inf,
) -> Effect:  # fmt: skip
    """The median over seeds, see `intervals.of_median`.

    Args:
        values: One per seed; infinities are allowed (a run that never reaches the target).
        unit: Behind the number.
        note: What else must be known.
        least: The smallest value that could have come out.
        most: The largest.
    """
    values = np.asarray(values, float)
    if not len(values):
        return Effect("", math.nan, unit=unit, note=note or "there are none")
    design = Design(Kind.MEDIAN, len(values), least, most)
    return _effect(lambda c: intervals.of_median(values, c), unit, note, design)


def share(happened: np.ndarray, *, note: str = "") -> Effect:
    """How often something happened, in per cent, with Wilson's interval.

    Args:
        happened: Booleans, one per seed; without any there is no value.
        note: What else must be known.
    """
    happened = np.asarray(happened, bool)
    if not len(happened):
        return Effect("", math.nan, unit=" %", note=note or "there are none")

    def at(confidence: float) -> Interval:
        found = intervals.of_share(happened, confidence)
        value, low, high = 100 * found.value, 100 * found.low, 100 * found.high
        return Interval(value, low, high, found.confidence)

    return _effect(at, " %", note, Design(Kind.SHARE, len(happened), 0, 100))


def resampled(
    measure: Callable[[np.ndarray], float],
    repeats: int,
    *,
    unit: str = "×",
    note: str = "",
    least: float = -math.inf,
    most: float = math.inf,
) -> Effect:
    """A measure of some repeats, see `intervals.of_measure`; otherwise as `median`.

    Args:
        measure: Called with the numbers of some repeats, drawn with replacement.
        repeats: How many there are, as a rule seeds.
        unit: Behind the number.
        note: What else must be known.
        least: The smallest value that could have come out.
        most: The largest.
    """
    design = Design(Kind.MEASURE, repeats, least, most)
    return _effect(intervals.of_measure(measure, repeats).at, unit, note, design)


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


def _at_level(results: xr.Dataset, model: int, share: float) -> xr.Dataset:
    """Results with another target; of the steps to it only one model's are known."""
    steps = results["steps_to_target"].astype(float)
    steps[{"model": model}] = steps_to_level(results, model, share)
    return results.assign(steps_to_target=steps, target=level_of(results, model, share))


def side_of(
    results: xr.Dataset | Sequence[xr.Dataset],
    model: int,
    share: float | None,
    rule: str = "target",
) -> ModelRuns:
    """A model in a comparison.

    Args:
        results: A sweep's, or those of several that differ in their learning rates alone.
        model: Number of the model.
        share: The target, as a share of the zero predictor's excess loss (see `steps_to_level`),
            if it is not the sweep's own.
        rule: ``target`` for the first touch of the target, also by runs that diverge later;
            ``stable`` for stable runs alone, see `statistics.is_unstable`.
    """
    runs = [results] if isinstance(results, xr.Dataset) else list(results)
    if share is not None:
        runs = [_at_level(r, model, share) for r in runs]
    counted = [
        (valid_steps(r, stable=rule == "stable")[model], counts_as_diverged(r, rule)[model])
        for r in runs
    ]
    steps, lost = (np.concatenate(values) for values in zip(*counted, strict=True))
    rates = np.concatenate([r["learning_rate"].values for r in runs])
    tried = np.concatenate([trained(r)[model] for r in runs])
    length = float(runs[0].attrs["num_steps"])
    return statistics.model_runs(rates[tried], steps[tried], lost[tried], length)


def compare(
    results: xr.Dataset,
    model: int,
    base: int,
    *,
    base_results: xr.Dataset | None = None,
    share: float | None = None,
    rule: str = "target",
) -> Effect:
    """The speed-up of a model over another, each at its own best learning rate.

    Args:
        results: A sweep's.
        model: Number of the model.
        base: Number of the model compared with.
        base_results: Where that one is, if in another sweep (with as many steps).
        share: The target, as a share of the zero predictor's excess loss (see `steps_to_level`),
            if it is not the sweep's own.
        rule: As in `side_of`.

    Returns:
        The effect, see `speed_up`.
    """
    sides = (
        side_of(base_results if base_results is not None else results, base, share, rule),
        side_of(results, model, share, rule),
    )
    return speed_up(*sides)


def speed_up(base: ModelRuns, model: ModelRuns) -> Effect:
    """The speed-up of one side over another, see `intervals.of_speed_up`.

    Args:
        base: The model compared with.
        model: The model.

    Returns:
        The effect. Its note says what makes it a bound, whether a rate lay at the edge of the
        grid, and how often runs diverge at the rates chosen.
    """
    sides = {"baseline": base, "model": model}
    notes, reached = [], []
    for name, side in sides.items():
        best = int(side.best(side.all_seeds)[0])
        medians = np.median(side.steps, axis=1)
        arrives = best >= 0 and np.isfinite(medians[best])
        reached.append(arrives)
        if not arrives:
            notes.append(f"the {name} never reached the target: a bound")
            continue
        edge = {0: "lowest", len(medians) - 1: "highest"}.get(best)
        # A higher rate that diverges bounds the choice from above: that is no edge.
        if edge and len(medians) > 1:
            notes.append(f"the {name}'s best rate is the {edge} of the grid")
        lost = int(side.diverged_before_target[best].sum())
        if lost:
            notes.append(
                f"{lost} of {side.num_seeds} runs diverge at the {name}'s rate "
                f"{side.rates[best]:.3g}"
            )
    if not any(reached):
        return Effect("", math.nan, note="neither reached the target")
    halves: tuple[float, ...] = ()
    if min(len(base.rates), len(model.rates)) >= intervals.MIN_SEEDS:
        halves = tuple(intervals.speed_up(base.half(i), model.half(i)) for i in (0, 1))
    # No seeds that choose and no seeds that judge could do with fewer.
    fewest = [float(side.capped.min()) for side in (base, model)]
    design = Design(
        Kind.SPEED_UP, min(base.num_seeds, model.num_seeds),
        least=fewest[0] / model.num_steps, most=base.num_steps / fewest[1],
    )  # fmt: skip
    effect = _effect(intervals.of_speed_up(base, model).at, "×", "; ".join(notes), design)
    return replace(effect, halves=halves, bound="" if all(reached) else "<" if reached[0] else ">")
