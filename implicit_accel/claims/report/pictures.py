"""Figures as parts of a web page, as small as they can be without a loss that one sees."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Quality:
    """What is kept of a figure.

    Attributes:
        colours: How many, of a palette of its own.
        scale: Of its pixels along each side, at most 1.
    """

    colours: int
    scale: float

    def __str__(self) -> str:
        """What a reader should know."""
        if self.scale == 1:
            return f"Figures are kept in {self.colours} colours each, at full resolution."
        return (
            f"Figures are kept in {self.colours} colours each, at {100 * self.scale:.0f} % of "
            "their resolution, so that the page stays small; the files beside it are sharper."
        )


QUALITIES = (Quality(256, 1.0), Quality(64, 1.0), Quality(32, 0.75), Quality(16, 0.5))
"""From the best: figures lose colours and pixels, never a part."""


@dataclass(frozen=True)
class Picture:
    """A figure's address, which holds all of it, and its size in pixels."""

    address: str
    width: int
    height: int


def picture(path: Path, quality: Quality) -> Picture:
    """A figure's file as an address of its own.

    Args:
        path: Of a bitmap.
        quality: What is kept of it.
    """
    with Image.open(path) as opened:
        full = opened.convert("RGBA")
    flat = Image.new("RGB", full.size, "white")
    flat.paste(full, mask=full.getchannel("A"))
    width, height = (max(1, round(side * quality.scale)) for side in full.size)
    size = width, height
    smaller = flat if size == full.size else flat.resize(size, Image.Resampling.LANCZOS)
    # A palette keeps text and lines sharp, unlike a photograph's compression.
    few = smaller.quantize(quality.colours, dither=Image.Dither.NONE).convert("RGB")
    file = io.BytesIO()
    few.save(file, "WEBP", lossless=True, quality=80, method=4)
    data = base64.b64encode(file.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{data}", *full.size)
