"""T5: the end-to-end rule from starts that are not balanced."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Direction, Finding, could_be, judge, shortfall, within
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table, level_of, median_of
from implicit_accel.claims.published.rules import rule_curves
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.theory import SOURCE, crossings, flows
from implicit_accel.data.problems import Problem
from implicit_accel.intervals import MIN_SEEDS
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import COLOURS, plot_curves

_SHARES = (0.9, 0.5, 0.2)


# P1's and the paper's rate.
_PAPERS_RATE = 1e-3


def _grids(lab: Context, problem: Problem, p: float, depth: int) -> list[SweepConfig]:
    """At half of the largest stable rate and at the paper's, until three of four seeds arrive.

    At depth 4 the paper's rate would take millions of steps.
    """

    def grid(rate: float, steps: int) -> SweepConfig:
        return SweepConfig(
            depths=(depth,), losses=(Loss(p),), learning_rates=(rate,),
            num_seeds=lab.pick(2, 12, 20), num_steps=steps, precision="float64",
        )  # fmt: skip

    longest = lab.pick(300, 100_000, 10**6)
    found = flows(lab, problem, grid(1.0, longest), (min(_SHARES),))
    half = float(f"{0.5 * np.median(2 / found['sharpness']):.4g}")
    time = float(np.quantile(found["time"], 0.75, method="inverted_cdf"))
    rates = (half, _PAPERS_RATE) if depth < 4 else (half,)
    return [grid(rate, int(min(longest, 1.2 * time / rate + 100))) for rate in rates]


def _measure(
    lab: Context, name: str, problem: Problem, config: SweepConfig
) -> tuple[Effect, Effect, dict[str, Any]]:
    (model,), (rate,) = config.models, config.learning_rates
    network = lab.sweep(problem, config)
    curves = {
        "network": (network["step"].values, network["excess_loss"].values[0, 0]),
        "the paper's rule": rule_curves(lab, problem, config, balanced=True),
        "the rule with imbalance": rule_curves(lab, problem, config, balanced=False),
    }
    label = f"{name}, ℓ{model.loss.p:g}, depth {model.depth}, η = {rate:g}"
    found = {}
    levels = [level_of(network, 0, share) for share in _SHARES]
    when = {
        who: np.stack([crossings(steps, curve, level) for level in levels])
        for who, (steps, curve) in curves.items()
    }
    for who in list(curves)[1:]:
        # A seed's worst target, of those that both have reached.
        both = np.isfinite(when["network"]) & np.isfinite(when[who])
        ratios = np.where(both, when["network"] / np.where(both, when[who], 1), 1.0)
        worst = np.asarray(np.argmax(np.abs(np.log(ratios)), axis=0))
        arrived = np.asarray(both.any(axis=0))
        ratio = np.take_along_axis(ratios, worst[None], axis=0)[0][arrived]
        title = f"{label}, {who}"
        found[who] = (
            median_of(title, ratio, note=f"{arrived.sum()} of {len(arrived)} seeds")
            if arrived.any()
            else Effect(title, math.nan, note="not reached")
        )
    return found["the rule with imbalance"], found["the paper's rule"], {label: curves}


# How each is drawn: the rules over the network, which they are to cover.
_LOOKS: dict[str, dict[str, Any]] = {
    "network": {"color": COLOURS[0], "linewidth": 3.0, "alpha": 0.5},
    "the paper's rule": {"color": COLOURS[1], "linewidth": 1.2},
    "the rule with imbalance": {"color": "black", "linewidth": 1.2, "linestyle": (0, (4, 3))},
}


def _draw(panels: dict[str, Any]) -> Figure:
    return plot_curves(
        panels, title="The network, and the end-to-end rule with and without imbalance",
        xlabel="step", ylabel=r"excess loss $L - L^*$", styles=_LOOKS,
    )  # fmt: skip


def _test(lab: Context) -> Finding:
    ours: list[Effect] = []
    theirs: list[Effect] = []
    papers: list[Effect] = []
    panels: dict[str, Any] = {}
    name, problem = lab.first_problem()
    configs = [
        config
        for p in (2.0, 4.0)
        for depth in lab.pick((2,), (2, 3, 4), (2, 3, 4))
        for config in _grids(lab, problem, p, depth)
    ]
    measured = lab.side_by_side(lambda own, c=c: _measure(own, name, problem, c) for c in configs)
    for config, (with_c, without, curves) in zip(configs, measured, strict=True):
        ours.append(with_c)
        theirs.append(without)
        is_papers = config.learning_rates == (_PAPERS_RATE,)
        papers += [with_c] if is_papers else []
        # At depth 4 seeds that do not arrive are most of them: the table has them.
        if is_papers:
            panels |= curves
    # Of a few seeds there is no interval, or none of the parts' joint confidence that is bounded.
    asked = [within(e, 0.99, 1.01) for e in ours]
    parts = [
        p for p in asked
        if p.effect.design.seeds >= MIN_SEEDS and Direction.AS_CLAIMED in could_be(p, len(asked))
    ]  # fmt: skip
    few = [part.effect for part in asked if part not in parts]
    at_papers = [part for part in parts if part.effect in papers]
    others = [part for part in parts if part.effect not in papers]
    held, held_elsewhere = (judge(some).num_held for some in (at_papers, others))
    known = [e.value for e in theirs if np.isfinite(e.value)]
    worst = max(known, key=lambda v: abs(math.log(v)), default=math.nan)
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*ours, *theirs),
        summary=f"Of {len(at_papers)} comparisons at the paper's rate {held} are "
        f"within 1 %, of {len(others)} at half of the largest stable rate, or at "
        f"depth 4, {held_elsewhere}. Steps of the "
        "network over steps of the rule that knows the imbalance: "
        + "; ".join(
            f"{e.name.split(', ', 1)[1].replace(', the rule with imbalance', '')} {e}" for e in ours
        )
        + f". Without the imbalance they are up to {worst:.3g} apart."
        + shortfall(
            verdict,
            "The rule is the limit of small rates. At half of the largest stable one the plateau "
            "of depth 2 lasts some ten steps, and a step of the network is no small one.",
        ),
        sensitivity="With its conserved differences the rule leaves the plateau when the network "
        "does: what the paper's rule lacks near zero is the size of the layers, not of their "
        "product.",
        caveats=(
            "The paper's rate was added to half of the largest one after a first look.",
            *(f"Too few seeds arrive to judge it: {e.name}: {e} ({e.note})." for e in few),
        ),
        tables={"Steps of the network over steps of the rule": effects_table([*ours, *theirs])},
        figures={"rule_with_imbalance": _draw(panels)},
    )  # fmt: skip


CLAIM = Claim(
    id="T5",
    statement="With the layers' conserved imbalance the end-to-end rule emulates the network from "
    "near-zero starts too.",
    source=f"{SOURCE} (scale_by_unbalanced_end_to_end); {PAPER_2018} for the rule",
    setting="ℓ2 and ℓ4, depths 2 to 4, width 1, near-zero start, half of the largest stable rate "
    "and (depths 2 and 3) the paper's 1e-3, float64, seed by seed; to 90, 50 and 20 % of the zero "
    "predictor's excess loss.",
    criterion="Steps of the network over steps of the rule, the median over seeds with its "
    "interval, lie within 0.99 and 1.01, of each seed at its worst target; where enough seeds "
    "arrive.",
    test=_test,
    minutes=5.2,
    paper_hours=0.5,
)
