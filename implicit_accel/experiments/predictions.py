"""Predictions of a sweep, as the programs make, print and save them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from implicit_accel.errors import UserError
from implicit_accel.executors import Executor
from implicit_accel.experiment import Experiment
from implicit_accel.experiments import cli
from implicit_accel.exports import csv_text
from implicit_accel.files import atomic_path
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.stable_rates import StableRate
from implicit_accel.theory.predict import Predictions, predict
from implicit_accel.theory.speed_up import PredictedSpeedUp

# From here on a number's size is all that one reads of it.
_LARGE = 1e9


def predictions(
    experiment: Experiment, log: Console, executor: Executor | None = None
) -> Predictions:
    """Predicts what flags ask for, with a bar.

    Args:
        experiment: A sweep of linear networks.
        log: For the bar.
        executor: See `predict`.

    Raises:
        UserError: If it is no sweep of linear networks.
    """
    if not isinstance(experiment, LinearSweep):
        raise UserError("predictions are of linear networks on a dataset, not of a --task")
    with cli.progress_bar(log, "gradient flows") as report:
        return predict(
            experiment.problem,
            experiment.config,
            executor=executor,
            progress=lambda share: report(round(1000 * share), 1000),
        )


def as_text(value: float, form: str = ".3g") -> str:
    """A number for a table; a dash for none."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "never"
    return format(value, form if abs(value) < _LARGE else ".3g")


def print_predictions(table: pd.DataFrame, title: str, console: Console) -> None:
    """The table of a grid's predictions."""
    shown = Table(title=title, title_justify="left", caption_justify="left")
    for name in (
        "model", "largest stable\nlearning rate", "best of the grid", "steps to target\nat it",
        "speed-up over\ndepth 1", "unstable after", "note",
    ):  # fmt: skip
        shown.add_column(name, justify="left" if name in ("model", "note") else "right")
    for row in table.to_dict("records"):
        shown.add_row(
            row["model"],
            as_text(row["largest_stable_rate"]),
            as_text(row["best_rate"]),
            as_text(row["steps"], ",.0f"),
            as_text(row["speed_up"]),
            as_text(row["unstable_after"], ",.0f"),
            row["note"],
        )
    shown.caption = (
        "Predicted, not trained; medians over seeds. Steps are the gradient flow's time over the "
        "learning rate. Unstable after: the step at which the sharpness exceeds the threshold."
    )
    console.print(shown)


def speed_up_table(found: Sequence[PredictedSpeedUp], labels: Sequence[str]) -> pd.DataFrame:
    """The formula's parts for each deep model, medians over seeds.

    Args:
        found: The predictions.
        labels: The models' names in tables.
    """
    rows = []
    for each, label in zip(found, labels, strict=True):
        values = each.values
        rows.append(
            {
                "model": label,
                "one_layer_rate": float(np.median(each.one_layer_rate)),
                "rate": float(np.median(each.rate)),
                "one_layer_steps": float(np.median(each.one_layer_time / each.one_layer_rate)),
                "steps": float(np.median(each.time / each.rate)),
                "speed_up": each.value,
                "lowest": float(values.min()),
                "highest": float(values.max()),
            }
        )
    return pd.DataFrame(rows)


def print_speed_ups(table: pd.DataFrame, console: Console) -> None:
    """The table of `speed_up_table`."""
    shown = Table(
        title="Speed-up of depth at stable rates, from the same initial end-to-end weights",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in (
        "model", "one layer's\nlargest stable rate", "its own, to\nthe last step",
        "one layer's\nsteps", "its own\nsteps", "speed-up\n(range over seeds)",
    ):  # fmt: skip
        shown.add_column(name, justify="left" if name == "model" else "right")
    for row in table.to_dict("records"):
        ends = f"{as_text(row['lowest'])} to {as_text(row['highest'])}"
        shown.add_row(
            row["model"], as_text(row["one_layer_rate"]), as_text(row["rate"]),
            as_text(row["one_layer_steps"], ",.0f"), as_text(row["steps"], ",.0f"),
            f"{as_text(row['speed_up'])} ({ends})",
        )  # fmt: skip
    shown.caption = (
        "Predicted by a formula (theory/speed_up.py), medians over seeds. On l2 it is several "
        "times too low, since training past the edge of stability survives."
    )
    console.print(shown)


def stable_rate_table(
    found: Sequence[tuple[str, Mapping[str, Any], StableRate]],
) -> pd.DataFrame:
    """Stable rates as a table.

    Args:
        found: The optimizer's name, the further hyper-parameters, and what `stable_rate` returns.
    """
    rows = []
    for optimizer, at, rate in found:
        rows.append(
            {
                "optimizer": optimizer,
                **at,
                "critical_rate": rate.critical_at_start,
                "lanczos_rate": rate.lanczos_at_start,
                "stable_rate": rate.rate,
                "is_lower_bound": rate.is_lower_bound,
                "lowest": float(np.nanmin(rate.rates)),
                "highest": float(np.nanmax(rate.rates)),
                "num_seeds": len(rate.rates),
                "num_steps": rate.num_steps,
                "forward_passes": rate.cost.forward_passes,
                "gradients": rate.cost.gradients,
                "products": rate.cost.products,
            }
        )
    return pd.DataFrame(rows)


def print_stable_rates(table: pd.DataFrame, title: str, console: Console) -> None:
    """A sentence for each row of `stable_rate_table`, and the table."""
    last = table.columns.get_loc("critical_rate")
    axes = [str(name) for name in table.columns[1:last]]
    shown = Table(title=title, title_justify="left", caption_justify="left")
    names = ("critical rate\nat the start", "Lanczos rate\nat the start", "largest stable rate",
             "range over\nseeds", "gradients")  # fmt: skip
    for name in ("optimizer", *axes, *names):
        shown.add_column(name, justify="left" if name == "optimizer" else "right")
    for row in table.to_dict("records"):
        at = [f"{name} {row[name]}" for name in axes]
        rate = as_text(row["stable_rate"])
        bound = "at least " if row["is_lower_bound"] else ""
        tested = f"tested over {row['num_steps']:,} steps" if row["num_steps"] else "not tested"
        console.print(
            f"→ {', '.join([row['optimizer'], *at])}: stable up to a learning rate of {bound}{rate}"
            f" ({tested}).",
            soft_wrap=True,
        )
        ends = f"{as_text(row['lowest'])} to {as_text(row['highest'])}"
        cost = row["gradients"] + 2 * row["products"]
        shown.add_row(
            row["optimizer"], *(str(row[name]) for name in axes), as_text(row["critical_rate"]),
            as_text(row["lanczos_rate"]), f"{bound}{rate}", ends, f"{cost:,}",
        )  # fmt: skip
    shown.caption = (
        "Stable: the loss does not blow up, and falls at least half as far as at the best rate; a "
        "sweep's stable runs must also be at or below the target at the last step. "
        "Medians over seeds. At the start one step raises the loss above the critical rate; the "
        "Lanczos rate is the optimizer's threshold over the sharpness. Over more steps it may be "
        "another one. Gradients count a Hessian product as two."
    )
    console.print(shown)


def print_beside(table: pd.DataFrame, console: Console) -> None:
    """Predicted beside measured."""
    shown = Table(title="Predicted and measured, at the best rate measured", title_justify="left")
    for name in (
        "model", "learning rate", "largest stable\nrate predicted", "steps\npredicted",
        "steps\nmeasured", "error", "unstable after\npredicted", "diverged at\nmeasured", "note",
    ):  # fmt: skip
        shown.add_column(name, justify="left" if name in ("model", "note") else "right")
    for row in table.to_dict("records"):
        error = row["error"]
        shown.add_row(
            row["model"],
            as_text(row["learning_rate"]),
            as_text(row["largest_stable_rate"]),
            as_text(row["predicted_steps"], ",.0f"),
            as_text(row["measured_steps"], ",.0f"),
            "-" if not math.isfinite(error) else f"{100 * error:+.1f} %",
            as_text(row["predicted_instability"], ",.0f"),
            as_text(row["measured_divergence"], ",.0f"),
            row["note"],
        )
    console.print(shown)


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table, or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(csv_text(table), encoding="utf-8")
