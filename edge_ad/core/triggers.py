"""Triggers that wait for their frame. Each of them ends once: claimed by a frame, or lost for a reason.

    ask --> line, oldest first --> claim: the first frame whose reading began after the trigger came
                               --> lost: paused | missed | timeout | overrun --> a result `not_inspected`

Time is an argument: nanoseconds of any monotonic clock.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

from edge_ad.core.decision import not_inspected
from edge_ad.records import NO_FRAME, Event, Trigger

LostReason = Literal[
    "paused",  # the station did not inspect when it came
    "missed",  # it had expired, or the station ended before there was a result
    "timeout",  # the camera gave no frame in time
    "overrun",  # it came, or its frame did, while too many others waited
]


@dataclass(frozen=True, slots=True)
class Lost:
    """A trigger that gets no inspected frame, and why."""

    trigger: Trigger
    reason: LostReason

    def event(self, camera: str) -> Event:
        """The part as it is stored."""
        decision = not_inspected(self.reason)
        return Event(camera, NO_FRAME, None, self.trigger, self.trigger.at_ns, decision)


@dataclass(frozen=True, slots=True)
class TriggerFigures:
    """Triggers since the start of the process, in figures.

    Attributes:
        waiting: those that wait for their frame, at present.
        asked: all that came.
        paused, missed, timeouts, overruns: those that were lost, by reason.
    """

    waiting: int = 0
    asked: int = 0
    paused: int = 0
    missed: int = 0
    timeouts: int = 0
    overruns: int = 0


@dataclass(frozen=True, slots=True)
class _Waiter:
    trigger: Trigger
    since_ns: int
    until_ns: int
    otherwise: LostReason  # what it is from then on


class TriggerLine:
    """The triggers of one camera. A trigger that expires is never claimed, however late `pass_time` is called."""

    def __init__(self, timeout_ns: int, max_waiting: int) -> None:
        """Start without a trigger.

        Args:
            timeout_ns: a trigger waits for its frame for so long at most.
            max_waiting: so many wait at a time at most.
        """
        self.paused = False
        self._timeout_ns = timeout_ns
        self._max_waiting = max_waiting
        self._line: deque[_Waiter] = deque()
        self._lost: list[Lost] = []
        self._asked = 0
        self._reasons: Counter[LostReason] = Counter()

    @property
    def has_room(self) -> bool:
        """Whether one more may wait."""
        return len(self._line) < self._max_waiting

    def ask(self, trigger: Trigger, since_ns: int, lives_ns: int | None) -> None:
        """A trigger has come.

        Args:
            trigger: not among those that wait.
            since_ns: when it came.
            lives_ns: until it expires; None: it does not.
        """
        self._asked += 1
        if self.paused:
            self.lose(trigger, "paused")
        elif lives_ns is not None and lives_ns <= 0:
            self.lose(trigger, "missed")
        elif not self.has_room:
            self.lose(trigger, "overrun")
        elif lives_ns is not None and lives_ns < self._timeout_ns:
            self._line.append(_Waiter(trigger, since_ns, since_ns + lives_ns, "missed"))
        else:
            self._line.append(_Waiter(trigger, since_ns, since_ns + self._timeout_ns, "timeout"))

    def wants(self, began_ns: int) -> bool:
        """Whether a frame whose reading begins now would be claimed."""
        self.pass_time(began_ns)
        return bool(self._line) and self._line[0].since_ns <= began_ns

    def claim(self, began_ns: int) -> Trigger | None:
        """The trigger that a frame is for whose reading began then; it waits no longer. None: for none."""
        return self._line.popleft().trigger if self.wants(began_ns) else None

    def lose(self, trigger: Trigger, reason: LostReason) -> None:
        """A trigger that does not wait, or no longer, gets no inspected frame."""
        self._lost.append(Lost(trigger, reason))
        self._reasons[reason] += 1

    def lose_all(self, reason: LostReason) -> None:
        """None of those that wait gets a frame."""
        while self._line:
            self.lose(self._line.popleft().trigger, reason)

    def pass_time(self, now_ns: int) -> None:
        """Give up those that have waited long enough."""
        over = [each for each in self._line if each.until_ns <= now_ns]
        for each in over:
            self._line.remove(each)
            self.lose(each.trigger, each.otherwise)

    def take_lost(self) -> list[Lost]:
        """Those that were lost since the last call, in the order in which they were."""
        lost, self._lost = self._lost, []
        return lost

    def figures(self) -> TriggerFigures:
        """The triggers in figures."""
        reasons = self._reasons
        lost = (reasons["paused"], reasons["missed"], reasons["timeout"], reasons["overrun"])
        return TriggerFigures(len(self._line), self._asked, *lost)
