"""MNIST or what stands in for it: what P6, F4 and S6 share."""

from __future__ import annotations

from implicit_accel.claims.context import Context
from implicit_accel.data.mnist import ImageData


def images_and_notes(lab: Context) -> tuple[ImageData, tuple[str, ...]]:
    """MNIST or its stand-in, and what a reader must know of it."""
    data = lab.mnist()
    notes = (
        ("MNIST is not here: generated images of strokes take its place.",)
        if data.is_stand_in
        else ()
    )
    return data, notes
