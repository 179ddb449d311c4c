"""systemd's notify and watchdog protocol: one datagram a message, no library (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from edge_ad.names import printable

USEC_PER_S = 1_000_000


class Notifier:
    """Tells the service manager how we are; silent where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        """Read where to send, and how often the watchdog wants to hear from process `pid` (default: this one)."""
        self._address = environment.get("NOTIFY_SOCKET")
        self.watchdog_s = _watchdog_s(environment, os.getpid() if pid is None else pid)

    def ready(self, status: str) -> None:
        """Start-up is done."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._try_to_send(f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """We are alive; due more often than every `watchdog_s`."""
        self._try_to_send("WATCHDOG=1")

    def stopping(self) -> None:
        """We were told to stop and are about to."""
        self._send("STOPPING=1")

    def _try_to_send(self, message: str) -> None:
        """Send unless the manager's queue is full: what it does not read in time must not hold up the inspection."""
        with suppress(BlockingIOError):
            self._send(message, socket.MSG_DONTWAIT)

    def _send(self, message: str, flags: int = 0) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address  # abstract namespace
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(address)
            channel.send(message.encode(), flags)


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which the watchdog wants a sign of life; None if it does not watch this process."""
    usec = environment.get("WATCHDOG_USEC")
    if usec is None or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / USEC_PER_S


def _line(text: str) -> str:
    return " ".join(printable(text).split())
