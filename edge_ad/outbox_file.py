"""The outbox's SQLite file: opening, transactions and statements. What is stored when is `outbox.py`'s business.

Write-ahead log with synchronous=FULL: a committed transaction survives a power cut, at the price of one fsync. The lock
is exclusive: two daemons cannot share a state directory, and no shared-memory file needs room on a full disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.core.alarms import AlarmState
from edge_ad.core.delivery import Row
from edge_ad.core.messages import GapBody
from edge_ad.errors import OutboxError

LAYOUT = 1
PAGE_BYTES = 4096
_BUSY = "database is locked"
_FULL = "database or disk is full"  # SQLITE_FULL; Python 3.10 does not tell the code

_TABLES = """
CREATE TABLE station (name TEXT NOT NULL, next_seq INTEGER NOT NULL);
CREATE TABLE row (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, events TEXT NOT NULL, sent_ms INTEGER);
CREATE INDEX row_unsent ON row (seq) WHERE sent_ms IS NULL;
CREATE INDEX row_sent ON row (sent_ms) WHERE sent_ms IS NOT NULL;
CREATE TABLE position (camera TEXT PRIMARY KEY, frame_id INTEGER NOT NULL, part_id TEXT NOT NULL);
CREATE TABLE alarm (
  camera TEXT PRIMARY KEY, condition TEXT NOT NULL, since_ns INTEGER, count INTEGER NOT NULL, seq INTEGER, score REAL
);
"""


class DiskFullError(OutboxError):
    """The disk, or the limit on the file's size, has no room for what was to be written; nothing was."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last part of a camera that has its result.

    Attributes:
        frame_id, part_id: as in `Event`.
    """

    frame_id: int
    part_id: str | None


class OutboxFile:
    """One open file, used by one thread at a time."""

    def __init__(self, path: Path, station: str) -> None:
        """Open the file and check it, or make an empty one.

        Raises:
            OutboxError: it cannot be opened, is damaged, in use, of another station or of another layout.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutboxError(f"cannot make {path.parent}: {error.strerror}; see state_dir") from error
        with self._errors_named():
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(station)
        except OutboxError:
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
        self._execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._execute("ROLLBACK")

    def insert(self, row: Row) -> None:
        """Add a row, unsent."""
        self._execute(
            "INSERT INTO row (seq, body, events) VALUES (?, ?, ?)", (row.seq, _dump(row.body), _dump(row.events))
        )

    def replace_gap(self, gap: GapBody) -> None:
        """Write a gap record over its earlier, shorter form."""
        self._execute("UPDATE row SET body = ? WHERE seq = ?", (_dump(gap), gap["seq_from"]))

    def write_state(self, next_seq: int, positions: dict[str, Position], alarms: dict[str, AlarmState]) -> None:
        """Write the next number to give, where each camera is, and its alarm."""
        self._execute("UPDATE station SET next_seq = ?", (next_seq,))
        for camera, at in positions.items():
            # as JSON, which takes any string: a file's name may hold bytes that SQLite's UTF-8 cannot
            values = (camera, at.frame_id, json.dumps(at.part_id))
            self._execute("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", values)
        for camera, a in alarms.items():
            alarm = (camera, a.condition, a.since_ns, a.count, a.seq, a.score)
            self._execute("INSERT OR REPLACE INTO alarm VALUES (?, ?, ?, ?, ?, ?)", alarm)

    def mark_sent(self, seqs: Iterable[int], at_ms: int) -> int:
        """Mark rows as acknowledged; the number of those that were not yet."""
        statement = "UPDATE row SET sent_ms = ? WHERE seq = ? AND sent_ms IS NULL"
        return sum(self._execute(statement, (at_ms, seq)).rowcount for seq in seqs)

    def purge(self, until_ms: int, limit: int) -> int:
        """Delete up to `limit` rows that were acknowledged at or before a time, oldest first; the number deleted."""
        statement = "DELETE FROM row WHERE seq IN (SELECT seq FROM row WHERE sent_ms <= ? ORDER BY sent_ms LIMIT ?)"
        return self._execute(statement, (until_ms, limit)).rowcount

    def unsent(self, after_seq: int, limit: int) -> list[Row]:
        """The first unacknowledged rows after a number, in order."""
        statement = "SELECT seq, body, events FROM row WHERE sent_ms IS NULL AND seq > ? ORDER BY seq LIMIT ?"
        rows = self._execute(statement, (after_seq, limit)).fetchall()
        return [Row(seq, json.loads(body), tuple(json.loads(events))) for seq, body, events in rows]

    def count_unsent(self) -> int:
        """Number of unacknowledged rows."""
        return int(self._one("SELECT COUNT(*) FROM row WHERE sent_ms IS NULL"))

    def next_seq(self) -> int:
        """The next number to give."""
        return int(self._one("SELECT next_seq FROM station"))

    def positions(self) -> dict[str, Position]:
        """Camera -> its last part."""
        rows = self._execute("SELECT camera, frame_id, part_id FROM position")
        return {camera: Position(frame_id, json.loads(part_id)) for camera, frame_id, part_id in rows}

    def alarms(self) -> dict[str, AlarmState]:
        """Camera -> the state of its defect alarm."""
        rows = self._execute("SELECT camera, condition, since_ns, count, seq, score FROM alarm")
        return {camera: AlarmState(*values) for camera, *values in rows}

    def used_pages(self) -> int:
        """Pages of the file that hold something."""
        return int(self._one("PRAGMA page_count")) - self.free_pages()

    def free_pages(self) -> int:
        """Pages of the file that hold nothing any more."""
        return int(self._one("PRAGMA freelist_count"))

    def limit(self, pages: int, log_pages: int) -> None:
        """Set the largest size of the file, and how many pages its log may gather before they move into the file."""
        self._execute(f"PRAGMA max_page_count={pages}")
        self._execute(f"PRAGMA wal_autocheckpoint={log_pages}")

    def give_back(self, pages: int) -> None:
        """Return up to so many free pages to the file system; the file gets shorter.

        Raises:
            DiskFullError: there is no room in the log for the pages that have to move.
        """
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

    def _prepare(self, station: str) -> None:
        self._execute("PRAGMA locking_mode=EXCLUSIVE")  # before anything is read: then there is no shared-memory file
        if self._one("PRAGMA page_count") == 0:  # these are chosen when the file is made
            self._execute(f"PRAGMA page_size={PAGE_BYTES}")
            self._execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._execute("PRAGMA temp_store=MEMORY")
        if self._one("PRAGMA journal_mode=WAL") != "wal":
            raise OutboxError(f"the outbox {self._path} is on a file system without a write-ahead log: see state_dir")
        layout = self._one("PRAGMA user_version")
        if layout == 0:
            self._make_tables(station)
        elif layout != LAYOUT:
            raise OutboxError(f"the outbox {self._path} has layout {layout}, this edge-ad reads {LAYOUT}: update one")
        self._check(station)

    def _make_tables(self, station: str) -> None:
        with self.transaction():
            for statement in filter(str.strip, _TABLES.split(";")):
                self._execute(statement)
            self._execute("INSERT INTO station VALUES (?, 1)", (station,))
            self._execute(f"PRAGMA user_version={LAYOUT}")

    def _check(self, station: str) -> None:
        found = self._one("PRAGMA quick_check(1)")
        if found != "ok":
            raise self._damaged(str(found))
        if self.next_seq() <= int(self._one("SELECT COALESCE(MAX(seq), 0) FROM row")):
            raise self._damaged("its next number is already given")
        owner = self._one("SELECT name FROM station")
        if owner != station:
            raise OutboxError(f"the outbox {self._path} belongs to station {owner}: give {station} its own state_dir")

    def _damaged(self, what: str) -> OutboxError:
        return OutboxError(
            f"the outbox {self._path} is damaged ({what}): check the disk, then move the file away; "
            "numbering then starts at 1 again and unsent results are lost"
        )

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with self._errors_named():
            return self._db.execute(statement, values)

    def _one(self, statement: str) -> Any:
        with self._errors_named():
            return self._db.execute(statement).fetchone()[0]

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if str(error) == _FULL:
                raise DiskFullError(f"no room for the outbox {self._path}: free some disk space") from error
            if str(error) == _BUSY:
                raise OutboxError(f"the outbox {self._path} is in use: does another edge-ad run on it?") from error
            raise OutboxError(f"cannot use the outbox {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
