"""The defect alarm: raised by the first defect, cleared by the next good part, blind to what was not inspected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.alarms import AlarmEvent, AlarmState, PartInspected, step
from edge_ad.records import Verdict

VERDICTS = st.lists(st.sampled_from(["ok", "defect", "not_inspected"]), max_size=40)


def run(verdicts: list[Verdict]) -> tuple[AlarmState, list[AlarmEvent]]:
    state, events = AlarmState(), []
    for seq, verdict in enumerate(verdicts, start=1):
        state, caused = step(state, PartInspected(seq, seq * 1000, verdict, score=float(seq)))
        events += caused
    return state, events


def test_first_defect_raises_and_next_good_part_clears() -> None:
    state, events = run(["ok", "defect", "defect", "not_inspected", "ok", "ok"])
    assert [(e.kind, e.part.seq, e.count) for e in events] == [("raised", 2, 1), ("cleared", 5, 2)]
    assert state == AlarmState("normal", 5000, 0, 5, 5.0)


def test_further_defects_are_counted_without_a_second_event() -> None:
    state, events = run(["defect", "defect", "defect"])
    assert len(events) == 1
    assert state == AlarmState("active", 1000, 3, 3, 3.0)


@given(VERDICTS)
def test_active_exactly_while_the_last_inspected_part_was_a_defect(verdicts: list[Verdict]) -> None:
    inspected = [verdict for verdict in verdicts if verdict != "not_inspected"]
    state, _ = run(verdicts)
    assert (state.condition == "active") == (inspected[-1:] == ["defect"])


@given(VERDICTS)
def test_events_alternate_and_begin_with_raised(verdicts: list[Verdict]) -> None:
    _, events = run(verdicts)
    assert [event.kind for event in events] == (["raised", "cleared"] * len(events))[: len(events)]


@given(VERDICTS)
def test_a_part_that_was_not_inspected_changes_nothing(verdicts: list[Verdict]) -> None:
    state, _ = run(verdicts)
    assert step(state, PartInspected(99, 99, "not_inspected", None)) == (state, ())


@given(VERDICTS)
def test_cleared_events_and_the_present_count_add_up_to_all_defects(verdicts: list[Verdict]) -> None:
    state, events = run(verdicts)
    assert sum(event.count for event in events if event.kind == "cleared") + state.count == verdicts.count("defect")
