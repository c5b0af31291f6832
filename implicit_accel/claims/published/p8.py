"""P8: which problem the authors' ℓ4 figure shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key
from implicit_accel.claims.drawing import legend, make_figure
from implicit_accel.claims.published import figure_search as search
from implicit_accel.claims.published.authors import FIGURES, draw_authors
from implicit_accel.claims.published.figure_search import FIGURE, Candidate, Run
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.theory import where
from implicit_accel.plotting import COLOURS

# Ten per cent: a little more than half the width of the widest line drawn (0.003 to 0.032 decades,
# RMS, curve by curve), within which a reading may lie.
SAME = 0.04


def run(context: Context) -> Found:
    """Searches by gradient flow, then trains the nearest problems."""
    data, steps = context.gas(), context.pick(10_000, 100_000, 1_000_000)
    table = search.compared(context, data)
    fixed = search.at_papers_rates(context, data, table)
    trained = []
    nearest = search.resolved(fixed, lambda row: Candidate.of(row).problem(data))
    for row, problem in itertools.islice(nearest, context.pick(1, 3, 10)):
        rates = [search.near(row["rate 1"]), search.near(row["rate 2"]), *3 * [search.PAPER_RATES]]
        trained.append((problem, rates, search.nearest_runs(context, problem, rates, steps)))
    best, rates, runs = min(
        trained, key=lambda found: sum(r.distance**2 for r in found[2].values())
    )
    runs = search.as_long_as_the_figure(context, best, rates, runs)
    passing = where(table, table["passes"])
    free = where(passing, np.isfinite(passing["free"])).sort_values("free", kind="stable")
    row, problem = next(search.resolved(free, lambda row: search.at_own_scales(data, row)))
    rates = search.own_rates(context, row)
    own = search.nearest_runs(context, problem, rates, steps)
    own = search.as_long_as_the_figure(context, problem, rates, own)
    farthest = Effect("", max(each.distance for each in runs.values()), unit=" decades")
    at = {"problem": "stand-in" if data.is_stand_in else "Ethanol"}
    effects = {Key.of("distance of the farthest curve", **at): farthest}
    for measure, group in (("the paper's rates", runs), ("own scales and rates", own)):
        for name, each in group.items():
            key = Key.of(f"distance at {measure}", **at, method=FIGURES[FIGURE][name])
            note = f"learning rate {each.rate:.4g}"
            effects[key] = Effect("", each.distance, unit=" decades", note=note)
    return Found(
        effects=[effect.keyed(key) for key, effect in effects.items()],
        facts={
            "tried": len(table), "passing": len(passing), "same": SAME,
            "matching": np.count_nonzero(table["free"] < SAME), "best": best.name,
            "least": {name: np.nanmin(passing[name]) for name in ("free", "free 1", "free 2")},
            "one": table.nsmallest(1, "fixed 1").to_dict("records")[0], "both": fixed["fixed"][0],
            "own": row,
        },
        tables={
            "Nearest at the paper's rates, by flow": search.nearest_table(fixed, "fixed"),
            "Nearest at own scales and rates, by flow": search.nearest_table(passing, "free"),
        },
        figures={
            "best_candidate": draw_best(best.name, runs), "candidates": draw_candidates(table)
        },
    )  # fmt: skip


def draw_best(name: str, runs: Mapping[str, Run]) -> Figure:
    """The published curves and the nearest problem's."""
    title = f"The authors' figure (grey) and the nearest problem found\n{name}"
    figure, axes = make_figure(1, 1, title=title, size=(6.4, 4.4))
    draw_authors(axes[0, 0], FIGURE)
    for (curve, run), colour in zip(runs.items(), COLOURS, strict=False):
        label = f"{FIGURES[FIGURE][curve]}, rate {run.rate:g}: {run.distance:.2f} decades away"
        shown = (run.steps >= 1000) & np.isfinite(run.losses)
        axes[0, 0].plot(run.steps[shown], run.losses[shown], color=colour, label=label)
    axes[0, 0].set(xlabel="iteration", ylabel="loss", xlim=(1000, 3e6))
    legend(axes[0, 0], loc="lower left")
    return figure


def draw_candidates(table: pd.DataFrame) -> Figure:
    """The start-to-optimum ratio against the distance by flow, by features."""
    title = "Every problem followed, at a label scale and rates of its own"
    figure, axes = make_figure(1, 1, title=title, size=(6.4, 4.4))
    for number, (name, rows) in enumerate(table.groupby("features", sort=False)):
        style = {"color": COLOURS[number % len(COLOURS)], "markersize": 3.5, "alpha": 0.6}
        axes[0, 0].plot(rows["ratio"], rows["free"], "os^v"[number % 4], label=name, **style)
    axes[0, 0].axhline(SAME, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)))
    axes[0, 0].set(
        xscale="log", yscale="log", xlabel="loss of the zero map over the optimum",
        ylabel="distance of both depths, decades (RMS)",
    )  # fmt: skip
    legend(axes[0, 0])
    return figure


CLAIM = Claim(
    id="P8",
    statement="The published ℓ4 figure shows full-batch training on the Ethanol problem, in some "
    "scaling and with the paper's learning rates.",
    source=f"The figure in the blog post of {PAPER_2018}'s authors (read, digitised); the data "
    "set and the rates are recalled from the paper",
    run=run,
    exists=True,
    choices=("choice",),
    checks=(
        Check("distance of the farthest curve", high=SAME, why="half the width of a drawn line"),
    ),
    minutes=6.7,
    paper_hours=12.0,
)
