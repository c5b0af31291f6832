"""P2: the hidden width."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from experiments.claims.criteria import Cause, Claim, Effect, Finding, judge, within
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import (
    compare,
    effects_table,
    model_number,
    steps_to_level,
)
from experiments.claims.toolkit.plateaus import escapes
from experiments.claims.toolkit.sources import PAPER_2018
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import plot_excess_loss
from implicit_accel.statistics import best_learning_rates

_DEPTHS = (2, 3)


def _widths(lab: Laboratory) -> tuple[int, ...]:
    return lab.pick((1, 8), (1, 4, 16, 64), (1, 4, 16, 64, 256))


def _train(lab: Laboratory) -> tuple[str, xr.Dataset]:
    name, problem = lab.first_problem()
    config = SweepConfig(
        depths=_DEPTHS,
        hidden_widths=_widths(lab),
        losses=(Loss(2), Loss(4)),
        learning_rates=parse_learning_rates(
            [lab.pick("log:3e-3:0.3:5", "log:1e-3:1:19", "log:1e-3:1:37")]
        ),
        num_seeds=lab.pick(2, 5, 20),
        num_steps=lab.pick(300, 20_000, 100_000),
    )
    return name, lab.sweep(problem, config)


def _measure(name: str, results: xr.Dataset) -> list[Effect]:
    """Every width against width 1."""

    def number(loss: str, depth: int, width: int) -> int:
        hidden = "x".join([str(width)] * (depth - 1))
        return model_number(results, loss_name=loss, depth=depth, hidden_widths=hidden)

    hidden = results["hidden_widths"].values.tolist()
    widths = sorted({int(text.split("x")[0]) for text in hidden})
    return [
        compare(
            results,
            number(loss, depth, width),
            number(loss, depth, 1),
            name=f"{name}, ℓ{loss[1:]}, depth {depth}, width {width} against width 1",
        )
        for loss in ("l2", "l4")
        for depth in _DEPTHS
        for width in widths[1:]
    ]


def _plateaus(results: xr.Dataset) -> dict[int, dict[str, float]]:
    """Median steps until the ℓ4 loss has fallen by a tenth, by depth and width."""
    found: dict[int, dict[str, float]] = {}
    best = best_learning_rates(results)
    for m in range(results.sizes["model"]):
        if results["loss_name"].values[m] == "l4" and best[m] >= 0:
            steps = steps_to_level(results, m, 0.9)[best[m]]
            width = str(results["hidden_widths"].values[m]).split("x")[0]
            found.setdefault(int(results["depth"].values[m]), {})[width] = float(np.median(steps))
    return found


def _reason(results: xr.Dataset) -> str:
    """Why widths part, as text."""
    shown = "; ".join(
        f"depth {depth}: " + ", ".join(f"{steps:.0f} (width {w})" for w, steps in by_width.items())
        for depth, by_width in _plateaus(results).items()
    )
    return (
        " The widths part before the loss moves at all: a wider near-zero start is a larger "
        "one, and leaves the plateau sooner. Median steps until the ℓ4 loss has fallen by a tenth, "
        f"at the best rate: {shown}."
    )


def _law(lab: Laboratory, problem: Problem, num_seeds: int) -> str:
    """First moves by the plateau law, by depth and width, as text."""
    told = []
    for depth in _DEPTHS:
        moves = {}
        for width in (1, _widths(lab)[-1]):
            config = SweepConfig(
                depths=(depth,), hidden_widths=(width,), losses=(Loss(4),), num_seeds=num_seeds
            )
            moves[width] = float(np.median(escapes(lab, problem, config)))
        (_, thin), (width, wide) = moves.items()
        told.append(f"{thin / wide:.3g} times as long at width 1 as at {width} (depth {depth})")
    return " and ".join(told)


def _largest_factor(effects: list[Effect], depth: int) -> float:
    values = [e.value for e in effects if f"depth {depth}," in e.name and e.value > 0]
    return max((max(value, 1 / value) for value in values), default=math.nan)


def _test(lab: Laboratory) -> Finding:
    name, results = _train(lab)
    effects = _measure(name, results)
    worst = max(effects, key=lambda e: 0 if math.isnan(e.value) else abs(np.log(e.value)))
    verdict = judge([within(e, 0.8, 1.25) for e in effects])
    why = "" if verdict.holds else _reason(results)
    factors = (f"{_largest_factor(effects, depth):.3g} at depth {depth}" for depth in _DEPTHS)
    return Finding(
        verdict=verdict,
        effects=(worst, *(e for e in effects if e is not worst)),
        summary=f"The largest difference between widths: {worst.name}, {worst} as fast.{why}",
        cause=Cause(
            ("T4",),
            "How long a network stays near zero is told by its layers' sizes alone. By "
            f"the plateau law the ℓ4 networks' median first move takes "
            f"{_law(lab, lab.first_problem()[1], results.sizes['seed'])}.",
        ),
        sensitivity="Depth: the largest factor between two widths is "
        + " and ".join(factors)
        + ".",
        tables={"Width against width 1": effects_table(effects)},
        figures={"excess_loss": plot_excess_loss(results)},
    )


CLAIM = Claim(
    id="P2",
    statement="The hidden width does not matter.",
    source=f"{PAPER_2018} and its authors' blog post (read; details from memory)",
    setting="Depths 2 and 3, widths from 1 to wide, ℓ2 and ℓ4, each at its best learning rate.",
    criterion="Every width's speed-up over width 1 lies within 0.8 and 1.25, with its "
    "interval: a wider start is a larger one (its end-to-end matrix grows with the root of the "
    "width), which may shift the time of the first move by some per cent.",
    test=_test,
    paper_hours=1.2,
)
