"""S5: ReLU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.api import Claim
from implicit_accel.claims.context import Context
from implicit_accel.claims.criteria import Finding, Part, above, judge, shortfall
from implicit_accel.claims.drawing import (
    colour_of,
    draw_dots,
    few_ticks,
    make_figure,
)
from implicit_accel.claims.estimators import median_of
from implicit_accel.claims.published.records import SEVEN, agreement, beside, kept_rates
from implicit_accel.claims.published.student import (
    PROTOCOL,
    SOURCE,
    kept_losses,
    losses_table,
    protocol,
    shape_of,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer

_RECORDS = (
    *kept_rates((0.01,) * 7, SEVEN, "orthogonal"),
    *kept_rates(
        (0.01, 0.01, 0.01, 0.005, 0.01, 0.01, 0.005), SEVEN, "orthogonal", optimizer="adam",
        losses={"[64, 64]": 0.0494},
    ),
)  # fmt: skip


def _of(results: xr.Dataset, optimizer: str) -> list[int]:
    """Numbers of an optimizer's deep networks."""
    chosen = (results["optimizer"].values == optimizer) & (results["depth"].values > 1)
    return np.flatnonzero(chosen).tolist()


def _best(results: xr.Dataset, optimizer: str) -> np.ndarray:
    """(seed,) the lowest last loss of an optimizer's deep networks."""
    return kept_losses(results)[0][_of(results, optimizer)].min(axis=0)


def _parts(name: str, linear: xr.Dataset, relu: xr.Dataset) -> list[Part]:
    """Adam with ReLU against Adam without, and against gradient descent with."""
    ours = _best(relu, "adam")
    return [
        above(
            median_of(
                f"{name}, Adam: the best linear network's last loss over the best ReLU network's",
                _best(linear, "adam") / ours, least=0,
            ),
            2.0,
        ),
        above(
            median_of(
                f"{name}, ReLU: SGD's lowest last loss over Adam's", _best(relu, "sgd") / ours,
                least=0,
            ),
            2.0,
        ),
    ]  # fmt: skip


def _draw(name: str, linear: xr.Dataset, relu: xr.Dataset) -> Figure:
    panels = {
        "linear, Adam": (linear, "adam"), "ReLU, SGD": (relu, "sgd"), "ReLU, Adam": (relu, "adam")
    }  # fmt: skip
    figure, axes = make_figure(
        1, 3, title=f"What 100 epochs leave on {name}, near-identity start: every repeat, and "
        "the median", size=(3.1, 2.9),
    )  # fmt: skip
    recorded = next(r for r in _RECORDS if not np.isnan(r.loss))
    for ax, (title, (results, optimizer)) in zip(axes[0], panels.items(), strict=True):
        kept, _ = kept_losses(results)
        models = _of(results, optimizer)
        rows = [
            (shape_of(results, m), kept[m], colour_of(int(results["depth"].values[m])))
            for m in models
        ]
        shapes = [label for label, _, _ in rows]
        has_record = name == "Ethanol" and title == "ReLU, Adam" and recorded.hidden in shapes
        marks = {shapes.index(recorded.hidden): recorded.loss} if has_record else None
        draw_dots(ax, rows, xlabel="last training loss", recorded=marks)
        ax.axvline(float(linear["optimum"].values[0]), color="0.4", linewidth=0.8, linestyle=":")
        ax.set_title(title + (" (◇: recorded)" if has_record else ""), fontsize=9)
    axes[0, 0].set_ylabel("hidden widths")
    drawn = [line for ax in axes[0] for line in ax.get_xlim()]
    for ax in axes[0]:
        ax.set_xlim(min(drawn), max(drawn))
        few_ticks(ax)  # chosen for a narrower axis before
    axes[0, 0].annotate(
        "no linear network\ngets below", (float(linear["optimum"].values[0]), 0.02),
        xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points",
        ha="right", fontsize=7, color="0.3",
    )  # fmt: skip
    return figure


def _test(lab: Context) -> Finding:
    name, dataset = next(iter(student_datasets(lab).items()))
    config = protocol(
        lab, inits=("orthogonal",), optimizers=(Optimizer("sgd"), Optimizer("adam")),
        hidden_widths=lab.pick((4,), (1, 10, 64), (1, 10, 64)), num_seeds=lab.pick(3, 20, 100),
    )  # fmt: skip
    linear = student_run(lab, dataset, replace(config, optimizers=(Optimizer("adam"),)))
    relu = student_run(lab, dataset, replace(config, activation="relu"))
    parts = _parts(name, linear, relu)
    verdict = judge(parts)
    kept = {"linear": kept_losses(linear)[0], "relu": kept_losses(relu)[0]}
    each = [
        median_of(f"{name}, {shape_of(relu, m)}", kept["linear"][n] / kept["relu"][m])
        for n, m in zip(_of(linear, "adam"), _of(relu, "adam"), strict=True)
    ]
    floor = float(linear["optimum"].values[0])
    tables = {"Linear": losses_table(linear), "ReLU": losses_table(relu)}
    caveats = [
        "Linear against ReLU compares function classes, not speeds: a ReLU network can fit what "
        "no linear one can."
    ]
    if name == "Ethanol":
        tables["Recorded beside ours"] = beside(relu, _RECORDS)
        caveats.append(agreement(tables["Recorded beside ours"]))
    return Finding(
        verdict=verdict,
        effects=(*(part.effect for part in parts), *each),
        summary="; ".join(f"{part.effect.name}: {part.effect}" for part in parts)
        + f". The best ReLU network's last loss with Adam is {np.median(_best(relu, 'adam')):.3g} "
        f"(median), the best linear one's {np.median(_best(linear, 'adam')):.3g}; no linear "
        f"network can go below {floor:.3g}." + shortfall(verdict),
        sensitivity="Linear over ReLU by network, Adam: "
        + "; ".join(f"{e.name} {e}" for e in each)
        + ".",
        caveats=tuple(caveats),
        tables=tables,
        figures={"last_losses": _draw(name, linear, relu)},
    )


CLAIM = Claim(
    id="S5",
    statement="With ReLU, Adam converges far better on Ethanol.",
    source=SOURCE,
    setting=f"{PROTOCOL} Near-identity start; Adam and gradient descent with ReLU after every "
    "hidden layer, Adam without; 30 repeats.",
    criterion="The best deep ReLU network with Adam ends with a last loss less than half ('far "
    "better') of the best deep linear network's with Adam, and of the best deep ReLU network's "
    "with gradient descent: both ratios lie above 2, with the interval.",
    test=_test,
    minutes=2.3,
    paper_hours=1.1,
)
