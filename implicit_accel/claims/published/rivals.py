"""Gradient descent with schedules, at depths 1 and 2: what R1 compares depth with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import AS_CHOSEN, Context, Effect, Scaled
from implicit_accel.claims.estimators import model_number, side_of, speed_up
from implicit_accel.claims.published.depth_grid import depth_runs
from implicit_accel.claims.published.theory import end_to_end_starts
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.intervals import ModelRuns
from implicit_accel.linear import gas_like
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import plot_curves
from implicit_accel.results import by_model, trained
from implicit_accel.stability import is_past_edge

CONSTANT, LINE_SEARCH = "constant rate", "line search"
WARMUPS = {steps: f"warm-up, {steps:,} steps" for steps in (100, 300, 1000)}
WARMUP, OTHER_WARMUPS = WARMUPS[300], (WARMUPS[100], WARMUPS[1000])

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
METHODS = tuple(OPTIMIZERS)
SMOKE = (CONSTANT, *WARMUPS.values(), "Nesterov", LINE_SEARCH)
"""At the smoke scale, where compiling every method would take minutes."""

# Of exact steps along the gradient.
SHARES_OF_STEP = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# A step of line search needs one more product with the data, a gradient two.
LINE_SEARCH_COST = 1.5

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
        from_product: (p, method, depth) → one layer, from that depth's initial end-to-end weights.
        first_touch: Depths 1 to 3 at rates searched for by the first touch of the target, see
            `depth_grid.depth_runs`.
    """

    cells: Mapping[tuple[float, str, int], Cell]
    float64: Mapping[tuple[float, str, int], Cell] = field(default_factory=dict)
    from_product: Mapping[tuple[float, str, int], Cell] = field(default_factory=dict)
    first_touch: xr.Dataset | None = None

    def side(
        self, p: float, method: str, depth: int, share: float | None = None, rule: str = "stable"
    ) -> ModelRuns:
        """A model's runs for a comparison, see `side_of`."""
        return side_of(*self.cells[p, method, depth], share, rule)

    def touching(self, p: float, depth: int) -> ModelRuns | None:
        """A depth at a constant rate, by the first touch of the target."""
        if self.first_touch is None:
            return None
        model = model_number(self.first_touch, loss_name=f"l{p:g}", depth=depth)
        return side_of(self.first_touch, model, None, "target")


STAND_IN = "stand-in"


def problems(context: Context) -> dict[str, Problem]:
    """Those of other claims, and the embedded stand-in."""
    found = context.problems()
    return found if context.scale == "smoke" else found | {STAND_IN: make_problem(gas_like())}


POWERS = Scaled((2.0, 4.0), (2.0, 3.0, 4.0, 6.0), (2.0, 3.0, 4.0, 6.0))
"""The exponents of the loss."""


def rivals(context: Context) -> dict[str, Rivals]:
    """Every method on every problem; further choices on the first problem."""
    first_touch = depth_runs(context)
    found = {
        name: train(
            context,
            problem,
            with_choices=number == 0,
            only_l4=number > 0 and name == STAND_IN,
        )
        for number, (name, problem) in enumerate(problems(context).items())
    }
    return {name: replace(runs, first_touch=first_touch.get(name)) for name, runs in found.items()}


def train(
    context: Context, problem: Problem, *, with_choices: bool, only_l4: bool = False
) -> Rivals:
    """Every method on a problem, each at learning rates that are searched for.

    Args:
        context: Trains.
        problem: What is fitted.
        with_choices: Whether to train what only other choices need.
        only_l4: Whether to train on ℓ4 alone.
    """
    cells: dict[tuple[float, str, int], Cell] = {}
    bases: dict[float, SweepConfig] = {}
    for p in (4.0,) if only_l4 else POWERS.at(context):
        # On ℓ2 a step costs a twentieth.
        base = bases[p] = SweepConfig(
            losses=(Loss(p),), num_seeds=context.pick(2, 20 if p == 2 else 6, 20),
            num_steps=context.pick(300, 20_000, 200_000),
        )  # fmt: skip
        methods = context.pick(SMOKE, METHODS, METHODS)
        searched = tuple(OPTIMIZERS[m] for m in methods if m != LINE_SEARCH)
        config = replace(base, depths=(1, 2), optimizers=searched)
        search = {"best_by": "stable", "tolerance": TOLERANCE}
        cells |= _cells(p, methods, context.tuned(problem, config, **search))
        deeper = replace(base, depths=(3,))
        cells |= _cells(p, (CONSTANT,), context.tuned(problem, deeper, **search))
        line_search = replace(
            base, depths=(1, 2), optimizers=(OPTIMIZERS[LINE_SEARCH],),
            learning_rates=SHARES_OF_STEP, num_steps=context.pick(100, 2000, 20_000),
        )  # fmt: skip
        cells |= _cells(p, (LINE_SEARCH,), context.sweep(problem, line_search))
    if not with_choices:
        return Rivals(cells)
    float64: dict[tuple[float, str, int], Cell] = {}
    from_product: dict[tuple[float, str, int], Cell] = {}
    for p, method, depth in cells:
        if p not in (2, 4) or method not in (CONSTANT, WARMUP):
            continue
        base = replace(bases[p], optimizers=(OPTIMIZERS[method],))
        config = replace(
            base,
            depths=(depth,),
            precision="float64",
            learning_rates=_tried(cells[p, method, depth]),
        )
        if method == CONSTANT or depth == 1:
            float64 |= _cells(p, (method,), context.sweep(problem, config))
        if depth > 1:
            starts = end_to_end_starts(problem, replace(bases[p], depths=(depth,)))
            one = replace(base, depths=(1,), learning_rates=_around(cells[p, method, 1]))
            from_product[p, method, depth] = context.sweep(problem, one, initial=starts), 0
    return Rivals(cells, float64, from_product)


def _around(cell: Cell) -> tuple[float, ...]:
    """Rates about the best stable one: another start may be stable at others."""
    side = side_of(*cell, None, "stable")
    best = int(side.best(side.all_seeds)[0])
    middle = float(side.rates[best if best >= 0 else 0])
    return tuple(float(f"{rate:.4g}") for rate in np.geomspace(middle / 4, middle * 4, 25))


def _tried(cell: Cell) -> tuple[float, ...]:
    results, model = cell
    return tuple(results["learning_rate"].values[trained(results)[model]].tolist())


def _cells(
    p: float, methods: Sequence[str], results: xr.Dataset
) -> dict[tuple[float, str, int], Cell]:
    """A sweep's models by exponent, method and depth.

    Args:
        p: The loss's exponent.
        methods: Those that the sweep has; of several with one optimizer, settings distinguish them.
        results: The sweep's.
    """
    found: dict[tuple[float, str, int], Cell] = {}
    for method in methods:
        optimizer = OPTIMIZERS[method]
        at: dict[str, object] = {"optimizer": optimizer.name}
        if "optimizer_settings" in results.coords:
            at["optimizer_settings"] = optimizer.settings_text or "-"
        for depth in (1, 2, 3):
            own = np.ones(results.sizes["model"], bool)
            for name, value in {**at, "depth": depth}.items():
                own &= results[name].values == value
            if own.any():
                (number,) = np.flatnonzero(own)
                found[p, method, depth] = results, int(number)
    return found


def _speed_up(base: ModelRuns, model: ModelRuns) -> Effect:
    """As `estimators.speed_up`, without the halves of the grid.

    Rates were searched for until none could lower the steps by `TOLERANCE`: near the best they are
    that close, so that a half of them is no grid that anybody would choose.
    """
    return replace(speed_up(base, model), halves=())


def against_one_layer(runs: Rivals, p: float, method: str, depth: int) -> Effect | None:
    """The speed-up over one layer at a constant rate, at stable rates."""
    if (p, method, depth) not in runs.cells:
        return None
    if (method, depth) == (CONSTANT, 1):
        return Effect("", 1.0, note="the baseline")
    return _speed_up(runs.side(p, CONSTANT, 1), runs.side(p, method, depth))


def gain_of_depth(runs: Rivals, p: float, method: str) -> Effect | None:
    """The speed-up of depth 2 over one layer with the same schedule."""
    if (p, method, 2) not in runs.cells:
        return None
    return _speed_up(runs.side(p, method, 1), runs.side(p, method, 2))


Choice = Callable[[Rivals, float, str, int], ModelRuns | None]
"""Called with exponent, method and depth; returns a model's runs by a choice."""


def _at(share: float | None = None) -> Choice:
    return lambda runs, p, method, depth: runs.side(p, method, depth, share)


def _in_float64(runs: Rivals, p: float, method: str, depth: int) -> ModelRuns | None:
    cell = runs.float64.get((p, method, depth))
    return None if cell is None else side_of(*cell, None, "stable")


def _first_touch(runs: Rivals, p: float, method: str, depth: int) -> ModelRuns | None:
    if method == CONSTANT:
        return runs.touching(p, depth)
    return None if runs.first_touch is None else runs.side(p, method, depth, rule="target")


def _below_the_edge(runs: Rivals, p: float, method: str, depth: int) -> ModelRuns | None:
    """Only rates at which most runs stay below ηλ = 2."""
    results, model = runs.cells[p, method, depth]
    if method != CONSTANT:
        return None
    own = by_model(results).isel(model=model)
    below = [
        n for n in np.flatnonzero(trained(results)[model]).tolist()
        if not is_past_edge(own.isel(learning_rate=n))
    ]  # fmt: skip
    return side_of(results.isel(learning_rate=below), model, None, "stable") if below else None


BY_CHOICE: dict[str, Choice] = {
    AS_CHOSEN: _at(),
    "float64": _in_float64,
    "first to the target": _first_touch,
    "target 30 %": _at(0.3),
    "target 6 %": _at(0.06),
    "target 3 %": _at(0.03),
    "rates below the edge": _below_the_edge,
}
"""Defensible choices, and a model's runs by each."""
FROM_PRODUCT = "same initial end-to-end weights"


def against_depth(runs: Rivals, choice: str) -> Effect | None:
    """The speed-up of a warm-up on one layer over depth 2, on ℓ4, by a choice."""
    if choice in OTHER_WARMUPS:
        if (4, choice, 1) not in runs.cells:
            return None
        return _speed_up(runs.side(4, CONSTANT, 2), runs.side(4, choice, 1))
    return _compared(runs, 4, (CONSTANT, 2), (WARMUP, 1), choice)


def schedule_over_depth(runs: Rivals, method: str, share: float) -> Effect | None:
    """The speed-up of a schedule on one layer over depth 2 at a constant rate, on ℓ4."""
    if (4, method, 1) not in runs.cells:
        return None
    return _speed_up(runs.side(4, CONSTANT, 2, share), runs.side(4, method, 1, share))


def depth_by_choice(runs: Rivals, p: float, depth: int, choice: str) -> Effect | None:
    """The speed-up of a depth over one layer at constant rates, by a choice."""
    return _compared(runs, p, (CONSTANT, 1), (CONSTANT, depth), choice)


def slow_down_by_choice(runs: Rivals, p: float, depth: int, choice: str) -> Effect | None:
    """The speed-up of one layer over a depth at constant rates, by a choice."""
    return _compared(runs, p, (CONSTANT, depth), (CONSTANT, 1), choice)


def first_touch_speed_up(runs: Rivals, p: float, depth: int) -> Effect | None:
    """The speed-up of a depth over one layer, by the first touch of the target."""
    base, model = (runs.touching(p, n) for n in (1, depth))
    return None if base is None or model is None else _speed_up(base, model)


def first_touch_slow_down(runs: Rivals, p: float, depth: int) -> Effect | None:
    """The speed-up of one layer over a depth, by the first touch of the target."""
    base, model = (runs.touching(p, n) for n in (depth, 1))
    return None if base is None or model is None else _speed_up(base, model)


def first_touches(all_runs: Mapping[str, Rivals]) -> dict[str, xr.Dataset]:
    """The results by the first touch of the target, where there are some."""
    return {n: r.first_touch for n, r in all_runs.items() if r.first_touch is not None}


STABLE_SPEED_UP, STABLE_SLOW_DOWN = "speed-up at stable rates", "slow-down at stable rates"
"""Measures of depth against one layer, to 10 % of the zero predictor's excess loss."""
DEPTH_CHOICES = (*BY_CHOICE, FROM_PRODUCT)
"""The choices by which depth is compared with one layer."""


def _compared(
    runs: Rivals, p: float, base: tuple[str, int], model: tuple[str, int], choice: str
) -> Effect | None:
    if any((p, *each) not in runs.cells for each in (base, model)):
        return None
    if choice == FROM_PRODUCT:
        depth = max(base[1], model[1])
        sides = [
            side_of(*cell, None, "stable")
            if n == 1 and (cell := runs.from_product.get((p, method, depth))) is not None
            else runs.side(p, method, n)
            for method, n in (base, model)
        ]
        return _speed_up(*sides) if runs.from_product else None
    first, second = (BY_CHOICE[choice](runs, p, *each) for each in (base, model))
    return None if first is None or second is None else _speed_up(first, second)


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


LEAST_SHOWN = 1e-3
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
            curves = np.where(curves / zero < LEAST_SHOWN, np.nan, curves)
            layers = "one layer" if depth == 1 else f"depth {depth}"
            lines[f"{layers}, {method}"] = results["step"].values, curves / zero
    return plot_curves(
        panels, title="One layer with a schedule against depth, at stable learning rates",
        xlabel="step", ylabel="excess loss / zero predictor's",
    )  # fmt: skip
