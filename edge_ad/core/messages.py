"""From records to MQTT messages: topic, payload, QoS and retain flag; docs/mqtt.md is the integrator's view of it.

Two have modules of their own: health.py, and plc.py for the compact form of a result.

A result is stored before it is sent, so its rendering has two halves. `result_body`, `alarm_event_body` and `gap_body`
make what is stored, once; `stamped` adds, on each sending, the two fields in which copies may differ: `published_ms`
and `historical`. All text is ASCII: other characters of a JSON string are escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal, TypedDict, final

from edge_ad.core.alarm_board import Announcement
from edge_ad.core.alarms import AlarmRules, AlarmState, shown
from edge_ad.records import CameraState, Event, Mode, Region, Verdict

PREFIX = "edge-ad"
RESULT_SCHEMA = "edge-ad/result/1"
GAP_SCHEMA = "edge-ad/gap/1"
ALARM_STATE_SCHEMA = "edge-ad/alarm-state/1"
ALARM_EVENT_SCHEMA = "edge-ad/alarm-event/1"
CAMERA_SCHEMA = "edge-ad/camera/1"
REPLY_SCHEMA = "edge-ad/reply/1"

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
        source: what the parts come from, `config.source_name`; not told.
    """

    station: str
    boot_id: str
    bundle: str
    simulated: bool
    source: str = ""


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
    return Message(topic(station, "status"), word.encode(), 1, retain=True)


def heartbeat(station: str, count: int) -> Message:
    """A counter that changes for as long as the inference loop turns."""
    payload = str(count).encode()
    return Message(topic(station, "heartbeat"), payload, 0, retain=False, expiry_s=HEARTBEAT_EXPIRY_S)


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
        "reason": plain_text(decision.reason),
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
        "by": plain_text(happened.by),
        "captured_at": iso8601(happened.at_ns),
        "captured_ms": happened.at_ns // 1_000_000,
        "published_ms": None,
        "historical": None,
        "simulated": context.simulated,
    }


def result(body: ResultBody | GapBody, published_ms: int, historical_after_ms: int) -> Message:
    """A stored result or gap record, to be sent now."""
    return Message(topic(body["station"], "result"), stamped(body, published_ms, historical_after_ms), 1, retain=False)


def alarm_event(body: AlarmEventBody, published_ms: int, historical_after_ms: int) -> Message:
    """A stored alarm event, to be sent now."""
    where = topic(body["station"], "alarm", body["camera"], body["alarm"], "event")
    return Message(where, stamped(body, published_ms, historical_after_ms), 1, retain=False)


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
        "acknowledged_by": plain_text(state.acknowledged_by),
        "shelved_until_at": _moment(shelved_until_ns),
        "shelved_until_ms": _milliseconds(shelved_until_ns),
        "withheld": state.withheld,
        "simulated": context.simulated,
    }


def alarm_state(context: StationContext, camera: str, alarm: str, state: AlarmState, rules: AlarmRules) -> Message:
    """The retained present state of an alarm."""
    body = alarm_state_body(context, camera, alarm, state, rules)
    return Message(topic(context.station, "alarm", camera, alarm, "state"), to_json(body), 1, retain=True)


def camera(context: StationContext, state: CameraState) -> Message:
    """The retained state of a camera."""
    body = {
        "schema": CAMERA_SCHEMA,
        "station": context.station,
        "camera": state.name,
        "state": state.state,
        "detail": plain_text(state.detail),
        "since_at": iso8601(state.since_ns),
        "since_ms": state.since_ns // 1_000_000,
        "frames": state.frames,
        "skipped": state.skipped,
        "simulated": context.simulated,
    }
    return Message(topic(context.station, "camera", state.name), to_json(body), 1, retain=True)


def cleared(station: str, name: str, alarms: Iterable[str]) -> list[Message]:
    """What makes the broker forget the retained states of a camera that this station has no more."""
    topics = [topic(station, "alarm", name, alarm, "state") for alarm in alarms]
    return [Message(each, b"", 1, retain=True) for each in (*topics, topic(station, "camera", name))]


def self_topics(station: str) -> tuple[str, str, str]:
    """The topics of `status`, `health` and `heartbeat`: how a station is."""
    return topic(station, "status"), topic(station, "health"), topic(station, "heartbeat")


def probe(station: str) -> Message:
    """What tells whether the broker takes messages from this station; nobody listens to it."""
    return Message(topic(station, "check"), b"1", 1, retain=False)


def command_filter(station: str) -> str:
    """The topics on which a station takes commands."""
    return topic(station, "cmd", "+")


def reply(station: str, command: str, payload: bytes) -> Message:
    """The answer to a command; `payload` is a `ReplyBody`, as it was stored or is given every time."""
    return Message(topic(station, "reply", command), payload, 1, retain=False)


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


def topic(station: str, *levels: str) -> str:
    """Below the station's own: edge-ad/STATION/LEVEL/..."""
    return "/".join((PREFIX, station, *levels))


def _part_id(event: Event) -> str | None:
    """What the part is called: by whoever announced it, else by the source of the image."""
    announced = event.trigger.part_id if event.trigger is not None else None
    return announced if announced is not None else plain_text(event.part_id)


def _region_body(region: Region) -> RegionBody:
    peak = _finite(region.peak, digits=6)
    return {"x": region.x, "y": region.y, "w": region.w, "h": region.h, "area": region.area, "peak": peak}


def _finite(value: float | None, digits: int | None = None) -> float | None:
    """None for what JSON cannot say; rounded where `digits` is given."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def plain_text(value: str | None) -> str | None:
    """A string that every JSON reader takes: file names may hold bytes that are no text (lone surrogates)."""
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")
