"""S2: particular initialisations."""

from __future__ import annotations

import numpy as np
import xarray as xr

from implicit_accel.claims.api import FIRST, Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import resampled, share
from implicit_accel.claims.published.bursts import FACTS, with_bursts
from implicit_accel.claims.published.records import compared, draw_last_losses, kept_rates
from implicit_accel.claims.published.student import (
    RATES,
    SOURCE,
    at_highest_rates,
    deep_models,
    kept_losses,
    losses_table,
    protocol,
    student_datasets,
    student_run,
)

INITS = ("pytorch", "near_zero", "orthogonal")
NETWORKS = ("[]", "[64]", "[1, 1]", "[10, 10]", "[64, 64]")
RECORDS = (
    *kept_rates((0.01, 0.01, 0.05, 0.05, 0.01), NETWORKS, "pytorch"),
    *kept_rates((0.01, 0.01, 0.05, 0.05, 0.05), NETWORKS, "near_zero"),
    *kept_rates((0.01,) * 5, NETWORKS, "orthogonal", losses={"[64]": 0.2132}),
)


def run(context: Context) -> Found:
    """The notebook's own grid on each dataset: five networks, three initialisations."""
    networks = (64, (1, 1), (10, 10))  # 64 is a width of both depths, the others of one
    config = protocol(
        context, inits=INITS, hidden_widths=context.pick((10,), networks, networks),
        learning_rates=(*context.pick(RATES[4:], RATES, RATES), 5e-2),
    )  # fmt: skip
    runs, curves, panels, tables = {}, {}, {}, {}
    for name, dataset in student_datasets(context).items():
        trained = student_run(context, dataset, config)
        results = with_bursts(context, dataset, config, trained, context.pick(2, 30, 100))
        runs[name] = results
        curves[f"{name}, three initialisations"] = Curves(trained, best_by="final")
        models = [m for init in INITS for m in deep_models(results, init=init)]
        panels[name] = (results, models, RECORDS if name == "Ethanol" else ())
        tables[f"Last training losses, {name}"] = losses_table(results)
    recorded, caveat = compared(runs.get("Ethanol"), RECORDS)
    return Found(
        runs=runs,
        facts={**FACTS, "agreement": caveat},
        tables=tables | recorded,
        figures={
            "last_losses": draw_last_losses(
                panels, title="Three initialisations: last losses and medians", size=(4.6, 4.6)
            )
        },
        curves=curves,
    )


def deep_losses(results: xr.Dataset, init: str) -> np.ndarray:
    """(network, seed) kept losses of the deep networks with an initialisation."""
    return kept_losses(results)[0][deep_models(results, init=init)]


def spread_ratio(results: xr.Dataset, init: str) -> Effect:
    """The default initialisation's spread over repeats, over another one's.

    A spread is the standard deviation of the losses' logarithm, averaged over networks.
    """
    losses = [np.log10(deep_losses(results, i)) for i in ("pytorch", init)]

    def ratio(chosen: np.ndarray) -> float:
        default, other = (np.std(x[:, chosen], axis=1).mean() for x in losses)
        return float(default / max(other, 1e-12))

    return resampled(ratio, losses[0].shape[1], least=0)


def near_identity_lowest(results: xr.Dataset) -> Effect:
    """The share of repeats in which near-identity ends lowest for most deep networks."""
    lowest = np.stack([deep_losses(results, init) for init in INITS]).argmin(axis=0)
    return share(np.mean(lowest == INITS.index("orthogonal"), axis=0) > 0.5)


def bursting(results: xr.Dataset) -> Effect:
    """The share of repeats in which some deep network bursts."""
    rises, bursts = results["rises"].values, results["bursts"].values
    return share(
        np.asarray(bursts.any(axis=0)), note=f"{bursts.sum():,} of {rises.sum():,} rises are bursts"
    )


CLAIM = Claim(
    id="S2",
    statement="Particular initialisations reduce the stochasticity; near-identity converges "
    "fastest; deep networks show bursts in the loss.",
    source=SOURCE,
    run=run,
    measures=(
        Measure("spread ratio", spread_ratio, {"init": INITS[1:]}),
        Measure("near-identity lowest", near_identity_lowest),
        Measure("repeats with bursts", bursting),
        Measure("highest rate kept", at_highest_rates, {"init": INITS, "depth": (2, 3)}),
    ),
    checks=tuple(
        Check(measure, {"problem": problem}, low=low)
        for problem in (FIRST, "Abalone")
        for measure, low in (
            ("spread ratio", 1.0), ("near-identity lowest", 50.0), ("repeats with bursts", 25.0)
        )
    ),
    explained_by=("T2", "T4", "T7"),
    minutes=1.6,
    paper_hours=0.5,
)  # fmt: skip
