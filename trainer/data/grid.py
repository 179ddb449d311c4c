"""Tiles along the longer side of elongated parts, found from the shapes of the good images.

A single square tile shrinks an elongated image by more along its longer side: a hairline across that side is less than
a pixel wide, while the other side is enlarged for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np

from edge_ad.bundle import TileGrid
from edge_ad.core.preprocess import crop
from edge_ad.images import read_image
from edge_ad.records import Roi
from trainer.config import TrainConfig

UNEVEN = Fraction(7, 5)  # times as much may an image shrink along its longer side as along its shorter one
SHARE = 0.9  # of the images get as many tiles as they want: detail that is lost stays lost, a tile costs but time
MOST = 8  # tiles: a frame costs as many times as much
LOOKED_AT = 64  # images

Image = TypeVar("Image")


def to_be_found(config: TrainConfig) -> bool:
    """Whether the good images are to say which tiles there are.

    Tiles that are given stay, and so do ones that are not square: somebody has thought of a shape.
    """
    given = config.input
    return given.grid == "found" and _is_single(given.tiles) and given.height == given.width


def with_grid(config: TrainConfig, good: Sequence[Path]) -> TrainConfig:
    """The configuration with the grid that the good images want, where it says that one is to be found.

    Raises:
        DataError: an image cannot be read, or the ROI leaves it.
    """
    if config.input.grid == "given":
        return config
    given, tiles = config.input, config.input.tiles
    if to_be_found(config):
        roi = config.data.roi_record()
        overlap = min(tiles.overlap, given.height // 2)
        counts = [tiles_along(*size, given.height, overlap) for size in _sizes(good, roi)]
        count = int(np.quantile(counts, SHARE, method="inverted_cdf"))
        if count > 1:
            tiles = TileGrid(rows=1, columns=count, overlap=overlap, turns=True)
    return _with_tiles(config, tiles)


def as_found(config: TrainConfig, tiles: TileGrid) -> TrainConfig:
    """The configuration with tiles that were found before, where it says that they are to be found."""
    could_be_found = _is_single(tiles) or tiles.turns
    if config.input.grid == "given":
        return config
    if not _is_single(config.input.tiles):  # which stay
        return _with_tiles(config, config.input.tiles)
    return _with_tiles(config, tiles) if could_be_found else config


def tiles_along(height: int, width: int, tile: int, overlap: int) -> int:
    """How many square tiles along the longer side of an image it takes, so that it shrinks about as the shorter one.

    The fewest of which the longer side shrinks by at most UNEVEN times as much as the shorter side, or hardly at all;
    no more than MOST. A letterbox wants as many as a stretched image: all of it shrinks as its longer side does.
    """
    shorter, longer = sorted((height, width))
    allowed = UNEVEN * max(tile, shorter)
    for count in range(1, MOST):
        if longer * tile <= allowed * (count * tile - (count - 1) * overlap):
            return count
    return MOST


def some(good: Sequence[Image]) -> Sequence[Image]:
    """LOOKED_AT images at most, evenly taken; paths or pixels."""
    return good[:: -(-len(good) // LOOKED_AT)]


def _is_single(tiles: TileGrid) -> bool:
    return tiles.rows * tiles.columns == 1


def _with_tiles(config: TrainConfig, tiles: TileGrid) -> TrainConfig:
    return config.model_copy(update={"input": config.input.model_copy(update={"tiles": tiles, "grid": "given"})})


def _sizes(good: Sequence[Path], roi: Roi | None) -> list[tuple[int, int]]:
    """(height, width) of some images."""
    shapes = (crop(read_image(path), roi).shape for path in some(good))
    return [(shape[0], shape[1]) for shape in shapes]
