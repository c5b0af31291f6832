"""Should this layer be over-parameterised? Compares a model with its layers as products.

    python -m experiments.expand --task my_model.py:task --where '.*kernel' --num_steps 500
    python -m experiments.expand --task my_model.py:task --where 'dense1.*' --optimizers sgd,adam

The chosen layers become products of matrices, which adds no expressive power. The original gets
the controls that decide: warm-ups of three lengths, and learning rates of the layers' own. Every
variant has its own best stable learning rate. The answer is a gain only if it is there on both
halves of the rows, and no control needs as few steps. The task's file is run: name only files that
you trust.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from absl import flags
from rich.console import Console
from rich.table import Table

from implicit_accel.errors import UserError
from implicit_accel.expand import INITS, KERNELS, LAYOUTS
from implicit_accel.expansion import ORIGINAL, ExpandReport, expand_report
from implicit_accel.experiments import cli
from implicit_accel.experiments.user_task import load_task
from implicit_accel.exports import csv_text, save_text
from implicit_accel.optimizers import OPTIMIZERS
from implicit_accel.progress import ProgressBar

_GROUPS = cli.FlagGroups()
_TASK = flags.DEFINE_string(
    "task", None, "The model and its data: file.py:name, made by implicit_accel.from_loss."
)
_WHERE = flags.DEFINE_string(
    "where", None, "Which parameters: a regular expression for their whole dotted paths."
)
_DEPTHS = flags.DEFINE_list("depths", ["2"], "Numbers of factors, each 2 or more.")
_INIT = flags.DEFINE_enum(
    "init", "balanced", INITS,
    "Initial factors. balanced and identity keep the model's function; gaussian and product draw "
    "another one.",
)  # fmt: skip
_WIDTH = flags.DEFINE_integer("width", None, "Between factors; the smaller side unless given.")
_KERNEL = flags.DEFINE_enum(
    "kernel", "dense", KERNELS,
    "How kernels are cut: dense is k x k then 1 x 1, pointwise 1 x 1, k x k, 1 x 1.",
)  # fmt: skip
_LAYOUT = flags.DEFINE_enum(
    "layout", "io", LAYOUTS,
    "Of kernels: io where output channels are the last axis (Flax), oi where they are the first "
    "(PyTorch, Equinox).",
)  # fmt: skip
_OPTIMIZERS = flags.DEFINE_list("optimizers", ["sgd"], f"From {', '.join(OPTIMIZERS)}.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", 500, "Updates per run.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Rows in a mini-batch; all unless given.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 6, "Seeds for each half of the rows; with fewer than 6, ranges are reported."
)
_TARGET = flags.DEFINE_float(
    "target", None,
    "The loss to reach; unless given, the original's at half of the steps at its best rate.",
)  # fmt: skip
_HALVES = flags.DEFINE_bool("halves", True, "Whether the rows are split into two halves.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "outputs/expand", "For the table, the figure and the runs, which are reused."
)
_FORMATS = cli.define_formats()
_GROUPS.add("What", _TASK, _WHERE, _DEPTHS, _INIT, _WIDTH, _KERNEL, _LAYOUT)
_GROUPS.add("Training", _OPTIMIZERS, _NUM_STEPS, _BATCH_SIZE, _NUM_SEEDS, _TARGET, _HALVES)
_GROUPS.add("Results", _OUTPUT_DIR, _FORMATS)


def _depths(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise UserError(f"--depths {','.join(texts)}: write whole numbers like 2,3") from None


def print_table(table: pd.DataFrame, console: Console) -> None:
    """The variants, the halves of the rows side by side."""
    for optimizer, own in table.groupby("optimizer", sort=False):
        shown = Table(title=str(optimizer), title_justify="left", caption_justify="left")
        for name in ("variant", "steps", "speed-up [95 %], first half", "second half"):
            shown.add_column(name, justify="left" if name == "variant" else "right")
        for variant, rows in own.groupby("variant", sort=False):
            steps = " and ".join(
                "not reached" if s == float("inf") else f"{s:,.0f}" for s in rows["steps"]
            )
            over = [
                "" if variant == ORIGINAL
                else f"{row['speed_up']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                for row in rows.to_dict("records")
            ]  # fmt: skip
            shown.add_row(str(variant), steps, *over)
        shown.caption = (
            "Steps to the target at the best stable learning rate, medians over seeds. Speed-ups "
            "are cross-fitted: some seeds choose the rate at which the others are compared."
        )
        console.print(shown)


def make_report(log: Console) -> ExpandReport:
    """Trains what the flags ask for.

    Raises:
        UserError: If a flag is missing or not allowed.
    """
    place, where = _TASK.value, _WHERE.value
    if not place or not where:
        missing = "where" if place else "task"
        raise UserError(f"--{missing} is missing (--help lists every flag)")
    for name, value in (
        ("num_steps", _NUM_STEPS.value), ("batch_size", _BATCH_SIZE.value),
        ("num_seeds", _NUM_SEEDS.value), ("width", _WIDTH.value),
    ):  # fmt: skip
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: it must be a whole number >= 1")
    _, task = load_task(place)

    def progress(what: str) -> ProgressBar:
        return ProgressBar(what, console=log, transient=True)

    return expand_report(
        task, where, num_steps=_NUM_STEPS.value, optimizers=_OPTIMIZERS.value,
        depths=_depths(_DEPTHS.value), init=_INIT.value, width=_WIDTH.value, kernel=_KERNEL.value,
        layout=_LAYOUT.value, batch_size=_BATCH_SIZE.value, num_seeds=_NUM_SEEDS.value,
        target=_TARGET.value, halves=_HALVES.value, folder=Path(_OUTPUT_DIR.value) / "runs",
        progress=progress,
    )  # fmt: skip


def main() -> None:
    """Flags, training, the answer, a table and a figure."""
    formats = cli.formats(_FORMATS)
    console, log = cli.make_console(), cli.make_console(stderr=True)
    report = make_report(log)
    console.print(f"Expanded: {', '.join(report.paths)}", soft_wrap=True)
    for sentence in report.sentences:
        console.print(f"→ {sentence}", soft_wrap=True)
    print_table(report.table, console)
    folder = Path(_OUTPUT_DIR.value)
    text = "\n".join([*report.sentences, f"{report.num_comparisons} comparisons."])
    save_text(csv_text(report.table), folder / "expand.csv")
    save_text(text + "\n", folder / "answer.txt")
    if formats:
        from implicit_accel.expansion_plots import plot_expansion
        from implicit_accel.plotting import write_figures

        write_figures({"expand": plot_expansion(report)}, folder, formats)
    console.print(
        f"{report.num_comparisons} comparisons; {folder}: answer.txt, expand.csv"
        + (", expand.png" if "png" in formats else "")
    )


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
