"""From `submit` to an independent Sparkplug host at a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="protobuf, with which the host reads, is not installed")

from edge_ad.config import StationConfig
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from edge_ad.records import CameraState
from tests.broker import Broker, Subscriber, free_port, mqtt_config
from tests.daemons import wait_until
from tests.edge_ad.test_publisher import CONTEXT, HEALTH, assert_complete, delivered, parts_of, station, submit
from tests.sparkplug_host import Host, MakeHost

MakeStation = Callable[..., Publisher]
RESEND_S = 10.5  # the least that two keep-alive intervals of 5 s allow


@pytest.fixture
def make_host(broker: Broker) -> Iterator[MakeHost]:
    hosts: list[Host] = []

    def make(**arguments: Any) -> Host:
        hosts.append(Host(broker, **arguments))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def make_station(tmp_path: Path) -> Iterator[MakeStation]:
    """Starts the publisher of a station whose camera is online."""
    publishers: list[Publisher] = []

    def make(config: StationConfig) -> Publisher:
        publishers.append(Publisher(config, CONTEXT, Progress()))
        publishers[-1].start()
        publishers[-1].set_camera(camera("online"))
        return publishers[-1]

    yield make
    for publisher in publishers:
        publisher.stop(0.0)
        assert publisher.failure() is None


def camera(state: Any, detail: str = "") -> CameraState:
    return CameraState("top", state, detail, time.time_ns())


def sparkplug_station(tmp_path: Path, broker: Broker, **options: Any) -> StationConfig:
    mqtt = mqtt_config(broker, keepalive_s=5)
    return station(tmp_path, mqtt, sparkplug={"group_id": "plant", "resend_s": RESEND_S, **options})


def shown(host: Host, name: str) -> Any:
    return host.books.values.get(name)


def test_births_come_first_and_parts_follow_as_present_values(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    host = make_host()
    publisher = make_station(sparkplug_station(tmp_path, broker))
    publisher.set_health(HEALTH)
    host.wait_for("DBIRTH")
    for begin in range(1, 301, 50):
        submit(publisher, range(begin, begin + 50), defects=frozenset({100, 101}))
        host.wait_for_parts(begin + 49)
    parts = host.parts()
    assert host.verbs()[0] == "NBIRTH"
    assert [len(copies) for copies in parts.values()] == [1] * 300
    assert [seq for seq, (told,) in parts.items() if told.metrics["Inspection/Verdict"].value == "defect"] == [100, 101]
    assert not any(reading.historical for (told,) in parts.values() for reading in told.metrics.values())
    wait_until(lambda: shown(host, "Station/Calibration") == 1)
    host.assert_rules()


def test_an_alarm_is_told_with_the_time_of_the_part_that_raised_it(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    host = make_host()
    publisher = make_station(sparkplug_station(tmp_path, broker))
    host.wait_for("DBIRTH")
    assert shown(host, "Alarms/defect/State") == "normal"
    submit(publisher, range(1, 4), defects=frozenset({2}))
    host.wait_for_parts(3)
    wait_until(lambda: shown(host, "Alarms/defect/State") == "normal" and len(host.heard("NDATA")) >= 2)
    told = [
        each.metrics["Alarms/defect/State"] for each in host.heard("NDATA") if "Alarms/defect/State" in each.metrics
    ]
    parts = host.parts()
    assert [(reading.value, reading.at_ms) for reading in told] == [
        (state, parts[seq][0].metrics["Inspection/Seq"].at_ms) for state, seq in (("active", 2), ("normal", 3))
    ]
    host.assert_rules()


def test_a_rebirth_repeats_the_births_with_the_values_of_now(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    """tck-id-operational-behavior-data-commands-rebirth-action-2, -3."""
    host = make_host()
    publisher = make_station(sparkplug_station(tmp_path, broker))
    host.wait_for("DBIRTH")
    submit(publisher, range(1, 11))
    host.wait_for_parts(10)
    host.command(b"\xff\xff\xff")
    host.ask_for_rebirth()
    births = host.wait_for("DBIRTH", 2)
    assert births[1].metrics["Inspection/Seq"].value == 10
    first, second = host.heard("NBIRTH")
    assert first.metrics["bdSeq"].value == second.metrics["bdSeq"].value
    submit(publisher, range(11, 21))
    host.wait_for_parts(20)
    host.assert_rules()


def test_a_camera_that_is_lost_is_a_device_that_died_and_its_alarm_is_told(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    host = make_host()
    publisher = make_station(sparkplug_station(tmp_path, broker))
    host.wait_for("DBIRTH")
    publisher.set_camera(camera("fault", "unplugged"))
    host.wait_for("DDEATH")
    wait_until(lambda: shown(host, "Alarms/camera/State") == "active" and shown(host, "Camera/Detail") == "unplugged")
    submit(publisher, range(1, 4))
    delivered(publisher, 4)  # and the row of the camera's alarm
    assert host.heard("DDATA") == []
    publisher.set_camera(camera("online"))
    host.wait_for("DBIRTH", 2)
    parts = host.wait_for_parts(3)
    assert all(reading.historical for (told,) in parts.values() for reading in told.metrics.values())
    assert shown(host, "Inspection/Seq") == 3
    host.assert_rules()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_lost_while_the_broker_is_away(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation, end: str
) -> None:
    """What was sent just before comes again, as history; bdSeq grows by one with each connection.

    A broker that is stopped remembers that the host was online, although it is not there yet when it starts again.
    """
    host = make_host(host_id="scada")
    publisher = make_station(sparkplug_station(tmp_path, broker, primary_host_id="scada"))
    host.say_state(online=True)
    host.wait_for("DBIRTH")
    submit(publisher, range(1, 51))
    getattr(broker, end)()
    submit(publisher, range(51, 101))
    wait_until(lambda: publisher.stats().unsent >= 50)
    broker.start()
    host.wait_until_connected_again()
    host.say_state(online=True)
    host.wait_for("DBIRTH", 2)
    host.wait_for_parts(100)
    submit(publisher, range(101, 151))
    parts = host.wait_for_parts(150)
    for seq, copies in parts.items():
        assert len({tuple((n, r.value, r.at_ms) for n, r in each.metrics.items()) for each in copies}) == 1
        assert copies[-1].metrics["Inspection/Seq"].historical == (seq <= 100)
    assert host.books.bdseq == 1
    assert shown(host, "Inspection/Seq") == 150
    host.assert_rules()


def test_data_wait_for_the_primary_host_and_births_end_with_it(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    host = make_host(host_id="scada")
    publisher = make_station(sparkplug_station(tmp_path, broker, primary_host_id="scada"))
    submit(publisher, range(1, 11))
    delivered(publisher, 10)
    assert host.heard() == []
    host.say_state(online=True)
    host.wait_for_parts(10)
    submit(publisher, range(11, 21))
    host.wait_for_parts(20)
    host.say_state(online=False, at_ms=1)
    submit(publisher, range(21, 31))
    host.wait_for_parts(30)
    assert "NDEATH" not in host.verbs()

    host.say_state(online=False)
    deaths = host.wait_for("NDEATH")
    host.say_state(online=True, at_ms=2)
    node = publisher._sparkplug
    assert node is not None
    wait_until(lambda: "older time" in node.state())
    submit(publisher, range(31, 41))
    delivered(publisher, 40)
    host.say_state(online=True)
    parts = host.wait_for_parts(40)
    assert all(told.metrics["Inspection/Seq"].historical for seq in range(31, 41) for told in parts[seq])
    assert {each.metrics["bdSeq"].value for each in deaths} == {0}
    assert host.books.bdseq == 1
    host.assert_rules()


def test_a_clean_stop_says_so_and_nothing_is_told_twice(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    """tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath."""
    host = make_host()
    config = sparkplug_station(tmp_path, broker)
    first = make_station(config)
    host.wait_for("DBIRTH")
    submit(first, range(1, 21))
    host.wait_for_parts(20)
    first.stop(5.0)
    assert {each.metrics["bdSeq"].value for each in host.wait_for("NDEATH")} == {0}
    second = make_station(config)
    host.wait_for("DBIRTH", 2)
    submit(second, range(21, 31))
    parts = host.wait_for_parts(30)
    assert [len(copies) for copies in parts.values()] == [1] * 30
    assert host.books.bdseq == 1
    host.assert_rules()


def test_an_edge_node_that_cannot_connect_delays_nothing_else(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, make_station: MakeStation
) -> None:
    """And nothing is kept for it beyond what the outbox keeps anyhow."""
    elsewhere = {"host": "127.0.0.1", "port": free_port(), "keepalive_s": 5, "backoff_min_s": 0.05}
    publisher = make_station(sparkplug_station(tmp_path, broker, mqtt=elsewhere))
    publisher.set_health(HEALTH)
    submit(publisher, range(1, 201))
    delivered(publisher, 200)
    assert_complete(subscriber.wait_for(lambda messages: len(parts_of(messages)) >= 200, "/result"), 200)
    assert publisher.stats().unsent == 0
    subscriber.wait_for(lambda told: any("connection refused" in each.payload for each in told), "/health")


def test_a_backlog_is_told_as_history_while_new_parts_are_present(
    tmp_path: Path, broker: Broker, make_host: MakeHost, make_station: MakeStation
) -> None:
    host = make_host(host_id="scada")
    publisher = make_station(sparkplug_station(tmp_path, broker, primary_host_id="scada"))
    submit(publisher, range(1, 1001), defects=frozenset({500}))
    host.say_state(online=True)
    submit(publisher, range(1001, 1501))
    parts = host.wait_for_parts(1500)
    wait_until(lambda: shown(host, "Inspection/Seq") == 1500)
    assert all(told.metrics["Inspection/Seq"].historical for seq in range(1, 900) for told in parts[seq])
    told = [each.metrics["Inspection/Seq"] for each in host.heard("DDATA")]
    present = [reading.value for reading in told if not reading.historical]
    assert present == sorted(set(present))
    alarms = [
        each.metrics["Alarms/defect/State"] for each in host.heard("NDATA") if "Alarms/defect/State" in each.metrics
    ]
    assert [(reading.value, reading.historical) for reading in alarms] == [("active", True), ("normal", True)]
    host.assert_rules()
