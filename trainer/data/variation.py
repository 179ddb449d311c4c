"""How a good image may also look, and what a tile shows of that: the variation is one of the whole canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Box
from trainer.config import DataConfig
from trainer.data.symmetry import STRAIGHT, Symmetry, turn
from trainer.synthesis.foreground import foreground
from trainer.synthesis.sources import LEVELS, by_level

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Variation:
    """One way a good image may also look: small motion and light changes, and its mirror image.

    Attributes:
        matrix: (2, 3), from the image to the varied one.
        gain, offset: of each level, about the middle of the range.
        flips: whether it is mirrored top to bottom and left to right, after a box is cut.
    """

    matrix: NDArray[np.float64]
    gain: float
    offset: float
    flips: tuple[bool, bool]

    def moved(self, image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        """A box of the (H, W, 3) image, moved and lit; not mirrored yet."""
        if not np.allclose(self.matrix, [[1, 0, 0], [0, 1, 0]]):
            matrix = self.matrix.copy()
            matrix[:, 2] -= (box.left, box.top)
            size = (box.width, box.height)
            image = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101).astype(np.uint8)
        else:
            image = image[box.slices]
        if self.gain != 1 or self.offset != 0:
            image = by_level(image, (LEVELS - 127.5) * self.gain + 127.5 + self.offset)
        return image

    def mirrored(self, array: NDArray[Pixel]) -> NDArray[Pixel]:
        """A box of the image, or of what was found in it, (h, w, ...), as the mirror image has it."""
        down, across = self.flips
        return np.ascontiguousarray(array[:: -1 if down else 1, :: -1 if across else 1])


def draw_variation(
    height: int, width: int, config: DataConfig, rng: np.random.Generator, symmetry: Symmetry = STRAIGHT
) -> Variation:
    """A variation of an image of so many pixels; where the parts' `symmetry` allows it, also any turn, and mirrored."""
    reach = 180.0 if symmetry.any_angle else config.rotate_deg
    angle, zoom = rng.uniform(-1, 1) * reach, 1 + rng.uniform(-1, 1) * config.zoom
    matrix = turn(height, width, angle, zoom)
    matrix[:, 2] += rng.uniform(-1, 1, 2) * config.shift * np.array([width, height])
    gain, offset = 1 + rng.uniform(-1, 1) * config.contrast, 255 * rng.uniform(-1, 1) * config.brightness
    may_flip = (config.flip or symmetry.top_bottom, config.flip or symmetry.left_right)
    down, across = rng.integers(0, 2, 2) * may_flip
    return Variation(matrix, gain, offset, (bool(down), bool(across)))


@dataclass(frozen=True, slots=True)
class View:
    """A tile of a canvas as a variation shows it.

    Attributes:
        canvas: (H, W, 3) uint8, as it is.
        box: the tile, on the varied canvas.
        variation: of the whole canvas.
    """

    canvas: NDArray[np.uint8]
    box: Box
    variation: Variation

    def seen(self) -> NDArray[np.uint8]:
        """(box.height, box.width, 3) uint8."""
        return self.variation.mirrored(self.variation.moved(self.canvas, self.box))

    def part(self) -> NDArray[np.bool_]:
        """Where the part is, (box.height, box.width); looked for on the whole canvas, whose border shows the ground."""
        height, width = self.canvas.shape[:2]
        whole = self.variation.moved(self.canvas, Box(0, 0, height, width))
        return self.variation.mirrored(foreground(whole)[self.box.slices])
