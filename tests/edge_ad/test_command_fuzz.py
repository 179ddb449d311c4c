"""Whatever comes as a command: it is answered or counted, and only a whole command changes anything."""

from __future__ import annotations

import json
import queue
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_ad import calibration_store as stores
from edge_ad.command_desk import CommandDesk
from edge_ad.config import default_store
from edge_ad.core.commands import NAMES, Request, parse
from edge_ad.core.messages import Message
from edge_ad.core.orders import Done, LoopOrder, TakeSnapshot
from edge_ad.core.replay import ReplayLane
from edge_ad.errands import Site
from edge_ad.trigger_desk import TriggerDesk
from tests.edge_ad.core.test_commands import FIELD_VALUES, SCHEMA_OF, odd, whole
from tests.edge_ad.test_calibration_store import PICTURE, draft
from tests.edge_ad.test_outbox import opened, part
from tests.edge_ad.test_publisher import station

DIGEST = "b" * 64
PAYLOADS = 10_000


def validator(name: str) -> jsonschema.Draft202012Validator:
    text = resources.files("edge_ad").joinpath(f"schemas/{name}-1.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


VALIDATORS = {name: validator(schema) for name, schema in SCHEMA_OF.items()}
REPLY = validator("reply")

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
some_fields = st.fixed_dictionaries({}, optional={key: values | odd for key, values in FIELD_VALUES.items()})
names = st.sampled_from([*NAMES, "fly", "", "+", "x" * 33, "\u00e9"])


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, bytes]:
    """Bytes, JSON, commands some of whose fields are wrong, and whole ones, under any name."""
    name = draw(names)
    kind = draw(st.sampled_from(["bytes", "json", "near", "near", "whole"]))
    if kind == "bytes":
        return name, draw(st.binary(max_size=300) | st.just(b" " * 5000))
    if kind == "json":
        return name, json.dumps(draw(json_values)).encode()
    own = whole(name) if name in NAMES else {}
    changes = draw(some_fields) if kind == "near" else {"correlation_id": draw(st.uuids().map(str))}
    return name, json.dumps({**own, **changes}).encode()


class World:
    """A desk with all that a command could change."""

    def __init__(self, folder: Path) -> None:
        config = station(
            folder,
            {},
            bundle=str(folder / "bundle"),
            commands={"enabled": True, "threshold_down": 1.0, "threshold_up": 1.0},
            trigger={"kind": "command"},
        )
        self._store = default_store(config.bundle)
        stores.add(self._store, draft(0.5, bundle=DIGEST), PICTURE)
        self._outbox = opened(folder / "state" / "outbox.db")
        self._outbox.append([part(1, "defect"), *(part(number) for number in range(2, 10))])
        self._orders: queue.SimpleQueue[LoopOrder] = queue.SimpleQueue()
        self._replays = ReplayLane()
        self._triggers = TriggerDesk(config.trigger)
        self._desk = CommandDesk(Site(config, DIGEST, self._replays), self._orders, self._triggers)

    def state(self) -> tuple[object, ...]:
        """All that a command could change."""
        return (
            self._outbox.alarms("top"),
            self._outbox.mode(),
            self._outbox.figures(),
            (self._store / "in_force.json").read_bytes(),
            self._orders.qsize(),
            self._replays.wanted(),
            self._triggers.figures(),
        )

    def give(self, name: str, payload: bytes, *, retain: bool) -> list[dict[str, Any]]:
        """Give a command; the replies."""
        self._desk.take(Message(f"edge-ad/press-3/cmd/{name}", payload, 1, retain))
        return self._answer()

    def finish(self) -> list[dict[str, Any]]:
        """Carry out what was ordered; the replies that wait for it."""
        self._replays.clear()
        while not self._orders.empty():
            order = self._orders.get()
            if isinstance(order, TakeSnapshot):
                self._desk.take_done(Done(order.correlation_id, "no frame within 10 s"))
        return self._answer()

    def counted(self) -> tuple[int, int]:
        """Commands that were answered, and that were not."""
        figures = self._desk.figures()
        return figures.answered, figures.ignored

    def _answer(self) -> list[dict[str, Any]]:
        return [json.loads(reply.payload) for reply in self._desk.answer(self._outbox)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def check(world: World, name: str, payload: bytes, *, retain: bool) -> None:
    """The world after a command is as it was, unless the command is whole."""
    before, (answered, ignored) = world.state(), world.counted()
    parsed = parse(name, payload)
    replies = world.give(name, payload, retain=retain)
    if isinstance(parsed, Request) and not retain:
        VALIDATORS[name].validate(json.loads(payload))
        replies += world.finish()
    else:
        assert world.state() == before
    answerable = not retain and parsed.correlation_id is not None
    assert world.counted() == (answered + answerable, ignored + (not answerable))
    assert [reply["correlation_id"] for reply in replies] == [parsed.correlation_id] * answerable
    for reply in replies:
        REPLY.validate(reply)


@given(commands(), st.sampled_from([False, False, False, True]))
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fuzzed_payload_is_answered_or_counted(world: World, command: tuple[str, bytes], retain: bool) -> None:
    """The world lives on from one payload to the next."""
    check(world, *command, retain=retain)


@pytest.mark.slow
@given(commands(), st.sampled_from([False, False, False, True]))
@settings(max_examples=PAYLOADS, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_of_ten_thousand_fuzzed_payloads_is_answered_or_counted(
    world: World, command: tuple[str, bytes], retain: bool
) -> None:
    check(world, *command, retain=retain)
