"""S2: particular initialisations."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.claims.criteria import Cause, Claim, Effect, Finding, Part, above, judge, shortfall
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import resampled, share_of
from experiments.claims.toolkit.student import (
    PROTOCOL,
    SOURCE,
    SPIKE,
    deep_models,
    kept_curves,
    kept_losses,
    loss_spikes,
    losses_table,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.plotting import plot_curves

_INITS = ("pytorch", "near_zero", "orthogonal")


def _spread_ratio(losses: np.ndarray, others: np.ndarray, chosen: np.ndarray) -> float:
    """Ratio of spreads over the chosen repeats, averaged over networks; (network, seed) losses.

    A spread is the standard deviation of the losses' logarithm.
    """
    spreads = [np.std(np.log10(x[:, chosen]), axis=1).mean() for x in (losses, others)]
    return float(spreads[0] / max(spreads[1], 1e-12))


def _of_init(results: xr.Dataset, init: str) -> list[int]:
    return [m for m in deep_models(results) if results["init"].values[m] == init]


def _spreads(name: str, by_init: dict[str, np.ndarray]) -> list[Effect]:
    """The default's spread over repeats, over that of each other initialisation."""
    return [
        resampled(
            f"{name}: default's spread over {init.replace('_', '-')}'s",
            functools.partial(_spread_ratio, by_init["pytorch"], by_init[init]),
            by_init[init].shape[1],
        )
        for init in _INITS[1:]
    ]


def _lowest(name: str, by_init: dict[str, np.ndarray]) -> Effect:
    """In how many repeats near-identity ends lowest."""
    stacked = np.stack([by_init[init] for init in _INITS])  # (init, network, seed)
    wins = stacked.argmin(axis=0) == _INITS.index("orthogonal")
    return share_of(
        f"{name}: near-identity ends lowest",
        np.mean(wins, axis=0) > 0.5,
        note="repeats in which it does for most of the networks",
    )


def _spiking(name: str, results: xr.Dataset) -> Effect:
    """In how many repeats some deep network's loss spikes."""
    spikes = loss_spikes(results)[deep_models(results)]
    return share_of(
        f"{name}: a deep network's loss bursts",
        np.asarray(spikes.any(axis=0)),
        note="repeats in which any does",
    )


def _judge(name: str, results: xr.Dataset) -> list[Part]:
    kept, _ = kept_losses(results)
    by_init = {init: kept[_of_init(results, init)] for init in _INITS}
    spreads = _spreads(name, by_init)
    lowest, spiking = _lowest(name, by_init), _spiking(name, results)
    return [
        *(above(e, 1.0) for e in spreads),
        above(lowest, 50.0),
        above(spiking, 5.0),
    ]


def _draw(runs: dict[str, xr.Dataset]) -> Figure:
    panels = {}
    for name, results in runs.items():
        for init in _INITS:
            models = [m for m in _of_init(results, init) if results["depth"].values[m] == 3]
            panels[f"{name}, {init.replace('_', '-')}"] = kept_curves(results, models)
    return plot_curves(
        panels,
        title="Three starts, networks of depth 3",
        xlabel="epoch",
        ylabel="training loss",
    )


def _test(lab: Laboratory) -> Finding:
    runs = {
        name: student_run(lab, dataset, protocol(lab, inits=_INITS))
        for name, dataset in student_datasets(lab).items()
    }
    parts = [part for name, results in runs.items() for part in _judge(name, results)]
    effects = [part.effect for part in parts]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e}" for e in effects) + "." + shortfall(verdict),
        cause=Cause(
            ("T7", "T4"),
            "The bursts are the edge of stability. The sharpness λ grows as the layers "
            "do; where ηλ passes 2 the loss swings, which drives λ back, and it begins again. The "
            "spread over repeats of near-zero and default starts is that of the time near zero, "
            "which hangs on the layers' product; near-identity starts have no such time.",
        ),
        sensitivity="The spread is that of the last losses' logarithm over repeats, averaged over "
        f"the deep networks. A burst is a loss {100 * (SPIKE - 1):.0f} % above the lowest before "
        "it.",
        tables={
            f"Last training losses, {name}": losses_table(results) for name, results in runs.items()
        },
        figures={"training_loss": _draw(runs)},
    )


CLAIM = Claim(
    id="S2",
    statement="Particular starts cut the stochasticity; near-identity converges fastest; deep "
    "networks show bursts in the loss.",
    source=SOURCE,
    setting=f"{PROTOCOL} Three starts.",
    criterion="The default's spread over repeats is larger than that of either other start; "
    "near-identity ends lowest of the three for most networks in more than half of the "
    "repeats; some deep network bursts in more than 5 % of the repeats; all with the interval.",
    test=_test,
    paper_hours=0.01,
)
