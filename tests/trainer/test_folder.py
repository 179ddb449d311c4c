"""A test set as people's tools leave it: masks of every kind of PNG, hidden folders, files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.images import write_png
from edge_ad.records import Roi
from tests.trainer.tiny import make_dataset, part
from trainer.data.folder import TestImage, list_test, load_mask

DEFECT = np.zeros((48, 48), bool)
DEFECT[10:20, 30:34] = True
GREY = DEFECT.astype(np.uint8) * 255
OPAQUE = np.full_like(GREY, 255)

KINDS: dict[str, NDArray[Any]] = {
    "grey": GREY,
    "labels": DEFECT.astype(np.uint8),
    "colour": np.dstack([np.zeros_like(GREY), np.zeros_like(GREY), GREY]),
    "colour with alpha": np.dstack([GREY, GREY, GREY, OPAQUE]),
    "16 bit": DEFECT.astype(np.uint16) * 65535,
    "16 bit whose low byte is 0": DEFECT.astype(np.uint16) * 256,
    "16 bit labels": DEFECT.astype(np.uint16),
    "16 bit colour with alpha": np.dstack([GREY, GREY, GREY, OPAQUE]).astype(np.uint16) * 256,
}


def _image(folder: Path, draw: Callable[[Path], object]) -> TestImage:
    """An image of 48 x 48 pixels and its mask."""
    image, mask = folder / "000.png", folder / "000_mask.png"
    write_png(image, part(0))
    draw(mask)
    return TestImage(image, "hole", mask)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_marks_the_same_pixels_whatever_kind_of_png_it_is(kind: str, tmp_path: Path) -> None:
    image = _image(tmp_path, lambda path: cv2.imwrite(str(path), KINDS[kind]))
    assert np.array_equal(load_mask(image, DEFECT.shape, None), DEFECT)
    assert np.array_equal(load_mask(image, DEFECT.shape, Roi(28, 8, 10, 6)), DEFECT[8:14, 28:38])


def _png_grey_alpha(path: Path) -> None:
    """A PNG of grey and alpha, which OpenCV reads but does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(b"\0" + np.dstack([grey, opaque]).tobytes() for grey, opaque in zip(GREY, OPAQUE, strict=True))
    header = struct.pack(">IIBBBBB", *GREY.shape[::-1], 8, 4, 0, 0, 0)  # 8 bit, colour type 4: grey and alpha
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_alpha_beside_grey_marks_nothing_either(tmp_path: Path) -> None:
    assert np.array_equal(load_mask(_image(tmp_path, _png_grey_alpha), DEFECT.shape, None), DEFECT)


@pytest.mark.parametrize("mask", [GREY[::2, ::2], GREY[:, :40], np.vstack([GREY, GREY])])
def test_a_mask_of_another_size_than_its_image_is_refused(mask: NDArray[np.uint8], tmp_path: Path) -> None:
    """Stretched, or cut with a ROI in the image's pixels, it would mark other pixels than were drawn."""
    image = _image(tmp_path, lambda path: write_png(path, mask))
    with pytest.raises(DataError) as refused:
        load_mask(image, DEFECT.shape, Roi(0, 0, 20, 20))
    said = str(refused.value)
    assert f"{image.mask} is {mask.shape[1]} x {mask.shape[0]} px, its image {image.path} is 48 x 48" in said
    assert "\n" not in said


def test_hidden_folders_are_no_class_of_defect(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    before = list_test(data)
    (data / "test/.ipynb_checkpoints").mkdir()
    (data / "test/.thumbnails").mkdir()
    write_png(data / "test/.thumbnails/000.png", part(0))
    assert list_test(data) == before


@pytest.mark.parametrize("hidden", [[], [".ipynb_checkpoints"]])
def test_a_test_folder_without_a_class_is_refused(hidden: list[str], tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for name in hidden:
        (tmp_path / "test" / name).mkdir()
    with pytest.raises(DataError, match=r"no folder in .*test: evaluation needs test/good and test/<defect>"):
        list_test(tmp_path)
