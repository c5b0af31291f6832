"""Settings, each declared once: default, parser, check, help, how it is written down.

A frozen dataclass declares its settings where it lists its fields::

    @dataclass(frozen=True)
    class Grid:
        depths: tuple[int, ...] = setting(
            ("1", "2"), "Numbers of weight matrices.", parse=each(int), one="depth"
        )

        def __post_init__(self) -> None:
            check(self)

The rest follows from that: ``fields_of(Grid)`` are the declarations, ``Grid(**read(fields,
texts))`` reads a command line, ``write(fields, vars(grid))`` is JSON, ``table(fields)`` a
reference. Where there is no dataclass, a dictionary from names to `Field` does as well.

In Python a setting may be written as on the command line, or with any list, array or scalar:
``Grid("1,2")``, ``Grid([1, 2])`` and ``Grid(np.array([1, 2]))`` equal ``Grid((1, 2))``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from implicit_accel.errors import UserError

Given = bool | int | float | str | tuple[str, ...] | None
"""What a command line gives for a setting: a tuple is a list of texts, None that there is none."""

MAX_ITEMS = 100_000
"""Values that a list may have."""

_T = TypeVar("_T")
_KEY = "setting"

_MAX_SHOWN = 80


def _unchanged(value: Any) -> Any:
    return value


def plain(value: Any) -> Any:
    """A scalar of an array library as Python's own; any other value as it is."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:  # JAX arrays that are traced or deleted have no value
        return value


def is_real(value: Any) -> bool:
    """Whether this is a real number; truth values are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def finite(value: Any) -> int | float | None:
    """A finite real number as Python's own ``int`` or ``float``; None for anything else."""
    value = plain(value)
    if not is_real(value):
        return None
    try:
        number = value if type(value) is int else float(value)
        return number if math.isfinite(number) else None
    except OverflowError:
        return None


def shown(value: Any, as_text: Callable[[Any], str] = str) -> str:
    """A value as errors quote it: one line of bounded length."""
    try:
        text = " ".join(as_text(value).split())
    except Exception:  # whole numbers of more than 4300 digits have no text
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


@dataclass(frozen=True)
class Allowed:
    """What one value may be.

    Attributes:
        what: In words, as they follow "must be".
        kind: Its type; truth values are no numbers.
        bounds: The least and the largest number, both allowed; None where there are none.
    """

    what: str
    kind: type
    bounds: tuple[float, float] | None = None

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, self.kind) or isinstance(value, bool) > (self.kind is bool):
            return False
        # NaN is in no range.
        return self.bounds is None or self.bounds[0] <= value <= self.bounds[1]

    def canonical(self, value: Any) -> Any:
        """An allowed number as Python's own ``int`` or ``float``; anything else as it is."""
        if issubclass(self.kind, numbers.Integral) and self.kind is not bool:
            return int(value)
        if not issubclass(self.kind, numbers.Real) or self.kind is bool:
            return value
        try:
            return float(value) + 0.0  # -0.0 becomes 0.0: equal numbers, but different texts
        except OverflowError:  # a whole number, allowed where infinity is
            return math.inf


@dataclass(frozen=True)
class Field:
    """A setting, but for its name.

    Attributes:
        default: As a command line would give it. Its type says what kind of flag there is: a tuple
            of texts is a list, a number a number, True or False a switch, None and a text a text.
        help: What it is, for people.
        heading: Under which heading a program lists it.
        parse: From what a command line gives (and the values of ``details``, in their order) to
            the setting's value. It raises `UserError`; `each` makes parsers of lists.
        write: From the value to JSON, for a run's folder; None if no result depends on it.
        allowed: What the value, or every item of a list, may be.
        choices: The texts among which it is one.
        one: What errors call the value, or an item of a list; the setting's name unless given.
        may_grow: Whether a run that has been trained may be given more of it.
        may_be_empty: Whether a list may be.
        may_nest: Whether an item of a list may itself be a list.
        details: Settings, by name, that have no value of their own but complete this one: their
            ``write`` takes this one's value.
    """

    default: Given
    help: str
    heading: str = ""
    parse: Callable[..., Any] = _unchanged
    write: Callable[[Any], Any] | None = _unchanged
    allowed: Allowed | None = None
    choices: tuple[str, ...] = ()
    one: str = ""
    may_grow: bool = False
    may_be_empty: bool = False
    may_nest: bool = False
    details: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return isinstance(self.default, tuple)

    @property
    def default_value(self) -> Any:
        """The default, parsed."""
        return self.parse(self.default, *(d.default_value for d in self.details.values()))

    def value(self, name: str, given: Any) -> Any:
        """The setting's value from what is given for it in Python.

        A text means the same as on the command line, and so does a number where the command line
        takes one for an object. A list may be a text with commas, any iterable that has an order,
        or a single item. Scalars of array libraries become Python's own.

        Args:
            name: The setting's name.
            given: The value, in any of these forms.

        Returns:
            The value as it is stored: numbers are ``int`` or ``float``, lists are tuples.

        Raises:
            UserError: If it is not allowed, or a list is empty or repeats itself.
        """
        plural = name.replace("_", " ")
        if not self.is_list:
            given = plain(given)
            text = self._text_of(given)
            value = given if text is None else self._parse(plural, text)
            return self._checked(plural, value)
        values = self.items(name, given)
        if not values and not self.may_be_empty:
            raise UserError(f"{plural}: the list is empty, give at least one")
        seen = set()
        for value in values:
            if value in seen:
                raise UserError(f"{plural}: {getattr(value, 'name', value)} is given twice")
            seen.add(value)
        return values

    def items(self, name: str, given: Any) -> tuple[Any, ...]:
        """The values of a list, see `value`; it may be empty or repeat itself.

        Raises:
            UserError: If one of them is not allowed.
        """
        plural = name.replace("_", " ")
        values: list[Any] = []
        for item in items_of(plural, given):
            values += self._several(plural, item, may_nest=self.may_nest)
            if len(values) > MAX_ITEMS:
                raise UserError(f"more than {MAX_ITEMS:,} {plural}: give fewer")
        return tuple(values)

    def _several(self, plural: str, item: Any, *, may_nest: bool) -> tuple[Any, ...]:
        """The values of a list that one item stands for: ``log:1e-3:1:5`` stands for five."""
        item = plain(item)
        text = self._text_of(item)
        if text is not None:
            values = self._parse(plural, text)
            return tuple(self._checked(plural, v, may_nest=may_nest) for v in values)
        if may_nest and _is_list(item):
            parts = items_of(plural, item)
            return (tuple(v for p in parts for v in self._several(plural, p, may_nest=False)),)
        return (self._checked(plural, item),)

    def _text_of(self, given: Any) -> str | None:
        """What a command line gives in place of a text, or of a number that means an object."""
        if isinstance(given, str):
            return given
        if self.allowed is None or issubclass(self.allowed.kind, numbers.Number | str):
            return None
        number = finite(given)
        return None if number is None else repr(number)

    def _parse(self, plural: str, text: str) -> Any:
        details = [detail.default_value for detail in self.details.values()]
        try:
            given = (text.strip(),) if self.is_list else _like(self.default, text)
            return self.parse(given, *details)
        except UserError as error:
            message, one = str(error), self.one or plural
            if message.startswith((plural, one)):
                raise
            raise UserError(f"{plural if self.is_list else one}: {message}") from None

    def _checked(self, plural: str, value: Any, *, may_nest: bool = False) -> Any:
        if may_nest and isinstance(value, tuple):
            return tuple(self._checked(plural, part) for part in value)
        one = self.one or plural
        if self.choices and not (isinstance(value, str) and value in self.choices):
            raise UserError(f"{one} {shown(value, repr)}: choose from {', '.join(self.choices)}")
        if self.allowed is None:
            return value
        if value not in self.allowed:
            raise UserError(f"{one} {shown(value)}: must be {self.allowed.what}")
        return self.allowed.canonical(value)


def _is_list(given: Any) -> bool:
    return (
        not isinstance(given, str | set | frozenset | Mapping | bytes | bytearray | memoryview)
        and hasattr(given, "__iter__")
        and getattr(given, "ndim", 1) != 0
    )


def items_of(plural: str, given: Any) -> list[Any]:
    """The items of what is given for a list, see `Field.value`; they are not converted.

    Args:
        plural: What errors call the list.
        given: A text with commas, an iterable, or a single item.

    Raises:
        UserError: If it has no order, or cannot be read.
    """
    given = plain(given)
    if isinstance(given, str):
        return given.split(",") if given else []  # as a list of flags is split
    if not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0:
        return [given]
    # A set has no order, iterating over a dictionary gives no values, bytes are not decoded.
    if not _is_list(given):
        raise UserError(f"{plural}: must be a list, not {shown(given)}")
    try:
        return list(itertools.islice(given, MAX_ITEMS + 1))
    except Exception as error:  # whatever a generator of the user's raises
        raise UserError(f"{plural}: cannot be read ({type(error).__name__}: {error})") from error


def _like(default: Given, text: str) -> Given:
    """A text as a flag with this default reads it."""
    if isinstance(default, bool):
        # A flag also takes t, f, 1 and 0, which here are more likely to be mistakes.
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if isinstance(default, int):
        return _number(int, text)
    if isinstance(default, float):
        return _number(float, text)
    return text


# The longest range of whole numbers that an error writes out.
_MOST_SPELLED = 8


def _number(convert: Callable[..., _T], text: str, *details: Any) -> _T:
    try:
        return convert(text, *details)
    except UserError:
        raise
    except ValueError:
        what = "a whole number" if convert is int else "a number"
        ends = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:-|\.\.|:)\s*([0-9]{1,3})\s*", text)
        meant = ""
        if convert is int and ends and int(ends[1]) < int(ends[2]) <= int(ends[1]) + _MOST_SPELLED:
            whole = ",".join(map(str, range(int(ends[1]), int(ends[2]) + 1)))
            meant = f"; did you mean {whole}?"
        raise UserError(f"{text!r} is not {what}{meant}") from None


def setting(default: Given, help: str, **about: Any) -> Any:
    """A dataclass's field, from what its `Field` is made of."""
    declared = Field(default, help, **about)
    return dataclasses.field(default=declared.default_value, metadata={_KEY: declared})


def fields_of(owner: type) -> dict[str, Field]:
    """The settings that a dataclass declares, by name."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(owner) if _KEY in f.metadata}


def check(made: object) -> None:
    """Checks every setting of a dataclass's instance, which may be frozen.

    Each is replaced by its value as it is stored, see `Field.value`: instances are equal if their
    settings mean the same.

    Raises:
        UserError: If one is not allowed.
    """
    for name, field in fields_of(type(made)).items():
        object.__setattr__(made, name, field.value(name, getattr(made, name)))


def each(convert: Callable[..., _T]) -> Callable[..., tuple[_T, ...]]:
    """A parser of lists that converts the items one by one, less the spaces around them.

    Args:
        convert: From a text (and the values of a field's details) to a value; it raises
            `UserError`, or ``ValueError`` where a text is no number.
    """

    def parse(items: Iterable[str], *details: Any) -> tuple[_T, ...]:
        return tuple(_number(convert, item.strip(), *details) for item in items)

    return parse


_UNITS = {
    "": 1,
    "b": 1,
    "k": 2**10,
    "kib": 2**10,
    "m": 2**20,
    "mib": 2**20,
    "g": 2**30,
    "gib": 2**30,
}


def parse_bytes(size: Any) -> int:
    """Reads ``4GiB``, ``500MiB`` or a number of bytes.

    Args:
        size: A text or a number.

    Returns:
        Bytes, at least 1.

    Raises:
        UserError: If it is neither, or below one byte.
    """
    value = plain(size)
    if isinstance(value, str):
        digits = value.rstrip("bBiIkKmMgG ")
        unit = value[len(digits) :].strip().lower()
        try:
            value = float(digits) * _UNITS[unit]
        except (ValueError, KeyError):
            value = None
    number = finite(value)
    if number is None:
        raise UserError(f"{shown(size, repr)} is no size; write 4GiB, 500MiB or a number of bytes")
    if number < 1:
        raise UserError(f"{shown(size, repr)}: must be at least one byte")
    return int(number)


def with_details(fields: Mapping[str, Field]) -> dict[str, Field]:
    """All settings by name, each followed by its details, which take over its heading."""
    every: dict[str, Field] = {}
    for name, field in fields.items():
        every[name] = field
        for detail, declared in field.details.items():
            every[detail] = dataclasses.replace(declared, heading=field.heading)
    return every


def read(fields: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings.

    Args:
        fields: The settings.
        given: What a command line gives for them and for their details; the default for what is
            missing. Other names are passed over.

    Returns:
        A value for every setting; they are not checked yet.

    Raises:
        UserError: If something cannot be parsed; the message begins with the flag.
    """

    def parsed(name: str, field: Field, *details: Any) -> Any:
        try:
            return field.parse(given.get(name, field.default), *details)
        except UserError as error:
            message = str(error)
            raise UserError(
                message if message.startswith("--") else f"--{name}: {message}"
            ) from None

    return {
        name: parsed(name, field, *(parsed(n, d) for n, d in field.details.items()))
        for name, field in fields.items()
    }


def write(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and their details as JSON has them, less those that no result depends on."""
    written = {
        part: declared.write(values[name])
        for name, field in fields.items()
        for part, declared in {name: field, **field.details}.items()
        if declared.write is not None
    }
    return json.loads(json.dumps(written))


def table(fields: Mapping[str, Field]) -> str:
    """A reference of settings and their details, as a Markdown table."""
    lines = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for name, field in with_details(fields).items():
        notes = [field.help]
        if field.choices:
            notes.append(f"One of {', '.join(field.choices)}.")
        if field.may_grow:
            notes.append("A run may be given more.")
        default = f"`{_shown(field.default)}`" if field.default not in (None, ()) else ""
        cells = (f"`--{name}`", default, " ".join(notes))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _shown(given: Given) -> str:
    if isinstance(given, tuple):
        return ",".join(given)
    return str(given).lower() if isinstance(given, bool) else str(given)
