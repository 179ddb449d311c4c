"""The virtual PLC: it calls a station trustworthy only if it kept every promise, and ends with a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_ad import plc_sim
from edge_ad.cli import main
from edge_ad.config import MqttConfig
from edge_ad.core import consumer, messages
from edge_ad.core.messages import Message
from edge_ad.mqtt import MqttLink
from tests.broker import Broker, free_port, make_tls, mqtt_config
from tests.daemons import wait_until
from tests.edge_ad.core.test_consumer import PLC, RESULT, Line
from tests.plc import PlcSim

PATIENT = ("--stall-s", "600", "--deadline-s", "1e9")  # the messages here are of 2025
GOOD = [messages.status("press-3", "online"), messages.heartbeat("press-3", 1), *Line(["ok"]).outbox[0]]


@contextmanager
def station(broker: Broker, **values: Any) -> Iterator[Callable[[list[Message]], None]]:
    """Sends messages as a station does; they are with the broker when the call returns."""
    link = MqttLink(MqttConfig.model_validate(mqtt_config(broker, **values)), "press-3", None, lambda: None)
    link.start()
    wait_until(lambda: link.state().name == "online")

    def send(messages: list[Message]) -> None:
        tickets = {link.publish(message) for message in messages if message.qos}
        taken: set[Any] = set()
        wait_until(lambda: tickets <= taken or bool(taken.update(ack.ticket for ack in link.acks())))

    yield send
    link.stop(farewell=True)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_station_that_keeps_its_promises_is_trusted(tmp_path: Path, broker: Broker, protocol: str) -> None:
    arguments = ["press-3", "--count", "1", "--protocol", protocol, *PATIENT]
    with station(broker) as send, PlcSim(tmp_path, broker, *arguments) as plc:
        plc.wait_until_it_said("listening")
        send(GOOD)
        assert plc.wait() == 0, plc.said()
        assert plc.report()["ok"]
        assert plc.report()["verdicts"] == {"ok": 1, "defect": 0, "not_inspected": 0}
    assert "faults:    none" in plc.said()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (
            replace(RESULT, payload=RESULT.payload.replace(b'"area":5', b'"area":0')),
            "malformed",
        ),  # the JSON Schema says
        (replace(PLC, payload=b"{"), "malformed"),
        (replace(RESULT, payload=RESULT.payload.replace(b'"seq":1', b'"seq":3')), "missing"),
    ],
)
def test_a_broken_promise_is_told_at_once_or_at_the_end_and_costs_the_exit_code(
    tmp_path: Path, broker: Broker, wrong: Message, kind: str
) -> None:
    with station(broker) as send, PlcSim(tmp_path, broker, "press-3", *PATIENT) as plc:
        plc.wait_until_it_said("listening")
        send([*GOOD, wrong])
        plc.wait_until_it_said("fault    malformed" if kind == "malformed" else "defect")
        assert plc.interrupt() == 1
        assert plc.report()["faults"] == {kind: 1}
    assert f"faults:    {kind} 1" in plc.said()


def test_it_comes_in_by_tls_with_name_and_password(tmp_path: Path, make_broker: Callable[..., Broker]) -> None:
    tls = make_tls(tmp_path / "tls")
    broker = make_broker(users={"press-3": "one", "mes": "two"}, tls=tls)
    for user, password in (("press-3", "one"), ("mes", "two")):
        (tmp_path / user).write_text(password)
    mine = {"username": "press-3", "password_file": str(tmp_path / "press-3"), "tls": {"ca_file": str(tls.ca)}}
    theirs = ["--username", "mes", "--password-file", str(tmp_path / "mes"), "--ca-file", str(tls.ca)]
    with station(broker, **mine) as send, PlcSim(tmp_path, broker, "press-3", "--count", "1", *PATIENT, *theirs) as plc:
        plc.wait_until_it_said("listening")
        send(GOOD)
        assert plc.wait() == 0, plc.said()
    assert "two" not in plc.said().replace("two copies", "")


def test_a_station_that_says_nothing_is_not_trusted(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plc-sim", "press-9", "--port", str(broker.port), "--seconds", "0.1"]) == 1
    assert "no station press-9 has told its status" in capsys.readouterr().out


def test_fewer_parts_than_asked_for_are_not_enough(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    with station(broker) as send:
        send(GOOD[:1])
        arguments = ["--port", str(broker.port), "--seconds", "0.5", "--count", "2"]
        assert main(["plc-sim", "press-3", *arguments]) == 1
    assert "only 0 of 2 parts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["press/3"], 2, "is no name of a station"),
        (["press-3", "--port", "99999"], 2, "port"),
        (["press-3", "--client-cert-file", "/x"], 2, "client_key_file"),
        (["press-3", "--username", "mes", "--password-file", "/no/such/file"], 2, "/no/such/file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plc-sim", *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_broker_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plc-sim", "press-3", "--port", str(free_port())]) == 1
    assert "connection refused" in capsys.readouterr().err


def test_it_listens_to_every_topic_that_a_station_publishes() -> None:
    topics = [*GOOD, Line(["defect"]).outbox[0][1], Line(["defect"]).state()]
    levels = [message.topic.split("/")[2:] for message in topics]
    filters = [levels.split("/") for levels in plc_sim.FILTERS]
    for level in levels:
        assert any(_matches(level, pattern) for pattern in filters), level
    assert plc_sim.FILTERS["plc"] == 0


def _matches(levels: list[str], pattern: list[str]) -> bool:
    return len(levels) == len(pattern) and all(b in ("+", a) for a, b in zip(levels, pattern, strict=True))


def test_without_jsonschema_its_own_rules_check(monkeypatch: pytest.MonkeyPatch) -> None:
    check, name = plc_sim._schema_check()
    assert name == "the JSON Schemas"
    for schema in (consumer.PLC_SCHEMA, *(each for schemas in consumer.SCHEMAS.values() for each in schemas)):
        assert "required" in check(schema, {})
    assert check("edge-ad/plc/1", json.loads(PLC.payload)) == ""
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    check, name = plc_sim._schema_check()
    assert "jsonschema is not installed" in name
    assert check("edge-ad/plc/1", {}) == ""
