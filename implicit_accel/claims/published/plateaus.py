"""Escape times from near-zero initialisations, predicted by the plateau law (T4)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_accel.claims.context import Context
from implicit_accel.claims.published.theory import drawn, known_by
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.theory.plateau import escape_time
from implicit_accel.theory.surface import make_surface

FIRST_MOVE = 0.01
"""The decrease of the loss that counts as an escape, as a share of the zero predictor's excess."""


def escapes(context: Context, problem: Problem, config: SweepConfig) -> np.ndarray:
    """(seed,) escape times of the gradient flow for a grid of one model, by the plateau law."""

    def make() -> pd.DataFrame:
        (model,) = config.models
        surface = make_surface(problem, model.loss)
        times = [escape_time(surface, layers, FIRST_MOVE) for layers in drawn(problem, config)]
        return pd.DataFrame({"time": times})

    return context.table("escapes", known_by(problem, config, FIRST_MOVE), make)["time"].to_numpy()
