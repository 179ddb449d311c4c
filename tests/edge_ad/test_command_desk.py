"""The desk answers or counts every command, whatever it is, and what is refused changes nothing."""

from __future__ import annotations

import json
import queue
import random
import time
from pathlib import Path

import pytest

from edge_ad.command_desk import A_TURN, WAITING, CommandDesk
from edge_ad.config import FreeTrigger
from edge_ad.core.commands import Refusal, parse
from edge_ad.core.messages import CommandFigures, Message
from edge_ad.core.orders import Order, SetMode
from edge_ad.outbox import Outbox
from edge_ad.trigger_desk import TriggerDesk
from tests.edge_ad.core.test_commands import ROUNDS, mutated
from tests.edge_ad.test_outbox import opened, part
from tests.edge_ad.test_publisher import station

Orders = queue.SimpleQueue[Order]


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return opened(tmp_path / "state" / "outbox.db")


@pytest.fixture
def orders() -> Orders:
    return queue.SimpleQueue()


def command(name: str, payload: bytes, *, retain: bool = False) -> Message:
    return Message(f"edge-ad/press-3/cmd/{name}", payload, 1, retain)


def test_every_damaged_command_is_answered_or_counted_and_changes_nothing(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders, TriggerDesk(FreeTrigger()))
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


def test_a_retained_command_is_ignored_and_counted(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders, TriggerDesk(FreeTrigger()))
    desk.take(command("status", b'{"correlation_id":"a-1"}', retain=True))
    assert desk.answer(outbox) == []
    assert desk.figures() == CommandFigures(0, 1)


def test_a_flood_is_answered_in_turns_and_what_finds_no_room_is_counted(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders, TriggerDesk(FreeTrigger()))
    for number in range(WAITING + 7):
        desk.take(command("status", json.dumps({"correlation_id": f"a-{number}"}).encode()))
    turns = []
    while desk.waits():
        turns.append(len(desk.answer(outbox)))
    assert turns == [A_TURN] * (WAITING // A_TURN)
    assert desk.figures() == CommandFigures(WAITING, 7)


def test_an_order_is_given_once_however_often_its_command_comes(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders, TriggerDesk(FreeTrigger()))
    for _ in range(3):
        desk.take(command("mode", b'{"correlation_id":"a-1","mode":"pause"}'))
    first, *others = desk.answer(outbox)
    assert others == [first, first]
    assert json.loads(first.payload)["mode"] == "pause"
    assert (orders.get(), orders.empty()) == (SetMode("pause"), True)


BY_COMMAND = {"commands": {"enabled": True}, "trigger": {"kind": "command"}}


def test_a_trigger_is_asked_for_once_however_often_its_command_comes_and_not_by_way_of_the_loop(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    config = station(tmp_path, {}, **BY_COMMAND)
    triggers = TriggerDesk(config.trigger)
    desk = CommandDesk(config, orders, triggers)
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
    config = station(tmp_path, {}, **BY_COMMAND)
    triggers = TriggerDesk(config.trigger)
    desk = CommandDesk(config, orders, triggers)
    desk.take(command("mode", b'{"correlation_id":"a-1","mode":"pause"}'))
    desk.take(command("trigger", b'{"correlation_id":"a-2"}'))
    desk.answer(outbox)
    assert [(lost.trigger.trigger_id, lost.reason) for lost in triggers.take_lost()] == [("a-2", "paused")]


def test_a_station_whose_triggers_come_otherwise_refuses_the_command(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders, TriggerDesk(FreeTrigger()))
    desk.take(command("trigger", b'{"correlation_id":"a-1"}'))
    (reply,) = desk.answer(outbox)
    assert json.loads(reply.payload)["reason"] == "triggers of this station come otherwise: trigger.kind is free"
    assert outbox.open_triggers() == []
