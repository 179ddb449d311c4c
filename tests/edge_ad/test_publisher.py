"""From `submit` to an independent subscriber of a real broker: nothing is lost, copies agree, the states are told."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_ad.config import MqttConfig, StationConfig
from edge_ad.core.alarm_board import ALARMS
from edge_ad.core.health import Health
from edge_ad.core.messages import StationContext
from edge_ad.mqtt import Listener, Subscription
from edge_ad.outbox import Outbox
from edge_ad.outbox_file import OutboxFile
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from edge_ad.records import CameraState, Decision, Event, Region, Verdict
from edge_ad.sparkplug.node import SparkplugNode
from tests.broker import Broker, Received, Subscriber, free_port, mqtt_config
from tests.daemons import wait_until

CONTEXT = StationContext("press-3", "boot-1", "digest", simulated=False)
HEALTH = Health("0.1.0", "onnxruntime", "fp32", 1, "", 0)
MakePublisher = Callable[..., Publisher]
BACKLOG = 4000  # rows


def cleared(publisher: Publisher) -> bool:
    """Whether the broker has forgotten the states of other cameras."""
    return not publisher._clears


FRONT = {"kind": "folder", "name": "front", "path": "parts"}


def station(folder: Path, mqtt: dict[str, Any], **sections: Any) -> StationConfig:
    values = {
        "station": "press-3",
        "state_dir": str(folder / "state"),
        "bundle": "bundle",
        "camera": {"kind": "folder", "name": "top", "path": "parts"},
        "mqtt": mqtt,
        "plc": {"deadline_s": 30.0},
        **sections,
    }
    return StationConfig.model_validate(values)


def part(number: int, verdict: Verdict = "ok") -> Event:
    regions = (Region(1, 2, 3, 4, 12, 0.75),) if verdict == "defect" else ()
    decision = Decision(verdict, None, 0.25, 0.5, regions, calibration=1)
    return Event("top", number, f"part-{number}", None, time.time_ns(), decision, {"engine": 1.5})


def submit(publisher: Publisher, numbers: range, defects: frozenset[int] = frozenset()) -> None:
    for number in numbers:
        assert submitted(publisher, part(number, "defect" if number in defects else "ok"))


def submitted(publisher: Publisher, event: Event, captured_s: float | None = None) -> bool:
    """Hand over a part that was captured at a time of the monotonic clock; default: now."""
    at_s = time.monotonic() if captured_s is None else captured_s
    return publisher.submit(event, round(1e9 * at_s), timeout_s=10)


def bodies(messages: list[Received]) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in messages]


def parts_of(messages: list[Received]) -> dict[int, list[dict[str, Any]]]:
    """Number -> every copy of its result, without the two fields in which copies may differ."""
    copies: dict[int, list[dict[str, Any]]] = {}
    for body in bodies(messages):
        del body["published_ms"], body["historical"]
        copies.setdefault(body["seq"], []).append(body)
    return copies


def assert_complete(results: list[Received], count: int) -> None:
    """Every part has a result, under one number each, and all copies of a number agree."""
    copies = parts_of(results)
    assert sorted(copies) == list(range(1, count + 1))
    assert all(copy == same[0] for same in copies.values() for copy in same)
    assert [copies[seq][0]["part_id"] for seq in sorted(copies)] == [f"part-{n}" for n in range(1, count + 1)]


def publishes(broker: Broker) -> list[tuple[str, int]]:
    """Topic and message id (from 1 on each connection) of all that the broker received from the station."""
    found = re.findall(r"Received PUBLISH from press-3 \(d0, q1, r\d, m(\d+), '(.*?)'", broker.logged())
    return [(topic, int(message_id)) for message_id, topic in found]


@pytest.fixture
def make_publisher() -> Iterator[MakePublisher]:
    publishers: list[Publisher] = []

    def make(config: StationConfig, context: StationContext = CONTEXT) -> Publisher:
        publishers.append(Publisher(config, context, Progress()))
        publishers[-1].start()
        return publishers[-1]

    yield make
    for publisher in publishers:
        publisher.stop(0.0)
        assert publisher.failure() is None


def delivered(publisher: Publisher, count: int) -> None:
    wait_until(lambda: publisher.stats().sent == count or publisher.failure() is not None)
    assert publisher.failure() is None


def test_every_part_arrives_once_and_in_order(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, 201))
    delivered(publisher, 200)
    results = subscriber.wait_for(lambda messages: len(messages) >= 200, "/result")
    assert [body["seq"] for body in bodies(results)] == list(range(1, 201))
    assert_complete(results, 200)
    assert not any(message.retained for message in results)


def test_a_station_without_further_parts_notes_what_the_broker_has(
    tmp_path: Path, broker: Broker, make_publisher: MakePublisher
) -> None:
    config = station(tmp_path, mqtt_config(broker))
    publisher = make_publisher(config)
    submit(publisher, range(1, 4))
    delivered(publisher, 3)
    tries = itertools.count()
    wait_until(lambda: not unsent_after_a_kill(config, tmp_path / str(next(tries))))


def test_a_disk_that_hangs_over_an_acknowledgement_shows(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, seen, note = Progress(), list[list[str]](), OutboxFile.mark_sent

    def hang(self: OutboxFile, ids: list[int], at_ms: int) -> int:
        time.sleep(0.3)
        seen.append(progress.overdue())
        return note(self, ids, at_ms)

    monkeypatch.setattr(OutboxFile, "mark_sent", hang)
    publisher = Publisher(station(tmp_path, mqtt_config(broker), limits={"commit_s": 0.2}), CONTEXT, progress)
    publisher.start()
    submit(publisher, range(1, 4))
    delivered(publisher, 3)
    wait_until(lambda: bool(seen))
    publisher.stop(0.0)
    assert seen[0] == ["commit"]


def test_a_disk_that_hangs_over_sparkplug_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, seen = Progress(), list[list[str]]()

    def hang(_self: SparkplugNode, _present: object) -> None:
        time.sleep(0.3)
        seen.append(progress.overdue())

    monkeypatch.setattr(SparkplugNode, "turn", hang)
    sections = {"limits": {"commit_s": 0.2}, "sparkplug": {"group_id": "plant"}}
    publisher = Publisher(station(tmp_path, {"port": free_port()}, **sections), CONTEXT, progress)
    publisher.start()
    wait_until(lambda: bool(seen))
    publisher.stop(0.0)
    assert seen[0] == ["commit"]


def unsent_after_a_kill(config: StationConfig, folder: Path) -> list[int]:
    """Rows that a new process would send if the one of this configuration were killed now."""
    folder.mkdir()
    for file in config.state_dir.glob("outbox.db*"):
        shutil.copy(file, folder)
    outbox = Outbox(folder / "outbox.db", CONTEXT, config.outbox)
    try:
        return [row.id for row in outbox.unsent(0, 100)]
    finally:
        outbox.close()


def test_plc_says_what_result_says(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, 31), defects=frozenset({7, 8, 20}))
    delivered(publisher, 30)
    plc = bodies(subscriber.wait_for(lambda messages: len(messages) >= 30, "/plc"))
    assert [(body["seq"], body["res"]) for body in plc] == [(n, 2 if n in {7, 8, 20} else 1) for n in range(1, 31)]


def test_a_late_verdict_is_withheld_from_controllers(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker), plc={"deadline_s": 0.001}))
    assert submitted(publisher, part(1), time.monotonic() - 1.0)
    delivered(publisher, 1)
    (plc,) = bodies(subscriber.wait_for(lambda messages: len(messages) >= 1, "/plc"))
    (result,) = bodies(subscriber.received("/result"))
    assert (plc["res"], plc["rsn"]) == (0, "late")
    assert result["verdict"] == "ok"


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_wall_clock_that_is_set_changes_neither_the_order_nor_what_controllers_get(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher, step_s: int
) -> None:
    """The part before the step bears another hour than the parts after it."""
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    before = replace(part(1, "defect"), captured_ns=time.time_ns() - step_s * 10**9)
    assert submitted(publisher, before)
    submit(publisher, range(2, 5))
    delivered(publisher, 4)
    results = bodies(subscriber.wait_for(lambda messages: len(messages) >= 4, "/result"))
    assert [(body["seq"], body["historical"]) for body in results] == [(1, True), (2, False), (3, False), (4, False)]
    plc = bodies(subscriber.wait_for(lambda messages: len(messages) >= 4, "/plc"))
    assert [(body["seq"], body["res"]) for body in plc] == [(1, 2), (2, 1), (3, 1), (4, 1)]
    events = bodies(subscriber.wait_for(lambda messages: len(messages) >= 2, "defect/event"))
    assert [(event["event"], event["seq"]) for event in events] == [("raised", 1), ("cleared", 2)]


def test_thousands_of_rows_drain_in_order_and_do_not_hold_up_what_is_for_now(
    tmp_path: Path, broker: Broker, make_subscriber: Callable[..., Subscriber], make_publisher: MakePublisher
) -> None:
    """A defect that comes while the backlog drains is told to controllers, and as an alarm's state, ahead of it."""
    subscriber = make_subscriber(broker)
    broker.stop()
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, BACKLOG + 1), defects=frozenset(range(100, BACKLOG, 100)))
    broker.start()
    wait_until(lambda: publisher.stats().sent > 0)
    submit(publisher, range(BACKLOG + 1, BACKLOG + 2), defects=frozenset({BACKLOG + 1}))
    subscriber.wait_for(lambda messages: len(messages) > BACKLOG, "/result")
    received = subscriber.received()
    places = {(message.topic, seq): place for place, (message, seq) in enumerate(numbered(received))}
    now, last = BACKLOG + 1, places["edge-ad/press-3/result", BACKLOG]
    assert places["edge-ad/press-3/plc", now] < last
    assert places["edge-ad/press-3/alarm/top/defect/state", now] < last
    for suffix in ("/result", "defect/event"):
        seqs = [body["seq"] for body in bodies(subscriber.received(suffix))]
        assert seqs == sorted(set(seqs))


def numbered(messages: list[Received]) -> list[tuple[Received, int | None]]:
    """Messages with the number of the part that they are of."""
    texts = ("online", "offline", "stopped")
    return [(each, None if each.payload in texts else json.loads(each.payload).get("seq")) for each in messages]


def test_what_is_for_now_expires_at_the_broker_and_history_does_not(
    tmp_path: Path, broker: Broker, make_publisher: MakePublisher
) -> None:
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-q", "1", "-C", "3"]
    topics = [word for levels in ("plc", "result", "heartbeat") for word in ("-t", f"edge-ad/press-3/{levels}")]
    listener = subprocess.Popen([*command, "-F", "%t %E", "-i", "expiry", *topics], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: "SUBACK to expiry" in broker.logged())
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    wait_until(lambda: publisher.broker_state().name == "online")
    publisher.heartbeat(1)
    submit(publisher, range(1, 2))
    heard = dict(line.split(" ", 1) for line in listener.communicate(timeout=20)[0].splitlines())
    assert heard["edge-ad/press-3/heartbeat"] == "2"
    assert 0 < int(heard["edge-ad/press-3/plc"]) <= 30
    assert heard["edge-ad/press-3/result"].strip() == ""


def test_one_alarm_is_raised_and_cleared(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, 9), defects=frozenset({3, 4, 5}))
    delivered(publisher, 8)
    events = bodies(subscriber.wait_for(lambda messages: len(messages) >= 2, "alarm/top/defect/event"))
    assert [(event["event"], event["seq"], event["count"]) for event in events] == [("raised", 3, 1), ("cleared", 6, 3)]
    subscriber.wait_for(lambda states: bodies(states)[-1]["seq"] == 6, "alarm/top/defect/state")
    assert bodies(subscriber.received("alarm/top/defect/state"))[-1]["state"] == "normal"


def test_a_camera_fault_is_an_alarm_that_no_part_caused(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    for state in ("opening", "fault", "fault", "online"):
        publisher.set_camera(CameraState("top", state, "", 7_000_000))
    events = bodies(subscriber.wait_for(lambda messages: len(messages) >= 2, "alarm/top/camera/event"))
    assert [(event["event"], event["seq"], event["captured_ms"]) for event in events] == [
        ("raised", None, 7),
        ("cleared", None, 7),
    ]


def test_an_alarm_that_was_raised_before_a_restart_is_cleared_after_it(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    config = station(tmp_path, mqtt_config(broker), alarms={"defect": {"reset_parts": 2}})
    first = make_publisher(config)
    submit(first, range(1, 3), defects=frozenset({1}))
    first.stop(10.0)
    second = make_publisher(config)
    submit(second, range(3, 4))
    delivered(second, 1)
    events = bodies(subscriber.wait_for(lambda messages: len(messages) >= 2, "alarm/top/defect/event"))
    assert [(event["event"], event["seq"]) for event in events] == [("raised", 1), ("cleared", 3)]


def test_birth_and_all_states_are_told_on_every_connection(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    publisher.set_camera(CameraState("top", "online", "", 0))
    publisher.set_health(HEALTH)
    topics = {"status", *(f"alarm/top/{alarm}/state" for alarm in ALARMS), "camera/top", "health"}
    told = {f"edge-ad/press-3/{topic}" for topic in topics}
    subscriber.wait_for(lambda messages: told <= {message.topic for message in messages})
    broker.restart()
    wait_until(lambda: Counter(topic for topic, _ in publishes(broker)) == dict.fromkeys(told, 2))
    assert [topic for topic, message_id in publishes(broker) if message_id == 1] == ["edge-ad/press-3/status"] * 2


def test_the_broker_forgets_the_states_of_a_camera_that_is_called_otherwise_now(
    tmp_path: Path, broker: Broker, make_subscriber: Callable[..., Subscriber], make_publisher: MakePublisher
) -> None:
    old = {"edge-ad/press-3/camera/top", *(f"edge-ad/press-3/alarm/top/{alarm}/state" for alarm in ALARMS)}
    first = make_publisher(station(tmp_path, mqtt_config(broker)))
    first.set_camera(CameraState("top", "online", "", 0))
    submit(first, range(1, 3), defects=frozenset({2}))
    wait_until(lambda: old <= {topic for topic, _ in publishes(broker)} and first.stats().unsent == 0)
    first.stop(5.0)
    told = Counter(topic for topic, _ in publishes(broker))
    for _ in range(2):  # what the broker has forgotten once is not told again
        second = make_publisher(station(tmp_path, mqtt_config(broker), camera=FRONT))
        second.set_camera(CameraState("front", "online", "", 0))
        wait_until(partial(cleared, second))
        second.stop(5.0)
    late = make_subscriber(broker)
    kept = {m.topic for m in late.wait_for(lambda messages: len(messages) >= 3) if m.retained}
    assert "edge-ad/press-3/camera/front" in kept
    assert not kept & old
    again = Counter(topic for topic, _ in publishes(broker))
    assert {topic: again[topic] - told[topic] for topic in old} == dict.fromkeys(old, 1)


def test_states_are_retained_for_who_comes_later(
    tmp_path: Path, broker: Broker, make_subscriber: Callable[..., Subscriber], make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    publisher.set_camera(CameraState("top", "fault", "unplugged", 0))
    submit(publisher, range(1, 3), defects=frozenset({2}))
    delivered(publisher, 3)  # and the row of the camera's alarm
    late = make_subscriber(broker)
    kept = {m.topic: m.payload for m in late.wait_for(lambda messages: len(messages) >= 3) if m.retained}
    assert kept["edge-ad/press-3/status"] == "online"
    assert json.loads(kept["edge-ad/press-3/camera/top"])["detail"] == "unplugged"
    assert json.loads(kept["edge-ad/press-3/alarm/top/defect/state"])["state"] == "active"


def test_nothing_is_lost_while_the_broker_is_away(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker), outbox={"historical_after_s": 0.05}))
    submit(publisher, range(1, 101))
    broker.stop()
    submit(publisher, range(101, 201))
    time.sleep(0.1)
    broker.start()
    submit(publisher, range(201, 301))
    delivered(publisher, 300)
    results = subscriber.wait_for(lambda messages: len(parts_of(messages)) >= 300, "/result")
    assert_complete(results, 300)
    assert any(body["historical"] for body in bodies(results))


def test_nothing_is_lost_when_the_broker_goes_under_load(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    for begin in range(1, 601, 200):
        submit(publisher, range(begin, begin + 200))
        broker.restart()  # SIGTERM: it saves what it has acknowledged
    delivered(publisher, 600)
    assert_complete(subscriber.wait_for(lambda messages: len(parts_of(messages)) >= 600, "/result"), 600)


def test_what_was_unsent_at_the_end_is_sent_by_the_next_run_and_late_for_controllers(
    tmp_path: Path, broker: Broker, make_subscriber: Callable[..., Subscriber], make_publisher: MakePublisher
) -> None:
    subscriber = make_subscriber(broker)
    broker.stop()
    config = station(tmp_path, mqtt_config(broker))
    first = make_publisher(config)
    submit(first, range(1, 51), defects=frozenset({50}))
    first.stop(0.0)
    broker.start()
    second = make_publisher(config, StationContext("press-3", "boot-2", "digest", simulated=False))
    submit(second, range(51, 61))
    delivered(second, 60)
    results = subscriber.wait_for(lambda messages: len(parts_of(messages)) >= 60, "/result")
    assert_complete(results, 60)
    assert [body["boot_id"] for body in bodies(results)] == ["boot-1"] * 50 + ["boot-2"] * 10
    plc = bodies(subscriber.wait_for(lambda messages: len(messages) >= 60, "/plc"))
    assert {body["seq"]: body["rsn"] for body in plc} == {n: "late" if n <= 50 else "" for n in range(1, 61)}
    events = bodies(subscriber.received("defect/event"))
    assert [(event["event"], event["seq"]) for event in events] == [("raised", 50), ("cleared", 51)]


def test_a_clean_stop_says_stopped(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, 101))
    publisher.stop(10.0)
    assert publisher.stats().unsent == 0
    assert publisher.broker_state().name == "stopped"
    statuses = subscriber.wait_for(lambda messages: len(messages) >= 2, "/status")
    assert [message.payload for message in statuses] == ["online", "stopped"]
    assert_complete(subscriber.wait_for(lambda messages: len(messages) >= 100, "/result"), 100)


def test_a_killed_station_is_told_as_offline_by_the_broker(
    tmp_path: Path, broker: Broker, subscriber: Subscriber
) -> None:
    program = f"""
import time
from pathlib import Path
from edge_ad.outbox import Outbox
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from tests.edge_ad.test_publisher import CONTEXT, station
Publisher(station(Path({str(tmp_path)!r}), {mqtt_config(broker)!r}), CONTEXT, Progress()).start()
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    try:
        subscriber.wait_for(lambda messages: len(messages) >= 1, "/status")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    statuses = subscriber.wait_for(lambda messages: len(messages) >= 2, "/status")
    assert [message.payload for message in statuses] == ["online", "offline"]


def test_the_heartbeat_is_now_or_never(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    wait_until(lambda: publisher.broker_state().name == "online")
    publisher.heartbeat(1)
    subscriber.wait_for(lambda messages: len(messages) == 1, "/heartbeat")
    broker.stop()
    wait_until(lambda: publisher.broker_state().name != "online")
    publisher.heartbeat(2)
    broker.start()
    wait_until(lambda: publisher.broker_state().name == "online")
    counter = itertools.count(3)
    wait_until(lambda: publisher.heartbeat(next(counter)) or len(subscriber.received("/heartbeat")) > 1)
    assert "2" not in [message.payload for message in subscriber.received("/heartbeat")]


USERS = {"press-3": "station", "reader": "reader"}
ALLOWED = "user reader\ntopic read edge-ad/#\nuser press-3\ntopic write edge-ad/press-3/#\n"


def write_secret(tmp_path: Path, password: str) -> str:
    (tmp_path / "password").write_text(f"{password}\n")
    return str(tmp_path / "password")


def test_a_wrong_password_is_called_that_and_the_right_one_is_tried_again(
    tmp_path: Path, make_broker: Callable[..., Broker], make_publisher: MakePublisher
) -> None:
    broker = make_broker(users=USERS, acl=ALLOWED)
    secret = write_secret(tmp_path, "hunter2")
    publisher = make_publisher(station(tmp_path, mqtt_config(broker, username="press-3", password_file=secret)))
    wait_until(lambda: publisher.broker_state().name == "login_refused")
    assert "wrong user name or password for press-3" in publisher.broker_state().detail
    assert "hunter2" not in repr(publisher.broker_state())
    submit(publisher, range(1, 11))
    wait_until(lambda: publisher.stats().unsent == 10)
    publisher.stop(0.0)

    write_secret(tmp_path, "station")
    second = make_publisher(station(tmp_path, mqtt_config(broker, username="press-3", password_file=secret)))
    delivered(second, 10)


def test_a_refused_topic_is_named_and_its_rows_stay_unsent(
    tmp_path: Path,
    make_broker: Callable[..., Broker],
    make_subscriber: Callable[..., Subscriber],
    make_publisher: MakePublisher,
) -> None:
    """MQTT 5 tells it in the PUBACK; the other topics go on, and once it is allowed all rows arrive."""
    denied = "topic deny edge-ad/press-3/alarm/top/defect/event\n"
    broker = make_broker(users=USERS, acl=ALLOWED + denied)
    subscriber = make_subscriber(broker, ("reader", "reader"))
    secret = write_secret(tmp_path, "station")
    publisher = make_publisher(station(tmp_path, mqtt_config(broker, username="press-3", password_file=secret)))
    publisher.set_health(HEALTH)
    submit(publisher, range(1, 61), defects=frozenset({10, 30}))
    wait_until(lambda: publisher.stats().sent == 56)
    wait_until(lambda: publisher.broker_state().name == "publish_refused")
    refusal = publisher.broker_state().detail
    assert "edge-ad/press-3/alarm/top/defect/event" in refusal
    assert "Not authorized" in refusal
    subscriber.wait_for(lambda messages: bodies(messages)[-1]["publish_refused"] == refusal, "/health")
    assert publisher.stats().unsent == 4

    (tmp_path / "broker0" / "acl").write_text(ALLOWED)
    broker.restart()
    delivered(publisher, 60)
    events = bodies(subscriber.wait_for(lambda messages: len(messages) == 4, "defect/event"))
    assert [event["seq"] for event in events] == [10, 11, 30, 31]
    wait_until(lambda: publisher.broker_state().name == "online")
    assert_complete(subscriber.received("/result"), 60)


def test_a_refusal_that_ends_is_noticed_without_a_reconnect(
    tmp_path: Path, make_broker: Callable[..., Broker], make_publisher: MakePublisher
) -> None:
    broker = make_broker(users=USERS, acl=ALLOWED + "topic deny edge-ad/press-3/result\n")
    secret = write_secret(tmp_path, "station")
    publisher = make_publisher(station(tmp_path, mqtt_config(broker, username="press-3", password_file=secret)))
    submit(publisher, range(1, 101))
    wait_until(lambda: publisher.broker_state().name == "publish_refused" and publisher.stats().unsent == 100)
    (tmp_path / "broker0" / "acl").write_text(ALLOWED)
    broker.reload()
    delivered(publisher, 100)
    wait_until(lambda: publisher.broker_state().name == "online")


def test_a_message_above_the_brokers_packet_size_is_named_and_holds_up_nothing(
    tmp_path: Path, make_broker: Callable[..., Broker], make_publisher: MakePublisher
) -> None:
    broker = make_broker(options="max_packet_size 2000")
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    wait_until(lambda: publisher.broker_state().name == "online")
    large = Decision("defect", None, 0.75, 0.5, (Region(1, 2, 3, 4, 5, 0.5),) * 99, 1)
    assert submitted(publisher, Event("top", 1, None, None, time.time_ns(), large))
    submit(publisher, range(2, 51))
    delivered(publisher, 49)
    wait_until(lambda: publisher.broker_state().name == "publish_refused")
    assert "edge-ad/press-3/result" in publisher.broker_state().detail
    assert "2000" in publisher.broker_state().detail
    assert publisher.stats().unsent == 1


def test_a_window_of_one_publish_is_enough(
    tmp_path: Path, make_broker: Callable[..., Broker], make_publisher: MakePublisher
) -> None:
    broker = make_broker(options="max_inflight_messages 1")  # the broker's receive maximum
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    submit(publisher, range(1, 101), defects=frozenset({50}))
    delivered(publisher, 100)


def test_mqtt_3_1_1_delivers_too(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_publisher: MakePublisher
) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker, protocol="3.1.1")))
    submit(publisher, range(1, 101))
    delivered(publisher, 100)
    broker.restart()
    submit(publisher, range(101, 201))
    delivered(publisher, 200)
    assert_complete(subscriber.wait_for(lambda messages: len(parts_of(messages)) >= 200, "/result"), 200)


def test_the_embedded_broker_of_the_demo_works(tmp_path: Path, make_publisher: MakePublisher) -> None:
    pytest.importorskip("amqtt")
    from edge_ad.demo.broker import embedded_broker

    heard: list[tuple[str, bytes]] = []
    ear = Subscription((("edge-ad/#", 1),), lambda message: heard.append((message.topic, message.payload)))
    mqtt = {"backoff_min_s": 0.05, "protocol": "3.1.1"}
    with (
        embedded_broker() as port,
        Listener(MqttConfig(port=port, protocol="3.1.1"), "ear", ear),
    ):
        publisher = make_publisher(station(tmp_path, {**mqtt, "port": port}))
        submit(publisher, range(1, 101), defects=frozenset({5}))
        publisher.stop(20.0)
        wait_until(lambda: ("edge-ad/press-3/status", b"stopped") in heard)
    seqs = [json.loads(payload)["seq"] for topic, payload in heard if topic.endswith("/result")]
    assert seqs == list(range(1, 101))


def test_submit_after_the_end_is_refused(tmp_path: Path, broker: Broker, make_publisher: MakePublisher) -> None:
    publisher = make_publisher(station(tmp_path, mqtt_config(broker)))
    publisher.stop(0.0)
    assert not submitted(publisher, part(1))


def test_the_position_is_that_of_the_last_stored_part(
    tmp_path: Path, broker: Broker, make_publisher: MakePublisher
) -> None:
    config = station(tmp_path, mqtt_config(broker))
    first = make_publisher(config)
    assert first.last_position("top") is None
    submit(first, range(1, 8))
    first.stop(0.0)
    position = make_publisher(config).last_position("top")
    assert position is not None
    assert (position.frame_id, position.mark("")) == (7, "part-7")


def test_what_ends_the_thread_is_reported(tmp_path: Path, broker: Broker) -> None:
    publisher = Publisher(station(tmp_path, mqtt_config(broker)), CONTEXT, Progress())
    publisher.start()
    unknown = Event("top", 1, None, None, time.time_ns(), Decision("good", None, 0.1, 0.5))  # type: ignore[arg-type]
    assert submitted(publisher, unknown)
    wait_until(lambda: publisher.failure() is not None)
    assert not submitted(publisher, part(2))
    publisher.stop(0.0)


def test_a_part_that_a_sensor_announced_and_that_has_no_result_is_missed_by_the_next_process(tmp_path: Path) -> None:
    config = station(tmp_path, {"port": free_port()}, trigger={"kind": "interval", "interval_s": 1.0})
    path = config.state_dir / "outbox.db"
    first = Publisher(config, CONTEXT, Progress())
    first.start()
    first.announce(time.monotonic_ns())
    first.stop(0.0)
    assert first.failure() is None
    second = Publisher(config, CONTEXT, Progress())
    (lost,) = second.triggers.take_lost()
    assert (lost.reason, lost.trigger.trigger_id.split("-")[0]) == ("missed", "interval")
    second.start()
    assert submitted(second, lost.event("top"))
    second.stop(0.0)
    assert second.failure() is None
    assert Outbox(path, CONTEXT, config.outbox).open_triggers() == []


def test_parts_of_a_camera_with_its_own_trigger_that_wait_for_inspection_are_missed_by_the_next_process(
    tmp_path: Path,
) -> None:
    camera = {"kind": "v4l2", "name": "top", "device": "/dev/video0", "hardware_trigger": True}
    config = station(tmp_path, {"port": free_port()}, camera=camera, trigger={"kind": "camera"})
    first = Publisher(config, CONTEXT, Progress())
    first.start()
    for _ in range(3):
        assert first.triggers.admit(time.monotonic_ns()) is not None
    first.stop(0.0)
    second = Publisher(config, CONTEXT, Progress())
    assert [(lost.reason, lost.trigger.trigger_id.split("-")[0]) for lost in second.triggers.take_lost()] == (
        [("missed", "camera")] * 3
    )
    second.start()
    second.stop(0.0)
