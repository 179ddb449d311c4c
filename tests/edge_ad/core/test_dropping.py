"""Rules of dropping: what is worth keeping, and what a gap record in its place still tells."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core import messages
from edge_ad.core.alarm_board import OUTBOX_FULL
from edge_ad.core.dropping import DROPPED, MAX_TRIGGER_BYTES, Worth, gap_instead, joined, with_triggers, worth
from edge_ad.core.messages import StationContext
from edge_ad.core.rows import Row
from edge_ad.records import Decision, Event
from tests.edge_ad.core.test_delivery import make_row
from tests.edge_ad.core.test_messages import contexts, events, sequence_numbers

CONTEXT = StationContext("press-3", "boot", "digest", simulated=False)
SCHEMA = json.loads(resources.files("edge_ad").joinpath("schemas/gap-1.json").read_text(encoding="utf-8"))


def row(verdict: Decision, seq: int = 1) -> Row:
    return Row(seq, messages.result_body(CONTEXT, seq, Event("top", seq, None, None, 0, verdict)))


def test_only_good_parts_and_parts_that_were_not_inspected_may_go() -> None:
    assert worth(row(Decision("ok", None, 0.1, 0.5))) is Worth.OK
    assert worth(row(Decision("not_inspected", "unreadable", None, None))) is Worth.NOT_INSPECTED
    assert worth(row(Decision("not_inspected", OUTBOX_FULL, None, None))) is Worth.KEPT
    assert worth(row(Decision("defect", None, 0.9, 0.5))) is Worth.KEPT
    assert worth(make_row(1, alarm=True)) is Worth.KEPT  # a good part, but it ends an alarm
    assert worth(Row(1, None, make_row(1, alarm=True).events)) is Worth.KEPT
    assert worth(Row(1, messages.gap_body(CONTEXT, 1, 2, DROPPED, 0))) is Worth.KEPT


@given(contexts, sequence_numbers, events)
def test_a_gap_record_tells_the_same_of_a_part_as_its_result_did(
    context: StationContext, seq: int, event: Event
) -> None:
    body = messages.result_body(context, seq, event)
    gap = gap_instead(body)
    assert (gap["seq_from"], gap["seq_to"], gap["reason"]) == (seq, seq, body["reason"] or DROPPED)
    shared = body.keys() & gap.keys() - {"schema", "reason"}
    assert {key: dict(body)[key] for key in shared} == {key: dict(gap)[key] for key in shared}
    assert gap["trigger_ids"] == ([body["trigger_id"]] if body["trigger_id"] is not None else [])
    jsonschema.validate(json.loads(messages.result(gap, 0, 0).payload), SCHEMA)


@given(st.lists(st.lists(st.text(min_size=1, max_size=64), max_size=9), min_size=1, max_size=9))
def test_joined_gap_records_name_the_triggers_of_all_their_parts_in_order_or_count_them(ids: list[list[str]]) -> None:
    gaps = [with_triggers(messages.gap_body(CONTEXT, n, n, DROPPED, 0), each) for n, each in enumerate(ids, start=1)]
    whole = gaps[0]
    for gap in gaps[1:]:
        both = joined(whole, gap)
        assert both is not None
        whole = both
    every = [trigger_id for each in ids for trigger_id in each]
    named = whole["trigger_ids"]
    assert len(named) + whole["trigger_ids_left_out"] == len(every)
    assert len(json.dumps(named, separators=(",", ":"))) <= MAX_TRIGGER_BYTES + 2
    in_order = iter(every)
    assert all(trigger_id in in_order for trigger_id in named)
    if len(json.dumps(every, separators=(",", ":"))) < MAX_TRIGGER_BYTES:
        assert named == every


@given(st.integers(1, 9), st.integers(0, 9), st.integers(-3, 3), st.integers(0, 9))
def test_only_neighbours_become_one(first: int, length: int, distance: int, more: int) -> None:
    one = messages.gap_body(CONTEXT, first, first + length, DROPPED, 7)
    start = first + length + 1 + distance
    other = messages.gap_body(CONTEXT, start, start + more, DROPPED, 8)
    both = joined(one, other)
    assert both == ({**one, "seq_to": start + more} if distance == 0 else None)


def test_neighbours_that_tell_different_things_stay_apart() -> None:
    one = messages.gap_body(CONTEXT, 1, 1, DROPPED, 0)
    others = [
        messages.gap_body(CONTEXT, 2, 2, "unreadable", 0),
        messages.gap_body(replace(CONTEXT, boot_id="another"), 2, 2, DROPPED, 0),
        messages.gap_body(replace(CONTEXT, simulated=True), 2, 2, DROPPED, 0),
        row(Decision("ok", None, 0.1, 0.5), seq=2).body,
        None,
    ]
    assert [joined(one, other) for other in others] == [None] * 5
    assert [joined(other, one) for other in others] == [None] * 5
