"""One frozen record per stage of the frame path; each says its shapes, types and units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["ok", "defect", "not_inspected"]
CameraPhase = Literal["opening", "online", "fault"]
Mode = Literal["run", "pause", "simulate"]  # inspect; take nothing for a part; play what `simulate` names instead


@dataclass(frozen=True, slots=True)
class Roi:
    """Region of interest in full-frame pixels; (x, y) is the top-left corner."""

    x: int
    y: int
    w: int
    h: int


NO_FRAME = 0  # the frame_id of a part of which there is no capture


@dataclass(frozen=True, slots=True)
class Trigger:
    """What asked for one capture, and what it says about the part.

    Attributes:
        trigger_id: names it; of those that wait, no two have the same.
        part_id, job_id, recipe_id: what was said about the part, to be said again with its result.
        expires_ns: a capture from then on is of no use: wall clock, nanoseconds since the epoch, UTC; None: see
            `trigger.timeout_s` of the configuration.
        at_ns: it came: wall clock, nanoseconds since the epoch, UTC.
    """

    trigger_id: str
    part_id: str | None = None
    job_id: str | None = None
    recipe_id: str | None = None
    expires_ns: int | None = None
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One capture of one camera.

    Attributes:
        camera: name of the camera in the station's configuration.
        frame_id: counts the captures of this camera, from 1; gaps are frames that were skipped.
        image: (H, W, 3) uint8, BGR as OpenCV delivers it, the full frame before any ROI.
        captured_ns: wall clock at capture, nanoseconds since the epoch, UTC.
        captured_monotonic_ns: monotonic clock at capture, nanoseconds; only differences mean anything.
        part_id: what the source calls the part; a file's name for folders.
        trigger: what asked for this capture, if something did.
        resume_after: the part_id that the source goes on after, once this part has its result; None: this part's.
    """

    camera: str
    frame_id: int
    image: NDArray[np.uint8]
    captured_ns: int
    captured_monotonic_ns: int
    part_id: str | None = None
    trigger: Trigger | None = None
    resume_after: str | None = None


@dataclass(frozen=True, slots=True)
class Missed:
    """A part that came by without a usable image: it still gets exactly one result, `not_inspected`.

    Attributes:
        camera, frame_id, captured_ns, captured_monotonic_ns, part_id, trigger, resume_after: as in `Frame`.
        reason: what the result will say ("unreadable").
    """

    camera: str
    frame_id: int
    captured_ns: int
    captured_monotonic_ns: int
    reason: str
    part_id: str | None = None
    trigger: Trigger | None = None
    resume_after: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A part whose score was recorded earlier (a simulation): it is judged without an image.

    Attributes:
        camera, frame_id, captured_ns, captured_monotonic_ns, part_id, trigger, resume_after: as in `Frame`.
        score: raw units.
    """

    camera: str
    frame_id: int
    captured_ns: int
    captured_monotonic_ns: int
    score: float
    part_id: str | None = None
    trigger: Trigger | None = None
    resume_after: str | None = None


Shot = Frame | Missed | Scored
"""What the capture thread hands over: one part each."""


@dataclass(frozen=True, slots=True)
class CameraState:
    """What a camera is doing; published whenever `state` or `detail` changes.

    Attributes:
        name: of the camera in the station's configuration.
        state: "opening" until the first frame or fault, "online", "fault" until the next frame.
        detail: one line that says why, for a fault; empty otherwise.
        since_ns: wall clock when `state` or `detail` last changed, nanoseconds since the epoch, UTC.
        frames: captures since the process started.
        skipped: of those, how many gave way to a newer frame.
    """

    name: str
    state: CameraPhase
    detail: str
    since_ns: int
    frames: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class RawOutput:
    """What the graph says about a batch of N images of H x W input pixels.

    Attributes:
        anomaly_map: (N, H, W) float32 in 0..1.
        score: (N,) float32, raw units.
        reconstruction: (N, H, W, 3) float32 in 0..1, RGB.
    """

    anomaly_map: NDArray[np.float32]
    score: NDArray[np.float32]
    reconstruction: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """A connected set of pixels above the pixel threshold, in full-frame pixels.

    Attributes:
        x, y, w, h: bounding box; (x, y) is the top-left corner.
        area: pixels of the full frame that the region covers.
        peak: the largest value of the anomaly map inside it, 0..1.
    """

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The calibration in force: alarm on score > image, mark pixels where map > pixel.

    Attributes:
        image: threshold of the score, raw units.
        pixel: threshold of the anomaly map, 0..1.
        record: number of the calibration record, so that a result can be traced to it.
    """

    image: float
    pixel: float
    record: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one frame.

    Attributes:
        verdict: "not_inspected" never means good.
        reason: why a part was not inspected ("uncalibrated", "outbox_full", ...); None otherwise.
        score: raw units; None where the graph did not run or gave no number.
        threshold: what the score was compared with; None where it was not.
        regions: largest first, capped; at least one for a defect.
        calibration: number of the calibration record that the threshold is from; None where uncalibrated.
    """

    verdict: Verdict
    reason: str | None
    score: float | None
    threshold: float | None
    regions: tuple[Region, ...] = ()
    calibration: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One inspected part on its way to the outbox: everything `result` will say but its `seq`.

    Attributes:
        camera, frame_id, part_id, trigger, captured_ns: copied from the frame. Without a frame, `frame_id` is NO_FRAME
            and `captured_ns` is when the trigger came.
        decision: the verdict and what it rests on.
        latency_ms: stage name -> milliseconds ("trigger", "queue", "pre", "engine", "post").
        resume_after: as in `Frame`.
    """

    camera: str
    frame_id: int
    part_id: str | None
    trigger: Trigger | None
    captured_ns: int
    decision: Decision
    latency_ms: dict[str, float] = field(default_factory=dict)
    resume_after: str | None = None
