"""An interactive explorer of results, as a part of a web page that needs no other file.

`payload` makes of results what a page needs of them: curves that are thinned and rounded, and the
numbers beside them, which are those of the full records. `explorer` makes the page's part of some
payloads, `assets` what a page with any of them needs once. The drawing is in ``explorer.js``.
"""

from __future__ import annotations

import base64
import functools
import html
import itertools
import json
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import vl_convert
import xarray as xr

from implicit_accel import summary
from implicit_accel.errors import DataError, UserError
from implicit_accel.intervals import MIN_SEEDS
from implicit_accel.linear.observables import (
    EFFECTIVE_RATE,
    NORM,
    effective_rate,
    has_effective_rate,
)
from implicit_accel.plotting import COLOURS, Predicted, observed
from implicit_accel.results import (
    RUN,
    by_model,
    coordinate_labels,
    model_labels,
    trained,
    varying,
)
from implicit_accel.stability import STABILITY_OF, threshold
from implicit_accel.statistics import (
    at_best,
    best_learning_rates,
    compares_final,
    counts_as_diverged,
    final_excess,
    ratio_of_medians,
    resolved,
    sampled,
    speed_up,
    summarise,
    valid_steps,
)

FORMAT = "implicit_accel explorer 1"

# Values are rounded to this ratio, which no eye distinguishes, or coarser if they span too much.
_RATIO = 1.005
_LEVELS = 65_533

# With more models and several rules there are fewer targets.
_MOST_COMPARED = 12

# Beyond these shares of a model's own target no other target is offered.
_TARGETS = (1e-6, 1e4)


@dataclass(frozen=True)
class _Rung:
    """How much is kept: ranges of steps, targets, runs drawn alone, and whether at every rate."""

    ranges: int
    targets: int
    seeds: int
    everywhere: bool


# From the finest; the first that stays within the budget is taken.
_RUNGS = (
    *(_Rung(ranges, 25, 8, True) for ranges in (256, 128, 64)),
    *(_Rung(ranges, 25, 5, False) for ranges in (128, 96, 64, 48)),
    *(_Rung(ranges, 13, 3, False) for ranges in (48, 32, 24, 16, 12)),
)


@dataclass(frozen=True)
class Published:
    """A curve that somebody has published.

    Attributes:
        name: What the page calls it.
        steps: (K,) updates, above 0.
        losses: (K,) losses at them, above 0.
    """

    name: str
    steps: Sequence[float] | np.ndarray
    losses: Sequence[float] | np.ndarray


def payload(
    results: xr.Dataset,
    *,
    predicted: Predicted | None = None,
    published: Sequence[Published] = (),
    best_by: str = "stable",
    others: Collection[str] = (),
    baseline: Mapping[str, object] | None = None,
    budget: int = 60_000,
) -> dict[str, Any]:
    """What a page needs of some results.

    Args:
        results: Results of any axes.
        predicted: What a model's excess loss is predicted to be: its number, a learning rate and
            steps to values.
        published: Curves to show beside those of the results.
        best_by: What makes a learning rate the best, see `best_learning_rates`.
        others: Further rules, to one of which the reader may switch; left out where not even the
            coarsest records stay within the budget.
        baseline: What models are compared with, see `summarise`.
        budget: Characters of JSON to stay within. Records are thinned until they do, at most to 12
            ranges of steps: results of very many models and rates may need more.

    Returns:
        A tree of dictionaries, lists, texts and finite numbers, which JSON keeps as it is. Steps
        to the results' own target are exact; those to others are the first recorded ones.

    Raises:
        DataError: If the results have no excess loss to show.
        UserError: As `summarise`.
    """
    if not {"excess_loss", "steps_to_target", "divergence_step"} <= set(results.data_vars):
        raise DataError("no results to explore: they have no excess_loss with steps to a target")
    rules = dict.fromkeys((best_by, *others))
    runs = _Runs(by_model(results), tuple(rules), baseline)
    found: dict[str, Any] = {}
    for rung in _RUNGS:
        found = runs.payload(rung, predicted, published)
        if len(json.dumps(found)) <= budget:
            break
    else:
        found.pop("others", None)
    return found


class _Runs:
    """Results by model, and what does not depend on how much is kept of them."""

    def __init__(
        self, runs: xr.Dataset, rules: Sequence[str], baseline: Mapping[str, object] | None
    ) -> None:
        self.runs = runs
        self.rules = rules
        self.tables = {rule: summarise(runs, best_by=rule, baseline=baseline) for rule in rules}
        self.best = {rule: best_learning_rates(runs, rule) for rule in rules}
        self.labels = model_labels(runs)
        self.bases = [
            self.labels.index(label) if label else None
            for label in self.tables[rules[0]]["baseline"]
        ]
        tried = trained(runs)
        # The (model, learning rate) pairs at which there are runs.
        self.cells = [np.flatnonzero(row) for row in tried]
        self.places = np.nonzero(tried)
        self.excess = np.nan_to_num(_values(runs, "excess_loss"), nan=np.inf)
        # Where losses above no known optimum are negative, they are shown above the lowest of all:
        # targets are multiples, and axes logarithmic.
        lowest = float(self.excess[np.isfinite(self.excess)].min(initial=0.0))
        self.floor = lowest if not runs.attrs.get("is_optimum_known", True) else 0.0
        self.excess -= self.floor
        # What targets are multiples of; a run may have none of its own, which is a target of 0.
        self.target = _each_run(runs, "target")
        self.has_target = bool((self.target > 0).all()) and self.floor == 0
        if not self.has_target:
            start = np.where(np.isfinite(self.excess[..., 0]), self.excess[..., 0], np.nan)
            self.target = np.full(start.shape, max(float(np.nanmedian(start)), 1e-300))
        # Rungs share them, and they take longest.
        self.targets = functools.cache(self._targets)

    def payload(
        self, rung: _Rung, predicted: Predicted | None, published: Sequence[Published]
    ) -> dict[str, Any]:
        runs, rates = self.runs, self.runs["learning_rate"].values
        diverged = np.isfinite(_values(runs, "divergence_step"))[self.places]
        known = np.isfinite(rates).all()
        own, *others = self.rules
        # Intervals at every target by every rule would take minutes for large grids.
        is_large = bool(others) and len(self.labels) > _MOST_COMPARED
        num_targets = min(rung.targets, 13) if is_large else rung.targets
        further = {rule: self._by_rule(rule, num_targets) for rule in others}
        return {
            "format": FORMAT,
            "title": str(runs.attrs.get("title", "")),
            "num_steps": int(runs.attrs["num_steps"]),
            "num_seeds": int(runs.sizes["seed"]),
            "best_by": own,
            "axes": self._axes(),
            "models": [
                {"label": label, "baseline": base, "rates": cells.tolist()}
                for label, base, cells in zip(self.labels, self.bases, self.cells, strict=True)
            ],
            "opens_at": self._clearest_gain(),
            "rates": rates.tolist() if known else None,
            "diverged": _pack(diverged.sum(axis=-1)),
            "final": _pack_floats(np.stack(_spread(final_excess(runs)[self.places]), axis=-1)),
            "quantities": list(self._quantities(rung, predicted)),
            "published": [_published(curve) for curve in published],
            **self._by_rule(own, num_targets),
            **({"others": further} if further else {}),
        }

    def _by_rule(self, rule: str, num_targets: int) -> dict[str, Any]:
        """What depends on the rule by which learning rates are chosen."""
        table, has_interval = self.tables[rule], self.runs.sizes["seed"] >= MIN_SEEDS
        return {
            # Of the speed-ups.
            "interval": "95 %" if has_interval else f"range over {summary.ranged(table)}",
            "lost": _pack(counts_as_diverged(self.runs, rule)[self.places].sum(axis=-1)),
            "targets": self.targets(num_targets, rule),
            "summary": {
                "columns": summary.columns(table),
                "rows": [summary.cells(table, m) for m in range(len(table))],
                "caption": summary.caption(table),
                "answers": summary.answers(table),
            },
        }

    def _clearest_gain(self) -> int:
        """The number of the model with the largest speed-up whose interval lies above 1; or 0."""
        table = self.tables[self.rules[0]]
        compared = "final_ratio" if compares_final(table) else "speed_up"
        values, lows = (table[compared + end].to_numpy(float) for end in ("", "_low"))
        gains = np.where(np.isfinite(values) & (lows > 1), values, 0)
        return int(np.argmax(gains))

    def _axes(self) -> list[dict[str, Any]]:
        """What models differ in: each value's label, and which of them each model has (−1: none).

        What colours distinguish comes first: the depth, where models differ in it.
        """
        names = sorted(varying(self.runs), key=lambda name: name != "depth")
        axes = []
        for name, labels in coordinate_labels(self.runs, names).items():
            values = self.runs[name].values.tolist()
            distinct = dict.fromkeys(filter(None, labels))
            if all(isinstance(value, int | float) for value in values):
                order = dict(zip(labels, values, strict=True))
                distinct = dict.fromkeys(sorted(distinct, key=lambda label: order[label]))
            places = {label: place for place, label in enumerate(distinct)}
            axes.append(
                {
                    "name": name,
                    "values": list(distinct),
                    "of": [places.get(label, -1) for label in labels],
                }
            )
        return axes

    def _targets(self, count: int, best_by: str) -> dict[str, Any]:
        """Steps to targets, multiples of the models' own, and how models compare at each.

        ``steps`` holds (pair, quartile/median/quartile, target) whole numbers, twice the steps and
        one more, 0 for never.
        """
        runs = self.runs
        factors = self._factors(count)
        # Where the slider is at first: at the own target, or at a tenth of the start.
        first = int(np.argmin(np.abs(np.log(factors / (1.0 if self.has_target else 0.1)))))
        records = runs["step"].values
        lowest = np.minimum.accumulate(self.excess, axis=-1)
        exact = _values(runs, "steps_to_target")
        steps, best, compared = [], [], []
        for number, factor in enumerate(factors):
            if self.has_target and number == first:
                found = exact
            else:
                below = lowest <= (factor * self.target)[..., None]
                found = np.where(below.any(axis=-1), records[below.argmax(axis=-1)], np.inf)
            target = factor * self.target + self.floor
            at_target = runs.assign(steps_to_target=(RUN, found), target=(RUN, target))
            found = valid_steps(at_target, stable=best_by == "stable")
            steps.append(np.stack(_spread(found[self.places]), axis=-1))
            by_final = best_by == "final"
            chosen = self.best[best_by] if by_final else best_learning_rates(at_target, best_by)
            best.append(chosen)
            compared.append(self._compared(at_target, chosen, best_by))
        doubled = np.round(2 * np.stack(steps, axis=-1)) + 1
        zero = runs["zero_loss"] - runs["optimum"] if "zero_loss" in runs else None
        return {
            "factors": factors.tolist(),
            "first": first,
            "own": self.has_target,
            "of": _middle(self.target),
            "zero": None if zero is None else _middle(_broadcast(zero, runs)),
            "steps": _pack(np.where(np.isfinite(doubled), doubled, 0)),
            "best": _pack(np.stack(best, axis=-1) + 1),
            "speed_up": _pack_floats(np.stack(compared, axis=-1)),
        }

    def _factors(self, count: int) -> np.ndarray:
        """Equal ratios from the highest start to the lowest loss that any run reaches; 1 is one."""
        excess = self.excess[self.places]
        with np.errstate(over="ignore"):  # of a run about to diverge
            relative = np.where(np.isfinite(excess), excess, np.nan)
            relative /= self.target[self.places][..., None]
        floor = (_each_run(self.runs, "resolution") / self.target)[self.places].max()
        start, lowest = np.nanmax(relative[..., 0]), np.nanmin(relative)
        low = float(np.clip(max(lowest, floor), _TARGETS[0], 1.0))
        high = float(np.clip(0.9 * start, 1.0, _TARGETS[1]))
        if not (math.isfinite(low) and math.isfinite(high)) or high / low < 1.001:
            return np.array([1.0])
        # The own target is one of them.
        share = round((count - 1) * math.log(high) / math.log(high / low))
        above = np.geomspace(high, 1.0, share + 1) if high > 1 else np.ones(1)
        below = np.geomspace(1.0, low, count - share) if low < 1 else np.ones(1)
        return np.array([float(f"{factor:.6g}") for factor in (*above, *below[1:])])

    def _compared(self, at_target: xr.Dataset, best: np.ndarray, best_by: str) -> np.ndarray:
        """(model, 3) speed-ups over the baselines, with the ends of their intervals, or NaN."""
        found = np.full((len(best), 3), np.nan)
        own = sampled(at_target, best, best_by)
        for m, base in enumerate(self.bases):
            if base is not None and base != m:
                if best_by == "final":  # not by steps: these rates, and no choice among them
                    steps = at_best(best, valid_steps(at_target))
                    ratio = ratio_of_medians(steps[base], steps[m], least=1)
                else:
                    ratio = speed_up(own[base], own[m])
                found[m] = ratio.value, ratio.low, ratio.high
        return found

    def _quantities(self, rung: _Rung, predicted: Predicted | None) -> Iterator[dict[str, Any]]:
        """What is drawn against steps: the excess loss first, then whatever was recorded."""
        runs = self.runs
        names = ["excess_loss", *(n for n in ("held_out_loss",) if n in runs), *observed(runs)]
        if has_effective_rate(runs) and NORM in names:
            runs = runs.assign({EFFECTIVE_RATE: effective_rate(runs)})
            names.append(EFFECTIVE_RATE)
        for name in names:
            dim = str(runs[name].dims[-1])
            values = resolved(runs) if name == "excess_loss" else runs[name].astype(float)
            values = values.transpose(*RUN, dim).values[self.places]
            if name == "excess_loss":
                values = values - self.floor
            curves = _Curves.thin(values, runs[dim].values, self.at_best, rung)
            words = str(runs[name].attrs.get("long_name", name.replace("_", " ")))
            if name == "excess_loss":
                words = "loss above the lowest of all runs" if self.floor else "excess loss"
            quantity = {"name": name, "words": words, "records": len(runs[dim])}
            theory = {}
            if name == "excess_loss" and predicted is not None:
                known = [
                    predicted(int(m), float(runs["learning_rate"][r]), curves.steps.astype(float))
                    for m, r in zip(*self.places, strict=True)
                ]
                theory = {"predicted": np.stack(known)}
            quantity |= curves.packed(theory)
            if name in STABILITY_OF:
                heights = [
                    threshold(name, runs.isel(model=m, learning_rate=r))
                    for m, r in zip(*self.places, strict=True)
                ]
                quantity["threshold"] = _numbers(heights)
            yield quantity

    @property
    def at_best(self) -> np.ndarray:
        """The pairs of each model at its best rates, one by each rule; some may have none."""
        models, rates = self.places
        chosen = [best[models] == rates for best in self.best.values()]
        return np.flatnonzero(np.any(chosen, axis=0))


@dataclass(frozen=True)
class _Curves:
    """Curves at the steps that are kept.

    Attributes:
        steps: (N,) the steps.
        spread: (3, pair, N) lower quartile, median and upper quartile over seeds; inf where that
            run has diverged.
        alone: (pair, seed, N) some runs.
        pairs: Which pairs they are of; None: all.
    """

    steps: np.ndarray
    spread: np.ndarray
    alone: np.ndarray
    pairs: np.ndarray | None

    @classmethod
    def thin(
        cls, values: np.ndarray, steps: np.ndarray, at_best: np.ndarray, rung: _Rung
    ) -> _Curves:
        """Of (pair, seed, step) values."""
        values = np.where(np.isnan(values), np.inf, values)
        spread = np.stack(_spread(values, axis=1))
        pairs = None if rung.everywhere else at_best
        alone = values[:, : rung.seeds] if pairs is None else values[pairs, : rung.seeds]
        if len(steps) <= 2 * rung.ranges:
            return cls(steps, spread, alone, pairs)
        # The last step stands alone: there it is seen which runs have diverged.
        starts = np.linspace(0, len(steps) - 1, rung.ranges + 1).astype(int)
        ranges = list(itertools.pairwise(starts))
        kept = np.append([steps[[first, end - 1]] for first, end in ranges], steps[-1])
        return cls(kept, _extremes(spread, ranges), _extremes(alone, ranges), pairs)

    def packed(self, theory: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Rounded; a place on a scale from ``low`` to ``high``, 0 where there is no number."""
        everything = [self.spread, self.alone, *theory.values()]
        drawn = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in everything])
        is_log = bool(drawn.size and drawn.max() > 0 and drawn.min() >= 0)
        if is_log and not (drawn > 0).all():
            # What reached 0 exactly is drawn at the smallest of the others.
            is_log = float(np.mean(drawn == 0)) < 0.5
        drawn = drawn[drawn > 0] if is_log else drawn
        low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (1.0, 1.0)
        span = math.log(high / low) if is_log else high - low
        step = max(math.log(_RATIO) if is_log else 0.0, span / _LEVELS) or 1.0

        def code(values: np.ndarray) -> dict[str, Any]:
            known = np.isfinite(values)
            inside = np.clip(np.where(known, values, low), low, high)
            places = (np.log(inside / low) if is_log else inside - low) / step
            return _pack(np.where(known, 1 + np.round(places), 0))

        found = {
            "steps": self.steps.tolist(),
            "log": is_log,
            "low": low,
            "step": step,
            "spread": code(self.spread),
            "alone": code(self.alone),
            "pairs": None if self.pairs is None else self.pairs.tolist(),
        }
        return found | {name: code(values) for name, values in theory.items()}


def _extremes(values: np.ndarray, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The smallest and the largest number in each range of steps, as they follow, and the last.

    Of a curve that only falls or rises these are its values at the range's ends; of another nothing
    that leaves a range is lost. Where there is no number, infinity is kept.

    Args:
        values: (…, step).
        ranges: R of them: their first steps' places, and those after their last.

    Returns:
        (…, 2R + 1) values.
    """
    kept = []
    for first, end in ranges:
        part = values[..., first:end]
        highest = np.where(np.isfinite(part), part, -np.inf).argmax(axis=-1)
        ends = np.sort(np.stack([part.argmin(axis=-1), highest], axis=-1), axis=-1)
        kept.append(np.take_along_axis(part, ends, axis=-1))
    return np.concatenate([*kept, values[..., -1:]], axis=-1)


def _spread(values: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower quartile, median and upper quartile; no interpolation among infinities."""
    low, high = np.quantile(values, [0.25, 0.75], axis=axis, method="inverted_cdf")
    return low, np.median(values, axis=axis), high


def _values(runs: xr.Dataset, name: str) -> np.ndarray:
    rest = [d for d in runs[name].dims if d not in RUN]
    return runs[name].transpose(*RUN, *rest).values.astype(float)


def _each_run(runs: xr.Dataset, name: str) -> np.ndarray:
    return _broadcast(runs[name], runs)


def _broadcast(values: xr.DataArray, runs: xr.Dataset) -> np.ndarray:
    """(model, learning_rate, seed) values of what may depend on fewer."""
    return values.astype(float).broadcast_like(runs["steps_to_target"]).transpose(*RUN).values


def _middle(values: np.ndarray) -> list[float | None]:
    """Each model's median of (model, learning_rate, seed) values."""
    return _numbers(np.median(values.reshape(len(values), -1), axis=1))


def _numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Numbers as JSON knows them: none that is not finite."""
    return [float(v) if math.isfinite(v) else None for v in values]


def _published(curve: Published) -> dict[str, Any]:
    steps, losses = (np.asarray(v, float) for v in (curve.steps, curve.losses))
    drawn = np.isfinite(steps) & np.isfinite(losses) & (steps > 0) & (losses > 0)
    if len(steps) > 300:  # enough for a line as wide as a page
        some = np.linspace(0, len(steps) - 1, 300).astype(int)
        drawn &= np.isin(np.arange(len(steps)), some)
    return {
        "name": curve.name,
        "steps": [float(f"{v:.5g}") for v in steps[drawn]],
        "losses": [float(f"{v:.4g}") for v in losses[drawn]],
    }


def _pack(values: np.ndarray) -> dict[str, Any]:
    """Whole numbers from 0 to 2³¹ as text: differences along the last axis, folded, deflated.

    Differences 0, −1, 1, −2 … are written as 0, 1, 2, 3 …, first the lowest bytes of all of them.
    """
    whole = np.minimum(np.asarray(values, np.int64), 2**31 - 1)
    change = np.diff(whole, axis=-1, prepend=0)
    folded = np.where(change < 0, -2 * change - 1, 2 * change).astype("<u4")
    planes = folded.reshape(-1, 1).view(np.uint8).T
    text = base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)).decode()
    return {"shape": list(whole.shape), "data": text}


def _pack_floats(values: np.ndarray) -> dict[str, Any]:
    """Numbers ≥ 0, infinity and NaN, with seven digits: the bits of each as a whole number."""
    return _pack(np.abs(np.asarray(values, "<f4")).view("<u4"))


# --- the page's part ---


def explorer(
    key: str,
    payloads: Mapping[str, dict[str, Any]],
    *,
    command: str = "",
    commands: Mapping[str, str] | None = None,
    table: bool = True,
) -> str:
    """A part of a page in which some results can be explored.

    Args:
        key: What the addresses of its states begin with, and its element's id: letters, digits, -,
            _ and ., different from those of the page's other parts.
        payloads: Results by their names; of several the reader chooses one.
        command: What makes these results, for the reader to copy.
        commands: Further ones: by a rule's name, what makes them by that rule; ``record``, what
            makes them with the effective learning rate; ``predict``, with theory's curves.
        table: Whether readers without JavaScript are shown the summaries here.

    Returns:
        HTML; whatever comes from results is escaped. The page needs `assets`, once.

    Raises:
        UserError: If the key is no such text, or there is no payload.
    """
    if not key or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in key):
        raise UserError(f"explorer {key!r}: a key is made of letters, digits, '-', '_' and '.'")
    if not payloads:
        raise UserError(
            f"explorer {key}: there are no results to explore; give one payload or more"
        )
    shown = {
        "key": key, "command": command, "commands": dict(commands or {}),
        "results": [*map(list, payloads.items())],
    }  # fmt: skip
    tables = "".join(
        f"<h4>{safe(name)}</h4>{summary_table(data['summary'])}" for name, data in payloads.items()
    )
    return (
        f'<section class="explorer" id="{key}-explorer" aria-label="Explorer of the results">'
        "<noscript><p>Moving sliders and drawing charts takes JavaScript, which is off"
        + (". The numbers at each model’s best learning rate are:</p>" + tables if table else
           ": the tables and figures of this page hold the main numbers.</p>")
        + f"</noscript>{json_element(shown)}</section>"
    )  # fmt: skip


def summary_table(found: Mapping[str, Any]) -> str:
    """A payload's ``summary`` as an HTML table, with its caption."""
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in found["columns"])
    rows = "".join(
        f'<tr><th scope="row">{safe(row[0])}</th>'
        + "".join(f"<td>{safe(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in found["rows"]
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Summary table">'
        f'<table class="numbers"><caption>{safe(found["caption"])}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def json_element(content: object) -> str:
    """Data in a page, for its scripts to read: whatever it holds, it ends no element."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=True)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return f'<script type="application/json">{text}</script>'


def assets() -> str:
    """The style and the scripts that a page with explorers needs, once; 0.9 MB."""
    colours = "".join(f"--series-{i}: {colour};" for i, colour in enumerate(COLOURS))
    style = f":root {{ --num-series: {len(COLOURS)}; {colours} }}\n{read_asset('explorer.css')}"
    own = map(read_asset, ("state.js", "chart.js", "explorer.js"))
    # In a function of its own, else each of its thousands of names would be the page's.
    scripts = map(script_element, (f"(() => {{{_vega()}}})();", *own))
    return f"<style>{style}</style>{''.join(scripts)}"


@functools.cache
def _vega() -> str:
    """Vega's scripts; bundling them takes a second."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def script_element(source: str) -> str:
    """A script in a page; none of its texts ends the element."""
    return "<script>" + source.replace("</script", "<\\/script") + "</script>"


def read_asset(name: str) -> str:
    """A style or a script that comes with the package."""
    return (resources.files("implicit_accel.pages") / name).read_text(encoding="utf-8")


def safe(value: object) -> str:
    """Text for HTML, between tags or in an attribute."""
    return html.escape(str(value))
