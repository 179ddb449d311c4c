"""Commands from bytes to their effect: what is asked for, whether it can be done, and what is answered.

    cmd/<name> --> parse --> Request --> execute --> alarms, announcements, an order, and why it was refused
                         --> Refusal

Nothing that arrives can do anything but what one of these commands does: `parse` takes exactly the fields of `FIELDS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal, NoReturn, cast, get_args

from edge_ad.core.alarm_board import ALARMS, Alarms, Announcement, Rules, take
from edge_ad.core.alarms import AlarmInput, AlarmRules, AlarmState, InputKind, target
from edge_ad.core.alarms import Trigger as AlarmTrigger
from edge_ad.core.orders import Order, SetMode
from edge_ad.core.replay import Numbered
from edge_ad.core.spans import Span
from edge_ad.records import Mode, Trigger

CommandName = Literal[
    "acknowledge", "reset", "shelve", "unshelve", "status", "mode", "trigger", "threshold", "snapshot", "replay"
]

REQUEST_SCHEMA = "edge-ad/cmd/1"
MAX_REQUEST_BYTES = 4096  # a longer one is not even read
MAX_SHELVE_S = 604_800
MAX_THRESHOLD = 1e9  # of either sign; raw units
MAX_SEQ = 2**63 - 1
OTHER_COMMAND = "another command had this correlation_id"
NAMES: tuple[CommandName, ...] = get_args(CommandName)
ERRANDS: tuple[CommandName, ...] = ("threshold", "snapshot", "replay")  # take more than `execute` and the outbox
MODES: tuple[Mode, ...] = get_args(Mode)
NUMBERED: tuple[Numbered, ...] = get_args(Numbered)
ANSWERABLE_NAME = re.compile(r"[a-z_]{1,32}")  # fit for a topic of our own, whether we know it or not
CORRELATION_ID = re.compile(r"[!-~]{1,64}")
CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
PERSON = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}")
PART = PERSON  # and whatever else names something for people: printable, in any script
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """A command that is well-formed.

    Attributes:
        name: what to do.
        correlation_id: names the request; a request of the same id is the same request again.
        camera: which; None for commands that are for the whole station.
        alarm: on which alarm; None for commands that are not to an alarm.
        seconds: of "shelve": for how long; else 0.
        by: who asks, as he says.
        mode: of "mode": which.
        trigger: of "trigger": what is asked for; when it came is not in it yet.
        threshold: of "threshold": the image threshold, raw units.
        span: of "replay": the numbers that are asked for.
        of: of "replay": what these are numbers of.
    """

    name: CommandName
    correlation_id: str
    camera: str | None = None
    alarm: str | None = None
    seconds: float = 0.0
    by: str | None = None
    mode: Mode | None = None
    trigger: Trigger | None = None
    threshold: float | None = None
    span: Span | None = None
    of: Numbered = "parts"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that is not well-formed; without a correlation id, or under a strange name, nobody can be told."""

    correlation_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request did.

    Attributes:
        alarms: afterwards.
        announced: what the alarms tell of it.
        refusal: why it did nothing; empty if it was done.
        order: for the frame path, to be carried out now.
        details: what the reply tells beyond the alarms; its fields are those of the command.
    """

    alarms: Alarms
    announced: tuple[Announcement, ...] = ()
    refusal: str = ""
    order: Order | None = None
    details: Mapping[str, object] | None = None


def parse(name: str, payload: bytes) -> Request | Refusal:
    """Read a command, whatever the bytes are."""
    if not ANSWERABLE_NAME.fullmatch(name):
        return Refusal(None, "no such command")
    if len(payload) > MAX_REQUEST_BYTES:
        return Refusal(None, f"more than {MAX_REQUEST_BYTES} bytes")
    try:
        fields = _object(payload)
    except _MalformedError as error:
        return Refusal(None, str(error))
    given = fields.get("correlation_id")
    correlation_id = given if _is_text(given, CORRELATION_ID) else None
    if name not in FIELDS:
        return Refusal(cast("str | None", correlation_id), f"no such command; there are {', '.join(NAMES)}")
    problem = _problem(fields, FIELDS[name])
    if problem:
        return Refusal(cast("str | None", correlation_id), problem)
    return _request(cast(CommandName, name), fields)


def execute(request: Request, camera: str, alarms: Alarms, at_ns: int, rules: Rules, max_shelve_s: float) -> Outcome:
    """Do what is asked for to the alarms of the station's camera, or make it an order to the frame path.

    Raises:
        ValueError: a command of `ERRANDS`.
    """
    if request.name == "status":
        return Outcome(alarms)
    if request.mode is not None:
        return Outcome(alarms, order=SetMode(request.mode))
    if request.trigger is not None:
        return Outcome(alarms, order=replace(request.trigger, at_ns=at_ns))
    if request.alarm is None:
        raise ValueError(f"{request.name} is nothing to an alarm")
    refusal = wrong_camera(request, camera)
    if refusal:
        return Outcome(alarms, refusal=refusal)
    if request.name == "shelve" and request.seconds > max_shelve_s:
        return Outcome(alarms, refusal=f"seconds must not be more than {max_shelve_s:g} at this station")
    refusal = _why_not(request, alarms[request.alarm], rules[request.alarm])
    if refusal:
        return Outcome(alarms, refusal=refusal)
    happened = AlarmInput(_KINDS[request.name], at_ns, seconds=request.seconds, by=request.by)
    after, announced = take(alarms, {request.alarm: happened}, at_ns, rules)
    return Outcome(after, announced)


def wrong_camera(request: Request, camera: str) -> str:
    """Why a request is not for the station's camera; empty if it is, or is for the whole station."""
    return "" if request.camera in (camera, None) else f"no camera {request.camera}; there is {camera}"


# Commands as the alarms know them; those that the table of transitions must know, too.
_KINDS: dict[CommandName, InputKind] = {
    "acknowledge": "acknowledge",
    "reset": "reset",
    "shelve": "shelve",
    "unshelve": "unshelve",
}
_TRIGGERS: dict[CommandName, AlarmTrigger] = {"acknowledge": "acknowledge", "reset": "reset"}


def _why_not(request: Request, state: AlarmState, rules: AlarmRules) -> str:
    """Why a command would do nothing; empty if it does something."""
    trigger = _TRIGGERS.get(request.name)
    if trigger is not None and target(state.condition, trigger, rules) is None:
        return f"{request.alarm} is {state.condition}: nothing to {request.name}"
    if request.name == "unshelve" and state.shelved_ns is None:
        return f"{request.alarm} is not shelved"
    return ""


class _MalformedError(Exception):
    pass


def _object(payload: bytes) -> dict[str, object]:
    """The fields of a JSON object; each name once, for two values would be two commands."""
    try:
        value = json.loads(payload.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:  # deep nesting
        raise _MalformedError("not JSON") from error
    if not isinstance(value, dict):
        raise _MalformedError("not a JSON object")
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field comes twice")
    return fields


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_number_of(value: object) -> bool:
    """The number of a part or of an alarm event; for JSON, 7.0 is a whole number too."""
    return _is_number(value, 1, MAX_SEQ) and (isinstance(value, int) or cast(float, value).is_integer())


def _nanoseconds(value: object) -> int | None:
    """ISO 8601, UTC, as nanoseconds since the epoch; None for what is no such moment."""
    if not _is_text(value, MOMENT):
        return None
    try:
        whole, _, fraction = cast(str, value).rstrip("Z").partition(".")
        moment = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (round(moment.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0"))) * 1000


@dataclass(frozen=True, slots=True)
class _Field:
    fits: Callable[[object], bool]
    wanted: str
    required: bool = True


_COMMON: dict[str, _Field] = {
    "schema": _Field(lambda value: value == REQUEST_SCHEMA, REQUEST_SCHEMA, required=False),
    "correlation_id": _Field(lambda value: _is_text(value, CORRELATION_ID), "1 to 64 printable ASCII characters"),
    "by": _Field(lambda value: _is_text(value, PERSON), "1 to 64 characters", required=False),
}
_CAMERA = {"camera": _Field(lambda value: _is_text(value, CAMERA_NAME), "the name of a camera")}
_ALARM: dict[str, _Field] = {
    **_CAMERA,
    "alarm": _Field(lambda value: isinstance(value, str) and value in ALARMS, f"one of {', '.join(ALARMS)}"),
}
_SECONDS = {"seconds": _Field(lambda value: _is_number(value, 1, MAX_SHELVE_S), f"a number from 1 to {MAX_SHELVE_S}")}
_MODE = {"mode": _Field(lambda value: isinstance(value, str) and value in MODES, f"one of {', '.join(MODES)}")}
_ID = _Field(lambda value: _is_text(value, PART), "1 to 64 characters", required=False)
_MOMENT = _Field(lambda value: _nanoseconds(value) is not None, "like 2026-11-22T06:00:00.000Z", required=False)
_TRIGGER: dict[str, _Field] = {
    **dict.fromkeys(("trigger_id", "part_id", "job_id", "recipe_id"), _ID),
    "expires_at": _MOMENT,
}
_THRESHOLD = {
    "threshold": _Field(
        lambda value: _is_number(value, -MAX_THRESHOLD, MAX_THRESHOLD),
        f"a number from {-MAX_THRESHOLD:.0f} to {MAX_THRESHOLD:.0f}",
    ),
    "by": replace(_COMMON["by"], required=True),  # the record names him
}
_SPAN: dict[str, _Field] = {
    **dict.fromkeys(("from", "to"), _Field(_is_number_of, "the number of a part or of an alarm event")),
    "of": _Field(
        lambda value: isinstance(value, str) and value in NUMBERED, f"one of {', '.join(NUMBERED)}", required=False
    ),
}
# Command -> its fields; edge_ad/schemas/cmd-*.json say the same, and a test compares.
FIELDS: Mapping[str, Mapping[str, _Field]] = {
    "acknowledge": {**_COMMON, **_ALARM},
    "reset": {**_COMMON, **_ALARM},
    "shelve": {**_COMMON, **_ALARM, **_SECONDS},
    "unshelve": {**_COMMON, **_ALARM},
    "status": _COMMON,
    "mode": {**_COMMON, **_MODE},
    "trigger": {**_COMMON, **_TRIGGER},
    "threshold": {**_COMMON, **_CAMERA, **_THRESHOLD},
    "snapshot": {**_COMMON, **_CAMERA},
    "replay": {**_COMMON, **_SPAN},
}


def _problem(fields: Mapping[str, object], wanted: Mapping[str, _Field]) -> str:
    """What is wrong with the fields of a command; empty if nothing."""
    for key, field in wanted.items():
        if key not in fields and field.required:
            return f"{key} is missing"
        if key in fields and not field.fits(fields[key]):
            return f"{key} must be {field.wanted}"
    unknown = len(fields.keys() - wanted.keys())
    return f"{unknown} unknown fields; known are {', '.join(wanted)}" if unknown else ""


def _request(name: CommandName, fields: Mapping[str, object]) -> Request:
    return Request(
        name,
        cast(str, fields["correlation_id"]),
        cast("str | None", fields.get("camera")),
        cast("str | None", fields.get("alarm")),
        float(cast(float, fields.get("seconds", 0.0))),
        cast("str | None", fields.get("by")),
        cast("Mode | None", fields.get("mode")),
        _trigger(fields) if name == "trigger" else None,
        float(cast(float, fields["threshold"])) if "threshold" in fields else None,
        Span(int(cast(float, fields["from"])), int(cast(float, fields["to"]))) if "from" in fields else None,
        cast(Numbered, fields.get("of", "parts")),
    )


def _trigger(fields: Mapping[str, object]) -> Trigger:
    return Trigger(
        cast(str, fields.get("trigger_id", fields["correlation_id"])),
        cast("str | None", fields.get("part_id")),
        cast("str | None", fields.get("job_id")),
        cast("str | None", fields.get("recipe_id")),
        _nanoseconds(fields.get("expires_at")),
    )
