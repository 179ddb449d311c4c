"""A simulation through the real daemon: recorded scores and frames, marked as what they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli import main
from tests.broker import Broker, Subscriber, mqtt_config
from tests.bundles import make_bundle
from tests.daemons import running_daemon
from tests.line.results import Result, assert_gapless, results
from tests.line.test_commands_line import give, replies
from tests.station import calibrate, write_config, write_parts

SCORES = (0.1, 0.9, 0.5, 0.51)
VERDICTS = ("ok", "defect", "ok", "defect")
COUNT = 30


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """As `edge-ad-train evaluate --scores` writes it."""
    path = tmp_path / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "score", "verdict"])
        writer.writerows([f"/data/{number}.png", "unlabelled", score, ""] for number, score in enumerate(SCORES))
    return path


def play(tmp_path: Path, broker: Broker, subscriber: Subscriber, **source: Any) -> dict[int, Result]:
    """Play COUNT parts; what the subscriber heard of them."""
    camera = {"kind": "simulated", "rate_hz": 200, "count": COUNT, **source}
    config = write_config(tmp_path / "station.yaml", tmp_path / "bundle", camera, {"mqtt": mqtt_config(broker)})
    assert main(["check", str(config)]) == 0
    with running_daemon(config) as daemon:
        assert daemon.wait() == 0
    subscriber.wait_for(lambda received: len(results(received)) >= COUNT)
    by_seq = results(subscriber.received())
    assert_gapless(by_seq)
    assert all(result["simulated"] for result in by_seq.values())
    return by_seq


def test_recorded_scores_are_decided_stored_and_told_like_any_others(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, scores: Path
) -> None:
    calibrate(make_bundle(tmp_path / "bundle"))
    by_seq = play(tmp_path, broker, subscriber, scores=str(scores))
    assert [(by_seq[seq]["score"], by_seq[seq]["verdict"]) for seq in by_seq] == [
        (SCORES[n % 4], VERDICTS[n % 4]) for n in range(COUNT)
    ]
    assert [result["part_id"] for result in by_seq.values()] == [f"{n % 4}.png#{n + 1}" for n in range(COUNT)]
    plc = [json.loads(message.payload) for message in subscriber.received("/plc")]
    assert {decision["sim"] for decision in plc} == {1}
    raised = [json.loads(message.payload) for message in subscriber.received("defect/event")]
    assert [event["seq"] for event in raised if event["event"] == "raised"] == list(range(2, COUNT + 1, 2))


def test_without_a_calibration_a_simulation_inspects_nothing_either(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, scores: Path
) -> None:
    make_bundle(tmp_path / "bundle")
    by_seq = play(tmp_path, broker, subscriber, scores=str(scores))
    assert {(result["verdict"], result["reason"]) for result in by_seq.values()} == {("not_inspected", "uncalibrated")}


def test_frames_go_through_the_engine(tmp_path: Path, broker: Broker, subscriber: Subscriber) -> None:
    calibrate(make_bundle(tmp_path / "bundle"))
    truth = write_parts(tmp_path / "parts", 7)
    by_seq = play(tmp_path, broker, subscriber, frames=str(tmp_path / "parts"))
    names = list(truth)
    assert [(result["part_id"], result["verdict"]) for result in by_seq.values()] == [
        (f"{names[n % 7]}#{n + 1}", truth[names[n % 7]]) for n in range(COUNT)
    ]


def test_a_station_with_a_camera_simulates_when_it_is_told_to_also_over_a_kill_and_then_goes_back(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, scores: Path
) -> None:
    """The camera is one that is not there: whatever is inspected is not of it."""
    calibrate(make_bundle(tmp_path / "bundle"))
    camera = {"kind": "v4l2", "device": str(tmp_path / "video0"), "backoff_min_s": 0.1}
    sections = {
        "mqtt": mqtt_config(broker),
        "commands": {"enabled": True},
        "simulate": {"scores": str(scores), "rate_hz": 50},
    }
    config = write_config(tmp_path / "station.yaml", tmp_path / "bundle", camera, sections)
    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        subscriber.wait_for(lambda told: "fault" in told[-1].payload if told else False, "/camera/top")
        give(broker, "mode", json.dumps({"correlation_id": "m-1", "mode": "simulate"}))
        (reply,) = replies(subscriber, "mode", 1)
        assert (reply["done"], reply["mode"]) == (True, "simulate")
        subscriber.wait_for(lambda heard: len(heard) >= 5, "/result")
        daemon.kill()
    with running_daemon(config) as daemon:
        before = len(results(subscriber.received("/result")))
        subscriber.wait_for(lambda heard: len(results(heard)) >= before + 5, "/result")
        give(broker, "mode", json.dumps({"correlation_id": "m-2", "mode": "run"}))
        subscriber.wait_for(lambda told: "fault" in told[-1].payload, "/camera/top")
        assert json.loads(subscriber.received("/camera/top")[-1].payload)["simulated"] is False
        assert daemon.terminate() == 0
    by_seq = results(subscriber.received())
    assert_gapless(by_seq)
    assert [result["part_id"] for result in by_seq.values()] == [f"{n % 4}.png#{n + 1}" for n in range(len(by_seq))]
    assert all(result["simulated"] for result in by_seq.values())
    assert {result["verdict"] for result in by_seq.values()} == {"ok", "defect"}


def test_a_station_that_has_nothing_to_play_refuses_to_simulate(
    tmp_path: Path, broker: Broker, subscriber: Subscriber
) -> None:
    make_bundle(tmp_path / "bundle")
    camera = {"kind": "v4l2", "device": str(tmp_path / "video0")}
    sections = {"mqtt": mqtt_config(broker), "commands": {"enabled": True}}
    config = write_config(tmp_path / "station.yaml", tmp_path / "bundle", camera, sections)
    with running_daemon(config) as daemon:
        daemon.wait_for_log(": online")
        give(broker, "mode", json.dumps({"correlation_id": "m-1", "mode": "simulate"}))
        (reply,) = replies(subscriber, "mode", 1)
        assert (reply["done"], "no section simulate" in reply["reason"]) == (False, True)
        assert daemon.terminate() == 0
