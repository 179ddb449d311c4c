"""The compact form of a result, for controllers: docs/plc.md is the integrator's view of it."""

from __future__ import annotations

import math

from edge_ad.core.messages import Message, ResultBody, topic
from edge_ad.records import Verdict

PLC_VERSION = 1
PLC_MAX_BYTES = 240  # what the send block of older controllers carries
PLC_MAX_NAME = 32  # bytes of `cam`, as NAME_PATTERN of the configuration has it
PLC_MAX_REASON = 20
PLC_RESULT: dict[Verdict, int] = {"not_inspected": 0, "ok": 1, "defect": 2}
PLC_LATE = "late"


def plc_message(body: ResultBody, *, late: bool) -> Message:
    """The compact form of a result: flat, ASCII without escapes, at most 240 bytes, each field of one type.

    Args:
        body: the stored result.
        late: the deadline has passed: the verdict, its score and threshold are withheld.
    """
    code, reason = (0, PLC_LATE) if late else (PLC_RESULT[body["verdict"]], body["reason"])
    score, threshold = (None, None) if late else (body["score"], body["threshold"])
    head = f'{{"v":{PLC_VERSION},"cam":"{_tail(_plc_text(body["camera"]), PLC_MAX_NAME)}","seq":{body["seq"]}'
    tail = (
        f'"res":{code},"rsn":"{_plc_text(reason)[:PLC_MAX_REASON]}","sc":{_plc_number(score)}'
        f',"thr":{_plc_number(threshold)},"t":{body["captured_ms"]},"sim":{int(body["simulated"])}}}'
    )
    room = PLC_MAX_BYTES - len(head) - len(tail) - len(',"part":"","trg":"",')
    part, trigger = _fit(_plc_text(body["part_id"]), _plc_text(body["trigger_id"]), room)
    payload = f'{head},"part":"{part}","trg":"{trigger}",{tail}'
    return Message(topic(body["station"], "plc"), payload.encode("ascii"), 1, retain=False)


def _plc_text(value: str | None) -> str:
    """Printable ASCII that needs no escape in JSON, so that a controller can cut it out by position; None is empty."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in value or "")


def _plc_number(value: float | None) -> str:
    """At most 13 characters, six significant digits, no exponent where small; None is 0, for a field keeps its type."""
    if value is None or not math.isfinite(value):
        return "0"
    text = f"{value:.6g}" if abs(value) >= 1e-4 else f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _tail(value: str, room: int) -> str:
    """The end of a text that is too long, marked: serial numbers differ at their end."""
    return value if len(value) <= room else "~" + value[len(value) - room + 1 :]


def _fit(part: str, trigger: str, room: int) -> tuple[str, str]:
    """Both texts within `room` characters; whoever is short leaves the rest to the other."""
    trigger_room = max(room // 2, room - len(part))
    trigger = _tail(trigger, trigger_room)
    return _tail(part, room - len(trigger)), trigger
