"""The map of when depth helps: predicted speed-ups, and measurements of a part of them, for T10."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from implicit_accel.claims.context import Context
from implicit_accel.claims.drawing import make_figure
from implicit_accel.claims.estimators import level_of
from implicit_accel.claims.published.theory import VERSION, crossings, theory_problems, where
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.map import power_law_problem, speed_up_map

DECAYS, EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), (2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
DEPTHS, STDS, TARGETS = (2, 3, 4, 6, 8), (0.01, 0.1, 0.3), (0.1, 0.01)
SHOWN_STD, SHOWN_TARGET = 0.1, 0.01
LAW = "power law"
COLUMNS = ["decay", "p", "init_std", "depth", "target"]


def spectrum_decay(problem: Problem) -> float:
    """The power with which a problem's covariance spectrum falls, over its first 32 values."""
    X = problem.features
    values = np.linalg.eigvalsh(X.T @ X / len(X))[::-1][:32]
    values = values[values > 1e-12 * values[0]]
    ranks = np.arange(1, len(values) + 1)
    return -float(np.polyfit(np.log(ranks), np.log(values), 1)[0])


def predictions(context: Context) -> pd.DataFrame:
    """Predicted speed-ups: power laws, then the real problems at their own decays."""
    exponents, depths = context.pick(((2.0, 4.0), (2,)), *[(EXPONENTS, DEPTHS)] * 2)
    stds, decays = context.pick(((0.1,), (1.0,)), *[(STDS, DECAYS)] * 2)
    every = {"exponents": exponents, "depths": depths, "init_stds": stds}
    # Flows of real problems take minutes, so only the cells of the figure are predicted.
    shown = {"exponents": exponents[:-1], "depths": depths[:3], "init_stds": (SHOWN_STD,)}
    real = {n: p for n, p in theory_problems(context).items() if not p.is_stand_in}

    def rows(
        name: str, decay: float, problem: Problem, settings: Mapping[str, Any]
    ) -> pd.DataFrame:
        def make() -> pd.DataFrame:
            found = speed_up_map(
                [(decay, problem)], **settings, targets=TARGETS, num_seeds=context.pick(1, 3, 5),
                progress=context.reporter(f"map, {name}"),
            )  # fmt: skip
            return found.to_dataframe().reset_index().assign(problem=name)

        known_by = (problem.fingerprint, settings, TARGETS, context.scale, VERSION)
        return context.table("speed_ups", known_by, make)

    laws = [rows(f"{LAW} {d:g}", d, power_law_problem(d), every) for d in decays]
    others = (real or dict([context.first_problem()])).items()
    maps = [*laws, *(rows(name, spectrum_decay(p), p, shown) for name, p in others)]
    return pd.concat(maps, ignore_index=True)


def measurements(context: Context, predicted: pd.DataFrame) -> pd.DataFrame:
    """Measured and predicted speed-ups of a part of the power laws' cells.

    The column ``beyond`` is the larger of the two best rates over the predicted edge.
    """
    known = predicted.set_index(COLUMNS)
    needed, edges, speed_ups = (known[c].to_dict() for c in ("steps", "largest_rate", "speed_up"))
    depths = (1, *context.pick((2,), (2, 3, 4), DEPTHS))
    rows = []
    for decay, p, std in itertools.product(
        context.pick((1.0,), (0.0, 1.0, 2.0, 3.0), DECAYS),
        context.pick((4.0,), (2.0, 3.0, 4.0, 6.0), EXPONENTS),
        context.pick((0.1,), STDS, STDS),
    ):
        best: dict[tuple[int, float], tuple[float, float]] = {}
        for depth in depths:
            cell = decay, p, std, depth, min(TARGETS)
            found = measured(context, power_law_problem(decay), cell, needed[cell], edges[cell])
            best |= {(depth, target): own for target, own in found.items()}
        for depth, target in itertools.product(depths[1:], TARGETS):
            if {(1, target), (depth, target)} <= set(best):
                cell = decay, p, std, depth, target
                (base, _), (steps, _) = best[1, target], best[depth, target]
                beyond = [best[n, target][1] / edges[decay, p, std, n, target] for n in (1, depth)]
                rows.append((*cell, base / steps, steps, max(beyond), speed_ups[cell]))
    cells = pd.DataFrame(rows, columns=[*COLUMNS, "measured", "steps", "beyond", "predicted"])
    return where(cells, np.isfinite(cells["measured"]) & (cells["predicted"] > 0))


def measured(
    context: Context, problem: Problem, cell: tuple, needed: float, edge: float
) -> dict[float, tuple[float, float]]:
    """By target, the fewest median steps and the rate at which they are.

    Rates range from an eighth to four times the predicted edge to the lowest target. Empty where
    more steps are predicted than may be run.
    """
    _, p, std, depth, _ = cell
    longest = context.pick(200, 20_000, 100_000)
    if not 2 * needed < longest:
        return {}
    rates = np.geomspace(edge / 8, 4 * edge, context.pick(4, 21, 41))
    # The length is part of a compiled program, and compiling takes longer than such a sweep:
    # powers of two give few lengths.
    enough = 2 ** math.ceil(math.log2(2 * needed + 50))
    config = SweepConfig(
        depths=(depth,), losses=(Loss(p),), init_stds=(std,), num_seeds=context.pick(2, 3, 5),
        learning_rates=tuple(float(f"{r:.5g}") for r in rates), num_steps=min(longest, enough),
    )  # fmt: skip
    results = context.sweep(problem, config)
    excess, found = results["excess_loss"].values[0], {}
    for target in TARGETS:
        times = crossings(results["step"].values, excess, level_of(results, 0, target))
        medians = np.median(times, axis=1)
        best = int(np.argmin(medians))
        found[target] = float(medians[best]), float(results["learning_rate"].values[best])
    return found


def draw_map(predicted: pd.DataFrame) -> Figure:
    """Predicted speed-ups over p and the decay, a panel for each depth."""
    depths = sorted(set(predicted["depth"]) - {1})[:3]
    figure, axes = make_figure(
        1, len(depths), size=(3.9, 3.6),
        title="When depth accelerates: predicted speed-up over one layer "
        f"(initialisation {SHOWN_STD:g}, target {100 * SHOWN_TARGET:g} % of the zero predictor's "
        "excess loss)",
    )  # fmt: skip
    colours = {"norm": LogNorm(1 / 30, 30), "cmap": "RdBu"}
    shown = (predicted["init_std"] == SHOWN_STD) & (predicted["target"] == SHOWN_TARGET)
    image = None
    for ax, depth in zip(axes[0], depths, strict=True):
        rows = where(predicted, shown & (predicted["depth"] == depth))
        is_law = rows["problem"].str.startswith(LAW)
        grid = where(rows, is_law).pivot_table(
            index="decay", columns="p", values="speed_up", dropna=False
        )
        values = np.clip(grid.to_numpy(float), 1e-6, 1e6)
        image = ax.imshow(values, origin="lower", aspect="auto", **colours)
        for (i, j), value in np.ndenumerate(values):
            text = f"{value:.2g}" if value >= 0.01 else "<0.01"
            colour = "white" if abs(math.log10(value)) > 0.9 else "black"
            ax.text(j - 0.12, i, text, ha="center", va="center", fontsize=7, color=colour)
        decays, exponents = grid.index.to_numpy(float), grid.columns.to_numpy(float)
        real = where(rows, ~is_law)
        for marker, (name, own) in zip("osD^", real.groupby("problem", sort=False), strict=False):
            decay = float(own["decay"].iloc[0])
            places = np.interp(own["p"], exponents, np.arange(len(exponents)))
            height = np.interp(decay, decays, np.arange(len(decays)))
            ax.scatter(
                places + 0.37, np.full(len(own), height), c=np.clip(own["speed_up"], 1e-6, 1e6),
                edgecolors="black", linewidths=1.1, s=34, marker=marker,
                label=f"{name} ({decay:.2g})", **colours,
            )  # fmt: skip
        ax.set_xticks(range(len(exponents)), [f"{p:g}" for p in exponents])
        ax.set_yticks(range(len(decays)), [f"{d:g}" for d in decays])
        ax.set_xlabel("p of the loss")
        ax.set_title(f"depth {depth}", fontsize=9)
        ax.grid(False)
    axes[0, 0].set_ylabel("decay of the spectrum, eigenvalues i^(−decay)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8,
        frameon=False,
    )  # fmt: skip
    if image is not None:
        bar = figure.colorbar(image, ax=axes[0].tolist(), label="slower  |  faster than one layer")
        bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    return figure
