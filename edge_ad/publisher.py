"""The publish thread: parts go to the outbox, and from there to the broker.

    commands --> outbox.command (once each) --> replies --> delivery
                                            --> orders --> the inference loop, on its turns
                                            --> triggers --> the capture thread, for its next frame
    submit --> inbox --> outbox.append (one transaction for all that wait) --> delivery --> link
      with the next ones' <-- outbox.mark_sent <-- rows that are done <-- acknowledgements <-+
                         outbox.kept --> sparkplug, where configured, with a link of its own

A part is on the wire only after it is on disk. The inference thread waits when the disk does (`submit` is bounded), and
never for the broker.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from loguru import logger

from edge_ad.broker_state import BrokerState
from edge_ad.channel import Channel
from edge_ad.command_desk import CommandDesk
from edge_ad.config import StationConfig
from edge_ad.core import messages
from edge_ad.core.alarm_board import ALARMS, CAMERA, Alarms
from edge_ad.core.alarms import AlarmInput, InputKind
from edge_ad.core.delivery import Copy, Delivery, Outgoing, Reply, render
from edge_ad.core.health import CommandFigures, ConnectionFault, Health, health_message
from edge_ad.core.messages import GapBody, Message, ResultBody, StationContext
from edge_ad.core.orders import Done, LoopOrder
from edge_ad.errands import Site
from edge_ad.mqtt import Connection, MqttLink, Subscription
from edge_ad.outbox import MARK_ROWS, Outbox
from edge_ad.outbox_file import Position
from edge_ad.progress import Progress
from edge_ad.records import CameraPhase, CameraState, Event, Mode, Trigger
from edge_ad.sparkplug.node import SparkplugNode
from edge_ad.sparkplug.teller import Present
from edge_ad.trigger_desk import TriggerDesk

OUTBOX_FILE = "outbox.db"
INBOX_PARTS = 64  # parts that wait for the disk; then the inference thread waits
TURN_S = 0.2  # a turn without news ends after so long
NOTE_S = 0.2  # where no part comes, acknowledgements are noted after so long
HEALTH_FIGURES_S = 10.0  # health goes out when it changes, its figures so often
REPLIES_WAITING = 64  # for the broker; then commands wait
ALARM_TURN_S = 1.0  # alarms learn so often that time has passed
GOODBYE_S = 1.0  # for the broker to acknowledge `stopped`

# What a camera's state says to its alarm; while it opens, nothing is known.
_CAMERA_SIGNS: dict[CameraPhase, InputKind] = {"fault": "cause", "online": "gone"}


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """The publisher in figures, since the start unless said otherwise.

    Attributes:
        unsent: rows that the broker has not acknowledged, at present.
        sent: rows that it has.
        full_parts: parts that became `not_inspected`, reason `outbox_full`, for want of room.
        gap_parts: of those, parts that only a gap record speaks of.
        commit_ms: what the last transaction took.
    """

    unsent: int
    sent: int
    full_parts: int
    gap_parts: int
    commit_ms: float


@dataclass(frozen=True, slots=True)
class _Submitted:
    event: Event
    deadline_s: float  # monotonic; until then its verdict may go to controllers


def possible_mode(config: StationConfig, stored: Mode) -> Mode:
    """The mode to work in, given that of the outbox: the configuration may have changed since it was stored."""
    left = not config.commands.enabled or (stored == "simulate" and config.simulate is None)
    return "run" if left else stored


class Publisher:
    """Owns the outbox, the connection and the thread between them. The methods may be called from any thread.

    Attributes:
        orders: what commands ask of the frame path, for the inference loop to take.
        triggers: which frames are parts; those triggers that an earlier process left without a result are lost already.
        simulates: whether the frames are those of a simulation, for as long as this publisher is.
    """

    def __init__(self, config: StationConfig, context: StationContext, progress: Progress) -> None:
        """Open the outbox; nothing is sent before `start`.

        Raises:
            ConfigError: the password file or a certificate file cannot be used.
            OutboxError: the outbox cannot be opened.
        """
        self._config = config
        self._context = context
        self._progress = progress
        self._news = threading.Event()
        self.orders: queue.SimpleQueue[LoopOrder] = queue.SimpleQueue()
        self.triggers = TriggerDesk(config.trigger)
        self._delivery = Delivery(config.mqtt.backoff_min_s, config.mqtt.backoff_max_s)
        self._desk = CommandDesk(Site(config, context.bundle, self._delivery.replays), self.orders, self.triggers)
        will = messages.status(config.station, "offline")
        self._link = MqttLink(config.mqtt, config.station, lambda: will, self._news.set, self._subscription())
        self._rules = config.alarms.rules()
        self._outbox = Outbox(config.state_dir / OUTBOX_FILE, context, config.outbox, self._rules)
        self._take_up()
        self.simulates = self.mode() == "simulate"
        self._inbox: Channel[_Submitted | Trigger] = Channel(INBOX_PARTS, "block")
        self.triggers.note = self._note
        self._told: queue.SimpleQueue[CameraState | Health] = queue.SimpleQueue()
        self._sparkplug = self._sparkplug_node()
        self._delivery.states.put(messages.status(config.station, "online"))  # the first of each connection
        self._shown: Alarms = {}
        self._alarm_turn_s = 0.0
        self._tell_alarms("configured")
        self._clear_other_cameras()
        self._connection: Connection | None = None
        self._part: ResultBody | GapBody | None = None  # the newest
        self._camera: CameraState | None = None
        self._health: Health | None = None
        self._health_due_s = 0.0
        self._refusal = ""
        self._fault: ConnectionFault | None = None
        self._commands = CommandFigures()
        self._sparkplug_state = ""
        self._sent = 0
        self._note_due_s = math.inf  # for what is acknowledged and not noted yet
        self._commit_ms = 0.0
        self._stats = self._figures()
        self._drain_until_s: float | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def start(self) -> None:
        """Begin to connect, store and send."""
        self._link.start()
        if self._sparkplug is not None:
            self._sparkplug.start()
        self._thread.start()

    def stop(self, drain_s: float) -> None:
        """Store all that was submitted, try for `drain_s` to send what is unsent, say `stopped`, and end."""
        self._drain_until_s = time.monotonic() + drain_s
        self._inbox.close()
        self._news.set()
        self._thread.join()
        self._link.stop(farewell=False)  # if the thread failed, it has not
        if self._sparkplug is not None:
            self._sparkplug.abandon()

    def submit(self, event: Event, captured_monotonic_ns: int, timeout_s: float) -> bool:
        """Hand over a part; False if the disk did not keep up for `timeout_s`, or the publisher has ended.

        The monotonic clock at its capture counts for controllers: the wall clock may be set in between.
        """
        deadline_s = captured_monotonic_ns / 1e9 + self._config.plc.deadline_s
        accepted = self._inbox.put(_Submitted(event, deadline_s), timeout_s)
        self._news.set()
        return accepted

    def announce(self, since_ns: int) -> None:
        """A sensor has seen a part; it is noted with the next commit, and its frame is not kept waiting for that.

        Args:
            since_ns: when, by `time.monotonic_ns`.
        """
        at_ns = time.time_ns() - (time.monotonic_ns() - since_ns)
        trigger = Trigger(self.triggers.name(), at_ns=at_ns)
        self._note(trigger)
        self.triggers.ask(trigger, since_ns)

    def _note(self, trigger: Trigger) -> None:
        """Ahead of its result; where the disk is stuck, only that one is stored."""
        self._inbox.put(trigger, 0.0)
        self._news.set()

    def heartbeat(self, count: int) -> None:
        """Publish the counter, now or never."""
        self._link.publish(messages.heartbeat(self._config.station, count))

    def set_camera(self, state: CameraState) -> None:
        """Tell the state of a camera, now and on every connection."""
        self._told.put(state)
        self._news.set()

    def set_health(self, health: Health) -> None:
        """Tell how the station is, now and on every connection."""
        self._told.put(health)
        self._news.set()

    def order_done(self, done: Done) -> None:
        """An order has come to its end; its command is answered now."""
        self._desk.take_done(done)
        self._news.set()

    def broker_state(self) -> BrokerState:
        """How it stands with the broker."""
        state, refusal = self._link.state(), self._refusal
        return BrokerState("publish_refused", refusal) if refusal and state.name in ("online", "lost") else state

    def last_position(self, camera: str) -> Position | None:
        """Where a camera was when its last part was stored; None if it never had one."""
        return self._outbox.last_position(camera)

    def mode(self) -> Mode:
        """What the last command to that effect has chosen; a station that takes no commands runs."""
        return possible_mode(self._config, self._outbox.mode())

    def stats(self) -> PublisherStats:
        """The publisher in figures."""
        return self._stats

    def failure(self) -> BaseException | None:
        """What ended a thread, if it was not `stop`."""
        sparkplug = self._sparkplug.failure() if self._sparkplug is not None else None
        return self._failure or self._link.failure() or sparkplug

    def _take_up(self) -> None:
        """Go on where an earlier process ended: in its mode; and the parts that it was told of have gone by."""
        self.triggers.set_mode(self.mode())
        for trigger in self._outbox.open_triggers():
            self.triggers.lose(trigger, "missed")

    def _clear_other_cameras(self) -> None:
        """Have the broker forget the states of a camera that is called otherwise now: nobody could clear its alarms."""
        own, others = self._config.camera.name, set(self._outbox.cameras()) - {self._config.camera.name}
        for name in sorted(others):
            for message in messages.cleared(self._config.station, name, ALARMS):
                self._delivery.states.put(message)
        self._clears = bool(others)
        self._outbox.note_cameras([own, *sorted(others)])

    def _subscription(self) -> Subscription | None:
        if not self._config.commands.enabled:
            return None
        return Subscription(((messages.command_filter(self._config.station), 1),), self._take_command)

    def _sparkplug_node(self) -> SparkplugNode | None:
        options = self._config.sparkplug
        if options is None:
            return None
        return SparkplugNode(self._config, options, self._context, self._outbox, self._news.set)

    def _take_command(self, message: Message) -> None:
        """On the link's thread."""
        self._desk.take(message)
        self._news.set()

    def _run(self) -> None:
        try:
            while not self._finished():
                self._turn()
            self._link.stop(farewell=self._say_stopped())
            if self._sparkplug is not None:
                self._sparkplug.stop()
            self._outbox.close()
        except Exception as error:  # noqa: BLE001 - the daemon ends with it
            self._failure = error
            self._inbox.close()

    def _finished(self) -> bool:
        if self._drain_until_s is None or not self._inbox.finished:
            return False
        nothing_left = self._stats.unsent == 0 and self._delivery.in_flight == 0
        return nothing_left or time.monotonic() >= self._drain_until_s

    def _turn(self) -> None:
        self._news.wait(TURN_S)
        self._news.clear()
        self._store()
        self._follow_connection()
        self._settle()
        self._answer_commands()
        self._take_states()
        self._pass_time()
        if self._drain_until_s is not None:
            self._delivery.replays.clear()  # there is no time for copies
        self._feed()
        if self._sparkplug is not None:
            with self._progress.stage("commit", self._config.limits.commit_s):  # it reads the outbox and writes a file
                self._sparkplug.turn(Present(self._part, self._camera, self._health))
        self._stats = self._figures()

    def _store(self) -> None:
        """Commit all parts that wait, together: one fsync."""
        waiting = self._inbox.get_all(0.0)
        if not waiting:
            return
        submitted = [each for each in waiting if isinstance(each, _Submitted)]
        announced = [each for each in waiting if isinstance(each, Trigger)]
        began_s = time.monotonic()
        with self._progress.stage("commit", self._config.limits.commit_s):
            leaves = self._delivery.online and self._delivery.rows.caught_up
            rows = self._outbox.append([each.event for each in submitted], announced, leaves=leaves)
        now_s = time.monotonic()
        self._commit_ms = 1000 * (now_s - began_s)
        self._note_due_s = math.inf  # they are noted with it
        for row, each in zip(rows, submitted, strict=True):
            self._delivery.rows.put_fresh(row, each.deadline_s, now_s, online=self._delivery.online)
            self._part = row.body
        self._show_alarms()

    def _follow_connection(self) -> None:
        connection = self._link.connection()
        if connection == self._connection:
            return
        self._connection = connection
        if connection is None:
            self._delivery.disconnected()
        else:
            self._delivery.connected(min(self._config.mqtt.in_flight, connection.receive_maximum))

    def _settle(self) -> None:
        """Take in the acknowledgements; which rows are done is noted with the next parts, or soon where none come."""
        now_s = time.monotonic()
        for ack in self._link.acks():
            self._delivery.acknowledged(ack.ticket, ack.refusal, now_s)
        done = self._delivery.rows.take_done()
        self._sent += len(done)
        with self._progress.stage("commit", self._config.limits.commit_s):
            if self._clears and not self._delivery.states.clears:
                self._clears = False
                self._outbox.note_cameras([self._config.camera.name])
            waiting = self._outbox.mark_sent(done, _wall_ms())
            self._note_due_s = min(self._note_due_s, now_s + NOTE_S) if waiting else math.inf
            if waiting >= MARK_ROWS or now_s >= self._note_due_s or self._drain_until_s is not None:
                self._outbox.mark()
                self._note_due_s = math.inf

    def _answer_commands(self) -> None:
        if not self._desk.waits() or self._delivery.replies_waiting >= REPLIES_WAITING:
            return
        with self._progress.stage("commit", self._config.limits.commit_s):
            replies = self._desk.answer(self._outbox)
        for reply in replies:
            self._delivery.put_reply(reply)
        self._delivery.rows.more()
        self._show_alarms()
        if self._desk.waits():
            self._news.set()  # the next turn comes at once

    def _take_states(self) -> None:
        while not self._told.empty():
            told = self._told.get()
            if isinstance(told, CameraState):
                self._delivery.states.put(messages.camera(self._context, told))
                self._watch_camera(told)
                self._camera = told
            else:
                self._health, self._health_due_s = told, 0.0
        self._note_refusal()
        sparkplug = self._sparkplug.state() if self._sparkplug is not None else ""
        found = (self._desk.figures(), sparkplug, self._link.last_fault())
        if found != (self._commands, self._sparkplug_state, self._fault):
            (self._commands, self._sparkplug_state, self._fault), self._health_due_s = found, 0.0
        self._show_health()

    def _note_refusal(self) -> None:
        """Tell at once that the broker refuses a publish, and that it refuses none any more."""
        refusal = self._delivery.refusal
        if refusal == self._refusal:
            return
        self._refusal, self._health_due_s = refusal, 0.0
        if refusal:
            logger.warning("broker publish_refused: {}", refusal)
        else:
            logger.info("broker: no publish is refused any more")

    def _show_health(self) -> None:
        now_s = time.monotonic()
        if self._health is not None and now_s >= self._health_due_s:
            self._health_due_s = now_s + HEALTH_FIGURES_S
            figures = (self._outbox.figures(), self._commands, self.triggers.figures())
            told = (self._refusal, self._sparkplug_state, self._fault)
            self._delivery.states.put(health_message(self._context, self._health, *figures, *told))

    def _watch_camera(self, told: CameraState) -> None:
        kind = _CAMERA_SIGNS.get(told.state)
        if kind is not None:
            self._take_alarms({CAMERA: AlarmInput(kind, told.since_ns)}, told.since_ns)

    def _pass_time(self) -> None:
        if time.monotonic() >= self._alarm_turn_s:
            self._alarm_turn_s = time.monotonic() + ALARM_TURN_S
            self._tell_alarms("time")

    def _tell_alarms(self, kind: InputKind) -> None:
        """Tell all alarms what concerns each of them."""
        happened = AlarmInput(kind, time.time_ns())
        self._take_alarms(dict.fromkeys(self._rules, happened), happened.at_ns)

    def _take_alarms(self, inputs: Mapping[str, AlarmInput], at_ns: int) -> None:
        with self._progress.stage("commit", self._config.limits.commit_s):
            news = self._outbox.take(self._config.camera.name, inputs, at_ns)
        if news:
            self._delivery.rows.more()
        self._show_alarms()

    def _show_alarms(self) -> None:
        """Tell the states that have changed."""
        camera = self._config.camera.name
        alarms = self._outbox.alarms(camera)
        for alarm, state in alarms.items():
            if state != self._shown.get(alarm):
                message = messages.alarm_state(self._context, camera, alarm, state, self._rules[alarm])
                self._delivery.states.put(message)
        self._shown = alarms

    def _feed(self) -> None:
        """Send as much as the window takes."""
        while (outgoing := self._next()) is not None:
            message = self._message(outgoing)
            ticket = self._link.publish(message)
            if ticket is None:
                return  # the connection has just ended; on the next one all of it is due again
            self._delivery.sent(ticket, outgoing, message.topic)

    def _next(self) -> Outgoing | None:
        now_s = time.monotonic()
        wanted = self._delivery.wanted(now_s)
        copies = self._delivery.wanted_copies()
        if wanted is not None or copies is not None:
            with self._progress.stage("commit", self._config.limits.commit_s):  # they may note what is on its way
                if wanted is not None:
                    self._delivery.rows.offer(self._outbox.unsent(wanted.after_id, wanted.limit))
                if copies is not None:
                    self._delivery.replays.offer(self._outbox.copies(copies))
        return self._delivery.next(now_s)

    def _message(self, outgoing: Outgoing) -> Message:
        if isinstance(outgoing, Message):
            return outgoing
        if isinstance(outgoing, Reply):
            return outgoing.message
        parcel = outgoing.parcel if isinstance(outgoing, Copy) else outgoing
        left_s = self._delivery.rows.left_s(parcel.row.id, time.monotonic())
        historical_after_ms = round(1000 * self._config.outbox.historical_after_s)
        return render(parcel, left_s=left_s, published_ms=_wall_ms(), historical_after_ms=historical_after_ms)

    def _say_stopped(self) -> bool:
        """Tell that we end as planned; False if the broker did not acknowledge it: then the last will has to speak."""
        ticket = self._link.publish(messages.status(self._config.station, "stopped"))
        until_s = time.monotonic() + GOODBYE_S
        while ticket is not None and time.monotonic() < until_s:
            if any(ack.ticket == ticket and not ack.refusal for ack in self._link.acks()):
                return True
            self._news.wait(TURN_S)
            self._news.clear()
        return False

    def _figures(self) -> PublisherStats:
        figures = self._outbox.figures()
        return PublisherStats(figures.unsent, self._sent, figures.full_parts, figures.gap_parts, self._commit_ms)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
