"""A test set as people's tools leave it: masks of every kind of PNG, hidden folders, files that do not fit."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.images import is_grey, read_image, refuse_mixed, write_png
from edge_ad.records import Roi
from tests.exif import jpeg
from tests.trainer.tiny import make_dataset, name_in_latin_1, part
from trainer.data.folder import TestImage, list_test, list_textures, load_mask

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

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(b"\0" + np.dstack([grey, opaque]).tobytes() for grey, opaque in zip(GREY, OPAQUE, strict=True))
    header = struct.pack(">IIBBBBB", *GREY.shape[::-1], 8, 4, 0, 0, 0)  # 8 bit, colour type 4: grey and alpha
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_alpha_beside_grey_marks_nothing_either(tmp_path: Path) -> None:
    assert np.array_equal(load_mask(_image(tmp_path, _png_grey_alpha), DEFECT.shape, None), DEFECT)


def test_grey_with_alpha_is_grey(tmp_path: Path) -> None:
    _png_grey_alpha(tmp_path / "0.png")
    write_png(tmp_path / "1.png", GREY)
    assert is_grey(tmp_path / "0.png")
    assert refuse_mixed(sorted(tmp_path.iterdir())) == [GREY.shape, GREY.shape]
    assert np.array_equal(read_image(tmp_path / "0.png"), read_image(tmp_path / "1.png"))


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


@pytest.mark.parametrize("name", ["000_mask.PNG", "000_mask.tif", "000_mask.BMP", "000.Tiff"])
def test_a_mask_is_found_whatever_its_suffix(name: str, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", n_test=1)
    (data / "ground_truth/hole/000_mask.png").unlink()
    cv2.imwrite(str(tmp_path / f"m{Path(name).suffix.lower()}"), GREY)
    mask = (tmp_path / f"m{Path(name).suffix.lower()}").rename(data / "ground_truth/hole" / name)
    (image,) = [image for image in list_test(data) if image.defect]
    assert image.mask == mask
    assert np.array_equal(load_mask(image, DEFECT.shape, None), DEFECT)


def test_a_png_is_taken_before_other_masks_and_a_jpeg_never(tmp_path: Path) -> None:
    """A JPEG's border is blurred, so more than the defect would be above 0."""
    data = make_dataset(tmp_path / "data", n_test=1)
    masks = data / "ground_truth/hole"
    for other in ("000_mask.bmp", "000_mask.jpg"):
        cv2.imwrite(str(masks / other), GREY)
    assert [image.mask for image in list_test(data) if image.defect] == [masks / "000_mask.png"]
    for other in ("000_mask.bmp", "000_mask.png"):
        (masks / other).unlink()
    assert [image.mask for image in list_test(data) if image.defect] == [None]


def test_names_that_are_no_utf_8_are_read_and_can_be_written(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", n_test=1)
    name_in_latin_1(data)
    (image,) = [image for image in list_test(data) if image.defect]
    assert load_mask(image, DEFECT.shape, None).any()
    assert image.label == r"L\udcf6cher"


def test_good_is_good_in_any_case(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    (data / "test/good").rename(data / "test/Good")
    assert [image.label for image in list_test(data) if not image.defect] == ["good"] * 3


def test_an_empty_class_says_what_to_do(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    (data / "test/crack").mkdir()
    with pytest.raises(DataError, match=r"no images in .*test/crack: put .* there, or remove the folder"):
        list_test(data)


def test_hidden_files_are_no_textures(tmp_path: Path) -> None:
    for folder in (tmp_path / "rust", tmp_path / ".thumbnails"):
        folder.mkdir()
        write_png(folder / "000.png", part(0))
    (tmp_path / "rust/._000.png").write_bytes(b"\0")
    assert list_textures(tmp_path) == [tmp_path / "rust/000.png"]


def test_a_mask_of_an_image_that_exif_turns_is_not_to_be_scaled(tmp_path: Path) -> None:
    image = TestImage(tmp_path / "000.jpg", "hole", tmp_path / "000_mask.png")
    image.path.write_bytes(jpeg(part(0)[:32], 6))
    write_png(tmp_path / "000_mask.png", GREY[:32])
    with pytest.raises(DataError, match="as its EXIF orientation turns it: turn the mask likewise"):
        load_mask(image, (48, 32), None)
    image.path.write_bytes(jpeg(np.ascontiguousarray(part(0)[:, :32]), 1))
    with pytest.raises(DataError, match="or scale it to the image's size"):
        load_mask(image, (48, 32), None)
