"""Every message has the contract's fields in the contract's order, and is valid under its JSON Schema."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_ad.core import messages
from edge_ad.core.alarm_board import DEFECT, Announcement
from edge_ad.core.alarms import AlarmEvent, AlarmEventKind, AlarmRules, AlarmState, Condition, shown
from edge_ad.core.commands import PART
from edge_ad.core.health import CommandFigures, ConnectionFault, Health, OutboxFigures, health_message
from edge_ad.core.messages import StationContext
from edge_ad.core.plc import plc_message
from edge_ad.core.triggers import Lost, TriggerFigures
from edge_ad.records import CameraState, Decision, Event, Region, Trigger

RESULT_FIELDS = [
    "schema",
    "station",
    "camera",
    "boot_id",
    "seq",
    "frame_id",
    "part_id",
    "trigger_id",
    "job_id",
    "recipe_id",
    "verdict",
    "reason",
    "score",
    "threshold",
    "regions",
    "captured_at",
    "captured_ms",
    "published_ms",
    "latency_ms",
    "bundle",
    "calibration",
    "historical",
    "simulated",
]
PLC_FIELDS = ["v", "cam", "seq", "part", "trg", "res", "rsn", "sc", "thr", "t", "sim"]

any_float = st.floats()
texts = st.text(alphabet=st.characters(codec=None), max_size=80)  # lone surrogates too: file names hold any bytes
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
sequence_numbers = st.integers(1, 2**63 - 1)
moments_ns = st.integers(-(2**63), 2**63 - 1)
contexts = st.builds(StationContext, names, st.uuids().map(str), st.text(max_size=64), st.booleans())
regions = st.builds(
    Region,
    st.integers(0, 9999),
    st.integers(0, 9999),
    st.integers(1, 9999),
    st.integers(1, 9999),
    st.integers(1, 10**8),
    any_float,
)
decisions = st.one_of(
    st.builds(
        Decision,
        st.just("not_inspected"),
        st.text(min_size=1, max_size=99),
        st.none() | any_float,
        st.none() | any_float,
    ),
    st.builds(Decision, st.just("ok"), st.none(), any_float, any_float, calibration=st.integers(1)),
    st.builds(
        Decision,
        st.just("defect"),
        st.none(),
        any_float,
        any_float,
        st.lists(regions, min_size=1, max_size=3).map(tuple),
        st.integers(1),
    ),
)
said = st.from_regex(PART, fullmatch=True)
triggers = st.builds(Trigger, said, st.none() | said, st.none() | said, st.none() | said, st.none(), moments_ns)
events = st.builds(
    Event,
    names,
    st.integers(0, 2**63 - 1),
    st.none() | texts,
    st.none() | triggers,
    moments_ns,
    decisions,
    st.dictionaries(st.sampled_from(["queue", "pre", "engine", "post"]), any_float),
)


def validate(name: str, payload: bytes) -> dict[str, Any]:
    schema = json.loads(resources.files("edge_ad").joinpath(f"schemas/{name}-1.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    body: dict[str, Any] = json.loads(payload.decode("ascii"), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator(schema).validate(body)
    assert list(body) == schema["required"]  # the schema states the order as well
    json.dumps(body, ensure_ascii=False).encode()  # no lone surrogate is left
    return body


@given(contexts, sequence_numbers, events, st.integers(0, 2**50))
def test_result_has_the_contracts_fields_in_order(context: StationContext, seq: int, event: Event, now: int) -> None:
    message = messages.result(messages.result_body(context, seq, event), now, 10_000)
    body = validate("result", message.payload)
    assert list(body) == RESULT_FIELDS
    assert (message.topic, message.qos, message.retain) == (f"edge-ad/{context.station}/result", 1, False)
    assert body["historical"] == (abs(now - event.captured_ns // 1_000_000) > 10_000)


@given(contexts, sequence_numbers, events, st.lists(st.integers(0, 2**50), min_size=2, max_size=2))
def test_copies_of_a_result_differ_in_two_fields_only(
    context: StationContext, seq: int, event: Event, times: list[int]
) -> None:
    stored = json.dumps(messages.result_body(context, seq, event))
    first, second = (json.loads(messages.result(json.loads(stored), now, 10_000).payload) for now in times)
    for body in (first, second):
        del body["published_ms"], body["historical"]
    assert first == second


@given(contexts, sequence_numbers, events, st.booleans())
@example(
    StationContext("s" * 32, "b", "d", True),
    2**63 - 1,
    Event(
        "c" * 32,
        1,
        "\u00e9" * 400,
        Trigger('"' * 400),
        -(2**63),
        Decision("not_inspected", "r" * 99, -1.23456789e-300, 1e300),
    ),
    False,
)
def test_plc_is_flat_ascii_of_at_most_240_bytes(context: StationContext, seq: int, event: Event, late: bool) -> None:
    message = plc_message(messages.result_body(context, seq, event), late=late)
    body = validate("plc", message.payload)
    assert len(message.payload) <= 240
    assert list(body) == PLC_FIELDS
    assert b"\\" not in message.payload
    assert (message.topic, message.qos, message.retain) == (f"edge-ad/{context.station}/plc", 1, False)
    assert body["seq"] == seq
    assert all(math.isfinite(body[key]) for key in ("sc", "thr"))


@given(contexts, sequence_numbers, events)
def test_plc_carries_the_verdict_unless_it_is_late(context: StationContext, seq: int, event: Event) -> None:
    stored = messages.result_body(context, seq, event)
    now, late = (json.loads(plc_message(stored, late=late).payload) for late in (False, True))
    assert now["res"] == {"not_inspected": 0, "ok": 1, "defect": 2}[event.decision.verdict]
    assert (late["res"], late["rsn"], late["sc"], late["thr"]) == (0, "late", 0, 0)


def test_plc_keeps_the_end_of_a_long_part_id_and_gives_it_the_room_that_the_trigger_leaves() -> None:
    event = Event("cam", 1, "batch/" * 50 + "serial-0042", Trigger("t7"), 0, Decision("ok", None, 0.25, 0.5))
    body = json.loads(plc_message(messages.result_body(CONTEXT, 1, event), late=False).payload)
    assert body["part"].startswith("~")
    assert body["part"].endswith("serial-0042")
    assert body["trg"] == "t7"
    assert (body["sc"], body["thr"]) == (0.25, 0.5)


def test_plc_example_of_the_documentation() -> None:
    event = Event("top", 7, "A0042", None, 1_763_787_600_123_000_000, Decision("defect", None, 0.41237, 0.25))
    payload = plc_message(messages.result_body(CONTEXT, 118, event), late=False).payload
    assert payload == (
        b'{"v":1,"cam":"top","seq":118,"part":"A0042","trg":"","res":2,"rsn":"",'
        b'"sc":0.41237,"thr":0.25,"t":1763787600123,"sim":0}'
    )


CONTEXT = StationContext("press-3", "boot", "digest", simulated=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "0"),
        (math.nan, "0"),
        (-math.inf, "0"),
        (0.12345678, "0.123457"),
        (1e-5, "0.00001"),
        (-1e-12, "0"),
        (1.5e300, "1.5e+300"),
    ],
)
def test_plc_numbers_are_short_and_always_numbers(value: float | None, text: str) -> None:
    event = Event("top", 7, None, None, 0, Decision("not_inspected", "uncalibrated", value, None))
    assert f'"sc":{text},"thr":0,' in plc_message(messages.result_body(CONTEXT, 1, event), late=False).payload.decode()


alarm_events = st.builds(
    AlarmEvent,
    st.sampled_from(get_args(AlarmEventKind)),
    moments_ns,
    st.sampled_from([*get_args(Condition), "shelved", "suppressed", "out_of_service"]),
    st.integers(0),
    st.none() | sequence_numbers,
    st.none() | any_float,
    st.none() | texts,
)


@given(contexts, alarm_events, st.none() | events)
def test_alarm_event_is_valid(context: StationContext, happened: AlarmEvent, event: Event | None) -> None:
    body = messages.alarm_event_body(context, "top", 1, Announcement(DEFECT, "high", happened), event)
    message = messages.alarm_event(body, 5, 10_000)
    assert validate("alarm-event", message.payload)["event"] == happened.kind
    assert message.topic == f"edge-ad/{context.station}/alarm/top/defect/event"
    assert (message.qos, message.retain) == (1, False)


@given(
    contexts,
    names,
    st.builds(
        AlarmState,
        st.sampled_from(get_args(Condition)),
        since_ns=st.none() | moments_ns,
        count=st.integers(0),
        seq=st.none() | sequence_numbers,
        score=st.none() | any_float,
        raised_ns=st.none() | moments_ns,
        acknowledged_ns=st.none() | moments_ns,
        acknowledged_by=st.none() | texts,
        shelved_ns=st.none() | st.tuples(moments_ns, moments_ns),
        suppressed=st.booleans(),
    ),
    st.builds(AlarmRules, out_of_service=st.booleans()),
)
def test_alarm_state_is_valid_and_retained(
    context: StationContext, camera: str, state: AlarmState, rules: AlarmRules
) -> None:
    message = messages.alarm_state(context, camera, DEFECT, state, rules)
    assert validate("alarm-state", message.payload)["state"] == shown(state, rules)
    assert (message.topic, message.qos) == (f"edge-ad/{context.station}/alarm/{camera}/defect/state", 1)
    assert message.retain


@given(
    contexts,
    st.builds(
        CameraState,
        names,
        st.sampled_from(["opening", "online", "fault"]),
        texts,
        moments_ns,
        st.integers(0),
        st.integers(0),
    ),
)
def test_camera_state_is_valid_and_retained(context: StationContext, state: CameraState) -> None:
    message = messages.camera(context, state)
    assert validate("camera", message.payload)["state"] == state.state
    assert (message.topic, message.qos, message.retain) == (f"edge-ad/{context.station}/camera/{state.name}", 1, True)


faults = st.builds(ConnectionFault, st.sampled_from(["login_refused", "tls_failed", "lost"]), texts, moments_ns)


@given(
    contexts,
    st.builds(Health, names, names, names, st.none() | st.integers(1), texts, moments_ns),
    texts,
    st.none() | faults,
)
def test_health_is_valid_and_retained(
    context: StationContext, state: Health, refusal: str, fault: ConnectionFault | None
) -> None:
    figures = (OutboxFigures(3, 2, 1, 4, 9, 8), CommandFigures(5, 4), TriggerFigures(6, 5))
    message = health_message(context, state, *figures, refusal, fault=fault)
    body = validate("health", message.payload)
    counts = {"unsent": 3, "full_parts": 2, "gap_parts": 1, "dropped_parts": 4}
    assert body["outbox"] == {**counts, "last_seq": 9, "last_event": 8}
    assert (body["last_fault"] is None) == (fault is None)
    assert (body["trigger"]["waiting"], body["trigger"]["asked"]) == (6, 5)
    assert (message.topic, message.qos, message.retain) == (f"edge-ad/{context.station}/health", 1, True)


@given(contexts, sequence_numbers, st.integers(1, 10**6), moments_ns)
def test_gap_record_is_valid_and_goes_to_result(context: StationContext, first: int, parts: int, moment: int) -> None:
    body = messages.gap_body(context, first, first + parts - 1, "outbox_full", moment)
    message = messages.result(body, 5, 10_000)
    assert validate("gap", message.payload)["seq_to"] == first + parts - 1
    assert message.topic == f"edge-ad/{context.station}/result"


def test_what_a_trigger_says_of_its_part_goes_before_the_name_of_a_file() -> None:
    trigger = Trigger("t-1", "A0042", "job-7", "recipe-3")
    decision = Decision("ok", None, 0.25, 0.5, calibration=1)
    body = messages.result_body(CONTEXT, 1, Event("top", 7, "part-1.png", trigger, 0, decision))
    said = (body["trigger_id"], body["part_id"], body["job_id"], body["recipe_id"])
    assert said == ("t-1", "A0042", "job-7", "recipe-3")
    unnamed = messages.result_body(CONTEXT, 1, Event("top", 7, "part-1.png", Trigger("t-2"), 0, decision))
    assert (unnamed["trigger_id"], unnamed["part_id"]) == ("t-2", "part-1.png")


def test_a_part_without_a_capture_is_a_whole_result_and_a_whole_decision() -> None:
    lost = Lost(Trigger("t-1", "A0042", at_ns=5_000_000), "timeout")
    body = messages.result_body(CONTEXT, 1, lost.event("top"))
    result = validate("result", messages.result(body, 6, 10).payload)
    assert (result["frame_id"], result["captured_ms"], result["verdict"]) == (0, 5, "not_inspected")
    plc = validate("plc", plc_message(body, late=False).payload)
    assert (plc["res"], plc["rsn"], plc["trg"], plc["part"]) == (0, "timeout", "t-1", "A0042")


def test_status_is_a_retained_word_and_heartbeat_a_plain_counter() -> None:
    assert messages.status("press-3", "online") == messages.Message("edge-ad/press-3/status", b"online", 1, retain=True)
    beat = messages.Message("edge-ad/press-3/heartbeat", b"7", 0, retain=False, expiry_s=messages.HEARTBEAT_EXPIRY_S)
    assert messages.heartbeat("press-3", 7) == beat


def test_iso8601_is_exact_utc_to_the_millisecond() -> None:
    assert messages.iso8601(1_763_787_600_123_999_999) == "2025-11-22T05:00:00.123Z"
    assert messages.iso8601(-1) == "1969-12-31T23:59:59.999Z"
