"""An input line of the device as a sensor of parts; the only file that imports gpiod, the bindings of libgpiod 2."""

from __future__ import annotations

import errno
from datetime import timedelta
from typing import TYPE_CHECKING

from loguru import logger

from edge_ad.config import GpioTrigger
from edge_ad.errors import ConfigError, TriggerError

if TYPE_CHECKING:
    from gpiod import LineRequest

KERNEL_EDGES = 256  # that the kernel keeps until they are read
MISSING = "trigger.kind gpio wants the package gpiod: pip install 'edge-ad[gpio]'"


class GpioLine:
    """The edges of one line, with the times at which the kernel saw them (implements `Sensor`)."""

    def __init__(self, request: LineRequest, name: str) -> None:
        """Take a line that was requested with edge detection, on the monotonic clock."""
        self._request = request
        self._name = name
        self._number = 0  # of the last edge; the kernel counts them from 1

    def wait(self, timeout_s: float) -> list[int]:
        """See `Sensor.wait`.

        Edges that the kernel had no room to keep are parts all the same: each gets the time of the edge after it.
        """
        try:
            edges = self._request.read_edge_events() if self._request.wait_edge_events(timeout_s) else []
        except OSError as error:
            raise TriggerError(f"GPIO {self._name} cannot be read: {error.strerror}") from error
        times_ns: list[int] = []
        for edge in edges:
            lost = edge.line_seqno - self._number - 1
            if lost:
                logger.error("GPIO {}: {} edges came too fast to be read", self._name, lost)
            times_ns += [edge.timestamp_ns] * (lost + 1)
            self._number = edge.line_seqno
        return times_ns

    def close(self) -> None:
        """See `Sensor.close`."""
        self._request.release()


def open_line(config: GpioTrigger) -> GpioLine:
    """Request an input line with edge detection.

    Raises:
        ConfigError: gpiod is not installed, or the chip has no such line.
        TriggerError: the chip is not there (a USB expander comes and goes) or not ours to open, or the line is in use.
    """
    try:
        import gpiod
        from gpiod.line import Bias, Clock, Direction, Edge
    except ImportError as error:
        raise ConfigError(MISSING) from error
    pulls = {"as_is": Bias.AS_IS, "up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "off": Bias.DISABLED}
    settings = gpiod.LineSettings(
        direction=Direction.INPUT,
        edge_detection=Edge.RISING if config.edge == "rising" else Edge.FALLING,
        bias=pulls[config.pull],
        debounce_period=timedelta(milliseconds=config.debounce_ms),
        event_clock=Clock.MONOTONIC,
    )
    name = f"{config.chip} line {config.line}"
    try:
        request = gpiod.request_lines(
            config.chip, {config.line: settings}, consumer="edge-ad", event_buffer_size=KERNEL_EDGES
        )
    except FileNotFoundError as error:
        raise TriggerError(f"no GPIO chip {config.chip}: gpiodetect lists those of this device; see trigger") from error
    except PermissionError as error:
        raise TriggerError(f"{config.chip} may not be opened: let this user into its group, often gpio") from error
    except (OSError, ValueError) as error:
        said = f"{name} cannot be had ({error}): gpioinfo lists lines and who uses them"
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            raise TriggerError(said) from error
        raise ConfigError(said) from error
    return GpioLine(request, name)
