"""P0: one extra scalar."""

from __future__ import annotations

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, above, judge, shortfall
from implicit_accel.claims.estimators import effects_table
from implicit_accel.claims.published.authors import FIGURES
from implicit_accel.claims.published.depth_grid import (
    depth_curves,
    depth_runs,
    elsewhere,
    speed_ups,
)
from implicit_accel.claims.published.full_length import (
    ADADELTA,
    ADAGRAD,
    FIGURE,
    ONE,
    RATES_CAVEAT,
    TWO,
    authors_speed_up,
    distances,
    full_length,
    full_length_curves,
    loss_figure,
    to_last,
    to_target,
)
from implicit_accel.claims.published.sources import PAPER_2018


def _test(lab: Context) -> Finding:
    found = full_length(lab)
    runs = depth_runs(lab)
    early = speed_ups(runs, "l4", (2,))
    late = to_last(found, TWO, ONE)
    shown_rate, _ = found.best(TWO)
    shown = to_last(found, TWO, ONE, rate=shown_rate)
    verdict = judge([above(late, 1.0), above(early[0], 1.0)])
    apart = "; ".join(
        f"{FIGURES[FIGURE][curve]} {decades:.2f}" for curve, decades in distances(found).items()
    )
    return Finding(
        verdict=verdict,
        effects=(late, *early),
        summary=f"Depth 2 with one hidden scalar is at one layer's loss after {found.num_steps:,} "
        f"steps {late} sooner, at the one of its rates that is there first; at the rate that ends "
        f"lowest, {shown_rate:g}, whose curve the figure shows, {shown}. The authors' own curves "
        f"give {authors_speed_up(TWO, ONE):.2g}×. To 10 % of the zero predictor's excess loss, "
        f"which both reach early, it is {early[0]} faster, each at its own best rate."
        + shortfall(verdict),
        cause=Cause(
            ("T9",),
            "Beside the scalar the step along the weights grows as they do: one layer's rate is "
            "bound by the sharpness of its first steps on ℓ4, and the rule's is not.",
        ),
        sensitivity=f"{elsewhere(early[1:])} The scaling of the data: see S7. The rates: at the "
        "few of the long runs the speed-up to 10 % is "
        f"{to_target(found, TWO, ONE, 0.1)}. Distances of our curves on standardised data from the "
        f"authors' figure, RMS of log₁₀ over its iterations: {apart}. It shows another problem "
        "(P8): its last loss lies below this one's optimum.",
        caveats=(RATES_CAVEAT,),
        tables={"Speed-ups": effects_table([late, *early])},
        figures={"loss": loss_figure(found, (ONE, TWO, ADAGRAD, ADADELTA))},
        captions={
            "loss": f"With one hidden scalar gradient descent is at one layer's last loss {shown} "
            f"sooner at the rate shown, which ends lowest, and {late} at its fastest; in the "
            f"authors' own curves (grey) it is {authors_speed_up(TWO, ONE):.2g}×."
        },
        curves=depth_curves(runs, "l4", (1, 2))
        | full_length_curves(found, (ONE, TWO, ADAGRAD, ADADELTA)),
    )


CLAIM = Claim(
    id="P0",
    statement="One extra scalar already speeds up ℓ4 regression.",
    source=f"{PAPER_2018}; its authors' blog post and figure (read)",
    setting="Depth 2, hidden width 1, ℓ4, near-zero start (std 0.01), gradient descent: a million "
    "steps, the length of the authors' figure, at rates from 5e-4 to 2e-3; and 20,000 steps, each "
    "depth at rates that are searched for.",
    criterion="Two speed-ups over one layer lie above 1, with their intervals: to one layer's loss "
    "at the figure's end, and to 10 % of the zero predictor's excess loss.",
    test=_test,
    minutes=24.4,
    paper_hours=1.0,
)
