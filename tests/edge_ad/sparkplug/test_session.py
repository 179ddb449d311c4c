"""The rules of an edge node's session, whatever happens in whichever order; by the ids of the specification."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.payload import MalformedError
from edge_ad.sparkplug.session import Address, HostState, Send, Session, host_state, state_topic

STEPS = st.one_of(
    st.sampled_from(["connected", "disconnected", "rebirth", "present", "absent", "node_data", "device_data", "leave"]),
    st.builds(HostState, st.booleans(), st.integers(0, 5)),
)


@dataclass
class Play:
    """A session that is played, as a host sees it."""

    session: Session
    wire: list[Send] = field(default_factory=list)  # of the present connection
    connected: bool = False

    def step(self, step: str | HostState) -> tuple[Send, ...]:
        session = self.session
        if isinstance(step, HostState):
            return session.host(step) if self.connected else ()
        if step == "connected":
            self.connected, self.wire = True, []
            session.disconnected()
            return session.connected()
        if step == "disconnected":
            self.connected = False
            session.disconnected()
        if step in ("present", "absent"):
            return session.device(present=step == "present")
        if step == "node_data" and session.phase == "born":
            return (session.node_data(),)
        if step == "device_data" and session.device_born:
            return (session.device_data(),)
        if step == "rebirth":
            return session.rebirth()
        return session.leave() if step == "leave" else ()


def play(steps: list[str | HostState], *, waits_for_host: bool) -> list[list[Send]]:
    """What is sent on each connection."""
    played = Play(Session(waits_for_host=waits_for_host))
    connections: list[list[Send]] = []
    for step in steps:
        sent = played.step(step)
        if step == "connected":
            connections.append(played.wire)
        assert played.connected or not sent, "something is sent without a connection"
        played.wire.extend(sent)
    return connections


@given(st.lists(STEPS, max_size=40), st.booleans())
def test_every_message_but_the_death_is_numbered_by_one_from_a_birth_on(
    steps: list[str | HostState], waits_for_host: bool
) -> None:
    """tck-id-payloads-sequence-num-incrementing, tck-id-principles-birth-certificates-order."""
    for wire in play(steps, waits_for_host=waits_for_host):
        assert not wire or wire[0] == Send("NBIRTH", 0)
        expected = 0
        for send in wire:
            if send.verb == "NDEATH":
                continue
            expected = 0 if send.verb == "NBIRTH" else expected + 1
            assert send.seq == expected


@given(st.lists(STEPS, max_size=40), st.booleans())
def test_a_device_says_nothing_but_between_its_birth_and_its_death(
    steps: list[str | HostState], waits_for_host: bool
) -> None:
    """tck-id-payloads-ddata-order, tck-id-message-flow-device-birth-publish-nbirth-wait."""
    for wire in play(steps, waits_for_host=waits_for_host):
        alive = False
        for send in wire:
            if send.verb in ("DDATA", "DDEATH"):
                assert alive
            alive = send.verb == "DBIRTH" or (alive and send.verb not in ("DDEATH", "NBIRTH", "NDEATH"))


@given(st.lists(STEPS, max_size=40), st.booleans())
def test_after_its_death_an_edge_node_says_nothing_on_this_connection(
    steps: list[str | HostState], waits_for_host: bool
) -> None:
    """tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath."""
    for wire in play(steps, waits_for_host=waits_for_host):
        verbs = [send.verb for send in wire]
        assert "NDEATH" not in verbs[:-1]


@given(st.lists(STEPS, max_size=40))
def test_births_wait_for_the_primary_host_and_end_with_it(steps: list[str | HostState]) -> None:
    """tck-id-message-flow-edge-node-birth-publish-phid-wait-online, -phid-wait-timestamp, -phid-offline."""
    played = Play(Session(waits_for_host=True))
    newest, online = -1, False
    for step in steps:
        played.wire.extend(played.step(step))
        if step in ("connected", "disconnected"):
            online = False  # it has to be heard on this connection
        if isinstance(step, HostState) and played.connected and step.at_ms >= newest:
            newest, online = step.at_ms, step.online
        if played.session.phase == "born":
            assert online
        if played.connected and online and "leave" not in steps:
            assert played.session.phase in ("born", "leaving")


@given(st.lists(STEPS, max_size=40))
def test_without_a_primary_host_a_connection_is_a_birth(steps: list[str | HostState]) -> None:
    for wire in play([*steps, "connected"], waits_for_host=False)[-1:]:
        assert wire[0] == Send("NBIRTH", 0)


def test_sequence_numbers_begin_again_after_255() -> None:
    session = Session(waits_for_host=False)
    session.connected()
    assert [session.node_data().seq for _ in range(256)] == [*range(1, 256), 0]


def test_a_rebirth_is_the_whole_of_it() -> None:
    """tck-id-operational-behavior-data-commands-rebirth-action-2."""
    session = Session(waits_for_host=False)
    session.device(present=True)
    session.connected()
    session.device_data()
    assert session.rebirth() == (Send("NBIRTH", 0), Send("DBIRTH", 1))


def test_a_device_that_is_lost_and_comes_back_is_told() -> None:
    """tck-id-operational-behavior-device-ddeath."""
    session = Session(waits_for_host=False)
    assert session.connected() == (Send("NBIRTH", 0),)
    assert session.device(present=True) == (Send("DBIRTH", 1),)
    assert session.device(present=True) == ()
    assert session.device(present=False) == (Send("DDEATH", 2),)
    assert session.rebirth() == (Send("NBIRTH", 0),)


def test_an_old_offline_does_not_end_a_session() -> None:
    """tck-id-operational-behavior-edge-node-termination-host-offline-timestamp."""
    session = Session(waits_for_host=True)
    session.connected()
    session.host(HostState(online=True, at_ms=10))
    assert session.host(HostState(online=False, at_ms=9)) == ()
    assert session.host(HostState(online=False, at_ms=10)) == (Send("NDEATH"),)


def test_an_old_online_is_void_and_told_until_a_newer_word() -> None:
    """tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp; so says a host whose clock was ahead."""
    session = Session(waits_for_host=True)
    session.connected()
    session.host(HostState(online=False, at_ms=10))
    assert session.host(HostState(online=True, at_ms=9)) == ()
    assert session.outdated_host
    assert session.host(HostState(online=True, at_ms=10)) == (Send("NBIRTH", 0),)
    assert not session.outdated_host


def test_a_host_that_was_away_unnoticed_gets_all_births_anew() -> None:
    """Its timestamp is that of its connection; the same once more is the same connection."""
    session = Session(waits_for_host=True)
    session.connected()
    assert session.host(HostState(online=True, at_ms=10)) == (Send("NBIRTH", 0),)
    assert session.host(HostState(online=True, at_ms=10)) == ()
    assert session.host(HostState(online=True, at_ms=11)) == (Send("NBIRTH", 0),)


def test_the_topics_are_those_of_the_specification() -> None:
    """tck-id-topics-nbirth-topic, tck-id-topics-ncmd-topic, tck-id-host-topic-phid-birth-topic, and so on."""
    address = Address("Plant 1", "press-3", "top")
    assert address.topic("NBIRTH") == "spBv1.0/Plant 1/NBIRTH/press-3"
    assert address.topic("NDEATH") == "spBv1.0/Plant 1/NDEATH/press-3"
    assert address.topic("DDATA") == "spBv1.0/Plant 1/DDATA/press-3/top"
    assert address.commands() == "spBv1.0/Plant 1/NCMD/press-3"
    assert state_topic("scada") == "spBv1.0/STATE/scada"


@given(st.booleans(), st.integers(0, 2**53))
def test_a_state_message_is_read(online: bool, at_ms: int) -> None:
    """tck-id-host-topic-phid-birth-payload."""
    told = {"online": online, "timestamp": at_ms}
    assert host_state(json.dumps(told).encode()) == HostState(online, at_ms)


@pytest.mark.parametrize(
    "payload", [b"ONLINE", b"", b"{}", b'{"online":1,"timestamp":1}', b'{"online":true}', b"\xff", b"[" * 9999]
)
def test_what_is_no_state_message_is_refused(payload: bytes) -> None:
    """Sparkplug 2.2 hosts say ONLINE: they are not what the station waits for."""
    with pytest.raises(MalformedError):
        host_state(payload)
