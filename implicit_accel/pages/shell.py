"""A web page that needs no other file: the document around its content."""

from __future__ import annotations

import base64

from implicit_accel.pages.explorer import read_asset, safe, script_element

# The page requests nothing, whatever the data in it hold. Vega makes
# functions of its own expressions.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; form-action 'none'; base-uri 'none'"
)


def picture(png: bytes, caption: str) -> str:
    """A bitmap with its caption, embedded in the page."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><img src="{address}" alt="{safe(caption)}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


def document(title: str, body: str, *, assets: str = "") -> str:
    """A whole page.

    Args:
        title: In the window's bar; text.
        body: HTML.
        assets: What its parts need once, as `explorer.assets` gives it.

    Returns:
        HTML with the project's style: dark where the reader prefers it, readable on a telephone,
        and with everything that is folded opened for printing.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{safe(title)}</title><style>{read_asset('page.css')}</style></head>"
        f"<body><main>{body}</main>{script_element(read_asset('page.js'))}{assets}</body></html>\n"
    )
