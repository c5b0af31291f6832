"""P5a: very deep networks from near zero."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import FIRST, Check, Claim, Context, Effect, Found, Measure, Range
from implicit_accel.claims.drawing import legend, make_figure
from implicit_accel.claims.estimators import median, model_number, share
from implicit_accel.claims.published.plateaus import FIRST_MOVE, escapes
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.theory import crossings
from implicit_accel.claims.published.very_deep import PAPERS_RATES, deep_run, first_moves
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import COLOURS

# Depth → steps that the paper's text is remembered to give.
NUMBERS = {4: 65_000, 8: 100_000}

BEST, LAW = "best known", "plateau law"
"""Methods: of trained networks if there are any and else by the law; by the law."""


@dataclass(frozen=True, eq=False)
class Moves:
    """First moves of many seeds of one network: (seed,) steps, inf for never, at one rate."""

    steps: np.ndarray
    rate: float
    length: float = np.inf  # of trained runs

    @property
    def note(self) -> str:
        """How they were found."""
        method = LAW if self.length == np.inf else "trained"
        return f"{method}, {len(self.steps)} seeds, rate {self.rate:g}"


Runs = dict[tuple[str, int, int], Moves]
"""(method, p, depth) → first moves on one problem."""


def run(context: Context) -> Found:
    """First moves of depth 4 on two problems, and of depth 8 on the first."""
    problems = dict(list(context.problems().items())[:2])
    first = next(iter(problems))
    runs = {name: _moves(context, own, name == first) for name, own in problems.items()}
    deep = np.concatenate([runs[first][LAW, p, 8].steps for p in (2, 4)])
    facts = {"earliest": float(deep.min()), "seeds": len(deep) // 2}
    return Found(runs=runs, facts=facts, figures={"first_moves": moves_figure(runs)})


def _moves(context: Context, problem: Problem, is_first: bool) -> Runs:
    """First moves by the plateau law, and of trained networks where training is affordable."""
    runs: Runs = {}
    probes = deep_run(context, problem, "near_zero")
    for p in (2, 4):
        _, rate = first_moves(probes, model_number(probes, loss_name=f"l{p}", depth=4))
        # Depth 8 has the highest of the paper's rates: at lower ones it moves later still.
        for depth, eta in ((4, rate), (8, PAPERS_RATES[-1]))[: 2 if is_first else 1]:
            model = SweepConfig(depths=(depth,), losses=(Loss(p),))
            many = replace(model, num_seeds=context.pick(8, 400, 1000))
            law = Moves(escapes(context, problem, many) / eta, eta)
            runs |= {(LAW, p, depth): law, (BEST, p, depth): law}
            # ℓ4 with 128 features has no short form: its many long runs would take minutes.
            if p == 4 and problem.num_features >= 20:
                continue
            length = context.pick(300, 150_000 if depth == 4 else NUMBERS[8], 1_000_000)
            results = context.sweep(problem, replace(
                model, learning_rates=(eta,), num_steps=length,
                # A share of 2.5 % differs from 0 with at least 272 seeds.
                num_seeds=context.pick(8, 300 if is_first else 100, 400),
            ))  # fmt: skip
            level = (1 - FIRST_MOVE) * float(results["zero_loss"][0] - results["optimum"][0])
            curves = results["excess_loss"].values[0, 0]
            steps = crossings(results["step"].values, curves, level)
            runs[BEST, p, depth] = Moves(steps, eta, length)
    return runs


def first_move(runs: Runs, method: str, p: int, depth: int) -> Effect:
    """The median first move."""
    moves = runs[method, p, depth]
    return median(moves.steps, unit=" steps", note=moves.note, least=0.0, most=moves.length)


def moved(runs: Runs, method: str, p: int, depth: int, horizon: int) -> Effect | None:
    """The share of seeds that move before some steps."""
    moves = runs.get((method, p, depth))
    return None if moves is None else share(moves.steps < horizon, note=moves.note)


def trained_over_law(runs: Runs, p: int, depth: int) -> Effect | None:
    """Trained first moves over the law's, seed by seed, both at most the runs' length."""
    trained, law = (runs[method, p, depth] for method in (BEST, LAW))
    seeds = min(len(trained.steps), len(law.steps))
    steps = (np.minimum(moves.steps[:seeds], trained.length) for moves in (trained, law))
    return None if trained is law else median(np.divide(*steps))


def rate_of_number(runs: Runs, p: int, depth: int) -> Effect:
    """The rate at which the law's median first move is the paper's number of steps."""
    law = runs[LAW, p, depth]
    return median(law.steps * law.rate / NUMBERS[depth], unit="")


def moves_figure(runs: dict[str, Runs]) -> Figure:
    """Distributions of first moves, a panel for each depth; a colour for each problem and loss."""
    figure, axes = make_figure(1, 2, title="When networks first move from near zero")
    for ax, (depth, number) in zip(axes[0], NUMBERS.items(), strict=True):
        curves = [(name, p) for name in runs for p in (2, 4) if (LAW, p, depth) in runs[name]]
        for (name, p), colour in zip(curves, COLOURS, strict=False):
            trained, law = (runs[name][method, p, depth] for method in (BEST, LAW))
            ax.ecdf(law.steps, color=colour, label=f"{name}, ℓ{p}, rate {law.rate:g}")
            if trained is not law:
                ax.ecdf(trained.steps, color="black", linestyle=":", linewidth=1.2)
        ax.axvline(number, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set(xscale="log", ylim=(0, 1.04), xlabel=f"steps to the first move, depth {depth}")
        legend(ax)
    axes[0, 0].set_ylabel("share of seeds that have moved")
    return figure


CASES = {"p": (2, 4), "depth": (4,)}

CLAIM = Claim(
    id="P5a",
    statement="From near zero, depth 4 starts to move only after about 65,000 iterations, and "
    "depth 8 is stuck past 100,000.",
    source=f"{PAPER_2018} (from memory)",
    is_read=False,
    run=run,
    untestable="for which loss and learning rate is not known, and they decide it",
    measures=(
        Measure("first move", first_move, {"method": (BEST, LAW), **CASES}),
        Measure("seeds that have moved", moved,
                {"method": (BEST, LAW), **CASES, "horizon": (NUMBERS[4],)}),
        Measure("seeds that have moved", moved,
                {"method": (BEST,), "p": (2, 4), "depth": (8,), "horizon": (NUMBERS[8],)}),
        Measure("trained first move over the law's", trained_over_law, CASES),
        Measure("rate with a median of 65,000 steps", rate_of_number, CASES),
    ),
    checks=(
        Check("seeds that have moved", {"problem": FIRST, "method": BEST, "depth": 4},
              low=2.5, high=97.5, closed=True,
              why="65,000 lies within the central 95 % of the first moves"),
        Check("first move", {"problem": FIRST, "method": BEST}, low=1000.0,
              size=Range(NUMBERS[4] / 2, 2 * NUMBERS[4], closed=True), why="P5b's \"at once\""),
        Check("seeds that have moved", {"problem": FIRST, "method": BEST, "depth": 8}, high=5.0),
    ),
    explained_by=("T4",),
    minutes=3.5,
    paper_hours=0.7,
)  # fmt: skip
