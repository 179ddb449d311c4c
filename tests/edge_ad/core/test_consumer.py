"""A consumer that follows docs/mqtt.md ends up with exactly what the station said, and sees every broken promise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core import messages
from edge_ad.core.alarm_board import ALARMS, DEFAULT_RULES, DEFECT, NO_ALARMS, take_part
from edge_ad.core.alarms import AlarmRules, AlarmState
from edge_ad.core.consumer import Consumer
from edge_ad.core.dropping import DROPPED
from edge_ad.core.health import CommandFigures, Health, OutboxFigures, health_message
from edge_ad.core.heard import Arrival, Limits, Report
from edge_ad.core.messages import Message, StationContext
from edge_ad.core.plc import plc_message
from edge_ad.core.triggers import TriggerFigures
from edge_ad.records import CameraState, Decision, Event, Region, Verdict

CONTEXT = StationContext("press-3", "boot-1", "digest", simulated=False)
BORN_MS = 1_763_787_600_000
HEALTH = Health("1", "x", "fp32", 1, "", 0)
RETAINED = ("status", "state", "top", "health")
DECISIONS: dict[Verdict, Decision] = {
    "ok": Decision("ok", None, 0.2, 0.5, calibration=1),
    "defect": Decision("defect", None, 0.8, 0.5, (Region(1, 2, 3, 4, 5, 0.9),), 1),
    "not_inspected": Decision("not_inspected", "uncalibrated", 0.2, None),
}
GAP = "gap"  # a part of which only a gap record speaks
lines = st.lists(st.sampled_from([*DECISIONS, GAP]), min_size=1, max_size=30)


class Line:
    """A station that inspects parts, one every 100 ms; `outbox` holds the messages of each row, as it sends them."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.truth: dict[int, Verdict] = {}
        self.alarms = NO_ALARMS
        self.events_told = 0
        self.outbox: list[list[Message]] = []
        self.kinds = kinds
        for seq, kind in enumerate(kinds, start=1):
            self.outbox.append(self._gap(seq) if kind == GAP else self._part(seq, DECISIONS[kind]))  # type: ignore[index]

    def _gap(self, seq: int) -> list[Message]:
        return [messages.result(messages.gap_body(CONTEXT, seq, seq, "outbox_full", 0), 0, 10_000)]

    def _part(self, seq: int, decision: Decision) -> list[Message]:
        event = Event("top", seq, f"part-{seq}", None, (BORN_MS + 100 * seq) * 1_000_000, decision)
        self.truth[seq] = decision.verdict
        self.alarms, told = take_part(self.alarms, seq, event.captured_ns, decision, DEFAULT_RULES)
        body = messages.result_body(CONTEXT, seq, event)
        events = [
            messages.alarm_event_body(CONTEXT, "top", number, each, event)
            for number, each in enumerate(told, start=self.events_told + 1)
        ]
        self.events_told += len(told)
        sent_ms = BORN_MS + 100 * seq + 50
        return [
            messages.result(body, sent_ms, 10_000),
            *(messages.alarm_event(each, sent_ms, 10_000) for each in events),
            plc_message(body, late=False),
        ]

    def state(self) -> Message:
        return defect_state(self.alarms[DEFECT])


def defect_state(state: AlarmState, rules: AlarmRules = DEFAULT_RULES[DEFECT]) -> Message:
    return messages.alarm_state(CONTEXT, "top", DEFECT, state, rules)


def listener() -> Consumer:
    consumer = Consumer("press-3", Limits(), lambda _schema, _body: "")
    consumer.connected(0.0)
    return consumer


def arrival(message: Message, at_s: float = 0.0, at_ms: int = BORN_MS) -> Arrival:
    return Arrival(message.topic, message.payload, message.retain, at_s, at_ms)


def heard(sent: Sequence[Message]) -> Consumer:
    consumer = listener()
    for message in sent:
        consumer.take(arrival(message))
    return consumer


def changed(message: Message, **fields: Any) -> Message:
    """The same message with other values."""
    return Message(
        message.topic, messages.to_json({**json.loads(message.payload), **fields}), message.qos, message.retain
    )


def at_least_once(line: Line, rewinds: Sequence[tuple[int, int]]) -> list[Message]:
    """All rows in order, but at some points sent again from an earlier one, as after a lost connection."""
    sent: list[Message] = []
    for seq, row in enumerate(line.outbox):
        sent += row
        for at, back in rewinds:
            if at == seq:
                again = [message for old in line.outbox[max(0, seq - back) : seq + 1] for message in old]
                sent += [_resent(message) for message in again]
    return [*sent, line.state()]


def _resent(message: Message) -> Message:
    if message.topic.endswith("/plc"):
        body = json.loads(message.payload)
        return changed(message, res=0, rsn="late", sc=0, thr=0) if body["seq"] % 2 else message
    return changed(message, published_ms=BORN_MS + 10**6, historical=True)


rewinds = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=6)


@given(lines, rewinds)
def test_whatever_is_sent_again_the_consumer_has_each_part_once_and_nothing_is_wrong(
    kinds: list[str], again: list[tuple[int, int]]
) -> None:
    line = Line(kinds)
    sent = at_least_once(line, again)
    consumer = heard(sent)
    report = consumer.report()
    assert {seq: part.verdict for seq, part in consumer.parts().items()} == line.truth
    assert report.ok, report.details
    assert report.missing == ()
    assert (report.first_seq, report.last_seq) == (1, len(kinds))
    assert [gap.first for gap in report.gaps] == [seq for seq, kind in enumerate(kinds, start=1) if kind == GAP]
    assert report.verdicts["not_inspected"] == sum(kind in ("not_inspected", GAP) for kind in kinds)
    assert sum(report.verdicts.values()) == consumer.known() == len(kinds)
    assert report.messages == len(sent)
    assert report.plc_in_time + report.plc_late == len(line.truth)
    assert report.plc_late == 0  # a copy that says `late` never takes a verdict back
    if "defect" in kinds:
        alarm = next(alarm for alarm in report.alarms if alarm.alarm == DEFECT)
        assert (alarm.state, alarm.agrees) == (line.alarms[DEFECT].condition, True)


@given(lines, st.sets(st.integers(1, 30)))
def test_what_is_lost_between_two_parts_that_arrived_is_missing_and_nothing_else_is(
    kinds: list[str], lost: set[int]
) -> None:
    rows = [row for seq, row in enumerate(Line(kinds).outbox, start=1) if seq not in lost]
    arrived = [seq for seq in range(1, len(kinds) + 1) if seq not in lost]
    report = heard([message for row in rows for message in row]).report()
    holes = [seq for seq in lost if arrived and arrived[0] < seq < arrived[-1]]
    assert [seq for first, last in report.missing for seq in range(first, last + 1)] == sorted(holes)
    assert ("missing" in report.faults) == bool(holes)


@given(lines)
def test_duplicates_are_counted(kinds: list[str]) -> None:
    line = Line(kinds)
    sent = [message for row in line.outbox for message in row if not message.topic.endswith("/plc")]
    report = heard([*sent, *sent, line.state()]).report()
    assert report.duplicates == len(sent)
    assert report.ok


@given(lines, st.permutations(range(30)))
def test_a_first_copy_out_of_order_is_a_fault(kinds: list[str], order: list[int]) -> None:
    line = Line(kinds)
    shuffled = [place for place in order if place < len(kinds)]
    report = heard([line.outbox[place][0] for place in shuffled]).report()
    behind = sum(place < max(shuffled[:index], default=-1) for index, place in enumerate(shuffled))
    assert report.faults.get("order", 0) == behind


def replay_reply(of: str, first: int, last: int) -> Message:
    """The station says that it sends these once more."""
    body = messages.refusal_body("press-3", "replay", "mes/1", "")
    details = {"of": of, "from": first, "to": last, "sent_again": 0, "unsent": 0, "gone": 0, "gone_runs": []}
    told = {**body, "done": True, "reason": None, "details": details}
    return messages.reply("press-3", "replay", messages.to_json(told))


@given(lines, st.sets(st.integers(1, 30)))
def test_what_was_lost_and_is_replayed_is_whole_again_and_not_out_of_order(kinds: list[str], lost: set[int]) -> None:
    line = Line(kinds)
    numbered = list(enumerate(line.outbox, start=1))
    live = [message for seq, row in numbered if seq not in lost for message in row]
    copies = [_resent(message) for seq, row in numbered if seq in lost for message in row if message != row[-1]]
    copies += [_resent(row[0]) for seq, row in numbered if seq in lost and len(row) == 1]
    consumer = heard([*live, replay_reply("parts", 1, len(kinds)), *copies])
    report = consumer.report()
    assert (report.missing, report.missing_events) == ((), ())
    assert {seq: part.verdict for seq, part in consumer.parts().items()} == line.truth
    assert {"order", "missing", "disagreement"}.isdisjoint(report.faults), report.details
    assert (report.replayed, report.duplicates) == (len(copies), 0)


def test_a_lost_alarm_event_is_missing_and_a_replay_of_events_brings_it() -> None:
    line = Line(["defect", "ok", "defect", "ok"])
    everything = [message for row in line.outbox for message in row]
    raised = line.outbox[2][1]
    live = [message for message in everything if message != raised]
    report = heard(live).report()
    assert (report.missing_events, report.faults) == (((3, 3),), {"missing": 1})
    assert heard([*live, raised]).report().faults == {"order": 1}
    assert heard([*live, replay_reply("events", 3, 3), _resent(raised)]).report().ok


def health(last_seq: int, last_event: int, unsent: int) -> Message:
    figures = OutboxFigures(unsent, 0, 0, 0, last_seq, last_event)
    return health_message(CONTEXT, HEALTH, figures, CommandFigures(), TriggerFigures(), "")


def test_the_station_tells_how_far_it_has_counted_so_that_a_lost_end_is_missing_too() -> None:
    first, second = Line(["defect", "ok"]).outbox
    assert heard([*first, health(2, 2, unsent=1)]).report().missing == ()  # may be on its way
    report = heard([*first, health(2, 2, unsent=0)]).report()
    assert (report.missing, report.missing_events) == (((2, 2),), ((2, 2),))
    later = heard([*first, health(1, 2, unsent=1), second[0]])  # what was counted by then has been sent by now
    assert later.report().missing_events == ((2, 2),)
    assert heard([health(2, 2, unsent=0)]).report().ok  # nothing is missing for whoever comes later


def faults(sent: Sequence[Message]) -> dict[str, int]:
    return dict(heard(sent).report().faults)


ROW = Line(["defect"]).outbox[0]
RESULT, RAISED, PLC = ROW


def test_copies_that_disagree_are_a_fault() -> None:
    assert faults([RESULT, changed(RESULT, verdict="ok")]) == {"disagreement": 1}
    assert faults([RAISED, changed(RAISED, count=2)]) == {"disagreement": 1}
    assert faults([PLC, changed(PLC, res=1)]) == {"disagreement": 1}


def test_a_controller_that_is_told_otherwise_than_the_result_is_a_fault() -> None:
    assert faults([RESULT, changed(PLC, res=1)]) == {"plc": 1}
    assert faults([changed(PLC, res=0, rsn="uncalibrated"), RESULT]) == {"plc": 1}
    assert faults([RESULT, changed(PLC, t=BORN_MS)]) == {"plc": 1}
    assert faults([RESULT, changed(PLC, res=0, rsn="late")]) == {}
    gap = messages.result(messages.gap_body(CONTEXT, 1, 1, "outbox_full", 0), 0, 10_000)
    assert faults([gap, PLC]) == {"plc": 1}
    dropped = messages.result(messages.gap_body(CONTEXT, 1, 1, DROPPED, 0), 0, 10_000)
    assert faults([dropped, PLC]) == {}  # it was inspected, and what is gone is the result


def test_a_verdict_after_its_deadline_is_a_fault_and_a_late_one_without_verdict_is_not() -> None:
    consumer = listener()
    for message in (PLC, changed(PLC, seq=2, res=0, rsn="late")):
        consumer.take(arrival(message, at_ms=BORN_MS + 100 + 4001))
    assert consumer.report().faults == {"stale": 1}
    assert (consumer.report().plc_in_time, consumer.report().plc_late) == (1, 1)


def test_a_result_within_a_gap_record_is_a_fault() -> None:
    gap = messages.result(messages.gap_body(CONTEXT, 1, 3, "outbox_full", 0), 0, 10_000)
    report = heard([gap, Line(["ok", "ok", "ok", "ok", "ok"]).outbox[4][0]]).report()
    assert (report.faults, report.missing) == ({"missing": 1}, ((4, 4),))
    assert faults([RESULT, gap]) == {"overlap": 1}


def test_a_verdict_that_the_broker_kept_is_a_fault_a_kept_state_is_not() -> None:
    consumer = listener()
    for message in (RESULT, RAISED, PLC, messages.heartbeat("press-3", 1)):
        consumer.take(Arrival(message.topic, message.payload, True, 0.0, BORN_MS))
    assert consumer.report().faults == {"retained": 4}
    states = [
        messages.status("press-3", "online"),
        messages.camera(CONTEXT, CameraState("top", "online", "", 0)),
        health_message(CONTEXT, HEALTH, OutboxFigures(0, 0, 0, 0, 0, 0), CommandFigures(), TriggerFigures(), ""),
    ]
    assert faults(states) == {}


def test_a_camera_that_the_station_has_no_more_has_no_alarms_any_more() -> None:
    states = [messages.alarm_state(CONTEXT, "top", name, AlarmState(), AlarmRules()) for name in ALARMS]
    consumer = heard([*states, defect_state(AlarmState("active", count=1, seq=1))])
    assert len(consumer.report().alarms) == len(ALARMS)
    for message in messages.cleared("press-3", "top", ALARMS):
        consumer.take(arrival(message))
    assert (consumer.report().alarms, consumer.report().faults) == ((), {})


def test_an_alarm_state_that_its_events_do_not_leave_behind_is_a_fault() -> None:
    state = defect_state(AlarmState("normal", 0, 0, 1, 0.1))
    assert faults([*ROW, state]) == {"alarm": 1}


def test_an_alarm_state_ahead_of_a_backlog_is_not_judged() -> None:
    state = defect_state(AlarmState("normal", 0, 0, 7, 0.1))
    report = heard([state, *ROW]).report()
    assert [alarm.agrees for alarm in report.alarms] == [None]
    assert report.ok


def test_events_that_are_kept_back_are_no_fault() -> None:
    held_back = defect_state(AlarmState("normal", 0, 0, 1, 0.1, withheld=1))
    assert faults([*ROW, held_back]) == {}
    assert faults([*ROW, defect_state(AlarmState("normal", 0, 0, 1, 0.1), AlarmRules(out_of_service=True))]) == {}


Beats = list[tuple[float, str | int]]


def beats(happened: Beats) -> Report:
    """The station says a word or sends a heartbeat, at these times in seconds."""
    consumer = listener()
    for at_s, what in happened:
        message = messages.heartbeat("press-3", what) if isinstance(what, int) else messages.status("press-3", what)  # type: ignore[arg-type]
        consumer.take(arrival(message, at_s))
    return consumer.report()


def test_a_heartbeat_that_stands_still_while_online_is_a_stall() -> None:
    assert beats([(0, "online"), (1, 1), (2, 2), (5, 3)]).stalls == 0
    assert beats([(0, "online"), (1, 1), (2, 2), (5.1, 3)]).stalls == 1
    assert beats([(0, "online"), (1, 1), (2, 1), (4.1, 1)]).stalls == 1
    assert beats([(0, "online"), (1, 1), (2, "offline"), (9, "online"), (10, 1)]).stalls == 0
    assert beats([(0, "online"), (1, 1), (2, "online"), (3, 1)]).heartbeats == 1


def test_silence_is_a_stall_once_each_time_it_lasts_and_only_while_we_are_connected() -> None:
    consumer = listener()
    consumer.take(arrival(messages.status("press-3", "online")))
    told = [news.kind for at_s in (1.0, 3.1, 4.0, 6.2) for news in consumer.look(at_s)]
    assert told == ["fault", "fault"]
    consumer.disconnected()
    assert consumer.look(100.0) == []
    consumer.connected(101.0)
    assert consumer.look(104.0) == []
    assert consumer.look(104.1) != []


def news_of(sent: Sequence[Message]) -> list[str]:
    consumer = listener()
    return [f"{news.kind} {news.text}" for message in sent for news in consumer.take(arrival(message))]


def test_news_are_what_changes_and_each_only_once() -> None:
    line = Line(["ok", "ok", "defect", "defect", "ok", GAP])
    sent = [message for row in line.outbox for message in row]
    sent.insert(0, messages.status("press-3", "online"))
    assert news_of([*sent, *sent]) == [
        "status online",
        "verdict top ok seq 1 part-1",
        "verdict top defect seq 3 part-3",
        "alarm top/defect raised: seq 3 part-3",
        "verdict top ok seq 5 part-5",
        "alarm top/defect cleared: seq 5 part-5",
        "gap parts 6 to 6 have no result: outbox_full",
    ]


TOPICS = ["status", "heartbeat", "result", "plc", "health", "camera/top", "alarm/top/defect/state"]
TOPICS += ["alarm/top/defect/event", "cmd/trigger", "", "alarm", "camera"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A topic, and bytes, any JSON, or a real message with a field replaced or left out."""
    source = draw(st.sampled_from(["bytes", "json", "field", "less"]))
    if source == "bytes":
        return draw(st.sampled_from(TOPICS)), draw(st.binary(max_size=200))
    if source == "json":
        return draw(st.sampled_from(TOPICS)), json.dumps(draw(json_values)).encode()
    state = Line(["defect"]).state()
    message = draw(st.sampled_from([*ROW, state]))
    body = json.loads(message.payload)
    key = draw(st.sampled_from(sorted(body)))
    body[key] = draw(json_values)
    if source == "less":
        del body[key]
    return message.topic.removeprefix("edge-ad/press-3/"), json.dumps(body).encode()


@given(st.lists(damaged(), max_size=9))
def test_no_payload_crashes_the_consumer_or_costs_it_a_part_that_arrived_well(sent: list[tuple[str, bytes]]) -> None:
    line = Line(["ok", "defect", "ok"])
    consumer = heard([message for row in line.outbox for message in row])
    for topic, payload in sent:
        consumer.take(Arrival(f"edge-ad/press-3/{topic}", payload, False, 0.0, BORN_MS))
    consumer.report()
    assert {seq: part.verdict for seq, part in consumer.parts().items() if seq in line.truth} == line.truth


def test_what_is_not_what_its_topic_promises_is_named() -> None:
    payloads = {
        "status": [b"on", b"\xff"],
        "heartbeat": [b"", b"-1", b"one", b"9" * 21],
        "result": [b"", b"[]", b'{"schema":1}', b"[" * 10**5, b"\xff", b'{"a":NaN}', PLC.payload],
        "plc": [b'{"v":1}', PLC.payload.replace(b'"rsn":""', b'"rsn":"' + b"x" * 200 + b'"'), RESULT.payload],
        "cmd/trigger": [b"{}"],
    }
    consumer = listener()
    for topic, wrong in payloads.items():
        for payload in wrong:
            consumer.take(Arrival(f"edge-ad/press-3/{topic}", payload, False, 0.0, BORN_MS))
    consumer.take(arrival(changed(RESULT, station="press-4")))
    consumer.take(Arrival("edge-ad/press-4/result", RESULT.payload, False, 0.0, BORN_MS))
    report = consumer.report()
    assert report.faults == {"malformed": sum(map(len, payloads.values())) + 2}
    assert consumer.parts() == {}


def test_a_schema_that_says_no_is_a_fault() -> None:
    consumer = Consumer("press-3", Limits(), lambda schema, body: f"{schema} has {len(body)} fields")
    consumer.take(arrival(PLC))
    assert consumer.report().details == ("edge-ad/press-3/plc: edge-ad/plc/1 has 11 fields",)


def test_faults_are_counted_for_ever_and_described_up_to_a_limit() -> None:
    report = heard([Message("edge-ad/press-3/plc", b"", 1, retain=False)] * 500).report()
    assert report.faults == {"malformed": 500}
    assert len(report.details) == 100
