"""Rules of the notify protocol; the whole of it against the running daemon is in test_daemon.py."""

from __future__ import annotations

import select
import socket
from pathlib import Path

import pytest

from edge_ad.notify import Notifier


def heard(server: socket.socket) -> list[str]:
    messages = []
    while select.select([server], [], [], 0)[0]:
        messages.append(server.recv(4096).decode())
    return messages


def speak(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("up")
    notifier.status("12 fps\nbroker away")
    notifier.watchdog()
    notifier.stopping()


EXPECTED = ["READY=1\nSTATUS=up", "STATUS=12 fps broker away", "WATCHDOG=1", "STOPPING=1"]


def test_each_message_is_one_datagram_and_a_status_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        speak(str(tmp_path / "notify"))
        assert heard(server) == EXPECTED


def test_a_name_that_is_no_utf_8_is_told_all_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).status("camera fault: caf\udce9.png")
        assert heard(server) == ["STATUS=camera fault: caf\\udce9.png"]


def test_an_at_sign_means_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("")  # the kernel chooses an abstract name
        speak("@" + server.getsockname()[1:].decode())
        assert heard(server) == EXPECTED


def test_without_a_service_manager_it_is_silent() -> None:
    notifier = Notifier({})
    notifier.ready("up")
    assert notifier.watchdog_s is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "77"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_PID": "77"}, None),
    ],
)
def test_the_watchdog_counts_only_where_it_watches_this_process(
    environment: dict[str, str], expected: float | None
) -> None:
    assert Notifier(environment, pid=77).watchdog_s == expected
