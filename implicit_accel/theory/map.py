"""A map of when depth helps: predicted speed-ups over exponents, spectra, targets and depths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from implicit_accel.data.problems import Problem
from implicit_accel.errors import UserError
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.predict import predict


def power_law_problem(
    decay: float, *, num_rows: int = 256, num_features: int = 32, noise: float = 0.3, seed: int = 0
) -> Problem:
    """A problem whose covariance has the eigenvalues ``i^(−decay)``, exactly.

    Labels are ``X w + noise ε`` with Gaussian w and ε, scaled to mean square 1.

    Args:
        decay: Of the spectrum, ≥ 0.
        num_rows: n.
        num_features: d ≤ n.
        noise: Standard deviation of ε over that of Xw.
        seed: Of all that is drawn.

    Raises:
        UserError: If an argument is out of range.
    """
    if not (math.isfinite(decay) and decay >= 0 and noise >= 0):
        raise UserError(f"decay {decay:g}, noise {noise:g}: they must be numbers >= 0")
    if not 1 <= num_features <= num_rows:
        raise UserError(f"{num_features} features of {num_rows} rows: give no more than rows")
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((num_rows, num_features)))
    spectrum = np.arange(1, num_features + 1) ** -float(decay)
    X = math.sqrt(num_rows) * Q * np.sqrt(spectrum)
    signal = X @ rng.standard_normal(num_features)
    y = signal / signal.std() + noise * rng.standard_normal(num_rows)
    return Problem.from_arrays(X, y / math.sqrt(np.mean(y**2)), name=f"power law {decay:g}")


def speed_up_map(
    problems: Sequence[tuple[float, Problem]],
    *,
    exponents: Sequence[float],
    depths: Sequence[int],
    init_stds: Sequence[float] = (0.01,),
    targets: Sequence[float] = (0.1,),
    num_seeds: int = 3,
    progress: Callable[[float], None] | None = None,
) -> xr.Dataset:
    """Predicted speed-ups over one layer, each depth at its own largest stable rate.

    At its largest stable rate a model takes ``time · max λ / 2`` steps to the target. This involves
    no grid of learning rates.

    Args:
        problems: (decay, problem) pairs.
        exponents: p's of the losses.
        depths: N ≥ 2.
        init_stds: Of the near-zero initialisation.
        targets: Shares of the zero predictor's excess loss.
        num_seeds: Seeds per cell.
        progress: Called with the share that is done.

    Returns:
        ``speed_up`` (ratio of medians over seeds), ``steps`` and ``largest_rate`` (medians: of the
        steps at the largest stable rate, and of that rate) over (decay, target, init_std, p,
        depth); steps of depth 1 are at depth 1. NaN where nothing is predicted.

    Raises:
        UserError: As `predict`.
    """
    all_depths = (1, *(d for d in depths if d > 1))
    shape = (len(problems), len(targets), len(init_stds), len(exponents), len(all_depths))
    steps, largest_rate = np.full(shape, np.nan), np.full(shape, np.nan)
    cells = [(i, s, e) for i in range(shape[0]) for s in range(shape[2]) for e in range(shape[3])]
    for number, (i, s, e) in enumerate(cells):
        # A flow to the lowest target reaches the others before.
        config = SweepConfig(
            depths=all_depths, losses=(Loss(exponents[e]),), init_stds=(init_stds[s],),
            target=Target(min(targets), relative=True), num_seeds=num_seeds, num_steps=1,
            learning_rates=(1.0,),
        )  # fmt: skip
        for m, found in enumerate(predict(problems[i][1], config).models):
            for t, target in enumerate(targets):
                share = replace(found, target=found.target * target / min(targets))
                # In steps of the largest stable rate, which is each seed's own.
                steps[i, t, s, e, m] = np.median(share.times / share.largest_rates)
                largest_rate[i, t, s, e, m] = np.median(share.largest_rates)
        if progress is not None:
            progress((number + 1) / len(cells))
    with np.errstate(invalid="ignore"):
        ratios = steps[..., :1] / steps
    dims = ("decay", "target", "init_std", "p", "depth")
    return xr.Dataset(
        {
            "speed_up": (dims, ratios), "steps": (dims, steps),
            "largest_rate": (dims, largest_rate),
        },
        {
            "decay": [decay for decay, _ in problems], "target": list(targets),
            "init_std": list(init_stds), "p": list(exponents), "depth": list(all_depths),
        },
    )  # fmt: skip
