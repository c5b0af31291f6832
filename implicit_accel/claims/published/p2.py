"""P2: the hidden width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from implicit_accel.claims import forest
from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key, Measure, Scaled
from implicit_accel.claims.effects import Coordinate, label
from implicit_accel.claims.estimators import model_number, resampled, side_of
from implicit_accel.claims.plots import of_measure
from implicit_accel.claims.published.plateaus import escapes
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss

STD = 0.01  # the paper's
CLOSE = 1.1

INITS = ("same-std", "same-norm", "balanced")
"""Near zero with the paper's standard deviation at every width, near zero with end-to-end matrices
of one norm, and balanced with one end-to-end matrix."""

DEPTHS = (2, 3)

WIDTHS = Scaled[Sequence[Coordinate]]((10,), (10, 100), (10, 100, 256))

Runs = dict[tuple[str, int, int], xr.Dataset]
"""(initialisation, depth, width) → results of both losses."""


def run(context: Context) -> Found:
    """All widths from all initialisations, and their first moves by the plateau law."""
    name, problem = context.first_problem()
    widths = [1, *map(int, WIDTHS.at(context))]
    rates = context.pick("log:3e-3:0.3:4", "log:2e-3:0.4:14", "log:1e-3:1:37")

    def grid(init: str, depth: int, widths: list[int], *losses: Loss) -> SweepConfig:
        kind, std = initialiser(init, depth, widths[0])
        return SweepConfig(
            depths=(depth,), hidden_widths=tuple(widths), losses=losses, inits=(kind,),
            init_stds=(std,), num_seeds=context.pick(2, 16, 100),
        )  # fmt: skip

    runs: Runs = {}
    law: dict[tuple[str, int], float] = {}
    for depth in DEPTHS:
        for init in INITS:
            groups = [[width] for width in widths[1:]] if init == "same-norm" else [widths]
            for group in groups:
                results = context.sweep(problem, replace(
                    grid(init, depth, group, Loss(2), Loss(4)),
                    learning_rates=parse_learning_rates([rates]),
                    num_steps=context.pick(300, 5000 if depth == 2 else 10_000, 100_000),
                ))  # fmt: skip
                runs |= {(init, depth, width): results for width in group}
        runs["same-norm", depth, 1] = runs["same-std", depth, 1]
        for init in INITS[:2]:
            grids = [grid(init, depth, [width], Loss(4)) for width in (1, widths[-1])]
            one, widest = (np.median(escapes(context, problem, g)) for g in grids)
            law[init, depth] = float(one / widest)
    return Found(runs={name: runs}, facts={"widest": widths[-1], "law": law})


def initialiser(init: str, depth: int, width: int) -> tuple[str, float]:
    """The name and the standard deviation of an initialiser.

    Entries of a product of N Gaussian matrices with inner widths h have the variance
    ``std^(2N) h^(N−1)``: the product grows as ``h^((N−1)/2)``, with the root of the width at depth
    2 and with the width itself at depth 3. The balanced standard deviation is that of the product.
    """
    if init == "balanced":
        return "balanced", float(f"{STD**depth:.6g}")
    shrink = width ** (-(depth - 1) / (2 * depth)) if init == "same-norm" else 1.0
    return "near_zero", float(f"{STD * shrink:.6g}")


def speed_up(runs: Runs, init: str, depth: int, width: int, p: int) -> Effect:
    """Median steps of width 1 over another width's, both at the lower of their two best rates.

    At one rate curves coincide or do not, whatever the grid. Between rates chosen apart the grid's
    own steps would be seen; at the higher of the two one of them may diverge. A run that misses the
    target counts as the runs' length. There is no value where either diverges at every rate.
    """
    sides = []
    for own in (1, width):
        results, hidden = runs[init, depth, own], "x".join([str(own)] * (depth - 1))
        model = model_number(results, loss_name=f"l{p}", hidden_widths=hidden)
        sides.append(side_of(results, model, None))
    rate = min(int(side.best(side.all_seeds)[0]) for side in sides)
    if rate < 0:
        return Effect("", np.nan, note="diverges at every rate")
    ours, theirs = (side.capped[rate] for side in sides)
    length = sides[0].num_steps
    return resampled(
        lambda seeds: float(np.median(ours[seeds]) / np.median(theirs[seeds])), len(ours),
        note=f"rate {sides[0].rates[rate]:.3g}", least=float(np.median(ours) / length),
        most=float(length / np.median(theirs)),
    )  # fmt: skip


def largest(runs: Runs, init: str, depth: int) -> Effect:
    """The speed-up over width 1 that is farthest from 1, over widths and losses."""
    found = [
        replace(speed_up(runs, init, depth, width, p), note=f"ℓ{p}, width {width}")
        for kind, n, width in runs
        if (kind, n) == (init, depth) and width > 1
        for p in (2, 4)
    ]
    return max(found, key=lambda effect: abs(np.log(effect.value)) if effect.value > 0 else 0)


def widths_figure(effects: Sequence[Effect]) -> forest.Forest:
    """The speed-ups, a row for each depth, width and loss, and a colour for each initialisation."""
    series: dict[str, tuple[Effect, ...]] = {}
    for init in INITS:
        keyed = [(e, e.key) for e in of_measure(effects, "speed-up over width 1", init=init)]
        # The coordinates behind the problem and the initialisation.
        series[init] = tuple(replace(e, name=label(Key("", k.at[2:]))) for e, k in keyed if k)
    title = "Hidden widths against width 1, at one learning rate"
    return forest.Forest(series, title=title, xlabel="speed-up over width 1")


CLAIM = Claim(
    id="P2",
    statement="The hidden width does not matter.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    run=run,
    primary=Check(
        "speed-up over width 1", {"init": "same-std", "depth": 2, "width": 100, "p": 4},
        1 / CLOSE, CLOSE, closed=True,
    ),
    choices=("init", "p", "depth", "width"),
    condition="depth is 2 and the loss ℓ4, or the initialisation is balanced",
    measures=(
        Measure("largest difference", largest, {"init": INITS, "depth": (3, 2)}),
        Measure(
            "speed-up over width 1", speed_up,
            {"init": INITS, "depth": DEPTHS, "width": WIDTHS, "p": (2, 4)},
        ),
    ),
    checks=(
        Check(
            "speed-up over width 1", low=1 / CLOSE, high=CLOSE, closed=True,
            why="on a figure over decades of steps such curves coincide",
        ),
    ),
    plots={"widths": widths_figure},
    explained_by=("T4",),
    minutes=5.3,
    paper_hours=3.0,
)  # fmt: skip
