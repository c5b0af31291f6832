"""The claims there are: every module of the package of claims that is named after one."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import implicit_accel.claims.published
from implicit_accel.claims.api import Claim
from implicit_accel.errors import UserError

# In the order of the report: the 2018 paper's, the 2019 paper's, the student project's, theory's.
_GROUPS = "PFST"

_NAME = re.compile(rf"([{_GROUPS.lower()}])([0-9]+)([a-z]?)")


def find_claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the report: by group, number and letter.

    A claim is the ``CLAIM`` of a module with its id, in lower case, as its name: ``p3b.py`` holds
    claim P3b. Other modules are not looked at.

    Raises:
        UserError: If such a module holds no claim, or one of another id.
    """
    found = {}
    for module in pkgutil.iter_modules(implicit_accel.claims.published.__path__):
        name = _NAME.fullmatch(module.name)
        if name:
            group, number, letter = name.groups()
            place = _GROUPS.lower().index(group), int(number), letter
            found[place] = _claim_of(module.name)
    return tuple(found[place] for place in sorted(found))


def _claim_of(name: str) -> Claim:
    module = importlib.import_module(f"implicit_accel.claims.published.{name}")
    claim = getattr(module, "CLAIM", None)
    if not isinstance(claim, Claim) or claim.id.lower() != name:
        raise UserError(f"claims/published/{name}.py: CLAIM must be the claim {name.upper()}")
    return with_text(claim, Path(str(module.__file__)).parent)


def with_text(claim: Claim, folder: Path) -> Claim:
    """A claim with its text, ``text/<id>.md`` in its module's folder; without one, unchanged."""
    path = folder / "text" / f"{claim.id.lower()}.md"
    if not path.is_file():
        return claim
    return dataclasses.replace(claim, text=path.read_text(encoding="utf-8"))
