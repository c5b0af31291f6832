"""The summary table as text: its cells, its caption, and the result in sentences.

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
    """Headings of the `cells` of a table from `summarise`; some have two lines."""
    base, loss = _baseline_words(table), _loss_words(table)
    later = bool((table["num_diverged_later"] > 0).any())
    spread = "(range)" if _is_range(table) else "[95 % interval]"
    compared = (
        f"final {loss} of {base}\nover the model's " if compares_final(table)
        else f"speed-up over {base}\n"
    )  # fmt: skip
    return [
        "model",
        "best learning rate",
        f"final {loss}\n[quartiles]",
        "steps to target\n[quartiles]",
        f"{compared}{spread}",
        _counted_words(table) + (" before\n(after) the target" if later else ""),
        "diverged\nat all rates",
    ]


def _counted_words(table: pd.DataFrame) -> str:
    """Which runs are counted as diverged at the best rate, see `statistics.counts_as_diverged`."""
    return f"{'unstable runs' if _counts_unstable(table) else 'runs that diverged'}\nat this rate"


def _counts_unstable(table: pd.DataFrame) -> bool:
    return "best_by" in table and str(table["best_by"].iloc[0]) == "stable"


def caption(table: pd.DataFrame) -> str:
    """What was run, and notes on the cells."""
    return " ".join([_what_was_run(table), *_notes(table)])


def _baseline_words(table: pd.DataFrame) -> str:
    """The baseline as text: ``depth 1``."""
    wanted = table.attrs.get("baseline", {})
    words = (coordinate_label(name, value) for name, value in wanted.items())
    return printable(", ".join(words)) or "a baseline"


def _loss_words(table: pd.DataFrame) -> str:
    """What final losses are called: without a known optimum they are no excess losses."""
    return "excess loss" if table.attrs.get("is_optimum_known", True) else "loss"


def _is_past_edge(row: pd.Series) -> bool:
    """Whether a row's rate is known to pass the edge of stability; not in older tables."""
    past = row.get("past_edge")
    return bool(pd.notna(past) and past)


def _has_target(row: pd.Series) -> bool:
    """Whether a row's model had a target; older results without one contain 0."""
    return bool(pd.notna(row["target"]) and row["target"] != 0)


def _what_was_run(table: pd.DataFrame) -> str:
    """Seeds, steps, rule and targets, in sentences."""
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
    """The rule by which learning rates were chosen, a sentence; empty where it is not known."""
    if "best_by" not in table:
        return ""
    rule = str(table["best_by"].iloc[0])
    if not any(_has_target(table.iloc[m]) for m in range(len(table))):
        rule = "final"
    words = BEST_BY_WORDS.get(rule, rule)
    if rule == "stable":  # with more steps, rates next to the edge of divergence drop out
        words += f" (at or below it at step {int(table['num_steps'].iloc[0]):,})"
    return f"Best learning rate: {words}. "


def _notes(table: pd.DataFrame) -> list[str]:
    """Explanations of the marks in a table."""
    notes = []
    if evaluated := table.attrs.get("evaluated"):
        notes.append(f"Losses are evaluated {evaluated}.")
    is_compared = any(baseline for baseline in table["baseline"])
    if _is_range(table) and int(table["num_seeds"].iloc[0]) > 1 and is_compared:
        notes.append(f"Ranges are over {ranged(table)}.")
    if set(table["grid_edge"]) != {""}:
        notes.append("* at the edge of the grid of learning rates: widen it.")
    if any(_is_past_edge(table.iloc[m]) for m in range(len(table))):
        other = "float32" if table.attrs.get("precision") == "float64" else "float64"
        notes.append(
            "† past the edge of stability (ηλ > 2 for gradient descent), according to losses, "
            "recorded sharpness or the gradient flow's sharpness: steps may depend on rounding; "
            f"compare --precision {other}."
        )
    has_unstable = bool(np.any(table["diverged_share"].to_numpy(float) > 0))
    if has_unstable and _counts_unstable(table):
        notes.append("Unstable: diverged, or above the target again at the last step.")
    reached = np.isfinite(table["steps_to_target"].to_numpy(float))
    if (reached & ~np.isfinite(table["final_excess"].to_numpy(float))).any():
        notes.append(
            "'diverged': the run reached the target and blew up later (--best_by stable avoids it)."
        )
    if any(is_floored(table.iloc[m]) for m in range(len(table))):
        notes.append("'<': smaller than the precision resolves.")
    if np.any((table["target"] < table["resolution"]) & (table["target"] > 0)):
        notes.append("The target is below what the precision resolves: use --precision float64.")
    return notes


def cells(table: pd.DataFrame, m: int) -> list[str]:
    """A model's row as text, under the headings of `columns`."""
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
        diverged = np.isinf(row["final_excess"]) and np.isinf(row["steps_to_target"])
        rate = "every rate diverges" if diverged else "-"
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
    """Diverged runs at the best rate, before and after the target: ``0 of 5 (4 of 5)``."""
    share, seeds = _number(row, "diverged_share"), int(_number(row, "num_seeds"))
    if not np.isfinite(share):
        return "-"
    later = int(_number(row, "num_diverged_later"))
    return f"{round(share * seeds)} of {seeds}" + (f" ({later} of {seeds})" if later else "")


def _number(row: pd.Series, name: str) -> float:
    value: Any = row[name]
    return float(value)


def _is_range(table: pd.DataFrame) -> bool:
    """Whether comparisons have the range over seeds, because seeds are too few for an interval."""
    return int(table["num_seeds"].iloc[0]) < MIN_SEEDS


def ranged(table: pd.DataFrame, seeds: str = "seeds") -> str:
    """What the ranges of comparisons are over, see `statistics.speed_up`.

    Args:
        table: From `summarise`.
        seeds: What seeds are called.
    """
    has_halves = bool((table["num_runs"] >= MIN_SEEDS * table["num_seeds"]).any())
    return f"{seeds} and half grids" if has_halves and not compares_final(table) else seeds


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
    """The result in words: the best model, its gain over the baseline, and the uncertainty.

    One sentence for each group of models that share a baseline, gains first. They are compared by
    the quantity that chose their learning rates: steps to the target, or final excess losses.
    """
    gains, rest = [], []
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
        note = f"; better rates may lie outside the grid: {', '.join(at_edge)}" if at_edge else ""
        found = gains if _interval(table, best)[0] > 1 else rest
        found.append(f"{verdict}{_first_touch(table, best)}{note}.")
    return gains + rest


# Speed-ups by the two rules which are this close are called equal.
_EQUAL = 0.05


def _first_touch(table: pd.DataFrame, m: int) -> str:
    """The speed-up among all runs, where it differs from that among stable ones."""
    if "first_touch_speed_up" not in table:
        return ""
    first, stable = (_number(table.iloc[m], n) for n in ("first_touch_speed_up", "speed_up"))
    if not 0 < first < math.inf or abs(first - stable) <= _EQUAL * stable:
        return ""
    touch = "to the first touch of the target, by runs that may diverge later"
    return f"; a speed-up of {first:.3g}× {touch}"


def _no_help(model: str, other: str) -> str:
    """The beginning of a sentence which says that no model is better than its baseline."""
    what = "Depth does not help" if other == "deeper" else "The baseline is best"
    return f"{what}: the best {other} model, {model},"


def _interval_words(table: pd.DataFrame, ends: str) -> str:
    """The ends of an interval with its kind: ``95 % interval 3.1 to 3.9``."""
    if _is_range(table):
        return f"{ends} over {ranged(table, f'{int(table.num_seeds.iloc[0])} seeds')}"
    return f"95 % interval {ends}"


def _between(table: pd.DataFrame, low: float, high: float) -> str:
    """An interval in parentheses, after a space; empty where there is none."""
    return "" if pd.isna(low) else f" ({_interval_words(table, f'{low:.3g} to {high:.3g}')})"


def _percent(ratio: float) -> str:
    """A ratio as a change: ``−4 %``, ``+11 %``; ``+∞`` where there is no limit."""
    change = 100 * (ratio - 1)
    digits = ".2g" if abs(change) < 10 else ",.0f"
    return "+∞" if math.isinf(ratio) else f"{change:+{digits}} %".replace("-", "−")


def _more_or_fewer(ratio: float) -> str:
    """A ratio of steps near 1 in words: ``7 % more steps than``."""
    if abs(ratio - 1) < 0.005:
        return "as many steps as"
    return f"{_percent(ratio)[1:]} {'more' if ratio > 1 else 'fewer'} steps than"


def _inverse(value: float) -> float:
    return 1 / value if value else float("inf")


def _steps_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """A sentence which compares the best other model's steps to the target with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    if not _has_target(table.iloc[m]):
        return "No target was set, so that no steps are compared: set one, or compare final losses"
    if pd.isna(value):
        return f"Neither {baseline} nor any {other} model reached the target"
    if bound == ">":
        return (
            f"{model} reached the target and {baseline} did not: at least {value:.3g}× fewer steps"
        )
    if bound == "<":
        return f"{baseline} reached the target and no {other} model did"
    if low <= 1 <= high:
        ends = f"{_percent(_inverse(high))} to {_percent(_inverse(low))}"
        return (
            f"No clear difference: {model} needs {_more_or_fewer(1 / value)} {baseline} "
            f"({_interval_words(table, ends)})"
        )
    if value >= 1:
        return f"{model} needs {value:.3g}× fewer steps than {baseline}{_between(table, low, high)}"
    return (
        f"{_no_help(model, other)} needs {1 / value:.3g}× the steps of {baseline}"
        f"{_between(table, _inverse(high), _inverse(low))}"
    )


def _final_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """A sentence which compares the best other model's final excess loss with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    least = "at least " if bound else ""
    base_row = table[table["model"] == baseline].iloc[0]
    ends = [_number(row, "final_excess") for row in (base_row, table.iloc[m])]
    if min(ends) < 0:  # losses above no known optimum have no ratio
        return f"{model} ends at a loss of {ends[1]:.4g}, {baseline} at {ends[0]:.4g}"
    if pd.isna(value):
        return f"Neither {baseline} nor any {other} model ends at a finite loss"
    if np.isinf(value):
        return f"{model} ends at a finite loss and {baseline} diverges"
    if value == 0:
        return f"{baseline} ends at a finite loss and every {other} model diverges"
    if not bound and low <= 1 <= high:
        return (
            f"No clear difference: {model} ends at an excess loss {_inverse(value):.3g}× that of "
            f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
        )
    if value >= 1:
        return (
            f"{model} ends at an excess loss {least}{value:.3g}× lower than {baseline}"
            f"{_between(table, low, high)}"
        )
    return (
        f"{_no_help(model, other)} ends at an excess loss {least}{1 / value:.3g}× higher than "
        f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
    )


def is_summary(table: pd.DataFrame) -> bool:
    """Whether a table is one of `summarise`."""
    return {"model", "baseline", "best_learning_rate", "grid_edge", "num_reached"} <= {*table}


def with_interval(value: object, low: float = math.nan, high: float = math.nan) -> str:
    """A value for a table, followed by its interval if it has one: ``4.15 [4.13, 4.18]``."""
    if not isinstance(value, float):
        return str(value)
    text, *ends = (
        "-" if math.isnan(x) else "∞" if math.isinf(x) else f"{x:.3g}" for x in (value, low, high)
    )
    return text if "-" in ends else f"{text} [{', '.join(ends)}]"
