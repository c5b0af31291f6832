"""T10: a map of when depth helps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import draw_agreement, make_figure
from implicit_accel.claims.estimators import share
from implicit_accel.claims.published.depth_map import LAW, draw_map, measurements, predictions
from implicit_accel.claims.published.theory import SOURCE, where

MARGIN = 1.2
"""A best rate above the predicted edge by more than this, the grid's spacing, is beyond it."""
MANY = 30
"""Steps that a gradient flow resolves."""
CELLS = ("within the edge", f"within the edge, {MANY} steps or more", "all measured")


def run(context: Context) -> Found:
    """Predicts the map, and measures a part of its cells."""
    predicted = predictions(context)
    cells = measurements(context, where(predicted, predicted["problem"].str.startswith(LAW)))
    deep = where(predicted, predicted["depth"] > 1)
    square = where(deep, deep["p"] == 2)
    counts = {
        name: {"faster": int(np.sum(ratios > 1)), "cells": len(ratios)}
        for name, ratios in (
            ("deep", deep["speed_up"]), ("square", square["speed_up"]),
            ("measured", cells["measured"]), ("foretold", cells["predicted"]),
            ("both", np.minimum(cells["measured"], cells["predicted"])),
        )
    }  # fmt: skip
    figure, axes = make_figure(1, 1, title="The map, measured", size=(5.0, 4.4))
    beyond = cells["beyond"] > MARGIN
    sides = {"within the edge": where(cells, ~beyond), "beyond the edge": where(cells, beyond)}
    draw_agreement(
        axes[0, 0], {name: (own["measured"], own["predicted"]) for name, own in sides.items()},
        xlabel="speed-up measured", ylabel="speed-up predicted",
    )  # fmt: skip
    return Found(
        runs={"power laws": cells},
        facts=counts,
        tables={"Measured cells": cells},
        figures={"map": draw_map(predicted), "map_measured": figure},
    )


def subset(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """Those of the measured cells that have a name of `CELLS`."""
    inside = cells["beyond"].to_numpy() <= MARGIN
    steps = cells["steps"].to_numpy()
    many = np.minimum(steps, steps * cells["measured"].to_numpy()) >= MANY
    return where(cells, dict(zip(CELLS, (inside, inside & many, steps > 0), strict=True))[name])


def sign(runs: pd.DataFrame, cells: str) -> Effect:
    """How often the prediction is right on whether depth is faster."""
    own = subset(runs, cells)
    same = np.sign(np.log(own["predicted"])) == np.sign(np.log(own["measured"]))
    return share(np.asarray(same), note=f"{len(own)} cells")


def size(runs: pd.DataFrame, cells: str) -> Effect:
    """How often the speed-up is predicted within 20 %."""
    own = subset(runs, cells)
    close = np.abs(own["predicted"].to_numpy() / own["measured"].to_numpy() - 1) <= 0.2
    return share(close, note=f"{len(own)} cells")


def slower(runs: pd.DataFrame, cells: str) -> Effect:
    """How often "slower" would be right, if it were said of every cell."""
    own = subset(runs, cells)
    return share(own["measured"].to_numpy() <= 1, note=f"{len(own)} cells")


CLAIM = Claim(
    id="T10",
    is_theory=True,
    statement="Theory maps when depth helps: over the loss's exponent, the spectrum, the "
    "initialisation, the target and the depth.",
    source=SOURCE,
    run=run,
    valid="for the sign within the edge of stability; it predicts more gains than there are",
    measures=(
        Measure("predicted sign", sign, {"cells": CELLS}),
        Measure("predicted size", size, {"cells": CELLS}),
        Measure("slower than one layer", slower, {"cells": CELLS}),
    ),
    checks=(
        Check("predicted sign", {"cells": CELLS[0]}, low=90.0),
        Check("predicted size", {"cells": CELLS[0]}, low=80.0),
    ),
    minutes=7.1,
    paper_hours=2.0,
)
