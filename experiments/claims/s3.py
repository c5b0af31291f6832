"""S3: Adam against gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.claims.criteria import (
    Claim,
    Effect,
    Finding,
    Part,
    Range,
    above,
    judge,
    shortfall,
)
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table, median_of, resampled
from experiments.claims.toolkit.student import (
    PROTOCOL,
    SOURCE,
    edge_share,
    kept_losses,
    loss_spikes,
    losses_table,
    protocol,
    shape_of,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import plot_effects


@dataclass(frozen=True)
class _Measured:
    """What Adam does on one dataset.

    Attributes:
        beats: Its gain over SGD, network by network.
        depth: What depth gains it.
        unstable: How many more of its networks have loss spikes.
    """

    beats: list[Effect]
    depth: Effect
    unstable: Effect

    @property
    def shown(self) -> list[Effect]:
        """The network that gains least, and the others."""
        return [min(self.beats, key=lambda e: e.value), self.depth, self.unstable]


def _models(results: xr.Dataset, optimizer: str) -> list[int]:
    return np.flatnonzero(results["optimizer"].values == optimizer).tolist()


def _measure(name: str, results: xr.Dataset) -> _Measured:
    kept, _ = kept_losses(results)
    sgd, adam = _models(results, "sgd"), _models(results, "adam")
    beats = [
        median_of(f"{name}, {shape_of(results, a)}: SGD's last loss over Adam's", kept[s] / kept[a])
        for s, a in zip(sgd, adam, strict=True)
    ]
    one, *deep = adam
    depth = median_of(
        f"{name}, Adam: one layer's last loss over the best deep network's",
        kept[one] / kept[deep].min(axis=0),
    )
    spikes = loss_spikes(results)
    more = 100 * (spikes[adam].mean(axis=0) - spikes[sgd].mean(axis=0))
    unstable = resampled(
        f"{name}: networks with bursts, Adam minus SGD",
        lambda chosen: float(np.mean(more[chosen])),
        len(more),
        unit=" points",
    )
    return _Measured(beats, depth, unstable)


def _judge(measured: _Measured) -> list[Part]:
    depth, unstable = measured.depth, measured.unstable
    return [
        *(above(e, 1.0) for e in measured.beats),
        above(depth, 1.0, size=Range(1.0, 2.0)),
        above(unstable, 0.0),
    ]


def _test(lab: Laboratory) -> Finding:
    config = protocol(lab, inits=("orthogonal",), optimizers=(Optimizer("sgd"), Optimizer("adam")))
    runs = {
        name: student_run(lab, dataset, config) for name, dataset in student_datasets(lab).items()
    }
    found = {name: _measure(name, results) for name, results in runs.items()}
    parts = [part for measured in found.values() for part in _judge(measured)]
    effects = [effect for measured in found.values() for effect in measured.shown]
    edges = [
        f"{optimizer}'s in {edge_share(results, _models(results, optimizer)):.0f} % ({name})"
        for name, results in runs.items()
        for optimizer in ("sgd", "adam")
    ]
    tables = {}
    for name, results in runs.items():
        m = found[name]
        tables[name] = losses_table(results)
        tables[f"{name}, ratios"] = effects_table([*m.beats, m.depth, m.unstable])
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e}" for e in effects)
        + ". (Of the networks the one that gains least is named.)"
        + shortfall(verdict),
        sensitivity="Both optimizers use the student project's seven rates. Of the rates that are "
        f"kept, the highest two are {', '.join(edges)} of the cells: where one optimizer is at the "
        "edge and the other is not, part of the difference is the grid's.",
        tables=tables,
        figures={
            "optimizers": plot_effects(
                {"": [e for e in effects if e.unit == "×"]},
                title="Adam and gradient descent, near-identity start",
                xlabel="ratio of last losses",
            )
        },
    )


CLAIM = Claim(
    id="S3",
    statement="Adam beats gradient descent for every architecture; depth helps Adam slightly; "
    "Adam is less stable.",
    source=SOURCE,
    setting=f"{PROTOCOL} Near-identity start.",
    criterion="For every network the ratio of last losses lies above 1; that of Adam's one "
    "layer over its best deep network between 1 and 2 ('slightly'); and more of Adam's kept "
    "runs burst.",
    test=_test,
    paper_hours=0.01,
)
