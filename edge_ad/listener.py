"""The other end of the wire: a subscriber for our own tools. The station itself publishes through mqtt.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_ad.errors import PublishError

SUBSCRIBED_S = 10.0


class Listener:
    """Subscribes to a topic filter with QoS 1 for the time of a context (MQTT 3.1.1)."""

    def __init__(self, host: str, port: int, topics: str, on_message: Callable[[str, bytes], None]) -> None:
        """Prepare; `on_message` gets topic and payload, on the listener's thread."""
        self._address = (host, port)
        self._topics = topics
        self._subscribed = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = lambda _client, _userdata, message: _hand_over(message, on_message)
        self._client = client

    def __enter__(self) -> Listener:
        """Connect and subscribe.

        Raises:
            PublishError: the broker cannot be reached, or does not take the subscription.
        """
        host, port = self._address
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise PublishError(f"no broker at {host}:{port}: {error}") from error
        self._client.loop_start()
        if not self._subscribed.wait(SUBSCRIBED_S):
            self._client.loop_stop()
            raise PublishError(f"the broker at {host}:{port} did not take the subscription to {self._topics}")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if not reason.is_failure:
            client.subscribe(self._topics, qos=1)

    def _on_subscribe(
        self, _client: Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if not any(reason.is_failure for reason in reasons):
            self._subscribed.set()


def _hand_over(message: MQTTMessage, on_message: Callable[[str, bytes], None]) -> None:
    on_message(message.topic, bytes(message.payload))
