"""How a frame reaches the graph: fitted to a canvas of fixed size, which is cut into a fixed grid of tiles. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Fit = Literal["stretch", "letterbox"]

MAX_TILES = 64  # of a frame; model.pt2 takes no more images at a time


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels; (top, left) is its first one."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """For the first two axes of an array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def within(self, other: Box) -> Box:
        """What it shares with another, in pixels of the other; of no height or width where they share nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - top
        width = min(self.left + self.width, other.left + other.width) - left
        return Box(top - other.top, left - other.left, max(0, height), max(0, width))


@dataclass(frozen=True, slots=True)
class Layout:
    """The canvas of a graph and its tiles; a single tile is the whole canvas.

    Attributes:
        height, width: of the graph's input, and so of a tile, pixels.
        fit: "stretch" fills the canvas and does not keep the aspect ratio; "letterbox" keeps it, centred, and what is
            left of the canvas is padding.
        rows, columns: of the grid.
        overlap: pixels that neighbouring tiles share, at most half a tile: then no pixel is in more than two tiles of
            an axis. A defect that is no larger lies whole in one of them.
        turns: for a picture that is taller than wide rows and columns change places, so that the grid's longer side
            lies along the picture's (`of`). Tiles are then square, and columns no fewer than rows.

    Raises:
        ValueError: saying what does not fit.
    """

    height: int
    width: int
    fit: Fit = "stretch"
    rows: int = 1
    columns: int = 1
    overlap: int = 0
    turns: bool = False

    def __post_init__(self) -> None:
        if self.tiles > MAX_TILES:
            raise ValueError(f"tiles: {self.rows} x {self.columns} are more than {MAX_TILES}")
        for count, size in ((self.rows, self.height), (self.columns, self.width)):
            if count > 1 and 2 * self.overlap > size:
                raise ValueError(f"tiles: an overlap of {self.overlap} is more than half of a tile of {size} pixels")
        if self.turns and (self.height != self.width or self.rows > self.columns):
            raise ValueError("tiles: what turns has square tiles, and columns no fewer than rows")

    @property
    def tiles(self) -> int:
        """Of one frame: the N of the graph's input."""
        return self.rows * self.columns

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width), pixels; of one that turns: as it lies."""
        height = self.rows * self.height - (self.rows - 1) * self.overlap
        return height, self.columns * self.width - (self.columns - 1) * self.overlap

    def of(self, height: int, width: int) -> Layout:
        """The layout of a picture of so many pixels: one that does not turn any more."""
        if not self.turns:
            return self
        rows, columns = (self.columns, self.rows) if height > width else (self.rows, self.columns)
        return replace(self, rows=rows, columns=columns, turns=False)

    def boxes(self) -> tuple[Box, ...]:
        """The tiles on the canvas, row by row; together they cover it.

        Raises:
            ValueError: it turns, so that only the layout of a picture has them.
        """
        if self.turns:
            raise ValueError("a layout that turns has no places of its own: ask `of` first")
        y, x = self.height - self.overlap, self.width - self.overlap
        return tuple(
            Box(row * y, column * x, self.height, self.width)
            for row in range(self.rows)
            for column in range(self.columns)
        )

    def content(self, height: int, width: int) -> Box:
        """Where a picture of so many pixels lies on its canvas; the rest is padding."""
        full_height, full_width = self.of(height, width).canvas
        if self.fit == "stretch":
            return Box(0, 0, full_height, full_width)
        if height * full_width <= width * full_height:  # as wide as the canvas
            inner = (max(1, _rounded(height * full_width, width)), full_width)
        else:
            inner = (full_height, max(1, _rounded(width * full_height, height)))
        return Box((full_height - inner[0]) // 2, (full_width - inner[1]) // 2, *inner)

    def halved(self) -> Layout:
        """The same at half the size; all sizes must be even."""
        return replace(self, height=self.height // 2, width=self.width // 2, overlap=self.overlap // 2)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number, a half upwards."""
    return (2 * numerator + denominator) // (2 * denominator)
