"""Writes a replication article (PDF) from the findings of a reproduction.

    python -m experiments.article --reproduction docs/reproduction
    python -m experiments.article --reproduction outputs/reproduction-paper
    python -m experiments.article --sources outputs/article

Every number and every verdict in it is a finding's. Beside article.pdf the folder holds all that it
is made of: article.typ, the text in Typst's markup, and its layout, references, data and figures.
An author goes on from there, and sets it again with --sources, or with Typst itself.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.findings import load_entries
from implicit_accel.claims.report.article.fill import check, fill
from implicit_accel.claims.report.article.typeset import (
    PAGES_FILE,
    TEXT_FILE,
    own_sources,
    sources_in,
    typeset,
    write,
)
from implicit_accel.errors import UserError
from implicit_accel.experiments import cli

_GROUPS = cli.FlagGroups()
_REPRODUCTION = flags.DEFINE_string(
    "reproduction",
    "outputs/reproduction",
    "Folder of a reproduction of all claims, at a scale that has verdicts (not smoke). In a clone, "
    "docs/reproduction is the published one.",
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "outputs/article", "Where the article goes.")
_SOURCES = flags.DEFINE_string(
    "sources",
    None,
    "Folder with article.typ, style.typ or references.bib as an author has gone on from them; the "
    "project's own are taken for what is not there.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace sources in the output folder that are not those to be set."
)
_GROUPS.add("Flags", _REPRODUCTION, _OUTPUT_DIR, _SOURCES, _OVERWRITE)


def read_sources() -> dict[str, bytes]:
    """The text to be set, with its layout and references.

    Raises:
        UserError: If an author's are asked for and not there.
    """
    if _SOURCES.value is None:
        return own_sources()
    theirs = sources_in(Path(_SOURCES.value))
    if not theirs:
        raise UserError(
            f"--sources {_SOURCES.value}: holds none of {', '.join(own_sources())}; name a folder "
            "that an article was written to"
        )
    return own_sources() | theirs


def check_output(folder: Path, sources: dict[str, bytes]) -> None:
    """Makes sure that nothing of an author's is written over.

    Raises:
        UserError: If the folder holds other sources, and --overwrite is not given.
    """
    there = sources_in(folder)
    other = [name for name in there if there[name] != sources[name]]
    if other and not _OVERWRITE.value:
        raise UserError(
            f"{folder / other[0]}: is not what would be written there, perhaps an author's; set it "
            f"with --sources {folder}, or replace it with --overwrite"
        )


def main() -> None:
    """Reads, fills in, sets, writes."""
    reproduction, folder = Path(_REPRODUCTION.value), Path(_OUTPUT_DIR.value)
    collection = load_collection()
    claims = collection.claims
    scale, entries = load_entries(reproduction, claims)
    check(scale, entries, claims, reproduction)
    sources = read_sources()
    check_output(folder, sources)
    files = typeset(fill(scale, entries, collection), entries, sources)
    with cli.output_folder(folder):
        write(files, folder)
    cli.make_console().print(
        f"{folder}: {PAGES_FILE}, and what it is made of ({TEXT_FILE} is the text)", soft_wrap=True
    )


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
