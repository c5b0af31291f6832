"""Problems that the authors' ℓ4 figure may show: rows, scalings and sums, and their optima."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Problem
from implicit_accel.data.sources.gas import GAS_BATCHES
from implicit_accel.errors import DataError, UserError
from implicit_accel.linear.losses import Loss, optimum

# Rows of class 1 (Ethanol) in batches 1 to 10, in the order of the files.
BATCH_ROWS = (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)

# Name → the columns' span that it leaves: where two agree, so do their optima.
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
# Name → those that agree with it up to a factor.
LABELS = {
    "raw": "raw",
    "centred": "centred",
    "standardised": "centred",
    "[0, 1]": "[0, 1]",
    "logarithms": "logarithms",
    "standardised logarithms": "centred logarithms",
}
NORMALISATIONS = ("mean / 4", "mean", "sum / 4", "sum")

# A loss's optimum below this share of the zero map's is none that float64 tells from 0.
_NOTHING = 1e-9
_NORM = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A problem that a figure may show.

    Attributes:
        rows: ``batches A-B`` (in the files' order), ``first K``, or ``random K, seed S``.
        features: One of `FEATURES`; statistics come from the rows themselves.
        labels: One of `LABELS`.
        normalisation: One of `NORMALISATIONS`: of the sum or mean of the residuals' fourth powers.

    Raises:
        UserError: If one of them is unknown.
    """

    rows: str
    features: str = "standardised"
    labels: str = "standardised"
    normalisation: str = "mean / 4"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("features", self.features, FEATURES),
            ("labels", self.labels, LABELS),
            ("normalisation", self.normalisation, NORMALISATIONS),
        ):
            if value not in known:
                raise UserError(f"{what} {value!r}: choose from {'; '.join(known)}")
        _numbers_of(self.rows)

    def __str__(self) -> str:
        """In words."""
        return f"{self.rows}; features {self.features}; labels {self.labels}; {self.normalisation}"

    def problem(self, data: Dataset) -> Problem:
        """The problem whose mean ℓ4 loss, ``mean r⁴ / 4``, is the candidate's loss.

        A constant c before the loss is no other loss and no other optimizer's step than features
        and labels that are c^¼ times as large.

        Args:
            data: Rows in the order of the batches, with one positive label.

        Returns:
            Features (n, d) and targets (n, 1).

        Raises:
            DataError: If there are not that many rows, or constant labels are to be scaled.
        """
        rows = rows_of(self.rows, data)
        X = scale_features(self.features, data.features[rows])
        y = scale_labels(self.labels, data.targets[rows, 0])
        factor = constant_of(self.normalisation, len(X)) ** 0.25
        return Problem.from_arrays(factor * X, factor * y, name=str(self))


def constant_of(normalisation: str, n: int) -> int:
    """What one of `NORMALISATIONS` is, of n residuals, times their ``mean / 4``."""
    return {"mean / 4": 1, "mean": 4, "sum / 4": n, "sum": 4 * n}[normalisation]


def _numbers_of(rows: str) -> tuple[str, tuple[int, int]]:
    """Kind and numbers of a choice of rows."""
    kinds = {
        "batches": r"batches (\d+)-(\d+)",
        "first": r"first (\d+)()",
        "random": r"random (\d+), seed (\d+)",
    }
    for kind, pattern in kinds.items():
        match = re.fullmatch(pattern, rows)
        if match:
            a, b = int(match[1]), int(match[2] or 0)
            if kind == "batches" and not 1 <= a <= b <= len(GAS_BATCHES):
                break
            if kind != "batches" and a < 2:
                break
            return kind, (a, b)
    raise UserError(
        f"rows {rows!r}: write 'batches A-B' with 1 <= A <= B <= {len(GAS_BATCHES)}, 'first K' or "
        "'random K, seed S' with K >= 2"
    )


def rows_of(rows: str, data: Dataset) -> np.ndarray:
    """(n,) row numbers of a choice of rows, increasing; see `Candidate`.

    Where the data are not the 2565 Ethanol rows, batches have the same shares of them.

    Raises:
        DataError: If the data have fewer rows.
    """
    kind, (a, b) = _numbers_of(rows)
    n = len(data.features)
    if kind == "batches":
        ends = np.round(np.cumsum([0, *BATCH_ROWS]) * n / sum(BATCH_ROWS)).astype(int)
        return np.arange(ends[a - 1], ends[b])
    if a > n:
        raise DataError(f"rows {rows!r}: the data have {n}")
    if kind == "first":
        return np.arange(a)
    return np.sort(np.random.default_rng(b).permutation(n)[:a])


def scale_features(name: str, X: np.ndarray) -> np.ndarray:
    """Features (n, d) scaled by one of `FEATURES`, (n, d'); columns that do not vary become 0.

    ``whitened``: to identity covariance, (n, rank). ``largest 1``: each column by its largest
    entry. ``…, and a constant``: with a column of ones.
    """
    scaling, comma, _ = name.partition(", and a constant")
    if comma:
        return np.hstack([scale_features(scaling, X), np.ones((len(X), 1))])
    if scaling.startswith("unit rows"):
        inner = scaling.removeprefix("unit rows").removeprefix(" of ")
        return _divide(inner := scale_features(inner or "raw", X), _norms(inner))
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
        raise DataError(f"labels are constant: {name} they are nothing")
    if name == "[0, 1]":
        return (y - y.min()) / np.ptp(y)
    centred = y - y.mean()
    return centred if name == "centred" else centred / y.std()


def _norms(X: np.ndarray) -> np.ndarray:
    return np.linalg.norm(X, axis=1, keepdims=True)


def _divide(X: np.ndarray, by: np.ndarray) -> np.ndarray:
    """X / by, 0 where by is."""
    return np.divide(X, by, out=np.zeros_like(X, dtype=float), where=by > 0)


def zero_loss(problem: Problem) -> float:
    """``mean y⁴ / 4``."""
    return float(Loss(4).mean(problem.targets))


def range_of(X: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns of features (n, d): (n, rank)."""
    U, s, _ = scipy.linalg.svd(X, full_matrices=False)
    return U[:, s > s[0] * max(X.shape) * np.finfo(float).eps]


def least_loss(problem: Problem, basis: np.ndarray | None = None) -> float:
    """The smallest ``mean r⁴ / 4``; below 10⁻⁹ of the zero map's it is an upper bound.

    Args:
        problem: What is fitted.
        basis: `range_of` its features, if it is at hand.
    """
    basis, Y = range_of(problem.features) if basis is None else basis, problem.targets
    bound = float(Loss(4).mean(Y - basis @ (basis.T @ Y)))
    if bound < _NOTHING * zero_loss(problem):
        return bound
    with warnings.catch_warnings():
        # Newton's method may meet Hessians that are singular to rounding; it checks what it finds.
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        try:
            return optimum(Loss(4), basis * np.sqrt(len(Y)), Y).loss
        except UserError:  # too small beside the largest residual for float64
            return bound


def enumerate_candidates(
    rows: Sequence[str], features: Sequence[str], labels: Sequence[str]
) -> list[Candidate]:
    """All combinations, with the loss's mean over 4."""
    return [Candidate(*parts) for parts in itertools.product(rows, features, labels)]


def choices_of_rows(
    *, ranges: bool = True, firsts: Sequence[int] = (), randoms: Sequence[int] = (), seeds: int = 1
) -> list[str]:
    """Choices of rows: all, each batch, ranges of batches, the first K, K at random.

    Args:
        ranges: Whether every range of batches is one; else all ten batches and each by itself.
        firsts: K's.
        randoms: K's.
        seeds: How many draws of each.
    """
    last = len(GAS_BATCHES)
    pairs = [(a, b) for a in range(1, last + 1) for b in range(a, last + 1)]
    return [
        *(f"batches {a}-{b}" for a, b in pairs if ranges or a == b or (a, b) == (1, last)),
        *(f"first {k}" for k in firsts),
        *(f"random {k}, seed {seed}" for k in randoms for seed in range(seeds)),
    ]
