"""C1: depth on the losses of classification."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import xarray as xr

from implicit_accel.claims.api import (
    AS_CHOSEN,
    FIRST,
    Check,
    Claim,
    Context,
    Effect,
    Found,
    Measure,
)
from implicit_accel.claims.plots import Choices, Forest
from implicit_accel.claims.published.own_losses import Fit, gain, make_fit, train

SPEED_UP = "speed-up at stable rates"
SEPARABLE = "separable classes"
OTHER_INIT, FIRST_TOUCH = "initial std 0.1", "first to the target"
SHARES = {"target 30 %": 0.3, "target 1 %": 0.01}
CHOICES = (AS_CHOSEN, *SHARES, FIRST_TOUCH, OTHER_INIT)


def logistic(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean log(1 + exp(−s f)), with labels s = ±1."""
    return jax.nn.softplus(-labels * outputs).mean()


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean −log softmax at the right class, with labels of 0 and 1."""
    return -(labels * jax.nn.log_softmax(outputs)).sum(axis=-1).mean()


def classes_of(name: str, features: np.ndarray, values: np.ndarray, classes: int) -> Fit:
    """Two or more classes of equal size, by a label's order."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    number = order * classes // len(values)
    if classes == 2:
        return make_fit(name, features, 2.0 * number[:, None] - 1, logistic)
    return make_fit(name, features, np.eye(classes)[number], cross_entropy)


def separable_rows() -> tuple[np.ndarray, np.ndarray]:
    """300 rows of 10 features, and a linear function of them whose median is 0."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 10))
    X = np.concatenate([X, -X])
    return X, X @ rng.standard_normal(10)


Runs = dict[tuple[int, float], xr.Dataset]
"""(classes, initial std) → results."""


def runs_of(context: Context, name: str, X: np.ndarray, y: np.ndarray) -> Runs:
    """All grids of a problem."""
    rates = np.geomspace(0.02, 200, context.pick(8, 61, 121))
    runs: Runs = {}
    # Without biases no linear map separates three classes along a line.
    for classes in (2,) if name == SEPARABLE else context.pick((2,), (2, 3), (2, 3)):
        fit = classes_of(name, X, y, classes)
        for std in (0.01, 0.1) if classes == 2 else (0.01,):
            runs[classes, std] = train(
                context, fit, rates=rates, init_std=std, num_seeds=context.pick(2, 6, 20),
                num_steps=context.pick(200, 6000 if classes == 2 else 2000, 20_000),
            )  # fmt: skip
    return runs


def run(context: Context) -> Found:
    """Logistic loss on two classes, cross-entropy on three."""
    arrays = {
        name: (problem.features, problem.targets[:, 0])
        for name, problem in context.problems().items()
    } | {SEPARABLE: separable_rows()}
    trained = context.side_by_side(
        partial(runs_of, name=name, X=X, y=y) for name, (X, y) in arrays.items()
    )
    return Found(runs=dict(zip(arrays, trained, strict=True)))


def speed_up(runs: Runs, classes: int, depth: int, choice: str) -> Effect | None:
    """The speed-up of a depth over one layer, by a choice."""
    results = runs.get((classes, 0.1 if choice == OTHER_INIT else 0.01))
    if results is None:
        return None
    rule = "target" if choice == FIRST_TOUCH else "stable"
    return gain(results, depth, SHARES.get(choice), rule)


CLAIM = Claim(
    id="C1",
    statement="On losses of classification depth 2 needs fewer steps than one layer, since its "
    "effective learning rate grows with the norm.",
    source="This project's question",
    is_read=None,
    is_changed=True,
    run=run,
    choices=("problem", "choice", "classes"),
    measures=(
        Measure(SPEED_UP, speed_up, {"classes": (2, 3), "depth": (2, 3), "choice": CHOICES}),
    ),
    checks=(
        Check(
            SPEED_UP, {"problem": FIRST, "classes": 2, "depth": 2, "choice": AS_CHOSEN}, low=1.0
        ),
    ),
    plots={
        "choices": Choices(
            SPEED_UP, title="Depth 2 over one layer on two classes, by choice",
            xlabel="speed-up over one layer", at={"classes": 2, "depth": 2},
        ),
        "depths": Forest(
            SPEED_UP, at={"choice": AS_CHOSEN}, title="Depth on classes",
            xlabel="speed-up over one layer", series="depth",
        ),
    },
    minutes=8.0,
    paper_hours=2.0,
)  # fmt: skip
