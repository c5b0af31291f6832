"""S3: Adam against gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Part, Range, above, judge, shortfall
from implicit_accel.claims.drawing import colour_of, draw_ratios, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table, median_of, resampled
from implicit_accel.claims.published import bursts
from implicit_accel.claims.published.bursts import Bursts, kept_bursts
from implicit_accel.claims.published.records import SEVEN, agreement, beside, kept_rates
from implicit_accel.claims.published.student import (
    PROTOCOL,
    RATES,
    SOURCE,
    edge_share,
    kept_losses,
    losses_table,
    protocol,
    shape_of,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer

_RECORDS = (
    *kept_rates((0.1,) * 6 + (0.05,), SEVEN, "orthogonal"),
    *kept_rates(
        (0.05, 0.1, 0.05, 0.01, 0.1, 0.05, 0.005), SEVEN, "orthogonal", optimizer="adam",
        losses={"[64, 64]": 0.4611},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Measured:
    """What Adam does on one dataset.

    Attributes:
        beats: Its gain over SGD, network by network.
        depth: What depth gains it.
        unstable: How many more of its networks have bursts.
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


def _ratio(name: str, losses: np.ndarray, others: np.ndarray, optimum: float) -> Effect:
    """The median ratio of last losses, repeat by repeat; no loss is below the optimum."""
    return median_of(
        name, losses / others,
        least=optimum / float(np.median(others)), most=float(np.median(losses)) / optimum,
    )  # fmt: skip


def _measure(name: str, results: xr.Dataset, found: Bursts) -> _Measured:
    kept, _ = kept_losses(results)
    optimum = float(results["optimum"].values[0])
    sgd, adam = _models(results, "sgd"), _models(results, "adam")
    beats = [
        _ratio(
            f"{name}, {shape_of(results, a)}: SGD's last loss over Adam's",
            kept[s], kept[a], optimum,
        )
        for s, a in zip(sgd, adam, strict=True)
    ]  # fmt: skip
    one, *deep = adam
    depth = _ratio(
        f"{name}, Adam: one layer's last loss over the best deep network's",
        kept[one], kept[deep].min(axis=0), optimum,
    )  # fmt: skip
    more = 100 * (found.edge[adam].mean(axis=0) - found.edge[sgd].mean(axis=0))
    unstable = resampled(
        f"{name}: networks with bursts, Adam minus SGD",
        lambda chosen: float(np.mean(more[chosen])),
        len(more), unit=" points", least=-100, most=100,
    )  # fmt: skip
    return _Measured(beats, depth, unstable)


def _parts(measured: _Measured) -> list[Part]:
    depth, unstable = measured.depth, measured.unstable
    return [
        *(above(e, 1.0) for e in measured.beats),
        above(depth, 1.0, size=Range(1.0, 2.0)),
        above(unstable, 0.0),
    ]


def _draw(runs: dict[str, xr.Dataset], found: dict[str, _Measured]) -> Figure:
    figure, axes = make_figure(
        1, len(runs), title="Adam against gradient descent, near-identity start, 100 epochs",
        size=(4.4, 3.2),
    )  # fmt: skip
    for ax, (name, results) in zip(axes[0], runs.items(), strict=True):
        rows = [
            (shape_of(results, m), effect, colour_of(int(results["depth"].values[m])))
            for m, effect in zip(_models(results, "adam"), found[name].beats, strict=True)
        ]
        draw_ratios(
            ax, rows, xlabel="SGD's last loss over Adam's", left="SGD ahead", right="Adam ahead"
        )
        ax.set_title(name, fontsize=9)
    axes[0, 0].set_ylabel("hidden widths")
    return figure


def _test(lab: Context) -> Finding:
    config = protocol(
        lab, inits=("orthogonal",), optimizers=(Optimizer("sgd"), Optimizer("adam")),
        hidden_widths=lab.pick((10,), (1, 10, 64), (1, 10, 64)),
        learning_rates=(*lab.pick(RATES[5:], RATES, RATES), 5e-2, 1e-1),
    )  # fmt: skip
    runs, found, seen, tables = {}, {}, {}, {}
    for name, dataset in student_datasets(lab).items():
        results = runs[name] = student_run(lab, dataset, config)
        seen[name] = kept_bursts(lab, dataset, config, results, lab.pick(2, 20, 100))
        m = found[name] = _measure(name, results, seen[name])
        tables[name] = losses_table(results)
        tables[f"{name}, ratios"] = effects_table([*m.beats, m.depth, m.unstable])
    verdict = judge([part for measured in found.values() for part in _parts(measured)])
    effects = tuple(effect for measured in found.values() for effect in measured.shown)
    edges = [
        f"{edge_share(results, _models(results, optimizer)):.0f} % ({words}, {name})"
        for name, results in runs.items()
        for optimizer, words in (("sgd", "SGD"), ("adam", "Adam"))
    ]
    caveats = ["Sharpness is measured in the first repeats alone, and only where a loss rises."]
    if "Abalone" in runs:
        tables["Recorded beside ours"] = beside(runs["Abalone"], _RECORDS)
        caveats.insert(0, agreement(tables["Recorded beside ours"]))
    return Finding(
        verdict=verdict,
        effects=effects,
        summary="; ".join(f"{e.name}: {e}" for e in effects)
        + ". (Of the networks the one that gains least is named.) Rises of a kept run's loss with "
        "the edge of stability passed before: "
        + ", ".join(f"{bursts_} ({name})" for name, bursts_ in seen.items())
        + "."
        + shortfall(verdict),
        sensitivity="Both optimizers use the notebook's nine rates. One of the highest two is kept "
        f"in so many of the cells: {', '.join(edges)}. Where one optimizer is at the edge and the "
        "other is not, part of the difference is the grid's. Adam's edge is that of the "
        "preconditioned sharpness, 38/η.",
        caveats=tuple(caveats),
        tables=tables,
        figures={"optimizers": _draw(runs, found)},
    )


CLAIM = Claim(
    id="S3",
    statement="Adam beats gradient descent for every architecture; depth helps Adam slightly; "
    "Adam is less stable.",
    source=SOURCE,
    setting=f"{PROTOCOL} Near-identity start, the rates 5e-2 and 1e-1 besides, 100 repeats.",
    criterion="For every network the ratio of last losses lies above 1; that of Adam's one "
    "layer over its best deep network above 1, in size between 1 and 2 ('slightly'); and more of "
    f"Adam's kept runs burst than of gradient descent's: a burst is {bursts.CRITERION}, or for "
    "Adam with its preconditioned sharpness above 38/η.",
    test=_test,
    minutes=3.3,
    paper_hours=0.7,
)
