"""What a controller gets over a cable that fails: no verdict that has waited in the kernel's buffers."""

from __future__ import annotations

import time
from pathlib import Path

from tests.broker import Broker, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon, wait_until
from tests.line.ordeal import write_scores
from tests.line.witness import Witness, account
from tests.network import two_hosts
from tests.station import calibrate, write_config

PARTS = 600
RATE_HZ = 50
CUT_S = 7.0  # far beyond stall_s, far below the keep-alive
TOO_OLD_S = 4.5  # far beyond deadline_s + stall_s = 2 s, far below CUT_S


def test_a_verdict_that_left_in_time_arrives_soon_or_never(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    truth = write_scores(tmp_path / "scores.csv", PARTS, seed=1)
    camera = {"kind": "simulated", "scores": "scores.csv", "rate_hz": RATE_HZ, "count": PARTS}
    with two_hosts() as (here, there, cable):
        broker = Broker(tmp_path / "broker", at=there, verbose=False)
        broker.start()
        try:
            sections = {"mqtt": mqtt_config(broker, keepalive_s=60, stall_s=1.0)}
            config = write_config(tmp_path / "station.yaml", bundle, camera, sections)
            with Witness(tmp_path, broker) as witness, running_daemon(config, inside=here.inside) as daemon:
                wait_until(lambda: b"/plc " in witness.path.read_bytes())
                cable.cut()
                time.sleep(CUT_S)
                cable.mend()
                assert daemon.wait() == 0
                wait_until(lambda: b"/status stopped\n" in witness.path.read_bytes())
        finally:
            broker.kill()
    heard = account(witness.path, truth, most_lost=0)
    assert heard.faults == ()
    assert "lost" in daemon.logged() or "connection broke" in daemon.logged()
    assert heard.plc_late > 0  # those of the time without a connection
    assert heard.oldest_verdict_s < TOO_OLD_S
