"""From records to MQTT messages: topic, payload, QoS and retain flag; docs/mqtt.md is the integrator's view of it.

A result is stored before it is sent, so its rendering has two halves. `result_body`, `alarm_event_body` and `gap_body`
make what is stored, once; `stamped` adds, on each sending, the two fields in which copies may differ: `published_ms`
and `historical`. All text is ASCII: other characters of a JSON string are escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal, TypedDict, final

from edge_ad.core.alarm_board import Announcement
from edge_ad.core.alarms import AlarmRules, AlarmState, shown
from edge_ad.core.triggers import TriggerFigures
from edge_ad.records import CameraState, Event, Mode, Region, Verdict

PREFIX = "edge-ad"
RESULT_SCHEMA = "edge-ad/result/1"
GAP_SCHEMA = "edge-ad/gap/1"
ALARM_STATE_SCHEMA = "edge-ad/alarm-state/1"
ALARM_EVENT_SCHEMA = "edge-ad/alarm-event/1"
CAMERA_SCHEMA = "edge-ad/camera/1"
HEALTH_SCHEMA = "edge-ad/health/1"
REPLY_SCHEMA = "edge-ad/reply/1"
PLC_VERSION = 1

PLC_MAX_BYTES = 240  # what the send block of older controllers carries
PLC_MAX_NAME = 32  # bytes of `cam`, as NAME_PATTERN of the configuration has it
PLC_MAX_REASON = 20
PLC_RESULT: dict[Verdict, int] = {"not_inspected": 0, "ok": 1, "defect": 2}
PLC_LATE = "late"
HEARTBEAT_EXPIRY_S = 2  # an old beat is no sign of life

StatusWord = Literal["online", "stopped", "offline"]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT publish; after `expiry_s` the broker throws away a copy that still waits for a subscriber."""

    topic: str
    payload: bytes
    qos: Literal[0, 1]
    retain: bool
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class StationContext:
    """What all messages of one run of the daemon share.

    Attributes:
        station: the station's name.
        boot_id: names this run of the daemon.
        bundle: digest of the bundle in service.
        simulated: the images do not show the part that is on the line now (a folder, a video file).
    """

    station: str
    boot_id: str
    bundle: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How the station is, for `health`.

    Attributes:
        version: of the edge-ad package.
        backend, precision: the engine in service.
        calibration: number of the calibration record in force; None while uncalibrated.
        detail: one line that says what is not right; empty if nothing is.
        started_ns: wall clock when the process started, nanoseconds since the epoch, UTC.
        mode: what the station does with frames.
        trigger: what makes a frame a part ("free": it is one).
        ready: a part that comes now would be captured, as far as is known.
        clock_synchronised: whether the wall clock follows a time server; None where the system does not tell.
    """

    version: str
    backend: str
    precision: str
    calibration: int | None
    detail: str
    started_ns: int
    mode: Mode = "run"
    trigger: str = "free"
    ready: bool = False
    clock_synchronised: bool | None = None


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """Why there was no connection to the broker.

    Attributes:
        state: its name, as in docs/mqtt.md.
        detail: one line for a person.
        at_ns: wall clock when it was found out, nanoseconds since the epoch, UTC.
    """

    state: str
    detail: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The outbox in figures.

    Attributes:
        unsent: rows that the broker has not acknowledged.
        full_parts: parts since the start that became `not_inspected`, reason `outbox_full`, for want of room.
        gap_parts: of those, parts that only a gap record speaks of.
        dropped_parts: unsent results since the start that gave way to a gap record.
        last_seq, last_event: numbers of the last part and of the last alarm event; 0 before the first.
    """

    unsent: int
    full_parts: int
    gap_parts: int
    dropped_parts: int
    last_seq: int
    last_event: int


@dataclass(frozen=True, slots=True)
class CommandFigures:
    """The commands since the start, in figures.

    Attributes:
        answered: commands that got a reply, a refusal or a reply that was given before included.
        ignored: commands that nobody can be told about: retained, too long, without an id, too many at a time.
    """

    answered: int = 0
    ignored: int = 0


class RegionBody(TypedDict):
    """A region of `result`; full-frame pixels, `peak` 0..1."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float | None


@final
class ResultBody(TypedDict):
    """The payload of `result`, in its order; `published_ms` and `historical` are None until `stamped`."""

    schema: str
    station: str
    camera: str
    boot_id: str
    seq: int
    frame_id: int
    part_id: str | None
    trigger_id: str | None
    job_id: str | None
    recipe_id: str | None
    verdict: Verdict
    reason: str | None
    score: float | None
    threshold: float | None
    regions: list[RegionBody]
    captured_at: str
    captured_ms: int
    published_ms: int | None
    latency_ms: dict[str, float | None]
    bundle: str
    calibration: int | None
    historical: bool | None
    simulated: bool


@final
class GapBody(TypedDict):
    """The payload of a gap record on `result`: parts `seq_from` to `seq_to` have no result of their own.

    `trigger_ids` are those of these parts, in their order, as many as a record has room for.
    """

    schema: str
    station: str
    boot_id: str
    seq_from: int
    seq_to: int
    reason: str
    trigger_ids: list[str]
    trigger_ids_left_out: int
    captured_at: str
    captured_ms: int
    published_ms: int | None
    historical: bool | None
    simulated: bool


@final
class AlarmEventBody(TypedDict):
    """The payload of `alarm/<camera>/<id>/event`; `seq` is the part that caused it, None where none did."""

    schema: str
    station: str
    camera: str
    alarm: str
    event: str
    state: str
    priority: str
    boot_id: str
    event_no: int
    seq: int | None
    part_id: str | None
    trigger_id: str | None
    count: int
    score: float | None
    threshold: float | None
    by: str | None
    captured_at: str
    captured_ms: int
    published_ms: int | None
    historical: bool | None
    simulated: bool


def status(station: str, word: StatusWord) -> Message:
    """The retained word that says whether the station is there; `offline` is the last will."""
    return Message(_topic(station, "status"), word.encode(), 1, retain=True)


def heartbeat(station: str, count: int) -> Message:
    """A counter that changes for as long as the inference loop turns."""
    payload = str(count).encode()
    return Message(_topic(station, "heartbeat"), payload, 0, retain=False, expiry_s=HEARTBEAT_EXPIRY_S)


def result_body(context: StationContext, seq: int, event: Event) -> ResultBody:
    """What is stored of a part."""
    decision, trigger = event.decision, event.trigger
    return {
        "schema": RESULT_SCHEMA,
        "station": context.station,
        "camera": event.camera,
        "boot_id": context.boot_id,
        "seq": seq,
        "frame_id": event.frame_id,
        "part_id": _part_id(event),
        "trigger_id": trigger.trigger_id if trigger is not None else None,
        "job_id": trigger.job_id if trigger is not None else None,
        "recipe_id": trigger.recipe_id if trigger is not None else None,
        "verdict": decision.verdict,
        "reason": _text(decision.reason),
        "score": _finite(decision.score),
        "threshold": _finite(decision.threshold),
        "regions": [_region_body(region) for region in decision.regions],
        "captured_at": iso8601(event.captured_ns),
        "captured_ms": event.captured_ns // 1_000_000,
        "published_ms": None,
        "latency_ms": {stage: _finite(ms, digits=3) for stage, ms in event.latency_ms.items()},
        "bundle": context.bundle,
        "calibration": decision.calibration,
        "historical": None,
        "simulated": context.simulated,
    }


def gap_body(context: StationContext, seq_from: int, seq_to: int, reason: str, captured_ns: int) -> GapBody:
    """What is stored of parts that there was no room for; `captured_ns` is of the first of them."""
    return {
        "schema": GAP_SCHEMA,
        "station": context.station,
        "boot_id": context.boot_id,
        "seq_from": seq_from,
        "seq_to": seq_to,
        "reason": reason,
        "trigger_ids": [],
        "trigger_ids_left_out": 0,
        "captured_at": iso8601(captured_ns),
        "captured_ms": captured_ns // 1_000_000,
        "published_ms": None,
        "historical": None,
        "simulated": context.simulated,
    }


def alarm_event_body(
    context: StationContext, camera: str, number: int, announced: Announcement, event: Event | None
) -> AlarmEventBody:
    """What is stored of an alarm event, the station's `number`-th; `event` is the part that caused it, if one did."""
    happened = announced.event
    return {
        "schema": ALARM_EVENT_SCHEMA,
        "station": context.station,
        "camera": camera,
        "alarm": announced.alarm,
        "event": happened.kind,
        "state": happened.state,
        "priority": announced.priority,
        "boot_id": context.boot_id,
        "event_no": number,
        "seq": happened.seq,
        "part_id": _part_id(event) if event is not None else None,
        "trigger_id": event.trigger.trigger_id if event is not None and event.trigger is not None else None,
        "count": happened.count,
        "score": _finite(happened.score),
        "threshold": _finite(event.decision.threshold) if event is not None else None,
        "by": _text(happened.by),
        "captured_at": iso8601(happened.at_ns),
        "captured_ms": happened.at_ns // 1_000_000,
        "published_ms": None,
        "historical": None,
        "simulated": context.simulated,
    }


def result(body: ResultBody | GapBody, published_ms: int, historical_after_ms: int) -> Message:
    """A stored result or gap record, to be sent now."""
    return Message(_topic(body["station"], "result"), stamped(body, published_ms, historical_after_ms), 1, retain=False)


def alarm_event(body: AlarmEventBody, published_ms: int, historical_after_ms: int) -> Message:
    """A stored alarm event, to be sent now."""
    topic = _topic(body["station"], "alarm", body["camera"], body["alarm"], "event")
    return Message(topic, stamped(body, published_ms, historical_after_ms), 1, retain=False)


def stamped(body: ResultBody | GapBody | AlarmEventBody, published_ms: int, historical_after_ms: int) -> bytes:
    """The payload of a stored body, its two open fields filled in.

    What seems to come from the future is history as well: the clock was set back after it was captured.
    """
    historical = abs(published_ms - body["captured_ms"]) > historical_after_ms
    return to_json({**body, "published_ms": published_ms, "historical": historical})


def alarm_state_body(
    context: StationContext, camera: str, alarm: str, state: AlarmState, rules: AlarmRules
) -> dict[str, object]:
    """The present state of an alarm."""
    shelved_until_ns = state.shelved_ns[1] if state.shelved_ns is not None else None
    return {
        "schema": ALARM_STATE_SCHEMA,
        "station": context.station,
        "camera": camera,
        "alarm": alarm,
        "state": shown(state, rules),
        "condition": state.condition,
        "priority": rules.priority,
        "since_at": _moment(state.since_ns),
        "since_ms": _milliseconds(state.since_ns),
        "count": state.count if state.condition != "normal" else 0,
        "seq": state.seq,
        "score": _finite(state.score),
        "raised_at": _moment(state.raised_ns),
        "raised_ms": _milliseconds(state.raised_ns),
        "acknowledged_at": _moment(state.acknowledged_ns),
        "acknowledged_ms": _milliseconds(state.acknowledged_ns),
        "acknowledged_by": _text(state.acknowledged_by),
        "shelved_until_at": _moment(shelved_until_ns),
        "shelved_until_ms": _milliseconds(shelved_until_ns),
        "withheld": state.withheld,
        "simulated": context.simulated,
    }


def alarm_state(context: StationContext, camera: str, alarm: str, state: AlarmState, rules: AlarmRules) -> Message:
    """The retained present state of an alarm."""
    body = alarm_state_body(context, camera, alarm, state, rules)
    return Message(_topic(context.station, "alarm", camera, alarm, "state"), to_json(body), 1, retain=True)


def camera(context: StationContext, state: CameraState) -> Message:
    """The retained state of a camera."""
    body = {
        "schema": CAMERA_SCHEMA,
        "station": context.station,
        "camera": state.name,
        "state": state.state,
        "detail": _text(state.detail),
        "since_at": iso8601(state.since_ns),
        "since_ms": state.since_ns // 1_000_000,
        "frames": state.frames,
        "skipped": state.skipped,
        "simulated": context.simulated,
    }
    return Message(_topic(context.station, "camera", state.name), to_json(body), 1, retain=True)


def health(
    context: StationContext,
    state: Health,
    outbox: OutboxFigures,
    commands: CommandFigures,
    triggers: TriggerFigures,
    refusal: str = "",
    sparkplug: str = "",
    fault: ConnectionFault | None = None,
) -> Message:
    """The retained health of the station.

    Args:
        context, state, outbox, commands, triggers: what is told.
        refusal: what publish the broker refuses, and why; empty if none.
        sparkplug: how it stands with Sparkplug; empty if it is not configured.
        fault: why there was no connection the last time that there was none.
    """
    body = {
        "schema": HEALTH_SCHEMA,
        "station": context.station,
        "boot_id": context.boot_id,
        "mode": state.mode,
        "version": state.version,
        "bundle": context.bundle,
        "backend": state.backend,
        "precision": state.precision,
        "calibration": state.calibration,
        "detail": _text(state.detail),
        "publish_refused": _text(refusal),
        "last_fault": _fault(fault),
        "sparkplug": _text(sparkplug),
        "outbox": asdict(outbox),
        "commands": asdict(commands),
        "trigger": {"kind": state.trigger, "ready": state.ready, **asdict(triggers)},
        "clock_synchronised": state.clock_synchronised,
        "started_at": iso8601(state.started_ns),
        "started_ms": state.started_ns // 1_000_000,
        "simulated": context.simulated,
    }
    return Message(_topic(context.station, "health"), to_json(body), 1, retain=True)


def _fault(fault: ConnectionFault | None) -> dict[str, object] | None:
    if fault is None:
        return None
    at = {"at": iso8601(fault.at_ns), "at_ms": fault.at_ns // 1_000_000}
    return {"state": fault.state, "detail": _text(fault.detail), **at}


def self_topics(station: str) -> tuple[str, str, str]:
    """The topics of `status`, `health` and `heartbeat`: how a station is."""
    return _topic(station, "status"), _topic(station, "health"), _topic(station, "heartbeat")


def probe(station: str) -> Message:
    """What tells whether the broker takes messages from this station; nobody listens to it."""
    return Message(_topic(station, "check"), b"1", 1, retain=False)


def command_filter(station: str) -> str:
    """The topics on which a station takes commands."""
    return _topic(station, "cmd", "+")


def reply(station: str, command: str, payload: bytes) -> Message:
    """The answer to a command; `payload` is a `ReplyBody`, as it was stored or is given every time."""
    return Message(_topic(station, "reply", command), payload, 1, retain=False)


@final
class ReplyBody(TypedDict):
    """The payload of `reply/<name>`; what is None was not looked at, for the command was not even tried."""

    schema: str
    station: str
    command: str
    correlation_id: str
    done: bool
    reason: str | None
    executed_at: str | None
    executed_ms: int | None
    last_seq: int | None
    unsent: int | None
    mode: Mode | None
    alarms: list[dict[str, object]]
    details: Mapping[str, object] | None


def refusal_body(station: str, command: str, correlation_id: str, reason: str) -> ReplyBody:
    """The answer to a command that is not tried; the same whenever it is given."""
    return {
        "schema": REPLY_SCHEMA,
        "station": station,
        "command": command,
        "correlation_id": correlation_id,
        "done": False,
        "reason": reason,
        "executed_at": None,
        "executed_ms": None,
        "last_seq": None,
        "unsent": None,
        "mode": None,
        "alarms": [],
        "details": None,
    }


def plc(body: ResultBody, *, late: bool) -> Message:
    """The compact form of a result: flat, ASCII without escapes, at most 240 bytes, each field of one type.

    Args:
        body: the stored result.
        late: the deadline has passed: the verdict, its score and threshold are withheld.
    """
    code, reason = (0, PLC_LATE) if late else (PLC_RESULT[body["verdict"]], body["reason"])
    score, threshold = (None, None) if late else (body["score"], body["threshold"])
    head = f'{{"v":{PLC_VERSION},"cam":"{_tail(_plc_text(body["camera"]), PLC_MAX_NAME)}","seq":{body["seq"]}'
    tail = (
        f'"res":{code},"rsn":"{_plc_text(reason)[:PLC_MAX_REASON]}","sc":{_plc_number(score)}'
        f',"thr":{_plc_number(threshold)},"t":{body["captured_ms"]},"sim":{int(body["simulated"])}}}'
    )
    room = PLC_MAX_BYTES - len(head) - len(tail) - len(',"part":"","trg":"",')
    part, trigger = _fit(_plc_text(body["part_id"]), _plc_text(body["trigger_id"]), room)
    payload = f'{head},"part":"{part}","trg":"{trigger}",{tail}'
    return Message(_topic(body["station"], "plc"), payload.encode("ascii"), 1, retain=False)


def iso8601(ns: int) -> str:
    """Nanoseconds since the epoch as ISO 8601, UTC, to the millisecond: 2026-11-22T04:55:33.123Z."""
    moment = _EPOCH + timedelta(milliseconds=ns // 1_000_000)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _moment(ns: int | None) -> str | None:
    return iso8601(ns) if ns is not None else None


def _milliseconds(ns: int | None) -> int | None:
    return ns // 1_000_000 if ns is not None else None


def to_json(body: Mapping[str, object]) -> bytes:
    """Compact ASCII JSON; NaN and infinities are a programming error here."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def _topic(station: str, *levels: str) -> str:
    return "/".join((PREFIX, station, *levels))


def _part_id(event: Event) -> str | None:
    """What the part is called: by whoever announced it, else by the source of the image."""
    announced = event.trigger.part_id if event.trigger is not None else None
    return announced if announced is not None else _text(event.part_id)


def _region_body(region: Region) -> RegionBody:
    peak = _finite(region.peak, digits=6)
    return {"x": region.x, "y": region.y, "w": region.w, "h": region.h, "area": region.area, "peak": peak}


def _finite(value: float | None, digits: int | None = None) -> float | None:
    """None for what JSON cannot say; rounded where `digits` is given."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def _text(value: str | None) -> str | None:
    """A string that every JSON reader takes: file names may hold bytes that are no text (lone surrogates)."""
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")


def _plc_text(value: str | None) -> str:
    """Printable ASCII that needs no escape in JSON, so that a controller can cut it out by position; None is empty."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in value or "")


def _plc_number(value: float | None) -> str:
    """At most 13 characters, six significant digits, no exponent where small; None is 0, for a field keeps its type."""
    if value is None or not math.isfinite(value):
        return "0"
    text = f"{value:.6g}" if abs(value) >= 1e-4 else f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _tail(value: str, room: int) -> str:
    """The end of a text that is too long, marked: serial numbers differ at their end."""
    return value if len(value) <= room else "~" + value[len(value) - room + 1 :]


def _fit(part: str, trigger: str, room: int) -> tuple[str, str]:
    """Both texts within `room` characters; whoever is short leaves the rest to the other."""
    trigger_room = max(room // 2, room - len(part))
    trigger = _tail(trigger, trigger_room)
    return _tail(part, room - len(trigger)), trigger
