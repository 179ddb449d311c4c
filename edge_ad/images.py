"""Image files: finding, reading and writing them, the same way everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad import tiff
from edge_ad.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PIXELS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR  # without alpha, turned as EXIF says


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name; hidden ones, which tools leave, are none.

    Raises:
        DataError: the folder is missing or holds no image, or a link in it leads nowhere.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    paths = image_files(folder.iterdir())
    if not paths:
        raise DataError(f"no images in {folder}: expected {', '.join(s[1:] for s in SUFFIXES)} files")
    return paths


def is_image(path: Path) -> bool:
    """By its name: the suffix is one of SUFFIXES, and it is not hidden, as what a tool left or has not finished."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that are image files, sorted.

    Raises:
        DataError: one is a link that leads nowhere.
    """
    named = sorted(filter(is_image, paths))
    lost = [path for path in named if path.is_symlink() and not path.exists()]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(named)} images are links that lead nowhere, the first is {lost[0]} -> "
            f"{lost[0].readlink()}: put back what they lead to, or remove the links"
        )
    return [path for path in named if path.is_file()]


def decode(path: Path, flags: int = PIXELS) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The pixels of a file: (H, W), or (H, W, 3) BGR.

    Args:
        path: of the file.
        flags: of `cv2.imdecode`; others may keep the alpha channel, or leave the pixels unturned.

    Raises:
        DataError: the file is missing, damaged, neither 8- nor 16-bit, or a TIFF that OpenCV alters.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread cannot tell "missing" from "not an image"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # a damaged header can claim more pixels than OpenCV allows
        image = None
    if image is None:
        raise DataError(f"cannot decode {path}: not an image, or damaged; remove it or save it again")
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} has {image.dtype} pixels: save it as 8- or 16-bit")
    if image.ndim == 3 and image.shape[2] == 3 and _is_grey_with_alpha(data):
        image = image[:, :, 0]  # three times the same, as OpenCV has no two channels
    if data[:4].tobytes() in tiff.BEGINNINGS:
        image = _of_tiff(path, data, image, flags)
    return image  # type: ignore[return-value]  # cv2 types every image as uint8


def _of_tiff(path: Path, data: NDArray[np.uint8], image: cv2.typing.MatLike, flags: int) -> cv2.typing.MatLike:
    """The colours as the file has them, without alpha.

    Raises:
        DataError: OpenCV inverts them, or has multiplied them by alpha.
    """
    said = tiff.first_values(data.tobytes(), (tiff.PHOTOMETRIC, tiff.EXTRA_SAMPLES))
    if image.dtype == np.uint16 and said.get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO:
        raise DataError(f"{path} is a 16-bit TIFF in which 0 is white: save it with 0 as black")
    whole = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if flags == PIXELS and image.ndim == 3 else None
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4:
        return image
    straight = said.get(tiff.EXTRA_SAMPLES) == tiff.STRAIGHT_ALPHA
    if straight and whole.dtype == np.uint8 and whole[:, :, 3].min() < 255:  # of 16 bits they are as they were
        raise DataError(f"{path} is a TIFF whose alpha is not opaque: save it without alpha")
    return np.ascontiguousarray(whole[:, :, :3])  # those of `image` are multiplied by alpha


def _is_grey_with_alpha(data: NDArray[np.uint8]) -> bool:
    """Whether the bytes are a PNG of colour type 4."""
    return data[:8].tobytes() == b"\x89PNG\r\n\x1a\n" and data.size > 25 and data[25] == 4


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8, BGR.

    16-bit files are scaled by 1/257 (65535 -> 255) whatever they hold: the scale depends on the declared type,
    never on the pixels. Grey is repeated to three channels.

    Raises:
        DataError: the file is missing, damaged, or neither 8- nor 16-bit.
    """
    image = decode(path)
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    return image.astype(np.uint8, copy=False)


def is_grey(path: Path) -> bool:
    """Whether the file stores one channel.

    Raises:
        DataError: as `read_image`.
    """
    return decode(path).ndim == 2


def is_turned(path: Path) -> bool:
    """Whether a file has an EXIF orientation that turns or mirrors its pixels.

    Raises:
        DataError: as `read_image`.
    """
    stored = decode(path, PIXELS | cv2.IMREAD_IGNORE_ORIENTATION)
    return not np.array_equal(decode(path), stored)


def refuse_mixed(paths: Iterable[Path]) -> list[tuple[int, ...]]:
    """Refuse a set of images in which grey and colour files are mixed; decodes each file once.

    Returns:
        The shape of each: (height, width), or (height, width, 3) of colour.

    Raises:
        DataError: naming one file of each kind, or the first unreadable one.
    """
    shapes: list[tuple[int, ...]] = []
    first_of_kind: dict[bool, Path] = {}
    for path in paths:
        shapes.append(decode(path).shape)
        first_of_kind.setdefault(len(shapes[-1]) == 2, path)
        if len(first_of_kind) == 2:
            raise DataError(
                f"grey and colour images are mixed: {first_of_kind[True]} is grey, {first_of_kind[False]} is colour; "
                "convert one kind"
            )
    return shapes


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """An (H, W[, 3]) uint8 BGR image as a PNG, losslessly.

    Raises:
        OSError: OpenCV cannot encode it.
    """
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise OSError(f"OpenCV cannot encode an image of {image.shape}")
    return data.tobytes()


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W[, 3]) uint8 BGR image losslessly.

    Raises:
        OSError: the file cannot be written; then there is none.
    """
    data = encode_png(image)
    file = path.open("wb")
    try:
        with file:
            file.write(data)
    except BaseException:  # after Ctrl-C too, half an image would lie among the whole ones
        path.unlink(missing_ok=True)
        raise
