"""From trajectories to answers: best learning rates, steps to target, speed-ups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.results import MODEL_COORDINATES, model_labels

BEST_BY = ("target", "stable", "final")

_RESAMPLES = 4000

# A learning rate is usable if at least this share of its runs does not diverge before arriving.
_USABLE_SHARE = 0.9


def sound_steps(results: xr.Dataset, *, stable: bool = False) -> np.ndarray:
    """Steps to target, (model, learning_rate, seed); inf for runs that do not get there.

    A run that has reached the target may diverge later: it has still reached it, and would have
    been stopped there. With ``stable`` it counts as never there.
    """
    steps = results["steps_to_target"].values
    diverged = np.isfinite(results["divergence_step"].values)
    return np.where(diverged, np.inf, steps) if stable else steps


def resolved(results: xr.Dataset, excess_loss: np.ndarray) -> np.ndarray:
    """Excess losses, (model, …), no smaller than what the precision of training resolves.

    What lies below is rounding, and may be negative: it must not decide a comparison.
    """
    floor = results["resolution"].values.reshape(-1, *[1] * (excess_loss.ndim - 1))
    return np.maximum(excess_loss.astype(float), floor)


def final_excess(results: xr.Dataset) -> np.ndarray:
    """Excess loss at the last step, (model, learning_rate, seed); inf for diverged runs."""
    return resolved(results, results["excess_loss"].values[..., -1])


def best_learning_rates(results: xr.Dataset, best_by: str = "target") -> np.ndarray:
    """The position of each model's best learning rate.

    * ``target``: fewest steps to the target, whatever comes after; where no rate gets there, or
      rates tie, the smallest final excess loss.
    * ``stable``: the same, among runs that do not diverge after they have reached the target.
    * ``final``: the smallest final excess loss; where rates tie, the fewest steps.

    All are medians over seeds. Rates at which more than a tenth of the runs diverge (before they
    arrive, for ``target``) are passed over, unless there are no others.

    Args:
        results: A sweep's results.
        best_by: One of `BEST_BY`.

    Returns:
        (model,) positions along ``learning_rate``, −1 where every rate's median run diverges
        before it arrives.

    Raises:
        UserError: If ``best_by`` is unknown.
    """
    if best_by not in BEST_BY:
        raise UserError(f"best_by {best_by!r}: choose from {', '.join(BEST_BY)}")
    steps = np.median(sound_steps(results, stable=best_by == "stable"), axis=2)
    final = np.median(final_excess(results), axis=2)
    lost = np.isfinite(results["divergence_step"].values)
    if best_by == "target":
        lost &= ~np.isfinite(results["steps_to_target"].values)
    unusable = np.mean(lost, axis=2) > 1 - _USABLE_SHARE + 1e-9
    keys = (steps, final) if best_by == "final" else (final, steps)
    # lexsort sorts by its last key first.
    best = np.array(
        [np.lexsort([*(key[m] for key in keys), unusable[m]])[0] for m in range(len(steps))]
    )
    at_best = [np.take_along_axis(key, best[:, None], axis=1)[:, 0] for key in (steps, final)]
    hopeless = ~np.isfinite(at_best).any(axis=0)
    return np.where(hopeless, -1, best)


def speed_up(
    baseline: np.ndarray, steps: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """How many times fewer steps: the ratio of medians over seeds, with a bootstrap interval.

    The interval is the percentile bootstrap over seeds, resampled in both samples; the learning
    rates are taken as given. A run that never arrives counts as inf: then the ratio may be inf
    (only the baseline never arrives), 0 (only the model does not), or NaN (neither does).

    Args:
        baseline: Steps of the model compared with, one per seed.
        steps: Steps of the model.
        confidence: Of the interval.
        seed: Of the resampling.

    Returns:
        Ratio, lower and upper end; NaN ends with fewer than two seeds.
    """

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # A start that is at the target already took 0 steps: no division by that.
        above = np.maximum(np.median(a, axis=-1), 1)
        below = np.maximum(np.median(b, axis=-1), 1)
        with np.errstate(invalid="ignore"):
            return above / below

    value = float(ratio(baseline, steps))
    if len(baseline) < 2 or len(steps) < 2:
        return value, np.nan, np.nan
    # scipy.stats.bootstrap has no place for infinities: it warns, and its interval is NaN.
    rng = np.random.default_rng(seed)
    draws = [x[rng.integers(len(x), size=(_RESAMPLES, len(x)))] for x in (baseline, steps)]
    drawn = ratio(*draws)
    # Resamples in which neither arrives say nothing: they widen the interval at both ends. The
    # quantiles are drawn values, since there is no interpolating between a number and infinity.
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(np.isnan(drawn), 0, drawn), tail, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(drawn), np.inf, drawn), 1 - tail, method="inverted_cdf")
    return value, float(low), float(high)


def summarise(results: xr.Dataset, *, best_by: str = "target") -> pd.DataFrame:
    """The table that answers the question: a row per model, at its own best learning rate.

    Args:
        results: A sweep's results.
        best_by: What makes a learning rate the best, see `best_learning_rates`.

    Returns:
        A data frame with the model's coordinates and

        * ``best_learning_rate`` (NaN if every rate diverged) and ``grid_edge``: ``low``, ``high``
          or ``only`` if it is the grid's first, last or only rate, else empty. At an edge the
          model was not given its best rate;
        * ``final_excess`` with quartiles ``_q25``, ``_q75`` over seeds, and ``final_held_out``,
          the loss on held-out rows, likewise where there are some;
        * ``steps_to_target`` with quartiles, ``num_reached`` of ``num_seeds``;
        * ``speed_up`` over ``baseline`` (depth 1, all else equal) with ``_low``, ``_high``;
        * ``num_diverged`` of ``num_runs`` over all learning rates;
        * ``optimum``, ``target``, ``resolution`` (no final excess loss is given as smaller than
          this, see `resolved`) and ``num_steps``.
    """
    steps = sound_steps(results, stable=best_by == "stable")
    final = final_excess(results)
    best = best_learning_rates(results, best_by)
    rates = results["learning_rate"].values
    diverged = np.isfinite(results["divergence_step"].values)
    labels = model_labels(results)
    models = [
        {name: results[name].values[m] for name in MODEL_COORDINATES} for m in range(len(best))
    ]
    rows = []
    for m, model in enumerate(models):
        b = best[m]
        base = _baseline(models, m)
        seeds = steps.shape[2]
        at_best = steps[m, b] if b >= 0 else np.full(seeds, np.inf)
        final_at_best = final[m, b] if b >= 0 else np.full(seeds, np.inf)
        if base is None:
            ratio = (np.nan, np.nan, np.nan)
        elif base == m:
            ratio = (1.0, np.nan, np.nan)
        else:
            base_steps = steps[base, best[base]] if best[base] >= 0 else np.full(seeds, np.inf)
            ratio = speed_up(base_steps, at_best)
        row: dict[str, object] = {"model": labels[m], **model}
        row["best_learning_rate"] = rates[b] if b >= 0 else np.nan
        row["grid_edge"] = _edge(int(b), len(rates))
        row.update(_quartiles("final_excess", final_at_best))
        if "held_out_loss" in results:
            held_out = results["held_out_loss"].values[m, b, :, -1].astype(float)
            row.update(_quartiles("final_held_out", held_out if b >= 0 else final_at_best))
        row.update(_quartiles("steps_to_target", at_best))
        row["num_reached"] = int(np.isfinite(at_best).sum())
        row["num_seeds"] = seeds
        row["speed_up"], row["speed_up_low"], row["speed_up_high"] = ratio
        row["baseline"] = "" if base is None else labels[base]
        row["num_diverged"] = int(diverged[m].sum())
        row["num_runs"] = diverged[m].size
        row["optimum"] = results["optimum"].values[m]
        row["target"] = results["target"].values[m]
        row["resolution"] = results["resolution"].values[m]
        row["num_steps"] = results.attrs["num_steps"]
        rows.append(row)
    return pd.DataFrame(rows)


def bounded_speed_up(table: pd.DataFrame, m: int) -> tuple[float, str]:
    """A model's speed-up as it should be shown.

    A model that has not arrived after T steps needs more than T: against one that has, that
    gives a bound.

    Args:
        table: From `summarise`.
        m: The row.

    Returns:
        The value, NaN if nothing can be said; and ``>`` or ``<`` if it is a bound, else empty.
    """
    row = table.iloc[m]
    value = float(row["speed_up"])
    if np.isinf(value):
        return row["num_steps"] / max(row["steps_to_target"], 1), ">"
    if value == 0:
        base = table.loc[table["model"] == row["baseline"], "steps_to_target"].iloc[0]
        return max(base, 1) / row["num_steps"], "<"
    return value, ""


def _edge(position: int, count: int) -> str:
    if position < 0:
        return ""
    if count == 1:
        return "only"
    return {0: "low", count - 1: "high"}.get(position, "")


def _quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    """Median and quartiles; among infinities no interpolation, which would give NaN."""
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    return {name: float(np.median(values)), f"{name}_q25": float(low), f"{name}_q75": float(high)}


def _baseline(models: list[dict[str, object]], m: int) -> int | None:
    """The single-layer model that differs from model m in depth and width alone."""

    def rest(model: dict[str, object]) -> list[str]:
        return [str(model[c]) for c in MODEL_COORDINATES if c not in ("depth", "hidden_widths")]

    for i, model in enumerate(models):
        if model["depth"] == 1 and rest(model) == rest(models[m]):
            return i
    return None
