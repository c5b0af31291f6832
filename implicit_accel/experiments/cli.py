"""What the programs share: flags in groups, help, errors as one line, tables."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from absl import flags
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from implicit_accel.errors import UserError
from implicit_accel.experiments.stopping import Stopped, stop_on_signals
from implicit_accel.files import printable
from implicit_accel.intervals import FEWEST
from implicit_accel.results import coordinate_label
from implicit_accel.statistics import bounded, compares_final
from implicit_accel.store.folder import CHECKPOINTS_FOLDER

EXIT_FAILURE = 1
EXIT_USAGE = 2

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")

# Of a file with flags, and how many of them are read for one command line.
_MAX_FLAGFILE_BYTES = 2**20
_MAX_FLAGFILES = 100

# Bytes of address space below which native libraries end the process, or hang, without a word that
# could be caught: OpenBLAS, LLVM. (Below a third of it they do so before this code runs.)
_LEAST_ADDRESS_SPACE = 2 * 10**9

# What is nobody's mistake when something is written outside the output folder.
_UNWRITABLE = (errno.ENOSPC, errno.EPIPE, errno.EDQUOT, errno.EIO)

# How systems and libraries say that one of the process's limits is reached; what to tell the user.
_LIMITS = (
    (
        ("too many open files", "errno = 24"),
        "too many open files: raise the limit (ulimit -n 1024), or use fewer --devices",
    ),
    (
        ("start new thread", "resource temporarily unavailable", "thread creation failed"),
        "no further thread can be started: raise the limit on processes (ulimit -u) or on memory "
        "(ulimit -v), or use fewer --devices",
    ),
    (
        (
            "resource_exhausted", "out of memory", "cannot allocate memory", "bad_alloc",
            "failed to map segment", "unable to allocate", "bad allocation",
        ),
        "memory is full: train fewer runs at once (--memory_limit, a smaller grid), or raise the "
        "limit on it (ulimit -v)",
    ),
)  # fmt: skip


class ProgramError(Exception):
    """Something outside failed that the user did not ask wrongly; one line, exit code 1."""


@dataclass
class FlagGroups:
    """A program's flags under headings, so that ``--help`` reads like documentation."""

    groups: dict[str, list[str]] = field(default_factory=dict)

    def add(self, heading: str, *holders: flags.FlagHolder) -> None:
        """Puts flags under a heading."""
        self.groups.setdefault(heading, []).extend(holder.name for holder in holders)

    def help(self, description: str, width: int = 88) -> str:
        """The whole help text."""
        lines = [description.strip(), ""]
        for heading, names in self.groups.items():
            lines += [f"{heading}:"]
            for name in names:
                flag = flags.FLAGS[name]
                lines.append(f"  --{name}{_default(flag.default)}")
                lines += textwrap.wrap(
                    str(flag.help), width, initial_indent="      ", subsequent_indent="      "
                )
            lines.append("")
        return "\n".join(lines)


def _default(value: object) -> str:
    if value is None or value == []:
        return ""
    shown = ",".join(value) if isinstance(value, list) else str(value)
    return f"  (default: {shown.lower() if isinstance(value, bool) else shown})"


def run(main: Callable[[], None], groups: FlagGroups, description: str) -> NoReturn:
    """Parses the command line and runs a program.

    Exit codes: 0 for success and ``--help``, 2 for bad input (one line on standard error, no
    traceback), 1 for a failure from outside (limits of the process among them: `limit_reached`),
    130 after Ctrl-C, 143 after SIGTERM. With fewer than 5 open files or 600 MB of address space the
    interpreter or a library ends before this code runs, and a native library that gets no memory or
    thread may end the process with a line of its own.

    Args:
        main: The program; it reads its flags and raises `UserError` for bad input.
        groups: The program's flags.
        description: What ``--help`` begins with.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file's name may hold bytes that are no text, a terminal may lack a character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if any(word in _HELP for word in sys.argv[1:]):
        _obeying_signals(lambda: print(groups.help(description)))
    try:
        check_flagfiles(sys.argv[1:])
        rest = flags.FLAGS(sys.argv)
    except UserError as error:
        _fail(str(error))
    except flags.Error as error:
        _fail(f"{str(error).strip()} (--help lists every flag)")
    if rest[1:]:
        _fail(
            f"unexpected {rest[1]!r}: flags are written --name=value, "
            "lists with commas and no spaces"
        )
    _obeying_signals(main)


def command(program: str) -> list[str]:
    """How this process was started: the program, as a user types it, and its flags."""
    started = list(sys.orig_argv)
    if "-m" in started[:-1]:
        module = started[started.index("-m") + 1]
        return [f"python -m {module}", *sys.argv[1:]]
    return [f"implicit-accel {program}", *sys.argv[1:]]


def _obeying_signals(main: Callable[[], None]) -> NoReturn:
    """Runs a program; what ends it becomes a line and an exit code."""
    stop_on_signals()
    try:
        check_address_space()
        main()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe is still an error
    except UserError as error:
        _fail(str(error))
    except ProgramError as error:
        _fail(str(error), EXIT_FAILURE)
    except Stopped as stopped:
        # Without taking the interpreter down: XLA's threads may be at work still, and crash then.
        with contextlib.suppress(OSError):  # nobody may be listening any more
            print(f"\n{stopped}", file=sys.stderr, flush=True)  # after the terminal's ^C
            print(end="", flush=True)
        os._exit(stopped.exit_code)
    except Exception as error:
        if (reached := limit_reached(error)) is not None:
            reason = f"{reached}. What was saved is kept: the same command goes on from there"
        elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
            reason = f"cannot write to {error.filename or 'standard output'}: {error.strerror}"
            _drop_output()
        elif isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
            reason = f"JAX: {error}"
        else:
            raise  # a defect of the program's: to be seen whole
        _fail(reason, EXIT_FAILURE)
    sys.exit(0)


def _drop_output() -> None:
    """Lets what is still to be written to standard output go nowhere, or it would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    # One line, and nothing that a terminal would obey, whatever file or flag it quotes.
    print("error: " + printable(" ".join(message.split()), 4000), file=sys.stderr)
    sys.exit(code)


def check_flagfiles(arguments: Sequence[str]) -> None:
    """Makes sure that absl can read the files of flags which these arguments name.

    It would read a device for ever, and files that name each other twice exponentially often.

    Args:
        arguments: The command line; lines of a file may name further ones.

    Raises:
        UserError: If one is no text file of bounded size, or there are too many.
    """
    waiting, num_read = list(_flagfiles(arguments)), 0
    while waiting:
        name = waiting.pop()
        num_read += 1
        if num_read > _MAX_FLAGFILES:
            raise UserError(
                f"--flagfile: over {_MAX_FLAGFILES} files are named; do any of them name each "
                f"other (the last was {name!r})?"
            )
        waiting += _flagfiles(_read_flagfile(name))


def _read_flagfile(name: str) -> list[str]:
    try:
        path = Path(name).expanduser()
        if not path.is_file():  # a device, a pipe or nothing at all
            raise UserError(f"--flagfile {name!r}: there is no such file")
        with path.open() as file:
            text = file.read(_MAX_FLAGFILE_BYTES + 1)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"--flagfile {name!r}: {error.strerror}") from None
    except (ValueError, RuntimeError):  # no text; a null character or ~nobody in the name
        raise UserError(f"--flagfile {name!r}: not a text file; write a flag a line") from None
    if len(text) > _MAX_FLAGFILE_BYTES or "\0" in text:
        raise UserError(
            f"--flagfile {name!r}: not a text file of at most {_MAX_FLAGFILE_BYTES} characters"
        )
    return text.splitlines()


def _flagfiles(arguments: Sequence[str]) -> Iterable[str]:
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=False):
        name, equals, value = argument.partition("=")
        if name in ("--flagfile", "-flagfile") and (value := value if equals else following):
            yield value.strip()


def check_address_space() -> None:
    """Makes sure that the process may have the address space that its libraries need.

    Raises:
        ProgramError: If it may not.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and allowed < _LEAST_ADDRESS_SPACE:
        raise ProgramError(
            f"this process may have {allowed:,} bytes of address space, at least "
            f"{_LEAST_ADDRESS_SPACE:,} are needed: raise the limit (ulimit -v)"
        )


def limit_reached(error: BaseException | None) -> str | None:
    """What to tell the user if an error says that a limit of the process's is reached, else None.

    Args:
        error: What was raised; what it was raised from counts as well.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return _LIMITS[-1][1]
        if isinstance(error, OSError | ImportError | RuntimeError):
            said = str(error).lower()
            for signs, advice in _LIMITS:
                if any(sign in said for sign in signs):
                    return advice
        error = error.__cause__
    return None


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


def parse_bytes(text: str) -> int:
    """Reads ``4GiB``, ``500MiB`` or a number of bytes.

    Raises:
        UserError: If the text is neither.
    """
    digits = text.rstrip("bBiIkKmMgG ")
    unit = text[len(digits) :].strip().lower()
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"--memory_limit: {text!r} is no size; write 4GiB or 500MiB") from None
    if size <= 0:
        raise UserError(f"--memory_limit: {text!r} must be above 0")
    return size


def host_memory() -> int:
    """Bytes of memory that this machine has; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with the rate and the time left; it appears at the first report."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=None, rate="")

    def report(done: int, total: int | None) -> None:
        bar.start()
        speed = bar.tasks[task].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        bar.update(task, completed=done, total=total, rate=rate)

    try:
        yield report
    finally:
        if bar.live.is_started:  # else there is nothing to clear
            bar.stop()


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and makes sure that it can be written; undoes what is empty on failure.

    Raises:
        UserError: If the folder cannot be made or written.
        ProgramError: If writing fails later on.
    """
    made: list[Path] = []
    try:
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        _remove_empty(made)
        if limit_reached(error):
            raise
        raise UserError(
            f"--output_dir {folder}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    try:
        yield
    except OSError as error:
        if limit_reached(error):
            raise
        place = error.filename2 or error.filename
        which = f" ({printable(str(place), 200)})" if place else ""
        raise ProgramError(
            f"--output_dir {folder}: {error.strerror or error}{which}. What was saved before is "
            "kept: once it can be written again, the same command goes on from there"
        ) from error
    finally:
        _remove_empty([folder / CHECKPOINTS_FOLDER, *made])


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables when its output goes to a file."""
    # No markup: square brackets are intervals, or part of somebody's file name.
    console = Console(stderr=stderr, highlight=False, markup=False)
    if console.is_terminal:
        return console
    return Console(stderr=stderr, highlight=False, markup=False, width=150)


def print_summary(table: pd.DataFrame, title: str, console: Console) -> None:
    """Prints the summary table and the answer in words."""
    base = _baseline_words(table)
    compared = (
        f"final excess loss of {base}\nover the model's " if compares_final(table)
        else f"speed-up over {base}\n"
    )  # fmt: skip
    shown = Table(title=title, title_justify="left", caption_justify="left")
    for name, justify in (
        ("model", "left"),
        ("best learning rate", "right"),
        ("final excess loss\n[quartiles]", "right"),
        ("steps to target\n[quartiles]", "right"),
        (f"{compared}{_spread_words(table)}", "right"),
        ("diverged at it, %\n[95 % interval]", "right"),
        ("diverged\nat all rates", "right"),
    ):
        shown.add_column(name, justify=justify, no_wrap=True)  # pyright: ignore[reportArgumentType]
    losses = table["loss_name"].tolist() if "loss_name" in table else [""] * len(table)
    for m, loss in enumerate(losses):
        if m and loss != losses[m - 1]:
            shown.add_section()
        shown.add_row(*_cells(table, m))
    shown.caption = " ".join([_what_was_run(table, losses), *_notes(table)])
    console.print(shown)
    for sentence in answers(table):
        console.print(sentence)


def _baseline_words(table: pd.DataFrame) -> str:
    """What models are compared with: ``depth 1``."""
    wanted = table.attrs.get("baseline", {})
    words = (coordinate_label(name, value) for name, value in wanted.items())
    return printable(", ".join(words)) or "a baseline"


def _what_was_run(table: pd.DataFrame, losses: Sequence[str]) -> str:
    seeds, steps = int(table["num_seeds"].iloc[0]), int(table["num_steps"].iloc[0])
    targets = dict.fromkeys(
        f"{loss} {target:.3g}".strip() for loss, target in zip(losses, table["target"], strict=True)
    )
    return (
        f"Medians over {seeds} seed{'s' if seeds > 1 else ''}, {steps:,} steps. "
        f"Target excess loss: {', '.join(targets)}."
    )


def _notes(table: pd.DataFrame) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    if set(table["grid_edge"]) != {""}:
        notes.append("* at the edge of the grid of learning rates: widen it.")
    reached = np.isfinite(table["steps_to_target"].to_numpy(float))
    if (reached & ~np.isfinite(table["final_excess"].to_numpy(float))).any():
        notes.append(
            "Final loss 'diverged': by the last step, after the target "
            "(--best_by stable avoids it)."
        )
    if np.any(table["final_excess"] <= table["resolution"]):
        notes.append("'<': smaller than the precision resolves.")
    if np.any(table["target"] < table["resolution"]):
        notes.append("The target is below what the precision resolves: use --precision float64.")
    return notes


def _cells(table: pd.DataFrame, m: int) -> list[str]:
    row = table.iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    if row["baseline"] == row["model"]:
        ratio = "1 (baseline)"
    elif pd.isna(value):
        ratio = "-"
    else:
        ratio = f"{bound} {value:.3g}".strip()
        if not bound and pd.notna(low):
            ratio += f"  {_spread(table, low, high)}"
    if pd.notna(row["best_learning_rate"]):
        rate = f"{row['best_learning_rate']:.3g}{' *' if row['grid_edge'] else ''}"
    else:
        lost = np.isinf(row["final_excess"]) and np.isinf(row["steps_to_target"])
        rate = "every rate diverges" if lost else "-"
    return [
        str(row["model"]),
        rate,
        _with_quartiles(row, "final_excess", "{:.3g}"),
        _with_quartiles(row, "steps_to_target", "{:.0f}"),
        ratio,
        _divergence(row),
        f"{row['num_diverged']} of {row['num_runs']}",
    ]


def _divergence(row: pd.Series) -> str:
    """The probability of divergence at the chosen rate: ``0 [0, 43], 5 later``."""
    ends = ("", "_low", "_high")
    share, low, high = (100 * float(row[f"diverged_share{end}"]) for end in ends)
    if not np.isfinite(share):
        return "-"
    later = int(row["num_diverged_later"])
    return f"{share:.3g} [{low:.2g}, {high:.2g}]" + (f", {later} later" if later else "")


def _is_range(table: pd.DataFrame) -> bool:
    """Whether comparisons come with the range over seeds, too few for an interval."""
    return int(table["num_seeds"].iloc[0]) < FEWEST


def _spread_words(table: pd.DataFrame) -> str:
    return "(range over seeds)" if _is_range(table) else "[95 % interval]"


def _spread(table: pd.DataFrame, low: float, high: float) -> str:
    """The ends as the table shows them: ``[3.9, 4.4]``, or ``(3.9 to 4.4)`` over few seeds."""
    ends = f"{low:.3g}", f"{high:.3g}"
    return f"({ends[0]} to {ends[1]})" if _is_range(table) else f"[{ends[0]}, {ends[1]}]"


def _interval(table: pd.DataFrame, m: int) -> tuple[float, float]:
    """The ends of the 95 % interval of a model's comparison with its baseline."""
    compared = "final_ratio" if compares_final(table) else "speed_up"
    return float(table[f"{compared}_low"].iloc[m]), float(table[f"{compared}_high"].iloc[m])


def _with_quartiles(row: pd.Series, name: str, form: str) -> str:
    def show(value: float) -> str:
        if value == float("inf"):
            return "never" if name == "steps_to_target" else "diverged"
        below = name == "final_excess" and value <= float(row["resolution"])
        return ("< " if below else "") + form.format(value)

    middle, low, high = (show(float(row[name + end])) for end in ("", "_q25", "_q75"))
    return middle if low == high == middle else f"{middle} [{low}, {high}]"


def answers(table: pd.DataFrame) -> list[str]:
    """The question answered in words: which model won, by how much, how surely.

    One sentence for each group of models that share a baseline. They are compared by what their
    learning rates were chosen by: steps to the target, or final excess losses.
    """
    sentences = []
    by_depth = table.attrs.get("baseline") == {"depth": 1}
    final = compares_final(table)
    for baseline, group in table.groupby("baseline", sort=False):
        others = group[group["model"] != baseline]
        if not baseline or others.empty:
            continue
        best = int(others["final_excess" if final else "steps_to_target"].astype(float).idxmin())  # pyright: ignore[reportArgumentType]
        verdict = (_final_verdict if final else _steps_verdict)(
            table, best, str(baseline), "deeper" if by_depth else "other"
        )
        at_edge = group[group["grid_edge"] != ""]["model"].tolist()
        note = (
            f"; not at their best rate (edge of the grid): {', '.join(at_edge)}" if at_edge else ""
        )
        sentences.append(f"→ {verdict}{note}.")
    return sentences


def _no_help(model: str, other: str) -> str:
    """How a sentence begins that says that no model is better than its baseline."""
    what = "depth does not help" if other == "deeper" else "the baseline is best"
    return f"{what}: the best {other} model, {model},"


def _between(table: pd.DataFrame, low: float, high: float) -> str:
    if pd.isna(low):
        return ""
    if _is_range(table):
        return f" ({low:.3g} to {high:.3g} over {table['num_seeds'].iloc[0]} seeds)"
    return f" (95 % interval {low:.3g} to {high:.3g})"


def _inverse(value: float) -> float:
    return 1 / value if value else float("inf")


def _steps_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """How the best other model's steps to the target compare with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    if pd.isna(value):
        return f"neither {baseline} nor any {other} model reached the target"
    if bound == ">":
        return f"{model} reached the target and {baseline} did not: at least {value:.3g}x faster"
    if bound == "<":
        return f"{baseline} reached the target and no {other} model did"
    if low <= 1 <= high:
        return (
            f"no clear difference: {model} is {value:.3g}x as fast as "
            f"{baseline}{_between(table, low, high)}"
        )
    if value >= 1:
        return f"{model} is {value:.3g}x faster than {baseline}{_between(table, low, high)}"
    return (
        f"{_no_help(model, other)} needs {1 / value:.3g}x the steps of {baseline}"
        f"{_between(table, _inverse(high), _inverse(low))}"
    )


def _final_verdict(table: pd.DataFrame, m: int, baseline: str, other: str) -> str:
    """How the best other model's final excess loss compares with its baseline's."""
    model = table["model"].iloc[m]
    value, bound = bounded(table, m)
    low, high = _interval(table, m)
    least = "at least " if bound else ""
    if pd.isna(value):
        return f"neither {baseline} nor any {other} model ends at a finite loss"
    if np.isinf(value):
        return f"{model} ends at a finite loss and {baseline} diverges"
    if value == 0:
        return f"{baseline} ends at a finite loss and every {other} model diverges"
    if not bound and low <= 1 <= high:
        return (
            f"no clear difference: {model} ends at an excess loss {_inverse(value):.3g}x that of "
            f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
        )
    if value >= 1:
        return (
            f"{model} ends at an excess loss {least}{value:.3g}x lower than {baseline}"
            f"{_between(table, low, high)}"
        )
    return (
        f"{_no_help(model, other)} ends at an excess loss {least}{1 / value:.3g}x higher than "
        f"{baseline}{_between(table, _inverse(high), _inverse(low))}"
    )
