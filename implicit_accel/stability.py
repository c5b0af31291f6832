"""The edge of stability in results: the optimizers' thresholds, and the runs that are past it.

Past the edge (ηλ > 2 for gradient descent) a step multiplies a deviation along the sharpest
direction by more than 1 in size. Rounding is such a deviation: it grows until it decides the
trajectory, and with it the number of steps.
"""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from implicit_accel.errors import UserError
from implicit_accel.observables import stability_threshold

# Whose stability threshold each kind of sharpness is held against.
STABILITY_OF = {
    "sharpness": ("sgd", "momentum", "nesterov"),
    "preconditioned_sharpness": ("rmsprop", "adagrad", "adadelta", "adam", "adamw"),
}

# Largest rises of a loss that may be rounding, relative to the largest loss before.
_ROUNDING = {"float32": 1e-5, "float64": 1e-12}

# As close to the threshold nothing is decided: recorded sharpness in float32 is accurate to 0.1 %,
# edges of `theory.predict` mostly to 1 %.
_UNDECIDED_RECORDED, _UNDECIDED_PREDICTED = 0.01, 0.03


def threshold(name: str, runs: xr.Dataset) -> float:
    """The sharpness above which a model's optimizer is unstable; NaN where it is not known."""
    optimizer = str(runs["optimizer"].values) if "optimizer" in runs.coords else ""
    if optimizer not in STABILITY_OF[name]:
        return np.nan
    try:
        if "optimizer_settings" in runs.coords:  # where a name stands for several of them
            pairs = str(runs["optimizer_settings"].values).split(":")
            settings = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        else:
            settings = json.loads(runs.attrs.get("optimizer_settings", "{}")).get(optimizer, {})
        momentum = float(settings.get("momentum", settings.get("b1", 0.9)))
        return float(stability_threshold(optimizer, float(runs["learning_rate"]), momentum))
    # Settings are a file's, and may be anything.
    except (UserError, ValueError, TypeError, AttributeError, ArithmeticError):
        return np.nan


def is_past_edge(runs: xr.Dataset, *, best_by: str = "stable") -> bool | None:
    """Whether a model's runs at a learning rate pass the edge of stability.

    What counts is the time up to the target, or up to the last step where the target is not
    reached or ``best_by`` is ``final``. Of each run the first of these that applies decides:

    1. The training loss of a linear network rises under full-batch gradient descent, beyond
       rounding: it is past the edge. By the descent lemma a step lowers the loss unless ηλ > 2
       somewhere along it.
    2. A recorded sharpness (preconditioned for adaptive optimizers) exceeds the threshold of
       `observables.stability_threshold`: it is past the edge. If sharpness was recorded at every
       step and stays below, it is not.
    3. The gradient flow predicts it: the rate lies above ``edge_rate_high``, and is past the edge,
       or below ``edge_rate_low``, and is not (unknown for ``final``, since the prediction ends at
       the target). This is no proof, since gradient descent follows the flow only roughly: of 119
       small networks of 1 to 3 layers it passed the edge in all at 1.1 times the higher rate, in
       2 at 0.9 times the lower rate without a rise of the loss, and in none at 0.75 times.

    Within 1 % of the threshold (3 % of the predicted rates) nothing is decided.

    Args:
        runs: One model at one learning rate, from results by model.
        best_by: What made the rate the best.

    Returns:
        True if at least half of the seeds' runs are past the edge, as numbers of the table are
        medians over seeds; False if none is; None if it is not known.
    """
    until = np.asarray(runs["steps_to_target"].values, float)
    if best_by == "final":
        until = np.full_like(until, np.inf)
    past, stable = _recorded(runs, until)
    past |= _rises(runs, until)
    predicted = _predicted(runs, best_by)
    if predicted is not None:
        unknown = ~(past | stable)
        past, stable = past | (unknown & predicted), stable | (unknown & (not predicted))
    if 2 * np.count_nonzero(past) >= past.size:
        return True
    return False if (stable & ~past).all() else None


def _is_linear(runs: xr.Dataset) -> bool:
    """Whether runs are a linear network's, which alone name no axes."""
    return "axes" not in runs.attrs and runs.attrs.get("activation") == "identity"


def _rises(runs: xr.Dataset, until: np.ndarray) -> np.ndarray:
    """(seed,) whether the loss rises where it cannot below the edge."""
    if (
        not _is_linear(runs)
        or str(runs["optimizer"].values) != "sgd"
        or float(runs["weight_decay"]) != 0
    ):
        return np.zeros(len(until), bool)
    rounding = _ROUNDING.get(str(runs.attrs.get("precision")), _ROUNDING["float32"])
    steps = runs["step"].values
    found = []
    for losses, end in zip(runs["loss"].values.astype(float), until, strict=True):
        own = losses[steps <= end]
        before = np.maximum.accumulate(own[:-1])
        # Infinite from divergence on: the rise is the one to the first infinity.
        with np.errstate(invalid="ignore"):
            found.append(bool(np.any(own[1:] - own[:-1] > rounding * before)))
    return np.array(found)


def _recorded(runs: xr.Dataset, until: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(seed,) whether recorded sharpness exceeds the threshold; whether it never does."""
    past, stable = np.zeros(len(until), bool), np.zeros(len(until), bool)
    for name in STABILITY_OF:
        if name not in runs or runs[name].dims != ("seed", "observation_step"):
            continue
        edge = threshold(name, runs)
        if not np.isfinite(edge):
            continue
        steps, values = runs["observation_step"].values, runs[name].values
        # Only points from which a step is taken count.
        ends = np.minimum(until, float(runs.attrs["num_steps"]))
        counted = steps < ends[:, None]
        past |= (counted & (values > (1 + _UNDECIDED_RECORDED) * edge)).any(axis=1)
        is_complete = counted.sum(axis=1) == ends
        stable |= is_complete & (~counted | (values < (1 - _UNDECIDED_RECORDED) * edge)).all(axis=1)
    return past, stable


def _predicted(runs: xr.Dataset, best_by: str) -> bool | None:
    """Whether a rate is past the edge by the gradient flow; None where nothing is predicted."""
    if not _is_linear(runs) or "edge_rate_low" not in runs or "edge_rate_high" not in runs:
        return None
    rate = float(runs["learning_rate"])
    if rate > (1 + _UNDECIDED_PREDICTED) * float(runs["edge_rate_high"]):
        return True
    is_below = rate < (1 - _UNDECIDED_PREDICTED) * float(runs["edge_rate_low"])
    return False if is_below and best_by != "final" else None
