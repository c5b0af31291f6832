"""P4b: Adam, with and without depth."""

from __future__ import annotations

from implicit_accel.claims.api import Check, Claim, Context, Found
from implicit_accel.claims.published.optimizer_grid import (
    AGAINST,
    LENGTHENED,
    against,
    optimizer_curves,
    optimizer_figure,
    optimizer_runs,
)
from implicit_accel.claims.published.sources import PAPER_2018

PAIRS = (
    *((("Adam", 1), ("gradient descent", depth)) for depth in (2, 3)),
    *((("Adam", depth), ("Adam", 1)) for depth in (2, 3)),
    *(((name, depth), (name, 1)) for name in ("momentum", "Nesterov") for depth in (2, 3)),
)

SHOWN = ("gradient descent", "momentum", "Nesterov", "Adam")


def run(context: Context) -> Found:
    """Every optimizer at learning rates of its own."""
    name, runs = optimizer_runs(context)
    return Found(
        runs={name: runs},
        effects=[against(name, runs, own, base) for own, base in PAIRS],
        facts={"lengthened": LENGTHENED},
        figures={"optimizers": optimizer_figure(name, runs, SHOWN)},
        curves=optimizer_curves(name, runs),
    )


CLAIM = Claim(
    id="P4b",
    statement="Adam beats overparameterised gradient descent, and Adam with depth beats Adam.",
    source=f"{PAPER_2018} (from memory)",
    is_read=False,
    is_changed=True,
    run=run,
    checks=(
        Check(AGAINST, at={"method": "Adam", "depth": 1}, low=1.0),
        Check(AGAINST, at={"method": "Adam", "over": "Adam, depth 1"}, low=1.0),
    ),
    minutes=0.08,
    paper_hours=1.1,
)
