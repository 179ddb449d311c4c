"""Pictures for people: what the graph saw, what it made of it, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.names import printable
from edge_ad.records import RawOutput, Region

Picture = NDArray[np.uint8]

_CAPTION_PX = 22
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def heat(anomaly_map: NDArray[np.float32]) -> Picture:
    """An (H, W) map in 0..1 in false colours, dark blue to dark red; (H, W, 3) BGR."""
    grey = np.clip(np.rint(anomaly_map * 255), 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_JET), np.uint8)


def captioned(picture: Picture, text: str) -> Picture:
    """A picture with a line of text above it."""
    bar = np.full((_CAPTION_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, printable(text), (4, 15), _FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])


def outlined(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """A copy of a picture with the border of an (H, W) mask drawn in green."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(picture.copy(), contours, -1, (0, 220, 0), 1), np.uint8)


def panel(image: NDArray[np.uint8], output: RawOutput, caption: str, mask: NDArray[np.bool_] | None = None) -> Picture:
    """Input, reconstruction, map and overlay of one image side by side.

    Args:
        image: (1, H, W, 3) uint8 RGB, the graph's input.
        output: the graph's output for it, N = 1.
        caption: one line of text above.
        mask: (H, W), the true defect, outlined in green on the input where known.
    """
    seen = np.ascontiguousarray(image[0, :, :, ::-1])
    normal = np.rint(output.reconstruction[0, :, :, ::-1] * 255).astype(np.uint8)
    colours = heat(output.anomaly_map[0])
    overlay = cv2.addWeighted(seen, 0.55, colours, 0.45, 0).astype(np.uint8, copy=False)
    first = seen if mask is None else outlined(seen, mask)
    titles = ("input", "reconstruction", "anomaly map", "overlay")
    row = np.hstack([captioned(p, t) for p, t in zip((first, normal, colours, overlay), titles, strict=True)])
    return captioned(row, caption)


def marked(image: NDArray[np.uint8], regions: Sequence[Region]) -> Picture:
    """A copy of an (H, W, 3) BGR frame with a box around each region."""
    picture: Picture = image.copy()
    for region in regions:
        corner = (region.x + region.w - 1, region.y + region.h - 1)
        cv2.rectangle(picture, (region.x, region.y), corner, (0, 0, 255), 2)
    return picture


def sheet(pictures: Sequence[Picture], columns: int) -> Picture:
    """Pictures in rows of `columns`, smaller ones and missing places filled up with white.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    padded = [np.full((height, width, 3), 255, np.uint8) for _ in range(len(pictures) + -len(pictures) % columns)]
    for place, picture in zip(padded, pictures, strict=False):
        place[: picture.shape[0], : picture.shape[1]] = picture
    return np.vstack([np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)])
