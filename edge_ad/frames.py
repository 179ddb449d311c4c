"""A bundle's graph on whole frames: prepare, run, stitch. The one place for the daemon, calibration and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import Backend, TakesFrames
from edge_ad.bundle import Manifest
from edge_ad.core.layout import Box, Layout
from edge_ad.core.preprocess import crop, preprocess
from edge_ad.core.stitch import FrameOutput
from edge_ad.records import RawOutput, Roi


class FrameGraph:
    """Frame in, output out.

    Attributes:
        backend: runs the graph.
        layout: how a frame reaches it.
    """

    def __init__(self, backend: Backend, layout: Layout, top_k: int) -> None:
        """`top_k`: pixels whose mean is the score."""
        self.backend = backend
        self.layout = layout
        self._top_k = top_k
        self._frames: TakesFrames = backend if isinstance(backend, TakesFrames) else _OnTheCpu(backend, layout)
        self._laid, self._content = layout, Box(0, 0, *layout.canvas)  # of the frame that was loaded last

    def warm_up(self, size: tuple[int, int] | None = None) -> None:
        """Send a black picture the way of a frame, so that the first part does not pay for the engine's lazy set-up.

        Args:
            size: (height, width) of the pictures to come, each its frame's ROI; None where nobody knows: the canvas's.
                What a back-end sets up for one size, it sets up anew for another.

        Raises:
            BackendError: the engine failed.
        """
        self.run(np.zeros((*(size or self.layout.canvas), 3), np.uint8), None)

    def load(self, frame: NDArray[np.uint8], roi: Roi | None) -> None:
        """Take over a frame, (H, W, 3) uint8 BGR.

        Raises:
            DataError: the ROI leaves the frame.
            BackendError: the device failed.
        """
        height, width = crop(frame, roi).shape[:2]
        self._laid = self.layout.of(height, width)
        self._content = self._laid.content(height, width)
        self._frames.load(frame, roi)

    def run_loaded(self) -> FrameOutput:
        """Run the graph on the tiles of the frame that was loaded last.

        Raises:
            BackendError: the engine failed.
        """
        return FrameOutput(self._frames.run_loaded(), self._laid, self._content, self._top_k)

    def run(self, frame: NDArray[np.uint8], roi: Roi | None) -> FrameOutput:
        """Both at once.

        Raises:
            DataError, BackendError: as `load` and `run_loaded`.
        """
        self.load(frame, roi)
        return self.run_loaded()


def frame_graph(backend: Backend, manifest: Manifest) -> FrameGraph:
    """The graph of a bundle."""
    return FrameGraph(backend, manifest.input.frame_layout(), manifest.top_k)


class _OnTheCpu:
    """Prepares the frames of a back-end that wants them ready (implements `TakesFrames`)."""

    def __init__(self, backend: Backend, layout: Layout) -> None:
        self._backend = backend
        self._layout = layout
        self._tiles = np.zeros((layout.tiles, layout.height, layout.width, 3), np.uint8)

    def load(self, frame: NDArray[np.uint8], roi: Roi | None) -> None:
        """See `TakesFrames.load`."""
        self._tiles = preprocess(frame, roi, self._layout)

    def run_loaded(self) -> RawOutput:
        """See `TakesFrames.run_loaded`."""
        return self._backend.run(self._tiles)
