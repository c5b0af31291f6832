"""Writes docs/reference.md from the declarations: python docs/reference.py."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from implicit_accel.data.problems import Preparation
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.experiments.main import COMMAND, PROGRAMS
from implicit_accel.fields import Field, fields_of, table, with_details
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.results import LINEAR_QUANTITIES
from implicit_accel.results import QUANTITIES, quantities_table

HEADER = """# Settings and results

Written by `python docs/reference.py` from the declarations that flags, checks and results are made
of. *A run may be given more*: a finished run in the same folder is extended by new values.

"""

PROGRAMS_HEADER = f"""## The programs

`{COMMAND} sweep` is `python -m experiments.sweep` from a clone, and so on. Of each program those
flags are listed that are its own, or say more than the settings above; `sweep` and `predict` have
all of those as well."""

_HEADING = re.compile(r"(\S.*):")
_CHOICES = re.compile(r"<([^>]*)>: ")
_FLAG = re.compile(r"  --(\w+)(?:  \(default: (.*)\))?")


def program_tables(help_text: str, declared: Mapping[str, Field]) -> str:
    """A program's flags as Markdown tables under their headings, from what its --help prints.

    Args:
        help_text: From ``--help``, see `implicit_accel.experiments.cli.FlagGroups.help`.
        declared: Settings by name: those that the help describes in the same words are left out.
    """
    tables: dict[str, list[list[str]]] = {}
    heading, flag = "", [""] * 3
    for line in help_text.splitlines():
        if found := _HEADING.fullmatch(line):
            heading = found[1]
        elif found := _FLAG.fullmatch(line):
            flag = [found[1], found[2] or "", ""]
            tables.setdefault(heading, []).append(flag)
        elif line.startswith("      "):
            # A word is broken after its hyphen only.
            flag[2] += ("" if re.search(r"\w-$", flag[2]) else " ") + line.strip()
    lines = []
    for heading, flags in tables.items():
        found = {name: _field(default, words.strip()) for name, default, words in flags}
        own = {n: f for n, f in found.items() if n not in declared or f.help != _words(declared[n])}
        lines += [f"**{heading}**", "", table(own), ""] if own else []
    return "\n".join(lines).strip()


def _field(default: str, words: str) -> Field:
    choices = _CHOICES.match(words)
    what = words[choices.end() :] if choices else words
    return Field(
        default or None,
        what.replace("<", r"\<"),
        choices=tuple(choices[1].split("|")) if choices else (),
    )


def _words(field: Field) -> str:
    return " ".join(field.help.split())


def _help_of(programs: Mapping[str, str]) -> dict[str, str]:
    """What each prints, in a process of its own: two programs' flags may have the same name."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"implicit_accel.experiments.{name}", "--help"],
            stdout=subprocess.PIPE, encoding="utf-8",
        )
        for name in programs
    }  # fmt: skip
    return {name: process.communicate()[0] for name, process in started.items()}


def reference() -> str:
    """The whole document."""
    data = options_of(find_sources())
    declared = with_details(data | fields_of(Preparation) | fields_of(SweepConfig))
    sections = [
        "## Data", table(data), "## Preparation",
        table(fields_of(Preparation)), "## The grid", table(fields_of(SweepConfig)),
        "## Results of any axes", quantities_table(QUANTITIES).strip(),
        "## Results of linear networks", quantities_table(LINEAR_QUANTITIES).strip(),
        PROGRAMS_HEADER,
    ]  # fmt: skip
    for name, text in _help_of(PROGRAMS).items():
        what = f"{PROGRAMS[name][0].upper()}{PROGRAMS[name][1:]}."
        sections += [f"### {name}", what, program_tables(text, declared)]
    return HEADER + "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference())
