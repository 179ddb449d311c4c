"""Parts or alarm events that somebody asks for once more: sent again as copies, in order, behind what is new.

A copy that is on its way when the connection breaks is sent again on the next one; a replay does not outlive the
process. A copy that the broker refuses is not tried again: whoever misses it asks once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_ad.core.rows import PLC, Parcel, Piece, Row, pieces
from edge_ad.core.spans import Span

MAX_NUMBERS = 10_000  # of one replay
MAX_REPLAYS = 8  # replays that wait
COPY_ROWS = 16  # fetched at a time


Numbered = Literal["parts", "events"]
"""What a replay counts: parts by `seq`, with the alarm events that they caused; or alarm events by `event_no`."""


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A row that is in the outbox: the numbers that it speaks of, and whether the broker has acknowledged it."""

    numbers: Span
    sent: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """Rows to be sent once more: those among these ids, or the alarm events of those."""

    ids: Span
    of: Numbered = "parts"


class ReplayLane:
    """The copies that are to be sent."""

    def __init__(self) -> None:
        """Nothing was asked for."""
        self._replays: deque[Replay] = deque()
        self._parcels: deque[Parcel] = deque()
        self._flying: dict[tuple[int, Piece], Parcel] = {}

    @property
    def full(self) -> bool:
        """Whether as many replays wait as may wait."""
        return len(self._replays) >= MAX_REPLAYS

    def ask(self, replay: Replay) -> None:
        """Send these rows again."""
        self._replays.append(replay)

    def wanted(self) -> Replay | None:
        """The rows of which the first COPY_ROWS are to be fetched and `offer`ed."""
        return self._replays[0] if self._replays and not self._parcels else None

    def offer(self, rows: Sequence[Row]) -> None:
        """The rows that `wanted` asked for: as many as are still kept."""
        replay = self._replays.popleft()
        self._parcels.extend(Parcel(row, piece) for row in rows for piece in pieces(row) if _belongs(piece, replay.of))
        if len(rows) == COPY_ROWS and rows[-1].id < replay.ids.last:
            self._replays.appendleft(Replay(Span(rows[-1].id + 1, replay.ids.last), replay.of))

    def next(self, in_flight: int) -> Parcel | None:
        """The next copy, if fewer than `in_flight` are on their way."""
        if not self._parcels or len(self._flying) >= in_flight:
            return None
        parcel = self._parcels.popleft()
        self._flying[parcel.row.id, parcel.piece] = parcel
        return parcel

    def answered(self, parcel: Parcel) -> None:
        """The broker has taken or refused it."""
        self._flying.pop((parcel.row.id, parcel.piece), None)

    def restart(self) -> None:
        """The connection is gone: what was on its way is to be sent again."""
        self._parcels.extendleft(reversed(self._flying.values()))
        self._flying.clear()

    def clear(self) -> None:
        """Give up what was asked for."""
        self._replays.clear()
        self._parcels.clear()


def _belongs(piece: Piece, of: Numbered) -> bool:
    """Whether a message of a row is part of a replay; decisions are for now, and never are."""
    return piece.kind == "event" if of == "events" else piece != PLC


def refusal(wanted: Span, last: int, of: Numbered) -> str:
    """Why parts or events of these numbers are not sent again, of which the last is `last`; empty if they are."""
    if wanted.first > wanted.last:
        return "from is greater than to"
    if wanted.first > last:
        return f"the last {_ONE[of]} is {last}"
    if len(wanted) > MAX_NUMBERS:
        return f"more than {MAX_NUMBERS} {of}: ask for them in pieces"
    return ""


_ONE: dict[Numbered, str] = {"parts": "part", "events": "alarm event"}


def gone(wanted: Span, kept: Iterable[KeptRow]) -> Iterator[Span]:
    """The runs of numbers of which no row speaks; rows in order."""
    following = wanted.first
    for row in kept:
        if row.numbers.first > following:
            yield Span(following, min(row.numbers.first - 1, wanted.last))
        following = max(following, row.numbers.last + 1)
    if following <= wanted.last:
        yield Span(following, wanted.last)


def count(wanted: Span, rows: Iterable[KeptRow]) -> int:
    """How many of the numbers these rows speak of."""
    return sum(min(row.numbers.last, wanted.last) - max(row.numbers.first, wanted.first) + 1 for row in rows)
