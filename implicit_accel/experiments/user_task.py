"""A task out of a user's own file: ``my_model.py:task``.

The file is run, as the user's own program would be: name only files that you trust.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from implicit_accel.errors import UserError
from implicit_accel.tasks.loss_task import LossTask


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
    if not path.is_file():
        raise UserError(f"--task {place!r}: there is no file {text}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # What the file imports may lie beside it, as when Python runs it.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
        found = attribute(module, name, "--task")
        task = found if isinstance(found, LossTask) or not callable(found) else found()
    except UserError:
        raise
    except Exception as error:  # whatever the file does
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


def parse_axis(text: str) -> tuple[str, tuple[float | int | str, ...]]:
    """Reads ``width_scale=0.5:1:2``.

    Raises:
        UserError: If the text has another form.
    """
    name, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(":")]
    if not equals or not name.strip() or not all(parts):
        raise UserError(f"--axes {text!r}: write name=value:value")
    return name.strip(), tuple(map(_number, parts))


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
