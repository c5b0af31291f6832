"""S2: particular initialisations."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, above, judge, shortfall
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.drawing import colour_of, draw_dots, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import resampled, share_of
from implicit_accel.claims.published import bursts
from implicit_accel.claims.published.bursts import Bursts, kept_bursts
from implicit_accel.claims.published.records import agreement, beside, kept_rates
from implicit_accel.claims.published.student import (
    PROTOCOL,
    RATES,
    SOURCE,
    deep_models,
    kept_losses,
    losses_table,
    protocol,
    shape_of,
    student_datasets,
    student_run,
    top_share,
)
from implicit_accel.linear.config import SweepConfig

_INITS = {"pytorch": "default", "near_zero": "near-zero", "orthogonal": "near-identity"}
_NETWORKS = ("[]", "[64]", "[1, 1]", "[10, 10]", "[64, 64]")
_RECORDS = (
    *kept_rates((0.01, 0.01, 0.05, 0.05, 0.01), _NETWORKS, "pytorch"),
    *kept_rates((0.01, 0.01, 0.05, 0.05, 0.05), _NETWORKS, "near_zero"),
    *kept_rates((0.01,) * 5, _NETWORKS, "orthogonal", losses={"[64]": 0.2132}),
)


def _config(lab: Context) -> SweepConfig:
    """The notebook's own grid: its five networks, its three starts, its eight rates."""
    networks = (64, (1, 1), (10, 10))  # 64 is a width of both depths, the others of one
    return protocol(
        lab, inits=tuple(_INITS), hidden_widths=lab.pick((10,), networks, networks),
        learning_rates=(*lab.pick(RATES[4:], RATES, RATES), 5e-2),
    )  # fmt: skip


def _spread_ratio(losses: np.ndarray, others: np.ndarray, chosen: np.ndarray) -> float:
    """Ratio of spreads over the chosen repeats, averaged over networks; (network, seed) losses.

    A spread is the standard deviation of the losses' logarithm.
    """
    spreads = [np.std(np.log10(x[:, chosen]), axis=1).mean() for x in (losses, others)]
    return float(spreads[0] / max(spreads[1], 1e-12))


def _of_init(results: xr.Dataset, init: str) -> list[int]:
    """Numbers of a start's deep networks, by depth and width."""
    models = [m for m in deep_models(results) if results["init"].values[m] == init]
    return sorted(models, key=lambda m: (results["depth"].values[m], shape_of(results, m)))


def _spreads(name: str, by_init: dict[str, np.ndarray]) -> list[Effect]:
    """The default's spread over repeats, over that of each other initialisation."""
    return [
        resampled(
            f"{name}: the default start's spread over the {_INITS[init]} one's",
            functools.partial(_spread_ratio, by_init["pytorch"], by_init[init]),
            by_init[init].shape[1],
            least=0,
        )
        for init in list(_INITS)[1:]
    ]


def _lowest(name: str, by_init: dict[str, np.ndarray]) -> Effect:
    """In how many repeats near-identity ends lowest."""
    stacked = np.stack([by_init[init] for init in _INITS])  # (init, network, seed)
    wins = stacked.argmin(axis=0) == list(_INITS).index("orthogonal")
    return share_of(
        f"{name}: near-identity ends lowest",
        np.mean(wins, axis=0) > 0.5,
        note="repeats in which it does for most of the networks",
    )


def _bursting(name: str, found: Bursts) -> Effect:
    """In how many repeats some network's loss bursts at the edge of stability."""
    return share_of(
        f"{name}: a deep network's loss bursts",
        np.asarray(found.edge.any(axis=0)),
        note=f"repeats in which any does; {found} rises have ηλ above 2 before them",
    )


def _parts(name: str, results: xr.Dataset, found: Bursts) -> list[Part]:
    kept, _ = kept_losses(results)
    by_init = {init: kept[_of_init(results, init)] for init in _INITS}
    return [
        *(above(e, 1.0) for e in _spreads(name, by_init)),
        above(_lowest(name, by_init), 50.0),
        above(_bursting(name, found), 25.0),
    ]


def _draw(runs: dict[str, xr.Dataset]) -> Figure:
    figure, axes = make_figure(
        1, len(runs), title="Three starts: every repeat's last loss, and the median",
        size=(4.6, 4.6),
    )  # fmt: skip
    for ax, (name, results) in zip(axes[0], runs.items(), strict=True):
        kept, _ = kept_losses(results)
        models = [m for init in _INITS for m in _of_init(results, init)]
        rows = [
            (
                f"{_INITS[str(results['init'].values[m])]} {shape_of(results, m)}",
                kept[m],
                colour_of(int(results["depth"].values[m])),
            )
            for m in models
        ]
        draw_dots(ax, rows, xlabel="last training loss")
        for place in range(1, len(_INITS)):
            ax.axhline(place * len(models) / len(_INITS) - 0.5, color="0.6", linewidth=0.7)
        ax.set_title(name, fontsize=9)
    return figure


def _bursts_table(name: str, results: xr.Dataset, found: Bursts) -> pd.DataFrame:
    """Kept runs that rise and that burst, by network, in per cent of the repeats."""
    return pd.DataFrame([
        {
            "data": name, "start": _INITS[str(results["init"].values[m])],
            "hidden": shape_of(results, m), "loss rises (%)": 100 * found.rising[m].mean(),
            "with ηλ above 2 before (%)": 100 * found.edge[m].mean(),
        }
        for m in deep_models(results)
    ])  # fmt: skip


def _stuck(runs: dict[str, xr.Dataset]) -> str:
    """The last losses of the narrowest near-zero networks; 1 is the zero predictor's."""
    told = []
    for name, results in runs.items():
        for m in _of_init(results, "near_zero"):
            if results["hidden_widths"].values[m] == "1x1":
                told.append(f"{name}: median {np.median(kept_losses(results)[0][m]):.3g}")
    return "[1, 1], " + ", ".join(told) if told else "not run at this scale"


def _highest(runs: dict[str, xr.Dataset]) -> str:
    """How often each start's deep networks keep the highest rate."""
    return "; ".join(
        f"on {name} the highest is kept in "
        + ", ".join(
            f"{top_share(results, np.array(_of_init(results, init))):.0f} % ({words})"
            for init, words in _INITS.items()
        )
        + " of the cells"
        for name, results in runs.items()
    )


def _test(lab: Context) -> Finding:
    runs, found, parts = {}, {}, []
    for name, dataset in student_datasets(lab).items():
        config = _config(lab)
        results = runs[name] = student_run(lab, dataset, config)
        found[name] = kept_bursts(lab, dataset, config, results, lab.pick(2, 30, 100))
        parts += _parts(name, results, found[name])
    effects = tuple(part.effect for part in parts)
    verdict = judge(parts)
    tables = {
        f"Last training losses, {name}": losses_table(results) for name, results in runs.items()
    }
    tables["Bursts of the kept runs"] = pd.concat(
        [_bursts_table(name, results, found[name]) for name, results in runs.items()],
        ignore_index=True,
    )
    caveats = ["Sharpness is measured in the first repeats alone, and only where a loss rises."]
    if "Ethanol" in runs:
        tables["Recorded beside ours"] = beside(runs["Ethanol"], _RECORDS)
        caveats.insert(0, agreement(tables["Recorded beside ours"]))
    return Finding(
        verdict=verdict,
        effects=effects,
        summary="; ".join(f"{e.name}: {e}" for e in effects)
        + ". Rises of a kept run's loss with ηλ above 2 before them: "
        + ", ".join(f"{bursts_} ({name})" for name, bursts_ in found.items())
        + "."
        + shortfall(verdict, "What we know of the reasons is told below."),
        cause=Cause(
            ("T2", "T4", "T7"),
            "The bursts are the edge of stability. The sharpness λ grows as the layers "
            "do; where ηλ passes 2 the loss swings, which drives λ back, and it begins again. "
            "Near-zero networks are still near zero after 100 epochs where they are narrow "
            f"({_stuck(runs)}); how long they stay hangs on the layers' product, and that is their "
            "spread; near-identity starts have no such time. But these start sharp, and bear lower "
            f"rates: {_highest(runs)}.",
        ),
        sensitivity="The spread is that of the last losses' logarithm over repeats, averaged over "
        f"the deep networks. A burst is {bursts.CRITERION}.",
        caveats=tuple(caveats),
        tables=tables,
        figures={"last_losses": _draw(runs)},
        curves={
            f"{name}, three starts": Curves(results, best_by="final")
            for name, results in runs.items()
        },
    )


CLAIM = Claim(
    id="S2",
    statement="Particular starts cut the stochasticity; near-identity converges fastest; deep "
    "networks show bursts in the loss.",
    source=SOURCE,
    setting=f"{PROTOCOL} Here the notebook's own grid: [], [64], [1, 1], [10, 10], [64, 64], the "
    "rate 5e-2 besides, and three starts (default; N(0, 0.02²); semi-orthogonal), 100 repeats.",
    criterion="The default's spread over repeats is larger than that of either other start; "
    "near-identity ends lowest of the three for most deep networks in more than half of the "
    "repeats; some deep network's kept run bursts in more than a quarter of the repeats (what 30 "
    "repeats can show to be so or not), where a burst "
    f"is {bursts.CRITERION}, so that a loss that rises for another reason does not count; on each "
    "dataset, all with the interval.",
    test=_test,
    minutes=1.6,
    paper_hours=0.5,
)
