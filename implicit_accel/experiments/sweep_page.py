"""The page of a sweep, as programs write it beside the results."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import xarray as xr

from implicit_accel.files import atomic_path, is_printable, printable
from implicit_accel.pages.sweep import page
from implicit_accel.plotting import Predicted
from implicit_accel.results import CONFIG_FILE

_SOFTWARE = ("implicit-accel", "jax", "numpy")


def write_page(
    results: xr.Dataset,
    path: Path,
    *,
    command: Sequence[str],
    figures: Path,
    best_by: str,
    predicted: Predicted | None = None,
) -> None:
    """Writes a sweep's page, atomically.

    Args:
        results: The sweep's.
        path: The page's.
        command: What made them: the program, as one types it, and its flags.
        figures: A folder whose PNG files are shown, as far as they are small.
        best_by: What makes a learning rate the best.
        predicted: Predicted excess losses, if they were asked for.
    """
    program, flags = command[:1], [printable(flag, 4096) for flag in command[1:]]
    text = page(
        results,
        command=" ".join([*program, *map(shlex.quote, flags)]),
        versions={name: version(name) for name in _SOFTWARE}
        | {"Python": platform.python_version()},
        best_by=best_by,
        predicted=predicted,
        figures=sorted(figures.glob("*.png")),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def command_of(folder: Path) -> list[str]:
    """The command that a run's ``config.json`` tells of; empty if it tells of none."""
    try:
        command = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    known = isinstance(command, list) and all(map(is_printable, command))
    return command if known else []
