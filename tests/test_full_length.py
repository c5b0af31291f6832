"""Speed-ups at the length of the authors' figure."""

import numpy as np
import pytest
from test_flow import problem_of

from implicit_accel.claims.published.full_length import ONE, TWO, FullLength, to_last
from implicit_accel.linear import Loss, SweepConfig, run_sweep


@pytest.fixture
def found(rng) -> FullLength:
    problem = problem_of(rng, d=3)

    def runs(depth: int, *rates: float):
        config = SweepConfig(
            depths=(depth,), losses=(Loss(4),), learning_rates=rates, num_seeds=3, num_steps=400,
            inits=("identity",), records_per_decade=10_000,
        )  # fmt: skip
        return run_sweep(problem, config)

    return FullLength("random", problem, {ONE: runs(1, 0.0002), TWO: runs(2, 0.001, 0.002, 0.004)})


def test_how_much_sooner_a_curve_is_there_at_all_of_its_rates_and_at_one(found):
    steps = found.steps(TWO)
    last = np.median(found.runs[ONE]["excess_loss"].values[0, 0, :, -1])
    medians = []
    for r, rate in enumerate(found.runs[TWO]["learning_rate"].values):
        curves = found.runs[TWO]["excess_loss"].values[0, r]
        first = [steps[np.flatnonzero(c <= 1.000001 * last)[0]] for c in curves]
        medians.append(np.median(first))
        assert to_last(found, TWO, ONE, rates=(rate,)).value == pytest.approx(400 / medians[-1])
    assert to_last(found, TWO, ONE).value == pytest.approx(400 / min(medians))
    assert len(set(medians)) == 3
