"""The names that results, tables and pages use, which no axis and nothing recorded may have."""

from __future__ import annotations

from collections.abc import Iterable

from implicit_accel.errors import UserError
from implicit_accel.figure_files import COMPARISON_FIGURES, SWEEP_FIGURES
from implicit_accel.results import OWN_RATE, QUANTITIES, RUN, STEPS

_ENDS = ("", "_low", "_high")
_QUARTILES = ("", "_q25", "_q75")

SUMMARY_COLUMNS = (
    "model", "run", "best_by", "best_learning_rate", "grid_edge", "past_edge", "baseline",
    "num_reached", "num_seeds", "num_diverged", "num_diverged_later", "num_runs", "num_steps",
    "optimum", "target", "resolution", "first_touch_speed_up",
    *(f"{name}{end}" for name in ("speed_up", "final_ratio", "over_first", "diverged_share")
      for end in _ENDS),
    *(f"{name}{end}" for name in ("final_excess", "final_held_out", "steps_to_target")
      for end in _QUARTILES),
)  # fmt: skip
"""The columns that `summarise` and `compare` add to the models' coordinates."""

RESERVED = frozenset({
    *QUANTITIES, *RUN, *STEPS, *SUMMARY_COLUMNS, *SWEEP_FIGURES, *COMPARISON_FIGURES,
    "dataset", "trained", OWN_RATE,
})  # fmt: skip
"""Names that are taken. ``learning_rate`` and ``seed`` are axes with a meaning of their own."""

MAX_NAME_BYTES = 100
"""The longest name; it is part of the names of files, which may have 255 bytes."""

_AXES = frozenset({"learning_rate", "seed"})


def check_axis_names(names: Iterable[object]) -> None:
    """Makes sure that names can be those of axes.

    Raises:
        UserError: If one is no name, or taken.
    """
    for name in names:
        if not _is_name(name) or name in RESERVED - _AXES:
            raise UserError(f"axis {name!r}: {_advice(name)}")


def check_recorded_names(what: str, names: Iterable[object], taken: Iterable[str]) -> None:
    """Makes sure that names can be those of recorded quantities.

    Args:
        what: What they are of, for the message.
        names: The names.
        taken: Further names that are taken: the axes', and of other recorded quantities.

    Raises:
        UserError: If one is no name, or taken.
    """
    others = set(taken)
    for name in names:
        if not _is_name(name) or name in RESERVED:
            raise UserError(f"{what} {name!r}: {_advice(name)}")
        if name in others:
            raise UserError(
                f"{what} {name!r}: an axis or something else that is recorded has this name "
                "already; give it another"
            )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and len(name.encode()) <= MAX_NAME_BYTES


def _advice(name: object) -> str:
    if name in RESERVED:
        return (
            "results have a quantity, a dimension, a table column or a figure of this name; give "
            "it another"
        )
    if isinstance(name, str) and name.isidentifier():
        return f"it must have at most {MAX_NAME_BYTES} bytes"
    return "it must be a name like width_scale: letters, digits and underscores"
