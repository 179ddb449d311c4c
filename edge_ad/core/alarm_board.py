"""All alarms of a camera: what a part says to each of them, and which suppress which.

alarm         its cause                                             seen by
defect        parts with a defect                                   parts that were inspected
camera        the camera is in fault                                the capture thread
model         the model gives no finite number                      parts that the model has seen
uncalibrated  no calibration applies                                parts that the model has seen
outbox        there is no room for results                          every part that is stored
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_ad.core.alarms import AlarmEvent, AlarmInput, AlarmRules, AlarmState, InputKind, is_present, step
from edge_ad.core.decision import MODEL_FAULT, UNCALIBRATED
from edge_ad.records import Decision

DEFECT = "defect"  # an alarm's id is a level of its topic
CAMERA = "camera"
MODEL = "model"
OUTBOX = "outbox"
ALARMS = (DEFECT, CAMERA, MODEL, UNCALIBRATED, OUTBOX)
OUTBOX_FULL = "outbox_full"  # the reason of a part that was stored without its verdict

Alarms = Mapping[str, AlarmState]  # id -> state, of one camera
Rules = Mapping[str, AlarmRules]
DEFAULT_RULES: Rules = {alarm: AlarmRules() for alarm in ALARMS}
NO_ALARMS: Alarms = {alarm: AlarmState() for alarm in ALARMS}


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event of one of the alarms."""

    alarm: str
    priority: str
    event: AlarmEvent


Change = tuple[Alarms, tuple[Announcement, ...]]


def take_part(alarms: Alarms, seq: int, captured_ns: int, decision: Decision, rules: Rules) -> Change:
    """The alarms after a part."""
    inputs: dict[str, AlarmInput] = {}
    for alarm, sign in _SIGNS.items():
        bad = sign(decision)
        if bad is not None and not (alarm == DEFECT and _within_hysteresis(alarms[alarm], decision, rules[alarm])):
            inputs[alarm] = AlarmInput("bad" if bad else "good", captured_ns, seq, decision.score)
    return take(alarms, inputs, captured_ns, rules, seq, decision.score)


def take(
    alarms: Alarms,
    inputs: Mapping[str, AlarmInput],
    at_ns: int,
    rules: Rules,
    seq: int | None = None,
    score: float | None = None,
) -> Change:
    """The alarms after inputs to some of them; equal to those before if nothing changed.

    `seq` and `score` are those of the part that caused it, if one did: what it suppresses or lets be heard names it.
    """
    after = dict(alarms)
    told: list[Announcement] = []
    for alarm, happened in inputs.items():
        _step(after, alarm, happened, rules, told)
    for alarm, state in alarms.items():
        suppressed = any(is_present(after[other]) for other in rules[alarm].suppressed_by)
        if suppressed != state.suppressed:
            kind: InputKind = "suppress" if suppressed else "unsuppress"
            _step(after, alarm, AlarmInput(kind, at_ns, seq, score), rules, told)
    return after, tuple(told)


def _step(
    after: dict[str, AlarmState], alarm: str, happened: AlarmInput, rules: Rules, told: list[Announcement]
) -> None:
    after[alarm], events = step(after[alarm], happened, rules[alarm])
    told += [Announcement(alarm, rules[alarm].priority, event) for event in events]


def _defect(decision: Decision) -> bool | None:
    return None if decision.verdict == "not_inspected" else decision.verdict == "defect"


def _model(decision: Decision) -> bool | None:
    if decision.reason == MODEL_FAULT:
        return True
    return False if decision.score is not None else None


def _uncalibrated(decision: Decision) -> bool | None:
    if decision.reason == UNCALIBRATED:
        return True
    return None if decision.verdict == "not_inspected" else False


def _outbox(decision: Decision) -> bool | None:
    return decision.reason == OUTBOX_FULL


# What a part says to an alarm: its cause (True), that the cause is gone (False), or nothing. Above all, a part that was
# not inspected proves neither good nor bad.
_SIGNS: dict[str, Callable[[Decision], bool | None]] = {
    DEFECT: _defect,
    MODEL: _model,
    UNCALIBRATED: _uncalibrated,
    OUTBOX: _outbox,
}


def _within_hysteresis(state: AlarmState, decision: Decision, rules: AlarmRules) -> bool:
    """A part that is good, but not good enough to end the alarm that is there."""
    if not is_present(state) or decision.verdict != "ok" or decision.score is None or decision.threshold is None:
        return False
    return decision.score > decision.threshold * (1.0 - rules.hysteresis)
