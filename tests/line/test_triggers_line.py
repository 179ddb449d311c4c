"""Parts on request, through a real broker and a real daemon: each trigger that was acknowledged has one result."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import pytest

from edge_ad.images import write_png
from tests.broker import Broker, Received, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import Daemon, running_daemon
from tests.line.test_commands_line import give, replies
from tests.plc import PlcSim
from tests.station import calibrate, part, write_config

RESULT = json.loads(resources.files("edge_ad").joinpath("schemas/result-1.json").read_text(encoding="utf-8"))
PATIENT = ("--stall-s", "600", "--deadline-s", "1e9")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = make_bundle(tmp_path / "bundle")
    calibrate(path)
    return path


@pytest.fixture
def running_camera(tmp_path: Path) -> dict[str, Any]:
    """A camera that runs free at 50 frames a second, newest frame first."""
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for number in range(10):
        writer.write(part(number, defect=number % 2 == 1))
    writer.release()
    return {"kind": "file", "path": str(path), "pace": "realtime", "at_end": "repeat"}


def configure(tmp_path: Path, bundle: Path, broker: Broker, camera: dict[str, Any], **trigger: Any) -> Path:
    sections = {
        "mqtt": mqtt_config(broker),
        "commands": {"enabled": True},
        "trigger": {"kind": "command", **trigger},
    }
    return write_config(tmp_path / "station.yaml", bundle, camera, sections)


def waiting_folder(tmp_path: Path) -> dict[str, Any]:
    """A camera that gives no frame until the test writes one."""
    (tmp_path / "parts").mkdir()
    return {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait"}


def ready(subscriber: Subscriber, daemon: Daemon) -> None:
    daemon.wait_for_log(": online")
    subscriber.wait_for(lambda told: bool(told) and json.loads(told[-1].payload)["trigger"]["ready"], "/health")


def results(subscriber: Subscriber, count: int) -> list[dict[str, Any]]:
    """The results, each once; they fit their schema."""
    received = subscriber.wait_for(lambda messages: len(once(messages)) >= count, "/result")
    bodies = once(received)
    for body in bodies.values():
        jsonschema.validate(body, RESULT)
    return list(bodies.values())


def once(received: list[Received]) -> dict[int, dict[str, Any]]:
    bodies = [json.loads(message.payload) for message in received]
    return {body["seq"]: body for body in bodies}


def trigger(broker: Broker, name: str, **fields: Any) -> None:
    give(broker, "trigger", json.dumps({"correlation_id": name, **fields}))


def test_what_a_trigger_says_comes_back_with_its_result_and_no_other_frame_is_a_part(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber, running_camera: dict[str, Any]
) -> None:
    said = {"trigger_id": "t-1", "part_id": "A0042", "job_id": "job-7", "recipe_id": "recipe-3"}
    with running_daemon(configure(tmp_path, bundle, broker, running_camera)) as daemon:
        ready(subscriber, daemon)
        trigger(broker, "a-1", **said)
        (reply,) = replies(subscriber, "trigger", 1)
        trigger(broker, "a-2")
        first, second = results(subscriber, 2)
        plc = [json.loads(message.payload) for message in subscriber.wait_for(lambda m: len(m) >= 2, "/plc")]
        assert daemon.terminate() == 0
    assert reply["done"]
    assert {key: first[key] for key in said} == said
    assert first["verdict"] in ("ok", "defect")
    assert first["latency_ms"]["trigger"] >= 0
    assert (second["trigger_id"], second["part_id"]) == ("a-2", None)
    assert [(each["trg"], each["part"]) for each in plc] == [("t-1", "A0042"), ("a-2", "")]
    assert second["frame_id"] > first["frame_id"]
    assert len(once(subscriber.received("/result"))) == 2


def test_each_trigger_that_was_acknowledged_has_one_result_whenever_the_daemon_is_killed(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber, running_camera: dict[str, Any]
) -> None:
    config = configure(tmp_path, bundle, broker, running_camera)
    chance = random.Random(20260105)
    arguments = ["cell-7", "--triggers", "60", "--trigger-interval-s", "0.05", *PATIENT]
    with PlcSim(tmp_path, broker, *arguments) as plc:
        plc.wait_until_it_said("listening")
        for _ in range(3):
            before = len(subscriber.received("reply/trigger"))
            with running_daemon(config) as daemon:
                subscriber.wait_for(lambda told: len(told) > before + 5, "reply/trigger")  # noqa: B023 - at once
                time.sleep(chance.uniform(0.0, 0.1))
                daemon.kill()
        with running_daemon(config) as daemon:
            assert plc.wait() == 0, plc.said()
            assert daemon.terminate() == 0
        report = plc.report()["triggers"]
    assert (report["sent"], report["acknowledged"], report["answered"], report["faults"]) == (60, 60, 60, [])
    of_triggers = Counter(body["trigger_id"] for body in results(subscriber, 60))
    assert set(of_triggers.values()) == {1}
    assert len(of_triggers) == 60


def test_a_trigger_that_a_killed_daemon_had_acknowledged_is_missed_by_the_next_one_and_only_once(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    config = configure(tmp_path, bundle, broker, waiting_folder(tmp_path), timeout_s=600)
    with running_daemon(config) as daemon:
        ready(subscriber, daemon)
        trigger(broker, "a-1", part_id="A0042")
        replies(subscriber, "trigger", 1)
        daemon.kill()
    for _ in range(2):
        with running_daemon(config) as daemon:
            ready(subscriber, daemon)
            (missed,) = results(subscriber, 1)
            daemon.kill()
    told = (missed["trigger_id"], missed["part_id"], missed["verdict"], missed["reason"], missed["frame_id"])
    assert told == ("a-1", "A0042", "not_inspected", "missed", 0)
    write_png(tmp_path / "parts" / "part-1.png", part(1, defect=False))
    with running_daemon(config) as daemon:
        ready(subscriber, daemon)
        trigger(broker, "a-1", part_id="A0042")  # the same command: answered as before, and not captured
        trigger(broker, "a-2")
        _, inspected = results(subscriber, 2)
        assert daemon.terminate() == 0
    assert (inspected["trigger_id"], inspected["part_id"], inspected["verdict"]) == ("a-2", "part-1.png", "ok")


def test_a_trigger_without_a_frame_is_told_with_its_reason(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    """Expired when it came, overrun, no frame in time, paused; each in result, plc and the figures of health."""
    config = configure(tmp_path, bundle, broker, waiting_folder(tmp_path), timeout_s=1.5, max_waiting=1)
    past = (datetime.now(timezone.utc) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with running_daemon(config) as daemon:
        ready(subscriber, daemon)
        trigger(broker, "expired", expires_at=past)
        trigger(broker, "waits")
        trigger(broker, "overrun")
        results(subscriber, 3)
        give(broker, "mode", json.dumps({"correlation_id": "m-1", "mode": "pause"}))
        trigger(broker, "paused")
        told = {body["trigger_id"]: body["reason"] for body in results(subscriber, 4)}
        figures = {"paused": 1, "missed": 1, "timeouts": 1, "overruns": 1, "waiting": 0, "asked": 4, "ready": False}
        subscriber.wait_for(
            lambda healths: figures.items() <= json.loads(healths[-1].payload)["trigger"].items(), "/health"
        )
        assert daemon.terminate() == 0
    assert told == {"expired": "missed", "waits": "timeout", "overrun": "overrun", "paused": "paused"}
    plc = {body["trg"]: body["res"] for body in map(json.loads, (m.payload for m in subscriber.received("/plc")))}
    assert plc == dict.fromkeys(told, 0)


def test_told_to_stop_it_answers_the_triggers_that_wait_before_it_ends(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    config = configure(tmp_path, bundle, broker, waiting_folder(tmp_path), timeout_s=600)
    with running_daemon(config) as daemon:
        ready(subscriber, daemon)
        for number in range(3):
            trigger(broker, f"a-{number}")
        replies(subscriber, "trigger", 3)
        assert daemon.terminate() == 0
    assert [(each["trigger_id"], each["reason"]) for each in results(subscriber, 3)] == [
        (f"a-{number}", "missed") for number in range(3)
    ]


def test_a_clock_asks_for_one_frame_at_a_time(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber, running_camera: dict[str, Any]
) -> None:
    config = write_config(
        tmp_path / "station.yaml",
        bundle,
        running_camera,
        {"mqtt": mqtt_config(broker), "trigger": {"kind": "interval", "interval_s": 0.1}},
    )
    with running_daemon(config) as daemon:
        found = results(subscriber, 5)
        assert daemon.terminate() == 0
    names = [str(each["trigger_id"]) for each in found]
    assert [name.rsplit("-", 1)[-1] for name in names] == [str(number) for number in range(1, len(names) + 1)]
    assert all(name.startswith("interval-") for name in names)


def test_without_the_chip_a_station_with_an_input_line_says_so_and_is_started_again(
    tmp_path: Path, bundle: Path, broker: Broker
) -> None:
    pytest.importorskip("gpiod", reason="gpiod is not installed")
    sections = {
        "mqtt": mqtt_config(broker),
        "trigger": {"kind": "gpio", "chip": str(tmp_path / "gpiochip9"), "line": 3},
    }
    with running_daemon(write_config(tmp_path / "station.yaml", bundle, waiting_folder(tmp_path), sections)) as daemon:
        assert daemon.wait() == 1  # a USB expander comes back: the unit tries again
        (line,) = daemon.logged().splitlines()
    assert f"no GPIO chip {tmp_path / 'gpiochip9'}" in line
