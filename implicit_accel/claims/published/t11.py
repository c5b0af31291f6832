"""T11: how weight decay shrinks a product of matrices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Found, Key
from implicit_accel.claims.drawing import draw_seeds, make_figure, untangle
from implicit_accel.claims.estimators import median
from implicit_accel.claims.published.theory import SOURCE
from implicit_accel.claims.published.tutorial import (
    LAW_FACTOR,
    NETWORKS,
    RATE,
    Decay,
    decay_of,
    draw_penalty,
    published_length,
)
from implicit_accel.plotting import COLOURS
from implicit_accel.theory.decay import (
    initial_decay,
    momentum_time,
    product_penalty,
    single_penalty,
)

INPUTS, HIDDEN, OUTPUTS = 64, 16, 8
STDS, MOMENTUM, WEIGHT_DECAY = (0.1, 0.3, 1), 0.9, 5e-4  # the last two are the tutorial's
LEAST = 1e-3  # Penalties are compared down to this share of the initial one.
INITIAL = "initial decay over the expected one"


def run(context: Context) -> Found:
    """Products that only weight decay acts on, and the networks of P6."""
    data = context.mnist()
    pair = published_length(context, data)
    decay = decay_of(pair)
    seeds, num_steps = context.pick(2, 12, 30), context.pick(20, 8_594, 8_594)
    times = momentum_time(np.full(num_steps, RATE), MOMENTUM)
    alone, effects = {std: decayed(std, seeds, times) for std in STDS}, {}
    for std, (measured, predicted, initial) in alone.items():
        compared = measured > LEAST * measured[:, :1]
        error = 100 * np.where(compared, np.abs(predicted / measured - 1), 0).max(axis=1)
        initial /= std**2 * (INPUTS + 2 * HIDDEN + OUTPUTS + 2)
        left = 100 * measured[:, -1] / measured[:, 0]
        effects[Key.of("error of the law", std=std)] = median(error, unit=" %", least=0.0)
        effects[Key.of(INITIAL, std=std)] = median(initial, unit="", least=0.0)
        effects[Key.of("penalty left", std=std)] = median(left, unit=" %", least=0.0)
    for name, effect in zip(NETWORKS, decay.effects, strict=True):
        at = {"problem": data.title, "method": name}
        effects[Key.of("predicted over measured penalty", **at)] = effect
        last = decay.measured[name][:, -1] / decay.predicted[name][:, -1]
        effects[Key.of("measured over predicted penalty at the end", **at)] = median(last)
    return Found(
        effects=[effect.keyed(key) for key, effect in effects.items()],
        facts={
            "data": data, "num_steps": num_steps, "seeds": pair[0].sizes["seed"], "decay": decay,
            "single": 100 * float(single_penalty(1.0, times[-1:], WEIGHT_DECAY)[0]),
        },
        figures={"decay": draw(alone, times, decay, pair[0].attrs["weight_decay"])},
    )  # fmt: skip


def decayed(std: float, seeds: int, times: np.ndarray) -> tuple[np.ndarray, ...]:
    """Products of Gaussian factors that only weight decay acts on.

    Returns:
        (seed, step) penalties of momentum descent and of the law at these flow times, and (seed,)
        initial decays over that of a single matrix.
    """
    measured, predicted, initial = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        first = std * rng.standard_normal((HIDDEN, INPUTS))
        second = std * rng.standard_normal((OUTPUTS, HIDDEN))
        measured.append(shrink(first, second, len(times) - 1))
        predicted.append(product_penalty(first, second, times, WEIGHT_DECAY))
        initial.append(initial_decay(first, second))
    return np.array(measured), np.array(predicted), np.array(initial)


def shrink(first: np.ndarray, second: np.ndarray, num_steps: int) -> np.ndarray:
    """½ ‖W_2 W_1‖² under momentum descent on λ times itself, before the first step and after each.

    Args:
        first: (h, d) W_1.
        second: (k, h) W_2.
        num_steps: T.

    Returns:
        (T + 1,) penalties.
    """
    factors, velocities = [first, second], [np.zeros_like(first), np.zeros_like(second)]
    penalties = []
    for _ in range(num_steps + 1):
        W1, W2 = factors
        product = W2 @ W1
        penalties.append(float(np.sum(product**2)) / 2)
        gradients = W2.T @ product, product @ W1.T
        velocities = [
            MOMENTUM * v + WEIGHT_DECAY * g for v, g in zip(velocities, gradients, strict=True)
        ]
        factors = [w - RATE * v for w, v in zip(factors, velocities, strict=True)]
    return np.array(penalties)


def draw(
    alone: Mapping[float, tuple[np.ndarray, ...]], times: np.ndarray, decay: Decay, weight: float
) -> Figure:
    """Penalties against steps: with decay alone, and times λ in the networks of P6."""
    figure, axes = make_figure(
        1, 2, title="Weight decay shrinks a product of large factors faster than a matrix"
    )
    (left, right), steps = axes[0], np.arange(len(times))
    left.set(yscale="log", ylim=(LEAST, 1.5), xlabel="step", ylabel="penalty over the initial one")
    curves = {f"product, std {std:g}": curves[:2] for std, curves in alone.items()}
    curves["a single matrix"] = (single_penalty(1.0, times, WEIGHT_DECAY)[None],) * 2
    for colour, (label, pair) in zip(COLOURS, curves.items(), strict=False):
        measured, law = (penalties / penalties[:, :1] for penalties in pair)
        shown = np.where(np.median(measured, axis=0) > 2 * LEAST, measured, np.nan)
        draw_seeds(left, steps, shown, label=label, style={"color": colour})
        left.plot(steps, np.median(law, axis=0), "k--", linewidth=0.9)
    untangle(left)
    values = weight * np.array(list(decay.measured.values()))
    right.set(yscale="log", ylim=(values.min() / 3, 2 * values.max()), xlabel="step")
    right.set_ylabel("λ · penalty")
    draw_penalty(right, decay, weight)
    left.set_title("decay alone", fontsize=9)
    right.set_title("networks of P6, with data", fontsize=9)
    return figure


CLAIM = Claim(
    id="T11",
    is_theory=True,
    statement="Weight decay shrinks a product of matrices through every factor: λ, the learning "
    "rate, the momentum and the initialisation alone determine how fast.",
    source=SOURCE,
    run=run,
    valid="for small initialisations; the error grows with them",
    checks=(
        Check("error of the law", high=5.0),
        Check(INITIAL, low=0.9, high=1.1, closed=True),
        Check("predicted over measured penalty", low=1 / LAW_FACTOR, high=LAW_FACTOR, closed=True),
    ),
    minutes=0.5,
    paper_hours=8.0,
)
