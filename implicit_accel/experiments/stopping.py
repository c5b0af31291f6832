"""Stopping a program from outside without losing anything.

Usually a signal raises `Stopped`, and temporary files are removed on the way out.
While a compiled call runs, Python does not get to its signal handlers. So the signals' numbers go
through a pipe (`signal.set_wakeup_fd`) to a thread: the first asks for an orderly end at the next
occasion, a second ends the process at once, which is as safe as killing it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Somebody asked the program to end. Not an error: nothing but `cli.run` should catch it.

    Args:
        number: The signal.
        message: For the user.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


# Seconds after which a signal is sent again whose exception Python has dropped.
_AGAIN = 0.05


def stop_on_signals() -> None:
    """Makes SIGINT and SIGTERM raise `Stopped` from now on.

    Python drops what is raised in a finalizer or in a weak reference's callback, and goes on; the
    signal is then sent again until it is heard.
    """
    report_dropped = sys.unraisablehook

    def stop(number: int, _: FrameType | None) -> NoReturn:
        what = "interrupted" if number == signal.SIGINT else "terminated"
        raise Stopped(number, f"{what}: nothing that was saved is lost")

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            number = unraisable.exc_value.number
            # To the main thread, whose waiting it interrupts; raised here it would not.
            main = threading.main_thread().ident
            timer = threading.Timer(_AGAIN, signal.pthread_kill, (main, number))
            timer.daemon = True
            timer.start()
        else:
            report_dropped(unraisable)

    sys.unraisablehook = dropped
    for number in _SIGNALS:
        signal.signal(number, stop)


@dataclass
class StopRequest:
    """Whether an orderly end has been asked for.

    Attributes:
        number: The signal that asked; None before that.
        is_training: Whether there is something to save. Before that, a program is compiled, which
            may take minutes and looks at nothing: the first signal ends the process at once.
    """

    number: int | None = None
    is_training: bool = False

    def __call__(self) -> bool:
        """Whether it has."""
        return self.number is not None

    def raise_if_requested(self, message: str) -> None:
        """Ends the program if it has.

        Raises:
            Stopped: With this message.
        """
        if self.number is not None:
            raise Stopped(self.number, message)


@contextlib.contextmanager
def watched_signals(report: Callable[[str], object]) -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request, and makes the second end the process.

    Before training, the first ends it.

    Args:
        report: Called with a message at the first signal.
    """
    request = StopRequest()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] not in _SIGNALS:
                continue
            if request.number is not None:
                os._exit(128 + number[0])
            request.number = number[0]
            if not request.is_training:
                report("stopped before training: nothing is lost")
                os._exit(128 + number[0])
            report("stopping at the next checkpoint; once more ends at once, and is as safe")

    thread = threading.Thread(target=watch, daemon=True)
    # A handler of Python's own must be there, or the default action would end the process.
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    previous = signal.set_wakeup_fd(writing)
    thread.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writing)  # the reader's end of file
        thread.join()
        os.close(reading)
