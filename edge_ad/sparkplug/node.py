"""The edge node: a second connection to a broker, on which the outbox is told as Sparkplug messages.

    outbox rows --> feed (present or history) --> teller (metrics, payload) --> link
    NCMD, STATE --> session (may we, and under which number) ---^

It has no thread of its own but the link's: the publish thread gives it a bounded piece of every turn, and never waits
for it. What cannot be sent stays where it is, in the outbox.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loguru import logger

from edge_ad.config import SparkplugConfig, StationConfig
from edge_ad.core.messages import Message, StationContext
from edge_ad.core.payload import MalformedError
from edge_ad.mqtt import Connection, MqttLink, Subscription, Ticket
from edge_ad.outbox import Outbox
from edge_ad.sparkplug import metrics, payload
from edge_ad.sparkplug.feed import Feed
from edge_ad.sparkplug.payload import Sample
from edge_ad.sparkplug.session import HostState, Send, Session, Verb, host_state, state_topic
from edge_ad.sparkplug.state_file import StateFile
from edge_ad.sparkplug.teller import Present, Teller, wall_ms

STATE_FILE = "sparkplug.state"
WINDOW = 200  # messages that have not left yet; then the rows wait
CATCH_UP_S = 0.05  # from one batch of a backlog to the next, at least
HEARD = 256  # messages of hosts that wait for a turn; of more, the oldest go
FAREWELL_S = 1.0  # for the broker to acknowledge our NDEATH
_OUTDATED = "says online with an older time than before, which is void: is its clock right? A restart here forgets it"


@dataclass(frozen=True, slots=True)
class _Dial:
    """A try to connect: its bdSeq, and the NDEATH that it leaves with the broker."""

    bdseq: int
    will: Message


@dataclass(frozen=True, slots=True)
class _Farewell:
    """An NDEATH of our own that waits for its acknowledgement; until then the connection stays."""

    ticket: Ticket
    until_s: float


class SparkplugNode:
    """All methods belong to the publish thread; `failure` and `state` may be called from any."""

    def __init__(
        self,
        config: StationConfig,
        options: SparkplugConfig,
        context: StationContext,
        outbox: Outbox,
        on_news: Callable[[], None],
    ) -> None:
        """Prepare; `on_news` is called when a turn is due.

        Raises:
            ConfigError: a file that the connection needs, or the state directory, cannot be used.
        """
        self._on_news = on_news
        self._rows_due_s = 0.0
        self._host_id = options.primary_host_id
        self._address = options.address(config.station, config.camera.name)
        client_id = f"{config.station}-sparkplug"
        self._link = MqttLink(options.mqtt or config.mqtt, client_id, self._will, on_news, self._subscription())
        self._file = StateFile(config.state_dir / STATE_FILE)
        known = self._file.settled_id <= outbox.last_id()  # else it is of an outbox that was moved away
        self._feed = Feed(self._file.settled_id if known else 0, options.resend_s)
        self._session = Session(waits_for_host=options.primary_host_id is not None)
        self._lock = threading.Lock()  # for the two that follow, which the link's thread writes
        self._dial: _Dial | None = None
        self._heard: deque[Message] = deque(maxlen=HEARD)
        self._connection: Connection | None = None
        self._bdseq = 0
        self._flying: set[Ticket] = set()
        self._farewell: _Farewell | None = None
        rules = config.alarms.rules()
        self._teller = Teller(context, config.camera.name, rules, outbox, self._feed, self._session, self._publish)

    def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    def stop(self) -> None:
        """Say NDEATH, if there is a session, and end the connection."""
        self._perform(self._session.leave())
        while self._farewell is not None and not self._farewell_is_over():
            time.sleep(0.01)
        if self._farewell is not None and self._farewell.ticket not in self._flying:
            self._feed.confirmed()  # QoS 0 before QoS 1, on one connection: the broker has it all
        self.abandon()
        self._file.settle(self._feed.settled_id)
        self._file.close()

    def abandon(self) -> None:
        """End the connection without a word: the broker says NDEATH."""
        self._link.stop(farewell=False)

    def failure(self) -> BaseException | None:
        """What ended the link's thread, if it was not `stop`."""
        return self._link.failure()

    def state(self) -> str:
        """How it stands, for a person."""
        phase, link = self._session.phase, self._link.state()
        if phase == "waiting":
            why = f", {_OUTDATED}" if self._session.outdated_host else ""
            return f"waiting for primary host {self._host_id}{why}"
        return phase if phase != "away" else f"{link.name} {link.detail}".rstrip()

    def turn(self, present: Present) -> None:
        """Follow the connection and the hosts, and tell what is due."""
        self._teller.present = present
        self._settle()
        self._follow_connection()
        for message in self._take_heard():
            self._obey(message)
        delivers = present.camera is not None and present.camera.state == "online"
        self._perform(self._session.device(present=delivers))
        if self._session.phase == "born":
            self._tell_rows()
            self._teller.tell_states()
            self._feed.pass_time(time.monotonic())
            self._file.settle(self._feed.settled_id)
        elif self._farewell is not None and self._farewell_is_over():
            self._farewell = None
            self._link.redial()

    def _tell_rows(self) -> None:
        """A backlog is told a batch at a time, with pauses: meanwhile, decisions and alarms go their way."""
        now_s = time.monotonic()
        if now_s >= self._rows_due_s:
            more_wait = self._teller.tell_rows(WINDOW - len(self._flying))
            self._rows_due_s = now_s + CATCH_UP_S if more_wait else now_s

    # --- on the link's thread

    def _subscription(self) -> Subscription:
        """Commands and the primary host's state, with QoS 1 [tck-id-message-flow-edge-node-ncmd-subscribe]."""
        topics = [self._address.commands()]
        if self._host_id is not None:
            topics.append(state_topic(self._host_id))
        return Subscription(tuple((topic, 1) for topic in topics), self._hear)

    def _will(self) -> Message:
        """The NDEATH of the next connection; what was heard before concerns an earlier one."""
        bdseq = self._file.next_bdseq()
        at_ms = wall_ms()
        body = payload.birth([Sample(metrics.BDSEQ, bdseq, at_ms)], at_ms, None)
        will = Message(self._address.topic("NDEATH"), body, 1, retain=False)
        with self._lock:
            self._dial = _Dial(bdseq, will)
            self._heard.clear()
        return will

    def _hear(self, message: Message) -> None:
        with self._lock:
            self._heard.append(message)
        self._on_news()

    # --- on the publish thread

    def _follow_connection(self) -> None:
        connection = self._link.connection()
        if connection == self._connection:
            return
        self._connection = connection
        self._flying.clear()
        self._farewell = None
        self._feed.interrupted()
        self._session.disconnected()
        with self._lock:
            dial = self._dial
        if connection is None or dial is None or dial.will is not connection.will:
            self._connection = None  # also if it has ended meanwhile and the next is being dialled
            return
        self._bdseq = dial.bdseq
        self._perform(self._session.connected())

    def _take_heard(self) -> list[Message]:
        """What hosts have said on the present connection."""
        with self._lock:
            if self._connection is None or self._dial is None or self._dial.will is not self._connection.will:
                return []
            heard = list(self._heard)
            self._heard.clear()
            return heard

    def _obey(self, message: Message) -> None:
        try:
            if message.topic != self._address.commands():
                self._follow_host(host_state(message.payload))
            elif not message.retain and metrics.REBIRTH.name in payload.switched_on(message.payload):
                self._perform(self._session.rebirth())
        except MalformedError as error:
            logger.warning("sparkplug: a message on {} is ignored: {}", message.topic, error)

    def _follow_host(self, state: HostState) -> None:
        sends = self._session.host(state)
        if self._session.outdated_host:
            logger.warning("sparkplug: primary host {} {}", self._host_id, _OUTDATED)
        if sends:  # it is gone, or it was: what was sent last has not arrived
            self._feed.interrupted()
        self._perform(sends)

    def _perform(self, sends: Iterable[Send]) -> None:
        for send in sends:
            if send.verb == "NBIRTH":
                logger.info("sparkplug: born, bdSeq {}", self._bdseq)
                self._teller.node_birth(send, self._bdseq)
            elif send.verb == "DBIRTH":
                self._teller.device_birth(send)
            elif send.verb == "DDEATH":
                self._teller.device_death(send)
            else:
                self._say_goodbye()

    def _say_goodbye(self) -> None:
        """NDEATH, as the broker would say it, with QoS 1; the broker says it again when the connection ends.

        A DISCONNECT packet, which is optional [tck-id-operational-behavior-edge-node-intentional-disconnect-packet], is
        not sent: with MQTT 5 it would have to ask for the same.
        """
        logger.info("sparkplug: the session ends, bdSeq {}", self._bdseq)
        will = self._connection.will if self._connection is not None else None
        ticket = self._link.publish(will, on=self._connection) if will is not None else None
        if ticket is not None:
            self._flying.add(ticket)
            self._farewell = _Farewell(ticket, time.monotonic() + FAREWELL_S)

    def _farewell_is_over(self) -> bool:
        """Whether the broker has taken our NDEATH, or has had its time."""
        self._settle()
        farewell = self._farewell
        return farewell is None or farewell.ticket not in self._flying or time.monotonic() >= farewell.until_s

    def _settle(self) -> None:
        """Take in what has left, and what the broker has acknowledged."""
        for ack in self._link.acks():
            self._flying.discard(ack.ticket)
            if ack.refusal:
                logger.warning("sparkplug: the broker does not take a message: {}", ack.refusal)

    def _publish(self, verb: Verb, body: bytes) -> None:
        """If the connection is gone, nothing is sent: the session ends with the next turn, and all is due again."""
        message = Message(self._address.topic(verb), body, 0, retain=False)
        ticket = self._link.publish(message, on=self._connection)
        if ticket is not None:
            self._flying.add(ticket)
