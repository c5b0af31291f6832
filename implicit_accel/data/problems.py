"""From a dataset to a regression problem: split and scale, in float64.

Statistics come from the training rows alone and are applied to the held-out rows as well.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

from implicit_accel.data.dataset import Dataset
from implicit_accel.errors import DataError, UserError
from implicit_accel.fields import Allowed, check, setting

SCALINGS = ("standard", "whiten", "center")


@dataclass(frozen=True)
class Preparation:
    """How a dataset becomes a problem: the settings of `make_problem`.

    Raises:
        UserError: If a setting is out of range.
    """

    scaling: str = setting(
        "standard",
        "standard: features and labels to mean 0 and standard deviation 1; whiten: features to "
        "identity covariance, labels to unit cross-covariance; center: means removed only.",
        heading="Data",
        choices=SCALINGS,
    )
    held_out_fraction: float = setting(
        0.0,
        "Share of rows that are not trained on but whose loss is recorded.",
        heading="Data",
        one="held-out fraction",
        allowed=Allowed("at least 0 and below 1", numbers.Real, (0, math.nextafter(1, 0))),
    )
    split_seed: int = setting(
        0,
        "Which rows those are.",
        heading="Data",
        allowed=Allowed("a whole number >= 0", numbers.Integral, (0, math.inf)),
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Problem:
    """Arrays to fit, ready for training.

    Attributes:
        name: The dataset's name.
        title: A label for figures and tables.
        features: Training rows, (n, d) float64.
        targets: (n, k) float64.
        held_out_features: (m, d), or None without a split.
        held_out_targets: (m, k), or None.
        scaling: How features and labels were scaled.
        source: Where the data come from.
        is_stand_in: Whether the data were generated to stand in for measured ones.

    Raises:
        DataError: If shapes disagree, there are no rows, or a number is not finite.
    """

    name: str
    title: str
    # Any shape here: those that do not fit are reported below.
    features: Num[np.ndarray, " ..."]
    targets: Num[np.ndarray, " ..."]
    held_out_features: Num[np.ndarray, " ..."] | None = None
    held_out_targets: Num[np.ndarray, " ..."] | None = None
    scaling: str = "none"
    source: str = ""
    is_stand_in: bool = False

    def __post_init__(self) -> None:
        pairs = [("training", self.features, self.targets)]
        if self.held_out_features is not None and self.held_out_targets is not None:
            pairs.append(("held-out", self.held_out_features, self.held_out_targets))
        elif self.held_out_features is not None or self.held_out_targets is not None:
            raise DataError("held-out features and targets must be given together")
        for what, X, Y in pairs:
            if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or 0 in (*X.shape, *Y.shape):
                raise DataError(
                    f"{what} arrays have shapes {X.shape} and {Y.shape}: "
                    "features must be (rows, d) and targets (rows, k), neither empty"
                )
            if not (np.isfinite(X).all() and np.isfinite(Y).all()):
                raise DataError(f"{what} arrays hold numbers that are not finite")
        if not np.any(self.targets):
            raise DataError("every training label is zero: there is nothing to learn")

    @classmethod
    def from_arrays(
        cls,
        features: Num[np.ndarray, " ..."],
        targets: Num[np.ndarray, " ..."],
        *,
        name: str = "arrays",
    ) -> Problem:
        """A problem from one's own arrays, taken as they are.

        Args:
            features: (n, d).
            targets: (n,) or (n, k).
            name: What to call it.

        Raises:
            DataError: As for the class.
        """
        X = np.asarray(features, np.float64)
        Y = np.asarray(targets, np.float64)
        return cls(name, name, X, Y[:, None] if Y.ndim == 1 else Y)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays' shapes and little-endian float64 bytes, held-out ones too.

        Of what is trained on, not of where it comes from: other rows, another split or another
        scaling give another one. It is computed when asked for, so that it cannot go stale.
        """
        digest = hashlib.sha256()
        for array in (
            self.features,
            self.targets,
            self.held_out_features,
            self.held_out_targets,
        ):
            if array is not None:
                digest.update(repr(array.shape).encode())
                digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()

    @property
    def num_features(self) -> int:
        """Number of features d after scaling; whitening drops null directions."""
        return self.features.shape[1]

    @property
    def num_outputs(self) -> int:
        """Number of outputs k."""
        return self.targets.shape[1]


def make_problem(
    dataset: Dataset,
    *,
    scaling: str = Preparation.scaling,
    held_out_fraction: float = Preparation.held_out_fraction,
    split_seed: int = Preparation.split_seed,
) -> Problem:
    """Splits a dataset's rows and scales features and labels.

    * ``standard``: every feature and label to mean 0 and standard deviation 1 (divisor n).
    * ``whiten``: features centred, rotated to their principal components and scaled to identity
      covariance, null directions dropped; labels centred and scaled so that the
      cross-covariance ``Λ_yx = Yᵀ X / n`` has unit Frobenius norm, as in Arora, Cohen,
      Golowich & Hu (2019).
    * ``center``: means removed, raw scale kept.

    Args:
        dataset: The rows.
        scaling: One of `SCALINGS`.
        held_out_fraction: Share of the rows that are not trained on, in [0, 1); they are drawn
            without replacement by ``split_seed``.
        split_seed: A whole number ≥ 0.

    Returns:
        The problem.

    Raises:
        UserError: If a setting is out of range.
        DataError: If a training column is constant and has to be scaled, or the labels are; or if
            its squares overflow.
    """
    preparation = Preparation(scaling, held_out_fraction, split_seed)
    scaling, split_seed = preparation.scaling, preparation.split_seed
    held_out_fraction = preparation.held_out_fraction
    n = len(dataset.features)
    num_held_out = round(held_out_fraction * n)
    if num_held_out > n - 2 or (held_out_fraction > 0 and num_held_out == 0):
        raise UserError(
            f"held-out fraction {held_out_fraction:g} of {n} rows leaves {n - num_held_out} to "
            f"train on and {num_held_out} held out: at least 2 and 1 are needed"
        )
    if num_held_out:
        order = np.random.default_rng(split_seed).permutation(n)
        train, held_out = np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
    else:
        train, held_out = np.arange(n), np.arange(0)

    X, Y = dataset.features[train], dataset.targets[train]
    x_mean, y_mean = X.mean(axis=0), Y.mean(axis=0)
    y_std = _spread(Y, dataset.target_names)
    if scaling == "standard":
        x_scale, y_scale = 1 / _spread(X, dataset.feature_names), 1 / y_std
    elif scaling == "whiten":
        _spread(X, dataset.feature_names, may_be_constant=True)
        x_scale = _whitening(X - x_mean)
        cross = (Y - y_mean).T @ ((X - x_mean) @ x_scale) / len(X)
        norm = float(np.linalg.norm(cross))
        if norm == 0:
            raise DataError("whitening: features and labels are uncorrelated, labels have no scale")
        y_scale = np.full(Y.shape[1], 1 / norm)
    else:
        x_scale, y_scale = np.ones(X.shape[1]), np.ones(Y.shape[1])

    def apply(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = dataset.features[rows] - x_mean
        # Whitening rotates, the others scale each column by itself.
        scaled = centred @ x_scale if x_scale.ndim == 2 else centred * x_scale
        return scaled, (dataset.targets[rows] - y_mean) * y_scale

    features, targets = apply(train)
    held_out_features, held_out_targets = apply(held_out) if num_held_out else (None, None)
    return Problem(
        name=dataset.name,
        title=dataset.title,
        features=features,
        targets=targets,
        held_out_features=held_out_features,
        held_out_targets=held_out_targets,
        scaling=scaling,
        source=dataset.source,
        is_stand_in=dataset.is_stand_in,
    )


def _spread(
    columns: np.ndarray, names: tuple[str, ...], *, may_be_constant: bool = False
) -> np.ndarray:
    """Standard deviations (divisor n) of columns that must vary, if nothing else is said."""
    with np.errstate(over="ignore", invalid="ignore"):
        std = columns.std(axis=0)
    if not np.isfinite(std).all():
        k = int(np.argmax(~np.isfinite(std)))
        raise DataError(
            f"column {names[k]!r} holds numbers up to {np.abs(columns[:, k]).max():g}, too large "
            "to be scaled: their squares overflow. Correct the values, or remove the column"
        )
    # A column of equal numbers may come out a rounding error away from 0.
    noise = np.finfo(np.float64).eps * len(columns) * np.abs(columns).max(axis=0)
    if (std <= noise).any() and not may_be_constant:
        constant = names[int(np.argmax(std <= noise))]
        raise DataError(
            f"column {constant!r} is constant over the training rows: remove it, or choose "
            "--scaling center if it is a feature"
        )
    return std


def _whitening(centred: np.ndarray) -> np.ndarray:
    """The (d, r) map to r ≤ d principal components of unit variance."""
    _, s, Vt = np.linalg.svd(centred, full_matrices=False)
    kept = s > s[0] * max(centred.shape) * np.finfo(np.float64).eps if s[0] > 0 else s > 0
    if not kept.any():
        raise DataError("whitening: every feature is constant over the training rows")
    return Vt[kept].T * (np.sqrt(len(centred)) / s[kept])
