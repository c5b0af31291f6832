"""Live progress bars, in a terminal or a notebook."""

from __future__ import annotations

import importlib.util
import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """What `run` takes as ``progress``: called with what is done and all there is, it shows a bar.

    It appears at the first report and rests when all is done; a report of further work begins anew.
    As a context manager, which `run` enters, it also rests when work is broken off, and shows what
    comes before the first report.

    Args:
        what: Written before the bar.
        before: Written before the bar until the first report; None to show none until then.
        console: Where it is shown: in the notebook's cell or on standard error by default.
        transient: Whether it disappears when it has come to rest.
        delay: Seconds in which reports show nothing.
    """

    def __init__(
        self,
        what: str = "training",
        *,
        before: str | None = "compiling …",
        console: Console | None = None,
        transient: bool = False,
        delay: float = 0.0,
    ) -> None:
        self._what, self._before = what, before
        self._console = console or Console(stderr=True, markup=False)
        self._transient = transient
        self._shown_from = time.monotonic() + delay
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Shows how far the work is.

        Args:
            done: Of what there is to do, e.g. run-steps.
            total: All of it; None if that is not known.
        """
        if time.monotonic() < self._shown_from:
            return
        bar = self._show(self._what)
        (task,) = bar.tasks
        bar.update(task.id, description=self._what)
        _advance(bar, task.id, done, total)
        if total is not None and done >= total:
            self.stop()

    def _show(self, what: str) -> Progress:
        if self._bar is None:
            self._bar = _started(self._console, transient=self._transient)
            _add(self._bar, what)
        return self._bar

    def stop(self) -> None:
        """Brings the bar to rest, at the latest report."""
        if self._bar is not None:
            # Of work that never began, nothing stays.
            self._bar.live.transient = self._transient or self._bar.tasks[0].total is None
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        if self._before is not None:
            self._show(self._before)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ProgressBars:
    """A bar for each of several things that are done at once; each disappears when it rests.

    To be used in a ``with`` statement, at whose end all disappear.

    Args:
        console: Where they are shown.
    """

    def __init__(self, console: Console) -> None:
        self._bars = _started(console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Shows how far something is.

        Args:
            what: Written before its bar.
            done: Of what there is to do.
            total: All of it; None if that is not known.
        """
        if what not in self._tasks:
            self._tasks[what] = _add(self._bars, what)
        _advance(self._bars, self._tasks[what], done, total)

    def rest(self, what: str) -> None:
        """Ends a bar, if there is one."""
        if what in self._tasks:
            self._bars.remove_task(self._tasks.pop(what))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def _started(console: Console, *, transient: bool) -> Progress:
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )
    bars.start()
    return bars


def _add(bars: Progress, what: str) -> TaskID:
    return bars.add_task(what, total=None, rate="")


def _advance(bars: Progress, task: TaskID, done: int, total: int | None) -> None:
    speed = bars.tasks[bars.task_ids.index(task)].speed
    bars.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")


# Seconds after which a call shows a bar by default.
_LASTING = 2.0


def default_bar(console: Console | None = None) -> ProgressBar | None:
    """The bar of calls that last, which disappears at their end; None where none can be shown.

    Args:
        console: Where it is shown, if that is a terminal, or a notebook with ipywidgets.
    """
    shown = Console(stderr=True, markup=False) if console is None else console
    # Without ipywidgets rich warns in a notebook instead of showing anything.
    if shown.is_jupyter:
        can_show = importlib.util.find_spec("ipywidgets") is not None
    else:
        can_show = shown.is_terminal
    if not can_show:
        return None
    return ProgressBar(before=None, console=shown, transient=True, delay=_LASTING)


def progress_bar(what: str = "training") -> ProgressBar:
    """A live bar for ``run_sweep(…, progress=progress_bar())``, in a terminal or a notebook.

    In a notebook it needs ipywidgets (``pip install "implicit-accel[notebook]"``).

    Args:
        what: Written before the bar.
    """
    return ProgressBar(what)
