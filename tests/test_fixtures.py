"""Trajectories as they were before all models went through one engine."""

import itertools

import numpy as np
import pytest
from fixtures.cases import CASES, FILE, PRECISIONS
from marks import param

# Of a run's largest value. What another processor or version of XLA rounds otherwise stays small
# while the loss falls; a loss that rises, past the edge of stability, multiplies it at every step.
# Once far above its start it is about to overflow, and when it does is what counts.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
UNSTABLE = {"float32": 0.5, "float64": 1e-3}
FAR = 10


def falls(losses):
    """Whether each run's loss stays within 1 % of the lowest so far."""
    with np.errstate(invalid="ignore"):
        return np.all(losses <= 1.01 * np.minimum.accumulate(losses, axis=-1), axis=-1)


# Single precision takes the same path through the engine, with a larger tolerance.
SINGLE = ("spectral", "rows")


@pytest.mark.parametrize(
    ("case", "precision"),
    [
        param(
            case,
            precision,
            nightly=(precision == "float32" and case not in SINGLE) or case == "tutorial cnn",
        )
        for case, precision in itertools.product(CASES, PRECISIONS)
    ],
)
def test_trajectories_are_what_they_were(case, precision):
    with np.load(FILE) as stored:
        wanted = {
            name.split("/")[2]: stored[name]
            for name in stored.files
            if name.startswith(f"{case}/{precision}/")
        }
    found = CASES[case](precision)
    assert found.keys() == wanted.keys()
    losses = wanted.get("excess_loss", wanted.get("regularised_loss"))
    stable = falls(losses)
    assert stable.mean() > 0.3
    for name, values in wanted.items():
        ours = found[name]
        if values.ndim == stable.ndim:  # one number a run
            values, ours = values[..., None], ours[..., None]
        assert np.array_equal(np.isnan(values), np.isnan(ours)), name
        scale = np.max(np.abs(values), axis=-1, initial=0, where=np.isfinite(values))
        tolerance = np.where(stable, TOLERANCE[precision], UNSTABLE[precision])
        allowed = (tolerance * np.where(scale > 0, scale, 1))[..., None]
        with np.errstate(invalid="ignore"):  # inf - inf
            close = np.abs(ours - values) <= allowed
            far = np.minimum(ours, values) > FAR * values[..., :1]
        close |= ~stable[..., None] & far & (np.isinf(ours) == np.isinf(values))
        assert np.all((ours == values) | close | np.isnan(values)), name
