"""T9: the end-to-end rule's two parts, together and alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from implicit_accel.claims.api import (
    FIRST,
    Check,
    Claim,
    Context,
    Effect,
    Found,
    Measure,
    Scaled,
)
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.plots import Forest
from implicit_accel.claims.published.contest import (
    GD,
    METHODS,
    NETWORK,
    PROJECTION,
    RATE,
    RULE,
    P,
    contest,
)
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.theory import SOURCE, theory_problems
from implicit_accel.intervals import ModelRuns

DEPTHS = Scaled((2,), (2, 3), (2, 3, 4))


def run(context: Context) -> Found:
    """Trains each method on each problem, for each depth of the network."""
    contests = {
        (name, depth): partial(contest, problem=problem, depth=depth)
        for name, problem in theory_problems(context).items()
        for depth in DEPTHS.at(context)
    }
    trained = dict(zip(contests, context.side_by_side(contests.values()), strict=True))
    runs: dict[str, dict] = {}
    for (name, depth), found in trained.items():
        runs.setdefault(name, {})[P, depth] = {method: own for method, (own, _) in found.items()}
    return Found(runs)


def fewest(runs: ModelRuns, seeds: np.ndarray) -> float:
    """The median steps of some seeds at the best rate."""
    rate = int(runs.best(seeds[None])[0])
    return float(np.median(runs.steps[rate, seeds])) if rate >= 0 else np.inf


def ratio(
    runs: Mapping, p: float, depth: int, *, above: Sequence[str], below: Sequence[str] = ()
) -> Effect:
    """The product of some methods' speed-ups over gradient descent, over that of others."""
    own: Mapping[str, ModelRuns] = runs[p, depth]

    def product(methods: Sequence[str], seeds: np.ndarray) -> float:
        steps, *others = (fewest(own[method], seeds) for method in (GD, *methods))
        return float(np.prod(np.divide(steps, others)))

    def measure(seeds: np.ndarray) -> float:
        # NaN where neither reaches the target, as in some resamples.
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(product(above, seeds), product(below, seeds)))

    return resampled(measure, own[GD].num_seeds)


def speed_up(runs: Mapping, p: float, depth: int, method: str) -> Effect:
    """A method's speed-up over gradient descent."""
    own: ModelRuns = runs[p, depth][method]
    steps = fewest(own, np.arange(own.num_seeds))
    return replace(ratio(runs, p, depth, above=[method]), note=f"{steps:,.0f} steps")


OVER = {"p": (P,), "depth": DEPTHS}
OVER_GD = "speed-up over gradient descent"
RULE_OVER_NETWORK, PARTS_OVER_RULE = "rule over network", "product of the parts over the rule"

CLAIM = Claim(
    id="T9",
    is_theory=True,
    statement="Depth's speed-up on ℓ4 is that of the end-to-end rule, a learning rate that grows "
    "with the weights and a projection, whose speed-ups multiply.",
    source=f"{SOURCE}; the rule is that of {PAPER_2018}",
    is_changed=True,
    run=run,
    valid="for the rule as a whole; that its parts multiply is not shown",
    measures=(
        Measure(RULE_OVER_NETWORK, partial(ratio, above=[RULE], below=[NETWORK]), OVER),
        Measure(PARTS_OVER_RULE, partial(ratio, above=[RATE, PROJECTION], below=[RULE]), OVER),
        Measure(OVER_GD, speed_up, {**OVER, "method": METHODS}),
    ),
    checks=(
        Check(RULE_OVER_NETWORK, low=0.9, high=1.1, closed=True),
        Check(PARTS_OVER_RULE, low=0.9, high=1.1, closed=True),
    ),
    plots={
        "taken_apart": Forest(
            OVER_GD,
            title="The end-to-end rule and its parts on ℓ4, each at its best rate",
            at={"problem": FIRST},
            xlabel="speed-up over gradient descent on one layer",
            series="depth",
        )
    },
    minutes=6.6,
    paper_hours=2.0,
)
