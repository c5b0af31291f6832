"""Writes docs/reference.md from the declarations: python docs/reference.py."""

from pathlib import Path

from implicit_accel.data.problems import Preparation
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.fields import fields_of, table
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.results import LINEAR_QUANTITIES
from implicit_accel.results import QUANTITIES, quantities_table

HEADER = """# Settings and results

Written by `python docs/reference.py` from the declarations that flags, checks and results are made
of. *A run may be given more*: a finished run in the same folder is extended by new values.

"""


def reference() -> str:
    """The whole document."""
    return HEADER + "\n\n".join([
        "## Data", table(options_of(find_sources())), "## Preparation",
        table(fields_of(Preparation)), "## The grid", table(fields_of(SweepConfig)),
        "## Results of any axes", quantities_table(QUANTITIES).strip(),
        "## Results of linear networks", quantities_table(LINEAR_QUANTITIES).strip(),
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference())
