"""Labelled results of a sweep: an xarray dataset, and a folder on disk.

Dimensions are ``model`` × ``learning_rate`` × ``seed`` × ``step``. What makes up a model (its
loss, depth, hidden widths, initialiser …) are coordinates along ``model``; `select` and
`load_run` let them be used by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from implicit_accel.data.problems import Problem
from implicit_accel.engine.train import GroupResult
from implicit_accel.errors import DataError, UserError
from implicit_accel.files import atomic_path, is_printable, is_sealed, seal
from implicit_accel.linear.initialisers import INITIALISERS
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.objectives import Reduction
from implicit_accel.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from implicit_accel.linear.config import SweepConfig

FORMAT = "implicit_accel sweep 3"

RESULTS_FILE = "results.nc"
SUMMARY_FILE = "summary.csv"
CONFIG_FILE = "config.json"
FIGURES_FOLDER = "figures"

# What distinguishes models, in the order in which tables show it.
MODEL_COORDINATES = (
    "loss_name", "depth", "hidden_widths", "init", "init_std", "optimizer", "weight_decay"
)  # fmt: skip


def label_results(
    problem: Problem,
    config: SweepConfig,
    parts: Sequence[GroupResult],
    reductions: Sequence[Reduction],
) -> xr.Dataset:
    """Puts names to the trajectories of a sweep.

    Args:
        problem: What was fitted.
        config: The grid; parts and reductions are in the order of its models.
        parts: A model's results, arrays with leading axes (learning rate, seed).
        reductions: What each model minimised.

    Returns:
        Variables ``loss``, ``excess_loss`` (and ``held_out_loss`` with a split) over
        (model, learning_rate, seed, step); ``steps_to_target`` (inf: not reached) and
        ``divergence_step`` (NaN: did not diverge) over (model, learning_rate, seed);
        ``optimum``, ``zero_loss``, ``target`` and ``resolution`` over model.
    """
    models = config.models
    excess = np.stack([p.records["excess_loss"] for p in parts])
    optimum = np.array([r.optimum.loss for r in reductions])
    arrived = np.stack([p.steps_to_target for p in parts]).astype(float)
    diverged = np.stack([p.divergence_step for p in parts]).astype(float)
    curve = ("model", "learning_rate", "seed", "step")
    run = curve[:3]
    per_entry = "mean |r|^p / p" if config.losses[0].convention == "paper" else "mean |r|^p"
    variables: dict[str, Any] = {
        "loss": (
            curve,
            (excess + optimum[:, None, None, None]).astype(excess.dtype),
            {"long_name": "training loss", "formula": per_entry, "diverged": "inf"},
        ),
        "excess_loss": (
            curve,
            excess,
            {"long_name": "excess training loss L - L*", "diverged": "inf"},
        ),
        "steps_to_target": (
            run,
            np.where(arrived < 0, np.inf, arrived),
            {"long_name": "steps to target", "units": "updates", "never": "inf"},
        ),
        "divergence_step": (
            run,
            np.where(diverged < 0, np.nan, diverged),
            {"long_name": "step of divergence", "units": "updates", "never": "NaN"},
        ),
        "optimum": (
            "model",
            optimum,
            {"long_name": "L*, the smallest loss of a linear map (0 with an activation)"},
        ),
        "zero_loss": (
            "model",
            np.array([float(r.data.zero_loss) for r in reductions]),
            {"long_name": "loss of predicting zero"},
        ),
        "resolution": (
            "model",
            np.array([_resolution(r, config.precision) for r in reductions]),
            {"long_name": "excess loss below which a trajectory is rounding"},
        ),
        "target": (
            "model",
            np.array([config.target.absolute(r.zero_excess) for r in reductions]),
            {"long_name": "target excess loss"},
        ),
    }
    if problem.held_out_features is not None:
        variables["held_out_loss"] = (
            curve,
            np.stack([p.records["held_out_loss"] for p in parts]),
            {"long_name": "loss on the held-out rows", "diverged": "inf"},
        )
    coordinates = {
        "learning_rate": np.array(config.learning_rates),
        "seed": np.array(config.seeds),
        "step": ("step", config.record_steps, {"units": "updates"}),
        "loss_name": ("model", [m.loss.name for m in models]),
        "depth": ("model", [m.depth for m in models]),
        "hidden_widths": ("model", [m.hidden for m in models]),
        "init": ("model", [m.initialiser.name for m in models]),
        "init_std": ("model", [m.initialiser.std for m in models]),
        "optimizer": ("model", [m.optimizer.name for m in models]),
        "weight_decay": ("model", [m.weight_decay for m in models]),
        "dataset": problem.name,
    }
    attributes = {
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
    }
    return xr.Dataset(variables, coordinates, attributes)


def _resolution(reduction: Reduction, precision: str) -> float:
    """The excess loss below which what training does is its precision's rounding.

    ε times the zero map's loss: an order of magnitude above where float32 and float64 were seen to
    part (updates smaller than half a unit in the weights' last place are lost; for p that is not
    even, the excess is a difference from L*).
    """
    return float(np.finfo(precision).eps) * float(reduction.data.zero_loss)


def select(results: xr.Dataset, **coordinates: object) -> xr.Dataset:
    """The models that have these coordinates, e.g. ``select(run, loss_name="l4", depth=2)``.

    Raises:
        DataError: If no model has them; the message lists the values there are.
    """
    chosen = np.ones(results.sizes["model"], bool)
    for name, value in coordinates.items():
        if name not in MODEL_COORDINATES:
            raise DataError(f"{name!r} is no model coordinate: {', '.join(MODEL_COORDINATES)}")
        found = results[name].values == value
        if not found.any():
            there = ", ".join(map(str, dict.fromkeys(results[name].values.tolist())))
            raise DataError(f"no model has {name} = {value!r}: there are {there}")
        chosen &= found
    if not chosen.any():
        raise DataError(f"no model has all of {coordinates}")
    return results.isel(model=np.flatnonzero(chosen))


def model_labels(results: xr.Dataset) -> list[str]:
    """A short label for each model: its depth, and whatever else differs between models."""
    labels = []
    varying = [
        name
        for name in MODEL_COORDINATES
        if name not in ("depth", "loss_name") and _differs(results, name)
    ]
    several_losses = _differs(results, "loss_name")
    for m in range(results.sizes["model"]):
        row = {name: results[name].values[m] for name in MODEL_COORDINATES}
        words = [f"depth {row['depth']}"]
        for name in varying:
            if name == "hidden_widths":
                words += [f"width {row[name]}"] if row["depth"] > 1 else []
            elif name == "init_std":
                words += [f"std {row[name]:g}"] if np.isfinite(row[name]) else []
            elif name == "weight_decay":
                words += [f"decay {row[name]:g}"]
            else:
                words += [str(row[name])]
        if several_losses:
            words.insert(0, str(row["loss_name"]))
        labels.append(", ".join(words))
    return labels


def _differs(results: xr.Dataset, name: str) -> bool:
    values = results[name].values
    if name == "hidden_widths":  # "-" of single layers says no more than their depth
        deep = [v for v, depth in zip(values, results["depth"].values, strict=True) if depth > 1]
        by_depth: dict[int, set[str]] = {}
        for v, depth in zip(values, results["depth"].values, strict=True):
            by_depth.setdefault(int(depth), set()).add(str(v))
        uniform = len({w for v in deep for w in v.split("x")}) <= 1
        return not uniform or any(len(v) > 1 for v in by_depth.values())
    return len(set(map(str, values.tolist()))) > 1


# More than deflate can reach: a file that claims to hold more than this is not read.
_MAX_RATIO = 1100


def save_results(results: xr.Dataset, folder: Path) -> Path:
    """Writes ``results.nc`` into a folder, atomically; returns its path."""
    path = folder / RESULTS_FILE
    save_netcdf(results, path)
    return path


def save_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Writes netCDF-4, compressed, with the checksum at its end that `load_netcdf` asks for."""
    encoding = {
        name: {"zlib": True, "complevel": 1, "shuffle": True}
        for name, variable in dataset.data_vars.items()
        if variable.ndim > 2
    }
    with atomic_path(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
        seal(temporary)


def save_json(content: dict[str, Any], path: Path) -> None:
    """Writes a JSON file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def load_run(folder: str | Path) -> xr.Dataset:
    """Reads a run's results into memory.

    The file's checksum is verified first, since the HDF5 library may crash or never return on
    damaged bytes.

    Args:
        folder: The run's folder, or its ``results.nc``.

    Returns:
        The labelled results, see `label_results`.

    Raises:
        DataError: If there are none, the file is damaged, or it is not one of ours.
    """
    path = Path(folder)
    try:
        path = path / RESULTS_FILE if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no such file; --run takes the output folder of a sweep")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    results = load_netcdf(path)
    reason = _unsound(results)
    if reason:
        raise DataError(f"{path}: not a sweep's results ({reason})")
    return results


def load_netcdf(path: Path) -> xr.Dataset:
    """Reads into memory what `save_netcdf` wrote, and nothing else.

    Raises:
        DataError: If the file is damaged or another's.
    """
    try:
        size = path.stat().st_size
        if not is_sealed(path):
            raise DataError(
                f"{path}: damaged, or not written by a sweep (its checksum does not fit its "
                "contents): train the run again, with --overwrite"
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            if stored.nbytes > _MAX_RATIO * size:
                raise DataError(f"{path}: not a sweep's results ({stored.nbytes:,} bytes unpacked)")
            return stored.load()
    except DataError:
        raise
    except Exception as error:  # whatever h5netcdf, h5py and xarray raise
        raise DataError(f"{path}: not a readable netCDF-4 file ({error})") from None


_CURVE = ("model", "learning_rate", "seed", "step")

# Dimensions, and which numbers are allowed (NaN compares false with everything).
_VARIABLES = {
    "loss": (_CURVE, lambda v: v > -np.inf),
    "excess_loss": (_CURVE, lambda v: v > -np.inf),
    "held_out_loss": (_CURVE, lambda v: v > -np.inf),
    "steps_to_target": (_CURVE[:3], lambda v: v >= 0),
    "divergence_step": (_CURVE[:3], lambda v: np.isnan(v) | (v >= 0)),
    "optimum": (("model",), lambda v: (v >= 0) & (v < np.inf)),
    "target": (("model",), lambda v: (v >= 0) & (v < np.inf)),
    "resolution": (("model",), lambda v: (v >= 0) & (v < np.inf)),
    "learning_rate": (("learning_rate",), lambda v: (v > 0) & (v < np.inf)),
    "seed": (("seed",), lambda v: v >= 0),
    "step": (("step",), lambda v: (v[0] == 0) & np.all(v[1:] > v[:-1])),
    "depth": (("model",), lambda v: v >= 1),
    "init_std": (("model",), lambda v: np.isnan(v) | ((v >= 0) & (v < np.inf))),
    "weight_decay": (("model",), lambda v: (v >= 0) & (v < np.inf)),
}


def _unsound(results: xr.Dataset) -> str:
    """Why a dataset is not one of `label_results`; empty if it is."""
    if str(results.attrs.get("format")) != FORMAT:
        return f"expected format {FORMAT!r}"
    if not is_printable(results.attrs.get("title")):
        return "no title"
    num_steps = results.attrs.get("num_steps")
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        return "no number of steps"
    for name, (dims, allowed) in _VARIABLES.items():
        if name == "held_out_loss" and name not in results.variables:
            continue
        if name not in results.variables or results[name].dims != dims:
            return f"no {name} over {', '.join(dims)}"
        values = results[name].values
        whole = name in ("seed", "step", "depth")
        if values.dtype.kind not in ("iu" if whole else "iuf") or not values.size:
            return f"{name} holds no numbers"
        if not np.all(allowed(values)):
            return f"{name} holds numbers that are out of range"
    if results["step"].values[-1] != num_steps:
        return "the last step is missing"
    for name in ("loss_name", "init", "optimizer", "hidden_widths"):
        if name not in results.variables or results[name].dims != ("model",):
            return f"no {name} over model"
    for m in range(results.sizes["model"]):
        row = {name: results[name].values[m] for name in MODEL_COORDINATES}
        if row["init"] not in INITIALISERS or row["optimizer"] not in OPTIMIZERS:
            return "unknown initialiser or optimizer"
        widths = str(row["hidden_widths"]).split("x") if row["depth"] > 1 else []
        if (not widths and row["hidden_widths"] != "-") or len(widths) != row["depth"] - 1:
            return "hidden widths that do not fit the depth"
        if not all(width.isascii() and width.isdigit() for width in widths):
            return "hidden widths that are no numbers"
        try:
            if Loss.parse(str(row["loss_name"])).name != row["loss_name"]:
                return "unknown loss"
        except UserError:
            return "unknown loss"
    return ""
