"""A task out of a user's own file: ``my_model.py:task``.

The file is run, as the user's own program would be: name only files that you trust.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from implicit_accel.errors import UserError
from implicit_accel.linear.config import parse_learning_rates
from implicit_accel.tasks.axes import static, together
from implicit_accel.tasks.draws import log_uniform, uniform
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.user_module import run_file


def load_task(place: str) -> tuple[ModuleType, LossTask]:
    """Runs a file and takes the task out of it.

    Args:
        place: ``file.py:name``.

    Returns:
        The file as a module, and the task.

    Raises:
        UserError: If there is no such file or name, the file cannot be run, or the name is not a
            task's or of a function that makes one.
    """
    text, colon, name = place.rpartition(":")
    path = Path(text)
    if not colon or not name.isidentifier() or path.suffix != ".py":
        raise UserError(f"--task {place!r}: write file.py:name")
    module = run_file(path, "--task")
    found = attribute(module, name, "--task")
    try:
        task = found if isinstance(found, LossTask) or not callable(found) else found()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the function does
        kind = type(error).__name__
        raise UserError(f"--task: {text} cannot be run ({kind}: {error})") from error
    if not isinstance(task, LossTask):
        raise UserError(f"--task: {name} in {text} is no task; make it by implicit_accel.from_loss")
    return module, task


def attribute(module: ModuleType, name: str, flag: str) -> Any:
    """What a name stands for in a module.

    Raises:
        UserError: If it is not there.
    """
    if not hasattr(module, name):
        raise UserError(f"{flag}: there is no {name} in {module.__file__}")
    return getattr(module, name)


Value = bool | int | float | str


DRAWN = {"uniform": uniform, "log_uniform": log_uniform}
"""Ranges from which ``--draws`` draws, by the word that they are written with."""


def parse_axis(text: str) -> tuple[str, tuple[Value, ...] | static | uniform | log_uniform]:
    """Reads an axis: ``width_scale=0.5:1:2``, ``scale=log:0.1:10:5`` or ``activation=tanh:relu``.

    ``log:low:high:count`` means the same as in ``--learning_rates``. ``true`` and ``false``, in
    any case, are truth values. Digits alone are a whole number; with a point or an exponent they
    are a fraction. Everything else is a word. ``width=static:8:16`` are numbers (or truth values,
    or a log range) that have a program each, as `static` marks them; words have that anyway.
    ``rate=log_uniform:1e-4:1`` and ``uniform:0:1`` are ranges.

    Returns:
        The name, and values that are all numbers, all truth values or all words, or a range.

    Raises:
        UserError: If the text has another form, or a number is not finite.
    """
    name, equals, listed = (part.strip() for part in text.partition("="))
    parts = [part.strip() for part in listed.split(":")]
    if not equals or not name or not all(parts):
        raise UserError(f"--axes {text!r}: write name=value:value")
    if not name.isidentifier():
        raise UserError(
            f"--axes {text!r}: {name!r} is no name; write letters, digits and _, like width_scale"
        )
    # An axis may have the words static and relu.
    if parts[0] == "static" and not all(map(_is_pure_word, parts)):
        return name, static(*_values(text, parts[1:]))
    if parts[0] in DRAWN and not all(map(_is_word, parts)):
        ends = _values(text, parts[1:])
        if len(ends) != 2:
            raise UserError(f"--axes {text!r}: write two bounds, like {parts[0]}:0.1:1")
        try:
            return name, DRAWN[parts[0]](*ends)
        except UserError as error:
            raise UserError(f"--axes {text!r}: {error}") from None
    return name, _values(text, parts)


def load_configurations(path: str) -> together:
    """Configurations from a CSV table: a column per hyper-parameter, a row per configuration.

    A column ``static:width`` holds numbers that may shape arrays, see `static`.

    Raises:
        UserError: If the file cannot be read, or has no rows, or a gap.
    """
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--configurations {path}: not a table ({error})") from None
    if table.empty or table.isna().to_numpy().any():
        raise UserError(
            f"--configurations {path}: give one row or more, with a value for every column"
        )
    columns: dict[str, Any] = {}
    for heading in map(str, table.columns):
        mark, colon, name = heading.rpartition(":")
        if (colon and mark != "static") or not name.isidentifier():
            raise UserError(
                f"--configurations {path}: {heading!r} is no name; write one like width_scale or "
                "static:width"
            )
        values = table[heading].tolist()
        columns[name] = static(*values) if colon else values
    return together(**columns)


def _values(text: str, parts: list[str]) -> tuple[Value, ...]:
    """The values of an axis, given as ``text``, from its parts."""
    # An axis may have the words log and linear.
    if parts[0] == "log" and not all(map(_is_word, parts)):
        try:
            return parse_learning_rates([":".join(parts)], one="value")
        except UserError as error:
            raise UserError(f"--axes {text!r}: {error}") from None
    values = tuple(_value(text, part) for part in parts)
    for kind in (str, bool):
        if 0 < sum(isinstance(value, kind) for value in values) < len(values):
            raise UserError(
                f"--axes {text!r}: write numbers, or words, or true and false, but no mixture"
            )
    return values


def _is_pure_word(text: str) -> bool:
    """Whether this can be nothing but a word."""
    return _is_word(text) and text.lower() not in ("true", "false")


def _is_word(text: str) -> bool:
    for read in (float, lambda digits: int(digits, 0)):
        with contextlib.suppress(ValueError):
            read(text)
            return False
    return True


def _value(axis: str, text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _is_word(text):
        return text
    try:
        fraction = float(text)
    except ValueError:  # such as 0x10, which --learning_rates does not take either
        raise UserError(f"--axes {axis!r}: write {text} in decimals") from None
    if not math.isfinite(fraction):
        raise UserError(f"--axes {axis!r}: {text} is not a finite number")
    try:
        return int(text)
    except ValueError:
        return fraction
