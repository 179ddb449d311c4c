"""The daemon: how it starts, what it is made of, and how it ends.

Threads: the main thread is the inference loop, one thread captures, one publishes. Told to stop, or at the end of its
source, the daemon ends with exit code 0. What nobody foresaw, in whichever thread, ends the process at once, and
systemd starts it again (docs/decisions/0001-crash-do-not-limp.md).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import uuid
from types import TracebackType
from typing import NoReturn

from loguru import logger

from edge_ad import __version__
from edge_ad.backends.base import Backend, open_backend
from edge_ad.broker_state import explain_exposure
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.calibration_watch import CalibrationWatch, name_in_service
from edge_ad.cameras.base import SIMULATED
from edge_ad.cameras.capture import Capture
from edge_ad.config import StationConfig, source_name
from edge_ad.core.health import Health
from edge_ad.core.messages import StationContext
from edge_ad.errors import ConfigError, EdgeAdError, StoppedError
from edge_ad.frames import frame_graph
from edge_ad.lock import locked
from edge_ad.loop import InspectionLoop, Station
from edge_ad.memory import give_back_freed
from edge_ad.notify import Notifier
from edge_ad.outbox import stored_mode
from edge_ad.outbox_file import Position
from edge_ad.pipeline import Pipeline
from edge_ad.progress import Progress
from edge_ad.publisher import OUTBOX_FILE, Publisher, possible_mode
from edge_ad.recorder import Recorder
from edge_ad.records import NO_FRAME
from edge_ad.snapshots import FOLDER, Snapshots
from edge_ad.thresholds import service_of
from edge_ad.trigger_sensor import SensorThread, open_sensor

DRAIN_S = 5.0  # for the broker to take what is unsent; the rest stays on disk
JOIN_S = 3.0  # for the camera to come back from its read


def run(config: StationConfig) -> None:
    """Inspect until SIGTERM, SIGINT or the end of the source.

    Raises:
        EdgeAdError: something that the station needs cannot be used; nothing was started yet.
    """
    faulthandler.enable()  # the watchdog kills with SIGABRT: the stacks of all threads go to the journal
    stop = _stop_on_signals()
    notifier = Notifier()
    _refuse_short_watchdog(notifier, config)
    with locked(config.state_dir) as note:
        bundle = open_bundle(config.bundle)
        note(name_in_service(config, bundle.digest))
        try:
            backend = open_backend(bundle, config.backend, stop)
        except StoppedError as stopped:
            logger.info("{}", stopped)
            return
        with _EndsTheProcess() as failures:
            while _run_once(config, bundle, backend, notifier, failures, stop):
                pass
            backend.close()
            logger.info("stopped")


def _run_once(
    config: StationConfig,
    bundle: Bundle,
    backend: Backend,
    notifier: Notifier,
    failures: _EndsTheProcess,
    stop: threading.Event,
) -> bool:
    """Inspect until the end, or until a simulation begins or is over: then True, for that is a run of its own.

    So each run has one source, one `boot_id`, and one answer to whether it is simulated.
    """
    station = _start(config, bundle, backend, notifier, failures)
    notifier.ready("waiting for the first frame")
    again = InspectionLoop(station, stop).run()
    if not again:
        notifier.stopping()
    all_came_back = _end(station)
    if not (all_came_back or again):  # to end the interpreter under a thread in a driver can abort
        logger.info("stopped")
        _leave(0)
    return again


def _start(
    config: StationConfig, bundle: Bundle, backend: Backend, notifier: Notifier, failures: _EndsTheProcess
) -> Station:
    """Start the threads, around an engine that has proved itself."""
    sensor = open_sensor(config.trigger)
    mode = possible_mode(config, stored_mode(config.state_dir / OUTBOX_FILE, config.station))
    source = config.source(mode)
    boot_id, name = uuid.uuid4().hex, source_name(source)
    context = StationContext(config.station, boot_id, bundle.digest, source.kind in SIMULATED, name)
    health = Health(__version__, backend.name, backend.precision, None, "", time.time_ns(), trigger=config.trigger.kind)
    calibration = CalibrationWatch(config.store_dir(), service_of(config, bundle.digest))
    calibration.refresh()
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), config.roi_record(), config.regions)
    pipeline.thresholds = calibration.thresholds
    pipeline.warm_up(source.frame_size)
    give_back_freed()
    progress = Progress()
    publisher = Publisher(config, context, progress)
    publisher.start()
    last = publisher.last_position(config.camera.name) or Position(NO_FRAME, {})
    capture = Capture(source, last.frame_id, last.mark(name), triggers=publisher.triggers)
    capture.start()
    announcing = SensorThread(sensor, publisher.announce) if sensor is not None else None
    if announcing is not None:
        announcing.start()
    for section, broker in config.brokers().items():
        exposure = explain_exposure(broker, section)
        if exposure:
            logger.warning("broker {}:{}: {}", broker.host, broker.port, exposure)
    engine = f"{backend.name}/{backend.precision}"
    logger.info("edge-ad {}: station {}, bundle {:.12}, {}", __version__, config.station, bundle.digest, engine)
    recorder = Recorder(config.record) if config.record is not None else None
    snapshots = Snapshots(config.state_dir / FOLDER, config.commands.snapshots_mb, context, publisher.order_done)
    return Station(
        capture,
        pipeline,
        publisher,
        calibration,
        recorder,
        snapshots,
        progress,
        notifier,
        config.limits,
        health,
        failures.first,
        announcing,
    )


def _end(station: Station) -> bool:
    """Stop the threads in the order of the frame path; False if one hangs in the camera or on the disk."""
    if station.sensor is not None:
        station.sensor.stop()
    camera_came_back = station.capture.stop(JOIN_S)
    disk_came_back = station.snapshots.stop(JOIN_S)
    may_take_more = station.publisher.broker_state().name in ("connecting", "online")
    station.publisher.stop(DRAIN_S if may_take_more else 0.0)
    failure = station.publisher.failure()
    if failure is not None:  # the last parts may not be on disk
        raise failure
    return camera_came_back and disk_came_back


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _refuse_short_watchdog(notifier: Notifier, config: StationConfig) -> None:
    """An inference that may take as long as the watchdog waits would be killed although it is within its limit."""
    watchdog_s, limit_s = notifier.watchdog_s, config.limits.inference_s
    if watchdog_s is not None and watchdog_s <= limit_s:
        raise ConfigError(
            f"limits.inference_s is {limit_s:g} s, the unit's WatchdogSec {watchdog_s:g} s: raise the latter"
        )


class _EndsTheProcess:
    """Within this context, an exception of any thread ends the process, whatever the other threads are doing."""

    def __init__(self) -> None:
        self._first: BaseException | None = None

    def first(self) -> BaseException | None:
        """What ended a thread other than the main one."""
        return self._first

    def __enter__(self) -> _EndsTheProcess:
        threading.excepthook = self._note
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        threading.excepthook = threading.__excepthook__
        if error is not None:
            _crash(error)

    def _note(self, arguments: threading.ExceptHookArgs) -> None:
        if self._first is None:
            self._first = arguments.exc_value


def _crash(error: BaseException) -> NoReturn:
    """Say why and end at once. No farewell to the broker: it announces us as offline."""
    if isinstance(error, EdgeAdError):
        logger.critical("{}", error)
        _leave(error.exit_code)
    logger.opt(exception=error).critical("unknown error: {}; the process ends", type(error).__name__)
    _leave(1)


def _leave(code: int) -> NoReturn:
    """End without waiting for threads that may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
