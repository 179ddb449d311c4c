"""An independent Sparkplug host, of paho and protobuf, which keeps the books that the specification wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import Broker
from tests.daemons import wait_until
from tests.edge_ad.sparkplug.definition import Payload, decode


@dataclass(frozen=True)
class Reading:
    """A metric of a message, under its name."""

    value: Any
    at_ms: int
    historical: bool


@dataclass(frozen=True)
class Heard:
    """A Sparkplug message; data under the names that the birth before declared."""

    verb: str
    device: str
    qos: int
    retained: bool
    at_ms: int
    seq: int | None
    metrics: dict[str, Reading]


@dataclass
class Books:
    """What a host knows of the edge node; a broken rule is noted."""

    aliases: dict[int, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    seq: int | None = None
    bdseq: int | None = None
    devices: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def take(self, verb: str, device: str, payload: Any) -> dict[str, Reading]:
        if verb == "NBIRTH":
            self.aliases, self.devices, self.seq = {}, set(), None
        readings = {self._name(verb, metric): _reading(metric) for metric in payload.metrics}
        self._follow(verb, device, payload, readings)
        if verb in ("NBIRTH", "DBIRTH"):
            self.aliases |= {metric.alias: metric.name for metric in payload.metrics if metric.HasField("alias")}
        for name, reading in readings.items():
            if not reading.historical:
                self.values[name] = reading.value
        return readings

    def _follow(self, verb: str, device: str, payload: Any, readings: dict[str, Reading]) -> None:
        if verb == "NDEATH":
            self._expect(not payload.HasField("seq") and readings.keys() == {"bdSeq"}, "NDEATH is bdSeq alone")
            return
        expected = 0 if self.seq is None else (self.seq + 1) % 256
        self._expect(payload.seq == expected, f"{verb}: seq {payload.seq}, not {expected}")
        self._expect(self.seq is not None or verb == "NBIRTH", f"{verb} before NBIRTH")
        self.seq = payload.seq
        if verb == "NBIRTH":
            self.bdseq = readings["bdSeq"].value
            self._expect(readings["Node Control/Rebirth"].value is False, "Node Control/Rebirth is false")
        if verb in ("DDATA", "DDEATH"):
            self._expect(device in self.devices, f"{verb} without DBIRTH")
        if verb == "DBIRTH":
            self.devices.add(device)
        if verb == "DDEATH":
            self.devices.discard(device)

    def _name(self, verb: str, metric: Any) -> str:
        self._expect(metric.HasField("timestamp"), f"{verb}: a metric without a timestamp")
        if verb in ("NDATA", "DDATA"):
            self._expect(metric.alias in self.aliases, f"{verb}: alias {metric.alias} was not declared")
            return self.aliases.get(metric.alias, "?")
        self._expect(metric.HasField("name") and metric.HasField("datatype"), f"{verb}: a metric without a name")
        name: str = metric.name
        return name

    def _expect(self, holds: bool, rule: str) -> None:
        if not holds:
            self.broken.append(rule)


class Host:
    """Hears one edge node; with a host id, it is a host that edge nodes can wait for.

    Args:
        broker: to connect to.
        node: group and edge node.
        host_id: as which it says STATE.
    """

    def __init__(self, broker: Broker, node: str = "plant/press-3", host_id: str | None = None) -> None:
        self._group, self._node = node.split("/")
        self._host_id = host_id
        self._lock = threading.Lock()
        self._heard: list[Heard] = []
        self.books = Books()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"host-{time.monotonic_ns()}")
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        if host_id is not None:
            self._born_ms = time.time_ns() // 1_000_000
            self._client.will_set(f"spBv1.0/STATE/{host_id}", self._state(online=False, at_ms=self._born_ms), 1, True)
        self._client.connect("127.0.0.1", broker.port, keepalive=5)
        self._client.loop_start()
        assert self._subscribed.wait(20)

    def close(self) -> None:
        """Disconnect; the broker says nothing for it."""
        self._client.disconnect()
        self._client.loop_stop()

    def wait_until_connected_again(self) -> None:
        """Wait until the broker has accepted our subscription after an interruption."""
        assert self._subscribed.wait(20)

    def say_state(self, *, online: bool, at_ms: int | None = None) -> None:
        """Say whether we are online."""
        told = self._state(online=online, at_ms=at_ms or time.time_ns() // 1_000_000)
        self._client.publish(f"spBv1.0/STATE/{self._host_id}", told, 1, True).wait_for_publish(20)

    def ask_for_rebirth(self) -> None:
        """NCMD Node Control/Rebirth."""
        command = Payload(timestamp=time.time_ns() // 1_000_000)
        command.metrics.add(name="Node Control/Rebirth", timestamp=command.timestamp, datatype=11, boolean_value=True)
        self.command(command.SerializeToString())

    def command(self, payload: bytes) -> None:
        """Any NCMD."""
        self._client.publish(f"spBv1.0/{self._group}/NCMD/{self._node}", payload, 0).wait_for_publish(20)

    def heard(self, verb: str | None = None) -> list[Heard]:
        """What was heard so far, in order."""
        with self._lock:
            return [each for each in self._heard if verb in (None, each.verb)]

    def verbs(self) -> list[str]:
        """The same, in a word each."""
        return [each.verb for each in self.heard()]

    def wait_for(self, verb: str, count: int = 1) -> list[Heard]:
        """Wait until so many messages of a kind were heard."""
        wait_until(lambda: len(self.heard(verb)) >= count)
        return self.heard(verb)

    def parts(self) -> dict[int, list[Heard]]:
        """Seq -> the data messages of that part; a gap record under each of its parts."""
        found: dict[int, list[Heard]] = {}
        for each in self.heard("DDATA"):
            first, last = each.metrics["Inspection/Seq From"].value, each.metrics["Inspection/Seq"].value
            for seq in range(first, last + 1):
                found.setdefault(seq, []).append(each)
        return found

    def wait_for_parts(self, count: int) -> dict[int, list[Heard]]:
        """Wait until parts 1 to `count` were told."""
        wait_until(lambda: self.parts().keys() >= set(range(1, count + 1)))
        return self.parts()

    def assert_rules(self) -> None:
        """No rule was broken, and everything came as it has to."""
        assert self.books.broken == []
        for each in self.heard():
            assert not each.retained
            assert each.qos == (1 if each.verb == "NDEATH" else 0)
            assert each.at_ms > 1_600_000_000_000

    def _state(self, *, online: bool, at_ms: int) -> bytes:
        return json.dumps({"online": online, "timestamp": at_ms}).encode()

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"spBv1.0/{self._group}/+/{self._node}/#", 1)

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        _, _, verb, _, *device = message.topic.split("/")
        if verb == "NCMD":
            return
        payload = decode(bytes(message.payload))
        with self._lock:
            readings = self.books.take(verb, "".join(device), payload)
            seq = payload.seq if payload.HasField("seq") else None
            self._heard.append(
                Heard(verb, "".join(device), message.qos, message.retain, payload.timestamp, seq, readings)
            )


def _reading(metric: Any) -> Reading:
    chosen = metric.WhichOneof("value")
    value = getattr(metric, chosen) if chosen is not None else None
    return Reading(value, metric.timestamp, metric.is_historical)


MakeHost = Callable[..., Host]
