"""A real mosquitto on a free loopback port, and an independent subscriber; both are ended by their own process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import wait_until
from tests.network import Host

END_S = 20.0
RUNNING = " running\n"  # how the line ends that mosquitto logs when it listens


@dataclass(frozen=True)
class Tls:
    """A certificate authority and the broker's certificate, made for one test."""

    ca: Path
    cert: Path
    key: Path


class Broker:
    """mosquitto with persistence; `start` and `stop` may be called in turn, the port stays the same.

    Args:
        folder: where its files go.
        users: user -> password; without any, everybody may come in.
        acl: text of the access control list.
        tls: speak TLS, with this certificate.
        options: further lines of its configuration.
        at: where it runs; default: here, on the loopback.
        verbose: log every packet.

    Attributes:
        host, port: where it listens.
        inside: begins the command of whoever wants to run beside it.
    """

    def __init__(
        self,
        folder: Path,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        tls: Tls | None = None,
        options: str = "",
        at: Host | None = None,
        *,
        verbose: bool = True,
    ) -> None:
        needs("mosquitto", "mosquitto_sub", "mosquitto_passwd")
        self.port = free_port()
        self.host = at.address if at is not None else "localhost"
        self.inside = at.inside if at is not None else ()
        self._verbose = verbose
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "mosquitto.log"
        self._log.touch()
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"{self._configuration(users, acl, tls)}\n{options}\n")

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        begun = self.logged().count(RUNNING)
        command = [*self.inside, "mosquitto", "-c", str(self.config), *(["-v"] if self._verbose else [])]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: self.logged().count(RUNNING) > begun or self._ended())
        assert not self._ended(), self.logged()

    def stop(self) -> None:
        """SIGTERM: it saves its sessions and queues."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """SIGHUP: it reads its users, access control list and certificates again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def logged(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(END_S)
            self._process = None

    def _configuration(self, users: dict[str, str] | None, acl: str | None, tls: Tls | None) -> str:
        lines = [
            f"listener {self.port} {'127.0.0.1' if self.host == 'localhost' else self.host}",
            f"allow_anonymous {'false' if users else 'true'}",
            "persistence true",
            f"persistence_location {self._folder}/",
            "max_queued_messages 1000000",  # not 0, which some versions of mosquitto 2.0 get wrong
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it drops to a user who may not read the test's folder
        if users:
            lines.append(f"password_file {write_passwords(self._folder / 'passwords', users)}")
        if acl is not None:
            (self._folder / "acl").write_text(acl)
            lines.append(f"acl_file {self._folder / 'acl'}")
        if tls is not None:
            lines += [f"cafile {tls.ca}", f"certfile {tls.cert}", f"keyfile {tls.key}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Received:
    """One message as the subscriber saw it."""

    topic: str
    payload: str
    retained: bool


class Subscriber:
    """mosquitto_sub, to all but commands, in a persistent session: what it misses while the broker is away comes later.

    Args:
        broker: to connect to.
        folder: where its output goes.
        user: (name, password), where the broker wants one.
    """

    def __init__(self, broker: Broker, folder: Path, user: tuple[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "received.txt"
        command = [
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-p",
            str(broker.port),
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-F",
            "%r %t %p",
        ]
        command += ["-i", f"subscriber-{folder.name}", "-c", "-x", "3600", "-t", "edge-ad/#", "-T", "edge-ad/+/cmd/#"]
        command += ["-u", user[0], "-P", user[1]] if user is not None else []
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        wait_until(lambda: f"SUBACK to subscriber-{folder.name}" in broker.logged())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(END_S)

    def received(self, suffix: str = "") -> list[Received]:
        """What has arrived so far, in order; only topics that end in `suffix`."""
        lines = self._output.read_text().split("\n")[:-1]  # what follows the last line break is still being written
        parts = [line.split(" ", 2) for line in lines]
        return [Received(topic, payload, kept == "1") for kept, topic, payload in parts if topic.endswith(suffix)]

    def wait_for(self, arrived: Callable[[list[Received]], bool], suffix: str = "") -> list[Received]:
        """Wait until what has arrived satisfies a condition."""
        wait_until(lambda: arrived(self.received(suffix)))
        return self.received(suffix)


@dataclass(frozen=True)
class Authority:
    """A certificate authority, made for one test."""

    cert: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """A certificate authority of its own."""
    needs("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "ca.crt", folder / "ca.key")
    # Python 3.13 holds certificates to RFC 5280: an authority must say that it may sign.
    signs = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", f"/CN=CA of {folder.name}"]
    _run(["openssl", "req", "-x509", *_NEW_KEY, "-days", "2", *signs, *_out(authority.key, authority.cert)])
    return authority


def issue(authority: Authority, folder: Path, name: str = "localhost", *, expired: bool = False) -> Tls:
    """A certificate for a host name; it may have expired yesterday."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key, request, extensions = (folder / f"broker.{suffix}" for suffix in ("crt", "key", "csr", "ext"))
    _run(["openssl", "req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", *_out(key, request)])
    extensions.write_text(f"basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:{name}\n")
    signed_by = ["-CA", str(authority.cert), "-CAkey", str(authority.key), "-CAcreateserial"]
    signed_by += ["-extfile", str(extensions), "-days", "-1" if expired else "2"]
    _run(["openssl", "x509", "-req", "-in", str(request), *signed_by, "-out", str(cert)])
    return Tls(authority.cert, cert, key)


def make_tls(folder: Path, name: str = "localhost") -> Tls:
    """A certificate authority of its own and a certificate of it for a host name."""
    return issue(make_authority(folder), folder, name)


def write_passwords(path: Path, users: dict[str, str]) -> Path:
    """A password file for mosquitto."""
    path.touch(mode=0o600)
    for user, password in users.items():
        _run(["mosquitto_passwd", "-b", str(path), user, password])
    return path


def needs(*programs: str) -> None:
    """Skip the test where a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mqtt_config(broker: Broker, **values: Any) -> dict[str, Any]:
    """The `mqtt` section of a station for this broker, quick to reconnect."""
    return {"host": broker.host, "port": broker.port, "backoff_min_s": 0.05, "backoff_max_s": 0.5, **values}


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def _out(key: Path, file: Path) -> list[str]:
    return ["-keyout", str(key), "-out", str(file)]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_S)
    assert done.returncode == 0, done.stderr
