"""What the graph's canvas keeps of an image's detail: one line before hours of training go into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import crop
from edge_ad.images import read_image
from edge_ad.records import Roi

SMALLEST = 2  # pixels of the canvas that a defect should measure to be found
WORTH_SAYING = 0.25  # share of padding, and of stretching, that is told


def detail(image: Path, roi: Roi | None, layout: Layout) -> str:
    """What becomes of an image, and of small defects on it.

    Raises:
        DataError: the image cannot be read, or the ROI leaves it.
    """
    height, width = crop(read_image(image), roi).shape[:2]
    return " ".join([_where(height, width, layout.of(height, width)), _smallest(height, width, layout)])


def scale(height: int, width: int, layout: Layout) -> tuple[float, float]:
    """Pixels of the image that one of the canvas is along each axis: (y, x)."""
    content = layout.content(height, width)
    return height / content.height, width / content.width


def finer(height: int, width: int, layout: Layout) -> Layout | None:
    """A grid that sees about twice the detail, none beyond the image's own; None where there is none.

    One that turns stays one that turns.
    """
    if layout.turns:
        height, width = sorted((height, width))  # as it lies
    counts = [
        max(count, _tiles(min(2 * canvas, max(canvas, size)), tile, layout.overlap))
        for count, canvas, size, tile in zip(
            (layout.rows, layout.columns), layout.canvas, (height, width), (layout.height, layout.width), strict=True
        )
    ]
    try:
        found = replace(layout, rows=counts[0], columns=counts[1])
    except ValueError:  # too many tiles, or an overlap that is too wide for them
        return None
    return found if found.tiles > layout.tiles else None


def _tiles(canvas: int, tile: int, overlap: int) -> int:
    """How many cover a canvas along one axis."""
    return -(-(canvas - overlap) // max(1, tile - overlap))


def _where(height: int, width: int, layout: Layout) -> str:
    full_height, full_width = layout.canvas
    content, (down, across) = layout.content(height, width), scale(height, width, layout)
    notes = [_tiled(layout)] if layout.tiles > 1 else []
    padding = 1 - content.height * content.width / (full_height * full_width)
    if padding > WORTH_SAYING:
        notes.append(f"{padding:.0%} of it padding: input.tiles with another grid would waste less")
    if max(down, across) > (1 + WORTH_SAYING) * min(down, across):
        notes.append(f"stretched by {max(down, across) / min(down, across):.1f}: input.fit: letterbox keeps the shape")
    said = f" ({'; '.join(notes)})" if notes else ""
    return f"images of {width} x {height} px, as the first is -> canvas of {full_width} x {full_height} px{said}."


def _tiled(layout: Layout) -> str:
    grid = f"{layout.rows} x {layout.columns} tiles of {layout.width} x {layout.height}"
    return f"{grid}, {layout.tiles} x the compute of one"


def _smallest(height: int, width: int, layout: Layout) -> str:
    coarse = max(scale(height, width, layout))
    if coarse <= 1:
        return "No detail is lost."
    said = f"1 px of it is {coarse:.1f} px: a defect below {SMALLEST * coarse:.0f} px may be lost."
    better = finer(height, width, layout)
    if better is None:
        return said
    least = SMALLEST * max(1.0, *scale(height, width, better))
    cost = better.tiles / layout.tiles
    turns = ", turns: true" if better.turns else ""
    grid = f"input.tiles: {{rows: {better.rows}, columns: {better.columns}{turns}}}"
    return f"{said} {grid} would keep {least:.0f} px, at {cost:.2g} x the compute."
