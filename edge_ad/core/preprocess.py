"""From a camera frame to the graph's input: the ONE function that training, calibration and the daemon share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.errors import DataError
from edge_ad.records import Roi

MAX_HALVINGS = 3  # what the kernel of edge_ad/cuda does in one go


def crop(image: NDArray[np.uint8], roi: Roi | None) -> NDArray[np.uint8]:
    """The ROI of an (H, W, ...) image as a view; the whole image for None.

    Raises:
        DataError: the ROI leaves the image.
    """
    if roi is None:
        return image
    refuse_outside(roi, *image.shape[:2])
    return image[roi.y : roi.y + roi.h, roi.x : roi.x + roi.w]


def refuse_outside(roi: Roi | None, height: int, width: int, name: str = "") -> None:
    """Refuse a ROI that an image of so many pixels, of this name, does not hold.

    Raises:
        DataError: the ROI leaves the image.
    """
    if roi is not None and (roi.x + roi.w > width or roi.y + roi.h > height):
        image = f"{width}x{height} image {name}".rstrip()
        raise DataError(f"ROI {roi.w}x{roi.h}+{roi.x}+{roi.y} leaves the {image}: make `roi` fit the frames")


def halvings(source: tuple[int, int], target: tuple[int, int]) -> int:
    """How often an image of (height, width) pixels is halved exactly before it is shrunk to the target."""
    count = 0
    while count < MAX_HALVINGS and all(
        size % (2 << count) == 0 and size >> (count + 1) >= wanted for size, wanted in zip(source, target, strict=True)
    ):
        count += 1
    return count


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an (H, W[, 3]) uint8 image to (height, width[, 3]).

    Each axis by itself: shrinking averages areas, so that a thin defect fades but never falls between samples; growing
    is bilinear, and comes last. Exact halvings come first: OpenCV has them in vector code, and a frame of 1920 x 1080
    takes a third of the time. Each step rounds to a whole grey level.
    """
    for _ in range(halvings((image.shape[0], image.shape[1]), (height, width))):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    shrunk = (min(image.shape[0], height), min(image.shape[1], width))
    for size, method in ((shrunk, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=method).astype(np.uint8, copy=False)
    return image


def preprocess(
    image: NDArray[np.uint8], roi: Roi | None, layout: Layout, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Crop, fit to the canvas, reorder and cut into tiles: a frame for the graph.

    Args:
        image: (H, W, 3) uint8, BGR.
        roi: in pixels of `image`, or None for all of it.
        layout: the graph's canvas and tiles.
        out: where the result goes, of its shape and type; None for an array of its own.

    Returns:
        (layout.tiles, layout.height, layout.width, 3) uint8, RGB, contiguous. Scaling to 0..1 happens inside the graph.
    """
    canvas = on_canvas(image, roi, layout)
    tiles = np.empty((layout.tiles, layout.height, layout.width, 3), np.uint8) if out is None else out
    boxes = layout.of(*canvas.shape[:2]).boxes()  # a canvas lies as its image does
    for tile, box in zip(tiles, boxes, strict=True):
        cv2.cvtColor(canvas[box.slices], cv2.COLOR_BGR2RGB, dst=tile)
    return tiles


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An (H, W, 3) BGR image as a contiguous RGB one; OpenCV does it 30 times as fast as a copy of a reversed view."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def on_canvas(image: NDArray[np.uint8], roi: Roi | None, layout: Layout) -> NDArray[np.uint8]:
    """The ROI of an (H, W, 3) image, in the image's order of colours, on its canvas, `layout.of(...).canvas` + (3,).

    Padding repeats the outermost pixels: a constant would put an edge beside the part that no part has.
    """
    part = crop(image, roi)
    content = layout.content(*part.shape[:2])
    resized = resize(part, content.height, content.width)
    height, width = layout.of(*part.shape[:2]).canvas
    if (content.height, content.width) == (height, width):
        return resized
    below, right = height - content.top - content.height, width - content.left - content.width
    padded = cv2.copyMakeBorder(resized, content.top, below, content.left, right, cv2.BORDER_REPLICATE)
    return padded.astype(np.uint8, copy=False)


def shown(image: NDArray[np.uint8], roi: Roi | None, layout: Layout) -> NDArray[np.uint8]:
    """What the graph sees of a BGR image, padding left out: (1, h, w, 3) uint8 RGB, the pixels of the stitched map."""
    content = layout.content(*crop(image, roi).shape[:2])
    return _rgb(on_canvas(image, roi, layout)[content.slices])[None]
