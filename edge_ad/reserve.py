"""Disk space put aside for the time when there is none left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edge_ad.errors import OutboxError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class DiskReserve:
    """A file of allocated blocks; cut short, it gives that space to whoever needs it on the same file system."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Open or make the file; `fill` allocates it.

        Raises:
            OutboxError: the file cannot be opened.
        """
        self._path = path
        self._size_bytes = size_bytes
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxError(f"cannot open {path}: {error.strerror}") from error

    def fill(self) -> bool:
        """Allocate the whole reserve; False, and as it was before, where the disk has no room for it.

        Raises:
            OutboxError: the file cannot be changed for another reason.
        """
        before = os.fstat(self._fd).st_size
        try:
            os.posix_fallocate(self._fd, 0, self._size_bytes)
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
