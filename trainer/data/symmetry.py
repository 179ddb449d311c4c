"""Which mirror images and turns of a good part are as good, found in the good images themselves.

A set that shows parts lying in any orientation, or a texture without direction, contains near twins of its own turned
images; a set of aligned parts does not. So each image is compared with its nearest other one, before and after it is
turned: where turning brings it no further from the others, it may be turned in training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the images that are compared: shifts of a part by a few per cent hardly matter
FINE = 3 * SIDE  # pixels of the images that are turned
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


def find_symmetry(good: NDArray[np.uint8]) -> Symmetry:
    """The symmetry of a set of good images, (N, H, W, 3) uint8; none where there are too few to tell."""
    if len(good) < FEWEST:
        return STRAIGHT
    chosen = good[:: -(-len(good) // OTHERS)]
    others = _shrunk(chosen, SIDE)
    own = np.linspace(0, len(others) - 1, min(len(others), QUERIES)).astype(int)
    queries, fine = others[own], _shrunk(chosen[own], FINE)
    everywhere, disc = np.ones((SIDE, SIDE), bool), _disc()

    def allowed(turned: Iterable[NDArray[np.float32]], straight: NDArray[np.float32], where: NDArray[np.bool_]) -> bool:
        base = _nearest(straight, others, own, where)
        ratios = [_nearest(images, others, own, where) / np.maximum(base, 1e-6) for images in turned]
        return float(np.median(ratios)) <= ALLOWED

    return Symmetry(
        left_right=allowed([queries[:, :, ::-1]], queries, everywhere),
        top_bottom=allowed([queries[:, ::-1]], queries, everywhere),
        any_angle=allowed([_turned(fine, angle) for angle in ANGLES], _turned(fine, SETTLES), disc),
    )


def _shrunk(images: NDArray[Any], side: int) -> NDArray[np.float32]:
    """(N, side, side, 3), area averages."""
    size = (side, side)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]).astype(np.float32)


def _disc() -> NDArray[np.bool_]:
    """The pixels that stay inside at any angle."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.asarray(y**2 + x**2 <= (SIDE / 2 - 1) ** 2)


def _turned(images: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """(N, FINE, FINE, 3) turned and shrunk, (N, SIDE, SIDE, 3)."""
    matrix = cv2.getRotationMatrix2D(((FINE - 1) / 2, (FINE - 1) / 2), degrees, 1.0)
    size, border = (FINE, FINE), cv2.BORDER_REFLECT_101
    return _shrunk(np.stack([cv2.warpAffine(image, matrix, size, borderMode=border) for image in images]), SIDE)


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
