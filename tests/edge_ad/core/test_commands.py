"""Commands: whatever the bytes are, they are one of the documented commands or a refusal, and do what they say."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.alarm_board import ALARMS, DEFAULT_RULES, DEFECT, NO_ALARMS, Alarms, Rules, take
from edge_ad.core.alarms import AlarmInput, AlarmRules
from edge_ad.core.commands import ERRANDS, FIELDS, MAX_REQUEST_BYTES, NAMES, Outcome, Refusal, Request, execute, parse
from edge_ad.core.orders import SetMode
from edge_ad.records import Trigger

SCHEMA_OF = {"acknowledge": "cmd-alarm", "reset": "cmd-alarm", "unshelve": "cmd-alarm"}
SCHEMA_OF |= {name: f"cmd-{name}" for name in NAMES if name not in SCHEMA_OF}
FIELD_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "schema": st.sampled_from(["edge-ad/cmd/1", "edge-ad/cmd/2"]),
    "correlation_id": st.sampled_from(["a-1", "{7}", "", " ", "ü", "x" * 64, "x" * 65, "a\u0000"]),
    "by": st.sampled_from(["anna", "Jörg", "", "\u0007", "x" * 65, "\ud800"]),
    "camera": st.sampled_from(["top", "", "+", "x" * 33, "a/b"]),
    "alarm": st.sampled_from([*ALARMS, "fire", ""]),
    "seconds": st.sampled_from([1, 60, 0.5, 604_800, 604_801, -1, True, "60"]),
    "mode": st.sampled_from(["run", "pause", "simulate", "fly", ""]),
    "trigger_id": st.sampled_from(["t-1", "", "x" * 64, "x" * 65, "Teil 7", "a\u0000"]),
    "part_id": st.sampled_from(["A0042", "ü", "", "\ud800"]),
    "job_id": st.sampled_from(["job-7", "x" * 65]),
    "recipe_id": st.sampled_from(["recipe-3", ""]),
    "expires_at": st.sampled_from(["2026-11-22T06:00:00.000Z", "2026-11-22T06:00:00Z", "2026-11-22 06:00", "soon", 7]),
    "threshold": st.sampled_from([0.5, 1, -1e9, 1e9, 1.1e9, 10**400, True, "0.5"]),
    "from": st.sampled_from([1, 7.0, 0, 7.5, 2**63 - 1, 2**63, 1e300, True]),
    "to": st.sampled_from([1, 7, -1, "7"]),
    "sudo": st.just(1),
}
odd = st.sampled_from([None, True, 0, [], {}, "x"])
ROUNDS = 10_000


def whole(name: str) -> dict[str, Any]:
    values = {"camera": "top", "alarm": "defect", "seconds": 60, "correlation_id": "a-1", "mode": "pause"}
    values |= {"by": "anna", "threshold": 0.5, "from": 3, "to": 7}
    return {key: values[key] for key, field in FIELDS[name].items() if field.required}


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_command_is_taken_and_without_any_of_its_fields_it_is_refused(name: str) -> None:
    fields = whole(name)
    request = parse(name, json.dumps(fields).encode())
    assert isinstance(request, Request)
    assert (request.name, request.correlation_id) == (name, "a-1")
    for key in fields:
        refused = parse(name, json.dumps({k: v for k, v in fields.items() if k != key}).encode())
        assert refused == Refusal(None if key == "correlation_id" else "a-1", f"{key} is missing")


@given(
    st.sampled_from(NAMES),
    st.fixed_dictionaries({}, optional={key: values | odd for key, values in FIELD_VALUES.items()}),
    st.booleans(),
)
def test_what_is_taken_is_exactly_what_its_schema_allows(name: str, drawn: dict[str, Any], mostly_whole: bool) -> None:
    fields = {**drawn, **whole(name)} if mostly_whole else drawn
    text = resources.files("edge_ad").joinpath(f"schemas/{SCHEMA_OF[name]}-1.json").read_text(encoding="utf-8")
    valid = jsonschema.Draft202012Validator(json.loads(text)).is_valid(fields)
    assert isinstance(parse(name, json.dumps(fields).encode()), Request) == valid


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"correlation_id":"a","correlation_id":"b"}', "not JSON"),
        (b'{"correlation_id":"a","seconds":NaN}', "not JSON"),
        (b" " * (MAX_REQUEST_BYTES + 1), "more than 4096 bytes"),
    ],
)
def test_what_is_no_command_is_refused_by_its_fault(payload: bytes, reason: str) -> None:
    assert parse("shelve", payload) == Refusal(None, reason)


def test_an_unknown_command_is_answered_where_it_has_an_id_and_a_name_fit_for_a_topic() -> None:
    payload = json.dumps({"correlation_id": "a-1"}).encode()
    assert parse("fly", payload) == Refusal("a-1", f"no such command; there are {', '.join(NAMES)}")
    assert parse("#", payload) == Refusal(None, "no such command")
    assert parse("x" * 33, payload) == Refusal(None, "no such command")


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """A command, its bytes damaged here and there, or bytes that never were one."""
    name = chance.choice([*NAMES, "fly", "", "../x", "reply"])
    its_own = name in NAMES and chance.random() < 0.5
    payload = bytearray(json.dumps(whole(name if its_own else chance.choice(NAMES))).encode())
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(payload) + 1)
        payload[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    return name, chance.randbytes(chance.randrange(200)) if chance.random() < 0.2 else bytes(payload)


def test_ten_thousand_damaged_commands_are_taken_or_refused_and_none_does_more_than_its_schema_says() -> None:
    chance = random.Random(20260102)
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        parsed = parse(*mutated(chance))
        seen[type(parsed).__name__] += 1
        if isinstance(parsed, Request) and parsed.name not in ERRANDS:
            outcome = execute(parsed, "top", NO_ALARMS, 0, DEFAULT_RULES, 3600)
            assert outcome.alarms == NO_ALARMS or parsed.name == "shelve"
    assert seen["Request"] > 250
    assert seen["Refusal"] > 500


RULES: Rules = {**DEFAULT_RULES, DEFECT: AlarmRules(acknowledge=True, latch=True)}


def raised() -> Alarms:
    return take(NO_ALARMS, {DEFECT: AlarmInput("cause", 1)}, 1, RULES)[0]


def do(alarms: Alarms, name: Any, seconds: float = 0.0, camera: str = "top") -> Outcome:
    return execute(Request(name, "a-1", camera, DEFECT, seconds, "anna"), "top", alarms, 2, RULES, 3600)


def test_acknowledge_and_reset_do_what_the_table_says_and_are_refused_where_it_says_nothing() -> None:
    assert do(NO_ALARMS, "acknowledge").refusal == "defect is normal: nothing to acknowledge"
    acknowledged = do(raised(), "acknowledge")
    assert (acknowledged.refusal, acknowledged.alarms[DEFECT].acknowledged_by) == ("", "anna")
    assert do(acknowledged.alarms, "reset").refusal == "defect is acknowledged: nothing to reset"
    latched, _ = take(acknowledged.alarms, {DEFECT: AlarmInput("gone", 3)}, 3, RULES)
    assert do(latched, "reset").alarms[DEFECT].condition == "normal"


def test_shelving_is_bounded_and_can_be_ended() -> None:
    assert do(NO_ALARMS, "shelve", 3601).refusal == "seconds must not be more than 3600 at this station"
    shelved = do(NO_ALARMS, "shelve", 3600)
    assert shelved.alarms[DEFECT].shelved_ns == (2, 2 + 3600 * 10**9)
    assert do(shelved.alarms, "unshelve").alarms[DEFECT].shelved_ns is None
    assert do(NO_ALARMS, "unshelve").refusal == "defect is not shelved"


def test_a_command_for_another_camera_does_nothing() -> None:
    outcome = do(raised(), "acknowledge", camera="side")
    assert (outcome.alarms, outcome.refusal) == (raised(), "no camera side; there is top")


def test_status_changes_nothing() -> None:
    outcome = execute(Request("status", "a-1"), "top", raised(), 2, RULES, 3600)
    assert outcome == Outcome(raised())


def test_a_mode_is_an_order_to_the_frame_path_and_leaves_the_alarms_alone() -> None:
    outcome = execute(Request("mode", "a-1", mode="pause"), "top", raised(), 2, RULES, 3600)
    assert outcome == Outcome(raised(), order=SetMode("pause"))


def triggered(**fields: str) -> Any:
    parsed = parse("trigger", json.dumps({"correlation_id": "a-1", **fields}).encode())
    assert isinstance(parsed, Request)
    return execute(parsed, "top", NO_ALARMS, 2, RULES, 3600).order


def test_a_trigger_carries_what_is_said_of_the_part_and_when_it_came() -> None:
    said = {"trigger_id": "t-1", "part_id": "A0042", "job_id": "job-7", "recipe_id": "recipe-3"}
    assert triggered(**said) == Trigger("t-1", "A0042", "job-7", "recipe-3", at_ns=2)


def test_a_trigger_without_an_id_of_its_own_has_that_of_its_command() -> None:
    assert triggered() == Trigger("a-1", at_ns=2)


@pytest.mark.parametrize(
    ("text", "expires_ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2026-11-22T06:00:00.125Z", 1_795_327_200_125_000_000),
        ("2026-11-22T06:00:00.000001Z", 1_795_327_200_000_001_000),
    ],
)
def test_the_moment_at_which_a_trigger_expires_is_read_exactly(text: str, expires_ns: int) -> None:
    assert triggered(expires_at=text).expires_ns == expires_ns


def test_a_moment_that_no_calendar_has_is_refused() -> None:
    refused = parse("trigger", b'{"correlation_id":"a-1","expires_at":"2026-02-30T06:00:00Z"}')
    assert refused == Refusal("a-1", "expires_at must be like 2026-11-22T06:00:00.000Z")
