"""S1: the student project's protocol with PyTorch's default initialisation."""

from __future__ import annotations

import numpy as np
import xarray as xr

from implicit_accel.claims.api import (
    AS_CHOSEN,
    FIRST,
    Check,
    Claim,
    Context,
    Effect,
    Found,
    Key,
    Measure,
)
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import model_number, resampled, share
from implicit_accel.claims.published.records import Record, compared, draw_last_losses
from implicit_accel.claims.published.student import (
    RATES,
    SOURCE,
    at_highest_rates,
    deep_models,
    kept_losses,
    losses_table,
    one_layer_lowest,
    protocol,
    student_datasets,
    student_run,
)
from implicit_accel.data.problems import make_problem

# The students' own grid of their second experiment has it.
ONE_MORE_RATE = 5e-2
ONE_MORE = "one more learning rate, 5e-2"

RECORDS = (Record("[]", "pytorch", loss=0.2181),)


def run(context: Context) -> Found:
    """The student project's protocol on each dataset, and one layer on other splits of Ethanol."""
    datasets = student_datasets(context)
    runs = {name: student_run(context, d, protocol(context)) for name, d in datasets.items()}
    recorded, caveat = compared(runs.get("Ethanol"), RECORDS)
    medians = []
    if "Ethanol" in runs:
        config = protocol(
            context, depths=(1,), learning_rates=RATES[-1:], num_seeds=context.pick(2, 20, 20)
        )
        for seed in range(1, context.pick(2, 11, 11)):
            split = make_problem(datasets["Ethanol"], held_out_fraction=0.2, split_seed=seed)
            medians.append(float(np.median(kept_losses(context.sweep(split, config))[0])))
    first = next(iter(runs))
    name = "one layer lowest"
    one_more = student_run(
        context, datasets[first], protocol(context, learning_rates=(*RATES, ONE_MORE_RATE))
    )
    lowest = [
        one_layer_lowest(results).keyed(Key.of(name, problem=first, choice=choice))
        for choice, results in ((AS_CHOSEN, runs[first]), (ONE_MORE, one_more))
    ]
    return Found(
        runs=runs,
        effects=lowest,
        facts={"agreement": caveat, "medians": medians},
        tables={f"Last training losses, {name}": losses_table(r) for name, r in runs.items()}
        | recorded,
        figures={
            "last_losses": draw_last_losses(
                {
                    name: (r, range(r.sizes["model"]), RECORDS if name == "Ethanol" else ())
                    for name, r in runs.items()
                },
                title="Last loss after 100 epochs, default initialisation: repeats and medians",
            )
        },
        curves={
            f"{name}, the student project's protocol": Curves(results, best_by="final")
            for name, results in runs.items()
        },
    )


def deeper_lowest(results: xr.Dataset) -> Effect:
    """The share of repeats in which a network of two or three layers has the lowest last loss."""
    return share(np.isin(kept_losses(results)[0].argmin(axis=0), deep_models(results)))


def over_repeats(results: xr.Dataset) -> Effect:
    """The 90 % quantile of a network's last losses over the 10 % quantile, of the most variable."""
    deep = kept_losses(results)[0][deep_models(results)]

    def ratio(chosen: np.ndarray) -> float:
        low, high = np.quantile(deep[:, chosen], [0.1, 0.9], axis=1, method="inverted_cdf")
        return float((high / low).max())

    return resampled(ratio, deep.shape[1], least=1)


def over_widths(results: xr.Dataset) -> Effect:
    """The worst width's median last loss over the best width's, at the depth of the larger ratio.

    Medians exclude the differences between repeats.
    """
    depths = [kept_losses(results)[0][deep_models(results, depth=depth)] for depth in (2, 3)]

    def ratio(chosen: np.ndarray) -> float:
        medians = [np.median(kept[:, chosen], axis=1) for kept in depths]
        return float(max(m.max() / m.min() for m in medians))

    return resampled(ratio, depths[0].shape[1], least=1)


def rate_left(results: xr.Dataset) -> Effect:
    """The largest stable rate of one layer over the highest rate of the grid."""
    edge = results["edge_rate_low"].values[model_number(results, depth=1)]
    return Effect("", float(edge) / max(RATES))


def least_loss(results: xr.Dataset) -> Effect:
    """The best linear map's loss, in per cent of the zero predictor's."""
    return Effect("", 100 * float(results["optimum"][0] / results["zero_loss"][0]), unit=" %")


CLAIM = Claim(
    id="S1",
    statement="Ethanol: one layer is consistently best; Abalone: two and three layers are; "
    "curves differ a lot between repeats and widths.",
    source=SOURCE,
    run=run,
    condition="the grid of learning rates ends at 0.01",
    choices=("choice",),
    measures=(
        Measure("deeper networks lowest", deeper_lowest),
        Measure("spread over repeats", over_repeats),
        Measure("spread over widths", over_widths),
        Measure("highest rate kept", at_highest_rates, {"depth": (1, 2, 3)}),
        Measure("largest stable rate over the highest of the grid", rate_left),
        Measure("least loss of a linear map", least_loss),
    ),
    checks=tuple(
        Check(measure, {"problem": problem, **at}, low=low)
        for problem, lowest, choice in (
            (FIRST, "one layer lowest", {"choice": AS_CHOSEN}),
            ("Abalone", "deeper networks lowest", {}),
        )
        for measure, low, at in (
            (lowest, 90.0, choice), ("spread over repeats", 2.0, {}),
            ("spread over widths", 2.0, {}),
        )
    ),
    explained_by=("T1", "T2"),
    minutes=0.2,
    paper_hours=0.05,
)  # fmt: skip
