"""What was run and by what it is judged, in words: generated, so that they are what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from implicit_accel.claims.api import Check, First
from implicit_accel.claims.context import Grid
from implicit_accel.claims.criteria import Range
from implicit_accel.claims.effects import Effect, Key, format_number, label
from implicit_accel.images.task import ClassifierConfig
from implicit_accel.linear.config import SweepConfig
from implicit_accel.results import Metric

_OPTIMIZERS = {"sgd": "gradient descent", "end_to_end": "the end-to-end rule"}
_MOST_LISTED = 6


def grids_in_words(grids: Sequence[Grid]) -> str:
    """What some grids trained, as sentences: those of linear networks, and those of images.

    Where grids differ in a field, all its values are listed: what was run is some of their
    combinations.
    """
    # Claims train problems side by side, in any order.
    grids = sorted(grids, key=lambda grid: (grid.problem, repr(grid)))
    linear = [grid for grid in grids if isinstance(grid.config, SweepConfig)]
    images = [grid for grid in grids if isinstance(grid.config, ClassifierConfig)]
    own = [_task(grid) for grid in grids if grid.config is None]
    return " ".join(filter(None, (_linear(linear), _images(images), *_distinct(own))))


def _linear(grids: Sequence[Grid]) -> str:
    if not grids:
        return ""
    configs = [grid.config for grid in grids if isinstance(grid.config, SweepConfig)]
    models = _distinct(model for config in configs for model in config.models)
    depths = sorted({model.depth for model in models})
    widths = _distinct(
        model.hidden_widths[0] if len(set(model.hidden_widths)) == 1 else model.hidden
        for model in models
        if model.depth > 1
    )
    losses = sorted({model.loss.p for model in models})
    conventions = _distinct(model.loss.convention for model in models)
    stds: dict[str, set[float]] = {}
    for model in models:
        stds.setdefault(model.initialiser.name, set()).add(model.initialiser.std)
    inits = [
        name if any(map(math.isnan, own)) else f"{name} (std {_span(sorted(own))})"
        for name, own in stds.items()
    ]
    decays = sorted({model.weight_decay for model in models} - {0.0})
    biases = _distinct(config.bias for config in configs)
    activations = _distinct(config.activation for config in configs)
    words = [
        ", ".join(_distinct(grid.problem for grid in grids)),
        f"depth{'s' * (len(depths) > 1)} {_listed(depths)}",
        *([f"hidden width{'s' * (len(widths) > 1)} {_listed(widths)}"] if widths else []),
        f"loss {_listed([f'ℓ{p:g}' for p in losses])}"
        + (" (mean |r|^p)" if conventions == ["plain"] else ""),
        f"initialisation {_listed(inits)}",
        _listed([_OPTIMIZERS.get(m, m) for m in _distinct(m.optimizer.name for m in models)]),
        *([f"weight decay {_listed([f'{d:g}' for d in decays])}"] if decays else []),
        *(["with biases" if biases == [True] else "with and without biases"] * (True in biases)),
        *([f"activation {_listed(activations)}"] if activations != ["identity"] else []),
        _rates(grids),
        _range([grid.num_seeds for grid in grids], "seed"),
        _range([config.num_steps for config in configs], "step"),
        _listed(_distinct(config.precision for config in configs)),
        f"target {_listed(_distinct(str(config.target) for config in configs))}",
    ]
    return "; ".join(words) + "."


def _images(grids: Sequence[Grid]) -> str:
    if not grids:
        return ""
    configs = [grid.config for grid in grids if isinstance(grid.config, ClassifierConfig)]
    stds = sorted({std for grid in grids for std in grid.stds})
    words = [
        ", ".join(_distinct(grid.problem for grid in grids)),
        f"network {' or '.join(_distinct(config.network.name for config in configs))}",
        _listed(_distinct(config.optimizer.name for config in configs)),
        f"batches of {_listed(sorted({config.batch_size for config in configs}))}",
        *([f"standard deviations {_span(stds)}"] if stds else []),
        _rates(grids),
        _range([grid.num_seeds for grid in grids], "seed"),
        _range([config.num_steps for config in configs], "step"),
    ]
    return "; ".join(words) + "."


def _task(grid: Grid) -> str:
    words = [
        _range([len(values)], "seed")
        if name == "seed"
        else f"{name.replace('_', ' ')} {_span(values)}"
        for name, values in grid.axes.items()
    ]
    if isinstance(grid.target, Metric):
        target = [f"target {grid.target.name.replace('_', ' ')} {grid.target.target:g}"]
    else:
        target = [] if grid.target is None else [f"target {grid.target:g}"]
    return "; ".join([grid.problem, *words, f"{grid.num_steps:,} steps", *target]) + "."


def _rates(grids: Sequence[Grid]) -> str:
    given = [grid.rates for grid in grids if grid.rates]
    words = ["learning rates searched for each model"] if len(given) < len(grids) else []
    if given:
        rates = sorted({rate for own in given for rate in own})
        most = max(map(len, given))
        if len(rates) == 1:
            words.append(f"learning rate {rates[0]:g}")
        else:
            each = "one learning rate" if most == 1 else f"up to {most} learning rates"
            words.append(f"{each} each, {_span(rates)}")
    return "; ".join(words)


def _span(values: Sequence[Any]) -> str:
    shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
    if len(values) <= _MOST_LISTED:
        return _listed(shown)
    return f"{shown[0]} to {shown[-1]} ({len(values)} values)"


def _range(counts: Sequence[int], unit: str) -> str:
    low, high = min(counts), max(counts)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {unit}{'s' * (high > 1)}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _distinct(values: Iterable[object]) -> list[Any]:
    return list(dict.fromkeys(values))


def criterion_in_words(checks: Sequence[Check], effects: Sequence[Effect], first: str) -> str:
    """What a claim's checks ask for, a sentence each.

    Args:
        checks: The claim's.
        effects: Its effects, which have units.
        first: The name of the first problem.
    """
    sentences = []
    for check in checks:
        chosen = check.chosen(effects, first)
        unit = next((e.unit for e in effects if e.key and e.key.measure == check.measure), "")
        at = tuple((n, first if isinstance(v, First) else v) for n, v in check.at.items())
        what = label(Key(check.measure, at))
        each = f", each of {len(chosen)} effects" if len(chosen) > 1 else ""
        size = "" if check.size is None else f"; in size {where(check.size, unit)}"
        why = f" ({check.why})" if check.why else ""
        sentences.append(f"{what}{each}: {where(check.claimed, unit)}{size}{why}.")
    parts = sum(len(check.chosen(effects, first)) for check in checks)
    joint = " The intervals hold jointly." if parts > 1 else ""
    return " ".join(sentences) + joint


def where(range_: Range, unit: str) -> str:
    """A range in words, e.g. "above 1×"."""
    if range_ == Range():
        return "any"
    low, high = (format_number(end) for end in (range_.low, range_.high))
    if math.isinf(range_.high):
        return f"{'at least' if range_.closed else 'above'} {low}{unit}"
    if math.isinf(range_.low):
        return f"{'at most' if range_.closed else 'below'} {high}{unit}"
    start, end = ("from", "to") if range_.closed else ("between", "and")
    return f"{start} {low} {end} {high}{unit}"
