"""Depth against schedules (R1) and the formula (T12), on planted runs."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from oracles import random_problem
from test_statistics import made

from implicit_accel import Optimizer
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.criteria import Outcome, Part, answer
from implicit_accel.claims.effects import Effect, Key
from implicit_accel.claims.published import r1, t12
from implicit_accel.claims.published.rivals import (
    AS_CHOSEN,
    CONSTANT,
    LINE_SEARCH,
    OTHER_WARMUPS,
    WARMUP,
    WARMUPS,
    Rivals,
    _cells,
    against_depth,
    against_one_layer,
    gain_of_depth,
)
from implicit_accel.linear import Loss, SweepConfig, run_sweep

INF = math.inf


def test_methods_with_one_optimizer_are_told_apart(rng):
    problem = random_problem(rng)
    common = {"losses": (Loss(4),), "depths": (1,), "num_steps": 30, "learning_rates": (0.01,),
              "num_seeds": 2}  # fmt: skip

    def warmup(steps: int) -> Optimizer:
        return Optimizer("warmup", (("steps", float(steps)),))

    alone = run_sweep(problem, SweepConfig(**common, optimizers=(warmup(300),)))
    assert list(_cells(4, (WARMUP,), alone)) == [(4, WARMUP, 1)]
    three = SweepConfig(**common, optimizers=(Optimizer("sgd"), *map(warmup, WARMUPS)))
    together = run_sweep(problem, three)
    found = _cells(4, (CONSTANT, *WARMUPS.values()), together)
    assert len(found) == 4
    for steps, name in WARMUPS.items():
        results, number = found[4, name, 1]
        own = run_sweep(problem, SweepConfig(**common, optimizers=(warmup(steps),)))
        np.testing.assert_allclose(results["excess_loss"][number], own["excess_loss"][0], rtol=2e-6)


def planted(steps: dict[tuple[str, int], float], *, unstable: tuple = ()) -> Rivals:
    """Six seeds at three rates: the middle one takes these steps, the highest diverges later."""
    rng = np.random.default_rng(0)
    cells = {}
    for (method, depth), middle in steps.items():
        own = middle * rng.uniform(0.97, 1.03, 6)
        taken = np.round([2 * own, own, own / 2])[None]
        final = np.full(taken.shape, 0.05)
        diverged = np.full(taken.shape, np.nan)
        diverged[0, 2] = 900
        final[0, 2] = INF
        if (method, depth) in unstable:
            diverged[0, :2], final[0, :2] = 900, INF
        results = made(taken, final, diverged=diverged, depths=(depth,), rates=[0.1, 0.2, 0.4])
        cells[4, method, depth] = results, 0
    return Rivals(cells)


def test_planted_schedules_are_compared_at_their_best_stable_rates():
    runs = planted({(CONSTANT, 1): 400, (CONSTANT, 2): 200, (WARMUP, 1): 100, (WARMUP, 2): 300})
    for effect, expected in (
        (against_depth(runs, AS_CHOSEN), 2),
        (against_one_layer(runs, 4, CONSTANT, 2), 2),
        (against_one_layer(runs, 4, WARMUP, 1), 4),
        (gain_of_depth(runs, 4, WARMUP), 1 / 3),
    ):
        assert effect is not None
        assert effect.value == pytest.approx(expected, rel=0.05)
        assert effect.halves == ()  # rates are searched for
    assert against_one_layer(runs, 4, CONSTANT, 1).value == 1  # pyright: ignore
    # What was not trained has no effect.
    for choice in (*OTHER_WARMUPS, "float64", "first to the target"):
        assert against_depth(runs, choice) is None
    assert against_one_layer(runs, 4, LINE_SEARCH, 1) is None
    assert gain_of_depth(runs, 4, LINE_SEARCH) is None


def test_a_depth_that_blows_up_at_every_rate_bounds_the_comparison():
    runs = planted({(CONSTANT, 2): 200, (WARMUP, 1): 100}, unstable=((CONSTANT, 2),))
    effect = against_depth(runs, AS_CHOSEN)
    assert effect is not None
    assert effect.bound == ">"


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (1.4, {"float64": 1.4, "target 6 %": 0.8}, Outcome.CONFIRMED_IF),
        (1.4, {"float64": 1.4, "target 6 %": 1.2}, Outcome.CONFIRMED),
        (0.7, {"float64": 0.7, "target 6 %": 0.6}, Outcome.CONTRADICTED),
        (1.4, {"float64": 0.9, "target 6 %": 0.8}, Outcome.INCONCLUSIVE),
    ],
)
def test_r1_has_every_outcome(own, others, expected):
    def effect(value: float, choice: str) -> Effect:
        key = Key.of(r1.OVER_DEPTH, problem="Ethanol", choice=choice)
        return Effect("", value, 0.98 * value, 1.02 * value).keyed(key)

    effects = [effect(own, AS_CHOSEN), *(effect(v, c) for c, v in others.items())]
    (check,) = r1.CLAIM.checks
    (primary,) = check.chosen(effects, "Ethanol")
    found = answer(Part(primary, check.claimed), effects, choices=r1.CLAIM.choices)
    assert found.outcome == expected


def test_the_formula_is_scored_by_ratio_and_skill():
    cells = [
        t12.Cell(4, 2, 0.1, predicted, measured, 100)
        for predicted, measured in ((2.0, 2.0), (1.5, 1.2), (0.5, 0.5), (1.2, 0.8), (0.4, 0.0))
    ]
    assert t12.ratio(cells, 2, 0.1, t12.RESOLVED).value == pytest.approx(
        np.median([1, 1.25, 1, 1.5])
    )
    # Both gains are predicted, and two of the three others.
    assert t12.true_skill(cells, 2, 0.1, t12.RESOLVED).value == pytest.approx(1 + 2 / 3 - 1)
    few = partial(replace, steps=19)
    # "Always slower" has no skill, however often it is right.
    assert math.isnan(t12.ratio([*map(few, cells)], 2, 0.1, t12.RESOLVED).value)
    never = [t12.Cell(4, 2, 0.1, 0.1, c.measured, 100) for c in cells]
    assert t12.true_skill(never, 2, 0.1, t12.RESOLVED).value == 0
    assert math.isnan(t12.ratio(cells, 3, 0.1, t12.RESOLVED).value)
    assert math.isnan(t12.true_skill(cells[:2], 2, 0.1, t12.RESOLVED).value)


def test_primary_effects_are_one_each_and_laws_say_where_they_hold():
    claims = load_collection().claims
    for claim in claims:
        assert bool(claim.valid) == claim.is_theory, claim.id
        assert claim.checks, claim.id
