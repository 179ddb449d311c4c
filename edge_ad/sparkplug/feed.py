"""Which rows of the outbox the hosts get, as present values or as history, and which of them have arrived.

Nothing is stored for this: the outbox has the rows, and one number says how far they are told. Rows are told in order.
What was stored before a birth, or while the rest catches up, is history; meanwhile the newest part is told as the
present value beside it. Sparkplug sends data with quality of service 0, so nobody says what has arrived: what was sent
shortly before the connection or the host was lost is sent once more, as history.

Time is an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad.core.rows import Row


@dataclass(frozen=True, slots=True)
class Told:
    """A row to be told now."""

    row: Row
    historical: bool


class Feed:
    """How far the rows are told.

    Attributes:
        settled_id: all rows up to this one have arrived, as far as can be known.
        sent_id: the last row that was sent.
    """

    def __init__(self, settled_id: int, resend_s: float) -> None:
        """Begin behind a row; what was sent within `resend_s` before an interruption is sent once more."""
        self.settled_id = self.sent_id = settled_id
        self._resend_s = resend_s
        self._present_id = 0  # rows up to this one are no news any more
        self._marks: deque[tuple[float, int]] = deque()  # (when, the last row sent by then), oldest first

    def shown(self, newest_id: int) -> None:
        """The present values were told, by a birth or beside the rows: all rows up to the newest one are history."""
        self._present_id = newest_id

    def take(self, rows: Sequence[Row], *, more_wait: bool) -> list[Told]:
        """The first rows after `sent_id` as they are to be told; where more wait, none of them is the present."""
        return [Told(row, historical=more_wait or row.id <= self._present_id) for row in rows]

    def sent(self, row_id: int) -> None:
        """A row was sent whole."""
        self.sent_id = row_id

    def pass_time(self, now_s: float) -> None:
        """What was sent long enough ago on a connection that still stands has arrived."""
        while self._marks and now_s - self._marks[0][0] >= self._resend_s:
            self.settled_id = self._marks.popleft()[1]
        if self.sent_id > (self._marks[-1][1] if self._marks else self.settled_id):
            self._marks.append((now_s, self.sent_id))

    def interrupted(self) -> None:
        """The connection or the host is gone: go back to what has arrived."""
        self.sent_id = self.settled_id
        self._marks.clear()

    def confirmed(self) -> None:
        """The broker has acknowledged something that was sent after all this: it has taken it."""
        self.settled_id = self.sent_id
        self._marks.clear()
