"""The capture thread: opens the camera, reads it, numbers the frames, and brings it back when it fails.

It has no timer. The inference loop calls `supervise` on its turns; a call into the camera that does not come back is
given up with its thread, and a fresh thread opens the camera anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from loguru import logger

from edge_ad.cameras.base import Camera, Delivered, EndOfFrames, Picture, RecordedScore, make_camera
from edge_ad.channel import Channel, Policy
from edge_ad.config import Camera as CameraConfig
from edge_ad.config import FreeTrigger
from edge_ad.core.backoff import Backoff
from edge_ad.errors import CameraError, ConfigError
from edge_ad.records import CameraPhase, CameraState, Frame, Missed, Scored, Shot, Trigger
from edge_ad.trigger_desk import TriggerDesk

CAPACITY = 2  # one frame waits while one is inspected; more would only make results older
HUNG_FACTOR = 4.0  # FFMPEG needs three read time-outs to give up a frozen server; beyond four a call is hung
MAX_HUNG_THREADS = 3
PUT_POLL_S = 0.25
TRIGGER_POLL_S = 0.1

Maker = Callable[[CameraConfig, str | None], Camera]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call into the camera that has not returned."""

    name: str
    since_s: float
    limit_s: float


class _Worker:
    """One capture thread and its camera, which no other thread uses; `call` is what it is waiting for."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.camera: Camera | None = None
        self.call: _Call | None = None

    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def join(self, timeout_s: float) -> None:
        if self.thread is not None:
            self.thread.join(timeout_s)


class Capture:
    """One camera, read in a thread of its own into `frames`."""

    def __init__(
        self,
        config: CameraConfig,
        last_frame_id: int = 0,
        last_part_id: str | None = None,
        make: Maker = make_camera,
        clock: Callable[[], float] = time.monotonic,
        triggers: TriggerDesk | None = None,
    ) -> None:
        """Prepare; `start` starts.

        Args:
            config: the station's camera.
            last_frame_id: the frame that was the last to get a result; numbering goes on after it.
            last_part_id: its part; a folder and a simulation go on after it.
            make: makes the camera of a configuration.
            clock: seconds.
            triggers: says which frame is a part; default: each is.
        """
        self._triggers = triggers if triggers is not None else TriggerDesk(FreeTrigger())
        waits = make(config, None).complete or not self._triggers.drops
        policy: Policy = "block" if waits else "drop_oldest"
        self.frames: Channel[Shot] = Channel(max(CAPACITY, self._triggers.max_waiting), policy)
        self._config = config
        self._make = make
        self._clock = clock
        self._frame_id = last_frame_id
        self._resume_after = last_part_id
        self._state = CameraState(config.name, "opening", "", time.time_ns())
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker = _Worker()
        self._hung: list[_Worker] = []
        self._backoff = Backoff(config.backoff_min_s, config.backoff_max_s)
        self._pause_s = 0.0  # before the camera is opened again

    def start(self) -> None:
        """Start a capture thread."""
        worker = _Worker()
        # A daemon thread: one that hangs inside a driver must not keep the process from ending.
        worker.thread = threading.Thread(target=self._work, args=(worker,), name="capture", daemon=True)
        self._worker = worker
        worker.thread.start()

    def state(self) -> CameraState:
        """What the camera is doing."""
        with self._lock:
            return replace(self._state, skipped=self.frames.dropped)

    def supervise(self) -> None:
        """Notice a call into the camera that does not come back; called by the inference loop on its turns.

        Raises:
            CameraError: so many threads hang that only a new process helps.
        """
        with self._lock:
            call = self._worker.call
            late_s = 0.0 if call is None else self._clock() - call.since_s
            if call is None or late_s <= call.limit_s:
                return
            if self._state.state == "online":
                self._change("fault", f"no frame for more than {call.limit_s:g} s")
            if late_s <= HUNG_FACTOR * call.limit_s:
                return
            self._change("fault", f"{call.name} hung and was given up; opened again in a fresh thread")
            self._hung = [worker for worker in (*self._hung, self._worker) if worker.is_alive()]
            if len(self._hung) >= MAX_HUNG_THREADS:
                raise CameraError(f"{len(self._hung)} calls into camera {self._config.name} hang: only a restart helps")
            self.start()

    def stop(self, timeout_s: float) -> bool:
        """End the capture; False if a thread hangs and is left behind."""
        self._stop.set()
        self.frames.close()
        deadline = time.monotonic() + timeout_s
        workers = (*self._hung, self._worker)
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in workers)

    def _work(self, worker: _Worker) -> None:
        while self._is_wanted(worker):
            self._attempt(worker)
            self._stop.wait(self._pause_s)

    def _attempt(self, worker: _Worker) -> None:
        """Read the camera until it fails, ends, or is no longer wanted."""
        try:
            if worker.camera is None:  # else it knows itself what it has delivered
                worker.camera = self._make(self._config, self._resume_after)
            self._read_all(worker, worker.camera)
        except EndOfFrames:
            if self._is_wanted(worker):
                self.frames.close()
                self._stop.set()
        except (CameraError, ConfigError) as error:  # ConfigError: its password file has gone since the start
            self._fail(worker, str(error))

    def _read_all(self, worker: _Worker, camera: Camera) -> None:
        try:
            with self._calling(worker, "open", self._config.open_timeout_s):
                camera.open()
            shot: Delivered | None = None
            while self._is_wanted(worker):
                if camera.complete and not self._triggers.wants(TRIGGER_POLL_S):
                    self._idle(worker)
                    continue
                began_ns = time.monotonic_ns()
                if shot is None:
                    with self._calling(worker, "read", self._config.read_limit_s):
                        shot = camera.read()
                if shot is None:
                    self._idle(worker)
                elif self._deliver(worker, shot, began_ns, complete=camera.complete):
                    shot = None
        finally:
            with self._calling(worker, "close", self._config.open_timeout_s):
                camera.close()

    @contextmanager
    def _calling(self, worker: _Worker, name: str, limit_s: float) -> Iterator[None]:
        worker.call = _Call(name, self._clock(), limit_s)
        try:
            yield
        finally:
            with self._lock:
                worker.call = None

    def _is_wanted(self, worker: _Worker) -> bool:
        """Not stopped, and not given up for another thread."""
        return worker is self._worker and not self._stop.is_set()

    def _idle(self, worker: _Worker) -> None:
        """The camera is open; that there is no frame is not its fault."""
        with self._lock:
            if self._is_wanted(worker):
                self._change("online", "")

    def _deliver(self, worker: _Worker, shot: Delivered, began_ns: int, *, complete: bool) -> bool:
        """Hand over what is a part; False if it is none yet, but will be: of a complete source, every image is one."""
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        with self._lock:
            if not self._is_wanted(worker):  # given up meanwhile: another thread numbers the frames now
                return True
            admission = self._triggers.admit(began_ns)
            if admission is None and complete:
                return False
            self._count(shot)
            item = self._stamp(shot, admission.trigger, wall_ns, monotonic_ns) if admission is not None else None
        if item is not None:
            self._hand_over(item, waits=complete)
        return True

    def _count(self, shot: Delivered) -> None:
        """The camera works; the caller holds the lock."""
        self._frame_id += 1
        self._resume_after = shot.part_id if isinstance(shot, RecordedScore) else shot.resume_after or shot.part_id
        self._backoff.reset()
        self._change("online", "")
        self._state = replace(self._state, frames=self._state.frames + 1)

    def _hand_over(self, item: Shot, *, waits: bool) -> None:
        """Without a trigger, the channel drops what is old or waits; to wait for one would make the next one late."""
        if waits or item.trigger is None:
            while not self._stop.is_set() and not self.frames.put(item, PUT_POLL_S):
                pass
        elif not self.frames.put(item, 0.0):
            self._triggers.lose(item.trigger, "overrun")

    def _stamp(self, shot: Delivered, trigger: Trigger | None, wall_ns: int, monotonic_ns: int) -> Shot:
        name, number = self._config.name, self._frame_id
        if isinstance(shot, Picture):
            return Frame(name, number, shot.image, wall_ns, monotonic_ns, shot.part_id, trigger, shot.resume_after)
        if isinstance(shot, RecordedScore):
            return Scored(name, number, wall_ns, monotonic_ns, shot.score, shot.part_id, trigger)
        logger.warning("camera {}: {}", name, shot.detail)
        return Missed(name, number, wall_ns, monotonic_ns, "unreadable", shot.part_id, trigger, shot.resume_after)

    def _fail(self, worker: _Worker, problem: str) -> None:
        with self._lock:
            if not self._is_wanted(worker):
                return
            self._change("fault", problem)
            self._pause_s = self._backoff.next_s()

    def _change(self, state: CameraPhase, detail: str) -> None:
        """Enter a state; said once, however often it is entered. The caller holds the lock."""
        if (state, detail) == (self._state.state, self._state.detail):
            return
        self._state = replace(self._state, state=state, detail=detail, since_ns=time.time_ns())
        logger.log("WARNING" if state == "fault" else "INFO", "camera {}: {}", self._config.name, detail or state)
