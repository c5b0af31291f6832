"""T4: escape times from near-zero initialisations by the plateau law."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import draw_agreement, make_figure
from implicit_accel.claims.estimators import median
from implicit_accel.claims.published.plateaus import FIRST_MOVE, escapes
from implicit_accel.claims.published.theory import SOURCE, split, theory_problems, where
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss

TYPICAL_STEPS = (300, 7_500, 30_000)
"""The median seed's predicted step of escape, by scale."""


def run(context: Context) -> Found:
    """Predicted and measured escapes of networks of several depths and widths."""
    cells = pd.concat([
        escaping_runs(context, problem, p, depth, width).assign(problem=name)
        for name, problem in theory_problems(context).items()
        for p in (2.0, 4.0)
        for depth in context.pick((2, 3), (2, 3, 4, 5), (2, 3, 4, 5))
        for width in context.pick((1,), (1, 10), (1, 10, 64))
    ])  # fmt: skip
    escaping, late = where(cells, cells["in run"]), where(cells, ~cells["in run"])
    name, problem = context.first_problem()
    deep = SweepConfig(depths=(8,), losses=(Loss(2),), num_seeds=context.pick(2, 20, 100))
    times = escapes(context, problem, deep)
    by = ["problem", "p", "depth", "width"]
    summary = escaping.groupby(by)["error"].agg(
        **{"seeds": "size", "median error (%)": "median", "largest error (%)": "max"}
    )
    return Found(
        runs={"all problems": escaping},
        facts={
            "typical": context.pick(*TYPICAL_STEPS),
            "num_late": len(late),
            "num_late_correct": int(np.sum(np.isinf(late["measured"]))),
            "deep": {"problem": name, "earliest": times.min(), "latest": times.max()},
        },
        tables={"Errors by problem and loss": summary.reset_index()},
        figures={"first_moves": draw(escaping)},
    )  # fmt: skip


def escaping_runs(
    context: Context, problem: Problem, p: float, depth: int, width: int
) -> pd.DataFrame:
    """Predicted and measured steps of escapes and the error in per cent, a row for each seed.

    The rate is such that the median seed escapes after a fixed number of steps. ``in run`` is
    whether a seed is predicted to escape within the run.
    """
    typical, longest = context.pick(*TYPICAL_STEPS), context.pick(600, 22_500, 300_000)

    def grid(rate: float) -> SweepConfig:
        return SweepConfig(
            depths=(depth,), hidden_widths=(width,), losses=(Loss(p),), learning_rates=(rate,),
            num_seeds=context.pick(2, 12, 100), num_steps=longest, precision="float64",
            target=Target(1 - FIRST_MOVE, relative=True),
        )  # fmt: skip

    times = escapes(context, problem, grid(1.0))
    rate = float(f"{np.median(times[np.isfinite(times)]) / typical:.4g}")
    predicted = times / rate
    measured = context.sweep(problem, grid(rate))["steps_to_target"].values[0, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = 100 * np.abs(predicted / measured - 1)
    # Both are 0 for a network that starts with less than the loss of an escape.
    error = np.where(predicted == measured, 0.0, error)
    return pd.DataFrame({
        "p": p, "depth": depth, "width": width, "predicted": predicted, "measured": measured,
        "error": error, "in run": predicted < longest,
    })  # fmt: skip


def error_of_the_escape(escaping: pd.DataFrame, depth: int, width: int) -> Effect | None:
    """The median error over problems, losses and seeds; None for a network that was not run."""
    chosen = (escaping["depth"] == depth) & (escaping["width"] == width)
    errors = escaping.loc[chosen, "error"].to_numpy()
    close = 100 * np.mean(errors <= 2) if len(errors) else np.nan
    note = f"{len(errors)} seeds; within 2 %: {close:.0f} %"
    return median(errors, unit=" %", note=note) if len(errors) else None


def draw(escaping: pd.DataFrame) -> Figure:
    """Predicted against measured steps."""
    title = "Escapes from near-zero initialisations, each seed"
    figure, axes = make_figure(1, 1, title=title, size=(5.2, 4.6))
    series = {
        f"depth {depth}": (rows["measured"], rows["predicted"])
        for (depth,), rows in split(escaping, "depth")
    }
    draw_agreement(
        axes[0, 0], series, xlabel="steps measured", ylabel="steps predicted by the plateau law"
    )
    return figure


CLAIM = Claim(
    id="T4",
    is_theory=True,
    statement="The escape time from a near-zero initialisation is an integral over the layers' "
    "conserved quantities.",
    source=f"{SOURCE} (the plateau law)",
    run=run,
    valid="from small initialisations, below the edge of stability",
    measures=(
        Measure(
            "error of the escape", error_of_the_escape,
            {"depth": (2, 3, 4, 5), "width": (1, 10, 64)},
        ),
    ),
    checks=(Check("error of the escape", high=2.0),),
    minutes=2.9,
    paper_hours=0.7,
)  # fmt: skip
