"""Delays double from the minimum to the maximum, and begin anew after a success."""

from __future__ import annotations

from edge_ad.core.backoff import Backoff


def test_delays_double_up_to_the_maximum() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_reset_begins_at_the_minimum() -> None:
    backoff = Backoff(0.5, 3.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_maximum_below_the_minimum_counts_as_the_minimum() -> None:
    backoff = Backoff(2.0, 1.0)
    assert [backoff.next_s() for _ in range(3)] == [2.0, 2.0, 2.0]
