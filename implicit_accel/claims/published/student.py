"""The student project's protocol, repeated often: what S1 to S5 and S7 share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.claims.api import Context, Scaled
from implicit_accel.claims.effects import Coordinate, Effect
from implicit_accel.claims.estimators import compare, level_of, model_number, share
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import make_problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.statistics import best_learning_rates, final_excess

SOURCE = "Levy & Wang 2024: report, code and notebooks (read)"
RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
MSE = Loss(2, "plain")
_NETWORKS = ("-", "1", "10", "64", "1x1", "10x10", "64x64")
NETWORKS: Scaled[Sequence[Coordinate]] = Scaled(("-", "10", "10x10"), _NETWORKS, _NETWORKS)
"""Coordinates ``hidden_widths`` of the networks, where the smoke scale has width 10 only."""

COMMON_TARGET = (
    "to a tenth of the zero predictor's excess loss or, where one of the two does not get there, "
    "to the higher of the lowest losses at which they end"
)
"""To which target `speed_up_to_common` measures."""


def protocol(context: Context, **changes: object) -> SweepConfig:
    """The student project's grid.

    Args:
        context: Its scale sets how much is run.
        changes: Fields of the grid in which a claim differs.
    """
    config = SweepConfig(
        hidden_widths=context.pick((1, 10), (1, 10, 64), (1, 10, 64)), inits=("pytorch",),
        init_stds=(0.02,), losses=(MSE,), learning_rates=context.pick(RATES[4:], RATES, RATES),
        num_seeds=context.pick(3, 100, 300), num_steps=context.pick(30, 100, 100), bias=True,
    )  # fmt: skip
    return replace(config, **changes)  # pyright: ignore


def student_datasets(context: Context) -> dict[str, Dataset]:
    """Ethanol or its stand-in, and Abalone if its data are here."""
    gas, abalone = context.gas(), context.abalone()
    found = {"stand-in" if gas.is_stand_in else "Ethanol": gas}
    return found if abalone is None else found | {"Abalone": abalone}


def student_run(context: Context, dataset: Dataset, config: SweepConfig) -> xr.Dataset:
    """Results of a grid, trained on the protocol's 80 % of the rows."""
    return context.sweep(make_problem(dataset, held_out_fraction=0.2), config)


def kept_losses(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The lowest last training loss of each repeat, and the index of its rate: (model, seed) each.

    The last loss of a diverged run is inf: it is kept only if all rates diverge.
    """
    last = results["loss"].values[..., -1].astype(float)
    return last.min(axis=1), last.argmin(axis=1)


def shape_of(results: xr.Dataset, m: int) -> str:
    """A network's hidden widths, as the student project writes them."""
    hidden = str(results["hidden_widths"].values[m])
    return "[]" if hidden == "-" else f"[{hidden.replace('x', ', ')}]"


def losses_table(results: xr.Dataset) -> pd.DataFrame:
    """A row for each network: the distribution of its kept losses, and of bursts if measured."""
    kept, rates = kept_losses(results)
    rows = []
    for m in range(results.sizes["model"]):
        bursts = {
            f"kept runs {what} (%)": 100 * results[name].values[m].mean()
            for name, what in (("rises", "whose loss rises"), ("bursts", "with bursts"))
            if name in results
        }
        rows.append({
            "loss": f"ℓ{str(results['loss_name'].values[m])[1:]}",
            "init": str(results["init"].values[m]),
            "optimizer": str(results["optimizer"].values[m]),
            "hidden": shape_of(results, m),
            "median loss": np.median(kept[m]),
            "10 %": np.quantile(kept[m], 0.1, method="inverted_cdf"),
            "90 %": np.quantile(kept[m], 0.9, method="inverted_cdf"),
            "highest rate kept (%)": 100 * np.mean(rates[m] == len(results["learning_rate"]) - 1),
            **bursts,
        })  # fmt: skip
    return pd.DataFrame(rows)


def models_with(results: xr.Dataset, **coordinates: object) -> list[int]:
    """Indices of the models with these coordinates."""
    chosen = np.ones(results.sizes["model"], bool)
    for name, value in coordinates.items():
        chosen &= results[name].values == value
    return np.flatnonzero(chosen).tolist()


def deep_models(results: xr.Dataset, **coordinates: object) -> list[int]:
    """Indices of the models with hidden layers and these coordinates."""
    return [m for m in models_with(results, **coordinates) if results["depth"].values[m] > 1]


def one_layer_lowest(results: xr.Dataset) -> Effect:
    """The share of repeats in which one layer has the lowest last loss of all networks.

    Args:
        results: Of the protocol, with one model of one layer.
    """
    kept, _ = kept_losses(results)
    return share(kept.argmin(axis=0) == model_number(results, depth=1))


def at_highest_rates(results: xr.Dataset, count: int = 1, **coordinates: object) -> Effect:
    """The share of kept runs, of the models with these coordinates, at the highest rates.

    Args:
        results: A sweep's.
        count: How many rates of the grid count as its highest.
        **coordinates: Of the models; all models by default.
    """
    rates = kept_losses(results)[1][models_with(results, **coordinates)]
    at_top = rates >= len(results["learning_rate"]) - count
    return Effect("", 100 * float(np.mean(at_top)), unit=" %")


def edge_share(results: xr.Dataset) -> float:
    """The percentage of kept runs, of all models, at one of the highest two rates."""
    return at_highest_rates(results, 2).value


def kept_most(results: xr.Dataset, loss_name: str) -> str:
    """The rates that most repeats keep with a loss, depth by depth, as text."""
    _, places = kept_losses(results)
    rates, words = results["learning_rate"].values, []
    for m in models_with(results, loss_name=loss_name):
        counts = np.bincount(places[m])
        share = 100 * counts.max() / counts.sum()
        words.append(f"{rates[counts.argmax()]:g} ({share:.0f} %)")
    return ", ".join(words)


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


def speed_up_to_common(results: xr.Dataset, model: int, base: int) -> Effect:
    """The speed-up to the usual target or another, see `COMMON_TARGET`.

    Defined where a run is too short, or a grid of rates too low, for the target: then the target
    is what the one that gets less far reaches at the end, at the best rate for that. Where one
    does not even get a hundredth of the way from the zero predictor's loss to the optimum there is
    no speed-up.
    """
    target = common_share(results, model, base)
    if target > _NO_WAY:
        return Effect("", math.nan, note="one of the two stays at the zero predictor's loss")
    effect = compare(results, model, base, share=target)
    note = f"to {target:.3g} of the zero predictor's excess loss"
    return replace(effect, note="; ".join(filter(None, (note, effect.note))))
