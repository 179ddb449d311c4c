"""What goes first when the outbox is full, and what takes its place.

Results of good parts go first, oldest first, then results of parts that were not inspected. Defects and alarm events
never go, nor does what was stored without a verdict for want of room. A row that goes becomes a gap record; those of
neighbours become one. It keeps the reason of parts that were not inspected, so a consumer still knows their verdict,
and names the triggers of its parts, so that nobody waits for their results; those that it has no room for, it counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum

from edge_ad.core.alarm_board import OUTBOX_FULL
from edge_ad.core.messages import GAP_SCHEMA, GapBody, ResultBody
from edge_ad.core.rows import Row
from edge_ad.records import Verdict

MAX_TRIGGER_BYTES = 1024  # of trigger ids in a gap record, as JSON
DROPPED = "dropped"  # the reason of a gap in good parts: they were inspected, but their results were dropped


class Worth(IntEnum):
    """What a row is worth; the least goes first."""

    OK = 0
    NOT_INSPECTED = 1
    KEPT = 2


MAY_GO = (Worth.OK, Worth.NOT_INSPECTED)  # in this order
_WORTH: dict[Verdict, Worth] = {"ok": Worth.OK, "not_inspected": Worth.NOT_INSPECTED, "defect": Worth.KEPT}


def worth(row: Row) -> Worth:
    """What a row is worth: one with alarm events is kept, whatever its part was."""
    if row.body is None or "seq_from" in row.body or row.events or row.body["reason"] == OUTBOX_FULL:
        return Worth.KEPT
    return _WORTH[row.body["verdict"]]


def gap_instead(body: ResultBody) -> GapBody:
    """The gap record that takes the place of a result."""
    gap: GapBody = {
        "schema": GAP_SCHEMA,
        "station": body["station"],
        "boot_id": body["boot_id"],
        "seq_from": body["seq"],
        "seq_to": body["seq"],
        "reason": body["reason"] or DROPPED,
        "trigger_ids": [],
        "trigger_ids_left_out": 0,
        "captured_at": body["captured_at"],
        "captured_ms": body["captured_ms"],
        "published_ms": None,
        "historical": None,
        "simulated": body["simulated"],
    }
    return with_triggers(gap, [body["trigger_id"]] if body["trigger_id"] is not None else [])


def with_triggers(gap: GapBody, ids: Sequence[str], left_out: int = 0) -> GapBody:
    """The gap record with further trigger ids, of later parts; from the first on that has no room, they are counted."""
    named = list(gap["trigger_ids"])
    room = 0 if gap["trigger_ids_left_out"] else MAX_TRIGGER_BYTES - sum(map(_size, named))
    for place, trigger_id in enumerate(ids):
        room -= _size(trigger_id)
        if room < 0:
            left_out += len(ids) - place
            break
        named.append(trigger_id)
    return {**gap, "trigger_ids": named, "trigger_ids_left_out": gap["trigger_ids_left_out"] + left_out}


def _size(trigger_id: str) -> int:
    """Bytes of an id in a list of JSON."""
    return len(json.dumps(trigger_id)) + 1


def joined(first: ResultBody | GapBody | None, second: ResultBody | GapBody | None) -> GapBody | None:
    """One gap record for both; None where they are not both such records, no neighbours, or tell different things."""
    if first is None or second is None or "seq" in first or "seq" in second:
        return None
    if first["seq_to"] + 1 != second["seq_from"] or _tells(first) != _tells(second):
        return None
    whole: GapBody = {**first, "seq_to": second["seq_to"]}
    return with_triggers(whole, second["trigger_ids"], second["trigger_ids_left_out"])


def _tells(gap: GapBody) -> tuple[str, str, bool]:
    """What a gap record tells of each of its parts."""
    return gap["boot_id"], gap["reason"], gap["simulated"]
