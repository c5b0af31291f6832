"""P0: one extra scalar."""

from __future__ import annotations

from experiments.claims.criteria import Claim, Finding, above, judge
from experiments.claims.toolkit.depth_grid import depth_figure, depth_runs, elsewhere, speed_ups
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table
from experiments.claims.toolkit.sources import PAPER_2018


def _test(lab: Laboratory) -> Finding:
    runs = depth_runs(lab)
    effects = speed_ups(runs, "l4", (2,))
    return Finding(
        verdict=judge([above(effects[0], 1.0)]),
        effects=tuple(effects),
        summary="The speed-up of depth 2 with one hidden scalar over one layer: "
        f"{effects[0]} ({effects[0].name}).",
        sensitivity=elsewhere(effects[1:]),
        tables={"Speed-ups": effects_table(effects)},
        figures=depth_figure(runs, "l4"),
    )


CLAIM = Claim(
    id="P0",
    statement="One extra scalar already speeds up ℓ4 regression.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="Depth 2, hidden width 1, ℓ4, near-zero start (std 0.01), gradient descent, each "
    "depth at its own best learning rate; steps to 10 % of the zero predictor's excess loss.",
    criterion="The 95 % interval of the speed-up over one layer lies above 1: any gain that "
    "seeds and the choice of the rate do not explain.",
    test=_test,
    paper_hours=1.9,
)
