"""What docs/plc.md gives an integrator to copy is right: code, sizes, the Node-RED flow, the AsyncAPI document."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.core import commands, health, messages, plc
from edge_ad.core.alarm_board import ALARMS, DEFECT, Announcement
from edge_ad.core.alarms import AlarmEvent, AlarmRules, AlarmState
from edge_ad.core.commands import NAMES
from edge_ad.core.health import CommandFigures, Health, OutboxFigures, health_message
from edge_ad.core.messages import Message, StationContext
from edge_ad.core.plc import plc_message
from edge_ad.core.triggers import TriggerFigures
from edge_ad.records import CameraState, Decision, Event, Region, Trigger
from tests.edge_ad.core.test_commands import whole
from tests.edge_ad.core.test_messages import contexts, events, sequence_numbers
from tests.structured_text import FunctionBlock, String, Timer, tokens

DOCS = Path(__file__).parents[1] / "docs"
PLC_MD = (DOCS / "plc.md").read_text(encoding="utf-8")
SCL = re.findall(r"^```scl\n(.*?)^```", PLC_MD, flags=re.MULTILINE | re.DOTALL)[0]
MQTT_MD = (DOCS / "mqtt.md").read_text(encoding="utf-8")
CORE = re.findall(r"^```st\n(.*?)^```", MQTT_MD, flags=re.MULTILINE | re.DOTALL)[0]
ST, EJECTOR, TRIGGER = re.findall(r"^```st\n(.*?)^```", PLC_MD, flags=re.MULTILINE | re.DOTALL)
EXAMPLE = next(line for line in PLC_MD.splitlines() if line.startswith('{"v":1'))
PARSE = FunctionBlock(ST)
TEXTS = {"cam": "cam", "part": "part", "trg": "trg", "rsn": "rsn"}  # variable of the code -> key of the payload
NUMBERS = {"version": "v", "seq": "seq", "res": "res", "score": "sc", "threshold": "thr", "captured": "t"}
EXACT = 2**53  # whole numbers that LREAL tells apart


def parsed(buffer: bytes, length: int | None = None) -> SimpleNamespace:
    """What the documented Structured Text makes of the first bytes (default: all) of its buffer of 240 bytes."""
    return PARSE.call(data=buffer[:240].ljust(240, b"\0"), length=len(buffer) if length is None else length)


payloads = st.builds(
    lambda context, seq, event, late: plc_message(messages.result_body(context, seq, event), late=late).payload,
    contexts,
    sequence_numbers,
    events,
    st.booleans(),
)


@given(payloads)
@settings(deadline=None)
def test_the_documented_code_reads_every_payload_that_a_station_can_send(payload: bytes) -> None:
    read, meant = parsed(payload), json.loads(payload)
    assert read.valid
    assert {key: getattr(read, variable).text() for variable, key in TEXTS.items()} == {
        key: meant[key] for key in TEXTS.values()
    }
    for variable, key in NUMBERS.items():
        assert getattr(read, variable) == pytest.approx(meant[key], rel=1e-12)
    assert read.captured == meant["t"]
    assert read.seq == meant["seq"] or meant["seq"] > EXACT
    assert read.simulated == bool(meant["sim"])


@given(st.floats(1e-290, 1e290) | st.floats(-1e290, -1e-290) | st.integers(-EXACT, EXACT))
@settings(deadline=None)
def test_the_documented_code_reads_numbers_as_json_does(number: float) -> None:
    payload = EXAMPLE.replace('"sc":0.41237', f'"sc":{number!r}').encode()
    assert parsed(payload).score == pytest.approx(number, rel=1e-12)


@given(payloads, st.integers(0, 239), st.binary(min_size=1, max_size=9))
@settings(deadline=None)
def test_the_documented_code_calls_nothing_valid_that_is_cut_off_or_goes_on(
    payload: bytes, length: int, more: bytes
) -> None:
    """Behind a payload that is cut off, the buffer still holds the end of the last one."""
    reads = [parsed(payload, min(length, len(payload) - 1)), parsed(payload + more), parsed(more)]
    assert [(read.valid, read.res) for read in reads] == [(False, 0)] * 3


@pytest.mark.parametrize("start", [b'{"v":', b'{"v":1,"cam":"', b'{"v":1,"cam":"1","seq":1,"part":"'])
def test_the_documented_code_never_reads_behind_its_buffer(start: bytes) -> None:
    assert not parsed(start.ljust(240, b"1")).valid
    assert not parsed(EXAMPLE[:-1].encode().ljust(241, b"1")).valid


@given(st.text('{}":,.0123456789e+-vcamseqprtgnh', max_size=240))
@settings(deadline=None)
def test_the_documented_code_ends_on_whatever_it_gets(text: str) -> None:
    assert not parsed(text.encode()).valid


@pytest.mark.parametrize("changes", [{"v": 2}, {"res": 3}, {"res": 1.5}])
def test_another_version_or_another_verdict_is_not_valid(changes: dict[str, Any]) -> None:
    body = json.loads(EXAMPLE) | changes
    assert not parsed(json.dumps(body, separators=(",", ":")).encode()).valid


def test_the_payload_in_the_documents_is_one_that_a_station_sends() -> None:
    event = Event("top", 7, "A0042", None, 1_763_787_600_123_000_000, Decision("defect", None, 0.41237, 0.25))
    assert plc_message(messages.result_body(CONTEXT, 118, event), late=False).payload.decode() == EXAMPLE
    assert EXAMPLE in (DOCS / "mqtt.md").read_text(encoding="utf-8")


def test_scl_takes_the_same_steps_as_the_structured_text() -> None:
    in_st = re.findall(r"Expect\('([^']*)'\);(?: +\w+ := (Number|Text)\(\);)?", ST)
    in_scl = re.findall(r"""EdgeAdExpect"\(fixed := '([^']*)'.*\n(?: +(?:#[\w.]+ := )?"EdgeAd(Number|Text)")?""", SCL)
    assert in_scl == in_st
    assert "".join(fixed for fixed, _ in in_st).replace('"v":', '"v":1').startswith('{"v":1,"cam":"","seq":,"part":""')


def test_scl_reads_a_number_exactly_as_the_structured_text_does() -> None:
    assert _loop(SCL, 'FUNCTION "EdgeAdNumber"', "END_FUNCTION") == _loop(ST, "METHOD Number", "Number := value;")


def _loop(source: str, start: str, end: str) -> list[str]:
    """The tokens from the first WHILE on, without what only one of the languages wants."""
    body = source[source.index(start) + len(start) :]
    body = re.sub(r"//.*", "", body[body.index("WHILE") : body.index(end)]).replace("#EdgeAdNumber := #value;", "")
    return [token for token in tokens(body.replace("#", "")) if token != ";"]


@dataclass
class Press:
    """A controller that runs the documented code, one cycle every 0.1 s, with a station that is well."""

    program: FunctionBlock = field(default_factory=lambda: FunctionBlock(EJECTOR))
    beat: int = 0
    seq: int = 0

    def cycle(
        self,
        *,
        arrives: bool = False,
        leaves: bool = False,
        says: dict[str, Any] | None = None,
        online: bool = True,
        beats: bool = True,
    ) -> bool:
        """One cycle; whether it ejects. `says` is a decision, as the parser leaves it."""
        Timer.now += 0.1
        self.beat += beats
        self.seq += 1 if says is not None else 0
        decision = {"valid": True, "seq": float(self.seq), "res": 1, "simulated": False} | (says or {})
        after = self.program.call(
            statusOnline=online,
            heartbeat=self.beat,
            partArrived=arrives,
            partLeaves=leaves,
            received=says is not None,
            parse=SimpleNamespace(**decision),
            eject=True,
        )
        return bool(after.eject)


def test_a_good_part_passes_by_the_documented_code_and_the_next_one_needs_its_own_decision() -> None:
    press = Press()
    for _ in range(40):  # longer than the heartbeat may stand still
        press.cycle()
    press.cycle(arrives=True)
    press.cycle(says={})
    assert not press.cycle(leaves=True)
    assert press.cycle(leaves=True)
    press.cycle(arrives=True)
    assert press.cycle(leaves=True)


def test_by_the_documented_code_the_first_decision_of_a_part_counts_and_only_of_a_station_that_is_there() -> None:
    press = Press()
    press.cycle(arrives=True)
    press.cycle(says={"res": 2})
    press.cycle(says={"res": 1})
    assert press.cycle(leaves=True)
    press.cycle(arrives=True)
    press.cycle(says={}, online=False)
    assert press.cycle(leaves=True)


@pytest.mark.parametrize(
    "wrong", [{"res": 2}, {"res": 0}, {"simulated": True}, {"valid": False}, {"seq": 0.0}, None], ids=str
)
def test_by_the_documented_code_nothing_but_a_fresh_ok_lets_a_part_pass(wrong: dict[str, Any] | None) -> None:
    press = Press()
    press.cycle(arrives=True)
    press.cycle(says=wrong)
    assert press.cycle(leaves=True)


def test_by_the_documented_code_a_late_ok_or_a_dead_station_lets_no_part_pass() -> None:
    for silent in ({}, {"beats": False}, {"online": False}):
        press = Press()
        for _ in range(35):
            press.cycle(**silent)
        press.cycle(arrives=True, **silent)
        for _ in range(0 if silent else 16):
            press.cycle()
        press.cycle(says={}, **silent)
        assert press.cycle(leaves=True, **silent)


def core(*decisions: tuple[int, int, int], online: bool = True) -> list[tuple[bool, float]]:
    """What the core of docs/mqtt.md makes of (seq, res, sim), one after the other: PartOk, NotInspected."""
    declared = "VAR\nLast, NotInspected : LREAL;\nPartOk, partTimeOut, stationOnline : BOOL;\nEND_VAR\n"
    program, found = FunctionBlock(declared + CORE), []
    for seq, res, sim in decisions:
        after = program.call(seq=float(seq), res=res, sim=sim, stationOnline=online)
        found.append((after.PartOk, after.NotInspected))
    return found


def test_by_the_core_only_a_fresh_ok_that_is_no_simulation_lets_a_part_pass() -> None:
    said = ((118, 1, 0), (118, 2, 0), (119, 2, 0), (119, 1, 0), (120, 1, 1), (121, 0, 0), (124, 1, 0))
    assert core(*said) == [(True, 0), (True, 0), (False, 0), (False, 0), (False, 0), (False, 0), (True, 2)]
    assert core((1, 1, 0), online=False) == [(False, 0)]


def test_the_documented_code_counts_the_numbers_that_it_missed() -> None:
    press = Press()
    for seq in (7.0, 8.0, 11.0, 9.0):
        press.cycle(says={"seq": seq})
    assert (press.program.variables.notInspected, press.program.variables.lastSeq) == (2, 11.0)


cycles = st.lists(
    st.fixed_dictionaries(
        {"arrives": st.booleans(), "leaves": st.booleans(), "online": st.booleans(), "beats": st.booleans()},
        optional={
            "says": st.fixed_dictionaries(
                {"valid": st.booleans(), "seq": st.integers(1, 9).map(float)},
                optional={"res": st.integers(0, 2), "simulated": st.booleans()},
            )
        },
    ),
    max_size=40,
)


@given(cycles)
@settings(deadline=None)
def test_whatever_happens_the_documented_code_passes_a_part_only_on_its_own_ok(happened: list[dict[str, Any]]) -> None:
    press, ok, waiting, seen = Press(), False, False, 0.0
    for each in happened:
        says = each.get("says", {"valid": False, "seq": 0.0})
        fresh = "says" in each and says["valid"] and says["seq"] > seen
        seen = says["seq"] if fresh else seen
        ok, waiting = (False, True) if each["arrives"] else (ok, waiting)
        waiting = waiting and each["online"]
        if fresh:
            ok, waiting = waiting and says.get("res", 1) == 1 and not says.get("simulated", False), False
        ejects = press.cycle(**each)
        if each["leaves"]:
            assert ejects or (ok and each["online"])
            ok = False


def station_says(trigger_id: bytes, **changes: Any) -> dict[str, Any]:
    said = {"valid": True, "res": 1, "simulated": False, "trg": String(trigger_id), **changes}
    return {"received": True, "parse": SimpleNamespace(**said)}


QUIET = {"received": False, "parse": SimpleNamespace(), "partArrived": False, "partLeaves": False, "alive": True}


def test_by_the_documented_code_a_trigger_is_a_command_that_the_station_takes() -> None:
    program = FunctionBlock(TRIGGER)
    ids = []
    for _ in range(3):
        after = program.call(**{**QUIET, "partArrived": True})
        assert after.publish
        request = commands.parse("trigger", after.payload.text().encode())
        assert isinstance(request, commands.Request)
        ids.append(request.correlation_id)
        assert not program.call(**QUIET).publish
    assert ids == ["press3-1", "press3-2", "press3-3"]


@pytest.mark.parametrize(
    ("trigger_id", "changes", "ejects"),
    [
        (b"press3-1", {}, False),
        (b"press3-0", {}, True),
        (b"", {}, True),
        (b"press3-1", {"res": 0}, True),
        (b"press3-1", {"res": 2}, True),
        (b"press3-1", {"simulated": True}, True),
        (b"press3-1", {"valid": False}, True),
    ],
)
def test_by_the_documented_code_only_the_decision_of_its_own_trigger_lets_a_part_pass(
    trigger_id: bytes, changes: dict[str, Any], ejects: bool
) -> None:
    program = FunctionBlock(TRIGGER)
    program.call(**{**QUIET, "partArrived": True})
    program.call(**{**QUIET, **station_says(trigger_id, **changes)})
    assert program.call(**{**QUIET, "partLeaves": True}).eject == ejects
    assert program.call(**{**QUIET, "partLeaves": True}).eject


def test_strings_of_the_interpreter_end_at_the_first_zero() -> None:
    string = String(b"")
    string[1] = 66
    string[0] = 65
    assert string.text() == "AB"
    string[1] = 0
    assert string.text() == "A"


STAGES = ("trigger", "queue", "pre", "engine", "post")
KNOWN = "schema, correlation_id, by, trigger_id, part_id, job_id, recipe_id, expires_at"
UNKNOWN_FIELDS = f"9 unknown fields; known are {KNOWN}"
EVERYTHING = AlarmState(
    "returned_unacknowledged",
    since_ns=10**18,
    count=10**6,
    seq=10**9,
    score=0.12345678901234567,
    raised_ns=10**18,
    acknowledged_ns=10**18,
    acknowledged_by=64 * "a",
    shelved_ns=(10**18, 10**18),
)


def test_the_sizes_are_those_that_the_documents_say() -> None:
    longest = StationContext("s" * 32, "b" * 36, "d" * 64, simulated=False)
    regions = tuple(Region(9999, 9999, 9999, 9999, 10**7, 0.123456) for _ in range(256))
    event = Event("c" * 32, 10**9, "p" * 32, None, 10**18, Decision("defect", None, 0.123456789, 0.25, regions, 9))
    body = messages.result_body(longest, 10**9, event)
    alarm = messages.alarm_state(longest, "c" * 32, max(ALARMS, key=len), AlarmState(), AlarmRules())
    assert len(plc_message(body, late=False).topic) == 44
    assert len(alarm.topic) == 98
    assert len(messages.result(body, 10**12, 1).payload) < 20_000
    assert f"| {len(alarm.topic)} |" in PLC_MD
    assert "| 44 |" in PLC_MD
    bare = replace(event, decision=replace(event.decision, regions=()), latency_ms=dict.fromkeys(STAGES, 12345.678))
    for marks in ("m", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        trigger = Trigger(64 * marks, 64 * marks, 64 * marks, 64 * marks, None, 10**18)
        told = messages.result(messages.result_body(longest, 10**9, replace(bare, trigger=trigger)), 10**12, 1)
        assert len(told.payload) < 1_100 + 5 * 4 * 64 * (not marks.isascii())
    assert len(messages.result(body, 10**12, 1).payload) < 1_100 + 72 * len(regions)
    reply = messages.refusal_body(longest.station, "trigger", 64 * "c", UNKNOWN_FIELDS)
    assert len(messages.to_json(reply)) < 450
    states = [messages.alarm_state_body(longest, "c" * 32, name, EVERYTHING, AlarmRules()) for name in ALARMS]
    done = {**reply, "done": True, "reason": None, "command": "status", "executed_ms": 10**12, "alarms": states}
    assert 3_000 < len(messages.to_json(done)) < 4_000


# --- topics ---

CONTEXT = StationContext("press-3", "boot", "digest", simulated=False)


def every_message() -> list[Message]:
    """One message of each kind that a station publishes."""
    decision = Decision("defect", None, 0.4, 0.25, (Region(0, 0, 1, 1, 1, 1.0),), 1)
    event = Event("top", 1, "A", None, 0, decision)
    body = messages.result_body(CONTEXT, 1, event)
    raised = Announcement(DEFECT, "high", AlarmEvent("raised", 0, "active", 1, 1, 0.4))
    refused = messages.refusal_body("press-3", "reset", "panel-1/17", "outbox_full")
    health = Health("1", "x", "fp32", 1, "", 0)
    return [
        messages.status("press-3", "online"),
        messages.heartbeat("press-3", 1),
        messages.result(body, 0, 1),
        messages.result(messages.gap_body(CONTEXT, 1, 2, "outbox_full", 0), 0, 1),
        plc_message(body, late=False),
        messages.alarm_event(messages.alarm_event_body(CONTEXT, "top", 1, raised, event), 0, 1),
        messages.alarm_state(CONTEXT, "top", DEFECT, AlarmState(), AlarmRules()),
        messages.camera(CONTEXT, CameraState("top", "online", "", 0)),
        health_message(CONTEXT, health, OutboxFigures(0, 0, 0, 0, 0, 0), CommandFigures(), TriggerFigures(), ""),
        messages.reply("press-3", "reset", messages.to_json(refused)),
        messages.probe("press-3"),
    ]


def matches(topic: str, pattern: Sequence[str]) -> bool:
    """Whether a topic is one of a pattern whose levels in braces, or +, stand for anything."""
    levels = topic.split("/")
    return len(levels) == len(pattern) and all(
        want in ("+", have) or want.startswith("{") for want, have in zip(pattern, levels, strict=True)
    )


def test_there_is_no_other_kind_of_message() -> None:
    builders = {
        name
        for module in (messages, health, plc)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__annotations__.get("return") == "Message"
    }
    states = {"status", "heartbeat", "alarm_state", "camera", "health_message"}
    assert builders == states | {"result", "plc_message", "alarm_event", "reply", "probe"}


# --- AsyncAPI ---

ASYNCAPI = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))


def resolved(reference: dict[str, str]) -> Any:
    """What a local $ref of the AsyncAPI document points to."""
    node = ASYNCAPI
    for key in reference["$ref"].removeprefix("#/").split("/"):
        node = node[key]
    return node


def test_asyncapi_has_every_message_under_its_topic_with_its_qos_retain_flag_and_schema() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    heard = set()
    for message in every_message():
        (name,) = (
            name
            for name, channel in ASYNCAPI["channels"].items()
            if matches(message.topic, channel["address"].split("/"))
        )
        (operation,) = (
            each
            for each in ASYNCAPI["operations"].values()
            if each["channel"]["$ref"] == f"#/channels/{name}" and each["action"] == "send"
        )
        mqtt = operation["bindings"]["mqtt"]
        assert (mqtt["qos"], mqtt["retain"]) == (message.qos, message.retain), name
        assert any(_takes(resolved(each), message.payload) for each in ASYNCAPI["channels"][name]["messages"].values())
        heard.add(name)
    assert heard == {name for name in ASYNCAPI["channels"] if not name.startswith("command")}
    assert len(ASYNCAPI["operations"]) == len(ASYNCAPI["channels"])


@pytest.mark.parametrize("command", NAMES)
def test_asyncapi_has_every_command_that_a_station_takes(command: str) -> None:
    payload = json.dumps(whole(command)).encode()
    taken = [
        name
        for name, channel in ASYNCAPI["channels"].items()
        if matches(f"edge-ad/press-3/cmd/{command}", channel["address"].split("/"))
        and any(_takes(resolved(each), payload) for each in channel["messages"].values())
    ]
    assert len(taken) == 1
    (operation,) = (
        each for each in ASYNCAPI["operations"].values() if each["channel"]["$ref"] == f"#/channels/{taken[0]}"
    )
    assert operation["action"] == "receive"


def test_asyncapi_knows_every_alarm() -> None:
    assert ASYNCAPI["components"]["parameters"]["alarm"]["enum"] == list(ALARMS)


def _takes(message: dict[str, Any], payload: bytes) -> bool:
    """Whether a payload is valid under a message's schema, in draft-07 as AsyncAPI reads it."""
    schema = message["payload"]
    value: Any = payload.decode()
    if "$ref" in schema:
        schema, value = json.loads((DOCS / schema["$ref"]).read_text(encoding="utf-8")), json.loads(payload)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema).is_valid(value)


def test_asyncapi_refers_to_every_schema_and_declares_every_parameter() -> None:
    text = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
    files = {path.name for path in (DOCS.parent / "edge_ad" / "schemas").iterdir()}
    assert set(re.findall(r"\.\./edge_ad/schemas/([\w.-]+)", text)) == files
    for channel in ASYNCAPI["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel["parameters"])
        assert all(resolved(each) for each in channel["parameters"].values())


# --- Node-RED ---

FLOW: list[dict[str, Any]] = json.loads((DOCS / "node-red-flow.json").read_text(encoding="utf-8"))
NODES = {node["id"]: node for node in FLOW}


def test_the_node_red_flow_is_whole_and_listens_to_topics_that_exist() -> None:
    assert len(NODES) == len(FLOW)
    assert {node["z"] for node in FLOW if "z" in node} == {node["id"] for node in FLOW if node["type"] == "tab"}
    topics = [message.topic for message in every_message()]
    for node in FLOW:
        assert {to for wire in node.get("wires", []) for to in wire} <= set(NODES)
        if node["type"] == "mqtt in":
            assert NODES[node["broker"]]["type"] == "mqtt-broker"
            assert any(matches(topic, node["topic"].split("/")) for topic in topics), node["topic"]


def node_red(name: str, payloads: list[Any]) -> list[Any]:
    """What a function node lets through of one message after the other."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (code,) = (node["func"] for node in FLOW if node.get("name") == name)
    program = (
        "const kept = {}, context = {get: k => kept[k], set: (k, v) => { kept[k] = v; }}, node = {warn: () => {}};"
        f"const step = new Function('msg', 'context', 'node', {json.dumps(code)});"
        f"const out = {json.dumps(payloads)}.map(payload => step({{payload}}, context, node));"
        "console.log(JSON.stringify(out.filter(msg => msg).map(msg => msg.payload)));"
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=30, check=True)
    passed: list[Any] = json.loads(done.stdout)
    return passed


def test_node_red_lets_a_part_pass_only_on_a_fresh_ok() -> None:
    said = [(1, 1, 0), (2, 2, 0), (2, 1, 0), (4, 0, 0), (5, 1, 1), (3, 1, 0)]
    decisions = [json.loads(EXAMPLE) | {"seq": seq, "res": res, "sim": sim} for seq, res, sim in said]
    passed = node_red("pass or not", decisions)
    assert [(each["seq"], each["pass"], each["missed"]) for each in passed] == [
        (1, True, 0),
        (2, False, 0),
        (4, False, 1),
        (5, False, 0),
    ]


def test_node_red_has_each_result_once_and_sees_the_heartbeat_change() -> None:
    gap = {"schema": "edge-ad/gap/1", "seq_from": 3, "seq_to": 4, "reason": "outbox_full"}
    results = [{"schema": "edge-ad/result/1", "station": "press-3", "seq": seq} for seq in (1, 2, 1, 2, 5)]
    assert [each["seq"] for each in node_red("each once", [*results, gap])] == [1, 2, 5]
    orders = [*range(1, 1501), *range(100, 401), 1510, 1505, 1502, 1501, 1503, 1504, 1501, 1505, 1510, 1506]
    many = [{"schema": "edge-ad/result/1", "station": "press-3", "seq": seq} for seq in orders]
    once = [*range(1, 1501), 1510, 1505, 1502, 1501, 1503, 1504, 1506]
    assert [each["seq"] for each in node_red("each once", many)] == once
    assert node_red("changed", ["1", "2", "2", "1"]) == ["1", "2", "1"]
