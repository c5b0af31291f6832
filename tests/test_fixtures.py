"""Trajectories as they were before all models went through one engine."""

import numpy as np
import pytest
from fixtures.cases import CASES, FILE, PRECISIONS

# Of the excess losses; 100 steps amplify what another processor or version of XLA rounds.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_what_they_were(case, precision):
    with np.load(FILE) as stored:
        wanted = {
            name.split("/")[2]: stored[name]
            for name in stored.files
            if name.startswith(f"{case}/{precision}/")
        }
    found = CASES[case](precision)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        scale = np.max(np.abs(values), axis=-1, initial=0, where=np.isfinite(values))
        tolerance = TOLERANCE[precision] * np.where(scale > 0, scale, 1)
        same = found[name] == values
        with np.errstate(invalid="ignore"):  # inf - inf
            close = np.abs(found[name] - values) <= np.expand_dims(tolerance, -1)
        assert np.all(same | close | (np.isnan(values) & np.isnan(found[name]))), name
