"""What of the edge node outlives the process: bdSeq, and how far the rows of the outbox are told.

One short line, overwritten in place: that hardly ever needs room. Where it does and there is none, the station goes on
with what it has in memory: a host may then see a bdSeq again, and rows once more, but no result waits.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

from loguru import logger

from edge_ad.errors import ConfigError
from edge_ad.sparkplug.session import SEQUENCE

_LINE = re.compile(rb"(\d{3}) (\d{20})\n")


class StateFile:
    """The file, open; its methods may be called from any thread.

    Attributes:
        settled_id: the last row that has arrived; 0 if none has.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ConfigError: it cannot be opened.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot use {path}: {error.strerror}; see state_dir") from error
        self._lock = threading.Lock()
        self._problem = ""
        self._bdseq, self.settled_id = self._read(path)

    def next_bdseq(self) -> int:
        """The number of the next CONNECT, one more than the last; durable.

        [tck-id-message-flow-edge-node-birth-publish-will-message-payload-bdSeq]
        """
        with self._lock:
            self._bdseq = (self._bdseq + 1) % SEQUENCE
            self._write(durable=True)
            return self._bdseq

    def settle(self, row_id: int) -> None:
        """Note how far the rows are told; after a power cut, some of them may be told once more."""
        if row_id != self.settled_id:
            with self._lock:
                self.settled_id = row_id
                self._write()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self, path: Path) -> tuple[int, int]:
        content = os.pread(self._file, 64, 0)
        found = _LINE.fullmatch(content)
        if found is not None:
            return int(found[1]) % SEQUENCE, int(found[2])
        if content:
            logger.warning("{} is damaged: bdSeq begins at 0, and hosts get all rows that are left as history", path)
            os.ftruncate(self._file, 0)
        return SEQUENCE - 1, 0

    def _write(self, *, durable: bool = False) -> None:
        problem = ""
        try:
            os.pwrite(self._file, b"%03d %020d\n" % (self._bdseq, self.settled_id), 0)
            if durable:
                os.fsync(self._file)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem and problem != self._problem:
            logger.error("the state of the Sparkplug node cannot be written: {}; it goes on in memory", problem)
        self._problem = problem
