"""T4: first moves by the plateau law."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, below, judge, shortfall
from implicit_accel.claims.drawing import draw_agreement, make_figure
from implicit_accel.claims.estimators import median_of
from implicit_accel.claims.published.plateaus import FIRST_MOVE, escapes
from implicit_accel.claims.published.theory import SOURCE, split, theory_problems, where
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss


def _cells(
    lab: Context, name: str, problem: Problem, p: float, depth: int, width: int
) -> pd.DataFrame:
    """First moves of some seeds, at a rate at which the typical one takes a number of steps."""
    typical, longest = lab.pick((300, 600), (7_500, 22_500), (30_000, 300_000))

    def grid(rate: float) -> SweepConfig:
        return SweepConfig(
            depths=(depth,), hidden_widths=(width,), losses=(Loss(p),), learning_rates=(rate,),
            num_seeds=lab.pick(2, 12, 100), num_steps=longest, precision="float64",
            target=Target(1 - FIRST_MOVE, relative=True),
        )  # fmt: skip

    times = escapes(lab, problem, grid(1.0))
    rate = float(f"{np.median(times[np.isfinite(times)]) / typical:.4g}")
    results = lab.sweep(problem, grid(rate))
    measured = results["steps_to_target"].values[0, 0]
    return pd.DataFrame({
        "problem": name, "loss": f"ℓ{p:g}", "depth": depth, "width": width, "learning rate": rate,
        "predicted": times / rate, "measured": measured, "told": times / rate < longest,
    })  # fmt: skip


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Per cent; none where a network starts beyond the first move, and is told to."""
    predicted, measured = rows["predicted"].to_numpy(), rows["measured"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = 100 * np.abs(predicted / measured - 1)
    return np.where(predicted == measured, 0.0, errors)


def _draw(cells: pd.DataFrame) -> Figure:
    figure, axes = make_figure(
        1, 1, title="First moves from near zero, seed by seed", size=(5.2, 4.6)
    )
    draw_agreement(
        axes[0, 0],
        {f"depth {depth}": (rows["measured"], rows["predicted"])
         for (depth,), rows in split(cells, "depth")},
        xlabel="steps measured", ylabel="steps predicted by the plateau law",
    )  # fmt: skip
    return figure


def _test(lab: Context) -> Finding:
    cells = pd.concat(
        [
            _cells(lab, name, problem, p, depth, width)
            for name, problem in theory_problems(lab).items()
            for p in (2.0, 4.0)
            for depth in lab.pick((2, 3), (2, 3, 4, 5), (2, 3, 4, 5))
            for width in lab.pick((1,), (1, 10), (1, 10, 64))
        ],
        ignore_index=True,
    )
    told = where(cells, cells["told"])
    effects, parts = [], []
    for (depth, width), rows in split(told, "depth", "width"):
        errors = _errors(rows)
        effect = median_of(
            f"depth {depth}, width {width}: error of the first move, per seed", errors, unit=" %",
            note=f"{len(errors)} seeds; within 2 %: {100 * np.mean(errors <= 2):.0f} %",
        )  # fmt: skip
        effects.append(effect)
        parts.append(below(effect, 2.0))
    late = where(cells, ~cells["told"])
    kept = int(np.sum(~np.isfinite(late["measured"].to_numpy())))
    name, problem = lab.first_problem()
    deep = escapes(
        lab, problem, SweepConfig(depths=(8,), losses=(Loss(2),), num_seeds=lab.pick(2, 20, 100))
    )
    times = deep[np.isfinite(deep)]
    span = f"{times.min():.2g} to {times.max():.2g}" if len(times) else "none"
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary=f"{len(told):,} first moves. "
        + "; ".join(f"{e.name.split(':')[0]}: {e} ({e.note})" for e in effects)
        + f". Of the {len(late):,} seeds predicted not to move within the run {kept:,} did not. "
        f"Depth 8 on {name} (ℓ2, width 1) moves after {span} units of time, steps times learning "
        f"rate, for {len(times)} of {len(deep)} seeds: 'stuck' is a number."
        + shortfall(
            verdict,
            "At depth 2 the escape is exponential and its end is not yet the linear problem's, "
            "whose higher orders at a move of 1 % are of the order of that.",
        ),
        sensitivity="The law is that of small rates, exact while the loss is linear in the "
        "end-to-end matrix; the rate is such that the typical seed takes "
        f"{lab.pick(300, 7_500, 30_000):,} steps.",
        tables={"First moves": _summary(cells)},
        figures={"first_moves": _draw(told)},
    )


def _summary(cells: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, some in split(cells, "problem", "loss", "depth", "width"):
        told = where(some, some["told"])
        errors = _errors(told) if len(told) else np.array([math.nan])
        rows.append({
            **dict(zip(("problem", "loss", "depth", "width"), key, strict=True)),
            "learning rate": some["learning rate"].iloc[0], "seeds": len(some),
            "predicted within the run": len(told), "median error (%)": np.median(errors),
            "largest error (%)": errors.max(),
        })  # fmt: skip
    return pd.DataFrame(rows)


CLAIM = Claim(
    id="T4",
    statement="When a deep network from near zero first moves is told by an integral over what "
    "its layers conserve.",
    source=f"{SOURCE} (the plateau law)",
    setting="Every problem, ℓ2 and ℓ4, depths 2 to 5, widths 1 and 10, near-zero start (0.01), 12 "
    "seeds each, float64; a move is a loss of 1 % of the zero predictor's excess.",
    criterion="The error of the predicted first move, seed by seed, is below 2 % in the median for "
    "every depth and width, with its interval.",
    test=_test,
    minutes=2.9,
    paper_hours=0.7,
)
