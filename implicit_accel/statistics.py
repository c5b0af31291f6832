"""Statistics of trajectories: best learning rates, steps to target, comparisons of models.

All functions take results of any axes, see `implicit_accel.results.by_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int, Num

from implicit_accel.errors import UserError
from implicit_accel.intervals import (
    MIN_SEEDS,
    MOST_DIVERGED,
    Bootstrap,
    Interval,
    ModelRuns,
    of_share,
    of_speed_up,
)
from implicit_accel.results import (
    OWN_RATE,
    by_model,
    matching,
    model_coordinates,
    model_labels,
    shown_values,
    trained,
    varying,
)
from implicit_accel.stability import is_past_edge

BEST_BY = ("stable", "target", "final")
"""Rules for the best learning rate, the default first; see `best_learning_rates`."""

# The rules in words, for captions and titles.
BEST_BY_WORDS = {
    "stable": "fewest steps to the target among stable runs",
    "target": "first to the target",
    "final": "smallest final excess loss",
}

_RESAMPLES = 4000


def is_unstable(results: xr.Dataset) -> Bool[np.ndarray, "model rate seed"]:
    """Which runs diverge, or are above the target again at the last step; by model.

    A *stable* run reaches the target, and at the last step is at or below it and has not diverged.
    """
    runs = by_model(results)
    dims = runs["steps_to_target"].dims
    reached = np.isfinite(runs["steps_to_target"].values)
    # Training compares in its own precision: a run that reaches the target at the last step must
    # not be above its rounded value.
    target = runs["target"] + 1e-6 * abs(runs["target"])
    above = (runs["excess_loss"].isel(step=-1) > target).transpose(*dims).values
    return np.isfinite(runs["divergence_step"].values) | (reached & above)


def valid_steps(
    results: xr.Dataset, *, stable: bool = False
) -> Float[np.ndarray, "model rate seed"]:
    """Steps to target, (model, learning_rate, seed); inf for runs that do not reach it.

    A run that diverges after it has reached the target counts as having reached it, since it would
    have been stopped there; with ``stable`` only stable runs count, see `is_unstable`.
    """
    steps = by_model(results)["steps_to_target"].values
    return np.where(is_unstable(results), np.inf, steps) if stable else steps


def resolved(results: xr.Dataset) -> xr.DataArray:
    """Excess losses of results by model, no smaller than training's precision resolves.

    Smaller values are rounding errors, some of them negative, and must not decide a comparison. A
    resolution of 0 means that the optimum is not known; then losses are not changed.

    Args:
        results: From `by_model`, or a part of them.

    Returns:
        The dimensions of the part's ``excess_loss``.
    """
    floor = results["resolution"].where(results["resolution"] > 0, -np.inf)
    return results["excess_loss"].astype(float).clip(min=floor)


def final_excess(results: xr.Dataset) -> Float[np.ndarray, "model rate seed"]:
    """Excess loss at the last step, (model, learning_rate, seed).

    It is inf for diverged runs and for runs that were not trained.
    """
    final = resolved(by_model(results).isel(step=-1)).values
    return np.where(np.isnan(final), np.inf, final)


def counts_as_diverged(
    results: xr.Dataset, best_by: str = "stable"
) -> Bool[np.ndarray, "model rate seed"]:
    """Which runs count as diverged when learning rates are chosen, (model, learning_rate, seed).

    With ``stable`` all that are unstable, see `is_unstable`; with ``target`` those that diverge
    before they reach the target; with ``final`` all that diverge.
    """
    runs = by_model(results)
    if best_by == "stable":
        return is_unstable(runs)
    diverged = np.isfinite(runs["divergence_step"].values)
    if best_by == "final":
        return diverged
    return diverged & ~np.isfinite(runs["steps_to_target"].values)


def usable(results: xr.Dataset, best_by: str = "stable") -> Bool[np.ndarray, "model rate"]:
    """(model, learning_rate) whether a rate was trained and at most a tenth of its runs diverged.

    Runs are counted as in `counts_as_diverged`.
    """
    share = np.mean(counts_as_diverged(results, best_by), axis=2)
    return trained(results) & (share <= MOST_DIVERGED + 1e-9)


def best_learning_rates(results: xr.Dataset, best_by: str = "stable") -> Int[np.ndarray, " model"]:
    """The position of each model's best learning rate.

    * ``stable``: fewest steps to the target among stable runs, see `is_unstable`; where the target
      is reached at no rate, or rates tie, the smallest final excess loss.
    * ``target``: the same among all runs, first to the target: also those that diverge later.
    * ``final``: the smallest final excess loss; where rates tie, the fewest steps.

    All are medians over seeds. Rates at which more than a tenth of the runs count as diverged
    (`counts_as_diverged`) are chosen only if there are no others.

    Args:
        results: Results of any axes.
        best_by: One of `BEST_BY`.

    Returns:
        (model,) positions along ``learning_rate``, −1 where every rate's median run diverges
        before it reaches the target.

    Raises:
        UserError: If ``best_by`` is unknown.
    """
    if best_by not in BEST_BY:
        raise UserError(f"best_by {best_by!r}: choose from {', '.join(BEST_BY)}")
    results = by_model(results)
    steps = np.median(valid_steps(results, stable=best_by == "stable"), axis=2)
    final = np.median(final_excess(results), axis=2)
    unusable = ~usable(results, best_by)
    # lexsort's last key is its first criterion.
    keys = (steps, final) if best_by == "final" else (final, steps)
    best = np.array(
        [np.lexsort([*(key[m] for key in keys), unusable[m]])[0] for m in range(len(steps))]
    )
    at_best = [np.take_along_axis(key, best[:, None], axis=1)[:, 0] for key in (steps, final)]
    no_usable_rate = ~np.isfinite(at_best).any(axis=0)
    return np.where(no_usable_rate, -1, best)


def held_out_at(
    runs: xr.Dataset, m: int, rate: int, steps: Float[np.ndarray, " seed"]
) -> Float[np.ndarray, " seed"]:
    """Held-out losses at given steps of a model's runs, interpolated in log loss and log step.

    Args:
        runs: Results by model, with a held-out loss.
        m: Number of the model.
        rate: Number of the learning rate.
        steps: (seed,) steps.

    Returns:
        (seed,) losses; NaN where a step is not finite.
    """
    times = np.log1p(runs["observation_step"].values)
    curves = runs["held_out_loss"].values[m, rate]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [
            np.exp(np.interp(np.log1p(step), times, np.log(curve)))
            for step, curve in zip(steps, curves, strict=True)
        ]
    return np.where(np.isfinite(steps), found, np.nan)


def ratio_of_medians(
    baseline: Num[np.ndarray, " base_seeds"],
    values: Num[np.ndarray, " seeds"],
    *,
    least: float = 0.0,
) -> Interval:
    """The ratio of two models' medians over seeds, at given learning rates.

    It is inf where only the baseline's median is inf, 0 where only the model's is, and NaN where
    both are. It is NaN also if a value is negative (a loss without a known optimum).

    Args:
        baseline: Values of the model compared with, one per seed.
        values: Those of the model.
        least: Smaller medians are replaced by this.

    Returns:
        The ratio, with the bootstrap interval over seeds, resampled in both samples; with fewer
        than `intervals.MIN_SEEDS` seeds the range of the ratios of pairs; NaN ends with one seed.
    """

    def ratio(a: Any, b: Any) -> Any:
        above, below = np.maximum(a, least), np.maximum(b, least)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return above / below

    if min(np.min(baseline), np.min(values)) < 0:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    value = float(ratio(np.median(baseline), np.median(values)))
    size = min(len(baseline), len(values))
    if size < 2:
        return Interval(value, np.nan, np.nan, np.nan)
    if size < MIN_SEEDS:
        return Bootstrap(value, _of_pairs(baseline, values, ratio), size).at()
    rng = np.random.default_rng(0)
    draws = [x[rng.integers(len(x), size=(_RESAMPLES, len(x)))] for x in (baseline, values)]
    return Bootstrap(value, ratio(*(np.median(d, axis=1) for d in draws)), size).at()


def _of_pairs(
    baseline: np.ndarray, values: np.ndarray, ratio: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """The ratios of all pairs, for their range."""
    with np.errstate(invalid="ignore"):
        pairs = ratio(baseline[:, None], values[None, :]).ravel()
    # The ratio of two infinities may be any: as 0 and as inf it widens both ends.
    return np.concatenate([np.where(np.isnan(pairs), end, pairs) for end in (0, np.inf)])


def model_runs(
    rates: Num[np.ndarray, " L"],
    steps: Float[np.ndarray, "L seed"],
    diverged: Bool[np.ndarray, "L seed"],
    num_steps: float,
) -> ModelRuns:
    """The runs of a model for a comparison, its learning rates in ascending order.

    Args:
        rates: (L,) rates at which it was trained, in any order; NaN where they are not known.
        steps: (L, seed) steps to the target.
        diverged: (L, seed) which runs diverged, see `counts_as_diverged`.
        num_steps: The runs' length.
    """
    order = np.argsort(rates, kind="stable")
    ascending = rates[order].astype(float)
    # Positions take the place of rates where these are not known, or are a user's values from 0.
    if not (ascending > 0).all():
        ascending = np.arange(1.0, len(order) + 1)
    return ModelRuns(ascending, steps[order], diverged[order], num_steps)


def summarise(
    results: xr.Dataset,
    *,
    best_by: str = "stable",
    baseline: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The summary table: a row per model, at its own best learning rate.

    Models are compared with their baseline by the quantity that chose their learning rates: steps
    to the target, or with ``best_by="final"`` the final excess loss.

    Args:
        results: Results of any axes.
        best_by: Rule for the best learning rate, see `best_learning_rates`.
        baseline: Values of model coordinates, e.g. ``{"width_scale": 1}``: a model is compared
            with the one that has these values and equals it in all other coordinates which apply to
            both (a single layer has no hidden widths). By default depth 1 in sweeps of linear
            networks that have it, otherwise nothing.

    Returns:
        A data frame with the model's coordinates and

        * ``best_learning_rate`` (NaN if runs diverged at every rate, or results have no rates) and
          ``grid_edge``: ``low``, ``high`` or ``only`` if it is the grid's first, last or only
          rate, else empty. At an edge a better rate may lie outside the grid;
        * ``past_edge``: whether most runs at that rate pass the edge of stability, so that their
          steps may depend on rounding: true, false, or missing where it is not known; see
          `stability.is_past_edge`;
        * ``best_by``, the rule by which that rate was chosen;
        * ``diverged_share``, the share of seeds whose run at that rate counts as diverged
          (`counts_as_diverged`), an estimate of the probability of that, with ``_low``, ``_high``,
          the ends of Wilson's 95 % interval. With ``best_by="target"`` runs that diverge after they
          have reached the target are counted in ``num_diverged_later`` instead (otherwise 0). NaN
          and 0 without a best rate;
        * ``final_excess`` with quartiles ``_q25``, ``_q75`` over seeds, and ``final_held_out``,
          the loss on held-out rows, likewise where there are some;
        * ``steps_to_target`` with quartiles, ``num_reached`` of ``num_seeds``;
        * ``speed_up``, the baseline's steps to the target over the model's, with ``_low``,
          ``_high``, the ends of its 95 % interval, which includes the uncertainty from the choice
          of the rates and from the grid's resolution (`intervals.of_speed_up`); with fewer than
          `intervals.MIN_SEEDS` seeds the range of the ratios of pairs of seeds, on the grid of
          learning rates and on its halves. With ``best_by="final"`` it is replaced by
          ``final_ratio``, the baseline's final excess loss over the model's, whose interval takes
          the rates as given. Above 1 is better; NaN without a baseline;
        * ``first_touch_speed_up``, only with ``best_by="stable"``: the same ratio with
          ``best_by="target"``, whose runs may diverge after the target;
        * ``baseline``, the label of the model compared with; empty without one;
        * ``num_diverged`` of ``num_runs`` over all learning rates at which it was trained;
        * ``optimum``, ``target``, ``resolution`` (smaller final excess losses are replaced by it,
          see `resolved`) and ``num_steps``.

        Its ``attrs`` contain the ``baseline`` as it was given; ``evaluated``, the data on which
        losses were evaluated if these are not the batches of training; ``precision``, of training;
        and ``is_optimum_known``.

    Raises:
        UserError: If ``best_by`` is unknown, or no model has the baseline's values; the message
            lists the models' values.
    """
    runs = by_model(results)
    best = best_learning_rates(runs, best_by)
    all_steps = valid_steps(runs, stable=best_by == "stable")
    steps = at_best(best, all_steps)
    final = at_best(best, final_excess(runs))
    held_out = "held_out_loss" in runs
    final_held_out = at_best(best, runs["held_out_loss"].values[..., -1]) if held_out else final
    diverged = np.isfinite(runs["divergence_step"].values)
    counted, tried = counts_as_diverged(runs, best_by), trained(runs)
    rates, labels, names = runs["learning_rate"].values, model_labels(runs), model_coordinates(runs)
    baseline = _default_baseline(runs) if baseline is None else baseline
    bases = _baselines(runs, baseline)

    if best_by == "stable":
        first_touch = at_best(best_learning_rates(runs, "target"), valid_steps(runs))
        touched = np.maximum(np.median(first_touch, axis=1), 1)
    else:
        touched = None

    own = sampled(runs, best, best_by)
    rows = []
    for m, (b, base) in enumerate(zip(best, bases, strict=True)):
        row: dict[str, object] = {"model": labels[m], **{n: runs[n].values[m] for n in names}}
        rate = row.pop(OWN_RATE, rates[b])
        row["best_learning_rate"] = rate if b >= 0 else np.nan
        row["grid_edge"] = _edge(int(b), rates, np.flatnonzero(tried[m]))
        at = runs.isel(model=m, learning_rate=b).assign_coords(learning_rate=rate)
        past = None if b < 0 else is_past_edge(at, best_by=best_by)
        row["past_edge"] = pd.NA if past is None else past
        row["best_by"] = best_by
        row.update(_divergence(counted[m], diverged[m], int(b)))
        row.update(_quartiles("final_excess", final[m]))
        if held_out:
            row.update(_quartiles("final_held_out", final_held_out[m]))
        row.update(_quartiles("steps_to_target", steps[m]))
        row["num_reached"] = int(np.isfinite(steps[m]).sum())
        row["num_seeds"] = steps.shape[1]
        compared = "final_ratio" if best_by == "final" else "speed_up"
        if base is None or base == m:
            found = Interval(np.nan if base is None else 1.0, np.nan, np.nan, np.nan)
        elif best_by == "final":
            found = ratio_of_medians(final[base], final[m])
        else:
            found = speed_up(own[base], own[m])
        for name, value in zip(
            ("", "_low", "_high"), (found.value, found.low, found.high), strict=True
        ):
            row[compared + name] = value
        if touched is not None:
            with np.errstate(invalid="ignore"):
                ratio = np.nan if base is None else touched[base] / touched[m]
            row["first_touch_speed_up"] = float(ratio)
        row["baseline"] = "" if base is None else labels[base]
        row["num_diverged"] = int(diverged[m].sum())
        row["num_runs"] = int(tried[m].sum()) * diverged.shape[2]
        for name in ("optimum", "target", "resolution"):
            row[name] = _of_model(runs[name], m, int(b))
        row["num_steps"] = runs.attrs["num_steps"]
        rows.append(row)
    table = pd.DataFrame(rows).astype({"past_edge": "boolean"})
    table.attrs["baseline"] = dict(baseline)
    table.attrs["precision"] = str(runs.attrs.get("precision", ""))
    table.attrs["evaluated"] = str(runs.attrs.get("evaluated", ""))
    table.attrs["is_optimum_known"] = bool(runs.attrs.get("is_optimum_known", True))
    return table


def compares_final(table: pd.DataFrame) -> bool:
    """Whether a table from `summarise` compares final excess losses, not steps to the target."""
    return "final_ratio" in table


def is_floored(row: pd.Series) -> bool:
    """Whether a summary's row has a final excess loss that is smaller than shown."""
    return bool(row["resolution"] > 0 and row["final_excess"] <= row["resolution"])


def bounded(table: pd.DataFrame, m: int) -> tuple[float, str]:
    """A model's comparison with its baseline as it is shown: a value, or a bound.

    A model that has not reached the target after T steps needs more than T, and an excess loss
    below what the precision resolves is smaller than shown. If that holds for one of the two models
    the ratio is a bound.

    Args:
        table: From `summarise`.
        m: The row.

    Returns:
        The value of ``speed_up`` or ``final_ratio``, NaN if there is none; and ``>`` or ``<`` if it
        is a bound, otherwise an empty text.
    """
    row = table.iloc[m]
    base = table[table["model"] == row["baseline"]]
    if base.empty:
        return np.nan, ""
    base = base.iloc[0]
    if compares_final(table):
        floored = [is_floored(r) for r in (base, row)]
        bound = {(False, True): ">", (True, False): "<"}.get((floored[0], floored[1]), "")
        value = float(row["final_ratio"])
        return value, bound if 0 < value < np.inf else ""
    value = float(row["speed_up"])
    if np.isinf(value):
        return row["num_steps"] / max(row["steps_to_target"], 1), ">"
    if value == 0:
        return max(base["steps_to_target"], 1) / row["num_steps"], "<"
    return value, ""


def at_best(
    best: Int[np.ndarray, " model"], values: Num[np.ndarray, "model rate seed"]
) -> Float[np.ndarray, "model seed"]:
    """Values at each model's best learning rate.

    Args:
        best: (model,) from `best_learning_rates`.
        values: (model, learning_rate, seed).

    Returns:
        (model, seed); inf without a best rate.
    """
    chosen = values[np.arange(len(best)), best].astype(float)
    return np.where(best[:, None] < 0, np.inf, chosen)


class Sampled(NamedTuple):
    """A model's steps to the target, for a comparison.

    Attributes:
        at_best: (seed,) at its best learning rate; inf where a run misses the target or does not
            count.
        runs: At all of its learning rates.
    """

    at_best: Float[np.ndarray, " seed"]
    runs: ModelRuns


def sampled(runs: xr.Dataset, best: Int[np.ndarray, " model"], best_by: str) -> list[Sampled]:
    """Each model's steps to the target.

    Args:
        runs: Results by model.
        best: (model,) the learning rates to compare at, from `best_learning_rates`.
        best_by: The rule by which these rates were chosen.
    """
    diverged = counts_as_diverged(runs, best_by)
    steps = valid_steps(runs)
    if best_by == "stable":  # only stable runs count, which are those that do not count as diverged
        steps = np.where(diverged, np.inf, steps)
    rates, num_steps = runs["learning_rate"].values, float(runs.attrs["num_steps"])
    return [
        Sampled(at_rate, model_runs(rates[tried], own[tried], lost[tried], num_steps))
        for at_rate, own, lost, tried in zip(
            at_best(best, steps), steps, diverged, trained(runs), strict=True
        )
    ]


def speed_up(base: Sampled, model: Sampled) -> Interval:
    """The ratio of two models' steps to the target, above 1 if the second needs fewer.

    Args:
        base: The model compared with, from `sampled`.
        model: The model; of the same results or of others.

    Returns:
        The ratio of the medians over seeds at their best rates. Its interval includes the
        uncertainty from the choice of the rates and from the grid's resolution
        (`intervals.of_speed_up`). With fewer than `intervals.MIN_SEEDS` seeds it is the range of
        the ratios of pairs of seeds, each model on its grid of learning rates, or on every second
        rate of it. Where the ratio is a bound, it is that of `ratio_of_medians`.
    """
    at_rates = ratio_of_medians(base.at_best, model.at_best, least=1)
    size = min(len(base.at_best), len(model.at_best))
    if not 0 < at_rates.value < np.inf or size < 2:
        return at_rates
    if size < MIN_SEEDS:
        of_base, of_model = (
            np.concatenate([np.maximum(own.at_best, 1), *_at_halves(own.runs)])
            for own in (base, model)
        )
        return Bootstrap(at_rates.value, _of_pairs(of_base, of_model, np.divide), size).at()
    interval = of_speed_up(base.runs, model.runs).at()
    # The table's value is the plain ratio, the interval's the cross-fitted one.
    return replace(
        interval,
        value=at_rates.value,
        low=min(interval.low, at_rates.value),
        high=max(interval.high, at_rates.value),
    )


def _at_halves(model: ModelRuns) -> list[Float[np.ndarray, " seed"]]:
    """Steps at the best of every second learning rate; nothing where rates are few.

    Steps change by the grid's spacing where the best rate is next to an unstable one, which no
    spread over seeds shows.
    """
    if len(model.rates) < MIN_SEEDS:
        return []
    return [model.half(parity).steps_at_best_rate for parity in (0, 1)]


def explained_shares(results: xr.Dataset, *, best_by: str = "stable") -> pd.Series:
    """The share of the variance of log steps to the target that each axis alone explains.

    For an axis a of a full grid it is the first-order index of Sobol' (1993),

        S_a = Var_a(E[log T | a]) / Var(log T),

    where T are the steps to the target (at least one) and E is the mean over all runs with one
    value of a. Runs that miss the target count with their whole length, so that S_a is that of the
    censored steps.

    Args:
        results: Results of any axes, a full grid: every combination of the values, and every model
            at every learning rate.
        best_by: With ``stable`` unstable runs count as missing the target.

    Returns:
        By the axes that have several values, learning rates and seeds among them; the last entry,
        ``interactions``, is what remains to 1. Its ``attrs`` contain ``num_missed`` and
        ``num_runs``.

    Raises:
        UserError: If the grid is not full, no axis has several values, or all runs take equally
            many steps.
    """
    runs = by_model(results)
    steps = valid_steps(runs, stable=best_by == "stable")
    missed = ~np.isfinite(steps)
    labels = {name: list(map(str, shown_values(runs, name))) for name in varying(runs)}
    places = {name: list(dict.fromkeys(own)) for name, own in labels.items()}
    sizes = {name: len(own) for name, own in places.items()}
    sizes |= {name: runs.sizes[name] for name in ("learning_rate", "seed")}
    full = int(np.prod([sizes[name] for name in places])) == runs.sizes["model"]
    if not (full and trained(runs).all()):
        raise UserError(
            "importance needs a full grid, each model at the same learning rates: select a part "
            "of the results that is one"
        )
    logs = np.log(np.maximum(np.where(missed, float(runs.attrs["num_steps"]), steps), 1))
    grid = np.empty(tuple(sizes.values()))
    for m in range(runs.sizes["model"]):
        grid[tuple(places[name].index(labels[name][m]) for name in places)] = logs[m]
    whole = grid.var()
    axes = {name: place for place, (name, size) in enumerate(sizes.items()) if size > 1}
    if not axes or not whole > 0:
        raise UserError(
            "importance: no axis has several values" if not axes else
            "importance: all runs take equally many steps, which leaves nothing to explain"
        )  # fmt: skip
    shares = {
        name: grid.mean(axis=tuple(a for a in range(grid.ndim) if a != place)).var() / whole
        for name, place in axes.items()
    }
    shares["interactions"] = max(1 - sum(shares.values()), 0.0)
    found = pd.Series(shares, dtype=float)
    found.attrs = {"num_missed": int(missed.sum()), "num_runs": missed.size}
    return found


def _of_model(values: xr.DataArray, m: int, rate: int) -> float:
    """A model's value of a quantity: at its best rate, the median over seeds, if it has these."""
    at = {"model": m, "learning_rate": max(rate, 0)}
    return float(
        np.median(values.isel({str(d): at[str(d)] for d in values.dims if d in at}).values)
    )


def _edge(position: int, rates: np.ndarray, own: np.ndarray) -> str:
    """Whether a rate is the smallest, largest or only one at which a model was trained.

    Args:
        position: Of the rate; −1 for none.
        rates: (L,) all rates.
        own: Positions of those at which the model was trained.
    """
    if position < 0 or np.isnan(rates[position]) or not len(own):
        return ""
    if len(own) == 1:
        return "only"
    return {own[0]: "low", own[-1]: "high"}.get(position, "")


def _divergence(counted: np.ndarray, diverged: np.ndarray, best: int) -> dict[str, float]:
    """The share of a model's runs that diverge at its best rate, with its interval.

    Args:
        counted: (learning_rate, seed) runs that count as diverged, see `counts_as_diverged`.
        diverged: (learning_rate, seed) all runs that diverged.
        best: Position of the rate; −1 for none.
    """
    names = ("diverged_share", "diverged_share_low", "diverged_share_high")
    if best < 0:
        return dict.fromkeys(names, np.nan) | {"num_diverged_later": 0}
    happened, count = int(counted[best].sum()), counted.shape[1]
    share = of_share(np.arange(count) < happened)
    found = share.value, share.low, share.high
    later = max(int(diverged[best].sum()) - happened, 0)
    return dict(zip(names, found, strict=True)) | {"num_diverged_later": later}


def _quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    """Median and quartiles; not interpolated, which between infinities would give NaN."""
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    return {name: float(np.median(values)), f"{name}_q25": float(low), f"{name}_q75": float(high)}


def _default_baseline(runs: xr.Dataset) -> dict[str, object]:
    """Depth 1 in results of linear networks (without the attribute ``axes``); otherwise none."""
    one_layer = "axes" not in runs.attrs and (runs["depth"].values == 1).any()
    return {"depth": 1} if one_layer else {}


def _baselines(runs: xr.Dataset, wanted: Mapping[str, object]) -> list[int | None]:
    """For each model the number of its baseline; None where there is none.

    The baseline has the wanted coordinates and equals the model in all others.
    """
    if not wanted:
        return [None] * runs.sizes["model"]
    others = [name for name in model_coordinates(runs) if name not in wanted]
    rows = list(zip(*(map(str, runs[n].values.tolist()) for n in others), strict=True))
    rows = rows or [()] * runs.sizes["model"]
    candidates = matching(runs, wanted).tolist()

    def alike(base: int, m: int) -> bool:
        # "-": the coordinate does not apply to the baseline (hidden widths, to a single layer).
        return all(a in (b, "-") for a, b in zip(rows[base], rows[m], strict=True))

    return [next((i for i in candidates if alike(i, m)), None) for m in range(len(rows))]
