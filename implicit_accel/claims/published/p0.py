"""P0: one extra scalar."""

from __future__ import annotations

from implicit_accel.claims.api import AS_CHOSEN, FIRST, Check, Claim, Context, Found, Measure
from implicit_accel.claims.plots import Choices
from implicit_accel.claims.published.authors import FIGURES
from implicit_accel.claims.published.depth_grid import SPEED_UP, depth_curves
from implicit_accel.claims.published.full_length import (
    ADADELTA,
    ADAGRAD,
    AT_HORIZON,
    FIGURE,
    ONE,
    RATES_CAVEAT,
    TWO,
    authors_speed_up,
    distances,
    full_length,
    full_length_curves,
    horizon_choices,
    loss_figure,
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


def run(context: Context) -> Found:
    """A million steps at few rates, and 20,000 at rates that are searched for."""
    found, runs = full_length(context), rivals(context)
    shown_rate, _ = found.best(TWO)
    apart = [f"{FIGURES[FIGURE][curve]} {x:.2f}" for curve, x in distances(found).items()]
    shown = (ONE, TWO, ADAGRAD, ADADELTA)
    return Found(
        runs=runs,
        effects=(to_last(found, TWO, ONE), *horizon_choices(found, STABLE_SPEED_UP, TWO)),
        facts={
            "num_steps": found.num_steps,
            "shown_rate": shown_rate,
            "at_shown_rate": to_last(found, TWO, ONE, rates=(shown_rate,)),
            "authors": authors_speed_up(TWO, ONE),
            "at_few_rates": to_target(found, TWO, ONE, 0.1),
            "apart": "; ".join(apart),
            "rates_caveat": RATES_CAVEAT,
        },
        figures={"loss": loss_figure(found, shown)},
        curves=depth_curves(first_touches(runs), 4, (1, 2)) | full_length_curves(found, shown),
    )


OVER = {"p": (4,), "depth": (2,)}

CLAIM = Claim(
    id="P0",
    statement="One extra scalar already speeds up ℓ4 regression.",
    source=f"{PAPER_2018}; its authors' blog post and figure (read)",
    is_changed=True,
    run=run,
    condition="the data are Ethanol's, and the target is 10 % of the excess loss or lower",
    measures=(
        Measure(STABLE_SPEED_UP, depth_by_choice, {**OVER, "choice": DEPTH_CHOICES}),
        Measure(SPEED_UP, first_touch_speed_up, OVER),
    ),
    checks=(
        Check(STABLE_SPEED_UP, at={"problem": FIRST, "choice": AS_CHOSEN}, low=1.0),
        Check(AT_HORIZON, low=1.0),
        Check(SPEED_UP, at={"problem": FIRST}, low=1.0),
    ),
    plots={
        "choices": Choices(
            STABLE_SPEED_UP,
            title="Depth 2 against one layer on ℓ4, by choice",
            xlabel="steps of one layer over those of depth 2",
        )
    },
    explained_by=("T9",),
    minutes=24.4,
    paper_hours=1.0,
)
