"""T3: when, and how, a rate becomes unstable."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, judge, shortfall, within
from implicit_accel.claims.drawing import (
    COLOURS,
    draw_agreement,
    legend,
    make_figure,
)
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import median_of, share_of
from implicit_accel.claims.published.theory import (
    COHEN_2021,
    SOURCE,
    drawn,
    known_by,
    split,
    theory_problems,
    where,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.central import central_flow
from implicit_accel.theory.flow import Stack
from implicit_accel.theory.predict import predict
from implicit_accel.theory.surface import make_surface

_OUTCOMES = ("oscillates", "diverges", "undecided")


def _grid(lab: Context, p: float, depth: int, rates: tuple[float, ...]) -> SweepConfig:
    return SweepConfig(
        depths=(depth,), losses=(Loss(p),), learning_rates=rates, num_seeds=lab.pick(2, 5, 20),
        num_steps=lab.pick(300, 20_000, 100_000), record=("sharpness",),
        observations_per_decade=100,
    )  # fmt: skip


def _predictions(lab: Context, problem: Problem, p: float, depth: int) -> pd.DataFrame:
    """Rates about the edge: when each seed passes it, and what then happens to the median one."""

    def make() -> pd.DataFrame:
        (model,) = predict(problem, _grid(lab, p, depth, (1.0,))).models
        edge = float(np.median(model.largest_rates))
        shares = np.geomspace(0.5, 2, lab.pick(3, 9, 17))
        rates = tuple(float(f"{edge * share:.4g}") for share in shares)
        found = predict(problem, _grid(lab, p, depth, rates))
        rows = []
        for rate in rates:
            after = found.models[0].instability(rate)
            within_run = np.isfinite(after) & (after < found.config.num_steps)
            then = found.then(0, rate) if np.median(after) < found.config.num_steps else ""
            for seed, step in enumerate(after):
                step_ = step if within_run[seed] else math.inf
                rows.append((rate, seed, step_, then or "nothing"))
        return pd.DataFrame(rows, columns=["learning rate", "seed", "predicted", "then"])

    base = _grid(lab, p, depth, (1.0,))
    return lab.table("instability", known_by(problem, base, lab.scale), make)


def _first_above(results: xr.Dataset, rate: float, seed: int) -> float:
    """When the recorded sharpness first exceeds 2/η, between observations too; inf: never."""
    run = results.sel(learning_rate=rate).isel(model=0, seed=seed)
    steps, values = run["observation_step"].values, run["sharpness"].values
    above = np.flatnonzero(np.isfinite(values) & (values > 2 / rate))
    ended = np.flatnonzero(~np.isfinite(values))
    if not above.size or (ended.size and ended[0] < above[0]):
        return math.inf
    i = int(above[0])
    return float(np.interp(2 / rate, values[i - 1 : i + 1], steps[i - 1 : i + 1])) if i else 0.0


def _cells(lab: Context, name: str, problem: Problem, p: float, depth: int) -> pd.DataFrame:
    found = _predictions(lab, problem, p, depth)
    rates = tuple(sorted(set(found["learning rate"])))
    results = lab.sweep(problem, _grid(lab, p, depth, rates))
    ends = results["divergence_step"].values[0]
    rows = [
        {
            "problem": name, "loss": f"ℓ{p:g}", "depth": depth, **row,
            "measured": _first_above(results, row["learning rate"], row["seed"]),
            "diverged": ends[rates.index(row["learning rate"]), row["seed"]],
        }
        for row in found.to_dict("records")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _outcomes(passed: pd.DataFrame) -> pd.DataFrame:
    """What was predicted to happen past the edge, and what did, by loss."""
    rows = []
    for (loss, depth), some in split(passed, "loss", "depth"):
        for then in _OUTCOMES:
            chosen = where(some, some["then"] == then)
            if len(chosen):
                rows.append({
                    "loss": loss, "depth": depth, "predicted": then, "runs": len(chosen),
                    "diverged (%)": 100 * float(np.isfinite(chosen["diverged"]).mean()),
                })  # fmt: skip
    return pd.DataFrame(rows, columns=["loss", "depth", "predicted", "runs", "diverged (%)"])


def _told(passed: pd.DataFrame) -> list[Effect]:
    """How often the fate past the edge is told rightly, by what is told, on ℓ2 and above."""
    diverged = np.isfinite(passed["diverged"].to_numpy())
    square = (passed["loss"] == "ℓ2").to_numpy()
    found = []
    for then, on, words in (
        ("oscillates", square, "'oscillates' on ℓ2 is right for"),
        ("diverges", ~square, "'diverges' on p > 2 is right for"),
        ("oscillates", ~square, "'oscillates' on p > 2 is right for"),
    ):
        chosen = (passed["then"] == then).to_numpy() & on
        right = diverged[chosen] == (then == "diverges")
        found.append(share_of(words, right, note=f"{len(right):,} runs"))
    return found


def _averaged(lab: Context, name: str, problem: Problem) -> tuple[Figure, pd.DataFrame]:
    """ℓ2 at depth 3 past the edge: the measured loss, and the central flow's."""
    steps = lab.pick(50, 1000, 3000)
    config = SweepConfig(depths=(3,), losses=(Loss(2),), learning_rates=(1.0,), num_seeds=1)
    (model,) = predict(problem, config).models
    edge = float(np.median(model.largest_rates))
    rates = tuple(float(f"{edge * share:.4g}") for share in (1.2, 2.0, 3.5))
    config = replace(config, learning_rates=rates, num_steps=steps, records_per_decade=10**5)
    results = lab.sweep(problem, config)
    surface = make_surface(problem, Loss(2))
    stack = Stack(drawn(problem, config), surface.rotation)
    loss, theta = stack.traced(surface, stack.initial[0])
    figure, axes = make_figure(
        1, len(rates), title=f"Past the edge of stability: ℓ2, depth 3, {name}", size=(3.6, 3.2)
    )
    rows = []
    for ax, (r, rate) in zip(axes[0], enumerate(rates), strict=True):
        path = central_flow(loss, theta, rate, steps)
        measured = results["excess_loss"].values[0, r, 0]
        window = max(steps // 20, 10)
        mean = np.convolve(measured, np.ones(window) / window, "valid")
        middle = np.arange(len(mean)) + window // 2
        ax.plot(measured, color="0.7", linewidth=0.5, label="measured")
        ax.plot(middle, mean, color=COLOURS[0], linewidth=1.4, label=f"mean of {window} steps")
        ax.plot(path.averaged, "--", color=COLOURS[1], linewidth=1.4, label="central flow")
        ax.plot(path.excess, ":", color=COLOURS[2], linewidth=1.2, label="its centre")
        ax.set(yscale="log", xlabel="step", title=rf"$\eta$ = {rate:g}, {rate / edge:.2g} × edge")
        ax.title.set_fontsize(9)
        end = float(mean[-1])
        rows.append({
            "learning rate": rate, "over the largest stable rate": rate / edge,
            "mean loss at the end, measured": end,
            "predicted": float(path.averaged[-window:].mean()),
            "ratio": float(path.averaged[-window:].mean()) / end,
        })  # fmt: skip
    axes[0, 0].set_ylabel(r"excess loss $L - L^*$")
    legend(axes[0, -1])
    return figure, pd.DataFrame(rows)


def _draw(cells: pd.DataFrame) -> Figure:
    figure, axes = make_figure(1, 2, title="When ηλ passes 2, and when runs diverge")
    for ax, what in zip(axes[0], ("measured", "diverged"), strict=True):
        draw_agreement(
            ax,
            {f"{loss}, depth {depth}": (rows["predicted"], rows[what])
             for (loss, depth), rows in split(cells, "loss", "depth")},
            xlabel="predicted step of instability",
            ylabel="step at which ηλ passes 2" if what == "measured" else "step of divergence",
        )  # fmt: skip
    return figure


def _test(lab: Context) -> Finding:
    problems = theory_problems(lab)
    cells = pd.concat(
        [
            _cells(lab, name, problem, p, depth)
            for name, problem in problems.items()
            for p in lab.pick((2.0,), (2.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))
            for depth in lab.pick((2,), (2, 3), (2, 3, 4))
        ],
        ignore_index=True,
    )
    passed = where(cells, np.isfinite(cells["predicted"]) & (cells["predicted"] > 0))
    effects, parts = [], []
    for (name, loss, depth), rows in split(passed, "problem", "loss", "depth"):
        ratio = rows["measured"].to_numpy() / rows["predicted"].to_numpy()
        effect = median_of(
            f"{name}, {loss}, depth {depth}: measured over predicted step of instability", ratio,
            note=f"{len(ratio)} runs; within 5 %: {100 * np.mean(np.abs(ratio - 1) <= 0.05):.0f} %",
        )  # fmt: skip
        effects.append(effect)
        parts.append(within(effect, 0.95, 1.05))
    told = _told(passed)
    figure, averaged = _averaged(lab, *next(iter(problems.items())))
    late = where(passed, np.isfinite(passed["diverged"]))
    lags = late["diverged"].to_numpy() / late["predicted"].to_numpy()
    lag = np.median(lags) if len(lags) else math.nan
    undecided = int(np.sum(passed["then"].to_numpy() == "undecided"))
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*effects, *told),
        summary=f"{len(passed):,} runs pass the edge of stability. "
        + "; ".join(f"{e.name.split(':')[0]} {e}" for e in effects)
        + f". Those that diverge do so at {lag:.3g} times the predicted step in the median: what "
        "is unstable still has to grow. What then happens the flip bifurcation's third and fourth "
        "derivatives tell: "
        + "; ".join(f"{e.name} {e} ({e.note})" for e in told)
        + f". For {undecided:,} runs they are of one size and decide nothing. On ℓ2 every network "
        "oscillates, held by its third derivatives; above, the swings are soon so large that "
        "higher orders decide, and most networks blow up. Where they oscillate, the central flow "
        "gives the averaged loss: at the end "
        + ", ".join(
            f"{r['ratio']:.2f} of the measured mean at {r['over the largest stable rate']:.2g} "
            "times the largest stable rate"
            for r in averaged.to_dict("records")
        )
        + "."
        + shortfall(
            verdict,
            "Where they part, the rate is past the edge within some tens of steps, where descent "
            "in large steps is no longer near the flow.",
        ),
        sensitivity="The coefficient is that of small swings, along directions that follow within "
        "a few steps; far past the edge swings are not small.",
        tables={"Fates past the edge": _outcomes(passed), "Averaged loss": averaged},
        figures={"instability": _draw(passed), "central_flow": figure},
    )


CLAIM = Claim(
    id="T3",
    statement="The gradient flow tells the step at which a rate becomes unstable, and what happens "
    "there.",
    source=f"{SOURCE}; {COHEN_2021}; Chen & Bruna 2023 (flip bifurcation); Damian, Nichani & Lee "
    "2023, Cohen et al. 2024 (self-stabilisation, central flows)",
    setting="The real data, p = 2, 4, 6, depths 2 and 3, width 1, near-zero start, nine rates from "
    "half to twice the largest stable rate, 20,000 steps, with the measured sharpness.",
    criterion="The measured step at which ηλ first exceeds 2, over the predicted one: the median "
    "over rates and seeds, with its interval, lies within 0.95 and 1.05 for every problem, loss "
    "and depth. The fates past the edge are reported beside it.",
    test=_test,
    minutes=5.2,
    paper_hours=2.0,
)
