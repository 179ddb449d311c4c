"""The two rows of numbers that a station counts up without a hole, parts and alarm events, as one consumer hears them.

That something is missing in between shows by itself once something later has come. That the end is missing, only the
station can tell: `health` says how far it has counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad.core.replay import Numbered
from edge_ad.core.spans import Heard, Span, Spans


@dataclass(frozen=True, slots=True)
class Told:
    """How far a station has counted, and how much of that the broker has not acknowledged yet."""

    last_seq: int
    last_event: int
    unsent: int


class Numbering:
    """What was heard of, what is missing, and what was asked for once more.

    Attributes:
        parts, events: which numbers were heard of.
    """

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.parts = Heard()
        self.events = Heard()
        self._replayed: dict[Numbered, Spans] = {"parts": Spans(), "events": Spans()}
        self._waiting: Told | None = None

    def missing(self) -> dict[Numbered, Spans]:
        """The numbers between the first and the last that nothing speaks of."""
        return {"parts": self.parts.missing, "events": self.events.missing}

    def take_parts(self, parts: Span) -> None:
        """A result or a gap record has come."""
        self.parts.take(parts)
        self._look()

    def take_told(self, told: Told) -> None:
        """The station says how far it has counted; that holds when nothing of it is on its way any more.

        Which is when nothing was unsent, or when a later part has come: rows are sent in order.
        """
        if told.unsent == 0:
            self.parts.expect(told.last_seq)
            self.events.expect(told.last_event)
        elif self._waiting is None:
            self._waiting = told
        self._look()

    def take_replay(self, of: Numbered, span: Span) -> None:
        """Somebody has asked for these once more."""
        self._replayed[of].add(span)

    def is_replayed(self, parts: Span) -> bool:
        """Whether the result or gap record of these parts may come by a replay."""
        return bool(self._replayed["parts"].within([parts]))

    def is_event_replayed(self, number: int, seq: int | None) -> bool:
        """Whether an alarm event may; those that no part caused come between the parts."""
        replayed = self._replayed["parts"]
        return number in self._replayed["events"] or (bool(replayed) if seq is None else seq in replayed)

    def _look(self) -> None:
        if self._waiting is not None and self.parts.last > self._waiting.last_seq:
            self.events.expect(self._waiting.last_event)
            self._waiting = None
