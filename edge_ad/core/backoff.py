"""Exponential back-off: how long to wait before the next try."""

from __future__ import annotations


class Backoff:
    """Delays that double from `min_s` up to `max_s`, until `reset`."""

    def __init__(self, min_s: float, max_s: float) -> None:
        """Begin at `min_s`; a `max_s` below it counts as `min_s`."""
        self._min_s = min_s
        self._max_s = max(min_s, max_s)
        self._next_s = min_s

    def next_s(self) -> float:
        """The delay before the next try, seconds."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._max_s)
        return delay_s

    def reset(self) -> None:
        """A try succeeded: begin at the minimum again."""
        self._next_s = self._min_s
