"""S3: Adam against gradient descent."""

from __future__ import annotations

import numpy as np
import xarray as xr

from implicit_accel.claims.api import FIRST, Check, Claim, Context, Effect, Found, Measure, Range
from implicit_accel.claims.estimators import median, model_number, resampled
from implicit_accel.claims.plots import Forest
from implicit_accel.claims.published.bursts import FACTS, with_bursts
from implicit_accel.claims.published.records import SEVEN, compared, kept_rates
from implicit_accel.claims.published.student import (
    NETWORKS,
    RATES,
    SOURCE,
    at_highest_rates,
    deep_models,
    kept_losses,
    losses_table,
    models_with,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer

OPTIMIZERS = ("sgd", "adam")
RECORDS = (
    *kept_rates((0.1,) * 6 + (0.05,), SEVEN, "orthogonal"),
    *kept_rates(
        (0.05, 0.1, 0.05, 0.01, 0.1, 0.05, 0.005), SEVEN, "orthogonal", optimizer="adam",
        losses={"[64, 64]": 0.4611},
    ),
)  # fmt: skip


def run(context: Context) -> Found:
    """The student project's protocol with two optimizers on each dataset."""
    config = protocol(
        context, inits=("orthogonal",), optimizers=tuple(map(Optimizer, OPTIMIZERS)),
        hidden_widths=context.pick((10,), (1, 10, 64), (1, 10, 64)),
        learning_rates=(*context.pick(RATES[5:], RATES, RATES), 5e-2, 1e-1),
    )  # fmt: skip
    runs = {}
    for name, dataset in student_datasets(context).items():
        results = student_run(context, dataset, config)
        runs[name] = with_bursts(context, dataset, config, results, context.pick(2, 20, 100))
    recorded, caveat = compared(runs.get("Abalone"), RECORDS)
    return Found(
        runs=runs,
        facts={**FACTS, "agreement": caveat},
        tables={f"Last training losses, {name}": losses_table(r) for name, r in runs.items()}
        | recorded,
    )


def loss_ratio(results: xr.Dataset, losses: np.ndarray, others: np.ndarray) -> Effect:
    """The median ratio of last losses, repeat by repeat; no loss lies below the optimum."""
    optimum = float(results["optimum"].values[0])
    return median(
        losses / others,
        least=optimum / float(np.median(others)), most=float(np.median(losses)) / optimum,
    )  # fmt: skip


def adam_gain(results: xr.Dataset, hidden: str) -> Effect:
    """The last loss of gradient descent over Adam's, for a network."""
    kept, _ = kept_losses(results)
    pair = (kept[model_number(results, hidden_widths=hidden, optimizer=o)] for o in OPTIMIZERS)
    return loss_ratio(results, *pair)


def least_adam_gain(results: xr.Dataset) -> Effect:
    """The gain of Adam for the network with the smallest."""
    gains = [adam_gain(results, str(h)) for h in np.unique(results["hidden_widths"].values)]
    return min(gains, key=lambda effect: effect.value)


def depth_gain(results: xr.Dataset) -> Effect:
    """The last loss of one layer over that of the best deep network, both with Adam."""
    kept, _ = kept_losses(results)
    one = kept[model_number(results, depth=1, optimizer="adam")]
    return loss_ratio(results, one, kept[deep_models(results, optimizer="adam")].min(axis=0))


def more_bursts(results: xr.Dataset) -> Effect:
    """The share of Adam's networks that burst minus that of gradient descent's, per repeat."""
    sgd, adam = (
        100 * results["bursts"].values[models_with(results, optimizer=o)].mean(axis=0)
        for o in OPTIMIZERS
    )
    rises, bursts = int(results["rises"].sum()), int(results["bursts"].sum())
    return resampled(lambda chosen: float(np.mean((adam - sgd)[chosen])), len(adam), unit=" points",
        note=f"{bursts:,} of {rises:,} rises are bursts", least=-100, most=100,
    )  # fmt: skip


def edge_kept(results: xr.Dataset, method: str) -> Effect:
    """How often an optimizer's kept runs are at one of the highest two rates."""
    return at_highest_rates(results, 2, optimizer=method)


CLAIM = Claim(
    id="S3",
    statement="Adam beats gradient descent for every architecture; depth helps Adam slightly; "
    "Adam is less stable.",
    source=SOURCE,
    run=run,
    choices=("problem", "hidden"),
    measures=(
        Measure("least gain of Adam", least_adam_gain),
        Measure("gain of Adam", adam_gain, {"hidden": NETWORKS}),
        Measure("gain of depth with Adam", depth_gain),
        Measure("networks with bursts, Adam minus gradient descent", more_bursts),
        Measure("one of the highest two rates kept", edge_kept, {"method": OPTIMIZERS}),
    ),
    checks=tuple(
        Check(measure, {"problem": problem}, low=low, size=size)
        for problem in (FIRST, "Abalone")
        for measure, low, size in (
            ("gain of Adam", 1.0, None),
            ("gain of depth with Adam", 1.0, Range(1.0, 2.0)),
            ("networks with bursts, Adam minus gradient descent", 0.0, None),
        )
    ),
    plots={
        "optimizers": Forest(
            "gain of Adam", title="Adam against gradient descent, 100 epochs",
            xlabel="last loss of gradient descent over Adam's",
            sides=("gradient descent ahead", "Adam ahead"),
        )
    },
    minutes=3.3,
    paper_hours=0.7,
)  # fmt: skip
