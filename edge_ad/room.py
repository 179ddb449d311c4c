"""How much room the outbox has, and the reserve that lets it end well when there is none left."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from edge_ad.errors import OutboxError
from edge_ad.outbox_file import DiskFullError, OutboxFile

KB = 1 << 10
MB = 1 << 20
RETRY_S = 1.0  # how often to look whether there is more room again
PURGE_ROWS = 2000
VACUUM_BYTES = 256 * KB
VACUUM_STEPS = 32
ANY_TIME_MS = 2**62
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Room(IntEnum):
    """How much room there is."""

    AMPLE = 0  # for whole results
    SCARCE = 1  # for parts without a verdict, out of the reserve
    NONE = 2  # for a gap record, which grows in place
    LAST = 3  # likewise, and the reserve is used up


@dataclass(frozen=True, slots=True)
class _Limits:
    """What is allowed with so much room.

    Attributes:
        reserve_bytes: size of the reserve file; the rest of it was given up for the outbox to use.
        beyond_bytes: how much larger than `max_mb` the outbox may be.
        log_bytes: what the log may gather before it moves into the file, which must have room for it.
    """

    reserve_bytes: int
    beyond_bytes: int
    log_bytes: int


LIMITS = {
    Room.AMPLE: _Limits(6 * MB, -4 * MB, MB),
    Room.SCARCE: _Limits(2 * MB, 0, 32 * KB),
    Room.NONE: _Limits(256 * KB, 256 * KB, 32 * KB),
    Room.LAST: _Limits(0, 256 * KB, 32 * KB),
}
_SPARE_BYTES = 256 * KB  # free, before an improvement counts as one


class RoomKeeper:
    """Finds room for an outbox file, or settles for less, in steps; and takes it back when there is more."""

    def __init__(self, file: OutboxFile, reserve: Path, max_mb: int) -> None:
        """Look how much room there is.

        Raises:
            OutboxError: the reserve file cannot be used.
        """
        self._file = file
        self._reserve = DiskReserve(reserve)
        self._max_bytes = max_mb * MB
        self._look_at_s = 0.0
        self.room = Room.LAST
        self._limit(Room.LAST)  # until more is found: a log as large as SQLite lets it grow would take what is left
        self.look()
        if self.room is Room.LAST:
            self._enter(Room.LAST)

    def look(self) -> None:
        """See whether there is more room than there was, now and then."""
        if self.room is Room.AMPLE or time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + RETRY_S
        self._give_back()
        used = self._file.used_bytes()
        for better in list(Room)[: self.room]:
            fits = used + _SPARE_BYTES < self._max_bytes + LIMITS[better].beyond_bytes
            if fits and self._reserve.grow(LIMITS[better].reserve_bytes):
                self._enter(better)
                return

    def is_tight(self) -> bool:
        """Whether the file is about to reach the size that is allowed; what the disk has left does not count."""
        return self._file.used_bytes() + _SPARE_BYTES >= self._max_bytes + LIMITS[Room.AMPLE].beyond_bytes

    def make_do(self) -> bool:
        """After a write that found no room: find some, or settle for less. False if nothing is left to be done."""
        if self.purge():
            return True
        if self.room is Room.LAST:
            return False
        self._look_at_s = time.monotonic() + RETRY_S
        self._enter(Room(self.room + 1))
        return True

    def close(self) -> None:
        """Close the reserve; its space stays put aside."""
        self._reserve.close()

    def purge(self) -> bool:
        """Drop rows that were only kept for a replay; whether there were any."""
        try:
            with self._file.transaction(durable=False):
                return self._file.purge(ANY_TIME_MS, PURGE_ROWS) > 0
        except DiskFullError:
            return False

    def _give_back(self) -> None:
        """Let the file shrink, so that the reserve can grow; in steps, for what moves goes through the log."""
        with suppress(DiskFullError):  # then others have taken the disk, and it is for them to free it
            for _ in range(VACUUM_STEPS):
                if self._file.free_bytes() < VACUUM_BYTES:
                    return
                self._file.give_back(VACUUM_BYTES)

    def _enter(self, room: Room) -> None:
        self.room = room
        self._reserve.shrink(LIMITS[room].reserve_bytes)
        self._limit(room)
        if room > Room.AMPLE:
            with suppress(DiskFullError):  # then the next write meets it as well, and knows what to do
                self._file.empty_log()

    def _limit(self, room: Room) -> None:
        limits = LIMITS[room]
        self._file.limit(self._max_bytes + limits.beyond_bytes, limits.log_bytes)


class DiskReserve:
    """A file of allocated blocks; cut short, it gives that space to whoever needs it on the same file system."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            OutboxError: it cannot be opened.
        """
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxError(f"cannot open {path}: {error.strerror}") from error

    def grow(self, size_bytes: int) -> bool:
        """Allocate at least so much; False, and as large as before, where the disk has no room for it.

        Raises:
            OutboxError: the file cannot be changed for another reason.
        """
        before = os.fstat(self._fd).st_size
        try:
            os.posix_fallocate(self._fd, 0, max(1, size_bytes))
        except OSError as error:
            self.shrink(before)  # a failed allocation may keep what it got
            if error.errno in _NO_SPACE:
                return False
            raise OutboxError(f"cannot allocate {self._path}: {error.strerror}") from error
        return True

    def shrink(self, size_bytes: int) -> None:
        """Give up all but `size_bytes`.

        Raises:
            OutboxError: the file cannot be changed.
        """
        try:
            os.ftruncate(self._fd, min(size_bytes, os.fstat(self._fd).st_size))
        except OSError as error:
            raise OutboxError(f"cannot shrink {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; the space stays put aside."""
        os.close(self._fd)
