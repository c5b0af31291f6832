"""T6: laws of contraction and of the plateau on whitened ℓ2."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import colour_of, legend, make_figure
from implicit_accel.claims.estimators import level_of, resampled
from implicit_accel.claims.published.sources import PAPER_2019
from implicit_accel.claims.published.theory import SOURCE, crossings
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.laws import contraction, plateau_exponent, steps_at_the_optimum

DEPTHS = (3, 8)
PLATEAU_DEPTHS = (3, 4)
TARGET = 1e-5


Trained = dict[str, dict[int, xr.Dataset]]
"""``balanced`` and ``near_zero`` → depth → results."""


def run(context: Context) -> Found:
    """Balanced networks about the best rate, and layer-wise ones on the plateau."""
    name, problem = context.first_problem("whiten")

    def train(depth: int, init: str, stds: tuple[float, ...], rates: tuple[float, ...],
              num_steps: int) -> xr.Dataset:  # fmt: skip
        return context.sweep(problem, SweepConfig(
            depths=(depth,), hidden_widths=(32,), inits=(init,), init_stds=stds, losses=(Loss(2),),
            learning_rates=rates, num_seeds=context.pick(2, 10, 30), num_steps=num_steps,
            target=Target(TARGET), precision="float64",
        ))  # fmt: skip

    trained: Trained = {"balanced": {}, "near_zero": {}}
    for n in DEPTHS:
        stds = context.pick((0.1,), *[(0.02, 0.05, 0.1, 0.2)] * 2)
        rates = np.geomspace(1 / (n + 1), 2 / n, context.pick(5, 33, 65))
        rates = tuple(float(f"{rate:.5g}") for rate in rates)
        steps = context.pick(200, 2000, 2000)
        trained["balanced"][n] = train(n, "balanced", stds, rates, steps)
    for n in PLATEAU_DEPTHS:
        stds = context.pick((0.03, 0.05), (0.003, 0.005, 0.008, 0.012),
                            (0.002, 0.004, 0.008, 0.012))  # fmt: skip
        stds = tuple(std * 3 ** (n - 3) for std in stds)
        steps = context.pick(300, 100_000, 300_000)
        trained["near_zero"][n] = train(n, "near_zero", stds, (0.1,), steps)
    return Found(
        runs={name: trained},
        facts={"law": {n: steps_at_the_optimum(n, 0.5, TARGET) for n in DEPTHS}},
        figures={"laws": draw(name, trained)},
    )


def steps_to(results: xr.Dataset, level: float = TARGET) -> np.ndarray:
    """(model, rate, seed) steps to an excess loss."""
    return crossings(results["step"].values, results["excess_loss"].values, level)


def over_seeds(
    estimate: Callable[[np.ndarray], float], values: np.ndarray, unit: str = ""
) -> Effect:
    """A statistic of values (…, seed), with its interval over seeds."""
    return resampled(lambda seeds: estimate(values[..., seeds]), values.shape[-1], unit=unit)


def fewest(steps: np.ndarray) -> float:
    """The fewest steps over models and rates, medians over seeds."""
    return float(np.median(steps, axis=-1).min())


def fewest_steps(trained: Trained, depth: int) -> Effect:
    """The fewest steps to the target."""
    return over_seeds(fewest, steps_to(trained["balanced"][depth]), " steps")


def ratio_of_steps(trained: Trained) -> Effect:
    """The fewest steps of depth 8 over depth 3, over the law's ratio."""
    law = math.log(contraction(3)) / math.log(contraction(8))
    both = np.stack([steps_to(trained["balanced"][depth]) for depth in DEPTHS])
    return over_seeds(lambda steps: fewest(steps[1]) / fewest(steps[0]) / law, both)


def contraction_over_law(trained: Trained, depth: int) -> Effect:
    """The least factor of the distance to the optimum in a step, near it, over (N−1)/(N+1)."""
    early, late = (steps_to(trained["balanced"][depth], level) for level in (1e-6, 1e-9))
    # Half of the logarithm, since the excess loss is a squared distance.
    with np.errstate(invalid="ignore"):
        pace = 0.5 * math.log(1e3) / (late - early)
    pace = np.where(np.isfinite(pace), pace, 0.0)
    return over_seeds(
        lambda own: float(np.exp(-np.median(own, axis=-1).max()) / contraction(depth)), pace
    )


def excess_exponent(trained: Trained, depth: int, share: float | None = None) -> Effect:
    """The exponent of steps in the standard deviation, less the law's.

    The target is a share of the zero predictor's excess loss, or `TARGET`.
    """
    results = trained["near_zero"][depth]
    level = TARGET if share is None else level_of(results, 0, share)
    logs = np.log(results["init_std"].values)

    def excess(steps: np.ndarray) -> float:
        middle = np.median(steps, axis=1)
        if not np.isfinite(middle).all():
            return math.nan
        return float(np.polyfit(logs, np.log(middle), 1)[0]) - plateau_exponent(depth)

    return over_seeds(excess, steps_to(results, level)[:, 0])


def draw(name: str, trained: Trained) -> Figure:
    """Losses of balanced networks at their best rates, and steps below the band; dashed: laws."""
    figure, axes = make_figure(1, 2, title=f"Laws of whitened ℓ2, {name}: measured and predicted")
    left, right = axes[0]
    for depth, results in trained["balanced"].items():
        when = np.median(steps_to(results), axis=2)
        m, r = np.unravel_index(np.argmin(when), when.shape)
        steps, curve = results["step"].values, results["excess_loss"].values[m, r]
        left.plot(steps, np.median(curve, axis=0), color=colour_of(depth), label=f"depth {depth}")
        law = contraction(depth) ** (2 * (steps - when[m, r])) * TARGET
        left.plot(steps, law, "--", color=colour_of(depth), linewidth=1)
    left.set(yscale="log", xlim=(0, 60), ylim=(1e-9, 2), xlabel="step",
             ylabel=r"excess loss $L - L^*$", title="balanced, at the best rate")  # fmt: skip
    for depth, results in trained["near_zero"].items():
        stds, middle = results["init_std"].values, np.median(steps_to(results), axis=2)
        right.plot(stds, middle, "o", color=colour_of(depth), label=f"depth {depth}")
        law = middle[-1] * (stds / stds[-1]) ** plateau_exponent(depth)
        right.plot(stds, law, "--", color=colour_of(depth), linewidth=1)
    right.set(xscale="log", yscale="log", xlabel="standard deviation of the layers",
              ylabel="steps to 1e-5", title="layer-wise, below the band")  # fmt: skip
    for ax in (left, right):
        legend(ax)
    return figure


CLAIM = Claim(
    id="T6",
    is_theory=True,
    statement="Balanced networks contract by (N−1)/(N+1) a step at their best, and below the band "
    "steps grow as the standard deviation to the power −(N−2).",
    source=f"{SOURCE}; the experiments are those of {PAPER_2019}",
    run=run,
    valid="as a law with an offset, a + b·std^−(N−2), below the band",
    measures=(
        Measure("ratio of steps over the law", ratio_of_steps),
        Measure("contraction over the law", contraction_over_law, {"depth": DEPTHS}),
        Measure("exponent less the law", excess_exponent, {"depth": PLATEAU_DEPTHS}),
        Measure("exponent of the escape less the law", excess_exponent,
                {"depth": PLATEAU_DEPTHS, "share": (0.9,)}),
        Measure("fewest steps", fewest_steps, {"depth": DEPTHS}),
    ),
    checks=(
        Check("ratio of steps over the law", low=0.9, high=1.1, closed=True),
        Check("exponent less the law", low=-0.1, high=0.1, closed=True),
    ),
    minutes=1.6,
    paper_hours=0.2,
)  # fmt: skip
