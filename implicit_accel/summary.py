"""A summary table in words: the cells that are shown of it, and the answer in sentences.

Programs print them, and pages show them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_accel.files import printable
from implicit_accel.intervals import MIN_SEEDS
from implicit_accel.results import coordinate_label
from implicit_accel.statistics import BEST_BY_WORDS, bounded, compares_final, is_floored


def columns(table: pd.DataFrame) -> list[str]:
    """What is above the `cells` of a table from `summarise`; some in two lines."""
    base, loss = _baseline_words(table), _loss_words(table)
    compared = (
        f"final {loss} of {base}\nover the model's " if compares_final(table)
        else f"speed-up over {base}\n"
    )  # fmt: skip
    return [
        "model",
        "best learning rate",
        f"final {loss}\n[quartiles]",
        "steps to target\n[quartiles]",
        f"{compared}{'(range over seeds)' if _is_range(table) else '[95 % interval]'}",
        "diverged at it, %\n[95 % interval]",
        "diverged\nat all rates",
    ]


def caption(table: pd.DataFrame) -> str:
    """What was run, and what a reader of the cells must know."""
    return " ".join([_what_was_run(table), *_notes(table)])


def _baseline_words(table: pd.DataFrame) -> str:
    """What models are compared with: ``depth 1``."""
    wanted = table.attrs.get("baseline", {})
    words = (coordinate_label(name, value) for name, value in wanted.items())
    return printable(", ".join(words)) or "a baseline"


def _loss_words(table: pd.DataFrame) -> str:
    """What a final excess loss is: without a known optimum it is the loss itself."""
    return "excess loss" if table.attrs.get("is_optimum_known", True) else "loss"


def _is_past_edge(row: pd.Series) -> bool:
    """Whether a row's rate is known to pass the edge of stability; not in older tables."""
    past = row.get("past_edge")
    return bool(pd.notna(past) and past)


def _has_target(row: pd.Series) -> bool:
    """Whether a row's model had a target; 0 is what older results hold without one."""
    return bool(pd.notna(row["target"]) and row["target"] != 0)


def _what_was_run(table: pd.DataFrame) -> str:
    losses: Sequence[str] = (
        table["loss_name"].tolist() if "loss_name" in table else [""] * len(table)
    )
    seeds, steps = int(table["num_seeds"].iloc[0]), int(table["num_steps"].iloc[0])
    targets = dict.fromkeys(
        f"{loss} {target:.3g}".strip()
        for loss, target in zip(losses, table["target"].astype(float), strict=True)
        if target == target and target != 0
    )
    what = f"Target {_loss_words(table)}: {', '.join(targets)}." if targets else "No target."
    return (
        f"Medians over {seeds} seed{'s' if seeds > 1 else ''}, {steps:,} steps. {_rule(table)}"
        f"{what}"
    )


def _rule(table: pd.DataFrame) -> str:
    """By which rule learning rates were chosen, a sentence; empty for tables without the record."""
    if "best_by" not in table:
        return ""
    rule = str(table["best_by"].iloc[0])
    if not any(_has_target(table.iloc[m]) for m in range(len(table))):
        rule = "final"
    return f"Best learning rate: {BEST_BY_WORDS.get(rule, rule)}. "


def _notes(table: pd.DataFrame) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    if evaluated := table.attrs.get("evaluated"):
        notes.append(f"Losses are evaluated {evaluated}.")
    if set(table["grid_edge"]) != {""}:
        notes.append("* at the edge of the grid of learning rates: widen it.")
    if any(_is_past_edge(table.iloc[m]) for m in range(len(table))):
        other = "float32" if table.attrs.get("precision") == "float64" else "float64"
        notes.append(
            "† past the edge of stability (ηλ > 2 for gradient descent) by losses, recorded "
            "sharpness or the gradient flow's: steps may depend on rounding; compare "
            f"--precision {other}."
        )
    reached = np.isfinite(table["steps_to_target"].to_numpy(float))
    if (reached & ~np.isfinite(table["final_excess"].to_numpy(float))).any():
        notes.append(
            "Final loss 'diverged': by the last step, after the target "
            "(--best_by stable avoids it)."
        )
    if any(is_floored(table.iloc[m]) for m in range(len(table))):
        notes.append("'<': smaller than the precision resolves.")
    if np.any((table["target"] < table["resolution"]) & (table["target"] > 0)):
        notes.append("The target is below what the precision resolves: use --precision float64.")
    return notes


def cells(table: pd.DataFrame, m: int) -> list[str]:
    """A model's row as it is shown, under `columns`."""
    row = table.iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    if row["baseline"] == row["model"]:
        ratio = "1 (baseline)"
    elif pd.isna(value):
        ratio = "-"
    else:
        ratio = f"{bound} {value:.3g}".strip()
        if not bound and pd.notna(low):
            ends = f"{low:.3g}", f"{high:.3g}"
            ratio += f"  ({ends[0]} to {ends[1]})" if _is_range(table) else f"  [{', '.join(ends)}]"
    if pd.notna(row["best_learning_rate"]):
        rate = f"{row['best_learning_rate']:.3g}{' *' if row['grid_edge'] else ''}"
        rate += " †" if _is_past_edge(row) else ""
    else:
        lost = np.isinf(row["final_excess"]) and np.isinf(row["steps_to_target"])
        rate = "every rate diverges" if lost else "-"
    return [
        str(row["model"]),
        rate,
        _with_quartiles(row, "final_excess", "{:.3g}"),
        _with_quartiles(row, "steps_to_target", "{:.0f}"),
        ratio,
        _divergence(row),
        f"{row['num_diverged']} of {row['num_runs']}",
    ]


def _divergence(row: pd.Series) -> str:
    """The probability of divergence at the chosen rate: ``0 [0, 43], 5 later``."""
    ends = ("", "_low", "_high")
    share, low, high = (100 * _number(row, f"diverged_share{end}") for end in ends)
    if not np.isfinite(share):
        return "-"
    later = int(_number(row, "num_diverged_later"))
    return f"{share:.3g} [{low:.2g}, {high:.2g}]" + (f", {later} later" if later else "")


def _number(row: pd.Series, name: str) -> float:
    value: Any = row[name]
    return float(value)


def _is_range(table: pd.DataFrame) -> bool:
    """Whether comparisons come with the range over seeds, too few for an interval."""
    return int(table["num_seeds"].iloc[0]) < MIN_SEEDS


def _interval(table: pd.DataFrame, m: int) -> tuple[float, float]:
    """The ends of the interval of a model's comparison with its baseline."""
    compared = "final_ratio" if compares_final(table) else "speed_up"
    return float(table[f"{compared}_low"].iloc[m]), float(table[f"{compared}_high"].iloc[m])


def _with_quartiles(row: pd.Series, name: str, form: str) -> str:
    def show(value: float) -> str:
        if value == float("inf"):
            if name != "steps_to_target":
                return "diverged"
            return "never" if _has_target(row) else "-"
        resolution = _number(row, "resolution")
        below = name == "final_excess" and resolution > 0 and value <= resolution
        return ("< " if below else "") + form.format(value)

    middle, low, high = (show(_number(row, name + end)) for end in ("", "_q25", "_q75"))
    return middle if low == high == middle else f"{middle} [{low}, {high}]"


def answers(table: pd.DataFrame) -> list[str]:
    """The question answered in words: which model won, by how much, how surely.

    One sentence for each group of models that share a baseline. They are compared by what their
    learning rates were chosen by: steps to the target, or final excess losses.
    """
    sentences = []
    by_depth = table.attrs.get("baseline") == {"depth": 1}
    final = compares_final(table)
    labels = table["model"].tolist()
    chosen_by = table["final_excess" if final else "steps_to_target"].to_numpy(float)
    for baseline, group in table.groupby("baseline", sort=False):
        others = [int(m) for m in group.index if labels[int(m)] != baseline]
        if not baseline or not others:
            continue
        best = min(others, key=lambda m: chosen_by[m])
        verdict = (_final_verdict if final else _steps_verdict)(
            table, best, str(baseline), "deeper" if by_depth else "other"
        )
        at_edge = group[group["grid_edge"] != ""]["model"].tolist()
        note = (
            f"; not at their best rate (edge of the grid): {', '.join(at_edge)}" if at_edge else ""
        )
        sentences.append(f"{verdict}{note}.")
    return sentences


def _no_help(model: str, other: str) -> str:
    """How a sentence begins that says that no model is better than its baseline."""
    what = "depth does not help" if other == "deeper" else "the baseline is best"
    return f"{what}: the best {other} model, {model},"


def _between(table: pd.DataFrame, low: float, high: float) -> str:
    if pd.isna(low):
        return ""
    if _is_range(table):
        return f" ({low:.3g} to {high:.3g} over {table['num_seeds'].iloc[0]} seeds)"
    return f" (95 % interval {low:.3g} to {high:.3g})"


def _inverse(value: float) -> float:
    return 1 / value if value else float("inf")


def _steps_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """How the best other model's steps to the target compare with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    if not _has_target(table.iloc[m]):
        return "no target was set, so that no steps are compared: set one, or compare final losses"
    if pd.isna(value):
        return f"neither {baseline} nor any {other} model reached the target"
    if bound == ">":
        return f"{model} reached the target and {baseline} did not: at least {value:.3g}x faster"
    if bound == "<":
        return f"{baseline} reached the target and no {other} model did"
    if low <= 1 <= high:
        return (
            f"no clear difference: {model} is {value:.3g}x as fast as "
            f"{baseline}{_between(table, low, high)}"
        )
    if value >= 1:
        return f"{model} is {value:.3g}x faster than {baseline}{_between(table, low, high)}"
    return (
        f"{_no_help(model, other)} needs {1 / value:.3g}x the steps of {baseline}"
        f"{_between(table, _inverse(high), _inverse(low))}"
    )


def _final_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """How the best other model's final excess loss compares with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    least = "at least " if bound else ""
    ends = [_number(r, "final_excess") for r in (_row_of(table, baseline), table.iloc[m])]
    if min(ends) < 0:  # losses above no known optimum have no ratio
        return f"{model} ends at a loss of {ends[1]:.4g}, {baseline} at {ends[0]:.4g}"
    if pd.isna(value):
        return f"neither {baseline} nor any {other} model ends at a finite loss"
    if np.isinf(value):
        return f"{model} ends at a finite loss and {baseline} diverges"
    if value == 0:
        return f"{baseline} ends at a finite loss and every {other} model diverges"
    if not bound and low <= 1 <= high:
        return (
            f"no clear difference: {model} ends at an excess loss {_inverse(value):.3g}x that of "
            f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
        )
    if value >= 1:
        return (
            f"{model} ends at an excess loss {least}{value:.3g}x lower than {baseline}"
            f"{_between(table, low, high)}"
        )
    return (
        f"{_no_help(model, other)} ends at an excess loss {least}{1 / value:.3g}x higher than "
        f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
    )


def _row_of(table: pd.DataFrame, model: str) -> pd.Series:
    return table[table["model"] == model].iloc[0]


def is_summary(table: pd.DataFrame) -> bool:
    """Whether a table is one of `summarise`."""
    return {"model", "baseline", "best_learning_rate", "grid_edge", "num_reached"} <= {*table}


def with_interval(value: object, low: float = math.nan, high: float = math.nan) -> str:
    """A value as tables show it, its interval behind it if it has one: ``4.15 [4.13, 4.18]``."""
    if not isinstance(value, float):
        return str(value)
    text, *ends = (
        "-" if math.isnan(x) else "∞" if math.isinf(x) else f"{x:.3g}" for x in (value, low, high)
    )
    return text if "-" in ends else f"{text} [{', '.join(ends)}]"
