"""The student project's protocol, repeated often: what S1 to S5 and S7 share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import (
    compare,
    level_of,
    model_number,
    share_of,
)
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import make_problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import best_learning_rates, final_excess

SOURCE = "Levy & Wang 2024: report, code and notebooks (read)"
RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
MSE = Loss(2, "plain")
PROTOCOL = (
    "Linear layers with biases, mean squared error, 80/20 split, standardised, full batch, 100 "
    "epochs, seven learning rates from 1e-5 to 1e-2, hidden layers [], [1], [10], [64], [1, 1], "
    "[10, 10], [64, 64]; each repeat keeps the rate with the lowest last training loss."
)

COMMON_TARGET = (
    "to a tenth of the zero predictor's excess loss or, where one of the two does not get there, "
    "to the higher of the lowest losses at which they end"
)
"""To which target `speed_up_to_common` measures."""


def protocol(lab: Context, **changes: object) -> SweepConfig:
    """The student project's grid.

    Args:
        lab: Says how much is run.
        changes: Fields of the grid in which a figure differs.
    """
    config = SweepConfig(
        hidden_widths=lab.pick((1, 10), (1, 10, 64), (1, 10, 64)),
        inits=("pytorch",),
        init_stds=(0.02,),
        losses=(MSE,),
        learning_rates=lab.pick(RATES[4:], RATES, RATES),
        num_seeds=lab.pick(3, 100, 300),
        num_steps=lab.pick(30, 100, 100),
        bias=True,
    )
    return replace(config, **changes)  # pyright: ignore


def student_datasets(lab: Context) -> dict[str, Dataset]:
    """Ethanol or its stand-in, and Abalone if it is here."""
    gas, abalone = lab.gas(), lab.abalone()
    found = {"stand-in" if gas.is_stand_in else "Ethanol": gas}
    return found if abalone is None else found | {"Abalone": abalone}


def student_run(lab: Context, dataset: Dataset, config: SweepConfig) -> xr.Dataset:
    """A grid on the rows that the protocol trains on."""
    return lab.sweep(make_problem(dataset, held_out_fraction=0.2), config)


def kept_losses(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What each repeat keeps: (model, seed) lowest last training losses, and their rates' places.

    Diverged runs, whose last loss is inf, are never kept.
    """
    last = results["loss"].values[..., -1].astype(float)
    return last.min(axis=1), last.argmin(axis=1)


def shape_of(results: xr.Dataset, m: int) -> str:
    """A network's hidden widths, as the student project writes them."""
    hidden = str(results["hidden_widths"].values[m])
    return "[]" if hidden == "-" else f"[{hidden.replace('x', ', ')}]"


def losses_table(results: xr.Dataset) -> pd.DataFrame:
    """A row for each network: the distribution of what is kept."""
    kept, rates = kept_losses(results)
    top = len(results["learning_rate"]) - 1
    return pd.DataFrame(
        [
            {
                "loss": f"ℓ{str(results['loss_name'].values[m])[1:]}",
                "init": str(results["init"].values[m]),
                "optimizer": str(results["optimizer"].values[m]),
                "hidden": shape_of(results, m),
                "median loss": np.median(kept[m]),
                "10 %": np.quantile(kept[m], 0.1, method="inverted_cdf"),
                "90 %": np.quantile(kept[m], 0.9, method="inverted_cdf"),
                "highest rate kept (%)": 100 * np.mean(rates[m] == top),
            }
            for m in range(results.sizes["model"])
        ]
    )


def deep_models(results: xr.Dataset) -> list[int]:
    """Numbers of the models with hidden layers."""
    return [m for m in range(results.sizes["model"]) if results["depth"].values[m] > 1]


def one_layer_lowest(name: str, results: xr.Dataset) -> Effect:
    """In how many repeats one layer has the lowest last loss of all networks.

    Args:
        name: Of the dataset.
        results: Of the protocol, with one model of one layer.
    """
    kept, _ = kept_losses(results)
    wins = kept.argmin(axis=0) == model_number(results, depth=1)
    label = f"{name}: one layer ends lowest"
    return replace(share_of(label, wins), quantity=f"{label} in the student project's protocol")


def top_share(results: xr.Dataset, chosen: np.ndarray) -> float:
    """Share of the cells of some models that keep the highest rate of the grid, in per cent.

    Args:
        results: A sweep's.
        chosen: Numbers of the models, or a boolean for each.
    """
    _, rates = kept_losses(results)
    return 100 * float(np.mean(rates[chosen] == len(results["learning_rate"]) - 1))


def largest_stable_rate(dataset: Dataset) -> float:
    """2 over the sharpness of the mean squared error of one layer with a bias, by T2.

    On the rows that the protocol trains on; the Hessian is twice the features' second moments.
    """
    X = make_problem(dataset, held_out_fraction=0.2).features
    X = np.hstack([X, np.ones((len(X), 1))])
    return 1 / float(np.linalg.norm(X, 2) ** 2 / len(X))


def kept_most(results: xr.Dataset, loss_name: str) -> str:
    """The rates that most repeats keep with a loss, depth by depth, as text."""
    _, places = kept_losses(results)
    rates, words = results["learning_rate"].values, []
    for m in np.flatnonzero(results["loss_name"].values == loss_name):
        counts = np.bincount(places[m])
        share = 100 * counts.max() / counts.sum()
        words.append(f"{rates[counts.argmax()]:g} ({share:.0f} %)")
    return ", ".join(words)


def edge_share(results: xr.Dataset, models: list[int] | None = None) -> float:
    """Share of cells whose kept rate is the highest or the one below it, in per cent."""
    _, rates = kept_losses(results)
    chosen = rates if models is None else rates[models]
    return 100 * float(np.mean(chosen >= len(results["learning_rate"]) - 2))


_TARGET, _NO_WAY = 0.1, 0.99


def common_share(results: xr.Dataset, model: int, base: int) -> float:
    """The target that two models have in common, see `COMMON_TARGET`.

    Returns:
        A share of the zero predictor's excess loss; inf where one of the two diverges at all rates.
    """
    zero = level_of(results, model, 1)
    # The higher of the two middle ones: then the median run reaches it.
    final = np.quantile(final_excess(results), 0.5, axis=2, method="higher")
    best = best_learning_rates(results, "final")
    reached = [
        1.0001 * float(final[m, best[m]]) / zero if best[m] >= 0 else math.inf
        for m in (model, base)
    ]
    return max(_TARGET, *reached)


def speed_up_to_common(results: xr.Dataset, model: int, base: int, name: str = "") -> Effect:
    """The speed-up to the usual target or another, see `COMMON_TARGET`.

    Defined where a run is too short, or a grid of rates too low, for the target: then the target
    is what the one that gets less far reaches at the end, at the best rate for that. Where one
    does not even get a hundredth of the way from the zero predictor's loss to the optimum there is
    no speed-up.
    """
    share = common_share(results, model, base)
    if share > _NO_WAY:
        return Effect(name, math.nan, note="one of the two stays at the zero predictor's loss")
    effect = compare(results, model, base, name=name, share=share)
    note = f"to {share:.3g} of the zero predictor's excess loss"
    return replace(effect, note="; ".join(filter(None, (note, effect.note))))
