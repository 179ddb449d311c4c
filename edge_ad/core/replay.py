"""Rows that somebody asks for once more: sent again as copies, in order, when nothing newer is due.

A copy that is on its way when the connection breaks is sent again on the next one; a replay does not outlive the
process. A copy that the broker refuses is not tried again: whoever misses it asks once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge_ad.core.rows import PLC, Parcel, Piece, Row, pieces

MAX_PARTS = 10_000  # of one replay
MAX_SPANS = 8  # replays that wait
COPY_ROWS = 16  # fetched at a time


@dataclass(frozen=True, slots=True)
class Span:
    """Ids of rows, or numbers of parts: from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A row that is in the outbox: the parts that it speaks of, and whether the broker has acknowledged it."""

    parts: Span
    sent: bool


class ReplayLane:
    """The copies that are to be sent."""

    def __init__(self) -> None:
        """Nothing was asked for."""
        self._spans: deque[Span] = deque()
        self._parcels: deque[Parcel] = deque()
        self._flying: dict[tuple[int, Piece], Parcel] = {}

    @property
    def full(self) -> bool:
        """Whether as many replays wait as may wait."""
        return len(self._spans) >= MAX_SPANS

    def ask(self, ids: Span) -> None:
        """Send the rows of these ids again."""
        self._spans.append(ids)

    def wanted(self) -> Span | None:
        """The ids of which the first COPY_ROWS rows are to be fetched and `offer`ed."""
        return self._spans[0] if self._spans and not self._parcels else None

    def offer(self, rows: Sequence[Row]) -> None:
        """The rows that `wanted` asked for: as many as are still kept."""
        span = self._spans.popleft()
        self._parcels.extend(Parcel(row, piece) for row in rows for piece in pieces(row) if piece != PLC)
        if len(rows) == COPY_ROWS and rows[-1].id < span.last:
            self._spans.appendleft(Span(rows[-1].id + 1, span.last))

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
        self._spans.clear()
        self._parcels.clear()


def refusal(wanted: Span, last_seq: int) -> str:
    """Why parts of these numbers are not sent again; empty if they are."""
    if wanted.first > wanted.last:
        return "from is greater than to"
    if wanted.first > last_seq:
        return f"the last part is {last_seq}"
    if wanted.last - wanted.first >= MAX_PARTS:
        return f"more than {MAX_PARTS} parts: ask for them in pieces"
    return ""


def gone(wanted: Span, kept: Iterable[KeptRow]) -> Iterator[Span]:
    """The runs of numbers of which no row speaks; rows in order."""
    following = wanted.first
    for row in kept:
        if row.parts.first > following:
            yield Span(following, min(row.parts.first - 1, wanted.last))
        following = max(following, row.parts.last + 1)
    if following <= wanted.last:
        yield Span(following, wanted.last)


def count(wanted: Span, rows: Iterable[KeptRow]) -> int:
    """How many of the numbers these rows speak of."""
    return sum(min(row.parts.last, wanted.last) - max(row.parts.first, wanted.first) + 1 for row in rows)
