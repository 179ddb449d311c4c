"""Golden inputs: procedural pictures that anybody may have, in place of the user's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.synthesis.sources import procedural_texture

SEED = 20260101


def golden_images(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """(count, height, width, 3) uint8 RGB: textures, the last one with a bright and a dark patch on it."""
    rng = np.random.default_rng(SEED)
    images = np.stack([procedural_texture(height, width, rng) for _ in range(count)])
    h, w = height // 8, width // 8
    images[-1, 2 * h : 3 * h, 2 * w : 3 * w] = 255
    images[-1, 5 * h : 6 * h, 4 * w : 7 * w] = 0
    return images
