"""S4: what depth gains on ℓp."""

from __future__ import annotations

import numpy as np
import xarray as xr

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import median, model_number
from implicit_accel.claims.plots import Lines
from implicit_accel.claims.published.records import agreement, beside, kept_rates
from implicit_accel.claims.published.student import (
    COMMON_TARGET,
    RATES,
    SOURCE,
    kept_most,
    losses_table,
    protocol,
    speed_up_to_common,
    student_datasets,
    student_run,
)
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import final_excess

POWERS, DEPTHS = (2, 3, 4, 5), (2, 3)
NETWORKS = ("[]", "[10]", "[10, 10]")
RECORDS = (
    *kept_rates((0.05,) * 3, NETWORKS, "orthogonal", losses={"[10, 10]": 0.4798}),
    *kept_rates((0.05, 0.01, 0.01), NETWORKS, "orthogonal", loss_name="l3"),
    *kept_rates((0.01, 0.01, 0.005), NETWORKS, "orthogonal", loss_name="l4"),
    *kept_rates((0.001,) * 3, NETWORKS, "orthogonal", loss_name="l5"),
)


def run(context: Context) -> Found:
    """The student project's protocol with four losses, on Abalone if it is there."""
    datasets = student_datasets(context)
    name = "Abalone" if "Abalone" in datasets else next(iter(datasets))
    config = protocol(
        context, losses=tuple(Loss(p, "plain") for p in POWERS), inits=("orthogonal",),
        hidden_widths=(10,), learning_rates=(*context.pick(RATES[4:], RATES, RATES), 5e-2),
    )  # fmt: skip
    results = student_run(context, datasets[name], config)
    recorded = {"Recorded beside ours": beside(results, RECORDS)} if name == "Abalone" else {}
    return Found(
        runs={name: results},
        facts={
            "kept": {p: kept_most(results, f"l{p}") for p in POWERS},
            "agreement": "".join(map(agreement, recorded.values())),
            "common_target": COMMON_TARGET,
        },
        tables={"Last training losses": losses_table(results), **recorded},
        curves={f"{name}, p from 2 to 5": Curves(results, best_by="final")},
    )


def gains(results: xr.Dataset, p: int, depth: int) -> np.ndarray:
    """Last excess loss of depth 1 over the deeper network's, at the best rates, seed by seed.

    NaN where both are infinite, since every rate diverged.
    """
    excess = final_excess(results).min(axis=1)
    one, deep = (excess[model_number(results, loss_name=f"l{p}", depth=n)] for n in (1, depth))
    with np.errstate(invalid="ignore"):
        return one / deep


def gain(results: xr.Dataset, p: int, depth: int) -> Effect:
    """The median of the gains."""
    return median(gains(results, p, depth), least=0)


def relative_gain(results: xr.Dataset, p: int, depth: int) -> Effect:
    """The median of the gains over those on ℓ2."""
    with np.errstate(invalid="ignore"):
        return median(gains(results, p, depth) / gains(results, 2, depth), least=0)


def speed_up(results: xr.Dataset, p: int, depth: int) -> Effect:
    """The speed-up over depth 1 to the common target."""
    models = (model_number(results, loss_name=f"l{p}", depth=n) for n in (depth, 1))
    return speed_up_to_common(results, *models)


CLAIM = Claim(
    id="S4",
    statement="On Abalone the acceleration may be larger for p > 2.",
    source=SOURCE,
    run=run,
    choices=("p", "depth"),
    measures=(
        Measure("gain over that on ℓ2", relative_gain, {"p": POWERS[1:], "depth": DEPTHS}),
        Measure("gain", gain, {"p": POWERS, "depth": DEPTHS}),
        Measure("speed-up to a common loss", speed_up, {"p": POWERS, "depth": DEPTHS}),
    ),
    checks=(Check("gain over that on ℓ2", low=1.0),),
    plots={
        "gains": Lines(
            "gain", x="p", lines="depth", title="Gain of depth after 100 epochs",
            xlabel="p of the loss ℓp", ylabel="last excess loss of depth 1\nover the deeper one's",
        )
    },
    explained_by=("T2",),
    minutes=0.2,
    paper_hours=0.05,
)  # fmt: skip
