"""Small tabular data sets that the package statsmodels ships, for T12."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np

from implicit_accel.data.problems import Problem

NAMES = (
    "anes96", "ccard", "committee", "copper", "fair", "grunfeld", "modechoice", "randhie",
    "scotland", "stackloss", "star98", "statecrime",
)  # fmt: skip
"""Those with three features and twenty rows or more, of regression with numbers alone."""

MOST_ROWS = 2000


def packaged_problems() -> dict[str, Problem]:
    """The data sets by name, standardised; empty where statsmodels is not installed.

    Of more than `MOST_ROWS` rows, so many are drawn. Constant columns are left out.
    """
    if importlib.util.find_spec("statsmodels") is None:
        return {}
    return {name: _problem(name) for name in NAMES}


def _problem(name: str) -> Problem:
    loaded = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas()
    X = np.asarray(loaded.exog.select_dtypes("number"), float)
    y = np.asarray(loaded.endog, float).reshape(len(X), -1)[:, 0]
    if len(X) > MOST_ROWS:
        drawn = np.sort(np.random.default_rng(0).permutation(len(X))[:MOST_ROWS])
        X, y = X[drawn], y[drawn]
    X = X[:, X.std(axis=0) > 0]
    return Problem.from_arrays(
        (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std(), name=name
    )
