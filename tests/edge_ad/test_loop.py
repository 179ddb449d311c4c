"""Rules of the signs of life: they come from the loop's turns, and end while any stage is overdue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.backends.base import open_backend
from edge_ad.bundle import open_bundle
from edge_ad.calibration_watch import CalibrationWatch
from edge_ad.cameras.capture import Capture
from edge_ad.core.health import Health
from edge_ad.core.messages import StationContext
from edge_ad.frames import frame_graph
from edge_ad.loop import SignsOfLife, Station
from edge_ad.notify import Notifier
from edge_ad.pipeline import Pipeline
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from edge_ad.records import Decision, Event, Verdict
from edge_ad.snapshots import Snapshots
from edge_ad.thresholds import Service
from tests.broker import free_port
from tests.bundles import make_bundle
from tests.daemons import ServiceManager
from tests.station import config

WATCHDOG_S = 8.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path, WATCHDOG_S) as listening:
        yield listening


@pytest.fixture
def station(tmp_path: Path, manager: ServiceManager) -> Iterator[Station]:
    """A station without a camera and a broker; only the test turns its loop."""
    camera = {"kind": "folder", "path": "parts"}
    stationed = config(tmp_path, camera, {"mqtt": {"port": free_port()}})
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    backend = open_backend(bundle, stationed.backend)
    progress = Progress()
    context = StationContext("cell-7", "boot", bundle.digest, simulated=True)
    publisher = Publisher(stationed, context, progress)
    publisher.start()
    yield Station(
        Capture(stationed.camera),
        Pipeline(frame_graph(backend, bundle.manifest), None, stationed.regions),
        publisher,
        CalibrationWatch(tmp_path / "store", Service(bundle.digest, "fp32", None, "top")),
        None,
        Snapshots(tmp_path / "snapshots", 1, context, publisher.order_done),
        progress,
        Notifier(manager.environment(), pid=1),
        stationed.limits,
        Health("0", "onnxruntime", "fp32", None, "", 0),
        lambda: None,
    )
    publisher.stop(0.0)
    backend.close()


def turn(signs: SignsOfLife, now: list[float], manager: ServiceManager, seconds: float) -> list[str]:
    """Let the loop turn four times a second; what the service manager hears meanwhile."""
    heard = []
    for _ in range(round(seconds * 4)):
        now[0] += 0.25
        signs.turn()
        while (message := manager.receive(0.001)) is not None:
            heard.append(message)
    return heard


def test_turns_feed_the_watchdog_more_than_twice_in_its_time(station: Station, manager: ServiceManager) -> None:
    now = [100.0]
    signs = SignsOfLife(station, lambda: now[0])
    assert turn(signs, now, manager, WATCHDOG_S).count("WATCHDOG=1") >= 3


def test_no_turn_no_sign(station: Station, manager: ServiceManager) -> None:
    SignsOfLife(station)
    assert manager.receive(0.05) is None


def test_a_stage_of_any_thread_that_is_overdue_stops_the_feed_until_it_is_done(
    station: Station, manager: ServiceManager
) -> None:
    now = [100.0]
    signs = SignsOfLife(station, lambda: now[0])
    with station.progress.stage("commit", -1.0):
        assert "WATCHDOG=1" not in turn(signs, now, manager, 10.0)
    assert "WATCHDOG=1" in turn(signs, now, manager, 0.25)


def test_a_stage_that_is_overdue_stops_the_heartbeat_too(
    station: Station, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller has no other sign of a disk that hangs."""
    now, beats = [100.0], list[int]()
    monkeypatch.setattr(station.publisher, "heartbeat", beats.append)
    signs = SignsOfLife(station, lambda: now[0])
    turn(signs, now, manager, 3.0)
    with station.progress.stage("commit", -1.0):
        turn(signs, now, manager, 10.0)
    assert beats == [1, 2, 3]
    turn(signs, now, manager, 2.0)
    assert beats == [1, 2, 3, 4, 5]


def test_a_service_manager_that_does_not_listen_does_not_hold_up_the_loop(
    station: Station, manager: ServiceManager
) -> None:
    now = [100.0]
    signs = SignsOfLife(station, lambda: now[0])
    for _ in range(100):  # far more than the socket's queue takes
        now[0] += WATCHDOG_S
        signs.turn()
    assert manager.receive(0.0) is not None


def test_the_status_line_says_rate_verdicts_camera_broker_and_calibration(
    station: Station, manager: ServiceManager
) -> None:
    now = [100.0]
    signs = SignsOfLife(station, lambda: now[0])
    turn(signs, now, manager, 0.25)
    counts: dict[Verdict, int] = {"ok": 5, "defect": 2, "not_inspected": 1}
    for verdict, count in counts.items():
        for _ in range(count):
            signs.count(Event("top", 1, None, None, 0, Decision(verdict, None, 0.1, 0.5)))
    status = next(message for message in turn(signs, now, manager, 1.0) if message.startswith("STATUS="))
    assert status.startswith("STATUS=8.0 fps; ok 5, defect 2, not_inspected 1; camera opening; broker ")
    assert status.endswith("; uncalibrated")
