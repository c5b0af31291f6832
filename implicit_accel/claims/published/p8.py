"""P8: which problem the authors' ℓ4 figure shows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Part, below, judge, shortfall
from implicit_accel.claims.drawing import legend, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table
from implicit_accel.claims.published.authors import (
    FIGURES,
    authors_curves,
    distance,
    draw_authors,
)
from implicit_accel.claims.published.candidates import (
    FEATURES,
    LABELS,
    NORMALISATIONS,
    Candidate,
    choices_of_rows,
    constant_of,
    enumerate_candidates,
    least_loss,
    range_of,
    zero_loss,
)
from implicit_accel.claims.published.full_length import style_of
from implicit_accel.claims.published.scoring import (
    FRAME_TOP,
    GRADIENT_DESCENT,
    PAPER_RATES,
    at_rates,
    fit_scales,
    flow_of,
    rescaled,
)
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.claims.published.stiff import Flow
from implicit_accel.claims.published.theory import where
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Problem
from implicit_accel.errors import DataError, UserError
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss, optimum
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import COLOURS

_FIGURE = "l4_ethanol"
# The frame's top over depth 2's last loss, rounded down.
_LEAST_RATIO = 590.0
# Ten per cent: a little more than half the width of the widest line drawn (0.003 to 0.032 decades,
# RMS, curve by curve), within which a reading may lie.
_SAME = 0.04
# An optimum below this share of the zero map's loss is that of rows which a linear map fits.
_LEAST_SHARE = 1e-12
_FIGURE_STEPS = 1_000_000
# Part of what the tables are known by: raise it when they come out otherwise.
_VERSION = 2

# Curve, optimizer, depth. AdaDelta has two frameworks' defaults.
_RUNS = (
    (GRADIENT_DESCENT[1], Optimizer("sgd"), 1),
    (GRADIENT_DESCENT[2], Optimizer("sgd"), 2),
    ("adagrad_depth_1", Optimizer("adagrad"), 1),
    ("adadelta_depth_1", Optimizer("adadelta"), 1),
    ("adadelta_depth_1", Optimizer("adadelta", (("rho", 0.95), ("eps", 1e-8))), 1),
)
# For each of them, learning rates.
_Rates = list[tuple[float, ...]]
# Distances of gradient descent: ``free`` at a label scale and rates of one's own, ``fixed`` at the
# paper's rates.
_COLUMNS = [
    "rows", "features", "labels", "rank", "n", "zero loss", "optimum", "ratio", "passes",
    "free", "free 1", "free 2", "amplitude", "rate 1", "rate 2",
    "fixed 1", "fixed rate 1", "normalisation",
]  # fmt: skip

# What they are called in the report.
_HEADINGS = {
    "passes": "falls far enough",
    "free": "distance at own rates (decades)",
    "free 1": "of depth 1",
    "free 2": "of depth 2",
    "amplitude": "own scale of the labels",
    "fixed": "distance at the paper's rates (decades)",
    "fixed 1": "of depth 1, paper's rates",
    "fixed 2": "of depth 2, paper's rates",
    "fixed rate 1": "paper's rate, depth 1",
}


@dataclass(frozen=True)
class _Run:
    """The nearest training run to one of the authors' curves."""

    curve: str
    distance: float
    rate: float
    optimizer: Optimizer
    steps: np.ndarray
    losses: np.ndarray


def _candidates(lab: Context) -> list[Candidate]:
    rows = lab.pick(
        choices_of_rows(ranges=False, firsts=(300,))[::5],
        choices_of_rows(firsts=(300, 500, 700, 1000, 1500),
                        randoms=(300, 400, 500, 600, 700), seeds=2),
        choices_of_rows(firsts=range(200, 2500, 100), randoms=range(200, 2500, 100), seeds=5),
    )  # fmt: skip
    features = lab.pick(("standardised", "[0, 1]"), tuple(FEATURES)[:6], tuple(FEATURES))
    labels = lab.pick(("raw", "standardised"), tuple(LABELS)[:4], tuple(LABELS))
    return enumerate_candidates(rows, features, labels)


def _size(problem: Problem) -> float:
    """The root mean square of the features' entries."""
    return float(np.sqrt(np.mean(problem.features**2)))


def _score(
    data: Dataset, members: list[Candidate], optima: dict[tuple[str, ...], tuple[float, int]]
) -> list[dict[str, object]]:
    """Rows of the table of candidates that differ in the labels' scale alone.

    They have one ratio and, at scales of one's own, one pair of flows; and of one layer the flows
    at each one's own scales are the same, rescaled.

    Args:
        data: The rows.
        members: The candidates.
        optima: By rows, span and labels: the optimum as a share of the zero map's loss, and the
            rank. What is not there yet is added.
    """
    rows = []
    fitted: dict[str, object] = {}
    flow = None
    for candidate in members:
        try:
            problem = candidate.problem(data)
        except DataError:  # labels that cannot be scaled so
            continue
        zero = zero_loss(problem)
        span = candidate.rows, FEATURES[candidate.features], LABELS[candidate.labels]
        if span not in optima:
            basis = range_of(problem.features)
            optima[span] = least_loss(problem, basis) / zero, basis.shape[1]
        share, rank = optima[span]
        row = {
            "rows": candidate.rows, "features": candidate.features, "labels": candidate.labels,
            "rank": rank, "n": len(problem.features),
            "zero loss": zero, "optimum": share * zero, "ratio": 1 / max(share, _LEAST_SHARE),
            "passes": share * _LEAST_RATIO <= 1,
        }  # fmt: skip
        if row["passes"]:
            if flow is None:
                flow, fitted = _fit(problem)
            row |= fitted | _one_layer(flow, problem)
        rows.append(row)
    return rows


def _theirs() -> dict[int, pd.DataFrame]:
    """The authors' curves of gradient descent, by depth."""
    curves = authors_curves(_FIGURE)
    return {depth: curves[name] for depth, name in GRADIENT_DESCENT.items()}


def _free(problem: Problem) -> Problem:
    """The problem with its scales taken away: entries of RMS 1, labels to the frame's top."""
    return Problem.from_arrays(
        problem.features / _size(problem),
        problem.targets * (FRAME_TOP / zero_loss(problem)) ** 0.25,
        name=problem.name,
    )


def _fit(problem: Problem) -> tuple[Flow, dict[str, object]]:
    """One layer's flow at scales of one's own, and how near both depths' come to the curves."""
    free = _free(problem)
    flows = {depth: flow_of(free, depth) for depth in GRADIENT_DESCENT}
    fit = fit_scales(flows, FRAME_TOP, _theirs())
    if fit is None:
        return flows[1], {}
    found: dict[str, object] = {"amplitude": fit.amplitude, "free": fit.total}
    for depth, flow in flows.items():
        found[f"free {depth}"] = fit.distances[depth]
        found[f"rate {depth}"] = fit.rates[depth] / flow.sharpness
    return flows[1], found


def _one_layer(flow: Flow, problem: Problem) -> dict[str, object]:
    """How near one layer comes at the best of the paper's rates, over sums and means."""
    curve = _theirs()[1]
    best = (math.inf, math.nan, "")
    for normalisation in NORMALISATIONS:
        constant = constant_of(normalisation, len(problem.features)) ** 0.25
        labels = constant * (zero_loss(problem) / FRAME_TOP) ** 0.25
        own = rescaled(flow, features=constant * _size(problem), labels=labels)
        best = min(best, (*at_rates(own, curve), normalisation), key=lambda found: found[0])
    return {"fixed 1": best[0], "fixed rate 1": best[1], "normalisation": best[2] or "none"}


def _evaluate(lab: Context, data: Dataset, candidates: list[Candidate]) -> pd.DataFrame:
    """A row for each candidate: its ratio, and its flows' distances if it passes the test."""

    def make() -> pd.DataFrame:
        tell = lab.tell("candidates")
        rows: list[dict[str, object]] = []
        optima: dict[tuple[str, ...], tuple[float, int]] = {}
        for _, group in itertools.groupby(
            enumerate(candidates), lambda c: (c[1].rows, c[1].features, LABELS[c[1].labels])
        ):
            numbers, members = zip(*group, strict=True)
            rows += _score(data, list(members), optima)
            tell(numbers[-1] / len(candidates))
        table = pd.DataFrame(rows).reindex(columns=_COLUMNS)
        return table.fillna({"normalisation": "none"})

    return lab.table("candidates", (data.fingerprint, candidates, _VERSION), make)


def _two_depths(lab: Context, data: Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """The candidates nearest with one layer at the paper's rates: both depths at them."""
    chosen = where(table, np.isfinite(table["fixed 1"])).nsmallest(lab.pick(2, 60, 300), "fixed 1")

    def make() -> pd.DataFrame:
        tell = lab.tell("depth 2")
        rows = []
        for number, candidate in enumerate(map(_candidate, chosen.to_dict("records"))):
            tell(number / len(chosen))
            problem = candidate.problem(data)
            row: dict[str, object] = {"candidate": str(candidate), "zero loss": zero_loss(problem)}
            for depth, curve in _theirs().items():
                found = at_rates(flow_of(problem, depth), curve)
                row[f"fixed {depth}"], row[f"rate {depth}"] = found
            rows.append(row | vars(candidate))
        found = pd.DataFrame(rows)
        found["fixed"] = np.sqrt((found["fixed 1"] ** 2 + found["fixed 2"] ** 2) / 2)
        return found

    known_by = (data.fingerprint, chosen.to_csv(), _VERSION)
    found = lab.table("two_depths", known_by, make)
    return found.sort_values("fixed", kind="stable", ignore_index=True)


def _candidate(row: dict[Hashable, Any]) -> Candidate:
    """Of a table's row; with the mean over 4 where no sum or mean was the nearest."""
    known = row["normalisation"] in NORMALISATIONS
    normalisation = row["normalisation"] if known else NORMALISATIONS[0]
    return Candidate(row["rows"], row["features"], row["labels"], normalisation)


def _resolved(
    table: pd.DataFrame, count: int, problem_of: Callable[[dict[Hashable, Any]], Problem]
) -> list[dict[Hashable, Any]]:
    """The first so many candidates of a table whose optimum float64 resolves.

    Excess losses, which training records, mean nothing for the others. Rounding hangs on scales:
    it is the problem as it is trained that counts.
    """

    def is_resolved(row: dict[Hashable, Any]) -> bool:
        problem = problem_of(row)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
            try:
                optimum(Loss(4), problem.features, problem.targets)
            except UserError:
                return False
        return True

    return list(itertools.islice(filter(is_resolved, table.to_dict("records")), count))


def _near(rate: float) -> tuple[float, ...]:
    """One of the paper's rates and its neighbours; all ten where the flow tells nothing."""
    if not math.isfinite(rate):
        return PAPER_RATES
    place = PAPER_RATES.index(rate)
    return PAPER_RATES[max(place - 1, 0) : place + 2]


def _train(lab: Context, problem: Problem, rates: _Rates, num_steps: int) -> dict[str, _Run]:
    """By curve, the nearest of runs at some rates (for each of `_RUNS`; without any, none)."""
    curves = authors_curves(_FIGURE)
    found: dict[str, _Run] = {}
    wanted = [(*run, own) for run, own in zip(_RUNS, rates, strict=True) if own]
    configs = [
        SweepConfig(
            depths=(depth,), losses=(Loss(4),), optimizers=(optimizer,), learning_rates=own,
            num_seeds=1, num_steps=num_steps,
        )
        for _, optimizer, depth, own in wanted
    ]  # fmt: skip
    for (name, optimizer, _, own), results in zip(
        wanted, lab.sweeps(problem, configs), strict=True
    ):
        steps = results["step"].values
        for number, rate in enumerate(own):
            losses = results["loss"].values[0, number, 0]
            run = _Run(name, distance(steps, losses, curves[name]), rate, optimizer, steps, losses)
            if name not in found or not run.distance >= found[name].distance:
                found[name] = run
    return found


def _as_long(
    lab: Context, problem: Problem, rates: _Rates, runs: dict[str, _Run]
) -> dict[str, _Run]:
    """Runs as long as the figure: those of gradient descent at the rates that flows have chosen.

    What is nearest early on need not be later; of the others, for which there is no flow, the
    nearest early on has to do.

    Args:
        lab: Where runs are kept.
        problem: What is fitted.
        rates: For each of `_RUNS`, those that shorter runs were trained at.
        runs: The nearest of the shorter ones.
    """
    if lab.pick(smoke=True, standard=False, paper=True):  # as long as they may be
        return runs
    longer: _Rates = []
    for (name, optimizer, _), own in zip(_RUNS, rates, strict=True):
        if name in GRADIENT_DESCENT.values():
            longer.append(own)
        else:
            longer.append((runs[name].rate,) if runs[name].optimizer == optimizer else ())
    return _train(lab, problem, longer, _FIGURE_STEPS)


def _together(runs: Mapping[str, _Run]) -> float:
    """The RMS of the curves' distances."""
    return float(np.sqrt(np.mean([run.distance**2 for run in runs.values()])))


def _size_of_labels(row: dict[Hashable, Any]) -> float:
    """The labels' scale, of those that start at the frame's top."""
    return (row["amplitude"] / FRAME_TOP) ** 0.25


def _free_problem(data: Dataset, row: dict[Hashable, Any]) -> Problem:
    """A candidate at the label scale that its flows fit."""
    free = _free(_candidate(row).problem(data))
    return Problem.from_arrays(free.features, _size_of_labels(row) * free.targets, name=free.name)


def _free_runs(
    lab: Context, data: Dataset, row: dict[Hashable, Any], num_steps: int
) -> dict[str, _Run]:
    """The nearest candidate at scales of one's own, trained at the rates that its flows fit."""
    labels, problem = _size_of_labels(row), _free_problem(data, row)
    adaptive = parse_learning_rates([lab.pick("log:1e-2:1:3", "log:1e-3:10:9", "log:1e-3:10:17")])
    delta = parse_learning_rates([lab.pick("log:1:1e2:3", "log:1e-2:1e4:9", "log:1e-2:1e5:22")])
    # One layer's time is the labels' squared size as fast, the network's with the scalar its cube.
    rates = [(row["rate 1"] / labels**2,), (row["rate 2"] / labels**3,), adaptive, delta, delta]
    return _as_long(lab, problem, rates, _train(lab, problem, rates, num_steps))


def _test(lab: Context) -> Finding:
    data = lab.gas()
    candidates = _candidates(lab)
    table = _evaluate(lab, data, candidates)
    passing = where(table, table["passes"])
    fixed = _two_depths(lab, data, table)
    steps = lab.pick(10_000, 100_000, 1_000_000)
    # The nearest by flow, trained; the nearest of them, and how near.
    trained: list[tuple[Candidate, _Rates, dict[str, _Run]]] = []

    def at_papers(row: dict[Hashable, Any]) -> Problem:
        return _candidate(row).problem(data)

    def at_own(row: dict[Hashable, Any]) -> Problem:
        return _free_problem(data, row)

    for row in _resolved(fixed, lab.pick(1, 3, 10), at_papers):
        candidate = _candidate(row)
        rates = [_near(row["rate 1"]), _near(row["rate 2"]), *3 * [PAPER_RATES]]
        trained.append((candidate, rates, _train(lab, candidate.problem(data), rates, steps)))
    best, rates, runs = min(trained, key=lambda found: _together(found[2]))
    runs = _as_long(lab, best.problem(data), rates, runs)
    free = where(passing, np.isfinite(passing["free"])).sort_values("free", kind="stable")
    (nearest,) = _resolved(free, 1, at_own)
    free_runs = _free_runs(lab, data, nearest, steps)
    parts, effects = _judge(runs, free_runs)
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=effects,
        summary=_summary(table, fixed, best, runs, nearest, steps)
        + shortfall(verdict, _reason(passing)),
        sensitivity=f"With a label scale and rates of one's own, the nearest by flow is "
        f"{_words(nearest)}: {nearest['free 1']:.3f} for one layer and {nearest['free 2']:.3f} "
        f"for depth 2 (start {nearest['amplitude']:.2f}); trained so, over "
        f"{_length(free_runs):,} steps: {_distances(free_runs)}.",
        caveats=(
            "Six readings at 466,000 to 517,000 iterations, in which the figure's legend or an "
            "arrow was taken for a curve, are left out.",
            "Rows that a linear map fits exactly are followed, but trained only if float64 "
            "resolves their optimum.",
            "Flows follow gradient descent at rates below the edge of stability only; of each "
            "network there is one draw of the weights.",
        ),
        tables={
            "At the paper's rates, by flow": fixed.head(20).rename(columns=_HEADINGS),
            "At scales of one's own, by flow": passing.nsmallest(20, "free").rename(
                columns=_HEADINGS
            ),
            "Trained": effects_table(list(effects)),
        },
        figures={
            "best_candidate": _draw_best(best, runs),
            "candidates": _draw_candidates(table),
        },
    )


def _judge(
    runs: Mapping[str, _Run], free_runs: Mapping[str, _Run]
) -> tuple[list[Part], tuple[Effect, ...]]:
    """The claim's part, and all effects: the headline, then curve by curve.

    The figure shows the problem if every curve is as near as the drawn lines can tell.
    """
    farthest = Effect(
        "farthest of the four curves, paper's rates",
        max(run.distance for run in runs.values()), unit=" decades",
    )  # fmt: skip
    single = [
        Effect(f"{FIGURES[_FIGURE][name]}, {how}", run.distance, unit=" decades",
               note=f"learning rate {run.rate:.4g}")
        for how, group in (("paper's rates", runs), ("scales of one's own", free_runs))
        for name, run in group.items()
    ]  # fmt: skip
    return [below(farthest, _SAME)], (farthest, *single)


def _reason(passing: pd.DataFrame) -> str:
    """What is known of why no problem fits, as text; empty if nothing is."""
    one, two = (float(np.nanmin(passing[f"free {depth}"].to_numpy())) for depth in GRADIENT_DESCENT)
    if not one < _SAME < two:
        return ""
    return (
        f"It is depth 2 that none has: with scales of one's own one layer's curve is met, to "
        f"{one:.3f} decades at best, depth 2's beside it to {two:.3f} at best. What else differs "
        "we do not know."
    )


def _words(row: dict[Hashable, Any]) -> str:
    return f"{row['rows']}, features {row['features']}, labels {row['labels']}"


def _length(runs: Mapping[str, _Run]) -> int:
    return max(int(run.steps[-1]) for run in runs.values())


def _distances(runs: Mapping[str, _Run]) -> str:
    return ", ".join(
        f"{FIGURES[_FIGURE][n]} "
        + (f"{run.distance:.3f}" if math.isfinite(run.distance) else "diverges")
        for n, run in runs.items()
    )


def _summary(
    table: pd.DataFrame,
    fixed: pd.DataFrame,
    best: Candidate,
    runs: Mapping[str, _Run],
    nearest: dict[Hashable, Any],
    steps: int,
) -> str:
    passes = int(np.count_nonzero(table["passes"]))
    one = where(table, np.isfinite(table["fixed 1"])).nsmallest(1, "fixed 1").to_dict("records")[0]
    matching = int(np.count_nonzero(table["free"] < _SAME))
    return (
        f"Of {len(table):,} problems made of the data, each with four sums or means of the loss, "
        f"{passes:,} have a start-to-optimum ratio of {_LEAST_RATIO:.0f} or more, as the figure "
        f"needs. With a label scale and rates of one's own the flows of both depths come within "
        f"{_SAME:g} decades (RMS) of the curves for {matching} of them; the nearest is at "
        f"{nearest['free']:.3f}. At the paper's rates one layer alone comes as near as "
        f"{one['fixed 1']:.3f} ({_words(one)}, {one['normalisation']}), both depths as near as "
        f"{fixed['fixed'].iloc[0]:.3f}. Of those trained over {steps:,} steps the best is {best}; "
        f"over {_length(runs):,} steps, each curve at its "
        f"nearest rate: {_distances(runs)}."
    )


def _draw_best(best: Candidate, runs: Mapping[str, _Run]) -> Figure:
    """The authors' curves and the best candidate's."""
    figure, axes = make_figure(1, 1, title="The authors' figure (grey) and the nearest problem "
                               f"found\n{best}", size=(6.4, 4.4))  # fmt: skip
    ax = axes[0, 0]
    draw_authors(ax, _FIGURE)
    for name, run in runs.items():
        shown = (run.steps >= 1000) & np.isfinite(run.losses)
        ax.plot(
            run.steps[shown], run.losses[shown], color=style_of(name)["color"], linewidth=1.6,
            label=f"{FIGURES[_FIGURE][name]}, rate {run.rate:g}: {run.distance:.2f} decades away",
        )  # fmt: skip
    ax.set(xlabel="iteration", ylabel="loss", xlim=(1000, 3e6))
    legend(ax, loc="lower left")
    return figure


def _draw_candidates(table: pd.DataFrame) -> Figure:
    """Start-to-optimum ratio against distance, by features; those that fail the test below."""
    figure, axes = make_figure(
        1, 1, title="Every problem tried, at a label scale and rates of its own",
        size=(6.4, 4.4),
    )  # fmt: skip
    ax = axes[0, 0]
    fitted = where(table, np.isfinite(table["free"]))
    for number, name in enumerate(dict.fromkeys(fitted["features"])):
        rows = where(fitted, fitted["features"] == name)
        ax.plot(
            rows["ratio"], rows["free"], "os^v"[number % 4], markersize=3.5, alpha=0.6,
            markeredgewidth=0, color=COLOURS[number % len(COLOURS)], label=name,
        )  # fmt: skip
    failing = where(table, ~table["passes"].to_numpy(bool))
    ax.plot(failing["ratio"], np.full(len(failing), 2.0), "|", color="0.6", markersize=6)
    ax.axvspan(1, _LEAST_RATIO, color="0.93", zorder=0)
    ax.text(1.3, 1.6, f"ratio below {_LEAST_RATIO:.0f}:\nnot followed ({len(failing):,})",
            fontsize=7.5, va="top", color="0.3")  # fmt: skip
    ax.axhline(_SAME, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)))
    ax.text(3e9, _SAME, "the same problem", fontsize=7.5, va="bottom", ha="right", color="0.3")
    ax.text(1.5e12, 0.03, "fitted exactly", fontsize=7.5, rotation=90, color="0.3")
    ax.set(
        xscale="log", yscale="log", xlim=(1, 1e13), ylim=(0.025, 2.5),
        xlabel="loss of the zero map over the optimum",
        ylabel="distance of both depths, decades (RMS)",
    )  # fmt: skip
    figure.legend(loc="outside right upper", fontsize=7.5, frameon=False, title="features",
                  title_fontsize=7.5)  # fmt: skip
    return figure


CLAIM = Claim(
    id="P8",
    statement="The published ℓ4 figure shows full-batch training on the Ethanol problem, in some "
    "scaling and with the paper's learning rates.",
    source=f"The figure in the blog post of {PAPER_2018}'s authors (read, digitised); the data "
    "set and the rates are recalled from the paper",
    setting="Candidates: all rows, ranges of batches, the first K and K at random; features raw, "
    "centred, standardised, to [0, 1], unit rows, whitened; labels raw, centred, standardised, to "
    "[0, 1]; sums and means of the loss. Those whose loss falls far enough are followed by "
    "gradient flow for depths 1 and 2; the nearest are trained at the paper's ten rates, also with "
    "AdaGrad and AdaDelta.",
    criterion="A problem is found whose four trained curves, each at the nearest of the paper's "
    "rates, all lie below 0.04 decades (10 %, RMS of the loss's logarithm) from the figure's: "
    "half the width of its drawn lines is 0.003 to 0.032.",
    test=_test,
    minutes=6.7,
    paper_hours=12.0,
)
