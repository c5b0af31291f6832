"""P4a: depth against AdaGrad and AdaDelta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found
from implicit_accel.claims.criteria import above, judge
from implicit_accel.claims.effects import matching
from implicit_accel.claims.published.full_length import (
    ADADELTA,
    ADAGRAD,
    AT_HORIZON,
    LABELS,
    RATES_CAVEAT,
    THEIR_FIGURE,
    THREE,
    TWO,
    WARMED,
    authors_speed_up,
    full_length,
    full_length_curves,
    loss_figure,
    to_last,
)
from implicit_accel.claims.published.optimizer_grid import (
    LENGTHENED,
    against,
    optimizer_curves,
    optimizer_figure,
    optimizer_runs,
)
from implicit_accel.claims.published.sources import PAPER_2018

RIVALS = (
    "AdaGrad",
    "AdaGrad (PyTorch's)",
    "AdaDelta (optax's and PyTorch's)",
    "AdaDelta (TensorFlow 1's)",
)

# The paper's rates end here for every optimizer.
HIGHEST_RATE = 0.5
LIMITED = "speed-up to 10 % at rates of the paper's grid"


def run(context: Context) -> Found:
    """A million steps at few rates, and every optimizer at rates of its own."""
    found = full_length(context)
    late = [to_last(found, c, rival) for c in (THREE, TWO) for rival in (ADAGRAD, ADADELTA, WARMED)]
    name, runs = optimizer_runs(context)
    low = {
        label: each.sel(learning_rate=each["learning_rate"] <= HIGHEST_RATE)
        for label, each in runs.items()
    }

    def over_rivals(depth: int, measured: dict, measure: str = "") -> list[Effect]:
        effects = [
            against(name, measured, ("gradient descent", depth), (rival, 1)) for rival in RIVALS
        ]
        return [
            e.keyed(replace(e.key, measure=measure)) if measure and e.key else e for e in effects
        ]

    early, shallower = over_rivals(3, runs), over_rivals(2, runs)
    by_choice = [
        _as_choice(late, rival, effect, f"to 10 %, rates searched, {label}")
        for label, effect in zip(RIVALS, shallower, strict=True)
        for rival in (ADAGRAD, ADADELTA)
        if label.startswith(LABELS[rival])
    ] + [
        _as_choice(late, rival, Effect("", authors_speed_up(TWO, rival)), THEIR_FIGURE)
        for rival in (ADAGRAD, ADADELTA)
    ]
    limited = over_rivals(3, low, LIMITED)
    return Found(
        runs={name: runs},
        effects=(*late, *by_choice, *early, *shallower, *limited),
        facts={
            "num_steps": found.num_steps,
            "shorter": runs["gradient descent"].attrs["num_steps"],
            "authors": {
                LABELS[rival]: authors_speed_up(TWO, rival) for rival in (ADAGRAD, ADADELTA)
            },
            "is_limited_by_rates": any(judge([above(e, 1.0)]).holds for e in limited[2:]),
            "rates_caveat": RATES_CAVEAT,
            "warmed": LABELS[WARMED],
            "lengthened": LENGTHENED,
        },
        figures={
            "loss": loss_figure(found, (TWO, THREE, ADAGRAD, ADADELTA, WARMED)),
            "optimizers": optimizer_figure(name, runs, ("gradient descent", *RIVALS)),
        },
        curves=optimizer_curves(name, runs) | full_length_curves(found, tuple(LABELS)),
    )


def _as_choice(late: Sequence[Effect], rival: str, effect: Effect, choice: str) -> Effect:
    """An effect of depth 2 over a rival, as that at the horizon by another choice."""
    (own,) = matching(late, AT_HORIZON, {"depth": 2, "over": LABELS[rival]})
    assert own.key is not None
    return effect.keyed(replace(own.key, at=(*own.key.at, ("choice", choice))))


CLAIM = Claim(
    id="P4a",
    statement="Depth 2 by gradient descent beats AdaGrad and AdaDelta on one layer.",
    source=f"{PAPER_2018}; its authors' blog post and figure (read)",
    is_changed=True,
    run=run,
    condition="the target is that of the authors' figure, at its end",
    # AdaDelta first: it is the stronger rival.
    checks=tuple(
        Check(AT_HORIZON, at={"depth": 2, "over": LABELS[rival]}, low=1.0)
        for rival in (ADADELTA, ADAGRAD)
    ),
    minutes=5.4,
    paper_hours=1.5,
)
