"""F4: a fully connected ReLU network from a balanced initialisation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from experiments.claims.criteria import (
    Claim,
    Effect,
    Finding,
    above,
    judge,
    shortfall,
)
from experiments.claims.toolkit.bands import INITIALISATIONS
from experiments.claims.toolkit.images import images_and_notes
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import median_of
from experiments.claims.toolkit.sources import PAPER_2019
from implicit_accel.data.mnist import ImageData
from implicit_accel.images.networks import FullyConnected
from implicit_accel.images.task import FULLY_CONNECTED
from implicit_accel.plotting import plot_curves


def _stds(lab: Laboratory) -> tuple[float, ...]:
    decades = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4)
    return lab.pick((0.01, 0.1), decades, decades)


def _train(lab: Laboratory, data: ImageData) -> dict[str, xr.Dataset]:
    """Results by initialiser."""
    runs = {}
    for init in INITIALISATIONS:
        config = replace(
            FULLY_CONNECTED,
            network=FullyConnected(init),
            num_steps=lab.pick(20, 5_500, 6_000),
            num_train=lab.pick(500, 55_000, None),
            num_validation=lab.pick(0, 5_000, 0),
            num_test=lab.pick(200, 2_000, None),
            window=lab.pick(10, 50, 50),
        )
        runs[init] = lab.classifiers(
            data, config, rates=(0.01,), num_seeds=lab.pick(2, 5, 20), stds=_stds(lab)
        )
    return runs


def _last(runs: dict[str, xr.Dataset], measure: str, i: int) -> dict[str, np.ndarray]:
    """Each seed's last value at the i-th standard deviation, by initialiser."""
    return {init: run[measure].values[0, i, :, -1] for init, run in runs.items()}


def _measure(title: str, runs: dict[str, xr.Dataset], stds: tuple[float, ...]) -> list[Effect]:
    """The last loss from layer-wise initialisations over that from balanced ones, by std."""
    effects = []
    for i, std in enumerate(stds):
        losses = _last(runs, "cross_entropy", i)
        valid = np.isfinite(losses["near_zero"]) & np.isfinite(losses["balanced"])
        label = f"{title}, std {std:g}"
        effects.append(
            median_of(
                f"{label}: layer-wise last loss over balanced",
                losses["near_zero"][valid] / losses["balanced"][valid],
                unit="",
            )
            if valid.any()
            else Effect(label, math.nan, note="diverges")
        )
    return effects


def _table(runs: dict[str, xr.Dataset], stds: tuple[float, ...]) -> pd.DataFrame:
    rows = []
    for i, std in enumerate(stds):
        losses, errors = (_last(runs, name, i) for name in ("cross_entropy", "test_error"))
        rows.append(
            {"std": std}
            | {f"last loss, {INITIALISATIONS[k]}": np.median(v) for k, v in losses.items()}
            | {
                f"test error (%), {INITIALISATIONS[k]}": 100 * np.median(v)
                for k, v in errors.items()
            }
        )
    return pd.DataFrame(rows)


def _draw(title: str, runs: dict[str, xr.Dataset], stds: tuple[float, ...]) -> Figure:
    steps = runs["balanced"]["step"].values
    panels = {
        INITIALISATIONS[init]: {
            f"std {std:g}": (steps, run["cross_entropy"].values[0, i]) for i, std in enumerate(stds)
        }
        for init, run in runs.items()
    }
    return plot_curves(
        panels,
        title=f"784-128-32-10 with ReLU on {title}",
        xlabel="step",
        ylabel="training cross-entropy",
    )


def _test(lab: Laboratory) -> Finding:
    data, notes = images_and_notes(lab)
    stds, runs = _stds(lab), _train(lab, data)
    effects = _measure(data.title, runs, stds)
    parts = [above(e, 1.0) for e in effects]
    verdict = judge(parts)
    share = Effect(
        f"{data.title}: stds at which the balanced start ends lower",
        100 * verdict.num_held / len(parts),
        unit=" %",
        note="by the interval over seeds",
    )
    return Finding(
        verdict=verdict,
        effects=(share, *effects),
        summary=f"The balanced start ends lower at {share} of the standard deviations. "
        + "; ".join(f"{e.name}: {e}" for e in effects)
        + "."
        + shortfall(
            verdict,
            "A balanced start of ten outputs has rank ten: the hidden units beyond the tenth have "
            "zero weights on both sides and, with ReLU, never move. That leaves a smaller network, "
            "which may be why a layer-wise start of a good size ends lower.",
        ),
        sensitivity="The layer-wise standard deviation is each layer's, the balanced one the "
        "end-to-end matrix's.",
        caveats=notes,
        tables={"After 10 epochs": _table(runs, stds)},
        figures={"training_loss": _draw(data.title, runs, stds)},
    )


CLAIM = Claim(
    id="F4",
    statement="A fully connected ReLU network trains better from a balanced start, over "
    "standard deviations.",
    source=PAPER_2019,
    setting="MNIST, 784-128-32-10, SGD with batches of 100, rate 0.01, 10 epochs.",
    criterion="At every standard deviation the last training loss from layer-wise starts is "
    "above that from balanced starts, with the interval over seeds.",
    test=_test,
    paper_hours=0.14,
)
