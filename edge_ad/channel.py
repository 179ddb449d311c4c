"""Bounded hand-over between two threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
Policy = Literal["drop_oldest", "block"]


class Channel(Generic[Item]):
    """A queue of at most `capacity` items.

    `drop_oldest` never makes the producer wait: the newest item wins and `dropped` counts the losses.
    `block` loses nothing: `put` waits for room.
    """

    def __init__(self, capacity: int, policy: Policy) -> None:
        """Make an empty channel; `capacity` is at least 1."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self.policy = policy
        self._closed = False
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, item: Item, timeout_s: float | None = None) -> bool:
        """Hand over an item; False if there was no room within `timeout_s`, or the channel is closed."""
        with self._changed:
            if self.policy == "drop_oldest" and len(self._items) == self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(self._has_room_or_closed, timeout_s)
            if self._closed or len(self._items) >= self._capacity:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> Item | None:
        """Take the oldest item; None if there was none within `timeout_s`, or the channel is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            return self._take()

    def get_all(self, timeout_s: float) -> list[Item]:
        """Take all items, waiting up to `timeout_s` for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            taken = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Refuse further items and wake whoever waits; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Closed, and everything taken."""
        with self._changed:
            return self._closed and not self._items

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)

    def _has_room_or_closed(self) -> bool:
        return self._closed or len(self._items) < self._capacity

    def _take(self) -> Item | None:
        if not self._items:
            return None
        item = self._items.popleft()
        self._changed.notify_all()
        return item
