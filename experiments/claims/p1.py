"""P1: the end-to-end update rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.claims.criteria import Cause, Claim, Effect, Finding, judge, within
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table, median_of, steps_to_level
from experiments.claims.toolkit.sources import PAPER_2018
from experiments.claims.toolkit.theory import end_to_end_starts
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import plot_curves

# Shares of the zero predictor's excess loss at which curves are compared.
_HALF, _LATER = 0.5, 0.2


@dataclass(frozen=True)
class _Pair:
    """A network and the rule that emulates it.

    Attributes:
        loss: What they minimise.
        depth: The network's.
        init: Its initialiser.
        network: Its results.
        rule: The rule's.
    """

    loss: Loss
    depth: int
    init: str
    network: xr.Dataset
    rule: xr.Dataset


def _emulated(lab: Laboratory, problem: Problem, config: SweepConfig) -> xr.Dataset:
    """The rule on one layer, from the end-to-end matrices that a network's grid starts from.

    Args:
        lab: Where it runs.
        problem: What is fitted.
        config: The network's grid, of one model.
    """
    (model,) = config.models
    rule = replace(
        config,
        depths=(1,),
        hidden_widths=(1,),
        optimizers=(Optimizer("end_to_end", (("depth", float(model.depth)),)),),
    )
    return lab.sweep(problem, rule, initial=end_to_end_starts(problem, config))


def _train(lab: Laboratory, problem: Problem) -> Iterator[_Pair]:
    for loss in (Loss(2), Loss(4)):
        for depth in (2, 3):
            for init, steps in (
                ("near_zero", lab.pick(400, 20_000 if depth == 2 else 200_000, 1_000_000)),
                ("balanced", lab.pick(400, 20_000, 1_000_000)),
            ):
                config = SweepConfig(
                    depths=(depth,),
                    losses=(loss,),
                    inits=(init,),
                    init_stds=(0.01,),
                    learning_rates=(1e-3,),
                    num_seeds=lab.pick(2, 8, 20),
                    num_steps=steps,
                )
                network = lab.sweep(problem, config)
                yield _Pair(loss, depth, init, network, _emulated(lab, problem, config))


def _measure(pairs: list[_Pair], init: str, share: float) -> list[Effect]:
    """Steps of the networks to a share of the zero predictor's excess loss, over the rule's."""
    found = []
    for pair in pairs:
        if pair.init != init:
            continue
        name = (
            f"network's steps over the rule's, ℓ{pair.loss.p:g}, depth {pair.depth}, "
            f"{init.replace('_', '-')} start"
        )
        ours, theirs = (steps_to_level(run, 0, share)[0] for run in (pair.network, pair.rule))
        reached = np.isfinite(ours) & np.isfinite(theirs)
        num_steps = pair.network.attrs["num_steps"]
        found.append(
            median_of(name, ours[reached] / theirs[reached])
            if reached.any()
            else Effect(name, math.nan, note=f"not there within {num_steps:,} steps")
        )
    return found


def _after_comma(effect: Effect) -> str:
    return effect.name.split(", ", 1)[1]


def _reason(paper: list[Effect], balanced: list[Effect]) -> str:
    """Where the rule parts from the network, and why, as text; empty if it does not."""
    apart = [e for e in paper if not judge([within(e, 0.95, 1.05)]).holds]
    return (
        " It parts from the network where the start is not balanced: "
        + "; ".join(f"{_after_comma(e)} {e}" for e in apart)
        + ". From a balanced start of the same size the ratios are "
        + ", ".join(str(e) for e in balanced)
        + ": there the curves coincide. The rule assumes balance; Gaussian weights of standard "
        "deviation 0.01 have a vector of norm 0.1 beside scalars of 0.01, which is small but not "
        "balanced."
        if apart
        else ""
    )


def _draw(name: str, pairs: list[_Pair]) -> Figure:
    panels = {
        rf"$\ell_{pair.loss.p:g}$, depth {pair.depth}": {
            who: (run["step"].values, run["excess_loss"].values[0, 0])
            for who, run in (("network", pair.network), ("rule on one layer", pair.rule))
        }
        for pair in pairs
        if pair.init == "near_zero"
    }
    return plot_curves(
        panels,
        title=f"The end-to-end rule and the network it emulates, {name}, "
        r"near-zero start, $\eta$ = 0.001",
        xlabel="step",
        ylabel=r"excess loss $L - L^*$",
    )


def _test(lab: Laboratory) -> Finding:
    name, problem = lab.first_problem()
    pairs = list(_train(lab, problem))
    paper, balanced = (_measure(pairs, init, _HALF) for init in ("near_zero", "balanced"))
    later = _measure(pairs, "near_zero", _LATER)
    return Finding(
        verdict=judge([within(effect, 0.95, 1.05) for effect in paper]),
        effects=(*paper, *balanced),
        summary=f"On {name}, steps of the network to half of the zero predictor's excess loss over "
        f"steps of the rule: {', '.join(f'{_after_comma(e)} {e}' for e in paper)}."
        f"{_reason(paper, balanced)}",
        cause=Cause(
            ("T5",),
            "Gradient flow conserves the layers' differences, a_j² − ‖w_1‖², which the "
            "paper's rule takes for 0. The rule that knows them follows the network from near-zero "
            "starts as well; without them it leaves the plateau too early.",
        ),
        sensitivity="The start decides: what is conserved along the way is the layers' imbalance, "
        "and only without it is the rule the limit of small rates. The curves part on the plateau "
        f"and approach each other after it: to {100 * _LATER:.0f} % the ratios are "
        + ", ".join(str(e) for e in later)
        + ".",
        caveats=(
            "The learning rate 1e-3 and the depths are the paper's; its width is not known, "
            "ours is 1.",
        ),
        tables={"Steps of the network over steps of the rule": effects_table(paper + balanced)},
        figures={"rule_and_network": _draw(name, pairs)},
    )


CLAIM = Claim(
    id="P1",
    statement="The end-to-end update rule on one layer emulates the deep network.",
    source=f"{PAPER_2018} and its authors' blog post (read; details from memory)",
    setting="Depths 2 and 3, width 1, ℓ2 and ℓ4, rate 1e-3, near-zero start; the rule starts "
    "from the network's own end-to-end matrix.",
    criterion="Steps of the network to half of the zero predictor's excess loss, over steps of the "
    "rule, lie within 0.95 and 1.05 with their interval: on a figure such curves coincide.",
    test=_test,
    paper_hours=0.2,
)
