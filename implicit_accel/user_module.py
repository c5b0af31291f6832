"""Runs a user's own Python file as a module.

The file is run, as the user's own program would be: only files that the user trusts may be named.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from implicit_accel.errors import UserError


def run_file(path: Path, what: str) -> ModuleType:
    """Runs a file.

    Args:
        path: Of the file. What it imports may lie beside it, as when Python runs it.
        what: What asks for it, for errors, e.g. a flag.

    Returns:
        The file as a module.

    Raises:
        UserError: If there is no such file, or it cannot be run.
    """
    if not path.is_file():
        raise UserError(f"{what}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the file does
        kind = type(error).__name__
        raise UserError(f"{what}: {path} cannot be run ({kind}: {error})") from error
    return module
