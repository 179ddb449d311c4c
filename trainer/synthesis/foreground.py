"""Where the part is, from the good image alone: synthetic defects belong onto it, not beside it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

BORDER = 0.02  # of the image's smaller side: what is taken for ground, if it is even
MOST_OF_IT = 0.9  # of the border must have one colour: a texture has it in part, a part that leaves the image hides it
EVEN = 4  # grey levels that it may differ by
APART = 15  # levels from the ground's colour to the part: a plain whose light falls off by more is less even than EVEN
LEAST, MOST = 0.02, 0.98  # share of a foreground that can be believed


def foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The part on its ground; everything where no even ground surrounds it on all sides.

    The ground is what has the colour of the image's border and is connected to it, if nearly all of the border has one
    colour. A hole in the part that shows the ground's colour stays part of it: a defect there would be one.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) bool, True on the part.
    """
    smooth = cv2.medianBlur(image, 5).astype(np.int16)
    ring = _ring(*image.shape[:2])
    distance = np.abs(smooth - np.median(smooth[ring], axis=0)).max(axis=2)
    if (distance[ring] <= EVEN).mean() < MOST_OF_IT:
        return np.ones(image.shape[:2], bool)
    alike = distance <= APART
    _, labels = cv2.connectedComponents(alike.astype(np.uint8))
    outside = np.unique(labels[ring & alike])
    part = ~(alike & np.isin(labels, outside))
    return part if LEAST <= part.mean() <= MOST else np.ones(image.shape[:2], bool)


def parts_told(canvases: Sequence[NDArray[np.uint8]]) -> str:
    """In how many of these (H, W, 3) uint8 images the part is found, in a line for people."""
    found = sum(not foreground(canvas).all() for canvas in canvases)
    rest = "" if found == len(canvases) else "; in the others synthetic defects may lie anywhere (docs/diffusionad.md)"
    return f"foreground: the part is found in {found} of {len(canvases)} good images{rest}"


def _ring(height: int, width: int) -> NDArray[np.bool_]:
    """(height, width), True near the border."""
    size = max(1, round(BORDER * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[size:-size, size:-size] = False
    return ring
