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
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from implicit_accel.errors import UserError

Given = bool | int | float | str | tuple[str, ...] | None
"""What a command line gives for a setting: a tuple is a list of texts, None that there is none."""

_T = TypeVar("_T")
_KEY = "setting"


def _unchanged(value: Any) -> Any:
    return value


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
    details: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return isinstance(self.default, tuple)

    @property
    def default_value(self) -> Any:
        """The default, parsed."""
        return self.parse(self.default, *(d.default_value for d in self.details.values()))

    def check(self, name: str, value: Any) -> None:
        """Makes sure that a value is allowed.

        Raises:
            UserError: If it is not, or a list is empty or repeats itself.
        """
        plural = name.replace("_", " ")
        one = self.one or plural
        if not self.is_list:
            self._check_one(one, value)
            return
        if not isinstance(value, tuple):
            raise UserError(f"{plural}: must be a tuple, not {value!r}")
        if not value and not self.may_be_empty:
            raise UserError(f"{plural}: the list is empty, give at least one")
        for item in value:
            for part in item if isinstance(item, tuple) else (item,):
                self._check_one(one, part)
        seen = set()
        for item in value:
            if item in seen:
                raise UserError(f"{plural}: {getattr(item, 'name', item)} is given twice")
            seen.add(item)

    def _check_one(self, one: str, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise UserError(f"{one} {value!r}: choose from {', '.join(self.choices)}")
        if self.allowed is not None and value not in self.allowed:
            raise UserError(f"{one} {value}: must be {self.allowed.what}")


def setting(default: Given, help: str, **about: Any) -> Any:
    """A dataclass's field, from what its `Field` is made of."""
    declared = Field(default, help, **about)
    return dataclasses.field(default=declared.default_value, metadata={_KEY: declared})


def fields_of(owner: type) -> dict[str, Field]:
    """The settings that a dataclass declares, by name."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(owner) if _KEY in f.metadata}


def check(made: object) -> None:
    """Checks every setting of a dataclass's instance.

    Raises:
        UserError: If one is not allowed.
    """
    for name, field in fields_of(type(made)).items():
        field.check(name, getattr(made, name))


def each(convert: Callable[..., _T]) -> Callable[..., tuple[_T, ...]]:
    """A parser of lists that converts the items one by one, less the spaces around them.

    Args:
        convert: From a text (and the values of a field's details) to a value; it raises
            `UserError`, or ``ValueError`` where a text is no number.
    """

    def parse(items: Iterable[str], *details: Any) -> tuple[_T, ...]:
        return tuple(one(item.strip(), *details) for item in items)

    def one(text: str, *details: Any) -> _T:
        try:
            return convert(text, *details)
        except UserError:
            raise
        except ValueError:
            what = "a whole number" if convert is int else "a number"
            raise UserError(f"{text!r} is not {what}") from None

    return parse


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
