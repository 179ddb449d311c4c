"""The path of one frame: pre-process, run the graph, decide; with the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_ad.config import RegionConfig
from edge_ad.core.decision import decide, not_inspected
from edge_ad.errors import DataError
from edge_ad.frames import FrameGraph
from edge_ad.records import Decision, Event, Frame, Missed, Roi, Scored, Shot, Thresholds

ROI_OUTSIDE_FRAME = "roi_outside_frame"


class Pipeline:
    """Frame in, event out.

    Attributes:
        thresholds: what to judge by; may be exchanged between two frames.
        anomaly_map: (h, w) of the last part's ROI, valid until the next one; None where the graph did not run.
    """

    def __init__(
        self,
        graph: FrameGraph,
        roi: Roi | None,
        regions: RegionConfig,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start uncalibrated; `clock_ns` is the clock of `captured_monotonic_ns`."""
        self.thresholds: Thresholds | None = None
        self.anomaly_map: NDArray[np.float32] | None = None
        self._graph = graph
        self._roi = roi
        self._regions = regions
        self._clock_ns = clock_ns

    def warm_up(self, frame_size: tuple[int, int] | None = None) -> None:
        """Do a part's work once, so that the first one does not pay for the engine's lazy set-up.

        Args:
            frame_size: (height, width) of the frames to come, None where it is not known; a ROI says it by itself.
        """
        self._graph.warm_up(frame_size if self._roi is None else (self._roi.h, self._roi.w))

    def step(self, shot: Shot) -> Event:
        """Inspect one part.

        Raises:
            BackendError: the engine failed; there is no result that could be trusted.
        """
        self.anomaly_map = None
        marks = [("", shot.captured_monotonic_ns), ("queue", self._clock_ns())]
        decision = self._judge(shot, marks)
        latency_ms = {marks[i][0]: (marks[i][1] - marks[i - 1][1]) / 1e6 for i in range(1, len(marks))}
        if shot.trigger is not None:
            latency_ms = {"trigger": (shot.captured_ns - shot.trigger.at_ns) / 1e6, **latency_ms}
        return Event(
            shot.camera,
            shot.frame_id,
            shot.part_id,
            shot.trigger,
            shot.captured_ns,
            decision,
            latency_ms,
            shot.resume_after,
        )

    def _judge(self, shot: Shot, marks: list[tuple[str, int]]) -> Decision:
        if isinstance(shot, Missed):
            return not_inspected(shot.reason)
        return self._judge_score(shot) if isinstance(shot, Scored) else self._inspect(shot, marks)

    def _judge_score(self, scored: Scored) -> Decision:
        """Decide on a recorded score: as on a map of that score throughout, so a defect is one region, the whole."""
        uniform = np.full((1, 1), scored.score, np.float32)
        return self._decide(scored.score, uniform, *self._graph.layout.canvas)

    def _inspect(self, frame: Frame, marks: list[tuple[str, int]]) -> Decision:
        """Decide on a frame; appends the end of each stage to `marks`."""
        try:
            self._graph.load(frame.image, self._roi)
        except DataError:
            return not_inspected(ROI_OUTSIDE_FRAME)
        marks.append(("pre", self._clock_ns()))
        output = self._graph.run_loaded()
        marks.append(("engine", self._clock_ns()))
        self.anomaly_map = output.anomaly_map()
        decision = self._decide(output.score(), self.anomaly_map, *frame.image.shape[:2])
        marks.append(("post", self._clock_ns()))
        return decision

    def _decide(self, score: float, anomaly_map: NDArray[np.float32], height: int, width: int) -> Decision:
        """Decide on a frame of so many pixels."""
        roi = self._roi or Roi(0, 0, width, height)
        regions = self._regions
        return decide(score, anomaly_map, self.thresholds, roi, regions.max_regions, regions.min_area_px)
