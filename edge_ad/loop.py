"""The inference loop and its signs of life.

The loop's turns also do what must stop when the loop hangs: the heartbeat, the watchdog, the look after the other
threads. So whoever sees these signs knows that parts are being inspected. A bounded wait that ends without a frame is
a turn like any other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from loguru import logger

from edge_ad.calibration_watch import CalibrationWatch
from edge_ad.cameras.capture import Capture
from edge_ad.clock import clock_synchronised
from edge_ad.config import LimitsConfig
from edge_ad.core.health import Health
from edge_ad.core.orders import LoopOrder, SetMode, TakeSnapshot
from edge_ad.errors import OutboxError
from edge_ad.notify import Notifier
from edge_ad.pipeline import Pipeline
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from edge_ad.recorder import Recorder
from edge_ad.records import CameraState, Event, Frame, Mode, Shot, Verdict
from edge_ad.snapshots import Snapshots
from edge_ad.trigger_sensor import SensorThread

TURN_S = 0.25  # a turn without a frame ends after so long
LAST_SUBMIT_S = 5.0  # while stopping, the last part may wait so long for the disk
VERDICTS: tuple[Verdict, ...] = ("ok", "defect", "not_inspected")
CAMERA_FIGURES_S = 10.0  # the camera's state goes out at once, its counters so often


@dataclass(frozen=True, slots=True)
class Station:
    """The parts of a running daemon.

    Attributes:
        health: as it was at the start; what changes of it is filled in.
        failure: what ended a thread that nobody expected to end; None while all is well.
        sensor: what announces parts; None where frames or commands do.
    """

    capture: Capture
    pipeline: Pipeline
    publisher: Publisher
    calibration: CalibrationWatch
    recorder: Recorder | None
    snapshots: Snapshots
    progress: Progress
    notifier: Notifier
    limits: LimitsConfig
    health: Health
    failure: Callable[[], BaseException | None]
    sensor: SensorThread | None = None


class InspectionLoop:
    """Takes frames from the camera, inspects them, and hands the results over."""

    def __init__(self, station: Station, stop: threading.Event) -> None:
        """Prepare; `stop` ends `run` after the part in hand."""
        self._station = station
        self._stop = stop
        self._signs = SignsOfLife(station)
        self._another_source = False

    def run(self) -> bool:
        """Inspect until told to stop, or until the source has ended and all of it is inspected.

        Returns:
            Whether it has ended only because another source is wanted: a simulation begins or is over.

        Raises:
            EdgeAdError: a fault that this process cannot get over.
        """
        while not (self._stop.is_set() or self._another_source or self._station.capture.frames.finished):
            shot = self._next()
            if shot is not None:
                self._inspect(shot)
            self._answer_lost()
            self._turn()
        self._settle_triggers()
        return self._another_source and not self._stop.is_set()

    def _next(self) -> Shot | None:
        """The next part, if there is one within a turn's time; while paused, the capture thread takes none."""
        return self._station.capture.frames.get(TURN_S)

    def _inspect(self, shot: Shot) -> None:
        with self._station.progress.stage("inference", self._station.limits.inference_s):
            event = self._station.pipeline.step(shot)
        self._hand_over(event, shot.captured_monotonic_ns)
        self._signs.count(event)
        self._station.snapshots.offer(shot, self._station.pipeline.anomaly_map, event)
        if self._station.recorder is not None and isinstance(shot, Frame):
            self._station.recorder.record(shot)

    def _hand_over(self, event: Event, captured_monotonic_ns: int) -> None:
        """Wait until the result is safe; a disk that hangs shows in `progress` and ends the signs of life."""
        while True:
            stopping = self._stop.is_set()
            timeout_s = LAST_SUBMIT_S if stopping else TURN_S
            if self._station.publisher.submit(event, captured_monotonic_ns, timeout_s):
                return
            if stopping:
                raise OutboxError(f"frame {event.frame_id} has no result: the outbox is stuck")
            self._turn()

    def _answer_lost(self) -> None:
        """A trigger that gets no inspected frame gets its result all the same."""
        for lost in self._station.publisher.triggers.take_lost():
            logger.warning("trigger {}: {}", ascii(lost.trigger.trigger_id), lost.reason)
            event = lost.event(self._station.capture.state().name)
            self._hand_over(event, time.monotonic_ns())  # a part without a verdict is never late
            self._signs.count(event)

    def _settle_triggers(self) -> None:
        """Before the end, every trigger has its result: also those whose frames wait for an inspection."""
        triggers = self._station.publisher.triggers
        triggers.end()
        for shot in self._station.capture.frames.get_all(0.0):
            if shot.trigger is not None:
                triggers.lose(shot.trigger, "missed")
        self._answer_lost()

    def _turn(self) -> None:
        failure = self._station.failure() or self._station.publisher.failure()
        if failure is not None:
            raise failure
        self._station.capture.supervise()
        while not self._station.publisher.orders.empty():
            self._obey(self._station.publisher.orders.get())
        self._station.snapshots.turn()
        if self._signs.turn() and self._station.calibration.refresh():
            self._station.pipeline.thresholds = self._station.calibration.thresholds

    def _obey(self, order: LoopOrder) -> None:
        """Do what a command asks of the inference loop."""
        match order:
            case SetMode(mode):
                logger.info("mode {}", mode)
                self._another_source = (mode == "simulate") != self._station.publisher.simulates
                self._signs.mode = mode
            case TakeSnapshot():
                self._station.snapshots.order(order)


class SignsOfLife:
    """Heartbeat, watchdog, status line, camera and health messages, in step with the loop's turns."""

    def __init__(self, station: Station, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting; `clock` returns seconds."""
        self.mode: Mode = station.publisher.mode()  # as it is told
        self._station = station
        self._clock = clock
        self._verdicts: Counter[Verdict] = Counter()
        self._heartbeat = 0
        self._next_second = self._last_second = clock()
        self._parts_before = 0
        self._next_feed = clock()
        self._camera: CameraState | None = None
        self._camera_due = clock()
        self._health: Health | None = None
        self._clock_synchronised: bool | None = None  # asked for once a second

    def count(self, event: Event) -> None:
        """A part has its result."""
        self._verdicts[event.decision.verdict] += 1

    def turn(self) -> bool:
        """The loop came by; True about once a second."""
        now = self._clock()
        self._feed_watchdog(now)
        is_due = now >= self._next_second
        if is_due:
            self._clock_synchronised = clock_synchronised()
        camera = self._station.capture.state()
        self._show_camera(camera, now)
        self._show_health(camera)
        if not is_due:
            return False
        self._next_second = now + 1.0
        if not self._station.progress.overdue():
            self._heartbeat += 1
            self._station.publisher.heartbeat(self._heartbeat)
        self._station.notifier.status(self._status(now))
        return True

    def _feed_watchdog(self, now: float) -> None:
        watchdog_s = self._station.notifier.watchdog_s
        if watchdog_s is None or now < self._next_feed or self._station.progress.overdue():
            return
        self._next_feed = now + watchdog_s / 4
        self._station.notifier.watchdog()

    def _show_camera(self, state: CameraState, now: float) -> None:
        before = self._camera
        if before is not None and before.since_ns == state.since_ns and now < self._camera_due:
            return
        self._camera = state
        self._camera_due = now + CAMERA_FIGURES_S
        self._station.publisher.set_camera(state)

    def _show_health(self, camera: CameraState) -> None:
        calibration = self._station.calibration
        record = calibration.thresholds.record if calibration.thresholds is not None else None
        ready = self._station.publisher.triggers.is_ready and camera.state == "online"
        health = replace(
            self._station.health,
            calibration=record,
            detail=calibration.problem,
            mode=self.mode,
            ready=ready,
            clock_synchronised=self._clock_synchronised,
        )
        if health != self._health:
            self._health = health
            self._station.publisher.set_health(health)

    def _status(self, now: float) -> str:
        """One line for whoever looks: rate, verdicts, camera, broker, calibration."""
        parts = self._verdicts.total()
        rate = (parts - self._parts_before) / max(now - self._last_second, 1e-9)
        self._parts_before, self._last_second = parts, now
        verdicts = ", ".join(f"{verdict} {self._verdicts[verdict]}" for verdict in VERDICTS)
        camera, broker = self._station.capture.state(), self._station.publisher.broker_state()
        calibration = self._station.calibration.thresholds
        calibrated = "uncalibrated" if calibration is None else f"calibration {calibration.record}"
        devices = (f"camera {camera.state} {camera.detail}", f"broker {broker.name} {broker.detail}")
        inspection = "paused" if self.mode == "pause" else f"{rate:.1f} fps"
        return "; ".join(part.rstrip() for part in (inspection, verdicts, *devices, calibrated))
