"""The shipped broker configuration starts, lets each role do its work, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_ad.config import MqttConfig
from edge_ad.core.messages import StationContext
from edge_ad.errors import PublishError
from edge_ad.mqtt import Listener
from edge_ad.progress import Progress
from edge_ad.publisher import Publisher
from edge_ad.records import CameraState
from tests.broker import Tls, accepts, free_port, make_tls, needs, write_passwords
from tests.daemons import wait_until
from tests.edge_ad.test_publisher import HEALTH, part, station, submitted

CONFIGS = Path(__file__).parents[1] / "configs" / "mosquitto"
USERS = {user: f"{user}-secret" for user in ("press-3", "press-4", "plc", "mes", "operator", "engineer", "scada")}


@dataclass(frozen=True)
class Installed:
    """The shipped configuration, as installed on this machine for one test."""

    folder: Path
    port: int
    tls_port: int
    tls: Tls

    def login(self, user: str) -> dict[str, str]:
        """A station's settings for a user."""
        secret = self.folder / f"{user}.password"
        secret.write_text(USERS[user])
        return {"username": user, "password_file": str(secret)}

    def publish(self, user: str, topic: str) -> bool:
        """Whether the broker takes a message from a user."""
        command = ["mosquitto_pub", *self._options(user), "-t", topic, "-m", "x", "-q", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return "Not authorized" not in done.stderr

    def reads(self, user: str, topic: str) -> bool:
        """Whether a user gets a message that the station published retained."""
        command = ["mosquitto_sub", *self._options(user), "-t", topic, "-C", "1", "-W", "1"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0

    def _options(self, user: str) -> list[str]:
        return ["-p", str(self.port), "-V", "mqttv5", "-u", user, "-P", USERS[user], "-i", f"as-{user}"]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    needs("mosquitto", "mosquitto_passwd", "mosquitto_pub", "mosquitto_sub")
    tls = make_tls(tmp_path / "tls")
    write_passwords(tmp_path / "passwords", USERS)
    (tmp_path / "acl").write_bytes((CONFIGS / "acl").read_bytes())
    for name, path in {"ca.crt": tls.ca, "broker.crt": tls.cert, "broker.key": tls.key}.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    found = Installed(tmp_path, free_port(), free_port(), tls)
    text = (CONFIGS / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/edge-ad/", f"{tmp_path}/")
    text = re.sub(r"^listener 8883$", f"listener {found.tls_port} 127.0.0.1", text, flags=re.MULTILINE)
    text = re.sub(r"^listener 1883 ", f"listener {found.port} ", text, flags=re.MULTILINE)
    text += "user root\n" if os.geteuid() == 0 else ""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/edge-ad.conf").write_text(text)
    debian = f"persistence true\npersistence_location {tmp_path}/\n"  # what its own file sets, and may be set once
    (tmp_path / "mosquitto.conf").write_text(f"{debian}include_dir {tmp_path}/conf.d\n")
    with (tmp_path / "log").open("wb") as log:
        broker = subprocess.Popen(["mosquitto", "-c", str(tmp_path / "mosquitto.conf")], stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(found.port) or broker.poll() is not None)
        assert broker.poll() is None, (tmp_path / "log").read_text()
        yield found
    finally:
        broker.kill()
        broker.wait(20)


def test_nobody_comes_in_without_a_password(installed: Installed) -> None:
    stranger = Listener(MqttConfig(port=installed.port), "stranger", None)
    with pytest.raises(PublishError, match=r"mqtt\.username"), stranger:
        pass


def test_a_station_comes_in_by_tls_and_may_publish_all_that_it_has(installed: Installed, tmp_path: Path) -> None:
    tls = {"ca_file": str(installed.tls.ca)}
    mqtt = {"host": "localhost", "port": installed.tls_port, "tls": tls, **installed.login("press-3")}
    context = StationContext("press-3", "boot", "digest", simulated=False)
    publisher = Publisher(station(tmp_path, mqtt), context, Progress())
    publisher.start()
    publisher.set_camera(CameraState("top", "online", "", 0))
    publisher.set_health(HEALTH)
    for number in range(1, 21):
        assert submitted(publisher, part(number, "defect" if number % 3 == 0 else "ok"))
    publisher.stop(20.0)
    assert publisher.failure() is None
    assert publisher.stats().unsent == 0
    for topic in ("status", "camera/top", "health", "alarm/top/defect/state"):
        assert installed.reads("mes", f"edge-ad/press-3/{topic}")
    assert installed.reads("plc", "edge-ad/press-3/status")
    assert installed.reads("press-3", "edge-ad/press-3/health")  # for edge-ad check
    assert not installed.reads("press-4", "edge-ad/press-3/health")
    assert installed.reads("plc", "edge-ad/press-3/health")


@pytest.mark.parametrize(
    ("user", "topic", "allowed"),
    [
        ("press-3", "edge-ad/press-3/result", True),
        ("press-3", "edge-ad/press-4/result", False),
        ("press-3", "edge-ad/press-3/cmd/acknowledge", False),
        ("plc", "edge-ad/press-3/cmd/acknowledge", True),
        ("plc", "edge-ad/press-3/cmd/trigger", True),
        ("plc", "edge-ad/press-3/cmd/shelve", False),
        ("plc", "edge-ad/press-3/plc", False),
        ("press-3", "edge-ad/press-3/check", True),
        ("mes", "edge-ad/press-3/cmd/acknowledge", False),
        ("mes", "edge-ad/press-3/cmd/replay", True),
        ("operator", "edge-ad/press-3/cmd/snapshot", True),
        ("operator", "edge-ad/press-3/cmd/threshold", False),
        ("operator", "edge-ad/press-3/cmd/replay", False),
        ("engineer", "edge-ad/press-3/cmd/threshold", True),
        ("engineer", "edge-ad/press-3/result", False),
        ("operator", "edge-ad/press-3/cmd/shelve", True),
        ("operator", "edge-ad/press-3/result", False),
        ("press-3", "spBv1.0/plant/NBIRTH/press-3", True),
        ("press-3", "spBv1.0/plant/DDATA/press-3/top", True),
        ("press-3", "spBv1.0/plant/DDATA/press-4/top", False),
        ("press-3", "spBv1.0/STATE/scada", False),
        ("scada", "spBv1.0/STATE/scada", True),
        ("scada", "spBv1.0/plant/NCMD/press-3", True),
        ("scada", "spBv1.0/plant/NBIRTH/press-3", False),
    ],
)
def test_each_role_writes_its_own_topics_only(installed: Installed, user: str, topic: str, allowed: bool) -> None:
    assert installed.publish(user, topic) == allowed
