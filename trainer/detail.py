"""What is left of the good images' detail: one line on the canvas, one on levels, before hours of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import crop
from edge_ad.images import read_image
from edge_ad.records import Roi
from trainer.data.grid import some

SMALLEST = 2  # pixels of the canvas that a defect should measure to be found
WORTH_SAYING = 0.25  # share of padding, and of stretching, that is told
WORTH_TILES = 1.4  # times as much detail must a finer grid keep: its tiles cost at least twice the compute
DARK = 32  # levels, an eighth of the range: images that use no others have lost their contrast
STRAY = 1e-4  # share of the pixels that may be hot or dead


def detail(image: Path, roi: Roi | None, layout: Layout, found: bool) -> str:
    """What becomes of an image, and of small defects on it.

    Where the grid was `found` by the good images, no other one is advised that does the same anew.

    Raises:
        DataError: the image cannot be read, or the ROI leaves it.
    """
    height, width = crop(read_image(image), roi).shape[:2]
    return f"{_where(height, width, layout.of(height, width), found)} {_smallest(height, width, layout, found)}"


def levels(good: Sequence[Path], roi: Roi | None) -> str | None:
    """That the good images are as dark as those of 12 bits in 16-bit files; None where they are not.

    Nothing is scaled: training and station must make the same of the same file.

    Raises:
        DataError: an image cannot be read, or the ROI leaves it.
    """
    counts = np.sum([_counts(crop(read_image(path), roi)) for path in some(good)], axis=0)
    up_to = np.cumsum(counts) / counts.sum()
    low, high = (int(level) for level in np.searchsorted(up_to, (STRAY, 1 - STRAY)))
    if high >= DARK:
        return None
    return (
        f"levels {low} to {high} of 255 are used: if the camera has 12 bits and the files have 16, scale by 16 before "
        "saving, on the station too; else raise the exposure"
    )


def _counts(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of each of the 256 levels, in all channels."""
    whole = np.ascontiguousarray(image)
    channels = [cv2.calcHist([whole], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    return np.asarray(np.sum(channels, axis=0), np.float64)


def scale(height: int, width: int, layout: Layout) -> tuple[float, float]:
    """Pixels of the image that one of the canvas is along each axis: (y, x)."""
    content = layout.content(height, width)
    return height / content.height, width / content.width


def finer(height: int, width: int, layout: Layout) -> Layout | None:
    """A grid that sees about twice the detail, none beyond the image's own; None where none sees much more.

    An axis gets more tiles only as far as it must shrink less. One that turns stays one that turns.
    """
    if layout.turns:
        height, width = sorted((height, width))  # as it lies
    coarse = max(scale(height, width, layout))
    wanted = max(1.0, coarse / 2)
    counts = [
        max(count, _tiles(ceil(size / wanted), tile, layout.overlap))
        for count, size, tile in zip(
            (layout.rows, layout.columns), (height, width), (layout.height, layout.width), strict=True
        )
    ]
    try:
        better = replace(layout, rows=counts[0], columns=counts[1])
    except ValueError:  # too many tiles, or an overlap that is too wide for them
        return None
    return better if coarse >= WORTH_TILES * _kept(height, width, better) else None


def _kept(height: int, width: int, layout: Layout) -> float:
    """Pixels of the image that one of the canvas is at most; no canvas shows less than one."""
    return max(1.0, *scale(height, width, layout))


def _tiles(canvas: int, tile: int, overlap: int) -> int:
    """How many cover a canvas along one axis."""
    return -(-(canvas - overlap) // max(1, tile - overlap))


def _where(height: int, width: int, layout: Layout, found: bool) -> str:
    full_height, full_width = layout.canvas
    content, (down, across) = layout.content(height, width), scale(height, width, layout)
    notes = [_tiled(layout)] if layout.tiles > 1 else []
    padding = 1 - content.height * content.width / (full_height * full_width)
    if padding > WORTH_SAYING:
        advice = "" if found else ": input.tiles with another grid would waste less"
        notes.append(f"{padding:.0%} of it padding{advice}")
    if max(down, across) > (1 + WORTH_SAYING) * min(down, across):
        notes.append(f"stretched by {max(down, across) / min(down, across):.1f}: input.fit: letterbox keeps the shape")
    said = f" ({'; '.join(notes)})" if notes else ""
    return f"images of {width} x {height} px, as the first is -> canvas of {full_width} x {full_height} px{said}."


def _tiled(layout: Layout) -> str:
    grid = f"{layout.rows} x {layout.columns} tiles of {layout.width} x {layout.height}"
    return f"{grid}, {layout.tiles} x the compute of one"


def _smallest(height: int, width: int, layout: Layout, found: bool) -> str:
    coarse = max(scale(height, width, layout))
    if round(coarse, 2) <= 1:
        return "No detail is lost."
    said = f"1 px of it is {coarse:.3g} px: a defect below {SMALLEST * coarse:.3g} px may be lost."
    better = finer(height, width, layout)
    if better is None or (found and better.rows == layout.rows):  # how many along the longer side was decided
        return said
    least = SMALLEST * _kept(height, width, better)
    cost = better.tiles / layout.tiles
    turns = ", turns: true" if better.turns else ""
    grid = f"input.tiles: {{rows: {better.rows}, columns: {better.columns}{turns}}}"
    return f"{said} {grid} would keep {least:.3g} px, at {cost:.2g} x the compute."
