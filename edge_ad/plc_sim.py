"""`edge-ad plc-sim`: a virtual PLC that listens to one station, tells what happens, and says whether it can be trusted.

It does what docs/mqtt.md asks of a consumer: a session that outlives the connection, so that what the broker has
acknowledged arrives; every part once by (station, seq); the heartbeat watched for change. `plc` alone is heard with
QoS 0: a verdict that has waited in a broker's queue must not move an ejector. On request it triggers, too, and holds
the station to exactly one result for each trigger that was acknowledged; and it asks the station once more for what a
broker has lost.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Literal

from pydantic import ValidationError

from edge_ad.config import NAME_PATTERN, MqttConfig, first_problem
from edge_ad.console import say, write_json
from edge_ad.core.consumer import Check, Consumer
from edge_ad.core.handshake import Handshake, HandshakeReport
from edge_ad.core.heard import HEALING, Arrival, Limits, News, Part, Report
from edge_ad.core.mending import Mender, MendReport, Patience
from edge_ad.core.messages import PREFIX, Message, iso8601
from edge_ad.errors import ConfigError
from edge_ad.mqtt import Listener, Subscription

SCHEMA = "edge-ad/plc-sim/1"
TURN_S = 0.2  # a turn without a message ends after so long
SETTLE_S = 3.0  # at the end, what is on its way may take so long
MEND_S = 60.0  # at the end, what was asked for once more may take so long
LOOK_S = 0.1  # so often it is looked whether anything is missing
REPLY_S = 2.0  # without a reply for so long, a trigger is sent again

FILTERS: dict[str, Literal[0, 1]] = {
    "status": 1,
    "heartbeat": 0,
    "result": 1,
    "plc": 0,
    "alarm/+/+/state": 1,
    "alarm/+/+/event": 1,
    "camera/+": 1,
    "health": 1,
    "reply/trigger": 1,
    "reply/replay": 1,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What `plc-sim` was asked for.

    Attributes:
        station: to whom it listens.
        mqtt: the broker.
        client_id: names its session at the broker.
        session_s: for so long the broker keeps what it owes us while we are away.
        limits: what it puts up with.
        count: end after so many parts; None: do not.
        seconds: end after so long; None: do not.
        json_path: write the report here.
        triggers: so many parts are triggered.
        trigger_interval_s: between two triggers.
        replay: ask for what is missing.
    """

    station: str
    mqtt: MqttConfig
    client_id: str
    session_s: int
    limits: Limits
    count: int | None
    seconds: float | None
    json_path: Path | None
    triggers: int = 0
    trigger_interval_s: float = 1.0
    replay: bool = False


def broker(values: Mapping[str, object]) -> MqttConfig:
    """The `mqtt` section of a station's configuration from single values; None leaves a default.

    Raises:
        ConfigError: naming the value and what is wrong with it.
    """
    try:
        return MqttConfig.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(f"broker: {first_problem(error)}") from error


def run_plc_sim(options: Options) -> int:
    """Listen until enough was heard or somebody stops it; 0 only if every promise was kept.

    Raises:
        ConfigError: that is no name of a station.
        PublishError: the broker does not accept us.
    """
    if re.fullmatch(NAME_PATTERN, options.station) is None:
        raise ConfigError(f"{options.station!r} is no name of a station: letters, digits, _ and -, at most 32")
    check, checked_by = _schema_check()
    consumer = Consumer(options.station, options.limits, check)
    name = f"plc-sim-{uuid.uuid4().hex[:8]}"
    handshake = Handshake(name, options.triggers, options.trigger_interval_s, REPLY_S)
    mender = Mender(f"{name}-replay", Patience()) if options.replay else None
    inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
    filters = tuple((f"{PREFIX}/{options.station}/{levels}", qos) for levels, qos in FILTERS.items())
    subscription = Subscription(filters, lambda message: inbox.put(_arrival(message)), options.session_s)
    with _stop_signals() as stop, Listener(options.mqtt, options.client_id, subscription) as listener:
        _tell("start", f"listening to {options.station}; payloads are checked by {checked_by}")
        watch = _Watch(options.station, consumer, handshake, mender, inbox, listener)
        watch.run(lambda: stop.is_set() or _heard(consumer, handshake, mender, options), options.seconds)
        healed = _now_and_then(lambda: _nothing_heals(consumer, mender))
        watch.run(healed, SETTLE_S if mender is None else MEND_S)
    return _conclude(consumer, handshake, mender, options)


class _Watch:
    """Feeds the consumer with messages, the state of the connection and the time; sends commands when they are due."""

    def __init__(
        self,
        station: str,
        consumer: Consumer,
        handshake: Handshake,
        mender: Mender | None,
        inbox: queue.SimpleQueue[Arrival],
        listener: Listener,
    ) -> None:
        self._station = station
        self._consumer = consumer
        self._handshake = handshake
        self._mender = mender
        self._look_s = 0.0
        self._inbox = inbox
        self._listener = listener
        self._broker = ""

    def run(self, done: Callable[[], bool], seconds: float | None) -> None:
        """Go on until it is done, or for so long."""
        until_s = float("inf") if seconds is None else time.monotonic() + seconds
        while not done() and time.monotonic() < until_s:
            self._follow_connection()
            self._take_replies()
            self._trigger()
            self._mend()
            for news in self._turn():
                _tell(news.kind, news.text)

    def _take_replies(self) -> None:
        for reply in self._consumer.take_replies():
            self._handshake.take_reply(reply.correlation_id, done=reply.done)
            if self._mender is not None:
                self._mender.take_reply(reply, time.monotonic())

    def _mend(self) -> None:
        """Ask whoever can answer: nobody while there is no broker, or no station at it."""
        now_s, reachable = time.monotonic(), self._broker == "online" and self._consumer.station_is_online
        if self._mender is None or now_s < self._look_s or not reachable:
            return
        self._look_s = now_s + LOOK_S
        question = self._mender.due(self._consumer.missing(), now_s)
        if question is not None:
            _tell("replay", f"asks for {question.of} {question.span.first} to {question.span.last}")
            self._consumer.asked(question.of, question.span)
            self._listener.publish(question.command(self._station))

    def _trigger(self) -> None:
        for ask in self._handshake.due(time.monotonic()):
            self._listener.publish(ask.command(self._station))

    def _turn(self) -> list[News]:
        try:
            return self._consumer.take(self._inbox.get(timeout=TURN_S))
        except queue.Empty:
            return self._consumer.look(time.monotonic())

    def _follow_connection(self) -> None:
        state = self._listener.state()
        if state.name == self._broker:
            return
        self._broker = state.name
        _tell("broker", state.detail or state.name)
        if state.name == "online":
            self._consumer.connected(time.monotonic())
        else:
            self._consumer.disconnected()


def _arrival(message: Message) -> Arrival:
    return Arrival(message.topic, message.payload, message.retain, time.monotonic(), time.time_ns() // 1_000_000)


def _heard(consumer: Consumer, handshake: Handshake, mender: Mender | None, options: Options) -> bool:
    """Whether all that was asked for has come; without a number, there is no end."""
    if options.count is None and not options.triggers:
        return False
    gone = mender.gone_parts() if mender is not None else 0
    enough = options.count is None or consumer.known() + gone >= options.count
    return enough and handshake.is_settled(consumer.of_triggers(), consumer.gaps())


def _now_and_then(question: Callable[[], bool]) -> Callable[[], bool]:
    """A question that takes long, asked every LOOK_S at most; meanwhile the answer is no."""
    due_s = 0.0

    def asked() -> bool:
        nonlocal due_s
        if time.monotonic() < due_s:
            return False
        answer = question()
        due_s = time.monotonic() + LOOK_S
        return answer

    return asked


def _nothing_heals(consumer: Consumer, mender: Mender | None) -> bool:
    """Whether nothing is wrong that may still come right."""
    healing = HEALING & consumer.report().faults.keys()
    lost = mender is not None and healing == {"missing"} and not mender.can_help(consumer.missing())
    return lost or not healing


def _conclude(consumer: Consumer, handshake: Handshake, mender: Mender | None, options: Options) -> int:
    report = consumer.report()
    triggers = handshake.report(consumer.of_triggers(), consumer.decided_s(), consumer.gaps())
    problem = _too_little(report, options)
    mended = mender.report() if mender is not None else None
    for line in (*_lines(report), *_trigger_lines(triggers), *_replay_lines(mended)):
        say(line)
    if problem:
        say(problem)
    trusted = report.ok and not triggers.faults and not problem
    if options.json_path is not None:
        body = as_json(report, triggers, mended, consumer.parts(), trusted=trusted)
        write_json(options.json_path, body)
    return 0 if trusted else 1


def as_json(
    report: Report, triggers: HandshakeReport, mended: MendReport | None, parts: Mapping[int, Part], *, trusted: bool
) -> dict[str, object]:
    """The report for programs: its figures, and each part once."""
    asked = asdict(mended) if mended is not None else None
    heard = {**asdict(report), "triggers": asdict(triggers), "replays": asked}
    return {"schema": SCHEMA, "ok": trusted, **heard, "parts": [asdict(part) for part in parts.values()]}


def _too_little(report: Report, options: Options) -> str:
    """Why what was heard proves nothing; empty if it was enough."""
    if report.status is None:
        return f"no station {options.station} has told its status at this broker: is the name right, may we read it?"
    parts = sum(report.verdicts.values())
    if options.count is not None and parts < options.count:
        return f"only {parts} of {options.count} parts were heard of"
    return ""


def _lines(report: Report) -> Iterator[str]:
    """The report for people."""
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in report.verdicts.items())
    parts, alarm_events = (sum(b - a + 1 for a, b in runs) for runs in (report.missing, report.missing_events))
    span = f" (seq {report.first_seq} to {report.last_seq})" if report.first_seq is not None else ""
    yield f"station:   {report.station}, {report.status or 'unknown'}"
    yield f"parts:     {verdicts}{span}"
    came = f"copies {report.duplicates}, by replay {report.replayed}, historical results {report.historical}"
    yield f"delivery:  messages {report.messages}, {came}"
    yield f"restarts:  {max(report.boots - 1, 0)}"
    yield f"gaps:      {_gap_parts(report)} parts in {len(report.gaps)} gap records"
    yield f"missing:   {parts} parts, {alarm_events} alarm events"
    yield f"plc:       {report.plc_in_time} in time, {report.plc_late} late"
    yield f"heartbeat: {report.heartbeats} beats, {report.stalls} stalls"
    for alarm in report.alarms:
        events = "".join(f", {event} {count}" for event, count in alarm.events.items())
        yield f"alarm:     {alarm.camera}/{alarm.alarm} {alarm.state}{events}"
    counts = ", ".join(f"{kind} {count}" for kind, count in report.faults.items())
    yield f"faults:    {counts or 'none'}"
    for detail in report.details:
        yield f"  {detail}"


def _trigger_lines(triggers: HandshakeReport) -> Iterator[str]:
    """The handshake for people; nothing where there was none."""
    if not triggers.sent:
        return
    reasons = "".join(f", {reason} {count}" for reason, count in triggers.reasons.items())
    replies = f"acknowledged {triggers.acknowledged}, refused {triggers.refused}, sent again {triggers.again}"
    gaps = f", in gap records {triggers.in_gaps}" if triggers.in_gaps else ""
    yield f"triggers:  {triggers.sent}, {replies}; with exactly one result {triggers.answered}{gaps}{reasons}"
    if triggers.turnaround_ms:
        yield "           trigger to plc: " + ", ".join(f"{k} {v:g} ms" for k, v in triggers.turnaround_ms.items())
    for fault in triggers.faults:
        yield f"  {fault}"


def _replay_lines(mended: MendReport | None) -> Iterator[str]:
    """What was asked for once more, for people; nothing where that was not wanted."""
    if mended is None:
        return
    refused = "".join(f"; refused {count}: {reason}" for reason, count in mended.refusals.items())
    yield f"replays:   {mended.asked}, sent again {mended.again}, gone for good {mended.gone}{refused}"
    if mended.unheard:
        yield "  no reply: does the station take commands, and may we give them?"


def _gap_parts(report: Report) -> int:
    return sum(gap.last - gap.first + 1 for gap in report.gaps)


def _tell(kind: str, text: str) -> None:
    say(f"{iso8601(time.time_ns())}  {kind:<8} {text}")


def _schema_check() -> tuple[Check, str]:
    """What checks payloads, and its name: the shipped JSON Schemas where jsonschema is installed."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        return (lambda _schema, _body: ""), "our own rules (jsonschema is not installed)"
    schemas = [json.loads(file.read_bytes()) for file in (resources.files("edge_ad") / "schemas").iterdir()]
    validators = {_name(schema["$id"]): Draft202012Validator(schema) for schema in schemas}

    def check(schema: str, body: Mapping[str, object]) -> str:
        error = next(validators[schema].iter_errors(body), None)
        return f"{error.json_path}: {error.message[:200]}" if error is not None else ""

    return check, "the JSON Schemas"


def _name(urn: str) -> str:
    """What payloads call a schema: edge-ad/result/1 for urn:edge-ad:result:1."""
    return urn.removeprefix("urn:").replace(":", "/")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that either ends with the report."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
