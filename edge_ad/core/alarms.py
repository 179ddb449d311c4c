"""One alarm as a state machine after ISA-18.2 / IEC 62682: a table of transitions, and one pure step.

An alarm has a condition, which follows its cause and its operator (`TRANSITIONS`). It may be silenced: shelved by an
operator for a time, suppressed while another alarm explains it, or out of service. Silenced, its condition goes on but
is not announced. What is announced follows the condition as soon as nothing silences it and the rate cap has room.

docs/alarms.md shows the same tables. Time is an argument: nanoseconds since the epoch, UTC. It may step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Condition = Literal["normal", "active", "unacknowledged", "acknowledged", "returned_unacknowledged", "latched"]
Silence = Literal["out_of_service", "suppressed", "shelved"]
Trigger = Literal["cause", "gone", "acknowledge", "reset", "configured"]
Guard = Literal["", "acknowledge", "no acknowledge", "latch", "no latch"]
Priority = Literal["low", "medium", "high"]
Announced = Literal["normal", "raised", "returned"]
AlarmEventKind = Literal[
    "raised",
    "realarmed",
    "acknowledged",
    "returned",
    "cleared",
    "shelved",
    "unshelved",
    "suppressed",
    "unsuppressed",
]
InputKind = Literal[
    "bad",  # a part shows the cause
    "good",  # a part shows that the cause is gone
    "cause",  # the cause is there: no part needed to see it
    "gone",
    "acknowledge",
    "reset",
    "shelve",
    "unshelve",
    "suppress",
    "unsuppress",
    "configured",  # the daemon starts, perhaps with other rules
    "time",  # nothing but time has passed
]

# (condition, trigger, guard: what the rules must say, next condition). What is not listed changes nothing.
TRANSITIONS: tuple[tuple[Condition, Trigger, Guard, Condition], ...] = (
    ("normal", "cause", "acknowledge", "unacknowledged"),
    ("normal", "cause", "no acknowledge", "active"),
    ("active", "gone", "latch", "latched"),
    ("active", "gone", "no latch", "normal"),
    ("unacknowledged", "acknowledge", "", "acknowledged"),
    ("unacknowledged", "gone", "", "returned_unacknowledged"),
    ("unacknowledged", "configured", "no acknowledge", "active"),
    ("acknowledged", "gone", "latch", "latched"),
    ("acknowledged", "gone", "no latch", "normal"),
    ("acknowledged", "configured", "no acknowledge", "active"),
    ("returned_unacknowledged", "acknowledge", "latch", "latched"),
    ("returned_unacknowledged", "acknowledge", "no latch", "normal"),
    ("returned_unacknowledged", "cause", "", "unacknowledged"),
    ("returned_unacknowledged", "configured", "no acknowledge", "latched"),
    ("latched", "cause", "acknowledge", "unacknowledged"),
    ("latched", "cause", "no acknowledge", "active"),
    ("latched", "reset", "", "normal"),
    ("latched", "configured", "no latch", "normal"),
)
# What a condition means to whoever hears the events: the last of these that was announced is `AlarmState.announced`.
MEANING: dict[Condition, Announced] = {
    "normal": "normal",
    "active": "raised",
    "unacknowledged": "raised",
    "acknowledged": "raised",
    "returned_unacknowledged": "returned",
    "latched": "returned",
}
CAP_WINDOW_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """How an alarm behaves; the defaults raise it with the first bad part and clear it with the next good one.

    Attributes:
        priority: told with the state and with each event.
        acknowledge: it must be acknowledged.
        latch: it stays until it is reset although the cause is gone.
        raise_parts, of_parts: so many bad parts among the last so many are its cause.
        reset_parts: after so many good parts in a row the cause is gone.
        hysteresis: a part is good only at a score of at most (1 - hysteresis) of the threshold; fraction.
        raises_per_minute: at most so many "raised" events within 60 s; None: no limit.
        realarm_s: announced again so often while nobody has acknowledged it; None: never.
        suppressed_by: alarms of the same camera that explain this one.
        out_of_service: not announced at all.
    """

    priority: Priority = "high"
    acknowledge: bool = False
    latch: bool = False
    raise_parts: int = 1
    of_parts: int = 1
    reset_parts: int = 1
    hysteresis: float = 0.0
    raises_per_minute: int | None = None
    realarm_s: float | None = None
    suppressed_by: tuple[str, ...] = ()
    out_of_service: bool = False


@dataclass(frozen=True, slots=True)
class AlarmInput:
    """Something that may change an alarm.

    Attributes:
        kind: what happened.
        at_ns: when; for a part, its capture.
        seq, score: of the part that shows it; None where no part does.
        seconds: of "shelve": for how long.
        by: of a command: who gave it, as he says.
    """

    kind: InputKind
    at_ns: int
    seq: int | None = None
    score: float | None = None
    seconds: float = 0.0
    by: str | None = None


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What an alarm is at present; it survives a restart.

    Attributes:
        condition: see `TRANSITIONS`.
        since_ns: when the condition came about; None before the first cause.
        count: bad parts of this activation; 0 once its end is announced.
        seq, score: the part that last changed the condition or the count; None where no part did.
        raised_ns: when the cause last appeared.
        acknowledged_ns, acknowledged_by: the acknowledgement of this activation.
        recent: the last parts that count, oldest first: "1" bad, "0" good.
        good_run: good parts in a row, up to the number that matters.
        shelved_ns: (begin, end) while shelved.
        suppressed: an alarm of `suppressed_by` is there.
        announced: what the events so far say.
        announced_ns: when it was last raised or raised again by an event.
        raises_ns: the latest "raised" events, as many as the rate cap needs.
        withheld: activations whose event the rate cap delayed or left out, ever.
    """

    condition: Condition = "normal"
    since_ns: int | None = None
    count: int = 0
    seq: int | None = None
    score: float | None = None
    raised_ns: int | None = None
    acknowledged_ns: int | None = None
    acknowledged_by: str | None = None
    recent: str = ""
    good_run: int = 0
    shelved_ns: tuple[int, int] | None = None
    suppressed: bool = False
    announced: Announced = "normal"
    announced_ns: int = 0
    raises_ns: tuple[int, ...] = ()
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """Something that is announced.

    Attributes:
        kind: what happened.
        at_ns: when what caused it happened; for a part, its capture.
        state: what the alarm is now: its condition, or what silences it.
        count: bad parts of this activation so far; for "cleared" all of them.
        seq, score: of the part that caused it; None where no part did.
        by: who gave the command that caused it, as he says.
    """

    kind: AlarmEventKind
    at_ns: int
    state: Condition | Silence
    count: int
    seq: int | None = None
    score: float | None = None
    by: str | None = None


Step = tuple[AlarmState, tuple[AlarmEvent, ...]]


def step(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> Step:
    """The state after an input, and the events that it caused, in order."""
    after = _HANDLERS[happened.kind](state, happened, rules)
    announcer = _Announcer(after, happened, rules)
    announcer.tell_changes(state)
    announcer.follow_condition(changed=MEANING[state.condition] != MEANING[after.condition])
    return announcer.state, tuple(announcer.events)


def target(condition: Condition, trigger: Trigger, rules: AlarmRules) -> Condition | None:
    """The condition that a trigger leads to; None if it changes nothing."""
    holds: dict[Guard, bool] = {
        "": True,
        "acknowledge": rules.acknowledge,
        "no acknowledge": not rules.acknowledge,
        "latch": rules.latch,
        "no latch": not rules.latch,
    }
    rows = (row for row in TRANSITIONS if row[:2] == (condition, trigger) and holds[row[2]])
    return next((row[3] for row in rows), None)


def is_present(state: AlarmState) -> bool:
    """Whether the cause is there, as far as is known."""
    return MEANING[state.condition] == "raised"


def silence(state: AlarmState, rules: AlarmRules) -> Silence | None:
    """What keeps the alarm from being announced, the strongest first."""
    if rules.out_of_service:
        return "out_of_service"
    if state.suppressed:
        return "suppressed"
    return "shelved" if state.shelved_ns is not None else None


def shown(state: AlarmState, rules: AlarmRules) -> Condition | Silence:
    """The one word for what the alarm is."""
    return silence(state, rules) or state.condition


def _move(state: AlarmState, trigger: Trigger, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    condition = target(state.condition, trigger, rules)
    if condition is None:
        return state
    moved = replace(state, condition=condition, since_ns=happened.at_ns, seq=happened.seq, score=happened.score)
    if trigger == "cause":
        return replace(moved, raised_ns=happened.at_ns, acknowledged_ns=None, acknowledged_by=None)
    if trigger == "acknowledge":
        return replace(moved, acknowledged_ns=happened.at_ns, acknowledged_by=happened.by)
    return replace(moved, recent="")  # of the parts before, none counts towards the next activation


def _count(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    """So many of the last parts are the cause; after enough good ones in a row it is gone."""
    bad = happened.kind == "bad"
    recent = (state.recent + ("1" if bad else "0"))[-rules.of_parts :]
    good_run = 0 if bad else min(state.good_run + 1, rules.reset_parts)
    counted = replace(state, recent=recent, good_run=good_run)
    if is_present(state) and bad:
        return replace(counted, count=state.count + 1, seq=happened.seq, score=happened.score)
    if is_present(state):
        return _move(counted, "gone", happened, rules) if good_run >= rules.reset_parts else counted
    if recent.count("1") < rules.raise_parts:
        return counted
    return _move(replace(counted, count=state.count + recent.count("1")), "cause", happened, rules)


def _appear(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    moved = _move(state, "cause", happened, rules)
    return replace(moved, count=state.count + 1) if moved is not state else state


def _disappear(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    return _move(state, "gone", happened, rules)


def _acknowledge(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    return _move(state, "acknowledge", happened, rules)


def _reset(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    return _move(state, "reset", happened, rules)


def _configure(state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> AlarmState:
    """Let go of duties that the rules no longer ask for: they could not be fulfilled."""
    once = _move(state, "configured", happened, rules)
    return _move(once, "configured", happened, rules)  # at most two duties


def _shelve(state: AlarmState, happened: AlarmInput, _: AlarmRules) -> AlarmState:
    return replace(state, shelved_ns=(happened.at_ns, happened.at_ns + round(1e9 * happened.seconds)))


def _unshelve(state: AlarmState, _: AlarmInput, __: AlarmRules) -> AlarmState:
    return replace(state, shelved_ns=None)


def _suppress(state: AlarmState, happened: AlarmInput, _: AlarmRules) -> AlarmState:
    return replace(state, suppressed=happened.kind == "suppress")


def _pass_time(state: AlarmState, happened: AlarmInput, _: AlarmRules) -> AlarmState:
    """End shelving; also where the clock was set back before its begin, so that it ends in any case."""
    if state.shelved_ns is None or state.shelved_ns[0] <= happened.at_ns < state.shelved_ns[1]:
        return state
    return replace(state, shelved_ns=None)


_HANDLERS: dict[InputKind, Callable[[AlarmState, AlarmInput, AlarmRules], AlarmState]] = {
    "bad": _count,
    "good": _count,
    "cause": _appear,
    "gone": _disappear,
    "acknowledge": _acknowledge,
    "reset": _reset,
    "shelve": _shelve,
    "unshelve": _unshelve,
    "suppress": _suppress,
    "unsuppress": _suppress,
    "configured": _configure,
    "time": _pass_time,
}


class _Announcer:
    """Makes the events of one step."""

    def __init__(self, state: AlarmState, happened: AlarmInput, rules: AlarmRules) -> None:
        self.state = state
        self.events: list[AlarmEvent] = []
        self._happened = happened
        self._rules = rules

    def tell_changes(self, before: AlarmState) -> None:
        """What an operator or another alarm has changed."""
        after = self.state
        acknowledged = self._happened.kind == "acknowledge" and after != before
        if acknowledged and before.announced != "normal":  # of what nobody heard, nobody hears the acknowledgement
            self._tell("acknowledged")
        if after.shelved_ns != before.shelved_ns:
            self._tell("shelved" if after.shelved_ns is not None else "unshelved")
        if after.suppressed != before.suppressed:
            self._tell("suppressed" if after.suppressed else "unsuppressed")

    def follow_condition(self, *, changed: bool) -> None:
        """Announce what the condition means, if it is not announced yet; `changed`: it came about with this step."""
        meaning = MEANING[self.state.condition]
        if meaning == self.state.announced == "normal":  # also while nobody is to hear of it: the next is another one
            self.state = replace(self.state, count=0)
        if silence(self.state, self._rules) is not None:
            return
        unheard = meaning != "normal" and self.state.announced == "normal"
        if unheard or (meaning == "raised" and self.state.announced == "returned"):
            if not self._may_raise():
                begins = changed and meaning == "raised"
                self.state = replace(self.state, withheld=self.state.withheld + begins)
                return
            self._raise()
        elif meaning == "raised":
            self._realarm()
        if meaning != self.state.announced:
            self._tell("returned" if meaning == "returned" else "cleared")
            self.state = replace(self.state, announced=meaning)
        if meaning == "normal":
            self.state = replace(self.state, count=0)

    def _may_raise(self) -> bool:
        cap, now_ns = self._rules.raises_per_minute, self._happened.at_ns
        # Both sides: where the clock was set back, events of the future must not hold up those of now.
        recent = [at_ns for at_ns in self.state.raises_ns if abs(now_ns - at_ns) < CAP_WINDOW_NS]
        return cap is None or len(recent) < cap

    def _raise(self) -> None:
        now_ns, cap = self._happened.at_ns, self._rules.raises_per_minute
        self._tell("raised")
        raises_ns = (*self.state.raises_ns, now_ns)[-cap:] if cap is not None else ()
        self.state = replace(self.state, announced="raised", announced_ns=now_ns, raises_ns=raises_ns)

    def _realarm(self) -> None:
        every_s, waits_ns = self._rules.realarm_s, self._happened.at_ns - self.state.announced_ns
        due = every_s is not None and not 0 <= waits_ns < 1e9 * every_s
        if due and self.state.condition != "acknowledged" and self._happened.kind == "time":
            self._tell("realarmed")
            self.state = replace(self.state, announced_ns=self._happened.at_ns)

    def _tell(self, kind: AlarmEventKind) -> None:
        happened, state = self._happened, self.state
        word = shown(state, self._rules)
        self.events.append(
            AlarmEvent(kind, happened.at_ns, word, state.count, happened.seq, happened.score, happened.by)
        )
