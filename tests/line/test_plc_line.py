"""The line as a controller sees it: the virtual PLC's report equals what was fed, whatever is killed on the way."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.broker import Broker, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon, wait_until
from tests.line.witness import Clerk, Witness
from tests.plc import PlcSim
from tests.station import calibrate, write_config, write_parts

QUIET_S = 0.5
PATIENT = ("--stall-s", "30", "--deadline-s", "30")  # a loaded machine is no fault of the line


def test_the_virtual_plc_reports_what_was_fed_over_killed_daemons_and_a_killed_broker(
    tmp_path: Path, make_broker: Callable[..., Broker]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    truth = write_parts(tmp_path / "parts", 90)
    broker = make_broker(options="max_inflight_messages 1000")  # acknowledged is then on the wire to the PLC as well
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "interval_s": 0.02}
    config = write_config(tmp_path / "station.yaml", bundle, camera, {"mqtt": mqtt_config(broker)})
    with PlcSim(tmp_path, broker, "cell-7", "--count", str(len(truth)), *PATIENT) as plc:
        plc.wait_until_it_said("listening")
        broker.restart()  # from here on, the PLC's session is on the broker's disk
        plc.wait_until_it_said("broker   online", times=2)
        with running_daemon(config) as daemon:
            plc.wait_until_it_said("defect raised", times=4)
            daemon.kill()
        with running_daemon(config) as daemon:
            plc.wait_until_it_said("defect raised", times=8)
            # What it has acknowledged and not yet passed on, a killed broker loses (docs/mqtt.md): let it pass on all.
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(QUIET_S)
            broker.kill()
            daemon.process.send_signal(signal.SIGCONT)
            daemon.wait_for_log("connection refused")
            broker.start()
            assert daemon.wait() == 0
        with running_daemon(config) as daemon:  # whatever the last one could not deliver in time
            assert daemon.wait() == 0
        assert plc.wait() == 0, plc.said()
        report = plc.report()
    assert {part["part_id"]: part["verdict"] for part in report["parts"]} == truth
    assert [part["seq"] for part in report["parts"]] == list(range(1, len(truth) + 1))
    assert {verdict: count for verdict, count in report["verdicts"].items() if count} == Counter(truth.values())
    assert (report["ok"], report["faults"], report["missing"], report["gaps"]) == (True, {}, [], [])
    assert report["boots"] >= 2
    alarm = next(alarm for alarm in report["alarms"] if alarm["alarm"] == "defect")
    assert alarm["events"]["raised"] == Counter(truth.values())["defect"]
    assert (alarm["state"], alarm["agrees"]) == ("normal", True)


def test_what_a_killed_broker_has_lost_the_virtual_plc_asks_for_to_the_last_part(
    tmp_path: Path, broker: Broker, subscriber: Subscriber
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    truth = write_parts(tmp_path / "parts", 60)
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait", "interval_s": 0.02}
    sections = {"mqtt": mqtt_config(broker), "commands": {"enabled": True}}
    config = write_config(tmp_path / "station.yaml", bundle, camera, sections)
    with PlcSim(tmp_path, broker, "cell-7", "--count", "60", "--replay", *PATIENT) as plc:
        plc.wait_until_it_said("listening")
        broker.restart()  # from here on, its session is on the broker's disk
        plc.wait_until_it_said("broker   online", times=2)
        with running_daemon(config) as daemon:
            plc.wait_until_it_said("defect raised")
            plc.process.send_signal(signal.SIGSTOP)  # beyond twenty messages, the broker holds for it what comes
            subscriber.wait_for(lambda results: len(results) >= 60, "/result")
            time.sleep(QUIET_S)
            broker.kill()
            broker.start()
            plc.process.send_signal(signal.SIGCONT)
            assert plc.wait() == 0, plc.said()
            assert daemon.terminate() == 0
        report = plc.report()
    assert {part["part_id"]: part["verdict"] for part in report["parts"]} == truth
    assert (report["ok"], report["faults"], report["missing"], report["missing_events"]) == (True, {}, [], [])
    assert report["replayed"] > 0
    assert report["replays"]["asked"] > 0


def test_what_a_killed_broker_has_lost_the_clerk_asks_for_on_the_witness_s_behalf(
    tmp_path: Path, broker: Broker, subscriber: Subscriber
) -> None:
    """The other consumer of the stress test: it uses nothing of the package."""
    bundle = make_bundle(tmp_path / "bundle")
    calibrate(bundle)
    write_parts(tmp_path / "parts", 60)
    camera = {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": "wait", "interval_s": 0.02}
    sections = {"mqtt": mqtt_config(broker), "commands": {"enabled": True}}
    config = write_config(tmp_path / "station.yaml", bundle, camera, sections)
    with Witness(tmp_path, broker) as witness:
        clerk = Clerk(witness, broker, "cell-7")
        broker.restart()  # from here on, its session is on the broker's disk
        with running_daemon(config) as daemon:
            wait_until(lambda: '"seq":3,' in witness.path.read_text())
            with witness.stopped():
                subscriber.wait_for(lambda results: len(results) >= 60, "/result")
                time.sleep(QUIET_S)
                broker.kill()
                broker.start()
            wait_until(lambda: clerk.mend() and clerk.has_all(60))
            assert daemon.terminate() == 0
    assert clerk.asked > 0
