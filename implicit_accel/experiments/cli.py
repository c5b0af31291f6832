"""What the programs share: flags in groups, help, errors as one line, tables."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from absl import flags
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from implicit_accel import fields, summary
from implicit_accel.errors import ProgramError, UserError
from implicit_accel.experiments.stopping import Stopped, stop_on_signals
from implicit_accel.files import printable, printable_lines, remove_empty
from implicit_accel.progress import ProgressBar
from implicit_accel.statistics import BEST_BY

EXIT_FAILURE = 1
EXIT_USAGE = 2

_FORMATS = ("png", "pdf", "svg")

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")

# Of a file with flags, and how many of them are read for one command line.
_MAX_FLAGFILE_BYTES = 2**20
_MAX_FLAGFILES = 100

# Bytes of address space below which native libraries end the process, or hang, without a word that
# could be caught: OpenBLAS, LLVM. (Below a third of it they do so before this code runs.)
_LEAST_ADDRESS_SPACE = 2 * 10**9

# What is no mistake of the user's when something is written outside the output folder.
_UNWRITABLE = (errno.ENOSPC, errno.EPIPE, errno.EDQUOT, errno.EIO)

# How systems and libraries say that one of the process's limits is reached; advice for the user.
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


def run(
    main: Callable[..., None], groups: FlagGroups, description: str, *, takes: str = ""
) -> NoReturn:
    """Parses the command line and runs a program.

    Exit codes: 0 for success and ``--help``, 2 for bad input (one line on standard error, no
    traceback), 1 for a failure from outside (limits of the process among them: `limit_reached`),
    130 after Ctrl-C, 143 after SIGTERM. With fewer than 5 open files or 600 MB of address space the
    interpreter or a library ends before this code runs, and a native library that gets no memory or
    thread may end the process with a line of its own.

    Args:
        main: The program; it reads its flags and raises `UserError` for bad input. It is given the
            list of words that are no flags, if it takes any.
        groups: The program's flags.
        description: What ``--help`` begins with.
        takes: What a word that is no flag stands for; the program takes none unless given.
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
        check_repeated(sys.argv[1:])
    except UserError as error:
        _fail(str(error))
    except flags.Error as error:
        _fail(f"{str(error).strip()} (--help lists every flag)")
    if rest[1:] and not takes:
        _fail(
            f"unexpected {rest[1]!r}: flags are written --name=value, "
            "lists with commas and no spaces"
        )
    _obeying_signals((lambda: main(rest[1:])) if takes else main)


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
    except SystemExit:
        # No program ends in this way: a task's own code has, perhaps with the code of a success.
        _fail(
            "a task's code ended Python (sys.exit) before there were results: let it return, or "
            "raise an exception",
            EXIT_FAILURE,
        )
    except Stopped as stopped:
        # Without taking the interpreter down: XLA's threads may be at work still, and crash then.
        with contextlib.suppress(OSError):  # the reading end may be closed
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
    # One line, and no command to a terminal, whatever file or flag it quotes.
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
    except (ValueError, RuntimeError):  # no text; a null character or ~unknown in the name
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


def check_repeated(arguments: Sequence[str]) -> None:
    """Makes sure that the command line gives no flag twice, unless the flag collects its values.

    absl takes the last of several values. The command line may still override what is in a
    ``--flagfile``, which may be given several times.

    Args:
        arguments: The command line, which absl has parsed without an error.

    Raises:
        UserError: If it does.
    """
    given: dict[str, list[str]] = {}
    for flag, value in _flags_of(arguments):
        given.setdefault(flag.name, []).append(value)
    for name, values in given.items():
        flag = flags.FLAGS[name]
        if len(values) == 1 or isinstance(flag, flags.MultiFlag):
            continue
        times = "twice" if len(values) == 2 else f"{len(values)} times"
        if isinstance(flag.parser, flags.BaseListParser):
            items = [item for value in values for item in flag.parser.parse(value)]
            advice = f"write --{name} {','.join(dict.fromkeys(items))}"
        else:
            advice = f"give it once ({' or '.join(dict.fromkeys(values))})"
        raise UserError(f"--{name} is given {times}: {advice}")


def _flags_of(arguments: Sequence[str]) -> Iterator[tuple[flags.Flag, str]]:
    """The flags on a command line with their values, by the rules of absl's own parser."""
    known = flags.FLAGS
    words = iter(arguments)
    for word in words:
        if word == "--":
            return
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not word.startswith("-") or not name:
            continue
        if name in known and known[name].boolean:
            yield known[name], value if equals else "true"
        elif name in known or name in ("flagfile", "undefok"):
            value = value if equals else next(words, "")
            if name in known:
                yield known[name], value
        elif name.startswith("no") and name[2:] in known and known[name[2:]].boolean:
            yield known[name[2:]], "false"


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
    """Advice for the user if an error says that a limit of the process's is reached, else None.

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


class _FloatParser(flags.FloatParser):
    """absl's, which lets NaN pass every bound: comparisons with it are false."""

    def is_outside_bounds(self, val: float) -> bool:
        return math.isnan(val) or super().is_outside_bounds(val)


def define_float(
    name: str, default: float, help: str, lower_bound: float | None = None
) -> flags.FlagHolder:
    """The flag of a number; NaN is refused."""
    return flags.DEFINE(
        _FloatParser(lower_bound), name, default, help, serializer=flags.ArgumentSerializer()
    )


def define_formats() -> flags.FlagHolder:
    """The flag for the file formats of figures, to be read with `formats`."""
    return flags.DEFINE_list(
        "formats",
        ["png", "pdf"],
        f"File formats of figures: {', '.join(_FORMATS)}; or none: numbers alone, without figures "
        "and page.",
    )


def formats(flag: flags.FlagHolder) -> tuple[str, ...]:
    """The formats asked for, each once; empty for ``none``.

    Raises:
        UserError: If nothing is asked for, or one is unknown.
    """
    asked = tuple(dict.fromkeys(flag.value))
    if "none" in asked:
        if len(asked) > 1:
            raise UserError("--formats: none stands alone; leave it out to draw")
        return ()
    unknown = [name for name in asked if name not in _FORMATS]
    if unknown or not asked:
        raise UserError(
            f"--formats: {unknown or 'empty'}: choose from {', '.join(_FORMATS)}, or none"
        )
    return asked


def define_best_by() -> flags.FlagHolder:
    """The flag for what makes a learning rate the best."""
    return flags.DEFINE_enum(
        "best_by",
        BEST_BY[0],
        BEST_BY,
        "What makes a learning rate the best: fewest steps to the target among stable runs, which "
        "at the last step are at or below the target; the same among all runs, first to the "
        "target; or the smallest final excess loss.",
    )


def parse_bytes(text: str) -> int:
    """The value of ``--memory_limit``, see `fields.parse_bytes`.

    Raises:
        UserError: If the text is no size.
    """
    try:
        return fields.parse_bytes(text)
    except UserError as error:
        raise UserError(f"--memory_limit: {error}") from None


def host_memory() -> int:
    """Bytes of memory that this machine has; 8 GiB where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def progress_bar(console: Console, what: str, before: str | None = None) -> ProgressBar:
    """A bar that disappears when the work is done, to be used in a ``with`` statement.

    Args:
        console: Where it is shown.
        what: Written before it.
        before: The same until the first report; None to show none until then.
    """
    return ProgressBar(what, before=before, console=console, transient=True)


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
        remove_empty(*made)
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
        remove_empty(*made)


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables when its output goes to a file."""
    # No markup: square brackets are intervals, or part of somebody's file name.
    console = _Console(stderr=stderr, highlight=False, markup=False)
    if console.is_terminal:
        return console
    return _Console(stderr=stderr, highlight=False, markup=False, width=150)


class _Console(Console):
    """A console whose texts cannot give the terminal orders, wherever they come from."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)


# Columns of a summary that a narrow terminal goes without: the first of these first.
_LEFT_OUT_FIRST = (6, 5, 2, 1, 3)


def _summary_table(table: pd.DataFrame, columns: Sequence[int]) -> Table:
    """A summary with some of its columns, none of them cut."""
    shown = Table(title_justify="left", caption_justify="left")
    names = summary.columns(table)
    rows = [summary.cells(table, m) for m in range(len(table))]
    for n in columns:
        lines = [
            line for text in (names[n], *(row[n] for row in rows)) for line in text.split("\n")
        ]
        width = max(map(cell_len, lines))
        shown.add_column(names[n], justify="right" if n else "left", no_wrap=True, min_width=width)
    losses = table["loss_name"].tolist() if "loss_name" in table else [""] * len(table)
    for m, loss in enumerate(losses):
        if m and loss != losses[m - 1]:
            shown.add_section()
        shown.add_row(*(rows[m][n] for n in columns))
    return shown


def print_summary(table: pd.DataFrame, title: str, console: Console) -> None:
    """Prints the answer in words and the summary table.

    Columns that do not fit the console's width are left out, which the caption says; never the
    model's.
    """
    names = summary.columns(table)
    kept = list(range(len(names)))
    shown = _summary_table(table, kept)
    wide = console.options.update_width(10_000)  # a table is measured without being squeezed
    for column in _LEFT_OUT_FIRST:
        if Measurement.get(console, wide, shown).minimum <= console.width:
            break
        kept.remove(column)
        shown = _summary_table(table, kept)
    left_out = [names[n].replace("\n", " ") for n in range(len(names)) if n not in kept]
    notes = f" Too wide for this terminal: {'; '.join(left_out)}." if left_out else ""
    shown.title, shown.caption = title, summary.caption(table) + notes
    for sentence in summary.answers(table):
        console.print(f"→ {sentence}")
    console.print(shown)
