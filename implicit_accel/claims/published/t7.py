"""T7: loss bursts and the edge of stability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure, Range
from implicit_accel.claims.drawing import COLOURS, make_figure
from implicit_accel.claims.estimators import share
from implicit_accel.claims.published.bursts import BEFORE, SPIKE, starts, strained_before
from implicit_accel.claims.published.student import (
    deep_models,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.claims.published.theory import COHEN_2021, SOURCE

RATES = (1e-3, 5e-3, 1e-2, 5e-2)
LONG = 20
"""Steps in a row with ηλ above 2 after which a loss should burst."""


def run(context: Context) -> Found:
    """The student project's protocol, with losses and sharpnesses recorded at every step."""
    config = protocol(
        context, inits=("pytorch", "near_zero", "orthogonal"), num_seeds=context.pick(2, 8, 30),
        learning_rates=RATES, record=("sharpness",), observations_per_decade=1000,
        records_per_decade=1000, depths=(2, 3),
    )  # fmt: skip
    runs = {
        name: student_run(context, dataset, config)
        for name, dataset in student_datasets(context).items()
    }
    facts = {"before": BEFORE, "long": LONG, "rise": round(100 * (SPIKE - 1))}
    return Found(runs, facts=facts, figures={"spikes": draw(runs)})


def undiverged(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of deep networks that do not diverge.

    Returns:
        (run, step) losses, (run, step) values of ηλ/2, and each run's (model, learning rate, seed).
    """
    models = deep_models(results)
    loss = results["loss"].values[models]
    rates = results["learning_rate"].values[:, None, None]
    strain = rates * results["sharpness"].values[models] / 2
    kept = np.isfinite(loss).all(axis=-1)
    model, rate, seed = np.nonzero(kept)
    return loss[kept], strain[kept], np.stack([np.array(models)[model], rate, seed], axis=1)


def longest(over: np.ndarray) -> int:
    """The length of the longest stretch of true values."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], over, [False]]).astype(int)))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def at_edge(loss: np.ndarray, strain: np.ndarray, among: str) -> np.ndarray:
    """Which bursts, or which runs without one, are as the edge of stability predicts.

    Args:
        loss: (run, step).
        strain: (run, step) values of ηλ/2.
        among: ``bursts``, before which ηλ should be above 2; or ``calm runs``, which have none, and
            in which ηλ should not stay above 2.

    Returns:
        A boolean for each burst or run.
    """
    begins = starts(loss)
    if among == "bursts":
        return strained_before(begins, strain)
    calm = strain[~begins.any(axis=1)]
    return np.array([longest(over) < LONG for over in calm > 1], bool)


def consistent(results: xr.Dataset, among: str) -> Effect:
    """The share of `at_edge`."""
    loss, strain, _ = undiverged(results)
    found = at_edge(loss, strain, among)
    return share(found, note=f"{len(found):,} {among}")


def bursting(results: xr.Dataset, rate: float) -> Effect:
    """The share of runs with a burst at a learning rate."""
    loss, _, _ = undiverged(results.sel(learning_rate=[rate]))
    return share(np.asarray(starts(loss).any(axis=1)), note=f"{len(loss)} runs")


def passing(results: xr.Dataset, rate: float) -> Effect:
    """The share of runs with ηλ above 2 at any step at a learning rate."""
    _, strain, _ = undiverged(results.sel(learning_rate=[rate]))
    return share(np.asarray((strain > 1).any(axis=1)), note=f"{len(strain)} runs")


def draw(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Loss and ηλ/2 of each dataset's run with the most bursts."""
    figure, axes = make_figure(
        2, len(runs), title="Loss, and sharpness against 2/η, where the loss bursts most",
        size=(4.4, 2.5),
    )  # fmt: skip
    for (top, bottom), (name, results) in zip(axes.T, runs.items(), strict=True):
        loss, strain, places = undiverged(results)
        begins = starts(loss)
        i = int(np.argmax(begins.sum(axis=1)))
        top.plot(loss[i], color=COLOURS[0], linewidth=1.2)
        bottom.plot(strain[i], color=COLOURS[1], linewidth=1.2)
        bottom.axhline(1, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)))
        for step in np.flatnonzero(begins[i]):
            for ax in (top, bottom):
                ax.axvline(step, color="0.6", linewidth=0.7, linestyle=":")
        model, rate, _ = places[i]
        widths, init = (str(results[key].values[model]) for key in ("hidden_widths", "init"))
        eta = float(results["learning_rate"].values[rate])
        top.set_title(f"{name}: hidden widths {widths}, {init}, η = {eta:g}", fontsize=9)
        top.set_yscale("log")
        bottom.set_xlabel("epoch")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("ηλ/2")
    return figure


CLAIM = Claim(
    id="T7",
    is_theory=True,
    statement="The loss bursts of deep linear networks are the edge of stability: each has ηλ > 2 "
    "before it, and a run in which ηλ does not stay above 2 has none.",
    source=f"{SOURCE}; {COHEN_2021}",
    is_changed=True,
    run=run,
    valid="for the bursts of full-batch gradient descent",
    measures=(
        Measure("consistent with the edge", consistent, {"among": ("bursts", "calm runs")}),
        Measure("runs with a burst", bursting, {"rate": RATES}),
        Measure("runs with ηλ above 2", passing, {"rate": RATES}),
    ),
    checks=(Check("consistent with the edge", low=50.0, size=Range(low=90.0)),),
    minutes=3.7,
    paper_hours=0.1,
)  # fmt: skip
