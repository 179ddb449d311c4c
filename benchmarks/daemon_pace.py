r"""The daemon's pace beside that of its engine alone, and the time from a capture to its result's receipt, on loopback.

    python -m benchmarks.daemon_pace BUNDLE [--backend openvino] [--precision int8] [--threads 1] \
        [--frames 600] [--frame 1920x1080]

Both sides run in this process, one after the other, on the same frame and the same engine. The whole daemon (capture
thread, inference loop, outbox on the disk of --work, MQTT to a real mosquitto) inspects frames that a camera in memory
delivers as fast as they are taken; an independent subscriber (mosquitto_sub) notes when it receives each result.

What is told: frames a second of the engine alone, of the whole step (prepare, engine, decide) and of the daemon; the
time from capture to receipt less the same frame's time in the engine, beside the 99th percentile of the outbox's own
commits. A frame waits in the queue for its turn when the camera is faster than the engine, so the second part is
measured with a camera that leaves the engine a rest: half the pace of the first. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.loopback import run_station
from edge_ad import log
from edge_ad.backends.base import open_backend
from edge_ad.bench.worker import full_frame, timed_step
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.cameras.base import KINDS, Delivered, EndOfFrames, Pace, Picture
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.console import add_frame_size
from edge_ad.frames import frame_graph
from edge_ad.outbox_file import OutboxFile
from edge_ad.pipeline import Pipeline
from tests.station import calibrate

WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Alone:
    """Frames a second, without a daemon."""

    engine: float
    step: float


@dataclass(frozen=True, slots=True)
class Found:
    """What the subscriber made of a run of the daemon.

    Attributes:
        rate: results a second.
        rest_ms: for each result, from its capture (to the whole millisecond before) to its receipt, less its time in
            the engine.
    """

    rate: float
    rest_ms: NDArray[np.float64]


class Memory:
    """A camera that delivers one frame again and again (implements `Camera`)."""

    complete = True

    def __init__(self, image: NDArray[np.uint8], frames: int, interval_s: float) -> None:
        self._image, self._left, self._pace = image, frames, Pace(interval_s)

    def open(self) -> None:
        """See `Camera.open`."""

    def read(self) -> Delivered | None:
        """See `Camera.read`."""
        if not self._left:
            raise EndOfFrames
        if not self._pace.wait():
            return None
        self._pace.advance()
        self._left -= 1
        return Picture(self._image)

    def close(self) -> None:
        """See `Camera.close`."""


def alone(bundle: Bundle, engine: BackendConfig, image: NDArray[np.uint8], frames: int) -> Alone:
    """Medians of the engine by itself and of the whole step, good parts throughout as on a line."""
    graph = frame_graph(open_backend(bundle, engine), bundle.manifest)
    pipeline = Pipeline(graph, None, RegionConfig())
    steps = [timed_step(pipeline, image, number) for number in range(WARM_UP + frames)][WARM_UP:]
    graph.backend.close()
    return Alone(*(1000 / float(np.median([step[stage] for step in steps])) for stage in ("engine", "step")))


@contextmanager
def timed_commits() -> Iterator[list[float]]:
    """Milliseconds of each durable transaction of the outbox."""
    took: list[float] = []
    transaction = OutboxFile.transaction

    @contextmanager
    def timed(self: OutboxFile, *, durable: bool = True) -> Iterator[None]:
        began = time.perf_counter()
        with transaction(self, durable=durable):
            yield
        if durable:
            took.append(1000 * (time.perf_counter() - began))

    OutboxFile.transaction = timed  # type: ignore[method-assign]
    try:
        yield took
    finally:
        OutboxFile.transaction = transaction  # type: ignore[method-assign]


def in_the_daemon(
    folder: Path, bundle: Bundle, engine: BackendConfig, image: NDArray[np.uint8], frames: int, interval_s: float
) -> Found:
    """Run the daemon over as many frames, all of them good, and listen; the first frames are left out."""
    folder.mkdir(parents=True)
    KINDS["folder"] = lambda _config, _resume_after: Memory(image, frames, interval_s)
    calibrate(bundle.path, 1.0, backend=engine.name, precision=engine.precision, store=folder / "store")
    heard, _ = run_station(folder, bundle, engine, folder / "store", {"kind": "folder", "path": str(folder)})
    results = [(each.at_ns, json.loads(each.payload)) for each in heard if each.topic.endswith("/result")]
    if len(results) != frames:
        raise RuntimeError(f"{len(results)} of {frames} results were received")
    results = results[WARM_UP:]
    rest = [at / 1e6 - result["captured_ms"] - result["latency_ms"]["engine"] for at, result in results]
    seconds = (results[-1][0] - results[0][0]) / 1e9
    return Found((len(results) - 1) / seconds, np.array(rest))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0: one per core, which leaves none")
    parser.add_argument("--frames", type=int, default=600)
    add_frame_size(parser)
    parser.add_argument("--work", type=Path, default=Path("build"), help="a folder on the disk that the outbox uses")
    arguments = parser.parse_args()
    log.set_up("WARNING")
    bundle = open_bundle(arguments.bundle.absolute())
    chosen = {"name": arguments.backend, "precision": arguments.precision, "threads": arguments.threads}
    engine = BackendConfig.model_validate(chosen)
    image = full_frame(bundle.golden().image[-1], *arguments.frame)
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work.absolute()) as work, timed_commits() as commits:
        before = alone(bundle, engine, image, arguments.frames // 2)
        fast = in_the_daemon(Path(work) / "fast", bundle, engine, image, arguments.frames, 0.0)
        after = alone(bundle, engine, image, arguments.frames // 2)
        commits.clear()
        rested = in_the_daemon(Path(work) / "rested", bundle, engine, image, arguments.frames, 2 / fast.rate)
        commit_p99 = float(np.percentile(commits, 99))
    bare, step = ((getattr(before, name) + getattr(after, name)) / 2 for name in ("engine", "step"))
    print(f"engine alone {bare:.1f}/s, whole step {step:.1f}/s, daemon {fast.rate:.1f}/s:", end=" ")
    print(f"{fast.rate / bare:.0%} of the engine alone, {fast.rate / step:.0%} of the whole step")
    p50, p99 = np.percentile(rested.rest_ms, [50, 99])
    print(f"at half that pace, capture to receipt less engine: p50 {p50:.1f} ms, p99 {p99:.1f} ms;", end=" ")
    print(f"commits of the outbox: p99 {commit_p99:.1f} ms, so the wish is {max(10.0, 2 * commit_p99):.1f} ms")


if __name__ == "__main__":
    main()
