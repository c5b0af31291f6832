"""S4: what depth gains on ℓp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import (
    Cause,
    Claim,
    Effect,
    Finding,
    Part,
    above,
    judge,
    shortfall,
)
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.drawing import colour_of, make_figure
from implicit_accel.claims.estimators import (
    effects_table,
    median_of,
    model_number,
)
from implicit_accel.claims.published.records import agreement, beside, kept_rates
from implicit_accel.claims.published.student import (
    COMMON_TARGET,
    PROTOCOL,
    RATES,
    SOURCE,
    kept_losses,
    losses_table,
    protocol,
    speed_up_to_common,
    student_datasets,
    student_run,
)
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import final_excess

_POWERS, _DEPTHS = (2, 3, 4, 5), (2, 3)
_LOSSES = tuple(Loss(p, "plain") for p in _POWERS)
_NETWORKS = ("[]", "[10]", "[10, 10]")
_RECORDS = (
    *kept_rates((0.05,) * 3, _NETWORKS, "orthogonal", losses={"[10, 10]": 0.4798}),
    *kept_rates((0.05, 0.01, 0.01), _NETWORKS, "orthogonal", loss_name="l3"),
    *kept_rates((0.01, 0.01, 0.005), _NETWORKS, "orthogonal", loss_name="l4"),
    *kept_rates((0.001,) * 3, _NETWORKS, "orthogonal", loss_name="l5"),
)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Seed by seed; no value (NaN) where both are infinite, every rate having diverged."""
    with np.errstate(invalid="ignore"):
        return numerator / denominator


@dataclass(frozen=True)
class _Measured:
    """What depth gains.

    Attributes:
        by_seed: One layer's last excess loss over the deeper network's, by p and depth, seed by
            seed.
        gains: Their medians.
        larger: Those over ℓ2's.
    """

    by_seed: dict[tuple[int, int], np.ndarray]
    gains: dict[tuple[int, int], Effect]
    larger: list[Effect]


def _measure(name: str, results: xr.Dataset) -> _Measured:
    excess = final_excess(results).min(axis=1)  # (model, seed)
    by_seed, gains = {}, {}
    for loss, p in zip(_LOSSES, _POWERS, strict=True):
        best = {
            depth: excess[model_number(results, loss_name=loss.name, depth=depth)]
            for depth in (1, *_DEPTHS)
        }
        for depth in _DEPTHS:
            by_seed[p, depth] = _ratio(best[1], best[depth])
            gains[p, depth] = median_of(
                f"{name}, ℓ{p}, depth {depth}: one layer's last excess loss over its",
                by_seed[p, depth], least=0,
            )  # fmt: skip
    larger = [
        median_of(
            f"{name}, depth {depth}: gain on ℓ{p} over gain on ℓ2",
            _ratio(by_seed[p, depth], by_seed[2, depth]), least=0,
        )
        for p in _POWERS[1:]
        for depth in _DEPTHS
    ]  # fmt: skip
    return _Measured(by_seed, gains, larger)


def _parts(measured: _Measured) -> list[Part]:
    return [above(e, 1.0) for e in measured.larger]


def _draw(name: str, measured: _Measured) -> Figure:
    figure, axes = make_figure(
        1, 1, title=f"What depth gains in 100 epochs on {name}, near-identity start",
        size=(5.6, 4.0),
    )  # fmt: skip
    ax = axes[0, 0]
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    highest = max(_DEPTHS, key=lambda depth: measured.gains[_POWERS[-1], depth].value)
    for depth in _DEPTHS:
        colour, shift = colour_of(depth), 0.06 * (depth - 2.5)
        places = np.array(_POWERS) + shift
        effects = [measured.gains[p, depth] for p in _POWERS]
        seeds = np.stack([measured.by_seed[p, depth] for p in _POWERS])
        ax.plot(places, np.where(seeds > 0, seeds, np.nan), color=colour, linewidth=0.4, alpha=0.12)
        ax.plot(places, [e.value for e in effects], "o-", color=colour, markersize=5, linewidth=1.8)
        for place, effect in zip(places, effects, strict=True):
            if np.isfinite([effect.low, effect.high]).all():
                ax.vlines(place, effect.low, effect.high, color=colour, linewidth=3, alpha=0.6)
        ax.annotate(f"depth {depth}", (places[-1], effects[-1].value),
                    xytext=(9, 8 if depth == highest else -8),
                    textcoords="offset points", color=colour, va="center", fontsize=9)  # fmt: skip
    ax.set(yscale="log", xlim=(1.8, 5.7), xlabel="p of the loss ℓp", xticks=_POWERS,
           ylabel="one layer's last excess loss\nover the deeper network's")  # fmt: skip
    for words, shift in (("deeper is faster", 4), ("deeper is slower", -4)):
        ax.annotate(words, (1.83, 1), xytext=(0, shift), textcoords="offset points", fontsize=8,
                    color="0.3", va="bottom" if shift > 0 else "top")  # fmt: skip
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _kept_most(results: xr.Dataset) -> str:
    """The rates that most repeats keep, by p and depth, as text."""
    _, places = kept_losses(results)
    rates = results["learning_rate"].values
    told = []
    for loss, p in zip(_LOSSES, _POWERS, strict=True):
        words = []
        for depth in (1, *_DEPTHS):
            counts = np.bincount(places[model_number(results, loss_name=loss.name, depth=depth)])
            share = 100 * counts.max() / counts.sum()
            words.append(f"{rates[counts.argmax()]:g} ({share:.0f} %)")
        told.append(f"ℓ{p} " + ", ".join(words))
    return "; ".join(told)


def _test(lab: Context) -> Finding:
    datasets = student_datasets(lab)
    name = "Abalone" if "Abalone" in datasets else next(iter(datasets))
    config = protocol(
        lab, losses=_LOSSES, inits=("orthogonal",), hidden_widths=(10,),
        learning_rates=(*lab.pick(RATES[4:], RATES, RATES), 5e-2),
    )  # fmt: skip
    results = student_run(lab, datasets[name], config)
    measured = _measure(name, results)
    gains, larger = list(measured.gains.values()), measured.larger
    speed_ups = [
        speed_up_to_common(
            results, model_number(results, loss_name=loss.name, depth=depth),
            model_number(results, loss_name=loss.name, depth=1),
            f"{name}, ℓ{loss.p:g}, depth {depth}",
        )
        for loss in _LOSSES
        for depth in _DEPTHS
    ]  # fmt: skip
    verdict = judge(_parts(measured))
    tables = {
        "Gains": effects_table([*gains, *larger]),
        "Speed-ups": effects_table(speed_ups),
        "Last training losses": losses_table(results),
    }
    caveats = [
        "Judged by last losses, which is what the student project compared; by steps to a common "
        "loss the order of p may be another (Sensitive to)."
    ]
    if name == "Abalone":
        tables["Recorded beside ours"] = beside(results, _RECORDS)
        caveats.append(agreement(tables["Recorded beside ours"]))
    else:
        caveats.append(f"Abalone is not here: {name} takes its place.")
    return Finding(
        verdict=verdict,
        effects=(*larger, *gains),
        summary="; ".join(f"{e.name}: {e}" for e in larger)
        + "."
        + shortfall(verdict, "What we know of the reason is told below."),
        cause=Cause(
            ("T2",),
            "A network keeps about the highest rate of the grid below its own largest stable one, "
            "and neighbouring rates differ by a factor of two or five: where that falls between "
            "two depths decides what depth seems to gain. Kept most often, at depths 1, 2 and 3: "
            f"{_kept_most(results)}.",
        ),
        sensitivity=f"By steps {COMMON_TARGET}, the speed-ups are "
        + "; ".join(f"{e.name} {e}" for e in speed_ups)
        + ".",
        caveats=tuple(caveats),
        tables=tables,
        figures={"gains": _draw(name, measured)},
        curves={f"{name}, p from 2 to 5": Curves(results, best_by="final")},
    )


CLAIM = Claim(
    id="S4",
    statement="On Abalone the acceleration may be larger for p > 2.",
    source=SOURCE,
    setting=f"{PROTOCOL} Here p from 2 to 5, [], [10] and [10, 10], near-identity start, the rate "
    "5e-2 besides, 100 repeats.",
    criterion="What depth gains (one layer's last excess loss over the deeper network's, "
    "repeat by repeat) is larger than on ℓ2 for p = 3, 4 and 5 and both depths: the ratio of gains "
    "lies above 1, with the interval.",
    test=_test,
    minutes=0.2,
    paper_hours=0.05,
)
