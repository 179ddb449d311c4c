"""Real defects as shapes: cut from ground-truth masks, turned, shrunk, thinned, and put onto other parts.

What `benchmarks.hard_parts` and `benchmarks.held_out` share. Masks are (H, W) bool, images (H, W, 3) uint8 BGR.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from skimage.morphology import skeletonize

from edge_ad.core.layout import Box
from edge_ad.errors import DataError
from trainer.synthesis.sources import overgrown

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LEAST_PX = 30  # of a component: what is smaller has no shape
SWEEPS = 200  # of the relaxation in `membrane`: enough for the patches of some 60 px that are pasted
FINE = 4  # lines are drawn so many times larger, and averaged
ON_PART = 0.98  # share of a shape that must lie on the part
TRIES = 200


@dataclass(frozen=True, slots=True)
class Component:
    """One connected defect of a mask file.

    Attributes:
        path: of the mask.
        mask: the defect alone, cut to its bounding box.
        x, y: where its bounding box begins in the whole mask, pixels.
        share: its area as a fraction of the whole image.
    """

    path: Path
    mask: Mask
    x: int
    y: int
    share: float


def components(paths: Iterable[Path]) -> list[Component]:
    """All 8-connected defects of mask files, but specks of fewer than `LEAST_PX` pixels.

    Raises:
        DataError: a mask cannot be read, or there is no defect in any.
    """
    found: list[Component] = []
    for path in paths:
        whole = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if whole is None:
            raise DataError(f"cannot decode the mask {path}")
        count, labels, stats, _ = cv2.connectedComponentsWithStats((whole > 0).astype(np.uint8), connectivity=8)
        for index in range(1, count):
            x, y, w, h, area = (int(value) for value in stats[index])
            if area >= LEAST_PX:
                found.append(Component(path, labels[y : y + h, x : x + w] == index, x, y, area / whole.size))
    if not found:
        raise DataError("the ground-truth masks hold no defect: choose another data set")
    return found


def masks_below(folder: Path) -> list[Path]:
    """The mask files of a `ground_truth` folder or of one class of it, sorted.

    Raises:
        DataError: there are none.
    """
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise DataError(f"no masks below {folder}: expected PNG files (MVTec layout)")
    return paths


def scaled(mask: Mask, factor: float) -> Mask:
    """A mask enlarged or shrunk; at least one pixel of it is left."""
    size = (max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    share = cv2.resize(mask.astype(np.float32), size, interpolation=method)
    return np.asarray(share >= min(0.5, float(share.max())))


def turned(mask: Mask, degrees: float) -> Mask:
    """A mask turned about its centre, in a new bounding box that holds all of it."""
    height, width = mask.shape
    side = int(np.ceil(np.hypot(height, width))) + 2
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    inside = cv2.warpAffine(mask.astype(np.float32), matrix, (side, side)) >= 0.5
    return _cut(inside) if inside.any() else mask


def _cut(mask: Mask) -> Mask:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return mask[y : y + h, x : x + w]


def centre_line(mask: Mask) -> Mask:
    """A mask thinned to lines of one pixel (Zhang and Suen 1984)."""
    return np.asarray(skeletonize(mask), bool)


def line_share(line: Mask, length_px: float, degrees: float, width_px: float) -> NDArray[np.float32]:
    """A thinned mask drawn anew: turned, as long as wanted, a line of `width_px` with smooth borders.

    Returns:
        (h, w) share of each pixel that the line covers, 0..1.
    """
    ys, xs = np.nonzero(line)
    points = np.stack([xs, ys], axis=1).astype(np.float64)
    points *= length_px / max(1.0, float(np.hypot(*np.ptp(points, axis=0))))
    angle = np.deg2rad(degrees)
    points = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points -= points.min(axis=0) - 2
    width, height = (int(np.ceil(extent)) + 3 for extent in points.max(axis=0))
    canvas = np.zeros((height * FINE, width * FINE), np.uint8)
    _join(canvas, points * FINE, np.stack([xs, ys], axis=1), max(1, round(width_px * FINE)))
    fine = cv2.GaussianBlur(canvas, (0, 0), 0.3 * FINE)
    return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255), np.float32)


def _join(canvas: NDArray[np.uint8], points: NDArray[np.float64], cells: NDArray[np.int64], thickness: int) -> None:
    """Draw strokes between points whose cells in the thinned mask touch."""
    at = {(int(x), int(y)): index for index, (x, y) in enumerate(cells)}
    for (x, y), index in at.items():
        for neighbour in ((x + 1, y), (x, y + 1), (x + 1, y + 1), (x - 1, y + 1)):
            if neighbour in at:
                ends = np.rint(points[[index, at[neighbour]]]).astype(int)
                cv2.line(canvas, tuple(ends[0].tolist()), tuple(ends[1].tolist()), 255, thickness)


def place(shape: Mask, part: Mask, rng: Generator) -> tuple[int, int] | None:
    """A random place, its top left corner (x, y), at which a shape lies on the part; None where none was found."""
    height, width = part.shape[0] - shape.shape[0], part.shape[1] - shape.shape[1]
    if height < 0 or width < 0:
        return None
    wanted = ON_PART * shape.sum()
    for _ in range(TRIES):
        x, y = int(rng.integers(0, width + 1)), int(rng.integers(0, height + 1))
        if (part[y : y + shape.shape[0], x : x + shape.shape[1]] & shape).sum() >= wanted:
            return x, y
    return None


def place_at_border(shape: Mask, part: Mask, rng: Generator) -> tuple[int, int]:
    """A random place, its top left corner (x, y), at which the part's border runs through a shape's middle.

    The frame ends a part too, so some of the shape may lie outside of it: `laid` cuts that off.
    """
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    rows, columns = np.nonzero(part & (inner == 0))
    chosen = int(rng.integers(len(rows)))
    return int(columns[chosen]) - shape.shape[1] // 2, int(rows[chosen]) - shape.shape[0] // 2


def laid(cover: NDArray[np.float32], corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """A (h, w) cover with its top left corner at (x, y) of a frame of (height, width); what lies outside is cut off."""
    lies, frame = Box(corner[1], corner[0], *cover.shape), Box(0, 0, *size)
    whole = np.zeros(size, np.float32)
    whole[lies.within(frame).slices] = cover[frame.within(lies).slices]
    return whole


def membrane(patch: NDArray[np.float32], mask: Mask) -> NDArray[np.float32]:
    """What lies under a mask replaced by the smoothest surface between its borders (Laplace's equation).

    The membrane interpolant of P. Perez, M. Gangnet, A. Blake, "Poisson Image Editing", SIGGRAPH 2003, equation 2,
    by Jacobi's iteration. (h, w, 3) in grey levels; the mask should not touch the patch's border.
    """
    filled = overgrown(np.clip(np.rint(patch), 0, 255).astype(np.uint8), mask).astype(np.float32)
    neighbours = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    inside = mask[..., None]
    filled = np.where(inside, filled, patch)
    for _ in range(SWEEPS):
        filled = np.where(inside, cv2.filter2D(filled, -1, neighbours, borderType=cv2.BORDER_REPLICATE), patch)
    return np.asarray(filled, np.float32)


def contrast(before: Image, after: Image, mask: Mask) -> float:
    """Mean change of the grey value under a mask, grey levels."""
    change = cv2.cvtColor(after, cv2.COLOR_BGR2GRAY).astype(np.float32) - cv2.cvtColor(before, cv2.COLOR_BGR2GRAY)
    return float(np.abs(change[mask]).mean())
