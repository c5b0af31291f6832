"""T7: loss spikes and the edge of stability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Range, above, judge, shortfall
from implicit_accel.claims.drawing import COLOURS, make_figure
from implicit_accel.claims.estimators import share_of
from implicit_accel.claims.published.bursts import BEFORE, SPIKE, starts, strained_before
from implicit_accel.claims.published.student import (
    PROTOCOL,
    deep_models,
    protocol,
    shape_of,
    student_datasets,
    student_run,
)
from implicit_accel.claims.published.theory import COHEN_2021, SOURCE

# Steps in a row with ηλ above 2 that are long.
_LONG = 20


@dataclass(frozen=True)
class _Runs:
    """Runs that do not diverge, of deep networks: arrays (run, step).

    Attributes:
        loss: Training losses.
        strain: ηλ/2.
        labels: What each run is.
    """

    loss: np.ndarray
    strain: np.ndarray
    labels: list[str]

    @property
    def spikes(self) -> np.ndarray:
        """(run, step) where a spike begins: the loss first rises that far above its lowest."""
        return starts(self.loss)


def _runs(results: xr.Dataset) -> _Runs:
    loss, strain, labels = [], [], []
    rates = results["learning_rate"].values
    for m in deep_models(results):
        for r, rate in enumerate(rates):
            for s in range(results.sizes["seed"]):
                curve = results["loss"].values[m, r, s]
                if np.isfinite(curve).all():
                    loss.append(curve)
                    strain.append(rate * results["sharpness"].values[m, r, s] / 2)
                    init = str(results["init"].values[m]).replace("_", "-")
                    labels.append(f"{shape_of(results, m)}, {init}, η = {rate:g}")
    return _Runs(np.array(loss), np.array(strain), labels)


def _longest(over: np.ndarray) -> int:
    """The most neighbours in a row that are true."""
    padded = np.concatenate([[False], over, [False]]).astype(int)
    edges = np.flatnonzero(np.diff(padded))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _told(runs: _Runs) -> tuple[np.ndarray, np.ndarray]:
    """Of each spike, whether ηλ was above 2 shortly before; of each calm run, that it was not."""
    over = runs.strain > 1
    before = strained_before(runs.spikes, runs.strain)
    calm = ~runs.spikes.any(axis=1)
    short = np.array([_longest(o) < _LONG for o in over[calm]], bool)
    return before, short


def _draw(shown: dict[str, _Runs]) -> Figure:
    figure, axes = make_figure(
        2, len(shown), title="Loss, and sharpness against 2/η, where the loss bursts most",
        size=(4.4, 2.5),
    )  # fmt: skip
    for column, (name, runs) in enumerate(shown.items()):
        i = int(np.argmax(runs.spikes.sum(axis=1)))
        top, bottom = axes[0, column], axes[1, column]
        steps = np.arange(runs.loss.shape[1])
        top.plot(steps, runs.loss[i], color=COLOURS[0], linewidth=1.2)
        bottom.plot(steps, runs.strain[i], color=COLOURS[1], linewidth=1.2)
        bottom.axhline(1, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)))
        top.text(0.99, 0.97, "dotted: bursts", transform=top.transAxes, fontsize=7.5, ha="right",
                 va="top", color="0.3")  # fmt: skip
        for step in np.flatnonzero(runs.spikes[i]):
            for ax in (top, bottom):
                ax.axvline(step, color="0.6", linewidth=0.7, linestyle=":")
        top.set_title(f"{name}: {runs.labels[i]}", fontsize=9)
        top.set_yscale("log")
        bottom.set_xlabel("epoch")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("ηλ/2")
    return figure


def _by_rate(name: str, results: xr.Dataset) -> list[dict[str, object]]:
    rows = []
    for rate in results["learning_rate"].values:
        runs = _runs(results.sel(learning_rate=[rate]))
        if not len(runs.loss):
            continue
        spiking = np.asarray(runs.spikes.any(axis=1))
        rows.append({
            "data": name, "learning rate": float(rate), "runs": len(spiking),
            "with a burst (%)": 100 * spiking.mean(),
            "with ηλ above 2 (%)": 100 * (runs.strain > 1).any(axis=1).mean(),
        })  # fmt: skip
    return rows


# Of bursts and of calm runs: what "every" can mean.
_NEARLY_ALL = Range(low=90.0)


def _test(lab: Context) -> Finding:
    shown, parts, rows = {}, [], []
    for name, dataset in student_datasets(lab).items():
        config = protocol(
            lab, inits=("pytorch", "near_zero", "orthogonal"), num_seeds=lab.pick(2, 8, 30),
            learning_rates=(1e-3, 5e-3, 1e-2, 5e-2), record=("sharpness",),
            observations_per_decade=1000, records_per_decade=1000, depths=(2, 3),
        )  # fmt: skip
        results = student_run(lab, dataset, config)
        runs = _runs(results)
        shown[name] = runs
        before, short = _told(runs)
        sensitivity = share_of(
            f"{name}: bursts with ηλ above 2 before them", before, note=f"{len(before):,} bursts"
        )
        specificity = share_of(
            f"{name}: calm runs in which ηλ is above 2 only shortly",
            short,
            note=f"{len(short):,} calm runs",
        )
        rows += _by_rate(name, results)
        parts += [above(e, 50.0, size=_NEARLY_ALL) for e in (sensitivity, specificity)]
    effects = [part.effect for part in parts]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e} of {e.note}" for e in effects)
        + ". A network's sharpness grows as its layers do, until ηλ passes 2: then the loss "
        "bursts, the swing drives the sharpness back, and it begins again."
        + shortfall(
            verdict,
            "Where there are few bursts no interval can lie above 90 %; and ηλ above 2 is harmless "
            "for as long as the gradient has no part along that direction.",
        ),
        sensitivity=f"A burst is a loss {100 * (SPIKE - 1):.0f} % above the lowest before it; "
        f"before means within {BEFORE} steps, shortly less than {_LONG} in a row.",
        caveats=(
            "The repeats at standard scale were lowered from 10 to 8 after a first look, to save "
            "time; the answers were the same.",
        ),
        tables={"Bursts and the edge by learning rate": pd.DataFrame(rows)},
        figures={"spikes": _draw(shown)},
    )


CLAIM = Claim(
    id="T7",
    statement="The loss bursts of deep linear networks are the edge of stability: every one has ηλ "
    "above 2 before it, and without ηλ above 2 for long there is none.",
    source=f"{SOURCE}; {COHEN_2021}",
    setting=f"{PROTOCOL} Deep networks, three starts, rates 1e-3 to 5e-2, 8 repeats, sharpness at "
    "every step.",
    criterion="Of the bursts more than half have ηλ above 2 within the 20 steps before them "
    "(sensitivity), and of the runs without one more than half have ηλ above 2 for less than 20 "
    "steps in a row (specificity), with the interval, on each dataset; for the size, as 'every' "
    "asks it, more than 90 %, which few bursts cannot show.",
    test=_test,
    minutes=3.7,
    paper_hours=0.1,
)
