"""Which stage has started and not finished: what the watchdog asks before it is fed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Stages in flight, over all threads. A stage that outlives its limit is `overdue`; an idle thread never is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no stage in flight; `clock` returns seconds."""
        self._clock = clock
        self._deadlines: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str, limit_s: float) -> Iterator[None]:
        """Run a block as a stage that should finish within `limit_s`."""
        key = (name, threading.get_ident())
        with self._lock:
            self._deadlines[key] = self._clock() + limit_s
        try:
            yield
        finally:
            with self._lock:
                del self._deadlines[key]

    def overdue(self) -> list[str]:
        """Names of the stages that are past their limit right now."""
        now = self._clock()
        with self._lock:
            return [name for (name, _), deadline in self._deadlines.items() if now > deadline]
