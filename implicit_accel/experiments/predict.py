"""Predicts a sweep of linear networks without training it.

python -m experiments.predict --dataset gas
python -m experiments.predict --losses l2,l3,l4 --depths 1,2,3,4 --target 1%
python -m experiments.predict --dataset gas --losses l4 --at 0.001,0.00418

Takes the flags of experiments.sweep that say what is trained, and predicts for every model the
largest stable learning rate, the steps to the target at the best stable rate of the grid, and the
speed-up over one layer. It integrates each network's gradient flow once, with the sharpness on the
way. A second table has the speed-up of depth at stable rates, by a formula. With --at, rates past
the edge of stability that oscillate have a range of steps, by the central flow.
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

from implicit_accel.errors import UserError
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiments import cli, settings
from implicit_accel.experiments import executor as executors
from implicit_accel.experiments.predictions import (
    as_text,
    predictions,
    print_predictions,
    print_speed_ups,
    save_table,
    speed_up_table,
)
from implicit_accel.linear.config import parse_learning_rates
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
    found = cli.FlagGroups({k: list(v) for k, v in settings.DECLARED_GROUPS.groups.items()})
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


def main() -> None:
    """Flags, configuration, predictions, tables."""
    console, log = cli.make_console(), cli.make_console(stderr=True)
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
    if _OUTPUT.value:
        path = Path(_OUTPUT.value)
        try:
            save_table(table, path)
        except OSError as error:
            raise UserError(f"--output {path}: {error.strerror}; choose another file") from None


if __name__ == "__main__":
    cli.run(main, groups(), __doc__ or "")
