"""The real daemon as a process, and the service manager's side of the notify protocol."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 60.0  # far beyond what anything here takes; a test that meets it has failed


class Daemon:
    """`edge-ad run` in a process of its own; its log goes to a file. `inside` begins its command: another host."""

    def __init__(
        self, config: Path, environment: Mapping[str, str] | None = None, inside: Sequence[str] = (), log: str = ".log"
    ) -> None:
        self._log = config.with_suffix(log)
        with self._log.open("wb") as log_file:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-m", "edge_ad.cli", "run", str(config)],
                stderr=log_file,
                env={**clean_environment(), **(environment or {})},
            )

    def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def terminate(self) -> int:
        """SIGTERM, as systemctl stop does; the exit code."""
        self.process.terminate()
        return self.wait()

    def logged(self) -> str:
        """All that it has logged."""
        return self._log.read_text()

    def wait_for_log(self, text: str) -> None:
        """Wait until it has logged a text."""
        wait_until(lambda: text in self.logged() or self.process.poll() is not None)
        assert text in self.logged(), self.logged()


@contextmanager
def running_daemon(
    config: Path, environment: Mapping[str, str] | None = None, inside: Sequence[str] = ()
) -> Iterator[Daemon]:
    """A daemon that is gone at the end of the block, whatever happened in it."""
    daemon = Daemon(config, environment, inside)
    try:
        yield daemon
    finally:
        daemon.kill()


def clean_environment() -> dict[str, str]:
    """This process's environment without what a service manager around it may have set."""
    theirs = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"}
    return {name: value for name, value in os.environ.items() if name not in theirs}


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition; fails the test if it does not come true."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class ServiceManager:
    """Listens as systemd does on NOTIFY_SOCKET."""

    def __init__(self, folder: Path, watchdog_s: float) -> None:
        self._path = folder / "notify"
        self._watchdog_s = watchdog_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self.seen: list[str] = []

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def environment(self) -> dict[str, str]:
        """What a service gets to know."""
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(round(self._watchdog_s * 1e6))}

    def receive(self, timeout_s: float) -> str | None:
        """The next message, or None if there is none for so long."""
        self._socket.settimeout(timeout_s)
        try:
            message = self._socket.recv(4096).decode()
        except (TimeoutError, BlockingIOError):
            return None
        self.seen.append(message)
        return message

    def wait_for(self, wanted: str) -> str:
        """Take messages until one contains `wanted`."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            message = self.receive(DEADLINE_S)
            if message is not None and wanted in message:
                return message
        raise AssertionError(f"no {wanted} among {self.seen}")
