"""S5: ReLU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments.claims.criteria import Claim, Finding, above, judge
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import median_of
from experiments.claims.toolkit.student import (
    PROTOCOL,
    SOURCE,
    deep_models,
    kept_curves,
    kept_losses,
    losses_table,
    protocol,
    shape_of,
    student_datasets,
    student_run,
)
from implicit_accel.optimizers import Optimizer
from implicit_accel.plotting import plot_curves


def _test(lab: Laboratory) -> Finding:
    name, dataset = next(iter(student_datasets(lab).items()))
    config = protocol(
        lab, inits=("orthogonal",), optimizers=(Optimizer("adam"),), depths=(2, 3),
        hidden_widths=lab.pick((4,), (1, 10, 64), (1, 10, 64)),
    )  # fmt: skip
    linear = student_run(lab, dataset, config)
    relu = student_run(lab, dataset, replace(config, activation="relu"))
    kept = {"linear": kept_losses(linear)[0], "relu": kept_losses(relu)[0]}
    best = median_of(
        f"{name}, Adam: linear networks' last loss over ReLU networks', each at its best",
        kept["linear"].min(axis=0) / kept["relu"].min(axis=0),
    )
    each = [
        median_of(f"{name}, {shape_of(relu, m)}", kept["linear"][m] / kept["relu"][m])
        for m in range(relu.sizes["model"])
    ]
    floor = float(linear["optimum"][0])
    lowest = float(np.median(kept["relu"].min(axis=0)))
    return Finding(
        verdict=judge([above(best, 2.0)]),
        effects=(best, *each),
        summary=f"The best ReLU network's last loss is {lowest:.3g} (median), the best linear "
        f"one's {float(np.median(kept['linear'].min(axis=0))):.3g}; the ratio is {best}. No linear "
        f"network can go below {floor:.3g}.",
        sensitivity="By network: " + "; ".join(f"{e.name} {e}" for e in each) + ".",
        caveats=("This compares function classes, not speeds: a ReLU network can fit what no "
                 "linear one can.",),
        tables={"Linear": losses_table(linear), "ReLU": losses_table(relu)},
        figures={
            "training_loss": plot_curves(
                {
                    "linear": kept_curves(linear, deep_models(linear)),
                    "ReLU": kept_curves(relu, deep_models(relu)),
                },
                title=f"Adam on {name}, near-identity start", xlabel="epoch",
                ylabel="training loss",
            )
        },
    )  # fmt: skip


CLAIM = Claim(
    id="S5",
    statement="With ReLU, Adam converges far better on Ethanol.",
    source=SOURCE,
    setting=f"{PROTOCOL} Adam, near-identity start, with and without ReLU.",
    criterion="The best linear deep network's last loss over the best ReLU network's lies "
    "above 2 ('far better'), with the interval.",
    test=_test,
    paper_hours=0.06,
)
