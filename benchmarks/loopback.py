"""A whole daemon in this process, a real mosquitto, and an independent subscriber that notes when it hears what."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad import daemon
from edge_ad.bundle import Bundle
from edge_ad.config import BackendConfig, load
from tests.broker import Broker, mqtt_config
from tests.daemons import wait_until
from tests.station import write_config


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and when mosquitto_sub received it: wall clock, nanoseconds since the epoch."""

    at_ns: int
    topic: str
    payload: str


def run_station(
    folder: Path, bundle: Bundle, engine: BackendConfig, store: Path, camera: Mapping[str, Any]
) -> tuple[list[Heard], float]:
    """Run the daemon until its camera has no more frames; what was heard of it, and the seconds that it ran."""
    broker = Broker(folder / "broker", options="set_tcp_nodelay true")  # as configs/mosquitto has it
    sections = {"mqtt": mqtt_config(broker), "store": str(store), "backend": engine.model_dump(mode="json")}
    config = load(write_config(folder / "station.yaml", bundle.path, dict(camera), sections))
    broker.start()
    command = ["mosquitto_sub", "-p", str(broker.port), "-V", "mqttv5", "-q", "1", "-i", "receiver", "-F", "%U %t %p"]
    with (folder / "received").open("wb") as output:
        receiver = subprocess.Popen([*command, "-t", "edge-ad/#"], stdout=output)
    try:
        wait_until(lambda: "SUBACK to receiver" in broker.logged())
        began = time.monotonic()
        daemon.run(config)
        seconds = time.monotonic() - began
        wait_until(lambda: b" stopped\n" in (folder / "received").read_bytes())
    finally:
        receiver.kill()
        receiver.wait()
        broker.stop()
    return [_heard(line) for line in (folder / "received").read_text().splitlines()], seconds


def _heard(line: str) -> Heard:
    stamp, topic, payload = line.split(" ", 2)
    seconds, fraction = stamp.split(".")
    return Heard(int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]), topic, payload)
