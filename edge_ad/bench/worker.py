"""One engine, measured in a process of its own, so that its start and its memory are its own.

    python -m edge_ad.bench.worker BUNDLE ENGINE WORKLOAD

ENGINE is a `BackendConfig`, WORKLOAD a `Workload`, both as JSON. The last line on standard output
is JSON: the measurement, or the reason why there is none.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.backends.base import open_backend
from edge_ad.bench.figures import STAGES, Workload
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.console import say
from edge_ad.errors import EdgeAdError
from edge_ad.frames import FrameGraph, frame_graph
from edge_ad.images import list_images, read_image
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, Thresholds

WARM_UP_FRAMES = 5
MARKED_SHARE = 0.01  # of the map, so that there are regions to find


def main(bundle: str, engine: str, workload: str) -> int:
    """Measure and report."""
    try:
        given = Workload(**json.loads(workload))
        found = measure(open_bundle(Path(bundle)), BackendConfig.model_validate_json(engine), given)
    except EdgeAdError as error:
        found = {"reason": str(error)}
    say(json.dumps(found))
    return 0


def measure(bundle: Bundle, engine: BackendConfig, workload: Workload) -> dict[str, Any]:
    """Run frames through the path that the daemon's take; `first_result_ns` is on the monotonic clock.

    Raises:
        EdgeAdError: the engine does not serve this bundle, or an image cannot be read.
    """
    graph = frame_graph(open_backend(bundle, engine), bundle.manifest)
    if workload.images is None:
        return measure_steps(graph, bundle.golden().image[-1], workload)
    paths = list_images(Path(workload.images))
    return _measure(graph, [partial(read_image, path) for path in paths], workload.frames)


def measure_steps(
    graph: FrameGraph, image: NDArray[np.uint8], workload: Workload, warm_up: int = WARM_UP_FRAMES
) -> dict[str, Any]:
    """Run frames that show `image`, (H, W, 3) RGB; otherwise as `measure`."""
    frame = full_frame(image, workload.width, workload.height)
    return _measure(graph, [lambda: frame], workload.frames, warm_up)


def _measure(
    graph: FrameGraph, frames: Sequence[Callable[[], NDArray[np.uint8]]], count: int, warm_up: int = WARM_UP_FRAMES
) -> dict[str, Any]:
    """Run `count` of these frames in turn, each read, and made a defect, before its time begins."""
    pipeline = Pipeline(graph, None, RegionConfig())
    pipeline.step(_captured(0, frames[0]()))
    first_result_ns = time.monotonic_ns()
    shown = [frames[place * len(frames) // count] for place in range(count)]  # of many images, some from everywhere
    thresholds = {each: always_a_defect(graph.run(each(), None).anomaly_map()) for each in dict.fromkeys(shown)}
    pipeline.thresholds = thresholds[shown[0]]
    for number in range(warm_up):
        pipeline.step(_captured(number, shown[0]()))
    ms: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number, each in enumerate(shown):
        pipeline.thresholds = thresholds[each]
        for stage, value in timed_step(pipeline, each(), number).items():
            ms[stage].append(value)
    resident, peak = memory_bytes()
    return {"first_result_ns": first_result_ns, "ms": ms, "resident_bytes": resident, "peak_bytes": peak}


def full_frame(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """An (H, W, 3) RGB image as a camera of so many pixels would deliver it: BGR."""
    grown = cv2.resize(image[:, :, ::-1], (width, height), interpolation=cv2.INTER_LINEAR)
    return grown.astype(np.uint8, copy=False)


def always_a_defect(anomaly_map: NDArray[np.float32]) -> Thresholds:
    """Thresholds below any score, so that the whole decision is measured: a hundredth of the pixels is marked."""
    return Thresholds(image=-1.0, pixel=float(np.quantile(anomaly_map, 1 - MARKED_SHARE)), record=0)


def timed_step(pipeline: Pipeline, image: NDArray[np.uint8], number: int) -> dict[str, float]:
    """Inspect one frame; stage -> milliseconds."""
    frame = _captured(number, image)
    started_ns = time.monotonic_ns()
    event = pipeline.step(frame)
    step = (time.monotonic_ns() - started_ns) / 1e6
    return {**{stage: event.latency_ms[stage] for stage in STAGES if stage != "step"}, "step": step}


def memory_bytes() -> tuple[int, int]:
    """Resident memory of this process, now and at its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = {name: 1024 * int(kib) for name, kib in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE)}
    return found["VmRSS"], found["VmHWM"]


def _captured(number: int, image: NDArray[np.uint8]) -> Frame:
    return Frame("bench", number, image, time.time_ns(), time.monotonic_ns())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
