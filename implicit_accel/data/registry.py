"""Which datasets there are: every module in `implicit_accel.data.sources` declares one."""

import importlib
import pkgutil

from implicit_accel.data import sources
from implicit_accel.data.dataset import DatasetSource
from implicit_accel.errors import UserError
from implicit_accel.fields import Field


def find_sources() -> dict[str, DatasetSource]:
    """The sources of datasets by name, in the order of their modules' names.

    Each module in the package ``sources``, wherever the package's ``__path__`` leads, declares a
    `DatasetSource` as its ``SOURCE``; those whose names begin with an underscore are passed over.

    Raises:
        UserError: If a module declares none, two have the same name, or two declare the same
            option in different ways.
    """
    found: dict[str, DatasetSource] = {}
    for module in pkgutil.iter_modules(sources.__path__):
        if module.name.startswith("_"):
            continue
        name = f"{sources.__name__}.{module.name}"
        source = getattr(importlib.import_module(name), "SOURCE", None)
        if not isinstance(source, DatasetSource):
            raise UserError(f"{name} declares no dataset: let its SOURCE be a DatasetSource")
        if source.name in found:
            raise UserError(f"{name}: there is a dataset {source.name!r} already; rename one")
        found[source.name] = source
    options_of(found)
    return found


def options_of(found: dict[str, DatasetSource]) -> dict[str, Field]:
    """All options of some sources by name; sources may share one.

    Raises:
        UserError: If two declare the same option in different ways.
    """
    options: dict[str, Field] = {}
    for source in found.values():
        for name, option in source.options.items():
            if options.setdefault(name, option) != option:
                raise UserError(
                    f"dataset {source.name!r} declares --{name} otherwise than another one does; "
                    "share the declaration or rename it"
                )
    return options
