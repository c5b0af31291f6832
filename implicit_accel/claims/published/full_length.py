"""ℓ4 at the length of the authors' figure: speed-up as a function of target and horizon.

P0, P3b and P4a share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.curves import Curves, joined
from implicit_accel.claims.drawing import (
    colour_of,
    draw_seeds,
    label_end,
    legend,
    make_figure,
    untangle,
)
from implicit_accel.claims.effects import Design, Effect, Key, Kind
from implicit_accel.claims.estimators import side_of, speed_up
from implicit_accel.claims.published.authors import (
    FIGURES,
    authors_curves,
    distance,
    draw_authors,
)
from implicit_accel.claims.published.rivals import OPTIMIZERS, WARMUP
from implicit_accel.claims.published.theory import crossings, flows, split
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.pages.explorer import Published
from implicit_accel.plotting import COLOURS

FIGURE = "l4_ethanol"
"""The authors' figure that has this length."""

PAPERS_GRID = ("1e-5", "5e-5", "1e-4", "5e-4", "1e-3", "5e-3", "1e-2", "5e-2", "1e-1", "5e-1")

# Curve → its optimizer, its depth, and its rates: of the paper's ten that are stable, and what lies
# between, those that are best at some horizon. Depth's sharpness goes on growing: what is best
# early diverges in the end. Rates in one group are trained together, those that diverge early
# apart: a sweep whose runs have all diverged takes no more time.
_CURVES: dict[str, tuple[Optimizer, int, tuple[tuple[float, ...], ...]]] = {
    "gradient_descent_depth_1": (Optimizer("sgd"), 1, ((2e-3,), (1e-3,))),
    "gradient_descent_depth_2": (Optimizer("sgd"), 2, ((5e-4, 1e-3), (2e-3,))),
    "gradient_descent_depth_3": (Optimizer("sgd"), 3, ((2e-4,), (5e-4,), (1e-3,))),
    "adagrad_depth_1": (Optimizer("adagrad"), 1, ((0.1,),)),
    "adadelta_depth_1": (Optimizer("adadelta"), 1, ((1e-2,),)),
    # About the best stable rate of 20,000 steps, and half of it.
    "warmup_depth_1": (OPTIMIZERS[WARMUP], 1, ((5e-3,), (1e-2,))),
}

ONE, TWO, THREE, ADAGRAD, ADADELTA, WARMED = _CURVES

LABELS = FIGURES[FIGURE] | {THREE: "GD, depth 3", WARMED: f"GD, depth 1, {WARMUP}"}
"""What curves are called in figures and sentences."""

_METHODS = {ADAGRAD: "AdaGrad", ADADELTA: "AdaDelta", WARMED: WARMUP}
"""How models are trained, where not by gradient descent at a constant rate."""

RATES_CAVEAT = (
    "The full-length runs have few rates each; after a first look those that were best at no "
    "horizon were left out (0.5 for AdaGrad, at which it diverges; 5e-3 for AdaDelta). One layer "
    "has the rates 1e-3 and 2e-3, of which only the first is in the paper's grid, and its rivals "
    "(0.1 and 1e-2) a single one each. Whether a higher one is better was not tried at this "
    "length. Searched over 20,000 steps, one layer's best rate is a fifth higher than 2e-3. Its "
    "warm-up has 5e-3 and 1e-2, about the best rate of 20,000 steps and half of it."
)
"""A caveat of every claim that uses these runs."""

# Targets, as shares of the zero predictor's excess loss.
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)

# Where the authors' curves end.
_FIGURE_STEPS = 1_000_000

# Of the losses in the authors' figure.
_HIGHEST = 4.74

# How far back from the end power laws are fitted: a decade and a half.
_TAIL = 10**1.5


@dataclass(frozen=True)
class FullLength:
    """Every curve's runs, on the first problem.

    Attributes:
        name: Of the problem.
        problem: What is fitted.
        runs: Results of one model each, by curve.
    """

    name: str
    problem: Problem
    runs: dict[str, xr.Dataset]

    @property
    def num_steps(self) -> int:
        """The horizon."""
        return int(self.runs[ONE].attrs["num_steps"])

    @property
    def zero_excess(self) -> float:
        """The zero predictor's excess loss."""
        results = self.runs[ONE]
        return float(results["zero_loss"][0] - results["optimum"][0])

    def best(
        self, curve: str, *, at: int | None = None, rates: Sequence[float] = ()
    ) -> tuple[float, np.ndarray]:
        """The rate with the lowest median excess loss at a step, the last one by default.

        Args:
            curve: Its name.
            at: The step.
            rates: The only ones that are compared; all by default.

        Returns:
            The rate, and (seed, step) excess losses, inf from a divergence on.
        """
        results = self.at_rates(curve, rates)
        excess = np.asarray(results["excess_loss"].values[0], float)
        excess = np.where(np.isfinite(excess), excess, np.inf)
        place = -1 if at is None else int(np.searchsorted(results["step"].values, at))
        rate = int(np.argmin(np.median(excess[..., place], axis=1)))
        return float(results["learning_rate"].values[rate]), excess[rate]

    def at_rates(self, curve: str, rates: Sequence[float]) -> xr.Dataset:
        """A curve's results at those of some rates which it has; at all of its own for none."""
        results = self.runs[curve]
        chosen = np.isin(results["learning_rate"].values, rates) if rates else slice(None)
        return results.isel(learning_rate=chosen)

    def steps(self, curve: str) -> np.ndarray:
        """(T,) recorded steps."""
        return np.asarray(self.runs[curve]["step"].values, float)

    def optimum(self) -> float:
        """The least loss."""
        return float(self.runs[ONE]["optimum"][0])


def full_length(context: Context) -> FullLength:
    """Trains all curves, or reads them."""
    name, problem = context.first_problem()
    configs = {
        (curve, rates): SweepConfig(
            depths=(depth,), losses=(Loss(4),), optimizers=(optimizer,), learning_rates=rates,
            num_seeds=context.pick(2, 6, 20), num_steps=context.pick(300, 1_000_000, 1_000_000),
        )
        for curve, (optimizer, depth, groups) in _CURVES.items()
        for rates in groups
    }  # fmt: skip
    trained = dict(zip(configs, context.sweeps(problem, list(configs.values())), strict=True))
    runs = {
        curve: xr.concat(
            [trained[curve, rates] for rates in groups], "learning_rate", data_vars="minimal",
            coords="minimal", compat="equals", join="exact", combine_attrs="drop_conflicts",
        )
        for curve, (_, _, groups) in _CURVES.items()
    }  # fmt: skip
    return FullLength(name, problem, runs)


AT_HORIZON = "speed-up at the horizon"
"""The measure of `to_last`: to the loss that another curve has at a horizon."""


def to_target(found: FullLength, curve: str, base: str, share: float) -> Effect:
    """The speed-up of one curve over another to a share of the zero predictor's excess loss."""
    sides = [side_of(found.runs[c], 0, share) for c in (base, curve)]
    key = Key.of(
        "speed-up", problem=found.name, p=4, depth=_CURVES[curve][1], over=LABELS[base],
        share=share,
    )  # fmt: skip
    return speed_up(*sides).keyed(key)


def to_last(
    found: FullLength,
    curve: str,
    base: str,
    horizon: int | None = None,
    *,
    rates: Sequence[float] = (),
    base_rates: Sequence[float] = (),
) -> Effect:
    """The horizon over the steps in which a curve reaches the loss that another has there.

    Each at the rate that is best for it: the lowest loss at the horizon for the other, the fewest
    steps to that loss for the curve.

    Args:
        found: All curves.
        curve: That of the model.
        base: The other.
        horizon: In steps; the runs' length by default, which the key calls the end.
        rates: The curve's only ones; all of its rates by default.
        base_rates: The same of the other.
    """
    at = {"problem": found.name, "p": 4, "depth": _CURVES[curve][1], "over": LABELS[base]}
    at |= {"end": True} if horizon is None else {"horizon": horizon}
    key = Key.of(AT_HORIZON, **at)
    horizon = horizon or found.num_steps
    _, excess = found.best(base, at=horizon, rates=base_rates)
    place = min(int(np.searchsorted(found.steps(base), horizon)), excess.shape[1] - 1)
    last = float(np.median(excess[:, place]))
    if not math.isfinite(last):
        return Effect("", math.nan, note=f"{LABELS[base]} diverges at every rate").keyed(key)
    share = 1.000001 * last / found.zero_excess
    own = side_of(found.at_rates(curve, rates), 0, share)
    # The other reaches it at the horizon by definition, whatever its seeds.
    there = replace(
        own, rates=np.array([1.0]), steps=np.full((1, own.num_seeds), float(horizon)),
        diverged_before_target=np.zeros((1, own.num_seeds), bool),
    )  # fmt: skip
    design = Design(Kind.SPEED_UP, own.num_seeds, 0.0, float(horizon))
    return replace(speed_up(there, own), design=design).keyed(key)


ON_PAPERS_GRID = "at the horizon, learning rates of the paper's grid"
EQUAL_RATES = "at the horizon, both at 2e-3"
THEIR_FIGURE = "the authors' figure"


def horizon_choices(found: FullLength, measure: str, curve: str) -> list[Effect]:
    """Depth's speed-up over one layer at the horizon, by choices of the learning rates."""
    grid = tuple(parse_learning_rates(PAPERS_GRID))
    choices = {ON_PAPERS_GRID: to_last(found, curve, ONE, rates=grid, base_rates=grid)}
    if curve == TWO:
        equal = to_last(found, TWO, ONE, rates=(2e-3,), base_rates=(2e-3,))
        choices |= {EQUAL_RATES: equal, THEIR_FIGURE: Effect("", authors_speed_up(TWO, ONE))}
    at = {"problem": found.name, "p": 4, "depth": _CURVES[curve][1]}
    return [
        effect.keyed(Key.of(measure, **at, choice=choice)) for choice, effect in choices.items()
    ]


def full_length_curves(found: FullLength, curves: Sequence[str]) -> dict[str, Curves]:
    """What the page lets one explore of some of the curves: beside the authors' own."""
    published = tuple(
        Published(f"their {FIGURES[FIGURE][name]}", *read[["iteration", "loss"]].to_numpy().T)
        for name, read in authors_curves(FIGURE).items()
        if name in curves
    )
    together = joined((_METHODS.get(c, "GD"), found.runs[c]) for c in curves)
    # What the authors show is the loss: where its optimum lies is not known.
    title = f"{found.name}, ℓ4, {found.num_steps:,} steps, beside the authors' losses"
    return {title: Curves(together, published=published, best_by="final")}


def authors_speed_up(curve: str, base: str) -> float:
    """The same of the authors' own curves: the last reading's iteration over the curve's."""
    curves = authors_curves(FIGURE)
    end = curves[base].iloc[-1]
    steps, losses = (curves[curve][name].to_numpy(float) for name in ("iteration", "loss"))
    return float(end["iteration"] / crossings(steps, losses, float(end["loss"])))


def horizons(found: FullLength) -> tuple[int, ...]:
    """A thousand steps and so on, as far as the runs go."""
    decades = (10**k for k in range(2, 9))
    return tuple(h for h in decades if h <= found.num_steps) or (found.num_steps,)


@dataclass(frozen=True)
class PowerLaw:
    """``L − L* ≈ scale · step^(−exponent)`` at the end of the runs at one rate."""

    scale: float
    exponent: float

    def steps_to(self, excess: float) -> float:
        """Where the law is at an excess loss."""
        return (self.scale / excess) ** (1 / self.exponent)


def power_law(found: FullLength, curve: str) -> PowerLaw:
    """Fits the median curve's last decade and a half, at the rate best at the end."""
    steps, (_, excess) = found.steps(curve), found.best(curve)
    middle = np.median(excess, axis=0)
    tail = (steps >= found.num_steps / _TAIL) & np.isfinite(middle) & (middle > 0)
    if np.count_nonzero(tail) < 2:
        return PowerLaw(math.nan, math.nan)
    slope, height = np.polyfit(np.log(steps[tail]), np.log(middle[tail]), 1)
    return PowerLaw(float(np.exp(height)), float(-slope))


def extrapolated(found: FullLength, factor: float) -> tuple[float, float]:
    """Where the power laws of depths 1 and 2 are a factor of steps apart.

    Returns:
        The share of the zero predictor's excess loss, and one layer's steps to it; NaN if the
        laws part no further.
    """
    one, two = power_law(found, ONE), power_law(found, TWO)
    gain = 1 / one.exponent - 1 / two.exponent
    if not gain > 0:
        return math.nan, math.nan
    # (c1/e)^(1/a1) = factor · (c2/e)^(1/a2)
    log_excess = (
        math.log(one.scale) / one.exponent - math.log(two.scale) / two.exponent - math.log(factor)
    ) / gain
    excess = math.exp(log_excess)
    return excess / found.zero_excess, one.steps_to(excess)


def theory_table(context: Context, found: FullLength) -> pd.DataFrame:
    """The gradient flows' speed-up of depth 2, far beyond the runs' length.

    Returns:
        A row for each target: its share, one layer's time over depth 2's at equal rates, and each
        at its own largest stable rate; medians over seeds.
    """
    shares = context.pick((0.5, 0.1), (0.5, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002), SHARES)
    config = SweepConfig(
        depths=(1, 2), losses=(Loss(4),), num_seeds=context.pick(1, 2, 5),
        num_steps=context.pick(10**4, 10**8, 10**8),
    )  # fmt: skip
    table = flows(context, found.problem, config, shares)
    rows = []
    for (share,), own in split(table, "share"):
        times, sharpness = (
            [np.median(own[column].to_numpy()[own["model"].to_numpy() == m]) for m in (0, 1)]
            for column in ("time", "sharpness")
        )
        rows.append({
            "target (%)": 100 * share, "at equal rates": times[0] / times[1],
            "at each largest stable rate": times[0] * sharpness[0] / (times[1] * sharpness[1]),
            "one layer's steps at its": times[0] * sharpness[0] / 2,
        })  # fmt: skip
    return pd.DataFrame(rows)


def distances(found: FullLength) -> dict[str, float]:
    """How far our losses are from the authors' curves, each at its best rate, in decades."""
    shown = {}
    for curve, readings in authors_curves(FIGURE).items():
        _, excess = found.best(curve)
        losses = np.median(excess, axis=0) + found.optimum()
        shown[curve] = distance(found.steps(curve), losses, readings)
    return shown


def style_of(curve: str) -> dict[str, Any]:
    """Colour and line style of a curve of the authors' figure, ours or theirs."""
    if curve.startswith("gradient"):
        return {"color": colour_of(_CURVES[curve][1])}
    colour = COLOURS[{ADAGRAD: 3, ADADELTA: 4, WARMED: 5}[curve]]
    return {"color": colour, "linestyle": (0, (5, 2))}


def loss_figure(found: FullLength, curves: Sequence[str]) -> Figure:
    """Losses at the best rates over the authors' curves, which are thin and grey."""
    figure, axes = make_figure(
        1, 1, title=rf"$\ell_4$ on {found.name}: ours, standardised, and the authors' figure "
        "(grey)", size=(7.2, 4.6),
    )  # fmt: skip
    ax = axes[0, 0]
    ax.set(
        xlim=(max(found.num_steps / 1e4, 1), max(found.num_steps, _FIGURE_STEPS)),
        xlabel="step",
        ylabel="loss",
    )
    draw_authors(ax, FIGURE)
    for curve in curves:
        rate, excess = found.best(curve)
        label = f"{LABELS[curve]}, η = {rate:g}"
        draw_seeds(
            ax, found.steps(curve), excess + found.optimum(), label=label, style=style_of(curve)
        )
    # What diverges leaves the axes.
    ax.set_ylim(top=3 * max(found.zero_excess + found.optimum(), _HIGHEST))
    ax.axhline(found.optimum(), color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
    # The authors' scale of the data is not known, and with it their optimum.
    words = "our optimum; the authors' scaling is not known"
    ax.annotate(words, (ax.get_xlim()[0], found.optimum()), xytext=(4, 3), fontsize=7,
                textcoords="offset points", color="0.4")  # fmt: skip
    untangle(ax)
    return figure


def _speed_up_axis(ax: Axes, label: str) -> None:
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xscale="log", yscale="log", ylabel=label)
    ax.yaxis.set_major_formatter(lambda x, _: f"{x:g}×")


def speed_up_figure(found: FullLength, theory: pd.DataFrame) -> Figure:
    """S against the target and against the horizon: depths 2 and 3, and one layer's warm-up."""
    figure, axes = make_figure(
        1, 2, title=rf"$\ell_4$ on {found.name}: depth's speed-up grows with how far one goes",
        size=(4.8, 3.9),
    )  # fmt: skip
    left, right = axes[0]
    # Bounds may coincide: one is drawn around the other.
    for curve, size in ((TWO, 9), (THREE, 5), (WARMED, 7)):
        colour = style_of(curve)["color"]
        effects = {share: to_target(found, curve, ONE, share) for share in SHARES}
        _draw_effects(left, {100 * s: e for s, e in effects.items()}, LABELS[curve], colour, size)
        later = {h: to_last(found, curve, ONE, h) for h in horizons(found)}
        _draw_effects(right, {float(h): e for h, e in later.items()}, LABELS[curve], colour, size)
    known = np.isfinite(theory["at equal rates"].to_numpy(float))
    for column, line in (("at equal rates", ":"), ("at each largest stable rate", "--")):
        x, y = (theory[name].to_numpy(float)[known] for name in ("target (%)", column))
        left.plot(x, y, color="0.3", linewidth=1.0, linestyle=line, zorder=3,
                  label=f"flow, depth 2, {column}")  # fmt: skip
    theirs = authors_speed_up(TWO, ONE)
    right.plot([found.num_steps], [theirs], "s", color="0.45", markersize=5)
    label_end(right, found.num_steps, theirs, "the authors' own", "0.45")
    _speed_up_axis(left, "speed-up over one layer   slower | faster")
    left.invert_xaxis()
    left.set_xlabel("target: excess loss left, % of the zero predictor's")
    left.plot(
        [], [], "^", color="0.35", markerfacecolor="none", label="at least: one layer misses it"
    )
    legend(left, loc="lower right")
    _speed_up_axis(right, "speed-up to one layer's loss   slower | faster")
    right.set_xlabel("horizon: one layer's steps")
    for ax in (left, right):
        untangle(ax)
    return figure


def _draw_effects(
    ax: Axes, effects: dict[float, Effect], label: str, colour: str, size: float
) -> None:
    known = {x: e for x, e in effects.items() if 0 < e.value < math.inf}
    if not known:
        return
    x = np.array(list(known))
    low, middle, high = (
        np.array([getattr(e, name) for e in known.values()]) for name in ("low", "value", "high")
    )
    # A bound is no point of the curve: an arrow to where it may lie.
    bounds = np.array([e.bound for e in known.values()])
    inside = bounds == ""
    if inside.any():
        ax.errorbar(
            x[inside], middle[inside], color=colour, marker="o", markersize=3.5, linewidth=1.4,
            yerr=[(middle - low)[inside], (np.minimum(high, 1e6) - middle)[inside]], elinewidth=1.0,
        )  # fmt: skip
    for side, marker in ((">", "^"), ("<", "v")):
        ax.plot(x[bounds == side], middle[bounds == side], marker, color=colour, markersize=size,
                markerfacecolor="none")  # fmt: skip
    label_end(ax, x[-1], middle[-1], label, colour)
