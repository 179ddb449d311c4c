"""Rules of image files: every way of being damaged is one line that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.images import is_turned, list_images, read_image, refuse_mixed, write_png
from tests.disk import small_files
from tests.exif import jpeg


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


def test_an_image_that_finds_no_room_leaves_no_half_one_and_what_could_not_be_opened_is_left_alone(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    with small_files(9000), pytest.raises(OSError, match="File too large"):
        write_png(tmp_path / "part.png", noise)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_png(tmp_path / "folder.png", noise)
    assert (tmp_path / "folder.png").is_dir()


def test_16_bit_is_scaled_by_its_type_not_by_its_pixels(tmp_path: Path) -> None:
    """A dark 16-bit image stays dark: 257 is 1 of 255, however dark the rest is."""
    cv2.imwrite(str(tmp_path / "part.png"), np.full((4, 4), 257, np.uint16))
    image = read_image(tmp_path / "part.png")
    assert image.shape == (4, 4, 3)
    assert (image == 1).all()


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """A Mac puts ._000.png beside 000.png, file managers keep what was deleted as .trashed-000.png."""
    write_png(tmp_path / "000.png", np.zeros((4, 4), np.uint8))
    write_png(tmp_path / ".trashed-000.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "._000.png").write_bytes(b"\0\5\x16\7")
    assert list_images(tmp_path) == [tmp_path / "000.png"]


@pytest.mark.parametrize("left", [0, 1])
def test_links_that_lead_nowhere_are_named(left: int, tmp_path: Path) -> None:
    for i in range(left):
        write_png(tmp_path / f"b{i}.png", np.zeros((4, 4), np.uint8))
    for name in ("a0.png", "a1.png"):
        (tmp_path / name).symlink_to(f"/nowhere/{name}")
    with pytest.raises(DataError) as refused:
        list_images(tmp_path)
    said = f"2 of {2 + left} images are links that lead nowhere, the first is {tmp_path}/a0.png -> /nowhere/a0.png: "
    assert str(refused.value).startswith(said)


def test_links_to_images_are_images(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "b.png").symlink_to("a.png")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.png"]


def test_what_is_of_one_kind_has_the_shapes_that_are_read(tmp_path: Path) -> None:
    for i, kind in enumerate(((4, 6), (8, 5))):
        write_png(tmp_path / f"{i}.png", np.zeros(kind, np.uint8))
    assert refuse_mixed(list_images(tmp_path)) == [(4, 6), (8, 5)]
    write_png(tmp_path / "2.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"0.png is grey, .*2.png is colour"):
        refuse_mixed(list_images(tmp_path))


@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
def test_an_exif_orientation_is_seen(orientation: int, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    (tmp_path / "a.jpg").write_bytes(jpeg(image, orientation))
    assert is_turned(tmp_path / "a.jpg") == (orientation != 1)
    assert read_image(tmp_path / "a.jpg").shape[:2] == ((48, 32) if orientation == 6 else (32, 48))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_alpha_channel_changes_no_colour(tmp_path: Path, suffix: str, dtype: type[np.integer[Any]]) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (12, 9, 3)).astype(dtype) * (257 if dtype is np.uint16 else 1)
    alpha = rng.integers(1, np.iinfo(dtype).max, (12, 9, 1)).astype(dtype)
    path = tmp_path / f"part.{suffix}"
    assert cv2.imwrite(str(path), np.dstack([colours, alpha]).astype(dtype))
    assert np.array_equal(read_image(path), (colours // (257 if dtype is np.uint16 else 1)).astype(np.uint8))
