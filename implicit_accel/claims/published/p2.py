"""P2: the hidden width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, judge, within
from implicit_accel.claims.drawing import colour_of, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import (
    effects_table,
    model_number,
    resampled,
    side_of,
)
from implicit_accel.claims.published.plateaus import escapes
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.data.problems import Problem
from implicit_accel.intervals import ModelRuns
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss

_DEPTHS = (2, 3)
_LOSSES = (Loss(2), Loss(4))

# The paper's standard deviation.
_STD = 0.01

# A ratio that runs of this length can show to be missed, on both sides.
_CLOSE = 1.1

# Family of starts → what reports call it.
FAMILIES = {
    "same std": "near zero, the same standard deviation",
    "same norm": "near zero, end-to-end matrices of the same norm",
    "balanced": "balanced, the same end-to-end matrix",
}


def matched_std(depth: int, width: int) -> float:
    """The standard deviation at which a network's end-to-end matrix is as large as width 1's.

    Entries of a product of N Gaussian matrices with inner widths h have the variance
    ``std^(2N) h^(N−1)``: the product grows as ``h^((N−1)/2)``, with the root of the width at depth
    2 and with the width itself at depth 3.

    Args:
        depth: N.
        width: h, of every hidden layer.
    """
    return _STD * width ** (-(depth - 1) / (2 * depth))


def starts(family: str, depth: int, width: int) -> tuple[str, float]:
    """Initialiser and standard deviation of a family's start."""
    if family == "same std":
        return "near_zero", _STD
    if family == "same norm":
        return "near_zero", float(f"{matched_std(depth, width):.6g}")
    # Of the end-to-end matrix: as large as near-zero's at width 1. One seed's is the same matrix
    # at every width.
    return "balanced", float(f"{_STD**depth:.6g}")


def _widths(lab: Context) -> tuple[int, ...]:
    return lab.pick((1, 10), (1, 10, 100), (1, 10, 100, 256))


def _grid(lab: Context, depth: int) -> SweepConfig:
    """Of width 1 from the paper's start."""
    return SweepConfig(
        depths=(depth,),
        hidden_widths=(1,),
        losses=_LOSSES,
        init_stds=(_STD,),
        learning_rates=parse_learning_rates(
            [lab.pick("log:3e-3:0.3:4", "log:2e-3:0.4:14", "log:1e-3:1:37")]
        ),
        num_seeds=lab.pick(2, 16, 100),
        num_steps=lab.pick(300, 5000 if depth == 2 else 10_000, 100_000),
    )


# (family, depth, width) → results of both losses.
Runs = dict[tuple[str, int, int], xr.Dataset]


def _train(lab: Context, problem: Problem) -> Runs:
    found: Runs = {}
    for family in FAMILIES:
        for depth in _DEPTHS:
            # Widths that start alike are one grid.
            groups: dict[tuple[str, float], list[int]] = {}
            for width in _widths(lab):
                groups.setdefault(starts(family, depth, width), []).append(width)
            for (init, std), widths in groups.items():
                config = replace(
                    _grid(lab, depth), hidden_widths=tuple(widths), inits=(init,), init_stds=(std,)
                )
                # Width 1 from near zero is in two families, and trained once.
                if family == "same norm" and widths == [1]:
                    found[family, depth, 1] = found["same std", depth, 1]
                    continue
                results = lab.sweep(problem, config)
                found |= {(family, depth, width): results for width in widths}
    return found


@dataclass(frozen=True)
class Comparison:
    """A width against width 1.

    Attributes:
        family: Of the starts.
        depth: Of both.
        width: Of the one that is compared.
        effect: Its speed-up.
    """

    family: str
    depth: int
    width: int
    effect: Effect


def at_one_rate(name: str, base: ModelRuns, model: ModelRuns) -> Effect:
    """Median steps of one width over another's, both at the lower of their two best rates.

    At one rate curves coincide or do not, whatever the grid: between rates chosen apart the grid's
    own steps would be seen. At the higher of the two one of them may diverge. A run that does not
    reach the target counts as the runs' length.

    Args:
        name: Of the effect.
        base: Width 1.
        model: The width that is compared.

    Returns:
        The ratio, above 1 if the width is faster; no value where either is lost at every rate.
    """
    best = [int(side.best(side.all_seeds)[0]) for side in (base, model)]
    if min(best) < 0:
        return Effect(name, np.nan, note="diverges at every rate")
    rate = min(best)
    ours, theirs = base.capped[rate], model.capped[rate]
    medians = np.median(ours), np.median(theirs)
    return resampled(
        name, lambda seeds: float(np.median(ours[seeds]) / np.median(theirs[seeds])), len(ours),
        note=f"rate {base.rates[rate]:.3g}", least=float(medians[0] / base.num_steps),
        most=float(base.num_steps / medians[1]),
    )  # fmt: skip


def measure(name: str, runs: Runs) -> list[Comparison]:
    """Every width against width 1 at one rate, in every family."""

    def side(results: xr.Dataset, loss: Loss, depth: int, width: int) -> ModelRuns:
        hidden = "x".join([str(width)] * (depth - 1))
        return side_of(
            results, model_number(results, loss_name=loss.name, hidden_widths=hidden), None
        )

    def compared() -> Iterator[Comparison]:
        for (family, depth, width), results in runs.items():
            if width == 1:
                continue
            base = runs[family, depth, 1]
            for loss in _LOSSES:
                label = f"{name}, ℓ{loss.p:g}, depth {depth}, width {width} against 1, {family}"
                sides = side(base, loss, depth, 1), side(results, loss, depth, width)
                yield Comparison(family, depth, width, at_one_rate(label, *sides))

    return list(compared())


def parts(found: Sequence[Comparison]) -> list[Part]:
    """The criterion."""
    return [within(one.effect, 1 / _CLOSE, _CLOSE) for one in found]


def _law(lab: Context, problem: Problem, num_seeds: int) -> str:
    """First moves by the plateau law, by depth and family, as text."""
    told = []
    widest = _widths(lab)[-1]
    for depth in _DEPTHS:
        ratios = []
        for family in ("same std", "same norm"):
            moves = {}
            for width in (1, widest):
                init, std = starts(family, depth, width)
                config = SweepConfig(
                    depths=(depth,), hidden_widths=(width,), losses=(Loss(4),), inits=(init,),
                    init_stds=(std,), num_seeds=num_seeds,
                )  # fmt: skip
                moves[width] = float(np.median(escapes(lab, problem, config)))
            ratios.append(f"{moves[1] / moves[widest]:.3g} times ({family})")
        told.append(f"{' and '.join(ratios)} at depth {depth}")
    return f"comes later at width 1 than at width {widest} by " + ", ".join(told)


def _factor(value: float) -> float:
    """How far from 1, either way."""
    return max(value, 1 / value) if value > 0 else 0.0


def _in_words(found: Sequence[Comparison]) -> str:
    """The largest factor between widths, by family and depth."""
    told = []
    for family, words in FAMILIES.items():
        of = {
            d: max(_factor(c.effect.value) for c in found if c.family == family and c.depth == d)
            for d in _DEPTHS
        }
        told.append(f"{words}: " + " and ".join(f"{f:.3g} (depth {d})" for d, f in of.items()))
    return "; ".join(told)


def _draw(name: str, found: Sequence[Comparison]) -> Figure:
    """A panel for each family: speed-ups over width 1 with their intervals."""
    title = f"Speed-up of hidden widths over width 1, at one learning rate, {name}"
    figure, axes = make_figure(1, len(FAMILIES), title=title, size=(3.6, 3.6))
    ends = [x for c in found for x in (c.effect.value, c.effect.low, c.effect.high)]
    known = [x for x in ends if np.isfinite(x) and x > 0]
    limits = min([0.7, *known]) / 1.15, max([1.4, *known]) * 1.15
    for ax, (family, words) in zip(axes[0], FAMILIES.items(), strict=True):
        rows = [c for c in found if c.family == family]
        ax.axvspan(1 / _CLOSE, _CLOSE, color="0.92", linewidth=0)
        ax.axvline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        for place, one in enumerate(rows):
            colour, effect = colour_of(one.depth), one.effect
            ax.plot(effect.value, place, "o", color=colour, markersize=5)
            ax.plot(np.clip([effect.low, effect.high], *limits), [place] * 2, color=colour)
        names = [f"{c.effect.name.split(', ')[1]}, depth {c.depth}, width {c.width}" for c in rows]
        ax.set(xscale="log", xlim=limits, ylim=(len(rows) - 0.4, -0.6))
        ticks = [t for t in (0.2, 0.5, 1, 2, 3, 5, 10) if limits[0] < t < limits[1]]
        ax.set_xticks(ticks, [f"{t:g}×" for t in ticks])
        ax.minorticks_off()
        ax.set_yticks(range(len(rows)), names if ax is axes[0, 0] else [""] * len(rows), fontsize=8)
        for label, one in zip(ax.get_yticklabels(), rows, strict=True):
            label.set_color(colour_of(one.depth))
        ax.set_title(words.replace(", ", ",\n"), fontsize=9)
        ax.set_xlabel(f"slower | faster   (grey: within {_CLOSE:g})", fontsize=9)
    return figure


def _test(lab: Context) -> Finding:
    name, problem = lab.first_problem()
    runs = _train(lab, problem)
    found = measure(name, runs)
    effects = [c.effect for c in found]
    worst = max(effects, key=lambda e: _factor(e.value))
    verdict = judge(parts(found))
    held = {
        family: sum(j.direction == "as claimed" for j, c in zip(verdict.parts, found, strict=True)
                    if c.family == family)
        for family in FAMILIES
    }  # fmt: skip
    each = len(found) // len(FAMILIES)
    why = (
        ""
        if verdict.holds
        else " A wider start of the same standard deviation is a larger one, and leaves the "
        "plateau sooner; that the end-to-end matrices are as large does not make it last as long, "
        "for it is the layers that grow."
    )
    return Finding(
        verdict=verdict,
        effects=(worst, *(e for e in effects if e is not worst)),
        summary=f"The largest factor between a width and width 1, by start: {_in_words(found)}. "
        "Within the tolerance, with the interval: "
        + ", ".join(f"{number} of {each} ({family})" for family, number in held.items())
        + f". Most differs {worst.name}: {worst} as fast.{why}",
        cause=Cause(
            ("T4",),
            "How long a network stays near zero is told by its layers' sizes alone. By "
            "the plateau law the ℓ4 networks' median first move "
            f"{_law(lab, problem, lab.pick(2, 16, 100))}. That is the plateau alone: where it is a "
            "small part of the way, as at depth 2, widths differ little. A balanced start is the "
            "same network at every width, but for zeros.",
        ),
        sensitivity="The start decides whether the width matters, and depth by how much: the "
        "end-to-end matrix of Gaussian layers grows as the width to the power (N−1)/2, with its "
        "root at depth 2 and with the width itself at depth 3.",
        caveats=(
            "Norms are matched in their root mean square over seeds: at width 1 a product of a few "
            "numbers is spread far more widely than at width 100, and its median is smaller. The "
            "grid of rates and the runs' length were refined once, after ℓ4's best rate at depth 3 "
            "had been the lowest.",
        ),
        tables={"Width against width 1": effects_table(effects)},
        figures={"widths": _draw(name, found)},
    )


CLAIM = Claim(
    id="P2",
    statement="The hidden width does not matter.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="Depths 2 and 3, widths 1, 10 and 100, ℓ2 and ℓ4, each against width 1 at "
    "the lower of their two best learning rates, from "
    "three kinds of start: the paper's (0.01 at every width), near zero with the standard "
    "deviation lowered so that the end-to-end matrix is as large as width 1's, and balanced with "
    "the same end-to-end matrix at every width.",
    criterion="From every kind of start every width's speed-up over width 1 lies within "
    f"{1 / _CLOSE:.2g} and {_CLOSE:g}, with its interval: on a figure over decades of steps such "
    "curves coincide. (An end-to-end matrix of Gaussian layers grows as the width to the power "
    "(N−1)/2, so that the paper's start is another one at every width.)",
    test=_test,
    minutes=5.3,
    paper_hours=3.0,
)
