"""The desk answers or counts every command, whatever it is, and what is refused changes nothing."""

from __future__ import annotations

import json
import queue
import random
import time
from pathlib import Path
from typing import Any

import pytest

from edge_ad import calibration_store as stores
from edge_ad.command_desk import A_TURN, WAITING, CommandDesk
from edge_ad.config import default_store
from edge_ad.core.commands import MAX_REQUEST_BYTES, Refusal, parse
from edge_ad.core.health import CommandFigures
from edge_ad.core.messages import Message
from edge_ad.core.orders import Done, LoopOrder, SetMode, TakeSnapshot
from edge_ad.core.replay import MAX_REPLAYS, ReplayLane
from edge_ad.errands import Site
from edge_ad.outbox import Outbox
from edge_ad.thresholds import in_force
from edge_ad.trigger_desk import TriggerDesk
from tests.edge_ad.core.test_commands import ROUNDS, mutated
from tests.edge_ad.test_calibration_store import PICTURE, draft
from tests.edge_ad.test_outbox import opened, part
from tests.edge_ad.test_publisher import station

Orders = queue.SimpleQueue[LoopOrder]
DIGEST = "b" * 64


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return opened(tmp_path / "state" / "outbox.db")


@pytest.fixture
def orders() -> Orders:
    return queue.SimpleQueue()


def desk_of(tmp_path: Path, orders: Orders, **commands: float) -> CommandDesk:
    """The desk of a station; `commands` are settings of that section."""
    config = station(tmp_path, {}, bundle=str(tmp_path / "bundle"), commands=commands)
    return CommandDesk(Site(config, DIGEST, ReplayLane()), orders, TriggerDesk(config.trigger))


def command(name: str, payload: bytes, *, retain: bool = False) -> Message:
    return Message(f"edge-ad/press-3/cmd/{name}", payload, 1, retain)


def test_every_damaged_command_is_answered_or_counted_and_changes_nothing(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = desk_of(tmp_path, orders)
    outbox.append([part(1, "defect")])
    before, answers = outbox.alarms("top"), 0
    chance = random.Random(20260103)
    damaged = [one for one in (mutated(chance) for _ in range(ROUNDS)) if isinstance(parse(*one), Refusal)]
    for one in damaged:
        desk.take(command(*one))
        answers += len(desk.answer(outbox))
    assert desk.figures() == CommandFigures(answers, len(damaged) - answers)
    assert 0 < answers < len(damaged)
    assert outbox.alarms("top") == before
    assert len(outbox.unsent(0, 10)) == 1


def test_of_a_command_that_is_too_long_only_a_piece_waits(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = desk_of(tmp_path, orders)
    desk.take(command("status", b'{"correlation_id":"a-1"}' + b" " * 10_000_000))
    assert sum(len(message.payload) for message in desk._waiting) <= MAX_REQUEST_BYTES + 1
    assert desk.answer(outbox) == []
    assert desk.figures() == CommandFigures(0, 1)


def test_a_retained_command_is_ignored_and_counted(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = desk_of(tmp_path, orders)
    desk.take(command("status", b'{"correlation_id":"a-1"}', retain=True))
    assert desk.answer(outbox) == []
    assert desk.figures() == CommandFigures(0, 1)


def test_a_flood_is_answered_in_turns_and_what_finds_no_room_is_counted(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = desk_of(tmp_path, orders)
    for number in range(WAITING + 7):
        desk.take(command("status", json.dumps({"correlation_id": f"a-{number}"}).encode()))
    turns = []
    while desk.waits():
        turns.append(len(desk.answer(outbox)))
    assert turns == [A_TURN] * (WAITING // A_TURN)
    assert desk.figures() == CommandFigures(WAITING, 7)


def test_an_order_is_given_once_however_often_its_command_comes(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = desk_of(tmp_path, orders)
    for _ in range(3):
        desk.take(command("mode", b'{"correlation_id":"a-1","mode":"pause"}'))
    first, *others = desk.answer(outbox)
    assert others == [first, first]
    assert json.loads(first.payload)["mode"] == "pause"
    assert (orders.get(), orders.empty()) == (SetMode("pause"), True)


def by_command(tmp_path: Path, orders: Orders) -> tuple[CommandDesk, TriggerDesk]:
    """The desk of a station whose parts are announced by commands."""
    config = station(tmp_path, {}, commands={"enabled": True}, trigger={"kind": "command"})
    triggers = TriggerDesk(config.trigger)
    return CommandDesk(Site(config, DIGEST, ReplayLane()), orders, triggers), triggers


def test_a_trigger_is_asked_for_once_however_often_its_command_comes_and_not_by_way_of_the_loop(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk, triggers = by_command(tmp_path, orders)
    for _ in range(3):
        desk.take(command("trigger", b'{"correlation_id":"a-1","part_id":"A0042"}'))
    first, *others = desk.answer(outbox)
    assert (json.loads(first.payload)["done"], others) == (True, [first, first])
    assert orders.empty()
    assert triggers.figures().asked == 1
    admitted = triggers.admit(time.monotonic_ns())
    assert admitted is not None
    assert admitted.trigger is not None
    assert (admitted.trigger.trigger_id, admitted.trigger.part_id) == ("a-1", "A0042")


def test_a_mode_holds_for_the_triggers_that_come_after_it(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk, triggers = by_command(tmp_path, orders)
    desk.take(command("mode", b'{"correlation_id":"a-1","mode":"pause"}'))
    desk.take(command("trigger", b'{"correlation_id":"a-2"}'))
    desk.answer(outbox)
    assert [(lost.trigger.trigger_id, lost.reason) for lost in triggers.take_lost()] == [("a-2", "paused")]


def test_a_station_whose_triggers_come_otherwise_refuses_the_command(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = desk_of(tmp_path, orders)
    desk.take(command("trigger", b'{"correlation_id":"a-1"}'))
    (reply,) = desk.answer(outbox)
    assert json.loads(reply.payload)["reason"] == "triggers of this station come otherwise: trigger.kind is free"
    assert outbox.open_triggers() == []


def replies(desk: CommandDesk, outbox: Outbox, name: str, **fields: Any) -> list[dict[str, Any]]:
    desk.take(command(name, json.dumps({"correlation_id": "a-1", **fields}).encode()))
    return [json.loads(reply.payload) for reply in desk.answer(outbox)]


THRESHOLD = {"camera": "top", "threshold": 0.75, "by": "anna"}


def test_a_threshold_within_its_bounds_is_a_record_and_the_same_command_again_makes_no_other(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = desk_of(tmp_path, orders, threshold_up=0.5)
    store = default_store(tmp_path / "bundle")
    stores.add(store, draft(0.5, bundle=DIGEST), PICTURE)
    (first,) = replies(desk, outbox, "threshold", **THRESHOLD)
    told = {"calibration": 2, "threshold": 0.75, "fitted": 0.5, "lowest": 0.5, "highest": 0.75}
    assert (first["done"], first["details"]) == (True, told)
    assert replies(desk, outbox, "threshold", **THRESHOLD) == [first]
    record = in_force(store)
    assert record is not None
    assert (record.number, record.image_threshold, record.created_by) == (2, 0.75, "anna")


@pytest.mark.parametrize(
    ("bundle", "fields", "reason"),
    [
        (None, {}, "uncalibrated: run `edge-ad-calibrate fit`"),
        (
            "c" * 64,
            {},
            "uncalibrated: record 1 is not applied: it is of bundle cccccccccccc, in service is bbbbbbbbbbbb",
        ),
        (DIGEST, {}, "threshold must be from 0.5 to 0.5: record 1 was fitted at 0.5"),
        (DIGEST, {"camera": "side"}, "no camera side; there is top"),
    ],
)
def test_a_threshold_is_refused_while_uncalibrated_and_out_of_bounds(
    tmp_path: Path, outbox: Outbox, orders: Orders, bundle: str | None, fields: dict[str, Any], reason: str
) -> None:
    store = default_store(tmp_path / "bundle")
    if bundle is not None:
        stores.add(store, draft(0.5, bundle=bundle), PICTURE)
    (refused,) = replies(desk_of(tmp_path, orders), outbox, "threshold", **{**THRESHOLD, **fields})
    assert not refused["done"]
    assert refused["reason"].startswith(reason)
    record = in_force(store)
    assert record is None or record.number == 1


def test_a_threshold_is_refused_while_the_calibration_in_force_is_another_cameras(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    store = default_store(tmp_path / "bundle")
    stores.add(store, draft(0.5, bundle=DIGEST, camera="side"), PICTURE)
    (refused,) = replies(desk_of(tmp_path, orders, threshold_up=0.5), outbox, "threshold", **THRESHOLD)
    assert not refused["done"]
    assert "record 1 is not applied: it is of camera side, this station's is top" in refused["reason"]


def test_a_replay_tells_what_comes_and_what_is_gone(tmp_path: Path, orders: Orders) -> None:
    outbox = opened(tmp_path / "state" / "outbox.db", keep_sent_s=10)
    outbox.append([part(number) for number in range(1, 31)])
    outbox.mark_sent(range(1, 11), at_ms=0)
    outbox.mark()
    outbox.mark_sent(range(11, 21), at_ms=20_000)  # the first ten are gone by then
    desk = desk_of(tmp_path, orders)
    (told,) = replies(desk, outbox, "replay", **{"from": 6, "to": 99})
    assert told["details"] == {
        "of": "parts",
        "from": 6,
        "to": 30,
        "sent_again": 10,
        "unsent": 10,
        "gone": 5,
        "gone_runs": [{"from": 6, "to": 10}],
    }


def test_a_replay_of_alarm_events_counts_their_numbers(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    rows = outbox.append([part(n, "defect" if n % 3 == 0 else "ok") for n in range(1, 31)])
    assert outbox.last_number("events") == 20 - 1  # ten raised, nine cleared
    outbox.mark_sent([row.id for row in rows[:15]], at_ms=1)
    desk = desk_of(tmp_path, orders)
    (told,) = replies(desk, outbox, "replay", **{"from": 4, "to": 99, "of": "events"})
    expected = {"of": "events", "from": 4, "to": 19, "sent_again": 6, "unsent": 10, "gone": 0, "gone_runs": []}
    assert told["details"] == expected
    (none,) = replies(desk, outbox, "replay", **{"correlation_id": "b", "from": 20, "to": 20, "of": "events"})
    assert none["reason"] == "the last alarm event is 19"


def test_a_replay_that_cannot_be_is_refused(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    outbox.append([part(1), part(2)])
    desk = desk_of(tmp_path, orders)
    spans = {(2, 1): "from is greater than to", (3, 3): "the last part is 2", (1, 10_001): "more than 10000 parts"}
    for number, ((first, last), reason) in enumerate(spans.items()):
        fields = {"correlation_id": f"r-{number}", "from": first, "to": last}
        (refused,) = replies(desk, outbox, "replay", **fields)
        assert (refused["done"], refused["reason"].startswith(reason)) == (False, True)
    for number in range(MAX_REPLAYS + 1):
        (last_told,) = replies(desk, outbox, "replay", **{"correlation_id": f"s-{number}", "from": 1, "to": 2})
    assert last_told["reason"] == "8 replays wait already"


def test_a_snapshot_is_ordered_once_and_answered_when_it_is_there(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = desk_of(tmp_path, orders)
    for _ in range(2):
        assert replies(desk, outbox, "snapshot", camera="top") == []
    assert (orders.get(), orders.empty()) == (TakeSnapshot("a-1", None), True)
    (other,) = replies(desk, outbox, "status")  # of the same id
    assert other["reason"] == "another command had this correlation_id"
    desk.take_done(Done("a-1", details={"folder": "x"}))
    (done,) = (json.loads(reply.payload) for reply in desk.answer(outbox))
    assert (done["done"], done["details"]) == (True, {"folder": "x"})
    assert replies(desk, outbox, "snapshot", camera="top") == [done]
    assert orders.empty()
    assert desk.figures() == CommandFigures(4, 0)


def test_a_snapshot_that_is_done_when_there_is_no_room_is_refused_and_may_be_ordered_again(
    tmp_path: Path, orders: Orders
) -> None:
    outbox = opened(tmp_path / "state" / "outbox.db", max_rows=100)
    desk = desk_of(tmp_path, orders)
    replies(desk, outbox, "snapshot", camera="top")
    outbox.append([part(number, "defect") for number in range(1, 121)])  # none of which gives way
    desk.take_done(Done("a-1"))
    (refused,) = (json.loads(reply.payload) for reply in desk.answer(outbox))
    assert (refused["done"], refused["reason"]) == (False, "outbox_full")


def test_between_two_errands_parts_have_their_turn(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    outbox.append([part(1)])
    desk = desk_of(tmp_path, orders)
    for number in range(3):
        payload = json.dumps({"correlation_id": f"a-{number}", "from": 1, "to": 1}).encode()
        desk.take(command("replay", payload))
    assert [len(desk.answer(outbox)) for _ in range(3)] == [1, 1, 1]
