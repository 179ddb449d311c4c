"""The path of one frame: pre-process, run the graph, decide; with the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import Backend, TakesFrames
from edge_ad.bundle import InputSpec
from edge_ad.config import RegionConfig
from edge_ad.core.decision import decide, not_inspected
from edge_ad.core.preprocess import preprocess
from edge_ad.errors import DataError
from edge_ad.records import Decision, Event, Frame, Missed, RawOutput, Roi, Scored, Shot, Thresholds

ROI_OUTSIDE_FRAME = "roi_outside_frame"


class Pipeline:
    """Frame in, event out.

    Attributes:
        thresholds: what to judge by; may be exchanged between two frames.
        output: of the graph for the last part, valid until the next one; None where the graph did not run.
    """

    def __init__(
        self,
        backend: Backend,
        graph_input: InputSpec,
        roi: Roi | None,
        regions: RegionConfig,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start uncalibrated; `clock_ns` is the clock of `captured_monotonic_ns`."""
        self.thresholds: Thresholds | None = None
        self.output: RawOutput | None = None
        self._backend = backend
        self._frames: TakesFrames = backend if isinstance(backend, TakesFrames) else _OnTheCpu(backend, graph_input)
        self._input = graph_input
        self._roi = roi
        self._regions = regions
        self._clock_ns = clock_ns

    def warm_up(self) -> None:
        """Run the graph once, so that the first part does not pay for the engine's lazy set-up."""
        self._backend.run(np.zeros((1, self._input.height, self._input.width, 3), np.uint8))

    def step(self, shot: Shot) -> Event:
        """Inspect one part.

        Raises:
            BackendError: the engine failed; there is no result that could be trusted.
        """
        self.output = None
        marks = [("", shot.captured_monotonic_ns), ("queue", self._clock_ns())]
        decision = self._judge(shot, marks)
        latency_ms = {marks[i][0]: (marks[i][1] - marks[i - 1][1]) / 1e6 for i in range(1, len(marks))}
        if shot.trigger is not None:
            latency_ms = {"trigger": (shot.captured_ns - shot.trigger.at_ns) / 1e6, **latency_ms}
        return Event(shot.camera, shot.frame_id, shot.part_id, shot.trigger, shot.captured_ns, decision, latency_ms)

    def _judge(self, shot: Shot, marks: list[tuple[str, int]]) -> Decision:
        if isinstance(shot, Missed):
            return not_inspected(shot.reason)
        return self._judge_score(shot) if isinstance(shot, Scored) else self._inspect(shot, marks)

    def _judge_score(self, scored: Scored) -> Decision:
        """Decide on a recorded score: as on a map of that score throughout, so a defect is one region, the whole."""
        uniform = np.full((1, 1), scored.score, np.float32)
        return self._decide(scored.score, uniform, self._input.height, self._input.width)

    def _inspect(self, frame: Frame, marks: list[tuple[str, int]]) -> Decision:
        """Decide on a frame; appends the end of each stage to `marks`."""
        try:
            self._frames.load(frame.image, self._roi)
        except DataError:
            return not_inspected(ROI_OUTSIDE_FRAME)
        marks.append(("pre", self._clock_ns()))
        self.output = output = self._frames.run_loaded()
        marks.append(("engine", self._clock_ns()))
        decision = self._decide(float(output.score[0]), output.anomaly_map[0], *frame.image.shape[:2])
        marks.append(("post", self._clock_ns()))
        return decision

    def _decide(self, score: float, anomaly_map: NDArray[np.float32], height: int, width: int) -> Decision:
        """Decide on a frame of so many pixels."""
        roi = self._roi or Roi(0, 0, width, height)
        regions = self._regions
        return decide(score, anomaly_map, self.thresholds, roi, regions.max_regions, regions.min_area_px)


class _OnTheCpu:
    """Prepares the frames of a back-end that wants them ready (implements `TakesFrames`)."""

    def __init__(self, backend: Backend, graph_input: InputSpec) -> None:
        self._backend = backend
        self._size = (graph_input.height, graph_input.width)
        self._image = np.zeros((1, *self._size, 3), np.uint8)

    def load(self, frame: NDArray[np.uint8], roi: Roi | None) -> None:
        """See `TakesFrames.load`."""
        self._image = preprocess(frame, roi, *self._size)

    def run_loaded(self) -> RawOutput:
        """See `TakesFrames.run_loaded`."""
        return self._backend.run(self._image)
