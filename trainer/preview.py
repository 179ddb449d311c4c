"""A contact sheet of synthetic defects, to be looked at before hours of training go into them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.console import say, tracked
from edge_ad.core.layout import Layout
from edge_ad.images import write_png
from edge_ad.pictures import Picture, captioned, outlined, sheet
from trainer.config import TrainConfig
from trainer.data.folder import load_canvases, load_textures, split_good
from trainer.data.grid import with_grid
from trainer.data.samples import Samples
from trainer.detail import levels

COLUMNS = 4
COLOURS = ((0, 220, 0), (0, 128, 255))  # BGR


def preview(data: Path, config: TrainConfig, seed: int, count: int, out: Path) -> list[Path]:
    """Draw the first `count` synthetic defects of this seed at the size of the input, outlined in green.

    A training with this seed begins with just these. With `optim.half_size` it begins at half the size, where the draw
    is another, and is past these when it comes to the full size: they show what its defects are like, not which.

    Where an image is cut into tiles or padded, the grid is drawn on the first one too, beside `out`. Tells of images
    that are too dark. Returns the files.

    Raises:
        DataError: as in training: no images, an unreadable one, grey mixed with colour, or one that the ROI leaves.
    """
    roi = config.data.roi_record()
    split = split_good(data, config.data.hold_out, seed, roi)
    everything = split.good()
    config = with_grid(config, everything)
    layout = config.input.frame_layout()
    dark = levels(everything, roi)
    if dark is not None:
        say(dark)
    good = load_canvases(list(split.train), roi, layout, out.parent)
    samples = Samples(good, load_textures(config.synthesis.textures), config, seed, layout)
    parts = samples.parts_told()
    if parts is not None:
        say(parts)
    indices = samples.anomalous_indices(count)
    write_png(out, sheet([_drawn(samples, index) for index in tracked(indices, "preview")], COLUMNS))
    if layout.tiles == 1 and layout.fit == "stretch":
        return [out]
    grid = out.with_name(f"{out.stem}-grid.png")
    write_png(grid, _grid(good[0], layout.of(*good[0].shape[:2])))
    return [out, grid]


def _grid(canvas: NDArray[np.uint8], layout: Layout) -> Picture:
    """A canvas, RGB, with its tiles outlined, neighbours in different colours."""
    picture = np.ascontiguousarray(canvas[:, :, ::-1])
    for place, box in enumerate(layout.boxes()):
        colour = COLOURS[(place // layout.columns + place % layout.columns) % 2]
        cv2.rectangle(picture, (box.left, box.top), (box.left + box.width - 1, box.top + box.height - 1), colour, 1)
    return picture


def _drawn(samples: Samples, index: int) -> Picture:
    """The defect and, beside it, the same with its mask outlined."""
    _, image, mask = samples[index]
    picture = np.ascontiguousarray(image.numpy()[:, :, ::-1])
    share = float(mask.float().mean())
    return captioned(np.hstack([picture, outlined(picture, mask.numpy().astype(bool))]), f"{share:.2%} of the image")
