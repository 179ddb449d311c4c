"""Every fault of security is called by its name wherever somebody looks, and costs neither a result nor a secret.

The places: the log, systemd's status line, `edge-ad check`, and `health` once there is a connection. A real broker.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_ad.config import MqttConfig
from edge_ad.mqtt import MqttLink
from tests.broker import (
    Broker,
    Received,
    Subscriber,
    Tls,
    free_port,
    issue,
    make_authority,
    mqtt_config,
    write_passwords,
)
from tests.bundles import make_bundle
from tests.daemons import DEADLINE_S, ServiceManager, clean_environment, running_daemon
from tests.station import calibrate, write_config, write_parts

PARTS = 12
PASSWORD = "Zq9-hunter2-x7"
USERS = {"cell-7": PASSWORD, "reader": "reader"}
ACL = "user reader\ntopic read edge-ad/#\nuser cell-7\ntopic readwrite edge-ad/cell-7/#\n"


@dataclass(frozen=True)
class Fault:
    """A way in which a plant is wrong.

    Attributes:
        state: what the connection is called.
        said: in every place.
        users, acl, host, expired: of the broker and its certificate.
        strange: the broker's certificate is of an authority that the station does not trust.
        rival: another client uses the station's name.
        check: exit code of `edge-ad check`.
    """

    state: str
    said: str
    users: dict[str, str] = field(default_factory=lambda: USERS)
    acl: str = ACL
    host: str = "localhost"
    expired: bool = False
    strange: bool = False
    rival: bool = False
    check: int = 2

    @property
    def connects(self) -> bool:
        """Whether there is a connection at times, over which `health` tells the fault while it is there."""
        return self.state in ("publish_refused", "lost")


FAULTS = {
    "wrong password": Fault(
        "login_refused", "wrong user name or password for cell-7", users={**USERS, "cell-7": "another"}
    ),
    "wrong authority": Fault("tls_failed", "set mqtt.tls.ca_file to the authority that signed it", strange=True),
    "expired certificate": Fault("tls_failed", "certificate has expired", expired=True),
    "another host's certificate": Fault("tls_failed", "Hostname mismatch", host="broker.example"),
    "access denied": Fault(
        "publish_refused",
        "edge-ad/cell-7/result: Not authorized",
        acl=f"{ACL}topic deny edge-ad/cell-7/result\n",
    ),
    "client id taken over": Fault(
        "lost", "another client seems to have taken over the client id cell-7", rival=True, check=0
    ),
}


@dataclass(frozen=True)
class Plant:
    """A station, and a broker that speaks TLS to it and plain text to the reader.

    Attributes:
        port: where the reader connects.
        shown: the broker's certificate, as it is at the moment.
        right: as it should be.
        backoff_max_s: of the station; a connection that breaks sooner counts as a short one.
    """

    folder: Path
    broker: Broker
    port: int
    shown: Tls
    right: Tls
    backoff_max_s: float

    def logged(self) -> str:
        """What the broker has logged."""
        return self.broker.logged()

    def mqtt(self) -> dict[str, Any]:
        """The station's settings."""
        login = {"username": "cell-7", "password_file": str(self.folder / "password")}
        tls = {"ca_file": str(self.right.ca)}
        return mqtt_config(self.broker, tls=tls, backoff_max_s=self.backoff_max_s, **login)

    def mend(self) -> None:
        """Put right whatever is wrong, and have it read again; a restart would be a fault of its own."""
        configuration = self.folder / "broker0"
        (configuration / "passwords").unlink()
        write_passwords(configuration / "passwords", USERS)
        (configuration / "acl").write_text(ACL)
        shutil.copy(self.right.cert, self.shown.cert)
        shutil.copy(self.right.key, self.shown.key)
        self.broker.reload()


def build(folder: Path, make_broker: Callable[..., Broker], fault: Fault) -> Plant:
    trusted = make_authority(folder / "trusted")
    authority = make_authority(folder / "strange") if fault.strange else trusted
    shown = issue(authority, folder / "shown", fault.host, expired=fault.expired)
    port = free_port()
    broker = make_broker(users=fault.users, acl=fault.acl, tls=shown, options=f"listener {port} 127.0.0.1")
    (folder / "password").write_text(f"{PASSWORD}\n")
    return Plant(folder, broker, port, shown, issue(trusted, folder / "right"), 5.0 if fault.rival else 0.5)


@contextmanager
def rival(plant: Plant) -> Iterator[None]:
    """Another client of the station's name, which comes back whenever it is thrown off."""
    link = MqttLink(MqttConfig.model_validate(plant.mqtt()), "cell-7", None, lambda: None)
    link.start()
    try:
        yield
    finally:
        link.stop(farewell=True)


def configure(plant: Plant) -> Path:
    """A calibrated station that finds some parts to inspect."""
    bundle = make_bundle(plant.folder / "bundle")
    calibrate(bundle)
    write_parts(plant.folder / "parts", PARTS)
    camera = {"kind": "folder", "path": str(plant.folder / "parts"), "at_end": "wait"}
    return write_config(plant.folder / "station.yaml", bundle, camera, {"mqtt": plant.mqtt()})


def check(config: Path, exit_code: int) -> str:
    """What `edge-ad check` says."""
    command = [sys.executable, "-m", "edge_ad.cli", "check", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=clean_environment())
    assert done.returncode == exit_code, done.stdout
    return done.stdout + done.stderr


def tells(fault: Fault) -> Callable[[list[Received]], bool]:
    """Whether the last `health` names a fault."""

    def told(received: list[Received]) -> bool:
        health = json.loads(received[-1].payload) if received else {"publish_refused": "", "last_fault": None}
        last = health["last_fault"] or {"state": "", "detail": ""}
        if fault.state == "publish_refused":
            return fault.said in health["publish_refused"]
        return (last["state"], fault.said in last["detail"]) == (fault.state, True)

    return told


def numbers(received: list[Received]) -> set[int]:
    return {json.loads(message.payload)["seq"] for message in received}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_called_by_its_name_and_costs_no_result_and_no_secret(
    tmp_path: Path, make_broker: Callable[..., Broker], make_subscriber: Callable[..., Subscriber], fault: Fault
) -> None:
    plant = build(tmp_path, make_broker, fault)
    subscriber, config = make_subscriber(plant, ("reader", "reader")), configure(plant)
    with ServiceManager(tmp_path, 60.0) as manager, running_daemon(config, manager.environment()) as daemon:
        with rival(plant) if fault.rival else nullcontext():
            daemon.wait_for_log(fault.said)
            assert f"broker {fault.state} " in manager.wait_for(fault.said)
            if fault.connects:
                subscriber.wait_for(tells(fault), "/health")
            found = check(config, fault.check)
            assert fault.said in found
        plant.mend()
        subscriber.wait_for(lambda results: numbers(results) == set(range(1, PARTS + 1)), "/result")
        if not fault.connects:
            subscriber.wait_for(tells(fault), "/health")
        assert daemon.terminate() == 0
    told = [message.payload for message in subscriber.received()]
    for text in (daemon.logged(), found, *manager.seen, *told):
        assert PASSWORD not in text
