"""From what the graph says about the tiles of a frame to what it says about the frame. Pure.

The score of a frame is the largest of its tiles', and its map is, at each pixel, the largest of the tiles' that show
it: so the map of a frame is nowhere below that of a tile, and a frame that is a defect by its score has a pixel above
the pixel threshold, as with a single tile. The reconstruction is for people: tiles fade linearly into each other.

Padding is no part of the frame. It is cut off the map, so no region can lie in it, and it does not count for the score:
where a tile shows padding, the mean of its `top_k` largest pixels is taken over the rest of its map. What remains is
that the graph sees padding beside the part's border, in training as on the station.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.core.layout import Box, Layout
from edge_ad.records import RawOutput


@dataclass(frozen=True, slots=True)
class FrameOutput:
    """What the graph says about one frame; (h, w) are the pixels of the ROI on the canvas.

    Attributes:
        tiles: the graph's output, N = layout.tiles.
        layout: the canvas of this frame and its tiles; it does not turn any more.
        content: where the ROI lies on the canvas.
        top_k: pixels whose mean is the score of a tile.
    """

    tiles: RawOutput
    layout: Layout
    content: Box
    top_k: int

    def score(self) -> float:
        """The largest of the tiles' scores, raw units; NaN if one is."""
        if self._is_one_tile():
            return float(self.tiles.score[0])
        scores = [self._tile_score(index, seen) for index, seen in enumerate(self._seen())]
        return float(np.max(np.asarray(scores, np.float32)))

    def anomaly_map(self) -> NDArray[np.float32]:
        """(h, w) in 0..1: at each pixel the largest of the tiles that show it."""
        if self._is_one_tile():
            return np.asarray(self.tiles.anomaly_map[0])
        canvas = np.zeros(self.layout.canvas, np.float32)
        for box, tile in zip(self.layout.boxes(), self.tiles.anomaly_map, strict=True):
            target = canvas[box.slices]
            np.maximum(target, tile, out=target)
        return np.ascontiguousarray(canvas[self.content.slices])

    def reconstruction(self) -> NDArray[np.float32]:
        """(h, w, 3) in 0..1, RGB: in an overlap the weight of a tile falls linearly towards its border."""
        if self._is_one_tile():
            return np.asarray(self.tiles.reconstruction[0])
        canvas = np.zeros((*self.layout.canvas, 3), np.float32)
        for box, tile in zip(self.layout.boxes(), self.tiles.reconstruction, strict=True):
            canvas[box.slices] += weights(box, self.layout)[..., None] * tile
        return np.ascontiguousarray(canvas[self.content.slices])

    def kth_largest(self) -> float:
        """The largest of the tiles' k-th largest map pixels, k = top_k: never above the score, beside rounding."""
        parts = [tile[seen.slices] for tile, seen in zip(self.tiles.anomaly_map, self._seen(), strict=True)]
        return max(float(_top(part, self.top_k)[0]) for part in parts)

    def joined(self) -> RawOutput:
        """The frame's output in the graph's own form, N = 1."""
        score = np.array([self.score()], np.float32)
        return RawOutput(self.anomaly_map()[None], score, self.reconstruction()[None])

    def _is_one_tile(self) -> bool:
        """The frame is what the graph saw, as it is."""
        return self.layout.tiles == 1 and (self.content.height, self.content.width) == self.layout.canvas

    def _seen(self) -> list[Box]:
        """What each tile shows of the frame, in pixels of the tile."""
        return [self.content.within(box) for box in self.layout.boxes()]

    def _tile_score(self, index: int, seen: Box) -> float:
        """The graph's own score; where the tile shows padding, the same mean over the rest of its map."""
        if (seen.height, seen.width) == (self.layout.height, self.layout.width):
            return float(self.tiles.score[index])
        part = self.tiles.anomaly_map[index][seen.slices]
        return float(_top(part, self.top_k).mean(dtype=np.float64))


def weights(box: Box, layout: Layout) -> NDArray[np.float32]:
    """Of a tile's pixels in the cross-fade: (height, width), above 0; those of all tiles add up to 1 at each pixel."""
    height, width = layout.canvas
    return np.outer(
        _ramps(box.height, layout.overlap, before=box.top > 0, after=box.top + box.height < height),
        _ramps(box.width, layout.overlap, before=box.left > 0, after=box.left + box.width < width),
    )


def _ramps(size: int, overlap: int, *, before: bool, after: bool) -> NDArray[np.float32]:
    """Weights along one axis: 1, but rising where a tile lies before it and falling where one lies after."""
    line = np.ones(size, np.float32)
    ramp = ((np.arange(overlap) + 0.5) / max(1, overlap)).astype(np.float32)
    if before:
        line[:overlap] = ramp
    if after:
        line[size - overlap :] = 1 - ramp
    return line


def _top(part: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k largest values, the smallest of them first; zeros stand in where there are fewer."""
    values = np.zeros(max(k, part.size), np.float32)
    values[: part.size] = part.ravel()
    return np.partition(values, values.size - k)[values.size - k :]
