"""A sensor's parts are announced once each, with the time at which they came."""

from __future__ import annotations

import itertools
import time

from edge_ad.config import FreeTrigger, IntervalTrigger
from edge_ad.trigger_sensor import Interval, SensorThread, open_sensor
from tests.daemons import wait_until


class Parts:
    """A sensor whose parts are known beforehand."""

    def __init__(self, *batches: list[int]) -> None:
        self._batches = list(batches)
        self.closed = False

    def wait(self, _timeout_s: float) -> list[int]:
        return self._batches.pop(0) if self._batches else []

    def close(self) -> None:
        self.closed = True


def test_an_interval_announces_what_was_due_and_nothing_twice() -> None:
    clock = Interval(0.01)
    assert clock.wait(0.0) == []
    time.sleep(0.035)
    due = clock.wait(0.0)
    assert len(due) >= 3
    assert {later - earlier for earlier, later in itertools.pairwise(due)} == {10_000_000}
    (following, *_) = clock.wait(1.0)
    assert following == due[-1] + 10_000_000


def test_an_interval_begins_when_somebody_waits_for_it() -> None:
    """A daemon opens it first and takes frames last: what goes by in between are no parts."""
    clock = Interval(0.01)
    time.sleep(0.05)
    began_ns = time.monotonic_ns()
    (first, *_) = clock.wait(1.0)
    assert first >= began_ns + 10_000_000


def test_the_thread_announces_every_part_of_its_sensor_until_it_is_stopped() -> None:
    parts = Parts([10], [20, 30])
    announced: list[int] = []
    thread = SensorThread(parts, announced.append)
    thread.start()
    wait_until(lambda: len(announced) == 3)
    thread.stop()
    assert announced == [10, 20, 30]
    assert parts.closed


def test_only_a_clock_and_an_input_line_are_sensors() -> None:
    assert open_sensor(FreeTrigger()) is None
    assert isinstance(open_sensor(IntervalTrigger(kind="interval", interval_s=1.0)), Interval)
