"""Stopping a program from outside without losing anything.

While a compiled call runs, Python does not get to its signal handlers. So the signals' numbers go
through a pipe (`signal.set_wakeup_fd`) to a thread: the first asks for an orderly end at the next
occasion, a second ends the process at once, which is as safe as killing it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Somebody asked the program to end. Not an error: nothing but `cli.run` should catch it.

    Args:
        number: The signal.
        message: What to tell the user.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def terminate(number: int, _: FrameType | None) -> NoReturn:
    """A handler that ends the program as Ctrl-C does: temporary files are removed."""
    raise Stopped(number, "terminated: nothing that was saved is lost")


@dataclass
class StopRequest:
    """Whether an orderly end has been asked for.

    Attributes:
        number: The signal that asked; None before that.
    """

    number: int | None = None

    def __call__(self) -> bool:
        """Whether it has."""
        return self.number is not None

    def obey(self, message: str) -> None:
        """Ends the program if it has.

        Raises:
            Stopped: With this message.
        """
        if self.number is not None:
            raise Stopped(self.number, message)


@contextlib.contextmanager
def watched_signals(report: Callable[[str], object]) -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request, and makes the second end the process.

    Args:
        report: Told that the first has been heard.
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
