"""Two hosts and the cable between them: network namespaces, and a link that can be cut and delayed.

The cable is a thread that carries packets between two TUN devices, one in each namespace. So it needs root and
/dev/net/tun, but none of the kernel's traffic shapers, which many kernels are built without.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000  # bare IP packets
MTU = 1500
TURN_S = 0.2
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Host:
    """A network namespace; `inside` begins the command of a process that runs there."""

    namespace: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/run/netns/{self.namespace}")


@dataclass
class _Way:
    """One direction: packets from `source` to `target`, each with the time when it arrives."""

    source: int
    target: int
    packets: deque[tuple[float, bytes]] = field(default_factory=deque)


class Cable:
    """Carries packets both ways until `close`; `cut`, `delay` and `mend` may be called at any time."""

    def __init__(self, one: int, other: int) -> None:
        """Take two TUN devices, open and not blocking."""
        self._ways = (_Way(one, other), _Way(other, one))
        self._delay_s = 0.0
        self._whole = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="cable", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing arrives, not even what is on its way."""
        self._whole = False

    def delay(self, seconds: float) -> None:
        """From now on everything takes so long, each way."""
        self._delay_s = seconds

    def mend(self) -> None:
        """As new."""
        self._whole, self._delay_s = True, 0.0

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._thread.join()

    def _run(self) -> None:
        ways = {way.source: way for way in self._ways}
        while not self._closing:
            for source in select.select(list(ways), [], [], self._pause_s())[0]:
                self._take(ways[source])
            for way in self._ways:
                self._deliver(way)

    def _pause_s(self) -> float:
        """Until the next packet arrives."""
        due_s = min((way.packets[0][0] for way in self._ways if way.packets), default=float("inf"))
        return min(TURN_S, max(0.0, due_s - time.monotonic()))

    def _take(self, way: _Way) -> None:
        packet = os.read(way.source, 2 * MTU)
        if self._whole:
            earliest_s = way.packets[-1][0] if way.packets else 0.0  # in order, also when the delay gets shorter
            way.packets.append((max(earliest_s, time.monotonic() + self._delay_s), packet))

    def _deliver(self, way: _Way) -> None:
        if not self._whole:
            way.packets.clear()
        while way.packets and way.packets[0][0] <= time.monotonic():
            os.write(way.target, way.packets.popleft()[1])


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host, Cable]]:
    """Two hosts and their cable, gone at the end of the block; skips the test where that cannot be had."""
    _needs_network()
    number = f"{os.getpid()}-{next(_NUMBERS)}"
    hosts = tuple(Host(f"edge-ad-{number}-{end}", f"10.77.0.{end}") for end in (1, 2))
    with ExitStack() as stack:
        devices = []
        for host, peer in zip(hosts, reversed(hosts), strict=True):
            _ip("netns", "add", host.namespace)
            stack.callback(_ip, "netns", "del", host.namespace)
            devices.append(_tun_device(host, peer))
            stack.callback(os.close, devices[-1])
        cable = Cable(*devices)
        stack.callback(cable.close)
        yield (*hosts, cable)


def _tun_device(host: Host, peer: Host) -> int:
    """The open end of a device in a host's namespace that leads to another host."""
    name = f"ea{os.getpid() % 1_000_000:x}{host.address[-1]}"
    device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    _ip("link", "set", name, "netns", host.namespace)
    _ip("-n", host.namespace, "link", "set", "lo", "up")
    _ip("-n", host.namespace, "addr", "add", host.address, "peer", peer.address, "dev", name)
    _ip("-n", host.namespace, "link", "set", name, "mtu", str(MTU), "up")
    return device


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


def _needs_network() -> None:
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0 or not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"only root, with {TUN}, can lay a cable between two network namespaces")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("network namespaces cannot be made here")
