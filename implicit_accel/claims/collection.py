"""Collections of claims: those of this project, or those of a folder."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from implicit_accel.claims.api import ID, Claim
from implicit_accel.claims.effects import Coordinate
from implicit_accel.errors import UserError
from implicit_accel.user_module import run_file

STORY_FILE = "story.md"

_MODULE = re.compile(ID.pattern.replace("A-Za-z", "a-z"))


@dataclass(frozen=True)
class Recollection:
    """A fact that none of the texts that were read confirms.

    Attributes:
        fact: What is remembered of a source.
        claims: Whose experiments use it.
        hinges: What depends on it.
    """

    fact: str
    claims: tuple[str, ...]
    hinges: str


class Row(NamedTuple):
    """An effect of the picture beside the answer.

    Attributes:
        name: What the row is called.
        claim: The id of the claim that measured it.
        measure: The effect's measure.
        at: Its coordinates.
        is_slow_down: Whether the picture shows its reciprocal.
    """

    name: str
    claim: str
    measure: str
    at: Mapping[str, Coordinate]
    is_slow_down: bool = False


@dataclass(frozen=True)
class Collection:
    """Claims that are reported together, and how their report is divided.

    Attributes:
        title: Of the report.
        claims: In the order of the report.
        sources: By the letters of a claim's id: whose claim it is, in a few words.
        questions: Question → a short name for it, and the claims that answer it.
        recollections: What is known of the sources from memory only.
        story: The first page: Markdown with placeholders, see ``report.story``.
        picture: The effects that the answer is about.
        folder: Of a user's own claims; None for the project's.
    """

    title: str
    claims: tuple[Claim, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    questions: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    recollections: tuple[Recollection, ...] = ()
    story: str = ""
    picture: tuple[Row, ...] = ()
    folder: Path | None = None

    def made_by(self, claim: Claim) -> str:
        """Whose claim it is, in a few words."""
        return self.sources.get(claim.id.rstrip("abcdefghijklmnopqrstuvwxyz0123456789"), "others")

    def place(self, claim: Claim) -> tuple[str, str]:
        """The question that a claim answers, and a short name for it."""
        for question, (name, claims) in self.questions.items():
            if claim.id in claims:
                return question, name
        return ("What else is there?", "other") if self.questions else ("The claims", "claims")


def load_collection(folder: str | Path | None = None) -> Collection:
    """The project's claims, or those of a folder.

    Args:
        folder: With a module for each claim, named after its id (``a1.py`` holds ``CLAIM``, claim
            A1), texts in ``text/a1.md``, and perhaps ``story.md``. Other modules are not run unless
            these import them.

    Raises:
        UserError: If the folder holds no claims, or a module cannot be run or holds another claim.
    """
    if folder is None:
        return _published()
    path = Path(folder)
    if not path.is_dir():
        raise UserError(
            f"{path}: there is no such folder of claims; name one that holds a module for each "
            "claim, such as a1.py"
        )
    names = [file.stem for file in path.glob("*.py") if _MODULE.fullmatch(file.stem)]
    if not names:
        raise UserError(
            f"{path}: holds no claims; write one into a file named after its id, such as a1.py"
        )
    claims = _claims(names, lambda name: run_file(path / f"{name}.py", "claims"), path)
    story = path / STORY_FILE
    text = story.read_text(encoding="utf-8") if story.is_file() else ""
    title = f"Claims in {path.resolve().name}"
    return Collection(title, claims, story=text, folder=path)


def _published() -> Collection:
    package = importlib.import_module("implicit_accel.claims.published")
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if _MODULE.fullmatch(m.name)]
    folder = Path(str(package.__file__)).parent
    claims = _claims(names, lambda n: importlib.import_module(f"{package.__name__}.{n}"), folder)
    order = {letter: number for number, letter in enumerate(package.COLLECTION.sources)}
    claims = tuple(sorted(claims, key=lambda claim: order.get(claim.id[:1], len(order))))
    story = (folder / STORY_FILE).read_text(encoding="utf-8")
    return dataclasses.replace(package.COLLECTION, claims=claims, story=story)


def _claims(names: Iterable[str], load: Callable[[str], object], folder: Path) -> tuple[Claim, ...]:
    """The claims of some modules with their texts, in the order of their ids."""
    found = {}
    for name in names:
        match = _MODULE.fullmatch(name)
        assert match is not None
        letters, number, letter = match.groups()
        claim = getattr(load(name), "CLAIM", None)
        if not isinstance(claim, Claim) or claim.id.lower() != name:
            raise UserError(f"{folder / name}.py: CLAIM must be the claim {name.capitalize()}")
        found[letters, int(number), letter] = with_text(claim, folder)
    return tuple(found[place] for place in sorted(found))


def with_text(claim: Claim, folder: Path) -> Claim:
    """A claim with its text, ``text/<id>.md`` in its module's folder; without one, unchanged."""
    path = folder / "text" / f"{claim.id.lower()}.md"
    if not path.is_file():
        return claim
    return dataclasses.replace(claim, text=path.read_text(encoding="utf-8"))
