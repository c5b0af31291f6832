"""Gradient descent with schedules, at depths 1 and 2: what R1 compares depth with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel import gas_like
from implicit_accel.claims.api import Context, Effect
from implicit_accel.claims.estimators import side_of, speed_up
from implicit_accel.claims.published.theory import end_to_end_starts
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.intervals import ModelRuns
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import plot_curves
from implicit_accel.results import trained

CONSTANT, WARMUP, LINE_SEARCH = "constant rate", "warm-up, 300 steps", "line search"
WARMUPS = {steps: f"warm-up, {steps:,} steps" for steps in (100, 300, 1000)}

OPTIMIZERS: dict[str, Optimizer] = {
    CONSTANT: Optimizer("sgd"),
    **{name: Optimizer("warmup", (("steps", float(steps)),)) for steps, name in WARMUPS.items()},
    "Nesterov": Optimizer("nesterov"),
    "silver steps": Optimizer("silver"),
    "rate ∝ L^(−1/2)": Optimizer("excess_loss"),
    "normalised gradient": Optimizer("normalized"),
    "Polyak's step": Optimizer("polyak"),
    LINE_SEARCH: Optimizer("line_search"),
}
# Trained at other exponents than 4.
FEW = (CONSTANT, WARMUP, "Nesterov", "silver steps", LINE_SEARCH)
METHODS = tuple(OPTIMIZERS)

# Of exact steps along the gradient.
SHARES_OF_STEP = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# A step of line search needs one more product with the data, a gradient two.
LINE_SEARCH_COST = 1.5

TARGET = 0.1
# The search for rates: one step in its ratio changes steps by this share.
TOLERANCE = 0.03

Cell = tuple[xr.Dataset, int]
"""Results, and the number of the model in them."""


@dataclass(frozen=True)
class Rivals:
    """The runs of a problem.

    Attributes:
        cells: (p, method, depth) → results and the model's number.
        float64: The same, trained in float64.
        from_product: One layer with warm-up, from depth 2's initial end-to-end weights.
        first_touch: Depth 2 at a constant rate on ℓ4, at rates searched for by the first touch of
            the target.
    """

    cells: Mapping[tuple[float, str, int], Cell]
    float64: Mapping[tuple[float, str, int], Cell]
    from_product: Cell | None = None
    first_touch: Cell | None = None

    def side(
        self, p: float, method: str, depth: int, share: float | None = None, rule: str = "stable"
    ) -> ModelRuns:
        """A model's runs for a comparison, see `side_of`."""
        return side_of(*self.cells[p, method, depth], share, rule)


def problems(context: Context) -> dict[str, Problem]:
    """Those of other claims, and the embedded stand-in."""
    found = context.problems()
    return found if context.scale == "smoke" else found | {"stand-in": make_problem(gas_like())}


def powers(context: Context) -> tuple[float, ...]:
    """The exponents of the loss; every method is trained on ℓ4."""
    return context.pick((4.0,), (2.0, 3.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))


def train(context: Context, problem: Problem, *, with_choices: bool) -> Rivals:
    """Every method on a problem, each at learning rates that are searched for.

    Args:
        context: Trains.
        problem: What is fitted.
        with_choices: Whether to train what only `CHOICES` needs.
    """
    base = SweepConfig(
        num_seeds=context.pick(2, 6, 20), num_steps=context.pick(300, 20_000, 200_000)
    )
    cells: dict[tuple[float, str, int], Cell] = {}
    for p in powers(context):
        methods = METHODS if p == 4 else FEW
        loss = replace(base, losses=(Loss(p),))
        searched = tuple(OPTIMIZERS[m] for m in methods if m != LINE_SEARCH)
        config = replace(loss, depths=(1, 2), optimizers=searched)
        cells |= _cells(p, context.tuned(problem, config, best_by="stable", tolerance=TOLERANCE))
        deeper = replace(loss, depths=(3,))
        cells |= _cells(p, context.tuned(problem, deeper, best_by="stable", tolerance=TOLERANCE))
        line_search = replace(
            loss, depths=(1, 2), optimizers=(OPTIMIZERS[LINE_SEARCH],),
            learning_rates=SHARES_OF_STEP, num_steps=context.pick(100, 2000, 20_000),
        )  # fmt: skip
        cells |= _cells(p, context.sweep(problem, line_search))
    float64: dict[tuple[float, str, int], Cell] = {}
    from_product = None
    if with_choices:
        for method, depth in ((WARMUP, 1), (CONSTANT, 2)):
            config = replace(
                base, losses=(Loss(4),), depths=(depth,), optimizers=(OPTIMIZERS[method],),
                precision="float64", learning_rates=_tried(cells[4.0, method, depth]),
            )  # fmt: skip
            float64 |= _cells(4.0, context.sweep(problem, config))
        two = replace(base, losses=(Loss(4),), depths=(2,))
        one = replace(
            two, depths=(1,), optimizers=(OPTIMIZERS[WARMUP],),
            learning_rates=_tried(cells[4.0, WARMUP, 1]),
        )  # fmt: skip
        from_product = context.sweep(problem, one, initial=end_to_end_starts(problem, two)), 0
    return Rivals(cells, float64, from_product)


def _tried(cell: Cell) -> tuple[float, ...]:
    results, model = cell
    return tuple(results["learning_rate"].values[trained(results)[model]].tolist())


def _cells(p: float, results: xr.Dataset) -> dict[tuple[float, str, int], Cell]:
    """A sweep's models by exponent, method and depth."""
    found: dict[tuple[float, str, int], Cell] = {}
    for method, optimizer in OPTIMIZERS.items():
        for depth in (1, 2, 3):
            has = results["optimizer"].values == optimizer.name
            if "optimizer_settings" in results.coords:
                own = results["optimizer_settings"].values
                has &= np.isin(own, (optimizer.settings_text or "-", ""))
            chosen = np.flatnonzero(has & (results["depth"].values == depth))
            if len(chosen) == 1:
                found[p, method, depth] = results, int(chosen[0])
    return found


def against_one_layer(runs: Rivals, p: float, method: str, depth: int) -> Effect | None:
    """The speed-up over one layer at a constant rate, at stable rates."""
    if (p, method, depth) not in runs.cells or (method, depth) == (CONSTANT, 1):
        return None
    return speed_up(runs.side(p, CONSTANT, 1), runs.side(p, method, depth))


def gain_of_depth(runs: Rivals, p: float, method: str) -> Effect | None:
    """The speed-up of depth 2 over one layer with the same schedule."""
    if (p, method, 2) not in runs.cells:
        return None
    return speed_up(runs.side(p, method, 1), runs.side(p, method, 2))


def against_depth(runs: Rivals, choice: str) -> Effect | None:
    """The speed-up of a warm-up on one layer over depth 2, on ℓ4, by one of `CHOICES`."""
    return CHOICES[choice](runs)


def _sides(runs: Rivals, method: str = WARMUP, share: float | None = None) -> Effect:
    return speed_up(runs.side(4, CONSTANT, 2, share), runs.side(4, method, 1, share))


def _in_float64(runs: Rivals) -> Effect | None:
    if not runs.float64:
        return None
    pair = [(CONSTANT, 2), (WARMUP, 1)]
    base, model = (side_of(*runs.float64[4.0, m, d], None, "stable") for m, d in pair)
    return speed_up(base, model)


def _first_touch(runs: Rivals) -> Effect | None:
    if runs.first_touch is None:
        return None
    return speed_up(
        side_of(*runs.first_touch, None, "target"), runs.side(4, WARMUP, 1, rule="target")
    )


def _from_product(runs: Rivals) -> Effect | None:
    if runs.from_product is None:
        return None
    return speed_up(runs.side(4, CONSTANT, 2), side_of(*runs.from_product, None, "stable"))


AS_CHOSEN = "as chosen"
CHOICES = {
    AS_CHOSEN: _sides,
    "float64": _in_float64,
    "first to the target": _first_touch,
    "target 30 %": partial(_sides, share=0.3),
    "target 3 %": partial(_sides, share=0.03),
    "target 1 %": partial(_sides, share=0.01),
    WARMUPS[100]: partial(_sides, method=WARMUPS[100]),
    WARMUPS[1000]: partial(_sides, method=WARMUPS[1000]),
    "from depth 2's initial weights": _from_product,
}
"""The primary comparison under other defensible choices."""


def table_of_steps(all_runs: Mapping[str, Rivals]) -> pd.DataFrame:
    """Median steps and gradient evaluations of each method at its best stable rate."""
    rows = []
    for problem, runs in all_runs.items():
        for p, method, depth in runs.cells:
            side = runs.side(p, method, depth)
            best = int(side.best(side.all_seeds)[0])
            steps = float(np.median(side.steps[best])) if best >= 0 else np.inf
            cost = LINE_SEARCH_COST if method == LINE_SEARCH else 1.0
            rows.append({
                "problem": problem, "p": p, "method": method, "depth": depth,
                "learning rate": float(side.rates[best]) if best >= 0 else np.nan,
                "steps": steps, "gradient evaluations": cost * steps,
            })  # fmt: skip
    return pd.DataFrame(rows)


SHOWN = ((CONSTANT, 1), (CONSTANT, 2), (WARMUP, 1), (LINE_SEARCH, 1))


def curves_figure(all_runs: Mapping[str, Rivals], p: float = 4.0) -> Figure:
    """Excess losses of one layer, of depth 2, and of one layer with its schedules."""
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for problem, runs in all_runs.items():
        lines = panels.setdefault(f"{problem}, ℓ{p:g}", {})
        for method, depth in SHOWN:
            results, model = runs.cells[p, method, depth]
            side = runs.side(p, method, depth)
            best = int(side.best(side.all_seeds)[0])
            if best < 0:
                continue
            place = int(np.flatnonzero(results["learning_rate"].values == side.rates[best])[0])
            curves = results["excess_loss"].values[model, place]
            zero = float(results["zero_loss"][model] - results["optimum"][model])
            layers = "one layer" if depth == 1 else f"depth {depth}"
            lines[f"{layers}, {method}"] = results["step"].values, curves / zero
    return plot_curves(
        panels, title="One layer with a schedule against depth, at stable learning rates",
        xlabel="step", ylabel="excess loss / zero predictor's",
    )  # fmt: skip
