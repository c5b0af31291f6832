"""A live progress bar, in a terminal or a notebook."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """What `run` takes as ``progress``: called with what is done and all there is, it shows a bar.

    It appears at the first report and rests when all is done; a report of further work begins anew.
    As a context manager, which `run` enters, it also rests when work is broken off.

    Args:
        what: Written before the bar.
        console: Where it is shown: in the notebook's cell or on standard error by default.
        transient: Whether it disappears when it has come to rest.
    """

    def __init__(
        self, what: str = "training", *, console: Console | None = None, transient: bool = False
    ) -> None:
        self._what = what
        self._console = console or Console(stderr=True, markup=False)
        self._transient = transient
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Shows how far the work is.

        Args:
            done: Of what there is to do, e.g. run-steps.
            total: All of it; None if that is not known.
        """
        if self._bar is None:
            self._bar = self._started()
        (task,) = self._bar.tasks
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        self._bar.update(task.id, completed=done, total=total, rate=rate)
        if total is not None and done >= total:
            self.stop()

    def _started(self) -> Progress:
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=self._transient,
        )
        bar.add_task(self._what, total=None, rate="")
        bar.start()
        return bar

    def stop(self) -> None:
        """Brings the bar to rest, at the latest report."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def progress_bar(what: str = "training") -> ProgressBar:
    """A live bar for ``run_sweep(…, progress=progress_bar())``, in a terminal or a notebook.

    In a notebook it needs ipywidgets (``pip install "implicit-accel[notebook]"``).

    Args:
        what: Written before the bar.
    """
    return ProgressBar(what)
