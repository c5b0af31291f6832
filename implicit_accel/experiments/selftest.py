"""Checks that this installation computes what it should, against closed forms. Half a minute.

    implicit-accel selftest

It needs no data, no network and no test packages. Exit code 0 if every check holds, else 1.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

import implicit_accel as ia
from implicit_accel import linear
from implicit_accel.errors import ProgramError
from implicit_accel.experiments import cli

_GROUPS = cli.FlagGroups()


def _problem() -> tuple[linear.Problem, np.ndarray, np.ndarray]:
    """A regression with features (40, 5) and targets (40, 1)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5)) * np.linspace(0.5, 2, 5)
    Y = X @ rng.standard_normal((5, 1)) + 0.1 * rng.standard_normal((40, 1))
    return linear.Problem.from_arrays(X, Y), X, Y


def gradient_descent() -> float:
    """One layer on ℓ2: the excess loss is ½ Σ λᵢ (1 − ηλᵢ)²ᵗ cᵢ², c the start's distance."""
    problem, X, Y = _problem()
    start = np.linspace(-1, 1, 5)
    eigenvalues, vectors = np.linalg.eigh(X.T @ X / len(X))
    c = vectors.T @ (start - np.linalg.lstsq(X, Y, rcond=None)[0][:, 0])
    rate, steps = 0.5 / eigenvalues[-1], np.arange(201)
    expected = 0.5 * ((1 - rate * eigenvalues) ** (2 * steps[:, None])) @ (eigenvalues * c**2)
    found = linear.train(
        problem, linear.Layers((start[None],), ()), learning_rates=[rate], num_steps=200
    )
    return _error(found.excess_loss[0], expected)


def gradients() -> float:
    """Depth 2 on ℓ4: a step moves the weights by η times the loss's central differences."""
    problem, X, Y = _problem()
    rng = np.random.default_rng(1)
    shapes = ((3, 5), (1, 3))
    weights = [0.5 * rng.standard_normal(shape) for shape in shapes]
    rate, h = 1e-3, 1e-5

    def loss(W: list[np.ndarray]) -> float:
        return float(np.mean((X @ (W[1] @ W[0]).T - Y) ** 4) / 4)

    found = linear.train(
        problem,
        linear.Layers((*weights,), ()),
        learning_rates=[rate],
        num_steps=1,
        loss=linear.Loss(4),
    )
    errors = []
    for j, shape in enumerate(shapes):
        differences = np.empty(shape)
        for place in np.ndindex(shape):
            moved = [[W.copy() for W in weights] for _ in range(2)]
            moved[0][j][place] += h
            moved[1][j][place] -= h
            differences[place] = (loss(moved[0]) - loss(moved[1])) / (2 * h)
        gradient = (weights[j] - found.layers.weights[j][0]) / rate
        errors.append(_error(gradient, differences))
    return max(errors)


def smallest_loss() -> float:
    """The optimum on ℓ2 is that of least squares."""
    _, X, Y = _problem()
    residual = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
    return _error(linear.optimum(linear.Loss(2), X, Y).loss, np.mean(residual**2) / 2)


def sharpness() -> float:
    """One layer's sharpness on ℓ2 is the largest eigenvalue of XᵀX/n, at every step."""
    problem, X, _ = _problem()
    config = linear.SweepConfig(
        losses=(linear.Loss(2),), depths=(1,), learning_rates=(0.01,), num_seeds=1, num_steps=20,
        record=("sharpness",), precision="float64",
    )  # fmt: skip
    results = linear.run_sweep(problem, config, progress=False)
    return _error(results["sharpness"].values, np.linalg.eigvalsh(X.T @ X / len(X))[-1])


def storage() -> float:
    """A run that is stored and read again is the same, to the bit."""
    problem, _, _ = _problem()
    config = linear.SweepConfig(depths=(1, 2), learning_rates=(0.01,), num_seeds=2, num_steps=50)
    with tempfile.TemporaryDirectory() as folder:
        trained = linear.run_sweep(problem, config, folder=Path(folder) / "run", progress=False)
        read = ia.load_run(Path(folder) / "run")
    return 0.0 if trained.identical(read) else np.inf


def _error(found: object, expected: object) -> float:
    """The largest relative difference; inf where something is no number."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    error = np.max(np.abs(found - expected) / np.max(np.abs(expected)))
    return float(error) if np.isfinite(error) else np.inf


# What is checked, and how large the relative error may be: rounding, of central differences more.
CHECKS: dict[str, tuple[Callable[[], float], float]] = {
    "gradient descent against its closed form": (gradient_descent, 1e-11),
    "depth-2 gradients against finite differences": (gradients, 1e-7),
    "smallest loss against least squares": (smallest_loss, 1e-11),
    "sharpness against the largest eigenvalue": (sharpness, 1e-6),
    "a stored run against the trained one": (storage, 0.0),
}


def main() -> None:
    """Runs the checks, prints a table."""
    console = cli.make_console()
    shown = Table(
        title=f"implicit_accel {ia.__version__}, JAX {jax.__version__} on {jax.default_backend()}, "
        f"Python {platform.python_version()}",
        title_justify="left",
    )
    for name in ("check", "relative error", "allowed", ""):
        shown.add_column(name)
    failed = []
    for name, (check, allowed) in CHECKS.items():
        error = check()
        holds = error <= allowed
        failed += [] if holds else [name]
        shown.add_row(name, f"{error:.1e}", f"{allowed:.0e}", "holds" if holds else "FAILS")
    console.print(shown)
    if failed:
        raise ProgramError(f"this installation computes something else: {'; '.join(failed)}")


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
