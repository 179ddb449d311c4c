"""Rules of image files: every way of being damaged is one line that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.images import read_image, write_png


def huge_png() -> bytes:
    """A PNG whose header claims 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"text", huge_png()], ids=["empty", "text", "huge header"])
def test_a_damaged_image_is_a_data_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        read_image(path)


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "part.png", image)
    assert np.array_equal(read_image(tmp_path / "part.png"), image)


def test_16_bit_is_scaled_by_its_type_not_by_its_pixels(tmp_path: Path) -> None:
    """A dark 16-bit image stays dark: 257 is 1 of 255, however dark the rest is."""
    cv2.imwrite(str(tmp_path / "part.png"), np.full((4, 4), 257, np.uint16))
    image = read_image(tmp_path / "part.png")
    assert image.shape == (4, 4, 3)
    assert (image == 1).all()
