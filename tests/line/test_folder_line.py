"""The line on a folder of images: nothing is lost and nothing counts twice, whatever is killed on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_ad.images import write_png
from tests.broker import Broker, Received, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon
from tests.line.results import assert_gapless, results, verdicts
from tests.station import calibrate, part, write_config, write_parts


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def configure(tmp_path: Path, bundle: Path, broker: Broker, **camera: Any) -> Path:
    fields = {"kind": "folder", "path": str(tmp_path / "parts"), **camera}
    return write_config(tmp_path / "station.yaml", bundle, fields, {"mqtt": mqtt_config(broker)})


def parts_seen(count: int) -> Callable[[list[Received]], bool]:
    return lambda received: len(results(received)) >= count


def test_every_image_has_exactly_one_result_a_damaged_one_too(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    calibrate(bundle)
    truth: dict[str, str] = {**write_parts(tmp_path / "parts", 40)}
    (tmp_path / "parts" / "part-0009.png").write_bytes(b"damaged")
    truth["part-0009.png"] = "not_inspected"
    with running_daemon(configure(tmp_path, bundle, broker)) as daemon:
        assert daemon.wait() == 0
    subscriber.wait_for(parts_seen(len(truth)))
    by_seq = results(subscriber.received())
    assert_gapless(by_seq)
    assert verdicts(by_seq) == truth
    assert [by_seq[seq]["part_id"] for seq in sorted(by_seq)] == list(truth)
    assert by_seq[10]["reason"] == "unreadable"


def test_nothing_is_lost_and_copies_agree_over_killed_daemons_and_a_broker_that_was_away(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    calibrate(bundle)
    truth = write_parts(tmp_path / "parts", 90)
    config = configure(tmp_path, bundle, broker, interval_s=0.02)
    with running_daemon(config) as daemon:
        subscriber.wait_for(parts_seen(15))
        daemon.kill()
    with running_daemon(config) as daemon:
        subscriber.wait_for(parts_seen(30))
        broker.stop()
        daemon.wait_for_log("connection refused")
        daemon.kill()  # with results on disk that no broker has seen
    with running_daemon(config) as daemon:
        daemon.wait_for_log("connection refused")
        broker.start()
        subscriber.wait_for(parts_seen(60))
        broker.restart()
        assert daemon.wait() == 0
    with running_daemon(config) as daemon:  # whatever the last one could not deliver in time
        assert daemon.wait() == 0
    subscriber.wait_for(parts_seen(len(truth)))
    by_seq = results(subscriber.received())
    assert_gapless(by_seq)
    assert verdicts(by_seq) == truth
    frame_ids = [by_seq[seq]["frame_id"] for seq in sorted(by_seq)]
    assert frame_ids == sorted(set(frame_ids))


def test_waiting_a_part_that_came_late_under_an_earlier_name_has_one_result_and_so_have_the_others(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    calibrate(bundle)
    parts = tmp_path / "parts"
    parts.mkdir()
    config = configure(tmp_path, bundle, broker, at_end="wait")
    with running_daemon(config) as daemon:
        for number, name in enumerate(("part-8.png", "part-9.png", "part-7.png"), start=1):
            write_png(parts / name, part(number, defect=False))
            subscriber.wait_for(parts_seen(number))
        daemon.kill()
    write_png(parts / "part-10.png", part(10, defect=False))
    with running_daemon(config) as daemon:
        subscriber.wait_for(parts_seen(4))
        daemon.wait_for_log("3 files that sort up to part-9.png count as inspected")
        assert daemon.terminate() == 0
    by_seq = results(subscriber.received())
    assert_gapless(by_seq)
    assert [by_seq[seq]["part_id"] for seq in sorted(by_seq)] == [f"part-{n}.png" for n in (8, 9, 7, 10)]


def test_a_calibration_applies_while_the_daemon_runs(
    tmp_path: Path, bundle: Path, broker: Broker, subscriber: Subscriber
) -> None:
    parts = tmp_path / "parts"
    write_parts(parts, 2)
    with running_daemon(configure(tmp_path, bundle, broker, at_end="wait")) as daemon:
        subscriber.wait_for(parts_seen(2))
        calibrate(bundle)
        daemon.wait_for_log("calibration 1 in force")
        write_png(parts / "part-1000.png", part(1000, defect=True))
        subscriber.wait_for(parts_seen(3))
        assert daemon.terminate() == 0
    before, _, after = (result for _, result in sorted(results(subscriber.received()).items()))
    assert (before["verdict"], before["reason"], before["calibration"]) == ("not_inspected", "uncalibrated", None)
    assert before["score"] > 0
    assert (after["verdict"], after["reason"], after["calibration"]) == ("defect", None, 1)
    healths = [json.loads(message.payload) for message in subscriber.received("/health")]
    assert [health["calibration"] for health in (healths[0], healths[-1])] == [None, 1]
    assert "edge-ad-calibrate fit" in healths[0]["detail"]
