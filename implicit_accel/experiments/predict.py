"""Predicts a sweep of linear networks without training it.

python -m experiments.predict --dataset gas
python -m experiments.predict --losses l2,l3,l4 --depths 1,2,3,4 --target 1%
python -m experiments.predict --dataset gas --losses l4 --at 0.001,0.00418
python -m experiments.predict --task my_model.py:task --optimizers sgd,adam

Takes the flags of experiments.sweep that say what is trained, and predicts for every model the
largest stable learning rate, the steps to the target at the best stable rate of the grid, and the
speed-up over one layer. It integrates each network's gradient flow once, with the sharpness on the
way. A second table has the speed-up of depth at stable rates, by a formula. With --at, rates past
the edge of stability that oscillate have a range of steps, by the central flow.

With --task, a model of your own has no such theory: printed are the largest stable learning rates
for each optimizer, from its curvature and short trainings of --num_steps steps (100 unless given)
with --num_seeds seeds (3 unless given). The task's file is run: name only files that you trust.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags
from rich.console import Console
from rich.table import Table

from implicit_accel.devices import use_cpu_devices
from implicit_accel.errors import UserError
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiments import cli, compilation, settings
from implicit_accel.experiments import executor as executors
from implicit_accel.experiments.predictions import (
    as_text,
    predictions,
    print_predictions,
    print_speed_ups,
    print_stable_rates,
    save_table,
    speed_up_table,
    stable_rate_table,
)
from implicit_accel.linear.config import parse_learning_rates
from implicit_accel.stable_rates import stable_rate
from implicit_accel.theory.predict import Predictions
from implicit_accel.theory.speed_up import is_predicted, predict_speed_up

_AT = flags.DEFINE_list(
    "at",
    [],
    "Learning rates to predict more for: the steps to the target, the step at which the rate "
    "passes the edge of stability, and whether it then oscillates or diverges.",
)
_OUTPUT = flags.DEFINE_string("output", None, "A file for the table.")


def groups() -> cli.FlagGroups:
    """This program's flags."""
    declared = (settings.DECLARED_GROUPS, settings.TASK_GROUPS)
    found = cli.FlagGroups({k: list(v) for each in declared for k, v in each.groups.items()})
    found.add("Prediction", _AT, _OUTPUT)
    executors.add_flags(found)
    return found


def at_rates(found: Predictions, rates: tuple[float, ...]) -> pd.DataFrame:
    """Every model at given rates."""
    rows = []
    for m, prediction in enumerate(found.models):
        for rate in rates:
            row = {"model": prediction.label, "learning_rate": rate}
            steps, after = (math.nan, math.nan) if prediction.reason else prediction.typical(rate)
            then = found.then(m, rate) if math.isfinite(after) else ""
            is_past = then == "oscillates" and math.isnan(steps)
            least, most = found.past_edge(m, rate) if is_past else (math.nan, math.nan)
            rows.append(row | {
                "steps": steps, "first_touch_from": least, "first_touch_to": most,
                "unstable_after": after, "then": then,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _steps_text(row: dict[Hashable, Any]) -> str:
    """The steps, or between which steps a rate past the edge first touches the target."""
    steps, least, most = row["steps"], row["first_touch_from"], row["first_touch_to"]
    if not math.isnan(steps) or math.isnan(row["unstable_after"]):
        return as_text(steps, ",.0f")
    if math.isnan(least):
        return "past the edge"
    return f"{as_text(least, ',.0f')} to {as_text(most, ',.0f')}"


def print_rates(table: pd.DataFrame, console: Console) -> None:
    """The table of `at_rates`."""
    shown = Table(title="At given learning rates", title_justify="left")
    for name in ("model", "learning rate", "steps to target", "unstable after", "then it"):
        shown.add_column(name, justify="left" if name in ("model", "then it") else "right")
    for row in table.to_dict("records"):
        after = row["unstable_after"]
        shown.add_row(
            row["model"],
            as_text(row["learning_rate"]),
            _steps_text(row),
            as_text(after, ",.0f"),
            row["then"],
        )  # fmt: skip
    console.print(shown)


def stable_rates_of_task(place: str, console: Console, log: Console) -> pd.DataFrame:
    """Estimates the stable rates of a task, and prints them.

    Args:
        place: The value of ``--task``.
        console: For the table.
        log: For progress.

    Raises:
        UserError: If a flag is not allowed, or an estimate is not possible.
    """
    for holder in (_AT, executors.WORKERS, executors.SCHEDULER):
        if holder.value:
            raise UserError(f"--{holder.name} is of linear networks on a dataset: leave it out")
    # Before the task's file is run, which may compute.
    use_cpu_devices(None)
    asked = settings.build_stable_rates(place)
    compilation.keep_programs(compilation.asked_for())
    pairs = [(name, at) for at in asked.settings for name in asked.optimizers]
    found = []
    with cli.progress_bar(log, "short trainings", "compiling …") as report:
        for number, (name, at) in enumerate(pairs):
            rate = stable_rate(asked.task, asked.optimizers[name], at=at, **asked.options)
            found.append((name, at, rate))
            report(number + 1, len(pairs))
    table = stable_rate_table(found)
    print_stable_rates(table, f"{asked.task.name}: {asked.task.num_rows:,} rows", console)
    return table


def main() -> None:
    """Flags, configuration, predictions, tables."""
    console, log = cli.make_console(), cli.make_console(stderr=True)
    if settings.TASK.value is not None:
        save(stable_rates_of_task(settings.TASK.value, console, log))
        return
    rates = parse_learning_rates(_AT.value)
    if any(not 0 < rate < math.inf for rate in rates):
        raise UserError("--at: learning rates must be numbers above 0")
    asked = settings.build(log)
    with executors.opened(log, lambda: LocalExecutor(())) as executor:
        found = predictions(asked.grid, log, executor)
    table = found.table()
    print_predictions(table, f"{asked.title}: {asked.described}", console)
    deep = [m for m in found.models if is_predicted(m.model, found.config)]
    if deep:
        with cli.progress_bar(log, "speed-ups") as report:
            speed_ups = []
            for number, prediction in enumerate(deep):
                report(number, len(deep))
                speed_ups.append(predict_speed_up(found.problem, prediction.model, found.config))
            report(len(deep), len(deep))
        print_speed_ups(speed_up_table(speed_ups, [m.label for m in deep]), console)
    if rates:
        print_rates(at_rates(found, rates), console)
    save(table)


def save(table: pd.DataFrame) -> None:
    """Writes the table to the file that ``--output`` names, if any.

    Raises:
        UserError: If it cannot be written.
    """
    if _OUTPUT.value:
        path = Path(_OUTPUT.value)
        try:
            save_table(table, path)
        except OSError as error:
            raise UserError(f"--output {path}: {error.strerror}; choose another file") from None


if __name__ == "__main__":
    cli.run(main, groups(), __doc__ or "")
