"""S6: a small convolutional network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure, Range, Scaled
from implicit_accel.claims.estimators import median
from implicit_accel.claims.plots import Lines
from implicit_accel.images.task import SMALL_CNN

RATES: Scaled[Any] = Scaled((1e-2, 1e-1), *[(1e-5, 1e-4, 1e-3, 1e-2, 1e-1)] * 2)
RECORDED = (86.3, 92.2, 89.9, 95.9, 95.3, 92.3, 96.9, 97.3, 97.4, 97.4)
"""Validation accuracies by epoch in per cent, as the notebook recorded them."""

Runs = tuple[xr.Dataset, xr.Dataset]
"""The scan over learning rates, and the runs at the best of them."""


def run(context: Context) -> Found:
    """Chooses the learning rate with few seeds, and trains more seeds at it."""
    data = context.mnist()
    batch, most = context.pick(64, 512, 512), len(data.train_labels)
    images = context.pick(256, min(60_000, most), most)
    config = replace(
        SMALL_CNN, num_train=images, num_test=context.pick(200, 5_000, None), batch_size=batch,
        num_steps=context.pick(2, 10, 10) * (images // batch),
    )  # fmt: skip
    epochs, rates = context.pick(1, 3, 10), RATES.at(context)
    shorter = replace(config, num_steps=epochs * (images // batch))
    scan = context.classifiers(data, shorter, rates=rates, num_seeds=context.pick(1, 1, 3))
    rate = rates[int(np.argmax(np.median(accuracies(scan)[..., -1], axis=1)))]
    runs = context.classifiers(data, config, rates=(rate,), num_seeds=context.pick(2, 6, 10))
    facts = {
        "data": data, "rate": rate, "scanned_epochs": epochs, "scan_seeds": scan.sizes["seed"],
        "falls": falls(accuracies(runs)[0]).mean(),
        "recorded_falls": falls(np.array([RECORDED])).mean(),
    }  # fmt: skip
    return Found(runs={data.title: (scan, runs)}, facts=facts)


def accuracies(results: xr.Dataset) -> np.ndarray:
    """(rate, seed, epoch) per cent of the test images, from before the first epoch on."""
    return 100 * (1 - results["test_error"].values[:, 0])


def falls(curves: np.ndarray) -> np.ndarray:
    """How often each accuracy (seed, epoch) falls by a point or more in an epoch."""
    return (np.diff(curves, axis=1) <= -1).sum(axis=1)


def last_accuracy(runs: Runs) -> Effect:
    """The test accuracy after the last epoch, at the best rate."""
    return median(accuracies(runs[1])[0, :, -1], unit=" %", least=0.0, most=100.0)


def by_epoch(runs: Runs, method: str, epoch: int) -> Effect | None:
    """The accuracy after an epoch: ours at the best rate, or the notebook's."""
    if method == "notebook":
        return Effect("", RECORDED[epoch - 1], unit=" %")
    ours = accuracies(runs[1])[0]
    return median(ours[:, epoch], unit=" %") if epoch < ours.shape[1] else None


def at_rate(runs: Runs, rate: float) -> Effect:
    """The test accuracy after the scan, at a learning rate."""
    at = runs[0].sel(learning_rate=[rate])
    return median(accuracies(at)[0, :, -1], unit=" %", least=0.0, most=100.0)


CLAIM = Claim(
    id="S6",
    statement="A small convolutional network reaches about 97 % on MNIST in 10 epochs.",
    source="Levy & Wang 2024, notebook (read)",
    run=run,
    measures=(
        Measure("test accuracy", last_accuracy),
        Measure(
            "accuracy by epoch", by_epoch,
            {"method": ("ours", "notebook"), "epoch": tuple(range(1, len(RECORDED) + 1))},
        ),
        Measure("test accuracy in the scan", at_rate, {"rate": RATES}),
    ),
    checks=(Check("test accuracy", low=96.0, size=Range(96.0, 98.0), why="'about 97'"),),
    plots={
        "accuracy": Lines(
            "accuracy by epoch", x="epoch", lines="method", title="A small CNN on MNIST",
            xlabel="epoch", ylabel="accuracy (%)", scale="linear", reference=None,
        )
    },
    minutes=7.7,
    paper_hours=0.4,
)  # fmt: skip
