"""The page of a sweep, as programs write it beside the results."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import xarray as xr

from implicit_accel.files import atomic_path, is_printable, load_json, printable
from implicit_accel.linear.observables import NORM, has_effective_rate, is_deep_linear
from implicit_accel.pages.sweep import page
from implicit_accel.plotting import Predicted
from implicit_accel.results import CONFIG_FILE
from implicit_accel.statistics import BEST_BY

_SOFTWARE = ("implicit-accel", "jax", "numpy")

# As absl accepts them.
_BEST_BY_FLAGS = ("--best_by", "-best_by")
_FLAGFILE_FLAGS = ("--flagfile", "-flagfile")


def write_page(
    results: xr.Dataset,
    path: Path,
    *,
    command: Sequence[str],
    figures: Sequence[Path],
    best_by: str,
    predicted: Predicted | None = None,
) -> None:
    """Writes a sweep's page, atomically.

    Args:
        results: The sweep's.
        path: The page's.
        command: What made them: the program, as one types it, and its flags. On the page it has
            the ``--best_by`` in use, and that of another rule when the reader switches to it.
        figures: Files that were drawn of these results; PNG files among them are shown, as far as
            they are small.
        best_by: What makes a learning rate the best at first.
        predicted: Predicted excess losses, if they were asked for.
    """
    own = with_best_by(command, best_by)
    commands = {rule: _typed(with_best_by(command, rule)) for rule in BEST_BY}
    if has_effective_rate(results) and NORM not in results:
        commands["record"] = _typed(with_flag(own, "record", NORM))
    if is_deep_linear(results) and predicted is None:
        commands["predict"] = _typed(with_flag(own, "predict"))
    text = page(
        results,
        command=_typed(own),
        commands=commands,
        versions={name: version(name) for name in _SOFTWARE}
        | {"Python": platform.python_version()},
        best_by=best_by,
        predicted=predicted,
        figures=sorted(path for path in figures if path.suffix == ".png"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _typed(command: Sequence[str]) -> str:
    """A command as one types it; empty if it is not known."""
    program, *flags = command or [""]
    return " ".join([program, *(shlex.quote(printable(flag, 4096)) for flag in flags)])


def with_flag(command: Sequence[str], name: str, value: str = "") -> list[str]:
    """A command with one more flag; to a list that it has already, the value is added.

    Args:
        command: The program and its flags; empty if it is not known, then the flag stands alone.
        name: Of the flag.
        value: Of the flag; empty for a switch.

    Returns:
        The command.
    """
    shown = list(command)
    # Nothing behind "--" is a flag.
    end = shown.index("--") if "--" in shown else len(shown)
    for place, word in enumerate(shown[:end]):
        given, equals, _ = word.partition("=")
        if given.lstrip("-") != name or not given.startswith("-"):
            continue
        if value and equals:
            shown[place] += f",{value}"
        elif value and place + 1 < end:
            shown[place + 1] += f",{value}"
        return shown
    shown.insert(end, f"--{name}={value}" if value else f"--{name}")
    return shown


def with_best_by(command: Sequence[str], best_by: str) -> list[str]:
    """A command with the ``--best_by`` in use, instead of the one that it has or lacks.

    Args:
        command: The program and its flags; empty if it is not known.
        best_by: In use.

    Returns:
        The command. The flag is left out where it was not given and the default is in use.
    """
    # A file of flags may set another rule: a flag behind it overrides it.
    in_file = any(word.partition("=")[0] in _FLAGFILE_FLAGS for word in command)
    shown: list[str] = []
    given = False
    words = iter(command)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in _BEST_BY_FLAGS:
            shown.append(word)
            continue
        if not equals:
            next(words, None)
        if not (given or in_file):  # programs accept a flag once
            shown += [f"{name}={best_by}"] if equals else [name, best_by]
        given = True
    if command and (in_file or (best_by != BEST_BY[0] and not given)):
        # Nothing behind "--" is a flag.
        end = shown.index("--") if "--" in shown else len(shown)
        shown.insert(end, f"--best_by={best_by}")
    return shown


def command_of(folder: Path) -> list[str]:
    """The command in a run's ``config.json``; empty if there is none."""
    try:
        command = load_json(folder / CONFIG_FILE)["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    known = isinstance(command, list) and all(map(is_printable, command))
    return command if known else []
