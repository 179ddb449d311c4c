"""The alarm of a camera as a state machine: a table of transitions, and one pure step.

For now one alarm, `defect`, with two conditions. What ISA-18.2 adds (acknowledge, shelve, latch, debounce) are further
conditions, further kinds of input and further rows of the table; `step` stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from edge_ad.records import Verdict

DEFECT = "defect"  # the alarm's id, a level of its topic

AlarmCondition = Literal["normal", "active"]
AlarmEventKind = Literal["raised", "cleared"]


@dataclass(frozen=True, slots=True)
class PartInspected:
    """The input of the machine: a part has its verdict.

    Attributes:
        seq: the part's number in the outbox.
        captured_ns: nanoseconds since the epoch, UTC.
        verdict, score: of the decision; the score in raw units, None where there is none.
    """

    seq: int
    captured_ns: int
    verdict: Verdict
    score: float | None


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What an alarm is at present; it survives a restart.

    Attributes:
        condition: "active" from the defect that raised it to the next good part.
        since_ns: capture time of the part that brought the condition about, nanoseconds since the epoch, UTC; None
            before the first defect.
        count: defects since it was raised; 0 while normal.
        seq, score: the part that last changed this state; None before the first defect.
    """

    condition: AlarmCondition = "normal"
    since_ns: int | None = None
    count: int = 0
    seq: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """Something that happened to an alarm.

    Attributes:
        kind: what happened.
        part: the part that caused it.
        count: defects of this activation so far; for "cleared" all of them.
    """

    kind: AlarmEventKind
    part: PartInspected
    count: int


Step = tuple[AlarmState, tuple[AlarmEvent, ...]]


def _raise(_: AlarmState, part: PartInspected) -> Step:
    return AlarmState("active", part.captured_ns, 1, part.seq, part.score), (AlarmEvent("raised", part, 1),)


def _repeat(state: AlarmState, part: PartInspected) -> Step:
    return replace(state, count=state.count + 1, seq=part.seq, score=part.score), ()


def _clear(state: AlarmState, part: PartInspected) -> Step:
    cleared = AlarmEvent("cleared", part, state.count)
    return AlarmState("normal", part.captured_ns, 0, part.seq, part.score), (cleared,)


# What is not listed changes nothing: above all, a part that was not inspected proves neither good nor bad.
TRANSITIONS: dict[tuple[AlarmCondition, Verdict], Callable[[AlarmState, PartInspected], Step]] = {
    ("normal", "defect"): _raise,
    ("active", "defect"): _repeat,
    ("active", "ok"): _clear,
}


def step(state: AlarmState, part: PartInspected) -> Step:
    """The state after a part, and the events that it caused, in order."""
    transition = TRANSITIONS.get((state.condition, part.verdict))
    return transition(state, part) if transition is not None else (state, ())
