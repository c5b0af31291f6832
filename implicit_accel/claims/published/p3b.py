"""P3b: depth on ℓ4."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from implicit_accel.claims.api import AS_CHOSEN, FIRST, Check, Claim, Context, Found, Measure
from implicit_accel.claims.published.depth_grid import SPEED_UP, depth_curves
from implicit_accel.claims.published.full_length import (
    ON_PAPERS_GRID,
    ONE,
    RATES_CAVEAT,
    SHARES,
    THREE,
    TWO,
    WARMED,
    FullLength,
    authors_speed_up,
    extrapolated,
    full_length,
    full_length_curves,
    horizon_choices,
    horizons,
    power_law,
    speed_up_figure,
    theory_table,
    to_last,
    to_target,
)
from implicit_accel.claims.published.rivals import (
    DEPTH_CHOICES,
    STABLE_SPEED_UP,
    depth_by_choice,
    first_touch_speed_up,
    first_touches,
    rivals,
)
from implicit_accel.claims.published.sources import PAPER_2018

# "Orders of magnitude", plural, taken at its word.
ORDERS_OF_MAGNITUDE = 100.0


def run(context: Context) -> Found:
    """A million steps at few rates, 20,000 at rates that are searched for, and gradient flows."""
    found, runs = full_length(context), rivals(context)
    theory = theory_table(context, found)
    deeper, earlier = (TWO, THREE), [h for h in horizons(found) if h != found.num_steps]
    curves = (*deeper, WARMED)
    lowest, _ = found.best(TWO)
    return Found(
        runs=runs,
        effects=(
            *(to_last(found, curve, ONE) for curve in curves),
            *(to_last(found, curve, ONE, h) for curve in curves for h in earlier),
            *(to_target(found, curve, ONE, share) for curve in curves for share in SHARES),
            *(
                effect
                for curve in deeper
                for effect in horizon_choices(found, STABLE_SPEED_UP, curve)
            ),
        ),
        facts={
            "num_steps": found.num_steps,
            "lowest": lowest,
            "at_lowest": to_last(found, TWO, ONE, rates=(lowest,)),
            "authors": authors_speed_up(TWO, ONE),
            "rates_caveat": RATES_CAVEAT,
            **_extrapolation(found, theory),
        },
        tables={"By gradient flow, depth 2": theory},
        figures={"speed_up": speed_up_figure(found, theory)},
        curves=depth_curves(first_touches(runs), 4)
        | full_length_curves(found, (ONE, TWO, THREE, WARMED)),
    )


def _extrapolation(found: FullLength, theory: pd.DataFrame) -> dict[str, Any]:
    """What a hundredfold speed-up needs, by the curves' power laws and by the flows."""
    one, two = power_law(found, ONE), power_law(found, TWO)
    share, steps = extrapolated(found, ORDERS_OF_MAGNITUDE)
    reached = theory[np.isfinite(theory["at equal rates"])]
    last = reached.iloc[-1].to_dict() if len(reached) else {}
    return {
        "exponents": (one.exponent, two.exponent),
        "hundredfold": (share, steps) if math.isfinite(share) and share < 1 else None,
        "flow": last,
        "by_power_law": one.steps_to(last["target (%)"] / 100 * found.zero_excess) if last else 0,
    }


OVER = {"p": (4,), "depth": (2, 3)}

CLAIM = Claim(
    id="P3b",
    statement="On ℓ4, deeper is much faster, by orders of magnitude.",
    source=f"{PAPER_2018}; its authors' blog post and figure (read)",
    is_changed=True,
    run=run,
    measures=(
        Measure(STABLE_SPEED_UP, depth_by_choice, {**OVER, "choice": DEPTH_CHOICES}),
        Measure(SPEED_UP, first_touch_speed_up, OVER),
    ),
    checks=(
        Check(
            STABLE_SPEED_UP, at={"depth": 2, "choice": ON_PAPERS_GRID}, low=ORDERS_OF_MAGNITUDE,
            why="two orders of magnitude are the least that the plural allows",
        ),
        Check(STABLE_SPEED_UP, at={"problem": FIRST, "depth": 2, "choice": AS_CHOSEN}, low=1.0),
        Check(STABLE_SPEED_UP, at={"problem": FIRST, "depth": 3, "choice": AS_CHOSEN}, low=1.0),
    ),
    explained_by=("T1", "T9"),
    minutes=0.3,
    paper_hours=1.0,
)  # fmt: skip
