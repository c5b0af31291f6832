"""Pages from the article's text and its data, by Typst, in a folder that holds all it reads."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from implicit_accel.claims.findings import Entry
from implicit_accel.claims.report.article.fill import figures_of
from implicit_accel.errors import UserError
from implicit_accel.files import atomic_path, printable

TEXT_FILE = "article.typ"
PAGES_FILE = "article.pdf"

_SOURCES = (TEXT_FILE, "style.typ", "references.bib")
_DATA_FILE = "article.json"
_FIGURES_FOLDER = "figures"

_PACKAGE = re.compile(r'"@[\w-]+/')


def own_sources() -> dict[str, bytes]:
    """The project's own text, layout and references, by the names of their files."""
    package = resources.files(__package__ or "")
    return {name: (package / name).read_bytes() for name in _SOURCES}


def sources_in(folder: Path) -> dict[str, bytes]:
    """Text, layout and references as an author has gone on from them, as far as they are there.

    Raises:
        UserError: If one cannot be read.
    """
    paths = {name: folder / name for name in _SOURCES}
    try:
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def typeset(
    data: Mapping[str, Any], entries: Sequence[Entry], sources: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Makes the article.

    Typst sees a folder of its own with these files alone, and the fonts that come with it: the same
    findings and text give the same bytes on any machine.

    Args:
        data: From `fill.fill`.
        entries: The claims, for their figures.
        sources: Text, layout and references, from `own_sources` or an author's.

    Returns:
        Path below the article's folder → contents: text, layout, references, data, figures, and the
        pages.

    Raises:
        UserError: If Typst is not installed, or the text does not compile, asks for a package or
            for what the findings do not hold.
    """
    try:
        import typst
    except ImportError:
        raise UserError(
            "an article is set by Typst, which is not installed: "
            "pip install 'implicit-accel[article]'"
        ) from None
    for name, source in sources.items():
        text = source.decode(errors="replace")
        if _PACKAGE.search(text):
            raise UserError(f"{name}: asks for a package; Typst reads its own folder alone")
    figures = {f"{e.claim.id}/{path.name}": path for e in entries for path in figures_of(e)}
    files = {
        **sources,
        **{f"{_FIGURES_FOLDER}/{path}": file.read_bytes() for path, file in figures.items()},
        _DATA_FILE: json.dumps(data, ensure_ascii=False, indent=1).encode(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for path, contents in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(contents)
        try:
            pages = typst.compile(
                Path(folder) / TEXT_FILE, root=Path(folder), format="pdf",
                ignore_system_fonts=True, font_paths=[], timestamp=0,
            )  # fmt: skip
        except (typst.TypstError, RuntimeError) as error:
            raise UserError(_message(error)) from None
    assert isinstance(pages, bytes)
    return files | {PAGES_FILE: pages}


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes an article's files into a folder that exists, each atomically, the pages last."""
    for path, contents in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / path) as temporary:
            temporary.write_bytes(contents)


def _message(error: Exception) -> str:
    """What Typst complains of, in one line."""
    words = " ".join(str(error).split())
    return printable(words.removeprefix("panicked with: ").removeprefix("assertion failed: "), 500)
