"""Rules of image files: every way of being damaged is one line that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import DataError
from edge_ad.images import is_turned, list_images, read_image, refuse_mixed, write_png
from edge_ad.tiff import first_values
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


def tiff_file(pixels: np.ndarray, tags: dict[int, int], order: str, big: bool) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, C) pixels, with further tags."""
    height, width, *channels = pixels.shape
    samples = channels[0] if channels else 1
    bits = 8 * pixels.itemsize
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    start = 16 if big else 8
    known = {256: width, 257: height, 258: bits, 259: 1, 262: 2 if channels else 1, 273: start}
    known |= {277: samples, 278: height, 279: len(body)} | tags
    directory = start + len(body) + len(body) % 2
    per_sample = directory + (8 if big else 2) + len(known) * (20 if big else 12) + (8 if big else 4)
    entries = b""
    for tag, value in sorted(known.items()):
        kind, values, field = 3, 1, struct.pack(order + "H", value) if value < 65536 else b""
        if not field:
            kind, field = 4, struct.pack(order + "I", value)
        if tag == 258 and 2 * samples > (8 if big else 4):  # as many as there are samples, elsewhere
            values, field = samples, struct.pack(order + ("Q" if big else "I"), per_sample)
        elif tag == 258:
            values, field = samples, samples * field
        entries += struct.pack(order + ("HHQ8s" if big else "HHI4s"), tag, kind, values, field)
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, directory) if big else struct.pack(order + "HI", 42, directory)
    count, end = ("Q", "Q") if big else ("H", "I")
    written = mark + head + body + b"\0" * (len(body) % 2) + struct.pack(order + count, len(known)) + entries
    return written + struct.pack(order + end, 0) + samples * struct.pack(order + "H", bits)


every_tiff = pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])


@every_tiff
def test_a_tiff_with_straight_alpha_is_refused_unless_it_is_opaque(tmp_path: Path, order: str, big: bool) -> None:
    """OpenCV multiplies 8 bits by it."""
    pixels, path = np.full((6, 5, 4), 200, np.uint8), tmp_path / "part.tif"
    pixels[..., 3] = 255
    for alpha, extra, accepted in ((255, 2, True), (128, 2, False), (0, 2, False), (128, 1, True), (128, 0, True)):
        pixels[2, 3, 3] = alpha
        path.write_bytes(tiff_file(pixels, {338: extra}, order, big))
        if accepted:
            assert (read_image(path) == 200).all()
        else:
            with pytest.raises(DataError, match=rf"{path} is a TIFF whose alpha is not opaque: save it without alpha$"):
                read_image(path)
    path.write_bytes(tiff_file(pixels.astype(np.uint16) * 257, {338: 2}, order, big))
    assert (read_image(path) == 200).all()


@every_tiff
def test_a_tiff_of_16_bits_in_which_0_is_white_is_refused(tmp_path: Path, order: str, big: bool) -> None:
    pixels, path = np.full((6, 5), 40, np.uint8), tmp_path / "part.tif"
    for levels, white_is_0, read in ((pixels, 1, 40), (pixels, 0, 215), (pixels.astype(np.uint16) * 257, 1, 40)):
        path.write_bytes(tiff_file(levels, {262: white_is_0}, order, big))
        assert (read_image(path) == read).all()
    path.write_bytes(tiff_file(pixels.astype(np.uint16) * 257, {262: 0}, order, big))
    with pytest.raises(DataError, match="0 is white: save it with 0 as black"):
        read_image(path)


@given(
    st.sampled_from([("<", False), (">", False), ("<", True), (">", True)]),
    st.integers(0, 400),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=8),
)
def test_a_damaged_directory_says_nothing_or_less(
    form: tuple[str, bool], end: int, spoilt: list[tuple[int, int]]
) -> None:
    content = bytearray(tiff_file(np.zeros((2, 2, 4), np.uint8), {338: 2}, *form)[:end])
    for place, value in spoilt:
        if place < len(content):
            content[place] = value
    assert set(first_values(bytes(content), (262, 338))) <= {262, 338}
