"""Runs of whole numbers, and what is missing between those that were heard of."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Ids of rows, or numbers of parts or alarm events: from `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        """How many numbers there are in it."""
        return self.last - self.first + 1


class Spans:
    """A set of whole numbers that come in runs; what it costs depends on the runs, not on the numbers."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """The numbers of these spans, which may be in any order and overlap."""
        self._firsts: list[int] = []  # of the runs, which neither touch nor overlap, in order
        self._lasts: list[int] = []
        for span in spans:
            self.add(span)

    def __iter__(self) -> Iterator[Span]:
        """The runs, in order."""
        return (Span(first, last) for first, last in zip(self._firsts, self._lasts, strict=True))

    def __bool__(self) -> bool:
        """Whether there is any number in it."""
        return bool(self._firsts)

    def __contains__(self, number: int) -> bool:
        """Whether a number is in it."""
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def count(self) -> int:
        """How many numbers are in it."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, span: Span) -> None:
        """Put these numbers in."""
        low, high = bisect_left(self._lasts, span.first - 1), bisect_right(self._firsts, span.last + 1)
        first = min([span.first, *self._firsts[low:high]])
        last = max([span.last, *self._lasts[low:high]])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def discard(self, span: Span) -> None:
        """Take these numbers out."""
        low, high = bisect_left(self._lasts, span.first), bisect_right(self._firsts, span.last)
        if low >= high:
            return
        left = [Span(first, span.first - 1) for first in self._firsts[low : low + 1] if first < span.first]
        left += [Span(span.last + 1, last) for last in self._lasts[high - 1 : high] if last > span.last]
        self._firsts[low:high] = [each.first for each in left]
        self._lasts[low:high] = [each.last for each in left]

    def within(self, others: Iterable[Span]) -> Spans:
        """The numbers that are in one of these spans, too."""
        found = Spans()
        for other in others:
            for place in range(bisect_left(self._lasts, other.first), bisect_right(self._firsts, other.last)):
                found.add(Span(max(self._firsts[place], other.first), min(self._lasts[place], other.last)))
        return found

    def without(self, others: Iterable[Span]) -> Spans:
        """The numbers that are in none of these spans."""
        found = Spans(self)
        for other in others:
            found.discard(other)
        return found


class Heard:
    """Which numbers were heard of, of those that count up without a hole; and so which ones are missing."""

    def __init__(self) -> None:
        """None was; the first one says where to begin."""
        self.first: int | None = None
        self.last = 0
        self.missing = Spans()

    def take(self, span: Span) -> None:
        """These were heard of."""
        if self.first is None:
            self.first, self.last = span.first, span.last
        if span.last + 1 < self.first:
            self.missing.add(Span(span.last + 1, self.first - 1))
        self.expect(span.first - 1)
        self.missing.discard(span)
        self.first, self.last = min(self.first, span.first), max(self.last, span.last)

    def expect(self, last: int) -> None:
        """There are numbers up to this one; says nothing before the first one was heard of."""
        if self.first is not None and last > self.last:
            self.missing.add(Span(self.last + 1, last))
            self.last = last
