"""JPEGs as cameras save them: the pixels as the sensor lay, and how to turn them beside."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def jpeg(image: NDArray[np.uint8], orientation: int) -> bytes:
    """An (H, W, 3) BGR image as a JPEG with an EXIF orientation: 1 as it is, 3 half a turn, 6 a quarter."""
    _, data = cv2.imencode(".jpg", image)
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + bytes(4)
    segment = b"Exif\0\0" + tiff
    encoded = data.tobytes()
    return encoded[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + encoded[2:]
