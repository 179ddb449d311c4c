"""Where the part is, from the good image alone: synthetic defects belong onto it, not beside it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BORDER = 0.02  # of the image's smaller side: what is taken for ground, if it is even
EVEN = 12.0  # grey levels: a ground whose colours spread wider is no ground but a texture
LEAST, MOST = 0.02, 0.98  # share of a foreground that can be believed


def foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The part on its ground; everything where no even ground surrounds it.

    The ground is what has the colour of the image's border and is connected to it. A hole in the part that shows the
    ground's colour stays part of it: a defect there would be one.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) bool, True on the part.
    """
    smooth = cv2.medianBlur(image, 5).astype(np.int16)
    ring = _ring(*image.shape[:2])
    border = smooth[ring]
    colour = np.median(border, axis=0)
    spread = 1.4826 * float(np.median(np.abs(border - colour).max(axis=1)))  # of a normal distribution, from its MAD
    if spread > EVEN:
        return np.ones(image.shape[:2], bool)
    alike = np.abs(smooth - colour).max(axis=2) <= max(EVEN, 4 * spread)
    _, labels = cv2.connectedComponents(alike.astype(np.uint8))
    outside = np.unique(labels[ring & alike])
    part = ~(alike & np.isin(labels, outside))
    return part if LEAST <= part.mean() <= MOST else np.ones(image.shape[:2], bool)


def _ring(height: int, width: int) -> NDArray[np.bool_]:
    """(height, width), True near the border."""
    size = max(1, round(BORDER * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[size:-size, size:-size] = False
    return ring
