"""The daemon as an edge node: killed, the broker says so under the right number; started again, nothing is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("google.protobuf", reason="protobuf, with which the host reads, is not installed")

from edge_ad.cli import main
from tests.broker import Broker, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon, wait_until
from tests.sparkplug_host import Host
from tests.station import calibrate, write_config, write_parts


@pytest.fixture
def host(broker: Broker) -> Iterator[Host]:
    host = Host(broker, "plant/cell-7", host_id="scada")
    yield host
    host.close()


@pytest.fixture
def config(tmp_path: Path, broker: Broker) -> Path:
    """A station that waits for a host, with ten parts to look at."""
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    write_parts(tmp_path / "parts", 10)
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait"}
    sparkplug = {"group_id": "plant", "primary_host_id": "scada", "resend_s": 10.5}
    sections = {"mqtt": mqtt_config(broker, keepalive_s=5), "sparkplug": sparkplug}
    return write_config(tmp_path / "station.yaml", bundle, camera, sections)


def test_a_killed_daemon_is_dead_under_its_number_and_misses_nothing(
    tmp_path: Path, config: Path, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.say_state(online=True)
    with running_daemon(config) as daemon:
        host.wait_for_parts(10)
        daemon.kill()
    deaths = host.wait_for("NDEATH")
    assert [each.metrics["bdSeq"].value for each in deaths] == [0] == [host.books.bdseq]

    write_parts(tmp_path / "parts", 14)  # the first ten are the same again
    host.say_state(online=False)
    with running_daemon(config) as daemon:
        daemon.wait_for_log("cell-7-sparkplug")
        assert main(["check", str(config)]) == 0
        assert "births and data wait for primary host scada: it is offline" in capsys.readouterr().out
        assert len(host.heard("NBIRTH")) == 1
        host.say_state(online=True)
        parts = host.wait_for_parts(14)
        wait_until(lambda: host.books.values["Inspection/Seq"] == 14)
        assert host.books.bdseq == 1
        assert [parts[seq][-1].metrics["Inspection/Part Id"].value for seq in (1, 14)] == [
            "part-0000.png",
            "part-0013.png",
        ]
        assert main(["check", str(config)]) == 0
        assert "hosts: scada" in capsys.readouterr().out
        assert daemon.terminate() == 0
    host.wait_for("NDEATH", 2)
    host.assert_rules()
