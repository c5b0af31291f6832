"""Ctrl-C during training: a request to save and stop, instead of an exception at any point."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT into a request; a second one raises KeyboardInterrupt at once.

    Where a program has a handler of its own, or outside the main thread, where Python allows none,
    nothing is changed.

    Yields:
        A function that returns whether a stop was requested.
    """
    requested = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            signal.default_int_handler(number, frame)
        requested = True

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
