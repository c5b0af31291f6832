"""T2: the largest stable learning rate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key
from implicit_accel.claims.estimators import level_of, median, share
from implicit_accel.claims.plots import Forest
from implicit_accel.claims.published.theory import (
    COHEN_2021,
    SOURCE,
    crossings,
    flows,
    theory_problems,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

STABLE_BY = ("monotone loss", "target reached")
TARGET = 0.1
# A larger rise above the lowest loss so far is not due to rounding.
RISE = 1.001


def run(context: Context) -> Found:
    """Largest stable over predicted rates of networks that differ in loss and depth."""
    ratios = {
        (name, p, depth): largest_rates(context, problem, p, depth)
        for name, problem in theory_problems(context).items()
        for p in context.pick((2.0,), (2.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))
        for depth in context.pick((1,), (1, 2, 3), (1, 2, 3, 4))
    }
    known = [found for found in ratios.values() if found is not None]
    # Rates outside the search count as 0 or infinite: leaving them out would shift the medians.
    medians = np.array([np.median(found, axis=1) for found in known]).reshape(-1, 2)
    note = f"{len(known)} models"
    close = share(np.abs(medians[:, 0] - 1) <= 0.05, note=note)
    monotone, reached = (
        median(medians[:, i], note=note).keyed(Key.of("median largest rate", by=by))
        for i, by in enumerate(STABLE_BY)
    )
    each = [
        over_seeds(None if found is None else found[i]).keyed(
            Key.of("largest rate", problem=name, p=p, depth=depth, by=by)
        )
        for i, by in enumerate(STABLE_BY)
        for (name, p, depth), found in ratios.items()
    ]
    return Found(
        effects=(monotone, close.keyed(Key.of("models within 5 %")), reached, *each),
        facts={"lowest": medians[:, 0].min(initial=math.inf)},
    )


def over_seeds(ratios: np.ndarray | None) -> Effect:
    """The median over seeds; without a value if there are none, or some outside the search."""
    if ratios is None:
        return Effect("", math.nan, note="left out: the flow takes too long")
    outside = int(np.sum(~np.isfinite(ratios) | (ratios == 0)))
    note = f"no limit found ({outside} of {len(ratios)} seeds)"
    return Effect("", math.nan, note=note) if outside else median(ratios)


def largest_rates(context: Context, problem: Problem, p: float, depth: int) -> np.ndarray | None:
    """(2, seed) largest over predicted rates, by both definitions of `STABLE_BY`.

    None if the flow takes too long for runs at these rates.
    """
    config = SweepConfig(
        depths=(depth,), losses=(Loss(p),), learning_rates=(1.0,),
        num_seeds=context.pick(2, 5, 20), num_steps=context.pick(300, 40_000, 10**6),
    )  # fmt: skip
    found = flows(context, problem, config, (TARGET,))
    edges = 2 / found["sharpness"].to_numpy()
    longest = float(np.max(found["time"].to_numpy() / edges))
    if not longest * 2.2 < config.num_steps:
        return None
    config = replace(config, num_steps=math.ceil(2.2 * longest) + 20)
    edge = float(np.median(edges))
    return np.array([bisect(context, problem, config, edge, i) / edges for i in (0, 1)])


def bisect(
    context: Context, problem: Problem, config: SweepConfig, edge: float, definition: int
) -> np.ndarray:
    """(seed,) largest rates between half and twice the edge, searched in ever finer grids.

    A rate is stable by the definition of this number in `STABLE_BY`. The result is 0 or inf where
    the largest rate lies below or above the search.
    """
    low, high = edge / 2, 2 * edge
    rates = np.zeros(0)
    first = np.zeros(config.num_seeds, int)
    for _ in range(context.pick(1, 2, 3)):
        rates = np.geomspace(low, high, context.pick(5, 13, 17))
        rates = np.array([float(f"{r:.6g}") for r in rates])
        results = context.sweep(problem, replace(config, learning_rates=tuple(rates)))
        first = first_failing(stable(results)[definition])
        low, high = rates[max(first.min() - 1, 0)], rates[min(first.max(), len(rates) - 1)]
        if low >= high:
            break
    below = np.where(first > 0, rates[np.maximum(first - 1, 0)], 0.0)
    above = np.where(first < len(rates), rates[np.minimum(first, len(rates) - 1)], math.inf)
    return np.sqrt(below * above)


def stable(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(rate, seed) whether runs are stable, by each definition of `STABLE_BY`."""
    excess, steps = results["excess_loss"].values[0], results["step"].values
    when = crossings(steps, excess, level_of(results, 0, TARGET))
    rises = excess > RISE * np.minimum.accumulate(excess, axis=-1)
    rises &= steps <= np.where(np.isfinite(when), when, steps[-1])[..., None]
    return np.isfinite(when) & ~rises.any(axis=-1), np.isfinite(when)


def first_failing(holds: np.ndarray) -> np.ndarray:
    """(seed,) the first of ascending rates at which a condition (rate, seed) fails."""
    return np.where(holds.all(axis=0), len(holds), holds.argmin(axis=0))


CLAIM = Claim(
    id="T2",
    is_theory=True,
    statement="The largest stable learning rate is 2 over the largest sharpness of the gradient "
    "flow before the target.",
    source=f"{SOURCE}; {COHEN_2021}",
    is_changed=True,
    run=run,
    valid="as a lower bound: the largest stable rate is this or larger, for every model",
    checks=(
        Check("median largest rate", {"by": STABLE_BY[0]}, low=0.95, high=1.05, closed=True),
        Check("models within 5 %", low=75.0, why="what so few models can show"),
    ),
    plots={
        "largest_rates": Forest(
            "largest rate", title="Largest stable learning rate", xlabel="measured over predicted",
            series="by", sides=("below the prediction", "beyond it"),
        )
    },
    minutes=4.4,
    paper_hours=3.0,
)  # fmt: skip
