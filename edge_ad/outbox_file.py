"""The outbox's SQLite file: opening, transactions and statements. What is stored when is `outbox.py`'s business.

Write-ahead log with synchronous=FULL: a committed transaction survives a power cut, at the price of one fsync. The lock
is exclusive: two daemons cannot share a state directory, and no shared-memory file needs room on a full disk.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_ad.core.alarm_board import NO_ALARMS, Alarms
from edge_ad.core.alarms import AlarmState
from edge_ad.core.dropping import Worth, worth
from edge_ad.core.messages import GAP_SCHEMA, AlarmEventBody, GapBody, ResultBody
from edge_ad.core.replay import KeptRow, Numbered, Replay
from edge_ad.core.rows import Row
from edge_ad.core.spans import Span
from edge_ad.errors import ConfigError, OutboxError
from edge_ad.records import Trigger

LAYOUT = 6
PAGE_BYTES = 1024  # of a new file: a part touches some six pages, and each is written whole, twice
SOURCES = 4  # of a camera, whose marks are kept
ANY_SOURCE = ""
_BUSY = "database is locked"
_BEYOND = 2**63  # greater than any number
_GAP = f'{{"schema":"{GAP_SCHEMA}"'  # how the body of a gap record begins
# What tells the numbers of a row, and which rows have any.
_NUMBERS: dict[Numbered, tuple[str, str]] = {
    "parts": (f"CASE WHEN body LIKE '{_GAP}%' THEN body ELSE seq END", "seq IS NOT NULL"),
    "events": ("events", "events != '[]'"),
}
_FULL = "database or disk is full"  # SQLITE_FULL; Python 3.10 does not tell the code

_TABLES = """
CREATE TABLE station (name TEXT NOT NULL, next_seq INTEGER NOT NULL, next_id INTEGER NOT NULL,
  next_event INTEGER NOT NULL, handed_out INTEGER NOT NULL);
CREATE TABLE row (id INTEGER PRIMARY KEY, seq INTEGER, body TEXT NOT NULL, events TEXT NOT NULL, worth INTEGER NOT NULL,
  sent_ms INTEGER);
CREATE INDEX row_unsent ON row (id) WHERE sent_ms IS NULL;
CREATE INDEX row_worth ON row (worth, id) WHERE sent_ms IS NULL;
CREATE INDEX row_sent ON row (sent_ms) WHERE sent_ms IS NOT NULL;
CREATE INDEX row_events ON row (id) WHERE events != '[]';
CREATE TABLE position (camera TEXT PRIMARY KEY, frame_id INTEGER NOT NULL, part_id TEXT NOT NULL);
CREATE TABLE alarm (camera TEXT, alarm TEXT, state TEXT NOT NULL, PRIMARY KEY (camera, alarm));
CREATE TABLE trigger_open (trigger_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE journal (
  id INTEGER PRIMARY KEY, correlation_id TEXT NOT NULL UNIQUE, request TEXT NOT NULL, reply TEXT NOT NULL,
  at_ms INTEGER NOT NULL
);
"""


class DiskFullError(OutboxError):
    """The disk, or the limit on the file's size, has no room for what was to be written; nothing was."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last part of a camera that has its result.

    Attributes:
        frame_id: as in `Event`.
        marks: source -> part id that it goes on after, `Event.resume_after` where that is not the last one: a folder
            does not take what another one, or a simulation, has brought for its own. Of all sources under "", in files
            of before there were any.
    """

    frame_id: int
    marks: Mapping[str, str]

    def mark(self, source: str) -> str | None:
        """What a source goes on after."""
        return self.marks.get(source, self.marks.get(ANY_SOURCE))

    def without(self, kind: str) -> Position:
        """The position without the marks of sources of a kind."""
        return replace(self, marks={name: at for name, at in self.marks.items() if name.split()[:1] != [kind]})

    def moved(self, frame_id: int, source: str, mark: str | None) -> Position:
        """The position after another part of a source; only the sources of late are remembered."""
        others = {name: at for name, at in self.marks.items() if name not in (source, ANY_SOURCE)}
        if mark is None:
            return Position(frame_id, others)
        return Position(frame_id, {**dict(list(others.items())[1 - SOURCES :]), source: mark})


@dataclass(frozen=True, slots=True)
class Journalled:
    """A command that was executed.

    Attributes:
        correlation_id: names it.
        request: all that was asked for.
        reply: the payload that was answered.
        at_ms: when, milliseconds since the epoch.
    """

    correlation_id: str
    request: str
    reply: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of commands: the last `least` in any case, and of the last `ms` milliseconds up to `most`."""

    least: int
    most: int
    ms: int


def problem_of(path: Path, station: str) -> str:
    """Why a station could not use an outbox; empty if it could, or if there is none. Nothing is opened for writing.

    What only the log beside it has is not seen: of a file that was never closed, that may be all.
    """
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            (layout,) = database.execute("PRAGMA user_version").fetchone()
            owner = database.execute("SELECT name FROM station").fetchone() if layout == LAYOUT else None
    except sqlite3.DatabaseError as error:
        return f"the outbox {path} cannot be used: {error}"
    if layout not in (0, LAYOUT):
        return _of_other_layout(path, layout)
    return "" if owner is None or owner[0] == station else _of_other_station(path, owner[0], station)


def _of_other_layout(path: Path, layout: int) -> str:
    return (
        f"the outbox {path} has layout {layout}, this edge-ad reads {LAYOUT}: let the edge-ad that wrote "
        "it send what is unsent, then move the file away; numbering starts at 1 again"
    )


def _of_other_station(path: Path, owner: str, station: str) -> str:
    return f"the outbox {path} belongs to station {owner}: give {station} its own state_dir"


class OutboxFile:
    """One open file, used by one thread at a time."""

    def __init__(self, path: Path, station: str) -> None:
        """Open the file and check it, or make an empty one.

        Raises:
            ConfigError: it is of another station or of another layout.
            OutboxError: it cannot be opened, is damaged or in use.
        """
        self._path = path
        self._page_bytes = PAGE_BYTES
        self._durable: bool | None = None  # what the last transaction was
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutboxError(f"cannot make {path.parent}: {error.strerror}; see state_dir") from error
        with self._errors_named():
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(station)
        except (OutboxError, ConfigError):
            self._db.close()
            raise

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Run a block as one transaction, all or nothing.

        Args:
            durable: survive a power cut; without, the transaction becomes durable with the next one that is.

        Raises:
            DiskFullError: there is no room; nothing was written.
            OutboxError: the file cannot be written.
        """
        if durable != self._durable:
            self._execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._execute("ROLLBACK")

    def insert(self, row: Row) -> None:
        """Add a row, unsent."""
        values = (row.id, _number_of(row.body), _dump(row.body), _dump(row.events), worth(row))
        self._execute("INSERT INTO row (id, seq, body, events, worth) VALUES (?, ?, ?, ?, ?)", values)

    def replace_gap(self, row_id: int, gap: GapBody) -> None:
        """Write a gap record over its earlier, shorter form, or over a result without alarm events."""
        values = (_number_of(gap), _dump(gap), Worth.KEPT, row_id)
        self._execute("UPDATE row SET seq = ?, body = ?, worth = ? WHERE id = ?", values)

    def delete(self, row_id: int) -> None:
        """Delete a row."""
        self._execute("DELETE FROM row WHERE id = ?", (row_id,))

    def write_numbers(self, next_seq: int, next_id: int, next_event: int, handed_out: int) -> None:
        """Write the next part's number, row's id and alarm event's number, and the highest id that was handed out."""
        statement = "UPDATE station SET next_seq = ?, next_id = ?, next_event = ?, handed_out = ?"
        self._execute(statement, (next_seq, next_id, next_event, handed_out))

    def write_positions(self, positions: Mapping[str, Position]) -> None:
        """Write where each camera is."""
        for camera, at in positions.items():
            # as JSON, which takes any string: a file's name may hold bytes that SQLite's UTF-8 cannot
            values = (camera, at.frame_id, _dump(dict(at.marks)))
            self._execute("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", values)

    def write_alarm(self, camera: str, alarm: str, state: AlarmState) -> None:
        """Write the state of an alarm."""
        self._execute("INSERT OR REPLACE INTO alarm VALUES (?, ?, ?)", (camera, alarm, _dump(asdict(state))))

    def open_trigger(self, trigger: Trigger) -> None:
        """Note a trigger whose part has no result yet."""
        values = (trigger.trigger_id, _dump(asdict(trigger)))
        self._execute("INSERT OR REPLACE INTO trigger_open VALUES (?, ?)", values)

    def close_trigger(self, trigger_id: str) -> None:
        """Its part has a result."""
        self._execute("DELETE FROM trigger_open WHERE trigger_id = ?", (trigger_id,))

    def is_open(self, trigger_id: str) -> bool:
        """Whether the part of a trigger has no result yet."""
        statement = "SELECT 1 FROM trigger_open WHERE trigger_id = ?"
        return self._execute(statement, (trigger_id,)).fetchone() is not None

    def open_triggers(self) -> list[Trigger]:
        """The triggers whose parts have no result yet, in the order in which they came."""
        rows = self._execute("SELECT body FROM trigger_open ORDER BY rowid")
        return [Trigger(**json.loads(body)) for (body,) in rows]

    def write_setting(self, name: str, value: str) -> None:
        """Write what a command has chosen."""
        self._execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    def setting(self, name: str) -> str | None:
        """What a command has chosen; None if none has."""
        found = self._execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found is not None else None

    def journal(self, done: Journalled, memory: Memory) -> None:
        """Note a command with its reply, and forget those that need not be remembered any more."""
        values = (done.correlation_id, done.request, done.reply, done.at_ms)
        self._execute("INSERT INTO journal (correlation_id, request, reply, at_ms) VALUES (?, ?, ?, ?)", values)
        newest = int(self._one("SELECT MAX(id) FROM journal"))
        self._execute("DELETE FROM journal WHERE id <= ?", (newest - memory.most,))
        bounds = (newest - memory.least, done.at_ms - memory.ms)
        self._execute("DELETE FROM journal WHERE id <= ? AND at_ms < ?", bounds)

    def journalled(self, correlation_id: str) -> Journalled | None:
        """The command of an id, if it was executed and is not forgotten."""
        statement = "SELECT correlation_id, request, reply, at_ms FROM journal WHERE correlation_id = ?"
        found = self._execute(statement, (correlation_id,)).fetchone()
        return Journalled(*found) if found is not None else None

    def mark_sent(self, ids: Iterable[int], at_ms: int) -> int:
        """Mark rows as acknowledged; the number of those that were not yet."""
        statement = "UPDATE row SET sent_ms = ? WHERE id = ? AND sent_ms IS NULL"
        return sum(self._execute(statement, (at_ms, row_id)).rowcount for row_id in ids)

    def purge(self, until_ms: int, limit: int) -> int:
        """Delete up to `limit` rows that were acknowledged at or before a time, oldest first; the number deleted."""
        statement = "DELETE FROM row WHERE id IN (SELECT id FROM row WHERE sent_ms <= ? ORDER BY sent_ms LIMIT ?)"
        return self._execute(statement, (until_ms, limit)).rowcount

    def unsent(self, after_id: int, limit: int) -> list[Row]:
        """The first unacknowledged rows after an id, in order."""
        return self._rows("sent_ms IS NULL AND id > ? ORDER BY id LIMIT ?", (after_id, limit))

    def between(self, after_id: int, before_id: int, limit: int) -> list[Row]:
        """The first rows between two ids, sent or not, in order."""
        return self._rows("id > ? AND id < ? ORDER BY id LIMIT ?", (after_id, before_id, limit))

    def worth_least(self, of: Worth, after_id: int, limit: int) -> list[Row]:
        """The first unacknowledged rows of a worth after an id, in order."""
        where = "sent_ms IS NULL AND worth = ? AND id > ? ORDER BY id LIMIT ?"
        return self._rows(where, (of, after_id, limit))

    def neighbours(self, row_id: int) -> tuple[Row | None, Row | None]:
        """The unacknowledged rows right before and right after an id."""
        before = self._rows("sent_ms IS NULL AND id < ? ORDER BY id DESC LIMIT 1", (row_id,))
        after = self._rows("sent_ms IS NULL AND id > ? ORDER BY id LIMIT 1", (row_id,))
        return (before[0] if before else None, after[0] if after else None)

    def sent(self, replay: Replay, limit: int) -> list[Row]:
        """The first acknowledged rows of a replay, in order."""
        having = " AND events != '[]'" if replay.of == "events" else ""
        where = f"sent_ms IS NOT NULL AND id BETWEEN ? AND ?{having} ORDER BY id LIMIT ?"
        return self._rows(where, (replay.ids.first, replay.ids.last, limit))

    def ids_of(self, numbers: Span, of: Numbered) -> Span:
        """The ids among which are all rows of these parts or alarm events, and no row that speaks of others only.

        Found by bisection: the numbers rise with the ids of rows.
        """
        ids = range(self.next_id())
        first = bisect_left(ids, numbers.first, key=lambda row_id: self._numbers_from(row_id, of).last)
        beyond = bisect_left(ids, numbers.last + 1, key=lambda row_id: self._numbers_from(row_id, of).first)
        return Span(first, beyond - 1)

    def kept_rows(self, ids: Span, of: Numbered) -> list[KeptRow]:
        """Which parts or alarm events the rows among these ids speak of, in order."""
        told, having = _NUMBERS[of]
        statement = f"SELECT {told}, sent_ms FROM row WHERE id BETWEEN ? AND ? AND {having} ORDER BY id"  # noqa: S608
        rows = self._execute(statement, (ids.first, ids.last))
        return [KeptRow(_span(found), sent_ms is not None) for found, sent_ms in rows]

    def _numbers_from(self, row_id: int, of: Numbered) -> Span:
        """What the first row of a part or alarm event at or after an id tells; beyond all numbers if there is none."""
        told, having = _NUMBERS[of]
        statement = f"SELECT {told} FROM row WHERE id >= ? AND {having} ORDER BY id LIMIT 1"  # noqa: S608
        found = self._execute(statement, (row_id,)).fetchone()
        return _span(found[0]) if found is not None else Span(_BEYOND, _BEYOND)

    def count_unsent(self) -> int:
        """Number of unacknowledged rows."""
        return int(self._one("SELECT COUNT(*) FROM row WHERE sent_ms IS NULL"))

    def next_seq(self) -> int:
        """The next part's number."""
        return int(self._one("SELECT next_seq FROM station"))

    def next_id(self) -> int:
        """The next row's id."""
        return int(self._one("SELECT next_id FROM station"))

    def next_event(self) -> int:
        """The next alarm event's number."""
        return int(self._one("SELECT next_event FROM station"))

    def handed_out(self) -> int:
        """The highest id of a row that was handed out: it may have been sent."""
        return int(self._one("SELECT handed_out FROM station"))

    def positions(self) -> dict[str, Position]:
        """Camera -> its last part."""
        rows = self._execute("SELECT camera, frame_id, part_id FROM position")
        return {camera: Position(frame_id, _marks(json.loads(part_id))) for camera, frame_id, part_id in rows}

    def alarms(self) -> dict[str, Alarms]:
        """Camera -> its alarms."""
        found: dict[str, dict[str, AlarmState]] = {}
        for camera, alarm, state in self._execute("SELECT camera, alarm, state FROM alarm"):
            found.setdefault(camera, dict(NO_ALARMS))[alarm] = _alarm_state(json.loads(state))
        return dict(found)

    def used_bytes(self) -> int:
        """What of the file holds something."""
        return int(self._one("PRAGMA page_count")) * self._page_bytes - self.free_bytes()

    def free_bytes(self) -> int:
        """What of the file holds nothing any more."""
        return int(self._one("PRAGMA freelist_count")) * self._page_bytes

    def limit(self, size_bytes: int, log_bytes: int) -> None:
        """Set the largest size of the file, and how much its log may gather before it moves into the file."""
        self._execute(f"PRAGMA max_page_count={size_bytes // self._page_bytes}")
        self._execute(f"PRAGMA wal_autocheckpoint={log_bytes // self._page_bytes}")

    def give_back(self, size_bytes: int) -> None:
        """Return up to so much of what is free to the file system; the file gets shorter.

        Raises:
            DiskFullError: there is no room in the log for the pages that have to move.
        """
        pages = size_bytes // self._page_bytes
        with self._errors_named():
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")  # execute() would stop after one page
        self.empty_log()

    def empty_log(self) -> None:
        """Move all that is in the log into the file, so that the log's space is free again."""
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; the log is moved into it.

        Raises:
            OutboxError: the file cannot be written.
        """
        with self._errors_named():
            self._db.close()

    def _rows(self, where: str, values: tuple[int, ...]) -> list[Row]:
        statement = f"SELECT id, body, events FROM row WHERE {where}"  # noqa: S608 - our own text
        rows = self._execute(statement, values).fetchall()
        return [_row(*found) for found in rows]

    def _prepare(self, station: str) -> None:
        self._execute("PRAGMA locking_mode=EXCLUSIVE")  # before anything is read: then there is no shared-memory file
        if self._one("PRAGMA page_count") == 0:  # these are chosen when the file is made
            self._execute(f"PRAGMA page_size={PAGE_BYTES}")
            self._execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._page_bytes = int(self._one("PRAGMA page_size"))  # 4096 in the files of earlier versions, which go on
        self._execute("PRAGMA temp_store=MEMORY")
        if self._one("PRAGMA journal_mode=WAL") != "wal":
            raise OutboxError(f"the outbox {self._path} is on a file system without a write-ahead log: see state_dir")
        layout = self._one("PRAGMA user_version")
        if layout == 0:
            self._make_tables(station)
        elif layout != LAYOUT:
            raise ConfigError(_of_other_layout(self._path, layout))
        self._check(station)

    def _make_tables(self, station: str) -> None:
        with self.transaction():
            for statement in filter(str.strip, _TABLES.split(";")):
                self._execute(statement)
            self._execute("INSERT INTO station VALUES (?, 1, 1, 1, 0)", (station,))
            self._execute(f"PRAGMA user_version={LAYOUT}")

    def _check(self, station: str) -> None:
        found = self._one("PRAGMA quick_check(1)")
        if found != "ok":
            raise self._damaged(str(found))
        if self.next_seq() <= int(self._one("SELECT COALESCE(MAX(seq), 0) FROM row")):
            raise self._damaged("its next number is already given")
        if self.next_id() <= int(self._one("SELECT COALESCE(MAX(id), 0) FROM row")):
            raise self._damaged("the id of its next row is already given")
        owner = self._one("SELECT name FROM station")
        if owner != station:
            raise ConfigError(_of_other_station(self._path, owner, station))

    def _damaged(self, what: str) -> OutboxError:
        return OutboxError(
            f"the outbox {self._path} is damaged ({what}): check the disk, then move the file away; "
            "numbering then starts at 1 again and unsent results are lost"
        )

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:  # some ten times for each part: a context manager would take as long as the statement
            return self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise self._named(error) from error

    def _one(self, statement: str) -> Any:
        return self._execute(statement).fetchone()[0]

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._named(error) from error

    def _named(self, error: sqlite3.DatabaseError) -> OutboxError:
        """What is wrong with the file, as our own error."""
        if not isinstance(error, sqlite3.OperationalError):
            return self._damaged(str(error))
        if str(error) == _FULL:
            return DiskFullError(f"no room for the outbox {self._path}: free some disk space")
        if str(error) == _BUSY:
            return OutboxError(f"the outbox {self._path} is in use: does another edge-ad run on it?")
        return OutboxError(f"cannot use the outbox {self._path}: {error}")


def _number_of(body: ResultBody | GapBody | None) -> int | None:
    """The part's number, the first one of a gap; None where there is no part."""
    if body is None:
        return None
    return body["seq_from"] if "seq_from" in body else body["seq"]


def _row(row_id: int, body: str, events: str) -> Row:
    return Row(row_id, json.loads(body), tuple(json.loads(events)))


def _span(told: int | str) -> Span:
    """The numbers of a row, of what tells them: the number of a part, else a gap record or alarm events as JSON."""
    if isinstance(told, int):
        return Span(told, told)
    body = json.loads(told)
    return Span(body["seq_from"], body["seq_to"]) if "seq_from" in body else _numbers_of(body)


def _numbers_of(events: list[AlarmEventBody]) -> Span:
    return Span(events[0]["event_no"], events[-1]["event_no"])


def _marks(stored: dict[str, str] | str | None) -> dict[str, str]:
    """The marks of a position; earlier versions stored one, of whatever source."""
    if isinstance(stored, dict):
        return stored
    return {ANY_SOURCE: stored} if stored is not None else {}


def _alarm_state(stored: dict[str, Any]) -> AlarmState:
    """A stored state: JSON has no tuples."""
    state = AlarmState(**stored)
    shelved_ns = (state.shelved_ns[0], state.shelved_ns[1]) if state.shelved_ns is not None else None
    return replace(state, raises_ns=tuple(state.raises_ns), shelved_ns=shelved_ns)


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
