"""Sensors of parts that are read in a thread of their own: a clock, or an input line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from edge_ad.config import GpioTrigger, IntervalTrigger, TriggerConfig

POLL_S = 0.2  # a wait without a part ends after so long, so that the thread can stop


class Sensor(Protocol):
    """Tells when parts come, used by one thread."""

    def wait(self, timeout_s: float) -> list[int]:
        """The times of new parts, by `time.monotonic_ns`; waits up to `timeout_s` for the first.

        Raises:
            TriggerError: it cannot be read any more.
        """

    def close(self) -> None:
        """Release the device."""


class Interval:
    """A part at a time, at equal intervals (implements `Sensor`)."""

    def __init__(self, interval_s: float) -> None:
        """The first part comes one interval after the first `wait`, which is when frames can be taken."""
        self._interval_ns = round(1e9 * interval_s)
        self._due_ns: int | None = None

    def wait(self, timeout_s: float) -> list[int]:
        """See `Sensor.wait`; what was due while nobody waited comes at once."""
        next_ns = time.monotonic_ns() + self._interval_ns if self._due_ns is None else self._due_ns
        time.sleep(min(timeout_s, max(0.0, (next_ns - time.monotonic_ns()) / 1e9)))
        due = []
        while next_ns <= time.monotonic_ns():
            due.append(next_ns)
            next_ns += self._interval_ns
        self._due_ns = next_ns
        return due

    def close(self) -> None:
        """See `Sensor.close`; there is nothing to release."""


def open_sensor(config: TriggerConfig) -> Sensor | None:
    """The sensor of a configuration; None where triggers come by another way.

    Raises:
        ConfigError: it cannot be opened, and will not be.
        TriggerError: it cannot be opened now.
    """
    if isinstance(config, IntervalTrigger):
        return Interval(config.interval_s)
    if isinstance(config, GpioTrigger):
        from edge_ad.gpio import open_line

        return open_line(config)
    return None


class SensorThread:
    """Announces the parts of a sensor until it is stopped. What the sensor raises ends the thread, and the daemon."""

    def __init__(self, sensor: Sensor, announce: Callable[[int], None]) -> None:
        """Prepare; `announce` is called with the time of each part, by `time.monotonic_ns`."""
        self._sensor = sensor
        self._announce = announce
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trigger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and release the sensor."""
        self._stop.set()
        self._thread.join()
        self._sensor.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for since_ns in self._sensor.wait(POLL_S):
                self._announce(since_ns)
