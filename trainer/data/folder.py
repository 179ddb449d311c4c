"""Image folders: MVTec layout (train/good, test/<defect>, ground_truth) or one plain folder of good images."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import crop, on_canvas, preprocess, refuse_outside
from edge_ad.errors import DataError
from edge_ad.images import decode, image_files, is_turned, list_images, read_image, refuse_mixed, sha256_file
from edge_ad.names import printable
from edge_ad.records import Roi

GOOD = "good"  # the label of images without a defect
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # JPEG blurs borders, and all above 0 counts
IN_MEMORY_BYTES = 8 << 30  # of the training images at their canvas' size


@dataclass(frozen=True, slots=True)
class Split:
    """The good images of a run: what is trained on and what is held out for calibration.

    Attributes:
        train, calibration: path -> SHA-256 of the file.
    """

    train: dict[Path, str]
    calibration: dict[Path, str]

    def good(self) -> list[Path]:
        """All of them, in an order that no seed decides."""
        both = self.train | self.calibration
        return sorted(both, key=both.__getitem__)


@dataclass(frozen=True, slots=True)
class TestImage:
    """One image of the test set.

    Attributes:
        path: of its file.
        label: `GOOD`, or the name of its class of defect as text that can be written anywhere.
        mask: None where the set has none, and for good images.
    """

    __test__ = False  # not a test class, whatever pytest thinks

    path: Path
    label: str
    mask: Path | None

    @property
    def defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.label != GOOD


def good_folder(data: Path) -> Path:
    """`train/good` of the MVTec layout, or the folder itself."""
    mvtec = data / "train" / "good"
    return mvtec if mvtec.is_dir() else data


def split_good(data: Path, hold_out: float, seed: int, roi: Roi | None = None) -> Split:
    """List, hash and split the good images; contents that occur twice are used once.

    Raises:
        DataError: no images, an unreadable one, grey mixed with colour, or one that the ROI leaves.
    """
    paths = list_images(good_folder(data))
    for path, (height, width, *_) in zip(paths, refuse_mixed(paths), strict=True):
        refuse_outside(roi, height, width, str(path))
    by_hash = {sha256_file(path): path for path in reversed(paths)}
    hashes = sorted(by_hash)  # by content, so that renaming files does not change the split
    order = np.random.default_rng([seed, 1]).permutation(len(hashes))
    n_held = round(hold_out * len(hashes)) if len(hashes) > 1 else 0
    held = {hashes[i] for i in order[:n_held]}
    train = {by_hash[h]: h for h in hashes if h not in held}
    if not train:
        raise DataError(f"nothing left to train on in {data}: {len(hashes)} images, hold_out {hold_out}")
    return Split(train, {by_hash[h]: h for h in sorted(held)})


def unseen_good(data: Path, trained_on: Collection[str]) -> dict[Path, str]:
    """Path -> SHA-256 of the good images whose contents are not among `trained_on`, each content once.

    Raises:
        DataError: no images, an unreadable one, grey mixed with colour, or none that is unseen.
    """
    paths = list_images(good_folder(data))
    refuse_mixed(paths)
    by_hash = {sha256_file(path): path for path in reversed(paths)}
    unseen = {path: digest for digest, path in by_hash.items() if digest not in trained_on}
    if not unseen:
        raise DataError(f"the network was trained on all {len(paths)} images of {data}: give RUN/calibration_split")
    return dict(sorted(unseen.items()))


def load_canvases(paths: Sequence[Path], roi: Roi | None, layout: Layout, scratch: Path) -> list[NDArray[np.uint8]]:
    """Read images and fit each to its canvas as the daemon would: N of (*layout.of(...).canvas, 3) uint8 RGB.

    Canvases of more than IN_MEMORY_BYTES lie in a file in `scratch` that has no name and is gone with the process: what
    of it is in memory is the system's to decide.

    Raises:
        DataError: an unreadable image, a ROI that leaves one, or no room for the file.
    """
    room, canvases = _room((len(paths), prod(layout.canvas) * 3), scratch), []
    for place, path in zip(room, paths, strict=True):
        fitted = on_canvas(read_image(path), roi, layout)
        canvases.append(place.reshape(fitted.shape))  # a turned canvas has as many pixels
        canvases[-1][:] = fitted[:, :, ::-1]
    return canvases


def _room(shape: tuple[int, ...], scratch: Path) -> NDArray[np.uint8]:
    """An array in memory, or, if it is large, in a file."""
    size = prod(shape)
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here, not as a signal later
            return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))
    except OSError as error:
        raise _no_room(size, scratch, error.strerror) from error


def refuse_no_room(count: int, layout: Layout, scratch: Path) -> None:
    """Refuse so many images whose file `load_canvases` could not make in `scratch`, which need not be there yet.

    Raises:
        DataError: there is no room for it.
    """
    size = count * prod(layout.canvas) * 3
    folder = next(place for place in (scratch.absolute(), *scratch.absolute().parents) if place.is_dir())
    if size > max(IN_MEMORY_BYTES, shutil.disk_usage(folder).free):
        raise _no_room(size, folder, os.strerror(errno.ENOSPC))


def _no_room(size: int, scratch: Path, why: str | None) -> DataError:
    return DataError(
        f"the images need {size / 1e9:.0f} GB at their canvas' size, and {scratch} cannot take them "
        f"({why}): make room, or choose fewer input.tiles (input.grid=given: one)"
    )


def load_tiles(paths: Sequence[Path], roi: Roi | None, layout: Layout, most: int | None = None) -> NDArray[np.uint8]:
    """Read images as the graph would see them: all their tiles, (N x layout.tiles, height, width, 3) uint8 RGB.

    They come in an order in which any first few of them are of many images and of many places; `most` are kept.

    Raises:
        DataError: an unreadable image, or a ROI that leaves one.
    """
    count, total = len(paths), len(paths) * layout.tiles
    tiles = np.empty((min(total, total if most is None else most), layout.height, layout.width, 3), np.uint8)
    for image, path in enumerate(paths[: len(tiles)]):
        cut = preprocess(read_image(path), roi, layout)
        for place, row in enumerate(range(image, len(tiles), count)):
            tiles[row] = cut[(image + place) % layout.tiles]
    return tiles


def list_test(data: Path) -> list[TestImage]:
    """The images below `test/`, with their masks where there are any; hidden folders, which tools leave, are no class.

    Raises:
        DataError: there is no test folder, no folder in it, or one without an image; or a link leads nowhere.
    """
    root = data / "test"
    needed = "evaluation needs test/good and test/<defect> (MVTec layout)"
    if not root.is_dir():
        raise DataError(f"no folder {root}: {needed}")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"no folder in {root}: {needed}")
    return [image for folder in folders for image in _list_class(folder, masks_folder(data) / folder.name)]


def masks_folder(data: Path) -> Path:
    """Where the MVTec layout has its masks."""
    return data / "ground_truth"


def _list_class(folder: Path, masks_in: Path) -> list[TestImage]:
    """The images of one folder below `test/`."""
    paths = image_files(folder.iterdir())
    if not paths:
        raise DataError(f"no images in {folder}: put the images of this class there, or remove the folder")
    if folder.name.lower() == GOOD:  # a class of defect `Good` would turn the figures round
        return [TestImage(path, GOOD, None) for path in paths]
    masks, label = _list_masks(masks_in), printable(folder.name)
    return [TestImage(path, label, masks.get(f"{path.stem}_mask") or masks.get(path.stem)) for path in paths]


def _list_masks(folder: Path) -> dict[str, Path]:
    """File name without its suffix -> mask; where it has several suffixes, the first of `MASK_SUFFIXES`."""
    paths = image_files(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path for suffix in reversed(MASK_SUFFIXES) for path in paths if path.suffix.lower() == suffix}


def load_mask(image: TestImage, size: tuple[int, int], roi: Roi | None) -> NDArray[np.bool_]:
    """The mask of a defect image of this (height, width), cut to the ROI; true where a colour of the file is above 0.

    Raises:
        DataError: the mask cannot be read or has another size, or the ROI leaves it.
    """
    if image.mask is None:
        raise ValueError(f"{image.path} has no mask")
    found = decode(image.mask)  # alpha is dropped: programs that save it make it opaque all over
    if found.shape[:2] != size:
        raise DataError(
            f"the mask {image.mask} is {_said(found.shape)} px, its image {image.path} is {_said(size)}"
            f"{_why_other(image.path, found.shape[:2], size)}"
        )
    marked = np.asarray(np.atleast_3d(found > 0).any(axis=2), np.uint8)
    return crop(marked, roi).astype(bool)


def _why_other(path: Path, mask: tuple[int, ...], size: tuple[int, int]) -> str:
    """What to do about a mask of another (height, width) than its image."""
    if mask == size[::-1] and is_turned(path):
        return " as its EXIF orientation turns it: turn the mask likewise, or save the image turned, without EXIF"
    return ": draw the mask on the image as it is, or scale it to the image's size"


def only_alpha(mask: Path) -> bool:
    """Whether an empty mask is drawn in its alpha channel.

    Raises:
        DataError: it cannot be read.
    """
    pixels = decode(mask, cv2.IMREAD_UNCHANGED)
    return pixels.ndim == 3 and pixels.shape[2] == 4 and pixels[:, :, 3].min() != pixels[:, :, 3].max()


def _said(size: tuple[int, ...]) -> str:
    """(height, width, ...) as people say it: width x height."""
    return f"{size[1]} x {size[0]}"


def load_textures(folder: Path | None) -> list[NDArray[np.uint8]]:
    """All images below a folder, at any depth, as (h, w, 3) uint8 RGB; none for None, and none that is hidden.

    Raises:
        DataError: the folder is missing or holds no image, or a link in it leads nowhere.
    """
    return [np.ascontiguousarray(read_image(path)[:, :, ::-1]) for path in list_textures(folder)]


def list_textures(folder: Path | None) -> list[Path]:
    """The files of `load_textures`.

    Raises:
        DataError: as `load_textures`.
    """
    if folder is None:
        return []
    below = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    paths = image_files(below) if folder.is_dir() else []
    if not paths:
        raise DataError(f"no texture images below {folder}: check synthesis.textures")
    return paths
