"""What a consumer hears of a station and what it makes of it, as records; core/consumer.py fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_ad.core.messages import StatusWord
from edge_ad.core.replay import Numbered
from edge_ad.core.spans import Span
from edge_ad.records import Verdict

MAX_DETAILS = 100  # faults that are kept with their words; beyond, they are only counted

FaultKind = Literal[
    "malformed",  # a payload that is not what its topic promises
    "retained",  # a message of a moment came as a retained one: a stale verdict would eject a good part
    "disagreement",  # two copies differ in more than MAY_DIFFER
    "order",  # a first copy came after one of a higher number
    "overlap",  # a part has a result and a gap record, or two gap records
    "missing",  # a part has neither, or an alarm event did not come
    "plc",  # plc and result contradict each other
    "stale",  # a verdict on plc arrived after its deadline
    "stall",  # the heartbeat stood still while the station was online
    "alarm",  # an alarm's state is not what its events leave behind
]
HEALING: frozenset[FaultKind] = frozenset({"missing", "alarm"})  # what is still on its way may put these right
NewsKind = Literal["alarm", "verdict", "gap", "status", "camera", "health", "fault"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came.

    Attributes:
        topic, payload: of the message.
        retained: the broker had kept it.
        at_s: any monotonic clock, seconds.
        at_ms: wall clock, milliseconds since the epoch, UTC.
    """

    topic: str
    payload: bytes
    retained: bool
    at_s: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the consumer puts up with.

    Attributes:
        stall_s: the heartbeat may stand still for so long.
        deadline_s: from capture to the arrival of a verdict on `plc`; the clocks of both sides count.
    """

    stall_s: float = 3.0
    deadline_s: float = 4.0


@dataclass(frozen=True, slots=True)
class News:
    """Something that whoever watches the line wants to see at once."""

    kind: NewsKind
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A promise that was not kept."""

    kind: FaultKind
    detail: str


@dataclass(frozen=True, slots=True)
class Part:
    """What is kept of a result."""

    seq: int
    camera: str
    part_id: str | None
    verdict: Verdict
    reason: str | None
    captured_ms: int
    trigger_id: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap record: parts `first` to `last` have no results, and `reason` says why.

    `trigger_ids` are of these parts; `left_out`: so many more are not named.
    """

    first: int
    last: int
    reason: str
    trigger_ids: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Replied:
    """A reply to a command, somebody's.

    Attributes:
        correlation_id, done, reason: as it says; reason is empty if it was done.
        replayed: of `replay`: what comes once more; None for other commands.
        of: what these are numbers of.
        gone: of those, what does not come: the runs that it tells.
    """

    correlation_id: str
    done: bool
    reason: str = ""
    replayed: Span | None = None
    of: Numbered = "parts"
    gone: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class AlarmView:
    """An alarm as it was told.

    Attributes:
        camera, alarm: name it.
        state: the last present state; None if none was heard.
        events: how often each kind of event happened.
        agrees: the state is what the last event leaves behind; None where that cannot be told: no event was heard, or
            the state is ahead of the events, or some events are kept back (out of service, rate cap).
    """

    camera: str
    alarm: str
    state: str | None
    events: dict[str, int]
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    """What was heard, each thing once, and what was wrong with it.

    Attributes:
        station, status: its name, and its last word; None if it said none.
        boots: runs of the daemon that were heard of.
        messages: all that arrived, copies too.
        verdicts: parts by verdict; parts of gap records count as not inspected.
        first_seq, last_seq: lowest and highest number heard of; None without any.
        duplicates: copies beyond the first, of results, gap records and alarm events.
        historical: results whose first copy was history already.
        gaps: the gap records, in order.
        missing: (first, last) of each run of numbers in between that nothing speaks of.
        missing_events: likewise of the numbers of alarm events.
        replayed: results, gap records and alarm events that came by a replay only.
        plc_in_time, plc_late: parts whose verdict came on `plc`, and parts of which it only said `late`.
        heartbeats, stalls: changes of the counter, and how often it stood still too long.
        alarms: every alarm heard of.
        faults: how many of each kind; empty if all promises were kept.
        details: the faults in words, the first MAX_DETAILS of them.
    """

    station: str
    status: StatusWord | None
    boots: int
    messages: int
    verdicts: dict[Verdict, int]
    first_seq: int | None
    last_seq: int | None
    duplicates: int
    historical: int
    gaps: tuple[Gap, ...]
    missing: tuple[tuple[int, int], ...]
    missing_events: tuple[tuple[int, int], ...]
    replayed: int
    plc_in_time: int
    plc_late: int
    heartbeats: int
    stalls: int
    alarms: tuple[AlarmView, ...]
    faults: dict[FaultKind, int]
    details: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.faults
