"""Tiles along the longer side of elongated parts, found from the shapes of the good images.

A single square tile shrinks an elongated image by more along its longer side: a hairline across that side is less than
a pixel wide, while the other side is enlarged for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_ad.bundle import TileGrid
from edge_ad.core.layout import MAX_TILES
from edge_ad.core.preprocess import crop
from edge_ad.images import read_image
from edge_ad.records import Roi
from trainer.config import TrainConfig

UNEVEN = 1.4  # times as much may an image shrink along its longer side as along its shorter one
SHARE = 0.9  # of the images get as many tiles as they want: detail that is lost stays lost, a tile costs but time
LOOKED_AT = 64  # images


def with_grid(config: TrainConfig, good: Sequence[Path]) -> TrainConfig:
    """The configuration with the grid that the good images want, where it says that one is to be found.

    Tiles that are given stay, and so do ones that are not square: somebody has thought of a shape.

    Raises:
        DataError: an image cannot be read, or the ROI leaves it.
    """
    given = config.input
    if given.grid == "given" or given.tiles.layout(given.height, given.width, given.fit).tiles > 1:
        return config
    if given.height != given.width:
        return config
    roi = config.data.roi.record() if config.data.roi else None
    overlap = min(given.tiles.overlap, given.height // 2)
    counts = [tiles_along(*size, given.height, overlap) for size in _sizes(good, roi)]
    count = int(np.quantile(counts, SHARE, method="inverted_cdf"))
    if count == 1:
        return config
    tiles = TileGrid(rows=1, columns=count, overlap=overlap, turns=True)
    return config.model_copy(update={"input": given.model_copy(update={"tiles": tiles})})


def tiles_along(height: int, width: int, tile: int, overlap: int) -> int:
    """How many square tiles along the longer side of an image it takes, so that it shrinks about as the shorter one.

    The fewest of which the longer side shrinks by at most UNEVEN times as much as the shorter side, or hardly at all.
    """
    shorter, longer = sorted((height, width))
    allowed = UNEVEN * max(1.0, shorter / tile)
    for count in range(1, MAX_TILES):
        if longer <= allowed * (count * tile - (count - 1) * overlap):
            return count
    return MAX_TILES


def _sizes(good: Sequence[Path], roi: Roi | None) -> list[tuple[int, int]]:
    """(height, width) of some images, evenly taken."""
    chosen = good[:: -(-len(good) // LOOKED_AT)]
    shapes = (crop(read_image(path), roi).shape for path in chosen)
    return [(shape[0], shape[1]) for shape in shapes]
