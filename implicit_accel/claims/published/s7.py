"""S7: from the student project's setting to the paper's, one change at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key
from implicit_accel.claims.curves import Curves
from implicit_accel.claims.estimators import model_number
from implicit_accel.claims.forest import Forest
from implicit_accel.claims.published.student import (
    COMMON_TARGET,
    MSE,
    RATES,
    SOURCE,
    common_share,
    edge_share,
    one_layer_lowest,
    protocol,
    speed_up_to_common,
    student_datasets,
    student_run,
)
from implicit_accel.claims.published.theory import flows, split
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.predict import early_stable_rates

DEPTHS = (2, 3)
STUDENT, PAPER = "the student project's setting", "the paper's setting"
SPEED_UP = "speed-up to the common target"


@dataclass(frozen=True)
class Setting:
    """All in which the student project and the paper differ.

    Attributes:
        loss: The loss.
        rates: Learning rates; none for those about the predicted stable one, see `_rates_about`.
        init: Initialiser.
        bias: Whether layers have biases.
        width: Of hidden layers.
        num_steps: Iterations.
        held_out: Share of the rows that are not trained on.
        scaling: Of features and labels.
    """

    loss: Loss = MSE
    rates: tuple[float, ...] = RATES
    init: str = "pytorch"
    bias: bool = True
    width: int = 10
    num_steps: int = 100
    held_out: float = 0.2
    scaling: str = "standard"


def changes(context: Context) -> dict[str, tuple[dict[str, Any], str]]:
    """Fields with the paper's values, and the student project's in words, by the change."""
    long = context.pick(200, 20_000, 200_000)
    return {
        "ℓ4 instead of ℓ2": ({"loss": Loss(4)}, "ℓ2"),
        "learning rates about the predicted stable one": (
            {"rates": ()}, "the student's learning rates"
        ),
        "initialisation near zero (0.01)": ({"init": "near_zero"}, "PyTorch's initialisation"),
        "no biases": ({"bias": False}, "with biases"),
        "width 1 instead of 10": ({"width": 1}, "width 10"),
        "more iterations": ({"num_steps": long}, "100 iterations"),
        "all rows": ({"held_out": 0.0}, "four fifths of the rows"),
    }  # fmt: skip


def settings(context: Context) -> dict[str, dict[str, Setting]]:
    """Every station's setting, by its part of the experiment and its name."""
    student, all_changes = Setting(), changes(context)
    path, setting = {STUDENT: student}, student
    for number, (name, (fields, _)) in enumerate(all_changes.items(), 1):
        setting = replace(setting, **fields)
        path[PAPER if number == len(all_changes) else f"+ {name}"] = setting
    path[f"{PAPER}, whitened"] = replace(setting, scaling="whiten")
    path[f"{PAPER}, centred only"] = replace(setting, scaling="center")
    alone = {f"student's, only: {n}": replace(student, **f) for n, (f, _) in all_changes.items()}
    undone = {
        f"paper's, but {words}": replace(setting, **{f: getattr(student, f) for f in fields})
        for fields, words in all_changes.values()
    }
    return {"path": path, "alone": alone, "undone": undone}


def _train(context: Context, dataset: Dataset, setting: Setting, *, is_judged: bool) -> xr.Dataset:
    """Depths 1 to 3 in a setting; more closely where it is judged, or takes no time."""
    close = is_judged or setting.num_steps == Setting().num_steps
    num_seeds, num_rates = context.pick((2, 4), (20, 16) if close else (6, 12), (30, 60))
    problem = make_problem(dataset, scaling=setting.scaling, held_out_fraction=setting.held_out)
    config = SweepConfig(
        depths=(1, *DEPTHS), hidden_widths=(setting.width,), inits=(setting.init,),
        init_stds=(0.01,), losses=(setting.loss,), learning_rates=setting.rates or (1.0,),
        num_seeds=num_seeds, num_steps=setting.num_steps, bias=setting.bias,
    )  # fmt: skip
    if not setting.rates:
        config = replace(config, learning_rates=_rates_about(problem, config, num_rates))
    return context.sweep(problem, config)


def _rates_about(problem: Problem, config: SweepConfig, count: int) -> tuple[float, ...]:
    """Learning rates from a third to twelve times the largest stable one of depth 1.

    They follow the data's scale; on ℓ4 deeper networks are stable at higher rates.
    """
    stable = float(np.nanmedian(early_stable_rates(problem, config)))
    return tuple(float(f"{stable * multiple:.3g}") for multiple in np.geomspace(0.35, 12.0, count))


def run(context: Context) -> Found:
    """Every station, and the student project's own protocol."""
    name, dataset = next(iter(student_datasets(context).items()))
    parts = settings(context)
    # The last change but for the two scalings leads to the paper's setting, which is judged.
    results = {
        station: _train(context, dataset, setting, is_judged=station == PAPER)
        for part in parts.values()
        for station, setting in part.items()
    }
    effects = {
        (station, depth): _speed_up(runs, depth).keyed(
            Key.of(SPEED_UP, problem=name, station=station, depth=depth)
        )
        for station, runs in results.items()
        for depth in DEPTHS
    }
    own = student_run(context, dataset, protocol(context))
    most = max((e for e in effects.values() if e.value > 0), key=lambda e: e.value)
    return Found(
        runs={name: own},
        effects=tuple(effects.values()),
        facts={
            "largest": most,
            "edge": edge_share(own),
            "wins": one_layer_lowest(own),
            "lost": _lost(effects, parts["undone"]),
            "edges": _stable_rates(context, dataset),
            "highest": max(RATES),
            "common_target": COMMON_TARGET,
            "paper": PAPER,
            "student": STUDENT,
        },
        figures=_figures(name, parts, effects, results),
        curves={station: Curves(runs) for station, runs in results.items()},
    )


def _speed_up(results: xr.Dataset, depth: int) -> Effect:
    return speed_up_to_common(results, *(model_number(results, depth=n) for n in (depth, 1)))


def _lost(
    effects: Mapping[tuple[str, int], Effect], undone: Mapping[str, Setting]
) -> tuple[str, float] | None:
    """The choice of the student project's that costs depth 2 most in the paper's setting."""
    ratios = {
        station: effects[PAPER, 2].value / effects[station, 2].value
        for station in undone
        if effects[station, 2].value > 0
    }
    found = max(ratios, key=lambda station: ratios[station], default=None)
    return None if found is None else (found, ratios[found])


def _stable_rates(context: Context, dataset: Dataset) -> dict[int, float]:
    """The predicted largest stable rates in the student project's setting, by depth."""
    setting = Setting()
    problem = make_problem(dataset, held_out_fraction=setting.held_out)
    config = SweepConfig(
        depths=(1, *DEPTHS), hidden_widths=(setting.width,), inits=(setting.init,),
        losses=(setting.loss,), num_seeds=context.pick(2, 6, 30), bias=setting.bias,
    )  # fmt: skip
    found = split(flows(context, problem, config, (0.1,)), "model")
    return {m + 1: float(np.median(2 / rows["sharpness"].to_numpy())) for (m,), rows in found}


def _figures(
    problem: str,
    parts: Mapping[str, Mapping[str, Setting]],
    effects: Mapping[tuple[str, int], Effect],
    results: Mapping[str, xr.Dataset],
) -> dict[str, Forest]:
    def forest(stations: tuple[str, ...], title: str) -> Forest:
        remarks = {}
        for depth in DEPTHS:
            pairs = ([model_number(results[s], depth=n) for n in (depth, 1)] for s in stations)
            shares = [common_share(results[s], *p) for s, p in zip(stations, pairs, strict=True)]
            remarks[f"depth {depth}"] = tuple(
                f"to {100 * x:.3g}\u00a0%" if np.isfinite(effects[s, depth].value) else ""
                for s, x in zip(stations, shares, strict=True)
            )
        return Forest(
            {
                f"depth {depth}": [replace(effects[s, depth], name=s) for s in stations]
                for depth in DEPTHS
            },
            title=f"{title} ({problem})",
            xlabel="speed-up over one layer",
            curves=stations,
            remarks=remarks,
            remarks_are="target, as a share of the zero predictor's excess loss",
        )

    return {
        "stations": forest(
            (*parts["path"],), "From the student project's setting to the paper's, step by step"
        ),
        "each_change": forest(
            (*parts["alone"], *parts["undone"]),
            "Each change alone, and the paper's setting with the student's choice",
        ),
    }


CLAIM = Claim(
    id="S7",
    statement="The student project's experiments do not align with the paper's results.",
    source=SOURCE,
    is_changed=True,
    run=run,
    choices=("choice", "depth"),
    checks=(
        Check(SPEED_UP, at={"station": STUDENT}, high=1.0),
        Check(SPEED_UP, at={"station": PAPER}, low=1.0),
    ),
    explained_by=("T1", "T2", "T9"),
    minutes=12.2,
    paper_hours=16.0,
)
