"""S6: a small convolutional network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Range, above, judge, shortfall
from implicit_accel.claims.drawing import draw_seeds, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import median_of
from implicit_accel.claims.published.images import images_and_notes
from implicit_accel.images.task import SMALL_CNN
from implicit_accel.plotting import COLOURS

RECORDED = (0.863, 0.922, 0.899, 0.959, 0.953, 0.923, 0.969, 0.973, 0.974, 0.974)
"""Validation accuracies by epoch, as the notebook recorded them."""

_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def _accuracies(run: xr.Dataset) -> np.ndarray:
    """(rate, seed, evaluation) per cent of the test images."""
    return 100 * (1 - run["test_error"].values[:, 0])


def _epochs(run: xr.Dataset) -> np.ndarray:
    return run["evaluation_step"].values / int(run.attrs["epoch_steps"])


def _falls(accuracies: np.ndarray) -> np.ndarray:
    """How often each run's accuracy (seed, epoch) falls by a point or more."""
    return (np.diff(accuracies, axis=1) <= -1).sum(axis=1)


def _table(scan: xr.Dataset, run: xr.Dataset) -> pd.DataFrame:
    """Accuracies by epoch, medians over seeds, beside the notebook's."""
    scanned, rates = np.median(_accuracies(scan), axis=1), scan["learning_rate"].values
    several = np.median(_accuracies(run)[0], axis=0)
    label = f"rate {float(run['learning_rate'][0]):g}, {run.sizes['seed']} seeds (%)"
    rows = []
    missing = len(several) - scanned.shape[1]  # the scan is shorter
    scanned = np.pad(scanned, ((0, 0), (0, missing)), constant_values=np.nan)
    for i, epoch in enumerate(_epochs(run)):
        known = 1 <= epoch <= len(RECORDED)
        rows.append(
            {"epoch": epoch, "notebook (%)": 100 * RECORDED[int(epoch) - 1] if known else np.nan}
            | {f"rate {r:g} (%)": v for r, v in zip(rates, scanned[:, i], strict=True)}
            | {label: several[i]}
        )
    return pd.DataFrame(rows)


def _draw(title: str, scan: xr.Dataset, run: xr.Dataset) -> Figure:
    """Accuracies by epoch: ours by rate, a thin line for each seed, and the notebook's."""
    figure, axes = make_figure(1, 1, title=f"A small CNN on {title}", size=(5.8, 3.8))
    ax = axes[0, 0]
    best = float(run["learning_rate"][0])
    last = max(float(_epochs(run)[-1]), float(len(RECORDED)))
    ax.set(xlim=(0, last), ylim=(100, 1.5), yscale="log")

    def draw(epochs: np.ndarray, curves: np.ndarray, label: str, colour: str) -> None:
        missed = np.where(np.isfinite(curves) & (curves < 100), 100 - curves, np.nan)
        draw_seeds(ax, epochs, missed, label=label, style={"color": colour})

    # Lines that end together share a name.
    others = scan.isel(learning_rate=np.flatnonzero(scan["learning_rate"].values != best))
    rates, accuracies = others["learning_rate"].values, _accuracies(others)
    ends = np.log(np.maximum(100 - np.median(accuracies[..., -1], axis=1), 1e-9))
    named = np.zeros(len(rates), bool)
    for i in range(len(rates)):
        together = ~named & (np.abs(ends - ends[i]) < 0.15)
        label = ", ".join(f"{rate:g}" for rate in rates[together])
        named |= together
        draw(_epochs(others), accuracies[i], label and f"rate {label}", "0.6")
    draw(_epochs(run), _accuracies(run)[0], f"rate {best:g}", COLOURS[0])
    notebook = 100 * (1 - np.array(RECORDED))
    ax.plot(np.arange(1, 11), notebook, "o--", color=COLOURS[1], markersize=3, linewidth=0.9)
    # Below its lowest point of the later epochs, where nothing else is.
    at = int(np.argmax(notebook[3:])) + 3
    ax.annotate("the notebook", (at + 1, notebook[at]), xytext=(0, -5), fontsize=7.5, ha="center",
                textcoords="offset points", va="top", color=COLOURS[1])  # fmt: skip
    ticks = (90, 50, 20, 10, 5, 2)
    ax.set_yticks(ticks, [f"{100 - tick}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="epoch", ylabel="test accuracy (%), stretched towards 100")
    return figure


def _test(lab: Context) -> Finding:
    data, notes = images_and_notes(lab)
    epochs = lab.pick(2, 10, 10)
    rates = lab.pick(_RATES[-2:], _RATES, _RATES)
    batch = lab.pick(64, 512, 512)
    images = lab.pick(256, min(60_000, len(data.train_labels)), len(data.train_labels))
    config = replace(
        SMALL_CNN, num_train=images, num_test=lab.pick(200, 5_000, None), batch_size=batch,
        num_steps=epochs * (images // batch),
    )  # fmt: skip
    few, several = lab.pick(1, 1, 3), lab.pick(2, 6, 10)
    scanned = lab.pick(1, 3, 10)
    shorter = replace(config, num_steps=scanned * (images // batch))
    scan = lab.classifiers(data, shorter, rates=rates, num_seeds=few)
    ends = np.median(_accuracies(scan)[..., -1], axis=1)
    rate = rates[int(np.argmax(ends))]
    run = lab.classifiers(data, config, rates=(rate,), num_seeds=several)
    best = median_of(
        f"{data.title}, rate {rate:g}: test accuracy", _accuracies(run)[0, :, -1], unit=" %",
        least=0.0, most=100.0,
    )  # fmt: skip
    verdict = judge([above(best, 96.0, size=Range(96.0, 98.0))])
    recorded = Effect(
        "the notebook's validation accuracy, last epoch", 100 * RECORDED[-1], unit=" %"
    )
    falls = _falls(_accuracies(run)[0]).mean()
    recorded_falls = _falls(100 * np.array([RECORDED]))[0]
    rows = "; ".join(f"rate {r:g}: {v:.3g} %" for r, v in zip(rates, ends, strict=True))
    return Finding(
        verdict=verdict,
        effects=(best, recorded),
        summary=f"After {epochs} epochs: {best} at the best rate, {rate:g}. The notebook recorded "
        f"{recorded}." + shortfall(verdict),
        sensitivity=f"The learning rate ({few} seed(s), {scanned} epochs each): {rows}. "
        "From one epoch to the next the accuracy falls by a point or more "
        f"{recorded_falls} times in the notebook, and {falls:.2g} times a run here at the best "
        "rate.",
        caveats=(
            "The published code keeps the rate with the highest last training loss: the accuracies "
            "recorded cannot have come from it, and at which rate they were reached is not known.",
            f"The best rate is chosen with {few} seed(s) and judged with {several}; accuracies are "
            f"those of {len(data.test_labels[: config.num_test]):,} test images, the notebook's of "
            "images it held out.",
            *notes,
        ),
        tables={"Accuracy by epoch": _table(scan, run)},
        figures={"accuracy": _draw(data.title, scan, run)},
    )


CLAIM = Claim(
    id="S6",
    statement="A small convolutional network reaches about 97 % on MNIST in 10 epochs.",
    source="Levy & Wang 2024, notebook (read)",
    setting="The notebook's network: three 3 × 3 convolutions (1 → 4 → 8 → 16 channels, zero "
    "padding), each with ReLU and a 2 × 2 maximum, dense 144 → 32, ReLU, 32 → 10; SGD with batches "
    "of 512, rates 1e-5 to 1e-1, standardised pixels, all 60,000 images.",
    criterion="At the best learning rate the test accuracy after 10 epochs lies above 96 % "
    "(direction) and below 98 % (size): 'about 97'.",
    test=_test,
    minutes=7.7,
    paper_hours=0.4,
)
