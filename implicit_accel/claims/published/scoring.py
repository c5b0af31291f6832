"""How near a candidate's gradient flows come to the authors' curves of gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from implicit_accel.claims.published.authors import distance
from implicit_accel.claims.published.candidates import zero_loss
from implicit_accel.claims.published.stiff import Flow, follow_l4
from implicit_accel.data.problems import Problem
from implicit_accel.linear.initialisers import Initialiser

# The ten rates of the paper.
PAPER_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)
# The figure's frame ends here.
FRAME_TOP = 4.74
GRADIENT_DESCENT = {1: "gradient_descent_depth_1", 2: "gradient_descent_depth_2"}

_STD = 0.01
# Gradient descent at a rate below 2 / sharpness goes so far in 10⁶ steps; and no curve goes lower.
_FARTHEST, _LOWEST = 2e6, 8e-4
# The zero map's loss, in decades: not below the first reading, 3.93, since the loss falls from it.
_AMPLITUDES = np.arange(np.log10(3.93), 1.3, 0.004)
_SHIFT = 0.005  # decades


def flow_of(problem: Problem, depth: int, *, seed: int = 0) -> Flow:
    """The flow of depth 1 or 2 (with one hidden scalar) from weights of standard deviation 0.01."""
    hidden = (1,) * (depth - 1)
    layers = Initialiser("near_zero", _STD).draw(
        problem.num_features, hidden, 1, bias=False, seed=seed
    )
    lowest = _LOWEST * zero_loss(problem)
    return follow_l4(problem, layers, most=10 ** (depth - 1) * _FARTHEST, lowest=lowest)


def rescaled(flow: Flow, *, features: float, labels: float) -> Flow:
    """The flow of one layer whose features and labels are so many times as large.

    Exact for a start at zero: ``L(w) = a⁴ L̂(f w / a)`` has its own time f² a² times as fast.
    """
    pace = (features * labels) ** 2
    return Flow(flow.time / pace, flow.loss * labels**4, flow.sharpness * pace)


def at_rates(
    flow: Flow, curve: pd.DataFrame, rates: Sequence[float] = PAPER_RATES
) -> tuple[float, float]:
    """The distance of the nearest of some learning rates, and that rate.

    Only rates below 2 / sharpness are looked at, at which gradient descent follows the flow.

    Returns:
        Inf and NaN if there is none, or none takes the flow past the curve's first iteration.
    """
    found = [(np.inf, np.nan)]
    for rate in rates:
        if rate * flow.sharpness < 2:
            # The flow ends where it is as low as it may go: there it stays.
            steps = np.append(flow.time / rate, 1e12)
            d = distance(steps, np.append(flow.loss, flow.loss[-1]), curve)
            found += [(d, rate)] if np.isfinite(d) else []
    return min(found)


@dataclass(frozen=True)
class Fit:
    """Flows laid onto the authors' curves by scales of one's own.

    Attributes:
        amplitude: What the zero map's loss is made: one label scale for all depths.
        distances: By depth.
        rates: By depth, the learning rate times the flow's largest sharpness: 2 is the edge.
    """

    amplitude: float
    distances: Mapping[int, float]
    rates: Mapping[int, float]

    @property
    def total(self) -> float:
        """The RMS of the depths' distances."""
        return float(np.sqrt(np.mean(np.square(list(self.distances.values())))))


def fit_scales(
    flows: Mapping[int, Flow], zero: float, curves: Mapping[int, pd.DataFrame]
) -> Fit | None:
    """The common amplitude and the learning rates, one a depth, that lie nearest to the curves.

    The amplitude is moved afterwards: for one layer that is exact (labels a times as large: a⁴ the
    loss, a² the pace); of two it makes the start's relative size another, by the fourth root of
    the label scale's change at most, which moves the plateau's end.

    Args:
        flows: By depth.
        zero: The zero map's loss in the flows.
        curves: By depth, with columns ``iteration`` and ``loss``.

    Returns:
        The fit, or None where a flow is too short to cover a curve at any stable rate.
    """
    parts = {depth: _gaps(flow, zero, curves[depth]) for depth, flow in flows.items()}
    if any(not len(part[0]) for part in parts.values()):
        return None
    squares = {}
    for depth, (_, mean, variance) in parts.items():
        squares[depth] = variance[:, None] + (mean[:, None] - _AMPLITUDES) ** 2
    best = int(np.argmin(sum(square.min(axis=0) for square in squares.values())))
    distances, rates = {}, {}
    for depth, square in squares.items():
        place = int(np.argmin(square[:, best]))
        distances[depth] = float(np.sqrt(square[place, best]))
        rates[depth] = float(parts[depth][0][place] * flows[depth].sharpness)
    return Fit(float(10 ** _AMPLITUDES[best]), distances, rates)


def _gaps(
    flow: Flow, zero: float, curve: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates at which a flow covers a curve, and mean and variance of log₁₀(curve / flow) there."""
    iterations = np.log10(np.asarray(curve["iteration"], float))
    theirs = np.log10(np.asarray(curve["loss"], float))
    times, losses = np.log10(flow.time), np.log10(flow.loss / zero)
    fastest = times[-1] - iterations[-1]
    if np.isfinite(flow.sharpness):
        fastest = min(fastest, np.log10(2 / flow.sharpness))
    rates = np.arange(times[0] - iterations[0], fastest, _SHIFT)
    gaps = theirs - np.interp(rates[:, None] + iterations, times, losses)
    return 10**rates, gaps.mean(axis=1), gaps.var(axis=1)
