"""Store-and-forward: a part is on disk, under its number, before anything of it is on the wire.

One row per part (docs/decisions/0002-one-row-per-part.md): its result and the alarm events that it caused. Its number,
the states of the camera's alarms, the camera's position and that its trigger has its result are written in the same
transaction. What no part causes, a command or a camera fault, has rows of its own: alarm events without a part, in
order between the parts.

When `max_rows` or `max_mb` is reached, rows that were kept for a replay go first, then unsent results by their worth
(core/dropping.py), a few at a time and never one that may have been sent already. When that finds no room, or the disk
itself is full, parts are stored as `not_inspected`, reason `outbox_full`, from a reserve; and when that is used up,
consecutive parts become one gap record that grows in place and needs hardly any further room.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from loguru import logger

from edge_ad.config import OutboxConfig
from edge_ad.core import messages
from edge_ad.core.alarm_board import (
    DEFAULT_RULES,
    NO_ALARMS,
    OUTBOX_FULL,
    Alarms,
    Announcement,
    Rules,
    take,
    take_part,
)
from edge_ad.core.alarms import AlarmInput
from edge_ad.core.commands import OTHER_COMMAND, Outcome, Request, execute
from edge_ad.core.dropping import with_triggers
from edge_ad.core.health import OutboxFigures
from edge_ad.core.messages import AlarmEventBody, GapBody, ReplyBody, StationContext
from edge_ad.core.orders import Order, SetMode
from edge_ad.core.replay import COPY_ROWS, KeptRow, Numbered, Replay
from edge_ad.core.rows import Row
from edge_ad.core.spans import Span
from edge_ad.errors import OutboxError
from edge_ad.outbox_dropping import drop_least
from edge_ad.outbox_file import DiskFullError, Journalled, Memory, OutboxFile, Position
from edge_ad.records import NO_FRAME, Decision, Event, Mode, Trigger
from edge_ad.room import Room, RoomKeeper

JOURNAL = Memory(least=1000, most=10_000, ms=600_000)  # commands whose repetition is known as one
RESERVE = ".reserve"  # how the name of the outbox's reserve ends
MARK_ROWS = 64  # marked as sent in one transaction
DROP_ROWS = 64  # dropped in one transaction
DROP_TURNS = 8  # such transactions in a row; then the part in hand has its turn, whatever room there is
_MODE = "mode"  # the setting of that name
_CAMERAS = "cameras"  # likewise: those that the broker keeps states of
_DROPPING = "the oldest results of good parts are dropped"

Made = TypeVar("Made")


@dataclass(slots=True)
class _Head:
    """What is committed, in memory; a transaction works on a copy that replaces it once it is on disk."""

    next_seq: int
    next_id: int
    next_event: int
    handed_out: int  # highest id of a row that may have been sent
    unsent: int
    positions: dict[str, Position]
    alarms: dict[str, Alarms]
    mode: Mode
    gap_id: int = 0
    gap: GapBody | None = None  # the gap record that still grows
    full_parts: int = 0
    gap_parts: int = 0
    dropped_parts: int = 0

    def copy(self) -> _Head:
        return replace(self, positions=dict(self.positions), alarms=dict(self.alarms))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command.

    Attributes:
        reply: the payload of its reply.
        order: what the frame path has to do now; None if nothing, or if it was told already.
    """

    reply: bytes
    order: Order | None = None


def stored_mode(path: Path, station: str) -> Mode:
    """What the last command to that effect has chosen, of an outbox that is not open; "run" before the first.

    Raises:
        OutboxError: as `Outbox`.
    """
    file = OutboxFile(path, station)
    try:
        return _mode(file)
    finally:
        file.close()


class Outbox:
    """The station's outbox, used by one thread at a time."""

    def __init__(self, path: Path, context: StationContext, config: OutboxConfig, rules: Rules = DEFAULT_RULES) -> None:
        """Open the outbox at `path`, or make an empty one; its reserve lies beside it.

        Raises:
            OutboxError: it cannot be opened, is damaged, or belongs to another station.
        """
        self._context = context
        self._config = config
        self._rules = rules
        self._file = OutboxFile(path, context.station)
        self._keeper = RoomKeeper(self._file, path.with_suffix(RESERVE), config.max_mb)
        self._head = _Head(
            self._file.next_seq(),
            self._file.next_id(),
            self._file.next_event(),
            self._file.handed_out(),
            self._file.count_unsent(),
            self._file.positions(),
            self._file.alarms(),
            _mode(self._file),
        )
        self._unmarked: dict[int, None] = {}  # rows that the broker has acknowledged, in that order
        self._marked_ms = 0
        self._told = ""  # how full it is, as the log has it

    def append(self, events: Sequence[Event], triggers: Sequence[Trigger] = (), *, leaves: bool = False) -> list[Row]:
        """Store parts in one transaction; they are durable when this returns.

        Args:
            events: the parts, in order.
            triggers: that came since the last call other than by a command; each is `open_triggers` until its part is
                stored, which may be one of these.
            leaves: they will be asked of `unsent` at once; noting here that they may have been sent saves a
                transaction.

        Returns:
            One row per part, in order: what was stored, which says `outbox_full` where there was no room.

        Raises:
            OutboxError: not even a gap record can be written.
        """
        before = self._head.copy()
        self._make_room(len(events))

        def write(draft: _Head) -> list[Row]:
            for trigger in triggers:
                self._open(draft, trigger)
            stored = [self._store(draft, event) for event in events]
            if leaves and draft.gap is None:
                draft.handed_out = draft.next_id - 1
            return stored

        rows = self._commit(write)
        if events:
            self._tell(before)
        return rows

    def take(self, camera: str, inputs: Mapping[str, AlarmInput], at_ns: int) -> bool:
        """Let something that no part caused change the alarms of a camera: alarm id -> what happened to it.

        Returns:
            Whether there are rows to be sent that were not there before.

        Raises:
            OutboxError: not even the states can be written.
        """
        alarms = self.alarms(camera)
        after, told = take(alarms, inputs, at_ns, self._rules)
        if after == alarms:
            return False
        self._make_room(1)
        return self._commit(lambda draft: self._change_alarms(draft, camera, after, told))

    def command(self, camera: str, request: Request, at_ns: int, max_shelve_s: float) -> Answer:
        """Execute a command once: its effect and its reply are stored in one transaction.

        Returns:
            The first reply, and no order, where the same request was executed before.

        Raises:
            OutboxError: nothing can be written.
        """
        settled = self.settled(request)
        if settled is not None:
            return settled
        if request.trigger is not None and self._file.is_open(request.trigger.trigger_id):
            return self._refuse(request, "another trigger of this trigger_id has no result yet")
        outcome = execute(request, camera, self.alarms(camera), at_ns, self._rules, max_shelve_s)
        return self.conclude(camera, request, outcome, at_ns)

    def settled(self, request: Request) -> Answer | None:
        """The answer to a command for which nothing is to be done: the first reply again, or a refusal; else None."""
        known = self._file.journalled(request.correlation_id)
        if known is not None and known.request == _asked(request):
            return Answer(known.reply.encode("ascii"))
        if known is not None:
            return self._refuse(request, OTHER_COMMAND)
        self._make_room(1)
        return self._refuse(request, OUTBOX_FULL) if self._room(self._head) >= Room.NONE else None

    def conclude(self, camera: str, request: Request, outcome: Outcome, at_ns: int) -> Answer:
        """Store what a command has led to, with its reply, in one transaction; it is not executed again.

        Raises:
            OutboxError: nothing can be written.
        """
        before = self.alarms(camera)

        def write(draft: _Head) -> str:
            if outcome.alarms != before:
                self._change_alarms(draft, camera, outcome.alarms, outcome.announced)
            if outcome.order is not None:
                self._keep_order(draft, outcome.order)
            reply = messages.to_json(self._reply(draft, camera, request, outcome, at_ns)).decode("ascii")
            done = Journalled(request.correlation_id, _asked(request), reply, at_ns // 1_000_000)
            self._file.journal(done, JOURNAL)
            return reply

        return Answer(self._commit(write).encode("ascii"), outcome.order)

    def unsent(self, after_id: int, limit: int) -> list[Row]:
        """The first rows after an id that the broker has not acknowledged, in order.

        What was handed out stays as it is, so that its copies agree: it is not dropped, and a gap record grows no more;
        the next gap is a new record.
        """
        if any(row_id > after_id for row_id in self._unmarked):
            self.mark()
        rows = self._file.unsent(after_id, limit)
        if self._head.gap is not None and self._head.gap_id in {row.id for row in rows}:
            self._head.gap = None
        if rows and rows[-1].id > self._head.handed_out:
            self._head.handed_out = rows[-1].id
            with suppress(DiskFullError), self._file.transaction(durable=False):  # else with the next one that has room
                self._write_numbers(self._head)
        return rows

    def kept(self, after_id: int, limit: int) -> list[Row]:
        """The first rows after an id that are still here, acknowledged or not, in order; no gap record that grows."""
        before_id = self._head.gap_id if self._head.gap is not None else self._head.next_id
        return self._file.between(after_id, before_id, limit)

    def cameras(self) -> list[str]:
        """The cameras whose retained states the broker may keep."""
        noted = self._file.setting(_CAMERAS)
        return list(json.loads(noted)) if noted is not None else sorted({*self._head.positions, *self._head.alarms})

    def note_cameras(self, names: Sequence[str]) -> None:
        """Note them; where there is no room, it stays as it was."""
        if list(names) != self.cameras():
            with suppress(DiskFullError), self._file.transaction(durable=False):
                self._file.write_setting(_CAMERAS, json.dumps(list(names)))

    def last_id(self) -> int:
        """The id of the last row; 0 before the first."""
        return self._head.next_id - 1

    def last_number(self, of: Numbered) -> int:
        """The number of the last part or alarm event; 0 before the first."""
        return (self._head.next_seq if of == "parts" else self._head.next_event) - 1

    def ids_of(self, numbers: Span, of: Numbered) -> Span:
        """The ids among which are all rows that speak of these parts or alarm events."""
        return self._file.ids_of(numbers, of)

    def kept_rows(self, ids: Span, of: Numbered) -> list[KeptRow]:
        """Which parts or alarm events the rows among these ids speak of, in order."""
        self.mark()
        return self._file.kept_rows(ids, of)

    def copies(self, replay: Replay) -> list[Row]:
        """The first COPY_ROWS rows of a replay that the broker has acknowledged, in order."""
        self.mark()
        return self._file.sent(replay, COPY_ROWS)

    def mark_sent(self, ids: Sequence[int], at_ms: int) -> int:
        """The broker has acknowledged all messages of these rows.

        It is noted with the next commit, or by `mark`; at once where there is little room, which it may give back.

        Returns:
            How many rows wait to be noted as acknowledged: those that a process which is killed now sends once more.
        """
        self._unmarked.update(dict.fromkeys(ids))
        self._marked_ms = at_ms
        if self._keeper.room is not Room.AMPLE:
            self.mark()
        return len(self._unmarked)

    def mark(self) -> None:
        """Note which rows are acknowledged, and drop those that were kept long enough.

        Not durable by itself, which saves an fsync: after a power cut, some rows are sent once more. Where there is no
        room even for the note, it is made with a later call.
        """
        while self._unmarked:
            draft = self._head.copy()
            try:
                with self._file.transaction(durable=False):
                    marked = self._mark(draft)
            except DiskFullError:
                if not self._keeper.make_do():
                    return
            else:
                self._marked(draft, marked)

    def last_position(self, camera: str) -> Position | None:
        """Where a camera was when its last part was stored; None if it never had one."""
        return self._head.positions.get(camera)

    def open_triggers(self) -> list[Trigger]:
        """The triggers whose parts have no result yet, in the order in which they came."""
        return self._file.open_triggers()

    def mode(self) -> Mode:
        """What the last command to that effect has chosen; "run" before the first."""
        return self._head.mode

    def alarms(self, camera: str) -> Alarms:
        """The present states of a camera's alarms."""
        return self._head.alarms.get(camera, NO_ALARMS)

    def figures(self) -> OutboxFigures:
        """The outbox in figures."""
        head = self._head
        counts = (head.unsent - len(self._unmarked), head.full_parts, head.gap_parts, head.dropped_parts)
        return OutboxFigures(*counts, self.last_number("parts"), self.last_number("events"))

    def close(self) -> None:
        """Note what is acknowledged, and close the file.

        Raises:
            OutboxError: the file cannot be written.
        """
        self.mark()
        self._keeper.close()
        self._file.close()

    def _keep_order(self, draft: _Head, order: Order) -> None:
        """Store what of an order has to outlive this process."""
        match order:
            case SetMode(mode):
                draft.mode = mode
                if mode == "simulate":  # it begins with its first part, however far an earlier one came
                    draft.positions = {camera: at.without("simulated") for camera, at in draft.positions.items()}
                self._file.write_setting(_MODE, mode)
            case Trigger():
                self._file.open_trigger(order)

    def _open(self, draft: _Head, trigger: Trigger) -> None:
        """Without room, nothing is left of it if the process ends before its part is stored."""
        if self._room(draft) < Room.NONE:
            self._file.open_trigger(trigger)

    def _refuse(self, request: Request, reason: str) -> Answer:
        body = messages.refusal_body(self._context.station, request.name, request.correlation_id, reason)
        return Answer(messages.to_json(body))

    def _reply(self, draft: _Head, camera: str, request: Request, outcome: Outcome, at_ns: int) -> ReplyBody:
        states = [
            messages.alarm_state_body(self._context, camera, alarm, state, self._rules[alarm])
            for alarm, state in outcome.alarms.items()
            if alarm == request.alarm or request.name == "status"
        ]
        return {
            **messages.refusal_body(self._context.station, request.name, request.correlation_id, ""),
            "done": not outcome.refusal,
            "reason": outcome.refusal or None,
            "executed_at": messages.iso8601(at_ns),
            "executed_ms": at_ns // 1_000_000,
            "last_seq": draft.next_seq - 1,
            "unsent": draft.unsent,
            "mode": draft.mode,
            "alarms": states,
            "details": outcome.details,
        }

    def _commit(self, write: Callable[[_Head], Made]) -> Made:
        """Run `write` on a draft of the head as one transaction; again with less room, where there was not enough."""
        self._keeper.look()
        while True:
            draft = self._head.copy()
            try:
                with self._file.transaction():
                    # without room, a note that can wait takes none from what cannot
                    marked = self._mark(draft) if self._keeper.room is Room.AMPLE else []
                    made = write(draft)
                    self._write_numbers(draft)
                    self._file.write_positions(draft.positions)
                    self._write_alarms(draft.alarms)
            except DiskFullError as error:
                if not self._keeper.make_do():
                    raise OutboxError(f"{error}; its reserve is used up as well") from error
            else:
                self._marked(draft, marked)
                return made

    def _write_numbers(self, head: _Head) -> None:
        self._file.write_numbers(head.next_seq, head.next_id, head.next_event, head.handed_out)

    def _write_alarms(self, drafted: Mapping[str, Alarms]) -> None:
        """Write what has changed, and nothing else: on a full disk, least is best."""
        for camera, alarms in drafted.items():
            before = self.alarms(camera)
            for alarm, state in alarms.items():
                if state != before[alarm]:
                    self._file.write_alarm(camera, alarm, state)

    def _make_room(self, rows: int) -> None:
        """Before so many rows reach a bound of our own: let go what is worth least, a little at a time."""
        if not self._is_full(rows):
            return
        self.mark()  # it may be that much of it has been sent
        for _ in range(DROP_TURNS):
            if not self._is_full(rows):
                return
            if not (self._keeper.is_tight() and self._keeper.purge()) and not self._drop():
                return

    def _is_full(self, rows: int) -> bool:
        """Whether there is no room for so many rows within our own bounds; the disk's is another matter."""
        return self._head.unsent + rows > self._config.max_rows or self._keeper.is_tight()

    def _drop(self) -> bool:
        """Drop some of the unsent results that are worth least; False if none may go."""
        try:
            with self._file.transaction(durable=False):
                dropped = drop_least(self._file, self._head.handed_out, DROP_ROWS)
        except DiskFullError:
            return False
        self._head.unsent -= dropped.rows
        self._head.dropped_parts += dropped.results
        return dropped.results > 0

    def _room(self, draft: _Head) -> Room:
        return max(self._keeper.room, self._room_for_rows(draft.unsent))

    def _change_alarms(self, draft: _Head, camera: str, after: Alarms, told: Sequence[Announcement]) -> bool:
        """Without room the states change all the same, and tell what the events would have told."""
        draft.alarms[camera] = after
        if not told or self._room(draft) >= Room.NONE:
            return False
        self._insert(draft, Row(draft.next_id, None, self._events(draft, camera, told, None)))
        draft.gap = None  # it stands before these events, and its end would come after them
        return True

    def _insert(self, draft: _Head, row: Row) -> None:
        self._file.insert(row)
        draft.next_id += 1
        draft.unsent += 1

    def _store(self, draft: _Head, event: Event) -> Row:
        room = self._room(draft)
        seq, draft.next_seq = draft.next_seq, draft.next_seq + 1
        if event.frame_id != NO_FRAME:
            mark = event.resume_after or event.part_id
            known = draft.positions.get(event.camera, Position(NO_FRAME, {}))
            draft.positions[event.camera] = known.moved(event.frame_id, self._context.source, mark)
        if event.trigger is not None:
            self._file.close_trigger(event.trigger.trigger_id)
        if room > Room.AMPLE:
            event = _without_verdict(event)
            draft.full_parts += 1
        if room >= Room.NONE:
            return self._store_in_gap(draft, seq, event)
        row = self._row(draft, seq, event)
        self._insert(draft, row)
        draft.gap = None
        return row

    def _row(self, draft: _Head, seq: int, event: Event) -> Row:
        before = draft.alarms.get(event.camera, NO_ALARMS)
        draft.alarms[event.camera], told = take_part(before, seq, event.captured_ns, event.decision, self._rules)
        events = self._events(draft, event.camera, told, event)
        return Row(draft.next_id, messages.result_body(self._context, seq, event), events)

    def _events(
        self, draft: _Head, camera: str, told: Sequence[Announcement], event: Event | None
    ) -> tuple[AlarmEventBody, ...]:
        first, draft.next_event = draft.next_event, draft.next_event + len(told)
        numbered = enumerate(told, start=first)
        return tuple(messages.alarm_event_body(self._context, camera, number, each, event) for number, each in numbered)

    def _store_in_gap(self, draft: _Head, seq: int, event: Event) -> Row:
        if draft.gap is None:
            gap = messages.gap_body(self._context, seq, seq, OUTBOX_FULL, event.captured_ns)
            draft.gap = self._naming(draft, gap, event)
            draft.gap_id = draft.next_id
            self._insert(draft, Row(draft.gap_id, draft.gap))
        else:
            draft.gap = self._naming(draft, {**draft.gap, "seq_to": seq}, event)
            self._file.replace_gap(draft.gap_id, draft.gap)
        draft.gap_parts += 1
        return Row(-seq, messages.result_body(self._context, seq, event), stored=False)

    def _naming(self, draft: _Head, gap: GapBody, event: Event) -> GapBody:
        """The gap record with the trigger of its newest part; with the last room, it is only counted."""
        if event.trigger is None:
            return gap
        if self._room(draft) is Room.LAST:
            return with_triggers(gap, [], left_out=1)
        return with_triggers(gap, [event.trigger.trigger_id])

    def _room_for_rows(self, unsent: int) -> Room:
        if unsent < self._config.max_rows:
            return Room.AMPLE
        return Room.SCARCE if unsent < self._config.max_rows * 11 // 10 else Room.NONE

    def _mark(self, draft: _Head) -> list[int]:
        """Within a transaction: note some of what is acknowledged, and drop what was kept long enough."""
        ids = list(self._unmarked)[:MARK_ROWS]
        if ids:
            kept_ms = round(1000 * self._config.keep_sent_s) if self._keeper.room is Room.AMPLE else 0
            draft.unsent -= self._file.mark_sent(ids, self._marked_ms)
            self._file.purge(self._marked_ms - kept_ms, 2 * len(ids))
        return ids

    def _marked(self, draft: _Head, ids: Sequence[int]) -> None:
        self._head = draft
        for row_id in ids:
            del self._unmarked[row_id]

    def _tell(self, before: _Head) -> None:
        """Log what has come over the outbox since then, once."""
        told = self._fullness(before)
        if told and told != self._told:
            logger.error("outbox full ({} rows unsent): {}", max(before.unsent, self._head.unsent), told)
        elif self._told and not told:
            logger.info("outbox: there is room again")
        self._told = told

    def _fullness(self, before: _Head) -> str:
        """What an outbox that is full does about it; empty while it is not."""
        if self._head.full_parts > before.full_parts:
            return "parts are not inspected"
        dropping = self._head.dropped_parts > before.dropped_parts
        return _DROPPING if dropping or (self._told == _DROPPING and self._is_full(2 * DROP_ROWS)) else ""


def _asked(request: Request) -> str:
    """All that a command asks for: the same again is the same command."""
    return json.dumps(asdict(request))


def _mode(file: OutboxFile) -> Mode:
    return cast(Mode, file.setting(_MODE) or "run")


def _without_verdict(event: Event) -> Event:
    """The part as it is stored when there is no room: small, and never taken for good."""
    return replace(event, decision=Decision("not_inspected", OUTBOX_FULL, None, None), latency_ms={})
