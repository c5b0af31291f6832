"""MNIST or what stands in for it: what P6, F4 and S6 share."""

from __future__ import annotations

from implicit_accel.data.mnist import ImageData
from implicit_accel.experiments.claims.toolkit.laboratory import Laboratory


def images_and_notes(lab: Laboratory) -> tuple[ImageData, tuple[str, ...]]:
    """MNIST or its stand-in, and what a reader must know of it."""
    data = lab.mnist()
    notes = (
        ("MNIST is not here: generated images of strokes take its place.",)
        if data.is_stand_in
        else ()
    )
    return data, notes
