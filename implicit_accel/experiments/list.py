"""Lists finished runs: what was trained, when, and the answer.

    python -m experiments.list
    python -m experiments.list outputs results/last_week

Without a folder it lists outputs/. Runs in folders within are found as well.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from implicit_accel import summary
from implicit_accel.errors import DataError, UserError
from implicit_accel.experiments import cli
from implicit_accel.files import load_json, printable
from implicit_accel.loading import load_run
from implicit_accel.results import CONFIG_FILE, RESULTS_FILE, coordinate_labels, varying
from implicit_accel.statistics import summarise

# Values of an axis that are listed; more are counted.
_MOST_VALUES = 6
_LINE = 200

_GROUPS = cli.FlagGroups()
_BEST_BY = cli.define_best_by()
_GROUPS.add("Flags", _BEST_BY)


def run_folders(places: list[str]) -> Iterator[Path]:
    """The folders with results, in and below some places; each once.

    Raises:
        UserError: If a place is no folder.
    """
    seen = set()
    for place in places:
        root = Path(place)
        if not root.is_dir():
            raise UserError(f"{place}: there is no such folder; name one that holds runs")
        for path in sorted(root.rglob(RESULTS_FILE)):
            folder = path.parent.resolve()
            if folder not in seen:
                seen.add(folder)
                yield path.parent


def when(folder: Path) -> str:
    """The day and minute at which a run was written, in UTC; empty if that is not known."""
    try:
        written = load_json(folder / CONFIG_FILE).get("written")
        return f"{datetime.datetime.fromisoformat(written):%Y-%m-%d %H:%M}"
    except (OSError, ValueError, TypeError, AttributeError):
        return ""


def settings_of(results: Any) -> str:
    """What was varied, in a line: ``depth 1, 2, 3; 29 learning rates; 5 seeds; 20,000 steps``."""
    parts = []
    for name, own in coordinate_labels(results, varying(results)).items():
        values = list(dict.fromkeys(filter(None, own)))
        few = ", ".join(values) if len(values) <= _MOST_VALUES else f"{len(values)} values"
        words = name.replace("_", " ")
        parts.append(few if few.startswith(words) else f"{words} {few}")
    for name, word in (("learning_rate", "learning rate"), ("seed", "seed")):
        if name in results.sizes:
            count = results.sizes[name]
            parts.append(f"{count:,} {word}{'s' if count > 1 else ''}")
    return "; ".join([*parts, f"{int(results.attrs['num_steps']):,} steps"])


def print_run(folder: Path, console: Console) -> None:
    """A run in a few lines. One that cannot be read has a line that says why."""
    console.print(f"{folder}  {when(folder)}", style="bold", soft_wrap=True)
    try:
        results = load_run(folder)
        table = summarise(results, best_by=_BEST_BY.value)
    except (DataError, UserError) as error:
        console.print(f"  cannot be read: {printable(str(error), _LINE)}", soft_wrap=True)
        return
    console.print(f"  {printable(str(results.attrs.get('title', '')), _LINE)}", soft_wrap=True)
    console.print(f"  {printable(settings_of(results), _LINE)}", soft_wrap=True)
    for sentence in summary.answers(table):
        console.print(f"  → {sentence}", soft_wrap=True)


def main(places: list[str]) -> None:
    """Lists the runs."""
    console = cli.make_console()
    count = 0
    for folder in run_folders(places or ["outputs"]):
        print_run(folder, console)
        count += 1
    console.print(f"{count} run{'' if count == 1 else 's'}")


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "", takes="FOLDER")
