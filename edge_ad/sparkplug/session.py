"""The session of an edge node: when it may say what, under which sequence numbers. No clock, no socket.

                 connected                  host online
    away ------------------------> waiting --------------> born      (without a primary host: straight to born)
      ^                                                      |
      +--- disconnected <--- leaving <--- host offline, leave +

Rules are quoted by the ids of the specification (Eclipse Sparkplug 3.0.0, chapters 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edge_ad.core.payload import parse

NAMESPACE = "spBv1.0"
SEQUENCE = 256  # `seq` and `bdSeq` count 0 .. 255 and begin again
DEVICE_VERBS = ("DBIRTH", "DDATA", "DDEATH")

Phase = Literal["away", "waiting", "born", "leaving"]
Verb = Literal["NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH", "NDEATH"]


@dataclass(frozen=True, slots=True)
class Send:
    """A message that is due; `seq` does not count for NDEATH, which has none [tck-id-payloads-ndeath-seq]."""

    verb: Verb
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an edge node is in Sparkplug's topics; the three ids are a level each."""

    group_id: str
    node_id: str
    device_id: str

    def topic(self, verb: Verb) -> str:
        """The topic of a message of ours."""
        device = (self.device_id,) if verb in DEVICE_VERBS else ()
        return "/".join((NAMESPACE, self.group_id, verb, self.node_id, *device))

    def commands(self) -> str:
        """Where hosts command the edge node."""
        return "/".join((NAMESPACE, self.group_id, "NCMD", self.node_id))


def state_topic(host_id: str) -> str:
    """Where a host says whether it is online."""
    return "/".join((NAMESPACE, "STATE", host_id))


@dataclass(frozen=True, slots=True)
class HostState:
    """What a STATE message says; `at_ms` is its timestamp."""

    online: bool
    at_ms: int


def host_state(payload: bytes) -> HostState:
    """Read a STATE message.

    Raises:
        MalformedError: it is not the JSON that Sparkplug 3.0 has there.
    """
    body = parse(payload)
    return HostState(body.flag("online"), body.number("timestamp", at_least=0))


class Session:
    """One edge node with one device. Each method returns the messages that are due because of it, in order.

    Attributes:
        phase: where the session stands.
        outdated_host: the primary host says that it is online, with a time before one that it has said: that is void.
    """

    def __init__(self, *, waits_for_host: bool) -> None:
        """Start away. With a primary host, births wait until it is online.

        [tck-id-message-flow-edge-node-birth-publish-phid-wait]
        """
        self._waits_for_host = waits_for_host
        self._host_ms: int | None = None
        self.outdated_host = False
        self._present = False
        self._device_born = False
        self._next_seq = 0
        self.phase: Phase = "away"

    @property
    def device_born(self) -> bool:
        """Whether the device may send data."""
        return self._device_born

    def connected(self) -> tuple[Send, ...]:
        """There is a new connection, with its subscriptions."""
        if not self._waits_for_host:
            return tuple(self._births())
        self.phase = "waiting"
        return ()

    def disconnected(self) -> None:
        """The connection is gone."""
        self.phase, self._device_born = "away", False

    def host(self, state: HostState) -> tuple[Send, ...]:
        """The primary host has said something on this connection.

        What is older than its last message is void.
        [tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp,
        tck-id-operational-behavior-edge-node-termination-host-offline-timestamp]
        """
        known_ms, self._host_ms = self._host_ms, max(state.at_ms, self._host_ms or 0)
        self.outdated_host = state.online and known_ms is not None and state.at_ms < known_ms
        if known_ms is not None and state.at_ms < known_ms:
            return ()
        if not state.online:
            return self.leave()
        anew = self.phase == "born" and known_ms != state.at_ms  # it was away, and nobody could tell
        return tuple(self._births()) if self.phase == "waiting" or anew else ()

    def rebirth(self) -> tuple[Send, ...]:
        """A host asks for all births anew [tck-id-operational-behavior-data-commands-rebirth-action-2]."""
        return tuple(self._births()) if self.phase == "born" else ()

    def device(self, *, present: bool) -> tuple[Send, ...]:
        """Whether the device delivers, as far as is known [tck-id-operational-behavior-device-ddeath]."""
        self._present = present
        if self.phase != "born" or present == self._device_born:
            return ()
        self._device_born = present
        return (self._numbered("DBIRTH" if present else "DDEATH"),)

    def node_data(self) -> Send:
        """The edge node has news; only while born."""
        return self._numbered("NDATA")

    def device_data(self) -> Send:
        """The device has news; only while it is born [tck-id-payloads-ddata-order]."""
        return self._numbered("DDATA")

    def leave(self) -> tuple[Send, ...]:
        """End the session: an NDEATH, then the connection. Before a birth there is nothing to end.

        [tck-id-message-flow-edge-node-birth-publish-phid-offline,
        tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath]
        """
        if self.phase != "born":
            return ()
        self.phase, self._device_born = "leaving", False
        return (Send("NDEATH"),)

    def _births(self) -> Iterator[Send]:
        """Everything anew; an NBIRTH is number 0 [tck-id-payloads-nbirth-seq]."""
        self.phase, self._next_seq = "born", 0
        yield self._numbered("NBIRTH")
        self._device_born = self._present
        if self._present:
            yield self._numbered("DBIRTH")

    def _numbered(self, verb: Verb) -> Send:
        """Each message one more than the last [tck-id-payloads-sequence-num-incrementing]."""
        seq, self._next_seq = self._next_seq, (self._next_seq + 1) % SEQUENCE
        return Send(verb, seq)
