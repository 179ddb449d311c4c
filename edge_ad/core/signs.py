"""Signs of life and alarms as a consumer hears them: does the heartbeat change, does a state agree with its events?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class AlarmSigns:
    """What was heard of one alarm.

    Attributes:
        state: the last present state; None if none was heard.
        state_seq: the part that brought it about.
        since_ms: since when it is so.
        complete: whether its events tell all of it.
        left_behind: the state that the last event left behind.
        last_number, last_ms: of the last event.
        events: how often each kind of event happened.
    """

    state: str | None = None
    state_seq: int | None = None
    since_ms: int = 0
    complete: bool = True
    left_behind: str | None = None
    last_number: int = 0
    last_ms: int = 0
    events: Counter[str] = field(default_factory=Counter)

    def happened(self, event: str, number: int, left_behind: str, at_ms: int) -> None:
        """An event has come, for the first time."""
        self.events[event] += 1
        if number >= self.last_number:
            self.last_number, self.left_behind, self.last_ms = number, left_behind, at_ms

    def agrees(self, last_seq: int | None) -> bool | None:
        """See `AlarmView.agrees`; `last_seq` is the highest number of which a result was heard."""
        if self.left_behind is None or self.state is None or not self.complete:
            return None
        ahead = self.since_ms > self.last_ms if self.state_seq is None else self.state_seq > (last_seq or 0)
        return None if ahead else self.state == self.left_behind


class Heart:
    """The heartbeat: a counter that has to change while it is due."""

    def __init__(self, stall_s: float) -> None:
        """None was heard, and none is due."""
        self.beats = self.stalls = 0
        self._stall_s = stall_s
        self._count: int | None = None
        self._since_s: float | None = None  # of the last change; None while none is due

    def due_from(self, at_s: float | None) -> None:
        """From here on it has to change; None: it need not."""
        self._since_s = at_s

    def beat(self, count: int, at_s: float) -> None:
        """The counter has come."""
        if count != self._count:
            self._count = count
            self.beats += 1
            self._since_s = at_s if self._since_s is not None else None

    def stalls_at(self, at_s: float) -> bool:
        """Whether it has stood still for too long; says so again after each further such time."""
        if self._since_s is None or at_s - self._since_s <= self._stall_s:
            return False
        self._since_s = at_s
        self.stalls += 1
        return True
