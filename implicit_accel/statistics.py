"""From trajectories to answers: best learning rates, steps to target, comparisons of models.

Everything here takes results of any axes, see `implicit_accel.results.by_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.intervals import (
    FEWEST,
    MOST_DIVERGED,
    Bootstrap,
    Interval,
    Side,
    of_share,
    of_speed_up,
)
from implicit_accel.results import by_model, matching, model_coordinates, model_labels, trained
from implicit_accel.stability import is_past_edge

BEST_BY = ("target", "stable", "final")

# The rules in words, for captions and titles.
BEST_BY_WORDS = {
    "target": "fewest steps to the target",
    "stable": "fewest steps among runs that do not diverge",
    "final": "smallest final excess loss",
}

_RESAMPLES = 4000


def valid_steps(results: xr.Dataset, *, stable: bool = False) -> np.ndarray:
    """Steps to target, (model, learning_rate, seed); inf for runs that do not reach it.

    A run that has reached the target may diverge later: it has still reached it, and would have
    been stopped there. With ``stable`` it counts as never there.
    """
    runs = by_model(results)
    steps = runs["steps_to_target"].values
    diverged = np.isfinite(runs["divergence_step"].values)
    return np.where(diverged, np.inf, steps) if stable else steps


def resolved(results: xr.Dataset) -> xr.DataArray:
    """Excess losses of results by model, no smaller than training's precision resolves.

    What lies below is rounding, and may be negative: it must not decide a comparison. Where the
    resolution is 0, the optimum is not known, and losses are as they are.

    Args:
        results: From `by_model`, or a part of them.

    Returns:
        The dimensions of the part's ``excess_loss``.
    """
    floor = results["resolution"].where(results["resolution"] > 0, -np.inf)
    return results["excess_loss"].astype(float).clip(min=floor)


def final_excess(results: xr.Dataset) -> np.ndarray:
    """Excess loss at the last step, (model, learning_rate, seed).

    It is inf for diverged runs, and for those that were not trained.
    """
    final = resolved(by_model(results).isel(step=-1)).values
    return np.where(np.isnan(final), np.inf, final)


def lost(results: xr.Dataset, best_by: str = "target") -> np.ndarray:
    """Which runs count as diverged when learning rates are chosen, (model, learning_rate, seed).

    With ``target`` those that diverge before they reach it, else all that diverge.
    """
    runs = by_model(results)
    diverged = np.isfinite(runs["divergence_step"].values)
    if best_by != "target":
        return diverged
    return diverged & ~np.isfinite(runs["steps_to_target"].values)


def usable(results: xr.Dataset, best_by: str = "target") -> np.ndarray:
    """(model, learning_rate) whether a rate was tried and hardly any of its runs is `lost`."""
    share = np.mean(lost(results, best_by), axis=2)
    return trained(results) & (share <= MOST_DIVERGED + 1e-9)


def best_learning_rates(results: xr.Dataset, best_by: str = "target") -> np.ndarray:
    """The position of each model's best learning rate.

    * ``target``: fewest steps to the target, whatever comes after; where no rate gets there, or
      rates tie, the smallest final excess loss.
    * ``stable``: the same, among runs that do not diverge after they have reached the target.
    * ``final``: the smallest final excess loss; where rates tie, the fewest steps.

    All are medians over seeds. Rates at which more than a tenth of the runs diverge (before they
    reach it, for ``target``) are passed over, unless there are no others.

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
    keys = (steps, final) if best_by == "final" else (final, steps)
    # lexsort sorts by its last key first.
    best = np.array(
        [np.lexsort([*(key[m] for key in keys), unusable[m]])[0] for m in range(len(steps))]
    )
    at_best = [np.take_along_axis(key, best[:, None], axis=1)[:, 0] for key in (steps, final)]
    hopeless = ~np.isfinite(at_best).any(axis=0)
    return np.where(hopeless, -1, best)


def ratio_of_medians(baseline: np.ndarray, values: np.ndarray, *, least: float = 0.0) -> Interval:
    """How many times smaller: the ratio of medians over seeds, the learning rates taken as given.

    Where medians are inf, the ratio may be inf (only the baseline's is), 0 (only the model's is),
    or NaN (both are). Negative numbers, losses above no known optimum, have no ratio: NaN.

    Args:
        baseline: Numbers of the model compared with, one per seed.
        values: Those of the model.
        least: Medians count as no smaller than this.

    Returns:
        The ratio, with the bootstrap interval over seeds, resampled in both samples; of fewer
        than `intervals.FEWEST` seeds the range of the ratios of pairs; NaN ends with one seed.
    """

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        above, below = np.maximum(a, least), np.maximum(b, least)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return above / below

    if min(np.min(baseline), np.min(values)) < 0:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    value = float(ratio(np.median(baseline), np.median(values)))
    size = min(len(baseline), len(values))
    if size < 2:
        return Interval(value, np.nan, np.nan, np.nan)
    if size < FEWEST:
        pairs = ratio(baseline[:, None], values[None, :]).ravel()
        # A pair of infinities says nothing: its ratio may be any.
        ends = [np.where(np.isnan(pairs), end, pairs) for end in (0, np.inf)]
        return Bootstrap(value, np.concatenate(ends), size).at()
    rng = np.random.default_rng(0)
    draws = [x[rng.integers(len(x), size=(_RESAMPLES, len(x)))] for x in (baseline, values)]
    return Bootstrap(value, ratio(*(np.median(d, axis=1) for d in draws)), size).at()


def side_of(rates: np.ndarray, steps: np.ndarray, lost_runs: np.ndarray, num_steps: float) -> Side:
    """A model in a comparison, its learning rates in ascending order.

    Args:
        rates: (L,) at which it was trained, in any order; NaN where they are not known.
        steps: (L, seed) steps to the target.
        lost_runs: (L, seed) those that diverge, see `lost`.
        num_steps: The runs' length.
    """
    order = np.argsort(rates, kind="stable")
    ascending = rates[order].astype(float)
    if not (ascending > 0).all():  # not known, or an axis of one's own: then by their order
        ascending = np.arange(1.0, len(order) + 1)
    return Side(ascending, steps[order], lost_runs[order], num_steps)


def summarise(
    results: xr.Dataset,
    *,
    best_by: str = "target",
    baseline: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The table that answers the question: a row per model, at its own best learning rate.

    Models are compared with their baseline by what their learning rates were chosen by: steps to
    the target, or with ``best_by="final"`` the final excess loss.

    Args:
        results: Results of any axes.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        baseline: Values of model coordinates, e.g. ``{"width_scale": 1}``: a model is compared
            with the one that has these and is equal in all others, as far as they apply to it (a
            single layer has no hidden widths). By default depth 1 in sweeps of linear networks,
            where it is there, and else nothing.

    Returns:
        A data frame with the model's coordinates and

        * ``best_learning_rate`` (NaN if every rate diverged, or results have no rates) and
          ``grid_edge``: ``low``, ``high`` or ``only`` if it is the grid's first, last or only
          rate, else empty. At an edge the model was not given its best rate;
        * ``past_edge``: whether most runs at that rate pass the edge of stability, so that their
          steps may depend on rounding: true, false, or missing where it is not known. The rule is
          `stability.is_past_edge`'s;
        * ``best_by``, the rule by which that rate was chosen;
        * ``diverged_share``, the share of seeds whose run at that rate diverges (before it reaches
          the target, with ``best_by="target"``), with ``_low``, ``_high``, the ends of Wilson's
          95 % interval: an estimate of the probability of divergence. Not among them are
          ``num_diverged_later``, runs that diverge after they have reached the target (0 unless
          ``best_by="target"``). NaN and 0 without a best rate;
        * ``final_excess`` with quartiles ``_q25``, ``_q75`` over seeds, and ``final_held_out``,
          the loss on held-out rows, likewise where there are some;
        * ``steps_to_target`` with quartiles, ``num_reached`` of ``num_seeds``;
        * ``speed_up``, the baseline's steps to the target over the model's, with ``_low``,
          ``_high``, the ends of its 95 % interval, which holds the choice of the rates and the
          grid's resolution (`intervals.of_speed_up`); of fewer than `intervals.FEWEST` seeds the
          range of the ratios of pairs. With ``best_by="final"`` in its place ``final_ratio``, the
          baseline's final excess loss over the model's, its interval at the chosen rates. Above 1
          is better; NaN without a baseline;
        * ``baseline``, the label of the model compared with; empty without one;
        * ``num_diverged`` of ``num_runs`` over all learning rates at which it was trained;
        * ``optimum``, ``target``, ``resolution`` (no final excess loss is given as smaller than
          this, see `resolved`) and ``num_steps``.

        Its ``attrs`` hold the ``baseline`` as it was given; ``evaluated``, on what losses were
        evaluated where that is not what training saw; ``precision``, of training; and
        ``is_optimum_known``.

    Raises:
        UserError: If ``best_by`` is unknown, or no model has the baseline's values; the message
            lists those there are.
    """
    runs = by_model(results)
    best = best_learning_rates(runs, best_by)
    all_steps = valid_steps(runs, stable=best_by == "stable")
    steps = at_best(best, all_steps)
    final = at_best(best, final_excess(runs))
    held_out = "held_out_loss" in runs
    final_held_out = at_best(best, runs["held_out_loss"].values[..., -1]) if held_out else final
    diverged = np.isfinite(runs["divergence_step"].values)
    lost_runs, tried = lost(runs, best_by), trained(runs)
    rates, labels, names = runs["learning_rate"].values, model_labels(runs), model_coordinates(runs)
    baseline = _default_baseline(runs) if baseline is None else baseline
    bases = _baselines(runs, baseline)

    rows = []
    for m, (b, base) in enumerate(zip(best, bases, strict=True)):
        row: dict[str, object] = {"model": labels[m], **{n: runs[n].values[m] for n in names}}
        row["best_learning_rate"] = rates[b] if b >= 0 else np.nan
        row["grid_edge"] = _edge(int(b), rates, np.flatnonzero(tried[m]))
        past = None if b < 0 else is_past_edge(runs.isel(model=m, learning_rate=b), best_by=best_by)
        row["past_edge"] = pd.NA if past is None else past
        row["best_by"] = best_by
        row.update(_divergence(lost_runs[m], diverged[m], int(b)))
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
            found = speed_up(runs, best, base, m, best_by=best_by)
        for name, value in zip(
            ("", "_low", "_high"), (found.value, found.low, found.high), strict=True
        ):
            row[compared + name] = value
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
    """A model's comparison with its baseline as it should be shown.

    A model that has not reached the target after T steps needs more than T, and an excess loss
    below what the precision resolves is smaller than shown: against another, that gives a bound.

    Args:
        table: From `summarise`.
        m: The row.

    Returns:
        The value of ``speed_up`` or ``final_ratio``, NaN if nothing can be said; and ``>`` or
        ``<`` if it is a bound, else empty.
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


def at_best(best: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at each model's best learning rate.

    Args:
        best: (model,) from `best_learning_rates`.
        values: (model, learning_rate, seed).

    Returns:
        (model, seed); inf without a best rate.
    """
    chosen = values[np.arange(len(best)), best].astype(float)
    return np.where(best[:, None] < 0, np.inf, chosen)


def speed_up(
    runs: xr.Dataset, best: np.ndarray, base: int, m: int, *, best_by: str = "target"
) -> Interval:
    """How many times fewer steps to the target a model takes than another.

    Args:
        runs: Results by model.
        best: (model,) the learning rates to compare at, from `best_learning_rates`.
        base: The number of the model compared with.
        m: That of the model.
        best_by: What made these rates the best.

    Returns:
        The ratio of the medians over seeds at these rates. Its interval holds the choice of the
        rates and the grid's resolution (`intervals.of_speed_up`); that of fewer than
        `intervals.FEWEST` seeds, or of a ratio that is a bound, is as `ratio_of_medians` has it.
    """
    pair = [base, m]
    runs = runs.isel(model=pair)
    steps = valid_steps(runs, stable=best_by == "stable")
    # A start that is at the target already took 0 steps: these count as one.
    shown = ratio_of_medians(*at_best(best[pair], steps), least=1)
    if not 0 < shown.value < np.inf or steps.shape[2] < FEWEST:
        return shown
    rates, lost_runs, tried = runs["learning_rate"].values, lost(runs, best_by), trained(runs)
    num_steps = float(runs.attrs["num_steps"])
    sides = [
        side_of(rates[own], steps[i, own], lost_runs[i, own], num_steps)
        for i, own in enumerate(tried)
    ]
    found = of_speed_up(*sides).at()
    return replace(
        found, value=shown.value, low=min(found.low, shown.value), high=max(found.high, shown.value)
    )


def _of_model(values: xr.DataArray, m: int, rate: int) -> float:
    """A model's value of what may depend on more: at its best rate, the median over seeds."""
    at = {"model": m, "learning_rate": max(rate, 0)}
    return float(
        np.median(values.isel({str(d): at[str(d)] for d in values.dims if d in at}).values)
    )


def _edge(position: int, rates: np.ndarray, own: np.ndarray) -> str:
    """Where a position is among a model's own, those of the rates at which it was trained."""
    if position < 0 or np.isnan(rates[position]):
        return ""
    if len(own) == 1:
        return "only"
    return {own[0]: "low", own[-1]: "high"}.get(position, "")


def _divergence(lost_runs: np.ndarray, diverged: np.ndarray, best: int) -> dict[str, float]:
    """How often a model's runs, (learning_rate, seed), diverge at its best rate."""
    names = ("diverged_share", "diverged_share_low", "diverged_share_high")
    if best < 0:
        return dict.fromkeys(names, np.nan) | {"num_diverged_later": 0}
    happened, count = int(lost_runs[best].sum()), lost_runs.shape[1]
    share = of_share(np.arange(count) < happened)
    found = share.value, share.low, share.high
    later = int(diverged[best].sum()) - happened
    return dict(zip(names, found, strict=True)) | {"num_diverged_later": later}


def _quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    """Median and quartiles; among infinities no interpolation, which would give NaN."""
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    return {name: float(np.median(values)), f"{name}_q25": float(low), f"{name}_q75": float(high)}


def _default_baseline(runs: xr.Dataset) -> dict[str, object]:
    """Depth 1 in results that name no axes, those of linear networks; else none."""
    one_layer = "axes" not in runs.attrs and (runs["depth"].values == 1).any()
    return {"depth": 1} if one_layer else {}


def _baselines(runs: xr.Dataset, wanted: Mapping[str, object]) -> list[int | None]:
    """For each model the number of the one that has these coordinates and is else like it."""
    if not wanted:
        return [None] * runs.sizes["model"]
    others = [name for name in model_coordinates(runs) if name not in wanted]
    rows = list(zip(*(map(str, runs[n].values.tolist()) for n in others), strict=True))
    rows = rows or [()] * runs.sizes["model"]
    candidates = matching(runs, wanted).tolist()

    def alike(base: int, m: int) -> bool:
        # What the baseline does not have, it need not have in common.
        return all(a in (b, "-") for a, b in zip(rows[base], rows[m], strict=True))

    return [next((i for i in candidates if alike(i, m)), None) for m in range(len(rows))]
