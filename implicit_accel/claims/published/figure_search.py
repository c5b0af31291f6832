"""The search for the problem that the published ℓ4 figure shows: candidates, distances, selection.

A candidate is a choice of rows, of scalings of features and labels, and of a sum or mean of the
loss. Gradient flows of depths 1 and 2 are compared with the published curves of gradient descent,
and the nearest candidates are trained.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg

from implicit_accel.claims.context import Context
from implicit_accel.claims.published.authors import authors_curves, distance
from implicit_accel.claims.published.stiff import Flow, follow_l4
from implicit_accel.claims.published.theory import where
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Problem
from implicit_accel.data.sources.gas import GAS_BATCHES
from implicit_accel.errors import DataError, UserError
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import Loss, optimum
from implicit_accel.optimizers import Optimizer

FIGURE = "l4_ethanol"
FIGURE_STEPS = 1_000_000
GRADIENT_DESCENT = {1: "gradient_descent_depth_1", 2: "gradient_descent_depth_2"}
PAPER_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)
FRAME_TOP = 4.74
"""The largest loss in the figure's frame."""
LEAST_RATIO = 590.0
"""The frame's top over depth 2's last loss, rounded down."""

RUNS = (
    (GRADIENT_DESCENT[1], Optimizer("sgd"), 1),
    (GRADIENT_DESCENT[2], Optimizer("sgd"), 2),
    ("adagrad_depth_1", Optimizer("adagrad"), 1),
    ("adadelta_depth_1", Optimizer("adadelta"), 1),
    ("adadelta_depth_1", Optimizer("adadelta", (("rho", 0.95), ("eps", 1e-8))), 1),
)
"""Curve, optimizer, depth. AdaDelta has the defaults of two frameworks."""

BATCH_ROWS = (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)
"""Rows of class 1 (Ethanol) in batches 1 to 10, in the order of the files."""

FEATURES = {
    "raw": "linear",
    "centred": "centred",
    "standardised": "centred",
    "[0, 1]": "[0, 1]",
    "unit rows": "unit rows",
    "whitened": "centred",
    "divided by deviations": "linear",
    "[-1, 1]": "[-1, 1]",
    "largest 1": "linear",
    "unit rows of standardised": "unit rows of standardised",
    "unit rows of [0, 1]": "unit rows of [0, 1]",
    "raw, and a constant": "affine",
    "[0, 1], and a constant": "affine",
    "standardised, and a constant": "affine",
}
"""Name → the columns' span, which determines the optimum."""

LABELS = {
    "raw": "raw",
    "centred": "centred",
    "standardised": "centred",
    "[0, 1]": "[0, 1]",
    "logarithms": "logarithms",
    "standardised logarithms": "centred logarithms",
}
"""Name → labels that agree with these up to a factor."""

NORMALISATIONS: Mapping[str, Callable[[int], int]] = {
    "mean / 4": lambda n: 1,  # noqa: ARG005
    "mean": lambda n: 4,  # noqa: ARG005
    "sum / 4": lambda n: n,
    "sum": lambda n: 4 * n,
}
"""Sum or mean of n residuals' fourth powers → what it is, times their ``mean / 4``."""

# An optimum below this share of the zero map's loss is not distinguished from 0 in float64.
_NOTHING = 1e-9
_NORM = 1e-12
# Bounds the ratio of the zero map's loss to the optimum, where a linear map fits the rows.
_LEAST_SHARE = 1e-12
_STD = 0.01
# The time that gradient descent covers in 10⁶ steps at a rate below 2 / sharpness; and a share of
# the zero map's loss below every curve.
_FARTHEST, _LOWEST = 2e6, 8e-4
# The zero map's loss, in decades: not below the first reading, 3.93, since the loss falls from it.
_AMPLITUDES = np.arange(np.log10(3.93), 1.3, 0.004)
_SHIFT = 0.005  # decades
# Part of what the tables are known by: raise it when they come out otherwise.
_VERSION = 2
# Distances of gradient descent: ``free`` at the label scale and the rates that fit best, ``fixed``
# at the paper's rates.
_COLUMNS = [
    "rows", "features", "labels", "rank", "n", "zero loss", "optimum", "ratio", "passes",
    "free", "free 1", "free 2", "amplitude", "rate 1", "rate 2",
    "fixed 1", "fixed rate 1", "normalisation",
]  # fmt: skip

Row = Mapping[Hashable, Any]
"""Of a table of candidates."""
Rates = list[tuple[float, ...]]
"""Learning rates for each of `RUNS`."""


@dataclass(frozen=True)
class Candidate:
    """A problem that the figure may show.

    Attributes:
        rows: ``batches A-B`` (in the files' order), ``first K``, or ``random K, seed S``.
        features: One of `FEATURES`; statistics come from the rows themselves.
        labels: One of `LABELS`.
        normalisation: One of `NORMALISATIONS`.
    """

    rows: str
    features: str = "standardised"
    labels: str = "standardised"
    normalisation: str = "mean / 4"

    def __str__(self) -> str:
        """In words."""
        return f"{self.rows}; features {self.features}; labels {self.labels}; {self.normalisation}"

    @classmethod
    def of(cls, row: Row) -> Candidate:
        """A table's row; with the mean over 4 where no sum or mean was the nearest."""
        known = row["normalisation"] in NORMALISATIONS
        normalisation = row["normalisation"] if known else "mean / 4"
        return cls(row["rows"], row["features"], row["labels"], normalisation)

    def problem(self, data: Dataset) -> Problem:
        """The problem whose mean ℓ4 loss, ``mean r⁴ / 4``, is the candidate's loss.

        A constant c before the loss has the same steps of every optimizer as features and labels
        that are c^¼ times as large.

        Args:
            data: Rows in the order of the batches, with one positive label.

        Raises:
            DataError: If there are not that many rows, or the labels cannot be scaled.
        """
        rows = rows_of(self.rows, data)
        X = scale_features(self.features, data.features[rows])
        y = scale_labels(self.labels, data.targets[rows, 0])
        factor = NORMALISATIONS[self.normalisation](len(X)) ** 0.25
        return Problem.from_arrays(factor * X, factor * y, name=str(self))


def candidates(context: Context) -> list[Candidate]:
    """All combinations of rows and scalings, with the loss's mean over 4."""
    hundreds = range(200, 2500, 100)
    rows = context.pick(
        ["batches 1-1", "batches 5-5", "batches 10-10"],
        choices_of_rows((300, 500, 700, 1000, 1500), (300, 400, 500, 600, 700), seeds=2),
        choices_of_rows(hundreds, hundreds, seeds=5),
    )
    features = context.pick(("standardised", "[0, 1]"), tuple(FEATURES)[:6], tuple(FEATURES))
    labels = context.pick(("raw", "standardised"), tuple(LABELS)[:4], tuple(LABELS))
    return list(itertools.starmap(Candidate, itertools.product(rows, features, labels)))


def choices_of_rows(firsts: Iterable[int], randoms: Iterable[int], seeds: int) -> list[str]:
    """Every range of batches, the first K rows, and K rows at random with so many seeds."""
    batches = range(1, len(GAS_BATCHES) + 1)
    return [
        *(f"batches {a}-{b}" for a in batches for b in batches if a <= b),
        *(f"first {k}" for k in firsts),
        *(f"random {k}, seed {seed}" for k in randoms for seed in range(seeds)),
    ]


def rows_of(rows: str, data: Dataset) -> np.ndarray:
    """(n,) row numbers of a choice of rows, increasing; see `Candidate`.

    Where the data are not the 2565 Ethanol rows, batches have the same shares of them.

    Raises:
        DataError: If the data have fewer rows.
    """
    n, (first, *more) = len(data.features), map(int, re.findall(r"\d+", rows))
    if rows.startswith("batches"):
        ends = np.round(np.cumsum([0, *BATCH_ROWS]) * n / sum(BATCH_ROWS)).astype(int)
        return np.arange(ends[first - 1], ends[more[0]])
    if first > n:
        raise DataError(f"rows {rows!r}: the data have {n}")
    if rows.startswith("first"):
        return np.arange(first)
    return np.sort(np.random.default_rng(more[0]).permutation(n)[:first])


def scale_features(name: str, X: np.ndarray) -> np.ndarray:
    """Features (n, d) scaled by one of `FEATURES`, (n, d'); columns that do not vary become 0.

    ``whitened``: to identity covariance, (n, rank). ``largest 1``: each column by its largest
    entry. ``…, and a constant``: with a column of ones.
    """
    scaling, comma, _ = name.partition(", and a constant")
    if comma:
        return np.hstack([scale_features(scaling, X), np.ones((len(X), 1))])
    if scaling.startswith("unit rows"):
        inner = scale_features(scaling.removeprefix("unit rows").removeprefix(" of ") or "raw", X)
        return _divide(inner, np.linalg.norm(inner, axis=1, keepdims=True))
    centred = X - X.mean(axis=0)
    deviations = X.std(axis=0)
    # A column of equal numbers comes out a rounding error away from 0.
    deviations[deviations <= _NORM * np.abs(X).max(axis=0)] = 0
    if scaling == "whitened":
        U, s, _ = scipy.linalg.svd(centred, full_matrices=False)
        return U[:, s > _NORM * s[0]] * np.sqrt(len(X))
    lowest, span = X.min(axis=0), np.ptp(X, axis=0)
    return {
        "raw": lambda: X,
        "centred": lambda: centred,
        "standardised": lambda: _divide(centred, deviations),
        "divided by deviations": lambda: _divide(X, deviations),
        "[0, 1]": lambda: _divide(X - lowest, span),
        "[-1, 1]": lambda: 2 * _divide(X - lowest, span) - 1,
        "largest 1": lambda: _divide(X, np.abs(X).max(axis=0)),
    }[scaling]()


def _divide(X: np.ndarray, by: np.ndarray) -> np.ndarray:
    """X / by; 0 where the divisor is 0."""
    return np.divide(X, by, out=np.zeros_like(X, dtype=float), where=by > 0)


def scale_labels(name: str, y: np.ndarray) -> np.ndarray:
    """Positive labels (n,) scaled by one of `LABELS`.

    Raises:
        DataError: If they are equal and are to be centred, or logarithms are to be taken of labels
            not above 0.
    """
    if "logarithms" in name:
        if not (y > 0).all():
            raise DataError("labels not above 0 have no logarithms")
        return scale_labels(name.removesuffix("logarithms").strip() or "raw", np.log(y))
    if name == "raw":
        return y
    if np.ptp(y) <= _NORM * np.abs(y).max():
        raise DataError(f"labels are constant: {name} they are 0")
    if name == "[0, 1]":
        return (y - y.min()) / np.ptp(y)
    centred = y - y.mean()
    return centred if name == "centred" else centred / y.std()


def zero_loss(problem: Problem) -> float:
    """``mean y⁴ / 4``."""
    return float(Loss(4).mean(problem.targets))


def range_of(X: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns of features (n, d): (n, rank)."""
    U, s, _ = scipy.linalg.svd(X, full_matrices=False)
    return U[:, s > s[0] * max(X.shape) * np.finfo(float).eps]


def least_loss(problem: Problem, basis: np.ndarray) -> float:
    """The smallest ``mean r⁴ / 4``; below 10⁻⁹ of the zero map's it is an upper bound.

    Args:
        problem: What is fitted.
        basis: `range_of` its features.
    """
    Y = problem.targets
    bound = float(Loss(4).mean(Y - basis @ (basis.T @ Y)))
    found = None if bound < _NOTHING * zero_loss(problem) else _optimum(basis * np.sqrt(len(Y)), Y)
    return bound if found is None else found


def _optimum(X: np.ndarray, Y: np.ndarray) -> float | None:
    """The least loss; None if it is too small beside the largest residual for float64."""
    with warnings.catch_warnings():
        # Newton's method may meet Hessians that are singular to rounding; it checks what it finds.
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        try:
            return optimum(Loss(4), X, Y).loss
        except UserError:
            return None


def flow_of(problem: Problem, depth: int, *, seed: int = 0) -> Flow:
    """The flow of depth 1 or 2 (with one hidden scalar) from weights of standard deviation 0.01."""
    layers = Initialiser("near_zero", _STD).draw(
        problem.num_features, (1,) * (depth - 1), 1, bias=False, seed=seed
    )
    lowest = _LOWEST * zero_loss(problem)
    return follow_l4(problem, layers, most=10 ** (depth - 1) * _FARTHEST, lowest=lowest)


def rescaled(flow: Flow, *, features: float, labels: float) -> Flow:
    """The flow of one layer whose features and labels are so many times as large.

    Exact from zero weights: ``L(w) = a⁴ L̂(f w / a)`` has its own time f² a² times as fast.
    """
    pace = (features * labels) ** 2
    return Flow(flow.time / pace, flow.loss * labels**4, flow.sharpness * pace)


def at_rates(
    flow: Flow, curve: pd.DataFrame, rates: Sequence[float] = PAPER_RATES
) -> tuple[float, float]:
    """The distance at the nearest of some learning rates, and that rate.

    Only rates below 2 / sharpness are compared, at which gradient descent follows the flow.

    Returns:
        Inf and NaN if there is none, or none takes the flow past the curve's first iteration.
    """
    found = [(np.inf, np.nan)]
    for rate in rates:
        if rate * flow.sharpness < 2:
            # The flow ends where it is as low as it may go: there it stays.
            steps = np.append(flow.time / rate, 1e12)
            d = distance(steps, np.append(flow.loss, flow.loss[-1]), curve)
            found += [(d, rate)] if np.isfinite(d) else []
    return min(found)


def fit_scales(
    flows: Mapping[int, Flow], zero: float, curves: Mapping[int, pd.DataFrame]
) -> dict[str, float]:
    """The common label scale and the rates, one a depth, that bring flows nearest to the curves.

    The scale is applied after the flow was computed. For one layer that is exact: labels a times as
    large have a⁴ times the loss and a² times the pace. With the scalar it changes the relative size
    of the initialisation, which moves the plateau's end.

    Args:
        flows: By depth.
        zero: The zero map's loss in the flows.
        curves: By depth, with columns ``iteration`` and ``loss``.

    Returns:
        ``amplitude``, the zero map's fitted loss; for each depth its distance ``free 1`` and its
        learning rate ``rate 1``; ``free``, the RMS of the distances. Empty where a flow is too
        short to cover a curve at any stable rate.
    """
    rates, squares = {}, {}
    for depth, flow in flows.items():
        rates[depth], mean, variance = _gaps(flow, zero, curves[depth])
        if not len(mean):
            return {}
        squares[depth] = variance[:, None] + (mean[:, None] - _AMPLITUDES) ** 2
    best = int(np.argmin(sum(square.min(axis=0) for square in squares.values())))
    found = {"amplitude": float(10 ** _AMPLITUDES[best])}
    for depth, square in squares.items():
        place = int(np.argmin(square[:, best]))
        found[f"free {depth}"] = float(np.sqrt(square[place, best]))
        found[f"rate {depth}"] = float(rates[depth][place])
    found["free"] = float(np.sqrt(np.mean(np.square([found[f"free {d}"] for d in flows]))))
    return found


def _gaps(
    flow: Flow, zero: float, curve: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates at which a flow covers a curve, and mean and variance of log₁₀(curve / flow) there."""
    iterations, theirs = (np.log10(curve[c].to_numpy(float)) for c in ("iteration", "loss"))
    times, losses = np.log10(flow.time), np.log10(flow.loss / zero)
    fastest = times[-1] - iterations[-1]
    if np.isfinite(flow.sharpness):
        fastest = min(fastest, np.log10(2 / flow.sharpness))
    rates = np.arange(times[0] - iterations[0], fastest, _SHIFT)
    gaps = theirs - np.interp(rates[:, None] + iterations, times, losses)
    return 10**rates, gaps.mean(axis=1), gaps.var(axis=1)


def published() -> dict[int, pd.DataFrame]:
    """The published curves of gradient descent, by depth."""
    curves = authors_curves(FIGURE)
    return {depth: curves[name] for depth, name in GRADIENT_DESCENT.items()}


def without_scales(problem: Problem) -> Problem:
    """The problem scaled to features of RMS 1 and a zero map's loss at the frame's top."""
    return Problem.from_arrays(
        problem.features / np.sqrt(np.mean(problem.features**2)),
        problem.targets * (FRAME_TOP / zero_loss(problem)) ** 0.25,
        name=problem.name,
    )


def compared(context: Context, data: Dataset) -> pd.DataFrame:
    """A row for each candidate: start-to-optimum ratio, and the distances of flows if it passes."""
    chosen = candidates(context)

    def make() -> pd.DataFrame:
        report = context.reporter("candidates")
        rows: list[dict[str, object]] = []
        optima: dict[tuple[str, ...], tuple[float, int]] = {}
        groups = itertools.groupby(chosen, lambda c: (c.rows, c.features, LABELS[c.labels]))
        for _, members in groups:
            rows += _compared(data, members, optima)
            report(len(rows) / len(chosen))
        return pd.DataFrame(rows).reindex(columns=_COLUMNS).fillna({"normalisation": "none"})

    return context.table("candidates", (data.fingerprint, chosen, _VERSION), make)


def _compared(
    data: Dataset, members: Iterable[Candidate], optima: dict[tuple[str, ...], tuple[float, int]]
) -> Iterator[dict[str, object]]:
    """The rows of candidates that differ in the labels' scale alone.

    They have one ratio and, without their scales, one pair of flows. One layer's flow at each
    candidate's scales is the same, rescaled.

    Args:
        data: The rows.
        members: The candidates.
        optima: By rows, span and labels: the optimum as a share of the zero map's loss, and the
            rank. Missing ones are added.
    """
    flow, fitted = None, {}
    for candidate in members:
        try:
            problem = candidate.problem(data)
        except DataError:  # e.g. constant labels, which cannot be standardised
            continue
        n, zero = len(problem.features), zero_loss(problem)
        span = candidate.rows, FEATURES[candidate.features], LABELS[candidate.labels]
        if span not in optima:
            basis = range_of(problem.features)
            optima[span] = least_loss(problem, basis) / zero, basis.shape[1]
        share, rank = optima[span]
        row: dict[str, object] = {
            "rows": candidate.rows, "features": candidate.features, "labels": candidate.labels,
            "rank": rank, "n": n, "zero loss": zero, "optimum": share * zero,
            "ratio": 1 / max(share, _LEAST_SHARE), "passes": share * LEAST_RATIO <= 1,
        }  # fmt: skip
        if row["passes"]:
            if flow is None:
                free = without_scales(problem)
                flows = {depth: flow_of(free, depth) for depth in GRADIENT_DESCENT}
                flow, fitted = flows[1], fit_scales(flows, FRAME_TOP, published())
            # One layer, at the best of the paper's rates, over sums and means.
            size, best = np.sqrt(np.mean(problem.features**2)), (math.inf, math.nan, "none")
            for normalisation, constant in NORMALISATIONS.items():
                factor = constant(n) ** 0.25
                labels = factor * (zero / FRAME_TOP) ** 0.25
                own = rescaled(flow, features=factor * float(size), labels=labels)
                found = (*at_rates(own, published()[1]), normalisation)
                best = found if found[0] < best[0] else best
            row |= fitted | dict(zip(_COLUMNS[-3:], best, strict=True))
        yield row


def at_papers_rates(context: Context, data: Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """Both depths' flows at the paper's rates, of the candidates that one layer is nearest with."""
    near = where(table, np.isfinite(table["fixed 1"]))
    chosen = near.nsmallest(context.pick(2, 60, 300), "fixed 1")

    def make() -> pd.DataFrame:
        report = context.reporter("depth 2")
        rows = []
        for number, candidate in enumerate(map(Candidate.of, chosen.to_dict("records"))):
            report(number / len(chosen))
            problem = candidate.problem(data)
            row: dict[str, object] = {"candidate": str(candidate), "zero loss": zero_loss(problem)}
            for depth, curve in published().items():
                found = at_rates(flow_of(problem, depth), curve)
                row[f"fixed {depth}"], row[f"rate {depth}"] = found
            rows.append(row | vars(candidate))
        found = pd.DataFrame(rows)
        found["fixed"] = np.sqrt((found["fixed 1"] ** 2 + found["fixed 2"] ** 2) / 2)
        return found

    found = context.table("two_depths", (data.fingerprint, chosen.to_csv(), _VERSION), make)
    return found.sort_values("fixed", kind="stable", ignore_index=True)


def nearest_table(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The twenty nearest candidates of a table, for reading.

    Args:
        table: Of candidates.
        by: ``free``, the distance at own scales and rates, or ``fixed``, at the paper's rates.
    """
    names = ["candidate"] if by == "fixed" else ["rows", "features", "labels"]
    found = table.nsmallest(20, by)
    found = found.filter(items=[*names, "ratio", by, f"{by} 1", "rate 1", f"{by} 2", "rate 2"])
    words = {by: "distance (decades)", f"{by} 1": "of depth 1", f"{by} 2": "of depth 2"}
    return found.rename(columns=words)


def resolved(
    table: pd.DataFrame, problem_of: Callable[[Row], Problem]
) -> Iterator[tuple[Row, Problem]]:
    """The rows of a table whose optimum float64 resolves, with their problems.

    Training records excess losses, which mean nothing for the others. Rounding depends on scales:
    it is the problem as it is trained that counts.
    """
    for row in table.to_dict("records"):
        problem = problem_of(row)
        if _optimum(problem.features, problem.targets) is not None:
            yield row, problem


@dataclass(frozen=True)
class Run:
    """The training run that is nearest to a published curve."""

    distance: float
    rate: float
    optimizer: Optimizer
    steps: np.ndarray
    losses: np.ndarray


def nearest_runs(
    context: Context, problem: Problem, rates: Rates, num_steps: int
) -> dict[str, Run]:
    """By curve, the nearest of the runs at some rates."""
    curves, found = authors_curves(FIGURE), {}
    wanted = [(*run, own) for run, own in zip(RUNS, rates, strict=True) if own]
    configs = [
        SweepConfig(
            depths=(depth,), losses=(Loss(4),), optimizers=(optimizer,), learning_rates=own,
            num_seeds=1, num_steps=num_steps,
        )
        for _, optimizer, depth, own in wanted
    ]  # fmt: skip
    trained = context.sweeps(problem, configs)
    for (name, optimizer, _, own), results in zip(wanted, trained, strict=True):
        steps = results["step"].values
        for rate, (losses,) in zip(own, results["loss"].values[0], strict=True):
            run = Run(distance(steps, losses, curves[name]), rate, optimizer, steps, losses)
            if name not in found or not run.distance >= found[name].distance:
                found[name] = run
    return found


def as_long_as_the_figure(
    context: Context, problem: Problem, rates: Rates, runs: Mapping[str, Run]
) -> dict[str, Run]:
    """The nearest of runs as long as the figure.

    What is nearest early need not be later: gradient descent is trained at the same rates again.
    The other optimizers, for which there is no flow, are trained at the rate nearest early.

    Args:
        context: What it is run with.
        problem: What is fitted.
        rates: Those that the shorter runs were trained at.
        runs: The nearest of the shorter ones.
    """
    if context.pick(smoke=True, standard=False, paper=True):  # as long as they may be
        return dict(runs)
    longer = [
        own if name in GRADIENT_DESCENT.values()
        else (runs[name].rate,) * (runs[name].optimizer == optimizer)
        for (name, optimizer, _), own in zip(RUNS, rates, strict=True)
    ]  # fmt: skip
    return nearest_runs(context, problem, longer, FIGURE_STEPS)


def near(rate: float) -> tuple[float, ...]:
    """One of the paper's rates and its neighbours; all ten for NaN."""
    if not math.isfinite(rate):
        return PAPER_RATES
    place = PAPER_RATES.index(rate)
    return PAPER_RATES[max(place - 1, 0) : place + 2]


def at_own_scales(data: Dataset, row: Row) -> Problem:
    """A candidate without its scales, at the label scale that its flows fit."""
    free = without_scales(Candidate.of(row).problem(data))
    return Problem.from_arrays(free.features, _label_scale(row) * free.targets, name=free.name)


def own_rates(context: Context, row: Row) -> Rates:
    """The rates of `at_own_scales`: those that the flows fit, and grids for the others."""
    scale, parse = _label_scale(row), parse_learning_rates
    # The pace of one layer's flow grows with the labels' square, that of the network's with the
    # cube.
    descent = [(row[f"rate {depth}"] / scale ** (depth + 1),) for depth in GRADIENT_DESCENT]
    adagrad = parse([context.pick("log:1e-2:1:3", "log:1e-3:10:9", "log:1e-3:10:17")])
    adadelta = parse([context.pick("log:1:1e2:3", "log:1e-2:1e4:9", "log:1e-2:1e5:22")])
    return [*descent, adagrad, adadelta, adadelta]


def _label_scale(row: Row) -> float:
    """Of the labels, over that of labels whose zero map's loss is the frame's top."""
    return (row["amplitude"] / FRAME_TOP) ** 0.25
