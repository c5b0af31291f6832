"""P1: the end-to-end update rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Cause, Finding, Part, below, judge, shortfall, within
from implicit_accel.claims.drawing import colour_of, draw_seeds, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table, median_of
from implicit_accel.claims.published.plateaus import escapes
from implicit_accel.claims.published.rules import rule_curves
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.theory import crossings, end_to_end_starts
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer

# Shares of the zero predictor's excess loss: where the plateau ends, half, and well after it.
_LEFT, _HALF, _LATER = 0.9, 0.5, 0.2

_PAPERS_RATE = 1e-3
_SMALLER_RATES = (2e-3, 1e-3, 5e-4)

_CASES = tuple((Loss(p), depth) for p in (2.0, 4.0) for depth in (2, 3))

# On a figure curves coincide that are closer than this, in steps or in loss.
_CLOSE = 1.05


@dataclass(frozen=True)
class Pair:
    """Networks and a rule on one layer that is to emulate them, from the same matrices.

    Attributes:
        name: What they are, e.g. "ℓ2, depth 2, width 1, near-zero start".
        steps: (T,) recorded steps.
        network: (seed, T) excess losses.
        rule: (seed, T) the rule's.
        zero_excess: The zero predictor's excess loss.
    """

    name: str
    steps: np.ndarray
    network: np.ndarray
    rule: np.ndarray
    zero_excess: float

    def arrivals(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(seed,) steps of the network and of the rule to a share of the zero excess loss."""
        level = share * self.zero_excess
        return crossings(self.steps, self.network, level), crossings(self.steps, self.rule, level)

    def apart(self) -> np.ndarray:
        """(seed, T) by how much their losses differ, as decimal logarithm of the ratio."""
        least = 1e-9 * self.zero_excess  # below it there is rounding alone
        with np.errstate(invalid="ignore"):
            logs = [np.log10(np.maximum(c, least)) for c in (self.network, self.rule)]
            return np.where(np.isfinite(logs[0]) & np.isfinite(logs[1]), logs[0] - logs[1], np.inf)


def ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(seed,) the network's steps over the rule's; no seed is left out.

    inf where the network does not arrive, 0 where only the rule does not: where neither does,
    nothing shows that they coincide, and the seed counts against it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ours / theirs
    # Both at once, at the start: they are together there.
    found = np.where((ours == 0) & (theirs == 0), 1.0, found)
    return np.where(np.isfinite(ours), np.nan_to_num(found, nan=np.inf, posinf=np.inf), np.inf)


def after_the_plateau(pair: Pair) -> Effect:
    """Steps of the network from the plateau's end to a fifth of the excess loss, over the rule's.

    From 90 % to 20 % of the zero predictor's excess loss.
    """
    (early, rules_early), (late, rules_late) = pair.arrivals(_LEFT), pair.arrivals(_LATER)
    with np.errstate(invalid="ignore"):
        ours, theirs = late - early, rules_late - rules_early
    ours, theirs = (np.where(np.isnan(x), np.inf, x) for x in (ours, theirs))
    name = f"after the plateau, {pair.name}"
    return median_of(name, ratios(ours, theirs), note=_arrived(late, rules_late), least=0)


def to_half(pair: Pair) -> Effect:
    """Steps of the network to half of the zero predictor's excess loss, over the rule's."""
    ours, theirs = pair.arrivals(_HALF)
    name = f"to half, {pair.name}"
    return median_of(name, ratios(ours, theirs), note=_arrived(ours, theirs), least=0)


def _arrived(ours: np.ndarray, theirs: np.ndarray) -> str:
    both = np.isfinite(ours) & np.isfinite(theirs)
    return "" if both.all() else f"both arrive in {both.sum()} of {len(both)} seeds"


def along_the_curve(pair: Pair) -> Effect:
    """How far the losses are apart, as a factor: the root mean square along a log axis of steps."""
    drawn = pair.steps > 0  # records are evenly spaced on that axis
    apart = np.sqrt(np.mean(np.square(pair.apart()[:, drawn]), axis=1))
    return median_of(f"along the curve, {pair.name}", 10**apart, least=1)


def order_in_the_rate(pairs: Sequence[Pair], rates: Sequence[float], time: float) -> np.ndarray:
    """(seed,) the power of the rate with which network and rule come together.

    Args:
        pairs: The same starts at several rates.
        rates: Theirs.
        time: Steps times rate up to which they are compared, at the same times for all.
    """
    times = np.geomspace(time / 300, time, 60)
    apart = []
    for pair, rate in zip(pairs, rates, strict=True):
        seeds = [np.interp(times / rate, pair.steps, row) for row in pair.apart()]
        apart.append(np.sqrt(np.mean(np.square(seeds), axis=1)))
    logs = np.log(np.maximum(apart, 1e-12))
    known = np.isfinite(logs).all(axis=0)
    slopes = np.polyfit(np.log(rates), np.where(known, logs, 0.0), 1)[0]
    # Where a run diverges they do not come together: against the claim.
    return np.where(known, slopes, np.inf)


def emulated(lab: Context, problem: Problem, config: SweepConfig) -> xr.Dataset:
    """The paper's rule on one layer, from the end-to-end matrices that a network starts from.

    Args:
        lab: Where it runs.
        problem: What is fitted.
        config: The network's grid, of one model.

    Returns:
        Results of one layer, over the grid's rates and seeds.
    """
    (model,) = config.models
    rule = replace(
        config,
        depths=(1,),
        hidden_widths=(1,),
        optimizers=(Optimizer("end_to_end", (("depth", float(model.depth)),)),),
    )
    return lab.sweep(problem, rule, initial=end_to_end_starts(problem, config))


def _grid(lab: Context, loss: Loss, depth: int, width: int, init: str) -> SweepConfig:
    return SweepConfig(
        depths=(depth,), hidden_widths=(width,), losses=(loss,), inits=(init,), init_stds=(0.01,),
        learning_rates=(_PAPERS_RATE,), num_seeds=lab.pick(2, 12, 20), precision="float64",
        num_steps=lab.pick(400, 20_000, 100_000),
    )  # fmt: skip


def _with_plateaus(lab: Context, problem: Problem, config: SweepConfig) -> SweepConfig:
    """With runs as much longer as the slowest seed's plateau lasts, by its law."""
    times = escapes(lab, problem, config)
    longest = float(np.max(times[np.isfinite(times)], initial=0)) / _PAPERS_RATE
    most = lab.pick(0, 200_000, 10**6)
    return replace(config, num_steps=config.num_steps + int(min(1.2 * longest, most)))


def _pair(name: str, network: xr.Dataset, rule: np.ndarray, rate: int = 0) -> Pair:
    zero = float(network["zero_loss"][0] - network["optimum"][0])
    return Pair(
        name, network["step"].values, network["excess_loss"].values[0, rate], rule, zero
    )  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """What P1 compares.

    Attributes:
        paper: The paper's rule, from near-zero starts at the paper's rate.
        knowing: The rule that knows the layers' imbalance, from near-zero starts of width 1.
        balanced: The paper's rule from balanced starts, for each case at falling rates.
        time: Steps times rate up to which the balanced ones are compared.
    """

    paper: list[Pair]
    knowing: list[Pair]
    balanced: list[list[Pair]]
    time: float


def _train(lab: Context, problem: Problem) -> Pairs:
    paper, knowing, balanced = [], [], []
    time = lab.pick(0.2, 4.0, 20.0)
    for loss, depth in _CASES:
        for width in (1, 100):
            name = f"ℓ{loss.p:g}, depth {depth}, width {width}"
            config = _grid(lab, loss, depth, width, "near_zero")
            config = _with_plateaus(lab, problem, config) if width == 1 else config
            network = lab.sweep(problem, config)
            rule = emulated(lab, problem, config)["excess_loss"].values[0, 0]
            paper.append(_pair(name, network, rule))
            if width == 1:
                _, rule = rule_curves(lab, problem, config, balanced=False)
                knowing.append(_pair(f"{name}, with imbalance", network, rule))
        config = replace(
            _grid(lab, loss, depth, 1, "balanced"), learning_rates=_SMALLER_RATES,
            num_steps=round(time / min(_SMALLER_RATES)),
        )  # fmt: skip
        network, rule = lab.sweep(problem, config), emulated(lab, problem, config)
        name = f"ℓ{loss.p:g}, depth {depth}, balanced start"
        balanced.append([
            _pair(f"{name}, rate {rate:g}", network, rule["excess_loss"].values[0, i], i)
            for i, rate in enumerate(_SMALLER_RATES)
        ])  # fmt: skip
    return Pairs(paper, knowing, balanced, time)


@dataclass(frozen=True)
class Effects:
    """What P1 is judged by; see `Pairs`.

    Attributes:
        after: Steps after the plateau, the paper's rule.
        half: Steps to half, the paper's rule.
        curve: Distance along the whole curve, the paper's rule.
        orders: Power of the rate with which the curves meet, from balanced starts.
        knowing: Steps to half, and distance along the curve, of the rule that knows the imbalance.
    """

    after: list[Effect]
    half: list[Effect]
    curve: list[Effect]
    orders: list[Effect]
    knowing: list[Effect]


def measure(pairs: Pairs) -> Effects:
    """The claim's effects."""
    orders = [
        median_of(
            f"power of the rate, {at_rates[0].name.rsplit(', ', 1)[0]}",
            order_in_the_rate(at_rates, _SMALLER_RATES, pairs.time), unit="",
        )
        for at_rates in pairs.balanced
    ]  # fmt: skip
    return Effects(
        [after_the_plateau(pair) for pair in pairs.paper],
        [to_half(pair) for pair in pairs.paper],
        [along_the_curve(pair) for pair in pairs.paper],
        orders,
        [of(pair) for of in (to_half, along_the_curve) for pair in pairs.knowing],
    )


def parts(found: Effects) -> list[Part]:
    """The criterion."""
    steps = [*found.after, *found.half, *(e for e in found.knowing if "to half" in e.name)]
    return [
        *(within(effect, 1 / _CLOSE, _CLOSE) for effect in steps),
        *(below(e, _CLOSE) for e in [*found.curve, *found.knowing] if "along" in e.name),
        *(within(effect, 0.8, 1.2) for effect in found.orders),
    ]


def _span(effects: Sequence[Effect]) -> str:
    """From the smallest to the largest, as text."""
    values = [e.value for e in effects]
    low, high = (f"{v:.3g}".replace("inf", "∞") for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _held(effects: Sequence[Effect], verdict_parts: Sequence[Part]) -> str:
    mine = [part for part in verdict_parts if part.effect in effects]
    # Each judged as in the whole verdict: by intervals that hold together.
    held = [j for j in judge(verdict_parts).parts if j.part in mine and j.direction == "as claimed"]
    return f"{len(held)} of {len(mine)} close"


def _draw(name: str, pairs: Pairs) -> Figure:
    """A column for each loss and depth: from near zero at both widths, and the control below."""
    title = f"The end-to-end rule and the network it emulates, {name}, " + r"$\eta$ = 0.001"
    figure, axes = make_figure(3, len(_CASES), title=title, size=(2.9, 2.5))
    control = [at_rates[_SMALLER_RATES.index(_PAPERS_RATE)] for at_rates in pairs.balanced]
    rows = {
        "near zero, width 1": pairs.paper[0::2],
        "near zero, width 100": pairs.paper[1::2],
        "balanced control, width 1": control,
    }
    for row, (words, some) in enumerate(rows.items()):
        for column, (pair, (loss, depth)) in enumerate(zip(some, _CASES, strict=True)):
            ax = axes[row, column]
            middles = [np.median(c, axis=0) for c in (pair.network, pair.rule)]
            shown = np.concatenate(middles)
            shown = shown[np.isfinite(shown) & (shown > 0)]
            low = max(shown.min() / 1.3, 1e-3 * shown.max())
            ax.set(xscale="log", yscale="log", xlim=(1, pair.steps[-1]))
            ax.set_ylim(low, shown.max() * 1.5)
            drawn = pair.steps > 0
            steps = pair.steps[drawn]
            draw_seeds(ax, steps, pair.network[:, drawn], label="",
                       style={"color": colour_of(depth)})  # fmt: skip
            lines = [("the paper's rule", middles[1], "--")]
            if row == 0:
                knowing = np.median(pairs.knowing[column].rule, axis=0)
                lines.append(("rule with imbalance", knowing, ":"))
            for label, curve, dashes in lines:
                ax.plot(steps, curve[drawn], color="black", linestyle=dashes, linewidth=1.2,
                        label=label)  # fmt: skip
            ax.plot([], [], color=colour_of(depth), linewidth=1.5, label="network")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
            if row == 0:
                ax.set_title(rf"$\ell_{loss.p:g}$, depth {depth}", fontsize=10)
            if row == 2:
                ax.set_xlabel("step")
            if column == 0:
                ax.set_ylabel(f"{words}\nexcess loss " + r"$L - L^*$", fontsize=8.5)
                ax.legend(fontsize=7, frameon=False, loc="lower left")
    return figure


def _test(lab: Context) -> Finding:
    name, problem = lab.first_problem()
    pairs = _train(lab, problem)
    found = measure(pairs)
    criterion = parts(found)
    verdict = judge(criterion)
    balanced = [at_rates[_SMALLER_RATES.index(_PAPERS_RATE)] for at_rates in pairs.balanced]
    control = [*map(to_half, balanced), *map(along_the_curve, balanced)]
    papers = [*found.half, *found.after, *found.curve]
    everything = [*papers, *found.knowing, *found.orders]
    know_steps = [e for e in found.knowing if "to half" in e.name]
    return Finding(
        verdict=verdict,
        effects=(*everything, *control),
        summary=f"On {name}, network over rule from near zero, at two losses, two depths and two "
        f"widths: steps to half {_span(found.half)} ({_held(found.half, criterion)}), after the "
        f"plateau {_span(found.after)} ({_held(found.after, criterion)}), distance along the "
        f"curve a factor {_span(found.curve)} ({_held(found.curve, criterion)}). Together these, "
        f"the paper's rule from the paper's start, are {_held(papers, criterion)}; the other parts "
        "are controls. The rule that "
        f"knows the imbalance, width 1: steps to half {_span(know_steps)}. From balanced starts "
        f"the curves meet as the rate to the power {_span(found.orders)}; at the paper's rate the "
        f"ratios there are {_span(control[:4])} and the distances {_span(control[4:])}."
        + shortfall(
            verdict,
            "The paper's rule supposes balance. Gaussian weights of standard deviation 0.01 have "
            "rows of norm 0.1 beside scalars of 0.01: small, but not balanced.",
        ),
        cause=Cause(
            ("T5",),
            "Gradient flow conserves the layers' differences, at width 1 a_j² − ‖w_1‖², which the "
            "paper's rule takes for 0. The rule that knows them follows the network from near-zero "
            f"starts as well, to half of the excess loss with ratios of {_span(know_steps)}. "
            "Without them it leaves the plateau at another time: at width 1 too early (ratios of "
            f"{_span(found.half[0::2])}), at width 100, whose layers are larger than balanced ones "
            f"of the same product, too late ({_span(found.half[1::2])}).",
        ),
        sensitivity="The start decides: what is conserved along the way is the layers' imbalance, "
        "and only without it is the rule the limit of small rates. What differs is above all when "
        f"the plateau ends: to half of the excess loss the ratios are {_span(found.half)}, from "
        f"the plateau's end on {_span(found.after)}.",
        caveats=(
            "The learning rate 1e-3 and the depths are the paper's; its width is not known, "
            "ours are 1 and 100. The rule with imbalance is for width 1.",
        ),
        tables={
            "Network and rule": effects_table([*everything, *control]),
            "Balanced starts at falling rates": _by_rate(pairs),
        },
        figures={"rule_and_network": _draw(name, pairs)},
    )


def _by_rate(pairs: Pairs) -> pd.DataFrame:
    rows = []
    for at_rates in pairs.balanced:
        for pair, rate in zip(at_rates, _SMALLER_RATES, strict=True):
            kept = pair.steps <= 1.0001 * pairs.time / rate
            one = Pair(pair.name, pair.steps[kept], pair.network[:, kept], pair.rule[:, kept],
                       pair.zero_excess)  # fmt: skip
            rows.append({"case": pair.name, "distance − 1": along_the_curve(one).value - 1})
    return pd.DataFrame(rows)


CLAIM = Claim(
    id="P1",
    statement="The end-to-end update rule on one layer emulates the deep network.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="Depths 2 and 3, widths 1 and 100, ℓ2 and ℓ4, rate 1e-3, near-zero start; the rule "
    "starts from the network's own end-to-end matrix. Controls: balanced starts at three falling "
    "rates, and the rule that knows the layers' imbalance (both width 1).",
    criterion=f"Within a factor {_CLOSE:g}, so that on a figure the curves coincide, lie with "
    "their intervals: the network's steps over the rule's from 90 to 20 % of the zero predictor's "
    "excess loss (after the plateau) and from the start to 50 %, and the distance of the whole "
    "curves (root mean square of the losses' log-ratio along a log axis of steps); the last two "
    "also for the rule that knows the imbalance. From balanced starts the distance falls as the "
    f"rate to a power between 0.8 and 1.2 (rates {', '.join(f'{r:g}' for r in _SMALLER_RATES)}): "
    "the rule is the limit of small steps. A seed of which neither arrives counts against the "
    "claim.",
    test=_test,
    minutes=5.4,
    paper_hours=0.6,
)
