"""The connection to the broker; the only file that imports paho.

A thread dials, keeps the connection, and dials again when it ends, for as long as the station runs. Each connection is
a fresh paho client and a clean session, so that nothing but the outbox ever sends a message again: paho's own queue and
its resending on reconnect (unbounded, in memory, blind to acknowledgements of rows) never come into play.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from loguru import logger
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_ad.broker_state import (
    BrokerState,
    explain_dial_error,
    explain_eviction,
    explain_loss,
    explain_refusal,
    suspect_a_namesake,
)
from edge_ad.config import MqttConfig, TlsConfig
from edge_ad.core.backoff import Backoff
from edge_ad.core.health import ConnectionFault
from edge_ad.core.messages import Message
from edge_ad.errors import ConfigError, PublishError
from edge_ad.secret import credential, read_secret

TURN_S = 0.2  # the network loop looks so often whether it shall stop
FAREWELL_S = 2.0  # to get the DISCONNECT out
SUSPICIOUS = 3  # connections in a row that break soon
ANSWER_S = 10.0  # for whoever tries a broker once: paho's time-out for the connection is 5 s
RECEIVE_MAXIMUM = 65_535  # MQTT 5: what a broker bears that does not say
PACKET_OVERHEAD = 24  # bytes of a PUBLISH beside topic and payload, at most

PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}

Ticket = tuple[int, int]  # names a publish: the number of its connection, and its message id
Will = Callable[[], Message]  # makes the last will of the next connection


@dataclass(frozen=True, slots=True)
class Connection:
    """An accepted connection.

    Attributes:
        number: counts the connections of this process, from 1.
        will: the last will that it was made with.
        receive_maximum: unacknowledged publishes that the broker bears.
        max_packet: largest packet that the broker takes, bytes; None if it does not say.
    """

    number: int
    will: Message | None = None
    receive_maximum: int = RECEIVE_MAXIMUM
    max_packet: int | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to a publish: it has taken it if `refusal` is empty.

    To a publish of quality of service 0 the broker says nothing: there, it means that the message has left.
    """

    ticket: Ticket
    refusal: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a listener wants to hear.

    Attributes:
        filters: topic filters, each with the highest quality of service wanted.
        take: is called with each message, on the link's thread, and acknowledged to the broker afterwards.
        expiry_s: for so long the broker keeps what it owes us while we are away; 0: not at all. MQTT 3.1.1 knows no
            such time: there, anything but 0 is as long as the broker likes.
    """

    filters: tuple[tuple[str, Literal[0, 1]], ...]
    take: Callable[[Message], None]
    expiry_s: int = 0


class MqttLink:
    """One connection after the other. `publish`, `acks` and the states may be called from any thread."""

    def __init__(
        self,
        config: MqttConfig,
        client_id: str,
        will: Will | None,
        on_change: Callable[[], None],
        subscription: Subscription | None = None,
    ) -> None:
        """Prepare; `on_change` is called, on the link's thread, whenever there is an acknowledgement or a new state.

        With a subscription, it is `online`, and has a `connection`, once the broker has accepted that. `will` is asked
        before each CONNECT, on the link's thread.

        Raises:
            ConfigError: the password file or a certificate file cannot be used.
        """
        self._config = config
        self._client_id = client_id
        self._will = will
        self._last_will: Message | None = None
        self._told_will = True  # a broker was told the last one; else it serves the next try
        self._on_change = on_change
        self._subscription = subscription
        self._username = read_secret(config.username_file) if config.username_file is not None else config.username
        self._password = read_secret(config.password_file) if config.password_file is not None else None
        self._tls = tls_context(config.tls) if config.tls is not None else None
        self._acks: deque[Ack] = deque()
        self._numbers = itertools.count(1)
        self._own_ids = itertools.count(-1, -1)
        self._accepted: Connection | None = None
        self._live: tuple[Connection, Client] | None = None
        self._hang_up = threading.Event()
        self._ending: BrokerState | None = None
        self._paho_error = ""
        self._state = BrokerState("connecting")
        self._last_fault: ConnectionFault | None = None
        self._stop = threading.Event()
        self._farewell = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Dial, on a thread of its own."""
        self._thread.start()

    def stop(self, *, farewell: bool) -> None:
        """End the connection and the thread; without a farewell the broker publishes the last will."""
        self._farewell = farewell
        self._stop.set()
        self._thread.join(FAREWELL_S + 1)  # a thread that still dials ends with the process

    def redial(self) -> None:
        """End the present connection, without a farewell: the broker publishes the last will; and dial again."""
        self._hang_up.set()

    def state(self) -> BrokerState:
        """The present state; while not connected, how the last try ended."""
        return self._state

    def last_fault(self) -> ConnectionFault | None:
        """Why there was no connection the last time that there was none; None if there always was."""
        return self._last_fault

    def connection(self) -> Connection | None:
        """The present connection."""
        live = self._live
        return live[0] if live is not None else None

    def failure(self) -> BaseException | None:
        """What ended the thread, if it was not `stop`."""
        return self._failure

    def publish(self, message: Message, on: Connection | None = None) -> Ticket | None:
        """Hand a message to the wire; None, and no answer ever, while there is no connection, or not the one wanted."""
        live = self._live
        if live is None or (on is not None and on != live[0]):
            return None
        connection, client = live
        size = len(message.topic) + len(message.payload) + PACKET_OVERHEAD
        if connection.max_packet is not None and size > connection.max_packet:
            return self._refuse(connection, f"{size} bytes, the broker takes packets of {connection.max_packet}")
        properties = None
        if message.expiry_s is not None and self._config.protocol == "5":
            properties = _expiring(message.expiry_s)
        info = client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        return (connection.number, info.mid) if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def acks(self) -> list[Ack]:
        """The answers since the last call."""
        return [self._acks.popleft() for _ in range(len(self._acks))]

    def _refuse(self, connection: Connection, why: str) -> Ticket:
        """Answer for the broker: it would end the connection over this message."""
        ticket = (connection.number, next(self._own_ids))
        self._acks.append(Ack(ticket, why))
        self._on_change()
        return ticket

    def _run(self) -> None:
        backoff = Backoff(self._config.backoff_min_s, self._config.backoff_max_s)
        short = 0  # connections in a row that broke soon
        try:
            while not self._stop.is_set():
                dialled_s = time.monotonic()
                state = self._connect_once()
                lasted = time.monotonic() - dialled_s > self._config.backoff_max_s
                short = short + 1 if state.name == "lost" and not lasted and not self._said_why else 0
                self._enter(suspect_a_namesake(state, self._client_id) if short >= SUSPICIOUS else state)
                if lasted:
                    backoff.reset()  # not on every CONNACK: two stations of one name would evict each other in a spin
                self._stop.wait(backoff.next_s())
        except Exception as error:  # noqa: BLE001 - the daemon ends with it
            self._failure = error
        finally:
            self._live = None
            self._on_change()

    def _connect_once(self) -> BrokerState:
        """One connection from dialling to its end; how it ended."""
        self._accepted = None
        self._ending = None
        self._said_why = False
        self._paho_error = ""
        self._hang_up.clear()
        if self._will is not None and self._told_will:
            self._last_will, self._told_will = self._will(), False
        client = self._new_client()
        try:
            self._dial(client)
            _tune(client, self._config.stall_s)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            return explain_dial_error(error, self._config)
        self._told_will = True
        while not self._ends_it() and client.loop(TURN_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            pass
        self._live = None
        if self._ends_it():
            self._leave(client)
            return BrokerState("stopped" if self._stop.is_set() else "connecting")
        return self._ending or BrokerState("lost", self._paho_error)

    def _ends_it(self) -> bool:
        """Whether we are to end the connection."""
        return self._stop.is_set() or self._hang_up.is_set()

    def _dial(self, client: Client) -> None:
        where = (self._config.host, self._config.port, self._config.keepalive_s)
        if self._config.protocol == "3.1.1":
            client.connect(*where)
        elif self._expiry_s == 0:
            client.connect(*where, clean_start=True)
        else:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._expiry_s
            client.connect(*where, clean_start=False, properties=properties)

    @property
    def _expiry_s(self) -> int:
        return self._subscription.expiry_s if self._subscription is not None else 0

    def _leave(self, client: Client) -> None:
        if self._farewell:
            client.disconnect()
            deadline_s = time.monotonic() + FAREWELL_S
            while time.monotonic() < deadline_s and client.loop(TURN_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _new_client(self) -> Client:
        protocol = PROTOCOLS[self._config.protocol]
        clean_session = self._expiry_s == 0 if self._config.protocol == "3.1.1" else None
        client = Client(
            CallbackAPIVersion.VERSION2, self._client_id, clean_session, protocol=protocol, reconnect_on_failure=False
        )
        client.max_inflight_messages_set(0)  # no limit in paho: the publisher keeps the window
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        will = self._last_will
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        # With a handler for it, publish() on another thread only queues and wakes loop(), which alone writes.
        client.on_socket_register_write = lambda _client, _userdata, _socket: None
        return client

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._ending = explain_refusal(reason.value, _said(reason, properties), self._config)
            return
        self._accepted = Connection(
            next(self._numbers),
            self._last_will,
            getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM),
            getattr(properties, "MaximumPacketSize", None),
        )
        if self._subscription is None:
            self._go_online(client, self._accepted)
        else:
            self._subscribe(client, self._subscription.filters)

    def _go_online(self, client: Client, connection: Connection) -> None:
        self._live = (connection, client)
        self._enter(BrokerState("online"))

    def _subscribe(self, client: Client, filters: Sequence[tuple[str, int]]) -> None:
        if self._config.protocol == "5":
            # as published: a broker tells a subscriber that is there already of no retain flag otherwise
            options = [(topic, SubscribeOptions(qos, retainAsPublished=True)) for topic, qos in filters]
            client.subscribe(options)
        else:
            client.subscribe(list(filters))

    def _on_subscribe(
        self, client: Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        if self._accepted is not None and not refused:
            self._go_online(client, self._accepted)
            return
        self._ending = BrokerState("refused", f"the broker does not let us subscribe: {_said(refused[0], properties)}")
        client.disconnect()

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if self._subscription is None:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:  # which MQTT forbids, and not every broker
            logger.warning("broker: a message on a topic that is no UTF-8 is passed over")
            return
        qos: Literal[0, 1] = 1 if message.qos else 0
        self._subscription.take(Message(topic, bytes(message.payload), qos, message.retain))

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        accepted, self._live = self._accepted is not None, None
        if self._ending is not None:
            return  # a refused CONNACK or SUBACK has said why
        if flags.is_disconnect_packet_from_server:
            self._said_why = True
            self._ending = explain_eviction(reason.value, _said(reason, properties))
        else:
            self._ending = explain_loss(reason.value, self._paho_error, self._config, accepted=accepted)

    def _on_publish(
        self, _client: Client, _userdata: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        live = self._live
        if live is not None:
            self._acks.append(Ack((live[0].number, mid), _said(reason, properties) if reason.is_failure else ""))
            self._on_change()

    def _on_log(self, _client: Client, _userdata: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._paho_error = text

    def _enter(self, state: BrokerState) -> None:
        if state != self._state:
            self._state = state
            expected = state.name in ("connecting", "online", "stopped")
            if not expected:
                self._last_fault = ConnectionFault(state.name, state.detail, time.time_ns())
            where, what = f"{self._config.host}:{self._config.port}", state.detail or state.name
            logger.log("INFO" if expected else "WARNING", "broker {} as {}: {}", where, self._client_id, what)
        self._on_change()


def tls_context(config: TlsConfig) -> ssl.SSLContext:
    """TLS 1.2 or newer that verifies the broker's certificate and name.

    Raises:
        ConfigError: a certificate file cannot be used.
    """
    ca_file = str(credential(config.ca_file)) if config.ca_file is not None else None
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    except OSError as error:
        raise ConfigError(f"cannot use mqtt.tls.ca_file {config.ca_file}: {error}") from error
    if config.client_cert_file is not None and config.client_key_file is not None:
        certificate, key = credential(config.client_cert_file), credential(config.client_key_file)
        try:
            context.load_cert_chain(certificate, key, password="")  # or it would ask
        except OSError as error:
            files = f"{config.client_cert_file} and {config.client_key_file}"
            raise ConfigError(
                f"cannot use the client certificate {files}, which must be PEM without a passphrase: {error}"
            ) from error
    return context


class Listener:
    """A subscriber for the length of a `with` block; when the connection ends, it connects again."""

    def __init__(self, config: MqttConfig, client_id: str, subscription: Subscription | None) -> None:
        """Prepare.

        Raises:
            ConfigError: as `MqttLink`.
        """
        self._config = config
        self._answered = threading.Event()
        self._link = MqttLink(config, client_id, None, self._answered.set, subscription)

    def __enter__(self) -> Listener:
        """Connect; from here on, no message is missed.

        Raises:
            PublishError: the broker does not accept us; the message says why.
        """
        self._link.start()
        self._answered.wait(ANSWER_S)
        state = self._link.state()
        if state.name != "online":
            self._link.stop(farewell=True)
            what = f"no answer within {ANSWER_S:g} s" if state.name == "connecting" else state.detail
            raise PublishError(f"broker {self._config.host}:{self._config.port}: {what}")
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop(farewell=True)

    def publish(self, message: Message) -> None:
        """Send a message, now or never."""
        self._link.publish(message)

    def try_publish(self, message: Message) -> str:
        """Publish a message of quality of service 1; why the broker does not take it, empty if it does."""
        ticket, deadline_s = self._link.publish(message), time.monotonic() + ANSWER_S
        while ticket is not None and time.monotonic() < deadline_s:
            self._answered.clear()
            for ack in self._link.acks():
                if ack.ticket == ticket:
                    return ack.refusal
            if self._link.connection() is None:
                break
            self._answered.wait(TURN_S)
        return f"no answer: {self._link.state().detail}"

    def state(self) -> BrokerState:
        """How it stands with the broker.

        Raises:
            Exception: what ended the thread, if it was not the end of the block.
        """
        failure = self._link.failure()
        if failure is not None:
            raise failure
        return self._link.state()


def _tune(client: Client, stall_s: float) -> None:
    """A decision leaves at once and arrives soon or never.

    No Nagle: it must not wait until the broker has confirmed the packet before it, up to 40 ms. What the network has
    not carried for so long ends with the connection; the kernel would send it again until the keep-alive gives up.
    """
    sock = client.socket()
    if isinstance(sock, socket.socket):  # a TLS socket is one, too
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * stall_s))


@lru_cache(maxsize=64)
def _expiring(seconds: int) -> Properties:
    """The properties of a message that expires; kept, for paho makes them slowly."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    return properties


def _said(reason: ReasonCode, properties: Properties | None) -> str:
    """The name of a reason code, and the broker's own words if it adds some."""
    words = getattr(properties, "ReasonString", None)
    return f"{reason}: {words}" if words else str(reason)
