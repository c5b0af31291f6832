"""S4: what depth gains on ℓp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.claims.criteria import Claim, Effect, Finding, above, judge, shortfall
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table, median_of, model_number
from experiments.claims.toolkit.student import (
    PROTOCOL,
    SOURCE,
    protocol,
    speed_up_to_common,
    student_datasets,
    student_run,
)
from implicit_accel.linear.losses import Loss
from implicit_accel.plotting import plot_effects
from implicit_accel.statistics import final_excess

_LOSSES = tuple(Loss(p, "plain") for p in (2, 3, 4, 5))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Seed by seed; no value (NaN) where both are infinite, every rate having diverged."""
    with np.errstate(invalid="ignore"):
        return numerator / denominator


@dataclass(frozen=True)
class _Measured:
    """What depth gains.

    Attributes:
        gains: One layer's last excess loss over the deeper network's, by loss and depth.
        larger: Those over ℓ2's.
        speed_ups: By steps, to what both reach.
    """

    gains: list[Effect]
    larger: list[Effect]
    speed_ups: list[Effect]


def _measure(name: str, results: xr.Dataset) -> _Measured:
    by_case: dict[tuple[str, int], np.ndarray] = {}
    gains, speed_ups = [], []
    excess = final_excess(results)
    for loss in _LOSSES:
        numbers = {d: model_number(results, loss_name=loss.name, depth=d) for d in (1, 2, 3)}
        best = {depth: excess[number].min(axis=0) for depth, number in numbers.items()}
        for depth in (2, 3):
            by_case[loss.name, depth] = _ratio(best[1], best[depth])
            label = f"{name}, ℓ{loss.p:g}, depth {depth}"
            title = f"{label}: one layer's last excess loss over its"
            gains.append(median_of(title, by_case[loss.name, depth]))
            speed_ups.append(speed_up_to_common(results, numbers[depth], numbers[1], label))
    larger = [
        median_of(
            f"{name}, depth {depth}: gain on ℓ{p} over gain on ℓ2",
            _ratio(by_case[f"l{p}", depth], by_case["l2", depth]),
        )
        for p in (3, 4, 5)
        for depth in (2, 3)
    ]
    return _Measured(gains, larger, speed_ups)


def _test(lab: Laboratory) -> Finding:
    datasets = student_datasets(lab)
    name = "Abalone" if "Abalone" in datasets else next(iter(datasets))
    config = protocol(lab, losses=_LOSSES, inits=("orthogonal",), hidden_widths=(10,))
    measured = _measure(name, student_run(lab, datasets[name], config))
    gains, larger, speed_ups = measured.gains, measured.larger, measured.speed_ups
    parts = [above(e, 1.0) for e in larger]
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(*larger, *gains),
        summary="; ".join(f"{e.name}: {e}" for e in larger) + "." + shortfall(verdict),
        sensitivity="By steps to the lowest excess loss that both depths reach, the speed-ups are "
        + "; ".join(f"{e.name} {e}" for e in speed_ups)
        + ".",
        caveats=() if name == "Abalone" else (f"Abalone is not here: {name} takes its place.",),
        tables={"Gains": effects_table([*gains, *larger]), "Speed-ups": effects_table(speed_ups)},
        figures={
            "gains": plot_effects(
                {"": gains},
                title=f"What depth gains in 100 epochs, {name}, near-identity start",
                xlabel="one layer's last excess loss over the deep network's",
            )
        },
    )


CLAIM = Claim(
    id="S4",
    statement="On Abalone the acceleration may be larger for p > 2.",
    source=SOURCE,
    setting=f"{PROTOCOL} Here p from 2 to 5, [], [10] and [10, 10], near-identity start.",
    criterion="What depth gains (one layer's last excess loss over the deeper network's, "
    "repeat by repeat) is larger than on ℓ2 for p = 3, 4 and 5 and both depths, with the "
    "interval.",
    test=_test,
    paper_hours=0.01,
)
