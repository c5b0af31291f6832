"""A real browser for the tests of pages: Chromium, which no request leaves.

Where no Chromium is installed (Debian's package, ``$CHROMIUM``, or one on the path) these tests are
skipped; ``.ci/run`` installs one where it may.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

WIDE, NARROW = (1400, 900), (400, 800)


def find_chromium() -> str | None:
    """The browser to use; None if there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@dataclass
class Visit:
    """A page that is open, and what it did that it should not have.

    Attributes:
        page: Playwright's page.
        requests: Addresses that it asked for, less its own.
        errors: What it wrote to the console as an error, and exceptions that nobody caught.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Makes sure that nothing left the page and nothing failed."""
        assert self.requests == []
        assert self.errors == []


_running = contextlib.ExitStack()


@functools.cache
def _browser() -> Any:
    """Starts Chromium, which takes longer than most tests; `close` ends it."""
    driver = _running.enter_context(playwright.sync_playwright())
    # Root, as in containers, has no sandbox of Chromium's.
    return _running.enter_context(
        driver.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
    )


def close() -> None:
    """Ends Chromium, if it runs, and with it Playwright's event loop in this thread."""
    _running.close()
    _browser.cache_clear()


@contextlib.contextmanager
def visit(
    path: Path,
    *,
    size: tuple[int, int] = WIDE,
    fragment: str = "",
    dark: bool = False,
    javascript: bool = True,
    media: str = "screen",
) -> Iterator[Visit]:
    """Opens a file in Chromium, without a network; `Visit.check` is called at the end.

    Args:
        path: The page.
        size: Of the window, in pixels: width, height.
        fragment: Behind the address's ``#``.
        dark: Whether the user prefers dark colours.
        javascript: Whether scripts run.
        media: ``screen`` or ``print``.
    """
    address = path.resolve().as_uri()
    context = _browser().new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=javascript,
        accept_downloads=True,
    )
    try:
        page = context.new_page()
        page.emulate_media(media=media)
        opened = Visit(page)

        def asked(request: Any) -> None:
            if request.url.split("#")[0] != address and not request.url.startswith(
                ("data:", "blob:")
            ):
                opened.requests.append(request.url)

        page.on("request", asked)
        page.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.goto(address + (f"#{fragment}" if fragment else ""))
        yield opened
        opened.check()
    finally:
        context.close()
