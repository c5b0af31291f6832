"""The files of figures: their names, which of them are out of date, and what is noted in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from implicit_accel.files import remove_empty

# The figures of every sweep; each observable that was recorded has one of its own name.
SWEEP_FIGURES = ("excess_loss", "learning_rates", "steps_to_target", "speed_up")

# Every figure that a comparison of sweeps may have.
COMPARISON_FIGURES = (
    "steps_to_target", "final_excess", "speed_up", "final_ratio", "over_first", "excess_loss",
)  # fmt: skip

FIGURE_FORMATS = ("png", "pdf", "svg")


def figure_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files in a folder that are figures of these names, in any format.

    Args:
        folder: The folder; it need not exist.
        names: Of figures. Those that are no plain file name are ignored: they come from files
            that anybody may have edited, and must not lead out of the folder.
    """
    plain = [name for name in dict.fromkeys(names) if name and name == Path(name).name]
    paths = [folder / f"{name}.{extension}" for name in plain for extension in FIGURE_FORMATS]
    # lexists: links count as well, and a name that is no valid path is not there.
    return [path for path in paths if os.path.lexists(path) and not path.is_dir()]


def remove_figures(
    folder: Path, names: Iterable[str], *, keep: Collection[Path] = ()
) -> Sequence[Path]:
    """Removes figures of earlier calls, then the folder if nothing is left in it.

    Args:
        folder: Where they are; it need not exist.
        names: Of the figures that the program draws; other files are never touched.
        keep: Files that have just been drawn.

    Returns:
        The files removed.
    """
    removed = [path for path in figure_files(folder, names) if path not in keep]
    for path in removed:
        path.unlink(missing_ok=True)
    remove_empty(folder)
    return removed


def structure(figure: Any) -> dict[str, list[str]]:
    """What a figure consists of, whatever its data: labels of axes and legends, without numbers.

    It is written into every bitmap: a test compares that of published ones with what is drawn now.

    Args:
        figure: Of matplotlib.

    Returns:
        The different labels along ``x`` and ``y``, and texts of all legends (``legend``), in
        alphabetical order and with ``#`` in the place of numbers.
    """
    panels = [ax for ax in figure.axes if ax.get_visible()]
    legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in panels))]
    words = {
        "x": [ax.get_xlabel() for ax in panels],
        "y": [ax.get_ylabel() for ax in panels],
        "legend": [text.get_text() for legend in legends for text in legend.get_texts()],
    }
    return {name: sorted({*map(_numberless, texts)} - {""}) for name, texts in words.items()}


def png_metadata(figure: Any) -> dict[str, str]:
    """What is written into a bitmap of a figure, see `structure`."""
    return {"Description": json.dumps(structure(figure))}


def _numberless(text: str) -> str:
    joined = " ".join(text.split())
    return re.sub(r"\d+([.,]\d+)*(e[+-]?\d+)?", "#", joined)
