"""P7: no regulariser gives the rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Key
from implicit_accel.claims.drawing import legend, make_figure
from implicit_accel.claims.estimators import compare
from implicit_accel.claims.published.sources import PAPER_2018
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig, parse_learning_rates
from implicit_accel.linear.losses import Loss
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import COLOURS
from implicit_accel.theory.regulariser import (
    closed_curve,
    closed_curve_integral,
    end_to_end_field,
    line_integral,
    loss_gradient,
    ray_coefficients,
)

RADII = (0.1, 1.0)
ANGLES = {"half circle": math.pi, "quarter": math.pi / 2}
LABELS = (30.0, 1.0)
"""Of the two-point example, whose inputs are (1, 0) and (0, 1)."""
CERTAIN = 1000
RATIO = "integral over its error bound"


def run(context: Context) -> Found:
    """Line integrals on one problem, and the example of two points."""
    name, problem = context.first_problem()
    depths = context.pick((2, 3), (2, 3, 4, 8), (2, 3, 4, 5, 6, 8, 16))
    found = {
        (p, curve, depth): integral(problem, p, ANGLES[curve], depth)
        for p, curve, depth in itertools.product((4, 2), ANGLES, depths)
    }
    effects, zeros = [], []
    for (p, curve, depth), (value, error, exact) in found.items():
        effect = Effect("", value, value - error, value + error, "", f"closed form {exact:.10g}")
        key = Key.of("line integral", problem=name, p=p, curve=curve, depth=depth)
        effects.append(effect.keyed(key))
        zeros += effects[-1:] if abs(value) <= CERTAIN * error else []
    facts = {
        "zeros": zeros, "labels": LABELS,
        "least": min((abs(e.value) for e in effects if e not in zeros), default=math.inf),
        "gap": max(abs(value - exact) for value, _, exact in found.values()),
    }  # fmt: skip
    for p, depth in itertools.product((2, 4), depths):
        ratios = [abs(value) / error for value, error, _ in (found[p, c, depth] for c in ANGLES)]
        key = Key.of(RATIO, problem=name, p=p, depth=depth)
        effects.append(Effect("", max(ratios)).keyed(key))
    results = two_points(context)
    # Excess loss 1e-3 is far below what the small label contributes.
    share = 1e-3 / float(results["zero_loss"][0] - results["optimum"][0])
    for model, depth in ((1, 2), (2, 3)):
        key = Key.of("speed-up of the rule", problem="two points", p=4, depth=depth)
        effects.append(compare(results, model, 0, share=share).keyed(key))
    return Found(effects=effects, facts=facts, figures={"field": draw(name, problem, found)})


def plane(problem: Problem, p: int) -> tuple[np.ndarray, np.ndarray]:
    """−∇L(0) and an orthogonal vector, which span the plane of the curves."""
    e = -loss_gradient(Loss(p), problem)(np.zeros(problem.num_features))
    other = np.eye(problem.num_features)[int(np.argmin(np.abs(e)))]
    return e, other - (other @ e) / (e @ e) * e


def integral(problem: Problem, p: int, angle: float, depth: int) -> tuple[float, float, float]:
    """A line integral by quadrature, the bound of its error, and the integral in closed form."""
    loss = Loss(p)
    e, across = plane(problem, p)
    lengths = np.linalg.norm(e), np.linalg.norm(across)
    start = math.cos(angle) * e / lengths[0] + math.sin(angle) * across / lengths[1]
    field = end_to_end_field(loss_gradient(loss, problem), depth)
    value, error = line_integral(field, closed_curve(e, across, *RADII, angle))
    first, last = (ray_coefficients(loss, problem, ray) for ray in (start, e))
    return value, error, closed_curve_integral(first, last, depth, *RADII)


def two_points(context: Context) -> xr.Dataset:
    """Gradient descent on ℓ4, and the rules of depths 2 and 3, on the two-point problem."""
    problem = Problem.from_arrays(np.eye(2), np.array(LABELS), name="two points")
    rates = context.pick("log:1e-6:1e-1:6", "log:1e-6:1:49", "log:1e-6:1:97")
    config = SweepConfig(
        depths=(1,), losses=(Loss(4),), learning_rates=parse_learning_rates([rates]),
        num_seeds=context.pick(2, 5, 5), num_steps=context.pick(200, 20_000, 20_000),
        precision="float64",
    )  # fmt: skip
    rules = (Optimizer("end_to_end", (("depth", float(depth)),)) for depth in (1, 2, 3))
    runs = [context.sweep(problem, replace(config, optimizers=(rule,))) for rule in rules]
    joined = xr.concat(runs, dim="model", join="override", combine_attrs="override")
    assert isinstance(joined, xr.Dataset)
    return joined


def draw(name: str, problem: Problem, found: Mapping[tuple, tuple[float, ...]]) -> Figure:
    """The field of ℓ4 and depth 3 in the plane of the curve, and the integrals against depth."""
    figure, axes = make_figure(1, 2, title=f"The end-to-end rule's field on {name}")
    left, right = axes[0]
    e, o = (vector / np.linalg.norm(vector) for vector in plane(problem, 4))
    field = end_to_end_field(loss_gradient(Loss(4), problem), 3)
    at = np.linspace(-1.1, 1.1, 17)
    arrows = np.array([[-field(x * e + y * o) @ np.stack([e, o]).T for x in at] for y in at])
    size = np.linalg.norm(arrows, axis=-1, keepdims=True)
    # Lengths span decades: they are compressed, directions are not.
    arrows = arrows / np.maximum(size, 1e-300) * (size / size.max()) ** 0.3
    left.quiver(
        *np.meshgrid(at, at), *np.moveaxis(arrows, -1, 0), color="0.45", width=0.004, scale=22
    )
    for segment in closed_curve(e, o, *RADII):
        points = np.array([segment.point(t) for t in np.linspace(0, 1, 60)])
        left.plot(points @ e, points @ o, color="#D55E00", linewidth=1.6)
    left.set(aspect="equal", xlabel=r"along $-\nabla L(0)$", ylabel="across")
    for (p, colour), curve in itertools.product(zip((2, 4), COLOURS, strict=False), ANGLES):
        shown = [
            (depth, abs(value))
            for (power, own, depth), (value, error, _) in found.items()
            if (power, own) == (p, curve) and abs(value) > error
        ]
        right.plot(
            *zip(*shown, strict=True), marker="o", markersize=4, color=colour, linewidth=1.2,
            linestyle="-" if curve == "half circle" else "--", label=f"ℓ{p}, {curve}",
        )  # fmt: skip
    right.set(yscale="log", xlabel="depth $N$", ylabel=r"$|\oint F \cdot dw|$")
    legend(right)
    return figure


CLAIM = Claim(
    id="P7",
    statement="No regulariser gives the rule: its field has non-zero integrals along closed "
    "curves.",
    source=f"{PAPER_2018}, its authors' blog post (read)",
    run=run,
    choices=("problem", "p", "depth"),
    checks=(Check(RATIO, low=CERTAIN),),
    minutes=0.1,
    paper_hours=0.01,
)
