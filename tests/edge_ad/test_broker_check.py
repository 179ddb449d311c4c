"""What `edge-ad check` finds at the broker beyond "it lets us in", without a trace and without a disturbance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_ad import broker_check
from edge_ad.broker_check import examine_broker
from edge_ad.config import MqttConfig, StationConfig
from edge_ad.core import messages
from edge_ad.core.health import CommandFigures, ConnectionFault, OutboxFigures, health_message
from edge_ad.core.messages import Message
from edge_ad.core.triggers import TriggerFigures
from edge_ad.finding import Finding
from edge_ad.lock import locked
from edge_ad.mqtt import MqttLink
from tests.broker import Broker, Subscriber, mqtt_config
from tests.daemons import wait_until
from tests.edge_ad.test_publisher import CONTEXT, HEALTH, station, write_secret

USERS = {"press-3": "right", "reader": "reader"}


@contextmanager
def somebody(broker: Broker) -> Iterator[Callable[[Message], None]]:
    """Publishes what it is given, and waits until the broker has it."""
    link = MqttLink(MqttConfig.model_validate(mqtt_config(broker)), "somebody", None, lambda: None)
    link.start()
    wait_until(lambda: link.state().name == "online")

    def publish(message: Message) -> None:
        ticket = link.publish(message)
        if message.qos:
            wait_until(lambda: ticket in {ack.ticket for ack in link.acks()})

    yield publish
    link.stop(farewell=True)


def found(config: StationConfig) -> list[tuple[str, str]]:
    return [(finding.state, finding.detail) for finding in examine_broker(config)]


def where(broker: Broker) -> str:
    return f"localhost:{broker.port}"


def health(refusal: str, fault: ConnectionFault | None) -> Message:
    return health_message(
        CONTEXT, HEALTH, OutboxFigures(0, 0, 0, 0, 0, 0), CommandFigures(), TriggerFigures(), refusal, fault=fault
    )


def test_a_broker_that_takes_everything_is_found_so_and_keeps_no_trace(
    tmp_path: Path, broker: Broker, make_subscriber: Callable[..., Subscriber]
) -> None:
    assert found(station(tmp_path, mqtt_config(broker))) == [("ok", f"{where(broker)} accepts us over MQTT 5")]
    late = make_subscriber(broker)
    with somebody(broker) as publish:
        publish(Message("edge-ad/press-3/x", b"1", 1, retain=False))
    assert [message.topic for message in late.wait_for(bool)] == ["edge-ad/press-3/x"]


def test_a_station_that_may_not_publish_is_told_before_it_runs(
    tmp_path: Path, make_broker: Callable[..., Broker]
) -> None:
    """As with a user whose name is not the station's."""
    broker = make_broker(users=USERS, acl="user press-3\ntopic readwrite edge-ad/cell-7/#\n")
    secret = write_secret(tmp_path, "right")
    ((state, detail),) = found(station(tmp_path, mqtt_config(broker, username="press-3", password_file=secret)))
    assert state == "failed"
    assert "takes no messages of station press-3 from us: Not authorized: see its access list" in detail


def test_another_station_of_the_same_name_is_found_without_throwing_it_off(tmp_path: Path, broker: Broker) -> None:
    with somebody(broker) as publish:
        publish(messages.status("press-3", "online"))
        beating = broker_check._wait  # while the check listens, the other one's heart beats

        def beat(condition: Callable[[], bool], timeout_s: float) -> bool:
            publish(messages.heartbeat("press-3", 7))
            return beating(condition, timeout_s)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(broker_check, "_wait", beat)
            assert found(station(tmp_path, mqtt_config(broker)))[1:] == [
                ("failed", "another client has taken over the client id: a station press-3 is online elsewhere")
            ]


def test_a_word_that_was_left_behind_is_no_station(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_check, "HEARTBEAT_S", 0.3)
    with somebody(broker) as publish:
        publish(messages.status("press-3", "online"))
    assert [state for state, _ in found(station(tmp_path, mqtt_config(broker)))] == ["ok"]


@pytest.mark.parametrize(
    ("refusal", "age_s", "told"),
    [
        ("", 7200, []),
        (
            "edge-ad/press-3/result: Not authorized",
            7200,
            [("failed", "publish_refused, says the running daemon: edge-ad/press-3/result: Not authorized")],
        ),
        ("", 60, [("warning", "lost: another client seems to have taken over the client id press-3")]),
    ],
)
def test_what_the_running_daemon_says_of_itself_is_passed_on(
    tmp_path: Path, broker: Broker, refusal: str, age_s: int, told: list[Any]
) -> None:
    config = station(tmp_path, mqtt_config(broker))
    at_ns = time.time_ns() - age_s * 10**9
    fault = ConnectionFault("lost", "another client seems to have taken over the client id press-3", at_ns)
    with somebody(broker) as publish, locked(config.state_dir):
        publish(messages.status("press-3", "online"))
        publish(health(refusal, fault))
        findings = examine_broker(config)[1:]
    assert [(each.state, each.detail[-len(detail) :]) for each, (_, detail) in zip(findings, told, strict=True)] == told


def test_a_health_that_is_none_is_said(tmp_path: Path, broker: Broker) -> None:
    config = station(tmp_path, mqtt_config(broker))
    with somebody(broker) as publish, locked(config.state_dir):
        publish(Message("edge-ad/press-3/health", b"{", 1, retain=True))
        finding = examine_broker(config)[1]
    assert finding == Finding("station", "warning", finding.detail)
    assert "cannot be read" in finding.detail
