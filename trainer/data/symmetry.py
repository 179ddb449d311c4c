"""Which mirror images and turns of a good part are as good, found in the good images themselves.

A set that shows parts lying in any orientation, or a texture without direction, contains near twins of its own turned
images; a set of aligned parts does not. So each image is compared with its nearest other one, before and after it is
turned: where turning brings it no further from the others, it may be turned in training.

Images are turned as training turns them (`trainer.data.samples.vary`): a canvas that is not square keeps its shape, and
what comes in from beyond its border is its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # squared, the pixels of the images that are compared: shifts of a part by a few per cent hardly matter
FINE = 3  # times as many pixels along each axis have the images that are turned
QUERIES, OTHERS = 40, 400  # images that are turned; images that they are compared with
ANGLES = (33.0, 90.0, 137.0, 180.0, 251.0)
SETTLES = 0.7  # degrees: an image that is not turned is resampled as well
STRICT = 95  # percentile of the differences over an image: a turned inscription is small, and wrong
ALLOWED = 1.15  # of the distance to the nearest other image. Measured: 0.9 to 1.1 where turned, 1.3 and more where not
FEWEST = 12  # images: among fewer, the nearest other one is chance


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Ways to turn a good image that leave it a good one: mirrored left to right, top to bottom, at any angle."""

    left_right: bool = False
    top_bottom: bool = False
    any_angle: bool = False

    def __str__(self) -> str:
        names = ("mirrored left to right", "mirrored top to bottom", "at any angle")
        found = [name for name, holds in zip(names, astuple(self), strict=True) if holds]
        return ", ".join(found) or "none"


STRAIGHT = Symmetry()  # none at all


@dataclass(frozen=True, slots=True)
class Symmetries:
    """Of images that are at least as wide as tall, and of taller ones: a part that stands has other axes."""

    lying: Symmetry = STRAIGHT
    standing: Symmetry = STRAIGHT

    def of(self, height: int, width: int) -> Symmetry:
        """Of an image of so many pixels."""
        return self.standing if height > width else self.lying

    def __str__(self) -> str:
        if self.lying == self.standing:
            return str(self.lying)
        return f"{self.lying} (images that lie), {self.standing} (images that stand)"


def find_symmetries(good: Sequence[NDArray[np.uint8]]) -> Symmetries:
    """What good images, (H, W, 3) uint8 each, of one shape or of that and the same turned, say of their symmetry."""
    standing = [image for image in good if image.shape[0] > image.shape[1]]
    lying = [image for image in good if image.shape[0] <= image.shape[1]]
    if not lying or not standing:
        only = find_symmetry(lying or standing)
        return Symmetries(only, only)
    return Symmetries(find_symmetry(lying), find_symmetry(standing))


def find_symmetry(good: Sequence[NDArray[np.uint8]]) -> Symmetry:
    """The symmetry of good images of one shape, (H, W, 3) uint8 each; none where there are too few to tell."""
    if len(good) < FEWEST:
        return STRAIGHT
    chosen = good[:: -(-len(good) // OTHERS)]
    height, width = _coarse(*good[0].shape[:2])
    others = _shrunk(chosen, height, width)
    own = np.linspace(0, len(others) - 1, min(len(others), QUERIES)).astype(int)
    queries, fine = others[own], _shrunk([chosen[i] for i in own], FINE * height, FINE * width)
    everywhere, disc = np.ones((height, width), bool), _disc(height, width)

    def allowed(turned: Iterable[NDArray[np.float32]], straight: NDArray[np.float32], where: NDArray[np.bool_]) -> bool:
        base = _nearest(straight, others, own, where)
        ratios = [_nearest(images, others, own, where) / np.maximum(base, 1e-6) for images in turned]
        return float(np.median(ratios)) <= ALLOWED

    return Symmetry(
        left_right=allowed([queries[:, :, ::-1]], queries, everywhere),
        top_bottom=allowed([queries[:, ::-1]], queries, everywhere),
        any_angle=allowed([_turned(fine, angle) for angle in ANGLES], _turned(fine, SETTLES), disc),
    )


def _coarse(height: int, width: int) -> tuple[int, int]:
    """A size of the same shape, so that angles stay what they are, with about SIDE x SIDE pixels: (height, width)."""
    slope = math.sqrt(height / width)
    return max(1, round(SIDE * slope)), max(1, round(SIDE / slope))


def _shrunk(images: Iterable[NDArray[Any]], height: int, width: int) -> NDArray[np.float32]:
    """(N, height, width, 3), area averages."""
    size = (width, height)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]).astype(np.float32)


def _disc(height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that stay inside at any angle; along the shorter side all of them, as training shows them."""
    y, x = np.mgrid[:height, :width]
    distance = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
    return np.asarray(distance <= (max(height, width) / 2 - 1) ** 2)


def _turned(images: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """(N, FINE x h, FINE x w, 3) turned and shrunk, (N, h, w, 3)."""
    height, width = images.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    size, border = (width, height), cv2.BORDER_REFLECT_101
    turned = np.stack([cv2.warpAffine(image, matrix, size, borderMode=border) for image in images])
    return _shrunk(turned, height // FINE, width // FINE)


def _nearest(
    images: NDArray[np.float32], others: NDArray[np.float32], own: NDArray[np.intp], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Distance of each image to the nearest of the others but `own`, grey levels."""
    found = []
    for image, index in zip(images, own, strict=True):
        differences = np.abs(others - image).mean(axis=-1)[:, where]
        distances = np.percentile(differences, STRICT, axis=1)
        distances[index] = np.inf
        found.append(distances.min())
    return np.array(found)
