"""What may be sent next, and which rows are done: the bookkeeping between the outbox and the wire.

    fresh parts --> plc, at once --------+
    replies ------> at once, or never ---+
    states -------> newest of a topic ---+--> window of unacknowledged publishes --> acknowledged | refused
    outbox rows --> in order of their ids -----+
    copies -------> behind rows, at a small share -+

A row is done when the broker has acknowledged all its messages. A refused row waits, and does not hold up the others:
when they are through, the row that has waited longest is tried again, after a growing delay. If it is then taken, the
reason for the refusals is gone and all of them are tried.

Time is an argument, in seconds of any monotonic clock; tickets are whatever the wire names a publish by.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from edge_ad.core import messages
from edge_ad.core.backoff import Backoff
from edge_ad.core.messages import Message
from edge_ad.core.plc import plc_message
from edge_ad.core.replay import Replay, ReplayLane
from edge_ad.core.rows import PLC, Parcel, Piece, Row, pieces

BATCH_ROWS = 64  # rows taken from the outbox at a time
ROWS_A_COPY = 8  # while rows wait, one copy goes for so many of their messages
SUSPICIOUS_LOSSES = 3  # connections that broke over the same topic


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command; who misses it sends the command again."""

    message: Message


@dataclass(frozen=True, slots=True)
class Copy:
    """One message of a row that the broker has taken before, and that somebody asked for once more."""

    parcel: Parcel


Outgoing = Message | Reply | Parcel | Copy


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows to be fetched: the first `limit` unsent ones after a number."""

    after_id: int
    limit: int


@dataclass(slots=True)
class _State:
    message: Message
    backoff: Backoff
    due: bool = True
    flying: bool = False
    not_before_s: float = 0.0
    refusal: str = ""


class StateLane:
    """Retained states: of each topic only the newest counts, and all of them are told anew on each connection.

    An empty one makes the broker forget the topic, and is over once the broker has it.
    """

    def __init__(self, backoff_min_s: float, backoff_max_s: float) -> None:
        """Start without a state."""
        self._states: dict[str, _State] = {}
        self._backoff_s = (backoff_min_s, backoff_max_s)

    @property
    def refusal(self) -> str:
        """Why the broker refuses a state; empty if it refuses none."""
        return next((state.refusal for state in self._states.values() if state.refusal), "")

    def put(self, message: Message) -> None:
        """Note the newest state of a topic; the same as before is not sent again."""
        state = self._states.get(message.topic)
        if state is None:
            self._states[message.topic] = _State(message, Backoff(*self._backoff_s))
        elif state.message != message:
            state.message, state.due = message, True

    @property
    def clears(self) -> bool:
        """Whether there are topics that the broker has yet to forget."""
        return any(not state.message.payload for state in self._states.values())

    def restart(self) -> None:
        """A new connection: everything is due, in order of its first appearance."""
        for topic, state in self._states.items():
            self._states[topic] = _State(state.message, Backoff(*self._backoff_s))

    def next(self, now_s: float) -> Message | None:
        """The next state to send; one of a topic at a time, so that the newest arrives last."""
        for state in self._states.values():
            if state.due and not state.flying and now_s >= state.not_before_s:
                state.due, state.flying = False, True
                return state.message
        return None

    def taken(self, message: Message) -> None:
        """The broker has acknowledged it."""
        state = self._states[message.topic]
        state.flying, state.refusal = False, ""
        state.backoff.reset()
        if not state.message.payload and not state.due:
            del self._states[message.topic]

    def refused(self, message: Message, why: str, now_s: float) -> None:
        """The broker has refused it: again after a delay."""
        state = self._states[message.topic]
        state.due, state.flying, state.refusal = True, False, why
        state.not_before_s = now_s + state.backoff.next_s()


class RowLane:
    """Rows of the outbox in order of their ids, and the `plc` of fresh parts ahead of them."""

    def __init__(self, backoff_min_s: float, backoff_max_s: float) -> None:
        """Start with nothing to send; the outbox is asked by `wanted`."""
        self._backoff = Backoff(backoff_min_s, backoff_max_s)
        self._deadlines_s: dict[int, float] = {}  # row_id -> until when its verdict may go to a controller
        self._plc_taken: set[int] = set()  # acknowledged ahead of a row that is not done
        self._done: list[int] = []
        self.restart()

    def restart(self) -> None:
        """A new connection: all that is not acknowledged is to be sent again, in order."""
        self._fresh: deque[Row] = deque()
        self._flying: set[tuple[int, Piece]] = set()  # sent, not answered
        self._rows: deque[Row] = deque()
        self._parcels: deque[Parcel] = deque()
        self._missing: dict[int, set[Piece]] = {}  # rows begun: what is not acknowledged
        self._refused: dict[int, None] = {}  # of those: the ones that wait, longest first
        self._retried: int | None = None
        self._cursor = 0
        self._exhausted = False
        self._not_before_s = 0.0
        self._backoff.reset()
        self.refusal = ""

    def put_fresh(self, row: Row, deadline_s: float, now_s: float, *, online: bool) -> None:
        """A part was just stored; its verdict may go to controllers until `deadline_s`.

        While offline nothing is queued: the row itself brings its `plc` when there is a connection.
        """
        self.more()
        self._forget_deadlines(now_s)
        self._deadlines_s[row.id] = deadline_s
        if online:
            self._fresh.append(row)

    @property
    def caught_up(self) -> bool:
        """Whether the outbox had no further rows when it was asked last: the next one is asked for at once."""
        return self._exhausted

    def more(self) -> None:
        """The outbox has rows that it had not when it was asked last."""
        self._exhausted = False

    def left_s(self, row_id: int, now_s: float) -> float:
        """For how long a part's verdict may still go to controllers; below 0 it is late, as of an earlier process."""
        return self._deadlines_s.get(row_id, float("-inf")) - now_s

    def wanted(self, now_s: float) -> Wanted | None:
        """The rows to fetch and to `offer`, if any."""
        if self._rows or self._parcels or now_s < self._not_before_s:
            return None
        if not self._exhausted:
            return Wanted(self._cursor, BATCH_ROWS)
        if self._refused and self._retried is None:
            return Wanted(next(iter(self._refused)) - 1, 1)
        return None

    def offer(self, rows: Sequence[Row]) -> None:
        """The rows that `wanted` asked for."""
        if self._exhausted:
            self._retried = rows[0].id
        else:
            self._exhausted = len(rows) < BATCH_ROWS
            self._cursor = rows[-1].id if rows else self._cursor
        self._rows.extend(rows)

    def next_plc(self) -> Parcel | None:
        """The `plc` of the part that has waited longest."""
        if not self._fresh:
            return None
        return self._leaves(Parcel(self._fresh.popleft(), PLC))

    def next_piece(self, now_s: float) -> Parcel | None:
        """The next message of a row, after the fresh ones."""
        if now_s < self._not_before_s:
            return None
        while self._rows and not self._parcels:
            self._begin(self._rows.popleft())
        return self._leaves(self._parcels.popleft()) if self._parcels else None

    def taken(self, parcel: Parcel) -> None:
        """The broker has acknowledged it."""
        row_id, piece = parcel.row.id, parcel.piece
        self._flying.discard((row_id, piece))
        if piece == PLC and parcel.row.stored:
            self._plc_taken.add(row_id)
        if row_id in self._missing:
            self._missing[row_id].discard(piece)
            if not self._missing[row_id]:
                self._finish(row_id)

    def refused(self, parcel: Parcel, why: str, now_s: float) -> None:
        """The broker has refused it: the row waits, and the lane pauses for a moment."""
        row_id = parcel.row.id
        self.refusal = why
        self._flying.discard((row_id, parcel.piece))
        if row_id not in self._missing:
            return  # a fresh part's plc: its row will bring it again
        self._parcels = deque(each for each in self._parcels if each.row.id != row_id)
        self._refused.pop(row_id, None)
        self._refused[row_id] = None
        self._retried = None if self._retried == row_id else self._retried
        self._not_before_s = now_s + self._backoff.next_s()

    def take_done(self) -> list[int]:
        """The rows that are done since the last call."""
        done, self._done = self._done, []
        return done

    def _begin(self, row: Row) -> None:
        """Send what is neither acknowledged nor on its way: nothing, if the row was begun and not refused."""
        self._refused.pop(row.id, None)
        every = pieces(row)
        taken = {PLC} if row.id in self._plc_taken else set()
        missing = self._missing.setdefault(row.id, set(every) - taken)
        to_send = [piece for piece in every if piece in missing and (row.id, piece) not in self._flying]
        self._parcels.extend(Parcel(row, piece) for piece in to_send)

    def _leaves(self, parcel: Parcel) -> Parcel:
        self._flying.add((parcel.row.id, parcel.piece))
        return parcel

    def _forget_deadlines(self, now_s: float) -> None:
        """Drop those that have passed, oldest first: without one, a part is late."""
        while self._deadlines_s and next(iter(self._deadlines_s.values())) < now_s:
            del self._deadlines_s[next(iter(self._deadlines_s))]

    def _finish(self, row_id: int) -> None:
        del self._missing[row_id]
        self._plc_taken.discard(row_id)
        self._rows = deque(row for row in self._rows if row.id != row_id)  # asked for again while it was flying
        self._done.append(row_id)
        self._backoff.reset()
        if self._retried == row_id:
            self._retried = None
            self._rows.clear()
            self._cursor, self._exhausted = 0, False
        if not self._refused and self._retried is None:
            self.refusal = ""


class Delivery:
    """All lanes behind one window of unacknowledged publishes."""

    def __init__(self, backoff_min_s: float, backoff_max_s: float) -> None:
        """Start offline."""
        self.states = StateLane(backoff_min_s, backoff_max_s)
        self.rows = RowLane(backoff_min_s, backoff_max_s)
        self.replays = ReplayLane()
        self._rows_in_a_row = 0  # without a copy among them
        self._copy_refusal = ""
        self._replies: deque[Reply] = deque()
        self._reply_refusal = ""
        self._window = 0
        self._flying: dict[Hashable, tuple[Outgoing, str]] = {}  # ticket -> what, and its topic; in order of sending
        self._suspect = ""
        self._losses = 0

    @property
    def online(self) -> bool:
        """Whether there is a connection."""
        return self._window > 0

    @property
    def in_flight(self) -> int:
        """Publishes that wait for their acknowledgement."""
        return len(self._flying)

    @property
    def refusal(self) -> str:
        """What the broker refuses and why; empty if nothing."""
        refusals = (self.rows.refusal, self.states.refusal, self._reply_refusal, self._copy_refusal, self._suspicion())
        return next(filter(None, refusals), "")

    @property
    def replies_waiting(self) -> int:
        """Replies that wait for room in the window."""
        return len(self._replies)

    def put_reply(self, message: Message) -> None:
        """Send the answer to a command, on this connection or never."""
        if self.online:
            self._replies.append(Reply(message))

    def connected(self, window: int) -> None:
        """A new connection that bears `window` unacknowledged publishes: all that is not acknowledged is due again."""
        self._lose_flying()
        self._replies.clear()
        self._reply_refusal = self._copy_refusal = ""
        self._window = window
        self.states.restart()
        self.rows.restart()
        self.replays.restart()

    def disconnected(self) -> None:
        """The connection is gone, and with it every acknowledgement that was awaited."""
        self._lose_flying()
        self._replies.clear()
        self._window = 0
        self.rows.restart()
        self.replays.restart()

    def wanted(self, now_s: float) -> Wanted | None:
        """The rows to fetch from the outbox and to `rows.offer`, before `next`; None if there is no need."""
        return self.rows.wanted(now_s) if self._room_for_rows else None

    def wanted_copies(self) -> Replay | None:
        """The rows to fetch once more and to `replays.offer`, before `next`; None if there is no need."""
        return self.replays.wanted() if self._room_for_rows else None

    def next(self, now_s: float) -> Outgoing | None:
        """What to send now; None if nothing is due or the window is full.

        Rows leave a part of the window free, so that a backlog never delays a state or a fresh part's `plc`. Copies go
        when no row is due, and take no more than such a part themselves. Behind a backlog they have a small share, so
        that it does not hold up a replay until the rows that it is for are no longer kept.
        """
        if self.in_flight >= self._window:
            return None
        urgent: Outgoing | None = self.states.next(now_s) or self.rows.next_plc()
        if urgent is None and self._replies:
            urgent = self._replies.popleft()
        if urgent is not None or not self._room_for_rows:
            return urgent
        copy = self._next_copy() if self._rows_in_a_row >= ROWS_A_COPY else None
        piece = self.rows.next_piece(now_s) if copy is None else None
        self._rows_in_a_row = self._rows_in_a_row + 1 if piece is not None else 0
        return copy or piece or self._next_copy()

    def _next_copy(self) -> Copy | None:
        parcel = self.replays.next(max(1, self._window // 4))
        return Copy(parcel) if parcel is not None else None

    @property
    def _room_for_rows(self) -> bool:
        return self.in_flight < self._window - self._window // 4

    def sent(self, ticket: Hashable, outgoing: Outgoing, topic: str) -> None:
        """It was handed to the wire under this name."""
        self._flying[ticket] = (outgoing, topic)

    def acknowledged(self, ticket: Hashable, refusal: str, now_s: float) -> None:
        """The broker has answered: taken if `refusal` is empty. What an earlier connection sent is ignored."""
        outgoing, topic = self._flying.pop(ticket, (None, ""))
        self._losses = 0 if topic == self._suspect else self._losses
        why = f"{topic}: {refusal}"
        if isinstance(outgoing, Message):
            self.states.refused(outgoing, why, now_s) if refusal else self.states.taken(outgoing)
        elif isinstance(outgoing, Reply):
            self._reply_refusal = why if refusal else ""
        elif isinstance(outgoing, Copy):
            self._copy_refusal = why if refusal else ""
            self.replays.answered(outgoing.parcel)
        elif isinstance(outgoing, Parcel):
            self.rows.refused(outgoing, why, now_s) if refusal else self.rows.taken(outgoing)

    def _lose_flying(self) -> None:
        """Note what was first in line when the connection broke: some brokers hang up on what they do not allow."""
        if self._flying:
            _, topic = next(iter(self._flying.values()))
            self._losses = self._losses + 1 if topic == self._suspect else 1
            self._suspect = topic
        self._flying.clear()

    def _suspicion(self) -> str:
        suspicious = self._losses >= SUSPICIOUS_LOSSES
        return f"{self._suspect}: the broker ends the connection whenever it is sent" if suspicious else ""


def render(parcel: Parcel, *, left_s: float, published_ms: int, historical_after_ms: int) -> Message:
    """The message of a parcel that is sent now; its `plc` is late if less than nothing is left, and soon expires."""
    row, piece = parcel.row, parcel.piece
    if piece.kind == "event":
        return messages.alarm_event(row.events[piece.index], published_ms, historical_after_ms)
    if row.body is None:
        raise ValueError(f"row {row.id} has no {piece.kind}")
    if piece.kind == "plc" and "seq_from" not in row.body:
        return replace(plc_message(row.body, late=left_s < 0), expiry_s=math.ceil(max(1.0, left_s)))
    return messages.result(row.body, published_ms, historical_after_ms)
