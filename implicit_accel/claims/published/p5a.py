"""P5a: very deep networks from near zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

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

NUMBERS = {4: 65_000, 8: 100_000}
"""Depth → steps that the paper's text is remembered to give."""


@dataclass(frozen=True, eq=False)
class Moves:
    """First moves of a network's seeds at one learning rate, in steps.

    Attributes:
        rate: The learning rate.
        law: (seed,) by the plateau law; inf for never.
        trained: (seed,) of trained networks; None if none were trained.
        length: The steps of the trained runs.
    """

    rate: float
    law: np.ndarray
    trained: np.ndarray | None = None
    length: float = np.inf

    @property
    def best_known(self) -> np.ndarray:
        """Those of trained networks if there are any, else those by the plateau law."""
        return self.law if self.trained is None else self.trained

    @property
    def note(self) -> str:
        """How the best known moves were found."""
        method = "plateau law" if self.trained is None else "trained"
        return f"{method}, {len(self.best_known)} seeds, rate {self.rate:g}"


Runs = dict[tuple[int, int], Moves]
"""(p, depth) → first moves on one problem."""


def run(context: Context) -> Found:
    """First moves of depth 4 on two problems, and of depth 8 on the first."""
    problems = dict(list(context.problems().items())[:2])
    first = next(iter(problems))
    runs = {name: _moves(context, own, name == first) for name, own in problems.items()}
    earliest = min(float(m.law.min()) for (_, depth), m in runs[first].items() if depth == 8)
    return Found(
        runs=runs,
        facts={"earliest": earliest, "law_seeds": len(runs[first][2, 8].law)},
        figures={"first_moves": moves_figure(runs)},
    )


def _moves(context: Context, problem: Problem, is_first: bool) -> Runs:
    """First moves by the plateau law, and of trained networks where training is affordable."""
    runs: Runs = {}
    probes = deep_run(context, problem, "near_zero")
    for p in (2, 4):
        _, rate = first_moves(probes, model_number(probes, loss_name=f"l{p}", depth=4))
        # Depth 8 has the highest of the paper's rates: at lower ones it moves later still.
        for depth, eta in ((4, rate), (8, PAPERS_RATES[-1]))[: 2 if is_first else 1]:
            grid = partial(SweepConfig, depths=(depth,), losses=(Loss(p),))
            law = escapes(context, problem, grid(num_seeds=context.pick(8, 400, 1000))) / eta
            runs[p, depth] = Moves(eta, law)
            # ℓ4 with 128 features has no short form: its many long runs would take minutes.
            if p == 4 and problem.num_features >= 20:
                continue
            length = context.pick(300, 150_000 if depth == 4 else NUMBERS[8], 1_000_000)
            # A share of 2.5 % differs from 0 with at least 272 seeds.
            seeds = context.pick(8, 300 if is_first else 100, 400)
            results = context.sweep(
                problem, grid(num_seeds=seeds, learning_rates=(eta,), num_steps=length)
            )
            level = (1 - FIRST_MOVE) * float(results["zero_loss"][0] - results["optimum"][0])
            curves = results["excess_loss"].values[0, 0]
            runs[p, depth] = Moves(
                eta, law, crossings(results["step"].values, curves, level), length
            )
    return runs


def first_move(runs: Runs, p: int, depth: int) -> Effect:
    """The median first move, as well as it is known."""
    moves = runs[p, depth]
    most = np.inf if moves.trained is None else moves.length
    return median(moves.best_known, unit=" steps", note=moves.note, least=0.0, most=most)


def moved(runs: Runs, p: int, depth: int, horizon: int) -> Effect | None:
    """The share of seeds that move before some steps, as well as it is known."""
    moves = runs.get((p, depth))
    return None if moves is None else share(moves.best_known < horizon, note=moves.note)


def first_move_by_law(runs: Runs, p: int, depth: int) -> Effect | None:
    """The median first move by the plateau law, where networks were trained as well."""
    moves = runs[p, depth]
    return None if moves.trained is None else median(moves.law, unit=" steps", least=0.0)


def moved_by_law(runs: Runs, p: int, depth: int, horizon: int) -> Effect | None:
    """The share of seeds that move before some steps by the law, if networks were trained too."""
    moves = runs[p, depth]
    return None if moves.trained is None else share(moves.law < horizon)


def trained_over_law(runs: Runs, p: int, depth: int) -> Effect | None:
    """Trained first moves over the law's, seed by seed, both at most the runs' length."""
    moves = runs[p, depth]
    if moves.trained is None:
        return None
    num = min(len(moves.trained), len(moves.law))
    trained, law = (np.minimum(s[:num], moves.length) for s in (moves.trained, moves.law))
    with np.errstate(divide="ignore", invalid="ignore"):
        return median(np.where(trained == law, 1.0, trained / law))


def rate_of_number(runs: Runs, p: int, depth: int) -> Effect:
    """The rate at which the law's median first move is the paper's number of steps."""
    moves = runs[p, depth]
    return median(moves.law * moves.rate / NUMBERS[depth], unit="")


def moves_figure(runs: dict[str, Runs]) -> Figure:
    """Distributions of first moves, a panel for each depth; a colour for each problem and loss."""
    figure, axes = make_figure(
        1, 2, size=(4.4, 3.6), title="When networks first move from near zero"
    )  # fmt: skip
    for ax, (depth, number) in zip(axes[0], NUMBERS.items(), strict=True):
        own = {
            f"{name}, ℓ{p}": runs[name][p, depth]
            for name in runs for p in (2, 4) if (p, depth) in runs[name]
        }  # fmt: skip
        finite = np.concatenate([m.law[np.isfinite(m.law) & (m.law > 0)] for m in own.values()])
        low, high = min([*finite, number]), max([*finite, number])
        ax.set(xscale="log", xlim=(max(low / 2, 10), max(high * 2, 3e5)), ylim=(0, 104),
               xlabel="steps to the first move")  # fmt: skip
        ax.set_title(f"depth {depth}", fontsize=9)
        for (label, moves), colour in zip(own.items(), COLOURS, strict=False):
            shares = 100 * np.arange(1, len(moves.law) + 1) / len(moves.law)
            ax.step(np.sort(moves.law), shares, where="post", color=colour, linewidth=1.4,
                    label=f"{label}, rate {moves.rate:g}")  # fmt: skip
            if moves.trained is not None:
                steps = np.sort(moves.trained)[::8]
                shares = 100 * (8 * np.arange(len(steps)) + 1) / len(moves.trained)
                ax.plot(steps[np.isfinite(steps)], shares[np.isfinite(steps)], "o", markersize=3.2,
                        markerfacecolor="white", markeredgewidth=0.8, color=colour)  # fmt: skip
        ax.axvline(number, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        legend(ax, loc="upper left" if depth == 8 else "lower right")
    axes[0, 0].set_ylabel("seeds that have moved (%)")
    return figure


SHALLOW = {"p": (2, 4), "depth": (4,)}
BEFORE = {**SHALLOW, "horizon": (NUMBERS[4],)}

CLAIM = Claim(
    id="P5a",
    statement="From near zero, depth 4 starts to move only after about 65,000 iterations, and "
    "depth 8 is stuck past 100,000.",
    source=f"{PAPER_2018} (from memory)",
    run=run,
    measures=(
        Measure("first move", first_move, SHALLOW),
        Measure("seeds that have moved", moved, BEFORE),
        Measure(
            "seeds that have moved", moved,
            {"p": (2, 4), "depth": (8,), "horizon": (NUMBERS[8],)},
        ),
        Measure("seeds that have moved by the plateau law", moved_by_law, BEFORE),
        Measure("first move by the plateau law", first_move_by_law, SHALLOW),
        Measure("trained first move over the law's", trained_over_law, SHALLOW),
        Measure("rate with a median of 65,000 steps", rate_of_number, SHALLOW),
    ),
    checks=(
        Check(
            "seeds that have moved", {"problem": FIRST, "depth": 4}, low=2.5, high=97.5,
            closed=True, why="65,000 lies within the central 95 % of the first moves",
        ),
        Check(
            "first move", {"problem": FIRST}, low=1000.0, why="P5b's \"at once\"",
            size=Range(NUMBERS[4] / 2, 2 * NUMBERS[4], closed=True),
        ),
        Check("seeds that have moved", {"problem": FIRST, "depth": 8}, high=5.0),
    ),
    explained_by=("T4",),
    minutes=3.5,
    paper_hours=0.7,
)  # fmt: skip
