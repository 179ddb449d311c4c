"""From a camera frame to the graph's input: the ONE function that training, calibration and the daemon share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.records import Roi


def crop(image: NDArray[np.uint8], roi: Roi | None) -> NDArray[np.uint8]:
    """The ROI of an (H, W, ...) image as a view; the whole image for None.

    Raises:
        DataError: the ROI leaves the image.
    """
    if roi is None:
        return image
    height, width = image.shape[:2]
    if roi.x + roi.w > width or roi.y + roi.h > height:
        raise DataError(
            f"ROI {roi.w}x{roi.h}+{roi.x}+{roi.y} leaves the {width}x{height} image: make `roi` fit the frames"
        )
    return image[roi.y : roi.y + roi.h, roi.x : roi.x + roi.w]


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an (H, W[, 3]) uint8 image to (height, width[, 3]).

    Shrinking averages areas, so that a thin defect fades but never falls between samples; growing is bilinear.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def preprocess(image: NDArray[np.uint8], roi: Roi | None, height: int, width: int) -> NDArray[np.uint8]:
    """Crop, resize and reorder a frame for the graph.

    Args:
        image: (H, W, 3) uint8, BGR.
        roi: in pixels of `image`, or None for all of it.
        height, width: the graph's input size, pixels.

    Returns:
        (1, height, width, 3) uint8, RGB, contiguous. Scaling to 0..1 happens inside the graph.
    """
    resized = resize(crop(image, roi), height, width)
    return np.ascontiguousarray(resized[None, :, :, ::-1])
