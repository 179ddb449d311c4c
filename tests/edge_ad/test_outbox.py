"""The outbox: numbers without a gap, durable, and honest when there is no room left."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_ad import outbox_file
from edge_ad.config import OutboxConfig
from edge_ad.core import messages
from edge_ad.core.alarm_board import DEFAULT_RULES, NO_ALARMS, take_part
from edge_ad.core.alarms import AlarmInput, AlarmRules
from edge_ad.core.commands import Request
from edge_ad.core.messages import StationContext
from edge_ad.core.orders import SetMode
from edge_ad.core.replay import KeptRow, Replay, count, gone
from edge_ad.core.rows import Row
from edge_ad.core.spans import Span
from edge_ad.core.triggers import Lost
from edge_ad.errors import ConfigError, OutboxError
from edge_ad.outbox import Outbox
from edge_ad.outbox_file import Position
from edge_ad.records import Decision, Event, Region, Trigger, Verdict
from tests.disk import FILLER, fill_up, free, small_disk

CONTEXT = StationContext("press-3", "boot-1", "digest", simulated=False)
MB = 1 << 20


def part(number: int, verdict: Verdict = "ok", n_regions: int = 1, part_id: str | None = None) -> Event:
    regions = (Region(1000, 1000, 1000, 1000, 999_999, 0.123456),) * n_regions if verdict == "defect" else ()
    decision = Decision(verdict, None, 0.25, 0.5, regions, calibration=1)
    return Event("top", number, part_id or f"part-{number}", None, number * 1_000_000, decision, {"engine": 1.5})


def large(number: int) -> Event:
    return part(number, "defect", n_regions=150)  # about 10 kB


def number_of(row: Row) -> int:
    """The number of the part that a row is of."""
    assert row.body is not None
    assert "seq" in row.body
    return row.body["seq"]


def numbers_of(rows: list[Row]) -> list[int]:
    """Every number that the rows speak of, gap records included."""
    return [seq for row in rows for seq in (spanned(row) if "seq_from" in row.body else [number_of(row)])]


def spanned(row: Row) -> range:
    assert "seq_from" in row.body
    return range(row.body["seq_from"], row.body["seq_to"] + 1)


def reasons(rows: list[Row]) -> list[str | None]:
    return [row.body["reason"] for row in rows]


def all_unsent(outbox: Outbox) -> list[Row]:
    return outbox.unsent(0, 1_000_000)


@contextmanager
def killed(path: Path, folder: Path, **limits: float) -> Iterator[Outbox]:
    """The outbox that a new process finds if the one that holds `path` is killed now."""
    folder.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder)
    outbox = opened(folder / path.name, **limits)
    yield outbox
    outbox.close()


def unsent_after_a_kill(path: Path, folder: Path) -> list[int]:
    with killed(path, folder) as outbox:
        return [row.id for row in all_unsent(outbox)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.db"


def opened(path: Path, **limits: float) -> Outbox:
    return Outbox(path, CONTEXT, OutboxConfig.model_validate(limits))


def test_parts_are_numbered_from_one_without_a_gap_and_keep_their_order(path: Path) -> None:
    outbox = opened(path)
    first = outbox.append([part(1), part(2)])
    second = outbox.append([part(3)])
    assert [number_of(row) for row in first + second] == [1, 2, 3]
    assert all_unsent(outbox) == first + second
    assert [row.body["part_id"] for row in all_unsent(outbox)] == ["part-1", "part-2", "part-3"]  # type: ignore[typeddict-item]


def test_all_of_it_survives_a_restart(path: Path) -> None:
    outbox = opened(path)
    rows = outbox.append([part(1), part(2, "defect")])
    alarm = outbox.alarms("top")["defect"]
    outbox.close()
    again = opened(path)
    assert all_unsent(again) == rows
    assert again.alarms("top")["defect"] == alarm
    assert again.last_position("top") == Position(2, {"": "part-2"})
    assert again.append([part(3)])[0].id == 3


def test_a_part_that_came_late_does_not_put_back_where_its_source_goes_on(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(9), replace(part(10), part_id="part-1", resume_after="part-9")])
    outbox.close()
    assert opened(path).last_position("top") == Position(10, {"": "part-9"})


def of_source(path: Path, source: str) -> Outbox:
    return Outbox(path, replace(CONTEXT, source=source), OutboxConfig())


def mark_of(outbox: Outbox, source: str) -> str | None:
    position = outbox.last_position("top")
    assert position is not None
    return position.mark(source)


def test_each_source_under_a_cameras_name_goes_on_where_it_was(path: Path) -> None:
    for number, source in enumerate(["folder /lot1", "folder /lot2", "v4l2", "folder /lot1"], start=1):
        outbox = of_source(path, source)
        outbox.append([part(number, part_id=f"{number}.png") if source != "v4l2" else replace(part(3), part_id=None)])
        outbox.close()
    again = of_source(path, "folder /lot3")
    assert again.last_position("top") == Position(4, {"folder /lot2": "2.png", "folder /lot1": "4.png"})
    assert [mark_of(again, name) for name in ("folder /lot1", "folder /lot2", "folder /lot3")] == [
        "4.png",
        "2.png",
        None,
    ]
    again.close()
    for number in range(5, 15):
        many = of_source(path, f"folder /lot{number}")
        many.append([part(number)])
        many.close()
    position = opened(path).last_position("top")
    assert position is not None
    assert list(position.marks) == [f"folder /lot{number}" for number in range(11, 15)]


def test_a_simulation_that_begins_by_command_begins_with_its_first_part_and_a_restart_within_it_goes_on(
    path: Path,
) -> None:
    outbox = of_source(path, "folder /lot1")
    outbox.append([part(1)])
    outbox.close()
    playing = of_source(path, "simulated /scores.csv")
    playing.append([part(2, part_id="good.png#1")])
    playing.close()
    again = of_source(path, "simulated /scores.csv")
    assert mark_of(again, "simulated /scores.csv") == "good.png#1"
    again.command("top", Request("mode", "a-1", mode="simulate"), 5, 60)
    assert mark_of(again, "simulated /scores.csv") is None
    assert mark_of(again, "folder /lot1") == "part-1"


def test_a_mark_that_an_earlier_version_has_stored_holds_for_the_source_that_is_there(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO position VALUES ('top', 7, '\"part-7\"'), ('side', 3, 'null')")
    database.close()
    outbox = of_source(path, "folder /lot1")
    assert mark_of(outbox, "folder /lot1") == "part-7"
    assert outbox.last_position("side") == Position(3, {})
    outbox.append([part(8)])
    assert outbox.last_position("top") == Position(8, {"folder /lot1": "part-8"})


def test_numbering_goes_on_after_everything_was_sent_and_dropped(path: Path) -> None:
    outbox = opened(path, keep_sent_s=0)
    outbox.append([part(n) for n in range(1, 11)])
    outbox.mark_sent(range(1, 11), at_ms=1)
    assert outbox.figures().unsent == 0
    outbox.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT COUNT(*) FROM row").fetchone() == (0,)
    database.close()
    assert opened(path).append([part(11)])[0].id == 11


def test_sent_rows_stay_for_the_configured_time(path: Path) -> None:
    outbox = opened(path, keep_sent_s=60)
    outbox.append([part(n) for n in range(1, 5)])
    outbox.mark_sent([1, 2], at_ms=1_000)
    outbox.mark()
    outbox.mark_sent([3], at_ms=61_000)
    outbox.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT id, sent_ms FROM row ORDER BY seq").fetchall() == [(3, 61_000), (4, None)]
    database.close()


def test_a_row_is_counted_as_sent_once(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(1), part(2)])
    outbox.mark_sent([1, 1], at_ms=1)
    outbox.mark_sent([1], at_ms=2)
    assert outbox.figures().unsent == 1
    assert [number_of(row) for row in all_unsent(outbox)] == [2]


def test_the_events_of_an_alarm_are_stored_with_the_part_that_caused_them(path: Path) -> None:
    rows = opened(path).append([part(1), part(2, "defect"), part(3, "defect"), part(4)])
    assert [[event["event"] for event in row.events] for row in rows] == [[], ["raised"], [], ["cleared"]]


def test_an_alarm_goes_on_over_a_restart(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(1, "defect")])
    outbox.close()
    again = opened(path)
    assert again.append([part(2, "defect")])[0].events == ()
    assert again.alarms("top")["defect"].count == 2


def test_what_no_part_caused_has_a_row_of_its_own_between_the_parts_and_no_number(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(1)])
    assert outbox.take("top", {"camera": AlarmInput("cause", 5)}, 5)
    outbox.append([part(2)])
    outbox.close()
    first, between, last = all_unsent(opened(path))
    assert (number_of(first), between.body, number_of(last)) == (1, None, 2)
    assert [(event["alarm"], event["event"], event["seq"]) for event in between.events] == [("camera", "raised", None)]


def test_what_changes_no_alarm_writes_nothing(path: Path) -> None:
    outbox = opened(path)
    assert outbox.take("top", {"camera": AlarmInput("cause", 5)}, 5)
    assert not outbox.take("top", {"camera": AlarmInput("cause", 6)}, 6)
    assert len(all_unsent(outbox)) == 1


def test_every_field_of_an_alarm_survives_a_restart(path: Path) -> None:
    rules = {**DEFAULT_RULES, "defect": AlarmRules(acknowledge=True, raises_per_minute=5, of_parts=3)}
    outbox = Outbox(path, CONTEXT, OutboxConfig(), rules)
    outbox.append([part(1, "defect")])
    outbox.take("top", {"defect": AlarmInput("acknowledge", 2_000_000, by="anna")}, 2_000_000)
    outbox.take("top", {"defect": AlarmInput("shelve", 3_000_000, seconds=60)}, 3_000_000)
    before = outbox.alarms("top")
    outbox.close()
    assert opened(path).alarms("top") == before
    assert before["defect"].acknowledged_by == "anna"
    assert before["defect"].shelved_ns is not None


ACKNOWLEDGE = Request("acknowledge", "a-1", "top", "defect", by="anna")
ISA = {**DEFAULT_RULES, "defect": AlarmRules(acknowledge=True)}


def test_a_command_is_executed_once_and_answered_the_same_over_a_restart(path: Path) -> None:
    outbox = Outbox(path, CONTEXT, OutboxConfig(), ISA)
    outbox.append([part(1, "defect")])
    first = outbox.command("top", ACKNOWLEDGE, 5_000_000, 60)
    assert json.loads(first.reply)["done"]
    outbox.close()
    again = Outbox(path, CONTEXT, OutboxConfig(), ISA)
    assert again.command("top", ACKNOWLEDGE, 9_000_000, 60) == first
    assert [event["event"] for row in all_unsent(again) for event in row.events] == ["raised", "acknowledged"]
    other = json.loads(again.command("top", replace(ACKNOWLEDGE, name="reset"), 9_000_000, 60).reply)
    assert (other["done"], other["reason"]) == (False, "another command had this correlation_id")


def test_the_mode_is_kept_over_a_restart(path: Path) -> None:
    outbox = opened(path)
    assert outbox.mode() == "run"
    assert outbox.command("top", Request("mode", "a-1", mode="pause"), 5, 60).order == SetMode("pause")
    outbox.close()
    assert opened(path).mode() == "pause"


TRIGGER = Trigger("t-1", "A0042", at_ns=7)
ASKED = Request("trigger", "a-1", trigger=replace(TRIGGER, at_ns=0))


def of_trigger(trigger: Trigger, number: int = 1) -> Event:
    return replace(part(number), trigger=trigger)


def test_a_trigger_is_open_from_its_command_until_its_part_is_stored_also_over_a_restart(path: Path) -> None:
    outbox = opened(path)
    assert outbox.command("top", ASKED, 7, 60).order == TRIGGER
    outbox.close()
    again = opened(path)
    assert again.open_triggers() == [TRIGGER]
    assert again.command("top", ASKED, 9, 60).order is None
    again.append([of_trigger(TRIGGER)])
    again.close()
    assert opened(path).open_triggers() == []


def test_a_second_trigger_of_an_id_is_refused_until_the_first_has_its_result_and_may_then_be_given(path: Path) -> None:
    outbox = opened(path)
    outbox.command("top", ASKED, 7, 60)
    other = replace(ASKED, correlation_id="a-2")
    refused = json.loads(outbox.command("top", other, 8, 60).reply)
    assert (refused["done"], refused["reason"]) == (False, "another trigger of this trigger_id has no result yet")
    outbox.append([of_trigger(TRIGGER)])
    assert json.loads(outbox.command("top", other, 9, 60).reply)["done"]


def test_a_trigger_that_a_sensor_announced_may_come_with_its_part(path: Path) -> None:
    outbox = opened(path)
    outbox.append([], [TRIGGER])
    assert outbox.open_triggers() == [TRIGGER]
    outbox.append([of_trigger(TRIGGER), of_trigger(replace(TRIGGER, trigger_id="t-2"), 2)], [Trigger("t-2")])
    assert outbox.open_triggers() == []


def test_a_part_without_a_capture_leaves_the_camera_where_it_was(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(5)])
    outbox.append([Lost(TRIGGER, "timeout").event("top")])
    assert outbox.last_position("top") == Position(5, {"": "part-5"})


def test_a_trigger_whose_part_goes_into_a_gap_record_is_named_there_and_not_open_any_more(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    outbox.command("top", ASKED, 7, 60)
    outbox.append([part(n, "defect") for n in range(1, 112)])  # none of which may be dropped
    outbox.append([of_trigger(TRIGGER, 112)])
    outbox.append([of_trigger(replace(TRIGGER, trigger_id="t-2"), 113)], [Trigger("t-2")])
    assert outbox.figures().gap_parts > 0
    assert outbox.open_triggers() == []
    gap = outbox.unsent(0, 999)[-1].body
    assert gap is not None
    assert "seq_from" in gap
    assert (gap["trigger_ids"], gap["trigger_ids_left_out"]) == ([TRIGGER.trigger_id, "t-2"], 0)


@pytest.mark.parametrize(("memory", "kept"), [((3, 3, 9), 3), ((3, 99, 2), 3), ((3, 99, 5), 6), ((3, 5, 7), 5)])
def test_the_latest_commands_are_remembered_and_the_recent_ones(
    path: Path, monkeypatch: pytest.MonkeyPatch, memory: tuple[int, int, int], kept: int
) -> None:
    """One a millisecond; `memory`: so many in any case, at most so many, so many milliseconds."""
    monkeypatch.setattr("edge_ad.outbox.JOURNAL", outbox_file.Memory(*memory))
    outbox = opened(path)
    for number in range(10):
        outbox.command("top", Request("status", f"a-{number}"), number * 1_000_000, 60)
    outbox.close()
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT correlation_id FROM journal ORDER BY id").fetchall()
    database.close()
    assert found == [(f"a-{number}",) for number in range(10 - kept, 10)]


def test_without_room_a_command_is_refused_and_may_be_given_again(path: Path) -> None:
    outbox = Outbox(path, CONTEXT, OutboxConfig.model_validate({"max_rows": 100}), ISA)
    outbox.append([part(1, "defect"), *(part(n, "not_inspected") for n in range(2, 121))])
    rows = all_unsent(outbox)  # which may therefore not be dropped
    refused = json.loads(outbox.command("top", ACKNOWLEDGE, 5, 60).reply)
    assert (refused["done"], refused["reason"]) == (False, "outbox_full")
    outbox.mark_sent([row.id for row in rows], at_ms=1)
    assert json.loads(outbox.command("top", ACKNOWLEDGE, 6, 60).reply)["done"]


def test_in_a_gap_alarms_change_without_a_row_and_the_gap_goes_on(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    outbox.append([part(n, "defect") for n in range(1, 121)])  # none of which may be dropped
    assert not outbox.take("top", {"camera": AlarmInput("cause", 5)}, 5)
    assert outbox.alarms("top")["camera"].condition == "active"
    outbox.append([part(121)])
    assert gaps(all_unsent(outbox)) == [(111, 121, "outbox_full")]


def gaps(rows: list[Row]) -> list[tuple[int, int, str]]:
    """The gap records among rows: first and last part, and the reason."""
    bodies = [row.body for row in rows if row.body is not None]
    return [(body["seq_from"], body["seq_to"], body["reason"]) for body in bodies if "seq_from" in body]


def test_a_part_id_that_is_no_text_comes_back_as_it_was(path: Path) -> None:
    name = os.fsdecode(b"part-\xff.png")
    outbox = opened(path)
    outbox.append([part(1, part_id=name)])
    outbox.close()
    assert opened(path).last_position("top") == Position(1, {"": name})


def test_a_transaction_that_fails_leaves_nothing_behind(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(1)])
    broken = Event("top", 3, None, None, 0, Decision("good", None, 0.1, 0.5, (None,)))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        outbox.append([part(2, "defect"), broken])
    assert outbox.alarms("top")["defect"].condition == "normal"
    assert [number_of(row) for row in outbox.append([part(2)])] == [2]
    assert [number_of(row) for row in all_unsent(outbox)] == [1, 2]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(1, 45), st.integers(0, 45)
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rows_of_any_parts_are_found_among_events_and_gap_records(
    tmp_path: Path, steps: list[tuple[bool, bool]], first: int, length: int
) -> None:
    """`steps`: whether a part shares a gap record with those before it, and whether an event stands before it."""
    path = tmp_path / f"{time.monotonic_ns()}.db"
    file = outbox_file.OutboxFile(path, "press-3")
    spans: list[Span] = []
    ids = iter(range(1, 200))
    with file.transaction():
        for seq, (in_gap, event_before) in enumerate(steps, start=1):
            if event_before:
                file.insert(Row(next(ids), None))
            if in_gap and spans:
                spans[-1] = Span(spans[-1].first, seq)
            else:
                spans.append(Span(seq, seq))
            if seq == len(steps) or not steps[seq][0]:
                file.insert(row_of(next(ids), spans[-1]))
        file.write_numbers(len(steps) + 1, next(ids), 1, 0)
    wanted = Span(first, first + length)
    found = [kept.numbers for kept in file.kept_rows(file.ids_of(wanted, "parts"), "parts")]
    file.close()
    assert found == [span for span in spans if span.first <= wanted.last and span.last >= wanted.first]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 45), st.integers(0, 45))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rows_of_any_alarm_events_are_found(tmp_path: Path, told: list[int], first: int, length: int) -> None:
    """`told`: how many alarm events each part has caused."""
    file = outbox_file.OutboxFile(tmp_path / f"{time.monotonic_ns()}.db", "press-3")
    numbers = iter(range(1, 200))
    rows: list[Row] = []
    for seq, count_of in enumerate(told, start=1):
        events = tuple(event_body(next(numbers)) for _ in range(count_of))
        rows.append(Row(seq, messages.result_body(CONTEXT, seq, part(seq)), events))
    with file.transaction():
        for row in rows:
            file.insert(row)
        file.write_numbers(len(told) + 1, len(told) + 1, next(numbers), 0)
        file.mark_sent([row.id for row in rows], 1)
    wanted = Span(first, first + length)
    spans = [Span(row.events[0]["event_no"], row.events[-1]["event_no"]) for row in rows if row.events]
    expected = [span for span in spans if span.first <= wanted.last and span.last >= wanted.first]
    ids = file.ids_of(wanted, "events")
    assert [kept.numbers for kept in file.kept_rows(ids, "events")] == expected
    again = file.sent(Replay(ids, "events"), 99)
    file.close()
    assert [row.events[0]["event_no"] for row in again] == [span.first for span in expected]


def event_body(number: int) -> messages.AlarmEventBody:
    announced = take_part(NO_ALARMS, 1, 0, Decision("defect", None, 0.9, 0.5), DEFAULT_RULES)[1][0]
    return messages.alarm_event_body(CONTEXT, "top", number, announced, None)


def row_of(row_id: int, span: Span) -> Row:
    """The row of one part, or the gap record of several."""
    if span.first < span.last:
        return Row(row_id, messages.gap_body(CONTEXT, span.first, span.last, "outbox_full", 0))
    return Row(row_id, messages.result_body(CONTEXT, span.first, part(span.first)))


@given(st.sets(st.integers(1, 30)), st.integers(1, 30), st.integers(0, 10))
def test_what_is_kept_and_what_is_gone_are_all_that_was_asked_for(kept: set[int], first: int, length: int) -> None:
    wanted = Span(first, first + length)
    rows = [KeptRow(Span(seq, seq), sent=True) for seq in sorted(kept) if wanted.first <= seq <= wanted.last]
    missing = [seq for run in gone(wanted, rows) for seq in range(run.first, run.last + 1)]
    assert sorted([*missing, *(row.numbers.first for row in rows)]) == list(range(wanted.first, wanted.last + 1))
    assert count(wanted, rows) == len(rows)


def test_copies_are_of_acknowledged_rows_only(path: Path) -> None:
    outbox = opened(path)
    rows = outbox.append([part(number) for number in range(1, 31)])
    outbox.mark_sent(range(1, 25), at_ms=1)
    assert outbox.copies(Replay(Span(5, 30))) == rows[4:20]
    assert outbox.copies(Replay(Span(21, 30))) == rows[20:24]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"not a database at all" * 100, "damaged"),
        (b"SQLite format 3\x00" + bytes(100), "damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(path: Path, damage: bytes, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(OutboxError, match=said) as refusal:
        opened(path)
    assert "\n" not in str(refusal.value)


def test_a_page_that_was_overwritten_is_noticed(path: Path) -> None:
    outbox = opened(path)
    outbox.append([large(n) for n in range(1, 200)])
    outbox.close()
    with path.open("r+b") as file:
        file.seek(40 * outbox_file.PAGE_BYTES)
        file.write(b"\xa5" * (100 * outbox_file.PAGE_BYTES))
    with pytest.raises(OutboxError, match="damaged"):
        opened(path)


def test_a_second_daemon_is_refused(path: Path) -> None:
    outbox = opened(path)
    with pytest.raises(OutboxError, match="in use"):
        opened(path)
    outbox.close()


def test_the_outbox_of_another_station_is_refused(path: Path) -> None:
    opened(path).close()
    with pytest.raises(ConfigError, match="belongs to station press-3"):
        Outbox(path, StationContext("press-4", "boot", "digest", simulated=False), OutboxConfig())


def test_a_layout_of_another_version_is_refused(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(ConfigError, match="layout 9"):
        opened(path)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match="state_dir"):
        opened(tmp_path / "file" / "state" / "outbox.db")


def test_beyond_max_rows_parts_are_not_inspected_and_then_one_gap_record(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    stored = [outbox.append([part(n, "defect")])[0] for n in range(1, 201)]
    assert reasons(stored) == [None] * 100 + ["outbox_full"] * 100
    assert [row.body["verdict"] for row in stored[100:]] == ["not_inspected"] * 100  # type: ignore[typeddict-item]
    rows = all_unsent(outbox)
    assert numbers_of(rows) == list(range(1, 201))
    assert [row.body["seq_from"] for row in rows if "seq_from" in row.body] == [111]
    assert outbox.figures().full_parts == 100
    assert outbox.figures().gap_parts == 90
    assert outbox.last_position("top") == Position(200, {"": "part-200"})
    assert outbox.alarms("top")["defect"].count == 100  # a part without a verdict changes no alarm


def test_acknowledgements_are_noted_with_the_next_parts(path: Path, tmp_path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(1), part(2)])
    assert outbox.mark_sent([1], at_ms=1) == 1
    assert outbox.mark_sent([2], at_ms=2) == 2
    assert outbox.figures().unsent == 0
    assert unsent_after_a_kill(path, tmp_path / "before") == [1, 2]
    outbox.append([part(3)])
    assert outbox.mark_sent([], at_ms=3) == 0
    assert unsent_after_a_kill(path, tmp_path / "after") == [3]
    assert outbox.figures().unsent == 1


def test_acknowledgements_are_noted_alone_where_nothing_else_is_written(path: Path, tmp_path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(n) for n in range(1, 201)])
    outbox.mark_sent(range(1, 200), at_ms=1)
    outbox.mark()
    assert unsent_after_a_kill(path, tmp_path / "killed") == [200]
    assert outbox.figures().unsent == 1


def test_what_is_acknowledged_and_not_noted_yet_is_not_sent_again(path: Path) -> None:
    outbox = opened(path)
    outbox.append([part(n) for n in range(1, 6)])
    outbox.mark_sent([1, 2, 4], at_ms=1)
    assert [row.id for row in outbox.unsent(0, 10)] == [3, 5]
    outbox.mark_sent([3], at_ms=2)
    assert [each.sent for each in outbox.kept_rows(Span(1, 5), "parts")] == [True, True, True, True, False]


@pytest.mark.parametrize(("leaves", "kept"), [(True, 100), (False, 36)])
def test_rows_that_leave_at_once_are_known_to_have_been_sent(
    path: Path, tmp_path: Path, leaves: bool, kept: int
) -> None:
    outbox = opened(path, max_rows=200)
    outbox.append([part(n) for n in range(1, 101)], leaves=leaves)
    with killed(path, tmp_path / "killed", max_rows=100) as again:
        again.append([part(101)])  # results of good parts give way, but none that a subscriber may have
        assert len([row for row in all_unsent(again) if row.id <= 100 and "seq" in row.body]) == kept


def test_a_gap_record_grows_although_its_parts_were_to_leave_at_once(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    for number in range(1, 131):
        outbox.append([part(number)], leaves=True)
    gaps = [row.body for row in all_unsent(outbox) if "seq_from" in row.body]
    assert [(gap["seq_from"], gap["seq_to"]) for gap in gaps] == [(111, 130)]


def test_when_rows_were_sent_parts_are_inspected_again(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    outbox.append([part(n) for n in range(1, 151)])
    outbox.mark_sent([row.id for row in all_unsent(outbox)], at_ms=1)
    row = outbox.append([part(151, "defect")])[0]
    assert (number_of(row), row.body["reason"]) == (151, None)


def test_a_gap_record_that_was_handed_out_grows_no_more(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    outbox.append([part(n) for n in range(1, 121)])
    handed_out = all_unsent(outbox)[-1]
    outbox.append([part(n) for n in range(121, 131)])
    assert all_unsent(outbox)[-2] == handed_out
    assert [list(spanned(row)) for row in all_unsent(outbox)[-2:]] == [list(range(111, 121)), list(range(121, 131))]


def test_rows_kept_for_a_replay_give_way_before_a_part_does(path: Path) -> None:
    outbox = opened(path, max_mb=16, keep_sent_s=10**6)
    for begin in range(1, 2401, 40):  # 24 MB in all
        rows = outbox.append([large(n) for n in range(begin, begin + 40)])
        assert reasons(rows) == [None] * 40
        outbox.mark_sent([row.id for row in rows], at_ms=begin)
    assert path.stat().st_size <= 16 * MB


def append_until_gap(outbox: Outbox, batch: int) -> list[str]:
    """What became of each part until there was not even room for a part without a verdict."""
    kinds: list[str] = []
    while kinds[-1:] != ["gap"]:
        rows = outbox.append([large(len(kinds) + 1 + i) for i in range(batch)])
        kinds.extend("gap" if not row.stored else row.body["reason"] or "whole" for row in rows)
    return kinds


def mixed(number: int) -> Event:
    """Every tenth part is a defect, every tenth one before was not inspected."""
    verdict: Verdict = "defect" if number % 10 == 0 else "not_inspected" if number % 10 == 9 else "ok"
    event = part(number, verdict)
    return event if verdict != "not_inspected" else replace(event, decision=Decision(verdict, "unreadable", None, None))


def test_beyond_max_rows_results_of_good_parts_are_dropped_first_and_defects_and_alarm_events_never(path: Path) -> None:
    outbox = opened(path, max_rows=200)
    for number in range(1, 401):
        outbox.append([mixed(number)])
    rows = all_unsent(outbox)
    assert numbers_of(rows) == list(range(1, 401))
    assert outbox.figures().unsent == len(rows) <= 200
    assert outbox.figures().full_parts == 0
    verdicts = {number_of(row): row.body["verdict"] for row in rows if "seq" in row.body}
    assert [seq for seq in verdicts if verdicts[seq] == "defect"] == list(range(10, 401, 10))
    assert [seq for seq in verdicts if verdicts[seq] == "not_inspected"] == list(range(9, 401, 10))
    events = [(event["event"], event["seq"]) for row in rows for event in row.events]
    assert [seq for kind, seq in events if kind == "raised"] == list(range(10, 401, 10))
    assert [seq for kind, seq in events if kind == "cleared"] == list(range(11, 401, 10))
    good = [seq for seq in verdicts if verdicts[seq] == "ok" and seq % 10 != 1]  # whose rows have no event
    dropped = [(first, last) for first, last, reason in gaps(rows) if reason == "dropped"]
    assert dropped[0] == (1, 8)
    assert dropped[1] == (12, 18)  # between what is kept, one record each
    assert max(last for _, last in dropped) < min(good)  # the oldest went first
    assert outbox.figures().dropped_parts == sum(last - first + 1 for first, last in dropped)


def test_when_no_good_part_is_left_those_that_were_not_inspected_go_and_keep_their_reason(path: Path) -> None:
    outbox = opened(path, max_rows=100)
    unreadable = [replace(part(n), decision=Decision("not_inspected", "unreadable", None, None)) for n in range(1, 151)]
    for event in (*unreadable[:75], part(76, "defect"), *unreadable[76:]):
        outbox.append([event])
    rows = all_unsent(outbox)
    assert numbers_of(rows) == list(range(1, 151))
    assert gaps(rows)[0] == (1, 64, "unreadable")
    assert outbox.figures().full_parts == 0
    assert [seq for seq in map(number_of, (row for row in rows if "seq" in row.body)) if seq == 76] == [76]


def test_what_may_have_been_sent_is_never_dropped_also_after_a_restart(path: Path) -> None:
    """Else a consumer could get the result of a part and a gap record that denies it."""
    outbox = opened(path, max_rows=100)
    outbox.append([part(n) for n in range(1, 101)])
    handed_out = outbox.unsent(0, 60)
    outbox.close()
    again = opened(path, max_rows=100)
    again.append([part(n) for n in range(101, 131)])
    rows = all_unsent(again)
    assert rows[:60] == handed_out
    assert gaps(rows)[0][:2] == (61, 100)
    assert numbers_of(rows) == list(range(1, 131))


def test_beyond_max_mb_results_of_good_parts_are_dropped_and_inspection_goes_on(path: Path) -> None:
    outbox = opened(path, max_mb=16)
    number = 0
    while outbox.figures().dropped_parts < 2000:
        outbox.append([part(number + 1 + n, "defect" if n == 0 else "ok") for n in range(64)])
        number += 64
    assert outbox.figures().full_parts == 0
    assert numbers_of(all_unsent(outbox)) == list(range(1, number + 1))
    outbox.close()
    assert path.stat().st_size <= 16 * MB


def test_beyond_max_mb_parts_are_not_inspected_and_the_file_stays_in_bounds(path: Path) -> None:
    outbox = opened(path, max_mb=16)
    kinds = append_until_gap(outbox, batch=200)
    assert list(dict.fromkeys(kinds)) == ["whole", "outbox_full", "gap"]
    assert kinds.count("outbox_full") > 1000
    outbox.append([large(n) for n in range(1, 101)])
    assert numbers_of(all_unsent(outbox)) == list(range(1, len(kinds) + 101))
    outbox.close()
    assert path.stat().st_size <= 17 * MB


@pytest.mark.parametrize("page_bytes", [outbox_file.PAGE_BYTES, 4096])
def test_bounds_are_in_bytes_whatever_the_pages_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    with monkeypatch.context() as made:
        made.setattr(outbox_file, "PAGE_BYTES", page_bytes)  # earlier versions had pages of 4096 bytes
        opened(path).close()
    file = outbox_file.OutboxFile(path, "press-3")
    assert file._one("PRAGMA page_size") == page_bytes
    file.limit(16 * MB, 64 * 1024)
    assert file._one("PRAGMA max_page_count") * page_bytes == 16 * MB
    assert file._one("PRAGMA wal_autocheckpoint") * page_bytes == 64 * 1024
    assert file.used_bytes() + file.free_bytes() == path.stat().st_size
    file.close()


def test_after_max_mb_there_is_room_again_once_rows_are_sent(path: Path) -> None:
    outbox = opened(path, max_mb=16)
    number = 0
    while outbox.figures().full_parts == 0:
        number += len(outbox.append([large(number + 1 + i) for i in range(40)]))
    outbox.mark_sent([row.id for row in all_unsent(outbox)], at_ms=1)
    deadline = time.monotonic() + 30
    while (row := outbox.append([large(number := number + 1)])[0]).body["reason"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert number_of(row) == number


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.integers(1, 60), st.sampled_from(["send", "send half", "reopen"])), max_size=12))
def test_every_number_is_in_exactly_one_row_whatever_happens(tmp_path: Path, steps: list[int | str]) -> None:
    path = tmp_path / f"{time.monotonic_ns()}" / "outbox.db"
    outbox = opened(path, max_rows=100)
    count, sent = 0, []
    for step in steps:
        if isinstance(step, int):
            outbox.append([part(n, "defect" if n % 7 == 0 else "ok") for n in range(count + 1, count + step + 1)])
            count += step
        elif step == "reopen":
            outbox.close()
            outbox = opened(path, max_rows=100)
        else:
            rows = all_unsent(outbox)
            rows = rows[: len(rows) // 2] if step == "send half" else rows
            outbox.mark_sent([row.id for row in rows], at_ms=1)
            sent += numbers_of(rows)
    unsent = all_unsent(outbox)
    assert sorted(sent + numbers_of(unsent)) == list(range(1, count + 1))
    assert outbox.figures().unsent == len(unsent)
    assert outbox.last_position("top") == (Position(count, {"": f"part-{count}"}) if count else None)
    outbox.close()
    shutil.rmtree(path.parent)


CHILD = """
import sys
from pathlib import Path
from tests.edge_ad.test_outbox import number_of, opened, part
outbox = opened(Path(sys.argv[1]))
position = outbox.last_position("top")
frame_id = position.frame_id if position is not None else 0
while True:
    events = [part(frame_id + 1 + i, "defect" if (frame_id + i) % 3 == 0 else "ok") for i in range(frame_id % 5 + 1)]
    rows = outbox.append(events)
    frame_id += len(events)
    print(number_of(rows[-1]), frame_id, flush=True)
    outbox.mark_sent([row.id for row in rows[:1]], at_ms=1)
"""


def test_a_kill_at_any_time_leaves_whole_parts_in_unbroken_order(path: Path) -> None:
    """Whatever was reported as stored is there; number and position always agree."""
    chance = random.Random(20260101)
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.15))
        child.kill()
        # A kill may cut the last line short (PYTHONUNBUFFERED writes it in pieces): only a whole line is a report.
        reported = [line.split() for line in child.stdout.read().split("\n")[:-1]]
        child.wait(10)
        last_seq, last_frame = (int(word) for word in reported[-1]) if reported else (0, 0)
        assert last_seq == last_frame
        outbox = opened(path)
        position = outbox.last_position("top")
        assert position is not None
        assert position.frame_id >= last_frame
        outbox.close()
        with sqlite3.connect(path) as database:
            stored = [seq for (seq,) in database.execute("SELECT seq FROM row ORDER BY seq")]
            (next_seq,) = database.execute("SELECT next_seq FROM station").fetchone()
        database.close()
        assert stored == list(range(1, next_seq))
        assert position == Position(next_seq - 1, {"": f"part-{next_seq - 1}"})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    with small_disk(tmp_path / "disk", 24) as folder:
        yield folder


def test_on_a_full_disk_every_part_is_still_accounted_for(disk: Path) -> None:
    """First whole results, then parts without a verdict, then a gap; when there is room again, whole results."""
    outbox = opened(disk / "outbox.db")
    kinds = append_until_gap(outbox, batch=3)
    assert list(dict.fromkeys(kinds)) == ["whole", "outbox_full", "gap"]
    assert kinds.count("outbox_full") > 1000
    fill_up(disk)
    for _ in range(500):  # with not a byte left, a gap record still grows
        outbox.append([large(1)])
    outbox.mark_sent([row.id for row in outbox.unsent(0, 200)], at_ms=1)
    free(disk)
    outbox.mark_sent([], at_ms=1)
    rows = all_unsent(outbox)
    count = len(kinds) + 500
    assert numbers_of(rows) == list(range(201, count + 1))
    outbox.mark_sent([row.id for row in rows], at_ms=1)
    deadline = time.monotonic() + 30
    while outbox.append([large(count := count + 1)])[0].body["reason"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    outbox.close()
    again = opened(disk / "outbox.db")
    assert number_of(again.append([part(0)])[0]) == count + 1
    again.close()


def test_a_restart_on_a_full_disk_goes_on_in_the_gap(disk: Path) -> None:
    outbox = opened(disk / "outbox.db")
    count = len(append_until_gap(outbox, batch=40))
    outbox.close()
    fill_up(disk)
    again = opened(disk / "outbox.db")
    rows = again.append([large(count + 1), large(count + 2)])
    assert [number_of(row) for row in rows] == [count + 1, count + 2]
    assert reasons(rows) == ["outbox_full", "outbox_full"]
    again.close()


def test_a_restart_with_the_reserve_used_up_goes_on_in_the_gap_with_a_small_log(disk: Path) -> None:
    outbox = opened(disk / "outbox.db")
    count = len(append_until_gap(outbox, batch=40))
    outbox.close()
    (disk / "outbox.reserve").unlink()
    fill_up(disk)
    with (disk / FILLER).open("r+b") as filler:
        filler.truncate((disk / FILLER).stat().st_size - 128 * 1024)  # what is left to all
    again = opened(disk / "outbox.db")
    for number in range(count + 1, count + 261):  # a log without bounds would have 300 kB by then
        assert [number_of(row) for row in again.append([large(number)])] == [number]
    assert (disk / "outbox.db-wal").stat().st_size < 96 * 1024
    again.close()


def test_where_nothing_at_all_can_be_written_the_error_says_so(disk: Path) -> None:
    outbox = opened(disk / "outbox.db")
    append_until_gap(outbox, batch=40)
    outbox.close()
    (disk / "outbox.reserve").unlink()
    fill_up(disk)
    with pytest.raises(OutboxError, match="free some disk space"):
        opened(disk / "outbox.db").append([part(1)])
