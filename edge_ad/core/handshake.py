"""The trigger handshake as a controller keeps it: what it asked for, what it was promised, and what came of it.

trigger --> reply "done" --> exactly one result with its ids
        --> reply, refused --> none
        --> no reply in time --> the same trigger again, under the same id
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_ad.core.heard import Gap, Part
from edge_ad.core.messages import PREFIX, Message, to_json


@dataclass(frozen=True, slots=True)
class Ask:
    """A trigger that is sent now; `trigger_id` is its correlation id as well."""

    trigger_id: str
    part_id: str

    def command(self, station: str) -> Message:
        """The message that carries it to a station."""
        payload = to_json({"correlation_id": self.trigger_id, "part_id": self.part_id})
        return Message(f"{PREFIX}/{station}/cmd/trigger", payload, 1, retain=False)


@dataclass(frozen=True, slots=True)
class HandshakeReport:
    """What came of the triggers.

    Attributes:
        sent: triggers, each once.
        again: how often one was sent again for want of a reply.
        acknowledged, refused: by their replies; the rest got none.
        answered: acknowledged ones with exactly one result.
        in_gaps: acknowledged ones that a gap record names instead.
        reasons: of those that were not inspected: reason -> how many.
        turnaround_ms: from sending a trigger to its decision on `plc`: "p50", "p99", "max"; empty if there is none.
        faults: promises that were not kept, in words.
    """

    sent: int
    again: int
    acknowledged: int
    refused: int
    answered: int
    in_gaps: int
    reasons: dict[str, int]
    turnaround_ms: dict[str, float]
    faults: tuple[str, ...]


class Handshake:
    """The triggers of one controller."""

    def __init__(self, name: str, count: int, interval_s: float, reply_s: float) -> None:
        """Nothing was sent yet.

        Args:
            name: no other controller and no earlier run has it: the ids of the triggers begin with it.
            count: so many triggers are sent.
            interval_s: between two of them.
            reply_s: without a reply for so long, a trigger is sent again.
        """
        self._name = name
        self._count = count
        self._interval_s = interval_s
        self._reply_s = reply_s
        self._next_s = 0.0
        self._sent_s: dict[str, float] = {}  # trigger id -> when it was sent last
        self._first_s: dict[str, float] = {}  # and first
        self._parts: dict[str, str] = {}
        self._done: dict[str, bool] = {}  # trigger id -> its reply
        self._again = 0

    def due(self, at_s: float) -> list[Ask]:
        """What is to be sent now; `at_s` is of any monotonic clock."""
        silent = [
            each for each in self._sent_s if each not in self._done and at_s - self._sent_s[each] >= self._reply_s
        ]
        self._again += len(silent)
        asks = [Ask(each, self._parts[each]) for each in silent]
        if len(self._parts) < self._count and at_s >= self._next_s:
            self._next_s = at_s + self._interval_s
            number = len(self._parts) + 1
            asks.append(Ask(f"{self._name}-{number}", f"part-{number}"))
        for ask in asks:
            self._parts[ask.trigger_id] = ask.part_id
            self._sent_s[ask.trigger_id] = at_s
            self._first_s.setdefault(ask.trigger_id, at_s)
        return asks

    def take_reply(self, correlation_id: str, *, done: bool) -> None:
        """A reply has come; the first one counts, and the others say the same."""
        if correlation_id in self._parts:
            self._done.setdefault(correlation_id, done)

    def is_settled(self, results: Mapping[str, Sequence[Part]], gaps: Collection[Gap]) -> bool:
        """Whether all triggers are sent and replied to, and what was promised has come; trigger id -> its results."""
        if len(self._done) < self._count:
            return False
        named, unnamed = _in_gaps(gaps)
        waiting = [each for each, done in self._done.items() if done and each not in results and each not in named]
        return len(waiting) <= unnamed

    def report(
        self, results: Mapping[str, Sequence[Part]], decided_s: Mapping[str, float], gaps: Collection[Gap]
    ) -> HandshakeReport:
        """What came of it.

        Args:
            results: trigger id -> its results.
            decided_s: trigger id -> when its decision came, by the clock of `due`.
            gaps: the gap records: for the parts of their triggers there is no result.
        """
        acknowledged = [each for each, done in self._done.items() if done]
        found = {each: results.get(each, ()) for each in self._parts}
        reasons = Counter(
            part.reason or "" for parts in found.values() for part in parts if part.verdict == "not_inspected"
        )
        return HandshakeReport(
            sent=len(self._parts),
            again=self._again,
            acknowledged=len(acknowledged),
            refused=len(self._done) - len(acknowledged),
            answered=sum(len(found[each]) == 1 for each in acknowledged),
            in_gaps=len(_in_gaps(gaps)[0].intersection(acknowledged)),
            reasons=dict(reasons),
            turnaround_ms=self._turnaround_ms(decided_s),
            faults=tuple(self._faults(found, *_in_gaps(gaps))),
        )

    def _turnaround_ms(self, decided_s: Mapping[str, float]) -> dict[str, float]:
        took = sorted(1000 * (decided_s[each] - self._first_s[each]) for each in self._first_s if each in decided_s)
        ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {name: round(took[math.ceil(rank * len(took)) - 1], 1) for name, rank in ranks.items() if took}

    def _faults(self, found: Mapping[str, Sequence[Part]], named: set[str], unnamed: int) -> Iterator[str]:
        missing = [each for each, parts in found.items() if self._done.get(each) and not parts and each not in named]
        if len(missing) > unnamed:
            yield f"{len(missing)} triggers were acknowledged and have no result: {', '.join(missing[:10])}"
        silent = [each for each in found if each not in self._done]
        if silent:
            yield f"{len(silent)} triggers have no reply: does the station take commands, and may we give them?"
        for trigger_id, parts in found.items():
            if len(parts) > 1:
                yield f"trigger {trigger_id} has {len(parts)} results: seq {', '.join(str(part.seq) for part in parts)}"
            if parts and trigger_id in named:
                yield f"trigger {trigger_id} has a result, seq {parts[0].seq}, and is in a gap record"
            if parts and self._done.get(trigger_id) is False:
                yield f"trigger {trigger_id} was refused and has a result: seq {parts[0].seq}"
            if any(part.part_id != self._parts[trigger_id] for part in parts):
                yield f"trigger {trigger_id}: its result is of part {parts[0].part_id}, not {self._parts[trigger_id]}"


def _in_gaps(gaps: Collection[Gap]) -> tuple[set[str], int]:
    """The triggers that gap records name, and how many they do not."""
    return {each for gap in gaps for each in gap.trigger_ids}, sum(gap.left_out for gap in gaps)
