"""F4: a fully connected ReLU network from a balanced initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, above, judge, shortfall
from implicit_accel.claims.drawing import draw_seeds, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import resampled
from implicit_accel.claims.published.bands import INITIALISATIONS
from implicit_accel.claims.published.images import images_and_notes
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.data.mnist import ImageData
from implicit_accel.images.networks import FullyConnected
from implicit_accel.images.task import FULLY_CONNECTED
from implicit_accel.plotting import COLOURS


def _stds(lab: Context) -> tuple[float, ...]:
    decades = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4)
    return lab.pick((0.01, 0.1), decades, decades)


def _train(lab: Context, data: ImageData) -> dict[str, xr.Dataset]:
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
            data, config, rates=(0.01,), num_seeds=lab.pick(2, 6, 20), stds=_stds(lab)
        )
    return runs


def _last(runs: dict[str, xr.Dataset], measure: str, i: int) -> dict[str, np.ndarray]:
    """Each seed's last value at the i-th standard deviation, by initialiser."""
    return {init: run[measure].values[0, i, :, -1] for init, run in runs.items()}


def spread(losses: np.ndarray) -> float:
    """The largest last loss over standard deviations over the smallest, medians over seeds.

    Args:
        losses: (std, seed) last losses; inf of runs that diverged.

    Returns:
        From 1 on; inf if at some standard deviation half of the runs diverge, NaN if at all.
    """
    middle = np.median(losses, axis=1)
    return float(middle.max() / middle.min()) if np.isfinite(middle).any() else math.nan


def best(losses: np.ndarray) -> float:
    """The smallest last loss over standard deviations, of medians over seeds (std, seed)."""
    return float(np.median(losses, axis=1).min())


def _ratio(name: str, of: Callable[[np.ndarray], float], *losses: np.ndarray) -> Effect:
    """A measure of layer-wise losses over that of balanced ones, by resampling seeds.

    A resample chooses the best and the worst standard deviations anew.
    """
    values = [of(each) for each in losses]

    def measure(seeds: np.ndarray) -> float:
        layer_wise, balanced = (of(each[:, seeds]) for each in losses)
        if math.isinf(balanced):  # the balanced runs diverge: no less than the others
            return math.nan if math.isinf(layer_wise) else 0.0
        return layer_wise / balanced

    note = f"layer-wise {values[0]:.3g}, balanced {values[1]:.3g}"
    return resampled(name, measure, losses[0].shape[1], note=note, least=0.0)


def _measure(title: str, runs: dict[str, xr.Dataset]) -> tuple[Effect, Effect]:
    """How much more layer-wise last losses vary over stds, and how much higher the best is."""
    losses = [runs[k]["cross_entropy"].values[0, :, :, -1] for k in INITIALISATIONS]
    return (
        _ratio(
            f"{title}: spread of the last loss over stds, layer-wise over balanced", spread, *losses
        ),
        _ratio(f"{title}: last loss at the best std, layer-wise over balanced", best, *losses),
    )


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
    """Last losses against standard deviations: two lines, and a thin one for each seed."""
    figure, axes = make_figure(1, 1, title=f"784-128-32-10 with ReLU on {title}", size=(5.6, 3.8))
    ax = axes[0, 0]
    ax.set(xscale="log", yscale="log", xlim=(stds[0], stds[-1]))
    for (init, label), colour in zip(INITIALISATIONS.items(), COLOURS, strict=False):
        last = runs[init]["cross_entropy"].values[0, :, :, -1].T
        style = {"color": colour, "marker": "o", "markersize": 2.5}
        draw_seeds(ax, np.array(stds), last, label=label, style=style)
    ax.set_xticks(stds, [f"{std:g}" for std in stds])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.set(xlabel="initial standard deviation", ylabel="training cross-entropy after 10 epochs")
    return figure


def _test(lab: Context) -> Finding:
    data, notes = images_and_notes(lab)
    stds, runs = _stds(lab), _train(lab, data)
    robust, lowest = _measure(data.title, runs)
    verdict = judge([above(robust, 1.0), above(lowest, 1.0)])
    return Finding(
        verdict=verdict,
        effects=(robust, lowest),
        summary="From the smallest to the largest standard deviation the last loss of layer-wise "
        f"starts varies {robust} as much as that of balanced ones ({robust.note}). Each at its "
        f"best standard deviation, the layer-wise start ends at {lowest} the balanced one's loss "
        f"({lowest.note})."
        + shortfall(
            verdict,
            "A balanced start of ten outputs has rank ten: the hidden units beyond the tenth have "
            "zero weights on both sides and, with ReLU, never move. That leaves a smaller network, "
            "which may be why a layer-wise start of a good size ends lower.",
        ),
        sensitivity="The layer-wise standard deviation is each layer's, the balanced one the "
        "end-to-end matrix's: the range of standard deviations is the same number for both, but "
        "not the same quantity, and a range chosen otherwise would give other spreads.",
        caveats=(
            f"{lab.pick(2, 6, 20)} seeds and {len(stds)} standard deviations from {stds[0]:g} to "
            f"{stds[-1]:g}.",
            "The criterion was at first the share of standard deviations at which the balanced "
            "start ends lower; it is the spread over them since, and apart from it the best "
            "against the best.",
            *notes,
        ),
        tables={"After 10 epochs": _table(runs, stds)},
        figures={"last_loss": _draw(data.title, runs, stds)},
    )


CLAIM = Claim(
    id="F4",
    statement="A fully connected ReLU network trains better from a balanced start, over "
    "standard deviations.",
    source=PAPER_2019,
    setting="MNIST, 784-128-32-10, SGD with batches of 100, rate 0.01, 10 epochs.",
    criterion="'Over standard deviations' is read in two ways. Robustness: the largest last "
    "training loss over standard deviations over the smallest is larger from layer-wise starts "
    "than from balanced ones (the ratio lies above 1). And best against best: the last loss at "
    "the best standard deviation is higher from layer-wise starts (the ratio lies above 1). Both "
    "with the interval over seeds, which chooses the standard deviations anew.",
    test=_test,
    minutes=5.8,
    paper_hours=0.14,
)
