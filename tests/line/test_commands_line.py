"""Commands through a real broker to a real daemon: done once, answered the same, whatever is killed on the way."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from edge_ad.config import MqttConfig
from edge_ad.core.commands import Refusal, parse
from edge_ad.core.messages import Message
from edge_ad.images import read_image, write_png
from edge_ad.mqtt import MqttLink, Ticket
from tests.broker import Broker, Received, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon, wait_until
from tests.edge_ad.core.test_commands import mutated
from tests.station import calibrate, part, write_config

ALARM = "alarm/top/defect"
ASKED = {"correlation_id": "panel-1/17", "camera": "top", "alarm": "defect", "by": "anna"}


@pytest.fixture
def config(tmp_path: Path, broker: Broker) -> Path:
    """A station whose only part is a defect, with an alarm that wants an acknowledgement and a reset."""
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    (tmp_path / "parts").mkdir()
    write_png(tmp_path / "parts" / "part-1.png", part(1, defect=True))
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait"}
    sections = {
        "mqtt": mqtt_config(broker),
        "alarms": {"defect": {"acknowledge": True, "latch": True}},
        "commands": {"enabled": True},
    }
    return write_config(tmp_path / "station.yaml", bundle, camera, sections)


def give(broker: Broker, name: str, payload: str, *options: str) -> None:
    """Publish a command as another client would."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1"]
    topic = f"edge-ad/cell-7/cmd/{name}"
    subprocess.run([*command, "-t", topic, "-m", payload, *options], check=True, timeout=20)


def state_is(word: str) -> Callable[[list[Received]], bool]:
    return lambda states: bool(states) and json.loads(states[-1].payload)["state"] == word


def replies(subscriber: Subscriber, name: str, count: int) -> list[dict[str, Any]]:
    received = subscriber.wait_for(lambda messages: len(messages) >= count, f"reply/{name}")
    schema = json.loads(resources.files("edge_ad").joinpath("schemas/reply-1.json").read_text(encoding="utf-8"))
    bodies = [json.loads(message.payload) for message in received]
    for body in bodies:
        jsonschema.validate(body, schema)
    assert not any(message.retained for message in received)
    return bodies


def test_an_alarm_is_acknowledged_once_over_a_killed_daemon_and_reset_after_the_next_good_part(
    tmp_path: Path, config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    with running_daemon(config) as daemon:
        subscriber.wait_for(state_is("unacknowledged"), f"{ALARM}/state")
        daemon.wait_for_log(": online")
        give(broker, "acknowledge", json.dumps(ASKED))
        give(broker, "acknowledge", json.dumps(ASKED))
        replies(subscriber, "acknowledge", 2)
        subscriber.wait_for(state_is("acknowledged"), f"{ALARM}/state")
        daemon.kill()
    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        give(broker, "acknowledge", json.dumps(ASKED))
        first, second, third = replies(subscriber, "acknowledge", 3)
        assert first == second == third
        assert (first["done"], first["alarms"][0]["acknowledged_by"]) == (True, "anna")
        write_png(tmp_path / "parts" / "part-2.png", part(2, defect=False))
        subscriber.wait_for(state_is("latched"), f"{ALARM}/state")
        give(broker, "reset", json.dumps({**ASKED, "correlation_id": "panel-1/18"}))
        subscriber.wait_for(state_is("normal"), f"{ALARM}/state")
        subscriber.wait_for(lambda messages: "cleared" in messages[-1].payload, f"{ALARM}/event")
        assert daemon.terminate() == 0
    events = [json.loads(message.payload) for message in subscriber.received(f"{ALARM}/event")]
    told = {event["event_no"]: (event["event"], event["seq"], event["by"]) for event in events}
    assert list(told.values()) == [
        ("raised", 1, None),
        ("acknowledged", None, "anna"),
        ("returned", 2, None),
        ("cleared", None, "anna"),
    ]


def test_a_command_that_is_sent_until_it_is_answered_is_done_once_whenever_the_daemon_is_killed(
    config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    def answered(correlation_id: str) -> bool:
        return any(f'"{correlation_id}"' in message.payload for message in subscriber.received("reply/shelve"))

    def answered_or_sent_again(correlation_id: str) -> bool:
        if answered(correlation_id):
            return True
        give(broker, "shelve", json.dumps({**ASKED, "correlation_id": correlation_id, "seconds": 600}))
        time.sleep(0.1)
        return answered(correlation_id)

    chance = random.Random(20260104)
    ids = [f"panel-1/{number}" for number in range(16)]
    for batch in (ids[:4], ids[4:8], ids[8:12], ids[12:]):
        with running_daemon(config) as daemon:
            daemon.wait_for_log(": online")
            for correlation_id in batch[:-1]:
                wait_until(partial(answered_or_sent_again, correlation_id))
            give(broker, "shelve", json.dumps({**ASKED, "correlation_id": batch[-1], "seconds": 600}))
            time.sleep(chance.uniform(0.0, 0.02))
            daemon.kill()
    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        before = len(subscriber.received("reply/shelve"))
        for correlation_id in ids:
            give(broker, "shelve", json.dumps({**ASKED, "correlation_id": correlation_id, "seconds": 600}))
        answers = replies(subscriber, "shelve", before + len(ids))
        events = subscriber.wait_for(
            lambda received: len(numbers_of("shelved", received)) >= len(ids), f"{ALARM}/event"
        )
    assert len(numbers_of("shelved", events)) == len(ids)
    assert len({json.dumps(answer) for answer in answers}) == len(ids)


def numbers_of(kind: str, events: list[Received]) -> set[int]:
    """The numbers of the events of a kind; copies count once."""
    bodies = [json.loads(message.payload) for message in events]
    return {body["event_no"] for body in bodies if body["event"] == kind}


def test_what_is_no_command_is_refused_or_counted_and_the_station_goes_on(
    config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    give(broker, "acknowledge", json.dumps({**ASKED, "correlation_id": "kept"}), "-r")
    with running_daemon(config) as daemon:
        subscriber.wait_for(state_is("unacknowledged"), f"{ALARM}/state")
        daemon.wait_for_log("ignored: it is retained")
        live = {**ASKED, "correlation_id": "live", "seconds": 60}
        give(broker, "shelve", json.dumps(live), "-r")  # retained, to a station that is there
        daemon.wait_for_log("'shelve' ignored: it is retained")
        for payload in ("", "{", "x" * 100_000, json.dumps({"correlation_id": 7})):
            give(broker, "shelve", payload)
        give(broker, "shelve", json.dumps({**ASKED, "seconds": 10**9}))
        give(broker, "fly", json.dumps(ASKED))
        (shelve,) = replies(subscriber, "shelve", 1)
        (fly,) = replies(subscriber, "fly", 1)
        assert (shelve["done"], shelve["reason"]) == (False, "seconds must be a number from 1 to 604800")
        assert (fly["done"], fly["correlation_id"]) == (False, "panel-1/17")
        give(broker, "status", json.dumps({"correlation_id": "panel-1/19"}))
        (status,) = replies(subscriber, "status", 1)
        assert [alarm["state"] for alarm in status["alarms"]][:2] == ["unacknowledged", "normal"]
        assert (status["done"], status["last_seq"]) == (True, 1)
        subscriber.wait_for(
            lambda told: json.loads(told[-1].payload)["commands"] == {"answered": 3, "ignored": 6}, "/health"
        )
        assert daemon.terminate() == 0


def flood(broker: Broker, commands: Sequence[tuple[str, bytes]]) -> None:
    """Publish commands as fast as the broker takes them, a few at a time on their way."""
    link = MqttLink(MqttConfig.model_validate(mqtt_config(broker)), "flood", None, lambda: None)
    link.start()
    wait_until(lambda: link.state().name == "online")
    flying: set[Ticket] = set()
    for name, payload in commands:
        ticket = link.publish(Message(f"edge-ad/cell-7/cmd/{name}", payload, 1, retain=False))
        assert ticket is not None
        flying.add(ticket)
        while len(flying) >= 10:
            time.sleep(0.001)
            flying -= {ack.ticket for ack in link.acks()}
    wait_until(lambda: not flying.difference_update(ack.ticket for ack in link.acks()) and not flying)
    link.stop(farewell=True)


def test_thousands_of_damaged_commands_change_nothing_and_each_is_answered_or_counted(
    config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    chance = random.Random(20261122)
    drawn = (mutated(chance) for _ in range(4000))
    damaged = [
        (name, payload) for name, payload in drawn if "/" not in name and isinstance(parse(name, payload), Refusal)
    ]
    assert len(damaged) > 2500
    with running_daemon(config) as daemon:
        subscriber.wait_for(state_is("unacknowledged"), f"{ALARM}/state")
        daemon.wait_for_log(": online")
        states = subscriber.received("/state")
        flood(broker, damaged)
        subscriber.wait_for(
            lambda told: sum(json.loads(told[-1].payload)["commands"].values()) == len(damaged), "/health"
        )
        give(broker, "status", json.dumps({"correlation_id": "after"}))
        subscriber.wait_for(lambda told: '"after"' in told[-1].payload, "reply/status")
        status = replies(subscriber, "status", 1)[-1]
        assert (status["mode"], status["last_seq"]) == ("run", 1)
        assert subscriber.received("/state") == states
        assert daemon.terminate() == 0


def test_a_threshold_is_applied_without_a_restart_and_survives_one(
    tmp_path: Path, config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    add_section(config, "commands", threshold_up=1.0)

    def inspected(number: int) -> dict[str, Any]:
        """The result of one more part with a defect: a score of about 0.9."""
        write_png(tmp_path / "parts" / f"part-{number}.png", part(1, defect=True))
        subscriber.wait_for(lambda results: bool(results) and f"part-{number}.png" in results[-1].payload, "/result")
        result: dict[str, Any] = json.loads(subscriber.received("/result")[-1].payload)
        return result

    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        assert inspected(2)["verdict"] == "defect"
        wish = {"correlation_id": "eng-1/1", "camera": "top", "threshold": 0.99, "by": "anna"}
        give(broker, "threshold", json.dumps(wish))
        (told,) = replies(subscriber, "threshold", 1)
        assert (told["done"], told["details"]["calibration"], told["details"]["fitted"]) == (True, 2, 0.5)
        daemon.wait_for_log("calibration 2 in force")
        after = inspected(3)
        assert (after["verdict"], after["threshold"], after["calibration"]) == ("ok", 0.99, 2)
        daemon.kill()
    with running_daemon(config) as daemon:
        after = inspected(4)
        assert (after["verdict"], after["calibration"]) == ("ok", 2)
        command = [sys.executable, "-m", "calibration.cli", "rollback", str(tmp_path / "bundle"), "--by", "otto"]
        subprocess.run([*command, "--config", str(config)], check=True, capture_output=True, timeout=60)
        daemon.wait_for_log("calibration 1 in force")
        assert inspected(5)["verdict"] == "defect"
        assert daemon.terminate() == 0


def test_a_snapshot_is_the_next_frame_and_its_reply_says_where_it_is(
    tmp_path: Path, config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    with running_daemon(config) as daemon:
        subscriber.wait_for(lambda results: len(results) == 1, "/result")
        daemon.wait_for_log(": online")
        give(broker, "snapshot", json.dumps({"correlation_id": "panel-1/30", "camera": "top"}))
        daemon.wait_for_log("command snapshot")
        time.sleep(0.5)  # for the order to reach the loop
        write_png(tmp_path / "parts" / "part-2.png", part(2, defect=False))
        (told,) = replies(subscriber, "snapshot", 1)
        assert daemon.terminate() == 0
    folder = Path(told["details"]["folder"])
    assert folder.parent == tmp_path / "state" / "snapshots"
    assert told["details"]["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    np.testing.assert_array_equal(read_image(folder / "frame.png"), part(2, defect=False))


def test_a_replay_brings_copies_that_differ_in_two_fields_and_only_of_what_was_asked_for(
    tmp_path: Path, config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    for number in range(2, 41):
        write_png(tmp_path / "parts" / f"part-{number:02d}.png", part(number, defect=number % 7 == 0))
    with running_daemon(config) as daemon:
        subscriber.wait_for(lambda results: len(results) == 40, "/result")
        wait_until(partial(all_acknowledged, broker, subscriber, itertools.count()))
        give(broker, "replay", json.dumps({"correlation_id": "mes/1", "from": 11, "to": 30}))
        (told,) = replies(subscriber, "replay", 1)
        assert (told["details"]["sent_again"], told["details"]["gone"]) == (20, 0)
        results = subscriber.wait_for(lambda results: len(results) >= 60, "/result")
        assert daemon.terminate() == 0
    bodies = [json.loads(result.payload) for result in results]
    assert [body["seq"] for body in bodies[40:]] == list(range(11, 31))
    for body in bodies:
        del body["published_ms"], body["historical"]
    assert bodies[40:] == bodies[10:30]
    assert len(subscriber.received("/plc")) == 40  # decisions are not repeated


def all_acknowledged(broker: Broker, subscriber: Subscriber, numbers: Iterator[int]) -> bool:
    """Ask the station whether the broker has acknowledged all that it has."""
    number = next(numbers)
    give(broker, "status", json.dumps({"correlation_id": f"status/{number}"}))
    return bool(replies(subscriber, "status", number + 1)[number]["unsent"] == 0)


def add_section(config: Path, section: str, **values: object) -> None:
    """Change some values of a section of a station's file."""
    fields = yaml.safe_load(config.read_text())
    fields[section] = {**fields.get(section, {}), **values}
    config.write_text(yaml.safe_dump(fields))


def test_a_station_that_takes_no_commands_does_not_listen(
    tmp_path: Path, broker: Broker, subscriber: Subscriber
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "parts").mkdir()
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait"}
    silent = write_config(tmp_path / "station.yaml", bundle, camera, {"mqtt": mqtt_config(broker)})
    with running_daemon(silent) as daemon:
        daemon.wait_for_log(": online")
        assert daemon.terminate() == 0
    assert "Received SUBSCRIBE from subscriber" in broker.logged()
    assert "Received SUBSCRIBE from cell-7" not in broker.logged()


def test_a_paused_station_takes_nothing_for_a_part_also_over_a_kill_until_it_is_told_to_run(
    tmp_path: Path, config: Path, broker: Broker, subscriber: Subscriber
) -> None:
    def told(mode: str) -> None:
        subscriber.wait_for(
            lambda healths: bool(healths) and json.loads(healths[-1].payload)["mode"] == mode, "/health"
        )

    with running_daemon(config) as daemon:
        subscriber.wait_for(lambda results: len(results) == 1, "/result")
        give(broker, "mode", json.dumps({"correlation_id": "panel-1/20", "mode": "pause"}))
        (paused,) = replies(subscriber, "mode", 1)
        assert (paused["done"], paused["mode"]) == (True, "pause")
        told("pause")
        write_png(tmp_path / "parts" / "part-2.png", part(2, defect=False))
        daemon.kill()
    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        time.sleep(1.0)  # far longer than it takes to find and inspect a part
        assert len(subscriber.received("/result")) == 1
        give(broker, "mode", json.dumps({"correlation_id": "panel-1/21", "mode": "run"}))
        subscriber.wait_for(lambda results: "part-2.png" in results[-1].payload, "/result")
        told("run")
        assert daemon.terminate() == 0
