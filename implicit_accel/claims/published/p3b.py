"""P3b: depth on ℓ4."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Range, above, judge, shortfall
from implicit_accel.claims.estimators import effects_table
from implicit_accel.claims.published.depth_grid import (
    depth_curves,
    depth_runs,
    elsewhere,
    speed_ups,
)
from implicit_accel.claims.published.full_length import (
    ONE,
    RATES_CAVEAT,
    SHARES,
    THREE,
    TWO,
    FullLength,
    authors_speed_up,
    extrapolated,
    full_length,
    full_length_curves,
    horizons,
    power_law,
    speed_up_figure,
    theory_table,
    to_last,
    to_target,
)
from implicit_accel.claims.published.sources import PAPER_2018

# "Orders of magnitude", plural, taken at its word.
_ORDERS_OF_MAGNITUDE = 100.0


def _what_it_would_take(found: FullLength, theory: pd.DataFrame) -> str:
    """What a hundredfold speed-up would take: measured, extrapolated and by theory, as text."""
    one, two = power_law(found, ONE), power_law(found, TWO)
    share, steps = extrapolated(found, _ORDERS_OF_MAGNITUDE)
    beyond = (
        f"at {100 * share:.2g} % of the zero predictor's excess loss, which one layer reaches "
        f"after {steps:.2g} steps"
        if math.isfinite(share) and share < 1
        else "nowhere: depth 2's curve falls no faster"
    )
    equal = theory["at equal rates"].to_numpy()
    stable = theory["at each largest stable rate"].to_numpy()
    last = theory["target (%)"].to_numpy()[np.isfinite(equal)]
    flow = theory["one layer's steps at its"].to_numpy()[np.isfinite(equal)]
    told = (
        f"to {last[-1]:.2g} % the flows are {equal[np.isfinite(equal)][-1]:.3g}× apart at equal "
        f"rates and {stable[np.isfinite(stable)][-1]:.3g}× at each one's largest stable rate, "
        "and the ratio grows ever more slowly; one layer's is there after "
        f"{flow[-1]:.2g} steps at its largest stable rate, where the power law would need "
        f"{one.steps_to(last[-1] / 100 * found.zero_excess):.2g}: the law does not go on"
        if len(last)
        else "no flow arrives"
    )
    return (
        f"What a hundredfold speed-up would take. Measured: not reached within "
        f"{found.num_steps:,} steps. Extrapolated, by the power laws that the curves follow at "
        f"their end (exponents −{one.exponent:.3g} for one layer, −{two.exponent:.3g} for depth "
        f"2): {beyond}. By theory: {told}."
    )


def _test(lab: Context) -> Finding:
    found = full_length(lab)
    theory = theory_table(lab, found)
    late = [to_last(found, curve, ONE) for curve in (TWO, THREE)]
    lowest, _ = found.best(TWO)
    by_horizon = [to_last(found, c, ONE, h) for c in (TWO, THREE) for h in horizons(found)]
    by_target = [to_target(found, c, ONE, share) for c in (TWO, THREE) for share in SHARES]
    runs = depth_runs(lab)
    early = speed_ups(runs, "l4", (2, 3))
    verdict = judge([above(e, 1.0, size=Range(low=_ORDERS_OF_MAGNITUDE)) for e in late])
    return Finding(
        verdict=verdict,
        effects=(*late, *early),
        summary=f"At one layer's loss after {found.num_steps:,} steps depth 2 is {late[0]} sooner, "
        f"depth 3 {late[1]}, each at the one of its rates that is there first; at the rate that "
        f"ends lowest, {lowest:g}, depth 2 is {to_last(found, TWO, ONE, rate=lowest)} sooner. The "
        "authors' own curves, whose words are 'orders of magnitude', give "
        f"{authors_speed_up(TWO, ONE):.2g}× by this measure. To 10 % of the zero predictor's "
        f"excess loss, at rates that were searched for, depth 2 is {early[0]} and depth 3 "
        f"{early[1]} faster. {_what_it_would_take(found, theory)}"
        + shortfall(
            verdict,
            "'Orders of magnitude' is true of the steps that one layer would still need at the "
            "figure's end, not of a ratio of steps within it.",
        ),
        cause=Cause(
            ("T1", "T9"),
            "One layer's rate is bound by the sharpness of its first steps on ℓ4, which falls "
            "afterwards and leaves it slow; depth's effective rate grows with the weights.",
        ),
        sensitivity=f"The horizon and the target (both panels). {elsewhere(early[2:])} The scaling "
        "of the data: see S7.",
        caveats=(
            "The criterion asked for 100 times to 10 % of the excess loss at first, which runs of "
            "20,000 steps cannot show; it asks for the figure's end since.",
            "At rates beyond 1e-3 depth 2's sharpness grows past 2/η before a million steps; runs "
            "that diverge count as not arriving.",
            RATES_CAVEAT,
        ),
        tables={
            "By horizon": effects_table(by_horizon),
            "By target": effects_table(by_target),
            "At searched rates, to 10 %": effects_table(early),
            "By gradient flow, depth 2": theory,
        },
        figures={"speed_up": speed_up_figure(found, theory)},
        captions={
            "speed_up": f"Depth's speed-up grows with how far one goes: depth 2 is {early[0]} "
            f"faster to 10 % of the excess loss and {late[0]} sooner at one layer's last loss."
        },
        curves=depth_curves(runs, "l4") | full_length_curves(found, (ONE, TWO, THREE)),
    )


CLAIM = Claim(
    id="P3b",
    statement="On ℓ4, deeper is much faster, by orders of magnitude.",
    source=f"{PAPER_2018}; its authors' blog post and figure (read)",
    setting="Depths 1 to 3, width 1, ℓ4, near-zero start: a million steps, the length of the "
    "authors' figure, at rates from 2e-4 to 2e-3; gradient flows beyond.",
    criterion="How many times sooner depths 2 and 3 are at one layer's loss at the figure's end: "
    "above 1 (direction), and above 100, two orders of magnitude being the least that the plural "
    "allows (size); with the intervals. The most that could come out is the number of steps.",
    test=_test,
    minutes=0.3,
    paper_hours=1.0,
)
