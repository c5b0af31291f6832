"""Whether expanding layers helps six small models: writes the table of the documentation's page.

python docs/expansions.py

Takes an hour or so on two cores; runs are kept in outputs/expansions and reused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_accel import Optimizer, expand_report, progress_bar
from implicit_accel.expansion import Answer, in_words
from implicit_accel.expansion_plots import plot_expansion
from implicit_accel.plotting import write_figures
from implicit_accel.user_module import run_file

expand_models: Any = run_file(Path(__file__).parent / "examples/expand_models.py", "")

STEPS: dict[str, int] = dict.fromkeys(("cnn", "resnet", "transformer"), 100)
"""Where a step takes long; 200 otherwise."""
DEPTHS = {"mlp": (2, 3)}
OPTIMIZERS = {
    "gradient descent": Optimizer("sgd"),
    "momentum": Optimizer("momentum"),
    "Adam": Optimizer("adam"),
}


def main() -> None:
    """Runs every model with every optimizer, and writes a table and figures."""
    rows, chosen = [], sys.argv[1:] or list(expand_models.WHERE)
    for name in chosen:
        report = expand_report(
            getattr(expand_models, name)(), expand_models.WHERE[name],
            num_steps=STEPS.get(name, 200),
            optimizers=tuple(OPTIMIZERS.values()), depths=DEPTHS.get(name, (2,)),
            folder=Path("outputs/expansions") / name, progress=progress_bar,
        )  # fmt: skip
        rows += [_row(name, answer) for answer in report.answers]
        figure = {name: plot_expansion(report)}
        write_figures(figure, Path("outputs/expansions"), ("png",))
        print("\n".join(report.sentences), flush=True)
        pd.DataFrame(rows).to_csv(Path("outputs/expansions/results.csv"), index=False)


def _row(name: str, answer: Answer) -> dict[str, str]:
    labels = {optimizer.name: label for label, optimizer in OPTIMIZERS.items()}
    instead = [f"{i.value:.2f}" for i in answer.instead_speed_up]
    removed_by = f", removed by {answer.removed_by}" if answer.removed_by else ""
    return {
        "model": f"{name}, {labels[answer.optimizer]}",
        "variant": answer.variant,
        "verdict": answer.verdict + removed_by,
        "speed-up on each half": in_words(answer.speed_up),
        "best control": f"{answer.instead}: {' and '.join(instead)}×",
        "time of a step": f"{answer.cost:.2f}×",
    }


if __name__ == "__main__":
    main()
