"""Dataclasses as JSON and back, by their type hints. Nothing that is read is executed.

JSON has neither NaN nor infinity: a missing number is null, an infinite one ``"inf"`` or
``"-inf"``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Union, get_args, get_origin

import numpy as np
import pandas as pd


def encode(value: Any) -> Any:
    """Dataclasses, enums, numbers, texts, tables and their containers as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # What is no part of comparisons is not stored.
        stored = (f.name for f in dataclasses.fields(value) if f.compare)
        return {name: encode(getattr(value, name)) for name in stored}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, pd.DataFrame):
        return {"columns": list(map(str, value.columns)), "data": encode(value.to_numpy().tolist())}
    if isinstance(value, Mapping):
        return {str(name): encode(each) for name, each in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return None if math.isnan(value) else value
    if isinstance(value, Sequence):
        return [encode(each) for each in value]
    raise TypeError(f"{type(value).__name__} cannot be stored")


def decode(kind: Any, stored: Any) -> Any:
    """The inverse of ``encode`` for a type.

    Args:
        kind: A dataclass, an enum, ``float``, ``int``, ``bool``, ``str``, a data frame, or a tuple,
            sequence, mapping or union of these.
        stored: JSON.

    Raises:
        TypeError, ValueError, KeyError: If the JSON is not one of this type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, stored)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return tuple(decode(a, each) for a, each in zip(arguments, stored, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {_checked(str, name): decode(arguments[1], v) for name, v in stored.items()}
    if origin is not None and issubclass(origin, Sequence):
        return tuple(decode(arguments[0], each) for each in _checked(list, stored))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [f.name for f in dataclasses.fields(kind) if f.compare]
        if set(stored) != set(fields):
            raise ValueError(f"{kind.__name__} with {sorted(stored)}")
        return kind(**{name: decode(hints[name], stored[name]) for name in fields})
    if kind is pd.DataFrame:
        rows = [[_cell(each) for each in row] for row in stored["data"]]
        return pd.DataFrame(rows, columns=stored["columns"])
    if kind is float:
        return math.nan if stored is None else float(stored)
    return kind(stored) if issubclass(kind, Enum) else _checked(kind, stored)


def _one_of(kinds: Sequence[Any], stored: Any) -> Any:
    if stored is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return decode(others[0], stored)
    return _checked(tuple(others), stored)


def _checked(kind: Any, stored: Any) -> Any:
    if not isinstance(stored, kind) or (isinstance(stored, bool) and kind is int):
        raise TypeError(f"{stored!r} instead of {kind}")
    return stored


def _cell(stored: Any) -> Any:
    return float(stored) if stored in ("inf", "-inf") else stored
