"""The page of a sweep: its answer in words, its numbers, and its results to explore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from implicit_accel.files import open_plain
from implicit_accel.linear.observables import is_deep_linear
from implicit_accel.pages import shell
from implicit_accel.pages.explorer import assets, explorer, payload, safe, summary_table
from implicit_accel.plotting import Predicted
from implicit_accel.statistics import BEST_BY, BEST_BY_WORDS

# What the page may hold of the results: beside Vega's 0.9 MB it still opens at once.
_BUDGET = 600_000

# Figures are part of the page as long as they are small.
_MOST_FIGURE_BYTES = 150_000

# Why depth matters, for readers to whom these networks are new.
_INTRODUCTION = (
    "Each network computes a linear map: at depth N, a product of N matrices. Gradient descent "
    "moves this product slowly while it is small and faster as it grows, so depth changes the path."
)

_HOW_TO_READ = (
    ("Excess loss", "is the training loss less the smallest loss that there is, L − L*."),
    (
        "Best rates",
        "compares models at their own best learning rates ({rule}). The buttons above the charts "
        "choose the rule. With the slider, each curve uses the nearest trained rate.",
    ),
    (
        "Speed-up",
        "is the baseline's median number of steps to the target over the model's: above 1, the "
        "model is faster. In brackets is its interval; behind steps and losses there are the "
        "quartiles over seeds.",
    ),
    (
        "The target",
        "is the line to be reached. Drag it, or move its slider: which model is ahead may depend "
        "on it.",
    ),
    (
        "Predict first",
        "hides all but the baseline, and the answers, until the class has said what it expects.",
    ),
    (
        "Effective learning rate",
        "is η‖w‖^(2 − 2/N), by which gradient descent moves the product w of N matrices: the "
        "second chart, where the norm ‖w‖ was recorded.",
    ),
    (
        "Play, Present",
        "draw the curves along the steps, and fill the screen with one chart; Escape leaves it.",
    ),
    (
        "Reading values",
        "Move the pointer over a chart, or choose the chart and press the arrow keys.",
    ),
)


def page(
    results: xr.Dataset,
    *,
    command: str,
    commands: Mapping[str, str] | None = None,
    versions: Mapping[str, str],
    best_by: str = "stable",
    predicted: Predicted | None = None,
    figures: Sequence[Path] = (),
) -> str:
    """A web page of a sweep's results that needs no other file.

    Args:
        results: Results of any axes.
        command: What made them, for the reader to copy.
        commands: Further ones, see `explorer.explorer`.
        versions: Of the software: its names and their versions.
        best_by: What makes a learning rate the best at first, see `best_learning_rates`; the
            reader may switch to another rule.
        predicted: What a model's excess loss is predicted to be, see `explorer.payload`.
        figures: PNG files to show below, as far as they are small.

    Returns:
        HTML.
    """
    found = payload(results, predicted=predicted, best_by=best_by, others=BEST_BY, budget=_BUDGET)
    title = found["title"]
    source = str(results.attrs.get("source", ""))
    summaries = {best_by: found["summary"]}
    summaries |= {rule: other["summary"] for rule, other in found.get("others", {}).items()}
    answers = "".join(
        _by_rule(
            rule,
            best_by,
            "".join(f'<p class="answer">{safe(a)}</p>' for a in summary["answers"]),
        )
        for rule, summary in summaries.items()
    )
    tables = "".join(
        _by_rule(rule, best_by, summary_table(summary)) for rule, summary in summaries.items()
    )
    terms = "".join(
        f"<dt>{safe(a)}</dt><dd>"
        + ("".join(
            _by_rule(rule, best_by, safe(b.format(rule=BEST_BY_WORDS[rule])), "span")
            for rule in summaries
        ) if "{rule}" in b else safe(b))
        + "</dd>"
        for a, b in _HOW_TO_READ
    )  # fmt: skip
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    drawn = [drawn for figure in figures if (drawn := _figure(figure))]
    body = (
        f"<h1>{safe(title)}</h1>"
        + (f'<p class="soft intro">{safe(_INTRODUCTION)}</p>' if is_deep_linear(results) else "")
        + answers
        + explorer("sweep", {title: found}, command=command, commands=commands, table=False)
        + f'<div class="answer-table answer"><h2>Numbers</h2>{tables}</div>'
        + (f'<p class="soft">Data: {safe(source)}</p>' if source and source != title else "")
        + f"<details><summary>How to read it</summary><dl>{terms}</dl></details>"
        + (
            "<details><summary>Figures</summary>"
            f'<div class="figures">{"".join(drawn)}</div></details>'
            if drawn
            else ""
        )
        + f"<noscript><pre>{safe(command)}</pre></noscript>"
        f'<p class="soft">Made with {safe(software)}.</p>'
    )
    return shell.document(title, body, assets=assets())


def _by_rule(rule: str, shown: str, content: str, tag: str = "div") -> str:
    """A part of the page for one rule; the explorer shows that of the rule in use."""
    hidden = "" if rule == shown else " hidden"
    return f'<{tag} data-rule="{safe(rule)}"{hidden}>{content}</{tag}>'


def _figure(path: Path) -> str:
    """A figure's bytes as part of the page; empty if it is a link, or too large."""
    try:
        with open_plain(path, _MOST_FIGURE_BYTES) as file:
            data = file.read(_MOST_FIGURE_BYTES)
    except OSError:
        return ""
    return shell.picture(data, path.stem.replace("_", " ").capitalize())
