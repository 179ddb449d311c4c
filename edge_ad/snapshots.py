"""Snapshots: the next frame on request, with what the model made of it, in a folder that cannot fill the disk.

    <state_dir>/snapshots/20261122T080000.123Z-118/frame.png       the full frame as the camera gave it
                                                   map.tiff        the ROI's anomaly map, float32, 0..1
                                                   snapshot.json   score, verdict, regions, times, who asked

A snapshot is written on a thread of its own, so that no part waits for it, and appears under its name when it is whole.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.core.messages import StationContext
from edge_ad.core.orders import Done, TakeSnapshot
from edge_ad.images import encode_png
from edge_ad.records import Event, Frame, Shot

SCHEMA = "edge-ad/snapshot/1"
FOLDER = "snapshots"
WAITING = 4  # orders at a time
FRAME_WITHIN_S = 10.0  # else there is no snapshot
FREE_BYTES = 64 << 20  # are left on the disk: the outbox comes first
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-\d+")
_UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class _Exposure:
    """What a snapshot shows; copies, for the camera and the engine go on."""

    order: TakeSnapshot
    event: Event
    image: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32] | None


class _NoRoomError(Exception):
    pass


class Snapshots:
    """Takes orders and frames on the inference thread; `report` is called when an order has ended, on any thread."""

    def __init__(
        self,
        folder: Path,
        max_mb: int,
        context: StationContext,
        report: Callable[[Done], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep at most `max_mb` of snapshots in `folder`, which is made with the first; `clock` returns seconds."""
        self._folder = folder
        self._max_bytes = max_mb << 20
        self._context = context
        self._report = report
        self._clock = clock
        self._orders: deque[tuple[TakeSnapshot, float]] = deque()
        self._writer: threading.Thread | None = None
        self._made: dict[str, None] = {}  # by this process, in that order

    def order(self, order: TakeSnapshot) -> None:
        """Take a snapshot of the next frame that comes within FRAME_WITHIN_S."""
        if len(self._orders) >= WAITING:
            self._report(Done(order.correlation_id, f"{WAITING} snapshots wait already"))
        else:
            self._orders.append((order, self._clock() + FRAME_WITHIN_S))

    def offer(self, shot: Shot, anomaly_map: NDArray[np.float32] | None, event: Event) -> None:
        """A part was inspected; the (h, w) map is of its ROI, None where the model did not run."""
        if not self._orders or not isinstance(shot, Frame) or self._busy():
            return
        order, _ = self._orders.popleft()
        seen = anomaly_map.copy() if anomaly_map is not None else None
        exposure = _Exposure(order, event, shot.image.copy(), seen)
        self._writer = threading.Thread(target=self._write, args=(exposure,), name="snapshot", daemon=True)
        self._writer.start()

    def turn(self) -> None:
        """Give up what has waited too long."""
        while self._orders and self._clock() > self._orders[0][1] and not self._busy():
            order, _ = self._orders.popleft()
            self._report(Done(order.correlation_id, f"no frame within {FRAME_WITHIN_S:g} s"))

    def stop(self, timeout_s: float) -> bool:
        """Wait for the snapshot that is being written; False if it was not written in time."""
        if self._writer is not None:
            self._writer.join(timeout_s)
        return not self._busy()

    def _busy(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _write(self, exposure: _Exposure) -> None:
        correlation_id = exposure.order.correlation_id
        try:
            done = Done(correlation_id, details=self._store(exposure))
        except _NoRoomError as error:
            done = Done(correlation_id, str(error))
        except OSError as error:
            self._remove_unfinished()  # half a snapshot would hold the room that there was too little of
            done = Done(correlation_id, f"cannot write to {self._folder}: {error.strerror}")
        self._report(done)

    def _store(self, exposure: _Exposure) -> dict[str, object]:
        """Write it; what the reply tells."""
        files = _files(exposure, self._context)
        self._make_room(sum(len(data) for data in files.values()))
        self._remove_unfinished()  # of a process that was killed
        unfinished = self._folder / _UNFINISHED
        unfinished.mkdir()
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        path = self._folder / _name(exposure.event)
        unfinished.rename(path)
        self._made[path.name] = None
        height, width = exposure.image.shape[:2]
        return {
            "folder": str(path.absolute()),
            "files": {name: len(data) for name, data in files.items()},
            "frame_id": exposure.event.frame_id,
            "width": width,
            "height": height,
            "score": exposure.event.decision.score,
        }

    def _remove_unfinished(self) -> None:
        if (self._folder / _UNFINISHED).exists():
            shutil.rmtree(self._folder / _UNFINISHED)

    def _by_age(self) -> list[Path]:
        """The snapshots, oldest first: those of earlier processes by their time, then our own as they were made."""
        found = {path.name: path for path in self._folder.iterdir() if _OURS.fullmatch(path.name)}
        self._made = {name: None for name in self._made if name in found}
        earlier = [path for name, path in found.items() if name not in self._made]
        return [*by_age(earlier), *(found[name] for name in self._made)]

    def _make_room(self, size: int) -> None:
        """Drop the oldest snapshots until there is room for so many bytes."""
        if size > self._max_bytes:
            raise _NoRoomError(f"a snapshot has {size:,} bytes: raise commands.snapshots_mb")
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {path: _size(path) for path in self._by_age()}
        while sum(kept.values()) + size > self._max_bytes:
            oldest = next(iter(kept))
            shutil.rmtree(oldest)
            del kept[oldest]
        free = shutil.disk_usage(self._folder).free
        if free < size + FREE_BYTES:
            raise _NoRoomError(f"the disk has {free >> 20:,} MB left: free some")


def by_age(paths: Iterable[Path]) -> list[Path]:
    """Oldest first, by time, not by number: those begin again where the outbox was moved away."""
    return sorted(paths, key=lambda path: (path.lstat().st_mtime_ns, path.name))


def _files(exposure: _Exposure, context: StationContext) -> dict[str, bytes]:
    """File name -> contents."""
    facts = {
        "schema": SCHEMA,
        "station": context.station,
        "bundle": context.bundle,
        "asked_by": exposure.order.by,
        **asdict(exposure.event),
    }
    files = {
        "frame.png": encode_png(exposure.image),
        "snapshot.json": json.dumps(facts, indent=1, allow_nan=False).encode("ascii"),
    }
    return files if exposure.anomaly_map is None else {**files, "map.tiff": _as_tiff(exposure.anomaly_map)}


def _as_tiff(anomaly_map: NDArray[np.float32]) -> bytes:
    _, data = cv2.imencode(".tiff", anomaly_map)
    return data.tobytes()


def _name(event: Event) -> str:
    """By capture, for people who look for one."""
    captured = datetime.fromtimestamp(event.captured_ns // 1_000_000 / 1000, timezone.utc)
    return f"{captured:%Y%m%dT%H%M%S}.{captured.microsecond // 1000:03d}Z-{event.frame_id}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
