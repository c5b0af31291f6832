"""Every optimizer with rates of its own, on ℓ4: what P4a and P4b share."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

from implicit_accel.claims.context import Context
from implicit_accel.claims.curves import Curves, joined
from implicit_accel.claims.effects import Effect
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


def optimizer_runs(lab: Context) -> tuple[str, dict[str, xr.Dataset]]:
    """The first problem's name, and results by the optimizer's label."""
    name, problem = lab.first_problem()
    configs = []
    for optimizer, rates, depths in OPTIMIZERS.values():
        smoke = ":".join([*rates.split(":")[:3], "4"])
        config = SweepConfig(
            depths=depths,
            losses=(Loss(4),),
            optimizers=(optimizer,),
            learning_rates=parse_learning_rates([lab.pick(smoke, rates, rates)]),
            num_seeds=lab.pick(2, 6, 30),
            num_steps=lab.pick(200, _STEPS.get(optimizer.name, 20_000), 100_000),
        )
        configs.append(config)
    return name, dict(zip(OPTIMIZERS, lab.sweeps(problem, configs), strict=True))


def against(
    runs: dict[str, xr.Dataset], own: tuple[str, int], base: tuple[str, int], name: str
) -> Effect:
    """How many times fewer steps one (optimizer, depth) needs than another."""
    numbers = [model_number(runs[label], depth=depth) for label, depth in (own, base)]
    effect = compare(
        runs[own[0]], numbers[0], numbers[1], base_results=runs[base[0]],
        name=f"{own[0]}, depth {own[1]}, against {base[0]}, depth {base[1]}",
    )  # fmt: skip
    return replace(effect, name=f"{name}{effect.name}")


def optimizer_curves(name: str, runs: dict[str, xr.Dataset]) -> dict[str, Curves]:
    """What the page lets one explore: every optimizer and depth."""
    return {_title(name): Curves(joined(runs.items()))}


def _title(name: str) -> str:
    return f"{name}, ℓ4, every optimizer"


def optimizer_figure(name: str, runs: dict[str, xr.Dataset]) -> Forest:
    """Every optimizer and depth against one layer by gradient descent."""
    effects = []
    for label, run in runs.items():
        for depth in run["depth"].values.tolist():
            if (label, depth) == ("gradient descent", 1):
                continue
            effect = against(runs, (label, depth), ("gradient descent", 1), "")
            effects.append(replace(effect, name=f"{label}, depth {depth}"))
    return Forest(
        {"": tuple(effects)},
        title=f"ℓ4 on {name}: every optimizer at its own best learning rate",
        xlabel="times fewer steps to the target than gradient descent on one layer",
        curves=(_title(name),) * len(effects),
    )
