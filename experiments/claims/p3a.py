"""P3a: depth on ℓ2."""

from __future__ import annotations

from experiments.claims.criteria import Claim, Finding, below, judge
from experiments.claims.toolkit.depth_grid import depth_figure, depth_runs, elsewhere, speed_ups
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table
from experiments.claims.toolkit.sources import PAPER_2018


def _test(lab: Laboratory) -> Finding:
    runs = depth_runs(lab)
    effects = speed_ups(runs, "l2", (2, 3))
    first = effects[:2]
    return Finding(
        verdict=judge([below(e, 1.0) for e in first]),
        effects=tuple(effects),
        summary=f"Speed-ups over one layer on ℓ2: depth 2 {first[0]}, depth 3 {first[1]}.",
        sensitivity=elsewhere(effects[2:]),
        tables={"Speed-ups": effects_table(effects)},
        figures=depth_figure(runs, "l2"),
    )


CLAIM = Claim(
    id="P3a",
    statement="On ℓ2, deeper is slightly slower.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="Depths 1 to 3, width 1, ℓ2, each depth at its own best learning rate; steps to "
    "10 % of the zero predictor's excess loss.",
    criterion="The intervals of the speed-ups of depths 2 and 3 over one layer lie below 1.",
    test=_test,
    paper_hours=1.9,
)
