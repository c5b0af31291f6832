"""S1: the student project's protocol with the default initialisation."""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.claims.criteria import Claim, Effect, Finding, above, judge, shortfall
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import model_number, resampled, share_of
from experiments.claims.toolkit.student import (
    PROTOCOL,
    SOURCE,
    deep_models,
    edge_share,
    kept_curves,
    kept_losses,
    losses_table,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.plotting import plot_curves


def _measure(name: str, results: xr.Dataset) -> tuple[Effect, Effect]:
    """How often the network that should be best is, and how far repeats differ."""
    kept, _ = kept_losses(results)
    wins = kept.argmin(axis=0) == model_number(results, depth=1)
    if name == "Abalone":
        best = share_of(f"{name}: two or three layers are best", ~wins)
    else:
        best = share_of(f"{name}: one layer is best", wins)
    deep = kept[deep_models(results)]

    def ratio(chosen: np.ndarray) -> float:
        low, high = np.quantile(deep[:, chosen], [0.1, 0.9], axis=1)
        return float((high / low).max())

    spread = resampled(
        f"{name}: 90 % over 10 % of repeats' last losses",
        ratio,
        kept.shape[1],
        note="of the network that varies most",
    )
    return best, spread


def _test(lab: Laboratory) -> Finding:
    runs = {
        name: student_run(lab, dataset, protocol(lab))
        for name, dataset in student_datasets(lab).items()
    }
    effects, parts = [], []
    for name, results in runs.items():
        best, spread = _measure(name, results)
        effects += [best, spread]
        parts += [above(best, 90.0), above(spread, 2.0)]
    missing = "" if "Abalone" in runs else " Abalone is not here: its part was not tested."
    panels = {
        name: kept_curves(results, [model_number(results, depth=1), *deep_models(results)])
        for name, results in runs.items()
    }
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=tuple(effects),
        summary="; ".join(f"{e.name}: {e}" for e in effects)
        + f".{missing}"
        + shortfall(verdict, "What 'consistently' and 'a lot' meant the report does not say."),
        sensitivity="The rate that is kept is the highest or second highest of the grid in "
        + " and ".join(f"{edge_share(results):.0f} % ({name})" for name, results in runs.items())
        + " of all cells: whoever looks at last losses here mostly compares how far each network "
        "gets at rates that are too low for it.",
        tables={
            f"Last training losses, {name}": losses_table(results) for name, results in runs.items()
        },
        figures={
            "training_loss": plot_curves(
                panels,
                title="The student project's protocol, default start: repeats' medians "
                "and quartiles",
                xlabel="epoch",
                ylabel="training loss",
            )
        },
    )


CLAIM = Claim(
    id="S1",
    statement="Ethanol: one layer is consistently best; Abalone: two and three layers are; "
    "curves differ a lot between repeats and widths.",
    source=SOURCE,
    setting=f"{PROTOCOL} PyTorch's default start, 30 repeats instead of one.",
    criterion="One layer has the lowest last loss in more than 90 % of the repeats on Ethanol, "
    "a deeper network on Abalone ('consistently'), with the interval; and the repeats' 90 % "
    "quantile is more than twice their 10 % quantile for some network ('a lot').",
    test=_test,
    paper_hours=0.01,
)
