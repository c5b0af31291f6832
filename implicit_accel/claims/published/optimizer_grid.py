"""Every optimizer with rates of its own, on ℓ4: what P4a and P4b share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.curves import Curves, joined
from implicit_accel.claims.effects import Effect, Key
from implicit_accel.claims.estimators import compare, model_number
from implicit_accel.claims.forest import Forest
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer

# Label → (optimizer, learning rates at standard scale, depths). TensorFlow 1 and PyTorch differ in
# their defaults; what is not said is optax's. AdaGrad's accumulator starts at 0.1 in TensorFlow and
# optax, at 0 in PyTorch.
OPTIMIZERS: dict[str, tuple[Optimizer, str, tuple[int, ...]]] = {
    "gradient descent": (Optimizer("sgd"), "log:1e-3:3:22", (1, 2, 3)),
    "momentum": (Optimizer("momentum"), "log:1e-4:0.3:16", (1, 2, 3)),
    "Nesterov": (Optimizer("nesterov"), "log:1e-4:0.3:16", (1, 2, 3)),
    "AdaGrad": (Optimizer("adagrad"), "log:1e-3:10:18", (1,)),
    "AdaGrad (PyTorch's)": (
        Optimizer("adagrad", (("initial_accumulator_value", 0.0), ("eps", 1e-10))),
        "log:1e-3:10:18",
        (1,),
    ),
    "AdaDelta (optax's and PyTorch's)": (Optimizer("adadelta"), "log:1e-2:1e4:18", (1,)),
    "AdaDelta (TensorFlow 1's)": (
        Optimizer("adadelta", (("rho", 0.95), ("eps", 1e-8))),
        "log:1e-1:1e5:18",
        (1,),
    ),
    "Adam": (Optimizer("adam"), "log:1e-4:1:18", (1, 2, 3)),
}

# At standard scale, if not 20,000. One layer by gradient descent takes about as many to the target
# at the highest rate that nine of ten seeds survive, AdaGrad 14,000, the last three up to 3,100.
# Adam's runs are longer than depth 3's by gradient descent take, or they could not lose to it.
_STEPS = {"sgd": 30_000, "momentum": 6_000, "nesterov": 6_000, "adam": 10_000}

LENGTHENED = (
    "Standard runs were lengthened after a first look, in which one layer by gradient descent and "
    "by AdaGrad had not reached the target; after a later one those with momentum and by Adam, "
    "which take 3,100 steps at most, were cut to 6,000 and 10,000, and those of AdaGrad and "
    "AdaDelta, which take 14,000, to 20,000."
)


AGAINST = "speed-up to 10 %"
"""The measure, to 10 % of the zero predictor's excess loss."""

Runs = dict[str, xr.Dataset]
"""Results by the optimizer's label."""


def optimizer_runs(context: Context) -> tuple[str, Runs]:
    """The first problem's name, and every optimizer's results."""
    name, problem = context.first_problem()
    configs = []
    for optimizer, rates, depths in OPTIMIZERS.values():
        smoke = ":".join([*rates.split(":")[:3], "4"])
        config = SweepConfig(
            depths=depths,
            losses=(Loss(4),),
            optimizers=(optimizer,),
            learning_rates=parse_learning_rates([context.pick(smoke, rates, rates)]),
            num_seeds=context.pick(2, 6, 30),
            num_steps=context.pick(200, _STEPS.get(optimizer.name, 20_000), 100_000),
        )
        configs.append(config)
    return name, dict(zip(OPTIMIZERS, context.sweeps(problem, configs), strict=True))


def against(problem: str, runs: Runs, own: tuple[str, int], base: tuple[str, int]) -> Effect:
    """The speed-up of one optimizer and depth over another.

    Args:
        problem: Its name.
        runs: From `optimizer_runs`.
        own: Label and depth.
        base: Label and depth of the one compared with.
    """
    numbers = [model_number(runs[label], depth=depth) for label, depth in (own, base)]
    effect = compare(runs[own[0]], *numbers, base_results=runs[base[0]])
    over = f"{base[0]}, depth {base[1]}"
    return effect.keyed(
        Key.of(AGAINST, problem=problem, p=4, method=own[0], depth=own[1], over=over)
    )


def optimizer_curves(problem: str, runs: Runs) -> dict[str, Curves]:
    """Explorer curves: every optimizer and depth."""
    return {_title(problem): Curves(joined(runs.items()))}


def _title(problem: str) -> str:
    return f"{problem}, ℓ4, every optimizer"


def optimizer_figure(problem: str, runs: Runs, shown: Collection[str]) -> Forest:
    """Some optimizers, at every depth, against one layer by gradient descent.

    Args:
        problem: Its name.
        runs: From `optimizer_runs`.
        shown: Labels of the optimizers.
    """
    base = ("gradient descent", 1)
    contestants = [
        (name, d)
        for name in OPTIMIZERS
        if name in shown
        for d in runs[name]["depth"].values.tolist()
    ]
    effects = tuple(
        replace(against(problem, runs, own, base), name=f"{own[0]}, depth {own[1]}")
        for own in contestants
        if own != base
    )
    return Forest(
        {"": effects},
        title=f"ℓ4 on {problem}: each at its own best learning rate",
        xlabel="speed-up to the target over gradient descent on one layer",
        curves=(_title(problem),) * len(effects),
    )
