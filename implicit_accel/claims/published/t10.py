"""T10: a map of when depth helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, above, judge, shortfall
from implicit_accel.claims.drawing import draw_agreement, make_figure
from implicit_accel.claims.effects import Effect
from implicit_accel.claims.estimators import level_of, share_of
from implicit_accel.claims.published.theory import (
    SOURCE,
    VERSION,
    crossings,
    theory_problems,
    where,
)
from implicit_accel.data.problems import Problem
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.losses import Loss
from implicit_accel.theory.map import power_law_problem, speed_up_map

_DECAYS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
_EXPONENTS = (2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
_DEPTHS = (2, 3, 4, 6, 8)
_STDS = (0.01, 0.1, 0.3)
_TARGETS = (0.1, 0.01)
_SHOWN_STD, _SHOWN_TARGET = 0.1, 0.01
_LAW = "power law"
# So many steps that a flow resolves them.
_MANY = 30


def spectrum_decay(problem: Problem) -> float:
    """The power with which a problem's covariance spectrum falls, over its first 32 values."""
    X = problem.features
    values = np.linalg.eigvalsh(X.T @ X / len(X))[::-1][:32]
    values = values[values > 1e-12 * values[0]]
    ranks = np.arange(1, len(values) + 1)
    return -float(np.polyfit(np.log(ranks), np.log(values), 1)[0])


def _map(lab: Context) -> pd.DataFrame:
    """Predicted speed-ups: power laws, then the real problems at their own decays."""
    exponents = lab.pick((2.0, 4.0), _EXPONENTS, _EXPONENTS)
    depths = lab.pick((2,), _DEPTHS, _DEPTHS)
    stds, decays = lab.pick((0.1,), _STDS, _STDS), lab.pick((1.0,), _DECAYS, _DECAYS)

    def rows(name: str, decay: float, problem: Problem, settings: Mapping[str, Any]) -> Any:
        def make() -> pd.DataFrame:
            found = speed_up_map(
                [(decay, problem)], **settings, targets=_TARGETS, num_seeds=lab.pick(1, 3, 5),
                progress=lab.tell(f"map, {name}"),
            )  # fmt: skip
            return found.to_dataframe().reset_index().assign(problem=name)

        return lab.table(
            "speed_ups", (problem.fingerprint, settings, _TARGETS, lab.scale, VERSION), make
        )

    every = {"exponents": exponents, "depths": depths, "init_stds": stds}
    # Flows on thousands of rows take their time: where the figure shows them.
    shown = {"exponents": exponents[:-1], "depths": depths[:3], "init_stds": (_SHOWN_STD,)}
    real = {n: p for n, p in theory_problems(lab).items() if not p.is_stand_in} or dict(
        [lab.first_problem()]
    )
    return pd.concat(
        [
            *(rows(f"{_LAW} {d:g}", d, power_law_problem(d), every) for d in decays),
            *(rows(name, spectrum_decay(p), p, shown) for name, p in real.items()),
        ],
        ignore_index=True,
    )


def _measured(
    lab: Context, problem: Problem, cell: tuple[float, float, int], predicted: pd.DataFrame
) -> dict[float, tuple[float, float]] | None:
    """By target: the fewest steps over rates, and the best rate over the predicted edge.

    Rates go from an eighth to four times the edge to the lowest target. None where the flow tells
    that more steps are needed than may be run.

    Args:
        lab: Where it is trained.
        problem: What is fitted.
        cell: p of the loss, standard deviation of the start, and depth.
        predicted: The problem's part of the map.
    """
    p, std, depth = cell
    mine = (predicted["p"] == p) & (predicted["init_std"] == std) & (predicted["depth"] == depth)
    own = where(predicted, mine)
    told = {
        float(target): (float(steps), float(rate))
        for target, steps, rate in own[["target", "steps", "largest_rate"]].to_numpy()
    }
    longest = lab.pick(200, 20_000, 100_000)
    needed, edge = told[min(_TARGETS)]
    if not 2 * needed < longest:
        return None
    # Lengths are part of a compiled program, which takes longer than such a sweep: a few for all.
    enough = 2 ** math.ceil(math.log2(2 * needed + 50))
    config = SweepConfig(
        depths=(depth,), losses=(Loss(p),), init_stds=(std,), num_seeds=lab.pick(2, 3, 5),
        learning_rates=tuple(
            float(f"{r:.5g}") for r in np.geomspace(edge / 8, 4 * edge, lab.pick(4, 21, 41))
        ),
        num_steps=min(longest, enough),
    )  # fmt: skip
    results = lab.sweep(problem, config)
    excess, steps = results["excess_loss"].values[0], results["step"].values
    found = {}
    for target in _TARGETS:
        times = np.median(crossings(steps, excess, level_of(results, 0, target)), axis=1)
        best = int(np.argmin(times))
        rate = float(results["learning_rate"].values[best])
        found[target] = float(times[best]), rate / told[target][1]
    return found


def _sub_grid(lab: Context, predicted: pd.DataFrame) -> pd.DataFrame:
    """Every second decay, exponent and so on: measured beside predicted."""
    law = where(predicted, predicted["problem"].str.startswith(_LAW))
    rows = []
    for decay in lab.pick((1.0,), (0.0, 1.0, 2.0, 3.0), _DECAYS):
        problem = power_law_problem(decay)
        own = where(law, law["decay"] == decay)
        for p in lab.pick((4.0,), (2.0, 3.0, 4.0, 6.0), _EXPONENTS):
            for std in lab.pick((0.1,), _STDS, _STDS):
                base = _measured(lab, problem, (p, std, 1), own)
                for depth in lab.pick((2,), (2, 3, 4), _DEPTHS):
                    deep = _measured(lab, problem, (p, std, depth), own)
                    if base is None or deep is None:
                        continue
                    rows += [
                        {
                            "decay": decay, "p": p, "init_std": std, "depth": depth,
                            "target": target, "measured": base[target][0] / deep[target][0],
                            "steps": deep[target][0],
                            "beyond": max(base[target][1], deep[target][1]),
                        }
                        for target in _TARGETS
                    ]  # fmt: skip
    cells = pd.DataFrame(
        rows,
        columns=["decay", "p", "init_std", "depth", "target", "measured", "steps", "beyond"],
    )
    keys = ["decay", "p", "init_std", "depth", "target"]
    return cells.merge(law[[*keys, "speed_up"]], on=keys, how="left")


# A best rate beyond the predicted edge by more than the grid's spacing lies past the edge.
_SPACING = 1.2


def _draw_map(predicted: pd.DataFrame) -> Figure:
    depths = sorted(set(predicted["depth"]) - {1})[:3]
    figure, axes = make_figure(
        1, len(depths), size=(3.9, 3.6),
        title="When depth accelerates: predicted speed-up over one layer "
        f"(start {_SHOWN_STD:g}, target {100 * _SHOWN_TARGET:g} % of the zero predictor's excess "
        "loss)",
    )  # fmt: skip
    norm = LogNorm(1 / 30, 30)
    image = None
    for ax, depth in zip(axes[0], depths, strict=True):
        rows = where(
            predicted,
            (predicted["depth"] == depth) & (predicted["init_std"] == _SHOWN_STD)
            & (predicted["target"] == _SHOWN_TARGET),
        )  # fmt: skip
        laws = where(rows, rows["problem"].str.startswith(_LAW))
        grid = laws.pivot_table(index="decay", columns="p", values="speed_up", dropna=False)
        values = np.clip(grid.to_numpy(float), 1e-6, 1e6)
        image = ax.imshow(values, norm=norm, cmap="RdBu", origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            dark = abs(math.log10(max(value, 1e-6))) > 0.9
            ax.text(j - 0.12, i, _short(value), ha="center", va="center", fontsize=7,
                    color="white" if dark else "black")  # fmt: skip
        decays, exponents = grid.index.to_numpy(float), grid.columns.to_numpy(float)
        real = where(rows, ~rows["problem"].str.startswith(_LAW))
        for number, name in enumerate(dict.fromkeys(real["problem"])):
            own = where(real, real["problem"] == name)
            height = float(np.interp(own["decay"].iloc[0], decays, np.arange(len(decays))))
            places = np.interp(own["p"].to_numpy(float), exponents, np.arange(len(exponents)))
            ax.scatter(
                places + 0.37, np.full(len(own), height), c=np.clip(own["speed_up"], 1e-6, 1e6),
                norm=norm, cmap="RdBu", edgecolors="black", linewidths=1.1, s=34,
                marker="osD^"[number % 4], label=f"{name} ({own['decay'].iloc[0]:.2g})",
            )  # fmt: skip
        ax.set_xticks(range(len(exponents)), [f"{p:g}" for p in exponents])
        ax.set_yticks(range(len(decays)), [f"{d:g}" for d in decays])
        ax.set_xlabel("p of the loss")
        ax.set_title(f"depth {depth}", fontsize=9)
        ax.grid(False)
    axes[0, 0].set_ylabel("decay of the spectrum, eigenvalues i^(−decay)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if image is not None:
        bar = figure.colorbar(image, ax=axes[0].tolist(), label="slower  |  faster than one layer")
        bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    return figure


def _short(value: float) -> str:
    return f"{value:.2g}" if value >= 0.01 else "<0.01"


def _shares(cells: pd.DataFrame) -> tuple[Effect, Effect]:
    ratio = cells["speed_up"].to_numpy() / cells["measured"].to_numpy()
    same = np.sign(np.log(cells["speed_up"])) == np.sign(np.log(cells["measured"]))
    close = np.abs(ratio - 1) <= 0.2
    note = f"{len(cells)} cells"
    return (
        share_of("cells whose sign of the speed-up is predicted", np.asarray(same), note=note),
        share_of("cells whose speed-up is predicted within 20 %", close, note=note),
    )


def _faster(cells: pd.DataFrame) -> str:
    """How many cells were faster than one layer, and how many were to be."""
    measured, told = (cells[name].to_numpy() > 1 for name in ("measured", "speed_up"))
    return (
        f"depth is faster in {measured.sum()} of {len(cells)} and was to be in {told.sum()}, in "
        f"both in {(measured & told).sum()}"
    )


def _skill(cells: pd.DataFrame) -> str:
    """The same, and how often one would be right who knows nothing."""
    slower = 100 * float(np.mean(cells["measured"] <= 1)) if len(cells) else math.nan
    return f"{_faster(cells)}; who says 'slower' of every one is right in {slower:.3g} %"


def _test(lab: Context) -> Finding:
    predicted = _map(lab)
    cells = _sub_grid(lab, predicted)
    cells = where(cells, np.isfinite(cells["measured"]) & (cells["speed_up"] > 0))
    inside = where(cells, cells["beyond"] <= _SPACING)
    sign, size = _shares(inside)
    parts = [above(sign, 90.0), above(size, 80.0)]
    every = _shares(cells)
    steps = cells["steps"].to_numpy()
    many = np.minimum(steps, steps * cells["measured"].to_numpy()) >= _MANY
    long = _shares(where(cells, many & (cells["beyond"].to_numpy() <= _SPACING)))
    helped = where(predicted, (predicted["speed_up"] > 1) & (predicted["depth"] > 1))
    deep = where(predicted, predicted["depth"] > 1)
    square = where(deep, deep["p"] == 2)
    verdict = judge(parts)
    return Finding(
        verdict=verdict,
        effects=(sign, size),
        summary=f"Of {len(deep):,} predicted cells depth helps in {len(helped):,}; on ℓ2 in "
        f"{np.count_nonzero(square['speed_up'].to_numpy() > 1)} of {len(square)}. "
        f"Measured on {len(cells)} cells, of which {len(inside)} have both best rates within the "
        f"predicted edge: there the sign is predicted in {sign}, the size within 20 % in {size}. "
        f"Of those in which both depths take {_MANY} steps or more it is {long[0]} and {long[1]} "
        f"({long[0].note}), of all measured cells {every[0]} and {every[1]}. How telling a sign "
        f"is: within the edge {_skill(inside)}; of all measured cells {_skill(cells)}."
        + shortfall(
            verdict,
            "Most of these problems are easy: one layer reaches the target within some steps, "
            "which a flow does not resolve, and at rates past the edge, which only it can bear.",
        ),
        sensitivity="Speed-ups are each depth's own best over rates from an eighth to four times "
        "its predicted edge; beyond the edge theory predicts nothing, and training may be faster. "
        "Where one layer gets by with rates past the edge, the speed-up is smaller than the map "
        "says.",
        tables={"Measured cells": cells.rename(columns={"speed_up": "predicted"})},
        figures={"map": _draw_map(predicted), "map_measured": _draw_measured(cells)},
        captions={
            "map": f"Predicted, not measured: depth helps in {len(helped):,} of {len(deep):,} "
            f"cells. Of those that were trained {_faster(cells)}."
        },
    )


def _draw_measured(cells: pd.DataFrame) -> Figure:
    figure, axes = make_figure(1, 1, title="The map, measured", size=(5.0, 4.4))
    inside = cells["beyond"] <= _SPACING
    draw_agreement(
        axes[0, 0],
        {
            label: (where(cells, mask)["measured"], where(cells, mask)["speed_up"])
            for label, mask in (("within the edge", inside), ("a best rate past the edge", ~inside))
        },
        xlabel="speed-up measured", ylabel="speed-up predicted",
    )  # fmt: skip
    return figure


CLAIM = Claim(
    id="T10",
    statement="Theory maps when depth helps: over the loss's exponent, the spectrum, the start, "
    "the target and the depth.",
    source=SOURCE,
    setting="Problems of 256 rows and 32 features whose spectra fall as i^(−0…3), p from 2 to 8, "
    "depths 2 to 8, starts 0.01, 0.1 and 0.3, targets 10 and 1 %; measured for decays 0, 1, 2, 3, "
    "p = 2, 3, 4, 6 and depths 2 to 4 where 20,000 steps suffice, over 21 rates.",
    criterion="Of the measured cells whose best rates lie within the predicted edge (by a fifth, "
    "the grid's spacing) the sign of the speed-up is predicted in more than 90 %, and its size "
    "within 20 % in more than 80 %, with the interval.",
    test=_test,
    minutes=7.1,
    paper_hours=2.0,
)
