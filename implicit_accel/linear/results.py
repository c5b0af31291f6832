"""Labelled results of sweeps of deep linear networks.

They have no attribute ``axes``: their axes are ``model``, ``learning_rate`` and ``seed``. The
settings of a model (its loss, depth, hidden widths, initialiser …) are coordinates along ``model``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from implicit_accel import results as general
from implicit_accel.data.problems import Problem
from implicit_accel.engine.chunks import GroupResult
from implicit_accel.errors import UserError
from implicit_accel.linear.initialisers import INITIALISERS
from implicit_accel.linear.losses import CONVENTIONS, Loss
from implicit_accel.linear.objectives import Reduction
from implicit_accel.linear.observables import OBSERVABLES
from implicit_accel.optimizers import OPTIMIZERS
from implicit_accel.results import FORMAT, QUANTITIES, RUN, SOME_AXES, Quantity, declare

if TYPE_CHECKING:
    from implicit_accel.linear.config import SweepConfig


def _each(allowed: Callable[[str], bool]) -> Callable[[np.ndarray], Any]:
    return lambda values: [allowed(value) for value in values]


def _is_loss(name: str) -> bool:
    try:
        return Loss.parse(name).name == name
    except UserError:
        return False


def _is_widths(text: str) -> bool:
    return re.fullmatch("-|[0-9]+(x[0-9]+)*", text) is not None


_MODEL = ("model",)

# What distinguishes models, in the order in which tables show it.
MODEL_COORDINATES = declare(
    Quantity("loss_name", _MODEL, "loss", _each(_is_loss), kind="text"),
    Quantity("depth", _MODEL, "number of layers", lambda v: v >= 1, kind="whole number"),
    Quantity("hidden_widths", _MODEL, "widths of the hidden layers", _each(_is_widths),
             kind="text", special=("-", "none")),
    Quantity("init", _MODEL, "initialiser", _each(INITIALISERS.__contains__), kind="text"),
    Quantity("init_std", _MODEL, "the initialiser's standard deviation",
             lambda v: np.isnan(v) | ((v >= 0) & (v < np.inf)), special=("NaN", "none")),
    Quantity("optimizer", _MODEL, "optimizer", _each(OPTIMIZERS.__contains__), kind="text"),
    # Where one name stands for several of them.
    Quantity("optimizer_settings", _MODEL, "the optimizer's own settings", _each(str.isprintable),
             kind="text", special=("-", "defaults"), required=False),
    Quantity("loss_convention", _MODEL, "how the loss is scaled", _each(CONVENTIONS.__contains__),
             kind="text", required=False),
    Quantity("weight_decay", _MODEL, "weight decay", lambda v: (v >= 0) & (v < np.inf)),
)  # fmt: skip

LINEAR_QUANTITIES = {
    # What is declared for some of the axes is there for every model.
    name: replace(quantity, dims=_MODEL) if quantity.dims == (SOME_AXES,)
    # Every run has a rate and a seed.
    else replace(quantity, required=quantity.required or name in RUN)
    for name, quantity in QUANTITIES.items()
} | MODEL_COORDINATES  # fmt: skip
LINEAR_QUANTITIES |= declare(
    *(
        Quantity(
            name, (*RUN, "observation_step"), entry.description, general.is_observed,
            special=("NaN", "diverged or undefined"), required=False,
        )
        for name, entry in OBSERVABLES.items()
        if name not in QUANTITIES
    )
)  # fmt: skip
LINEAR_QUANTITIES |= declare(
    *(
        Quantity(
            name, _MODEL, f"learning rate {where} the edge of stability up to the target, by the "
            "gradient flow", lambda v: np.isnan(v) | (v > 0), special=("NaN", "unknown"),
            required=False,
        )
        for name, where in (
            ("edge_rate_low", "below which no step passes"),
            ("edge_rate_high", "above which steps pass"),
        )
    ),
)  # fmt: skip
LINEAR_QUANTITIES["optimum"] = replace(
    LINEAR_QUANTITIES["optimum"],
    long_name="L*, the smallest loss of a linear map (0 with an activation)",
)


def label_results(
    problem: Problem,
    config: SweepConfig,
    parts: Sequence[GroupResult],
    reductions: Sequence[Reduction],
    edge_rates: np.ndarray,
) -> xr.Dataset:
    """Labels the trajectories of a sweep.

    Args:
        problem: The problem.
        config: The grid; parts and reductions are in the order of its models.
        parts: A model's results, arrays with leading axes (learning rate, seed).
        reductions: The objective that each model minimised.
        edge_rates: (model, 2), see `theory.predict.edge_rates`.

    Returns:
        Variables ``loss`` and ``excess_loss`` over (model, learning_rate, seed, step);
        ``steps_to_target`` (inf: not reached) and ``divergence_step`` (NaN: did not diverge) over
        (model, learning_rate, seed); ``optimum``, ``zero_loss``, ``target``, ``resolution``,
        ``edge_rate_low`` and ``edge_rate_high`` over model; and observables (with a split also
        ``held_out_loss``) over (model, learning_rate, seed, observation_step).
    """
    excess = np.stack([p.records["excess_loss"] for p in parts])
    optimum = np.array([r.optimum.loss for r in reductions])
    reached = np.stack([p.steps_to_target for p in parts]).astype(float)
    diverged = np.stack([p.divergence_step for p in parts]).astype(float)
    values: dict[str, np.ndarray] = {
        "loss": (excess + optimum[:, None, None, None]).astype(excess.dtype),
        "excess_loss": excess,
        "steps_to_target": np.where(reached < 0, np.inf, reached),
        "divergence_step": np.where(diverged < 0, np.nan, diverged),
        "optimum": optimum,
        "zero_loss": np.array([float(r.data.zero_loss) for r in reductions]),
        "resolution": np.array([_resolution(r, config.precision) for r in reductions]),
        "target": np.array([config.target.absolute(r.zero_excess) for r in reductions]),
        "edge_rate_low": edge_rates[:, 0],
        "edge_rate_high": edge_rates[:, 1],
    }
    if problem.held_out_features is not None:
        values["held_out_loss"] = np.stack([p.records["held_out_loss"] for p in parts])
    for name in config.record:
        values[name] = np.stack([p.records[name] for p in parts])
    coordinates: dict[str, Any] = {
        "learning_rate": config.learning_rates,
        "seed": config.seeds,
        "step": config.record_steps,
    }
    if config.record or problem.held_out_features is not None:
        coordinates["observation_step"] = config.observation_steps
    coordinates |= _model_coordinates(config)
    runs = xr.Dataset(_declared(values), _declared(coordinates) | {"dataset": problem.name})
    per_entry = "mean |r|^p / p" if config.losses[0].convention == "paper" else "mean |r|^p"
    runs["loss"].attrs["formula"] = per_entry
    return runs.assign_attrs(_attributes(problem, config))


def _model_coordinates(config: SweepConfig) -> dict[str, Any]:
    models = config.models
    ambiguous = {}
    if len({o.name for o in config.optimizers}) < len(config.optimizers):
        ambiguous["optimizer_settings"] = [m.optimizer.settings_text or "-" for m in models]
    if len({loss.convention for loss in config.losses}) > 1:
        ambiguous["loss_convention"] = [m.loss.convention for m in models]
    found = ambiguous | {
        "loss_name": [m.loss.name for m in models],
        "depth": [m.depth for m in models],
        "hidden_widths": [m.hidden for m in models],
        "init": [m.initialiser.name for m in models],
        "init_std": [m.initialiser.std for m in models],
        "optimizer": [m.optimizer.name for m in models],
        "weight_decay": [m.weight_decay for m in models],
    }
    return {name: found[name] for name in MODEL_COORDINATES if name in found}


def labels_of(config: SweepConfig) -> list[str]:
    """Labels of a grid's models, as in its results."""
    return general.model_labels(xr.Dataset(coords=_declared(_model_coordinates(config))))


def _declared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with their dimensions and attributes."""
    declared = {name: LINEAR_QUANTITIES[name] for name in values}
    return {
        name: (quantity.over(RUN), np.asarray(values[name]), quantity.attributes)
        for name, quantity in declared.items()
    }


def _attributes(problem: Problem, config: SweepConfig) -> dict[str, Any]:
    """Attributes of results: the problem and the settings of training."""
    return {
        "format": FORMAT,
        "title": problem.title,
        "source": problem.source,
        "is_stand_in": int(problem.is_stand_in),
        "dataset_fingerprint": problem.fingerprint,
        "scaling": problem.scaling,
        "num_rows": len(problem.features),
        "num_features": problem.num_features,
        "num_outputs": problem.num_outputs,
        "num_steps": config.num_steps,
        "target_as_asked": str(config.target),
        "bias": int(config.bias),
        "activation": config.activation,
        "precision": config.precision,
        "loss_convention": config.losses[0].convention,
        "optimizer_settings": json.dumps({o.name: dict(o.settings) for o in config.optimizers}),
    }


def _resolution(reduction: Reduction, precision: str) -> float:
    """The excess loss below which differences are rounding errors of training's precision.

    It is ε times the zero predictor's loss, an order of magnitude above the losses at which float32
    and float64 were observed to differ (updates smaller than half a unit in the weights' last place
    are lost; for p that is not even, the excess is a difference from L*).
    """
    return float(np.finfo(precision).eps) * float(reduction.data.zero_loss)


def invalid(runs: xr.Dataset) -> str:
    """Why a dataset is not one of `label_results`; empty if it is."""
    if reason := general.invalid(runs, LINEAR_QUANTITIES, RUN):
        return reason
    for depth, widths in zip(runs["depth"].values, runs["hidden_widths"].values, strict=True):
        if (0 if widths == "-" else len(widths.split("x"))) != depth - 1:
            return "hidden widths that do not fit the depth"
    return ""
