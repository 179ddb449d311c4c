"""Time from the decision that raises an alarm to its receipt by a subscriber, on loopback.

    python -m benchmarks.alarm_latency [--bundle DIR] [--alarms 300] [--work DIR]

The whole daemon runs in this process, and notes when it hands a part over; an independent subscriber (mosquitto_sub)
notes when it receives what the part led to, from a real mosquitto. A good and a defective part come in turn, so that
every other part raises an alarm. `idle`: ten parts a second. `load`: as many as the engine inspects. The outbox commits
to the disk of --work before anything is sent. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.loopback import Heard, run_station
from edge_ad import log
from edge_ad.backends.base import open_backend
from edge_ad.bundle import open_bundle
from edge_ad.config import BackendConfig
from edge_ad.frames import frame_graph
from edge_ad.images import write_png
from edge_ad.publisher import Publisher
from edge_ad.records import Event
from tests.station import calibrate

DEMO = Path(__file__).parent.parent / "edge_ad" / "demo" / "bundle"
INTERVAL_S = {"idle": 0.1, "load": 0.0}
SIZE = (480, 640, 3)


@dataclass(frozen=True)
class Figures:
    """Milliseconds from the decision to the receipt, one for each alarm that was raised, and parts a second."""

    event_ms: NDArray[np.float64]
    plc_ms: NDArray[np.float64]
    rate: float


class Stamps:
    """When each part was handed over, wall clock in nanoseconds: part id -> time."""

    def __init__(self) -> None:
        self.decided_ns: dict[str | None, int] = {}
        submit = Publisher.submit

        def stamped(publisher: Publisher, event: Event, captured_monotonic_ns: int, timeout_s: float) -> bool:
            self.decided_ns.setdefault(event.part_id, time.time_ns())
            return submit(publisher, event, captured_monotonic_ns, timeout_s)

        Publisher.submit = stamped  # type: ignore[method-assign]


def two_parts(folder: Path, bundle: Path, store: Path) -> tuple[Path, Path]:
    """A picture that the model finds good and one that it does not, by a threshold between their scores."""
    opened = open_bundle(bundle)
    backend = open_backend(opened, BackendConfig())
    pictures = (np.full(SIZE, 128, np.uint8), np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8))
    graph = frame_graph(backend, opened.manifest)
    scores = [graph.run(each, None).score() for each in pictures]
    backend.close()
    paths = [folder / "flat.png", folder / "noise.png"]
    for path, picture in zip(paths, pictures, strict=True):
        write_png(path, picture)
    calibrate(opened.path, sum(scores) / 2, store=store)
    good, defect = (path for _, path in sorted(zip(scores, paths, strict=True)))
    return good, defect


def measure(folder: Path, bundle: Path, condition: str, alarms: int, stamps: Stamps) -> Figures:
    """Run the daemon over a folder of parts, every other one with a defect."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    pair = two_parts(folder, bundle, folder / "store")
    for number in range(2 * alarms):
        (parts / f"{condition}-{number:05d}.png").symlink_to(pair[number % 2])
    camera = {"kind": "folder", "path": str(parts), "interval_s": INTERVAL_S[condition]}
    heard, seconds = run_station(folder, open_bundle(bundle), BackendConfig(), folder / "store", camera)
    return Figures(*latencies(heard, stamps), 2 * alarms / seconds)


def latencies(heard: list[Heard], stamps: Stamps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the `raised` events, and of the decisions for controllers that go with them; milliseconds."""
    events, plc = [], []
    for each in heard:
        if each.topic.endswith("/defect/event") and '"event":"raised"' in each.payload:
            events.append(each.at_ns - stamps.decided_ns[json.loads(each.payload)["part_id"]])
        elif each.topic.endswith("/plc") and '"res":2' in each.payload:
            plc.append(each.at_ns - stamps.decided_ns[json.loads(each.payload)["part"]])
    return np.array(events) / 1e6, np.array(plc) / 1e6


def main() -> None:
    """Measure both conditions and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--alarms", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("build"), help="a folder on the disk that the outbox uses")
    arguments = parser.parse_args()
    log.set_up("WARNING")
    stamps = Stamps()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work.absolute()) as folder:
        for condition in INTERVAL_S:
            figures = measure(
                Path(folder) / condition, arguments.bundle.absolute(), condition, arguments.alarms, stamps
            )
            for name, values in (("alarm event", figures.event_ms), ("plc", figures.plc_ms)):
                assert len(values) == arguments.alarms, f"{len(values)} of {arguments.alarms} were received"
                p50, p99 = np.percentile(values, [50, 99])
                print(
                    f"{condition:5} {figures.rate:5.1f} parts/s  {name:12} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  "
                    f"max {values.max():6.2f} ms"
                )


if __name__ == "__main__":
    main()
