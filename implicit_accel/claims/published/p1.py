"""P1: the end-to-end update rule."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import colour_of, draw_seeds, make_figure
from implicit_accel.claims.estimators import median
from implicit_accel.claims.published.plateaus import escapes
from implicit_accel.claims.published.rules import Pair, emulated, ratios, rule_curves
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss

RATES = (2e-3, 1e-3, 5e-4)
PAPERS_RATE = RATES[1]

# The factor in steps or in loss within which curves coincide on a figure.
CLOSE = 1.05

PAPERS, IMBALANCE, BALANCED = "paper's rule", "rule with imbalance", "balanced control"
"""Methods; the control is the paper's rule from balanced initialisations."""

Runs = dict[tuple[str, int, int, int, float], Pair]
"""(method, p, depth, width, learning rate) → networks and rule."""


def run(context: Context) -> Found:
    """Networks from near zero with both rules, and from balanced ones at falling rates."""
    name, problem = context.first_problem()
    runs: Runs = {}

    def add(method: str, config: SweepConfig, rule: np.ndarray | None = None) -> None:
        network = context.sweep(problem, config)
        rules = emulated(context, problem, config)["excess_loss"].values[0]
        zero = float(network["zero_loss"][0] - network["optimum"][0])
        (model,) = config.models
        for i, rate in enumerate(config.learning_rates):
            key = (method, int(model.loss.p), model.depth, model.hidden_widths[0], rate)
            curves = network["excess_loss"].values[0, i], rules[i] if rule is None else rule
            runs[key] = Pair(network["step"].values, *curves, zero)

    for p, depth, width in ((p, n, h) for p in (2, 4) for n in (2, 3) for h in (1, 100)):
        config = SweepConfig(
            depths=(depth,), hidden_widths=(width,), losses=(Loss(float(p)),), init_stds=(0.01,),
            learning_rates=(PAPERS_RATE,), num_seeds=context.pick(2, 12, 20),
            precision="float64", num_steps=context.pick(400, 20_000, 100_000),
        )  # fmt: skip
        if width > 1:
            add(PAPERS, config)
            continue
        times = escapes(context, problem, config)
        # Longer by the slowest seed's plateau, by its law.
        plateau = 1.2 * (float(np.max(times[np.isfinite(times)], initial=0)) / PAPERS_RATE)
        more = int(min(plateau, context.pick(0, 200_000, 10**6)))
        longer = replace(config, num_steps=config.num_steps + more)
        add(PAPERS, longer)
        add(IMBALANCE, longer, rule_curves(context, problem, longer, balanced=False)[1])
        num_steps = round(context.pick(0.2, 4.0, 20.0) / min(RATES))
        falling = replace(config, inits=("balanced",), learning_rates=RATES)
        add(BALANCED, replace(falling, num_steps=num_steps))
    return Found(runs={name: runs}, figures={"rule_and_network": rule_figure(name, runs)})


def steps_ratio(
    runs: Runs, method: str, p: int, depth: int, width: int, end: float, start: float = np.inf
) -> Effect | None:
    """Steps of the network over the rule's, to a share of the zero excess loss, or from another."""
    pair = runs.get((method, p, depth, width, PAPERS_RATE))
    if pair is None:
        return None
    steps = pair.to_share(end)
    both = [bool(known) for known in np.isfinite(steps.sum(axis=0))]
    with np.errstate(invalid="ignore"):
        steps = steps - (pair.to_share(start) if np.isfinite(start) else 0.0)
    note = "" if all(both) else f"both reach it in {sum(both)} of {len(both)} seeds"
    return median(ratios(*np.where(np.isnan(steps), np.inf, steps)), note=note, least=0)


def distance(runs: Runs, method: str, p: int, depth: int, width: int) -> Effect | None:
    """The losses' ratio as a factor: the root mean square along a log axis of steps."""
    pair = runs.get((method, p, depth, width, PAPERS_RATE))
    if pair is None:
        return None
    # Records are evenly spaced on that axis.
    apart = np.sqrt(np.mean(np.square(pair.log_ratio()[:, pair.steps > 0]), axis=1))
    return median(10**apart, least=1)


def order_in_the_rate(runs: Runs, p: int, depth: int) -> Effect:
    """The power of the rate with which network and rule come together, at equal times."""
    pairs = {rate: runs[BALANCED, p, depth, 1, rate] for rate in RATES}
    time = min(rate * float(pair.steps[-1]) for rate, pair in pairs.items())
    times = np.geomspace(time / 300, time, 60)
    apart = []
    for rate, pair in pairs.items():
        seeds = [np.interp(times / rate, pair.steps, row) for row in pair.log_ratio()]
        apart.append(np.sqrt(np.mean(np.square(seeds), axis=1)))
    logs = np.log(np.maximum(apart, 1e-12))
    known = np.isfinite(logs).all(axis=0)
    slopes = np.polyfit(np.log(RATES), np.where(known, logs, 0.0), 1)[0]
    # A run that diverges counts against the claim.
    return median(np.where(known, slopes, np.inf), unit="")


def rule_figure(name: str, runs: Runs) -> Figure:
    """A column for each loss and depth: from near zero at both widths, and the control below."""
    figure, axes = make_figure(3, 4, title=f"Networks and end-to-end rules, {name}", size=(3, 2.5))
    for row, (method, width) in zip(axes, ((PAPERS, 1), (PAPERS, 100), (BALANCED, 1)), strict=True):
        for ax, (p, depth) in zip(row, ((2, 2), (2, 3), (4, 2), (4, 3)), strict=True):
            pair = runs[method, p, depth, width, PAPERS_RATE]
            ax.set(xscale="log", yscale="log", xlim=(1, pair.steps[-1]))
            ax.set_ylim(1e-3 * pair.zero_excess, 2 * pair.zero_excess)
            draw_seeds(ax, pair.steps, pair.network, label="", style={"color": colour_of(depth)})
            for other, line in ((method, "--"), *[(IMBALANCE, ":")] * (method == PAPERS)):
                rule = runs.get((other, p, depth, width, PAPERS_RATE))
                if rule is not None:
                    ax.plot(rule.steps, np.median(rule.rule, axis=0), f"k{line}", label=other)
            ax.set_title(rf"$\ell_{p}$, depth {depth}, width {width}", fontsize=9)
        row[0].set_ylabel(f"{method}\nexcess loss", fontsize=8.5)
    figure.supxlabel("step", fontsize=9)
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower left")
    return figure


CASES = {"p": (2, 4), "depth": (2, 3)}
ALL = {"method": (PAPERS, IMBALANCE, BALANCED), **CASES, "width": (1, 100)}

CLAIM = Claim(
    id="P1",
    statement="The end-to-end update rule on one layer emulates the deep network.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    run=run,
    primary=Check(
        "steps to half", {"method": BALANCED, "p": 2, "depth": 2}, 1 / CLOSE, CLOSE, closed=True
    ),
    choices=("method", "p", "depth"),
    condition="the initialisation is balanced, or the rule has the layers' imbalance",
    measures=(
        Measure("steps to half", partial(steps_ratio, end=0.5), ALL),
        Measure("steps after the plateau", partial(steps_ratio, start=0.9, end=0.2),
                {**ALL, "method": (PAPERS,)}),
        Measure("distance", distance, ALL),
        Measure("power of the rate", order_in_the_rate, CASES),
    ),
    checks=(
        Check("steps after the plateau", {}, 1 / CLOSE, CLOSE, closed=True),
        Check("steps to half", {"method": PAPERS}, 1 / CLOSE, CLOSE, closed=True),
        Check("steps to half", {"method": IMBALANCE}, 1 / CLOSE, CLOSE, closed=True),
        Check("distance", {"method": PAPERS}, high=CLOSE),
        Check("distance", {"method": IMBALANCE}, high=CLOSE),
        Check("power of the rate", {}, 0.8, 1.2, closed=True),
    ),
    explained_by=("T5",),
    minutes=5.4,
    paper_hours=0.6,
)  # fmt: skip
