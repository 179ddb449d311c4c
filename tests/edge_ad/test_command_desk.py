"""The desk answers or counts every command, whatever it is, and what is refused changes nothing."""

from __future__ import annotations

import json
import queue
import random
from pathlib import Path

import pytest

from edge_ad.command_desk import A_TURN, WAITING, CommandDesk
from edge_ad.core.commands import Refusal, parse
from edge_ad.core.messages import CommandFigures, Message
from edge_ad.core.orders import Order, SetMode
from edge_ad.outbox import Outbox
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
    desk = CommandDesk(station(tmp_path, {}), orders)
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
    desk = CommandDesk(station(tmp_path, {}), orders)
    desk.take(command("status", b'{"correlation_id":"a-1"}', retain=True))
    assert desk.answer(outbox) == []
    assert desk.figures() == CommandFigures(0, 1)


def test_a_flood_is_answered_in_turns_and_what_finds_no_room_is_counted(
    tmp_path: Path, outbox: Outbox, orders: Orders
) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders)
    for number in range(WAITING + 7):
        desk.take(command("status", json.dumps({"correlation_id": f"a-{number}"}).encode()))
    turns = []
    while desk.waits():
        turns.append(len(desk.answer(outbox)))
    assert turns == [A_TURN] * (WAITING // A_TURN)
    assert desk.figures() == CommandFigures(WAITING, 7)


def test_an_order_is_given_once_however_often_its_command_comes(tmp_path: Path, outbox: Outbox, orders: Orders) -> None:
    desk = CommandDesk(station(tmp_path, {}), orders)
    for _ in range(3):
        desk.take(command("mode", b'{"correlation_id":"a-1","mode":"pause"}'))
    first, *others = desk.answer(outbox)
    assert others == [first, first]
    assert json.loads(first.payload)["mode"] == "pause"
    assert (orders.get(), orders.empty()) == (SetMode("pause"), True)
