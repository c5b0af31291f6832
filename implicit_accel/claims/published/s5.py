"""S5: ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure, Scaled
from implicit_accel.claims.drawing import few_ticks
from implicit_accel.claims.estimators import median, model_number
from implicit_accel.claims.published.records import SEVEN, compared, draw_last_losses, kept_rates
from implicit_accel.claims.published.student import (
    SOURCE,
    deep_models,
    kept_losses,
    losses_table,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer

DEEP = ("1", "10", "64", "1x1", "10x10", "64x64")
RECORDS = (
    *kept_rates((0.01,) * 7, SEVEN, "orthogonal"),
    *kept_rates(
        (0.01, 0.01, 0.01, 0.005, 0.01, 0.01, 0.005), SEVEN, "orthogonal", optimizer="adam",
        losses={"[64, 64]": 0.0494},
    ),
)  # fmt: skip


def run(context: Context) -> Found:
    """The student project's protocol with and without ReLU, on Ethanol or its stand-in."""
    name, dataset = next(iter(student_datasets(context).items()))
    sgd, adam = Optimizer("sgd"), Optimizer("adam")
    config = protocol(
        context, inits=("orthogonal",), optimizers=(sgd, adam),
        hidden_widths=context.pick((4,), (1, 10, 64), (1, 10, 64)),
        num_seeds=context.pick(3, 20, 100),
    )  # fmt: skip
    runs = {
        "linear": student_run(context, dataset, replace(config, optimizers=(adam,))),
        "relu": student_run(context, dataset, replace(config, activation="relu")),
    }
    recorded, caveat = compared(runs["relu"] if name == "Ethanol" else None, RECORDS)
    return Found(
        runs={name: runs},
        facts={"agreement": caveat, "floor": float(runs["linear"]["optimum"].values[0])},
        tables={
            "Last training losses, linear": losses_table(runs["linear"]),
            "Last training losses, ReLU": losses_table(runs["relu"]),
            **recorded,
        },
        figures={"last_losses": draw(name, runs)},
    )


def best(runs: Mapping[str, xr.Dataset], activation: str, optimizer: str) -> np.ndarray:
    """(seed,) lowest last losses of an optimizer's deep networks."""
    results = runs[activation]
    return kept_losses(results)[0][deep_models(results, optimizer=optimizer)].min(axis=0)


def relu_gain(runs: Mapping[str, xr.Dataset]) -> Effect:
    """The best linear network's last loss over the best ReLU network's, both with Adam."""
    return median(best(runs, "linear", "adam") / best(runs, "relu", "adam"), least=0)


def adam_gain(runs: Mapping[str, xr.Dataset]) -> Effect:
    """The lowest last loss with gradient descent over that with Adam, both with ReLU."""
    return median(best(runs, "relu", "sgd") / best(runs, "relu", "adam"), least=0)


def network_gain(runs: Mapping[str, xr.Dataset], hidden: str) -> Effect:
    """A linear network's last loss over that of the same one with ReLU, both with Adam."""
    linear, relu = (
        kept_losses(r)[0][model_number(r, hidden_widths=hidden, optimizer="adam")]
        for r in (runs["linear"], runs["relu"])
    )
    return median(linear / relu)


def lowest_loss(runs: Mapping[str, xr.Dataset], activation: str) -> Effect:
    """The best deep network's last loss with Adam."""
    return median(best(runs, activation, "adam"), unit="")


def draw(name: str, runs: Mapping[str, xr.Dataset]) -> Figure:
    """Last losses side by side, with the best linear map's loss."""
    linear, relu = runs["linear"], runs["relu"]
    adam = deep_models(relu, optimizer="adam")
    figure = draw_last_losses(
        {
            "linear, Adam": (linear, deep_models(linear), ()),
            "ReLU, SGD": (relu, deep_models(relu, optimizer="sgd"), ()),
            "ReLU, Adam": (relu, adam, RECORDS if name == "Ethanol" else ()),
        },
        title=f"Last loss after 100 epochs on {name}: repeats and medians", size=(3.1, 2.9),
    )  # fmt: skip
    for ax in figure.axes:
        ax.axvline(float(linear["optimum"].values[0]), color="0.4", linewidth=0.8, linestyle=":")
    ends = [end for ax in figure.axes for end in ax.get_xlim()]
    for ax in figure.axes:
        ax.set_xlim(min(ends), max(ends))
        few_ticks(ax.xaxis)
    return figure


CLAIM = Claim(
    id="S5",
    statement="With ReLU, Adam converges far better on Ethanol.",
    source=SOURCE,
    run=run,
    choices=("choice",),
    measures=(
        Measure("gain of ReLU with Adam", relu_gain),
        Measure("gain of Adam with ReLU", adam_gain),
        Measure(
            "gain of ReLU by network", network_gain, {"hidden": Scaled(("4", "4x4"), DEEP, DEEP)}
        ),
        Measure("lowest last loss", lowest_loss, {"activation": ("linear", "relu")}),
    ),
    checks=(Check("gain of ReLU with Adam", low=2.0), Check("gain of Adam with ReLU", low=2.0)),
    minutes=2.3,
    paper_hours=1.1,
)  # fmt: skip
