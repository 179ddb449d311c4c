"""What a consumer makes of a station's messages: at least once becomes exactly once, every broken promise a fault.

    arrival --> read --> parts and gap records   first copies in order, the others agree with them
                     --> plc                     no verdict after its deadline
                     --> alarms                  events, and the present state
                     --> heartbeat               changes for as long as the station is online
    report  --> numbers without a result; plc against result; alarm states against events

docs/mqtt.md says what a station promises. Arrival times are arguments; what checks payloads against their JSON Schemas
is handed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from edge_ad.core import messages
from edge_ad.core.dropping import DROPPED
from edge_ad.core.health import HEALTH_SCHEMA
from edge_ad.core.heard import (
    MAX_DETAILS,
    AlarmView,
    Arrival,
    Fault,
    FaultKind,
    Gap,
    Limits,
    News,
    NewsKind,
    Part,
    Replied,
    Report,
)
from edge_ad.core.messages import StatusWord
from edge_ad.core.numbering import Numbering, Told
from edge_ad.core.payload import Body, MalformedError, parse
from edge_ad.core.plc import PLC_LATE, PLC_MAX_BYTES, PLC_RESULT, PLC_VERSION
from edge_ad.core.replay import Numbered
from edge_ad.core.signs import AlarmSigns, Heart
from edge_ad.core.spans import Span, Spans
from edge_ad.records import Verdict

PLC_SCHEMA = f"edge-ad/plc/{PLC_VERSION}"
MAY_DIFFER = ("published_ms", "historical")  # between the copies of a message

SCHEMAS: dict[str, tuple[str, ...]] = {  # kind of topic -> what may come on it
    "result": (messages.RESULT_SCHEMA, messages.GAP_SCHEMA),
    "event": (messages.ALARM_EVENT_SCHEMA,),
    "state": (messages.ALARM_STATE_SCHEMA,),
    "camera": (messages.CAMERA_SCHEMA,),
    "health": (HEALTH_SCHEMA,),
    "reply": (messages.REPLY_SCHEMA,),
}
RETAINED = {"status", "state", "camera", "health"}
CLEARED = {"state", "camera"}  # an empty message there says that there is no such camera any more

Check = Callable[[str, Mapping[str, object]], str]
"""Schema name ("edge-ad/result/1") and payload -> what is wrong with it, "" if nothing."""


@dataclass(frozen=True, slots=True)
class _Plc:
    res: int
    late: bool
    captured_ms: int


class Consumer:
    """The bookkeeping of one consumer of one station. It remembers every part, so its memory grows with them."""

    def __init__(self, station: str, limits: Limits, check: Check) -> None:
        """Nothing was heard yet; the heartbeat is due once we are `connected` and the station is online."""
        self._station = station
        self._limits = limits
        self._check = check
        self._parts: dict[int, Part] = {}
        self._gaps: dict[int, Gap] = {}
        self._plc: dict[int, _Plc] = {}
        self._alarms: dict[tuple[str, str], AlarmSigns] = {}
        self._of_triggers: dict[str, list[Part]] = {}
        self._numbering = Numbering()
        self._replies: list[Replied] = []
        self._decided_s: dict[str, float] = {}
        self._heart = Heart(limits.stall_s)
        self._status: StatusWord | None = None
        self._connected = False
        self._boots: set[str] = set()
        self._messages = self._duplicates = self._historical = self._replayed = 0
        self._digests: dict[Hashable, bytes] = {}  # of the first copies
        self._highest: dict[str, int] = {}  # topic -> number of its last first copy
        self._last_told: dict[tuple[NewsKind, str], str] = {}
        self._faults: Counter[FaultKind] = Counter()
        self._details: list[str] = []
        self._news: list[News] = []

    def connected(self, at_s: float) -> None:
        """There is a connection to the broker."""
        self._connected = True
        self._watch(at_s)

    def disconnected(self) -> None:
        """There is none: nothing can be said about the heartbeat."""
        self._connected = False
        self._heart.due_from(None)

    def look(self, at_s: float) -> list[News]:
        """Time has gone by; returns what there is to tell."""
        if self._heart.stalls_at(at_s):
            self._fault("stall", f"the heartbeat has stood still for {self._limits.stall_s:g} s")
        news, self._news = self._news, []
        return news

    def take(self, arrival: Arrival) -> list[News]:
        """Take in a message; returns what there is to tell."""
        self._messages += 1
        before = self.look(arrival.at_s)
        try:
            self._read(arrival)
        except MalformedError as error:
            self._fault("malformed", f"{arrival.topic}: {error}")
        return before + self.look(arrival.at_s)

    def parts(self) -> dict[int, Part]:
        """Every part that a result spoke of, by number."""
        return dict(sorted(self._parts.items()))

    def of_triggers(self) -> Mapping[str, Sequence[Part]]:
        """Trigger id -> the parts whose results name it."""
        return self._of_triggers

    def decided_s(self) -> Mapping[str, float]:
        """Trigger id -> when its decision came on `plc`."""
        return self._decided_s

    def gaps(self) -> Collection[Gap]:
        """The gap records."""
        return self._gaps.values()

    def take_replies(self) -> list[Replied]:
        """The replies since the last call, to whomever."""
        replies, self._replies = self._replies, []
        return replies

    def missing(self) -> dict[Numbered, Spans]:
        """The numbers that nothing speaks of, though they were given; those on their way among them."""
        return self._numbering.missing()

    def asked(self, of: Numbered, span: Span) -> None:
        """We have asked for these once more."""
        self._numbering.take_replay(of, span)

    @property
    def station_is_online(self) -> bool:
        """Whether its last word was that it is."""
        return self._status == "online"

    def known(self) -> int:
        """Parts that a result or a gap record spoke of."""
        return len(self._parts) + sum(gap.last - gap.first + 1 for gap in self._gaps.values())

    def report(self) -> Report:
        """What was heard so far; numbers that are still on their way count as missing."""
        spans = self._spans()
        last_seq = max((last for _, last in spans), default=None)
        missing = {of: _pairs(numbers) for of, numbers in self.missing().items()}
        faults = list(self._contradictions(spans))
        alarms = tuple(
            AlarmView(*name, seen.state, dict(seen.events), seen.agrees(last_seq))
            for name, seen in sorted(self._alarms.items())
        )
        faults += [_disagrees(view) for view in alarms if view.agrees is False]
        late = sum(plc.late for plc in self._plc.values())
        return Report(
            station=self._station,
            status=self._status,
            boots=len(self._boots),
            messages=self._messages,
            verdicts=self._verdicts(),
            first_seq=spans[0][0] if spans else None,
            last_seq=last_seq,
            duplicates=self._duplicates,
            historical=self._historical,
            gaps=tuple(gap for _, gap in sorted(self._gaps.items())),
            missing=missing["parts"],
            missing_events=missing["events"],
            replayed=self._replayed,
            plc_in_time=len(self._plc) - late,
            plc_late=late,
            heartbeats=self._heart.beats,
            stalls=self._heart.stalls,
            alarms=alarms,
            faults=dict(self._faults + Counter(fault.kind for fault in faults)),
            details=(*self._details, *(fault.detail for fault in faults))[:MAX_DETAILS],
        )

    def _read(self, arrival: Arrival) -> None:
        kind = _kind(arrival.topic, self._station)
        if arrival.retained and kind not in RETAINED:
            self._fault("retained", f"{arrival.topic}: retained")
        if not arrival.payload and kind in CLEARED:
            self._forget(arrival.topic.split("/")[3:-1])
            return
        READERS[kind](self, arrival)

    def _forget(self, alarm: list[str]) -> None:
        """The station has this camera no more; nothing is kept of what a camera is doing."""
        if alarm and self._alarms.pop((alarm[0], alarm[1]), None) is not None:
            self._tell("alarm", f"{'/'.join(alarm)} is no more")

    def _body(self, arrival: Arrival, schemas: Sequence[str]) -> Body:
        """The payload as JSON of one of these schemas, of our station."""
        body = parse(arrival.payload)
        schema = body.one_of("schema", schemas)
        self._checked(schema, body)
        if body.text("station") != self._station:
            raise MalformedError(f"of station {body.text('station')}")
        return body

    def _checked(self, schema: str, body: Body) -> None:
        problem = self._check(schema, body.fields)
        if problem:
            raise MalformedError(problem)

    def _read_status(self, arrival: Arrival) -> None:
        word = arrival.payload.decode("ascii", "replace")
        if word not in get_args(StatusWord):
            raise MalformedError(f"not a status: {word[:20]!r}")
        self._status = cast(StatusWord, word)
        self._tell_change("status", "", word)
        self._watch(arrival.at_s)

    def _read_heartbeat(self, arrival: Arrival) -> None:
        if not arrival.payload.isdigit() or len(arrival.payload) > 20:
            raise MalformedError(f"not a counter: {arrival.payload[:20]!r}")
        self._heart.beat(int(arrival.payload), arrival.at_s)

    def _read_result(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["result"])
        self._boots.add(body.text("boot_id"))
        historical = body.flag("historical")
        if body.text("schema") == messages.GAP_SCHEMA:
            self._take_gap(arrival.topic, body)
        elif self._take_part(arrival.topic, body):
            self._historical += historical

    def _take_part(self, topic: str, body: Body) -> bool:
        part = Part(
            body.number("seq", at_least=1),
            body.text("camera"),
            body.text_or_none("part_id"),
            cast(Verdict, body.one_of("verdict", get_args(Verdict))),
            body.text_or_none("reason"),
            body.number("captured_ms"),
            body.text_or_none("trigger_id"),
        )
        span = Span(part.seq, part.seq)
        if not self._is_first(topic, part.seq, "result", body, replayed=self._numbering.is_replayed(span)):
            return False
        self._parts[part.seq] = part
        self._numbering.take_parts(span)
        if part.trigger_id is not None:
            self._of_triggers.setdefault(part.trigger_id, []).append(part)
        shown = part.verdict if part.reason is None else f"{part.verdict} ({part.reason})"
        self._tell_change("verdict", part.camera, shown, f"seq {part.seq} {part.part_id or ''}")
        return True

    def _take_gap(self, topic: str, body: Body) -> None:
        first = body.number("seq_from", at_least=1)
        last, left_out = body.number("seq_to", at_least=first), body.number("trigger_ids_left_out", at_least=0)
        gap = Gap(first, last, body.text("reason"), body.texts("trigger_ids"), left_out)
        span = Span(gap.first, gap.last)
        if self._is_first(topic, first, "gap record", body, replayed=self._numbering.is_replayed(span)):
            self._gaps[first] = gap
            self._numbering.take_parts(span)
            self._tell("gap", f"parts {gap.first} to {gap.last} have no result: {gap.reason}")

    def _read_plc(self, arrival: Arrival) -> None:
        body = parse(arrival.payload)
        self._checked(PLC_SCHEMA, body)
        if len(arrival.payload) > PLC_MAX_BYTES or b"\\" in arrival.payload:
            raise MalformedError("longer than a controller takes, or with an escape")
        seq, late = body.number("seq", at_least=1), body.text("rsn") == PLC_LATE
        plc = _Plc(body.number("res"), late, body.number("t"))
        if plc.res not in PLC_RESULT.values():
            raise MalformedError(f"res {plc.res}")
        if plc.res and arrival.at_ms - plc.captured_ms > 1000 * self._limits.deadline_s:
            self._fault(
                "stale", f"seq {seq}: plc says {plc.res} {arrival.at_ms - plc.captured_ms} ms after its capture"
            )
        self._decided_s.setdefault(body.text("trg"), arrival.at_s)
        known = self._plc.get(seq)
        if known is None or known.late:
            self._plc[seq] = plc
        elif not late and plc != known:
            self._fault("disagreement", f"seq {seq}: two verdicts on plc")

    def _read_event(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["event"])
        number, seq = body.number("event_no", at_least=1), body.number_or_none("seq")
        event, name = body.text("event"), (body.text("camera"), body.text("alarm"))
        replayed = self._numbering.is_event_replayed(number, seq)
        if self._is_first(arrival.topic, number, "alarm event", body, replayed=replayed):
            self._numbering.events.take(Span(number, number))
            seen = self._alarms.setdefault(name, AlarmSigns())
            seen.happened(event, number, body.text("state"), body.number("captured_ms"))
            part = f": seq {seq} {body.text_or_none('part_id') or ''}" if seq is not None else ""
            self._tell("alarm", f"{'/'.join(name)} {event}{part}".rstrip())

    def _read_state(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["state"])
        seen = self._alarms.setdefault((body.text("camera"), body.text("alarm")), AlarmSigns())
        seen.state, seen.state_seq = body.text("state"), body.number_or_none("seq")
        seen.since_ms = body.number_or_none("since_ms") or 0
        seen.complete = seen.state != "out_of_service" and body.number("withheld") == 0

    def _read_camera(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["camera"])
        self._tell_change("camera", body.text("camera"), f"{body.text('state')} {body.text('detail')}".rstrip())

    def _read_health(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["health"])
        self._boots.add(body.text("boot_id"))
        outbox = body.inner("outbox")
        self._numbering.take_told(Told(*(outbox.number(key) for key in ("last_seq", "last_event", "unsent"))))
        mode = "" if body.text("mode") == "run" else f"mode {body.text('mode')}"
        said = [text for text in (mode, body.text("detail"), body.text("publish_refused")) if text]
        self._tell_change("health", "", "; ".join(said) or "all right")

    def _read_reply(self, arrival: Arrival) -> None:
        body = self._body(arrival, SCHEMAS["reply"])
        reply = Replied(body.text("correlation_id"), body.flag("done"), body.text_or_none("reason") or "")
        if reply.done and body.text("command") == "replay":
            reply = _replay(reply, body.inner("details"))
        if reply.replayed is not None:
            self._numbering.take_replay(reply.of, reply.replayed)
        self._replies.append(reply)

    def _is_first(self, topic: str, number: int, what: str, body: Body, *, replayed: bool) -> bool:
        """Whether this is the first copy of a message; another one has to agree with it.

        First copies come in order, but for those that somebody has asked for once more: for him they are copies.
        """
        digest = body.digest(MAY_DIFFER)
        known = self._digests.setdefault((topic, number, what), digest)
        if known is not digest:
            self._duplicates += 1
            if known != digest:
                self._fault("disagreement", f"two copies of {what} {number} disagree")
            return False
        self._replayed += replayed
        if number < self._highest.get(topic, 0) and not replayed:
            self._fault("order", f"{topic}: {what} {number} came after {self._highest[topic]}")
        self._highest[topic] = max(number, self._highest.get(topic, 0))
        return True

    def _watch(self, at_s: float) -> None:
        self._heart.due_from(at_s if self._connected and self._status == "online" else None)

    def _spans(self) -> list[tuple[int, int]]:
        """(first, last) of every result and gap record, in order."""
        return sorted([(seq, seq) for seq in self._parts] + [(gap.first, gap.last) for gap in self._gaps.values()])

    def _verdicts(self) -> dict[Verdict, int]:
        verdicts = Counter(part.verdict for part in self._parts.values())
        verdicts["not_inspected"] += self.known() - len(self._parts)
        return {verdict: verdicts[verdict] for verdict in get_args(Verdict)}

    def _contradictions(self, spans: list[tuple[int, int]]) -> Iterator[Fault]:
        missing = self.missing()
        for first, last in _pairs(missing["parts"]):
            yield Fault("missing", f"no result for seq {first} to {last}")
        for first, last in _pairs(missing["events"]):
            yield Fault("missing", f"no alarm event {first} to {last}")
        for first, last in _overlaps(spans):
            yield Fault("overlap", f"seq {first} to {last}: both a gap record and something else")
        for seq, plc in self._plc.items():
            part = self._parts.get(seq)
            if part is not None and plc.captured_ms != part.captured_ms:
                yield Fault("plc", f"seq {seq}: plc and result have different capture times")
            elif not plc.late and plc.res != self._expected_res(seq, plc.res):
                yield Fault("plc", f"seq {seq}: plc says {plc.res}, its result or gap record says otherwise")

    def _expected_res(self, seq: int, unknown: int) -> int:
        """What a part's result makes of `res`; `unknown` where nothing speaks of it, or its result was dropped."""
        if seq in self._parts:
            return PLC_RESULT[self._parts[seq].verdict]
        gap = next((gap for gap in self._gaps.values() if gap.first <= seq <= gap.last), None)
        return unknown if gap is None or gap.reason == DROPPED else 0

    def _fault(self, kind: FaultKind, detail: str) -> None:
        self._faults[kind] += 1
        if len(self._details) < MAX_DETAILS:
            self._details.append(detail)
        self._tell("fault", f"{kind}: {detail}")

    def _tell(self, kind: NewsKind, text: str) -> None:
        self._news.append(News(kind, text))

    def _tell_change(self, kind: NewsKind, name: str, value: str, what: str = "") -> None:
        """Tell a value that differs from the last one of its name."""
        if self._last_told.get((kind, name)) != value:
            self._last_told[kind, name] = value
            self._tell(kind, " ".join(f"{name} {value} {what}".split()))


READERS: dict[str, Callable[[Consumer, Arrival], None]] = {
    "status": Consumer._read_status,
    "heartbeat": Consumer._read_heartbeat,
    "result": Consumer._read_result,
    "plc": Consumer._read_plc,
    "event": Consumer._read_event,
    "state": Consumer._read_state,
    "camera": Consumer._read_camera,
    "health": Consumer._read_health,
    "reply": Consumer._read_reply,
}


def _kind(topic: str, station: str) -> str:
    """Which of READERS a topic is for."""
    match topic.split("/"):
        case [messages.PREFIX, name, *_] if name != station:
            raise MalformedError(f"of station {name}")
        case [messages.PREFIX, _, "status" | "heartbeat" | "result" | "plc" | "health" as kind]:
            return kind
        case [messages.PREFIX, _, "camera" | "reply" as kind, _]:
            return kind
        case [messages.PREFIX, _, "alarm", _, _, "event" | "state" as kind]:
            return kind
    raise MalformedError("no topic that a station publishes")


def _pairs(numbers: Spans) -> tuple[tuple[int, int], ...]:
    """(first, last) of each run."""
    return tuple((run.first, run.last) for run in numbers)


def _replay(reply: Replied, details: Body) -> Replied:
    """What a reply tells of a replay."""
    of = cast(Numbered, details.one_of("of", get_args(Numbered)))
    gone = tuple(Span(run.number("from"), run.number("to")) for run in details.inner_list("gone_runs"))
    return replace(reply, replayed=Span(details.number("from"), details.number("to")), of=of, gone=gone)


def _overlaps(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of sorted spans is covered by an earlier one."""
    for (_, end), (start, last) in _neighbours(spans):
        if start <= end:
            yield start, min(end, last)


def _neighbours(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Each span but the first, after the one that reaches furthest of those before it."""
    furthest = spans[0] if spans else (0, 0)
    for span in spans[1:]:
        yield furthest, span
        furthest = max(furthest, span, key=lambda each: each[1])


def _disagrees(view: AlarmView) -> Fault:
    return Fault("alarm", f"alarm {view.camera}/{view.alarm} is {view.state}, which its events do not leave behind")
