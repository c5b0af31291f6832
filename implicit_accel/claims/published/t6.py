"""T6: laws of the follow-up paper's figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, judge, shortfall, within
from implicit_accel.claims.drawing import colour_of, legend, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import level_of, resampled
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.claims.published.theory import SOURCE, crossings
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.laws import contraction, plateau_exponent, steps_at_the_optimum

_DEPTHS = (3, 8)
_TARGET = 1e-5


def _balanced(lab: Context, problem: Problem) -> dict[int, xr.Dataset]:
    """Balanced networks over fine rates about 2/(N+1), from starts of the optimum's size."""
    found = {}
    for depth in _DEPTHS:
        best = 2 / (depth + 1)
        rates = np.geomspace(best / 2, 2 / depth, lab.pick(5, 33, 65))
        config = SweepConfig(
            depths=(depth,), hidden_widths=(32,), inits=("balanced",),
            init_stds=lab.pick((0.1,), (0.02, 0.05, 0.1, 0.2), (0.02, 0.05, 0.1, 0.2)),
            losses=(Loss(2),), learning_rates=tuple(float(f"{r:.5g}") for r in rates),
            num_seeds=lab.pick(2, 10, 30), num_steps=lab.pick(200, 2000, 2000),
            target=Target(_TARGET), precision="float64",
        )  # fmt: skip
        found[depth] = lab.sweep(problem, config)
    return found


def _fewest(results: xr.Dataset, seeds: np.ndarray) -> float:
    """The fewest steps over rates and starts, medians over seeds."""
    steps = crossings(results["step"].values, results["excess_loss"].values, _TARGET)
    return float(np.median(steps[:, :, seeds], axis=2).min())


def _contractions(results: xr.Dataset, seeds: np.ndarray) -> float:
    """The least factor of the distance to the optimum in a step, over rates, near the optimum."""
    excess, steps = results["excess_loss"].values[..., seeds, :], results["step"].values
    early, late = (crossings(steps, excess, level) for level in (1e-6, 1e-9))
    # Half of the logarithm: the excess loss is a distance squared.
    with np.errstate(invalid="ignore"):
        pace = 0.5 * math.log(1e3) / (late - early)
    pace = np.where(np.isfinite(pace), pace, 0.0)
    return float(np.exp(-np.median(pace, axis=-1).max()))


def _plateaus(lab: Context, problem: Problem) -> dict[int, xr.Dataset]:
    """Layer-wise starts below the band, at a rate that is small everywhere."""
    found = {}
    for depth in (3, 4):
        stds = lab.pick((0.03, 0.05), (0.003, 0.005, 0.008, 0.012), (0.002, 0.004, 0.008, 0.012))
        stds = stds if depth == 3 else tuple(3 * s for s in stds)
        config = SweepConfig(
            depths=(depth,), hidden_widths=(32,), inits=("near_zero",), init_stds=stds,
            losses=(Loss(2),), learning_rates=(0.1,), num_seeds=lab.pick(2, 10, 30),
            num_steps=lab.pick(300, 100_000, 300_000), target=Target(_TARGET), precision="float64",
        )  # fmt: skip
        found[depth] = lab.sweep(problem, config)
    return found


def _steps(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations (S,), and (S, seed) steps to the target."""
    found = crossings(results["step"].values, results["excess_loss"].values[:, 0], _TARGET)
    return results["init_std"].values, found


def _exponent(
    lab: Context, depth: int, results: xr.Dataset, name: str, *, moves: bool = False
) -> Effect:
    """Of the steps to the target, or to the first move, in the standard deviation."""
    stds, steps = _steps(results)
    if moves:
        excess = results["excess_loss"].values[:, 0]
        steps = crossings(results["step"].values, excess, level_of(results, 0, 0.9))

    def slope(seeds: np.ndarray) -> float:
        middle = np.median(steps[:, seeds], axis=1)
        if not np.isfinite(middle).all():
            return math.nan
        return float(np.polyfit(np.log(stds), np.log(middle), 1)[0])

    law = plateau_exponent(depth)
    what = "first moves" if moves else "steps"
    label = f"{name}, depth {depth}: exponent of the {what} in the standard deviation, less {law}"
    seeds = lab.pick(2, 10, 30)
    return resampled(label, lambda draw: slope(draw) - law, seeds, unit="")


def _draw(name: str, balanced: dict[int, xr.Dataset], plateaus: dict[int, xr.Dataset]) -> Figure:
    figure, axes = make_figure(1, 2, title=f"Laws of whitened ℓ2, {name}: measured and predicted")
    left, right = axes[0]
    for depth, results in balanced.items():
        colour = colour_of(depth)
        excess, steps = results["excess_loss"].values, results["step"].values
        when = np.median(crossings(steps, excess, _TARGET), axis=2)
        m, r = np.unravel_index(np.argmin(when), when.shape)
        curve = np.median(excess[m, r], axis=0)
        left.plot(steps, curve, color=colour, label=f"depth {depth}")
        law = contraction(depth) ** (2 * (steps - when[m, r])) * _TARGET
        left.plot(steps, law, "--", color=colour, linewidth=1,
                  label=f"contraction {contraction(depth):.3g}")  # fmt: skip
    left.set(yscale="log", xlim=(0, 60), ylim=(1e-9, 2), xlabel="step",
             ylabel=r"excess loss $L - L^*$", title="balanced, at the best rate")  # fmt: skip
    for depth, results in plateaus.items():
        colour = colour_of(depth)
        stds, steps = _steps(results)
        middle = np.median(steps, axis=1)
        right.plot(stds, middle, "o", color=colour, label=f"depth {depth}")
        law = middle[-1] * (stds / stds[-1]) ** plateau_exponent(depth)
        right.plot(stds, law, "--", color=colour, linewidth=1,
                   label=f"power {plateau_exponent(depth)}")  # fmt: skip
    right.set(xscale="log", yscale="log", xlabel="standard deviation of the layers",
              ylabel="steps to 1e-5", title="layer-wise, below the band")  # fmt: skip
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
    for ax in (left, right):
        ax.title.set_fontsize(9)
        legend(ax)
    return figure


def _table(balanced: dict[int, xr.Dataset]) -> pd.DataFrame:
    rows = []
    for depth, results in balanced.items():
        seeds = np.arange(results.sizes["seed"])
        rows.append({
            "depth": depth, "contraction, law": contraction(depth),
            "contraction, measured": _contractions(results, seeds),
            "fewest steps, law": steps_at_the_optimum(depth, 0.5, _TARGET),
            "fewest steps, measured": _fewest(results, seeds),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _test(lab: Context) -> Finding:
    name, problem = lab.first_problem("whiten")
    balanced, plateaus = _balanced(lab, problem), _plateaus(lab, problem)
    seeds = lab.pick(2, 10, 30)
    three, eight = balanced[_DEPTHS[0]], balanced[_DEPTHS[1]]
    law = math.log(contraction(3)) / math.log(contraction(8))
    ratio = resampled(
        f"{name}: fewest steps of depth 8 over depth 3, over the law's {law:.3g}",
        lambda draw: _fewest(eight, draw) / _fewest(three, draw) / law, seeds, unit="",
    )  # fmt: skip
    shrink = [
        resampled(
            f"{name}, depth {depth}: least factor of the distance, over (N−1)/(N+1)",
            lambda draw, runs=runs, depth=depth: _contractions(runs, draw) / contraction(depth),
            seeds, unit="",
        )
        for depth, runs in balanced.items()
    ]  # fmt: skip
    exponents = [_exponent(lab, depth, runs, name) for depth, runs in plateaus.items()]
    moved = [_exponent(lab, d, runs, name, moves=True) for d, runs in plateaus.items()]
    parts = [
        within(ratio, 0.9, 1.1),
        *(within(e, -0.1, 0.1) for e in exponents),
    ]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(ratio, *shrink, *exponents, *moved),
        summary=f"At their best depth 8 takes {law * ratio.value:.3g} times the steps of depth 3, "
        f"where the law says {law:.3g}: {ratio} of it. Near the optimum a step leaves "
        + " and ".join(
            f"{contraction(d) * e.value:.3g} (depth {d}; law {contraction(d):.3g})"
            for d, e in zip(_DEPTHS, shrink, strict=True)
        )
        + " of the distance. Below the band the steps grow with the powers "
        + " and ".join(
            f"{plateau_exponent(d) + e.value:.3g} (depth {d}; law {plateau_exponent(d)})"
            for d, e in zip(plateaus, exponents, strict=True)
        )
        + " of the standard deviation, the first moves with "
        + " and ".join(
            f"{plateau_exponent(d) + e.value:.3g}" for d, e in zip(plateaus, moved, strict=True)
        )
        + "."
        + shortfall(
            verdict,
            "The laws are of the plateau and of the way near the optimum, each alone. Steps from "
            "the start to 1e-5 hold both, and the part that does not depend on the standard "
            "deviation flattens the power: the first moves have it to themselves.",
        ),
        sensitivity="The fewest steps are over 33 rates from half of 2/(N+1) to 2/N and four "
        "standard deviations of the balanced start.",
        tables={"The law and the fewest steps": _table(balanced)},
        figures={"laws": _draw(name, balanced, plateaus)},
    )


CLAIM = Claim(
    id="T6",
    statement="Balanced networks contract by (N−1)/(N+1) a step at their best, and below the band "
    "steps grow as the standard deviation to the power −(N−2).",
    source=f"{SOURCE}; the experiments are those of {PAPER_2019}",
    setting="Whitened ℓ2, hidden width 32, target 1e-5, float64. Balanced: depths 3 and 8, fine "
    "rates about 2/(N+1), four standard deviations. Layer-wise below the band: depths 3 and 4, "
    "rate 0.1.",
    criterion="The fewest steps of depth 8 over those of depth 3 are within 10 % of the law's "
    "ratio, and the exponents within 0.1 of the law's, with their intervals.",
    test=_test,
    minutes=1.6,
    paper_hours=0.2,
)
