"""T11: how weight decay shrinks a product of matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, below, judge, shortfall, within
from implicit_accel.claims.drawing import (
    draw_seeds,
    label_end,
    make_figure,
    untangle,
)
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import effects_table, median_of
from implicit_accel.claims.published.images import images_and_notes
from implicit_accel.claims.published.theory import SOURCE
from implicit_accel.claims.published.tutorial import (
    LAW_FACTOR,
    LAW_STEP,
    NETWORKS,
    RATE,
    Decay,
    decay_of,
    published_length,
)
from implicit_accel.plotting import COLOURS
from implicit_accel.theory.decay import (
    initial_decay,
    momentum_time,
    product_penalty,
    single_penalty,
)

# Inputs, hidden width, outputs of the product that nothing but decay acts on.
_SHAPE = 64, 16, 8
_STDS = (0.1, 0.3, 1.0)

# The tutorial's.
_MOMENTUM, _WEIGHT_DECAY = 0.9, 5e-4

# Below this share of the start nobody sees a penalty in a loss.
_LEAST_LEFT = 1e-3

# How far the law may be from what it describes exactly but for the steps' length.
_ALONE = 5.0


@dataclass(frozen=True)
class _Shrinking:
    """Products that decay, nothing else acting on them.

    Attributes:
        measured: (seed, step) penalties of momentum descent.
        predicted: The same, by the law.
        times: (step,) flow time.
        faster: (seed,) times faster than a single matrix's at the start.
    """

    measured: np.ndarray
    predicted: np.ndarray
    times: np.ndarray
    faster: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(seed,) per cent, the largest on the way."""
        shown = self.measured > _LEAST_LEFT * self.measured[:, :1]
        off = np.where(shown, np.abs(self.predicted / self.measured - 1), 0)
        return 100 * off.max(axis=1)


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
            _MOMENTUM * v + _WEIGHT_DECAY * g for v, g in zip(velocities, gradients, strict=True)
        ]
        factors = [w - RATE * v for w, v in zip(factors, velocities, strict=True)]
    return np.array(penalties)


def _alone(std: float, seeds: int, num_steps: int) -> _Shrinking:
    d, h, k = _SHAPE
    times = momentum_time(np.full(num_steps, RATE), _MOMENTUM)
    measured, predicted, faster = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        first, second = std * rng.standard_normal((h, d)), std * rng.standard_normal((k, h))
        measured.append(shrink(first, second, num_steps))
        predicted.append(product_penalty(first, second, times, _WEIGHT_DECAY))
        faster.append(initial_decay(first, second))
    return _Shrinking(np.array(measured), np.array(predicted), times, np.array(faster))


def _last(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Where a curve ends, or is about to leave the axes."""
    i = int(np.flatnonzero(values > 2 * _LEAST_LEFT * values[0])[-1])
    return float(steps[i]), float(values[i])


def _draw(found: dict[float, _Shrinking], decay: Decay, weight_decay: float) -> Figure:
    figure, axes = make_figure(
        1, 2, title="Weight decay shrinks a product of large factors faster than a matrix"
    )
    alone, network = axes[0]
    times = found[_STDS[0]].times
    steps = np.arange(len(times))
    for colour, (std, runs) in zip(COLOURS, found.items(), strict=False):
        style, start = {"color": colour}, runs.measured[:, :1]
        draw_seeds(alone, steps, runs.measured / start, label="", style=style)
        law = np.median(runs.predicted / start, axis=0)
        alone.plot(steps, law, color="black", linewidth=0.9, linestyle=(0, (3, 3)))
        label_end(alone, *_last(steps, law), f"product, std {std:g}", colour)
    single = single_penalty(1.0, times, _WEIGHT_DECAY)
    alone.plot(steps, single, color="0.5", linewidth=1.2)
    label_end(alone, *_last(steps, single), "a single matrix", "0.5")
    alone.set(yscale="log", ylim=(_LEAST_LEFT, 1.5), xlabel="step",
              ylabel="penalty over its start", title="decay alone; dashed: the law")  # fmt: skip
    untangle(alone)
    for name, colour in zip(NETWORKS, COLOURS, strict=False):
        style, measured = {"color": colour}, weight_decay * decay.measured[name]
        draw_seeds(network, decay.steps, measured, label="", style=style)
        law = weight_decay * np.median(decay.predicted[name], axis=0)
        network.plot(decay.steps, law, color="black", linewidth=0.9, linestyle=(0, (3, 3)))
        label_end(network, *_last(decay.steps, np.median(measured, axis=0)), name, colour)
    lowest = weight_decay * min(float(np.min(values)) for values in decay.measured.values())
    network.set(yscale="log", ylim=(lowest / 3, None), xlabel="step",
                ylabel="λ · penalty", title="P6's network, the data acting too")  # fmt: skip
    for ax in (alone, network):
        ax.title.set_fontsize(9)
    return figure


def _later(decay: Decay) -> str:
    """How far the law is off at the end of the runs on images, as text."""
    off = (
        f"{np.median(decay.measured[name][:, -1] / decay.predicted[name][:, -1]):.3g}× ({name})"
        for name in NETWORKS
    )
    return f"after {int(decay.steps[-1]):,} steps {' and '.join(off)} what it says is left"


def _test(lab: Context) -> Finding:
    data, notes = images_and_notes(lab)
    pair = published_length(lab, data)
    decay, weight_decay = decay_of(pair), float(pair[0].attrs["weight_decay"])
    seeds, num_steps = lab.pick(2, 12, 30), lab.pick(20, 8_594, 8_594)
    found = {std: _alone(std, seeds, num_steps) for std in _STDS}
    d, h, k = _SHAPE
    errors: list[Effect] = [
        median_of(f"decay alone, std {std:g}: largest error of the law", runs.error, unit=" %",
                  least=0.0)
        for std, runs in found.items()
    ]  # fmt: skip
    faster = [
        median_of(
            f"decay alone, std {std:g}: the start's decay over a single matrix's, over "
            "std² (d + 2h + k + 2)", runs.faster / (std**2 * (d + 2 * h + k + 2)), unit="",
            least=0.0,
        )
        for std, runs in found.items()
    ]  # fmt: skip
    networks = [replace(e, name=f"{data.title}, {e.name}") for e in decay.effects]
    parts = [
        *(below(e, _ALONE) for e in errors),
        *(within(e, 0.9, 1.1) for e in faster),
        *(within(e, 1 / LAW_FACTOR, LAW_FACTOR) for e in networks),
    ]
    verdict = judge(parts)
    at = {std: 100 * np.median(r.measured[:, -1] / r.measured[:, 0]) for std, r in found.items()}
    left = ", ".join(f"{share:.3g} % (std {std:g})" for std, share in at.items())
    single = 100 * single_penalty(1.0, found[_STDS[0]].times[-1:], _WEIGHT_DECAY)[0]
    return Finding(
        verdict=verdict,
        effects=(*errors, *faster, *networks),
        summary=f"After {num_steps:,} steps of decay alone {single:.3g} % of a single matrix's "
        f"penalty are left, and of a product's {left}. On {data.title} the first product decays "
        f"{decay.faster:.3g} times faster than a single matrix at its start."
        + shortfall(
            verdict,
            "The law is the flow's: where decay is so fast that a step is not small beside it, "
            "it is off by the step's length. And it knows nothing of the data's gradient.",
        )
        + f" There it holds for a time only: {_later(decay)}.",
        sensitivity="A product of small factors decays more slowly than a single matrix: what "
        "counts is the factors' size, not that there are two.",
        caveats=(
            f"{pair[0].sizes['seed']} seed(s) of the networks on {data.title}: with fewer than "
            "six the range decides.",
            *notes,
        ),
        tables={
            "The law against what it describes": effects_table([*errors, *faster, *networks]),
            "Weight decay's part of the loss": decay.table(weight_decay),
        },
        figures={"decay": _draw(found, decay, weight_decay)},
    )


CLAIM = Claim(
    id="T11",
    statement="Weight decay shrinks a product of matrices through every factor: from λ, the "
    "learning rate, the momentum and the start alone follows how fast.",
    source=SOURCE,
    setting=f"A product of shapes {_SHAPE[0]} → {_SHAPE[1]} → {_SHAPE[2]} under momentum descent "
    f"on its own penalty alone, Gaussian factors of three sizes; and both networks of P6.",
    criterion=f"With decay alone the law's largest error on the way down to {_LEAST_LEFT:g} of the "
    f"start is below {_ALONE:g} %, and the start's decay over a single matrix's is "
    "std² (d + 2h + k + 2) within 10 %, medians over seeds. In P6's networks, where the data act "
    f"too, predicted over measured penalty after {LAW_STEP:,} steps is within a factor of "
    f"{LAW_FACTOR:g}.",
    test=_test,
    minutes=0.5,
    paper_hours=8.0,
)
