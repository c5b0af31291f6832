"""Checks the built documentation site: python -m tests.built_site build/docs.

Every link within it leads to a file and to an anchor in it; nothing that a page needs lies
elsewhere; and in a browser, where there is one, some pages of every kind show no error and do not
scroll sideways, wide and narrow, and have no serious fault in accessibility by axe.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests.browser import NARROW, WIDE, find_chromium

# Pages of every kind.
SHOWN = (
    "index.html", "tutorials/five_minutes.html", "howto/sweeps.html", "theory.html",
    "explanation/statistics.html", "api/intervals.html", "reference.html",
    "reproduction/REPORT.html", "reproduction/P3b/index.html",
)  # fmt: skip


class Page(HTMLParser):
    """What a page has and asks for.

    Attributes:
        anchors: Names behind a ``#``.
        links: Where a reader may go.
        needs: What a browser fetches to show it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.needs: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes note of an element."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag == "link" and "href" in given and given.get("rel") in ("stylesheet", "preload"):
            self.needs.add(given["href"])
        elif "src" in given:
            self.needs.add(given["src"])


def problems_of(site: Path) -> list[str]:
    """Links that lead nowhere, and what is asked for from elsewhere."""
    # What is in _static is the theme's own.
    files = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.relative_to(site).parts]
    pages = {path: Page(path) for path in files}
    if not pages:
        return [f"{site}: no pages"]
    found = []
    for path, page in pages.items():
        here = path.relative_to(site)
        for target in sorted(page.links | page.needs):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.needs and parts.scheme != "data":
                    found.append(f"{here} needs {target}")
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_file():
                found.append(f"{here} -> {target}: no such file")
            elif (
                parts.fragment
                and there in pages
                and (unquote(parts.fragment) not in pages[there].anchors)
            ):
                found.append(f"{here} -> {target}: no such anchor")
    return found


def shown_problems_of(site: Path, browser: str) -> list[str]:
    """What goes wrong in a browser, wide and narrow, light and dark."""
    found: list[str] = []
    with sync_playwright() as driver:
        # Root, as in containers, has no sandbox of Chromium's.
        chromium = driver.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        for number, (size, dark) in enumerate(((WIDE, False), (NARROW, True))):
            page = chromium.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if dark else "light",
            )
            page.on("console", lambda m: found.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: found.append(str(error)))
            page.on(
                "request",
                lambda r: None if r.url.startswith(("file:", "data:")) else found.append(r.url),
            )
            for place, name in enumerate(SHOWN):
                page.goto((site / name).resolve().as_uri())
                beyond = page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                if beyond > 0:
                    found.append(f"{name} at {size[0]} px: {beyond} px too wide")
                # Pages share a theme, and axe takes 25 s for the longest: each in one form.
                if place % 2 != number:
                    continue
                # By itself axe would ask for the style sheets again.
                ruled = Axe().run(page, options={"preload": False}).response["violations"]
                found.extend(
                    f"{name} at {size[0]} px: {rule['help']}: {rule['nodes'][0]['html'][:200]}"
                    for rule in ruled
                    if rule["impact"] in ("serious", "critical")
                )
        chromium.close()
    return found


def main() -> None:
    """Checks, prints, and ends with 1 if something is wrong."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs").resolve()
    found = problems_of(site)
    if (browser := find_chromium()) is not None and not found:
        found += shown_problems_of(site, browser)
    print("\n".join(found) or f"{site}: every link leads somewhere")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
