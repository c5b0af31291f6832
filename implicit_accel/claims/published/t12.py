"""T12: how much depth gains at stable learning rates, by a formula."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import colour_of, make_figure
from implicit_accel.claims.estimators import resampled, side_of
from implicit_accel.claims.published.packaged import packaged_problems
from implicit_accel.claims.published.theory import SOURCE, end_to_end_starts, known_by, split
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.speed_up import predict_speed_up

POWERS, DEPTHS, SHARES = (3.0, 4.0, 6.0), (2, 3), (0.1, 0.01)
DECAYS, TAILS = (0.0, 1.0, 2.0), (2.5, 5.0)
"""Of the synthetic problems: spectra k^(−decay), and labels' noise from Student's t."""

REAL, SYNTHETIC, PACKAGED = "Ethanol and Abalone", "synthetic problems", "packaged data sets"


@dataclass(frozen=True)
class Cell:
    """A speed-up, predicted and measured.

    Attributes:
        p: The loss's exponent.
        depth: Of the network.
        share: The target, as a share of the zero predictor's excess loss.
        predicted: The median over seeds.
        measured: Median steps of one layer over the network's, each at its best stable rate; inf or
            0 where one of them does not reach the target, NaN where neither does.
        steps: The fewer of the two medians.
    """

    p: float
    depth: int
    share: float
    predicted: float
    measured: float
    steps: float


def synthetic(decay: float, tail: float) -> Problem:
    """400 rows of 16 features with a power-law spectrum, and labels with heavy tails."""
    rng = np.random.default_rng(round(100 * decay + tail))
    scales = np.arange(1, 17) ** (-decay / 2)
    X = rng.standard_normal((400, 16)) * scales
    y = X @ (rng.standard_normal(16) / scales) + rng.standard_t(tail, 400)
    return Problem.from_arrays(X / X.std(), (y - y.mean()) / y.std())


def measured(context: Context, problem: Problem, loss: Loss, depth: int) -> list[Cell]:
    """A cell for each target: the formula, and both models from the same end-to-end weights."""
    config = SweepConfig(
        depths=(depth,), losses=(loss,), num_seeds=context.pick(2, 4, 8),
        num_steps=context.pick(300, 20_000, 20_000), learning_rates=(1.0,),
    )  # fmt: skip

    def make() -> pd.DataFrame:
        tables = []
        for share in SHARES[: context.pick(1, 2, 2)]:
            aimed = replace(config, target=Target(share, relative=True))
            found = predict_speed_up(problem, config.models[0], aimed)
            columns = {"speed_up": found.values, "rate": found.rate, "one": found.one_layer_rate}
            tables.append(pd.DataFrame({"share": share, **columns}))
        return pd.concat(tables)

    table = context.table("formula", known_by(problem, config, SHARES), make)
    # The largest stable rates are those of a whole run, whatever the target.
    rates = {name: float(np.median(table[name])) for name in ("rate", "one")}
    count = context.pick(4, 25, 33)
    deep = context.sweep(problem, replace(config, learning_rates=_around(rates["rate"], count)))
    single = context.sweep(
        problem, replace(config, depths=(1,), learning_rates=_around(rates["one"], count)),
        initial=end_to_end_starts(problem, config),
    )  # fmt: skip
    cells = []
    for (share,), rows in split(table, "share"):
        steps = []
        for results in (single, deep):
            side = side_of(results, 0, share, "stable")
            best = int(side.best(side.all_seeds)[0])
            steps.append(float(np.median(side.steps[best])) if best >= 0 else np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = float(np.divide(*steps))
        predicted = float(np.median(rows["speed_up"]))
        cells.append(Cell(float(loss.p), depth, share, predicted, ratio, min(steps)))
    return cells


def _around(rate: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{r:.4g}") for r in np.geomspace(rate / 3, 3 * rate, count))


def run(context: Context) -> Found:
    """Predicts and measures every cell."""
    problems = {
        REAL: list(context.problems().values())[: context.pick(1, 2, 2)],
        SYNTHETIC: [
            synthetic(decay, tail)
            for decay in DECAYS[: context.pick(1, 3, 3)]
            for tail in TAILS[: context.pick(1, 2, 2)]
        ],
        PACKAGED: list(packaged_problems().values())[: context.pick(1, None, None)],
    }
    runs = {
        name: list(
            itertools.chain.from_iterable(
                context.side_by_side(
                    partial(measured, problem=problem, loss=Loss(p), depth=depth)
                    for problem in own
                    for p in POWERS[: context.pick(1, 3, 3)]
                    for depth in DEPTHS[: context.pick(1, 2, 2)]
                )
            )
        )
        for name, own in problems.items()
        if own
    }
    rows = [{"problems": name, **vars(cell)} for name, cells in runs.items() for cell in cells]
    return Found(
        runs=runs,
        facts={"cells": len(rows), "packaged": [problem.name for problem in problems[PACKAGED]]},
        tables={"Predicted and measured speed-ups": pd.DataFrame(rows)},
        figures={"agreement": agreement_figure(runs)},
    )


def _known(cells: Sequence[Cell], depth: int, share: float, steps: str) -> list[Cell]:
    return [
        c for c in cells
        if (c.depth, c.share) == (depth, share) and c.steps >= LEAST[steps]
        and not np.isnan(c.predicted + c.measured)
    ]  # fmt: skip


def ratio(cells: Sequence[Cell], depth: int, share: float, steps: str) -> Effect:
    """The median of predicted over measured speed-ups, resampled over cells."""
    known = [
        c for c in _known(cells, depth, share, steps) if 0 < c.measured < np.inf and c.predicted > 0
    ]
    ratios = np.array([c.predicted / c.measured for c in known])
    if not len(ratios):
        return Effect("", np.nan, note="no cell has both")
    return resampled(lambda chosen: float(np.median(ratios[chosen])), len(ratios))


def true_skill(cells: Sequence[Cell], depth: int, share: float, steps: str) -> Effect:
    """Recall of the gains plus that of the others, minus 1: 0 by chance, 1 if all are right."""
    known = _known(cells, depth, share, steps)
    gains = np.array([c.measured > 1 for c in known])
    predicted = np.array([c.predicted > 1 for c in known])
    if not (gains.any() and (~gains).any()):
        return Effect("", np.nan, unit="", note="gains or their absence do not occur")

    def score(chosen: np.ndarray) -> float:
        is_gain, said = gains[chosen], predicted[chosen]
        if is_gain.all() or not is_gain.any():
            return float("nan")
        return float(said[is_gain].mean() + (~said[~is_gain]).mean() - 1)

    return resampled(score, len(known), unit="", least=-1, most=1)


def agreement_figure(runs: dict[str, list[Cell]]) -> Figure:
    """Predicted against measured speed-ups, a point for each cell."""
    figure, axes = make_figure(1, 1, title="Speed-up of depth at stable rates", size=(4.8, 4.4))
    ax = axes[0, 0]
    shown = [c for cells in runs.values() for c in cells]
    for (depth, share), marker in zip(itertools.product(DEPTHS, SHARES), "oDs^", strict=True):
        own = [c for c in _known(shown, depth, share, ANY) if 0 < c.measured < np.inf]
        if own:
            ax.plot(
                [c.predicted for c in own], [c.measured for c in own], marker, alpha=0.75,
                color=colour_of(depth), label=f"depth {depth}, to {100 * share:g} %",
            )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="predicted", ylabel="measured")
    low, high = ax.get_xlim()
    ax.plot([low, high], [low, high], color="0.4", linewidth=0.8)
    ax.axhline(1, color="0.7", linewidth=0.8, linestyle=":")
    ax.axvline(1, color="0.7", linewidth=0.8, linestyle=":")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return figure


ANY, RESOLVED = "any", "20 or more"
LEAST = {ANY: 0, RESOLVED: 20}
"""Of a cell's steps: no flow resolves fewer."""

RATIO, SKILL = "predicted over measured speed-up", "true skill of the predicted sign"

CLAIM = Claim(
    id="T12",
    is_theory=True,
    statement="Depth's speed-up at stable rates is the ratio of the flows' times in units of each "
    "one's largest stable rate, one layer's being its start-up edge.",
    source=f"{SOURCE}, after a prototype",
    is_changed=True,
    run=run,
    valid="for p > 2 at stable rates, from the same initial weights, in more than twenty steps",
    measures=(
        Measure(RATIO, ratio, {"depth": DEPTHS, "share": SHARES, "steps": tuple(LEAST)}),
        Measure(SKILL, true_skill, {"depth": DEPTHS, "share": SHARES, "steps": tuple(LEAST)}),
    ),
    checks=tuple(
        check
        for problem in (SYNTHETIC, PACKAGED)
        for share in SHARES
        for at in ({"problem": problem, "depth": 2, "share": share, "steps": ANY},)
        for check in (
            Check(RATIO, at, 1 / 1.25, 1.25, closed=True),
            Check(SKILL, at, low=0.5),
        )
    ),
    minutes=20.0,
    paper_hours=0.5,
)
